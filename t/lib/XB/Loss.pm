# SPDX-License-Identifier: Apache-2.0
# Users who work while tomcat1 is lost, and remember each answer: what does that cost them?
#
#   my $u = XB::Loss->new($site, names => ['u1', 'u2']);
#   $u->work(before => 2, each => 15,    # seconds and requests a user before the loss
#            after => 4,                 # seconds
#            lose => sub {...},          # tomcat1 is stopped (SIGSTOP) before: its writes that are
#                                        # in memcached then count as saved
#            back => 3, find => sub {...});    # what is done, so many seconds later, or not
#   my $bad = $u->losses($blind)         # lists by kind (see @KINDS of XB::DeadNode), and
#       {noticed}        seconds until a user of the node was answered by another one
#       {sessions}       names of its users;  {saved_of}  their saved writes
#       {slow}           { lost, others }: the longest of their requests after it
#       {homes}          node => how many of its sessions went there
# $blind: seconds within which httpd must notice. Until it has, requests may get 5xx, and the node, if
# it can, may go on to serve.
package XB::Loss;
use v5.36;
use parent 'XB::Users';
use Time::HiRes qw(time);
use XB::Client ();

sub new ($class, $site, %opt)
{
    return $class->SUPER::new($site, answers => [], %opt);
}

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

sub _request ($self, $name)
{
    my $req = $self->SUPER::_request($name);
    $self->{sent}{$name}{$1} = 1 if $req->{path} =~ /\b(?:k|write)=(\w+)/;
    return $req;
}

sub work ($self, %opt)
{
    $self->{lost_at} = undef;
    my $find = $opt{find};
    my $enough = $opt{each} * $self->names;
    $self->click(at_once => 6 * $self->names, most => 60, until => sub ($now) {
        if (!$self->{lost_at}) {
            $self->_lose($opt{lose}) if $now > $opt{before} && $self->{requests} > $enough;
            return 0;
        }
        if ($find && time > $self->{lost_at} + $opt{back}) {
            $find->();
            $find = undef;
        }
        return time > $self->{lost_at} + $opt{after};
    });
    return;
}

sub _lose ($self, $lose)
{
    $self->{home} = { map { $_ => $self->id($_) =~ /\.(.+)/ } $self->names };
    $self->{site}->tomcat(1)->pause;
    $self->{saved} = $self->_saved;
    $lose->();
    $self->{lost_at} = time;
    return;
}

# The writes of each session that memcached holds, by the names in the serialized attributes.
sub _saved ($self)
{
    my %saved;
    my $msm = $self->{site}->msm;
    for my $name ($self->names) {
        my $value = $msm->value($self->id($name)) // '';
        my $sent = $self->{sent}{$name};        # there are other bytes that look like keys
        $saved{$name} = { map { $_ => 1 } grep { $sent->{$_} }
            $value =~ /(?<![0-9A-Za-z])(?:w\.)?(k\d+)(?!\d)/g };
    }
    return \%saved;
}

# ---- what it has cost

# When httpd is known to have noticed: the first answer of another node to a user of the lost one.
sub _noticed ($self)
{
    my $lost_at = $self->{lost_at};
    my ($first) = sort { $a <=> $b } map { $_->{begun} + $_->{seconds} }
        grep { $_->{begun} > $lost_at && $self->{home}{ $_->{name} } eq 'tomcat1'
                && $_->{node} !~ /^(?:tomcat1)?$/ } @{$self->{answers}};
    return ($first // 'inf') - $lost_at;
}

sub losses ($self, $blind)
{
    my $noticed = $self->_noticed;
    my %found = $self->_read_all;
    my $bad = $self->_bad_answers(\%found, $noticed < $blind ? $noticed : $blind);
    my $saved = $self->{saved};
    for my $name ($self->names) {
        push @{$bad->{login}}, $name if !%{$found{$name}} && %{$saved->{$name}};
        push @{$bad->{login}}, $name if $self->base($name) ne $self->{base}{$name};
        push @{$bad->{saved}}, map { "$name $_" }
            grep { !$found{$name}{$_} } sort keys %{$saved->{$name}};
    }
    my @sessions = grep { $self->{home}{$_} eq 'tomcat1' } $self->names;
    my %homes;
    $homes{ ($self->id($_) =~ /\.(.+)/)[0] // 'nowhere' }++ for @sessions;
    return { %$bad, noticed => $noticed, slow => $self->_slowest, homes => \%homes,
             sessions => \@sessions, saved_of => [ map { %{$saved->{$_}} } @sessions ] };
}

sub _bad_answers ($self, $found, $blind)
{
    my (%bad, %nodes);
    my $lost_at = $self->{lost_at};
    for my $a (@{$self->{answers}}) {
        my ($name, $key) = @$a{qw(name key)};
        my $is_early = $a->{begun} <= $lost_at + $blind;
        my $is_bad = $a->{status} >= 500 || $a->{status} == 0;
        my $is_old = $is_early && $a->{node} eq 'tomcat1';
        push @{$bad{ $is_early ? 'in_flight' : 'error' }}, "$name $a->{status}" if $is_bad;
        next if $is_bad;
        push @{$bad{login}}, $name if !$a->{static} && $a->{user} ne $name;
        $nodes{$name}{ $a->{node} } = 1 if $a->{begun} > $lost_at && !$is_old;
        next if !defined $key || $a->{status} != 200 || $found->{$name}{$key};
        push @{$bad{ $is_old ? 'unsaved' : 'written' }}, "$name $key";
    }
    push @{$bad{split}}, grep { keys %{$nodes{$_}} > 1 } sort keys %nodes;
    return \%bad;
}

# The longest that a request took which began after the loss, of users of the lost node and others.
sub _slowest ($self)
{
    my %slow = (lost => 0, others => 0);
    for my $a (grep { $_->{begun} > $self->{lost_at} } @{$self->{answers}}) {
        my $whose = $self->{home}{ $a->{name} } eq 'tomcat1' ? 'lost' : 'others';
        $slow{$whose} = $a->{seconds} if $a->{seconds} > $slow{$whose};
    }
    return \%slow;
}

1;
