# SPDX-License-Identifier: Apache-2.0
# The home of a session that httpd knows is no member any more after a graceful restart: the session
# goes on elsewhere, and nobody else's requests wait for that. Or it has another address by then: its
# sessions are at home there, and leave it when it is drained.
use v5.36;
use Test::More;
use XB::MoveRig;
use XB::Rescue;
use XB::Test;

my $t = XB::Test->new;
my $conf = 'XnatBalanceMove Drain';
my $rig = XB::MoveRig->new($t, httpd => { children => 1 }, conf => $conf);
my $users = XB::Rescue->new($rig);
my ($straggler) = $users->at('n1', 1);
my ($user) = $users->at('n2', 1);
my ($h, $c) = ($rig->httpd, $rig->client);
my $old = $c->session($straggler);
$rig->only('n1', 'n2');
$rig->drain('n1');
wait_for { $rig->ask($straggler, '/read')->{node} eq 'n2' } 20, 'one to move';

my $without = join "\n", grep { !/^BalancerMember .* route=n2 / } split /\n/, $rig->conf($conf);
$h->set_conf("$without\n");
$c->close;
$h->graceful;
$c->jar($straggler)->{JSESSIONID} = $old;
my $r = $rig->ask($user, '/read');
is $r->{status}, 200, 'its session goes on';
is "$r->{node} @{$r->{json}{writes}}" =~ s/n[13]/elsewhere/r, 'elsewhere first', '... with what it had';
cmp_ok $c->get('/read', user => $straggler)->{status}, '>=', 200, 'an old id gets an answer';
is $c->get('/read', user => 'new')->{status}, 200, 'so does one who has no session';

subtest 'another address' => sub {
    my $rig = XB::MoveRig->new($t, httpd => { name => 'address', children => 1 }, conf => $conf);
    my ($user) = XB::Rescue->new($rig)->at('n2', 1);
    my $url = $rig->node('n2')->url;
    $rig->{pipe}{n2} = XB::Pipe->new($t, 'before-n2', $rig->node('n2')->port);
    isnt $rig->url('n2'), $url, 'n2 is reached by another way';
    $rig->httpd->set_conf($rig->conf($conf));
    $rig->client->close;
    $rig->httpd->graceful;
    is $rig->ask($user, '/read')->{node}, 'n2', 'its session is at home there';
    $rig->drain('n2');
    wait_for { $rig->ask($user, '/read')->{node} !~ /^(?:n2|)$/ } 20, 'it to leave';
    is $rig->ask($user, '/read')->{json}{writes}[0], 'first', 'it leaves with what it has';
};
$t->finish;
