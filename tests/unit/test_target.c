/*
 * The directories of a backup: which may be used, and that exactly what was made is taken back.
 */
#include <errno.h>
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

#include "basebackup/internal.h"
#include "support/temp_dir.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

typedef struct Here {
    TempDir dir;
    Target *target;
    BackupObserver observer;
    Buf told; /* the info lines */
    Error err;
} Here;

static void
take_info(void *ctx, const char *message)
{
    Error err = ERROR_INIT;

    assert_true(buf_printf(&((Here *)ctx)->told, &err, "%s\n", message));
}

static int
set_up(void **state)
{
    Here *here = calloc(1, sizeof *here);

    if (here == NULL)
        return -1;
    temp_dir_make(&here->dir);
    here->observer = (BackupObserver){.ctx = here, .info = take_info};
    here->target = target_new(&here->err);
    *state = here;
    return here->target == NULL ? -1 : 0;
}

static int
tear_down(void **state)
{
    Here *here = *state;

    target_free(here->target);
    temp_dir_remove(&here->dir);
    buf_free(&here->told);
    free(here);
    return 0;
}

static const char *
in_dir(Here *here, const char *name)
{
    return temp_dir_path(&here->dir, name);
}

static void
claim(Here *here, const char *name)
{
    if (!target_claim(here->target, in_dir(here, name), 0700, &here->err))
        fail_msg("%s", here->err.message);
}

/* `fmt` has one path, that of `name`. */
static void
assert_refused(Here *here, const char *name, ErrorCode code, const char *before, const char *after)
{
    char message[8400];

    assert_false(target_claim(here->target, in_dir(here, name), 0700, &here->err));
    (void)snprintf(message, sizeof message, "%s\"%s\"%s", before, in_dir(here, name), after);
    assert_string_equal(here->err.message, message);
    assert_int_equal(here->err.code, code);
    here->err = ERROR_INIT;
}

static void
take_back(Here *here)
{
    buf_clear(&here->told);
    target_take_back(here->target, &here->observer);
}

/* "WHAT "DIR/NAME"\n", for comparing. */
static const char *
line(Here *here, const char *what, const char *name)
{
    static char lines[4][4400];
    static size_t next;
    char *text = lines[next++ % COUNT(lines)];

    (void)snprintf(text, sizeof lines[0], "%s \"%s\"\n", what, in_dir(here, name));
    return text;
}

static bool
exists(Here *here, const char *name)
{
    return temp_dir_exists(&here->dir, name);
}

/* ---- claiming ---- */

static void
test_missing_directory_is_made(void **state)
{
    Here *here = *state;

    claim(here, "a/b/target");
    assert_true(S_ISDIR(temp_dir_mode(&here->dir, "a/b/target")));
    temp_dir_mkdir(&here->dir, "a/b/target/base/1");
    temp_dir_write(&here->dir, "a/b/target/base/1/file", "x", 1);
    take_back(here);
    assert_string_equal(buf_text(&here->told), line(here, "removing directory", "a/b/target"));
    assert_false(exists(here, "a"));
    /* Once is enough. */
    take_back(here);
    assert_string_equal(buf_text(&here->told), "");
}

static void
test_empty_directory_is_emptied(void **state)
{
    Here *here = *state;

    temp_dir_mkdir(&here->dir, "target");
    assert_int_equal(chmod(in_dir(here, "target"), 0751), 0);
    claim(here, "target");
    temp_dir_mkdir(&here->dir, "target/base");
    temp_dir_write(&here->dir, "target/.hidden", "x", 1);
    take_back(here);
    assert_string_equal(buf_text(&here->told),
                        line(here, "removing contents of directory", "target"));
    assert_true(exists(here, "target"));
    assert_false(exists(here, "target/base"));
    assert_false(exists(here, "target/.hidden"));
    assert_int_equal(temp_dir_mode(&here->dir, "target") & 07777, 0751);
}

static void
test_modes_whatever_the_umask(void **state)
{
    static const mode_t umasks[] = {0, 022, 077, 0777};
    static const mode_t modes[] = {0700, 0750};

    for (size_t i = 0; i < COUNT(umasks) * COUNT(modes); i++) {
        mode_t mode = modes[i % COUNT(modes)];
        Here *here = *state;
        mode_t before = umask(umasks[i / COUNT(modes)]);
        bool ok = target_claim(here->target, in_dir(here, "target"), mode, &here->err) &&
                  target_make_inside(in_dir(here, "target"), "pg_wal", mode, &here->err) &&
                  /* It may be there, with another mode. */
                  target_make_inside(in_dir(here, "target"), "pg_wal", mode, &here->err);

        (void)umask(before);
        assert_true(ok);
        assert_int_equal(temp_dir_mode(&here->dir, "target") & 07777, mode);
        assert_int_equal(temp_dir_mode(&here->dir, "target/pg_wal") & 07777, mode);
        assert_int_equal(chmod(in_dir(here, "target/pg_wal"), 0500), 0);
        assert_true(target_make_inside(in_dir(here, "target"), "pg_wal", mode, &here->err));
        assert_int_equal(temp_dir_mode(&here->dir, "target/pg_wal") & 07777, mode);
        take_back(here);
        assert_false(exists(here, "target"));
    }
}

static void
test_directory_that_is_not_empty(void **state)
{
    Here *here = *state;

    temp_dir_mkdir(&here->dir, "target");
    temp_dir_write(&here->dir, "target/.mine", "x", 1);
    assert_refused(here, "target", ERR_USAGE, "directory ", " exists but is not empty");
    take_back(here);
    assert_string_equal(buf_text(&here->told), "");
    assert_true(exists(here, "target/.mine"));
}

static void
test_directory_that_was_never_finished(void **state)
{
    Here *here = *state;

    temp_dir_mkdir(&here->dir, "target/base");
    assert_false(target_claim(here->target, in_dir(here, "target"), 0700, &here->err));
    assert_string_equal(here->err.hint, "");
    temp_dir_write(&here->dir, "target/backup_manifest.tmp", "", 0);
    assert_false(target_claim(here->target, in_dir(here, "target"), 0700, &here->err));
    assert_non_null(strstr(here->err.hint, "backup_manifest.tmp"));
    assert_non_null(strstr(here->err.hint, "remove it"));
}

static void
test_what_is_no_directory(void **state)
{
    Here *here = *state;
    char reason[100];

    temp_dir_write(&here->dir, "file", "x", 1);
    (void)snprintf(reason, sizeof reason, ": %s", strerror(ENOTDIR));
    assert_refused(here, "file", ERR_SYSTEM, "could not access directory ", reason);
    assert_refused(here, "file/below", ERR_SYSTEM, "could not access directory ", reason);
    assert_int_equal(symlink("nowhere", in_dir(here, "link")), 0);
    assert_refused(here, "link", ERR_SYSTEM, "could not create directory ", reason);
    take_back(here);
    assert_string_equal(buf_text(&here->told), "");
    assert_true(exists(here, "link"));
    assert_false(exists(here, "nowhere"));
}

/* A link to an empty directory is as good as the directory, and stays. */
static void
test_link_to_a_directory(void **state)
{
    Here *here = *state;

    temp_dir_mkdir(&here->dir, "real");
    assert_int_equal(symlink("real", in_dir(here, "link")), 0);
    claim(here, "link");
    temp_dir_write(&here->dir, "real/file", "x", 1);
    take_back(here);
    assert_false(exists(here, "real/file"));
    assert_true(exists(here, "real"));
    assert_true(exists(here, "link"));
}

/* ---- two in one ---- */

static void
test_directories_that_overlap(void **state)
{
    static const char *const names[] = {
        "target",          "target/", "target/below", "target/deep/below", "target/./below",
        "other/../target", "link",    "link/below",   "loop/target",       "loop/target/below"};

    for (size_t i = 0; i < COUNT(names); i++) {
        Here *here = *state;
        char message[8400];

        temp_dir_mkdir(&here->dir, "other");
        (void)symlink("target", in_dir(here, "link"));
        (void)symlink(".", in_dir(here, "loop"));
        claim(here, "target");
        assert_false(target_claim(here->target, in_dir(here, names[i]), 0700, &here->err));
        (void)snprintf(message, sizeof message,
                       "directory \"%s\" cannot be used: it overlaps directory \"%s\", which is "
                       "part of the same backup",
                       in_dir(here, names[i]), in_dir(here, "target"));
        assert_string_equal(here->err.message, message);
        assert_int_equal(here->err.code, ERR_USAGE);
        here->err = ERROR_INIT;
        take_back(here);
        assert_false(exists(here, "target"));
        assert_true(exists(here, "other"));
    }
}

/* One begins like the other, but lies beside it. */
static void
test_directories_side_by_side(void **state)
{
    Here *here = *state;

    claim(here, "target");
    claim(here, "target2");
    claim(here, "targe");
    claim(here, "new/one");
    claim(here, "new/two");
    take_back(here);
    assert_false(exists(here, "target"));
    assert_false(exists(here, "target2"));
    assert_false(exists(here, "targe"));
    assert_false(exists(here, "new"));
}

static void
test_parent_of_a_claimed_one(void **state)
{
    Here *here = *state;

    claim(here, "up/target");
    assert_refused(here, "up", ERR_USAGE, "directory ", " exists but is not empty");
    take_back(here);
    assert_false(exists(here, "up"));
}

/* ---- taking back ---- */

static void
test_last_one_goes_first(void **state)
{
    Here *here = *state;
    char expected[8800];

    temp_dir_mkdir(&here->dir, "was_there");
    claim(here, "target");
    claim(here, "was_there");
    take_back(here);
    (void)snprintf(expected, sizeof expected, "%s%s",
                   line(here, "removing contents of directory", "was_there"),
                   line(here, "removing directory", "target"));
    assert_string_equal(buf_text(&here->told), expected);
}

/* Somebody else has begun to use a parent that we made. */
static void
test_parents_that_others_use(void **state)
{
    Here *here = *state;

    claim(here, "a/b/target");
    temp_dir_write(&here->dir, "a/theirs", "x", 1);
    take_back(here);
    assert_string_equal(buf_text(&here->told), line(here, "removing directory", "a/b/target"));
    assert_true(exists(here, "a/theirs"));
    assert_false(exists(here, "a/b"));
}

/* Nobody's directory goes because of a slash too many. */
static void
test_untidy_paths(void **state)
{
    static const char *const names[] = {"mine/target/", "mine//target", "mine/./target",
                                        "mine/new//target//"};

    for (size_t i = 0; i < COUNT(names); i++) {
        Here *here = *state;

        temp_dir_mkdir(&here->dir, "mine");
        claim(here, names[i]);
        take_back(here);
        assert_true(exists(here, "mine"));
        assert_int_equal(rmdir(in_dir(here, "mine")), 0);
    }
}

static void
test_relative_path(void **state)
{
    Here *here = *state;
    char before[4096];

    assert_non_null(getcwd(before, sizeof before));
    assert_int_equal(chdir(here->dir.path), 0);
    assert_true(target_claim(here->target, "some/where", 0700, &here->err));
    assert_true(exists(here, "some/where"));
    assert_true(target_sync(here->target, &here->err));
    /* The same one by its full name. */
    assert_false(target_claim(here->target, in_dir(here, "some/where"), 0700, &here->err));
    assert_int_equal(here->err.code, ERR_USAGE);
    take_back(here);
    assert_false(exists(here, "some"));
    assert_int_equal(chdir(before), 0);
}

static void
test_what_is_gone_already(void **state)
{
    Here *here = *state;

    claim(here, "a/target");
    assert_int_equal(rmdir(in_dir(here, "a/target")), 0);
    assert_int_equal(rmdir(in_dir(here, "a")), 0);
    take_back(here);
    assert_string_equal(buf_text(&here->told), line(here, "removing directory", "a/target"));
}

/* A link in its place leads to somebody else's files. */
static void
test_directory_that_became_a_link(void **state)
{
    Here *here = *state;

    temp_dir_mkdir(&here->dir, "theirs");
    temp_dir_write(&here->dir, "theirs/file", "x", 1);
    claim(here, "target");
    assert_int_equal(rmdir(in_dir(here, "target")), 0);
    assert_int_equal(symlink("theirs", in_dir(here, "target")), 0);
    take_back(here);
    assert_true(exists(here, "theirs/file"));
    assert_non_null(strstr(buf_text(&here->told), "failed to remove directory \""));
}

static void
test_nobody_observes(void **state)
{
    Here *here = *state;

    claim(here, "target");
    here->observer = (BackupObserver){.ctx = NULL};
    target_tell_kept(here->target, &here->observer);
    target_take_back(here->target, &here->observer);
    assert_false(exists(here, "target"));
}

static void
test_kept(void **state)
{
    Here *here = *state;
    char expected[8900];

    claim(here, "target");
    claim(here, "ts");
    target_tell_kept(here->target, &here->observer);
    (void)snprintf(expected, sizeof expected,
                   "directory \"%s\" not removed at user's request\n"
                   "directory \"%s\" not removed at user's request\n",
                   in_dir(here, "target"), in_dir(here, "ts"));
    assert_string_equal(buf_text(&here->told), expected);
    assert_true(target_sync(here->target, &here->err));
    target_free(here->target);
    here->target = NULL;
    assert_true(exists(here, "target"));
    assert_true(exists(here, "ts"));
    target_free(NULL);
}

static void
test_directory_inside(void **state)
{
    Here *here = *state;
    char message[4400];

    claim(here, "target");
    assert_true(target_make_inside(in_dir(here, "target"), "pg_tblspc/16385", 0700, &here->err));
    assert_true(exists(here, "target/pg_tblspc/16385"));
    temp_dir_write(&here->dir, "target/file", "x", 1);
    assert_false(target_make_inside(in_dir(here, "target"), "file", 0700, &here->err));
    (void)snprintf(message, sizeof message, "could not create directory \"%s\": %s",
                   in_dir(here, "target/file"), strerror(ENOTDIR));
    assert_string_equal(here->err.message, message);
    take_back(here);
    assert_false(exists(here, "target"));
}

#define TARGET_TEST(function) cmocka_unit_test_setup_teardown(function, set_up, tear_down)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        TARGET_TEST(test_missing_directory_is_made),
        TARGET_TEST(test_empty_directory_is_emptied),
        TARGET_TEST(test_modes_whatever_the_umask),
        TARGET_TEST(test_directory_that_is_not_empty),
        TARGET_TEST(test_directory_that_was_never_finished),
        TARGET_TEST(test_what_is_no_directory),
        TARGET_TEST(test_link_to_a_directory),
        TARGET_TEST(test_directories_that_overlap),
        TARGET_TEST(test_directories_side_by_side),
        TARGET_TEST(test_parent_of_a_claimed_one),
        TARGET_TEST(test_last_one_goes_first),
        TARGET_TEST(test_parents_that_others_use),
        TARGET_TEST(test_untidy_paths),
        TARGET_TEST(test_relative_path),
        TARGET_TEST(test_what_is_gone_already),
        TARGET_TEST(test_directory_that_became_a_link),
        TARGET_TEST(test_nobody_observes),
        TARGET_TEST(test_kept),
        TARGET_TEST(test_directory_inside),
    };

    return cmocka_run_group_tests_name("target", tests, NULL, NULL);
}
