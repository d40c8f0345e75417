# SPDX-License-Identifier: Apache-2.0
# The home gets into error state after a request has seen that it may go there, and before httpd has
# chosen it: its session is rescued all the same, its requests do not go elsewhere by themselves.
use v5.36;
use Test::More;
use XB::MoveRig;
use XB::Rescue;
use XB::Test;

my $t = XB::Test->new;
my $rig = XB::MoveRig->new($t, member => 'retry=600', conf => <<"END");
LoadModule xb_meanwhile_module @{[ $t->test_module('mod_xb_meanwhile') ]}
XnatBalanceMove Drain
END
# The same nodes behind another balancer, which has its own view of them.
my $conf = $rig->conf($rig->{conf});
my ($twin) = $conf =~ m{(<Proxy "balancer://app">.*?</Proxy>)}s;
$rig->httpd->set_conf(($twin =~ s/app/twin/r) . qq(\nProxyPass "/twin/" "balancer://twin/"\n$conf));
$rig->httpd->restart;
my $users = XB::Rescue->new($rig);
my ($named, $straggler, $guest) = $users->at('n1', 3);
my $c = $rig->client;
$rig->open;

my $old = $c->session($straggler);
$rig->drain('n1');
wait_for { $rig->ask($straggler, '/read')->{node} !~ /^(?:n1|)$/ } 20, 'one to move';
wait_for { $rig->ask($_, '/read')->{node} !~ /^(?:n1|)$/ } 20, 'and another' for $named, $guest;
$rig->undrain('n1');

for my $one ([named => $named], [straggler => $straggler], [guest => $guest, '/twin']) {
    my ($which, $user, $by) = (@$one, '');
    my $home = $rig->ask($user, '/read')->{node};
    $c->jar($user)->{JSESSIONID} = $old if $user eq $straggler; # it names another node
    my $failed = $rig->status->{moves_by_reason}{failed};
    my $r = $c->get("$by/write?k=second", user => $user, headers => ['X-Fail', $home]);
    is $r->{status}, 200, "$which: it is answered";
    isnt JSON::PP::decode_json($r->{body})->{node}, $home, '... elsewhere';
    is $rig->status->{moves_by_reason}{failed}, $failed + 1, '... after its rescue';
    is_deeply $rig->ask($user, '/read')->{json}{writes}, [qw(first second)], '... and has it all';
    $users->mend($home);
}
$t->allow_log(qr/AH00940/);
$t->finish;
