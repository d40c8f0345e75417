/* SPDX-License-Identifier: Apache-2.0 */
/* Flush: the home is made to store what it has not stored yet of a session. */
#include "xnat_flush.h"

#include "xb_rule.h"
#include "xnat_mover.h"

/* A flush whose end cannot be seen gets so long, and a second for each 40 MB. */
#define BLIND_US 50000
/* A session that memcached does not have may be stored by the flush within this time: while its
 * user may be waiting, and while nobody is. */
#define MISSING_US 100000
#define MISSING_IDLE_US 500000

xb_refusal_t xnat_flush_check(xnat_steps_t *m)
{
    xb_msm_head_t header;
    xb_refusal_t why = xnat_move_check(m->hands, m->xb, &m->old, &header, &m->bytes);
    if (why == XB_REFUSALS) {
        m->stored_ms = header.last_backup_ms;
        xnat_steps_lives(m, &header);
    }
    return why;
}

/* The home has answered, but MSM stores later, in threads of its own, one after the other what
 * was asked for before: a large session's last requests may still be waiting there. What comes
 * after the takeover would make the old key anew. So it is over only when nothing has come for
 * longer than anything took before. before_ms = 0: it was not there at all. */
static xb_refusal_t wait_for_store(xnat_steps_t *m, int64_t before_ms)
{
    int64_t last_us = xnat_now_us(), now = last_us, still_us = XNAT_SETTLE_US;
    int64_t end = last_us + xnat_steps_left(m, m->xb->conf.gate_timeout / 3);
    int64_t most = m->job->kind == XNAT_JOB_VERIFY ? MISSING_IDLE_US : MISSING_US;
    int64_t missing_end = before_ms ? 0 : last_us + xnat_steps_left(m, most);
    apr_interval_time_t nap = 500;
    bool stored = false, still = false, there;
    xb_msm_head_t header;
    while ((there = xnat_move_header(m->hands, m->xb, &m->old, &header)) ||
           (!stored && xnat_now_us() < missing_end)) {
        now = xnat_now_us();
        if (there && header.last_backup_ms != before_ms) {
            still_us = (now - last_us) * 2 > still_us ? (now - last_us) * 2 : still_us;
            before_ms = header.last_backup_ms;
            last_us = now;
            stored = true;
        }
        else if (stored && (now - last_us >= still_us || !XB_RULE(STORED))) {
            still = true;
            break;
        }
        if (now >= end || xnat_mover_is_stopping()) {
            return XB_NO_FLUSH;
        }
        apr_sleep(nap);
        nap = nap < 8000 ? nap * 2 : nap;
    }
    xb_refusal_t why = xnat_flush_check(m);
    return why == XB_REFUSALS && !still ? XB_NO_FLUSH : why;
}

/* By a request as the client's: MSM stores what it takes for unwritten, or nothing, so there is
 * nothing to wait for but time. The home must not rename the session: its client would never
 * learn the new name. */
static xb_refusal_t flush_plainly(xnat_steps_t *m, int64_t patience_us)
{
    bool named;
    xb_refusal_t why =
        xnat_steps_ask(m, m->from_worker, m->old_text, m->old_text, patience_us, &named);
    if (why == XB_REFUSALS) {
        apr_sleep(BLIND_US +
                  (apr_interval_time_t)(m->bytes < 4000000 ? m->bytes : 4000000) / 40);
        why = xnat_flush_check(m);
    }
    return why;
}

/* An id of the session with a route that no node has looks to its home like a session that
 * failed over to it and is there already: the home answers with the id as it is and stores the
 * session, changed or not, so the store can be waited for. Where the container asks for a login
 * before MSM sees the request, that does not work. */
xb_refusal_t xnat_flush(xnat_steps_t *m, int64_t patience_us)
{
    int64_t before_ms = m->stored_ms;
    if (!XB_RULE(FLUSH) || !xnat_keeps_copies(m->xb)) {
        return XB_REFUSALS;
    }
    xb_refusal_t why =
        xnat_steps_ask_home(m, m->from_worker, m->old_text, patience_us, &m->named);
    if (why != XB_NO_FLUSH) {
        why = m->named ? wait_for_store(m, before_ms) : flush_plainly(m, patience_us);
    }
    m->in_vain = why == XB_NO_MARKER && m->named;
    return why;
}
