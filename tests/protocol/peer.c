#include "peer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

void
peer_clean_environment(void)
{
    static const char *const names[] = {"PGHOST",
                                        "PGHOSTADDR",
                                        "PGPORT",
                                        "PGUSER",
                                        "PGDATABASE",
                                        "PGPASSWORD",
                                        "PGSERVICE",
                                        "PGCONNECT_TIMEOUT",
                                        "PGAPPNAME",
                                        "PGOPTIONS",
                                        "PGSSLMODE",
                                        "PGREQUIRESSL",
                                        "PGTARGETSESSIONATTRS",
                                        "PGSERVICEFILE"};

    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        (void)unsetenv(names[i]);
    (void)setenv("PGPASSFILE", "/nonexistent/pgpass", 1);
    (void)setenv("PGSYSCONFDIR", "/nonexistent", 1);
}

void
peer_init(Peer *peer)
{
    *peer = (Peer){.script = WIRE_SCRIPT_INIT, .err = ERROR_INIT};
    peer->conn_config.progname = "test";
    peer->conn_config.prompt = PASSWORD_NEVER;
}

void
peer_start(Peer *peer)
{
    peer->config.scripts = &peer->script;
    peer->config.script_count = 1;
    peer->server = wire_server_start(&peer->config);
    if (peer->conn_config.conninfo == NULL)
        peer->conn_config.conninfo = wire_server_conninfo(peer->server);
}

void
peer_connect(Peer *peer)
{
    peer_start(peer);
    peer->conn = conn_open(&peer->conn_config, &peer->err);
    if (peer->conn == NULL)
        fail_msg("could not connect: %s", peer->err.message);
}

void
peer_done(Peer *peer)
{
    conn_free(peer->conn);
    assert_string_equal(wire_server_stop(peer->server), "");
    wire_server_free(peer->server);
    wire_script_free(&peer->script);
}

void
peer_drop(Peer *peer)
{
    conn_free(peer->conn);
    wire_server_free(peer->server);
    wire_script_free(&peer->script);
}

void
peer_answer(Peer *peer, const char *command, int columns, const char *const values[])
{
    wire_answer(&peer->script, command, columns, values);
}

void
peer_answer_error(Peer *peer, const char *command, const char *sqlstate, const char *message)
{
    wire_answer_error(&peer->script, command, sqlstate, message);
}

void
peer_assert_error(Peer *peer, ErrorCode code, const char *message)
{
    assert_string_equal(peer->err.message, message);
    assert_int_equal(peer->err.code, code);
    peer->err = ERROR_INIT;
}

void
peer_assert_error_begins(Peer *peer, ErrorCode code, const char *beginning)
{
    if (strncmp(peer->err.message, beginning, strlen(beginning)) != 0)
        fail_msg("\"%s\" does not begin with \"%s\"", peer->err.message, beginning);
    assert_int_equal(peer->err.code, code);
    peer->err = ERROR_INIT;
}
