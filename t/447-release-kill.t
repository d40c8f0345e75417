# SPDX-License-Identifier: Apache-2.0
# The child that moves sessions is killed while it has a session's gate shut for the release of a stale
# copy. The gate opens soon, the session stays where it is, and the next child releases the copy.
use v5.36;
use Test::More;
use Time::HiRes qw(time);
use XB::FakeJmx;
use XB::Test;
use XB::MoveRig;

my $MODULE = 'build/checked/mod_xnat_balance.so';
{
    delete local @ENV{qw(MAKEFLAGS MAKELEVEL MFLAGS)};
    system('make', '-s', $MODULE) == 0 or BAIL_OUT('make');
}
my $t = XB::Test->new;
$t->write('login', "$XB::FakeJmx::LOGIN\n");
chmod 0600, $t->path('login');
my $rig = XB::MoveRig->new($t, nodes => [qw(n1 n2)], httpd => { children => 3, module => $MODULE },
                           conf => <<"END");
XnatBalanceMove Drain
XnatBalanceRelease /manager/jmxproxy
XnatBalanceReleaseAuth @{[ $t->path('login') ]}
XnatBalanceMemcachedTimeout 1s
END
my ($h, $n1) = ($rig->httpd, $rig->node('n1'));

sub at_n1 ($user)
{
    $rig->undrain('n1');
    $rig->only('n1');
    return $rig->login($user, 'n1');
}

sub leave_n1 ()
{
    $rig->open;
    $rig->drain('n1');
    return;
}

# What the node was told it may have done, though nobody hears of it.
for my $case (['a copy that is still there', 'hang'], ['one that is gone', 'slow', ms => 300]) {
    my ($name, @how) = @$case;
    subtest $name => sub {
        my $user = $how[0];
        my $id = at_n1($user);
        $rig->ask($user, '/write?k=before');
        my $expired = sub {
            return grep { $_->{what} eq 'expire' && $_->{id} eq $id } XB::FakeJmx::calls($n1);
        };
        XB::FakeJmx::misbehave($n1, @how, what => 'expire');
        my $released = $rig->status->{copies}{released};
        leave_n1();
        wait_for { $expired->() && $rig->status->{sessions_by_state}{moving} } 10, 'a gate';
        my @waiting = map { $rig->send($user, '/read') } 1 .. 6;    # some die with the mover
        my $mover = $rig->mover_pid;
        $t->allow_log(qr/AH00052: child pid $mover exit signal Killed/);
        $rig->client->close;
        kill KILL => $mover;
        my $died = time;
        my $socket = $rig->send($user, '/write?k=after');
        XB::FakeJmx::behave($n1);
        wait_for { $rig->mover_pid != $mover } 5, 'another mover';
        my $r = $rig->receive($socket);
        my $seconds = time - $died;
        cmp_ok $seconds, '<', 3, sprintf 'the gate opens within three seconds: %.2f', $seconds;
        is "$r->{status} $r->{node} @{$r->{json}{writes} // []}", '200 n2 before after',
            'the session is at its home, with all that was written';
        $rig->receive($_) for @waiting;
        ok wait_for {
            my $s = $rig->status;
            !grep { $_ } @{$s->{sessions_by_state}}{qw(moving in-flight)}, $s->{gates}{waiting};
        } 5, 'no session stays at a gate or busy, nobody waits';
        is $rig->status->{server}{version}, 'valid', 'the table is valid';
        # That a copy is not found means something to a child that has seen another one there.
        at_n1('next');
        leave_n1();
        wait_for { $rig->status->{copies}{released} == $released + 2 } 20, 'both releases';
        is_deeply [ $n1->copies ], [], 'the next child has the copy released';
        is_deeply $rig->ask($user, '/read')->{json}{writes}, [qw(before after)],
            '... and the session lives';
    };
}
$n1->hang_up;
$t->allow_log(qr/AH01102|AH00898|XB0330: .* copy-not-found/);
$t->finish;
