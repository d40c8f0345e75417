/* SPDX-License-Identifier: Apache-2.0 */
/* The one shared-memory segment: anonymous, made at the first start, kept over graceful
 * restarts, gone with the last process. It holds the session table, the members' records and
 * everything that children must agree on. Fixed-width types and the C library's mutex and
 * semaphore, offsets instead of pointers. */
#ifndef XNAT_SHM_H
#define XNAT_SHM_H

#include <semaphore.h>

#include "httpd.h"
#include "mod_proxy.h"

#include "xb_breaker.h"
#include "xb_hash.h"
#include "xb_member.h"
#include "xb_policy.h"
#include "xb_reason.h"
#include "xb_table.h"

#define XNAT_BALANCERS_MAX 64
#define XNAT_STORES_MAX 32
#define XNAT_PATHS_MAX 32
/* As a session's path index: the cookie's Path is not the node's; no cookie has been seen. */
#define XNAT_PATH_UNKNOWN XNAT_PATHS_MAX
#define XNAT_PATH_UNLEARNED (XNAT_PATHS_MAX + 1)
#define XNAT_PATH_SIZE 128
#define XNAT_RECENT 32
#define XNAT_CHILDREN_MAX 4096
/* An answer that did not come whole: Tomcat may still work on it for so long. */
#define XNAT_BROKEN_US (30 * INT64_C(1000000))
#define XNAT_WANTED 4096
#define XNAT_MINUTE_US (60 * INT64_C(1000000))

/* What the mover must know of a balancer's traffic to imitate it; text is written once per
 * change by requests, guarded by `seq` (odd: being written). */
typedef struct {
    _Atomic uint64_t key; /* keyed hash of sname; 0: free */
    xb_bucket_t rate;     /* overload moves */
    _Atomic int64_t front_us, front_told_us,
        beat_us; /* another front end seen, told; own beat */
    _Atomic uint32_t seq;
    char host[256];    /* Host of the last new session if it was preserved, or empty */
    bool host_is_ours; /* a ServerName or ServerAlias, not only what a client sent */
    char proto[8];     /* its X-Forwarded-Proto, or empty */
} xnat_shm_balancer_t;

/* Health of one memcached, found by the keyed hash of host:port. */
typedef struct {
    _Atomic uint64_t key;
    xb_breaker_t breaker;
    _Atomic uint64_t calls, failures;
} xnat_shm_store_t;

/* Route of a member, written when the record is made and when the administrator changes it. */
typedef struct {
    char route[PROXY_WORKER_MAX_ROUTE_SIZE];
    uint64_t balancer; /* xnat_fleet_key() of whose member it is */
} xnat_shm_route_t;

/* Path of a session cookie; written once by whoever takes the slot. */
typedef struct {
    _Atomic uint32_t state; /* 0 free, 1 being written, 2 to be read */
    char text[XNAT_PATH_SIZE];
} xnat_shm_path_t;

/* A move that ended, for the status page: a ring; `seq` is its number, odd entries do not
 * exist. */
typedef struct {
    _Atomic uint64_t seq; /* number of the move + 1; 0: empty; all ones: being written */
    int64_t at_us;
    uint64_t digest;   /* hash of the base id, shown as xb_digest does */
    uint16_t from, to; /* members */
    uint8_t reason;    /* xb_move_t */
    uint8_t refusal;   /* xb_refusal_t, XB_REFUSALS = committed */
    uint8_t pad[2];
    uint32_t took_us;
} xnat_shm_recent_t;

typedef struct {
    uint64_t magic;
    uint32_t version;
    uint32_t generation; /* configurations that this segment has lived through */
    uint64_t size;
    xb_table_dim_t dim;
    uint32_t pad;
    uint64_t members_at, table_at; /* offsets */
    xb_key_t key;                  /* drawn at start: hashes of ids, members, stores */
    uint64_t front;                /* random: this httpd among front ends of the same fleet */
    int64_t started_us;

    _Atomic uint64_t lease; /* of the mover: child row + 1 << 48 | heartbeat in ms; 0: nobody */
    _Atomic int64_t lease_free_us;               /* when it was last given up; 0: never */
    _Atomic uint32_t waiting[XNAT_CHILDREN_MAX]; /* requests at gates, by child's row */
    _Atomic uint32_t moving[XNAT_CHILDREN_MAX];  /* workers with a job in hand, likewise */

    _Atomic uint64_t decisions[XB_DECISIONS];
    _Atomic uint64_t moves[XB_MOVE_REASONS];
    _Atomic uint64_t refusals[XB_REFUSALS];
    _Atomic int64_t refusal_logged_us[XB_REFUSALS]; /* one line per class and minute */
    _Atomic uint64_t gate_waits, gate_timeouts, gate_crowded, fenced;
    _Atomic uint64_t forgotten,
        not_remembered;           /* living entries displaced; sessions without one */
    _Atomic uint64_t lost_claims; /* requests that could not be counted */
    _Atomic uint64_t repaired;    /* sessions counted again after a child died */
    _Atomic uint64_t move_us_sum, move_us_max;
    _Atomic uint64_t recent_next;
    _Atomic uint64_t revived; /* brought back at a restarted home */
    _Atomic uint64_t lost;    /* sessions of dead nodes that were nowhere in the store */
    _Atomic uint64_t looked_up, not_looked_up;  /* unknown sessions */
    _Atomic uint64_t released, helds[XB_HELDS]; /* stale copies expired; those that were not */
    _Atomic int64_t held_logged_us[XB_HELDS];   /* one line per class and minute */
    _Atomic int64_t lost_logged_us, forgot_logged_us, full_logged_us, crowded_logged_us;
    xb_bucket_t lookups;       /* rate of those */
    _Atomic int64_t forgot_us; /* when the table last forgot a session that may live */
    /* When one had no place in it; start, if a session has come that is older. */
    _Atomic int64_t missed_us, elders_us;
    /* When another httpd, perhaps the one before, was last known to be before the member. */
    _Atomic int64_t strangers_us[XB_MEMBERS_MAX];

    /* Sessions whose gate a request has shut: slot + 1, 0 once the mover has taken it. A ring;
     * what is lapped is found by the mover's walk for abandoned gates. The mover sleeps at the
     * semaphore. */
    sem_t wake;
    _Atomic uint64_t wanted_next;
    _Atomic uint32_t wanted[XNAT_WANTED];

    xnat_shm_recent_t recent[XNAT_RECENT];
    xnat_shm_balancer_t balancer[XNAT_BALANCERS_MAX];
    xnat_shm_store_t store[XNAT_STORES_MAX];
    xnat_shm_route_t route[XB_MEMBERS_MAX];
    xnat_shm_path_t path[XNAT_PATHS_MAX];
} xnat_shm_t;

/* In this process; NULL if another version's segment stands in the way (XB0103). Set in
 * post_config, inherited by the children, good until exit. */
extern xnat_shm_t *xnat_shm;
extern xb_members_t *xnat_members;
extern xb_table_t *xnat_table;
/* This child's row in both; -1: parent, or no row was free (then requests are not counted). */
extern int xnat_child;

/* post_config: makes the segment, or finds the one of the generation before. */
int xnat_shm_post_config(apr_pool_t *pconf, server_rec *s);
void xnat_shm_child_init(apr_pool_t *pchild, server_rec *s);
/* Requests at gates now, in all children. */
uint32_t xnat_shm_waiting(void);
/* Workers of movers with a job in hand, in all children. */
uint32_t xnat_shm_moving(void);
/* In the parent: child `pid` has ended. */
void xnat_shm_child_exited(pid_t pid);

/* CLOCK_MONOTONIC in microseconds, the one clock of everything in the segment. */
int64_t xnat_now_us(void);

/* Indexes of records, made if need be; the last index stands for "no more room". */
unsigned xnat_shm_balancer(const char *sname);
unsigned xnat_shm_store(const char *host, unsigned port);
/* Index of a cookie's path in path[]; XNAT_PATH_UNKNOWN when there is no room or the text is
 * odd. */
unsigned xnat_shm_path(xb_span_t path);

/* Keyed hash of a base id, never 0: the session's tag. */
uint64_t xnat_tag(xb_span_t base);
/* The digest that stands for a session in logs. */
const char *xnat_digest(uint64_t tag, char out[XB_DIGEST_SIZE]);

/* The longest known cookie path that leads to this URL path; XNAT_PATH_UNLEARNED: none. */
unsigned xnat_shm_path_above(const char *path);
/* Asks the mover to see to a session whose gate was just shut. */
void xnat_shm_want(uint32_t slot);
/* Mover only: the next one that was asked for; *seen = how far it has read. False: none, or its
 * writer is between its two steps and will wake the mover; skip: it must be dead. */
bool xnat_shm_wanted(uint64_t *seen, bool skip, uint32_t *slot);
/* Mover only: sleeps until a session is asked for, or xnat_shm_wake, or the time is over (us).
 */
void xnat_shm_sleep(int64_t us);
/* Wakes the mover, whichever child it is in. */
void xnat_shm_wake(void);

/* A line of the log that is not to come more often: at most one caller in that time, of all
 * processes, may write it. */
bool xnat_shm_may_tell(_Atomic int64_t *last_us, int64_t every_us);

/* Remembers an ended move in the ring. */
void xnat_shm_recent(const xnat_shm_recent_t *move);

static inline void xnat_count(_Atomic uint64_t *counter)
{
    __atomic_fetch_add((uint64_t *)counter, 1, __ATOMIC_RELAXED);
}

#endif
