#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "support/chunker.h"
#include "support/recorder.h"
#include "support/wal_builder.h"
#include "verify/internal.h"

#define MIB       (1u << 20)
#define SYSTEM_ID 4711

typedef struct Fixture {
    WalBuilder wal;
    Recording recording;
    Sink *sink;
    _Atomic Lsn checked_to;
    Error err;
} Fixture;

static int
setup(void **state)
{
    Fixture *f = calloc(1, sizeof *f);

    f->recording = RECORDING_INIT;
    wal_builder_init(&f->wal, &(WalBuilderConfig){.magic = 0xD118,
                                                  .timeline = 1,
                                                  .system_id = SYSTEM_ID,
                                                  .segment_size = MIB,
                                                  .start = 3 * MIB});
    *state = f;
    return 0;
}

static int
teardown(void **state)
{
    Fixture *f = *state;

    sink_free(f->sink);
    assert_int_equal(f->recording.released, 1);
    recording_free(&f->recording);
    wal_builder_free(&f->wal);
    free(f);
    return 0;
}

/* ---- the stage under test ---- */

static void
chain_begin(Fixture *f, TimeLineID timeline, Lsn start)
{
    WalCheckConfig config = {
        .start = start, .timeline = timeline, .system_id = SYSTEM_ID, .segment_size = MIB};

    f->sink = wal_check_new(recorder_new(&f->recording, &f->err), &config, &f->checked_to, &f->err);
    assert_non_null(f->sink);
    assert_int_equal(f->checked_to, start);
    assert_true(sink_archive_begin(f->sink, &(Archive){.name = "pg_wal"}, &f->err));
}

static bool
begin_entry(Fixture *f, const char *path, EntryKind kind)
{
    Entry entry = {.kind = kind, .path = path, .size = kind == ENTRY_FILE ? MIB : 0, .mode = 0600};

    return sink_entry_begin(f->sink, &entry, &f->err);
}

/* The bytes from `from` up to `to` as one entry of their segment; false when it fails. */
static bool
push_part(Fixture *f, TimeLineID timeline, Lsn from, Lsn to, size_t piece)
{
    char name[WAL_NAME_SIZE];

    wal_segment_name(name, timeline, from / MIB, MIB);
    return begin_entry(f, name, ENTRY_FILE) &&
           chunk_push(f->sink, wal_builder_span(&f->wal, from, to), piece, &f->err) &&
           sink_entry_end(f->sink, to % MIB == 0, &f->err);
}

/* All segments from the one that begins at `from` on, the last one as far as it goes. */
static bool
push_all(Fixture *f, TimeLineID timeline, Lsn from, size_t piece)
{
    for (Lsn to; from < f->wal.end; from = to) {
        to = from + MIB < f->wal.end ? from + MIB : f->wal.end;
        if (!push_part(f, timeline, from, to, piece))
            return false;
    }
    return true;
}

static void
chain_end(Fixture *f)
{
    assert_true(sink_archive_end(f->sink, &f->err));
    assert_true(sink_finish(f->sink, &f->err));
    assert_true(f->recording.finished);
}

/* Records up to `end`, some of them longer than a page. */
static void
records_until(Fixture *f, Lsn end)
{
    uint32_t length = 30;

    while (f->wal.end + length + 20000 < end) {
        (void)wal_builder_record(&f->wal, 10, 0, length);
        length = length * 5 % 19997 + 24;
    }
    (void)wal_builder_record_until(&f->wal, end);
}

static void
assert_failed(Fixture *f, ErrorCode code, const char *message)
{
    assert_string_equal(f->err.message, message);
    assert_int_equal(f->err.code, code);
}

/* ---- what is intact ---- */

static void
test_passes_intact_wal_on(void **state)
{
    static const size_t pieces[] = {0, 100000, 4096, 333};
    Fixture *f = *state;

    records_until(f, 6 * MIB + 0x5008);
    for (size_t i = 0; i < sizeof pieces / sizeof pieces[0]; i++) {
        if (i > 0) {
            sink_free(f->sink);
            recording_free(&f->recording);
            f->recording = RECORDING_INIT;
        }
        chain_begin(f, 1, 3 * MIB);
        assert_true(push_all(f, 1, 3 * MIB, pieces[i]));
        chain_end(f);
        assert_int_equal(f->checked_to, f->wal.end);
        assert_int_equal(f->recording.bytes.len, f->wal.bytes.len);
        assert_memory_equal(f->recording.bytes.data, f->wal.bytes.data, f->wal.bytes.len);
        assert_non_null(strstr(recording_text(&f->recording), "file 000000010000000000000006"));
    }
}

static void
test_follows_as_bytes_come(void **state)
{
    Fixture *f = *state;
    Lsn first;
    Lsn second;

    first = wal_builder_record(&f->wal, 10, 0, 50000);
    second = wal_builder_record(&f->wal, 10, 0, 100);
    chain_begin(f, 1, 3 * MIB);
    assert_true(begin_entry(f, "000000010000000000000003", ENTRY_FILE));
    assert_true(sink_data(f->sink, wal_builder_span(&f->wal, 3 * MIB, first + 20000), &f->err));
    assert_int_equal(f->checked_to, 3 * MIB);
    assert_true(sink_data(f->sink, wal_builder_span(&f->wal, first + 20000, second + 50), &f->err));
    assert_int_equal(f->checked_to, second);
    assert_true(sink_data(f->sink, wal_builder_span(&f->wal, second + 50, f->wal.end), &f->err));
    assert_int_equal(f->checked_to, f->wal.end);
    /* The rest of the segment never comes. */
    assert_true(sink_entry_end(f->sink, false, &f->err));
    chain_end(f);
    assert_int_equal(f->checked_to, f->wal.end);
}

/* The stream begins with the segment, the chain with the backup. */
static void
test_what_is_before_the_start_is_not_checked(void **state)
{
    static const size_t pieces[] = {0, 8192, 8191, 39, 7};
    Fixture *f = *state;
    Lsn start;

    records_until(f, 3 * MIB + 0x8100);
    start = f->wal.end;
    records_until(f, 4 * MIB + 0x4000);
    *wal_builder_at(&f->wal, 3 * MIB + 100) ^= 1;
    *wal_builder_at(&f->wal, 3 * MIB + 0x2000) ^= 1; /* a page's magic number */
    *wal_builder_at(&f->wal, start - 1) ^= 1;
    for (size_t i = 0; i < sizeof pieces / sizeof pieces[0]; i++) {
        if (i > 0) {
            sink_free(f->sink);
            recording_free(&f->recording);
            f->recording = RECORDING_INIT;
        }
        chain_begin(f, 1, start);
        assert_true(push_all(f, 1, 3 * MIB, pieces[i]));
        chain_end(f);
        assert_int_equal(f->checked_to, f->wal.end);
    }
}

static void
test_first_header_is_checked_nevertheless(void **state)
{
    static const size_t pieces[] = {0, 8192, 39, 1};
    Fixture *f = *state;
    Lsn start;

    records_until(f, 3 * MIB + 0x4100);
    start = f->wal.end;
    *wal_builder_at(&f->wal, 3 * MIB + 24) ^= 1;
    for (size_t i = 0; i < sizeof pieces / sizeof pieces[0]; i++) {
        if (i > 0) {
            sink_free(f->sink);
            recording_free(&f->recording);
            f->recording = RECORDING_INIT;
        }
        f->err = ERROR_INIT;
        chain_begin(f, 1, start);
        assert_false(push_all(f, 1, 3 * MIB, pieces[i]));
        assert_failed(f, ERR_MISMATCH,
                      "WAL segment \"000000010000000000000003\" is damaged at LSN 0/300000: system "
                      "identifier is 4710, expected 4711");
    }
}

static void
test_segments_before_the_start(void **state)
{
    Fixture *f = *state;
    Lsn start;

    records_until(f, 5 * MIB + 0x8100);
    start = f->wal.end;
    records_until(f, 6 * MIB + 0x4000);
    *wal_builder_at(&f->wal, 4 * MIB + 100) ^= 1;
    chain_begin(f, 1, start);
    assert_true(push_all(f, 1, 3 * MIB, 5000));
    chain_end(f);
    assert_int_equal(f->checked_to, f->wal.end);
    sink_free(f->sink);
    recording_free(&f->recording);
    f->recording = RECORDING_INIT;

    *wal_builder_at(&f->wal, 5 * MIB + 24) ^= 1; /* the header of the segment where it begins */
    chain_begin(f, 1, start);
    assert_false(push_all(f, 1, 3 * MIB, 5000));
    assert_failed(f, ERR_MISMATCH,
                  "WAL segment \"000000010000000000000005\" is damaged at LSN 0/500000: system "
                  "identifier is 4710, expected 4711");
}

static void
test_what_is_no_segment_passes(void **state)
{
    Fixture *f = *state;

    records_until(f, 4 * MIB + 0x4000);
    chain_begin(f, 1, 3 * MIB);
    assert_true(begin_entry(f, "00000002.history", ENTRY_FILE));
    assert_true(sink_data(f->sink, span_of("1\t0/3000000\tno reason\n"), &f->err));
    assert_true(sink_entry_end(f->sink, true, &f->err));
    assert_true(begin_entry(f, "archive_status", ENTRY_DIRECTORY));
    assert_true(sink_entry_end(f->sink, true, &f->err));
    assert_true(begin_entry(f, "archive_status/000000010000000000000003.done", ENTRY_FILE));
    assert_true(sink_entry_end(f->sink, true, &f->err));
    assert_true(push_part(f, 1, 3 * MIB, 4 * MIB, 0));
    assert_true(begin_entry(f, "000000010000000000000001.00000028.backup", ENTRY_FILE));
    assert_true(sink_data(f->sink, span_of("not WAL"), &f->err));
    assert_true(sink_entry_end(f->sink, true, &f->err));
    assert_true(sink_flush(f->sink, 4 * MIB, &f->err));
    assert_true(push_part(f, 1, 4 * MIB, f->wal.end, 0));
    chain_end(f);
    assert_int_equal(f->checked_to, f->wal.end);
    assert_non_null(strstr(recording_text(&f->recording), "flush 0/400000"));
}

static void
test_switch_within_a_segment(void **state)
{
    Fixture *f = *state;

    (void)wal_builder_record(&f->wal, 10, 0, 100);
    (void)wal_builder_switch(&f->wal);
    records_until(f, 4 * MIB + 0x4000);
    chain_begin(f, 1, 3 * MIB);
    assert_true(push_all(f, 1, 3 * MIB, 1000));
    chain_end(f);
    assert_int_equal(f->checked_to, f->wal.end);
}

/* ---- timelines ---- */

/* The new timeline's first segment comes whole, with what the old one had of it. */
static void
test_timeline_switch(void **state)
{
    Fixture *f = *state;
    Lsn fork;

    records_until(f, 4 * MIB + 0x9008);
    fork = f->wal.end;
    chain_begin(f, 1, 3 * MIB);
    assert_true(push_all(f, 1, 3 * MIB, 0));
    assert_int_equal(f->checked_to, fork);
    f->wal.config.timeline = 3;
    records_until(f, 5 * MIB + 0x9008);
    assert_true(begin_entry(f, "000000030000000000000004", ENTRY_FILE));
    /* It is not known yet whether this timeline is intact up to the fork. */
    assert_int_equal(f->checked_to, 4 * MIB);
    assert_true(sink_data(f->sink, wal_builder_span(&f->wal, 4 * MIB, 5 * MIB), &f->err));
    assert_true(sink_entry_end(f->sink, true, &f->err));
    assert_true(f->checked_to > fork);
    assert_true(push_part(f, 3, 5 * MIB, f->wal.end, 0));
    chain_end(f);
    assert_int_equal(f->checked_to, f->wal.end);
}

static void
test_timeline_switch_between_segments(void **state)
{
    Fixture *f = *state;

    records_until(f, 4 * MIB);
    chain_begin(f, 1, 3 * MIB);
    assert_true(push_all(f, 1, 3 * MIB, 0));
    f->wal.config.timeline = 2;
    records_until(f, 5 * MIB + 0x9008);
    assert_true(push_all(f, 2, 4 * MIB, 777));
    chain_end(f);
    assert_int_equal(f->checked_to, f->wal.end);
}

/* The old timeline was received beyond the fork, into later segments. */
static void
test_timeline_switch_back_over_segments(void **state)
{
    Fixture *f = *state;
    WalBuilder old;

    records_until(f, 4 * MIB + 0x9008);
    old = f->wal;
    old.bytes = BUF_INIT;
    assert_true(buf_append(&old.bytes, f->wal.bytes.data, f->wal.bytes.len, &f->err));
    records_until(f, 6 * MIB + 0x9008);
    chain_begin(f, 1, 3 * MIB);
    assert_true(push_all(f, 1, 3 * MIB, 0));

    wal_builder_free(&f->wal);
    f->wal = old;
    f->wal.config.timeline = 2;
    f->wal.noise = 99;
    records_until(f, 5 * MIB + 0x4008);
    assert_true(push_all(f, 2, 4 * MIB, 0));
    chain_end(f);
    assert_int_equal(f->checked_to, f->wal.end);
}

/* The chain still begins where the backup does, whichever timeline's segment comes first. */
static void
test_first_segment_of_a_later_timeline(void **state)
{
    Fixture *f = *state;
    Lsn start;

    records_until(f, 3 * MIB + 0x9008);
    start = f->wal.end;
    *wal_builder_at(&f->wal, 3 * MIB + 100) ^= 1;
    f->wal.config.timeline = 2;
    records_until(f, 4 * MIB + 0x9008);
    chain_begin(f, 1, start);
    assert_true(push_all(f, 2, 3 * MIB, 0));
    chain_end(f);
    assert_int_equal(f->checked_to, f->wal.end);
}

static void
test_newer_pages_in_an_old_segment(void **state)
{
    Fixture *f = *state;

    (void)wal_builder_record_until(&f->wal, 3 * MIB + 0x2000);
    f->wal.config.timeline = 2;
    records_until(f, 3 * MIB + 0x9008);
    chain_begin(f, 1, 3 * MIB);
    assert_false(push_all(f, 1, 3 * MIB, 0));
    assert_failed(
        f, ERR_MISMATCH,
        "WAL segment \"000000010000000000000003\" is damaged at LSN 0/302000: timeline is "
        "2, expected at most 1");
}

/* ---- what is not intact ---- */

static void
test_damaged_record(void **state)
{
    Fixture *f = *state;
    Lsn lsn;
    Lsn whole;

    records_until(f, 4 * MIB + 0x4000);
    whole = f->wal.end;
    lsn = wal_builder_record(&f->wal, 10, 0, 3000);
    (void)wal_builder_record(&f->wal, 10, 0, 100);
    *wal_builder_at(&f->wal, lsn + 17) = 99;
    chain_begin(f, 1, 3 * MIB);
    assert_false(push_all(f, 1, 3 * MIB, 8192));
    assert_failed(f, ERR_MISMATCH,
                  "WAL segment \"000000010000000000000004\" is damaged at LSN 0/404018: invalid "
                  "resource manager 99");
    assert_true(f->checked_to <= whole);
    assert_true(f->checked_to >= 4 * MIB);
    /* What is damaged is not passed on. */
    assert_int_equal(f->recording.bytes.len, MIB + 0x4000);
}

/* The name is that of the segment where the record begins. */
static void
test_damaged_record_over_two_segments(void **state)
{
    Fixture *f = *state;
    Lsn lsn;

    records_until(f, 4 * MIB - 0x1000);
    lsn = wal_builder_record(&f->wal, 10, 0, 20000);
    assert_int_equal(lsn, 4 * MIB - 0x1000);
    *wal_builder_at(&f->wal, 4 * MIB + 100) ^= 1;
    chain_begin(f, 1, 3 * MIB);
    assert_false(push_all(f, 1, 3 * MIB, 8192));
    assert_int_equal(f->err.code, ERR_MISMATCH);
    assert_non_null(strstr(f->err.message, "WAL segment \"000000010000000000000003\" is damaged at "
                                           "LSN 0/3FF000: record checksum is "));
}

static void
test_zeros_are_damage(void **state)
{
    Fixture *f = *state;

    records_until(f, 3 * MIB + 0x4000);
    wal_builder_zero(&f->wal, 4 * MIB);
    chain_begin(f, 1, 3 * MIB);
    assert_false(push_all(f, 1, 3 * MIB, 0));
    assert_failed(f, ERR_MISMATCH,
                  "WAL segment \"000000010000000000000003\" is damaged at LSN 0/304000: magic "
                  "number is 0000, expected D118");
}

static void
test_gap(void **state)
{
    Fixture *f = *state;

    records_until(f, 6 * MIB + 0x4000);
    chain_begin(f, 1, 3 * MIB);
    assert_true(push_part(f, 1, 3 * MIB, 4 * MIB, 0));
    assert_false(push_part(f, 1, 5 * MIB, 6 * MIB, 0));
    assert_failed(f, ERR_MISMATCH,
                  "WAL segment \"000000010000000000000005\" begins at LSN 0/500000, but the WAL "
                  "before it ends at 0/400000");
}

static void
test_gap_behind_a_segment_cut_short(void **state)
{
    Fixture *f = *state;

    records_until(f, 6 * MIB + 0x4000);
    chain_begin(f, 1, 3 * MIB);
    assert_true(push_part(f, 1, 3 * MIB, 3 * MIB + 0x2000, 0));
    assert_false(push_part(f, 1, 4 * MIB, 5 * MIB, 0));
    assert_failed(f, ERR_MISMATCH,
                  "WAL segment \"000000010000000000000004\" begins at LSN 0/400000, but the WAL "
                  "before it ends at 0/302000");
}

static void
test_gap_before_a_new_timeline(void **state)
{
    Fixture *f = *state;

    records_until(f, 6 * MIB + 0x4000);
    chain_begin(f, 1, 3 * MIB);
    assert_true(push_part(f, 1, 3 * MIB, 3 * MIB + 0x2000, 0));
    assert_false(push_part(f, 2, 4 * MIB, 5 * MIB, 0));
    assert_failed(f, ERR_MISMATCH,
                  "WAL segment \"000000020000000000000004\" begins at LSN 0/400000, but the WAL "
                  "before it ends at 0/302000");
}

static void
test_segment_again(void **state)
{
    Fixture *f = *state;

    records_until(f, 5 * MIB);
    chain_begin(f, 1, 3 * MIB);
    assert_true(push_part(f, 1, 3 * MIB, 4 * MIB, 0));
    assert_false(push_part(f, 1, 3 * MIB, 4 * MIB, 0));
    assert_failed(f, ERR_MISMATCH,
                  "WAL segment \"000000010000000000000003\" begins at LSN 0/300000, but the WAL "
                  "before it ends at 0/400000");
}

static void
test_first_segment_behind_the_start(void **state)
{
    Fixture *f = *state;

    records_until(f, 5 * MIB);
    chain_begin(f, 1, 3 * MIB + 0x28);
    assert_false(push_part(f, 1, 4 * MIB, 5 * MIB, 0));
    assert_failed(f, ERR_MISMATCH,
                  "WAL segment \"000000010000000000000004\" begins at LSN 0/400000, but the WAL "
                  "before it ends at 0/300028");
}

static void
test_older_timeline(void **state)
{
    Fixture *f = *state;

    records_until(f, 5 * MIB);
    chain_begin(f, 2, 3 * MIB);
    assert_false(push_part(f, 1, 3 * MIB, 4 * MIB, 0));
    assert_failed(f, ERR_MISMATCH,
                  "WAL segment \"000000010000000000000003\" is of timeline 1, behind timeline 2");
}

static void
test_segment_too_long(void **state)
{
    Fixture *f = *state;

    records_until(f, 5 * MIB);
    chain_begin(f, 1, 3 * MIB);
    assert_false(push_part(f, 1, 3 * MIB, 5 * MIB, MIB / 4));
    assert_failed(f, ERR_FORMAT,
                  "WAL segment \"000000010000000000000003\" is longer than 1048576 bytes");
}

static void
test_failure_behind_it_is_passed_back(void **state)
{
    Fixture *f = *state;

    records_until(f, 5 * MIB);
    f->recording.fail_at = 3;
    chain_begin(f, 1, 3 * MIB);
    assert_false(push_all(f, 1, 3 * MIB, 0));
    assert_int_equal(f->err.code, ERR_SYSTEM);
}

static void
test_configuration(void **state)
{
    Fixture *f = *state;
    WalCheckConfig config = {.timeline = 1, .segment_size = 12345};
    Error err = ERROR_INIT;

    assert_null(wal_check_new(recorder_new(&f->recording, &err), &config, &f->checked_to, &err));
    assert_int_equal(err.code, ERR_BUG);
    config.segment_size = MIB;
    assert_null(wal_check_new(NULL, &config, &f->checked_to, &err));
    assert_int_equal(f->recording.released, 1); /* with the stage that was not made */
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_passes_intact_wal_on),
        TEST(test_follows_as_bytes_come),
        TEST(test_what_is_before_the_start_is_not_checked),
        TEST(test_first_header_is_checked_nevertheless),
        TEST(test_segments_before_the_start),
        TEST(test_what_is_no_segment_passes),
        TEST(test_switch_within_a_segment),
        TEST(test_timeline_switch),
        TEST(test_timeline_switch_between_segments),
        TEST(test_timeline_switch_back_over_segments),
        TEST(test_first_segment_of_a_later_timeline),
        TEST(test_newer_pages_in_an_old_segment),
        TEST(test_damaged_record),
        TEST(test_damaged_record_over_two_segments),
        TEST(test_zeros_are_damage),
        TEST(test_gap),
        TEST(test_gap_behind_a_segment_cut_short),
        TEST(test_gap_before_a_new_timeline),
        TEST(test_segment_again),
        TEST(test_first_segment_behind_the_start),
        TEST(test_older_timeline),
        TEST(test_segment_too_long),
        TEST(test_failure_behind_it_is_passed_back),
        TEST(test_configuration),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
