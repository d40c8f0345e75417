# SPDX-License-Identifier: Apache-2.0
# Stands before a server and passes bytes on; while it is stopped connections are refused, as if
# the server behind it were down, which goes on.
#
#   my $p = XB::Pipe->new($t, 'p1', $port);      # all of XB::Server
#   $p->refuse(0.3)          for so many seconds; connections that are open end
package XB::Pipe;
use v5.36;
use parent 'XB::Server';
use IO::Select ();
use IO::Socket::IP ();
use Time::HiRes ();

sub new ($class, $t, $name, $port)
{
    return $class->SUPER::new($t, name => $name, behind => $port,
                              code => sub ($conn) { $conn->server->_pass($conn) });
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
    my $to = IO::Socket::IP->new(PeerHost => '127.0.0.1', PeerPort => $self->{behind}) or return;
    my %other = ($from => $to, $to => $from);
    my $select = IO::Select->new($from, $to);
    while ($select->count) {
        for my $sock ($select->can_read) {
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

sub _write ($sock, $bytes)
{
    while (length $bytes) {
        my $n = syswrite $sock, $bytes or return 0;
        substr $bytes, 0, $n, '';
    }
    return 1;
}

1;
