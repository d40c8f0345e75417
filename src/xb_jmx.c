/* SPDX-License-Identifier: Apache-2.0 */
/* What a JMXProxyServlet says: names of session managers, when a session was last used. */
#include "xb_jmx.h"

#include <string.h>

bool xb_jmx_is_ok(const char *body)
{
    return !strncmp(body, "OK - ", 5);
}

/* Does an object name, domain:key=value,key=value, have this pair? */
static bool has_property(const char *name, const char *key, const char *value)
{
    size_t k = strlen(key), v = strlen(value);
    for (const char *p = strchr(name, ':'); p; p = strchr(p + 1, ',')) {
        const char *pair = p + 1;
        if (!strncmp(pair, key, k) && pair[k] == '=' && !strncmp(pair + k + 1, value, v) &&
            (!pair[k + 1 + v] || pair[k + 1 + v] == ','))
            return true;
    }
    return false;
}

/* Lines "Name: <object name>"; the attributes that follow each are not ours to look at. */
bool xb_jmx_names(const char *body, const char *context, xb_jmx_names_t *out)
{
    static const char head[] = "Name: ";
    const size_t skip = sizeof head - 1;
    out->n = 0;
    for (const char *line = body; *line; line += strcspn(line, "\n"), line += *line == '\n') {
        size_t n = strcspn(line, "\r\n");
        if (strncmp(line, head, skip) != 0 || n - skip >= XB_JMX_NAME_SIZE)
            continue;
        if (out->n == XB_JMX_HOSTS)
            return false;
        char *name = out->text[out->n];
        memcpy(name, line + skip, n - skip);
        name[n - skip] = '\0';
        out->n +=
            has_property(name, "type", "Manager") && has_property(name, "context", context);
    }
    return true;
}

bool xb_jmx_tells_time(const char *body, bool *there)
{
    static const char head[] = "OK - Operation getLastAccessedTime returned:";
    *there = false;
    if (strncmp(body, head, sizeof head - 1) != 0)
        return false;
    body += sizeof head - 1;
    size_t blank = strspn(body, "\r\n");
    *there = body[blank] != '\0';
    unsigned lines = 0;
    for (size_t i = 0; i < blank; i++)
        lines += body[i] == '\n';
    return lines >= (*there ? 1 : 2);
}
