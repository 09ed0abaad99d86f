/*
 * The lag in time: exact for few samples, and within its bounds for any number of them.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "walrecv/walrecv.h"

static void
test_nothing_noted(void **state)
{
    WalLag lag = {.count = 0};

    (void)state;
    assert_int_equal(wal_lag_ms(&lag, 0, 0), 0);
    assert_int_equal(wal_lag_ms(&lag, 100, INT64_MAX), 0);
    assert_int_equal(lag.count, 0);
}

static void
test_one_note(void **state)
{
    WalLag lag = {.count = 0};

    (void)state;
    wal_lag_note(&lag, 1000, 50);
    assert_int_equal(wal_lag_ms(&lag, 0, 50), 0);
    assert_int_equal(wal_lag_ms(&lag, 0, 51), 1);
    assert_int_equal(wal_lag_ms(&lag, 999, 1050), 1000);
    assert_int_equal(wal_lag_ms(&lag, 1000, 1050), 0);
    assert_int_equal(wal_lag_ms(&lag, 1001, 9999), 0);
}

static void
test_each_step_of_the_flush(void **state)
{
    static const struct {
        Lsn flushed;
        int64_t lag;
    } steps[] = {{0, 9000},    {1, 9000},    {999, 9000},  {1000, 8000}, {1001, 8000},
                 {1999, 8000}, {2000, 5000}, {2999, 5000}, {3000, 0},    {4000, 0}};
    WalLag lag = {.count = 0};

    (void)state;
    wal_lag_note(&lag, 1000, 1000);
    wal_lag_note(&lag, 2000, 2000);
    wal_lag_note(&lag, 3000, 5000);
    for (size_t i = 0; i < sizeof steps / sizeof steps[0]; i++)
        assert_int_equal(wal_lag_ms(&lag, steps[i].flushed, 10000), steps[i].lag);
}

/* Keepalives go on while the server writes nothing, and may say less than WAL did. */
static void
test_ends_that_do_not_grow(void **state)
{
    WalLag lag = {.count = 0};

    (void)state;
    wal_lag_note(&lag, 1000, 1000);
    wal_lag_note(&lag, 1000, 2000);
    wal_lag_note(&lag, 500, 3000);
    wal_lag_note(&lag, 0, 4000);
    assert_int_equal(wal_lag_ms(&lag, 999, 5000), 4000);
    assert_int_equal(wal_lag_ms(&lag, 1000, 5000), 0);
    /* all is forgotten, and said again: it is flushed all the same */
    wal_lag_note(&lag, 1000, 6000);
    assert_int_equal(wal_lag_ms(&lag, 1000, 7000), 0);
    wal_lag_note(&lag, 1001, 8000);
    assert_int_equal(wal_lag_ms(&lag, 1000, 8500), 500);
}

static void
test_notes_of_the_same_moment(void **state)
{
    WalLag lag = {.count = 0};

    (void)state;
    for (Lsn end = 1; end <= 1000; end++)
        wal_lag_note(&lag, end, 77);
    assert_int_equal(lag.count, 1);
    assert_int_equal(wal_lag_ms(&lag, 999, 100), 23);
    assert_int_equal(wal_lag_ms(&lag, 1000, 100), 0);
}

static void
test_largest_numbers(void **state)
{
    WalLag lag = {.count = 0};

    (void)state;
    wal_lag_note(&lag, UINT64_MAX - 1, 0);
    wal_lag_note(&lag, UINT64_MAX, INT64_MAX);
    assert_int_equal(wal_lag_ms(&lag, 0, INT64_MAX), INT64_MAX);
    assert_int_equal(wal_lag_ms(&lag, UINT64_MAX - 1, INT64_MAX), 0);
    assert_int_equal(wal_lag_ms(&lag, UINT64_MAX, INT64_MAX), 0);
}

/* A receiver that begins anew does not know yet what is flushed: nothing is forgotten for that. */
static void
test_unknown_for_a_moment(void **state)
{
    WalLag lag = {.count = 0};

    (void)state;
    wal_lag_note(&lag, 1000, 1000);
    wal_lag_note(&lag, 2000, 2000);
    assert_int_equal(wal_lag_ms(&lag, 1000, 3000), 1000);
    assert_int_equal(wal_lag_ms(&lag, 0, 4000), 2000);
    assert_int_equal(wal_lag_ms(&lag, 1500, 5000), 3000);
}

static void
test_exact_as_long_as_there_is_room(void **state)
{
    WalLag lag = {.count = 0};

    (void)state;
    for (int i = 1; i <= WAL_LAG_SAMPLES; i++)
        wal_lag_note(&lag, (Lsn)i * 10, i * i);
    for (int i = 1; i <= WAL_LAG_SAMPLES; i++)
        assert_int_equal(wal_lag_ms(&lag, (Lsn)i * 10 - 1, 10000), 10000 - i * i);
}

static void
test_one_more_than_there_is_room_for(void **state)
{
    WalLag lag = {.count = 0};

    (void)state;
    /* In seconds, but for two that follow 40 at once. */
    for (int i = 1; i <= WAL_LAG_SAMPLES - 1; i++)
        wal_lag_note(&lag, (Lsn)i * 10, i * 1000 + (i == 41 ? -999 : 0));
    wal_lag_note(&lag, 640, 64000);
    wal_lag_note(&lag, 650, 65000);
    assert_int_equal(lag.count, WAL_LAG_SAMPLES);
    /* All but one of them, and that one by no more than its neighbour. */
    for (int i = 1; i <= WAL_LAG_SAMPLES + 1; i++) {
        int64_t then = i == 41 ? 40001 : i * 1000;
        int64_t told = wal_lag_ms(&lag, (Lsn)i * 10 - 1, 70000);

        if (i == 41 || i == 40)
            assert_true(told >= 70000 - then && told <= 70000 - then + 1000);
        else
            assert_int_equal(told, 70000 - then);
    }
}

/* ---- against all that was noted ---- */

#define NOTES 200000

typedef struct World {
    WalLag lag;
    WalLagSample *all; /* every note that told something new */
    size_t count;
    size_t first; /* not flushed */
    uint32_t seed;
    int64_t now;
    int64_t longest; /* the time over which samples are spread at most */
} World;

static uint32_t
draw(World *world, uint32_t below)
{
    world->seed = world->seed * 1664525u + 1013904223u;
    return (world->seed >> 8) % below;
}

static void
set_up(World *world, uint32_t seed)
{
    *world = (World){.seed = seed, .now = 1000};
    world->all = calloc(NOTES, sizeof *world->all);
    assert_non_null(world->all);
}

static void
note(World *world, uint32_t step_max, uint32_t wait_max)
{
    Lsn end = world->count > 0 ? world->all[world->count - 1].end : 0;

    world->now += draw(world, wait_max);
    end += 1 + draw(world, step_max);
    world->all[world->count++] = (WalLagSample){.end = end, .ms = world->now};
    wal_lag_note(&world->lag, end, world->now);
    assert_true(world->lag.count <= WAL_LAG_SAMPLES);
}

/* Asks with `flushed`; the samples before it have no say any more. */
static void
ask(World *world, Lsn flushed)
{
    int64_t spread = world->now - world->all[world->first].ms;
    int64_t exact = 0;
    int64_t told = wal_lag_ms(&world->lag, flushed, world->now);

    while (world->first < world->count && world->all[world->first].end <= flushed)
        world->first++;
    if (world->first < world->count)
        exact = world->now - world->all[world->first].ms;
    if (spread > world->longest)
        world->longest = spread;
    if (told < exact || told > exact + world->longest / 10)
        fail_msg("told %lld, was %lld, of %lld", (long long)told, (long long)exact,
                 (long long)world->longest);
    if (world->first == world->count)
        assert_int_equal(told, 0);
}

/* The flush stays behind by a number of notes that changes slowly, sometimes it stands still. */
static void
test_many_notes(void **state)
{
    static const uint32_t waits[] = {2, 5, 50, 1000};

    (void)state;
    for (uint32_t seed = 1; seed <= 8; seed++) {
        World world;
        size_t behind = 1;

        set_up(&world, seed);
        for (size_t i = 0; i < NOTES / 4; i++) {
            note(&world, 1000, waits[seed % 4]);
            if (draw(&world, 50) == 0)
                behind = 1 + draw(&world, seed < 5 ? 500 : 20000);
            if (draw(&world, 20) == 0 && world.count > behind) {
                size_t flushed = world.count - behind;

                if (flushed >= world.first)
                    ask(&world, world.all[flushed].end - draw(&world, 2));
            }
        }
        ask(&world, world.all[world.count - 1].end);
        free(world.all);
    }
}

/* Nothing is flushed for the whole run, and then all of it bit by bit. */
static void
test_a_long_hang(void **state)
{
    World world;

    (void)state;
    set_up(&world, 1);
    for (size_t i = 0; i < NOTES; i++)
        note(&world, 1000, 3);
    assert_int_equal(world.lag.count, WAL_LAG_SAMPLES);
    for (size_t i = 0; i < NOTES; i += 97)
        ask(&world, world.all[i].end - 1);
    ask(&world, world.all[NOTES - 1].end);
    free(world.all);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nothing_noted),
        cmocka_unit_test(test_one_note),
        cmocka_unit_test(test_each_step_of_the_flush),
        cmocka_unit_test(test_ends_that_do_not_grow),
        cmocka_unit_test(test_notes_of_the_same_moment),
        cmocka_unit_test(test_largest_numbers),
        cmocka_unit_test(test_unknown_for_a_moment),
        cmocka_unit_test(test_exact_as_long_as_there_is_room),
        cmocka_unit_test(test_one_more_than_there_is_room_for),
        cmocka_unit_test(test_many_notes),
        cmocka_unit_test(test_a_long_hang),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
