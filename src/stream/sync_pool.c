/*
 * sync_pool: fsync is where a durable backup waits, once per file, for the disk; a few threads wait
 * at the same time, and the disk gets several requests to order.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "common/file.h"
#include "common/runtime.h"
#include "stream/internal.h"

typedef struct Job {
    int fd;
    char *path;
} Job;

struct SyncPool {
    Thread threads[SYNC_POOL_THREADS];

    pthread_mutex_t mutex; /* for all below */
    pthread_cond_t wanted; /* for the threads: a job, or the end */
    pthread_cond_t moved;  /* for the adder: a job was taken or done */
    Job queue[SYNC_POOL_QUEUE];
    size_t first;
    size_t count;
    size_t busy;        /* jobs that were taken and are not done */
    bool ending;        /* no more jobs will come */
    Error failure;      /* the first one, once `failed` */
    atomic_bool failed; /* read without the mutex too */
    atomic_bool abandoned;
};

/* ---- the threads ---- */

/* Waits; false at the end. */
static bool
take_job(SyncPool *pool, Job *ret_job)
{
    bool found;

    (void)pthread_mutex_lock(&pool->mutex);
    while (pool->count == 0 && !pool->ending)
        (void)pthread_cond_wait(&pool->wanted, &pool->mutex);
    found = pool->count > 0;
    if (found) {
        *ret_job = pool->queue[pool->first];
        pool->first = (pool->first + 1) % SYNC_POOL_QUEUE;
        pool->count--;
        pool->busy++;
        (void)pthread_cond_signal(&pool->moved);
    }
    (void)pthread_mutex_unlock(&pool->mutex);
    return found;
}

static void
job_done(SyncPool *pool)
{
    (void)pthread_mutex_lock(&pool->mutex);
    pool->busy--;
    (void)pthread_cond_signal(&pool->moved);
    (void)pthread_mutex_unlock(&pool->mutex);
}

static void
note_failure(SyncPool *pool, const Error *failure)
{
    (void)pthread_mutex_lock(&pool->mutex);
    if (!atomic_load(&pool->failed)) {
        pool->failure = *failure;
        atomic_store(&pool->failed, true);
    }
    (void)pthread_cond_signal(&pool->moved);
    (void)pthread_mutex_unlock(&pool->mutex);
}

static void
do_job(SyncPool *pool, const Job *job)
{
    Error err = ERROR_INIT;

    if (atomic_load(&pool->failed) || atomic_load(&pool->abandoned)) {
        file_close_quietly(job->fd);
    } else if (!file_sync(job->fd, job->path, &err)) {
        file_close_quietly(job->fd);
        note_failure(pool, &err);
    } else if (!file_close(job->fd, job->path, &err)) {
        note_failure(pool, &err);
    }
    free(job->path);
}

static void
run_thread(void *arg)
{
    SyncPool *pool = arg;
    Job job;

    while (take_job(pool, &job)) {
        do_job(pool, &job);
        job_done(pool);
    }
}

/* ---- making and ending ---- */

SyncPool *
sync_pool_new(Error *err)
{
    SyncPool *pool = mem_zero(sizeof *pool, err);

    if (pool == NULL)
        return NULL;
    /* None of these can fail on Linux: they only fill in memory. */
    (void)pthread_mutex_init(&pool->mutex, NULL);
    (void)pthread_cond_init(&pool->wanted, NULL);
    (void)pthread_cond_init(&pool->moved, NULL);
    atomic_init(&pool->failed, false);
    atomic_init(&pool->abandoned, false);
    for (size_t i = 0; i < SYNC_POOL_THREADS; i++) {
        if (!thread_start(&pool->threads[i], run_thread, pool, err)) {
            sync_pool_free(pool);
            return NULL;
        }
    }
    return pool;
}

void
sync_pool_free(SyncPool *pool)
{
    if (pool == NULL)
        return;
    atomic_store(&pool->abandoned, true);
    (void)pthread_mutex_lock(&pool->mutex);
    pool->ending = true;
    (void)pthread_cond_broadcast(&pool->wanted);
    (void)pthread_mutex_unlock(&pool->mutex);
    for (size_t i = 0; i < SYNC_POOL_THREADS; i++)
        thread_join(&pool->threads[i]);
    (void)pthread_cond_destroy(&pool->wanted);
    (void)pthread_cond_destroy(&pool->moved);
    (void)pthread_mutex_destroy(&pool->mutex);
    free(pool);
}

/* ---- the adder ---- */

bool
sync_pool_check(SyncPool *pool, Error *err)
{
    if (!atomic_load(&pool->failed))
        return true;
    (void)pthread_mutex_lock(&pool->mutex);
    *err = pool->failure;
    (void)pthread_mutex_unlock(&pool->mutex);
    return false;
}

bool
sync_pool_add(SyncPool *pool, int fd, char *path, Error *err)
{
    bool added;

    (void)pthread_mutex_lock(&pool->mutex);
    while (pool->count == SYNC_POOL_QUEUE && !atomic_load(&pool->failed))
        (void)pthread_cond_wait(&pool->moved, &pool->mutex);
    added = !atomic_load(&pool->failed);
    if (added) {
        pool->queue[(pool->first + pool->count) % SYNC_POOL_QUEUE] = (Job){.fd = fd, .path = path};
        pool->count++;
        (void)pthread_cond_signal(&pool->wanted);
    }
    (void)pthread_mutex_unlock(&pool->mutex);
    if (added)
        return true;
    file_close_quietly(fd);
    free(path);
    return sync_pool_check(pool, err);
}

bool
sync_pool_drain(SyncPool *pool, Error *err)
{
    (void)pthread_mutex_lock(&pool->mutex);
    while (pool->count + pool->busy > 0 && !atomic_load(&pool->failed))
        (void)pthread_cond_wait(&pool->moved, &pool->mutex);
    (void)pthread_mutex_unlock(&pool->mutex);
    return sync_pool_check(pool, err);
}

/* ---- directories ---- */

#define OPEN_DIRECTORY (O_RDONLY | O_DIRECTORY | O_CLOEXEC)

static bool add_directory(SyncPool *pool, int fd, char *path, Error *err);

/* The directory of this name in the one that is open; anything else is passed over. */
static bool
add_child(SyncPool *pool, int parent, const char *parent_path, const struct dirent *child,
          Error *err)
{
    const char *name = child->d_name;
    char *path;
    int fd;

    if (child->d_type != DT_DIR && child->d_type != DT_UNKNOWN)
        return true;
    fd = openat(parent, name, OPEN_DIRECTORY | O_NOFOLLOW);
    if (fd < 0 && child->d_type == DT_UNKNOWN && (errno == ENOTDIR || errno == ELOOP))
        return true;
    if (fd < 0)
        return error_set_errno(err, errno, "could not open directory \"%s/%s\"", parent_path, name);
    path = path_join(parent_path, name, err);
    if (path == NULL) {
        file_close_quietly(fd);
        return false;
    }
    return add_directory(pool, fd, path, err);
}

static bool
add_children(SyncPool *pool, int fd, const char *path, Error *err)
{
    int own = fcntl(fd, F_DUPFD_CLOEXEC, 0); /* closedir takes it */
    DIR *dir = own < 0 ? NULL : fdopendir(own);
    const struct dirent *child;
    bool ok = true;

    if (dir == NULL) {
        (void)error_set_errno(err, errno, "could not open directory \"%s\"", path);
        file_close_quietly(own);
        return false;
    }
    while (ok && (child = dir_next(dir)) != NULL)
        ok = add_child(pool, fd, path, child, err);
    if (ok && errno != 0)
        ok = error_set_errno(err, errno, "could not read directory \"%s\"", path);
    (void)closedir(dir);
    return ok;
}

/* With all below it. Owns `fd` and `path`. */
static bool
add_directory(SyncPool *pool, int fd, char *path, Error *err)
{
    if (!add_children(pool, fd, path, err)) {
        file_close_quietly(fd);
        free(path);
        return false;
    }
    return sync_pool_add(pool, fd, path, err);
}

static bool
add_parent(SyncPool *pool, int root_fd, const char *root, Error *err)
{
    char *path;
    int fd;

    if (!durable_open_parent(root_fd, root, &fd, err))
        return false;
    if (fd < 0) /* it is on disk already */
        return true;
    path = path_join(root, "..", err);
    if (path == NULL) {
        file_close_quietly(fd);
        return false;
    }
    return sync_pool_add(pool, fd, path, err);
}

bool
sync_pool_add_tree(SyncPool *pool, const char *root, Error *err)
{
    int fd = file_open(root, O_RDONLY | O_DIRECTORY, 0, err);
    char *path;

    if (fd < 0)
        return false;
    path = mem_strdup(root, err);
    if (path == NULL || !add_parent(pool, fd, root, err)) {
        file_close_quietly(fd);
        free(path);
        return false;
    }
    return add_directory(pool, fd, path, err);
}
