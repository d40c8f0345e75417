# SPDX-License-Identifier: Apache-2.0
# A node is killed under load and starts again at once under the same route: its sessions go on,
# there or elsewhere, with all that they had saved and all that they write from then on.
use v5.36;
use XB::DeadNode;

XB::DeadNode->run(
    member => 'retry=1', users => 30, after => 9, back => 0, idle => 12,
    lose => sub ($site) { $site->tomcat(1)->kill },
    find => sub ($site) { $site->tomcat(1)->begin });
