/* SPDX-License-Identifier: Apache-2.0 */
/* Tomcat's JMXProxyServlet: names of session managers, a session's presence, its end. */
#include "xnat_jmx.h"

#include <pthread.h>

#include "apr_strings.h"

#define QUERY_SIZE (3 * XB_JMX_NAME_SIZE + XB_ID_MAX + 256)

/* ---- names that are known; the lock is a leaf */

#define KNOWN 64

static struct {
    pthread_mutex_t lock;
    struct {
        unsigned member, path;
        xb_jmx_names_t names; /* n == 0: free */
    } known[KNOWN];
    unsigned next; /* the one to give up when there is no room */
} cache = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* Its place, or one for it. */
static unsigned place_locked(const xnat_jmx_t *jmx)
{
    unsigned free = KNOWN;
    for (unsigned i = 0; i < KNOWN; i++) {
        if (!cache.known[i].names.n) {
            free = i;
        }
        else if (cache.known[i].member == jmx->member && cache.known[i].path == jmx->path) {
            return i;
        }
    }
    return free < KNOWN ? free : cache.next++ % KNOWN;
}

static void remember(const xnat_jmx_t *jmx)
{
    pthread_mutex_lock(&cache.lock);
    unsigned i = place_locked(jmx);
    cache.known[i].member = jmx->member;
    cache.known[i].path = jmx->path;
    cache.known[i].names = jmx->names;
    pthread_mutex_unlock(&cache.lock);
}

static bool recall(xnat_jmx_t *jmx)
{
    pthread_mutex_lock(&cache.lock);
    unsigned i = place_locked(jmx);
    jmx->names.n = 0;
    if (cache.known[i].member == jmx->member && cache.known[i].path == jmx->path) {
        jmx->names = cache.known[i].names;
    }
    pthread_mutex_unlock(&cache.lock);
    return jmx->names.n > 0;
}

void xnat_jmx_forget(const xnat_jmx_t *jmx)
{
    pthread_mutex_lock(&cache.lock);
    for (unsigned i = 0; i < KNOWN; i++) {
        if (cache.known[i].member == jmx->member && cache.known[i].path == jmx->path) {
            cache.known[i].names.n = 0;
        }
    }
    pthread_mutex_unlock(&cache.lock);
}

/* ---- asking */

/* Appends; what is not plain is percent-encoded. */
static void add(char query[QUERY_SIZE], const char *text, bool plain)
{
    static const char hex[] = "0123456789ABCDEF";
    size_t n = strlen(query);
    for (; *text && n + 4 < QUERY_SIZE; text++) {
        unsigned char c = (unsigned char)*text;
        if (plain || apr_isalnum(c) || strchr("-._~", c)) {
            query[n++] = (char)c;
            continue;
        }
        query[n++] = '%';
        query[n++] = hex[c >> 4];
        query[n++] = hex[c & 15];
    }
    query[n] = '\0';
}

/* *body: text, good until the next question. */
static xb_held_t ask(const xnat_jmx_t *jmx, const char *query, const char **body)
{
    xnat_probe_answer_t answer;
    int64_t left = jmx->deadline_us - xnat_now_us();
    xnat_probe_request_t req = {
        .server = jmx->xb->server,
        .conf = jmx->xb->proxy,
        .balancer = jmx->xb->balancer,
        .worker = jmx->worker,
        .path = query,
        .authorization = jmx->xb->conf.release_auth,
        .budget = left,
    };
    if (left <= 0 || xnat_probe_get(jmx->probe, &req, &answer) != XNAT_PROBE_ANSWERED) {
        return XB_HELD_UNREACHABLE;
    }
    *body = answer.body;
    return answer.status == 401 || answer.status == 403 ? XB_HELD_FORBIDDEN
           : answer.status != 200 || answer.body_cut ||
                   strlen(answer.body) != answer.body_bytes || !xb_jmx_is_ok(answer.body)
               ? XB_HELD_NO_JMX
               : XB_HELDS;
}

/* ---- managers */

/* Tomcat's context of a cookie with this Path. */
static void context_of(unsigned path, char out[XNAT_PATH_SIZE])
{
    apr_cpystrn(out, xnat_shm->path[path].text, XNAT_PATH_SIZE);
    size_t n = strlen(out);
    if (n > 1 && out[n - 1] == '/') {
        out[n - 1] = '\0';
    }
}

xb_held_t xnat_jmx_find(xnat_jmx_t *jmx)
{
    char query[QUERY_SIZE] = "", context[XNAT_PATH_SIZE];
    const char *body;
    if (recall(jmx)) {
        return XB_HELDS;
    }
    context_of(jmx->path, context);
    add(query, jmx->xb->conf.release, true);
    add(query, "?qry=", true);
    add(query, "*:type=Manager,context=", false);
    add(query, context, false);
    add(query, ",*", false);
    xb_held_t held = ask(jmx, query, &body);
    if (held != XB_HELDS) {
        return held;
    }
    if (!xb_jmx_names(body, context, &jmx->names) || !jmx->names.n) {
        return XB_HELD_NO_MANAGER;
    }
    remember(jmx);
    return XB_HELDS;
}

/* ---- one session */

static xb_held_t invoke(const xnat_jmx_t *jmx, const char *name, const char *op, const char *id,
                        const char **body)
{
    char query[QUERY_SIZE] = "";
    add(query, jmx->xb->conf.release, true);
    add(query, "?invoke=", true);
    add(query, name, false);
    add(query, "&op=", true);
    add(query, op, true);
    add(query, "&ps=", true);
    add(query, id, false);
    return ask(jmx, query, body);
}

xb_held_t xnat_jmx_look(xnat_jmx_t *jmx, const char *id, bool *there)
{
    const char *body;
    *there = false;
    for (unsigned i = 0; i < jmx->names.n && !*there; i++) {
        xb_held_t held = invoke(jmx, jmx->names.text[i], "getLastAccessedTime", id, &body);
        if (held != XB_HELDS) {
            return held;
        }
        if (!xb_jmx_tells_time(body, there)) {
            return XB_HELD_NO_JMX;
        }
        jmx->at = i;
    }
    return XB_HELDS;
}

xb_held_t xnat_jmx_expire(xnat_jmx_t *jmx, const char *id)
{
    const char *body;
    return invoke(jmx, jmx->names.text[jmx->at], "expireSession", id, &body);
}
