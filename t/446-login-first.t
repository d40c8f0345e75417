# SPDX-License-Identifier: Apache-2.0
# An application whose container asks for a login before MSM sees a HEAD: the flush is not answered with
# the session's id, and says nothing of whether the session lives. What memcached has decides.
use v5.36;
use Test::More;
use XB::Test;
use XB::MoveRig;

my $t = XB::Test->new;
my $rig = XB::MoveRig->new($t, nodes => [qw(n1 n2)], conf => <<'END');
XnatBalanceMove Drain
XnatBalanceMemcachedTimeout 1s
END
my ($n1, $n2) = $rig->nodes;
my $m1 = $rig->store('m1');

# Figures of n1 that tell how far its drain is.
my $left = sub {
    my ($balancer) = @{$rig->status->{balancers}};
    my ($m) = grep { $_->{route} eq 'n1' } @{$balancer->{members}};
    return join ' ', (map { "$_ " . $m->{"sessions_$_"} } qw(active verified unmovable)),
        $m->{safe_to_stop} ? 'safe' : 'not safe';
};
# Only these sessions are there. n1 drains, and answers their HEADs with that status. Of those named
# `unstored` memcached has nothing, as MSM leaves it after some logins.
my %id;
my $drain = sub ($targets, %code) {
    $rig->ask($_, '/logout') for keys %id;
    %id = ();
    $rig->undrain('n1');
    $rig->only('n1');
    for my $user (sort keys %code) {
        $id{$user} = $rig->login($user, 'n1');
        $rig->ask($user, "/write?k=$user");
        wait_for { ($m1->get($id{$user}) // '') =~ /"$user"/ } 5, 'its store';
        $m1->delete($id{$user}) if $user =~ /unstored/;
        my @how = $code{$user} == 404 ? 'deaf' : ('login', code => $code{$user});
        $n1->misbehave(@how, for => $id{$user});
    }
    $rig->only(@$targets);
    $rig->drain('n1');
};
my $heads = sub ($user) {
    my $base = XB::FakeMsm->base($id{$user});
    return join ' ', map { $_->{flush} ? 'flush' : $_->{own} ? 'own' : 'other' }
        grep { $_->{id} =~ /^$base/ } $n1->heads;
};

subtest 'sessions that cannot leave' => sub {
    $drain->(['n1'], s401 => 401, s403 => 403, unstored401 => 401, unstored403 => 403,
             unstored404 => 404);
    wait_for { $left->() =~ /^active 0 / } 15, 'the verifications';
    is $left->(), 'active 0 verified 2 unmovable 2 not safe',
        'what is stored is verified, what is not may live; it has ended where MSM does not know it';
    is $heads->($_), 'flush own', "$_: a HEAD with the session's own id comes after the flush"
        for qw(s401 unstored403);
    is $rig->refused('not-in-store'), 2, 'the refusals have their word';
    is $rig->ask($_, '/read')->{node}, 'n1', "$_ goes on" for qw(unstored401 unstored403);
};

subtest 'sessions that can' => sub {
    my ($before, $refused) = ($rig->moved, $rig->refused('not-in-store'));
    $drain->([qw(n1 n2)], m401 => 401, m403 => 403, unstored => 401);
    wait_for { $rig->moved == $before + 2 && $rig->refused('not-in-store') > $refused } 10, 'moves';
    for my $user (qw(m401 m403)) {
        my $r = $rig->ask($user, '/read');
        is "$r->{node} @{$r->{json}{writes}}", "n2 $user", "$user has moved, with its write";
        is $heads->($user), 'flush own', '... after both HEADs';
    }
    is $rig->ask('unstored', '/read')->{node}, 'n1', 'one that is not stored stays';
};

# The target's container asks for a login, too: MSM never takes the session over there.
subtest 'a target that asks as well' => sub {
    my ($before, $refused) = ($rig->moved, $rig->refused('no-proof-in-cookie'));
    $n2->misbehave('login');
    $drain->([qw(n1 n2)], both => 401);
    wait_for { $rig->refused('no-proof-in-cookie') > $refused } 10, 'a refusal';
    my $r = $rig->ask('both', '/read');
    is "$r->{node} @{$r->{json}{writes}}", 'n1 both', 'the session stays where it is';
    is $rig->moved, $before, 'nothing has moved';
    wait_for { $left->() =~ /^active 0 / } 30, 'its verification';
    like $left->(), qr/^active 0 verified \d/, '... and is verified there';
};
$t->finish;
