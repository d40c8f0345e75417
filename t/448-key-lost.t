# SPDX-License-Identifier: Apache-2.0
# A session has moved from n1, where its old copy is, to n2, and n2 dies. memcached has lost its key, but not
# its moved marker: nobody may take the old copy for the session.
use v5.36;
use Test::More;
use XB::MoveRig;
use XB::Rescue;
use XB::Test;

my $t = XB::Test->new;
my $serial = 0;
sub begin (%opt)
{
    my $rig = XB::MoveRig->new($t, httpd => { name => 'h' . ++$serial, threads => 32 }, member => 'retry=1',
        conf => "XnatBalanceMove Drain\nXnatBalanceGateTimeout 2s\n" . ($opt{conf} // ''));
    my ($user) = XB::Rescue->new($rig)->at('n1', 1);
    $rig->only('n1', 'n2');
    $rig->drain('n1');
    wait_for { $rig->moved } 10, 'a move';
    $rig->undrain('n1');
    $rig->ask($user, '/write?k=second');
    my $id = $rig->client->session($user);
    wait_for { ($rig->store('m1')->get($id) // '') =~ /second/ } 10, 'its store';
    if ($opt{forget}) {
        $rig->forget;
        is join(' ', @{$rig->ask($user, '/read')->{json}{writes}}), 'first second', 'found after a restart';
    }
    $rig->node('n2')->stop;
    $rig->store('m1')->delete($id);
    return sub {
        return map { join ' ', $_->{status}, $_->{node}, @{$_->{json}{writes} // []} }
            map { $rig->ask($user, '/read') } 1 .. 3;
    };
}

subtest 'only n1 is left' => sub {
    my $ask = begin();
    is_deeply [ grep { !/^503/ } $ask->() ], [], 'nobody answers';
};

subtest 'after a restart of httpd, n3 is there' => sub {
    my $ask = begin(forget => 1, conf => 'XnatBalanceProbe /_probe');
    is_deeply [ grep { /^200 n1/ } $ask->() ], [], 'n1 does not answer from its old copy';
};

$t->allow_log(qr/AH01114|AH00957|AH00959|AH00940|AH01102|AH00898|XB0304/);
$t->finish;
