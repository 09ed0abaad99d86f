/*
 * work: what comes of jobs is taken in their order, whatever the number of threads, and the first
 * failure in that order ends it. Whoever has to wait here waits for a condition, never for a time.
 */
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "common/work.h"

#define JOBS  ((size_t)200)
#define NONE  SIZE_MAX
#define SLOTS ((size_t)64)

typedef struct Bench {
    Work work;
    Error err;

    /* ---- set by the test ---- */
    size_t failing[3]; /* jobs that fail; NONE: none */
    size_t enough_at;  /* job with which enough is taken */
    size_t broken_at;  /* job whose taking fails */
    size_t wait_for;   /* job that ends only when `waiting` is met */
    size_t wait_until; /* so many jobs have begun */
    bool wait_ending;  /* or nobody wants its result */
    bool wait_tick;    /* or there was a tick */
    Stop *stop_in_job; /* requested by the job `stop_at` */
    size_t stop_at;

    /* ---- what happened ---- */
    pthread_mutex_t mutex;
    size_t begun;
    size_t running[SLOTS]; /* per slot: jobs that it runs just now */
    size_t most_ahead;     /* jobs begun and not taken */
    size_t slots;          /* the highest slot that was seen, plus one */
    size_t taken;          /* all that were, which is the number of the next */
    size_t ticks;
    bool in_order;   /* and no slot was used twice at a time */
    bool own_thread; /* everything happened in the thread that called */
    pthread_t caller;
} Bench;

static bool
is_failing(const Bench *bench, size_t job)
{
    for (size_t i = 0; i < 3; i++) {
        if (bench->failing[i] == job)
            return true;
    }
    return false;
}

static bool
is_met(const Bench *bench, const WorkSlot *slot)
{
    if (bench->wait_ending)
        return atomic_load(slot->ending);
    if (bench->wait_tick)
        return bench->ticks > 0;
    return bench->begun >= bench->wait_until;
}

/* `ending` has no condition of its own: look again and again. */
static void
await(Bench *bench, const WorkSlot *slot)
{
    while (!is_met(bench, slot)) {
        (void)pthread_mutex_unlock(&bench->mutex);
        (void)sched_yield();
        (void)pthread_mutex_lock(&bench->mutex);
    }
}

static bool
run(void *ctx, const WorkSlot *slot, size_t job, Error *err)
{
    Bench *bench = ctx;

    (void)pthread_mutex_lock(&bench->mutex);
    if (slot->index >= SLOTS || bench->running[slot->index] != 0)
        bench->in_order = false;
    bench->running[slot->index]++;
    bench->begun++;
    if (bench->begun - bench->taken > bench->most_ahead)
        bench->most_ahead = bench->begun - bench->taken;
    if (slot->index + 1 > bench->slots)
        bench->slots = slot->index + 1;
    bench->own_thread = bench->own_thread && pthread_equal(pthread_self(), bench->caller) != 0;
    if (job == bench->wait_for)
        await(bench, slot);
    if (bench->stop_in_job != NULL && job == bench->stop_at)
        stop_request(bench->stop_in_job);
    bench->running[slot->index]--;
    (void)pthread_mutex_unlock(&bench->mutex);
    return !is_failing(bench, job) || error_set(err, ERR_FORMAT, "job %zu", job);
}

static WorkNext
take(void *ctx, size_t job, Error *err)
{
    Bench *bench = ctx;
    WorkNext next = WORK_GO_ON;

    (void)pthread_mutex_lock(&bench->mutex);
    bench->in_order =
        bench->in_order && job == bench->taken && pthread_equal(pthread_self(), bench->caller) != 0;
    bench->taken++;
    (void)pthread_mutex_unlock(&bench->mutex);
    if (job == bench->enough_at)
        next = WORK_ENOUGH;
    if (job == bench->broken_at) {
        (void)error_set(err, ERR_SYSTEM, "taking %zu", job);
        next = WORK_FAILED;
    }
    return next;
}

static void
tick(void *ctx)
{
    Bench *bench = ctx;

    assert_true(pthread_equal(pthread_self(), bench->caller) != 0);
    (void)pthread_mutex_lock(&bench->mutex);
    bench->ticks++;
    (void)pthread_mutex_unlock(&bench->mutex);
}

static Bench
bench_of(size_t count, size_t threads)
{
    return (Bench){.work = {.count = count, .threads = threads, .run = run, .take = take},
                   .err = ERROR_INIT,
                   .failing = {NONE, NONE, NONE},
                   .enough_at = NONE,
                   .broken_at = NONE,
                   .wait_for = NONE,
                   .in_order = true,
                   .own_thread = true,
                   .caller = pthread_self()};
}

static bool
bench_run(Bench *bench)
{
    bool ok;

    (void)pthread_mutex_init(&bench->mutex, NULL);
    bench->work.ctx = bench;
    ok = work_run(&bench->work, &bench->err);
    (void)pthread_mutex_destroy(&bench->mutex);
    for (size_t i = 0; i < SLOTS; i++)
        assert_int_equal(bench->running[i], 0); /* nobody is left */
    assert_true(bench->in_order);
    return ok;
}

static const size_t thread_counts[] = {0, 1, 2, 3, 7, 32};

#define THREAD_COUNTS (sizeof thread_counts / sizeof thread_counts[0])

/* ---- order ---- */

static void
test_all_jobs_are_taken_in_order(void **state)
{
    static const size_t counts[] = {0, 1, 2, 5, JOBS};

    (void)state;
    for (size_t t = 0; t < THREAD_COUNTS; t++) {
        for (size_t c = 0; c < sizeof counts / sizeof counts[0]; c++) {
            Bench bench = bench_of(counts[c], thread_counts[t]);

            assert_true(bench_run(&bench));
            assert_int_equal(bench.taken, counts[c]);
            assert_int_equal(bench.begun, counts[c]);
            assert_true(bench.slots <= thread_counts[t] || thread_counts[t] == 0);
            assert_true(bench.slots <= counts[c]);
        }
    }
}

static void
test_one_thread_is_the_calling_one(void **state)
{
    Bench bench = bench_of(JOBS, 1);

    (void)state;
    assert_true(bench_run(&bench));
    assert_true(bench.own_thread);
    assert_int_equal(bench.most_ahead, 1);
    assert_int_equal(bench.slots, 1);

    bench = bench_of(1, 8); /* nor is there a thread for a single job */
    assert_true(bench_run(&bench));
    assert_true(bench.own_thread);
}

static void
test_several_threads_are_others(void **state)
{
    Bench bench = bench_of(JOBS, 2);

    (void)state;
    bench.wait_for = 0; /* as long as it runs, the others must be by somebody else */
    bench.wait_until = 3;
    assert_true(bench_run(&bench));
    assert_false(bench.own_thread);
    assert_int_equal(bench.slots, 2);
}

/* ---- ahead ---- */

static void
test_ahead_bounds_what_waits(void **state)
{
    static const size_t aheads[] = {1, 2, 5, 16};

    (void)state;
    for (size_t i = 0; i < sizeof aheads / sizeof aheads[0]; i++) {
        Bench bench = bench_of(JOBS, 3);

        bench.work.ahead = aheads[i];
        bench.wait_for = 4; /* until as many as may be are begun: itself and those behind it */
        bench.wait_until = 4 + aheads[i];
        assert_true(bench_run(&bench));
        assert_int_equal(bench.taken, JOBS);
        assert_int_equal(bench.most_ahead, aheads[i]);
    }
}

static void
test_ahead_is_four_for_each_thread(void **state)
{
    Bench bench = bench_of(JOBS, 3);

    (void)state;
    bench.wait_for = 0;
    bench.wait_until = 12;
    assert_true(bench_run(&bench));
    assert_int_equal(bench.most_ahead, 12);
}

/* ---- long jobs ---- */

/* Job 0 ends only when another one has begun, and only the long one may be begun beside it. */
static void
test_long_jobs_are_begun_first(void **state)
{
    static const size_t first[] = {JOBS - 1};
    Bench bench = bench_of(JOBS, 2);

    (void)state;
    bench.work.ahead = 1;
    bench.work.first = first;
    bench.work.first_count = 1;
    bench.wait_for = 0;
    bench.wait_until = 2;
    assert_true(bench_run(&bench));
    assert_int_equal(bench.taken, JOBS);
    assert_int_equal(bench.begun, JOBS);
}

static void
test_each_long_job_runs_once(void **state)
{
    static const size_t first[] = {77, 0, JOBS - 1, 78, 3};

    (void)state;
    for (size_t t = 0; t < THREAD_COUNTS; t++) {
        for (size_t count = 0; count <= sizeof first / sizeof first[0]; count++) {
            Bench bench = bench_of(JOBS, thread_counts[t]);

            bench.work.first = first;
            bench.work.first_count = count;
            assert_true(bench_run(&bench));
            assert_int_equal(bench.taken, JOBS);
            assert_int_equal(bench.begun, JOBS);
        }
    }
}

static void
test_failure_of_a_long_job_in_its_turn(void **state)
{
    static const size_t first[] = {150, 20};

    (void)state;
    for (size_t t = 0; t < THREAD_COUNTS; t++) {
        Bench bench = bench_of(JOBS, thread_counts[t]);

        bench.work.first = first;
        bench.work.first_count = 2;
        bench.failing[0] = 150;
        assert_false(bench_run(&bench));
        assert_string_equal(bench.err.message, "job 150");
        assert_int_equal(bench.taken, 150);

        bench = bench_of(JOBS, thread_counts[t]);
        bench.work.first = first;
        bench.work.first_count = 2;
        bench.failing[0] = 150;
        bench.failing[1] = 90;
        assert_false(bench_run(&bench));
        assert_string_equal(bench.err.message, "job 90");
        assert_int_equal(bench.taken, 90);
    }
}

/* ---- ends ---- */

static void
test_first_failure_in_order(void **state)
{
    (void)state;
    for (size_t t = 0; t < THREAD_COUNTS; t++) {
        Bench bench = bench_of(JOBS, thread_counts[t]);

        bench.failing[0] = 120;
        bench.failing[1] = 90;
        bench.failing[2] = 91;
        assert_false(bench_run(&bench));
        assert_int_equal(bench.err.code, ERR_FORMAT);
        assert_string_equal(bench.err.message, "job 90");
        assert_int_equal(bench.taken, 90);
    }
}

/* A later one fails while an earlier one, which fails, too, is still at it. */
static void
test_failure_that_comes_late_is_still_the_first(void **state)
{
    Bench bench = bench_of(JOBS, 2);

    (void)state;
    bench.failing[0] = 10;
    bench.failing[1] = 11;
    bench.wait_for = 10;
    bench.wait_until = 12;
    assert_false(bench_run(&bench));
    assert_string_equal(bench.err.message, "job 10");
    assert_int_equal(bench.taken, 10);
}

static void
test_no_jobs_are_begun_after_a_failure(void **state)
{
    (void)state;
    for (size_t t = 0; t < THREAD_COUNTS; t++) {
        Bench bench = bench_of(JOBS, thread_counts[t]);

        bench.failing[0] = 0;
        assert_false(bench_run(&bench));
        assert_true(bench.begun < JOBS);
        assert_int_equal(bench.taken, 0);
    }
}

static void
test_enough(void **state)
{
    (void)state;
    for (size_t t = 0; t < THREAD_COUNTS; t++) {
        Bench bench = bench_of(JOBS, thread_counts[t]);

        bench.enough_at = 30;
        bench.failing[0] = 31; /* nobody asks for it any more */
        assert_true(bench_run(&bench));
        assert_int_equal(bench.taken, 31);
        assert_int_equal(bench.err.code, ERR_NONE);
        assert_true(bench.begun <= 31 + 4 * 32);
    }
}

static void
test_taking_fails(void **state)
{
    (void)state;
    for (size_t t = 0; t < THREAD_COUNTS; t++) {
        Bench bench = bench_of(JOBS, thread_counts[t]);

        bench.broken_at = 30;
        bench.failing[0] = 31;
        assert_false(bench_run(&bench));
        assert_string_equal(bench.err.message, "taking 30");
        assert_int_equal(bench.taken, 31);
    }
}

/* A job that others wait for learns that nobody does. */
static void
test_jobs_learn_of_the_end(void **state)
{
    Bench bench = bench_of(JOBS, 2);

    (void)state;
    bench.enough_at = 3;
    bench.wait_for = 4;
    bench.wait_ending = true;
    assert_true(bench_run(&bench));
    assert_int_equal(bench.taken, 4);
}

/* ---- stop ---- */

static void
test_stop_before_the_first_job(void **state)
{
    Stop stop;

    (void)state;
    for (size_t t = 0; t < THREAD_COUNTS; t++) {
        Bench bench = bench_of(JOBS, thread_counts[t]);

        assert_true(stop_init(&stop, &bench.err));
        stop_request(&stop);
        bench.work.stop = &stop;
        assert_false(bench_run(&bench));
        assert_int_equal(bench.err.code, ERR_STOPPED);
        assert_int_equal(bench.taken, 0);
        stop_destroy(&stop);
    }
}

/* Also while the job that is waited for takes for ever. */
static void
test_stop_while_jobs_run(void **state)
{
    Stop stop;

    (void)state;
    for (size_t t = 0; t < THREAD_COUNTS; t++) {
        Bench bench = bench_of(JOBS, thread_counts[t]);

        assert_true(stop_init(&stop, &bench.err));
        bench.work.stop = &stop;
        bench.stop_in_job = &stop;
        bench.stop_at = thread_counts[t] < 2 ? 20 : 21;
        bench.wait_for = thread_counts[t] < 2 ? NONE : 20;
        bench.wait_ending = true;
        assert_false(bench_run(&bench));
        assert_int_equal(bench.err.code, ERR_STOPPED);
        assert_true(bench.taken <= 21);
        stop_destroy(&stop);
    }
}

/* ---- tick ---- */

static void
test_tick_while_it_waits(void **state)
{
    Bench bench = bench_of(8, 2);

    (void)state;
    bench.work.tick = tick;
    bench.wait_for = 3;
    bench.wait_tick = true;
    assert_true(bench_run(&bench));
    assert_int_equal(bench.taken, 8);
    assert_true(bench.ticks > 0);
}

static void
test_quick_work_has_hardly_a_tick(void **state)
{
    const int64_t begin = clock_ms();
    Bench bench = bench_of(JOBS, 2);

    (void)state;
    bench.work.tick = tick;
    assert_true(bench_run(&bench));
    assert_true((int64_t)bench.ticks <= (clock_ms() - begin) / 100 + 1);
}

/* ---- processors ---- */

static void
test_processors(void **state)
{
    const size_t before = work_processors();
    cpu_set_t all;
    cpu_set_t one;
    size_t first = 0;

    (void)state;
    assert_true(before >= 1);
    assert_int_equal(sched_getaffinity(0, sizeof all, &all), 0);
    while (!CPU_ISSET(first, &all))
        first++;
    CPU_ZERO(&one);
    CPU_SET(first, &one);
    assert_int_equal(sched_setaffinity(0, sizeof one, &one), 0);
    assert_int_equal(work_processors(), 1);
    assert_int_equal(sched_setaffinity(0, sizeof all, &all), 0);
    assert_int_equal(work_processors(), before);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_jobs_are_taken_in_order),
        cmocka_unit_test(test_one_thread_is_the_calling_one),
        cmocka_unit_test(test_several_threads_are_others),
        cmocka_unit_test(test_ahead_bounds_what_waits),
        cmocka_unit_test(test_ahead_is_four_for_each_thread),
        cmocka_unit_test(test_long_jobs_are_begun_first),
        cmocka_unit_test(test_each_long_job_runs_once),
        cmocka_unit_test(test_failure_of_a_long_job_in_its_turn),
        cmocka_unit_test(test_first_failure_in_order),
        cmocka_unit_test(test_failure_that_comes_late_is_still_the_first),
        cmocka_unit_test(test_no_jobs_are_begun_after_a_failure),
        cmocka_unit_test(test_enough),
        cmocka_unit_test(test_taking_fails),
        cmocka_unit_test(test_jobs_learn_of_the_end),
        cmocka_unit_test(test_stop_before_the_first_job),
        cmocka_unit_test(test_stop_while_jobs_run),
        cmocka_unit_test(test_tick_while_it_waits),
        cmocka_unit_test(test_quick_work_has_hardly_a_tick),
        cmocka_unit_test(test_processors),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
