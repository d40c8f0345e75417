# SPDX-License-Identifier: Apache-2.0
# A home dies, a node takes its session over too late to be believed, and is taken out of service;
# then the home is back. It gets the session from the other's key, and goes by its own name for it.
use v5.36;
use Test::More;
use XB::MoveRig;
use XB::Rescue;
use XB::Test;

my $t = XB::Test->new;
my $rig = XB::MoveRig->new($t, member => 'retry=0', conf => <<'END');
XnatBalanceMove Drain
XnatBalanceGateTimeout 2s
END
my $users = XB::Rescue->new($rig);
my ($one) = $users->at('n1', 1);
my $base = XB::FakeMsm->base($users->id($one));
my $asks = sub ($path) {
    my $r = $rig->ask($one, $path);
    return join ' ', $r->{status}, $r->{node}, @{$r->{json}{writes} // []};
};

$rig->node('n2')->misbehave('late', ms => 3000, for => $users->id($one));
$rig->only('n1', 'n2');
$rig->node('n1')->stop;
is $rig->ask($one, '/read')->{status}, 503, 'n1 is lost, n2 is asked in vain';
wait_for { $rig->store('m1')->get("$base.n2") } 20, 'n2 to take it over';
$rig->only('n1');
$rig->node('n1')->start;
my %status;
wait_for { my $status = $rig->ask($one, '/read')->{status}; $status{$status}++; $status == 200 } 60,
    'an answer';
is_deeply [sort keys %status], [200, 503], 'it waits until n2 is surely through';
is $asks->('/write?k=second'), '200 n1 first second', 'n1 is back and has it';
wait_for { ($rig->store('m1')->get("$base.n1") // '') =~ /second/ } 10, 'its store';
$rig->drain('n1');
my $idle = wait_for {
    my ($balancer) = @{$rig->status->{balancers}};
    my ($m) = grep { $_->{route} eq 'n1' } @{$balancer->{members}};
    my %n = map { $_ => $m->{"sessions_$_"} } qw(active verified unmovable);
    return $n{active} ? undef : \%n;
} 20, 'its verification';
is_deeply $idle, { active => 0, verified => 1, unmovable => 0 }, 'which stores it by that name';
$t->allow_log(qr/AH01114|AH00957|AH00959|AH01102|AH00898|XB0302: .*: probe-late/);
$t->finish;
