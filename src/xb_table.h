/* SPDX-License-Identifier: Apache-2.0 */
/* Session table in shared memory: what is known of each living session, bounded, shared by all
 * children and surviving a graceful restart. Included by the glue and the tests.
 *
 * Threads and processes: every function may be called from any thread of any process. Request
 * path (enter, leave, view): no lock, compare-and-swap only. The rest takes the table's robust
 * leaf lock: nobody calls out, logs or does I/O under it; a locker that finds its predecessor
 * dead runs the repair first. Times: `_us` = one monotonic clock shared by all processes, > 0.
 *
 * Layout: tags[] in buckets of eight (one cache line), entry i belongs to tag i. A session
 * lives in one of two buckets that its tag names, so a look-up reads two cache lines and
 * follows no links. Claims: a request in flight is written down in its child's own row before
 * it is counted; the row of a dead child tells which sessions to count again. */
#ifndef XB_TABLE_H
#define XB_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "xb_id.h"
#include "xb_member.h"
#include "xb_word.h"

typedef struct xb_table xb_table_t; /* lies in shared memory, holds no pointers */

#define XB_VISITED_MAX 6
#define XB_SESSIONS_MAX 2097152u
/* Max inactive interval, in seconds, of sessions that never die of disuse. 0: not known. */
#define XB_INACTIVE_NEVER UINT32_MAX

/* What a mover leaves as the target of a gate behind which a lost home could not be left: a
 * node that was asked to take the session over may do so yet, or all that are left may hold an
 * old copy. Until the next gate, which the next request is to shut, the session is `held`. */
#define XB_TARGET_HELD (XB_MEMBER_NONE - 2)

enum {
    /* rule PROB: made again for a session that already ran; where it has been is not known: no
     * voluntary move */
    XB_SESSION_PARTIAL = 1,
    /* made from a client's word only; first to be forgotten, never displaces a proven one */
    XB_SESSION_UNPROVEN = 2,
    /* logged out or renamed: forgotten as soon as nothing is in flight and no former home may
     * still know it */
    XB_SESSION_ENDED = 4,
    /* more visited nodes than fit, the oldest is not listed: no voluntary move */
    XB_SESSION_CROWDED = 8,
    /* moved, and no request has come since; set and cleared by the glue */
    XB_SESSION_FRESH = 16,
    /* completely in the store; cleared by its next request */
    XB_SESSION_VERIFIED = 32,
    /* could not be verified, the log says why; cleared by its next request */
    XB_SESSION_UNMOVABLE = 64,
    /* its home has not been proved to have it: httpd failed over; cleared by the glue */
    XB_SESSION_ASSUMED = 128
};

/* A request that was let through; the caller's memory, given back to leave. */
typedef struct {
    uint32_t slot;
    uint32_t claim;
    uint16_t child, home, epoch;
} xb_ref_t;

typedef enum {
    XB_ENTER_IN,       /* counted; ref is filled; must leave */
    XB_ENTER_UNKNOWN,  /* no such session */
    XB_ENTER_REBORN,   /* its home has restarted since: not let in before one HEAD went there */
    XB_ENTER_GATE,     /* being moved: wait and call again; ref->home = where it was */
    XB_ENTER_UNCOUNTED /* no claim left or too many in flight: let it pass; voluntary moves of
                          this session are barred for ten minutes; slot, home and epoch of ref
                          are valid, do not leave */
} xb_enter_t;

/* `claims` = requests in flight at once per child, `children` = rows. Sizes for fresh and
 * check. */
typedef struct {
    uint32_t sessions, children, claims;
} xb_table_dim_t;

size_t xb_table_size(const xb_table_dim_t *dim); /* 0: out of range */
/* mem: 64-byte aligned, size bytes, zeroed. Before any child exists. NULL only if lock setup
 * fails. */
xb_table_t *xb_table_init(void *mem, const xb_table_dim_t *dim);

/* Children. A child opens a row (index, or -1: none free) before its first request, and closes
 * it when all its requests have ended. A row whose child died (by pid) is marked, and repaired
 * by anyone: returns how many sessions were counted again; rows that cannot be settled at once
 * (a living request is just entering) stay for the next call. Parent or child may call them. */
int xb_table_child_open(xb_table_t *t, int32_t pid);
void xb_table_child_close(xb_table_t *t, unsigned child);
/* Row index of the dead child, -1 if unknown. */
int xb_table_child_dead(xb_table_t *t, int32_t pid);
/* Counts the requests of dead children off. Their nodes may still work on them: sessions that
 * had any make no voluntary move until bar_until_us. Number of sessions counted again. */
unsigned xb_table_repair(xb_table_t *t, int64_t bar_until_us);
/* Pid in a living row, 0 if free or dead. */
int32_t xb_table_child_pid(const xb_table_t *t, unsigned child);

/* Request path. tag: keyed hash of the base id, != 0. */
xb_enter_t xb_table_enter(xb_table_t *t, unsigned child, uint64_t tag, int64_t now_us,
                          xb_ref_t *ref);

/* The same, but a session whose home has restarted since its last request is not let in (rule
 * 11): ref->slot and ref->home are filled. */
xb_enter_t xb_table_enter_at(xb_table_t *t, unsigned child, uint64_t tag, int64_t now_us,
                             const xb_members_t *members, xb_ref_t *ref);

/* Ends a request. bar_until_us: no voluntary move before (0: none; used when the answer was not
 * complete). bytes: what it moved, for the session's own decayed traffic (half_life_s). */
void xb_table_leave(xb_table_t *t, const xb_ref_t *ref, int64_t now_us, int64_t bar_until_us,
                    double bytes, double half_life_s);

/* The request goes back to the gate, to be let in again: so far it was none. */
void xb_table_withdraw(xb_table_t *t, const xb_ref_t *ref, int64_t now_us);

/* Is the answer of this request still to be believed (same epoch)? */
bool xb_table_current(const xb_table_t *t, const xb_ref_t *ref);

typedef enum {
    XB_INSERT_NEW,    /* made, and ref holds one request in flight */
    XB_INSERT_EXISTS, /* it is there already: enter instead */
    XB_INSERT_FULL    /* nothing could be forgotten: the session is not remembered */
} xb_insert_t;

/* Makes an entry with one request in flight. flags: 0 (a full record: its Set-Cookie was just
 * seen), PARTIAL and/or UNPROVEN. path: index of the cookie's path in the caller's list, < 256.
 * The home counts as visited. *forgot: a session was displaced that may live: not one that only
 * a client has named, once (say so in the log). */
xb_insert_t xb_table_insert(xb_table_t *t, unsigned child, uint64_t tag, xb_span_t id,
                            unsigned home, unsigned flags, unsigned path, int64_t now_us,
                            xb_ref_t *ref, bool *forgot);

/* The same for a session that nobody knows: nothing is in flight and its gate is shut without a
 * target, for the mover to find out where it lives before any request of it gets through. */
xb_insert_t xb_table_insert_shut(xb_table_t *t, uint64_t tag, xb_span_t id, unsigned home,
                                 unsigned flags, unsigned path, int64_t now_us, uint32_t *slot,
                                 bool *forgot);

/* From an answer of a request that holds ref and is current: the newest id (false if not
 * current or too long), clears UNPROVEN. */
bool xb_table_learn(xb_table_t *t, const xb_ref_t *ref, xb_span_t id, int path /* -1: keep */);
/* Sets and clears XB_SESSION_ flags. Returns those before clearing: of several callers that
 * clear one, just one sees it. */
unsigned xb_table_flag(xb_table_t *t, uint32_t slot, unsigned set, unsigned clear);
/* The session is lost: its entry is worth no more than that of an id that came once. */
void xb_table_disprove(xb_table_t *t, uint32_t slot);

/* Failover by stock code: home from -> to if it still is `from` and not being moved; both count
 * as visited. Returns the home that holds now. */
unsigned xb_table_rehome(xb_table_t *t, uint32_t slot, unsigned from, unsigned to,
                         int64_t now_us);

/* Back: home := to if the word is still `seen`, so that no other request has come since then.
 */
bool xb_table_return(xb_table_t *t, uint32_t slot, uint64_t seen, unsigned to, int64_t now_us);
/* The newest id. False: not known, or the slot is free. */
bool xb_table_newest(xb_table_t *t, uint32_t slot, char id[XB_ID_MAX + 1]);

/* Rule SENT: something of this session may have been sent to the member. */
void xb_table_visit(xb_table_t *t, uint32_t slot, unsigned member, int64_t now_us);
/* The same, and the member is asked to take the session over. */
void xb_table_ask(xb_table_t *t, uint32_t slot, unsigned member, int64_t now_us);
/* It has done what it was asked for, whatever that was. A commit says so of the new home. */
void xb_table_done(xb_table_t *t, uint32_t slot, unsigned member);
/* The copy at this member is gone for certain (released, restarted). */
void xb_table_unvisit(xb_table_t *t, uint32_t slot, unsigned member);
/* May a request of the session still run at this former home (XB_MEMBER_NONE: at any)? By where
 * it was let through to; one that failed over since counts for the first. True also while one
 * is just coming in, which passes. Walks the rows of all children, takes no lock. */
bool xb_table_strays(const xb_table_t *t, uint32_t slot, unsigned member);

/* What a walk sees of a slot, without lock; stable only if gate() accepts its word afterwards.
 */
typedef struct {
    uint64_t word; /* as read */
    uint64_t tag;
    xb_word_t w;   /* unpacked */
    unsigned path; /* index of the cookie's path */
    uint32_t requests, flags;
    uint32_t max_inactive_s; /* 0: not known; XB_INACTIVE_NEVER */
    unsigned target;         /* of the last gate */
    int64_t created_us /* whole seconds */, last_us, bar_until_us, gated_us;
    double traffic; /* own decayed bytes, as of traffic's last change */
    struct {
        unsigned member;
        bool asked; /* to take it over, at touched_us, and is not known to have done */
        bool since; /* since then no request was let through (or 4096) */
        int64_t touched_us;
    } visited[XB_VISITED_MAX];
    unsigned visited_count;
} xb_view_t;

/* Has a copy that was touched then died of disuse, whatever its node's background thread does?
 */
bool xb_table_copy_died(uint32_t max_inactive_s, int64_t touched_us, int64_t now_us);

uint32_t xb_table_slots(const xb_table_t *t);
/* As much of it as tells a walk that passes most slots by: one cache line. */
typedef struct {
    uint64_t word;
    unsigned flags;
    int64_t last_us;
} xb_glance_t;
/* False: the slot is free. */
bool xb_table_glance(const xb_table_t *t, uint32_t slot, xb_glance_t *out);
/* False: the slot is free. */
bool xb_table_view(const xb_table_t *t, uint32_t slot, xb_view_t *out);
/* Index of the cookie's path; and for an entry that was made without one. */
unsigned xb_table_path(const xb_table_t *t, uint32_t slot);
void xb_table_set_path(xb_table_t *t, uint32_t slot, unsigned path);
/* The session has given a sign of life: its home need not be asked first (rule 11). */
void xb_table_touch(xb_table_t *t, uint32_t slot, int64_t now_us);
/* The session's home now; XB_MEMBER_NONE for a free slot. */
unsigned xb_table_home(const xb_table_t *t, uint32_t slot);
/* Slot of a tag, UINT32_MAX if unknown. */
uint32_t xb_table_find(const xb_table_t *t, uint64_t tag);

/* Shuts the gate if the word is still `seen` (so nothing entered since it was read). fence:
 * opens a new epoch and gives up the requests in flight (home gone). Without it requests in
 * flight may still end. True: *token is ours. */
bool xb_table_gate(xb_table_t *t, uint32_t slot, uint64_t seen, unsigned target, bool fence,
                   int64_t now_us, unsigned *token);
/* Is it still ours? inflight: the requests that have yet to end, or NULL. */
bool xb_table_token(const xb_table_t *t, uint32_t slot, unsigned token, unsigned *inflight);
/* Fence a gate of ours later on. */
bool xb_table_fence(xb_table_t *t, uint32_t slot, unsigned token);
/* Copies id and path index under the token. False: token lost, or no id known. */
bool xb_table_id(xb_table_t *t, uint32_t slot, unsigned token, char id[XB_ID_MAX + 1],
                 unsigned *path);
/* The same of whatever session the tag says, gate or not; it may change at any time. */
bool xb_table_id_of(xb_table_t *t, uint32_t slot, uint64_t tag, char id[XB_ID_MAX + 1],
                    unsigned *path);
void xb_table_max_inactive(xb_table_t *t, uint32_t slot, unsigned token, uint32_t seconds);
/* Another target than the gate was shut with, to be seen when it is open. */
void xb_table_target(xb_table_t *t, uint32_t slot, unsigned token, unsigned target);
/* Commit: home := target, newest id, new epoch, gate open. False: the token was lost. What is
 * unproven stays so: who has proof clears that flag himself. */
bool xb_table_commit(xb_table_t *t, uint32_t slot, unsigned token, unsigned home, xb_span_t id,
                     int64_t now_us, int64_t bar_until_us);
/* Abort: the home keeps it, gate open. */
bool xb_table_abort(xb_table_t *t, uint32_t slot, unsigned token, int64_t bar_until_us);
/* The mover died or was slow: draws a new token for a shut gate, so the old one is void. */
bool xb_table_regate(xb_table_t *t, uint32_t slot, unsigned *token);

/* Walks everything under the lock: 0, or the number of contradictions; *where the first slot.
 */
unsigned xb_table_validate(xb_table_t *t, uint32_t *where);

#endif
