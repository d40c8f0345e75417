# SPDX-License-Identifier: Apache-2.0
# The live-test object: a temp directory, ports, processes, and the two checks that end each test.
#
#   use XB::Test;                        # exports wait_for
#   my $t = XB::Test->new;
#   my $h = $t->httpd(conf => '...');    # XB::Httpd
#   my $be = $t->backend('n1');          # XB::Backend
#   my $mc = $t->memcached;              # XB::Memcached
#   my $f = $t->fake_memcached(sub ($conn, $line) {...});
#   my $c = $t->client;                  # XB::Client
#   $t->test_module('mod_xb_x', @more) # builds t/lib/mod_xb_x.c, with more sources; its .so
#   $t->get($url, %opt)                  # one request without a cookie jar: XB::Client's answer
#   $t->port('name')                     # a free port, this test's own; same name, same port
#   $t->path('x'), $t->dir, $t->mkdir('x'), $t->write('x', $text), $t->slurp('x')
#   $t->expand($text)                    # %%PORT:name%%, %%DIR%%, %%USER%%
#   $t->spawn(name => , cmd => [...], env => {}, cwd => , user => 0|1,
#             ready => sub ($p) {...}, timeout => seconds)
#   $t->fork_child(name => , code => sub {...}, ...)
#                                        # both give an XB::Process, leader of its own group
#   wait_for { condition } $seconds, 'what';   # the condition's value; dies when time is over
#   $t->expect_log(qr/AH01114/);         # must be in some log; $t->allow_log(qr/.../): may be
#   $t->finish;                          # stops all, checks logs and processes, done_testing
#   $t->shut_down                        # for programs that are no tests: stops all, removes the
#                                        # directory; gives the names of processes that stayed
#   $t->keep                             # all goes on when this program has ended
#   $t->processes                        # all that it started: XB::Process
#
# Processes run as www-data (or nobody) when root starts the test. XB_KEEP=1 keeps the temp
# directory, XB_TIMES=n makes each time-out of wait_for n times longer, XB_VALGRIND=1 and XB_ASAN=1
# run httpd below valgrind or with the module of `make asan`.
package XB::Test;
use v5.36;
use File::Path ();
use File::Temp ();
use IO::Socket::IP ();
use Test::More ();
use Time::HiRes ();
use XB::Process ();

sub import (@)
{
    feature->import(':5.36');
    strict->import;
    warnings->import;
    no strict 'refs';
    *{ caller() . '::wait_for' } = \&wait_for;
    return;
}

my $current;                    # the object that END cleans up when the test dies

sub new ($class)
{
    my $self = bless {
        owner => $$, procs => [], ports => {}, allowed => [], expected => [], started => time,
    }, $class;
    $self->{dir} = File::Temp::tempdir('xb-test-XXXXXX', TMPDIR => 1);
    ($self->{user}) = grep { defined getpwnam $_ } qw(www-data nobody);
    $self->{user} = getpwuid $> if $> != 0;
    chmod 0755, $self->{dir};
    chown +(getpwnam $self->{user})[2, 3], $self->{dir} if $> == 0;
    $SIG{$_} = sub { exit 1 } for qw(INT TERM HUP);
    $SIG{PIPE} = 'IGNORE';
    return $current = $self;
}

# ---- files and ports

sub dir ($self) { return $self->{dir} }
sub user ($self) { return $self->{user} }
sub path ($self, $name) { return "$self->{dir}/$name" }

sub mkdir ($self, $name)
{
    my $path = $self->path($name);
    File::Path::make_path($path);
    chown +(getpwnam $self->{user})[2, 3], $path if $> == 0;
    return $path;
}

sub write ($self, $name, $text)
{
    open my $fh, '>', $self->path($name) or die "$name: $!";
    print $fh $text;
    close $fh or die "$name: $!";
    return $self->path($name);
}

sub slurp ($self, $name)
{
    open my $fh, '<', $name =~ m{^/} ? $name : $self->path($name) or return '';
    local $/;
    return <$fh> // '';
}

sub expand ($self, $text)
{
    $text =~ s/%%PORT:(\w+)%%/$self->port($1)/ge;
    $text =~ s/%%DIR%%/$self->{dir}/g;
    $text =~ s/%%USER%%/$self->{user}/g;
    return $text;
}

# Ports lie below the kernel's ephemeral range, so that no outgoing connection takes one. The UDP
# port of the same number, which nobody here needs, is kept bound: no two tests get the same.
sub port ($self, $name = undef)
{
    return $self->{ports}{$name} if defined $name && $self->{ports}{$name};
    for (1 .. 500) {
        my %at = (LocalHost => '127.0.0.1', LocalPort => 20000 + int rand 12000);
        my $lock = IO::Socket::IP->new(%at, Proto => 'udp') or next;
        IO::Socket::IP->new(%at, Listen => 1, ReuseAddr => 1) or next;
        push @{$self->{locks}}, $lock;
        $self->{ports}{$name} = $at{LocalPort} if defined $name;
        return $at{LocalPort};
    }
    die "no free port found: $!";
}

# ---- processes

sub spawn ($self, %opt)
{
    my $cmd = $opt{cmd};
    my $code = sub { exec { $cmd->[0] } @$cmd or die "$cmd->[0]: $!\n" };
    return $self->_start(%opt, code => $code);
}

sub fork_child ($self, %opt) { return $self->_start(%opt) }

sub _start ($self, %opt)
{
    my $p = XB::Process->start(test => $self, %opt);
    push @{$self->{procs}}, $p;
    if (my $ready = $opt{ready}) {
        my $ok = eval {
            wait_for(sub { die "ended early\n" if !$p->alive; $ready->($p) },
                     $opt{timeout} // 20, "$opt{name} to be ready");
        };
        die "$opt{name}: $@" . $self->slurp($p->log) if !$ok;
    }
    return $p;
}

sub wait_for :prototype(&$$) ($cond, $seconds, $what)
{
    my $end = Time::HiRes::time() + $seconds * ($ENV{XB_TIMES} // 1);
    my $pause = 0.005;
    while (1) {
        my $value = $cond->();
        return $value if $value;
        die "waited $seconds s for $what\n" if Time::HiRes::time() > $end;
        Time::HiRes::sleep($pause);
        $pause = $pause * 1.5 if $pause < 0.1;
    }
}

sub listening ($class, $port)
{
    return !!IO::Socket::IP->new(PeerHost => '127.0.0.1', PeerPort => $port, Timeout => 1);
}

# ---- the parts

sub httpd ($self, %opt) { require XB::Httpd; return XB::Httpd->new($self, %opt) }
sub memcached ($self, %opt) { require XB::Memcached; return XB::Memcached->new($self, %opt) }
sub client ($self, %opt) { require XB::Client; return XB::Client->new(%opt) }

sub backend ($self, $name, @rest)
{
    require XB::Backend;
    return XB::Backend->new($self, $name, @rest);
}

sub fake_memcached ($self, $code)
{
    require XB::Memcached;
    return XB::Memcached->fake($self, $code);
}

sub test_module ($self, $name, @sources)
{
    require XB::Deps;
    my $root = XB::Deps->root;
    my ($cc, $flags) = map { `make -s -C '$root' show-$_` =~ s/\n//r } qw(CC GLUE);
    $flags =~ s/ -MMD| -MP| -fvisibility=hidden//g;
    $flags .= ' -fsanitize=address,undefined' if $ENV{XB_ASAN};
    my $so = $self->path("$name.so");
    my $said = `cd '$root' && $cc $flags -g -O1 -shared -o '$so' t/lib/$name.c @sources 2>&1`;
    die $said if $?;
    return $so;
}

sub get ($self, $url, %opt)
{
    return $self->client->request(url => $url, %opt);
}

# ---- logs

sub expect_log ($self, @patterns) { push @{$self->{expected}}, @patterns; return }
sub allow_log ($self, @patterns) { push @{$self->{allowed}}, @patterns; return }

# The event MPM of httpd 2.4.71 itself, in one of some sixty stops under load: when a child ends at
# once, its main thread closes the sockets of connections that its workers are just giving back
# (close_worker_sockets), and may crash on one. Only with the stop or restart next in the log.
my $DIED_AT_A_STOP = qr{^.*AH00052:[ ].*Segmentation[ ]fault.*\n
    (?=(?:(?!.*(?:AH00489|XB0313)).*\n)*.*AH0049[14]:)}mx;

# Lines that no test may leave unannounced: httpd's warn or worse, a child that died by a signal,
# any sanitizer, valgrind or Perl complaint. AH10159 only says that this small server is busy,
# AH01882 that the machine's OpenSSL is not the very one that mod_ssl was built with.
sub unexpected ($class, $text, @announced)
{
    $text =~ s/$DIED_AT_A_STOP//g;
    return grep {
        my $line = $_;
        ($line =~ /^\[[^\]]+\] \[[\w-]*:(?:warn|error|crit|alert|emerg)\]/
            || $line =~ /Sanitizer|: runtime error: |^==\d+== .*(?:Invalid|Uninit|uninit)/
            || $line =~ /\bAH0005[0-2]\b/
            || $line =~ /Segmentation fault|core dumped| at \S+\.(?:pm|t|pl) line \d+/)
            && $line !~ /\bAH(?:10159|01882)\b/
            && !grep { $line =~ $_ } @announced
    } split /\n/, $text;
}

sub _check_logs ($self)
{
    my %seen;
    my @bad;
    my $all = '';
    for my $file (map { $_->logs } @{$self->{procs}}) {
        next if $seen{$file}++;
        my $text = $self->slurp($file);
        $all .= $text;
        push @bad, $self->unexpected($text, @{$self->{allowed}}, @{$self->{expected}});
    }
    push @bad, map { "never logged: $_" } grep { $all !~ $_ } @{$self->{expected}};
    Test::More::ok(!@bad, 'no unexpected line in any log')
        or Test::More::diag(map { "$_\n" } @bad[0 .. ($#bad < 19 ? $#bad : 19)]);
    return;
}

# ---- the end

sub _stop_all ($self)
{
    my @left;
    for my $p (reverse @{$self->{procs}}) {
        $p->stop;
        push @left, map { $p->name . ": $_" } $p->leftover;
    }
    return @left;
}

sub shut_down ($self)
{
    my @left = $self->_stop_all;
    $self->_cleanup;
    return @left;
}

sub processes ($self) { return @{$self->{procs}} }

sub keep ($self)
{
    $current = undef;
    return $self->processes;
}

sub finish ($self)
{
    my @left = $self->_stop_all;
    $self->_check_logs;
    Test::More::ok(!@left, 'no process left behind') or Test::More::diag("@left");
    $self->_cleanup;
    Test::More::done_testing();
    return;
}

sub _cleanup ($self)
{
    $_->kill_group for reverse @{$self->{procs}};
    $self->{procs} = [];
    if ($ENV{XB_KEEP}) {
        Test::More::diag("kept: $self->{dir}");
    }
    else {
        File::Path::remove_tree($self->{dir});
    }
    $current = undef;
    return;
}

END {
    if ($current && $current->{owner} == $$) {
        my $status = $?;
        for my $p (@{$current->{procs}}) {          # the test died: show what the servers said
            my @tail = split /\n/, join '', map { $current->slurp($_) } $p->logs;
            @tail = grep { !/:(?:debug|info|trace\d)\]/ } @tail;
            Test::More::diag(map { $p->name . ": $_\n" } @tail > 15 ? @tail[-15 .. -1] : @tail);
        }
        $current->_cleanup;
        $? = $status || 1;
    }
}

1;
