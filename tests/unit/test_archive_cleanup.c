/*
 * pg_archivecleanup: which names are older than the one that is kept, and their removal.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "archive/archive.h"
#include "support/temp_dir.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define SEGMENT      "0000000A00000002000000FE"
#define OLDER        "0000000B00000002000000FD"
#define YOUNGER      "0000000900000002000000FF"

/* ---- the oldest one that is kept ---- */

static void
test_first_kept(void **state)
{
    static const struct {
        const char *name;
        const char *extension;
    } cases[] = {
        {SEGMENT, NULL},
        {SEGMENT, ""},
        {SEGMENT, ".gz"},
        {SEGMENT ".gz", ".gz"},
        {SEGMENT ".partial", NULL},
        {SEGMENT ".partial", ".partial"},
        {SEGMENT ".partial.gz", ".gz"},
        {SEGMENT ".gz.partial", ".gz"},
        {SEGMENT ".00000028.backup", NULL},
        {SEGMENT ".00000028.backup", ".gz"},
        {SEGMENT ".00000028.backup.gz", ".gz"},
    };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        char segment[WAL_NAME_SIZE];

        if (!cleanup_first_kept(cases[i].name, cases[i].extension, segment))
            fail_msg("\"%s\" names a segment", cases[i].name);
        assert_string_equal(segment, SEGMENT);
    }
}

static const char *const no_names[] = {
    "",
    ".",
    "x",
    ".gz",
    ".partial",
    "0000000A00000002000000F",
    "0000000a00000002000000fe",
    "000000000000000200000001",
    "000000010000000200001000",
    SEGMENT "0",
    SEGMENT ".gz",
    SEGMENT ".gz.partial",
    SEGMENT ".partial.gz",
    SEGMENT ".partial.partial",
    SEGMENT "partial",
    SEGMENT ".00000028",
    SEGMENT ".0000028.backup",
    SEGMENT ".000000028.backup",
    SEGMENT ".0000002g.backup",
    SEGMENT ".00000028.backup.partial",
    SEGMENT ".backup",
    SEGMENT ".tmp",
    "0000000A.history",
    "backup_label",
    SEGMENT ".00000028.backup and many more bytes than any name of ours has",
};

static void
test_no_names(void **state)
{
    CleanupRequest request = {.first_kept = "FFFFFFFFFFFFFFFF00000FFF", .backup_history = true};

    (void)state;
    for (size_t i = 0; i < COUNT(no_names); i++) {
        char segment[WAL_NAME_SIZE] = "untouched";

        if (cleanup_first_kept(no_names[i], NULL, segment))
            fail_msg("\"%s\" names no segment", no_names[i]);
        assert_string_equal(segment, "untouched");
        if (cleanup_takes(&request, no_names[i]))
            fail_msg("\"%s\" is removed", no_names[i]);
    }
}

/* ---- what is older ---- */

static void
test_takes(void **state)
{
    static const struct {
        const char *name;
        const char *extension;
        bool backup_history;
        bool taken;
    } cases[] = {
        {OLDER, NULL, false, true},
        {OLDER, ".gz", false, true},
        {OLDER ".partial", NULL, false, true},
        {OLDER ".partial", ".gz", false, true},
        {OLDER ".gz", NULL, false, false},
        {OLDER ".gz", ".gz", false, true},
        {OLDER ".gz", ".lz4", false, false},
        {OLDER ".gz.partial", ".gz", false, true},
        {OLDER ".gz.partial", NULL, false, false},
        {OLDER ".gz.gz", ".gz", false, false},
        {OLDER ".00000028.backup", NULL, false, false},
        {OLDER ".00000028.backup", NULL, true, true},
        {OLDER ".00000028.backup.gz", NULL, true, false},
        {OLDER ".00000028.backup.gz", ".gz", true, true},
        {SEGMENT, NULL, true, false},
        {SEGMENT ".partial", NULL, true, false},
        {SEGMENT ".00000000.backup", NULL, true, false},
        {YOUNGER, NULL, true, false},
        {YOUNGER ".partial", NULL, true, false},
        {YOUNGER ".00000028.backup", NULL, true, false},
        /* Timelines do not matter, in either direction. */
        {"FFFFFFFF00000002000000FD", NULL, false, true},
        {"0000000100000002000000FE", NULL, false, false},
        {"00000001000000010000000F", NULL, false, true},
    };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        CleanupRequest request = {
            .extension = cases[i].extension,
            .backup_history = cases[i].backup_history,
            .first_kept = SEGMENT,
        };

        if (cleanup_takes(&request, cases[i].name) != cases[i].taken)
            fail_msg("%zu: \"%s\"", i, cases[i].name);
    }
}

/* ---- directories ---- */

static void
note(void *ctx, const char *name)
{
    char *text = ctx;
    size_t len = strlen(text);

    (void)snprintf(text + len, 256 - len, "%s\n", name);
}

static void
test_oldest_first(void **state)
{
    static const char *const names[] = {
        "000000020000000000000003", "000000010000000000000001.partial", "000000010000000000000003",
        "000000030000000000000001", "000000010000000000000004",         "00000002.history",
    };
    CleanupRequest request = {.first_kept = "000000010000000000000004"};
    ArchiveNames removed;
    char said[256] = "";
    Error err = ERROR_INIT;
    TempDir dir;

    (void)state;
    temp_dir_make(&dir);
    for (size_t i = 0; i < COUNT(names); i++)
        temp_dir_write(&dir, names[i], "x", 1);
    request.directory = dir.path;
    assert_true(cleanup_list(&request, &removed, &err));
    assert_true(archive_remove(dir.path, &removed, note, said, &err));
    assert_string_equal(said, "000000030000000000000001\n000000010000000000000001.partial\n"
                              "000000010000000000000003\n000000020000000000000003\n");
    assert_false(temp_dir_exists(&dir, names[0]));
    assert_true(temp_dir_exists(&dir, "000000010000000000000004"));
    assert_true(temp_dir_exists(&dir, "00000002.history"));
    archive_names_free(&removed);
    temp_dir_remove(&dir);
}

static void
test_ends_at_what_cannot_be_removed(void **state)
{
    CleanupRequest request = {.first_kept = "000000010000000000000004"};
    ArchiveNames removed;
    Error err = ERROR_INIT;
    TempDir dir;

    (void)state;
    temp_dir_make(&dir);
    temp_dir_write(&dir, "000000010000000000000001", "x", 1);
    temp_dir_mkdir(&dir, "000000010000000000000002");
    temp_dir_write(&dir, "000000010000000000000003", "x", 1);
    request.directory = dir.path;
    assert_true(cleanup_list(&request, &removed, &err));
    assert_int_equal(removed.count, 3);
    assert_false(archive_remove(dir.path, &removed, NULL, NULL, &err));
    assert_int_equal(err.code, ERR_SYSTEM);
    assert_non_null(strstr(err.message, "could not remove file \""));
    assert_non_null(strstr(err.message, "/000000010000000000000002\": Is a directory"));
    assert_false(temp_dir_exists(&dir, "000000010000000000000001"));
    assert_true(temp_dir_exists(&dir, "000000010000000000000003"));
    archive_names_free(&removed);
    temp_dir_remove(&dir);
}

static void
test_no_directory(void **state)
{
    CleanupRequest request = {.directory = "/nowhere", .first_kept = SEGMENT};
    ArchiveNames names;
    Error err = ERROR_INIT;

    (void)state;
    assert_false(cleanup_list(&request, &names, &err));
    assert_string_equal(err.message, "could not open archive location \"/nowhere\": No such file "
                                     "or directory");
    archive_names_free(&names);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_first_kept),
        cmocka_unit_test(test_no_names),
        cmocka_unit_test(test_takes),
        cmocka_unit_test(test_oldest_first),
        cmocka_unit_test(test_ends_at_what_cannot_be_removed),
        cmocka_unit_test(test_no_directory),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
