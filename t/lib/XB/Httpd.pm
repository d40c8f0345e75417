# SPDX-License-Identifier: Apache-2.0
# A real httpd with a configuration of its own, our module, and at least two children.
#
#   my $h = $t->httpd(
#       conf     => '...',       # goes into the server; %%PORT:name%%, %%DIR%%, %%USER%% expanded
#       children => 2, threads => 16, mpm => 'event' (worker, prefork),
#       modules  => ['ssl'],     # besides the usual ones (see @MODULES)
#       module   => 0,           # without mod_xnat_balance; 'build/x.so': with this build of it
#                                  (XB_MODULE=build/x.so: where a test names none)
#       global   => '...',       # put before any module is loaded (Define ...)
#       env      => {}, name => 'httpd2', port => , start => 0);
#   $h->port, $h->url('/x'), $h->pid, $h->children (pids), $h->error_log (text), $h->log_file
#   $h->graceful, $h->restart (both wait for the new generation), $h->stop, $h->start
#   $h->kill_child($pid)                 # SIGKILL; waits for the new child
#   $h->set_conf($text)                  # for the next graceful, restart or start
#   my ($status, $output) = $h->configtest($conf);     # of $conf in this very frame
#   $h->manager('name', 'http://127.0.0.1:1', drain => 1)
#                                        # drain disabled standby spare stopped ignore hcfailed
#   $h->manager('name', undef, lbmethod => 'byrequests')    # set => { w_lf => 2 }: raw fields
#   $h->manager_get($query)              # a page of it, with the Referer that it wants
#   my %m = $h->members('name')          # route => { url status elected busy to from load
#                                        #            factor set }
#   $h->client(%opt)                     # an XB::Client whose base is this server
#   $h->access                           # its access log: { uri status us worker decision reason
#                                        #                   from to } each
#   $h->logged($n, sub { $_->{uri} eq '/' })     # its lines of that kind, once there are n: httpd
#                                        # writes them after the answer
package XB::Httpd;
use v5.36;
use JSON::PP ();
use Test::More ();
use XB::Client ();
use XB::Deps ();
use XB::Test ();

my @MODULES = qw(authn_core authz_core authz_host alias dir env headers mime rewrite setenvif status
    proxy proxy_http proxy_ajp proxy_http2 proxy_wstunnel proxy_hcheck slotmem_shm proxy_balancer
    lbmethod_bytraffic lbmethod_byrequests lbmethod_bybusyness http2 socache_shmcb);

sub new ($class, $t, %opt)
{
    my $self = bless { name => 'httpd', children => 2, threads => 16, mpm => 'event', conf => '',
                       env => {}, modules => [], module => 1, global => '', %opt,
                       test => $t }, $class;
    $self->{port} //= $t->port;
    $self->{root} = $t->mkdir($self->{name});
    $t->mkdir("$self->{name}/htdocs");
    $self->{log} = $t->path("$self->{name}.error");
    $self->set_conf($self->{conf});
    return $self if !($opt{start} // 1);
    return $self->start;
}

sub port ($self) { return $self->{port} }
sub url ($self, $path = '') { return "http://127.0.0.1:$self->{port}$path" }
sub pid ($self) { return $self->{process}->pid }
sub process ($self) { return $self->{process} }
sub log_file ($self) { return $self->{log} }
sub error_log ($self) { return $self->{test}->slurp($self->{log}) }
sub client ($self, %opt) { return XB::Client->new(base => $self->url, %opt) }

# ---- configuration

my $ACCESS = join ',', map { my ($name, $field) = @$_; qq(\\"$name\\":\\"$field\\") }
    [ uri => '%U%q' ], [ status => '%>s' ], [ us => '%D' ],
    [ worker => '%{BALANCER_WORKER_ROUTE}e' ],
    map { [ lc $_ => "%{XNAT_BALANCE_$_}e" ] } qw(DECISION REASON FROM TO);
my $FRAME = <<"END";
LogFormat "{$ACCESS}" json
KeepAliveTimeout 30
MaxKeepAliveRequests 0
GracefulShutdownTimeout 3
TypesConfig /dev/null
<IfModule ssl_module>
SSLSessionCache shmcb:%%DIR%%/ssl_scache(512000)
</IfModule>
<Location /balancer-manager>
SetHandler balancer-manager
</Location>
END

sub _load ($self)
{
    my $dir = $self->_libexecdir;
    my @names = ("mpm_$self->{mpm}", @MODULES, @{$self->{modules}});
    @names = grep { $_ ne 'http2' } @names if $self->{mpm} eq 'prefork';    # which cannot serve it
    @names = grep { -e "$dir/mod_$_.so" } @names;
    my @lines = map { "LoadModule ${_}_module $dir/mod_$_.so" } @names;
    push @lines, 'LoadModule xnat_balance_module ' . $self->module_file if $self->{module};
    return join "\n", @lines;
}

sub _libexecdir ($self)
{
    my $dir = $ENV{XB_LIBEXECDIR} // '/usr/lib/apache2/modules';
    return -e "$dir/mod_proxy.so" ? $dir : die "no mod_proxy.so: apt-get install apache2-bin\n";
}

sub module_file ($self)
{
    return XB::Deps->root . "/$self->{module}" if ref $self && $self->{module} =~ m{/};
    my $file = $ENV{XB_ASAN} ? 'build/asan/mod_xnat_balance.so' : 'build/mod_xnat_balance.so';
    return XB::Deps->root . '/' . ($ENV{XB_MODULE} // $file);
}

# Room for one child more than asked for, as a killed one is replaced, and for old generations.
sub _mpm ($self)
{
    my ($children, $threads) = @$self{qw(children threads)};
    if ($self->{mpm} eq 'prefork') {
        my $n = $children > 8 ? $children : 8;
        return "StartServers $n\nMinSpareServers 2\nMaxSpareServers 64\nMaxRequestWorkers 64";
    }
    my @limit = $threads > 64 ? "ThreadLimit $threads" : ();
    return join "\n", @limit, 'ServerLimit ' . $children * 4, "StartServers $children",
        "ThreadsPerChild $threads",
        'MaxRequestWorkers ' . ($children + 1) * $threads,
        'MinSpareThreads ' . (($children - 1) * $threads + 1),
        'MaxSpareThreads ' . ($children + 2) * $threads;
}

sub text ($self, $conf)
{
    my $name = $self->{test}->user;
    my $user = $> == 0 ? "User $name\nGroup #" . (getpwnam $name)[3] : '';
    my $rest = join "\n", $self->_load, $self->_mpm, $user, $FRAME, $conf, '';
    return $self->{test}->expand(<<"END" . $rest);
ServerRoot $self->{root}
DefaultRuntimeDir $self->{root}
PidFile $self->{root}/pid
ServerName 127.0.0.1
Listen 127.0.0.1:$self->{port}
DocumentRoot $self->{root}/htdocs
ErrorLog $self->{log}
LogLevel info@{[ $self->{module} ? ' xnat_balance:debug' : '' ]}
CustomLog $self->{root}.access json
$self->{global}
END
}

sub set_conf ($self, $conf)
{
    $self->{conf_file} = $self->{test}->write("$self->{name}.conf", $self->text($conf));
    return;
}

sub _run_configtest ($self, $file)
{
    my $apache = XB::Deps->path('apache2');
    local %ENV = (%ENV, $self->_env);
    my $output = `'$apache' -t -d '$self->{root}' -f '$file' 2>&1`;
    return ($? >> 8, $output);
}

sub configtest ($self, $conf)
{
    my $text = $self->text($conf) =~ s{^ErrorLog .*$}{ErrorLog /dev/stderr}mr;
    my $file = $self->{test}->write("$self->{name}.configtest", $text);
    return $self->_run_configtest($file);
}

# ---- life

sub _env ($self)
{
    my %env = (LANG => 'C', %{$self->{env}});
    if ($ENV{XB_ASAN}) {
        chomp($env{LD_PRELOAD} = `gcc -print-file-name=libasan.so`);
        $env{ASAN_OPTIONS} = 'detect_leaks=0:abort_on_error=1';
        $env{UBSAN_OPTIONS} = 'print_stacktrace=1:halt_on_error=1';
    }
    return %env;
}

sub start ($self)
{
    my $t = $self->{test};
    my @cmd = (XB::Deps->path('apache2'), '-DFOREGROUND', '-d', $self->{root},
               '-f', $self->{conf_file});
    my $slow = $ENV{XB_VALGRIND} ? 5 : 1;
    if ($ENV{XB_VALGRIND}) {
        unshift @cmd, 'valgrind', '-q', '--trace-children=yes', '--error-limit=no',
            "--log-file=$self->{root}.valgrind.%p";
    }
    my $before = $self->_generations;
    my $p = $t->spawn(
        name => $self->{name}, cmd => \@cmd, env => { $self->_env }, user => 0, timeout => 20 * $slow,
        ready => sub ($p) { $self->{process} = $p; return $self->_settled($before) });
    $p->add_log($self->{log}, "$self->{root}.valgrind.*");
    return $self;
}

# A generation is up when httpd says so, enough children live, and one of them answers.
sub _settled ($self, $before)
{
    return $self->_generations > $before && $self->children >= $self->{children}
        && XB::Test->listening($self->{port});
}

sub _generations ($self)
{
    my $n = () = $self->error_log =~ /resuming normal operations/g;
    return $n;
}

sub stop ($self) { return $self->{process}->stop }

sub _renew ($self, $signal)
{
    my %old = map { $_ => 1 } $self->children;
    my $before = $self->_generations;
    $self->{process}->signal($signal);
    XB::Test::wait_for(sub {
        my $new = grep { !$old{$_} } $self->children;
        return $self->_generations > $before && $new >= $self->{children};
    }, 20, "$self->{name}: a new generation");
    return;
}

sub graceful ($self) { return $self->_renew('USR1') }
sub restart ($self) { return $self->_renew('HUP') }

sub children ($self)
{
    my @found;
    for my $file (glob '/proc/[0-9]*/stat') {
        open my $fh, '<', $file or next;
        my ($pid, $state, $parent) = (<$fh> // '') =~ /^(\d+) \(.*\) (\S) (\d+)/s or next;
        push @found, $pid if $parent == $self->pid && $state ne 'Z';
    }
    return @found;
}

# SIGKILL leaves AH00052 in the log, which is announced; returns when a new child is there.
sub kill_child ($self, $pid = ($self->children)[0])
{
    $self->{test}->allow_log(qr/AH00052: child pid $pid exit signal Killed/);
    CORE::kill 'KILL', $pid;
    XB::Test::wait_for(sub {
        my @now = $self->children;
        return @now >= $self->{children} && !grep { $_ == $pid } @now;
    }, 20, "a child in place of $pid");
    return $pid;
}

sub access ($self)
{
    my $text = $self->{test}->slurp("$self->{root}.access");
    return map { JSON::PP::decode_json($_) } split /\n/, $text;
}

sub logged ($self, $n, $kind)
{
    my @lines;
    XB::Test::wait_for(sub { (@lines = grep { $kind->() } $self->access) >= $n }, 10,
                       "$n lines of the access log");
    return @lines;
}

# ---- balancer-manager

my %FLAG = (drain => 'N', disabled => 'D', standby => 'H', spare => 'R', stopped => 'S',
            ignore => 'I', hcfailed => 'C');

# balancer-manager heeds parameters only from its own pages.
sub manager_get ($self, $query = '')
{
    return $self->client->get("/balancer-manager$query",
                              headers => [ Referer => $self->url('/balancer-manager') ]);
}

sub _nonce ($self, $balancer)
{
    my $page = $self->manager_get('')->{body};
    my ($nonce) = $page =~ m{[?&;]b=\Q$balancer\E(?:&amp;|&)[^"]*nonce=([-0-9a-f]+)}
        or die "balancer-manager knows no $balancer\n";
    return $nonce;
}

sub manager ($self, $balancer, $url, %opt)
{
    my %field = (b => $balancer, nonce => $self->_nonce($balancer), %{delete $opt{set} // {}});
    $field{w} = $url if defined $url;
    $field{b_lbm} = $opt{lbmethod} if defined $opt{lbmethod};
    $field{"w_status_$FLAG{$_}"} = $opt{$_} ? 1 : 0 for grep { $FLAG{$_} } keys %opt;
    s/([^\w.-])/sprintf '%%%02X', ord $1/ge for values %field;
    my $form = join '&', map { "$_=$field{$_}" } sort keys %field;
    my $r = $self->client->post('/balancer-manager', $form, headers => [
        'Content-Type' => 'application/x-www-form-urlencoded',
        Referer => $self->url('/balancer-manager') ]);
    die "balancer-manager said $r->{status}\n" if $r->{status} != 200;
    return $r;
}

sub members ($self, $balancer)
{
    my $nonce = $self->_nonce($balancer);
    my $xml = $self->manager_get("?b=$balancer&xml=1&nonce=$nonce")->{body};
    my ($own) =
        $xml =~ m{<httpd:name>balancer://\Q$balancer\E</httpd:name>(.*?)</httpd:balancer>}s
        or die "no XML of $balancer\n";
    my %members;
    for ($own =~ m{<httpd:worker>(.*?)</httpd:worker>}gs) {
        my %f = m{<httpd:(\w+)>([^<]*)</httpd:\1>}g;
        $members{ $f{route} } = { url => $f{name}, status => $f{status}, elected => $f{elected},
            busy => $f{busy}, to => $f{transferred}, from => $f{read}, load => $f{load},
            factor => $f{loadfactor}, set => $f{lbset} };
    }
    return %members;
}

1;
