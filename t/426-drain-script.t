# SPDX-License-Identifier: Apache-2.0
# scripts/drain: waits, says what is left, and how it ended.
use v5.36;
use Test::More;
use XB::Test;
use XB::Deps;
use XB::MoveRig;

my $t = XB::Test->new;
my $rig = XB::MoveRig->new($t, conf => 'XnatBalanceMove Drain');
my ($h, $n1) = ($rig->httpd, $rig->node('n1'));

# Exit code and what it printed.
sub run (@args)
{
    my $script = XB::Deps->root . '/scripts/drain';
    open my $out, '-|', "'$script' @{[ map { qq('$_') } @args ]} 2>&1" or die "$script: $!";
    my $text = do { local $/; <$out> };
    close $out;
    return ($? >> 8, $text);
}

sub drain (@args)
{
    return run('--manager', $h->url('/balancer-manager'), '--status', $h->url('/status'),
               '--balancer', 'app', @args);
}

sub status ($route) { my %m = $h->members('app'); return $m{$route}{status} }

$rig->only('n1');
$rig->login($_, 'n1') for qw(a b);
$rig->open;
my $slow = $rig->send('a', '/bytes?n=10&ms=2500');
wait_for { $n1->count('/bytes') } 5, 'a request';

my ($code, $said) = drain('--member', 'n1', '--wait', '0.5');
is $code, 1, 'time is over: exit code 1';
like $said, qr/^n1: 1 requests left, sessions: 1 active, 0 verified, 0 unmovable\nn1 is not safe/m,
    '... and what is left';
like status('n1'), qr/Drn/, '... it goes on draining';
unlike status('n1'), qr/Dis/, '... and is not disabled';

($code, $said) = drain('--member', $n1->url, '--wait', '20');
is $code, 0, 'exit code 0' or diag $said;
like $said, qr/^n1: 0 requests left, sessions: 0 active.*\nn1 is safe to stop$/m, 'safe to stop';
like status('n1'), qr/Dis/, '... and disabled, so that nobody comes back to it';
is $rig->receive($slow)->{status}, 200, 'the request was answered';
isnt $rig->ask('a', '/read')->{node}, 'n1', 'its session is elsewhere';

($code, $said) = drain('--member', 'n1', '--undo');
is "$code $said", "0 n1 is in service\n", '--undo';
like status('n1'), qr/^Init Ok\s*$/, '... in service';

# Sessions that are not known: httpd is started anew, one of them is idle, and n1 restarts later.
$rig->only('n1');
$rig->login('idle', 'n1');
$h->stop;
$rig->client->close;
$h->start;
$rig->only('n1');
wait_for { ($rig->status->{balancers}[0]{members}[0]{sessions_unknown_s} // 0) > 0 } 10,
    'the sign of the httpd before';
$rig->open;
($code, $said) = drain('--member', 'n1', '--wait', '1');
is $code, 1, 'after a start of httpd: exit code 1' or diag $said;
like $said, qr/^n1 may have idle sessions that httpd does not know .* another 8\d+ s, or with --acc/m,
    '... because of sessions that it may not know';
like $said, qr/0 requests left, sessions: 0 active, 0 ver.*, 0 unmov.*\nn1 is not safe to stop/,
    '... though it knows none';
($code, $said) = drain('--member', 'n1', '--wait', '5', '--accept-unknown');
is $code, 0, '... --accept-unknown: exit code 0' or diag $said;
like $said, qr/^n1 may have .*: accepted\n(?:n1: .*\n)*n1 is safe to stop\n\z/, '... and says so';
$n1->stop;
$rig->idle(0.5);
$n1->start;
$h->manager('app', $n1->url, disabled => 0);
wait_for { $h->error_log =~ /XB0320: node n1 / } 10, 'the restart to be noticed';
($code, $said) = drain('--member', 'n1', '--wait', '20');
is $code, 0, 'a restart of the node ends that' or diag $said;
unlike $said, qr/may have/, '... nothing is said of it';
drain('--member', 'n1', '--undo');

for (['--member', 'n9', qr/no member n9 of app/], ['--member', 'n1', '--balancer', 'x', qr/of x/],
     [qr/^usage: /], ['--member', 'n1', '--status', $h->url('/nothing'), qr/is not the status/],
     ['--member', 'n1', '--manager', 'http://127.0.0.1:1/', qr/manager: 599/]) {
    my $pattern = pop @$_;
    ($code, $said) = drain(@$_);
    is $code, 2, "@$_: exit code 2";
    like $said, $pattern, '... and why';
}
$t->finish;
