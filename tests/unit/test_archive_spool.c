/*
 * Segments that are fetched before recovery asks for them.
 */
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

#include "common/file.h"
#include "unit/served_fixture.h"

#define SPOOL "data/pg_wal/pgstow_spool"

static ArchivePrefetch
prefetch_of(Served *here, uint64_t number, size_t count)
{
    return (ArchivePrefetch){.directory = temp_dir_path(&here->dir, "archive"),
                             .name = served_name(1, number),
                             .spool = temp_dir_path(&here->dir, SPOOL),
                             .system_id = SERVED_SYSTEM,
                             .segment_size = MB,
                             .mode = 0600,
                             .count = count,
                             .threads = 2};
}

static void
fill_archive(Served *here)
{
    for (uint64_t number = 1; number <= SERVED_LAST; number++) {
        char path[64];

        (void)snprintf(path, sizeof path, "archive/%s.zst", served_name(1, number));
        served_put(here, path, COMPRESSION_ZSTD, served_segment(here, number));
    }
}

static int
open_spool(Served *here, const ArchivePrefetch *prefetch)
{
    int lock;

    if (!archive_spool_open(prefetch, &lock, &here->err))
        fail_msg("%s", here->err.message);
    return lock;
}

static void
fill_spool(Served *here, uint64_t number, size_t count)
{
    const ArchivePrefetch prefetch = prefetch_of(here, number, count);
    int lock = open_spool(here, &prefetch);

    assert_true(lock >= 0);
    if (!archive_prefetch(&prefetch, lock, &here->err))
        fail_msg("%s", here->err.message);
    file_close_quietly(lock);
}

/* The numbers of the segments in the spool, and '?' for whatever else; in no order. */
static bool
spool_has(Served *here, const char *expected)
{
    DIR *dir = opendir(temp_dir_path(&here->dir, SPOOL));
    const struct dirent *entry;
    size_t found = 0;
    bool ok = true;

    if (dir == NULL)
        return expected == NULL;
    while ((entry = dir_next(dir)) != NULL) {
        char last = strlen(entry->d_name) > 24 ? entry->d_name[23] : '?';

        if (strcmp(entry->d_name, "lock") == 0)
            continue;
        found++;
        ok = ok && expected != NULL && strchr(expected, last) != NULL &&
             strstr(entry->d_name, ".tmp") == NULL;
    }
    (void)closedir(dir);
    return ok && expected != NULL && found == strlen(expected);
}

static void
assert_fetched(Served *here, uint64_t number)
{
    Buf content;

    if (!served_fetch(here, served_name(1, number), SPOOL))
        fail_msg("%s", here->err.message);
    content = temp_dir_read(&here->dir, "data/pg_wal/RECOVERYXLOG");
    assert_int_equal(content.len, MB);
    assert_memory_equal(content.data, served_segment(here, number).data, MB);
    assert_int_equal(here->fetched.segment_size, MB);
    buf_free(&content);
}

static void
test_ahead(void **state)
{
    Served *here = *state;

    fill_archive(here);
    fill_spool(here, 1, 3);
    assert_true(spool_has(here, "234"));
    assert_fetched(here, 2);
    assert_true(spool_has(here, "34"));
    fill_spool(here, 2, 8);
    assert_true(spool_has(here, "3456"));
    assert_fetched(here, 5);
    fill_spool(here, 4, 1);
    assert_true(spool_has(here, "5"));
    assert_fetched(here, 6); /* from the archive */
    assert_true(spool_has(here, "5"));
}

/* What is not there is not waited for, and nothing is made for it. */
static void
test_end_of_archive(void **state)
{
    Served *here = *state;
    const ArchivePrefetch last = prefetch_of(here, SERVED_LAST, 4);
    const ArchivePrefetch full = prefetch_of(here, 3, 2);

    fill_archive(here);
    fill_spool(here, 3, 2);
    assert_int_equal(open_spool(here, &full), -1); /* all there */
    assert_true(spool_has(here, "45"));
    assert_int_equal(open_spool(here, &last), -1);
    assert_true(spool_has(here, NULL));
}

/* Nothing that has changed since, and nothing of another cluster, is taken. */
static void
test_stale(void **state)
{
    Served *here = *state;
    ArchivePrefetch other = prefetch_of(here, 1, 1);
    WalBuilder wal;
    int lock;

    fill_archive(here);
    fill_spool(here, 1, 2);
    assert_int_equal(unlink(temp_dir_path(&here->dir, "archive/000000010000000000000002.zst")), 0);
    assert_true(served_fetch(here, served_name(1, 2), SPOOL));
    assert_false(here->fetched.found);
    served_put(here, "archive/000000010000000000000003.zst", COMPRESSION_NONE, span_of("x"));
    assert_false(served_fetch(here, served_name(1, 3), SPOOL));
    assert_int_equal(here->err.code, ERR_FORMAT);
    assert_true(spool_has(here, "23"));

    served_other_wal(&wal, 4711, 1);
    served_put(here, "archive/000000010000000000000002", COMPRESSION_NONE,
               wal_builder_span(&wal, 2 * MB, 3 * MB));
    wal_builder_free(&wal);
    other.system_id = 4711;
    lock = open_spool(here, &other);
    assert_true(archive_prefetch(&other, lock, &here->err));
    file_close_quietly(lock);
    assert_true(spool_has(here, "2"));
    here->err = ERROR_INIT;
    assert_false(served_fetch(here, served_name(1, 2), SPOOL));
    assert_int_equal(here->err.code, ERR_MISMATCH);
}

/* It is for the one who asks for it to be told. */
static void
test_damaged(void **state)
{
    Served *here = *state;
    const ArchivePrefetch prefetch = prefetch_of(here, 1, 1);
    int lock;

    fill_archive(here);
    served_put(here, "archive/000000010000000000000002.zst", COMPRESSION_NONE, span_of("x"));
    lock = open_spool(here, &prefetch);
    assert_false(archive_prefetch(&prefetch, lock, &here->err));
    file_close_quietly(lock);
    assert_true(spool_has(here, ""));
}

static void
test_one_at_a_time(void **state)
{
    Served *here = *state;
    const ArchivePrefetch prefetch = prefetch_of(here, 1, 2);
    int lock;

    fill_archive(here);
    lock = open_spool(here, &prefetch);
    assert_true(lock >= 0);
    assert_int_equal(open_spool(here, &prefetch), -1);
    file_close_quietly(lock);
    lock = open_spool(here, &prefetch);
    assert_true(lock >= 0);

    /* Nobody wants it any more. */
    archive_spool_remove(temp_dir_path(&here->dir, SPOOL));
    assert_false(archive_prefetch(&prefetch, lock, &here->err));
    assert_int_equal(here->err.code, ERR_STOPPED);
    file_close_quietly(lock);
    assert_true(spool_has(here, NULL));
}

/* Leftovers go, but nobody else's files. */
static void
test_removal(void **state)
{
    Served *here = *state;

    fill_archive(here);
    fill_spool(here, 1, 3);
    temp_dir_write(&here->dir, SPOOL "/000000010000000000000004-5-6.tmp", "x", 1);
    fill_spool(here, 2, 3);
    assert_true(spool_has(here, "345"));
    temp_dir_write(&here->dir, SPOOL "/precious", "x", 1);
    archive_spool_remove(temp_dir_path(&here->dir, SPOOL));
    assert_true(spool_has(here, "?"));
    assert_true(temp_dir_exists(&here->dir, SPOOL "/precious"));
    archive_spool_remove(temp_dir_path(&here->dir, "nowhere"));
}

int
main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, served_set_up, served_tear_down)
    const struct CMUnitTest tests[] = {
        TEST(test_ahead),   TEST(test_end_of_archive), TEST(test_stale),
        TEST(test_damaged), TEST(test_one_at_a_time),  TEST(test_removal),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
