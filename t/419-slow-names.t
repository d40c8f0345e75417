# SPDX-License-Identifier: Apache-2.0
# A memcached that is given by name, and DNS that takes its time: sessions do not wait for it at
# their gates. (A child that ends meanwhile is waited for: AH00045.)
use v5.36;
use Test::More;
use List::Util qw(max);
use XB::Deps;
use XB::Test;
use XB::MoveRig;
use XB::Rescue;

plan skip_all => 'preloads a library of its own' if $ENV{XB_ASAN} || $ENV{XB_VALGRIND};
my $t = XB::Test->new;
my ($so, $file) = ($t->path('slow_names.so'), $t->path('slow-names'));
my $cc = $ENV{CC} // 'gcc';
my $source = XB::Deps->root . '/t/lib/slow_names.c';
my $said = `$cc -D_GNU_SOURCE -fPIC -shared -o '$so' '$source' -ldl 2>&1`;
is $?, 0, 'the library to preload is built' or diag $said;

my %store = map { $_ => $t->memcached } qw(m1 m2);
my %relay = map { $_ => XB::Relay->new($t, $_, $store{$_}) } qw(m1 m2);
my $rig = XB::MoveRig->new($t, share => { store => \%store },
    at => { map { $_ => 'slow.test:' . $relay{$_}->port } qw(m1 m2) },
    httpd => { threads => 60, env => { LD_PRELOAD => $so, XB_SLOW_NAMES => $file } },
    conf => "XnatBalanceMove Drain\nXnatBalanceMemcachedTimeout 250ms");
my ($h, $x) = ($rig->httpd, XB::Rescue->new($rig));
my $slowest = sub (%r) { return max map { $_->{time} } map { @$_ } values %r };

subtest 'a name that is known' => sub {
    my @users = $x->at('n1', 2);
    $rig->node('n1')->stop;
    $x->rescued($x->burst(@users));
    $x->mend('n1');
};

subtest 'looked up again while its memcached is away' => sub {
    my @users = $x->at('n1', 2);
    $t->write('slow-names', '');
    $_->stop for values %relay;
    $rig->node('n1')->stop;
    my %r = $x->burst(@users);
    cmp_ok $slowest->(%r), '<', 2.5, 'nobody waits for DNS: ' . $slowest->(%r);
    unlink $file;
    $_->start for values %relay;
    $x->mend('n1');
    $x->store_well;
};

subtest 'not known when httpd starts' => sub {
    my @users = $x->at('n1', 2);
    $t->write('slow-names', '');
    $rig->forget;
    my %r = $x->burst(@users);
    cmp_ok $slowest->(%r), '<', 2.5, 'nobody waits for DNS: ' . $slowest->(%r);
    is join(' ', $x->nodes_of(map { @$_ } values %r)), 'n1', '... and cookies are followed';
    unlink $file;
    ok $x->store_well, 'found at last';
    $rig->login('u', 'n1');
    $rig->drain('n1');
    ok wait_for { $rig->moved } 20, '... sessions move';
};
$t->allow_log(qr/AH00045|XB0304|AH01114|AH00957|AH00959|AH00940|AH01102|AH00898/);
$t->finish;
