# SPDX-License-Identifier: Apache-2.0
# Four children, all busy: sessions that move at the same time as their clients write, and an
# lbmethod that is switched away while a move is under way.
use v5.36;
use Test::More;
use Time::HiRes qw(time);
use XB::Test;
use XB::MoveRig;

my $t = XB::Test->new;
my $rig = XB::MoveRig->new($t, httpd => { children => 4, threads => 32 },
                           conf => "XnatBalanceMemcachedTimeout 1s");
my ($h, $c) = ($rig->httpd, $rig->client);
my ($n1, $n2, $n3) = $rig->nodes;

subtest 'many at once' => sub {
    my @users = map { "u$_" } 1 .. 24;
    my (%id, %written, %answers);
    $id{$_} = $rig->login($_) for @users;
    my @plan = map { my $n = $_; sub { $rig->drain($n) } } qw(n1 n2);
    my ($begun, $count) = (time, 0);
    my @idle = map { [ $_, 0 ] } map { ($_, $_) } @users;   # two requests of each at a time
    $c->run(parallel => 16,
        next => sub {
            return undef if time - $begun > 3.5;
            (shift @plan)->() if @plan && time - $begun > 1.7 * (2 - @plan) + 0.2;
            return 0.02 if !@idle || time - $idle[0][1] < 0.15;
            return { path => '/write?k=w' . ++$count, user => (shift @idle)->[0] };
        },
        done => sub ($r, $req) {
            push @idle, [ $req->{user}, time ];
            $answers{ $r->{error} || $r->{status} }++;
            push @{$written{ $req->{user} }}, $req->{path} =~ /k=(.*)/ if $r->{status} == 200;
        });
    is_deeply [ keys %answers ], [200], "no request failed of $count" or diag explain \%answers;
    cmp_ok $rig->moved, '>=', 16, 'moves: ' . $rig->moved;
    my (@lost, @false);
    for my $user (@users) {
        my $r = $rig->ask($user, '/read');
        my %there = map { $_ => 1 } @{$r->{json}{writes}};
        push @lost, grep { !$there{$_} } @{$written{$user}};
        my $base = XB::FakeMsm->base($id{$user});
        my $marker = $rig->store('m1')->get("xnat-balance:moved:$base");
        push @false, "$user: $marker, not $r->{node}" if ($marker // $r->{node}) ne $r->{node};
        my %keys = $rig->store('m1')->gets(map { "$base.$_" } qw(n1 n2 n3));
        push @false, map { "$user: key $_" } grep { $_ ne $r->{json}{id} } keys %keys;
    }
    is_deeply \@lost, [], 'no write that was answered is lost';
    is_deeply \@false, [], 'markers and keys name the one home of each';
    my $status = $rig->status;
    is $status->{sessions_by_state}{$_}, 0, "no session is $_" for qw(moving in-flight partial);
    is $status->{sessions}{uncounted_requests}, 0, 'all were counted';
    is_deeply { $rig->refusals }, {}, 'no move went wrong';
};

# With another method httpd follows cookies: what the mover has not sent by then is not sent.
subtest 'the method is switched away' => sub {
    $rig->undrain($_) for qw(n1 n2 n3);
    $rig->only('n1');
    my %id = map { $_ => $rig->login($_, 'n1') } qw(flushed probed);
    $n1->misbehave('slow', for => $id{flushed}, ms => 700);
    $n2->misbehave('slow', for => $id{probed}, ms => 700);
    my %user = map { substr($id{$_}, 0, 32) => $_ } keys %id;
    $rig->only('n1', 'n2');
    $rig->drain('n1');
    my $flushing = sub { grep { $_->{id} eq $id{flushed} } $n1->heads };
    wait_for { $flushing->() } 5, 'a flush';
    $rig->probed('n2', $id{probed});
    $h->manager('app', undef, lbmethod => 'byrequests');
    is $rig->ask($_, "/write?k=$_")->{status}, 200, "$_: served meanwhile" for sort keys %id;
    wait_for { !$rig->status->{sessions_by_state}{moving} } 5, 'the gates to open';
    is_deeply [ grep { $_->{id} eq $id{flushed} } $n2->heads ], [],
        'a move that had not reached its target does not';
    is $rig->ask('flushed', '/read')->{node}, 'n1', '... its session stays';
    $rig->undrain('n1');
    $h->manager('app', undef, lbmethod => 'xnat');
    is $rig->ask('flushed', '/read')->{node}, 'n1', '... and is known when the method is back';
    is $rig->ask('probed', '/read')->{node}, 'n2', 'one that was taken over is at its new home';

    # To and fro, with traffic and drains.
    $rig->open;
    $_->behave for $n1, $n2;
    my @users = map { "v$_" } 1 .. 12;
    $rig->login($_) for @users;
    my $left = 600;
    my %answers;
    $c->run(parallel => 8,
        next => sub {
            return undef if $left-- <= 0;
            if ($left % 60 == 0) {
                my $method = $left % 120 ? 'byrequests' : 'xnat';
                $h->manager('app', undef, lbmethod => $method);
                $rig->drain('n1') if $left == 240;
            }
            return { path => '/read', user => $users[$left % @users] };
        },
        done => sub ($r, $req) { $answers{ $r->{error} || $r->{status} }++ });
    is_deeply [ keys %answers ], [200], 'switched to and fro under load: no request fails'
        or diag explain \%answers;
    ok wait_for {
        my $s = $rig->status;
        !$s->{sessions_by_state}{moving} && !$s->{sessions_by_state}{'in-flight'}
            && !grep { $_->{busy} } @{$s->{balancers}[0]{members}};
    } 5, 'nothing is stuck';
    unlike $h->error_log, qr/AH00051|AH00052/, 'no child ended by a signal';
};
$t->allow_log(qr/AH01102|AH00898/);     # HEADs that came too late
$t->finish;
