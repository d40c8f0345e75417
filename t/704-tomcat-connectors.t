# SPDX-License-Identifier: Apache-2.0
# The AJP and https connectors of the test Tomcat work, and AJP without the secret does not.
use v5.36;
use Test::More;
use IO::Socket::INET;
use XB::Test;
use XB::Tomcat;
use XB::Msm;

my $t = XB::Test->new;
my $msm = XB::Msm->new($t, 1);
my ($tc) = XB::Tomcat->fleet($t, 1, memcached => $msm->nodes, connectors => [qw(http ajp https)], contexts => ['/']);

sub ajp ($payload)
{
    my $sock = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $tc->port('ajp'), Timeout => 5) or die $@;
    print $sock pack 'n n/a*', 0x1234, $payload;
    read $sock, my $head, 4;
    read $sock, my $body, unpack 'x2 n', $head;
    return $body;
}

# FORWARD_REQUEST of GET /, optionally with the secret (attribute 0x0c).
sub forward (@secret)
{
    my $string = sub ($s) { pack 'n/a* x', $s };
    return pack('C C', 2, 2) . join('', map { $string->($_) } 'HTTP/1.1', '/', '127.0.0.1', 'c', 'localhost')
        . pack('n C n', 80, 0, 0) . join('', map { pack('C', 0x0c) . $string->($_) } @secret) . pack('C', 0xff);
}

is(unpack('C', ajp(pack 'C', 10)), 9, 'CPING gets CPONG');
is((unpack 'C n', ajp(forward($tc->secret)))[1], 200, 'a request with the secret');
is((unpack 'C n', ajp(forward()))[1], 403, 'without it');
is((unpack 'C n', ajp(forward('wrong')))[1], 403, 'with a wrong one');

my $port = $tc->port('https');
my $answer = `printf 'GET / HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n' |
    openssl s_client -connect 127.0.0.1:$port -quiet 2>/dev/null`;
like($answer, qr/^HTTP\S+ 200/, 'https answers');
like($answer, qr/^Set-Cookie: JSESSIONID=[^;]+; Path=\/; Secure; HttpOnly\r$/m, 'with a secure cookie');
$t->finish;
