/* SPDX-License-Identifier: Apache-2.0 */
/* Heartbeat of front ends. Key: xnat-balance:front:<hash of storage prefix and routes>, value:
 * a random number of the httpd that wrote it last. Front ends that beat at the same pace read
 * each other's in turn. */
#include "xnat_front.h"

#include <stdlib.h>

#include "apr_strings.h"

#include "mod_xnat_balance.h"
#include "xnat_fleet.h"
#include "xnat_log.h"
#include "xnat_move_store.h"

/* Life of a beat in the store, and how long the sight of a stranger bars voluntary moves. */
#define BEAT_TTL_S 5
#define BAR_US (10 * INT64_C(1000000))
#define TELL_AGAIN_US (600 * INT64_C(1000000))

static int by_text(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* The same for every httpd in front of these nodes, however it names them: the key of the hash
 * is no secret here. */
static void fleet_name(const xnat_balancer_t *xb, char out[17])
{
    static const xb_key_t open = {0, 0};
    xnat_fleet_t fleet;
    const char *route[XNAT_FLEET_MAX];
    xnat_fleet_snapshot((xnat_balancer_t *)xb, false, xnat_now_us(), &fleet);
    for (unsigned i = 0; i < fleet.n; i++) {
        route[i] = fleet.worker[i]->s->route;
    }
    qsort(route, fleet.n, sizeof *route, by_text);
    uint64_t hash =
        xb->conf.prefix ? xb_hash(&open, xb->conf.prefix, strlen(xb->conf.prefix)) : 0;
    for (unsigned i = 0; i < fleet.n; i++) {
        hash = hash * 31 + xb_hash(&open, route[i], strlen(route[i]));
    }
    apr_snprintf(out, 17, "%016" APR_UINT64_T_HEX_FMT, hash);
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
    char fleet[17], mine[17], seen[32];
    fleet_name(xb, fleet);
    apr_snprintf(mine, sizeof mine, "%016" APR_UINT64_T_HEX_FMT, xnat_shm->front);
    if (xnat_move_beat(hands, xb, fleet, mine, BEAT_TTL_S, seen, sizeof seen)) {
        int64_t now = xnat_now_us();
        int64_t last = __atomic_exchange_n((int64_t *)&rec->front_us, now, __ATOMIC_RELAXED);
        if (last && now - last < BAR_US) { /* once: the beat of this httpd before its restart */
            tell(xb, rec, now);
        }
    }
}

bool xnat_front_is_alone(const xnat_balancer_t *xb, int64_t now_us)
{
    int64_t seen =
        __atomic_load_n((int64_t *)&xnat_shm->balancer[xb->record].front_us, __ATOMIC_RELAXED);
    return !seen || now_us - seen > BAR_US;
}
