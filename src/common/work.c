/*
 * Threads take the long jobs, then the next one as long as fewer than `ahead` are before it and not
 * taken; the calling thread waits for the oldest of those, takes it, and so makes room for another
 * one. A failure ends the beginning of jobs, but not the taking: those before it may still fail, or
 * be enough.
 */
#include "common/work.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <unistd.h>

#include "common/bytes.h"

#define TICK_MS          100
#define AHEAD_PER_THREAD ((size_t)4)

typedef struct Worker {
    struct Pool *pool;
    Thread thread;
    WorkSlot slot;
} Worker;

typedef enum JobState { JOB_LATER, JOB_FIRST, JOB_DONE } JobState;

typedef struct Pool {
    const Work *work;
    Worker *workers;
    size_t worker_count; /* that run */
    size_t ahead;
    int64_t tick_ms; /* when the last tick was; the calling thread's */
    atomic_bool ending;

    /* ---- shared, with the mutex ---- */
    pthread_mutex_t mutex;
    pthread_cond_t room;  /* for the workers: a job may be begun, or it ends */
    pthread_cond_t ended; /* for the calling thread: a job has ended */
    size_t next_first;    /* of work->first, the one to begin */
    size_t next;          /* of the others, the job to begin; may be one of work->first */
    size_t taken;         /* so many */
    JobState *states;     /* of all jobs */
    size_t failed;        /* the first job that did; the number of jobs: none */
    Error failure;
} Pool;

/* ---- the calling thread ---- */

static void
tick(Pool *pool)
{
    int64_t now = clock_ms();

    if (pool->work->tick == NULL || now - pool->tick_ms < TICK_MS)
        return;
    pool->tick_ms = now;
    pool->work->tick(pool->work->ctx);
}

static bool
run_alone(Pool *pool, Error *err)
{
    const Work *work = pool->work;
    const WorkSlot slot = {.index = 0, .ending = &pool->ending};

    for (size_t job = 0; job < work->count; job++) {
        WorkNext next;

        if (!stop_check(work->stop, err) || !work->run(work->ctx, &slot, job, err))
            return false;
        next = work->take(work->ctx, job, err);
        if (next != WORK_GO_ON)
            return next == WORK_ENOUGH;
        tick(pool);
    }
    return true;
}

/* ---- a worker ---- */

/* With the mutex, like the next one. Whether there is one, after passing over what is not to be
 * begun any more, or was. */
static bool
has_first(Pool *pool)
{
    const Work *work = pool->work;

    while (pool->next_first < work->first_count && work->first[pool->next_first] >= pool->failed)
        pool->next_first++;
    return pool->next_first < work->first_count;
}

static bool
has_next(Pool *pool)
{
    while (pool->next < pool->failed && pool->states[pool->next] != JOB_LATER)
        pool->next++;
    return pool->next < pool->failed;
}

/* False: there is nothing more to do. */
static bool
begin_job(Pool *pool, size_t *ret_job)
{
    bool begun = false;

    (void)pthread_mutex_lock(&pool->mutex);
    while (!atomic_load(&pool->ending) && !has_first(pool) && has_next(pool) &&
           pool->next - pool->taken >= pool->ahead)
        (void)pthread_cond_wait(&pool->room, &pool->mutex);
    if (!atomic_load(&pool->ending) && (has_first(pool) || has_next(pool))) {
        *ret_job = has_first(pool) ? pool->work->first[pool->next_first++] : pool->next++;
        begun = true;
    }
    (void)pthread_mutex_unlock(&pool->mutex);
    return begun;
}

static void
end_job(Pool *pool, size_t job, bool ok, const Error *failure)
{
    (void)pthread_mutex_lock(&pool->mutex);
    pool->states[job] = JOB_DONE;
    if (!ok && job < pool->failed) {
        pool->failed = job;
        pool->failure = *failure;
        (void)pthread_cond_broadcast(&pool->room);
    }
    (void)pthread_cond_signal(&pool->ended);
    (void)pthread_mutex_unlock(&pool->mutex);
}

static void
worker_main(void *arg)
{
    const Worker *worker = arg;
    Pool *pool = worker->pool;
    size_t job;

    while (begin_job(pool, &job)) {
        Error failure = ERROR_INIT;
        bool ok = pool->work->run(pool->work->ctx, &worker->slot, job, &failure);

        end_job(pool, job, ok, &failure);
    }
}

/* ---- taking, with workers ---- */

/* Until it has ended, or for the time of a tick. */
static bool
wait_for(Pool *pool, size_t job)
{
    const struct timespec until = cond_deadline(TICK_MS);
    const JobState *state = &pool->states[job];
    bool ended;

    (void)pthread_mutex_lock(&pool->mutex);
    while (*state != JOB_DONE &&
           pthread_cond_timedwait(&pool->ended, &pool->mutex, &until) != ETIMEDOUT)
        ;
    ended = *state == JOB_DONE;
    (void)pthread_mutex_unlock(&pool->mutex);
    return ended;
}

static bool
await(Pool *pool, size_t job, Error *err)
{
    bool ended;

    do {
        if (!stop_check(pool->work->stop, err))
            return false;
        ended = wait_for(pool, job);
        tick(pool);
    } while (!ended);
    return true;
}

static bool
job_failed(Pool *pool, size_t job, Error *err)
{
    bool failed;

    (void)pthread_mutex_lock(&pool->mutex);
    failed = job == pool->failed;
    if (failed)
        *err = pool->failure;
    (void)pthread_mutex_unlock(&pool->mutex);
    return failed;
}

static void
make_room(Pool *pool, size_t job)
{
    (void)pthread_mutex_lock(&pool->mutex);
    pool->taken = job + 1;
    (void)pthread_cond_signal(&pool->room);
    (void)pthread_mutex_unlock(&pool->mutex);
}

static bool
take_jobs(Pool *pool, Error *err)
{
    const Work *work = pool->work;

    for (size_t job = 0; job < work->count; job++) {
        WorkNext next;

        if (!await(pool, job, err) || job_failed(pool, job, err))
            return false;
        next = work->take(work->ctx, job, err);
        if (next != WORK_GO_ON)
            return next == WORK_ENOUGH;
        make_room(pool, job);
    }
    return true;
}

/* ---- the pool ---- */

/* With as many threads as can be had: what comes of the work does not depend on their number. */
static void
start_workers(Pool *pool, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        Worker *worker = &pool->workers[i];
        Error refused = ERROR_INIT;

        *worker = (Worker){.pool = pool, .slot = {.index = i, .ending = &pool->ending}};
        if (!thread_start(&worker->thread, worker_main, worker, &refused))
            return;
        pool->worker_count++;
    }
}

static void
end_workers(Pool *pool)
{
    (void)pthread_mutex_lock(&pool->mutex);
    atomic_store(&pool->ending, true);
    (void)pthread_cond_broadcast(&pool->room);
    (void)pthread_mutex_unlock(&pool->mutex);
    for (size_t i = 0; i < pool->worker_count; i++)
        thread_join(&pool->workers[i].thread);
}

static bool
run_workers(Pool *pool, size_t count, Error *err)
{
    bool ok;

    start_workers(pool, count);
    ok = pool->worker_count > 0 ? take_jobs(pool, err) : run_alone(pool, err);
    end_workers(pool);
    return ok;
}

static void
pool_init(Pool *pool, const Work *work)
{
    *pool = (Pool){.work = work, .failed = work->count, .tick_ms = clock_ms()};
    atomic_init(&pool->ending, false);
    (void)pthread_mutex_init(&pool->mutex, NULL);
    (void)pthread_cond_init(&pool->room, NULL);
    cond_init(&pool->ended);
}

static JobState *
make_states(const Work *work, Error *err)
{
    JobState *states = mem_zero(work->count * sizeof *states, err);

    for (size_t i = 0; states != NULL && i < work->first_count; i++)
        states[work->first[i]] = JOB_FIRST;
    return states;
}

static void
pool_destroy(Pool *pool)
{
    free(pool->workers);
    free(pool->states);
    (void)pthread_cond_destroy(&pool->room);
    (void)pthread_cond_destroy(&pool->ended);
    (void)pthread_mutex_destroy(&pool->mutex);
}

bool
work_run(const Work *work, Error *err)
{
    size_t threads = work->threads < work->count ? work->threads : work->count;
    Pool pool;
    bool ok;

    pool_init(&pool, work);
    pool.ahead = work->ahead > 0 ? work->ahead : threads * AHEAD_PER_THREAD;
    if (threads <= 1) {
        ok = run_alone(&pool, err);
    } else {
        pool.workers = mem_zero(threads * sizeof *pool.workers, err);
        pool.states = pool.workers == NULL ? NULL : make_states(work, err);
        ok = pool.states != NULL && run_workers(&pool, threads, err);
    }
    pool_destroy(&pool);
    return ok;
}

size_t
work_processors(void)
{
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    cpu_set_t set;

    if (sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) > 0)
        return (size_t)CPU_COUNT(&set);
    return online > 0 ? (size_t)online : 1;
}
