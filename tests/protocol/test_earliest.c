/*
 * The search for the earliest WAL that a server has: what is tried in which order, what counts as
 * gone and what as an error, and that each try leaves the connection ready for the next.
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
#include "walrecv/walrecv.h"

#define SEGMENT      ((uint32_t)16 * 1024 * 1024)
#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* ---- what the server says ---- */

static const char *
start_text(Lsn lsn)
{
    static char text[80];

    (void)snprintf(text, sizeof text, "START_REPLICATION " LSN_FORMAT " TIMELINE 3", LSN_ARGS(lsn));
    return text;
}

static void
put_wal(Buf *out, Lsn lsn, size_t len)
{
    uint8_t *message = calloc(1, 25 + len);

    assert_non_null(message);
    message[0] = 'w';
    put_be64(message + 1, lsn);
    put_be64(message + 9, lsn + len);
    wire_copy_data(out, message, 25 + len);
    free(message);
}

static void
put_keepalive(Buf *out, Lsn lsn)
{
    uint8_t message[18] = {'k'};

    put_be64(message + 1, lsn);
    wire_copy_data(out, message, sizeof message);
}

/* The segment is there: WAL comes until we end the stream. */
static void
script_streams(Peer *peer, Lsn lsn)
{
    Buf *out = wire_stream(&peer->script, start_text(lsn));

    put_keepalive(out, lsn);
    put_wal(out, lsn, 1000);
    put_keepalive(out, lsn);
    put_wal(out, lsn + 1000, 70000);
    wire_stream_end(&peer->script);
}

/* As servers say it: COPY has begun already. */
static void
script_gone(Peer *peer, Lsn lsn)
{
    Buf *out = wire_stream(&peer->script, start_text(lsn));

    wire_error(out, "ERROR", "58P01", "requested WAL segment X has already been removed");
    wire_ready(out);
}

static void
script_error(Peer *peer, Lsn lsn, const char *sqlstate, const char *message)
{
    Buf *out = wire_stream(&peer->script, start_text(lsn));

    wire_error(out, "ERROR", sqlstate, message);
    wire_ready(out);
}

/* The connection can be used for something else. */
static void
assert_usable(Peer *peer)
{
    ServerIdentity identity;

    if (!repl_identify_system(peer->conn, &identity, &peer->err))
        fail_msg("%s", peer->err.message);
    assert_int_equal(identity.system_id, 7);
}

static void
script_usable(Peer *peer)
{
    peer_answer(peer, "IDENTIFY_SYSTEM", ROW("7", "3", "0/1", NULL));
}

static bool
find(Peer *peer, Lsn from, Lsn until, uint32_t segment_size, Lsn *ret_earliest)
{
    Lsn earliest = 0x77;
    bool ok =
        wal_find_earliest(peer->conn, NULL, 3, from, until, segment_size, &earliest, &peer->err);

    if (ok)
        *ret_earliest = earliest;
    else
        assert_int_equal(earliest, 0x77);
    return ok;
}

/* ---- searching ---- */

/*
 * Scripts what a server is asked that has segments from `kept` on: the very tries of a binary
 * search. Returns how many they are.
 */
static size_t
script_search(Peer *peer, uint64_t first, uint64_t end, uint64_t kept, uint32_t segment_size)
{
    size_t tries = 0;

    while (first < end) {
        uint64_t middle = (first + end) / 2;

        if (middle >= kept) {
            script_streams(peer, middle * segment_size);
            end = middle;
        } else {
            script_gone(peer, middle * segment_size);
            first = middle + 1;
        }
        tries++;
    }
    return tries;
}

static uint64_t
round_up(Lsn lsn, uint32_t segment_size)
{
    return lsn / segment_size + (lsn % segment_size > 0 ? 1 : 0);
}

static void
assert_found(Lsn from, Lsn until, uint64_t kept, uint32_t segment_size, size_t tries_max)
{
    uint64_t first = round_up(from, segment_size);
    uint64_t end = round_up(until, segment_size);
    Lsn wanted = (kept > first ? kept : first) * segment_size;
    Lsn earliest = 0;
    Peer peer;

    peer_init(&peer);
    assert_true(script_search(&peer, first, end, kept, segment_size) <= tries_max);
    script_usable(&peer);
    peer_connect(&peer);
    if (!find(&peer, from, until, segment_size, &earliest))
        fail_msg("%s", peer.err.message);
    assert_int_equal(earliest, wanted);
    assert_usable(&peer);
    peer_done(&peer);
}

static void
wherever_it_begins(void **state)
{
    (void)state;
    /* Twelve candidates, 5 to 16; the last one is not complete yet. */
    for (uint64_t kept = 0; kept <= 16; kept++)
        assert_found(5 * (Lsn)SEGMENT, 16 * (Lsn)SEGMENT + 1000, kept, SEGMENT, 4);
}

static void
from_the_middle_of_a_segment(void **state)
{
    (void)state;
    assert_found(5 * (Lsn)SEGMENT + 1, 9 * (Lsn)SEGMENT + 1, 0, SEGMENT, 3);
    assert_found(6 * (Lsn)SEGMENT - 1, 9 * (Lsn)SEGMENT + 1, 7, SEGMENT, 3);
    assert_found(0, 9 * (Lsn)SEGMENT + 1, 3, SEGMENT, 4);
    assert_found(1, 9 * (Lsn)SEGMENT + 1, 3, SEGMENT, 4);
}

static void
one_candidate(void **state)
{
    (void)state;
    assert_found(5 * (Lsn)SEGMENT, 5 * (Lsn)SEGMENT + 1, 5, SEGMENT, 1);
    assert_found(5 * (Lsn)SEGMENT, 6 * (Lsn)SEGMENT - 1, 0, SEGMENT, 1);
}

static void
other_segment_sizes(void **state)
{
    const uint32_t small = 1U << 20;
    const uint32_t large = 1U << 30;

    (void)state;
    assert_found(5 * (Lsn)small, 300 * (Lsn)small + 1, 77, small, 9);
    assert_found(5 * (Lsn)large, 21 * (Lsn)large + 1, 19, large, 5);
    /* the last segments that there can be */
    assert_found(0, UINT64_MAX, UINT64_MAX / large, large, 35);
}

/* At its beginning there is nothing to send yet, and nothing to try. */
static void
until_the_beginning_of_a_segment(void **state)
{
    Lsn earliest = 0;
    Peer peer;

    (void)state;
    assert_found(5 * (Lsn)SEGMENT, 9 * (Lsn)SEGMENT, 7, SEGMENT, 2);
    assert_found(5 * (Lsn)SEGMENT, 9 * (Lsn)SEGMENT, 9, SEGMENT, 3);
    peer_init(&peer);
    wire_stall(&peer.script, NULL);
    peer_connect(&peer);
    assert_true(find(&peer, 5 * (Lsn)SEGMENT, 5 * (Lsn)SEGMENT, SEGMENT, &earliest));
    assert_int_equal(earliest, 5 * (Lsn)SEGMENT);
    peer_done(&peer);
}

static void
slot_is_named_and_told_nothing(void **state)
{
    Lsn earliest = 0;
    Peer peer;
    Buf *out;

    (void)state;
    peer_init(&peer);
    out = wire_stream(&peer.script, "START_REPLICATION SLOT \"s\" 0/5000000 TIMELINE 3");
    put_wal(out, 0x5000000, 10);
    wire_stream_end(&peer.script);
    peer_connect(&peer);
    assert_true(
        wal_find_earliest(peer.conn, "s", 3, 0x5000000, 0x5000100, SEGMENT, &earliest, &peer.err));
    assert_int_equal(earliest, 0x5000000);
    assert_string_equal(wire_server_stop(peer.server), "");
    assert_null(wire_server_copy_data(peer.server, 0).data);
    peer_done(&peer);
}

/* ---- timelines that end ---- */

/* The server ends the stream itself, before or behind WAL. */
static void
timeline_that_ends_in_the_segment(void **state)
{
    (void)state;
    for (int with_wal = 0; with_wal <= 1; with_wal++) {
        Lsn earliest = 0;
        Peer peer;
        Buf *out;

        peer_init(&peer);
        out = wire_stream(&peer.script, start_text(0x5000000));
        if (with_wal)
            put_wal(out, 0x5000000, 100);
        wire_copy_done(out);
        wire_step(&peer.script, WIRE_COPY_DONE);
        out = wire_send(&peer.script);
        wire_one_row(out, ROW("4", "0/5000064"));
        wire_complete(out, "START_REPLICATION");
        wire_ready(out);
        script_usable(&peer);
        peer_connect(&peer);
        assert_true(find(&peer, 0x5000000, 0x5000064, SEGMENT, &earliest));
        assert_int_equal(earliest, 0x5000000);
        assert_usable(&peer);
        peer_done(&peer);
    }
}

static void
timeline_that_ended_before(void **state)
{
    Lsn earliest = 0;
    Peer peer;
    Buf *out;

    (void)state;
    peer_init(&peer);
    wire_expect(&peer.script, start_text(0x5000000));
    out = wire_send(&peer.script);
    wire_one_row(out, ROW("4", "0/5000000"));
    wire_complete(out, "START_REPLICATION");
    wire_ready(out);
    script_usable(&peer);
    peer_connect(&peer);
    assert_true(find(&peer, 0x5000000, 0x5000001, SEGMENT, &earliest));
    assert_int_equal(earliest, 0x5000000);
    assert_usable(&peer);
    peer_done(&peer);
}

/* ---- gone in other ways ---- */

static void
error_before_copy(void **state)
{
    Lsn earliest = 0;
    Peer peer;

    (void)state;
    peer_init(&peer);
    script_streams(&peer, 0x6000000);
    peer_answer_error(&peer, start_text(0x5000000), "58P01", "gone");
    script_usable(&peer);
    peer_connect(&peer);
    assert_true(find(&peer, 0x5000000, 0x6000001, SEGMENT, &earliest));
    assert_int_equal(earliest, 0x6000000);
    assert_usable(&peer);
    peer_done(&peer);
}

/* Removed while it was being sent, or the one behind it. */
static void
gone_behind_some_wal(void **state)
{
    Lsn earliest = 0;
    Peer peer;
    Buf *out;

    (void)state;
    peer_init(&peer);
    out = wire_stream(&peer.script, start_text(0x6000000));
    put_wal(out, 0x6000000, 1000);
    wire_step(&peer.script, WIRE_COPY_DONE);
    out = wire_send(&peer.script);
    wire_error(out, "ERROR", "58P01", "requested WAL segment X has already been removed");
    wire_ready(out);
    script_streams(&peer, 0x7000000);
    script_usable(&peer);
    peer_connect(&peer);
    assert_true(find(&peer, 0x5000000, 0x7000001, SEGMENT, &earliest));
    assert_int_equal(earliest, 0x7000000);
    assert_usable(&peer);
    peer_done(&peer);
}

static void
nothing_is_left(void **state)
{
    Peer peer;
    Lsn unused;

    (void)state;
    peer_init(&peer);
    script_gone(&peer, 0x6000000);
    script_gone(&peer, 0x7000000);
    script_usable(&peer);
    peer_connect(&peer);
    assert_false(find(&peer, 0x5000000, 0x7000001, SEGMENT, &unused));
    assert_string_equal(peer.err.sqlstate, "58P01");
    peer_assert_error(&peer, ERR_SERVER,
                      "the server has no WAL of timeline 3 to begin with from 0/5000000 to "
                      "0/7000001: unexpected termination of replication stream: ERROR:  requested "
                      "WAL segment X has already been removed");
    assert_usable(&peer);
    peer_done(&peer);
}

static void
no_segment_begins_there(void **state)
{
    static const Lsn ranges[][2] = {
        {0x5000001, 0x5000002}, {0x5000001, 0x5FFFFFF}, {0x5000001, 0x5000000},
        {0x6000000, 0x5000001}, {0x9000000, 0x5000000}, {UINT64_MAX, UINT64_MAX},
    };
    Peer peer;

    (void)state;
    peer_init(&peer);
    wire_stall(&peer.script, NULL);
    peer_connect(&peer);
    for (size_t i = 0; i < COUNT(ranges); i++) {
        char expected[200];
        Lsn unused;

        assert_false(find(&peer, ranges[i][0], ranges[i][1], SEGMENT, &unused));
        assert_string_equal(peer.err.sqlstate, "58P01");
        (void)snprintf(expected, sizeof expected,
                       "the server has no WAL of timeline 3 to begin with from " LSN_FORMAT
                       " to " LSN_FORMAT ": no segment begins there",
                       LSN_ARGS(ranges[i][0]), LSN_ARGS(ranges[i][1]));
        peer_assert_error(&peer, ERR_SERVER, expected);
    }
    peer_done(&peer);
}

/* ---- other errors ---- */

static void
other_errors_of_the_server(void **state)
{
    Peer peer;
    Lsn unused;

    (void)state;
    peer_init(&peer);
    script_gone(&peer, 0x6000000);
    script_error(&peer, 0x7000000, "XX000", "is ahead of the WAL flush position");
    peer_answer_error(&peer, start_text(0x5000000), "55006", "replication slot is active");
    script_usable(&peer);
    peer_connect(&peer);
    assert_false(find(&peer, 0x5000000, 0x7000001, SEGMENT, &unused));
    assert_string_equal(peer.err.sqlstate, "XX000");
    peer_assert_error(&peer, ERR_SERVER,
                      "unexpected termination of replication stream: ERROR:  is ahead of the WAL "
                      "flush position");
    assert_false(find(&peer, 0x5000000, 0x5000001, SEGMENT, &unused));
    assert_string_equal(peer.err.sqlstate, "55006");
    peer_assert_error(&peer, ERR_SERVER,
                      "could not send replication command \"START_REPLICATION\": ERROR:  "
                      "replication slot is active");
    assert_usable(&peer);
    peer_done(&peer);
}

static void
error_instead_of_the_end(void **state)
{
    Peer peer;
    Lsn unused;
    Buf *out;

    (void)state;
    peer_init(&peer);
    put_wal(wire_stream(&peer.script, start_text(0x5000000)), 0x5000000, 10);
    wire_step(&peer.script, WIRE_COPY_DONE);
    out = wire_send(&peer.script);
    wire_copy_done(out);
    wire_complete(out, "START_STREAMING");
    wire_error(out, "ERROR", "XX000", "second thoughts");
    wire_ready(out);
    script_usable(&peer);
    peer_connect(&peer);
    assert_false(find(&peer, 0x5000000, 0x5000001, SEGMENT, &unused));
    assert_string_equal(peer.err.sqlstate, "XX000");
    peer_assert_error(&peer, ERR_SERVER,
                      "unexpected termination of replication stream: ERROR:  second thoughts");
    assert_usable(&peer);
    peer_done(&peer);
}

static void
message_that_is_none(void **state)
{
    Peer peer;
    Lsn unused;

    (void)state;
    peer_init(&peer);
    wire_copy_data(wire_stream(&peer.script, start_text(0x5000000)), "x", 1);
    wire_stall(&peer.script, NULL);
    peer_connect(&peer);
    assert_false(find(&peer, 0x5000000, 0x5000001, SEGMENT, &unused));
    assert_int_equal(peer.err.code, ERR_PROTOCOL);
    peer_done(&peer);
}

static void
connection_that_breaks(void **state)
{
    Peer peer;
    Lsn unused;

    (void)state;
    for (int with_wal = 0; with_wal <= 1; with_wal++) {
        Buf *out;

        peer_init(&peer);
        out = wire_stream(&peer.script, start_text(0x5000000));
        if (with_wal)
            put_wal(out, 0x5000000, 10);
        wire_step(&peer.script, WIRE_CLOSE);
        peer_connect(&peer);
        assert_false(find(&peer, 0x5000000, 0x5000001, SEGMENT, &unused));
        assert_int_equal(peer.err.code, ERR_CONNECTION);
        peer_done(&peer);
    }
}

/* What follows on the first completion of a stream: "START_REPLICATION" and ready. */
#define COMPLETION_TAIL (5 + (int64_t)sizeof "START_REPLICATION" + 6)

/* A conversation that is cut after each of its bytes ends in an error, and never hangs. */
static void
cut_anywhere(void **state)
{
    int64_t sent;
    Peer peer;
    Lsn found = 0;

    (void)state;
    peer_init(&peer);
    script_gone(&peer, 0x6000000);
    put_wal(wire_stream(&peer.script, start_text(0x7000000)), 0x7000000, 10);
    wire_stream_end(&peer.script);
    peer.config.repeat = true;
    peer_connect(&peer);
    assert_true(find(&peer, 0x5000000, 0x7000001, SEGMENT, &found));
    assert_int_equal(found, 0x7000000);
    conn_free(peer.conn);
    while ((sent = wire_server_sent(peer.server)) == 0)
        (void)nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);

    for (int64_t cut = 0; cut < sent; cut++) {
        wire_server_cut(peer.server, cut);
        peer.err = ERROR_INIT;
        peer.conn = conn_open(&peer.conn_config, &peer.err);
        if (peer.conn != NULL && find(&peer, 0x5000000, 0x7000001, SEGMENT, &found))
            /* the first completion came: a server that shuts down says no more either */
            assert_true(found == 0x7000000 && cut >= sent - COMPLETION_TAIL);
        else
            assert_true(peer.err.code == ERR_CONNECTION || peer.err.code == ERR_PROTOCOL);
        conn_free(peer.conn);
    }
    peer.conn = NULL;
    peer_done(&peer);
}

static void
request_stop_soon(void *arg)
{
    (void)nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
    stop_request(arg);
}

static void
stop_ends_a_try_that_hangs(void **state)
{
    (void)state;
    for (int with_wal = 0; with_wal <= 1; with_wal++) {
        Thread thread;
        Lsn unused;
        Stop stop;
        Peer peer;
        Buf *out;

        peer_init(&peer);
        assert_true(stop_init(&stop, &peer.err));
        peer.conn_config.stop = &stop;
        out = wire_stream(&peer.script, start_text(0x5000000));
        if (with_wal)
            put_wal(out, 0x5000000, 10);
        wire_stall(&peer.script, NULL);
        peer_connect(&peer);
        assert_true(thread_start(&thread, request_stop_soon, &stop, &peer.err));
        assert_false(find(&peer, 0x5000000, 0x5000001, SEGMENT, &unused));
        peer_assert_error(&peer, ERR_STOPPED, "stopped");
        thread_join(&thread);
        peer_done(&peer);
        stop_destroy(&stop);
    }
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(wherever_it_begins),
        cmocka_unit_test(from_the_middle_of_a_segment),
        cmocka_unit_test(one_candidate),
        cmocka_unit_test(other_segment_sizes),
        cmocka_unit_test(until_the_beginning_of_a_segment),
        cmocka_unit_test(slot_is_named_and_told_nothing),
        cmocka_unit_test(timeline_that_ends_in_the_segment),
        cmocka_unit_test(timeline_that_ended_before),
        cmocka_unit_test(error_before_copy),
        cmocka_unit_test(gone_behind_some_wal),
        cmocka_unit_test(nothing_is_left),
        cmocka_unit_test(no_segment_begins_there),
        cmocka_unit_test(other_errors_of_the_server),
        cmocka_unit_test(error_instead_of_the_end),
        cmocka_unit_test(message_that_is_none),
        cmocka_unit_test(connection_that_breaks),
        cmocka_unit_test(cut_anywhere),
        cmocka_unit_test(stop_ends_a_try_that_hangs),
    };

    peer_clean_environment();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
