# SPDX-License-Identifier: Apache-2.0
# A home that is down: the session's requests agree on one other node, however many come at
# once, and stay there until it is up again; bodies survive; what must not fail over does not.
use v5.36;
use Test::More;
use XB::Test;
use JSON::PP;

my $t = XB::Test->new;
my @routes = map { "n$_" } 1 .. 5;
my %be = map { $_ => $t->backend($_) } @routes, 'other';
# A kept connection would be found dead only by the request that uses it: 502, as in stock.
# Without them stock fails over after any answer that does not come.
my $list = join "\n",
    map { 'BalancerMember ' . $be{$_}->url . " route=$_ retry=1 disablereuse=On" } @routes;
my $sticky = 'stickysession=JSESSIONID|jsessionid';

my $h = $t->httpd(conf => <<"END");
LoadModule xb_meanwhile_module @{[ $t->test_module('mod_xb_meanwhile') ]}
<Proxy "balancer://app">
$list
ProxySet lbmethod=xnat $sticky
</Proxy>
<Proxy "balancer://forced">
$list
ProxySet lbmethod=xnat $sticky nofailover=On
</Proxy>
<Proxy "balancer://kept">
BalancerMember @{[ $be{n1}->url ]} route=n1
BalancerMember @{[ $be{n2}->url ]} route=n2
ProxySet lbmethod=xnat $sticky
</Proxy>
<Proxy "balancer://standby">
BalancerMember @{[ $be{n1}->url ]} route=n1 status=+D
BalancerMember @{[ $be{n2}->url ]} route=n1 status=+H
BalancerMember @{[ $be{other}->url ]} route=x
ProxySet lbmethod=xnat $sticky
</Proxy>
<Proxy "balancer://redirect">
BalancerMember @{[ $be{n1}->url ]} route=n1 redirect=y status=+D
BalancerMember @{[ $be{n3}->url ]} route=y lbset=1
BalancerMember @{[ $be{other}->url ]} route=x
ProxySet lbmethod=xnat $sticky
</Proxy>
<Proxy "balancer://bound">
BalancerMember @{[ $be{n1}->url ]} route=n1 status=+D
BalancerMember @{[ $be{other}->url ]} route=x
ProxySet lbmethod=xnat $sticky nofailover=On
</Proxy>
<Proxy "balancer://other">
BalancerMember @{[ $be{other}->url ]} route=other
ProxySet lbmethod=xnat $sticky
</Proxy>
Header always set X-Xnat "%{XNAT_BALANCE_DECISION}e %{XNAT_BALANCE_FROM}e %{XNAT_BALANCE_TO}e"
Header always set X-Changed "%{BALANCER_ROUTE_CHANGED}e %{BALANCER_WORKER_ROUTE}e"
<Location "/status">
SetHandler xnat-balance-status
</Location>
ProxyPass "/status" "!"
ProxyPass "/balancer-manager" "!"
ProxyPass "/other" "balancer://other/"
ProxyPass "/standby" "balancer://standby"
ProxyPass "/redirect" "balancer://redirect"
ProxyPass "/bound" "balancer://bound"
ProxyPass "/kept" "balancer://kept"
ProxyPass "/forced" "balancer://forced/"
ProxyPass "/" "balancer://app/"
END
my $c = $h->client;

# httpd says so of each connection that is refused.
$t->allow_log(qr/AH00957/, qr/AH00959/, qr/AH00940/, qr/AH01114/, qr/AH01102/,
              qr/AH00898/);

sub node ($r) { return XB::Client->header($r, 'X-Node') // "status $r->{status}" }
sub says ($r) { return XB::Client->header($r, 'X-Xnat') // '' }

# How many answers of each text.
sub tally (@texts)
{
    my %n;
    $n{$_}++ for @texts;
    return \%n;
}

# A session that nobody has seen yet follows its route as soon as httpd tries that node again.
sub wait_until_up ($route)
{
    state $n = 0;
    wait_for {
        $n++;
        node($c->get('/echo', cookie => "JSESSIONID=D$n.$route")) eq $route;
    } 10, "$route to be up";
    return;
}

sub at_once ($n, %req) { return $c->many([ map { { path => '/echo', %req } } 1 .. $n ]) }

sub login ($user)
{
    $c->get('/login', user => $user);
    my ($route) = ($c->session($user) // '') =~ /\.(n\d)$/;
    return $route;
}

my (%home, %users);
for my $user (map { "u$_" } 1 .. 20) {
    $home{$user} = login($user);
    push @{$users{ $home{$user} }}, $user;
}
my ($dead) = sort { @{$users{$b}} <=> @{$users{$a}} } keys %users;
my @moved = @{$users{$dead}};
my %new_home;

subtest 'all requests of a session agree' => sub {
    $be{$dead}->stop;
    for my $user (@moved) {
        my @r = at_once(12, user => $user);
        my $nodes = tally(map { node($_) } @r);
        is(scalar keys %$nodes, 1, "$user: one node") or diag(explain $nodes);
        ($new_home{$user}) = keys %$nodes;
        isnt($new_home{$user}, $dead, 'another');
        my $said = tally(map { says($_) } @r);
        my $to = "$dead $new_home{$user}";
        cmp_ok($said->{"failover $to"} // 0, '>=', 1, 'failover');
        is(($said->{"failover $to"} // 0) + ($said->{"straggler $to"} // 0), 12, 'or after it')
            or diag(explain $said);
        is_deeply(tally(map { XB::Client->header($_, 'X-Changed') } @r),
                  { "1 $new_home{$user}" => 12 }, 'BALANCER_ROUTE_CHANGED');
    }
    my $f = decode_json($c->get('/status?format=json')->{body});
    my ($app) = grep { $_->{name} eq 'balancer://app' } @{$f->{balancers}};
    my %counted = map { $_->{route} => $_->{failed_over} } @{$app->{members}};
    my $n = tally(values %new_home);
    is($counted{$_}, 0, "failed_over of $_: nobody came there") for grep { !$n->{$_} } @routes;
    cmp_ok($counted{$_}, '>=', $n->{$_}, "failed_over of $_: who came there") for keys %$n;
};

subtest 'a session that the table does not know' => sub {
    for my $i (1 .. 4) {
        my $id = sprintf '%032X', $i;
        my @r = at_once(12, cookie => "JSESSIONID=$id.$dead");
        my $nodes = tally(map { node($_) } @r);
        is(scalar keys %$nodes, 1, 'one node') or diag(explain $nodes);
        my $then = $c->get('/echo', cookie => "JSESSIONID=$id.$dead");
        is(node($then), (keys %$nodes)[0], 'stays');
    }
};

subtest 'bodies' => sub {
    for my $size (0, 1, 10_000, 300_000) {
        my $id = sprintf 'B%031X', $size;
        my $r = $c->post('/upload', undef, size => $size, cookie => "JSESSIONID=$id.$dead");
        my $said = $r->{status} == 200 ? decode_json($r->{body}) : {};
        is("$r->{status} " . ($said->{body_length} // ''), "200 $size", "$size bytes");
        is($said->{body_sum}, $size * ord('u') % 2**32, 'are the same');
    }
};

subtest 'the new home dies too' => sub {
    my $user = $moved[0];
    my $second = $new_home{$user};
    $be{$second}->stop;
    my $nodes = tally(map { node($_) } at_once(12, user => $user));
    is(scalar keys %$nodes, 1, 'one node') or diag(explain $nodes);
    my ($third) = keys %$nodes;
    ok($third ne $second && $third ne $dead, 'where the session has never been');
    $be{$second}->start;
    wait_until_up($second);
    $new_home{$user} = $third;
};

subtest 'they go back when the old home is up, as with any method' => sub {
    $be{$dead}->start;
    wait_until_up($dead);
    for my $user (@moved) {
        is(node($c->get('/echo', user => $user)), $dead, "$user goes back");
        is_deeply(tally(map { node($_) } at_once(4, user => $user)), { $dead => 4 }, 'as a whole');
        $new_home{$user} = $dead;
    }
    my ($stayed) = grep { $home{$_} ne $dead } sort keys %home;
    is(node($c->get('/echo', user => $stayed)), $home{$stayed}, 'others were never moved');
};

# Two requests at once are at one node, also when their own is up again.
subtest 'not under a request that is on its way' => sub {
    my $id = "ABCDEF03.$dead";
    my $switch = sub ($off) { $h->manager('app', $be{$dead}->url, disabled => $off) };
    $switch->(1);
    my $stand_in = node($c->get('/echo', cookie => "JSESSIONID=$id"));
    my $slow = delayed('3000', $id);
    wait_for { in_flight() } 5, 'it to be under way';
    $switch->(0);
    is(node($c->get('/echo', cookie => "JSESSIONID=$id")), $stand_in, 'both stay');
    is($slow->(), $stand_in, 'where the first one went');
    is(node($c->get('/echo', cookie => "JSESSIONID=$id")), $dead, 'then the session goes back');
};

subtest 'nobody is left' => sub {
    my $user = $moved[0];
    $be{$_}->stop for @routes;
    $t->expect_log(qr/AH01114/);
    $t->allow_log(qr/AH01167: balancer:\/\/app: All workers are in error state/);
    is($c->get('/echo', user => $user)->{status}, 503, 'a known session');
    is($c->get('/echo')->{status}, 503, 'a new one');
    is($c->get('/echo', cookie => 'JSESSIONID=AB.n1')->{status}, 503, 'an unknown one');
    $be{$_}->start for @routes;
    wait_for { my $r = $c->get('/echo', user => $user); $r->{status} == 200 } 10,
        'service';
    my $nodes = tally(map { node($_) } at_once(8, user => $user));
    is(scalar keys %$nodes, 1, 'one node again') or diag(explain $nodes);
};

subtest 'nofailover' => sub {
    my $ask = sub { $c->get('/forced/echo', cookie => 'JSESSIONID=ABCDEF.n1') };
    is(node($ask->()), 'n1', 'its home');
    $be{n1}->stop;
    $t->allow_log(qr/AH01167: balancer:\/\/forced: All workers are in error state for route/);
    my @status = map { $ask->()->{status} } 1 .. 3;
    is("@status", '503 503 503', 'stays there');
    is($c->get('/forced/echo')->{status}, 200, 'new sessions do not');
    $be{n1}->start;
    wait_for { node($ask->()) eq 'n1' } 10, 'it is back';
};

subtest 'no failover without need' => sub {
    my $id = 'JSESSIONID=ABCDEF07.n2';
    is(node($c->get('/kept/echo', cookie => $id)), 'n2', 'at home');
    my @bad = ('/drop', '/cut?n=5', '/echo?code=503', '/echo?code=500');
    $t->allow_log(qr/AH01102: error reading status line/, qr/AH00898/, qr/AH01110/);
    for (@bad) {
        $c->get("/kept$_", cookie => $id);
        is(node($c->get('/kept/echo', cookie => $id)), 'n2', "$_: it stays");
    }
};

# The other balancer sees this one's cookie: it must neither follow nor change that.
subtest 'two balancers' => sub {
    my $user = 'u31';
    my $home = login($user);
    for (1 .. 3) {
        my $r = $c->get('/other/echo', user => $user);
        is(node($r), 'other', 'to the other one');
        is(says($r), 'elected (null) (null)', 'elected');
        is(node($c->get('/echo', user => $user)), $home, 'at home in this one');
    }
    is(says($c->get('/echo', user => $user)), 'stayed (null) (null)', 'as before');
    # Nor when it has left the route that its cookie names.
    $h->manager('app', $be{$home}->url, disabled => 1);
    my $new = node($c->get('/echo', user => $user));
    for (1 .. 3) {
        is(node($c->get('/other/echo', user => $user)), 'other', 'to the other one');
        is(node($c->get('/echo', user => $user)), $new, 'at its new home in this one');
    }
    $h->manager('app', $be{$home}->url, disabled => 0);
};

# Of a session that lives behind another balancer only its id counts, as if it were unknown.
subtest 'two balancers, and a route that both have' => sub {
    my $id = 'ABCDEF04.n1';
    $c->get('/echo', cookie => "JSESSIONID=$id");
    $h->manager('app', $be{n1}->url, disabled => 1);
    my $home = node($c->get('/echo', cookie => "JSESSIONID=$id"));
    like($home, qr/^n[2-5]$/, 'it has left that route');
    my $ask = sub ($balancer) { return node($c->get("/$balancer/echo", cookie => "JSESSIONID=$id")) };
    $t->allow_log(qr/AH01170: balancer:\/\/bound: All workers are in error state/);
    is($ask->('standby'), 'n2', "its route's standby");
    is($ask->('redirect'), 'n3', "its route's redirect");
    is($ask->('bound'), 'status 503', 'nofailover');
    is($ask->('other'), 'other', 'a balancer that does not know the route');
    $h->manager('app', $be{n1}->url, disabled => 0);
};

# A request that waits between the choice of its worker and its sending; node() of its answer.
sub delayed ($delays, $id)
{
    my $sock = $c->socket;
    print $sock "GET /echo HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Delay: $delays\r\n",
        "Cookie: JSESSIONID=$id\r\n\r\n";
    $sock->flush;
    return sub {
        my $answer = do { local $/; <$sock> };
        return $answer =~ /^X-Node: (\w+)/m ? $1 : $answer;
    };
}

sub in_flight
{
    my $f = decode_json($c->get('/status?format=json')->{body});
    return $f->{sessions_by_state}{'in-flight'};
}

subtest 'a request on its way to the old home' => sub {
    my $home = 'n5';
    my $id = "ABCDEF01.$home";
    wait_until_up($home);
    $c->get('/echo', cookie => "JSESSIONID=$id");
    my $late = delayed('400', $id);
    wait_for { in_flight() } 5, 'it to be under way';
    $be{$home}->stop;
    my $new = node($c->get('/echo', cookie => "JSESSIONID=$id"));
    isnt($new, $home, 'another fails over');
    is($late->(), $new, 'it does so too, to the same node');
    is(node($c->get('/echo', cookie => "JSESSIONID=$id")), $new, 'where the session stays');
};

subtest 'a request that has failed over but is not there yet' => sub {
    my $id = 'ABCDEF02.n5';             # which is down
    my $first = delayed('400,400', $id);    # at its second attempt, if it makes two
    wait_for { in_flight() } 5, 'it to be under way';
    # Whoever was best is so no longer.
    $c->get('/echo') for 1 .. 10;
    my @r = map { node($c->get('/echo', cookie => "JSESSIONID=$id")) } 1 .. 2;
    my $new = $first->();
    is("@r", "$new $new", 'decides for those that come later');
};

subtest 'nothing is left counted' => sub {
    my $f;
    wait_for {
        $f = decode_json($c->get('/status?format=json')->{body});
        !$f->{sessions_by_state}{'in-flight'} && !grep { $_->{busy} } map { @{$_->{members}} }
            @{$f->{balancers}};
    } 5, 'all to end';
    my ($app) = grep { $_->{name} eq 'balancer://app' } @{$f->{balancers}};
    my $n = 0;
    $n += $_->{failed_over} for @{$app->{members}};
    cmp_ok($n, '>=', @moved, "$n counted as failed over");
    cmp_ok($f->{requests_by_decision}{failover}, '>=', @moved, 'and decided so');
};

$t->finish;
