/* SPDX-License-Identifier: Apache-2.0 */
/* SipHash-2-4 and the digests that stand for session ids. */
#include "xb_hash.h"

typedef struct {
    uint64_t v0, v1, v2, v3;
} sip_t;

static uint64_t rotl(uint64_t x, unsigned bits)
{
    return x << bits | x >> (64 - bits);
}

static inline void sip_round(sip_t *s)
{
    s->v0 += s->v1;
    s->v1 = rotl(s->v1, 13) ^ s->v0;
    s->v0 = rotl(s->v0, 32);
    s->v2 += s->v3;
    s->v3 = rotl(s->v3, 16) ^ s->v2;
    s->v0 += s->v3;
    s->v3 = rotl(s->v3, 21) ^ s->v0;
    s->v2 += s->v1;
    s->v1 = rotl(s->v1, 17) ^ s->v2;
    s->v2 = rotl(s->v2, 32);
}

static inline void sip_word(sip_t *s, uint64_t word)
{
    s->v3 ^= word;
    sip_round(s);
    sip_round(s);
    s->v0 ^= word;
}

/* Little endian on every machine: front ends of two kinds agree. */
static uint64_t load_le(const uint8_t *p, size_t n)
{
    uint64_t word = 0;
    for (size_t i = 0; i < n; i++)
        word |= (uint64_t)p[i] << (8 * i);
    return word;
}

/* Written out, so that compilers make one load of it. */
static uint64_t load_le8(const uint8_t *p)
{
    return (uint64_t)p[0] | (uint64_t)p[1] << 8 | (uint64_t)p[2] << 16 | (uint64_t)p[3] << 24 |
           (uint64_t)p[4] << 32 | (uint64_t)p[5] << 40 | (uint64_t)p[6] << 48 |
           (uint64_t)p[7] << 56;
}

uint64_t xb_hash(const xb_key_t *key, const void *data, size_t len)
{
    const uint8_t *p = data;
    size_t left = len;
    sip_t s = {key->k0 ^ 0x736f6d6570736575u, key->k1 ^ 0x646f72616e646f6du,
               key->k0 ^ 0x6c7967656e657261u, key->k1 ^ 0x7465646279746573u};

    for (; left >= 8; p += 8, left -= 8)
        sip_word(&s, load_le8(p));
    sip_word(&s, load_le(p, left) | (uint64_t)len << 56);
    s.v2 ^= 0xff;
    sip_round(&s);
    sip_round(&s);
    sip_round(&s);
    sip_round(&s);
    return s.v0 ^ s.v1 ^ s.v2 ^ s.v3;
}

void xb_digest(const xb_key_t *key, const void *data, size_t len, char out[XB_DIGEST_SIZE])
{
    static const char hex[] = "0123456789abcdef";
    uint64_t tag = xb_hash(key, data, len);
    uint8_t bytes[8];

    /* Hashed twice: a log must not show bits of the table's tags. */
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (uint8_t)(tag >> (8 * i));
    tag = xb_hash(key, bytes, sizeof bytes);
    for (size_t i = 0; i < XB_DIGEST_SIZE - 1; i++, tag >>= 4)
        out[i] = hex[tag & 15];
    out[XB_DIGEST_SIZE - 1] = '\0';
}
