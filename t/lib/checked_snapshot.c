/* SPDX-License-Identifier: Apache-2.0 */
/* In place of src/xnat_snapshot.c in the module of t/600-kill.t: the status page gives what the
 * table's validator says instead of a version. */
#define xnat_snapshot plain_snapshot
#include "xnat_snapshot.c"
#undef xnat_snapshot

const xb_report_t *xnat_snapshot(apr_pool_t *p)
{
    uint32_t where;
    xb_report_t *r = apr_pmemdup(p, plain_snapshot(p), sizeof *r);
    unsigned bad = xb_table_validate(xnat_table, &where);
    r->version =
        bad ? apr_psprintf(p, "%u contradictions, the first at %u", bad, where) : "valid";
    return r;
}
