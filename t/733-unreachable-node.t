# SPDX-License-Identifier: Apache-2.0
# A node lives, and httpd does not get to it: packets are dropped, connections refused, TLS fails.
# Its sessions go on elsewhere with all that they had saved.
use v5.36;
use XB::DeadNode;

my $dead = XB::DeadNode->new(piped => 1, tomcat => { connectors => [qw(http https)] });
my %small = (users => 20, before => 1, each => 10, after => 2);

$dead->lose('packets dropped', %small, after => 4, blind => 3,
    member => 'timeout=2 connectiontimeout=1', section => 'ProxySet failontimeout=On',
    lose => sub ($site) { $site->pipe->vanish; $site->tomcat(1)->cont },
    heal => sub ($site) { $site->pipe->restart },
    log => qr/AH02460/);

$dead->lose('connections refused', %small,
    lose => sub ($site) { $site->pipe->stop; $site->tomcat(1)->cont },
    heal => sub ($site) { $site->pipe->start });

# Its port speaks plainly from now on.
$dead->lose('TLS fails', %small, tls => 1, blind => 1,
    lose => sub ($site) {
        $site->pipe->lead_to($site->tomcat(1)->port('http'));
        $site->tomcat(1)->cont;
    },
    heal => sub ($site) { },
    log => qr/AH01084|AH01097|AH01906/);
$dead->finish;
