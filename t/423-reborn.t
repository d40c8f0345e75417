# SPDX-License-Identifier: Apache-2.0
# Nodes that restart under the same route: each of their sessions is brought back by one HEAD
# before its requests race for it, and nobody else is made to wait.
use v5.36;
use Test::More;
use Socket qw(MSG_PEEK);
use Time::HiRes qw(time);
use XB::Test;
use XB::Ajp;
use XB::MoveRig;

{
    delete local @ENV{qw(MAKEFLAGS MAKELEVEL MFLAGS)};
    system('make', '-s', 'build/control/256/mod_xnat_balance.so') == 0 or BAIL_OUT('make');
}
my $t = XB::Test->new;
my $rig = XB::MoveRig->new($t, conf => 'XnatBalanceMove Drain', httpd => { threads => 64 },
                           with => { loading => 0.3 });
my ($h, $c, $n1, $n2) = ($rig->httpd, $rig->client, map { $rig->node($_) } qw(n1 n2));
my @at1 = map { "a$_" } 1 .. 4;
my @at2 = map { "b$_" } 1 .. 2;

sub restarts ($r, $name) { return scalar(() = $r->httpd->error_log =~ /XB0320: node $name /g) }

# Down until the module must have noticed, and up again; code: meanwhile. copies => 1: without
# losing its memory.
sub restart ($r, $name, %opt)
{
    my ($node, $before) = ($r->node($name), restarts($r, $name));
    $opt{copies} ? $node->XB::Server::stop : $node->stop;
    $r->idle(0.3);
    $opt{code}->() if $opt{code};
    $node->start;
    wait_for { restarts($r, $name) > $before } 10, "the restart of $name to be noticed";
    return;
}

sub missing ($kept, $has)
{
    return map {
        my ($user, %has) = ($_, map { ($_ => 1) } @{$has->($_) // []});
        map { "$user $_" } grep { !$has{$_} } @{$kept->{$user}};
    } sort keys %$kept;
}

sub lost ($r, $kept)
{
    return missing($kept, sub ($user) { $r->ask($user, '/read')->{json}{writes} });
}

# Six writes at once of each user, stored when it returns: the keys that were answered 200, and
# the other answers.
my $serial = 0;

sub burst ($r, @users)
{
    my @req = map { my $u = $_; map { { path => '/write?k=k' . ++$serial, user => $u } } 1 .. 6 }
        @users;
    my (%kept, @bad);
    for my $answer ($r->client->many(\@req, parallel => scalar @req)) {
        my ($key) = $answer->{request}{path} =~ /(k\d+)$/;
        $answer->{status} == 200 ? push @{$kept{$answer->{request}{user}}}, $key
            : push @bad, "$answer->{request}{user} $answer->{status}";
    }
    wait_for {
        !missing(\%kept, sub ($user) { $n1->stored($r->client->session($user)) })
    } 10, 'the writes to be stored' if !$r->{lossy};
    return (\%kept, @bad);
}

sub heads ($node, $id)
{
    my $base = XB::FakeMsm->base($id);
    return grep { $_->{id} =~ /^$base/ } $node->heads;
}

# Connections to the node, each of which has a process of its own.
sub connections ($node) { return $node->process->leftover - 1 }

$rig->only('n1');
$rig->login($_, 'n1') for @at1;
$rig->only('n2');
$rig->login($_, 'n2') for @at2;
$rig->open;
my ($kept) = burst($rig, @at1, @at2);

subtest 'restarted between two requests' => sub {
    restart($rig, 'n1');
    $_->clear for $n1, $n2;
    my $before = $rig->status->{gates}{waits};
    my ($others, @bad2) = burst($rig, @at2);
    is_deeply \@bad2, [], 'users of another node are served';
    is scalar($n2->heads), 0, '... without a HEAD';
    is $rig->status->{gates}{waits}, $before, '... or a wait';

    my ($more, @bad) = burst($rig, @at1);
    is_deeply \@bad, [], 'those of the restarted node are served, six requests of each at once';
    is_deeply [ lost($rig, $kept), lost($rig, $more), lost($rig, $others) ], [],
        '... with all that they wrote before and now';
    for my $user (@at1) {
        my $id = $c->session($user);
        my @heads = heads($n1, $id);
        is scalar @heads, 1, "one HEAD for $user";
        my @early = grep { $_->{time} < $heads[0]{time} && $_->{method} eq 'GET'
                           && ($_->{cookies}{JSESSIONID} // '') eq $id } $n1->requests;
        is scalar @early, 0, '... and no request before it';
    }
    $n1->clear;
    burst($rig, @at1);
    is scalar($n1->heads), 0, 'no further HEAD with their next requests';
};

subtest 'idle connections that the node closes are no restart' => sub {
    my $before = restarts($rig, 'n1');
    for (1 .. 3) {
        $n1->hang_up;
        wait_for { connections($n1) == 1 } 5, 'the watching connection';
    }
    $rig->idle(0.3);
    is connections($n1), 1, 'one connection watches the node';
    $n1->clear;
    my ($more, @bad) = burst($rig, @at1);
    is_deeply [ @bad, lost($rig, $more) ], [], 'its users are served';
    is scalar($n1->heads), 0, 'without a HEAD';
    is restarts($rig, 'n1'), $before, 'no restart in the log';
};

subtest 'down for long, and a member out of service' => sub {
    restart($rig, 'n1', code => sub { $rig->idle(1.5) });
    $n1->clear;
    my ($more, @bad) = burst($rig, $at1[0]);
    is_deeply [ @bad, lost($rig, $more) ], [], 'served';
    is scalar(heads($n1, $c->session($at1[0]))), 1, 'by one HEAD first';

    $h->manager('app', $n1->url, disabled => 1);
    my $before = restarts($rig, 'n1');
    $n1->hang_up;
    wait_for { connections($n1) == 1 } 5, 'the watching connection';
    $rig->idle(0.2);
    $h->manager('app', $n1->url, disabled => 0);
    is restarts($rig, 'n1'), $before,
        'a member out of service whose idle connection ends has not restarted';
};

subtest 'the mover dies' => sub {
    $t->allow_log(qr/AH00052: child pid \d+ exit signal Killed/);
    my $mover = $rig->mover_pid;
    $h->kill_child($mover);
    wait_for { $rig->mover_pid != $mover } 10, 'another mover';
    wait_for { connections($n1) >= 1 } 5, 'its connection';
    $rig->idle(0.3);
    restart($rig, 'n1');
    $n1->clear;
    my ($more, @bad) = burst($rig, @at1);
    is_deeply [ @bad, lost($rig, $more) ], [], 'its successor notices a restart';
    is scalar($n1->heads), @at1, '... and has each session brought back once';

    my ($last, $before) = ($rig->mover_pid, restarts($rig, 'n1'));
    $n1->stop;
    $rig->idle(0.3);
    kill KILL => $last;
    $n1->start;
    wait_for { $rig->mover_pid != $last } 10, 'the next mover';
    ok eval { wait_for { restarts($rig, 'n1') > $before } 3, 'it' },
        'one that sees the node up again only knows that it was down';
    $rig->idle(0.3);
    is restarts($rig, 'n1'), $before + 1, '... and says so once';
};

sub all_leave ($from, $to, @users)
{
    $rig->drain($from);
    for my $user (@users) {
        wait_for { $rig->ask($user, '/read')->{node} eq $to } 15, "$user at $to";
    }
    $rig->undrain($from);
    return;
}

subtest 'there and back' => sub {
    my @users = @at1[0, 1];
    my @kept;
    my $work = sub { push @kept, (burst($rig, @users))[0] };
    $rig->only('n1', 'n2');
    $work->();
    all_leave('n1', 'n2', @users);
    $work->();
    $rig->drain('n2');
    wait_for { $work->(); $rig->refused('no-target') } 10, 'a refusal';
    is $rig->ask($users[0], '/read')->{node}, 'n2',
        'no way back to a node that has an old copy';
    $rig->undrain('n2');
    $rig->idle(1);
    restart($rig, 'n1');
    all_leave('n2', 'n1', @users);
    $work->();
    is_deeply [ map { lost($rig, $_) } @kept ], [],
        'back after a restart, with all that was written at either node';

    $rig->only('n1', 'n3');
    all_leave('n1', 'n3', @users);
    $work->();
    $rig->idle(1);
    restart($rig, 'n1', copies => 1);
    $rig->drain('n3');
    wait_for { $work->(); ($rig->refused('no-proof-in-store') // 0) >= @users } 15,
        'the proofs to fail';
    is $rig->ask($_, '/read')->{node}, 'n3',
        "$_: not after a restart that was none: the old copy shows in the store" for @users;
    $work->();
    is_deeply [ map { lost($rig, $_) } @kept ], [], '... and nothing is lost';
    $rig->undrain('n3');
    $rig->open;
};

subtest 'a request that outlives its node' => sub {
    $rig->only('n1');
    $rig->login('d', 'n1');
    $rig->open;
    my ($first) = burst($rig, 'd');
    my $slow = $rig->send('d', '/bytes?n=40000000');    # answered, not read yet
    recv $slow, my $begun, 1, MSG_PEEK;
    my $sent = 0;
    wait_for {
        my $before = $sent;
        $sent = $rig->status->{balancers}[0]{members}[0]{bytes_out};
        $sent > 500_000 && $sent == $before;
    } 5, 'httpd to wait for its client';
    my $in_flight = sub { $rig->status->{sessions_by_state}{'in-flight'} };
    $t->allow_log(qr/AH01110/);
    restart($rig, 'n1');
    is $in_flight->(), 1, 'its client has yet to read';
    $rig->receive($slow);
    wait_for { !$in_flight->() } 5, 'its end';
    $n1->clear;
    my ($second, @bad) = burst($rig, 'd');
    is_deeply [ @bad, map { lost($rig, $_) } $first, $second ], [], 'served, nothing lost';
    is scalar(heads($n1, $c->session('d'))), 1,
        '... since its end is not taken for a sign of life of the new one';
};

subtest 'out of reach for a while, not restarted' => sub {
    $rig->only('n1');
    $rig->login('e', 'n1');
    $rig->open;
    my ($first) = burst($rig, 'e');
    $n1->hang_up;
    wait_for { connections($n1) == 1 } 5, 'the watching connection';
    my ($leader, $before) = ($n1->process->pid, restarts($rig, 'n1'));
    my ($watched) = grep { $_ != $leader } map { /^(\d+)/ } $n1->process->leftover;
    my $slow = $rig->send('e', '/write?k=slow&ms=3000');
    wait_for { $rig->status->{sessions_by_state}{'in-flight'} } 5, 'a request in flight';
    kill KILL => $leader, $watched;     # refuses connections; those that are open go on
    $rig->idle(0.3);
    $n1->start;
    wait_for { restarts($rig, 'n1') > $before } 10, 'n1 to be taken for restarted';
    my ($second, @bad) = burst($rig, 'e');
    is_deeply \@bad, [], 'the next requests are served';
    is $rig->receive($slow)->{status}, 200, 'the one that was in flight, too';
    is_deeply [ map { lost($rig, $_) } $first, $second, { e => ['slow'] } ], [], 'nothing is lost';
};

subtest 'up, but its applications are not' => sub {
    my @users = ('c1', 'c2');
    $rig->only('n1');
    $rig->login($_, 'n1') for @users;
    $rig->open;
    my ($first) = burst($rig, @users);
    restart($rig, 'n1');
    $n1->misbehave('hang');
    my $begin = time;
    my ($second, @bad) = burst($rig, @users);
    my $took = time - $begin;
    is_deeply \@bad, [], 'their requests wait at the gate, no longer than that';
    cmp_ok $took, '<', 4.5, sprintf '... %.1f s', $took;
    isnt $rig->ask($_, '/read')->{node}, 'n1', "... $_ goes on elsewhere" for @users;
    is_deeply [ map { lost($rig, $_) } $first, $second ], [], '... with all writes';
    $n1->behave;
    $t->allow_log(qr/AH01102: .* reading status line|AH00898: .*_xnat_balance_probe/);
    $n1->hang_up;
};

subtest 'members that are not plain HTTP' => sub {
    my $ajp = XB::Ajp->new($t, 'x1');
    my $tls = XB::Server->new($t, name => 'x2', code => sub ($conn) { $conn->until_closed });
    my $unix = XB::Server->new($t, name => 'x3', path => $t->mkdir('x3') . '/s',
                               code => sub ($conn) { $conn->until_closed });
    my $h2 = $t->httpd(name => 'others', modules => ['ssl'], conf => <<"END");
SSLProxyEngine On
XnatBalanceMove Drain
XnatBalanceMemcachedNodes "m1:@{[ $t->memcached->address ]}"
<Proxy "balancer://app">
BalancerMember ajp://@{[ $ajp->address ]} route=x1
BalancerMember https://@{[ $tls->address ]} route=x2
BalancerMember unix:@{[ $unix->{path} ]}|http://localhost/ route=x3
ProxySet lbmethod=xnat stickysession=JSESSIONID|jsessionid
</Proxy>
ProxyPass "/" "balancer://app/"
END
    for my $node ($ajp, $tls, $unix) {
        my $name = $node->name;
        wait_for { connections($node) == 1 } 10, "$name to be watched";
        $node->hang_up;
        wait_for { connections($node) == 1 } 10, "$name to be watched again";
        $node->stop;
        $rig->idle(0.3);
        $node->start;
        ok wait_for { $h2->error_log =~ /XB0320: node $name / } 10, "$name: a restart is noticed";
        is scalar(() = $h2->error_log =~ /XB0320: node $name /g), 1, '... and no hang-up';
    }
    $_->hang_up for $ajp, $tls, $unix;
    $h2->stop;
};

subtest 'control: without the rule' => sub {
    $t->allow_log(qr/XB0321/);          # the two know of each other
    $h->stop;
    my $control = XB::MoveRig->new($t, share => $rig, lossy => 1, conf => 'XnatBalanceMove Drain',
        httpd => { name => 'control', threads => 64,
                   module => 'build/control/256/mod_xnat_balance.so' });
    $control->only('n1');
    $control->login($_, 'n1') for @at1;
    $control->open;
    my ($first) = burst($control, @at1);
    restart($control, 'n1');
    $n1->clear;
    my ($more) = burst($control, @at1);
    is scalar($n1->heads), 0, 'no HEAD';
    my @lost = lost($control, $more);
    cmp_ok scalar @lost, '>', 0, scalar(@lost) . ' of 24 acknowledged writes are lost';
};
$t->finish;
