# SPDX-License-Identifier: Apache-2.0
# One process that a test started, leader of a group of its own; most signals go to the group.
#
#   $p->pid, $p->name, $p->log (stdout and stderr), $p->logs (all that finish reads),
#   $p->add_log($file_or_glob)
#   $p->alive, $p->stop($signal = TERM)  waits for the end, KILL after 10 s; gives the exit status
#   $p->pause, $p->cont                  SIGSTOP, SIGCONT of the group
#   $p->kill                             SIGKILL of the group
#   $p->signal($sig)                     to the leader only
#   $p->leftover                         "pid name" of each that still lives in the group
package XB::Process;
use v5.36;
use POSIX ();
use Time::HiRes ();

sub start ($class, %opt)
{
    my $t = $opt{test};
    my $self = bless { name => $opt{name}, owner => $$, logs => [] }, $class;
    $self->{log} = $t->path("$opt{name}.out");
    my $user = $> == 0 && ($opt{user} // 1) ? $t->user : undef;
    my $pid = fork // die "fork: $!";
    if ($pid == 0) {
        $self->_child($user, %opt);
    }
    eval { setpgrp $pid, $pid };    # in both, so that neither side depends on who runs first
    $self->{pid} = $pid;
    return $self;
}

sub _child ($self, $user, %opt)
{
    setpgrp 0, 0;
    $SIG{$_} = 'DEFAULT' for qw(INT TERM HUP PIPE);
    open STDIN, '<', '/dev/null';
    open STDOUT, '>>', $self->{log} or die "$self->{log}: $!";
    open STDERR, '>&', \*STDOUT;
    STDOUT->autoflush;
    eval {
        if (defined $user) {
            my ($uid, $gid) = (getpwnam $user)[2, 3];
            $) = "$gid $gid";
            POSIX::setgid($gid);
            POSIX::setuid($uid) // die "setuid $user: $!\n";
        }
        chdir $opt{cwd} or die "$opt{cwd}: $!\n" if $opt{cwd};
        $ENV{$_} = $opt{env}{$_} for keys %{$opt{env} // {}};
        $opt{code}->();
        1;
    } or print STDERR "$self->{name} failed: $@ at XB.pm line 0\n";
    POSIX::_exit($@ ? 1 : 0);
}

sub pid ($self) { return $self->{pid} }
sub name ($self) { return $self->{name} }
sub log ($self) { return $self->{log} }
sub logs ($self) { return $self->{log}, map { glob } @{$self->{logs}} }
sub add_log ($self, @files) { push @{$self->{logs}}, @files; return }

sub alive ($self)
{
    return 0 if defined $self->{status};
    return 1 if waitpid($self->{pid}, POSIX::WNOHANG()) != $self->{pid};
    $self->{status} = $?;
    return 0;
}

sub signal ($self, $sig)
{
    return $self->alive && CORE::kill($sig, $self->{pid});
}

# Guards against signalling a stranger: a group is only ours while its leader or a member is.
sub _group ($self, $sig)
{
    return $self->leftover && CORE::kill($sig, -$self->{pid});
}

sub pause ($self) { return $self->_group('STOP') }
sub cont ($self) { return $self->_group('CONT') }

sub kill ($self)
{
    $self->_group('KILL');
    return $self->_wait(10);
}

sub stop ($self, $sig = 'TERM', $seconds = 10)
{
    if ($self->alive) {
        $self->signal($sig);
        $self->_group('CONT');
        $self->_wait($seconds) || $self->kill;
    }
    return $self->{status};
}

sub _wait ($self, $seconds)
{
    my $end = Time::HiRes::time() + $seconds;
    while ($self->alive) {
        return 0 if Time::HiRes::time() > $end;
        Time::HiRes::sleep(0.01);
    }
    return 1;
}

sub _members ($self)
{
    my @found;
    for my $file (glob '/proc/[0-9]*/stat') {
        open my $fh, '<', $file or next;
        my ($pid, $name, $state, $group) =
            (<$fh> // '') =~ /^(\d+) \((.*)\) (\S) \d+ (\d+)/s or next;
        push @found, "$pid $name" if $group == $self->{pid} && $state !~ /[ZX]/;
    }
    return @found;
}

# Gives a group whose leader has ended a moment to go.
sub leftover ($self)
{
    my @left = $self->_members;
    for (1 .. 100) {
        last if !@left || $self->alive;
        Time::HiRes::sleep(0.02);
        @left = $self->_members;
    }
    return @left;
}

sub kill_group ($self)
{
    CORE::kill('KILL', -$self->{pid}) if $self->_members;
    $self->_wait(5);
    return;
}

1;
