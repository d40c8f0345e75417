/* SPDX-License-Identifier: Apache-2.0 */
/* To be preloaded: the host "slow.test" is 127.0.0.1, and while the file named by XB_SLOW_NAMES
 * is there it takes three seconds to find that out. */
#include <dlfcn.h>
#include <netdb.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef int find_t(const char *, const char *, const struct addrinfo *, struct addrinfo **);

int getaddrinfo(const char *host, const char *port, const struct addrinfo *hints,
                struct addrinfo **out)
{
    find_t *real = (find_t *)dlsym(RTLD_NEXT, "getaddrinfo");
    const char *file = getenv("XB_SLOW_NAMES");
    int numeric = hints && hints->ai_flags & AI_NUMERICHOST;
    if (!host || strcmp(host, "slow.test") || numeric) {
        return real(host, port, hints, out);
    }
    if (file && access(file, F_OK) == 0) {
        sleep(3);
    }
    return real("127.0.0.1", port, hints, out);
}
