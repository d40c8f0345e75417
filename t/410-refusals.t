# SPDX-License-Identifier: Apache-2.0
# A move that cannot be shown to be safe does not happen: each refusal is counted under its word
# and logged once, the session goes on at its old home, and is left alone for a while.
use v5.36;
use Test::More;
use XB::Test;
use XB::MoveRig;

my $t = XB::Test->new;
my $rig = XB::MoveRig->new($t, nodes => [qw(n1 n2)], conf => <<'END');
XnatBalanceGateTimeout 3s
XnatBalanceMemcachedTimeout 1s
END
my ($n1, $n2) = map { $rig->node($_) } qw(n1 n2);
my $m1 = $rig->store('m1');
my $base = sub ($id) { return XB::FakeMsm->base($id) };
my $value = sub ($id, %f) { return $m1->set($id, XB::FakeMsm->value($id, %f)) };
my $stranger = 'F' x 32 . '-m1.n1';

# What is wrong with each session, by the word that it leads to. `before`: no node is asked.
my $past = time * 1000 - 60_000;
my %before = (
    'pinned' => [
        sub ($id) { $rig->store('m2')->set('xnat-balance:pin:' . $base->($id), 'import') } ],
    'store-value-unknown' => [ sub ($id) { $m1->set($id, "\1") },
                               sub ($id) { $value->($id, version => 3) } ],
    'not-serializable' => [ sub ($id) {
        $m1->set($id, XB::FakeMsm->value($id) . "t\0 ___NOT_SERIALIZABLE_EXCEPTION___") } ],
    'store-value-of-another-session' => [ sub ($id) { $value->($id, id => $stranger) } ],
    'session-invalid' => [ sub ($id) { $value->($id, valid => 0) } ],
    'session-expiring' => [ sub ($id) { $value->($id, max_inactive => 9) },
                            sub ($id) { $value->($id, max_inactive => 65, created => $past,
                                                 this_accessed => $past, accessed => $past) } ],
);
my %at_home = (
    'flush-failed' => [qw(drop hang never-stores)],
    'renamed-by-home' => [qw(renames)],
    'not-in-store' => [qw(never-stores)],
);
my %at_target = (
    'probe-failed' => [qw(drop)],
    'probe-late' => [qw(hang late)],
    'no-proof-in-cookie' => [qw(deaf error other-base other-route)],
    'renamed-by-target' => [qw(redraws)],
    'taken-by-another-context' => [qw(other-path)],
    'no-proof-in-store' => [qw(keeps never-stores forgets)],
);

$rig->only('n1');
my (%id, %expected, %untouched);
my $session = sub ($word, %query) {
    my $user = "$word-" . ++$expected{$word};
    $id{$user} = $rig->login($user, 'n1', %query);
    return ($user, $id{$user});
};

for my $word (sort keys %before) {
    for my $spoil (@{$before{$word}}) {
        my ($user, $id) = $session->($word);
        $spoil->($id) or die "$word: could not be prepared";
        $untouched{$user} = 1;
    }
}
for my $node (['store-node-unknown', node => 'm9'], ['cookie-path-unknown', path => '/other']) {
    my ($user) = $session->(@$node);
    $untouched{$user} = 1;
}
for my $word (sort keys %at_home) {
    for my $how (@{$at_home{$word}}) {
        my ($user, $id) = $session->($word);
        $n1->misbehave($how, for => $id);
        $m1->delete($id) if $word eq 'not-in-store';
    }
}
for my $word (sort keys %at_target) {
    for my $how (@{$at_target{$word}}) {
        my ($user, $id) = $session->($word);
        $n2->misbehave($how, for => $id, ms => $how eq 'late' ? 3000 : 0);
    }
}
my ($restless) = $session->('never-quiet');
my $download = $rig->send($restless, '/trickle?n=130&ms=100');
$rig->login('good', 'n1');
# MSM may not store a session under the id that it gets by a login; the flush makes it.
$m1->delete($rig->login('unstored', 'n1'));

# Nowhere to go yet: n2 takes no sessions.
$rig->drain('n1');
$expected{'no-target'} = 1;
wait_for { my %r = $rig->refusals; $r{'no-target'} } 5, 'a refusal without target';
is $rig->status->{moves_by_reason}{drain}, 0, 'no target: nothing moves';

$rig->open;
eval {
    wait_for {
        my %refused = $rig->refusals;
        !grep { ($refused{$_} // 0) < $expected{$_} } keys %expected;
    } 20, 'all refusals';
} or diag $@;
my $status = $rig->status;
delete $expected{'no-target'};          # is no move that failed: none was begun
my (%refused, %times);
for my $move (grep { !$_->{moved} } @{$status->{recent_moves}}) {
    $refused{ $move->{why} }{ $move->{session} } = 1;
    push @{$times{ $move->{session} }}, $move->{seconds_ago};
}
$_ = keys %$_ for values %refused;
is $refused{$_}, $expected{$_}, "refused: $_" for sort keys %expected;
is_deeply [ grep { !$expected{$_} } sort keys %refused ], [], 'nothing else is';
is_deeply [ grep { @$_ > 1 && $_->[1] - $_->[0] < 9 } values %times ], [],
    'and is then left alone for ten seconds';
is $status->{sessions_by_state}{moving}, 0, 'all gates are open';
is $rig->ask('good', '/read')->{node}, 'n2', 'the one with nothing wrong has moved';
is $rig->ask('unstored', '/read')->{node}, 'n2', 'so has one that was not stored before';
is $status->{moves_by_reason}{drain}, 2, 'nothing else has';

my $log = $rig->httpd->error_log;
for my $word (sort keys %expected, 'no-target') {
    my @lines = $log =~ /(XB0302: session \w+ stays on n1, not moved to .*: \Q$word\E )/g;
    is @lines, 1, "$word: logged once";
}
like $log, qr/: renamed-by-target \(leave .* out of that Tomcat's failoverNodes\)/,
    'and what to do where the word does not say it';
unlike $log, qr/[0-9A-F]{32}/, 'no log line holds a session id';

my %heads;
$heads{ $_->{id} }++ for $n1->heads, $n2->heads;
is_deeply [ grep { $heads{ $id{$_} } } sort keys %untouched ], [],
    'a session that is refused for what memcached holds is not touched at any node';
my %asked = map { $_->{id} => 1 } $n2->heads;
is_deeply [ grep { $asked{ $id{$_} } }
            grep { /^(?:flush|renamed-by-home|never|not-in)/ } sort keys %id ], [],
    'nor is the target asked for one that was not quiet or not flushed';

# Usable where they were. What a rename by the home itself does to its clients is MSM's doing.
for my $user (grep { $_ ne 'renamed-by-home-1' } sort keys %id) {
    my $r = $rig->ask($user, "/write?k=$user");
    is "$r->{status} $r->{node} @{$r->{json}{writes} // []}", "200 n1 $user",
        "$user goes on at its old home";
}
is $rig->receive($download)->{status}, 200, 'the long download ended well';
$_->hang_up for $n1, $n2;
$t->expect_log(qr/XB0114/);             # two members: no overload moves
$t->allow_log(qr/AH01102|AH00898/);     # mod_proxy's words for a HEAD without answer
$t->finish;
