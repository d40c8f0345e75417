/* SPDX-License-Identifier: Apache-2.0 */
/* The shared-memory segment: making it, finding it again after a graceful restart, its records.
 */
#include "xnat_shm.h"

#include <errno.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

#include "apr_shm.h"
#include "apr_strings.h"
#include "ap_mpm.h"
#include "mod_proxy.h"

#include "mod_xnat_balance.h"
#include "xnat_config.h"
#include "xnat_log.h"

#include <sys/mman.h>

#define MAGIC 0x584e415442414c31ull /* "XNATBAL1" */
/* Grows with every change of what lies in the segment. */
#ifndef XNAT_LAYOUT
#define XNAT_LAYOUT 9u
#endif
#define USERDATA "mod_xnat_balance segment"

xnat_shm_t *xnat_shm;
xb_members_t *xnat_members;
xb_table_t *xnat_table;
int xnat_child = -1;

int64_t xnat_now_us(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
}

static apr_size_t aligned(apr_size_t n)
{
    return (n + 63) & ~(apr_size_t)63;
}

/* Rows for two generations of children, since an old one may drain for hours; claims for the
 * requests that one child can have, HTTP/2 streams run on threads of their own beside the
 * MPM's. */
static xb_table_dim_t dimensions(server_rec *s)
{
    int servers = 1, threads = 1;
    ap_mpm_query(AP_MPMQ_HARD_LIMIT_DAEMONS, &servers);
    ap_mpm_query(AP_MPMQ_HARD_LIMIT_THREADS, &threads);
    unsigned children = 2u * (unsigned)servers + 8;
    children = children < XNAT_CHILDREN_MAX ? children : XNAT_CHILDREN_MAX;
    xb_table_dim_t dim = {.sessions = (uint32_t)xnat_config_server(s).sessions,
                          .children = children,
                          .claims = (uint32_t)(threads > 0 ? threads * 4 + 64 : 128)};
    return dim;
}

static void locate(xnat_shm_t *root)
{
    xnat_shm = root;
    xnat_members = (xb_members_t *)((char *)root + root->members_at);
    xnat_table = (xb_table_t *)((char *)root + root->table_at);
}

static xnat_shm_t *make_segment(apr_pool_t *process, server_rec *s)
{
    xb_table_dim_t dim = dimensions(s);
    apr_size_t members_at = aligned(sizeof(xnat_shm_t));
    apr_size_t table_at = aligned(members_at + xb_members_size(dim.children));
    apr_size_t table_size = xb_table_size(&dim);
    apr_shm_t *handle;
    apr_status_t rv = apr_shm_create(&handle, table_at + table_size + 64, NULL, process);
    if (rv != APR_SUCCESS || table_size == 0) {
        xnat_log_server(APLOG_EMERG, rv, s, XB(0101),
                        "no shared memory of %" APR_SIZE_T_FMT
                        " bytes for %u sessions: lower " XNAT_SESSIONS,
                        table_at + table_size, dim.sessions);
        return NULL;
    }
    char *base = (char *)aligned((apr_size_t)apr_shm_baseaddr_get(handle));
    /* Ids and the key must not end up in a core dump. */
    apr_size_t page = (apr_size_t)getpagesize();
    char *first = (char *)((apr_size_t)apr_shm_baseaddr_get(handle) & ~(page - 1));
    madvise(first, (apr_size_t)(base - first) + table_at + table_size, MADV_DONTDUMP);

    xnat_shm_t *root = (xnat_shm_t *)base;
    root->magic = MAGIC;
    root->version = XNAT_LAYOUT;
    root->size = table_at + table_size;
    root->dim = dim;
    root->members_at = members_at;
    root->table_at = table_at;
    root->started_us = xnat_now_us();
    rv = sem_init(&root->wake, 1, 0) ? errno : APR_SUCCESS;
    if (rv == APR_SUCCESS) {
        rv = apr_generate_random_bytes((unsigned char *)&root->key, sizeof root->key);
    }
    if (rv == APR_SUCCESS) {
        rv = apr_generate_random_bytes((unsigned char *)&root->front, sizeof root->front);
    }
    xb_members_init((xb_members_t *)(base + members_at), dim.children);
    if (rv != APR_SUCCESS || !xb_table_init(base + table_at, &dim)) {
        xnat_log_server(APLOG_EMERG, rv, s, XB(0102), "the session table could not be set up");
        return NULL;
    }
    apr_pool_userdata_set(root, USERDATA, apr_pool_cleanup_null, process);
    return root;
}

int xnat_shm_post_config(apr_pool_t *pconf, server_rec *s)
{
    void *found = NULL;
    (void)pconf;
    if (ap_state_query(AP_SQ_MAIN_STATE) == AP_SQ_MS_CREATE_PRE_CONFIG) {
        return OK; /* runs in another process than the children's parent */
    }
    apr_pool_userdata_get(&found, USERDATA, s->process->pool);
    xnat_shm_t *root = found ? found : make_segment(s->process->pool, s);
    if (!root) {
        return HTTP_INTERNAL_SERVER_ERROR;
    }
    if (found) {
        xb_table_dim_t now = dimensions(s);
        if (root->magic != MAGIC || root->version != XNAT_LAYOUT ||
            root->members_at != aligned(sizeof(xnat_shm_t))) {
            xnat_log_server(
                APLOG_CRIT, 0, s, XB(0103),
                "another version of the module left its shared memory here: stop "
                "and start httpd. Until then new sessions are elected by the number "
                "of requests, and nothing moves");
            return OK; /* xnat_shm stays NULL: every hook declines */
        }
        if (now.sessions != root->dim.sessions) {
            xnat_log_server(APLOG_WARNING, 0, s, XB(0104),
                            XNAT_SESSIONS " stays at %u until httpd is stopped and started",
                            root->dim.sessions);
        }
    }
    root->generation++;
    locate(root);
    return OK;
}

/* What the last child of this row had under way is over. */
static void clear_child(uint32_t row)
{
    xb_members_clear_child(xnat_members, row);
    __atomic_store_n((uint32_t *)&xnat_shm->waiting[row], 0, __ATOMIC_RELAXED);
    __atomic_store_n((uint32_t *)&xnat_shm->moving[row], 0, __ATOMIC_RELAXED);
}

static uint32_t sum_of(const _Atomic uint32_t *rows)
{
    uint32_t sum = 0;
    for (uint32_t row = 0; row < xnat_shm->dim.children; row++) {
        sum += __atomic_load_n((const uint32_t *)&rows[row], __ATOMIC_RELAXED);
    }
    return sum;
}

uint32_t xnat_shm_waiting(void)
{
    return sum_of(xnat_shm->waiting);
}

uint32_t xnat_shm_moving(void)
{
    return sum_of(xnat_shm->moving);
}

static apr_status_t child_leaves(void *unused)
{
    (void)unused;
    if (xnat_child >= 0) {
        xb_table_child_close(xnat_table, (unsigned)xnat_child);
        xnat_child = -1;
    }
    return APR_SUCCESS;
}

void xnat_shm_child_init(apr_pool_t *pchild, server_rec *s)
{
    xnat_child = xb_table_child_open(xnat_table, (int32_t)getpid());
    if (xnat_child < 0) {
        xnat_log_server(
            APLOG_ERR, 0, s, XB(0105),
            "more children than rows in shared memory: this child's sessions cannot "
            "move; stop and start httpd");
        return;
    }
    clear_child((uint32_t)xnat_child);
    apr_pool_cleanup_register(pchild, NULL, child_leaves, apr_pool_cleanup_null);
}

void xnat_shm_child_exited(pid_t pid)
{
    if (!xnat_shm) {
        return;
    }
    int row = xb_table_child_dead(xnat_table, (int32_t)pid);
    if (row >= 0) {
        clear_child((uint32_t)row);
    }
}

unsigned xnat_shm_balancer(const char *sname)
{
    uint64_t key = xb_hash(&xnat_shm->key, sname, strlen(sname)) | 1;
    for (unsigned i = 0; i < XNAT_BALANCERS_MAX - 1; i++) {
        uint64_t seen = 0;
        if (__atomic_compare_exchange_n((uint64_t *)&xnat_shm->balancer[i].key, &seen, key, 0,
                                        __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE) ||
            seen == key) {
            return i;
        }
    }
    return XNAT_BALANCERS_MAX - 1;
}

unsigned xnat_shm_store(const char *host, unsigned port)
{
    char text[320];
    int n = apr_snprintf(text, sizeof text, "%s:%u", host, port);
    uint64_t key = xb_hash(&xnat_shm->key, text, (size_t)n) | 1;
    for (unsigned i = 0; i < XNAT_STORES_MAX - 1; i++) {
        uint64_t seen = 0;
        if (__atomic_compare_exchange_n((uint64_t *)&xnat_shm->store[i].key, &seen, key, 0,
                                        __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE) ||
            seen == key) {
            return i;
        }
    }
    return XNAT_STORES_MAX - 1;
}

/* Paths are learned from nodes' answers and go into a request line later: only plain ones. */
static bool is_plain_path(xb_span_t path)
{
    if (path.n == 0 || path.n >= XNAT_PATH_SIZE || path.p[0] != '/') {
        return false;
    }
    for (size_t i = 0; i < path.n; i++) {
        if (!apr_isalnum(path.p[i]) && !strchr("/-_.~", path.p[i])) {
            return false;
        }
    }
    return true;
}

/* Two children that learn one path at once may keep it twice; a child killed while it writes
 * leaves a slot unused. Neither matters. */
unsigned xnat_shm_path(xb_span_t path)
{
    if (!is_plain_path(path)) {
        return XNAT_PATH_UNKNOWN;
    }
    for (unsigned i = 0; i < XNAT_PATHS_MAX; i++) {
        xnat_shm_path_t *slot = &xnat_shm->path[i];
        uint32_t state = __atomic_load_n((uint32_t *)&slot->state, __ATOMIC_ACQUIRE);
        if (state == 2 && !strncmp(slot->text, path.p, path.n) && !slot->text[path.n]) {
            return i;
        }
        if (state == 0 && __atomic_compare_exchange_n((uint32_t *)&slot->state, &state, 1, 0,
                                                      __ATOMIC_ACQ_REL, __ATOMIC_RELAXED)) {
            memcpy(slot->text, path.p, path.n);
            slot->text[path.n] = '\0';
            __atomic_store_n((uint32_t *)&slot->state, 2, __ATOMIC_RELEASE);
            return i;
        }
    }
    return XNAT_PATH_UNKNOWN;
}

unsigned xnat_shm_path_above(const char *path)
{
    unsigned best = XNAT_PATH_UNLEARNED;
    size_t most = 0;
    for (unsigned i = 0; path && i < XNAT_PATHS_MAX; i++) {
        const xnat_shm_path_t *slot = &xnat_shm->path[i];
        size_t n = strlen(slot->text);
        if (__atomic_load_n((uint32_t *)&slot->state, __ATOMIC_ACQUIRE) == 2 && n > most &&
            !strncmp(path, slot->text, n) &&
            (slot->text[n - 1] == '/' || !path[n] || strchr("/;?", path[n]))) {
            best = i;
            most = n;
        }
    }
    return best;
}

uint64_t xnat_tag(xb_span_t base)
{
    uint64_t tag = xb_hash(&xnat_shm->key, base.p, base.n);
    return tag ? tag : 1;
}

const char *xnat_digest(uint64_t tag, char out[XB_DIGEST_SIZE])
{
    xb_digest(&xnat_shm->key, &tag, sizeof tag, out);
    return out;
}

void xnat_shm_want(uint32_t slot)
{
    uint64_t n = __atomic_fetch_add((uint64_t *)&xnat_shm->wanted_next, 1, __ATOMIC_ACQ_REL);
    __atomic_store_n((uint32_t *)&xnat_shm->wanted[n % XNAT_WANTED], slot + 1,
                     __ATOMIC_RELEASE);
    xnat_shm_wake();
}

void xnat_shm_wake(void)
{
    sem_post(&xnat_shm->wake);
}

/* Who has been killed while asleep leaves nothing locked: the semaphore is a number. */
void xnat_shm_sleep(int64_t us)
{
    int64_t end = xnat_now_us() + us;
    struct timespec at = {.tv_sec = end / 1000000, .tv_nsec = end % 1000000 * 1000};
    sem_clockwait(&xnat_shm->wake, CLOCK_MONOTONIC, &at);
    while (sem_trywait(&xnat_shm->wake) == 0) { /* what they ask for is seen to at once */
    }
}

bool xnat_shm_wanted(uint64_t *seen, bool skip, uint32_t *slot)
{
    uint64_t next = __atomic_load_n((uint64_t *)&xnat_shm->wanted_next, __ATOMIC_ACQUIRE);
    if (next - *seen > XNAT_WANTED) {
        *seen = next - XNAT_WANTED;
    }
    while (*seen < next) {
        uint32_t taken = __atomic_exchange_n((uint32_t *)&xnat_shm->wanted[*seen % XNAT_WANTED],
                                             0, __ATOMIC_ACQ_REL);
        if (!taken && !skip) {
            break;
        }
        ++*seen;
        if (taken) {
            *slot = taken - 1;
            return true;
        }
    }
    return false;
}

bool xnat_shm_may_tell(_Atomic int64_t *last_us, int64_t every_us)
{
    int64_t now = xnat_now_us(), last = __atomic_load_n((int64_t *)last_us, __ATOMIC_RELAXED);
    return (!last || now - last >= every_us) &&
           __atomic_compare_exchange_n((int64_t *)last_us, &last, now, 0, __ATOMIC_RELAXED,
                                       __ATOMIC_RELAXED);
}

void xnat_shm_recent(const xnat_shm_recent_t *move)
{
    uint64_t n = __atomic_fetch_add((uint64_t *)&xnat_shm->recent_next, 1, __ATOMIC_RELAXED);
    xnat_shm_recent_t *slot = &xnat_shm->recent[n % XNAT_RECENT];
    __atomic_store_n((uint64_t *)&slot->seq, UINT64_MAX, __ATOMIC_RELEASE);
    slot->at_us = move->at_us;
    slot->digest = move->digest;
    slot->from = move->from;
    slot->to = move->to;
    slot->reason = move->reason;
    slot->refusal = move->refusal;
    slot->took_us = move->took_us;
    __atomic_store_n((uint64_t *)&slot->seq, n + 1, __ATOMIC_RELEASE);
}
