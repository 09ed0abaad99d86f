/*
 * The segmenter: which entries become of bytes at an LSN, however they are cut into messages.
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
#include "support/recorder.h"
#include "walrecv/internal.h"

#define MB ((uint64_t)1024 * 1024)

typedef struct Fixture {
    Recording recording;
    Segmenter segmenter;
    Error err;
} Fixture;

/* Within an archive, at the beginning of a segment. */
static void
set_up(Fixture *fixture, uint32_t segment_size, TimeLineID timeline, Lsn start)
{
    const Archive archive = {.name = "pg_wal"};
    Sink *sink;

    *fixture = (Fixture){.recording = RECORDING_INIT, .err = ERROR_INIT};
    sink = recorder_new(&fixture->recording, &fixture->err);
    assert_non_null(sink);
    assert_true(sink_archive_begin(sink, &archive, &fixture->err));
    buf_clear(&fixture->recording.text);
    fixture->segmenter = (Segmenter){.sink = sink, .segment_size = segment_size, .now = 1700000000};
    segmenter_start(&fixture->segmenter, timeline, start);
}

static void
tear_down(Fixture *fixture)
{
    sink_free(fixture->segmenter.sink);
    assert_int_equal(fixture->recording.released, 1);
    recording_free(&fixture->recording);
}

/* Bytes that differ from place to place, so that a lost or doubled one shows. */
static Span
make_wal(size_t len)
{
    uint8_t *bytes = malloc(len);
    uint32_t state = 2463534242u;

    assert_non_null(bytes);
    for (size_t i = 0; i < len; i++) {
        state = state * 1664525u + 1013904223u;
        bytes[i] = (uint8_t)(state >> 24);
    }
    return (Span){.data = bytes, .len = len};
}

static void
free_wal(Span wal)
{
    free((void *)(uintptr_t)wal.data);
}

/* In messages of `piece` bytes, each in a block of its own that is freed afterwards. */
static void
push_pieces(Fixture *fixture, Lsn lsn, Span wal, size_t piece)
{
    for (size_t at = 0; at < wal.len; at += piece) {
        size_t len = wal.len - at < piece ? wal.len - at : piece;
        uint8_t *copy = malloc(len);

        assert_non_null(copy);
        memcpy(copy, wal.data + at, len);
        assert_true(segmenter_push(&fixture->segmenter, lsn + at, (Span){.data = copy, .len = len},
                                   &fixture->err));
        free(copy);
        assert_int_equal(fixture->segmenter.position, lsn + at + len);
    }
}

/* The lines that a segment with these bytes makes. */
static void
expect_segment(Buf *text, const char *name, uint64_t size, Span bytes, const char *end)
{
    Error err = ERROR_INIT;

    assert_true(buf_printf(text, &err,
                           "file %s size=%llu mode=0600 mtime=1700000000\n"
                           "data %llu crc=%08X\nend %s\n",
                           name, (unsigned long long)size, (unsigned long long)bytes.len,
                           crc32c(0, bytes.data, bytes.len), end));
}

static Span
part(Span span, size_t from, size_t len)
{
    return (Span){.data = span.data + from, .len = len};
}

/* ---- tests ---- */

static void
test_chunks_do_not_show(void **state)
{
    /* One byte takes long; primes and sizes around the borders do as well. */
    static const size_t pieces[] = {4093,   8192,       131072,      131071,     1 * MB - 1,
                                    1 * MB, 1 * MB + 1, 2 * MB + 17, 3 * MB - 1, 4 * MB};
    Span wal = make_wal(3 * MB + 12345);
    Buf expected = BUF_INIT;

    (void)state;
    expect_segment(&expected, "000000010000000000000005", MB, part(wal, 0, MB), "complete");
    expect_segment(&expected, "000000010000000000000006", MB, part(wal, MB, MB), "complete");
    expect_segment(&expected, "000000010000000000000007", MB, part(wal, 2 * MB, MB), "complete");
    expect_segment(&expected, "000000010000000000000008", MB, part(wal, 3 * MB, 12345),
                   "cut short");

    for (size_t i = 0; i < sizeof pieces / sizeof pieces[0]; i++) {
        Fixture fixture;

        set_up(&fixture, (uint32_t)MB, 1, 5 * MB);
        push_pieces(&fixture, 5 * MB, wal, pieces[i]);
        assert_true(fixture.segmenter.open);
        assert_true(segmenter_end(&fixture.segmenter, &fixture.err));
        assert_true(segmenter_end(&fixture.segmenter, &fixture.err));
        assert_string_equal(recording_text(&fixture.recording), buf_text(&expected));
        tear_down(&fixture);
    }
    buf_free(&expected);
    free_wal(wal);
}

static void
test_single_bytes_across_a_border(void **state)
{
    Span wal = make_wal(1 * MB + 40);
    Buf expected = BUF_INIT;
    Fixture fixture;

    (void)state;
    expect_segment(&expected, "000000010000000000000000", MB, part(wal, 0, MB), "complete");
    expect_segment(&expected, "000000010000000000000001", MB, part(wal, MB, 40), "cut short");
    set_up(&fixture, (uint32_t)MB, 1, 0);
    push_pieces(&fixture, 0, part(wal, 0, MB - 40), MB);
    push_pieces(&fixture, MB - 40, part(wal, MB - 40, 80), 1);
    assert_true(segmenter_end(&fixture.segmenter, &fixture.err));
    assert_string_equal(recording_text(&fixture.recording), buf_text(&expected));
    tear_down(&fixture);
    buf_free(&expected);
    free_wal(wal);
}

/* A log file holds 256 segments of 16 MB or 4096 of 1 MB. */
static void
test_next_log_file(void **state)
{
    Span wal = make_wal(32 * MB);
    Buf expected = BUF_INIT;
    Fixture fixture;
    Lsn start = 0x2FF000000;

    (void)state;
    expect_segment(&expected, "0000000A00000002000000FF", 16 * MB, part(wal, 0, 16 * MB),
                   "complete");
    expect_segment(&expected, "0000000A0000000300000000", 16 * MB, part(wal, 16 * MB, 16 * MB),
                   "complete");
    set_up(&fixture, (uint32_t)(16 * MB), 10, start);
    push_pieces(&fixture, start, wal, 131072 + 8192);
    assert_false(fixture.segmenter.open);
    assert_int_equal(fixture.segmenter.position, 0x301000000);
    assert_string_equal(recording_text(&fixture.recording), buf_text(&expected));
    tear_down(&fixture);

    buf_clear(&expected);
    expect_segment(&expected, "000000010000000200000FFF", MB, part(wal, 0, MB), "complete");
    expect_segment(&expected, "000000010000000300000000", MB, part(wal, MB, MB), "complete");
    set_up(&fixture, (uint32_t)MB, 1, 0x2FFF00000);
    push_pieces(&fixture, 0x2FFF00000, part(wal, 0, 2 * MB), 2 * MB);
    assert_string_equal(recording_text(&fixture.recording), buf_text(&expected));
    tear_down(&fixture);
    buf_free(&expected);
    free_wal(wal);
}

/* A segment that was filled exactly leaves nothing behind. */
static void
test_end_between_segments(void **state)
{
    Span wal = make_wal(MB);
    Fixture fixture;
    Buf expected = BUF_INIT;

    (void)state;
    expect_segment(&expected, "000000010000000000000001", MB, wal, "complete");
    set_up(&fixture, (uint32_t)MB, 1, MB);
    assert_true(segmenter_end(&fixture.segmenter, &fixture.err));
    assert_string_equal(recording_text(&fixture.recording), "");
    push_pieces(&fixture, MB, wal, MB / 2);
    assert_true(segmenter_end(&fixture.segmenter, &fixture.err));
    assert_true(segmenter_end(&fixture.segmenter, &fixture.err));
    assert_string_equal(recording_text(&fixture.recording), buf_text(&expected));
    tear_down(&fixture);
    buf_free(&expected);
    free_wal(wal);
}

static void
test_empty_message(void **state)
{
    Fixture fixture;

    (void)state;
    set_up(&fixture, (uint32_t)MB, 1, MB);
    assert_true(
        segmenter_push(&fixture.segmenter, MB, (Span){.data = NULL, .len = 0}, &fixture.err));
    assert_false(fixture.segmenter.open);
    assert_string_equal(recording_text(&fixture.recording), "");
    assert_false(
        segmenter_push(&fixture.segmenter, MB + 1, (Span){.data = NULL, .len = 0}, &fixture.err));
    assert_int_equal(fixture.err.code, ERR_PROTOCOL);
    tear_down(&fixture);
}

/* Whatever is not the very next byte is refused, and nothing of it reaches the sink. */
static void
test_gaps_and_repetitions(void **state)
{
    static const struct {
        Lsn lsn;
        const char *message;
    } cases[] = {
        {0x3000063, "got WAL data at 0/3000063, expected 0/3000064"},
        {0x3000065, "got WAL data at 0/3000065, expected 0/3000064"},
        {0x3000000, "got WAL data at 0/3000000, expected 0/3000064"},
        {0x103000064, "got WAL data at 1/3000064, expected 0/3000064"},
        {0, "got WAL data at 0/0, expected 0/3000064"},
        {UINT64_MAX, "got WAL data at FFFFFFFF/FFFFFFFF, expected 0/3000064"},
    };
    Span wal = make_wal(200);

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        Fixture fixture;

        set_up(&fixture, (uint32_t)(16 * MB), 1, 0x3000000);
        push_pieces(&fixture, 0x3000000, part(wal, 0, 100), 100);
        assert_false(
            segmenter_push(&fixture.segmenter, cases[i].lsn, part(wal, 100, 100), &fixture.err));
        assert_int_equal(fixture.err.code, ERR_PROTOCOL);
        assert_string_equal(fixture.err.message, cases[i].message);
        assert_int_equal(fixture.segmenter.position, 0x3000064);
        assert_int_equal(fixture.recording.bytes.len, 100);
        tear_down(&fixture);
    }
    free_wal(wal);
}

/* The last segment there is: positions do not wrap around. */
static void
test_end_of_all_positions(void **state)
{
    Lsn start = UINT64_MAX - (MB - 1);
    Span wal = make_wal(2 * MB);
    Fixture fixture;

    (void)state;
    set_up(&fixture, (uint32_t)MB, 1, start);
    push_pieces(&fixture, start, part(wal, 0, MB - 1), MB);
    assert_false(segmenter_push(&fixture.segmenter, UINT64_MAX, part(wal, 0, 1), &fixture.err));
    assert_int_equal(fixture.err.code, ERR_PROTOCOL);
    assert_string_equal(fixture.err.message, "got 1 bytes of WAL data at FFFFFFFF/FFFFFFFF, "
                                             "beyond the last position");
    assert_int_equal(fixture.segmenter.position, UINT64_MAX);
    tear_down(&fixture);
    free_wal(wal);
}

/* Each event that can fail, one after the other. */
static void
test_sink_failures(void **state)
{
    Span wal = make_wal(MB + 10);

    (void)state;
    /* 1 is the begin of the archive; then begin, data, end, begin, data, end. */
    for (size_t fail_at = 2; fail_at <= 7; fail_at++) {
        Fixture fixture;
        bool ok;

        set_up(&fixture, (uint32_t)MB, 1, 0);
        fixture.recording.fail_at = fail_at;
        ok = segmenter_push(&fixture.segmenter, 0, wal, &fixture.err) &&
             segmenter_end(&fixture.segmenter, &fixture.err);
        assert_false(ok);
        assert_int_equal(fixture.err.code, ERR_SYSTEM);
        assert_int_equal(fixture.recording.events, fail_at);
        tear_down(&fixture);
    }
    free_wal(wal);
}

/* The switch of a timeline: the old segment is cut short, the new one begins at its own beginning.
 */
static void
test_restart_on_the_next_timeline(void **state)
{
    Span wal = make_wal(MB);
    Buf expected = BUF_INIT;
    Fixture fixture;

    (void)state;
    expect_segment(&expected, "000000010000000000000007", MB, part(wal, 0, 5000), "cut short");
    expect_segment(&expected, "000000020000000000000007", MB, wal, "complete");
    set_up(&fixture, (uint32_t)MB, 1, 7 * MB);
    push_pieces(&fixture, 7 * MB, part(wal, 0, 5000), 1000);
    assert_true(segmenter_end(&fixture.segmenter, &fixture.err));
    segmenter_start(&fixture.segmenter, 2, 7 * MB);
    push_pieces(&fixture, 7 * MB, wal, 8192);
    assert_true(segmenter_end(&fixture.segmenter, &fixture.err));
    assert_string_equal(recording_text(&fixture.recording), buf_text(&expected));
    tear_down(&fixture);
    buf_free(&expected);
    free_wal(wal);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_chunks_do_not_show),
        cmocka_unit_test(test_single_bytes_across_a_border),
        cmocka_unit_test(test_next_log_file),
        cmocka_unit_test(test_end_between_segments),
        cmocka_unit_test(test_empty_message),
        cmocka_unit_test(test_gaps_and_repetitions),
        cmocka_unit_test(test_end_of_all_positions),
        cmocka_unit_test(test_sink_failures),
        cmocka_unit_test(test_restart_on_the_next_timeline),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
