/* SPDX-License-Identifier: Apache-2.0 */
/* One move of one session, step by step (rules 3 to 10 of the protocol; docs/architecture.md).
 * Runs in a worker thread of the mover, never in a request; everything it waits for has a
 * deadline that ends before the gate's. */
#ifndef XNAT_MOVE_H
#define XNAT_MOVE_H

#include "xb_store.h"
#include "xnat_config.h"
#include "xnat_probe.h"
#include "xnat_shm.h"

#define XNAT_MOVE_STORES 8

/* A worker thread's own connections. */
typedef struct {
    xnat_probe_t *probe;
    int64_t
        deadline_us; /* of the gate in hand, 0: none; no question to the store lasts longer */
    bool insist; /* requests wait: memcached is asked again in the first second of trouble */
    unsigned stores;
    xb_store_t store[XNAT_MOVE_STORES]; /* one per node list in use */
} xnat_hands_t;

typedef enum {
    XNAT_JOB_MOVE,    /* voluntary: the session is quiet at a living home */
    XNAT_JOB_ADOPT,   /* its mover was lost while the gate was shut */
    XNAT_JOB_RESCUE,  /* its home cannot serve; a request has shut the gate behind a fence */
    XNAT_JOB_BEAT,    /* no session: tell other front ends that this one is here */
    XNAT_JOB_VERIFY,  /* idle at a draining home: is all of it in the store? */
    XNAT_JOB_REVIVE,  /* its home has restarted: one HEAD brings it back there */
    XNAT_JOB_LOOKUP,  /* the table does not know where it lives; a request has shut the gate */
    XNAT_JOB_RELEASE, /* its copy at the former home `from` is to be expired */
    XNAT_JOB_TRY      /* would that work at `from`? */
} xnat_job_kind_t;

typedef struct {
    xnat_job_kind_t kind;
    xnat_balancer_t *xb;
    uint32_t slot;
    uint64_t seen; /* MOVE: word of the session when it was chosen */
    uint64_t tag;
    unsigned from, to; /* members; RESCUE and LOOKUP: no `to` yet */
    proxy_worker *from_worker, *to_worker;
    xb_move_t reason;
    bool held;           /* the session, and it is only verified */
    bool wait_for_quiet; /* requests are in flight: shut the gate and let them end first */
    xb_worth_t worth;    /* goes with the session to the account of the target */
} xnat_job_t;

/* Carries the job out, counts it and logs it. */
void xnat_move_run(xnat_hands_t *hands, const xnat_job_t *job);
/* Counts, and logs once per class and minute, a move that was wanted and not tried. */
void xnat_move_refused(const xnat_job_t *job, xb_refusal_t why);
void xnat_hands_close(xnat_hands_t *hands);

#endif
