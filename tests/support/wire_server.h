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
 * stop.
 */
#ifndef PGSTOW_TESTS_WIRE_SERVER_H
#define PGSTOW_TESTS_WIRE_SERVER_H

#include "support/wire_script.h"

typedef struct WireServerConfig {
    const WireScript *scripts;
    size_t script_count;
    bool repeat;                   /* the last script serves all further connections */
    const char *server_version;    /* NULL: "18.4" */
    const char *integer_datetimes; /* NULL: "on"; "": not sent */
    const char *password;          /* NULL: none wanted */
    const char *refuse;            /* NULL, or the FATAL message that answers every startup */
    size_t refuse_from;            /* from this connection on (0: the first) */
    const Stop *hold;              /* NULL, or what a startup waits for before it is answered */
    size_t hold_from;              /* from this connection on (0: the first) */
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
