/* SPDX-License-Identifier: Apache-2.0 */
/* The list of everything that the status page shows. */
#include "xb_report_part.h"

#define COUNT(a) (sizeof(a) / sizeof(a)[0])
#define FIELDS(a)                                                                              \
    {                                                                                          \
        (a), COUNT(a)                                                                          \
    }

#define R(member) offsetof(xb_report_t, member)
static const xb_field_t server[] = {
    {XB_FIELD_TEXT, R(version), "version", "info", "Version of the module."},
    {XB_FIELD_GAUGE, R(uptime_s), "uptime_s", "uptime_seconds", "Age of the shared memory."},
    {XB_FIELD_GAUGE, R(generation), "generation", "generation",
     "1 since the start, and one more with each graceful restart."},
    {XB_FIELD_REAL, R(clock_s), "clock_s", "clock_seconds", "The module's monotonic clock."},
};

static const xb_field_t sessions[] = {
    {XB_FIELD_GAUGE, R(capacity), "capacity", "sessions_capacity", "Sessions that fit."},
    {XB_FIELD_GAUGE, R(remembered), "remembered", "sessions_remembered",
     "Sessions in the table."},
    {XB_FIELD_COUNTER, R(forgotten), "forgotten", "sessions_forgotten",
     "Living sessions forgotten because the table was full."},
    {XB_FIELD_COUNTER, R(not_remembered), "not_remembered", "sessions_not_remembered",
     "Sessions not taken into the table because nothing could be forgotten."},
    {XB_FIELD_COUNTER, R(repaired), "repaired", "sessions_repaired",
     "Sessions whose requests were counted again after a child died."},
    {XB_FIELD_COUNTER, R(lost), "lost", "sessions_lost",
     "Sessions of nodes that failed which were not in memcached."},
    {XB_FIELD_COUNTER, R(revived), "revived", "sessions_revived",
     "Sessions that one HEAD has brought back at their home after it had restarted."},
    {XB_FIELD_COUNTER, R(looked_up), "looked_up", "sessions_looked_up",
     "Sessions not in the table whose home was looked up in memcached."},
    {XB_FIELD_COUNTER, R(not_looked_up), "not_looked_up", "sessions_not_looked_up",
     "The same, but memcached was silent, too many came, or the table was full."},
    {XB_FIELD_COUNTER, R(uncounted), "uncounted_requests", "requests_uncounted",
     "Requests let through uncounted, because a child had too many in flight."},
};

static const xb_field_t gates[] = {
    {XB_FIELD_COUNTER, R(gate_waits), "waits", "gate_waits",
     "Requests that waited while their session moved."},
    {XB_FIELD_COUNTER, R(gate_timeouts), "timeouts", "gate_timeouts",
     "Requests that waited in vain and got 503."},
    {XB_FIELD_COUNTER, R(gate_crowded), "crowded", "gate_crowded",
     "Requests that got 503 because too many waited already."},
    {XB_FIELD_COUNTER, R(gate_fenced), "fenced", "gate_fenced",
     "Answers of a lost home turned into 502 because the session had moved."},
    {XB_FIELD_GAUGE, R(gate_waiting), "waiting", "gate_waiting", "Requests waiting now."},
};

static const xb_field_t moves[] = {
    {XB_FIELD_COUNTER, R(would_have_moved), "would_have_moved", "moves_dry_run",
     "Moves that DryRun held back."},
    {XB_FIELD_MS_SUM, R(move_ms_sum), "duration_sum_ms", "move_duration_seconds",
     "Time that all moves took, gate shut to gate open."},
    {XB_FIELD_MS, R(move_ms_max), "duration_max_ms", "move_duration_max_seconds",
     "Longest of them."},
};

static const xb_field_t copies[] = {
    {XB_FIELD_COUNTER, R(released), "released", "copies_released",
     "Stale copies at former homes that were expired."},
};

static const xb_field_t mover[] = {
    {XB_FIELD_BOOL, R(mover_running), "running", "mover_running",
     "Does a living child hold the mover's lease?"},
    {XB_FIELD_MS, R(mover_heartbeat_ms), "heartbeat_age_ms", "mover_heartbeat_age_seconds",
     "Since the mover's last sign of life."},
    {XB_FIELD_GAUGE, R(mover_busy), "workers_busy", "mover_workers_busy",
     "Worker threads of the mover at work."},
};
#undef R

#define R(member) offsetof(xb_report_move_t, member)
static const xb_field_t recent[] = {
    {XB_FIELD_GAUGE, R(age_s), "seconds_ago", NULL, "When it ended."},
    {XB_FIELD_TEXT, R(session), "session", NULL, "Digest of the session's id, as in the log."},
    {XB_FIELD_TEXT, R(from), "from", NULL, "Route of the old home."},
    {XB_FIELD_TEXT, R(to), "to", NULL, "Route of the target."},
    {XB_FIELD_BOOL, R(moved), "moved", NULL, "Did it come about?"},
    {XB_FIELD_TEXT, R(result), "why", NULL, "Why it moved, or why not."},
    {XB_FIELD_GAUGE, R(took_ms), "took_ms", NULL, "How long it took."},
};
#undef R

#define R(member) offsetof(xb_report_node_t, member)
static const xb_field_t nodes[] = {
    {XB_FIELD_TEXT, R(node), "node", NULL, "Id of the memcached node."},
    {XB_FIELD_TEXT, R(address), "address", NULL, "Where it listens."},
    {XB_FIELD_BOOL, R(breaker_open), "breaker_open", "store_breaker_open",
     "Is the node left alone because it failed?"},
    {XB_FIELD_COUNTER, R(lookups), "lookups", "store_lookups", "Look-ups at the node."},
    {XB_FIELD_COUNTER, R(failures), "failures", "store_failures", "Those that failed."},
};
#undef R

#define R(member) offsetof(xb_report_balancer_t, member)
static const xb_field_t balancer[] = {
    {XB_FIELD_TEXT, R(vhost), "vhost", NULL, "Virtual host."},
    {XB_FIELD_TEXT, R(name), "name", NULL, "Balancer."},
    {XB_FIELD_TEXT, R(lbmethod), "lbmethod", NULL, "lbmethod in force."},
    {XB_FIELD_TEXT, R(move), "move", NULL, "XnatBalanceMove in force."},
};
#undef R

#define R(member) offsetof(xb_report_member_t, member)
static const xb_field_t member[] = {
    {XB_FIELD_TEXT, R(route), "route", NULL, "jvmRoute of the node."},
    {XB_FIELD_TEXT, R(worker), "worker", NULL, "URL of the node."},
    {XB_FIELD_STATUS, R(status), "status", "member_status", "Status words of httpd."},
    {XB_FIELD_BOOL, R(usable), "usable", "member_usable", "Would httpd send it a request?"},
    {XB_FIELD_BOOL, R(takes_new), "takes_new", "member_takes_new", "May it get a new session?"},
    {XB_FIELD_REAL, R(weight), "weight", "member_weight", "Its loadfactor."},
    {XB_FIELD_REAL, R(slowness), "slowness", "member_slowness",
     "How many times more slowly it answers than its loadfactor says; its load counts as much "
     "more."},
    {XB_FIELD_REAL, R(score), "score", "member_score",
     "Load relative to its weight, 1 = balanced; infinite when not usable."},
    {XB_FIELD_REAL, R(traffic), "traffic", "member_traffic_bytes", "Decayed traffic."},
    {XB_FIELD_REAL, R(occupancy), "occupancy", "member_occupancy",
     "Decayed mean of requests in flight."},
    {XB_FIELD_GAUGE, R(busy), "busy", "member_busy", "Requests in flight."},
    {XB_FIELD_GAUGE, R(sessions), "sessions", "member_sessions", "Sessions at home here."},
    {XB_FIELD_GAUGE, R(unverified), "sessions_active", "member_sessions_active",
     "Of them neither verified in the store nor found unmovable: they leave a draining node."},
    {XB_FIELD_GAUGE, R(verified), "sessions_verified", "member_sessions_verified",
     "Idle and completely in the store: taken over when their users come back."},
    {XB_FIELD_GAUGE, R(unmovable), "sessions_unmovable", "member_sessions_unmovable",
     "Idle and not to be verified: a stop would lose them."},
    {XB_FIELD_GAUGE, R(unknown_s), "sessions_unknown_s", "member_sessions_unknown_seconds",
     "For so long others may be at home here that httpd does not know; 0: none are."},
    {XB_FIELD_GAUGE, R(busy), "requests_left", "member_requests_left",
     "Requests still running."},
    {XB_FIELD_BOOL, R(safe_to_stop), "safe_to_stop", "member_safe_to_stop",
     "Drains, nothing runs there, every session is verified, and none is unknown."},
    {XB_FIELD_GAUGE, R(active), "active", "member_sessions_recent",
     "Of them used within the last five minutes."},
    {XB_FIELD_COUNTER, R(bytes_in), "bytes_in", "member_bytes_in", "Bytes from clients."},
    {XB_FIELD_COUNTER, R(bytes_out), "bytes_out", "member_bytes_out", "Bytes to clients."},
    {XB_FIELD_COUNTER, R(requests), "requests", "member_requests", "Requests."},
    {XB_FIELD_COUNTER, R(elected), "elected", "member_elected", "New sessions sent here."},
    {XB_FIELD_COUNTER, R(moved_in), "moved_in", "member_moved_in", "Sessions moved here."},
    {XB_FIELD_COUNTER, R(moved_out), "moved_out", "member_moved_out", "Sessions moved away."},
    {XB_FIELD_COUNTER, R(failed_over), "failed_over", "member_failed_over",
     "Requests that failed over to here, their session with them."},
    {XB_FIELD_GAUGE, R(generation), "generation", "member_generation",
     "Grows when the node has restarted."},
};
#undef R

const xb_fields_t xb_balancer_fields = FIELDS(balancer), xb_member_fields = FIELDS(member);

static const char *state_word(unsigned i)
{
    static const char *const word[XB_REPORT_STATES] = {
        [XB_REPORT_STABLE] = "stable",       [XB_REPORT_MOVING] = "moving",
        [XB_REPORT_IN_FLIGHT] = "in-flight", [XB_REPORT_PARTIAL] = "partial",
        [XB_REPORT_UNPROVEN] = "unproven",   [XB_REPORT_ENDED] = "ended",
    };
    return word[i];
}

static const char *decision_word(unsigned i)
{
    return xb_decision_name((xb_decision_t)i);
}

static const char *move_word(unsigned i)
{
    return xb_move_name((xb_move_t)i);
}

static const char *refusal_word(unsigned i)
{
    return xb_refusal_name((xb_refusal_t)i);
}

static const char *held_word(unsigned i)
{
    return xb_held_name((xb_held_t)i);
}

static const void *recent_item(const xb_report_t *r, unsigned i)
{
    return i < r->recents ? &r->recent[i] : NULL;
}

static const void *node_item(const xb_report_t *r, unsigned i)
{
    return i < r->nodes ? &r->node[i] : NULL;
}

#define RECORD(k, heading, array)                                                              \
    {                                                                                          \
        .kind = XB_PART_RECORD, .key = (k), .title = (heading), .fields = FIELDS(array)        \
    }
const xb_part_t xb_parts[] = {
    RECORD("server", "Server", server),
    RECORD("sessions", "Sessions", sessions),
    {.kind = XB_PART_WORDS,
     .key = "sessions_by_state",
     .title = "Sessions by state",
     .offset = offsetof(xb_report_t, session),
     .words = XB_REPORT_STATES,
     .word = state_word,
     .metric = "sessions",
     .label = "state",
     .help = "Sessions; stable and moving are all, the other states overlap."},
    {.kind = XB_PART_WORDS,
     .key = "requests_by_decision",
     .title = "Requests by decision",
     .offset = offsetof(xb_report_t, request),
     .words = XB_DECISIONS,
     .word = decision_word,
     .metric = "requests",
     .label = "decision",
     .help = "Requests by what became of them.",
     .grows = true},
    RECORD("gates", "Gates", gates),
    RECORD("moves", "Moves", moves),
    {.kind = XB_PART_WORDS,
     .key = "moves_by_reason",
     .title = "Moves by reason",
     .offset = offsetof(xb_report_t, moved),
     .words = XB_MOVE_REASONS,
     .word = move_word,
     .metric = "moves",
     .label = "reason",
     .help = "Sessions moved.",
     .grows = true},
    {.kind = XB_PART_WORDS,
     .key = "refusals_by_reason",
     .title = "Moves that did not come about, by reason",
     .offset = offsetof(xb_report_t, refused),
     .words = XB_REFUSALS,
     .word = refusal_word,
     .metric = "move_refusals",
     .label = "reason",
     .help = "Moves that were wanted and did not come about.",
     .grows = true},
    RECORD("copies", "Stale copies", copies),
    {.kind = XB_PART_WORDS,
     .key = "copies_held_by_reason",
     .title = "Stale copies that could not be expired, by reason",
     .offset = offsetof(xb_report_t, held),
     .words = XB_HELDS,
     .word = held_word,
     .metric = "copies_held",
     .label = "reason",
     .help = "Attempts to expire the stale copy at a former home that failed.",
     .grows = true},
    {.kind = XB_PART_LIST,
     .key = "recent_moves",
     .title = "Recent moves",
     .fields = FIELDS(recent),
     .item = recent_item},
    {.kind = XB_PART_LIST,
     .key = "store_nodes",
     .title = "Memcached nodes",
     .fields = FIELDS(nodes),
     .item = node_item,
     .labels = 2},
    RECORD("mover", "Mover", mover),
};
const unsigned xb_parts_count = COUNT(xb_parts);

const char *xb_status_word(unsigned bit_index)
{
    static const char *const word[XB_STATUS_WORDS] = {"Ok",   "Drn",  "Dis",  "Stop", "Err",
                                                      "HcFl", "Stby", "Spar", "Ign"};
    return word[bit_index];
}
