/*
 * Threads, stop requests and clocks.
 *
 * A Stop is the one way to end a run early: anything may request it (a signal handler, another
 * thread), everything that waits has its descriptor in its poll set. Requesting is final,
 * idempotent and async-signal-safe. Threads are joined, never detached or cancelled, and run with
 * all signals blocked so that signals reach the main thread only.
 */
#ifndef PGSTOW_RUNTIME_H
#define PGSTOW_RUNTIME_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"

typedef struct Stop {
    int fd; /* an eventfd, or a timer: readable from the request on, for ever */
    atomic_bool requested;
    int64_t deadline_ms; /* of one that requests itself; 0: none */
} Stop;

bool stop_init(Stop *stop, Error *err) MUST_USE;

/* One that requests itself when `ms` have passed, and that nobody else requests: a time limit for
 * whatever takes a Stop. */
bool stop_init_after(Stop *stop, int64_t ms, Error *err) MUST_USE;
void stop_destroy(Stop *stop);
void stop_request(Stop *stop);
bool stop_requested(const Stop *stop);

/* ERR_STOPPED, "stopped". */
bool error_set_stopped(Error *err);
#define error_set_stopped(err) error_false(error_set_stopped(err))

/* False, with that error, when `stop` (NULL: never) is requested. */
bool stop_check(const Stop *stop, Error *err) MUST_USE;

/*
 * A bell wakes one thread that waits, and may be rung again: any thread rings, one listens. Rings
 * that nobody has heard yet are one.
 */
typedef struct Bell {
    int fd;              /* an eventfd */
    atomic_bool rung;    /* and not heard */
    atomic_bool awaited; /* by one who waits, or is about to: who rings wakes it through the fd */
} Bell;

bool bell_init(Bell *bell, Error *err) MUST_USE;
void bell_destroy(Bell *bell);
void bell_ring(Bell *bell);

typedef enum WaitResult {
    WAIT_READY,   /* the descriptor is ready */
    WAIT_TIMEOUT, /* nothing happened in time */
    WAIT_STOPPED, /* `stop` was requested */
    WAIT_WOKEN,   /* `bell` was rung, `stop` was not requested; the bell is silent again */
    WAIT_FAILED   /* poll failed; err is set */
} WaitResult;

/*
 * Wait until `fd` (-1: none) is ready for `events` (POLLIN, POLLOUT), `stop` is requested, `bell`
 * is rung (each may be NULL) or `timeout_ms` (-1: for ever) has passed. A requested stop wins over
 * the bell, and that over readiness.
 */
WaitResult runtime_wait(int fd, short events, int64_t timeout_ms, const Stop *stop, Bell *bell,
                        Error *err) MUST_USE;

typedef struct Thread {
    pthread_t id;
    bool running;
    void (*run)(void *arg);
    void *arg;
} Thread;

/* `thread` stays where it is until joined. */
bool thread_start(Thread *thread, void (*run)(void *arg), void *arg, Error *err) MUST_USE;

/* Wait for its end; nothing happens when it was never started or is joined already. */
void thread_join(Thread *thread);

/* A condition for waits with a limit: by the clock that nobody sets. It can only fill in memory. */
void cond_init(pthread_cond_t *cond);

/* What pthread_cond_timedwait is given for one of those: so long from now. */
struct timespec cond_deadline(int64_t ms);

/*
 * With the mutex: waits, as pthread_cond_wait does. After each second in which nothing has happened
 * `ask` (NULL: nobody) is called without the mutex; false when it says so, with its Error.
 */
bool cond_wait_asking(pthread_cond_t *cond, pthread_mutex_t *mutex,
                      bool (*ask)(void *ctx, Error *err), void *ctx, Error *err) MUST_USE;

/* Milliseconds and microseconds of a clock that never jumps. */
int64_t clock_ms(void);
int64_t clock_us(void);

/* Wall clock as PostgreSQL's TimestampTz: microseconds since 2000-01-01 00:00:00 UTC. */
int64_t clock_timestamptz(void);

#endif
