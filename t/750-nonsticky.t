# SPDX-License-Identifier: Apache-2.0
# MSM's non-sticky mode on two real Tomcats, between which all sessions are moved to and fro all
# the time. Users with one request at a time lose nothing. With six writing requests at once MSM
# loses some writes whatever its lockingMode, without moves and without httpd as well: measured
# side by side; moves must not add to it, and locking must be worth something.
use v5.36;
use Test::More;
use XB::Test;
use XB::MoveRun;
use XB::Site;
use XB::Users;

my $USERS = 20;
my $SECONDS = 4;
my $BURSTS = 15;

sub site ($t, $lock_mode)
{
    return XB::Site->new($t, tomcats => 2,
        tomcat => { sticky => 0, lock_mode => $lock_mode }, conf => <<~'END');
        XnatBalanceStore msm-nonsticky
        XnatBalanceMove Drain
        XnatBalanceGrace 50ms
        XnatBalanceMemcachedTimeout 1s
        END
}

# Short ones: MSM's lock is waited for at most a second, and then passed by.
sub clicks ($users)
{
    my @kinds = (
        sub { '/app/write?k=' . $users->key },
        sub { '/app/write?in=map&k=' . $users->key },
        sub { '/app/write?ms=5&k=' . $users->key },
        sub { '/app/count' },
        sub { '/app/read' },
        sub { '/app/image?ms=2&i=' . int rand 9 },
    );
    return { map { $_ => sub { $kinds[rand @kinds]->() } } $users->names };
}

# Drains one node, then the other, whenever all sessions have left it, or two seconds are over.
sub click ($site, $users, $moving, %opt)
{
    my ($draining, $since) = (0, 0);
    $users->click(
        does => clicks($users), most => $SECONDS + 30, pauses => [0.1, 0.2, 0.3], %opt,
        until => sub ($now) {
            my $over = $now > $SECONDS;
            my $left = $draining && !$site->member($draining)->{sessions};
            if ($moving && !$over && ($left || $now - $since > 2)) {
                $site->undrain($draining) if $draining;
                $draining = $draining == 1 ? 2 : 1;
                $since = $now;
                $site->drain($draining);
            }
            return $over;
        });
    $site->undrain($draining) if $draining;
    return;
}

sub one_at_a_time ($site)
{
    my $users = XB::Users->new($site, parallel => 1, names => [ map { "s$_" } 1 .. $USERS ]);
    $users->login($users->names);
    my %id = map { $_ => $users->id($_) } $users->names;
    click($site, $users, 1, rounds => 6);
    my @moves = $site->moves('drain');
    cmp_ok(scalar @moves, '>=', $USERS, @moves . ' moves to and fro');
    XB::MoveRun::nothing_lost($site, $users);
    is_deeply({ map { $_ => $users->id($_) } $users->names }, \%id, 'no id has changed');
    note('moves ' . XB::MoveRun::figures(map { $_->{ms} / 1000 } @moves));
    return;
}

# Writes answered 200, of six requests at once, and how many of them are lost.
sub share ($site, $what, $users, $moving)
{
    my $before = () = $site->moves;
    $users->login($users->names);
    click($site, $users, $moving);
    my @lost = $users->lost_writes;
    my $moves = () = $site->moves;
    note(sprintf '%s: %d of %d writes lost, %d moves, refused: %s', $what, scalar @lost,
         $users->{acked}, $moves - $before, join ' ', %{ $site->refusals });
    is_deeply($users->{wrong}, [], "$what: no login lost, no other user, no error");
    return { acked => $users->{acked}, lost => scalar @lost };
}

sub six_at_once ($site)
{
    my @found = map {
        my ($what, $moving) = @$_;
        my $users = XB::Users->new($site, names => [ map { "$what$_" } 1 .. $USERS ]);
        share($site, $what, $users, $moving);
    } ['still', 0], ['moving', 1];
    return @found;
}

sub part ($of) { return $of->{lost} / $of->{acked} }

# By how much the share of losses may differ by chance: 2.5 standard deviations, where losses come
# in bursts of up to five, the others of six writes at once.
sub chance ($first, $second)
{
    my ($n, $lost) = map { my $of = $_; $first->{$of} + $second->{$of} } qw(acked lost);
    my $p = $lost / $n;
    return 2.5 * sqrt(5 * $p * (1 - $p) * (1 / $first->{acked} + 1 / $second->{acked}));
}

# The same without httpd: bursts of six writes to one Tomcat.
sub alone ($site)
{
    my $msm = $site->msm;
    my ($lost, $acked) = (0, 0);
    for my $user (map { "a$_" } 1 .. 4) {
        my $id = $msm->login($site->tomcat(1), $user);
        my %kept;
        for my $burst (1 .. $BURSTS) {
            my @k = map { "b${burst}x$_" } 1 .. 6;
            my @r = $msm->ask_all(map { [$site->tomcat(1), "/app/write?k=$_", $id] } @k);
            $kept{ $k[$_] } = 1 for grep { $r[$_]{status} == 200 } 0 .. $#k;
        }
        delete @kept{ @{ $msm->ask($site->tomcat(1), '/app/read', $id)->{json}{keys} } };
        $acked += 6 * $BURSTS;
        $lost += keys %kept;
    }
    note("one Tomcat without httpd: $lost of $acked writes lost");
    return;
}

my %moving;
for my $mode (qw(none all auto)) {
    subtest "lockingMode $mode" => sub {
        my $t = XB::Test->new;
        my $site = site($t, $mode);
        one_at_a_time($site) if $mode ne 'none';
        alone($site);
        (my $still, $moving{$mode}) = six_at_once($site);
        if ($mode eq 'none') {
            cmp_ok(part($still), '>', 0.1, 'control: MSM loses writes that are not locked');
        }
        else {
            cmp_ok(part($moving{$mode}), '<', part($moving{none}) / 2, 'locks prevent most losses');
            my $chance = chance($still, $moving{$mode});
            cmp_ok(part($moving{$mode}), '<=', part($still) + $chance,
                sprintf 'moves add none, within %.1f %% that are chance', 100 * $chance);
        }
        $t->finish;
    };
}
done_testing;
