/* SPDX-License-Identifier: Apache-2.0 */
/* The sentinel: idle connections to nodes, watched for their end. */
#include "xnat_sentinel.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "apr_strings.h"

#include "mod_xnat_balance.h"
#include "xnat_fleet.h"
#include "xnat_health.h"
#include "xnat_log.h"

#define LOOK_MS 50
#define RETRY_US 100000
#define NAME_AGAIN_US (5 * INT64_C(1000000))

typedef enum { NEW, CONNECTING, UP, DOWN } state_t;

/* One member's connection; this thread's alone. */
typedef struct {
    state_t state;
    int fd; /* -1: none */
    int64_t try_at_us;
    struct sockaddr_storage addr;
    socklen_t addr_len; /* 0: not looked up */
} watch_t;

typedef struct {
    server_rec *server;
    watch_t watch[XB_MEMBERS_MAX];
    struct pollfd poll[XB_MEMBERS_MAX];
    unsigned member[XB_MEMBERS_MAX], n; /* what poll[] is about */
} sentinel_t;

/* A unix socket's path, or the first address of the name; by the system's resolver, which may
 * take its time: nothing else waits for this thread. */
static bool look_up(watch_t *w, const proxy_worker *worker)
{
    const proxy_worker_shared *s = worker->s;
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found;
    char port[8];
    if (*s->uds_path) {
        struct sockaddr_un *un = (struct sockaddr_un *)&w->addr;
        un->sun_family = AF_UNIX;
        apr_cpystrn(un->sun_path, s->uds_path, sizeof un->sun_path);
        w->addr_len = sizeof *un;
        return true;
    }
    apr_snprintf(port, sizeof port, "%u", (unsigned)s->port);
    if (getaddrinfo(s->hostname_ex, port, &hints, &found)) {
        return false;
    }
    w->addr_len = found->ai_addrlen;
    memcpy(&w->addr, found->ai_addr, found->ai_addrlen);
    freeaddrinfo(found);
    return true;
}

static void drop(watch_t *w, state_t state, int64_t try_at_us)
{
    if (w->fd >= 0) {
        close(w->fd);
    }
    w->fd = -1;
    w->state = state;
    w->try_at_us = try_at_us;
}

/* A host that vanished without a word is noticed after some seconds. */
static void set_options(int fd)
{
    int on = 1, idle = 5, interval = 2, count = 3;
    fcntl(fd, F_SETFD, FD_CLOEXEC);
    fcntl(fd, F_SETFL, O_NONBLOCK);
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof idle);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval, sizeof interval);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof count);
}

/* In shared memory: the holder of the lease may be another one when the node is up again. */
static uint32_t *down_of(unsigned member)
{
    return (uint32_t *)&xnat_members->member[member].down;
}

static void came_up(sentinel_t *s, unsigned member, watch_t *w)
{
    char *route = xnat_shm->route[member].route;
    w->state = UP;
    xnat_health_doubt(member);
    if (__atomic_exchange_n(down_of(member), 0, __ATOMIC_ACQ_REL)) {
        __atomic_store_n((int64_t *)&xnat_members->member[member].reborn_us, xnat_now_us(),
                         __ATOMIC_RELEASE);
        __atomic_fetch_add((uint32_t *)&xnat_members->member[member].generation, 1,
                           __ATOMIC_RELAXED);
        xnat_log_server(APLOG_NOTICE, 0, s->server, XB(0320),
                        "node %s has restarted: each of its sessions is brought back by one "
                        "request first",
                        route);
    }
}

/* Nobody listens there, or its host is gone. All else (no port or memory left here, a full
 * queue of a unix socket, no network) says nothing of the node. */
static bool is_gone(int error)
{
    return error == ECONNREFUSED || error == ENOENT || error == ETIMEDOUT ||
           error == EHOSTUNREACH;
}

static void failed(unsigned member, watch_t *w, int error, int64_t now)
{
    if (is_gone(error)) {
        __atomic_store_n(down_of(member), 1, __ATOMIC_RELEASE);
    }
    drop(w, DOWN, now + RETRY_US);
}

static void start_connect(sentinel_t *s, unsigned member, watch_t *w, int64_t now)
{
    const proxy_worker *worker = xnat_fleet_worker(member);
    if (!w->addr_len && !look_up(w, worker)) {
        drop(w, DOWN, now + NAME_AGAIN_US);
        return;
    }
    w->fd = socket(w->addr.ss_family, SOCK_STREAM, 0);
    if (w->fd < 0) {
        drop(w, DOWN, now + NAME_AGAIN_US);
        return;
    }
    set_options(w->fd);
    w->state = CONNECTING;
    if (connect(w->fd, (struct sockaddr *)&w->addr, w->addr_len) == 0) {
        came_up(s, member, w);
    }
    else if (errno != EINPROGRESS) {
        failed(member, w, errno, now);
    }
}

/* Something happened on the connection. Its orderly end, or a reset, may be that of the node or
 * of its patience with an idle one: the next connect tells. */
static void look_at(sentinel_t *s, unsigned member, watch_t *w, int64_t now)
{
    char bytes[512];
    int error = 0;
    socklen_t size = sizeof error;
    if (w->state == CONNECTING) {
        getsockopt(w->fd, SOL_SOCKET, SO_ERROR, &error, &size);
        if (error) {
            failed(member, w, error, now);
        }
        else {
            came_up(s, member, w);
        }
        return;
    }
    ssize_t n = recv(w->fd, bytes, sizeof bytes, MSG_DONTWAIT);
    if (n < 0 && is_gone(errno)) {
        failed(member, w, errno, now);
    }
    else if (n == 0 || (n < 0 && errno != EAGAIN)) {
        drop(w, DOWN, now);
    }
}

static void watch_member(sentinel_t *s, unsigned member, int64_t now)
{
    watch_t *w = &s->watch[member];
    if ((w->state == NEW || w->state == DOWN) && now >= w->try_at_us) {
        start_connect(s, member, w, now);
    }
    if (w->fd >= 0) {
        s->poll[s->n] = (struct pollfd){
            .fd = w->fd, .events = w->state == CONNECTING ? POLLOUT : POLLIN | POLLRDHUP};
        s->member[s->n++] = member;
    }
}

/* One child watches: this one, while it has the mover's lease. */
static bool is_holder(void)
{
    uint64_t lease = __atomic_load_n((uint64_t *)&xnat_shm->lease, __ATOMIC_RELAXED);
    return xnat_child >= 0 && lease >> 48 == (uint64_t)xnat_child + 1;
}

static bool is_watched(unsigned member)
{
    const xnat_balancer_t *xb = xnat_fleet_balancer(member);
    return xb && xb->conf.nodes && xnat_keeps_copies(xb) && xb->conf.move >= XNAT_MOVE_DRAIN &&
           xb->conf.move != XNAT_MOVE_DRYRUN && xnat_balancer_of(xb->balancer);
}

static void drop_all(sentinel_t *s)
{
    for (unsigned i = 0; i < XB_MEMBERS_MAX; i++) {
        drop(&s->watch[i], NEW, 0);
    }
}

void xnat_sentinel_run(server_rec *server, const volatile apr_uint32_t *stop)
{
    static sentinel_t s; /* one thread per process; large */
    s.server = server;
    for (unsigned i = 0; i < XB_MEMBERS_MAX; i++) {
        s.watch[i].fd = -1;
    }
    while (!*stop) {
        int64_t now = xnat_now_us();
        s.n = 0;
        if (!is_holder()) {
            drop_all(&s);
        }
        for (unsigned i = 0; i < XB_MEMBERS_MAX && is_holder(); i++) {
            if (is_watched(i)) {
                watch_member(&s, i, now);
            }
        }
        poll(s.poll, s.n, LOOK_MS);
        now = xnat_now_us();
        for (unsigned i = 0; i < s.n; i++) {
            if (s.poll[i].revents) {
                look_at(&s, s.member[i], &s.watch[s.member[i]], now);
            }
        }
    }
    drop_all(&s);
}
