# SPDX-License-Identifier: Apache-2.0
# Which sessions may move: with two members, after an answer that was broken off, and when only
# their cookie is known.
use v5.36;
use Test::More;
use XB::Test;
use XB::MoveRig;

my $fast = <<'END';
XnatBalanceGrace 400ms
XnatBalanceBusyHalfLife 100ms
XnatBalanceMoveRate 100/s 100
XnatBalanceMemcachedTimeout 1s
END
my $t = XB::Test->new;
my $two = XB::MoveRig->new($t, nodes => [qw(n1 n2)], conf => $fast);
$t->expect_log(qr/XB0114/);             # two members: no overload moves

sub home ($r, $user) { return $r->ask($user, '/read')->{node} }

# Does a move come within the time that one would take?
sub moves_within ($r, $seconds, $before)
{
    return eval { wait_for { $r->moved > $before } $seconds, 'a move' } ? 1 : 0;
}

subtest 'two members' => sub {
    $two->only('n1');
    $two->login('u', 'n1');
    $two->client->get('/bytes?n=4000000', user => 'u');
    $two->login('broken', 'n1');
    # More than the sockets on the way could hold: else the node may be through with it.
    $two->client->get('/bytes?n=64000000', user => 'broken', abort_after => 1000);
    $two->open;
    my @load = $two->overload('n1', 4, 1500);
    ok wait_for { $two->refused('last-unvisited-node') } 10, 'overload moves nothing';
    $two->receive($_) for @load;
    is $two->moved, 0, '... at all';

    $two->drain('n1');
    ok moves_within($two, 5, 0), 'a drain moves';
    is home($two, 'u'), 'n2', '... to the other';
    ok wait_for { $two->moved == 2 } 5, 'and so it does with the busy one';
    ok !moves_within($two, 1, 2),
        'not with one whose last answer was broken off: its node may still be at it';
    is home($two, 'broken'), 'n1', '... which works';
};

subtest 'known from its cookie only' => sub {
    $two->httpd->stop;
    $two->client->close;
    $two->httpd->start;
    is home($two, 'u'), 'n2', 'after a full restart a session stays where its cookie says';
    home($two, 'u');
    is $two->status->{sessions_by_state}{partial}, 1, '... but little is known of it';
    $two->drain('n2');
    ok !moves_within($two, 1.5, 0), '... a drain leaves it where it is';
    is home($two, 'u'), 'n2', '... and it works';
};
$t->finish;
