# SPDX-License-Identifier: Apache-2.0
# A node is killed under load: its sessions go on elsewhere with all that they had saved.
use v5.36;
use XB::DeadNode;

XB::DeadNode->run(lose => sub ($site) { $site->tomcat(1)->kill });
