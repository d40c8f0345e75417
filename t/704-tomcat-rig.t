# SPDX-License-Identifier: Apache-2.0
# The test Tomcat does what other tests take for granted: connectors, transfers, capacity.
use v5.36;
use Test::More;
use Digest::SHA qw(sha256_hex);
use IO::Socket::INET;
use MIME::Base64 qw(encode_base64);
use Time::HiRes qw(time);
use XB::Test;
use XB::Tomcat;
use XB::Msm;

my $t = XB::Test->new;
my $msm = XB::Msm->new($t, 1);
my ($tc) = XB::Tomcat->fleet($t, 1, memcached => $msm->nodes, contexts => ['/'], permits => 2,
                             mbps => 10, connectors => [qw(http ajp https)]);

sub ajp ($payload)
{
    my $sock = IO::Socket::INET->new(PeerAddr => '127.0.0.1:' . $tc->port('ajp')) or die $@;
    print $sock pack 'n n/a*', 0x1234, $payload;
    read $sock, my $head, 4;
    read $sock, my $body, unpack 'x2 n', $head;
    return unpack 'C n', $body;
}

# FORWARD_REQUEST of GET /, optionally with the secret (attribute 0x0c).
sub forward (@secret)
{
    my $text = sub (@values) { return join '', map { pack 'n/a* x', $_ } @values };
    return pack('C C', 2, 2) . $text->('HTTP/1.1', '/', '127.0.0.1', 'client', 'localhost')
        . pack('n C n', 80, 0, 0) . join('', map { "\x0c" . $text->($_) } @secret) . "\xff";
}

subtest 'connectors' => sub {
    is((ajp("\x0a"))[0], 9, 'CPING gets CPONG');
    is((ajp(forward($tc->secret)))[1], 200, 'AJP with the secret');
    is((ajp(forward()))[1], 403, 'without it');
    is((ajp(forward('wrong')))[1], 403, 'with a wrong one');
    my $port = $tc->port('https');
    my $answer = `printf 'GET / HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n' |
        openssl s_client -connect 127.0.0.1:$port -quiet 2>/dev/null`;
    like($answer, qr/^Set-Cookie: JSESSIONID=[^;]+; Path=\/; Secure; HttpOnly\r$/m, 'https');
};

my $id = $msm->login($tc, 'bob');

subtest 'transfers' => sub {
    my $body = join '', map { chr int rand 256 } 1 .. 300_000;
    my $r = $msm->ask($tc, '/data/services/import?write=up', $id, method => 'POST',
                      body => $body);
    is($r->{json}{bytes}, length $body, 'upload: length');
    is($r->{json}{sha256}, sha256_hex($body), 'digest');
    is_deeply($msm->ask($tc, '/app/read', $id)->{json}{keys}, ['up'], 'noted in the session');
    for my $chunked ('', '&chunked=1') {
        is($msm->ask($tc, "/data/bytes?n=200001$chunked", $id)->{length}, 200_001, 'download');
    }
    my @image = map { $msm->ask($tc, "/app/image?i=$_&ms=1", $id)->{body} } 1, 1, 2;
    is(length $image[0], 20_000, 'image');
    ok($image[0] eq $image[1] && $image[0] ne $image[2], 'the same for the same i');
};

subtest 'logins' => sub {
    my $basic = [Authorization => 'Basic ' . encode_base64('eve:pw-eve', '')];
    my $r = $msm->ask($tc, '/data/JSESSION', undef, headers => $basic);
    is($r->{body}, $r->{id}, 'BASIC: the id is body and cookie');
    is(XB::Client->header($r, 'X-XB-User'), 'eve', 'user');
    is($msm->ask($tc, '/app/whoami', undef)->{status}, 401, 'none');
    is($msm->post_login($tc, 'x&password=wrong')->{status}, 401, 'a wrong password');
    my $rotated = $msm->ask($tc, '/app/rotate', $r->{id})->{id};
    isnt($msm->base($rotated), $msm->base($r->{id}), 'an id can change in mid-session');
    $msm->ask($tc, '/app/logout', $rotated);
    is($msm->ask($tc, '/app/whoami', $rotated)->{status}, 401, 'logout');
    is($msm->ask($tc, '/app/count', $id)->{json}{count}, $_, 'counter') for 1, 2;
};

subtest 'capacity' => sub {
    my $begin = time;
    $msm->ask_all(map { [$tc, '/app/whoami?ms=100', $id] } 1 .. 6);
    cmp_ok(time - $begin, '>', 0.29, 'six units of work, two at a time');
    $begin = time;
    $msm->ask_all(map { [$tc, '/data/bytes?n=2000000', $id] } 1 .. 4);
    cmp_ok(time - $begin, '>', 0.38, '8 MB at 10 MB/s and permit');
};

subtest 'signals' => sub {
    $tc->pause;
    is($msm->ask($tc, '/style.css', undef, timeout => 0.2)->{status}, 0, 'paused');
    $tc->cont;
    is($msm->ask($tc, '/style.css', undef)->{status}, 200, 'goes on');
    $tc->kill;
    ok(!$tc->proc->alive, 'killed');
    $tc->restart;
    is($msm->ask($tc, '/app/read', $id)->{json}{count}, 2, 'back with the session');
};

cmp_ok($tc->rss_kb, '>', 20_000, 'takes memory');
is_deeply([$tc->severe], [], 'no complaint');
$t->finish;
