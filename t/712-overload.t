# SPDX-License-Identifier: Apache-2.0
# One user's transfers fill a node: the others there are moved to the less loaded nodes.
use v5.36;
use Test::More;
use XB::Test;
use XB::Site;
use XB::Users;
use XB::MoveRun;

my $MOVES = 10;
my $t = XB::Test->new;
my $site = XB::Site->new($t, tomcat => {permits => 3, mbps => 10}, conf => <<'END');
XnatBalanceHalfLife 5s
XnatBalanceBusyHalfLife 2s
XnatBalanceMoveRate 5/s 5
END

my %at = (1 => ['heavy', map { "v$_" } 1 .. 24], 2 => [map { "w$_" } 1 .. 8],
          3 => [map { "x$_" } 1 .. 8]);
my $users = XB::Users->new($site, names => [map { @{$at{$_}} } 1 .. 3]);
for my $n (1 .. 3) {
    $site->only($n);
    $users->login(@{$at{$n}});
}
$site->only;

# Part of all requests in flight that node 1 has.
sub share
{
    my @busy = map { $site->member($_)->{occupancy} } 1 .. 3;
    return $busy[0] / ($busy[0] + $busy[1] + $busy[2] || 1);
}

my ($enough, $worst, $most, $score, $sessions) = (0, 0, 0);
$users->click(
    restless => ['heavy'], most => 25,
    does => {heavy => sub { '/data/bytes?n=4000000' }},
    until => sub ($now) {
        ($score, $sessions) = @{$site->member(1)}{qw(score sessions)};
        my $share = share();
        $worst = $score if $score > $worst;
        $most = $share if $share > $most;
        $enough ||= $now if $site->moves('overload') >= 1.5 * $MOVES;
        return $enough && $now > $enough + 3;
    });

my @moves = $site->moves('overload');
my $away = grep { $_->{from} eq 'tomcat1' } @moves;
cmp_ok($away, '>=', $MOVES, "$away moves away from the node with the transfers");
note('moves ' . XB::MoveRun::figures(map { $_->{ms} / 1000 } @moves));
my %seen;
is(scalar(grep { $seen{$_->{session}}++ } @moves), 0, 'no session twice');
like($users->id('heavy'), qr/\.tomcat1$/, 'its user, never quiet, stays');
cmp_ok($score, '<', ($worst + 1) / 2, sprintf 'its score was %.2f, is %.2f', $worst, $score);
cmp_ok($sessions, '<', @{$at{1}} / 2, "it has $sessions sessions of " . @{$at{1}});

my $share = share();
cmp_ok($share, '<', 0.8 * $most, sprintf 'of requests in flight it had %.0f %%, has %.0f %%',
       100 * $most, 100 * $share);

# Images need the node's capacity, not only time. A slow machine hides it: told, not tested.
my $end = $users->{times}[-1][0];
my @image = grep { $_->[2] =~ /^v/ && $_->[3] =~ /image/ } @{$users->{times}};
my %took = (before => [map { $_->[1] } grep { $_->[0] < 1.5 } @image],
            after => [map { $_->[1] } grep { $_->[0] > $end - 3 } @image]);
note("images for his neighbours $_ " . XB::MoveRun::figures(@{$took{$_}})) for qw(before after);

XB::MoveRun::nothing_lost($site, $users);
is_deeply([$site->unproven(map { $users->id($_) } $users->names)], [],
          'each session is where its id says');
$t->finish;
