# SPDX-License-Identifier: Apache-2.0
# A memcached that is hung, dead, slow, trickling, lying or not there yet: sessions do not move,
# and no request is slower for it; when it is well again, they move. One balancer for each.
use v5.36;
use Test::More;
use JSON::PP;
use List::Util qw(max);
use Time::HiRes qw(time);
use XB::Test;
use XB::FakeMsm;
use XB::Relay;

my @USERS = 1 .. 3;
my %trouble = (
    well     => sub ($r) { },
    sluggish => sub ($r) { $r->trick('slow', ms => 10) },
    hung     => sub ($r) { $r->pause },
    dead     => sub ($r) { $r->stop },
    dropping => sub ($r) { $r->trick('drop') },
    slow     => sub ($r) { $r->trick('slow', ms => 1000) },
    trickle  => sub ($r) { $r->trick('trickle', ms => 100) },
    garbage  => sub ($r) { $r->trick('garbage') },
    lying    => sub ($r) { $r->trick('lie') },
    absent   => sub ($r) { },           # since before httpd was started
);
my @names = sort keys %trouble;
my @bad = grep { !/^(?:well|sluggish)$/ } @names;

my $t = XB::Test->new;
my $mc = $t->memcached;
my $m2 = $t->memcached;
my %node = XB::FakeMsm->fleet($t, { m1 => $mc }, qw(n1 n2 n3));
my %relay = map { $_ => XB::Relay->new($t, $_, $mc) } @names;
$relay{absent}->stop;

# n2 and n3 get sessions only when n1 takes none.
my $conf = '';
for my $name (@names) {
    $conf .= <<"END";
<Proxy "balancer://$name">
BalancerMember @{[ $node{n1}->url ]} route=n1
BalancerMember @{[ $node{n2}->url ]} route=n2 lbset=1
BalancerMember @{[ $node{n3}->url ]} route=n3 lbset=1
ProxySet lbmethod=xnat stickysession=JSESSIONID|jsessionid
XnatBalanceMemcachedNodes "m1:@{[ $relay{$name}->address ]},m2:@{[ $m2->address ]}"
</Proxy>
ProxyPass "/$name/" "balancer://$name/$name/"
END
}
my $h = $t->httpd(conf => <<"END");
XnatBalanceGrace 20ms
XnatBalanceMemcachedTimeout 250ms
<Location "/status">
SetHandler xnat-balance-status
</Location>
$conf
END
my $c = $h->client;

sub status () { return decode_json($c->get('/status?format=json')->{body}) }

# Sessions that have moved, by balancer.
sub moved ()
{
    my %moved;
    for my $b (@{ status()->{balancers} }) {
        my ($name) = $b->{name} =~ m{//(\w+)};
        $moved{$name} += $_->{moved_in} for @{$b->{members}};
    }
    return \%moved;
}

sub stores ()
{
    my %by_port = map { $_->{address} => $_ } @{ status()->{store_nodes} };
    return map { $_ => $by_port{ $relay{$_}->address } } @names;
}

sub login ($generation)
{
    my @r = $c->many([ map { my $n = $_;
        map { { path => "/$n/login", user => "$generation$n$_" } } @USERS } @names ]);
    push @r, $c->many([ map { my $n = $_;
        map { { path => "/$n/read", user => "$generation$n$_" } } @USERS } @names ]);
    return scalar grep { $_->{status} != 200 } @r;
}

# Every user asks again and again for a while. Times in ms by balancer; what was not 200.
sub traffic ($rounds)
{
    my (%ms, @wrong, @queue);
    my $round = sub { return map { my $n = $_; map { [ $n, $_ ] } @USERS } @names };
    my $pause = 0;
    $c->run(parallel => 4,
        next => sub {
            return $pause = 0, 0.06 if $pause;
            return undef if !@queue && !$rounds--;
            @queue = $round->() if !@queue;
            my ($name, $n) = @{ shift @queue };
            $pause = !@queue;
            return { path => "/$name/read", user => "a$name$n", name => $name };
        },
        done => sub ($r, $req) {
            push @wrong, "$req->{name}: $r->{status} $r->{error}" if $r->{status} != 200;
            push @{$ms{ $req->{name} }}, 1000 * $r->{time};
        });
    return (\@wrong, map { $_ => [ sort { $a <=> $b } @{$ms{$_}} ] } keys %ms);
}

sub median ($list) { return $list->[ $#$list / 2 ] }

is login('a'), 0, 'sessions at n1';
my ($wrong, %calm) = traffic(6);
is_deeply $wrong, [], 'all is well';

$trouble{$_}->($relay{$_}) for @names;
my %before = stores();
$h->manager($_, $node{n1}->url, drain => 1) for @names;
($wrong, my %ms) = traffic(12);
is_deeply $wrong, [], 'no request fails while memcacheds are bad';

my $moved = moved();
is_deeply { map { $_ => $moved->{$_} } @bad }, { map { $_ => 0 } @bad }, 'and no session moves';
for my $name (qw(well sluggish)) {
    ok eval { wait_for { moved()->{$name} == @USERS } 12, 'moves' },
        "except where it is $name: there all do";
}

# The first look-up at a bad memcached finds out, at a shut gate: that much and no more.
my $calm_median = median([ sort { $a <=> $b } map { @{$calm{$_}} } @names ]);
my $calm_max = max map { @{$calm{$_}} } @names;
for my $name (@bad) {
    my ($median, $most) = (median($ms{$name}), $ms{$name}[-1]);
    my $text = sprintf 'median %.1f, most %.1f ms; well: %.1f, %.1f', $median, $most,
        $calm_median, $calm_max;
    cmp_ok $median, '<', 3 * $calm_median + 10, "$name: its requests are as fast ($text)";
    cmp_ok $most, '<', 5 * $calm_max + 400, '... each of them';
}

my %after = stores();
for my $name (grep { $_ ne 'lying' } @bad) {
    my $failures = $after{$name}{failures} - ($name eq 'absent' ? 0 : $before{$name}{failures});
    cmp_ok $failures, '>', 0, "$name: failures are counted";
    cmp_ok $failures, '<=', 12, '... few: the breaker keeps the mover off';
    ok wait_for { my %now = stores(); $now{$name}{breaker_open} } 10, '... and is seen to';
}
for my $word (qw(store-down store-late not-in-store)) {
    ok eval { wait_for { status()->{refusals_by_reason}{$word} } 10, $word }, "refused: $word";
}

# Well again. Sessions that were refused are left alone for a while: others are to move.
$relay{hung}->cont;
$relay{$_}->start for qw(dead absent);
$_->well for values %relay;
$h->manager($_, $node{n1}->url, drain => 0) for @names;
is login('b'), 0, 'new sessions';
my $was = moved();
$h->manager($_, $node{n1}->url, drain => 1) for @names;
my %left = map { $_ => 1 } @names;
eval {
    wait_for {
        my $now = moved();
        delete @left{ grep { $now->{$_} >= $was->{$_} + @USERS } keys %left };
        !%left;
    } 15, 'moves to resume';
};
is_deeply [ keys %left ], [], 'when memcached is well, sessions move again';
ok wait_for { my %now = stores(); !grep { $now{$_}{breaker_open} } @names } 10,
    'no breaker stays open';
wait_for { !status()->{mover}{workers_busy} } 10, 'the last moves to end';
$t->allow_log(qr/AH01102|AH00898/);     # on a busy machine, a HEAD that is too late
$t->finish;
