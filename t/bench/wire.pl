#!/usr/bin/env perl
# SPDX-License-Identifier: Apache-2.0
# What users feel with this module and with the balancers that one would take instead, on real
# Tomcats whose capacity is limited by timers:  make bench, or
#
#   perl -It/lib t/bench/wire.pl runs=3 scenes=noisy,slow fronts=bytraffic,xnat
#
# Time runs ten times as fast as at a site: people think for half a second instead of five, and
# half-lives, rest and rate of moves are scaled alike. Each round runs every front end once on
# every scene, in another order. Prints one table a scene: medians over the rounds (least to most).
use v5.36;
use List::Util qw(max min shuffle);
use Time::HiRes qw(time);
use XB::Test;
use XB::Front;
use XB::Site;
use XB::Users;

my $SPEED = 10;
my ($USERS, $EVENT_S, $END_S, $BACK) = (48, 4, 16, 1.5);
my %KIND = (
    'bytraffic again' => ['bytraffic'],             # A/A: what the noise is
    'xnat'            => ['xnat', conf => conf('On')],
    'xnat, no moves'  => ['xnat', conf => conf('Off')],
);
my @FRONTS = ('bytraffic', 'bytraffic again', 'byrequests', 'bybusyness', 'haproxy', 'nginx',
              'mod_jk-traffic', 'mod_jk-busyness', 'xnat, no moves', 'xnat');
my %SCENE = (
    steady => {},
    noisy  => {heavy => 1},
    slow   => {begin => sub ($front) { pace(4) }, end => sub { pace(1) }},
    drain  => {begin => sub ($front) { $front->drain('tomcat1') }, drains => 1},
    crash  => {begin => sub ($front) { tomcat()->kill }, end => sub { tomcat()->restart }},
);
my %opt = (runs => 3, scenes => 'steady,noisy,slow,drain,crash', fronts => join(',', @FRONTS),
           map { split /=/, $_, 2 } @ARGV);

sub conf ($move)
{
    return join "\n", "XnatBalanceMove $move", 'XnatBalanceHalfLife ' . 60 / $SPEED . 's',
        'XnatBalanceBusyHalfLife ' . 10 / $SPEED . 's',
        'XnatBalanceMoveRest ' . 60 / $SPEED . 's',
        'XnatBalanceMoveRate ' . 2 * $SPEED . '/s 10',
        'XnatBalanceGrace ' . 250 / $SPEED . 'ms';
}

my $t = XB::Test->new;
my $site = XB::Site->new(
    $t, tomcat => {permits => 3, mbps => 1, connectors => ['http', 'ajp']});
my $first = 'tomcat1';

sub tomcat () { return $site->tomcat($first) }

sub pace ($x)
{
    my $r = XB::Client->new->get(tomcat()->url("/data/pace?x=$x"),
                                 headers => [Authorization => 'Basic dTpwdy11']);    # u:pw-u
    die "pace: $r->{status}\n" if $r->{status} != 200;
    return;
}

# ---- one run

# Clicks as of people: 40 ms of a node on average, long-tailed, and some think for long.
sub exponential ($mean, $n) { return map { -$mean * log(1 - ($_ - 0.5) / $n) } 1 .. $n }
my @WORK = map { int 40 * exp(0.8 * $_ - 0.32) } map { 0.25 * $_ } -8 .. 8;
my @THINK = exponential(5 / $SPEED, 20);

sub image () { return "/app/image?i=1&ms=" . $WORK[rand @WORK] }

sub run ($kind, $scene)
{
    state $runs = 0;
    my ($real, @how) = @{$KIND{$kind} // [$kind]};
    my $front = XB::Front->start($site, $real, @how);
    my $how = $SCENE{$scene};
    if ($how->{drains} && !$front->can_drain) {
        $front->stop;
        return undef;
    }
    $runs++;
    my @names = map { "r${runs}u$_" } 1 .. $USERS;
    my $users = XB::Users->new($front, names => \@names, parallel => 1);
    $users->login(@names);
    my %at = map { $_ => $users->id($_) =~ /(tomcat\d)$/ ? $1 : '' } @names;
    my ($heavy) = grep { $at{$_} eq $first } @names;
    my @victims = grep { $at{$_} eq $first && $_ ne ($how->{heavy} ? $heavy : '') } @names;
    my ($begun, $left, $moving) = (0, undef, 0);
    my %does = map { $_ => \&image } @names;
    $users->click(
        rounds => 1, pauses => \@THINK, does => \%does,
        burst => {$heavy => $how->{heavy} ? 6 : 1},
        most => $END_S, until => sub ($now) {
            $left //= $now if $begun && $scene eq 'drain'
                && !grep { $users->id($_) =~ /$first$/ } @names;
            return 0;
        },
        at => [$EVENT_S => sub ($now) {
            $begun = $now;
            $how->{begin}->($front) if $how->{begin};
            $does{$heavy} = sub { '/data/bytes?n=1000000' } if $how->{heavy};
            $users->{restless}{$heavy} = 1 if $how->{heavy};
            $users->_burst($heavy) if $how->{heavy};
        }]);
    my $result = judge($users, \@victims, $heavy, $left, $begun);
    $how->{end}->() if $how->{end};
    $front->stop;
    return $result;
}

# ---- what they felt

sub quantile ($p, @x)
{
    @x = sort { $a <=> $b } @x;
    return @x ? $x[ $p * $#x ] : undef;
}

sub judge ($users, $victims, $heavy, $left, $begun)
{
    my %victim = map { $_ => 1 } @$victims;
    my @click = grep { $_->[3] =~ /image/ } @{$users->{times}};
    my @theirs = grep { $victim{$_->[2]} } @click;
    my $took = sub ($from, $to, @of) {
        return map { 1000 * $_->[1] } grep { $_->[0] >= $from && $_->[0] < $to } @of;
    };
    my $before = quantile(0.9, $took->(1, $EVENT_S, @theirs));
    my %r = (
        victims  => scalar @$victims,
        p50      => quantile(0.5, $took->(1, $END_S, @click)),
        p99      => quantile(0.99, $took->(1, $END_S, @click)),
        before   => $before,
        after    => quantile(0.9, $took->($begun + 5, $END_S, @theirs)),
        wrong    => scalar @{$users->{wrong}},
        left     => defined $left ? $left - $begun : undef,
        back     => undef,
    );
    # The first second after the event from which on two in a row are as before.
    for (my $s = $begun; $before && $s < $END_S - 2; $s += 0.5) {
        my @q = map { quantile(0.9, $took->($s + $_, $s + $_ + 1, @theirs)) } 0, 1;
        if (2 == grep { defined && $_ < $BACK * $before } @q) {
            $r{back} = $s - $begun;
            last;
        }
    }
    $r{ratio} = $r{after} / $before if $before && defined $r{after};
    return \%r;
}

# ---- all of them

my %COLUMN = (
    steady => [[p50 => 'click p50 ms'], [p99 => 'click p99 ms']],
    noisy  => [[before => 'victims p90 before'], [after => 'p90 from 5 s on'],
               [ratio => 'ratio'], [back => 'back after s']],
    slow   => [[before => 'victims p90 before'], [after => 'p90 from 5 s on'],
               [ratio => 'ratio'], [back => 'back after s'], [p99 => 'all users p99']],
    drain  => [[left => 'node left after s'], [p99 => 'click p99 ms'],
               [wrong => 'wrong answers']],
    crash  => [[wrong => 'wrong answers'], [p99 => 'click p99 ms'], [ratio => 'p90 ratio']],
);

# Median (least to most); what never came about is said.
sub cell ($key, @runs)
{
    my @x = grep { defined } map { $_->{$key} } @runs;
    my $never = @runs - @x;
    return '-' if !@x && !@runs;
    return "never in " . @runs if !@x;
    my $n = max(@x) < 20 ? '%.1f' : '%.0f';
    return sprintf("$n ($n to $n)", quantile(0.5, @x), min(@x), max(@x))
        . ($never ? ", never in $never" : '');
}

sub table ($scene, $all, @fronts)
{
    my @columns = @{$COLUMN{$scene}};
    say "\n## $scene\n";
    say join ' | ', '| front end', (map { $_->[1] } @columns), 'runs |';
    say '|' . '---|' x (@columns + 2);
    for my $front (@fronts) {
        my @runs = @{$all->{$scene}{$front} // []};
        say join ' | ', "| $front", (map { cell($_->[0], @runs) } @columns), @runs . ' |';
    }
    return;
}

my (%all, @scenes, @fronts);
@scenes = split /,/, $opt{scenes};
@fronts = grep { my $f = $_; grep { $_ eq $f } split /,(?! )/, $opt{fronts} } @FRONTS;
for my $round (1 .. $opt{runs}) {
    for my $scene (@scenes) {
        for my $kind (shuffle @fronts) {
            my $r = run($kind, $scene) // next;
            push @{$all{$scene}{$kind}}, $r;
            say STDERR join ' ', "round $round $scene $kind:",
                map { defined $r->{$_} ? sprintf '%s %.2f', $_, $r->{$_} : () } sort keys %$r;
        }
    }
}
table($_, \%all, @fronts) for @scenes;
$t->shut_down;
