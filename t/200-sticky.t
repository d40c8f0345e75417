# SPDX-License-Identifier: Apache-2.0
# Drop-in: beside a server with the same block and lbmethod=bytraffic, every form of session id
# sticks in the same way, nodes see the client's Cookie and URL byte for byte as from stock, and
# BALANCER_* are equal: while a session stays, when its home is out, when it lives elsewhere.
use v5.36;
use Test::More;
use XB::Test;
use XB::Deps;

my $t = XB::Test->new;
my %be = map { $_ => $t->backend($_) } qw(n1 n2);

my @env = map { "BALANCER_$_" } qw(NAME WORKER_NAME WORKER_ROUTE ROUTE_CHANGED SESSION_STICKY
                                   SESSION_ROUTE);
my $env = join '|', map { "%{$_}e" } @env;
my $xnat = join '|', map { "%{XNAT_BALANCE_$_}e" } qw(DECISION REASON FROM TO);

sub server ($method, $name)
{
    my $members = join "\n", map { 'BalancerMember ' . $be{$_}->url . " route=$_" } qw(n1 n2);
    my $set = "ProxySet lbmethod=$method stickysession=JSESSIONID|jsessionid";
    return $t->httpd(name => $name, module => $method eq 'xnat', conf => <<"END");
Protocols h2c http/1.1
<Proxy "balancer://app">
$members
$set
</Proxy>
<Proxy "balancer://scolon">
$members
$set scolonpathdelim=On
</Proxy>
<Proxy "balancer://forced">
$members
$set nofailover=On
</Proxy>
Header always set X-Env "$env"
Header always set X-Xnat "$xnat"
ProxyPass "/balancer-manager" "!"
ProxyPass "/nocanon" "balancer://app/nocanon" nocanon
ProxyPass "/scolon" "balancer://scolon/scolon"
ProxyPass "/forced" "balancer://forced/forced"
ProxyPass "/" "balancer://app/"
END
}

my %server = (stock => server(bytraffic => 'stock'), xnat => server(xnat => 'ours'));
my %client = map { $_ => $server{$_}->client } keys %server;

# What, kind, path, Cookie headers; %ID% is another session in each. Kinds: follows (a session
# at n1 that the module knows from now on), n2 (the same at n2), stock (sticks to n1 by stock
# code; an id that the module leaves alone), new (no route: an election for each).
my @case = (
    [ 'cookie' => 'follows', '/a', 'JSESSIONID=%ID%.n1' ],
    [ 'cookie of n2' => 'n2', '/a', 'JSESSIONID=%ID%.n2' ],
    [ 'id with a memcached node' => 'follows', '/a', 'JSESSIONID=%ID%-m1.n1' ],
    [ 'among cookies' => 'follows', '/a?x=y', 'a=b; JSESSIONID=%ID%.n1; c="d e"; f' ],
    [ 'no blank' => 'follows', '/a', 'a=b;JSESSIONID=%ID%.n1;c=d' ],
    [ 'comma' => 'follows', '/a', 'a=b,JSESSIONID=%ID%.n1,c=d' ],
    [ 'blank before =' => 'follows', '/a', 'JSESSIONID =%ID%.n1' ],
    [ 'two of the name' => 'follows', '/a', 'JSESSIONID=%ID%.n1; JSESSIONID=other.n2' ],
    [ 'one that ends like it' => 'follows', '/a', 'XJSESSIONID=other.n2; JSESSIONID=%ID%.n1' ],
    [ 'two headers' => 'follows', '/a', 'a=b; c=d', 'JSESSIONID=%ID%.n1; e=f' ],
    [ 'two headers, both with it' => 'follows', '/a', 'JSESSIONID=%ID%.n1',
      'JSESSIONID=other.n2' ],
    [ 'path' => 'follows', '/a/b;jsessionid=%ID%.n1' ],
    [ 'path and query' => 'follows', '/a;jsessionid=%ID%.n1?b=c&d=%20e+f' ],
    [ 'path, twice' => 'follows', '/a;jsessionid=%ID%.n1?x=;jsessionid=other.n2' ],
    [ 'middle of a path' => 'new', '/a;jsessionid=%ID%.n1/b' ],
    [ 'query' => 'follows', '/a?jsessionid=%ID%.n1' ],
    [ 'middle of a query' => 'follows', '/a?b=c&jsessionid=%ID%.n1&d=e' ],
    [ 'query before cookie' => 'follows', '/a?jsessionid=%ID%.n1', 'JSESSIONID=other.n2' ],
    [ 'path before cookie' => 'follows', '/a;jsessionid=%ID%.n1', 'JSESSIONID=other.n2' ],
    [ 'encoded name' => 'follows', '/a;%6asessionid=%ID%.n1' ],
    [ 'nocanon: path' => 'follows', '/nocanon/a%20b/%7e;jsessionid=%ID%.n1' ],
    [ 'nocanon: query' => 'follows', '/nocanon/a%41?b=%3d&jsessionid=%ID%.n1' ],
    [ 'nocanon: cookie' => 'follows', '/nocanon/a%41;x=y', 'JSESSIONID=%ID%.n1' ],
    [ 'scolonpathdelim' => 'follows', '/scolon/a;jsessionid=%ID%.n1;v=1' ],
    [ 'scolonpathdelim: cookie' => 'follows', '/scolon/a', 'JSESSIONID=%ID%.n1' ],
    [ 'long id' => 'stock', '/a', 'JSESSIONID=%ID%' . 'x' x 100 . '.n1' ],
    [ 'odd byte in an id' => 'stock', '/a', 'JSESSIONID=%ID%!.n1' ],
    [ 'quotes' => 'new', '/a', 'JSESSIONID="%ID%.n1"' ],
    [ 'no route' => 'new', '/a', 'JSESSIONID=%ID%' ],
    [ 'first without route' => 'new', '/a', 'JSESSIONID=%ID%; JSESSIONID=other.n2' ],
    [ 'path without route' => 'new', '/a;jsessionid=%ID%', 'JSESSIONID=other.n2' ],
    [ 'unknown route' => 'new', '/a', 'JSESSIONID=%ID%.n9' ],
    [ 'empty' => 'new', '/a', 'JSESSIONID=' ],
    [ 'no cookie' => 'new', '/a' ],
);

my $phase = 0;

# Sends a case to a server: node that answered, what it saw, and what the environment was.
sub ask ($which, $i)
{
    my ($what, $kind, $path, @cookies) = @{$case[$i]};
    my $id = sprintf '%032X', $i + 1;
    s/%ID%/$id/ for $path, @cookies;
    my $mark = "$which-$phase-$i";
    my $r = $client{$which}->get($path, headers => [ 'X-Mark' => $mark,
                                                    map { (Cookie => $_) } @cookies ]);
    my %seen = (status => $r->{status}, mark => $mark);
    @seen{qw(node env xnat)} = map { XB::Client->header($r, $_) } qw(X-Node X-Env X-Xnat);
    return \%seen;
}

sub journal
{
    my %seen;
    for my $node (keys %be) {
        for my $r ($be{$node}->requests) {
            my $mark = XB::Backend->header($r, 'X-Mark') // next;
            my @cookies = XB::Backend->header($r, 'Cookie');
            $seen{$mark} = join ' # ', $r->{uri}, @cookies;
        }
    }
    return %seen;
}

# One round of all cases over both servers; differences that `check` finds, by case.
sub round ($name, $check)
{
    $phase++;
    my (%answer, @bad);
    for my $i (0 .. $#case) {
        $answer{$_}[$i] = ask($_, $i) for qw(stock xnat);
    }
    my %seen = journal();
    for my $i (0 .. $#case) {
        my ($stock, $ours) = map { $answer{$_}[$i] } qw(stock xnat);
        my ($what, $kind) = @{$case[$i]};
        my @wrong = map { "status $_->{status}" } grep { $_->{status} != 200 } $stock, $ours;
        my ($want, $got) = map { $seen{ $_->{mark} } // 'nothing' } $stock, $ours;
        push @wrong, "node saw $got, stock $want" if $want ne $got;
        push @wrong, $check->($kind, $stock, $ours, $i);
        push @bad, map { "$what: $_" } @wrong;
    }
    ok(!@bad, $name) or diag(map { "$_\n" } @bad);
    return;
}

sub same ($key, $stock, $ours)
{
    my ($want, $got) = map { $_->{$key} // 'undef' } $stock, $ours;
    s/\Q$server{stock}{port}\E/PORT/ for $want;
    return $want eq $got ? () : "$key is $got, stock $want";
}

sub says ($ours, $want)
{
    return $ours->{xnat} eq $want ? () : "says $ours->{xnat}, not $want";
}

# An election may choose either node: names of the worker aside.
sub same_but_worker ($stock, $ours)
{
    my ($want, $got) = map { $_->{env} =~ s/^([^|]*)\|[^|]*\|[^|]*/$1|/r } $stock, $ours;
    return $want eq $got ? () : "env is $got, stock $want";
}

sub is_new ($stock, $ours)
{
    my $reason = qr/no-session|id-without-route|unknown-route/;
    my $good = $ours->{xnat} =~ /^elected\|$reason\|\(null\)\|\(null\)$/;
    return (same_but_worker($stock, $ours), $good ? () : "says $ours->{xnat}");
}

round('all nodes are well' => sub ($kind, $stock, $ours, $i) {
    return is_new($stock, $ours) if $kind eq 'new';
    return (same(node => $stock, $ours), same(env => $stock, $ours),
            $kind eq 'stock' ? () : says($ours, 'stayed|unknown-session|(null)|(null)'));
});

round('once more' => sub ($kind, $stock, $ours, $i) {
    return is_new($stock, $ours) if $kind eq 'new';
    return (same(node => $stock, $ours), same(env => $stock, $ours),
            $kind eq 'stock' ? () : says($ours, 'stayed|home|(null)|(null)'));
});

$_->manager('app', $be{n1}->url, disabled => 1) for values %server;
$_->manager('scolon', $be{n1}->url, disabled => 1) for values %server;

sub out_of_service ($name, $decision)
{
    round($name => sub ($kind, $stock, $ours, $i) {
        return (same(node => $stock, $ours), same_but_worker($stock, $ours)) if $kind eq 'new';
        my @say = $kind eq 'n2' ? says($ours, 'stayed|home|(null)|(null)')
                : $kind eq 'stock' ? ()
                : says($ours, $decision);
        return (same(node => $stock, $ours), same(env => $stock, $ours), @say);
    });
    return;
}

out_of_service('home out of service' => 'failover|home-unusable|n1|n2');
out_of_service('and later' => 'straggler|old-id|n1|n2');

$_->manager('app', $be{n1}->url, disabled => 0) for values %server;
$_->manager('scolon', $be{n1}->url, disabled => 0) for values %server;

# Nothing has moved the sessions: they go back to where their ids say.
round('the old home is back' => sub ($kind, $stock, $ours, $i) {
    return is_new($stock, $ours) if $kind eq 'new';
    return (same(node => $stock, $ours), same(env => $stock, $ours),
            $kind eq 'stock' ? () : says($ours, 'stayed|home|(null)|(null)'));
});

subtest 'HTTP/2 clients' => sub {
    my $curl = XB::Deps->path('curl');
    my @id = map { 'ABCDEF' . $_ x 26 } 1 .. 2;
    my $ask = sub ($which, $mark, $path, @cookies) {
        my @args = map { "-H '$_'" } "X-Mark: $mark", map { "Cookie: $_" } @cookies;
        my $url = $server{$which}->url($path);
        my $head = `'$curl' -s --http2-prior-knowledge -D - -o /dev/null @args '$url'`;
        like($head, qr{^HTTP/2 200}, "$mark: HTTP/2") or diag($head);
        my @lines = map { [ split /:\s*/, $_, 2 ] } split /\r\n/, $head;
        return { map { lc $_->[0] => $_->[1] } @lines };
    };
    my @form = ([ 'cookie', '/a', "a=b; JSESSIONID=$id[0].n1" ],
                [ 'crumbs', '/a', 'a=b', "JSESSIONID=$id[0].n1", 'c=d' ],
                [ 'path', "/a;jsessionid=$id[1].n1?x=y" ]);
    for my $out (0, 1, 2) {
        if ($out) {
            $_->manager('app', $be{n1}->url, disabled => $out % 2) for values %server;
        }
        for my $f (@form) {
            my ($what, @args) = @$f;
            my ($stock, $ours) = map { $ask->($_, "h2-$_-$what-$out", @args) } qw(stock xnat);
            my %seen = journal();
            is($seen{"h2-xnat-$what-$out"}, $seen{"h2-stock-$what-$out"}, "$what: as stock");
            is($ours->{'x-node'}, $out % 2 ? 'n2' : 'n1', "$what: node");
            is($ours->{'x-env'}, $stock->{'x-env'}, "$what: environment");
        }
    }
};

subtest 'nofailover' => sub {
    $_->manager('forced', $be{n1}->url, disabled => 1) for values %server;
    for my $which (qw(stock xnat)) {
        my $c = $client{$which};
        my @r = map { $c->get('/forced/a', cookie => "JSESSIONID=ABCDABCD$_->[0].$_->[1]") }
            [ 1, 'n1' ], [ 1, 'n1' ], [ 2, 'n2' ], [ 3, 'n9' ];
        is(join(' ', map { $_->{status} } @r), '503 503 200 200', $which);
    }
    $t->expect_log(qr/AH01167: balancer:.*All workers are in error state for route \(n1\)/);
};

$t->finish;
