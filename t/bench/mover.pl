#!/usr/bin/env perl
# SPDX-License-Identifier: Apache-2.0
# Processor time of the module's own threads, in per cent of one core, with sessions in the table that
# nobody uses, and that are lightly used:  perl -It/lib t/bench/mover.pl [sessions] [seconds]
use v5.36;
use Time::HiRes qw(time sleep);
use XB::Test;
use XB::Bench;

my ($SESSIONS, $SECONDS) = ($ARGV[0] // 100_000, $ARGV[1] // 20);
my $PER_S = 100;
my $t = XB::Test->new;
my $bench = XB::Bench->new($t);
my @kinds = qw(xnat-mover xnat-worker xnat-sentinel);

sub measure ($h, $what, $work)
{
    my ($before, $from) = ($bench->cpu_ns($h), time);
    $work->($from + $SECONDS);
    my ($after, $s) = ($bench->cpu_ns($h), time - $from);
    my %share = map { $_ => ($after->{$_} // 0) - ($before->{$_} // 0) } keys %$after;
    $_ /= $s * 1e7 for values %share;
    printf "%-36s %7.2f %7.2f %7.2f   %7.2f %%\n", $what, map({ $share{$_} // 0 } @kinds),
        $share{'xnat-mover'} + ($share{'xnat-worker'} // 0) + ($share{'xnat-sentinel'} // 0);
    return;
}

my $idle = sub ($end) { sleep $end - time };
sub light ($h)
{
    my $sock = $bench->connect($h);
    return sub ($end) {
        for (my $next = time; $next < $end; $next += 1 / $PER_S) {
            $bench->ask($sock, 1, sub ($n) {
                $bench->request([ $bench->cookie(1 + int rand $SESSIONS) ]) });
            my $left = $next + 1 / $PER_S - time;
            sleep $left if $left > 0;
        }
    };
}

my $h = $bench->proxy('xnat', moves => 1, sessions => 1.3 * $SESSIONS);
printf "%-36s %7s %7s %7s   %7s\n", 'per cent of a core', qw(mover workers sentinel all);
measure($h, 'empty table, idle', $idle);
$bench->fill($h, $SESSIONS);
measure($h, "$SESSIONS sessions, idle", $idle);
measure($h, "$SESSIONS sessions, $PER_S requests/s", light($h));
$t->shut_down;
