#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
# The protocol's model: each rule has a counterexample when it is left out, and a few faults do no
# harm when all are kept. `make model` checks every fault.
use v5.36;
use FindBin ();

exec "$FindBin::RealBin/model/run", 'quick' or die "t/model/run: $!\n";
