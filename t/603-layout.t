# SPDX-License-Identifier: Apache-2.0
# A graceful restart with a build of the module whose shared memory has another layout: told once,
# nobody's request fails, sessions stick, and a stop and start brings everything back.
use v5.36;
use Test::More;
use FindBin ();
use lib "$FindBin::Bin/lib";
use XB::Test;

my $t = XB::Test->new;
my %n = map { $_ => $t->backend($_) } qw(n1 n2);
my $conf = <<"END";
<Proxy "balancer://app">
BalancerMember @{[ $n{n1}->url ]} route=n1
BalancerMember @{[ $n{n2}->url ]} route=n2
ProxySet lbmethod=xnat stickysession=JSESSIONID|jsessionid
</Proxy>
<Location "/status">
SetHandler xnat-balance-status
</Location>
ProxyPass "/status" "!"
ProxyPass "/" "balancer://app/"
END
my $h = $t->httpd(conf => $conf);
my $c = $h->client;
$c->get('/login', user => "u$_") for 1 .. 4;
my %home = map { $_ => $c->session("u$_") =~ s/.*\.//r } 1 .. 4;

$t->expect_log(qr/XB0103/);
$h->{module} = 'build/layout/mod_xnat_balance.so';
$h->set_conf($conf);
$c->close;
$h->graceful;
wait_for { $h->error_log =~ /XB0103/ } 10, 'the notice';
wait_for { $c->get('/status')->{status} == 503 } 10, 'the new generation';
pass('the status page says 503');
is(scalar(grep { $c->get('/echo', user => "u$_")->{status} == 200 } 1 .. 4), 4,
    'sessions are served');
my @new = map { my $r = $c->get('/login', user => "v$_"); $c->session("v$_") =~ s/.*\.//r } 1 .. 8;
my %share;
$share{$_}++ for @new;
is(scalar keys %share, 2, 'new sessions are spread');
is(scalar(grep { $c->session("u$_") =~ /\.\Q$home{$_}\E\z/ } 1 .. 4), 4, 'the others stick');

$h->stop;
$h->start;
$c->close;
wait_for { $c->get('/status')->{status} == 200 } 10, 'the status page';
pass('a stop and a start bring it back');
$t->finish;
