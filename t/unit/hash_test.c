/* SPDX-License-Identifier: Apache-2.0 */
/* xb_hash against the reference vectors of SipHash-2-4, and what digests must not show. */
#include "tap.h"
#include "xb_hash.h"

static const xb_key_t ref_key = {0x0706050403020100u, 0x0f0e0d0c0b0a0908u};

/* The authors' vectors: input 00 01 02 ... of each length. */
static const uint64_t vectors[] = {
    0x726fdb47dd0e0e31u, 0x74f839c593dc67fdu, 0x0d6c8009d9a94f5au, 0x85676696d7fb7e2du,
    0xcf2794e0277187b7u, 0x18765564cd99a68du, 0xcbc9466e58fee3ceu, 0xab0200f58b01d137u,
    0x93f5f5799a932462u, 0x9e0082df0ba9e4b0u, 0x7a5dbbc594ddb9f3u, 0xf4b32f46226bada7u,
    0x751e8fbc860ee5fbu, 0x14ea5627c0843d90u, 0xf723ca908e7af2eeu, 0xa129ca6149be45e5u,
};

static void reference(void)
{
    uint8_t in[64];
    for (size_t i = 0; i < sizeof in; i++)
        in[i] = (uint8_t)i;
    for (size_t n = 0; n < sizeof vectors / sizeof *vectors; n++)
        ok(xb_hash(&ref_key, guarded(in, n), n) == vectors[n], "vector of %zu bytes", n);
    ok(xb_hash(&ref_key, in, 63) == 0x958a324ceb064572u, "vector of 63 bytes");
    ok(xb_hash(&ref_key, NULL, 0) == vectors[0], "no bytes at all, NULL");
}

static void alignment(void)
{
    char room[40] = "_0123456789abcdef0123456789ABCDEF-n1";
    uint64_t want = xb_hash(&ref_key, "0123456789abcdef0123456789ABCDEF-n1", 35);
    ok(xb_hash(&ref_key, room + 1, 35) == want, "an odd address gives the same hash");
}

static void digests(void)
{
    const xb_key_t other = {ref_key.k0, ref_key.k1 ^ 1};
    const char *id = "0123456789ABCDEF0123456789ABCDEF-n1";
    char a[XB_DIGEST_SIZE], b[XB_DIGEST_SIZE], tag[17];

    xb_digest(&ref_key, id, strlen(id), a);
    is_int((long long)strlen(a), XB_DIGEST_SIZE - 1, "a digest fills its buffer");
    is_int((long long)strspn(a, "0123456789abcdef"), XB_DIGEST_SIZE - 1, "hex digits only");
    xb_digest(&ref_key, id, strlen(id), b);
    is_str(b, a, "the same text has the same digest");
    xb_digest(&ref_key, id, strlen(id) - 1, b);
    ok(strcmp(a, b) != 0, "another text has another");
    xb_digest(&other, id, strlen(id), b);
    ok(strcmp(a, b) != 0, "another key gives another");
    snprintf(tag, sizeof tag, "%016llx", (unsigned long long)xb_hash(&ref_key, id, strlen(id)));
    ok(!strstr(tag, a) && strncmp(tag, a, 4) != 0, "a digest shows no part of the table's tag");
}

int main(void)
{
    reference();
    alignment();
    digests();
    return done();
}
