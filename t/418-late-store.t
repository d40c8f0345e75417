# SPDX-License-Identifier: Apache-2.0
# A home that is behind with storing: a session is taken over only when all is stored, or what
# comes late would make its old key anew, which requests with the old id would then get; nor would
# the session have it at its new home.
use v5.36;
use Test::More;
use XB::Test;
use XB::MoveRig;

my $t = XB::Test->new;
my $rig = XB::MoveRig->new($t, nodes => [qw(n1 n2)], conf => <<'END');
XnatBalanceMove Drain
XnatBalanceMemcachedTimeout 1s
END
my $c = $rig->client;
$rig->only('n1');
my $id = $rig->login('u', 'n1');
$rig->open;
# The node drains while they run, so that the flush comes right after them: half a store later the
# module could take one for quick that was only about to come.
my @r = map { $rig->send('u', "/write?k=$_&ms=800&queue=250") } 1 .. 3;
$rig->drain('n1');
@r = map { $rig->receive($_)->{status} } @r;
is "@r", '200 200 200', 'writes that are stored one by one';
wait_for { $rig->moved } 10, 'the move';
$rig->idle(1);
is $rig->node('n1')->stored($id), undef, 'the old key has not come back';
is_deeply [ sort @{$rig->node('n2')->stored($c->session('u') =~ s/n1$/n2/r)} ], [ 1 .. 3 ],
    'the new one has all';
is_deeply [ sort @{$rig->ask('u', '/read')->{json}{writes}} ], [ 1 .. 3 ], 'and so does its node';

# Taken out of service by hand or by a health check the node lives, and may be as late.
$rig->undrain('n1');
for my $how (qw(disabled hcfailed)) {
    $rig->only('n1');
    $rig->login($how, 'n1');
    $rig->open;
    @r = map { $rig->send($how, "/write?k=$_&queue=250") } 1 .. 3;
    @r = map { $rig->receive($_)->{status} } @r;
    is "@r", '200 200 200', "$how: writes that are answered before they are stored";
    $rig->httpd->manager('app', $rig->node('n1')->url, $how => 1);
    my $found = $rig->ask($how, '/read');
    is $found->{node}, 'n2', 'the session goes on elsewhere';
    is_deeply [ sort @{$found->{json}{writes}} ], [ 1 .. 3 ], '... with all of them';
    $rig->httpd->manager('app', $rig->node('n1')->url, $how => 0);
}
$t->finish;
