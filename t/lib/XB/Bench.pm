# SPDX-License-Identifier: Apache-2.0
# What the measurements of the module's cost share: a fleet of trivial nodes, proxies before it that
# differ in their balancer method only, sessions, statistics.
#
#   my $b = XB::Bench->new($t);          # three nodes: one httpd on three ports
#   my $h = $b->proxy('xnat', name => , moves => 1, sessions => N, start => 0, ...)
#                                        # an XB::Httpd as a site runs it (log "combined", level
#                                        # warn); moves: with a store and moves on
#   $b->cookie($n)                       # of session n: JSESSIONID=<32 hex>-n1.r1
#   $b->remember($h, $from, $to)         # lets these sessions begin, each by its node's Set-Cookie
#   $b->fill($h, $n)                     # the sessions 1 to n, quickly
#   $b->wrk($seconds, [$h, $n], ...)     # requests at full speed, each of any of the sessions 1 to n,
#                                        # to all these proxies at once: { per_s, cpu_us } of each,
#                                        # the latter of the proxy, per request
#   $b->cpu_ns($h)                       # of its children: { name of a thread => ns }
#   my ($median, $low, $high) = median(@x)    # with a confidence interval of 95 %
package XB::Bench;
use v5.36;
use Exporter 'import';
use IO::Socket::IP ();
use List::Util qw(sum0);
use XB::Deps ();
use XB::Httpd ();

our @EXPORT_OK = qw(median);

# What Firefox sends for a page; its Host and Cookie come before and after.
my @BROWSER = ('User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0',
    'Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8',
    'Accept-Language: en-US,en;q=0.5', 'Accept-Encoding: gzip, deflate, br, zstd',
    'Referer: http://xnat.example.org/app/template/Index.vm', 'Connection: keep-alive',
    'Upgrade-Insecure-Requests: 1', 'Sec-Fetch-Dest: document', 'Sec-Fetch-Mode: navigate',
    'Sec-Fetch-Site: same-origin', 'Sec-Fetch-User: ?1', 'Priority: u=0, i');

sub new ($class, $t)
{
    my $self = bless { test => $t, ports => [ map { $t->port } 1 .. 3 ] }, $class;
    $self->{node} = $t->httpd(
        name => 'node', module => 0, children => 1, threads => 64, conf => <<"END");
@{[ map { "Listen 127.0.0.1:$_\n" } @{$self->{ports}} ]}
MaxRequestsPerChild 0
LogLevel warn
Header set Cache-Control "no-cache, no-store, must-revalidate"
Header set Pragma no-cache
Header set Expires "Thu, 01 Jan 1970 00:00:00 GMT"
Header set X-Content-Type-Options nosniff
Header set Content-Type "text/html;charset=UTF-8"
Header set Set-Cookie "expr=JSESSIONID=%{req:X-New}; Path=/" "expr=-n req('X-New')"
END
    $t->write('node/htdocs/page', 'x' x 10_000);
    $t->write('node/htdocs/small', 'x' x 100);
    return $self;
}

sub proxy ($self, $method, %opt)
{
    my ($moves, $sessions) = delete @opt{qw(moves sessions)};
    my $members = join "\n",
        map { "BalancerMember http://127.0.0.1:$self->{ports}[$_ - 1] route=r$_" } 1 .. 3;
    my $xnat = $method ne 'xnat' ? '' : 'XnatBalanceSessions ' . ($sessions // 65536);
    $xnat .= "\nXnatBalanceMemcachedNodes n1:" . $self->{test}->memcached->address if $moves;
    return XB::Bench::Httpd->new($self->{test}, children => 1, threads => 64,
        module => $method eq 'xnat', %opt, conf => <<"END");
<Proxy "balancer://app">
$members
ProxySet lbmethod=$method stickysession=JSESSIONID|jsessionid
</Proxy>
$xnat
ProxyPass "/" "balancer://app/"
END
}

sub id ($self, $n) { return sprintf '%032X-n1.r%d', $n, 1 + $n % 3 }
sub cookie ($self, $n) { return 'Cookie: theme=dark; JSESSIONID=' . $self->id($n) }

# A click: a page of 10 KB, asked for as browsers do. small => 1: the least that is a request.
sub request ($self, $headers, %opt)
{
    my @lines = $opt{small} ? 'GET /small HTTP/1.1' : 'GET /page HTTP/1.1';
    return join "\r\n", @lines, 'Host: xnat.example.org', $opt{small} ? () : @BROWSER, @$headers,
        '', '';
}

sub connect ($self, $h)
{
    return IO::Socket::IP->new(PeerHost => '127.0.0.1', PeerPort => $h->port) || die "connect: $@";
}

# One request after another on a connection that is kept; the answers must be whole.
sub ask ($self, $sock, $count, $text)
{
    for my $n (1 .. $count) {
        syswrite $sock, $text->($n);
        my ($got, $size) = ('');
        while ($got !~ /\r\n\r\nx+\z/ || length $got < $size + index $got, "\r\n\r\n") {
            sysread($sock, $got, 65536, length $got) or die "an answer broke off: $got\n";
            ($size) = $got =~ /^Content-Length: (\d+)/m;
        }
        $got =~ m{\AHTTP/1.1 200 } or die "not 200: $got\n";
    }
    return;
}

# The id of no session, but with a route, leads to the node; its answer opens the session.
sub remember ($self, $h, $from, $to)
{
    my $sock = $self->connect($h);
    $self->ask($sock, $to - $from + 1, sub ($n) {
        my $id = $self->id($from + $n - 1);
        my ($route) = $id =~ /(\.r\d)/;
        return $self->request([ "Cookie: JSESSIONID=-$route", "X-New: $id" ], small => 1);
    });
    return;
}

# ---- wrk

# A request is put together from parts, since wrk.format takes as long as the proxy.
my $LUA = <<'END';
local first, count, at, new, head, tail = %d, %d, 0, %s, '%s', '%s'
function init()
    math.randomseed(os.time())
end
function request()
    local n = first + (new and at or math.random(0, count - 1))
    local id = string.format('%%032X-n1.r%%d', n, 1 + n %% 3)
    at = at + 1
    if new then
        if n >= first + count then return head .. '-' .. string.sub(id, -3) .. tail end
        return head .. '-' .. string.sub(id, -3) .. '\r\nX-New: ' .. id .. tail
    end
    return head .. id .. tail
end
END

sub _script ($self, $name, $first, $count, $new)
{
    my $cookie = 'Cookie: ' . ($new ? '' : 'theme=dark; ') . 'JSESSIONID=';
    my ($head, $tail) = $self->request([ $cookie . '<>' ], small => $new) =~ /(.*)<>(.*)/s;
    s/\r\n/\\r\\n/g for $head, $tail;
    return $self->{test}->write($name, sprintf $LUA, $first, $count,
                                $new ? 'true' : 'false', $head, $tail);
}

# Starts it. A sub that waits for its end: how many requests, how many a second.
sub _start_wrk ($self, $h, $script, $connections, $seconds)
{
    my @cmd = (XB::Deps->path('wrk'), '-t1', "-c$connections", "-d${seconds}s", '--timeout', '30s',
               '-s', $script, $h->url('/'));
    open my $out, '-|', @cmd or die "wrk: $!";
    return sub {
        my $said = join '', <$out>;
        close $out;
        my ($requests) = $said =~ /(\d+) requests in/ or die "wrk: $said";
        my ($per_s) = $said =~ m{Requests/sec:\s+([\d.]+)};
        die "wrk: $said" if $said =~ /Socket errors|Non-2xx/;
        return ($requests, $per_s);
    };
}

# One thread goes through the ids in their order, so only those are lost that are under way when its
# time ends: these come again.
sub fill ($self, $h, $n)
{
    for (my $first = 1; $first < $n; $first -= 100) {
        my $script = $self->_script('fill.lua', $first, $n - $first + 1, 1);
        my ($requests) = $self->_start_wrk($h, $script, 16, 5)->();
        $first += $requests;
    }
    return;
}

sub wrk ($self, $seconds, @run)
{
    my @before = map { sum0(values %{$self->cpu_ns($_->[0])}) } @run;
    my @wait = map {
        my ($h, $n) = @$_;
        $self->_start_wrk($h, $self->_script("$h->{name}.lua", 1, $n, 0), 16, $seconds);
    } @run;
    my @got = map { [ $_->() ] } @wait;
    return $self->wrk($seconds, @run) if grep { !$_->[0] } @got;    # other work let none through
    my @cpu = map { sum0(values %{$self->cpu_ns($_->[0])}) } @run;
    return map { { per_s => $got[$_][1], cpu_us => ($cpu[$_] - $before[$_]) / 1000 / $got[$_][0] } }
        0 .. $#run;
}

sub cpu_ns ($self, $h)
{
    my %ns;
    for my $task (map { glob "/proc/$_/task/*" } $h->children) {
        my ($name, $ran) = map { $self->{test}->slurp("$task/$_") } qw(comm schedstat);
        chomp $name;
        $ns{$name} += $1 if $ran =~ /^(\d+)/;
    }
    return \%ns;
}

# The median, and two of the values between which that of their distribution lies in 95 of 100 cases,
# whatever the distribution is: other work on the machine makes some values worthless.
sub median (@x)
{
    @x = sort { $a <=> $b } @x;
    my $low = int((@x - 1.96 * sqrt @x) / 2);
    $low = 0 if $low < 0;
    my $mid = @x % 2 ? $x[@x / 2] : ($x[@x / 2 - 1] + $x[@x / 2]) / 2;
    return ($mid, $x[$low], $x[-1 - $low]);
}

package XB::Bench::Httpd;
use v5.36;
use parent -norequire, 'XB::Httpd';

sub text ($self, $conf)
{
    my $format = '%h %l %u %t \"%r\" %>s %O \"%{Referer}i\" \"%{User-Agent}i\"';
    return $self->SUPER::text($conf) =~ s/^LogLevel .*/LogLevel warn/mr
        =~ s/^(CustomLog \S+) .*/$1 "$format"/mr;
}

1;
