# SPDX-License-Identifier: Apache-2.0
# The same on prefork and worker: sticky, elected by need, failed over as one, counted, and
# nothing left over after a graceful restart and a killed child.
use v5.36;
use Test::More;
use XB::Test;
use JSON::PP;

my $t = XB::Test->new;
my @routes = map { "n$_" } 1 .. 3;
my %be = map { $_ => $t->backend($_) } @routes;
# A kept connection would be found dead only by the request that uses it: 502, as in stock.
my $members = join "\n",
    map { 'BalancerMember ' . $be{$_}->url . " route=$_ disablereuse=On" } @routes;
$t->allow_log(qr/AH00957/, qr/AH00959/, qr/AH00940/, qr/AH01114/, qr/AH01102/,
              qr/AH00898/);

sub node ($r) { return XB::Client->header($r, 'X-Node') // "status $r->{status}" }

for my $mpm (qw(prefork worker)) {
    my $h = $t->httpd(name => $mpm, mpm => $mpm, conf => <<"END");
<Proxy "balancer://app">
$members
ProxySet lbmethod=xnat stickysession=JSESSIONID|jsessionid
</Proxy>
<Location "/status">
SetHandler xnat-balance-status
</Location>
ProxyPass "/status" "!"
ProxyPass "/" "balancer://app/"
END
    my $c = $h->client;
    # Asked again if the child that was to answer is killed.
    my $figures = sub {
        my $r;
        wait_for { $r = $h->client->get('/status?format=json'); $r->{status} } 5, 'an answer';
        return decode_json($r->{body});
    };
    my $sum = sub ($key) {
        my $n = 0;
        $n += $_->{$key} for @{$figures->()->{balancers}[0]{members}};
        return $n;
    };
    my $in_flight = sub { $figures->()->{sessions_by_state}{'in-flight'} };
    my $rest = sub {
        return eval { wait_for { !$in_flight->() && !$sum->('busy') } 5, 'rest' };
    };
    my @users = map { "$mpm$_" } 1 .. 12;

    subtest $mpm => sub {
        my @r = $c->many([ map { { path => '/login', user => $_ } } @users ], parallel => 4);
        is(scalar(grep { $_->{status} == 200 } @r), 12, 'logins');
        @r = $c->many([ map { { path => '/bytes?n=1000', user => $_ } } (@users) x 5 ],
                      parallel => 8);
        my @stray = grep { $c->session($users[$_ % 12]) !~ /\.${\ node($r[$_]) }$/ } 0 .. $#r;
        is("@stray", '', 'all requests are sticky');
        ok($rest->(), 'nothing in flight after them');
        is($sum->('requests'), 72, 'requests');
        is($sum->('elected'), 12, 'elections');
        cmp_ok($sum->('bytes_out'), '>=', 60_000, 'bytes');
        my %home = map { $_ => $c->session($_) =~ s/.*\.//r } @users;
        cmp_ok(scalar(keys %{{ reverse %home }}), '==', 3, 'over all nodes');

        $c->close;                      # or children would wait for its idle connections
        $h->graceful;
        is($figures->()->{sessions}{remembered}, 12, 'a graceful restart keeps the sessions');
        my ($dead) = grep { $home{ $users[0] } eq $_ } @routes;
        $be{$dead}->stop;
        for my $user (grep { $home{$_} eq $dead } @users) {
            my %n;
            my @six = map { { path => '/echo', user => $user } } 1 .. 6;
            $n{ node($_) }++ for $c->many(\@six);
            is(scalar keys %n, 1, "$user fails over as one") or diag(explain \%n);
        }
        $be{$dead}->start;

        my $sock = $c->socket;
        my $id = $c->session($users[0]);
        print $sock "GET /hang HTTP/1.1\r\nHost: x\r\nCookie: JSESSIONID=$id\r\n\r\n";
        $sock->flush;
        wait_for { $in_flight->() } 5, 'a request in flight';
        my @old = $h->children;
        $t->allow_log(map { qr/AH00052: child pid $_ exit signal Killed/ } @old);
        kill KILL => @old;
        wait_for {
            my %now = map { $_ => 1 } $h->children;
            !grep { $now{$_} } @old;
        } 10, 'their end';
        ok($rest->(), 'killed children leave nothing in flight');
        is($c->get('/echo', user => $users[0])->{status}, 200, 'its session goes on');
        $_->hang_up for values %be;
        $h->stop;
    };
}

$t->finish;
