# SPDX-License-Identifier: Apache-2.0
# Copies that cannot be released: each reason is counted under its word and logged once, the node
# stays barred, the session lives on undisturbed, and it is tried again.
use v5.36;
use Test::More;
use Time::HiRes qw(time);
use XB::FakeJmx;
use XB::Test;
use XB::MoveRig;

# How the nodes misbehave, and under which word that is counted.
my @cases = (
    [ 'node-unreachable', 'drop' ], [ 'node-unreachable', 'hang', what => 'look' ],
    [ 'node-unreachable', 'hang', what => 'expire' ], [ 'node-unreachable', 'endless' ],
    [ 'node-unreachable', 'cut', what => 'look' ],
    [ 'login-refused', 401 ], [ 'login-refused', 403 ],
    [ 'no-jmxproxy', 404 ], [ 'no-jmxproxy', 'html' ], [ 'no-jmxproxy', 'error' ],
    [ 'no-jmxproxy', 'half', what => 'look' ], [ 'no-jmxproxy', 'nul', what => 'look' ],
    [ 'no-manager', 'none' ], [ 'no-manager', 'many' ],
    [ 'copy-not-expired', 'keeps' ],
);
my %case = map { ('n' . ($_ + 1) => $cases[$_]) } 0 .. $#cases;

my $t = XB::Test->new;
$t->write('login', "$XB::FakeJmx::LOGIN\n");
chmod 0600, $t->path('login');
my $rig = XB::MoveRig->new($t, nodes => [ 't', sort keys %case ],
                           member => 'lbset=1', conf => <<"END");
XnatBalanceRelease /manager/jmxproxy
XnatBalanceReleaseAuth @{[ $t->path('login') ]}
XnatBalanceMemcachedTimeout 1s
END

sub base ($id) { return XB::FakeMsm->base($id) }
sub calls ($name, $what) { return grep { $_->{what} eq $what } XB::FakeJmx::calls($rig->node($name)) }
sub held ($word) { return $rig->status->{copies_held_by_reason}{$word} }
sub released () { return $rig->status->{copies}{released} }

# A session at each, and no other. All then go to t, since that is to be elected first.
my %id;
$rig->only;
for my $name (sort keys %case) {
    my (undef, $how, %opt) = @{$case{$name}};
    my $node = $rig->node($name);
    XB::FakeJmx::misbehave($node, $how, %opt);
    $rig->httpd->manager('app', $node->url, disabled => 0);
    $id{$name} = $rig->login($name, $name);
    $rig->ask($name, "/write?k=$name");
    $rig->httpd->manager('app', $node->url, disabled => 1);
}
$rig->httpd->manager('app', $rig->node('t')->url, set => { w_ls => 0 });
$rig->open;
$rig->drain($_) for sort keys %case;
wait_for { $rig->moved == keys %case } 30, 'all to move';
is released, 0, 'nothing is released';

my %times;
$times{$case{$_}[0]}++ for keys %case;
wait_for { !grep { held($_) < $times{$_} } keys %times } 20, 'all to be tried';
my @slow;
my $end = time + 3;
while (time < $end) {
    for my $name (sort keys %case) {
        my $r = $rig->ask($name, '/read');
        push @slow, "$name: $r->{status} $r->{time}" if $r->{status} != 200 || $r->{time} > 1.5;
    }
}
is_deeply \@slow, [], 'requests meanwhile are answered, after half a second at most';
is released, 0, 'still nothing is released';
for my $name (sort keys %case) {
    my ($word, $how) = @{$case{$name}};
    my @expire = calls($name, 'expire');
    my $may = ($case{$name}[3] // '') eq 'expire' || $how eq 'keeps' ? 'some' : 'none';
    is @expire ? 'some' : 'none', $may, "$name ($how): expired, $may";
    is scalar(grep { $_->{id} ne $id{$name} } @expire), 0, '... and nothing else' if @expire;
    ok scalar(grep { $_ eq $id{$name} } $rig->node($name)->copies), '... the copy is there';
}
my ($keeper) = grep { $case{$_}[1] eq 'keeps' } keys %case;
my @at = map { $_->{time} } calls($keeper, 'expire');
cmp_ok $at[1] - $at[0], '>', 1.9, 'it is not tried again at once' if @at > 1;

XB::FakeJmx::behave($rig->node($_)) for keys %case;
# What did not answer that it has expired the copy may still be about it.
my ($waits) = grep { ($case{$_}[3] // '') eq 'expire' } keys %case;
wait_for { released == keys(%case) - 1 } 60, 'all to be released';
ok !@{[ map { $_->copies } grep { $_ ne $rig->node('t') && $_ ne $rig->node($waits) } $rig->nodes ]},
    'once the nodes behave, all are released at once';
ok scalar(grep { $_ eq $id{$waits} } $rig->node($waits)->copies), '... but one';
for my $name (grep { $_ ne $waits } sort keys %case) {
    my $r = $rig->ask($name, "/write?k=after");
    is "$r->{node} @{$r->{json}{writes}}", "t $name after", "$name lives on";
    is_deeply [ $rig->node($name)->copies ], [], '... at its new home only';
}

# A session that has left n1, whose copy there waits.
sub moved_away ($user)
{
    XB::FakeJmx::misbehave($rig->node('n1'), 'drop');
    $rig->undrain('n1');
    $rig->only('n1');
    my $id = $rig->login($user, 'n1');
    $rig->drain('n1');
    $rig->open;
    wait_for { $rig->ask($user, '/read')->{node} eq 't' } 10, 'a move';
    return $id;
}

subtest 'memcached shows the session at its former home only' => sub {
    my ($before, $expired) = (released, scalar calls('n1', 'expire'));
    my $id = moved_away('v');
    $rig->store('m1')->delete(base($id) . '.t') or die 'not there';
    $rig->store('m1')->set($id, XB::FakeMsm->value($id));
    XB::FakeJmx::behave($rig->node('n1'));
    wait_for { held('not-in-store') } 20, 'a try';
    is scalar calls('n1', 'expire'), $expired, 'nothing is expired';
    $rig->ask('v', '/write?k=1');
    wait_for { released > $before } 20, 'when it is stored again, the copy is released';
};

subtest 'memcached does not show the session at all' => sub {
    my $before = released;
    my $id = moved_away('w');
    $rig->store('m1')->delete(base($id) . '.t') or die 'not there';
    XB::FakeJmx::behave($rig->node('n1'));
    wait_for { released > $before } 20, 'its new home is proved: the copy is released';
    is $rig->ask('w', '/read')->{node}, 't', 'it lives on';
};

subtest 'the copy is not where it was looked for' => sub {
    my ($before, $c) = (released, $rig->client);
    $rig->undrain('n1');
    $rig->only('n1');
    wait_for {
        delete $c->jar('x')->{JSESSIONID};
        $c->get('/x/login', user => 'x');
        ($c->session('x') // '') =~ /\.n1$/;
    } 10, 'a session of another context';
    my $id = $c->session('x');
    $c->get('/x/read', user => 'x') for 1, 2;
    XB::FakeJmx::misbehave($rig->node('n1'), 'elsewhere');
    $rig->drain('n1');
    $rig->open;
    wait_for { held('copy-not-found') } 10, 'it is not found';
    is((calls('n1', 'find'))[-1]{context}, '/x', '... in its context');
    is released, $before, 'nor taken for gone';
    XB::FakeJmx::behave($rig->node('n1'));
    wait_for { released > $before } 20, 'found, it is released';
};

my $log = $rig->httpd->error_log;
for my $word (sort keys %times, 'not-in-store', 'copy-not-found') {
    my @lines = $log =~ /(XB0330: .*could not be expired: \Q$word\E )/g;
    is @lines, 1, "$word: logged once";
    $t->expect_log(qr/XB0330: .* \Q$word\E /);
}
unlike $log, qr/[0-9A-F]{32}/, 'no session id in the log';
unlike $log . $rig->client->get('/status')->{body}, qr/s3cret|anhlOnMzY3JldA/, 'no password';
$_->hang_up for $rig->nodes;
$t->allow_log(qr/\[proxy(?:_http|_balancer)?:(?:error|warn)\]/);
$t->finish;
