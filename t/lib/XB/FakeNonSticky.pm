# SPDX-License-Identifier: Apache-2.0
# A scripted back end that behaves like a Tomcat with memcached-session-manager in non-sticky
# mode: memcached alone has the sessions, each request loads one under its lock and stores it
# under the same id. All of XB::FakeMsm, except that it makes no copies and renames nothing.
#
#   XB::FakeNonSticky->validity(max_inactive => 1800, this_accessed => ms, accessed => ms)
package XB::FakeNonSticky;
use v5.36;
use parent 'XB::FakeMsm';
use JSON::PP ();
use Time::HiRes qw(time);

sub validity ($class, %f)
{
    my $now = int(1000 * time);
    return pack 'N q> q>', $f{max_inactive} // 1800, $f{accessed} // $now,
        $f{this_accessed} // $now;
}

sub _store ($self, $id, $writes)
{
    $self->SUPER::_store($id, $writes);
    my $max = $self->{max_inactive};
    $self->_memcached($self->node_of($id))->set("validity:$id",
                                                $self->validity(max_inactive => $max), $max);
    return;
}

# For as long as the code runs, or five seconds, as MSM's.
sub _locked ($self, $id, $code)
{
    my $mc = $self->_memcached($self->node_of($id)) // return $code->();
    my $end = time + 6;
    while (!$mc->add("lock:$id", 'locked', 5) && time < $end) {
        select undef, undef, undef, 0.002;
    }
    my @all = $code->();
    $mc->delete("lock:$id");
    return @all;
}

sub _login ($self, $req, $conn)
{
    my $id = $self->session_id;
    $self->_store($id, []);
    $conn->respond(200, [ $self->_cookie($id, $self->_path($req)) ], "$id\n");
    return 1;
}

sub _use ($self, $req, $conn, $id, $word)
{
    $self->_locked($id, sub {
        my $writes = $self->_load($id);
        return $conn->respond(401, [], "no session\n") if !$writes;
        $conn->pause(($req->{query}{ms} ? $req->{query}{ms}[0] : 0) / 1000);
        push @$writes, $req->{query}{k}[0] if $word eq 'write';
        my $said = { id => $id, node => $self->{route}, writes => $writes };
        $word =~ /^(?:write|read)$/
            ? $conn->respond(200, [], JSON::PP->new->canonical->encode($said) . "\n")
            : $conn->_builtin($req);
        $self->_store($id, $writes);
        return 1;
    });
    return 1;
}

# A HEAD is a request as any other; it is noted all the same.
sub _head ($self, $req, $conn, $id)
{
    $self->_note({ done => $self->_look($req, $id) });
    $conn->respond(404, [], '');
    return 1;
}

1;
