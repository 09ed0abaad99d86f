/*
 * The tail of an archive: exactly the bytes that were found good, or an error.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "unit/archive_fixture.h"

/* ---- the tail ---- */

static void
open_tail(TestArchive *here, WalTail **tail)
{
    Error err;

    if (!archive_find(here, tail, &err))
        fail_msg("%s", err.message);
    assert_non_null(*tail);
}

static void
assert_tail_fails(TestArchive *here, WalTail *tail, const char *name)
{
    char message[4400];
    Error err = ERROR_INIT;

    assert_false(archive_read_tail(tail, &here->tail, &err));
    (void)snprintf(message, sizeof message, "file \"%s\" has changed since it was checked",
                   temp_dir_path(&here->dir, name));
    assert_string_equal(err.message, message);
    assert_int_equal(err.code, ERR_FORMAT);
    /* What was given before is right. */
    assert_true(here->tail.len == 0 ||
                memcmp(here->tail.data, wal_builder_at(&here->wal, here->resume.start),
                       here->tail.len) == 0);
    wal_tail_free(tail);
}

/* A file that changes after it was checked gives no wrong bytes, wherever it changes. */
static void
test_tail_of_changed_files(void **state)
{
    static const off_t places[] = {0, 1, 131071, 131072, 500000, MB - 1};
    TestArchive *here = *state;

    archive_put_complete(here, 2);
    for (size_t i = 0; i < COUNT(places); i++) {
        WalTail *tail = NULL;

        archive_put_partial(here, 1, 3, MB);
        archive_put_partial(here, 1, 4, MB);
        open_tail(here, &tail);
        archive_change_byte(here, "000000010000000000000003.partial", places[i]);
        assert_tail_fails(here, tail, "000000010000000000000003.partial");
        assert_true(here->tail.len <= (size_t)places[i]);
    }
}

static void
test_tail_of_shorter_files(void **state)
{
    static const off_t sizes[] = {0, 1, 131072, 200000, MB - 1};

    for (size_t i = 0; i < COUNT(sizes); i++) {
        TestArchive *here = *state;
        WalTail *tail = NULL;

        archive_clear(here);
        archive_put_complete(here, 2);
        archive_put_partial(here, 1, 3, MB);
        archive_put_partial(here, 1, 4, 400000);
        open_tail(here, &tail);
        archive_resize(here, "000000010000000000000003.partial", sizes[i]);
        assert_tail_fails(here, tail, "000000010000000000000003.partial");
        assert_true(here->tail.len <= (size_t)sizes[i]);
    }
}

static void
test_tail_of_changed_compressed_files(void **state)
{
    for (size_t m = 1; m < ARCHIVE_METHODS; m++) {
        TestArchive *here = *state;
        const char *name = archive_file_name(here, 1, 3, archive_methods[m], PARTIAL);
        WalTail *tail = NULL;

        archive_clear(here);
        archive_put_complete(here, 2);
        archive_put(here, 1, 3, archive_methods[m], PARTIAL);
        archive_put_begin(here, 1, 4, archive_methods[m], 400000);
        open_tail(here, &tail);
        archive_put_bytes(here, name, PLAIN, span_of("something else"));
        assert_tail_fails(here, tail, name);

        archive_put(here, 1, 3, archive_methods[m], PARTIAL);
        open_tail(here, &tail);
        *wal_builder_at(&here->wal, archive_start(here, 3) + 700000) ^= 1;
        archive_put(here, 1, 3, archive_methods[m], PARTIAL);
        *wal_builder_at(&here->wal, archive_start(here, 3) + 700000) ^= 1;
        assert_tail_fails(here, tail, name);
    }
}

static void
test_tail_of_vanished_file(void **state)
{
    TestArchive *here = *state;
    const char *path = temp_dir_path(&here->dir, "000000010000000000000003.partial");
    Error err = ERROR_INIT;
    char message[4400];
    WalTail *tail = NULL;

    archive_put_complete(here, 2);
    archive_put_partial(here, 1, 3, 400000);
    open_tail(here, &tail);
    assert_int_equal(unlink(path), 0);
    assert_false(archive_read_tail(tail, &here->tail, &err));
    (void)snprintf(message, sizeof message, "could not open file \"%s\": %s", path,
                   strerror(ENOENT));
    assert_string_equal(err.message, message);
    wal_tail_free(tail);
}

/*
 * What its reader does meanwhile is no change: it writes the same bytes, gives files their full
 * size, clears what is behind the end, and names segments that are full.
 */
static void
test_tail_while_it_is_written_again(void **state)
{
    TestArchive *here = *state;
    const char *third = temp_dir_path(&here->dir, "000000010000000000000003.partial");
    const char *fourth = "000000010000000000000004.partial";
    Error err = ERROR_INIT;
    WalTail *tail = NULL;
    Lsn end;
    size_t kept;
    int fd;

    archive_put_complete(here, 2);
    archive_put_partial(here, 1, 3, MB);
    archive_put_begin(here, 1, 4, PLAIN, 400001);
    open_tail(here, &tail);
    end = here->resume.end;
    kept = (size_t)(end - archive_start(here, 4));

    fd = open(temp_dir_path(&here->dir, fourth), O_WRONLY);
    assert_true(fd >= 0 && kept < 400001);
    assert_int_equal(ftruncate(fd, (off_t)kept), 0);
    assert_int_equal(ftruncate(fd, MB), 0);
    assert_int_equal(pwrite(fd, wal_builder_at(&here->wal, archive_start(here, 4)), kept, 0), kept);
    assert_int_equal(close(fd), 0);

    while (here->tail.len < MB) {
        Span bytes;

        assert_true(wal_tail_next(tail, &bytes, &err));
        assert_true(buf_append(&here->tail, bytes.data, bytes.len, &err));
    }
    assert_int_equal(rename(third, temp_dir_path(&here->dir, "000000010000000000000003")), 0);
    if (!archive_read_tail(tail, &here->tail, &err))
        fail_msg("%s", err.message);
    wal_tail_free(tail);
    assert_int_equal(here->tail.len, end - archive_start(here, 3));
    assert_memory_equal(here->tail.data, wal_builder_at(&here->wal, archive_start(here, 3)),
                        here->tail.len);
    /* And it goes on from there. */
    archive_put_partial(here, 1, 4, kept);
    assert_tail(here, 1, 4, end);
}

/* Ends on both sides of a block's. */
static void
test_tail_of_every_length(void **state)
{
    TestArchive *here = *state;

    for (size_t i = 0; i < 60; i++) {
        size_t block = SEGMENT_BLOCK * (1 + i % 3);
        WalBuilderConfig config = archive_wal_config(MB);
        Lsn end = archive_start(here, 3) + block - 80 + 8 * (i / 3);

        if (end > archive_start(here, 3) + block && end <= archive_start(here, 3) + block + 24)
            continue; /* a page's header is there */
        archive_wal(here, &config);
        (void)wal_builder_record(&here->wal, HEAP, 0, 100);
        (void)wal_builder_record_until(&here->wal, archive_start(here, 3) + 4096);
        (void)wal_builder_record_until(&here->wal, end);
        wal_builder_zero(&here->wal, archive_start(here, 4));
        archive_put_complete(here, 1);
        archive_put_complete(here, 2);
        archive_put_partial(here, 1, 3, MB);
        assert_tail(here, 1, 3, end);
    }
}

static void
test_free_nothing(void **state)
{
    (void)state;
    wal_tail_free(NULL);
}

#define ARCHIVE_TEST(function)                                                                     \
    cmocka_unit_test_setup_teardown(function, archive_set_up, archive_tear_down)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        ARCHIVE_TEST(test_tail_of_changed_files),
        ARCHIVE_TEST(test_tail_of_shorter_files),
        ARCHIVE_TEST(test_tail_of_changed_compressed_files),
        ARCHIVE_TEST(test_tail_of_vanished_file),
        ARCHIVE_TEST(test_tail_while_it_is_written_again),
        ARCHIVE_TEST(test_tail_of_every_length),
        ARCHIVE_TEST(test_free_nothing),
    };

    return cmocka_run_group_tests_name("wal_tail", tests, NULL, NULL);
}
