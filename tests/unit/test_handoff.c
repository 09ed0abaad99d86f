/*
 * handoff: the same events in the same order on another thread, back-pressure, errors that come
 * back, and an end in every state. Whoever has to wait here waits for a condition, never for a
 * time.
 */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "common/runtime.h"
#include "stream/stage.h"
#include "support/chunker.h"
#include "support/huge_allocation.h"
#include "support/recorder.h"
#include "support/tar_builder.h"

static const Archive base = {.name = "base.tar"};
static const HandoffConfig usual = {.block_size = 0};
static const HandoffConfig tiny = {.block_size = 1, .block_count = 1}; /* raised to 256 bytes */

/* ---- a gate in the consumer's way ---- */

typedef struct Gate {
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    bool open;
    size_t arrived;    /* events that came to the gate */
    size_t full_calls; /* of while_full */
    bool fail_full;    /* while_full fails instead of opening */
    bool at_finish;    /* events pass, finish waits */
    pthread_t thread;  /* that came last */
} Gate;

static void
gate_init(Gate *gate)
{
    *gate = (Gate){.open = false};
    (void)pthread_mutex_init(&gate->mutex, NULL);
    (void)pthread_cond_init(&gate->changed, NULL);
}

static void
gate_destroy(Gate *gate)
{
    (void)pthread_cond_destroy(&gate->changed);
    (void)pthread_mutex_destroy(&gate->mutex);
}

static void
gate_open(Gate *gate)
{
    (void)pthread_mutex_lock(&gate->mutex);
    gate->open = true;
    (void)pthread_cond_broadcast(&gate->changed);
    (void)pthread_mutex_unlock(&gate->mutex);
}

/* Until `count` events have come to the gate, whether they may pass or not. */
static void
gate_await_arrival(Gate *gate, size_t count)
{
    (void)pthread_mutex_lock(&gate->mutex);
    while (gate->arrived < count)
        (void)pthread_cond_wait(&gate->changed, &gate->mutex);
    (void)pthread_mutex_unlock(&gate->mutex);
}

static size_t
gate_arrived(Gate *gate)
{
    size_t arrived;

    (void)pthread_mutex_lock(&gate->mutex);
    arrived = gate->arrived;
    (void)pthread_mutex_unlock(&gate->mutex);
    return arrived;
}

/* The recorder's hook. */
static bool
gate_pass(void *ctx, const Event *event, Error *err)
{
    Gate *gate = ctx;

    (void)err;
    (void)pthread_mutex_lock(&gate->mutex);
    gate->arrived++;
    gate->thread = pthread_self();
    (void)pthread_cond_broadcast(&gate->changed);
    while (!gate->open && (event == NULL || !gate->at_finish))
        (void)pthread_cond_wait(&gate->changed, &gate->mutex);
    (void)pthread_mutex_unlock(&gate->mutex);
    return true;
}

/* The handoff's while_full. */
static bool
gate_full(void *ctx, Error *err)
{
    Gate *gate = ctx;

    gate->full_calls++;
    if (gate->fail_full)
        return error_set(err, ERR_CONNECTION, "could not send a status message");
    gate_open(gate);
    return true;
}

static HandoffConfig
tiny_with_gate(Gate *gate)
{
    HandoffConfig config = tiny;

    config.block_count = 2;
    config.while_full = gate_full;
    config.ctx = gate;
    return config;
}

/* ---- the same events ---- */

/* A stream with everything in it. */
static bool
push_all_kinds(Sink *sink, Error *err)
{
    char text[3000];
    uint8_t header[TAR_BUILDER_BLOCK];
    Entry file = {.kind = ENTRY_FILE,
                  .path = "base/5/1259",
                  .size = 3001,
                  .mode = 0600,
                  .mtime = 9,
                  .tar_header = header};
    Entry link = {.kind = ENTRY_SYMLINK, .path = "pg_tblspc/16385", .link_target = "/srv/ts"};
    Entry directory = {.kind = ENTRY_DIRECTORY, .path = "pg_wal", .mode = 0700, .mtime = -1};

    memset(text, 't', sizeof text);
    tar_build_header(header, &(TarMember){.name = "base/5/1259", .claim = 3001, .mtime = 9});
    if (!sink_archive_begin(sink, &base, err) || !sink_entry_begin(sink, &directory, err) ||
        !sink_entry_end(sink, true, err) || !sink_entry_begin(sink, &file, err))
        return false;
    if (!sink_data(sink, span_of("x"), err) ||
        !sink_data(sink, (Span){.data = (uint8_t *)text, .len = sizeof text}, err) ||
        !sink_entry_end(sink, false, err))
        return false;
    if (!sink_entry_begin(sink, &link, err) || !sink_entry_end(sink, true, err) ||
        !sink_flush(sink, 0x20000000A, err) || !sink_archive_end(sink, err))
        return false;
    return sink_archive_begin(sink,
                              &(Archive){.name = "16385.tar",
                                         .tablespace = 16385,
                                         .compressed_name = "16385.tar.gz"},
                              err) &&
           sink_data(sink, span_of("opaque"), err) && sink_archive_end(sink, err) &&
           sink_flush(sink, 3, err) && sink_finish(sink, err);
}

static void
test_same_events_with_and_without_a_thread(void **state)
{
    static const size_t sizes[] = {1, 256, 300, 512, 1000, 4096, 0};
    static const size_t counts[] = {1, 2, 3, 0};
    Recording direct = {.headers = true};
    Error err = ERROR_INIT;
    Sink *sink = recorder_new(&direct, &err);

    (void)state;
    assert_true(push_all_kinds(sink, &err));
    sink_free(sink);
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        for (size_t j = 0; j < sizeof counts / sizeof counts[0]; j++) {
            Recording recording = {.headers = true};
            HandoffConfig config = {.block_size = sizes[i], .block_count = counts[j]};

            sink = handoff_new(recorder_new(&recording, &err), &config, &err);
            assert_true(push_all_kinds(sink, &err));
            assert_true(recording.finished); /* before finish returned, not at free */
            assert_int_equal(recording.released, 0);
            sink_free(sink);
            assert_string_equal(recording_text(&recording), recording_text(&direct));
            assert_int_equal(recording.bytes.len, direct.bytes.len);
            assert_memory_equal(recording.bytes.data, direct.bytes.data, direct.bytes.len);
            assert_int_equal(recording.released, 1);
            recording_free(&recording);
        }
    }
    recording_free(&direct);
}

/* An archive that becomes many events, through the chain with cuts wherever one may be. */
static void
read_tar(Recording *recording, Span tar, unsigned cuts, const HandoffConfig *config)
{
    Error err = ERROR_INIT;
    Sink *sink = recorder_new(recording, &err);

    if ((cuts & 1) != 0)
        sink = handoff_new(sink, config, &err);
    sink = tar_reader_new(sink, TAR_END_REQUIRED, &err);
    if ((cuts & 2) != 0)
        sink = handoff_new(sink, config, &err);
    if ((cuts & 4) != 0)
        sink = handoff_new(sink, config, &err);
    assert_non_null(sink);
    assert_true(chunk_archive(sink, &base, tar, 700, &err));
    assert_true(sink_finish(sink, &err));
    sink_free(sink);
    assert_int_equal(recording->released, 1);
}

static void
test_any_placement_gives_the_same(void **state)
{
    Recording direct = {.headers = true};
    Buf tar = BUF_INIT;
    char content[2500];

    (void)state;
    memset(content, 'r', sizeof content);
    for (int i = 0; i < 50; i++) {
        char name[32];

        (void)snprintf(name, sizeof name, "base/5/%d", 1000 + i);
        tar_add(&tar, &(TarMember){.name = name, .data = content, .size = (size_t)i * 50});
    }
    tar_end(&tar);
    read_tar(&direct, tar_span(&tar), 0, NULL);
    for (unsigned cuts = 1; cuts < 8; cuts++) {
        Recording small = {.headers = true};
        Recording large = {.headers = true};

        read_tar(&small, tar_span(&tar), cuts, &tiny);
        read_tar(&large, tar_span(&tar), cuts, &usual);
        assert_string_equal(recording_text(&small), recording_text(&direct));
        assert_string_equal(recording_text(&large), recording_text(&direct));
        recording_free(&small);
        recording_free(&large);
    }
    recording_free(&direct);
    buf_free(&tar);
}

static void
test_small_data_is_merged(void **state)
{
    Recording recording = RECORDING_INIT;
    Error err = ERROR_INIT;
    HandoffConfig config = {.block_size = 4096};
    Sink *sink = handoff_new(recorder_new(&recording, &err), &config, &err);
    static uint8_t bytes[32768];

    (void)state;
    assert_true(sink_archive_begin(sink, &base, &err));
    assert_true(chunk_push(sink, (Span){.data = bytes, .len = sizeof bytes}, 10, &err));
    assert_true(sink_archive_end(sink, &err));
    assert_true(sink_finish(sink, &err));
    assert_int_equal(recording.bytes.len, sizeof bytes);
    assert_in_range(recording.data_events, 8, 10); /* of 3277 that were pushed */
    sink_free(sink);
    recording_free(&recording);
}

static void
test_data_does_not_merge_over_other_events(void **state)
{
    Recording recording = RECORDING_INIT;
    Error err = ERROR_INIT;
    Sink *sink = handoff_new(recorder_new(&recording, &err), &usual, &err);

    (void)state;
    assert_true(sink_archive_begin(sink, &base, &err));
    assert_true(sink_data(sink, span_of("a"), &err));
    assert_true(sink_flush(sink, 1, &err));
    assert_true(sink_data(sink, span_of("b"), &err));
    assert_true(sink_archive_end(sink, &err));
    assert_true(sink_archive_begin(sink, &base, &err));
    assert_true(sink_data(sink, span_of("c"), &err));
    assert_true(sink_archive_end(sink, &err));
    assert_true(sink_finish(sink, &err));
    assert_int_equal(recording.data_events, 3);
    sink_free(sink);
    recording_free(&recording);
}

static void
test_everything_pointed_to_is_copied(void **state)
{
    Recording recording = {.headers = true};
    Error err = ERROR_INIT;
    Sink *sink = handoff_new(recorder_new(&recording, &err), &usual, &err);
    uint8_t header[TAR_BUILDER_BLOCK] = "header";
    char name[] = "base.tar";
    char path[] = "pg_tblspc/1";
    char target[] = "/srv/ts";
    char data[] = "data";
    Archive archive = {.name = name};
    Entry entry = {.kind = ENTRY_SYMLINK, .path = path, .link_target = target, .mtime = 4};
    Entry file = {.kind = ENTRY_FILE, .path = path, .size = 4, .mtime = 5, .tar_header = header};

    (void)state;
    assert_true(sink_archive_begin(sink, &archive, &err));
    assert_true(sink_entry_begin(sink, &entry, &err));
    assert_true(sink_entry_end(sink, true, &err));
    assert_true(sink_entry_begin(sink, &file, &err));
    assert_true(sink_data(sink, span_of(data), &err));
    assert_true(sink_entry_end(sink, true, &err));
    memset(name, '#', sizeof name - 1);
    memset(path, '#', sizeof path - 1);
    memset(target, '#', sizeof target - 1);
    memset(data, '#', sizeof data - 1);
    memset(header, '#', sizeof header);
    archive.tablespace = 99;
    entry = (Entry){.kind = ENTRY_FILE, .path = NULL};
    file = entry;
    assert_true(sink_archive_end(sink, &err));
    assert_true(sink_finish(sink, &err));
    assert_string_equal(recording_text(&recording),
                        "archive base.tar 0\n"
                        "symlink pg_tblspc/1 -> /srv/ts size=0 mode=0000 mtime=4 header=none\n"
                        "end complete\n"
                        "file pg_tblspc/1 size=4 mode=0000 mtime=5 header=4AABCA10\n"
                        "data 4 crc=AED87DD1\n"
                        "end complete\n"
                        "archive end\n"
                        "finish\n");
    sink_free(sink);
    recording_free(&recording);
}

static void
test_names_longer_than_a_block(void **state)
{
    Recording recording = RECORDING_INIT;
    Error err = ERROR_INIT;
    Sink *sink = handoff_new(recorder_new(&recording, &err), &tiny, &err);
    char path[1001];
    char target[901];
    char expected[2100];

    (void)state;
    memset(path, 'p', 1000);
    path[1000] = '\0';
    memset(target, 't', 900);
    target[900] = '\0';
    assert_true(sink_archive_begin(sink, &(Archive){.name = path}, &err));
    assert_true(sink_entry_begin(
        sink, &(Entry){.kind = ENTRY_SYMLINK, .path = path, .link_target = target}, &err));
    assert_true(sink_entry_end(sink, true, &err));
    assert_true(sink_archive_end(sink, &err));
    assert_true(sink_finish(sink, &err));
    (void)snprintf(expected, sizeof expected, "symlink %s -> %s size", path, target);
    assert_non_null(strstr(recording_text(&recording), expected));
    sink_free(sink);
    recording_free(&recording);
}

/* ---- threads ---- */

static void
test_next_runs_in_another_thread(void **state)
{
    Recording recording = RECORDING_INIT;
    Error err = ERROR_INIT;
    Gate gate;
    Sink *sink;

    (void)state;
    gate_init(&gate);
    gate_open(&gate);
    recording.hook = gate_pass;
    recording.ctx = &gate;
    sink = handoff_new(recorder_new(&recording, &err), &usual, &err);
    assert_true(sink_flush(sink, 1, &err));
    gate_await_arrival(&gate, 1);
    assert_false(pthread_equal(gate.thread, pthread_self()));
    assert_true(sink_finish(sink, &err));
    assert_int_equal(gate_arrived(&gate), 2);
    assert_false(pthread_equal(gate.thread, pthread_self())); /* finish too */
    sink_free(sink);
    gate_destroy(&gate);
    recording_free(&recording);
}

static void
test_publish_and_flush_send_what_there_is(void **state)
{
    Recording recording = RECORDING_INIT;
    Error err = ERROR_INIT;
    Gate gate;
    Sink *sink;

    (void)state;
    gate_init(&gate);
    gate_open(&gate);
    recording.hook = gate_pass;
    recording.ctx = &gate;
    sink = handoff_new(recorder_new(&recording, &err), &usual, &err);
    assert_true(handoff_publish(sink, &err)); /* nothing to publish */
    assert_true(sink_archive_begin(sink, &base, &err));
    assert_int_equal(gate_arrived(&gate), 0); /* the block is not full */
    assert_true(handoff_publish(sink, &err));
    gate_await_arrival(&gate, 1);
    assert_true(handoff_publish(sink, &err));
    assert_true(sink_data(sink, span_of("x"), &err));
    assert_int_equal(gate_arrived(&gate), 1);
    assert_true(sink_flush(sink, 1, &err));
    gate_await_arrival(&gate, 3);
    assert_true(sink_archive_end(sink, &err));
    assert_true(sink_finish(sink, &err));
    assert_true(handoff_publish(sink, &err)); /* also after the end */
    sink_free(sink);
    gate_destroy(&gate);
    recording_free(&recording);
}

/* ---- back-pressure ---- */

/* Push flushes, a block each, until the ring of two is full: the worker has the first one. */
static void
fill_ring(Sink *sink, Gate *gate)
{
    Error err = ERROR_INIT;

    assert_true(sink_flush(sink, 1, &err));
    gate_await_arrival(gate, 1);
    assert_true(sink_flush(sink, 2, &err));
}

static void
test_full_ring_waits_and_calls_back(void **state)
{
    Recording recording = RECORDING_INIT;
    Error err = ERROR_INIT;
    Gate gate;
    HandoffConfig config;
    int64_t start;
    Sink *sink;

    (void)state;
    gate_init(&gate);
    recording.hook = gate_pass;
    recording.ctx = &gate;
    config = tiny_with_gate(&gate);
    sink = handoff_new(recorder_new(&recording, &err), &config, &err);
    fill_ring(sink, &gate);
    assert_true(handoff_publish(sink, &err)); /* publishing never waits */
    start = clock_ms();
    assert_true(sink_flush(sink, 3, &err)); /* waits until while_full opens the gate */
    assert_in_range(gate.full_calls, 1, 60);
    assert_in_range((uintmax_t)(clock_ms() - start), 990, 60000);
    assert_true(sink_finish(sink, &err));
    assert_string_equal(recording_text(&recording), "flush 0/1\nflush 0/2\nflush 0/3\nfinish\n");
    sink_free(sink);
    gate_destroy(&gate);
    recording_free(&recording);
}

static void
open_gate_thread(void *arg)
{
    gate_open(arg);
}

static void
test_full_ring_waits_without_callback(void **state)
{
    Recording recording = RECORDING_INIT;
    Error err = ERROR_INIT;
    HandoffConfig config = tiny;
    Thread opener = {.running = false};
    Gate gate;
    Sink *sink;

    (void)state;
    gate_init(&gate);
    recording.hook = gate_pass;
    recording.ctx = &gate;
    config.block_count = 2;
    sink = handoff_new(recorder_new(&recording, &err), &config, &err);
    fill_ring(sink, &gate);
    assert_true(thread_start(&opener, open_gate_thread, &gate, &err));
    for (Lsn lsn = 3; lsn < 50; lsn++)
        assert_true(sink_flush(sink, lsn, &err));
    thread_join(&opener);
    assert_true(sink_finish(sink, &err));
    assert_int_equal(recording.events, 49);
    sink_free(sink);
    gate_destroy(&gate);
    recording_free(&recording);
}

static void
test_failing_callback_fails_the_push(void **state)
{
    Recording recording = RECORDING_INIT;
    Error err = ERROR_INIT;
    Error again = ERROR_INIT;
    Gate gate;
    HandoffConfig config;
    Sink *sink;

    (void)state;
    gate_init(&gate);
    gate.fail_full = true;
    recording.hook = gate_pass;
    recording.ctx = &gate;
    config = tiny_with_gate(&gate);
    sink = handoff_new(recorder_new(&recording, &err), &config, &err);
    fill_ring(sink, &gate);
    assert_false(sink_flush(sink, 3, &err));
    assert_int_equal(err.code, ERR_CONNECTION);
    assert_string_equal(err.message, "could not send a status message");
    assert_false(handoff_failed(sink)); /* it was not `next` */
    assert_false(sink_finish(sink, &again));
    assert_string_equal(again.message, err.message);
    assert_false(handoff_publish(sink, &again));
    assert_string_equal(again.message, err.message);
    gate_open(&gate); /* the worker still waits there: free has to join it */
    sink_free(sink);
    assert_false(recording.finished);
    assert_int_equal(recording.released, 1);
    gate_destroy(&gate);
    recording_free(&recording);
}

static void
test_callback_goes_on_while_next_finishes(void **state)
{
    Recording recording = RECORDING_INIT;
    Error err = ERROR_INIT;
    Gate gate;
    HandoffConfig config;
    Sink *sink;

    (void)state;
    gate_init(&gate);
    gate.at_finish = true;
    recording.hook = gate_pass;
    recording.ctx = &gate;
    config = tiny_with_gate(&gate);
    sink = handoff_new(recorder_new(&recording, &err), &config, &err);
    assert_true(sink_flush(sink, 1, &err));
    assert_true(sink_finish(sink, &err));
    assert_in_range(gate.full_calls, 1, 60);
    assert_true(recording.finished);
    sink_free(sink);
    gate_destroy(&gate);
    recording_free(&recording);
}

static void
test_failing_callback_fails_finish(void **state)
{
    Recording recording = RECORDING_INIT;
    Error err = ERROR_INIT;
    Gate gate;
    HandoffConfig config;
    Sink *sink;

    (void)state;
    gate_init(&gate);
    gate.at_finish = true;
    gate.fail_full = true;
    recording.hook = gate_pass;
    recording.ctx = &gate;
    config = tiny_with_gate(&gate);
    sink = handoff_new(recorder_new(&recording, &err), &config, &err);
    assert_false(sink_finish(sink, &err));
    assert_int_equal(err.code, ERR_CONNECTION);
    gate_open(&gate);
    sink_free(sink);
    assert_int_equal(recording.released, 1);
    gate_destroy(&gate);
    recording_free(&recording);
}

/* ---- failures of next ---- */

static void
test_failure_at_every_event(void **state)
{
    (void)state;
    for (size_t n = 1; n <= 20; n++) {
        for (size_t size = 1; size <= 4096; size += 4095) {
            Recording recording = RECORDING_INIT;
            HandoffConfig config = {.block_size = size, .block_count = 1};
            Error err = ERROR_INIT;
            Error again = ERROR_INIT;
            Sink *sink;

            recording.fail_at = n;
            sink = handoff_new(recorder_new(&recording, &err), &config, &err);
            /* At the latest finish learns of it; with fewer events than n all is well. */
            if (push_all_kinds(sink, &err)) {
                assert_true(recording.finished);
                assert_true(recording.events < n);
                assert_false(handoff_failed(sink));
            } else {
                char message[64];

                (void)snprintf(message, sizeof message, "injected failure of event %zu: %s", n,
                               "Input/output error");
                assert_int_equal(err.code, ERR_SYSTEM);
                assert_int_equal(err.sys_errno, EIO);
                assert_string_equal(err.message, message);
                assert_true(handoff_failed(sink));
                assert_false(sink_flush(sink, 1, &again));
                assert_memory_equal(&again, &err, sizeof err);
            }
            sink_free(sink);
            assert_int_equal(recording.released, 1);
            recording_free(&recording);
        }
    }
}

static void
test_failure_of_finish(void **state)
{
    Recording recording = RECORDING_INIT;
    Error err = ERROR_INIT;
    Sink *sink = handoff_new(recorder_new(&recording, &err), &usual, &err);

    (void)state;
    recording.fail_finish = true; /* nothing is published: the worker does not look yet */
    assert_false(sink_finish(sink, &err));
    assert_int_equal(err.sys_errno, EIO);
    assert_string_equal(err.message, "injected failure of finish: Input/output error");
    assert_true(handoff_failed(sink));
    sink_free(sink);
    assert_int_equal(recording.released, 1);
    recording_free(&recording);
}

static void
test_idle_producer_learns_of_a_failure(void **state)
{
    Recording recording = RECORDING_INIT;
    Error err = ERROR_INIT;
    Sink *sink;

    (void)state;
    recording.fail_at = 1;
    sink = handoff_new(recorder_new(&recording, &err), &usual, &err);
    assert_true(sink_archive_begin(sink, &base, &err));
    assert_true(handoff_publish(sink, &err));
    while (!handoff_failed(sink))
        (void)sched_yield();
    assert_false(handoff_publish(sink, &err));
    assert_string_equal(err.message, "injected failure of event 1: Input/output error");
    err = ERROR_INIT;
    assert_false(sink_archive_end(sink, &err));
    assert_string_equal(err.message, "injected failure of event 1: Input/output error");
    assert_int_equal(recording.events, 1);
    sink_free(sink);
    recording_free(&recording);
}

static void
test_failure_wakes_a_waiting_producer(void **state)
{
    Recording recording = RECORDING_INIT;
    Error err = ERROR_INIT;
    HandoffConfig config = tiny;
    Sink *sink;
    bool ok = true;

    (void)state;
    recording.fail_at = 3;
    sink = handoff_new(recorder_new(&recording, &err), &config, &err);
    /* Without the wake-up this would never end. */
    for (Lsn lsn = 1; ok; lsn++)
        ok = sink_flush(sink, lsn, &err);
    assert_int_equal(err.sys_errno, EIO);
    assert_int_equal(recording.events, 3);
    sink_free(sink);
    recording_free(&recording);
}

static void
test_grammar_is_checked_before_the_ring(void **state)
{
    Recording recording = RECORDING_INIT;
    Error err = ERROR_INIT;
    Sink *sink = handoff_new(recorder_new(&recording, &err), &usual, &err);

    (void)state;
    assert_false(sink_entry_end(sink, true, &err));
    assert_int_equal(err.code, ERR_BUG);
    assert_string_equal(err.message,
                        "stage \"handoff\" got the end of an entry outside an archive");
    assert_false(handoff_publish(sink, &err));
    assert_int_equal(err.code, ERR_BUG);
    sink_free(sink);
    assert_int_equal(recording.events, 0);
    recording_free(&recording);
}

/* ---- ends ---- */

static void
test_freed_in_every_state(void **state)
{
    (void)state;
    for (size_t pushes = 0; pushes <= 12; pushes++) {
        Recording recording = RECORDING_INIT;
        HandoffConfig config = tiny;
        Error err = ERROR_INIT;
        Sink *sink;

        config.block_count = 3;
        sink = handoff_new(recorder_new(&recording, &err), &config, &err);
        if (pushes > 0)
            assert_true(sink_archive_begin(sink, &base, &err));
        for (size_t i = 1; i < pushes; i++)
            assert_true(sink_data(sink,
                                  span_of("some bytes, again and again, to fill blocks up "
                                          "so that some are published and some are not"),
                                  &err));
        sink_free(sink);
        assert_false(recording.finished);
        assert_int_equal(recording.released, 1);
        assert_true(recording.events <= pushes);
        recording_free(&recording);
    }
}

static void
test_abandoned_with_a_full_ring(void **state)
{
    Recording recording = RECORDING_INIT;
    Error err = ERROR_INIT;
    Thread opener = {.running = false};
    Gate gate;
    HandoffConfig config;
    Sink *sink;

    (void)state;
    gate_init(&gate);
    recording.hook = gate_pass;
    recording.ctx = &gate;
    config = tiny_with_gate(&gate);
    sink = handoff_new(recorder_new(&recording, &err), &config, &err);
    fill_ring(sink, &gate);
    assert_true(thread_start(&opener, open_gate_thread, &gate, &err));
    sink_free(sink); /* joins the worker, which is at the gate or on its way */
    thread_join(&opener);
    assert_false(recording.finished);
    assert_int_equal(recording.released, 1);
    gate_destroy(&gate);
    recording_free(&recording);
}

static void
test_constructor_owns_next_when_it_fails(void **state)
{
    Recording recording = RECORDING_INIT;
    Error err = ERROR_INIT;
    HandoffConfig huge_block = {.block_size = HUGE_ALLOCATION};
    HandoffConfig many_blocks = {.block_count = HUGE_ALLOCATION};

    (void)state;
    assert_null(handoff_new(recorder_new(&recording, &err), &huge_block, &err));
    assert_int_equal(err.code, ERR_MEMORY);
    assert_int_equal(recording.released, 1);
    err = ERROR_INIT;
    assert_null(handoff_new(recorder_new(&recording, &err), &many_blocks, &err));
    assert_int_equal(err.code, ERR_MEMORY);
    assert_int_equal(recording.released, 2);
    (void)error_set(&err, ERR_FORMAT, "of whoever failed before");
    assert_null(handoff_new(NULL, &usual, &err));
    assert_string_equal(err.message, "of whoever failed before");
    recording_free(&recording);
}

/* ---- the shortcut ---- */

/* Which thread each flush ran in, and how long the next one is to take. */
typedef struct Flushes {
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    size_t done;
    pthread_t thread;
    bool slow;
    bool fail;
} Flushes;

static bool
flushes_pass(void *ctx, const Event *event, Error *err)
{
    static const struct timespec slow = {.tv_nsec = 20 * 1000000};
    Flushes *flushes = ctx;
    bool ok = true;

    (void)pthread_mutex_lock(&flushes->mutex);
    if (event != NULL && event->kind == EVENT_FLUSH) {
        if (flushes->slow)
            (void)nanosleep(&slow, NULL);
        if (flushes->fail)
            ok = error_set_errno(err, EIO, "could not fsync");
        flushes->thread = pthread_self();
        flushes->done++;
        (void)pthread_cond_broadcast(&flushes->changed);
    }
    (void)pthread_mutex_unlock(&flushes->mutex);
    return ok;
}

/* Pushes a byte and a flush, as a receiver that waits for each; whether that ran in this thread. */
static bool
flush_and_wait(Sink *sink, Flushes *flushes, Error *err)
{
    bool here;
    size_t before;

    (void)pthread_mutex_lock(&flushes->mutex);
    before = flushes->done;
    (void)pthread_mutex_unlock(&flushes->mutex);
    assert_true(sink_data(sink, (Span){.data = (const uint8_t *)"x", .len = 1}, err));
    assert_true(sink_flush(sink, before + 1, err));
    (void)pthread_mutex_lock(&flushes->mutex);
    while (flushes->done == before)
        (void)pthread_cond_wait(&flushes->changed, &flushes->mutex);
    here = pthread_equal(flushes->thread, pthread_self()) != 0;
    (void)pthread_mutex_unlock(&flushes->mutex);
    return here;
}

/* How many flushes it takes until one runs in this thread; `limit` when none does. */
static size_t
flushes_until_here(Sink *sink, Flushes *flushes, size_t limit, Error *err)
{
    for (size_t i = 0; i < limit; i++) {
        if (flush_and_wait(sink, flushes, err))
            return i;
        (void)sched_yield(); /* the worker gives the block back after the flush */
    }
    return limit;
}

static Sink *
flushing_chain(Recording *recording, Flushes *flushes, bool shortcut, Error *err)
{
    const HandoffConfig config = {.shortcut = shortcut};
    Sink *sink;

    *flushes = (Flushes){.done = 0};
    (void)pthread_mutex_init(&flushes->mutex, NULL);
    (void)pthread_cond_init(&flushes->changed, NULL);
    recording->hook = flushes_pass;
    recording->ctx = flushes;
    sink = handoff_new(recorder_new(recording, err), &config, err);
    assert_non_null(sink);
    assert_true(sink_archive_begin(sink, &base, err));
    return sink;
}

static void
flushing_end(Sink *sink, Recording *recording, Flushes *flushes)
{
    sink_free(sink);
    recording_free(recording);
    (void)pthread_cond_destroy(&flushes->changed);
    (void)pthread_mutex_destroy(&flushes->mutex);
}

static void
test_shortcut_opens_and_closes(void **state)
{
    Recording recording = RECORDING_INIT;
    Error err = ERROR_INIT;
    Flushes flushes;
    Sink *sink;

    (void)state;
    sink = flushing_chain(&recording, &flushes, true, &err);
    assert_in_range(flushes_until_here(sink, &flushes, 100000, &err), 64, 99999);
    /* From now on nothing is handed over; the slow one closes it, for a longer row than before. */
    flushes.slow = true;
    (void)flushes_until_here(sink, &flushes, 1, &err);
    flushes.slow = false;
    assert_in_range(flushes_until_here(sink, &flushes, 100000, &err), 127, 99999);
    assert_true(sink_archive_end(sink, &err));
    assert_true(sink_finish(sink, &err));
    /* Every byte and every flush, in order. */
    assert_int_equal(recording.bytes.len, flushes.done);
    flushing_end(sink, &recording, &flushes);
}

static void
test_shortcut_only_when_asked_for(void **state)
{
    Recording recording = RECORDING_INIT;
    Error err = ERROR_INIT;
    Flushes flushes;
    Sink *sink;

    (void)state;
    sink = flushing_chain(&recording, &flushes, false, &err);
    assert_int_equal(flushes_until_here(sink, &flushes, 500, &err), 500);
    flushing_end(sink, &recording, &flushes);
}

/* A failure on the shortcut is the chain's, as one of the worker's is. */
static void
test_shortcut_fails(void **state)
{
    Recording recording = RECORDING_INIT;
    Error err = ERROR_INIT;
    Flushes flushes;
    Sink *sink;

    (void)state;
    sink = flushing_chain(&recording, &flushes, true, &err);
    assert_in_range(flushes_until_here(sink, &flushes, 100000, &err), 64, 99999);
    flushes.fail = true;
    assert_false(sink_flush(sink, 9, &err) && handoff_publish(sink, &err) &&
                 sink_finish(sink, &err));
    assert_int_equal(err.sys_errno, EIO);
    assert_true(handoff_failed(sink));
    flushing_end(sink, &recording, &flushes);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same_events_with_and_without_a_thread),
        cmocka_unit_test(test_any_placement_gives_the_same),
        cmocka_unit_test(test_small_data_is_merged),
        cmocka_unit_test(test_data_does_not_merge_over_other_events),
        cmocka_unit_test(test_everything_pointed_to_is_copied),
        cmocka_unit_test(test_names_longer_than_a_block),
        cmocka_unit_test(test_next_runs_in_another_thread),
        cmocka_unit_test(test_publish_and_flush_send_what_there_is),
        cmocka_unit_test(test_full_ring_waits_and_calls_back),
        cmocka_unit_test(test_full_ring_waits_without_callback),
        cmocka_unit_test(test_failing_callback_fails_the_push),
        cmocka_unit_test(test_callback_goes_on_while_next_finishes),
        cmocka_unit_test(test_failing_callback_fails_finish),
        cmocka_unit_test(test_failure_at_every_event),
        cmocka_unit_test(test_failure_of_finish),
        cmocka_unit_test(test_idle_producer_learns_of_a_failure),
        cmocka_unit_test(test_failure_wakes_a_waiting_producer),
        cmocka_unit_test(test_grammar_is_checked_before_the_ring),
        cmocka_unit_test(test_shortcut_opens_and_closes),
        cmocka_unit_test(test_shortcut_only_when_asked_for),
        cmocka_unit_test(test_shortcut_fails),
        cmocka_unit_test(test_freed_in_every_state),
        cmocka_unit_test(test_abandoned_with_a_full_ring),
        cmocka_unit_test(test_constructor_owns_next_when_it_fails),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
