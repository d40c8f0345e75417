# SPDX-License-Identifier: Apache-2.0
# Facts that force gate and flush: which writes MSM loses, and that one HEAD first loses none.
use v5.36;
use Test::More;
use XB::Test;
use XB::Tomcat;
use XB::Msm;

my $SESSIONS = 20;
my $PARALLEL = 6;
my $t = XB::Test->new;
my $msm = XB::Msm->new($t, 2);
my ($one, $two) = XB::Tomcat->fleet($t, 2, memcached => $msm->nodes, contexts => ['/']);

sub login_all ($tc) { return map { $msm->login($tc, "user$_") } 1 .. $SESSIONS }
sub written ($tc, $id) { return $msm->ask($tc, '/app/read', $id)->{json}{keys} }

# Writes in parallel at $tc, and counts the acknowledged ones that the session lacks afterwards.
sub lost ($tc, $id)
{
    my @keys = map { "w$_" } 1 .. $PARALLEL;
    my @answers = $msm->ask_all(map { [$tc, "/app/write?k=$_", $id] } @keys);
    my %acked = map { $_->{json}{k} => 1 } grep { $_->{status} == 200 } @answers;
    die "no write was acknowledged\n" if !%acked;
    delete @acked{@{written($tc, $answers[0]{id} // $id)}};
    return scalar keys %acked;
}

sub total ($count) { my $sum = 0; $sum += $count->($_) for login_all($one); return $sum }

subtest 'parallel requests at a new home' => sub {
    my $all = $SESSIONS * $PARALLEL;
    is(total(sub ($id) { lost($one, $id) }), 0, 'control, no move: 0 lost');
    my $n = total(sub ($id) { lost($two, $id) });
    cmp_ok($n, '>', 0, "takeover by all of them at once loses writes: $n of $all");
    is(total(sub ($id) { $msm->flush($two, $id); lost($two, $id) }), 0,
       'takeover by one HEAD, then all with the old id: 0 lost');
    is(total(sub ($id) { lost($two, $msm->flush($two, $id)->{id}) }), 0,
       'or with the new id: 0 lost');
};

subtest 'parallel requests at a restarted home' => sub {
    my @id = login_all($one);
    $one->restart;
    my $n = 0;
    $n += lost($one, $_) for @id[0 .. 9];
    cmp_ok($n, '>', 0, "the same id, but writes are lost: $n of " . 10 * $PARALLEL);
    $n = 0;
    my $renamed = 0;
    for my $id (@id[10 .. 19]) {
        $renamed++ if $msm->flush($one, $id)->{id};
        $n += lost($one, $id);
    }
    is("$renamed $n", '0 0', 'one HEAD first: no new id, and nothing lost');
};

# Two requests that overlap, the longer one of which writes at its end, for each session.
sub overlap (@id)
{
    my @long = map {
        my $sock = XB::Client->new(base => $one->url(''))->socket;
        print $sock "GET /app/slow?ms=400&write=late&at=end HTTP/1.1\r\nHost: x\r\n",
            "Connection: close\r\nCookie: JSESSIONID=$_\r\n\r\n";
        $sock->flush;
        $sock;
    } @id;
    $msm->ask_all(map { [$one, '/app/slow?ms=100', $_] } @id);
    for my $sock (@long) {
        like(scalar <$sock>, qr/^HTTP\S+ 200/, 'acknowledged') or return;
        1 while <$sock>;
    }
    return;
}

sub in_store (@id) { return scalar grep { $msm->value($_) =~ /w\.late/ } @id }

subtest 'requests that overlap' => sub {
    my @id = login_all($one);
    overlap(@id);
    my $held = !eval { wait_for { in_store(@id) == @id } 0.3, 'all writes'; 1 };
    ok($held, 'acknowledged writes stay out of memcached, but for ' . in_store(@id));
    my ($taken) = grep { !in_store($_) } @id;
    is_deeply(written($two, $msm->flush($two, $taken)->{id}), [],
              'moved as it is, the session lacks the write');

    @id = grep { $_ ne $taken } @id;
    $msm->flush($one, $_) for @id;
    ok((wait_for { in_store(@id) == @id } 2, 'all writes'),
       'one HEAD to the home brings every write to memcached');
    my @moved = map { $msm->flush($two, $_)->{id} } @id;
    is(scalar(grep { "@{written($two, $_)}" eq 'late' } @moved), @id, 'all take it along');
};

subtest 'an id with the route of no node' => sub {
    my $stored = sub ($id) { return {XB::Msm->header($msm->value($id))}->{last_backup} };
    my $lacking = 0;
    for my $id (login_all($one)) {
        wait_for { $msm->value($id) } 5, 'the new key';
        my $before = $stored->($id);
        my $odd = $msm->base($id) . '.xnat-balance';
        my $said = $msm->flush($one, $odd)->{id} // 'nothing';
        $lacking++ if $said ne $id
            || !eval { wait_for { $stored->($id) != $before } 5, 'a store'; 1 }
            || defined $msm->value($odd);
        $lacking++ if defined $msm->flush($two, $odd)->{id};
    }
    is($lacking, 0, 'makes its home store the session and answer with its id; others not');
};

is_deeply([map { $_->severe } $one, $two], [], 'no complaint from Tomcat');
$t->finish;
