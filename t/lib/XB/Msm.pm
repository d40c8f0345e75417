# SPDX-License-Identifier: Apache-2.0
# MSM's memcacheds, read with a parser of our own, and requests to one Tomcat with a chosen id.
#
#   my $msm = XB::Msm->new($t, 2, prefix => 'site_');   # memcacheds n1, n2; the prefix of keys
#   $msm->nodes, $msm->node('n1')          # memcachedNodes; an XB::Memcached
#   $msm->memcacheds                       # all of them
#   $msm->keys($text)                      # all keys with that text, on any node, as "n1 key"
#   $msm->value($id), $msm->ttl($id)       # of the key that MSM keeps for the id
#   XB::Msm->header($value)                # hash of the fixed part of a value
#   XB::Msm->base($id), ->node_of($id), ->route_of($id)
#   $msm->login($tc, $user, $context)      # a new session's id, its key seen in memcached
#   $msm->post_login($tc, $user, $id)      # the login form alone, as ask
#   $msm->ask($tc, $path, $id, %opt)       # XB::Client's answer, and set_cookie, its id, json
#   $msm->ask_all([$tc, $path, $id, %opt], ...)   # the same in parallel
#   $msm->flush($tc, $id, $context)        # HEAD with the session's own id: MSM stores all
#   $msm->stored($tc, $id, qr/w\.k/)        # flushes until the session's value matches
package XB::Msm;
use v5.36;
use JSON::PP ();
use XB::Test;
use XB::Client ();

sub new ($class, $t, $count = 2, %opt)
{
    my %node = map { ("n$_" => $t->memcached) } 1 .. $count;
    my $client = XB::Client->new(timeout => 20);
    return bless {node => \%node, client => $client, prefix => '', %opt}, $class;
}

sub nodes ($self)
{
    return join ',', map { "$_:" . $self->{node}{$_}->address } sort keys %{$self->{node}};
}

sub memcacheds ($self) { return values %{$self->{node}} }
sub node ($self, $name) { return $self->{node}{$name} }

# ---- ids and values

my $ID = qr/^(([0-9A-F]{32})-(\w+))(?:\.(.+))?$/;

sub base ($class, $id) { return $id =~ $ID ? $1 : undef }
sub node_of ($class, $id) { return $id =~ $ID ? $3 : undef }
sub route_of ($class, $id) { return $id =~ $ID ? $4 : undef }

sub keys ($self, $text = '')
{
    my @found;
    for my $name (sort keys %{$self->{node}}) {
        push @found, map { "$name $_" } grep { /\Q$text/ } $self->{node}{$name}->keys;
    }
    return @found;
}

sub _node_with ($self, $id) { return $self->{node}{$self->node_of($id)} }

sub value ($self, $id) { return $self->_node_with($id)->get("$self->{prefix}$id") }

sub ttl ($self, $id)
{
    my $answer = $self->_node_with($id)->command("mg $self->{prefix}$id t");
    return $answer =~ /^HD t(-?\d+)/ ? $1 : undef;
}

my @HEADER = qw(version attributes created accessed max_inactive new valid this_accessed
                last_backup id);

sub header ($class, $value)
{
    my %h;
    @h{@HEADER} = unpack 'n n q> q> N a a q> q> n/a', $value;
    return %h;
}

# ---- requests

sub _request ($self, $tc, $path, $id, %opt)
{
    return {url => $tc->url($path), defined $id ? (cookie => "JSESSIONID=$id") : (), %opt};
}

sub _answer ($self, $r)
{
    ($r->{set_cookie}) = grep { /^JSESSIONID=/ } XB::Client->header($r, 'Set-Cookie');
    $r->{id} = ($r->{set_cookie} // '') =~ /^JSESSIONID=([^;]+)/ ? $1 : undef;
    $r->{json} = ($r->{body} // '') =~ /^\{/ ? JSON::PP::decode_json($r->{body}) : {};
    return $r;
}

sub ask_all ($self, @asks)
{
    my @answers = $self->{client}->many([map { $self->_request(@$_) } @asks]);
    return map { $self->_answer($_) } @answers;
}

sub ask ($self, @ask) { return ($self->ask_all(\@ask))[0] }

sub post_login ($self, $tc, $user, $id = undef, $context = '')
{
    return $self->ask($tc, "$context/login", $id, method => 'POST',
                      headers => ['Content-Type' => 'application/x-www-form-urlencoded'],
                      body => "user=$user&password=pw-$user");
}

sub login ($self, $tc, $user, $context = '')
{
    my $id = $self->post_login($tc, $user, undef, $context)->{id} // die "no session: $user\n";
    wait_for { $self->value($id) } 5, 'the key of a new session';
    return $id;
}

sub flush ($self, $tc, $id, $context = '')
{
    return $self->ask($tc, "$context/_flush", $id, method => 'HEAD');
}

# One flush in the very millisecond of the write before it would do nothing: MSM counts in those.
sub stored ($self, $tc, $id, $pattern)
{
    return wait_for { $self->flush($tc, $id); $self->value($id) =~ $pattern } 5, 'a stored write';
}

1;
