/* SPDX-License-Identifier: Apache-2.0 */
/* Rescue of a session whose home cannot serve, and look-up of one that nobody remembers. */
#include "xnat_rescue.h"

#include "apr_strings.h"

#include "mod_xnat_balance.h"
#include "xb_rule.h"
#include "xnat_fleet.h"
#include "xnat_flush.h"
#include "xnat_health.h"
#include "xnat_mover.h"
#include "xnat_log.h"
#include "xnat_release.h"

/* Targets that are tried before those who wait get 503. */
#define TRIES 3
/* A home that is only marked in error may still answer a flush, quickly; one that did not is
 * not asked again for a while. */
#define FLUSH_US 300000

/* ---- who has it */

/* Instead of a position: no member has it, nobody can tell, or it is being taken over. */
enum { NOWHERE = -1, NOT_KNOWN = -2, NOT_YET = -3 };

/* Position of the member with this route, -1: none. The text may come from memcached. */
static int position_of_route(const xnat_fleet_t *f, const char *route)
{
    for (unsigned i = 0; i < f->n; i++) {
        if (*route && !strcmp(f->worker[i]->s->route, route)) {
            return (int)i;
        }
    }
    return -1;
}

/* The session's id as the member at this position would name it. */
static bool name_at(const xnat_steps_t *m, const xnat_fleet_t *f, unsigned at, char *out,
                    size_t size)
{
    int n = apr_snprintf(out, size, "%.*s%c%s", (int)m->old.base.n, m->old.base.p,
                         m->xb->balancer->s->sticky_separator, f->worker[at]->s->route);
    return n > 0 && (size_t)n < size - 1 && n <= XB_ID_MAX;
}

/* Under the routes of which of the members from *next on is the session stored, of as many as
 * one question takes? False: nobody can tell. */
static bool ask_for_keys(const xnat_steps_t *m, const xnat_fleet_t *f, unsigned *next,
                         bool *here)
{
    char text[XB_STORE_KEYS_MAX][XB_ID_MAX + 2];
    const char *ids[XB_STORE_KEYS_MAX];
    unsigned n = 0, at[XB_STORE_KEYS_MAX];
    uint32_t mask = 0;
    for (; *next < f->n && n < XB_STORE_KEYS_MAX; ++*next) {
        if (*f->worker[*next]->s->route && name_at(m, f, *next, text[n], sizeof text[n])) {
            ids[n] = text[n];
            at[n++] = *next;
        }
    }
    if (n > 0 && !xnat_move_which(m->hands, m->xb, &m->old, ids, n, &mask)) {
        return false;
    }
    for (unsigned k = 0; k < n; k++) {
        here[at[k]] = mask >> k & 1;
    }
    return true;
}

/* How the members, other than the home, were asked to take the session over, by position. */
typedef struct {
    int64_t at_us[XNAT_FLEET_MAX]; /* 0: it was not */
    bool since[XNAT_FLEET_MAX];    /* after its last request */
    bool at_it[XNAT_FLEET_MAX];    /* it may not have done yet */
    bool any;                      /* one of them may not */
} asked_t;

static asked_t was_asked(const xnat_steps_t *m, const xnat_fleet_t *f)
{
    asked_t asked = {.any = false};
    int64_t now = xnat_now_us();
    xb_view_t v;
    if (!xb_table_view(xnat_table, m->job->slot, &v)) {
        return asked;
    }
    for (unsigned i = 0; i < v.visited_count; i++) {
        int at = xnat_fleet_position(f, v.visited[i].member);
        if (at >= 0 && v.visited[i].asked && v.visited[i].member != m->from) {
            asked.at_us[at] = v.visited[i].touched_us;
            asked.since[at] = v.visited[i].since;
            asked.at_it[at] = asked.at_us[at] > now - XNAT_AT_IT_US &&
                              asked.at_us[at] > xnat_fleet_reborn_us(v.visited[i].member);
            asked.any = asked.any || asked.at_it[at];
        }
    }
    return asked;
}

/* Rule LATE: of several keys that of a member counts that was asked since the last request;
 * else that of the one that was asked last, since others may be of old copies, and none while a
 * later one may still be at it. */
static int position_of_last(const xnat_steps_t *m, const xnat_fleet_t *f, const bool *here)
{
    asked_t asked = was_asked(m, f);
    int last = NOWHERE;
    for (unsigned i = 0; i < f->n; i++) {
        if (here[i] && (last < 0 || asked.at_us[i] > asked.at_us[last])) {
            last = (int)i;
        }
        if (here[i] && asked.since[i]) {
            return (int)i;
        }
    }
    for (unsigned i = 0; asked.any && XB_RULE(LATE) && i < f->n; i++) {
        if (asked.at_it[i] && !here[i] && (last < 0 || asked.at_us[i] > asked.at_us[last])) {
            return NOT_YET;
        }
    }
    return last;
}

/* Rule ANYKEY: position of a member under whose route the session is stored; the preferred one
 * if that is among them. */
static int position_of_key(const xnat_steps_t *m, const xnat_fleet_t *f, int preferred)
{
    bool here[XNAT_FLEET_MAX] = {false};
    unsigned next = 0;
    do {
        if (!ask_for_keys(m, f, &next, here)) {
            return NOT_KNOWN;
        }
    } while (next < f->n);
    return preferred >= 0 && here[preferred] ? preferred : position_of_last(m, f, here);
}

/* Does this member hold the session? One that does answers the flush's id with its own, and
 * stores it. One that asks for a login first gets the benefit of the doubt; one that cannot
 * serve, or does not answer, does not. */
static bool holds(xnat_steps_t *m, const xnat_fleet_t *f, unsigned at)
{
    char text[XB_ID_MAX + 2];
    bool named;
    if (!PROXY_WORKER_IS_USABLE(f->worker[at]) || !name_at(m, f, at, text, sizeof text)) {
        return false;
    }
    xb_refusal_t why =
        xnat_steps_ask_home(m, f->worker[at], text, m->xb->conf.gate_timeout / 4, &named);
    return why != XB_NO_FLUSH && (named || m->barred);
}

/* What speaks for an owner. */
typedef struct {
    int key;     /* position whose key it goes by; NOWHERE, NOT_KNOWN, NOT_YET: by none */
    bool marked; /* the moved marker: it has been at others before */
} owner_t;

/* Rule MARK: where the moved marker says. Only if memcached has the session under other names
 * than that, its node is asked: a key of old may be a former home's, but a move that was cut
 * short leaves a marker of a home that may have lost its copy since. Markers that differ, since
 * a memcached was away, leave it to the keys. As above. */
static int position_of_owner(xnat_steps_t *m, const xnat_fleet_t *f, int preferred,
                             owner_t *how)
{
    char route[PROXY_WORKER_MAX_ROUTE_SIZE];
    bool known = true, agreed = true;
    int marked = -1;
    if (XB_RULE(MARK) && xnat_move_marked(m->hands, m->xb, &m->old, route, &known, &agreed)) {
        marked = position_of_route(f, route);
    }
    int at = position_of_key(m, f, marked >= 0 ? marked : preferred);
    *how = (owner_t){.key = at, .marked = marked >= 0};
    if (at != NOT_YET && marked >= 0 &&
        (at < 0 || at == marked ||
         (agreed && (!XB_RULE(ASK) || holds(m, f, (unsigned)marked))))) {
        how->key = at >= 0 ? marked : at;
        return marked;
    }
    return at == NOWHERE && !known ? NOT_KNOWN : at;
}

/* ---- unknown sessions */

static void go_on_at(xnat_steps_t *m, const xnat_fleet_t *f, unsigned at)
{
    m->to = f->member[at];
    m->to_worker = f->worker[at];
    xnat_steps_guess_fresh(m);
}

xb_refusal_t xnat_rescue_look_up(xnat_steps_t *m)
{
    xnat_fleet_t fleet;
    xnat_fleet_snapshot((xnat_balancer_t *)m->xb, false, xnat_now_us(), &fleet);
    int preferred = xnat_fleet_position(&fleet, m->from);
    owner_t how;
    int owner = position_of_owner(m, &fleet, preferred, &how);
    xnat_count(owner == NOT_KNOWN ? &xnat_shm->not_looked_up : &xnat_shm->looked_up);
    if (owner >= 0) { /* memcached knows it, not only its client */
        xb_table_flag(xnat_table, m->job->slot, 0, XB_SESSION_UNPROVEN);
        /* and so there may be others that have not come yet */
        __atomic_store_n((int64_t *)&xnat_shm->elders_us, xnat_shm->started_us,
                         __ATOMIC_RELAXED);
    }
    go_on_at(m, &fleet, (unsigned)(owner >= 0 ? owner : preferred >= 0 ? preferred : 0));
    return owner >= 0 && owner != preferred ? XB_REFUSALS : XB_NO_TOKEN;
}

/* ---- lost homes */

/* A member that is disabled, or in error by mistake, lives: what it has not stored yet is
 * stored by a flush, as for a voluntary move. */
static void try_flush(xnat_steps_t *m)
{
    xb_msm_head_t header;
    if (!m->from_worker || xnat_health_is_silent(m->from) || m->path >= XNAT_PATHS_MAX) {
        return;
    }
    if (xnat_move_header(m->hands, m->xb, &m->old, &header)) {
        m->stored_ms = header.last_backup_ms;
    }
    if (xnat_flush(m, FLUSH_US) == XB_NO_FLUSH && !m->named) {
        xnat_health_silent(m->from);
    }
}

static void avoid(xnat_steps_t *m, unsigned member)
{
    m->avoid[member / 64] |= UINT64_C(1) << member % 64;
}

static bool is_avoided(const xnat_steps_t *m, unsigned member)
{
    return m->avoid[member / 64] >> member % 64 & 1;
}

/* The session's record has places for a few nodes only: what is in it now stays barred while
 * targets are tried that take the oldest ones' places. */
static void avoid_visited(xnat_steps_t *m, const xnat_fleet_t *f)
{
    bool visited[XNAT_FLEET_MAX];
    xb_view_t v;
    if (!xb_table_view(xnat_table, m->job->slot, &v)) {
        return;
    }
    xnat_fleet_visited(f, &v, xnat_now_us(), visited);
    for (unsigned i = 0; i < f->n; i++) {
        if (visited[i]) {
            avoid(m, f->member[i]);
        }
    }
}

/* Chooses m->to among the nodes that the session has not been at (m->wary: among all but its
 * home); one that just failed to answer another session's probe only if there is no other.
 * False: there is none. */
static bool choose(xnat_steps_t *m, xnat_fleet_t *f)
{
    bool visited[XNAT_FLEET_MAX], barred[XNAT_FLEET_MAX];
    unsigned free_left;
    xb_view_t v;
    xnat_steps_promise(m, (xb_worth_t){0, 0});
    xnat_fleet_snapshot((xnat_balancer_t *)m->xb, false, xnat_now_us(), f);
    int home = xnat_fleet_position(f, m->from);
    if (!xb_table_view(xnat_table, m->job->slot, &v)) {
        return false;
    }
    v.visited_count = m->wary ? 0 : v.visited_count;
    xnat_fleet_visited(f, &v, xnat_now_us(), visited);
    for (unsigned i = 0; i < f->n; i++) {
        visited[i] = visited[i] || is_avoided(m, f->member[i]);
        barred[i] = visited[i] || xnat_health_is_silent(f->member[i]);
    }
    unsigned from = home >= 0 ? (unsigned)home : f->n;
    int to = xb_policy_target(f->load, f->n, from, barred, &free_left);
    to = to >= 0 ? to : xb_policy_target(f->load, f->n, from, visited, &free_left);
    if (to >= 0) {
        m->to = f->member[to];
        m->to_worker = f->worker[to];
        m->others = free_left > 0;
        xnat_steps_promise(m, xnat_fleet_worth(m->xb, f));
    }
    return to >= 0;
}

/* Fills m->old with an id under which the session is stored. True: take it over. False with
 * *owner >= 0: a living member has it already; NOWHERE: it is lost; NOT_KNOWN: the store is
 * silent; NOT_YET: it is being taken over. */
static bool find_stored(xnat_steps_t *m, const xnat_fleet_t *f, int *owner)
{
    int home = xnat_fleet_position(f, m->from);
    xb_view_t v = {.flags = 0};
    xb_table_view(xnat_table, m->job->slot, &v);
    /* An old copy may have written its key anew. */
    if (v.flags & XB_SESSION_ENDED && XB_RULE(ENDED)) {
        *owner = NOWHERE;
        return false;
    }
    bool partial = v.flags & (XB_SESSION_PARTIAL | XB_SESSION_UNPROVEN);
    owner_t how = {.marked = false};
    for (;;) {
        *owner = partial           ? position_of_owner(m, f, home, &how)
                 : XB_RULE(ANYKEY) ? position_of_key(m, f, home)
                                   : home;
        /* In its first second of trouble memcached is asked again and again, which the
         * session's requests can wait: without its answer they would race for the session. */
        if (*owner != NOT_KNOWN || !xnat_move_store_may_recover(m->xb, &m->old) ||
            xnat_now_us() > m->deadline_us) {
            break;
        }
        apr_sleep(20000);
    }
    if (XB_RULE(KEYLESS) && how.marked && how.key < 0 && *owner >= 0 &&
        !PROXY_WORKER_IS_USABLE(f->worker[*owner])) {
        *owner = how.key; /* what it had is gone with it; others may have old copies */
        m->wary = true;
    }
    if (*owner < 0) {
        return false;
    }
    if (!xb_id_names_route(&m->old, f->worker[*owner]->s->route)) {
        char text[XB_ID_MAX + 2];
        if (!name_at(m, f, (unsigned)*owner, text, sizeof text)) {
            *owner = NOWHERE;
            return false;
        }
        memcpy(m->old_text, text, sizeof m->old_text);
        xnat_steps_parse(m, m->old_text, &m->old);
    }
    return *owner == home || !PROXY_WORKER_IS_USABLE(f->worker[*owner]);
}

/* A node may have been asked already, by a mover that was lost while it had this gate, or by a
 * rescue before that got no proof: that one may be taking the session over this very moment,
 * and then there is no key that counts, or (at this gate) still the old one. */
static void let_finish(const xnat_steps_t *m)
{
    xnat_fleet_t fleet;
    xb_view_t v;
    bool here = false;
    xnat_fleet_snapshot((xnat_balancer_t *)m->xb, false, xnat_now_us(), &fleet);
    asked_t asked = was_asked(m, &fleet);
    if (!asked.any || !xb_table_view(xnat_table, m->job->slot, &v)) {
        return;
    }
    for (unsigned i = 0; i < fleet.n; i++) {
        here = here || asked.at_us[i] > v.gated_us;
    }
    int home = xnat_fleet_position(&fleet, m->from), at;
    int64_t end = xnat_now_us() + xnat_steps_left(m, m->xb->conf.gate_timeout / 4);
    while (((at = position_of_key(m, &fleet, home)) == NOT_YET || (here && at == home)) &&
           xnat_now_us() < end && !xnat_mover_is_stopping()) {
        apr_sleep(10000);
    }
}

/* Nobody has it. Its requests go on together, but its entry is no longer worth that of a
 * session that lives. What only a client has named, or has ended, is none that was lost. */
static void lose(const xnat_steps_t *m)
{
    xb_view_t v;
    char digest[XB_DIGEST_SIZE];
    if (!xb_table_view(xnat_table, m->job->slot, &v) ||
        v.flags & (XB_SESSION_UNPROVEN | XB_SESSION_ENDED)) {
        return;
    }
    xb_table_disprove(xnat_table, m->job->slot);
    xnat_count(&xnat_shm->lost);
    if (xnat_shm_may_tell(&xnat_shm->lost_logged_us, XNAT_MINUTE_US)) {
        /* One event, one line: the refusal has been told with it. */
        __atomic_store_n((int64_t *)&xnat_shm->refusal_logged_us[XB_NO_MARKER], xnat_now_us(),
                         __ATOMIC_RELAXED);
        xnat_log_server(APLOG_WARNING, 0, m->xb->server, XB(0304),
                        "session %s of %s is not in memcached: its user has to log in again "
                        "(told once a minute)",
                        xnat_digest(m->job->tag, digest), xnat_shm->route[m->from].route);
    }
}

/* A session that has never been near a move: how long do its copies live? */
static void learn_life(xnat_steps_t *m)
{
    xb_msm_head_t header;
    if (!m->life_s && xnat_move_header(m->hands, m->xb, &m->old, &header)) {
        xnat_steps_lives(m, &header);
    }
}

/* One that was asked has it by now, whatever it answered: its key is there, the home's is not.
 */
static bool is_taken(xnat_steps_t *m, const xnat_fleet_t *f)
{
    int owner;
    if (find_stored(m, f, &owner) || owner < 0) {
        return false;
    }
    go_on_at(m, f, (unsigned)owner);
    return true;
}

/* Asks up to three nodes to take it over. m->wary: it has been at all of them, or they have
 * been asked in vain before; what it may find there is a stale copy, which memcached gives
 * away. */
static xb_refusal_t ask_in_turn(xnat_steps_t *m, xnat_fleet_t *f)
{
    xb_refusal_t why = XB_NO_TARGET;
    if (!m->wary) {
        avoid_visited(m, f);
    }
    int tries = m->wary && XB_RULE(TWICE) ? 1 : TRIES;
    for (int i = 0; (i < tries || (m->stale && xnat_now_us() < m->deadline_us)) &&
                    (i == 0 || choose(m, f));
         i++) {
        why = xnat_steps_take_over(m);
        if (m->left) { /* nobody else is asked by a child that stops */
            return why;
        }
        avoid(m, m->to);
        if (m->stale) { /* a former home that nobody remembered: the next one */
            continue;
        }
        if (why != XB_NO_READY && why != XB_NO_PROBE && why != XB_NO_PROBE_LATE) {
            break;
        }
        xnat_health_silent(m->to);
    }
    if (why != XB_REFUSALS && why != XB_NO_TOKEN && m->asked && is_taken(m, f)) {
        return XB_REFUSALS;
    }
    return why;
}

/* Rule TWICE: two HEADs that load the session at once lose what is written in between, and a
 * key that another node takes away is no proof. */
xb_refusal_t xnat_rescue(xnat_steps_t *m)
{
    xnat_fleet_t fleet;
    int owner;
    let_finish(m);
    if (!choose(m, &fleet) && !(xnat_release_former(m) && choose(m, &fleet))) {
        if (is_taken(m, &fleet)) {
            return XB_REFUSALS;
        }
        m->wary = true;
        if (XB_RULE(TWICE) && was_asked(m, &fleet).any) {
            return XB_NO_PROBE_LATE;
        }
        if (!choose(m, &fleet)) {
            return XB_NO_TARGET;
        }
    }
    if (m->path >= XNAT_PATHS_MAX && !m->xb->conf.probe) {
        return XB_NO_PATH;
    }
    try_flush(m);
    if (!find_stored(m, &fleet, &owner)) {
        if (owner == NOWHERE) {
            lose(m);
            return XB_NO_MARKER;
        }
        if (owner == NOT_YET) {
            m->wary = true;
            return XB_NO_PROBE_LATE;
        }
        if (owner < 0) {
            return XB_NO_STORE;
        }
        go_on_at(m, &fleet, (unsigned)owner);
        return XB_REFUSALS;
    }
    learn_life(m);
    xnat_steps_mark(m, m->from);
    return ask_in_turn(m, &fleet);
}

/* ---- restarted homes */

/* Rule BACK: has one that was asked taken the session over, or may it do so yet? Otherwise
 * XB_REFUSALS. */
static xb_refusal_t is_with_another(xnat_steps_t *m)
{
    xnat_fleet_t fleet;
    xnat_fleet_snapshot((xnat_balancer_t *)m->xb, false, xnat_now_us(), &fleet);
    asked_t asked = was_asked(m, &fleet);
    bool any = false;
    for (unsigned i = 0; i < fleet.n; i++) {
        any = any || (asked.at_us[i] && XB_RULE(BACK));
    }
    if (any) {
        let_finish(m);
        if (is_taken(m, &fleet)) {
            return XB_NO_TARGET;
        }
    }
    m->wary = any && asked.any;
    return m->wary ? XB_NO_PROBE_LATE : XB_REFUSALS;
}

/* Any complete answer will do: the session is loaded now, or never. A node's port may be open
 * long before its applications are: without an answer it is no home, and the sessions that come
 * next do not wait to find that out again. */
static bool answers(xnat_steps_t *m, xnat_probe_answer_t *answer)
{
    xb_table_visit(xnat_table, m->job->slot, m->from, xnat_now_us());
    xnat_probe_rc_t rc =
        xnat_steps_head(m, m->from_worker, m->old_text,
                        xnat_steps_left(m, m->xb->conf.gate_timeout / 3), answer);
    if (rc != XNAT_PROBE_ANSWERED) {
        xnat_health_silent(m->from);
        return false;
    }
    xnat_count(&xnat_shm->revived);
    return true;
}

/* Does the session go on at its home? m->fresh: by which name. If it was found in memcached
 * under another node's, a home that loads it takes it over. */
static bool goes_on(xnat_steps_t *m)
{
    xnat_probe_answer_t answer;
    m->fresh = m->old;
    if (m->path >= XNAT_PATHS_MAX && !m->xb->conf.probe) {
        return true;
    }
    if (xnat_health_is_silent(m->from) || !answers(m, &answer)) {
        return false;
    }
    if (!xb_id_names_route(&m->old, xnat_shm->route[m->from].route) &&
        xnat_steps_cookie_proves(m, &answer)) {
        /* Whatever the keys say, a living home keeps its session; both: it always had it. */
        if (xnat_move_keys(m->hands, m->xb, &m->old, &m->fresh) != XNAT_KEYS_BOTH) {
            xnat_steps_keys_prove(m);
        }
        return true;
    }
    m->fresh = m->old;
    return true;
}

xb_refusal_t xnat_rescue_revive(xnat_steps_t *m)
{
    xb_refusal_t other = is_with_another(m);
    if (other != XB_REFUSALS) {
        return other == XB_NO_TARGET ? XB_REFUSALS : other;
    }
    if (goes_on(m)) {
        return XB_REFUSALS;
    }
    return xb_table_fence(xnat_table, m->job->slot, m->token) ? xnat_rescue(m) : XB_NO_TOKEN;
}
