# SPDX-License-Identifier: Apache-2.0
# A scripted HTTP/1.1 back end: answers like a small Tomcat, misbehaves on request, keeps a journal.
#
#   my $be = $t->backend('n1');        # the name is the route; or: route =>, node =>, code =>
#   my $be = $t->backend('n1', sub ($req, $conn) {    # runs first; a true value means: answered
#       return 0 if $req->{path} ne '/mine';
#       $conn->respond(200, [ 'X-A' => 'b' ], 'body');
#   });
#   $be->requests    list of { method uri path query version headers => [[name, value]...] cookies
#                    body_length body_sum (of all bytes, mod 2**32) complete (bool) conn time }
#   $be->url, $be->count('/path'), $be->clear, $be->header($request, 'name')
#   and all of XB::Server: port stop start pause cont hang_up
#
# The last word of the path says what to do, query parameters say how. Any path:
#   ms=N wait first   code=N status   header=Name:value (repeatable)   n=N body of N bytes
#   chunked=1   close=1   new=1 begin a session: JSESSIONID of 32 hex digits, "-node" if node =>
#   was given, ".route"
# and the words
#   echo (default) the request as JSON   login  as new=1   bytes  n bytes   upload  as echo
#   trickle n=,ms=  a byte each ms       hang  no answer   drop  closes without an answer
#   reset  RST instead of an answer      cut  promises n+1000 bytes, sends n and closes
#   Upgrade: websocket is answered with 101, then every byte comes back.
package XB::Backend;
use v5.36;
use parent 'XB::Server';
use JSON::PP ();
use Time::HiRes ();

sub new ($class, $t, $name, @rest)
{
    my %opt = @rest % 2 ? (code => @rest) : @rest;
    my $script = delete $opt{code};
    return $class->SUPER::new($t, route => $name, %opt, name => $name, script => $script,
        code => sub ($conn) {
            bless $conn, 'XB::Backend::Conn';
            while ($conn->one_request) { }
        });
}

sub route ($self) { return $self->{route} }
sub url ($self, $scheme = 'http') { return "$scheme://127.0.0.1:$self->{port}" }
sub requests ($self) { return $self->records }

sub count ($self, $path)
{
    return scalar grep { $_->{path} eq $path } $self->records;
}

sub header ($class, $request, $name)
{
    my @values = map { $_->[1] } grep { lc $_->[0] eq lc $name } @{$request->{headers}};
    return wantarray ? @values : $values[0];
}

sub session_id ($self)
{
    my $id = join '', map { sprintf '%08X', int rand 2**32 } 1 .. 4;
    $id .= "-$self->{node}" if defined $self->{node};
    return "$id.$self->{route}";
}

package XB::Backend::Conn;
use v5.36;
use parent -norequire, 'XB::Server::Conn';

my %REASON = (101 => 'Switching Protocols', 200 => 'OK', 302 => 'Found', 404 => 'Not Found',
              500 => 'Internal Server Error', 503 => 'Service Unavailable');

sub one_request ($self)
{
    my $req = $self->_head // return 0;
    if (lc($self->_get($req, 'upgrade') // '') eq 'websocket') {
        $self->record($req);
        return $self->_tunnel;
    }
    if (lc($self->_get($req, 'expect') // '') eq '100-continue') {
        $self->write("HTTP/1.1 100 Continue\r\n\r\n");
    }
    $self->_body($req);
    $self->record($req);
    my $script = $self->server->{script};
    $self->{request} = $req;
    $self->{close} = lc($self->_get($req, 'connection') // '') eq 'close';
    srand;
    $self->_builtin($req) if !($script && $script->($req, $self));
    return !$self->{close};
}

sub _head ($self)
{
    my $first = $self->line // return undef;
    my ($method, $uri, $version) = split / /, $first;
    my %req = (method => $method, uri => $uri, version => $version, headers => [], cookies => {},
               conn => $self->number, time => Time::HiRes::time(), complete => \1,
               body_length => 0, body_sum => 0);
    while (defined(my $line = $self->line)) {
        last if $line eq '';
        push @{$req{headers}}, [ split /:\s*/, $line, 2 ];
    }
    ($req{path}, my $query) = split /\?/, $uri, 2;
    for (split /&/, $query // '') {
        my ($name, $value) = map { s/%([0-9a-fA-F]{2})/chr hex $1/ger } split(/=/, $_, 2), '';
        push @{$req{query}{$name}}, $value;
    }
    for (map { split /;\s*/ } $self->_get(\%req, 'cookie')) {
        my ($name, $value) = split /=/, $_, 2;
        $req{cookies}{$name // ''} //= $value;
    }
    return \%req;
}

sub _get ($self, $req, $name) { return XB::Backend->header($req, $name) }

sub _body ($self, $req)
{
    if (lc($self->_get($req, 'transfer-encoding') // '') eq 'chunked') {
        while (defined(my $size = $self->line)) {
            my $n = hex $size;
            $self->_sink($req, $n);
            $self->line;
            return if $n == 0;
        }
        $req->{complete} = \0;
    }
    else {
        $self->_sink($req, $self->_get($req, 'content-length') // 0);
    }
    return;
}

sub _sink ($self, $req, $n)
{
    while ($n > 0) {
        my $part = $self->read($n < 65536 ? $n : 65536);
        $req->{body_length} += length $part;
        $req->{body_sum} = ($req->{body_sum} + unpack '%32C*', $part) % 2**32;
        $n -= length $part;
        if ($part eq '') {
            $req->{complete} = \0;
            return;
        }
    }
    return;
}

sub _tunnel ($self)
{
    $self->write("HTTP/1.1 101 Switching Protocols\r\n",
                 "Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n");
    while (length(my $bytes = $self->read_some)) {
        $self->write($bytes);
    }
    return 0;
}

sub respond ($self, $code, $headers, $body, $length = length $body)
{
    my @headers = @{$headers // []};
    my $head = "HTTP/1.1 $code " . ($REASON{$code} // 'Status') . "\r\n";
    while (my ($name, $value) = splice @headers, 0, 2) {
        $head .= "$name: $value\r\n";
    }
    $head .= "Connection: close\r\n" if $self->{close};
    if ($code == 204 || $code == 304) {
        return $self->write("$head\r\n");
    }
    my $empty = $self->{request}{method} eq 'HEAD';
    if (!$self->{chunked}) {
        return $self->write("${head}Content-Length: $length\r\n\r\n", $empty ? '' : $body);
    }
    $self->write("${head}Transfer-Encoding: chunked\r\n\r\n");
    return 1 if $empty;
    my @chunks = map { sprintf "%x\r\n%s\r\n", length $_, $_ } unpack '(a8192)*', $body;
    return $self->write(@chunks, "0\r\n\r\n");
}

sub _builtin ($self, $req)
{
    my ($word) = $req->{path} =~ m{(\w+)(?:;[^/]*)?$};
    $word //= 'echo';
    my $arg = sub ($name) { my $v = $req->{query}{$name}; return $v ? $v->[0] : undef };
    my $n = $arg->('n');
    my $wait = ($arg->('ms') // 0) / 1000;
    $self->{close} = 1 if $arg->('close');
    $self->{chunked} = $arg->('chunked');
    $self->pause($wait) if $word ne 'trickle';
    return $self->until_closed if $word eq 'hang';
    if ($word eq 'drop' || $word eq 'reset') {
        $self->reset if $word eq 'reset';
        return $self->{close} = 1;
    }
    my @headers = map { split /:\s*/, $_, 2 } @{$req->{query}{header} // []};
    push @headers, 'X-Node' => $self->server->route;
    if ($arg->('new') || $word eq 'login') {
        my $id = $self->server->session_id;
        push @headers, 'Set-Cookie' => "JSESSIONID=$id; Path=/; HttpOnly";
    }
    my $body = defined $n ? 'x' x $n : $self->_echo($req);
    return $self->_slowly(\@headers, $body, $wait) if $word eq 'trickle';
    my $length = length $body;
    if ($word eq 'cut') {
        $length += 1000;
        $self->{close} = 1;
    }
    return $self->respond($arg->('code') // 200, \@headers, $body, $length);
}

sub _echo ($self, $req)
{
    my %said = (%$req, node => $self->server->route);
    return JSON::PP->new->latin1->canonical->encode(\%said) . "\n";
}

sub _slowly ($self, $headers, $body, $wait)
{
    $self->respond(200, $headers, '', length $body);
    for my $byte (split //, $body) {
        $self->pause($wait);
        $self->write($byte) or return;
    }
    return;
}

1;
