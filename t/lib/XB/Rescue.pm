# SPDX-License-Identifier: Apache-2.0
# What the tests of lost homes and unknown sessions have in common, over an XB::MoveRig.
#
#   my $x = XB::Rescue->new($rig);
#   my @users = $x->at('n1', 6);     # so many sessions at that node; the others take requests again
#   my %r = $x->burst(@users);       # six (at_once) writes of each at once:
#                                    # user => XB::Client's answers, each with json and node
#   $x->rescued(%r);         # tests: all answered 200 by one other node each, after one
#                                    # takeover HEAD each, with every write
#   $x->id('u1')                     # the id that it logged in with
#   $x->takeovers('u1')              # HEADs with which a node was asked to take its session over
#   $x->nodes_of(@answers)           # names of the nodes that answered
#   $x->asked('u1')                  # names of the nodes, home apart, that were sent its requests
#   $x->store_well                   # waits until memcached would be asked again
#   $x->mend('n1', ...)              # they serve again, and httpd knows it
package XB::Rescue;
use v5.36;
use JSON::PP ();
use Test::More;
use XB::Client ();
use XB::FakeMsm ();
use XB::Test;

sub new ($class, $rig)
{
    return bless { rig => $rig, at_once => 6, users => 0, writes => 0, written => {}, id => {} },
        $class;
}

sub id ($self, $user) { return $self->{id}{$user} }

sub at ($self, $node, $n)
{
    my $rig = $self->{rig};
    $rig->only($node);
    my @users = map { 'u' . ++$self->{users} } 1 .. $n;
    for my $user (@users) {
        $self->{id}{$user} = $rig->login($user, $node);
        $self->_written($user, $rig->ask($user, '/write?k=first'));
    }
    for my $id (@{$self->{id}}{@users}) {
        my $store = $rig->store(XB::FakeMsm->node_of($id));
        wait_for { ($store->get($id) // '') =~ /first/ } 10, 'the first write in memcached';
    }
    $rig->open;
    return @users;
}

sub _written ($self, $user, $answer)
{
    my ($key) = $answer->{request}{path} =~ /k=(\w+)/;
    push @{$self->{written}{$user}}, $key if $answer->{status} == 200;
    return;
}

sub burst ($self, @users)
{
    my (%answers, @requests);
    for my $n (1 .. $self->{at_once}) {
        push @requests,
            map { { path => '/write?k=w' . ++$self->{writes}, user => $_ } } @users;
    }
    for my $r ($self->{rig}->client->many(\@requests)) {
        my $is_json = $r->{status} == 200 && $r->{body} =~ /^\{/;
        $r->{json} = $is_json ? JSON::PP::decode_json($r->{body}) : {};
        $r->{node} = $r->{json}{node} // '';
        $self->_written($r->{request}{user}, $r);
        push @{$answers{ $r->{request}{user} }}, $r;
    }
    return %answers;
}

sub nodes_of ($self, @answers)
{
    my %seen = map { $_->{node} => 1 } @answers;
    my @names = sort keys %seen;
    return @names;
}

sub takeovers ($self, $user)
{
    my $id = $self->{id}{$user};
    my ($base, $home) = (XB::FakeMsm->base($id), XB::FakeMsm->route_of($id));
    return map { my $name = $_;
        map { $name } grep { !$_->{flush} && !$_->{own} && $_->{id} =~ /^$base/ }
            $self->{rig}->node($name)->heads } @{$self->{rig}{nodes}};
}

# Nodes that have had requests with the id that the user logged in with, but for that of then.
sub asked ($self, $user)
{
    my ($id, $rig) = ($self->{id}{$user}, $self->{rig});
    my @names = grep {
        $_ ne XB::FakeMsm->route_of($id) && grep {
            $_->{method} eq 'GET' && ($_->{cookies}{JSESSIONID} // '') eq $id
        } $rig->node($_)->requests;
    } @{$rig->{nodes}};
    return @names;
}

sub store_well ($self)
{
    return wait_for { !grep { $_->{breaker_open} } @{$self->{rig}->status->{store_nodes}} } 15,
        'breakers to close';
}

sub rescued ($self, %answers)
{
    my $rig = $self->{rig};
    my (%wrong, %at);
    for my $user (sort keys %answers) {
        my %status = map { $_->{status} => 1 } @{$answers{$user}};
        my @nodes = $self->nodes_of(@{$answers{$user}});
        my @heads = $self->takeovers($user);
        my $now = $rig->ask($user, '/read');
        my %is = map { $_ => 1 } @{$now->{json}{writes}};
        my @lost = grep { !$is{$_} } @{$self->{written}{$user}};
        my $home = XB::FakeMsm->route_of($self->{id}{$user});
        $wrong{"$user: " . join ' ', keys %status} = 1 if "@{[ keys %status ]}" ne '200';
        $wrong{"$user: nodes @nodes then $now->{node}"} = 1
            if "@nodes" ne $now->{node} || $now->{node} eq $home;
        $wrong{"$user: HEADs at @heads"} = 1 if "@heads" ne $now->{node};
        $wrong{"$user: lost @lost"} = 1 if @lost;
        $at{ $now->{node} }++;
    }
    is(join("\n", sort keys %wrong), '',
        "each session goes on at one other node after one HEAD, nothing lost")
        or Test::More::diag(join '', 'refusals: ', explain({ $rig->refusals }),
            grep { /XB0[23]/ } (split /^/, $rig->httpd->error_log)[ -60 .. -1 ]);
    return %at;
}

# An error ends with its retry time or, here, with the generation.
sub mend ($self, @names)
{
    my $rig = $self->{rig};
    for my $name (@names) {
        my $node = $rig->node($name);
        $node->start if !$node->process->alive;
        $node->cont;
    }
    my $member = sub { my %m = $rig->httpd->members('app'); return map { $_->{status} } @m{@names} };
    if (grep { /Err/ } $member->()) {
        $rig->client->close;
        $rig->httpd->graceful;
    }
    for my $name (@names) {
        $rig->httpd->manager('app', $rig->node($name)->url,
                             map { $_ => 0 } qw(disabled stopped hcfailed));
    }
    return wait_for { !grep { !/Ok/ } $member->() } 10, 'well members';
}

1;
