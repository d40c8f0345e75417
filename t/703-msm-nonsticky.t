# SPDX-License-Identifier: Apache-2.0
# Facts of MSM's non-sticky mode with locks: no takeover, no renamed ids, nothing lost anywhere.
use v5.36;
use Test::More;
use XB::Test;
use XB::Tomcat;
use XB::Msm;

my $t = XB::Test->new;
my $msm = XB::Msm->new($t, 2);
my ($one, $two) = XB::Tomcat->fleet($t, 2, memcached => $msm->nodes, contexts => ['/'],
                                    sticky => 0, lock_mode => 'all');

my $id = $msm->login($one, 'bob');
like($id, qr/^[0-9A-F]{32}-n[12]\.tomcat1$/, 'the id has a route all the same');
my ($node, $other) = $msm->node_of($id) eq 'n1' ? qw(n1 n2) : qw(n2 n1);
wait_for { $msm->keys($id) >= 4 } 5, 'four keys';
is_deeply([sort grep { !/lock:/ } $msm->keys($id)],
          [sort "$node $id", "$node validity:$id", "$other bak:$id", "$other bak:validity:$id"],
          'session and validity on its node, copies on the next one');
is(length $msm->node($node)->get("validity:$id"), 20, 'validity is 20 bytes');

my $r = $msm->ask($two, '/app/whoami', $id);
is("@{$r->{json}}{qw(user node)}", 'bob tomcat2', 'another node serves it');
is($r->{id}, undef, 'and renames nothing');
is_deeply([$two->session_ids], [], 'nor keeps a copy');

my @keys = map { "w$_" } 1 .. 40;
my @tc = ($one, $two);
while (my @eight = splice @keys, 0, 8) {
    my @answers = $msm->ask_all(map { [$tc[$_ % 2], "/app/write?k=$eight[$_]", $id] } 0 .. 7);
    is(scalar(grep { $_->{status} == 200 } @answers), 8, '8 writes in parallel at two nodes');
}
$r = $msm->ask($one, '/app/read', $id);
is_deeply($r->{json}{keys}, [sort map { "w$_" } 1 .. 40], 'none of 40 is lost');
is_deeply([map { $_->severe } $one, $two], [], 'no complaint from Tomcat');
$t->finish;
