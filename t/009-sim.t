# SPDX-License-Identifier: Apache-2.0
# The simulator: what stock balancing and the recommended policy do is frozen to the last digit, and
# the module's own policy is far better than stock. docs/simulation.md has the whole picture.
use v5.36;
use Test::More;

is(system('make -s build/sim/xb_sim'), 0, 'the simulator builds') or BAIL_OUT('no simulator');

sub figures ($args)
{
    my $line = `build/sim/xb_sim $args`;
    is($?, 0, "a run: $args");
    return {$line =~ /(\w+)=(\S+)/g};
}

# Workload, seeds and engine: c99 clicks, t99 transfers, mv moves per session-hour.
my %frozen = (
    'policy=bytraffic' => 'c99=67.694 t99=132.290 mv=0.00 nreq=487943',
    'policy=byrequests' => 'c99=3.762 t99=7.207 mv=0.00 nreq=542138',
    'policy=bybusyness' => 'c99=4.076 t99=7.652 mv=0.00 nreq=541173',
    'policy=recommended' => 'c99=1.484 t99=2.759 mv=2.05 nreq=543881',
);
for my $args (sort keys %frozen) {
    my $got = figures($args);
    is(join(' ', map { "$_=$got->{$_}" } qw(c99 t99 mv nreq)), $frozen{$args},
       "$args: as when it was frozen");
}

my $again = figures('policy=module real=1 end=1800');
is_deeply(figures('policy=module real=1 end=1800'), $again, 'the same seed, the same figures');
my $stock = figures('policy=bybusyness real=1 end=1800');
cmp_ok($again->{c99} * 1.5, '<', $stock->{c99}, 'p99 of clicks: a third below stock at least');
cmp_ok($again->{mv}, '<=', 3, 'at most three moves per session-hour');

# lbfactors that say nothing, on a fleet of 1:1:2:4
my ($blind, $seeing) = map { figures("policy=module weight=1,1,1,1 pace=$_") } 0, 1;
cmp_ok($seeing->{c99} * 1.4, '<', $blind->{c99}, 'wrong lbfactors: the pace of nodes is seen');

done_testing();
