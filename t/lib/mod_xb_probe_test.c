/* SPDX-License-Identifier: Apache-2.0 */
/* For t/310-probe.t only: a handler that has members probed in the background and tells how. */
#include <stdlib.h>
#include <string.h>

#include "apr_strings.h"
#include "apr_thread_cond.h"
#include "ap_mpm.h"
#include "http_config.h"
#include "http_protocol.h"
#include "httpd.h"
#include "mod_proxy.h"
#include "mpm_common.h"

#include "xnat_probe.h"

#define THREADS 5

static void register_hooks(apr_pool_t *p);

AP_DECLARE_MODULE(xb_probe_test) = {
    STANDARD20_MODULE_STUFF, NULL, NULL, NULL, NULL, NULL, register_hooks,
#if defined(AP_MODULE_FLAG_NONE)
    AP_MODULE_FLAG_NONE,
#endif
};

typedef struct job_t job_t;
struct job_t {
    job_t *next;
    xnat_probe_request_t request;
    unsigned times;
    int get;   /* with the body */
    int async; /* nobody waits: the thread frees it */
    apr_pool_t *pool;
    /* by the thread, under the mutex */
    int done;
    xnat_probe_rc_t rc;
    int status;
    const char *cookies; /* members of a JSON array */
    const char *body;    /* its first bytes */
    apr_size_t body_bytes;
    int body_cut;
    apr_interval_time_t elapsed;
};

static apr_thread_mutex_t *mutex;
static apr_thread_cond_t *changed;
static job_t *queue[THREADS];
static int stopping;
static apr_thread_t *threads[THREADS];

static void run_job(xnat_probe_t *probe, job_t *job)
{
    xnat_probe_answer_t answer;
    apr_time_t start = apr_time_now();
    for (unsigned i = 0; i < job->times; i++) {
        job->rc = (job->get ? xnat_probe_get : xnat_probe_head)(probe, &job->request, &answer);
        if (job->rc != XNAT_PROBE_ANSWERED) {
            break;
        }
    }
    job->elapsed = apr_time_now() - start;
    job->status = answer.status;
    job->body_bytes = answer.body_bytes;
    job->body_cut = answer.body_cut;
    job->body = answer.body ? apr_pstrmemdup(job->pool, answer.body, 20) : "";
    job->cookies = "";
    for (unsigned i = 0; i < answer.cookies; i++) {
        job->cookies = apr_psprintf(job->pool, "%s%s\"%s\"", job->cookies, i ? "," : "",
                                    ap_escape_quotes(job->pool, answer.set_cookie[i]));
    }
}

static void *APR_THREAD_FUNC work(apr_thread_t *thread, void *data)
{
    job_t **mine = data;
    xnat_probe_t *probe;
    (void)thread;
    if (xnat_probe_create(&probe, NULL) != APR_SUCCESS) {
        abort();
    }
    apr_thread_mutex_lock(mutex);
    while (!stopping || *mine) {
        job_t *job = *mine;
        if (!job) {
            apr_thread_cond_wait(changed, mutex);
            continue;
        }
        *mine = job->next;
        apr_thread_mutex_unlock(mutex);
        run_job(probe, job);
        apr_thread_mutex_lock(mutex);
        job->done = 1;
        apr_thread_cond_broadcast(changed);
        if (job->async) {
            apr_pool_destroy(job->pool);
        }
    }
    apr_thread_mutex_unlock(mutex);
    xnat_probe_destroy(probe);
    return NULL; /* pthread_exit() would leave marks of ASan on the stack */
}

static void child_stopping(apr_pool_t *pchild, int graceful)
{
    (void)pchild;
    (void)graceful;
    xnat_probe_stop();
}

static apr_status_t join(void *unused)
{
    (void)unused;
    apr_status_t rv;
    xnat_probe_stop();
    apr_thread_mutex_lock(mutex);
    stopping = 1;
    apr_thread_cond_broadcast(changed);
    apr_thread_mutex_unlock(mutex);
    for (int i = 0; i < THREADS; i++) {
        apr_thread_join(&rv, threads[i]);
    }
    return APR_SUCCESS;
}

static void child_init(apr_pool_t *pchild, server_rec *s)
{
    sigset_t all, before;
    stopping = 0;
    apr_thread_mutex_create(&mutex, APR_THREAD_MUTEX_DEFAULT, pchild);
    apr_thread_cond_create(&changed, pchild);
    if (xnat_probe_child_init(pchild, s) != APR_SUCCESS) {
        abort();
    }
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    for (int i = 0; i < THREADS; i++) {
        queue[i] = NULL;
        ap_thread_create(&threads[i], NULL, work, &queue[i], pchild);
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    apr_pool_pre_cleanup_register(pchild, NULL, join);
}

static const char *arg(request_rec *r, const char *name)
{
    char *copy = apr_pstrdup(r->pool, r->args ? r->args : ""), *rest;
    for (char *part = apr_strtok(copy, "&", &rest); part; part = apr_strtok(NULL, "&", &rest)) {
        char *value = strchr(part, '=');
        if (value) {
            *value++ = '\0';
            if (strcmp(part, name) == 0) {
                ap_unescape_all(value);
                return value;
            }
        }
    }
    return NULL;
}

static proxy_worker *member(proxy_balancer *balancer, const char *route)
{
    proxy_worker **all = (proxy_worker **)balancer->workers->elts;
    for (int i = 0; i < balancer->workers->nelts; i++) {
        if (strcmp(all[i]->s->route, route) == 0) {
            return all[i];
        }
    }
    return NULL;
}

static int number(request_rec *r, const char *name, int otherwise)
{
    const char *value = arg(r, name);
    return value ? atoi(value) : otherwise;
}

/* In a pool of its own: a job may outlive its request. */
static job_t *make_job(request_rec *r)
{
    apr_pool_t *pool;
    apr_pool_create(&pool, NULL);
    job_t *job = apr_pcalloc(pool, sizeof(*job));
    proxy_server_conf *conf = ap_get_module_config(r->server->module_config, &proxy_module);
    proxy_balancer *b = ap_proxy_get_balancer(r->pool, conf, arg(r, "balancer"), 0);
    job->pool = pool;
    job->times = (unsigned)number(r, "times", 1);
    job->get = number(r, "get", 0);
    job->async = number(r, "async", 0);
    job->request =
        (xnat_probe_request_t){.server = r->server,
                               .conf = conf,
                               .balancer = b,
                               .worker = b ? member(b, arg(r, "route")) : NULL,
                               .path = apr_pstrdup(pool, arg(r, "path")),
                               .host = apr_pstrdup(pool, arg(r, "host")),
                               .cookie = apr_pstrdup(pool, arg(r, "cookie")),
                               .authorization = apr_pstrdup(pool, arg(r, "authorization")),
                               .forwarded_proto = apr_pstrdup(pool, arg(r, "proto")),
                               .forwarded_for = apr_pstrdup(pool, arg(r, "for")),
                               .budget = apr_time_from_msec(number(r, "budget", 1000))};
    return job;
}

static void hand_over(job_t *job, int thread)
{
    job_t **at = &queue[thread];
    apr_thread_mutex_lock(mutex);
    while (*at) {
        at = &(*at)->next;
    }
    *at = job;
    apr_thread_cond_broadcast(changed);
    while (!job->async && !job->done) {
        apr_thread_cond_wait(changed, mutex);
    }
    apr_thread_mutex_unlock(mutex);
}

static int handler(request_rec *r)
{
    static const char *const rc[] = {"answered", "refused", "broken", "late"};
    if (strcmp(r->handler, "xb-probe-test") != 0) {
        return DECLINED;
    }
    job_t *job = make_job(r);
    int async = job->async;
    if (!job->request.worker) {
        apr_pool_destroy(job->pool);
        return HTTP_NOT_FOUND;
    }
    hand_over(job, number(r, "thread", 0) % THREADS);
    ap_set_content_type(r, "application/json");
    if (async) {
        ap_rprintf(r, "{\"pid\":%d}", (int)getpid());
        return OK;
    }
    ap_rprintf(r, "{\"rc\":\"%s\",\"status\":%d,\"set_cookie\":[%s],", rc[job->rc], job->status,
               job->cookies);
    ap_rprintf(r, "\"body\":\"%s\",\"body_bytes\":%d,\"body_cut\":%d,",
               ap_escape_quotes(r->pool, ap_escape_html(r->pool, job->body)),
               (int)job->body_bytes, job->body_cut);
    ap_rprintf(r, "\"elapsed_ms\":%d,\"pid\":%d}", (int)apr_time_as_msec(job->elapsed),
               (int)getpid());
    apr_pool_destroy(job->pool);
    return OK;
}

static void register_hooks(apr_pool_t *p)
{
    xnat_probe_register_hooks(p);
    ap_hook_child_init(child_init, NULL, NULL, APR_HOOK_REALLY_LAST);
    ap_hook_child_stopping(child_stopping, NULL, NULL, APR_HOOK_REALLY_FIRST);
    ap_hook_handler(handler, NULL, NULL, APR_HOOK_MIDDLE);
}
