/*
 * Complete segments get their names.
 *
 *   written --sync--> synced --prepare--> ready --publish--> gone
 *
 * Once it is synced, it is safe: a FLUSH need not wait for more. A segment that is compressed is
 * not synced before, for its own file is not to last, and may not even have one: but a FLUSH makes
 * it and syncs it, while others compress it. The work itself is segment_job.c's.
 *
 * The segments are in a ring, in the order in which they came. Threads take steps: publishing comes
 * first, by one thread at a time and from the front on, all that is ready at once, so that several
 * segments may share one sync of the directory; then syncs, then preparing, in any order. The
 * thread that adds segments takes syncs as well while it waits for them: all others may be
 * compressing.
 *
 * A slot of the ring belongs to the thread that takes its step; only `stage` is shared, with the
 * mutex; and a segment's file, as long as it is held, belongs to the FLUSH. The first failure ends
 * all steps; the segments stay what they are.
 *
 * The memory of segments goes round: it is lent, comes with a segment, and is free again when that
 * has its name. New memory costs a page fault for each of its pages, as much as copying into it.
 */
#include <stdlib.h>
#include <unistd.h>

#include "common/file.h"
#include "common/runtime.h"
#include "walrecv/internal.h"

#define THREADS_MAX ((size_t)4)

/* One of them can go on while the other waits for the disk. */
#define THREADS_PLAIN ((size_t)2)

/* One for each thread, one that is being gathered, and one that is about to get its name. */
#define MEMORY_MAX (THREADS_MAX + 2)

typedef enum JobStage {
    JOB_WRITTEN,
    JOB_SYNCING,
    JOB_SYNCED,
    JOB_PREPARING,
    JOB_READY,
} JobStage;

/* The room for the next segment. */
typedef enum RoomStage { ROOM_NONE, ROOM_WANTED, ROOM_MAKING, ROOM_READY, ROOM_FAILED } RoomStage;

typedef struct Job {
    SegmentJob work;
    JobStage stage;
    bool unsynced; /* begins as JOB_SYNCED, but is safe only when its name is on disk, or when it
                    * was synced for a FLUSH that does not wait for that */
    bool held;     /* by the thread that does so: its file is not to be removed meanwhile */
} Job;

typedef struct Worker {
    Completion *completion;
    Thread thread;
    SegmentTools tools;
} Worker;

struct Completion {
    const WalDirConfig *config;
    Worker workers[THREADS_MAX];
    size_t worker_count;

    /* ---- shared, with the mutex; `ending` also without ---- */
    pthread_mutex_t mutex;
    pthread_cond_t moved; /* something of this has changed */
    Job jobs[COMPLETION_QUEUE];
    size_t first;
    size_t count;
    bool publishing; /* a thread is at it */
    RoomStage room_stage;
    int room;                    /* ROOM_READY: the file; otherwise -1 */
    uint8_t *memory[MEMORY_MAX]; /* what is free of it: */
    size_t memory_free;
    size_t memory_made;
    size_t memory_max;  /* 0: segments are not gathered */
    bool failed;        /* then: */
    Error failure;      /* the first one */
    atomic_bool ending; /* no more steps: a failure, or the end */
};

/* ---- publish ---- */

static Job *
job_at(Completion *completion, size_t index)
{
    return &completion->jobs[(completion->first + index) % COMPLETION_QUEUE];
}

/* Their names are on disk: no FLUSH makes their files any more, and none is at it. */
static void
note_safe(Completion *completion, size_t count)
{
    (void)pthread_mutex_lock(&completion->mutex);
    for (size_t i = 0; i < count; i++) {
        while (job_at(completion, i)->held)
            (void)pthread_cond_wait(&completion->moved, &completion->mutex);
        job_at(completion, i)->unsynced = false;
    }
    (void)pthread_cond_broadcast(&completion->moved);
    (void)pthread_mutex_unlock(&completion->mutex);
}

/* The first `count` jobs; `first` does not move meanwhile. */
static bool
publish(Completion *completion, size_t count, Error *err)
{
    const WalDirConfig *config = completion->config;

    for (size_t i = 0; i < count; i++) {
        if (!segment_job_name(&job_at(completion, i)->work, config, err))
            return false;
    }
    if (!wal_dir_sync_names(config, err))
        return false;
    note_safe(completion, count);
    for (size_t i = 0; i < count; i++) {
        if (!segment_job_conclude(&job_at(completion, i)->work, config, err))
            return false;
    }
    return true;
}

/* ---- steps ---- */

typedef enum StepKind { STEP_NONE, STEP_PUBLISH, STEP_SYNC, STEP_PREPARE, STEP_ROOM } StepKind;

typedef struct Step {
    StepKind kind;
    Job *job;     /* SYNC, PREPARE */
    size_t count; /* PUBLISH: so many from the front */
} Step;

/* With the mutex, like all of these up to the line. */
static Job *
find_job(Completion *completion, JobStage stage)
{
    for (size_t i = 0; i < completion->count; i++) {
        if (job_at(completion, i)->stage == stage)
            return job_at(completion, i);
    }
    return NULL;
}

static size_t
count_ready(Completion *completion)
{
    size_t ready = 0;

    while (ready < completion->count && job_at(completion, ready)->stage == JOB_READY)
        ready++;
    return ready;
}

/* The step becomes this thread's. */
static Step
take_step(Completion *completion)
{
    Step step = {.kind = STEP_NONE, .count = count_ready(completion)};

    if (step.count > 0 && !completion->publishing) {
        completion->publishing = true;
        step.kind = STEP_PUBLISH;
    } else if ((step.job = find_job(completion, JOB_WRITTEN)) != NULL) {
        step.job->stage = JOB_SYNCING;
        step.kind = STEP_SYNC;
    } else if ((step.job = find_job(completion, JOB_SYNCED)) != NULL) {
        step.job->stage = JOB_PREPARING;
        step.kind = STEP_PREPARE;
    } else if (completion->room_stage == ROOM_WANTED) {
        completion->room_stage = ROOM_MAKING;
        step.kind = STEP_ROOM;
    }
    return step;
}

static void
free_memory(Completion *completion, uint8_t *bytes)
{
    if (bytes != NULL)
        completion->memory[completion->memory_free++] = bytes;
}

/* The first `count` jobs have left the ring. */
static void
note_published(Completion *completion, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        SegmentJob *work = &job_at(completion, i)->work;

        free_memory(completion, work->segment.bytes);
        segment_job_free(work);
    }
    completion->publishing = false;
    completion->first = (completion->first + count) % COMPLETION_QUEUE;
    completion->count -= count;
}

/* The step was taken with success. */
static void
note_step(Completion *completion, const Step *step)
{
    switch (step->kind) {
    case STEP_PUBLISH:
        note_published(completion, step->count);
        break;
    case STEP_SYNC:
        step->job->stage = JOB_SYNCED;
        break;
    case STEP_PREPARE:
        step->job->stage = JOB_READY;
        break;
    case STEP_ROOM:
    case STEP_NONE:
        break;
    }
    (void)pthread_cond_broadcast(&completion->moved);
}

static void
note_failure(Completion *completion, const Error *failure)
{
    if (!completion->failed) {
        completion->failure = *failure;
        completion->failed = true;
    }
    atomic_store(&completion->ending, true);
    (void)pthread_cond_broadcast(&completion->moved);
}

/* ---- the threads ---- */

static void
make_room(Completion *completion)
{
    int room = segment_room_make(completion->config, &completion->ending);

    (void)pthread_mutex_lock(&completion->mutex);
    completion->room = room;
    completion->room_stage = room < 0 ? ROOM_FAILED : ROOM_READY; /* a failure is not tried again */
    (void)pthread_mutex_unlock(&completion->mutex);
}

static bool
do_step(const Worker *worker, const Step *step, Error *err)
{
    switch (step->kind) {
    case STEP_PUBLISH:
        return publish(worker->completion, step->count, err);
    case STEP_SYNC:
        return segment_job_sync(&step->job->work, worker->completion->config, err);
    case STEP_PREPARE:
        return segment_job_prepare(&step->job->work, &worker->tools, err);
    case STEP_ROOM:
        make_room(worker->completion);
        return true;
    case STEP_NONE:
        break;
    }
    return true;
}

/* Waits for one; false at the end. */
static bool
await_step(Completion *completion, Step *ret_step)
{
    bool found = false;

    (void)pthread_mutex_lock(&completion->mutex);
    while (!found && !atomic_load(&completion->ending)) {
        *ret_step = take_step(completion);
        found = ret_step->kind != STEP_NONE;
        if (!found)
            (void)pthread_cond_wait(&completion->moved, &completion->mutex);
    }
    (void)pthread_mutex_unlock(&completion->mutex);
    return found;
}

static void
run_worker(void *arg)
{
    const Worker *worker = arg;
    Completion *completion = worker->completion;
    Step step;

    while (await_step(completion, &step)) {
        Error err = ERROR_INIT;
        bool ok = do_step(worker, &step, &err);

        (void)pthread_mutex_lock(&completion->mutex);
        if (ok)
            note_step(completion, &step);
        else
            note_failure(completion, &err);
        (void)pthread_mutex_unlock(&completion->mutex);
    }
}

/* ---- the thread that adds ---- */

bool
completion_check(Completion *completion, Error *err)
{
    bool ok;

    if (!atomic_load(&completion->ending))
        return true;
    (void)pthread_mutex_lock(&completion->mutex);
    ok = !completion->failed;
    if (!ok)
        *err = completion->failure;
    (void)pthread_mutex_unlock(&completion->mutex);
    return ok;
}

/* Wait until `reached`, or a failure. */
static bool
await(Completion *completion, bool (*reached)(Completion *completion), Error *err)
{
    (void)pthread_mutex_lock(&completion->mutex);
    while (!reached(completion) && !atomic_load(&completion->ending))
        (void)pthread_cond_wait(&completion->moved, &completion->mutex);
    (void)pthread_mutex_unlock(&completion->mutex);
    return completion_check(completion, err);
}

static bool
has_free_slot(Completion *completion)
{
    return completion->count < COMPLETION_QUEUE;
}

static bool
is_empty(Completion *completion)
{
    return completion->count == 0;
}

/* Of those that are compressed the last one: the first ones may have their names soon. */
static Job *
find_unsynced(Completion *completion)
{
    Job *last = NULL;

    for (size_t i = 0; i < completion->count; i++) {
        Job *job = job_at(completion, i);

        if (job->stage == JOB_WRITTEN)
            return job;
        if (job->unsynced)
            last = job;
    }
    return last;
}

static bool
is_synced(Completion *completion)
{
    return find_unsynced(completion) == NULL && find_job(completion, JOB_SYNCING) == NULL;
}

static bool
has_memory(Completion *completion)
{
    return completion->memory_free > 0 || completion->memory_made < completion->memory_max;
}

/* One that is free, or NULL: one more is to be made. */
static uint8_t *
take_memory(Completion *completion)
{
    uint8_t *bytes = NULL;

    (void)pthread_mutex_lock(&completion->mutex);
    if (completion->memory_free > 0)
        bytes = completion->memory[--completion->memory_free];
    else
        completion->memory_made++;
    (void)pthread_mutex_unlock(&completion->mutex);
    return bytes;
}

bool
completion_lend_memory(Completion *completion, uint8_t **ret_bytes, Error *err)
{
    uint8_t *bytes = NULL;

    if (completion->memory_max > 0) {
        if (!await(completion, has_memory, err))
            return false;
        bytes = take_memory(completion);
        if (bytes == NULL)
            bytes = mem_alloc(completion->config->segment_size, err);
        if (bytes == NULL)
            return false;
    }
    *ret_bytes = bytes;
    return true;
}

void
completion_return_memory(Completion *completion, uint8_t *bytes)
{
    (void)pthread_mutex_lock(&completion->mutex);
    free_memory(completion, bytes);
    (void)pthread_cond_broadcast(&completion->moved);
    (void)pthread_mutex_unlock(&completion->mutex);
}

bool
completion_add(Completion *completion, const CompleteSegment *segment, Error *err)
{
    bool durable = completion->config->sync == WAL_DURABLE;
    bool compressed = completion->config->compression.method != COMPRESSION_NONE;

    if (!await(completion, has_free_slot, err)) {
        SegmentFile file = segment->file;

        segment_file_free(&file);
        completion_return_memory(completion, segment->bytes);
        return false;
    }
    (void)pthread_mutex_lock(&completion->mutex);
    *job_at(completion, completion->count) =
        (Job){.work = {.segment = *segment},
              .stage = durable && !compressed ? JOB_WRITTEN : JOB_SYNCED,
              .unsynced = durable && compressed};
    completion->count++;
    (void)pthread_cond_broadcast(&completion->moved);
    (void)pthread_mutex_unlock(&completion->mutex);
    return true;
}

/* One whose sync nobody has begun with; NULL: there is none. It is held. */
static Job *
take_sync(Completion *completion)
{
    Job *job;

    (void)pthread_mutex_lock(&completion->mutex);
    job = find_unsynced(completion);
    if (job != NULL) {
        if (job->stage == JOB_WRITTEN)
            job->stage = JOB_SYNCING;
        job->held = true;
    }
    (void)pthread_mutex_unlock(&completion->mutex);
    return job;
}

static void
release_sync(Completion *completion, Job *job, bool synced)
{
    (void)pthread_mutex_lock(&completion->mutex);
    if (synced && job->stage == JOB_SYNCING)
        job->stage = JOB_SYNCED;
    job->unsynced = job->unsynced && !synced;
    job->held = false;
    (void)pthread_cond_broadcast(&completion->moved);
    (void)pthread_mutex_unlock(&completion->mutex);
}

bool
completion_sync(Completion *completion, Error *err)
{
    Job *job;

    while (completion_check(completion, err) && (job = take_sync(completion)) != NULL) {
        bool ok = segment_job_sync(&job->work, completion->config, err);

        release_sync(completion, job, ok);
        if (!ok)
            return false;
    }
    return await(completion, is_synced, err);
}

bool
completion_drain(Completion *completion, Error *err)
{
    return await(completion, is_empty, err);
}

void
completion_want_room(Completion *completion)
{
    (void)pthread_mutex_lock(&completion->mutex);
    if (completion->room_stage == ROOM_NONE) {
        completion->room_stage = ROOM_WANTED;
        (void)pthread_cond_broadcast(&completion->moved);
    }
    (void)pthread_mutex_unlock(&completion->mutex);
}

static bool
has_decided_room(Completion *completion)
{
    return completion->room_stage != ROOM_WANTED && completion->room_stage != ROOM_MAKING;
}

bool
completion_await_room(Completion *completion, Error *err)
{
    return await(completion, has_decided_room, err);
}

int
completion_take_room(Completion *completion)
{
    int room;

    (void)pthread_mutex_lock(&completion->mutex);
    room = completion->room;
    if (completion->room_stage == ROOM_READY) {
        completion->room = -1;
        completion->room_stage = ROOM_NONE;
    }
    (void)pthread_mutex_unlock(&completion->mutex);
    return room;
}

/* ---- making and ending ---- */

static size_t
threads_for(const WalDirConfig *config)
{
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    size_t threads = cores < 0 ? 0 : (size_t)cores;

    if (config->compression.method == COMPRESSION_NONE || threads < THREADS_PLAIN)
        return THREADS_PLAIN;
    return threads < THREADS_MAX ? threads : THREADS_MAX;
}

size_t
completion_memory_for(const WalDirConfig *config)
{
    bool gathers = config->compression.method != COMPRESSION_NONE && config->sync == WAL_DURABLE &&
                   !config->write_ahead && config->segment_size <= COMPLETION_MEMORY_MAX;

    return gathers ? threads_for(config) + 2 : 0;
}

static bool
start_worker(Completion *completion, Error *err)
{
    Worker *worker = &completion->workers[completion->worker_count++];

    worker->completion = completion;
    return segment_tools_init(&worker->tools, completion->config, &completion->ending, err) &&
           thread_start(&worker->thread, run_worker, worker, err);
}

Completion *
completion_new(const WalDirConfig *config, Error *err)
{
    const size_t threads = threads_for(config);
    Completion *completion = mem_zero(sizeof *completion, err);

    if (completion == NULL)
        return NULL;
    /* None of these can fail on Linux: they only fill in memory. */
    (void)pthread_mutex_init(&completion->mutex, NULL);
    (void)pthread_cond_init(&completion->moved, NULL);
    atomic_init(&completion->ending, false);
    completion->config = config;
    completion->room = -1;
    completion->memory_max = completion_memory_for(config);
    while (completion->worker_count < threads) {
        if (!start_worker(completion, err)) {
            completion_free(completion);
            return NULL;
        }
    }
    return completion;
}

void
completion_halt(Completion *completion)
{
    (void)pthread_mutex_lock(&completion->mutex);
    atomic_store(&completion->ending, true);
    (void)pthread_cond_broadcast(&completion->moved);
    (void)pthread_mutex_unlock(&completion->mutex);
    for (size_t i = 0; i < completion->worker_count; i++)
        thread_join(&completion->workers[i].thread);
}

void
completion_free(Completion *completion)
{
    if (completion == NULL)
        return;
    completion_halt(completion);
    for (size_t i = 0; i < completion->worker_count; i++)
        segment_tools_free(&completion->workers[i].tools);
    note_published(completion, completion->count);
    for (size_t i = 0; i < completion->memory_free; i++)
        free(completion->memory[i]);
    file_close_quietly(completion->room);
    (void)pthread_cond_destroy(&completion->moved);
    (void)pthread_mutex_destroy(&completion->mutex);
    free(completion);
}
