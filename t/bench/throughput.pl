#!/usr/bin/env perl
# SPDX-License-Identifier: Apache-2.0
# Sticky requests at full speed on kept-alive connections, each of another session: the module (with
# a store, moves on) beside bytraffic, and with 1,000,000 sessions in its table beside 1,000. Two
# proxies are measured at the same time, for a second, so that other work on the machine takes from
# both; what counts is the ratio of the two. A pair of equals is the control. Pairs take turns:
#   perl -It/lib t/bench/throughput.pl [rounds] [sessions]
# cpu: processor time that the proxy's process takes for a request, with the kernel's part.
use v5.36;
use XB::Test;
use XB::Bench qw(median);

my ($ROUNDS, $MANY) = ($ARGV[0] // 60, $ARGV[1] // 1_000_000);
my $FEW = 1000;
my $t = XB::Test->new;
my $bench = XB::Bench->new($t);

# Each pair [a, b], of [httpd, sessions], in each round. Round 0 opens the connections.
sub rounds (%pair)
{
    my %got;
    for my $round (0 .. $ROUNDS) {
        for my $name (sort keys %pair) {
            my @both = @{$pair{$name}};
            my @r = $bench->wrk(1, $round % 2 ? reverse @both : @both);
            push @{$got{$name}}, [ $round % 2 ? reverse @r : @r ] if $round;
        }
    }
    return \%got;
}

sub report ($title, $got)
{
    my @field = map {
        my $what = $_;
        my @own = map { (median(map { $_->{$what} } @$_))[0] }
            [ map { $_->[0] } @$got ], [ map { $_->[1] } @$got ];
        (@own, sprintf '%.4f (%.4f to %.4f)', median(map { $_->[1]{$what} / $_->[0]{$what} } @$got));
    } qw(per_s cpu_us);
    printf "%-36s %6.0f %6.0f  %-25s %6.1f %6.1f  %-25s\n", $title, @field;
    return;
}

printf "%d pairs; medians; ratio b/a with its 95 %% confidence interval\n", $ROUNDS;
printf "%-36s %6s %6s  %-25s %6s %6s  %-25s\n", 'a and b', 'a/s', 'b/s', 'ratio', 'a us', 'b us',
    'ratio of cpu';

my %run = map { $_->[0] => [ $bench->proxy($_->[1], name => $_->[0], @$_[ 2 .. $#$_ ]), $FEW ] }
    [ 'stock', 'bytraffic' ], [ 'again', 'bytraffic' ], [ 'base', 'bytraffic' ],
    [ 'xnat', 'xnat', moves => 1 ];
$bench->fill(@{$run{xnat}});
my $got = rounds(control => [ @run{qw(stock again)} ], module => [ @run{qw(base xnat)} ]);
report('bytraffic and bytraffic', $got->{control});
report('bytraffic and xnat', $got->{module});
$_->[0]->stop for values %run;

%run = map { my ($name, $n) = @$_;
             $name => [ $bench->proxy('xnat', name => $name, moves => 1, sessions => 1.3 * $MANY), $n ]
       } [ one => $FEW ], [ two => $FEW ], [ few => $FEW ], [ many => $MANY ];
$bench->fill(@$_) for values %run;
$got = rounds(control => [ @run{qw(one two)} ], table => [ @run{qw(few many)} ]);
report("xnat, $FEW and $FEW sessions", $got->{control});
report("xnat, $FEW and $MANY sessions", $got->{table});
$t->shut_down;
