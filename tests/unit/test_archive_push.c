/*
 * What a server archives: it is there as it was, or the server is told that it is not.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/file.h"
#include "support/compressed.h"
#include "unit/served_fixture.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

#define SEGMENT_3 "000000010000000000000003"
#define TEMP      "archive/" SEGMENT_3 ".push.tmp"

static const CompressionMethod methods[] = {COMPRESSION_NONE, COMPRESSION_GZIP, COMPRESSION_LZ4,
                                            COMPRESSION_ZSTD};

static bool
push(Served *here, const char *name, CompressionMethod method, ArchivePushed *ret_pushed)
{
    char path[128];
    ArchivePush push = {.directory = temp_dir_path(&here->dir, "archive")};

    (void)snprintf(path, sizeof path, "data/pg_wal/%s", name);
    push.path = temp_dir_path(&here->dir, path);
    here->err = ERROR_INIT;
    assert_true(compression_parse(method, NULL, &push.compression, &here->err));
    return archive_push(&push, ret_pushed, &here->err);
}

static void
assert_pushed(Served *here, const char *name, CompressionMethod method, ArchivePushed expected)
{
    ArchivePushed pushed;

    if (!push(here, name, method, &pushed))
        fail_msg("%s: %s", name, here->err.message);
    assert_int_equal(pushed, expected);
    assert_false(temp_dir_exists(&here->dir, TEMP));
}

static void
assert_refused(Served *here, const char *name, ErrorCode code, const char *text)
{
    ArchivePushed pushed;
    bool ok = push(here, name, COMPRESSION_NONE, &pushed);

    if (ok || here->err.code != code || strstr(here->err.message, text) == NULL)
        fail_msg("%s: %s, code %d: %s", name, ok ? "succeeded" : "failed", (int)here->err.code,
                 here->err.message);
    assert_false(temp_dir_exists(&here->dir, TEMP));
}

static void
put_segment_3(Served *here)
{
    served_put(here, "data/pg_wal/" SEGMENT_3, COMPRESSION_NONE, served_segment(here, 3));
}

static void
test_each_compression(void **state)
{
    Served *here = *state;

    for (size_t i = 0; i < COUNT(methods); i++) {
        char path[64];
        const char *name = served_name(1, i + 1);

        (void)snprintf(path, sizeof path, "data/pg_wal/%s", name);
        served_put(here, path, COMPRESSION_NONE, served_segment(here, i + 1));
        assert_pushed(here, name, methods[i], ARCHIVE_PUSHED);
        (void)snprintf(path, sizeof path, "archive/%s%s", name, compression_suffix(methods[i]));
        assert_true(temp_dir_exists(&here->dir, path));
        assert_served(here, name, served_segment(here, i + 1));
    }
}

/* In whatever compression it is there, and is asked for. */
static void
test_again(void **state)
{
    Served *here = *state;

    put_segment_3(here);
    for (size_t i = 0; i < COUNT(methods); i++) {
        char path[64];

        (void)snprintf(path, sizeof path, "archive/" SEGMENT_3 "%s",
                       compression_suffix(methods[i]));
        served_put(here, path, methods[i], served_segment(here, 3));
        for (size_t j = 0; j < COUNT(methods); j++)
            assert_pushed(here, SEGMENT_3, methods[j], ARCHIVE_HAD_IT);
        assert_int_equal(unlink(temp_dir_path(&here->dir, path)), 0);
    }
    assert_pushed(here, SEGMENT_3, COMPRESSION_ZSTD, ARCHIVE_PUSHED);
    assert_pushed(here, SEGMENT_3, COMPRESSION_NONE, ARCHIVE_HAD_IT);
    assert_false(temp_dir_exists(&here->dir, "archive/" SEGMENT_3));
}

static void
assert_archive_has(Served *here, const char *name, Span bytes)
{
    Buf content = temp_dir_read(&here->dir, name);

    assert_int_equal(content.len, bytes.len);
    assert_memory_equal(content.data, bytes.data, bytes.len);
    buf_free(&content);
}

static void
test_other_content(void **state)
{
    Served *here = *state;
    Buf other = BUF_INIT;

    put_segment_3(here);
    assert_true(buf_append(&other, served_segment(here, 3).data, MB, &here->err));
    other.data[MB - 1] ^= 1;
    for (size_t i = 0; i < COUNT(methods); i++) {
        char path[64];

        (void)snprintf(path, sizeof path, "archive/" SEGMENT_3 "%s",
                       compression_suffix(methods[i]));
        served_put(here, path, methods[i], (Span){other.data, MB});
        assert_refused(here, SEGMENT_3, ERR_SYSTEM, "has other content");
        assert_int_equal(unlink(temp_dir_path(&here->dir, path)), 0);
    }
    served_put(here, "archive/" SEGMENT_3, COMPRESSION_NONE, (Span){other.data, MB});
    assert_refused(here, SEGMENT_3, ERR_SYSTEM, "has other content");
    assert_archive_has(here, "archive/" SEGMENT_3, (Span){other.data, MB});
    /* One is the same, another is not. */
    served_put(here, "archive/" SEGMENT_3 ".gz", COMPRESSION_GZIP, served_segment(here, 3));
    assert_refused(here, SEGMENT_3, ERR_SYSTEM, "has other content");
    buf_free(&other);
}

static void
test_damaged_content(void **state)
{
    static const size_t lengths[] = {0, 8192, MB - 1};
    Served *here = *state;

    put_segment_3(here);
    for (size_t i = 0; i < COUNT(lengths); i++) {
        temp_dir_write(&here->dir, "archive/" SEGMENT_3, served_segment(here, 3).data, lengths[i]);
        assert_refused(here, SEGMENT_3, ERR_SYSTEM, "is damaged: size is");
    }
    assert_int_equal(unlink(temp_dir_path(&here->dir, "archive/" SEGMENT_3)), 0);
    temp_dir_write(&here->dir, "archive/" SEGMENT_3 ".zst", "x", 1);
    assert_refused(here, SEGMENT_3, ERR_SYSTEM, "is damaged: ");
    assert_archive_has(here, "archive/" SEGMENT_3 ".zst", span_of("x"));
}

static void
test_no_segment(void **state)
{
    Served *here = *state;
    const char *path = temp_dir_path(&here->dir, "data/pg_wal/" SEGMENT_3);

    assert_refused(here, SEGMENT_3, ERR_SYSTEM, "No such file");
    served_put(here, "data/pg_wal/" SEGMENT_3, COMPRESSION_NONE, served_segment(here, 4));
    assert_refused(here, SEGMENT_3, ERR_FORMAT, "is not the WAL segment that its name says");
    temp_dir_write(&here->dir, "data/pg_wal/" SEGMENT_3, served_segment(here, 3).data, MB - 1);
    assert_refused(here, SEGMENT_3, ERR_FORMAT, "size is 1048575, expected 1048576");
    temp_dir_write(&here->dir, "data/pg_wal/" SEGMENT_3, "", 0);
    assert_refused(here, SEGMENT_3, ERR_FORMAT, "is not the WAL segment");
    assert_int_equal(unlink(path), 0);
    assert_int_equal(mkfifo(path, 0600), 0);
    assert_refused(here, SEGMENT_3, ERR_FORMAT, "not a regular file");
    assert_int_equal(unlink(path), 0);
    assert_int_equal(mkdir(path, 0700), 0);
    assert_refused(here, SEGMENT_3, ERR_FORMAT, "not a regular file");
    assert_refused(here, "stray", ERR_USAGE, "is not the name of");
    assert_refused(here, SEGMENT_3 ".gz", ERR_USAGE, "is not the name of");
    assert_refused(here, "", ERR_USAGE, "is not the name of");
}

static void
test_other_cluster(void **state)
{
    Served *here = *state;
    WalBuilder other;

    put_segment_3(here);
    served_other_wal(&other, 4711, 1);
    served_put(here, "archive/000000010000000000000002.lz4", COMPRESSION_LZ4,
               wal_builder_span(&other, 2 * MB, 3 * MB));
    assert_refused(here, SEGMENT_3, ERR_MISMATCH, "has WAL of another cluster");
    served_put(here, "archive/000000010000000000000002.lz4", COMPRESSION_LZ4,
               served_segment(here, 2));
    assert_pushed(here, SEGMENT_3, COMPRESSION_NONE, ARCHIVE_PUSHED);
    wal_builder_free(&other);
}

/* They are small, or incomplete: of any size. Partial segments are compressed as others are. */
static void
test_other_files(void **state)
{
    static const char history[] = "1\t0/580000\tno recovery target specified\n";
    Served *here = *state;

    temp_dir_write(&here->dir, "data/pg_wal/00000002.history", history, strlen(history));
    assert_pushed(here, "00000002.history", COMPRESSION_GZIP, ARCHIVE_PUSHED);
    assert_archive_has(here, "archive/00000002.history", span_of(history));
    assert_pushed(here, "00000002.history", COMPRESSION_GZIP, ARCHIVE_HAD_IT);
    temp_dir_write(&here->dir, "data/pg_wal/00000002.history", history, strlen(history) - 1);
    assert_refused(here, "00000002.history", ERR_SYSTEM, "has other content");

    temp_dir_write(&here->dir, "data/pg_wal/" SEGMENT_3 ".00000028.backup", "START", 5);
    assert_pushed(here, SEGMENT_3 ".00000028.backup", COMPRESSION_NONE, ARCHIVE_PUSHED);
    assert_archive_has(here, "archive/" SEGMENT_3 ".00000028.backup", span_of("START"));

    temp_dir_write(&here->dir, "data/pg_wal/" SEGMENT_3 ".partial", served_segment(here, 3).data,
                   MB);
    assert_pushed(here, SEGMENT_3 ".partial", COMPRESSION_ZSTD, ARCHIVE_PUSHED);
    assert_true(temp_dir_exists(&here->dir, "archive/" SEGMENT_3 ".zst.partial"));
    assert_pushed(here, SEGMENT_3 ".partial", COMPRESSION_NONE, ARCHIVE_HAD_IT);
    assert_served(here, SEGMENT_3, served_segment(here, 3));
}

static void
test_mode(void **state)
{
    Served *here = *state;

    put_segment_3(here);
    assert_int_equal(chmod(temp_dir_path(&here->dir, "data/pg_wal/" SEGMENT_3), 0640), 0);
    assert_pushed(here, SEGMENT_3, COMPRESSION_NONE, ARCHIVE_PUSHED);
    assert_int_equal(temp_dir_mode(&here->dir, "archive/" SEGMENT_3) & 07777, 0640);
}

/* What a push that was killed has left, before and after it gave the file its name. */
static void
test_leftovers(void **state)
{
    Served *here = *state;

    put_segment_3(here);
    temp_dir_write(&here->dir, TEMP, served_segment(here, 4).data, MB);
    assert_pushed(here, SEGMENT_3, COMPRESSION_NONE, ARCHIVE_PUSHED);
    assert_archive_has(here, "archive/" SEGMENT_3, served_segment(here, 3));

    /* It has gone elsewhere by its other name: nobody writes to it. */
    assert_int_equal(
        link(temp_dir_path(&here->dir, "archive/" SEGMENT_3), temp_dir_path(&here->dir, TEMP)), 0);
    assert_int_equal(rename(temp_dir_path(&here->dir, "archive/" SEGMENT_3),
                            temp_dir_path(&here->dir, "elsewhere")),
                     0);
    assert_pushed(here, SEGMENT_3, COMPRESSION_GZIP, ARCHIVE_PUSHED);
    assert_archive_has(here, "elsewhere", served_segment(here, 3));
}

static void
test_two_at_once(void **state)
{
    Served *here = *state;
    ArchivePushed pushed;
    Error err = ERROR_INIT;
    int fd;

    put_segment_3(here);
    temp_dir_write(&here->dir, TEMP, "half", 4);
    fd = file_open(temp_dir_path(&here->dir, TEMP), 0, 0, &err);
    assert_int_equal(flock(fd, LOCK_EX), 0);
    assert_false(push(here, SEGMENT_3, COMPRESSION_NONE, &pushed));
    assert_string_equal(here->err.hint, "Another process is writing it.");
    assert_archive_has(here, TEMP, span_of("half"));
    file_close_quietly(fd);
    assert_pushed(here, SEGMENT_3, COMPRESSION_NONE, ARCHIVE_PUSHED);
}

int
main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, served_set_up, served_tear_down)
    const struct CMUnitTest tests[] = {
        TEST(test_each_compression), TEST(test_again),      TEST(test_other_content),
        TEST(test_damaged_content),  TEST(test_no_segment), TEST(test_other_cluster),
        TEST(test_other_files),      TEST(test_mode),       TEST(test_leftovers),
        TEST(test_two_at_once),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
