# SPDX-License-Identifier: Apache-2.0
# The demo's site: 2 memcacheds, 3 real Tomcats of unequal size, httpd with lbmethod=xnat.
#
#   my $site = XB::Demo::Site->new;       # up and ready, or it dies and leaves nothing; from
#                                         # now on signals die too ("ended by SIGINT\n")
#   $site->nodes                          # { route weight permits url } each
#   $site->client                         # an XB::Client
#   $site->status                         # the status page's JSON, decoded
#   $site->drain('tomcat2')               # through balancer-manager's form
#   $site->notices                        # lines of the module in the error log, but for moves
#   $site->addresses, XB::Demo::Site->settings   # lines for people
#   $site->shut_down                      # gives the names of processes that stayed
#   $site->detach                         # leaves it running; build/demo/site.json has its pids
#   XB::Demo::Site->running               # that record, if some of its processes still live
#   XB::Demo::Site->down                  # ends a detached one by pid, removes its files
package XB::Demo::Site;
use v5.36;
use File::Path ();
use JSON::PP ();
use XB::Client ();
use XB::Deps ();
use XB::Test;
use XB::Tomcat ();

our $DRAINED = 'tomcat2';
my @SIZE = ([ tomcat1 => 1 ], [ tomcat2 => 1 ], [ tomcat3 => 2 ]);
my $PERMITS = 4;                # requests that a Tomcat of weight 1 works on at a time
my $MBPS = 1;                   # MB/s that one of them moves
my $RECORD = ($ENV{XB_DEMO_DIR} // XB::Deps->root . '/build/demo') . '/site.json';

# What differs from the defaults, so that hours pass in a minute: [directive, value, why].
my @SCALED = (
    [ XnatBalanceHalfLife => '10s', 'default 60s: a busy hour passes in seconds here' ],
    [ XnatBalanceBusyHalfLife => '3s', 'default 10s: so does what was in flight' ],
    [ XnatBalanceRequestCost => '64K', 'default 2M: as transfers are 1/30 of real ones' ],
    [ XnatBalanceMoveRest => '10s', 'default 60s: a moved session rests for that long' ],
    [ XnatBalanceMoveRate => '2/s 1', 'default 2/s 10: slower, to be watched' ],
);

# ---- start

sub new ($class)
{
    my $t = XB::Test->new;
    my $self = bless { t => $t, node => [] }, $class;
    # Kept as well, because libraries that catch what is thrown in them (HTTP::Tiny) lose it.
    my $ended;
    @SIG{qw(INT TERM HUP)} = (sub ($name, @) { die $ended = "ended by SIG$name\n" }) x 3;
    my $is_up = eval { $self->_start; 1 };
    return $self if $is_up && !$ended;
    die $@ if !$ended;          # XB::Test shows the logs and cleans up
    $self->shut_down;
    die $ended;
}

sub _start ($self)
{
    my $t = $self->{t};
    my @memcached = map { $t->memcached } 1 .. 2;
    $self->{memcached} = join ',', map { "n$_:" . $memcached[ $_ - 1 ]->address } 1 .. 2;
    for (@SIZE) {
        my ($route, $weight) = @$_;
        my $permits = $PERMITS * $weight;
        my $tc = XB::Tomcat->start($t, route => $route, memcached => $self->{memcached},
                                   contexts => ['/'], permits => $permits, mbps => $MBPS);
        push @{$self->{node}}, { route => $route, weight => $weight, permits => $permits,
                                 url => $tc->url(''), tomcat => $tc };
    }
    $_->{tomcat}->wait_ready for @{$self->{node}};
    $self->{httpd} = $t->httpd(children => 2, threads => 64, conf => $self->_conf);
    $self->{client} = $self->{httpd}->client(timeout => 60);
    $self->_warm_up;
    return;
}

# A JVM's first requests load classes; that is not what is measured here.
sub _warm_up ($self)
{
    my $client = XB::Client->new(timeout => 30);
    for my $url (map { $_->{url} } $self->nodes) {
        my $form = 'user=warm&password=pw-warm';
        $client->many([ map { { url => "$url$_", user => $url } } '/', '/style.css' ]);
        $client->request(url => "$url/login", method => 'POST', body => $form, user => $url,
                         headers => [ 'Content-Type' => 'application/x-www-form-urlencoded' ]);
        my @paths = ('/app/write?k=k&in=map', '/app/image', '/app/read', '/data/bytes?n=99999');
        my @requests = map { { url => "$url$_", user => $url } } (@paths) x 10;
        $client->many(\@requests, parallel => 6);
    }
    return;
}

sub _conf ($self)
{
    my $scaled = join "\n", map { "$_->[0] $_->[1]" } @SCALED;
    my $members = join "\n", map {
        "BalancerMember $_->{url} route=$_->{route} loadfactor=$_->{weight}"
    } @{$self->{node}};
    return <<~END;
        LogLevel notice xnat_balance:info
        XnatBalanceMemcachedNodes "$self->{memcached}"
        $scaled
        <Proxy "balancer://xnat">
        $members
        ProxySet lbmethod=xnat stickysession=JSESSIONID|jsessionid
        </Proxy>
        <Location "/balancer-manager">
        Require local
        </Location>
        <Location "/xnat-balance-status">
        SetHandler xnat-balance-status
        Require local
        </Location>
        ProxyPass "/balancer-manager" "!"
        ProxyPass "/xnat-balance-status" "!"
        ProxyPass "/" "balancer://xnat/"
        END
}

# ---- what it offers

sub nodes ($self) { return @{$self->{node}} }
sub client ($self) { return $self->{client} }
sub status_path ($class) { return '/xnat-balance-status?format=json' }

sub status ($self)
{
    my $answer = $self->{httpd}->client->get($self->status_path);
    die "the status page said $answer->{status}\n" if $answer->{status} != 200;
    return JSON::PP::decode_json($answer->{body});
}

# What the module said in httpd's error log, moves left out.
sub notices ($self)
{
    return grep { /:(?:notice|warn|error)\].*XB\d{4}/ && !/XB0301/ }
        split /^/, $self->{httpd}->error_log;
}

sub drain ($self, $route)
{
    my ($node) = grep { $_->{route} eq $route } $self->nodes;
    $self->{httpd}->manager('xnat', $node->{url}, drain => 1);
    return;
}

sub settings ($class)
{
    return map { sprintf '%-25s %-5s %s', @$_ } @SCALED;
}

sub addresses ($self)
{
    my $url = $self->{httpd}->url;
    return (
        "application        $url/data/JSESSION   (user demo, password pw-demo)",
        "                   curl -u demo:pw-demo -c jar -b jar $url/app/whoami",
        "balancer-manager   $url/balancer-manager",
        "status             $url/xnat-balance-status",
        "  for programs     $url/xnat-balance-status?format=json",
        "                   $url/xnat-balance-status?format=prometheus",
        map({ sprintf '%s (weight %d) %s', @$_{qw(route weight url)} } $self->nodes),
    );
}

# ---- end

# All are told at once: three JVMs take their time one after the other.
sub shut_down ($self)
{
    local @SIG{qw(INT TERM HUP)} = ('IGNORE') x 3;
    $_->signal('TERM') for $self->{t}->processes;
    return $self->{t}->shut_down;
}

sub detach ($self)
{
    my @processes = map { { name => $_->name, pid => $_->pid, start => _start_of($_->pid) } }
        $self->{t}->keep;
    my $record = { dir => $self->{t}->dir, processes => \@processes,
                   addresses => [ $self->addresses ] };
    File::Path::make_path($RECORD =~ s{/[^/]+$}{}r);
    open my $fh, '>', "$RECORD.new" or die "$RECORD.new: $!\n";
    print $fh JSON::PP->new->canonical->pretty->encode($record);
    close $fh or die "$RECORD.new: $!\n";
    rename "$RECORD.new", $RECORD or die "$RECORD: $!\n";
    return;
}

# When a process began, in clock ticks since boot: tells it from a later one of the same pid.
sub _start_of ($pid)
{
    open my $fh, '<', "/proc/$pid/stat" or return 0;
    my ($state, @field) = split ' ', (<$fh> // '') =~ s/^.*\) //sr;
    return ($state // 'Z') eq 'Z' ? 0 : $field[18];
}

sub _is_alive ($process)
{
    return $process->{start} && _start_of($process->{pid}) == $process->{start};
}

sub _record ($class)
{
    open my $fh, '<', $RECORD or return;
    local $/;
    return JSON::PP::decode_json(<$fh>);
}

sub running ($class)
{
    my $record = $class->_record // return;
    return (grep { _is_alive($_) } @{$record->{processes}}) ? $record : undef;
}

sub down ($class)
{
    my $record = $class->_record // return 0;
    my @alive = grep { _is_alive($_) } @{$record->{processes}};
    kill 'TERM', map { $_->{pid} } @alive;
    for my $p (@alive) {
        eval { wait_for { !_is_alive($p) } 10, $p->{name} } or kill 'KILL', -$p->{pid};
    }
    File::Path::remove_tree($record->{dir}) if $record->{dir} =~ m{/xb-test-\w+$};
    File::Path::remove_tree($RECORD =~ s{/[^/]+$}{}r);
    return scalar @alive;
}

1;
