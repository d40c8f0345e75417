# SPDX-License-Identifier: Apache-2.0
# The module's own counters: they grow while a transfer runs, count tunnels and HTTP/2 and AJP
# members, are exact over children and threads, and outlive restarts and killed children.
use v5.36;
use Test::More;
use XB::Test;
use XB::Ajp;
use XB::Deps;
use JSON::PP;

my $t = XB::Test->new;
my %be = map { $_ => $t->backend($_) } qw(n1 n2 one t1);
my $ajp = XB::Ajp->new($t, 'a1');
my $mine = $t->port('h2');
my $sticky = 'stickysession=JSESSIONID|jsessionid';

# An HTTP/2 node: httpd itself, with a file of known length and somebody who reads uploads.
my $h2 = $t->httpd(name => 'h2node', module => 0, port => $mine,
                   conf => "Protocols h2c http/1.1\nProxyPass /up " . $be{one}->url . "\n");
$t->write('h2node/htdocs/file', 'x' x 150_000);

my $tls = $t->port('tls');
my ($key, $cert) = map { $t->path($_) } 'key.pem', 'cert.pem';
my @ec = qw(-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 3 -subj /CN=x);
my $made = `openssl req -x509 @ec -keyout '$key' -out '$cert' 2>&1`;
is($?, 0, 'a certificate') or diag($made);
$t->allow_log(qr/\[ssl:warn\]/);

my $h = $t->httpd(children => 2, threads => 16, modules => ['ssl'], conf => <<"END");
Listen 127.0.0.1:$tls
<VirtualHost 127.0.0.1:$tls>
ServerName tls.example
Protocols h2 http/1.1
SSLEngine On
SSLCertificateFile $cert
SSLCertificateKeyFile $key
</VirtualHost>
<Proxy "balancer://tls">
BalancerMember @{[ $be{t1}->url ]} route=t1
ProxySet lbmethod=xnat $sticky
</Proxy>
ProxyPass "/tls" "balancer://tls"
<Proxy "balancer://app">
BalancerMember @{[ $be{n1}->url ]} route=n1
BalancerMember @{[ $be{n2}->url ]} route=n2
ProxySet lbmethod=xnat $sticky
</Proxy>
<Proxy "balancer://one">
BalancerMember @{[ $be{one}->url ]} route=one upgrade=websocket
ProxySet lbmethod=xnat $sticky
</Proxy>
<Proxy "balancer://h2">
BalancerMember h2c://127.0.0.1:$mine route=h2
ProxySet lbmethod=xnat $sticky
</Proxy>
<Proxy "balancer://ajp">
BalancerMember @{[ $ajp->url ]} route=a1
ProxySet lbmethod=xnat $sticky
</Proxy>
<Location "/status">
SetHandler xnat-balance-status
</Location>
ProxyPass "/status" "!"
ProxyPass "/balancer-manager" "!"
ProxyPass "/one" "balancer://one"
ProxyPass "/h2" "balancer://h2"
ProxyPass "/ajp" "balancer://ajp"
ProxyPass "/" "balancer://app/"
END
my $c = $h->client;

# Asked again if the child that was to answer is killed.
sub figures
{
    my $r;
    wait_for { $r = $h->client->get('/status?format=json'); $r->{status} } 5, 'an answer';
    return decode_json($r->{body});
}

# Members by route, over all balancers: the routes differ. The other virtual host has all of
# them too, and gets requests for one.
sub members
{
    my @all = @{figures()->{balancers}};
    my @used = grep { ($_->{vhost} =~ /^tls/) == ($_->{name} =~ /tls$/) } @all;
    return map { $_->{route} => $_ } map { @{$_->{members}} } @used;
}

sub member ($route) { my %m = members(); return $m{$route} }

# What came to a member since the last call.
my %before;

sub since ($route)
{
    my $now = member($route);
    my $then = $before{$route} // {};
    $before{$route} = $now;
    my @keys = qw(bytes_in bytes_out requests elected);
    return { map { $_ => $now->{$_} - ($then->{$_} // 0) } @keys };
}

sub quiet
{
    wait_for { my %m = members(); !grep { $_->{busy} } values %m } 5, 'requests to end';
    return;
}

# Whether a figure passes each mark as soon as so many bytes have been sent, and none later.
sub grows ($what, $route, $key, $step, @marks)
{
    my $base = $before{$route}{$key} // 0;
    my $at = 0;
    for my $mark (@marks) {
        $step->($mark - $at);
        $at = $mark;
        my $seen = 0;
        eval { wait_for { ($seen = member($route)->{$key} - $base) >= $mark } 5, $what };
        ok($seen >= $mark && $seen < $mark + 2000, "$what: $mark bytes") or diag($seen);
    }
    return;
}

subtest 'while an upload runs' => sub {
    since('one');
    my $sock = $c->socket;
    print $sock "POST /one/upload HTTP/1.1\r\nHost: x\r\nConnection: close\r\n",
        "Content-Length: 500000\r\n\r\n";
    $sock->flush;
    grows('upload', 'one', 'bytes_in', sub ($n) { print $sock 'u' x $n; $sock->flush },
          100_000, 250_000, 400_000);
    is(member('one')->{busy}, 1, 'busy');
    print $sock 'u' x 100_000;
    $sock->flush;
    like(do { local $/; <$sock> }, qr/"body_length":500000/, 'it arrives');
    quiet();
    is(since('one')->{bytes_in}, 500_000, 'counted once');
};

subtest 'while a download runs' => sub {
    my $sock = $c->socket;
    print $sock "GET /one/trickle?n=40&ms=100 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    $sock->flush;
    my $base = $before{one}{bytes_out};
    my @seen;
    wait_for {
        my $n = member('one')->{bytes_out} - $base;
        push @seen, $n if !@seen || $seen[-1] != $n;
        @seen > 5;
    } 8, 'bytes to come';
    is_deeply([ grep { $_ > 40 + 500 } @seen ], [], "few at a time: @seen");
    is(member('one')->{busy}, 1, 'while it runs');
    like(do { local $/; <$sock> }, qr/x{40}$/, 'it ends');
    quiet();
    my $out = since('one')->{bytes_out};
    ok($out >= 40 && $out < 600, "$out bytes in all");
};

subtest 'WebSocket' => sub {
    my $sock = $c->socket;
    print $sock map { "$_\r\n" }
        'GET /one/ws HTTP/1.1', 'Host: x', 'Upgrade: websocket', 'Connection: Upgrade', '';
    $sock->flush;
    like(scalar <$sock>, qr/ 101 /, 'switched');
    1 while (<$sock> ne "\r\n");
    my $echo = sub ($n) {
        print $sock 'w' x $n;
        $sock->flush;
        my $back;
        read $sock, $back, $n;
    };
    grows('to the node', 'one', 'bytes_in', $echo, 10_000, 60_000);
    my $one = member('one');
    my $out = $one->{bytes_out} - $before{one}{bytes_out};
    ok($out >= 60_000 && $out < 62_000, "$out bytes back");
    is($one->{busy}, 1, 'busy');
    close $sock;
    quiet();
    my $all = since('one');
    is($all->{bytes_in}, 60_000, 'no more in');
    ok($all->{bytes_out} >= 60_000 && $all->{bytes_out} < 62_000, 'nor out');
    is($all->{requests}, 1, 'a request');
};

subtest 'HTTP/2 member' => sub {
    my $r = $c->get('/h2/file');
    is("$r->{status} $r->{length}", '200 150000', 'its file');
    is($c->post('/h2/up/upload?n=10', undef, size => 250_000)->{length}, 10, 'an upload');
    quiet();
    my $all = since('h2');
    is("$all->{bytes_in} $all->{bytes_out}", '250000 150010', 'bytes');
    is("$all->{requests} $all->{elected}", '2 2', 'requests, elections');
};

# Streams of one connection run side by side, on threads that are not the MPM's.
subtest 'HTTP/2 clients' => sub {
    my $curl = XB::Deps->path('curl');
    my $cookie = 'JSESSIONID=ABCDEF02.t1';
    my @urls = map { "-o /dev/null 'https://127.0.0.1:$tls/tls/bytes?n=1000&i=$_'" } 1 .. 40;
    my @opt = (qw(-skZ --no-progress-meter --http2 -w),
               "'%{http_version} %{http_code} %{num_connects},'");
    my $said = `'$curl' @opt -b '$cookie' @urls`;
    is($said =~ s/2 200 [01],//gr, '', '40 answers');
    cmp_ok(scalar(() = $said =~ / 0,/g), '>', 30, 'as streams of few connections');
    quiet();
    my $all = since('t1');
    is("$all->{requests} $all->{elected} $all->{bytes_out}", '40 0 40000', 'are counted');
    is(figures()->{sessions_by_state}{'in-flight'}, 0, 'no session is left in flight');
    is(figures()->{sessions}{uncounted_requests}, 0, 'none went uncounted');
};

subtest 'AJP member' => sub {
    is($c->get('/ajp/x')->{status}, 200, 'an answer');
    $c->get('/ajp/x', cookie => 'JSESSIONID=ABCDEF01.a1');
    quiet();
    my $all = since('a1');
    is("$all->{requests} $all->{elected}", '2 1', 'requests, elections');
};

my ($requests, $up, $down) = (0, 0, 0);

sub totals ($what)
{
    quiet();
    my %m = members();
    my %sum;
    for my $key (qw(requests bytes_in bytes_out)) {
        $sum{$key} = $m{n1}{$key} + $m{n2}{$key};
    }
    is($sum{requests}, $requests, "$what: $requests requests");
    is($sum{bytes_in}, $up, "$what: $up bytes in");
    ok($sum{bytes_out} >= $down, "$what: at least $down bytes out");
    is($sum{bytes_out}, $down, "$what: exactly");
    return;
}

subtest 'exact over children and threads' => sub {
    my $n = 1200;
    my $i = 0;
    $h->client->run(parallel => 8, next => sub {
        return undef if $i++ >= $n;
        my %keep = (keep => $i % 3 ? 1 : 0, discard => 1);
        return { path => '/bytes?n=3000', %keep } if $i % 4;
        return { path => '/upload?n=100', method => 'POST', size => 1000, %keep };
    }, done => sub ($r, $req) {
        $requests++;
        $up += $req->{size} // 0;
        $down += $r->{length};
        fail("status $r->{status} $r->{error}") if $r->{status} != 200 || $r->{error};
    });
    totals('in all');
    my %m = members();
    ok((grep { $m{$_}{requests} > $n / 4 } qw(n1 n2)) == 2, 'both had their part');
};

subtest 'a graceful restart' => sub {
    my @old = $h->children;
    my $sock = $c->socket;              # a request that spans it
    print $sock "GET /bytes?n=10&ms=1500 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    $sock->flush;
    wait_for { my %m = members(); $m{n1}{busy} + $m{n2}{busy} } 5, 'it to be under way';
    $h->graceful;
    my %m = members();
    is($m{n1}{busy} + $m{n2}{busy}, 1, 'it is still under way');
    $h->client->get('/bytes?n=10', keep => 0) for 1 .. 10;
    like(do { local $/; <$sock> }, qr/x{10}$/, 'and ends well');
    $requests += 11;
    $down += 110;
    totals('after it');
};

subtest 'a child that is killed' => sub {
    $c->get('/login', user => "u$_") for 1 .. 8;
    quiet();
    my $before = figures();
    my @sock = map { $c->socket } 1 .. 8;
    for my $i (0 .. $#sock) {
        my $id = $c->session('u' . ($i + 1));
        my $path = $i % 2 ? '/hang' : '/trickle?n=100&ms=100';
        print {$sock[$i]} "GET $path HTTP/1.1\r\nHost: x\r\nCookie: JSESSIONID=$id\r\n\r\n";
        $sock[$i]->flush;
    }
    my $in_flight = sub { figures()->{sessions_by_state}{'in-flight'} };
    wait_for { $in_flight->() == 8 } 5, 'all to be in flight';
    my $start = time;
    for my $child ($h->children) {      # whichever has them
        $h->kill_child($child);
        last if $in_flight->() == 0;
    }
    ok(eval { wait_for { $in_flight->() == 0 } 3, 'sessions to rest' }, 'no session is busy');
    ok(eval { wait_for { my %m = members(); !grep { $_->{busy} } values %m } 3, 'members' },
       'no member is busy');
    cmp_ok(figures()->{sessions}{repaired}, '>=', 1, 'it says so');
    my $remembered = figures()->{sessions}{remembered};
    is($remembered, $before->{sessions}{remembered}, 'no session is forgotten');
    my @cookies = map { 'JSESSIONID=' . $c->session("u$_") } 1 .. 8;
    my @r = $h->client->many([ map { { path => '/echo', cookie => $_ } } @cookies ]);
    my @kept = grep { my ($route) = $c->session("u$_") =~ /\.(n\d)/;
                      XB::Client->header($r[$_ - 1], 'X-Node') eq $route } 1 .. 8;
    is(scalar @kept, 8, 'they are at home');
    $_->hang_up for values %be;
};

$t->finish;
