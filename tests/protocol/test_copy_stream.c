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
#include "protocol/internal.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* Longer than a test may take: a test that waits for it has hung. */
static const CopyWait for_ever = {.timeout_ms = 60000};
static const CopyWait no_wait = {.timeout_ms = 0};

static const char *const next_timeline[] = {"3", "0/2000100"};

/* The end of a command that was a stream. */
static void
script_completed(Buf *out)
{
    wire_complete(out, "START_STREAMING");
    wire_complete(out, "START_REPLICATION");
    wire_ready(out);
}

/* A script that begins with a stream; the rest goes into the result. */
static Buf *
script_stream(Peer *peer)
{
    peer_init(peer);
    return wire_stream(&peer->script, "START_REPLICATION");
}

static void
start_stream(Peer *peer)
{
    peer_connect(peer);
    assert_int_equal(repl_start_streaming(peer->conn, NULL, 0x2000000, 1, &peer->err),
                     STREAM_STARTED);
}

/* A script that begins with one archive of a backup. */
static Buf *
script_backup(Peer *peer)
{
    Buf *out;

    peer_init(peer);
    wire_expect(&peer->script, "BASE_BACKUP");
    out = wire_send(&peer->script);
    wire_one_row(out, ROW("0/1", "1"));
    wire_one_row(out, ROW(NULL, NULL, NULL));
    wire_copy_out(out);
    return out;
}

static void
start_backup(Peer *peer)
{
    const BaseBackupRequest request = {.label = "x"};
    BackupStart start;

    peer_connect(peer);
    assert_true(repl_base_backup(peer->conn, &request, NULL, &start, &peer->err));
    backup_start_free(&start);
    assert_true(repl_next_copy(peer->conn, NULL, &peer->err));
}

static void
assert_message(Peer *peer, const CopyWait *wait, const char *expected)
{
    Span message;
    CopyResult got = copy_next(peer->conn, wait, &message, &peer->err);

    if (got == COPY_FAILED)
        fail_msg("%s", peer->err.message);
    assert_int_equal(got, COPY_MESSAGE);
    assert_int_equal(message.len, strlen(expected));
    assert_memory_equal(message.data, expected, message.len);
}

static void
assert_next(Peer *peer, const CopyWait *wait, CopyResult expected)
{
    static const uint8_t untouched[1];
    Span message = {.data = untouched, .len = 4711};

    assert_int_equal(copy_next(peer->conn, wait, &message, &peer->err), expected);
    assert_ptr_equal(message.data, untouched);
    assert_int_equal(message.len, 4711);
    if (expected != COPY_FAILED)
        assert_int_equal(peer->err.code, ERR_NONE);
}

static void
sleep_ms(long ms)
{
    (void)nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000}, NULL);
}

static void
request_soon(void *arg)
{
    sleep_ms(50);
    stop_request(arg);
}

static void
ring_soon(void *arg)
{
    sleep_ms(50);
    bell_ring(arg);
}

/* ---- START_REPLICATION ---- */

static void
start_commands(void **state)
{
    static const struct {
        const char *slot;
        Lsn start;
        TimeLineID timeline;
        const char *command;
    } cases[] = {
        {NULL, 0x2000000, 1, "START_REPLICATION 0/2000000 TIMELINE 1"},
        {"s", 0xABCDEF0112000000, UINT32_MAX,
         "START_REPLICATION SLOT \"s\" ABCDEF01/12000000 TIMELINE 4294967295"},
        {"a\"b", 0, 7, "START_REPLICATION SLOT \"a\"\"b\" 0/0 TIMELINE 7"},
    };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        Peer peer;

        (void)script_stream(&peer);
        peer_connect(&peer);
        assert_int_equal(repl_start_streaming(peer.conn, cases[i].slot, cases[i].start,
                                              cases[i].timeline, &peer.err),
                         STREAM_STARTED);
        (void)wire_server_stop(peer.server);
        assert_string_equal(wire_server_query(peer.server, 0), cases[i].command);
        peer_done(&peer);
    }
}

static void
start_refused(void **state)
{
    Peer peer;

    (void)state;
    peer_init(&peer);
    peer_answer_error(&peer, "START_REPLICATION", "55000", "not on this timeline");
    wire_expect(&peer.script, "START_REPLICATION");
    wire_complete(wire_send(&peer.script), "START_REPLICATION");
    wire_step(&peer.script, WIRE_CLOSE);
    peer_connect(&peer);
    assert_int_equal(repl_start_streaming(peer.conn, "s", 16, 2, &peer.err), STREAM_FAILED);
    assert_string_equal(peer.err.sqlstate, "55000");
    peer_assert_error(
        &peer, ERR_SERVER,
        "could not send replication command \"START_REPLICATION\": ERROR:  not on this timeline");
    assert_int_equal(repl_start_streaming(peer.conn, NULL, 16, 2, &peer.err), STREAM_FAILED);
    peer_assert_error(&peer, ERR_PROTOCOL,
                      "could not send replication command \"START_REPLICATION\": "
                      "unexpected result PGRES_COMMAND_OK");
    peer_done(&peer);
}

/* The timeline had ended before the place that we ask for: there is no COPY at all. */
static void
start_at_the_switch(void **state)
{
    StreamEnd end;
    Peer peer;
    Buf *out;

    (void)state;
    peer_init(&peer);
    wire_expect(&peer.script, "START_REPLICATION 0/2000100 TIMELINE 2");
    out = wire_send(&peer.script);
    wire_one_row(out, 2, next_timeline);
    script_completed(out);
    wire_expect(&peer.script, "IDENTIFY_SYSTEM");
    out = wire_send(&peer.script);
    wire_one_row(out, ROW("7", "3", "0/1", NULL));
    wire_ready(out);
    peer_connect(&peer);
    assert_int_equal(repl_start_streaming(peer.conn, NULL, 0x2000100, 2, &peer.err),
                     STREAM_AT_SWITCH);
    assert_true(repl_stream_end(peer.conn, &end, &peer.err));
    assert_true(end.has_next);
    assert_int_equal(end.next_timeline, 3);
    assert_true(end.next_start == 0x2000100);
    assert_true(repl_identify_system(peer.conn, &(ServerIdentity){0}, &peer.err));
    peer_done(&peer);
}

/* ---- the endings of a stream ---- */

static void
we_end_the_stream(void **state)
{
    StreamEnd end = {.has_next = true};
    Peer peer;
    Buf *out = script_stream(&peer);

    (void)state;
    wire_copy_data(out, "w1", 2);
    wire_step(&peer.script, WIRE_COPY_DONE);
    out = wire_send(&peer.script);
    wire_copy_data(out, "w2", 2); /* was under way */
    wire_copy_done(out);
    script_completed(out);
    peer_answer(&peer, "IDENTIFY_SYSTEM", ROW("7", "1", "0/1", NULL));
    start_stream(&peer);
    assert_message(&peer, &for_ever, "w1");
    assert_true(copy_send(peer.conn, span_of("status"), &peer.err));
    assert_true(copy_end(peer.conn, &peer.err));
    assert_true(copy_end(peer.conn, &peer.err));
    assert_false(copy_send(peer.conn, span_of("late"), &peer.err));
    peer_assert_error(&peer, ERR_BUG, "there is no COPY to send 4 bytes to");
    assert_message(&peer, &for_ever, "w2");
    assert_next(&peer, &for_ever, COPY_DONE);
    assert_next(&peer, &for_ever, COPY_DONE);
    assert_true(repl_stream_end(peer.conn, &end, &peer.err));
    assert_false(end.has_next);
    assert_true(repl_identify_system(peer.conn, &(ServerIdentity){0}, &peer.err));
    (void)wire_server_stop(peer.server);
    assert_int_equal(wire_server_copy_data(peer.server, 0).len, 6);
    assert_memory_equal(wire_server_copy_data(peer.server, 0).data, "status", 6);
    assert_null(wire_server_copy_data(peer.server, 1).data);
    peer_done(&peer);
}

/* On a timeline that has ended the server tells the next one even so. */
static void
we_end_the_stream_of_an_old_timeline(void **state)
{
    StreamEnd end;
    Peer peer;
    Buf *out;

    (void)state;
    (void)script_stream(&peer);
    wire_step(&peer.script, WIRE_COPY_DONE);
    out = wire_send(&peer.script);
    wire_copy_done(out);
    wire_one_row(out, 2, next_timeline);
    script_completed(out);
    start_stream(&peer);
    assert_true(copy_end(peer.conn, &peer.err));
    assert_next(&peer, &for_ever, COPY_DONE);
    assert_true(repl_stream_end(peer.conn, &end, &peer.err));
    assert_true(end.has_next && end.next_timeline == 3 && end.next_start == 0x2000100);
    peer_done(&peer);
}

static void
timeline_ends(void **state)
{
    StreamEnd end;
    Peer peer;
    Buf *out = script_stream(&peer);

    (void)state;
    wire_copy_data(out, "w1", 2);
    wire_copy_done(out);
    wire_step(&peer.script, WIRE_COPY_DONE);
    out = wire_send(&peer.script);
    wire_one_row(out, ROW("3", "0/2000100", "new"));
    script_completed(out);
    start_stream(&peer);
    assert_message(&peer, &for_ever, "w1");
    assert_next(&peer, &for_ever, COPY_DONE);
    /* the server still listens */
    assert_true(copy_send(peer.conn, span_of("last status"), &peer.err));
    assert_true(copy_end(peer.conn, &peer.err));
    assert_next(&peer, &for_ever, COPY_DONE);
    assert_true(repl_stream_end(peer.conn, &end, &peer.err));
    assert_true(end.has_next && end.next_timeline == 3 && end.next_start == 0x2000100);
    (void)wire_server_stop(peer.server);
    assert_memory_equal(wire_server_copy_data(peer.server, 0).data, "last status", 11);
    peer_done(&peer);
}

/* ... and then another stream starts on the same connection. */
static void
timeline_ends_and_the_next_follows(void **state)
{
    StreamEnd end;
    Peer peer;
    Buf *out = script_stream(&peer);

    (void)state;
    wire_copy_done(out);
    wire_step(&peer.script, WIRE_COPY_DONE);
    out = wire_send(&peer.script);
    wire_one_row(out, 2, next_timeline);
    script_completed(out);
    wire_expect(&peer.script, "START_REPLICATION 0/2000000 TIMELINE 3");
    out = wire_send(&peer.script);
    wire_copy_both(out);
    wire_copy_data(out, "w1", 2);
    start_stream(&peer);
    assert_next(&peer, &for_ever, COPY_DONE);
    assert_true(copy_end(peer.conn, &peer.err));
    assert_true(repl_stream_end(peer.conn, &end, &peer.err));
    assert_int_equal(repl_start_streaming(peer.conn, NULL, 0x2000000, 3, &peer.err),
                     STREAM_STARTED);
    assert_message(&peer, &for_ever, "w1");
    assert_true(copy_send(peer.conn, span_of("x"), &peer.err));
    peer_drop(&peer);
}

/* The command is completed without CopyDone, and the server is gone. */
static void
server_shuts_down(void **state)
{
    StreamEnd end = {.has_next = true};
    Peer peer;
    Buf *out = script_stream(&peer);

    (void)state;
    wire_copy_data(out, "w1", 2);
    wire_complete(out, "COPY 0");
    wire_step(&peer.script, WIRE_CLOSE);
    start_stream(&peer);
    assert_message(&peer, &for_ever, "w1");
    assert_next(&peer, &for_ever, COPY_DONE);
    assert_true(copy_send(peer.conn, span_of("nobody listens"), &peer.err));
    assert_true(copy_end(peer.conn, &peer.err));
    assert_true(repl_stream_end(peer.conn, &end, &peer.err));
    assert_false(end.has_next);
    assert_false(repl_identify_system(peer.conn, &(ServerIdentity){0}, &peer.err));
    assert_int_equal(peer.err.code, ERR_CONNECTION);
    peer_done(&peer);
}

static void
server_ends_the_stream_with_an_error(void **state)
{
    Peer peer;
    Buf *out = script_stream(&peer);

    (void)state;
    wire_copy_data(out, "w1", 2);
    wire_error(out, "ERROR", "58P01", "requested WAL segment has already been removed");
    wire_ready(out);
    peer_answer(&peer, "IDENTIFY_SYSTEM", ROW("7", "1", "0/1", NULL));
    start_stream(&peer);
    assert_message(&peer, &for_ever, "w1");
    for (int i = 0; i < 2; i++) { /* a failure stays */
        assert_next(&peer, &for_ever, COPY_FAILED);
        assert_string_equal(peer.err.sqlstate, "58P01");
        peer_assert_error(&peer, ERR_SERVER,
                          "unexpected termination of replication stream: ERROR:  requested WAL "
                          "segment has already been removed");
    }
    assert_true(copy_has_buffered(peer.conn));
    assert_true(repl_identify_system(peer.conn, &(ServerIdentity){0}, &peer.err));
    peer_done(&peer);
}

static void
server_is_told_to_terminate(void **state)
{
    Peer peer;
    Buf *out = script_stream(&peer);

    (void)state;
    wire_error(out, "FATAL", "57P01", "terminating connection due to administrator command");
    wire_step(&peer.script, WIRE_CLOSE);
    start_stream(&peer);
    assert_next(&peer, &for_ever, COPY_FAILED);
    assert_string_equal(peer.err.sqlstate, "57P01");
    peer_assert_error_begins(&peer, ERR_SERVER,
                             "unexpected termination of replication stream: FATAL:  terminating "
                             "connection due to administrator command");
    peer_done(&peer);
}

/* While we send and send, the server says why it goes and goes. The reason must get through. */
static void
reason_gets_through_to_a_sender(void **state)
{
    Stop go;
    Peer peer;
    Buf *out = script_stream(&peer);

    (void)state;
    assert_true(stop_init(&go, &peer.err));
    wire_copy_data(out, "w1", 2);
    wire_stall(&peer.script, &go);
    wire_error(wire_send(&peer.script), "FATAL", "57P01", "going");
    wire_step(&peer.script, WIRE_CLOSE);
    start_stream(&peer);
    stop_request(&go);
    while (wire_server_sent(peer.server) == 0)
        sleep_ms(1);
    for (int i = 0; i < 20; i++)
        assert_true(copy_send(peer.conn, span_of("status"), &peer.err));
    assert_message(&peer, &for_ever, "w1");
    assert_true(copy_send(peer.conn, span_of("status"), &peer.err));
    assert_next(&peer, &for_ever, COPY_FAILED);
    assert_string_equal(peer.err.sqlstate, "57P01");
    assert_int_equal(peer.err.code, ERR_SERVER);
    peer_done(&peer);
    stop_destroy(&go);
}

static void
connection_breaks(void **state)
{
    Peer peer;

    (void)state;
    (void)script_stream(&peer);
    wire_step(&peer.script, WIRE_CLOSE);
    start_stream(&peer);
    for (int i = 0; i < 2; i++) {
        assert_next(&peer, &for_ever, COPY_FAILED);
        peer_assert_error_begins(
            &peer, ERR_CONNECTION,
            "could not receive data from WAL stream: server closed the connection unexpectedly");
    }
    assert_true(copy_end(peer.conn, &peer.err));
    assert_false(repl_stream_end(peer.conn, &(StreamEnd){0}, &peer.err));
    assert_int_equal(peer.err.code, ERR_CONNECTION);
    peer_done(&peer);
}

/* A server that dies in the middle of a message is no server that has nothing to say. */
/* A break that we noticed while sending is reported at once by the next read. */
static void
connection_breaks_while_we_send(void **state)
{
    Peer peer;

    (void)state;
    (void)script_stream(&peer);
    wire_step(&peer.script, WIRE_CLOSE);
    start_stream(&peer);
    while (wire_server_sent(peer.server) == 0)
        sleep_ms(1);
    while (PQstatus(peer.conn->pg) == CONNECTION_OK)
        assert_true(copy_send(peer.conn, span_of("status"), &peer.err));
    assert_true(copy_send(peer.conn, span_of("status"), &peer.err));
    assert_next(&peer, &for_ever, COPY_FAILED);
    peer_assert_error_begins(
        &peer, ERR_CONNECTION,
        "could not receive data from WAL stream: server closed the connection unexpectedly");
    peer_done(&peer);
}

static void
connection_breaks_within_a_message(void **state)
{
    static const char half[] = "d\0\0\0\x20half";

    (void)state;
    for (size_t len = 1; len < sizeof half; len++) {
        Peer peer;
        Buf *out = script_stream(&peer);

        assert_true(buf_append(out, half, len, &peer.err));
        wire_step(&peer.script, WIRE_CLOSE);
        start_stream(&peer);
        assert_next(&peer, &for_ever, COPY_FAILED);
        assert_int_equal(peer.err.code, ERR_CONNECTION);
        peer_done(&peer);
    }
}

/* ---- what repl_stream_end refuses ---- */

static void
assert_stream_end_fails(Peer *peer, ErrorCode code, const char *message)
{
    StreamEnd end = {.next_timeline = 99};

    start_stream(peer);
    assert_true(copy_end(peer->conn, &peer->err));
    assert_next(peer, &for_ever, COPY_DONE);
    assert_false(repl_stream_end(peer->conn, &end, &peer->err));
    assert_int_equal(end.next_timeline, 99);
    peer_assert_error_begins(peer, code, message);
    peer_done(peer);
}

static void
stream_end_with_bad_rows(void **state)
{
    static const struct {
        int columns;
        const char *values[2];
        const char *message;
    } cases[] = {
        {1,
         {"3"},
         "unexpected result set after end-of-timeline: got 1 rows and 1 fields, expected 1 rows "
         "and "
         "2 fields"},
        {2, {NULL, "0/1"}, "the server sent no next timeline"},
        {2,
         {"0", "0/1"},
         "the server ended the timeline and does not know which follows: it was promoted in the "
         "middle of the stream"},
        {2, {"3", NULL}, "the server sent no next timeline's starting point"},
        {2, {"3", "here"}, "could not parse next timeline's starting point \"here\""},
    };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        Peer peer;
        Buf *out;

        (void)script_stream(&peer);
        wire_step(&peer.script, WIRE_COPY_DONE);
        out = wire_send(&peer.script);
        wire_copy_done(out);
        wire_one_row(out, cases[i].columns, cases[i].values);
        script_completed(out);
        assert_stream_end_fails(&peer, ERR_PROTOCOL, cases[i].message);
    }
}

static void
stream_end_with_other_results(void **state)
{
    enum {
        ERROR_AFTER_ROW,
        SECOND_ROW,
        ERROR_AFTER_COMPLETION,
        COPY_AGAIN,
        NO_COMPLETION,
        CLOSE_AFTER_ROW,
        CASES
    };
    static const struct {
        ErrorCode code;
        const char *message;
    } expected[CASES] = {
        {ERR_SERVER, "unexpected termination of replication stream: ERROR:  oops"},
        {ERR_PROTOCOL,
         "unexpected termination of replication stream: unexpected result PGRES_TUPLES_OK"},
        {ERR_SERVER, "unexpected termination of replication stream: ERROR:  oops"},
        {ERR_PROTOCOL,
         "unexpected termination of replication stream: unexpected result PGRES_COPY_OUT"},
        {ERR_PROTOCOL,
         "unexpected termination of replication stream: the server did not complete the command"},
        {ERR_CONNECTION, "server closed the connection unexpectedly"},
    };

    (void)state;
    for (int i = 0; i < CASES; i++) {
        Peer peer;
        Buf *out;

        (void)script_stream(&peer);
        wire_step(&peer.script, WIRE_COPY_DONE);
        out = wire_send(&peer.script);
        wire_copy_done(out);
        if (i != ERROR_AFTER_COMPLETION)
            wire_one_row(out, 2, next_timeline);
        else
            wire_complete(out, "START_STREAMING");
        if (i == SECOND_ROW)
            wire_one_row(out, 2, next_timeline);
        if (i == COPY_AGAIN)
            wire_copy_out(out);
        if (i == ERROR_AFTER_ROW || i == ERROR_AFTER_COMPLETION)
            wire_error(out, "ERROR", "XX000", "oops");
        if (i == CLOSE_AFTER_ROW)
            wire_step(&peer.script, WIRE_CLOSE);
        else
            wire_ready(out);
        assert_stream_end_fails(&peer, expected[i].code, expected[i].message);
    }
}

static void
stream_end_before_its_time(void **state)
{
    Peer peer;

    (void)state;
    (void)script_stream(&peer);
    start_stream(&peer);
    assert_false(repl_stream_end(peer.conn, &(StreamEnd){0}, &peer.err));
    peer_assert_error(
        &peer, ERR_PROTOCOL,
        "unexpected termination of replication stream: unexpected result PGRES_COPY_BOTH");
    peer_drop(&peer);
}

static void
stream_ends_with_a_result_of_another_kind(void **state)
{
    Peer peer;
    Buf *out = script_stream(&peer);

    (void)state;
    wire_copy_in(out);
    start_stream(&peer);
    /* COPY_IN: for libpq the same as a CopyDone; what counts is that it is an end. */
    assert_next(&peer, &for_ever, COPY_DONE);
    peer_drop(&peer);

    out = script_stream(&peer);
    wire_copy_out(out);
    start_stream(&peer);
    assert_next(&peer, &for_ever, COPY_FAILED);
    peer_assert_error(
        &peer, ERR_PROTOCOL,
        "unexpected termination of replication stream: unexpected result PGRES_COPY_OUT");
    peer_drop(&peer);

    out = script_stream(&peer);
    wire_ready(out);
    start_stream(&peer);
    assert_next(&peer, &for_ever, COPY_FAILED);
    peer_assert_error(&peer, ERR_PROTOCOL,
                      "unexpected termination of replication stream: the server sent no result");
    peer_drop(&peer);
}

/* ---- waiting ---- */

static void
idle_stop_and_bell(void **state)
{
    Stop stop;
    Bell bell;
    Stop go;
    Thread thread;
    CopyWait wait;
    int64_t start;
    Peer peer;
    Buf *out = script_stream(&peer);

    (void)state;
    assert_true(stop_init(&stop, &peer.err));
    assert_true(bell_init(&bell, &peer.err));
    assert_true(stop_init(&go, &peer.err));
    wire_stall(&peer.script, &go);
    out = wire_send(&peer.script);
    wire_copy_data(out, "w1", 2);
    wire_copy_data(out, "w2", 2);
    start_stream(&peer);

    assert_next(&peer, &no_wait, COPY_IDLE);
    start = clock_ms();
    wait = (CopyWait){.timeout_ms = 60, .stop = &stop, .bell = &bell};
    assert_next(&peer, &wait, COPY_IDLE);
    assert_true(clock_ms() - start >= 59);
    assert_true(clock_ms() - start < 10000);

    wait.timeout_ms = -1;
    assert_true(thread_start(&thread, ring_soon, &bell, &peer.err));
    assert_next(&peer, &wait, COPY_WOKEN);
    thread_join(&thread);
    stop_request(&go);
    assert_message(&peer, &wait, "w1");
    /* what is in memory comes before a bell, and a stop before everything */
    while (!copy_has_buffered(peer.conn)) {
        Span message;

        bell_ring(&bell);
        assert_int_equal(copy_next(peer.conn, &wait, &message, &peer.err), COPY_WOKEN);
    }
    bell_ring(&bell);
    assert_true(thread_start(&thread, request_soon, &stop, &peer.err));
    thread_join(&thread);
    assert_next(&peer, &wait, COPY_STOPPED);
    wait.stop = NULL;
    assert_message(&peer, &wait, "w2");
    wait.stop = &stop;
    assert_next(&peer, &wait, COPY_STOPPED);
    peer_drop(&peer);
    stop_destroy(&stop);
    bell_destroy(&bell);
    stop_destroy(&go);
}

static void
stop_ends_a_wait(void **state)
{
    Stop stop;
    Thread thread;
    CopyWait wait = {.timeout_ms = -1, .stop = &stop};
    Peer peer;

    (void)state;
    (void)script_stream(&peer);
    wire_stall(&peer.script, NULL);
    assert_true(stop_init(&stop, &peer.err));
    start_stream(&peer);
    assert_true(thread_start(&thread, request_soon, &stop, &peer.err));
    assert_next(&peer, &wait, COPY_STOPPED);
    thread_join(&thread);
    peer_drop(&peer);
    stop_destroy(&stop);
}

/* After our CopyDone a server that hangs keeps nobody. */
static void
waiting_for_the_result_behind_the_stream(void **state)
{
    Stop stop;
    CopyWait wait = {.timeout_ms = 30, .stop = &stop};
    Thread thread;
    Peer peer;

    (void)state;
    (void)script_stream(&peer);
    wire_step(&peer.script, WIRE_COPY_DONE);
    wire_copy_done(wire_send(&peer.script));
    wire_stall(&peer.script, NULL);
    assert_true(stop_init(&stop, &peer.err));
    start_stream(&peer);
    assert_true(copy_end(peer.conn, &peer.err));
    assert_next(&peer, &wait, COPY_IDLE);
    assert_next(&peer, &wait, COPY_IDLE);
    assert_false(copy_has_buffered(peer.conn));
    wait.timeout_ms = -1;
    assert_true(thread_start(&thread, request_soon, &stop, &peer.err));
    assert_next(&peer, &wait, COPY_STOPPED);
    thread_join(&thread);
    peer_drop(&peer);
    stop_destroy(&stop);
}

/* Asking libpq once more before waiting does not become asking it all the time. */
static void
waiting_takes_no_time_of_the_processor(void **state)
{
    const CopyWait wait = {.timeout_ms = 300};
    clock_t used;
    Peer peer;

    (void)state;
    (void)script_stream(&peer);
    wire_stall(&peer.script, NULL);
    start_stream(&peer);
    peer.conn->encrypted = true;
    peer.conn->read_again = true;
    used = clock();
    assert_next(&peer, &wait, COPY_IDLE);
    assert_true(clock() - used < CLOCKS_PER_SEC / 10);
    peer_drop(&peer);
}

/* Pieces of one message keep coming; the caller's time is over all the same. */
static void
message_in_pieces_does_not_hold_the_caller(void **state)
{
    enum { PIECES = 40 };
    Stop never;
    CopyWait wait = {.timeout_ms = 40};
    int64_t start;
    int idle = 0;
    Span message;
    Peer peer;
    Buf *out = script_stream(&peer);

    (void)state;
    assert_true(stop_init(&never, &peer.err));
    /* CopyData of 4 + 200 * PIECES bytes */
    assert_true(
        buf_append(out, (uint8_t[]){'d', 0, 0, (4 + 200 * PIECES) >> 8, (4 + 200 * PIECES) & 255},
                   5, &peer.err));
    out = wire_send(&peer.script);
    for (int i = 0; i < 200 * PIECES; i++)
        assert_true(buf_append(out, "x", 1, &peer.err));
    peer.config.chunk = 200;
    peer.config.pause_ms = 10;
    start_stream(&peer);
    start = clock_ms();
    for (;;) {
        CopyResult got = copy_next(peer.conn, &wait, &message, &peer.err);

        if (got == COPY_MESSAGE)
            break;
        assert_int_equal(got, COPY_IDLE);
        idle++;
    }
    assert_int_equal(message.len, 200 * PIECES);
    /* 400 ms in waits of 40 */
    assert_true(clock_ms() - start >= 300);
    assert_true(idle >= 4);
    peer_drop(&peer);
    stop_destroy(&never);
}

/* ---- messages ---- */

static void
buffered_messages(void **state)
{
    Span first;
    Peer peer;
    Buf *out = script_stream(&peer);

    (void)state;
    wire_copy_data(out, "w1", 2);
    wire_copy_data(out, "", 0); /* says nothing and is skipped */
    wire_copy_data(out, "w2", 2);
    wire_stall(&peer.script, NULL);
    start_stream(&peer);
    assert_int_equal(copy_next(peer.conn, &for_ever, &first, &peer.err), COPY_MESSAGE);
    assert_true(copy_has_buffered(peer.conn));
    assert_true(copy_has_buffered(peer.conn));
    /* looking does not take the message away */
    assert_memory_equal(first.data, "w1", 2);
    assert_message(&peer, &no_wait, "w2");
    assert_false(copy_has_buffered(peer.conn));
    assert_next(&peer, &no_wait, COPY_IDLE);
    assert_false(copy_has_buffered(peer.conn));
    peer_drop(&peer);
}

/* Neither the message that was handed out nor the one that was only looked at leaks. */
static void
messages_that_nobody_took(void **state)
{
    Peer peer;
    Buf *out = script_stream(&peer);

    (void)state;
    wire_copy_data(out, "w1", 2);
    wire_copy_data(out, "w2", 2);
    start_stream(&peer);
    assert_message(&peer, &for_ever, "w1");
    assert_true(copy_has_buffered(peer.conn));
    peer_drop(&peer);
}

/* The end of a copy counts as something that is there. */
static void
buffered_end(void **state)
{
    Peer peer;
    Buf *out = script_stream(&peer);

    (void)state;
    wire_copy_data(out, "w1", 2);
    wire_complete(out, "COPY 0");
    wire_step(&peer.script, WIRE_CLOSE);
    start_stream(&peer);
    assert_message(&peer, &for_ever, "w1");
    while (!copy_has_buffered(peer.conn))
        assert_next(&peer, &no_wait, COPY_IDLE);
    assert_true(copy_send(peer.conn, span_of("too late"), &peer.err));
    assert_next(&peer, &no_wait, COPY_DONE);
    assert_true(copy_end(peer.conn, &peer.err));
    assert_true(repl_stream_end(peer.conn, &(StreamEnd){0}, &peer.err));
    assert_false(copy_has_buffered(peer.conn));
    peer_done(&peer);
}

/* Whatever may come between messages at any time. */
static void
asynchronous_messages(void **state)
{
    Peer peer;
    Buf *out = script_backup(&peer);

    (void)state;
    wire_copy_data(out, "d1", 2);
    wire_parameter(out, "TimeZone", "UTC");
    wire_notice(out, "a notice goes to standard error");
    wire_message(out, 'A', "\0\0\0\1channel\0payload", 20);
    wire_copy_data(out, "d2", 2);
    wire_copy_done(out);
    wire_one_row(out, ROW("0/1", "1"));
    wire_complete(out, "BASE_BACKUP");
    wire_ready(out);
    start_backup(&peer);
    assert_message(&peer, &for_ever, "d1");
    assert_message(&peer, &for_ever, "d2");
    assert_next(&peer, &for_ever, COPY_DONE);
    assert_true(repl_base_backup_end(peer.conn, NULL, &(BackupEnd){0}, &peer.err));
    peer_done(&peer);
}

/* Every cut of the bytes into pieces gives the same messages. */
static void
delivery_in_chunks(void **state)
{
    static const size_t chunks[] = {1, 2, 3, 5, 7, 100, 4096, 0};
    static const size_t sizes[] = {1, 2, 511, 512, 8192, 16383, 16384, 40000};

    (void)state;
    for (size_t c = 0; c < COUNT(chunks); c++) {
        size_t count = chunks[c] != 0 && chunks[c] < 100 ? 5 : COUNT(sizes);
        char *body = malloc(40000);
        Span message;
        Peer peer;
        Buf *out = script_backup(&peer);

        assert_non_null(body);
        for (size_t i = 0; i < count; i++) {
            memset(body, 'a' + (int)i, sizes[i]);
            wire_copy_data(out, body, sizes[i]);
        }
        wire_copy_done(out);
        wire_one_row(out, ROW("0/1", "1"));
        wire_complete(out, "BASE_BACKUP");
        wire_ready(out);
        peer.config.chunk = chunks[c];
        start_backup(&peer);
        /* With encryption libpq is asked once more before we wait: that must change nothing. */
        peer.conn->encrypted = c % 2 == 0;
        for (size_t i = 0; i < count; i++) {
            assert_int_equal(copy_next(peer.conn, &for_ever, &message, &peer.err), COPY_MESSAGE);
            assert_int_equal(message.len, sizes[i]);
            memset(body, 'a' + (int)i, sizes[i]);
            assert_memory_equal(message.data, body, sizes[i]);
        }
        assert_next(&peer, &for_ever, COPY_DONE);
        assert_true(repl_base_backup_end(peer.conn, NULL, &(BackupEnd){0}, &peer.err));
        free(body);
        peer_done(&peer);
    }
}

static void
error_within_an_archive(void **state)
{
    Peer peer;
    Buf *out = script_backup(&peer);

    (void)state;
    wire_copy_data(out, "d1", 2);
    wire_error(out, "ERROR", "XX001", "could not read file");
    wire_ready(out);
    peer_answer(&peer, "IDENTIFY_SYSTEM", ROW("7", "1", "0/1", NULL));
    start_backup(&peer);
    assert_message(&peer, &for_ever, "d1");
    assert_next(&peer, &for_ever, COPY_FAILED);
    assert_string_equal(peer.err.sqlstate, "XX001");
    peer_assert_error(&peer, ERR_SERVER, "could not read COPY data: ERROR:  could not read file");
    assert_true(repl_identify_system(peer.conn, &(ServerIdentity){0}, &peer.err));
    peer_done(&peer);
}

static void
connection_breaks_within_an_archive(void **state)
{
    Peer peer;
    Buf *out = script_backup(&peer);

    (void)state;
    wire_copy_data(out, "d1", 2);
    wire_step(&peer.script, WIRE_CLOSE);
    start_backup(&peer);
    assert_message(&peer, &for_ever, "d1");
    assert_next(&peer, &for_ever, COPY_FAILED);
    peer_assert_error_begins(&peer, ERR_CONNECTION,
                             "could not read COPY data: server closed the connection unexpectedly");
    peer_done(&peer);
}

/* What is no message at all. */
static void
garbage_within_an_archive(void **state)
{
    static const struct {
        const char *bytes;
        size_t len;
    } cases[] = {
        {"d\0\0\0\3", 5},                           /* shorter than its own length */
        {"d\xff\xff\xff\xff", 5},                   /* negative */
        {"c\0\0\0\0", 5},         {"?\0\0\0\4", 5}, /* unknown type */
        {"\0\0\0\0\4", 5},        {"H\0\0\0\4", 5}, /* a COPY response without its format */
        {"E\0\0\0\4", 5},                           /* an error without fields */
        {"C\0\0\0\5x", 6},                          /* a tag without its end */
        {"T\0\0\0\6\xff\xff", 7},                   /* many columns, none there */
        {"D\0\0\0\6\0\1", 7},                       /* a row without a description */
        {"d\x7f\xff\xff\xff", 5},                   /* far more than will ever come */
    };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        Peer peer;
        Buf *out = script_backup(&peer);

        wire_copy_data(out, "d1", 2);
        assert_true(buf_append(out, cases[i].bytes, cases[i].len, &peer.err));
        wire_step(&peer.script, WIRE_CLOSE);
        start_backup(&peer);
        assert_message(&peer, &for_ever, "d1");
        for (int again = 0; again < 2; again++) {
            peer.err = ERROR_INIT;
            assert_next(&peer, &for_ever, COPY_FAILED);
            assert_true(peer.err.code == ERR_PROTOCOL || peer.err.code == ERR_CONNECTION ||
                        peer.err.code == ERR_SERVER);
            assert_true(strncmp(peer.err.message, "could not read COPY data: ", 26) == 0);
        }
        peer_done(&peer);
    }
}

static void
archive_ends_with_a_result_of_another_kind(void **state)
{
    enum { COPY_IN_R, COPY_BOTH_R, READY_R, CASES };
    static const char *const messages[CASES] = {
        "could not read COPY data: unexpected result PGRES_COPY_IN",
        "could not read COPY data: unexpected result PGRES_COPY_BOTH",
        "could not read COPY data: the server sent no result"};

    (void)state;
    for (int i = 0; i < CASES; i++) {
        Peer peer;
        Buf *out = script_backup(&peer);

        wire_copy_done(out);
        if (i == COPY_IN_R)
            wire_copy_in(out);
        else if (i == COPY_BOTH_R)
            wire_copy_both(out);
        else
            wire_ready(out);
        start_backup(&peer);
        assert_next(&peer, &for_ever, COPY_FAILED);
        peer_assert_error(&peer, ERR_PROTOCOL, messages[i]);
        peer_drop(&peer);
    }
}

static void
no_copy_at_all(void **state)
{
    Peer peer;

    (void)state;
    peer_init(&peer);
    wire_stall(&peer.script, NULL);
    peer_connect(&peer);
    assert_next(&peer, &for_ever, COPY_FAILED);
    peer_assert_error(&peer, ERR_BUG, "there is no COPY to read from");
    assert_false(copy_send(peer.conn, span_of("x"), &peer.err));
    peer_assert_error(&peer, ERR_BUG, "there is no COPY to send 1 bytes to");
    assert_false(copy_end(peer.conn, &peer.err));
    peer_assert_error(&peer, ERR_BUG, "there is no COPY to end");
    assert_false(copy_has_buffered(peer.conn));
    peer_done(&peer);
}

static void
archives_are_not_for_sending(void **state)
{
    Peer peer;

    (void)state;
    (void)script_backup(&peer);
    start_backup(&peer);
    assert_false(copy_send(peer.conn, span_of("x"), &peer.err));
    peer_assert_error(&peer, ERR_BUG, "there is no COPY to send 1 bytes to");
    assert_false(copy_end(peer.conn, &peer.err));
    peer_assert_error(&peer, ERR_BUG, "there is no COPY to end");
    peer_drop(&peer);
}

/* ---- sending ---- */

static void
status_messages_arrive(void **state)
{
    StatusMessage status = {.written = 1, .flushed = 2, .applied = 3, .sent_at = 4};
    uint8_t bytes[STATUS_MESSAGE_SIZE];
    Peer peer;

    (void)state;
    (void)script_stream(&peer);
    for (int i = 0; i < 3; i++)
        wire_step(&peer.script, WIRE_COPY_DATA);
    wire_copy_data(wire_send(&peer.script), "seen", 4);
    start_stream(&peer);
    for (uint64_t i = 0; i < 3; i++) {
        status.written = i;
        status_message_format(&status, bytes);
        assert_true(copy_send(peer.conn, (Span){.data = bytes, .len = sizeof bytes}, &peer.err));
    }
    assert_message(&peer, &for_ever, "seen");
    (void)wire_server_stop(peer.server);
    for (size_t i = 0; i < 3; i++) {
        Span got = wire_server_copy_data(peer.server, i);

        assert_int_equal(got.len, STATUS_MESSAGE_SIZE);
        assert_int_equal(got.data[0], 'r');
        assert_int_equal(got.data[8], i);
    }
    peer_done(&peer);
}

/* A server that takes nothing blocks us only for a while. */
static void
server_that_does_not_read(void **state)
{
    const size_t len = 1 << 20;
    uint8_t *bytes = calloc(1, len);
    bool ok = true;
    Peer peer;

    (void)state;
    assert_non_null(bytes);
    (void)script_stream(&peer);
    wire_stall(&peer.script, NULL);
    start_stream(&peer);
    peer.conn->send_timeout_ms = 100;
    for (int i = 0; ok && i < 64; i++)
        ok = copy_send(peer.conn, (Span){.data = bytes, .len = len}, &peer.err);
    assert_false(ok);
    peer_assert_error(&peer, ERR_CONNECTION,
                      "could not send feedback packet: the server took nothing for 100 ms");
    assert_false(copy_end(peer.conn, &peer.err));
    peer_assert_error(&peer, ERR_CONNECTION,
                      "could not send copy-end packet: the server took nothing for 100 ms");
    free(bytes);
    peer_drop(&peer);
}

/* Both sides send more than the socket holds: neither must wait for the other. */
static void
both_sides_send_at_once(void **state)
{
    enum { MESSAGES = 40, SIZE = 100000 };
    uint8_t *bytes = calloc(1, SIZE);
    Span message;
    Peer peer;
    Buf *out = script_stream(&peer);

    (void)state;
    assert_non_null(bytes);
    for (int i = 0; i < MESSAGES; i++)
        wire_copy_data(out, bytes, SIZE);
    for (int i = 0; i < MESSAGES; i++)
        wire_step(&peer.script, WIRE_COPY_DATA);
    wire_copy_data(wire_send(&peer.script), "seen", 4);
    start_stream(&peer);
    for (int i = 0; i < MESSAGES; i++)
        assert_true(copy_send(peer.conn, (Span){.data = bytes, .len = SIZE}, &peer.err));
    for (int i = 0; i < MESSAGES; i++) {
        assert_int_equal(copy_next(peer.conn, &for_ever, &message, &peer.err), COPY_MESSAGE);
        assert_int_equal(message.len, SIZE);
    }
    assert_message(&peer, &for_ever, "seen");
    free(bytes);
    peer_done(&peer);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(start_commands),
        cmocka_unit_test(start_refused),
        cmocka_unit_test(start_at_the_switch),
        cmocka_unit_test(we_end_the_stream),
        cmocka_unit_test(we_end_the_stream_of_an_old_timeline),
        cmocka_unit_test(timeline_ends),
        cmocka_unit_test(timeline_ends_and_the_next_follows),
        cmocka_unit_test(server_shuts_down),
        cmocka_unit_test(server_ends_the_stream_with_an_error),
        cmocka_unit_test(server_is_told_to_terminate),
        cmocka_unit_test(reason_gets_through_to_a_sender),
        cmocka_unit_test(connection_breaks),
        cmocka_unit_test(connection_breaks_while_we_send),
        cmocka_unit_test(connection_breaks_within_a_message),
        cmocka_unit_test(messages_that_nobody_took),
        cmocka_unit_test(stream_end_with_bad_rows),
        cmocka_unit_test(stream_end_with_other_results),
        cmocka_unit_test(stream_end_before_its_time),
        cmocka_unit_test(stream_ends_with_a_result_of_another_kind),
        cmocka_unit_test(idle_stop_and_bell),
        cmocka_unit_test(stop_ends_a_wait),
        cmocka_unit_test(waiting_for_the_result_behind_the_stream),
        cmocka_unit_test(waiting_takes_no_time_of_the_processor),
        cmocka_unit_test(message_in_pieces_does_not_hold_the_caller),
        cmocka_unit_test(buffered_messages),
        cmocka_unit_test(buffered_end),
        cmocka_unit_test(asynchronous_messages),
        cmocka_unit_test(delivery_in_chunks),
        cmocka_unit_test(error_within_an_archive),
        cmocka_unit_test(connection_breaks_within_an_archive),
        cmocka_unit_test(garbage_within_an_archive),
        cmocka_unit_test(archive_ends_with_a_result_of_another_kind),
        cmocka_unit_test(no_copy_at_all),
        cmocka_unit_test(archives_are_not_for_sending),
        cmocka_unit_test(status_messages_arrive),
        cmocka_unit_test(server_that_does_not_read),
        cmocka_unit_test(both_sides_send_at_once),
    };

    peer_clean_environment();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
