/* SPDX-License-Identifier: Apache-2.0 */
/* Total deadlines for sockets: the list of armed ones and the thread that fires them. */
#include "xnat_deadline.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "apr_portable.h"

/* A leaf lock: nothing else is taken under it. No thread that serves requests takes it, because
 * in prefork xnat_deadline_stop() may run in a signal handler of just that thread. */
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed;
static pthread_t thread;
static xnat_deadline_t *armed;
static bool stopped = true, ending;

static int64_t now_us(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
}

static void fire_locked(xnat_deadline_t *d)
{
    d->fired = true;
    if (d->fd >= 0) {
        shutdown(d->fd, SHUT_RDWR);
    }
}

/* Fires what is due; the earliest deadline of the others, or -1. */
static int64_t fire_due_locked(int64_t now)
{
    int64_t next = -1;
    for (xnat_deadline_t *d = armed; d; d = d->next) {
        if (d->fired) {
            continue;
        }
        if (d->until_us <= now) {
            fire_locked(d);
        }
        else if (next < 0 || d->until_us < next) {
            next = d->until_us;
        }
    }
    return next;
}

static void *run(void *unused)
{
    (void)unused;
    pthread_mutex_lock(&mutex);
    while (!ending) {
        int64_t next = fire_due_locked(now_us());
        if (next < 0) {
            pthread_cond_wait(&changed, &mutex);
        }
        else {
            struct timespec at = {.tv_sec = next / 1000000, .tv_nsec = next % 1000000 * 1000};
            pthread_cond_timedwait(&changed, &mutex, &at);
        }
    }
    pthread_mutex_unlock(&mutex);
    return NULL;
}

void xnat_deadline_stop(void)
{
    pthread_mutex_lock(&mutex);
    stopped = true;
    for (xnat_deadline_t *d = armed; d; d = d->next) {
        fire_locked(d);
    }
    pthread_mutex_unlock(&mutex);
}

static apr_status_t join(void *unused)
{
    (void)unused;
    xnat_deadline_stop();
    pthread_mutex_lock(&mutex);
    ending = true;
    pthread_cond_signal(&changed);
    pthread_mutex_unlock(&mutex);
    pthread_join(thread, NULL);
    return APR_SUCCESS;
}

apr_status_t xnat_deadline_child_init(apr_pool_t *pchild)
{
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&changed, &attr);
    pthread_condattr_destroy(&attr);

    /* Blocked before the thread begins: httpd's handlers must run in httpd's threads only. */
    ending = false;
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int rv = pthread_create(&thread, NULL, run, NULL);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (rv == 0) {
        apr_pool_pre_cleanup_register(pchild, NULL, join);
    }
    stopped = rv != 0;
    return rv;
}

bool xnat_deadline_arm(xnat_deadline_t *d, int64_t budget_us)
{
    d->fd = -1;
    d->fired = false;
    d->until_us = now_us() + budget_us;
    pthread_mutex_lock(&mutex);
    bool ok = !stopped;
    if (ok) {
        d->next = armed;
        armed = d;
        pthread_cond_signal(&changed);
    }
    pthread_mutex_unlock(&mutex);
    return ok;
}

bool xnat_deadline_watch(xnat_deadline_t *d, apr_socket_t *sock)
{
    apr_os_sock_t fd = -1;
    apr_os_sock_get(&fd, sock);
    int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    pthread_mutex_lock(&mutex);
    int old = d->fd;
    d->fd = copy;
    if (d->fired) {
        fire_locked(d);
    }
    bool ok = copy >= 0 && !d->fired;
    pthread_mutex_unlock(&mutex);
    if (old >= 0) {
        close(old);
    }
    return ok;
}

int64_t xnat_deadline_left_us(xnat_deadline_t *d)
{
    pthread_mutex_lock(&mutex);
    int64_t left = d->fired ? 0 : d->until_us - now_us();
    pthread_mutex_unlock(&mutex);
    return left > 0 ? left : 0;
}

bool xnat_deadline_disarm(xnat_deadline_t *d)
{
    pthread_mutex_lock(&mutex);
    for (xnat_deadline_t **at = &armed; *at; at = &(*at)->next) {
        if (*at == d) {
            *at = d->next;
            break;
        }
    }
    bool late = d->fired || d->until_us <= now_us();
    int fd = d->fd;
    d->fd = -1;
    pthread_mutex_unlock(&mutex);
    if (fd >= 0) {
        close(fd);
    }
    return late;
}
