# SPDX-License-Identifier: Apache-2.0
# All Tomcats are restarted one after the other under load, by the script that waits until each is
# safe to stop: nobody notices. `prove -It/lib t/760-rolling.t :: --full` waits a minute first: idle
# users then stay where they are, are verified, and taken over when they come back.
use v5.36;
use Test::More;
use Time::HiRes qw(time);
use XB::Test;
use XB::MoveRun;
use XB::Roller;
use XB::Site;
use XB::Users;

my $FULL = grep { $_ eq '--full' } @ARGV;
my $REQUESTS = 20_000;
my $t = XB::Test->new;
my $site = XB::Site->new($t, threads => 128, conf => 'XnatBalanceMove Drain');

# Called some times a second while requests go on, until it is true. A node that is not safe to
# stop within a minute is waited for again, as its administrator would.
sub by_script ($tomcat)
{
    my $which = $tomcat->route;
    my $tries = 0;
    my $start = sub {
        $t->spawn(name => "drain-$which." . $tries++, user => 0,
                  cmd => [$site->drain_script($which, '--wait', 60)]);
    };
    my $p = $start->();
    return sub {
        return 0 if $p->alive;
        my $said = $t->slurp($p->log);
        if ($p->stop != 0 && $tries < 5) {
            note($said);
            $p = $start->();
            return 0;
        }
        is($p->stop, 0, "$which is safe to stop") or diag($said);
        note((split /\n/, $said)[-2]);
        return 1;
    };
}

# Without a script that waits: it gets no new sessions for three seconds.
sub by_hope ($tomcat)
{
    my $end = time + 3;
    $site->drain($tomcat->route);
    return sub { return time > $end };
}

sub undo_by_script ($tomcat, $took)
{
    my $said = join ' ', map { qq('$_') } $site->drain_script($tomcat->route, '--undo');
    like(`$said`, qr/in service/, sprintf '%s is back after %.1f s', $tomcat->route, $took);
    return;
}

sub work ($users, $requests, $roll)
{
    my $done;
    $users->click(
        restless => [($users->names)[0, 1]], most => 300, at_once => 48,
        pauses => [0.2, 0.5, 1, 2],
        until => sub ($now) {
            return 0 if $now < 1;
            $done //= $now if $roll->();
            return $done && $now > $done + 1 && $users->{requests} >= $requests;
        });
    ok($done, 'all nodes have been restarted');
    return;
}

sub names ($letter, $n) { return [map { "$letter$_" } 1 .. $n] }

subtest 'a rolling restart' => sub {
    my $users = XB::Users->new($site, names => names('u', 24));
    my $idle = XB::Users->new($site, names => names('i', 6));
    my $end = 0;
    for my $all ($idle, $users) {
        wait_for { time > $end } 70, 'a minute';
        $site->client->close;
        $all->login($all->names);
        $all->all(['/app/write?k=before']);
        $end = time + 61 if $FULL;
    }
    my %nodes = map { (/\.(\w+)$/)[0] => 1 } map { $users->id($_) } $users->names;
    is(join(' ', sort keys %nodes), 'tomcat1 tomcat2 tomcat3', 'users at all nodes');
    my $begin = time;
    work($users, $REQUESTS, XB::Roller::roller(leave => \&by_script, back => \&undo_by_script,
                                               tomcats => [$site->tomcats]));
    my $took = time - $begin;
    cmp_ok($users->{requests}, '>=', $REQUESTS, 'enough requests');
    $idle->all([map { "/app/write?k=after$_" } 1 .. 6]);
    XB::MoveRun::nothing_lost($site, $_) for $users, $idle;
    is($users->{status}{503} // 0, 0, 'nor was anybody turned away');
    is($site->status->{sessions}{lost}, 0, 'no session was lost');
    my %by = %{$site->status->{moves_by_reason}};
    note(sprintf '%d requests, %d writes in %.0f s; moves: %s', $users->{requests},
         $users->{acked}, $took, join ' ', map { "$_ $by{$_}" } sort keys %by);
    note('requests ' . XB::MoveRun::figures(map { $_->[1] } @{$users->{times}}));
};

for my $control (['XnatBalanceMove Off', conf => 'XnatBalanceMove Off'],
                 ['bytraffic', stock => 'bytraffic']) {
    my ($name, @with) = @$control;
    subtest "control: $name" => sub {
        $t->allow_log(qr/AH(?!0005)/);          # but no child that was killed
        $site->start_httpd(@with);
        my $users = XB::Users->new($site, names => names('c', 12));
        $site->only(1);
        $users->login($users->names);
        $site->only;
        work($users, 0, XB::Roller::roller(leave => \&by_hope, back => sub ($tomcat, $took) {
            $site->undrain($tomcat->route);
        }, tomcats => [$site->tomcat(1)]));
        my @lost = $users->lost_writes;
        my $wrong = @{$users->{wrong}};
        cmp_ok(@lost + $wrong, '>', 0, sprintf '%d of %d writes are lost, %d wrong answers',
               scalar @lost, $users->{acked}, $wrong);
    };
}
$t->finish;
