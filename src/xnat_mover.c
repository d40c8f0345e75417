/* SPDX-License-Identifier: Apache-2.0 */
/* Threads, lease and queue of the mover. */
#include "xnat_mover.h"

#include <signal.h>
#ifdef __linux__
#include <sys/prctl.h>
#endif

#include "apr_atomic.h"
#include "apr_thread_cond.h"
#include "apr_thread_mutex.h"

#include "mod_xnat_balance.h"
#include "xnat_log.h"
#include "xnat_names.h"
#include "xnat_release.h"
#include "xnat_sentinel.h"
#include "xnat_tick.h"

#define TICK_US 50000
/* The holder looks again so soon if it had no room for what requests have asked for. */
#define AGAIN_US 5000
#define WAIT_FOR_LEASE_US 400000
/* A holder that has not been heard of for so long has lost its lease. */
#define LEASE_MS 1500
#define WORKERS 6
/* The first ones do only what requests wait for: rescues, look-ups, revivals, adopted gates. */
#define RESERVED 2
#define URGENT 64
/* Chosen moves are few in the queue: they shall be carried out while the choice is fresh. */
#define CHOSEN 12
#define START_AGAIN_US (10 * INT64_C(1000000))

typedef struct {
    xnat_job_t job[URGENT];
    unsigned first, count;
} queue_t;

/* This child's part. lock guards the queues, busy and stopping; workers wait at work, the
 * mover's own thread at nap while another child holds the lease. */
static struct {
    apr_pool_t *pool;
    server_rec *server;
    apr_thread_mutex_t *lock;
    apr_thread_cond_t *work, *nap;
    apr_thread_t *thread, *worker[WORKERS], *sentinel, *names;
    queue_t urgent, chosen;
    uint32_t busy; /* workers with a job in hand */
    bool stopping;
    bool complete, told;  /* all threads run; that they do not has been said */
    int64_t start_us;     /* when those that do not run may be tried again */
    apr_uint32_t unwatch; /* ends the sentinel and the names' thread */
    uint64_t lease;       /* as we last wrote it; 0: not ours */
} mover;

/* ---- lease */

static uint64_t lease_now(void)
{
    return (uint64_t)(xnat_child + 1) << 48 |
           ((uint64_t)(xnat_now_us() / 1000) & UINT64_C(0xffffffffffff));
}

static int64_t age_ms(uint64_t lease)
{
    return xnat_now_us() / 1000 - (int64_t)(lease & UINT64_C(0xffffffffffff));
}

static bool swap_lease(uint64_t seen, uint64_t next)
{
    return __atomic_compare_exchange_n((uint64_t *)&xnat_shm->lease, &seen, next, 0,
                                       __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
}

static bool is_lost(uint64_t lease)
{
    return lease == 0 || age_ms(lease) > LEASE_MS ||
           xb_table_child_pid(xnat_table, (unsigned)(lease >> 48) - 1) == 0;
}

/* Renews or takes the lease. True: it is ours until the next tick at least. */
static bool hold_lease(void)
{
    uint64_t seen = __atomic_load_n((uint64_t *)&xnat_shm->lease, __ATOMIC_ACQUIRE);
    uint64_t next = lease_now();
    if (mover.lease && seen == mover.lease) {
        mover.lease = swap_lease(seen, next) ? next : 0;
        return mover.lease != 0;
    }
    mover.lease = is_lost(seen) && swap_lease(seen, next) ? next : 0;
    if (mover.lease) {
        xnat_log_server(APLOG_INFO, 0, mover.server, XB(0313), "the mover runs in this child");
        xnat_tick_begin();
    }
    return mover.lease != 0;
}

int64_t xnat_mover_heartbeat_age_ms(void)
{
    uint64_t lease = __atomic_load_n((uint64_t *)&xnat_shm->lease, __ATOMIC_ACQUIRE);
    int64_t free_us = __atomic_load_n((int64_t *)&xnat_shm->lease_free_us, __ATOMIC_RELAXED);
    return lease     ? age_ms(lease)
           : free_us ? (xnat_now_us() - free_us) / 1000
                     : (xnat_now_us() - xnat_shm->started_us) / 1000;
}

/* ---- queue */

/* Nobody waits for these. */
static bool is_chosen(const xnat_job_t *job)
{
    return job->kind == XNAT_JOB_MOVE || job->kind == XNAT_JOB_VERIFY ||
           job->kind == XNAT_JOB_RELEASE || job->kind == XNAT_JOB_TRY;
}

static bool is_queued_locked(const queue_t *q, const xnat_job_t *job)
{
    for (unsigned i = 0; i < q->count; i++) {
        const xnat_job_t *other = &q->job[(q->first + i) % URGENT];
        if (other->slot == job->slot && other->kind == job->kind) {
            return true;
        }
    }
    return false;
}

static bool take_locked(queue_t *q, xnat_job_t *job)
{
    if (q->count == 0) {
        return false;
    }
    *job = q->job[q->first];
    q->first = (q->first + 1) % URGENT;
    q->count--;
    return true;
}

/* Wakes all workers: the one that a signal would wake may be a reserved one. */
bool xnat_mover_submit(const xnat_job_t *job)
{
    bool chosen = is_chosen(job);
    queue_t *q = chosen ? &mover.chosen : &mover.urgent;
    apr_thread_mutex_lock(mover.lock);
    bool queued = chosen && is_queued_locked(q, job);
    bool room = !mover.stopping && (queued || q->count < (chosen ? CHOSEN : URGENT));
    if (room && !queued) {
        q->job[(q->first + q->count++) % URGENT] = *job;
        apr_thread_cond_broadcast(mover.work);
    }
    apr_thread_mutex_unlock(mover.lock);
    return room;
}

bool xnat_mover_has_room(bool urgent)
{
    apr_thread_mutex_lock(mover.lock);
    bool room = urgent ? mover.urgent.count < URGENT : mover.chosen.count < CHOSEN;
    apr_thread_mutex_unlock(mover.lock);
    return room;
}

/* In the child's own row, which is cleared with the child. */
static void count_busy_locked(int change)
{
    mover.busy += (uint32_t)change;
    __atomic_store_n((uint32_t *)&xnat_shm->moving[xnat_child], mover.busy, __ATOMIC_RELAXED);
}

static bool next_job(unsigned worker, xnat_job_t *job)
{
    apr_thread_mutex_lock(mover.lock);
    while (!mover.stopping && !take_locked(&mover.urgent, job) &&
           !(worker >= RESERVED && take_locked(&mover.chosen, job))) {
        apr_thread_cond_wait(mover.work, mover.lock);
    }
    bool more = !mover.stopping;
    if (more) {
        count_busy_locked(1);
    }
    apr_thread_mutex_unlock(mover.lock);
    return more;
}

static void end_job(void)
{
    apr_thread_mutex_lock(mover.lock);
    count_busy_locked(-1);
    apr_thread_mutex_unlock(mover.lock);
}

/* ---- threads */

/* For top -H and the like. */
static void name_thread(const char *name)
{
#ifdef __linux__
    prctl(PR_SET_NAME, name);
#else
    (void)name;
#endif
}

static void *APR_THREAD_FUNC work(apr_thread_t *thread, void *data)
{
    xnat_hands_t hands = {0};
    xnat_job_t job;
    (void)thread;
    name_thread("xnat-worker");
    if (xnat_probe_create(&hands.probe, mover.server) != APR_SUCCESS) {
        xnat_log_server(APLOG_ERR, 0, mover.server, XB(0310), "no memory for a mover's worker");
        return NULL;
    }
    xnat_names_wait();
    while (next_job((unsigned)(uintptr_t)data, &job)) {
        if (job.kind == XNAT_JOB_RELEASE || job.kind == XNAT_JOB_TRY) {
            xnat_release_run(&hands, &job);
        }
        else {
            xnat_move_run(&hands, &job);
        }
        end_job();
    }
    xnat_hands_close(&hands);
    return NULL;
}

/* Threads of ours take no signals: httpd's children end by them, in their own threads. Each has
 * a pool, so that one that could not be started leaves nothing behind. */
static apr_status_t start(apr_thread_t **out, apr_thread_start_t fn, unsigned number)
{
    sigset_t all, before;
    apr_pool_t *pool;
    apr_pool_create(&pool, mover.pool);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    apr_status_t rv = ap_thread_create(out, NULL, fn, (void *)(uintptr_t)number, pool);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (rv != APR_SUCCESS) {
        *out = NULL;
        apr_pool_destroy(pool);
    }
    return rv;
}

static void *APR_THREAD_FUNC watch(apr_thread_t *thread, void *data)
{
    (void)thread;
    (void)data;
    name_thread("xnat-sentinel");
    xnat_sentinel_run(mover.server, &mover.unwatch);
    return NULL;
}

static void *APR_THREAD_FUNC look_up_names(apr_thread_t *thread, void *data)
{
    (void)thread;
    (void)data;
    xnat_names_run(&mover.unwatch);
    return NULL;
}

/* With the lease, and again every ten seconds if one could not be started. */
static void start_threads(int64_t now)
{
    if (mover.complete || now < mover.start_us) {
        return;
    }
    apr_status_t rv = mover.sentinel ? APR_SUCCESS : start(&mover.sentinel, watch, 0);
    if (rv == APR_SUCCESS && !mover.names && xnat_names_any()) {
        rv = start(&mover.names, look_up_names, 0);
    }
    for (unsigned i = 0; i < WORKERS && rv == APR_SUCCESS; i++) {
        rv = mover.worker[i] ? APR_SUCCESS : start(&mover.worker[i], work, i);
    }
    mover.complete = rv == APR_SUCCESS;
    mover.start_us = now + START_AGAIN_US;
    if (!mover.complete && !mover.told) {
        mover.told = true;
        xnat_log_server(APLOG_ERR, rv, mover.server, XB(0311),
                        "a thread of the mover could not be started: fewer moves, or none; "
                        "tried again every ten seconds");
    }
}

static void wait_for_lease(void)
{
    apr_thread_mutex_lock(mover.lock);
    if (!mover.stopping) {
        apr_thread_cond_timedwait(mover.nap, mover.lock, WAIT_FOR_LEASE_US);
    }
    apr_thread_mutex_unlock(mover.lock);
}

static void *APR_THREAD_FUNC run(apr_thread_t *thread, void *data)
{
    int64_t ticked_us = 0;
    (void)thread;
    (void)data;
    name_thread("xnat-mover");
    while (!xnat_mover_is_stopping()) {
        if (!hold_lease()) {
            wait_for_lease();
            continue;
        }
        int64_t now = xnat_now_us();
        start_threads(now);
        bool all = xnat_tick_serve();
        if (now - ticked_us >= TICK_US) {
            ticked_us = now;
            xnat_tick_run(now);
        }
        int64_t left = ticked_us + TICK_US - xnat_now_us();
        if (left > 0) {
            xnat_shm_sleep(all || left < AGAIN_US ? left : AGAIN_US);
        }
    }
    if (mover.lease) {
        __atomic_store_n((int64_t *)&xnat_shm->lease_free_us, xnat_now_us(), __ATOMIC_RELAXED);
        swap_lease(mover.lease, 0);
        mover.lease = 0;
    }
    return NULL;
}

bool xnat_mover_is_stopping(void)
{
    return __atomic_load_n(&mover.stopping, __ATOMIC_RELAXED);
}

void xnat_mover_stop(void)
{
    if (mover.lock) {
        apr_thread_mutex_lock(mover.lock);
        __atomic_store_n(&mover.stopping, true, __ATOMIC_RELAXED);
        apr_atomic_set32(&mover.unwatch, 1);
        mover.urgent.count = mover.chosen.count = 0;
        apr_thread_cond_broadcast(mover.work);
        apr_thread_cond_broadcast(mover.nap);
        apr_thread_mutex_unlock(mover.lock);
        xnat_shm_wake();
    }
}

static apr_status_t join(void *unused)
{
    apr_status_t rv;
    (void)unused;
    xnat_mover_stop();
    xnat_probe_stop(); /* a worker in a HEAD comes back at once */
    if (mover.thread) {
        apr_thread_join(&rv, mover.thread);
    }
    if (mover.sentinel) {
        apr_thread_join(&rv, mover.sentinel);
    }
    if (mover.names) {
        apr_thread_join(&rv, mover.names);
    }
    for (int i = 0; i < WORKERS; i++) {
        if (mover.worker[i]) {
            apr_thread_join(&rv, mover.worker[i]);
        }
    }
    return APR_SUCCESS;
}

void xnat_mover_child_init(apr_pool_t *pchild, server_rec *s)
{
    if (xnat_child < 0) {
        return;
    }
    mover.server = s;
    xnat_names_child_init(pchild);
    /* A pool of its own allocator: threads use it while the child's pool is in others' hands.
     */
    apr_allocator_t *allocator;
    apr_status_t rv = xnat_probe_child_init(pchild, s); /* without it each HEAD is too late */
    if (rv == APR_SUCCESS) {
        rv = apr_allocator_create(&allocator);
    }
    if (rv == APR_SUCCESS) {
        rv = apr_pool_create_ex(&mover.pool, pchild, NULL, allocator);
        apr_allocator_owner_set(allocator, mover.pool);
    }
    if (rv == APR_SUCCESS) {
        rv = apr_thread_mutex_create(&mover.lock, APR_THREAD_MUTEX_DEFAULT, mover.pool);
    }
    if (rv == APR_SUCCESS) {
        rv = apr_thread_cond_create(&mover.work, mover.pool);
    }
    if (rv == APR_SUCCESS) {
        rv = apr_thread_cond_create(&mover.nap, mover.pool);
    }
    if (rv == APR_SUCCESS) {
        rv = start(&mover.thread, run, 0);
    }
    if (rv != APR_SUCCESS) {
        xnat_log_server(APLOG_ERR, rv, s, XB(0312),
                        "the mover could not be started: no moves "
                        "from this child");
        mover.thread = NULL;
    }
    apr_pool_pre_cleanup_register(pchild, NULL, join);
}
