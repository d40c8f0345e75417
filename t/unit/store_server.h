/* SPDX-License-Identifier: Apache-2.0 */
/* A server that follows a script, for store_test.c: a thread that takes one connection at a
 * time and does the same for each command. */
#ifndef STORE_SERVER_H
#define STORE_SERVER_H

#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

typedef enum {
    ANSWER,
    BY_BYTE,
    TRICKLE,
    HANG,
    HANG_UP,
    RESET,
    THEN_CLOSE,
    THEN_SAY,
    FLOOD
} how_t;

static struct {
    pthread_mutex_t lock; /* of what follows; the test sets it while the server is idle */
    how_t how;
    const char *answer;
    bool hang_up_once;    /* at the next command, whatever the script says */
    unsigned connections; /* so far */
    char command[512];    /* the last one, with its value */
    int listener;
    uint16_t port;
} server = {.lock = PTHREAD_MUTEX_INITIALIZER};

static void script(how_t how, const char *answer)
{
    pthread_mutex_lock(&server.lock);
    server.how = how;
    server.answer = answer;
    pthread_mutex_unlock(&server.lock);
}

static unsigned connections(void)
{
    unsigned n;

    pthread_mutex_lock(&server.lock);
    n = server.connections;
    pthread_mutex_unlock(&server.lock);
    return n;
}

static bool say(int fd, const char *text, size_t n)
{
    return send(fd, text, n, MSG_NOSIGNAL) == (ssize_t)n;
}

/* True: the other side closed within the time. */
static bool closed_within(int fd, int ms)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    char byte;

    return poll(&p, 1, ms) > 0 && recv(fd, &byte, 1, MSG_DONTWAIT) <= 0;
}

static void say_slowly(int fd, const char *text, int pause_ms)
{
    for (; *text && say(fd, text, 1); text++) {
        if (pause_ms && closed_within(fd, pause_ms))
            return;
    }
}

static void flood(int fd, const char *text)
{
    static char much[65536];

    memset(much, 'x', sizeof much);
    for (bool on = say(fd, text, strlen(text)); on;)
        on = say(fd, much, sizeof much);
}

/* False: the connection is to be closed. */
static bool reply(int fd, how_t how, const char *answer)
{
    struct linger now = {1, 0};

    switch (how) {
    case BY_BYTE:
        say_slowly(fd, answer, 0);
        return true;
    case TRICKLE:
        say_slowly(fd, answer, 40);
        return true;
    case HANG:
        return true;
    case HANG_UP:
        return false;
    case RESET:
        setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
        return false;
    case FLOOD:
        flood(fd, answer);
        return false;
    case THEN_SAY:
        say(fd, answer, strlen(answer));
        return !closed_within(fd, 10) && say(fd, "END\r\n", 5);
    case ANSWER:
    case THEN_CLOSE:
        say(fd, answer, strlen(answer));
        break;
    }
    return how == ANSWER;
}

/* Reads one command, of `set` with its value. */
static bool read_command(int fd, char *text, size_t size)
{
    size_t n = 0, ends = 0;

    while (ends < (n >= 4 && memcmp(text, "set ", 4) == 0 ? 2u : 1u)) {
        if (n == size - 1 || recv(fd, text + n, 1, 0) != 1)
            return false;
        ends += text[n++] == '\n';
    }
    text[n] = '\0';
    return true;
}

static void serve(int fd)
{
    char text[sizeof server.command];
    how_t how;
    const char *answer;

    do {
        if (!read_command(fd, text, sizeof text))
            return;
        pthread_mutex_lock(&server.lock);
        memcpy(server.command, text, sizeof text);
        how = server.hang_up_once ? HANG_UP : server.how;
        server.hang_up_once = false;
        answer = server.answer;
        pthread_mutex_unlock(&server.lock);
    } while (reply(fd, how, answer));
}

static void *run_server(void *unused)
{
    int fd;

    while ((fd = accept(server.listener, NULL, NULL)) >= 0) {
        pthread_mutex_lock(&server.lock);
        server.connections++;
        pthread_mutex_unlock(&server.lock);
        serve(fd);
        close(fd);
    }
    return unused;
}

static int listen_on_loopback(uint16_t *port, int backlog)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof a;
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    if (fd < 0 || bind(fd, (struct sockaddr *)&a, len) || listen(fd, backlog) ||
        getsockname(fd, (struct sockaddr *)&a, &len)) {
        puts("Bail out! no socket");
        exit(1);
    }
    *port = ntohs(a.sin_port);
    return fd;
}

#endif
