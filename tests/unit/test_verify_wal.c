#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "pgformat/walrecord.h"
#include "support/compressed.h"
#include "support/problem_log.h"
#include "support/temp_dir.h"
#include "support/wal_builder.h"
#include "verify/internal.h"

#define MIB       (1u << 20)
#define SYSTEM_ID 4711

/* ---- WAL in memory, its segments in a directory ---- */

typedef struct Fixture {
    TempDir dir;
    WalBuilder wal;
    ManifestWalRange range;
    ProblemLog log;
    Error err;
} Fixture;

static int
setup(void **state)
{
    Fixture *f = calloc(1, sizeof *f);

    temp_dir_make(&f->dir);
    *state = f;
    return 0;
}

static int
teardown(void **state)
{
    Fixture *f = *state;

    temp_dir_remove(&f->dir);
    wal_builder_free(&f->wal);
    problem_log_free(&f->log);
    free(f);
    return 0;
}

static void
wal_begin(Fixture *f, TimeLineID timeline, uint32_t segment_size, Lsn start)
{
    wal_builder_free(&f->wal);
    wal_builder_init(&f->wal, &(WalBuilderConfig){.magic = 0xD110,
                                                  .timeline = timeline,
                                                  .system_id = SYSTEM_ID,
                                                  .segment_size = segment_size,
                                                  .start = start});
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

static void
write_segment(Fixture *f, TimeLineID timeline, Lsn segment)
{
    char name[WAL_NAME_SIZE];
    uint32_t size = f->wal.config.segment_size;
    Span bytes = wal_builder_span(&f->wal, segment, segment + size);

    wal_segment_name(name, timeline, segment / size, size);
    temp_dir_write(&f->dir, name, bytes.data, bytes.len);
}

/* All segments, the last one filled with zeros. */
static void
write_segments(Fixture *f, TimeLineID timeline)
{
    uint32_t size = f->wal.config.segment_size;
    Lsn end = (f->wal.end + size - 1) / size * size;

    wal_builder_zero(&f->wal, end);
    for (Lsn at = f->wal.begin / size * size; at < end; at += size)
        write_segment(f, timeline, at);
}

static const char *
check_as(Fixture *f, uint64_t system_id)
{
    uint64_t problems = UINT64_MAX;
    ProblemSink sink = problem_log_sink(&f->log);

    buf_clear(&f->log.text);
    f->log.count = 0;
    if (!verify_wal_range(f->dir.path, &f->range, system_id, &sink, &problems, &f->err))
        fail_msg("%s", f->err.message);
    assert_int_equal(problems, f->log.count);
    assert_in_range(problems, 0, 1);
    return problem_log_text(&f->log);
}

static const char *
check(Fixture *f)
{
    return check_as(f, SYSTEM_ID);
}

/* The one problem, at `lsn`, with this behind "WAL parsing failed for timeline %u: ". */
static void
assert_problem(Fixture *f, Lsn lsn, const char *rest)
{
    Buf expected = BUF_INIT;

    assert_true(buf_printf(&expected, &f->err,
                           "WAL %s " LSN_FORMAT
                           ": WAL parsing failed for timeline %u: at LSN " LSN_FORMAT "%s\n",
                           f->dir.path, LSN_ARGS(lsn), f->range.timeline, LSN_ARGS(lsn), rest));
    assert_string_equal(check(f), buf_text(&expected));
    buf_free(&expected);
}

static const char *
in_dir(Fixture *f, const char *name)
{
    return temp_dir_path(&f->dir, name);
}

/* Five segments of 1 MiB from number 3 on; the range begins and ends within the first and last. */
static void
five_segments(Fixture *f)
{
    Lsn start;

    wal_begin(f, 1, MIB, 3 * MIB);
    (void)records_until(f, 3 * MIB + 0x18000);
    start = f->wal.end;
    (void)records_until(f, 7 * MIB + 0x10100);
    f->range = (ManifestWalRange){.timeline = 1, .start = start, .end = f->wal.end};
    write_segments(f, 1);
}

/* ---- good ranges ---- */

static void
test_range_over_several_segments(void **state)
{
    Fixture *f = *state;

    five_segments(f);
    assert_string_equal(check(f), "");
    assert_string_equal(check_as(f, 0), "");
}

static void
test_range_within_one_page(void **state)
{
    Fixture *f = *state;

    wal_begin(f, 1, MIB, 2 * MIB);
    (void)wal_builder_record(&f->wal, 10, 0, 1000);
    f->range = (ManifestWalRange){.timeline = 1, .start = f->wal.end};
    (void)wal_builder_record(&f->wal, 10, 0, 100);
    f->range.end = f->wal.end;
    write_segments(f, 1);
    assert_string_equal(check(f), "");
}

static void
test_every_segment_size(void **state)
{
    Fixture *f = *state;

    /* Above this the test would only be slow: names are tried for all sizes in any case. */
    for (uint32_t size = MIB; size <= 32 * MIB; size *= 2) {
        Lsn segment = (Lsn)5 << 32;

        wal_begin(f, 2, size, segment + size);
        f->range = (ManifestWalRange){.timeline = 2};
        f->range.start = wal_builder_record(&f->wal, 10, 0, 100);
        (void)wal_builder_record(&f->wal, 10, 0, 40000);
        f->range.end = f->wal.end;
        write_segments(f, 2);
        assert_string_equal(check(f), "");
        temp_dir_remove(&f->dir);
        temp_dir_make(&f->dir);
    }
}

/* A segment of one size whose name is that of another size's segment with other content. */
static void
test_name_that_fits_two_sizes(void **state)
{
    Fixture *f = *state;
    char name[WAL_NAME_SIZE];

    wal_begin(f, 1, 4 * MIB, 4 * MIB);
    f->range = (ManifestWalRange){.timeline = 1};
    f->range.start = wal_builder_record(&f->wal, 10, 0, 100);
    f->range.end = f->wal.end;
    write_segments(f, 1); /* 000000010000000000000001: with 2 MiB or 1 MiB the range is elsewhere */
    temp_dir_write(&f->dir, "000000010000000000000002", "stale", 5);
    assert_string_equal(check(f), "");

    /* Recycled, as in the directory of a running server: the old content under a new name. */
    wal_segment_name(name, 1, 4, MIB);
    temp_dir_write(&f->dir, name, f->wal.bytes.data, MIB);
    assert_string_equal(check(f), "");
}

static void
test_range_with_a_switch(void **state)
{
    Fixture *f = *state;

    wal_begin(f, 1, MIB, 2 * MIB);
    f->range = (ManifestWalRange){.timeline = 1};
    f->range.start = wal_builder_record(&f->wal, 10, 0, 100);
    (void)wal_builder_switch(&f->wal);
    f->range.end = f->wal.end;
    write_segments(f, 1);
    assert_string_equal(check(f), ""); /* ends where the next segment begins: not needed */
    (void)wal_builder_record(&f->wal, 10, 0, 100);
    f->range.end = f->wal.end;
    write_segments(f, 1);
    assert_string_equal(check(f), "");
}

static void
test_record_longer_than_a_segment(void **state)
{
    Fixture *f = *state;

    wal_begin(f, 1, MIB, 2 * MIB);
    f->range = (ManifestWalRange){.timeline = 1};
    f->range.start = wal_builder_record(&f->wal, 10, 0, 3 * MIB);
    f->range.end = f->wal.end;
    write_segments(f, 1);
    assert_string_equal(check(f), "");
    *wal_builder_at(&f->wal, 4 * MIB + 5000) ^= 1;
    write_segment(f, 1, 4 * MIB);
    assert_string_not_equal(check(f), "");
    assert_int_equal(f->log.count, 1);
}

static void
test_start_within_a_record(void **state)
{
    Fixture *f = *state;

    wal_begin(f, 1, MIB, 2 * MIB);
    f->range = (ManifestWalRange){.timeline = 1};
    (void)wal_builder_record(&f->wal, 10, 0, 30000);
    (void)wal_builder_record(&f->wal, 10, 0, 300);
    f->range.start = 2 * MIB + 2 * 8192; /* the first record begins on a later page */
    f->range.end = f->wal.end;
    write_segments(f, 1);
    assert_string_equal(check(f), "");
}

static void
test_end_within_a_record(void **state)
{
    Fixture *f = *state;
    Lsn last;

    wal_begin(f, 1, MIB, 2 * MIB);
    f->range = (ManifestWalRange){.timeline = 1};
    f->range.start = wal_builder_record(&f->wal, 10, 0, 300);
    last = wal_builder_record(&f->wal, 10, 0, 2 * MIB);
    f->range.end = last + 100;
    write_segments(f, 1);
    assert_string_equal(check(f), "");
    /* What begins before the end belongs to the range. */
    *wal_builder_at(&f->wal, 3 * MIB + 9000) ^= 1;
    write_segment(f, 1, 3 * MIB);
    (void)check(f);
    assert_int_equal(f->log.count, 1);
    assert_non_null(strstr(problem_log_text(&f->log), "record checksum is"));
}

static void
test_empty_range_needs_nothing_but_a_segment(void **state)
{
    Fixture *f = *state;

    wal_begin(f, 1, MIB, 2 * MIB);
    f->range = (ManifestWalRange){.timeline = 1};
    f->range.start = f->range.end = wal_builder_record(&f->wal, 10, 0, 300);
    write_segments(f, 1);
    assert_string_equal(check(f), "");
}

static void
test_what_is_outside_of_the_range_does_not_matter(void **state)
{
    Fixture *f = *state;

    five_segments(f);
    *wal_builder_at(&f->wal, 3 * MIB + 100) ^= 1;          /* a record before the start */
    *wal_builder_at(&f->wal, f->range.start - 8) ^= 1;     /* right before it */
    *wal_builder_at(&f->wal, f->range.end) ^= 1;           /* right behind the end */
    *wal_builder_at(&f->wal, 7 * MIB + 0x18000 + 12) ^= 1; /* a later page */
    write_segment(f, 1, 3 * MIB);
    write_segment(f, 1, 7 * MIB);
    temp_dir_write(&f->dir, "000000010000000000000002", "short", 5);
    temp_dir_write(&f->dir, "000000010000000000000008", "short", 5);
    temp_dir_write(&f->dir, "000000010000000000000008.partial", "x", 1);
    temp_dir_write(&f->dir, "00000002.history", "x", 1);
    temp_dir_mkdir(&f->dir, "archive_status");
    assert_string_equal(check(f), "");
}

/* A timeline's first segment repeats the one before it up to where they part. */
static void
test_timelines(void **state)
{
    Fixture *f = *state;
    ManifestWalRange first = {.timeline = 1};
    ManifestWalRange second = {.timeline = 2};

    wal_begin(f, 1, MIB, 2 * MIB);
    first.start = wal_builder_record(&f->wal, 10, 0, 300);
    (void)records_until(f, 3 * MIB + 0x20100);
    first.end = second.start = f->wal.end;
    write_segment(f, 1, 2 * MIB);
    f->wal.config.timeline = 2;
    (void)records_until(f, 4 * MIB + 0x10000);
    second.end = f->wal.end;
    wal_builder_zero(&f->wal, 5 * MIB);
    write_segment(f, 2, 3 * MIB);
    write_segment(f, 2, 4 * MIB);

    f->range = second;
    assert_string_equal(check(f), "");
    f->range = first; /* its last part came under the new name only */
    assert_problem(f, 3 * MIB, " in segment \"000000010000000000000003\": file is missing");
    write_segment(f, 1, 3 * MIB);
    assert_string_equal(check(f), "");

    /* The second timeline's WAL under the first one's name is damage. */
    f->range.end = second.end;
    write_segment(f, 1, 4 * MIB);
    assert_problem(f, 3 * MIB + 0x22000,
                   " in segment \"000000010000000000000003\": timeline is 2, expected at most 1");
}

/* ---- damage ---- */

static void
test_damaged_record(void **state)
{
    Fixture *f = *state;
    Lsn lsn;

    wal_begin(f, 1, MIB, 2 * MIB);
    f->range = (ManifestWalRange){.timeline = 1};
    f->range.start = wal_builder_record(&f->wal, 10, 0, 300);
    (void)records_until(f, 3 * MIB + 0x4000);
    lsn = wal_builder_record(&f->wal, 10, 0, 3000);
    (void)wal_builder_record(&f->wal, 10, 0, 100);
    f->range.end = f->wal.end;
    write_segments(f, 1);
    assert_string_equal(check(f), "");
    *wal_builder_at(&f->wal, lsn + 17) = 77;
    write_segment(f, 1, 3 * MIB);
    assert_problem(f, lsn, " in segment \"000000010000000000000003\": invalid resource manager 77");
}

/* Change one byte, in memory and in its segment's file; returns its new value. */
static uint8_t
flip(Fixture *f, Lsn lsn)
{
    uint8_t *byte = wal_builder_at(&f->wal, lsn);
    char name[WAL_NAME_SIZE];
    int fd;

    wal_segment_name(name, 1, lsn / MIB, MIB);
    fd = open(in_dir(f, name), O_WRONLY);
    *byte ^= 0x40;
    assert_int_equal(pwrite(fd, byte, 1, (off_t)(lsn % MIB)), 1);
    close(fd);
    return *byte;
}

/* Every byte that belongs to the range is looked at. */
static void
test_any_flipped_byte_is_found(void **state)
{
    Fixture *f = *state;
    size_t tried = 0;

    five_segments(f);
    for (Lsn at = f->range.start; at < f->range.end; at += 4099) {
        uint32_t in_page = (uint32_t)(at % 8192);
        uint8_t value;

        if (in_page >= 20 && in_page < 24)
            continue; /* padding of the page header */
        value = flip(f, at);
        if (*check(f) != '\0')
            tried++;
        else if (value != 0x40) /* what was zero may have been padding between records */
            fail_msg("nothing found at " LSN_FORMAT, LSN_ARGS(at));
        (void)flip(f, at);
    }
    assert_true(tried > 900);
    assert_string_equal(check(f), "");
}

static void
test_wal_that_ends_too_early(void **state)
{
    Fixture *f = *state;
    Lsn end;

    wal_begin(f, 1, MIB, 2 * MIB);
    f->range = (ManifestWalRange){.timeline = 1};
    f->range.start = wal_builder_record(&f->wal, 10, 0, 300);
    end = f->wal.end;
    f->range.end = end + 8;
    write_segments(f, 1);
    assert_problem(f, end, " in segment \"000000010000000000000002\": no record");
}

static void
test_missing_segments(void **state)
{
    Fixture *f = *state;

    five_segments(f);
    assert_int_equal(unlink(in_dir(f, "000000010000000000000007")), 0);
    assert_problem(f, 7 * MIB, " in segment \"000000010000000000000007\": file is missing");
    assert_int_equal(unlink(in_dir(f, "000000010000000000000005")), 0);
    assert_problem(f, 5 * MIB, " in segment \"000000010000000000000005\": file is missing");
    /* The size is then that of any other. */
    assert_int_equal(unlink(in_dir(f, "000000010000000000000003")), 0);
    assert_problem(f, f->range.start, " in segment \"000000010000000000000003\": file is missing");
    assert_int_equal(unlink(in_dir(f, "000000010000000000000004")), 0);
    assert_problem(f, f->range.start, " in segment \"000000010000000000000003\": file is missing");
}

static void
test_size_from_another_timeline(void **state)
{
    Fixture *f = *state;

    five_segments(f);
    f->range.timeline = 9;
    assert_problem(f, f->range.start, " in segment \"000000090000000000000003\": file is missing");
    /* One of its own timeline is believed rather. */
    wal_begin(f, 9, 2 * MIB, 20 * MIB);
    (void)wal_builder_record(&f->wal, 10, 0, 300);
    write_segments(f, 9);
    assert_problem(f, f->range.start, " in segment \"000000090000000000000001\": file is missing");
}

static void
test_no_segment_at_all(void **state)
{
    Fixture *f = *state;
    char expected[1024];

    f->range = (ManifestWalRange){.timeline = 1, .start = 0x2000028, .end = 0x2000100};
    temp_dir_write(&f->dir, "00000002.history", "x", 1);
    temp_dir_write(&f->dir, "00000001000000000000000Z", "x", 1);
    temp_dir_write(&f->dir, "0000000100000000000000aa", "x", 1);
    (void)snprintf(expected, sizeof expected, ": no WAL segment of timeline 1 in \"%s\"",
                   f->dir.path);
    assert_problem(f, 0x2000028, expected);

    (void)snprintf(expected, sizeof expected,
                   ": could not open directory \"%s\": No such file or directory", f->dir.path);
    assert_int_equal(unlink(in_dir(f, "00000002.history")), 0);
    assert_int_equal(unlink(in_dir(f, "00000001000000000000000Z")), 0);
    assert_int_equal(unlink(in_dir(f, "0000000100000000000000aa")), 0);
    assert_int_equal(rmdir(f->dir.path), 0);
    assert_problem(f, 0x2000028, expected);
}

static void
test_segment_of_another_size(void **state)
{
    Fixture *f = *state;
    Span bytes;

    five_segments(f);
    bytes = wal_builder_span(&f->wal, 5 * MIB, 6 * MIB);
    temp_dir_write(&f->dir, "000000010000000000000005", bytes.data, bytes.len - 8192);
    assert_problem(f, 5 * MIB,
                   " in segment \"000000010000000000000005\": size is 1040384, expected "
                   "1048576");
    temp_dir_write(&f->dir, "000000010000000000000005", "", 0);
    assert_problem(f, 5 * MIB,
                   " in segment \"000000010000000000000005\": size is 0, expected 1048576");
    bytes = wal_builder_span(&f->wal, 3 * MIB, 5 * MIB);
    temp_dir_write(&f->dir, "000000010000000000000003", bytes.data, bytes.len);
    assert_problem(f, f->range.start,
                   " in segment \"000000010000000000000003\": size is 2097152, expected "
                   "1048576");
}

static void
test_segment_that_is_no_file(void **state)
{
    Fixture *f = *state;
    const char *name = in_dir(f, "000000010000000000000005");

    five_segments(f);
    assert_int_equal(rename(name, in_dir(f, "elsewhere")), 0);
    assert_int_equal(symlink("elsewhere", name), 0);
    assert_string_equal(check_as(f, 0), "");
    assert_int_equal(unlink(in_dir(f, "elsewhere")), 0);
    assert_problem(f, 5 * MIB, " in segment \"000000010000000000000005\": file is missing");
    assert_int_equal(unlink(name), 0);
    assert_int_equal(mkdir(name, 0700), 0);
    assert_problem(f, 5 * MIB, " in segment \"000000010000000000000005\": not a regular file");
    assert_int_equal(rmdir(name), 0);
    assert_int_equal(mkfifo(name, 0600), 0);
    assert_problem(f, 5 * MIB, " in segment \"000000010000000000000005\": not a regular file");
}

/* ---- compressed segments, as a receiver leaves them ---- */

/* NAME becomes NAME.gz and the like; of it, all but the last `missing` bytes. Returns its size. */
static size_t
pack_segment(Fixture *f, const char *name, CompressionMethod method, size_t missing)
{
    Buf plain = temp_dir_read(&f->dir, name);
    Buf packed = compressed(method, (Span){.data = plain.data, .len = plain.len});
    size_t size = packed.len - missing;
    char file[64];

    (void)snprintf(file, sizeof file, "%s%s", name, compression_suffix(method));
    temp_dir_write(&f->dir, file, packed.data, size);
    assert_int_equal(unlink(in_dir(f, name)), 0);
    buf_free(&packed);
    buf_free(&plain);
    return size;
}

static void
test_compressed_segments(void **state)
{
    Fixture *f = *state;

    five_segments(f);
    (void)pack_segment(f, "000000010000000000000003", COMPRESSION_GZIP, 0);
    (void)pack_segment(f, "000000010000000000000004", COMPRESSION_LZ4, 0);
    (void)pack_segment(f, "000000010000000000000006", COMPRESSION_ZSTD, 0);
    assert_string_equal(check(f), "");
    (void)pack_segment(f, "000000010000000000000005", COMPRESSION_ZSTD, 0);
    (void)pack_segment(f, "000000010000000000000007", COMPRESSION_GZIP, 0);
    assert_string_equal(check(f), "");
    assert_string_not_equal(check_as(f, SYSTEM_ID + 1), "");
}

static void
test_size_from_compressed_segments(void **state)
{
    Fixture *f = *state;

    wal_begin(f, 1, 4 * MIB, 12 * MIB);
    f->range = (ManifestWalRange){.timeline = 1};
    f->range.start = wal_builder_record(&f->wal, 10, 0, 300);
    f->range.end = f->wal.end;
    write_segments(f, 1);
    (void)pack_segment(f, "000000010000000000000003", COMPRESSION_LZ4, 0);
    assert_string_equal(check(f), "");
    f->range.timeline = 9;
    assert_problem(f, f->range.start, " in segment \"000000090000000000000003\": file is missing");
}

static void
test_damage_in_compressed_segments(void **state)
{
    Fixture *f = *state;
    char problem[160];
    size_t size;

    five_segments(f);
    wal_builder_at(&f->wal, 5 * MIB)[0x9000] ^= 1;
    write_segment(f, 1, 5 * MIB);
    (void)pack_segment(f, "000000010000000000000005", COMPRESSION_GZIP, 0);
    assert_string_not_equal(check(f), "");
    wal_builder_at(&f->wal, 5 * MIB)[0x9000] ^= 1;
    write_segment(f, 1, 5 * MIB);

    /* All of the segment comes out, and yet the file is not what it was. */
    size = pack_segment(f, "000000010000000000000005", COMPRESSION_GZIP, 1);
    (void)snprintf(problem, sizeof problem,
                   " in segment \"000000010000000000000005.gz\": archive "
                   "\"000000010000000000000005.gz\" ends after %zu bytes within its gzip data",
                   size);
    assert_problem(f, 6 * MIB, problem);
    assert_int_equal(unlink(in_dir(f, "000000010000000000000005.gz")), 0);
    assert_problem(f, 5 * MIB, " in segment \"000000010000000000000005\": file is missing");
    temp_dir_write(&f->dir, "000000010000000000000005.lz4", "", 0);
    assert_problem(f, 5 * MIB,
                   " in segment \"000000010000000000000005.lz4\": archive "
                   "\"000000010000000000000005.lz4\" is empty, which lz4 data never is");
}

/* Recovery would look at it, though the range begins on a later page. */
static void
test_damaged_first_page_header(void **state)
{
    Fixture *f = *state;

    five_segments(f);
    assert_true(f->range.start > 3 * MIB + 8192);
    *wal_builder_at(&f->wal, 3 * MIB) = 0;
    write_segment(f, 1, 3 * MIB);
    assert_problem(f, 3 * MIB,
                   " in segment \"000000010000000000000003\": invalid magic number D100");
    assert_string_not_equal(check_as(f, 0), "");

    *wal_builder_at(&f->wal, 3 * MIB) = 0x10;
    put_be32(wal_builder_at(&f->wal, 3 * MIB + 32), 0x00002000); /* 2 MiB, turned round */
    write_segment(f, 1, 3 * MIB);
    assert_problem(f, 3 * MIB,
                   " in segment \"000000010000000000000003\": segment size is 2097152, expected "
                   "1048576");
}

/* The pages of a range that begins behind the first page of its segment are like that one. */
static void
test_first_page_of_another_version(void **state)
{
    Fixture *f = *state;
    char reason[96];

    five_segments(f);
    assert_true(f->range.start % (1 * MIB) > WAL_PAGE_SIZE);
    *wal_builder_at(&f->wal, 3 * MIB) = 0x16; /* of 17; the others are of 15 */
    write_segment(f, 1, 3 * MIB);
    (void)snprintf(reason, sizeof reason,
                   " in segment \"000000010000000000000003\": magic number is D110, expected D116");
    assert_problem(f, f->range.start / WAL_PAGE_SIZE * WAL_PAGE_SIZE, reason);
}

/* Without a word from its header the size of the file counts, not that it has a fitting name. */
static void
test_damaged_first_header_with_larger_segments(void **state)
{
    Fixture *f = *state;

    wal_begin(f, 1, 4 * MIB, 12 * MIB);
    f->range = (ManifestWalRange){.timeline = 1};
    f->range.start = wal_builder_record(&f->wal, 10, 0, 300);
    f->range.end = f->wal.end;
    (void)wal_builder_record(&f->wal, 10, 0, 13 * MIB);
    *wal_builder_at(&f->wal, 12 * MIB) = 0;
    write_segments(f, 1); /* 3 to 6: with 2 MiB the range would be in 6 */
    assert_true(temp_dir_exists(&f->dir, "000000010000000000000006"));
    *wal_builder_at(&f->wal, 24 * MIB) = 0;
    *wal_builder_at(&f->wal, 24 * MIB + 2) = 0;
    write_segment(f, 1, 24 * MIB);
    *wal_builder_at(&f->wal, 12 * MIB + 2) = 0;
    write_segment(f, 1, 12 * MIB);
    assert_problem(f, 12 * MIB,
                   " in segment \"000000010000000000000003\": invalid magic number D100");
}

/* A segment that is not what its name says tells nothing. */
static void
test_recycled_segments_do_not_tell_the_size(void **state)
{
    Fixture *f = *state;
    uint8_t header[WAL_LONG_HEADER] = {0x10, 0xD1, 0x02, 0x00, 0x01};

    five_segments(f);
    assert_int_equal(unlink(in_dir(f, "000000010000000000000003")), 0);
    header[34] = 0x40; /* 4 MiB */
    header[11] = 0x10; /* page address 0/10000000 */
    temp_dir_write(&f->dir, "000000010000000000000008", header, sizeof header);
    assert_problem(f, f->range.start, " in segment \"000000010000000000000003\": file is missing");
    header[11] = 0x02;
    header[9] = 0x20; /* 0/2002000: of that segment, but not its beginning */
    temp_dir_write(&f->dir, "000000010000000000000008", header, sizeof header);
    assert_problem(f, f->range.start, " in segment \"000000010000000000000003\": file is missing");
    header[9] = 0; /* now it is believed */
    temp_dir_write(&f->dir, "000000010000000000000008", header, sizeof header);
    assert_problem(f, f->range.start, " in segment \"000000010000000000000000\": file is missing");
}

static void
test_system_identifier(void **state)
{
    Fixture *f = *state;

    five_segments(f);
    assert_non_null(strstr(check_as(f, 5), "system identifier is 4711, expected 5"));
    /* Not known, but all segments must agree on it. */
    *wal_builder_at(&f->wal, 4 * MIB + 24) ^= 1;
    write_segment(f, 1, 4 * MIB);
    assert_non_null(strstr(check_as(f, 0), "system identifier is 4710, expected 4711"));
}

static void
test_range_that_ends_before_it_begins(void **state)
{
    Fixture *f = *state;

    five_segments(f);
    f->range.end = f->range.start - 8;
    assert_int_equal(f->range.start, 3 * MIB + 0x18000);
    assert_problem(f, f->range.start, ": the range ends before it begins, at 0/317FF8");
}

static void
test_range_at_the_end_of_all_lsns(void **state)
{
    Fixture *f = *state;

    five_segments(f);
    f->range = (ManifestWalRange){.timeline = 1, .start = UINT64_MAX - 7, .end = UINT64_MAX};
    assert_problem(f, UINT64_MAX - 7, " in segment \"00000001FFFFFFFF00000FFF\": file is missing");
    temp_dir_write(&f->dir, "00000001FFFFFFFF00000FFF", f->wal.bytes.data, MIB);
    (void)check(f);
    assert_int_equal(f->log.count, 1);
}

static void
test_stop(void **state)
{
    Fixture *f = *state;
    ProblemSink sink = problem_log_sink(&f->log);
    Reporter reporter = REPORTER_INIT(&sink);
    Stop stop;
    WalRangeCheck check = {.directory = f->dir.path, .range = &f->range, .stop = &stop};

    five_segments(f);
    assert_true(stop_init(&stop, &f->err));
    assert_true(wal_range_check(&check, &reporter, &f->err));
    stop_request(&stop);
    assert_false(wal_range_check(&check, &reporter, &f->err));
    assert_int_equal(f->err.code, ERR_STOPPED);
    assert_int_equal(reporter.count, 0);
    stop_destroy(&stop);
    reporter_free(&reporter);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_range_over_several_segments),
        TEST(test_range_within_one_page),
        TEST(test_every_segment_size),
        TEST(test_name_that_fits_two_sizes),
        TEST(test_range_with_a_switch),
        TEST(test_record_longer_than_a_segment),
        TEST(test_start_within_a_record),
        TEST(test_end_within_a_record),
        TEST(test_empty_range_needs_nothing_but_a_segment),
        TEST(test_what_is_outside_of_the_range_does_not_matter),
        TEST(test_timelines),
        TEST(test_damaged_record),
        TEST(test_any_flipped_byte_is_found),
        TEST(test_wal_that_ends_too_early),
        TEST(test_missing_segments),
        TEST(test_size_from_another_timeline),
        TEST(test_no_segment_at_all),
        TEST(test_segment_of_another_size),
        TEST(test_segment_that_is_no_file),
        TEST(test_compressed_segments),
        TEST(test_size_from_compressed_segments),
        TEST(test_damage_in_compressed_segments),
        TEST(test_damaged_first_page_header),
        TEST(test_first_page_of_another_version),
        TEST(test_damaged_first_header_with_larger_segments),
        TEST(test_recycled_segments_do_not_tell_the_size),
        TEST(test_system_identifier),
        TEST(test_range_that_ends_before_it_begins),
        TEST(test_range_at_the_end_of_all_lsns),
        TEST(test_stop),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
