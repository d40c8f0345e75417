# SPDX-License-Identifier: Apache-2.0
# The status page: its figures are those of the traffic sent, its three forms are valid whatever
# names the configuration holds, and it shows no session id.
use v5.36;
use Test::More;
use XB::Test;
use JSON::PP;

my $t = XB::Test->new;
my %be = map { $_ => $t->backend($_, node => 'm1') } qw(n1 n2 n3 p1 p2 p3);
my $mc = $t->memcached;
my $port2 = $t->port('second');
my $evil = q{</td><script>alert('&amp;')</script>};
my $h = $t->httpd(conf => <<"END");
XnatBalanceMemcachedNodes "m1:@{[ $mc->address ]}"
XnatBalanceHalfLife 90s
XnatBalanceMove Off
<Proxy "balancer://app">
BalancerMember @{[ $be{n1}->url ]} route=n1
BalancerMember @{[ $be{n2}->url ]} route=n2 loadfactor=2
BalancerMember @{[ $be{n3}->url ]} route=n3
ProxySet lbmethod=xnat stickysession=JSESSIONID|jsessionid
XnatBalanceMoveThreshold 0.35
XnatBalanceRequestCost 512K
</Proxy>
<Proxy "balancer://moving">
BalancerMember @{[ $be{p1}->url ]} route=p1
BalancerMember @{[ $be{p2}->url ]} route=p2
BalancerMember @{[ $be{p3}->url ]} route=p3
ProxySet lbmethod=xnat stickysession=JSESSIONID|jsessionid
XnatBalanceMove Drain
XnatBalanceMemcachedTimeout 2s
</Proxy>
<Proxy "balancer://evil">
BalancerMember "http://127.0.0.1:9/a<b>\\"'&c" "route=$evil"
BalancerMember "http://user:hunter2\@127.0.0.1:9/" "route=a\\"b\\\\c"
ProxySet lbmethod=xnat stickysession=JSESSIONID|jsessionid
</Proxy>
<Location "/status">
SetHandler xnat-balance-status
</Location>
<Location "/server-status">
SetHandler server-status
</Location>
ProxyPass "/status" "!"
ProxyPass "/server-status" "!"
ProxyPass "/balancer-manager" "!"
ProxyPass "/evil" "balancer://evil"
ProxyPass "/moving" "balancer://moving"
ProxyPass "/" "balancer://app/"
Listen 127.0.0.1:$port2
<VirtualHost 127.0.0.1:$port2>
ServerName second.example:$port2
BalancerInherit Off
ProxyPassInherit Off
<Proxy "balancer://app">
BalancerMember @{[ $be{n1}->url ]} route=n1
</Proxy>
ProxyPass "/" "balancer://app/"
</VirtualHost>
END
my $c = $h->client;
$t->allow_log(qr/XB0117/);     # two balancers of one name: on purpose

sub status ($format = '')
{
    return $c->get('/status' . ($format && "?format=$format"));
}

sub figures { return decode_json(status('json')->{body}) }

sub balancer ($figures, $name, $vhost = qr/^127/)
{
    my @found = grep { $_->{name} eq "balancer://$name" && $_->{vhost} =~ $vhost }
        @{$figures->{balancers}};
    is(scalar @found, 1, "balancer $name of $vhost is there once");
    return $found[0];
}

sub members ($figures)
{
    return map { $_->{route} => $_ } @{balancer($figures, 'app')->{members}};
}

sub sum ($key, @records)
{
    my $sum = 0;
    $sum += $_->{$key} for @records;
    return $sum;
}

# ---- form

# Tags closed in order, attributes quoted, nothing like a tag or an entity that was not meant.
sub html_fault ($html)
{
    my @open;
    $html =~ s/\A<!DOCTYPE html>// or return 'no doctype';
    my $text = qr/(?:[^<>&]|&(?:amp|lt|gt|quot|\#39);)*/;
    while ($html =~ m{\G$text(?:<(/?)(\w+)(?:\s[\w-]+="[^"<>]*")*(/?)>|\z)}gc) {
        last if !defined $2;
        return "script" if $2 eq 'script';
        if (!$1) { push @open, $2 if !$3 }
        elsif ((pop @open // '') ne $2) { return "</$2>" }
    }
    return 'at ' . substr $html, pos($html) // 0, 80 if (pos($html) // 0) != length $html;
    return @open ? "open: @open" : '';
}

# Metric name => { labels => value }; dies on what is not the text format 0.0.4.
sub parse_prometheus ($text)
{
    my (%type, %sample, $current);
    for (split /\n/, $text) {
        if (/^# HELP ([a-z_]+) .+$/) { next }
        if (my ($metric, $type) = /^# TYPE ([a-z_]+) (counter|gauge)$/) {
            die "$metric twice\n" if $type{$metric};
            die "$metric is a $type\n" if ($type eq 'counter') != ($metric =~ /_total$/);
            $type{ $current = $metric } = $type;
            next;
        }
        my $label = qr/[a-z_]+="(?:[^"\\]|\\[\\"n])*"/;
        /^([a-z_]+)(?:\{($label(?:,$label)*)\})? (-?\d+(?:\.\d+)?|[-+]Inf|NaN)$/
            or die "line: $_\n";
        die "$1 stands apart: $_\n" if $1 ne $current;
        die "twice: $_\n" if defined $sample{$1}{$2 // ''};
        $sample{$1}{$2 // ''} = $3;
    }
    return \%sample;
}

sub prometheus { return parse_prometheus(status('prometheus')->{body}) }

subtest 'forms and methods' => sub {
    my $html = status();
    is($html->{status}, 200, 'HTML');
    is($c->header($html, 'Content-Type'), 'text/html; charset=utf-8', 'its type');
    is(html_fault($html->{body}), '', 'is well-formed');
    my $json = status('json');
    is($c->header($json, 'Content-Type'), 'application/json', 'type of JSON');
    my $figures = eval { decode_json($json->{body}) };
    ok($figures, 'which parses') or diag($@);
    my $prom = status('prometheus');
    is($c->header($prom, 'Content-Type'), 'text/plain; version=0.0.4; charset=utf-8',
       "Prometheus' type");
    ok(eval { parse_prometheus($prom->{body}) }, 'which parses') or diag($@);
    for ($html, $json, $prom) {
        is($c->header($_, 'Cache-Control'), 'no-store', 'not to be stored');
        is($c->header($_, 'X-Content-Type-Options'), 'nosniff', 'nor guessed at');
    }
    like($c->get('/status?x=y&format=json')->{body}, qr/^\{/, 'another parameter does no harm');
    is(status($_)->{status}, 400, "format=$_ is refused") for qw(xml JSON json2);
    is($c->get("/status?$_")->{status}, 400, "?$_ too") for qw(format= format);
    my $head = $c->head('/status?format=json');
    is("$head->{status} $head->{length}", '200 0', 'HEAD');
    for my $method (qw(POST PUT DELETE OPTIONS)) {
        my $r = $c->request(path => '/status', method => $method, body => 'x');
        is($r->{status}, 405, "$method is refused");
        like($c->header($r, 'Allow'), qr/\bGET\b/, 'with Allow');
        unlike($c->header($r, 'Allow'), qr/\b(?:POST|PUT|DELETE)\b/, 'which does not name it');
    }
};

subtest 'settings and balancers' => sub {
    my $f = figures();
    my $app = balancer($f, 'app');
    is("$app->{lbmethod} $app->{move}", 'xnat Off', 'method and mode in force');
    my $set = $app->{settings};
    is($set->{XnatBalanceHalfLife}, '90s', 'of the server');
    is($set->{XnatBalanceMoveThreshold}, '0.35', 'of the balancer');
    is($set->{XnatBalanceRequestCost}, '512K', 'bytes');
    is($set->{XnatBalanceMemcachedTimeout}, '50ms', 'a default');
    is($set->{XnatBalanceMoveRate}, '2/s 10', 'a rate');
    is($set->{XnatBalanceSessions}, '65536', 'of the table');
    is(balancer($f, 'evil')->{settings}{XnatBalanceMoveThreshold}, '0.20', 'not of the other');
    my $other = balancer($f, 'app', qr/^second\.example:$port2$/);
    is($other->{lbmethod}, 'byrequests', 'a balancer of another virtual host');
    is_deeply($other->{members}, [], 'whose members the module does not count');
    is_deeply([ map { "$_->{node} $_->{address}" } @{$f->{store_nodes}} ],
              [ 'm1 ' . $mc->address ], 'memcached, once');
    my %m = members($f);
    is("$m{n1}{weight} $m{n2}{weight}", '1 2', 'weights');
    is_deeply([ map { "@{$m{$_}{status}}" } sort keys %m ], [ ('Ok') x 3 ], 'all are well');
    is($f->{sessions}{capacity}, 65536, 'capacity');
    is($f->{sessions}{remembered}, 0, 'nobody there');
};

subtest 'hostile names' => sub {
    my @m = @{balancer(figures(), 'evil')->{members}};
    is($m[0]{route}, $evil, 'JSON has the name as it is');
    is($m[1]{route}, 'a"b\\c', 'and this one');
    for my $form ('', 'json', 'prometheus') {
        my $body = status($form)->{body};
        unlike($body, qr/<script>/, "no script in '$form'") if $form ne 'prometheus';
        unlike($body, qr/hunter2/, "no password of a member in '$form'");
    }
    my $p = prometheus();
    my @evil = grep { /route="a\\"b\\\\c"/ } keys %{$p->{xnat_balance_member_busy}};
    is(scalar @evil, 1, 'Prometheus has it escaped');
};

# ---- figures

my @users = map { "u$_" } 1 .. 20;
my ($requests, $up, $down) = (0, 0, 0);

sub traffic (@r)
{
    my @bad = grep { $_->{status} != 200 || $_->{error} } @r;
    is(scalar @bad, 0, scalar(@r) . ' requests went well');
    $requests += @r;
    $down += $_->{length} for @r;
    return;
}

subtest 'figures are those of the traffic' => sub {
    traffic($c->many([ map { { path => '/login', user => $_ } } @users ], parallel => 5));
    traffic($c->many([ map { { path => '/bytes?n=40000', user => $_ } } @users, @users ],
                     parallel => 5));
    my %upload = (path => '/upload', method => 'POST', size => 30_000);
    traffic($c->many([ map { { %upload, user => $_ } } @users ], parallel => 5));
    $up += 30_000 * @users;

    my ($f, %m);
    wait_for { %m = members($f = figures()); !sum(busy => values %m) } 5, 'all requests to end';
    is(sum(requests => values %m), $requests, "$requests requests");
    is(sum(elected => values %m), @users, 'one election per user');
    is(sum(bytes_in => values %m), $up, "$up bytes in");
    my $out = sum(bytes_out => values %m);
    cmp_ok($out, '>=', $down, "at least $down bytes out");
    cmp_ok($out, '<', $down + 1024 * $requests, 'and heads at most');
    for my $route (sort keys %m) {
        my $mine = grep { $c->session($_) =~ /\.$route$/ } @users;
        my $its = grep { $_->{path} ne '/' } $be{$route}->requests;
        is($m{$route}{sessions}, $mine, "sessions at $route");
        is($m{$route}{active}, $mine, 'all recently active');
        is($m{$route}{requests}, $its, "requests of $route");
        is($m{$route}{elected}, $be{$route}->count('/login'), "elected $route");
    }
    my $by = $f->{requests_by_decision};
    is($by->{elected}, @users, 'decisions: elected');
    is($by->{stayed}, $requests - @users, 'decisions: stayed');
    is(sum($_ => $by), 0, "decisions: $_") for qw(moved failover straggler refused);
    is($f->{sessions}{remembered}, @users, 'sessions remembered');
    is($f->{sessions_by_state}{stable}, @users, 'all stable');
    is($f->{sessions_by_state}{'in-flight'}, 0, 'none in flight');
    my $traffic = wait_for { %m = members(figures()); sum(traffic => values %m) } 5, 'a tick';
    cmp_ok($traffic, '>', ($up + $down) / 2, 'decayed traffic');
    for my $route (sort keys %m) {
        like($m{$route}{score}, qr/^\d+(?:\.\d+)?$/, "score of $route");
    }
};

subtest 'the forms agree' => sub {
    my ($f, $p, $html) = (figures(), prometheus(), status()->{body});
    my %m = members($f);
    for my $key (qw(requests elected bytes_in bytes_out)) {
        my $metric = $p->{"xnat_balance_member_${key}_total"};
        for my $route (sort keys %m) {
            my ($label) = grep { /^vhost="127.*:\/\/app",route="$route"/ } keys %$metric;
            is($metric->{$label}, $m{$route}{$key}, "$key of $route");
            like($html, qr/<td class="n">$m{$route}{$key}<\/td>/, 'and in HTML');
        }
    }
    is($p->{xnat_balance_sessions}{'state="stable"'}, @users, 'sessions');
    is($p->{xnat_balance_requests_total}{'decision="elected"'}, @users, 'decisions');
};

subtest 'requests in flight' => sub {
    my $sock = $c->socket;
    my $id = $c->session('u1');
    my ($route) = $id =~ /\.(n\d)$/;
    print $sock join "\r\n", 'GET /echo?ms=1000 HTTP/1.1', 'Host: x', 'Connection: close',
        "Cookie: JSESSIONID=$id", '', '';
    my $f;
    wait_for { $f = figures(); $f->{sessions_by_state}{'in-flight'} } 5, 'it to be seen';
    my %m = members($f);
    is($m{$route}{busy}, 1, "busy: $route");
    is(sum(busy => values %m), 1, 'no other');
    like(do { local $/; <$sock> }, qr/^HTTP\/1.1 200/, 'answered');
    wait_for { %m = members(figures()); $m{$route}{busy} == 0 } 5, 'its end';
    $requests++;
};

subtest 'status words' => sub {
    $h->manager('app', $be{n1}->url, drain => 1);
    $h->manager('app', $be{n2}->url, disabled => 1);
    my %m = members(figures());
    is_deeply($m{n1}{status}, [ 'Ok', 'Drn' ], 'draining');
    ok($m{n1}{usable} && !$m{n1}{takes_new}, 'is usable, not for new sessions');
    is_deeply($m{n2}{status}, ['Dis'], 'disabled');
    ok(!$m{n2}{usable} && !$m{n2}{takes_new}, 'is not');
    is($m{n2}{score}, undef, 'and has no score');
    ok($m{n3}{usable} && $m{n3}{takes_new}, 'the third takes all');
    my $p = prometheus();
    my ($status, $score) = @$p{qw(xnat_balance_member_status xnat_balance_member_score)};
    my ($drain) = grep { /:\/\/app",route="n1".*status="Drn"/ } keys %$status;
    is($status->{$drain}, 1, 'Prometheus: a gauge per word');
    my ($disabled) = grep { /:\/\/app",route="n2"/ } keys %$score;
    is($score->{$disabled}, '+Inf', 'and an infinite score');
    $h->manager('app', $be{n1}->url, drain => 0);
    $h->manager('app', $be{n2}->url, disabled => 0);
};

# The session is not in memcached, so the move that the drain asks for is refused.
subtest 'moves' => sub {
    my $f = wait_for { my $f = figures(); $f->{mover}{running} && $f } 5, 'a mover';
    cmp_ok($f->{mover}{heartbeat_age_ms}, '<', 2000, 'which is alive');
    is($c->get('/moving/login', user => 'm')->{status}, 200, 'a session');
    my ($route) = $c->session('m') =~ /\.(p\d)$/;
    $h->manager('moving', $be{$route}->url, drain => 1);
    $f = wait_for { my $f = figures(); @{$f->{recent_moves}} && $f } 10, 'a try';
    my $move = $f->{recent_moves}[-1];
    is($move->{why}, 'not-in-store', 'why not');
    ok(!$move->{moved}, 'it stays');
    is($move->{from}, $route, 'from');
    like($move->{to}, qr/^p[123]$/, 'to');
    like($move->{session}, qr/^[0-9a-f]{10}$/, 'a digest');
    like($h->error_log, qr/XB0302: session $move->{session} /, 'the same as in the log');
    cmp_ok($move->{seconds_ago}, '<', 10, 'just now');
    cmp_ok($f->{refusals_by_reason}{'not-in-store'}, '>=', 1, 'counted');
    is(sum($_ => $f->{moves_by_reason}), 0, "moved: $_") for qw(overload drain failed);
    cmp_ok($f->{store_nodes}[0]{lookups}, '>=', 1, 'look-ups');
    is($f->{store_nodes}[0]{failures}, 0, 'none failed');
    like(status()->{body}, qr/<td>$move->{session}<\/td>/, 'and in HTML');
    $h->manager('moving', $be{$route}->url, drain => 0);
    push @users, 'm';
};

subtest 'another lbmethod for a while' => sub {
    $h->manager('app', undef, lbmethod => 'byrequests');
    my $app = balancer(figures(), 'app');
    is($app->{lbmethod}, 'byrequests', 'the method in force');
    is_deeply($app->{members}, [], 'not counted meanwhile');
    $h->manager('app', undef, lbmethod => 'xnat');
    my %m = members(figures());
    is(sum(requests => values %m), $requests, 'the figures come back');
};

subtest 'mod_status' => sub {
    my $auto = $c->get('/server-status?auto')->{body};
    like($auto, qr/^XnatBalanceMoves: 0$/m, 'moves');
    like($auto, qr/^XnatBalanceRefusals: \d+$/m, 'refusals');
    my $url = $be{n3}->url;
    like($auto, qr/^XnatBalanceScore balancer:\/\/app \Q$url\E\/?: \d+\.\d\d$/m, 'score');
    my $page = $c->get('/server-status')->{body};
    like($page, qr/mod_xnat_balance/, 'a section in HTML');
    unlike($page, qr/a<b>/, 'escaped');
};

subtest 'no session id anywhere' => sub {
    my $text = join "\n", map { $c->get($_)->{body} } '/status', '/status?format=json',
        '/status?format=prometheus', '/server-status', '/server-status?auto';
    my @shown = grep { my ($base) = $c->session($_) =~ /^(\w+)/; $text =~ /$base/i } @users;
    is("@shown", '', 'of no user');
};

subtest 'a graceful restart keeps the figures' => sub {
    my $before = figures();
    is($before->{server}{generation}, 1, 'the first generation');
    $h->graceful;
    my $after = figures();
    my %m = members($after);
    is(sum(requests => values %m), $requests, 'requests');
    is($after->{sessions}{remembered}, @users, 'sessions');
    is($after->{server}{generation}, $before->{server}{generation} + 1, 'one generation later');
};

$t->finish;
