# SPDX-License-Identifier: Apache-2.0
# config/example.conf, with nothing changed but its ports, does what it is there to show: users
# stick, a node drains with balancer-manager, status page and log say what was done.
use v5.36;
use Test::More;
use XB::Test;
use JSON::PP;
use XB::Deps;
use XB::FakeMsm;

my $t = XB::Test->new;
my $store = { map { $_ => $t->memcached(name => $_) } qw(n1 n2) };
my %node = XB::FakeMsm->fleet($t, $store, map { "tomcat$_" } 1 .. 3);

my $example = $t->slurp(XB::Deps->root . '/config/example.conf') or die 'none';
my %port = (
    map({ (8080 + $_ => $node{"tomcat$_"}->port) } 1 .. 3),
    map({ (11210 + $_ => $store->{"n$_"}->port) } 1 .. 2),
);
my $ports = () = $example =~ /127\.0\.0\.1:\d+/g;
is($example =~ s/(?<=127\.0\.0\.1:)(\d+)/$port{$1}/g, $ports, 'every port is another one now');
is($ports, 5, 'and all are known');
my $h = $t->httpd(conf => "$example\nCustomLog %%DIR%%/example.access xnat\n");

my $c = $h->client;
is($c->get('/login', user => "u$_")->{status}, 200, "user $_ logs in") for 1 .. 6;
my $read = sub ($n) { JSON::PP::decode_json($c->get('/read', user => "u$n")->{body})->{node} };
my %home = map { $_ => $read->($_) } 1 .. 6;
is_deeply({ map { $_ => $read->($_) } 1 .. 6 }, \%home, 'users stick');

my ($user, $from) = (1, $home{1});
$h->manager('xnat', $node{$from}->url, drain => 1);
wait_for { $read->($user) ne $from } 20, 'the user to leave the draining node';
pass('a draining node is left');

my $page = $c->get('/xnat-balance-status?format=json');
my ($balancer) = @{JSON::PP::decode_json($page->{body})->{balancers}};
is_deeply([ sort map { $_->{route} } @{$balancer->{members}} ],
          [ qw(tomcat1 tomcat2 tomcat3) ], 'the status page shows the members');
like($balancer->{settings}{XnatBalanceMemcachedNodes}, qr/^n1:/, 'and the settings');
like($t->slurp('example.access'), qr/ 200 .* tomcat\d stayed home$/m, 'the log says why');

# The README's block is that of the example, for other machines.
my ($block) = $t->slurp(XB::Deps->root . '/README.md') =~ m{^(    <Proxy .*?)\n\n}ms;
my ($status, $said) = $h->configtest($block);
is($status, 0, "the README's lines are enough") or diag($said);
unlike($said, qr/XB0|:warn\]|:error\]/, 'and nothing is wrong with them');
my @lines = grep { !/BalancerMember|XnatBalanceMemcachedNodes/ } split /\n/, $block;
my %shown = map { s/^\s+//r => 1 } split /\n/, $example;
cmp_ok(scalar @lines, '>', 8, 'lines that name no machine');
is_deeply([ grep { !$shown{$_} } map { s/^\s+//r } @lines ], [], 'are all in the example');

$t->finish;
