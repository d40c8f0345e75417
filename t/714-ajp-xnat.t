# SPDX-License-Identifier: Apache-2.0
# Moves between real Tomcats that httpd reaches by AJP and by https, of sessions of 500 KB in an
# application at /xnat: there and on, while users write, and nothing is lost.
use v5.36;
use Test::More;
use JSON::PP ();
use Time::HiRes qw(time);
use XB::Test;
use XB::Msm;
use XB::Tomcat;

my $t = XB::Test->new;
my $msm = XB::Msm->new($t, 2);
my @tc = XB::Tomcat->fleet($t, 3, memcached => $msm->nodes,
                           connectors => [qw(http ajp https)]);
my @scheme = qw(ajp https ajp);
my @url = map { "$scheme[$_]://127.0.0.1:" . $tc[$_]->port($scheme[$_]) } 0 .. 2;
my $members = join "\n", map {
    my $secret = $scheme[$_] eq 'ajp' ? 'secret=' . $tc[$_]->secret : '';
    "BalancerMember $url[$_] route=" . $tc[$_]->route . " $secret";
} 0 .. 2;
my $h = $t->httpd(modules => ['ssl'], conf => <<"END");
XnatBalanceMemcachedNodes "@{[ $msm->nodes ]}"
XnatBalanceGrace 30ms
XnatBalanceMemcachedTimeout 1s
SSLProxyEngine On
SSLProxyVerify none
SSLProxyCheckPeerName off
SSLProxyCheckPeerCN off
<Proxy "balancer://app">
$members
ProxySet lbmethod=xnat stickysession=JSESSIONID|jsessionid
</Proxy>
<Location "/status">
SetHandler xnat-balance-status
</Location>
ProxyPass "/status" "!"
ProxyPass "/balancer-manager" "!"
ProxyPass "/" "balancer://app/"
END
my $c = $h->client(timeout => 30);
my @users = map { "u$_" } 1 .. 6;
my (%kept, %wrong);

sub status { return JSON::PP::decode_json($h->client->get('/status?format=json')->{body}) }
sub at ($n) { return grep { ($c->session($_) // '') =~ /\.tomcat$n$/ } @users }

sub set ($flag, %on)
{
    $h->manager('app', $url[ $_ - 1 ], $flag => $on{$_}) for sort keys %on;
    return;
}

# Requests of all users, two at a time, each a write, until that holds.
sub click_until ($code)
{
    my ($n, $pause, $end) = (0, 0, time + 40 * ($ENV{XB_TIMES} // 1));
    $c->run(parallel => 2, next => sub {
        return undef if $code->() || time > $end;
        return 0.01 if $pause = !$pause;
        my $user = $users[ $n++ % @users ];
        return { path => "/xnat/app/write?k=k$n", user => $user };
    }, done => sub ($r, $req) {
        my ($k) = $req->{path} =~ /k=(\w+)/;
        my $json = $r->{body} =~ /^\{/ ? JSON::PP::decode_json($r->{body}) : {};
        my $good = $r->{status} == 200 && ($json->{user} // '') eq $req->{user};
        $good ? push @{$kept{ $req->{user} }}, $k : $wrong{ $r->{status} . $r->{body} }++;
    });
    return;
}

# A first handshake takes a cold Tomcat longer than it has to be ready for a session.
wait_for {
    my $r = $c->get('/style.css', cookie => 'JSESSIONID=x.tomcat2');
    $r->{status} == 200;
} 10, 'an answer by https';
set(disabled => 2 => 1, 3 => 1);
for my $user (@users) {
    my $r = $c->post('/xnat/login', "user=$user&password=pw-$user", user => $user, headers => [
        'Content-Type' => 'application/x-www-form-urlencoded' ]);
    like(join(' ', XB::Client->header($r, 'Set-Cookie')), qr/\.tomcat1; Path=\/xnat;/,
         "$user is at tomcat1, at /xnat");
    $c->get('/xnat/app/size?kb=500', user => $user);
}

# A move does not depend on whether MSM has stored it by now: the flush sees to that.
for my $move ([ 1, 2, 'ajp to https' ], [ 2, 3, 'https to ajp' ]) {
    my ($from, $to, $what) = @$move;
    subtest $what => sub {
        set(drain => $from => 1);
        set(disabled => $to => 0);
        click_until(sub { at($to) == @users });
        is(scalar at($to), @users, 'all have moved, and their clients know it');
        is_deeply(\%wrong, {}, 'each answer is 200 and of the right user');
        my %there = map { $_ => 1 } $tc[ $to - 1 ]->session_ids('/xnat');
        my @gone = grep { !$there{ $c->session($_) } } @users;
        is_deeply(\@gone, [], 'their sessions are there');
        my @small = grep { length($msm->value($c->session($_)) // '') < 500_000 } @users;
        is_deeply(\@small, [], 'and in memcached, 500 KB each');
        my @lost;
        for my $user (@users) {
            my $r = $c->get('/xnat/app/read', user => $user);
            my %has = map { $_ => 1 } @{JSON::PP::decode_json($r->{body})->{keys}};
            push @lost, map { "$user $_" } grep { !$has{$_} } @{$kept{$user}};
        }
        is_deeply(\@lost, [], 'no write is lost');
    };
}
my $status = status();
is($status->{moves_by_reason}{drain}, 2 * @users, 'each has moved twice');
is($status->{gates}{timeouts}, 0, 'nobody waited in vain');
note(scalar(map { @$_ } values %kept) . ' writes');
my $refused = $status->{refusals_by_reason};
note(join ' ', map { "$_: $refused->{$_}" } grep { $refused->{$_} } sort keys %$refused);
# mod_proxy's words for a HEAD that its deadline ended, in a handshake with a busy Tomcat.
$t->allow_log(qr/\[ssl:warn\]|AH01084|AH00898|AH01097|AH01102/);
$t->finish;
