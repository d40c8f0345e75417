# SPDX-License-Identifier: Apache-2.0
# The store's verbs against a real memcached; against a scripted one: t/unit/store_test.c.
use v5.36;
use Test::More;
use XB::Test;

my $t = XB::Test->new;
my $mc = $t->memcached;
my $test = 'build/unit/store_test';

ok(-x $test, "$test is built") or BAIL_OUT("make $test");
ok($mc->set(big => 'B' x 900_000), 'a session of 900 KB');

my @lines = split /\n/, `$test @{[$mc->port]}`;
is($?, 0, 'all is well between the store and memcached') or diag(@lines);
cmp_ok(scalar(grep { /^ok / } @lines), '>', 10, 'many things were tried');
is_deeply([grep { /^not ok/ } @lines], [], 'none went wrong');
is_deeply([sort grep { !/^k{250}$/ } $mc->keys], ['big', 'xnat-balance:moved:A'],
          'nothing else was written');

$mc->pause;
@lines = split /\n/, `$test @{[$mc->port]} frozen`;
is($?, 0, 'a frozen memcached is LATE') or diag(@lines);
$mc->cont;
$t->finish;
