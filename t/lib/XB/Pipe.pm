# SPDX-License-Identifier: Apache-2.0
# Stands before a server and passes bytes on; while it is stopped connections are refused, as if
# the server behind it were down, which goes on.
#
#   my $p = XB::Pipe->new($t, 'p1', $port);      # all of XB::Server
#   $p->refuse(0.3)          for so many seconds; connections that are open end
#   $p->lead_to($port)       from now on; connections that are open end
#   $p->vanish               as if its cable were cut, until it is restarted: packets are dropped,
#                            those that open a connection and those of the ones that are open
package XB::Pipe;
use v5.36;
use parent 'XB::Server';
use IO::Select ();
use IO::Socket::IP ();
use Socket qw(SOL_SOCKET);
use Time::HiRes ();

# Of Linux: a program of one instruction, "keep 0 bytes" of each packet that comes in.
my $SO_ATTACH_FILTER = 26;
my $DROP_ALL = pack 'S C C L', 0x06, 0, 0, 0;

sub new ($class, $t, $name, $port)
{
    my $file = $t->write("$name.behind", $port);
    # Hardened kernels let nobody but root put a filter on a socket.
    return $class->SUPER::new($t, name => $name, behind => $file, user => 0,
                              code => sub ($conn) { $conn->server->_pass($conn) });
}

sub lead_to ($self, $port)
{
    $self->{test}->write("$self->{name}.new", $port);
    rename $self->{test}->path("$self->{name}.new"), $self->{behind};
    return $self->hang_up;
}

sub vanish ($self)
{
    CORE::kill 'USR1', -$self->{process}->pid;
    XB::Test::wait_for(sub {
        my %deaf = map { $_->{deaf} => 1 } $self->records;
        return !grep { !$deaf{$_} } map { /^(\d+)/ } $self->{process}->leftover;
    }, 5, 'all to be deaf');
    return;
}

# The signal goes to all its processes, those of the connections too, which have been forked with
# this handler; one that is forked later finds that it has come.
sub _serve ($self, $listen, $parent)
{
    $self->{sockets} = [$listen];
    local $SIG{USR1} = sub { $self->{is_gone} = 1; $self->_deafen };
    return $self->SUPER::_serve($listen, $parent);
}

sub _deafen ($self)
{
    my $program = pack 'S x![P] P', length($DROP_ALL) / 8, $DROP_ALL;
    setsockopt $_, SOL_SOCKET, $SO_ATTACH_FILTER, $program or die "no filter: $!"
        for grep { defined fileno $_ } @{$self->{sockets}};
    $self->append({ deaf => $$ });
    return;
}

sub refuse ($self, $seconds)
{
    $self->stop;
    my $end = Time::HiRes::time() + $seconds;
    XB::Test::wait_for(sub { Time::HiRes::time() > $end }, $seconds + 5, 'refused connections');
    return $self->start;
}

sub _pass ($self, $conn)
{
    my $from = $conn->{sock};
    push @{$self->{sockets}}, $from;
    $self->_deafen if $self->{is_gone};
    my $port = $self->{test}->slurp($self->{behind});
    my $to = IO::Socket::IP->new(PeerHost => '127.0.0.1', PeerPort => $port) or return;
    my %other = ($from => $to, $to => $from);
    my $select = IO::Select->new($from, $to);
    while ($select->count) {
        my @ready = $select->can_read;
        return $self->_be_silent if $self->{is_gone};
        for my $sock (@ready) {
            if (sysread $sock, my $bytes, 65536) {
                _write($other{$sock}, $bytes) or return;
                next;
            }
            $select->remove($sock);
            shutdown $other{$sock}, 1;
        }
    }
    return;
}

# Neither sends nor ends a connection, which would be a packet too.
sub _be_silent ($self)
{
    my $leader = getppid;
    Time::HiRes::sleep(1) while getppid == $leader;
    return;
}

sub _write ($sock, $bytes)
{
    while (length $bytes) {
        my $n = syswrite $sock, $bytes;
        return 0 if !$n && !$!{EINTR};
        substr $bytes, 0, $n // 0, '';
    }
    return 1;
}

1;
