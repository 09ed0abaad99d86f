/*
 * What recovery gets out of an archive: the right file, or the truth about why not.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "support/compressed.h"
#include "unit/served_fixture.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

#define SEGMENT_3 "000000010000000000000003"
#define SEGMENT_4 "000000010000000000000004"
#define HISTORY   "1\t0/380000\tno recovery target specified\n"

static const CompressionMethod methods[] = {COMPRESSION_NONE, COMPRESSION_GZIP, COMPRESSION_LZ4,
                                            COMPRESSION_ZSTD};

/* "archive/NAME" with a suffix and what comes behind that. */
static const char *
in_archive(const char *name, CompressionMethod method, const char *behind)
{
    static char path[128];

    (void)snprintf(path, sizeof path, "archive/%s%s%s", name, compression_suffix(method), behind);
    return path;
}

static Span
begin_of(Span bytes, size_t len)
{
    return (Span){.data = bytes.data, .len = len};
}

/* The first `len` bytes of a segment and zeros up to its size, to be freed. */
static Buf
padded(const Served *here, uint64_t number, size_t len)
{
    Error err = ERROR_INIT;
    Buf buf = BUF_INIT;

    assert_true(buf_reserve(&buf, MB, &err));
    memset(buf.data, 0, MB);
    memcpy(buf.data, served_segment(here, number).data, len);
    buf.len = MB;
    return buf;
}

/* ---- complete segments ---- */

static void
test_each_compression(void **state)
{
    Served *here = *state;

    for (size_t i = 0; i < COUNT(methods); i++) {
        uint64_t number = 1 + i;

        served_put(here, in_archive(served_name(1, number), methods[i], ""), methods[i],
                   served_segment(here, number));
        assert_served(here, served_name(1, number), served_segment(here, number));
        assert_int_equal(here->fetched.segment_size, MB);
        assert_true(here->fetched.system_id == SERVED_SYSTEM);
        assert_string_equal(here->fetched.remark, "");
    }
}

static void
test_missing(void **state)
{
    Served *here = *state;

    served_put(here, "archive/" SEGMENT_3, COMPRESSION_NONE, served_segment(here, 3));
    assert_missing(here, SEGMENT_4);
    assert_missing(here, "000000020000000000000003");
    assert_missing(here, "00000002.history");
    assert_missing(here, SEGMENT_3 ".00000028.backup");
    assert_missing(here, SEGMENT_3 ".partial");
    assert_false(temp_dir_exists(&here->dir, "data/pg_wal/RECOVERYXLOG"));
}

static void
test_no_archive(void **state)
{
    Served *here = *state;

    assert_int_equal(unlink(temp_dir_path(&here->dir, "archive/stray")), 0);
    assert_trouble(here, SEGMENT_3, ERR_FORMAT, "is empty");
    temp_dir_mkdir(&here->dir, "archive/lost+found");
    assert_trouble(here, SEGMENT_3, ERR_FORMAT, "is empty");
    assert_int_equal(rmdir(temp_dir_path(&here->dir, "archive/lost+found")), 0);
    assert_int_equal(rmdir(temp_dir_path(&here->dir, "archive")), 0);
    assert_trouble(here, SEGMENT_3, ERR_SYSTEM, "No such file");
    temp_dir_write(&here->dir, "archive", "", 0);
    assert_trouble(here, SEGMENT_3, ERR_SYSTEM, "Not a directory");
}

static void
test_names(void **state)
{
    static const char *const names[] = {"",
                                        ".",
                                        "stray",
                                        "../archive/" SEGMENT_3,
                                        SEGMENT_3 "0",
                                        SEGMENT_3 ".gz",
                                        "00000001000000000000000g",
                                        "000000010000000000001000",
                                        "00000000000000000000000A",
                                        "0000000a.history",
                                        "00000002.history.gz",
                                        SEGMENT_3 ".gz.partial",
                                        SEGMENT_3 ".0000028.backup"};
    Served *here = *state;

    for (size_t i = 0; i < COUNT(names); i++)
        assert_trouble(here, names[i], ERR_USAGE, "is not the name of");
}

/* What is wrong with the file of segment 3. */
typedef struct Wrong {
    const char *says;
    long at; /* a byte that is changed; -1: none */
    size_t len;
} Wrong;

static void
test_damage(void **state)
{
    static const Wrong table[] = {
        {"is damaged: at 0/300000: invalid magic", 0, MB},
        {"has not the header", 9, MB},
        {"has not the header", 33, MB},
        {"is damaged: at 0/3", 17 * 8192 + 9, MB},
        {"is damaged: at 0/3", 99 * 8192 + 4001, MB},
        {"is damaged: at 0/3", MB - 5000, MB},
        {"size is 1048575, expected", -1, MB - 1},
        {"size is 8192, expected", -1, 8192},
        {"has not the header", -1, 39},
        {"has not the header", -1, 0},
    };
    Served *here = *state;
    Buf segment = padded(here, 3, MB);

    for (size_t i = 0; i < COUNT(table); i++) {
        for (size_t m = 0; m < COUNT(methods); m++) {
            const char *file = in_archive(SEGMENT_3, methods[m], "");

            if (table[i].at >= 0)
                segment.data[table[i].at] ^= 0x10;
            served_put(here, file, methods[m], begin_of((Span){segment.data, MB}, table[i].len));
            if (table[i].at >= 0)
                segment.data[table[i].at] ^= 0x10;
            assert_trouble(here, SEGMENT_3, ERR_FORMAT, table[i].says);
            assert_int_equal(unlink(temp_dir_path(&here->dir, file)), 0);
        }
    }
    assert_true(buf_append(&segment, "x", 1, &here->err));
    served_put(here, "archive/" SEGMENT_3, COMPRESSION_NONE, (Span){segment.data, MB + 1});
    assert_trouble(here, SEGMENT_3, ERR_FORMAT, "size is 1048577");
    buf_free(&segment);
}

static void
test_broken_compression(void **state)
{
    Served *here = *state;

    for (size_t i = 1; i < COUNT(methods); i++) {
        const char *file = in_archive(SEGMENT_3, methods[i], "");
        Buf packed = compressed(methods[i], served_segment(here, 3));

        temp_dir_write(&here->dir, file, packed.data, packed.len - 9);
        assert_trouble(here, SEGMENT_3, ERR_FORMAT, "is damaged");
        packed.data[packed.len / 2] ^= 0x40;
        temp_dir_write(&here->dir, file, packed.data, packed.len);
        assert_trouble(here, SEGMENT_3, ERR_FORMAT, "is damaged");
        temp_dir_write(&here->dir, file, served_segment(here, 3).data, MB);
        assert_trouble(here, SEGMENT_3, ERR_FORMAT, "is damaged");
        assert_int_equal(unlink(temp_dir_path(&here->dir, file)), 0);
        buf_free(&packed);
    }
}

static void
test_swapped_and_foreign(void **state)
{
    Served *here = *state;
    WalBuilder other;

    served_put(here, "archive/" SEGMENT_3, COMPRESSION_NONE, served_segment(here, 4));
    assert_trouble(here, SEGMENT_3, ERR_FORMAT, "has not the header");
    served_other_wal(&other, 4711, 1);
    served_put(here, "archive/" SEGMENT_3, COMPRESSION_NONE,
               wal_builder_span(&other, 3 * MB, 4 * MB));
    assert_trouble(here, SEGMENT_3, ERR_MISMATCH,
                   "system identifier 4711, expected 7710238870352072901");
    wal_builder_free(&other);
    /* A page of a timeline that is newer than the name. */
    served_other_wal(&other, SERVED_SYSTEM, 2);
    served_put(here, "archive/" SEGMENT_3, COMPRESSION_NONE,
               wal_builder_span(&other, 3 * MB, 4 * MB));
    assert_trouble(here, SEGMENT_3, ERR_FORMAT, "timeline");
    wal_builder_free(&other);
}

/* Without a pg_control beside it nobody knows the cluster. */
static void
test_control(void **state)
{
    Served *here = *state;
    WalBuilder other;

    served_other_wal(&other, 4711, 1);
    served_put(here, "archive/" SEGMENT_3, COMPRESSION_NONE,
               wal_builder_span(&other, 3 * MB, 4 * MB));
    assert_int_equal(unlink(temp_dir_path(&here->dir, "data/global/pg_control")), 0);
    assert_served(here, SEGMENT_3, wal_builder_span(&other, 3 * MB, 4 * MB));
    wal_builder_free(&other);
    temp_dir_write(&here->dir, "data/global/pg_control", "short", 5);
    assert_trouble(here, SEGMENT_3, ERR_FORMAT, "global/pg_control");
}

static void
test_no_files(void **state)
{
    Served *here = *state;
    const char *path = temp_dir_path(&here->dir, "archive/" SEGMENT_3);

    assert_int_equal(mkdir(path, 0700), 0);
    assert_trouble(here, SEGMENT_3, ERR_FORMAT, "");
    assert_int_equal(rmdir(path), 0);
    assert_int_equal(mkfifo(path, 0600), 0);
    assert_trouble(here, SEGMENT_3, ERR_FORMAT, "");
    assert_int_equal(unlink(path), 0);
    assert_int_equal(symlink("nowhere", path), 0);
    assert_trouble(here, SEGMENT_3, ERR_SYSTEM, "No such file");
    assert_int_equal(unlink(path), 0);
    served_put(here, "archive/elsewhere", COMPRESSION_NONE, served_segment(here, 3));
    assert_int_equal(symlink("elsewhere", path), 0);
    assert_served(here, SEGMENT_3, served_segment(here, 3));
}

static void
test_other_form(void **state)
{
    Served *here = *state;

    served_put(here, "archive/" SEGMENT_3, COMPRESSION_NONE, span_of("no WAL"));
    served_put(here, "archive/" SEGMENT_3 ".zst", COMPRESSION_ZSTD, served_segment(here, 3));
    assert_served(here, SEGMENT_3, served_segment(here, 3));
    assert_non_null(strstr(here->fetched.remark, "another form"));
}

/* What an earlier run has left, and what is where the file belongs. */
static void
test_replaces(void **state)
{
    Served *here = *state;

    served_put(here, "archive/" SEGMENT_3, COMPRESSION_NONE, served_segment(here, 3));
    temp_dir_write(&here->dir, "data/pg_wal/RECOVERYXLOG", "old", 3);
    temp_dir_write(&here->dir, "data/pg_wal/RECOVERYXLOG.pgstow.tmp", "left", 4);
    assert_served(here, SEGMENT_3, served_segment(here, 3));
}

/* ---- partial ones ---- */

static void
test_partial(void **state)
{
    static const size_t lengths[] = {MB, MB - 1, 300001, 8192, 50};
    Served *here = *state;

    for (size_t i = 0; i < COUNT(lengths); i++) {
        Buf expected = padded(here, 3, lengths[i]);

        for (size_t m = 0; m < COUNT(methods); m++) {
            Span bytes = begin_of(served_segment(here, 3), lengths[i]);

            served_put(here, in_archive(SEGMENT_3, methods[m], ".partial"), methods[m], bytes);
            assert_served(here, SEGMENT_3, (Span){expected.data, MB});
            assert_int_equal(here->fetched.segment_size, 0);
            assert_non_null(strstr(here->fetched.remark, "its WAL ends at 0/3"));
            assert_int_equal(
                unlink(temp_dir_path(&here->dir, in_archive(SEGMENT_3, methods[m], ".partial"))),
                0);
        }
        buf_free(&expected);
    }
    served_put(here, "archive/" SEGMENT_3 ".partial.gz", COMPRESSION_GZIP, served_segment(here, 3));
    assert_served(here, SEGMENT_3, served_segment(here, 3));
}

static void
test_partial_that_nobody_ended(void **state)
{
    Served *here = *state;
    Buf expected = padded(here, 3, 500000);

    for (size_t m = 1; m < COUNT(methods); m++) {
        Buf packed = compressed_open(methods[m], begin_of(served_segment(here, 3), 500000));

        temp_dir_write(&here->dir, in_archive(SEGMENT_3, methods[m], ".partial"), packed.data,
                       packed.len);
        assert_served(here, SEGMENT_3, (Span){expected.data, MB});
        assert_int_equal(
            unlink(temp_dir_path(&here->dir, in_archive(SEGMENT_3, methods[m], ".partial"))), 0);
        buf_free(&packed);
    }
    buf_free(&expected);
}

/* A receiver has just made it. */
static void
test_empty_partial(void **state)
{
    Served *here = *state;
    Buf zeros = padded(here, 3, 0);

    served_put(here, "archive/" SEGMENT_3 ".partial", COMPRESSION_NONE, span_of(""));
    assert_missing(here, SEGMENT_3);
    served_put(here, "archive/" SEGMENT_3 ".partial", COMPRESSION_NONE, (Span){zeros.data, MB});
    assert_missing(here, SEGMENT_3);
    buf_free(&zeros);
}

static void
test_longest_partial(void **state)
{
    Served *here = *state;
    Buf expected = padded(here, 3, 600000);

    served_put(here, "archive/" SEGMENT_3 ".partial", COMPRESSION_NONE,
               begin_of(served_segment(here, 3), 400000));
    served_put(here, "archive/" SEGMENT_3 ".gz.partial", COMPRESSION_GZIP,
               begin_of(served_segment(here, 3), 600000));
    served_put(here, "archive/" SEGMENT_3 ".zst.partial", COMPRESSION_ZSTD,
               begin_of(served_segment(here, 3), 500000));
    assert_served(here, SEGMENT_3, (Span){expected.data, MB});
    buf_free(&expected);
}

static void
test_complete_beside_partial(void **state)
{
    Served *here = *state;

    served_put(here, "archive/" SEGMENT_3 ".partial", COMPRESSION_NONE,
               begin_of(served_segment(here, 3), 400000));
    served_put(here, "archive/" SEGMENT_3 ".lz4", COMPRESSION_LZ4, served_segment(here, 3));
    assert_served(here, SEGMENT_3, served_segment(here, 3));
}

static void
put_partial_3(Served *here)
{
    served_put(here, "archive/" SEGMENT_3 ".partial", COMPRESSION_NONE,
               begin_of(served_segment(here, 3), 700000));
}

static void
test_newer_timeline(void **state)
{
    static const char *const newer[] = {"archive/000000020000000000000003",
                                        "archive/000000020000000000000003.zst",
                                        "archive/0000000B0000000000000003.gz.partial"};
    Served *here = *state;

    put_partial_3(here);
    for (size_t i = 0; i < COUNT(newer); i++) {
        served_put(here, newer[i], COMPRESSION_NONE, served_segment(here, 3));
        assert_missing(here, SEGMENT_3);
        assert_non_null(strstr(here->fetched.remark, "of a newer timeline"));
        assert_int_equal(unlink(temp_dir_path(&here->dir, newer[i])), 0);
    }
    served_put(here, "archive/00000002.history.gz", COMPRESSION_GZIP, span_of(HISTORY));
    assert_missing(here, SEGMENT_3);
    assert_non_null(strstr(here->fetched.remark, "timeline 2 forks off timeline 1 at 0/380000"));
    assert_int_equal(unlink(temp_dir_path(&here->dir, "archive/00000002.history.gz")), 0);
    temp_dir_write(&here->dir, "archive/00000002.history", "1\tx", 3);
    assert_trouble(here, SEGMENT_3, ERR_FORMAT, "timeline history file");
}

/* Neither of them says that WAL goes on elsewhere before the end of segment 3. */
static void
test_other_timelines(void **state)
{
    static const char later[] = "1\t0/500000\tlater\n";
    static const char other[] = "2\t0/100000\tfrom a timeline that is not ours\n";
    Served *here = *state;
    Buf expected = padded(here, 3, 700000);

    put_partial_3(here);
    temp_dir_write(&here->dir, "archive/00000002.history", later, strlen(later));
    temp_dir_write(&here->dir, "archive/00000003.history", other, strlen(other));
    served_put(here, "archive/000000020000000000000005", COMPRESSION_NONE, served_segment(here, 5));
    assert_served(here, SEGMENT_3, (Span){expected.data, MB});
    buf_free(&expected);
}

static void
test_local_segment(void **state)
{
    Served *here = *state;
    Buf expected = padded(here, 3, 700000);
    Buf less = padded(here, 3, 600000);
    Buf more = padded(here, 3, 800000);

    put_partial_3(here);
    temp_dir_write(&here->dir, "data/pg_wal/" SEGMENT_3, less.data, less.len);
    assert_served(here, SEGMENT_3, (Span){expected.data, MB});
    temp_dir_write(&here->dir, "data/pg_wal/" SEGMENT_3, more.data, more.len);
    assert_missing(here, SEGMENT_3);
    assert_non_null(strstr(here->fetched.remark, "has as much"));
    temp_dir_write(&here->dir, "data/pg_wal/" SEGMENT_3, expected.data, expected.len);
    assert_missing(here, SEGMENT_3);
    /* One that waits to be used again. */
    temp_dir_write(&here->dir, "data/pg_wal/" SEGMENT_3, served_segment(here, 1).data, MB);
    assert_served(here, SEGMENT_3, (Span){expected.data, MB});
    buf_free(&more);
    buf_free(&less);
    buf_free(&expected);
}

static void
test_foreign_partial(void **state)
{
    Served *here = *state;
    WalBuilder other;

    served_other_wal(&other, 4711, 1);
    served_put(here, "archive/" SEGMENT_3 ".partial", COMPRESSION_NONE,
               wal_builder_span(&other, 3 * MB, 4 * MB));
    assert_trouble(here, SEGMENT_3, ERR_MISMATCH, "system identifier 4711");
    wal_builder_free(&other);
}

/* ---- other files ---- */

static void
test_small_files(void **state)
{
    Served *here = *state;

    for (size_t m = 0; m < COUNT(methods); m++) {
        char name[] = "00000002.history";

        name[7] = (char)('2' + m);
        served_put(here, in_archive(name, methods[m], ""), methods[m], span_of(HISTORY));
        assert_served(here, name, span_of(HISTORY));
    }
    served_put(here, "archive/" SEGMENT_3 ".00000028.backup", COMPRESSION_NONE, span_of("START"));
    assert_served(here, SEGMENT_3 ".00000028.backup", span_of("START"));
    served_put(here, "archive/" SEGMENT_3 ".lz4.partial", COMPRESSION_LZ4, served_segment(here, 3));
    assert_served(here, SEGMENT_3 ".partial", served_segment(here, 3));
    temp_dir_write(&here->dir, "archive/0000000A.history", "", 0);
    assert_served(here, "0000000A.history", span_of(""));
}

static void
test_damaged_history(void **state)
{
    Served *here = *state;

    temp_dir_write(&here->dir, "archive/00000002.history", "2\t0/1\n", 6);
    assert_trouble(here, "00000002.history", ERR_FORMAT, "00000002.history\" is damaged");
    temp_dir_write(&here->dir, "archive/00000003.history.gz", HISTORY, 10);
    assert_trouble(here, "00000003.history", ERR_FORMAT, "00000003.history.gz\" is damaged");
}

int
main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, served_set_up, served_tear_down)
    const struct CMUnitTest tests[] = {
        TEST(test_each_compression),
        TEST(test_missing),
        TEST(test_no_archive),
        TEST(test_names),
        TEST(test_damage),
        TEST(test_broken_compression),
        TEST(test_swapped_and_foreign),
        TEST(test_control),
        TEST(test_no_files),
        TEST(test_other_form),
        TEST(test_replaces),
        TEST(test_partial),
        TEST(test_partial_that_nobody_ended),
        TEST(test_empty_partial),
        TEST(test_longest_partial),
        TEST(test_complete_beside_partial),
        TEST(test_newer_timeline),
        TEST(test_other_timelines),
        TEST(test_local_segment),
        TEST(test_foreign_partial),
        TEST(test_small_files),
        TEST(test_damaged_history),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
