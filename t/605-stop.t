# SPDX-License-Identifier: Apache-2.0
# A stop does not wait for moves that are under way: httpd would say AH00045 after three seconds.
use v5.36;
use Test::More;
use XB::Test;
use XB::MoveRig;

my $t = XB::Test->new;
my $rig = XB::MoveRig->new($t, conf => <<'END');
XnatBalanceMove Drain
XnatBalanceMemcachedTimeout 1s
XnatBalanceGateTimeout 20s
END

for my $how ('hang', 'mute', 'keeps') {
    $rig->only('n1');
    my %base = map { XB::FakeMsm->base($rig->login("$how$_", 'n1')) => 1 } 1 .. 3;
    $rig->open;
    $rig->node($_)->misbehave($how) for qw(n2 n3);
    $rig->drain('n1');
    wait_for { grep { !$_->{flush} && $base{ XB::FakeMsm->base($_->{id} // '') // '' } }
               map { $rig->node($_)->heads } qw(n2 n3) } 10, 'a takeover without proof';
    $rig->forget;
    unlike $rig->httpd->error_log, qr/AH00045/, "$how: httpd need not insist";
    $rig->node($_)->hang_up for qw(n2 n3);
    $rig->node($_)->behave for qw(n2 n3);
}
$t->allow_log(qr/AH01102|AH00898/);
$t->finish;
