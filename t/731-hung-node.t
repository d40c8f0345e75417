# SPDX-License-Identifier: Apache-2.0
# A node hangs under load and comes back later: its sessions go on elsewhere with all that they had
# saved, and nothing of what it still says then is heard.
use v5.36;
use XB::DeadNode;

XB::DeadNode->run(
    member => 'timeout=1 connectiontimeout=1', section => 'ProxySet failontimeout=On',
    lose => sub ($tomcat) { }, blind => 1.5, back => 3, find => sub ($tomcat) { $tomcat->cont },
    seconds => 7);
