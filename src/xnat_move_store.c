/* SPDX-License-Identifier: Apache-2.0 */
/* A move's questions to memcached. Nothing that comes back is trusted: see xb_msm and xb_store.
 */
#include "xnat_move_store.h"

#include "mod_xnat_balance.h"
#include "xb_rule.h"
#include "xnat_names.h"

/* A session that dies within this time is not worth a move, and might die during it. */
#define MARGIN_S 10

static xb_store_t *store_of(xnat_hands_t *hands, const xnat_balancer_t *xb)
{
    for (unsigned i = 0; i < hands->stores; i++) {
        if (hands->store[i].nodes == xb->conf.nodes) {
            return &hands->store[i];
        }
    }
    if (hands->stores == XNAT_MOVE_STORES) { /* more node lists than places: the first goes */
        xb_store_close(&hands->store[0]);
        hands->store[0] = hands->store[--hands->stores];
    }
    xb_store_t *st = &hands->store[hands->stores++];
    xb_store_init(st, xb->conf.nodes, xnat_names_of(xb->conf.nodes));
    return st;
}

/* The configured time, or what is left until the gate in hand has to open. */
static int64_t budget(const xnat_hands_t *hands, const xnat_balancer_t *xb)
{
    int64_t rest =
        hands->deadline_us ? hands->deadline_us - xnat_now_us() : xb->conf.mc_timeout;
    return rest > xb->conf.mc_timeout ? xb->conf.mc_timeout : rest > 1000 ? rest : 1000;
}

static xnat_shm_store_t *health_of(const xnat_balancer_t *xb, unsigned node)
{
    const xb_msm_node_t *n = &xb->conf.nodes->node[node];
    return &xnat_shm->store[xnat_shm_store(n->host, n->port)];
}

static bool allowed(const xnat_hands_t *hands, const xnat_balancer_t *xb, unsigned node)
{
    xb_breaker_t *b = &health_of(xb, node)->breaker;
    return xb_breaker_allow(b, xnat_now_us()) || (hands->insist && xb_breaker_is_young(b));
}

/* Reports a call to the node's breaker and counters. True: memcached has answered. */
static bool answered(const xnat_balancer_t *xb, unsigned node, xb_store_rc_t rc)
{
    xnat_shm_store_t *health = health_of(xb, node);
    bool ok = rc == XB_STORE_FOUND || rc == XB_STORE_ABSENT || rc == XB_STORE_BADKEY;
    xb_breaker_result(&health->breaker, ok, xnat_now_us());
    xnat_count(&health->calls);
    if (!ok) {
        xnat_count(&health->failures);
    }
    return ok;
}

bool xnat_move_store_up(xnat_hands_t *hands, const xnat_balancer_t *xb)
{
    static const char *const key[] = {"xnat-balance:ping"};
    xb_store_t *st = store_of(hands, xb);
    bool up = true;
    for (unsigned i = 0; i < xb->conf.nodes->count; i++) {
        uint32_t mask;
        if (!xb_breaker_is_closed(&health_of(xb, i)->breaker)) {
            up = allowed(hands, xb, i) &&
                 answered(xb, i, xb_store_which(st, i, key, 1, &mask, budget(hands, xb))) && up;
        }
    }
    return up;
}

static xb_refusal_t down(xb_store_rc_t rc)
{
    return rc == XB_STORE_LATE ? XB_NO_STORE_LATE : XB_NO_STORE;
}

bool xnat_move_store_may_recover(const xnat_balancer_t *xb, const xb_id_t *id)
{
    int node = xb_msm_node_of(xb->conf.nodes, id);
    return node >= 0 && xb_breaker_is_young(&health_of(xb, (unsigned)node)->breaker);
}

/* On every memcached, since the program that writes the pin need not know MSM's distribution.
 */
static xb_refusal_t check_pin(xnat_hands_t *hands, const xnat_balancer_t *xb, const xb_id_t *id)
{
    char text[XB_MSM_KEY_MAX + 1];
    const char *key = text;
    if (!xb_msm_marker_key(text, "pin", id->base)) {
        return XB_NO_MARKER_BAD;
    }
    for (unsigned i = 0; i < xb->conf.nodes->count; i++) {
        uint32_t mask = 0;
        if (!allowed(hands, xb, i)) {
            return XB_NO_STORE;
        }
        xb_store_rc_t rc =
            xb_store_which(store_of(hands, xb), i, &key, 1, &mask, budget(hands, xb));
        if (!answered(xb, i, rc)) {
            return down(rc);
        }
        if (mask) {
            return XB_NO_PINNED;
        }
    }
    return XB_REFUSALS;
}

static xb_refusal_t judge(xb_msm_verdict_t verdict)
{
    static const xb_refusal_t refusal[] = {
        [XB_MSM_GOOD] = XB_REFUSALS,
        [XB_MSM_SHORT] = XB_NO_MARKER_BAD,
        [XB_MSM_VERSION] = XB_NO_MARKER_BAD,
        [XB_MSM_OTHERID] = XB_NO_MARKER_OTHER,
        [XB_MSM_INVALID] = XB_NO_MARKER_INVALID,
        [XB_MSM_EXPIRING] = XB_NO_MARKER_EXPIRING,
    };
    return XB_RULE(KEYS) ? refusal[verdict] : XB_REFUSALS;
}

/* The start of the value under `kind` of this session. XB_NO_MARKER: there is none. */
static xb_refusal_t read_key(xnat_hands_t *hands, const xnat_balancer_t *xb, const xb_id_t *id,
                             const char *kind, uint8_t value[XB_MSM_HEAD_SIZE], size_t *got,
                             size_t *total)
{
    static const char broken[] = XB_MSM_NOT_SERIALIZABLE;
    bool is_broken;
    char key[XB_MSM_KEY_MAX + 1];
    int node = xb_msm_node_of(xb->conf.nodes, id);
    if (node < 0) {
        return XB_NO_STORE_NODE;
    }
    if (!xb_msm_key(key, kind, xb->conf.prefix, id->whole)) {
        return XB_NO_MARKER_BAD;
    }
    if (!allowed(hands, xb, (unsigned)node)) {
        return XB_NO_STORE;
    }
    xb_store_rc_t rc = xb_store_search(
        store_of(hands, xb), (unsigned)node, key, value, XB_MSM_HEAD_SIZE, got, total,
        (xb_span_t){broken, sizeof broken - 1}, &is_broken, budget(hands, xb));
    if (!answered(xb, (unsigned)node, rc)) {
        return down(rc);
    }
    return rc != XB_STORE_FOUND         ? XB_NO_MARKER
           : is_broken && XB_RULE(KEYS) ? XB_NO_MARKER_BROKEN
                                        : XB_REFUSALS;
}

/* Non-sticky mode, when the session itself is `stored`. MSM's lock is that of a request under
 * way, which another front end may have sent. Without a validity the session has expired, as
 * its own times then say too, or the Tomcats run in sticky mode. */
static xb_refusal_t check_nonsticky(xnat_hands_t *hands, const xnat_balancer_t *xb,
                                    const xb_id_t *id, xb_refusal_t stored, xb_msm_head_t *head)
{
    uint8_t value[XB_MSM_HEAD_SIZE];
    size_t got, total;
    if (stored != XB_REFUSALS && stored != XB_NO_MARKER_EXPIRING) {
        return stored;
    }
    xb_refusal_t why = read_key(hands, xb, id, "lock:", value, &got, &total);
    if (why != XB_NO_MARKER && XB_RULE(LOCK)) {
        return why == XB_REFUSALS ? XB_NO_LOCK : why;
    }
    why = read_key(hands, xb, id, "validity:", value, &got, &total);
    if (why == XB_NO_MARKER) {
        return stored == XB_REFUSALS ? XB_NO_VALIDITY : XB_NO_MARKER;
    }
    return why == XB_REFUSALS ? judge(xb_msm_validity_check(value, total, apr_time_now() / 1000,
                                                            MARGIN_S, head))
                              : why;
}

xb_refusal_t xnat_move_check(xnat_hands_t *hands, const xnat_balancer_t *xb, const xb_id_t *id,
                             xb_msm_head_t *head, size_t *total)
{
    uint8_t value[XB_MSM_HEAD_SIZE];
    size_t got = 0;
    if (xb_msm_node_of(xb->conf.nodes, id) < 0) {
        return XB_NO_STORE_NODE;
    }
    xb_refusal_t why = check_pin(hands, xb, id);
    why = why == XB_REFUSALS ? read_key(hands, xb, id, "", value, &got, total) : why;
    if (why == XB_REFUSALS) {
        why = judge(
            xb_msm_value_check(value, got, id->whole, apr_time_now() / 1000, MARGIN_S, head));
    }
    return xnat_keeps_copies(xb) ? why : check_nonsticky(hands, xb, id, why, head);
}

bool xnat_move_header(xnat_hands_t *hands, const xnat_balancer_t *xb, const xb_id_t *id,
                      xb_msm_head_t *head)
{
    uint8_t value[XB_MSM_HEAD_SIZE];
    size_t got = 0, total = 0;
    xb_msm_verdict_t verdict = XB_MSM_SHORT;
    if (read_key(hands, xb, id, "", value, &got, &total) == XB_REFUSALS) {
        verdict =
            xb_msm_value_check(value, got, id->whole, apr_time_now() / 1000, MARGIN_S, head);
    }
    return verdict == XB_MSM_GOOD || verdict == XB_MSM_EXPIRING;
}

bool xnat_move_mark(xnat_hands_t *hands, const xnat_balancer_t *xb, const xb_id_t *id,
                    const char *route, uint32_t ttl_s)
{
    char key[XB_MSM_KEY_MAX + 1];
    bool written = false;
    if (!xb_msm_marker_key(key, "moved", id->base)) {
        return false;
    }
    for (unsigned i = 0; i < xb->conf.nodes->count; i++) {
        if (allowed(hands, xb, i)) {
            xb_store_rc_t rc =
                xb_store_set(store_of(hands, xb), i, key, route, ttl_s, budget(hands, xb));
            written = (answered(xb, i, rc) && rc == XB_STORE_FOUND) || written;
        }
    }
    return written;
}

/* 1 there, 0 not, -1 nobody knows. */
static int has_key(xnat_hands_t *hands, const xnat_balancer_t *xb, const xb_id_t *id)
{
    char text[XB_MSM_KEY_MAX + 1];
    const char *key = text;
    uint32_t mask = 0;
    int node = xb_msm_node_of(xb->conf.nodes, id);
    if (node < 0 || !xb_msm_key(text, "", xb->conf.prefix, id->whole) ||
        !allowed(hands, xb, (unsigned)node)) {
        return -1;
    }
    xb_store_rc_t rc =
        xb_store_which(store_of(hands, xb), (unsigned)node, &key, 1, &mask, budget(hands, xb));
    return answered(xb, (unsigned)node, rc) ? mask != 0 : -1;
}

xnat_keys_t xnat_move_keys(xnat_hands_t *hands, const xnat_balancer_t *xb, const xb_id_t *old,
                           const xb_id_t *fresh)
{
    int was = has_key(hands, xb, old), is = has_key(hands, xb, fresh);
    if (was < 0 || is < 0) {
        return XNAT_KEYS_UNKNOWN;
    }
    return was ? (is ? XNAT_KEYS_BOTH : XNAT_KEYS_OLD) : is ? XNAT_KEYS_NEW : XNAT_KEYS_NONE;
}

bool xnat_move_marked(xnat_hands_t *hands, const xnat_balancer_t *xb, const xb_id_t *id,
                      char out[PROXY_WORKER_MAX_ROUTE_SIZE], bool *known, bool *agreed)
{
    char key[XB_MSM_KEY_MAX + 1], text[PROXY_WORKER_MAX_ROUTE_SIZE];
    size_t got, total;
    bool found = false;
    *agreed = true;
    *known = xb_msm_marker_key(key, "moved", id->base) != 0;
    if (!*known) {
        return false;
    }
    for (unsigned i = 0; i < xb->conf.nodes->count; i++) {
        if (!allowed(hands, xb, i)) {
            *known = false;
            continue;
        }
        xb_store_rc_t rc = xb_store_get(store_of(hands, xb), i, key, text, sizeof text - 1,
                                        &got, &total, budget(hands, xb));
        *known = answered(xb, i, rc) && *known;
        if (rc == XB_STORE_FOUND && total == got) {
            text[got] = '\0';
            *agreed = *agreed && (!found || !strcmp(out, text));
            if (!found) {
                memcpy(out, text, sizeof text);
            }
            found = true;
        }
    }
    return found;
}

bool xnat_move_which(xnat_hands_t *hands, const xnat_balancer_t *xb, const xb_id_t *id,
                     const char *const *ids, unsigned n, uint32_t *mask)
{
    char text[XB_STORE_KEYS_MAX][XB_MSM_KEY_MAX + 1];
    const char *key[XB_STORE_KEYS_MAX];
    int node = xb_msm_node_of(xb->conf.nodes, id);
    *mask = 0;
    if (node < 0 || n > XB_STORE_KEYS_MAX || !allowed(hands, xb, (unsigned)node)) {
        return false;
    }
    for (unsigned i = 0; i < n; i++) {
        key[i] = text[i];
        if (!xb_msm_key(text[i], "", xb->conf.prefix, (xb_span_t){ids[i], strlen(ids[i])})) {
            return false;
        }
    }
    return answered(
        xb, (unsigned)node,
        xb_store_which(store_of(hands, xb), (unsigned)node, key, n, mask, budget(hands, xb)));
}

bool xnat_move_beat(xnat_hands_t *hands, const xnat_balancer_t *xb, const char *fleet,
                    const char *mine, uint32_t ttl_s, char *seen, size_t size)
{
    char key[XB_MSM_KEY_MAX + 1];
    bool other = false;
    if (!xb_msm_marker_key(key, "front", (xb_span_t){fleet, strlen(fleet)})) {
        return false;
    }
    for (unsigned i = 0; i < xb->conf.nodes->count; i++) {
        xb_store_t *st = store_of(hands, xb);
        size_t got = 0, total = 0;
        if (!allowed(hands, xb, i)) {
            continue;
        }
        xb_store_rc_t rc =
            xb_store_get(st, i, key, seen, size - 1, &got, &total, budget(hands, xb));
        if (!answered(xb, i, rc)) {
            continue;
        }
        seen[rc == XB_STORE_FOUND ? got : 0] = '\0';
        other = (*seen && strcmp(seen, mine)) || other;
        if (allowed(hands, xb, i)) {
            answered(xb, i, xb_store_set(st, i, key, mine, ttl_s, budget(hands, xb)));
        }
    }
    return other;
}
