/* SPDX-License-Identifier: Apache-2.0 */
/* To be preloaded: while the file named by XB_NO_THREADS is there, mod_xnat_balance cannot
 * start threads. Others can: httpd itself must go on. */
#include <dlfcn.h>
#include <errno.h>
#include <execinfo.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef int create_t(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);

static int is_asked_by_the_module(void)
{
    void *frame[16];
    int n = backtrace(frame, 16);
    for (int i = 0; i < n; i++) {
        Dl_info info;
        if (dladdr(frame[i], &info) && info.dli_fname &&
            strstr(info.dli_fname, "mod_xnat_balance")) {
            return 1;
        }
    }
    return 0;
}

int pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*fn)(void *),
                   void *arg)
{
    const char *file = getenv("XB_NO_THREADS");
    create_t *real = (create_t *)dlsym(RTLD_NEXT, "pthread_create");
    if (file && access(file, F_OK) == 0 && is_asked_by_the_module()) {
        return EAGAIN;
    }
    return real(thread, attr, fn, arg);
}
