#include "support/wire_server.h"

#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "support/temp_dir.h"

#define UNIX_PORT       "54329"
#define PROTOCOL_3      196608U
#define SSL_REQUEST     80877103U
#define GSSENC_REQUEST  80877104U
#define CONNECTIONS_MAX 8192
#define MESSAGE_MAX     (1U << 24)

/* Memory and threads are there, or the test ends here. */
static void
check(bool ok, const Error *err)
{
    if (ok)
        return;
    (void)fprintf(stderr, "test support: wire server: %s\n", err->message);
    abort();
}

/* ---- the server's state ---- */

typedef struct Texts {
    Buf *items;
    size_t count;
    size_t capacity;
} Texts;

typedef struct Link {
    WireServer *server;
    size_t number;
    int fd;
    int64_t sent;
    int64_t cut;
    int64_t damage_at;
    uint8_t damage_mask;
    atomic_bool over;
    Thread thread;
} Link;

struct WireServer {
    WireServerConfig config;
    TempDir dir;
    char host[108];
    char port[16];
    char conninfo[160];
    int listener;
    Stop stop;
    Thread acceptor;
    bool stopped;
    _Atomic int64_t cut;
    _Atomic int64_t damage_at;
    atomic_uchar damage_mask;
    _Atomic int64_t last_sent;

    pthread_mutex_t lock; /* all below */
    Link *links[CONNECTIONS_MAX];
    size_t link_count;
    Texts queries;
    Texts copy_data;
    Buf startup; /* of the last connection: name, value, name, value, ... */
    char problem[512];
};

static void
texts_add(Texts *texts, const uint8_t *data, size_t len)
{
    void *items = texts->items;
    Error err = ERROR_INIT;

    check(mem_grow(&items, &texts->capacity, texts->count + 1, sizeof(Buf), &err), &err);
    texts->items = items;
    texts->items[texts->count] = BUF_INIT;
    wire_bytes(&texts->items[texts->count++], data, len);
}

static void
texts_free(Texts *texts)
{
    for (size_t i = 0; i < texts->count; i++)
        buf_free(&texts->items[i]);
    free(texts->items);
}

/* The first problem stays. Always false. */
static bool PRINTF_LIKE(2, 3) report(WireServer *server, const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    (void)pthread_mutex_lock(&server->lock);
    if (server->problem[0] == '\0')
        (void)vsnprintf(server->problem, sizeof server->problem, fmt, args);
    (void)pthread_mutex_unlock(&server->lock);
    va_end(args);
    return false;
}

static void
record(WireServer *server, Texts *texts, const Buf *body)
{
    (void)pthread_mutex_lock(&server->lock);
    texts_add(texts, body->data, body->len);
    (void)pthread_mutex_unlock(&server->lock);
}

/* ---- bytes over the socket ---- */

/* False: the client is gone or silent, or the server is stopped. */
static bool
link_wait(Link *link, short events)
{
    int patience = link->server->config.patience_ms == 0 ? -1 : link->server->config.patience_ms;
    Error err = ERROR_INIT;

    return runtime_wait(link->fd, events, patience, &link->server->stop, NULL, &err) == WAIT_READY;
}

static bool
link_read(Link *link, void *data, size_t len)
{
    uint8_t *at = data;

    while (len > 0) {
        ssize_t got;

        if (!link_wait(link, POLLIN))
            return false;
        got = recv(link->fd, at, len, 0);
        if (got <= 0)
            return false;
        at += got;
        len -= (size_t)got;
    }
    return true;
}

/* The next bytes as this connection is to get them: at most a chunk, up to the cut, damaged. */
static void
link_prepare(const Link *link, const uint8_t *data, size_t len, Buf *piece)
{
    size_t chunk = link->server->config.chunk;

    if (chunk != 0 && len > chunk)
        len = chunk;
    if (link->cut >= 0 && (int64_t)len > link->cut - link->sent)
        len = (size_t)(link->cut - link->sent);
    buf_clear(piece);
    wire_bytes(piece, data, len);
    if (link->damage_at >= link->sent && link->damage_at < link->sent + (int64_t)len)
        piece->data[link->damage_at - link->sent] ^= link->damage_mask;
}

static void
link_pause(Link *link)
{
    Error err = ERROR_INIT;
    int ms = link->server->config.pause_ms;

    if (ms > 0 && runtime_wait(-1, 0, ms, &link->server->stop, NULL, &err) == WAIT_FAILED)
        (void)report(link->server, "%s", err.message);
}

/* False: the connection is over. */
static bool
link_write(Link *link, const Buf *bytes)
{
    Buf piece = BUF_INIT;
    size_t done = 0;
    bool ok = true;

    while (ok && done < bytes->len) {
        ssize_t sent;

        link_prepare(link, bytes->data + done, bytes->len - done, &piece);
        ok = piece.len > 0 && link_wait(link, POLLOUT);
        if (!ok)
            break;
        sent = send(link->fd, piece.data, piece.len, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent < 0 && errno == EAGAIN)
            continue;
        ok = sent > 0;
        if (ok) {
            done += (size_t)sent;
            link->sent += sent;
            link_pause(link);
        }
    }
    buf_free(&piece);
    return ok;
}

/* One message of the client; *ret_type is 0 for the startup, which has no type. */
static bool
link_receive(Link *link, bool startup, char *ret_type, Buf *body)
{
    Error err = ERROR_INIT;
    uint8_t head[5] = {0};
    uint32_t len;
    Reader reader;

    if (!link_read(link, startup ? head + 1 : head, startup ? 4 : 5))
        return false;
    reader = reader_of((Span){.data = head + 1, .len = 4});
    len = read_be32(&reader);
    if (len < 4 || len > MESSAGE_MAX)
        return report(link->server, "the client sent a message of %u bytes", len);
    buf_clear(body);
    check(buf_reserve(body, len, &err), &err);
    if (!link_read(link, body->data, len - 4))
        return false;
    body->len = len - 4;
    body->data[body->len] = '\0';
    *ret_type = (char)head[0];
    return true;
}

/* ---- startup ---- */

static bool
link_check_password(Link *link, Buf *body, Buf *answer)
{
    char type = 0;

    wire_auth_cleartext(answer);
    if (!link_write(link, answer) || !link_receive(link, false, &type, body))
        return false;
    buf_clear(answer);
    if (type == 'p' && strcmp(buf_text(body), link->server->config.password) == 0)
        return true;
    wire_error(answer, "FATAL", "28P01", "password authentication failed");
    (void)link_write(link, answer);
    return false;
}

static void
record_startup(WireServer *server, const Buf *body)
{
    (void)pthread_mutex_lock(&server->lock);
    buf_clear(&server->startup);
    wire_bytes(&server->startup, body->data + 4, body->len - 4);
    (void)pthread_mutex_unlock(&server->lock);
}

/* Up to the client's parameters, through its requests for encryption. */
static bool
link_receive_startup(Link *link, Buf *body)
{
    for (;;) {
        char type;
        Reader reader;
        uint32_t code;

        if (!link_receive(link, true, &type, body))
            return false;
        reader = reader_of((Span){.data = body->data, .len = body->len});
        code = read_be32(&reader);
        if (code == PROTOCOL_3) {
            record_startup(link->server, body);
            return true;
        }
        if (code != SSL_REQUEST && code != GSSENC_REQUEST)
            return false; /* a cancel request */
        if (send(link->fd, "N", 1, MSG_NOSIGNAL) != 1)
            return false;
    }
}

static void
put_welcome(Link *link, Buf *answer)
{
    const WireServerConfig *config = &link->server->config;

    wire_auth_ok(answer);
    wire_parameter(answer, "server_version",
                   config->server_version == NULL ? "18.4" : config->server_version);
    if (config->integer_datetimes == NULL)
        wire_parameter(answer, "integer_datetimes", "on");
    else if (config->integer_datetimes[0] != '\0')
        wire_parameter(answer, "integer_datetimes", config->integer_datetimes);
    wire_backend_key(answer, 4711 + (uint32_t)link->number);
    wire_ready(answer);
}

static bool
link_stall(Link *link, const Stop *until)
{
    const Stop *stop = &link->server->stop;
    struct pollfd fds[] = {{.fd = link->fd, .events = POLLRDHUP},
                           {.fd = stop->fd, .events = POLLIN},
                           {.fd = until == NULL ? -1 : until->fd, .events = POLLIN}};

    while (poll(fds, 3, -1) < 0 && errno == EINTR)
        ;
    return until != NULL && stop_requested(until) && !stop_requested(stop);
}

static bool
link_start(Link *link, Buf *body)
{
    const WireServerConfig *config = &link->server->config;
    Buf answer = BUF_INIT;
    bool ok = link_receive_startup(link, body);

    if (ok && config->hold != NULL && link->number >= config->hold_from)
        ok = link_stall(link, config->hold);
    if (ok && config->refuse != NULL && link->number >= config->refuse_from) {
        wire_error(&answer, "FATAL", "53300", config->refuse);
        (void)link_write(link, &answer);
        ok = false;
    }
    if (ok && config->password != NULL)
        ok = link_check_password(link, body, &answer);
    if (ok) {
        put_welcome(link, &answer);
        ok = link_write(link, &answer);
    }
    buf_free(&answer);
    return ok;
}

/* ---- playing a script ---- */

static bool
play_expect(Link *link, const char *prefix, Buf *body)
{
    char type;

    if (!link_receive(link, false, &type, body) || type == 'X')
        return false;
    if (type != 'Q')
        return report(link->server, "expected the command \"%s\", got a message '%c'", prefix,
                      type);
    record(link->server, &link->server->queries, body);
    if (strncmp(buf_text(body), prefix, strlen(prefix)) != 0)
        return report(link->server, "expected the command \"%s\", got \"%s\"", prefix,
                      buf_text(body));
    return true;
}

/* One CopyData, or all up to CopyDone. */
static bool
play_copy(Link *link, WireStepKind kind, Buf *body)
{
    for (;;) {
        char type;

        if (!link_receive(link, false, &type, body) || type == 'X')
            return false;
        if (type == 'd') {
            record(link->server, &link->server->copy_data, body);
            if (kind == WIRE_COPY_DATA)
                return true;
        } else if (type == 'c' && kind == WIRE_COPY_DONE) {
            return true;
        } else {
            return report(link->server, "expected copy data, got a message '%c'", type);
        }
    }
}

/* False: the connection is over. */
static bool
play_step(Link *link, const WireStep *step, Buf *body)
{
    switch (step->kind) {
    case WIRE_EXPECT:
        return play_expect(link, step->text, body);
    case WIRE_SEND:
        return link_write(link, &step->bytes);
    case WIRE_COPY_DATA:
    case WIRE_COPY_DONE:
        return play_copy(link, step->kind, body);
    case WIRE_STALL:
        return link_stall(link, step->until);
    case WIRE_CLOSE:
        break;
    }
    return false;
}

static const WireScript *
link_script(const Link *link)
{
    const WireServerConfig *config = &link->server->config;

    if (link->number < config->script_count)
        return &config->scripts[link->number];
    return config->repeat ? &config->scripts[config->script_count - 1] : NULL;
}

static void
link_run(void *arg)
{
    Link *link = arg;
    const WireScript *script = link_script(link);
    Buf body = BUF_INIT;
    bool alive = script != NULL && link_start(link, &body);
    size_t step = 0;
    char type;

    while (alive && step < script->count)
        alive = play_step(link, &script->steps[step++], &body);
    /* A client that has all it wants says goodbye. */
    if (alive && link_receive(link, false, &type, &body) && type != 'X')
        (void)report(link->server, "got a message '%c' after the end of the script: %.200s", type,
                     buf_text(&body));
    buf_free(&body);
    atomic_store(&link->server->last_sent, link->sent);
    (void)shutdown(link->fd, SHUT_RDWR);
    atomic_store(&link->over, true);
}

/* ---- accepting ---- */

static void
accept_one(WireServer *server)
{
    Error err = ERROR_INIT;
    Link *link;
    int fd = accept(server->listener, NULL, NULL);

    if (fd < 0)
        return;
    link = mem_zero(sizeof *link, &err);
    check(link != NULL, &err);
    link->server = server;
    link->fd = fd;
    link->cut = atomic_load(&server->cut);
    link->damage_at = atomic_load(&server->damage_at);
    link->damage_mask = atomic_load(&server->damage_mask);
    atomic_init(&link->over, false);
    (void)pthread_mutex_lock(&server->lock);
    link->number = server->link_count;
    if (server->link_count < CONNECTIONS_MAX)
        server->links[server->link_count++] = link;
    (void)pthread_mutex_unlock(&server->lock);
    check(link->number < CONNECTIONS_MAX, &(Error){.message = "too many connections"});
    check(thread_start(&link->thread, link_run, link, &err), &err);
}

/* Joins the threads whose connections are over, so that thousands of them are no burden. */
static void
reap(WireServer *server, bool all)
{
    for (size_t i = 0; i < server->link_count; i++) {
        Link *link = server->links[i];

        if (link == NULL || (!all && !atomic_load(&link->over)))
            continue;
        thread_join(&link->thread);
        (void)close(link->fd);
        free(link);
        server->links[i] = NULL;
    }
}

static void
accept_run(void *arg)
{
    WireServer *server = arg;
    Error err = ERROR_INIT;

    while (runtime_wait(server->listener, POLLIN, -1, &server->stop, NULL, &err) == WAIT_READY) {
        accept_one(server);
        reap(server, false);
    }
}

static int
listen_unix(WireServer *server)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    (void)snprintf(server->host, sizeof server->host, "%s", server->dir.path);
    (void)snprintf(server->port, sizeof server->port, UNIX_PORT);
    (void)snprintf(address.sun_path, sizeof address.sun_path, "%.80s/.s.PGSQL." UNIX_PORT,
                   server->dir.path);
    if (fd < 0 || bind(fd, (const struct sockaddr *)&address, sizeof address) != 0)
        return -1;
    return fd;
}

static int
listen_tcp(WireServer *server)
{
    struct sockaddr_in address = {.sin_family = AF_INET};
    socklen_t len = sizeof address;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (fd < 0 || bind(fd, (const struct sockaddr *)&address, len) != 0 ||
        getsockname(fd, (struct sockaddr *)&address, &len) != 0)
        return -1;
    (void)snprintf(server->host, sizeof server->host, "127.0.0.1");
    (void)snprintf(server->port, sizeof server->port, "%d", ntohs(address.sin_port));
    return fd;
}

WireServer *
wire_server_start(const WireServerConfig *config)
{
    Error err = ERROR_INIT;
    WireServer *server = mem_zero(sizeof *server, &err);

    check(server != NULL, &err);
    server->config = *config;
    temp_dir_make(&server->dir);
    (void)pthread_mutex_init(&server->lock, NULL);
    atomic_init(&server->cut, -1);
    atomic_init(&server->damage_at, -1);
    atomic_init(&server->damage_mask, 0);
    atomic_init(&server->last_sent, 0);
    check(stop_init(&server->stop, &err), &err);
    server->listener = config->tcp ? listen_tcp(server) : listen_unix(server);
    if (server->listener < 0 || listen(server->listener, 16) != 0)
        check(error_set_errno(&err, errno, "could not listen"), &err);
    (void)snprintf(server->conninfo, sizeof server->conninfo, "host=%s port=%s user=tester",
                   server->host, server->port);
    check(thread_start(&server->acceptor, accept_run, server, &err), &err);
    return server;
}

void
wire_server_cut(WireServer *server, int64_t bytes)
{
    atomic_store(&server->cut, bytes);
}

void
wire_server_damage(WireServer *server, int64_t at, uint8_t mask)
{
    atomic_store(&server->damage_mask, mask);
    atomic_store(&server->damage_at, at);
}

int64_t
wire_server_sent(WireServer *server)
{
    return atomic_load(&server->last_sent);
}

const char *
wire_server_host(const WireServer *server)
{
    return server->host;
}

const char *
wire_server_port(const WireServer *server)
{
    return server->port;
}

const char *
wire_server_conninfo(const WireServer *server)
{
    return server->conninfo;
}

const char *
wire_server_stop(WireServer *server)
{
    if (!server->stopped) {
        stop_request(&server->stop);
        thread_join(&server->acceptor);
        reap(server, true);
        (void)close(server->listener);
        server->stopped = true;
    }
    return server->problem;
}

/* ---- what was recorded ---- */

size_t
wire_server_connections(const WireServer *server)
{
    return server->link_count;
}

const char *
wire_server_query(const WireServer *server, size_t n)
{
    return n < server->queries.count ? buf_text(&server->queries.items[n]) : NULL;
}

Span
wire_server_copy_data(const WireServer *server, size_t n)
{
    const Buf *item;

    if (n >= server->copy_data.count)
        return (Span){.data = NULL};
    item = &server->copy_data.items[n];
    return (Span){.data = item->data, .len = item->len};
}

const char *
wire_server_startup(const WireServer *server, const char *name)
{
    Reader reader = reader_of((Span){.data = server->startup.data, .len = server->startup.len});

    for (;;) {
        const char *found = read_cstring(&reader);
        const char *value;

        if (found == NULL || found[0] == '\0')
            return NULL;
        value = read_cstring(&reader);
        if (strcmp(found, name) == 0)
            return value;
    }
}

void
wire_server_free(WireServer *server)
{
    if (server == NULL)
        return;
    (void)wire_server_stop(server);
    texts_free(&server->queries);
    texts_free(&server->copy_data);
    buf_free(&server->startup);
    temp_dir_remove(&server->dir);
    (void)pthread_mutex_destroy(&server->lock);
    stop_destroy(&server->stop);
    free(server);
}
