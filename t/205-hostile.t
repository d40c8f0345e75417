# SPDX-License-Identifier: Apache-2.0
# Clients and nodes that send what nobody should: no crash, no request to anything but a member,
# no byte of it in a log line or a header of ours, and the session of others stays theirs.
use v5.36;
use Test::More;
use XB::Test;
use XB::MoveRig;
use JSON::PP;

my $t = XB::Test->new;

# Answers with the raw head that the test has written to a file.
my $raw = $t->path('answer');
my %be = map { $_ => $t->backend($_, sub ($req, $conn) {
    return 0 if $req->{path} ne '/raw';
    open my $fh, '<:raw', $raw or die "$raw: $!";
    local $/;
    $conn->write("HTTP/1.1 200 OK\r\n", <$fh>, "Content-Length: 3\r\n\r\nok\n");
    return 1;
}) } qw(n1 n2);
my $stranger = $t->backend('stranger');
my $route64 = 'r' x 63;
my $long = $t->backend($route64);
my $env = join '|', map({ "%{XNAT_BALANCE_$_}e" } qw(DECISION REASON FROM TO)),
    '%{BALANCER_WORKER_ROUTE}e';
my $members = join "\n", map { 'BalancerMember ' . $be{$_}->url . " route=$_" } sort keys %be;
my $h = $t->httpd(conf => <<"END");
LogLevel xnat_balance:trace8
LimitRequestFieldSize 65536
LimitRequestLine 65536
<Proxy "balancer://app">
$members
BalancerMember @{[ $long->url ]} route=$route64
ProxySet lbmethod=xnat stickysession=JSESSIONID|jsessionid
</Proxy>
Header always set X-Env "$env"
<Location "/status">
SetHandler xnat-balance-status
</Location>
ProxyPass "/status" "!"
ProxyPass "/balancer-manager" "!"
ProxyPass "/" "balancer://app/"
END
my $c = $h->client;
my @children = sort $h->children;

sub figures { return decode_json($h->client->get('/status?format=json')->{body}) }
sub node ($r) { return XB::Client->header($r, 'X-Node') // "status $r->{status}" }

sub is_member ($r) { return node($r) =~ /^(?:n[12]|r{63}|status 40[04])$/ }

# Bytes as they are, over a connection of their own; all that comes back.
sub send_raw ($bytes)
{
    my $sock = $c->socket;
    print $sock $bytes;
    $sock->flush;
    shutdown $sock, 1;
    local $/;
    return <$sock> // '';
}

# A session whose home and record must survive all that follows.
$c->get('/login', user => 'victim');
my $victim = $c->session('victim');
my ($base, $home) = $victim =~ /^(\w+)\.(n\d)$/;
my ($other) = grep { $_ ne $home } qw(n1 n2);

sub victim_is_well ($what)
{
    my $r = $c->get('/echo', user => 'victim');
    my $said = XB::Client->header($r, 'X-Env') // '';
    is(node($r) . " $said", "$home stayed|home|(null)|(null)|$home", "$what: others are well");
    return;
}

my $secret = 'DEADBEEFDEADBEEF';        # in all ids: must not be seen in a log

subtest 'requests' => sub {
    my %value = (
        'no id' => '', 'a separator' => '.', 'only a route' => ".$home", 'dots' => '...n1',
        'route of nobody' => "$secret.stranger", 'a URL' => "$secret.http://127.0.0.1:1/",
        'balancer' => "$secret.balancer://app", 'address' => "$secret." . $stranger->address,
        'route of 64' => "$secret." . 'r' x 64, 'route of 200' => "$secret." . 'r' x 200,
        'quotes' => qq{"$secret.$home"}, 'backslash' => "$secret\\.$home",
        'tab' => "$secret\t.$home",
        'high bytes' => "$secret\xff\xfe.$home", 'format' => "%s%n%x$secret.$home",
        'encoded CR LF' => "$secret%0d%0aX-Evil:%201.$home",
        'braces' => "\${jndi:x}$secret.$home",
        'markup' => "<script>$secret.$home", 'memcached' => "$secret set a 0 0 1.$home",
        '8 KB' => $secret . 'x' x 8192 . ".$home", '8 KB of dots' => $secret . '.' x 8192,
        '60 KB' => $secret . 'x' x 60_000, 'DEL' => "$secret\x7f.$home",
        'only node' => "-m1.$home", 'many nodes' => $secret . '-m1' x 20 . ".$home");
    my @bad;
    for my $what (sort keys %value) {
        my $v = $value{$what};
        my @r = $c->get('/echo', cookie => "JSESSIONID=$v");
        push @r, map { $c->get("/echo${_}jsessionid=$v") } ';', '?' if $v !~ /[^!-~]/;
        push @bad, map { "$what: " . node($_) } grep { !is_member($_) } @r;
    }
    my @crumbs = map { "a$_=$secret" } 1 .. 100;
    my %cookie = ('100 cookies' => join('; ', @crumbs, "JSESSIONID=$victim"),
                  '100 of the name' => join('; ', "JSESSIONID=$victim",
                                            map { "JSESSIONID=$secret.$other" } 1 .. 99),
                  'almost the name' => "JSESSIONIDJSESSIONID=x.$other; JSESSIONID=$victim",
                  'no value at its end' => 'JSESSIONID', 'only =' => '=', 'only ;' => ';;;,,,',
                  'the name twice' => "JSESSIONID=JSESSIONID=$victim");
    for my $what (sort keys %cookie) {
        my $r = $c->get('/echo', cookie => $cookie{$what});
        push @bad, "$what: $r->{status}" if !is_member($r);
        push @bad, "$what: not at home" if $what =~ /^100/ && node($r) ne $home;
    }
    is_deeply(\@bad, [], 'each goes to a member or is refused by httpd');
    victim_is_well('strange ids');
};

subtest 'raw bytes' => sub {
    my $id = "Cookie: JSESSIONID=$secret";
    my $end = "HTTP/1.1\r\nHost: x\r\n\r\n";
    my %request = (
        'NUL' => "GET /echo HTTP/1.1\r\nHost: x\r\n$id\0.$home\r\n\r\n",
        'CR' => "GET /echo HTTP/1.1\r\nHost: x\r\n$id\rX-Evil: 1.$home\r\n\r\n",
        'LF' => "GET /echo HTTP/1.1\r\nHost: x\r\n$id\nX-Seen: 1.$home\r\n\r\n",
        'folded' => "GET /echo HTTP/1.1\r\nHost: x\r\n$id\r\n .$home\r\n\r\n",
        'NUL in the path' => "GET /echo\0;jsessionid=$secret.$home $end",
        'encoded NUL' => "GET /echo%00;jsessionid=$secret.$home $end",
        'up and out' => "GET /../../echo;jsessionid=$secret.$home $end",
        'encoded CR LF' => "GET /echo;jsessionid=$secret.$home%0d%0aX-Evil:1 $end",
        'absolute' => 'GET http://' . $stranger->address . "/;jsessionid=$secret.$home $end",
        'another balancer' => "GET balancer://x/;jsessionid=$secret.$home $end",
        'CONNECT' => 'CONNECT ' . $stranger->address . " HTTP/1.1\r\nHost: x\r\n$id\r\n\r\n",
        'encoded slashes' => "GET //echo/%2e%2e/;jsessionid=$secret.$home $end",
        'semicolons' => 'GET /echo' . ";jsessionid=$secret.$home" x 500 . " $end",
        'question marks' => 'GET /echo' . "?jsessionid=" x 500 . " $end");
    $t->allow_log(qr/AH01102: error reading status line/,
                  qr/AH00898|AH01095|AH01097|AH10244|AH02658/);
    for my $what (sort keys %request) {
        my $answer = send_raw($request{$what});
        like(substr($answer, 0, 200), qr{\AHTTP/1\.1 (?:200|40\d|50[0-3]) }, $what);
        unlike($answer, qr/^X-Evil/m, 'no header of the client in the answer');
    }
    my $gone = $c->socket;              # does not wait for its answer
    print $gone "GET /hang HTTP/1.1\r\nHost: x\r\n$id.$home\r\nContent-Length: 9\r\n\r\n";
    close $gone;
    $_->hang_up for values %be;
    is($stranger->count('/'), 0, 'nothing went to a stranger');
    is(scalar(my @all = $stranger->requests), 0, 'nothing at all');
    my @evil = grep { XB::Backend->header($_, 'X-Evil') } map { $_->requests } values %be;
    is(scalar @evil, 0, 'no node saw a header made of an id');
    victim_is_well('raw bytes');
};

subtest 'answers' => sub {
    my %cookie = (
        'huge' => "Set-Cookie: JSESSIONID=$secret" . 'x' x 6000 . ".$other\r\n",
        'CR' => "Set-Cookie: JSESSIONID=$secret\rx.$other\r\n",
        'NUL' => "Set-Cookie: JSESSIONID=$secret\0x.$other\r\n",
        'LF' => "Set-Cookie: JSESSIONID=$secret\nX: x.$other\r\n",
        'no value' => "Set-Cookie: JSESSIONID\r\n",
        'no name' => "Set-Cookie: =$secret.$other\r\n",
        'empty' => "Set-Cookie:\r\n", 'only ;' => "Set-Cookie: ;;;=;;\r\n",
        'folded' => "Set-Cookie: JSESSIONID=$secret\r\n .$other\r\n",
        'route of the other' => "Set-Cookie: JSESSIONID=$secret.$other; Path=/\r\n",
        'route of nobody' => "Set-Cookie: JSESSIONID=$secret.stranger; Path=/\r\n",
        'long route' => "Set-Cookie: JSESSIONID=$secret." . 'r' x 80 . "\r\n",
        'long path' => "Set-Cookie: JSESSIONID=$secret.$home; Path=/" . 'p' x 5000 . "\r\n",
        'odd path' => "Set-Cookie: JSESSIONID=$secret.$home; Path=/a\x01b%0d%0a \r\n",
        'many' => join('', map { "Set-Cookie: JSESSIONID=$secret$_.$home; Path=/$_\r\n" }
                       1 .. 90),
        "the victim's id" => "Set-Cookie: JSESSIONID=$base.$other; Path=/\r\n",
        "the victim's end" => "Set-Cookie: JSESSIONID=; Max-Age=0; Path=/\r\n");
    $t->allow_log(qr/AH01106|AH01110|AH01102|AH00898|AH02431|AH02430|AH01104|AH10404/);
    for my $what (sort keys %cookie) {
        $t->write('answer', $cookie{$what});
        for my $at ($home, $other) {
            my $r = $c->get('/raw', cookie => "JSESSIONID=AAAA$at.$at");
            ok($r->{status} =~ /^(?:200|500|502)$/, "$what: $r->{status}");
        }
        victim_is_well($what);
        my $r = $c->get('/echo', cookie => "JSESSIONID=$secret.$other");
        like(node($r), qr/^(?:n[12]|r{63})$/, 'its session goes to a member');
    }
    # A node can end a session of its own, not one that it was not asked for.
    cmp_ok(figures()->{sessions}{remembered}, '<', 200, 'no memory is used up');
};

subtest 'the 63 characters that a route may have' => sub {
    my $r = $c->get('/echo', cookie => "JSESSIONID=${secret}0.$route64");
    is(node($r), $route64, 'are followed');
};

# HEADs are made of what was learned from clients and nodes: paths of cookies, a Host.
my $rig = XB::MoveRig->new($t, nodes => [qw(m1 m2 m3)], httpd => { name => 'moves' },
                           conf => <<'END');
ServerName good.example:80
ProxyPreserveHost On
END
my $mc = $rig->client;

# Who logs in at m1, and uses it: below this path, which is the cookie's, and with this Host.
sub enter ($user, $path, $host)
{
    my $escaped = ($path || '/') =~ s/([^\w\/])/sprintf '%%%02X', ord $1/ger;
    my @host = (Host => $host);
    $mc->get("$path/login?path=$escaped", user => $user, headers => \@host);
    my $r = $mc->get("$path/read", user => $user, headers => \@host);
    is($r->{status}, 200, "$user is in");
    return XB::FakeMsm->base($mc->session($user));
}

# All sessions but so many, which are refused, leave m1. HEADs for these, by base id.
sub drain_m1 ($stay, @bases)
{
    my $refused = $rig->refused('cookie-path-unknown');
    $rig->open;
    $rig->drain('m1');
    wait_for {
        $rig->status->{balancers}[0]{members}[0]{sessions} <= $stay
            && $rig->refused('cookie-path-unknown') >= $refused + $stay
    } 20, 'm1 to be left, and refusals of those that stay';
    my %heads = map { $_ => [] } @bases;
    push @{$heads{ XB::FakeMsm->base($_->{id}) }}, $_ for map { $_->heads } $rig->nodes;
    $rig->undrain('m1');
    $rig->only('m1');
    return %heads;
}

subtest 'a Host that one client makes up' => sub {
    $rig->only('m1');
    enter('evil1', '', 'evil.example');
    my $base = enter('good', '', 'good.example');
    enter('evil2', '', 'evil.example');
    my %heads = drain_m1(0, $base);
    my %host = map { XB::Backend->header($_, 'Host') => 1 } @{$heads{$base}};
    is_deeply([ keys %host ], [ 'good.example' ], 'is not that of HEADs for all');
};

subtest "paths of nodes' cookies" => sub {
    my @plain = ('/a', '/A-b_c.d~1', '/' . 'p' x 126);
    my @odd = ("/a'b", '/a&b=c', '/a%20b', '/a%0d%0aX', '/a,b', '/a:b', '/' . 'p' x 127,
               '/' . 'q' x 3000);
    my %base = map { $_ => enter(substr($_, 0, 9) . length, $_, 'good.example') } @plain, @odd;
    my %heads = drain_m1(scalar @odd, values %base);
    for my $path (@plain) {
        my %uri = map { $_->{uri} => 1 } @{$heads{ $base{$path} }};
        is_deeply([ keys %uri ], [ "$path/_xnat_balance_probe" ],
                  length($path) . " characters, $path: HEADs go there");
    }
    for my $path (@odd) {
        my @uris = map { $_->{uri} } @{$heads{ $base{$path} }};
        is_deeply(\@uris, [], length($path) . ' characters, ' . substr($path, 0, 20) . ': none');
    }
};

# The journal of decisions and the log must hold nothing that was not checked.
subtest 'what is left' => sub {
    is_deeply([ sort $h->children ], \@children, 'no child has died');
    my $log = $h->error_log;
    my @ours = grep { /\[xnat_balance:/ } split /\n/, $log;
    is(scalar(grep { /$secret|$base/i } @ours), 0, 'no id in a line of ours');
    is(scalar(grep { /[^ -~]/ } @ours), 0, 'and no odd byte');
    my %reason = map { ($_->{reason} // '-') => 1 } $h->access;
    is_deeply([ grep { !/^(?:[a-z]+(?:-[a-z]+)*|-)$/ } keys %reason ], [], 'reasons are words');
    my %to = map { ($_->{to} // '-') => 1 } $h->access;
    is_deeply([ grep { !/^(?:n[12]|r{63}|-)$/ } keys %to ], [], 'targets are members');
    for ('', '?format=json', '?format=prometheus') {
        unlike($h->client->get("/status$_")->{body}, qr/$secret|$base/i, "not in /status$_");
    }
    my $f;
    ok(eval { wait_for { $f = figures(); !$f->{sessions_by_state}{'in-flight'} } 5, 'rest' },
       'nothing is left in flight');
};

$t->finish;
