/*
 * verify_pages: the data pages of a cluster that was shut down, in pg_checksums' words.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/crc32c.h"
#include "pgformat/page.h"
#include "support/problem_log.h"
#include "support/temp_dir.h"
#include "verify/internal.h"

#define PAGE    8192u
#define SEGMENT 131072u
#define CATALOG 202506291u

typedef struct Fixture {
    TempDir dir;
    VerifyConfig config;
    VerifySummary summary;
    ProblemLog log;
    uint64_t problems;
    Error err;
} Fixture;

static void
put(Fixture *f, const char *path, const void *data, size_t len)
{
    char full[256];
    char *slash;

    (void)snprintf(full, sizeof full, "data/%s", path);
    slash = strrchr(full, '/');
    *slash = '\0';
    temp_dir_mkdir(&f->dir, full);
    *slash = '/';
    temp_dir_write(&f->dir, full, data, len);
}

static void
put_le(uint8_t *at, uint64_t value, int bytes)
{
    for (int i = 0; i < bytes; i++)
        at[i] = (uint8_t)(value >> (8 * i));
}

static void
put_control(Fixture *f, uint32_t state, uint32_t checksums, uint32_t page_size)
{
    uint8_t bytes[CONTROL_FILE_SIZE] = {0};

    put_le(bytes + 8, 1800, 4);
    put_le(bytes + 12, CATALOG, 4);
    put_le(bytes + 16, state, 4);
    put_le(bytes + 216, page_size, 4);
    put_le(bytes + 220, SEGMENT, 4);
    put_le(bytes + 224, 8192, 4);
    put_le(bytes + 228, 16 * 1024 * 1024, 4);
    put_le(bytes + 252, checksums, 4);
    put_le(bytes + 292, crc32c(0, bytes, 292), 4);
    put(f, "global/pg_control", bytes, sizeof bytes);
}

static int
setup(void **state)
{
    Fixture *f = calloc(1, sizeof *f);

    temp_dir_make(&f->dir);
    temp_dir_mkdir(&f->dir, "data/base/5");
    put_control(f, 1, 1, PAGE);
    f->config.directory = temp_dir_path(&f->dir, "data");
    f->config.summary = &f->summary;
    *state = f;
    return 0;
}

static int
teardown(void **state)
{
    Fixture *f = *state;

    temp_dir_remove(&f->dir);
    problem_log_free(&f->log);
    free(f);
    return 0;
}

/* Pages of a relation from `first` on; those of the bits in `bad` have a wrong checksum. */
static void
put_pages(Fixture *f, const char *path, uint32_t first, size_t count, uint64_t bad)
{
    uint8_t *pages = malloc(count * PAGE);

    for (size_t i = 0; i < count; i++) {
        uint8_t *page = pages + i * PAGE;

        memset(page, (int)(i % 255) + 1, PAGE);
        memset(page, 0xFF, 8); /* the highest LSN: no page is too new */
        put_le(page + 8, page_checksum(page, PAGE, first + (uint32_t)i), 2);
        if (i < 64 && (bad >> i & 1) != 0)
            put_le(page + 8, 0, 2);
    }
    put(f, path, pages, count * PAGE);
    free(pages);
}

static bool
run_with(Fixture *f, unsigned jobs)
{
    problem_log_free(&f->log);
    f->log.text = BUF_INIT;
    f->log.count = 0;
    f->config.jobs = jobs;
    f->config.problems = problem_log_sink(&f->log);
    f->problems = UINT64_MAX;
    f->err = ERROR_INIT;
    return verify_pages(&f->config, &f->problems, &f->err);
}

/* The same with any number of threads; what is told. */
static const char *
run(Fixture *f)
{
    static const unsigned job_counts[] = {2, 7, 0};
    char *first;
    VerifySummary summary;

    if (!run_with(f, 1))
        fail_msg("%s", f->err.message);
    first = strdup(problem_log_text(&f->log));
    summary = f->summary;
    for (size_t i = 0; i < 3; i++) {
        assert_true(run_with(f, job_counts[i]));
        assert_string_equal(problem_log_text(&f->log), first);
        assert_memory_equal(&f->summary, &summary, sizeof summary);
        assert_int_equal(f->problems, f->log.count);
    }
    free(first);
    return problem_log_text(&f->log);
}

/* Whether there is a line that begins so, the directory apart. */
static bool
tells(const Fixture *f, const char *file, const char *what)
{
    char line[512];

    (void)snprintf(line, sizeof line, "PAGE %s: checksum verification failed in file \"%s/%s\"%s",
                   file, f->config.directory, file, what);
    return strstr(problem_log_text(&f->log), line) != NULL;
}

/* ---- pages ---- */

static void
test_sound_cluster(void **state)
{
    uint8_t new_page[PAGE] = {0};
    Fixture *f = *state;

    put_pages(f, "base/5/1", 0, 3, 0);
    put_pages(f, "base/5/1.2", 2 * SEGMENT, 5, 0);
    put_pages(f, "base/5/1_fsm", 0, 1, 0);
    put_pages(f, "global/1262", 0, 1, 0);
    put(f, "base/5/2", new_page, sizeof new_page);
    put(f, "base/5/3", "", 0);
    assert_string_equal(run(f), "");
    assert_int_equal(f->summary.files, 6);
    assert_int_equal(f->summary.pages, 10); /* a new one has no checksum */
    assert_int_equal(f->summary.page_size, PAGE);
    assert_int_equal(f->summary.bad_pages, 0);
    assert_int_equal(f->summary.bytes, 11 * PAGE);
    assert_true(f->summary.has_pages);
}

static void
test_bad_pages(void **state)
{
    Fixture *f = *state;

    put_pages(f, "base/5/1", 0, 3, 2);
    put_pages(f, "base/5/1.1", SEGMENT, 20, 0xFF8);
    put_pages(f, "base/5/2", 1, 1, 0); /* sound, but another block */
    (void)run(f);
    assert_true(tells(f, "base/5/1", ", block 1: calculated checksum "));
    /* Blocks are counted within the file. */
    assert_true(tells(f, "base/5/1.1", ", block 3: calculated checksum "));
    assert_true(tells(f, "base/5/1.1", ", block 7: calculated checksum "));
    assert_false(tells(f, "base/5/1.1", ", block 8: calculated checksum "));
    assert_true(tells(f, "base/5/1.1", " for 4 more blocks\n"));
    assert_true(tells(f, "base/5/2", ", block 0: calculated checksum "));
    assert_non_null(strstr(problem_log_text(&f->log), " but block contains 0\n"));
    assert_int_equal(f->problems, 1 + 6 + 1);
    assert_int_equal(f->summary.bad_pages, 1 + 9 + 1);
}

/* Pages in a file's second range. */
static void
test_bad_page_far_behind(void **state)
{
    Fixture *f = *state;

    put_pages(f, "base/5/1", 0, 2000, 0);
    assert_string_equal(run(f), "");
    assert_int_equal(f->summary.pages, 2000);
    put_pages(f, "base/5/1.1", SEGMENT + 1, 2100, 0); /* all in the place of another */
    (void)run(f);
    assert_true(tells(f, "base/5/1.1", " for 2095 more blocks\n"));
    assert_int_equal(f->summary.bad_pages, 2100);
}

static void
test_enough(void **state)
{
    Fixture *f = *state;

    put_pages(f, "base/5/1", 0, 20, 0xFFFF);
    put_pages(f, "base/5/2", 0, 20, 0xFFFF);
    for (uint64_t limit = 1; limit < 12; limit++) {
        f->log.limit = limit;
        (void)run(f);
        assert_int_equal(f->problems, limit);
    }
}

/* ---- which files ---- */

static void
test_files_that_do_not_count(void **state)
{
    static const char *const paths[] = {
        "PG_VERSION",
        "postgresql.conf",
        "pg_wal/000000010000000000000001",
        "pg_xact/0000",
        "base/pgsql_tmp/pgsql_tmp1.0",
        "base/5/pgsql_tmp99",
        "base/5/PG_VERSION",
        "base/5/pg_filenode.map",
        "base/5/pg_internal.init",
        "base/5/pg_internal.init.123",
        "base/5/.DS_Store",
        "global/pg_filenode.map",
        "pg_tblspc/file",
        "pg_tblspc/16385/file",
        "pg_tblspc/16385/PG_17_202406281/5/1",
        "pg_tblspc/16385/other_202506291/5/1",
        "pg_tblspc/16385/PG_18_202506291/pgsql_tmp/1",
        "pg_stat_tmp/x",
    };
    Fixture *f = *state;

    for (size_t i = 0; i < sizeof paths / sizeof paths[0]; i++)
        put(f, paths[i], "no page", 7);
    assert_string_equal(run(f), "");
    assert_int_equal(f->summary.files, 0);
    assert_int_equal(f->summary.pages, 0);
}

/* Any other name will do: what lies there is a relation of some session. */
static void
test_files_that_do(void **state)
{
    Fixture *f = *state;

    put_pages(f, "base/5/t3_16384", 0, 1, 1);
    put_pages(f, "base/5/16384_init", 0, 1, 1);
    put_pages(f, "base/other", 0, 1, 1);
    put_pages(f, "pg_tblspc/16385/PG_18_202506291/5/1", 0, 1, 1);
    temp_dir_mkdir(&f->dir, "outside/PG_18_202506291/5");
    assert_int_equal(symlink("../../outside", temp_dir_path(&f->dir, "data/pg_tblspc/16386")), 0);
    put_pages(f, "pg_tblspc/16386/PG_18_202506291/5/7.3", 3 * SEGMENT, 1, 1);
    (void)run(f);
    assert_int_equal(f->problems, 5);
    assert_true(tells(f, "base/5/t3_16384", ", block 0: "));
    assert_true(tells(f, "base/other", ", block 0: "));
    assert_true(tells(f, "pg_tblspc/16385/PG_18_202506291/5/1", ", block 0: "));
    assert_true(tells(f, "pg_tblspc/16386/PG_18_202506291/5/7.3", ", block 0: "));
}

static void
test_odd_files(void **state)
{
    Fixture *f = *state;
    char expected[2048];
    const char *directory = f->config.directory;

    put(f, "base/5/1", "no page", 7);
    put(f, "base/5/2.0", "", 0);
    put(f, "base/5/2.x", "", 0);
    assert_int_equal(mkfifo(temp_dir_path(&f->dir, "data/base/5/pipe"), 0600), 0);
    assert_int_equal(symlink("x", temp_dir_path(&f->dir, "data/pg_wal")), 0);
    temp_dir_mkdir(&f->dir, "data/pg_tblspc");
    assert_int_equal(symlink("x", temp_dir_path(&f->dir, "data/pg_tblspc/7")), 0);
    (void)snprintf(expected, sizeof expected,
                   "SIZE base/5/1: could not read block 0 in file \"%s/base/5/1\": read 7 of 8192\n"
                   "FILE_TYPE base/5/2.0: invalid segment number in file name \"%s/base/5/2.0\"\n"
                   "FILE_TYPE base/5/2.x: invalid segment number in file name \"%s/base/5/2.x\"\n"
                   "FILE_TYPE base/5/pipe: \"base/5/pipe\" is not a regular file or directory\n"
                   "UNREADABLE pg_tblspc/7: could not stat file or directory \"pg_tblspc/7\": No "
                   "such file or directory\n",
                   directory, directory, directory);
    assert_string_equal(run(f), expected);
}

/* A link in the place of what must be looked at hides all of it. */
static void
test_link_in_place_of_base(void **state)
{
    Fixture *f = *state;

    assert_int_equal(rmdir(temp_dir_path(&f->dir, "data/base/5")), 0);
    assert_int_equal(rmdir(temp_dir_path(&f->dir, "data/base")), 0);
    assert_int_equal(symlink("global", temp_dir_path(&f->dir, "data/base")), 0);
    assert_string_equal(run(f), "FILE_TYPE base: \"base\" is not a regular file or directory\n");
}

/* ---- clusters that cannot be looked at ---- */

static void
assert_refused(Fixture *f, const char *message)
{
    assert_false(run_with(f, 2));
    if (strstr(f->err.message, message) == NULL)
        fail_msg("%s", f->err.message);
    assert_int_equal(f->log.count, 0);
    assert_int_equal(f->problems, UINT64_MAX);
}

static void
test_clusters_that_are_refused(void **state)
{
    static const uint32_t running[] = {0, 3, 4, 5, 6};
    Fixture *f = *state;

    put_pages(f, "base/5/1", 0, 3, 7);
    for (size_t i = 0; i < sizeof running / sizeof running[0]; i++) {
        put_control(f, running[i], 1, PAGE);
        assert_refused(f, "cluster must be shut down");
    }
    put_control(f, 2, 1, PAGE); /* a standby */
    assert_true(run_with(f, 1));
    assert_int_equal(f->problems, 3);
    put_control(f, 1, 0, PAGE);
    assert_refused(f, "data checksums are not enabled in cluster");
    put_control(f, 6, 0, PAGE);
    assert_refused(f, "cluster must be shut down");
    put_control(f, 1, 2, PAGE);
    assert_refused(f, "data checksum version 2");
    put_control(f, 1, 1, 65536);
    assert_refused(f, "block size 65536");
    put(f, "global/pg_control", "short", 5);
    assert_refused(f, "/global/pg_control\": control file is too short: 5 bytes");
    assert_int_equal(unlink(temp_dir_path(&f->dir, "data/global/pg_control")), 0);
    assert_refused(f, "/global/pg_control\": No such file or directory");
    f->config.directory = "/nowhere";
    assert_refused(f, "could not open file \"/nowhere/global/pg_control\"");
}

static void
test_stop(void **state)
{
    Fixture *f = *state;
    Stop stop;

    put_pages(f, "base/5/1", 0, 3, 7);
    assert_true(stop_init(&stop, &f->err));
    stop_request(&stop);
    f->config.stop = &stop;
    assert_false(run_with(f, 2));
    assert_int_equal(f->err.code, ERR_STOPPED);
    stop_destroy(&stop);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_sound_cluster),
        TEST(test_bad_pages),
        TEST(test_bad_page_far_behind),
        TEST(test_enough),
        TEST(test_files_that_do_not_count),
        TEST(test_files_that_do),
        TEST(test_odd_files),
        TEST(test_link_in_place_of_base),
        TEST(test_clusters_that_are_refused),
        TEST(test_stop),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
