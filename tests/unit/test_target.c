/*
 * The directories of a backup: which may be used, what is made in them besides the backup itself,
 * and that exactly what was made is taken back. Calls that make a file last pass through this file
 * (linked with --wrap), which writes them down and lets one of them fail.
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
#include "support/descriptors.h"
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

/* ---- what is written and synced ---- */

static struct {
    bool watched;
    Buf log;
    size_t calls;
    size_t fail_at; /* this call (from 1) fails with EIO; 0: none */
} ops;

ssize_t __real_write(int fd, const void *data, size_t len);
int __real_fsync(int fd);
int __real_close(int fd);
ssize_t __wrap_write(int fd, const void *data, size_t len);
int __wrap_fsync(int fd);
int __wrap_close(int fd);

static bool
note_op(const char *op, int fd)
{
    Error err = ERROR_INIT;
    char path[4096];
    const char *name;

    if (!ops.watched)
        return true;
    name = strrchr(descriptor_path(fd, path, sizeof path), '/');
    assert_non_null(name);
    assert_true(buf_printf(&ops.log, &err, "%s %s\n", op, name + 1));
    if (++ops.calls != ops.fail_at)
        return true;
    errno = EIO;
    return false;
}

ssize_t
__wrap_write(int fd, const void *data, size_t len)
{
    return note_op("write", fd) ? __real_write(fd, data, len) : -1;
}

int
__wrap_fsync(int fd)
{
    return note_op("fsync", fd) ? __real_fsync(fd) : -1;
}

/* Like Linux, which has closed it whatever it says. */
int
__wrap_close(int fd)
{
    bool ok = note_op("close", fd);
    int failure = errno;

    if (__real_close(fd) != 0)
        return -1;
    errno = failure;
    return ok ? 0 : -1;
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

/* Whoever follows the other hint would remove what was kept for him. */
static void
test_directory_with_bad_pages(void **state)
{
    static const char *const besides[] = {"target/backup_manifest", "target/backup_manifest.tmp"};

    for (size_t i = 0; i < COUNT(besides); i++) {
        Here *here = *state;

        temp_dir_mkdir(&here->dir, "target");
        temp_dir_write(&here->dir, "target/backup_bad_pages", "", 0);
        temp_dir_write(&here->dir, besides[i], "", 0);
        assert_false(target_claim(here->target, in_dir(here, "target"), 0700, &here->err));
        assert_int_equal(here->err.code, ERR_USAGE);
        assert_non_null(strstr(here->err.message, "\" exists but is not empty"));
        assert_string_equal(here->err.hint,
                            "It holds a backup that was kept although pages in it are damaged "
                            "(backup_bad_pages lists them): look at it before you remove "
                            "anything.");
    }
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

/* As --waldir: within the data directory or a tablespace, or around them. */
static void
test_wal_directory_overlaps(void **state)
{
    static const struct {
        const char *name;
        const char *other; /* what it overlaps; NULL: it is taken for one that is not empty */
    } cases[] = {
        {"data", "data"},      {"data/pg_wal", "data"},  {"data/pg_wal/deep", "data"},
        {"space", "space"},    {"space/wal", "space"},   {"to_data/wal", "data"},
        {"to_space", "space"}, {"up/inner", "up/inner"}, {"up", NULL},
        {".", NULL},
    };

    for (size_t i = 0; i < COUNT(cases); i++) {
        Here *here = *state;

        temp_dir_mkdir(&here->dir, "space");
        (void)symlink("data", in_dir(here, "to_data"));
        (void)symlink("space", in_dir(here, "to_space"));
        claim(here, "data");
        claim(here, "space");
        claim(here, "up/inner");
        assert_false(target_claim(here->target, in_dir(here, cases[i].name), 0700, &here->err));
        assert_int_equal(here->err.code, ERR_USAGE);
        if (cases[i].other == NULL) {
            assert_non_null(strstr(here->err.message, "exists but is not empty"));
        } else {
            char overlap[4400];

            (void)snprintf(overlap, sizeof overlap, "it overlaps directory \"%s\"",
                           in_dir(here, cases[i].other));
            assert_non_null(strstr(here->err.message, overlap));
        }
        here->err = ERROR_INIT;
        take_back(here);
        assert_false(exists(here, "data"));
        assert_false(exists(here, "up"));
        assert_true(exists(here, "space"));
        assert_true(exists(here, "to_space"));
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

/* ---- links ---- */

/* The link goes with its directory. What it leads to goes only if it was claimed itself. */
static void
test_link(void **state)
{
    static const bool was_there[] = {false, true};

    for (size_t i = 0; i < COUNT(was_there) * 2; i++) {
        bool claimed = i >= COUNT(was_there);
        Here *here = *state;

        temp_dir_mkdir(&here->dir, "wal");
        if (was_there[i % COUNT(was_there)])
            temp_dir_mkdir(&here->dir, "target");
        claim(here, "target");
        if (claimed)
            claim(here, "wal");
        assert_true(target_link(here->target, in_dir(here, "target/pg_wal"), in_dir(here, "wal"),
                                &here->err));
        assert_string_equal(temp_dir_link(&here->dir, "target/pg_wal"), in_dir(here, "wal"));
        temp_dir_write(&here->dir, "target/pg_wal/segment", "x", 1);
        assert_true(exists(here, "wal/segment"));
        take_back(here);
        assert_null(strstr(buf_text(&here->told), "failed"));
        assert_false(exists(here, "target/pg_wal"));
        assert_int_equal(exists(here, "target"), was_there[i % COUNT(was_there)]);
        assert_true(exists(here, "wal"));
        assert_int_equal(exists(here, "wal/segment"), !claimed);
        temp_dir_remove(&here->dir);
        temp_dir_make(&here->dir);
    }
}

/* However the user writes the directory. */
static void
test_link_in_untidy_paths(void **state)
{
    static const struct {
        const char *name;
        const char *link;
    } cases[] = {
        {"target/", "target/pg_wal"},    {"target/", "target//pg_wal"},
        {"target//", "target///pg_wal"}, {"target", "target//pg_wal"},
        {"./target", "./target/pg_wal"}, {"other/../target", "other/../target/pg_wal"},
    };

    for (size_t i = 0; i < COUNT(cases); i++) {
        Here *here = *state;

        temp_dir_mkdir(&here->dir, "other");
        claim(here, cases[i].name);
        assert_true(target_link(here->target, in_dir(here, cases[i].link), "/wal", &here->err));
        assert_string_equal(temp_dir_link(&here->dir, "target/pg_wal"), "/wal");
        take_back(here);
        assert_false(exists(here, "target"));
    }
}

static void
test_link_outside(void **state)
{
    static const char *const names[] = {"pg_wal", "other/pg_wal", "target2/pg_wal", "target"};
    Here *here = *state;

    temp_dir_mkdir(&here->dir, "other");
    temp_dir_mkdir(&here->dir, "target2");
    for (size_t i = 0; i < COUNT(names) * 2; i++) {
        const char *path = in_dir(here, names[i % COUNT(names)]);
        char message[4400];

        if (i == COUNT(names))
            claim(here, "target");
        assert_false(target_link(here->target, path, "/wal", &here->err));
        (void)snprintf(message, sizeof message, "symbolic link \"%s\" is outside the backup", path);
        assert_string_equal(here->err.message, message);
        assert_int_equal(here->err.code, ERR_BUG);
        here->err = ERROR_INIT;
    }
    assert_false(exists(here, "pg_wal"));
    assert_false(exists(here, "other/pg_wal"));
}

static void
test_link_whose_name_is_taken(void **state)
{
    Here *here = *state;
    char message[8900];

    claim(here, "target");
    temp_dir_mkdir(&here->dir, "target/pg_wal");
    assert_false(
        target_link(here->target, in_dir(here, "target/pg_wal"), in_dir(here, "wal"), &here->err));
    (void)snprintf(message, sizeof message, "could not create symbolic link \"%s\" to \"%s\": %s",
                   in_dir(here, "target/pg_wal"), in_dir(here, "wal"), strerror(EEXIST));
    assert_string_equal(here->err.message, message);
    assert_int_equal(here->err.sys_errno, EEXIST);
    assert_true(S_ISDIR(temp_dir_mode(&here->dir, "target/pg_wal")));
}

/* ---- files ---- */

static bool
make_file(Here *here, const char *name, const char *content, SyncMethod sync)
{
    return target_make_file(here->dir.path, name, span_of(content), 0640, sync, &here->err);
}

static void
assert_content(Here *here, const char *name, const char *content, size_t len)
{
    Buf found = temp_dir_read(&here->dir, name);

    assert_int_equal(found.len, len);
    if (len > 0)
        assert_memory_equal(found.data, content, len);
    buf_free(&found);
}

static void
test_file(void **state)
{
    static const mode_t umasks[] = {0, 022, 0777};
    static const SyncMethod methods[] = {SYNC_NONE, SYNC_FSYNC, SYNC_SYNCFS};

    for (size_t i = 0; i < COUNT(umasks) * COUNT(methods); i++) {
        Here *here = *state;
        mode_t before = umask(umasks[i % COUNT(umasks)]);
        bool ok = make_file(here, "mark", "base/1/2 3\n", methods[i / COUNT(umasks)]) &&
                  make_file(here, "empty", "", methods[i / COUNT(umasks)]);

        (void)umask(before);
        assert_true(ok);
        assert_content(here, "mark", "base/1/2 3\n", 11);
        assert_content(here, "empty", "", 0);
        assert_int_equal(temp_dir_mode(&here->dir, "mark"), S_IFREG | 0640);
        assert_int_equal(temp_dir_mode(&here->dir, "empty"), S_IFREG | 0640);
        temp_dir_remove(&here->dir);
        temp_dir_make(&here->dir);
    }
}

static void
test_large_file(void **state)
{
    Here *here = *state;
    size_t len = (size_t)3 * 1024 * 1024 + 17;
    char *content = malloc(len);

    assert_non_null(content);
    for (size_t i = 0; i < len; i++)
        content[i] = (char)(i * 31 + i / 251);
    assert_true(target_make_file(here->dir.path, "mark",
                                 (Span){.data = (uint8_t *)content, .len = len}, 0600, SYNC_FSYNC,
                                 &here->err));
    assert_content(here, "mark", content, len);
    free(content);
}

/* Run it while its calls are written down. */
static bool
watched_file(Here *here, SyncMethod sync, size_t fail_at)
{
    bool ok;

    buf_clear(&ops.log);
    ops.calls = 0;
    ops.fail_at = fail_at;
    ops.watched = true;
    ok =
        target_make_file(in_dir(here, "target"), "mark", span_of("page\n"), 0600, sync, &here->err);
    ops.watched = false;
    return ok;
}

static void
test_file_lasts(void **state)
{
    static const struct {
        SyncMethod sync;
        const char *log;
    } cases[] = {
        {SYNC_NONE, "write mark\nclose mark\n"},
        {SYNC_FSYNC, "write mark\nfsync mark\nclose mark\nfsync target\nclose target\n"},
        {SYNC_SYNCFS, "write mark\nfsync mark\nclose mark\nfsync target\nclose target\n"},
    };

    for (size_t i = 0; i < COUNT(cases); i++) {
        Here *here = *state;

        claim(here, "target");
        assert_true(watched_file(here, cases[i].sync, 0));
        assert_string_equal(buf_text(&ops.log), cases[i].log);
        take_back(here);
    }
    buf_free(&ops.log);
}

/* Each call fails once. The directory stays marked, for whoever finds it. */
static void
test_file_that_fails(void **state)
{
    static const struct {
        const char *message; /* with the path of the file, or of its directory */
        const char *name;
        const char *log;
    } cases[] = {
        {"could not write to file", "target/mark", "write mark\nclose mark\n"},
        {"could not fsync file", "target/mark", "write mark\nfsync mark\nclose mark\n"},
        {"could not close file", "target/mark", "write mark\nfsync mark\nclose mark\n"},
        {"could not fsync file", "target",
         "write mark\nfsync mark\nclose mark\nfsync target\nclose target\n"},
    };

    for (size_t i = 0; i < COUNT(cases); i++) {
        Here *here = *state;
        char message[4400];

        claim(here, "target");
        assert_false(watched_file(here, SYNC_FSYNC, i + 1));
        (void)snprintf(message, sizeof message, "%s \"%s\": %s", cases[i].message,
                       in_dir(here, cases[i].name), strerror(EIO));
        assert_string_equal(here->err.message, message);
        assert_int_equal(here->err.sys_errno, EIO);
        assert_string_equal(buf_text(&ops.log), cases[i].log);
        assert_true(exists(here, "target/mark"));
        here->err = ERROR_INIT;
        take_back(here);
        assert_false(exists(here, "target"));
    }
    buf_free(&ops.log);
}

/* Nothing that is there is written over, nor what a link leads to. */
static void
test_file_whose_name_is_taken(void **state)
{
    Here *here = *state;
    char message[4400];

    temp_dir_write(&here->dir, "mark", "mine", 4);
    assert_int_equal(symlink("nowhere", in_dir(here, "link")), 0);
    assert_false(make_file(here, "mark", "page\n", SYNC_FSYNC));
    (void)snprintf(message, sizeof message, "could not create file \"%s\": %s",
                   in_dir(here, "mark"), strerror(EEXIST));
    assert_string_equal(here->err.message, message);
    assert_int_equal(here->err.sys_errno, EEXIST);
    assert_content(here, "mark", "mine", 4);

    assert_false(make_file(here, "link", "page\n", SYNC_FSYNC));
    assert_int_equal(here->err.sys_errno, EEXIST);
    assert_false(exists(here, "nowhere"));

    assert_false(make_file(here, "missing/mark", "page\n", SYNC_FSYNC));
    assert_int_equal(here->err.sys_errno, ENOENT);
}

/* What is written when a backup is kept is what the next run finds. */
static void
test_mark_is_found(void **state)
{
    Here *here = *state;

    claim(here, "target");
    assert_true(target_make_file(in_dir(here, "target"), TARGET_BAD_PAGES, span_of("page\n"), 0600,
                                 SYNC_FSYNC, &here->err));
    assert_false(target_claim(here->target, in_dir(here, "target"), 0700, &here->err));
    assert_non_null(strstr(here->err.hint, "look at it before you remove anything"));
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
        TARGET_TEST(test_directory_with_bad_pages),
        TARGET_TEST(test_what_is_no_directory),
        TARGET_TEST(test_link_to_a_directory),
        TARGET_TEST(test_directories_that_overlap),
        TARGET_TEST(test_wal_directory_overlaps),
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
        TARGET_TEST(test_link),
        TARGET_TEST(test_link_in_untidy_paths),
        TARGET_TEST(test_link_outside),
        TARGET_TEST(test_link_whose_name_is_taken),
        TARGET_TEST(test_file),
        TARGET_TEST(test_large_file),
        TARGET_TEST(test_file_lasts),
        TARGET_TEST(test_file_that_fails),
        TARGET_TEST(test_file_whose_name_is_taken),
        TARGET_TEST(test_mark_is_found),
    };

    return cmocka_run_group_tests_name("target", tests, NULL, NULL);
}
