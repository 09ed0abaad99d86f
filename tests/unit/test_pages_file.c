/*
 * backup_pages on its way to disk: under its temporary name until all files have passed.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "basebackup/internal.h"
#include "support/temp_dir.h"

typedef struct Here {
    TempDir dir;
    PagesFile *file;
    Error err;
} Here;

static int
set_up(void **state)
{
    Here *here = calloc(1, sizeof *here);

    if (here == NULL)
        return -1;
    temp_dir_make(&here->dir);
    *state = here;
    return 0;
}

static int
tear_down(void **state)
{
    Here *here = *state;

    pages_file_free(here->file);
    temp_dir_remove(&here->dir);
    free(here);
    return 0;
}

static void
open_file(Here *here, mode_t mode)
{
    here->file = pages_file_new(here->dir.path, mode, 8192, &here->err);
    if (here->file == NULL)
        fail_msg("%s", here->err.message);
}

static void
write_one(Here *here)
{
    PageDigestWriter *writer = pages_file_writer(here->file);

    assert_true(page_digest_writer_begin(writer, "base/5/1", 8192, &here->err));
    assert_true(page_digest_writer_add(writer, 77, &here->err));
}

static void
test_gets_its_name_at_the_end(void **state)
{
    for (int sync = 0; sync <= 1; sync++) {
        Here *here = *state;
        PageDigests *digests;

        open_file(here, 0640);
        write_one(here);
        assert_true(temp_dir_exists(&here->dir, "backup_pages.tmp"));
        assert_false(temp_dir_exists(&here->dir, "backup_pages"));
        assert_true(pages_file_publish(here->file, sync != 0, &here->err));
        assert_false(temp_dir_exists(&here->dir, "backup_pages.tmp"));
        assert_int_equal(temp_dir_mode(&here->dir, "backup_pages") & 07777, 0640);
        pages_file_free(here->file);
        here->file = NULL;

        digests = page_digests_open(temp_dir_path(&here->dir, "backup_pages"), &here->err);
        assert_non_null(digests);
        assert_int_equal(page_digests_count(digests), 1);
        page_digests_close(digests);
        assert_int_equal(unlink(temp_dir_path(&here->dir, "backup_pages")), 0);
    }
    pages_file_free(NULL);
}

/* What there is stays, under no name that says that it is whole. */
static void
test_given_up(void **state)
{
    Here *here = *state;

    open_file(here, 0600);
    write_one(here);
    pages_file_free(here->file);
    here->file = NULL;
    assert_true(temp_dir_exists(&here->dir, "backup_pages.tmp"));
    assert_false(temp_dir_exists(&here->dir, "backup_pages"));
}

static void
test_file_not_complete(void **state)
{
    Here *here = *state;

    open_file(here, 0600);
    assert_true(
        page_digest_writer_begin(pages_file_writer(here->file), "base/5/1", 8192, &here->err));
    assert_false(pages_file_publish(here->file, true, &here->err));
    assert_int_equal(here->err.code, ERR_BUG);
    assert_false(temp_dir_exists(&here->dir, "backup_pages"));
}

static void
test_names_that_are_taken(void **state)
{
    Here *here = *state;

    temp_dir_write(&here->dir, "backup_pages.tmp", "x", 1);
    here->file = pages_file_new(here->dir.path, 0600, 8192, &here->err);
    assert_null(here->file);
    assert_int_equal(here->err.sys_errno, EEXIST);
    assert_int_equal(unlink(temp_dir_path(&here->dir, "backup_pages.tmp")), 0);

    /* A directory is not replaced. */
    temp_dir_mkdir(&here->dir, "backup_pages");
    open_file(here, 0600);
    write_one(here);
    assert_false(pages_file_publish(here->file, true, &here->err));
    assert_int_equal(here->err.code, ERR_SYSTEM);
    assert_true(temp_dir_exists(&here->dir, "backup_pages.tmp"));
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, set_up, tear_down)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_gets_its_name_at_the_end),
        TEST(test_given_up),
        TEST(test_file_not_complete),
        TEST(test_names_that_are_taken),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
