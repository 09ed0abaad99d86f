/*
 * What an archive holds and whether it is whole, for archives that are built record by record:
 * segments of 1 MB, so that segment n begins at n << 20.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "archive/archive.h"
#include "support/temp_dir.h"
#include "support/wal_builder.h"

#define SIZE       ((uint32_t)1 << 20)
#define AT(number) ((Lsn)(number) << 20)
#define SYSTEM     0x6B2F00D5EEDF00D1u
#define RECORD     5000u /* some bytes of a record: one that ends in the next segment, always */

typedef struct Fixture {
    TempDir dir;
    WalBuilder wal;
    Inventory archive;
    ArchiveGaps gaps;
    ArchiveCheckConfig config;
    ArchiveCheckSummary summary;
    Buf findings; /* "KIND FILE;" of each, with a '~' before one that does not count */
} Fixture;

static int
set_up(void **state)
{
    Fixture *fixture = calloc(1, sizeof *fixture);

    assert_non_null(fixture);
    temp_dir_make(&fixture->dir);
    wal_builder_init(&fixture->wal, &(WalBuilderConfig){.magic = 0xD118,
                                                        .timeline = 1,
                                                        .system_id = SYSTEM,
                                                        .segment_size = SIZE,
                                                        .start = AT(1)});
    fixture->config.late_seconds = 600;
    *state = fixture;
    return 0;
}

static int
tear_down(void **state)
{
    Fixture *fixture = *state;

    wal_builder_free(&fixture->wal);
    inventory_free(&fixture->archive);
    archive_gaps_free(&fixture->gaps);
    temp_dir_remove(&fixture->dir);
    buf_free(&fixture->findings);
    free(fixture);
    return 0;
}

/* ---- building ---- */

static void
name_of(char name[WAL_NAME_SIZE], TimeLineID timeline, uint64_t number)
{
    wal_segment_name(name, timeline, number, SIZE);
}

static void
fill_to(Fixture *fixture, uint64_t number)
{
    while (fixture->wal.end < AT(number))
        (void)wal_builder_record(&fixture->wal, 10, 0, RECORD);
}

static void
put_as(Fixture *fixture, uint64_t number, const char *name)
{
    Span bytes = wal_builder_span(&fixture->wal, AT(number), AT(number + 1));

    temp_dir_write(&fixture->dir, name, bytes.data, bytes.len);
}

static void
put(Fixture *fixture, TimeLineID timeline, uint64_t first, uint64_t last)
{
    for (uint64_t number = first; number <= last; number++) {
        char name[WAL_NAME_SIZE];

        name_of(name, timeline, number);
        put_as(fixture, number, name);
    }
}

static void
drop(Fixture *fixture, const char *name)
{
    assert_int_equal(remove(temp_dir_path(&fixture->dir, name)), 0);
}

static void
put_history(Fixture *fixture, TimeLineID timeline, const char *text)
{
    char name[WAL_NAME_SIZE];

    wal_history_name(name, timeline);
    temp_dir_write(&fixture->dir, name, text, strlen(text));
}

/* Timeline 1 up to segment 4, then timeline 2 from within segment 5 up to 7. */
static void
put_two_timelines(Fixture *fixture)
{
    char text[64];

    fill_to(fixture, 5);
    (void)wal_builder_record(&fixture->wal, 10, 0, RECORD);
    put(fixture, 1, 1, 4);
    (void)snprintf(text, sizeof text, "1\t" LSN_FORMAT "\tno reason\n", LSN_ARGS(fixture->wal.end));
    put_history(fixture, 2, text);
    fixture->wal.config.timeline = 2;
    fill_to(fixture, 8);
    put(fixture, 2, 5, 7);
}

/* ---- looking ---- */

static bool
note(void *ctx, const ArchiveFinding *finding)
{
    Fixture *fixture = ctx;
    Error err = ERROR_INIT;

    assert_non_null(finding->message);
    assert_true(buf_printf(
        &fixture->findings, &err, "%s%s %s;", archive_finding_counts(finding) ? "" : "~",
        archive_finding_name(finding->kind), finding->file == NULL ? "-" : finding->file));
    return true;
}

static const char *
findings(Fixture *fixture)
{
    Error err = ERROR_INIT;

    buf_clear(&fixture->findings);
    inventory_free(&fixture->archive);
    archive_gaps_free(&fixture->gaps);
    assert_true(inventory_read(&fixture->archive, fixture->dir.path, &err));
    assert_true(archive_gaps_load(&fixture->gaps, fixture->dir.path, &err));
    fixture->config.archive = &fixture->archive;
    fixture->config.gaps = &fixture->gaps;
    fixture->config.finding = note;
    fixture->config.ctx = fixture;
    fixture->config.jobs = 2;
    if (!archive_check(&fixture->config, &fixture->summary, &err))
        fail_msg("%s", err.message);
    return buf_text(&fixture->findings);
}

/* ---- inventory ---- */

static void
test_names(void **state)
{
    Fixture *fixture = *state;
    static const char *const names[] = {"000000010000000000000001",
                                        "000000010000000000000001.gz.partial",
                                        "00000001000000000000000F.lz4",
                                        "000000010000000000000001.00000028.backup",
                                        "000000010000000000000001.00000028.backup.zst",
                                        "00000002.history",
                                        "0000000A.history.gz",
                                        "pgstow_known_gaps",
                                        "000000010000000000000001.damaged.2",
                                        "000000010000000000000002.tmp.zst",
                                        "00000001000000000000000f",
                                        "00000000000000000000000F",
                                        "000000010000000000001000",
                                        "backup_label"};
    Error err = ERROR_INIT;

    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        temp_dir_write(&fixture->dir, names[i], "x", 1);
    fill_to(fixture, 2);
    put(fixture, 1, 1, 1);
    assert_true(inventory_read(&fixture->archive, fixture->dir.path, &err));
    assert_int_equal(fixture->archive.segment_size, SIZE);
    assert_true(fixture->archive.system_id == SYSTEM);
    assert_int_equal(fixture->archive.segment_count, 3);
    assert_int_equal(fixture->archive.history_count, 2);
    assert_int_equal(fixture->archive.backup_count, 2);
    assert_int_equal(fixture->archive.backups[1].compression, COMPRESSION_ZSTD);
    assert_int_equal(fixture->archive.other_count, 7);
    assert_int_equal(fixture->archive.timeline_count, 3);
    assert_false(fixture->archive.histories[0].sound);
    for (size_t i = 0; i < fixture->archive.other_count; i++) {
        const ArchiveOther *other = &fixture->archive.others[i];
        ArchiveOtherKind kind = ARCHIVE_STRAY;

        if (strstr(other->name, "damaged") != NULL)
            kind = ARCHIVE_SET_ASIDE;
        else if (strstr(other->name, ".tmp") != NULL)
            kind = ARCHIVE_TEMPORARY;
        else if (strstr(other->name, "gaps") != NULL)
            kind = ARCHIVE_KNOWN_GAPS;
        assert_int_equal(other->kind, kind);
    }
}

static void
test_ranges(void **state)
{
    Fixture *fixture = *state;
    Error err = ERROR_INIT;
    ArchiveRange range;
    size_t cursor = 0;

    fill_to(fixture, 10);
    put(fixture, 1, 1, 3);
    put(fixture, 1, 6, 8);
    put_as(fixture, 9, "000000010000000000000009.partial");
    assert_true(inventory_read(&fixture->archive, fixture->dir.path, &err));
    assert_true(
        archive_range_next(&fixture->archive, &fixture->archive.timelines[0], &cursor, &range));
    assert_true(range.first == 1 && range.last == 3 && range.partial == 0);
    assert_true(
        archive_range_next(&fixture->archive, &fixture->archive.timelines[0], &cursor, &range));
    assert_true(range.first == 6 && range.last == 9 && range.partial == 1);
    assert_false(
        archive_range_next(&fixture->archive, &fixture->archive.timelines[0], &cursor, &range));
}

/* ---- what is whole ---- */

static void
test_whole(void **state)
{
    Fixture *fixture = *state;

    put_two_timelines(fixture);
    assert_string_equal(findings(fixture), "");
    assert_int_equal(fixture->summary.segments, 7);
    put_as(fixture, 5, "000000010000000000000005.partial");
    assert_string_equal(findings(fixture), "");
    /* The old server went on for a while. */
    put_as(fixture, 1, "backup_label");
    assert_string_equal(findings(fixture), "~stray backup_label;");
}

/* An archive is shortened at some place, on all timelines. */
static void
test_shortened(void **state)
{
    Fixture *fixture = *state;

    put_two_timelines(fixture);
    for (uint64_t number = 1; number <= 4; number++) {
        char name[WAL_NAME_SIZE];

        name_of(name, 1, number);
        drop(fixture, name);
        assert_string_equal(findings(fixture), "");
    }
    drop(fixture, "000000020000000000000005");
    assert_string_equal(findings(fixture), "");
}

/* A record that is longer than a segment, and one that replaces a lost one. */
static void
test_long_records(void **state)
{
    Fixture *fixture = *state;

    fill_to(fixture, 2);
    (void)wal_builder_record(&fixture->wal, 10, 0, 3 * SIZE);
    (void)wal_builder_overwrite(&fixture->wal, 3 * WAL_BUILDER_PAGE, 2);
    fill_to(fixture, 8);
    put(fixture, 1, 1, 7);
    assert_string_equal(findings(fixture), "");
    *wal_builder_at(&fixture->wal, AT(4) + 5000) ^= 1;
    put(fixture, 1, 4, 4);
    assert_string_equal(findings(fixture), "damaged 000000010000000000000002;");
}

static void
test_partial(void **state)
{
    Fixture *fixture = *state;

    fill_to(fixture, 3);
    (void)wal_builder_record(&fixture->wal, 10, 0, RECORD);
    wal_builder_zero(&fixture->wal, AT(4));
    put(fixture, 1, 1, 2);
    put_as(fixture, 3, "000000010000000000000003.partial");
    assert_string_equal(findings(fixture), "");
    /* Not so as a complete one. */
    put(fixture, 1, 3, 3);
    assert_string_equal(findings(fixture), "truncated 000000010000000000000003;");
}

static void
test_damaged_partial(void **state)
{
    Fixture *fixture = *state;

    fill_to(fixture, 4);
    *wal_builder_at(&fixture->wal, AT(3) + SIZE / 2 + 100) ^= 1;
    put(fixture, 1, 1, 2);
    put_as(fixture, 3, "000000010000000000000003.partial");
    assert_string_equal(findings(fixture), "damaged 000000010000000000000003.partial;");
}

/* ---- what is not ---- */

static void
test_holes(void **state)
{
    Fixture *fixture = *state;

    put_two_timelines(fixture);
    drop(fixture, "000000010000000000000002");
    drop(fixture, "000000010000000000000004");
    drop(fixture, "000000020000000000000005");
    assert_string_equal(findings(fixture), "missing 000000010000000000000002;"
                                           "missing 000000010000000000000004;"
                                           "missing 000000020000000000000005;");
}

/* The number of one stray segment may be astronomical. */
static void
test_huge_hole(void **state)
{
    Fixture *fixture = *state;

    fill_to(fixture, 3);
    put(fixture, 1, 1, 2);
    put_as(fixture, 2, "00000001FFFFFFFF00000FFF");
    assert_string_equal(findings(fixture), "missing 000000010000000000000003;"
                                           "misnamed 00000001FFFFFFFF00000FFF;");
}

static void
test_joint(void **state)
{
    Fixture *fixture = *state;

    fill_to(fixture, 4);
    put(fixture, 1, 1, 3);
    /* In the part of a record that is behind the end of its segment. */
    *wal_builder_at(&fixture->wal, AT(2) + 60) ^= 1;
    put(fixture, 1, 2, 2);
    assert_string_equal(findings(fixture), "damaged 000000010000000000000001;");
}

static void
test_gaps(void **state)
{
    Fixture *fixture = *state;
    const ArchiveGap gap = {.start = AT(2), .end = AT(4), .reason = "lost in the move"};
    Error err = ERROR_INIT;

    fill_to(fixture, 8);
    put(fixture, 1, 1, 1);
    put(fixture, 1, 6, 7);
    assert_true(archive_gap_add(fixture->dir.path, &gap, &err));
    assert_string_equal(findings(fixture), "~missing 000000010000000000000002;"
                                           "missing 000000010000000000000004;");
    assert_string_equal(fixture->gaps.gaps[0].reason, "lost in the move");
    assert_int_equal(fixture->summary.known, 1);
}

static void
test_bad_gaps(void **state)
{
    static const char *const bad[] = {"1\n",
                                      "1 0/1 0/1 now reason\n",
                                      "1 0/2 0/1 now reason\n",
                                      "x 0/1 0/2 now reason\n",
                                      "1 0/1 0/2 now\n",
                                      "1 0/1 0/2 now \x1b[31m\n",
                                      "1 0/1 0/2 2026-11-22T00:00:00.000Z reason\n"};
    const ArchiveGap gaps[] = {{.start = 2, .end = 2, .reason = "x"},
                               {.start = 1, .end = 2, .reason = ""},
                               {.start = 1, .end = 2, .reason = "two\nlines"}};
    Fixture *fixture = *state;
    Error err = ERROR_INIT;

    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_false(archive_gaps_parse(&fixture->gaps, span_of(bad[i]), &err));
        assert_int_equal(err.code, ERR_FORMAT);
        archive_gaps_free(&fixture->gaps);
    }
    for (size_t i = 0; i < sizeof gaps / sizeof gaps[0]; i++) {
        assert_false(archive_gap_add(fixture->dir.path, &gaps[i], &err));
        assert_int_equal(err.code, ERR_USAGE);
    }
    assert_true(
        archive_gaps_parse(&fixture->gaps, span_of("# no\n\n* 0/1 1/0 then why not"), &err));
    assert_int_equal(fixture->gaps.count, 1);
    assert_int_equal(fixture->gaps.gaps[0].timeline, 0);
}

static void
test_since(void **state)
{
    Fixture *fixture = *state;

    put_two_timelines(fixture);
    drop(fixture, "000000010000000000000002");
    fixture->config.since = AT(3);
    assert_string_equal(findings(fixture), "");
    fixture->config.since = AT(2) + 8;
    assert_string_equal(findings(fixture), "missing 000000010000000000000002;");
    fixture->config.since = AT(9);
    assert_string_equal(findings(fixture), "missing 000000020000000000000009;");
    fixture->config.since_timeline = 3;
    assert_string_equal(findings(fixture), "missing 000000030000000000000009;");
}

static void
test_empty(void **state)
{
    assert_string_equal(findings(*state), "missing -;");
}

int
main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(test_names),           TEST(test_ranges),       TEST(test_whole),
        TEST(test_shortened),       TEST(test_long_records), TEST(test_partial),
        TEST(test_damaged_partial), TEST(test_holes),        TEST(test_huge_hole),
        TEST(test_joint),           TEST(test_gaps),         TEST(test_bad_gaps),
        TEST(test_since),           TEST(test_empty),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
