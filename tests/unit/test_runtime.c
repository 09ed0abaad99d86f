/*
 * Stop requests, waiting, threads, clocks. Times are checked from below exactly and from above
 * generously: a loaded machine is slow, never early.
 */
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/runtime.h"
#include "support/ticker.h"

#define LONG_MS 30000 /* longer than any test takes that works */

static Stop
new_stop(void)
{
    Stop stop;
    Error err = ERROR_INIT;

    assert_true(stop_init(&stop, &err));
    assert_true(stop.fd >= 0);
    assert_false(stop_requested(&stop));
    return stop;
}

static bool
readable(int fd)
{
    struct pollfd one = {.fd = fd, .events = POLLIN};

    return poll(&one, 1, 0) == 1;
}

static Bell
new_bell(void)
{
    Bell bell;
    Error err = ERROR_INIT;

    assert_true(bell_init(&bell, &err));
    return bell;
}

static WaitResult
wait_for(int fd, short events, int64_t timeout_ms, const Stop *stop, Bell *bell)
{
    Error err = ERROR_INIT;
    WaitResult result = runtime_wait(fd, events, timeout_ms, stop, bell, &err);

    assert_string_equal(err.message, "");
    return result;
}

/* ---- stop ---- */

static void
request_is_final(void **state)
{
    Stop stop = new_stop();

    (void)state;
    assert_false(readable(stop.fd));
    for (int i = 0; i < 3; i++) {
        stop_request(&stop);
        assert_true(stop_requested(&stop));
        assert_true(readable(stop.fd));
        assert_int_equal(wait_for(-1, 0, LONG_MS, &stop, NULL), WAIT_STOPPED);
        assert_true(readable(stop.fd));
    }
    stop_destroy(&stop);
    assert_int_equal(stop.fd, -1);
    stop_destroy(&stop);
}

/* The event counter has an end; a request at its end changes nothing and does not wait. */
static void
request_at_a_full_counter(void **state)
{
    Stop stop = new_stop();
    uint64_t most = UINT64_MAX - 1;

    (void)state;
    assert_int_equal(write(stop.fd, &most, sizeof most), sizeof most);
    stop_request(&stop);
    assert_true(stop_requested(&stop));
    assert_int_equal(wait_for(-1, 0, LONG_MS, &stop, NULL), WAIT_STOPPED);
    stop_destroy(&stop);
}

static void
stopped_error(void **state)
{
    Error err = ERROR_INIT;

    (void)state;
    assert_false(error_set_stopped(&err));
    assert_int_equal(err.code, ERR_STOPPED);
    assert_string_equal(err.message, "stopped");
}

static void
checked_stop(void **state)
{
    Stop stop = new_stop();
    Error err = ERROR_INIT;

    (void)state;
    assert_true(stop_check(NULL, &err));
    assert_true(stop_check(&stop, &err));
    assert_int_equal(err.code, ERR_NONE);
    stop_request(&stop);
    assert_false(stop_check(&stop, &err));
    assert_int_equal(err.code, ERR_STOPPED);
    assert_string_equal(err.message, "stopped");
    stop_destroy(&stop);
}

/* Run `action` with no descriptor left to open. */
static void
without_descriptors(rlim_t count, void (*action)(void))
{
    struct rlimit before;
    struct rlimit few;

    assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
    few = before;
    few.rlim_cur = count;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
    action();
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
}

static void
init_must_fail(void)
{
    Stop stop;
    Error err = ERROR_INIT;

    assert_false(stop_init(&stop, &err));
    assert_string_equal(err.message, "could not create an event descriptor: Too many open files");
    assert_int_equal(err.sys_errno, EMFILE);
    stop_destroy(&stop); /* nothing of anybody else's is closed */
}

static void
init_fails(void **state)
{
    (void)state;
    without_descriptors(0, init_must_fail);
}

/* ---- waiting ---- */

static void
ready(void **state)
{
    Stop stop = new_stop();
    Bell bell = new_bell();
    int pipes[2];

    (void)state;
    assert_int_equal(pipe(pipes), 0);
    assert_int_equal(wait_for(pipes[1], POLLOUT, LONG_MS, &stop, &bell), WAIT_READY);
    assert_int_equal(wait_for(pipes[0], POLLIN, 0, &stop, &bell), WAIT_TIMEOUT);
    assert_int_equal(write(pipes[1], "x", 1), 1);
    assert_int_equal(wait_for(pipes[0], POLLIN, LONG_MS, &stop, &bell), WAIT_READY);
    assert_int_equal(wait_for(pipes[0], POLLIN, 0, NULL, NULL), WAIT_READY);
    assert_int_equal(wait_for(pipes[0], POLLIN, -1, NULL, NULL), WAIT_READY);
    assert_int_equal(wait_for(pipes[0], POLLIN, INT64_MAX, NULL, NULL), WAIT_READY);
    /* The other side went away: the caller's own call will tell. */
    assert_int_equal(close(pipes[1]), 0);
    assert_int_equal(wait_for(pipes[0], 0, LONG_MS, &stop, &bell), WAIT_READY);
    assert_int_equal(close(pipes[0]), 0);
    stop_destroy(&stop);
    bell_destroy(&bell);
}

/* stop before bell before ready before the timeout. */
static void
priorities(void **state)
{
    Stop stop = new_stop();
    Bell bell = new_bell();
    int pipes[2];

    (void)state;
    assert_int_equal(pipe(pipes), 0);
    assert_int_equal(wait_for(pipes[0], POLLIN, 0, &stop, &bell), WAIT_TIMEOUT);
    assert_int_equal(write(pipes[1], "x", 1), 1);
    assert_int_equal(wait_for(pipes[0], POLLIN, 0, &stop, &bell), WAIT_READY);
    bell_ring(&bell);
    bell_ring(&bell); /* heard as one */
    assert_int_equal(wait_for(pipes[0], POLLIN, 0, &stop, NULL), WAIT_READY);
    assert_int_equal(wait_for(pipes[0], POLLIN, 0, &stop, &bell), WAIT_WOKEN);
    assert_int_equal(wait_for(pipes[0], POLLIN, 0, &stop, &bell), WAIT_READY);
    bell_ring(&bell);
    stop_request(&stop);
    assert_int_equal(wait_for(pipes[0], POLLIN, 0, &stop, &bell), WAIT_STOPPED);
    assert_int_equal(wait_for(pipes[0], POLLIN, 0, NULL, &bell), WAIT_WOKEN);
    assert_int_equal(wait_for(pipes[0], POLLIN, 0, NULL, NULL), WAIT_READY);
    assert_int_equal(wait_for(-1, 0, 0, &stop, NULL), WAIT_STOPPED);
    assert_int_equal(close(pipes[0]), 0);
    assert_int_equal(close(pipes[1]), 0);
    stop_destroy(&stop);
    bell_destroy(&bell);
}

static void
timeouts(void **state)
{
    static const int64_t timeouts_ms[] = {0, 1, 20, 100};
    Stop stop = new_stop();

    (void)state;
    for (size_t i = 0; i < sizeof timeouts_ms / sizeof timeouts_ms[0]; i++) {
        int64_t start = clock_ms();

        assert_int_equal(wait_for(-1, 0, timeouts_ms[i], &stop, NULL), WAIT_TIMEOUT);
        assert_in_range(clock_ms() - start, timeouts_ms[i], timeouts_ms[i] + 10000);
    }
    stop_destroy(&stop);
}

/* Signals neither end a wait nor make it longer. */
static void
signals_do_not_end_a_wait(void **state)
{
    int64_t start = clock_ms();
    Stop stop = new_stop();

    (void)state;
    ticker_start(5, NULL);
    assert_int_equal(wait_for(-1, 0, 200, &stop, NULL), WAIT_TIMEOUT);
    ticker_stop();
    assert_in_range(clock_ms() - start, 200, 10000);
    assert_true(ticker_count() > 1);
    stop_destroy(&stop);
}

static Stop handler_stop;

static void
stop_from_handler(int signal_number)
{
    (void)signal_number;
    stop_request(&handler_stop);
}

static void
stop_in_a_signal_handler(void **state)
{
    (void)state;
    handler_stop = new_stop();
    ticker_start(20, stop_from_handler);
    assert_int_equal(wait_for(-1, 0, LONG_MS, &handler_stop, NULL), WAIT_STOPPED);
    ticker_stop();
    stop_destroy(&handler_stop);
}

/* A time limit ends a wait and stays requested; nobody has to ask for it. */
static void
stop_requests_itself(void **state)
{
    Error err = ERROR_INIT;
    int64_t before = clock_ms();
    Stop stop;

    (void)state;
    assert_true(stop_init_after(&stop, 20, &err));
    assert_int_equal(wait_for(-1, 0, LONG_MS, &stop, NULL), WAIT_STOPPED);
    assert_true(clock_ms() - before >= 20);
    assert_true(stop_requested(&stop));
    assert_true(readable(stop.fd));
    assert_false(stop_check(&stop, &err));
    assert_int_equal(err.code, ERR_STOPPED);
    stop_destroy(&stop);
}

static void
stop_waits_for_its_time(void **state)
{
    Error err = ERROR_INIT;
    Stop stop;

    (void)state;
    assert_true(stop_init_after(&stop, LONG_MS, &err));
    assert_false(stop_requested(&stop));
    assert_int_equal(wait_for(-1, 0, 1, &stop, NULL), WAIT_TIMEOUT);
    stop_destroy(&stop);

    /* No time at all has passed at once. */
    assert_true(stop_init_after(&stop, 0, &err));
    assert_int_equal(wait_for(-1, 0, LONG_MS, &stop, NULL), WAIT_STOPPED);
    stop_destroy(&stop);
}

/* Also when its write fails, the interrupted code finds its own errno. */
static void
stop_keeps_errno(void **state)
{
    Stop stop = {.fd = -1};

    (void)state;
    atomic_init(&stop.requested, false);
    errno = 77;
    stop_request(&stop);
    assert_int_equal(errno, 77);
    assert_true(stop_requested(&stop));

    handler_stop = new_stop();
    ticker_start(1, stop_from_handler);
    errno = 78;
    while (!stop_requested(&handler_stop)) {
        if (errno != 78)
            break;
    }
    assert_int_equal(errno, 78);
    ticker_stop();
    stop_destroy(&handler_stop);
}

static void
wait_must_fail(void)
{
    Error err = ERROR_INIT;

    /* poll takes no more entries than there may be descriptors. */
    assert_int_equal(runtime_wait(-1, 0, LONG_MS, NULL, NULL, &err), WAIT_FAILED);
    assert_string_equal(err.message, "could not wait for events: Invalid argument");
    assert_int_equal(err.code, ERR_SYSTEM);
}

static void
wait_fails(void **state)
{
    (void)state;
    without_descriptors(1, wait_must_fail);
}

/* ---- threads ---- */

/* Waits in another thread; the main thread compares after the join. */
typedef struct Waiter {
    const Stop *stop;
    Bell *bell;
    int fd;
    WaitResult result;
    Stop begun;
} Waiter;

static void
run_waiter(void *arg)
{
    Waiter *waiter = arg;
    Error err = ERROR_INIT;

    stop_request(&waiter->begun);
    waiter->result = runtime_wait(waiter->fd, POLLIN, LONG_MS, waiter->stop, waiter->bell, &err);
}

/* Two threads that ring for each other in turns: a ring that is lost ends in a timeout. */
typedef struct Player {
    Bell own;
    Bell *other;
    size_t rings; /* that were heard */
    bool lost;
} Player;

#define ROUNDS 20000

static void
run_player(void *arg)
{
    Player *player = arg;

    for (size_t i = 0; i < ROUNDS && !player->lost; i++) {
        player->lost = wait_for(-1, 0, LONG_MS, NULL, &player->own) != WAIT_WOKEN;
        player->rings += !player->lost;
        bell_ring(player->other);
    }
}

static void
no_ring_is_lost(void **state)
{
    Player one = {.own = new_bell()};
    Player two = {.own = new_bell()};
    Thread threads[2];
    Error err = ERROR_INIT;

    (void)state;
    one.other = &two.own;
    two.other = &one.own;
    bell_ring(&one.own);
    assert_true(thread_start(&threads[0], run_player, &one, &err));
    assert_true(thread_start(&threads[1], run_player, &two, &err));
    thread_join(&threads[0]);
    thread_join(&threads[1]);
    assert_int_equal(one.rings, ROUNDS);
    assert_int_equal(two.rings, ROUNDS);
    /* The last ring of the second one. */
    assert_int_equal(wait_for(-1, 0, 0, NULL, &one.own), WAIT_WOKEN);
    assert_int_equal(wait_for(-1, 0, 0, NULL, &one.own), WAIT_TIMEOUT);
    bell_destroy(&one.own);
    bell_destroy(&two.own);
}

typedef enum Nudge { NUDGE_STOP, NUDGE_BELL, NUDGE_DATA } Nudge;

static void
nudge_a_waiter(Nudge nudge, WaitResult expected)
{
    Stop stop = new_stop();
    Bell bell = new_bell();
    Waiter waiter = {.stop = &stop, .bell = &bell, .result = WAIT_FAILED};
    Thread thread;
    Error err = ERROR_INIT;
    int64_t start = clock_ms();
    int pipes[2];

    assert_int_equal(pipe(pipes), 0);
    waiter.fd = pipes[0];
    waiter.begun = new_stop();
    assert_true(thread_start(&thread, run_waiter, &waiter, &err));
    assert_int_equal(wait_for(-1, 0, LONG_MS, &waiter.begun, NULL), WAIT_STOPPED);
    (void)usleep(20000); /* now it most likely sleeps; if not, the result is the same */
    if (nudge == NUDGE_DATA)
        assert_int_equal(write(pipes[1], "x", 1), 1);
    else if (nudge == NUDGE_BELL)
        bell_ring(&bell);
    else
        stop_request(&stop);
    thread_join(&thread);
    assert_int_equal(waiter.result, expected);
    assert_in_range(clock_ms() - start, 0, LONG_MS - 1);
    assert_int_equal(close(pipes[0]), 0);
    assert_int_equal(close(pipes[1]), 0);
    stop_destroy(&stop);
    bell_destroy(&bell);
    stop_destroy(&waiter.begun);
}

static void
wake_a_waiter_in_another_thread(void **state)
{
    (void)state;
    nudge_a_waiter(NUDGE_STOP, WAIT_STOPPED);
    nudge_a_waiter(NUDGE_BELL, WAIT_WOKEN);
    nudge_a_waiter(NUDGE_DATA, WAIT_READY);
}

/* One stop, many waiters: all of them come back. */
static void
one_stop_for_all(void **state)
{
    Stop stop = new_stop();
    Waiter waiters[8];
    Thread threads[8];
    Error err = ERROR_INIT;

    (void)state;
    for (size_t i = 0; i < 8; i++) {
        waiters[i] = (Waiter){.stop = &stop, .fd = -1, .result = WAIT_FAILED};
        waiters[i].begun = new_stop();
        assert_true(thread_start(&threads[i], run_waiter, &waiters[i], &err));
    }
    stop_request(&stop);
    for (size_t i = 0; i < 8; i++) {
        thread_join(&threads[i]);
        assert_int_equal(waiters[i].result, WAIT_STOPPED);
        stop_destroy(&waiters[i].begun);
    }
    stop_destroy(&stop);
}

static void
count_up(void *arg)
{
    int *count = arg;

    ++*count;
}

static void
start_and_join(void **state)
{
    Thread never = {.running = false};
    Thread thread;
    Error err = ERROR_INIT;
    int count = 0;

    (void)state;
    thread_join(&never);
    for (int i = 1; i <= 3; i++) {
        assert_true(thread_start(&thread, count_up, &count, &err));
        assert_true(thread.running);
        thread_join(&thread);
        assert_int_equal(count, i);
        assert_false(thread.running);
        thread_join(&thread);
    }
}

/* Records which signals its thread would take. */
static void
record_mask(void *arg)
{
    sigset_t *mask = arg;

    (void)pthread_sigmask(SIG_SETMASK, NULL, mask);
}

static void
threads_take_no_signals(void **state)
{
    static const int signals[] = {SIGINT,  SIGTERM, SIGHUP,  SIGQUIT, SIGPIPE,
                                  SIGALRM, SIGCHLD, SIGUSR1, SIGUSR2, SIGXFSZ};
    sigset_t before;
    sigset_t after;
    sigset_t inside;
    Thread thread;
    Error err = ERROR_INIT;

    (void)state;
    (void)pthread_sigmask(SIG_SETMASK, NULL, &before);
    (void)sigemptyset(&inside);
    assert_true(thread_start(&thread, record_mask, &inside, &err));
    thread_join(&thread);
    (void)pthread_sigmask(SIG_SETMASK, NULL, &after);
    for (size_t i = 0; i < sizeof signals / sizeof signals[0]; i++) {
        assert_int_equal(sigismember(&inside, signals[i]), 1);
        assert_int_equal(sigismember(&after, signals[i]), sigismember(&before, signals[i]));
        assert_int_equal(sigismember(&after, signals[i]), 0);
    }
}

static pthread_t handler_thread;

static void
note_thread(int signal_number)
{
    (void)signal_number;
    handler_thread = pthread_self();
    stop_request(&handler_stop);
}

/* A signal for the process reaches the main thread, even while only others are idle. */
static void
signals_reach_the_main_thread(void **state)
{
    Stop end = new_stop();
    Waiter waiter = {.stop = &end, .fd = -1, .result = WAIT_FAILED};
    struct sigaction action = {.sa_handler = note_thread};
    Thread thread;
    Error err = ERROR_INIT;

    (void)state;
    waiter.begun = new_stop();
    handler_stop = new_stop();
    assert_int_equal(sigaction(SIGUSR1, &action, NULL), 0);
    assert_true(thread_start(&thread, run_waiter, &waiter, &err));
    assert_int_equal(wait_for(-1, 0, LONG_MS, &waiter.begun, NULL), WAIT_STOPPED);
    assert_int_equal(kill(getpid(), SIGUSR1), 0);
    assert_int_equal(wait_for(-1, 0, LONG_MS, &handler_stop, NULL), WAIT_STOPPED);
    assert_true(pthread_equal(handler_thread, pthread_self()));
    stop_request(&end);
    thread_join(&thread);
    assert_int_equal(waiter.result, WAIT_STOPPED);
    (void)signal(SIGUSR1, SIG_DFL);
    stop_destroy(&waiter.begun);
    stop_destroy(&handler_stop);
    stop_destroy(&end);
}

/* ---- clocks ---- */

static void
clocks(void **state)
{
    int64_t us = clock_us();
    int64_t ms = clock_ms();
    int64_t last = us;

    (void)state;
    assert_in_range(ms - us / 1000, 0, 10000);
    for (int i = 0; i < 10000; i++) {
        int64_t now = clock_us();

        assert_true(now >= last);
        last = now;
    }
    (void)usleep(2000);
    assert_true(clock_us() - us >= 2000);
    assert_true(clock_ms() - ms >= 1);
}

static void
wall_clock(void **state)
{
    const int64_t year_2000 = 946684800;
    int64_t before = (int64_t)time(NULL);
    int64_t stamp = clock_timestamptz();
    int64_t after = (int64_t)time(NULL);

    (void)state;
    assert_true(stamp / 1000000 + year_2000 >= before - 1);
    assert_true(stamp / 1000000 + year_2000 <= after + 1);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(request_is_final),
        cmocka_unit_test(request_at_a_full_counter),
        cmocka_unit_test(stopped_error),
        cmocka_unit_test(checked_stop),
        cmocka_unit_test(init_fails),
        cmocka_unit_test(ready),
        cmocka_unit_test(priorities),
        cmocka_unit_test(timeouts),
        cmocka_unit_test(signals_do_not_end_a_wait),
        cmocka_unit_test(stop_in_a_signal_handler),
        cmocka_unit_test(stop_requests_itself),
        cmocka_unit_test(stop_waits_for_its_time),
        cmocka_unit_test(stop_keeps_errno),
        cmocka_unit_test(wait_fails),
        cmocka_unit_test(no_ring_is_lost),
        cmocka_unit_test(wake_a_waiter_in_another_thread),
        cmocka_unit_test(one_stop_for_all),
        cmocka_unit_test(start_and_join),
        cmocka_unit_test(threads_take_no_signals),
        cmocka_unit_test(signals_reach_the_main_thread),
        cmocka_unit_test(clocks),
        cmocka_unit_test(wall_clock),
    };

    return cmocka_run_group_tests_name("runtime", tests, NULL, NULL);
}
