/* SPDX-License-Identifier: Apache-2.0 */
/* What memcached-session-manager (MSM 2.3.2) puts into memcached: node list, keys, session
 * values; and the module's own markers beside it. Pure functions, any thread. Formats: MSM's
 * MemcachedNodesManager, StorageKeyFormat and TranscoderService.serializeSessionFields. */
#ifndef XB_MSM_H
#define XB_MSM_H

#include <stdint.h>

#include "xb_id.h"

#define XB_MSM_NODES_MAX 16
#define XB_MSM_KEY_MAX 250 /* memcached's own limit */

typedef struct {
    char id[32]; /* \w+; empty for a single node without id */
    char host[256];
    uint16_t port;
} xb_msm_node_t;

typedef struct {
    unsigned count;
    xb_msm_node_t node[XB_MSM_NODES_MAX];
} xb_msm_nodes_t;

/* Parses MSM's memcachedNodes string, or a superset: comma and/or white space between nodes,
 * IPv6 in brackets. NULL, or a static sentence that says what is wanted. */
const char *xb_msm_nodes_parse(const char *text, xb_msm_nodes_t *out);

/* True if MSM itself would not understand the string (so the administrator is warned). */
bool xb_msm_nodes_superset(const char *text);

/* Index of the node that an id names (or of the only node without id), -1 if unknown. */
int xb_msm_node_of(const xb_msm_nodes_t *nodes, const xb_id_t *id);

/* NULL, or a static sentence: why MSM could not work with this storageKeyPrefix. */
const char *xb_msm_prefix_check(const char *prefix);

/* Key of a session: `[kind][prefix_]id`, kind "" or "lock:", "validity:". prefix NULL or "":
 * none. Length without NUL, or 0 if it does not fit or has a byte that memcached would take for
 * syntax. */
size_t xb_msm_key(char out[XB_MSM_KEY_MAX + 1], const char *kind, const char *prefix,
                  xb_span_t id);

/* Key of a marker of ours: `xnat-balance:<what>:<base id>`, what = "pin" or "moved". As above.
 */
size_t xb_msm_marker_key(char out[XB_MSM_KEY_MAX + 1], const char *what, xb_span_t base);

/* Bytes of a value that xb_msm_value_check needs: header and the longest id. */
#define XB_MSM_HEAD_SIZE (44 + XB_ID_MAX + 1)
#define XB_MSM_VALIDITY_SIZE 20

typedef enum {
    XB_MSM_GOOD,
    XB_MSM_SHORT,   /* under 44 bytes: a ping or a lie */
    XB_MSM_VERSION, /* header version other than 1 or 2 */
    XB_MSM_OTHERID, /* the value belongs to another session */
    XB_MSM_INVALID, /* invalidated, or fields that contradict each other */
    XB_MSM_EXPIRING /* dead, or will be within `margin_s` */
} xb_msm_verdict_t;

typedef struct {
    int64_t created_ms, last_accessed_ms, this_accessed_ms, last_backup_ms; /* Tomcat's clock */
    int32_t max_inactive_s;                                                 /* <= 0: never */
} xb_msm_head_t;

/* What Java serialization writes for an attribute that it could not write, as a string of that
 * length; before it stands an exception, at which reading ends: no node can load such a
 * session. Its first byte occurs only once. */
#define XB_MSM_NOT_SERIALIZABLE "t\0\x20___NOT_SERIALIZABLE_EXCEPTION___"

/* Checks the first `got` bytes of a stored session against the id that it must hold.
 * now_ms: wall clock, milliseconds since 1970. margin_s: how long it must still live. */
xb_msm_verdict_t xb_msm_value_check(const uint8_t *value, size_t got, xb_span_t id,
                                    int64_t now_ms, int32_t margin_s, xb_msm_head_t *out);

/* Non-sticky mode: the value of `validity:` has the times that count, since the session itself
 * is only written when its attributes change. SHORT: not 20 bytes. Sets the three fields that
 * it knows. */
xb_msm_verdict_t xb_msm_validity_check(const uint8_t *value, size_t total, int64_t now_ms,
                                       int32_t margin_s, xb_msm_head_t *out);

#endif
