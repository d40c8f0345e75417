# SPDX-License-Identifier: Apache-2.0
# A memcached dies while users work, and MSM renames its sessions at home. What MSM itself does
# to them is shown by the same Tomcats behind bytraffic.
use v5.36;
use Test::More;
use Time::HiRes qw(time);
use XB::Test;
use XB::Site;
use XB::Users;

my $USERS = 24;
my $t = XB::Test->new;
my $site = XB::Site->new($t, threads => 128, conf => 'XnatBalanceMove Drain');
my ($msm, $runs) = ($site->msm, 0);

sub names ($letter, $n) { return [map { "$letter$runs.$_" } 1 .. $n] }

sub store_of ($users, $name) { return XB::Msm->node_of($users->id($name)) }

sub fresh_httpd (%opt)
{
    $runs++;
    $t->allow_log(qr/AH0|AH10/);
    $site->start_httpd(stock => 0, %opt);
    return;
}

# Each Tomcat notices after some seconds that a memcached is there again.
sub used_again ($node)
{
    for my $tc ($site->tomcats) {
        wait_for {
            my @ids = map { $msm->post_login($tc, 'w')->{id} // '' } 1 .. 4;
            grep { XB::Msm->node_of($_) eq $node } @ids;
        } 30, $tc->route . " to use $node again";
    }
    return;
}

sub start_memcached ($node)
{
    $msm->node($node)->start;
    used_again($node);
    $_->forget_httpds for $msm->memcacheds;
    return;
}

# ---- facts

subtest 'MSM: at home, the id from before a rename is nobody\'s' => sub {
    my ($tc) = $site->tomcats;
    my @id;
    wait_for {
        push @id, grep { XB::Msm->node_of($_) eq 'n1' } $msm->login($tc, 'w');
        @id >= 10;
    } 10, 'ten sessions on n1';
    $msm->node('n1')->kill;
    my %count = (first => 0, old => 0, new => 0);
    for my $id (@id) {
        my $first = wait_for {
            my $r = $msm->ask($tc, '/app/whoami', $id);
            $r->{id} ? $r : undef;
        } 10, 'a rename';
        $count{first}++ if $first->{status} == 200;
        my @ask = map { [$tc, '/app/whoami', $_] } ($id) x 5, ($first->{id}) x 5;
        my @answers = $msm->ask_all(@ask);
        $count{old} += grep { $_->{status} == 200 } @answers[0 .. 4];
        $count{new} += grep { $_->{status} == 200 } @answers[5 .. 9];
    }
    is($count{first}, 10, 'the request that has it renamed is answered, with the new id');
    is($count{old}, 0, 'then none of 50 requests with the old id is');
    is($count{new}, 50, 'and all of 50 with the new one are');
    start_memcached('n1');
};

# ---- users at work while a memcached dies

sub dies ($name, %opt)
{
    fresh_httpd(%opt);
    my $users = XB::Users->new($site, names => names('u', $USERS));
    $users->login($users->names);
    my %was = map { $_ => $users->id($_) } $users->names;
    my %base = %{$users->{base}};
    my @on = grep { store_of($users, $_) eq 'n1' } $users->names;
    $users->click(most => 5, pauses => [0.2, 0.4], until => sub ($now) { $now > 4.5 },
                  at => [1.5 => sub ($now) { $msm->node('n1')->kill }]);
    my $away = grep { store_of($users, $_) ne 'n1' } @on;
    $users->{base}{$_} = $users->base($_) for $users->names;
    my @lost = $users->lost_writes;
    my @login = grep { /at the end/ } @{$users->{wrong}};
    my @refused = grep { /: status 401/ } @{$users->{wrong}};
    my @other = grep { !/: status 401|at the end|has a new session/ } @{$users->{wrong}};
    my %user = map { (split /:/)[0] => 1 } @refused;
    note(sprintf '%-10s %d requests, %d writes; %d of %d sessions were on it, %d renamed: '
         . '%d answers 401 to %d users, %d writes lost, %d logins lost', $name,
         $users->{requests}, $users->{acked}, scalar @on, $USERS, $away, scalar @refused,
         scalar keys %user, scalar @lost, scalar @login);
    start_memcached('n1') if !$opt{stock};
    return {lost => \@lost, login => \@login, other => \@other, on => \@on, away => $away,
            refused => scalar @refused, others => [grep { $was{$_} !~ /-n1\./ } keys %user]};
}

# What it has of sessions that MSM has renamed meanwhile is there again, under their old ids.
subtest 'one that hangs and goes on, while sessions move' => sub {
    fresh_httpd();
    my $users = XB::Users->new($site, names => names('h', $USERS));
    my %was;
    @was{$users->names} = $users->login($users->names);
    my @on = grep { store_of($users, $_) eq 'n1' } $users->names;
    $users->click(most => 8, pauses => [0.2, 0.4], until => sub ($now) { $now > 7.5 },
                  at => [1.5 => sub ($now) { $site->drain(1); $msm->node('n1')->pause },
                         4.5 => sub ($now) { $msm->node('n1')->cont }]);
    $site->undrain(1);
    cmp_ok(scalar(grep { store_of($users, $_) ne 'n1' } @on), '>', 0, 'sessions on it were renamed');
    cmp_ok(scalar $site->moves, '>', 0, 'some sessions have moved');
    is_deeply([grep { /answered as (?!nobody)/ } @{$users->{wrong}}], [], 'nobody is taken for another');
    is_deeply([$users->lost_writes], [], 'no write that was answered 200 is lost');
    is_deeply([grep { /at the end/ } @{$users->{wrong}}], [], 'and no login');
    my @old = map { {path => '/app/whoami', cookie => "JSESSIONID=$was{$_}", name => $_} } $users->names;
    my @other = grep {
        (XB::Client->header($_, 'X-XB-User') // 'nobody') !~ /^(?:nobody|\Q$_->{request}{name}\E)$/
    } $site->client->many(\@old);
    is(scalar @other, 0, 'an id of before is its user or nobody');
    used_again('n1');
};

subtest 'nobody loses a write or a login' => sub {
    my $ours = dies('xnat');
    cmp_ok(scalar @{$ours->{on}}, '>', 3, 'there were sessions on it');
    is($ours->{away}, scalar @{$ours->{on}}, 'all were renamed');
    is_deeply($ours->{lost}, [], 'no write that was answered 200 is lost');
    is_deeply($ours->{login}, [], 'and no login');
    is_deeply($ours->{others}, [], 'users of the other memcached notice nothing');
    is_deeply($ours->{other}, [], 'there is no error but 401');
    is_deeply($site->refusals, {}, 'nothing was to be moved');
    my $stock = dies('bytraffic', stock => 'bytraffic');
    cmp_ok($stock->{refused}, '>', 0, 'bytraffic: MSM answers 401 to requests under way');
};
$t->finish;
