/* SPDX-License-Identifier: Apache-2.0 */
/* Module symbol, log module and version: what every glue source needs. */
#ifndef MOD_XNAT_BALANCE_H
#define MOD_XNAT_BALANCE_H

#include "httpd.h"
#include "http_config.h"
#include "http_log.h"

#define XNAT_VERSION "0.1.0"

/* The one symbol that leaves the module: all else is hidden by -fvisibility=hidden. */
extern module __attribute__((visibility("default"))) xnat_balance_module;
APLOG_USE_MODULE(xnat_balance);

#endif
