# SPDX-License-Identifier: Apache-2.0
# More members than one question to memcached has keys, and than the module keeps records of.
use v5.36;
use Test::More;
use XB::Test;
use XB::MoveRig;

my $t = XB::Test->new;

subtest 'the home is the last of 36' => sub {
    # The others are never asked: one is to take over, the rest are there for their routes.
    my $others = join "\n", map { "BalancerMember http://127.0.0.1:$_ route=x$_ status=+D" } 1 .. 34;
    my $rig = XB::MoveRig->new($t, nodes => [qw(n1 n2)], stores => ['m1'],
        httpd => { name => 'many' }, member => 'retry=600', conf => "XnatBalanceMove Drain\n");
    my $h = $rig->httpd;
    $h->set_conf($rig->conf("XnatBalanceMove Drain\n") =~ s/(?=BalancerMember)/$others\n/r);
    $h->restart;
    $rig->only('n2');
    $rig->login('u1', 'n2');
    is $rig->ask('u1', '/write?k=first')->{status}, 200, 'a session there';
    my $id = $rig->client->session('u1');
    wait_for { ($rig->store('m1')->get($id) // '') =~ /first/ } 5, 'its write in memcached';
    $rig->open;
    $rig->node('n2')->stop;
    my $r = $rig->ask('u1', '/read');
    is "$r->{status} $r->{node}", '200 n1', 'it is found in memcached and taken over';
    is_deeply $r->{json}{writes}, ['first'], 'with all that it had';
    is $rig->status->{sessions}{lost}, 0, 'and not called lost';
};
$t->allow_log(qr/AH01114|AH00957|AH00959|AH00940|AH01102|AH00898/);
$t->finish;
