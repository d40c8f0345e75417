# SPDX-License-Identifier: Apache-2.0
# Probes of members from background threads: every scheme, one total deadline, no trace, a quick end.
use v5.36;
use IO::Select;
use IO::Socket::IP;
use IO::Socket::UNIX;
use JSON::PP;
use POSIX ();
use Test::More;
use Time::HiRes ();
use XB::Ajp;
use XB::Deps;
use XB::Test;

my $t = XB::Test->new;
my $slow = $ENV{XB_TIMES} // 1;
my $root = XB::Deps->root;
# What mod_proxy says when members misbehave.
$t->allow_log(qr/\[proxy(?:_http|_ajp|_balancer)?:(?:error|warn)\]/, qr/\[ssl:warn\]/);

my $so = $t->test_module('mod_xb_probe_test', 'src/xnat_probe*.c', 'src/xnat_deadline.c');

# ---- back ends

sub byte_by_byte ($conn, $text)
{
    for my $byte (split //, $text) {
        $conn->pause(0.04);
        $conn->write($byte) or return;
    }
    return;
}

# Answers by the path's last word, before XB::Backend's own words are looked at.
sub script ($req, $conn)
{
    my ($word) = $req->{path} =~ m{(\w+)$} or return 0;
    my $nth = ++$conn->{seen};
    my $drip = sub { byte_by_byte($conn, "HTTP/1.1 200 OK\r\n" . 'X-Drip: ' . 'x' x 500) };
    my $endless = sub { $conn->write("HTTP/1.1 200 OK\r\n"); 1 while $conn->write('X-A: ' . 'a' x 900 . "\r\n") };
    my $slow = sub {
        $conn->write("HTTP/1.1 200 OK\r\n");
        $conn->pause(0.02) while $conn->write("X-A: b\r\n");
    };
    my $again = sub { $nth == 1 ? $conn->respond(200, [ 'Set-Cookie' => "nth=$nth" ], '') : ($conn->{close} = 1) };
    my %do = (
        drip => $drip, endless => $endless, slowly => $slow, again => $again,
        half => sub { $conn->write("HTTP/1.1 200 OK\r\nSet-Cookie: half=1\r\n"); $conn->{close} = 1 },
        other => sub { $conn->write("SSH-2.0-OpenSSH\r\n"); $conn->{close} = 1 },
        bye => sub { $conn->respond(200, [], ''); $conn->{close} = 1 },
        early => sub { $conn->write("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"); $conn->respond(200, [], '') },
        cookies => sub {
            $conn->respond(404, [ 'Set-Cookie' => 'JSESSIONID=1.n2; Path=/node; Domain=node.example; Secure; HttpOnly',
                                  'Set-Cookie' => 'b="q;x"' ], '');
        },
    );
    my $do = $do{$word} // return 0;
    $do->();
    return 1;
}

# A listening socket whose queue is full: nobody accepts, so connecting hangs.
my @full = my $full = IO::Socket::IP->new(LocalHost => '127.0.0.1', LocalPort => $t->port('full'), Listen => 1);
push @full, IO::Socket::IP->new(PeerHost => '127.0.0.1', PeerPort => $t->port('full'), Blocking => 0) for 1 .. 4;

my $unix_path = $t->path('node.sock');
my $unix_socket = IO::Socket::UNIX->new(Local => $unix_path, Listen => 16) or die "$unix_path: $!";
chmod 0777, $unix_path;
$t->fork_child(name => 'unix', code => sub {
    local $SIG{CHLD} = 'IGNORE';
    while (my $sock = $unix_socket->accept) {
        next if fork;
        while (defined(my $line = <$sock>)) {
            syswrite $sock, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nSet-Cookie: unix=1\r\n\r\n" if $line eq "\r\n";
        }
        POSIX::_exit(0);
    }
});
close $unix_socket;

my $n1 = $t->backend('n1', \&script);
my $n2 = $t->backend('n2', \&script);
my $a1 = XB::Ajp->new($t, 'a1');
my $a2 = XB::Ajp->new($t, 'a2', ping => sub ($conn) { byte_by_byte($conn, "AB\x00\x78\x09" . 'x' x 119) });

sub certificate
{
    my ($cert, $key) = map { $t->path("tls.$_") } qw(crt key);
    my $said = `openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 \\
        -keyout '$key' -out '$cert' -subj /CN=node.example \\
        -addext subjectAltName=DNS:127.0.0.1,DNS:app.example 2>&1`;
    die $said if $?;
    chmod 0644, $key;
    return "SSLCertificateFile $cert\nSSLCertificateKeyFile $key\n";
}

my $tls = $t->httpd(name => 'tls', module => 0, modules => ['ssl'], children => 1, conf => <<"END");
SSLEngine on
@{[ certificate() ]}
Header always set Set-Cookie "sni=%{SSL_TLS_SNI}s"
Header always add Set-Cookie "expr=host=%{HTTP_HOST}"
END

# ---- the server under test

sub conf
{
    my $tls_url = 'https://127.0.0.1:' . $tls->port;
    return <<"END";
ServerName 127.0.0.1:%%PORT:main%%
LoadModule xb_probe_test_module $so
<Proxy "balancer://app">
BalancerMember @{[ $n1->url ]} route=n1
BalancerMember @{[ $n2->url ]} route=closing disablereuse=on
BalancerMember http://127.0.0.1:@{[ $t->port('dead') ]} route=dead
BalancerMember http://127.0.0.1:@{[ $t->port('full') ]} route=full
BalancerMember http://localhost:@{[ $n1->port ]} route=byname
BalancerMember h2c://127.0.0.1:@{[ $n2->port ]} route=h2c
BalancerMember unix:$unix_path|http://unix.example/ route=unix
BalancerMember @{[ $a1->url ]} route=a1 secret=s3cret ping=1
BalancerMember @{[ $a2->url ]} route=a2 secret=s3cret ping=1
ProxySet stickysession=JSESSIONID|jsessionid
</Proxy>
<Proxy "balancer://tls">
SSLProxyEngine on
BalancerMember $tls_url route=t1
</Proxy>
Listen 127.0.0.1:%%PORT:vhost%%
<VirtualHost 127.0.0.1:%%PORT:vhost%%>
ServerName front.example
SSLProxyEngine on
ProxyErrorOverride on
ProxyPassReverseCookieDomain node.example front.example
ProxyPassReverseCookiePath /node /front
<Proxy "balancer://tls2">
BalancerMember $tls_url/deep route=t2
</Proxy>
<Proxy "balancer://app2">
BalancerMember @{[ $n1->url ]} route=n1
</Proxy>
</VirtualHost>
<Location "/probe">
SetHandler xb-probe-test
</Location>
ProxyPass "/balancer-manager" "!"
ProxyPass "/probe" "!"
ProxyPass "/" "balancer://app/"
END
}

# Besides ssl, modules that act on each request or connection, made up or not.
my @modules = qw(ssl reqtimeout remoteip unique_id deflate session);
my $h = $t->httpd(module => 0, modules => \@modules, children => 1, port => $t->port('main'), conf => conf());
my $c = $h->client;

sub query (%arg)
{
    return '/probe?' . join '&', map { "$_=" . $arg{$_} =~ s/([^\w.-])/sprintf '%%%02X', ord $1/ger } sort keys %arg;
}

# One probe; what the thread saw.
sub probe ($route, $path = '/x', %arg)
{
    my $to = delete $arg{to} // $h->url;
    my $r = $c->get(undef, url => $to . query(balancer => 'balancer://app', route => $route, path => $path,
                                              budget => 1000 * $slow, %arg));
    return decode_json($r->{body}) if $r->{status} == 200;
    return { rc => "handler said $r->{status} $r->{error}", elapsed_ms => -1 };
}

sub is_rc ($answer, $rc, $what) { return is($answer->{rc}, $rc, $what) }

# The whole call took its budget and little more.
sub is_bounded ($answer, $budget, $what)
{
    is_rc($answer, 'late', $what);
    cmp_ok($answer->{elapsed_ms}, '<', $budget + 250 * $slow, '... in its time');
    cmp_ok($answer->{elapsed_ms}, '>=', $budget - 20, '... and not before');
    return;
}

sub headers ($server, $name) { return $server->header(($server->requests)[-1], $name) }

# ---- schemes

subtest 'http' => sub {
    my $a = probe('n1', '/cookies', cookie => 'JSESSIONID=0.n1; a=b');
    is_deeply([ @$a{qw(rc status)} ], [ 'answered', 404 ], 'any whole answer');
    is_deeply($a->{set_cookie}, [ 'JSESSIONID=1.n2; Path=/node; Domain=node.example; Secure; HttpOnly', 'b="q;x"' ],
              'cookies as they came');
    my ($req) = $n1->requests;
    is("$req->{method} $req->{uri} $req->{version}", 'HEAD /cookies HTTP/1.1', 'a HEAD');
    is(headers($n1, 'Cookie'), 'JSESSIONID=0.n1; a=b', 'the cookie');
    is(headers($n1, 'Host'), '127.0.0.1:' . $n1->port, "the member's own Host");
    is_rc(probe('byname'), 'answered', 'a member by name, whatever addresses that has');
    is_rc(probe('h2c'), 'answered', 'an h2c member, in HTTP/1.1');
    is_rc(probe('n1', '/early'), 'answered', 'interim answers are passed over');
};

subtest 'the headers that were asked for' => sub {
    my %arg = (host => 'app.example:8443', proto => 'https', for => '10.1.2.3, 10.9.9.9',
               authorization => 'Basic eA==');
    is_rc(probe('n1', '/x', %arg), 'answered', 'answered');
    my %got = map { $_ => headers($n1, $_) } qw(Host X-Forwarded-Proto X-Forwarded-For X-Forwarded-Host
        X-Forwarded-Server Authorization Connection);
    is_deeply(\%got, { 'Host' => 'app.example:8443', 'X-Forwarded-Proto' => 'https',
        'X-Forwarded-For' => '10.1.2.3, 10.9.9.9', 'X-Forwarded-Host' => 'app.example:8443',
        'X-Forwarded-Server' => '127.0.0.1', 'Authorization' => 'Basic eA==', 'Connection' => 'Keep-Alive' },
        'as asked');
    is_rc(probe('n1', '/x', for => '10.1.2.3'), 'answered', 'one client address');
    is(headers($n1, 'X-Forwarded-For'), '10.1.2.3', '... alone');
    $n1->clear;
    is_rc(probe('n1', '/x', $_ => "a\r\nX-Evil: 1"), 'broken', "no line break in $_")
        for qw(cookie host authorization proto for);
    is_rc(probe('n1', $_), 'broken', 'no such path') for "/x HTTP/1.1\r\nX-Evil: 1", '/a b', 'http://elsewhere/';
    is_deeply([ $n1->requests ], [], 'nothing was sent');
};

subtest 'https' => sub {
    my $a = probe('t1', '/x', balancer => 'balancer://tls');
    is_rc($a, 'answered', 'SSLProxyEngine in the <Proxy> section');
    is_deeply($a->{set_cookie}, [ 'sni=(null)', 'host=127.0.0.1:' . $tls->port ], "the member's own Host");
    my %vhost = (to => 'http://127.0.0.1:' . $t->port('vhost'), balancer => 'balancer://tls2');
    $a = probe('t2', '/x', %vhost, host => 'app.example');
    is_rc($a, 'answered', 'SSLProxyEngine in the virtual host');
    is_deeply($a->{set_cookie}, [ 'sni=app.example', 'host=app.example' ], 'SNI follows the Host');
    $a = probe('t2', '/x', %vhost);
    is_deeply($a->{set_cookie}, [ 'sni=(null)', 'host=127.0.0.1:' . $tls->port ],
              'on a new connection, when it changes');
    is_rc(probe('t2', '/x', %vhost, times => 50), 'answered', 'often');
    is_rc(probe('t2', '/x', %vhost, host => 'other.example'), 'broken', 'not a name of the certificate');
};

subtest "the virtual host's settings" => sub {
    my $a = probe('n1', '/cookies', to => 'http://127.0.0.1:' . $t->port('vhost'), balancer => 'balancer://app2');
    is($a->{status}, 404, 'ProxyErrorOverride hides no status');
    is($a->{set_cookie}[0], 'JSESSIONID=1.n2; Path=/node; Domain=node.example; Secure; HttpOnly',
       'ProxyPassReverseCookie* change no cookie');
    is(headers($n1, 'X-Forwarded-Server'), 'front.example', "the virtual host's name");
};

subtest 'unix socket' => sub {
    my $a = probe('unix', '/x', times => 3);
    is_deeply([ @$a{qw(rc set_cookie)} ], [ 'answered', ['unix=1'] ], 'answered');
};

subtest 'ajp' => sub {
    my $a = probe('a1', '/x?q=1', cookie => 'JSESSIONID=A0', host => 'app.example', proto => 'https',
                  for => '10.1.2.3');
    is_deeply([ @$a{qw(rc status set_cookie)} ],
              [ 'answered', 200, [ 'JSESSIONID=A1; Path=/', 'other=1' ] ], 'answered');
    my ($req) = $a1->records;
    is($req->{method}, 3, 'a HEAD');
    is($req->{secret}, 's3cret', 'the secret');
    is_deeply([ @$req{qw(pings uri query remote server port)} ],
              [ 1, '/x', 'q=1', '10.1.2.3', 'app.example', $h->port ], 'pinged first, and the rest');
    is($req->{headers}{cookie}, 'JSESSIONID=A0', 'the cookie');
    is($req->{headers}{'x-forwarded-for'}, '10.1.2.3', 'X-Forwarded-For');
    is($req->{headers}{'x-forwarded-proto'}, 'https', 'X-Forwarded-Proto');
    is_rc(probe('a1', '/x', times => 10), 'answered', 'again');
    my %conn = map { $_->{conn} => 1 } $a1->records;
    is(scalar keys %conn, 1, '... on one connection');
    is_rc(probe('a1', '/drop'), 'broken', 'dropped');
};

# ---- members that misbehave

subtest 'GET: the body, up to a limit' => sub {
    for my $how ('', '&chunked=1') {
        my $a = probe('n1', "/x?n=9$how", get => 1);
        is_rc($a, 'answered', "of nine bytes $how");
        is "$a->{body} $a->{body_bytes} $a->{body_cut}", 'xxxxxxxxx 9 0', 'which are there';
        $a = probe('n1', "/x?n=65536$how", get => 1);
        is "$a->{rc} $a->{body_bytes} $a->{body_cut}", 'answered 65536 0', 'of just as many as may be';
        $a = probe('n1', "/x?n=90000$how", get => 1);
        is "$a->{rc} $a->{body_bytes} $a->{body_cut}", 'answered 65536 1', 'of more: cut';
        $a = probe('n1', "/x?n=9&code=404$how", get => 1);
        is "$a->{rc} $a->{status} $a->{body_bytes}", 'answered 404 9', 'whatever the status';
    }
    my ($req) = ($n1->requests)[-1];
    is "$req->{method} $req->{uri}", 'GET /x?n=9&code=404&chunked=1', 'asked with the query';
    is_rc(probe('n1', '/x?n=300000', get => 1), 'broken', 'far too long');
    is_rc(probe('n1', '/cut?n=100', get => 1), 'broken', 'not whole');
    is_rc(probe('n1', '/trickle?n=100&ms=20', get => 1, budget => 300), 'late', 'too slow');
    is_rc(probe('n1', '/x?n=9', get => 1, times => 5), 'answered', 'again');
    my $a = probe('n1', '/x?n=9');
    is "$a->{rc} $a->{body_bytes}", 'answered 0', 'a HEAD brings none';
    is_rc(probe('a1', '/x?q=7', get => 1), 'answered', 'ajp');
    is(($a1->records)[-1]{query}, 'q=7', '... with the query');
};

subtest 'one deadline for all of it' => sub {
    is_bounded(probe('n1', '/hang', budget => 300), 300, 'no answer');
    is_bounded(probe('n1', '/drip', budget => 300), 300, 'a byte now and then');
    is_bounded(probe('n1', '/slowly', budget => 300), 300, 'headers without end');
    is_bounded(probe('full', '/x', budget => 300), 300, 'connecting hangs');
    is_bounded(probe('a1', '/hang', budget => 300), 300, 'ajp: no answer');
    is_bounded(probe('a1', '/drip', budget => 300), 300, 'ajp: a byte now and then');
    is_bounded(probe('a2', '/x', budget => 300), 300, 'ajp: the same in answer to CPING');
    is_rc(probe('n1'), 'answered', 'and afterwards all is well');
    is_rc(probe('a1'), 'answered', '... with ajp too');
};

subtest 'endless heads are cut by size' => sub {
    for my $case ([ n1 => '/endless' ], [ a1 => '/long' ]) {
        my $a = probe(@$case, budget => 5000);
        is_rc($a, 'broken', "$case->[0]: broken");
        cmp_ok($a->{elapsed_ms}, '<', 2500, '... at once');
    }
};

subtest 'no answer' => sub {
    my $a = probe('dead');
    is_rc($a, 'refused', 'nobody there');
    cmp_ok($a->{elapsed_ms}, '<', 200, '... told at once');
    is_rc(probe('n1', '/drop'), 'broken', 'closed');
    $n1->clear;
    is_rc(probe('n1', '/drop'), 'broken', 'closed, on a new connection');
    is($n1->count('/drop'), 1, '... where nothing is asked twice');
    is_rc(probe('n1', '/other'), 'broken', 'something that is not HTTP');
    is_rc(probe('n1', '/reset'), 'broken', 'reset');
    is_rc(probe('n1', '/half'), 'broken', 'half a head is no answer');
    is_rc(probe('dead'), 'refused', 'refused again');
    my $late = $t->backend('dead', port => $t->port('dead'));
    is_rc(probe('dead'), 'answered', 'a member that comes up');
    $late->stop;
    is_rc(probe('dead'), 'refused', 'and goes');
};

subtest 'connections are kept, and a dropped one is made anew once' => sub {
    probe('n1');
    $n1->clear;
    is_rc(probe('n1', '/x', times => 20), 'answered', '20 in turn');
    my %conn = map { $_->{conn} => 1 } $n1->requests;
    is(scalar keys %conn, 1, '... on one connection');
    is_rc(probe('n1', '/bye', times => 10), 'answered', 'a member that closes after each answer');
    probe('n1');
    $n1->clear;
    is_deeply(probe('n1', '/again')->{set_cookie}, ['nth=1'], 'dropped as the request came: asked again');
    is($n1->count('/again'), 2, '... two requests');
    probe('n1');
    $n1->clear;
    is_rc(probe('n1', '/drop'), 'broken', 'dropped twice');
    is($n1->count('/drop'), 2, '... two requests, no more');
    probe('n1');
    $n1->hang_up;
    is_rc(probe('n1'), 'answered', 'closed while it was idle');
    $n2->clear;
    is_rc(probe('closing', '/x', times => 3), 'answered', 'a member with disablereuse=on');
    %conn = map { $_->{conn} => 1 } $n2->requests;
    is(scalar keys %conn, 3, '... has a connection each time');
    is(headers($n2, 'Connection'), 'close', '... and is told');
};

# ---- no trace

subtest 'members that httpd itself would not ask' => sub {
    for my $state (qw(disabled stopped drain error)) {
        $h->manager('app', $n1->url, $state => 1);
        my %before = $h->members('app');
        is_rc(probe('n1'), 'answered', "$state: answered");
        my %after = $h->members('app');
        is_deeply($after{n1}, $before{n1}, "$state: unchanged ($after{n1}{status})");
        $h->manager('app', $n1->url, $state => 0);
    }
};

subtest "the real member's counters and state" => sub {
    my %before = $h->members('app');
    probe($_, '/x', budget => 200) for qw(n1 dead full unix a1 a2);
    probe('n1', $_, budget => 200) for qw(/hang /drop);
    my %after = $h->members('app');
    is_deeply(\%after, \%before, 'as before');
    unlike($after{dead}{status}, qr/Err/, 'a refused probe closes no member to traffic');
};

subtest 'traffic beside it' => sub {
    my @all;
    for my $n (0 .. 3) {
        push @all, { path => query(balancer => 'balancer://app', route => $_, path => '/x', thread => $n,
                                   times => 100, budget => 5000) } for qw(n1 a1 unix);
    }
    push @all, map { { path => "/echo?i=$_", cookie => 'JSESSIONID=1.n1' } } 1 .. 200;
    my @r = $c->many(\@all, parallel => 16);
    is(scalar(grep { $_->{status} == 200 && $_->{body} =~ /"rc":"answered"/ } @r[0 .. 11]), 12, '1200 probes');
    is(scalar(grep { $_->{status} == 200 } @r[12 .. $#r]), 200, '200 requests');
};

# ---- the end of a child

# Begins probes that last for long in each child's threads; nobody waits for them.
sub begin_hanging ($httpd)
{
    my $before = $n1->count('/hang');
    my $thread = 0;
    my %pids;
    for my $route (qw(n1 full a1 a2)) {
        my $r = $httpd->client->get(query(balancer => 'balancer://app', route => $route, async => 1, budget => 30_000,
                                          path => $route eq 'full' ? '/x' : '/hang', thread => $thread++));
        $pids{ decode_json($r->{body})->{pid} }++;
    }
    wait_for { $n1->count('/hang') > $before } 5, 'the probe to hang';
    return sort keys %pids;
}

# A request that waits for a probe.
sub begin_waiting ($httpd)
{
    my $before = $n2->count('/hang');
    $t->fork_child(name => 'waiter', code => sub {
        $httpd->client->get(query(balancer => 'balancer://app', route => 'closing', path => '/hang', thread => 4,
                                  budget => 30_000),
                            timeout => 30);
    });
    return wait_for { $n2->count('/hang') > $before } 5, 'the request to wait';
}

sub is_gone ($what, $began, @pids)
{
    wait_for { !grep { kill 0, $_ } @pids } 10, "$what: the old children to leave";
    cmp_ok(Time::HiRes::time() - $began, '<', 3 * $slow, "$what: children with hanging probes leave");
    return;
}

# Only the main thread of a child may run httpd's signal handlers.
sub check_signals ($httpd, $mpm)
{
    for my $pid ($httpd->children) {
        my @status = map { $t->slurp($_) } grep { !m{/task/$pid/} } glob "/proc/$pid/task/*/status";
        my @open = grep { /^SigBlk:\s*(\w+)/m && (hex(substr $1, -8) & 0x4200) != 0x4200 } @status;
        return is(scalar @open, 0, "$mpm: " . @status . ' threads that take neither SIGUSR1 nor SIGTERM') if @status;
    }
    return fail("$mpm: no thread found");
}

sub check_ends ($httpd, $mpm)
{
    $c->close;          # an idle client connection would keep a child of the worker MPM
    for my $how (qw(graceful restart stop)) {
        my @pids = begin_hanging($httpd);
        begin_waiting($httpd) if $mpm ne 'prefork';
        my $began = Time::HiRes::time();
        $httpd->$how;
        is_gone("$mpm, $how", $began, @pids);
        $_->hang_up for $n1, $n2, $a1, $a2;
    }
    return;
}

check_ends($h, 'event');
for my $mpm (qw(worker prefork)) {
    my $other = $t->httpd(name => $mpm, mpm => $mpm, module => 0, modules => \@modules, children => 1,
                          conf => conf() =~ s/%%PORT:vhost%%/%%PORT:vhost_$mpm%%/gr);
    my %to = (to => $other->url);
    is_rc(probe(n1 => '/x', %to, times => 5), 'answered', "$mpm: http");
    is_rc(probe(t1 => '/x', %to, balancer => 'balancer://tls', times => 5), 'answered', "$mpm: https");
    is_rc(probe(unix => '/x', %to, times => 5), 'answered', "$mpm: unix socket");
    is_rc(probe(a1 => '/x', %to, times => 5), 'answered', "$mpm: ajp");
    is_bounded(probe(n1 => '/drip', %to, budget => 300), 300, "$mpm: drip");
    check_signals($other, $mpm) if $mpm eq 'prefork';
    check_ends($other, $mpm);
}

$t->finish;
