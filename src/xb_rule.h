/* SPDX-License-Identifier: Apache-2.0 */
/* Rules of the move protocol that a control build can leave out, to show by measurement that
 * each is needed (t/7xx control runs): -DXB_LEAVE_OUT=<sum of bits>. The shipped module leaves
 * out none; the tests are constant and cost nothing. */
#ifndef XB_RULE_H
#define XB_RULE_H

enum {
    XB_RULE_FLUSH = 1,   /* a HEAD to the home before the takeover */
    XB_RULE_GATE = 2,    /* requests wait while their session is moved */
    XB_RULE_FLIP = 4,    /* the keys must prove the takeover */
    XB_RULE_VISITED = 8, /* never to a node that may hold a stale copy */
    XB_RULE_FENCE = 32, /* answers of a home that was given up are not relayed */
    XB_RULE_MARK = 64,  /* unknown sessions: the moved marker says where they live */
    XB_RULE_ANYKEY = 128, /* home and key gone: any key of the session will do */
    XB_RULE_GENERATION = 256, /* one HEAD first where a home has restarted */
    XB_RULE_QUIET = 16   /* only sessions without requests in flight */
};

#ifndef XB_LEAVE_OUT
#define XB_LEAVE_OUT 0
#endif

#define XB_RULE(rule) (!((XB_LEAVE_OUT)&XB_RULE_##rule))

#endif
