# SPDX-License-Identifier: Apache-2.0
# Each rule of a move is needed: builds without it lose writes where the module loses none.
use v5.36;
use Test::More;
use Time::HiRes qw(time);
use XB::Test;
use XB::Site;
use XB::Users;
use XB::MoveRun;

{
    delete local @ENV{qw(MAKEFLAGS MAKELEVEL MFLAGS)};
    system('make', '-s', 'controls') == 0 or BAIL_OUT('make controls');
}
my $t = XB::Test->new;
my $site = XB::Site->new($t, conf => <<'END');
XnatBalanceMove Drain
XnatBalanceMemcachedTimeout 1s
END
my $runs = 0;
my $kept_away;          # by the rule VISITED

# New users at node 1 of a new httpd with that build do what the scenario says. Returns how many
# acknowledged writes their sessions lack afterwards, how many answers are wrong, how many
# sessions have moved, and the first in words.
sub losses ($without, $count, $scenario)
{
    my $build = "build/control/$without/mod_xnat_balance.so";
    $site->start_httpd(module => $without ? $build : 1, piped => $scenario == \&false_restart)
        if $runs++ || $without;
    my $users = XB::Users->new($site, names => [map { "r${runs}u$_" } 1 .. $count]);
    $site->only(1);
    $users->login($users->names);
    $site->only;
    $kept_away = !($without & 8);
    $scenario->($users);
    # The first answer at a new home may come from what memcached has, the next ones do not.
    $users->all(['/app/whoami']);
    my ($lost, $unkept) = (scalar $users->lost_writes, scalar $users->unkept_writes);
    my @wrong = @{$users->{wrong}};
    my $of = "$lost of $users->{acked} acknowledged";
    note(map { "$_\n" } @wrong[0 .. ($#wrong < 2 ? $#wrong : 2)]);
    note("$of, $unkept of all $users->{writes} writes are lost; moves "
         . XB::MoveRun::figures(map { $_->{ms} / 1000 } $site->moves));
    return ($lost, scalar @wrong, scalar $site->moves, $of);
}

# Has each session left the node, or failed to for want of proof? That it has been at all others
# is final only where that is a rule: a node that was slow to answer is no target for a while.
sub decided ($which, $users, $may_stay = 0)
{
    my $no = $site->refusals;
    return $site->member($which)->{moved_out} + ($no->{'no-proof-in-store'} // 0)
        + ($may_stay ? $no->{'no-target'} // 0 : 0) * $users->names >= $users->names;
}

sub all_leave ($which, $users, $may_stay = 0)
{
    $site->drain($which);
    # On a starved machine one may stay for another reason (probe-late).
    eval { wait_for { decided($which, $users, $may_stay) } 20, 'a decision for each session' }
        or note("after 20 s at node $which: ", explain($site->refusals));
    return;
}

sub needed ($rule, $bit, $count, $scenario, $share = 0.75)
{
    subtest $rule => sub {
        my ($lost, $wrong, $moved, $of) = losses(0, $count, $scenario);
        is("$lost $wrong", '0 0', 'the module loses nothing');
        cmp_ok($moved, '>=', $share * $count, "and moves sessions: $moved")
            or diag(explain($site->refusals));
        ($lost, $wrong, $moved, $of) = losses($bit, $count, $scenario);
        cmp_ok($lost, '>', 0, "without it $of writes are lost, $wrong wrong answers");
    };
    return;
}

# MSM leaves a write unwritten when a shorter request overlaps it; see 702-lost-writes.t.
needed('flush', 1, 20, sub ($users) {
    $users->all(['/app/slow?ms=400&at=end&write=late', '/app/slow?ms=150']);
    all_leave(1, $users);
});

# Two users never pause, the others' next requests come when a move may have begun. A session
# whose requests take longer than a second may be too busy to move (never-quiet).
needed('gate', 2, 24, sub ($users) {
    my $left = 0;
    $users->click(restless => [($users->names)[0, 1]], most => 15,
                  rounds => 1, pauses => [0.28, 0.31, 0.34],
                  at => [0.5 => sub ($now) { $site->drain(1) }],
                  until => sub ($now) {
                      $left ||= $now if decided(1, $users);
                      return $left && $now > $left + 1;
                  });
}, 0.25);

# From node 1 to node 2, more writes there, and back to node 1, which kept a copy.
sub return_trip ($users, $meanwhile = undef)
{
    $site->set(3, disabled => 1);
    $users->all(['/app/write?k=first']);
    all_leave(1, $users);
    $users->all(['/app/write?k=second', '/app/write?k=third']);
    $meanwhile->() if $meanwhile;
    $site->undrain(1);
    all_leave(2, $users, $kept_away && !$meanwhile);
    return;
}

# Node 1 cannot be reached for a moment, and so is taken for restarted: its copies count for
# nothing.
sub false_restart ($users)
{
    return return_trip($users, sub {
        my $later = time + 2.1;     # the table keeps whole seconds
        wait_for { time > $later } 10, 'a moment after the move';
        wait_for {
            $site->pipe->refuse(0.3);
            eval { wait_for { $site->httpd->error_log =~ /XB0320/ } 2, 'a restart' };
        } 20, 'node 1 to be taken for restarted';
    });
}

needed('the proof by keys', 4, 8, \&false_restart);
needed('visited nodes and the proof by keys', 12, 8, \&return_trip);
is(join(' ', (losses(8, 8, \&return_trip))[0, 1]), '0 0',
   'the proof alone refuses the way back, and nothing is lost');
cmp_ok($site->refusals->{'no-proof-in-store'}, '>=', 6, 'for three quarters of them at least');
is($site->member(2)->{moved_out}, 0, 'none of which has moved');
$t->allow_log(qr/AH01102|AH00898/);      # a HEAD on a connection that the node has just closed
$t->finish;
