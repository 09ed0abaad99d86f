#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "support/temp_dir.h"
#include "verify/internal.h"

/* ---- path sets ---- */

static PathSet
set_of(const char *const *paths)
{
    PathSet set = PATH_SET_INIT;
    Error err = ERROR_INIT;

    for (; *paths != NULL; paths++)
        assert_true(path_set_add(&set, *paths, &err));
    path_set_sort(&set);
    return set;
}

static void
test_empty_set_covers_nothing(void **state)
{
    PathSet set = PATH_SET_INIT;

    (void)state;
    path_set_sort(&set);
    assert_false(path_set_covers(&set, "a"));
    assert_false(path_set_covers(&set, ""));
    path_set_free(&set);
}

static void
test_set_covers_what_is_below(void **state)
{
    PathSet set =
        set_of((const char *const[]){"pg_wal", "base/1", "base/12/x", "a", "a!", "z/y/x", NULL});

    (void)state;
    assert_true(path_set_covers(&set, "pg_wal"));
    assert_true(path_set_covers(&set, "pg_wal/archive_status/x.done"));
    assert_true(path_set_covers(&set, "base/1"));
    assert_true(path_set_covers(&set, "base/1/2"));
    assert_true(path_set_covers(&set, "base/12/x/y"));
    assert_true(path_set_covers(&set, "a"));
    assert_true(path_set_covers(&set, "a/b"));
    assert_true(path_set_covers(&set, "a!/b"));
    assert_true(path_set_covers(&set, "z/y/x/w/v"));

    assert_false(path_set_covers(&set, "pg_wa"));
    assert_false(path_set_covers(&set, "pg_wal2"));
    assert_false(path_set_covers(&set, "pg_wal.x/y"));
    assert_false(path_set_covers(&set, "base"));
    assert_false(path_set_covers(&set, "base/12"));
    assert_false(path_set_covers(&set, "base/123"));
    assert_false(path_set_covers(&set, "x/pg_wal"));
    assert_false(path_set_covers(&set, "z/y"));
    assert_false(path_set_covers(&set, "z/yx"));
    assert_false(path_set_covers(&set, ""));
    path_set_free(&set);
}

static void
test_set_with_high_bytes_and_doubles(void **state)
{
    PathSet set = set_of((const char *const[]){"\xff", "\xc3\xa4", "b", "b", "\x01", NULL});

    (void)state;
    assert_true(path_set_covers(&set, "\xff/1"));
    assert_true(path_set_covers(&set, "\xc3\xa4"));
    assert_true(path_set_covers(&set, "\x01"));
    assert_true(path_set_covers(&set, "b/c"));
    assert_false(path_set_covers(&set, "\xc3"));
    assert_false(path_set_covers(&set, "\xfe"));
    path_set_free(&set);
}

/* ---- the walk ---- */

typedef struct Walk {
    TempDir dir;
    PathSet ignore;
    Buf text;
    bool directories; /* are items, too */
    const char *skip; /* the directory that is not wanted; NULL: all are */
    size_t items;
    size_t enough_at; /* end the walk at this item (from 1); 0: not */
    size_t fail_at;
    const Stop *stop;
    Error err;
} Walk;

static int
walk_setup(void **state)
{
    Walk *walk = calloc(1, sizeof *walk);

    temp_dir_make(&walk->dir);
    *state = walk;
    return 0;
}

static int
walk_teardown(void **state)
{
    Walk *walk = *state;

    temp_dir_remove(&walk->dir);
    path_set_free(&walk->ignore);
    buf_free(&walk->text);
    free(walk);
    return 0;
}

static TreeNext
note(void *ctx, const TreeItem *item, Error *err)
{
    Walk *walk = ctx;
    static const char *const names[] = {
        [TREE_FILE] = "file",       [TREE_ODD] = "odd",         [TREE_NO_STAT] = "no stat",
        [TREE_NO_OPEN] = "no open", [TREE_NO_READ] = "no read", [TREE_DIRECTORY] = "directory"};

    if (item->what == TREE_DIRECTORY && !walk->directories)
        return TREE_GO_ON;
    walk->items++;
    assert_true(buf_printf(&walk->text, err, "%s %s", names[item->what],
                           strlen(item->path) > 100 ? "(long)" : item->path));
    if (item->what == TREE_FILE)
        assert_true(buf_printf(&walk->text, err, " %llu", (unsigned long long)item->size));
    else if (item->errnum != 0)
        assert_true(buf_printf(&walk->text, err, " %s", strerrorname_np(item->errnum)));
    assert_true(buf_append(&walk->text, "\n", 1, err));
    if (walk->items == walk->fail_at) {
        (void)error_set(err, ERR_MEMORY, "that is it");
        return TREE_FAILED;
    }
    if (walk->skip != NULL && strcmp(item->path, walk->skip) == 0)
        return TREE_SKIP;
    return walk->items == walk->enough_at ? TREE_ENOUGH : TREE_GO_ON;
}

static bool
run(Walk *walk, const char *directory)
{
    TreeWalk config = {.directory = directory,
                       .ignore = &walk->ignore,
                       .stop = walk->stop,
                       .found = note,
                       .ctx = walk};

    buf_clear(&walk->text);
    walk->items = 0;
    return tree_walk(&config, &walk->err);
}

static void
put(Walk *walk, const char *path, size_t size)
{
    char *content = calloc(1, size + 1);
    char *slash = strrchr(path, '/');

    if (slash != NULL) {
        char *parent = strndup(path, (size_t)(slash - path));

        temp_dir_mkdir(&walk->dir, parent);
        free(parent);
    }
    temp_dir_write(&walk->dir, path, content, size);
    free(content);
}

static void
put_link(Walk *walk, const char *target, const char *path)
{
    assert_int_equal(symlink(target, temp_dir_path(&walk->dir, path)), 0);
}

static void
test_order_is_that_of_the_names(void **state)
{
    Walk *walk = *state;

    put(walk, "b", 1);
    put(walk, "a/z", 2);
    put(walk, "a/b/c", 3);
    put(walk, "a.x", 0);
    put(walk, "C", 5);
    put(walk, "\xc3\xa4", 6);
    put(walk, ".hidden", 7);
    put(walk, "new\nline", 8);
    temp_dir_mkdir(&walk->dir, "empty");
    assert_true(run(walk, walk->dir.path));
    /* A directory's content stands where the directory does. */
    assert_string_equal(buf_text(&walk->text), "file .hidden 7\n"
                                               "file C 5\n"
                                               "file a/b/c 3\n"
                                               "file a/z 2\n"
                                               "file a.x 0\n"
                                               "file b 1\n"
                                               "file new\nline 8\n"
                                               "file \xc3\xa4 6\n");
}

static void
test_ignored_is_not_looked_at(void **state)
{
    Walk *walk = *state;

    put(walk, "a/keep", 1);
    put(walk, "a/drop/x", 1);
    put(walk, "pg_wal/x", 1);
    put(walk, "b/pg_wal/x", 1);
    put_link(walk, "nowhere", "odd");
    assert_true(path_set_add(&walk->ignore, "a/drop", &walk->err));
    assert_true(path_set_add(&walk->ignore, "pg_wal", &walk->err));
    assert_true(path_set_add(&walk->ignore, "odd", &walk->err));
    path_set_sort(&walk->ignore);
    assert_true(run(walk, walk->dir.path));
    assert_string_equal(buf_text(&walk->text), "file a/keep 1\nfile b/pg_wal/x 1\n");
}

/* Before what is in them; the links that are followed among them. */
static void
test_directories(void **state)
{
    Walk *walk = *state;

    put(walk, "data/a/b/c", 3);
    put(walk, "data/a.x", 1);
    temp_dir_mkdir(&walk->dir, "data/empty");
    temp_dir_mkdir(&walk->dir, "outside");
    put_link(walk, "../outside", "data/pg_wal");
    walk->directories = true;
    assert_true(run(walk, temp_dir_path(&walk->dir, "data")));
    assert_string_equal(buf_text(&walk->text), "directory a\n"
                                               "directory a/b\n"
                                               "file a/b/c 3\n"
                                               "file a.x 1\n"
                                               "directory empty\n"
                                               "directory pg_wal\n");
}

static void
test_directory_that_is_not_wanted(void **state)
{
    Walk *walk = *state;

    put(walk, "a/b/c", 3);
    put(walk, "a/d", 1);
    put(walk, "b/b", 2);
    walk->directories = true;
    walk->skip = "a/b";
    assert_true(run(walk, walk->dir.path));
    assert_string_equal(buf_text(&walk->text), "directory a\n"
                                               "directory a/b\n"
                                               "file a/d 1\n"
                                               "directory b\n"
                                               "file b/b 2\n");
}

static void
test_walk_ends_at_a_directory(void **state)
{
    Walk *walk = *state;

    put(walk, "a/b", 3);
    walk->directories = true;
    walk->enough_at = 1;
    assert_true(run(walk, walk->dir.path));
    assert_string_equal(buf_text(&walk->text), "directory a\n");
    walk->enough_at = 0;
    walk->fail_at = 2;
    assert_false(run(walk, walk->dir.path));
}

static void
test_tablespace_links_are_followed(void **state)
{
    Walk *walk = *state;

    put(walk, "outside/PG_18/1", 4);
    put(walk, "data/pg_tblspc/1/in_place", 3);
    put_link(walk, "../../outside", "data/pg_tblspc/2");
    put_link(walk, temp_dir_path(&walk->dir, "outside"), "data/pg_wal");
    assert_true(run(walk, temp_dir_path(&walk->dir, "data")));
    assert_string_equal(buf_text(&walk->text), "file pg_tblspc/1/in_place 3\n"
                                               "file pg_tblspc/2/PG_18/1 4\n"
                                               "file pg_wal/PG_18/1 4\n");
}

static void
test_other_links_are_not_followed(void **state)
{
    Walk *walk = *state;

    put(walk, "outside/secret", 4);
    put(walk, "data/base/1", 1);
    temp_dir_mkdir(&walk->dir, "data/pg_tblspc");
    put_link(walk, "../../outside", "data/base/dir");
    put_link(walk, "1", "data/base/file");
    put_link(walk, "../outside", "data/pg_tblspc2");
    put_link(walk, "nowhere", "data/dangling");
    put_link(walk, "../../outside/secret", "data/pg_tblspc/7");
    put_link(walk, "../../outside", "data/base/pg_wal");
    assert_true(run(walk, temp_dir_path(&walk->dir, "data")));
    assert_string_equal(buf_text(&walk->text), "file base/1 1\n"
                                               "odd base/dir\n"
                                               "odd base/file\n"
                                               "odd base/pg_wal\n"
                                               "odd dangling\n"
                                               "odd pg_tblspc/7\n"
                                               "odd pg_tblspc2\n");
}

static void
test_link_below_a_tablespace_is_not_followed(void **state)
{
    Walk *walk = *state;

    put(walk, "secret/x", 1);
    put(walk, "space/y", 1);
    put_link(walk, "../secret", "space/link");
    temp_dir_mkdir(&walk->dir, "data/pg_tblspc");
    put_link(walk, "../../space", "data/pg_tblspc/1");
    assert_true(run(walk, temp_dir_path(&walk->dir, "data")));
    assert_string_equal(buf_text(&walk->text), "odd pg_tblspc/1/link\nfile pg_tblspc/1/y 1\n");
}

static void
test_tablespace_directory_as_a_link(void **state)
{
    Walk *walk = *state;

    put(walk, "outside/1/x", 1);
    put(walk, "data/y", 1);
    put_link(walk, "../outside", "data/pg_tblspc");
    assert_true(run(walk, temp_dir_path(&walk->dir, "data")));
    assert_string_equal(buf_text(&walk->text), "odd pg_tblspc\nfile y 1\n");
}

static void
test_link_loops_end(void **state)
{
    Walk *walk = *state;

    put(walk, "x", 1);
    temp_dir_mkdir(&walk->dir, "pg_tblspc");
    put_link(walk, "..", "pg_tblspc/1"); /* the data directory itself, which has the link */
    put_link(walk, "3", "pg_tblspc/2");
    put_link(walk, "2", "pg_tblspc/3");
    put_link(walk, "nowhere", "pg_tblspc/4");
    assert_true(run(walk, walk->dir.path));
    assert_string_equal(buf_text(&walk->text), "odd pg_tblspc/1/pg_tblspc/1\n"
                                               "odd pg_tblspc/1/pg_tblspc/2\n"
                                               "odd pg_tblspc/1/pg_tblspc/3\n"
                                               "odd pg_tblspc/1/pg_tblspc/4\n"
                                               "file pg_tblspc/1/x 1\n"
                                               "no stat pg_tblspc/2 ELOOP\n"
                                               "no stat pg_tblspc/3 ELOOP\n"
                                               "no stat pg_tblspc/4 ENOENT\n"
                                               "file x 1\n");
}

static void
test_special_files_are_odd(void **state)
{
    Walk *walk = *state;

    assert_int_equal(mkfifo(temp_dir_path(&walk->dir, "pipe"), 0600), 0);
    assert_true(run(walk, walk->dir.path));
    assert_string_equal(buf_text(&walk->text), "odd pipe\n");
}

/* Deeper than a path can be: found, not followed for ever. */
static void
test_too_deep_cannot_be_opened(void **state)
{
    Walk *walk = *state;
    char name[201];
    int fd = open(walk->dir.path, O_RDONLY | O_DIRECTORY);

    memset(name, 'd', sizeof name - 1);
    name[sizeof name - 1] = '\0';
    for (int i = 0; i < 25; i++) {
        int next;

        assert_int_equal(mkdirat(fd, name, 0700), 0);
        next = openat(fd, name, O_RDONLY | O_DIRECTORY);
        assert_true(next >= 0);
        close(fd);
        fd = next;
    }
    close(fd);
    put(walk, "z", 1);
    assert_true(run(walk, walk->dir.path));
    assert_string_equal(buf_text(&walk->text), "no open (long) ENAMETOOLONG\nfile z 1\n");
}

static void
test_unreadable_directory_is_found(void **state)
{
    Walk *walk = *state;
    uid_t nobody = 65534;

    put(walk, "locked/x", 1);
    put(walk, "open/y", 1);
    assert_int_equal(chmod(temp_dir_path(&walk->dir, "locked"), 0), 0);
    assert_int_equal(chmod(temp_dir_path(&walk->dir, "open"), 0755), 0);
    assert_int_equal(chmod(walk->dir.path, 0755), 0);
    if (geteuid() == 0)
        assert_int_equal(seteuid(nobody), 0);
    assert_true(run(walk, walk->dir.path));
    if (getuid() == 0)
        assert_int_equal(seteuid(0), 0);
    assert_int_equal(chmod(temp_dir_path(&walk->dir, "locked"), 0700), 0);
    assert_string_equal(buf_text(&walk->text), "no open locked EACCES\nfile open/y 1\n");
}

static void
test_root_must_be_readable(void **state)
{
    Walk *walk = *state;
    const char *missing = temp_dir_path(&walk->dir, "missing");
    char expected[512];

    assert_false(run(walk, missing));
    assert_int_equal(walk->err.code, ERR_SYSTEM);
    assert_int_equal(walk->err.sys_errno, ENOENT);
    (void)snprintf(expected, sizeof expected,
                   "could not open directory \"%s\": No such file or directory", missing);
    assert_string_equal(walk->err.message, expected);

    put(walk, "file", 1);
    assert_false(run(walk, temp_dir_path(&walk->dir, "file")));
    assert_int_equal(walk->err.sys_errno, ENOTDIR);
}

static void
test_root_with_a_slash(void **state)
{
    Walk *walk = *state;

    put(walk, "a/b", 1);
    assert_true(run(walk, temp_dir_path(&walk->dir, "a/")));
    assert_string_equal(buf_text(&walk->text), "file b 1\n");
}

static void
test_visitor_ends_the_walk(void **state)
{
    Walk *walk = *state;

    put(walk, "a/1", 1);
    put(walk, "a/2", 1);
    put(walk, "b", 1);
    walk->enough_at = 1;
    assert_true(run(walk, walk->dir.path));
    assert_string_equal(buf_text(&walk->text), "file a/1 1\n");
    walk->enough_at = 0;
    walk->fail_at = 2;
    assert_false(run(walk, walk->dir.path));
    assert_int_equal(walk->err.code, ERR_MEMORY);
    assert_string_equal(buf_text(&walk->text), "file a/1 1\nfile a/2 1\n");
}

static void
test_stop_ends_the_walk(void **state)
{
    Walk *walk = *state;
    Stop stop;

    put(walk, "a", 1);
    assert_true(stop_init(&stop, &walk->err));
    walk->stop = &stop;
    assert_true(run(walk, walk->dir.path));
    stop_request(&stop);
    assert_false(run(walk, walk->dir.path));
    assert_int_equal(walk->err.code, ERR_STOPPED);
    assert_int_equal(walk->items, 0);
    stop_destroy(&stop);
}

#define WALK_TEST(name) cmocka_unit_test_setup_teardown(name, walk_setup, walk_teardown)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_empty_set_covers_nothing),
        cmocka_unit_test(test_set_covers_what_is_below),
        cmocka_unit_test(test_set_with_high_bytes_and_doubles),
        WALK_TEST(test_order_is_that_of_the_names),
        WALK_TEST(test_ignored_is_not_looked_at),
        WALK_TEST(test_directories),
        WALK_TEST(test_directory_that_is_not_wanted),
        WALK_TEST(test_walk_ends_at_a_directory),
        WALK_TEST(test_tablespace_links_are_followed),
        WALK_TEST(test_other_links_are_not_followed),
        WALK_TEST(test_link_below_a_tablespace_is_not_followed),
        WALK_TEST(test_tablespace_directory_as_a_link),
        WALK_TEST(test_link_loops_end),
        WALK_TEST(test_special_files_are_odd),
        WALK_TEST(test_too_deep_cannot_be_opened),
        WALK_TEST(test_unreadable_directory_is_found),
        WALK_TEST(test_root_must_be_readable),
        WALK_TEST(test_root_with_a_slash),
        WALK_TEST(test_visitor_ends_the_walk),
        WALK_TEST(test_stop_ends_the_walk),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
