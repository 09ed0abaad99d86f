/*
 * wire server: a tiny PostgreSQL server for tests against the real libpq.
 *
 * It speaks protocol 3 on a Unix socket in a directory of its own (and on 127.0.0.1 if wanted),
 * answers the startup and then plays a script: wait for a command, send messages, wait for the
 * client's copy data. The n-th connection plays the n-th script, the last script again and again if
 * `repeat` is set; connections beyond the scripts are closed at once.
 *
 * Scripts are made on the test's thread, before the server starts, and belong to the test. Each
 * connection has a thread; nothing there asserts. What went wrong is a text that wire_server_stop
 * gives back; tests compare it with "". What clients sent is recorded and can be read after the
 * stop. The text helpers end the process when memory is out: they are made for tests.
 */
#ifndef PGSTOW_TESTS_WIRE_SERVER_H
#define PGSTOW_TESTS_WIRE_SERVER_H

#include "common/bytes.h"
#include "common/runtime.h"

/* ---- messages of the server, appended to a Buf ---- */

void wire_auth_ok(Buf *out);
void wire_auth_cleartext(Buf *out);
void wire_parameter(Buf *out, const char *name, const char *value);
void wire_backend_key(Buf *out, uint32_t pid);
void wire_ready(Buf *out);
void wire_complete(Buf *out, const char *tag);

/* `columns` text columns named c0, c1, ... */
void wire_row_description(Buf *out, int columns);

/* Values as text; NULL is SQL's NULL. */
void wire_row(Buf *out, int columns, const char *const values[]);

/* A result set of one row: description, row, CommandComplete "SELECT". */
void wire_one_row(Buf *out, int columns, const char *const values[]);
void wire_copy_out(Buf *out);
void wire_copy_in(Buf *out);
void wire_copy_both(Buf *out);
void wire_copy_data(Buf *out, const void *data, size_t len);
void wire_copy_done(Buf *out);
void wire_error(Buf *out, const char *severity, const char *sqlstate, const char *message);
void wire_notice(Buf *out, const char *message);

/* Any message: its type byte, its length, its body. */
void wire_message(Buf *out, char type, const void *body, size_t len);

/* ---- scripts ---- */

typedef enum WireStepKind {
    WIRE_EXPECT,    /* a query that begins with `text` */
    WIRE_SEND,      /* `bytes` */
    WIRE_COPY_DATA, /* one CopyData of the client */
    WIRE_COPY_DONE, /* the client's CopyDone; CopyData before it is taken */
    WIRE_STALL,     /* do nothing until `until` is requested or the client is gone */
    WIRE_CLOSE /* close the connection; so does the end of the script, once the client is gone */
} WireStepKind;

typedef struct WireStep {
    WireStepKind kind;
    char *text;
    Buf bytes;
    const Stop *until;
} WireStep;

typedef struct WireScript {
    WireStep *steps;
    size_t count;
    size_t capacity;
} WireScript;

#define WIRE_SCRIPT_INIT ((WireScript){.steps = NULL})

void wire_expect(WireScript *script, const char *command_prefix);

/* A step whose Buf the test fills with messages; the pointer is valid until the next step is added.
 */
Buf *wire_send(WireScript *script);
void wire_step(WireScript *script, WireStepKind kind);
void wire_stall(WireScript *script, const Stop *until);
void wire_script_free(WireScript *script);

/* ---- the server ---- */

typedef struct WireServerConfig {
    const WireScript *scripts;
    size_t script_count;
    bool repeat;                   /* the last script serves all further connections */
    const char *server_version;    /* NULL: "18.4" */
    const char *integer_datetimes; /* NULL: "on"; "": not sent */
    const char *password;          /* NULL: none wanted */
    const char *refuse;            /* NULL, or the FATAL message that answers every startup */
    const Stop *hold;              /* NULL, or what a startup waits for before it is answered */
    bool tcp;                      /* listen on 127.0.0.1 instead */
    size_t chunk;                  /* bytes per write; 0: each step in one */
    int pause_ms;                  /* after each write */
    int patience_ms;               /* a client that is silent for longer is left; 0: never */
} WireServerConfig;

typedef struct WireServer WireServer;

WireServer *wire_server_start(const WireServerConfig *config);

/* Close every further connection after it was sent this many bytes, the startup's included; -1:
 * never. */
void wire_server_cut(WireServer *server, int64_t bytes);

/* Send the byte at this place xor `mask` in every further connection; -1: none. */
void wire_server_damage(WireServer *server, int64_t at, uint8_t mask);

/* How many bytes the last connection that ended was sent. */
int64_t wire_server_sent(WireServer *server);

/* For libpq: the directory of the socket (or 127.0.0.1), the port, and both as a connection string.
 */
const char *wire_server_host(const WireServer *server);
const char *wire_server_port(const WireServer *server);
const char *wire_server_conninfo(const WireServer *server);

/* Ends all connections and threads. The first thing that went wrong, or "". Once. */
const char *wire_server_stop(WireServer *server);

/* ---- what clients sent; after the stop ---- */

size_t wire_server_connections(const WireServer *server);

/* The n-th query of all connections, NULL behind the last. */
const char *wire_server_query(const WireServer *server, size_t n);

/* The n-th CopyData message. */
Span wire_server_copy_data(const WireServer *server, size_t n);

/* A startup parameter of the last connection; NULL: not sent. */
const char *wire_server_startup(const WireServer *server, const char *name);

/* Takes a server that still runs, and NULL. */
void wire_server_free(WireServer *server);

#endif
