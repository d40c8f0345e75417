/* SPDX-License-Identifier: Apache-2.0 */
/* When members answered last, and when they did not. */
#include "xnat_health.h"

#include <stdatomic.h>

#include "xnat_shm.h"

#define LATELY_US (5 * INT64_C(1000000))

/* 0: never. Relaxed: they guard no other memory. */
static struct {
    _Atomic int64_t answered_us, silent_us;
} health[XB_MEMBERS_MAX];

static void set(_Atomic int64_t *at_us, int64_t now_us)
{
    atomic_store_explicit(at_us, now_us, memory_order_relaxed);
}

static bool is_recent(_Atomic int64_t *at_us)
{
    int64_t at = atomic_load_explicit(at_us, memory_order_relaxed);
    return at && xnat_now_us() - at < LATELY_US;
}

void xnat_health_answered(unsigned member)
{
    if (member < XB_MEMBERS_MAX) {
        set(&health[member].answered_us, xnat_now_us());
        set(&health[member].silent_us, 0);
    }
}

void xnat_health_doubt(unsigned member)
{
    if (member < XB_MEMBERS_MAX) {
        set(&health[member].answered_us, 0);
    }
}

void xnat_health_silent(unsigned member)
{
    if (member < XB_MEMBERS_MAX) {
        set(&health[member].answered_us, 0);
        set(&health[member].silent_us, xnat_now_us());
    }
}

bool xnat_health_is_well(unsigned member)
{
    return member < XB_MEMBERS_MAX && is_recent(&health[member].answered_us);
}

bool xnat_health_is_silent(unsigned member)
{
    return member < XB_MEMBERS_MAX && is_recent(&health[member].silent_us);
}
