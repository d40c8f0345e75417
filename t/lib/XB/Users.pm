# SPDX-License-Identifier: Apache-2.0
# Users of the test application, each with one cookie jar and several requests at once, who
# remember what they wrote and notice every answer that is not theirs.
#
#   my $u = XB::Users->new($site, names => ['u1', 'u2'], parallel => 6);
#   $u->login('u1', ...)         # ids of their sessions
#   $u->click(at => [2 => sub {...}, ...],   # seconds: done once, between two answers
#             until => sub { true: enough }, # asked some times a second
#             most => 30,                    # seconds, whatever until says
#             restless => ['u1'],            # who never pause
#             burst => {u1 => 6},            # requests at once, instead of parallel
#             does => {u1 => sub {'/path'}}, # instead of the usual clicks; or a request
#             rounds => 2, pauses => [0.2, 0.5]);
#   $u->never_pause('u1')        # from now on
#   $u->anew('u1')               # who leaves: the request by which somebody of that name logs in
#   $u->key                      # of a write
#   $u->all(['/app/write?k=1', ...], sub {...})  # these requests of each user, all at once; a
#                                # moment later, while they are under way, the code
#   $u->id('u1')                 # its newest id
#   $u->lost_writes              # those answered 200 that their sessions lack now ("u1 k")
#   $u->unkept_writes            # all that were sent and are not there, whatever was answered
#   $u->{requests}, ->{status} (hash: answers by status), ->{writes}, ->{acked}
#   $u->{wrong}                  # what must not be: other user, login lost, no answer
#   $u->{anonymous}              # static files answered as to somebody not logged in
#   $u->{times}                  # [seconds since click's begin, duration, name, path, node]
package XB::Users;
use v5.36;
use JSON::PP ();
use Time::HiRes qw(time);
use XB::Client ();

sub new ($class, $site, %opt)
{
    return bless {site => $site, client => $site->client, parallel => 6, begin => time,
                  requests => 0, writes => 0, acked => 0, anonymous => 0, serial => 0,
                  status => {}, wrong => [], times => [], sent => {}, kept => {}, %opt}, $class;
}

sub names ($self) { return @{$self->{names}} }
sub id ($self, $name) { return $self->{client}->session($name) // '' }
# HAProxy puts its own word and ~ in front.
sub base ($self, $name) { return $self->id($name) =~ s/^[^~]*~|\..*//gsr }

sub login ($self, @names)
{
    my @login = map { _login($_) } @names;
    my @answers = $self->{client}->many(\@login, parallel => 8);
    my @bad = grep { $_->{status} >= 400 || $_->{status} == 0 } @answers;
    die "login: $bad[0]{status} $bad[0]{error}\n" if @bad;
    $self->{base}{$_} = $self->base($_) for @names;
    return map { $self->id($_) } @names;
}

sub _login ($name)
{
    return {path => '/login', method => 'POST', user => $name,
            body => "user=$name&password=pw-$name",
            headers => ['Content-Type' => 'application/x-www-form-urlencoded']};
}

sub anew ($self, $name)
{
    delete $self->{client}->jar($name)->{JSESSIONID};
    delete $self->{$_}{$name} for qw(base sent kept);
    return _login($name);
}

# ---- what they do

sub key ($self) { return 'k' . ++$self->{serial} }

# A page of XNAT: its data, what it changes, and what it is drawn with.
sub _request ($self, $name)
{
    if (my $special = $self->{opt}{does}{$name}) {
        my $does = $special->();
        return {ref $does ? %$does : (path => $does), user => $name, discard => 1};
    }
    my $ms = 20 + int rand 80;
    my @kinds = (
        sub { '/app/write?k=' . $self->key },
        sub { '/app/write?in=map&k=' . $self->key },
        sub { "/app/slow?ms=$ms&at=end&write=" . $self->key },
        sub { '/app/count' },
        sub { "/app/whoami?ms=" . int rand 30 },
        sub { '/app/image?ms=2&i=' . int rand 9 },
        sub { '/app/read' },
        sub { '/style.css' },
    );
    return {path => $kinds[rand @kinds]->(), user => $name};
}

sub click ($self, %opt)
{
    local @$self{qw(begin ready idle rounds open)} = (time, [], {}, {}, {});
    my @restless = @{$opt{restless} // []};
    my @pauses = @{$opt{pauses} // [0.2, 0.4, 0.8, 1.2]};
    my @at = @{$opt{at} // []};
    my ($asked, $enough) = (0, 0);
    $self->{restless} = {map { ($_ => 1) } @restless};
    $self->{opt} = {rounds => 2, %opt, pauses => \@pauses};
    my $n = 0;
    # Everybody's first burst comes within a second, so that they do not march in step.
    $self->_rest($_, $n++ / $self->names) for grep { !$self->{restless}{$_} } $self->names;
    $self->_burst($_) for @restless;
    $self->{client}->run(
        parallel => $opt{at_once} // 60,
        next => sub {
            my $now = time - $self->{begin};
            while (@at && $now >= $at[0]) {
                (undef, my $code) = splice @at, 0, 2;
                $code->($now);
            }
            if ($now - $asked > 0.2) {
                $asked = $now;
                $enough = $now > ($opt{most} // 30) || $opt{until}->($now);
            }
            return $enough ? undef : $self->_next;
        },
        done => sub ($answer, $req) { $self->_done($answer, $req, $enough) });
    return $self;
}

sub _rest ($self, $name, $seconds)
{
    my $due = time + $seconds;
    my $at = sprintf '%.2f', $due;
    push @{$self->{idle}{$at}}, $name;
    return;
}

sub _burst ($self, $name)
{
    my $n = $self->{opt}{burst}{$name} // $self->{parallel};
    $self->{open}{$name} = $n;
    push @{$self->{ready}}, map { $self->_request($name) } 1 .. $n;
    return;
}

sub never_pause ($self, $name)
{
    $self->{restless}{$name} = 1;
    return $self->_burst($name);
}

sub _next ($self)
{
    if (!@{$self->{ready}}) {
        my $now = time;
        for my $due (sort keys %{$self->{idle}}) {
            last if $due > $now;
            my $list = $self->{idle}{$due};
            my $name = shift @$list;
            delete $self->{idle}{$due} if !@$list;
            if (defined $name) {
                $self->_burst($name);
                last;
            }
        }
    }
    return shift @{$self->{ready}} // 0.01;
}

sub _done ($self, $answer, $req, $enough)
{
    my $name = $req->{user};
    $self->_judge($answer, $req);
    return if $enough;
    if ($self->{restless}{$name}) {
        push @{$self->{ready}}, $self->_request($name);
        return;
    }
    return if --$self->{open}{$name};
    if (++$self->{rounds}{$name} < $self->{opt}{rounds}) {
        return $self->_burst($name);
    }
    $self->{rounds}{$name} = 0;
    my $pauses = $self->{opt}{pauses};
    $self->_rest($name, $pauses->[rand @$pauses]);
    return;
}

sub all ($self, $paths, $meanwhile = undef)
{
    my (@requests, $due);
    for my $name ($self->names) {
        push @requests, map { {path => $_, user => $name} } @$paths;
    }
    $self->{client}->run(
        parallel => @requests + 1,
        next => sub {
            return shift @requests if @requests;
            $due //= time + 0.1;
            return 0.02 if time < $due;
            $meanwhile->() if $meanwhile;
            return undef;
        },
        done => sub ($answer, $req) { $self->_judge($answer, $req) });
    return;
}

# ---- what they notice

sub _judge ($self, $answer, $req)
{
    my ($name, $status) = ($req->{user}, $answer->{status});
    my $user = XB::Client->header($answer, 'X-XB-User') // 'nobody';
    # MSM takes no session over for an ignored path: with an old id such a file is for nobody.
    my $is_static = $req->{path} eq '/style.css';
    my $is_login = $req->{path} eq '/login' && $status == 200;
    $self->{base}{$name} = $self->base($name) if $is_login;
    $self->{requests}++;
    $self->{status}{$status}++;
    push @{$self->{times}},
        [time - $self->{begin} - $answer->{time}, $answer->{time}, $name, $req->{path},
         XB::Client->header($answer, 'X-XB-Node') // ''];
    my $what = $answer->{error} || $status == 0 ? "no answer ($answer->{error})"
        : $status == 503 && $user eq 'nobody' ? undef
        : $status != 200 ? "status $status"
        : $is_login ? undef
        : $user eq 'nobody' && $is_static ? $self->_note_anonymous
        : $user ne $name ? "answered as $user"
        : $self->base($name) ne ($self->{base}{$name} // '') ? 'has a new session' : undef;
    push @{$self->{wrong}}, "$name: $what ($req->{path})" if defined $what;
    my ($key) = $req->{path} =~ /\b(?:k|write)=(\w+)/ or return;
    $self->{sent}{$name}{$key} = 1;
    $self->{writes}++;
    if ($status == 200 && !$answer->{error}) {
        $self->{kept}{$name}{$key} = 1;
        $self->{acked}++;
    }
    return;
}

sub _note_anonymous ($self)
{
    $self->{anonymous}++;
    return undef;
}

# What each session holds now, read through the front door. Empty: no session any more.
sub _read_all ($self)
{
    my @read = map { {path => '/app/read', user => $_} } $self->names;
    my %found;
    for ($self->{client}->many(\@read, parallel => 8)) {
        my $name = $_->{request}{user};
        my $json = $_->{status} == 200 ? JSON::PP::decode_json($_->{body}) : {};
        my $is_own = ($json->{user} // '') eq $name;
        push @{$self->{wrong}}, "$name: $_->{status} at the end" if !$is_own;
        $found{$name} = {map { ($_ => 1) } @{$is_own ? $json->{keys} : []}};
    }
    return %found;
}

sub _missing ($self, $which)
{
    my %found = $self->_read_all;
    return map {
        my $name = $_;
        map { "$name $_" } grep { !$found{$name}{$_} } sort keys %{$self->{$which}{$name} // {}}
    } $self->names;
}

sub lost_writes ($self) { return $self->_missing('kept') }
sub unkept_writes ($self) { return $self->_missing('sent') }

1;
