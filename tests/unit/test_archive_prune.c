/*
 * What of an archive goes and why, for archives of one and of many timelines; and that it goes.
 *
 * Segments are of 16 MB, so that LSN(n) is the beginning of segment n.
 */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include <cmocka.h>

#include "archive/archive.h"
#include "support/temp_dir.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define LSN(number)  ((Lsn)(number) << 24)
#define DAY          ((int64_t)24 * 60 * 60)

typedef struct Fixture {
    TempDir dir;
    Inventory archive;
    PrunePlan plan;
} Fixture;

static int
set_up(void **state)
{
    Fixture *fixture = calloc(1, sizeof *fixture);

    assert_non_null(fixture);
    temp_dir_make(&fixture->dir);
    *state = fixture;
    return 0;
}

static int
tear_down(void **state)
{
    Fixture *fixture = *state;

    prune_plan_free(&fixture->plan);
    inventory_free(&fixture->archive);
    temp_dir_remove(&fixture->dir);
    free(fixture);
    return 0;
}

/* ---- archives ---- */

static void
put(Fixture *fixture, const char *name)
{
    temp_dir_write(&fixture->dir, name, "x", 1);
}

static void
put_segments(Fixture *fixture, TimeLineID timeline, uint64_t first, uint64_t last)
{
    for (uint64_t number = first; number <= last; number++) {
        char name[WAL_NAME_SIZE];

        wal_segment_name(name, timeline, number, 16u << 20);
        put(fixture, name);
    }
}

/* "1@5 2@7": timeline 1 up to segment 5, then 2 up to 7, which are decimal digits. */
static void
put_history(Fixture *fixture, TimeLineID timeline, const char *forks)
{
    char name[WAL_NAME_SIZE];
    char text[256] = "";
    size_t len = 0;

    for (; *forks != '\0'; forks += forks[3] == ' ' ? 4 : 3)
        len += (size_t)snprintf(text + len, sizeof text - len, "%c\t0/%X\tno reason\n", forks[0],
                                (unsigned)LSN(forks[2] - '0') + 0x100u);
    wal_history_name(name, timeline);
    temp_dir_write(&fixture->dir, name, text, len);
}

static bool
try_plan(Fixture *fixture, const PruneNeed *needs, size_t count, Error *err)
{
    prune_plan_free(&fixture->plan);
    inventory_free(&fixture->archive);
    if (!inventory_read(&fixture->archive, fixture->dir.path, err))
        fail_msg("%s", err->message);
    return prune_plan_make(&fixture->plan, &fixture->archive, needs, count, err);
}

static void
make_plan(Fixture *fixture, const PruneNeed *needs, size_t count)
{
    Error err = ERROR_INIT;

    if (!try_plan(fixture, needs, count, &err))
        fail_msg("%s", err.message);
}

static void
append_file(Buf *text, const PruneFile *file)
{
    Error err = ERROR_INIT;
    bool ok = file->kind == PRUNE_SEGMENT
                  ? buf_printf(text, &err, " %u/%u", file->timeline, (unsigned)file->number)
                  : buf_printf(text, &err, " %s", file->name);

    assert_true(ok);
}

/* "1/3 1/4 00000002.history": what goes, in its order. */
static void
assert_goes(const Fixture *fixture, const char *expected)
{
    Buf text = BUF_INIT;

    for (size_t i = 0; i < fixture->plan.count; i++) {
        if (prune_goes(&fixture->plan.files[i]))
            append_file(&text, &fixture->plan.files[i]);
    }
    assert_string_equal(text.len == 0 ? "" : buf_text(&text) + 1, expected);
    buf_free(&text);
}

static const PruneFile *
file_of(const Fixture *fixture, const char *name)
{
    for (size_t i = 0; i < fixture->plan.count; i++) {
        if (strcmp(fixture->plan.files[i].name, name) == 0)
            return &fixture->plan.files[i];
    }
    fail_msg("\"%s\" is not in the plan", name);
    return NULL;
}

/* ---- one timeline ---- */

static void
test_one_backup(void **state)
{
    Fixture *fixture = *state;
    const PruneNeed need = {.what = "b", .timeline = 1, .start = LSN(4) + 0x28};

    put_segments(fixture, 1, 1, 6);
    make_plan(fixture, &need, 1);
    assert_goes(fixture, "1/1 1/2 1/3");
    assert_ptr_equal(file_of(fixture, "000000010000000000000004")->need, &need);
    assert_int_equal(file_of(fixture, "000000010000000000000004")->reason, PRUNE_NEEDED);
}

/* Every form of a segment has the same fate. */
static void
test_forms(void **state)
{
    Fixture *fixture = *state;
    const PruneNeed need = {.what = "b", .timeline = 1, .start = LSN(2)};

    put(fixture, "000000010000000000000001.gz");
    put(fixture, "000000010000000000000001.partial");
    put(fixture, "000000010000000000000001.zst.partial");
    put(fixture, "000000010000000000000002.lz4");
    put(fixture, "000000010000000000000002.partial");
    make_plan(fixture, &need, 1);
    assert_goes(fixture, "1/1 1/1 1/1");
}

/* The edges of a segment. */
static void
test_edges(void **state)
{
    Fixture *fixture = *state;
    PruneNeed need = {.what = "b", .timeline = 1, .start = LSN(3)};

    put_segments(fixture, 1, 1, 4);
    make_plan(fixture, &need, 1);
    assert_goes(fixture, "1/1 1/2");
    need.start = LSN(3) - 1;
    make_plan(fixture, &need, 1);
    assert_goes(fixture, "1/1");
    need.start = LSN(4) - 1;
    make_plan(fixture, &need, 1);
    assert_goes(fixture, "1/1 1/2");
}

/* Where a log file ends: FF is before 100, and so it is in the order of going. */
static void
test_log_files(void **state)
{
    Fixture *fixture = *state;
    const PruneNeed need = {.what = "b", .timeline = 1, .start = LSN(0x102)};

    put_segments(fixture, 1, 0xFE, 0x103);
    make_plan(fixture, &need, 1);
    assert_goes(fixture, "1/254 1/255 1/256 1/257");
}

static void
test_oldest_of_several(void **state)
{
    Fixture *fixture = *state;
    const PruneNeed needs[] = {
        {.what = "c", .timeline = 1, .start = LSN(5)},
        {.what = "b", .timeline = 1, .start = LSN(3)},
        {.what = "d", .timeline = 1, .start = LSN(6)},
    };

    put_segments(fixture, 1, 1, 7);
    make_plan(fixture, needs, COUNT(needs));
    assert_goes(fixture, "1/1 1/2");
    assert_ptr_equal(file_of(fixture, "000000010000000000000003")->need, &needs[1]);
}

/* A backup that is kept by itself needs what it began and ended with, and nothing in between. */
static void
test_backup_by_itself(void **state)
{
    Fixture *fixture = *state;
    const PruneNeed needs[] = {
        {.what = "old", .timeline = 1, .start = LSN(2) + 0x28, .end = LSN(4)},
        {.what = "b", .timeline = 1, .start = LSN(6)},
    };

    put_segments(fixture, 1, 1, 7);
    make_plan(fixture, needs, COUNT(needs));
    assert_goes(fixture, "1/1 1/4 1/5");
}

/* ---- timelines ---- */

/* 1 --5-- 2 --7-- 3 */
static void
put_line(Fixture *fixture)
{
    put_segments(fixture, 1, 1, 4);
    put(fixture, "000000010000000000000005.partial");
    put_segments(fixture, 2, 5, 6);
    put(fixture, "000000020000000000000007.partial");
    put_segments(fixture, 3, 7, 9);
    put_history(fixture, 2, "1@5");
    put_history(fixture, 3, "1@5 2@7");
}

static void
test_ancestor_may_lead_to_all(void **state)
{
    Fixture *fixture = *state;
    const PruneNeed need = {.what = "b", .timeline = 1, .start = LSN(3)};

    put_line(fixture);
    make_plan(fixture, &need, 1);
    assert_goes(fixture, "1/1 1/2");
    assert_int_equal(file_of(fixture, "00000002.history")->reason, PRUNE_HISTORY);
}

static void
test_newest_needs_no_ancestor(void **state)
{
    Fixture *fixture = *state;
    const PruneNeed need = {.what = "b", .timeline = 3, .start = LSN(8)};

    put_line(fixture);
    make_plan(fixture, &need, 1);
    assert_goes(fixture, "1/1 1/2 1/3 1/4 1/5 2/5 2/6 2/7 3/7");
    /* The history of an ancestor is one of the branch that stays. */
    assert_int_equal(file_of(fixture, "00000002.history")->reason, PRUNE_HISTORY);
}

/* In the segment of the fork, what came before is on the older timeline. */
static void
test_segment_of_the_fork(void **state)
{
    Fixture *fixture = *state;
    const PruneNeed need = {.what = "b", .timeline = 1, .start = LSN(5) + 0x28};

    put_line(fixture);
    make_plan(fixture, &need, 1);
    assert_goes(fixture, "1/1 1/2 1/3 1/4");
}

/*
 * 1 --3-- 2: a backup of timeline 1 that begins behind the fork. A younger one may be on 2, and
 * begin before it.
 */
static void
test_other_branch(void **state)
{
    Fixture *fixture = *state;
    const PruneNeed needs[] = {
        {.what = "b", .timeline = 1, .start = LSN(6)},
        {.what = "c", .timeline = 2, .start = LSN(5)},
    };

    put_segments(fixture, 1, 1, 7);
    put_segments(fixture, 2, 3, 7);
    put_history(fixture, 2, "1@3");
    make_plan(fixture, needs, 1);
    assert_goes(fixture, "1/1 1/2 1/3 1/4 1/5");
    assert_int_equal(file_of(fixture, "000000020000000000000003")->reason, PRUNE_OTHER_BRANCH);
    assert_ptr_equal(file_of(fixture, "000000020000000000000003")->need, &needs[0]);

    make_plan(fixture, needs, 2);
    assert_goes(fixture, "1/1 1/2 1/3 2/3 1/4 2/4");
}

/* A named backup on a descendant of the other branch says from where on that one is needed. */
static void
test_other_branch_by_its_descendant(void **state)
{
    Fixture *fixture = *state;
    const PruneNeed needs[] = {
        {.what = "b", .timeline = 1, .start = LSN(8)},
        {.what = "c", .timeline = 3, .start = LSN(6)},
    };

    put_segments(fixture, 1, 1, 8);
    put_segments(fixture, 2, 3, 5);
    put_segments(fixture, 3, 5, 8);
    put_history(fixture, 2, "1@3");
    make_plan(fixture, needs, 2);
    /* There is no history of 3: who knows where it comes from. */
    assert_goes(fixture, "1/1 1/2 1/3 1/4 1/5 3/5");
    put_history(fixture, 3, "1@3 2@5");
    make_plan(fixture, needs, 2);
    assert_goes(fixture, "1/1 1/2 1/3 2/3 1/4 2/4 1/5 2/5 3/5");
}

/* What a backup by itself needs says nothing about the rest of its timeline. */
static void
test_other_branch_of_a_backup_by_itself(void **state)
{
    Fixture *fixture = *state;
    const PruneNeed needs[] = {
        {.what = "c", .timeline = 2, .start = LSN(5), .end = LSN(6)},
        {.what = "b", .timeline = 1, .start = LSN(7)},
    };

    put_segments(fixture, 1, 1, 8);
    put_segments(fixture, 2, 3, 6);
    put_history(fixture, 2, "1@3");
    make_plan(fixture, needs, 2);
    assert_goes(fixture, "1/1 1/2 1/3 1/4 1/6");
}

/* A position without a timeline is meant for all of them. */
static void
test_position(void **state)
{
    Fixture *fixture = *state;
    const PruneNeed need = {.what = "0/8000000", .start = LSN(8)};

    put_line(fixture);
    make_plan(fixture, &need, 1);
    assert_goes(fixture, "1/1 1/2 1/3 1/4 1/5 2/5 2/6 2/7 3/7");
}

/* ---- history files ---- */

/* 1 --3-- 2, 1 --4-- 3 --6-- 5, and 4 without a history. */
static void
put_tree(Fixture *fixture)
{
    put_segments(fixture, 1, 1, 4);
    put_segments(fixture, 2, 3, 4);
    put_segments(fixture, 3, 4, 6);
    put_segments(fixture, 5, 6, 8);
    put_history(fixture, 2, "1@3");
    put_history(fixture, 3, "1@4");
    put_history(fixture, 5, "1@4 3@6");
}

static void
test_dead_timeline(void **state)
{
    Fixture *fixture = *state;
    const PruneNeed need = {.what = "b", .timeline = 5, .start = LSN(7)};

    put_tree(fixture);
    make_plan(fixture, &need, 1);
    assert_goes(fixture, "1/1 1/2 1/3 2/3 1/4 2/4 3/4 3/5 3/6 5/6 00000002.history");
    assert_int_equal(file_of(fixture, "00000002.history")->reason, PRUNE_DEAD_TIMELINE);
}

/* A server that looks for the newest timeline must not find a gap in the numbers, even where
 * nothing that stays descends from the timeline between. */
static void
test_dead_timeline_between(void **state)
{
    Fixture *fixture = *state;
    const PruneNeed need = {.what = "b", .timeline = 2, .start = LSN(4)};

    put_segments(fixture, 2, 1, 5);
    put_segments(fixture, 4, 5, 6);
    put_history(fixture, 2, "1@1");
    put_history(fixture, 3, "1@1 2@2");
    put_history(fixture, 4, "1@1 2@5");
    make_plan(fixture, &need, 1);
    assert_goes(fixture, "2/1 2/2 2/3");
    assert_int_equal(file_of(fixture, "00000003.history")->reason, PRUNE_HISTORY);
}

/* Nobody knows what a timeline without its history descends from. */
static void
test_unknown_ancestors(void **state)
{
    Fixture *fixture = *state;
    const PruneNeed need = {.what = "b", .timeline = 5, .start = LSN(7)};

    put_tree(fixture);
    temp_dir_write(&fixture->dir, "00000005.history", "nonsense\n", 9);
    make_plan(fixture, &need, 1);
    assert_int_equal(file_of(fixture, "00000002.history")->reason, PRUNE_HISTORY);
    assert_int_equal(file_of(fixture, "00000003.history")->reason, PRUNE_HISTORY);
}

static void
test_compressed_history(void **state)
{
    Fixture *fixture = *state;
    const PruneNeed need = {.what = "b", .timeline = 5, .start = LSN(7)};

    put_tree(fixture);
    put(fixture, "00000002.history.gz");
    make_plan(fixture, &need, 1);
    assert_int_equal(file_of(fixture, "00000002.history.gz")->reason, PRUNE_DEAD_TIMELINE);
}

/* ---- other files ---- */

static void
test_backup_history(void **state)
{
    Fixture *fixture = *state;
    const PruneNeed need = {.what = "b", .timeline = 1, .start = LSN(4) + 0x28};

    put_segments(fixture, 1, 2, 6);
    put(fixture, "000000010000000000000001.00000028.backup");
    put(fixture, "000000010000000000000003.00000028.backup.gz");
    put(fixture, "000000010000000000000004.00000028.backup");
    put(fixture, "000000010000000000000009.00000028.backup");
    make_plan(fixture, &need, 1);
    assert_goes(fixture, "1/2 1/3 000000010000000000000001.00000028.backup"
                         " 000000010000000000000003.00000028.backup.gz");
}

static void
test_strays(void **state)
{
    static const struct {
        const char *name;
        PruneReason reason;
    } cases[] = {
        {"notes", PRUNE_STRAY},
        {"000000010000000000000001.bz2", PRUNE_STRAY},
        {"00000001000000000000000a", PRUNE_STRAY},
        {"000000010000000000000001.00000028.backup.old", PRUNE_STRAY},
        {"00000002.History", PRUNE_STRAY},
        {"000000010000000000000001.tmp", PRUNE_TEMPORARY},
        {"000000010000000000000001.damaged", PRUNE_OURS},
        {ARCHIVE_GAPS_NAME, PRUNE_OURS},
    };
    Fixture *fixture = *state;
    const PruneNeed need = {.what = "b", .timeline = 1, .start = LSN(4)};

    put_segments(fixture, 1, 3, 5);
    for (size_t i = 0; i < COUNT(cases); i++)
        put(fixture, cases[i].name);
    temp_dir_mkdir(&fixture->dir, "000000010000000000000002");
    temp_dir_mkdir(&fixture->dir, "archive_status");
    make_plan(fixture, &need, 1);
    assert_goes(fixture, "1/3");
    for (size_t i = 0; i < COUNT(cases); i++) {
        if (file_of(fixture, cases[i].name)->reason != cases[i].reason)
            fail_msg("\"%s\"", cases[i].name);
    }
    assert_int_equal(file_of(fixture, "000000010000000000000002")->reason, PRUNE_NOT_A_FILE);
    assert_int_equal(file_of(fixture, "archive_status")->reason, PRUNE_STRAY);
}

/* ---- what is refused ---- */

static void
test_nothing_would_be_left(void **state)
{
    Fixture *fixture = *state;
    const PruneNeed needs[] = {
        {.what = "b", .timeline = 1, .start = LSN(2)},
        {.what = "backup \"c\"", .timeline = 1, .start = LSN(5)},
    };
    Error err = ERROR_INIT;

    put_segments(fixture, 1, 1, 4);
    assert_false(try_plan(fixture, needs, 2, &err));
    assert_int_equal(err.code, ERR_USAGE);
    assert_non_null(strstr(err.message, "has no WAL at or behind 0/5000000, which is needed by "
                                        "backup \"c\""));
}

static void
test_no_open_need(void **state)
{
    Fixture *fixture = *state;
    const PruneNeed need = {.what = "b", .timeline = 1, .start = LSN(2), .end = LSN(3)};
    Error err = ERROR_INIT;

    put_segments(fixture, 1, 1, 4);
    assert_false(try_plan(fixture, &need, 1, &err));
    assert_int_equal(err.code, ERR_USAGE);
    err = ERROR_INIT;
    assert_false(try_plan(fixture, NULL, 0, &err));
    assert_int_equal(err.code, ERR_USAGE);
}

static void
test_empty_archive(void **state)
{
    Fixture *fixture = *state;
    const PruneNeed need = {.what = "b", .timeline = 1, .start = LSN(2)};

    make_plan(fixture, &need, 1);
    assert_int_equal(fixture->plan.count, 0);
}

/* ---- days ---- */

static void
age(Fixture *fixture, const char *name, int64_t modified)
{
    const struct timespec times[2] = {{.tv_sec = modified}, {.tv_sec = modified}};

    assert_int_equal(utimensat(AT_FDCWD, temp_dir_path(&fixture->dir, name), times, 0), 0);
}

static void
test_recent(void **state)
{
    Fixture *fixture = *state;
    Error err = ERROR_INIT;
    PruneNeed need;

    put_segments(fixture, 1, 1, 5);
    age(fixture, "000000010000000000000001", DAY);
    age(fixture, "000000010000000000000002", 2 * DAY);
    age(fixture, "000000010000000000000003", 3 * DAY);
    age(fixture, "000000010000000000000004", 4 * DAY);
    age(fixture, "000000010000000000000005", DAY);
    assert_true(inventory_read(&fixture->archive, fixture->dir.path, &err));
    assert_true(prune_recent(&fixture->archive, 3 * DAY, &need));
    assert_int_equal(need.start, LSN(3));
    assert_int_equal(need.timeline, 0);
    assert_int_equal(need.end, LSN_INVALID);
    assert_true(prune_recent(&fixture->archive, 3 * DAY + 1, &need));
    assert_int_equal(need.start, LSN(4));
    assert_false(prune_recent(&fixture->archive, 5 * DAY, &need));
}

static void
test_backup_before(void **state)
{
    static const char *const names[] = {"000000010000000000000001.00000028.backup",
                                        "000000010000000000000002.00000028.backup",
                                        "000000010000000000000003.00000028.backup"};
    Fixture *fixture = *state;
    const ArchiveBackup *backup;
    Error err = ERROR_INIT;

    put_segments(fixture, 1, 1, 3);
    for (size_t i = 0; i < COUNT(names); i++) {
        put(fixture, names[i]);
        age(fixture, names[i], (int64_t)(i + 1) * DAY);
    }
    assert_true(inventory_read(&fixture->archive, fixture->dir.path, &err));
    assert_null(prune_backup_before(&fixture->archive, DAY));
    backup = prune_backup_before(&fixture->archive, 3 * DAY);
    assert_non_null(backup);
    assert_string_equal(backup->name, names[1]);
}

/* ---- removing ---- */

static void
test_execute(void **state)
{
    Fixture *fixture = *state;
    const PruneNeed need = {.what = "b", .timeline = 5, .start = LSN(7)};
    Error err = ERROR_INIT;

    put_tree(fixture);
    put(fixture, "notes");
    make_plan(fixture, &need, 1);
    assert_true(prune_execute(&fixture->plan, fixture->dir.path, &err));
    for (size_t i = 0; i < fixture->plan.count; i++) {
        const PruneFile *file = &fixture->plan.files[i];

        assert_int_equal(temp_dir_exists(&fixture->dir, file->name), !prune_goes(file));
    }
    make_plan(fixture, &need, 1);
    assert_goes(fixture, "");
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, set_up, tear_down)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_one_backup),
        TEST(test_forms),
        TEST(test_edges),
        TEST(test_log_files),
        TEST(test_oldest_of_several),
        TEST(test_backup_by_itself),
        TEST(test_ancestor_may_lead_to_all),
        TEST(test_newest_needs_no_ancestor),
        TEST(test_segment_of_the_fork),
        TEST(test_other_branch),
        TEST(test_other_branch_by_its_descendant),
        TEST(test_other_branch_of_a_backup_by_itself),
        TEST(test_position),
        TEST(test_dead_timeline),
        TEST(test_dead_timeline_between),
        TEST(test_unknown_ancestors),
        TEST(test_compressed_history),
        TEST(test_backup_history),
        TEST(test_strays),
        TEST(test_nothing_would_be_left),
        TEST(test_no_open_need),
        TEST(test_empty_archive),
        TEST(test_recent),
        TEST(test_backup_before),
        TEST(test_execute),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
