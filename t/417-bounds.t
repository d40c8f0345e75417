# SPDX-License-Identifier: Apache-2.0
# What choosing costs is bounded: lines in the log, slots looked at in one tick, moves in a second;
# each balancer's refusals are told for themselves.
use v5.36;
use Test::More;
use Time::HiRes qw(time);
use XB::Test;
use XB::MoveRig;

my $t = XB::Test->new;

subtest 'lines of DryRun' => sub {
    my $rig = XB::MoveRig->new($t, nodes => [qw(n1 n2 n3)], conf => 'XnatBalanceMove DryRun');
    $rig->only('n1');
    $rig->login("u$_", 'n1') for 1 .. 14;
    $rig->open;
    $rig->drain('n1');
    ok wait_for { $rig->status->{moves}{would_have_moved} == 14 } 10, 'each session is counted';
    is scalar(() = $rig->httpd->error_log =~ /XB0303/g), 10, 'ten are told of';
    is scalar(() = $rig->httpd->error_log =~ /XB0305/g), 1, 'and that there are more';
    $rig->httpd->stop;
};

my $small = XB::MoveRig->new($t, nodes => [qw(p1 p2)], httpd => { name => 'small' },
    conf => 'XnatBalanceMove Off');        # only its nodes are used
$small->httpd->stop;
$small->store($_)->forget_httpds for qw(m1 m2);
my $members = join "\n", map { 'BalancerMember ' . $_->url . ' route=' . $_->{route} } $small->nodes;
my $rig = XB::MoveRig->new($t, share => $small, nodes => [qw(p1 p2)], httpd => { name => 'large' },
    conf => <<"END");
XnatBalanceMove Drain
XnatBalanceSessions 400000
<Proxy "balancer://other">
$members
ProxySet lbmethod=xnat stickysession=JSESSIONID|jsessionid
</Proxy>
ProxyPass "/other/" "balancer://other/other/"
END
my $h = $rig->httpd;

subtest 'two balancers' => sub {
    my $other = sub ($node, %flag) { $h->manager('other', $small->node($node)->url, %flag) };
    $rig->only('p1');
    $other->('p2', disabled => 1);
    $rig->login('a', 'p1');
    $rig->client->get('/other/login', user => 'b');
    $rig->client->get('/other/read', user => 'b');
    $rig->drain('p1');
    $other->('p1', drain => 1);
    ok wait_for { ($rig->refused('no-target') // 0) == 2 } 5, 'a refusal of each is counted';
    $other->('p1', drain => 0);
};

# Larger than what one tick walks.
subtest 'a large table' => sub {
    $rig->undrain('p1');
    $rig->login("v$_", 'p1') for 1 .. 20;
    $rig->drain('p1');
    $rig->open;
    ok wait_for { $rig->moved >= 21 } 10, 'all sessions of it are found';
};
$h->stop;

# A move counts when it is done, so a few may have been begun before the first that is timed. Four a
# second would be the pace of the default rate.
subtest 'the rate of overload moves' => sub {
    my $fast = XB::MoveRig->new($t, nodes => [qw(r1 r2 r3)], httpd => { name => 'fast' },
        conf => "XnatBalanceMoveRate 10/s 1\nXnatBalanceBusyHalfLife 100ms");
    $fast->only('r1');
    $fast->login("w$_", 'r1') for 1 .. 20;
    $fast->open;
    my @load = $fast->overload('r1', 4, 6000);
    wait_for { $fast->moved } 5, 'the first';
    my ($begin, $before) = (time, $fast->moved);
    wait_for { $fast->moved >= $before + 12 } 10, 'twelve more';
    my ($took, $moves) = (time - $begin, $fast->moved - $before);
    cmp_ok $moves, '<=', 10 * (time - $begin) + 3, "$moves moves: not more than the rate";
    cmp_ok $took, '<', 2.4, sprintf '... and as many, in %.1f s', $took;
    $fast->receive($_) for @load;
};
$t->finish;
