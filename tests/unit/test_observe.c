/*
 * What an observer is told, and how progress is counted.
 */
#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "basebackup/internal.h"

#define LINE_SIZE 8192

/* ---- lines ---- */

static const Plan plain_plan = {.format = FORMAT_PLAIN};

typedef struct Told {
    char note[LINE_SIZE];
    char info[LINE_SIZE];
    char problem[LINE_SIZE];
    size_t calls;
} Told;

static void
keep(Told *told, char line[LINE_SIZE], const char *message)
{
    (void)snprintf(line, LINE_SIZE, "%s", message);
    told->calls++;
}

static void
take_note(void *ctx, const char *message)
{
    keep(ctx, ((Told *)ctx)->note, message);
}

static void
take_info(void *ctx, const char *message)
{
    keep(ctx, ((Told *)ctx)->info, message);
}

static void
take_problem(void *ctx, const Problem *problem)
{
    keep(ctx, ((Told *)ctx)->problem, problem->message);
}

static void
test_each_line_goes_to_its_callback(void **state)
{
    Told told = {.calls = 0};
    const BackupObserver observer = {
        .ctx = &told, .note = take_note, .info = take_info, .problem = take_problem};

    (void)state;
    observe_note(&observer, "start at %d of %s", 7, "it");
    assert_string_equal(told.note, "start at 7 of it");
    assert_int_equal(told.calls, 1);
    observe_info(&observer, "removing \"%s\"", "x");
    assert_string_equal(told.info, "removing \"x\"");
    assert_int_equal(told.calls, 2);
    /* A file's name may look like a format. */
    observe_problem(&observer, &(Problem){.message = "file \"100%s\" is bad"});
    assert_string_equal(told.problem, "file \"100%s\" is bad");
    assert_int_equal(told.calls, 3);
}

static void
test_nobody_listens(void **state)
{
    const BackupObserver observer = {.ctx = NULL};

    (void)state;
    observe_note(&observer, "%s", "a");
    observe_info(&observer, "%s", "b");
    observe_problem(&observer, &(Problem){.message = "c"});
}

/* As long as a path can be, with words around it. */
static void
test_long_line(void **state)
{
    static char path[PATH_MAX];
    char expected[PATH_MAX + 100];
    Told told = {.calls = 0};
    const BackupObserver observer = {.ctx = &told, .info = take_info};

    (void)state;
    memset(path, 'p', sizeof path - 1);
    (void)snprintf(expected, sizeof expected, "failed to remove directory \"%s\": reason", path);
    observe_info(&observer, "failed to remove directory \"%s\": %s", path, "reason");
    assert_string_equal(told.info, expected);
}

static void
test_endless_line_is_cut(void **state)
{
    static char text[4 * PATH_MAX];
    Told told = {.calls = 0};
    const BackupObserver observer = {.ctx = &told, .note = take_note};

    (void)state;
    memset(text, 't', sizeof text - 1);
    observe_note(&observer, "%s", text);
    assert_true(strlen(told.note) > PATH_MAX);
    assert_true(strlen(told.note) < sizeof text - 1);
}

/* ---- progress ---- */

typedef struct Shown {
    size_t calls;
    BackupProgress last;
} Shown;

static void
take_progress(void *ctx, const BackupProgress *progress)
{
    Shown *shown = ctx;

    shown->calls++;
    shown->last = *progress;
}

static void
test_progress_of_a_backup(void **state)
{
    Tablespace tablespaces[] = {{.oid = 1, .size_kb = 3}, {.oid = 0, .size_kb = 7}};
    const BackupStart start = {.tablespaces = tablespaces, .tablespace_count = 2};
    Shown shown = {.calls = 0};
    const BackupObserver observer = {.ctx = &shown, .progress = take_progress};
    Progress progress;

    (void)state;
    progress_init(&progress, &observer);
    progress_begin(&progress, &start, &plain_plan);
    assert_int_equal(shown.calls, 0);

    progress_archive(&progress, 0, "/ts");
    assert_int_equal(shown.calls, 1);
    assert_int_equal(shown.last.done, 0);
    assert_int_equal(shown.last.total, 10 * 1024);
    assert_int_equal(shown.last.tablespace, 0);
    assert_int_equal(shown.last.tablespace_count, 2);
    assert_string_equal(shown.last.current, "/ts");
    assert_false(shown.last.finished);

    /* Not with every piece, but once a second. */
    progress_bytes(&progress, 1000);
    progress_tick(&progress);
    assert_int_equal(shown.calls, 1);
    progress.last_ms -= 1000;
    progress_tick(&progress);
    assert_int_equal(shown.calls, 2);
    assert_int_equal(shown.last.done, 1000);
    progress_tick(&progress);
    assert_int_equal(shown.calls, 2);

    progress_archive(&progress, 1, "/data");
    assert_int_equal(shown.last.tablespace, 1);
    assert_string_equal(shown.last.current, "/data");
    progress_bytes(&progress, 500);
    progress_finish(&progress);
    assert_int_equal(shown.calls, 4);
    assert_int_equal(shown.last.done, 1500);
    assert_int_equal(shown.last.total, 10 * 1024);
    assert_int_equal(shown.last.tablespace, 2);
    assert_null(shown.last.current);
    assert_true(shown.last.finished);
}

/* The files have grown since the estimate: never more than all. */
static void
test_more_than_was_estimated(void **state)
{
    Tablespace tablespace = {.oid = 0, .size_kb = 1};
    const BackupStart start = {.tablespaces = &tablespace, .tablespace_count = 1};
    Shown shown = {.calls = 0};
    const BackupObserver observer = {.ctx = &shown, .progress = take_progress};
    Progress progress;

    (void)state;
    progress_init(&progress, &observer);
    progress_begin(&progress, &start, &plain_plan);
    progress_bytes(&progress, 1024);
    progress_archive(&progress, 0, "/data");
    assert_int_equal(shown.last.total, 1024);
    progress_bytes(&progress, 1);
    progress_finish(&progress);
    assert_int_equal(shown.last.done, 1025);
    assert_int_equal(shown.last.total, 1025);
}

/* Nothing was estimated: there is no total that could be exceeded. */
static void
test_no_estimate(void **state)
{
    Tablespace tablespace = {.oid = 0};
    const BackupStart start = {.tablespaces = &tablespace, .tablespace_count = 1};
    Shown shown = {.calls = 0};
    const BackupObserver observer = {.ctx = &shown, .progress = take_progress};
    Progress progress;

    (void)state;
    progress_init(&progress, &observer);
    progress_begin(&progress, &start, &plain_plan);
    progress_bytes(&progress, 4096);
    progress_finish(&progress);
    assert_int_equal(shown.last.done, 4096);
    assert_int_equal(shown.last.total, 0);
}

/* A server that says nonsense: some number, and no more than what a total can be. */
static void
test_estimates_beyond_all_bounds(void **state)
{
    Tablespace tablespaces[] = {{.oid = 1, .size_kb = UINT64_MAX}, {.oid = 0, .size_kb = 5}};
    const BackupStart start = {.tablespaces = tablespaces, .tablespace_count = 2};
    Shown shown = {.calls = 0};
    const BackupObserver observer = {.ctx = &shown, .progress = take_progress};
    Progress progress;

    (void)state;
    progress_init(&progress, &observer);
    progress_begin(&progress, &start, &plain_plan);
    progress_bytes(&progress, 100000);
    progress_finish(&progress);
    assert_true(shown.last.total >= shown.last.done);
}

static void
test_nobody_watches(void **state)
{
    Tablespace tablespace = {.oid = 0};
    const BackupStart start = {.tablespaces = &tablespace, .tablespace_count = 1};
    const BackupObserver observer = {.ctx = NULL};
    Progress progress;

    (void)state;
    progress_init(&progress, &observer);
    progress_begin(&progress, &start, &plain_plan);
    progress_archive(&progress, 0, "/data");
    progress.last_ms -= 5000;
    progress_tick(&progress);
    progress_finish(&progress);
    assert_true(progress.now.finished);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_line_goes_to_its_callback),
        cmocka_unit_test(test_nobody_listens),
        cmocka_unit_test(test_long_line),
        cmocka_unit_test(test_endless_line_is_cut),
        cmocka_unit_test(test_progress_of_a_backup),
        cmocka_unit_test(test_more_than_was_estimated),
        cmocka_unit_test(test_no_estimate),
        cmocka_unit_test(test_estimates_beyond_all_bounds),
        cmocka_unit_test(test_nobody_watches),
    };

    return cmocka_run_group_tests_name("observe", tests, NULL, NULL);
}
