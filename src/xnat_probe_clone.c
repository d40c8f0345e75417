/* SPDX-License-Identifier: Apache-2.0 */
/* Private copies of members for probes, found again by balancer and member. */
#include "xnat_probe_clone.h"

#include <string.h>

#include "apr_hash.h"
#include "apr_strings.h"

struct xnat_clones_t {
    apr_pool_t *pool;
    apr_hash_t *by_key;
};

typedef struct {
    apr_pool_t *pool;             /* owns this, the clone and its connection */
    proxy_worker_shared settings; /* of the real member when the clone was made */
    proxy_worker *worker;
} clone_t;

xnat_clones_t *xnat_clones_create(apr_pool_t *pool)
{
    xnat_clones_t *clones = apr_pcalloc(pool, sizeof(*clones));
    clones->pool = pool;
    clones->by_key = apr_hash_make(pool);
    return clones;
}

/* A node that is asked in HTTP/2 or for a WebSocket answers a plain HEAD at the same port. */
static const char *plain_scheme(const char *scheme)
{
    static const char *const plain[][2] = {
        {"h2c", "http"}, {"h2", "https"}, {"ws", "http"}, {"wss", "https"}};
    for (unsigned i = 0; i < sizeof(plain) / sizeof(plain[0]); i++) {
        if (strcmp(scheme, plain[i][0]) == 0) {
            return plain[i][1];
        }
    }
    return scheme;
}

/* What makes a clone: the real settings without what changes while the member works. */
static void copy_settings(proxy_worker_shared *s, const proxy_worker *real)
{
    memcpy(s, real->s, sizeof(*s));
    apr_cpystrn(s->scheme, plain_scheme(real->s->scheme), sizeof(s->scheme));
    s->status = PROXY_WORKER_IGNORE_ERRORS; /* a failed probe must not close it to the next */
    s->index = -1;
    s->was_malloced = 0;
    s->lbstatus = s->lbfactor = s->lbset = s->retries = s->pcount = s->fcount = 0;
    s->updated = s->error_time = 0;
    s->elected = s->busy = 0;
    s->transferred = s->read = 0;
    s->context = NULL;
    s->address_expiry = 0;
    /* One connection, kept: probes that must not keep it say so in the request. */
    s->min = 0;
    s->smax = s->hmax = 1;
    s->disablereuse = 0;
    s->is_address_reusable = 1;
    s->address_ttl = -1;
    s->address_ttl_set = 1;
    s->timeout_set = s->conn_timeout_set = 1;
    s->ping_timeout_set = 0;
}

static clone_t *make(xnat_clones_t *clones, const xnat_probe_request_t *req,
                     const proxy_worker_shared *settings)
{
    apr_pool_t *pool;
    apr_pool_create(&pool, clones->pool);
    clone_t *clone = apr_pcalloc(pool, sizeof(*clone));
    clone->pool = pool;
    clone->settings = *settings;
    /* Defined by mod_proxy, because only that knows how large its own structures are. */
    if (ap_proxy_define_worker(pool, &clone->worker, NULL, NULL,
                               ap_proxy_worker_name(pool, req->worker), 0)) {
        apr_pool_destroy(pool);
        return NULL;
    }
    memcpy(clone->worker->s, settings, sizeof(*settings));
    clone->worker->section_config = req->worker->section_config;
    if (ap_proxy_initialize_worker(clone->worker, req->server, pool) != APR_SUCCESS) {
        apr_pool_destroy(pool);
        return NULL;
    }
    clone->worker->s->hmax = 0; /* from now on: a single connection, cp->conn */
    return clone;
}

#define KEY_BYTES (PROXY_BALANCER_MAX_NAME_SIZE + 32)

static void make_key(char *key, const xnat_probe_request_t *req)
{
    apr_snprintf(key, KEY_BYTES, "%s %x %x", req->balancer->s->sname, req->worker->hash.def,
                 req->worker->hash.fnv);
}

static void drop(xnat_clones_t *clones, const char *key, clone_t *clone)
{
    apr_hash_set(clones->by_key, key, APR_HASH_KEY_STRING, NULL);
    apr_pool_destroy(clone->pool);
}

proxy_worker *xnat_clones_get(xnat_clones_t *clones, const xnat_probe_request_t *req)
{
    proxy_worker_shared settings;
    char key[KEY_BYTES];
    copy_settings(&settings, req->worker);
    make_key(key, req);
    clone_t *clone = apr_hash_get(clones->by_key, key, APR_HASH_KEY_STRING);
    if (clone && memcmp(&clone->settings, &settings, sizeof(settings)) != 0) {
        drop(clones, key, clone);
        clone = NULL;
    }
    if (!clone) {
        clone = make(clones, req, &settings);
        if (!clone) {
            return NULL;
        }
        apr_hash_set(clones->by_key, apr_pstrdup(clone->pool, key), APR_HASH_KEY_STRING, clone);
    }
    return clone->worker;
}

void xnat_clones_forget(xnat_clones_t *clones, const xnat_probe_request_t *req)
{
    char key[KEY_BYTES];
    make_key(key, req);
    clone_t *clone = apr_hash_get(clones->by_key, key, APR_HASH_KEY_STRING);
    if (clone) {
        drop(clones, key, clone);
    }
}

void xnat_clones_set_budget(proxy_worker *clone, const proxy_worker *real,
                            apr_interval_time_t budget)
{
    bool shorter = real->s->conn_timeout_set && real->s->conn_timeout < budget;
    clone->s->timeout = budget;
    clone->s->conn_timeout = shorter ? real->s->conn_timeout : budget;
}

char *xnat_clones_url(apr_pool_t *pool, const proxy_worker *clone, const char *path)
{
    const char *host = strstr(clone->s->name_ex, "://");
    host = host ? host + 3 : clone->s->name_ex;
    return apr_pstrcat(pool, clone->s->scheme, "://",
                       apr_pstrmemdup(pool, host, strcspn(host, "/")), path, NULL);
}

bool xnat_clones_reusable(const proxy_worker *real)
{
    return !real->s->disablereuse && real->s->is_address_reusable;
}
