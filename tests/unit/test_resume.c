/*
 * Where a WAL directory ends: what counts as a segment, which one is the newest, and that neither
 * stray files nor the order of the directory change the answer.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "support/temp_dir.h"
#include "walrecv/walrecv.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define MB           ((uint32_t)1 << 20)
#define WRONG        1 /* a file of one byte, which is no segment */

typedef struct Here {
    TempDir dir;
    Buf skipped; /* a line for each */
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

    temp_dir_remove(&here->dir);
    buf_free(&here->skipped);
    free(here);
    return 0;
}

static void
start_again(Here *here)
{
    temp_dir_remove(&here->dir);
    temp_dir_make(&here->dir);
    buf_clear(&here->skipped);
}

/* A file of `size` bytes, without writing them. */
static void
put(Here *here, const char *name, off_t size)
{
    temp_dir_write(&here->dir, name, "", 0);
    assert_int_equal(truncate(temp_dir_path(&here->dir, name), size), 0);
}

static void
note_skipped(void *ctx, const char *path, uint64_t size)
{
    Here *here = ctx;
    const char *name = strrchr(path, '/') + 1;
    Error err = ERROR_INIT;

    assert_string_equal(path, temp_dir_path(&here->dir, name));
    assert_true(buf_printf(&here->skipped, &err, "%s %llu\n", name, (unsigned long long)size));
}

static bool
find(Here *here, uint32_t segment_size, WalDirEnd *end, Error *err)
{
    *end = (WalDirEnd){.next = 99};
    return wal_dir_find_end(here->dir.path, segment_size, note_skipped, here, end, err);
}

static void
assert_end(Here *here, uint32_t segment_size, Lsn next, TimeLineID timeline)
{
    Error err = ERROR_INIT;
    WalDirEnd end;

    if (!find(here, segment_size, &end, &err))
        fail_msg("%s", err.message);
    assert_true(end.found);
    assert_int_equal(end.next, next);
    assert_int_equal(end.timeline, timeline);
}

static void
assert_nothing(Here *here)
{
    Error err = ERROR_INIT;
    WalDirEnd end;

    if (!find(here, MB, &end, &err))
        fail_msg("%s", err.message);
    assert_false(end.found);
}

static void
assert_error(Here *here, ErrorCode code, const char *fmt)
{
    Error err = ERROR_INIT;
    char message[4200];
    WalDirEnd end;

    assert_false(find(here, MB, &end, &err));
    (void)snprintf(message, sizeof message, "the newest segment in directory \"%s\" %s",
                   here->dir.path, fmt);
    assert_string_equal(err.message, message);
    assert_int_equal(err.code, code);
    assert_int_equal(end.next, 99);
}

/* ---- the newest ---- */

static void
test_empty_directory(void **state)
{
    assert_nothing(*state);
}

static void
test_complete_and_partial(void **state)
{
    Here *here = *state;

    put(here, "000000010000000000000001", MB);
    assert_end(here, MB, 0x200000, 1);
    put(here, "000000010000000000000002", MB);
    assert_end(here, MB, 0x300000, 1);
    /* Received to where nobody knows: from its start. */
    put(here, "000000010000000000000003.partial", 12345);
    assert_end(here, MB, 0x300000, 1);
    put(here, "000000010000000000000003", MB);
    assert_end(here, MB, 0x400000, 1);
    assert_string_equal(buf_text(&here->skipped), "");
}

/* The position counts first, then the timeline: the other one ended before. */
static void
test_timelines(void **state)
{
    Here *here = *state;

    put(here, "000000010000000000000008", MB);
    put(here, "000000020000000000000005", MB);
    assert_end(here, MB, 0x900000, 1);
    put(here, "000000020000000000000008.partial", MB);
    assert_end(here, MB, 0x800000, 2);
    put(here, "0000000A0000000000000008", MB);
    assert_end(here, MB, 0x900000, 10);
}

/* Where the number's digits carry over, with every segment size. */
static void
test_last_segment_of_a_log_file(void **state)
{
    static const struct {
        uint32_t size;
        const char *name;
        Lsn next;
    } cases[] = {
        {MB, "000000010000000000000FFF", 0x100000000},
        {16 * MB, "0000000100000000000000FF", 0x100000000},
        {16 * MB, "0000000100000007000000FF", 0x800000000},
        {64 * MB, "00000001000000000000003F", 0x100000000},
        {1024 * MB, "000000010000000000000003", 0x100000000},
        {16 * MB, "00000001FFFFFFFF000000FE", 0xFFFFFFFFFF000000},
    };

    for (size_t i = 0; i < COUNT(cases); i++) {
        start_again(*state);
        put(*state, cases[i].name, cases[i].size);
        assert_end(*state, cases[i].size, cases[i].next, 1);
    }
}

/* Behind it there is nothing: going on at 0/0 would be a mistake. */
static void
test_last_segment_of_all(void **state)
{
    put(*state, "00000001FFFFFFFF00000FFF", MB);
    assert_error(*state, ERR_FORMAT, "is the last one that there can be");

    start_again(*state);
    put(*state, "00000001FFFFFFFF00000FFF.partial", MB);
    assert_end(*state, MB, 0xFFFFFFFFFFF00000, 1);
}

/* ---- what is no segment ---- */

static void
test_stray_files(void **state)
{
    static const char *const names[] = {
        "backup_label",
        "x.tmp",
        "zzzzzzzzzzzzzzzzzzzzzzzz",
        "00000002.history",
        "00000002.history.partial",
        "00000001000000000000000",
        "0000000100000000000000010",
        "00000001000000000000000a",
        "000000010000000000001000", /* beyond what a log file has */
        "000000000000000000000009", /* no timeline */
        "000000010000000000000009.partial2",
        "000000010000000000000009partial",
        "000000010000000000000009.PARTIAL",
        "000000010000000000000009.bak",
        "000000010000000000000009.00000028.backup",
        "000000010000000000000009 ",
        "000000010000000000000009.tmp",
        ".000000010000000000000009",
        "000000010000000000000009.gz.partial.partial",
        "000000010000000000000009.partial.gz",
    };
    Here *here = *state;

    for (size_t i = 0; i < COUNT(names); i++)
        put(here, names[i], MB);
    assert_nothing(here);
    put(here, "000000010000000000000001", MB);
    assert_end(here, MB, 0x200000, 1);
    assert_string_equal(buf_text(&here->skipped), "");
}

static void
test_many_files(void **state)
{
    Here *here = *state;
    char name[64];

    for (unsigned i = 1; i <= 900; i++) {
        (void)snprintf(name, sizeof name, "00000003%08X%08X", 7 + i / 4096, i % 4096);
        put(here, name, MB);
        (void)snprintf(name, sizeof name, "a stray file with a long name, number %u", i);
        put(here, name, 0);
    }
    assert_end(here, MB, 0x700000000 + (Lsn)901 * MB, 3);
}

static void
test_wrong_sizes(void **state)
{
    static const off_t sizes[] = {0, 1, MB - 1, MB + 1, 16 * (off_t)MB};

    for (size_t i = 0; i < COUNT(sizes); i++) {
        char line[64];
        Here *here = *state;

        start_again(here);
        put(here, "000000010000000000000005", sizes[i]);
        (void)snprintf(line, sizeof line, "000000010000000000000005 %lld\n", (long long)sizes[i]);
        assert_nothing(here);
        assert_string_equal(buf_text(&here->skipped), line);

        put(here, "000000010000000000000004", MB);
        assert_end(here, MB, 0x500000, 1);
        /* What was received of it may still be there. */
        put(here, "000000010000000000000005.partial", 0);
        assert_end(here, MB, 0x500000, 1);
        buf_clear(&here->skipped);
        put(here, "000000010000000000000006", MB);
        assert_end(here, MB, 0x700000, 1);
        assert_string_equal(buf_text(&here->skipped), line);
    }
}

/* Each is told, whatever the directory brings first. */
static void
test_every_wrong_size_is_told(void **state)
{
    Here *here = *state;
    size_t lines = 0;

    for (unsigned i = 1; i <= 40; i++) {
        char name[32];

        (void)snprintf(name, sizeof name, "0000000100000000%08X", i);
        put(here, name, i % 4 == 0 ? WRONG : MB);
    }
    assert_end(here, MB, 0x2800000, 1); /* behind 27, as 28 is one of them */
    for (const char *at = buf_text(&here->skipped); (at = strchr(at, '\n')) != NULL; at++)
        lines++;
    assert_int_equal(lines, 10);
}

static void
test_nobody_wants_to_know(void **state)
{
    Here *here = *state;
    Error err = ERROR_INIT;
    WalDirEnd end;

    put(here, "000000010000000000000005", WRONG);
    assert_true(wal_dir_find_end(here->dir.path, MB, NULL, NULL, &end, &err));
    assert_false(end.found);
}

static void
test_what_is_no_file(void **state)
{
    Here *here = *state;

    temp_dir_mkdir(&here->dir, "000000010000000000000005");
    put(here, "000000010000000000000001", MB);
    assert_end(here, MB, 0x200000, 1);
    assert_true(strncmp(buf_text(&here->skipped), "000000010000000000000005 ", 25) == 0);
}

/* As if it had been removed between reading the directory and looking at it. */
static void
test_segment_that_vanishes(void **state)
{
    Here *here = *state;

    put(here, "000000010000000000000001", MB);
    assert_int_equal(symlink("nowhere", temp_dir_path(&here->dir, "000000010000000000000005")), 0);
    assert_end(here, MB, 0x200000, 1);
    assert_string_equal(buf_text(&here->skipped), "");
}

static void
test_segment_that_cannot_be_looked_at(void **state)
{
    Here *here = *state;
    const char *path = temp_dir_path(&here->dir, "000000010000000000000005");
    Error err = ERROR_INIT;
    char message[4200];
    WalDirEnd end;

    assert_int_equal(symlink(path, path), 0);
    assert_false(find(here, MB, &end, &err));
    (void)snprintf(message, sizeof message, "could not stat file \"%s\": %s", path,
                   strerror(ELOOP));
    assert_string_equal(err.message, message);
    assert_int_equal(err.sys_errno, ELOOP);
}

/* A link to a segment elsewhere is one. */
static void
test_segment_behind_a_link(void **state)
{
    Here *here = *state;

    temp_dir_mkdir(&here->dir, "elsewhere");
    put(here, "elsewhere/file", MB);
    assert_int_equal(
        symlink("elsewhere/file", temp_dir_path(&here->dir, "000000010000000000000005")), 0);
    assert_end(here, MB, 0x600000, 1);
}

/* ---- compressed ---- */

static void
test_newest_is_compressed(void **state)
{
    static const char *const names[] = {
        "000000010000000000000005.gz",  "000000010000000000000005.gz.partial",
        "000000010000000000000005.lz4", "000000010000000000000005.lz4.partial",
        "000000010000000000000005.zst", "000000010000000000000005.zst.partial",
    };

    for (size_t i = 0; i < COUNT(names); i++) {
        Here *here = *state;

        start_again(here);
        put(here, "000000010000000000000004", MB);
        put(here, names[i], 100);
        assert_error(here, ERR_UNSUPPORTED, "is compressed");
        /* An older one is nobody's business. */
        put(here, "000000010000000000000006.partial", 0);
        assert_end(here, MB, 0x600000, 1);
        assert_string_equal(buf_text(&here->skipped), "");
    }
}

/*
 * The same segment in several forms: one answer, in whichever order the directory has them. That
 * depends on the names, so many are tried.
 */
static void
test_forms_of_one_segment(void **state)
{
    static const char *const forms[] = {"", ".partial", ".gz", ".zst.partial"};

    for (unsigned segment = 1; segment <= 16; segment++) {
        for (unsigned with = 1; with < 1U << COUNT(forms); with++) {
            Here *here = *state;
            bool complete = (with & 1) != 0;
            bool compressed = (with & 12) != 0;

            start_again(here);
            for (size_t form = 0; form < COUNT(forms); form++) {
                char name[64];

                (void)snprintf(name, sizeof name, "0000000100000000%08X%s", segment, forms[form]);
                if ((with & 1U << form) != 0)
                    put(here, name, MB);
            }
            if (complete)
                assert_end(here, MB, (segment + 1) * (Lsn)MB, 1);
            else if (compressed)
                assert_error(here, ERR_UNSUPPORTED, "is compressed");
            else
                assert_end(here, MB, segment * (Lsn)MB, 1);
        }
    }
}

/* ---- the directory ---- */

static void
test_no_directory(void **state)
{
    Here *here = *state;
    const char *path = temp_dir_path(&here->dir, "missing");
    Error err = ERROR_INIT;
    char message[4200];
    WalDirEnd end = {.next = 99};

    assert_false(wal_dir_find_end(path, MB, NULL, NULL, &end, &err));
    (void)snprintf(message, sizeof message, "could not open directory \"%s\": %s", path,
                   strerror(ENOENT));
    assert_string_equal(err.message, message);
    assert_int_equal(end.next, 99);

    put(here, "missing", 0);
    err = ERROR_INIT;
    assert_false(wal_dir_find_end(path, MB, NULL, NULL, &end, &err));
    assert_int_equal(err.sys_errno, ENOTDIR);
}

#define RESUME_TEST(function) cmocka_unit_test_setup_teardown(function, set_up, tear_down)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        RESUME_TEST(test_empty_directory),
        RESUME_TEST(test_complete_and_partial),
        RESUME_TEST(test_timelines),
        RESUME_TEST(test_last_segment_of_a_log_file),
        RESUME_TEST(test_last_segment_of_all),
        RESUME_TEST(test_stray_files),
        RESUME_TEST(test_many_files),
        RESUME_TEST(test_wrong_sizes),
        RESUME_TEST(test_every_wrong_size_is_told),
        RESUME_TEST(test_nobody_wants_to_know),
        RESUME_TEST(test_what_is_no_file),
        RESUME_TEST(test_segment_that_vanishes),
        RESUME_TEST(test_segment_that_cannot_be_looked_at),
        RESUME_TEST(test_segment_behind_a_link),
        RESUME_TEST(test_newest_is_compressed),
        RESUME_TEST(test_forms_of_one_segment),
        RESUME_TEST(test_no_directory),
    };

    return cmocka_run_group_tests_name("resume", tests, NULL, NULL);
}
