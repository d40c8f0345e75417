# SPDX-License-Identifier: Apache-2.0
# What users feel when something befalls a fleet behind one front end: the runs of t/bench/wire.pl.
#
#   my $s = XB::Scene->new($t);          # three real Tomcats
#   my $r = $s->run('haproxy', 'noisy'); # undef: this front end cannot do what the scene needs
#   XB::Scene->fronts, XB::Scene->names  # of all, in the order of tables
#   XB::Scene->event('noisy')            # [seconds, what] that happens then
#   XB::Scene->befalls('noisy')          # true: only those on the first node
#
# A run is a hash; seconds count from the event, a time that never came is undef:
#   p50, p99 (ms, of all clicks), before, after (90th percentile of those whom it befalls, or of
#   all, ms), ratio (of these), back (seconds until it is as before), left (until the drained node
#   has no user), wrong (answers), logins (lost), lost (writes), took (seconds until all were restarted), up
#   (until the lost node answers), fair (from then until it has its share of clicks), peak (most of
#   its share in a second, %), series (that percentile in each second, undef: no click), stalled (the
#   longest time for which this program did nothing: more than a second, and the machine was too busy)
package XB::Scene;
use v5.36;
use List::Util qw(max);
use Time::HiRes qw(time);
use XB::Client ();
use XB::Front ();
use XB::Roller ();
use XB::Site ();
use XB::Users ();

my $SPEED = 10;
my ($EVENT_S, $STEP_S) = (4, 0.5);
my $BACK = 1.5;                 # times what it was before is as before
my $FAIR = 0.25;                # so far from a third is a fair share

# In seconds and numbers: users, at the event, when the run ends; befalls: only those on the first
# node; stays: how long people stay (none: to the end).
my %SCENE = (
    steady => {stays => 1},
    noisy  => {befalls => 1, heavy => 1, event => 'six downloads begin'},
    slow   => {befalls => 1, event => 'a node becomes slow',
               begin => sub ($s) { $s->_pace(4) }, after => sub ($s) { $s->_pace(1) }},
    drain  => {befalls => 1, event => 'a node is drained', drains => 1,
               begin => sub ($s) { $s->{front}->drain('tomcat1') }},
    crash  => {befalls => 1, event => 'a node is killed', begin => sub ($s) { $s->_first->kill },
               after => sub ($s) { $s->_first->restart }},
    recovered => {stays => 1, users => 66, end => 24, event => 'the lost node starts',
                  before => sub ($s) { $s->_first->kill },
                  begin => sub ($s) { $s->_first->begin },
                  until => \&_is_up,
                  after => sub ($s) { $s->_first->restart if !defined $s->{up} }},
    rolling => {writes => 0.2, end => 60, event => 'restarts begin',
                begin => sub ($s) { $s->_roll }, until => \&_has_rolled,
                after => sub ($s) { $s->_revive }},
);
my @SCENES = qw(steady noisy drain crash slow recovered rolling);
my %KIND = (
    'bytraffic again' => ['bytraffic'],             # A/A: what the noise is
    'xnat'            => ['xnat', conf => _conf('On'), script => 1],
    'xnat, no moves'  => ['xnat', conf => _conf('Off')],
);
my @FRONTS = ('bytraffic', 'bytraffic again', 'byrequests', 'bybusyness', 'haproxy', 'nginx',
              'mod_jk-traffic', 'mod_jk-busyness', 'xnat, no moves', 'xnat');

sub _conf ($move)
{
    return join "\n", "XnatBalanceMove $move", 'XnatBalanceHalfLife ' . 60 / $SPEED . 's',
        'XnatBalanceBusyHalfLife ' . 10 / $SPEED . 's',
        'XnatBalanceMoveRest ' . 60 / $SPEED . 's',
        'XnatBalanceMoveRate ' . 2 * $SPEED . '/s 10',
        'XnatBalanceGrace ' . 250 / $SPEED . 'ms';
}

sub fronts ($class) { return @FRONTS }
sub names ($class) { return @SCENES }

sub befalls ($class, $scene) { return $SCENE{$scene}{befalls} }

sub event ($class, $scene)
{
    my $event = $SCENE{$scene}{event};
    return $event ? [$EVENT_S, $event] : ();
}

sub new ($class, $t)
{
    my $site = XB::Site->new(
        $t, member => 'retry=' . 60 / $SPEED,
        tomcat => {permits => 3, mbps => 1, connectors => ['http', 'ajp']});
    return bless {site => $site, runs => 0}, $class;
}

# ---- what befalls the fleet

sub _first ($self) { return $self->{site}->tomcat(1) }

sub _pace ($self, $x)
{
    my $r = XB::Client->new->get($self->_first->url("/data/pace?x=$x"),
                                 headers => [Authorization => 'Basic dTpwdy11']);    # u:pw-u
    die "pace: $r->{status}\n" if $r->{status} != 200;
    return;
}

sub _roll ($self)
{
    my $front = $self->{front};
    $self->{roll} = XB::Roller::roller(
        tomcats => [$self->{site}->tomcats],
        leave => sub ($tomcat) { $front->leave($tomcat->route) },
        back => sub ($tomcat, $seconds) { $front->enable($tomcat->route) });
    return;
}

sub _is_up ($self, $now)
{
    $self->{up} = $now if !defined $self->{up} && $self->_first->is_ready;
    return 0;
}

# Runs last equally long if they can.
sub _has_rolled ($self, $now)
{
    $self->{rolled} = $now if !$self->{rolled} && $self->{roll}->();
    return $self->{rolled} && $now > 24;
}

sub _revive ($self)
{
    return if $self->{rolled};
    $_->restart for grep { !$_->proc->alive } $self->{site}->tomcats;
    return;
}

# ---- one run

# Clicks as of people: 40 ms of a node on average, long-tailed, and some think for long. Most of
# them stay for a minute, some for twenty.
sub _exponential ($mean, $n) { return map { -$mean * log(1 - ($_ - 0.5) / $n) } 1 .. $n }
my @WORK = map { int 40 * exp(0.8 * $_ - 0.32) } map { 0.25 * $_ } -8 .. 8;
my @THINK = _exponential(5 / $SPEED, 20);
my @STAY = map { 30 / $SPEED * (1 - ($_ - 0.5) / 40)**(-1 / 1.2) } 1 .. 40;

# What one of them does next, of whom the first may have come some time ago.
sub _person ($users, $name, $how)
{
    my $stays = sub { $how->{stays} ? $STAY[rand @STAY] : 1e6 };
    my $leaves = time + $stays->() * ($how->{stays} ? rand : 1);
    return sub {
        if (time > $leaves) {
            $leaves = time + $stays->();
            return $users->anew($name);
        }
        return '/app/write?k=' . $users->key if rand() < ($how->{writes} // 0);
        return '/app/image?i=1&ms=' . $WORK[rand @WORK];
    };
}

sub run ($self, $kind, $scene)
{
    my $how = $self->{how} = $SCENE{$scene};
    my ($real, @with) = @{$KIND{$kind} // [$kind]};
    delete @$self{qw(begun up left roll rolled)};
    $how->{before}->($self) if $how->{before};
    $self->{front} = XB::Front->start($self->{site}, $real, @with);
    my $result;
    if (!$how->{drains} || $self->{front}->can_drain) {
        $self->_people;
        $self->_click;
        $result = $self->_judge;
    }
    $how->{after}->($self) if $how->{after};
    $self->{front}->stop;
    return $result;
}

sub _people ($self)
{
    my $run = ++$self->{runs};
    my @names = map { "r${run}u$_" } 1 .. ($self->{how}{users} // 48);
    my $users = $self->{users} = XB::Users->new($self->{front}, names => \@names, parallel => 1);
    $users->login(@names);
    my @there = grep { $users->id($_) =~ /tomcat1$/ } @names;
    $self->{heavy} = $self->{how}{heavy} ? shift @there : '';
    $self->{befallen} = {map { $_ => 1 } $self->{how}{befalls} ? @there : @names};
    return;
}

sub _click ($self)
{
    my ($how, $users, $heavy) = @$self{qw(how users heavy)};
    my %does = map { $_ => _person($users, $_, $how) } $users->names;
    my $asked = $self->{stalled} = 0;
    $users->click(
        rounds => 1, pauses => \@THINK, does => \%does, burst => {$heavy => 6}, at_once => 100,
        most => $how->{end} // 16,
        until => sub ($now) {
            $self->{stalled} = max($self->{stalled}, $now - $asked);
            $asked = $now;
            return 0 if !$self->{begun};
            $self->{left} //= $now if !grep { $users->id($_) =~ /tomcat1$/ } $users->names;
            return $how->{until} && $how->{until}->($self, $now);
        },
        at => [$EVENT_S => sub ($now) {
            $self->{begun} = $now;
            $how->{begin}->($self) if $how->{begin};
            if ($how->{heavy}) {
                $does{$heavy} = sub { '/data/bytes?n=1000000' };
                $users->never_pause($heavy);
            }
        }]);
    return;
}

# ---- what they felt

sub _quantile ($p, @x)
{
    @x = sort { $a <=> $b } @x;
    return @x ? $x[ $p * $#x ] : undef;
}

sub _judge ($self)
{
    my ($users, $begun) = @$self{qw(users begun)};
    my %r = (lost => $self->{how}{writes} ? scalar $users->lost_writes : undef,
             stalled => $self->{stalled});
    my @click = grep { $_->[3] =~ /image/ } @{$users->{times}};
    my @theirs = grep { $self->{befallen}{$_->[2]} } @click;
    my $end = max(map { $_->[0] } @click);
    my $took = sub ($from, $to, @of) {
        return map { 1000 * $_->[1] } grep { $_->[0] >= $from && $_->[0] < $to } @of;
    };
    my $p90 = sub ($from, $to) { return _quantile(0.9, $took->($from, $to, @theirs)) };
    my $since = $self->{up} // $begun;
    @r{qw(p50 p99)} = map { _quantile($_, $took->(1, $end, @click)) } 0.5, 0.99;
    @r{qw(before after)} = ($p90->(1, $EVENT_S), $p90->($since + 5, $end));
    $r{ratio} = $r{after} / $r{before} if $r{before} && defined $r{after};
    $r{wrong} = @{$users->{wrong}} + ($users->{status}{503} // 0);
    my %out = map { /^(\S+): (?:status 401|answered as|has a new)/ ? ($1 => 1) : () }
        @{$users->{wrong}};
    $r{logins} = keys %out;
    $r{series} = [map { $p90->($_, $_ + 1) } 0 .. $end - 1];
    $r{took} = $self->{rolled} - $begun if $self->{rolled};
    $r{left} = $self->{left} - $begun if $self->{left};
    $r{back} = _first_time($begun, $end, sub ($s) {
        my $now = $p90->($s, $s + 1);
        return $r{before} && defined $now && $now < $BACK * $r{before};
    });
    return {%r, $self->_shares($end, @click)};
}

# The first half second, counted from then, from which on two seconds in a row are so.
sub _first_time ($since, $end, $is_so)
{
    for (my $s = $since; $s < $end - 2; $s += $STEP_S) {
        return $s - $since if $is_so->($s) && $is_so->($s + 1);
    }
    return undef;
}

# Of the clicks, those at the node that came back.
sub _shares ($self, $end, @click)
{
    my $up = $self->{up} // return;
    my $share = sub ($from) {
        my @then = grep { $_->[0] >= $from && $_->[0] < $from + 1 } @click;
        return @then ? (grep { $_->[4] eq 'tomcat1' } @then) / @then : 0;
    };
    my $fair = _first_time($up, $end, sub ($s) { abs(3 * $share->($s) - 1) <= $FAIR });
    my $peak = max(map { $share->($up + $_ * $STEP_S) } 0 .. ($end - $up - 1) / $STEP_S);
    return (up => $up - $self->{begun}, fair => $fair, peak => 100 * $peak);
}

1;
