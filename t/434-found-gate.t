# SPDX-License-Identifier: Apache-2.0
# A session's requests find that its home is lost while its gate is shut for something else, here
# for the release of a copy at a slow node: one takeover brings the session elsewhere all the same,
# none of them goes there by itself.
use v5.36;
use Test::More;
use XB::FakeJmx;
use XB::MoveRig;
use XB::Test;

my $t = XB::Test->new;
$t->write('login', "$XB::FakeJmx::LOGIN\n");
chmod 0600, $t->path('login');
my $rig = XB::MoveRig->new($t, piped => ['n2'], conf => <<"END",
XnatBalanceMove Drain
XnatBalanceRelease /manager/jmxproxy
XnatBalanceReleaseAuth @{[ $t->path('login') ]}
END
    member => 'retry=600 disablereuse=on connectiontimeout=800ms');
my $looks = sub { grep { $_->{what} eq 'look' } XB::FakeJmx::calls($rig->node('n1')) };

$rig->only('n1', 'n2');
my $id = $rig->login('u', 'n1');
$rig->ask('u', '/write?k=first');
# Before the gate is shut a second is enough, then half of one is not.
XB::FakeJmx::misbehave($rig->node('n1'), 'slow', what => 'look', ms => 600);
$rig->drain('n1');
wait_for { $rig->moved } 20, 'it to move';
$rig->undrain('n1');
$rig->open;
wait_for { $looks->() } 20, 'its copy to be looked for';
$rig->pipe('n2')->vanish;
my @r = $rig->client->many([map { { path => "/write?k=$_", user => 'u' } } 1 .. 6],
                           parallel => 6);
is scalar(my @at_gate = $looks->()), 2, 'the gate was shut for the release';
is join(' ', map { $_->{status} } @r), '200 ' x 5 . 200, 'all requests are answered';
my $r = $rig->ask('u', '/read');
is "$r->{node} " . join(' ', sort @{$r->{json}{writes}}), 'n3 1 2 3 4 5 6 first',
    'by one node, which has all of it';
is scalar(my @probes = grep { !$_->{flush} } $rig->node('n3')->heads), 1, 'after one takeover';
my $base = XB::FakeMsm->base($id);
my @strange = grep { $_->{path} eq '/write' && ($_->{id} // '') eq "$base.n2" }
    $rig->node('n3')->requests;
is_deeply \@strange, [], 'no request came there with the id of the lost home';
is $rig->status->{moves_by_reason}{failed}, 1, 'it is counted';
$t->expect_log(qr/XB0330: .* node-unreachable /);
$t->allow_log(qr/AH0|AH10/);
$t->finish;
