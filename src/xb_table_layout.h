/* SPDX-License-Identifier: Apache-2.0 */
/* Inside of the session table: its layout in shared memory and what its files share. Included
 * by xb_table*.c only. `_locked`: the caller holds the table's lock. */
#ifndef XB_TABLE_LAYOUT_H
#define XB_TABLE_LAYOUT_H

#include <pthread.h>
#include <stdatomic.h>

#include "xb_member.h"
#include "xb_table.h"

#define XB_TABLE_MAGIC 0x31656c6261746278u /* "xbtable1" */
#define XB_TABLE_VERSION 2u
/* A visited member: 1 << 63 asked | requests then << 51 | member + 1 << 41 | touched, in ms. */
#define XB_VISITED_ASKED (UINT64_C(1) << 63)
#define XB_VISITED_REQUESTS(v) ((v) >> 51 & 0xfff)
#define XB_VISITED_MEMBER(v) ((v) >> 41 & 0x3ff)
#define XB_VISITED_MS(v) ((v) & ((UINT64_C(1) << 41) - 1))
#define XB_BUCKET 8u
#define XB_SLOT_NONE UINT32_MAX
#define XB_SECOND_US INT64_C(1000000)
/* Tomcat looks for expired sessions once in ten seconds; its clock and ours may differ. */
#define XB_EXPIRY_SLACK_S 60
#define XB_INACTIVE_UNKNOWN_S 86400

typedef struct {
    _Atomic uint64_t word;
    _Atomic int64_t last_us, bar_until_us;
    _Atomic uint64_t traffic; /* float's bits << 32 | its time in ms */
    _Atomic uint32_t requests, created_s, max_inactive_s;
    _Atomic uint16_t target;
    _Atomic uint8_t flags, path;
    _Atomic int64_t gated_us;
    _Atomic uint64_t visited[XB_VISITED_MAX]; /* XB_VISITED_...; 0: none */
    _Atomic uint8_t id_len;                   /* 0 while the text is being written */
    char id[XB_ID_MAX];                       /* under the lock */
} xb_entry_t;

_Static_assert(sizeof(xb_entry_t) == 208, "layout of an entry");
_Static_assert(offsetof(xb_entry_t, gated_us) == 48, "what each request touches comes first");
_Static_assert(offsetof(xb_entry_t, id) == 105, "layout of an entry");
_Static_assert((sizeof(xb_entry_t) + sizeof(uint64_t)) * 9 / 8 <= 256, "memory of a session");
_Static_assert(XB_ID_MAX <= UINT8_MAX, "id_len");
_Static_assert(sizeof(_Atomic uint64_t) == 8 && sizeof(_Atomic uint16_t) == 2, "plain atomics");

/* One child. A dead one's is freed under the lock only: who repairs it cannot hit its
 * successor. */
typedef struct {
    _Atomic uint64_t owner; /* state << 32 | pid */
    _Atomic uint32_t next;  /* where the next thread starts to look for a free claim */
    uint32_t pad[13];
    _Atomic uint64_t claim[]; /* state << 62 | home << 46 | epoch << 32 | slot; 0: free */
} xb_row_t;

enum { XB_ROW_FREE = 0, XB_ROW_LIVING = 1, XB_ROW_DEAD = 2 };
enum { XB_CLAIM_FREE = 0, XB_CLAIM_INTENT = 1, XB_CLAIM_COUNTED = 2, XB_CLAIM_LEAVING = 3 };

_Static_assert(sizeof(xb_row_t) == 64, "layout of a row");

/* `dirty`: slot + 1 that the holder of the lock is changing in more than one step, with the
 * kind; the one who finds him dead repairs that slot. */
#define XB_DIRTY_RENAME 0x80000000u

struct xb_table {
    uint64_t magic;
    uint32_t version, entry_size;
    xb_table_dim_t dim;
    uint32_t buckets, slots, row_size;
    uint64_t tags_at, entries_at, rows_at, size; /* bytes from here */
    uint8_t pad[56];                             /* the above is only read */
    pthread_mutex_t lock;
    _Atomic uint32_t dirty;
    uint8_t pad2[64 - sizeof(pthread_mutex_t) - sizeof(uint32_t)];
};

_Static_assert(offsetof(struct xb_table, lock) == 128, "layout of the header");
_Static_assert(sizeof(struct xb_table) % 64 == 0, "tags start on a cache line");

static inline _Atomic uint64_t *xb_table_tags(const xb_table_t *t)
{
    return (_Atomic uint64_t *)((char *)t + t->tags_at);
}

static inline xb_entry_t *xb_table_entry(const xb_table_t *t, uint32_t slot)
{
    return (xb_entry_t *)((char *)t + t->entries_at) + slot;
}

static inline xb_row_t *xb_table_row(const xb_table_t *t, unsigned child)
{
    return (xb_row_t *)((char *)t + t->rows_at + (uint64_t)child * t->row_size);
}

/* The two halves of a keyed hash are independent. */
static inline void xb_table_buckets(const xb_table_t *t, uint64_t tag, uint32_t bucket[2])
{
    bucket[0] = (uint32_t)((tag & UINT32_MAX) * t->buckets >> 32);
    bucket[1] = (uint32_t)((tag >> 32) * t->buckets >> 32);
    if (bucket[0] == bucket[1])
        bucket[1] = (bucket[0] + 1) % t->buckets;
}

static inline uint64_t xb_claim_pack(unsigned state, unsigned epoch, uint32_t slot)
{
    return (uint64_t)state << 62 | (uint64_t)epoch << 32 | slot;
}

/* A counted claim also tells the home that its request was let through to: bits 46 to 55. */
static inline uint64_t xb_claim_counted(unsigned epoch, uint32_t slot, unsigned home)
{
    return xb_claim_pack(XB_CLAIM_COUNTED, epoch, slot) | (uint64_t)(home & XB_HOME_MASK) << 46;
}

static inline bool xb_claim_is_counted(uint64_t claim, unsigned epoch, uint32_t slot)
{
    return (claim & ~((uint64_t)XB_HOME_MASK << 46)) ==
           xb_claim_pack(XB_CLAIM_COUNTED, epoch, slot);
}

static inline unsigned xb_claim_home(uint64_t claim)
{
    return (unsigned)(claim >> 46) & XB_HOME_MASK;
}

static inline unsigned xb_claim_state(uint64_t claim)
{
    return (unsigned)(claim >> 62);
}

static inline uint64_t xb_row_owner(unsigned state, int32_t pid)
{
    return (uint64_t)state << 32 | (uint32_t)pid;
}

static inline unsigned xb_row_state(const xb_row_t *row)
{
    return (unsigned)(atomic_load(&row->owner) >> 32);
}

static inline xb_word_t xb_entry_word(xb_entry_t *e)
{
    return xb_word_unpack(atomic_load(&e->word));
}

static inline bool xb_entry_swap(xb_entry_t *e, xb_word_t from, xb_word_t to)
{
    uint64_t seen = xb_word_pack(from);
    return atomic_compare_exchange_strong(&e->word, &seen, xb_word_pack(to));
}

/* Times only grow, whoever comes last. */
static inline void xb_raise(_Atomic int64_t *at, int64_t to)
{
    int64_t now = atomic_load_explicit(at, memory_order_relaxed);
    while (now < to && !atomic_compare_exchange_weak(at, &now, to))
        ;
}

static inline unsigned xb_visited_member(uint64_t visited)
{
    return (unsigned)XB_VISITED_MEMBER(visited) - 1;
}

static inline int64_t xb_visited_us(uint64_t visited)
{
    return (int64_t)XB_VISITED_MS(visited) * 1000;
}

/* False: the lock is beyond repair. A dead holder's change has been repaired. */
bool xb_table_lock(xb_table_t *t);
void xb_table_unlock(xb_table_t *t);
/* Forgets the slot if it is an ended session's and nothing is in flight. wait: for the lock. */
void xb_table_reap(xb_table_t *t, uint32_t slot, bool wait);
void xb_entry_reap_locked(xb_table_t *t, uint32_t slot);

/* Makes what a walk saw of the slot before void (rule WORD), if its gate is open. Returns the
 * word that it left. */
xb_word_t xb_entry_stir(xb_entry_t *e);
/* Has the copy at a visited node died of age? */
bool xb_entry_copy_died(xb_entry_t *e, uint64_t visited, int64_t now_us);
void xb_entry_visit_locked(xb_entry_t *e, unsigned member, int64_t now_us);
/* Only if it is listed: no lock. */
bool xb_entry_revisit(xb_entry_t *e, unsigned member, int64_t now_us);
void xb_entry_rename_locked(xb_entry_t *e, xb_span_t id);

/* A free claim of the child's row, now INTENT on the slot. False: none. */
bool xb_claim_take(xb_table_t *t, unsigned child, uint32_t slot, uint32_t *claim);
/* Requests in flight at a slot by what living children have written down. False: one is just
 * coming or going. */
bool xb_claim_count(const xb_table_t *t, uint32_t slot, unsigned epoch, unsigned *count);

#endif
