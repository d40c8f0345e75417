/* SPDX-License-Identifier: Apache-2.0 */
/* Collects what the status page shows from the shared memory and from the balancers of all
 * virtual hosts. Any thread of a child; no lock is held on return. */
#ifndef XNAT_SNAPSHOT_H
#define XNAT_SNAPSHOT_H

#include "apr_pools.h"

#include "xb_report.h"

/* In pool p, texts included. Walks the whole session table: not for the path of a request. */
const xb_report_t *xnat_snapshot(apr_pool_t *p);

#endif
