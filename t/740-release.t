# SPDX-License-Identifier: Apache-2.0
# Two real Tomcats with release: users go there and back under load and lose nothing, overload
# moves them, the death of their new home brings them back, and a logout is final.
use v5.36;
use Test::More;
use Time::HiRes qw(time);
use XB::Test;
use XB::Site;
use XB::Users;
use XB::MoveRun;

my ($USERS, $ROUNDS) = (40, 5);          # 200 round trips
my $t = XB::Test->new;
$t->write('jmx', "jmx:pw-jmx\n");
chmod 0600, $t->path('jmx');
my $site = XB::Site->new($t, tomcats => 2, tomcat => {permits => 3, mbps => 10},
                         member => 'retry=1', conf => <<"END");
XnatBalanceRelease /manager/jmxproxy
XnatBalanceReleaseAuth @{[ $t->path('jmx') ]}
XnatBalanceHalfLife 5s
XnatBalanceBusyHalfLife 2s
XnatBalanceMoveRate 5/s 5
END

sub released () { return $site->status->{copies}{released} }
sub logout (@names)
{
    my @r = $site->client->many([map { {path => '/app/logout', user => $_} } @names], parallel => 8);
    is(scalar(grep { $_->{status} == 200 } @r), @names, 'all log out where they are');
    return;
}

sub base ($id) { return $id =~ s/\..*//sr }

subtest 'overload' => sub {
    my $users = XB::Users->new($site, names => ['heavy', map { "v$_" } 1 .. 12]);
    $site->only(1);
    $users->login($users->names);
    $site->only;
    my $enough = 0;
    $users->click(
        restless => ['heavy'], most => 25,
        does => {heavy => sub { '/data/bytes?n=4000000' }},
        until => sub ($now) {
            $enough ||= $now if $site->moves('overload') >= 4;
            return $enough && $now > $enough + 2;
        });
    my @moves = $site->moves('overload');
    cmp_ok(scalar(grep { $_->{from} eq 'tomcat1' } @moves), '>=', 4, 'sessions leave a busy node');
    my %seen;
    is(scalar(grep { $seen{$_->{session}}++ } @moves), 0, 'none moves twice');
    XB::MoveRun::nothing_lost($site, $users);
    logout($users->names);
};

my $users = XB::Users->new($site, names => [map { "u$_" } 1 .. $USERS]);
$site->only(1);
$users->login($users->names);
$site->only;

subtest 'there and back' => sub {
    wait_for { released >= $site->moves } 30, 'the copies of those who have logged out to go';
    my ($moved, $released, $begin) = (scalar $site->moves, released, time);
    my ($half, $from) = (0, 2);
    $users->click(
        most => 150, rounds => 1,
        until => sub ($now) {
            return 0 if $half && ($site->moves < $moved + $USERS * $half
                                  || released() < $released + $USERS * $half);
            return 1 if $half == 2 * $ROUNDS;
            $half++;
            $site->undrain($from);
            $from = 3 - $from;
            $site->drain($from);
            return 0;
        });
    $site->undrain($from);
    is($half, 2 * $ROUNDS, sprintf '%d round trips in %.0f s', $USERS * $ROUNDS, time - $begin);
    cmp_ok($site->moves - $moved, '>=', 2 * $USERS * $ROUNDS, '... to the last move');
    is(released() - $released, $site->moves - $moved, 'a copy was released after each move');
    XB::MoveRun::nothing_lost($site, $users);
    is_deeply([$site->unproven(map { $users->id($_) } $users->names)], [],
              'each session is where its id says');
    note('moves ' . XB::MoveRun::figures(map { $_->{ms} / 1000 } $site->moves('drain')));
    note('requests ' . XB::MoveRun::figures(map { $_->[1] } @{$users->{times}}));
};

subtest 'the new home dies' => sub {
    my $moved = $site->moves;
    $site->drain(1);
    wait_for { $site->moves >= $moved + $USERS } 20, 'all to be at the second';
    $site->undrain(1);
    my $unreleased = grep { my $id = $_; grep { base($_) eq base($id) } $site->tomcat(1)->session_ids }
        map { $users->id($_) } $users->names;
    $site->tomcat(2)->kill;
    my $lost = $users->lost_writes;
    is($lost, 0, "their writes are there, at the first ($unreleased had a copy there)");
    is_deeply([grep { /at the end/ } @{$users->{wrong}}], [], 'so are their logins');
    $site->tomcat(2)->restart;
    is_deeply([$site->unproven(map { $users->id($_) } $users->names)], [], 'which holds them');
};

subtest 'logout' => sub {
    my @names = $users->names;
    my $moved = $site->moves;
    # httpd tries it again when it elects.
    wait_for { $site->client->get('/style.css'); $site->member(2)->{usable} } 20, 'the second';
    $users->click(most => 1, until => sub ($now) { 0 });
    $site->drain(1);
    wait_for { $site->moves >= $moved + $USERS } 30, 'all to move';
    logout(@names);
    my @ids = map { my $base = $users->{base}{$_}; ("$base.tomcat1", "$base.tomcat2") } @names;
    my $ask = sub {
        my $n = 0;
        $site->client->jar('old' . ++$n)->{JSESSIONID} = $_ for @ids;
        my @r = $site->client->many([map { {path => '/app/whoami', user => "old$_"} } 1 .. $n], parallel => 8);
        return scalar grep { $_->{status} != 401 } @r;
    };
    is($ask->(), 0, 'no id of theirs is anybody any more');
    my %base = map { ($users->{base}{$_} => 1) } @names;
    wait_for { !grep { $base{base($_)} } $site->tomcat(1)->session_ids } 30, 'the copies to go';
    is($ask->(), 0, 'nor is one when the copies are gone');
    is_deeply([grep { $base{base($_)} } map { $_->session_ids } $site->tomcats], [],
              'no Tomcat knows any of them');
};

$t->allow_log(qr/\[proxy(?:_http|_balancer)?:(?:error|warn)\]/, qr/XB0330: .*: (?:node-unreachable|not-in-store) /);
$t->finish;
