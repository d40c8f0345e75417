# SPDX-License-Identifier: Apache-2.0
# A node is lost while many users work, with several requests of each at once: what they lose, with
# the module and, on the same load, with stock httpd's bytraffic.
#
#   XB::DeadNode->run(
#       lose => sub ($tomcat) {...},     # the node is stopped (SIGSTOP) before: its writes that are
#                                        # in memcached then count as saved
#       blind => 2,                      # seconds within which httpd must notice: until it has, that
#                                        # is until a user of the node is answered by another one,
#                                        # requests may get 5xx; without blind, none that begins later
#       find => sub ($tomcat) {...},     # what brings it back, seconds later (back => 3), or not
#       idle => 12,                      # other users, who come back, six requests each at once,
#                                        # when the node is up again: one HEAD brings each back
#       member => 'timeout=2', section => '', users => 40,
#       seconds => 4);                   # of work after the loss. The whole test.
package XB::DeadNode;
use v5.36;
use parent 'XB::Users';
use Test::More;
use Time::HiRes qw(time);
use XB::Client ();
use XB::Site ();
use XB::Test;

# Work before the node is lost.
my $SECONDS = 2;
my $REQUESTS_EACH = 15;

# ---- users who remember each answer

sub _judge ($self, $answer, $req)
{
    my $begun = time - $answer->{time};
    my ($key) = $req->{path} =~ /\b(?:k|write)=(\w+)/;
    my $node = XB::Client->header($answer, 'X-XB-Node') // '';
    my $user = XB::Client->header($answer, 'X-XB-User') // '';
    push @{$self->{answers}}, { begun => $begun, node => $node, user => $user, key => $key,
        name => $req->{user}, status => $answer->{error} ? 0 : $answer->{status},
        static => $req->{path} eq '/style.css', seconds => $answer->{time} };
    $self->{requests}++;
    return;
}

# The writes of each session that memcached holds, by the names in the serialized attributes.
sub _saved ($self)
{
    my %saved;
    my $msm = $self->{site}->msm;
    for my $name ($self->names) {
        my $value = $msm->value($self->id($name)) // '';
        $saved{$name} = { map { $_ => 1 } $value =~ /(?<![0-9A-Za-z])(?:w\.)?(k\d+)(?!\d)/g };
    }
    return \%saved;
}

# When httpd is known to have noticed: the first answer of another node to a user of the lost one.
sub _noticed ($self, $lost_at, $home)
{
    my ($first) = sort { $a <=> $b } map { $_->{begun} + $_->{seconds} }
        grep { $_->{begun} > $lost_at && $home->{ $_->{name} } eq 'tomcat1'
                && $_->{node} !~ /^(?:tomcat1)?$/ } @{$self->{answers}};
    return ($first // 'inf') - $lost_at;
}

# What is wrong at the end, by kind: a list of "user key". blind: seconds after the loss.
sub _losses ($self, $saved, $lost_at, $blind)
{
    my (%bad, %nodes);
    my %found = $self->_read_all;
    for my $name ($self->names) {
        push @{$bad{login}}, $name if !%{$found{$name}} && %{$saved->{$name}};
        push @{$bad{login}}, $name if $self->base($name) ne $self->{base}{$name};
        push @{$bad{saved}}, map { "$name $_" }
            grep { !$found{$name}{$_} } sort keys %{$saved->{$name}};
    }
    for my $a (@{$self->{answers}}) {
        my ($name, $key) = @$a{qw(name key)};
        my $early = $a->{begun} <= $lost_at + $blind;
        my $is_bad = $a->{status} >= 500 || $a->{status} == 0;
        push @{$bad{ $early ? 'in_flight' : 'error' }}, "$name $a->{status}" if $is_bad;
        next if $is_bad;
        push @{$bad{login}}, $name if !$a->{static} && $a->{user} ne $name;
        $nodes{$name}{ $a->{node} } = 1 if $a->{begun} > $lost_at;
        next if !defined $key || $a->{status} != 200 || $found{$name}{$key};
        my $is_old = $a->{node} eq 'tomcat1' && $a->{begun} <= $lost_at;
        push @{$bad{ $is_old ? 'unsaved' : 'written' }}, "$name $key";
    }
    push @{$bad{split}}, grep { keys %{$nodes{$_}} > 1 } sort keys %nodes;
    return \%bad;
}

# ---- users who are away meanwhile

sub _leave ($class, $site, %opt)
{
    my $idle = XB::Users->new($site, names => [map { "$opt{name}i$_" } 1 .. $opt{idle}]);
    $idle->login($idle->names);
    $idle->all(['/app/write?k=before']);
    $idle->{at_1} = grep { $idle->id($_) =~ /\.tomcat1$/ } $idle->names;
    return $idle;
}

sub _come_back ($idle, $victim)
{
    wait_for { $victim->is_ready } 60, 'the node';
    $idle->all([map { "/app/write?k=back$_" } 1 .. 6]);
    return { wrong => $idle->{wrong}, lost => [$idle->lost_writes], at_1 => $idle->{at_1} };
}

# ---- one column

sub _column ($class, $site, %opt)
{
    my $self = $class->new($site, names => [map { "$opt{name}$_" } 1 .. $opt{users}],
                           answers => []);
    $self->login($self->names);
    my $victim = $site->tomcat(1);
    my ($saved, $lost_at, %home);
    my $idle = $opt{idle} ? $class->_leave($site, %opt) : undef;
    my $find = $opt{find};
    my $lose = sub {
        %home = map { $_ => $self->id($_) =~ /\.(.+)/ } $self->names;
        $victim->pause;
        $saved = $self->_saved;
        $opt{lose}->($victim);
        return time;
    };
    $self->click(at_once => 6 * $opt{users}, most => 60, until => sub ($now) {
        if (!$lost_at) {
            my $is_busy = $now > $SECONDS && $self->{requests} > $REQUESTS_EACH * $opt{users};
            $lost_at = $lose->() if $is_busy;
            return 0;
        }
        if ($find && time > $lost_at + $opt{back}) {
            $find->($victim);
            $find = undef;
        }
        return time > $lost_at + $opt{seconds};
    });
    my $noticed = $self->_noticed($lost_at, \%home);
    my $blind = $opt{blind} // 0;
    my $bad = $self->_losses($saved, $lost_at, $noticed < $blind ? $noticed : $blind);
    $bad->{noticed} = $noticed;
    $bad->{idle} = _come_back($idle, $victim) if $idle;
    $bad->{sessions} = [ grep { $home{$_} eq 'tomcat1' } $self->names ];
    $bad->{saved_of} = [ map { %{$saved->{$_}} } @{$bad->{sessions}} ];
    $bad->{slow} = $self->_slowest($lost_at, \%home);
    $self->{wrong} = [];
    return ($bad, $self);
}

# The longest that a request took which began after the loss, of users of the lost node and others.
sub _slowest ($self, $lost_at, $home)
{
    my %slow = (lost => 0, others => 0);
    for my $a (grep { $_->{begun} > $lost_at } @{$self->{answers}}) {
        my $whose = $home->{ $a->{name} } eq 'tomcat1' ? 'lost' : 'others';
        $slow{$whose} = $a->{seconds} if $a->{seconds} > $slow{$whose};
    }
    return \%slow;
}

my @KINDS = (saved => 'saved writes lost', written => 'writes after it lost',
             login => 'logins lost', split => 'sessions at two nodes',
             error => '5xx afterwards', in_flight => '5xx in flight',
             unsaved => 'answered, not yet saved');

sub _count ($bad, $kind)
{
    my %once = map { $_ => 1 } @{$bad->{$kind} // []};
    return $kind =~ /login|split/ ? scalar keys %once : scalar @{$bad->{$kind} // []};
}

sub _judge_idle ($class, $ours, $status)
{
    my $idle = $ours->{idle};
    is_deeply($idle->{wrong}, [], 'who comes back is logged in');
    is_deeply($idle->{lost}, [], '... with all that was written');
    cmp_ok($idle->{at_1}, '>', 0, '... some at the node that has restarted');
    is($status->{sessions}{revived}, $idle->{at_1}, '... after one HEAD for each session');
    return;
}

sub run ($class, %opt)
{
    my $t = XB::Test->new;
    %opt = (users => 40, seconds => 4, member => '', section => '', %opt);
    my $site = XB::Site->new($t, threads => 250, member => $opt{member}, section => $opt{section},
                             conf => 'XnatBalanceMove Drain');
    my ($ours, $users) = $class->_column($site, %opt, name => 'a');
    my @moves = $site->moves('failed');
    my $status = $site->status;
    $site->tomcat(1)->restart;
    $site->start_httpd(stock => 'bytraffic');
    my ($stock, $others) = $class->_column($site, %opt, name => 'b');

    note(sprintf '%-26s %8s %8s', '', 'xnat', 'stock');
    note(sprintf '%-26s %8d %8d', 'requests', $users->{requests}, $others->{requests});
    my %both = (sessions => 'sessions of the node', saved_of => 'their saved writes');
    note(sprintf '%-26s %8d %8d', $both{$_}, map { scalar @{$_} } $ours->{$_}, $stock->{$_})
        for qw(sessions saved_of);
    my %kind = @KINDS;
    for my $kind (grep { $kind{$_} } @KINDS) {
        note(sprintf '%-26s %8d %8d', $kind{$kind}, _count($ours, $kind), _count($stock, $kind));
    }
    for my $whose (qw(lost others)) {
        note(sprintf '%-26s %5.0f ms %5.0f ms', "slowest, $whose users",
             map { 1000 * $_->{slow}{$whose} } $ours, $stock);
    }
    note(sprintf '%-26s %6.1f s %6.1f s', 'noticed after', map { $_->{noticed} } $ours, $stock);
    note(sprintf '%-26s %8d %8d', 'writes lost of idle users',
         map { scalar @{$_->{idle}{lost}} } $ours, $stock) if $opt{idle};
    note('takeovers: ' . scalar(@moves) . ', longest ' . (sort { $b <=> $a } map { $_->{ms} } @moves)[0]
         . ' ms') if @moves;

    cmp_ok(scalar @{$ours->{saved_of}}, '>', 50, 'there were writes to lose');
    for my $kind (qw(saved written login split error)) {
        my @bad = @{$ours->{$kind} // []};
        is(scalar @bad, 0, "$kind{$kind}: none") or diag(join "\n", splice @bad, 0, 10);
    }
    cmp_ok($ours->{noticed}, '<', $opt{blind}, 'the loss is noticed in time') if $opt{blind};
    $class->_judge_idle($ours, $status) if $opt{idle};
    is($status->{sessions}{lost}, 0, 'no session was lost');
    is($status->{gates}{crowded}, 0, 'nobody was turned away at a gate');
    $t->allow_log(qr/AH0|AH10|SEVERE/);
    $t->finish;
    return;
}

1;
