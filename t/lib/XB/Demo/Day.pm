# SPDX-License-Identifier: Apache-2.0
# A day at an XNAT site, as its users live it: clicks with pauses, images in parallel, one who
# transfers a lot, a node that is drained. All figures are what these users measured.
#
#   my $day = XB::Demo::Day->new($site, users => 36, at => { logins => 6, heavy => 16,
#                                light => 38, drain => 41, end => 56 });   # seconds
#   $day->play(sub ($day) {...});         # called twice a second, and at each change
#   $day->read_back;                      # looks for each write that was answered 200
#   $day->{requests} {broken} {server_errors} {logins_lost} {wrong} {kept} {writes_lost}
#   $day->{bad}                           # a line for each answer that should not have been
#   $day->{phase} {heavy} {victims} {drained_after} {status} (the status page, decoded)
#   $day->latency('before' | 'during' | 'after')   # of the victims' clicks, sorted, seconds
#   $day->moves, $day->staying($route)    # sessions that are still there
package XB::Demo::Day;
use v5.36;
use JSON::PP ();
use Time::HiRes qw(time);
use XB::Client ();
use XB::Demo::Site ();

my $HOME = 'tomcat1';           # whose user transfers
my $STREAMS = 12;               # transfers at a time: three times what the node can work on
my $TRANSFER = 1_000_000;       # bytes of each
my $TELL = 0.5;
my $PATIENCE = 15;              # s longer, if the drain is not over: refused moves are tried
                                # again after 10 s

sub new ($class, $site, %opt)
{
    my $self = bless {
        site => $site, client => $site->client, %opt, phase => 'logins', ready => [],
        clicks => [], image => {},
        requests => 0, broken => 0, server_errors => 0, logins_lost => 0, wrong => 0,
        kept => 0, writes_lost => 0, bad => [], status => $site->status, told => 0,
        victims => [],
    }, $class;
    my $n = $opt{users};
    $self->{user} = [ map { {
        name => sprintf('user%02d', $_), viewer => $_ % 3 == 0, kept => [], serial => 0,
        due => $opt{at}{logins} * ($_ - 1) / $n,
    } } 1 .. $n ];
    return $self;
}

# ---- the day

sub play ($self, $tell)
{
    $self->{tell} = $tell;
    $self->{begin} = time;
    $self->{client}->run(
        parallel => 1000,
        next => sub { $self->_next },
        done => sub ($answer, $req) { $req->{on}->($answer) });
    return $self;
}

sub now ($self) { return time - $self->{begin} }

sub _next ($self)
{
    my $now = $self->now;
    return undef if $now >= $self->{at}{end} + (defined $self->{drained_after} ? 0 : $PATIENCE);
    $self->_clock($now);
    for my $u (grep { defined $_->{due} && $_->{due} <= $now } @{$self->{user}}) {
        $u->{due} = undef;
        $u->{in} ? $self->_click($u) : $self->_login($u);
    }
    return shift @{$self->{ready}} // 0.01;
}

sub _clock ($self, $now)
{
    my $at = $self->{at};
    if ($now - $self->{told} >= $TELL) {
        $self->{told} = $now;
        $self->_ask(undef, $self->{site}->status_path, sub ($answer) {
            $self->_learn_status(JSON::PP::decode_json($answer->{body}));
            $self->{tell}->($self);
        });
    }
    $self->_enter('clicks') if $self->{phase} eq 'logins' && $now >= $at->{logins};
    $self->_begin_heavy if $self->{phase} eq 'clicks' && $now >= $at->{heavy};
    $self->_enter('transfers over') if $self->{phase} eq 'transfers' && $now >= $at->{light};
    $self->_drain if $self->{phase} eq 'transfers over' && $now >= $at->{drain};
    return;
}

sub _enter ($self, $phase)
{
    $self->{phase} = $phase;
    $self->{since} = $self->now;
    $self->{entered}{$phase} = $self->{since};
    return;
}

sub _learn_status ($self, $status)
{
    $self->{status} = $status;
    my $left = $self->member($XB::Demo::Site::DRAINED)->{sessions};
    $self->{drained_after} //= $self->now - $self->{since}
        if $self->{phase} eq 'drain' && $left == 0;
    return;
}

sub _drain ($self)
{
    $self->_enter('drain');
    $self->{site}->drain($XB::Demo::Site::DRAINED);
    return;
}

# ---- what users do

sub _is_login ($self, $answer)
{
    $self->{requests}++;
    return $self->_server_failed($answer) ? 0 : $answer->{body} =~ /"login":true/;
}

sub _ask ($self, $u, $path, $on, %opt)
{
    push @{$self->{ready}}, { path => $path, $u ? (user => $u->{name}) : (), on => $on, %opt };
    return;
}

sub _login ($self, $u)
{
    my $form = "user=$u->{name}&password=pw-$u->{name}";
    $self->_ask($u, '/', sub ($front) {
        $self->{requests}++;
        $self->_server_failed($front);
        $self->_ask($u, '/login', sub ($answer) {
            $u->{in} = $self->_is_login($answer);
            $self->_rest($u);
        }, method => 'POST', body => $form,
           headers => [ 'Content-Type' => 'application/x-www-form-urlencoded' ]);
    });
    return;
}

sub _rest ($self, $u)
{
    $u->{due} = $self->now + 0.3 + rand 1.2 if !$u->{streams};
    return;
}

# A page, which writes (the first after the login takes longest); a viewer's also fetches six
# images and writes, all at the same time.
sub _click ($self, $u)
{
    my $begin = $self->now;
    my $ms = $u->{serial} ? 80 : 400;
    $self->_write($u, "ms=$ms", sub ($answer, $good) {
        my $node = XB::Client->header($answer, 'X-XB-Node');
        my $open = 0;
        my $over = sub ($is_good) {
            $good &&= $is_good;
            return if --$open > 0;
            push @{$self->{clicks}}, [ $u, $begin, $self->now - $begin, $node ] if $good;
            $self->_rest($u);
        };
        return $over->($good) if !$good || !$u->{viewer};
        $open = 7;
        $self->_image($u, $over) for 1 .. 6;
        $self->_write($u, 'in=map', sub ($second, $is_good) { $over->($is_good) });
    });
    return;
}

sub _write ($self, $u, $how, $on)
{
    my $key = $u->{name} . 'k' . ++$u->{serial};
    $self->_ask($u, "/app/write?k=$key&$how", sub ($answer) {
        my $good = $self->_judge($u, $answer);
        $self->_keep($u, $key) if $good;
        $on->($answer, $good);
    });
    return;
}

sub _keep ($self, $u, $key)
{
    push @{$u->{kept}}, $key;
    $self->{kept}++;
    return;
}

sub _image ($self, $u, $on)
{
    my $i = int rand 40;
    $self->_ask($u, "/app/image?i=$i&ms=15", sub ($answer) {
        my $good = $self->_judge($u, $answer);
        if ($good && ($self->{image}{$i} //= $answer->{body}) ne $answer->{body}) {
            $self->{wrong}++;
        }
        $on->($good);
    });
    return;
}

# ---- the one who transfers

sub _begin_heavy ($self)
{
    my @there = grep { $self->_route($_) eq $HOME } @{$self->{user}};
    my ($heavy, @victims) = @there;
    die "nobody's session is at $HOME\n" if !$heavy || !@victims;
    $_->{victim} = 1 for @victims;
    @$self{qw(heavy victims)} = ($heavy, \@victims);
    $heavy->{streams} = $STREAMS;
    $heavy->{due} = undef;
    $self->_transfer($heavy, $_) for 1 .. $STREAMS;
    $self->_enter('transfers');
    return;
}

sub _transfer ($self, $u, $n)
{
    my $key = $u->{name} . 'up' . ++$u->{serial};
    my $on = sub ($answer) {
        my $good = $self->_judge($u, $answer);
        $self->_keep($u, $key) if $good && $n % 3 == 0;
        return $self->_transfer($u, $n) if $self->{phase} eq 'transfers';
        $self->_rest($u) if --$u->{streams} == 0;
    };
    return $n % 3
        ? $self->_ask($u, "/data/bytes?n=$TRANSFER", $on, discard => 1)
        : $self->_ask($u, "/data/services/import?write=$key", $on, method => 'POST',
                      size => $TRANSFER);
}

# ---- what users notice

sub _server_failed ($self, $answer)
{
    my $kind = $answer->{error} ne '' || $answer->{status} == 0 ? 'broken'
        : $answer->{status} >= 500 ? 'server_errors' : return 0;
    $self->{$kind}++;
    $self->_note($answer);
    return 1;
}

# For the end, should there be any.
sub _note ($self, $answer)
{
    my $req = $answer->{request};
    push @{$self->{bad}}, sprintf '%.1f s, %s: %s %s: %s %s', $self->now, $req->{user},
        $req->{method} // 'GET', $req->{path}, $answer->{status}, $answer->{error};
    return;
}

# True: it is this user's own good answer.
sub _judge ($self, $u, $answer)
{
    my $user = XB::Client->header($answer, 'X-XB-User');
    $self->{requests}++;
    return 0 if $self->_server_failed($answer);
    return 1 if $answer->{status} == 200 && defined $user && $user eq $u->{name};
    if (defined $user) {
        $self->{wrong}++;
    }
    else {
        $self->{logins_lost}++ if $u->{in};
        $u->{in} = 0;           # as people do: log in again
    }
    $self->_note($answer);
    return 0;
}

sub read_back ($self)
{
    my @users = @{$self->{user}};
    my @read = map { { path => '/app/read', user => $_->{name} } } @users;
    my @answers = $self->{client}->many(\@read, parallel => 6);
    for my $u (@users) {
        my $answer = shift @answers;
        my $json = $self->_judge($u, $answer) ? JSON::PP::decode_json($answer->{body}) : {};
        my %there = map { $_ => 1 } @{$json->{keys} // []};
        $self->{writes_lost} += grep { !$there{$_} } @{$u->{kept}};
    }
    $self->{status} = $self->{site}->status;
    return;
}

# ---- figures

sub _route ($self, $u)
{
    return ($self->{client}->session($u->{name}) // '') =~ /\.(\w+)$/ ? $1 : '';
}

sub staying ($self, $route)
{
    return scalar grep { $self->_route($_) eq $route } @{$self->{user}};
}

sub logged_in ($self) { return scalar grep { $_->{in} } @{$self->{user}} }

sub members ($self)
{
    my ($xnat) = grep { $_->{name} eq 'balancer://xnat' } @{$self->{status}{balancers}};
    return @{$xnat->{members}};
}

sub member ($self, $route) { return (grep { $_->{route} eq $route } $self->members)[0] }

sub moves ($self, $reason = undef)
{
    my $moves = $self->{status}{moves_by_reason};
    return $moves->{$reason} if defined $reason;
    my $sum = 0;
    $sum += $_ for values %$moves;
    return $sum;
}

# Clicks of the other users of the node with the transfers. During: while their node still was
# that one. After: served by another, while the transfers went on.
sub latency ($self, $when)
{
    my ($heavy, $light) = @{$self->{entered}}{'transfers', 'transfers over'};
    my %is_in = (
        before => sub ($t, $node) { $t < $heavy && $t > $self->{at}{logins} },
        during => sub ($t, $node) { $t >= $heavy && $t < $light && $node eq $HOME },
        after => sub ($t, $node) { $t >= $heavy && $t < $light && $node ne $HOME },
    );
    return sort { $a <=> $b } map { $_->[2] }
        grep { $_->[0]{victim} && $is_in{$when}->(@$_[1, 3]) } @{$self->{clicks}};
}

1;
