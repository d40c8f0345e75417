# SPDX-License-Identifier: Apache-2.0
# A session is held: its home has died, and a node that was asked for it has not answered. The home is
# back, empty, and drains: nothing that a drain does to idle sessions takes the hold away.
use v5.36;
use Test::More;
use XB::MoveRig;
use XB::Rescue;
use XB::Test;

my $t = XB::Test->new;
my $rig = XB::MoveRig->new($t, member => 'retry=0', conf => <<'END');
XnatBalanceMove Drain
XnatBalanceGateTimeout 2s
END
my $users = XB::Rescue->new($rig);
my ($one) = $users->at('n1', 1);
my $id = $users->id($one);
$rig->node('n2')->misbehave('late', ms => 6000, for => $id);
$rig->only('n1', 'n2');
$rig->drain('n1');
$rig->node('n1')->stop;
is $rig->ask($one, '/read')->{status}, 503, 'n1 is lost, n2 is asked in vain';
$rig->node('n1')->start;
wait_for { $rig->httpd->error_log =~ /XB0320: node n1 / || !$rig->ask('other', '/read') } 20, 'n1';
is $rig->ask($one, '/read')->{status}, 503, 'n1 is back: nobody passes while n2 may be at it';
wait_for { $rig->store('m1')->get(XB::FakeMsm->base($id) . '.n2') } 20, 'n2 to take it over';
my $is_left = sub {
    my ($balancer) = @{$rig->status->{balancers}};
    my ($m) = grep { $_->{route} eq 'n1' } @{$balancer->{members}};
    return $m->{sessions_active};
};
is $is_left->(), 1, 'it is one of the draining node';
# Nobody asks for it: after the rest that a vain HEAD takes the mover does.
wait_for { !$is_left->() } 60, 'it to leave';
my $r = $rig->ask($one, '/read');
is join(' ', $r->{status}, $r->{node}, @{$r->{json}{writes} // []}), '200 n2 first', 'n2 has it';
$t->allow_log(qr/AH01114|AH00957|AH00959|AH01102|AH00898|AH00940|XB0302: /);
$t->finish;
