# SPDX-License-Identifier: Apache-2.0
# Sessions of a node that cannot serve: their requests wait at the gate while each session is taken
# over once, then go on together at one node; where that cannot be, they go on as with stock httpd.
use v5.36;
use Test::More;
use Time::HiRes qw(time);
use List::Util qw(max);
use XB::Test;
use XB::MoveRig;
use XB::Rescue;

my @NODES = qw(n1 n2 n3 n4);
my $CONF = "XnatBalanceMemcachedTimeout 250ms\n";
my $DRAIN = 'XnatBalanceMove Drain';        # no overload moves in between
my $t = XB::Test->new;
my $rig = XB::MoveRig->new($t, conf => "$CONF$DRAIN", relay => 1, nodes => \@NODES,
    httpd => { threads => 250 },
    member => 'retry=600', section => 'ProxySet failonstatus=599');
my $h = $rig->httpd;
my $x = XB::Rescue->new($rig);
my $switch = sub ($node, %flag) { $h->manager('app', $rig->node($node)->url, %flag) };
my $slowest = sub (%r) { return max map { $_->{time} } map { @$_ } values %r };
my $statuses = sub (@r) { my %n; $n{ $_->{status} }++ for @r; return \%n };

# Everything in order again, whatever a subtest has done.
my $afresh = sub {
    $x->mend(@NODES);
    $rig->node($_)->clear for @NODES;
};

my %lose = (
    'refused' => sub { $rig->node('n1')->stop },
    'disabled' => sub { $switch->('n1', disabled => 1) },
    'stopped' => sub { $switch->('n1', stopped => 1) },
    'health check' => sub { $switch->('n1', hcfailed => 1) },
    'failonstatus' => sub { $rig->ask($x->at('n1', 1), '/bytes?n=1&code=599') },
);
for my $how (sort keys %lose) {
    subtest $how => sub {
        my @users = $x->at('n1', 4);
        $lose{$how}->();
        my %r = $x->burst(@users);
        my %at = $x->rescued(%r);
        cmp_ok $slowest->(%r), '<', 3, 'the wait is short: ' . $slowest->(%r);
        if ($how ne 'refused') {
            my %flushed = map { $_->{id} => 1 } grep { $_->{own} } $rig->node('n1')->heads;
            is scalar(grep { $flushed{ $x->id($_) } } @users), 4, 'a home that lives is flushed';
        }
        $afresh->();
    };
}
my $status = $rig->status;
is $status->{moves_by_reason}{failed}, 20, 'each is counted as a move of a failed node';
is $status->{sessions}{lost}, 0, 'none as lost';
is $status->{sessions_by_state}{moving}, 0, 'all gates are open';
is scalar(() = $h->error_log =~ /XB0301: session \w+ moved from n1 to n\d \(failed\)/g), 20,
    'each is in the log';

subtest 'survivors share' => sub {
    my @users = $x->at('n1', 18);
    $rig->node('n1')->stop;
    my %r = $x->burst(@users);
    my %at = $x->rescued(%r);
    cmp_ok scalar keys %at, '>=', 2, 'not all go to one';
    cmp_ok max(values %at), '<=', 12, join ' ', 'of 18 sessions:', %at;
    $afresh->();
};

# Of two survivors that have done nothing yet one is to carry three times as much: it got 31 to 40 of 40 (who
# has little to do prefers it beyond its share of 30), and 19 to 21 where both weigh the same. 25 is between.
subtest 'by weight' => sub {
    my $pair = XB::MoveRig->new($t, nodes => [qw(w1 w2 w3)], stores => ['m4'], member => 'retry=600',
                                conf => "$CONF$DRAIN", httpd => { name => 'pair', threads => 250 });
    my $y = XB::Rescue->new($pair);
    $y->{at_once} = 1;
    $pair->httpd->manager('app', $pair->node('w3')->url, set => { w_lf => 3 });
    my @users = $y->at('w1', 40);
    $pair->node('w1')->stop;
    my %at = $y->rescued($y->burst(@users));
    cmp_ok $at{w3}, '>=', 25, join ' ', 'of 40 sessions:', %at;
};

subtest 'not to where it has been' => sub {
    my ($user) = $x->at('n1', 1);
    my @homes = ('n1');
    for my $n (2 .. @NODES) {
        my $home = $homes[-1];
        $switch->($home, disabled => 1);
        my %r = $x->burst($user);
        is_deeply $statuses->(@{$r{$user}}), { 200 => 6 }, "$home is lost: all go on";
        push @homes, $rig->ask($user, '/read')->{node};
        $switch->($home, disabled => 0);
    }
    is join(' ', sort @homes), "@NODES", "one node after the other: @homes";
    $afresh->();
};

subtest 'another key' => sub {
    my ($known, $moved) = $x->at('n1', 2);
    # Another front end has taken them over: one is at n2, that lives; the other was at n3.
    for ([$known, 'n2'], [$moved, 'n3']) {
        my ($user, $node) = @$_;
        $t->get($rig->node($node)->url . '/elsewhere', cookie => 'JSESSIONID=' . $x->id($user));
        my $key = XB::FakeMsm->base($x->id($user)) . ".$node";
        wait_for { grep { $_ eq $key } $rig->store('m1')->keys } 5, "the key of $node";
    }
    $rig->node($_)->stop for qw(n1 n3);
    my %r = $x->burst($known, $moved);
    is_deeply $statuses->(map { @$_ } values %r), { 200 => 12 }, 'all answered';
    is join(' ', $x->nodes_of(@{$r{$known}})), 'n2', 'the one that lives at n2 is found there';
    is_deeply [ $x->takeovers($known) ], [], '... nothing is taken over again';
    like join(' ', $x->nodes_of(@{$r{$moved}})), qr/^n[24]$/, 'the other is taken over from n3';
    my %is = map { $_ => 1 } @{$rig->ask($moved, '/read')->{json}{writes}};
    is scalar(grep { !$is{$_} } @{$x->{written}{$moved}}), 0, '... with all that it had';
    $afresh->();
};

subtest 'in no memcached' => sub {
    my ($user) = $x->at('n1', 1);
    $rig->store('m1')->delete($x->id($user));
    $rig->node('n1')->stop;
    my %r = $x->burst($user);
    is_deeply $statuses->(@{$r{$user}}), { 401 => 6 }, 'nobody knows the session';
    my %at = map { $_ => $rig->node($_)->count('/write') } qw(n2 n3 n4);
    is_deeply [ sort values %at ], [ 0, 0, 6 ], 'its requests went to one node';
    is scalar(() = $h->error_log =~ /XB0304/g), 1, 'it is said once';
    is $rig->status->{sessions}{lost}, 1, '... and counted';
    is_deeply [ $x->takeovers($user) ], [], 'no node was asked to take it over';
    $afresh->();
};

subtest 'memcached late' => sub {
    my @users = $x->at('n1', 3);
    $rig->relay('m1')->trick(qr/^get /, 'slow', ms => 600, oneshot => 1);
    $rig->node('n1')->stop;
    $x->rescued($x->burst(@users));
    $afresh->();
    ok $x->store_well, 'memcached is well';
};

# The first sessions are sent to the other ones, which nobody knows to be lost; not all of them.
subtest 'three nodes at once' => sub {
    my @users = $x->at('n1', 30);
    $rig->node('n1')->stop;
    $rig->node($_)->pause for qw(n2 n3);
    local $x->{at_once} = 2;
    my %r = $x->burst(@users);
    is_deeply $statuses->(map { @$_ } values %r), { 200 => 60 }, 'all are answered';
    is join(' ', $x->nodes_of(map { @$_ } values %r)), 'n4', '... by the node that is left';
    note 'slowest ' . $slowest->(%r);
    $afresh->();
};

subtest 'memcached gone' => sub {
    for my $how ('hung', 'dead') {
        my @users = $x->at('n1', 3);
        my $relay = $rig->relay('m1');
        $how eq 'hung' ? $relay->pause : $relay->stop;
        $rig->node('n1')->stop;
        my %r = $x->burst(@users);
        cmp_ok $slowest->(%r), '<', 4, "$how: nobody waits for long: " . $slowest->(%r);
        is_deeply [ grep { $x->asked($_) != 1 } @users ], [], '... all go on at one node';
        is_deeply [ map { $x->takeovers($_) } @users ], [], '... without a HEAD';
        $how eq 'hung' ? $relay->cont : $relay->start;
        $afresh->();
        ok $x->store_well, 'memcached is asked again';
    }
};

subtest 'nowhere to go' => sub {
    my ($user) = $x->at('n1', 1);
    $rig->only('n1');
    $rig->node('n1')->stop;
    my %r = $x->burst($user);
    is_deeply $statuses->(@{$r{$user}}), { 503 => 6 }, 'as stock httpd says';
    cmp_ok $slowest->(%r), '<', 1, '... at once';
    is $rig->status->{sessions_by_state}{moving}, 0, 'the gate is open';
    $afresh->();
    my $r = $rig->ask($user, '/read');
    is "$r->{status} $r->{node}", '200 n1', 'it goes on when its node is back';
};

subtest 'a child is killed meanwhile' => sub {
    my @users = $x->at('n1', 3);
    $rig->node($_)->misbehave('slow', ms => 1500) for @NODES;
    $rig->node('n1')->stop;
    my @sent = map { my $user = $_; map { $rig->send($user, "/write?k=killed$_") } 1 .. 3 } @users;
    wait_for { $x->takeovers($users[0]) } 5, 'a takeover under way';
    $rig->node($_)->behave for @NODES;
    $h->kill_child($rig->mover_pid);
    my $begin = time;
    my @answers = map { $rig->receive($_) } @sent;
    cmp_ok time - $begin, '<', 3, 'nobody waits for long: ' . (time - $begin);
    is_deeply [ grep { ($_->{status} // 0) !~ /^(?:200|0)$/ } @answers ], [], 'answered, or cut off';
    # They were all cut off if they were the killed child's; its gates open with the lease.
    ok eval { wait_for { !$rig->status->{sessions_by_state}{moving} } 3, 'open gates' },
        'all gates are open within 3 s';
    $rig->client->close;
    my %r = $x->burst(@users);
    for my $user (@users) {
        my @at = $x->nodes_of(@{$r{$user}});
        my $base = XB::FakeMsm->base($x->id($user));
        my $keys = sub { return join ' ', grep { /^$base/ } $rig->store('m1')->keys };
        eval { wait_for { $keys->() eq "$base.$at[0]" } 5, 'its key' };
        is "@at " . $keys->(), "$at[0] $base.$at[0]", "$user: one home, one key";
        my %is = map { $_ => 1 } @{$rig->ask($user, '/read')->{json}{writes}};
        is join(' ', grep { !$is{$_} } @{$x->{written}{$user}}), '', '... nothing lost';
    }
    $afresh->();
};

# A member whose TLS handshake breaks, since its port speaks plainly: httpd gives the request that finds
# out 500, as it does without the module, and the member is in error.
subtest 'TLS' => sub {
    my ($cert, $key) = map { $t->path("tls.$_") } qw(crt key);
    my $said = `openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 \\
        -subj /CN=127.0.0.1 -keyout '$key' -out '$cert' 2>&1`;
    die "openssl: $said" if $?;
    my $tls = XB::MoveRig->new($t, nodes => [qw(s1 s2)], stores => ['m3'], member => 'retry=600',
                               conf => "$CONF$DRAIN", httpd => { name => 'tls', modules => ['ssl'] },
                               section => "SSLProxyEngine on\nSSLProxyCheckPeerName off");
    my $plain = 'ProxyPass / ' . $tls->node('s1')->url . "/\n";
    my $secure = "SSLEngine on\nSSLCertificateFile $cert\nSSLCertificateKeyFile $key\n$plain";
    my $front = $t->httpd(name => 'front', module => 0, modules => ['ssl'], conf => $secure);
    my $url = 'https://127.0.0.1:' . $front->port;
    $tls->httpd->set_conf($tls->conf("$CONF$DRAIN") =~ s{ \S+ route=s1}{ $url route=s1}r);
    $tls->client->close;
    $tls->httpd->restart;
    my @users = map { "tls$_" } 1 .. 4;
    $tls->login($_, 's1') for @users;
    is_deeply [ map { $tls->ask($_, '/write?k=w')->{status} } @users ], [ (200) x 4 ], 'sessions there';
    my $all = sub { return map { my $r = $tls->ask($_, '/read');
                                 "$r->{status} $r->{node} @{$r->{json}{writes} // []}" } @users };
    $front->set_conf($plain);
    $front->restart;
    is_deeply [ $all->() ], [ '500  ', ('200 s2 w') x 3 ],
        'the first to find out gets 500, the others go on elsewhere';
    is_deeply [ $all->() ], [ ('200 s2 w') x 4 ], '... and so does that one';
    is $tls->status->{moves_by_reason}{failed}, 4, '... all by a takeover';
};

subtest 'modes' => sub {
    my %mode = (
        'Move Off' => [ '', 'XnatBalanceMove Off', 0 ],
        'Move DryRun' => [ '', 'XnatBalanceMove DryRun', 0 ],
        'Move On' => [ '', 'XnatBalanceMove On', 1 ],
        'nofailover' => [ 'ProxySet nofailover=On', $DRAIN, 0 ],
        'redirect' => [ '', $DRAIN, 0 ],
    );
    for my $name (sort keys %mode) {
        my ($section, $conf, $heads) = @{$mode{$name}};
        $rig->{section} = $section;
        $h->set_conf($rig->conf("$CONF$conf"));
        $rig->client->close;
        $h->graceful;
        my ($user) = $x->at('n1', 1);
        $switch->('n1', set => { w_rr => 'n3' }) if $name eq 'redirect';
        $switch->('n1', disabled => 1);
        my %r = $x->burst($user);
        my $at = join ' ', $x->asked($user);
        is scalar($x->takeovers($user)), $heads, "$name: HEADs: $heads";
        is_deeply $statuses->(@{$r{$user}}), { 200 => 6 }, '... all answered' if $heads;
        like $at, $name eq 'redirect' ? qr/^n3$/ : $name eq 'nofailover' ? qr/^$/ : qr/^n[234]$/,
            "... its requests went to: $at";
        is_deeply $statuses->(@{$r{$user}}), { 503 => 6 }, '... 503' if $at eq '';
        $afresh->();
    }
};
$t->expect_log(qr/XB0304/, qr/XB0115/);
$t->allow_log(qr/AH01114|AH00940|AH00957|AH00959|AH01170|AH01167|AH01174|AH00898|AH01102|AH10/,
              qr/AH01084|AH01097|AH01906/);
$t->finish;
