# SPDX-License-Identifier: Apache-2.0
# A node hangs under load and comes back later: its sessions go on elsewhere with all that they had
# saved, and nothing of what it still says then is heard.
use v5.36;
use XB::DeadNode;

XB::DeadNode->run(
    member => 'timeout=2 connectiontimeout=2', section => 'ProxySet failontimeout=On',
    lose => sub ($site) { }, blind => 3, back => 4, find => sub ($site) { $site->tomcat(1)->cont },
    after => 6, log => qr/AH02460/);
