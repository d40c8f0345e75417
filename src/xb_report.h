/* SPDX-License-Identifier: Apache-2.0 */
/* The status page: one snapshot of all figures, written as JSON, HTML or Prometheus text.
 * Included by the glue, which fills the snapshot, and by the tests. Pure: reads the snapshot
 * only, keeps nothing, any thread. All texts are the caller's, any bytes, NULL stands for "".
 * Session ids have no place in here: only xb_digest()s of them. */
#ifndef XB_REPORT_H
#define XB_REPORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "xb_reason.h"

/* httpd's status words of a member, as bits. */
enum {
    XB_STATUS_OK = 1,
    XB_STATUS_DRN = 2,
    XB_STATUS_DIS = 4,
    XB_STATUS_STOP = 8,
    XB_STATUS_ERR = 16,
    XB_STATUS_HCFL = 32,
    XB_STATUS_STBY = 64,
    XB_STATUS_SPAR = 128,
    XB_STATUS_IGN = 256
};

/* Sessions by state. Stable and moving make up all that are remembered; the others overlap. */
typedef enum {
    XB_REPORT_STABLE,
    XB_REPORT_MOVING, /* gates shut */
    XB_REPORT_IN_FLIGHT,
    XB_REPORT_PARTIAL,
    XB_REPORT_UNPROVEN,
    XB_REPORT_ENDED,
    XB_REPORT_STATES
} xb_report_state_t;

typedef struct {
    const char *name, *value;
} xb_report_setting_t;

typedef struct {
    const char *route, *worker;
    unsigned status; /* XB_STATUS_ bits */
    bool usable, takes_new, safe_to_stop;
    double weight, score; /* score: infinite when not usable */
    double slowness;      /* times slower than its weight says, as far as that counts */
    double traffic;       /* decayed bytes */
    double occupancy;     /* decayed mean of requests in flight */
    uint64_t busy;
    uint64_t sessions, active; /* homes here; of them used recently */
    uint64_t unverified, verified,
        unmovable;      /* the same by what a stop of the node would mean */
    uint64_t unknown_s; /* others may be there that the table does not know: for so long */
    uint64_t bytes_in, bytes_out, requests, elected, moved_in, moved_out, failed_over;
    uint64_t generation;
} xb_report_member_t;

typedef struct {
    const char *vhost, *name, *lbmethod, *move;
    const xb_report_setting_t *setting;
    unsigned settings;
    const xb_report_member_t *member;
    unsigned members;
} xb_report_balancer_t;

typedef struct {
    uint64_t age_s;
    const char *session; /* a digest */
    const char *from, *to;
    const char *result; /* xb_move_name() of a move, xb_refusal_name() of one that failed */
    bool moved;
    uint64_t took_ms;
} xb_report_move_t;

typedef struct {
    const char *node, *address;
    bool breaker_open;
    uint64_t lookups, failures;
} xb_report_node_t;

typedef struct {
    const char *version;
    uint64_t uptime_s, generation;
    double clock_s; /* of the monotonic clock that the shared memory uses */

    const xb_report_balancer_t *balancer;
    unsigned balancers;

    uint64_t capacity, remembered;
    uint64_t session[XB_REPORT_STATES];
    uint64_t forgotten; /* though alive: the table was full */
    uint64_t not_remembered;
    uint64_t repaired;                 /* counted again after a child died */
    uint64_t lost;                     /* their node gone, and not in memcached */
    uint64_t revived;                  /* at a home that has restarted */
    uint64_t looked_up, not_looked_up; /* unknown ones */

    uint64_t request[XB_DECISIONS];
    uint64_t uncounted; /* no room for another request in flight */
    uint64_t gate_waits, gate_timeouts, gate_crowded, gate_fenced, gate_waiting;

    uint64_t moved[XB_MOVE_REASONS];
    uint64_t refused[XB_REFUSALS];
    uint64_t would_have_moved;         /* DryRun */
    uint64_t released, held[XB_HELDS]; /* stale copies */
    uint64_t move_ms_sum, move_ms_max;
    const xb_report_move_t *recent; /* newest first */
    unsigned recents;

    const xb_report_node_t *node;
    unsigned nodes;

    bool mover_running;
    uint64_t mover_heartbeat_ms, mover_busy;
} xb_report_t;

typedef enum { XB_REPORT_HTML, XB_REPORT_JSON, XB_REPORT_PROMETHEUS } xb_report_form_t;

/* Where the text goes, piece by piece; pieces may be as short as one byte. */
typedef struct {
    void (*put)(void *ctx, const char *data, size_t n);
    void *ctx;
} xb_report_out_t;

void xb_report_write(const xb_report_t *r, xb_report_form_t form, xb_report_out_t out);

#endif
