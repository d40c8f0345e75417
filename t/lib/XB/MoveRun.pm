# SPDX-License-Identifier: Apache-2.0
# The proof of the main job: 200 users under load leave a draining node and lose nothing.
#
#   XB::MoveRun->run('java')             # the whole test; or kryo
#   XB::MoveRun::nothing_lost($site, $users)     # tests: writes, logins, answers, 503s
#   XB::MoveRun::figures(@seconds)       # "n: median / 95 % / 99 % / max ms"
package XB::MoveRun;
use v5.36;
use Test::More;
use Time::HiRes qw(time);
use XB::Test;
use XB::Site;
use XB::Users;

my $USERS = 200;
my $RESTLESS = 4;
my $REQUESTS = 10_000;

sub percentile ($p, @sorted) { return @sorted ? $sorted[ $p / 100 * $#sorted ] : 0 }

# "n: median / 95 % / 99 % / max ms"
sub figures (@seconds)
{
    my @ms = sort { $a <=> $b } map { $_ * 1000 } @seconds;
    return sprintf '%d: %.1f / %.1f / %.1f / %.1f ms', scalar @ms,
        map { percentile($_, @ms) } 50, 95, 99, 100;
}

sub _enlarge ($site, @names)
{
    my $kb = sub { return rand() < 0.3 ? 1 + int rand 200 : int rand 8 };
    my @size = map { {path => '/app/size?kb=' . $kb->(), user => $_} } @names;
    my @bad = grep { $_->{status} != 200 } $site->client->many(\@size, parallel => 8);
    die "size: $bad[0]{status}\n" if @bad;
    return;
}

sub _tell_times ($users, $from, $to)
{
    my %span = (before => [0, $from], during => [$from, $to], after => [$to, 1e9]);
    for my $name (qw(before during after)) {
        my ($begin, $end) = @{$span{$name}};
        my @in = grep { $_->[0] >= $begin && $_->[0] < $end } @{$users->{times}};
        note(sprintf 'requests %-6s %s', $name, figures(map { $_->[1] } @in));
    }
    return;
}

sub run ($class, $serializer)
{
    my $begin = time;
    my $t = XB::Test->new;
    my $site = XB::Site->new($t, serializer => $serializer, conf => 'XnatBalanceMove Drain');
    my $users = XB::Users->new($site, names => [map { "u$_" } 1 .. $USERS]);
    $users->{never_pause} = [map { "u$_" } 1 .. $RESTLESS];

    $site->only(1);
    my %old = map { ($_ => 1) } $users->login($users->names);
    _enlarge($site, grep { !/^u[1-$RESTLESS]$/ } $users->names);
    $site->only;
    is(scalar(grep { /\.tomcat1$/ } keys %old), $USERS, "$USERS users logged in at one node");

    my ($from, $to, $out) = (0, 0, 0);
    $users->click(
        restless => $users->{never_pause}, most => 25,
        at => [2 => sub ($now) { $from = $now; $site->drain(1) }],
        until => sub ($now) {
            return 0 if !$from;
            $out = $site->member(1)->{moved_out} if $out < $USERS;
            $to ||= $now if $out >= $USERS;
            return $to && $now > $to + 1 && $users->{requests} >= $REQUESTS;
        });
    $to ||= 1e8;
    _judge($site, $users, \%old);
    note(sprintf '%s: %d requests, %d writes, drained in %.1f s, whole test %.0f s',
         $serializer, $users->{requests}, $users->{acked}, $to - $from, time - $begin);
    _tell_times($users, $from, $to);
    $t->finish;
    return;
}

sub nothing_lost ($site, $users)
{
    my @lost = $users->lost_writes;
    is(scalar @lost, 0, "$users->{acked} writes answered 200: none is lost")
        or diag(map { "$_\n" } splice @lost, 0, 10);
    my @wrong = @{$users->{wrong}};
    is(scalar @wrong, 0, "$users->{requests} requests: no login lost, no other user, no error")
        or diag(map { "$_\n" } splice @wrong, 0, 10);
    my $refused = $users->{status}{503} // 0;
    cmp_ok($refused, '<=', $users->{requests} / 10_000, "503 at gates: $refused");
    note("$users->{anonymous} files of requestUriIgnorePattern answered as to nobody");
    is_deeply([map { $_->severe } $site->tomcats], [], 'no complaint from a Tomcat');
    return;
}

sub _judge ($site, $users, $old)
{
    my @moves = $site->moves('drain');
    my $out = $site->member(1)->{moved_out};
    cmp_ok($out, '>=', 0.95 * $USERS, "of $USERS sessions $out have moved");
    is(scalar @moves, $out, 'each is in the log') or diag(explain($site->refusals));
    is(scalar(grep { $_->{from} ne 'tomcat1' || $_->{to} eq 'tomcat1' } @moves), 0,
       'all from there');
    note('moves ' . figures(map { $_->{ms} / 1000 } @moves));
    cmp_ok($users->{requests}, '>=', $REQUESTS, 'enough requests');
    nothing_lost($site, $users);

    my @moved = grep { !/\.tomcat1$/ } map { $users->id($_) } $users->names;
    is(scalar @moved, $out, 'as many users have an id of their new node');
    is(scalar(grep { $users->id($_) =~ /\.tomcat1$/ } @{$users->{never_pause}}), 0,
       'they that never pause among them');
    is_deeply([$site->unproven(@moved)], [], 'which holds the session, and so does memcached');
    my %key = map { (s/^\S+ //r => 1) } $site->msm->keys;
    my %base = map { (s/\..*//r => 1) } @moved;
    is(scalar(grep { $base{s/\..*//r} && $key{$_} } keys %$old), 0, 'their old keys are gone');
    return;
}

1;
