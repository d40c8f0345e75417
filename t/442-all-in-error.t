# SPDX-License-Identifier: Apache-2.0
# All members are in error state, as after an outage of what they all need. httpd tries them again
# then at once, without waiting for `retry`; requests of sessions are no exception.
use v5.36;
use Test::More;
use XB::MoveRig;
use XB::Rescue;
use XB::Test;

my $t = XB::Test->new;
my $rig = XB::MoveRig->new($t, member => 'retry=600', conf => 'XnatBalanceMove Drain');
my $users = XB::Rescue->new($rig);
my @users = $users->at('n1', 3);
my ($c, $h) = ($rig->client, $rig->httpd);

# A request without a session goes from one dead member to the next.
sub outage (@held)
{
    $_->stop for $rig->nodes;
    $rig->ask($_, '/read') for @held;
    wait_for {
        my %m = $h->members('app');
        my $errors = grep { $_->{status} =~ /Err/ } values %m;
        $c->get('/read', user => 'new') if $errors < 3;
        $errors == 3;
    } 10, 'all members in error';
    return;
}

subtest 'all are back' => sub {
    outage();
    $_->start for $rig->nodes;
    my $r = $rig->ask($users[0], '/read');
    is $r->{status}, 200, 'a request of a session is answered at once';
    is $r->{node}, 'n1', '... by its home';
    is "@{$r->{json}{writes} // []}", 'first', '... with what it had';
};

subtest 'its home stays away' => sub {
    outage();
    $rig->node($_)->start for qw(n2 n3);
    my $r = $rig->ask($users[1], '/read');
    is $r->{status}, 200, 'it is answered';
    isnt $r->{node}, 'n1', '... by another node';
    is "@{$r->{json}{writes} // []}", 'first', '... with what it had';
};

subtest 'others have been asked in vain' => sub {
    $users->mend('n1');
    outage($users[2]);
    $rig->node($_)->start for qw(n2 n3);
    my $r;
    wait_for { ($r = $rig->ask($users[2], '/read'))->{status} == 200 } 10, 'an answer';
    isnt $r->{node}, 'n1', 'another node has it' if $r;
    is "@{$r->{json}{writes} // []}", 'first', '... with what it had';
};
$t->allow_log(qr/AH01114|AH00957|AH00959|AH00940|AH01102|AH00898|AH01170|XB0302: /);
$t->finish;
