/* SPDX-License-Identifier: Apache-2.0 */
/* Policy: scores worked out by hand, elections, overload moves, targets, and the token bucket.
 */
#include "xb_policy.h"

#include <math.h>
#include <pthread.h>
#include <stdatomic.h>

#include "tap.h"

#define BOTH (XB_LOAD_USABLE | XB_LOAD_NEW)
#define LOAD(w, t, o, s, f)                                                                    \
    {                                                                                          \
        .weight = w, .traffic = t, .occupancy = o, .sessions = s, .flags = f                   \
    }

static const xb_policy_t policy = {.threshold = 0.2, .min_occupancy = 2};

static void is_near(double got, double want, const char *name)
{
    if (!ok(fabs(got - want) < 1e-9, "%s", name))
        diag("got %.12g, wanted %.12g", got, want);
}

static void scores_by_hand(void)
{
    /* T 1.5, 0.5; Q (3+2)/4, (1+2)/4; k 4/5 */
    xb_load_t two[] = {LOAD(1, 300, 3, 5, BOTH), LOAD(1, 100, 1, 5, BOTH)};
    /* 1:1:2:4, everything in proportion to the weights, occupancy+2 as well */
    xb_load_t fair[] = {LOAD(1, 100, 1, 1, BOTH), LOAD(1, 100, 1, 1, BOTH),
                        LOAD(2, 200, 4, 1, BOTH), LOAD(4, 400, 10, 1, BOTH)};
    /* wrong weights, all 1: T (100,100,200,400)/200, Q (3,3,6,12)/6; k 16/18 */
    xb_load_t wrong[] = {LOAD(1, 100, 1, 1, BOTH), LOAD(1, 100, 1, 1, BOTH),
                         LOAD(1, 200, 4, 1, BOTH), LOAD(1, 400, 10, 1, BOTH)};

    xb_policy_score(two, 2);
    is_near(two[0].score, (1.5 + 4 * (1 + 0.8 / 4)) / 5, "two members: the busy one");
    is_near(two[1].score, (0.5 + 4 * (1 - 0.8 / 4)) / 5, "two members: the other one");
    xb_policy_score(fair, 4);
    for (int i = 0; i < 4; i++)
        is_near(fair[i].score, 1, "a fleet in proportion to its weights is balanced");
    xb_policy_score(wrong, 4);
    is_near(wrong[0].score, (0.5 + 4 * (1 - 8 / 18.0)) / 5,
            "wrong weights: a small node looks idle");
    is_near(wrong[2].score, 1, "wrong weights: the middle one looks balanced");
    is_near(wrong[3].score, (2 + 4 * (1 + 16 / 18.0)) / 5,
            "wrong weights: the large node looks overloaded");
    /* until it is seen that the small ones are slow, and the large one is quick */
    wrong[0].slow = wrong[1].slow = log(2);
    wrong[3].slow = -log(2);
    xb_policy_score(wrong, 4);
    for (int i = 0; i < 4; i++)
        is_near(wrong[i].score, 1, "wrong weights, pace known: balanced");
    wrong[0].slow = NAN;
    wrong[3].slow = INFINITY;
    xb_policy_score(wrong, 4);
    ok(isfinite(wrong[0].score) && isfinite(wrong[3].score), "an absurd pace counts nothing");
}

static void scores_at_the_edges(void)
{
    xb_load_t one[] = {LOAD(3, 1e12, 40, 9, BOTH)};
    xb_load_t idle[] = {LOAD(1, 0, 0, 0, BOTH), LOAD(3, 0, 0, 0, BOTH)};
    xb_load_t faded[] = {LOAD(1, 5e-324, 0, 0, BOTH), LOAD(1, 0, 0, 0, BOTH)};
    xb_load_t down[] = {LOAD(1, 9, 9, 9, 0), LOAD(1, 9, 9, 9, XB_LOAD_NEW)};
    xb_load_t part[] = {LOAD(1, 1e15, 500, 9, 0), LOAD(1, 100, 1, 1, BOTH),
                        LOAD(1, 100, 1, 1, XB_LOAD_USABLE)};
    xb_load_t absurd[] = {LOAD(NAN, NAN, NAN, 1, BOTH), LOAD(0, -5, -5, 1, BOTH),
                          LOAD(-1, INFINITY, INFINITY, 1, BOTH),
                          LOAD(INFINITY, 1e300, 0, 1, BOTH)};
    bool finite = true;

    xb_policy_score(one, 1);
    is_near(one[0].score, 1, "a single member is balanced by definition");
    xb_policy_score(idle, 2);
    is_near(idle[0].score, 1, "nothing at all: the light one is as good");
    is_near(idle[1].score, 1, "as the heavy one");
    xb_policy_score(faded, 2);
    is_near(faded[0].score, 1, "traffic that decayed to nothing is no traffic");
    xb_policy_score(down, 2);
    ok(isinf(down[0].score) && isinf(down[1].score), "all unusable: all infinite");
    xb_policy_score(part, 3);
    ok(isinf(part[0].score), "one unusable: infinite");
    is_near(part[1].score, 1, "and it counts in no sum");
    xb_policy_score(absurd, 4);
    for (int i = 0; i < 4; i++)
        finite = finite && isfinite(absurd[i].score);
    ok(finite, "NaN, zero, negative and infinite figures yield finite scores");
    xb_policy_score(NULL, 0);
    ok(true, "no member at all");
}

static void elections(void)
{
    xb_load_t l[] = {LOAD(1, 300, 3, 5, BOTH), LOAD(1, 100, 1, 5, BOTH),
                     LOAD(1, 100, 1, 5, BOTH), LOAD(1, 0, 0, 0, 0), LOAD(1, 0, 0, 0, 0)};

    xb_policy_score(l, 5);
    ok(xb_policy_better(l, 1, 0) < 0 && xb_policy_better(l, 0, 1) > 0, "lower score is better");
    ok(xb_policy_better(l, 1, 2) < 0 && xb_policy_better(l, 2, 1) > 0, "tie: lower index");
    ok(xb_policy_better(l, 3, 0) > 0, "unusable is worse than any");
    ok(xb_policy_better(l, 3, 4) < 0 && xb_policy_better(l, 4, 3) > 0, "unusable tie: index");
    is_int(xb_policy_better(l, 2, 2), 0, "a member is not better than itself");
}

/* Overload over scores that the test sets itself: 1 + gap against 1. */
static bool overloaded(double gap, double occupancy, uint32_t sessions, unsigned from_flags,
                       unsigned to_flags)
{
    xb_load_t l[] = {LOAD(1, 0, 0, 1, to_flags), LOAD(1, 0, occupancy, sessions, from_flags)};
    unsigned from = 99, to = 99;

    l[0].score = to_flags & XB_LOAD_USABLE ? 1 : INFINITY;
    l[1].score = from_flags & XB_LOAD_USABLE ? 1 + gap : INFINITY;
    if (!xb_policy_overload(l, 2, &policy, &from, &to))
        return false;
    return from == 1 && to == 0;
}

static void overload_rules(void)
{
    const unsigned usable = XB_LOAD_USABLE;

    ok(overloaded(0.200001, 2, 1, BOTH, BOTH), "just above the threshold: a move");
    ok(!overloaded(nextafter(1.2, 0) - 1, 9, 1, BOTH, BOTH), "just below: none");
    ok(!overloaded(-0.5, 9, 1, BOTH, BOTH), "the home is the better one: none");
    ok(!overloaded(0.5, 1.999, 1, BOTH, BOTH), "min_occupancy: too few requests in flight");
    ok(overloaded(0.5, 2, 1, BOTH, BOTH), "min_occupancy: just enough");
    ok(!overloaded(0.5, 9, 0, BOTH, BOTH), "no session to move");
    ok(overloaded(0.5, 9, 1, usable, BOTH), "a standby that is in use may be relieved");
    ok(!overloaded(0.5, 9, 1, BOTH, usable), "a draining target gets none");
    ok(!overloaded(0.5, 9, 1, XB_LOAD_NEW, BOTH), "an unusable home is not overloaded");
    ok(!overloaded(0.5, 9, 1, BOTH, 0), "no usable target");
}

static void overload_choice(void)
{
    xb_load_t l[] = {LOAD(1, 0, 9, 1, BOTH), LOAD(1, 0, 9, 1, BOTH), LOAD(1, 0, 1, 1, BOTH),
                     LOAD(1, 0, 9, 1, XB_LOAD_USABLE), LOAD(1, 0, 9, 1, BOTH)};
    const double score[] = {1.3, 1.9, 2.5, 0.1, 0.6};
    unsigned from, to;

    for (int i = 0; i < 5; i++)
        l[i].score = score[i];
    ok(xb_policy_overload(l, 5, &policy, &from, &to), "a pair among five");
    is_int(from, 1, "from: the worst with enough in flight");
    is_int(to, 4, "to: the best that takes new sessions");
    l[0].score = l[1].score;
    l[2].score = l[4].score;
    xb_policy_overload(l, 5, &policy, &from, &to);
    is_int(from, 0, "from, tie: lower index");
    is_int(to, 2, "to, tie: lower index");
    ok(!xb_policy_overload(l, 1, &policy, &from, &to),
       "a single member has nowhere to move to");
    ok(!xb_policy_overload(l, 0, &policy, &from, &to), "no member");
}

static void targets(void)
{
    xb_load_t l[] = {LOAD(1, 100, 1, 1, BOTH), LOAD(1, 50, 0, 1, BOTH), LOAD(1, 0, 0, 1, 0),
                     LOAD(1, 0, 0, 1, XB_LOAD_USABLE), LOAD(1, 90, 1, 1, BOTH)};
    bool visited[5] = {false};
    unsigned left = 99;

    xb_policy_score(l, 5);
    is_int(xb_policy_target(l, 5, 0, visited, &left), 1, "target: the best but the home");
    is_int(left, 1, "one more is unvisited");
    visited[1] = true;
    is_int(xb_policy_target(l, 5, 0, visited, &left), 4, "target: not a visited one");
    is_int(left, 0, "it is the last one");
    visited[4] = true;
    is_int(xb_policy_target(l, 5, 0, visited, &left), -1, "target: none left");
    is_int(left, 0, "and none remains");
    memset(visited, 0, sizeof visited);
    is_int(xb_policy_target(l, 5, 1023, visited, &left), 1, "home is none of them");
    is_int(left, 2, "all that may take it are candidates");
}

/* Traffic 1000 at weight 1 against 200 at weight 2: 600 make both carry 400 for each unit. */
static void choices(void)
{
    xb_load_t l[] = {LOAD(1, 1000, 3, 5, BOTH), LOAD(2, 200, 1, 5, BOTH)};
    xb_choice_t c = {0};

    l[0].score = 1.3;
    l[1].score = 1.1;
    ok(!xb_policy_choose(l, &policy, 0, 1, 50, &c) && !c.found,
       "choice: not above the threshold");
    l[1].score = 0.9;
    ok(xb_policy_choose(l, &policy, 0, 1, 2000, &c), "choice: too busy a session, if no other");
    ok(!xb_policy_choose(l, &policy, 0, 1, 601, &c),
       "choice: another one like it is no better");
    ok(xb_policy_choose(l, &policy, 0, 1, 0, &c), "choice: an idle one is");
    ok(xb_policy_choose(l, &policy, 0, 1, 50, &c), "choice: a busy one even more");
    ok(!xb_policy_choose(l, &policy, 0, 1, 49, &c), "choice: the busiest one stays");
    ok(xb_policy_choose(l, &policy, 0, 1, 599.999, &c), "choice: until both carry the same");
    ok(!xb_policy_choose(l, &policy, 0, 1, 600.001, &c), "choice: not beyond");
    ok(c.found, "choice: there is one");
    is_near(c.traffic, 599.999, "choice: the last one taken");
    l[1].slow = log(2); /* it carries 200 for its one unit: 400 even that out */
    c = (xb_choice_t){0};
    ok(xb_policy_choose(l, &policy, 0, 1, 1, &c) &&
           !xb_policy_choose(l, &policy, 0, 1, 400.001, &c) &&
           xb_policy_choose(l, &policy, 0, 1, 399.999, &c),
       "choice: by effective weight");
}

static void worth(void)
{
    xb_load_t l[] = {LOAD(1, 300, 3, 5, BOTH), LOAD(1, 100, 1, 3, XB_LOAD_USABLE),
                     LOAD(1, 1e9, 1, 1, 0), LOAD(1, -7, 1, 0, BOTH)};
    xb_worth_t w = xb_policy_mean_worth(l, 4);

    is_near(w.bytes, 50, "worth: usable members' traffic per session");
    is_near(w.requests, 5 / 8.0, "worth: and requests in flight");
    w = xb_policy_mean_worth(l + 3, 1);
    ok(w.bytes == 0 && w.requests == 0, "worth: no session, no worth");
    w = xb_policy_own_worth(&l[0], 100);
    is_near(w.bytes, 100, "own worth: its traffic");
    is_near(w.requests, 1, "own worth: the same share of the requests in flight");
    is_near(xb_policy_own_worth(&l[0], 1e6).requests, 3, "own worth: not more than there are");
    w = xb_policy_own_worth(&l[3], NAN);
    ok(w.bytes == 0 && w.requests == 0, "own worth: absurd traffic, no worth");
}

/* ---- token bucket */

static void bucket_hour(double rate, double burst, int64_t step_us, int want)
{
    xb_bucket_t b = {0};
    int taken = 0;

    for (int64_t t = 0; t <= 3600000000; t += step_us)
        taken += xb_bucket_take(&b, rate, burst, t);
    is_int(taken, want, "rate %g, burst %g: exact over an hour", rate, burst);
}

static void bucket_edges(void)
{
    xb_bucket_t b = {0};
    int64_t t = 86400000000;
    int taken = 0;

    for (int i = 0; i < 20; i++)
        taken += xb_bucket_take(&b, 2, 10, t);
    is_int(taken, 10, "a day idle: the burst, no more");
    ok(!xb_bucket_take(&b, 2, 10, t + 499999), "the next token is not there a moment early");
    ok(!xb_bucket_take(&b, 2, 10, t - 3600000000), "a clock that lags gets nothing");
    ok(xb_bucket_take(&b, 2, 10, t + 500000), "it is there on time");
    ok(!xb_bucket_take(&b, 2, 10, t + 500000), "once");
    atomic_store(&b.word, 0);
    ok(!xb_bucket_take(&b, 0, 10, t) && !xb_bucket_take(&b, -1, 10, t) &&
           !xb_bucket_take(&b, NAN, 10, t) && !xb_bucket_take(&b, 2, 0.5, t),
       "a rate or burst out of range yields nothing");
    ok(xb_bucket_take(&b, 1e-12, 1e12, t) && xb_bucket_take(&b, 1e-12, 1e12, t) &&
           !xb_bucket_take(&b, 1e-12, 1e12, t),
       "the slowest rate does not overflow, nor does it yield more");
    atomic_store(&b.word, 0);
    ok(xb_bucket_take(&b, 1e12, 1, t) && !xb_bucket_take(&b, 1e12, 1, t),
       "a rate beyond the clock's grain yields one per nanosecond");
}

#define THREADS 4
#define TAKES 20000
#define STEP_US 45000 /* 4 threads x 20000 x 45 ms = an hour */

static xb_bucket_t shared;
static _Atomic int64_t shared_clock;
static _Atomic int shared_taken;

static void *take_many(void *unused)
{
    int taken = 0;

    for (int i = 0; i < TAKES; i++)
        taken += xb_bucket_take(&shared, 2, 10, atomic_fetch_add(&shared_clock, STEP_US));
    atomic_fetch_add(&shared_taken, taken);
    return unused;
}

static void bucket_threads(void)
{
    pthread_t thread[THREADS];
    const int most = 10 + 2 * 3600;

    for (int i = 0; i < THREADS; i++)
        pthread_create(&thread[i], NULL, take_many, NULL);
    for (int i = 0; i < THREADS; i++)
        pthread_join(thread[i], NULL);
    ok(shared_taken <= most, "threads: never more than allowed in an hour");
    ok(shared_taken > most - most / 20, "threads: nor much less");
    diag("%d of %d", shared_taken, most);
}

int main(void)
{
    scores_by_hand();
    scores_at_the_edges();
    elections();
    overload_rules();
    overload_choice();
    targets();
    choices();
    worth();
    bucket_hour(2, 10, 50000, 10 + 7200);
    bucket_hour(3, 10, 7919, 10 + 10799); /* the last step ends before the last third */
    bucket_hour(0.5, 1, 250000, 1 + 1800);
    bucket_edges();
    bucket_threads();
    return done();
}
