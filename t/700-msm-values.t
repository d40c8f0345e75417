# SPDX-License-Identifier: Apache-2.0
# Facts of MSM: what an id names, where its key is, how its value begins. Both serializers.
use v5.36;
use Test::More;
use XB::Test;
use XB::Tomcat;
use XB::Msm;

my $t = XB::Test->new;
my %msm = (java => XB::Msm->new($t, 2), kryo => XB::Msm->new($t, 2, prefix => 'site_'));
my %option = (java => {}, kryo => {prefix => 'static:site'});
my %tc = map {
    $_ => XB::Tomcat->start($t, route => "tomcat-$_", serializer => $_,
                            memcached => $msm{$_}->nodes, %{$option{$_}});
} qw(java kryo);
$_->wait_ready for values %tc;

for my $serializer (qw(java kryo)) {
    my ($msm, $tc) = ($msm{$serializer}, $tc{$serializer});
    note $serializer;
    my @id = map { $msm->login($tc, "user$_") } 1 .. 8;
    is(scalar(grep { /^[0-9A-F]{32}-n[12]\.tomcat-$serializer$/ } @id), 8,
       'id = 32 hex digits, -node, .route');
    is_deeply([$msm->keys], [sort map { $msm->node_of($_) . " $msm->{prefix}$_" } @id],
              "each key is '$msm->{prefix}' and the id, on the node that the id names");

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
    ok($ttl > 1790 && $ttl <= 1806, "expires with the session, plus 6 delays: $ttl");

    $msm->ask($tc, '/app/size?kb=200', $id);
    wait_for { length $msm->value($id) > 200_000 } 5, 'a large session';
    my %large = $msm->header($msm->value($id));
    is("@large{qw(version valid id)}", "2 1 $id", 'a large value has the same head');

    my $guest = $msm->ask($tc, '/', undef)->{id};
    # MSM stores when it has answered: later than the login, it would make the old key anew.
    wait_for { $msm->value($guest) } 5, "the guest's key";
    my $bob = $msm->post_login($tc, 'bob', $guest)->{id};
    isnt($msm->base($bob), $msm->base($guest), 'a login changes the base id');
    wait_for { $msm->value($bob) && !$msm->keys($msm->base($guest)) } 5, 'only the new key';
    is($msm->ask($tc, '/app/whoami', $guest)->{status}, 401, 'the old one is worth nothing');

    my $xnat = $msm->ask($tc, '/xnat/', undef);
    like($xnat->{set_cookie}, qr{; Path=/xnat; HttpOnly$}, 'cookie of a context');
    ok((wait_for { $msm->value($xnat->{id}) } 5, 'key'), 'its key does not name the context');

    $msm->ask($tc, '/app/write?k=a&in=map', $bob);
    $msm->ask($tc, '/app/write?k=b', $bob);
    $msm->stored($tc, $bob, qr/w\.[b\xe2]/);    # Kryo sets the top bit of a last character
    $tc->restart;
    my $keys = $msm->ask($tc, '/app/read', $bob)->{json}{keys};
    is_deeply($keys, [qw(a b)], 'all of it survives a restart');
    is_deeply([$tc->severe], [], 'no complaint');
}
# Why the README wants backgroundProcessorDelay="1". Both sessions are only read, all the time.
{
    # Keys of these live for 10 - 6 and for 3 + 6 seconds: MSM adds six delays, and none is -1.
    my %life = (never => { delay => -1, max_inactive => 10 },
                often => { delay => 1, max_inactive => 3 });
    my $renewing = XB::Msm->new($t, 2);
    my %renews = map {
        $_ => XB::Tomcat->start($t, route => $_, contexts => ['/'], memcached => $renewing->nodes,
                                %{$life{$_}});
    } keys %life;
    $_->wait_ready for values %renews;
    my %id = map { $_ => $renewing->login($renews{$_}, $_) } keys %life;
    my %ttl = map { $_ => [ $renewing->ttl($id{$_}) ] } keys %life;
    cmp_ok($ttl{never}[0], '<=', 4, 'delay -1: the key lives for 6 s less than the session');
    cmp_ok($ttl{often}[0], '>', 3, 'delay 1: for up to 6 s more');
    my $read = sub ($name) {
        return $renewing->ask($renews{$name}, '/app/read', $id{$name})->{status};
    };
    my (%status, $renewed);
    wait_for {
        $status{$_}{ $read->($_) }++ for keys %life;
        push @{$ttl{$_}}, $renewing->ttl($id{$_}) // 'gone' for keys %life;
        $renewed ||= $ttl{often}[-1] ne 'gone' && $ttl{often}[-1] > $ttl{often}[-2];
        $renewed && $ttl{never}[-1] eq 'gone';
    } 15, 'one key to be renewed and the other to run out';
    pass('delay 1: the key of a session in use is renewed');
    ok(!(grep { $_ eq 'gone' } @{$ttl{often}}), '... before it runs out');
    pass('delay -1: it is not, and runs out');
    is(scalar(grep { $ttl{never}[$_] ne 'gone' && $ttl{never}[ $_ - 1 ] eq 'gone' }
                  1 .. $#{$ttl{never}}), 0, '... for good');
    is_deeply([ map { keys %{$status{$_}} } keys %life ], [ 200, 200 ],
              'while both sessions are alive');
}
$t->finish;
