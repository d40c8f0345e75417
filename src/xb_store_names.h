/* SPDX-License-Identifier: Apache-2.0 */
/* Addresses of memcacheds that are given by name. DNS may take seconds, so one thread looks
 * names up, which nothing waits for; stores of other threads of its process use what it has
 * found. */
#ifndef XB_STORE_NAMES_H
#define XB_STORE_NAMES_H

#include <netinet/in.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "xb_msm.h"

#define XB_STORE_ADDRS_MAX 4

typedef union {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
} xb_store_addr_t;

typedef struct {
    pthread_mutex_t lock;
    const xb_msm_nodes_t *nodes; /* outlives it */
    struct {
        xb_store_addr_t addr[XB_STORE_ADDRS_MAX];
        unsigned n;
        bool wanted; /* none is known, or none has answered */
    } node[XB_MSM_NODES_MAX];
} xb_store_names_t;

void xb_store_names_init(xb_store_names_t *names, const xb_msm_nodes_t *nodes);
/* Looks up what is wanted. May wait for DNS: the one thread's. */
void xb_store_names_find(xb_store_names_t *names);
/* Copies the addresses of a node, 0: none is known. Never waits. */
unsigned xb_store_names_get(xb_store_names_t *names, unsigned node,
                            xb_store_addr_t out[XB_STORE_ADDRS_MAX]);
/* None of them answers: the name may have moved. */
void xb_store_names_want(xb_store_names_t *names, unsigned node);
/* The addresses of a node that is given by them, without DNS. 0: it is given by name. */
unsigned xb_store_numeric(const xb_msm_node_t *node, xb_store_addr_t out[XB_STORE_ADDRS_MAX]);

#endif
