/* SPDX-License-Identifier: Apache-2.0 */
/* Answers of Tomcat's JMXProxyServlet, as NUL-terminated text. Pure, any thread. A node is not
 * trusted: whatever it says, what comes out has these bounds. */
#ifndef XB_JMX_H
#define XB_JMX_H

#include <stdbool.h>

/* Virtual hosts of one Tomcat that may have the same context. */
#define XB_JMX_HOSTS 4
#define XB_JMX_NAME_SIZE 256

typedef struct {
    char text[XB_JMX_HOSTS][XB_JMX_NAME_SIZE];
    unsigned n;
} xb_jmx_names_t;

/* Is it the servlet that answers, and is it content with the question? */
bool xb_jmx_is_ok(const char *body);

/* The object names of a query's answer that are session managers of this context. False: more
 * than there can be. */
bool xb_jmx_names(const char *body, const char *context, xb_jmx_names_t *out);

/* When a session was last used: *there = a time, not an empty line. False: an answer to another
 * question, or one that breaks off. */
bool xb_jmx_tells_time(const char *body, bool *there);

#endif
