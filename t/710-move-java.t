# SPDX-License-Identifier: Apache-2.0
# 200 users under load leave a draining node and lose nothing; serialised by Java itself.
use v5.36;
use XB::MoveRun;

XB::MoveRun->run('java');
