# SPDX-License-Identifier: Apache-2.0
# A session that has been idle for long stays at its draining node, though another one is free: it
# is verified once, the node may be stopped, and it goes on elsewhere when its user comes back.
use v5.36;
use Test::More;
use XB::MoveRig;
use XB::Rescue;
use XB::Test;

my $t = XB::Test->new;
# A build for which a second without a request is long, in place of a minute.
my $rig = XB::MoveRig->new($t, nodes => [qw(n1 n2)], member => 'retry=600',
    httpd => { module => 'build/idle/mod_xnat_balance.so' }, conf => <<'END');
XnatBalanceMove Drain
XnatBalanceMemcachedTimeout 1s
END
my $x = XB::Rescue->new($rig);
my $n1 = sub {
    my ($balancer) = @{$rig->status->{balancers}};
    return (grep { $_->{route} eq 'n1' } @{$balancer->{members}})[0];
};
my ($idle, $active) = $x->at('n1', 2);
$rig->idle(1.2);
$rig->ask($active, '/read');
$rig->drain('n1');
wait_for { $rig->ask($active, '/read')->{node} eq 'n2' } 5, 'the session in use to leave';
wait_for { $n1->()->{sessions_verified} || $rig->moved > 1 } 15, 'a verification, or a move';
$rig->idle(2);
my $m = $n1->();
is $rig->moved, 1, 'who has been idle for long does not leave, though there is a node to go to';
is_deeply [ $x->takeovers($idle) ], [], '... which is not asked';
is join(' ', map { $m->{"sessions_$_"} } qw(active verified unmovable)), '0 1 0', 'it is verified';
is scalar(grep { $_->{own} && $_->{id} eq $x->id($idle) } $rig->node('n1')->heads), 1, '... once';
ok $m->{safe_to_stop}, 'the node may be stopped';

$rig->node('n1')->stop;
my $waits = $rig->status->{gates}{waits};
my %at = $x->rescued($x->burst($idle));
is_deeply \%at, { n2 => 1 }, 'its user is back: at the other node';
cmp_ok $rig->status->{gates}{waits}, '>', $waits, '... after waiting at the gate';
is $rig->status->{moves_by_reason}{failed}, 1, '... for one takeover';
$t->allow_log(qr/AH01114|AH00957|AH00959|AH01102|AH00898|AH00940/);
$t->finish;
