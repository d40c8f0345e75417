# SPDX-License-Identifier: Apache-2.0
# Directives: each good value is in force as the status page says, each bad one is refused by
# configtest with a sentence that names the directive and what it wants; so is a wrong place.
use v5.36;
use Test::More;
use XB::Test;
use XB::Deps;
use JSON::PP;

my $t = XB::Test->new;

# good: what is given => what is in force. bad: what is given, each refused with `wants`.
my $time = sub ($range) { qr/wants a whole number with ms, s, min or h .*\Q$range\E/ };
my @not_times = ('""', '-1', '-1s', '50msx', '1.5s', '1d', '5us', 's', 'ms', '0x10', '"1 s"',
                 '+5s', '1K', '99999999999999999999', '9223372036854775807h', 'forever');
my $long = 'x' x 200;
my %directive = (
    XnatBalanceMemcachedNodes => {
        good => [ 'n1:127.0.0.1:11211' => 'n1:127.0.0.1:11211',
                  '"n1:a.example:11211,n2:b:11212"' => 'n1:a.example:11211,n2:b:11212',
                  '"n1:a:1  n2:b:2"' => 'n1:a:1  n2:b:2',
                  '"n1:[::1]:11211"' => 'n1:[::1]:11211' ],
        bad => [ '""', 'n1:', 'n1:host:0', 'n1:host:65536', 'n1:host:port', '"n1:a:1,n1:b:2"',
                 'n.1:a:1', 'n-1:a:1', '"n1:a:1;n2:b:2"', 'n1:[::g]:1', 'n1:host:-1',
                 "n1:$long$long:1" ],
        wants => qr/: (?:wants|has|names) /,
    },
    XnatBalanceStorageKeyPrefix => {
        good => [ 'xnat' => 'xnat', 'a:b_c' => 'a:b_c' ],
        bad => [ '""', 'a.b', 'a-b', '"a b"', "\xe4", 'static:x', 'a,b', 'lock:a', 'bak:a',
                 'validity:a', $long ],
        wants => qr/: wants (?:a|the) prefix/,
    },
    XnatBalanceMemcachedTimeout => {
        good => [ '1ms' => '1ms', '999MS' => '999ms', '2' => '2s', '5s' => '5s' ],
        bad => [ '0', '0ms', '5001ms', '1min', '1h', '50msx' ],
        wants => $time->('1ms to 5s'),
    },
    XnatBalanceStore => {
        good => [ 'msm-sticky' => 'msm-sticky', 'MSM-NonSticky' => 'msm-nonsticky' ],
        bad => [ '""', 'msm', 'sticky', 'msm-non-sticky', 'On', '"msm-sticky "' ],
        wants => qr/wants msm-sticky or msm-nonsticky/,
    },
    XnatBalanceMove => {
        good => [ On => 'On', off => 'Off', DRAIN => 'Drain', DryRun => 'DryRun' ],
        bad => [ '""', 'yes', 'maybe', '1', 'Dry-Run', '"On "' ],
        wants => qr/wants On, Drain, DryRun or Off/,
    },
    XnatBalanceHalfLife => {
        good => [ '100ms' => '100ms', '30' => '30s', '2min' => '120s', '24h' => '86400s',
                  '86400000ms' => '86400s' ],
        bad => [ @not_times, '99ms', '86401', '25h' ],
        wants => $time->('100ms to 24h'),
    },
    XnatBalanceBusyHalfLife => {
        good => [ '50ms' => '50ms', '1h' => '3600s' ],
        bad => [ '50msx', '49ms', '3601s', '""', '-1' ],
        wants => $time->('50ms to 1h'),
    },
    XnatBalanceRequestCost => {
        good => [ '0' => '0', '123456789' => '123456789', '3k' => '3K', '4M' => '4M',
                  '1024G' => '1024G', '1099511627776' => '1024G' ],
        bad => [ '""', '-1', '1.5M', '2MB', '2T', 'M', '1025G', '99999999999999999999', '"2 M"',
                 '5ms' ],
        wants => qr/wants a number of bytes with K, M or G or none, 0 to 1024G/,
    },
    XnatBalanceMoveThreshold => {
        good => [ '0.01' => '0.01', '.5' => '0.50', '100' => '100.00' ],
        bad => [ '""', '-0.2', '0', '0.009', '101', '0.2x', '20%', '0,2', '1e1', 'nan', 'inf',
                 '0x1', '0.2.0', '.' ],
        wants => qr/wants a difference of scores from 0\.01 to 100/,
    },
    XnatBalanceMoveRate => {
        good => [ '2/s' => '2/s 10', '"3/s 7"' => '3/s 7', '0.5/s 3' => '0.5/s 3', '1000/s 10000' => '1000/s 10000' ],
        bad => [ '""', '2', '2/m', '2/s/s', '/s', '0/s', '-1/s', '1001/s', '2/s 0', '2/s -1',
                 '2/s 10001', '2/s 1.5', '2/s many' ],
        wants => qr{wants moves per second as 0\.01/s to 1000/s and perhaps a burst from 1 to },
    },
    XnatBalanceMoveRest => {
        good => [ '0' => '0s', '24h' => '86400s' ],
        bad => [ '50msx', '86401s', '""', '-1' ],
        wants => $time->('0s to 24h'),
    },
    XnatBalanceGrace => {
        good => [ '10ms' => '10ms', '1min' => '60s' ],
        bad => [ '50msx', '9ms', '0', '61s', '""', '-1' ],
        wants => $time->('10ms to 60s'),
    },
    XnatBalanceGateTimeout => {
        good => [ '200ms' => '200ms', '5min' => '300s' ],
        bad => [ '50msx', '199ms', '301', '""', '-1', '0' ],
        wants => $time->('200ms to 5min'),
    },
    XnatBalanceProbe => {
        good => [ '/' => '/', "/a/b-c_d.e~f?x=%20" => '/a/b-c_d.e~f?x=%20' ],
        bad => [ '""', 'a', '"/a b"', '"/a#b"', "/a\xe4", '"/<x>"', "/$long", 'http://a/' ],
        wants => qr/wants a path at the nodes that starts with \//,
    },
    XnatBalanceRelease => {
        good => [ '/manager/jmxproxy' => '/manager/jmxproxy', '/m;a=b/%20' => '/m;a=b/%20' ],
        bad => [ '""', 'manager/jmxproxy', '/manager/jmxproxy?', '/a?b=c', '"/a b"', '"/a#b"',
                 "/a\xe4", "/$long", 'http://a/' ],
        wants => qr/wants the path of Tomcat's JMXProxyServlet/,
    },
    XnatBalanceReleaseAuth => {
        good => [ 'login.good' => 'login.good', 'login.colons' => 'login.colons' ],
        bad => [ '""', 'login.none', 'login.empty', 'login.user', 'login.nobody', 'login.nothing',
                 'login.two', 'login.long', 'login.control', '.' ],
        wants => qr/: (?:\S+ cannot be read: |\S+ must hold one line, )|wants the name of a file/,
    },
    XnatBalanceSessions => {
        good => [], # see below: one for the whole server
        bad => [ '""', '-1', '63', '0', '2097153', '1K', '64s', '99999999999999999999',
                 '6.4e3' ],
        wants => qr/wants a whole number from 64 to 2097152/,
    },
);

# A new directive must not be forgotten here.
my $header = $t->slurp(XB::Deps->root . '/src/xnat_config.h');
my @all = $header =~ /^#define \w+ "(XnatBalance\w+)"/mg;
is_deeply([ sort keys %directive ], [ sort @all ], scalar(@all) . ' directives');
my %login = (good => "jmx:s3cret\n", colons => "j:m:x \xc3\xa4", empty => '', user => "jmx\n",
             nobody => ":s3cret\n", nothing => "jmx:\n", two => "jmx:s3cret\njmx:t\n",
             long => 'jmx:' . 's3cret' x 50, control => "jmx:s3\x07cret");
$t->mkdir("httpd");
for my $name (keys %login) {
    $t->write("httpd/login.$name", $login{$name});
    chmod 0640, $t->path("httpd/login.$name");
}

my $n1 = $t->backend('n1');
my $vhost = $t->port('vhost');
my (@in_force, $proxies);
my $n = 0;
for my $name (sort keys %directive) {
    my @good = @{$directive{$name}{good}};
    while (my ($given, $shown) = splice @good, 0, 2) {
        $n++;
        $proxies .= qq{<Proxy "balancer://b$n" lbmethod=xnat>\n$name $given\n</Proxy>\n};
        push @in_force, [ "balancer://b$n", $name, $given, $shown ];
    }
}
# nodes and prefix make cross-checks speak up, which 101 is about
$t->allow_log(qr/XB01[12]\d/);
my $h = $t->httpd(conf => <<"END");
$proxies
XnatBalanceSessions 100
XnatBalanceGrace 111ms
XnatBalanceMoveRest 11s
XnatBalanceMove Drain
BalancerInherit Off
<Proxy "balancer://App" lbmethod=xnat>
BalancerMember @{[ $n1->url ]} route=n1
XnatBalanceGrace 222ms
</Proxy>
<Proxy "balancer://app2" lbmethod=xnat>
BalancerMember @{[ $n1->url ]} route=n1
</Proxy>
<Proxy "balancer://app2/">
XnatBalanceMove Off
</Proxy>
<Location "/status">
SetHandler xnat-balance-status
</Location>
<Directory "%%DIR%%/httpd/htdocs">
AllowOverride All
</Directory>
ProxyPass "/status" "!"
ProxyPass "/files" "!"
ProxyPass "/app2" "balancer://app2/"
ProxyPass "/" "balancer://app/"
Listen 127.0.0.1:$vhost
<VirtualHost 127.0.0.1:$vhost>
ServerName vhost.example
XnatBalanceMoveRest 22s
<Proxy "balancer://app" lbmethod=xnat>
BalancerMember @{[ $n1->url ]} route=n1
XnatBalanceMove DryRun
</Proxy>
ProxyPass "/" "balancer://app/"
</VirtualHost>
END

subtest 'good values are in force' => sub {
    my $f = decode_json($h->client->get('/status?format=json')->{body});
    my %set;
    for (@{$f->{balancers}}) {
        my $where = $_->{vhost} =~ /^vhost/ ? 'vhost' : 'main';
        $set{$where}{lc $_->{name}} = $_->{settings};
    }
    for (@in_force) {
        my ($balancer, $name, $given, $shown) = @$_;
        is($set{main}{$balancer}{$name}, $shown, "$name $given");
    }
    my %want = (
        'main balancer://app' => { Move => 'Drain', Grace => '222ms', MoveRest => '11s' },
        'main balancer://app2' => { Move => 'Off', Grace => '111ms', MoveRest => '11s' },
        'vhost balancer://app' => { Move => 'DryRun', Grace => '222ms', MoveRest => '22s' },
        'main balancer://b1' => { Sessions => 100 });
    for my $which (sort keys %want) {
        my ($where, $balancer) = split / /, $which;
        is($set{$where}{$balancer}{"XnatBalance$_"}, $want{$which}{$_}, "$which: $_")
            for sort keys %{$want{$which}};
    }
};

# ---- refused

sub refused ($conf, $name, $wants, $what)
{
    my ($status, $said) = $h->configtest($conf);
    my ($sentence) = $said =~ /^(.*\Q$name\E.*)$/m;
    my $ok = $status != 0 && ($sentence // '') =~ /$wants|takes (?:one|1-2) argument/;
    $ok &&= $said !~ /s3cret/;
    diag("$what: status $status, said: $said") if !$ok;
    return $ok;
}

for my $name (sort keys %directive) {
    my @bad = @{$directive{$name}{bad}};
    my $wants = $directive{$name}{wants};
    my $refused = grep { refused("$name $_", $name, $wants, "$name $_") } @bad;
    is($refused, @bad, "$name: " . @bad . ' bad values');
}

subtest 'wrong places' => sub {
    my %value = map { my $g = $directive{$_}{good}; $_ => $g->[0] // 100 } keys %directive;
    my $n_all = keys %directive;
    my $refused = grep {
        refused(qq{<Location "/x">\n$_ $value{$_}\n</Location>}, $_, qr/section|server/,
                "Location $_")
    } sort keys %value;
    is($refused, $n_all, 'each directive is refused in <Location>');
    for (['<Directory "/x">', '</Directory>'], ['<Files "x">', '</Files>'],
         ['<Proxy "*">', '</Proxy>'], ['<Proxy "http://x/">', '</Proxy>'],
         ['<ProxyMatch "^balancer://x">', '</ProxyMatch>'],
         ['<If "true">', '</If>']) {
        my ($open, $close) = @$_;
        ok(refused("$open\nXnatBalanceMove On\n$close", 'XnatBalanceMove',
                   qr/inside <Proxy "balancer:\/\/\.\.\.">/, $open), $open);
    }
    for (['<VirtualHost 127.0.0.1:9>', '</VirtualHost>'],
         ['<Proxy "balancer://x">', '</Proxy>']) {
        my ($open, $close) = @$_;
        ok(refused("$open\nXnatBalanceSessions 100\n$close", 'XnatBalanceSessions',
                   qr/one table for the whole server/, $open), "sessions in $open");
    }
    $t->write('httpd/htdocs/.htaccess', "XnatBalanceMove On\n");
    $t->expect_log(qr/htaccess: XnatBalanceMove not allowed here/);
    is($h->client->get('/files/x')->{status}, 500, '.htaccess');
};

subtest 'numbers of values' => sub {
    for ('XnatBalanceMove', 'XnatBalanceMove On Off', 'XnatBalanceMoveRate 2/s 10 10',
         'XnatBalanceMemcachedNodes n1:a:1 n2:b:2', 'XnatBalanceSessions') {
        my ($name) = /^(\w+)/;
        ok(refused($_, $name, qr/takes (?:one|1-2)/, $_), $_);
    }
    my ($status, $said) = $h->configtest("XnatBalanceMove Off\nXnatBalanceSessions 2097152");
    is($status, 0, 'and a good configuration passes') or diag($said);
};

$t->finish;
