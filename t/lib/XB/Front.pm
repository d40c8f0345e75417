# SPDX-License-Identifier: Apache-2.0
# One balancer of several before the Tomcats of an XB::Site, sticky by its cookie, for
# t/bench/wire.pl.
#
#   my $f = XB::Front->start($site, 'haproxy');    # or nginx, mod_jk-traffic, mod_jk-busyness,
#                                         # a stock lbmethod, or xnat (conf => directives)
#   $f->client, $f->stop
#   $f->can_drain, $f->drain('tomcat1'), $f->enable('tomcat1')     # as its administrator does
#   $f->leave('tomcat1')         # before a restart: a sub that is true when it may be stopped
#   script => 1: by the module's own script, which knows when; the others wait for some seconds
#
# Times of theirs that matter when a node fails are a tenth of the defaults, as the clicks'.
package XB::Front;
use v5.36;
use IO::Socket::UNIX ();
use Time::HiRes qw(time);
use XB::Client ();
use XB::Deps ();

my $WAIT_S = 3;

my %KIND = (
    (map { my $method = $_; $method => sub ($self) { $self->_httpd($method) } }
         qw(bytraffic byrequests bybusyness xnat)),
    'haproxy'         => \&_haproxy,
    'nginx'           => \&_nginx,
    'mod_jk-traffic'  => sub ($self) { return $self->_mod_jk('Traffic') },
    'mod_jk-busyness' => sub ($self) { return $self->_mod_jk('Busyness') },
);

sub start ($class, $site, $kind, %opt)
{
    my $t = $site->{t};
    my $name = $kind =~ s/\W/_/gr . ++$site->{fronts};
    my $self = bless {t => $t, site => $site, name => $name, port => $t->port($name), %opt},
        $class;
    $KIND{$kind}->($self);
    return $self;
}

sub client ($self)
{
    return $self->{client}
        //= XB::Client->new(base => "http://127.0.0.1:$self->{port}", timeout => 30);
}

sub stop ($self) { return ($self->{httpd} // $self->{process})->stop }
sub can_drain ($self) { return defined $self->{set} }
sub drain ($self, $route) { return $self->{set}->($route, 1) }
sub enable ($self, $route) { return $self->can_drain && $self->{set}->($route, 0) }

sub leave ($self, $route)
{
    return sub { 1 } if !$self->can_drain;
    if ($self->{script}) {
        # What earlier runs have left at the nodes is nobody's any more.
        my $p = $self->{t}->spawn(
            name => "$self->{name}-$route", user => 0,
            cmd => [$self->{site}->drain_script($route, '--accept-unknown', '--wait', 60)]);
        return sub { !$p->alive };
    }
    $self->drain($route);
    my $end = time + $WAIT_S;
    return sub { time >= $end };
}

sub _httpd ($self, $method)
{
    my $site = $self->{site};
    $site->start_httpd(stock => $method eq 'xnat' ? 0 : $method, conf => $self->{conf} // '');
    @$self{qw(httpd client)} = ($site->httpd, $site->client);
    $self->{set} = sub ($route, $off) { $off ? $site->drain($route) : $site->enable($route) };
    return;
}

sub _spawn ($self, @cmd)
{
    $self->{process} = $self->{t}->spawn(
        name => $self->{name}, cmd => [@cmd], user => 0,
        ready => sub { $self->{t}->listening($self->{port}) });
    return;
}

sub _user ($self) { return $> == 0 ? $self->{t}->user : undef }

sub _tell_haproxy ($path, $what)
{
    my $socket = IO::Socket::UNIX->new(Peer => $path) // die "$path: $!\n";
    print $socket "$what\n";
    $socket->flush;
    my $answer = do { local $/; <$socket> } // '';
    die "haproxy: $answer" if $answer =~ /\S/;
    return;
}

# Who comes without a cookie goes to the node with the fewest connections; the cookie says where
# the others belong.
sub _haproxy ($self)
{
    my $dir = $self->{t}->mkdir($self->{name});
    my $servers = join "\n", map { 'server ' . $_->route . ' ' . $_->url('') =~ s{^http://}{}r }
        $self->{site}->tomcats;
    my $user = $self->_user;
    my $admin = "$dir/admin";
    $self->{set} = sub ($route, $off) {
        _tell_haproxy($admin, "set server app/$route state " . ($off ? 'drain' : 'ready'));
    };
    my $as = defined $user ? "user $user" : '';
    my $conf = $self->{t}->write("$self->{name}/conf", <<~"END");
        global
        stats socket $admin mode 666 level admin
        $as
        defaults
        mode http
        timeout connect 5s
        timeout client 60s
        timeout server 60s
        retries 1
        option redispatch 1
        frontend in
        bind 127.0.0.1:$self->{port}
        default_backend app
        backend app
        balance leastconn
        cookie JSESSIONID prefix nocache
        default-server check inter 200ms fall 3 rise 2
        @{[ $servers =~ s/^(server (\S+) .*)/$1 cookie $2/mgr ]}
        END
    $self->_spawn(XB::Deps->path('haproxy'), '-f', $conf, '-db');
    return;
}

# Debian's nginx has no sticky: a map from the route in the cookie, as its users write it.
sub _nginx ($self)
{
    my $dir = $self->{t}->mkdir($self->{name});
    my @nodes = map { [ $_->route, $_->url('') =~ s{^http://}{}r ] } $self->{site}->tomcats;
    my $map = join "\n", map { "~\\.$_->[0]\$ $_->[0];" } @nodes;
    my $own = join "\n", map { my ($route) = @$_;
        # a node that fails is replaced by the others
        my $servers = join ' ',
            map { "server $_->[1] fail_timeout=1s" . ($_->[0] eq $route ? '' : ' backup') . ';' }
            @nodes;
        "upstream $route { $servers keepalive 32; }" } @nodes;
    my $all = join ' ', map { "server $_->[1] fail_timeout=1s;" } @nodes;
    my $user = $self->_user;
    my $as = defined $user ? "user $user;" : '';
    my $conf = $self->{t}->write("$self->{name}/conf", <<~"END");
        $as
        worker_processes 2;
        daemon off;
        pid $dir/pid;
        error_log $dir/error.log;
        events { worker_connections 1024; }
        http {
        access_log off;
        client_body_temp_path $dir/body;
        proxy_temp_path $dir/proxy;
        fastcgi_temp_path $dir/fastcgi;
        uwsgi_temp_path $dir/uwsgi;
        scgi_temp_path $dir/scgi;
        client_max_body_size 0;
        map \$cookie_JSESSIONID \$node { default any; $map }
        upstream any { least_conn; $all keepalive 32; }
        $own
        server {
        listen 127.0.0.1:$self->{port};
        location / {
        proxy_http_version 1.1;
        proxy_set_header Connection "";
        proxy_set_header Host \$http_host;
        proxy_next_upstream error timeout;
        proxy_pass http://\$node;
        }
        }
        }
        END
    $self->_spawn(XB::Deps->path('nginx'), '-c', $conf, '-p', $dir, '-e', "$dir/error.log");
    return;
}

sub _mod_jk ($self, $method)
{
    my @nodes = $self->{site}->tomcats;
    my $workers = join "\n", 'worker.list=lb,status', 'worker.status.type=status',
        'worker.maintain=6', 'worker.lb.type=lb', "worker.lb.method=$method",
        'worker.lb.recover_time=6',
        'worker.lb.balance_workers=' . join(',', map { $_->route } @nodes),
        map {
            my $w = 'worker.' . $_->route;
            ("$w.type=ajp13", "$w.host=127.0.0.1", "$w.port=" . $_->port('ajp'),
             "$w.secret=" . $_->secret, "$w.ping_mode=A")
        } @nodes;
    my $dir = $self->{t}->mkdir("$self->{name}_jk");
    my $file = $self->{t}->write("$self->{name}_jk/workers.properties", "$workers\n");
    my $so = XB::Deps->path('mod_jk.so');
    $self->{httpd} = $self->{t}->httpd(
        name => $self->{name}, module => 0, threads => 64, conf => <<~"END");
        LoadModule jk_module $so
        JkWorkersFile $file
        JkShmFile $dir/shm
        JkLogFile $dir/log
        JkLogLevel error
        JkMount /* lb
        JkMount /jk-status status
        END
    $self->{port} = $self->{httpd}->port;
    $self->{set} = sub ($route, $off) {
        my $r = $self->{httpd}->client->get(
            "/jk-status?cmd=update&mime=txt&w=lb&sw=$route&vwa=" . ($off ? 1 : 0));
        die "mod_jk: $r->{status} $r->{body}\n" if $r->{body} !~ /^Result: type=OK/m;
    };
    return;
}

1;
