# SPDX-License-Identifier: Apache-2.0
# One balancer of several before the Tomcats of an XB::Site, sticky by its cookie, for
# t/bench/wire.pl.
#
#   my $f = XB::Front->start($site, 'haproxy');    # or nginx, mod_jk-traffic, mod_jk-busyness,
#                                         # a stock lbmethod, or xnat (conf => directives)
#   $f->client, $f->stop
#   $f->can_drain, $f->drain('tomcat1')            # as its administrator does
package XB::Front;
use v5.36;
use IO::Socket::UNIX ();
use XB::Client ();
use XB::Deps ();

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
sub can_drain ($self) { return $self->{admin} || $self->{manager} }

sub drain ($self, $route)
{
    if ($self->{manager}) {
        return $self->{site}->drain($route);
    }
    my $path = $self->{admin};
    my $socket = IO::Socket::UNIX->new(Peer => $path) // die "$path: $!\n";
    print $socket "set server app/$route state drain\n";
    $socket->flush;
    my $answer = do { local $/; <$socket> } // '';
    die "haproxy: $answer" if $answer =~ /\S/;
    return;
}

sub _httpd ($self, $method)
{
    my $site = $self->{site};
    $site->start_httpd(stock => $method eq 'xnat' ? 0 : $method, conf => $self->{conf} // '');
    @$self{qw(httpd client manager)} = ($site->httpd, $site->client, 1);
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

# Who comes without a cookie goes to the node with the fewest connections; the cookie says where
# the others belong.
sub _haproxy ($self)
{
    my $dir = $self->{t}->mkdir($self->{name});
    my $servers = join "\n", map { 'server ' . $_->route . ' ' . $_->url('') =~ s{^http://}{}r }
        $self->{site}->tomcats;
    my $user = $self->_user;
    $self->{admin} = "$dir/admin";
    my $as = defined $user ? "user $user" : '';
    my $conf = $self->{t}->write("$self->{name}/conf", <<~"END");
        global
        stats socket $self->{admin} mode 666 level admin
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
        default-server check inter 1s fall 2 rise 1
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
            map { "server $_->[1]" . ($_->[0] eq $route ? '' : ' backup') . ';' } @nodes;
        "upstream $route { $servers keepalive 32; }" } @nodes;
    my $all = join ' ', map { "server $_->[1];" } @nodes;
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
    my $workers = join "\n", 'worker.list=lb', 'worker.lb.type=lb', "worker.lb.method=$method",
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
        JkLogFile "|/bin/cat >/dev/null"
        JkMount /* lb
        END
    $self->{port} = $self->{httpd}->port;
    return;
}

1;
