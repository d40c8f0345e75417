# SPDX-License-Identifier: Apache-2.0
# Scripted MSM nodes, real memcacheds and an httpd in front of them: where moves are tested.
#
#   my $rig = XB::MoveRig->new($t);    # nodes n1 n2 n3, memcacheds m1 m2, balancer "app" at /
#       nodes => ['n1', 'n2'], stores => ['m1'], conf => server directives, section => those of
#       the balancer, member => parameters of each, relay => 1: an XB::Relay before each memcached,
#       at => { m1 => 'host:port' instead of the memcached's own }, httpd => { children => 3 },
#       fake => 'XB::FakeNonSticky': nodes of another kind, with => their options,
#       piped => ['n2']: an XB::Pipe before those nodes,
#       share => $other: its nodes and memcacheds, behind another httpd (httpd => { name => })
#   $rig->httpd, ->client, ->node('n1') (XB::FakeMsm), ->nodes, ->store('m1') (XB::Memcached),
#   $rig->relay('m1'), ->pipe('n2'), ->url('n2') where httpd reaches it
#   $rig->status        the status page, decoded
#   $rig->refusals      its refusals that are not 0, a hash;  $rig->refused('no-target')  of one
#   $rig->mover_pid     of the child that holds the mover's lease
#   $rig->login('u1', 'n1', node => 'm2', ...)     a session at that node, with two requests
#                       behind it; more arguments go into the login's query; gives the id
#   $rig->only('n1', 'n2'), $rig->open             the others are disabled; nobody is
#   $rig->drain('n1'), $rig->undrain('n1')
#   $rig->ask('u1', '/write?k=1')                  XB::Client's answer, and json, node
#   $rig->send('u1', '/path')                      sends a request, returns its socket at once
#   $rig->receive($socket)                         the answer once it is whole: { status, head,
#                                                  body, node, json }
#   $rig->probed('n2', $id)                        waits for a takeover probe for that session
#   $rig->moved                                    how many moves there were
#   $rig->idle(0.5)                                lets so many seconds pass
#   $rig->forget                        stops httpd and starts it: it has forgotten all sessions.
#                       Its old heartbeat is removed, which would bar moves as another httpd's
#   $rig->overload('n1', $requests, $ms)           so many requests at once, of a session that
#                       it has or gets, keep it busy so long; returns their sockets
package XB::MoveRig;
use v5.36;
use JSON::PP ();
use Time::HiRes qw(time);
use XB::FakeMsm ();
use XB::Pipe ();
use XB::Relay ();
use XB::Test;

sub new ($class, $t, %opt)
{
    my $self = bless { t => $t, nodes => [qw(n1 n2 n3)], stores => [qw(m1 m2)], conf => '',
                       section => '', member => '', piped => [], httpd => {}, at => {},
                       fake => 'XB::FakeMsm', with => {}, %opt }, $class;
    $self->{store} = $self->{share}{store}
        // { map { $_ => $t->memcached } @{$self->{stores}} };
    if ($self->{relay}) {
        $self->{relay} = { map { $_ => XB::Relay->new($t, $_, $self->{store}{$_}) }
                           @{$self->{stores}} };
        $self->{at}{$_} //= $self->{relay}{$_}->address for @{$self->{stores}};
    }
    $self->{node} = $self->{share}{node}
        // { map { $_ => $self->{fake}->new($t, $_, store => $self->{store}, %{$self->{with}}) }
             @{$self->{nodes}} };
    $self->{pipe} = { map { $_ => XB::Pipe->new($t, "before-$_", $self->{node}{$_}->port) }
                      @{$self->{piped}} };
    $self->{h} = $t->httpd(%{$self->{httpd}}, conf => $self->conf($self->{conf}));
    $self->{c} = $self->{h}->client;
    return $self;
}

sub conf ($self, $more)
{
    my $list = join ',', map { "$_:" . ($self->{at}{$_} // $self->{store}{$_}->address) }
        @{$self->{stores}};
    my $members = join "\n",
        map { 'BalancerMember ' . $self->url($_) . " route=$_ $self->{member}" }
        @{$self->{nodes}};
    return <<"END";
XnatBalanceMemcachedNodes "$list"
XnatBalanceGrace 30ms
$more
<Proxy "balancer://app">
$members
ProxySet lbmethod=xnat stickysession=JSESSIONID|jsessionid
$self->{section}
</Proxy>
<Location "/status">
SetHandler xnat-balance-status
</Location>
ProxyPass "/status" "!"
ProxyPass "/balancer-manager" "!"
ProxyPass "/" "balancer://app/"
END
}

sub url ($self, $name)
{
    my $pipe = $self->{pipe}{$name};
    return $pipe ? 'http://127.0.0.1:' . $pipe->port : $self->{node}{$name}->url;
}

sub httpd ($self) { return $self->{h} }
sub client ($self) { return $self->{c} }
sub node ($self, $name) { return $self->{node}{$name} }
sub nodes ($self) { return map { $self->{node}{$_} } @{$self->{nodes}} }
sub store ($self, $name) { return $self->{store}{$name} }
sub relay ($self, $name) { return $self->{relay}{$name} }
sub pipe ($self, $name) { return $self->{pipe}{$name} }

# ---- the status page

sub status ($self)
{
    my $r = $self->{c}->get('/status?format=json');
    return $r->{status} == 200 ? JSON::PP::decode_json($r->{body}) : {};
}

sub refusals ($self)
{
    my $all = $self->status->{refusals_by_reason};
    return map { $_ => $all->{$_} } grep { $all->{$_} } keys %$all;
}

sub refused ($self, $word) { return $self->status->{refusals_by_reason}{$word} }

# The last child that said so.
sub mover_pid ($self)
{
    return ($self->{h}->error_log =~ /\[pid (\d+)\b[^\n]* XB0313: /g)[-1];
}

# ---- members

sub _switch ($self, $flag, %on)
{
    $self->{h}->manager('app', $self->url($_), $flag => $on{$_}) for sort keys %on;
    return;
}

sub only ($self, @names)
{
    my %on = map { $_ => 1 } @names;
    $self->_switch('disabled', map { $_ => !$on{$_} } @{$self->{nodes}});
    return;
}

sub open ($self)
{
    $self->_switch('disabled', map { $_ => 0 } @{$self->{nodes}});
    return;
}

sub drain ($self, $name) { return $self->_switch('drain', $name => 1) }
sub undrain ($self, $name) { return $self->_switch('drain', $name => 0) }

# ---- requests

# Elections follow the load: asks until the node is it.
sub login ($self, $user, $name = undef, %query)
{
    my $query = join '&', map { "$_=$query{$_}" } sort keys %query;
    my $id = wait_for {
        delete $self->{c}->jar($user)->{JSESSIONID};
        $self->{c}->get("/login?$query", user => $user);
        my $got = $self->{c}->session($user) // return;
        return !defined $name || XB::FakeMsm->route_of($got) eq $name ? $got : undef;
    } 10, "a session at " . ($name // 'a node');
    $self->{c}->get('/read', user => $user);
    return $id;
}

sub ask ($self, $user, $path)
{
    my $r = $self->{c}->get($path, user => $user);
    my $json = $r->{status} == 200 && $r->{body} =~ /^\{/;
    $r->{json} = $json ? JSON::PP::decode_json($r->{body}) : {};
    $r->{node} = $r->{json}{node} // '';
    return $r;
}

sub send ($self, $user, $path)
{
    my $socket = $self->{c}->socket;
    my $cookie = 'JSESSIONID=' . $self->{c}->session($user);
    my @head = ("GET $path HTTP/1.1", 'Host: x', "Cookie: $cookie", 'Connection: close');
    print $socket map { "$_\r\n" } @head, '';
    $socket->flush;
    return $socket;
}

sub receive ($self, $socket)
{
    my $text = do { local $/; <$socket> } // '';
    my ($head, $body) = split /\r\n\r\n/, $text, 2;
    my %r = (head => $head // '', body => $body // '', status => 0);
    ($r{status}) = $r{head} =~ m{^HTTP/1\.1 (\d+)} or return \%r;
    $r{json} = $r{status} == 200 && $r{body} =~ /^\{/ ? JSON::PP::decode_json($r{body}) : {};
    $r{node} = $r{json}{node} // '';
    return \%r;
}

sub probed ($self, $name, $id)
{
    my $base = XB::FakeMsm->base($id);
    wait_for { grep { !$_->{flush} && $_->{id} =~ /^$base/ } $self->node($name)->heads } 10,
        "a probe at $name";
    return;
}

sub moved ($self)
{
    my $by = $self->status->{moves_by_reason};
    return $by->{overload} + $by->{drain} + $by->{failed};
}

sub idle ($self, $seconds)
{
    my $end = time + $seconds;
    wait_for { time > $end } $seconds + 5, 'time to pass';
    return;
}

sub forget ($self)
{
    $self->{h}->stop;
    $self->{c}->close;
    $_->forget_httpds for values %{$self->{store}};
    return $self->{h}->start;
}

sub overload ($self, $name, $requests = 4, $ms = 3000)
{
    my $user = "busy-$name";
    $self->login($user, $name) if !$self->{c}->session($user);
    return map { $self->send($user, "/bytes?n=1000&ms=$ms") } 1 .. $requests;
}

1;
