# SPDX-License-Identifier: Apache-2.0
# Sessions that MSM cannot store, or that run out of time: they move, or stay with the reason,
# and lose nothing by us. At the end, behind bytraffic: what they lose with their node.
use v5.36;
use Test::More;
use Time::HiRes qw(time);
use XB::Test;
use XB::Site;
use XB::Users;

my $t = XB::Test->new;
my $site = XB::Site->new($t, memcacheds => 1, threads => 64, conf => 'XnatBalanceMove Drain');
my ($msm, $c) = ($site->msm, $site->client);
my $short = XB::Users->new($site, names => [qw(used unused)]);
my $odd = XB::Users->new($site, names => [qw(large broken failing)]);
my $well = XB::Users->new($site, names => [map { "well$_" } 1 .. 8]);
my $LIFE = 16;

sub get ($user, $path)
{
    my $r = $c->get($path, user => $user);
    $r->{node} = XB::Client->header($r, 'X-XB-Node') // '';
    $r->{user} = XB::Client->header($r, 'X-XB-User') // '';
    return $r;
}

# Who pauses for longer than a session lives has to log in again; this one does not.
sub use_it () { return get('used', '/app/count')->{user} eq 'used' }

sub wait_in_use ($seconds, $what, $condition)
{
    my $next = 0;
    return wait_for {
        $next = use_it() + time if time > $next;
        $condition->();
    } $seconds, $what;
}

sub lives ($seconds)
{
    my $end = time + $seconds;
    return wait_in_use($seconds + 5, 'time to pass', sub { time > $end });
}

# Stores that failed; MSM's client opens its connection anew then.
sub too_large ($which)
{
    my @lines = $site->tomcat($which)->log_text =~ /(StoreOperationImpl.*too large)/g;
    return scalar @lines;
}

sub holds ($tc, $user)
{
    my $base = $short->{base}{$user};
    return scalar grep { /^\Q$base\E/ } $tc->session_ids;
}

# ---- sessions of a short life move, and leave copies behind

$site->only(1);
$short->login($short->names);
$short->all(["/app/age?s=$LIFE", '/app/write?k=first']);
my %copy = map { $_ => $short->id($_) } $short->names;
$site->only;
$site->drain(1);
wait_for { $site->member(1)->{moved_out} == 2 } 15, 'two moves';
ok(get($_, '/app/whoami')->{user} eq $_, "$_ is at home elsewhere") for $short->names;
my $last_use = time;
$site->undrain(1);

# ---- sessions that MSM cannot store

$site->only(1);                         # not for long: it is no place for those who were there
$_->login($_->names) for $odd, $well;
$site->only;
$_->all(['/app/write?k=first']) for $odd, $well;
for my $name ($odd->names) {
    $msm->stored($site->tomcat(1), $odd->id($name), qr/first/);
}
my %how = (large => '/app/size?kb=1500', broken => '/app/spoil?how=broken',
           failing => '/app/spoil?how=fails');
get($_, $how{$_}) for $odd->names;
$odd->all(['/app/write?k=second']);
wait_in_use(5, 'a failed store', sub { too_large(1) });
lives(2.5);                             # in which MSM opens its connection anew
my $failed = too_large(1);
my $drained = time;
$site->drain(1);
my %reason = ('not-in-store' => 'larger than memcached takes',
              'not-serializable' => 'with an attribute that cannot be serialized',
              'flush-failed' => 'with one that ends each backup');
wait_in_use(35, 'all to move or stay', sub {
    my %no = %{$site->refusals};
    return $site->member(1)->{moved_out} >= 10 && !grep { !$no{$_} } keys %reason;
});
note(sprintf 'the others have left after %.1f s', time - $drained);
cmp_ok(too_large(1), '>', $failed, 'the large one was to be stored once more');
my $log = $site->httpd->error_log;
for my $why (sort keys %reason) {
    like($log, qr/XB0302: session \w+ stays on tomcat1.* \(drain\): \Q$why\E /, $reason{$why});
}
for my $name ($odd->names) {
    my $r = get($name, '/app/read');
    is("$r->{status} $r->{node} $r->{user}", "200 tomcat1 $name", "$name goes on at home");
    like($r->{body}, qr/"first","second"/, '... with all that was written');
}
lives(0.5);                             # a read may make MSM try again, too
my $read = time;
$failed = too_large(1);
is(scalar $well->lost_writes, 0, 'the others lose nothing');
is_deeply($well->{wrong}, [], 'and are logged in');
is(scalar(grep { $well->id($_) =~ /tomcat1$/ } $well->names), 0, 'elsewhere');
unlike($site->tomcat($_)->log_text, qr/Could not deserialize/, "tomcat$_ was not asked in vain")
    for 2, 3;

my $spent = time - $read;
lives(12 - $spent) if $spent < 12;
is(too_large(1), $failed, 'for ten seconds nobody has tried to store the large one again');

# ---- what runs out

subtest 'time runs out' => sub {
    my ($tc1) = $site->tomcats;
    wait_in_use($LIFE + 15, 'the end of the copies', sub {
        return !grep { holds($tc1, $_) } $short->names;
    });
    cmp_ok(time - $last_use, '>', $LIFE - 5, 'the copies at the former home have died of age');
    is(get('used', '/app/read')->{user}, 'used', 'their session in use lives on');
    ok(defined $msm->value($short->id('used')), '... in memcached, too');
    my $old = $c->get('/app/whoami', cookie => "JSESSIONID=$copy{used}");
    is(XB::Client->header($old, 'X-XB-User'), 'used', '... by its old id, too');
    my $id = $short->id('unused');
    wait_in_use(15, 'its end', sub { !defined $msm->value($id) });
    is(get('unused', '/app/whoami')->{status}, 401, 'that which was not used has ended');
    is($site->status->{sessions}{lost}, 0, 'none is counted as lost');
};

subtest 'control: what they lose with their node' => sub {
    my %id = map { $_ => $odd->id($_) } $odd->names;
    $site->start_httpd(stock => 'bytraffic');
    $site->tomcat(1)->kill;
    my %left;
    for my $name ($odd->names) {
        my $r = $site->client->get('/app/read', cookie => "JSESSIONID=$id{$name}");
        $left{$name} = $r->{status} == 401 ? 'the login'
            : $r->{body} =~ /"second"/ ? 'nothing' : 'the second write';
        note("$name loses $left{$name}");
    }
    isnt($left{$_}, 'nothing', "$_ loses $left{$_}") for $odd->names;
};
$t->allow_log(qr/AH0|AH10|SEVERE/);
$t->finish;
