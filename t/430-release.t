# SPDX-License-Identifier: Apache-2.0
# Release of stale copies: the former home is told to expire exactly the id that it knows, after the
# takeover is proved and while nothing of the session runs there; then the session may come back.
use v5.36;
use Socket qw(MSG_PEEK);
use Test::More;
use Time::HiRes qw(time);
use XB::FakeJmx;
use XB::Test;
use XB::MoveRig;

my $t = XB::Test->new;
$t->write('login', "$XB::FakeJmx::LOGIN\n");
chmod 0600, $t->path('login');
my $rig = XB::MoveRig->new($t, nodes => [qw(n1 n2)], conf => <<"END");
LogLevel debug proxy_balancer:info
XnatBalanceRelease /manager/jmxproxy
XnatBalanceReleaseAuth @{[ $t->path('login') ]}
XnatBalanceMoveRest 0s
XnatBalanceBusyHalfLife 100ms
XnatBalanceMoveRate 100/s 100
XnatBalanceMemcachedTimeout 1s
<LocationMatch "/manager(;[^/]*)?(/|\$)">
Require all denied
</LocationMatch>
END
my ($n1, $n2) = map { $rig->node($_) } qw(n1 n2);

sub base ($id) { return XB::FakeMsm->base($id) }
sub calls ($n, $what) { return grep { $_->{what} eq $what } XB::FakeJmx::calls($n) }
sub released () { return $rig->status->{copies}{released} }
sub has_copy ($n, $id) { return scalar grep { base($_) eq base($id) } $n->copies }

sub drain ($from, $to)
{
    my $before = $rig->moved;
    $rig->undrain($to);
    $rig->drain($from);
    wait_for { $rig->moved > $before } 10, "a move from $from to $to";
    return;
}

subtest 'no way for clients' => sub {
    my @ways = map { "$_?get=x" } '/manager/jmxproxy', '/manager;x/jmxproxy', '//manager/jmxproxy',
        '/manager/jmxproxy;x', '/x/..;/manager/jmxproxy', '/x/..;a=b/manager/jmxproxy',
        '/%6danager/jmxproxy', '/x/%2e%2e;/manager/jmxproxy', '/x/../manager/jmxproxy';
    $t->allow_log(qr{AH01630: client denied by server configuration: proxy:balancer});
    is $rig->client->get($_)->{status}, 403, "$_ is barred as docs/operations.md says" for @ways;
};

subtest 'there and back' => sub {
    $rig->only('n1');
    my $id = $rig->login('u', 'n1');
    $rig->open;
    $rig->ask('u', '/write?k=0');
    my @writes = (0);
    for my $way ((['n1', 'n2'], ['n2', 'n1']) x 3) {
        my ($from, $to) = @$way;
        my $before = released;
        drain($from, $to);
        wait_for { released > $before } 10, "a release at $from";
        push @writes, scalar @writes;
        is $rig->ask('u', "/write?k=$writes[-1]")->{node}, $to, "at $to";
        is_deeply [ $rig->node($from)->copies ], [], "... and nothing is left at $from";
    }
    is_deeply $rig->ask('u', '/read')->{json}{writes}, \@writes, 'all writes are there';
    for my $n ($n1, $n2) {
        my $mine = base($id) . '.' . $n->route;
        my @expire = calls($n, 'expire');
        is_deeply [ map { $_->{id} } @expire ], [ ($mine) x 3 ], 'expired: the id that it knew';
        is_deeply [ grep { !$_->{there} } @expire ], [], '... which was there';
        is_deeply [ grep { "@{$_->{stored}}" ne ($n == $n1 ? 'n2' : 'n1') } @expire ], [],
            '... when the session was stored for its new home only';
        is scalar(grep { $_->{id} ne $mine } calls($n, 'look')), 0, 'no other id was asked for';
        is_deeply [ map { $_->{context} } calls($n, 'find') ], ['/'], 'its manager was looked for once';
        ok !(calls($n, 'look'))[-1]{there}, 'the last look sees that it is gone';
    }
    my ($probe) = grep { !$_->{own} } $n2->heads;
    cmp_ok((calls($n1, 'expire'))[0]{time}, '>', $probe->{time}, 'the takeover came before');
};

subtest 'a request runs at the new home' => sub {
    my $before = released;
    XB::FakeJmx::misbehave($n1, 'drop');
    drain('n1', 'n2');
    my $download = $rig->send('u', '/trickle?n=40&ms=100');
    wait_for { $rig->status->{copies_held_by_reason}{'node-unreachable'} } 5, 'a failure';
    is $rig->status->{sessions_by_state}{'in-flight'}, 1, 'meanwhile it runs';
    XB::FakeJmx::behave($n1);
    wait_for { released > $before } 10, 'a release meanwhile';
    is $rig->status->{sessions_by_state}{'in-flight'}, 1, 'it goes on';
    is length $rig->receive($download)->{body}, 40, '... to its end';
    $before = released;
    drain('n2', 'n1');
    wait_for { released > $before } 10, 'back';
};

subtest 'a request still runs at the former home' => sub {
    my $before = released;
    my $download = $rig->send('u', '/trickle?n=25&ms=100');
    recv $download, my $first, 1, MSG_PEEK;      # its head has come
    my $expired = calls($n1, 'expire');
    $rig->undrain('n2');
    $rig->only('n2');
    is $rig->ask('u', '/write?k=rescued')->{node}, 'n2', 'its home is disabled: it goes on elsewhere';
    my $r = $rig->receive($download);
    my $end = time;
    is length $r->{body}, 25, 'the download at the former home is not broken';
    wait_for { released > $before } 10, 'then the copy is released';
    my @since = (calls($n1, 'expire'))[$expired .. calls($n1, 'expire') - 1];
    is scalar @since, 1, '... expired once';
    cmp_ok $since[0]{time}, '>', $end - 0.1, '... after the end of the download';
    $rig->open;
};

subtest 'logout before the release' => sub {
    my $before = released;
    my $id = base($rig->client->session('u')) . '.n2';
    XB::FakeJmx::misbehave($n2, 'drop');
    drain('n2', 'n1');
    my $now = $rig->ask('u', '/read')->{json}{id};
    is $rig->ask('u', '/logout')->{status}, 200, 'logged out at the new home';
    for my $old ($id, $now) {
        $rig->client->jar('thief')->{JSESSIONID} = $old;
        is $rig->ask('thief', '/read')->{status}, 401, 'an id from before is nobody any more';
    }
    ok has_copy($n2, $id), 'though the copy is still there';
    XB::FakeJmx::behave($n2);
    wait_for { released > $before } 20, 'its release';
    ok !has_copy($n2, $id), 'then it is gone, too';
    wait_for { !$rig->status->{sessions_by_state}{ended} } 5, 'the session to be forgotten';
    $rig->undrain('n2');
};

subtest 'a takeover that is not proved' => sub {
    $rig->only('n1');
    my $id = $rig->login('v', 'n1');
    $rig->open;
    $n2->misbehave('keeps', for => $id);
    $rig->drain('n1');
    wait_for { $rig->refused('no-proof-in-store') } 10, 'no proof';
    $rig->idle(2.5);
    my @asked = map { XB::FakeJmx::calls($_) } $n1, $n2;
    is_deeply [ grep { ($_->{id} // '') =~ base($id) } @asked ], [],
        'no node is asked about this session';
    is $rig->ask('v', '/read')->{node}, 'n1', 'it lives on';
    $n2->behave;
    $rig->undrain('n1');
};

subtest 'two nodes, overload' => sub {
    $rig->only('n1');
    $rig->login($_, 'n1') for qw(busy-n1 w);
    $rig->open;
    my $before = $rig->status->{moves_by_reason}{overload};
    my @load = $rig->overload('n1', 4, 4000);
    wait_for { $rig->ask('w', '/read'); $rig->idle(0.1);
               $rig->status->{moves_by_reason}{overload} > $before }
        10, 'an overload move to the last unvisited node';
    is $rig->ask('w', '/read')->{node}, 'n2', 'the quiet session has moved';
    $rig->receive($_) for @load;
};

subtest 'the new home dies before the release' => sub {
    my $id = $rig->client->session('w');
    wait_for { !has_copy($n1, $id) } 10, 'an earlier release';
    $rig->ask('w', '/write?k=first');
    drain('n2', 'n1');
    wait_for { !has_copy($n2, $id) } 10, 'another';
    XB::FakeJmx::misbehave($n1, 'drop');
    drain('n1', 'n2');
    $rig->undrain('n1');
    is $rig->ask('w', '/write?k=second')->{node}, 'n2', 'at the new home';
    ok has_copy($n1, $id), 'the stale copy is still there';
    $n2->stop;
    XB::FakeJmx::behave($n1);
    my $r = $rig->ask('w', '/read');
    is $r->{node}, 'n1', 'the new home is dead: back at the former one';
    is_deeply [ sort @{$r->{json}{writes} // []} ], [qw(first second)], '... with all writes';
    $n2->start;
};

my $said = $rig->httpd->error_log . $rig->client->get('/status')->{body};
unlike $said, qr/s3cret|anhlOnMzY3JldA/, 'the password is nowhere to be read';
unlike $rig->httpd->error_log, qr/[0-9A-F]{32}/, 'nor is a session id';
my @expired = map { my $n = $_; map { [ $n->route, $_ ] } calls($n, 'expire') } $n1, $n2;
is_deeply [ grep { $_->[0] ne XB::FakeMsm->route_of($_->[1]{id}) } @expired ], [],
    'no node has been given the id of another';
my @only = grep { my $c = $_; !grep { $_ ne $c->[0] } @{$c->[1]{stored}} } @expired;
is scalar @only, 1, 'nor one that is stored nowhere else, but for the one logged out';
$t->expect_log(qr/XB0330: the stale copy of session \w{10} at n[12] could not be expired: node-unreachable/);
$t->allow_log(qr/\[proxy(?:_http|_balancer)?:(?:error|warn)\]/);
$t->finish;
