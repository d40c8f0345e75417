/* SPDX-License-Identifier: Apache-2.0 */
/* Fuzzes node lists and key parts: what is parsed can be written out and parsed to the same,
 * and a key never has a byte that memcached would take for syntax. */
#include <assert.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "xb_msm.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void write_out(const xb_msm_nodes_t *nodes, char *out, size_t size, bool *ipv6)
{
    size_t n = 0;
    *ipv6 = false;
    for (unsigned i = 0; i < nodes->count; i++) {
        const xb_msm_node_t *at = &nodes->node[i];
        bool six = strchr(at->host, ':') != NULL;
        n += (size_t)snprintf(out + n, size - n, six ? "%s%s%s[%s]:%u" : "%s%s%s%s:%u",
                              i ? "," : "", at->id, *at->id ? ":" : "", at->host, at->port);
        *ipv6 = *ipv6 || six;
    }
}

static void check_nodes(const char *text)
{
    static xb_msm_nodes_t nodes, again;
    static char out[XB_MSM_NODES_MAX * 320];
    const char *wrong = xb_msm_nodes_parse(text, &nodes);
    bool superset = xb_msm_nodes_superset(text), ipv6;

    if (wrong) {
        assert(strncmp(wrong, "wants ", 6) == 0);
        return;
    }
    assert(nodes.count >= 1 && nodes.count <= XB_MSM_NODES_MAX);
    write_out(&nodes, out, sizeof out, &ipv6);
    assert(!xb_msm_nodes_parse(out, &again) && !memcmp(&nodes, &again, sizeof nodes));
    assert(xb_msm_nodes_superset(out) == ipv6 && (superset || !ipv6));
    for (unsigned i = 0; i < nodes.count; i++) {
        xb_span_t name = {nodes.node[i].id, strlen(nodes.node[i].id)};
        xb_id_t id = {.node = name};
        assert(nodes.node[i].port && *nodes.node[i].host && (name.n || nodes.count == 1));
        assert(xb_msm_node_of(&nodes, &id) == (int)i);
    }
}

static void check_key(const char *key, size_t n)
{
    assert(n <= XB_MSM_KEY_MAX && strlen(key) == n);
    for (size_t i = 0; i < n; i++)
        assert(key[i] > ' ' && key[i] < 0x7f);
}

static void check_keys(const char *text, size_t size)
{
    char key[XB_MSM_KEY_MAX + 1], id[XB_ID_MAX];
    size_t n;

    memset(id, 'i', sizeof id);
    n = xb_msm_key(key, "validity:", text, (xb_span_t){id, sizeof id});
    check_key(key, n);
    assert(xb_msm_prefix_check(text) || n > sizeof id);
    n = xb_msm_key(key, "", NULL, (xb_span_t){text, size});
    check_key(key, n);
    assert(n == 0 || (n == size && memcmp(key, text, n) == 0));
    n = xb_msm_marker_key(key, "moved", (xb_span_t){text, size});
    check_key(key, n);
    assert(n == 0 || n == size + strlen("xnat-balance:moved:"));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = malloc(size + 1);

    if (size)
        memcpy(text, data, size);
    text[size] = '\0';
    check_nodes(text);
    check_keys(text, size);
    free(text);
    return 0;
}
