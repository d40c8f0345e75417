# SPDX-License-Identifier: Apache-2.0
# A scripted back end that behaves like a Tomcat with memcached-session-manager in sticky mode
# over real memcacheds, down to its stale copies, and that misbehaves at the module's HEADs.
#
#   my $store = { m1 => $t->memcached, m2 => $t->memcached };
#   my $n = XB::FakeMsm->new($t, 'n1', store => $store);     # all of XB::Backend
#   my %n = XB::FakeMsm->fleet($t, $store, 'n1', 'n2', 'n3');
#       more options: node => 'm1' of new sessions (default: the first), max_inactive => s,
#       prefix => '', loading => seconds between its look into memcached and its having the
#       session, in which others look too
# Paths, with the context before the last slash:
#   login         begins a session (node=m2: on that memcached; path=/x: its cookie says so; max=N:
#                 this node stores it with that many seconds to be idle; as=BASE: its id)
#   write?k=K     adds K to it          read    gives { id, node, writes }       logout  ends it
#   others        as XB::Backend, in the session that the cookie names
#   any of these: ms=N the work takes so long, ends=N it is stored N ms after the answer, queue=N
#                 so long after what its node was to store before; HEADs are stored after that too
# A session is kept under the id that its cookie has: one that moves leaves its copy behind;
# whoever comes with that id is served from it, and its key is written again, as MSM does.
#   $n->misbehave('hang', for => $id, ms => 300)   # at the module's HEADs; without for: of all
#   $n->behave                                     # well again
# How:
#   starting                       no answer, not even to a HEAD without a session
#   hang drop                      no answer (ms: none within so long, then as usual)
#   slow                           ms later, as usual
#   error deaf                     500 or 404 as if no session had been named
#   login                          401, or code=N, from the container, before MSM sees the request
#   late                           no answer; takes over after ms, when nobody waits any more
#   mute                           takes over, never answers
#   gap                            no answer; has loaded the session, and does the rest when it is
#                                  well again
#   other-base other-route         takes over under another id, in Set-Cookie and in memcached
#   redraws                        takes over under another memcached node's id, as with its own
#                                  node in failoverNodes
#   no-cookie other-path           takes over, but Set-Cookie says so
#   keeps                          takes over, but the old key stays
#   forgets                        deletes the old key, writes none
#   never-stores                   right cookie, leaves memcached as it is
#   stores-late                    as usual, and stores ms after its answer
#   renames                        at a HEAD with its own id: another memcached node in the id
#   code                           code=N is the status, all else as usual
#   $n->heads          the module's HEADs, oldest first: { id, own (true: with this node's
#                      route), flush, moved => { m1 => the marker when it came }, ttl => { m1 =>
#                      its life }, copy (true: it had one), uri, headers, time,
#                      answered => 1 once it is }
#   $n->copies         ids of which it holds a copy;  $n->restart  forgets them
#   $n->stored($id)    what memcached has of the session: its list, or undef
#   /manager/jmxproxy  is XB::FakeJmx
#   XB::FakeMsm->value($id, %fields)       a session's value in memcached, see XB::Msm->header
#   XB::FakeMsm->base($id), ->node_of($id), ->route_of($id)
package XB::FakeMsm;
use v5.36;
use parent 'XB::Backend';
use Fcntl qw(:flock);
use JSON::PP ();
use Time::HiRes qw(time);
use XB::FakeJmx ();
use XB::Memcached ();

my $ID = qr/^(([0-9A-F]{32})-(\w+))\.(.+)$/;

sub base ($class, $id) { return $id =~ $ID ? $1 : undef }
sub node_of ($class, $id) { return $id =~ $ID ? $3 : undef }
sub route_of ($class, $id) { return $id =~ $ID ? $4 : undef }

sub new ($class, $t, $name, %opt)
{
    return $class->SUPER::new($t, $name, node => (sort keys %{$opt{store}})[0],
        max_inactive => 1800, prefix => '', %opt, state => $t->mkdir("$name.state"),
        code => sub ($req, $conn) { $conn->server->_answer($req, $conn) });
}

sub fleet ($class, $t, $store, @names)
{
    return map { $_ => $class->new($t, $_, store => $store) } @names;
}

# ---- what all its processes share: a file for each copy, one for tricks, one for the HEADs

sub _json ($data) { return JSON::PP->new->latin1->canonical->encode($data) }

sub _file ($self, $name) { return "$self->{state}/$name" }

# Nobody reads half a file.
sub _put ($self, $name, $data)
{
    my $file = $self->_file($name);
    open my $fh, '>', "$file.$$" or die "$file: $!";
    print $fh _json($data);
    close $fh;
    rename "$file.$$", $file;
    return $data;
}

sub _take ($self, $name)
{
    my $text = $self->{test}->slurp($self->_file($name));
    return $text eq '' ? undef : JSON::PP::decode_json($text);
}

sub _drop ($self, $name) { return unlink $self->_file($name) }

# Adds to a session's list; two requests at once wait for each other.
sub _add ($self, $id, @writes)
{
    open my $lock, '>>', $self->_file('lock') or die "lock: $!";
    flock $lock, LOCK_EX;
    my $all = [ @{ $self->_take($id) // [] }, @writes ];
    return @writes ? $self->_put($id, $all) : $all;
}

sub _has ($self, $id) { return -e $self->_file($id) }

sub misbehave ($self, $how, %opt)
{
    my $whose = defined $opt{for} ? $self->base($opt{for}) : '*';
    my $others = $self->_take('tricks') // {};
    $self->_put('tricks', { %$others, $whose => { %opt, how => $how } });
    return;
}

sub behave ($self) { return $self->_drop('tricks') }

sub heads ($self)
{
    my %answered;
    my @lines = split /\n/, $self->{test}->slurp($self->_file('heads'));
    my @heads = map { JSON::PP::decode_json($_) } @lines;
    $answered{ $_->{done} } = 1 for grep { $_->{done} } @heads;
    return map { { %$_, answered => $answered{ $_->{number} } } } grep { $_->{number} } @heads;
}

sub _note ($self, $data)
{
    open my $fh, '>>', $self->_file('heads') or die "heads: $!";
    flock $fh, LOCK_EX;
    syswrite $fh, _json($data) . "\n";
    close $fh;
    return;
}

sub copies ($self)
{
    return sort grep { $_ =~ $ID } map { s{.*/}{}r } glob $self->_file('*');
}

sub clear ($self)
{
    $self->_drop('heads');
    return $self->SUPER::clear;
}

sub stop ($self)
{
    my $status = $self->SUPER::stop;
    $self->_drop($_) for $self->copies;
    return $status;
}

# ---- memcached

# A connection of this process's own: those of the test must not be shared.
sub _memcached ($self, $node)
{
    my $mc = $self->{store}{$node} // return undef;
    return $self->{own}{$$}{$node} //= bless { port => $mc->port }, 'XB::Memcached';
}

sub value ($class, $id, %f)
{
    my $now = int(1000 * time);
    my $attributes = JSON::PP->new->canonical->encode($f{writes} // []);
    return pack('n n q> q> N a a q> q> n/a', $f{version} // 2, 52 + length $id,
                $f{created} // $now - 1000, $f{accessed} // $now, $f{max_inactive} // 1800, 0,
                $f{valid} // 1, $f{this_accessed} // $now, $now, $f{id} // $id)
        . pack('n4', 0, 0, 0, 0) . $attributes;
}

sub stored ($self, $id) { return $self->_load($id) }

sub _load ($self, $id)
{
    my $mc = $self->_memcached($self->node_of($id)) // return undef;
    my $value = $mc->get("$self->{prefix}$id") // return undef;
    my $at = unpack 'x2 n', $value;
    return JSON::PP::decode_json(substr $value, $at);
}

sub _store ($self, $id, $writes)
{
    my $mc = $self->_memcached($self->node_of($id)) // return;
    my $max = $self->_take('max-' . $self->base($id)) // $self->{max_inactive};
    my $expires = $max <= 0 ? 0 : $max > 30 * 86400 ? int(time) + $max : $max;
    $mc->set("$self->{prefix}$id", $self->value($id, writes => $writes, max_inactive => $max),
             $expires);
    return;
}

# What the session holds by now; an older state does not come after a newer one.
sub _back_up ($self, $id)
{
    open my $lock, '>>', $self->_file('lock') or die "lock: $!";
    flock $lock, LOCK_EX;
    my $writes = $self->_take($id) // return;
    $self->_store($id, $writes);
    return;
}

# One after the other, as by MSM's threads when they cannot keep up.
sub _in_turn ($self, $code)
{
    open my $lock, '>>', $self->_file('queue') or die "queue: $!";
    flock $lock, LOCK_EX;
    $code->();
    return;
}

sub _forget ($self, $id)
{
    my $mc = $self->_memcached($self->node_of($id)) // return;
    $mc->delete("$self->{prefix}$id");
    return;
}

# ---- sessions

# The copy that a request with this id works on, and under which id. A copy of the session's own
# that is there already wins over memcached: that is what makes a stale copy one.
sub _find ($self, $id)
{
    return ($id, undef) if $self->_has($id);
    my ($base, $route) = ($self->base($id), $self->route_of($id));
    my $own = "$base.$self->{route}";
    return ($own, undef) if $self->_has($own);
    my $writes = $self->_load($id) // return;
    Time::HiRes::sleep($self->{loading}) if $self->{loading};
    $self->_put($own, $writes);
    return ($own, $id);
}

# Of the context that the request is for.
sub _path ($self, $req) { return $req->{path} =~ m{^(/.+)/} ? $1 : '/' }

sub _cookie ($self, $id, $path)
{
    return ('Set-Cookie' => "JSESSIONID=$id; Path=$path; HttpOnly");
}

sub _is_probe ($req) { return $req->{method} eq 'HEAD' }

sub _answer ($self, $req, $conn)
{
    return XB::FakeJmx::answer($self, $req, $conn) if $req->{path} eq '/manager/jmxproxy';
    my $id = $req->{cookies}{JSESSIONID};
    my ($word) = $req->{path} =~ m{(\w+)$};
    return $self->_login($req, $conn) if ($word // '') eq 'login';
    if ($req->{method} eq 'HEAD' && (($self->_take('tricks') // {})->{'*'}{how} // '') eq 'starting') {
        $self->_look($req, $id) if defined $id && $id =~ $ID;
        $conn->until_closed;
        return $conn->{close} = 1;
    }
    return 0 if !defined $id || $id !~ $ID;
    return $self->_head($req, $conn, $id) if _is_probe($req);
    return $self->_use($req, $conn, $id, $word // '');
}

sub _login ($self, $req, $conn)
{
    my ($node, $path, $as) =
        map { $req->{query}{$_} ? $req->{query}{$_}[0] : undef } qw(node path as);
    my $id = defined $as ? "$as.$self->{route}" : $self->session_id;
    $id =~ s/-\w+\./-$node./ if defined $node;
    $self->_put($id, []);
    $self->_put('max-' . $self->base($id), $req->{query}{max}[0]) if $req->{query}{max};
    $self->_store($id, []);
    $conn->respond(200, [ $self->_cookie($id, $path // $self->_path($req)) ], "$id\n");
    return 1;
}

sub _use ($self, $req, $conn, $id, $word)
{
    my ($own, $taken) = $self->_find($id);
    return $conn->respond(401, [], "no session\n") || 1 if !defined $own;
    $self->_forget($taken) if defined $taken;
    my @cookie = $own ne $id ? $self->_cookie($own, $self->_path($req)) : ();
    $conn->pause(($req->{query}{ms} ? $req->{query}{ms}[0] : 0) / 1000);
    if ($word eq 'logout') {
        $self->_drop($own);
        $self->_forget($own);
        my $over = "JSESSIONID=; Path=@{[ $self->_path($req) ]}; Max-Age=0";
        $conn->respond(200, [ 'Set-Cookie' => $over ], "bye\n");
        return 1;
    }
    my $key = $req->{query}{k} ? $req->{query}{k}[0] : undef;
    my $writes = $self->_add($own, $word eq 'write' ? $key : ());
    my $said = { id => $own, node => $self->{route}, writes => $writes };
    if ($word eq 'write' || $word eq 'read') {
        $conn->respond(200, \@cookie, JSON::PP->new->canonical->encode($said) . "\n");
    }
    else {
        push @{$req->{query}{header}}, join ': ', @cookie if @cookie;
        $conn->_builtin($req);
    }
    if (my $queue = $req->{query}{queue}) {
        $self->_in_turn(sub { $conn->pause($queue->[0] / 1000); $self->_back_up($own) });
        return 1;
    }
    $conn->pause($req->{query}{ends}[0] / 1000) if $req->{query}{ends};
    $self->_back_up($own) if $word eq 'write' || defined $taken || $req->{query}{ends};
    return 1;
}

# ---- the module's HEADs

sub _look ($self, $req, $id)
{
    my $base = $self->base($id);
    my $key = "xnat-balance:moved:$base";
    # A flush has a route that no node has; the id is noted as if it had come with this node's.
    my $flush = $id =~ s/\.xnat-balance$/.$self->{route}/;
    my %head = (id => $id, own => $self->route_of($id) eq $self->{route} ? 1 : 0, time => time,
                flush => $flush, uri => $req->{uri}, headers => $req->{headers},
                copy => $self->_has("$base.$self->{route}") ? 1 : 0,
                number => "$$-" . ++$self->{seen});
    for my $node (sort keys %{$self->{store}}) {
        my $mc = $self->_memcached($node);
        $head{moved}{$node} = $mc->get($key);
        my ($ttl) = $mc->command("mg $key t") =~ /^HD t(-?\d+)/;
        $head{ttl}{$node} = $ttl;
    }
    $self->_note(\%head);
    return $head{number};
}

sub _head ($self, $req, $conn, $id)
{
    my $base = $self->base($id);
    my $tricks = $self->_take('tricks');
    my $trick = $tricks->{$base} // $tricks->{'*'};
    my $how = $trick->{how} // '';
    my $wait = ($trick->{ms} // 0) / 1000;
    my $number = $self->_look($req, $id);
    $conn->pause($wait) if $how =~ /^(?:slow|hang|drop|late)$/;
    if ($how =~ /^(?:hang|drop)$/ && !$wait) {
        $conn->until_closed if $how eq 'hang';
        return $conn->{close} = 1;
    }
    my %unseen = (error => 500, deaf => 404, login => $trick->{code} // 401);
    if ($unseen{$how}) {
        $conn->respond($unseen{$how}, [], '');
    }
    else {
        $self->_take_over($req, $conn, $id, $trick);
    }
    $self->_note({ done => $number });
    return 1;
}

# The id with another memcached node, if there is another.
sub _redrawn ($self, $id)
{
    my ($other) = grep { $_ ne $self->node_of($id) } sort keys %{$self->{store}};
    return defined $other ? $id =~ s/-\w+\./-$other./r : $id;
}

sub _take_over ($self, $req, $conn, $id, $trick)
{
    my $how = $trick->{how} // '';
    my ($own, $taken) = $self->_find($id);
    # With failoverNodes MSM takes an id with no node's route for one of no session of its own.
    my $lost = !defined $own || ($how eq 'renames' && $self->route_of($id) eq 'xnat-balance');
    return $conn->respond(404, [], '') if $lost;
    my $was = $id;
    while ($how eq 'gap' && defined $taken && $self->_take('tricks')) {
        $conn->pause(0.01);
    }
    if ($how eq 'renames' && $own eq $id) {
        $own = $self->_redrawn($id);
        rename $self->_file($id), $self->_file($own);
        $taken = $id;
    }
    $self->_forget($taken) if defined $taken && $how !~ /^(?:keeps|never-stores)$/;
    my %false = ('redraws' => $self->_redrawn($own), 'other-base' => $self->session_id,
                 'other-route' => $self->base($own) . '.elsewhere');
    if (my $name = $false{$how}) {
        rename $self->_file($own), $self->_file($name);
        $own = $name;
    }
    my $path = $how eq 'other-path' ? '/elsewhere' : $self->_path($req);
    my @cookie = $own ne $was && $how ne 'no-cookie' ? $self->_cookie($own, $path) : ();
    $conn->respond($trick->{code} // 404, \@cookie, '') if $how !~ /^(?:late|mute)$/;
    $conn->{close} = 1 if $how eq 'late';
    $conn->pause($trick->{ms} / 1000) if $how eq 'stores-late';
    $self->_in_turn(sub { $self->_store($own, $self->_take($own)) })
        if $how !~ /^(?:forgets|never-stores)$/;
    $conn->until_closed if $how eq 'mute';
    return;
}

1;
