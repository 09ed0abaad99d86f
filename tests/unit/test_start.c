/*
 * Where a receiver goes on: a table of archives, slots and servers.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "walrecv/walrecv.h"

#define MB           ((uint32_t)1024 * 1024)
#define GB           (1024 * MB)
#define SYSTEM       UINT64_C(7000000000000000001)
#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* Three promotions; the last two lie in one segment of 16 MB. */
static const char four[] = "1\t0/3000060\tx\n2\t0/70000D8\tx\n3\t0/7000150\tx\n";

typedef struct Case {
    const char *what;
    const char *history; /* NULL: without ancestors */
    uint32_t segment_size;
    ServerIdentity server;
    WalResume archive;
    SlotState slot;
    WalStart wanted;
} Case;

static WalStartFacts
facts_of(const Case *c, TimelineHistory *history)
{
    Error err = ERROR_INIT;

    if (!timeline_history_parse(span_of(c->history == NULL ? "" : c->history), c->server.timeline,
                                history, &err))
        fail_msg("%s: %s", c->what, err.message);
    return (WalStartFacts){.archive = c->archive,
                           .slot = c->slot,
                           .server = c->server,
                           .history = history,
                           .segment_size = c->segment_size};
}

static void
assert_start(const Case *c)
{
    TimelineHistory history;
    const WalStartFacts facts = facts_of(c, &history);
    WalStart start = {.start = 0x77};
    Error err = ERROR_INIT;

    if (!wal_start_decide(&facts, &start, &err))
        fail_msg("%s: %s", c->what, err.message);
    if (start.reason != c->wanted.reason || start.start != c->wanted.start ||
        start.timeline != c->wanted.timeline || start.fork != c->wanted.fork)
        fail_msg("%s: reason %d at " LSN_FORMAT " on timeline %u, fork " LSN_FORMAT, c->what,
                 (int)start.reason, LSN_ARGS(start.start), start.timeline, LSN_ARGS(start.fork));
    assert_int_equal(err.code, ERR_NONE);
    timeline_history_free(&history);
}

/* ---- an empty archive ---- */

static void
test_empty_archive(void **state)
{
    static const Case cases[] = {
        {"no slot",
         NULL,
         16 * MB,
         {SYSTEM, 1, 0x3123456},
         {.found = false},
         {.exists = false},
         {WAL_START_SERVER, 0x3000000, 1, 0}},
        {"no slot, a server that was promoted",
         four,
         16 * MB,
         {SYSTEM, 4, 0x9123456},
         {.found = false},
         {.exists = false},
         {WAL_START_SERVER, 0x9000000, 4, 0}},
        {"no slot, a server that was promoted in this very segment",
         four,
         16 * MB,
         {SYSTEM, 4, 0x7000160},
         {.found = false},
         {.exists = false},
         {WAL_START_SERVER, 0x7000000, 4, 0}},
        {"the server is at the end of a segment",
         NULL,
         16 * MB,
         {SYSTEM, 1, 0x3FFFFFF},
         {.found = false},
         {.exists = false},
         {WAL_START_SERVER, 0x3000000, 1, 0}},
        {"the server is at the beginning of a segment",
         NULL,
         16 * MB,
         {SYSTEM, 1, 0x4000000},
         {.found = false},
         {.exists = false},
         {WAL_START_SERVER, 0x4000000, 1, 0}},
        {"the last segment of a log file",
         NULL,
         16 * MB,
         {SYSTEM, 1, 0x1FFFFFFFF},
         {.found = false},
         {.exists = false},
         {WAL_START_SERVER, 0x1FF000000, 1, 0}},
        {"the first segment of the next",
         NULL,
         16 * MB,
         {SYSTEM, 1, 0x200000000},
         {.found = false},
         {.exists = false},
         {WAL_START_SERVER, 0x200000000, 1, 0}},
        {"the last segment of all",
         NULL,
         16 * MB,
         {SYSTEM, 1, UINT64_MAX},
         {.found = false},
         {.exists = false},
         {WAL_START_SERVER, UINT64_C(0xFFFFFFFFFF000000), 1, 0}},
        {"small segments",
         NULL,
         MB,
         {SYSTEM, 1, 0x3123456},
         {.found = false},
         {.exists = false},
         {WAL_START_SERVER, 0x3100000, 1, 0}},
        {"large segments",
         NULL,
         GB,
         {SYSTEM, 1, UINT64_C(0x2BFFFFFFF)},
         {.found = false},
         {.exists = false},
         {WAL_START_SERVER, UINT64_C(0x280000000), 1, 0}},
        {"what an archive that was not found says does not count",
         NULL,
         16 * MB,
         {SYSTEM, 1, 0x3123456},
         {.found = false, .start = 0x1000000, .end = 0x1000000, .timeline = 9, .system_id = 5},
         {.exists = false},
         {WAL_START_SERVER, 0x3000000, 1, 0}},
        {"a slot without a position",
         NULL,
         16 * MB,
         {SYSTEM, 1, 0x3123456},
         {.found = false},
         {.exists = true, .has_position = false},
         {WAL_START_SERVER, 0x3000000, 1, 0}},
        {"a slot with a position",
         NULL,
         16 * MB,
         {SYSTEM, 1, 0x3123456},
         {.found = false},
         {true, true, 0x1FFFFFF, 1},
         {WAL_START_SLOT, 0x1000000, 1, 0}},
        {"a slot at the beginning of a segment",
         NULL,
         16 * MB,
         {SYSTEM, 1, 0x3123456},
         {.found = false},
         {true, true, 0x2000000, 1},
         {WAL_START_SLOT, 0x2000000, 1, 0}},
        {"a slot where the server is",
         NULL,
         16 * MB,
         {SYSTEM, 1, 0x3123456},
         {.found = false},
         {true, true, 0x3123456, 1},
         {WAL_START_SLOT, 0x3000000, 1, 0}},
        {"a slot with small segments",
         NULL,
         MB,
         {SYSTEM, 1, 0x3123456},
         {.found = false},
         {true, true, 0x2FFFFFF, 1},
         {WAL_START_SLOT, 0x2F00000, 1, 0}},
        {"a slot with large segments",
         NULL,
         GB,
         {SYSTEM, 1, UINT64_C(0x2BFFFFFFF)},
         {.found = false},
         {true, true, UINT64_C(0x180000028), 1},
         {WAL_START_SLOT, UINT64_C(0x180000000), 1, 0}},
        {"a slot that is told to be on an old timeline",
         four,
         16 * MB,
         {SYSTEM, 4, 0x9123456},
         {.found = false},
         {true, true, 0x5000028, 2},
         {WAL_START_SLOT, 0x5000000, 2, 0}},
        {"a slot on the first timeline, from the history",
         four,
         16 * MB,
         {SYSTEM, 4, 0x9123456},
         {.found = false},
         {true, true, 0x300005F, 0},
         {WAL_START_SLOT, 0x3000000, 1, 0}},
        {"a slot exactly at a fork, from the history",
         four,
         16 * MB,
         {SYSTEM, 4, 0x9123456},
         {.found = false},
         {true, true, 0x3000060, 0},
         {WAL_START_SLOT, 0x3000000, 2, 0}},
        {"a slot between two forks in one segment, from the history",
         four,
         16 * MB,
         {SYSTEM, 4, 0x9123456},
         {.found = false},
         {true, true, 0x7000100, 0},
         {WAL_START_SLOT, 0x7000000, 3, 0}},
        {"a slot on the server's timeline, from the history",
         four,
         16 * MB,
         {SYSTEM, 4, 0x9123456},
         {.found = false},
         {true, true, 0x8000000, 0},
         {WAL_START_SLOT, 0x8000000, 4, 0}},
        {"a slot of a server without ancestors, from the history",
         NULL,
         16 * MB,
         {SYSTEM, 6, 0x9123456},
         {.found = false},
         {true, true, 0x8000000, 0},
         {WAL_START_SLOT, 0x8000000, 6, 0}},
    };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++)
        assert_start(&cases[i]);
}

/* ---- behind what the archive holds ---- */

static void
test_archive(void **state)
{
    static const Case cases[] = {
        {"in the middle of a segment",
         NULL,
         16 * MB,
         {SYSTEM, 1, 0x9123456},
         {true, 0x5000000, 0x5002000, 1, SYSTEM},
         {.exists = false},
         {WAL_START_ARCHIVE, 0x5000000, 1, 0}},
        {"only complete segments",
         NULL,
         16 * MB,
         {SYSTEM, 1, 0x9123456},
         {true, 0x5000000, 0x5000000, 1, SYSTEM},
         {.exists = false},
         {WAL_START_ARCHIVE, 0x5000000, 1, 0}},
        {"several segments that are not named yet",
         NULL,
         16 * MB,
         {SYSTEM, 1, 0x9123456},
         {true, 0x5000000, 0x8001000, 1, SYSTEM},
         {.exists = false},
         {WAL_START_ARCHIVE, 0x5000000, 1, 0}},
        {"behind the last segment of a log file",
         NULL,
         16 * MB,
         {SYSTEM, 1, UINT64_C(0x200000000)},
         {true, UINT64_C(0x1FF000000), UINT64_C(0x1FFFFFFFF), 1, SYSTEM},
         {.exists = false},
         {WAL_START_ARCHIVE, UINT64_C(0x1FF000000), 1, 0}},
        {"small segments",
         NULL,
         MB,
         {SYSTEM, 1, 0x9123456},
         {true, 0x5100000, 0x5102000, 1, SYSTEM},
         {.exists = false},
         {WAL_START_ARCHIVE, 0x5100000, 1, 0}},
        {"large segments",
         NULL,
         GB,
         {SYSTEM, 1, UINT64_C(0x280000000)},
         {true, GB, UINT64_C(0x77777777), 1, SYSTEM},
         {.exists = false},
         {WAL_START_ARCHIVE, GB, 1, 0}},
        {"a cluster that nobody knows",
         NULL,
         16 * MB,
         {SYSTEM, 1, 0x9123456},
         {true, 0x5000000, 0x5002000, 1, 0},
         {.exists = false},
         {WAL_START_ARCHIVE, 0x5000000, 1, 0}},
        {"a slot that is behind it",
         NULL,
         16 * MB,
         {SYSTEM, 1, 0x9123456},
         {true, 0x5000000, 0x5002000, 1, SYSTEM},
         {true, true, 0x3000000, 1},
         {WAL_START_ARCHIVE, 0x5000000, 1, 0}},
        {"a slot that is ahead of it",
         NULL,
         16 * MB,
         {SYSTEM, 1, 0x9123456},
         {true, 0x5000000, 0x5002000, 1, SYSTEM},
         {true, true, 0x8000000, 1},
         {WAL_START_ARCHIVE, 0x5000000, 1, 0}},
        {"exactly where the server is",
         NULL,
         16 * MB,
         {SYSTEM, 1, 0x5002000},
         {true, 0x5000000, 0x5002000, 1, SYSTEM},
         {.exists = false},
         {WAL_START_ARCHIVE, 0x5000000, 1, 0}},
        {"on the server's timeline, which has ancestors",
         four,
         16 * MB,
         {SYSTEM, 4, 0x9123456},
         {true, 0x8000000, 0x8002000, 4, SYSTEM},
         {.exists = false},
         {WAL_START_ARCHIVE, 0x8000000, 4, 0}},
        {"on the server's timeline, before it began",
         four,
         16 * MB,
         {SYSTEM, 4, 0x9123456},
         {true, 0x7000000, 0x7000000, 4, SYSTEM},
         {.exists = false},
         {WAL_START_ARCHIVE, 0x7000000, 4, 0}},
        {"on an ancestor, before the fork",
         four,
         16 * MB,
         {SYSTEM, 4, 0x9123456},
         {true, 0x6000000, 0x6002000, 2, SYSTEM},
         {.exists = false},
         {WAL_START_ARCHIVE, 0x6000000, 2, 0}},
        {"on the oldest ancestor, one byte before the fork",
         four,
         16 * MB,
         {SYSTEM, 4, 0x9123456},
         {true, 0x3000000, 0x300005F, 1, SYSTEM},
         {.exists = false},
         {WAL_START_ARCHIVE, 0x3000000, 1, 0}},
        {"on an ancestor, at the fork",
         four,
         16 * MB,
         {SYSTEM, 4, 0x9123456},
         {true, 0x3000000, 0x3000060, 1, SYSTEM},
         {.exists = false},
         {WAL_START_ARCHIVE, 0x3000000, 1, 0}},
        {"at a fork that is the beginning of a segment",
         "1\t0/4000000\n",
         16 * MB,
         {SYSTEM, 2, 0x9123456},
         {true, 0x4000000, 0x4000000, 1, SYSTEM},
         {.exists = false},
         {WAL_START_ARCHIVE, 0x4000000, 1, 0}},
        {"at a fork where the server is still",
         "1\t0/3000060\n",
         16 * MB,
         {SYSTEM, 2, 0x3000060},
         {true, 0x3000000, 0x3000060, 1, SYSTEM},
         {.exists = false},
         {WAL_START_ARCHIVE, 0x3000000, 1, 0}},
    };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++)
        assert_start(&cases[i]);
}

static void
test_archive_beyond_a_fork(void **state)
{
    static const Case cases[] = {
        {"one byte",
         four,
         16 * MB,
         {SYSTEM, 4, 0x9123456},
         {true, 0x3000000, 0x3000061, 1, SYSTEM},
         {.exists = false},
         {WAL_START_ARCHIVE_FORK, 0x3000000, 2, 0x3000060}},
        {"several segments, over the next fork too",
         four,
         16 * MB,
         {SYSTEM, 4, 0x9123456},
         {true, 0x8000000, 0x8002000, 1, SYSTEM},
         {.exists = false},
         {WAL_START_ARCHIVE_FORK, 0x3000000, 2, 0x3000060}},
        {"between two promotions in one segment",
         four,
         16 * MB,
         {SYSTEM, 4, 0x9123456},
         {true, 0x7000000, 0x7000100, 2, SYSTEM},
         {.exists = false},
         {WAL_START_ARCHIVE_FORK, 0x7000000, 3, 0x70000D8}},
        {"the last ancestor",
         four,
         16 * MB,
         {SYSTEM, 4, 0x9123456},
         {true, 0x7000000, 0x7002000, 3, SYSTEM},
         {.exists = false},
         {WAL_START_ARCHIVE_FORK, 0x7000000, 4, 0x7000150}},
        {"beyond where the server is: that was the old primary's WAL",
         "1\t0/3000060\n",
         16 * MB,
         {SYSTEM, 2, 0x3000100},
         {true, 0x5000000, 0x5002000, 1, SYSTEM},
         {.exists = false},
         {WAL_START_ARCHIVE_FORK, 0x3000000, 2, 0x3000060}},
        {"a fork at the beginning of a segment",
         "1\t0/4000000\n",
         16 * MB,
         {SYSTEM, 2, 0x9123456},
         {true, 0x4000000, 0x4000028, 1, SYSTEM},
         {.exists = false},
         {WAL_START_ARCHIVE_FORK, 0x4000000, 2, 0x4000000}},
        {"a fork at the last byte of a log file",
         "1\t1/FFFFFFFF\n",
         16 * MB,
         {SYSTEM, 2, UINT64_C(0x209123456)},
         {true, UINT64_C(0x200000000), UINT64_C(0x200000000), 1, SYSTEM},
         {.exists = false},
         {WAL_START_ARCHIVE_FORK, UINT64_C(0x1FF000000), 2, UINT64_C(0x1FFFFFFFF)}},
        {"small segments",
         four,
         MB,
         {SYSTEM, 4, 0x9123456},
         {true, 0x3F00000, 0x3F00000, 1, SYSTEM},
         {.exists = false},
         {WAL_START_ARCHIVE_FORK, 0x3000000, 2, 0x3000060}},
        {"large segments",
         "1\t2/BFFFFFFF\n",
         GB,
         {SYSTEM, 2, UINT64_C(0x309123456)},
         {true, UINT64_C(0x2C0000000), UINT64_C(0x2C0000000), 1, SYSTEM},
         {.exists = false},
         {WAL_START_ARCHIVE_FORK, UINT64_C(0x280000000), 2, UINT64_C(0x2BFFFFFFF)}},
        {"timelines that are no neighbours",
         "1\t0/3000060\n5\t0/5000000\n",
         16 * MB,
         {SYSTEM, 9, 0x9123456},
         {true, 0x4000000, 0x4000000, 1, SYSTEM},
         {.exists = false},
         {WAL_START_ARCHIVE_FORK, 0x3000000, 5, 0x3000060}},
        {"a slot changes nothing",
         four,
         16 * MB,
         {SYSTEM, 4, 0x9123456},
         {true, 0x3000000, 0x3000061, 1, 0},
         {true, true, 0x8000000, 4},
         {WAL_START_ARCHIVE_FORK, 0x3000000, 2, 0x3000060}},
    };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++)
        assert_start(&cases[i]);
}

/* ---- what cannot go on ---- */

static void
test_refused(void **state)
{
    static const struct {
        Case facts;
        ErrorCode code;
        const char *message;
        const char *hint; /* its beginning */
    } cases[] = {
        {{"another cluster",
          NULL,
          16 * MB,
          {SYSTEM + 1, 1, 0x9123456},
          {true, 0x5000000, 0x5002000, 1, SYSTEM},
          {.exists = false},
          {WAL_START_ARCHIVE, 0, 0, 0}},
         ERR_MISMATCH,
         "the archive holds WAL of the cluster with system identifier 7000000000000000001, but the "
         "server's is 7000000000000000002",
         "Connect to a server of the archive's cluster"},
        {{"another cluster, whatever else is wrong",
          NULL,
          16 * MB,
          {1, 1, 0x1000000},
          {true, 0x5000000, 0x5002000, 7, UINT64_MAX},
          {.exists = false},
          {WAL_START_ARCHIVE, 0, 0, 0}},
         ERR_MISMATCH,
         "the archive holds WAL of the cluster with system identifier 18446744073709551615, but "
         "the server's is 1",
         "Connect to a server of the archive's cluster"},
        {{"a server that has not followed a promotion",
          NULL,
          16 * MB,
          {SYSTEM, 1, 0x9123456},
          {true, 0x5000000, 0x5002000, 2, SYSTEM},
          {.exists = false},
          {WAL_START_ARCHIVE, 0, 0, 0}},
         ERR_SERVER,
         "the archive is on timeline 2 already, but the server is on timeline 1",
         "The server is a standby that has not followed a promotion yet, or was the primary"},
        {{"a server that was promoted elsewhere",
          "1\t0/3000060\n3\t0/4000000\n",
          16 * MB,
          {SYSTEM, 4, 0x9123456},
          {true, 0x5000000, 0x5002000, 2, SYSTEM},
          {.exists = false},
          {WAL_START_ARCHIVE, 0, 0, 0}},
         ERR_SERVER,
         "the server's timeline 4 does not descend from timeline 2, which the archive is on",
         "The server went another way before timeline 2 began."},
        {{"a server without ancestors",
          NULL,
          16 * MB,
          {SYSTEM, 4, 0x9123456},
          {true, 0x5000000, 0x5002000, 1, 0},
          {.exists = false},
          {WAL_START_ARCHIVE, 0, 0, 0}},
         ERR_SERVER,
         "the server's timeline 4 does not descend from timeline 1, which the archive is on",
         "The server went another way before timeline 1 began."},
        {{"a server that is behind by a byte",
          NULL,
          16 * MB,
          {SYSTEM, 1, 0x5001FFF},
          {true, 0x5000000, 0x5002000, 1, SYSTEM},
          {.exists = false},
          {WAL_START_ARCHIVE, 0, 0, 0}},
         ERR_SERVER,
         "the archive ends at 0/5002000 on timeline 1, but the server has WAL up to 0/5001FFF only",
         "A standby may get there by and by."},
        {{"a server that is behind, on its own timeline after promotions",
          four,
          16 * MB,
          {SYSTEM, 4, 0x7000200},
          {true, UINT64_C(0x1FF000000), UINT64_C(0x1FFFFFFFF), 4, SYSTEM},
          {.exists = false},
          {WAL_START_ARCHIVE, 0, 0, 0}},
         ERR_SERVER,
         "the archive ends at 1/FFFFFFFF on timeline 4, but the server has WAL up to 0/7000200 "
         "only",
         "A standby may get there by and by."},
        {{"a server that has not come to its own timeline",
          four,
          16 * MB,
          {SYSTEM, 4, 0x2000000},
          {true, 0x3000000, 0x3000000, 1, SYSTEM},
          {.exists = false},
          {WAL_START_ARCHIVE, 0, 0, 0}},
         ERR_SERVER,
         "the archive ends at 0/3000000 on timeline 1, but the server has WAL up to 0/2000000 only",
         "A standby may get there by and by."},
    };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        TimelineHistory history;
        const WalStartFacts facts = facts_of(&cases[i].facts, &history);
        WalStart start = {.start = 0x77};
        Error err = ERROR_INIT;

        if (wal_start_decide(&facts, &start, &err))
            fail_msg("%s: reason %d", cases[i].facts.what, (int)start.reason);
        assert_string_equal(err.message, cases[i].message);
        assert_int_equal(err.code, cases[i].code);
        assert_memory_equal(err.hint, cases[i].hint, strlen(cases[i].hint));
        /* a full sentence, not cut off */
        assert_int_equal(err.hint[strlen(err.hint) - 1], '.');
        assert_int_equal(start.start, 0x77);
        timeline_history_free(&history);
    }
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_empty_archive),
        cmocka_unit_test(test_archive),
        cmocka_unit_test(test_archive_beyond_a_fork),
        cmocka_unit_test(test_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
