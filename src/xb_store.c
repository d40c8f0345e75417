/* SPDX-License-Identifier: Apache-2.0 */
/* The four verbs: commands, connections and the one deadline of each call. */
#include "xb_store.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "xb_store_reply.h"

#define VALUE_MAX 199
#define TTL_MAX_S (30u * 24 * 3600)
#define COMMAND_MAX (8 + XB_STORE_KEYS_MAX * (XB_MSM_KEY_MAX + 1)) /* "get", keys, line end */

typedef enum { IO_OK, IO_GONE, IO_DOWN, IO_LATE } io_t;

typedef struct {
    const char *bytes;
    size_t n;
} command_t;

static int64_t clock_us(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

void xb_store_init(xb_store_t *st, const xb_msm_nodes_t *nodes, xb_store_names_t *names)
{
    memset(st, 0, sizeof *st);
    st->nodes = nodes;
    st->names = names;
    for (unsigned i = 0; i < XB_MSM_NODES_MAX; i++)
        st->peer[i].fd = -1;
}

static void hang_up(xb_store_peer_t *peer)
{
    if (peer->fd >= 0)
        close(peer->fd);
    peer->fd = -1;
}

void xb_store_close(xb_store_t *st)
{
    for (unsigned i = 0; i < XB_MSM_NODES_MAX; i++)
        hang_up(&st->peer[i]);
}

/* ---- addresses */

/* A name's are those that its thread has found: nothing here waits for DNS. */
static bool know(xb_store_t *st, unsigned node)
{
    xb_store_peer_t *peer = &st->peer[node];

    if (peer->addrs > 0)
        return true;
    peer->at = 0;
    peer->addrs = (uint8_t)xb_store_numeric(&st->nodes->node[node], peer->addr);
    if (peer->addrs == 0 && st->names) {
        peer->by_name = 1;
        peer->addrs = (uint8_t)xb_store_names_get(st->names, node, peer->addr);
    }
    return peer->addrs > 0;
}

/* ---- bytes on a connection, until the deadline */

static io_t wait_for(int fd, short events, int64_t deadline_us)
{
    for (;;) {
        struct pollfd p = {.fd = fd, .events = events};
        int64_t left_us = deadline_us - clock_us();
        struct timespec left = {left_us / 1000000, left_us % 1000000 * 1000};
        int n;

        if (left_us <= 0)
            return IO_LATE;
        n = ppoll(&p, 1, &left, NULL);
        if (n > 0)
            return IO_OK; /* an error shows in the call that follows */
        if (n < 0 && errno != EINTR)
            return IO_DOWN;
    }
}

static bool would_block(void)
{
    return errno == EAGAIN || errno == EWOULDBLOCK;
}

static io_t connect_to(xb_store_peer_t *peer, const xb_store_addr_t *addr, int64_t deadline_us)
{
    socklen_t len = addr->any.sa_family == AF_INET6 ? sizeof addr->v6 : sizeof addr->v4;
    int one = 1, error = 0;
    socklen_t error_len = sizeof error;
    io_t io = IO_OK;

    peer->fd = socket(addr->any.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (peer->fd < 0)
        return IO_DOWN;
    setsockopt(peer->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (connect(peer->fd, &addr->any, len) != 0) {
        if (errno != EINPROGRESS && errno != EINTR)
            io = IO_DOWN;
        else
            io = wait_for(peer->fd, POLLOUT, deadline_us);
        if (io == IO_OK &&
            (getsockopt(peer->fd, SOL_SOCKET, SO_ERROR, &error, &error_len) != 0 || error))
            io = IO_DOWN;
    }
    if (io != IO_OK)
        hang_up(peer);
    return io;
}

/* Tries each address once, within the deadline. One that failed is not the first to be tried
 * the next time; when all of a name's have failed they are forgotten. */
static io_t connect_any(xb_store_peer_t *peer, int64_t deadline_us)
{
    io_t io = IO_DOWN;

    for (unsigned tries = 0; tries < peer->addrs && io == IO_DOWN; tries++) {
        io = connect_to(peer, &peer->addr[peer->at], deadline_us);
        if (io != IO_OK)
            peer->at = (uint8_t)((peer->at + 1) % peer->addrs);
    }
    if (peer->by_name && (io == IO_DOWN || (io == IO_LATE && peer->at == 0)))
        peer->addrs = 0;
    return io;
}

/* MSG_NOSIGNAL: a peer that went away must not end httpd by SIGPIPE. */
static io_t send_all(int fd, command_t c, int64_t deadline_us)
{
    while (c.n > 0) {
        ssize_t n = send(fd, c.bytes, c.n, MSG_NOSIGNAL);

        if (n >= 0) {
            c.bytes += n;
            c.n -= (size_t)n;
        }
        else if (would_block()) {
            io_t io = wait_for(fd, POLLOUT, deadline_us);
            if (io != IO_OK)
                return io;
        }
        else if (errno != EINTR)
            return IO_GONE;
    }
    return IO_OK;
}

/* GONE: closed before the first byte of an answer. The clock is read before each piece: a
 * server that never stops sending must not get more time than one that never starts. */
static io_t receive(int fd, xb_store_reply_t *reply, int64_t deadline_us)
{
    char piece[16384];
    bool any = false;

    for (;;) {
        io_t io = wait_for(fd, POLLIN, deadline_us);
        ssize_t n;

        if (io != IO_OK)
            return io;
        n = recv(fd, piece, sizeof piece, 0);
        if (n > 0) {
            any = true;
            if (xb_store_reply_feed(reply, piece, (size_t)n) != XB_REPLY_MORE)
                return IO_OK;
        }
        else if (n == 0 || (!would_block() && errno != EINTR))
            return any ? IO_DOWN : IO_GONE;
    }
}

/* A kept connection is good if the server neither closed it nor said anything since. */
static bool is_quiet(int fd)
{
    char byte;

    return recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) < 0 && would_block();
}

static io_t talk(xb_store_peer_t *peer, command_t c, xb_store_reply_t *reply,
                 int64_t deadline_us)
{
    bool kept = peer->fd >= 0 && is_quiet(peer->fd);
    io_t io = IO_OK;

    if (!kept) {
        hang_up(peer);
        io = connect_any(peer, deadline_us);
    }
    if (io == IO_OK)
        io = send_all(peer->fd, c, deadline_us);
    if (io == IO_OK)
        io = receive(peer->fd, reply, deadline_us);
    if (io == IO_GONE && kept) { /* closed under our hands: once more, from the start */
        hang_up(peer);
        return talk(peer, c, reply, deadline_us);
    }
    return io;
}

/* One command, one answer. Whatever went wrong closes the connection: the next answer on it
 * would be this one's. */
static xb_store_rc_t call(xb_store_t *st, unsigned node, command_t c, xb_store_reply_t *reply,
                          int64_t budget_us)
{
    xb_store_peer_t *peer;
    io_t io;

    if (node >= st->nodes->count)
        return XB_STORE_DOWN;
    peer = &st->peer[node];
    if (!know(st, node))
        return XB_STORE_DOWN;
    io = talk(peer, c, reply, clock_us() + budget_us);
    if (peer->addrs == 0 && st->names)
        xb_store_names_want(st->names, node);
    if (io == IO_OK && reply->rc == XB_REPLY_FOUND)
        return XB_STORE_FOUND;
    if (io == IO_OK && reply->rc == XB_REPLY_ABSENT)
        return XB_STORE_ABSENT;
    hang_up(peer);
    return io == IO_LATE ? XB_STORE_LATE : XB_STORE_DOWN;
}

/* ---- verbs */

/* Length of a key that memcached reads as one word; 0 for any other. */
static size_t key_length(const char *key)
{
    size_t n = 0;

    for (; key[n]; n++) {
        if ((unsigned char)key[n] <= ' ' || key[n] == 0x7f || n == XB_MSM_KEY_MAX)
            return 0;
    }
    return n;
}

/* Writes "get k1 k2...\r\n"; 0: a bad key. */
static size_t get_command(char out[COMMAND_MAX], const char *const *keys, unsigned n)
{
    size_t at = 3;

    memcpy(out, "get", 3);
    for (unsigned i = 0; i < n; i++) {
        size_t len = key_length(keys[i]);

        if (len == 0)
            return 0;
        out[at++] = ' ';
        memcpy(out + at, keys[i], len);
        at += len;
    }
    memcpy(out + at, "\r\n", 2);
    return at + 2;
}

static xb_store_rc_t get(xb_store_t *st, unsigned node, xb_store_reply_t *reply,
                         int64_t budget_us)
{
    char text[COMMAND_MAX];
    command_t c = {text, get_command(text, reply->keys, reply->n)};

    return c.n > 0 ? call(st, node, c, reply, budget_us) : XB_STORE_BADKEY;
}

xb_store_rc_t xb_store_get(xb_store_t *st, unsigned node, const char *key, void *buf,
                           size_t cap, size_t *got, size_t *total, int64_t budget_us)
{
    bool holds;

    return xb_store_search(st, node, key, buf, cap, got, total, (xb_span_t){NULL, 0}, &holds,
                           budget_us);
}

xb_store_rc_t xb_store_search(xb_store_t *st, unsigned node, const char *key, void *buf,
                              size_t cap, size_t *got, size_t *total, xb_span_t find,
                              bool *holds, int64_t budget_us)
{
    xb_store_reply_t reply;
    xb_store_rc_t rc;

    xb_store_reply_get(&reply, &key, 1, buf, cap);
    reply.find = find.p;
    reply.find_n = find.n;
    rc = get(st, node, &reply, budget_us);
    if (rc == XB_STORE_LATE && reply.got == cap && reply.total > cap)
        rc = XB_STORE_FOUND; /* all that was wanted came in time; the connection is closed */
    *got = rc == XB_STORE_FOUND ? reply.got : 0;
    *total = rc == XB_STORE_FOUND ? reply.total : 0;
    *holds = rc == XB_STORE_FOUND && reply.holds;
    return rc;
}

xb_store_rc_t xb_store_which(xb_store_t *st, unsigned node, const char *const *keys, unsigned n,
                             uint32_t *mask, int64_t budget_us)
{
    xb_store_reply_t reply;
    xb_store_rc_t rc;

    *mask = 0;
    if (n == 0 || n > XB_STORE_KEYS_MAX)
        return XB_STORE_BADKEY;
    xb_store_reply_get(&reply, keys, n, NULL, 0);
    rc = get(st, node, &reply, budget_us);
    if (rc == XB_STORE_FOUND)
        *mask = reply.mask;
    return rc;
}

/* memcached takes more than 30 days for a date, in 31 bits, and 0 for never. */
static unsigned exptime(uint32_t ttl_s)
{
    struct timespec t;
    int64_t date = ttl_s;

    if (ttl_s > TTL_MAX_S) {
        clock_gettime(CLOCK_REALTIME, &t);
        date += t.tv_sec;
    }
    return date > INT32_MAX ? 0 : (unsigned)date;
}

/* The value is preceded by its length: no byte of it can be taken for a command. */
xb_store_rc_t xb_store_set(xb_store_t *st, unsigned node, const char *key, const char *value,
                           uint32_t ttl_s, int64_t budget_us)
{
    char text[XB_MSM_KEY_MAX + VALUE_MAX + 64];
    xb_store_reply_t reply;
    size_t len = strlen(value);
    command_t c = {text, 0};

    if (key_length(key) == 0 || len > VALUE_MAX || ttl_s < 1)
        return XB_STORE_BADKEY;
    c.n = (size_t)snprintf(text, sizeof text, "set %s 0 %u %zu\r\n%s\r\n", key, exptime(ttl_s),
                           len, value);
    xb_store_reply_line(&reply, XB_REPLY_SET);
    return call(st, node, c, &reply, budget_us);
}
