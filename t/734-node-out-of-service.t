# SPDX-License-Identifier: Apache-2.0
# A node lives, and httpd may not use it: its application answers with errors, its health check
# fails, somebody disables or stops it. Its sessions go on elsewhere with all that they had.
use v5.36;
use XB::DeadNode;

my $dead = XB::DeadNode->new;
# Sessions that take the node some milliseconds to store.
my %small = (users => 20, before => 1, each => 10, after => 2, kb => 200);

sub health ($site, $query)
{
    my $node = $site->tomcat(1);
    $node->cont;
    $site->client->get('/', url => $node->url("/health?$query"));
    return;
}

$dead->lose('failonstatus', %small, blind => 1, lives => 1,
    section => 'ProxySet failonstatus=503',
    lose => sub ($site) { health($site, 'status=503&everywhere=1') },
    heal => sub ($site) { health($site, 'status=200') },
    log => qr/AH01174/);

$dead->lose('health check', %small, blind => 2, lives => 1,
    member => 'hcmethod=GET hcuri=/health hcinterval=500ms hcfails=1',
    lose => sub ($site) { health($site, 'status=503') },
    heal => sub ($site) { health($site, 'status=200') });

for my $how (qw(disabled stopped)) {
    $dead->lose("$how by hand", %small, lives => 1,
        lose => sub ($site) {
            $site->set(1, $how => 1);
            $site->tomcat(1)->cont;
        },
        heal => sub ($site) { });
}
$dead->finish;
