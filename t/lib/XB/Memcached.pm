# SPDX-License-Identifier: Apache-2.0
# A real memcached on a free port, or a scripted one; plus a plain client of the text protocol.
#
#   my $mc = $t->memcached;            # name => 'mc2', port =>, args => ['-v']
#   $mc->get($key), $mc->gets(@keys) (hash), $mc->set($key, $value, $exptime, $flags),
#   $mc->add(...), $mc->delete($key), $mc->keys, $mc->flush, $mc->stats,
#   $mc->forget_httpds    # heartbeats of those that are gone would bar moves for ten seconds
#   $mc->command($line) (first line of the answer)
#   $mc->pause, $mc->cont, $mc->kill, $mc->stop, $mc->start (same port, empty)
#   $mc->port, $mc->address
#
#   my $f = $t->fake_memcached(sub ($conn, $line) { $conn->write("END\r\n") });   # an XB::Server
#   my $f = $t->fake_memcached('hang');    # or trickle, garbage, drop, endless
#   $f->records                            # the lines it got, as { line, conn }
package XB::Memcached;
use v5.36;
use IO::Socket::IP ();
use XB::Server ();
use XB::Deps ();

sub new ($class, $t, %opt)
{
    my $name = $opt{name} // 'memcached' . ++$t->{memcacheds};
    my $self = bless { test => $t, name => $name, port => $opt{port} // $t->port,
                       args => $opt{args} // [] }, $class;
    return $self->start;
}

sub start ($self)
{
    my $t = $self->{test};
    my @user = $> == 0 ? ('-u', $t->user) : ();
    $self->{process} = $t->spawn(
        name  => $self->{name},
        user  => 0,             # takes -u itself: root's cache of tools is closed to others
        cmd   => [ XB::Deps->path('memcached'), '-l', '127.0.0.1', '-p', $self->{port}, '-U', 0,
                   '-t', 2, '-m', 64, @user, @{$self->{args}} ],
        ready => sub { $t->listening($self->{port}) });
    return $self;
}

sub port ($self) { return $self->{port} }
sub address ($self) { return "127.0.0.1:$self->{port}" }
sub process ($self) { return $self->{process} }
sub pause ($self) { return $self->{process}->pause }
sub cont ($self) { return $self->{process}->cont }

sub stop ($self)
{
    $self->{sock} = undef;
    return $self->{process}->stop;
}

sub kill ($self)
{
    $self->{sock} = undef;
    return $self->{process}->kill;
}

sub _send ($self, $text)
{
    my %peer = (PeerHost => '127.0.0.1', PeerPort => $self->{port}, Timeout => 2);
    $self->{sock} //= IO::Socket::IP->new(%peer) or die "memcached $self->{port}: $@";
    print { $self->{sock} } $text;
    $self->{sock}->flush;
    return;
}

sub _line ($self)
{
    my $line = readline($self->{sock}) // die "memcached $self->{port}: connection lost\n";
    return $line =~ s/\r?\n\z//r;
}

sub command ($self, $line)
{
    $self->_send("$line\r\n");
    return $self->_line;
}

sub gets ($self, @keys)
{
    my %found;
    $self->_send("get @keys\r\n");
    while ((my $line = $self->_line) ne 'END') {
        my ($key, $length) = $line =~ /^VALUE (\S+) \d+ (\d+)/ or die "memcached: $line\n";
        read $self->{sock}, $found{$key}, $length;
        $self->_line;
    }
    return %found;
}

sub get ($self, $key)
{
    my %found = $self->gets($key);
    return $found{$key};
}

sub _store ($self, $verb, $key, $value, $exptime = 0, $flags = 0)
{
    $self->_send("$verb $key $flags $exptime " . length($value) . "\r\n$value\r\n");
    return $self->_line eq 'STORED';
}

sub set ($self, @args) { return $self->_store('set', @args) }
sub add ($self, @args) { return $self->_store('add', @args) }
sub delete ($self, $key) { return $self->command("delete $key") eq 'DELETED' }
sub forget_httpds ($self)
{
    $self->delete($_) for grep { /^xnat-balance:front:/ } $self->keys;
    return;
}

sub flush ($self) { return $self->command('flush_all') eq 'OK' }

sub _until_end ($self, $line)
{
    my @lines;
    $self->_send("$line\r\n");
    while ((my $answer = $self->_line) ne 'END') {
        die "memcached: $answer\n" if $answer =~ /ERROR|BUSY/;
        push @lines, $answer;
    }
    return @lines;
}

sub stats ($self) { return map { /^STAT (\S+) (.*)/ } $self->_until_end('stats') }

# The crawler may be at its own work: BUSY, and no more is said.
sub keys ($self)
{
    my @lines;
    XB::Test::wait_for(sub {
        @lines = eval { $self->_until_end('lru_crawler metadump all') };
        die $@ if $@ && $@ !~ /BUSY/;
        return !$@;
    }, 5, 'the crawler of memcached');
    my @keys = map { /^key=(\S+)/ } @lines;
    return sort map { s/%([0-9A-Fa-f]{2})/chr hex $1/ger } @keys;
}

my %FAKE = (
    hang    => sub ($conn, $line) { $conn->until_closed },
    drop    => sub ($conn, $line) { $conn->reset },
    garbage => sub ($conn, $line) { $conn->write(map { chr int rand 256 } 1 .. 3000) },
    trickle => sub ($conn, $line) {
        for (split //, "VALUE k 0 1000\r\n" . 'x' x 1000) {
            $conn->write($_) or return;
            $conn->pause(0.02);
        }
    },
    endless => sub ($conn, $line) {
        1 while $conn->write('VALUE k 0 60000' . "\r\n" . 'x' x 60000 . "\r\n");
    },
);

sub fake ($class, $t, $code)
{
    $code = $FAKE{$code} // die "no such fake: $code" if !ref $code;
    my $name = 'fake' . ++$t->{fakes};
    return XB::Server->new($t, name => $name, code => sub ($conn) {
        while (defined(my $line = $conn->line)) {
            $conn->record({ line => $line, conn => $conn->number });
            $code->($conn, $line);
        }
    });
}

1;
