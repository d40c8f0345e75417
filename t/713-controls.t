# SPDX-License-Identifier: Apache-2.0
# Each rule of a move is needed: builds without it lose writes where the module loses none.
use v5.36;
use Test::More;
use XB::Test;
use XB::Site;
use XB::Users;
use XB::MoveRun;

{
    delete local @ENV{qw(MAKEFLAGS MAKELEVEL MFLAGS)};
    system('make', '-s', 'controls') == 0 or BAIL_OUT('make controls');
}
my $t = XB::Test->new;
my $site = XB::Site->new($t, conf => 'XnatBalanceMove Drain');
my $runs = 0;

# New users at node 1 of a new httpd with that build do what the scenario says. Returns how many
# of their writes their sessions lack afterwards, how many answers are wrong, how many sessions
# have moved, and the first in words.
sub losses ($without, $count, $scenario)
{
    my $build = "build/control/$without/mod_xnat_balance.so";
    $site->start_httpd(module => $without ? $build : 1) if $runs++ || $without;
    my $users = XB::Users->new($site, names => [map { "r${runs}u$_" } 1 .. $count]);
    $site->only(1);
    $users->login($users->names);
    $site->only;
    $scenario->($users);
    # The first answer at a new home may come from what memcached has, the next ones do not.
    $users->all(['/app/whoami']);
    my $unkept = $users->unkept_writes;
    my @wrong = @{$users->{wrong}};
    note(map { "$_\n" } @wrong[0 .. ($#wrong < 2 ? $#wrong : 2)]);
    note('moves ' . XB::MoveRun::figures(map { $_->{ms} / 1000 } $site->moves));
    return ($unkept, scalar @wrong, scalar $site->moves, "$unkept of $users->{writes}");
}

# Has each session left the node, or failed to for want of proof?
sub decided ($which, $users)
{
    my $no = $site->refusals;
    return $site->member($which)->{moved_out} + ($no->{'no-proof-in-store'} // 0)
        + ($no->{'no-target'} // 0) * $users->names >= $users->names;
}

sub all_leave ($which, $users)
{
    $site->drain($which);
    return wait_for { decided($which, $users) } 20, 'a decision for each session';
}

sub needed ($rule, $bit, $count, $scenario)
{
    subtest $rule => sub {
        my ($unkept, $wrong, $moved, $of) = losses(0, $count, $scenario);
        is("$unkept $wrong", '0 0', 'the module loses nothing');
        cmp_ok($moved, '>=', 0.75 * $count, "and moves sessions: $moved");
        ($unkept, $wrong, $moved, $of) = losses($bit, $count, $scenario);
        cmp_ok($unkept, '>', 0, "without it $of writes are lost, $wrong wrong answers");
    };
    return;
}

# MSM leaves a write unwritten when a shorter request overlaps it; see 702-lost-writes.t.
needed('flush', 1, 20, sub ($users) {
    $users->all(['/app/slow?ms=400&at=end&write=late', '/app/slow?ms=150']);
    all_leave(1, $users);
});

needed('gate', 2, 8, sub ($users) {
    my $left = 0;
    $users->click(restless => [$users->names], most => 15,
                  at => [0.5 => sub ($now) { $site->drain(1) }],
                  until => sub ($now) {
                      $left ||= $now if decided(1, $users);
                      return $left && $now > $left + 1;
                  });
});

# From node 1 to node 2, more writes there, and back to node 1, which kept a copy.
sub return_trip ($users)
{
    $site->_set(3, disabled => 1);
    $users->all(['/app/write?k=first']);
    all_leave(1, $users);
    $users->all(['/app/write?k=second', '/app/write?k=third']);
    $site->undrain(1);
    all_leave(2, $users);
    return;
}

needed('visited nodes and the proof by keys', 12, 8, \&return_trip);
is(join(' ', (losses(8, 8, \&return_trip))[0, 1]), '0 0',
   'the proof alone refuses the way back, and nothing is lost');
is($site->refusals->{'no-proof-in-store'}, 8, 'for each session');
is($site->member(2)->{moved_out}, 0, 'none of which has moved');
$t->finish;
