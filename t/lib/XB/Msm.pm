# SPDX-License-Identifier: Apache-2.0
# The memcacheds of an MSM set-up, read with a parser of our own, and requests to one Tomcat with a chosen session id.
#
#   my $msm = XB::Msm->new($t, 2);                # memcacheds n1, n2
#   $msm->nodes                                   # MSM's memcachedNodes string;  $msm->node('n1') is an XB::Memcached
#   $msm->keys($base)                             # all keys with that text, any node, as "n1 key"
#   $msm->value($id), $msm->ttl($id)              # of the key that MSM keeps for the id (prefix as an option)
#   XB::Msm->header($value)                       # hash of the fixed part of a value
#   XB::Msm->base($id), ->node_of($id), ->route_of($id)
#   $msm->login($tc, $user, $context)             # a new session's id, its key seen in memcached
#   $msm->ask($tc, $path, $id, %opt)              # answer + json, id (of Set-Cookie, or undef), set_cookie
#   $msm->ask_all([$tc, $path, $id, %opt], ...)   # the same in parallel
#   $msm->flush($tc, $id, $context)               # HEAD at home with its own id: MSM stores what it held back
package XB::Msm;
use v5.36;
use JSON::PP ();
use XB::Test;
use XB::Client ();

sub new ($class, $t, $count = 2)
{
    my @names = map { "n$_" } 1 .. $count;
    my %node = map { $_ => $t->memcached } @names;
    return bless {names => \@names, node => \%node, client => XB::Client->new(timeout => 20)}, $class;
}

sub nodes ($self) { return join ',', map { "$_:" . $self->{node}{$_}->address } @{$self->{names}} }
sub node ($self, $name) { return $self->{node}{$name} }

# ---- ids and values

my $ID = qr/^(([0-9A-F]{32})-(\w+))(?:\.(.+))?$/;

sub base ($class, $id) { return $id =~ $ID ? $1 : undef }
sub node_of ($class, $id) { return $id =~ $ID ? $3 : undef }
sub route_of ($class, $id) { return $id =~ $ID ? $4 : undef }

sub keys ($self, $text = '')
{
    return map { my $n = $_; map { "$n $_" } grep { /\Q$text/ } $self->{node}{$n}->keys } @{$self->{names}};
}

sub value ($self, $id, $prefix = '') { return $self->{node}{$self->node_of($id)}->get("$prefix$id") }

sub ttl ($self, $id, $prefix = '')
{
    return $self->{node}{$self->node_of($id)}->command("mg $prefix$id t") =~ /^HD t(-?\d+)/ ? $1 : undef;
}

sub header ($class, $value)
{
    my %h;
    @h{qw(version attributes created accessed max_inactive new valid this_accessed last_backup id)} =
        unpack 'n n q> q> N a a q> q> n/a', $value;
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
    return map { $self->_answer($_) } $self->{client}->many([map { $self->_request(@$_) } @asks]);
}

sub ask ($self, @ask) { return ($self->ask_all(\@ask))[0] }

sub login ($self, $tc, $user, $context = '')
{
    my $id = $self->ask($tc, "$context/login", undef, method => 'POST', body => "user=$user&password=pw-$user",
                        headers => ['Content-Type' => 'application/x-www-form-urlencoded'])->{id}
        // die "no session for $user\n";
    wait_for { $self->value($id) } 5, 'the key of a new session';
    return $id;
}

sub flush ($self, $tc, $id, $context = '')
{
    return $self->ask($tc, "$context/_flush", $id, method => 'HEAD');
}

1;
