/* SPDX-License-Identifier: Apache-2.0 */
/* Threads, lease and queue of the mover. */
#include "xnat_mover.h"

#include <signal.h>

#include "apr_atomic.h"
#include "apr_thread_cond.h"
#include "apr_thread_mutex.h"

#include "mod_xnat_balance.h"
#include "xnat_log.h"
#include "xnat_release.h"
#include "xnat_sentinel.h"
#include "xnat_tick.h"

#define TICK_US 50000
/* How often the holder looks whether requests have shut gates. */
#define LOOK_US 5000
#define WAIT_FOR_LEASE_US 400000
/* A holder that has not been heard of for so long has lost its lease. */
#define LEASE_MS 1500
#define WORKERS 6
#define QUEUE 64

/* This child's part. lock guards queue, count and stopping; workers wait at work, the mover's
 * own thread at nap. */
static struct {
    apr_pool_t *pool;
    server_rec *server;
    apr_thread_mutex_t *lock;
    apr_thread_cond_t *work, *nap;
    apr_thread_t *thread, *worker[WORKERS], *sentinel;
    xnat_job_t queue[QUEUE];
    unsigned first, count;
    bool stopping;
    apr_uint32_t unwatch; /* ends the sentinel */
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
        __atomic_store_n((uint32_t *)&xnat_shm->movers_busy, 0, __ATOMIC_RELAXED);
        xnat_log_server(APLOG_INFO, 0, mover.server, XB(0313), "the mover runs in this child");
        xnat_tick_begin();
    }
    return mover.lease != 0;
}

int64_t xnat_mover_heartbeat_age_ms(void)
{
    uint64_t lease = __atomic_load_n((uint64_t *)&xnat_shm->lease, __ATOMIC_ACQUIRE);
    int64_t free_us =
        __atomic_load_n((int64_t *)&xnat_shm->lease_free_us, __ATOMIC_RELAXED);
    return lease     ? age_ms(lease)
           : free_us ? (xnat_now_us() - free_us) / 1000
                     : (xnat_now_us() - xnat_shm->started_us) / 1000;
}

/* ---- queue */

bool xnat_mover_submit(const xnat_job_t *job)
{
    apr_thread_mutex_lock(mover.lock);
    bool room = mover.count < QUEUE && !mover.stopping;
    if (room) {
        mover.queue[(mover.first + mover.count++) % QUEUE] = *job;
        apr_thread_cond_signal(mover.work);
    }
    apr_thread_mutex_unlock(mover.lock);
    return room;
}

bool xnat_mover_has_room(void)
{
    apr_thread_mutex_lock(mover.lock);
    bool room = mover.count < QUEUE / 2;
    apr_thread_mutex_unlock(mover.lock);
    return room;
}

static bool next_job(xnat_job_t *job)
{
    apr_thread_mutex_lock(mover.lock);
    while (!mover.count && !mover.stopping) {
        apr_thread_cond_wait(mover.work, mover.lock);
    }
    bool more = !mover.stopping;
    if (more) {
        *job = mover.queue[mover.first];
        mover.first = (mover.first + 1) % QUEUE;
        mover.count--;
    }
    apr_thread_mutex_unlock(mover.lock);
    return more;
}

/* ---- threads */

static void *APR_THREAD_FUNC work(apr_thread_t *thread, void *data)
{
    xnat_hands_t hands = {0};
    xnat_job_t job;
    (void)thread;
    (void)data;
    if (xnat_probe_create(&hands.probe, mover.server) != APR_SUCCESS) {
        xnat_log_server(APLOG_ERR, 0, mover.server, XB(0310), "no memory for a mover's worker");
        return NULL;
    }
    while (next_job(&job)) {
        __atomic_fetch_add((uint32_t *)&xnat_shm->movers_busy, 1, __ATOMIC_RELAXED);
        if (job.kind == XNAT_JOB_RELEASE || job.kind == XNAT_JOB_TRY) {
            xnat_release_run(&hands, &job);
        }
        else {
            xnat_move_run(&hands, &job);
        }
        __atomic_fetch_sub((uint32_t *)&xnat_shm->movers_busy, 1, __ATOMIC_RELAXED);
    }
    xnat_hands_close(&hands);
    return NULL;
}

/* Threads of ours take no signals: httpd's children end by them, in their own threads. */
static apr_status_t start(apr_thread_t **out, apr_thread_start_t fn)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    apr_status_t rv = ap_thread_create(out, NULL, fn, NULL, mover.pool);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return rv;
}

static void *APR_THREAD_FUNC watch(apr_thread_t *thread, void *data)
{
    (void)thread;
    (void)data;
    xnat_sentinel_run(mover.server, &mover.unwatch);
    return NULL;
}

static void start_workers(void)
{
    if (!mover.sentinel && start(&mover.sentinel, watch) != APR_SUCCESS) {
        mover.sentinel = NULL;
    }

    for (int i = 0; i < WORKERS && !mover.worker[i]; i++) {
        if (start(&mover.worker[i], work) != APR_SUCCESS) {
            mover.worker[i] = NULL;
            xnat_log_server(APLOG_ERR, 0, mover.server, XB(0311),
                            "a worker thread of the mover could not be started");
            return;
        }
    }
}

static void *APR_THREAD_FUNC run(apr_thread_t *thread, void *data)
{
    int64_t ticked_us = 0;
    (void)thread;
    (void)data;
    apr_thread_mutex_lock(mover.lock);
    while (!mover.stopping) {
        apr_thread_mutex_unlock(mover.lock);
        bool holder = hold_lease();
        int64_t now = xnat_now_us();
        if (holder) {
            start_workers();
            xnat_tick_serve();
        }
        if (holder && now - ticked_us >= TICK_US) {
            ticked_us = now;
            xnat_tick_run(now);
        }
        apr_thread_mutex_lock(mover.lock);
        if (!mover.stopping) {
            apr_thread_cond_timedwait(mover.nap, mover.lock,
                                      holder ? LOOK_US : WAIT_FOR_LEASE_US);
        }
    }
    apr_thread_mutex_unlock(mover.lock);
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
        mover.count = 0;
        apr_thread_cond_broadcast(mover.work);
        apr_thread_cond_broadcast(mover.nap);
        apr_thread_mutex_unlock(mover.lock);
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
    /* A pool of its own allocator: threads use it while the child's pool is in others' hands.
     */
    apr_allocator_t *allocator;
    apr_status_t rv = apr_allocator_create(&allocator);
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
        rv = start(&mover.thread, run);
    }
    if (rv != APR_SUCCESS) {
        xnat_log_server(APLOG_ERR, rv, s, XB(0312),
                        "the mover could not be started: no moves "
                        "from this child");
        mover.thread = NULL;
    }
    apr_pool_pre_cleanup_register(pchild, NULL, join);
}
