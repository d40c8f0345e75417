/* SPDX-License-Identifier: Apache-2.0 */
/* Names of memcacheds: which there are, and the thread that looks them up. */
#include "xnat_names.h"

#include "mod_xnat_balance.h"
#include "xnat_config.h"
#include "xnat_shm.h"

#define AGAIN_US 1000000
#define NAP_US 50000
#define FIRST_US 1000000

typedef struct list_t list_t;
struct list_t {
    xb_store_names_t names;
    list_t *next;
};

/* Written in child_init, then read by all threads; tried: by the names' own. */
static list_t *all;
static apr_uint32_t tried;

xb_store_names_t *xnat_names_of(const xb_msm_nodes_t *nodes)
{
    list_t *l = all;
    while (l && l->names.nodes != nodes) {
        l = l->next;
    }
    return l ? &l->names : NULL;
}

static bool has_names(const xb_store_names_t *names)
{
    bool any = false;
    for (unsigned i = 0; i < names->nodes->count; i++) {
        any = any || names->node[i].wanted;
    }
    return any;
}

static void note(xnat_balancer_t *xb, void *pool)
{
    if (!xb->conf.nodes || xnat_names_of(xb->conf.nodes)) {
        return;
    }
    list_t *l = apr_palloc(pool, sizeof *l);
    xb_store_names_init(&l->names, xb->conf.nodes);
    if (has_names(&l->names)) {
        l->next = all;
        all = l;
    }
}

void xnat_names_child_init(apr_pool_t *pool)
{
    all = NULL;
    xnat_config_each(note, pool);
}

bool xnat_names_any(void)
{
    return all != NULL;
}

void xnat_names_run(const volatile apr_uint32_t *stop)
{
    int64_t next = 0;
    while (!*stop) {
        if (xnat_now_us() >= next) {
            for (list_t *l = all; l && !*stop; l = l->next) {
                xb_store_names_find(&l->names);
            }
            apr_atomic_set32(&tried, 1);
            next = xnat_now_us() + AGAIN_US;
        }
        apr_sleep(NAP_US);
    }
}

void xnat_names_wait(void)
{
    int64_t end = xnat_now_us() + FIRST_US;
    while (all && !apr_atomic_read32(&tried) && xnat_now_us() < end) {
        apr_sleep(NAP_US / 10);
    }
}
