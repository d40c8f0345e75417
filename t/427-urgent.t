# SPDX-License-Identifier: Apache-2.0
# What requests wait for comes before what the mover does of its own accord: a backlog of moves
# off a slow draining node does not hold up the rescue of another node's sessions.
use v5.36;
use Test::More;
use Time::HiRes qw(time);
use XB::Test;
use XB::MoveRig;

my $SESSIONS = 90;
my $t = XB::Test->new;
my $rig = XB::MoveRig->new($t, nodes => [qw(n1 n2 n3 n4)], member => 'retry=600',
    httpd => { threads => 64 },
    conf => "XnatBalanceMove Drain\nXnatBalanceMemcachedTimeout 1s\n");
$rig->only('n1');
$rig->login("d$_", 'n1') for 1 .. $SESSIONS;
$rig->only('n2');
$rig->login("r$_", 'n2') for 1 .. 3;
$rig->open;

$rig->node('n1')->misbehave('slow', ms => 300);
$rig->drain('n1');
wait_for { grep { $_->{flush} } $rig->node('n1')->heads } 10, 'moves under way';
wait_for { $rig->status->{mover}{workers_busy} > 2 } 5, 'more than two workers at it';
my %busy;
$rig->node('n2')->stop;
for my $user (map { "r$_" } 1 .. 3) {
    my $begun = time;
    my $r = $rig->ask($user, '/read');
    my $took = time - $begun;
    like "$r->{status} $r->{node}", qr/^200 n[34]$/, "$user is rescued";
    cmp_ok $took, '<', 1, sprintf '... and has waited %.2f s', $took;
    $busy{ $rig->status->{mover}{workers_busy} } = 1;
}
is_deeply [ grep { $_ > 4 } keys %busy ], [], 'two workers are kept for that';
cmp_ok $rig->moved, '<', $SESSIONS, 'the drain was still under way';
$t->allow_log(qr/AH01114|AH00940|AH00957|AH00959|AH01102|AH00898/);
$t->finish;
