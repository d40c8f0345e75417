# SPDX-License-Identifier: Apache-2.0
# A home that hangs is given up: what it still answers when it comes back is not believed, and
# its stale copy of the session is never served again.
use v5.36;
use Test::More;
use Time::HiRes qw(time);
use XB::Test;
use XB::MoveRig;
use XB::Rescue;

my $BACKLOG = 128;              # of an XB::Server
my $t = XB::Test->new;
my $DRAIN = "XnatBalanceMove Drain\nXnatBalanceMemcachedTimeout 1s";
my $rig = XB::MoveRig->new($t, conf => $DRAIN, relay => 1, member => 'retry=600',
    httpd => { threads => 60 });
my ($h, $n1) = ($rig->httpd, $rig->node('n1'));
my $x = XB::Rescue->new($rig);
my $again = sub ($member, $section = '') {
    $rig->client->close;
    @$rig{qw(member section)} = ("retry=600 $member", $section);
    $h->set_conf($rig->conf($DRAIN));
    $h->graceful;
};
my $switch = sub ($node, %flag) { $h->manager('app', $rig->node($node)->url, %flag) };
sub member ($name) { my %m = $h->members("app"); return $m{$name} }
my $writes = sub ($user) {
    return { map { $_ => 1 } @{$rig->ask($user, '/read')->{json}{writes}} };
};

subtest 'late answers' => sub {
    my ($user) = $x->at('n1', 1);
    my $id = $x->id($user);
    my $cookie = "Set-Cookie:JSESSIONID=$id;Path=/";
    $n1->clear;
    my @late = map { $rig->send($user, $_) }
        '/write?k=late&ms=300', "/bytes?n=5&ms=300&header=$cookie", '/read?ms=300';
    wait_for { (() = $n1->requests) >= 3 } 5, 'the home to have them';
    $n1->pause;
    $switch->('n1', hcfailed => 1);
    my %r = $x->burst($user);
    my ($home) = $x->rescued(%r);
    my $moved = $rig->client->session($user);
    isnt $moved, $id, 'taken over by another node';
    $n1->cont;
    my @answers = map { $rig->receive($_) } @late;
    is_deeply [ map { $_->{status} } @answers ], [ (502) x 3 ], 'what the old home answers now is 502';
    is_deeply [ map { $_->{head} =~ /^Set-Cookie/mi } @answers ], [], '... without its Set-Cookie';
    is scalar(() = $h->error_log =~ /XB0202/g), 3, '... with a reason in the log';
    is $rig->status->{gates}{fenced}, 3, '... and counted';
    wait_for { grep { $_ eq 'late' } @{$n1->_take($id)} } 5, 'a fork at the old home';

    $x->mend('n1');
    $n1->clear;
    for my $n (1 .. 10) {
        for my $carried ($id, $moved) {
            my $r = $rig->client->get("/write?k=after$n", cookie => "JSESSIONID=$carried");
            is $r->{status}, 200, 'answered' if $n == 1;
        }
    }
    is_deeply [ $n1->requests ], [], 'the old home gets nothing, whatever id comes';
    my $all = $writes->($user);
    ok !$all->{late}, 'its late write is not in the session';
    is scalar(grep { !$all->{"after$_"} } 1 .. 10), 0, 'all later ones are';

    my ($next) = grep { !/^(?:n1|$home)$/ } qw(n1 n2 n3);
    $rig->drain($home);
    wait_for { $rig->status->{moves_by_reason}{drain} } 10, 'a move on';
    is $rig->ask($user, '/read')->{node}, $next, 'it moves on, but never back to the old home';
    $rig->undrain($home);
};

# A write that the old home acknowledges now is in nobody's session a moment later.
subtest 'an answer in the middle of the takeover' => sub {
    my ($user) = $x->at('n1', 1);
    $n1->clear;
    my $late = $rig->send($user, '/write?k=late&ms=300');
    wait_for { (() = $n1->requests) >= 1 } 5, 'the home to have it';
    $n1->pause;
    # Taken over, but not committed yet: the marker of the new home takes its time.
    $rig->relay($_)->trick(qr/^set \S+:moved:.* n[23]$/, 'slow', ms => 900) for qw(m1 m2);
    $switch->('n1', hcfailed => 1);
    my $next = $rig->send($user, '/read');
    wait_for { !$rig->store('m1')->get($x->id($user)) } 5, 'the takeover';
    $n1->cont;
    my $answer = $rig->receive($late);
    my $read = $rig->receive($next);
    $rig->relay($_)->well for qw(m1 m2);
    my $is_in = grep { $_ eq 'late' } @{$read->{json}{writes}};
    is $answer->{status}, $is_in ? 200 : 502, 'it is said to have failed, as it has';
    is $read->{status}, 200, 'the session goes on';
    $x->mend('n1');
};

# Nobody can connect: the kernel's queue of a stopped process is full, further SYNs are dropped.
my $cut_off = sub {
    $n1->pause;
    return map {
        IO::Socket::INET->new(PeerAddr => $n1->address, Blocking => 0)
    } 1 .. $BACKLOG + 40;
};

subtest 'no connection' => sub {
    $again->('connectiontimeout=1 disablereuse=On');
    my @users = $x->at('n1', 3);
    my @full = $cut_off->();
    my %r = $x->burst(@users);
    $x->rescued(%r);
    $x->mend('n1');
};

subtest 'a try that ends when the session is elsewhere' => sub {
    $again->('connectiontimeout=1 disablereuse=On');
    my ($user) = $x->at('n1', 1);
    my @full = $cut_off->();
    my @early = map { $rig->send($user, "/write?k=early$_") } 1 .. 3;
    wait_for { member("n1")->{busy} >= 3 } 5, 'three requests that try';
    $switch->('n1', disabled => 1);
    my %r = $x->burst($user);
    my ($home) = $x->rescued(%r);
    my @answers = map { $rig->receive($_) } @early;
    is_deeply [ map { "$_->{status} $_->{node}" } @answers ], [ ("200 $home") x 3 ],
        'they go on with the rest';
    $x->mend('n1');
};

subtest 'a health check notices' => sub {
    $again->('hcmethod=GET hcuri=/hc hcinterval=1 hcfails=1 timeout=1');
    my @users = $x->at('n1', 3);
    $n1->pause;
    wait_for { member("n1")->{status} =~ /HcFl/ } 15, 'the check to fail';
    my %r = $x->burst(@users);
    $x->rescued(%r);
    $n1->cont;
};

subtest 'a time-out notices' => sub {
    $again->('timeout=1', 'ProxySet failontimeout=On');
    my @users = $x->at('n1', 3);
    $n1->pause;
    my $r = $rig->ask($users[0], '/read');
    like $r->{status}, qr{^50[24]$}, 'the request in flight is lost';
    my %r = $x->burst(@users);
    $x->rescued(%r);
    $n1->cont;
};
$t->expect_log(qr/AH00957/);
$t->allow_log(qr/AH01114|AH00959|AH01170|AH01167|AH0117|AH00898|AH01102|AH01110|AH00940|AH03324/,
              qr/AH02460|AH10/);
$_->hang_up for $rig->nodes;
$t->finish;
