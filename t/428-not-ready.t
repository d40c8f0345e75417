# SPDX-License-Identifier: Apache-2.0
# A node that accepts connections and does not answer, as an XNAT that starts: no session is sent to
# it, nobody waits for it for long, and it is no longer avoided once it answers.
use v5.36;
use Test::More;
use Time::HiRes qw(time);
use List::Util qw(max);
use XB::Test;
use XB::MoveRig;

my $t = XB::Test->new;
my $rig = XB::MoveRig->new($t, httpd => { threads => 64 }, member => 'retry=600',
    conf => "XnatBalanceMove Drain\nXnatBalanceMemcachedTimeout 1s\n");
my @users = map { "u$_" } 1 .. 10;
my $ask = sub ($user) {
    my $begun = time;
    my $r = $rig->ask($user, '/read');
    return { %$r, took => time - $begun };
};
# Asks all of them until they are where they belong.
my $until = sub ($seconds, $well) {
    my ($end, $worst, %status) = (time + $seconds, 0);
    while (time < $end) {
        my @r = map { $ask->($_) } @users;
        $worst = max $worst, map { $_->{took} } @r;
        $status{ $_->{status} }++ for @r;
        last if $well->(map { $_->{node} } @r);
        $rig->idle(0.2);
    }
    return ($worst, join ' ', sort keys %status);
};
$rig->only('n1');
$rig->login($_, 'n1') for @users;
$rig->open;

subtest 'a drain' => sub {
    $rig->node('n2')->misbehave('starting');
    $rig->drain('n1');
    my ($worst, $status) = $until->(12, sub (@at) { !grep { $_ ne 'n3' } @at });
    is join(' ', map { $ask->($_)->{node} } @users), join(' ', ('n3') x @users),
        'all sessions are at the node that answers';
    cmp_ok $worst, '<', 1, sprintf 'nobody has waited for long: %.2f s', $worst;
    is $status, '200', 'all were answered';
    is_deeply [ $rig->node('n2')->heads ], [], 'the other was sent no session';
    cmp_ok $rig->refused('target-not-ready'), '>', 0, 'it is counted under its word';
    is $rig->refused('probe-late'), 0, '... not as late';
    is $rig->status->{sessions_by_state}{partial}, 0, 'no session is pinned by it';
};

subtest 'once it answers' => sub {
    $rig->node('n2')->behave;
    $rig->undrain('n1');
    $rig->drain('n3');
    my ($worst) = $until->(12, sub (@at) { !grep { $_ ne 'n2' } @at });
    is join(' ', map { $ask->($_)->{node} } @users), join(' ', ('n2') x @users),
        'it takes the sessions, none was noted as having been there';
};

subtest 'a rescue' => sub {
    $rig->undrain('n3');
    $rig->only('n1');
    my @lost = map { "r$_" } 1 .. 3;
    $rig->login($_, 'n1') for @lost;
    $rig->open;
    $rig->idle(5);                      # n2 and n3 have not been heard of since
    $rig->node('n2')->clear;
    $rig->node('n2')->misbehave('starting');
    $rig->node('n1')->stop;
    my @r = map { $ask->($_) } @lost;
    is_deeply [ map { "$_->{status} $_->{node}" } @r ], [ ('200 n3') x 3 ], 'to the one that answers';
    cmp_ok max(map { $_->{took} } @r), '<', 1, 'soon';
    is_deeply [ $rig->node('n2')->heads ], [], '... the other was sent no session';
};
$rig->node('n2')->hang_up;
$t->allow_log(qr/AH01114|AH00940|AH00957|AH00959|AH01102|AH00898/);
$t->finish;
