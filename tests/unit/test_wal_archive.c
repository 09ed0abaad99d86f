/*
 * The entries of a pg_wal.tar: which there are, how they end, and that they are always whole.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/crc32c.h"
#include "support/chunker.h"
#include "support/recorder.h"
#include "walrecv/internal.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

#define MB        ((size_t)1024 * 1024)
#define SEGMENT_3 "000000010000000000000003"
#define SEGMENT_4 "000000010000000000000004"
#define HISTORY_2 "00000002.history"
#define HISTORY   "1\t0/300000\tno recovery target specified\n"

typedef struct Here {
    Recording recording;
    Sink *sink;
    Error err;
    Buf expected;
    uint8_t *wal; /* a segment: no two bytes alike at one place, none zero */
} Here;

/* Segments of `segment_size`, within an archive. */
static void
start(Here *here, uint32_t segment_size)
{
    const Archive archive = {.name = "pg_wal"};

    here->sink =
        wal_archive_new(recorder_new(&here->recording, &here->err), segment_size, 0640, &here->err);
    assert_non_null(here->sink);
    assert_true(sink_archive_begin(here->sink, &archive, &here->err));
    assert_string_equal(recording_text(&here->recording), "archive pg_wal.tar 0\n");
    buf_clear(&here->recording.text);
}

static void
stop(Here *here)
{
    sink_free(here->sink);
    here->sink = NULL;
    assert_int_equal(here->recording.released, 1);
    recording_free(&here->recording);
    here->recording = RECORDING_INIT;
    buf_clear(&here->expected);
    here->err = ERROR_INIT;
}

static int
set_up(void **state)
{
    Here *here = calloc(1, sizeof *here);

    if (here == NULL || (here->wal = malloc(MB)) == NULL)
        return -1;
    for (size_t i = 0; i < MB; i++)
        here->wal[i] = (uint8_t)(1 + (i * 31 + i / 251) % 255);
    *state = here;
    return 0;
}

static int
tear_down(void **state)
{
    Here *here = *state;

    sink_free(here->sink);
    recording_free(&here->recording);
    buf_free(&here->expected);
    free(here->wal);
    free(here);
    return 0;
}

static bool
begin(Here *here, const char *name, uint64_t size)
{
    const Entry entry = {
        .kind = ENTRY_FILE, .path = name, .size = size, .mode = 0600, .mtime = 1700000000};

    return sink_entry_begin(here->sink, &entry, &here->err);
}

static Span
wal_of(Here *here, size_t len)
{
    return (Span){.data = here->wal, .len = len};
}

static bool
push_pieces(Here *here, const char *name, size_t len, bool complete, size_t piece)
{
    return begin(here, name, MB) && chunk_push(here->sink, wal_of(here, len), piece, &here->err) &&
           sink_entry_end(here->sink, complete, &here->err);
}

static bool
push_segment(Here *here, const char *name, size_t len, bool complete)
{
    return push_pieces(here, name, len, complete, 100000);
}

static bool
push_history(Here *here, const char *name)
{
    return begin(here, name, strlen(HISTORY)) &&
           sink_data(here->sink, span_of(HISTORY), &here->err) &&
           sink_entry_end(here->sink, true, &here->err);
}

static void
expect(Here *here, const char *lines)
{
    Error err = ERROR_INIT;

    assert_true(buf_printf(&here->expected, &err, "%s", lines));
}

static void
expect_file(Here *here, const char *name, Span content)
{
    Error err = ERROR_INIT;

    assert_true(buf_printf(&here->expected, &err,
                           "file %s size=%zu mode=0640 mtime=1700000000\n"
                           "data %zu crc=%08X\nend complete\n",
                           name, content.len, content.len, crc32c(0, content.data, content.len)));
}

static void
expect_done(Here *here, const char *name)
{
    Error err = ERROR_INIT;

    assert_true(buf_printf(&here->expected, &err,
                           "file archive_status/%s.done size=0 mode=0640 mtime=1700000000\n"
                           "end complete\n",
                           name));
    /* The server may learn now of what is on disk. */
    if (strlen(name) == 24)
        assert_true(buf_printf(&here->expected, &err, "flush 0/%lX\n",
                               (strtoul(name + 16, NULL, 16) + 1) * MB));
}

/* One of which `len` bytes came, the rest zeros. */
static void
expect_filled_up(Here *here, const char *name, size_t len)
{
    uint8_t *whole = calloc(1, MB);

    assert_non_null(whole);
    memcpy(whole, here->wal, len);
    expect_file(here, name, (Span){.data = whole, .len = MB});
    free(whole);
}

static void
assert_recorded(Here *here)
{
    assert_string_equal(recording_text(&here->recording), buf_text(&here->expected));
}

/* ---- what becomes of what is received ---- */

static void
test_segments(void **state)
{
    Here *here = *state;

    start(here, MB);
    assert_true(push_segment(here, SEGMENT_3, MB, true) &&
                push_segment(here, SEGMENT_4, MB, true) &&
                push_segment(here, "000000010000000000000005", 12345, false) &&
                sink_archive_end(here->sink, &here->err) && sink_finish(here->sink, &here->err));
    expect_file(here, SEGMENT_3, wal_of(here, MB));
    expect_done(here, SEGMENT_3);
    expect_file(here, SEGMENT_4, wal_of(here, MB));
    expect_done(here, SEGMENT_4);
    expect_filled_up(here, "000000010000000000000005", 12345);
    expect(here, "archive end\nfinish\n");
    assert_recorded(here);
    assert_true(here->recording.finished);
}

static void
test_nothing_was_received(void **state)
{
    Here *here = *state;

    start(here, MB);
    assert_true(sink_archive_end(here->sink, &here->err) && sink_finish(here->sink, &here->err));
    assert_string_equal(recording_text(&here->recording), "archive end\nfinish\n");
}

static void
test_cut_short(void **state)
{
    static const size_t lengths[] = {0, 1, 8192, 65535, 65536, MB - 65536, MB - 1, MB};

    for (size_t i = 0; i < COUNT(lengths); i++) {
        Here *here = *state;

        start(here, MB);
        assert_true(push_segment(here, SEGMENT_3, lengths[i], false) &&
                    sink_archive_end(here->sink, &here->err));
        expect_filled_up(here, SEGMENT_3, lengths[i]);
        expect(here, "archive end\n");
        assert_recorded(here);
        stop(here);
    }
}

/* The zeros come in a few pieces, however large segments are. */
static void
test_large_segment(void **state)
{
    Here *here = *state;

    start(here, 64 * MB);
    assert_true(begin(here, SEGMENT_3, 64 * MB) &&
                sink_data(here->sink, span_of("x"), &here->err) &&
                sink_entry_end(here->sink, false, &here->err));
    assert_int_equal(here->recording.bytes.len, 64 * MB);
    assert_int_equal(here->recording.bytes.data[0], 'x');
    assert_int_equal(here->recording.bytes.data[1], 0);
    assert_memory_equal(here->recording.bytes.data + 1, here->recording.bytes.data + 2,
                        64 * MB - 2);
    assert_in_range(here->recording.data_events, 2, 1 + 64 * MB / 65536);
}

static void
test_history_files(void **state)
{
    Here *here = *state;

    start(here, MB);
    assert_true(push_history(here, HISTORY_2) && begin(here, "00000003.history", 0) &&
                sink_entry_end(here->sink, true, &here->err) &&
                sink_archive_end(here->sink, &here->err));
    expect_file(here, HISTORY_2, span_of(HISTORY));
    expect_done(here, HISTORY_2);
    expect(here, "file 00000003.history size=0 mode=0640 mtime=1700000000\nend complete\n");
    expect_done(here, "00000003.history");
    expect(here, "archive end\n");
    assert_recorded(here);
}

/* The old timeline's last segment is there under its name, and so is the new one's. */
static void
test_switch_of_timelines(void **state)
{
    Here *here = *state;

    start(here, MB);
    assert_true(push_segment(here, SEGMENT_3, 5000, false) && push_history(here, HISTORY_2) &&
                push_segment(here, "000000020000000000000003", MB, true));
    expect_filled_up(here, SEGMENT_3, 5000);
    expect_file(here, HISTORY_2, span_of(HISTORY));
    expect_done(here, HISTORY_2);
    expect_file(here, "000000020000000000000003", wal_of(here, MB));
    expect_done(here, "000000020000000000000003");
    assert_recorded(here);
}

static void
test_chunks_do_not_show(void **state)
{
    static const size_t pieces[] = {1, 4093, 8192, 65536, 131072, MB - 1, MB, 0};

    for (size_t i = 0; i < COUNT(pieces); i++) {
        Here *here = *state;

        start(here, MB);
        assert_true(push_pieces(here, SEGMENT_3, MB, true, pieces[i]) &&
                    push_pieces(here, SEGMENT_4, 70001, false, pieces[i]) &&
                    begin(here, HISTORY_2, strlen(HISTORY)) &&
                    chunk_push(here->sink, span_of(HISTORY), pieces[i], &here->err) &&
                    sink_entry_end(here->sink, true, &here->err));
        expect_file(here, SEGMENT_3, wal_of(here, MB));
        expect_done(here, SEGMENT_3);
        expect_filled_up(here, SEGMENT_4, 70001);
        expect_file(here, HISTORY_2, span_of(HISTORY));
        expect_done(here, HISTORY_2);
        assert_recorded(here);
        stop(here);
    }
}

/* As the receiver makes them. */
static void
test_behind_the_segmenter(void **state)
{
    Here *here = *state;
    Segmenter segmenter;

    start(here, MB);
    segmenter = (Segmenter){.sink = here->sink, .segment_size = MB, .now = 1700000000};
    segmenter_start(&segmenter, 1, 3 * MB);
    assert_true(segmenter_push(&segmenter, 3 * MB, wal_of(here, MB), &here->err) &&
                segmenter_push(&segmenter, 4 * MB, wal_of(here, 100), &here->err) &&
                segmenter_end(&segmenter, &here->err));
    expect_file(here, SEGMENT_3, wal_of(here, MB));
    expect_done(here, SEGMENT_3);
    expect_filled_up(here, SEGMENT_4, 100);
    assert_recorded(here);
}

static void
test_flush_passes_at_once(void **state)
{
    Here *here = *state;
    char expected[400];

    start(here, MB);
    assert_true(sink_flush(here->sink, 1, &here->err) && begin(here, SEGMENT_3, MB) &&
                sink_flush(here->sink, 2, &here->err) &&
                sink_data(here->sink, wal_of(here, MB), &here->err) &&
                sink_flush(here->sink, 3, &here->err));
    (void)snprintf(expected, sizeof expected,
                   "flush 0/1\nfile " SEGMENT_3 " size=1048576 mode=0640 mtime=1700000000\n"
                   "flush 0/2\ndata 1048576 crc=%08X\nflush 0/3\n",
                   crc32c(0, here->wal, MB));
    assert_string_equal(recording_text(&here->recording), expected);
    buf_clear(&here->recording.text);
    assert_true(sink_entry_end(here->sink, true, &here->err) &&
                sink_flush(here->sink, 4, &here->err) && sink_archive_end(here->sink, &here->err) &&
                sink_flush(here->sink, 5, &here->err));
    expect(here, "end complete\n");
    expect_done(here, SEGMENT_3);
    expect(here, "flush 0/4\narchive end\nflush 0/5\n");
    assert_recorded(here);
}

/* ---- what no receiver sends ---- */

static void
test_names_and_sizes(void **state)
{
    static const struct {
        const char *name;
        uint64_t size;
        const char *message;
    } cases[] = {
        {"x", MB, "\"x\" is neither a WAL segment nor a timeline history file"},
        {SEGMENT_3 ".partial", MB,
         "\"" SEGMENT_3 ".partial\" is neither a WAL segment nor a timeline history file"},
        {"archive_status/" SEGMENT_3 ".done", 0,
         "\"archive_status/" SEGMENT_3
         ".done\" is neither a WAL segment nor a timeline history file"},
        {"../" HISTORY_2, 5,
         "\"../" HISTORY_2 "\" is neither a WAL segment nor a timeline history file"},
        {SEGMENT_3, 16 * MB,
         "WAL segment \"" SEGMENT_3 "\" has 16777216 bytes, but segments have 1048576"},
        {SEGMENT_3, 0, "WAL segment \"" SEGMENT_3 "\" has 0 bytes, but segments have 1048576"},
    };

    for (size_t i = 0; i < COUNT(cases); i++) {
        Here *here = *state;

        start(here, MB);
        assert_false(begin(here, cases[i].name, cases[i].size));
        assert_string_equal(here->err.message, cases[i].message);
        assert_int_equal(here->err.code, ERR_FORMAT);
        assert_string_equal(recording_text(&here->recording), "");
        stop(here);
    }
}

static void
test_wrong_lengths(void **state)
{
    static const bool complete[] = {true, false};
    Here *here = *state;

    start(here, MB);
    assert_false(push_segment(here, SEGMENT_3, MB - 1, true));
    assert_string_equal(here->err.message,
                        "WAL segment \"" SEGMENT_3 "\" has only 1048575 of 1048576 bytes");
    assert_int_equal(here->err.code, ERR_FORMAT);
    assert_int_equal(here->recording.bytes.len, MB - 1);
    stop(here);

    start(here, MB);
    assert_true(begin(here, SEGMENT_3, MB) && sink_data(here->sink, wal_of(here, MB), &here->err));
    assert_false(sink_data(here->sink, span_of("x"), &here->err));
    assert_string_equal(here->err.message, "\"" SEGMENT_3 "\" is longer than its 1048576 bytes");
    assert_int_equal(here->recording.bytes.len, MB);
    stop(here);

    for (size_t i = 0; i < COUNT(complete); i++) {
        start(here, MB);
        assert_true(begin(here, HISTORY_2, 10) &&
                    sink_data(here->sink, span_of("12345"), &here->err));
        assert_false(sink_entry_end(here->sink, complete[i], &here->err));
        assert_string_equal(here->err.message,
                            "timeline history file \"" HISTORY_2 "\" has only 5 of 10 bytes");
        assert_int_equal(here->err.code, ERR_FORMAT);
        stop(here);
    }
}

static void
test_opaque_archive(void **state)
{
    Here *here = *state;

    start(here, MB);
    assert_false(sink_data(here->sink, span_of("tar"), &here->err));
    assert_int_equal(here->err.code, ERR_BUG);
    assert_int_equal(here->recording.data_events, 0);
}

/* A segment before it does not make an opaque archive one of ours. */
static void
test_opaque_archive_after_another(void **state)
{
    const Archive archive = {.name = "pg_wal"};
    Here *here = *state;

    start(here, MB);
    assert_true(push_segment(here, SEGMENT_3, MB, true) &&
                sink_archive_end(here->sink, &here->err) &&
                sink_archive_begin(here->sink, &archive, &here->err));
    assert_false(sink_data(here->sink, span_of("tar"), &here->err));
    assert_int_equal(here->err.code, ERR_BUG);
}

/* ---- failures ---- */

static bool
run_all(Here *here)
{
    return push_history(here, HISTORY_2) && push_segment(here, SEGMENT_3, MB, true) &&
           push_segment(here, SEGMENT_4, 1, false) && sink_archive_end(here->sink, &here->err) &&
           sink_finish(here->sink, &here->err);
}

static void
test_every_failure_of_what_follows(void **state)
{
    Here *here = *state;
    size_t events;

    start(here, MB);
    assert_true(run_all(here));
    events = here->recording.events;
    stop(here);
    /* 1 is the begin of the archive. */
    for (size_t fail_at = 2; fail_at <= events; fail_at++) {
        start(here, MB);
        here->recording.fail_at = fail_at;
        assert_false(run_all(here));
        assert_int_equal(here->err.code, ERR_SYSTEM);
        assert_int_equal(here->recording.events, fail_at);
        assert_false(here->recording.finished);
        stop(here);
    }
}

static void
test_of_nothing(void **state)
{
    Here *here = *state;

    assert_null(wal_archive_new(NULL, MB, 0600, &here->err));
    assert_int_equal(here->err.code, ERR_NONE);
    /* Whoever should have made the next one has said why there is none. */
    assert_null(wal_archive_new(NULL, 12345, 0600, &here->err));
    assert_int_equal(here->err.code, ERR_NONE);

    assert_null(
        wal_archive_new(recorder_new(&here->recording, &here->err), 12345, 0600, &here->err));
    assert_int_equal(here->err.code, ERR_BUG);
    assert_string_equal(here->err.message, "12345 is no WAL segment size");
    assert_int_equal(here->recording.released, 1);
}

#define ARCHIVE_TEST(function) cmocka_unit_test_setup_teardown(function, set_up, tear_down)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        ARCHIVE_TEST(test_segments),
        ARCHIVE_TEST(test_nothing_was_received),
        ARCHIVE_TEST(test_cut_short),
        ARCHIVE_TEST(test_large_segment),
        ARCHIVE_TEST(test_history_files),
        ARCHIVE_TEST(test_switch_of_timelines),
        ARCHIVE_TEST(test_chunks_do_not_show),
        ARCHIVE_TEST(test_behind_the_segmenter),
        ARCHIVE_TEST(test_flush_passes_at_once),
        ARCHIVE_TEST(test_names_and_sizes),
        ARCHIVE_TEST(test_wrong_lengths),
        ARCHIVE_TEST(test_opaque_archive),
        ARCHIVE_TEST(test_opaque_archive_after_another),
        ARCHIVE_TEST(test_every_failure_of_what_follows),
        ARCHIVE_TEST(test_of_nothing),
    };

    return cmocka_run_group_tests_name("wal_archive", tests, NULL, NULL);
}
