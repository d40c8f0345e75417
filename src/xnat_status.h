/* SPDX-License-Identifier: Apache-2.0 */
/* The status page (SetHandler xnat-balance-status) and the module's lines on mod_status' page.
 */
#ifndef XNAT_STATUS_H
#define XNAT_STATUS_H

#include "apr_pools.h"

void xnat_status_register_hooks(apr_pool_t *p);

#endif
