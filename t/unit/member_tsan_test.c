/* SPDX-License-Identifier: Apache-2.0 */
/* Members, bucket and breaker under ThreadSanitizer: everything that threads share is used at
 * once. */
#include "xb_breaker.h"
#include "xb_member.h"
#include "xb_policy.h"

#include <pthread.h>
#include <stdatomic.h>

#include "tap.h"

#define THREADS 4
#define ROUNDS 3000
#define MEMBERS 8

static const xb_decay_t decay = {
    .half_life_s = 60, .busy_half_life_s = 10, .request_cost = 2e6};
static xb_members_t *members;
static xb_bucket_t bucket;
static xb_breaker_t breaker;
static _Atomic unsigned torn;

static void *work(void *arg)
{
    uint32_t child = (uint32_t)(uintptr_t)arg;

    for (int n = 1; n <= ROUNDS; n++) {
        unsigned i = xb_member_find(members, (uint64_t)(n % MEMBERS + 1));
        double traffic = 0, occupancy = 0;

        xb_member_enter(members, child, i);
        atomic_fetch_add_explicit(&members->member[i].requests, 1, memory_order_relaxed);
        if (xb_member_read(members, 0, &decay, 1, &traffic, &occupancy) && traffic != occupancy)
            torn++;
        xb_bucket_take(&bucket, 2, 10, n * 1000);
        if (xb_breaker_allow(&breaker, n * 10000))
            xb_breaker_result(&breaker, n % 3 == 0, n * 10000);
        xb_member_leave(members, child, i);
    }
    return NULL;
}

static void *tick(void *unused)
{
    for (int n = 1; n <= ROUNDS; n++) {
        xb_member_join(members, 0, 1, n, n);
        for (unsigned i = 1; i < MEMBERS; i++)
            xb_member_fold(members, i, &decay, n);
    }
    return unused;
}

int main(void)
{
    pthread_t thread[THREADS + 1];
    uint32_t busy = 0;
    uint64_t requests = 0;

    members = malloc(xb_members_size(THREADS));
    if (!members)
        return 1;
    xb_members_init(members, THREADS);
    pthread_create(&thread[THREADS], NULL, tick, NULL);
    for (uintptr_t i = 0; i < THREADS; i++)
        pthread_create(&thread[i], NULL, work, (void *)i);
    for (int i = 0; i <= THREADS; i++)
        pthread_join(thread[i], NULL);
    for (unsigned i = 0; i < XB_MEMBERS_MAX; i++) {
        busy += xb_member_busy(members, i);
        requests += members->member[i].requests;
    }
    is_int(torn, 0, "no torn pair");
    is_int(busy, 0, "nobody busy at the end");
    is_int((long long)requests, THREADS * ROUNDS, "every request counted");
    free(members);
    return done();
}
