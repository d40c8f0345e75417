# SPDX-License-Identifier: Apache-2.0
# Cross-checks: a set-up that is well-formed but cannot work is told at configtest, with a
# sentence; a sound one is not.
use v5.36;
use Test::More;
use XB::Test;

my $t = XB::Test->new;
my $h = $t->httpd(start => 0);
for (['login', 0600], ['open', 0644]) {
    my ($name, $mode) = @$_;
    $t->write("httpd/$name", "jmx:s3cret\n");
    chmod $mode, $t->path("httpd/$name");
}

# Members n1 and n2 (n3 unless told) of balancer://app, and what else is given.
sub config (%opt)
{
    my @members = @{$opt{members} // [ 'route=n1', 'route=n2', 'route=n3' ]};
    my $n = 0;
    my $list = join "\n", map { $n++; "BalancerMember http://127.0.0.1:$n $_" } @members;
    my $sticky = $opt{sticky} // 'stickysession=JSESSIONID|jsessionid';
    my $method = $opt{method} // 'xnat';
    return <<"END";
@{[ $opt{server} // '' ]}
<Proxy "balancer://app">
$list
ProxySet lbmethod=$method $sticky @{[ $opt{set} // '' ]}
@{[ $opt{inside} // '' ]}
</Proxy>
ProxyPass "/" "balancer://app/"
@{[ $opt{after} // '' ]}
END
}

sub warnings ($conf)
{
    my ($status, $said) = $h->configtest($conf);
    is($status, 0, 'it is not refused') or diag($said);
    return grep { /\bXB\d{4}/ || /:warn\]|:error\]/ } split /\n/, $said;
}

my $nodes = 'XnatBalanceMemcachedNodes n1:127.0.0.1:11211,n2:127.0.0.1:11212';

subtest 'a sound set-up' => sub {
    my %sound = (
        'as a bytraffic block' => config(),
        'with memcached' => config(server => $nodes),
        'with memcached inside' => config(inside => "$nodes\nXnatBalanceStorageKeyPrefix xnat"),
        'sections in virtual hosts' => config(
            after => "<VirtualHost 127.0.0.1:9>\n" . config(inside => 'XnatBalanceMove Off')
                . '</VirtualHost>'),
        'two members with release' => config(members => [ 'route=n1', 'route=n2' ],
            server => "$nodes\nXnatBalanceRelease /jmx\nXnatBalanceReleaseAuth login"),
        'no sessions at all' => config(members => [ '', '' ], sticky => ''),
        'two members, drain only' => config(members => [ 'route=n1', 'route=n2' ],
                                            server => "$nodes\nXnatBalanceMove Drain"),
        'two members, no memcached' => config(members => [ 'route=n1', 'route=n2' ]),
        'a standby of the same route, no memcached' => config(
            members => [ 'route=n1', 'route=n1 status=+H', 'route=n2' ]),
        'a dot, no memcached' => config(members => [ 'route=n1.a', 'route=n2', 'route=n3' ]),
        'not ours' => config(method => 'bytraffic', members => [ '', 'route=n1', 'route=n1' ],
                             server => $nodes, set => 'nofailover=On stickysessionsep=+'));
    for my $what (sort keys %sound) {
        is_deeply([ warnings($sound{$what}) ], [], $what);
    }
};

# what: code, sentence, configuration
my @unsound = (
    [ 'a member without route', XB0110 =>
      qr{balancer://app: member http://127\.0\.0\.1:2 has no route= although .*jvmRoute},
      config(members => [ 'route=n1', '', 'route=n3' ]) ],
    [ 'two of one route', XB0111 =>
      qr{members http://127\.0\.0\.1:1 and http://127\.0\.0\.1:3 have the same route=n1: },
      config(members => [ 'route=n1', 'route=n2', 'route=n1' ]) ],
    [ 'prefix without nodes', XB0112 =>
      qr{XnatBalanceStorageKeyPrefix without XnatBalanceMemcachedNodes does nothing},
      config(inside => 'XnatBalanceStorageKeyPrefix xnat') ],
    [ 'nodes without stickysession', XB0113 =>
      qr{stickysession= is not: no session is recognised},
      config(server => $nodes, sticky => '') ],
    [ 'two members', XB0114 => qr{with two members no session moves because of overload},
      config(members => [ 'route=n1', 'route=n2' ], server => $nodes) ],
    [ 'nofailover', XB0115 => qr{nofailover=On: when a node is down its sessions get 503},
      config(server => $nodes, set => 'nofailover=On') ],
    [ 'a list that MSM refuses', XB0116 =>
      qr{"n1:a:1 , n2:b:2" is understood here, but MSM wants},
      config(server => 'XnatBalanceMemcachedNodes "n1:a:1 , n2:b:2"') ],
    [ 'a password for everybody', XB0124 =>
      qr{every user of this machine can read the password in open$},
      config(server => "$nodes\nXnatBalanceRelease /jmx\nXnatBalanceReleaseAuth open") ],
    [ 'release without memcached', XB0125 =>
      qr{XnatBalanceRelease without XnatBalanceMemcachedNodes does nothing},
      config(server => "XnatBalanceRelease /jmx\nXnatBalanceReleaseAuth login") ],
    [ 'a password for nothing', XB0125 =>
      qr{XnatBalanceReleaseAuth without XnatBalanceRelease does nothing},
      config(server => "$nodes\nXnatBalanceReleaseAuth login") ],
    [ 'release without password', XB0126 => qr{XnatBalanceRelease without XnatBalanceReleaseAuth: },
      config(server => "$nodes\nXnatBalanceRelease /jmx") ],
    [ 'a standby of the same route, with memcached', XB0130 =>
      qr{a standby and its primary have the same route=n1: .* route= and jvmRoute of its own},
      config(members => [ 'route=n1', 'route=n1 status=+H', 'route=n2' ], server => $nodes) ],
    [ 'very many members', XB0127 => qr{of 129 members 128 are balanced by their load},
      config(members => [ map { "route=n$_" } 1 .. 129 ]) ],
    [ 'a method that is not inherited', XB0117 =>
      qr{lbmethod=byrequests in this virtual host .* and xnat in the main server},
      config(after => "<VirtualHost 127.0.0.1:9>\nProxyPass /x balancer://app/\n"
                 . '</VirtualHost>') ],
    [ 'a strange separator', XB0118 =>
      qr{stickysessionsep=\+ sessions stick, but none is recognised},
      config(set => 'stickysessionsep=+') ],
    [ 'no separator', XB0118 => qr{stickysessionsep=Off },
      config(set => 'stickysessionsep=Off') ],
    [ "one that Tomcat does not write", XB0118 => qr{stickysessionsep=: },
      config(set => 'stickysessionsep=:', server => $nodes) ],
    [ 'no name in paths', XB0119 => qr{stickysession=JSESSIONID\| has an empty name},
      config(sticky => '"stickysession=JSESSIONID|"') ],
    [ 'no name in cookies', XB0119 => qr{stickysession=\|jsessionid has an empty name},
      config(sticky => '"stickysession=|jsessionid"') ],
    [ 'a section of nobody', XB0120 => qr{<Proxy "balancer://ap"> reach no balancer},
      config(after => "<Proxy balancer://ap>\nXnatBalanceMove Off\n</Proxy>") ],
    [ 'a section of a path', XB0120 => qr{<Proxy "balancer://app/x"> reach no balancer},
      config(after => "<Proxy balancer://app/x>\nXnatBalanceMove Off\n</Proxy>") ],
    [ 'a section of a pattern', XB0120 => qr{<Proxy "balancer://app"> reach no balancer},
      config(after => "<ProxyMatch balancer://app>\nXnatBalanceMove Off\n</ProxyMatch>") ],
    [ 'a section of another method', XB0128 =>
      qr{<Proxy "balancer://app"> do nothing: that balancer has not lbmethod=xnat$},
      config(method => 'bytraffic', inside => 'XnatBalanceMove Off') ],
    [ 'a route with a dot', XB0129 =>
      qr{member http://127\.0\.0\.1:2 has route=n2\.example\.org: MSM stores no session},
      config(members => [ 'route=n1', 'route=n2.example.org', 'route=n3' ],
             server => $nodes) ],
    [ 'non-sticky mode without nodes', XB0121 =>
      qr{XnatBalanceStore without XnatBalanceMemcachedNodes does nothing},
      config(server => 'XnatBalanceStore msm-nonsticky') ],
    [ "a virtual host's section of nobody", XB0120 => qr{"balancer://ap"> reach no balancer},
      config(after => "<VirtualHost 127.0.0.1:9>\n<Proxy balancer://ap>\nXnatBalanceMove Off\n"
                 . "</Proxy>\n</VirtualHost>") ],
);
for (@unsound) {
    my ($what, $code, $sentence, $conf) = @$_;
    subtest $what => sub {
        my @said = warnings($conf);
        is(scalar @said, 1, 'one line') or diag(map { "$_\n" } @said);
        like($said[0] // '', qr/\[xnat_balance:warn\].* $code: /, "is $code");
        like($said[0] // '', $sentence, 'and says it');
    };
}

subtest 'a probe that is never sent, and what cannot be seen from here' => sub {
    my @said = warnings(config(
        server => "$nodes\nXnatBalanceStore msm-nonsticky\nXnatBalanceProbe /p"));
    is(scalar @said, 2, 'two lines');
    like($said[0], qr/:warn\].* XB0122: .*XnatBalanceProbe does nothing/, 'a warning');
    like($said[1], qr/:notice\].* XB0123: .*sticky="false" and lockingMode=/, 'and a notice');
};

subtest 'and at start' => sub {
    $h->set_conf(config(members => [ 'route=n1', '' ]));
    $h->start;
    like($h->error_log, qr/XB0110: /, 'it is in the error log');
    $t->allow_log(qr/XB0110/);
};

$t->finish;
