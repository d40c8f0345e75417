# SPDX-License-Identifier: Apache-2.0
# Facts of MSM: what an id names, where its key is, what the first bytes of its value say. Both serializers.
use v5.36;
use Test::More;
use XB::Test;
use XB::Tomcat;
use XB::Msm;

my $t = XB::Test->new;
my %msm = map { $_ => XB::Msm->new($t, 2) } qw(java kryo);
my %tc = map { $_ => XB::Tomcat->start($t, route => "tomcat-$_", serializer => $_, memcached => $msm{$_}->nodes) }
    qw(java kryo);
$_->wait_ready for values %tc;

for my $serializer (qw(java kryo)) {
    my ($msm, $tc) = ($msm{$serializer}, $tc{$serializer});
    note $serializer;
    my @id = map { $msm->login($tc, "user$_") } 1 .. 8;
    is(scalar(grep { /^[0-9A-F]{32}-n[12]\.tomcat-$serializer$/ } @id), 8, 'id = 32 hex digits, -node, .route');
    my @nodes = sort map { $msm->node_of($_) } @id;
    is_deeply([$msm->keys], [sort map { $msm->node_of($_) . " $_" } @id], "each key is the id, on its node (@nodes)");

    my ($id, $before) = ($id[0], int(1000 * (time - 60)));
    my $value = $msm->value($id);
    my %h = $msm->header($value);
    is($h{version}, 2, 'version');
    is($h{id}, $id, 'id with its route, length before it');
    is(substr($value, 44, length $id), $id, 'id at byte 44');
    is($h{valid}, '1', 'isValid is ASCII 1');
    like($h{new}, qr/^[01]$/, 'isNew');
    is($h{max_inactive}, 1800, 'seconds until it dies of disuse');
    cmp_ok($h{$_}, '>', $before, "$_ in ms") for qw(created accessed this_accessed);
    cmp_ok($h{attributes}, '>=', 44 + length $id, 'attributes begin behind the id');
    cmp_ok($h{attributes}, '<', length $value, 'and before the end');
    my $ttl = $msm->ttl($id);
    ok($ttl > 1790 && $ttl <= 1806, "expires with the session and six background delays ($ttl)");

    $msm->ask($tc, '/app/size?kb=200', $id);
    wait_for { length $msm->value($id) > 200_000 } 5, 'a large session';
    is(scalar($msm->header($msm->value($id))), scalar(%h), 'a large value has the same head');

    my $guest = $msm->ask($tc, '/', undef)->{id};
    my $bob = $msm->ask($tc, '/login', $guest, method => 'POST', body => 'user=bob&password=pw-bob',
                        headers => ['Content-Type' => 'application/x-www-form-urlencoded'])->{id};
    isnt($msm->base($bob), $msm->base($guest), 'a login changes the base id');
    wait_for { $msm->value($bob) && !$msm->keys($msm->base($guest)) } 5, 'only the new key';
    is($msm->ask($tc, '/app/whoami', $guest)->{status}, 401, 'the id from before the login is worth nothing');

    my $xnat = $msm->ask($tc, '/xnat/', undef);
    like($xnat->{set_cookie}, qr{; Path=/xnat; HttpOnly$}, 'cookie of a context');
    ok((wait_for { $msm->value($xnat->{id}) } 5, 'its key'), 'its key does not name the context');

    $msm->ask($tc, '/app/write?k=a&in=map', $bob);
    $msm->ask($tc, '/app/write?k=b', $bob);
    $msm->flush($tc, $bob);
    $tc->restart;
    is_deeply($msm->ask($tc, '/app/read', $bob)->{json}{keys}, [qw(a b)], 'all of it survives a restart');
    is_deeply([$tc->severe], [], 'no complaint');
}
$t->finish;
