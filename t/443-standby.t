# SPDX-License-Identifier: Apache-2.0
# A hot standby with a route of its own takes its primary's sessions over as any node would. One with
# its primary's route cannot prove that it has, so that they wait for the primary: XB0130.
use v5.36;
use Test::More;
use XB::FakeMsm;
use XB::MoveRig;
use XB::Rescue;
use XB::Test;

my $t = XB::Test->new;

# n1 and a standby for it.
sub rig ($name, $route)
{
    my $rig = XB::MoveRig->new($t, nodes => ['n1'], member => 'retry=600',
                               httpd => { name => $name, threads => 64 },
                               conf => 'XnatBalanceMove Drain');
    my $standby = XB::FakeMsm->new($t, "$name-standby", route => $route, store => $rig->{store});
    $rig->{node}{n2} = $standby;
    $rig->httpd->set_conf($rig->conf($rig->{conf}) =~
        s{(?=^ProxySet)}{"BalancerMember @{[ $standby->url ]} route=$route status=+H\n"}emr);
    $rig->httpd->restart;
    return $rig;
}

sub asks ($rig, $user)
{
    my $r = $rig->ask($user, '/read');
    return join ' ', $r->{status}, $r->{node}, @{$r->{json}{writes} // []};
}

my $rig = rig('own', 'n2');
push @{$rig->{nodes}}, 'n2';
my $users = XB::Rescue->new($rig);
my @users = $users->at('n1', 3);
$rig->node('n1')->stop;
is_deeply { $users->rescued($users->burst(@users)) }, { n2 => 3 }, 'n1 dies: all go on at n2';
$users->mend('n1');
my $now = asks($rig, $users[0]);
like $now, qr/^200 n2 first/, 'n1 is back: it stays at n2';

$rig = rig('same', 'n1');
my ($user) = XB::Rescue->new($rig)->at('n1', 1);
$rig->node('n1')->stop;
$rig->ask($user, '/read') for 1 .. 2;
like asks($rig, $user), qr/^503/, 'the same route: not at the standby';
$rig->node('n1')->start;
$rig->client->close;
$rig->httpd->graceful;          # the end of its error state
wait_for { asks($rig, $user) eq '200 n1 first' } 10, 'the primary to have it again';
$t->expect_log(qr/XB0130: /);
$t->allow_log(qr/AH01114|AH00957|AH00959|AH00940|AH01102|AH00898|AH01170|XB0302: /);
$t->finish;
