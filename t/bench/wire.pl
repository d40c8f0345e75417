#!/usr/bin/env perl
# SPDX-License-Identifier: Apache-2.0
# What users feel with this module and with the balancers that one would take instead, on real
# Tomcats whose capacity is limited by timers:  make bench, or
#
#   perl -It/lib t/bench/wire.pl runs=3 scenes=noisy,slow fronts=bytraffic,xnat
#   perl -It/lib t/bench/wire.pl report [svg=docs] [scenes=...]      # of the runs that there are
#
# Time runs ten times as fast as at a site: people think for half a second instead of five, and
# half-lives, rest, rate of moves and what the others wait before they try a node again are scaled
# alike. Each round runs every front end once on every scene, in another order, and each run is kept
# in build/bench/runs.jsonl (file=...): those of the same program count. Prints one table a scene,
# medians over the runs (least to most), and draws one plot a scene, bench-<scene>.svg, in
# build/bench (svg=...).
use v5.36;
use List::Util qw(max shuffle);
use XB::Test;
use XB::Plot;
use XB::Runs qw(median);
use XB::Scene;

my $report = @ARGV && $ARGV[0] eq 'report' && shift @ARGV;
my %opt = (runs => 3, scenes => join(',', XB::Scene->names), fronts => join(',', XB::Scene->fronts),
           file => 'build/bench/runs.jsonl', svg => 'build/bench', map { split /=/, $_, 2 } @ARGV);
my @scenes = split /,/, $opt{scenes};
my $runs = XB::Runs->new($opt{file});

# A run in which this program itself had to wait for the processor tells nothing of the front end.
sub undisturbed ($fleet, $front, $scene)
{
    for (1 .. 3) {
        my $r = $fleet->run($front, $scene) // return undef;
        return $r if $r->{stalled} < 1;
        say STDERR sprintf '%s %s: the machine stood still for %.1f s, not counted', $scene, $front,
            $r->{stalled};
    }
    return undef;
}

sub measure ()
{
    my %wanted = map { $_ => 1 } split /,(?! )/, $opt{fronts};
    my @fronts = grep { $wanted{$_} } XB::Scene->fronts;
    my $t = XB::Test->new;
    my $fleet = XB::Scene->new($t);
    for my $round (1 .. $opt{runs}) {
        for my $scene (@scenes) {
            for my $front (shuffle @fronts) {
                my $r = undisturbed($fleet, $front, $scene) // next;
                $runs->add({%$r, round => "$^T.$round", scene => $scene, front => $front});
                my @figures = grep { defined $r->{$_} && !ref $r->{$_} } sort keys %$r;
                say STDERR join ' ', "round $round $scene $front:",
                    map { sprintf '%s %.2f', $_, $r->{$_} } @figures;
            }
        }
    }
    $t->shut_down;
    return;
}

# ---- tables

# The first column is what is compared with bytraffic in the same round.
my @BEFORE = ([before => 'p90 before, ms'], [ratio => 'after / before'],
              [back => 'back after, s']);
my %COLUMNS = (
    steady    => [[p99 => 'click p99, ms'], [p50 => 'p50, ms']],
    noisy     => [[after => "victims' p90 from 5 s on, ms"], @BEFORE],
    drain     => [[p99 => 'click p99, ms'], [left => 'node left after, s'],
                  [wrong => 'wrong answers']],
    crash     => [[p99 => 'click p99, ms'], [wrong => 'wrong answers'],
                  [logins => 'lost logins'], @BEFORE],
    slow      => [[after => "victims' p90 from 5 s on, ms"], @BEFORE,
                  [p99 => "all users' p99, ms"]],
    recovered => [[after => 'p90 from 5 s after its return on, ms'], [before => 'p90 before, ms'],
                  [p99 => 'click p99, ms'], [fair => 'fair share after, s'],
                  [peak => 'peak share, %'], [wrong => 'wrong answers']],
    rolling   => [[p99 => 'click p99, ms'], [wrong => 'wrong answers'], [logins => 'lost logins'],
                  [lost => 'lost writes'], [took => 'all restarted after, s']],
);

sub table ($scene)
{
    my $of = $runs->of($scene);
    my @columns = @{$COLUMNS{$scene}};
    my ($main) = $columns[0][0];
    say "\n### $scene\n";
    say join ' | ', '| front end', $columns[0][1], "\N{U+00D7} bytraffic",
        (map { $_->[1] } @columns[1 .. $#columns]), 'runs |';
    say '|' . '---|' x (@columns + 3);
    for my $front (grep { $of->{$_} } XB::Scene->fronts) {
        my @r = @{$of->{$front}};
        my ($first, @more) = map { $runs->cell($_->[0], @r) } @columns;
        say join ' | ', "| $front", $first, $runs->ratios($main, 'bytraffic', @r), @more, @r . ' |';
    }
    return;
}

# ---- plots

my %COLOUR = (
    'bytraffic' => '#444', 'bytraffic again' => '#aaa', 'byrequests' => '#c80',
    'bybusyness' => '#38c', 'haproxy' => '#808', 'nginx' => '#292', 'mod_jk-traffic' => '#852',
    'mod_jk-busyness' => '#d5a', 'xnat, no moves' => '#f77', 'xnat' => '#c00');

# As far as half of the runs go.
sub points (@runs)
{
    my @points;
    for my $i (0 .. max(map { $#{$_->{series}} } @runs)) {
        my @y = grep { defined } map { $_->{series}[$i] } @runs;
        push @points, [$i + 0.5, median(@y)] if @y && 2 * @y >= @runs;
    }
    return \@points;
}

sub plot ($scene)
{
    my $of = $runs->of($scene);
    my @lines = map {
        {name => $_, colour => $COLOUR{$_}, points => points(@{$of->{$_}}),
         width => $_ eq 'xnat' ? 3 : 1.5, dash => (/again|no moves/ ? 1 : 0)}
    } grep { $of->{$_} } XB::Scene->fronts;
    my $end = max(map { $_->{points}[-1][0] } @lines);
    my $whose = XB::Scene->befalls($scene) ? "victims' clicks" : 'all clicks';
    my $step = $end > 20 ? 4 : 2;
    XB::Plot::draw(
        "$opt{svg}/bench-$scene.svg", lines => \@lines, marks => [XB::Scene->event($scene)],
        title => "$scene: 90th percentile of $whose", x_label => 'seconds of the run',
        x_ticks => [map { $step * $_ } 0 .. int $end / $step + 0.99], y_label => 'ms (log)');
    return;
}

binmode STDOUT, ':encoding(UTF-8)';
measure() if !$report;
say sprintf '%d runs of another program are left out.', $runs->others if $runs->others;
for my $scene (grep { %{$runs->of($_)} } @scenes) {
    table($scene);
    plot($scene);
}
