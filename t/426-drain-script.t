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

for (['--member', 'n9', qr/no member n9 of app/], ['--member', 'n1', '--balancer', 'x', qr/of x/],
     [qr/^usage: /], ['--member', 'n1', '--status', $h->url('/nothing'), qr/is not the status/],
     ['--member', 'n1', '--manager', 'http://127.0.0.1:1/', qr/manager: 599/]) {
    my $pattern = pop @$_;
    ($code, $said) = drain(@$_);
    is $code, 2, "@$_: exit code 2";
    like $said, $pattern, '... and why';
}
$t->finish;
