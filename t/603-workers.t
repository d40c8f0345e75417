# SPDX-License-Identifier: Apache-2.0
# The mover changes hands while its workers are at it: their count stays right, gates open within
# three seconds, sessions are at home, and who waits is answered.
use v5.36;
use Test::More;
use Time::HiRes qw(time);
use XB::Test;
use XB::MoveRig;

my $t = XB::Test->new;
my $rig = XB::MoveRig->new($t, conf => <<'END');
XnatBalanceMove Drain
XnatBalanceMemcachedTimeout 1s
XnatBalanceGateTimeout 5s
END
my $h = $rig->httpd;
my $busy = sub { $rig->status->{mover}{workers_busy} };
my $drain = sub {
    $rig->only('n1');
    $rig->login("u$_", 'n1') for 1 .. 3;
    $rig->open;
    $rig->node($_)->misbehave('hang') for qw(n2 n3);
    $rig->drain('n1');
    wait_for { $busy->() == 3 } 10, 'three moves under way';
};

for my $change (
    [ 'a graceful restart' => sub { $h->graceful } ],
    [ 'a killed child' => sub { $h->kill_child($rig->mover_pid) } ],
) {
    my ($how, $do) = @$change;
    $drain->();
    my $pid = $rig->mover_pid;
    my $dies = $how =~ /killed/;
    my @waiting = $dies ? () : map { $rig->send("u$_", '/write?k=before') } 1 .. 3;
    wait_for { $rig->status->{gates}{waiting} == @waiting } 5, 'requests at the gates';
    $do->();
    my $since = time;
    push @waiting, map { $rig->send("u$_", '/write?k=after') } 1 .. 3;
    wait_for { !$rig->status->{sessions_by_state}{moving} } 5, 'open gates';
    my $seconds = time - $since;
    cmp_ok $seconds, '<', 3, sprintf "$how: gates open within three seconds: %.2f", $seconds;
    is_deeply [ map { my $r = $rig->receive($_); "$r->{status} $r->{node}" } @waiting ],
        [ ('200 n1') x @waiting ], '... who waited is answered at home';
    my @keys = ($dies ? () : 'before', 'after');
    my $writes = sub ($user) { return join ' ', sort @{$rig->ask($user, '/read')->{json}{writes}} };
    is_deeply [ map { $writes->("u$_") } 1 .. 3 ], [ (join ' ', sort @keys) x 3 ],
        '... with all that was written';
    wait_for { $rig->mover_pid != $pid } 10, 'the mover in another child';
    my %seen;
    wait_for { my $n = $busy->(); $seen{$n} = 1; $n == 0 } 10, "no worker busy after $how";
    is_deeply [ grep { $_ > 6 } keys %seen ], [], "$how: never more than there are";
    $rig->undrain('n1');
    $rig->client->close;
}
$rig->node($_)->hang_up for qw(n2 n3);
$t->allow_log(qr/AH01102|AH00898|AH00052/);
$t->finish;
