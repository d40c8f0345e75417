/* SPDX-License-Identifier: Apache-2.0 */
/* A HEAD to a member through mod_proxy: connecting, the made-up request, the answer. */
#include "xnat_probe.h"

#include <stdlib.h>
#include <string.h>

#include "ap_listen.h"
#include "apr_optional.h"
#include "apr_strings.h"
#include "http_config.h"
#include "http_connection.h"
#include "http_protocol.h"
#include "http_request.h"
#include "util_filter.h"

#include "xnat_deadline.h"
#include "xnat_probe_clone.h"

/* Of an answer's head; endless headers would otherwise fill memory until the deadline. */
#define RECEIVED_MAX (256 * 1024)

struct xnat_probe_t {
    apr_pool_t *pool;    /* owns all of it; its allocator is this thread's alone */
    apr_pool_t *answers; /* what the last answer points to */
    xnat_clones_t *clones;
    apr_sockaddr_t *here; /* stands in for the client and for the listening socket */
    xnat_deadline_t deadline;
    proxy_conn_rec *conn; /* of the running attempt */
    apr_size_t received;  /* bytes in the running attempt */
    /* GET: what the running attempt's answer has brought; NULL: a HEAD */
    char *body;
    apr_size_t body_bytes;
    bool body_cut, body_whole;
};

/* The probe that this thread runs inside mod_proxy, for the hooks and filters below. */
static _Thread_local xnat_probe_t *running;

static ap_filter_rec_t *no_body, *no_client, *bounded;
static APR_OPTIONAL_FN_TYPE(ajp_handle_cping_cpong) * cping;

/* ---- filters and hooks */

/* The request's body: there is none. mod_proxy_ajp asks after it has sent the head, so a
 * connection that it made again by itself gets its deadline here. */
static apr_status_t no_body_filter(ap_filter_t *f, apr_bucket_brigade *bb, ap_input_mode_t mode,
                                   apr_read_type_e block, apr_off_t readbytes)
{
    (void)f;
    (void)mode;
    (void)block;
    (void)readbytes;
    if (running && running->conn && running->conn->sock) {
        xnat_deadline_watch(&running->deadline, running->conn->sock);
    }
    APR_BRIGADE_INSERT_TAIL(bb, apr_bucket_eos_create(bb->bucket_alloc));
    return APR_SUCCESS;
}

static apr_status_t keep_body(xnat_probe_t *p, apr_bucket *b)
{
    const char *data;
    apr_size_t n, room = XNAT_PROBE_BODY_MAX - p->body_bytes;
    apr_status_t rv = apr_bucket_read(b, &data, &n, APR_BLOCK_READ);
    if (rv == APR_SUCCESS) {
        p->body_cut = p->body_cut || n > room;
        n = n > room ? room : n;
        memcpy(p->body + p->body_bytes, data, n);
        p->body_bytes += n;
    }
    return rv;
}

/* In place of a client. An answer that breaks off ends with an error bucket. */
static apr_status_t no_client_filter(ap_filter_t *f, apr_bucket_brigade *bb)
{
    xnat_probe_t *p = running && running->body ? running : NULL;
    apr_status_t rv = APR_SUCCESS;
    (void)f;
    for (apr_bucket *b = APR_BRIGADE_FIRST(bb);
         p && rv == APR_SUCCESS && b != APR_BRIGADE_SENTINEL(bb); b = APR_BUCKET_NEXT(b)) {
        if (AP_BUCKET_IS_ERROR(b)) {
            rv = APR_EGENERAL;
        }
        else if (!APR_BUCKET_IS_METADATA(b)) {
            rv = keep_body(p, b);
        }
        else if (APR_BUCKET_IS_EOS(b)) {
            p->body_whole = true;
        }
    }
    apr_brigade_cleanup(bb);
    return rv;
}

static apr_status_t bounded_filter(ap_filter_t *f, apr_bucket_brigade *bb, ap_input_mode_t mode,
                                   apr_read_type_e block, apr_off_t readbytes)
{
    apr_off_t n = 0;
    apr_status_t rv = ap_get_brigade(f->next, bb, mode, block, readbytes);
    if (rv != APR_SUCCESS || !running) {
        return rv;
    }
    apr_brigade_length(bb, 0, &n);
    running->received += n > 0 ? (apr_size_t)n : 0;
    if (running->received > RECEIVED_MAX) {
        apr_brigade_cleanup(bb);
        return APR_EGENERAL;
    }
    return APR_SUCCESS;
}

/* Each new connection of a probe, before its TLS handshake. */
static int pre_connection(conn_rec *c, void *csd)
{
    if (!running) {
        return DECLINED;
    }
    ap_add_input_filter_handle(bounded, NULL, NULL, c);
    return xnat_deadline_watch(&running->deadline, csd) ? OK : HTTP_GATEWAY_TIME_OUT;
}

void xnat_probe_register_hooks(apr_pool_t *p)
{
    (void)p;
    no_body =
        ap_register_input_filter("XNAT_PROBE_NO_BODY", no_body_filter, NULL, AP_FTYPE_NETWORK);
    no_client = ap_register_output_filter("XNAT_PROBE_NO_CLIENT", no_client_filter, NULL,
                                          AP_FTYPE_NETWORK);
    bounded = ap_register_input_filter("XNAT_PROBE_BOUNDED", bounded_filter, NULL,
                                       AP_FTYPE_CONNECTION);
    ap_hook_pre_connection(pre_connection, NULL, NULL, APR_HOOK_MIDDLE);
}

apr_status_t xnat_probe_child_init(apr_pool_t *pchild, server_rec *s)
{
    (void)s;
    cping = APR_RETRIEVE_OPTIONAL_FN(ajp_handle_cping_cpong);
    return xnat_deadline_child_init(pchild);
}

void xnat_probe_stop(void)
{
    xnat_deadline_stop();
}

/* ---- the made-up request */

/* AJP tells it to the node. */
static apr_port_t listening_port(const server_rec *s)
{
    if (s->addrs && s->addrs->host_port) {
        return s->addrs->host_port;
    }
    return s->port ? s->port : ap_listeners ? ap_listeners->bind_addr->port : DEFAULT_HTTP_PORT;
}

/* The query of a GET may name a session, and mod_proxy logs whole URLs when it debugs. */
static const struct ap_logconf *log_of(const xnat_probe_t *p, const server_rec *s)
{
    static const struct ap_logconf quiet = {NULL, APLOG_NOTICE};
    return p->body ? &quiet : &s->log;
}

static conn_rec *make_client(xnat_probe_t *p, apr_pool_t *pool, server_rec *s, const char *ip)
{
    conn_rec *c = apr_pcalloc(pool, sizeof(*c));
    c->pool = pool;
    c->base_server = s;
    c->bucket_alloc = apr_bucket_alloc_create(pool);
    c->conn_config = ap_create_conn_config(pool);
    c->notes = apr_table_make(pool, 5);
    c->log = log_of(p, s);
    c->local_addr = apr_pmemdup(pool, p->here, sizeof(*p->here));
    c->local_addr->port = listening_port(s);
    c->client_addr = p->here;
    c->local_ip = c->local_host = "127.0.0.1";
    c->client_ip = apr_pstrdup(pool, ip);
    c->remote_host = c->client_ip; /* or HostnameLookups would ask DNS */
    c->double_reverse = 1;
    c->keepalive = AP_CONN_CLOSE;
    ap_add_input_filter_handle(no_body, NULL, NULL, c);
    ap_add_output_filter_handle(no_client, NULL, NULL, c);
    return c;
}

/* The settings of the balancer's <Proxy> sections, but: the Host that was asked for, cookies as
 * they come, every status passed on. */
static proxy_dir_conf *walk_config(request_rec *r, bool preserve_host)
{
    apr_pool_t *pool = r->pool;
    if (ap_run_map_to_storage(r) != OK) {
        return NULL;
    }
    ap_conf_vector_t *own = ap_create_per_dir_config(pool);
    ap_set_module_config(own, &proxy_module, proxy_module.create_dir_config(pool, NULL));
    r->per_dir_config = ap_merge_per_dir_configs(pool, r->per_dir_config, own);

    proxy_dir_conf *conf = ap_get_module_config(r->per_dir_config, &proxy_module);
    conf->preserve_host = preserve_host;
    conf->preserve_host_set = 1;
    conf->error_override = 0;
    conf->raliases = apr_array_make(pool, 1, sizeof(struct proxy_alias));
    conf->cookie_paths = apr_array_make(pool, 1, sizeof(struct proxy_alias));
    conf->cookie_domains = apr_array_make(pool, 1, sizeof(struct proxy_alias));
    return conf;
}

static void set_host(request_rec *r, const char *host)
{
    char *name = NULL, *scope = NULL;
    apr_port_t port = 0;
    apr_table_setn(r->headers_in, "Host", host);
    r->hostname = host;
    if (apr_parse_addr_port(&name, &scope, &port, host, r->pool) == APR_SUCCESS && name) {
        r->hostname = name;
        r->parsed_uri.port = port;
        r->parsed_uri.port_str = port ? apr_itoa(r->pool, port) : NULL;
    }
}

static void set_header(request_rec *r, const char *name, const char *value)
{
    if (value) {
        apr_table_setn(r->headers_in, name, value);
    }
}

/* mod_proxy_http appends the client's address by itself: give it the others only. */
static void set_forwarded_for(request_rec *r, const char *forwarded_for, bool appended)
{
    const char *last = forwarded_for ? strrchr(forwarded_for, ',') : NULL;
    if (!appended) {
        set_header(r, "X-Forwarded-For", forwarded_for);
    }
    else if (last) {
        set_header(r, "X-Forwarded-For",
                   apr_pstrmemdup(r->pool, forwarded_for, (apr_size_t)(last - forwarded_for)));
    }
}

static const char *client_address(apr_pool_t *pool, const char *forwarded_for)
{
    if (!forwarded_for) {
        return "127.0.0.1";
    }
    const char *last = strrchr(forwarded_for, ',');
    last = last ? last + 1 : forwarded_for;
    return apr_pstrdup(pool, last + strspn(last, " \t"));
}

static request_rec *make_request(xnat_probe_t *p, apr_pool_t *pool,
                                 const xnat_probe_request_t *req)
{
    server_rec *s = req->server;
    conn_rec *c = make_client(p, pool, s, client_address(pool, req->forwarded_for));
    request_rec *r = ap_create_request(c);
    /* Core has added the filters that write an answer to a client. */
    r->input_filters = r->proto_input_filters = c->input_filters;
    r->output_filters = r->proto_output_filters = c->output_filters;
    r->server = s;
    r->log = log_of(p, s);
    r->request_time = apr_time_now();
    r->method = p->body ? "GET" : "HEAD";
    r->method_number = M_GET;
    r->header_only = !p->body; /* without it http waits for a body, and AJP sends a GET */
    r->protocol = "HTTP/1.1";
    r->proto_num = HTTP_VERSION(1, 1);
    /* These are for logs: the node gets method and URL, which alone has the query. */
    char *path = apr_pstrmemdup(r->pool, req->path, strcspn(req->path, "?"));
    r->the_request = apr_pstrcat(r->pool, r->method, " ", path, " HTTP/1.1", NULL);
    r->uri = r->unparsed_uri = path;
    r->proxyreq = PROXYREQ_REVERSE;
    r->handler = "proxy-server";
    r->filename = apr_pstrcat(r->pool, "proxy:", req->balancer->s->name, path, NULL);

    proxy_dir_conf *conf = walk_config(r, req->host != NULL);
    if (!conf) {
        return NULL;
    }
    set_host(r, req->host ? req->host : s->server_hostname);
    set_header(r, "Cookie", req->cookie);
    set_header(r, "Authorization", req->authorization);
    set_header(r, "X-Forwarded-Proto", req->forwarded_proto);
    set_forwarded_for(r, req->forwarded_for,
                      conf->add_forwarded_headers &&
                          strncmp(req->worker->s->scheme, "ajp", 3) != 0);
    if (!xnat_clones_reusable(req->worker)) {
        apr_table_setn(r->subprocess_env, "proxy-nokeepalive", "1");
    }
    return r;
}

/* ---- connecting: done here, so that the deadline holds from the first packet on */

/* For time-outs of single reads and writes: beyond the deadline, for that is to end them. */
static apr_interval_time_t time_left(xnat_probe_t *p)
{
    return xnat_deadline_left_us(&p->deadline) + apr_time_from_msec(100);
}

static bool connect_to(xnat_probe_t *p, proxy_server_conf *conf, apr_sockaddr_t *addr)
{
    proxy_conn_rec *conn = p->conn;
    const proxy_worker_shared *s = conn->worker->s;
    bool local = conn->uds_path != NULL;
    apr_socket_t *sock;
    if (apr_socket_create(&sock, addr->family, SOCK_STREAM, local ? 0 : APR_PROTO_TCP,
                          conn->scpool) != APR_SUCCESS) {
        return false;
    }
    apr_interval_time_t left = time_left(p);
    apr_socket_timeout_set(sock, s->conn_timeout < left ? s->conn_timeout : left);
    if (!local) {
        apr_socket_opt_set(sock, APR_TCP_NODELAY, 1);
        if (conf->source_address_set) {
            apr_socket_bind(sock, apr_pmemdup(conn->scpool, conf->source_address,
                                              sizeof(*conf->source_address)));
        }
    }
    if (xnat_deadline_watch(&p->deadline, sock) &&
        (local ? ap_proxy_connect_uds(sock, conn->uds_path, conn->scpool)
               : apr_socket_connect(sock, addr)) == APR_SUCCESS) {
        conn->sock = sock;
        return true;
    }
    apr_socket_close(sock);
    return false;
}

/* The clone's connection, alive: the kept one, or a new one to the first address to answer. */
static bool connect_member(xnat_probe_t *p, request_rec *r, const xnat_probe_request_t *req,
                           proxy_worker *clone, const char *url, bool *kept)
{
    const char *scheme = clone->s->scheme;
    char *path = apr_pstrdup(r->pool, url), port[32];
    apr_uri_t uri;
    *kept = false;
    if (ap_proxy_acquire_connection(scheme, &p->conn, clone, r->server) != OK) {
        p->conn = NULL;
        return false;
    }
    p->conn->is_ssl = strcmp(scheme, "https") == 0;
    if (ap_proxy_determine_connection(r->pool, r, req->conf, clone, p->conn, &uri, &path, NULL,
                                      0, port, sizeof(port)) != OK) {
        return false;
    }
    if (p->conn->sock) {
        *kept = ap_proxy_check_connection(scheme, p->conn, r->server, 1,
                                          PROXY_CHECK_CONN_EMPTY) == APR_SUCCESS;
    }
    for (apr_sockaddr_t *a = p->conn->addr; a && !p->conn->sock; a = a->next) {
        connect_to(p, req->conf, a);
    }
    return p->conn->sock != NULL;
}

/* mod_proxy_ajp would ping by itself, out of the deadline's reach; the clone has no `ping`. */
static bool ping_member(xnat_probe_t *p, request_rec *r, const proxy_worker *real)
{
    apr_interval_time_t left = time_left(p);
    if (!xnat_deadline_watch(&p->deadline, p->conn->sock)) {
        return false;
    }
    if (real->s->ping_timeout_set && cping && strcmp(real->s->scheme, "ajp") == 0) {
        apr_interval_time_t wait = real->s->ping_timeout < left ? real->s->ping_timeout : left;
        if (cping(p->conn->sock, r, wait) != APR_SUCCESS) {
            return false;
        }
    }
    apr_socket_timeout_set(p->conn->sock, left);
    return true;
}

/* ---- one attempt */

static int keep_cookie(void *data, const char *name, const char *value)
{
    (void)name;
    xnat_probe_answer_t *answer = data;
    if (answer->cookies < XNAT_PROBE_COOKIES) {
        answer->set_cookie[answer->cookies++] = value;
    }
    return 1;
}

static void keep_answer(xnat_probe_t *p, request_rec *r, xnat_probe_answer_t *answer)
{
    answer->status = r->status;
    apr_table_do(keep_cookie, answer, r->headers_out, "Set-Cookie", NULL);
    for (unsigned i = 0; i < answer->cookies; i++) {
        answer->set_cookie[i] = apr_pstrdup(p->answers, answer->set_cookie[i]);
    }
    if (p->body) {
        p->body[p->body_bytes] = '\0';
        answer->body = p->body;
        answer->body_bytes = p->body_bytes;
        answer->body_cut = p->body_cut;
    }
}

/* The handler's word counts: after a failure r->status may still be 200. And a peer that does
 * not speak HTTP passes there for HTTP/0.9. */
static bool is_answered(request_rec *r, proxy_worker *clone, const xnat_probe_request_t *req,
                        char *url)
{
    return proxy_run_scheme_handler(r, clone, req->conf, url, NULL, 0) == OK &&
           (strncmp(clone->s->scheme, "http", 4) != 0 ||
            apr_table_get(r->notes, "proxy-status"));
}

static void give_up(xnat_probe_t *p, request_rec *r)
{
    if (p->conn) {
        p->conn->close = 1;
        ap_proxy_release_connection(p->conn->worker->s->scheme, p->conn, r->server);
        p->conn = NULL;
    }
}

static xnat_probe_rc_t ask(xnat_probe_t *p, request_rec *r, const xnat_probe_request_t *req,
                           xnat_probe_answer_t *answer, bool *kept)
{
    proxy_worker *clone = xnat_clones_get(p->clones, req);
    if (!clone) {
        return XNAT_PROBE_REFUSED;
    }
    xnat_clones_set_budget(clone, req->worker, time_left(p));
    char *url = xnat_clones_url(r->pool, clone, req->path);
    if (!connect_member(p, r, req, clone, url, kept)) {
        give_up(p, r);
        xnat_clones_forget(p->clones, req); /* its addresses may have changed */
        return XNAT_PROBE_REFUSED;
    }
    if (!ping_member(p, r, req->worker)) {
        give_up(p, r);
        return XNAT_PROBE_BROKEN;
    }
    /* Handed on: in single-connection mode the scheme handler takes this very one. */
    clone->cp->conn = p->conn;
    if (!is_answered(r, clone, req, url) || (p->body && !p->body_whole)) {
        return XNAT_PROBE_BROKEN;
    }
    keep_answer(p, r, answer);
    return XNAT_PROBE_ANSWERED;
}

static xnat_probe_rc_t attempt(xnat_probe_t *p, const xnat_probe_request_t *req,
                               xnat_probe_answer_t *answer, bool *kept)
{
    xnat_probe_rc_t rc = XNAT_PROBE_BROKEN;
    apr_pool_t *pool;
    apr_pool_create(&pool, p->pool);
    p->received = p->body_bytes = 0;
    p->body_cut = p->body_whole = false;
    p->conn = NULL;
    *kept = false;
    running = p;
    request_rec *r = make_request(p, pool, req);
    if (r) {
        rc = ask(p, r, req, answer, kept);
    }
    running = NULL;
    apr_pool_destroy(pool);
    return rc;
}

/* ---- the API */

/* Nothing that could end a header or the request line early. */
static bool is_clean(const xnat_probe_request_t *req)
{
    const char *values[] = {req->host, req->cookie, req->authorization, req->forwarded_proto,
                            req->forwarded_for};
    for (unsigned i = 0; i < sizeof(values) / sizeof(values[0]); i++) {
        if (values[i] && *ap_scan_http_field_content(values[i])) {
            return false;
        }
    }
    return req->path[0] == '/' && !*ap_scan_vchar_obstext(req->path);
}

static xnat_probe_rc_t run(xnat_probe_t *p, const xnat_probe_request_t *req, bool get,
                           xnat_probe_answer_t *answer)
{
    bool kept;
    memset(answer, 0, sizeof(*answer));
    apr_pool_clear(p->answers);
    p->body = get ? apr_palloc(p->answers, XNAT_PROBE_BODY_MAX + 1) : NULL;
    if (!is_clean(req)) {
        return XNAT_PROBE_BROKEN;
    }
    if (!xnat_deadline_arm(&p->deadline, req->budget)) {
        return XNAT_PROBE_LATE;
    }
    xnat_probe_rc_t rc = attempt(p, req, answer, &kept);
    if (rc == XNAT_PROBE_BROKEN && kept && xnat_deadline_left_us(&p->deadline) > 0) {
        rc = attempt(p, req, answer, &kept); /* the member had closed an idle connection */
    }
    bool late = xnat_deadline_disarm(&p->deadline);
    return late && rc != XNAT_PROBE_ANSWERED ? XNAT_PROBE_LATE : rc;
}

xnat_probe_rc_t xnat_probe_head(xnat_probe_t *p, const xnat_probe_request_t *req,
                                xnat_probe_answer_t *answer)
{
    return run(p, req, false, answer);
}

xnat_probe_rc_t xnat_probe_get(xnat_probe_t *p, const xnat_probe_request_t *req,
                               xnat_probe_answer_t *answer)
{
    return run(p, req, true, answer);
}

void xnat_probe_destroy(xnat_probe_t *p)
{
    apr_pool_destroy(p->pool);
}

apr_status_t xnat_probe_create(xnat_probe_t **out, server_rec *s)
{
    (void)s;
    apr_allocator_t *allocator;
    apr_pool_t *pool;
    apr_status_t rv = apr_allocator_create(&allocator);
    if (rv != APR_SUCCESS) {
        return rv;
    }
    rv = apr_pool_create_ex(&pool, NULL, NULL, allocator);
    if (rv != APR_SUCCESS) {
        apr_allocator_destroy(allocator);
        return rv;
    }
    apr_allocator_owner_set(allocator, pool);
    apr_pool_tag(pool, "xnat_probe");

    xnat_probe_t *p = apr_pcalloc(pool, sizeof(*p));
    p->pool = pool;
    p->clones = xnat_clones_create(pool);
    apr_pool_create(&p->answers, pool);
    rv = apr_sockaddr_info_get(&p->here, "127.0.0.1", APR_INET, 0, 0, pool);
    if (rv != APR_SUCCESS) {
        xnat_probe_destroy(p);
        return rv;
    }
    *out = p;
    return APR_SUCCESS;
}
