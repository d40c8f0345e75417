# SPDX-License-Identifier: Apache-2.0
# The gate of a session that is being moved: its requests wait, then go to the new home with the
# cookie that they came with; nobody else waits; waiting has its limits, and never ends at the
# old home while the move may still come about.
use v5.36;
use Test::More;
use Time::HiRes qw(time);
use List::Util qw(max);
use XB::Test;
use XB::MoveRig;

my $THREADS = 8;
my $t = XB::Test->new;
my $rig = XB::MoveRig->new($t, httpd => { children => 2, threads => $THREADS },
                           conf => <<"END");
XnatBalanceMemcachedTimeout 1s
MaxRequestWorkers @{[ 2 * $THREADS ]}
END
my ($h, $c) = ($rig->httpd, $rig->client);
my ($n1, $n2) = $rig->nodes;
my $seen = sub ($node, $id) {
    return scalar grep { $_->{method} eq 'GET' && ($_->{cookies}{JSESSIONID} // '') eq $id }
        $node->requests;
};

# Requests of another session at n2, one after the other: how many went wrong, the longest time.
my $others = sub ($n) {
    my @r = map { $rig->ask('other', '/read') } 1 .. $n;
    my $wrong = grep { "$_->{status} $_->{node}" ne '200 n2' } @r;
    return ($wrong, max map { $_->{time} } @r);
};

$rig->only('n2');
$rig->login('other', 'n2');

# A session at n1 whose takeover is held up at n2.
my $begin = sub ($user, $how, $ms) {
    $rig->undrain('n1');
    $rig->only('n1', 'n2');
    my $id = $rig->login($user, 'n1');
    $n2->misbehave($how, for => $id, ms => $ms);
    $rig->drain('n1');
    $rig->probed('n2', $id);
    return $id;
};

subtest 'requests wait, and follow' => sub {
    my $id = $begin->('u', 'slow', 1600);
    my $served = $seen->($n1, $id);
    my @waiting = map { $rig->send('u', "/write?k=$_") } 1 .. 3;
    my $started = time;
    my ($wrong, $longest) = $others->(10);
    is $wrong, 0, 'requests of others are served meanwhile';
    cmp_ok $longest, '<', 0.8, '... at once';
    my @r = map { $rig->receive($_) } @waiting;
    cmp_ok time - $started, '>', 0.5, 'those of the session have waited';
    is_deeply [ map { "$_->{status} $_->{node}" } @r ], [ ('200 n2') x 3 ],
        '... and then went to the new home';
    is $seen->($n2, $id), 3, 'with the cookie that they came with';
    is $seen->($n1, $id), $served, 'none went to the old home';
    my $read = $rig->ask('u', '/read');
    is_deeply [ sort @{$read->{json}{writes}} ], [ 1 .. 3 ], 'no write is lost';
    my $status = $rig->status;
    is $status->{gates}{waits}, 3, 'three waits are counted';
    is $status->{gates}{waiting}, 0, 'nobody waits any more';
    my %said;
    $said{ $_->{decision} }++ for $h->logged(3, sub { $_->{uri} =~ /^.write/ });
    is_deeply \%said, { moved => 1, straggler => 2 }, 'the first one says that it moved';
};

# Decisions and reasons of the 503s so far, which are this many.
my $reasons = sub ($n) {
    my %said;
    $said{"$_->{decision} $_->{reason}"}++ for $h->logged($n, sub { $_->{status} == 503 });
    return \%said;
};
my $crowded = 0;

subtest 'waiters take half of the threads at most' => sub {
    my $id = $begin->('crowd', 'slow', 2000);
    my @sockets = map { $rig->send('crowd', "/read?n=$_") } 1 .. 3 * $THREADS;
    ok eval { wait_for { $rig->status->{gates}{crowded} } 1, 'a refusal' },
        'those beyond are refused at once';
    my ($wrong, $longest) = $others->(10);
    is $wrong, 0, 'requests of others are served';
    cmp_ok $longest, '<', 0.8, '... at once';
    cmp_ok $rig->status->{gates}{waiting}, '<=', $THREADS, 'waiters: half of all threads';
    my %answers;
    for my $r (map { $rig->receive($_) } @sockets) {
        my $how = $r->{status} == 503 ? $r->{head} =~ /^Retry-After: \d+\r?$/m ? 'retry' : '?'
                : $r->{node};
        push @{$answers{"$r->{status} $how"}}, $r;
    }
    is_deeply [ sort keys %answers ], [ '200 n2', '503 retry' ], 'either the new home or 503';
    cmp_ok scalar @{$answers{'200 n2'} // []}, '<=', $THREADS, 'those that waited';
    $crowded = @{$answers{'503 retry'} // []};
    is $rig->status->{gates}{crowded}, $crowded, 'the others are counted';
    is_deeply $reasons->($crowded), { 'refused gate-crowded' => $crowded }, '... and logged as such';
    my @again = map { $rig->ask('crowd', '/read') } @{$answers{'503 retry'}};
    is_deeply [ grep { "$_->{status} $_->{node}" ne '200 n2' } @again ], [], 'retries work';
};

# One thread for each child: then half of the children.
subtest 'waiters under prefork' => sub {
    my $fork = XB::MoveRig->new($t, nodes => [qw(q1 q2)], conf => 'MaxRequestWorkers 8',
                                httpd => { mpm => 'prefork', name => 'prefork' });
    $fork->only('q1');
    my $id = $fork->login('crowd', 'q1');
    $fork->open;
    $fork->only('q2');
    $fork->login('other', 'q2');
    $fork->open;
    $fork->node('q2')->misbehave('slow', for => $id, ms => 2000);
    $fork->drain('q1');
    $fork->client->close;
    $fork->probed('q2', $id);
    # All at once; who has his answer closes, so that the child is free again.
    my $all = sub ($n, $user, $path) {
        return map { { path => $path, user => $user, keep => 0 } } 1 .. $n;
    };
    my @r = $fork->client->many([ $all->(16, 'crowd', '/read'), $all->(5, 'other', '/read'),
                                  $all->(1, 'other', '/status?format=json') ]);
    my ($seen) = (pop @r)->{body} =~ /"waiting":(\d+)/;
    cmp_ok $seen, '<=', 4, 'waiters: half of the children';
    my @others = splice @r, 16;
    is_deeply [ grep { $_->{status} != 200 } @others ], [], 'others are served';
    cmp_ok $_, '<', 1, '... at once' for max map { $_->{time} } @others;
    my %answers;
    $answers{ $_->{status} }++ for @r;
    is_deeply [ sort keys %answers ], [ 200, 503 ], 'some wait, the rest is sent away';
    cmp_ok $answers{200}, '<=', 4, '... as many as may';
    is $fork->status->{gates}{waiting}, 0, 'nobody waits any more';
};

# Nobody can open the gate: the child that holds the mover is stopped.
subtest 'waiting ends' => sub {
    $h->set_conf($rig->conf("XnatBalanceGateTimeout 1s\nXnatBalanceMemcachedTimeout 1s\n"
        . 'MaxRequestWorkers ' . 2 * $THREADS));
    $h->graceful;
    my $id = $begin->('stuck', 'hang', 0);
    my $served = $seen->($n1, $id);
    my $mover = $rig->mover_pid;
    kill STOP => $mover;
    wait_for { !grep { $t->slurp($_) !~ /\) T / } glob "/proc/$mover/task/*/stat" } 5,
        'all of its threads to stand still';
    $c->close;                          # kept connections lead to it
    my $started = time;
    my $r = $rig->receive($rig->send('stuck', '/read'));
    my $waited = time - $started;
    is $r->{status}, 503, 'after the gate time-out the answer is 503';
    like $r->{head}, qr/^Retry-After: \d+\r?$/m, '... with Retry-After';
    cmp_ok $waited, '>', 0.9, '... not before';
    cmp_ok $waited, '<', 1.5, '... not much later';
    is $seen->($n1, $id), $served, 'the old home has not seen it';
    my $status = $rig->status;
    is $status->{gates}{timeouts}, 1, 'it is counted';
    is_deeply $reasons->($crowded + 1),
        { 'refused gate-crowded' => $crowded, 'refused gate-timeout' => 1 }, 'and logged';
    my $again;
    my $works = sub { $again = $rig->ask('stuck', '/read'); return $again->{status} == 200 };
    ok eval { wait_for { $works->() } 10, 'it to work' },
        'a retry works, once another child has taken over';
    is $again->{node}, 'n1', '... at the old home, since nothing was taken over';
    kill CONT => $mover;
    $n2->hang_up;
    ok wait_for { $rig->status->{mover}{running} } 5, 'the mover runs';
    is $rig->ask('stuck', '/read')->{node}, 'n1', 'and the old mover, back, changes nothing';
    is $rig->status->{refusals_by_reason}{overtaken}, 1, 'the move is said to be overtaken';
};

subtest 'bounds of the time-out' => sub {
    for my $bad ('199ms', '6min', '0', '5x', '-1s') {
        my ($rc, $out) = $h->configtest("XnatBalanceGateTimeout $bad");
        isnt $rc, 0, "$bad is refused";
        like $out, qr/XnatBalanceGateTimeout wants .* 200ms to 5min/, '... with what is wanted';
    }
    for my $good ('200ms', '5min') {
        is +($h->configtest("XnatBalanceGateTimeout $good"))[0], 0, "$good is fine";
    }
};
$t->expect_log(qr/XB0114/);             # two members
$t->allow_log(qr/AH00161/);             # all children of prefork are busy
$t->allow_log(qr/AH01102|AH00898/);     # mod_proxy's words for a HEAD without answer
$t->finish;
