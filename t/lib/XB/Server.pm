# SPDX-License-Identifier: Apache-2.0
# A small TCP server in Perl on 127.0.0.1: one process per connection, so a callback may block.
#
#   my $s = XB::Server->new($t, name => 'x', code => sub ($conn) {...});    # path => '/s': on a
#                                        # unix socket; user => 0: stays root
#   $s->port, $s->address, $s->stop, $s->start (same port again), $s->restart, $s->pause, $s->cont
#   $s->hang_up          ends all its connections at once, keeps listening
#   $s->records          what the callbacks recorded, oldest first; $s->clear forgets it
# In the callback, $conn (XB::Server::Conn) has
#   $conn->line (without CR LF; undef at the end), $conn->read($n), $conn->read_some
#   $conn->write(@bytes), $conn->pause($seconds), $conn->record(\%data), $conn->number
#   $conn->reset         closes so that the peer gets a RST
#   $conn->until_closed  waits for the peer to go
package XB::Server;
use v5.36;
use Fcntl qw(:flock SEEK_SET);
use IO::Select ();
use IO::Socket::IP ();
use IO::Socket::UNIX ();
use JSON::PP ();
use POSIX ();
use Time::HiRes ();

sub new ($class, $t, %opt)
{
    my $self = bless { user => 1, %opt, test => $t }, $class;
    $self->{port} //= $t->port;
    $self->{journal} = $t->path("$opt{name}.journal");
    return $self->start;
}

sub port ($self) { return $self->{port} }
sub name ($self) { return $self->{name} }
sub address ($self) { return "127.0.0.1:$self->{port}" }
sub process ($self) { return $self->{process} }

sub start ($self)
{
    my $listen = $self->_listen or die "listen: $@";
    my $parent = $$;
    $self->{process} = $self->{test}->fork_child(
        name => $self->{name}, user => $self->{user},
        code => sub { $self->_serve($listen, $parent) });
    close $listen;
    return $self;
}

sub _listen ($self)
{
    return IO::Socket::IP->new(LocalHost => '127.0.0.1', LocalPort => $self->{port},
                               Listen => 128, ReuseAddr => 1) if !defined $self->{path};
    unlink $self->{path};
    my $listen = IO::Socket::UNIX->new(Local => $self->{path}, Listen => 128) or return;
    chmod 0777, $self->{path};
    return $listen;
}

sub stop ($self) { return $self->{process}->kill }
sub kill ($self) { return $self->{process}->kill }
sub pause ($self) { return $self->{process}->pause }
sub cont ($self) { return $self->{process}->cont }

sub hang_up ($self)
{
    my $p = $self->{process};
    CORE::kill 'KILL', grep { $_ != $p->pid } map { /^(\d+)/ } $p->leftover;
    return;
}

sub restart ($self)
{
    $self->stop;
    return $self->start;
}

# Ends itself when the test has died without a clean-up.
sub _serve ($self, $listen, $parent)
{
    local $SIG{CHLD} = 'IGNORE';
    my $leader = $$;
    local $SIG{TERM} = sub {            # takes its connections along, which may be kept open
        local $SIG{TERM} = 'IGNORE';
        CORE::kill 'TERM', -$leader if $$ == $leader;
        POSIX::_exit(0);
    };
    local $SIG{PIPE} = 'IGNORE';
    my $select = IO::Select->new($listen);
    my $number = 0;
    while (getppid == $parent) {
        next if !$select->can_read(1);
        my $sock = $listen->accept or next;
        $number++;
        my $pid = fork // die "fork: $!";
        if ($pid == 0) {
            close $listen;
            eval { $self->{code}->(XB::Server::Conn->new($self, $sock, $number)); 1 }
                or print STDERR "$self->{name}: $@";
            POSIX::_exit(0);
        }
        close $sock;
    }
    POSIX::_exit(0);
}

sub records ($self)
{
    open my $fh, '<', $self->{journal} or return;
    flock $fh, LOCK_SH;
    return map { JSON::PP->new->latin1->decode($_) } <$fh>;    # any bytes
}

sub clear ($self)
{
    unlink $self->{journal};
    return;
}

sub append ($self, $data)
{
    open my $fh, '>>', $self->{journal} or die "$self->{journal}: $!";
    flock $fh, LOCK_EX;
    syswrite $fh, JSON::PP->new->latin1->canonical->encode($data) . "\n";
    close $fh;
    return;
}

package XB::Server::Conn;
use v5.36;
use Socket qw(SOL_SOCKET SO_LINGER);

sub new ($class, $server, $sock, $number)
{
    return bless { server => $server, sock => $sock, number => $number, buf => '' }, $class;
}

sub server ($self) { return $self->{server} }
sub number ($self) { return $self->{number} }
sub record ($self, $data) { return $self->{server}->append($data) }

sub _fill ($self)
{
    my $n = sysread $self->{sock}, $self->{buf}, 65536, length $self->{buf};
    return $n;
}

sub line ($self)
{
    while ((my $at = index $self->{buf}, "\n") < 0) {
        return undef if !$self->_fill;
    }
    $self->{buf} =~ s/\A(.*?)\r?\n//s;
    return $1;
}

sub read ($self, $n)
{
    while (length $self->{buf} < $n) {
        last if !$self->_fill;
    }
    return substr $self->{buf}, 0, $n, '';
}

sub read_some ($self)
{
    $self->_fill if !length $self->{buf};
    return substr $self->{buf}, 0, length $self->{buf}, '';
}

sub write ($self, @bytes)
{
    my $data = join '', @bytes;
    my $at = 0;
    while ($at < length $data) {
        my $n = syswrite $self->{sock}, $data, length($data) - $at, $at;
        return 0 if !defined $n;
        $at += $n;
    }
    return 1;
}

sub pause ($self, $seconds)
{
    Time::HiRes::sleep($seconds);
    return;
}

sub reset ($self)
{
    setsockopt $self->{sock}, SOL_SOCKET, SO_LINGER, pack 'ii', 1, 0;
    close $self->{sock};
    return;
}

sub until_closed ($self)
{
    1 while $self->_fill;
    return;
}

1;
