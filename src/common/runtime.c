#include "common/runtime.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

/* ---- stop ---- */

bool
stop_init(Stop *stop, Error *err)
{
    atomic_init(&stop->requested, false);
    stop->deadline_ms = 0;
    stop->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (stop->fd < 0)
        return error_set_errno(err, errno, "could not create an event descriptor");
    return true;
}

bool
stop_init_after(Stop *stop, int64_t ms, Error *err)
{
    /* A timer set to nothing would never go off. */
    const int64_t wait_ms = ms > 0 ? ms : 1;
    const struct itimerspec when = {
        .it_value = {.tv_sec = wait_ms / 1000, .tv_nsec = wait_ms % 1000 * 1000000}};

    atomic_init(&stop->requested, false);
    stop->deadline_ms = clock_ms() + wait_ms;
    stop->fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    if (stop->fd < 0)
        return error_set_errno(err, errno, "could not create a timer");
    if (timerfd_settime(stop->fd, 0, &when, NULL) != 0) {
        (void)error_set_errno(err, errno, "could not set a timer");
        stop_destroy(stop);
        return false;
    }
    return true;
}

void
stop_destroy(Stop *stop)
{
    if (stop->fd >= 0)
        (void)close(stop->fd);
    stop->fd = -1;
}

void
stop_request(Stop *stop)
{
    int saved_errno = errno; /* we may be in a signal handler */
    uint64_t one = 1;

    atomic_store(&stop->requested, true);
    /* It can only fail when the counter is full, and then it is readable already. */
    ssize_t written UNUSED = write(stop->fd, &one, sizeof one);

    errno = saved_errno;
}

bool
stop_requested(const Stop *stop)
{
    return atomic_load(&stop->requested) ||
           (stop->deadline_ms != 0 && clock_ms() >= stop->deadline_ms);
}

/* ---- bell ---- */

bool
bell_init(Bell *bell, Error *err)
{
    atomic_init(&bell->rung, false);
    atomic_init(&bell->awaited, false);
    bell->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (bell->fd < 0)
        return error_set_errno(err, errno, "could not create an event descriptor");
    return true;
}

void
bell_destroy(Bell *bell)
{
    if (bell->fd >= 0)
        (void)close(bell->fd);
    bell->fd = -1;
}

/* First `rung`, then `awaited`; who waits does it the other way round. So one sees the other, and
 * only who really waits costs a system call. */
void
bell_ring(Bell *bell)
{
    uint64_t one = 1;

    atomic_store(&bell->rung, true);
    if (atomic_load(&bell->awaited)) {
        /* It can only fail when the counter is full, and then the bell is ringing already. */
        ssize_t written UNUSED = write(bell->fd, &one, sizeof one);
    }
}

/* Whether it was rung since it was heard last. */
static bool
bell_heard(Bell *bell)
{
    return bell != NULL && atomic_exchange(&bell->rung, false);
}

/* What woke us does so no more; it may be of a ring that was heard already. */
static void
bell_silence(const Bell *bell)
{
    uint64_t rings;
    ssize_t got UNUSED = read(bell->fd, &rings, sizeof rings);
}

#undef error_set_stopped
bool
error_set_stopped(Error *err)
{
    return error_set(err, ERR_STOPPED, "stopped");
}

bool
stop_check(const Stop *stop, Error *err)
{
    return stop == NULL || !stop_requested(stop) || error_set_stopped(err);
}

/* ---- waiting ---- */

/* What is left of a wait that began at `start`, as poll takes it. */
static int
poll_timeout(int64_t timeout_ms, int64_t start)
{
    int64_t left;

    if (timeout_ms < 0)
        return -1;
    left = timeout_ms - (clock_ms() - start);
    if (left < 0)
        return 0;
    return left > INT_MAX ? INT_MAX : (int)left;
}

static WaitResult
wait_for(int fd, short events, int64_t timeout_ms, const Stop *stop, Bell *bell, Error *err)
{
    struct pollfd fds[3] = {{.fd = fd, .events = events},
                            {.fd = stop == NULL ? -1 : stop->fd, .events = POLLIN},
                            {.fd = bell == NULL ? -1 : bell->fd, .events = POLLIN}};
    int64_t start = clock_ms();

    for (;;) {
        bool rung = bell != NULL && atomic_load(&bell->rung);
        int ready = rung ? 0 : poll(fds, 3, poll_timeout(timeout_ms, start));

        if (ready < 0 && errno != EINTR) {
            (void)error_set_errno(err, errno, "could not wait for events");
            return WAIT_FAILED;
        }
        if (stop != NULL && stop_requested(stop))
            return WAIT_STOPPED;
        if (bell != NULL && ready > 0 && fds[2].revents != 0) {
            bell_silence(bell);
            ready--;
        }
        if (bell_heard(bell))
            return WAIT_WOKEN;
        if (ready > 0)
            return WAIT_READY;
        if (ready == 0 && poll_timeout(timeout_ms, start) == 0)
            return WAIT_TIMEOUT; /* all of it, which may be more than poll can wait at once */
    }
}

WaitResult
runtime_wait(int fd, short events, int64_t timeout_ms, const Stop *stop, Bell *bell, Error *err)
{
    WaitResult result;

    if (bell != NULL)
        atomic_store(&bell->awaited, true);
    result = wait_for(fd, events, timeout_ms, stop, bell, err);
    if (bell != NULL)
        atomic_store(&bell->awaited, false);
    return result;
}

/* ---- threads ---- */

static void *
thread_main(void *arg)
{
    Thread *thread = arg;

    thread->run(thread->arg);
    return NULL;
}

bool
thread_start(Thread *thread, void (*run)(void *arg), void *arg, Error *err)
{
    sigset_t all;
    sigset_t before;
    int failure;

    *thread = (Thread){.run = run, .arg = arg};
    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &before);
    failure = pthread_create(&thread->id, NULL, thread_main, thread);
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (failure != 0)
        return error_set_errno(err, failure, "could not start a thread");
    thread->running = true;
    return true;
}

void
thread_join(Thread *thread)
{
    if (!thread->running)
        return;
    (void)pthread_join(thread->id, NULL);
    thread->running = false;
}

/* ---- clocks ---- */

/* ---- conditions ---- */

#define ASK_INTERVAL_MS 1000

void
cond_init(pthread_cond_t *cond)
{
    pthread_condattr_t monotonic;

    /* None of these can fail on Linux. */
    (void)pthread_condattr_init(&monotonic);
    (void)pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    (void)pthread_cond_init(cond, &monotonic);
    (void)pthread_condattr_destroy(&monotonic);
}

struct timespec
cond_deadline(int64_t ms)
{
    struct timespec when;

    (void)clock_gettime(CLOCK_MONOTONIC, &when);
    when.tv_sec += ms / 1000;
    when.tv_nsec += ms % 1000 * 1000000;
    if (when.tv_nsec >= 1000000000) {
        when.tv_nsec -= 1000000000;
        when.tv_sec++;
    }
    return when;
}

bool
cond_wait_asking(pthread_cond_t *cond, pthread_mutex_t *mutex, bool (*ask)(void *ctx, Error *err),
                 void *ctx, Error *err)
{
    const struct timespec until = cond_deadline(ASK_INTERVAL_MS);
    bool ok;

    if (ask == NULL) {
        (void)pthread_cond_wait(cond, mutex);
        return true;
    }
    if (pthread_cond_timedwait(cond, mutex, &until) != ETIMEDOUT)
        return true;
    (void)pthread_mutex_unlock(mutex);
    ok = ask(ctx, err);
    (void)pthread_mutex_lock(mutex);
    return ok;
}

/* ---- clocks ---- */

int64_t
clock_us(void)
{
    struct timespec now;

    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

int64_t
clock_ms(void)
{
    return clock_us() / 1000;
}

int64_t
clock_timestamptz(void)
{
    const int64_t epoch_2000 = 946684800; /* Unix seconds of 2000-01-01 00:00:00 UTC */
    struct timespec now;

    (void)clock_gettime(CLOCK_REALTIME, &now);
    return ((int64_t)now.tv_sec - epoch_2000) * 1000000 + now.tv_nsec / 1000;
}
