/*
 * Reading a slot by SQL, over a second connection: where it goes, what is asked, and what is made
 * of the answer.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "peer.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

#define QUERY                                                                                      \
    "SELECT slot_type, restart_lsn FROM pg_catalog.pg_replication_slots WHERE slot_name = "

/* Both connections play the script; the first one says nothing and so stays at its beginning. */
static void
begin(Peer *peer)
{
    peer_init(peer);
    peer->config.repeat = true;
    peer->config.server_version = "14.9";
}

/* Slot "s". What is there of *ret_slot after a failure is what was there before. */
static bool
ask(Peer *peer, SlotState *ret_slot)
{
    static const SlotState untouched = {true, true, 0x77, 77};
    SlotState slot = untouched;
    bool ok = repl_read_slot_by_sql(peer->conn, &peer->conn_config, "s", &slot, &peer->err);

    if (ok)
        *ret_slot = slot;
    else
        assert_true(slot.restart_lsn == 0x77 && slot.restart_timeline == 77);
    return ok;
}

/* ---- answers ---- */

static SlotState
answered(int columns, const char *const values[])
{
    SlotState slot;
    Peer peer;

    begin(&peer);
    peer_answer(&peer, QUERY "'s'", columns, values);
    peer_connect(&peer);
    if (!ask(&peer, &slot))
        fail_msg("%s", peer.err.message);
    peer_done(&peer);
    return slot;
}

static void
slot_with_a_position(void **state)
{
    SlotState slot = answered(ROW("physical", "1/2000"));

    (void)state;
    assert_true(slot.exists && slot.has_position);
    assert_int_equal(slot.restart_lsn, 0x100002000);
    assert_int_equal(slot.restart_timeline, 0);
}

static void
slot_without_a_position(void **state)
{
    SlotState slot = answered(ROW("physical", NULL, "more"));

    (void)state;
    assert_true(slot.exists && !slot.has_position);
    assert_int_equal(slot.restart_lsn, 0);
}

static void
slot_that_does_not_exist(void **state)
{
    SlotState slot;
    Peer peer;
    Buf *out;

    (void)state;
    begin(&peer);
    wire_expect(&peer.script, QUERY "'s'");
    out = wire_send(&peer.script);
    wire_row_description(out, 2);
    wire_complete(out, "SELECT 0");
    wire_ready(out);
    peer_connect(&peer);
    assert_true(ask(&peer, &slot));
    assert_false(slot.exists || slot.has_position);
    peer_done(&peer);
}

static void
answers_that_are_refused(void **state)
{
    static const struct {
        int columns;
        const char *values[2];
        ErrorCode code;
        const char *message;
    } cases[] = {
        {2,
         {"logical", "0/1"},
         ERR_UNSUPPORTED,
         "expected a physical replication slot, got type \"logical\" instead"},
        {2, {"physical", "1"}, ERR_PROTOCOL, "could not parse restart_lsn \"1\""},
        {2, {NULL, "0/1"}, ERR_PROTOCOL, "the server sent no slot type"},
        {1,
         {"physical"},
         ERR_PROTOCOL,
         "got 1 rows and 1 fields, expected 1 rows and 2 or more fields"},
    };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        char expected[200];
        SlotState slot;
        Peer peer;

        begin(&peer);
        peer_answer(&peer, QUERY, cases[i].columns, cases[i].values);
        peer_connect(&peer);
        assert_false(ask(&peer, &slot));
        (void)snprintf(expected, sizeof expected,
                       "could not read the position of replication slot \"s\": %s",
                       cases[i].message);
        peer_assert_error(&peer, cases[i].code, expected);
        peer_done(&peer);
    }
}

static void
two_rows_are_refused(void **state)
{
    SlotState slot;
    Peer peer;
    Buf *out;

    (void)state;
    begin(&peer);
    wire_expect(&peer.script, QUERY);
    out = wire_send(&peer.script);
    wire_row_description(out, 2);
    wire_row(out, ROW("physical", "0/1"));
    wire_row(out, ROW("physical", "0/2"));
    wire_complete(out, "SELECT 2");
    wire_ready(out);
    peer_connect(&peer);
    assert_false(ask(&peer, &slot));
    peer_assert_error(&peer, ERR_PROTOCOL,
                      "could not read the position of replication slot \"s\": got 2 rows and 2 "
                      "fields, expected 1 rows and 2 or more fields");
    peer_done(&peer);
}

static void
error_of_the_server(void **state)
{
    SlotState slot;
    Peer peer;

    (void)state;
    begin(&peer);
    peer_answer_error(&peer, QUERY, "42501", "permission denied");
    peer_connect(&peer);
    assert_false(ask(&peer, &slot));
    assert_string_equal(peer.err.sqlstate, "42501");
    peer_assert_error(&peer, ERR_SERVER,
                      "could not read the position of replication slot \"s\": ERROR:  permission "
                      "denied");
    peer_done(&peer);
}

static void
no_rows_at_all(void **state)
{
    SlotState slot;
    Peer peer;
    Buf *out;

    (void)state;
    begin(&peer);
    wire_expect(&peer.script, QUERY);
    out = wire_send(&peer.script);
    wire_complete(out, "SET");
    wire_ready(out);
    peer_connect(&peer);
    assert_false(ask(&peer, &slot));
    peer_assert_error(&peer, ERR_PROTOCOL,
                      "could not read the position of replication slot \"s\": unexpected result "
                      "PGRES_COMMAND_OK");
    peer_done(&peer);
}

/* ---- the question ---- */

static void
names_are_quoted(void **state)
{
    static const char *const names[][2] = {
        {"s", QUERY "'s'"},
        {"", QUERY "''"},
        {"it's", QUERY "'it''s'"},
        {"'; DROP TABLE x; --", QUERY "'''; DROP TABLE x; --'"},
        /* whatever standard_conforming_strings says */
        {"a\\", QUERY " E'a\\\\'"},
    };

    (void)state;
    for (size_t i = 0; i < COUNT(names); i++) {
        SlotState slot;
        Peer peer;

        begin(&peer);
        peer_answer(&peer, QUERY, ROW("physical", NULL));
        peer_connect(&peer);
        assert_true(
            repl_read_slot_by_sql(peer.conn, &peer.conn_config, names[i][0], &slot, &peer.err));
        (void)wire_server_stop(peer.server);
        assert_string_equal(wire_server_query(peer.server, 0), names[i][1]);
        peer_done(&peer);
    }
}

/* ---- the connection ---- */

/* Where the second connection goes when `more` is in the connection string. */
static void
assert_database(const char *more, const char *database)
{
    char conninfo[300];
    SlotState slot;
    Peer peer;

    begin(&peer);
    peer_answer(&peer, QUERY, ROW("physical", "0/1"));
    peer_start(&peer);
    (void)snprintf(conninfo, sizeof conninfo, "%s %s", wire_server_conninfo(peer.server), more);
    peer.conn_config.conninfo = conninfo;
    peer.conn = conn_open(&peer.conn_config, &peer.err);
    assert_non_null(peer.conn);
    if (!ask(&peer, &slot))
        fail_msg("%s", peer.err.message);
    (void)wire_server_stop(peer.server);
    assert_int_equal(wire_server_connections(peer.server), 2);
    assert_string_equal(wire_server_startup(peer.server, "database"), database);
    assert_string_equal(wire_server_startup(peer.server, "replication"), "database");
    assert_string_equal(wire_server_startup(peer.server, "user"), "tester");
    assert_string_equal(wire_server_startup(peer.server, "application_name"), "test");
    peer_done(&peer);
}

static void
database_that_was_named_or_the_usual_one(void **state)
{
    (void)state;
    assert_database("", "postgres");
    assert_database("dbname=mine", "mine");
    assert_database("dbname=''", "postgres");
    assert_database("replication=true", "postgres");
    assert_database("dbname='host=elsewhere'", "host=elsewhere");
    assert_int_equal(setenv("PGDATABASE", "of the environment", 1), 0);
    assert_database("", "of the environment");
    assert_database("dbname=mine", "mine");
    assert_int_equal(unsetenv("PGDATABASE"), 0);
}

static void
password_of_the_first_connection(void **state)
{
    SlotState slot;
    Peer peer;

    (void)state;
    begin(&peer);
    peer.config.password = "secret";
    peer_answer(&peer, QUERY, ROW("physical", "0/1"));
    peer_start(&peer);
    assert_int_equal(setenv("PGPASSWORD", "secret", 1), 0);
    peer.conn = conn_open(&peer.conn_config, &peer.err);
    assert_int_equal(unsetenv("PGPASSWORD"), 0);
    assert_non_null(peer.conn);
    assert_true(ask(&peer, &slot));
    peer_done(&peer);
}

static void
connection_that_is_not_allowed(void **state)
{
    SlotState slot;
    Peer peer;

    (void)state;
    begin(&peer);
    peer.config.refuse = "no pg_hba.conf entry";
    peer.config.refuse_from = 1;
    wire_stall(&peer.script, NULL);
    peer_connect(&peer);
    assert_false(ask(&peer, &slot));
    assert_non_null(strstr(peer.err.message, "FATAL:  no pg_hba.conf entry"));
    assert_string_equal(peer.err.hint, "Servers before version 15 tell it by SQL only: pg_hba.conf "
                                       "must let the user into database \"postgres\".");
    peer_assert_error_begins(&peer, ERR_CONNECTION,
                             "could not read the position of replication slot \"s\": connection");
    peer_done(&peer);
}

static void
connection_that_breaks(void **state)
{
    SlotState slot;
    Peer peer;

    (void)state;
    begin(&peer);
    wire_expect(&peer.script, QUERY);
    wire_step(&peer.script, WIRE_CLOSE);
    peer_connect(&peer);
    assert_false(ask(&peer, &slot));
    assert_string_equal(peer.err.hint, "");
    peer_assert_error_begins(&peer, ERR_CONNECTION,
                             "could not read the position of replication slot \"s\": server closed "
                             "the connection");
    peer_done(&peer);
}

static void
request_stop_soon(void *arg)
{
    (void)nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
    stop_request(arg);
}

static void
stop_ends_a_query_that_hangs(void **state)
{
    SlotState slot;
    Thread thread;
    Stop stop;
    Peer peer;

    (void)state;
    begin(&peer);
    assert_true(stop_init(&stop, &peer.err));
    peer.conn_config.stop = &stop;
    wire_expect(&peer.script, QUERY);
    wire_stall(&peer.script, NULL);
    peer_connect(&peer);
    assert_ptr_equal(conn_stop(peer.conn), &stop);
    assert_true(thread_start(&thread, request_stop_soon, &stop, &peer.err));
    assert_false(ask(&peer, &slot));
    peer_assert_error(&peer, ERR_STOPPED, "stopped");
    thread_join(&thread);
    peer_done(&peer);
    stop_destroy(&stop);
}

/* The first connection is as usable as before. */
static void
first_connection_goes_on(void **state)
{
    WireScript scripts[2] = {WIRE_SCRIPT_INIT, WIRE_SCRIPT_INIT};
    const WireServerConfig config = {.scripts = scripts, .script_count = 2};
    WireServer *server;
    ConnConfig conn_config = {.progname = "test", .prompt = PASSWORD_NEVER};
    ServerIdentity identity;
    Error err = ERROR_INIT;
    SlotState slot;
    Conn *conn;

    (void)state;
    wire_answer(&scripts[0], "IDENTIFY_SYSTEM", ROW("7", "1", "0/1", NULL));
    wire_answer(&scripts[0], "IDENTIFY_SYSTEM", ROW("7", "1", "0/2", NULL));
    wire_answer(&scripts[1], QUERY, ROW("physical", "0/1"));
    server = wire_server_start(&config);
    conn_config.conninfo = wire_server_conninfo(server);
    conn = conn_open(&conn_config, &err);
    assert_non_null(conn);
    assert_true(repl_identify_system(conn, &identity, &err));
    assert_true(repl_read_slot_by_sql(conn, &conn_config, "s", &slot, &err));
    assert_true(repl_identify_system(conn, &identity, &err));
    assert_int_equal(identity.position, 2);
    conn_free(conn);
    assert_string_equal(wire_server_stop(server), "");
    wire_server_free(server);
    wire_script_free(&scripts[0]);
    wire_script_free(&scripts[1]);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(slot_with_a_position),
        cmocka_unit_test(slot_without_a_position),
        cmocka_unit_test(slot_that_does_not_exist),
        cmocka_unit_test(answers_that_are_refused),
        cmocka_unit_test(two_rows_are_refused),
        cmocka_unit_test(error_of_the_server),
        cmocka_unit_test(no_rows_at_all),
        cmocka_unit_test(names_are_quoted),
        cmocka_unit_test(database_that_was_named_or_the_usual_one),
        cmocka_unit_test(password_of_the_first_connection),
        cmocka_unit_test(connection_that_is_not_allowed),
        cmocka_unit_test(connection_that_breaks),
        cmocka_unit_test(stop_ends_a_query_that_hangs),
        cmocka_unit_test(first_connection_goes_on),
    };

    peer_clean_environment();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
