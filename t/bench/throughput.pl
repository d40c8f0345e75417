#!/usr/bin/env perl
# SPDX-License-Identifier: Apache-2.0
# Sticky requests at full speed on 32 kept-alive connections, each of another session: the module
# (with a store, moves on) beside bytraffic, and with 1,000,000 sessions in its table beside 1,000.
# In each round all are measured once for a second, in an order drawn anew; the ratios within rounds
# count. A second bytraffic is the control:
#   perl -It/lib t/bench/throughput.pl [rounds] [sessions]
# cpu: processor time that the proxy's process takes for a request.
use v5.36;
use List::Util qw(shuffle);
use XB::Test;
use XB::Bench qw(interval);

my ($ROUNDS, $MANY) = ($ARGV[0] // 40, $ARGV[1] // 1_000_000);
my $FEW = 1000;
my $t = XB::Test->new;
my $bench = XB::Bench->new($t);

# Gives the figures of each by rounds. Measured once before, so that all connections are there.
sub rounds (%run)
{
    my %got;
    for my $round (0 .. $ROUNDS) {
        for my $name (shuffle sort keys %run) {
            my $r = $bench->wrk($run{$name}{httpd}, 1, $run{$name}{sessions});
            push @{$got{$name}}, $r if $round;
        }
    }
    return \%got;
}

sub ratio ($got, $name, $base, $what)
{
    my @x = map { $got->{$name}[$_]{$what} / $got->{$base}[$_]{$what} } 0 .. $ROUNDS - 1;
    return sprintf '%.4f (%.4f to %.4f)', interval(@x);
}

sub report ($got, $title, $name, $base)
{
    my ($own) = interval(map { $_->{per_s} } @{$got->{$name}});
    my ($cpu) = interval(map { $_->{cpu_us} } @{$got->{$name}});
    printf "%-32s %8.0f %7.1f   %-26s %-26s\n", $title, $own, $cpu,
        ratio($got, $name, $base, 'per_s'), ratio($got, $name, $base, 'cpu_us');
    return;
}

printf "%d rounds; ratio: mean (95 %% confidence interval)\n", $ROUNDS;
printf "%-32s %8s %7s   %-26s %-26s\n", '', 'per s', 'cpu us', 'ratio per s', 'ratio cpu';

my %run = map { $_->[0] => { httpd => $bench->proxy($_->[1], name => $_->[0], @$_[ 2 .. $#$_ ]),
                             sessions => $FEW } }
    [ 'stock', 'bytraffic' ], [ 'again', 'bytraffic' ], [ 'xnat', 'xnat', moves => 1 ];
$bench->fill($run{xnat}{httpd}, $FEW);
my $got = rounds(%run);
report($got, 'bytraffic', 'stock', 'stock');
report($got, 'bytraffic, once more', 'again', 'stock');
report($got, 'xnat', 'xnat', 'stock');
$_->{httpd}->stop for values %run;

%run = map { my $n = $_; $n => { sessions => $n, httpd => $bench->proxy('xnat', name => "xnat-$n",
                                 moves => 1, sessions => 1.3 * $MANY) } } $FEW, $MANY;
$bench->fill($run{$_}{httpd}, $_) for $FEW, $MANY;
$got = rounds(%run);
report($got, "xnat, $FEW sessions", $FEW, $FEW);
report($got, "xnat, $MANY sessions", $MANY, $FEW);
$t->shut_down;
