# SPDX-License-Identifier: Apache-2.0
# Draining: who is in use leaves at a quiet moment, who is idle stays and is verified once, and
# the status says when the node may be stopped.
use v5.36;
use Test::More;
use Time::HiRes qw(time);
use XB::Test;
use XB::MoveRig;

my $TRANSFER_SECONDS = $ENV{XB_TRANSFER_SECONDS} // 5.5;
my $t = XB::Test->new;
# Nodes n1 and n2 drain and n3 is out of service: nobody can leave, so all are verified.
my $stay = XB::MoveRig->new($t, httpd => { name => 'stay' }, conf => <<'END');
XnatBalanceMove Drain
XnatBalanceProbe /_probe
END
my $leave = XB::MoveRig->new($t, conf => 'XnatBalanceMove Drain', httpd => { name => 'leave' });

sub member ($rig, $route)
{
    my ($balancer) = @{$rig->status->{balancers}};
    return (grep { $_->{route} eq $route } @{$balancer->{members}})[0];
}

# Those of its figures that tell how far a drain is.
sub left ($rig, $route)
{
    my $m = member($rig, $route);
    return join ' ', (map { $m->{"sessions_$_"} } qw(active verified unmovable)),
        $m->{requests_left}, $m->{safe_to_stop} ? 'safe' : 'not safe';
}

sub heads ($node, $id)
{
    my $base = XB::FakeMsm->base($id);
    return scalar grep { $_->{id} =~ /^$base/ } $node->heads;
}

# ---- they that stay: left alone for five seconds, while the others leave

my ($s1, $c) = ($stay->node('n1'), $stay->client);
my %id;
$stay->only('n1');
$id{$_} = $stay->login($_, 'n1') for qw(idle comes-back unstored);
# MSM has left it out of memcached, as it does after some logins, and takes its time to store it.
$stay->store('m1')->delete($id{unstored});
$s1->misbehave('stores-late', for => $id{unstored}, ms => 400);
$stay->only('n2');
$id{pinned} = $stay->login('pinned', 'n2');
my $pin = 'xnat-balance:pin:' . XB::FakeMsm->base($id{pinned});
$stay->store($_)->set($pin, 'x') for qw(m1 m2);
$stay->only('n1');
my @invented = map { $s1->session_id } 1 .. 5;
is $c->get('/read', cookie => "JSESSIONID=$_")->{status}, 401, 'an invented id' for @invented;
is left($stay, 'n1'), '8 0 0 0 not safe', 'a node that does not drain is not safe to stop';
$stay->drain($_) for qw(n1 n2);
$stay->only('n1', 'n2');
my $last_use = time;

# ---- they that leave

my ($l1, $d, $h) = ($leave->node('n1'), $leave->client, $leave->httpd);
# Without XnatBalanceProbe nobody can be asked about a session whose cookie was never seen.
my $unasked = XB::Client->new(base => $l1->url)->get('/login')->{body} =~ s/\s//gr;
$d->get('/read', cookie => "JSESSIONID=$_") for $unasked, $l1->session_id;
my @quiet = map { "q$_" } 1 .. 4;
$leave->only('n1');
$leave->login($_, 'n1') for @quiet, qw(transfer busy);
$leave->open;

# Home of a user's requests: that of the last answer.
my (%home, %took, @bad, %kept, $drained, $moved_away);

sub click ($user, $ms) { return { user => $user, path => '/write?k=k' . ++$home{n} . "&ms=$ms" } }

sub done ($answer, $req)
{
    my $user = $req->{user};
    my $json = $answer->{status} == 200 && $answer->{body} =~ /^\{/
        ? JSON::PP::decode_json($answer->{body}) : {};
    push @bad, "$user $answer->{status} $answer->{error}" if !$json->{node};
    push @{$took{$user}}, $answer->{time};
    push @{$kept{$user}}, $req->{path} =~ /k=(k\d+)/;
    $moved_away //= time if $user eq 'busy' && ($json->{node} // 'n1') ne 'n1';
    return;
}

subtest 'active sessions leave' => sub {
    my $bytes = int 10 * $TRANSFER_SECONDS;
    my $slow = $leave->send('transfer', "/trickle?n=$bytes&ms=100");
    my $begun = time;
    wait_for { grep { $_->{path} eq '/trickle' } $l1->requests } 5, 'a long transfer';
    my ($open, $asked, $next) = (0, 0, 0);
    my $end = time + 20;
    $d->run(
        parallel => 9,
        next => sub {
            my $now = time;
            return undef if $now > $end || ($moved_away && $now > $moved_away + 0.5);
            $drained //= do { $leave->drain('n1'); time };
            return ++$open && click('busy', 200) if $open < 3;      # never quiet
            return ++$asked && click('transfer', 10) if !$asked;
            if ($now > $next) {
                $next = $now + 0.5;
                return click('q1', 10);
            }
            return 0.02;
        },
        done => sub ($answer, $req) {
            $open-- if $req->{user} eq 'busy';
            $asked-- if $req->{user} eq 'transfer';
            done($answer, $req);
        });
    is_deeply \@bad, [], scalar(map { @$_ } values %took) . ' requests meanwhile: all answered';
    for my $user (@quiet) {
        isnt $leave->ask($user, '/read')->{node}, 'n1', "$user has left";
    }
    isnt $leave->ask('busy', '/read')->{node}, 'n1', 'so has one that was never quiet';
    my $after = ($moved_away // 1e9) - $drained;
    cmp_ok $after, '<', 6, sprintf '... after %.1f s', $after;
    my %at;
    do {
        my $asked = time;
        $at{ $leave->ask('transfer', '/read')->{node} }++;
        push @{$took{transfer}}, time - $asked;
        $leave->idle(0.2);
    } while (time < $begun + $TRANSFER_SECONDS - 1);
    is join(' ', keys %at), 'n1', 'its session stays until then';
    my %most = map { $_ => (sort { $a <=> $b } @{$took{$_}})[-1] } keys %took;
    cmp_ok $most{$_}, '<', 2.5, sprintf "$_ waited %.2f s at most", $most{$_}
        for qw(busy transfer);
    my ($waits, $most_waits) = (scalar(grep { $_ > 0.6 } @{$took{transfer}}),
                                1 + $TRANSFER_SECONDS / 120);
    cmp_ok $waits, '<=', $most_waits, "the requests beside the transfer waited so $waits times";
    is member($leave, 'n1')->{requests_left}, 1, 'the node has that one request to end';
    is length $leave->receive($slow)->{body}, $bytes, 'it is whole';
    wait_for { $leave->ask('transfer', '/read')->{node} ne 'n1' } 5, 'its session to leave';
    for my $user (sort keys %took) {
        my %has = map { ($_ => 1) } @{$leave->ask($user, '/read')->{json}{writes}};
        is_deeply [ grep { !$has{$_} } @{$kept{$user}} ], [], "$user: no write is lost";
    }
};

subtest 'out of service by hand' => sub {
    wait_for { left($leave, 'n1') eq '0 0 1 0 not safe' } 15, 'the others to be done with';
    like $h->error_log, qr/XB0302: .* \(drain\): cookie-path-unknown/,
        'a session that nobody can be asked about cannot be verified';
    my $n2 = $leave->node('n2');
    $leave->only('n2');
    $leave->login('late', 'n2');
    $leave->open;
    my $running = $leave->send('late', '/write?k=last&ms=500');
    wait_for { grep { $_->{uri} =~ /k=last/ } $n2->requests } 10, 'a request';
    $h->manager('app', $n2->url, disabled => 1);
    my $r = $leave->ask('late', '/read');
    is $r->{status}, 200, 'the next request is answered';
    isnt $r->{node}, 'n2', '... elsewhere';
    is scalar(grep { $_ eq 'last' } @{$r->{json}{writes}}), 1, '... with what was under way';
    is $leave->receive($running)->{status}, 200, 'which is answered too';
};

subtest 'idle sessions are verified' => sub {
    wait_for { (split ' ', left($stay, 'n1'))[0] == 0 } 15, 'the verifications';
    cmp_ok time - $last_use, '>', 4, 'some seconds after their last use';
    is left($stay, 'n1'), '0 3 0 0 safe', 'three sessions in the store; invented ids have ended';
    wait_for { (split ' ', left($stay, 'n2'))[0] == 0 } 15, 'the other node';
    is left($stay, 'n2'), '0 0 1 0 not safe', 'a pinned one cannot be moved';
    is heads($s1, $id{$_}), 1, "one HEAD to verify $_" for qw(idle comes-back unstored);
    cmp_ok heads($s1, $_), '<=', 2, 'two at most for an invented id' for $invented[0];

    my $running = $stay->send('comes-back', '/write?k=again&ms=800');
    wait_for { grep { $_->{uri} =~ /again/ } $s1->requests } 10, 'a request';
    is left($stay, 'n1'), '1 2 0 1 not safe', 'one who comes back is active';
    $stay->receive($running);
    is left($stay, 'n1'), '1 2 0 0 not safe', '... after the answer too';
    wait_for { left($stay, 'n1') eq '0 3 0 0 safe' } 15, 'its verification';
    is heads($s1, $id{'comes-back'}), 2, '... is verified once more';
    cmp_ok time - $last_use, '>', 10, 'and meanwhile';
    is heads($s1, $id{idle}), 1, '... nobody has touched the idle one again';

    $stay->only('n1', 'n2', 'n3');
    is $stay->ask('comes-back', '/write?k=third')->{status}, 200, 'one who comes back';
    wait_for { ($stay->ask('comes-back', '/read')->{node} // '') eq 'n3' } 10, 'it to leave';
    my %has = map { ($_ => 1) } @{$stay->ask('comes-back', '/read')->{json}{writes}};
    ok $has{again} && $has{third}, '... leaves, with its writes, when there is a node for it';
};

subtest 'a session that httpd does not know' => sub {
    is member($stay, 'n1')->{sessions_unknown_s}, 0, 'nothing speaks for one before';
    my $direct = XB::Client->new(base => $s1->url);
    my $id = $direct->get('/login')->{body} =~ s/\s//gr;
    is $c->get('/read', cookie => "JSESSIONID=$id")->{status}, 200, 'one comes';
    wait_for { (split ' ', left($stay, 'n1'))[0] == 0 } 15, 'it to leave, or its verification';
    like left($stay, 'n1'), qr/^0 \d 0 0 not safe$/, 'there may be others: the node is not safe';
    my $seconds = member($stay, 'n1')->{sessions_unknown_s};
    my $least = 1730 - (time - $last_use);
    ok $seconds > $least && $seconds <= 1861, 'until they must have expired' or diag $seconds;
    $s1->stop;
    $stay->idle(0.5);
    $s1->start;
    wait_for { $stay->httpd->error_log =~ /XB0320: node n1 / } 10, 'a restart';
    is member($stay, 'n1')->{sessions_unknown_s}, 0, '... or it has restarted';
};
$t->finish;
