# SPDX-License-Identifier: Apache-2.0
# Two httpds in front of one fleet: each sees the other's heartbeat in memcached and makes no
# voluntary move while it is there, be it one that moves nothing, or that knows other nodes as
# well; a dead node's sessions are rescued all the same.
use v5.36;
use Test::More;
use FindBin ();
use lib "$FindBin::Bin/lib";
use XB::MoveRig;
use XB::Test;

my $t = XB::Test->new;
my $a = XB::MoveRig->new($t, conf => "XnatBalanceBusyHalfLife 100ms\nXnatBalanceMoveRate 100/s 100");
$t->expect_log(qr/XB0321/);
$t->allow_log(qr/XB0114/);              # one has two of the nodes
my $sees = sub ($rig) { return eval { wait_for { $rig->httpd->error_log =~ /XB0321/ } 15, 'it' } };

my $off = XB::MoveRig->new($t, share => $a, nodes => [qw(n1 n2 n3)], httpd => { name => 'off' },
                           conf => 'XnatBalanceMove Off');
ok($sees->($a), 'one that moves no session is seen');
is(scalar(() = $off->httpd->error_log =~ /XB0321/g), 0, '... which itself has nothing to tell');
$off->httpd->stop;
my $b = XB::MoveRig->new($t, share => $a, nodes => [qw(n2 n3)], httpd => { name => 'second' });
ok($sees->($b), 'one that balances more nodes is seen');

# Is one of n1's sessions moved while others keep it busy?
my $relieved = sub ($user) {
    $a->only('n1');
    $a->login($_, 'n1') for $user, "busy-n1";
    $a->open;
    my @load = $a->overload('n1', 4, 2000);
    my $left = eval { wait_for { $a->ask($user, '/read')->{node} ne 'n1' } 2, 'a move'; 1 };
    $a->receive($_) for @load;
    return $left && $a->status->{moves_by_reason}{overload};
};
ok(!$relieved->('v'), 'an overloaded node is not relieved meanwhile');
$a->login("u$_", 'n1') for 1 .. 4;
$a->drain('n1');
for (1 .. 6) {
    $a->idle(0.4);
    $a->ask("u$_", '/read') for 1 .. 4;
}
is($a->moved, 0, 'nobody leaves a draining node meanwhile');
is(scalar(() = $a->httpd->error_log =~ /XB0321/g), 1, 'it is told once');

$b->httpd->stop;
my $left = eval {
    wait_for { $a->ask("u$_", '/read') for 1 .. 4; $a->moved >= 4 } 30, 'moves';
    1;
};
ok($left, 'once the other is gone, they leave') or diag($@);
$a->undrain('n1');
ok($relieved->('w'), '... an overloaded node, too');

$b->httpd->start;
wait_for { $b->httpd->error_log =~ /XB0321.*XB0321/s } 15, 'the other back';
my $home = $a->ask('u1', '/read')->{node};
$t->allow_log(qr/\[proxy(?:_http)?:error\]/);
$a->node($home)->stop;
my @nodes = map { $a->ask('u1', '/read')->{node} // 'nobody' } 1 .. 4;
is(scalar(grep { $_ ne $home && $_ eq $nodes[0] } @nodes), 4, 'a dead node\'s are rescued')
    or diag("@nodes");
is($a->status->{moves_by_reason}{failed} > 0, 1, 'by the mover');
$t->finish;
