# SPDX-License-Identifier: Apache-2.0
# Stands between the module and a real memcached: writes down each command, and misbehaves.
#
#   my $r = XB::Relay->new($t, 'm1', $memcached);     # all of XB::Server
#   $r->address          for XnatBalanceMemcachedNodes
#   $r->commands         what has passed: "get key", "set key 0 ttl length value", oldest first
#   $r->trick(qr/^set/, 'hang')       at the next commands like that (of all: 'hang' alone)
#       hang        no answer any more      drop     closes, without asking memcached
#       slow        ms => N later           trickle  a byte of the answer each ms => 20
#       lie         stores nothing, has nothing, and says that all is well
#       garbage     bytes that are no answer
#       oneshot => 1: only once;  held => 1: the command is asked only after the pause of `slow`
#   $r->well
package XB::Relay;
use v5.36;
use parent 'XB::Server';
use IO::Socket::IP ();
use JSON::PP ();
use Time::HiRes ();

sub new ($class, $t, $name, $memcached)
{
    my $file = $t->path("relay-$name.trick");
    return $class->SUPER::new($t, name => "relay-$name", memcached => $memcached, file => $file,
                              code => sub ($conn) { $conn->server->_relay($conn) });
}

sub trick ($self, @what)
{
    my $like = ref $what[0] ? shift @what : qr//;
    my ($how, %opt) = @what;
    my $text = JSON::PP::encode_json({ ms => 20, %opt, like => "$like", how => $how });
    rename $self->{test}->write("$self->{name}.new", $text), $self->{file};
    return;
}

sub well ($self)
{
    unlink $self->{file};
    return;
}

sub commands ($self) { return map { $_->{line} } $self->records }

# The trick in force for this command, used up if it is for once.
sub _trick ($self, $line)
{
    my $text = $self->{test}->slurp($self->{file});
    my $trick = $text ? JSON::PP::decode_json($text) : return {};
    return {} if $line !~ /$trick->{like}/;
    unlink $self->{file} if $trick->{oneshot};
    return $trick;
}

sub _relay ($self, $conn)
{
    my %peer = (PeerHost => '127.0.0.1', PeerPort => $self->{memcached}->port);
    my $to = IO::Socket::IP->new(%peer) or return;
    while (defined(my $line = $conn->line)) {
        my $data = $line =~ /^set \S+ \d+ \d+ (\d+)$/ ? $conn->read($1 + 2) : '';
        my $whole = "$line " x !!length($data) . ($data =~ s/\r\n\z//r) || $line;
        $conn->record({ line => $whole, conn => $conn->number, time => Time::HiRes::time() });
        my $trick = $self->_trick($whole);
        my $how = $trick->{how} // '';
        return $conn->until_closed if $how eq 'hang';
        return if $how eq 'drop';
        my $pause = $how eq 'slow' ? $trick->{ms} / 1000 : 0;
        $conn->pause($pause) if $trick->{held};
        my $answer = $how eq 'lie' ? ($data eq '' ? "END\r\n" : "STORED\r\n")
                   : $how eq 'garbage' ? join '', map { chr int rand 256 } 1 .. 500
                   : _ask($to, "$line\r\n$data") // return;
        $conn->pause($pause) if !$trick->{held};
        _answer($conn, $answer, $how eq 'trickle' ? $trick->{ms} / 1000 : 0) or return;
    }
    return;
}

sub _ask ($to, $command)
{
    print $to $command;
    $to->flush;
    my $answer = '';
    while (defined(my $line = readline $to)) {
        $answer .= $line;
        if ($line =~ /^VALUE \S+ \d+ (\d+)/) {
            read $to, my $value, $1 + 2;
            $answer .= $value;
        }
        return $answer if $line !~ /^VALUE /;
    }
    return undef;
}

sub _answer ($conn, $answer, $pause)
{
    return $conn->write($answer) if !$pause;
    for my $byte (split //, $answer) {
        $conn->write($byte) or return 0;
        $conn->pause($pause);
    }
    return 1;
}

1;
