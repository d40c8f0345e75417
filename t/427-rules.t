# SPDX-License-Identifier: Apache-2.0
# What single rules of a move are there for: one short story each, in which a session would lose
# writes, its login or a request's answer without the rule. Arguments choose stories: t/mutants.
use v5.36;
use Test::More;
use XB::Test;
use XB::MoveRig;
use XB::Rescue;

my $t = XB::Test->new;
my $conf = <<'END';
XnatBalanceMove Drain
XnatBalanceMemcachedTimeout 1s
XnatBalanceGateTimeout 3s
END
my $rig = XB::MoveRig->new($t, httpd => { threads => 32 }, conf => $conf);
my ($h, $c) = ($rig->httpd, $rig->client);
my $x = XB::Rescue->new($rig);
my $url = sub ($node) { return $rig->node($node)->url };
my $disable = sub ($node) { $h->manager('app', $url->($node), disabled => 1) };

# The node that is asked first, if the rule does not bar it: it has by far the greatest capacity.
my $prefer = sub ($node) {
    $h->manager('app', $url->($_), set => { w_lf => $_ eq $node ? 100 : 1 }) for qw(n1 n2 n3);
    return if !$node;
    # and the others have had the traffic
    $c->get('/bytes?n=2000000', cookie => "JSESSIONID=FACE0$_.$_", discard => 1)
        for grep { $_ ne $node } qw(n1 n2 n3);
    wait_for {
        my %score = map { $_->{route} => $_->{score} } @{$rig->status->{balancers}[0]{members}};
        !grep { $_ ne $node && $score{$_} < 2 * $score{$node} + 0.1 } keys %score;
    } 5, "$node to be the best";
};

# The only user, whose session is at n1 and has one write.
my $user;
my $begin = sub {
    $c->get('/logout', user => $user) if $user;
    $x->mend(qw(n1 n2 n3));
    $rig->undrain($_) for qw(n1 n2 n3);
    $prefer->('');
    for my $node ($rig->nodes) {
        $node->behave;
        $node->clear;
    }
    ($user) = $x->at('n1', 1);
    return XB::FakeMsm->base($x->id($user));
};

# From n1 to n2.
my $move = sub {
    my $before = $rig->moved;
    $rig->only('n1', 'n2');
    $rig->drain('n1');
    wait_for { $rig->moved > $before } 10, 'a move';
    $rig->undrain('n1');
    $rig->open;
};

# status, node and writes, as one line
my $line = sub ($r) {
    return join ' ', $r->{status}, $r->{node}, @{$r->{json}{writes} // []};
};
my $asks = sub ($path) { return $line->($rig->ask($user, $path)) };

my $probes = sub ($node) { return scalar grep { !$_->{flush} } $rig->node($node)->heads };

my %story;

# MSM stores after its answer, or a while later.
$story{FLUSH} = sub {
    $begin->();
    is $asks->('/write?k=late&ends=2000'), '200 n1 first late', 'a write that is not stored yet';
    $move->();
    is $asks->('/read'), '200 n2 first late', 'goes with its session';
};

$story{QUIET} = sub {
    my $base = $begin->();
    my $socket = $rig->send($user, '/write?k=long&ms=1000');
    wait_for { $rig->node('n1')->count('/write') == 2 } 5, 'a request in flight';
    $rig->only('n1', 'n2');
    $rig->drain('n1');
    is $line->($rig->receive($socket)), '200 n1 first long', 'a request in flight ends where it is';
    wait_for { $rig->ask($user, '/read')->{node} eq 'n2' } 5, 'the move';
    is $asks->('/read'), '200 n2 first long', 'and then its session moves';
};

$story{VISITED} = sub {
    $begin->();
    $move->();
    is $asks->('/write?k=second'), '200 n2 first second', 'n1 has an old copy';
    $prefer->('n1');
    $disable->('n2');
    is $asks->('/read'), '200 n3 first second', 'n2 is lost, n1 is idle, and yet it is n3';
    # Without the rule STALE would still find out, after a wait.
    is $probes->('n1'), 0, 'n1 is not even asked';
};

$story{SENT} = sub {
    $begin->();
    my $refused = $rig->refused('no-proof-in-store') // 0;
    $rig->node('n2')->misbehave('never-stores', for => $x->id($user));
    $rig->only('n1', 'n2');
    $rig->drain('n1');
    wait_for { ($rig->refused('no-proof-in-store') // 0) > $refused } 10, 'a vain probe';
    $rig->node('n2')->behave;
    $rig->undrain('n1');
    is $asks->('/write?k=second'), '200 n1 first second', 'n2 has a copy of a vain probe';
    $rig->open;
    $prefer->('n2');
    my $before = $probes->('n2');
    $disable->('n1');
    is $asks->('/read'), '200 n3 first second', 'n1 is lost, n2 is idle, and yet it is n3';
    is $probes->('n2'), $before, 'n2 is not asked again';
};

$story{NEWEST} = sub {
    my $base = $begin->();
    $move->();
    is $asks->('/write?k=second'), '200 n2 first second', 'a write at n2';
    my $old = XB::FakeMsm->value("$base.n1", writes => ['first']);
    $rig->store('m1')->set("$base.n1", $old);
    $rig->drain('n2');
    wait_for { $asks->('/read') =~ /^200 n3/ || $rig->refused('renamed-by-home') } 10, 'a move';
    is $asks->('/read'), '200 n3 first second', 'a key of old is not what n3 takes over';
    $rig->undrain('n2');
};

# n2 takes the session over at once and never says so: its old home answers in between.
$story{FENCE} = sub {
    my $base = $begin->();
    my $socket = $rig->send($user, '/write?k=vain&ms=800&ends=4000');
    wait_for { $rig->node('n1')->count('/write') == 2 } 5, 'a request in flight';
    $rig->node('n2')->misbehave('mute', for => $x->id($user));
    $rig->only('n1', 'n2');
    $h->manager('app', $url->('n1'), hcfailed => 1);
    my $next = $rig->send($user, '/read');
    is $rig->receive($socket)->{status}, 502, 'what a home that was given up says is not relayed';
    my ($said) = $h->logged(1, sub { $_->{uri} =~ /k=vain/ });
    is "$said->{decision} $said->{reason}", 'refused session-moved-meanwhile', '... and why';
    is $line->($rig->receive($next)), '200 n2 first', 'the session goes on without it';
};

# What n1 has written there again after the move.
$story{MARK} = sub {
    my $base = $begin->();
    $move->();
    is $asks->('/write?k=second'), '200 n2 first second', 'a write at n2';
    my $old = XB::FakeMsm->value("$base.n1", writes => ['first']);
    $rig->store('m1')->set("$base.n1", $old);
    $rig->forget;
    $c->jar($user)->{JSESSIONID} = "$base.n1";
    is $asks->('/read'), '200 n2 first second', 'nobody remembers it, and yet it is found at n2';
};

$story{ANYKEY} = sub {
    my $base = $begin->();
    $t->get($url->('n3') . '/write?k=second', cookie => "JSESSIONID=$base.n1");
    $rig->node('n1')->stop;
    $disable->('n3');
    is $asks->('/read'), '200 n2 first second', 'found under the name that n3 has given it';
};

$story{GENERATION} = sub {
    $begin->();
    my $n1 = $rig->node('n1');
    $n1->stop;
    my $told = () = $h->error_log =~ /XB0320/g;
    $rig->idle(0.5);
    $n1->start;
    wait_for { $told < (() = $h->error_log =~ /XB0320/g) } 10, 'the restart to be noticed';
    my %r = $x->burst($user);
    is join(' ', map { "$_->{status} $_->{node}" } @{$r{$user}}), join(' ', ('200 n1') x 6),
        'after a restart of its node six requests at once are answered';
    is scalar(grep { $_->{own} } $n1->heads), 1, '... after one HEAD that has brought it back';
};

# n2 is slow to finish what it was asked before httpd was restarted: what it has is old. Without a
# path of the configuration HEADs would have none: that of the cookie is forgotten, too.
$story{PROB} = sub {
    my $base = $begin->();
    my ($n2, $late) = ($rig->node('n2'), $rig->refused('probe-late') // 0);
    my $drain = sub {
        $rig->only('n1', 'n2');
        $rig->drain('n1');
    };
    my $probes = sub { return scalar grep { $_->{id} =~ /^$base/ } $n2->heads };
    $n2->misbehave('gap', for => $x->id($user));
    $drain->();
    wait_for { ($rig->refused('probe-late') // 0) > $late } 10, 'a probe that is given up';
    $h->set_conf($rig->conf("$conf XnatBalanceProbe /alive"));
    $rig->forget;
    is $asks->('/write?k=second'), '200 n1 first second', 'a write after a restart of httpd';
    $drain->();
    eval { wait_for { $probes->() > 1 } 2, 'another probe' };
    $n2->behave;
    $rig->idle(0.3);
    is $asks->('/read'), '200 n1 first second', 'a write after a restart of httpd is kept';
};

# n2 and n3 are slow to take it over. Whoever came through unproved would race for it there: they
# load what others have loaded, too.
$story{HOLD} = sub {
    my $slow = XB::MoveRig->new($t, httpd => { name => 'hold', threads => 32 },
        conf => "XnatBalanceMove Drain\nXnatBalanceGateTimeout 2s", with => { loading => 0.2 });
    my $y = XB::Rescue->new($slow);
    my ($one) = $y->at('n1', 1);
    $slow->node($_)->misbehave('late', ms => 3000, for => $y->id($one)) for qw(n2 n3);
    $slow->node('n1')->stop;
    my %r = $y->burst($one);
    my $heads = sub { scalar map { grep { !$_->{flush} } $_->heads } $slow->nodes };
    my $before = $heads->();
    is join(' ', map { $_->{status} } @{$r{$one}}), join(' ', (503) x 6),
        'nobody passes to a node that was asked in vain';
    wait_for { $slow->ask($one, '/read')->{status} == 200 } 10, 'one of them to be done';
    is $heads->(), $before, 'who may be at it is not asked again';
    my %again = $y->burst($one);
    is join(' ', map { $_->{status} } @{$again{$one}}), join(' ', (200) x 6), 'asked again it answers';
    my %is = map { $_ => 1 } @{$slow->ask($one, '/read')->{json}{writes}};
    is join(' ', grep { !$is{$_} } @{$y->{written}{$one}}), '', 'no write is lost';
};

# A session that has moved from n1, where its old copy is, to n2. n3 is disabled.
my $moved_on = sub ($name) {
    my $few = XB::MoveRig->new($t, httpd => { name => $name, threads => 32 }, member => 'retry=1',
        conf => "XnatBalanceMove Drain\nXnatBalanceGateTimeout 2s");
    my $y = XB::Rescue->new($few);
    my ($one) = $y->at('n1', 1);
    $few->only('n1', 'n2');
    $few->drain('n1');
    wait_for { $few->moved == 1 } 10, 'a move';
    $few->undrain('n1');
    is $line->($few->ask($one, '/write?k=second')), '200 n2 first second', 'n1 has an old copy';
    return ($few, $one);
};

# ... nor to one that may hold an old copy, if no other is left.
$story{HOLD_OLD} = sub {
    my ($few, $one) = $moved_on->('old');
    my $asks = sub ($path) { return $line->($few->ask($one, $path)) };
    my $switch = sub ($node, $off) {
        $few->httpd->manager('app', $few->node($node)->url, disabled => $off);
    };
    my $before = $few->node('n1')->count('/read');
    $few->node('n2')->stop;
    my $r = $few->ask($one, '/read');
    is $r->{status}, 503, 'n2 is lost, only n1 is left: nobody answers';
    like $few->client->header($r, 'Retry-After'), qr/^\d+$/, '... yet';
    $few->node('n2')->start;
    my $last;
    wait_for { ($last = $asks->('/write?k=third')) =~ /^200/ } 20, 'the end of the error state';
    is $last, '200 n2 first second third', 'n2 is back: all is there';
    $switch->('n2', 1);
    is $few->ask($one, '/read')->{status}, 503, 'n2 is disabled';
    $switch->('n3', 0);
    is $asks->('/read'), '200 n3 first second third', 'n3 is back: it takes the session over';
    is $few->node('n1')->count('/read'), $before, 'n1 was sent none of its requests';
};

# ... not even if no memcached knows anything of the session any more, as after their restart.
$story{HOLD_NOWHERE} = sub {
    my ($few, $one) = $moved_on->('nowhere');
    my $before = $few->node('n1')->count('/read');
    wait_for { ($few->store('m1')->get($few->client->session($one)) // '') =~ /second/ } 10, 'its store';
    $few->node('n2')->stop;
    $few->store($_)->flush for qw(m1 m2);
    my @answers = map { $few->ask($one, '/read')->{status} } 1 .. 3;
    is "@answers", '503 503 503', 'n2 is lost, so are all keys, only n1 is left: nobody answers';
    is $few->node('n1')->count('/read'), $before, 'n1 was sent none of its requests';
    is scalar(() = $few->httpd->error_log =~ / XB0304: /g), 1, 'that the session is lost is said once';
    is $few->status->{sessions}{lost}, 1, '... and counted once';
    $t->expect_log(qr/XB0304/);
};

# ... nor to a home that is back without it, while another one may be taking it over.
$story{HOLD_BACK} = sub {
    my $few = XB::MoveRig->new($t, httpd => { name => 'back', threads => 32 }, member => 'retry=0',
        conf => "XnatBalanceMove Drain\nXnatBalanceGateTimeout 2s");
    my $y = XB::Rescue->new($few);
    my ($one) = $y->at('n1', 1);
    my $base = XB::FakeMsm->base($y->id($one));
    my $taken = sub { $few->store('m1')->get("$base.n2") };
    $few->node('n2')->misbehave('late', ms => 8000, for => $y->id($one));
    $few->only('n1', 'n2');
    $few->node('n1')->stop;
    is $few->ask($one, '/read')->{status}, 503, 'n1 is lost, n2 is asked in vain';
    $few->node('n1')->start;
    my @early;
    wait_for {
        my $r = $few->ask($one, '/read');
        push @early, $line->($r) if $r->{status} != 503 && !$taken->();
        $taken->();
    } 20, 'n2 to take it over';
    is_deeply \@early, [], 'n1 is back: nobody passes while n2 may be at it';
    wait_for { $few->ask($one, '/read')->{status} == 200 } 10, 'an answer';
    is $line->($few->ask($one, '/read')), '200 n2 first', 'n2 has it';
};

# n2 has an old copy, and its key, of a move that was given up. n3 takes the session over and is slow
# to store it.
$story{LATE} = sub {
    my $slow = XB::MoveRig->new($t, httpd => { name => 'late', threads => 32 },
        conf => "XnatBalanceMove Drain\nXnatBalanceGateTimeout 2s");
    my $y = XB::Rescue->new($slow);
    my ($one) = $y->at('n1', 1);
    my $base = XB::FakeMsm->base($y->id($one));
    my $asks = sub { return $line->($slow->ask($one, shift)) };
    $slow->node('n2')->misbehave('late', ms => 2600, for => $y->id($one));
    $slow->only('n1', 'n2');
    $slow->drain('n1');
    wait_for { $slow->refused('probe-late') } 10, 'a vain probe';
    $slow->undrain('n1');
    wait_for { $slow->store('m1')->get("$base.n2") } 10, 'what comes of it';
    is $asks->('/write?k=second'), '200 n1 first second', 'its home lives on';
    wait_for { ($slow->store('m1')->get("$base.n1") // '') =~ /second/ } 10, 'its store';
    $slow->open;
    $slow->node('n3')->misbehave('stores-late', ms => 3000, for => $y->id($one));
    $slow->node('n1')->stop;
    is $slow->ask($one, '/read')->{status}, 503, 'no key counts while n3 may be at it';
    wait_for { $slow->ask($one, '/read')->{status} == 200 } 10, 'n3';
    is $asks->('/read'), '200 n3 first second', 'an old copy is not believed for its key';
};

my %wanted = map { $_ => 1 } @ARGV;
for my $rule (grep { !%wanted || $wanted{$_} } sort keys %story) {
    subtest $rule => $story{$rule};
}
$t->allow_log(qr/AH01114|AH00940|AH00957|AH00959|AH01170|AH00898|AH01102|AH10/);
$t->finish;
