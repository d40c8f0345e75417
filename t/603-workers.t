# SPDX-License-Identifier: Apache-2.0
# The count of busy workers stays right when the mover changes hands while they work.
use v5.36;
use Test::More;
use XB::Test;
use XB::MoveRig;

my $t = XB::Test->new;
my $rig = XB::MoveRig->new($t, conf => <<'END');
XnatBalanceMove Drain
XnatBalanceMemcachedTimeout 1s
XnatBalanceGateTimeout 2s
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
    $do->();
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
