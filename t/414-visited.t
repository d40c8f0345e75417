# SPDX-License-Identifier: Apache-2.0
# A session's way through a fleet: away from overloaded nodes, with a rest after each move, not
# back to a node that it has been at, and to the last one only when its node drains.
use v5.36;
use Test::More;
use XB::Test;
use XB::MoveRig;

my @nodes = qw(n1 n2 n3 n4);
my $fast = <<'END';
XnatBalanceGrace 400ms
XnatBalanceBusyHalfLife 100ms
XnatBalanceMoveRate 100/s 100
XnatBalanceMemcachedTimeout 1s
END
my $t = XB::Test->new;
my $rig = XB::MoveRig->new($t, nodes => \@nodes, conf => "$fast XnatBalanceMoveRest 60s");

sub home () { return $rig->ask('u', '/read')->{node} }

# Does a move come within the time that one would take?
sub moves_within ($seconds, $before)
{
    return eval { wait_for { $rig->moved > $before } $seconds, 'a move' } ? 1 : 0;
}

for my $name (@nodes) {
    $rig->only($name);
    $rig->login("busy-$name", $name);
}
$rig->only('n1');
$rig->login('u', 'n1');
$rig->open;
my @way = ('n1');

my @load = $rig->overload('n1', 4, 1500);
ok moves_within(10, 0), 'a session leaves an overloaded node';
is $rig->status->{moves_by_reason}{overload}, 1, '... for that reason';
push @way, home();
isnt $way[1], 'n1', '... to another';

push @load, $rig->overload($way[1], 4, 2000);
ok !moves_within(2, 1), 'then it rests, however loaded its new node is';
$rig->receive($_) for splice @load;

$rig->httpd->set_conf($rig->conf("$fast XnatBalanceMoveRest 0s"));
$rig->httpd->graceful;
$rig->ask('u', '/read');
@load = $rig->overload($way[1], 4, 1500);
ok moves_within(10, 1), 'rested, it moves on';
push @way, home();
isnt $way[2], $_, "... not to $_" for @way[0, 1];
$rig->receive($_) for splice @load;

my ($last) = grep { my $n = $_; !grep { $_ eq $n } @way } @nodes;
@load = $rig->overload($way[2], 4, 1500);
ok wait_for { $rig->refused('last-unvisited-node') } 10,
    'the last node is kept free: refused';
is home(), $way[2], '... and it stays';
$rig->receive($_) for splice @load;

my $before = $rig->moved;
$rig->drain($way[2]);
ok moves_within(5, $before), 'a drain takes it even to the last node';
is home(), $last, '... there';

$rig->undrain($way[2]);
$rig->drain($last);
ok wait_for { $rig->refused('no-target') } 5, 'it has been everywhere: no target';
is $rig->ask('u', '/write?k=1')->{node}, $last, '... it stays where it is and works';
is $rig->status->{refusals_by_reason}{overtaken}, 0, 'nothing went wrong on the way';
$rig->undrain($last);
$t->finish;
