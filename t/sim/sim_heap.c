/* SPDX-License-Identifier: Apache-2.0 */
/* Binary heaps, random numbers, memory. */
#include "sim.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

void *sim_memory(void *old, size_t count, size_t size)
{
    void *p = realloc(old, count * size);

    if (!p) {
        fputs("out of memory\n", stderr);
        exit(1);
    }
    return p;
}

static bool before(const sim_item_t *a, const sim_item_t *b)
{
    if (a->key != b->key)
        return a->key < b->key;
    return a->kind != b->kind ? a->kind < b->kind : a->id < b->id;
}

void sim_heap_push(sim_heap_t *h, sim_item_t item)
{
    if (h->n == h->room) {
        h->room = h->room ? 2 * h->room : 64;
        h->item = sim_memory(h->item, h->room, sizeof *h->item);
    }
    size_t i = h->n++;

    for (; i && before(&item, &h->item[(i - 1) / 2]); i = (i - 1) / 2)
        h->item[i] = h->item[(i - 1) / 2];
    h->item[i] = item;
}

sim_item_t sim_heap_pop(sim_heap_t *h)
{
    sim_item_t top = h->item[0], last = h->item[--h->n];
    size_t i = 0;

    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= h->n)
            break;
        if (child + 1 < h->n && before(&h->item[child + 1], &h->item[child]))
            child++;
        if (!before(&h->item[child], &last))
            break;
        h->item[i] = h->item[child];
        i = child;
    }
    h->item[i] = last;
    return top;
}

uint64_t sim_word(sim_rng_t *r)
{
    uint64_t z = (r->word += 0x9E3779B97F4A7C15u);

    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

double sim_uniform(sim_rng_t *r)
{
    return ((double)(sim_word(r) >> 11) + 0.5) * (1.0 / 9007199254740992.0);
}

double sim_exponential(sim_rng_t *r, double mean)
{
    return -mean * log(sim_uniform(r));
}
