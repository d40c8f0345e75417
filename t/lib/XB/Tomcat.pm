# SPDX-License-Identifier: Apache-2.0
# One real Tomcat with MSM and the test application: started on free ports, seen through JMX.
#
#   my @tc = XB::Tomcat->fleet($t, 3, %opt);     # tomcat1 to tomcat3, started together, ready
#   my $tc = XB::Tomcat->start($t, route => 'tomcat1', memcached => 'n1:127.0.0.1:11211', %opt);
#   $tc->wait_ready                # start returns at once, so that several start together
#   $tc->route, $tc->port('http'|'https'|'ajp'), $tc->url('/app/read'), $tc->secret (AJP)
#   $tc->session_ids($context)     # MSM's list of sessions in this JVM's memory, stale ones too
#   $tc->expire($id, $context)     # MSM's expireSession: what logout or age would do, here only
#   $tc->jmx(%query)               # any other question to Tomcat's JMXProxyServlet
#   $tc->stop, $tc->kill, $tc->pause, $tc->cont  # SIGTERM, SIGKILL, SIGSTOP, SIGCONT
#   $tc->restart                   # stopped if alive; same ports, same route, empty memory
#   $tc->begin, $tc->is_ready      # the same in parts that do not wait, once it has ended
#   $tc->severe                    # SEVERE lines and stack traces of its log; $tc->log_text
#   $tc->proc (XB::Process), $tc->pid, $tc->rss_kb
#
# Options of start: sticky (1), serializer (java|kryo), contexts (['/', '/xnat']), connectors
# (['http']; ajp, https), async (1), delay (Context's backgroundProcessorDelay, 1), max_inactive
# (seconds), ignore (requestUriIgnorePattern), failover, lock_mode, prefix (storageKeyPrefix),
# backup_timeout (ms), threads, permits and mbps (see Node.java), jvm (JVM options).
package XB::Tomcat;
use v5.36;
use Cwd ();
use File::Basename ();
use File::Copy ();
use HTTP::Tiny ();
use IO::Select ();
use IO::Socket::INET ();
use MIME::Base64 ();
use XB::Test;

our $ROOT = Cwd::abs_path(File::Basename::dirname(__FILE__) . '/../../..');
our $HOME = "$ROOT/build/tomcat";
my $JMX = 'Basic ' . MIME::Base64::encode_base64('jmx:pw-jmx', '');
my $AJP_SECRET = 'xb-ajp-secret';

my %TRANSCODER = (
    java => 'de.javakaffee.web.msm.JavaSerializationTranscoderFactory',
    kryo => 'de.javakaffee.web.msm.serializer.kryo.KryoTranscoderFactory',
);
# Kryo reads private fields of JDK classes; Java 17 must be told to let it.
my @OPENS = map { "--add-opens=java.base/$_=ALL-UNNAMED" }
    qw(java.lang java.lang.reflect java.util java.util.concurrent java.net java.text);

# ---- start

# What all Tomcats share, made once; a test that needs it does not care who runs first.
sub build ($class)
{
    state $done = system("$ROOT/t/tomcat/build") == 0 || die "t/tomcat/build failed\n";
    return $done;
}

# Tomcats run without root's rights: of a clone in root's home they cannot read anything. They get
# a copy, which starts more slowly, since the archive of classes is bound to its place.
sub _home ($t)
{
    return $t->{tomcat_home} //= do {
        my $dir = $HOME;
        1 while $dir ne '/' && (stat $dir)[2] & 0001 && ($dir = File::Basename::dirname($dir));
        $dir eq '/' || $> != 0 ? $HOME : _copy($t);
    };
}

sub _copy ($t)
{
    my $to = $t->mkdir('tomcat-home');
    system('cp', '-R', (map { "$HOME/$_" } qw(app lib manager)), $to) == 0 or die "cp: $?\n";
    return $to;
}

sub start ($class, $t, %opt)
{
    $class->build if !$opt{archive};
    $opt{home} = _home($t);
    my $self = bless {
        t => $t, route => 'tomcat1', sticky => 1, async => 1, serializer => 'java',
        contexts => ['/', '/xnat'], connectors => ['http'], delay => 1, threads => 200,
        ignore => '.*\.(png|gif|jpg|css|js|ico)$', jvm => [], %opt,
    }, $class;
    $self->{port} = {map { $_ => $t->port("$self->{route}_$_") } @{$self->{connectors}}};
    $self->{base} = $t->mkdir($self->{route});
    $t->mkdir("$self->{route}/$_") for qw(conf temp work);
    $self->_write_conf;
    return $self->_spawn;
}

# Called by t/tomcat/build: starts and ends a Tomcat, keeps the classes that it loaded
# as an archive, which takes a third off each later start.
sub train ($class)
{
    my $t = XB::Test->new;
    my $archive = $t->mkdir('archive') . '/classes.jsa';
    my $nobody = 'n1:127.0.0.1:' . $t->port;
    my $tc = $class->start($t, memcached => $nobody, serializer => 'kryo', archive => $archive);
    $tc->wait_ready;
    HTTP::Tiny->new->get($tc->url($_)) for '/', '/xnat/', '/app/read';
    $tc->session_ids;
    $tc->stop;
    File::Copy::copy($archive, "$HOME/classes.jsa")
        or die "no archive of classes: $!\n" . $tc->log_text;
    $t->finish;
    return;
}

sub fleet ($class, $t, $n, %opt)
{
    my @fleet = map { $class->start($t, %opt, route => "tomcat$_") } 1 .. $n;
    $_->wait_ready for @fleet;
    return @fleet;
}

sub _spawn ($self)
{
    delete $self->{asked};
    $self->{proc} = $self->{t}->spawn(name => $self->{route}, cmd => [$self->_command]);
    return $self;
}

sub _command ($self)
{
    my %define = (
        'catalina.base' => $self->{base}, 'catalina.home' => $self->{base},
        'java.io.tmpdir' => "$self->{base}/temp", 'java.awt.headless' => 'true',
        'java.security.egd' => 'file:/dev/./urandom', 'xb.route' => $self->{route},
        'java.util.logging.SimpleFormatter.format' => '%1$tT.%1$tL %4$s %3$s %5$s%6$s%n',
    );
    for my $name (grep { defined $self->{$_} } qw(max_inactive permits mbps)) {
        $define{"xb.$name"} = $self->{$name};
    }
    return (
        # A small JVM that is there soon: no optimising compiler, no parallel collector.
        qw(java -XX:TieredStopAtLevel=1 -XX:+UseSerialGC -Xmx300m -Xss512k -XX:-UsePerfData),
        '-Xlog:disable', $self->{archive} ? "-XX:ArchiveClassesAtExit=$self->{archive}"
                                          : "-XX:SharedArchiveFile=$self->{home}/classes.jsa",
        map({ "-D$_=$define{$_}" } sort keys %define),
        $self->{serializer} eq 'kryo' ? @OPENS : (), @{$self->{jvm}},
        '-cp', join(':', sort glob "$self->{home}/lib/*.jar"),
        'org.apache.catalina.startup.Bootstrap', 'start',
    );
}

# ---- configuration

sub _write_conf ($self)
{
    my ($t, $conf) = ($self->{t}, "$self->{route}/conf");
    # All jars are on the class path: only classes from there come out of the archive.
    $t->write("$conf/catalina.properties", "common.loader=\nserver.loader=\nshared.loader=\n");
    $t->write("$conf/tomcat-users.xml", <<~'END');
        <tomcat-users>
            <user username="jmx" password="pw-jmx" roles="manager-jmx"/>
        </tomcat-users>
        END
    $t->write("$conf/web.xml", <<~'END');
        <web-app xmlns="http://xmlns.jcp.org/xml/ns/javaee" version="4.0">
            <servlet>
                <servlet-name>default</servlet-name>
                <servlet-class>org.apache.catalina.servlets.DefaultServlet</servlet-class>
            </servlet>
            <servlet-mapping>
                <servlet-name>default</servlet-name>
                <url-pattern>/</url-pattern>
            </servlet-mapping>
        </web-app>
        END
    $t->write("$conf/server.xml", $self->server_xml);
    return;
}

sub server_xml ($self)
{
    my $connectors = join "\n", map { $self->_connector($_) } @{$self->{connectors}};
    my $contexts = join "\n", map { $self->_context($_) } @{$self->{contexts}};
    return <<~END;
        <Server port="-1">
        <Service name="Catalina">
        $connectors
        <Engine name="Catalina" defaultHost="localhost" jvmRoute="$self->{route}">
        <Realm className="org.apache.catalina.realm.MemoryRealm"/>
        <Host name="localhost" appBase="webapps" autoDeploy="false" deployOnStartup="false">
        $contexts
        <Context path="/manager" docBase="$self->{home}/manager" privileged="true">
            <JarScanner scanClassPath="false"/>
            <Manager pathname=""/>
        </Context>
        </Host>
        </Engine>
        </Service>
        </Server>
        END
}

sub _connector ($self, $kind)
{
    my %more = (
        http => 'protocol="HTTP/1.1" maxKeepAliveRequests="-1"',
        ajp => qq{protocol="AJP/1.3" secretRequired="true" secret="$AJP_SECRET"},
        https => 'protocol="HTTP/1.1" SSLEnabled="true" scheme="https" secure="true"',
    );
    my $start = qq{<Connector port="$self->{port}{$kind}" address="127.0.0.1" }
        . qq{maxThreads="$self->{threads}" minSpareThreads="4" $more{$kind}};
    return "$start/>" if $kind ne 'https';
    my ($key, $cert) = $self->_certificate;
    return <<~END;
        $start>
            <SSLHostConfig>
                <Certificate certificateKeyFile="$key" certificateFile="$cert"/>
            </SSLHostConfig>
        </Connector>
        END
}

sub _certificate ($self)
{
    my ($key, $cert) = map { "$self->{base}/conf/$_.pem" } qw(key cert);
    my $made = `openssl req -x509 -newkey rsa:2048 -nodes -days 30 -subj /CN=127.0.0.1 \\
        -keyout '$key' -out '$cert' 2>&1`;
    die "openssl req: $made" if $?;
    chmod 0644, $key;
    return $key, $cert;
}

sub _context ($self, $path)
{
    my %manager = (
        className => 'de.javakaffee.web.msm.MemcachedBackupSessionManager',
        memcachedNodes => $self->{memcached},
        sticky => $self->{sticky} ? 'true' : 'false',
        sessionBackupAsync => $self->{async} ? 'true' : 'false',
        requestUriIgnorePattern => $self->{ignore},
        transcoderFactoryClass => $TRANSCODER{$self->{serializer}},
        failoverNodes => $self->{failover},
        lockingMode => $self->{lock_mode},
        storageKeyPrefix => $self->{prefix},
        sessionBackupTimeout => $self->{backup_timeout},
    );
    my @set = grep { defined $manager{$_} } sort keys %manager;
    my $manager = join ' ', map { qq{$_="$manager{$_}"} } @set;
    $path =~ s{^/$}{};
    return <<~END;
        <Context path="$path" docBase="$self->{home}/app" backgroundProcessorDelay="$self->{delay}">
            <JarScanner scanClassPath="false"/>
            <Manager $manager/>
        </Context>
        END
}

# ---- life

sub wait_ready ($self)
{
    my $http = HTTP::Tiny->new(timeout => 5);
    eval {
        wait_for {
            $self->{proc}->alive || die "it ended\n";
            $http->head($self->url('/style.css'))->{success};
        } 30, "$self->{route} to start";
    } or die "$self->{route}: $@" . $self->log_text;
    return $self;
}

sub stop ($self) { return $self->{proc}->stop }
sub kill ($self) { return $self->{proc}->kill }
sub pause ($self) { return $self->{proc}->pause }
sub cont ($self) { return $self->{proc}->cont }

sub restart ($self)
{
    $self->stop;
    return $self->_spawn->wait_ready;
}

sub begin ($self) { return $self->_spawn }

# Asks, and looks when it is called again whether there is an answer.
sub is_ready ($self)
{
    my $socket = $self->{asked} //= do {
        my $s = IO::Socket::INET->new(PeerAddr => "127.0.0.1:$self->{port}{http}") or return 0;
        print $s "HEAD /style.css HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        $s->flush;
        $s;
    };
    return 0 if !IO::Select->new($socket)->can_read(0);
    delete $self->{asked};
    return (<$socket> // '') =~ m{^HTTP/1\.1 200 };
}

sub route ($self) { return $self->{route} }
sub port ($self, $kind = 'http') { return $self->{port}{$kind} }
sub secret ($self) { return $AJP_SECRET }
sub url ($self, $path = '/') { return "http://127.0.0.1:$self->{port}{http}$path" }
sub proc ($self) { return $self->{proc} }
sub pid ($self) { return $self->{proc}->pid }

sub rss_kb ($self)
{
    return $self->{t}->slurp("/proc/" . $self->pid . "/status") =~ /^VmRSS:\s+(\d+)/m ? $1 : 0;
}

sub log_text ($self) { return $self->{t}->slurp($self->{proc}->log) }
sub severe ($self) { return grep { /^\S+ SEVERE|^\s+at \S+\(/ } split /\n/, $self->log_text }

# ---- what MSM holds in memory, without touching a session

sub jmx ($self, %query)
{
    my $http = HTTP::Tiny->new(timeout => 10, default_headers => {Authorization => $JMX});
    my $query = $http->www_form_urlencode(\%query);
    my $answer = $http->get($self->url("/manager/jmxproxy?$query"));
    return $answer->{content} if $answer->{success} && $answer->{content} =~ /^OK/;
    die "$self->{route}: jmxproxy: $answer->{content}\n";
}

sub _manager ($self, $context, $op, @values)
{
    return $self->jmx(invoke => "Catalina:type=Manager,host=localhost,context=$context",
                      op => $op, @values ? (ps => join ',', @values) : ());
}

sub session_ids ($self, $context = '/')
{
    my $text = $self->_manager($context, 'listSessionIds');
    return sort split ' ', $text =~ s/^OK[^\n]*\n//r;
}

sub expire ($self, $id, $context = '/')
{
    return $self->_manager($context, 'expireSession', $id);
}

1;
