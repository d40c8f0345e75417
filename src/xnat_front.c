/* SPDX-License-Identifier: Apache-2.0 */
/* Heartbeat of front ends. Key: xnat-balance:front:<hash of storage prefix and route>, one for
 * each node, so that front ends see each other that have any node in common; value: a random
 * number of the httpd that wrote it last. Front ends that beat at the same pace read each
 * other's in turn. */
#include "xnat_front.h"

#include "apr_strings.h"

#include "mod_xnat_balance.h"
#include "xb_rule.h"
#include "xnat_fleet.h"
#include "xnat_log.h"
#include "xnat_move_store.h"

#define SECOND_US INT64_C(1000000)
/* Life of a beat in the store: who is started later learns that there may be sessions which it
 * does not know. */
#define BEAT_TTL_S 86400
/* How long the sight of a stranger bars voluntary moves. */
#define BAR_US (10 * SECOND_US)
/* Nodes in one beat; it takes TURNS for the turn of each of the largest fleet to come. */
#define NODES_AT_ONCE 32
#define TURNS 4
/* By then this httpd has written over what it wrote before its restart. */
#define OWN_OLD_US ((TURNS + 3) * SECOND_US)
#define TELL_AGAIN_US (600 * SECOND_US)

_Static_assert(XNAT_FLEET_MAX <= NODES_AT_ONCE * TURNS && TURNS * SECOND_US * 2 < BAR_US, "");

/* The same for every httpd in front of this node, whatever others it has: the key of the hash
 * is no secret here. */
static void name_of(const xnat_balancer_t *xb, const char *route, char out[17])
{
    static const xb_key_t open = {0, 0};
    const char *prefix = xb->conf.prefix;
    uint64_t hash = prefix ? xb_hash(&open, prefix, strlen(prefix)) : 0;
    apr_snprintf(out, 17, "%016" APR_UINT64_T_HEX_FMT,
                 hash * 31 + xb_hash(&open, route, strlen(route)));
}

static void tell(const xnat_balancer_t *xb, xnat_shm_balancer_t *rec, int64_t now)
{
    int64_t told = __atomic_load_n((int64_t *)&rec->front_told_us, __ATOMIC_RELAXED);
    if ((!told || now - told > TELL_AGAIN_US) &&
        __atomic_compare_exchange_n((int64_t *)&rec->front_told_us, &told, now, 0,
                                    __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
        xnat_log_server(
            APLOG_WARNING, 0, xb->server, XB(0321),
            "%s: another httpd balances the same nodes; its requests are not known "
            "here, so sessions move only when a node fails (told once in ten minutes)",
            xb->balancer->s->name);
    }
}

void xnat_front_beat(xnat_hands_t *hands, const xnat_balancer_t *xb)
{
    xnat_shm_balancer_t *rec = &xnat_shm->balancer[xb->record];
    char name[17], mine[17], seen[32];
    xnat_fleet_t fleet;
    bool other = false;
    int64_t now = xnat_now_us();
    xnat_fleet_snapshot((xnat_balancer_t *)xb, false, now, &fleet);
    apr_snprintf(mine, sizeof mine, "%016" APR_UINT64_T_HEX_FMT, xnat_shm->front);
    unsigned first = fleet.n ? (unsigned)(now / SECOND_US * NODES_AT_ONCE % fleet.n) : 0;
    for (unsigned n = 0; n < fleet.n && n < NODES_AT_ONCE; n++) {
        unsigned i = (first + n) % fleet.n;
        const char *route = fleet.worker[i]->s->route;
        name_of(xb, route, name);
        if (*route && xnat_move_beat(hands, xb, name, mine, BEAT_TTL_S, seen, sizeof seen)) {
            __atomic_store_n((int64_t *)&xnat_shm->strangers_us[fleet.member[i]], now,
                             __ATOMIC_RELAXED);
            other = true;
        }
    }
    if (other) {
        int64_t last = __atomic_exchange_n((int64_t *)&rec->front_us, now, __ATOMIC_RELAXED);
        if (last && now - last < BAR_US && now - xnat_shm->started_us > OWN_OLD_US &&
            xb->conf.move != XNAT_MOVE_OFF) {
            tell(xb, rec, now);
        }
    }
}

bool xnat_front_is_alone(const xnat_balancer_t *xb, int64_t now_us)
{
    int64_t seen =
        __atomic_load_n((int64_t *)&xnat_shm->balancer[xb->record].front_us, __ATOMIC_RELAXED);
    return !seen || now_us - seen > BAR_US || !XB_RULE(FRONT);
}
