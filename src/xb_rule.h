/* SPDX-License-Identifier: Apache-2.0 */
/* Rules of the move protocol, each of which a control build can leave out, to show that it is
 * needed: -DXB_LEAVE_OUT=<sum of bits> (make mutants, t/713-controls.t). The shipped module
 * leaves out none; the tests of rules are constant and cost nothing. Names as in t/model/. */
#ifndef XB_RULE_H
#define XB_RULE_H

enum {
    XB_RULE_FLUSH = 1,         /* a HEAD to the home before the takeover */
    XB_RULE_GATE = 2,          /* requests wait while their session is moved */
    XB_RULE_FLIP = 4,          /* the keys must prove the takeover */
    XB_RULE_VISITED = 8,       /* never to a node that may hold a stale copy */
    XB_RULE_QUIET = 16,        /* only sessions without requests in flight */
    XB_RULE_FENCE = 32,        /* answers of a home that was given up are not relayed */
    XB_RULE_MARK = 64,         /* unknown sessions: the moved marker says where they live */
    XB_RULE_ANYKEY = 128,      /* home and key gone: any key of the session will do */
    XB_RULE_GENERATION = 256,  /* one HEAD first where a home has restarted */
    XB_RULE_WORD = 512,        /* a gate shuts only on the very word that was judged */
    XB_RULE_SENT = 1024,       /* a node is visited before the probe is sent */
    XB_RULE_TOKEN = 2048,      /* a mover that was given up commits nothing */
    XB_RULE_SAMEID = 4096,     /* the target's answer names the same session */
    XB_RULE_NEWEST = 8192,     /* HEADs carry the newest id */
    XB_RULE_PROB = 16384,      /* sessions whose past is not known make no voluntary move */
    XB_RULE_MPRE = 32768,      /* the moved marker is written before the probe */
    XB_RULE_503 = 65536,       /* a request whose wait ends gets 503, never the old home */
    XB_RULE_BOTH = 131072,     /* without proof a living home keeps the session */
    XB_RULE_CAP = 262144,      /* waiters are a share of the threads */
    XB_RULE_KEYS = 524288,     /* what memcached holds is checked */
    XB_RULE_STRAYS = 1048576,  /* no copy is expired while a request may run at its node */
    XB_RULE_ATHOME = 2097152,  /* nor unless memcached shows the session at its home */
    XB_RULE_COPYID = 4194304,  /* what is expired has the former home's name, not the live id */
    XB_RULE_LOOK = 8388608,    /* a copy is gone when it is seen to be */
    XB_RULE_STORED = 16777216, /* the end of what the flush stores is waited for */
    XB_RULE_FRONT = 33554432,  /* beside another httpd sessions make no voluntary move */
    XB_RULE_BROKEN = 67108864, /* nor after an answer that was broken off */
    XB_RULE_LAST = 134217728,  /* overload does not use up the last unvisited node */
    XB_RULE_PATH = 268435456,  /* the target's cookie is of the session's own context */
    XB_RULE_LOCK = 536870912,  /* non-sticky: a locked session is busy */
    XB_RULE_STALE = 1073741824,  /* a node that leaves both keys does not get the session */
    XB_RULE_HOLD = 2147483648,   /* to a target that was asked in vain nobody passes unproved */
    XB_RULE_BACK = 34359738368,  /* a home that is back waits for who was asked meanwhile */
    XB_RULE_LATE = 8589934592,   /* home and key gone: the key of the node asked last counts */
    XB_RULE_TWICE = 17179869184, /* who may be at it still is not asked again, nor others that
                                  * may hold a stale copy */
    XB_RULE_FOUND = 68719476736, /* a gate that was shut for something else is no rescue */
    XB_RULE_AGAIN = 137438953472, /* nor is a home that dies once a request was let through */
    XB_RULE_READY = 274877906944, /* a node must answer without a cookie first */
    XB_RULE_UNANSWERED = 1099511627776, /* who may be expiring a copy does not get it */
    XB_RULE_RATE = 2199023255552,       /* look-ups of unknown sessions are bounded */
    XB_RULE_ENDED = 4398046511104,      /* an ended session is nowhere */
    XB_RULE_UNTOUCHED = 8796093022208,  /* nothing voluntary touches a held session */
    XB_RULE_KEYLESS = 17592186044416,   /* a marker without a key is no session */
    XB_RULE_LOGIN = 35184372088832,     /* a login that stops a HEAD ends no session */
    XB_RULE_ASK = 4294967296            /* a marked node that the keys contradict is asked */
};

#ifndef XB_LEAVE_OUT
#define XB_LEAVE_OUT 0
#endif

#define XB_RULE(rule) (!((XB_LEAVE_OUT)&XB_RULE_##rule))

#endif
