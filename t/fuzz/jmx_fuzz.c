/* SPDX-License-Identifier: Apache-2.0 */
/* Fuzzes answers of the JMXProxyServlet: names are whole lines of the answer, in bounds, and
 * those of a session manager. Input: the context, a line end, then the answer. */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "xb_jmx.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char *text_of(const uint8_t *data, size_t size)
{
    char *text = malloc(size + 1);
    memcpy(text, data, size);
    text[size] = '\0';
    return text;
}

static void check_name(const char *name, const char *context, const char *body)
{
    assert(memchr(name, '\0', XB_JMX_NAME_SIZE));
    assert(!strpbrk(name, "\r\n") && strstr(body, name));
    assert(strstr(name, "type=Manager") && strstr(name, "context=") && strstr(name, context));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const uint8_t *end = memchr(data, '\n', size);
    size_t n = end ? (size_t)(end - data) : 0;
    bool there;
    xb_jmx_names_t names;

    if (!end)
        return 0;
    char *context = text_of(data, n), *body = text_of(end + 1, size - n - 1);
    bool all = xb_jmx_names(body, context, &names);
    assert(names.n <= XB_JMX_HOSTS && (all || names.n == XB_JMX_HOSTS));
    for (unsigned i = 0; i < names.n; i++)
        check_name(names.text[i], context, body);
    if (xb_jmx_tells_time(body, &there))
        assert(xb_jmx_is_ok(body) && strchr(body, '\n'));
    free(context);
    free(body);
    return 0;
}
