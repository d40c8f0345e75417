/* SPDX-License-Identifier: Apache-2.0 */
/* Breaker: opening, half-open with one prober, doubling, and a prober that never comes back. */
#include "xb_breaker.h"

#include <pthread.h>
#include <stdatomic.h>

#include "tap.h"

#define S INT64_C(1000000)
#define THREADS 8
#define ROUNDS 500

static void opens_and_closes(void)
{
    xb_breaker_t b = {0};
    int64_t t = 5 * S;

    ok(xb_breaker_allow(&b, t) && xb_breaker_allow(&b, t), "closed: all pass");
    xb_breaker_result(&b, true, t);
    ok(!xb_breaker_is_open(&b, t), "a success leaves it closed");
    ok(!xb_breaker_is_young(&b), "... and not in fresh trouble");
    xb_breaker_result(&b, false, t);
    ok(xb_breaker_is_open(&b, t) && !xb_breaker_allow(&b, t), "a failure opens it");
    ok(xb_breaker_is_young(&b), "... which is fresh trouble");
    xb_breaker_result(&b, false, t + S / 2);
    ok(!xb_breaker_allow(&b, t + S - 1), "open for a second");
    ok(!xb_breaker_is_open(&b, t + S), "and not longer for a call that failed with the first");
    ok(!xb_breaker_is_closed(&b), "though it is not closed yet");
    ok(xb_breaker_allow(&b, t + S), "then one may try");
    ok(!xb_breaker_allow(&b, t + S) && xb_breaker_is_open(&b, t + S), "only one");
    xb_breaker_result(&b, true, t + S);
    ok(xb_breaker_allow(&b, t + S) && xb_breaker_allow(&b, t + S), "its success closes it");
    ok(xb_breaker_is_closed(&b), "it is closed");
    xb_breaker_result(&b, false, t + S);
    ok(xb_breaker_allow(&b, t + 2 * S), "a success also makes the period short again");
}

static void doubles(void)
{
    static const int period_s[] = {1, 2, 4, 8, 8, 8};
    xb_breaker_t b = {0};
    int64_t t = 100 * S;

    xb_breaker_result(&b, false, t);
    for (int i = 0; i < 6; i++) {
        ok(!xb_breaker_allow(&b, t + period_s[i] * S - 1), "period %d s: not early",
           period_s[i]);
        t += period_s[i] * S;
        ok(xb_breaker_allow(&b, t), "period %d s: over", period_s[i]);
        xb_breaker_result(&b, false, t);
        ok(!xb_breaker_is_young(&b), "period %d s: the trouble is not fresh any more",
           period_s[i]);
    }
}

static void prober_is_killed(void)
{
    xb_breaker_t b = {0};
    int64_t t = 100 * S;

    xb_breaker_result(&b, false, t);
    ok(xb_breaker_allow(&b, t + S), "a prober is let through, and never heard of again");
    ok(!xb_breaker_allow(&b, t + 2 * S - 1), "it has the period to itself");
    ok(xb_breaker_allow(&b, t + 2 * S), "then another one may try");
    xb_breaker_result(&b, false, t + 2 * S);
    ok(!xb_breaker_allow(&b, t + 4 * S - 1), "whose failure doubles the period");
    ok(xb_breaker_allow(&b, t + 4 * S), "once");
    xb_breaker_result(&b, true, t + 4 * S);
    ok(xb_breaker_allow(&b, t + 4 * S), "and whose success closes it");
}

static xb_breaker_t shared;
static pthread_barrier_t barrier;
static _Atomic int passed;
static int wrong;

/* Each round all threads ask at once, at slightly different times. */
static void *ask(void *arg)
{
    int64_t skew = (int64_t)(intptr_t)arg;

    for (int round = 0; round < ROUNDS; round++) {
        int64_t now = (round + 1) * 20 * S;

        if (skew == 0) {
            passed = 0;
            xb_breaker_result(&shared, true, now);
            xb_breaker_result(&shared, false, now);
        }
        pthread_barrier_wait(&barrier);
        passed += xb_breaker_allow(&shared, now + 2 * S + skew);
        pthread_barrier_wait(&barrier);
        if (skew == 0 && passed != 1)
            wrong++;
    }
    return NULL;
}

static void one_of_many(void)
{
    pthread_t thread[THREADS];

    pthread_barrier_init(&barrier, NULL, THREADS);
    for (intptr_t i = 0; i < THREADS; i++)
        pthread_create(&thread[i], NULL, ask, (void *)i);
    for (int i = 0; i < THREADS; i++)
        pthread_join(thread[i], NULL);
    pthread_barrier_destroy(&barrier);
    is_int(wrong, 0, "half-open: exactly one of %d threads, %d times", THREADS, ROUNDS);
}

int main(void)
{
    opens_and_closes();
    doubles();
    prober_is_killed();
    one_of_many();
    return done();
}
