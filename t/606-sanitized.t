# SPDX-License-Identifier: Apache-2.0
# What clients, nodes and memcached may say, against the module with AddressSanitizer and
# UndefinedBehaviorSanitizer: the glue, too, which the unit tests do not reach.
use v5.36;
use Test::More;
use FindBin ();

plan skip_all => 'no build with sanitizers: make asan' if !-e 'build/asan/mod_xnat_balance.so';

$ENV{XB_ASAN} = 1;
for my $test (qw(204-learn 205-hostile 411-markers 412-bad-store 430-release)) {
    my @said = qx("$^X" "-I$FindBin::Bin/lib" "$FindBin::Bin/$test.t" 2>&1);
    is($?, 0, "$test: no report, and all that it says holds")
        or diag(grep { !/^\s*ok / } @said);
}
done_testing;
