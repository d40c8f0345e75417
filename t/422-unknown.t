# SPDX-License-Identifier: Apache-2.0
# Sessions that httpd does not know, because it was restarted or never saw them: where they live is
# looked up in memcached, at a bounded rate; what cannot be looked up follows its cookie.
use v5.36;
use Test::More;
use Time::HiRes qw(time);
use List::Util qw(max);
use XB::FakeJmx;
use XB::Test;
use XB::MoveRig;
use XB::Rescue;

my $CONF = "XnatBalanceMove Drain\nXnatBalanceSessions 1024\n";
my $t = XB::Test->new;
my $rig = XB::MoveRig->new($t, relay => 1, conf => "${CONF}XnatBalanceMemcachedTimeout 500ms",
    httpd => { threads => 60 });
my ($h, $m1) = ($rig->httpd, $rig->store('m1'));
my $x = XB::Rescue->new($rig);
my $base = sub ($id) { return XB::FakeMsm->base($id) };
my $mark = sub ($id) { return 'xnat-balance:moved:' . $base->($id) };

my $restart = sub {
    $rig->client->close;
    $h->stop;
    $h->start;
};

# Sessions that have left n1: their users' old ids, and where they are.
my $moved = sub ($n) {
    my @users = $x->at('n1', $n);
    my $before = $rig->moved;
    $rig->drain('n1');
    wait_for { $rig->moved >= $before + $n } 15, "$n moves";
    $rig->undrain('n1');
    my %at = map { $_ => $rig->ask($_, '/read')->{node} } @users;
    return %at;
};

my %at = $moved->(14);
my @users = sort keys %at;

# Six requests at once with the old id.
my $stragglers = sub ($user) {
    my @r = $rig->client->many([ map { { path => "/read?n=$_",
        cookie => 'JSESSIONID=' . $x->id($user) } } 1 .. 6 ]);
    my %at = map { ($_->{body} =~ /"node":"(\w+)"/ ? $1 : $_->{status}) => 1 } @r;
    my $slowest = max map { $_->{time} } @r;
    return wantarray ? (join(' ', sort keys %at), $slowest) : join ' ', sort keys %at;
};
my $looked_up = sub { return @{$rig->status->{sessions}}{qw(looked_up not_looked_up)} };

subtest 'by the marker' => sub {
    my %id;
    my $take = sub ($user) { $id{$user} = $x->id($user); return $user };
    my ($only_marker, $only_key, $old, $zombie, $torn, $reborn) = map { $take->($_) } splice @users, 0, 6;
    my $key_at = sub ($user) { return $base->($id{$user}) . ".$at{$user}" };
    $m1->delete($key_at->($only_marker));
    $rig->store($_)->delete($mark->($id{$only_key})) for qw(m1 m2);
    # One memcached was away when the session moved on.
    $m1->set($mark->($id{$old}), 'n1');
    # Memcached has dropped the key; what the former home has is written there again.
    $m1->delete($key_at->($zombie));
    $m1->set($id{$zombie}, XB::FakeMsm->value($id{$zombie}, writes => ['old']));
    # Moves that were cut short: nobody has been told of the new home. One old home has lost its copy.
    for my $user ($torn, $reborn) {
        $rig->store($_)->set($mark->($id{$user}), 'n1') for qw(m1 m2);
    }
    $rig->node('n1')->_drop($id{$reborn});
    $restart->();
    is $stragglers->($only_marker), $at{$only_marker}, 'without key: the marker says where it is';
    is $stragglers->($only_key), $at{$only_key}, 'without marker: the key does';
    is $stragglers->($old), $at{$old}, 'markers that differ: the key does';
    is $stragglers->($zombie), $at{$zombie}, 'a key that contradicts: the marked node has it still';
    is $stragglers->($reborn), $at{$reborn}, '... or has not: the key is right';
    my @r = $h->logged(5, sub { $_->{uri} =~ /^.read.n=/ });
    is_deeply [ sort keys %{{ map { $_->{decision} => 1 } @r }} ], [ 'moved', 'straggler' ],
        'their requests are called what they are';
    is $stragglers->($torn), 'n1', 'cut short: it stays where it is';
    is_deeply [ $looked_up->() ], [ 6, 0 ], 'one look-up each';
    is $stragglers->($zombie), $at{$zombie}, 'then the table knows';
    is_deeply [ $looked_up->() ], [ 6, 0 ], '... without another';
};

subtest 'one memcached away' => sub {
    # The other one is asked for the marker; the keys would be on the one that is away.
    my @some = splice @users, 0, 2;
    $restart->();
    $rig->relay('m1')->stop;
    is $stragglers->($some[0]), $at{$some[0]}, 'the marker on the other one is found';
    is $stragglers->($some[1]), $at{$some[1]}, '... also when the one that is away is left alone';
    $rig->relay('m1')->start;
};

subtest 'no look-up' => sub {
    for my $how ('hung', 'dead') {
        my @some = splice @users, 0, 3;
        $restart->();
        for my $relay (map { $rig->relay($_) } qw(m1 m2)) {
            $how eq 'hung' ? $relay->pause : $relay->stop;
        }
        my @got = map { [ $stragglers->($_) ] } @some;
        is_deeply [ map { $_->[0] } @got ], [ ('n1') x 3 ], "$how: the cookie is followed";
        cmp_ok $got[0][1], '<', 1.8, '... the first time after the time-outs';
        cmp_ok max($got[1][1], $got[2][1]), '<', 0.3, '... then without delay';
        is_deeply [ $looked_up->() ], [ 0, 3 ], '... and it is counted';
        for my $relay (map { $rig->relay($_) } qw(m1 m2)) {
            $how eq 'hung' ? $relay->cont : $relay->start;
        }
        $x->store_well if $how eq 'hung';
    }
};

subtest 'nobody has it' => sub {
    $restart->();
    my $id = 'A' x 32 . '-m1.n2';
    my $r = $rig->client->get('/read', cookie => "JSESSIONID=$id");
    is $r->{status}, 401, 'its cookie is followed';
    is_deeply [ $looked_up->() ], [ 1, 0 ], 'after a look-up';
    $rig->client->get('/read', cookie => "JSESSIONID=$id") for 1 .. 3;
    is_deeply [ $looked_up->() ], [ 1, 0 ], '... one';
};

# Nothing says yet where the application is, so the administrator has to.
subtest 'its home is gone as well' => sub {
    my @some = $x->at('n1', 3);
    $h->set_conf($rig->conf("${CONF}XnatBalanceMemcachedTimeout 500ms\nXnatBalanceProbe /_probe"));
    $restart->();
    $rig->node('n1')->stop;
    $x->rescued($x->burst(@some));
    $x->mend('n1');
};

# Ids that clients invent, at a member that answers fast.
subtest 'a flood of invented ids' => sub {
    my $fast = $t->httpd(name => 'fast', module => 0, conf => "LogLevel emerg\n");
    my $far = XB::MoveRig->new($t, nodes => [qw(f1 f2)], stores => ['m3'],
        conf => "${CONF}CustomLog /dev/null common", httpd => { name => 'far', threads => 60 },
        section => 'BalancerMember ' . $fast->url . ' route=f9');
    $far->login("real$_", 'f1') for 1 .. 20;
    my $c = $far->client;
    my $latency = sub ($n) {
        my @r = map { $far->ask('real' . (1 + $_ % 20), '/read') } 1 .. $n;
        is scalar(grep { "$_->{status} $_->{node}" ne '200 f1' } @r), 0, 'real users are well';
        return (sort { $a <=> $b } map { $_->{time} } @r)[0.9 * $n];
    };
    my $calm = $latency->(100);
    my %before = $far->store('m3')->stats;
    my $begin = time;
    my $flood = $t->fork_child(name => 'flood', code => sub { flood($far->httpd->port, 3) });
    my $busy = $latency->(100);
    wait_for { !$flood->alive } 20, 'the flood to end';
    my $seconds = time - $begin;
    my %after = $far->store('m3')->stats;
    my $s = $far->status->{sessions};
    my ($sent) = $t->slurp($flood->log) =~ /^(\d+)/;
    my $gets = $after{cmd_get} - $before{cmd_get};
    my $most = 1000 + 500 * $seconds;
    note(sprintf '%d invented ids in %.1f s: %d looked up, %d not, %d gets; 90 %% of real requests '
        . 'in %.1f ms, before in %.1f ms', $sent, $seconds, @$s{qw(looked_up not_looked_up)}, $gets,
        1000 * $busy, 1000 * $calm);
    ok $sent <= 1.2 * $most || $s->{not_looked_up}, 'not all are looked up, if there are many';
    cmp_ok $s->{looked_up}, '<=', $most, 'look-ups are bounded';
    cmp_ok $gets, '<=', 5 * $most, '... and what memcached is asked';
    cmp_ok $s->{not_looked_up} + $s->{looked_up}, '>=', $sent - 1, 'the others are counted';
    cmp_ok $s->{remembered}, '<=', 1.2 * $s->{capacity}, 'the table is full, and no larger';
    is $s->{forgotten}, 0, 'no real session was displaced';
    cmp_ok $busy, '<', 0.5, 'real users are served meanwhile';
};

subtest 'forgotten for want of room' => sub {
    my $small = XB::MoveRig->new($t, nodes => [qw(s1 s2)], stores => ['m4'],
        conf => "$CONF XnatBalanceSessions 64\n", httpd => { name => 'small' });
    $t->expect_log(qr/XB0203/);
    my $sessions = sub { return $small->status->{sessions} };
    my @old = map { "old$_" } 1 .. 20;
    $small->login($_) for @old;
    my %home = map { $_ => XB::FakeMsm->route_of($small->client->session($_)) } @old;
    is $small->status->{balancers}[0]{members}[0]{sessions_unknown_s}, 0, 'all are known';
    my $n = 0;
    $small->login('new' . ++$n) while $n < 200 && $sessions->()->{forgotten} < 20;
    cmp_ok $sessions->()->{forgotten}, '>=', 20, "living sessions are forgotten for $n others";
    cmp_ok $small->status->{balancers}[0]{members}[0]{sessions_unknown_s}, '>', 0,
        '... so that the nodes have some that are not known';
    is $sessions->()->{looked_up}, 0, 'none was looked up so far';
    my $come = sub (@users) {
        my @wrong = grep { my $r = $small->ask($_, '/read');
                           "$r->{status} $r->{node}" ne "200 $home{$_}" } @users;
        is_deeply \@wrong, [], 'some that come go on at home';
        return $sessions->();
    };
    my $full = $come->(splice @old, 0, 8);
    cmp_ok $full->{not_looked_up}, '>', 0, '... by their cookies: what is full has no gates';
    is $full->{looked_up}, 0, '... without a look-up';
    $small->client->get('/logout', user => "new$_") for 1 .. $n;
    my $before = $sessions->()->{not_looked_up};
    my $room = $come->(@old);
    cmp_ok $room->{looked_up}, '>', 2, 'when there is room again they are looked up';
    is $room->{not_looked_up}, $before, '... all of them';
};

# Only a session whose copies at former homes are gone can be displaced; the client has its old id.
subtest 'one that has moved is forgotten for want of room' => sub {
    $t->write('login', "$XB::FakeJmx::LOGIN\n");
    chmod 0600, $t->path('login');
    my $small = XB::MoveRig->new($t, nodes => [qw(e1 e2)], stores => ['m5'],
        httpd => { name => 'evicts' }, conf => <<~END);
        $CONF XnatBalanceSessions 64
        XnatBalanceRelease /manager/jmxproxy
        XnatBalanceReleaseAuth @{[ $t->path('login') ]}
        END
    my $id = $small->login('moved', 'e1');
    $small->ask('moved', '/write?k=kept');
    $small->drain('e1');
    wait_for { $small->status->{copies}{released} } 10, 'a move, and a release';
    $small->undrain('e1');
    my @new = map { "new$_" } 1 .. 200;
    $small->login($_) for @new;
    $small->client->get('/logout', user => $_) for @new;
    my $before = $small->status->{sessions}{looked_up};
    $small->client->jar('moved')->{JSESSIONID} = $id;
    my $r = $small->ask('moved', '/read');
    is "$r->{status} $r->{node} @{$r->{json}{writes} // []}", '200 e2 kept',
        'who comes with the old id is led to the new home';
    is $small->status->{sessions}{looked_up}, $before + 1, '... after a look-up: it was forgotten';
};

# Answers are read, not understood; how many came is said at the end.
sub flood ($port, $seconds)
{
    my ($end, $answers, $serial, %open) = (time + $seconds, 0, 0);
    while (time < $end || grep { $_->{open} } values %open) {
        if (time < $end && keys %open < 8) {
            my $sock = IO::Socket::INET->new("127.0.0.1:$port") or die "flood: $!";
            $open{$sock} = { sock => $sock, open => 0 };
        }
        for my $o (values %open) {
            if (!$o->{open} && time < $end) {
                my $ids = join '', map {
                    sprintf "GET /%d HTTP/1.1\r\nHost: x\r\nCookie: JSESSIONID=%032X-m3.f9\r\n\r\n",
                        $_, ++$serial } 1 .. 40;
                $o->{open} = 40;
                print { $o->{sock} } $ids;
                $o->{sock}->flush;
            }
        }
        my $r = '';
        vec($r, fileno $_->{sock}, 1) = 1 for values %open;
        select $r, undef, undef, 0.5;
        for my $o (grep { vec $r, fileno $_->{sock}, 1 } values %open) {
            if (!sysread $o->{sock}, $o->{in}, 65536, length($o->{in} // '')) {
                delete $open{ $o->{sock} };
                next;
            }
            my $n = () = $o->{in} =~ /^HTTP\/1\.1 /mg;
            $o->{in} = substr $o->{in}, -9 if length $o->{in} > 9;
            $o->{in} =~ s/^HTTP\/1\.1 //m;
            $answers += $n;
            $o->{open} -= $n;
        }
    }
    print "$answers\n";
    return;
}
$t->allow_log(qr/XB0321|AH01114|AH00957|AH00959|AH00940|AH01102|AH00898/);
$t->finish;
