# SPDX-License-Identifier: Apache-2.0
# MSM's non-sticky mode: a move changes the table and nothing else, ids stay as they are, and a
# node that fails or restarts, or a table that forgets, needs no care.
use v5.36;
use IO::Select ();
use Test::More;
use XB::Test;
use XB::MoveRig;
use XB::FakeNonSticky;

my $conf = <<'END';
XnatBalanceStore msm-nonsticky
XnatBalanceGrace 30ms
XnatBalanceBusyHalfLife 100ms
XnatBalanceMoveRate 100/s 100
XnatBalanceMoveRest 0s
XnatBalanceMemcachedTimeout 1s
Header always set X-Xnat "%{XNAT_BALANCE_DECISION}e %{XNAT_BALANCE_REASON}e %{XNAT_BALANCE_FROM}e %{XNAT_BALANCE_TO}e"
END
my $t = XB::Test->new;
my $rig = XB::MoveRig->new($t, nodes => [qw(n1 n2)], fake => 'XB::FakeNonSticky',
                           conf => $conf);
my $m1 = $rig->store('m1');
my @nowhere = map { "127.0.0.1:" . $t->port } 1, 2;
my $deaf = XB::MoveRig->new($t, nodes => [qw(n1 n2)], conf => $conf, share => $rig,
                            at => { m1 => $nowhere[0], m2 => $nowhere[1] },
                            httpd => { name => 'deaf' }, member => 'retry=1');

# Status, node and what was decided for one request.
sub fate ($r, $user, $path = '/read')
{
    my $answer = $r->ask($user, $path);
    my ($said) = map { s/ \(null\)//gr } XB::Client->header($answer, 'X-Xnat') // '';
    return "$answer->{status} $answer->{node} $said";
}

sub moves_within ($seconds, $before)
{
    return eval { wait_for { $rig->moved > $before } $seconds, 'a move' } ? 1 : 0;
}

sub settled () { wait_for { !$rig->status->{sessions_by_state}{moving} } 5, 'open gates' }

# The session is at home there, by a drain of the other.
sub bring ($user, $to)
{
    my $from = $to eq 'n1' ? 'n2' : 'n1';
    $rig->undrain($to);
    $rig->drain($from);
    wait_for { $rig->ask($user, '/read')->{node} eq $to } 10, "$user at $to";
    $rig->undrain($from);
    return;
}

subtest 'there and back' => sub {
    $rig->only('n1');
    my $id = $rig->login('u', 'n1');
    $rig->open;
    is fate($rig, 'u', '/write?k=a'), '200 n1 stayed home', 'at home at n1';
    $rig->drain('n1');
    ok moves_within(5, 0), 'a drain moves it';
    is fate($rig, 'u', '/write?k=b'), '200 n2 moved session-moved n1 n2',
        'its first request there says so';
    is fate($rig, 'u', '/write?k=c'), '200 n2 stayed home-by-table n1 n2', '... the next stays';
    is $rig->client->session('u'), $id, 'its cookie is the one of its login';
    $rig->undrain('n1');
    $rig->drain('n2');
    ok moves_within(5, 1), 'a drain of n2 takes it back, where it has been';
    is fate($rig, 'u'), '200 n1 moved session-moved', '... its first request says so';
    is fate($rig, 'u', '/write?k=d'), '200 n1 stayed home', '... then it is as ever';
    $rig->undrain('n2');
    is_deeply $rig->ask('u', '/read')->{json}{writes}, [qw(a b c d)], 'with all its writes';
    is_deeply [ map { $_->heads } $rig->nodes ], [], 'no node was asked by HEAD';
    is_deeply [ grep { /^xnat-balance/ } map { $rig->store($_)->keys } qw(m1 m2) ], [],
        'nothing was written to memcached';
};

subtest 'at a quiet moment' => sub {
    bring('u', 'n1');
    my ($before, $locked) = ($rig->moved, $rig->refused('locked'));
    my $writes = $rig->node('n1')->count('/write');
    my $socket = $rig->send('u', '/write?k=long&ms=800');
    wait_for { $rig->node('n1')->count('/write') > $writes } 5, 'a request in flight';
    $rig->drain('n1');
    my ($early, $looks) = (0, 0);
    wait_for {
        my $moved = $rig->moved > $before;      # looked up before it is seen that it runs still
        return 1 if IO::Select->new($socket)->can_read(0);
        $looks++;
        $early ||= $moved;
        0;
    } 5, 'its end';
    cmp_ok $looks, '>', 2, 'a request of its own runs while its node drains';
    ok !$early, '... and the session does not move';
    is $rig->refused('locked'), $locked, '... nor is it tried';
    is $rig->receive($socket)->{node}, 'n1', 'the request ends where it is';
    ok moves_within(5, $before), 'then the session moves';
    is $rig->ask('u', '/read')->{json}{writes}[-1], 'long', '... with what it has written';
    $rig->undrain('n1');
};

subtest 'overload, with two members' => sub {
    my @load = $rig->overload('n1', 4, 1500);
    my $before = $rig->moved;
    bring('u', 'n1') if $rig->ask('u', '/read')->{node} ne 'n1';
    ok wait_for { $rig->ask('u', '/read')->{node} eq 'n2' } 10, 'moves a session';
    $rig->receive($_) for @load;
    cmp_ok $rig->status->{moves_by_reason}{overload}, '>', 0, 'for that reason';
    is $rig->refused('last-unvisited-node'), 0, 'no node is kept free';
};

subtest 'refusals' => sub {
    settled();
    my $old = time * 1000 - 3_600_000;
    my %stale = (created => $old, accessed => $old, this_accessed => $old);
    my %spoil = (
        'pinned' => sub ($id) {
            $rig->store('m2')->set('xnat-balance:pin:' . XB::FakeMsm->base($id), 'import') },
        'locked' => sub ($id) { $m1->set("lock:$id", 'locked') },
        'no-validity' => sub ($id) { $m1->delete("validity:$id") },
        'not-in-store' => sub ($id) {   # expired: both by its validity and by its own times
            $m1->set($id, XB::FakeMsm->value($id, %stale)) && $m1->delete("validity:$id") },
        'session-expiring' => sub ($id) {
            $m1->set("validity:$id", XB::FakeNonSticky->validity(%stale)) },
        'session-invalid' => sub ($id) {
            $m1->set("validity:$id", XB::FakeNonSticky->validity(this_accessed => 0)) },
        'store-value-unknown' => sub ($id) { $m1->set("validity:$id", 'x' x 21) },
        'store-value-of-another-session' => sub ($id) {
            $m1->set($id, XB::FakeMsm->value($id, id => 'F' x 32 . '-m1.n1')) },
    );
    $rig->only('n1');
    my %id = map { $_ => $rig->login($_, 'n1') } 'stale', sort keys %spoil;
    $rig->idle(0.3);                # the nodes store after they have answered
    $spoil{$_}->($id{$_}) or die "$_: could not be prepared" for sort keys %spoil;
    # Its own times are those of its last write; it has been read since.
    $m1->set($id{stale}, XB::FakeMsm->value($id{stale}, %stale));
    my %before = $rig->refusals;
    $rig->drain('n1');
    $rig->open;
    my %got;
    eval {
        wait_for {
            %got = $rig->refusals;
            !grep { ($got{$_} // 0) <= ($before{$_} // 0) } keys %spoil;
        } 10, 'all refusals';
    } or diag explain \%got;
    is_deeply [ grep { ($got{$_} // 0) <= ($before{$_} // 0) } sort keys %spoil ], [],
        'each spoilt session is refused, with its word';
    is $rig->ask('stale', '/read')->{node}, 'n2', 'a session that is only read moves';
    is $rig->ask('no-validity', '/read')->{node}, 'n1', 'a refused one stays';
    $m1->delete("lock:$id{locked}");
    ok wait_for { $rig->ask('locked', '/read')->{node} eq 'n2' } 8, 'an unlocked one moves soon';
    $rig->undrain('n1');
};

subtest 'a table that forgets' => sub {
    bring('u', 'n2');
    my $id = $rig->client->session('u');
    $rig->httpd->stop;
    $rig->client->close;
    $rig->httpd->start;
    is fate($rig, 'u', '/write?k=e'), '200 n1 stayed unknown-session',
        'after a full restart a session goes where its cookie says';
    is_deeply $rig->ask('u', '/read')->{json}{writes}, [qw(a b c d long e)], '... and is whole';
    $rig->drain('n1');
    ok moves_within(5, 0), '... moves away as any other';
    is fate($rig, 'u'), '200 n2 moved session-moved n1 n2', '... to the other';
    $rig->undrain('n1');
    is $rig->status->{sessions}{$_}, 0, "$_: none" for qw(looked_up not_looked_up);
    is $rig->client->session('u'), $id, 'under its old cookie';
};

subtest 'a draining node with nowhere to go' => sub {
    $rig->drain($_) for qw(n1 n2);
    my $home = $rig->ask('u', '/read')->{node};
    my $n2 = wait_for {
        my ($b) = grep { $_->{name} =~ /app/ } @{ $rig->status->{balancers} };
        my ($m) = grep { $_->{route} eq $home } @{ $b->{members} };
        $m->{safe_to_stop} ? $m : undef;
    } 15, 'safe to stop';
    cmp_ok $n2->{sessions_verified}, '>', 0, 'its sessions are verified';
    is_deeply [ map { $_->heads } $rig->nodes ], [], '... without a HEAD';
    $rig->undrain($_) for qw(n1 n2);
};

subtest 'nodes that fail, without memcached' => sub {
    my $h = $deaf->httpd;
    $deaf->only('n2');
    $deaf->login('v', 'n2');
    $deaf->open;
    $rig->node('n2')->stop;
    is fate($deaf, 'v', '/write?k=a'), '200 n1 failover home-unusable n2 n1',
        'a session of a dead node goes on at another at once';
    is fate($deaf, 'v', '/write?k=b'), '200 n1 stayed home-by-table n2 n1', '... and stays';
    $rig->node('n2')->start;
    $deaf->idle(1.2);                   # httpd tries it again after a second
    is fate($deaf, 'v', '/write?k=c'), '200 n1 stayed home-by-table n2 n1',
        '... when the node is back';
    $deaf->only('n2');
    is fate($deaf, 'v', '/write?k=d'), '200 n2 failover home-unusable n1 n2',
        'the restarted node serves it without more ado';
    is_deeply $deaf->ask('v', '/read')->{json}{writes}, [qw(a b c d)], 'nothing is lost';
    is_deeply [ map { $_->heads } $rig->nodes ], [], 'no node was asked by HEAD';
    unlike $h->error_log, qr/XB0320/, 'nor watched';
};

subtest 'what configtest says' => sub {
    my @members = map { "BalancerMember http://127.0.0.1:$_ route=n$_" } 1, 2;
    my $test = sub ($line) {
        my ($rc, $said) = $rig->httpd->configtest(join "\n",
            '<Proxy "balancer://app">', @members,
            'ProxySet lbmethod=xnat stickysession=JSESSIONID|jsessionid', $line, '</Proxy>',
            'ProxyPass "/" "balancer://app/"');
        return join ' ', $rc, sort $said =~ /\b(XB\d+): /g;
    };
    my $on = 'XnatBalanceStore msm-nonsticky';
    my $nodes = 'XnatBalanceMemcachedNodes n1:127.0.0.1:11211';
    is $test->($on), '0 XB0121', 'it does nothing without memcached';
    is $test->("$nodes\n$on"), '0 XB0123', 'a reminder of lockingMode; two members will do';
    is $test->("$nodes\n$on\nXnatBalanceProbe /x"), '0 XB0122 XB0123', 'no HEADs, no path of them';
    is $test->("$nodes\nXnatBalanceStore msm-sticky"), '0 XB0114', 'the default';
};

$t->allow_log(qr/AH01102|AH01114|AH00957|AH00959/);     # mod_proxy's words for the node that was stopped
$_->hang_up for $rig->nodes;
$t->finish;
