# SPDX-License-Identifier: Apache-2.0
# A whole site: memcacheds, real Tomcats behind httpd with lbmethod=xnat, what it says of moves.
#
#   my $s = XB::Site->new($t, tomcats => 3, memcacheds => 2, serializer => 'kryo',
#                         conf => 'XnatBalanceMove Drain', module => 'build/x.so',
#                         tomcat => {permits => 4}, member => 'timeout=2', section => 'ProxySet ...',
#                         piped => 1,      # an XB::Pipe before tomcat1: $s->pipe
#                         tls => 1,        # tomcat1, whose connectors must have https, is asked so
#                         stock => 'bytraffic',      # that lbmethod, without the module
#                         start => 0);     # no httpd yet
#   $s->httpd, $s->client (XB::Client), $s->msm (XB::Msm), $s->tomcat(1), ->tomcat('tomcat1')
#   $s->only(1)                  # the other members take no requests; only(): all do again
#   $s->drain(1), $s->undrain(1), $s->enable(1)    # enable: not disabled any more either
#   $s->set(1, disabled => 1)    # flags of balancer-manager
#   $s->drain_script(1, '--wait', 60)              # the command: scripts/drain for that node
#   $s->status                   # the status page's JSON, decoded
#   $s->member(1)                # its part of it
#   $s->refusals                 # its number of refusals by reason (those that there were)
#   $s->moves('drain')           # of the log: { from, to, reason, ms } each; all without reason
#   $s->unproven(@id)            # ids that are not where their route says, with the reason
package XB::Site;
use v5.36;
use JSON::PP ();
use XB::Deps ();
use XB::Msm ();
use XB::Pipe ();
use XB::Tomcat ();

sub new ($class, $t, %opt)
{
    my $self = bless {t => $t, tomcats => 3, memcacheds => 2, serializer => 'java', conf => '',
                      module => 1, tomcat => {}, threads => 64, member => '', section => '',
                      stock => 0, tls => 0, start => 1, %opt}, $class;
    $self->{msm} = XB::Msm->new($t, $self->{memcacheds});
    $self->{tc} = [XB::Tomcat->fleet($t, $self->{tomcats}, memcached => $self->{msm}->nodes,
                                     contexts => ['/'], serializer => $self->{serializer},
                                     %{$self->{tomcat}})];
    $self->start_httpd if $self->{start};
    return $self;
}

# Another httpd in front of the same Tomcats, for another build or other settings.
sub start_httpd ($self, %opt)
{
    @$self{keys %opt} = values %opt;
    my $tls = $self->{tls} ? "SSLProxyEngine On\nSSLProxyCheckPeerName off" : '';
    $self->_lay_pipe if $self->{piped};
    my $members = join "\n",
        map { 'BalancerMember ' . $self->_url($_) . ' route=' . $_->route . " $self->{member}" }
        @{$self->{tc}};
    my $own = $self->{stock} ? '' : <<~END;
        XnatBalanceMemcachedNodes "@{[ $self->{msm}->nodes ]}"
        $self->{conf}
        <Location "/xnat-balance">
        SetHandler xnat-balance-status
        </Location>
        ProxyPass "/xnat-balance" "!"
        END
    if ($self->{httpd}) {
        $self->{httpd}->stop;
        $_->forget_httpds for $self->{msm}->memcacheds;
    }
    $self->{httpd} = $self->{t}->httpd(
        name => 'httpd' . ++$self->{httpds}, children => 2,
        module => $self->{stock} ? 0 : $self->{module},
        modules => $self->{tls} ? ['ssl'] : [],
        threads => $self->{threads}, mpm => 'event', conf => <<~END);
        $own
        <Proxy "balancer://app">
        $members
        ProxySet lbmethod=@{[ $self->{stock} || 'xnat' ]}
        ProxySet stickysession=JSESSIONID|jsessionid
        $self->{section}
        $tls
        </Proxy>
        ProxyPass "/balancer-manager" "!"
        ProxyPass "/" "balancer://app/"
        END
    $self->{client} = $self->{httpd}->client(timeout => 30);
    return $self;
}

sub _scheme ($self) { return $self->{tls} ? 'https' : 'http' }

sub _lay_pipe ($self)
{
    my $port = $self->{tc}[0]->port($self->_scheme);
    $self->{pipe} ? $self->{pipe}->lead_to($port)
                  : ($self->{pipe} = XB::Pipe->new($self->{t}, 'pipe', $port));
    return;
}

sub _url ($self, $tc)
{
    return $tc->url('') if $tc != $self->{tc}[0];
    my $address = $self->{piped} ? $self->{pipe}->address : '127.0.0.1:' . $tc->port($self->_scheme);
    return $self->_scheme . "://$address";
}

sub pipe ($self) { return $self->{pipe} }
sub httpd ($self) { return $self->{httpd} }
sub client ($self) { return $self->{client} }
sub msm ($self) { return $self->{msm} }
sub tomcats ($self) { return @{$self->{tc}} }
sub tomcat ($self, $which) { return $self->{tc}[ ($which =~ /(\d+)$/)[0] - 1 ] }

# ---- balancer-manager

sub set ($self, $which, %flag)
{
    $self->{httpd}->manager('app', $self->_url($self->tomcat($which)), %flag);
    return;
}

sub only ($self, $which = undef)
{
    for my $n (1 .. $self->{tomcats}) {
        $self->set($n, disabled => defined $which && $n != $which);
    }
    return;
}

sub drain ($self, $which) { return $self->set($which, drain => 1) }
sub undrain ($self, $which) { return $self->set($which, drain => 0) }
sub enable ($self, $which) { return $self->set($which, drain => 0, disabled => 0) }

sub drain_script ($self, $which, @args)
{
    return (XB::Deps->root . '/scripts/drain',
            '--manager', $self->{httpd}->url('/balancer-manager'),
            '--status', $self->{httpd}->url('/xnat-balance'), '--balancer', 'app',
            '--member', $self->tomcat($which)->route, @args);
}

# ---- what it says

sub status ($self)
{
    my $r = $self->{httpd}->client->get('/xnat-balance?format=json');
    return JSON::PP::decode_json($r->{body});
}

sub member ($self, $which)
{
    my $route = $self->tomcat($which)->route;
    my ($balancer) = grep { $_->{name} =~ /app/ } @{$self->status->{balancers}};
    return (grep { $_->{route} eq $route } @{$balancer->{members}})[0];
}

sub refusals ($self)
{
    my $all = $self->status->{refusals_by_reason};
    return {map { $all->{$_} ? ($_ => $all->{$_}) : () } keys %$all};
}

sub moves ($self, $reason = undef)
{
    my @moves;
    for ($self->{httpd}->error_log
             =~ /XB0301: (session \S+ moved from \S+ to \S+ \(\S+\) in \d+ ms)/g) {
        my %m;
        @m{qw(session from to reason ms)} =
            /^session (\S+) moved from (\S+) to (\S+) \((\S+)\) in (\d+)/;
        push @moves, \%m;
    }
    return grep { !defined $reason || $_->{reason} eq $reason } @moves;
}

sub unproven ($self, @ids)
{
    my %held = map { my $tc = $_; map { ("$_ at " . $tc->route => 1) } $tc->session_ids }
        @{$self->{tc}};
    return grep { defined } map {
        my $route = $self->{msm}->route_of($_) // 'nowhere';
        !$held{"$_ at $route"} ? "$route does not hold its session"
            : !defined $self->{msm}->value($_) ? "no key of a session of $route" : undef;
    } @ids;
}

1;
