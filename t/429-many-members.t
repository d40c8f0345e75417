# SPDX-License-Identifier: Apache-2.0
# More members than one question to memcached has keys, than a session's record has places for nodes
# where it has been, and than the module keeps records of.
use v5.36;
use Test::More;
use Time::HiRes qw(time);
use XB::Test;
use XB::MoveRig;

my $t = XB::Test->new;

subtest 'the home is the last of 36' => sub {
    # The others are never asked: one is to take over, the rest are there for their routes.
    my $others = join "\n", map { "BalancerMember http://127.0.0.1:$_ route=x$_ status=+D" } 1 .. 34;
    my $rig = XB::MoveRig->new($t, nodes => [qw(n1 n2)], stores => ['m1'],
        httpd => { name => 'many' }, member => 'retry=600', conf => "XnatBalanceMove Drain\n");
    my $h = $rig->httpd;
    $h->set_conf($rig->conf("XnatBalanceMove Drain\n") =~ s/(?=BalancerMember)/$others\n/r);
    $h->restart;
    $rig->only('n2');
    $rig->login('u1', 'n2');
    is $rig->ask('u1', '/write?k=first')->{status}, 200, 'a session there';
    my $id = $rig->client->session('u1');
    wait_for { ($rig->store('m1')->get($id) // '') =~ /first/ } 5, 'its write in memcached';
    $rig->open;
    $rig->node('n2')->stop;
    my $r = $rig->ask('u1', '/read');
    is "$r->{status} $r->{node}", '200 n1', 'it is found in memcached and taken over';
    is_deeply $r->{json}{writes}, ['first'], 'with all that it had';
    is $rig->status->{sessions}{lost}, 0, 'and not called lost';
};
# A session that has been at seven nodes and is lost at the eighth: all but the ninth have copies.
subtest 'nine nodes' => sub {
    my @names = map { "v$_" } 1 .. 9;
    my $rig = XB::MoveRig->new($t, nodes => \@names, stores => ['m2'], httpd => { name => 'nine' },
                               conf => "XnatBalanceMove Drain\nXnatBalanceMemcachedTimeout 1s\n");
    my $h = $rig->httpd;
    my $move = sub ($user, $from, $to) {
        $rig->only($from, $to);
        $rig->drain($from);
        my $came = eval { wait_for { $rig->ask($user, '/read')->{node} eq $to } 20, 'a move' };
        $rig->undrain($from);
        return $came;
    };
    my $writes = sub ($r) { return join ' ', @$r{qw(status node)}, @{$r->{json}{writes} // []} };
    $rig->only('v1');
    $rig->login('u', 'v1');
    my $all = '';
    for my $n (1 .. 6) {
        ok $move->('u', "v$n", 'v' . ($n + 1)), "it leaves v$n";
        $rig->ask('u', "/write?k=w$n");
        $all .= " w$n";
    }
    $rig->only('v7', 'v8');
    $h->manager('app', $rig->node('v7')->url, disabled => 1);
    is $writes->($rig->ask('u', '/read')), "200 v8$all", 'it is rescued from v7';
    $rig->ask('u', '/write?k=last');
    # v1 and v7 would be the first choices.
    my %weight = (v1 => 90, v7 => 100, v2 => 80);
    $rig->open;
    $h->manager('app', $rig->node($_)->url, set => { w_lf => $weight{$_} // 1 }) for @names;
    $h->manager('app', $rig->node('v8')->url, disabled => 1);
    my $began = time;
    is $writes->($rig->ask('u', '/read')), "200 v9$all last", 'no former home gets it, the ninth does';
    note(sprintf 'after %.1f s', time - $began);

    $h->manager('app', $rig->node($_)->url, set => { w_lf => 1 }) for @names;
    $rig->only('v1');
    $rig->login('w', 'v1');
    $move->('w', "v$_", 'v' . ($_ + 1)) or die "at v$_" for 1 .. 5;
    $rig->node('v1')->stop;
    $rig->idle(0.5);
    $rig->node('v1')->start;
    wait_for { $h->error_log =~ /XB0320: node v1 / } 10, 'a restart';
    ok $move->('w', 'v6', 'v7'), 'at six nodes, the first restarted: on to the seventh';
    ok $move->('w', 'v7', 'v8'), '... and to the eighth';
};
# Members with so many names before it that it does not fit the snapshot, or gets no record.
sub last_of ($name, @sections)
{
    my $node = $t->backend($name);
    my $n = 0;
    my $list = sub ($count) {
        return join "\n", map { $n++; "BalancerMember http://127.0.0.1:@{[ 1000 + $n ]} route=x$n status=+D" }
            1 .. $count;
    };
    my $others = join "\n", map { "<Proxy \"balancer://b$_\">\n" . $list->($sections[$_])
        . "\nProxySet lbmethod=xnat\n</Proxy>\nProxyPass \"/b$_\" \"balancer://b$_\"" } 1 .. $#sections;
    my $h = $t->httpd(name => "h$name", children => 2, conf => <<"END");
$others
<Proxy "balancer://app">
@{[ $list->($sections[0]) ]}
BalancerMember @{[ $node->url ]} route=$name
ProxySet lbmethod=xnat stickysession=JSESSIONID|jsessionid
</Proxy>
ProxyPass "/" "balancer://app/"
END
    return ($h, $node);
}

subtest 'the 129th member' => sub {
    my ($h, $node) = last_of('late', 128);
    $t->expect_log(qr/XB0127/);
    my @status = map { $t->get($h->url('/echo'))->{status} } 1 .. 3;
    is "@status", '200 200 200', 'gets new sessions';
    my $r = $t->get($h->url('/echo'), cookie => 'JSESSIONID=ABCDEF.late');
    is $r->{status}, 200, '... and keeps them';
    is $node->count('/echo'), 4, 'all of them';
};

subtest 'no record left' => sub {
    my ($h, $node) = last_of('none', 1, 128, 128, 128, 128);
    # The mover has met the others by then.
    wait_for { $h->error_log =~ /XB0106/ } 10, 'the records to run out';
    my @status = map { $t->get($h->url('/echo'))->{status} } 1 .. 3;
    is "@status", '200 200 200', 'a member without gets new sessions';
    $t->get($h->url('/echo'), cookie => 'JSESSIONID=ABCDEF.none');
    is $node->count('/echo'), 4, '... and keeps them';
    is scalar(() = $h->error_log =~ /XB0106/g), 1, 'it is said once';
    $t->expect_log(qr/XB0106/);
};
$t->allow_log(qr/AH01114|AH00957|AH00959|AH00940|AH01102|AH00898/);
$t->finish;
