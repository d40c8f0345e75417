/* SPDX-License-Identifier: Apache-2.0 */
/* For t/310-probe.t only: a handler that has members probed by background threads and tells how. */
#include <ctype.h>
#include <stdio.h>
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

#define THREADS 4

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
    /* by the thread, under the mutex */
    int done;
    xnat_probe_rc_t rc;
    int status;
    char cookies[4096]; /* joined with commas, quoted */
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
        job->rc = xnat_probe_head(probe, &job->request, &answer);
        if (job->rc != XNAT_PROBE_ANSWERED) {
            break;
        }
    }
    job->elapsed = apr_time_now() - start;
    job->status = answer.status;
    for (unsigned i = 0; i < answer.cookies; i++) {
        size_t at = strlen(job->cookies);
        snprintf(job->cookies + at, sizeof(job->cookies) - at, "%s\"%s\"", i ? "," : "",
                 answer.set_cookie[i]);
    }
}

static void *APR_THREAD_FUNC work(apr_thread_t *thread, void *data)
{
    job_t **mine = data;
    xnat_probe_t *probe;
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
    }
    apr_thread_mutex_unlock(mutex);
    xnat_probe_destroy(probe);
    apr_thread_exit(thread, APR_SUCCESS);
    return NULL;
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

static int handler(request_rec *r)
{
    static const char *const rc[] = {"answered", "refused", "broken", "late"};
    if (strcmp(r->handler, "xb-probe-test") != 0) {
        return DECLINED;
    }
    job_t *job = calloc(1, sizeof(*job));
    proxy_server_conf *conf = ap_get_module_config(r->server->module_config, &proxy_module);
    proxy_balancer *b = ap_proxy_get_balancer(r->pool, conf, arg(r, "balancer"), 0);
    int thread = number(r, "thread", 0) % THREADS;
    job->times = (unsigned)number(r, "times", 1);
    job->request = (xnat_probe_request_t){
        .server = r->server, .conf = conf, .balancer = b,
        .worker = b ? member(b, arg(r, "route")) : NULL,
        .path = arg(r, "path"), .host = arg(r, "host"), .cookie = arg(r, "cookie"),
        .authorization = arg(r, "authorization"), .forwarded_proto = arg(r, "proto"),
        .forwarded_for = arg(r, "for"),
        .budget = apr_time_from_msec(number(r, "budget", 1000))};
    if (!job->request.worker) {
        free(job);
        return HTTP_NOT_FOUND;
    }
    apr_thread_mutex_lock(mutex);
    job_t **at = &queue[thread];
    while (*at) {
        at = &(*at)->next;
    }
    *at = job;
    apr_thread_cond_broadcast(changed);
    while (!job->done) {
        apr_thread_cond_wait(changed, mutex);
    }
    apr_thread_mutex_unlock(mutex);

    ap_set_content_type(r, "application/json");
    ap_rprintf(r, "{\"rc\":\"%s\",\"status\":%d,\"set_cookie\":[%s],\"elapsed_ms\":%d,\"pid\":%d}\n",
               rc[job->rc], job->status, job->cookies, (int)apr_time_as_msec(job->elapsed),
               (int)getpid());
    free(job);
    return OK;
}

static void register_hooks(apr_pool_t *p)
{
    xnat_probe_register_hooks(p);
    ap_hook_child_init(child_init, NULL, NULL, APR_HOOK_REALLY_LAST);
    ap_hook_child_stopping(child_stopping, NULL, NULL, APR_HOOK_REALLY_FIRST);
    ap_hook_handler(handler, NULL, NULL, APR_HOOK_MIDDLE);
}
