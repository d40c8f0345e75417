# SPDX-License-Identifier: Apache-2.0
# A home is lost, a node takes its session over too late to be believed, and is taken out of service;
# then the home is back, restarted or as it was. It gets the session back under its own name.
use v5.36;
use Test::More;
use XB::MoveRig;
use XB::Rescue;
use XB::Test;

my $t = XB::Test->new;
my %lose = (restarted => ['stop', 'start'], woken => ['pause', 'cont']);
my (%rig, %user, %base);
for my $how (sort keys %lose) {
    $rig{$how} = XB::MoveRig->new($t, httpd => { name => $how }, member => 'retry=0 timeout=1',
        section => 'ProxySet failontimeout=On', conf => <<'END');
XnatBalanceMove Drain
XnatBalanceGateTimeout 2s
END
    my $users = XB::Rescue->new($rig{$how});
    ($user{$how}) = $users->at('n1', 1);
    my $id = $users->id($user{$how});
    $base{$how} = XB::FakeMsm->base($id);
    $rig{$how}->node('n2')->misbehave('late', ms => 3000, for => $id);
    $rig{$how}->only('n1', 'n2');
}

sub asks ($how, $path)
{
    my $r = $rig{$how}->ask($user{$how}, $path);
    return join ' ', $r->{status}, $r->{node}, @{$r->{json}{writes} // []};
}

for my $how (sort keys %lose) {
    my ($rig, $base) = ($rig{$how}, $base{$how});
    my ($lose, $find) = @{$lose{$how}};
    $rig->node('n1')->$lose;
    wait_for { asks($how, '/read') =~ /^503/ } 20, "$how: n1 is lost, n2 is asked in vain";
    wait_for { $rig->store('m1')->get("$base.n2") } 20, 'n2 to take it over';
    $rig->only('n1');
    $rig->node('n1')->$find;
}

for my $how (sort keys %lose) {
    my ($rig, $base) = ($rig{$how}, $base{$how});
    wait_for { asks($how, '/read') =~ /^200/ } 60, "$how: n2 to be surely through";
    is asks($how, '/write?k=second'), '200 n1 first second', "$how: n1 is back and has it";
    wait_for { ($rig->store('m1')->get("$base.n1") // '') =~ /second/ } 10, 'its store';
    $rig->drain('n1');
    my $idle = wait_for {
        my ($balancer) = @{$rig->status->{balancers}};
        my ($m) = grep { $_->{route} eq 'n1' } @{$balancer->{members}};
        my %n = map { $_ => $m->{"sessions_$_"} } qw(active verified unmovable);
        return $n{active} ? undef : \%n;
    } 20, 'its verification';
    is_deeply $idle, { active => 0, verified => 1, unmovable => 0 }, 'which stores it by that name';
}
$t->allow_log(qr/AH01114|AH00957|AH00959|AH01102|AH00898|AH01170|AH02460|AH00940|XB0302: .*: probe-late/);
$t->finish;
