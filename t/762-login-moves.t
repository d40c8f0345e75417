# SPDX-License-Identifier: Apache-2.0
# A login gives a session another id, and at once its node drains or dies; a session moves, and
# its memcached dies before its user comes back. Behind bytraffic: what MSM itself loses.
use v5.36;
use Test::More;
use XB::Test;
use XB::Site;
use XB::Users;

my $t = XB::Test->new;
my $site = XB::Site->new($t, threads => 128, conf => 'XnatBalanceMove Drain');
my ($msm, $runs) = ($site->msm, 0);

sub names ($letter, $n) { return [map { "$letter$runs.$_" } 1 .. $n] }

sub store_of ($users, $name) { return XB::Msm->node_of($users->id($name)) }

sub fresh_httpd (%opt)
{
    $site->start_httpd(stock => 0, %opt) if $runs++ || %opt;
    return;
}

# Guests of one node who have just logged in: their users, and the ids that they had as guests.
sub at_one ($letter, $n)
{
    my $users = XB::Users->new($site, names => names($letter, $n));
    $site->only(1);
    $site->client->many([map { {path => '/', user => $_} } $users->names], parallel => 8);
    my %guest = map { $_ => $users->id($_) } $users->names;
    $users->login($users->names);
    $site->only;
    return ($users, %guest);
}

# Each has left, but who is not in memcached: MSM does not store every session after a login.
sub have_left ($users)
{
    my $n = $users->names;
    my @held;
    wait_for {
        my @keys = grep { !/xnat-balance/ } $msm->keys;
        @held = grep { my $base = $users->base($_); !grep { /\Q$base\E/ } @keys } $users->names;
        $site->member(1)->{moved_out} + @held >= $n;
    } 25, "$n sessions to leave";
    note(@held . ' stay, not stored by MSM') if @held;
    return;
}

# ---- a login changes the id, and at once

subtest 'the node drains' => sub {
    fresh_httpd();
    my ($users, %guest) = at_one('d', 12);
    my %old = map { $_ => $users->id($_) } $users->names;
    is(scalar(grep { XB::Msm->base($guest{$_}) eq $users->base($_) } $users->names), 0,
       'guests got another session by logging in');
    $site->drain(1);
    have_left($users);
    my ($out) = $users->names;
    $site->client->get('/app/logout', user => $out, cookie => "JSESSIONID=$old{$out}");
    my @ids = grep { defined } ($guest{$out}, $old{$out}, $users->id($out));
    my @in = grep { $_->{status} != 401 }
        $site->client->many([map { {path => '/app/whoami', cookie => "JSESSIONID=$_"} } @ids]);
    is(scalar @in, 0, 'who logs out then is logged out by each id that there was');
    my @guests = map { {path => '/app/whoami', cookie => "JSESSIONID=$_"} } values %guest;
    is(scalar(grep { $_->{status} != 401 } $site->client->many(\@guests)), 0,
       'the ids from before the login are nobody\'s');
    shift @{$users->{names}};
    $users->all([map { "/app/write?k=w$_" } 1 .. 6]);
    is(scalar $users->lost_writes, 0, 'the others go on elsewhere');
    is_deeply($users->{wrong}, [], 'logged in');
};

# Its sessions in memcached when it dies are those that can be saved.
sub node_dies ($name, %opt)
{
    fresh_httpd(%opt);
    my ($users) = at_one('k', 12);
    $site->tomcat(1)->pause;
    my %saved = map { $_ => ($msm->value($users->id($_)) // '') =~ /\Q$_\E/ } $users->names;
    $site->tomcat(1)->kill;
    $users->all([map { "/app/write?k=w$_" } 1 .. 6]);
    my @lost = $users->lost_writes;
    my %out = map { (split /:/)[0] => 1 } grep { /at the end/ } @{$users->{wrong}};
    my %wrong = map { (split /:/)[0] => 1 } @{$users->{wrong}};
    my $saved = grep { $saved{$_} } $users->names;
    note(sprintf '%-10s 12 logged in, %d of them stored when the node died: %d logins and %d of '
         . '%d writes lost, %d users with a wrong answer', $name, $saved, scalar keys %out,
         scalar @lost, $users->{acked}, scalar keys %wrong);
    $site->tomcat(1)->restart;
    return {saved => $saved, bad => [grep { $saved{$_} } keys %wrong],
            lost => [grep { $saved{(split / /)[0]} } @lost]};
}

subtest 'the node dies' => sub {
    my $ours = node_dies('xnat');
    cmp_ok($ours->{saved}, '>', 6, 'sessions to lose');
    is_deeply($ours->{bad}, [], 'who was stored is logged in elsewhere');
    is_deeply($ours->{lost}, [], 'and loses nothing there');
    node_dies('bytraffic', stock => 'bytraffic');
};
# ---- a session has moved, its user has not come back yet, and its memcached dies

subtest 'moved before' => sub {
    fresh_httpd();
    my ($users) = at_one('m', 12);
    $users->all(['/app/write?k=before']);
    $site->drain(1);
    have_left($users);
    my @on = grep { store_of($users, $_) eq 'n1' } $users->names;
    $msm->node('n1')->kill;
    for my $tc ($site->tomcats) {
        wait_for {
            my @ids = map { $msm->post_login($tc, 'w')->{id} } 1 .. 6;
            !grep { XB::Msm->node_of($_) eq 'n1' } @ids;
        } 20, $tc->route . ' to notice';
    }
    is(scalar $users->lost_writes, 0, 'their users come back with ids from before both');
    is_deeply($users->{wrong}, [], 'and are known, at the new home: ' . @on . ' were on it');
    $site->client->get('/app/read', user => $_) for @on;
    is(scalar(grep { store_of($users, $_) eq 'n1' } @on), 0, 'the next request renames them');
};
$t->allow_log(qr/AH0|AH10/);
$t->finish;
