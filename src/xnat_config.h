/* SPDX-License-Identifier: Apache-2.0 */
/* Directives: values as the administrator gave them and, per balancer, the values in force.
 * Written while the configuration is read, then only read; any thread. */
#ifndef XNAT_CONFIG_H
#define XNAT_CONFIG_H

#include "httpd.h"
#include "http_config.h"
#include "mod_proxy.h"

#include "xb_member.h"
#include "xb_msm.h"
#include "xb_policy.h"

/* Names of the directives: one spelling for table, sentences and status page. */
#define XNAT_NODES "XnatBalanceMemcachedNodes"
#define XNAT_PREFIX "XnatBalanceStorageKeyPrefix"
#define XNAT_STORE "XnatBalanceStore"
#define XNAT_MC_TIMEOUT "XnatBalanceMemcachedTimeout"
#define XNAT_SESSIONS "XnatBalanceSessions"
#define XNAT_MOVE "XnatBalanceMove"
#define XNAT_HALF_LIFE "XnatBalanceHalfLife"
#define XNAT_BUSY_HALF_LIFE "XnatBalanceBusyHalfLife"
#define XNAT_REQUEST_COST "XnatBalanceRequestCost"
#define XNAT_THRESHOLD "XnatBalanceMoveThreshold"
#define XNAT_RATE "XnatBalanceMoveRate"
#define XNAT_REST "XnatBalanceMoveRest"
#define XNAT_GRACE "XnatBalanceGrace"
#define XNAT_GATE_TIMEOUT "XnatBalanceGateTimeout"
#define XNAT_PROBE "XnatBalanceProbe"
#define XNAT_RELEASE "XnatBalanceRelease"
#define XNAT_RELEASE_AUTH "XnatBalanceReleaseAuth"

typedef enum {
    XNAT_MOVE_OFF,
    XNAT_MOVE_DRAIN,
    XNAT_MOVE_DRYRUN,
    XNAT_MOVE_ON
} xnat_move_mode_t;

/* Which of MSM's modes the Tomcats run. */
typedef enum { XNAT_STORE_STICKY, XNAT_STORE_NONSTICKY } xnat_store_mode_t;

/* One section's values; a bit of `set` says that it was given there. Times in microseconds. */
typedef struct {
    unsigned set;
    const xb_msm_nodes_t *nodes; /* NULL: no store, no moves */
    const char *nodes_text;
    const char *prefix;
    xnat_store_mode_t store;
    apr_interval_time_t mc_timeout;
    apr_int64_t sessions; /* server only */
    xnat_move_mode_t move;
    apr_interval_time_t half_life, busy_half_life;
    apr_int64_t request_cost; /* bytes */
    double threshold;
    double rate, burst; /* overload moves per second, and at once */
    apr_interval_time_t rest, grace, gate_timeout;
    const char *probe;   /* NULL: a path below the session cookie's */
    const char *release; /* path of the nodes' JMXProxyServlet; NULL: copies are left to age */
    const char *release_file, *release_auth; /* its user: where from; Authorization's value */
} xnat_conf_t;

/* In proxy_balancer.context of each balancer, in every process, for the life of the
 * configuration. */
typedef struct {
    proxy_balancer *balancer;
    proxy_server_conf *proxy; /* of `server` */
    server_rec *server;       /* the virtual host that uses it */
    xnat_conf_t conf;         /* in force here, defaults filled in */
    xb_decay_t decay;         /* the same, as the core wants it */
    xb_policy_t policy;
    unsigned record; /* index of its record in shared memory */
} xnat_balancer_t;

extern const command_rec xnat_config_directives[];

void *xnat_config_create_server(apr_pool_t *p, server_rec *s);
void *xnat_config_create_dir(apr_pool_t *p, char *dir);
void *xnat_config_merge(apr_pool_t *p, void *base, void *add);

/* check_config hook (xnat_check.c): what one directive alone cannot know. Warns, never refuses.
 */
int xnat_config_check(apr_pool_t *pconf, apr_pool_t *plog, apr_pool_t *ptemp, server_rec *s);
/* After mod_proxy_balancer's post_config: warns of a balancer of lbmethod=xnat that has another
 * method all the same. */
void xnat_config_check_in_force(server_rec *s);

/* The server-wide values, and those of one balancer; defaults filled in. */
xnat_conf_t xnat_config_server(server_rec *s);
xnat_conf_t xnat_config_in_force(server_rec *s, const proxy_server_conf *proxy,
                                 const proxy_balancer *b);
/* Is this <Proxy> section the balancer's own? mod_proxy keeps sections beside balancers. */
bool xnat_config_is_section_of(ap_conf_vector_t *section, const proxy_balancer *b);

/* Gives each balancer of each virtual host its xnat_balancer_t; once per process, before
 * threads. */
void xnat_config_attach(apr_pool_t *p, server_rec *s);

/* NULL for a balancer that is not ours now: balancer-manager may switch the method at any time.
 */
static inline xnat_balancer_t *xnat_balancer_of(const proxy_balancer *b)
{
    return memcmp(b->s->lbpname, "xnat", sizeof "xnat") ? NULL : (xnat_balancer_t *)b->context;
}

/* Calls fn for every attached balancer of every virtual host (also those with another method).
 */
void xnat_config_each(void (*fn)(xnat_balancer_t *b, void *ctx), void *ctx);

/* Does a node keep the sessions that it has served in its memory? Then another must take a
 * session over, alone, and a stale copy stays behind. If not, memcached alone has it, each node
 * loads it for each request, and its home is a preference. */
static inline bool xnat_keeps_copies(const xnat_balancer_t *xb)
{
    return xb->conf.store == XNAT_STORE_STICKY;
}

/* Does the module move sessions of its own accord, or is it only the balancer method? */
static inline bool xnat_moves(const xnat_balancer_t *xb)
{
    return xb->conf.nodes && xb->conf.move != XNAT_MOVE_OFF &&
           xb->conf.move != XNAT_MOVE_DRYRUN;
}

const char *xnat_move_mode_name(xnat_move_mode_t m);
const char *xnat_store_mode_name(xnat_store_mode_t m);

#endif
