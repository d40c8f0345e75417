# SPDX-License-Identifier: Apache-2.0
# Threads that cannot be started: it is said once, tried again, and works when it can.
use v5.36;
use Test::More;
use XB::Deps;
use XB::Test;
use XB::MoveRig;

plan skip_all => 'preloads a library of its own' if $ENV{XB_ASAN} || $ENV{XB_VALGRIND};
my $t = XB::Test->new;
my ($so, $file) = ($t->path('no_threads.so'), $t->path('no-threads'));
my $cc = $ENV{CC} // 'gcc';
my $source = XB::Deps->root . '/t/lib/no_threads.c';
my $said = `$cc -D_GNU_SOURCE -fPIC -shared -o '$so' '$source' -ldl 2>&1`;
is $?, 0, 'the library to preload is built' or diag $said;

my $rig = XB::MoveRig->new($t, nodes => [qw(n1 n2 n3)],
    httpd => { env => { LD_PRELOAD => $so, XB_NO_THREADS => $file } },
    conf => "XnatBalanceMove Drain\nXnatBalanceMemcachedTimeout 1s\n");
my $h = $rig->httpd;
my $lines = sub ($code) { return scalar(() = $h->error_log =~ /$code/g) };
$rig->only('n1');
$rig->login('u', 'n1');
$rig->open;

# Another child takes the lease, which has no workers yet; the new one cannot have a mover.
$t->write('no-threads', '');
my $pid = wait_for { $rig->mover_pid } 5, 'a mover';
$h->kill_child($pid);
wait_for { $rig->mover_pid != $pid } 10, 'the mover in another child';
wait_for { $lines->('XB0311') } 5, 'its word on that';
$rig->drain('n1');
$rig->idle(1);
is $lines->('XB0311'), 1, 'a worker that cannot be started: said once';
cmp_ok $lines->('XB0312'), '>=', 1, 'a child without the deadlines thread says so, too';
is $rig->moved, 0, 'nothing moves meanwhile';
is $rig->ask('u', '/read')->{status}, 200, 'requests are answered';

unlink $file;
ok wait_for { $rig->moved } 15, 'tried again, it works';
is $lines->('XB0311'), 1, 'no more was said';
$t->expect_log(qr/XB0311/);
$t->expect_log(qr/XB0312/);
$t->allow_log(qr/AH00052/);
$t->finish;
