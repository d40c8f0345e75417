/* SPDX-License-Identifier: Apache-2.0 */
/* Names of decisions, moves and refusals. */
#include "xb_reason.h"

static const char *const decisions[XB_DECISIONS] = {
    [XB_ELECTED] = "elected",   [XB_STAYED] = "stayed",       [XB_MOVED] = "moved",
    [XB_FAILOVER] = "failover", [XB_STRAGGLER] = "straggler", [XB_REFUSED] = "refused",
};

static const char *const moves[XB_MOVE_REASONS] = {
    [XB_MOVE_OVERLOAD] = "overload",
    [XB_MOVE_DRAIN] = "drain",
    [XB_MOVE_FAILED] = "failed",
};

static const char *const refusals[XB_REFUSALS] = {
    [XB_NO_TARGET] = "no-target",
    [XB_NO_LAST_TARGET] = "last-unvisited-node",
    [XB_NO_STORE] = "store-down",
    [XB_NO_STORE_LATE] = "store-late",
    [XB_NO_STORE_NODE] = "store-node-unknown",
    [XB_NO_PINNED] = "pinned",
    [XB_NO_MARKER] = "not-in-store",
    [XB_NO_MARKER_BAD] = "store-value-unknown",
    [XB_NO_MARKER_OTHER] = "store-value-of-another-session",
    [XB_NO_MARKER_INVALID] = "session-invalid",
    [XB_NO_MARKER_EXPIRING] = "session-expiring",
    [XB_NO_MARKER_BROKEN] = "not-serializable",
    [XB_NO_VALIDITY] = "no-validity",
    [XB_NO_LOCK] = "locked",
    [XB_NO_PATH] = "cookie-path-unknown",
    [XB_NO_FLUSH] = "flush-failed",
    [XB_NO_RENAMED] = "renamed-by-home",
    [XB_NO_READY] = "target-not-ready",
    [XB_NO_PROBE] = "probe-failed",
    [XB_NO_PROBE_LATE] = "probe-late",
    [XB_NO_PROOF_COOKIE] = "no-proof-in-cookie",
    [XB_NO_PROOF_NODE] = "renamed-by-target",
    [XB_NO_PROOF_PATH] = "taken-by-another-context",
    [XB_NO_PROOF_KEYS] = "no-proof-in-store",
    [XB_NO_QUIET] = "never-quiet",
    [XB_NO_TOKEN] = "overtaken",
    [XB_NO_DRY_RUN] = "dry-run",
};

static const char *const helds[XB_HELDS] = {
    [XB_HELD_UNREACHABLE] = "node-unreachable", [XB_HELD_FORBIDDEN] = "login-refused",
    [XB_HELD_NO_JMX] = "no-jmxproxy",           [XB_HELD_NO_MANAGER] = "no-manager",
    [XB_HELD_NOT_STORED] = "not-in-store",      [XB_HELD_NOT_FOUND] = "copy-not-found",
    [XB_HELD_STAYS] = "copy-not-expired",
};

const char *xb_decision_name(xb_decision_t d)
{
    return decisions[d];
}

const char *xb_move_name(xb_move_t m)
{
    return moves[m];
}

const char *xb_refusal_name(xb_refusal_t r)
{
    return refusals[r];
}

const char *xb_held_name(xb_held_t h)
{
    return helds[h];
}
