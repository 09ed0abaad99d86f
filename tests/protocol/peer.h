/*
 * peer: one connection of ours to one wire server, for the tests of this directory.
 *
 * A test fills `script` (and `config`), connects, calls what it tests and ends with peer_done,
 * which asserts that the server saw what it expected.
 */
#ifndef PGSTOW_TESTS_PEER_H
#define PGSTOW_TESTS_PEER_H

#include "protocol/protocol.h"
#include "support/wire_server.h"

typedef struct Peer {
    WireScript script;
    WireServerConfig config; /* scripts are set by peer_connect */
    WireServer *server;
    ConnConfig conn_config;
    Conn *conn;
    Error err;
} Peer;

/* For main: libpq must not find anything in the environment. */
void peer_clean_environment(void);

void peer_init(Peer *peer);

/* Start the server with the script. */
void peer_start(Peer *peer);

/* peer_start and conn_open, asserted. */
void peer_connect(Peer *peer);
void peer_done(Peer *peer);

/* Like peer_done for a test in which the server does not get through its script. */
void peer_drop(Peer *peer);

/* Script a command that is answered with one row. */
void peer_answer(Peer *peer, const char *command, int columns, const char *const values[]);

/* Script a command that is answered with an error, and ready. */
void peer_answer_error(Peer *peer, const char *command, const char *sqlstate, const char *message);

/* Assert code and message of peer->err, and clear it. */
void peer_assert_error(Peer *peer, ErrorCode code, const char *message);

/* The same, for the beginning of the message. */
void peer_assert_error_begins(Peer *peer, ErrorCode code, const char *beginning);

#endif
