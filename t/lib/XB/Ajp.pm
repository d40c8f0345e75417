# SPDX-License-Identifier: Apache-2.0
# A scripted AJP/1.3 back end: answers each request with headers and their end, keeps a journal.
#
#   my $a = XB::Ajp->new($t, 'a1');                        # all of XB::Server
#   my $a = XB::Ajp->new($t, 'a2', ping => sub ($conn) {...});     # instead of the CPONG
#   $a->records   { method (AJP's code) protocol uri remote server port headers => { name => value }
#                 secret pings (on this connection so far) conn }
# The last word of the path: hang, drip (a byte each 40 ms), drop, long (headers without end); others
# answer 200 with two cookies.
package XB::Ajp;
use v5.36;
use parent 'XB::Server';

my %ATTRIBUTE = (3 => 'remote_user', 4 => 'auth_type', 5 => 'query', 6 => 'jvm_route', 12 => 'secret',
                 13 => 'method');
my @HEADER = (undef, qw(accept accept-charset accept-encoding accept-language authorization connection
    content-type content-length cookie cookie2 host pragma referer user-agent));

sub new ($class, $t, $name, %opt)
{
    return $class->SUPER::new($t, name => $name, %opt, code => \&_connection);
}

sub url ($self) { return 'ajp://' . $self->address }

sub _connection ($conn)
{
    my $pings = 0;
    while (length(my $head = $conn->read(4))) {
        my ($magic, $length) = unpack 'n n', $head;
        my $body = $conn->read($length);
        if ($body eq "\x0a") {
            $pings++;
            my $ping = $conn->server->{ping};
            $ping ? $ping->($conn) : $conn->write(_packet("\x09"));
            next;
        }
        my $req = _parse($body);
        $conn->record({ %$req, pings => $pings, conn => $conn->number });
        _answer($conn, $req->{uri}) or return;
    }
    return;
}

sub _packet ($body) { return 'AB' . pack('n', length $body) . $body }
sub _string ($text) { return pack('n', length $text) . "$text\0" }

sub _take_string ($data)
{
    my $length = unpack 'n', substr $$data, 0, 2, '';
    return undef if $length == 0xffff;
    my $text = substr $$data, 0, $length + 1, '';
    return substr $text, 0, $length;
}

sub _parse ($body)
{
    my (%req, %headers);
    (my $type, $req{method}) = unpack 'C C', substr $body, 0, 2, '';
    $req{$_} = _take_string(\$body) for qw(protocol uri remote host server);
    ($req{port}, my $ssl, my $count) = unpack 'n C n', substr $body, 0, 5, '';
    for (1 .. $count) {
        my ($code) = unpack 'n', $body;
        my $name = $code >> 8 == 0xa0 ? $HEADER[$code & 0xff] : lc _take_string(\$body);
        substr $body, 0, 2, '' if $code >> 8 == 0xa0;
        $headers{$name} = _take_string(\$body);
    }
    while ((my $code = unpack 'C', substr $body, 0, 1, '') != 0xff) {
        my $name = $code == 10 ? _take_string(\$body) : $ATTRIBUTE{$code};
        $req{$name} = _take_string(\$body);
    }
    return { %req, headers => \%headers };
}

sub _answer ($conn, $uri)
{
    my ($word) = $uri =~ /(\w+)$/;
    my $head = _packet(pack('C n', 4, 200) . _string('OK') . pack('n', 2)
        . "\xa0\x07" . _string('JSESSIONID=A1; Path=/') . "\xa0\x07" . _string('other=1'));
    if ($word eq 'hang' || $word eq 'drop') {
        $conn->until_closed if $word eq 'hang';
        return 0;
    }
    if ($word eq 'long') {
        1 while $conn->write($head);
        return 0;
    }
    my $whole = $head . _packet("\x05\x01");
    return $conn->write($whole) if $word ne 'drip';
    for my $byte (split //, $whole) {
        $conn->pause(0.04);
        $conn->write($byte) or return 0;
    }
    return 1;
}

1;
