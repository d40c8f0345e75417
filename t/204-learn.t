# SPDX-License-Identifier: Apache-2.0
# What the module learns of sessions from nodes' answers: every form of Set-Cookie, changed ids,
# logouts; a full table forgets the right ones; no session id is ever shown.
use v5.36;
use Test::More;
use XB::Test;
use JSON::PP;

my $t = XB::Test->new;

# A node that answers with the Set-Cookie headers that the request asks for.
my %be = map { $_ => $t->backend($_, sub ($req, $conn) {
    wait_for { -e $t->path('go') } 60, 'leave' if XB::Backend->header($req, 'X-Wait');
    # Of different names, for httpd would join equal ones.
    my @set = map { XB::Backend->header($req, "X-Set$_") } 1 .. 3;
    my $code = XB::Backend->header($req, 'X-Code') // 200;
    return 0 if !@set;
    my @headers = map { ('Set-Cookie' => $_) } @set;
    $conn->respond($code, [ 'X-Node' => $conn->server->route, @headers ], "body\n");
    return 1;
}) } qw(n1 n2);
my $members = join "\n", map { 'BalancerMember ' . $be{$_}->url . " route=$_" } sort keys %be;

sub server ($name, $sessions, %opt)
{
    return $t->httpd(name => $name, %opt, conf => <<"END");
LogLevel xnat_balance:trace8
XnatBalanceSessions $sessions
<Proxy "balancer://app">
$members
ProxySet lbmethod=xnat stickysession=JSESSIONID|jsessionid
</Proxy>
Header always set X-Reason "%{XNAT_BALANCE_REASON}e"
<Location "/status">
SetHandler xnat-balance-status
</Location>
ProxyPass "/status" "!"
ProxyPass "/" "balancer://app/"
END
}

my ($h, $small) = (server('httpd', 1000), server('small', 64));
my $crowded = server('crowded', 64, threads => 64);
my $c = $h->client;
my @ids;

sub new_id
{
    push @ids, sprintf '%08X%08X', rand 2**32, rand 2**32;
    return $ids[-1];
}

sub figures ($server)
{
    return decode_json($server->client->get('/status?format=json')->{body});
}

sub node ($r) { return XB::Client->header($r, 'X-Node') // "status $r->{status}" }

# Sends a request to one node, which answers with these cookies.
sub set ($route, $cookies, %opt)
{
    my $n = 0;
    return $c->get('/x', cookie => $opt{cookie} // 'JSESSIONID=' . new_id() . ".$route",
                   method => $opt{method} // 'GET',
                   headers => [ map({ ('X-Set' . ++$n => $_) } @$cookies),
                                'X-Code' => $opt{code} // 200 ]);
}

# What the module knows of an id: home, or unknown-session (and by asking it is not any more).
sub reason ($id, $client = $c)
{
    return XB::Client->header($client->get('/echo', cookie => "JSESSIONID=$id"), 'X-Reason');
}

subtest 'forms of Set-Cookie' => sub {
    my $long = 'x' x (103 - 16 - 1 - 3);
    my @learned = (
        [ 'bare', 'JSESSIONID=%ID%' ],
        [ 'as Tomcat writes it', 'JSESSIONID=%ID%; Path=/; Secure; HttpOnly; SameSite=Lax' ],
        [ 'without blanks', 'JSESSIONID=%ID%;path=/;httponly' ],
        [ 'with more blanks', '  JSESSIONID = %ID% ;  Path = / ' ],
        [ 'with a life',
          'JSESSIONID=%ID%; Max-Age=3600; Expires=Thu, 01 Jan 2099 00:00:00 GMT' ],
        [ 'with an odd path', 'JSESSIONID=%ID%; Path="/a b"' ],
        [ 'among others', 'a=b', 'JSESSIONID=%ID%', 'c=JSESSIONID=x' ],
        [ 'the last of two', 'JSESSIONID=other.n1', 'JSESSIONID=%ID%' ],
        [ 'with a memcached node', 'JSESSIONID=%ID-m1%' ],
        [ 'longest', "JSESSIONID=%ID-$long%" ]);
    my @not = (
        [ 'another name', 'XJSESSIONID=%ID%' ], [ 'another case', 'jsessionid=%ID%' ],
        [ 'nested', 'a=JSESSIONID=%ID%' ], [ 'deleted', 'JSESSIONID=%ID%; Max-Age=0' ],
        [ 'deleted long ago', 'JSESSIONID=%ID%; max-age=-1' ],
        [ 'the last is deleted', 'JSESSIONID=%ID%', 'JSESSIONID=; Max-Age=0' ],
        [ 'no cookie', '%ID%' ]);
    my @case = (map({ [ home => @$_ ] } @learned), map({ [ 'unknown-session' => @$_ ] } @not));
    for (@case) {
        my ($want, $what, @cookies) = @$_;
        my $id = new_id();
        s/%ID([^%]*)%/$id .= "$1.n1"/e for @cookies;
        set('n1', \@cookies);
        is(reason($id), $want, $what);
    }
    for (201, 204, 302, 304, 401, 404, 500, 503) {
        my $id = new_id() . '.n1';
        is(set('n1', [ "JSESSIONID=$id" ], code => $_)->{status}, $_, "status $_");
        is(reason($id), 'home', 'is learned from');
    }
    my $id = new_id() . '.n1';
    set('n1', [ "JSESSIONID=$id" ], method => 'HEAD');
    is(reason($id), 'home', 'so is HEAD');
};

subtest 'ids that are not followed' => sub {
    my $before = figures($h)->{sessions}{remembered};
    my $new = new_id();
    set('n1', [ "JSESSIONID=$_" ], cookie => "JSESSIONID=$new.n1")
        for $new, ".n1", 'x' x 101 . '.n1', 'x' x 5000 . '.n1', "$new!.n1", "\"$new.n1\"",
            "$new\xe4.n1", "a b.n1", "-m1.n1", '%0d%0a.n1', 'x' x 300;
    is(figures($h)->{sessions}{remembered}, $before + 1, 'only that of the requests is there');
    is(reason("$new.n1"), 'home', 'and it stays');
};

subtest 'login and logout' => sub {
    my $count = sub { figures($h)->{sessions}{remembered} };
    my ($one, $two, $other, $three) = map { new_id() . '.n1' } 1 .. 4;
    set('n1', [ "JSESSIONID=$one; Path=/" ]);
    my $n = $count->();
    set('n1', [ "JSESSIONID=$two; Path=/" ], cookie => "JSESSIONID=$one");
    is($count->(), $n, 'a new id takes the place of the old one');
    is(figures($h)->{sessions_by_state}{ended}, 0, 'which is gone');
    is(reason($two), 'home', 'it is known');
    is(reason($one), 'unknown-session', 'the old one is not');
    set('n1', [ "JSESSIONID=$other; Path=/other" ], cookie => "JSESSIONID=$two");
    is(reason($other), 'home', 'a session of another path');
    is(reason($two), 'home', 'lives beside it');
    set('n1', [ 'JSESSIONID=; Path=/other; Max-Age=0' ], cookie => "JSESSIONID=$two");
    is(reason($two), 'home', 'the end of another path is not its own');
    set('n1', [ 'JSESSIONID=; Path=/; Max-Age=0' ], cookie => "JSESSIONID=$two");
    is(reason($two), 'unknown-session', 'its logout is');
    set('n1', [ "JSESSIONID=$three" ]);
    set('n1', [ 'JSESSIONID=x; Max-Age=0' ], cookie => "JSESSIONID=$three");
    is(reason($three), 'unknown-session', 'without a path');
    # A full record, which a client's word alone does not make.
    my $f = figures($h)->{sessions_by_state};
    my $user = new_id() . '.n1';
    reason($user);
    my $unproven = figures($h)->{sessions_by_state}{unproven};
    is($unproven, $f->{unproven} + 1, "a client's word: unproven");
    my $login = new_id() . '.n1';
    set('n1', [ "JSESSIONID=$login; Path=/" ], cookie => "JSESSIONID=$user");
    my $now = figures($h)->{sessions_by_state};
    is("$now->{unproven} $now->{partial}", "$f->{unproven} $f->{partial}", 'after login: full');
};

subtest 'a known id from another node' => sub {
    my $id = new_id();
    set('n1', [ "JSESSIONID=$id.n1" ]);
    set('n2', [ "JSESSIONID=$id.n2" ]);
    is(node($c->get('/echo', cookie => "JSESSIONID=$id.$_")), 'n1', "$_: its home keeps it")
        for qw(n1 n2);
    my $foreign = new_id();
    set('n1', [ "JSESSIONID=$foreign.n2" ]);
    is(node($c->get('/echo', cookie => "JSESSIONID=$foreign.n2")), 'n1',
       'a session is at home where it was made');
};

subtest 'a full table' => sub {
    my $sc = $small->client;
    my @r = $sc->many([ map { { path => '/login', user => "u$_" } } 1 .. 200 ], parallel => 8);
    is(scalar(grep { $_->{status} == 200 } @r), 200, '200 logins');
    my $f = figures($small)->{sessions};
    cmp_ok($f->{remembered}, '<=', 80, "$f->{remembered} remembered");
    cmp_ok($f->{remembered}, '>=', 64, 'as many as fit');
    is($f->{remembered} + $f->{forgotten} + $f->{not_remembered}, 200, 'others are counted');
    $t->expect_log(qr/XB0203/);
    is(scalar(() = $small->error_log =~ /XB0203/g), 1, '... and that is said once');
    @r = $sc->many([ map { { path => '/echo', user => "u$_" } } 1 .. 200 ], parallel => 8);
    my @stray = grep { $sc->session("u$_") !~ /\.${\ node($r[$_ - 1]) }$/ } 1 .. 200;
    is("@stray", '', 'all are sticky');
    push @ids, map { $sc->session("u$_") =~ s/\..*//r } 1 .. 200;
};

# Requests under way keep their sessions in the table.
subtest 'a table in which nothing may be forgotten' => sub {
    my $crowd = $t->fork_child(name => 'crowd', code => sub {
        $crowded->client(timeout => 60)->many([ map {
            { path => '/echo', cookie => sprintf('JSESSIONID=%016X.n%d', $_, 1 + $_ % 2),
              headers => [ 'X-Wait' => 1 ] } } 1 .. 130 ], parallel => 130);
    });
    wait_for {
        my $busy = 0;
        $busy += $_->{busy} for map { @{$_->{members}} } @{figures($crowded)->{balancers}};
        $busy == 130;
    } 30, 'the requests to be under way';
    my $cc = $crowded->client;
    my @r = $cc->many([ map { { path => '/login', user => "c$_" } } 1 .. 40 ], parallel => 4);
    is(scalar(grep { $_->{status} == 200 } @r), 40, 'logins go on');
    my $f = figures($crowded)->{sessions};
    cmp_ok($f->{not_remembered}, '>', 10, "$f->{not_remembered} are not remembered");
    $t->expect_log(qr/XB0204/);
    is(scalar(() = $crowded->error_log =~ /XB0204: a new session is not remembered/g), 1,
       '... and that is said once');
    @r = $cc->many([ map { { path => '/echo', user => "c$_" } } 1 .. 40 ], parallel => 4);
    my @stray = grep { $cc->session("c$_") !~ /\.${\ node($r[$_ - 1]) }$/ } 1 .. 40;
    is("@stray", '', 'all are sticky');
    $t->write('go', '');
    wait_for { !$crowd->alive } 20, 'the requests to end';
    push @ids, map { $cc->session("c$_") =~ s/\..*//r } 1 .. 40;
};

subtest 'invented ids' => sub {
    $small->stop;
    $small->start;                      # an empty table
    my $sc = $small->client;
    my @r = $sc->many([ map { { path => '/login', user => "p$_" } } 1 .. 20 ], parallel => 4);
    my $n = 0;
    my %status;
    $small->client->run(parallel => 8, next => sub {
        return undef if $n++ >= 3000;
        my $id = sprintf '%08X%08X', rand 2**32, rand 2**32;
        return { path => '/bytes?n=1', cookie => "JSESSIONID=$id.n" . (1 + $n % 2) };
    }, done => sub ($r, $req) { $status{$r->{status}}++ });
    is_deeply(\%status, { 200 => 3000 }, '3000 requests');
    my $f = figures($small);
    is($f->{sessions}{forgotten}, 0, 'displace nobody');
    cmp_ok($f->{sessions}{remembered}, '<=', 80, 'and no more are remembered than fit');
    my @known = grep { reason($sc->session("p$_"), $sc) eq 'home' } 1 .. 20;
    is(scalar @known, 20, 'each session of before is known');
    $sc->get('/login', user => 'late');
    is(reason($sc->session('late'), $sc), 'home', 'and so is a new one');
    push @ids, map { $sc->session($_) =~ s/\..*//r } 'late', map { "p$_" } 1 .. 20;
};

subtest 'no id is shown' => sub {
    cmp_ok(scalar @ids, '>', 250, scalar(@ids) . ' ids');
    my $any = join '|', map { quotemeta } @ids;
    for my $server ($h, $small, $crowded) {
        my $name = $server->process->name;
        my @lines = grep { /$any/i } split /\n/, $server->error_log;
        is(scalar @lines, 0, "$name: not in the error log") or diag($lines[0]);
        for ('', '?format=json', '?format=prometheus') {
            my $page = $server->client->get("/status$_")->{body};
            unlike($page, qr/$any/i, "$name: not in /status$_");
        }
    }
};

$t->finish;
