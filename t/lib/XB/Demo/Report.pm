# SPDX-License-Identifier: Apache-2.0
# What the demo says: the live line, the table at the end, and whether the day was a good one.
#
#   XB::Demo::Report->live($day)          # at most one line, for a terminal or for a log
#   XB::Demo::Report->over                # ends the live line
#   print XB::Demo::Report->table($day);
#   my @failed = XB::Demo::Report->failures($day);     # sentences; none: all is as promised
package XB::Demo::Report;
use v5.36;
use XB::Demo::Site ();

my $LEAST_MOVES = 10;
my $EVERY = 5;                  # seconds between lines where there is no terminal
my $BACK = "\r\e[K";
my ($last_line, $last_requests, $last_time) = (-$EVERY, 0, 0);
my $last_phase = '';

# ---- while it runs

sub live ($class, $day)
{
    my $now = $day->now;
    my $is_tty = -t STDOUT;
    my $due = $is_tty || $now - $last_line >= $EVERY || $day->{phase} ne $last_phase;
    return if !$due;
    my $rate = ($day->{requests} - $last_requests) / ($now - $last_time || 1);
    my $n = 0;
    my $nodes = join ' ', map { sprintf '%d:%2d/%-2d', ++$n, $_->{busy}, $_->{sessions} }
        $day->members;
    my $line = sprintf '%3d s  %-14s  %2d users  %3d req/s  %2d moves  %s', $now, $day->{phase},
        $day->logged_in, $rate, $day->moves, $nodes;
    print $is_tty ? "$BACK$line" : "$line\n";
    ($last_line, $last_requests, $last_time, $last_phase) =
        ($now, $day->{requests}, $now, $day->{phase});
    return;
}

sub over ($class)
{
    print $BACK if -t STDOUT;
    return;
}

# ---- the end

sub quantile ($p, @sorted) { return @sorted ? $sorted[ int($p * $#sorted + 0.5) ] : undef }

sub _ms ($seconds) { return defined $seconds ? sprintf '%d ms', $seconds * 1000 : '-' }

sub table ($class, $day)
{
    my @out = ('', sprintf '%-10s %6s %8s %9s %7s %8s %10s %9s', 'node', 'weight', 'elected',
               'sessions', 'in MB', 'out MB', 'moved out', 'moved in');
    for my $m ($day->members) {
        push @out, sprintf '%-10s %6s %8d %9d %7.1f %8.1f %10d %9d%s',
            @$m{qw(route weight elected sessions)}, $m->{bytes_in} / 1e6, $m->{bytes_out} / 1e6,
            @$m{qw(moved_out moved_in)},
            $m->{route} eq $XB::Demo::Site::DRAINED ? '  drained' : '';
    }
    push @out, '', $class->_sums($day), '', $class->_victims($day);
    return map { "$_\n" } @out;
}

sub _sums ($class, $day)
{
    my ($moves, $gates, $not) = @{$day->{status}}{qw(moves gates refusals_by_reason)};
    my @refused = grep { $not->{$_} } sort keys %$not;
    my @row = (
        [ requests => "$day->{requests}, $gates->{waits} held while their session moved" ],
        [ moves => sprintf '%d (overload %d, drain %d), %.0f ms on average, %d ms at most',
                   $day->moves, $day->moves('overload'), $day->moves('drain'),
                   $moves->{duration_sum_ms} / ($day->moves || 1), $moves->{duration_max_ms} ],
        [ 'not moved' => join ', ', map { "$_ $not->{$_}" } @refused ],
        [ 'logins lost' => $day->{logins_lost} ],
        [ 'writes lost' => "$day->{writes_lost} of $day->{kept} answered 200" ],
        [ 'wrong answers' => "$day->{wrong} (another user's, or other bytes)" ],
        [ '5xx' => $day->{server_errors} ],
        [ 'broken answers' => $day->{broken} ],
        [ 'drain' => defined $day->{drained_after}
            ? sprintf('%s empty after %.1f s', $XB::Demo::Site::DRAINED, $day->{drained_after})
            : "$XB::Demo::Site::DRAINED not empty" ],
    );
    return map { sprintf '%-15s %s', @$_ } grep { $_->[1] ne '' } @row;
}

sub _victims ($class, $day)
{
    my @out = sprintf 'clicks of the %d other users of the node with the transfers:',
        scalar @{$day->{victims}};
    my %what = (before => 'before the transfers', during => 'during, not moved yet',
                after => 'during, after the move');
    for my $when (qw(before during after)) {
        my @latency = $day->latency($when);
        push @out, sprintf '  %-23s %4d clicks   median %8s   90 %% %8s', $what{$when},
            scalar @latency, map { _ms(quantile($_, @latency)) } 0.5, 0.9;
    }
    return @out;
}

sub failures ($class, $day)
{
    my ($during, $after) = map { quantile(0.5, $day->latency($_)) } qw(during after);
    my $left = $day->staying($XB::Demo::Site::DRAINED);
    my @check = (
        [ $day->{logins_lost} == 0, "$day->{logins_lost} logins were lost" ],
        [ $day->{writes_lost} == 0, "$day->{writes_lost} writes answered 200 were lost" ],
        [ $day->{wrong} == 0, "$day->{wrong} answers were not the user's own" ],
        [ $day->{server_errors} == 0, "$day->{server_errors} requests were answered 5xx" ],
        [ $day->{broken} == 0, "$day->{broken} requests were not answered in full" ],
        [ $day->moves >= $LEAST_MOVES, 'only ' . $day->moves . " moves, not $LEAST_MOVES" ],
        [ $day->moves('overload') > 0, 'nobody was moved away from a busy node' ],
        [ $left == 0, "$left active users are still on the drained $XB::Demo::Site::DRAINED" ],
        [ !defined $during || (defined $after && $after < $during),
          'the moves did not make the clicks quicker' ],
    );
    return map { $_->[1] } grep { !$_->[0] } @check;
}

1;
