/* SPDX-License-Identifier: Apache-2.0 */
/* Log lines of the glue: each has a stable code (XBnnnn, listed in docs/operations.md), since
 * httpd's AH numbers are not ours to take. Never called under a lock of the table. */
#ifndef XNAT_LOG_H
#define XNAT_LOG_H

#include "httpd.h"
#include "http_log.h"

#include "mod_xnat_balance.h"

#define XB(code) "XB" #code ": "

#define xnat_log_server(level, rv, s, code, ...)                                               \
    ap_log_error(APLOG_MARK, (level), (rv), (s), code __VA_ARGS__)
#define xnat_log_request(level, rv, r, code, ...)                                              \
    ap_log_rerror(APLOG_MARK, (level), (rv), (r), code __VA_ARGS__)

#endif
