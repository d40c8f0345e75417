# SPDX-License-Identifier: Apache-2.0
# Facts of MSM's takeover: one HEAD does it; what stragglers, stale copies and wrong ids get.
use v5.36;
use Test::More;
use XB::Test;
use XB::Tomcat;
use XB::Msm;

my $t = XB::Test->new;
my $msm = XB::Msm->new($t, 2);
my ($one, $two) = XB::Tomcat->fleet($t, 2, memcached => $msm->nodes, max_inactive => 1200);

sub head ($tc, $path, $id) { return $msm->ask($tc, $path, $id, method => 'HEAD') }
sub get ($tc, $path, $id) { return $msm->ask($tc, $path, $id) }
sub written ($tc, $id) { return get($tc, '/app/read', $id)->{json}{keys} }
sub keys_of ($id) { return join ' ', map { s/^\S+ //r } $msm->keys($msm->base($id)) }
sub on_two ($id) { return $id =~ s/tomcat1$/tomcat2/r }

# A session of `one`, taken over by `two` with a HEAD; its old and its new id.
sub moved ($context = '', $user = 'bob')
{
    my $old = $msm->login($one, $user, $context);
    my $new = head($two, "$context/_probe", $old)->{id} // die "no takeover\n";
    wait_for { keys_of($old) eq $new } 5, 'the new key alone';
    return $old, $new;
}

for my $context ('', '/xnat') {
    note "context '$context'";
    my $old = $msm->login($one, 'bob', $context);
    my $login = get($one, "$context/", undef)->{set_cookie};
    my $r = head($two, "$context/_probe", $old);
    my $new = on_two($old);
    is($r->{status}, 404, 'the probe path does not exist');
    is($r->{id}, $new, 'Set-Cookie: same base id, route of the target');
    is($r->{set_cookie} =~ s/=[^;]*//r, $login =~ s/=[^;]*//r, 'its attributes: as at login');
    wait_for { keys_of($old) eq $new } 5, 'the old key gone, the new one there';
    my %h = $msm->header($msm->value($new));
    is($h{id}, $new, 'the new key holds the new id');
    is($h{max_inactive}, 1200, 'and the age that the session may reach');
    ok((grep { $_ eq $new } $two->session_ids($context || '/')), 'the target has it');

    my $straggler = get($two, "$context/app/whoami", $old);
    is("$straggler->{status} $straggler->{id}", "200 $new", 'a straggler is told the new id');
    is($straggler->{json}{user}, 'bob', 'and served as the same user');
    is(get($two, "$context/app/whoami", $new)->{id}, undef, 'the new id: no Set-Cookie');
}

subtest 'the old home keeps a stale copy' => sub {
    my ($old, $new) = moved();
    ok((grep { $_ eq $old } $one->session_ids), 'in its memory');
    get($two, '/app/write?k=away', $new);
    is_deeply(written($one, $old), [], 'it answers a straggler, without later writes');
    $msm->flush($two, $new);
    is(head($one, '/_probe', $new)->{id}, $old, 'probed, it gives the cookie of a takeover');
    wait_for { keys_of($old) eq "$old $new" } 5, 'but leaves both keys: FLIP';
    is_deeply(written($one, $old), [], 'and the copy is still stale');
};

subtest 'expireSession releases the stale copy' => sub {
    my ($old, $new) = moved();
    get($two, '/app/write?k=away', $new);
    $msm->stored($two, $new, qr/w\.away/);
    $one->expire($old);
    ok(!(grep { $_ eq $old } $one->session_ids), 'gone at the old home');
    is(keys_of($old), $new, 'the new key is untouched');
    is(get($two, '/app/whoami', $new)->{json}{user}, 'bob', 'the session lives');
    is(head($one, '/_probe', $new)->{id}, $old, 'it can come back');
    wait_for { keys_of($old) eq $old } 5, 'with one key';
    is_deeply(written($one, $old), ['away'], 'and complete');
};

subtest 'what does no takeover' => sub {
    my $old = $msm->login($one, 'bob');
    for my $path ('/style.css', '/_probe.png', '/manager/_probe') {
        is(head($two, $path, $old)->{id}, undef, "$path: no cookie");
    }
    is($msm->ask($two, '/_probe', $old, method => 'TRACE')->{id}, undef, 'TRACE: no cookie');
    is(keys_of($old), $old, 'the key stays');
    my $xnat = $msm->login($one, 'bob', '/xnat');
    is(head($two, '/xnat', $xnat)->{id}, undef, 'a context without its slash: redirected');
    is(keys_of($xnat), $xnat, 'the key stays');
};

subtest 'another context takes it too, and it is lost' => sub {
    my $old = $msm->login($one, 'bob', '/xnat');
    my $r = head($two, '/_probe', $old);
    is($r->{id}, on_two($old), 'probed outside its Path: same base id, right route');
    like($r->{set_cookie}, qr/; Path=\/;/, 'only the Path betrays it');
    wait_for { keys_of($old) eq $r->{id} } 5, 'the old key gone';
    is(get($two, '/xnat/app/whoami', $old)->{status}, 401, 'its cookie is worth nothing now');
};

subtest 'ids that nobody has' => sub {
    my $unknown = '0' x 32 . '-n1.tomcat1';
    is(head($two, '/_probe', $unknown)->{id}, undef, 'HEAD: no cookie');
    is(get($two, '/app/whoami', $unknown)->{status}, 401, 'no login');
    my $id = get($two, '/', $unknown)->{id};
    isnt($msm->base($id), $msm->base($unknown), 'a page that makes sessions: another base id');
    my $old = $msm->login($one, 'bob');
    is(get($two, '/app/whoami', on_two($old))->{status}, 401,
       'a route rewritten before the takeover: no login');
    is(head($two, '/_probe', $old)->{id}, on_two($old), 'the original id is still good');
};

subtest 'a home that is gone' => sub {
    my @old = map { $msm->login($one, "user$_") } 1 .. 3;
    get($one, '/app/write?k=kept', $_) for @old;
    $msm->stored($one, $_, qr/w\.kept/) for @old;
    $one->kill;
    for my $old (@old) {
        my $new = head($two, '/_probe', $old)->{id};
        is_deeply(written($two, $new), ['kept'], 'the session goes on');
    }
    $one->restart;
    my $new = on_two($old[0]);
    wait_for { keys_of($new) eq $new } 5, 'its key';
    is(head($one, '/_probe', $new)->{id}, $old[0], 'restarted, it holds no stale copy');
    ok((wait_for { keys_of($new) eq $old[0] } 5, 'one key'), 'and takes over for good');
};

is_deeply([map { $_->severe } $one, $two], [], 'no complaint from Tomcat');
$t->finish;
