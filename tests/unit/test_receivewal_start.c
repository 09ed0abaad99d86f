/*
 * Where a stream of receivewal begins: what is asked of the server, what is made of the archive,
 * and how far a gap goes. Server and archive are played by the test; what decides is the real
 * thing.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "cmd/receivewal_cmd.h"
#include "cmd/receivewal_failure.h"

#define MB        ((Lsn)0x100000)
#define SEGMENT   (16 * MB)
#define SYSTEM_ID 7710238945929971264u

/* ---- the server and the archive ---- */

/* What fails when it is asked for. */
typedef enum Broken {
    NOTHING,
    GROUP_ACCESS,
    SEGMENT_SIZE,
    IDENTIFY,
    HISTORY,
    ARCHIVE,
    READ_SLOT,
    SQL,
    SQL_STOPPED,
    CONNECT,
    TRIES
} Broken;

struct WalTail {
    bool freed;
};

typedef struct World {
    Broken broken;
    bool group;
    ServerFeatures features;
    ServerIdentity server;
    const char *history; /* of the server's timeline */
    int histories;       /* how often it was asked for */
    SlotState slot;
    int slot_asks;
    WalResume archive;
    WalTail tail;
    bool has_tail;
    bool has_hole;
    bool has_damage;
    Lsn kept[4];     /* from where on the server has WAL, for each timeline */
    char tries[512]; /* what was searched for */
    int connections; /* open ones */
    ReceiveRequest request;
    ReceiveKnown known;
    int text; /* standard error */
    int stderr_saved;
} World;

static World world;

static bool
works(Broken what, Error *err)
{
    return world.broken != what || error_set(err, ERR_CONNECTION, "%d broke", (int)what);
}

const ServerFeatures *
conn_features(const Conn *conn)
{
    (void)conn;
    return &world.features;
}

Conn *
conn_open(const ConnConfig *config, Error *err)
{
    assert_ptr_equal(config, &world.request.conn);
    if (!works(CONNECT, err))
        return NULL;
    world.connections++;
    return (Conn *)&world;
}

void
conn_free(Conn *conn)
{
    if (conn != NULL)
        world.connections--;
}

bool
repl_group_access(Conn *conn, bool *ret_group, Error *err)
{
    (void)conn;
    *ret_group = world.group;
    return works(GROUP_ACCESS, err);
}

bool
repl_segment_size(Conn *conn, uint32_t *ret_size, Error *err)
{
    (void)conn;
    *ret_size = (uint32_t)SEGMENT;
    return works(SEGMENT_SIZE, err);
}

bool
repl_identify_system(Conn *conn, ServerIdentity *ret_identity, Error *err)
{
    (void)conn;
    *ret_identity = world.server;
    return works(IDENTIFY, err);
}

bool
repl_timeline_history(Conn *conn, TimeLineID timeline, Buf *content, Error *err)
{
    (void)conn;
    assert_int_equal(timeline, world.server.timeline);
    world.histories++;
    return works(HISTORY, err) && buf_printf(content, err, "%s", world.history);
}

bool
repl_read_slot(Conn *conn, const char *name, SlotState *ret_state, Error *err)
{
    (void)conn;
    assert_string_equal(name, "archive");
    world.slot_asks++;
    *ret_state = world.slot;
    return works(READ_SLOT, err);
}

bool
repl_read_slot_by_sql(const Conn *first, const ConnConfig *config, const char *name,
                      SlotState *ret_state, Error *err)
{
    (void)first;
    assert_ptr_equal(config, &world.request.conn);
    assert_string_equal(name, "archive");
    world.slot_asks++;
    *ret_state = world.slot;
    if (world.broken == SQL_STOPPED)
        return error_set(err, ERR_STOPPED, "stopped");
    return works(SQL, err);
}

bool
wal_resume_find(const WalResumeConfig *config, WalResume *ret_resume, WalTail **ret_tail,
                Error *err)
{
    assert_string_equal(config->directory, "/wal");
    assert_int_equal(config->segment_size, SEGMENT);
    if (!works(ARCHIVE, err))
        return false;
    if (world.has_damage)
        config->skipped(config->ctx, "/wal/000000010000000000000004", "size is 7, expected 9");
    if (world.has_hole && config->hole != NULL) {
        config->hole(config->ctx, 1, 2, 2);
        config->hole(config->ctx, 1, 0x100, 0x102);
    }
    *ret_resume = world.archive;
    *ret_tail = world.has_tail ? &world.tail : NULL;
    return true;
}

void
wal_tail_free(WalTail *tail)
{
    if (tail == NULL)
        return;
    assert_false(tail->freed);
    tail->freed = true;
}

bool
wal_find_earliest(Conn *conn, const char *slot, TimeLineID timeline, Lsn from, Lsn until,
                  uint32_t segment_size, Lsn *ret_earliest, Error *err)
{
    Lsn first = (from + segment_size - 1) / segment_size * segment_size;
    size_t len = strlen(world.tries);

    assert_ptr_equal(conn, &world);
    assert_ptr_equal(slot, world.request.slot);
    (void)snprintf(world.tries + len, sizeof world.tries - len,
                   "%u: " LSN_FORMAT " to " LSN_FORMAT "\n", timeline, LSN_ARGS(from),
                   LSN_ARGS(until));
    if (!works(TRIES, err))
        return false;
    if (world.kept[timeline] > first)
        first = world.kept[timeline];
    if (first > until) {
        (void)error_set(err, ERR_SERVER, "nothing left");
        (void)snprintf(err->sqlstate, sizeof err->sqlstate, "58P01");
        return false;
    }
    *ret_earliest = first;
    return true;
}

/* ---- the world ---- */

static int
setup(void **state)
{
    (void)state;
    world = (World){
        .features = {.read_slot = true},
        .server = {.system_id = SYSTEM_ID, .timeline = 1, .position = 20 * SEGMENT + 7},
        .history = "",
        .request = {.directory = "/wal"},
        .text = memfd_create("standard error", MFD_CLOEXEC),
        .stderr_saved = dup(STDERR_FILENO),
    };
    return 0;
}

static int
teardown(void **state)
{
    (void)state;
    (void)close(world.text);
    (void)close(world.stderr_saved);
    assert_int_equal(world.connections, 0);
    return 0;
}

/* An archive that ends in segment 10, of which there is some already. */
static void
fill_archive(void)
{
    world.archive = (WalResume){.found = true,
                                .start = 10 * SEGMENT,
                                .end = 10 * SEGMENT + 100,
                                .timeline = 1,
                                .system_id = SYSTEM_ID};
    world.has_tail = true;
}

static bool
make_plan(StreamPlan *ret_plan, Error *err)
{
    bool ok;

    (void)dup2(world.text, STDERR_FILENO);
    ok = stream_plan_make(&world.request, &world.known, (Conn *)&world, ret_plan, err);
    (void)fflush(stderr);
    (void)dup2(world.stderr_saved, STDERR_FILENO);
    return ok;
}

static StreamPlan
plan(void)
{
    StreamPlan made;
    Error err = ERROR_INIT;

    if (!make_plan(&made, &err))
        fail_msg("%s", err.message);
    return made;
}

static void
assert_said(const char *expected)
{
    char text[2048];
    ssize_t len = pread(world.text, text, sizeof text - 1, 0);

    assert_true(len >= 0);
    text[len] = '\0';
    assert_string_equal(text, expected);
}

/* ---- where it begins ---- */

static void
test_empty_archive(void **state)
{
    StreamPlan made = plan();

    (void)state;
    assert_int_equal(made.start.reason, WAL_START_SERVER);
    assert_int_equal(made.start.start, 20 * SEGMENT);
    assert_int_equal(made.start.timeline, 1);
    assert_int_equal(made.first, 20 * SEGMENT);
    assert_int_equal(made.segment_size, SEGMENT);
    assert_int_equal(made.file_mode, 0600);
    assert_int_equal(made.server.system_id, SYSTEM_ID);
    assert_null(made.tail);
    assert_int_equal(world.histories, 0);
    assert_int_equal(world.slot_asks, 0);
    assert_int_equal(world.known.system_id, SYSTEM_ID);
    assert_said("");
}

static void
test_group_may_read(void **state)
{
    (void)state;
    world.group = true;
    assert_int_equal(plan().file_mode, 0640);
}

static void
test_behind_the_archive(void **state)
{
    StreamPlan made;

    (void)state;
    fill_archive();
    world.request.slot = "archive";
    made = plan();
    assert_int_equal(made.start.reason, WAL_START_ARCHIVE);
    assert_int_equal(made.start.start, 10 * SEGMENT);
    assert_int_equal(made.first, 10 * SEGMENT + 100);
    assert_ptr_equal(made.tail, &world.tail);
    assert_int_equal(world.slot_asks, 0);
    stream_plan_free(&made);
    assert_true(world.tail.freed);
    stream_plan_free(&made);
}

static void
test_archive_that_ends_with_a_segment(void **state)
{
    StreamPlan made;

    (void)state;
    fill_archive();
    world.archive.end = world.archive.start;
    world.has_tail = false;
    made = plan();
    assert_int_equal(made.first, 10 * SEGMENT);
    assert_null(made.tail);
}

/* Its bytes are those of a timeline that went another way. */
static void
test_behind_the_fork(void **state)
{
    StreamPlan made;

    (void)state;
    fill_archive();
    world.server.timeline = 2;
    world.history = "1\t0/9800000\tno recovery target specified\n";
    made = plan();
    assert_int_equal(made.start.reason, WAL_START_ARCHIVE_FORK);
    assert_int_equal(made.start.start, 9 * SEGMENT);
    assert_int_equal(made.start.timeline, 2);
    assert_int_equal(made.first, 9 * SEGMENT);
    assert_null(made.tail);
    assert_true(world.tail.freed);
    assert_said("pgstow: warning: the archive ends at 0/A000064 on timeline 1, but timeline 2 "
                "begins at 0/9800000 already: following timeline 2 from there\n");
}

static void
test_before_the_fork(void **state)
{
    StreamPlan made;

    (void)state;
    fill_archive();
    world.server.timeline = 2;
    world.history = "1\t0/B000000\tno recovery target specified\n";
    made = plan();
    assert_int_equal(made.start.reason, WAL_START_ARCHIVE);
    assert_int_equal(made.start.timeline, 1);
    assert_ptr_equal(made.tail, &world.tail);
    assert_said("");
}

static void
test_slot(void **state)
{
    StreamPlan made;

    (void)state;
    world.request.slot = "archive";
    world.slot = (SlotState){.exists = true,
                             .has_position = true,
                             .restart_lsn = 5 * SEGMENT + 5,
                             .restart_timeline = 1};
    made = plan();
    assert_int_equal(made.start.reason, WAL_START_SLOT);
    assert_int_equal(made.start.start, 5 * SEGMENT);
    assert_int_equal(made.first, 5 * SEGMENT);
}

static void
test_slot_by_sql(void **state)
{
    StreamPlan made;

    (void)state;
    world.features.read_slot = false;
    world.request.slot = "archive";
    world.slot = (SlotState){.exists = true, .has_position = true, .restart_lsn = 5 * SEGMENT + 5};
    world.server.timeline = 2;
    world.history = "1\t0/9800000\tno recovery target specified\n";
    made = plan();
    assert_int_equal(made.start.reason, WAL_START_SLOT);
    assert_int_equal(made.start.timeline, 1);
    assert_int_equal(made.first, 5 * SEGMENT);
    assert_said("");
}

static void
test_slot_without_a_position(void **state)
{
    StreamPlan made;

    (void)state;
    world.request.slot = "archive";
    world.slot = (SlotState){.exists = true};
    made = plan();
    assert_int_equal(made.start.reason, WAL_START_SERVER);
}

/* As with the stock tool, but it is said; once, for a server that is asked again and again. */
static void
test_sql_is_not_allowed(void **state)
{
    (void)state;
    world.features.read_slot = false;
    world.request.slot = "archive";
    world.broken = SQL;
    for (int i = 0; i < 3; i++) {
        StreamPlan made = plan();

        assert_int_equal(made.start.reason, WAL_START_SERVER);
    }
    assert_said("pgstow: warning: 7 broke: starting where the server is now\n");
}

static void
test_stopped_while_asking(void **state)
{
    StreamPlan made;
    Error err = ERROR_INIT;

    (void)state;
    world.features.read_slot = false;
    world.request.slot = "archive";
    world.broken = SQL_STOPPED;
    assert_false(make_plan(&made, &err));
    assert_int_equal(err.code, ERR_STOPPED);
    assert_said("");
}

static void
test_no_such_slot(void **state)
{
    (void)state;
    for (int by_sql = 0; by_sql < 2; by_sql++) {
        StreamPlan made;
        Error err = ERROR_INIT;

        world.features.read_slot = by_sql == 0;
        world.request.slot = "archive";
        assert_false(make_plan(&made, &err));
        assert_string_equal(err.message, "replication slot \"archive\" does not exist");
        assert_true(failure_is_missing_slot(&err, "archive"));
    }
}

/* ---- what is said of the archive ---- */

static void
test_holes_and_damage(void **state)
{
    static const char damage[] = "pgstow: warning: segment file \"/wal/000000010000000000000004\" "
                                 "is damaged, skipping: size is 7, expected 9\n";
    static const char holes[] =
        "pgstow: warning: the archive has a hole: WAL segment \"000000010000000000000002\" is "
        "missing\n"
        "pgstow: warning: the archive has a hole: 3 WAL segments are missing, "
        "\"000000010000000100000000\" to \"000000010000000100000002\"\n";
    char expected[1024];

    (void)state;
    fill_archive();
    world.has_tail = false;
    world.has_hole = true;
    world.has_damage = true;
    (void)plan();
    (void)plan();
    (void)snprintf(expected, sizeof expected, "%s%s%s", damage, holes, damage);
    assert_said(expected);
}

/* ---- a gap that is accepted ---- */

static void
test_begins_behind_the_gap(void **state)
{
    StreamPlan made;

    (void)state;
    fill_archive();
    world.known.gap_end = 15 * SEGMENT;
    world.known.gap_timeline = 1;
    made = plan();
    assert_int_equal(made.start.start, 15 * SEGMENT);
    assert_int_equal(made.start.timeline, 1);
    assert_int_equal(made.first, 15 * SEGMENT);
    assert_null(made.tail);
    assert_true(world.tail.freed);
}

static void
test_gap_up_to_another_timeline(void **state)
{
    StreamPlan made;

    (void)state;
    fill_archive();
    world.server.timeline = 2;
    world.history = "1\t0/C800000\tno recovery target specified\n";
    world.known.gap_end = 15 * SEGMENT;
    world.known.gap_timeline = 2;
    made = plan();
    assert_int_equal(made.start.start, 15 * SEGMENT);
    assert_int_equal(made.start.timeline, 2);
}

static void
test_archive_is_beyond_the_gap(void **state)
{
    StreamPlan made;

    (void)state;
    fill_archive();
    world.known.gap_end = 10 * SEGMENT;
    world.known.gap_timeline = 1;
    made = plan();
    assert_int_equal(made.first, 10 * SEGMENT + 100);
    assert_ptr_equal(made.tail, &world.tail);
}

/* ---- what is refused ---- */

static void
test_another_server(void **state)
{
    StreamPlan made;
    Error err = ERROR_INIT;

    (void)state;
    (void)plan();
    world.server.system_id = 77;
    assert_false(make_plan(&made, &err));
    assert_int_equal(err.code, ERR_MISMATCH);
    assert_string_equal(err.message, "the server has system identifier 77, but it was "
                                     "7710238945929971264 before");
}

static void
test_archive_of_another_cluster(void **state)
{
    StreamPlan made;
    Error err = ERROR_INIT;

    (void)state;
    fill_archive();
    world.archive.system_id = 77;
    assert_false(make_plan(&made, &err));
    assert_int_equal(err.code, ERR_MISMATCH);
    assert_true(world.tail.freed);
}

static void
test_ahead_of_the_server(void **state)
{
    StreamPlan made;
    Error err = ERROR_INIT;

    (void)state;
    fill_archive();
    world.server.position = 10 * SEGMENT + 99;
    assert_false(make_plan(&made, &err));
    assert_int_equal(err.code, ERR_SERVER);
    assert_true(world.tail.freed);
}

static void
test_history_that_makes_no_sense(void **state)
{
    StreamPlan made;
    Error err = ERROR_INIT;

    (void)state;
    world.server.timeline = 2;
    world.history = "nonsense\n";
    assert_false(make_plan(&made, &err));
    assert_int_equal(err.code, ERR_FORMAT);
}

static void
test_all_that_can_fail(void **state)
{
    static const Broken all[] = {GROUP_ACCESS, SEGMENT_SIZE, IDENTIFY, HISTORY, ARCHIVE, READ_SLOT};

    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        StreamPlan made;
        Error err = ERROR_INIT;
        char expected[32];

        world.broken = all[i];
        world.request.slot = "archive";
        world.server.timeline = 2;
        world.history = "1\t0/9800000\tno recovery target specified\n";
        assert_false(make_plan(&made, &err));
        (void)snprintf(expected, sizeof expected, "%d broke", (int)all[i]);
        assert_string_equal(err.message, expected);
        (void)teardown(state);
        (void)setup(state);
    }
}

/* ---- how far a gap goes ---- */

static WalGap
find_gap(TimeLineID timeline, Lsn start)
{
    WalGap gap;
    Error err = ERROR_INIT;

    if (!wal_gap_find(&world.request, timeline, start, &gap, &err))
        fail_msg("%s", err.message);
    assert_int_equal(gap.timeline, timeline);
    assert_int_equal(gap.start, start);
    return gap;
}

static void
test_gap_on_one_timeline(void **state)
{
    WalGap gap;

    (void)state;
    world.request.slot = "archive";
    world.kept[1] = 13 * SEGMENT;
    gap = find_gap(1, 10 * SEGMENT + 100);
    assert_int_equal(gap.end, 13 * SEGMENT);
    assert_int_equal(gap.end_timeline, 1);
    assert_int_equal(gap.segments, 3);
    assert_string_equal(world.tries, "1: 0/A000064 to 0/14000007\n");
    assert_int_equal(world.connections, 0);
}

static void
test_gap_from_the_start_of_a_segment(void **state)
{
    WalGap gap;

    (void)state;
    world.kept[1] = 11 * SEGMENT;
    gap = find_gap(1, 10 * SEGMENT);
    assert_int_equal(gap.end, 11 * SEGMENT);
    assert_int_equal(gap.segments, 1);
}

static void
test_no_gap(void **state)
{
    WalGap gap;

    (void)state;
    gap = find_gap(1, 10 * SEGMENT);
    assert_int_equal(gap.end, 10 * SEGMENT);
    assert_int_equal(gap.segments, 0);
}

/* The old timeline ends in the middle of segment 12, whose rest is the next one's. */
static void
test_gap_up_to_the_old_timeline(void **state)
{
    WalGap gap;

    (void)state;
    world.server.timeline = 2;
    world.history = "1\t0/C800000\tno recovery target specified\n";
    world.kept[1] = 12 * SEGMENT;
    gap = find_gap(1, 10 * SEGMENT);
    assert_int_equal(gap.end, 12 * SEGMENT);
    assert_int_equal(gap.end_timeline, 1);
    assert_int_equal(gap.segments, 2);
}

static void
test_gap_over_timelines(void **state)
{
    WalGap gap;

    (void)state;
    world.server.timeline = 3;
    world.history = "1\t0/C800000\tfirst\n2\t0/E000000\tsecond\n";
    world.kept[1] = world.kept[2] = world.kept[3] = 15 * SEGMENT;
    gap = find_gap(1, 10 * SEGMENT + 1);
    assert_int_equal(gap.end, 15 * SEGMENT);
    assert_int_equal(gap.end_timeline, 3);
    assert_int_equal(gap.segments, 5);
    assert_string_equal(world.tries, "1: 0/A000001 to 0/C800000\n"
                                     "2: 0/C000000 to 0/E000000\n"
                                     "3: 0/E000000 to 0/14000007\n");
}

/* Where the old timeline ends with a segment, all that is left of it is nothing. */
static void
test_gap_up_to_the_very_end_of_a_timeline(void **state)
{
    WalGap gap;

    (void)state;
    world.server.timeline = 2;
    world.history = "1\t0/C000000\tfirst\n";
    world.kept[1] = 12 * SEGMENT;
    gap = find_gap(1, 10 * SEGMENT);
    assert_int_equal(gap.end, 12 * SEGMENT);
    assert_int_equal(gap.end_timeline, 2);
    assert_int_equal(gap.segments, 2);
}

static void
test_gap_is_not_found(void **state)
{
    static const Broken all[] = {CONNECT, SEGMENT_SIZE, IDENTIFY, HISTORY, TRIES};

    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        WalGap gap;
        Error err = ERROR_INIT;

        world.broken = all[i];
        world.server.timeline = 2;
        world.history = "1\t0/C000000\tfirst\n";
        assert_false(wal_gap_find(&world.request, 1, 10 * SEGMENT, &gap, &err));
        assert_int_equal(err.code, ERR_CONNECTION);
        (void)teardown(state);
        (void)setup(state);
    }
}

static void
test_nothing_left_at_all(void **state)
{
    WalGap gap;
    Error err = ERROR_INIT;

    (void)state;
    world.kept[1] = 30 * SEGMENT;
    assert_false(wal_gap_find(&world.request, 1, 10 * SEGMENT, &gap, &err));
    assert_string_equal(err.message, "nothing left");
}

static void
test_gap_on_a_timeline_that_is_not_the_servers(void **state)
{
    WalGap gap;
    Error err = ERROR_INIT;

    (void)state;
    world.server.timeline = 3;
    world.history = "1\t0/C800000\tfirst\n";
    assert_false(wal_gap_find(&world.request, 2, 10 * SEGMENT, &gap, &err));
    assert_string_equal(err.message, "timeline 2 is not in the server's history");
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_empty_archive),
        TEST(test_group_may_read),
        TEST(test_behind_the_archive),
        TEST(test_archive_that_ends_with_a_segment),
        TEST(test_behind_the_fork),
        TEST(test_before_the_fork),
        TEST(test_slot),
        TEST(test_slot_by_sql),
        TEST(test_slot_without_a_position),
        TEST(test_sql_is_not_allowed),
        TEST(test_stopped_while_asking),
        TEST(test_no_such_slot),
        TEST(test_holes_and_damage),
        TEST(test_begins_behind_the_gap),
        TEST(test_gap_up_to_another_timeline),
        TEST(test_archive_is_beyond_the_gap),
        TEST(test_another_server),
        TEST(test_archive_of_another_cluster),
        TEST(test_ahead_of_the_server),
        TEST(test_history_that_makes_no_sense),
        TEST(test_all_that_can_fail),
        TEST(test_gap_on_one_timeline),
        TEST(test_gap_from_the_start_of_a_segment),
        TEST(test_no_gap),
        TEST(test_gap_up_to_the_old_timeline),
        TEST(test_gap_over_timelines),
        TEST(test_gap_up_to_the_very_end_of_a_timeline),
        TEST(test_gap_is_not_found),
        TEST(test_nothing_left_at_all),
        TEST(test_gap_on_a_timeline_that_is_not_the_servers),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
