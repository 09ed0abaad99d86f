#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "support/chunker.h"
#include "support/manifest_builder.h"
#include "support/problem_log.h"
#include "support/recorder.h"
#include "support/wal_builder.h"
#include "verify/internal.h"

#define MIB       (1u << 20)
#define SYSTEM_ID 4711

/* ---- WAL in memory; the ranges of a manifest; the scan of what is pushed ---- */

typedef struct Fixture {
    WalBuilder wal;
    ManifestBuilder builder;
    Manifest *manifest;
    WalScan *scan;
    Recording recording;
    Sink *stage;
    size_t piece;       /* the bytes come in pieces of this size */
    uint64_t system_id; /* that is known at the end */
    ProblemLog log;
    Error err;
} Fixture;

static void
wal_begin(Fixture *f, uint32_t segment_size, Lsn start)
{
    wal_builder_free(&f->wal);
    wal_builder_init(&f->wal, &(WalBuilderConfig){.magic = 0xD118,
                                                  .timeline = 1,
                                                  .system_id = SYSTEM_ID,
                                                  .segment_size = segment_size,
                                                  .start = start});
}

static int
setup(void **state)
{
    Fixture *f = calloc(1, sizeof *f);

    wal_begin(f, MIB, 2 * MIB);
    manifest_builder_begin(&f->builder, 2, SYSTEM_ID);
    *state = f;
    return 0;
}

static void
scan_free(Fixture *f)
{
    sink_free(f->stage);
    f->stage = NULL;
    wal_scan_free(f->scan);
    f->scan = NULL;
    recording_free(&f->recording);
    f->recording = RECORDING_INIT;
}

static int
teardown(void **state)
{
    Fixture *f = *state;

    scan_free(f);
    wal_builder_free(&f->wal);
    manifest_builder_free(&f->builder);
    manifest_free(f->manifest);
    problem_log_free(&f->log);
    free(f);
    return 0;
}

/* The ranges are those that the test has put into f->builder; each may be scanned several times. */
static void
load_ranges(Fixture *f)
{
    Buf text = BUF_INIT;
    ManifestReader *reader = manifest_reader_new(&f->err);

    manifest_free(f->manifest);
    f->manifest = NULL;
    manifest_builder_finish(&f->builder, &text);
    manifest_builder_begin(&f->builder, 2, SYSTEM_ID);
    assert_true(manifest_reader_feed(reader, (Span){.data = text.data, .len = text.len}, &f->err));
    assert_true(manifest_reader_finish(reader, &f->manifest, &f->err));
    manifest_reader_free(reader);
    buf_free(&text);
}

static void
one_range(Fixture *f, Lsn start, Lsn end)
{
    manifest_builder_wal_range(&f->builder, 1, start, end);
    load_ranges(f);
}

static void
stage_begin(Fixture *f, const char *archive, const char *prefix)
{
    sink_free(f->stage);
    recording_free(&f->recording);
    f->recording = RECORDING_INIT;
    f->stage =
        wal_scan_stage_new(f->scan, archive, prefix, recorder_new(&f->recording, &f->err), &f->err);
    assert_non_null(f->stage);
    assert_true(sink_archive_begin(f->stage, &(Archive){.name = archive}, &f->err));
}

static void
scan_begin(Fixture *f)
{
    scan_free(f);
    f->scan = wal_scan_new(f->manifest, &f->err);
    assert_non_null(f->scan);
    stage_begin(f, "pg_wal.tar", "");
}

static void
push_begin(Fixture *f, const char *path, EntryKind kind, uint64_t size)
{
    Entry entry = {.kind = kind, .path = path, .size = size, .mode = 0600};

    assert_true(sink_entry_begin(f->stage, &entry, &f->err));
}

static void
push_file(Fixture *f, const char *path, Span content)
{
    push_begin(f, path, ENTRY_FILE, content.len);
    if (!chunk_push(f->stage, content, f->piece, &f->err))
        fail_msg("%s", f->err.message);
    assert_true(sink_entry_end(f->stage, true, &f->err));
}

/* Under the name of this timeline. */
static void
push_segment_as(Fixture *f, TimeLineID timeline, Lsn segment)
{
    uint32_t size = f->wal.config.segment_size;
    char name[WAL_NAME_SIZE];

    wal_segment_name(name, timeline, segment / size, size);
    push_file(f, name, wal_builder_span(&f->wal, segment, segment + size));
}

static void
push_segment(Fixture *f, Lsn segment)
{
    push_segment_as(f, 1, segment);
}

/* All of them, the last one filled with zeros. */
static void
push_segments(Fixture *f)
{
    uint32_t size = f->wal.config.segment_size;
    Lsn end = (f->wal.end + size - 1) / size * size;

    if (f->wal.end < end)
        wal_builder_zero(&f->wal, end);
    for (Lsn at = f->wal.begin / size * size; at < end; at += size)
        push_segment(f, at);
}

static const char *
result(Fixture *f)
{
    ProblemSink sink = problem_log_sink(&f->log);
    Reporter reporter = REPORTER_INIT(&sink);

    buf_clear(&f->log.text);
    f->log.count = 0;
    assert_true(wal_scan_report(f->scan, f->system_id, &reporter, &f->err));
    assert_int_equal(reporter.count, f->log.count);
    reporter_free(&reporter);
    return problem_log_text(&f->log);
}

/* What there is to say of the whole WAL. */
static const char *
scan_all(Fixture *f)
{
    scan_begin(f);
    push_segments(f);
    return result(f);
}

/* The one problem, of timeline 1, at `lsn`, with this behind it. */
static void
assert_problem(Fixture *f, Lsn lsn, const char *rest)
{
    Buf expected = BUF_INIT;

    assert_true(buf_printf(&expected, &f->err,
                           "WAL pg_wal.tar " LSN_FORMAT
                           ": WAL parsing failed for timeline 1: in archive "
                           "\"pg_wal.tar\": at LSN " LSN_FORMAT "%s\n",
                           LSN_ARGS(lsn), LSN_ARGS(lsn), rest));
    assert_string_equal(result(f), buf_text(&expected));
    buf_free(&expected);
}

/* Records up to `end`, some of them longer than a page; returns where the first begins. */
static Lsn
records_until(Fixture *f, Lsn end)
{
    Lsn first = wal_builder_record(&f->wal, 10, 0, 100);
    uint32_t length = 30;

    while (f->wal.end + length + 20000 < end) {
        (void)wal_builder_record(&f->wal, 10, 0, length);
        length = length * 5 % 19997 + 24;
    }
    (void)wal_builder_record_until(&f->wal, end);
    return first;
}

/* Five segments of 1 MiB from number 2 on; the range is from within the second to within the
 * fourth. */
static void
five_segments(Fixture *f)
{
    Lsn start;
    Lsn end;

    (void)records_until(f, 3 * MIB + 0x18100);
    start = f->wal.end;
    (void)records_until(f, 5 * MIB + 0x10100);
    end = f->wal.end;
    (void)records_until(f, 6 * MIB + 0x10000);
    wal_builder_zero(&f->wal, 7 * MIB);
    one_range(f, start, end);
}

/* ---- good ranges ---- */

static void
test_range_over_several_segments(void **state)
{
    static const size_t pieces[] = {0, 100000, 8193, 8192, 777, 100};
    Fixture *f = *state;
    const uint8_t *all;

    five_segments(f);
    for (size_t i = 0; i < sizeof pieces / sizeof pieces[0]; i++) {
        f->piece = pieces[i];
        assert_string_equal(scan_all(f), "");
        /* Everything has passed on. */
        all = wal_builder_span(&f->wal, 2 * MIB, 7 * MIB).data;
        assert_int_equal(f->recording.bytes.len, 5 * MIB);
        assert_memory_equal(f->recording.bytes.data, all, 5 * MIB);
    }
}

static void
test_every_segment_size(void **state)
{
    Fixture *f = *state;

    for (uint32_t size = MIB; size <= 16 * MIB; size *= 2) {
        Lsn start;

        wal_begin(f, size, ((Lsn)5 << 32) - size);
        start = wal_builder_record(&f->wal, 10, 0, 100);
        (void)records_until(f, ((Lsn)5 << 32) + 0x4000);
        one_range(f, start, f->wal.end);
        assert_string_equal(scan_all(f), "");
    }
}

/* What is not of the range may be anything. */
static void
test_other_files_pass(void **state)
{
    Fixture *f = *state;
    uint8_t *junk = calloc(1, MIB);

    five_segments(f);
    scan_begin(f);
    memset(junk, 'x', MIB);
    push_file(f, "00000002.history", span_of("1\t0/300000\tno reason\n"));
    push_begin(f, "archive_status", ENTRY_DIRECTORY, 0);
    assert_true(sink_entry_end(f->stage, true, &f->err));
    push_file(f, "archive_status/000000010000000000000003.done", span_of(""));
    push_file(f, "000000010000000000000003.partial", span_of("x"));
    push_file(f, "000000010000000000000002", (Span){.data = junk, .len = MIB});
    push_begin(f, "000000010000000000000003", ENTRY_SYMLINK, 0);
    assert_true(sink_entry_end(f->stage, true, &f->err));
    push_file(f, "000000020000000000000003", (Span){.data = junk, .len = MIB});
    push_segment(f, 3 * MIB);
    push_file(f, "000000020000000000000004", (Span){.data = junk, .len = MIB});
    push_segment(f, 4 * MIB);
    push_segment(f, 5 * MIB);
    push_file(f, "000000010000000000000006", (Span){.data = junk, .len = MIB / 2});
    free(junk);
    assert_string_equal(result(f), "");
}

/* Right behind the end there need not be WAL, be it in the same record's page or not. */
static void
test_behind_the_end(void **state)
{
    static const size_t pieces[] = {0, 1, 8, 8192};
    Fixture *f = *state;
    Lsn start = wal_builder_record(&f->wal, 10, 0, 300);
    Lsn cut;
    Lsn end;

    (void)wal_builder_record(&f->wal, 10, 0, 9000);
    cut = wal_builder_record(&f->wal, 10, 0, 20001);
    end = f->wal.end;
    wal_builder_zero(&f->wal, 3 * MIB);
    for (Lsn at = end; at < 3 * MIB; at++)
        *wal_builder_at(&f->wal, at) = 'x';
    for (size_t i = 0; i < sizeof pieces / sizeof pieces[0]; i++) {
        f->piece = pieces[i];
        one_range(f, start, end);
        assert_string_equal(scan_all(f), "");
        /* The last record goes beyond the end: it belongs to the range. */
        one_range(f, start, cut + 24);
        assert_string_equal(scan_all(f), "");
        one_range(f, start, end - 8);
        assert_string_equal(scan_all(f), "");
        one_range(f, start, end + 8);
        assert_true(*scan_all(f) != '\0');
    }
    *wal_builder_at(&f->wal, cut + 9000) ^= 1;
    one_range(f, start, cut + 24);
    (void)scan_all(f);
    assert_int_equal(f->log.count, 1);
    one_range(f, start, cut);
    assert_string_equal(scan_all(f), "");
}

static void
test_last_record_goes_into_the_next_segment(void **state)
{
    Fixture *f = *state;
    Lsn start = wal_builder_record(&f->wal, 10, 0, 300);
    Lsn last;

    (void)wal_builder_record_until(&f->wal, 3 * MIB - 0x2000 - 256);
    last = wal_builder_record(&f->wal, 10, 0, 30000);
    one_range(f, start, last + 24);
    assert_string_equal(scan_all(f), "");
    scan_begin(f);
    push_segment(f, 2 * MIB);
    assert_problem(f, 3 * MIB, " in segment \"000000010000000000000003\": file is missing");
}

/* A timeline's first segment repeats the one before it up to where they part. */
static void
test_timelines(void **state)
{
    Fixture *f = *state;
    Lsn start = wal_builder_record(&f->wal, 10, 0, 300);
    Lsn parted;

    (void)records_until(f, 3 * MIB + 0x20100);
    parted = f->wal.end;
    f->wal.config.timeline = 2;
    (void)records_until(f, 4 * MIB + 0x10000);
    manifest_builder_wal_range(&f->builder, 2, parted, f->wal.end);
    manifest_builder_wal_range(&f->builder, 1, start, parted);
    load_ranges(f);
    wal_builder_zero(&f->wal, 5 * MIB);

    scan_begin(f);
    push_segment(f, 2 * MIB);
    push_segment_as(f, 2, 3 * MIB);
    push_segment_as(f, 1, 3 * MIB);
    push_segment_as(f, 2, 4 * MIB);
    assert_string_equal(result(f), "");

    scan_begin(f);
    push_segment(f, 2 * MIB);
    push_segment_as(f, 2, 3 * MIB);
    assert_string_equal(result(f),
                        "WAL pg_wal.tar 0/400000: WAL parsing failed for timeline 2: in archive "
                        "\"pg_wal.tar\": at LSN 0/400000 in segment \"000000020000000000000004\": "
                        "file is missing\n"
                        "WAL pg_wal.tar 0/300000: WAL parsing failed for timeline 1: in archive "
                        "\"pg_wal.tar\": at LSN 0/300000 in segment \"000000010000000000000003\": "
                        "file is missing\n");
    f->log.limit = 1;
    assert_null(strstr(result(f), "timeline 1:"));
}

/* Manifests of version 1 do not say which cluster they are of: whatever the WAL says. */
static void
test_unknown_system(void **state)
{
    Fixture *f = *state;
    Lsn start = wal_builder_record(&f->wal, 10, 0, 300);

    (void)wal_builder_record(&f->wal, 10, 0, 300);
    manifest_builder_free(&f->builder);
    manifest_builder_begin(&f->builder, 1, 0);
    one_range(f, start, f->wal.end);
    assert_string_equal(scan_all(f), "");
    manifest_builder_free(&f->builder);
    manifest_builder_begin(&f->builder, 2, SYSTEM_ID + 1);
    one_range(f, start, f->wal.end);
    assert_non_null(strstr(scan_all(f), "system identifier is 4711, expected 4712"));
}

/* What pg_control says, at the end of the archive. */
static void
test_system_that_is_known_at_the_end(void **state)
{
    Fixture *f = *state;
    Lsn start = wal_builder_record(&f->wal, 10, 0, 300);

    (void)wal_builder_record(&f->wal, 10, 0, 300);
    manifest_builder_free(&f->builder);
    manifest_builder_begin(&f->builder, 1, 0);
    one_range(f, start, f->wal.end);
    f->system_id = SYSTEM_ID;
    assert_string_equal(scan_all(f), "");
    f->system_id = SYSTEM_ID + 1;
    assert_non_null(strstr(scan_all(f), "system identifier is 4711, expected 4712"));
    assert_int_equal(f->log.count, 1);
}

/* The pages of a range that begins behind the first page of its segment are like that one. */
static void
test_first_page_of_another_version(void **state)
{
    static const size_t pieces[] = {1000000, 8192, 1001, 7};
    Fixture *f = *state;

    five_segments(f);
    *wal_builder_at(&f->wal, 3 * MIB) = 0x16; /* 0xD116: 17, not 18 */
    for (size_t i = 0; i < sizeof pieces / sizeof pieces[0]; i++) {
        f->piece = pieces[i];
        scan_begin(f);
        push_segments(f);
        assert_non_null(strstr(result(f), "magic number is D118, expected D116"));
    }
}

static void
test_first_page_of_another_cluster(void **state)
{
    Fixture *f = *state;

    manifest_builder_free(&f->builder);
    manifest_builder_begin(&f->builder, 1, 0);
    five_segments(f);
    *wal_builder_at(&f->wal, 3 * MIB + 24) ^= 1;
    scan_begin(f);
    push_segments(f);
    assert_non_null(strstr(result(f), "system identifier is 4711, expected 4710"));
}

static void
test_prefix(void **state)
{
    Fixture *f = *state;
    Lsn start = wal_builder_record(&f->wal, 10, 0, 300);

    wal_builder_zero(&f->wal, 3 * MIB);
    one_range(f, start, start + 8);
    scan_begin(f);
    stage_begin(f, "base.tar.gz", "pg_wal/");
    push_segment(f, 2 * MIB);
    push_file(f, "backup/000000010000000000000002", wal_builder_span(&f->wal, 2 * MIB, 3 * MIB));
    assert_non_null(
        strstr(result(f), "in archive \"base.tar.gz\": at LSN 0/200028: no whole WAL segment\n"));
    push_file(f, "pg_wal/000000010000000000000002", wal_builder_span(&f->wal, 2 * MIB, 3 * MIB));
    assert_string_equal(result(f), "");
}

/* ---- damage ---- */

/* Every byte that belongs to the range is looked at, and no other. */
static void
test_any_flipped_byte_is_found(void **state)
{
    Fixture *f = *state;
    const ManifestWalRange *range;
    size_t found = 0;

    five_segments(f);
    range = manifest_wal_range(f->manifest, 0);
    for (Lsn at = 2 * MIB; at < 7 * MIB; at += 40961) {
        uint8_t *byte = wal_builder_at(&f->wal, at);
        bool inside = at >= range->start && at < range->end;

        if (at % 8192 >= 20 && at % 8192 < 24)
            continue; /* padding of the page header */
        *byte ^= 0x40;
        if (*scan_all(f) != '\0') {
            found++;
            if (!inside && at / 8192 != range->start / 8192)
                fail_msg("%s of " LSN_FORMAT, problem_log_text(&f->log), LSN_ARGS(at));
        } else if (inside && *byte != 0x40) { /* what was zero may have been padding */
            fail_msg("nothing found at " LSN_FORMAT, LSN_ARGS(at));
        }
        *byte ^= 0x40;
    }
    assert_in_range(found, 45, 52);
    assert_string_equal(scan_all(f), "");
}

/* Recovery reads the header of the segment in which the range begins. */
static void
test_header_of_the_first_segment(void **state)
{
    Fixture *f = *state;

    five_segments(f);
    *wal_builder_at(&f->wal, 3 * MIB + 32) ^= 1; /* the segment size */
    scan_begin(f);
    push_segments(f);
    assert_non_null(strstr(result(f), "at LSN 0/300000 in segment "
                                      "\"000000010000000000000003\": "));
}

static void
test_damage_does_not_depend_on_pieces(void **state)
{
    static const size_t pieces[] = {1000000, 8192, 1001, 100};
    Fixture *f = *state;
    char *expected;

    five_segments(f);
    *wal_builder_at(&f->wal, 4 * MIB + 0x8765) ^= 0x40;
    expected = strdup(scan_all(f));
    assert_int_equal(f->log.count, 1);
    for (size_t i = 0; i < sizeof pieces / sizeof pieces[0]; i++) {
        f->piece = pieces[i];
        assert_string_equal(scan_all(f), expected);
    }
    free(expected);
}

static void
test_missing_segments(void **state)
{
    Fixture *f = *state;

    five_segments(f);
    scan_begin(f);
    assert_problem(f, 3 * MIB + 0x18100, ": no whole WAL segment");
    push_segment(f, 2 * MIB);
    assert_problem(f, 3 * MIB + 0x18100,
                   " in segment \"000000010000000000000003\": file is missing");
    push_segment(f, 4 * MIB);
    assert_problem(f, 3 * MIB + 0x18100,
                   " in segment \"000000010000000000000003\": file is missing");
    push_segment(f, 3 * MIB);
    assert_problem(f, 4 * MIB, " in segment \"000000010000000000000004\": file is missing");
    push_segment(f, 5 * MIB);
    push_segment(f, 3 * MIB); /* once more is once too often, but no harm */
    assert_problem(f, 4 * MIB, " in segment \"000000010000000000000004\": file is missing");
    push_segment(f, 4 * MIB);
    assert_problem(f, 5 * MIB, " in segment \"000000010000000000000005\": file is missing");
    push_segment(f, 5 * MIB);
    assert_string_equal(result(f), "");
}

static void
test_segments_of_another_size(void **state)
{
    Fixture *f = *state;

    five_segments(f);
    scan_begin(f);
    push_segment(f, 2 * MIB);
    push_file(f, "000000010000000000000003", wal_builder_span(&f->wal, 3 * MIB, 4 * MIB - 8192));
    assert_problem(f, 3 * MIB + 0x18100,
                   " in segment \"000000010000000000000003\": file has size 1040384, but WAL "
                   "segments have size 1048576");
    push_file(f, "000000010000000000000003", span_of("x"));
    push_segment(f, 3 * MIB);
    assert_problem(f, 3 * MIB + 0x18100, /* the first thing is enough */
                   " in segment \"000000010000000000000003\": file has size 1040384, but WAL "
                   "segments have size 1048576");

    scan_begin(f);
    push_segment(f, 3 * MIB);
    push_file(f, "000000010000000000000004", wal_builder_span(&f->wal, 4 * MIB, 6 * MIB));
    assert_problem(f, 4 * MIB,
                   " in segment \"000000010000000000000004\": file has size 2097152, but WAL "
                   "segments have size 1048576");

    scan_begin(f); /* no segment has such a size */
    push_file(f, "000000010000000000000003", wal_builder_span(&f->wal, 3 * MIB, 4 * MIB - 8192));
    assert_non_null(strstr(result(f), ": no whole WAL segment\n"));
}

/* An archive that ends within a segment; what comes after it is not taken for its continuation. */
static void
test_archive_cut_within_a_segment(void **state)
{
    Fixture *f = *state;

    five_segments(f);
    scan_begin(f);
    push_segment(f, 3 * MIB);
    push_begin(f, "000000010000000000000004", ENTRY_FILE, MIB);
    assert_true(sink_data(f->stage, wal_builder_span(&f->wal, 4 * MIB, 4 * MIB + 0x8000), &f->err));
    assert_problem(f, 4 * MIB + 0x8000,
                   " in segment \"000000010000000000000004\": the archive ends here");
    stage_begin(f, "pg_wal.tar.gz", "");
    push_segment(f, 2 * MIB);
    push_segment(f, 4 * MIB);
    push_segment(f, 5 * MIB);
    assert_non_null(strstr(result(f), "0/408000 in segment \"000000010000000000000004\": the "
                                      "archive ends here\n"));
}

/* ---- odd ranges ---- */

static void
test_ranges_that_no_server_writes(void **state)
{
    Fixture *f = *state;

    five_segments(f);
    one_range(f, 0x300100, 0x300000);
    (void)scan_all(f);
    assert_problem(f, 0x300100, ": the range ends before it begins, at 0/300000");
    one_range(f, 0x318100, 0x318100); /* of nothing: but where it would be must be there */
    assert_string_equal(scan_all(f), "");
    scan_begin(f);
    push_segment(f, 2 * MIB);
    (void)result(f);
    assert_int_equal(f->log.count, 1);
    *wal_builder_at(&f->wal, 3 * MIB) ^= 1; /* the header of its page */
    (void)scan_all(f);
    assert_int_equal(f->log.count, 1);
    one_range(f, 0, 0);
    scan_begin(f);
    (void)result(f);
    assert_int_equal(f->log.count, 1);
    one_range(f, UINT64_MAX - 7, UINT64_MAX);
    (void)scan_all(f);
    assert_int_equal(f->log.count, 1);
}

static void
test_no_ranges(void **state)
{
    Fixture *f = *state;

    five_segments(f);
    load_ranges(f);
    assert_string_equal(scan_all(f), "");
}

/* What the next stage says is no damage. */
static void
test_failure_of_the_next_stage(void **state)
{
    Fixture *f = *state;

    five_segments(f);
    scan_begin(f);
    f->recording.fail_at = f->recording.events + 2;
    push_begin(f, "000000010000000000000003", ENTRY_FILE, MIB);
    assert_false(sink_data(f->stage, wal_builder_span(&f->wal, 3 * MIB, 3 * MIB + 100), &f->err));
    assert_int_equal(f->err.code, ERR_SYSTEM);
}

static void
test_no_next_stage(void **state)
{
    Fixture *f = *state;

    five_segments(f);
    f->scan = wal_scan_new(f->manifest, &f->err);
    (void)error_set(&f->err, ERR_MEMORY, "the next one's");
    assert_null(wal_scan_stage_new(f->scan, "a", "", NULL, &f->err));
    assert_string_equal(f->err.message, "the next one's");
    wal_scan_free(NULL);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_range_over_several_segments),
        TEST(test_every_segment_size),
        TEST(test_other_files_pass),
        TEST(test_behind_the_end),
        TEST(test_last_record_goes_into_the_next_segment),
        TEST(test_timelines),
        TEST(test_unknown_system),
        TEST(test_system_that_is_known_at_the_end),
        TEST(test_first_page_of_another_version),
        TEST(test_first_page_of_another_cluster),
        TEST(test_prefix),
        TEST(test_any_flipped_byte_is_found),
        TEST(test_header_of_the_first_segment),
        TEST(test_damage_does_not_depend_on_pieces),
        TEST(test_missing_segments),
        TEST(test_segments_of_another_size),
        TEST(test_archive_cut_within_a_segment),
        TEST(test_ranges_that_no_server_writes),
        TEST(test_no_ranges),
        TEST(test_failure_of_the_next_stage),
        TEST(test_no_next_stage),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
