# SPDX-License-Identifier: Apache-2.0
# An HTTP/1.1 client for many users at once: one process, no threads, each byte of answers counted.
#
#   my $c = XB::Client->new(base => 'http://127.0.0.1:8080', timeout => 10);
#   my $r = $c->get('/path', %opt);  $c->head(...)  $c->post('/path', $body, %opt)
#   my @r = $c->many([ { path => '/a', user => 'u1' }, ... ], parallel => 8);  # in that order
#   $c->run(next => sub { a request, or undef: no more, or seconds: none within that time },
#           done => sub ($r, $req) {...}, parallel => 8);
# A request: path or url, method (GET), headers [name, value...], user (whose jar; none: no jar),
#   cookie (a Cookie header instead of the jar's), body (string, or a sub that gives pieces, then
#   undef), size => N (that many bytes of body), chunked, timeout (s, of the whole), keep => 0 (no
#   keep-alive), discard => 1 (body not kept), abort_after => N (closes after N bytes of body),
#   version => '1.0'
# An answer: status (0 = none), error ('' when complete), body, length, headers [[name, value]...],
#   time (s in all), ttfb (s to the head's end), request, conn (connection's number), reused
#   $c->header($r, 'Name') (all in list context), $c->jar('u1') (hash), $c->session('u1')
#   $c->close  ends all idle connections;  $c->socket  a plain connection for raw work
package XB::Client;
use v5.36;
use IO::Socket::INET ();
use Time::HiRes qw(time);

my $connections = 0;

sub new ($class, %opt)
{
    return bless { timeout => 10, base => '', %opt, jars => {}, idle => {} }, $class;
}

sub request ($self, %req) { return ($self->many([ \%req ]))[0] }
sub get ($self, $path, %opt) { return $self->request(path => $path, %opt) }
sub head ($self, $path, %opt) { return $self->request(path => $path, method => 'HEAD', %opt) }

sub post ($self, $path, $body, %opt)
{
    return $self->request(path => $path, method => 'POST', body => $body, %opt);
}

sub jar ($self, $user) { return $self->{jars}{$user} //= {} }
sub session ($self, $user) { return $self->jar($user)->{JSESSIONID} }

sub header ($class, $response, $name)
{
    my @values = map { $_->[1] } grep { lc $_->[0] eq lc $name } @{$response->{headers}};
    return wantarray ? @values : $values[0];
}

sub close ($self)
{
    $self->{idle} = {};
    return;
}

sub socket ($self)
{
    my ($address) = $self->{base} =~ m{//([^/]+)};
    return IO::Socket::INET->new(PeerAddr => $address, Timeout => 5) || die "$address: $!";
}

sub many ($self, $requests, %opt)
{
    my (@answers, $at);
    $at = 0;
    my %place;
    $self->run(
        parallel => scalar @$requests, %opt,
        next => sub {
            $place{ $requests->[$at] } = $at if $at < @$requests;
            return $requests->[ $at++ ];
        },
        done => sub ($answer, $req) { $answers[ $place{$req} ] = $answer });
    return @answers;
}

# The loop: as many exchanges as `parallel` allows, each a small state machine (see below).
sub run ($self, %opt)
{
    my (%active, $ended);
    while (1) {
        my $pause = 1;
        while (!$ended && keys %active < ($opt{parallel} // 1)) {
            my $req = $opt{next}->() // do { $ended = 1; last };
            if (!ref $req) {
                $pause = $req;
                last;
            }
            my $x = $self->_begin($req);
            $active{$x} = $x;
        }
        last if $ended && !%active;
        $self->_wait($pause, values %active);
        for my $x (grep { $_->{finished} } values %active) {
            delete $active{$x};
            if ($x->was_dropped) {
                $self->{idle} = {};
                my $again = $self->_begin($x->{req});
                $active{$again} = $again;
                next;
            }
            my $answer = $self->_complete($x);
            $opt{done}->($answer, $x->{req}) if $opt{done};
        }
    }
    return;
}

sub _wait ($self, $soonest, @active)
{
    my ($r, $w) = ('', '');
    my $now = time;
    for my $x (grep { !$_->{finished} } @active) {
        vec($r, fileno $x->{sock}, 1) = 1 if $x->{connected};
        vec($w, fileno $x->{sock}, 1) = 1 if $x->wants_write;
        my $left = $x->{deadline} - $now;
        $soonest = $left if $left < $soonest;
    }
    return if grep { $_->{finished} } @active;
    select $r, $w, undef, $soonest > 0 ? $soonest : 0;
    $now = time;
    for my $x (@active) {
        my $fd = fileno $x->{sock};
        $x->writable if vec $w, $fd, 1;
        $x->readable if !$x->{finished} && vec $r, $fd, 1;
        $x->fail('timeout') if !$x->{finished} && $now >= $x->{deadline};
    }
    return;
}

sub _begin ($self, $req)
{
    my $url = $req->{url} // $self->{base} . $req->{path};
    my ($host, $port, $path) = $url =~ m{^http://([^/:]+):?(\d*)(.*)}s or die "bad URL $url";
    $port ||= 80;
    my $x = XB::Client::Exchange->new($req, time + ($req->{timeout} // $self->{timeout}));
    $x->{key} = "$host:$port";
    if (my $idle = pop @{$self->{idle}{ $x->{key} } // []}) {
        @$x{qw(sock conn connected reused)} = (@$idle, 1, 1);
    }
    else {
        $x->connect($host, $port);
        $x->{conn} = ++$connections;
    }
    $x->{head} = $self->_head($req, $x->{key}, $path eq '' ? '/' : $path);
    return $x;
}

sub _head ($self, $req, $host, $path)
{
    my $method = $req->{method} // 'GET';
    my $head = "$method $path HTTP/" . ($req->{version} // '1.1') . "\r\n";
    my @headers = @{$req->{headers} // []};
    $head .= "Host: $host\r\n" if !grep { lc $_ eq 'host' } @headers;
    while (my ($name, $value) = splice @headers, 0, 2) {
        $head .= "$name: $value\r\n";
    }
    my $jar = defined $req->{user} ? $self->jar($req->{user}) : {};
    my $cookie = $req->{cookie} // join '; ', map { "$_=$jar->{$_}" } sort keys %$jar;
    $head .= "Cookie: $cookie\r\n" if $cookie ne '';
    if ($req->{chunked} || ref $req->{body}) {
        $head .= "Transfer-Encoding: chunked\r\n";
    }
    elsif (defined $req->{body} || defined $req->{size}) {
        $head .= 'Content-Length: ' . ($req->{size} // length $req->{body}) . "\r\n";
    }
    $head .= "Connection: close\r\n" if !($req->{keep} // 1);
    return "$head\r\n";
}

sub _complete ($self, $x)
{
    my $answer = $x->answer;
    push @{$self->{idle}{ $x->{key} }}, [ @$x{qw(sock conn)} ] if $x->reusable;
    if (defined(my $user = $x->{req}{user})) {
        for (XB::Client->header($answer, 'Set-Cookie')) {
            my ($name, $value) = /^([^=;\s]+)=([^;]*)/ or next;
            my $gone = /;\s*max-age=0/i || $value eq '';
            $gone ? delete $self->jar($user)->{$name} : ($self->jar($user)->{$name} = $value);
        }
    }
    return $answer;
}

package XB::Client::Exchange;
use v5.36;
use Errno ();
use Socket qw(inet_aton pack_sockaddr_in PF_INET SOCK_STREAM IPPROTO_TCP TCP_NODELAY
              SOL_SOCKET SO_ERROR);
use Time::HiRes qw(time);

sub new ($class, $req, $deadline)
{
    return bless { req => $req, deadline => $deadline, begin => time, state => 'head', sending => 1,
                   in => '', out => '', unsent => $req->{size} // 0, got => 0, error => '',
                   status => 0, headers => [], body => '', length => 0 }, $class;
}

# A kept connection that the server closed before any byte of the answer: a GET is sent again, as a
# browser would do.
sub was_dropped ($self)
{
    return $self->{reused} && $self->{error} && !$self->{got} && $self->{error} ne 'timeout'
        && ($self->{req}{method} // 'GET') =~ /^(?:GET|HEAD)$/;
}

sub connect ($self, $host, $port)
{
    socket $self->{sock}, PF_INET, SOCK_STREAM, 0 or die "socket: $!";
    setsockopt $self->{sock}, IPPROTO_TCP, TCP_NODELAY, 1;
    $self->{sock}->blocking(0);
    connect $self->{sock}, pack_sockaddr_in($port, inet_aton($host)) or $!{EINPROGRESS}
        or $self->fail("connect: $!");
    return;
}

sub fail ($self, $error)
{
    $self->{error} = $error;
    $self->{finished} = 1;
    $self->{broken} = 1;
    return;
}

sub wants_write ($self) { return !$self->{connected} || $self->{sending} }

# The body is made in pieces while it is sent: an upload may be larger than memory.
sub _refill ($self)
{
    my $req = $self->{req};
    if (defined $self->{head}) {
        $self->{out} = delete $self->{head};
    }
    elsif ($self->{unsent} > 0) {
        my $n = $self->{unsent} < 65536 ? $self->{unsent} : 65536;
        $self->{out} = 'u' x $n;
        $self->{unsent} -= $n;
    }
    elsif (defined $req->{body} && !$self->{body_sent}) {
        my $piece = ref $req->{body} ? $req->{body}->() : $req->{body};
        $self->{body_sent} = 1 if !ref $req->{body} || !defined $piece;
        $piece //= '';
        if ($req->{chunked} || ref $req->{body}) {
            $piece = sprintf "%x\r\n%s\r\n", length $piece, $piece if $piece ne '';
            $piece .= "0\r\n\r\n" if $self->{body_sent};
        }
        $self->{out} = $piece;
    }
    else {
        $self->{sending} = 0;
    }
    return;
}

sub writable ($self)
{
    if (!$self->{connected}) {
        my $error = unpack 'i', getsockopt $self->{sock}, SOL_SOCKET, SO_ERROR;
        return $self->fail('connect: ' . do { local $! = $error; "$!" }) if $error;
        $self->{connected} = 1;
    }
    $self->_refill while $self->{sending} && $self->{out} eq '';
    return if $self->{out} eq '';
    my $n = syswrite $self->{sock}, $self->{out};
    if (!defined $n) {
        return if $!{EAGAIN};
        $self->{sending} = 0;           # the answer to an early refusal may still be readable
        $self->{out} = '';
        $self->{broken} = 1;
        return;
    }
    substr $self->{out}, 0, $n, '';
    $self->_refill while $self->{sending} && $self->{out} eq '';
    return;
}

sub readable ($self)
{
    my $n = sysread $self->{sock}, my $bytes, 262144;
    return if !defined $n && $!{EAGAIN};
    return $self->_end_of_stream if !$n;
    $self->{got} += $n;
    $self->{in} .= $bytes;
    1 while !$self->{finished} && $self->_advance;
    return;
}

sub _end_of_stream ($self)
{
    $self->{broken} = 1;
    if ($self->{state} eq 'until-close') {
        return $self->{finished} = 1;
    }
    return $self->fail($self->{got} ? 'truncated' : 'closed');
}

# One step over the bytes in hand; false when more are needed.
sub _advance ($self)
{
    my $state = $self->{state};
    return $self->_read_head if $state eq 'head';
    return $self->_take(length $self->{in}) if $state eq 'until-close';
    if ($state eq 'length' || $state eq 'chunk') {
        my $n = $self->{left} < length $self->{in} ? $self->{left} : length $self->{in};
        $self->{left} -= $n;
        my $more = $self->_take($n);
        return $more if $self->{left} > 0;
        $self->{state} = $state eq 'chunk' ? 'chunk-end' : 'done';
        $self->{finished} = 1 if $self->{state} eq 'done';
        return 1;
    }
    $self->{in} =~ s/\A(.*?)\r?\n//s or return 0;
    my $line = $1;
    if ($state eq 'chunk-end') {
        $self->{state} = 'chunk-size';
    }
    elsif ($state eq 'chunk-size') {
        $self->{left} = hex $line;
        $self->{state} = $self->{left} ? 'chunk' : 'trailer';
    }
    elsif ($line eq '') {
        $self->{finished} = 1;
    }
    return 1;
}

sub _take ($self, $n)
{
    return 0 if $n == 0;
    my $part = substr $self->{in}, 0, $n, '';
    $self->{length} += $n;
    $self->{body} .= $part if !$self->{req}{discard};
    my $limit = $self->{req}{abort_after};
    $self->fail('aborted') if defined $limit && $self->{length} >= $limit;
    return 1;
}

sub _read_head ($self)
{
    $self->{in} =~ s/\A(.*?)\r?\n\r?\n//s or return 0;
    my ($first, @lines) = split /\r?\n/, $1;
    ($self->{version}, $self->{status}) = $first =~ m{^HTTP/(\S+) (\d+)}
        or return $self->fail('not HTTP');
    return 1 if $self->{status} == 100;
    $self->{ttfb} = time - $self->{begin};
    $self->{headers} = [ map { [ split /:\s*/, $_, 2 ] } @lines ];
    my $length = XB::Client->header($self, 'Content-Length');
    my $method = $self->{req}{method} // 'GET';
    if ($method eq 'HEAD' || $self->{status} =~ /^(?:1|204|304)/) {
        $self->{finished} = 1;
    }
    elsif (lc(XB::Client->header($self, 'Transfer-Encoding') // '') eq 'chunked') {
        $self->{state} = 'chunk-size';
    }
    elsif (defined $length) {
        $self->{left} = $length;
        $self->{state} = 'length';
    }
    else {
        $self->{state} = 'until-close';
    }
    return 1;
}

sub reusable ($self)
{
    my $connection = XB::Client->header($self, 'Connection') // '';
    return !$self->{broken} && !$self->{sending} && $self->{state} ne 'until-close'
        && ($self->{req}{keep} // 1) && ($self->{version} // '') eq '1.1'
        && $connection !~ /close/i && $self->{status} >= 200;
}

sub answer ($self)
{
    return { time => time - $self->{begin}, request => $self->{req},
             map { $_ => $self->{$_} } qw(status error body length headers ttfb conn reused) };
}

1;
