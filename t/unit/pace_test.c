/* SPDX-License-Identifier: Apache-2.0 */
/* Pace: who answers more slowly than the fleet is found out, in time and no further. */
#include "xb_pace.h"

#include <math.h>

#include "tap.h"

#define S INT64_C(1000000)
#define N 3

static xb_pace_t pace[N];
static uint32_t generation[N];
static const bool all_open[N] = {true, true, true};
static int64_t now;

static void reset(void)
{
    memset(pace, 0, sizeof pace);
    now = 5 * S;
}

static void estimate(const bool *open)
{
    xb_pace_of_t of[N];

    for (int i = 0; i < N; i++)
        of[i] = (xb_pace_of_t){&pace[i], generation[i], open[i]};
    xb_pace_estimate(of, N, now);
}

/* Ten ticks a second; us[i]: time of each of the ten answers in a tick of member i, 0: none. */
static void go_on(int seconds, const int64_t *us, const bool *open)
{
    for (int tick = 0; tick < 10 * seconds; tick++) {
        now += S / 10;
        for (int i = 0; i < N; i++) {
            for (int k = 0; k < 10 && us[i]; k++)
                xb_pace_note(&pace[i], us[i]);
        }
        estimate(open);
    }
}

static bool near(double got, double want, double by)
{
    if (fabs(got - want) <= by)
        return true;
    diag("got %g, wanted %g", got, want);
    return false;
}

static const int64_t none[N] = {0, 0, 0}, same[N] = {20000, 20000, 20000};
static const int64_t nearly[N] = {20000, 20000, 23000};
static const int64_t slow[N] = {20000, 20000, 80000};
static const int64_t idle[N] = {20000, 20000, 0}, absurd[N] = {-1, 0, INT64_MAX};
static const bool two_open[N] = {true, true, false};

static void differences(void)
{
    reset();
    go_on(600, none, all_open);
    ok(xb_pace_slow(&pace[0]) == 0, "no answers: nothing is known");
    go_on(600, same, all_open);
    ok(near(xb_pace_slow(&pace[0]), 0, 1e-6), "all alike: as fast as their weights say");

    go_on(600, nearly, all_open);
    ok(near(xb_pace_slow(&pace[2]), 0, 1e-6), "a little difference is ignored");

    /* ln 4 = 1.386; fleet's mean 0.462, so 0.924 - 0.25 behind, and 0.462 - 0.05 ahead */
    reset();
    go_on(10, slow, all_open);
    ok(xb_pace_slow(&pace[2]) > 0.05 && xb_pace_slow(&pace[2]) < 0.08,
       "four times as slow: under one percent in a second");
    go_on(20, slow, all_open);
    ok(near(xb_pace_slow(&pace[2]), 0.674 * 10 * (1 - exp(-30 / 1000.0)), 0.02),
       "a fifth within half a minute");
    ok(near(xb_pace_slow(&pace[0]), -0.412 * 10 * (1 - exp(-30 / 1000.0)), 0.01),
       "the others are quicker than the mean, of which less is ignored");
    go_on(90, slow, all_open);
    ok(xb_pace_slow(&pace[2]) > 0.674 * 10 * (1 - exp(-120 / 1000.0)) + 0.05,
       "found out: less is ignored");
    go_on(3000, slow, all_open);
    ok(near(xb_pace_slow(&pace[2]), XB_SLOW_MAX, 1e-6), "not beyond a factor of eight");
    go_on(6000, same, all_open);
    ok(near(xb_pace_slow(&pace[2]), 0, 0.01), "well again: forgotten");

    reset();
    for (int i = 0; i < N; i++) {
        for (int k = 0; k < 10; k++)
            xb_pace_note(&pace[i], slow[i]);
    }
    go_on(60, none, all_open);
    ok(xb_pace_slow(&pace[2]) == 0, "ten answers may be chance");
}

static void beginnings_and_ends(void)
{
    double before;

    reset();
    go_on(200, slow, all_open);
    before = xb_pace_slow(&pace[2]);
    go_on(1000, idle, all_open);
    ok(xb_pace_slow(&pace[2]) < before && xb_pace_slow(&pace[2]) > before / 4,
       "without answers it fades, and is tried again");

    reset();
    go_on(200, slow, all_open);
    before = xb_pace_slow(&pace[0]);
    generation[2]++;
    estimate(all_open);
    ok(xb_pace_slow(&pace[2]) == 0, "restarted: nothing is known of it");
    ok(near(xb_pace_slow(&pace[0]), before, 0.01), "but of the others");
    go_on(300, same, all_open);
    ok(near(xb_pace_slow(&pace[2]), 0, 0.2), "and what was known does not come back");

    reset();
    go_on(60, slow, two_open);
    ok(near(xb_pace_slow(&pace[0]), 0, 1e-6), "who takes no new sessions is no measure");
    ok(xb_pace_slow(&pace[2]) > 0.3, "but is measured");

    reset();
    go_on(60, absurd, all_open);
    now -= 30 * S;
    estimate(all_open);
    ok(fabs(xb_pace_slow(&pace[0])) <= XB_SLOW_MAX &&
           fabs(xb_pace_slow(&pace[2])) <= XB_SLOW_MAX,
       "absurd times and a clock that lags: within bounds");
    now += 3600 * S;
    before = xb_pace_slow(&pace[2]);
    estimate(all_open);
    ok(near(xb_pace_slow(&pace[2]), before, 0.2), "a pause without ticks: no leap");
}

int main(void)
{
    differences();
    beginnings_and_ends();
    return done();
}
