# SPDX-License-Identifier: Apache-2.0
# Who gets a new session: by weight, traffic and requests in flight, among those that httpd's
# own rules allow; new and recovered nodes are not flooded; balancer-manager's switches hold.
use v5.36;
use Test::More;
use XB::Test;
use JSON::PP;

my $t = XB::Test->new;
my @routes = map { "n$_" } 1 .. 5;
my %be = map { $_ => $t->backend($_) } @routes;
my $sticky = 'stickysession=JSESSIONID|jsessionid';

sub block ($name, $method, $inside, @members)
{
    my $n = 0;
    my $list = join "\n", map {
        my $node = $routes[$n++];
        my $route = $name =~ /pair/ && $node eq 'n4' ? 'n1' : $node;
        'BalancerMember ' . $be{$node}->url . " route=$route $_";
    } @members;
    return <<"END";
<Proxy "balancer://$name">
$list
ProxySet lbmethod=$method $sticky
$inside
</Proxy>
ProxyPass "/$name" "balancer://$name"
END
}

my @pair = ('', '', '', 'status=+H');
my @kinds = ('', '', 'status=+R', 'status=+H', 'lbset=1');
# One part of the score at a time: a mean that hardly changes, or requests that cost nothing.
my $bytes = "XnatBalanceRequestCost 1K\nXnatBalanceBusyHalfLife 1h";
my $busy = "XnatBalanceRequestCost 0\nXnatBalanceBusyHalfLife 50ms";
my $conf = join "\n",
    block('weights', 'xnat', $busy, 'loadfactor=1', 'loadfactor=2', 'loadfactor=3'),
    block('traffic', 'xnat', $bytes, '', ''), block('busy', 'xnat', $busy, '', ''),
    block('kinds', 'xnat', '', @kinds), block('stock', 'byrequests', '', @kinds),
    block('drain', 'xnat', '', '', '', ''), block('pair', 'xnat', '', @pair),
    block('stockpair', 'byrequests', '', @pair),
    block('redirect', 'xnat', '', 'redirect=n3', '', '', ''),
    block('forced', 'xnat', 'ProxySet nofailover=On', 'redirect=n3', '', '', ''),
    block('grow', 'xnat', "ProxySet growth=5", '', ''),
    block('back', 'xnat', '', 'retry=1', 'retry=1', 'retry=1'),
    block('switch', 'xnat', '', '', '', ''), block('pace', 'xnat', '', '', '');
my $h = $t->httpd(conf => <<"END");
<Location "/status">
SetHandler xnat-balance-status
</Location>
ProxyPass "/status" "!"
ProxyPass "/balancer-manager" "!"
$conf
END
my $c = $h->client;

sub node ($r) { return XB::Client->header($r, 'X-Node') // "status $r->{status}" }

sub tally (@nodes)
{
    my %n;
    $n{$_}++ for @nodes;
    return \%n;
}

# Where n requests without a session go, one after another.
sub elections ($name, $n) { return tally(map { node($c->get("/$name/echo")) } 1 .. $n) }

sub members ($name)
{
    my $f = decode_json($c->get('/status?format=json')->{body});
    my ($b) = grep { $_->{name} eq "balancer://$name" } @{$f->{balancers}};
    return map { $_->{route} => $_ } @{$b->{members}};
}

sub login ($name, $user)
{
    return node($c->get("/$name/login", user => $user));
}

subtest 'weights' => sub {
    my $i = 0;
    my %n;
    $h->client->run(parallel => 14, next => sub {
        return $i++ < 84 ? { path => '/weights/bytes?ms=150&n=10000' } : undef;
    }, done => sub ($r, $req) { $n{ node($r) }++ });
    my @got = map { $n{$_} // 0 } qw(n1 n2 n3);
    ok($got[0] >= 4 && $got[1] > 1.2 * $got[0] && $got[2] > 1.2 * $got[1] && $got[2] < 60,
       "1 to 2 to 3: @got");
};

subtest 'traffic' => sub {
    my $home = login('traffic', 'heavy');
    my ($other) = grep { $_ ne $home } qw(n1 n2);
    is($c->get('/traffic/bytes?n=3000000', user => 'heavy', discard => 1)->{length}, 3_000_000,
       'a download');
    is_deeply(elections('traffic', 20), { $other => 20 }, 'the other node is elected');
    my %m = members('traffic');
    cmp_ok($m{$home}{score}, '>', $m{$other}{score}, 'as the scores say');
    $c->get('/traffic/bytes?n=6000000', cookie => "JSESSIONID=AB.$other", discard => 1);
    is_deeply(elections('traffic', 20), { $home => 20 }, 'until that one had more');
};

subtest 'requests in flight' => sub {
    my $home = login('busy', 'slow');
    my ($other) = grep { $_ ne $home } qw(n1 n2);
    my @sock = map {
        my $sock = $c->socket;
        print $sock "GET /busy/hang HTTP/1.1\r\nHost: x\r\nCookie: JSESSIONID=",
            $c->session('slow'), "\r\n\r\n";
        $sock->flush;
        $sock;
    } 1 .. 5;
    wait_for { my %m = members('busy'); $m{$home}{occupancy} > 4.5 } 5, 'the mean to rise';
    my %m = members('busy');
    is($m{$home}{busy}, 5, 'in flight');
    my $n = elections('busy', 6);
    is_deeply($n, { $other => 6 }, 'the other node is elected');
    $t->expect_log(qr/AH01102: error reading status line/, qr/AH00898/);
    $_->hang_up for values %be;
    wait_for {
        my %m = members('busy');
        !$m{$home}{busy} && $m{$home}{occupancy} < 0.1;
    } 5, 'rest';
    is((keys %{elections('busy', 1)})[0], $home, 'and then this one again');
};

subtest 'slowness' => sub {
    my %id = map { $_ => "JSESSIONID=FACE0$_.$_" } qw(n1 n2);
    my %m;
    wait_for {
        for (1 .. 10) {
            $c->get('/pace/echo?ms=30', cookie => $id{n1});
            $c->get('/pace/echo', cookie => $id{n2}) for 1 .. 3;
        }
        %m = members('pace');
        $m{n1}{slowness} > 1.05;
    } 30, 'a node that answers late to be found out';
    cmp_ok($m{n2}{slowness}, '<=', 1, 'the status page says which one');
};

# Who is, in enough elections for so many: one may be behind by more than a few.
sub elected ($name, $most)
{
    my %seen;
    for (1 .. 6) {
        %seen = (%seen, %{elections($name, 8)});
        last if keys %seen >= $most;
    }
    return join ' ', sort keys %seen;
}

# Flags set in both balancers, then who is elected: as stock code would.
my @situation = (
    [ 'all well', {}, 'n1 n2' ],
    [ 'one drains', { n1 => 'drain' }, 'n2 n3' ],
    [ 'one disabled', { n1 => 'disabled' }, 'n2 n3' ],
    [ 'one stopped', { n2 => 'stopped' }, 'n1 n3' ],
    [ 'failed a health check', { n2 => 'hcfailed' }, 'n1 n3' ],
    [ 'both out', { n1 => 'disabled', n2 => 'stopped' }, 'n3' ],
    [ 'both drain', { n1 => 'drain', n2 => 'drain' }, 'n3' ],
    [ 'the spare too', { n1 => 'disabled', n2 => 'stopped', n3 => 'disabled' }, 'n4' ],
    [ 'and the standby', { map({ $_ => 'disabled' } qw(n1 n2 n3 n4)) }, 'n5' ],
);
for (@situation) {
    my ($what, $flags, $want) = @$_;
    subtest $what => sub {
        for my $name (qw(kinds stock)) {
            $h->manager($name, $be{$_}->url, $flags->{$_} => 1) for sort keys %$flags;
            is(elected($name, scalar split / /, $want), $want, $name);
        }
        my %m = members('kinds');
        is(join(' ', grep { $m{$_}{takes_new} } sort keys %m), $want, 'the status page knows');
        for my $name (qw(kinds stock)) {
            $h->manager($name, $be{$_}->url, $flags->{$_} => 0) for sort keys %$flags;
        }
    };
}

subtest 'drain' => sub {
    my %home = map { $_ => login('drain', $_) } map { "d$_" } 1 .. 9;
    my ($stays) = grep { $home{$_} eq 'n1' } sort keys %home;
    $h->manager('drain', $be{n1}->url, drain => 1);
    my $n = tally(map { login('drain', "e$_") } 1 .. 10);
    is($n->{n1}, undef, 'no new session');
    is(node($c->get('/drain/echo', user => $_)), $home{$_}, "$_ stays at $home{$_}")
        for sort keys %home;
    $h->manager('drain', $be{n1}->url, drain => 0);
    cmp_ok(elections('drain', 9)->{n1}, '>', 0, 'it is elected again');
    ok($stays, 'one of them was there');
};

subtest 'redirect' => sub {
    my $id = 'JSESSIONID=ABCDEF01.n1';
    is(node($c->get('/redirect/echo', cookie => $id)), 'n1', 'at home');
    $h->manager('redirect', $be{n1}->url, disabled => 1);
    is(node($c->get('/redirect/echo', cookie => $id)), 'n3', 'a known session');
    is(node($c->get('/redirect/echo', cookie => $id)), 'n3', 'again');
    my $unknown = 'JSESSIONID=ABCDEF02.n1';
    is(node($c->get('/redirect/echo', cookie => $unknown)), 'n3', 'an unknown one');
};

# The home of such a session is not what its cookie says.
subtest 'redirected sessions' => sub {
    my %url = map { $_ => $be{$_}->url } @routes;
    my %id = map { my $name = $_; $name => [ map { "JSESSIONID=$name$_.n1" } 1 .. 5 ] }
        qw(redirect forced);
    my $nodes = sub ($name) {
        return tally(map { node($c->get("/$name/echo", cookie => $_)) } @{$id{$name}});
    };
    for my $name (qw(redirect forced)) {
        $h->manager($name, $url{n1}, disabled => 0);
        is_deeply($nodes->($name), { n1 => 5 }, "$name: at home");
        $h->manager($name, $url{n1}, disabled => 1);
        is_deeply($nodes->($name), { n3 => 5 }, "$name: from n1 to n3");
        $h->manager($name, $url{n3}, disabled => 1);
    }
    $t->expect_log(qr/AH01170: balancer:\/\/forced: All workers are in error state/);
    is_deeply($nodes->('forced'), { 'status 503' => 5 }, 'nofailover: no further');
    is($c->get('/forced/echo')->{status}, 200, 'but new ones');
    $h->manager($_, $url{n3}, set => { w_rr => 'n4' }) for qw(redirect forced);
    is_deeply($nodes->($_), { n4 => 5 }, "$_: from n3 to n4") for qw(redirect forced);
};

subtest 'a standby of the same route' => sub {
    my $id = 'JSESSIONID=ABCDEF05.n1';
    my @seen;
    for my $flags ([], ['n1'], []) {
        for my $name (qw(pair stockpair)) {
            $h->manager($name, $be{n1}->url, disabled => scalar @$flags);
            push @seen, node($c->get("/$name/echo", cookie => $id));
        }
    }
    is("@seen", 'n1 n1 n4 n4 n1 n1', 'serves it meanwhile, as in stock');
    # A session that is at home at n1 since n2 was out.
    $id = 'JSESSIONID=ABCDEF06.n2';
    $h->manager('pair', $be{$_}->url, disabled => 1) for qw(n2 n3);
    is(node($c->get('/pair/echo', cookie => $id)), 'n1', 'moved to n1');
    $h->manager('pair', $be{n3}->url, disabled => 0);
    $h->manager('pair', $be{n1}->url, disabled => 1);
    is(node($c->get('/pair/echo', cookie => $id)), 'n4', "to n1's standby");
    $h->manager('pair', $be{n2}->url, disabled => 0);
    is(node($c->get('/pair/echo', cookie => $id)), 'n2', 'and back');
};

# A fair share of n: not nothing, not all.
sub fair ($what, $got, $n, $members)
{
    my $share = $n / $members;
    return ok($got && $got <= 1.5 * $share + 1, "$what: $got of $n over $members");
}

subtest 'a new member' => sub {
    elections('grow', 40);
    my $url = $be{n3}->url;
    $h->manager('grow', undef, set => { b_nwrkr => $url, b_wyes => 1 });
    is(elections('grow', 6)->{n3}, undef, 'it starts disabled');
    $h->manager('grow', $url, set => { w_wr => 'n3' }, disabled => 0);
    wait_for { (keys %{elections('grow', 1)})[0] eq 'n3' } 5, 'the mover to see it';
    fair('new member', elections('grow', 30)->{n3}, 30, 3);
    my $id = 'JSESSIONID=ABCDEF03.n3';
    is(node($c->get('/grow/echo', cookie => $id)), 'n3', 'its route is known');
};

subtest 'a member that was down' => sub {
    $t->allow_log(qr/AH00957/, qr/AH00959/, qr/AH01114/);
    elections('back', 9);
    $be{n1}->stop;
    my $n = elections('back', 60);
    is($n->{n1}, undef, 'not elected while it is down');
    is($n->{n2} + $n->{n3}, 60, 'others take over');
    $be{n1}->start;
    wait_for { (keys %{elections('back', 1)})[0] eq 'n1' } 5, 'its return';
    fair('recovered', elections('back', 30)->{n1}, 30, 3);
};

subtest 'another method and back while requests run' => sub {
    my ($i, %bad) = (0);
    $c->get('/switch/login', user => "s$_") for 1 .. 4;
    my @plan = qw(bytraffic xnat byrequests xnat bybusyness xnat);
    $h->client->run(parallel => 6, next => sub {
        if ($i % 60 == 50 && @plan) {
            $h->manager('switch', undef, lbmethod => shift @plan);
        }
        return undef if $i++ > 500;
        return { path => '/switch/bytes?n=500',
                 $i % 2 ? (cookie => 'JSESSIONID=' . $c->session('s' . (1 + $i % 4))) : () };
    }, done => sub ($r, $req) {
        my ($route) = ($req->{cookie} // '') =~ /\.(n\d)$/;
        my $ok = $r->{status} == 200 && $r->{length} == 500 && (!$route || node($r) eq $route);
        $bad{"$r->{status} $r->{error} " . node($r)}++ if !$ok;
    });
    is_deeply(\%bad, {}, 'no request fails or leaves its home');
    is(scalar @plan, 0, 'all switches were made');
    is_deeply([ grep { !/^n[123]$/ } keys %{elections('switch', 9)} ], [], 'elections go on');
};

subtest 'BalancerPersist' => sub {
    my $p = $t->httpd(name => 'persist', conf => "BalancerPersist On\n"
        . qq{ProxyPass "/balancer-manager" "!"\n} . block('app', 'xnat', '', '', '', ''));
    $p->manager('app', $be{n2}->url, drain => 1);
    my $pc = $p->client;
    $pc->get('/app/echo', user => 'x') for 1 .. 5;
    for my $how (qw(graceful restart)) {
        $p->$how;
        my $n = tally(map { node($p->client->get('/app/echo')) } 1 .. 10);
        is(join(' ', sort keys %$n), 'n1 n3', "$how: n2 still drains");
    }

    my $conf = sub ($method) {
        return "BalancerPersist On\n" . qq{ProxyPass "/balancer-manager" "!"\n}
            . block('app', $method, '', '', '', '');
    };
    $p = $t->httpd(name => 'kept', conf => $conf->('byrequests'));
    my $restart = sub { $p->stop; $p->set_conf($conf->('xnat')); $p->start };
    my $told = sub { return scalar(() = $p->error_log =~ /XB0131: .* kept byrequests: /g) };
    $restart->();
    is($told->(), 1, 'a method from before that httpd has kept is told');
    $p->manager('app', undef, lbmethod => 'xnat');
    $restart->();
    is($told->(), 1, '... and not when xnat has been chosen');
    $t->allow_log(qr/XB0131: /);
};

$t->finish;
