/* SPDX-License-Identifier: Apache-2.0 */
/* The words with which the module says what it did and why: in the environment of a request, in
 * the log, on the status page. One place, so that they never differ. */
#ifndef XB_REASON_H
#define XB_REASON_H

/* XNAT_BALANCE_DECISION: what became of a request. */
typedef enum {
    XB_ELECTED,   /* no session: a node was chosen */
    XB_STAYED,    /* sent to the home its id names */
    XB_MOVED,     /* first request after a move of its session */
    XB_FAILOVER,  /* the home cannot serve: stock code or a takeover chose another */
    XB_STRAGGLER, /* carries an old id, sent to the present home */
    XB_REFUSED,   /* answered 503 at the gate, or 502 behind a fence */
    XB_DECISIONS
} xb_decision_t;

/* Why a session was moved. */
typedef enum { XB_MOVE_OVERLOAD, XB_MOVE_DRAIN, XB_MOVE_FAILED, XB_MOVE_REASONS } xb_move_t;

/* Why a move that was wanted did not come about. */
typedef enum {
    XB_NO_TARGET,       /* every other node is unusable, draining or visited */
    XB_NO_LAST_TARGET,  /* only one unvisited node is left; overload does not use it up */
    XB_NO_STORE,        /* memcached is down or its breaker is open */
    XB_NO_STORE_LATE,   /* memcached did not answer in time */
    XB_NO_STORE_NODE,   /* the id names a memcached node that is not in the list, or none */
    XB_NO_PINNED,       /* a pin marker is set */
    XB_NO_MARKER,       /* the session is not in memcached */
    XB_NO_MARKER_BAD,   /* what is there is not a session of MSM's */
    XB_NO_MARKER_OTHER, /* it holds another session's id */
    XB_NO_MARKER_INVALID,
    XB_NO_MARKER_EXPIRING,
    XB_NO_MARKER_BROKEN, /* an attribute could not be serialized: no node can load it */
    XB_NO_VALIDITY,      /* non-sticky: the session is there, its validity is not */
    XB_NO_LOCK,          /* non-sticky: a request of the session holds MSM's lock */
    XB_NO_PATH,    /* below which path the node expects the session's cookie is not known */
    XB_NO_FLUSH,   /* the home did not answer the flush */
    XB_NO_RENAMED, /* the home gave the session another id while it was flushed */
    XB_NO_READY,   /* the target did not answer a HEAD without cookie: nothing was sent to it */
    XB_NO_PROBE,   /* the target refused or broke the takeover probe */
    XB_NO_PROBE_LATE,   /* the target did not answer it in time */
    XB_NO_PROOF_COOKIE, /* the target's answer did not take the session over */
    XB_NO_PROOF_NODE,   /* the target took it over and gave it another memcached node */
    XB_NO_PROOF_PATH,   /* another context of the target took it over */
    XB_NO_PROOF_KEYS,   /* the keys in memcached contradict the answer (a stale copy) */
    XB_NO_QUIET,        /* requests in flight did not end in time */
    XB_NO_TOKEN,        /* another mover took over, or the session ended meanwhile */
    XB_NO_DRY_RUN,      /* XnatBalanceMove DryRun */
    XB_REFUSALS
} xb_refusal_t;

/* Why the stale copy at a former home was not released. The first four are the node's, the
 * others the session's. */
typedef enum {
    XB_HELD_UNREACHABLE, /* the node does not answer, or not in time */
    XB_HELD_FORBIDDEN,   /* it does not take user and password, or asks for them */
    XB_HELD_NO_JMX,      /* what answers is not Tomcat's JMXProxyServlet */
    XB_HELD_NO_MANAGER,  /* there is no session manager for the cookie's Path */
    XB_HELD_NOT_STORED,  /* memcached does not show the session at its home */
    XB_HELD_NOT_FOUND,   /* no copy there, nor has one ever been seen: perhaps not the place */
    XB_HELD_STAYS,       /* it was to be expired, and is still there */
    XB_HELDS
} xb_held_t;

const char *xb_decision_name(xb_decision_t d);
const char *xb_move_name(xb_move_t m);
const char *xb_refusal_name(xb_refusal_t r);
const char *xb_held_name(xb_held_t h);

#endif
