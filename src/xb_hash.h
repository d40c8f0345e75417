/* SPDX-License-Identifier: Apache-2.0 */
/* Keyed hash of session ids: table tags and the digests that stand for ids in logs and pages.
 * Pure functions, any thread. SipHash-2-4 (Aumasson, Bernstein 2012): a client that does not
 * know the key cannot aim its invented ids at one bucket. */
#ifndef XB_HASH_H
#define XB_HASH_H

#include <stddef.h>
#include <stdint.h>

typedef struct {
    uint64_t k0, k1;
} xb_key_t;

uint64_t xb_hash(const xb_key_t *key, const void *data, size_t len);

/* Hex digits of a digest, with the NUL. */
#define XB_DIGEST_SIZE 11

/* Writes ten hex digits that stand for the text in logs; useless without the key. */
void xb_digest(const xb_key_t *key, const void *data, size_t len, char out[XB_DIGEST_SIZE]);

#endif
