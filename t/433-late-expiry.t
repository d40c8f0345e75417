# SPDX-License-Identifier: Apache-2.0
# A node is told to expire the copy of a session that has left it, and does so only when nobody waits
# any more. Meanwhile the session's new home dies, and there is no other node: what the first one
# took over now would be expired with the copy, as it has the same id there.
use v5.36;
use Test::More;
use XB::FakeJmx;
use XB::FakeMsm;
use XB::MoveRig;
use XB::Test;

my $t = XB::Test->new;
$t->write('login', "$XB::FakeJmx::LOGIN\n");
chmod 0600, $t->path('login');
my $rig = XB::MoveRig->new($t, nodes => [qw(n1 n2)], member => 'retry=600', conf => <<"END");
XnatBalanceMove Drain
XnatBalanceRelease /manager/jmxproxy
XnatBalanceReleaseAuth @{[ $t->path('login') ]}
END
my $told = sub { grep { $_->{what} eq 'expire' } XB::FakeJmx::calls($rig->node('n1')) };

$rig->only('n1');
my $id = $rig->login('u', 'n1');
$rig->ask('u', '/write?k=first');
XB::FakeJmx::misbehave($rig->node('n1'), 'slow', what => 'expire', ms => 4000);
$rig->open;
$rig->drain('n1');
wait_for { $told->() } 20, 'n1 to be told';
$rig->undrain('n1');
wait_for { $rig->status->{copies_held_by_reason}{'node-unreachable'} } 10, 'nobody to wait';
$rig->node('n2')->stop;

my ($r, %status);
wait_for {
    $r = $rig->ask('u', '/write?k=second');
    $status{ $r->{status} }++;
    $r->{status} == 200;
} 60, 'n1 to take it over';
ok $status{503}, 'not while it may still be about the copy';
is "$r->{node} @{$r->{json}{writes}}", 'n1 first second', 'then it has all of it';
my $n = () = $told->();
is $n, 1, 'it was not told again meanwhile';
is $rig->ask('u', '/read')->{status}, 200, '... nor is the session expired afterwards';
$t->expect_log(qr/XB0330: .* node-unreachable /);
$t->allow_log(qr/AH0|AH10/);
$t->finish;
