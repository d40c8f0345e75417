# SPDX-License-Identifier: Apache-2.0
# Ids that clients invent, with the route of a node that cannot serve: they take no room from real
# sessions, fill no log, and are not counted as sessions that were lost.
use v5.36;
use Test::More;
use XB::Test;
use XB::MoveRig;

my $t = XB::Test->new;
my $rig = XB::MoveRig->new($t, member => 'retry=600',
    conf => "XnatBalanceMove Drain\nXnatBalanceSessions 64\n");
my $h = $rig->httpd;
my $serial = 0;
my $invent = sub ($n) {
    my @r = map { $t->get($h->url('/x'), cookie => sprintf 'JSESSIONID=%032X-m1.n1', ++$serial) }
        1 .. $n;
    return join ' ', keys %{{ map { $_->{status} => 1 } @r }};
};
my $lines = sub ($pattern) { return scalar(() = $h->error_log =~ /$pattern/g) };

subtest 'room for real sessions' => sub {
    $rig->only('n2', 'n3');         # n1 is a spare that somebody has disabled
    is $invent->(200), 401, 'ids of a disabled node';
    my @real = map { "real$_" } 1 .. 20;
    $rig->login($_) for @real;
    my $s = $rig->status->{sessions};
    is $s->{not_remembered}, 0, 'all who log in are remembered';
    is $s->{forgotten}, 0, 'no real session had to go';
    my $known = sub { $_->{uri} eq '/read' && $_->{decision} eq 'stayed' && $_->{reason} eq 'home' };
    is scalar $h->logged(20, $known), 20, '... and are known';
    is $invent->(100), 401, 'more of them';
    $rig->ask($_, '/read') for @real;
    is scalar $h->logged(40, $known), 40, 'displace nobody';
};

subtest 'sessions that are lost' => sub {
    my @users = map { "lost$_" } 1 .. 3;
    $rig->only('n1');
    my @ids = map { $rig->login($_, 'n1') } @users;
    $rig->open;
    for my $id (@ids) {
        my $store = $rig->store(XB::FakeMsm->node_of($id));
        wait_for { $store->get($id) } 5, 'a stored session';
        $rig->idle(0.05);
        $store->delete($id);
    }
    my ($refused, $told) = ($rig->refused('not-in-store'), $lines->('XB0302.*not-in-store'));
    $rig->node('n1')->stop;
    is_deeply [ map { $rig->ask($_, '/read')->{status} } @users ], [ (401) x 3 ], 'nobody knows them';
    is $rig->status->{sessions}{lost}, 3, 'each is counted';
    is $rig->refused('not-in-store') - $refused, 3, '... as a refusal, too';
    is $lines->('XB0304'), 1, 'one line in the log';
    is $lines->('XB0302.*not-in-store'), $told, '... not two';
};

subtest 'invented ids of a dead node' => sub {
    is $invent->(40), 401, 'they are answered';
    is $rig->status->{sessions}{lost}, 3, 'none counts as lost';
    is $lines->('XB0304'), 1, 'nor is any in the log';
};

$t->allow_log(qr/XB0304|XB0320|XB0321|AH01114|AH00957|AH00959|AH00940|AH01102|AH00898/);
$t->finish;
