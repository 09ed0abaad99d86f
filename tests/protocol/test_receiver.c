/*
 * The WAL receiver against a server that does what the script says, good or bad: what reaches the
 * sink, what the server is told, and how the run ends.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "common/crc32c.h"
#include "support/recorder.h"
#include "support/temp_dir.h"
#include "support/wal_builder.h"
#include "support/wire_server.h"
#include "walrecv/walrecv.h"

#define MB           ((uint64_t)1024 * 1024)
#define START        ((Lsn)0x1000000)
#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* ---- scripts ---- */

/* What the WAL of a timeline holds at a position. */
static uint8_t
wal_byte(TimeLineID timeline, Lsn lsn)
{
    return (uint8_t)(lsn * 7 + (lsn >> 8) * 13 + timeline * 101);
}

/* CopyData with WAL. */
static void
put_wal(Buf *out, TimeLineID timeline, Lsn lsn, size_t len)
{
    uint8_t *message = calloc(1, 25 + len);

    assert_non_null(message);
    message[0] = 'w';
    put_be64(message + 1, lsn);
    put_be64(message + 9, lsn + len);
    for (size_t i = 0; i < len; i++)
        message[25 + i] = wal_byte(timeline, lsn + i);
    wire_copy_data(out, message, 25 + len);
    free(message);
}

static void
put_keepalive(Buf *out, Lsn lsn, bool reply)
{
    uint8_t message[18] = {'k'};

    put_be64(message + 1, lsn);
    message[17] = reply ? 1 : 0;
    wire_copy_data(out, message, sizeof message);
}

static void
put_next_timeline(Buf *out, const char *timeline, const char *start)
{
    const char *const values[] = {timeline, start};

    wire_one_row(out, 2, values);
    wire_complete(out, "START_REPLICATION");
    wire_ready(out);
}

/* The server ends the stream, because another timeline follows. */
static void
script_switch(WireScript *script, const char *timeline, const char *start)
{
    wire_copy_done(wire_send(script));
    wire_step(script, WIRE_COPY_DONE);
    put_next_timeline(wire_send(script), timeline, start);
}

/* ---- a run ---- */

typedef struct Run {
    WireScript script;
    WireServer *server;
    size_t chunk;
    bool with_handoff;
    HandoffConfig handoff;

    Recording recording;
    Stop stop;
    DurableMark mark;
    WalReceiverConfig config;
    WalReceiver *receiver;
    Buf seen; /* what the observer was told */

    Thread thread;
    WalRunResult result;
    Error err;
} Run;

static void
see_switched(void *ctx, Lsn at, TimeLineID timeline)
{
    Error err = ERROR_INIT;

    error_ignored(buf_printf(ctx, &err, "switched " LSN_FORMAT " %u\n", LSN_ARGS(at), timeline));
}

static void
set_up(Run *run)
{
    *run = (Run){.script = WIRE_SCRIPT_INIT, .recording = RECORDING_INIT, .err = ERROR_INIT};
    assert_true(stop_init(&run->stop, &run->err));
    atomic_init(&run->mark.lsn, 0);
    run->config = (WalReceiverConfig){
        .start = START,
        .timeline = 1,
        .segment_size = (uint32_t)MB,
        .stop = &run->stop,
        .observer = {.timeline_switched = see_switched, .ctx = &run->seen},
    };
}

static Conn *
connect_to(Run *run)
{
    const ConnConfig config = {.conninfo = wire_server_conninfo(run->server),
                               .progname = "test",
                               .prompt = PASSWORD_NEVER,
                               .stop = &run->stop};

    return conn_open(&config, &run->err);
}

static Sink *
make_chain(Run *run)
{
    Sink *sink = recorder_new(&run->recording, &run->err);

    if (!run->with_handoff)
        return sink;
    run->handoff.while_full = wal_receiver_while_full;
    run->handoff.ctx = &run->receiver;
    run->config.handoff = handoff_new(sink, &run->handoff, &run->err);
    return run->config.handoff;
}

/* The server plays the script; the receiver is made. */
static void
prepare(Run *run)
{
    const WireServerConfig server = {
        .scripts = &run->script, .script_count = 1, .chunk = run->chunk};

    run->server = wire_server_start(&server);
    run->config.conn = connect_to(run);
    if (run->config.conn == NULL)
        fail_msg("%s", run->err.message);
    run->config.sink = make_chain(run);
    run->receiver = wal_receiver_new(&run->config, &run->err);
    assert_non_null(run->receiver);
}

static void
run_thread(void *arg)
{
    Run *run = arg;

    run->result = wal_receiver_run(run->receiver, &run->err);
}

static void
start(Run *run)
{
    prepare(run);
    assert_true(thread_start(&run->thread, run_thread, run, &run->err));
}

/* All in one. */
static void
play(Run *run)
{
    prepare(run);
    run->result = wal_receiver_run(run->receiver, &run->err);
}

/* Frees the receiver; what the server saw can be read afterwards. */
static void
end_server(Run *run)
{
    wal_receiver_free(run->receiver);
    run->receiver = NULL;
    assert_string_equal(wire_server_stop(run->server), "");
}

static void
tear_down(Run *run)
{
    thread_join(&run->thread);
    end_server(run);
    assert_int_equal(run->recording.released, 1);
    wire_server_free(run->server);
    wire_script_free(&run->script);
    recording_free(&run->recording);
    buf_free(&run->seen);
    stop_destroy(&run->stop);
}

static void
pause_ms(int64_t ms)
{
    const struct timespec time = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};

    (void)nanosleep(&time, NULL);
}

/* Wait until the receiver is there. */
static void
await_position(Run *run, Lsn position)
{
    for (int i = 0; i < 2000 && wal_receiver_position(run->receiver) < position; i++)
        pause_ms(5);
    assert_int_equal(wal_receiver_position(run->receiver), position);
}

/* ---- what came of it ---- */

/* The recording without the times of the entries, which are now. */
static const char *
events(Run *run)
{
    static char text[4096];
    const char *from = recording_text(&run->recording);
    size_t len = 0;

    while (*from != '\0' && len + 1 < sizeof text) {
        if (strncmp(from, " mtime=", 7) == 0)
            from += strcspn(from, "\n");
        else
            text[len++] = *from++;
    }
    text[len] = '\0';
    return text;
}

/* The recorder's line for WAL from `lsn` on. */
static const char *
data_line(TimeLineID timeline, Lsn lsn, size_t len)
{
    static char lines[4][64];
    static size_t next;
    char *line = lines[next++ % COUNT(lines)];
    uint32_t crc = 0;

    for (size_t i = 0; i < len; i++) {
        uint8_t byte = wal_byte(timeline, lsn + i);

        crc = crc32c(crc, &byte, 1);
    }
    (void)snprintf(line, sizeof lines[0], "data %zu crc=%08X\n", len, crc);
    return line;
}

static void PRINTF_LIKE(2, 3) assert_events(Run *run, const char *fmt, ...)
{
    char expected[4096];
    va_list args;

    va_start(args, fmt);
    (void)vsnprintf(expected, sizeof expected, fmt, args);
    va_end(args);
    assert_string_equal(events(run), expected);
}

static void
assert_failed(Run *run, ErrorCode code, const char *message)
{
    assert_int_equal(run->result, WAL_RUN_FAILED);
    assert_string_equal(run->err.message, message);
    assert_int_equal(run->err.code, code);
    assert_false(run->recording.finished);
    assert_int_equal(run->recording.released, 1);
}

typedef struct Status {
    Lsn written;
    Lsn flushed;
    bool asks; /* for an answer */
} Status;

/* The n-th status message that the server got; after end_server. */
static Status
status(Run *run, size_t n)
{
    Span message = wire_server_copy_data(run->server, n);
    Reader reader = reader_of(message);
    Status status;

    assert_int_equal(message.len, STATUS_MESSAGE_SIZE);
    assert_int_equal(read_u8(&reader), 'r');
    status.written = read_be64(&reader);
    status.flushed = read_be64(&reader);
    assert_int_equal(read_be64(&reader), 0); /* applied: we apply nothing */
    assert_true(read_be64(&reader) > 0);
    status.asks = read_u8(&reader) == 1;
    return status;
}

static size_t
status_count(Run *run)
{
    size_t count = 0;

    while (wire_server_copy_data(run->server, count).len > 0)
        count++;
    return count;
}

static void
assert_status(Run *run, size_t n, Lsn written, Lsn flushed)
{
    Status got = status(run, n);

    assert_int_equal(got.written, written);
    assert_int_equal(got.flushed, flushed);
    assert_false(got.asks);
}

/* ---- reaching the end ---- */

/* Messages that end anywhere, delivered in pieces of any size. */
static void
test_reaches_the_end(void **state)
{
    static const struct {
        size_t message;
        size_t chunk;
    } cases[] = {{131072, 0}, {100000, 4096}, {8192, 1000}, {3 * 1024 * 1024, 65536}};
    const uint64_t len = 2 * MB + 5000;

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        Run run;
        Buf *out;

        set_up(&run);
        run.chunk = cases[i].chunk;
        run.config.stop_at = START + len;
        out = wire_stream(&run.script, "START_REPLICATION 0/1000000 TIMELINE 1");
        for (uint64_t at = 0; at < len; at += cases[i].message) {
            size_t part = len - at < cases[i].message ? (size_t)(len - at) : cases[i].message;

            put_wal(out, 1, START + at, part);
            put_keepalive(out, START + at + part, false);
        }
        wire_stream_end(&run.script);
        play(&run);
        assert_int_equal(run.result, WAL_RUN_REACHED);
        assert_int_equal(wal_receiver_position(run.receiver), START + len);
        assert_int_equal(wal_receiver_timeline(run.receiver), 1);
        assert_events(&run,
                      "archive pg_wal 0\n"
                      "file 000000010000000000000010 size=1048576 mode=0600\n%send complete\n"
                      "file 000000010000000000000011 size=1048576 mode=0600\n%send complete\n"
                      "file 000000010000000000000012 size=1048576 mode=0600\n%send cut short\n"
                      "archive end\nfinish\n",
                      data_line(1, START, MB), data_line(1, START + MB, MB),
                      data_line(1, START + 2 * MB, 5000));
        /* Nobody asked: there is one status, at the end. */
        end_server(&run);
        assert_int_equal(status_count(&run), 1);
        assert_status(&run, 0, START + len, 0);
        tear_down(&run);
    }
}

/* What is behind the end LSN in the same message belongs to the segment nevertheless; what comes
 * later is read off and dropped. */
static void
test_reads_off_what_follows(void **state)
{
    Run run;
    Buf *out;

    (void)state;
    set_up(&run);
    run.config.stop_at = START + 100;
    out = wire_stream(&run.script, "START_REPLICATION 0/1000000 TIMELINE 1");
    put_wal(out, 1, START, 99);
    put_wal(out, 1, START + 99, 200);
    for (size_t i = 0; i < 50; i++)
        put_wal(out, 1, START + 299 + i * 10, 10);
    put_keepalive(out, START, true);
    wire_stream_end(&run.script);
    play(&run);
    assert_int_equal(run.result, WAL_RUN_REACHED);
    assert_events(&run,
                  "archive pg_wal 0\nfile 000000010000000000000010 size=1048576 mode=0600\n"
                  "%send cut short\narchive end\nfinish\n",
                  data_line(1, START, 299));
    end_server(&run);
    assert_string_equal(wire_server_query(run.server, 0), "START_REPLICATION 0/1000000 TIMELINE 1");
    assert_null(wire_server_query(run.server, 1));
    /* The last word before CopyDone. */
    assert_int_equal(status_count(&run), 1);
    assert_status(&run, 0, START + 299, 0);
    tear_down(&run);
}

static void
test_end_at_a_segments_end(void **state)
{
    Run run;

    (void)state;
    set_up(&run);
    run.config.stop_at = START + MB;
    put_wal(wire_stream(&run.script, "START_REPLICATION 0/1000000 TIMELINE 1"), 1, START, MB);
    wire_stream_end(&run.script);
    play(&run);
    assert_int_equal(run.result, WAL_RUN_REACHED);
    assert_events(&run,
                  "archive pg_wal 0\nfile 000000010000000000000010 size=1048576 mode=0600\n"
                  "%send complete\narchive end\nfinish\n",
                  data_line(1, START, MB));
    tear_down(&run);
}

/* Nothing to receive: the server is not even asked. */
static void
test_end_is_the_start(void **state)
{
    Run run;

    (void)state;
    set_up(&run);
    run.config.stop_at = START;
    play(&run);
    assert_int_equal(run.result, WAL_RUN_REACHED);
    assert_events(&run, "archive pg_wal 0\narchive end\nfinish\n");
    tear_down(&run);
}

/* The end becomes known while the receiver waits: passed already, or still to come. */
static void
test_end_becomes_known(void **state)
{
    static const Lsn ends[] = {START + 1, START + 1000, START + 1500};

    (void)state;
    for (size_t i = 0; i < COUNT(ends); i++) {
        Stop more;
        Run run;
        int64_t began;

        set_up(&run);
        assert_true(stop_init(&more, &run.err));
        put_wal(wire_stream(&run.script, "START_REPLICATION 0/1000000 TIMELINE 1"), 1, START, 1000);
        if (ends[i] > START + 1000) {
            wire_stall(&run.script, &more);
            put_wal(wire_send(&run.script), 1, START + 1000, 500);
        }
        wire_stream_end(&run.script);
        start(&run);
        await_position(&run, START + 1000);
        began = clock_ms();
        wal_receiver_stop_at(run.receiver, ends[i]);
        if (ends[i] > START + 1000) {
            clock_t cpu = clock();

            /* Woken once: it does not spin. */
            pause_ms(300);
            assert_true(clock() - cpu < CLOCKS_PER_SEC / 5);
            assert_int_equal(wal_receiver_position(run.receiver), START + 1000);
            stop_request(&more);
        }
        thread_join(&run.thread);
        /* Woken, not found out at the next heartbeat. */
        assert_true(clock_ms() - began < 800);
        assert_int_equal(run.result, WAL_RUN_REACHED);
        assert_true(run.recording.finished);
        assert_int_equal(wal_receiver_position(run.receiver),
                         ends[i] > START + 1000 ? START + 1500 : START + 1000);
        tear_down(&run);
        stop_destroy(&more);
    }
}

/* Everything is here: that the server breaks off afterwards changes nothing. */
static void
test_server_gone_after_the_end(void **state)
{
    Run run;

    (void)state;
    set_up(&run);
    run.config.stop_at = START + 64;
    put_wal(wire_stream(&run.script, "START_REPLICATION 0/1000000 TIMELINE 1"), 1, START, 64);
    wire_step(&run.script, WIRE_CLOSE);
    play(&run);
    assert_int_equal(run.result, WAL_RUN_REACHED);
    assert_true(run.recording.finished);
    tear_down(&run);
}

static void
test_slot(void **state)
{
    char slot[] = "my\"slot";
    Run run;

    (void)state;
    set_up(&run);
    run.config.stop_at = START + 64;
    run.config.slot = slot;
    put_wal(wire_stream(&run.script, "START_REPLICATION SLOT \"my\"\"slot\" 0/1000000 TIMELINE 1"),
            1, START, 64);
    wire_stream_end(&run.script);
    prepare(&run);
    memset(slot, 'x', sizeof slot - 1); /* it was copied */
    run.result = wal_receiver_run(run.receiver, &run.err);
    assert_int_equal(run.result, WAL_RUN_REACHED);
    tear_down(&run);
}

/* ---- stopping ---- */

static void
test_stop(void **state)
{
    Run run;

    (void)state;
    set_up(&run);
    put_wal(wire_stream(&run.script, "START_REPLICATION 0/1000000 TIMELINE 1"), 1, START, 777);
    wire_stream_end(&run.script);
    start(&run);
    await_position(&run, START + 777);
    stop_request(&run.stop);
    thread_join(&run.thread);
    assert_int_equal(run.result, WAL_RUN_STOPPED);
    assert_events(&run,
                  "archive pg_wal 0\nfile 000000010000000000000010 size=1048576 mode=0600\n"
                  "%send cut short\narchive end\nfinish\n",
                  data_line(1, START, 777));
    end_server(&run);
    assert_int_equal(status_count(&run), 1);
    assert_status(&run, 0, START + 777, 0);
    tear_down(&run);
}

static void
test_stop_before_the_start(void **state)
{
    Run run;

    (void)state;
    set_up(&run);
    prepare(&run);
    stop_request(&run.stop);
    run.result = wal_receiver_run(run.receiver, &run.err);
    assert_int_equal(run.result, WAL_RUN_STOPPED);
    assert_events(&run, "archive pg_wal 0\narchive end\nfinish\n");
    tear_down(&run);
}

/* The server does not answer a command. */
static void
test_stop_during_a_command(void **state)
{
    Run run;

    (void)state;
    set_up(&run);
    wire_expect(&run.script, "START_REPLICATION 0/1000000 TIMELINE 1");
    wire_stall(&run.script, NULL);
    start(&run);
    pause_ms(100);
    stop_request(&run.stop);
    thread_join(&run.thread);
    assert_int_equal(run.result, WAL_RUN_STOPPED);
    assert_events(&run, "archive pg_wal 0\narchive end\nfinish\n");
    tear_down(&run);
}

/* The server does not end its side: it gets some seconds. */
static void
test_stop_with_a_silent_server(void **state)
{
    Run run;
    int64_t began;

    (void)state;
    set_up(&run);
    put_wal(wire_stream(&run.script, "START_REPLICATION 0/1000000 TIMELINE 1"), 1, START, 777);
    wire_stall(&run.script, NULL);
    start(&run);
    await_position(&run, START + 777);
    began = clock_ms();
    stop_request(&run.stop);
    thread_join(&run.thread);
    assert_int_equal(run.result, WAL_RUN_STOPPED);
    assert_true(run.recording.finished);
    assert_in_range(clock_ms() - began, 4900, 7000);
    tear_down(&run);
}

/* The end was reached and the server is silent: a stop ends that wait. */
static void
test_stop_while_ending(void **state)
{
    Run run;
    int64_t began;

    (void)state;
    set_up(&run);
    run.config.stop_at = START + 777;
    put_wal(wire_stream(&run.script, "START_REPLICATION 0/1000000 TIMELINE 1"), 1, START, 777);
    wire_stall(&run.script, NULL);
    start(&run);
    await_position(&run, START + 777);
    pause_ms(200);
    began = clock_ms();
    stop_request(&run.stop);
    thread_join(&run.thread);
    assert_true(clock_ms() - began < 2000);
    assert_int_equal(run.result, WAL_RUN_REACHED);
    assert_true(run.recording.finished);
    tear_down(&run);
}

/* ---- timelines ---- */

#define HISTORY_2 "1\t0/1000200\tno recovery target specified\n"
#define HISTORY_5 HISTORY_2 "2\t0/1000210\tx\n"

static void
test_switch(void **state)
{
    Run run;
    Buf *out;

    (void)state;
    set_up(&run);
    run.config.stop_at = START + 0x500;
    /* The server had sent more than the new timeline has in common. */
    out = wire_stream(&run.script, "START_REPLICATION 0/1000000 TIMELINE 1");
    put_wal(out, 1, START, 0x210);
    script_switch(&run.script, "2", "0/1000200");
    wire_answer(&run.script, "TIMELINE_HISTORY 2", ROW("00000002.history", HISTORY_2));
    out = wire_stream(&run.script, "START_REPLICATION 0/1000000 TIMELINE 2");
    put_wal(out, 2, START, 0x500);
    wire_stream_end(&run.script);
    play(&run);
    assert_int_equal(run.result, WAL_RUN_REACHED);
    assert_int_equal(wal_receiver_timeline(run.receiver), 2);
    assert_int_equal(wal_receiver_position(run.receiver), START + 0x500);
    assert_events(&run,
                  "archive pg_wal 0\n"
                  "file 000000010000000000000010 size=1048576 mode=0600\n%send cut short\n"
                  "file 00000002.history size=%zu mode=0600\ndata %zu crc=%08X\nend complete\n"
                  "file 000000020000000000000010 size=1048576 mode=0600\n%send cut short\n"
                  "archive end\nfinish\n",
                  data_line(1, START, 0x210), strlen(HISTORY_2), strlen(HISTORY_2),
                  crc32c(0, HISTORY_2, strlen(HISTORY_2)), data_line(2, START, 0x500));
    assert_string_equal(buf_text(&run.seen), "switched 0/1000200 2\n");
    tear_down(&run);
}

/* Not the next number, and exactly at the end of a segment: nothing is cut short. */
static void
test_switch_between_segments(void **state)
{
    Run run;
    Buf *out;

    (void)state;
    set_up(&run);
    run.config.stop_at = START + MB + 10;
    out = wire_stream(&run.script, "START_REPLICATION 0/1000000 TIMELINE 1");
    put_wal(out, 1, START, MB);
    script_switch(&run.script, "5", "0/1100000");
    wire_answer(&run.script, "TIMELINE_HISTORY 5", ROW("00000005.history", HISTORY_5));
    out = wire_stream(&run.script, "START_REPLICATION 0/1100000 TIMELINE 5");
    put_wal(out, 5, START + MB, 10);
    wire_stream_end(&run.script);
    play(&run);
    assert_int_equal(run.result, WAL_RUN_REACHED);
    assert_events(&run,
                  "archive pg_wal 0\n"
                  "file 000000010000000000000010 size=1048576 mode=0600\n%send complete\n"
                  "file 00000005.history size=%zu mode=0600\ndata %zu crc=%08X\nend complete\n"
                  "file 000000050000000000000011 size=1048576 mode=0600\n%send cut short\n"
                  "archive end\nfinish\n",
                  data_line(1, START, MB), strlen(HISTORY_5), strlen(HISTORY_5),
                  crc32c(0, HISTORY_5, strlen(HISTORY_5)), data_line(5, START + MB, 10));
    assert_string_equal(buf_text(&run.seen), "switched 0/1100000 5\n");
    tear_down(&run);
}

/* The start is beyond the fork: the server answers with the next timeline at once. The way back may
 * be long: several segments. */
static void
test_switch_without_a_stream(void **state)
{
    Run run;
    Buf *out;

    (void)state;
    set_up(&run);
    run.config.start = START + 3 * MB;
    /* The position that counts is the new timeline's. */
    run.config.stop_at = START + 4 * MB;
    wire_expect(&run.script, "START_REPLICATION 0/1300000 TIMELINE 1");
    put_next_timeline(wire_send(&run.script), "2", "0/1000200");
    wire_answer(&run.script, "TIMELINE_HISTORY 2", ROW("00000002.history", HISTORY_2));
    out = wire_stream(&run.script, "START_REPLICATION 0/1000000 TIMELINE 2");
    for (uint64_t at = 0; at < 4; at++)
        put_wal(out, 2, START + at * MB, MB);
    wire_stream_end(&run.script);
    play(&run);
    assert_int_equal(run.result, WAL_RUN_REACHED);
    assert_int_equal(wal_receiver_position(run.receiver), START + 4 * MB);
    assert_string_equal(buf_text(&run.seen), "switched 0/1000200 2\n");
    tear_down(&run);
}

/* Every timeline but the first has a history, fetched once. */
static void
test_start_on_a_later_timeline(void **state)
{
    Run run;

    (void)state;
    set_up(&run);
    run.config.timeline = 5;
    run.config.stop_at = START + 10;
    wire_answer(&run.script, "TIMELINE_HISTORY 5", ROW("00000005.history", HISTORY_5));
    put_wal(wire_stream(&run.script, "START_REPLICATION 0/1000000 TIMELINE 5"), 5, START, 10);
    wire_stream_end(&run.script);
    play(&run);
    assert_int_equal(run.result, WAL_RUN_REACHED);
    assert_events(&run,
                  "archive pg_wal 0\n"
                  "file 00000005.history size=%zu mode=0600\ndata %zu crc=%08X\nend complete\n"
                  "file 000000050000000000000010 size=1048576 mode=0600\n%send cut short\n"
                  "archive end\nfinish\n",
                  strlen(HISTORY_5), strlen(HISTORY_5), crc32c(0, HISTORY_5, strlen(HISTORY_5)),
                  data_line(5, START, 10));
    tear_down(&run);
}

static void
test_history_is_missing(void **state)
{
    Run run;
    Buf *out;

    (void)state;
    set_up(&run);
    run.config.timeline = 5;
    wire_expect(&run.script, "TIMELINE_HISTORY 5");
    out = wire_send(&run.script);
    wire_error(out, "ERROR", "58P01", "could not open file \"pg_wal/00000005.history\"");
    wire_ready(out);
    play(&run);
    assert_int_equal(run.result, WAL_RUN_FAILED);
    assert_int_equal(run.err.code, ERR_SERVER);
    assert_string_equal(run.err.sqlstate, "58P01");
    assert_events(&run, "archive pg_wal 0\n");
    tear_down(&run);
}

static void
test_impossible_switches(void **state)
{
    static const struct {
        const char *timeline;
        const char *start;
        const char *message;
    } cases[] = {
        {"3", "0/1000100", "server reported unexpected next timeline 3, following timeline 3"},
        {"2", "0/1000100", "server reported unexpected next timeline 2, following timeline 3"},
        {"4", "0/1000201",
         "server stopped streaming timeline 3 at 0/1000200, but reported next timeline 4 to begin "
         "at 0/1000201"},
        {"4", "1/0",
         "server stopped streaming timeline 3 at 0/1000200, but reported next timeline 4 to begin "
         "at 1/0"},
    };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        Run run;

        set_up(&run);
        run.config.timeline = 3;
        wire_answer(&run.script, "TIMELINE_HISTORY 3", ROW("00000003.history", HISTORY_5));
        put_wal(wire_stream(&run.script, "START_REPLICATION 0/1000000 TIMELINE 3"), 3, START,
                0x200);
        script_switch(&run.script, cases[i].timeline, cases[i].start);
        play(&run);
        assert_failed(&run, ERR_PROTOCOL, cases[i].message);
        assert_string_equal(buf_text(&run.seen), "");
        tear_down(&run);
    }
}

/* ---- servers that break off ---- */

/* A controlled shutdown completes the command without CopyDone. */
static void
test_server_shuts_down(void **state)
{
    Run run;
    Buf *out;

    (void)state;
    set_up(&run);
    out = wire_stream(&run.script, "START_REPLICATION 0/1000000 TIMELINE 1");
    put_wal(out, 1, START, 100);
    wire_complete(out, "COPY 0");
    wire_step(&run.script, WIRE_CLOSE);
    play(&run);
    assert_failed(&run, ERR_CONNECTION, "replication stream was terminated before stop point");
    assert_int_equal(run.recording.bytes.len, 100);
    tear_down(&run);
}

/* The same, after all that was wanted has come. */
static void
test_server_shuts_down_behind_the_end(void **state)
{
    Run run;
    Buf *out;

    (void)state;
    set_up(&run);
    run.config.stop_at = START + 100;
    out = wire_stream(&run.script, "START_REPLICATION 0/1000000 TIMELINE 1");
    put_wal(out, 1, START, 100);
    wire_complete(out, "COPY 0");
    wire_step(&run.script, WIRE_CLOSE);
    play(&run);
    assert_int_equal(run.result, WAL_RUN_REACHED);
    assert_true(run.recording.finished);
    tear_down(&run);
}

/* The server ends the stream, and while its last words are awaited we hear that we want no more. */
static void
test_server_shuts_down_as_we_do(void **state)
{
    static const WalRunResult results[] = {WAL_RUN_STOPPED, WAL_RUN_REACHED};

    (void)state;
    for (size_t i = 0; i < COUNT(results); i++) {
        Stop more;
        Run run;
        Buf *out;

        set_up(&run);
        assert_true(stop_init(&more, &run.err));
        out = wire_stream(&run.script, "START_REPLICATION 0/1000000 TIMELINE 1");
        put_wal(out, 1, START, 100);
        wire_complete(out, "COPY 0");
        wire_stall(&run.script, &more);
        wire_ready(wire_send(&run.script));
        start(&run);
        await_position(&run, START + 100);
        pause_ms(200);
        if (results[i] == WAL_RUN_STOPPED)
            stop_request(&run.stop);
        else
            wal_receiver_stop_at(run.receiver, START + 50);
        stop_request(&more);
        thread_join(&run.thread);
        assert_int_equal(run.result, results[i]);
        assert_true(run.recording.finished);
        tear_down(&run);
        stop_destroy(&more);
    }
}

static void
test_server_errors(void **state)
{
    Run run;
    Buf *out;

    (void)state;
    set_up(&run);
    wire_expect(&run.script, "START_REPLICATION 0/1000000 TIMELINE 1");
    out = wire_send(&run.script);
    wire_error(out, "ERROR", "42704", "replication slot \"x\" does not exist");
    wire_ready(out);
    play(&run);
    assert_int_equal(run.result, WAL_RUN_FAILED);
    assert_int_equal(run.err.code, ERR_SERVER);
    assert_string_equal(run.err.sqlstate, "42704");
    tear_down(&run);

    set_up(&run);
    out = wire_stream(&run.script, "START_REPLICATION 0/1000000 TIMELINE 1");
    put_wal(out, 1, START, 100);
    wire_error(out, "ERROR", "58P01",
               "requested WAL segment 000000010000000000000010 has already been removed");
    wire_ready(out);
    play(&run);
    assert_int_equal(run.result, WAL_RUN_FAILED);
    assert_int_equal(run.err.code, ERR_SERVER);
    assert_string_equal(run.err.sqlstate, "58P01");
    assert_non_null(strstr(run.err.message, "has already been removed"));
    assert_false(run.recording.finished);
    tear_down(&run);
}

static void
test_messages_that_are_none(void **state)
{
    static const struct {
        const char *bytes;
        size_t len;
    } cases[] = {{"x", 1}, {"w2345678", 8}, {"k", 1}, {"k23456789012345678x", 19}};

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        Run run;
        Buf *out;

        set_up(&run);
        out = wire_stream(&run.script, "START_REPLICATION 0/1000000 TIMELINE 1");
        wire_copy_data(out, cases[i].bytes, cases[i].len);
        play(&run);
        assert_int_equal(run.result, WAL_RUN_FAILED);
        assert_int_equal(run.err.code, ERR_PROTOCOL);
        assert_events(&run, "archive pg_wal 0\n");
        tear_down(&run);
    }
}

static void
test_wal_in_the_wrong_place(void **state)
{
    Run run;
    Buf *out;

    (void)state;
    set_up(&run);
    out = wire_stream(&run.script, "START_REPLICATION 0/1000000 TIMELINE 1");
    put_wal(out, 1, START, 100);
    put_wal(out, 1, START + 101, 100);
    play(&run);
    assert_failed(&run, ERR_PROTOCOL, "got WAL data at 0/1000065, expected 0/1000064");
    assert_int_equal(run.recording.bytes.len, 100);
    tear_down(&run);
}

/* The connection is cut after every byte that the server sends: the run ends, with everything or
 * with one error. */
static void
test_cut_everywhere(void **state)
{
    Run first;
    WireServerConfig server = {.script_count = 1, .repeat = true};
    Buf *out;
    size_t reached = 0;
    int64_t cut = 0;

    (void)state;
    set_up(&first);
    out = wire_stream(&first.script, "START_REPLICATION 0/1000000 TIMELINE 1");
    put_wal(out, 1, START, 20);
    script_switch(&first.script, "2", "0/1000008");
    wire_answer(&first.script, "TIMELINE_HISTORY 2", ROW("00000002.history", "1\t0/1000008\t\n"));
    out = wire_stream(&first.script, "START_REPLICATION 0/1000000 TIMELINE 2");
    put_keepalive(out, START, true);
    wire_step(&first.script, WIRE_COPY_DATA);
    put_wal(wire_send(&first.script), 2, START, 30);
    wire_stream_end(&first.script);
    server.scripts = &first.script;
    first.server = wire_server_start(&server);

    for (; reached < 30; cut++) {
        Run run;

        set_up(&run);
        run.server = first.server;
        run.config.stop_at = START + 30;
        wire_server_cut(run.server, cut);
        run.config.conn = connect_to(&run);
        if (run.config.conn != NULL) {
            run.config.sink = make_chain(&run);
            run.receiver = wal_receiver_new(&run.config, &run.err);
            assert_non_null(run.receiver);
            run.result = wal_receiver_run(run.receiver, &run.err);
            assert_int_equal(run.recording.finished, run.result == WAL_RUN_REACHED);
            assert_int_equal(wal_receiver_timeline(run.receiver) == 2 &&
                                 wal_receiver_position(run.receiver) == START + 30,
                             run.result == WAL_RUN_REACHED);
            assert_int_equal(run.recording.released, 1);
            wal_receiver_free(run.receiver);
        }
        if (run.config.conn != NULL && run.result == WAL_RUN_REACHED) {
            reached++;
        } else {
            assert_int_equal(reached, 0);
            assert_int_equal(run.err.code, ERR_CONNECTION);
            assert_true(run.err.message[0] != '\0');
        }
        recording_free(&run.recording);
        buf_free(&run.seen);
        stop_destroy(&run.stop);
    }
    assert_true(cut > 400);
    assert_string_equal(wire_server_stop(first.server), "");
    wire_server_free(first.server);
    wire_script_free(&first.script);
    stop_destroy(&first.stop);
}

/* An archive keeps what came before the server was lost, synced, and the failure is reported. */
static void
test_keeps_what_was_received(void **state)
{
    static const bool with_handoff[] = {false, true};

    (void)state;
    for (size_t i = 0; i < COUNT(with_handoff); i++) {
        Run run;
        Buf *out;

        set_up(&run);
        run.with_handoff = with_handoff[i];
        run.config.on_failure = WAL_FAILURE_KEEP;
        out = wire_stream(&run.script, "START_REPLICATION 0/1000000 TIMELINE 1");
        put_wal(out, 1, START, 100);
        put_wal(out, 1, START + 100, 300000);
        wire_step(&run.script, WIRE_CLOSE);
        play(&run);
        assert_int_equal(run.result, WAL_RUN_FAILED);
        assert_int_equal(run.err.code, ERR_CONNECTION);
        assert_events(&run,
                      "archive pg_wal 0\nfile 000000010000000000000010 size=1048576 mode=0600\n"
                      "%send cut short\narchive end\nfinish\n",
                      data_line(1, START, 300100));
        tear_down(&run);
    }
}

/* But not when the sink itself has failed, and its failure is the one that is told. */
static void
test_keeps_nothing_in_a_dead_sink(void **state)
{
    Run run;

    (void)state;
    set_up(&run);
    run.config.on_failure = WAL_FAILURE_KEEP;
    run.recording.fail_at = 3;
    put_wal(wire_stream(&run.script, "START_REPLICATION 0/1000000 TIMELINE 1"), 1, START, 100);
    wire_stall(&run.script, NULL);
    play(&run);
    assert_int_equal(run.result, WAL_RUN_FAILED);
    assert_int_equal(run.err.sys_errno, EIO);
    assert_int_equal(run.recording.events, 3);
    assert_false(run.recording.finished);
    tear_down(&run);
}

/* ---- sinks that fail ---- */

static void
test_each_event_fails(void **state)
{
    bool ok = false;
    size_t fail_at = 0;

    (void)state;
    while (!ok) {
        Run run;
        Buf *out;

        set_up(&run);
        run.config.stop_at = START + 30;
        run.config.durable = &run.mark;
        run.recording.fail_at = ++fail_at;
        out = wire_stream(&run.script, "START_REPLICATION 0/1000000 TIMELINE 1");
        put_wal(out, 1, START, 20);
        put_keepalive(out, START + 20, true);
        script_switch(&run.script, "2", "0/1000008");
        wire_answer(&run.script, "TIMELINE_HISTORY 2", ROW("00000002.history", "1\t0/8\t\n"));
        put_wal(wire_stream(&run.script, "START_REPLICATION 0/1000000 TIMELINE 2"), 2, START, 30);
        wire_stream_end(&run.script);
        play(&run);
        ok = run.result == WAL_RUN_REACHED;
        if (!ok) {
            assert_int_equal(run.result, WAL_RUN_FAILED);
            assert_int_equal(run.err.code, ERR_SYSTEM);
            assert_int_equal(run.err.sys_errno, EIO);
            assert_int_equal(run.recording.events, fail_at);
        }
        assert_int_equal(run.recording.finished, ok);
        tear_down(&run);
    }
    /* archive 2, first segment 4 with the flush, history 3, second segment 3 */
    assert_int_equal(fail_at - 1, 12);
}

static void
test_finish_fails(void **state)
{
    Run run;

    (void)state;
    set_up(&run);
    run.config.stop_at = START + 10;
    run.recording.fail_finish = true;
    put_wal(wire_stream(&run.script, "START_REPLICATION 0/1000000 TIMELINE 1"), 1, START, 10);
    wire_stream_end(&run.script);
    play(&run);
    assert_int_equal(run.result, WAL_RUN_FAILED);
    assert_int_equal(run.err.sys_errno, EIO);
    tear_down(&run);
}

/* The disk fails in its own thread while the server has nothing to say. */
static void
test_handoff_fails_while_idle(void **state)
{
    Run run;
    int64_t began;

    (void)state;
    set_up(&run);
    run.with_handoff = true;
    run.recording.fail_at = 3;
    put_wal(wire_stream(&run.script, "START_REPLICATION 0/1000000 TIMELINE 1"), 1, START, 10);
    wire_stall(&run.script, NULL);
    began = clock_ms();
    play(&run);
    assert_true(clock_ms() - began < 3000);
    assert_int_equal(run.result, WAL_RUN_FAILED);
    assert_int_equal(run.err.sys_errno, EIO);
    tear_down(&run);
}

/* What has come is with the next thread before the receiver waits. */
static void
test_publishes_before_it_waits(void **state)
{
    static const size_t len = 100;
    Stop more;
    Run run;

    (void)state;
    set_up(&run);
    assert_true(stop_init(&more, &run.err));
    run.with_handoff = true;
    run.config.stop_at = START + 2 * len;
    put_wal(wire_stream(&run.script, "START_REPLICATION 0/1000000 TIMELINE 1"), 1, START, len);
    wire_stall(&run.script, &more);
    put_wal(wire_send(&run.script), 1, START + len, len);
    wire_stream_end(&run.script);
    start(&run);
    await_position(&run, START + len);
    pause_ms(200);
    stop_request(&more);
    thread_join(&run.thread);
    assert_int_equal(run.result, WAL_RUN_REACHED);
    /* Two pieces: what came first was not kept back until more came. */
    assert_int_equal(run.recording.data_events, 2);
    tear_down(&run);
    stop_destroy(&more);
}

/* ---- going on with what is on disk ---- */

#define PARTIAL "000000010000000000000010.partial"

/* A partial segment with `records` of 1000 bytes in it, and how far they are intact. */
static WalTail *
make_tail(TempDir *dir, WalBuilder *wal, size_t records, Lsn *ret_end)
{
    const WalResumeConfig config = {.directory = dir->path, .segment_size = (uint32_t)MB};
    Error err = ERROR_INIT;
    WalResume resume;
    WalTail *tail;
    Span segment;

    wal_builder_init(wal, &(WalBuilderConfig){.magic = 0xD118,
                                              .timeline = 1,
                                              .system_id = 7,
                                              .segment_size = (uint32_t)MB,
                                              .start = START});
    for (size_t i = 0; i < records; i++)
        (void)wal_builder_record(wal, 10, 0, 1000);
    *ret_end = wal->end;
    wal_builder_zero(wal, START + MB);
    segment = wal_builder_span(wal, START, START + MB);
    temp_dir_write(dir, PARTIAL, segment.data, segment.len);
    if (!wal_resume_find(&config, &resume, &tail, &err))
        fail_msg("%s", err.message);
    assert_true(resume.found);
    assert_int_equal(resume.start, START);
    assert_int_equal(resume.end, *ret_end);
    return tail;
}

/* What is there goes the way of what is received, and the server is asked for what follows. */
static void
test_goes_on_behind_a_tail(void **state)
{
    char command[80];
    WalBuilder wal;
    TempDir dir;
    Run run;
    Lsn end;

    (void)state;
    temp_dir_make(&dir);
    set_up(&run);
    run.config.tail = make_tail(&dir, &wal, 100, &end);
    run.config.stop_at = end + 50;
    (void)snprintf(command, sizeof command, "START_REPLICATION " LSN_FORMAT " TIMELINE 1",
                   LSN_ARGS(end));
    put_wal(wire_stream(&run.script, command), 1, end, 50);
    wire_stream_end(&run.script);
    play(&run);
    if (run.result != WAL_RUN_REACHED)
        fail_msg("%s", run.err.message);
    assert_int_equal(wal_receiver_position(run.receiver), end + 50);
    (void)snprintf(command, sizeof command,
                   "data %llu crc=", (unsigned long long)(end + 50 - START));
    assert_non_null(strstr(events(&run), command));
    tear_down(&run);
    wal_builder_free(&wal);
    temp_dir_remove(&dir);
}

/* The end may lie within what is there: then nothing is asked of the server. */
static void
test_tail_reaches_the_end(void **state)
{
    WalBuilder wal;
    TempDir dir;
    Run run;
    Lsn end;

    (void)state;
    temp_dir_make(&dir);
    set_up(&run);
    run.config.tail = make_tail(&dir, &wal, 100, &end);
    run.config.stop_at = START + 1;
    play(&run);
    assert_int_equal(run.result, WAL_RUN_REACHED);
    assert_int_equal(wal_receiver_position(run.receiver), end);
    tear_down(&run);
    wal_builder_free(&wal);
    temp_dir_remove(&dir);
}

/* The tail belongs to the receiver, also when that cannot be made; a file that has changed since
 * ends the run before the server is asked for anything. */
static void
test_tail_that_changed(void **state)
{
    WalBuilder wal;
    TempDir dir;
    Span segment;
    Run run;
    Lsn end;

    (void)state;
    temp_dir_make(&dir);
    set_up(&run);
    run.config.tail = make_tail(&dir, &wal, 900, &end);
    wal_builder_free(&wal);
    assert_null(wal_receiver_new(&run.config, &run.err)); /* no connection */
    run.config.tail = make_tail(&dir, &wal, 900, &end);
    *wal_builder_at(&wal, START + 5000) ^= 1;
    segment = wal_builder_span(&wal, START, START + MB);
    temp_dir_write(&dir, PARTIAL, segment.data, segment.len);
    play(&run);
    assert_int_equal(run.result, WAL_RUN_FAILED);
    assert_int_equal(run.err.code, ERR_FORMAT);
    tear_down(&run);
    wal_builder_free(&wal);
    temp_dir_remove(&dir);
}

/* ---- status ---- */

static bool
advance_at_flush(void *ctx, const Event *event, Error *err)
{
    (void)err;
    if (event != NULL && event->kind == EVENT_FLUSH)
        durable_mark_advance(ctx, event->mark);
    return true;
}

static bool
advance_slowly(void *ctx, const Event *event, Error *err)
{
    if (event != NULL && event->kind == EVENT_FLUSH)
        pause_ms(300);
    return advance_at_flush(ctx, event, err);
}

static bool
advance_at_end(void *ctx, const Event *event, Error *err)
{
    (void)err;
    if (event != NULL && event->kind == EVENT_ENTRY_END)
        durable_mark_advance(ctx, START + MB);
    return true;
}

/* Nobody tells what is durable: nothing is flushed for the server, and nothing is claimed. */
static void
test_reply_without_durability(void **state)
{
    Run run;
    Buf *out;

    (void)state;
    set_up(&run);
    run.config.stop_at = START + 200;
    out = wire_stream(&run.script, "START_REPLICATION 0/1000000 TIMELINE 1");
    put_keepalive(out, START, true);
    wire_step(&run.script, WIRE_COPY_DATA);
    out = wire_send(&run.script);
    put_wal(out, 1, START, 100);
    put_keepalive(out, START + 100, true);
    wire_step(&run.script, WIRE_COPY_DATA);
    put_wal(wire_send(&run.script), 1, START + 100, 100);
    wire_stream_end(&run.script);
    play(&run);
    assert_int_equal(run.result, WAL_RUN_REACHED);
    assert_null(strstr(events(&run), "flush"));
    end_server(&run);
    assert_int_equal(status_count(&run), 3);
    assert_status(&run, 0, START, 0);
    assert_status(&run, 1, START + 100, 0);
    assert_status(&run, 2, START + 200, 0);
    tear_down(&run);
}

/* The server asks: what has come is flushed, and the reply says what the sink confirmed. */
static void
test_reply_flushes(void **state)
{
    Run run;
    Buf *out;

    (void)state;
    set_up(&run);
    run.config.stop_at = START + 200;
    run.config.durable = &run.mark;
    run.recording.hook = advance_at_flush;
    run.recording.ctx = &run.mark;
    out = wire_stream(&run.script, "START_REPLICATION 0/1000000 TIMELINE 1");
    put_wal(out, 1, START, 100);
    put_keepalive(out, START + 100, true);
    wire_step(&run.script, WIRE_COPY_DATA);
    /* All is flushed: asking again changes nothing. */
    put_keepalive(wire_send(&run.script), START + 100, true);
    wire_step(&run.script, WIRE_COPY_DATA);
    put_wal(wire_send(&run.script), 1, START + 100, 100);
    wire_stream_end(&run.script);
    play(&run);
    assert_int_equal(run.result, WAL_RUN_REACHED);
    assert_events(&run,
                  "archive pg_wal 0\nfile 000000010000000000000010 size=1048576 mode=0600\n"
                  "%sflush 0/1000064\n%send cut short\narchive end\nfinish\n",
                  data_line(1, START, 100), data_line(1, START + 100, 100));
    end_server(&run);
    assert_int_equal(status_count(&run), 3);
    assert_status(&run, 0, START + 100, START + 100);
    assert_status(&run, 1, START + 100, START + 100);
    assert_status(&run, 2, START + 200, START + 100);
    tear_down(&run);
}

/* The disk takes its time in its own thread: the truth at once, the flush as soon as it is true. */
static void
test_reply_before_the_flush(void **state)
{
    Run run;
    Buf *out;
    int64_t began;

    (void)state;
    set_up(&run);
    run.with_handoff = true;
    run.config.stop_at = START + 200;
    run.config.durable = &run.mark;
    run.recording.hook = advance_slowly;
    run.recording.ctx = &run.mark;
    out = wire_stream(&run.script, "START_REPLICATION 0/1000000 TIMELINE 1");
    put_wal(out, 1, START, 100);
    put_keepalive(out, START + 100, true);
    put_keepalive(out, START + 100, true);
    wire_step(&run.script, WIRE_COPY_DATA);
    wire_step(&run.script, WIRE_COPY_DATA);
    wire_step(&run.script, WIRE_COPY_DATA);
    put_wal(wire_send(&run.script), 1, START + 100, 100);
    wire_stream_end(&run.script);
    began = clock_ms();
    play(&run);
    assert_int_equal(run.result, WAL_RUN_REACHED);
    assert_in_range(clock_ms() - began, 300, 900); /* sooner than the heartbeat */
    end_server(&run);
    assert_int_equal(status_count(&run), 4);
    assert_status(&run, 0, START + 100, 0);
    assert_status(&run, 1, START + 100, 0);
    assert_status(&run, 2, START + 100, START + 100);
    /* One flush for two requests. */
    assert_null(strstr(strstr(events(&run), "flush") + 1, "flush"));
    tear_down(&run);
}

static void
test_status_interval(void **state)
{
    Run run;
    int64_t began;

    (void)state;
    set_up(&run);
    run.config.status_interval_ms = 150;
    run.config.stop_at = START + 100;
    (void)wire_stream(&run.script, "START_REPLICATION 0/1000000 TIMELINE 1");
    for (size_t i = 0; i < 4; i++)
        wire_step(&run.script, WIRE_COPY_DATA);
    put_wal(wire_send(&run.script), 1, START, 100);
    wire_stream_end(&run.script);
    began = clock_ms();
    play(&run);
    assert_int_equal(run.result, WAL_RUN_REACHED);
    /* The first at once, then three intervals. */
    assert_in_range(clock_ms() - began, 450, 5000);
    end_server(&run);
    assert_int_equal(status_count(&run), 5);
    for (size_t i = 0; i < 4; i++)
        assert_status(&run, i, START, 0);
    assert_status(&run, 4, START + 100, 0);
    tear_down(&run);
}

/* The mark moves with a complete segment: the server hears of it long before the interval. */
static void
test_status_when_the_mark_moves(void **state)
{
    Run run;
    int64_t began;

    (void)state;
    set_up(&run);
    run.config.status_interval_ms = 60000;
    run.config.stop_at = START + MB + 100;
    run.config.durable = &run.mark;
    run.recording.hook = advance_at_end;
    run.recording.ctx = &run.mark;
    (void)wire_stream(&run.script, "START_REPLICATION 0/1000000 TIMELINE 1");
    wire_step(&run.script, WIRE_COPY_DATA);
    put_wal(wire_send(&run.script), 1, START, MB);
    wire_step(&run.script, WIRE_COPY_DATA);
    put_wal(wire_send(&run.script), 1, START + MB, 100);
    wire_stream_end(&run.script);
    began = clock_ms();
    play(&run);
    assert_int_equal(run.result, WAL_RUN_REACHED);
    assert_true(clock_ms() - began < 3000);
    end_server(&run);
    assert_status(&run, 0, START, 0);
    assert_status(&run, 1, START + MB, START + MB);
    tear_down(&run);
}

/* Synchronous: what comes while a flush is under way is flushed together, and the server hears of
 * each flush at once. */
static void
test_flushes_at_once(void **state)
{
    Run run;
    const char *text;
    size_t flushes = 0;

    (void)state;
    set_up(&run);
    run.with_handoff = true;
    run.config.flush_lag_ms = WAL_FLUSH_AT_ONCE;
    run.config.stop_at = START + 600;
    run.config.durable = &run.mark;
    run.recording.hook = advance_slowly;
    run.recording.ctx = &run.mark;
    put_wal(wire_stream(&run.script, "START_REPLICATION 0/1000000 TIMELINE 1"), 1, START, 100);
    wire_step(&run.script, WIRE_COPY_DATA); /* 0 */
    for (Lsn at = 100; at < 500; at += 100)
        put_wal(wire_send(&run.script), 1, START + at, 100);
    wire_step(&run.script, WIRE_COPY_DATA); /* 1 */
    put_wal(wire_send(&run.script), 1, START + 500, 100);
    wire_stream_end(&run.script);
    play(&run);
    assert_int_equal(run.result, WAL_RUN_REACHED);
    for (text = events(&run); (text = strstr(text, "flush ")) != NULL; text++)
        flushes++;
    /* One, then one or two for the four messages, then perhaps one for the end. */
    assert_in_range(flushes, 2, 4);
    end_server(&run);
    assert_status(&run, 0, START + 100, START + 100);
    assert_true(status(&run, 1).flushed > START + 100);
    tear_down(&run);
}

/* Otherwise what was received is flushed when it is old enough, whatever the server says. */
static void
test_flushes_what_is_old(void **state)
{
    Run run;
    int64_t began;

    (void)state;
    set_up(&run);
    run.config.flush_lag_ms = 200;
    run.config.stop_at = START + 200;
    run.config.durable = &run.mark;
    run.recording.hook = advance_at_flush;
    run.recording.ctx = &run.mark;
    put_wal(wire_stream(&run.script, "START_REPLICATION 0/1000000 TIMELINE 1"), 1, START, 100);
    wire_step(&run.script, WIRE_COPY_DATA);
    put_wal(wire_send(&run.script), 1, START + 100, 100);
    wire_stream_end(&run.script);
    began = clock_ms();
    play(&run);
    assert_int_equal(run.result, WAL_RUN_REACHED);
    assert_in_range(clock_ms() - began, 200, 5000);
    end_server(&run);
    assert_status(&run, 0, START + 100, START + 100);
    tear_down(&run);
}

/* What is written and what is flushed are told apart. */
static void
test_written_is_what_the_sink_says(void **state)
{
    DurableMark written = {.lsn = START + 50};
    Run run;
    Buf *out;

    (void)state;
    set_up(&run);
    run.config.stop_at = START + 200;
    run.config.written = &written;
    out = wire_stream(&run.script, "START_REPLICATION 0/1000000 TIMELINE 1");
    put_wal(out, 1, START, 100);
    put_keepalive(out, START + 170, true);
    wire_step(&run.script, WIRE_COPY_DATA);
    put_wal(wire_send(&run.script), 1, START + 100, 100);
    wire_stream_end(&run.script);
    play(&run);
    assert_int_equal(run.result, WAL_RUN_REACHED);
    assert_int_equal(wal_receiver_view(run.receiver).received, START + 200);
    assert_int_equal(wal_receiver_view(run.receiver).written, START + 50);
    assert_int_equal(wal_receiver_view(run.receiver).flushed, 0);
    assert_int_equal(wal_receiver_view(run.receiver).timeline, 1);
    assert_true(wal_receiver_view(run.receiver).server_end >= START + 170);
    assert_true(wal_receiver_view(run.receiver).heard_ms > 0);
    assert_true(wal_receiver_view(run.receiver).beats > 3);
    assert_false(wal_receiver_view(run.receiver).streaming);
    end_server(&run);
    assert_status(&run, 0, START + 50, 0);
    tear_down(&run);
}

/* A server that says nothing is asked to, and given up when it does not. */
static void
test_silence(void **state)
{
    Run run;
    int64_t began;

    (void)state;
    set_up(&run);
    run.config.silence_limit_ms = 500;
    put_wal(wire_stream(&run.script, "START_REPLICATION 0/1000000 TIMELINE 1"), 1, START, 100);
    wire_step(&run.script, WIRE_COPY_DATA);
    put_keepalive(wire_send(&run.script), START + 100, false);
    wire_stall(&run.script, NULL);
    began = clock_ms();
    play(&run);
    assert_failed(&run, ERR_CONNECTION, "the server has said nothing for 0.5 seconds");
    assert_in_range(clock_ms() - began, 750, 5000);
    end_server(&run);
    assert_true(status(&run, 0).asks);
    tear_down(&run);
}

/* What was durable on the old timeline, in this run or before it, is not claimed for the new
 * one. */
static void
check_flushed_after_a_switch(Lsn before)
{
    Run run;
    Buf *out;

    set_up(&run);
    durable_mark_advance(&run.mark, before);
    run.config.stop_at = START + 0x600;
    run.config.durable = &run.mark;
    run.recording.hook = advance_at_flush;
    run.recording.ctx = &run.mark;
    out = wire_stream(&run.script, "START_REPLICATION 0/1000000 TIMELINE 1");
    put_wal(out, 1, START, 0x400);
    put_keepalive(out, START + 0x400, true);
    wire_step(&run.script, WIRE_COPY_DATA); /* 0 */
    script_switch(&run.script, "2", "0/1000200");
    wire_answer(&run.script, "TIMELINE_HISTORY 2", ROW("00000002.history", HISTORY_2));
    out = wire_stream(&run.script, "START_REPLICATION 0/1000000 TIMELINE 2");
    put_wal(out, 2, START, 0x300);
    put_keepalive(out, START + 0x300, true);
    wire_step(&run.script, WIRE_COPY_DATA); /* 1 */
    out = wire_send(&run.script);
    put_wal(out, 2, START + 0x300, 0x200);
    put_keepalive(out, START + 0x500, true);
    wire_step(&run.script, WIRE_COPY_DATA); /* 2 */
    put_wal(wire_send(&run.script), 2, START + 0x500, 0x100);
    wire_stream_end(&run.script);
    play(&run);
    assert_int_equal(run.result, WAL_RUN_REACHED);
    end_server(&run);
    assert_status(&run, 0, START + 0x400, before > START + 0x400 ? before : START + 0x400);
    assert_status(&run, 1, START + 0x300, START);
    assert_status(&run, 2, START + 0x500, before > START + 0x500 ? START : START + 0x500);
    tear_down(&run);
}

static void
test_flushed_after_a_switch(void **state)
{
    (void)state;
    check_flushed_after_a_switch(0);
    check_flushed_after_a_switch(START);
    check_flushed_after_a_switch(START + 0x480);
    check_flushed_after_a_switch(START + 0x580);
}

/* The same while the old timeline's flush is still under way at the switch. */
static void
test_flush_comes_through_after_a_switch(void **state)
{
    Stop ask;
    Run run;
    Buf *out;

    (void)state;
    set_up(&run);
    assert_true(stop_init(&ask, &run.err));
    run.with_handoff = true;
    run.config.stop_at = START + 0x600;
    run.config.durable = &run.mark;
    run.recording.hook = advance_slowly;
    run.recording.ctx = &run.mark;
    out = wire_stream(&run.script, "START_REPLICATION 0/1000000 TIMELINE 1");
    put_wal(out, 1, START, 0x400);
    put_keepalive(out, START + 0x400, true);
    wire_step(&run.script, WIRE_COPY_DATA); /* 0 */
    script_switch(&run.script, "2", "0/1000200");
    wire_answer(&run.script, "TIMELINE_HISTORY 2", ROW("00000002.history", HISTORY_2));
    out = wire_stream(&run.script, "START_REPLICATION 0/1000000 TIMELINE 2");
    put_wal(out, 2, START, 0x300);
    wire_stall(&run.script, &ask);
    put_keepalive(wire_send(&run.script), START + 0x300, true);
    wire_step(&run.script, WIRE_COPY_DATA); /* 1 */
    put_wal(wire_send(&run.script), 2, START + 0x300, 0x300);
    wire_stream_end(&run.script);
    start(&run);
    for (int i = 0; i < 2000 && durable_mark_get(&run.mark) == 0; i++)
        pause_ms(5);
    assert_int_equal(durable_mark_get(&run.mark), START + 0x400);
    await_position(&run, START + 0x300);
    stop_request(&ask);
    thread_join(&run.thread);
    assert_int_equal(run.result, WAL_RUN_REACHED);
    end_server(&run);
    assert_status(&run, 0, START + 0x400, 0);
    assert_status(&run, 1, START + 0x300, START);
    tear_down(&run);
    stop_destroy(&ask);
}

/* The first bytes take the sink longer than two calls of while_full. */
static bool
block_once(void *ctx, const Event *event, Error *err)
{
    bool *blocked = ctx;

    (void)err;
    if (event != NULL && event->kind == EVENT_DATA && !*blocked) {
        *blocked = true;
        pause_ms(2500);
    }
    return true;
}

/* The disk is stuck and the ring is full: the server hears of us nevertheless. */
static void
test_status_while_full(void **state)
{
    Run run;
    bool blocked = false;
    size_t at_start = 0;

    (void)state;
    set_up(&run);
    run.with_handoff = true;
    run.handoff.block_size = 4096;
    run.handoff.block_count = 2;
    run.recording.hook = block_once;
    run.recording.ctx = &blocked;
    run.config.status_interval_ms = 100;
    run.config.stop_at = START + 100000;
    put_wal(wire_stream(&run.script, "START_REPLICATION 0/1000000 TIMELINE 1"), 1, START, 100000);
    wire_stream_end(&run.script);
    play(&run);
    assert_int_equal(run.result, WAL_RUN_REACHED);
    assert_true(blocked);
    assert_int_equal(run.recording.bytes.len, 100000);
    end_server(&run);
    for (size_t i = 0; i < status_count(&run); i++)
        at_start += status(&run, i).written == START;
    /* The first one, and at least two while the only message was stuck. */
    assert_in_range(at_start, 3, 5);
    tear_down(&run);
}

static bool
finish_slowly(void *ctx, const Event *event, Error *err)
{
    (void)ctx;
    (void)err;
    if (event == NULL)
        pause_ms(1500);
    return true;
}

/* The disk takes long at the very end: the stream is over, there is nobody to send status to. */
static void
test_slow_finish(void **state)
{
    Run run;

    (void)state;
    set_up(&run);
    run.with_handoff = true;
    run.recording.hook = finish_slowly;
    run.config.status_interval_ms = 100;
    run.config.stop_at = START + 100;
    put_wal(wire_stream(&run.script, "START_REPLICATION 0/1000000 TIMELINE 1"), 1, START, 100);
    wire_stream_end(&run.script);
    play(&run);
    assert_int_equal(run.result, WAL_RUN_REACHED);
    assert_true(run.recording.finished);
    tear_down(&run);
}

/* Called too early or too late, the callback does nothing. */
static void
test_while_full_without_a_stream(void **state)
{
    WalReceiver *none = NULL;
    Run run;

    (void)state;
    set_up(&run);
    assert_true(wal_receiver_while_full(&none, &run.err));
    run.config.stop_at = START;
    run.config.status_interval_ms = 1;
    prepare(&run);
    assert_true(wal_receiver_while_full(&run.receiver, &run.err));
    run.result = wal_receiver_run(run.receiver, &run.err);
    assert_int_equal(run.result, WAL_RUN_REACHED);
    assert_true(wal_receiver_while_full(&run.receiver, &run.err));
    tear_down(&run);
}

/* ---- making ---- */

static void
test_configurations(void **state)
{
    static const struct {
        Lsn start;
        TimeLineID timeline;
        uint32_t segment_size;
        const char *message;
    } cases[] = {
        {START + 8192, 1, 1024 * 1024, "0/1002000 is not the beginning of a WAL segment"},
        {START, 0, 1024 * 1024, "there is no timeline 0"},
        {START, 1, 1000000, "1000000 is no WAL segment size"},
    };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        Run run;

        set_up(&run);
        run.server =
            wire_server_start(&(WireServerConfig){.scripts = &run.script, .script_count = 1});
        run.config.start = cases[i].start;
        run.config.timeline = cases[i].timeline;
        run.config.segment_size = cases[i].segment_size;
        run.config.conn = connect_to(&run);
        run.config.sink = make_chain(&run);
        assert_null(wal_receiver_new(&run.config, &run.err));
        assert_int_equal(run.err.code, ERR_BUG);
        assert_string_equal(run.err.message, cases[i].message);
        tear_down(&run);
    }
}

/* Like a stage: NULL in, NULL out, the error of whoever failed stays, the rest is freed. */
static void
test_parts_are_missing(void **state)
{
    Run run;

    (void)state;
    set_up(&run);
    run.server = wire_server_start(&(WireServerConfig){.scripts = &run.script, .script_count = 1});
    (void)error_set(&run.err, ERR_SYSTEM, "no disk");
    run.config.conn = NULL;
    run.config.sink = make_chain(&run);
    assert_null(wal_receiver_new(&run.config, &run.err));
    assert_string_equal(run.err.message, "no disk");
    assert_int_equal(run.recording.released, 1);

    run.config.conn = connect_to(&run);
    assert_non_null(run.config.conn);
    run.config.sink = NULL;
    assert_null(wal_receiver_new(&run.config, &run.err));
    assert_string_equal(run.err.message, "no disk");
    wal_receiver_free(NULL);
    tear_down(&run);
}

static void
test_never_run(void **state)
{
    Run run;

    (void)state;
    set_up(&run);
    prepare(&run);
    assert_int_equal(wal_receiver_position(run.receiver), START);
    assert_int_equal(wal_receiver_timeline(run.receiver), 1);
    wal_receiver_stop_at(run.receiver, START + 1);
    tear_down(&run);
}

static void
test_runs_once(void **state)
{
    Run run;

    (void)state;
    set_up(&run);
    run.config.stop_at = START;
    play(&run);
    assert_int_equal(run.result, WAL_RUN_REACHED);
    assert_int_equal(wal_receiver_run(run.receiver, &run.err), WAL_RUN_FAILED);
    assert_int_equal(run.err.code, ERR_BUG);
    tear_down(&run);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reaches_the_end),
        cmocka_unit_test(test_reads_off_what_follows),
        cmocka_unit_test(test_end_at_a_segments_end),
        cmocka_unit_test(test_end_is_the_start),
        cmocka_unit_test(test_end_becomes_known),
        cmocka_unit_test(test_server_gone_after_the_end),
        cmocka_unit_test(test_slot),
        cmocka_unit_test(test_stop),
        cmocka_unit_test(test_stop_before_the_start),
        cmocka_unit_test(test_stop_during_a_command),
        cmocka_unit_test(test_stop_with_a_silent_server),
        cmocka_unit_test(test_stop_while_ending),
        cmocka_unit_test(test_switch),
        cmocka_unit_test(test_switch_between_segments),
        cmocka_unit_test(test_switch_without_a_stream),
        cmocka_unit_test(test_start_on_a_later_timeline),
        cmocka_unit_test(test_history_is_missing),
        cmocka_unit_test(test_impossible_switches),
        cmocka_unit_test(test_server_shuts_down),
        cmocka_unit_test(test_server_shuts_down_behind_the_end),
        cmocka_unit_test(test_server_shuts_down_as_we_do),
        cmocka_unit_test(test_server_errors),
        cmocka_unit_test(test_messages_that_are_none),
        cmocka_unit_test(test_wal_in_the_wrong_place),
        cmocka_unit_test(test_cut_everywhere),
        cmocka_unit_test(test_keeps_what_was_received),
        cmocka_unit_test(test_keeps_nothing_in_a_dead_sink),
        cmocka_unit_test(test_each_event_fails),
        cmocka_unit_test(test_finish_fails),
        cmocka_unit_test(test_handoff_fails_while_idle),
        cmocka_unit_test(test_publishes_before_it_waits),
        cmocka_unit_test(test_reply_without_durability),
        cmocka_unit_test(test_reply_flushes),
        cmocka_unit_test(test_reply_before_the_flush),
        cmocka_unit_test(test_status_interval),
        cmocka_unit_test(test_status_when_the_mark_moves),
        cmocka_unit_test(test_goes_on_behind_a_tail),
        cmocka_unit_test(test_tail_reaches_the_end),
        cmocka_unit_test(test_tail_that_changed),
        cmocka_unit_test(test_flushes_at_once),
        cmocka_unit_test(test_flushes_what_is_old),
        cmocka_unit_test(test_written_is_what_the_sink_says),
        cmocka_unit_test(test_silence),
        cmocka_unit_test(test_flushed_after_a_switch),
        cmocka_unit_test(test_flush_comes_through_after_a_switch),
        cmocka_unit_test(test_status_while_full),
        cmocka_unit_test(test_slow_finish),
        cmocka_unit_test(test_while_full_without_a_stream),
        cmocka_unit_test(test_configurations),
        cmocka_unit_test(test_parts_are_missing),
        cmocka_unit_test(test_never_run),
        cmocka_unit_test(test_runs_once),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
