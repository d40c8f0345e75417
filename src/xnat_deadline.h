/* SPDX-License-Identifier: Apache-2.0 */
/* Total deadlines for sockets that httpd reads: one thread per child shuts a socket down when
 * its time is over, because socket time-outs are per read and a server that drips defeats them.
 * A deadline belongs to the thread that armed it; only the firing is done by others. */
#ifndef XNAT_DEADLINE_H
#define XNAT_DEADLINE_H

#include <stdbool.h>
#include <stdint.h>

#include "apr_network_io.h"
#include "apr_pools.h"

typedef struct xnat_deadline_t xnat_deadline_t;
struct xnat_deadline_t {
    xnat_deadline_t *next; /* list of the armed ones; all fields under the mutex */
    int64_t until_us;      /* monotonic */
    int fd;                /* a duplicate, so that it cannot be another's by now; -1 none */
    bool fired;
};

/* Starts the thread, all signals blocked; pchild's pre-cleanup stops and joins it. */
apr_status_t xnat_deadline_child_init(apr_pool_t *pchild);
/* Fires every armed deadline; from now on none can be armed. */
void xnat_deadline_stop(void);

/* false: stopped. Otherwise it is in the list until it is disarmed. */
bool xnat_deadline_arm(xnat_deadline_t *d, int64_t budget_us);
/* The socket to shut down, instead of the one before. false: none could be had, or time is over
 * and the socket is already shut. */
bool xnat_deadline_watch(xnat_deadline_t *d, apr_socket_t *sock);
/* Time left, 0 when it has fired. */
int64_t xnat_deadline_left_us(xnat_deadline_t *d);
/* true: time was over. */
bool xnat_deadline_disarm(xnat_deadline_t *d);

#endif
