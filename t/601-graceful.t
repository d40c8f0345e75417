# SPDX-License-Identifier: Apache-2.0
# Graceful restarts while sessions move and requests run: what is known of sessions stays, new
# directives take effect, the old generation's requests still count, and a stop leaves nothing.
use v5.36;
use Test::More;
use Time::HiRes qw(time);
use XB::Test;
use XB::MoveRig;

my $t = XB::Test->new;
$t->allow_log(qr/AH01102|AH00898/);     # HEADs of a child that ends are cut off
my $slack = "XnatBalanceMemcachedTimeout 1s\n";
my $rig = XB::MoveRig->new($t, conf => "$slack XnatBalanceSessions 4096");
my ($h, $c) = ($rig->httpd, $rig->client);
my @users = map { "u$_" } 1 .. 12;
$rig->login($_) for @users;

# ---- under load, with moves

my (%written, %answers, %count);
my $begun = time;
my @plan = (                            # a graceful restart forgets a drain
    [0.3, sub { $rig->drain('n1') }],
    [1.0, sub { $h->process->signal('USR1') }],
    [1.5, sub { $rig->drain('n2') }],
    [1.7, sub { $h->process->signal('USR1') }],
    [2.2, sub { $rig->drain('n3') }],
    [2.9, sub { $h->process->signal('USR1') }],
);
my @idle = map { [ $_, 0 ] } @users;    # user, since when
$c->run(parallel => 6,
    next => sub {
        return undef if time - $begun > 4;
        (shift @plan)->[1]->() if @plan && time - $begun > $plan[0][0];
        return 0.02 if !@idle || time - $idle[0][1] < 0.15;
        my $user = (shift @idle)->[0];
        return { path => "/write?k=$user-" . ++$count{$user}, user => $user };
    },
    done => sub ($r, $req) {
        my $user = $req->{user};
        push @idle, [ $user, time ];
        $answers{ $r->{error} || $r->{status} }++;
        push @{$written{$user}}, $req->{path} =~ /k=(.*)/ if $r->{status} == 200;
    });
is_deeply [ keys %answers ], [200], 'no request fails over three graceful restarts'
    or diag explain \%answers;
wait_for { $h->children == 2 } 10, 'the old generations to end';
my $status = $rig->status;
is $status->{server}{generation}, 4, 'four generations';
cmp_ok $rig->moved, '>', 3, 'sessions have moved meanwhile (' . $rig->moved . ')';
is $status->{sessions}{remembered}, @users, 'all sessions are remembered';
is $status->{requests_by_decision}{elected}, @users, '... none was elected twice';
is $status->{sessions_by_state}{$_}, 0, "... none $_" for qw(moving in-flight partial unproven);
is_deeply [ grep { $_->{busy} } @{$status->{balancers}[0]{members}} ], [], 'no member is busy';
my @lost;
for my $user (@users) {
    my %there = map { $_ => 1 } @{$rig->ask($user, '/read')->{json}{writes}};
    push @lost, grep { !$there{$_} } @{$written{$user}};
}
is_deeply \@lost, [], 'no write that was answered is lost';

# ---- where a session has been

$rig->undrain($_) for qw(n1 n2 n3);
$rig->only('n1');
$rig->login('traveller', 'n1');
$rig->only('n1', 'n2');
$rig->drain('n1');
wait_for { $rig->ask('traveller', '/read')->{node} eq 'n2' } 5, 'a move';
$h->set_conf($rig->conf("$slack XnatBalanceSessions 8192\nXnatBalanceMoveThreshold 0.77"));
$h->graceful;
$rig->undrain('n1');
$rig->open;
$rig->drain('n2');
wait_for { $rig->ask('traveller', '/read')->{node} ne 'n2' } 5, 'another move';
is $rig->ask('traveller', '/read')->{node}, 'n3', 'where a session has been outlives a restart';

# ---- directives

$t->expect_log(qr/XB0104: XnatBalanceSessions stays at 4096 until httpd is stopped/);
$status = $rig->status;
is $status->{sessions}{capacity}, 4096, 'XnatBalanceSessions stays, and a warning says so';
is $status->{balancers}[0]{settings}{XnatBalanceMoveThreshold}, '0.77', 'the others do not';

# ---- requests of the old generation

$rig->undrain($_) for qw(n1 n2 n3);
$rig->only('n1');
$rig->login($_, 'n1') for qw(long witness);
$rig->open;
my $download = $rig->send('long', '/trickle?n=60&ms=50');
wait_for { $rig->node('n1')->count('/trickle') } 5, 'a download';
$h->graceful;
$status = $rig->status;
is $status->{sessions_by_state}{'in-flight'}, 1, 'a download of old is in flight';
my ($n1) = grep { $_->{route} eq 'n1' } @{$status->{balancers}[0]{members}};
is $n1->{busy}, 1, '... and keeps its member busy';
$rig->drain('n1');
wait_for { $rig->ask('witness', '/read')->{node} ne 'n1' } 5, 'another session to move';
is $rig->status->{sessions_by_state}{'in-flight'}, 1, '... its session waits for its end';
my $r = $rig->receive($download);
is "$r->{status} " . length $r->{body}, '200 60', 'it ends well';
wait_for { $rig->ask('long', '/read')->{node} ne 'n1' } 5, 'its session to move then';
wait_for { $h->children == 2 } 10, 'its child to end';
is $rig->status->{sessions_by_state}{'in-flight'}, 0, 'nothing is in flight any more';

# ---- restart, stop

my $known = $rig->status->{sessions}{remembered};
$h->restart;
$c->close;
is $rig->status->{sessions}{remembered}, $known, 'a hard restart keeps the table';
is $rig->ask('traveller', '/read')->{node}, 'n3', '... and its sessions';

my @pids = ($h->pid, $h->children);
my $process = $h->process;
$h->stop;
is_deeply [ $process->leftover ], [], 'after a stop no process is left';
is_deeply [ grep { -d "/proc/$_" } @pids ], [], '... none of its children';
my %ours = map { $_ => 1 } @pids;
my @segments = map { [split] } split /\n/, $t->slurp('/proc/sysvipc/shm');
is_deeply [ grep { $ours{ $_->[4] } } @segments ], [], '... no shared memory';

$rig->forget;
$status = $rig->status;
is $status->{sessions}{capacity}, 8192, 'a stop and a start give the table its new size';
is $status->{sessions}{remembered}, 0, '... empty';
$t->finish;
