/*
 * Where an archive ends: which complete segment is the newest, on which timeline it goes on, what
 * is missing, whose WAL it is.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "unit/archive_fixture.h"

/* ---- opened files, counted ---- */

static size_t opened;

int __real_open64(const char *path, int flags, ...);
int __wrap_open64(const char *path, int flags, ...);

int
__wrap_open64(const char *path, int flags, ...)
{
    mode_t mode = 0;

    if ((flags & O_CREAT) != 0) {
        va_list args;

        va_start(args, flags);
        mode = (mode_t)va_arg(args, int);
        va_end(args);
    }
    opened++;
    return __real_open64(path, flags, mode);
}

/* ---- complete segments ---- */

static void
test_empty_directory(void **state)
{
    assert_no_segment(*state);
}

static void
test_complete(void **state)
{
    for (size_t i = 0; i < ARCHIVE_METHODS; i++) {
        TestArchive *here = *state;

        archive_clear(here);
        archive_put(here, 1, 1, archive_methods[i], COMPLETE);
        assert_at_segment(here, 1, 2);
        assert_int_equal(here->resume.system_id, ARCHIVE_SYSTEM_ID);
        archive_put(here, 1, 2, archive_methods[(i + 1) % ARCHIVE_METHODS], COMPLETE);
        assert_at_segment(here, 1, 3);
        /* What is left of it from before does not count. */
        archive_put_partial(here, 1, 2, 1000);
        archive_put_begin(here, 1, 2, COMPRESSION_GZIP, 2000);
        assert_at_segment(here, 1, 3);
        assert_skipped(here, "");
        assert_holes(here, "");
    }
}

static void
test_stray_files(void **state)
{
    static const char *const names[] = {
        "backup_label",
        "x.tmp",
        "00000002.history",
        "00000002.history.gz",
        "000000010000000000000009.00000028.backup",
        "000000010000000000000009.damaged",
        "000000010000000000000009.gz.tmp",
        "000000010000000000000009.partial.gz",
        "00000001000000000000000a",
        "000000010000000000001000", /* beyond what a log file has */
        "000000000000000000000009", /* no timeline */
    };
    TestArchive *here = *state;

    for (size_t i = 0; i < COUNT(names); i++)
        archive_put_bytes(here, names[i], PLAIN, wal_builder_span(&here->wal, MB, 2 * (Lsn)MB));
    temp_dir_mkdir(&here->dir, "archive_status");
    assert_no_segment(here);
    archive_put_complete(here, 1);
    assert_at_segment(here, 1, 2);
    assert_skipped(here, "");
    assert_holes(here, "");
}

/* Whoever asks need not want to be told. */
static void
test_nobody_wants_to_know(void **state)
{
    TestArchive *here = *state;
    WalResumeConfig config = {.directory = here->dir.path, .segment_size = MB};
    Error err = ERROR_INIT;
    WalResume resume;
    WalTail *tail;

    archive_put_complete(here, 1);
    archive_put_complete(here, 3);
    archive_put_bytes(here, "000000010000000000000004", PLAIN, span_of("x"));
    assert_true(wal_resume_find(&config, &resume, &tail, &err));
    assert_null(tail);
    assert_lsn("start", resume.start, archive_start(here, 4));
    wal_tail_free(tail);
}

/* ---- complete segments that are none ---- */

static void
test_wrong_sizes(void **state)
{
    static const off_t sizes[] = {0, 1, 40, MB - 1, MB + 1, 16 * (off_t)MB};

    for (size_t i = 0; i < COUNT(sizes); i++) {
        TestArchive *here = *state;
        char line[100];

        archive_clear(here);
        archive_put_complete(here, 4);
        archive_put_complete(here, 5);
        archive_resize(here, "000000010000000000000005", sizes[i]);
        (void)snprintf(line, sizeof line,
                       "000000010000000000000005: size is %lld, expected 1048576\n",
                       (long long)sizes[i]);
        assert_at_segment(here, 1, 5);
        assert_skipped(here, line);
        /* What was received of it may still be there. */
        archive_put_partial(here, 1, 5, 5000);
        assert_tail(here, 1, 5, archive_record_end(here, archive_start(here, 5) + 5000));
        assert_skipped(here, line);
        /* Nobody looks at what is older than a good one. */
        archive_put_complete(here, 6);
        assert_at_segment(here, 1, 7);
        assert_skipped(here, "");
    }
}

/* A byte anywhere: in a page header, a record header, a record's body. */
static void
test_damaged_chain(void **state)
{
    static const off_t places[] = {0, 8, 33, 8192, 8200, 300000, MB / 2};

    for (size_t i = 0; i < COUNT(places); i++) {
        for (size_t m = 0; m < ARCHIVE_METHODS; m++) {
            TestArchive *here = *state;
            const char *name = archive_file_name(here, 1, 5, archive_methods[m], COMPLETE);
            Lsn at = archive_start(here, 5) + (Lsn)places[i];

            archive_clear(here);
            archive_put_complete(here, 4);
            *wal_builder_at(&here->wal, at) ^= 0x10;
            archive_put(here, 1, 5, archive_methods[m], COMPLETE);
            *wal_builder_at(&here->wal, at) ^= 0x10;
            assert_at_segment(here, 1, 5);
            assert_true(here->skipped.len > 0);
            assert_memory_equal(here->skipped.data, name, strlen(name));
            assert_memory_equal(here->skipped.data + strlen(name), ": at 0/5", 8);
        }
    }
}

static void
test_zero_segment(void **state)
{
    TestArchive *here = *state;

    archive_put_complete(here, 4);
    archive_resize(here, "000000010000000000000005", MB);
    assert_at_segment(here, 1, 5);
    assert_skipped(here, "000000010000000000000005: at 0/500000: invalid magic number 0000\n");
    assert_int_equal(here->resume.system_id, ARCHIVE_SYSTEM_ID);
}

static void
test_damaged_compression(void **state)
{
    for (size_t m = 1; m < ARCHIVE_METHODS; m++) {
        TestArchive *here = *state;
        const char *name = archive_file_name(here, 1, 5, archive_methods[m], COMPLETE);
        struct stat st;
        char lines[300];

        archive_clear(here);
        archive_put_complete(here, 4);
        temp_dir_write(&here->dir, name, "", 0);
        assert_at_segment(here, 1, 5);
        (void)snprintf(lines, sizeof lines, "%s: archive \"%s\" is empty, which %s data never is\n",
                       name, name, compression_method_name(archive_methods[m]));
        assert_skipped(here, lines);

        archive_put(here, 1, 5, archive_methods[m], COMPLETE);
        assert_int_equal(stat(temp_dir_path(&here->dir, name), &st), 0);
        archive_resize(here, name, st.st_size - 1);
        assert_at_segment(here, 1, 5);
        (void)snprintf(lines, sizeof lines,
                       "%s: archive \"%s\" ends after %lld bytes within its %s data\n", name, name,
                       (long long)st.st_size - 1, compression_method_name(archive_methods[m]));
        assert_skipped(here, lines);

        archive_put_bytes(
            here, name, archive_methods[m],
            wal_builder_span(&here->wal, archive_start(here, 5), archive_start(here, 6) - 1));
        assert_at_segment(here, 1, 5);
        (void)snprintf(lines, sizeof lines, "%s: decompressed size is 1048575, expected 1048576\n",
                       name);
        assert_skipped(here, lines);

        archive_put_bytes(
            here, name, archive_methods[m],
            wal_builder_span(&here->wal, archive_start(here, 5), archive_start(here, 6) + 1));
        assert_at_segment(here, 1, 5);
        (void)snprintf(lines, sizeof lines, "%s: decompressed size is over 1048576\n", name);
        assert_skipped(here, lines);

        archive_put(here, 1, 5, PLAIN, COMPLETE);
        assert_at_segment(here, 1, 6);
        assert_skipped(here, "");
    }
}

/* A segment of another place, or of another cluster with other segments. */
static void
test_foreign_content(void **state)
{
    TestArchive *here = *state;

    archive_put_complete(here, 4);
    archive_put_bytes(here, "000000010000000000000005", PLAIN,
                      wal_builder_span(&here->wal, archive_start(here, 6), archive_start(here, 7)));
    assert_at_segment(here, 1, 5);
    assert_skipped(here, "000000010000000000000005: at 0/500000: page address is 0/600000\n");
}

/* Each is told, up to the first good one, and the old ones never are. */
static void
test_several_damaged(void **state)
{
    TestArchive *here = *state;

    archive_put_complete(here, 3);
    archive_put_bytes(here, "000000010000000000000002", PLAIN, span_of("old"));
    archive_put_bytes(here, "000000010000000000000004", PLAIN, span_of(""));
    archive_put_bytes(here, "000000010000000000000005.gz", PLAIN, span_of("?"));
    archive_put_bytes(here, "000000010000000000000006", PLAIN, span_of("12345"));
    archive_put_bytes(here, "000000010000000000000006.zst", PLAIN, span_of("?"));
    assert_at_segment(here, 1, 4);
    assert_skipped(here, "000000010000000000000006: size is 5, expected 1048576\n"
                         "000000010000000000000006.zst: archive \"000000010000000000000006.zst\" "
                         "is not zstd data\n"
                         "000000010000000000000005.gz: archive \"000000010000000000000005.gz\" is "
                         "not gzip data\n"
                         "000000010000000000000004: size is 0, expected 1048576\n");
    assert_holes(here, "");
}

/* Nothing is sound: what is here must be received again from the oldest on. */
static void
test_all_damaged(void **state)
{
    TestArchive *here = *state;

    archive_put_bytes(here, "000000010000000000000005", PLAIN, span_of("x"));
    archive_put_bytes(here, "000000010000000000000006.gz", PLAIN, span_of("x"));
    archive_put_partial(here, 1, 7, 100000);
    assert_at_segment(here, 1, 5);
    assert_int_equal(here->resume.system_id, ARCHIVE_SYSTEM_ID);
    archive_put_partial(here, 1, 5, 100000);
    assert_at_segment(here, 1, 5);
}

/* Two forms of one segment: a damaged one does not hide the good one. */
static void
test_good_form_beside_a_damaged_one(void **state)
{
    for (size_t good = 0; good < ARCHIVE_METHODS; good++) {
        for (size_t bad = 0; bad < ARCHIVE_METHODS; bad++) {
            TestArchive *here = *state;

            if (good == bad)
                continue;
            archive_clear(here);
            archive_put(here, 1, 5, archive_methods[good], COMPLETE);
            archive_put_bytes(here, archive_file_name(here, 1, 5, archive_methods[bad], COMPLETE),
                              PLAIN, span_of("x"));
            archive_put_partial(here, 1, 6, 300000);
            assert_tail(here, 1, 6, archive_record_end(here, archive_start(here, 6) + 300000));
        }
    }
}

static void
test_what_is_no_file(void **state)
{
    TestArchive *here = *state;

    archive_put_complete(here, 4);
    temp_dir_mkdir(&here->dir, "000000010000000000000005");
    temp_dir_mkdir(&here->dir, "000000010000000000000006.gz");
    assert_int_equal(mkfifo(temp_dir_path(&here->dir, "000000010000000000000007"), 0600), 0);
    temp_dir_mkdir(&here->dir, "000000010000000000000005.partial");
    assert_at_segment(here, 1, 5);
    assert_skipped(here, "000000010000000000000007: not a regular file\n"
                         "000000010000000000000006.gz: not a regular file\n"
                         "000000010000000000000005: not a regular file\n");
}

static void
test_segment_behind_a_link(void **state)
{
    TestArchive *here = *state;

    temp_dir_mkdir(&here->dir, "elsewhere");
    archive_put_bytes(here, "elsewhere/file", PLAIN,
                      wal_builder_span(&here->wal, archive_start(here, 5), archive_start(here, 6)));
    assert_int_equal(
        symlink("elsewhere/file", temp_dir_path(&here->dir, "000000010000000000000005")), 0);
    assert_at_segment(here, 1, 6);
}

/* ---- what vanishes, and what cannot be read ---- */

/* As if it had been removed between reading the directory and looking at it. */
static void
test_segments_that_vanish(void **state)
{
    TestArchive *here = *state;

    archive_put_complete(here, 4);
    assert_int_equal(symlink("nowhere", temp_dir_path(&here->dir, "000000010000000000000005")), 0);
    assert_int_equal(symlink("nowhere", temp_dir_path(&here->dir, "000000010000000000000008.gz")),
                     0);
    assert_at_segment(here, 1, 5);
    assert_skipped(here, "");
    assert_holes(here, "");

    assert_int_equal(
        symlink("nowhere", temp_dir_path(&here->dir, "000000010000000000000005.partial")), 0);
    assert_at_segment(here, 1, 5);

    archive_clear(here);
    assert_int_equal(symlink("nowhere", temp_dir_path(&here->dir, "000000010000000000000005")), 0);
    assert_no_segment(here);
}

static void
assert_unreadable(TestArchive *here, const char *path)
{
    WalTail *tail = NULL;
    char message[4400];
    Error err;

    assert_int_equal(symlink(path, path), 0);
    here->resume.start = 99;
    assert_false(archive_find(here, &tail, &err));
    (void)snprintf(message, sizeof message, "could not open file \"%s\": %s", path,
                   strerror(ELOOP));
    assert_string_equal(err.message, message);
    assert_int_equal(err.sys_errno, ELOOP);
    assert_null(tail);
    assert_int_equal(here->resume.start, 99);
    assert_int_equal(unlink(path), 0);
}

static void
test_segments_that_cannot_be_read(void **state)
{
    TestArchive *here = *state;

    archive_put_complete(here, 4);
    assert_unreadable(here, temp_dir_path(&here->dir, "000000010000000000000005"));
    assert_unreadable(here, temp_dir_path(&here->dir, "000000010000000000000005.zst"));
    assert_unreadable(here, temp_dir_path(&here->dir, "000000010000000000000005.partial"));
    assert_unreadable(here, temp_dir_path(&here->dir, "000000010000000000000005.gz.partial"));
    assert_at_segment(here, 1, 5);
}

static void
test_no_directory(void **state)
{
    TestArchive *here = *state;
    const char *path = temp_dir_path(&here->dir, "missing");
    WalResumeConfig config = {.directory = path, .segment_size = MB};
    WalResume resume = {.start = 99};
    Error err = ERROR_INIT;
    char message[4200];
    WalTail *tail = NULL;

    assert_false(wal_resume_find(&config, &resume, &tail, &err));
    (void)snprintf(message, sizeof message, "could not open directory \"%s\": %s", path,
                   strerror(ENOENT));
    assert_string_equal(err.message, message);
    assert_int_equal(resume.start, 99);

    temp_dir_write(&here->dir, "missing", "", 0);
    err = ERROR_INIT;
    assert_false(wal_resume_find(&config, &resume, &tail, &err));
    assert_int_equal(err.sys_errno, ENOTDIR);
    assert_null(tail);
}

/* ---- timelines ---- */

/* WAL of timeline 1 up to `fork`, of timeline 2 from there on. */
static void
wal_with_fork(TestArchive *here, Lsn fork)
{
    WalBuilderConfig config = archive_wal_config(MB);

    archive_wal(here, &config);
    archive_records_until(&here->wal, fork);
    here->wal.config.timeline = 2;
    archive_records(&here->wal, archive_start(here, ARCHIVE_SEGMENTS + 1));
}

/* The position counts first, then the timeline: the other one ended before. */
static void
test_highest_number_then_highest_timeline(void **state)
{
    TestArchive *here = *state;

    archive_put_complete(here, 7);
    wal_with_fork(here, archive_start(here, 4) + 40000);
    archive_put(here, 2, 4, PLAIN, COMPLETE);
    assert_at_segment(here, 1, 8);
    archive_put(here, 2, 7, PLAIN, COMPLETE);
    assert_at_segment(here, 2, 8);
    /* And what the old one has left is no start, even if it is good. */
    archive_put(here, 1, 8, PLAIN, PARTIAL);
    archive_put(here, 2, 8, PLAIN, COMPLETE);
    assert_at_segment(here, 2, 9);
}

/* The segment with the fork is twice there: as far as the old timeline came, and on the new one. */
static void
test_new_timeline(void **state)
{
    TestArchive *here = *state;
    Lsn fork;

    wal_with_fork(here, archive_start(here, 4) + 400000);
    fork = archive_start(here, 4) + 400000;
    archive_put_complete(here, 3);
    archive_put_partial(here, 1, 4, 400000);
    assert_tail(here, 1, 4, fork);
    archive_put_partial(here, 2, 4, 500000);
    assert_tail(here, 2, 4, archive_record_end(here, archive_start(here, 4) + 500000));
    assert_holes(here, "");
    archive_put_partial(here, 2, 4, MB);
    archive_put_partial(here, 2, 5, 500000);
    assert_tail(here, 2, 4, archive_record_end(here, archive_start(here, 5) + 500000));
    archive_put(here, 2, 4, PLAIN, COMPLETE);
    assert_tail(here, 2, 5, archive_record_end(here, archive_start(here, 5) + 500000));
    archive_put(here, 2, 5, COMPRESSION_GZIP, COMPLETE);
    assert_at_segment(here, 2, 6);
    assert_holes(here, "");
}

/* The old timeline's segment is complete, by a server that went on: the new one forked off before.
 */
static void
test_new_timeline_beside_a_complete_segment(void **state)
{
    TestArchive *here = *state;

    archive_put_complete(here, 3);
    archive_put_complete(here, 4);
    wal_with_fork(here, archive_start(here, 4) + 400000);
    archive_put_bytes(here, archive_file_name(here, 1, 3, PLAIN, COMPLETE), PLAIN,
                      wal_builder_span(&here->wal, archive_start(here, 3), archive_start(here, 4)));
    archive_put_partial(here, 2, 4, 600000);
    assert_tail(here, 2, 4, archive_record_end(here, archive_start(here, 4) + 600000));
    /* Without the segment before it nobody knows, and that is a hole in the archive. */
    assert_int_equal(unlink(temp_dir_path(&here->dir, "000000010000000000000003")), 0);
    archive_put_complete(here, 2);
    assert_at_segment(here, 2, 4);
    assert_holes(here, "1 3 3\n");
}

/* The fork is at a segment's end: the new timeline's first segment has no page of the old one. */
static void
test_new_timeline_at_a_segment(void **state)
{
    TestArchive *here = *state;

    wal_with_fork(here, archive_start(here, 4));
    archive_put_complete(here, 3);
    archive_put_partial(here, 2, 4, 300000);
    assert_tail(here, 2, 4, archive_record_end(here, archive_start(here, 4) + 300000));
    archive_put_partial(here, 2, 4, MB);
    archive_put_partial(here, 2, 5, 300000);
    assert_tail(here, 2, 4, archive_record_end(here, archive_start(here, 5) + 300000));
}

/* Before the timeline ended, a segment of it was full and got no name: it comes first. */
static void
test_timeline_ends_in_a_run(void **state)
{
    TestArchive *here = *state;

    wal_with_fork(here, archive_start(here, 5) + 400000);
    archive_put_complete(here, 3);
    archive_put_partial(here, 1, 4, MB);
    archive_put_partial(here, 1, 5, 400000);
    archive_put_partial(here, 2, 5, MB);
    archive_put_partial(here, 2, 6, 10000);
    assert_tail(here, 1, 4, archive_start(here, 5) + 400000);
    archive_put_complete(here, 4);
    assert_tail(here, 2, 5, archive_record_end(here, archive_start(here, 6) + 10000));
}

/* Of a timeline that ended before, in an archive that knows nothing else of it. */
static void
test_partial_of_an_older_timeline(void **state)
{
    TestArchive *here = *state;

    archive_put_partial(here, 1, 7, MB);
    archive_put_partial(here, 1, 6, 1000);
    wal_with_fork(here, archive_start(here, 3) + 400000);
    archive_put(here, 2, 6, PLAIN, COMPLETE);
    assert_at_segment(here, 2, 7);
    archive_put_partial(here, 2, 7, 30000);
    assert_tail(here, 2, 7, archive_record_end(here, archive_start(here, 7) + 30000));
}

/* What the old timeline has beyond the fork is no start once the server's history is known: it
 * would be found newest for ever. */
static void
test_beyond_the_fork(void **state)
{
    TestArchive *here = *state;
    TimelineFork fork = {.timeline = 1, .end = archive_start(here, 4) + 400000};
    const TimelineHistory history = {.timeline = 2, .forks = &fork, .count = 1};

    here->history = &history;
    /* Where nothing else is there it counts: an archive that is not empty. */
    archive_put_complete(here, 6);
    assert_at_segment(here, 1, 7);
    /* The fork is where a segment begins: the one before it is whole. */
    fork.end = archive_start(here, 6);
    archive_put_complete(here, 5);
    assert_at_segment(here, 1, 6);
    fork.end = archive_start(here, 4) + 400000;
    archive_clear(here);
    for (uint64_t number = 3; number <= 6; number++)
        archive_put_complete(here, number);
    archive_put_partial(here, 1, 7, 5000);
    wal_with_fork(here, fork.end);
    archive_put_bytes(here, archive_file_name(here, 1, 3, PLAIN, COMPLETE), PLAIN,
                      wal_builder_span(&here->wal, archive_start(here, 3), archive_start(here, 4)));
    /* Its complete segment is longer than the timeline was for this server. */
    assert_at_segment(here, 1, 4);
    archive_put_partial(here, 2, 4, 600000);
    assert_tail(here, 2, 4, archive_record_end(here, archive_start(here, 4) + 600000));
    archive_put(here, 2, 4, PLAIN, COMPLETE);
    assert_at_segment(here, 2, 5);
    here->history = NULL;
    archive_find_all(here);
    assert_int_equal(here->resume.timeline, 1);
    /* Timelines that the server knows nothing of are for somebody else to judge. */
    here->history = &history;
    archive_put_partial(here, 5, 9, 0);
    archive_put_partial(here, 5, 8, 0);
    archive_find_all(here);
    assert_holes(here, "5 5 7\n");
    here->history = NULL;
}

/* Of two timelines with the same segment the partial one that follows continues its own. */
static void
test_segment_before_on_its_own_timeline(void **state)
{
    TestArchive *here = *state;
    Lsn end = archive_record_end(here, archive_start(here, 5) + 300000);

    archive_put_complete(here, 3);
    archive_put_complete(here, 4);
    archive_put_partial(here, 1, 5, 300000);
    wal_with_fork(here, archive_start(here, 4) + 400000);
    archive_put(here, 2, 4, PLAIN, COMPLETE);
    assert_resume(here, 1, archive_start(here, 5), end);
    /* It is no start of the other one. */
    assert_int_equal(unlink(temp_dir_path(&here->dir, "000000010000000000000004")), 0);
    assert_at_segment(here, 2, 5);
}

/* Pages of a timeline that the name does not know are not its WAL. */
static void
test_pages_of_a_newer_timeline(void **state)
{
    TestArchive *here = *state;

    wal_with_fork(here, archive_start(here, 4) + 400000);
    archive_put_complete(here, 3);
    archive_put_partial(here, 1, 4, MB);
    assert_tail(here, 1, 4, archive_record_end(here, archive_start(here, 4) + 400000));
    archive_put_complete(here, 4);
    assert_tail(here, 1, 4, archive_record_end(here, archive_start(here, 4) + 400000));
    assert_true(strstr(buf_text(&here->skipped), "timeline is 2, expected at most 1") != NULL);
}

/* ---- what is missing ---- */

/* Segment 4 was lost: it is received again, and all that follows with it. */
static void
test_missing_before_the_partial_one(void **state)
{
    TestArchive *here = *state;

    archive_put_complete(here, 2);
    archive_put_complete(here, 3);
    archive_put_partial(here, 1, 5, MB);
    archive_put_partial(here, 1, 6, 300000);
    assert_at_segment(here, 1, 4);
    assert_holes(here, "1 4 4\n");
    /* There is something of it. */
    archive_put_partial(here, 1, 4, 300000);
    assert_tail(here, 1, 4, archive_record_end(here, archive_start(here, 4) + 300000));
    assert_holes(here, "");
    archive_put_partial(here, 1, 4, MB);
    assert_tail(here, 1, 4, archive_record_end(here, archive_start(here, 6) + 300000));
}

/* A damaged segment is as good as a missing one. */
static void
test_missing_before_a_damaged_one(void **state)
{
    TestArchive *here = *state;

    archive_put_complete(here, 3);
    archive_put_bytes(here, "000000010000000000000005", PLAIN, span_of("x"));
    archive_put_partial(here, 1, 6, 300000);
    assert_at_segment(here, 1, 4);
    assert_holes(here, "1 4 4\n");
    archive_put_complete(here, 4);
    assert_at_segment(here, 1, 5);
    assert_holes(here, "");
}

static void
test_missing_among_partial_ones(void **state)
{
    TestArchive *here = *state;

    archive_put_complete(here, 2);
    archive_put_partial(here, 1, 3, MB);
    archive_put_partial(here, 1, 5, MB);
    assert_tail(here, 1, 3, archive_record_end(here, archive_start(here, 4)));
    assert_holes(here, "1 4 4\n");

    archive_clear(here);
    archive_put_partial(here, 1, 1, MB);
    archive_put_partial(here, 1, 3, MB);
    assert_tail(here, 1, 1, archive_record_end(here, archive_start(here, 2)));
    assert_holes(here, "1 2 2\n");
}

/* The segment of the fork is missing on the new timeline, or the end of the old one. */
static void
test_missing_at_a_fork(void **state)
{
    TestArchive *here = *state;

    wal_with_fork(here, archive_start(here, 4) + 400000);
    archive_put_complete(here, 3);
    archive_put_partial(here, 2, 5, MB);
    assert_at_segment(here, 1, 4);
    assert_holes(here, "2 4 4\n");
    archive_put_partial(here, 1, 4, 400000);
    assert_tail(here, 1, 4, archive_start(here, 4) + 400000);
    assert_holes(here, "");
}

/* The new timeline's first segment is there, and what follows it is not. */
static void
test_missing_behind_a_fork(void **state)
{
    TestArchive *here = *state;

    wal_with_fork(here, archive_start(here, 4) + 400000);
    archive_put_complete(here, 3);
    archive_put_partial(here, 1, 4, 400000);
    archive_put_partial(here, 2, 4, MB);
    archive_put_partial(here, 2, 6, MB);
    assert_tail(here, 2, 4, archive_record_end(here, archive_start(here, 5)));
    assert_holes(here, "2 5 5\n");
}

/* What is missing in the middle is told, and that is all that can be done about it here. */
static void
test_holes(void **state)
{
    TestArchive *here = *state;

    archive_put_bytes(here, "000000010000000000000002.gz", PLAIN, span_of("old"));
    archive_put_bytes(here, "000000010000000000000005", PLAIN, span_of("old"));
    archive_put_bytes(here, "000000020000000000000005.partial", PLAIN, span_of("old"));
    archive_put_bytes(here, "000000020000000000000010", PLAIN, span_of("old"));
    archive_put_bytes(here, "000000030000000000000010.zst", PLAIN, span_of("old"));
    archive_put_bytes(here, "000000030000000000000012", PLAIN, span_of("old"));
    archive_wal(here, &(WalBuilderConfig){.magic = 0xD118,
                                          .timeline = 3,
                                          .system_id = 9,
                                          .segment_size = MB,
                                          .start = 19 * (Lsn)MB});
    archive_records(&here->wal, archive_start(here, 21));
    archive_put(here, 3, 19, COMPRESSION_LZ4, COMPLETE);
    archive_put_partial(here, 3, 20, 100000);
    assert_tail(here, 3, 20, archive_record_end(here, archive_start(here, 20) + 100000));
    assert_skipped(here, "");
    assert_holes(here, "1 3 4\n2 6 15\n3 17 17\n");
    assert_int_equal(here->resume.system_id, 9);
}

/* A segment that stayed partial while later ones became complete will never be complete. */
static void
test_partial_in_the_middle(void **state)
{
    TestArchive *here = *state;

    archive_put_complete(here, 2);
    archive_put_partial(here, 1, 3, MB);
    archive_put_complete(here, 4);
    assert_at_segment(here, 1, 5);
    assert_holes(here, "1 3 3\n");
    /* Unless another timeline has it. */
    wal_with_fork(here, archive_start(here, 3) + 400000);
    archive_put(here, 2, 3, PLAIN, COMPLETE);
    archive_put(here, 2, 4, PLAIN, COMPLETE);
    assert_at_segment(here, 2, 5);
    assert_holes(here, "");
    /* Or when it is what is left of an archive that was removed up to here. */
    archive_put_partial(here, 1, 1, MB);
    assert_int_equal(unlink(temp_dir_path(&here->dir, "000000010000000000000002")), 0);
    assert_at_segment(here, 2, 5);
    assert_holes(here, "");
}

/* ---- the cluster ---- */

static void
test_system_id(void **state)
{
    TestArchive *here = *state;
    WalBuilderConfig config = archive_wal_config(MB);

    archive_put_complete(here, 2);
    config.system_id = 5;
    archive_wal(here, &config);
    archive_records(&here->wal, archive_start(here, 5));
    archive_put_partial(here, 1, 3, 400000);
    /* Another cluster's WAL does not continue this one's. */
    assert_at_segment(here, 1, 3);
    assert_int_equal(here->resume.system_id, 5);
    /* Zeros say nothing, nor do a few bytes or another segment's content. */
    archive_put_partial(here, 1, 3, 0);
    assert_at_segment(here, 1, 3);
    assert_int_equal(here->resume.system_id, ARCHIVE_SYSTEM_ID);
    archive_put_begin(here, 1, 3, PLAIN, 39);
    assert_at_segment(here, 1, 3);
    assert_int_equal(here->resume.system_id, ARCHIVE_SYSTEM_ID);
    archive_put_bytes(here, "000000010000000000000003.partial", PLAIN,
                      wal_builder_span(&here->wal, archive_start(here, 2), archive_start(here, 3)));
    assert_at_segment(here, 1, 3);
    assert_int_equal(here->resume.system_id, ARCHIVE_SYSTEM_ID);
    archive_put_begin(here, 1, 3, COMPRESSION_GZIP, 40);
    assert_at_segment(here, 1, 3);
    assert_int_equal(here->resume.system_id, 5);

    archive_clear(here);
    archive_put_bytes(here, "000000010000000000000003", PLAIN, span_of("x"));
    assert_at_segment(here, 1, 3);
    assert_int_equal(here->resume.system_id, 0);
}

/* A cluster made anew with other segments: theirs are none of ours, but say whose they are. */
static void
test_system_id_of_other_segments(void **state)
{
    TestArchive *here = *state;
    WalBuilderConfig config = archive_wal_config(4 * MB);
    const Lsn start = 0x100400000; /* under this name with either size, but not the same segment */

    config.system_id = 6;
    config.start = start;
    archive_wal(here, &config);
    archive_records(&here->wal, start + 4 * MB);
    archive_put_bytes(here, "000000010000000100000001", PLAIN,
                      wal_builder_span(&here->wal, start, start + 4 * MB));
    assert_resume(here, 1, start + 4 * MB, start + 4 * MB);
    here->segment_size = MB;
    assert_resume(here, 1, 0x100100000, 0x100100000);
    assert_skipped(here, "000000010000000100000001: size is 4194304, expected 1048576\n");
    assert_int_equal(here->resume.system_id, 6);
}

/* ---- segment sizes ---- */

/* Where the number's digits carry over. */
static void
test_last_segment_of_a_log_file(void **state)
{
    static const struct {
        uint32_t size;
        Lsn start;
        const char *name;
        const char *next;
    } cases[] = {
        {MB, 0xFFF00000, "000000010000000000000FFF", "000000010000000100000000"},
        {16 * MB, 0x7FF000000, "0000000100000007000000FF", "000000010000000800000000"},
        {64 * MB, 0x1FC000000, "00000001000000010000003F", "000000010000000200000000"},
        {1024 * MB, 0xC0000000, "000000010000000000000003", "000000010000000100000000"},
        {16 * MB, 0xFFFFFFFFFD000000, "00000001FFFFFFFF000000FD", "00000001FFFFFFFF000000FE"},
    };

    for (size_t i = 0; i < COUNT(cases); i++) {
        TestArchive *here = *state;
        WalBuilderConfig config = archive_wal_config(cases[i].size);
        char partial[64];
        Lsn next = cases[i].start + cases[i].size;

        archive_clear(here);
        config.start = cases[i].start;
        archive_wal(here, &config);
        /* Few records and a switch; the zeros behind are in no memory. */
        archive_records(&here->wal, cases[i].start + 100000);
        (void)wal_builder_record(&here->wal, 0, WAL_SWITCH, 24);
        archive_put_bytes(here, cases[i].name, PLAIN,
                          wal_builder_span(&here->wal, cases[i].start, here->wal.end));
        archive_resize(here, cases[i].name, cases[i].size);
        assert_resume(here, 1, next, next);

        config.start = next;
        archive_wal(here, &config);
        archive_records(&here->wal, next + 300000);
        (void)snprintf(partial, sizeof partial, "%s.partial", cases[i].next);
        archive_put_bytes(here, partial, PLAIN, wal_builder_span(&here->wal, next, here->wal.end));
        /* The back link of the first record leads to no record: nothing is good. */
        assert_resume(here, 1, next, next);
        assert_int_equal(unlink(temp_dir_path(&here->dir, cases[i].name)), 0);
        assert_resume(here, 1, next, here->wal.end);
        assert_memory_equal(here->tail.data, here->wal.bytes.data, here->tail.len);
    }
}

/* Behind it there is nothing: going on at 0/0 would be a mistake. */
static void
test_last_segment_of_all(void **state)
{
    TestArchive *here = *state;
    WalTail *tail = NULL;
    char message[4400];
    Error err;

    archive_put_complete(here, 2);
    archive_resize(here, "00000001FFFFFFFF00000FFF", MB);
    here->resume.start = 99;
    assert_false(archive_find(here, &tail, &err));
    (void)snprintf(message, sizeof message,
                   "the newest segment in directory \"%s\" is the last one that there can be",
                   here->dir.path);
    assert_string_equal(err.message, message);
    assert_int_equal(err.code, ERR_FORMAT);
    assert_int_equal(here->resume.start, 99);

    archive_clear(here);
    archive_resize(here, "00000001FFFFFFFF00000FFE", MB);
    archive_resize(here, "00000001FFFFFFFF00000FFF.partial", MB);
    assert_resume(here, 1, 0xFFFFFFFFFFE00000, 0xFFFFFFFFFFE00000);
    archive_clear(here);
    archive_resize(here, "00000001FFFFFFFF00000FFF.partial", MB);
    assert_resume(here, 1, 0xFFFFFFFFFFF00000, 0xFFFFFFFFFFF00000);
}

/* ---- many files ---- */

/* A hundred thousand names, of which only a few files are looked into. */
static void
test_many_files(void **state)
{
    TestArchive *here = *state;
    const unsigned last = 100000;
    WalBuilderConfig config = archive_wal_config(MB);

    for (unsigned i = 1; i < last; i++) {
        char name[64];
        int fd;

        (void)snprintf(name, sizeof name, "%s/%08X%08X%08X%s", here->dir.path, i < 70000 ? 1 : 2,
                       i / 4096, i % 4096, i % 3 == 0 ? ".gz" : "");
        fd = open(name, O_WRONLY | O_CREAT, 0600);
        assert_true(fd >= 0);
        assert_int_equal(close(fd), 0);
    }
    config.timeline = 2;
    config.start = last * (Lsn)MB;
    archive_wal(here, &config);
    archive_records(&here->wal, archive_start(here, last + 2));
    archive_put(here, 2, last, PLAIN, COMPLETE);
    archive_put_partial(here, 2, last + 1, 300000);
    opened = 0;
    assert_tail(here, 2, last + 1,
                archive_record_end(here, archive_start(here, last + 1) + 300000));
    assert_true(opened <= 10);
    assert_skipped(here, "");
    assert_holes(here, "");
}

#define ARCHIVE_TEST(function)                                                                     \
    cmocka_unit_test_setup_teardown(function, archive_set_up, archive_tear_down)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        ARCHIVE_TEST(test_empty_directory),
        ARCHIVE_TEST(test_complete),
        ARCHIVE_TEST(test_stray_files),
        ARCHIVE_TEST(test_nobody_wants_to_know),
        ARCHIVE_TEST(test_wrong_sizes),
        ARCHIVE_TEST(test_damaged_chain),
        ARCHIVE_TEST(test_zero_segment),
        ARCHIVE_TEST(test_damaged_compression),
        ARCHIVE_TEST(test_foreign_content),
        ARCHIVE_TEST(test_several_damaged),
        ARCHIVE_TEST(test_all_damaged),
        ARCHIVE_TEST(test_good_form_beside_a_damaged_one),
        ARCHIVE_TEST(test_what_is_no_file),
        ARCHIVE_TEST(test_segment_behind_a_link),
        ARCHIVE_TEST(test_segments_that_vanish),
        ARCHIVE_TEST(test_segments_that_cannot_be_read),
        ARCHIVE_TEST(test_no_directory),
        ARCHIVE_TEST(test_highest_number_then_highest_timeline),
        ARCHIVE_TEST(test_new_timeline),
        ARCHIVE_TEST(test_new_timeline_beside_a_complete_segment),
        ARCHIVE_TEST(test_new_timeline_at_a_segment),
        ARCHIVE_TEST(test_timeline_ends_in_a_run),
        ARCHIVE_TEST(test_partial_of_an_older_timeline),
        ARCHIVE_TEST(test_beyond_the_fork),
        ARCHIVE_TEST(test_segment_before_on_its_own_timeline),
        ARCHIVE_TEST(test_pages_of_a_newer_timeline),
        ARCHIVE_TEST(test_missing_before_the_partial_one),
        ARCHIVE_TEST(test_missing_before_a_damaged_one),
        ARCHIVE_TEST(test_missing_among_partial_ones),
        ARCHIVE_TEST(test_missing_at_a_fork),
        ARCHIVE_TEST(test_missing_behind_a_fork),
        ARCHIVE_TEST(test_holes),
        ARCHIVE_TEST(test_partial_in_the_middle),
        ARCHIVE_TEST(test_system_id),
        ARCHIVE_TEST(test_system_id_of_other_segments),
        ARCHIVE_TEST(test_last_segment_of_a_log_file),
        ARCHIVE_TEST(test_last_segment_of_all),
        ARCHIVE_TEST(test_many_files),
    };

    return cmocka_run_group_tests_name("resume", tests, NULL, NULL);
}
