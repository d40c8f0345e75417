# SPDX-License-Identifier: Apache-2.0
# The demo in its short form: it plays a day, measures it, leaves nothing behind, also when
# interrupted; the site that stays up ends when told.
use v5.36;
use Test::More;
use XB::Deps ();
use XB::Test;

my $t = XB::Test->new;
my $demo = XB::Deps->root . '/scripts/demo';
my $tmp = $t->mkdir('tmp');

# Runs in a group of its own, as from a shell; what it leaves in its temporary directory is
# seen.
sub demo ($name, @args)
{
    my %env = (TMPDIR => $tmp, XB_DEMO_DIR => "$tmp/up");
    return $t->spawn(name => $name, user => 0, env => \%env, cmd => [ $demo, @args ]);
}

sub result ($p, $seconds = 90)
{
    wait_for { !$p->alive } $seconds, $p->name . ' to end';
    return ($p->stop, $t->slurp($p->log));
}

sub nothing_left ($what)
{
    is_deeply([ glob "$tmp/*" ], [], "$what leaves no file behind");
    my @left = grep { $t->slurp("$_/cmdline") =~ /\Q$tmp\E/ } glob '/proc/[0-9]*';
    is_deeply(\@left, [], "$what leaves no process behind");
    return;
}

my ($status, $said) = result(demo('quick', '--quick'));
is($status, 0, 'a good day has exit code 0') or diag($said);
like($said, qr/^  XnatBalanceHalfLife +\S+ +default 60s/m, 'scaled settings are told');
like($said, qr/^ *\d+ s  transfers  .* req\/s .* moves  1: *\d+\/\d+/m, 'and its progress');
like($said, qr/^tomcat$_ +\d+ +\d+ +\d+ +[\d.]+ +[\d.]+ +\d+ +\d+/m, "figures of tomcat$_")
    for 1 .. 3;
like($said, qr/^$_ +0\b/m, "$_: none") for 'logins lost', 'writes lost', 'wrong answers', '5xx';
like($said, qr/^moves +[1-9]\d+ \(overload [1-9]\d*, drain [1-9]\d*\)/m, 'at least ten moves');
like($said, qr/^drain +tomcat2 empty after/m, 'the drained node is empty');
like($said, qr/^  \Q$_\E +[1-9]\d* clicks +median +\d+ ms +90 % +\d+ ms/m, "latency $_")
    for 'before the transfers', 'during, not moved yet', 'during, after the move';
nothing_left('a day');

my $p = demo('interrupted', '--quick');
wait_for { $t->slurp($p->log) =~ /clicks/ } 60, 'its users to click';
$p->signal('INT');
($status, $said) = result($p);
isnt($status, 0, 'a day that is interrupted is no good one');
like($said, qr/ended by SIGINT/, 'and says why');
nothing_left('an interrupted day');

($status, $said) = result(demo('up', 'up'));
is($status, 0, 'the site is up') or diag($said);
my ($url) = $said =~ m{^ *balancer-manager +(http://127.0.0.1:\d+)/}m;
my %login = (headers => [ Authorization => 'Basic ZGVtbzpwdy1kZW1v' ]);       # demo:pw-demo
is($t->get("$url/data/JSESSION", %login)->{status}, 200, 'its application knows the user');
is($t->get("$url/$_")->{status}, 200, "$_ answers")
    for 'balancer-manager', 'xnat-balance-status', 'xnat-balance-status?format=prometheus';
like((result(demo('again', 'up')))[1], qr/up already.*^ *balancer-manager +\Q$url\E/ms,
     'a second one is told where the first is');
($status, $said) = result(demo('down', 'down'));
is($status, 0, 'and down') or diag($said);
is($t->get("$url/")->{status}, 0, 'nobody answers any more');
nothing_left('a site that was up');

isnt((result(demo('nonsense', 'sideways')))[0], 0, 'unknown words are refused');

$t->finish;
