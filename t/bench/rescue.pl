#!/usr/bin/env perl
# SPDX-License-Identifier: Apache-2.0
# How fast the sessions of a killed Tomcat are taken over when all their users come at once, and
# what the users of the other nodes feel of it; then the same crowd behind stock bytraffic, which
# shows what of that is the machine's:  perl -It/lib t/bench/rescue.pl [sessions]
use v5.36;
use Time::HiRes qw(time);
use List::Util qw(max);
use XB::Test;
use XB::Site;
use XB::Users;

my $SESSIONS = $ARGV[0] // 1000;
my $AT_ONCE = 6;
my $OTHERS = 40;
my $t = XB::Test->new;
my $site = XB::Site->new($t, threads => 250, conf => 'XnatBalanceMove Drain', start => 0);

# Users of the other nodes, in a process of their own: a request each 20 ms, until it is told.
sub work_elsewhere (@others)
{
    my $end = 0;
    local $SIG{TERM} = sub { $end = 1 };
    STDOUT->autoflush;
    for (my $n = 0; !$end; $n++) {
        my $at = time;
        my $r = $site->client->get('/app/read', user => $others[$n % @others]);
        printf "%.3f %.5f %d\n", $at, $r->{time}, $r->{status};
        select undef, undef, undef, 0.02;
    }
    return;
}

sub figures ($name, @seconds)
{
    my @ms = sort { $a <=> $b } map { 1000 * $_ } @seconds;
    printf "%-34s n %5d   median %6.1f  95 %% %6.1f  max %6.1f ms\n", $name, scalar @ms,
        @ms ? map { $ms[$_ * $#ms] } 0.5, 0.95, 1 : (0) x 3;
    return;
}

# As browsers do, a request that was turned away comes again a second later.
sub come_all_at_once (@lost)
{
    my (%status, @times, @again);
    my @ready = map { my $user = $_; map { { path => '/app/count', user => $user } } 1 .. $AT_ONCE }
        @lost;
    my $left = @ready;
    $site->client->run(
        parallel => 900,                # file descriptors of this process
        next => sub {
            return shift @ready if @ready;
            return shift(@again)->[1] if @again && $again[0][0] <= time;
            return $left > 0 ? 0.05 : undef;
        },
        done => sub ($r, $req) {
            $status{ $r->{error} ? $r->{error} : $r->{status} }++;
            if ($r->{status} == 503) {
                push @again, [ time + 1, $req ];
                return;
            }
            $left--;
            push @times, $r->{time};
        });
    return (\%status, @times);
}

# Sessions are logged in at each node, and the first one is killed.
sub crash ($name)
{
    my $users = XB::Users->new($site, names => []);
    my $stored = $site->msm->keys;
    my @lost = map { "$name-u$_" } 1 .. $SESSIONS;
    my @others = map { "$name-o$_" } 1 .. $OTHERS;
    my @halves = ([ @others[0 .. $OTHERS / 2 - 1] ], [ @others[$OTHERS / 2 .. $OTHERS - 1] ]);
    for my $at ([ 1, @lost ], [ 2, @{$halves[0]} ], [ 3, @{$halves[1]} ]) {
        my ($node, @names) = @$at;
        $site->only($node);
        $users->login(@names);
    }
    $site->only;
    wait_for { $site->msm->keys >= $stored + $SESSIONS } 30, 'all sessions in memcached';

    my $elsewhere = $t->fork_child(name => "$name-elsewhere", code => sub { work_elsewhere(@others) });
    my $calm = time;
    wait_for { time > $calm + 3 } 10, 'calm';
    $site->tomcat(1)->kill;
    my $begin = time;
    my ($status, @times) = come_all_at_once(@lost);
    my $end = time;
    $elsewhere->stop;
    printf "== %s: %d sessions, %d requests in %.1f s\n", $name, $SESSIONS, $SESSIONS * $AT_ONCE,
        $end - $begin;
    figures('requests of the lost node', @times);
    printf "answers: %s\n", join ', ', map { "$_ $status->{$_}" } sort keys %$status;
    my @else = map { [ split ] } split /\n/, $t->slurp($elsewhere->log);
    figures('users elsewhere, before', map { $_->[1] } grep { $_->[0] < $begin } @else);
    figures('users elsewhere, meanwhile',
            map { $_->[1] } grep { $_->[0] >= $begin && $_->[0] < $end } @else);
    return;
}

sub tell_takeovers ()
{
    my $text = $site->httpd->error_log;
    my @log = $text =~ /(\d\d):(\d\d):(\d\d\.\d+) [^\n]* XB0301: /g;
    my @at;
    while (my ($h, $m, $s) = splice @log, 0, 3) {
        push @at, 3600 * $h + 60 * $m + $s;
    }
    my $span = max(0.001, $at[-1] - $at[0]);
    printf "taken over in %.2f s: %.0f a second\n", $span, @at / $span;
    figures('each takeover, with its wait', map { $_->{ms} / 1000 } $site->moves('failed'));
    my ($gates, $refused) = ($site->status->{gates}, $site->refusals);
    printf "gates: %s\n", join ', ', map { "$_ $gates->{$_}" } sort keys %$gates;
    printf "movers: %d\n", scalar(() = $text =~ /XB0313/g);
    printf "not taken over: %s\n", join ', ', map { "$_ $refused->{$_}" } sort keys %$refused;
    return;
}

$site->start_httpd;
crash('xnat');
tell_takeovers();
$site->tomcat(1)->restart;
$site->start_httpd(stock => 'bytraffic');
crash('bytraffic');
$t->shut_down;
