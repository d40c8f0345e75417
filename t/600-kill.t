# SPDX-License-Identifier: Apache-2.0
# Children that are killed: the one that moves sessions, at each step of a move, and those that
# serve requests. Another goes on within two seconds, no gate stays shut, nothing stays busy,
# each session is where memcached says, and the shared table has no contradictions.
use v5.36;
use Test::More;
use Time::HiRes qw(time);
use XB::Test;
use XB::MoveRig;

my $MODULE = 'build/checked/mod_xnat_balance.so';
{
    delete local @ENV{qw(MAKEFLAGS MAKELEVEL MFLAGS)};
    system('make', '-s', $MODULE) == 0 or BAIL_OUT('make');
}
my $t = XB::Test->new;
my $rig = XB::MoveRig->new($t, nodes => [qw(n1 n2)], relay => 1,
                           httpd => { children => 3, threads => 24, module => $MODULE },
                           conf => "XnatBalanceMemcachedTimeout 5s");
my ($h, $c) = ($rig->httpd, $rig->client);
my ($n1, $n2) = $rig->nodes;
my $m1 = $rig->relay('m1');
$t->expect_log(qr/XB0114/);             # two members
$t->allow_log(qr/AH01102|AH00898/);     # HEADs that were cut off
$t->allow_log(qr/AH10392/);             # children are killed successively

my $said = sub ($like) { return scalar grep { /$like/ } $m1->commands };
my $table = sub { return $rig->status->{server}{version} };
my $marked = sub ($base, $node) { return qr/^set xnat-balance:moved:$base .*$node$/ };
my $looked_after = sub ($base, $head) {
    return scalar grep { $_->{line} =~ /^get $base\.n1$/ && $_->{time} > $head->{time} } $m1->records;
};
my $asked = sub ($node, $id, $flush) {
    return scalar grep { $_->{id} eq $id && !$_->{flush} == !$flush } $node->heads;
};

# Where a move can be when its mover dies: how it is held there, how that is seen, whose the
# session is then. stays: nothing but its home takes sessions, so that it is only verified.
my %step = (
    'readiness of the target' => {
        hold => sub ($id, $base) { $n2->misbehave('starting') },
        there => sub ($id, $base) { grep { $_->{method} eq 'HEAD' } $n2->requests },
        home => 'n1' },
    marker => {
        hold => sub ($id, $base) { $m1->trick(qr/^get xnat-balance:pin:$base/, 'hang') },
        there => sub ($id, $base) { $said->(qr/^get xnat-balance:pin:$base/) },
        home => 'n1' },
    flush => {
        hold => sub ($id, $base) { $n1->misbehave('hang', for => $id) },
        there => sub ($id, $base) { $asked->($n1, $id, 1) },
        home => 'n1' },
    'store, after the flush' => {
        hold => sub ($id, $base) { $n1->misbehave('stores-late', for => $id, ms => 2000) },
        there => sub ($id, $base) {
            my ($head) = grep { $_->{id} eq $id } $n1->heads;
            return $head && $looked_after->($base, $head) >= 3;
        },
        home => 'n1' },
    'moved marker' => {
        hold => sub ($id, $base) { $m1->trick($marked->($base, 'n1'), 'hang') },
        there => sub ($id, $base) { $said->($marked->($base, 'n1')) },
        home => 'n1' },
    probe => {
        hold => sub ($id, $base) { $n2->misbehave('hang', for => $id) },
        there => sub ($id, $base) { $asked->($n2, $id, 0) },
        home => 'n1' },
    'probe, after the takeover' => {
        hold => sub ($id, $base) { $n2->misbehave('mute', for => $id) },
        there => sub ($id, $base) { $rig->store('m1')->get("$base.n2") },
        home => 'n2' },
    proof => {
        hold => sub ($id, $base) { $m1->trick(qr/^get $base\.n2$/, 'hang') },
        there => sub ($id, $base) { $said->(qr/^get $base\.n2$/) },
        home => 'n2' },
    commit => {
        hold => sub ($id, $base) { $m1->trick($marked->($base, 'n2'), 'hang') },
        there => sub ($id, $base) { $said->($marked->($base, 'n2')) },
        home => 'n2' },
    'wait for a long request' => {
        hold => sub ($id, $base) { $rig->send('wait for a long request', '/trickle?n=50&ms=100') },
        there => sub ($id, $base) { $rig->status->{sessions_by_state}{moving} },
        home => 'n1' },
    verification => {
        hold => sub ($id, $base) { $n1->misbehave('hang', for => $id) },
        there => sub ($id, $base) { $asked->($n1, $id, 1) },
        home => 'n1', stays => 1 },
);

# A relay has one trick at a time, so a mover dies with at most three moves under way.
my @kills = (['readiness of the target'], ['marker', 'flush', 'probe'],
             ['moved marker', 'probe, after the takeover', 'store, after the flush'],
             ['proof'], ['commit'], ['wait for a long request'], ['verification']);
for my $kill (@kills) {
    my (%id, @held);
    $rig->undrain('n1');
    $rig->only('n1');
    for my $name (@$kill) {
        $id{$name} = $rig->login($name, 'n1');
        $rig->ask($name, "/write?k=before");
        push @held, $step{$name}{hold}->($id{$name}, XB::FakeMsm->base($id{$name}));
    }
    $rig->open if !grep { $step{$_}{stays} } @$kill;
    $rig->drain('n1');
    for my $name (@$kill) {
        my ($id, $base) = ($id{$name}, XB::FakeMsm->base($id{$name}));
        wait_for { $step{$name}{there}->($id, $base) } 10, "a move to be at its $name";
    }
    my @waiting = map { $rig->send($kill->[0], '/read') } 1 .. 6;   # some die with the mover
    my $mover = $rig->mover_pid;
    $t->allow_log(qr/AH00052: child pid $mover exit signal Killed/);
    $c->close;
    kill KILL => $mover;
    my $died = time;
    my %socket = map { $_ => $rig->send($_, '/write?k=after') } @$kill;
    $m1->well;
    $_->behave for $n1, $n2;
    wait_for { $rig->mover_pid != $mover } 5, 'another mover';
    cmp_ok time - $died, '<', 2.5, 'another child moves sessions within two seconds';
    for my $name (@$kill) {
        my $r = $rig->receive($socket{$name});
        my $seconds = time - $died;
        cmp_ok $seconds, '<', 3, sprintf "$name: the gate opens within three seconds: %.2f", $seconds;
        is "$r->{status} $r->{node} @{$r->{json}{writes} // []}",
            "200 $step{$name}{home} before after",
            '... the session is where memcached says, with all that was written';
    }
    $rig->receive($_) for @waiting;
    ok $rig->status->{mover}{running}, 'the mover runs';
    ok wait_for {
        my $s = $rig->status;
        !grep { $_ } @{$s->{sessions_by_state}}{qw(moving in-flight)}, $s->{gates}{waiting};
    } 5, 'no session stays at a gate or busy, nobody waits';
    is $table->(), 'valid', "the table after a death at: @$kill";
    $_->hang_up for $n1, $n2;
}
is $rig->refused('overtaken'), 7, 'moves without takeover are said to be overtaken';
is $rig->moved, 3, 'the others have moved';

# Its node may still work on a request whose child died: such a session is not to move.
$rig->undrain('n1');
$rig->only('n1');
my $victim = $rig->login('victim', 'n1');
$rig->login('witness', 'n1');
$rig->open;
$rig->send('victim', '/trickle?n=100&ms=50');
wait_for { $n1->count('/trickle') } 5, 'a long request';
my @children = $h->children;
$t->allow_log(map { qr/AH00052: child pid $_ exit signal Killed/ } @children);
kill KILL => @children;
$c->close;
wait_for { $rig->status->{mover}{running} } 5, 'new children';
$rig->drain('n1');
wait_for { $rig->ask('witness', '/read')->{node} eq 'n2' } 5, 'another session to move';
wait_for { !$rig->status->{sessions_by_state}{'in-flight'} } 5, 'the dead to be counted off';
$rig->idle(0.5);
is $rig->ask('victim', '/read')->{node}, 'n1',
    'a session whose request died with its child stays: its node may still be at it';

# Children die while all are busy.
$rig->undrain('n1');
my @users = map { "user$_" } 1 .. 50;
$rig->login($_) for @users;
my ($left, $killed, %status, $last) = (1200, 0);
my (%errors, %seen);
$c->run(parallel => 50,
    next => sub {
        return undef if $left-- <= 0;
        if ($left % 300 == 150) {
            my ($pid) = grep { !$last || $_ != $last } $h->children;
            $t->allow_log(qr/AH00052: child pid $pid exit signal Killed/);
            $killed += kill KILL => $last = $pid;
        }
        $seen{ $table->() }++ if $left % 100 == 60;
        my $user = $users[$left % 50];
        return { path => $left % 3 ? '/read?ms=20' : "/bytes?n=20000&ms=10", user => $user };
    },
    done => sub ($r, $req) { $errors{ $r->{error} || $r->{status} }++ });
is $killed, 4, 'four children killed under load';
is_deeply [ grep { !/^(?:200|closed|truncated|connect|Connection)/ } keys %errors ], [],
    'their clients saw a closed connection, the others 200';
cmp_ok $errors{200}, '>', 900, '... most';
ok wait_for {
    my $now = $rig->status;
    !$now->{sessions_by_state}{'in-flight'}
        && !grep { $_->{busy} } map { @{$_->{members}} } @{$now->{balancers}};
} 5, 'no session and no member stays busy';
is_deeply [ keys %seen ], ['valid'], 'the table while they die and requests run';
is $table->(), 'valid', '... and in the end';
cmp_ok $rig->status->{sessions}{repaired}, '>', 0, 'requests of the dead were counted again';
my @all = $c->many([ map { { path => '/read', user => $_ } } @users ], parallel => 8);
is_deeply [ grep { $_->{status} != 200 } @all ], [], 'all sessions work';
$t->finish;
