# SPDX-License-Identifier: Apache-2.0
# What XnatBalanceMove allows: Off moves nothing, DryRun tells, Drain leaves overload alone.
use v5.36;
use Test::More;
use XB::Test;
use XB::MoveRig;

my $fast = <<'END';
XnatBalanceGrace 400ms
XnatBalanceBusyHalfLife 100ms
XnatBalanceMoveRate 100/s 100
XnatBalanceMemcachedTimeout 1s
END
my $t = XB::Test->new;
my $modes = XB::MoveRig->new($t, nodes => [qw(p1 p2 p3)], conf => "$fast XnatBalanceMove Off");

sub home ($user) { return $modes->ask($user, '/read')->{node} }

# Does a move come within the time that one would take?
sub moves_within ($seconds, $before)
{
    return eval { wait_for { $modes->moved > $before } $seconds, 'a move' } ? 1 : 0;
}

my $h = $modes->httpd;
my $mode = sub ($word, $drain = 0) {
    $h->set_conf($modes->conf("$fast XnatBalanceMove $word"));
    $h->graceful;
    $modes->ask('u', '/read');
    $modes->drain('p1') if $drain;
};
$modes->only('p1');
my $old = $modes->login('away', 'p1');
$modes->login($_, 'p1') for qw(u busy-p1);
$modes->only('p2', 'p3');
my $new_home = home('away');
$modes->open;
like $new_home, qr/^p[23]$/, 'Off: when a node is out, MSM moves a session';
is home('away'), $new_home, '... which stays, since its id says so';
my $late = $t->get($h->url('/read'), cookie => "JSESSIONID=$old");
like $late->{body}, qr/"node":"$new_home"/, '... for requests with its old id, too';

$modes->drain('p1');
ok !moves_within(1, 0), 'Off: a drain moves nothing';
is_deeply { $modes->refusals }, {}, '... and refuses nothing';
is home('u'), 'p1', '... stock httpd leaves the session there';

$mode->('DryRun', 1);
ok wait_for { $modes->status->{moves}{would_have_moved} == 2 } 5, 'DryRun: counts two';
my @lines = $h->error_log =~ /XB0303: session \w+ would be moved from p1 to p[23] \(drain\)/g;
is @lines, 2, '... tells of each once';
is_deeply { $modes->refusals }, { 'dry-run' => 2 }, '... as refusals';
is $modes->moved, 0, '... moves none';
my $id = $modes->client->session('u');
is_deeply [ grep { $_->{id} eq $id } map { $_->heads } $modes->nodes ], [],
    '... and asks no node';

# Sessions that have not been at a gate, with two more nodes to go to.
my $overload = sub ($user) {
    $modes->only('p1');
    $modes->login($_, 'p1') for $user, "busy-$user";
    $modes->open;
    return map { $modes->send("busy-$user", '/bytes?n=1000&ms=2000') } 1 .. 4;
};
$mode->('Drain');
my @load = $overload->('v');
ok !moves_within(2, 0), 'Drain: an overload moves nothing';
$modes->receive($_) for @load;
$modes->drain('p1');
ok moves_within(5, 0), '... a drain does';
isnt home('v'), 'p1', '... away';
wait_for { $modes->moved == 2 } 5, 'the other to move, too';

$mode->('On');
@load = $overload->('w');
ok moves_within(10, 2), 'On: an overload moves as well';
isnt home('w'), 'p1', '... away';
$modes->receive($_) for @load;
$t->finish;
