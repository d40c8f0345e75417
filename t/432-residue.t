# SPDX-License-Identifier: Apache-2.0
# The known residue of a move (docs/operations.md, Known limits), with its controls: node n2 loads the
# stored session and is slow, the session goes on at n1 and is stored again, n2 deletes what is
# stored, n1 dies. What n1 stored last is lost. If n1 lives, or has stored again, nothing is.
use v5.36;
use Test::More;
use XB::Test;
use XB::MoveRig;
use XB::Rescue;

my $N = 8;
my $t = XB::Test->new;
my $rig = XB::MoveRig->new($t, httpd => { threads => 60 }, conf => <<'END');
XnatBalanceMove Drain
XnatBalanceMemcachedTimeout 1s
XnatBalanceGateTimeout 1s
END
my $x = XB::Rescue->new($rig);
my $n2 = $rig->node('n2');

# How many sessions lack the write that n1 has acknowledged, and memcached has had.
sub lacking ($then)
{
    my @users = $x->at('n1', $N);
    my %base = map { $_ => XB::FakeMsm->base($x->id($_)) } @users;
    $n2->misbehave('gap', for => $x->id($_)) for @users;
    my $late = $rig->refused('probe-late');
    $rig->only('n1', 'n2');
    $rig->drain('n1');
    wait_for { $rig->refused('probe-late') >= $late + $N } 30, 'probes that are given up';
    $rig->undrain('n1');
    $rig->open;
    $rig->ask($_, '/write?k=last') for @users;
    my $stored = sub ($id) { return scalar grep { $_ eq 'last' } @{$n2->stored($id) // []} };
    wait_for { !grep { !$stored->("$base{$_}.n1") } @users } 10, 'the last write in memcached';
    $n2->behave;
    wait_for { !grep { !$n2->stored("$base{$_}.n2") || $n2->stored("$base{$_}.n1") } @users } 10,
        'n2 to be through';
    $then->(@users);
    my @lack = grep { !grep { $_ eq 'last' } @{$rig->ask($_, '/read')->{json}{writes}} } @users;
    $x->mend('n1');
    return scalar @lack;
}

is lacking(sub (@users) { $rig->node('n1')->stop }), $N, "n1 dies: $N of $N last writes are lost";
is lacking(sub (@users) {}), 0, 'control: n1 lives: none';
is lacking(sub (@users) {
    $rig->ask($_, '/write?k=more') for @users;
    wait_for { !grep { !$n2->stored(XB::FakeMsm->base($x->id($_)) . '.n1') } @users } 10,
        'n1 to store again';
    $rig->node('n1')->stop;
}), 0, 'control: n1 dies after it has stored again: none';
$t->allow_log(qr/AH01114|AH00957|AH00959|AH00940|AH01102|AH00898/);
$t->finish;
