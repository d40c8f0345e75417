# SPDX-License-Identifier: Apache-2.0
# Facts of MSM's takeover: one HEAD moves a session, and what stragglers, stale copies and wrong ids get.
use v5.36;
use Test::More;
use XB::Test;
use XB::Tomcat;
use XB::Msm;

my $t = XB::Test->new;
my $msm = XB::Msm->new($t, 2);
my ($one, $two) = XB::Tomcat->fleet($t, 2, memcached => $msm->nodes, max_inactive => 1200);

sub head ($tc, $path, $id) { return $msm->ask($tc, $path, $id, method => 'HEAD') }
sub keys_of ($id) { return join ' ', map { s/^\S+ //r } $msm->keys($msm->base($id)) }

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
    my $login = $msm->ask($one, "$context/", undef)->{set_cookie};
    my $r = head($two, "$context/_probe", $old);
    my $new = $old =~ s/tomcat1$/tomcat2/r;
    is($r->{status}, 404, 'the probe path does not exist');
    is($r->{id}, $new, 'Set-Cookie: same base id, route of the target');
    is($r->{set_cookie} =~ s/=[^;]*//r, $login =~ s/=[^;]*//r, 'with the attributes of the login');
    wait_for { keys_of($old) eq $new } 5, 'the old key gone, the new one there';
    my %h = $msm->header($msm->value($new));
    is($h{id}, $new, 'the new key holds the new id');
    is($h{max_inactive}, 1200, 'and the age that the session may reach');
    is_deeply([grep { /^\Q$new\E$/ } $two->session_ids($context || '/')], [$new], 'the target has it');

    my $straggler = $msm->ask($two, "$context/app/whoami", $old);
    is("$straggler->{status} $straggler->{id}", "200 $new", 'a straggler is served and told the new id');
    is($straggler->{json}{user}, 'bob', 'as the same user');
    is($msm->ask($two, "$context/app/whoami", $new)->{id}, undef, 'who knows the new id is told nothing');
}

subtest 'the old home keeps a stale copy' => sub {
    my ($old, $new) = moved();
    ok((grep { $_ eq $old } $one->session_ids), 'in its memory');
    $msm->ask($two, '/app/write?k=away', $new);
    my $r = $msm->ask($one, '/app/read', $old);
    is("$r->{status} @{$r->{json}{keys}}", '200 ', 'it answers a straggler, without what was written since');
    $msm->flush($two, $new);
    $r = head($one, '/_probe', $new);
    is($r->{id}, $old, 'probed with the newest id it answers with the cookie that a takeover would give');
    wait_for { keys_of($old) eq "$old $new" } 5, 'but leaves both keys: FLIP';
    is_deeply($msm->ask($one, '/app/read', $old)->{json}{keys}, [], 'and the copy is still stale');
};

subtest 'expireSession releases the stale copy' => sub {
    my ($old, $new) = moved();
    $msm->ask($two, '/app/write?k=away', $new);
    $msm->flush($two, $new);
    $one->expire($old);
    ok(!(grep { $_ eq $old } $one->session_ids), 'gone at the old home');
    is(keys_of($old), $new, 'the new key is untouched');
    is($msm->ask($two, '/app/whoami', $new)->{json}{user}, 'bob', 'the session lives');
    is(head($one, '/_probe', $new)->{id}, $old, 'it can come back');
    wait_for { keys_of($old) eq $old } 5, 'with one key';
    is_deeply($msm->ask($one, '/app/read', $old)->{json}{keys}, ['away'], 'and complete');
};

subtest 'what does no takeover' => sub {
    my $old = $msm->login($one, 'bob');
    for my $path ('/style.css', '/_probe.png', '/manager/_probe') {
        is(head($two, $path, $old)->{id}, undef, "$path: no cookie");
    }
    is($msm->ask($two, '/_probe', $old, method => 'TRACE')->{id}, undef, 'TRACE: no cookie');
    is(keys_of($old), $old, 'the key stays');
    my $xnat = $msm->login($one, 'bob', '/xnat');
    is(head($two, '/xnat', $xnat)->{id}, undef, 'a context without its slash: a redirect only');
    is(keys_of($xnat), $xnat, 'the key stays');
};

subtest 'another context takes it too, to its own loss' => sub {
    my $old = $msm->login($one, 'bob', '/xnat');
    my $r = head($two, '/_probe', $old);
    like($r->{set_cookie}, qr/^JSESSIONID=\Q@{[ $msm->base($old) ]}\E\.tomcat2; Path=\/; /,
         'probed outside its Path: same base id and route, but another Path');
    wait_for { keys_of($old) eq $r->{id} } 5, 'the old key gone';
    is($msm->ask($two, '/xnat/app/whoami', $old)->{status}, 401, 'at home in /xnat it is lost to its cookie');
};

subtest 'ids that nobody has' => sub {
    my $unknown = '0' x 32 . '-n1.tomcat1';
    is(head($two, '/_probe', $unknown)->{id}, undef, 'HEAD: no cookie');
    is($msm->ask($two, '/app/whoami', $unknown)->{status}, 401, 'no login');
    my $id = $msm->ask($two, '/', $unknown)->{id};
    isnt($msm->base($id), $msm->base($unknown), 'a page that makes sessions: another base id');
    my $old = $msm->login($one, 'bob');
    my $rewritten = $old =~ s/tomcat1$/tomcat2/r;
    is($msm->ask($two, '/app/whoami', $rewritten)->{status}, 401, 'a route rewritten before the takeover: no login');
    is(head($two, '/_probe', $old)->{id}, $rewritten, 'the original id is still good');
};

subtest 'a home that is gone' => sub {
    my @old = map { $msm->login($one, "user$_") } 1 .. 3;
    $msm->ask($one, '/app/write?k=kept', $_) for @old;
    $msm->flush($one, $_) for @old;
    $one->kill;
    for my $old (@old) {
        my $new = head($two, '/_probe', $old)->{id};
        is_deeply($msm->ask($two, '/app/read', $new)->{json}{keys}, ['kept'], 'the session goes on');
    }
    $one->restart;
    my $new = $old[0] =~ s/tomcat1$/tomcat2/r;
    wait_for { keys_of($new) eq $new } 5, 'its key';
    is(head($one, '/_probe', $new)->{id}, $old[0], 'restarted, it holds no stale copy');
    wait_for { keys_of($new) eq $old[0] } 5, 'one key';
};

is_deeply([map { $_->severe } $one, $two], [], 'no complaint from Tomcat');
$t->finish;
