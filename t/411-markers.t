# SPDX-License-Identifier: Apache-2.0
# What a move shows to others: the moved marker on every memcached, which names the home at each
# moment, and HEADs that look like the session's own requests. Nothing else is ever written.
use v5.36;
use Test::More;
use Time::HiRes qw(time);
use XB::Test;
use XB::MoveRig;

my $t = XB::Test->new;
my $rig = XB::MoveRig->new($t, relay => 1, conf => <<'END');
XnatBalanceMemcachedTimeout 2s
ProxyPreserveHost On
END
my %n = map { $_->name => $_ } $rig->nodes;
my ($c, $h) = ($rig->client, $rig->httpd);
my @stores = qw(m1 m2);
my $marker = sub ($id) {
    my $key = 'xnat-balance:moved:' . XB::FakeMsm->base($id);
    return join ' ', map { $rig->store($_)->get($key) // '-' } @stores;
};
my $moves = sub { return $rig->status->{moves_by_reason}{drain} };
my $header = sub ($req, @names) {
    return { map { $_ => scalar XB::Backend->header($req, $_) } @names };
};

# ---- a session's way from n1 to n2

$rig->only('n1');
$rig->login('pinned', 'n1');
my $pinned = $c->session('pinned');
$rig->store('m1')->set('xnat-balance:pin:' . XB::FakeMsm->base($pinned), 'import');

# HEADs look like the requests that came with the last new session.
my $front = [ Host => 'xnat.example.org', 'X-Forwarded-Proto' => 'https' ];
$c->get('/login', user => 'u', headers => $front);
my $id = $c->session('u');
my $ask = sub ($path) { return $c->get($path, user => 'u', headers => $front) };
$c->jar('u')->{other} = 'cookie';
$ask->('/write?k=1');

$rig->only('n1', 'n2');
$n{n2}->misbehave('slow', for => $id, ms => 300);
$rig->relay('m2')->trick(qr/^set .* n2$/, 'slow', ms => 400, held => 1);
$rig->drain('n1');
wait_for { grep { / n2$/ } $rig->relay('m2')->commands } 5, 'the marker of the new home';
is $marker->($id), 'n2 n1', 'the second memcached has not been told of the new home yet';
my $r = $ask->('/read');
is $marker->($id), 'n2 n2', 'the gate opens only when all have';
like $r->{body}, qr/"node":"n2","writes":\["1"\]/, 'the one that waited comes to its new home';
my ($told) = grep { $_->{line} =~ / n2$/ } $rig->relay('m2')->records;
my ($came) = grep { $_->{path} eq '/read' } $n{n2}->requests;
cmp_ok $came->{time}, '>=', $told->{time} + 0.4, '... and not before that';

my @heads = map { { %$_, at => 'n1' } } $n{n1}->heads;
push @heads, map { { %$_, at => 'n2' } } $n{n2}->heads;
my ($flush, $probe) = grep { $_->{id} eq $id } @heads;
is "$flush->{at} $probe->{at}", 'n1 n2', 'a flush at the home, then a probe at the target';
cmp_ok $flush->{time}, '<', $probe->{time}, '... in this order';
is_deeply $flush->{moved}, { m1 => undef, m2 => undef }, 'no marker before the flush';
is_deeply $probe->{moved}, { m1 => 'n1', m2 => 'n1' },
    'each memcached names the old home when the probe comes';
for my $name (@stores) {
    cmp_ok $probe->{ttl}{$name}, '>', 1800, "$name: it outlives each copy of the session";
    cmp_ok $probe->{ttl}{$name}, '<=', 1800 + 120, '... not much';
}

# ---- HEADs

my @names = qw(Host X-Forwarded-Proto X-Forwarded-Host X-Forwarded-Server);
my ($users) = grep { $_->{path} eq '/write' } $n{n1}->requests;
for my $head ($flush, $probe) {
    is_deeply $header->($head, @names), $header->($users, @names),
        "$head->{at}: Host and X-Forwarded-* are those that stock httpd sends";
    my $named = $head->{flush} ? XB::FakeMsm->base($id) . '.xnat-balance' : $id;
    is $header->($head, 'Cookie')->{Cookie}, "JSESSIONID=$named", '... with the id alone';
    is $head->{uri}, '/_xnat_balance_probe', '... at a path that nobody serves';
}

# ---- on to n3, before the client has heard of n2: the newest id

my $before = $moves->();
$c->jar('u')->{JSESSIONID} = $id;
$rig->only('n2', 'n3');
$rig->drain('n2');
wait_for { $moves->() > $before } 5, 'the second move';
my $newest = XB::FakeMsm->base($id) . '.n2';
is_deeply [ map { $_->{id} } ($n{n2}->heads)[-1], $n{n3}->heads ], [ $newest, $newest ],
    'the HEADs of the next move carry the newest id, whatever the client has';
is_deeply [ ($n{n3}->heads)[0]{moved} ], [ { m1 => 'n2', m2 => 'n2' } ],
    'and the markers name the home in between';
like $ask->('/read')->{body}, qr/"node":"n3","writes":\["1"\]/, 'its client follows';
is $marker->($id), 'n3 n3', 'the marker names the home';

# ---- a session of another context; a probe that is refused; a probe path of the configuration

$rig->undrain($_) for qw(n1 n2);
$rig->only('n1');
my $at = sub ($user, $context) {
    $c->get("$context/login", user => $user);
    $c->get("$context/write?k=1", user => $user);
    return $c->session($user);
};
my $of_xnat = $at->('x', '/xnat');
my $refused = $rig->login('refused', 'n1');
$n{n2}->misbehave('error', for => $refused);
$rig->only('n1', 'n2');
$before = $moves->();
$rig->drain('n1');
wait_for { $moves->() > $before && $rig->refusals >= 2 } 5, 'a move and a refusal';
is_deeply [ map { $_->{uri} } grep { $_->{id} eq $of_xnat } map { $_->heads } @n{qw(n1 n2)} ],
    [ ('/xnat/_xnat_balance_probe') x 2 ], 'HEADs stay below the path of the cookie';
is $marker->($refused), 'n1 n1', 'after a probe without proof the marker names the old home';
is $marker->($pinned), '- -', 'none for a session that was refused before';

$h->set_conf($rig->conf("XnatBalanceProbe /alive.txt\nXnatBalanceMemcachedTimeout 2s"));
$h->graceful;
$rig->undrain('n1');
$rig->only('n1');
my $asked = $at->('y', '');
$rig->only('n1', 'n2');
$before = $moves->();
$rig->drain('n1');
wait_for { $moves->() > $before } 5, 'a move with a probe path of its own';
is_deeply [ map { $_->{uri} } grep { $_->{id} eq $asked } map { $_->heads } @n{qw(n1 n2)} ],
    [ ('/alive.txt') x 2 ], 'XnatBalanceProbe overrides the path';

# ---- sessions that may be idle for long, or for ever: so may their copies, and so lives the marker

my %idle = (ever => -1, year => 365 * 86400, month => 30 * 86400 - 60);
$rig->undrain('n1');
$rig->only('n1');
my %long = map { $_ => $rig->login($_, 'n1', max => $idle{$_}) } sort keys %idle;
$rig->only('n1', 'n2');
$before = $moves->();
$rig->drain('n1');
wait_for { $moves->() >= $before + 3 } 5, 'moves of sessions that live long';
for my $name (sort keys %long) {
    my ($head) = grep { $_->{id} eq $long{$name} } $n{n2}->heads;
    my $ttl = $head->{ttl}{m1};
    my $good = $idle{$name} < 0 ? $ttl == -1 : $ttl > $idle{$name} && $ttl <= $idle{$name} + 121;
    ok $good, "$name: the marker lives for $ttl s";
}

# ---- all that the module ever said to memcached

my @said = map { $rig->relay($_)->commands } @stores;
my $beat = qr/^(?:get|set) xnat-balance:front:[0-9a-f]{16}(?: 0 86400 16 [0-9a-f]{16})?$/;
ok(scalar(grep { /$beat/ } @said), 'it tells other front ends that it is here');
@said = grep { !/$beat/ } @said;
my %verb;
$verb{ (split)[0] }++ for @said;
is_deeply [ sort keys %verb ], [qw(get set)], 'it reads and sets, nothing else';
is_deeply [ grep { /^set/ && !/^set xnat-balance:moved:[0-9A-F]{32}-m1 0 (?:0|19[12]\d|\d{10}) 2 n[123]$/ }
            @said ], [], 'all that it sets are moved markers';
my $id_or_pin = qr/(?:xnat-balance:pin:[0-9A-F]{32}-m1|[0-9A-F]{32}-m1\.n[123])/;
is_deeply [ grep { /^get/ && !/^get $id_or_pin$/ } @said ], [],
    'it asks for pins and for the keys of sessions only';

# ---- a pin holds a session back from moves, not from its rescue

is $rig->ask('pinned', '/read')->{node}, 'n1', 'the pinned session is where it was';
$n{n1}->stop;
my $rescued = $rig->ask('pinned', '/read');
is "$rescued->{status} $rescued->{node}", '200 n2', '... and is rescued when its node dies';
$t->allow_log(qr/AH01114|AH00957|AH00959|AH00940|AH01102|AH00898/);
$t->finish;
