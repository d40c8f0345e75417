/* SPDX-License-Identifier: Apache-2.0 */
/* Names of memcacheds and their addresses. */
#include "xb_store_names.h"

#include <netdb.h>
#include <stdio.h>
#include <string.h>

static unsigned resolve(const xb_msm_node_t *node, int flags,
                        xb_store_addr_t out[XB_STORE_ADDRS_MAX])
{
    struct addrinfo hints = {
        .ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = flags};
    struct addrinfo *list;
    char port[8];
    unsigned n = 0;

    snprintf(port, sizeof port, "%u", node->port);
    if (getaddrinfo(node->host, port, &hints, &list) != 0)
        return 0;
    for (struct addrinfo *a = list; a && n < XB_STORE_ADDRS_MAX; a = a->ai_next) {
        if (a->ai_addrlen <= sizeof *out)
            memcpy(&out[n++], a->ai_addr, a->ai_addrlen);
    }
    freeaddrinfo(list);
    return n;
}

unsigned xb_store_numeric(const xb_msm_node_t *node, xb_store_addr_t out[XB_STORE_ADDRS_MAX])
{
    return resolve(node, AI_NUMERICHOST | AI_NUMERICSERV, out);
}

void xb_store_names_init(xb_store_names_t *names, const xb_msm_nodes_t *nodes)
{
    xb_store_addr_t unused[XB_STORE_ADDRS_MAX];

    memset(names, 0, sizeof *names);
    pthread_mutex_init(&names->lock, NULL);
    names->nodes = nodes;
    for (unsigned i = 0; i < nodes->count; i++)
        names->node[i].wanted = !xb_store_numeric(&nodes->node[i], unused);
}

void xb_store_names_find(xb_store_names_t *names)
{
    for (unsigned i = 0; i < names->nodes->count; i++) {
        xb_store_addr_t addr[XB_STORE_ADDRS_MAX];
        unsigned n;
        bool wanted;

        pthread_mutex_lock(&names->lock);
        wanted = names->node[i].wanted;
        pthread_mutex_unlock(&names->lock);
        n = wanted ? resolve(&names->nodes->node[i], AI_NUMERICSERV, addr) : 0;
        if (n == 0)
            continue;
        pthread_mutex_lock(&names->lock);
        memcpy(names->node[i].addr, addr, n * sizeof *addr);
        names->node[i].n = n;
        names->node[i].wanted = false;
        pthread_mutex_unlock(&names->lock);
    }
}

unsigned xb_store_names_get(xb_store_names_t *names, unsigned node,
                            xb_store_addr_t out[XB_STORE_ADDRS_MAX])
{
    unsigned n;

    pthread_mutex_lock(&names->lock);
    n = names->node[node].n;
    memcpy(out, names->node[node].addr, n * sizeof *out);
    pthread_mutex_unlock(&names->lock);
    return n;
}

void xb_store_names_want(xb_store_names_t *names, unsigned node)
{
    pthread_mutex_lock(&names->lock);
    names->node[node].wanted = true;
    pthread_mutex_unlock(&names->lock);
}
