# SPDX-License-Identifier: Apache-2.0
# A hot standby with its primary's route, and so with its jvmRoute: it has the primary's sessions
# while that is out, from memcached, and nobody waits for a rescue.
use v5.36;
use Test::More;
use XB::FakeMsm;
use XB::MoveRig;
use XB::Rescue;
use XB::Test;

my $t = XB::Test->new;
my $rig = XB::MoveRig->new($t, nodes => ['n1'], member => 'retry=600',
                           conf => 'XnatBalanceMove Drain');
my $standby = XB::FakeMsm->new($t, 'standby', route => 'n1', store => $rig->{store});
$rig->httpd->set_conf($rig->conf($rig->{conf})
    =~ s{(?=^ProxySet)}{"BalancerMember @{[ $standby->url ]} route=n1 status=+H\n"}emr);
$rig->httpd->restart;
my $users = XB::Rescue->new($rig);
my ($one, $two) = $users->at('n1', 2);

$rig->node('n1')->stop;
my $r = $rig->ask($one, '/write?k=second');
is "$r->{status} @{$r->{json}{writes} // []}", '200 first second', 'served by the standby';
is $rig->ask($two, '/read')->{status}, 200, 'so is another session';
is scalar(grep { $_->{method} eq 'GET' } $standby->requests), 2, '... each by one request';

$standby->stop;
is $rig->ask($one, '/read')->{status}, 503, 'it has failed as well';
$standby->start;
$r = $rig->ask($one, '/read');
is "$r->{status} @{$r->{json}{writes} // []}", '200 first second', '... and is back';
$t->allow_log(qr/AH01114|AH00957|AH00959|AH00940|AH01102|AH00898|AH01170|XB0302: /);
$t->finish;
