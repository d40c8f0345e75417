# SPDX-License-Identifier: Apache-2.0
# Which sessions may move at all: with two members, after an answer that was broken off, under
# each XnatBalanceMove, and when only their cookie is known.
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
my $modes = XB::MoveRig->new($t, nodes => [qw(p1 p2)], conf => "$fast XnatBalanceMove Off",
                             httpd => { name => 'modes' });
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
    $two->client->get('/bytes?n=4000000', user => 'broken', abort_after => 1000);
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

subtest 'XnatBalanceMove' => sub {
    my $h = $modes->httpd;
    my $mode = sub ($word, $drain = 0) {
        $h->set_conf($modes->conf("$fast XnatBalanceMove $word"));
        $h->graceful;
        $modes->ask('u', '/read');
        $modes->drain('p1') if $drain;
    };
    $modes->only('p1');
    $modes->login($_, 'p1') for qw(u busy-p1);
    $modes->open;

    $modes->drain('p1');
    ok !moves_within($modes, 1, 0), 'Off: a drain moves nothing';
    is_deeply { $modes->refusals }, {}, '... and refuses nothing';
    is home($modes, 'u'), 'p1', '... stock httpd leaves the session there';

    $mode->('DryRun', 1);
    ok wait_for { $modes->status->{moves}{would_have_moved} == 2 } 5, 'DryRun: counts two';
    my @lines = $h->error_log =~ /XB0303: session \w+ would be moved from p1 to p2 \(drain\)/g;
    is @lines, 2, '... tells of each once';
    is_deeply { $modes->refusals }, { 'dry-run' => 2 }, '... as refusals';
    is $modes->moved, 0, '... moves none';
    my $id = $modes->client->session('u');
    is_deeply [ grep { $_->{id} eq $id } map { $_->heads } $modes->nodes ], [],
        '... and asks no node';

    $mode->('Drain');
    my @load = $modes->overload('p1', 4, 1500);
    ok !moves_within($modes, 1.5, 0), 'Drain: an overload moves nothing';
    $modes->receive($_) for @load;
    $modes->only('p1');
    $modes->login('v', 'p1');           # u is left alone since the dry run
    $modes->open;
    $modes->drain('p1');
    ok moves_within($modes, 5, 0), '... a drain does';
    isnt home($modes, 'v'), 'p1', '... away';
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
