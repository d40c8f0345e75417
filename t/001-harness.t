# SPDX-License-Identifier: Apache-2.0
# The harness itself: stock httpd, scripted back ends, memcached, and the checks that end a test.
use v5.36;
use Test::More;
use XB::Pipe;
use XB::Test;
use JSON::PP;

my $t = XB::Test->new;
my %be = map { $_ => $t->backend($_) } qw(n1 n2);
my $h = $t->httpd(module => 0, conf => <<"END");
<Proxy "balancer://app">
BalancerMember http://127.0.0.1:@{[ $be{n1}->port ]} route=n1 upgrade=websocket
BalancerMember http://127.0.0.1:@{[ $be{n2}->port ]} route=n2 upgrade=websocket
ProxySet lbmethod=byrequests stickysession=JSESSIONID|jsessionid
</Proxy>
ProxyPass "/balancer-manager" "!"
ProxyPass "/" "balancer://app/"
END

subtest 'httpd' => sub {
    cmp_ok(scalar $h->children, '>=', 2, 'two children');
    my @old = $h->children;
    $h->graceful;
    my $gone = wait_for { my %now = map { $_ => 1 } $h->children; !grep { $now{$_} } @old } 10,
        'the old children to go';
    ok($gone, 'graceful: other children');
    my $dead = $h->kill_child;
    ok(!(grep { $_ == $dead } $h->children), 'a killed child is replaced');
    my ($status, $output) = $h->configtest('ProxyPass');
    isnt($status, 0, 'configtest refuses');
    like($output, qr/ProxyPass/, 'and says what');
    is(($h->configtest('ProxyTimeout 3'))[0], 0, 'configtest accepts');
};

subtest 'client and back end' => sub {
    my $c = $h->client;
    my @r = $c->many([ map { { path => '/login', user => "u$_" } } 1 .. 20 ], parallel => 6);
    is(scalar(grep { $_->{status} == 200 } @r), 20, '20 users log in');
    like($c->session('u1'), qr/^[0-9A-F]{32}\.n[12]$/, 'with a cookie');
    @r = $c->many([ map { { path => '/echo', user => "u$_" } } 1 .. 20 ], parallel => 20);
    for my $i (1 .. 20) {
        my ($route) = $c->session("u$i") =~ /\.(n\d)$/;
        my $said = decode_json($r[$i - 1]{body});
        next if $said->{node} eq $route && $said->{cookies}{JSESSIONID} eq $c->session("u$i");
        fail("u$i went to $said->{node} with $said->{cookies}{JSESSIONID}");
    }
    ok((grep { $_->{reused} } @r), 'connections are kept');
    is($be{n1}->count('/login') + $be{n2}->count('/login'), 20, 'the journals agree');
    is($c->get('/bytes?n=300000')->{length}, 300_000, 'download');
    is($c->get('/bytes?n=300000&chunked=1')->{length}, 300_000, 'download in chunks');
    my $received = sub ($r) { decode_json($r->{body})->{body_length} };
    is($received->($c->post('/upload', undef, size => 1_000_000)), 1_000_000, 'upload');
    my @pieces = ('abc', 'de');
    is($received->($c->post('/upload', sub { shift @pieces })), 5, 'upload in chunks');
    is($c->head('/bytes?n=10')->{length}, 0, 'HEAD has no body');
    is($c->get('/bytes?code=404&header=X-A:b')->{status}, 404, 'status');
    my $r = $c->get('/trickle?n=5&ms=10');
    is($r->{length}, 5, 'trickle');
    cmp_ok($r->{time}, '>', 0.05, 'in its time');
    $t->expect_log(qr/AH01110: error reading response/, qr/AH01102: error reading status line/);
    is($c->get('/hang', timeout => 0.3)->{error}, 'timeout', 'a hanging answer times out');
    $_->hang_up for values %be;         # or httpd would wait for it at its end
    like($c->get('/cut?n=10')->{error}, qr/truncated/, 'a cut answer is told apart');
};

subtest 'websocket' => sub {
    my $sock = $h->client->socket;
    print $sock map { "$_\r\n" }
        'GET /ws HTTP/1.1', 'Host: x', 'Upgrade: websocket', 'Connection: Upgrade', '';
    like(scalar <$sock>, qr/ 101 /, 'switched');
    1 while (<$sock> ne "\r\n");
    print $sock "hello\n";
    is(scalar <$sock>, "hello\n", 'echo');
};

subtest 'balancer-manager' => sub {
    my $url = $be{n1}->url;
    $h->manager('app', $url, drain => 1);
    my %m = $h->members('app');
    like($m{n1}{status}, qr/Drain|Drn/i, 'n1 drains');
    unlike($m{n2}{status}, qr/Dr/, 'n2 does not');
    $h->manager('app', $url, drain => 0);
    $h->manager('app', undef, lbmethod => 'bytraffic');
    like($h->manager_get->{body}, qr/bytraffic/, 'another lbmethod');
};

subtest 'a dead back end' => sub {
    $be{n1}->stop;
    $t->expect_log(qr/AH00957: .*attempt to connect to 127/, qr/AH00959: .*disabling worker/,
                   qr/AH01114: HTTP: failed to make connection/);
    my @r = $h->client->many([ map { { path => '/x' } } 1 .. 4 ], parallel => 1);
    is(scalar(grep { $_->{status} == 200 } @r), 4, 'the other one answers');
    $be{n1}->start;
    is($t->get($be{n1}->url . '/echo')->{status}, 200, 'back at the same port');
};

subtest 'a back end out of reach' => sub {
    my $pipe = XB::Pipe->new($t, 'pipe', $be{n2}->port);
    my $connect = sub { IO::Socket::IP->new(PeerAddr => $pipe->address, Timeout => 0.5) };
    my $sock = $connect->();
    my $ask = sub { syswrite $sock, "HEAD /echo HTTP/1.1\r\nHost: x\r\n\r\n" };
    my $answered = sub { IO::Select->new($sock)->can_read(0.5) && sysread $sock, my $head, 65536 };
    # Of Linux, SIOCOUTQ: bytes that the other side has not acknowledged.
    my $unheard = sub { ioctl $sock, 0x5411, my $n = pack 'i', -1; return unpack 'i', $n };
    $ask->();
    ok($answered->(), 'an answer');
    is($unheard->(), 0, 'the question was acknowledged');
    $pipe->vanish;
    my $sent = $ask->();
    ok(!$answered->(), 'no answer any more');
    is($unheard->(), $sent, '... no byte is acknowledged');
    is($connect->(), undef, 'no connection');
    like($@, qr/timed out/, '... nor a refusal');
    $pipe->lead_to($be{n1}->port);
    $pipe->restart;
    ok($sock = $connect->(), 'restarted');
    $be{n1}->clear;
    $ask->();
    ok($answered->(), '... it answers');
    is($be{n1}->count('/echo'), 1, '... from where it leads to');
};

subtest 'memcached' => sub {
    my $mc = $t->memcached;
    ok($mc->set('a', "x\r\ny"), 'set');
    ok(!$mc->add('a', 'z'), 'add keeps what is there');
    is($mc->get('a'), "x\r\ny", 'get');
    is_deeply([ $mc->keys ], ['a'], 'keys');
    ok($mc->delete('a'), 'delete');
    is($mc->get('a'), undef, 'gone');
    ok($mc->pause && $mc->cont, 'paused and continued');
    $mc->set('b', 1);
    $mc->kill;
    $mc->start;
    is($mc->get('b'), undef, 'empty after a new start');
    my $fake = $t->fake_memcached(sub ($conn, $line) {
        $conn->write("VALUE lie 0 1\r\nx\r\nEND\r\n");
    });
    my $sock = IO::Socket::IP->new(PeerHost => '127.0.0.1', PeerPort => $fake->port);
    print $sock "get truth\r\n";
    is(scalar <$sock>, "VALUE lie 0 1\r\n", 'a lying one');
    is(($fake->records)[0]{line}, 'get truth', 'keeps a journal');
};

subtest 'the check of logs' => sub {
    my $stamp = '[Sat Nov 22 10:00:00.000000 2025]';
    my @fine = ("$stamp [proxy:info] [pid 1] fine", 'text',
                "$stamp [mpm_event:notice] [pid 1] AH00489: resuming",
                "$stamp [mpm_event:error] [pid 1] AH10159: server is within MinSpareThreads");
    my @bad = ("$stamp [proxy:error] [pid 1] AH00001: a", "$stamp [core:warn] [pid 1] b",
               "$stamp [core:notice] [pid 1] AH00052: child pid 7 exit signal 11",
               '==7==ERROR: AddressSanitizer: heap-use-after-free',
               'src/x.c:1:2: runtime error: shift',
               '==7== Invalid read of size 8', "$stamp [xnat_balance:crit] c");
    my $log = join "\n", @fine, @bad;
    is_deeply([ XB::Test->unexpected($log) ], \@bad, 'finds what is unexpected');
    is_deeply([ XB::Test->unexpected($log, qr/AH00001/, qr/core:warn/) ], [ @bad[2 .. $#bad] ],
              'and lets pass what was announced');
    my $died = "[x] [core:notice] AH00052: child pid 9 exit signal Segmentation fault (11)\n";
    my $stop = "[x] [mpm_event:notice] AH00491: caught SIGTERM, shutting down\n";
    is(scalar XB::Test->unexpected("${died}[x] [core:info] AH00096: removed PID file\n$stop"), 0,
       "httpd's own crash at a stop passes");
    is(scalar XB::Test->unexpected("${died}[x] [xnat_balance:info] XB0313: the mover\n$stop"), 1,
       '... one before does not');
};

subtest 'processes' => sub {
    my $p = $t->spawn(name => 'stubborn', cmd => [ 'perl', '-e',
        'use POSIX; $SIG{TERM} = "IGNORE"; fork; $| = 1; print "up\n"; pause' ],
        ready => sub ($p) { $t->slurp($p->log) =~ /up\n.*up/s });
    is(scalar(my @two = $p->leftover), 2, 'both of a group are seen');
    $p->kill;
    is_deeply([ $p->leftover ], [], 'and ended');
    isnt($t->port('a'), $t->port('b'), 'ports differ');
    is($t->port('a'), $t->port('a'), 'and have names');
    is(eval { wait_for { 0 } 0.05, 'never'; 1 }, undef, 'wait_for gives up');
};

$t->finish;
