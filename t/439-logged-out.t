# SPDX-License-Identifier: Apache-2.0
# A user has moved and logged out at the new home. The copy that is left at the former one writes its
# key into memcached once more, as MSM does before a session's time is over; then the new home cannot
# serve. Nobody is logged in by that copy. But a session that begins anew by that id is one.
use v5.36;
use Test::More;
use XB::MoveRig;
use XB::Rescue;
use XB::Test;

my $t = XB::Test->new;
my $rig = XB::MoveRig->new($t, member => 'retry=600', conf => 'XnatBalanceMove Drain');
my $users = XB::Rescue->new($rig);
my ($one, $keeps, $alone, $again) = $users->at('n1', 4);
my $c = $rig->client;
$rig->only('n1', 'n2');
$rig->drain('n1');
for my $user ($one, $keeps, $alone, $again) {
    wait_for { $rig->ask($user, '/read')->{node} eq 'n2' } 20, "$user to move";
}
$rig->undrain('n1');

my %id = map { $_ => $c->session($_) } $one, $alone;
for my $user ($one, $alone) {
    my $was = $users->id($user);
    is $rig->ask($user, '/logout')->{status}, 200, "$user has logged out";
    $rig->store(XB::FakeMsm->node_of($was))->set($was, XB::FakeMsm->value($was));
}
is $rig->ask($again, '/logout')->{status}, 200, "$again has logged out";
$rig->only('n2');
$c->get('/login?as=' . XB::FakeMsm->base($users->id($again)), user => $again);
is $rig->ask($again, '/write?k=new')->{node}, 'n2', '... and in again, by the same id';
wait_for { "@{$rig->node('n2')->stored($c->session($again)) // []}" eq 'new' } 10, 'its store';
$rig->node('n2')->stop;
$rig->only('n1', 'n2', 'n3');
$c->jar($_)->{JSESSIONID} = $id{$_} for $one, $alone;

my $r = $rig->ask($one, '/read');
is "$r->{status} @{$r->{json}{writes} // []}", '401 ', 'there is another node: it does not know him';
is $rig->ask($keeps, '/read')->{json}{writes}[0], 'first', 'who has not logged out has moved with all';
my $failed = $rig->status->{moves_by_reason}{failed};
is "@{$rig->ask($again, '/read')->{json}{writes} // []}", 'new', 'so has who has logged in again';
is $rig->status->{moves_by_reason}{failed}, $failed + 1, '... by a rescue';
$rig->only('n1');
is $rig->ask($alone, '/read')->{status}, 503, 'only the one with the copy is left: nobody is asked';
is $rig->status->{sessions_lost} // 0, 0, 'that is no loss';
$t->allow_log(qr/AH01114|AH00957|AH00959|AH00940|AH01170|XB0302: /);
$t->finish;
