# SPDX-License-Identifier: Apache-2.0
# After a takeover that memcached contradicts nobody knows where copies of the session are: it makes no
# further voluntary move, neither when the rest after a refusal is over nor to a node that is well.
use v5.36;
use Test::More;
use XB::Test;
use XB::MoveRig;

my $t = XB::Test->new;
my $rig = XB::MoveRig->new($t, conf => <<'END');
XnatBalanceMove Drain
XnatBalanceMemcachedTimeout 1s
END
my $partial = sub { return $rig->status->{sessions_by_state}{partial} };
my @doubtful = qw(keeps never-stores forgets);
my $login_at_n1 = sub (@users) {
    $rig->undrain('n1');
    $rig->only('n1');
    return map { $_ => $rig->login($_, 'n1') } @users;
};

my %id = $login_at_n1->(@doubtful);
is $partial->(), 0, 'where the sessions have been is known';
$rig->node('n2')->misbehave($_, for => $id{$_}) for @doubtful;
$rig->only('n1', 'n2');
$rig->drain('n1');
wait_for { $rig->refused('no-proof-in-store') == @doubtful } 10, 'the refusals';
is $partial->(), 3, 'not of those without proof: they are counted as partial';
$rig->node('n2')->behave;

# Refused after them, for something that passes: when this one moves, the others' rest is over, too.
my %later = $login_at_n1->('later');
my $pin = 'xnat-balance:pin:' . XB::FakeMsm->base($later{later});
$rig->store($_)->set($pin, 'x') for qw(m1 m2);
$rig->open;
$rig->drain('n1');
wait_for { $rig->refused('pinned') } 10, 'another refusal';
$rig->store($_)->delete($pin) for qw(m1 m2);
my @at = map { $rig->ask($_, '/write?k=meanwhile')->{node} } @doubtful;
is "@at", 'n1 n1 n1', 'their home keeps them';
wait_for { $rig->moved } 20, 'the move of the other one';
isnt $rig->ask('later', '/read')->{node}, 'n1', 'a session that was only pinned moves after its rest';
for my $user (@doubtful) {
    my $r = $rig->ask($user, '/read');
    is "$r->{node} @{$r->{json}{writes}}", 'n1 meanwhile', "$user: one without proof does not";
}
is $rig->moved, 1, 'nothing else has moved';
is $partial->(), 3, 'those three are still partial';
$t->finish;
