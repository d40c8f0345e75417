# SPDX-License-Identifier: Apache-2.0
# A node is lost while many users work, with several requests of each at once: what they lose, with
# the module and, on the same load, with stock httpd's bytraffic.
#
#   my $d = XB::DeadNode->new(%opt);     # of XB::Site
#   $d->lose('killed',
#       lose => sub ($site) {...},       # tomcat1, which is stopped (SIGSTOP) before
#       heal => sub ($site) {...},       # before the next one; without: it is restarted
#       blind => 2,                      # seconds within which httpd must notice (see XB::Loss)
#       find => sub ($site) {...},       # what brings it back, seconds later (back => 3), or not
#       idle => 12,                      # other users, who come back, six requests each at once,
#                                        # when the node is up again: one HEAD brings each back
#       log => qr/AH02460/,              # what httpd may say besides that it cannot reach the node
#       lives => 1,                      # it is only out of service: it stores what it has
#       kb => 200,                       # ballast of each session
#       member => 'timeout=2', section => '', tls => 0, users => 40,
#       before => 2, each => 15, after => 4);     # see XB::Loss
#   $d->finish;
#   XB::DeadNode->run(%opt)              # a test of this one kind
package XB::DeadNode;
use v5.36;
use Test::More;
use XB::Loss ();
use XB::Site ();
use XB::Test;
use XB::Users ();

my $UNREACHABLE = qr/AH(?:01114|00940|00957|00959|01102|01110|00898)/;

sub new ($class, %opt)
{
    my $t = XB::Test->new;
    my $site = XB::Site->new($t, threads => 250, conf => 'XnatBalanceMove Drain', start => 0, %opt);
    return bless { test => $t, site => $site }, $class;
}

sub run ($class, %opt)
{
    my $self = $class->new;
    $self->_both(%opt);
    return $self->finish;
}

sub lose ($self, $name, %opt)
{
    subtest $name => sub { $self->_both(%opt) };
    return;
}

sub finish ($self)
{
    $self->{test}->finish;
    return;
}

sub _both ($self, %opt)
{
    %opt = (users => 40, before => 2, each => 15, after => 4, blind => 0, member => '',
            section => '', tls => 0, heal => sub ($site) { $site->tomcat(1)->restart }, %opt);
    $self->{test}->allow_log($UNREACHABLE, $opt{log} // ());
    my $ours = $self->_column(%opt, stock => 0);
    $ours->{moves} = [ $self->{site}->moves('failed') ];
    $ours->{status} = $self->{site}->status;
    my $stock = $self->_column(%opt, stock => 'bytraffic');
    _show($ours, $stock);
    _judge($ours, %opt);
    return;
}

# ---- one column

sub _column ($self, %opt)
{
    my $site = $self->{site};
    $self->{heal}->($site) if $self->{heal};
    $self->{heal} = $opt{heal};
    $site->start_httpd(map { $_ => $opt{$_} } qw(stock member section tls));
    my $prefix = 'u' . ++$self->{columns} . 'n';
    my $users = XB::Loss->new($site, names => [ map { "$prefix$_" } 1 .. $opt{users} ]);
    $users->login($users->names);
    $users->all(["/app/size?kb=$opt{kb}"]) if $opt{kb};
    my $idle = $opt{idle} ? _leave($site, map { "${prefix}i$_" } 1 .. $opt{idle}) : undef;
    $users->work((map { $_ => $opt{$_} } qw(before each after back)),
                 lose => sub { $opt{lose}->($site) },
                 find => $opt{find} && sub { $opt{find}->($site) });
    my $bad = $users->losses($opt{blind});
    $bad->{idle} = _come_back($idle) if $idle;
    $bad->{requests} = $users->{requests};
    return $bad;
}

# ---- users who are away meanwhile

sub _leave ($site, @names)
{
    my $idle = XB::Users->new($site, names => \@names);
    $idle->login(@names);
    $idle->all(['/app/write?k=before']);
    $idle->{at_1} = grep { $idle->id($_) =~ /\.tomcat1$/ } @names;
    return $idle;
}

sub _come_back ($idle)
{
    wait_for { $idle->{site}->tomcat(1)->is_ready } 60, 'the node';
    $idle->all([map { "/app/write?k=back$_" } 1 .. 6]);
    return { wrong => $idle->{wrong}, lost => [$idle->lost_writes], at_1 => $idle->{at_1} };
}

# ---- both

my @KINDS = (saved => 'saved writes lost', written => 'writes after it lost',
             login => 'logins lost', split => 'sessions at two nodes',
             error => '5xx afterwards', in_flight => '5xx in flight',
             unsaved => 'answered, not yet saved');
my %KIND = @KINDS;

sub _count ($bad, $kind)
{
    my %once = map { $_ => 1 } @{$bad->{$kind} // []};
    return $kind =~ /login|split/ ? scalar keys %once : scalar @{$bad->{$kind} // []};
}

sub _spread ($bad)
{
    return join ' ', map { "$bad->{homes}{$_} at $_" } sort keys %{$bad->{homes}};
}

sub _show ($ours, $stock)
{
    my $row = sub ($format, $what, $value) {
        note(sprintf "%-26s $format $format", $what, map { $value->($_) } $ours, $stock);
    };
    note(sprintf '%-26s %8s %8s', '', 'xnat', 'stock');
    $row->('%8d', 'requests', sub ($x) { $x->{requests} });
    $row->('%8d', 'sessions of the node', sub ($x) { scalar @{$x->{sessions}} });
    $row->('%8d', 'their saved writes', sub ($x) { scalar @{$x->{saved_of}} });
    for my $kind (grep { $KIND{$_} } @KINDS) {
        $row->('%8d', $KIND{$kind}, sub ($x) { _count($x, $kind) });
    }
    for my $whose (qw(lost others)) {
        $row->('%5.0f ms', "slowest, $whose users", sub ($x) { 1000 * $x->{slow}{$whose} });
    }
    $row->('%6.1f s', 'noticed after', sub ($x) { $x->{noticed} });
    $row->('%8d', 'writes lost of idle users', sub ($x) { scalar @{$x->{idle}{lost}} })
        if $ours->{idle};
    note("sessions now: @{[ _spread($ours) ]}; stock: @{[ _spread($stock) ]}");
    my @ms = sort { $b <=> $a } map { $_->{ms} } @{$ours->{moves}};
    note('takeovers: ' . scalar(@ms) . ", longest $ms[0] ms") if @ms;
    return;
}

# ---- what ours must be

sub _judge ($ours, %opt)
{
    cmp_ok(scalar @{$ours->{saved_of}}, '>', $opt{users}, 'there were writes to lose');
    for my $kind (qw(saved written login split error), $opt{lives} ? 'unsaved' : ()) {
        my @bad = @{$ours->{$kind} // []};
        is(scalar @bad, 0, "$KIND{$kind}: none") or diag(join "\n", splice @bad, 0, 10);
    }
    cmp_ok($ours->{noticed}, '<', $opt{blind}, 'the loss is noticed in time') if $opt{blind};
    $opt{idle} ? _judge_idle($ours) : _judge_takeovers($ours);
    is($ours->{status}{sessions}{lost}, 0, 'no session was lost');
    is($ours->{status}{gates}{crowded}, 0, 'nobody was turned away at a gate');
    return;
}

sub _judge_takeovers ($ours)
{
    my %times;
    $times{ $_->{session} }++ for @{$ours->{moves}};
    is(scalar keys %times, scalar @{$ours->{sessions}}, 'each session was taken over');
    is_deeply([ grep { $_ != 1 } values %times ], [], '... once');
    my %to;
    $to{ $_->{to} }++ for @{$ours->{moves}};
    is(join(' ', sort keys %to), 'tomcat2 tomcat3', '... not all by one node');
    return;
}

sub _judge_idle ($ours)
{
    my $idle = $ours->{idle};
    is_deeply($idle->{wrong}, [], 'who comes back is logged in');
    is_deeply($idle->{lost}, [], '... with all that was written');
    cmp_ok($idle->{at_1}, '>', 0, '... some at the node that has restarted');
    is($ours->{status}{sessions}{revived}, $idle->{at_1}, '... after one HEAD for each session');
    return;
}

1;
