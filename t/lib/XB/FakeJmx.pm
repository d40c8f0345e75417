# SPDX-License-Identifier: Apache-2.0
# The JMXProxyServlet of an XB::FakeMsm, at /manager/jmxproxy: user jmx, password s3cret.
#
#   XB::FakeJmx::calls($n)      what it was asked, oldest first: { what => find|look|expire, id,
#                               context, time, there (1: it had that copy), stored => the routes
#                               under which the session was in memcached just then }
#   XB::FakeJmx::misbehave($n, 'hang', what => 'expire', ms => 300)   # without what: always
#   XB::FakeJmx::behave($n)
# How:
#   hang drop             no answer          slow        ms later, as usual
#   html error            200, but no "OK -" 401 403 404 500  that status
#   none many             no manager, five   endless     an answer without end
#   cut                   ends before its Content-Length
#   half                  "returned:", end of the connection in place of a length
#   nul                   a zero byte in it  elsewhere   never has the copy
#   keeps                 says that it expires, and does not
package XB::FakeJmx;
use v5.36;
use Fcntl qw(:flock);
use JSON::PP ();
use MIME::Base64 ();
use Time::HiRes qw(time);

our $LOGIN = 'jmx:s3cret';
my $AUTH = 'Basic ' . MIME::Base64::encode_base64($LOGIN, '');

sub misbehave ($n, $how, %opt)
{
    $n->_put('jmx-trick', { what => '', ms => 0, %opt, how => $how });
    return;
}

sub behave ($n) { return $n->_drop('jmx-trick') }

sub calls ($n)
{
    return map { JSON::PP::decode_json($_) }
        split /\n/, $n->{test}->slurp($n->_file('jmx-calls'));
}

sub _note ($n, $call)
{
    open my $fh, '>>', $n->_file('jmx-calls') or die "jmx-calls: $!";
    flock $fh, LOCK_EX;
    syswrite $fh, XB::FakeMsm::_json($call) . "\n";
    close $fh;
    return;
}

sub _call ($n, $req)
{
    my ($find, $name, $op, $id) = map { $req->{query}{$_} ? $req->{query}{$_}[0] : undef }
        qw(qry invoke op ps);
    my $what = defined $find ? 'find' : { getLastAccessedTime => 'look',
                                          expireSession => 'expire' }->{$op // ''} // 'other';
    my ($context) = ($find // $name // '') =~ /[:,]context=([^,]*)/;
    my %call = (what => $what, id => $id, context => $context, name => $name, uri => $req->{uri},
                auth => XB::Backend->header($req, 'Authorization') // '', time => time);
    if (defined $id && defined(my $base = $n->base($id))) {
        my $mc = $n->_memcached($n->node_of($id));
        $call{there} = $n->_has($id) ? 1 : 0;
        $call{stored} = [ grep { $mc && defined $mc->get("$n->{prefix}$base.$_") }
                          @{$n->{routes} // [ map { "n$_" } 1 .. 9 ]} ];
    }
    _note($n, \%call);
    return \%call;
}

sub _names ($context, $many)
{
    my @hosts = $many ? map { "h$_" } 1 .. 5 : 'localhost';
    return 'OK - Number of results: ' . @hosts . "\n\n"
        . join '', map { "Name: Catalina:type=Manager,host=$_,context=$context\n"
                         . "modelerType: x\nName:none: 1\nsessionCounter: 3\n\n" } @hosts;
}

# As a Tomcat's; expireSession deletes the key of that id, whatever it has.
sub _result ($n, $call, $how)
{
    return _names($call->{context}, $how eq 'many') if $call->{what} eq 'find';
    if ($call->{what} eq 'expire') {
        if ($how ne 'keeps') {
            $n->_drop($call->{id});
            $n->_forget($call->{id});
        }
        return "OK - Operation expireSession without return value\n";
    }
    my $there = $call->{what} eq 'look' && $n->_has($call->{id}) && $how ne 'elsewhere';
    return "OK - Operation getLastAccessedTime returned:\n"
        . ($there ? 'Sun Nov 22 10:58:16 UTC 2026' : '') . "\n";
}

sub answer ($n, $req, $conn)
{
    my $call = _call($n, $req);
    my $trick = $n->_take('jmx-trick') // {};
    my $applies = !$trick->{what} || $trick->{what} eq $call->{what};
    my $how = $applies ? $trick->{how} // '' : '';
    $conn->pause(($trick->{ms} // 0) / 1000) if $how eq 'slow';
    my %instead = (
        hang => sub { $conn->until_closed; $conn->{close} = 1 },
        drop => sub { $conn->{close} = 1 },
        html => sub { $conn->respond(200, [], "<html>OK - Operation</html>\n") },
        error => sub { $conn->respond(200, [], "Error - javax.management.X: y\n\tat z\n") },
        none => sub { $conn->respond(200, [], "OK - Number of results: 0\n\n") },
        endless => sub {
            $conn->{chunked} = 1;
            $conn->write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
            my $line = 'OK - Operation getLastAccessedTime returned:' . "\n" x 4052;
            1 while $conn->write("1000\r\n$line\r\n");
        },
        cut => sub {
            my $text = "OK - Operation getLastAccessedTime returned:\n\n";
            $conn->{close} = 1;
            $conn->respond(200, [], $text, 1 + length $text);
        },
        half => sub {
            $conn->{close} = 1;
            $conn->write("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n",
                         "OK - Operation getLastAccessedTime returned:\n");
        },
        nul => sub {
            $conn->respond(200, [], "OK - Operation getLastAccessedTime returned:\n\n\0Sun\n");
        },
        map { my $code = $_; ($code => sub { $conn->respond($code, [], "no\n") }) }
            401, 403, 404, 500);
    $instead{$how} ? $instead{$how}->()
        : $call->{auth} ne $AUTH ? $conn->respond(401, [], "no\n")
        : $conn->respond(200, [ 'Content-Type' => 'text/plain;charset=utf-8' ],
                         _result($n, $call, $how));
    return 1;
}

1;
