/* SPDX-License-Identifier: Apache-2.0 */
/* What moves and rescues are made of: HEADs with a session's id, the moved marker, the proofs.
 * Mover's worker threads only. */
#ifndef XNAT_STEPS_H
#define XNAT_STEPS_H

#include "xnat_move.h"
#include "xnat_move_store.h"

/* So long after a HEAD that it did not answer a node may still be taking the session over. */
#define XNAT_AT_IT_US (30 * INT64_C(1000000))

/* One session in a worker's hands, its gate shut. */
typedef struct {
    xnat_hands_t *hands;
    const xnat_job_t *job;
    const xnat_balancer_t *xb;
    unsigned from, to; /* members, as the job says until a rescue chooses */
    proxy_worker *from_worker, *to_worker;
    unsigned
        promised_to; /* member that has been credited with the session's work before it came */
    xb_worth_t promised; /* no bytes: none */
    unsigned token;
    int64_t begun_us, deadline_us; /* the gate opens before its waiters give up */
    char old_text[XB_ID_MAX + 1], new_text[2 * XB_ID_MAX];
    xb_id_t old, fresh; /* inside the two texts */
    bool barred;        /* the container asked the flush for a login first */
    bool named;         /* the flush's answer had the session's id */
    bool in_vain;       /* ... but memcached has not got the session */
    bool others;        /* a rescue with other targets left, if this one does not answer */
    bool asked;         /* a node may be taking it over, or have done so */
    bool late;          /* one that was asked may take it over yet */
    bool wary;       /* a rescue's: who is left may hold a stale copy: nobody passes unproved */
    bool proved;     /* by the keys: m->to has it */
    bool left;       /* this child stops before that is known: the next mover's to find out */
    bool redrawn;    /* the target has taken it over, to another memcached node */
    bool other_path; /* an answer's id was for another Path than the session's */
    bool stale;      /* m->to answered for the session and did not take it over */
    uint64_t avoid[XB_MEMBERS_MAX / 64]; /* a rescue's: bits of members that it is not to ask */
    unsigned path;
    uint32_t life_s;   /* max inactive of the session; 0: not known */
    size_t bytes;      /* of the stored value */
    int64_t stored_ms; /* when it was stored, by the home's clock */
} xnat_steps_t;

/* Credits m->to with the work that the session will bring, in place of an earlier promise, so
 * that sessions that are placed at once spread. 0: takes it back. */
void xnat_steps_promise(xnat_steps_t *m, xb_worth_t worth);
/* Microseconds until the gate must open, at least 1000, at most `most`. */
int64_t xnat_steps_left(const xnat_steps_t *m, int64_t most);
/* Is the token still good? Asked before anything is sent. */
bool xnat_steps_is_ours(const xnat_steps_t *m);
/* Splits an id that must have a route. */
bool xnat_steps_parse(const xnat_steps_t *m, const char *text, xb_id_t *out);

/* One HEAD with an id of the session, or NULL, at a path that no servlet serves. */
xnat_probe_rc_t xnat_steps_head(const xnat_steps_t *m, proxy_worker *worker, const char *id,
                                apr_interval_time_t budget, xnat_probe_answer_t *answer);
/* The session's id in an answer's cookies. False: it set none, or one that is not an id. */
bool xnat_steps_id_in(xnat_steps_t *m, const xnat_probe_answer_t *answer, char *text,
                      size_t size, xb_id_t *out);
/* A HEAD with this id; named: its answer has the session's id, `own`. XB_NO_FLUSH: no answer
 * in time, XB_NO_RENAMED: it has another id. m->barred: it asked for a login. */
xb_refusal_t xnat_steps_ask(xnat_steps_t *m, proxy_worker *worker, const char *id,
                            const char *own, int64_t patience_us, bool *named);
/* The same with an id of the session that has a route of no node: whoever has the session as
 * `own` says so, and stores it. */
xb_refusal_t xnat_steps_ask_home(xnat_steps_t *m, proxy_worker *worker, const char *own,
                                 int64_t patience_us, bool *named);
/* Keeps how long the session may be idle, as its header says: for the marker, and for the time
 * when copies die. */
void xnat_steps_lives(xnat_steps_t *m, const xb_msm_head_t *header);
/* Writes the moved marker: the member's route. False: on no memcached. */
bool xnat_steps_mark(const xnat_steps_t *m, unsigned member);
/* The id that the session has at m->to if it is taken over there; fills `fresh`. */
bool xnat_steps_guess_fresh(xnat_steps_t *m);
/* Rule BOTH, after a probe without proof: the keys say who has it; in doubt a living home does,
 * and the session makes no further voluntary move. */
bool xnat_steps_taken_unseen(xnat_steps_t *m);
/* Is the target known to answer? Else asks it, without cookie. XB_REFUSALS: it answers. */
xb_refusal_t xnat_steps_ready(const xnat_steps_t *m);
/* Visit, probe and proof at m->to. XB_REFUSALS: taken over. */
xb_refusal_t xnat_steps_take_over(xnat_steps_t *m);
/* Rule SAMEID: the answer names the same session at the target; fills `fresh`. */
bool xnat_steps_cookie_proves(xnat_steps_t *m, const xnat_probe_answer_t *answer);
/* Rule FLIP: the key that was probed is gone and the fresh one is there. Waits for it a little.
 */
xnat_keys_t xnat_steps_keys_prove(xnat_steps_t *m);

#endif
