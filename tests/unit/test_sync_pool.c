/* sync_pool: files on disk when it says so, the first failure kept, nothing left open. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/file.h"
#include "common/runtime.h"
#include "stream/internal.h"
#include "support/temp_dir.h"

/* ---- fsync is this file's own: it can be made to wait ---- */

static struct {
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    bool held;     /* whoever comes waits */
    size_t inside; /* threads that are waiting */
    size_t calls;
} gate = {.mutex = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

int
fsync(int fd)
{
    (void)pthread_mutex_lock(&gate.mutex);
    gate.calls++;
    gate.inside++;
    (void)pthread_cond_broadcast(&gate.changed);
    while (gate.held)
        (void)pthread_cond_wait(&gate.changed, &gate.mutex);
    gate.inside--;
    (void)pthread_mutex_unlock(&gate.mutex);
    return (int)syscall(SYS_fsync, fd);
}

static void
gate_hold(bool held)
{
    (void)pthread_mutex_lock(&gate.mutex);
    gate.held = held;
    (void)pthread_cond_broadcast(&gate.changed);
    (void)pthread_mutex_unlock(&gate.mutex);
}

static void
gate_await_inside(size_t count)
{
    (void)pthread_mutex_lock(&gate.mutex);
    while (gate.inside < count)
        (void)pthread_cond_wait(&gate.changed, &gate.mutex);
    (void)pthread_mutex_unlock(&gate.mutex);
}

static size_t
gate_calls(void)
{
    size_t calls;

    (void)pthread_mutex_lock(&gate.mutex);
    calls = gate.calls;
    (void)pthread_mutex_unlock(&gate.mutex);
    return calls;
}

static int
set_up(void **state)
{
    TempDir *dir = calloc(1, sizeof *dir);

    if (dir == NULL)
        return -1;
    temp_dir_make(dir);
    gate.held = false;
    gate.calls = 0;
    *state = dir;
    return 0;
}

static int
tear_down(void **state)
{
    temp_dir_remove(*state);
    free(*state);
    return 0;
}

static bool
add_file(SyncPool *pool, TempDir *dir, const char *name, Error *err)
{
    const char *path = temp_dir_path(dir, name);
    int fd = file_open(path, O_WRONLY | O_CREAT, 0600, err);

    assert_true(fd >= 0);
    return sync_pool_add(pool, fd, strdup(path), err);
}

/* A pipe: fsync says EINVAL. */
static bool
add_broken(SyncPool *pool, const char *name, int *ret_other_end, Error *err)
{
    int ends[2];

    assert_int_equal(pipe(ends), 0);
    *ret_other_end = ends[0];
    return sync_pool_add(pool, ends[1], strdup(name), err);
}

/* ---- tests ---- */

static void
test_drain_waits_for_everything(void **state)
{
    Error err = ERROR_INIT;
    SyncPool *pool = sync_pool_new(&err);

    for (size_t i = 1; i <= 10; i++) {
        char name[16];

        (void)snprintf(name, sizeof name, "f%zu", i);
        assert_true(add_file(pool, *state, name, &err));
    }
    assert_true(sync_pool_drain(pool, &err));
    assert_int_equal(gate_calls(), 10);
    assert_true(sync_pool_drain(pool, &err)); /* again, with nothing in it */
    assert_true(sync_pool_check(pool, &err));
    assert_true(add_file(pool, *state, "late", &err));
    assert_true(sync_pool_drain(pool, &err));
    assert_int_equal(gate_calls(), 11);
    sync_pool_free(pool);
}

static void
test_all_threads_sync_at_the_same_time(void **state)
{
    Error err = ERROR_INIT;
    SyncPool *pool = sync_pool_new(&err);

    gate_hold(true);
    for (size_t i = 0; i < SYNC_POOL_THREADS; i++)
        assert_true(add_file(pool, *state, "f", &err));
    gate_await_inside(SYNC_POOL_THREADS);
    gate_hold(false);
    assert_true(sync_pool_drain(pool, &err));
    sync_pool_free(pool);
}

static void
release_gate(void *arg)
{
    (void)arg;
    gate_hold(false);
}

static void
test_adding_waits_while_the_queue_is_full(void **state)
{
    Error err = ERROR_INIT;
    SyncPool *pool = sync_pool_new(&err);
    Thread opener;

    gate_hold(true);
    for (size_t i = 0; i < SYNC_POOL_THREADS + SYNC_POOL_QUEUE; i++) {
        assert_true(add_file(pool, *state, "f", &err));
        if (i + 1 == SYNC_POOL_THREADS)
            gate_await_inside(SYNC_POOL_THREADS); /* they have theirs: the queue is empty */
    }
    assert_int_equal(gate_calls(), SYNC_POOL_THREADS);
    assert_true(thread_start(&opener, release_gate, NULL, &err));
    for (size_t i = 0; i < SYNC_POOL_QUEUE; i++)
        assert_true(add_file(pool, *state, "f", &err));
    thread_join(&opener);
    assert_true(sync_pool_drain(pool, &err));
    assert_int_equal(gate_calls(), SYNC_POOL_THREADS + 2 * SYNC_POOL_QUEUE);
    sync_pool_free(pool);
}

static void
test_first_failure_is_kept(void **state)
{
    Error err = ERROR_INIT;
    SyncPool *pool = sync_pool_new(&err);
    int end;

    assert_true(add_broken(pool, "pipe", &end, &err));
    assert_false(sync_pool_drain(pool, &err));
    assert_int_equal(err.sys_errno, EINVAL);
    assert_string_equal(err.message, "could not fsync file \"pipe\": Invalid argument");
    file_close_quietly(end);

    /* It is final: files are taken, closed and not synced, nothing succeeds any more. */
    err = ERROR_INIT;
    assert_false(add_broken(pool, "other", &end, &err));
    assert_string_equal(err.message, "could not fsync file \"pipe\": Invalid argument");
    file_close_quietly(end);
    err = ERROR_INIT;
    assert_false(add_file(pool, *state, "f", &err));
    assert_string_equal(err.message, "could not fsync file \"pipe\": Invalid argument");
    assert_false(sync_pool_check(pool, &err));
    assert_false(sync_pool_drain(pool, &err));
    assert_int_equal(gate_calls(), 1);
    sync_pool_free(pool);
}

static void
test_queued_files_are_closed_unsynced_after_a_failure(void **state)
{
    Error err = ERROR_INIT;
    SyncPool *pool = sync_pool_new(&err);
    int end;
    char byte;

    gate_hold(true);
    for (size_t i = 0; i < SYNC_POOL_THREADS; i++) {
        assert_true(add_broken(pool, "broken", &end, &err));
        file_close_quietly(end);
    }
    gate_await_inside(SYNC_POOL_THREADS);
    assert_true(add_broken(pool, "queued", &end, &err));
    gate_hold(false);
    assert_false(sync_pool_drain(pool, &err));
    /* The end of the file says that the other end was closed. */
    assert_int_equal(read(end, &byte, 1), 0);
    assert_int_equal(gate_calls(), SYNC_POOL_THREADS);
    file_close_quietly(end);
    sync_pool_free(pool);
    (void)state;
}

static void
test_freed_with_files_in_the_queue(void **state)
{
    Error err = ERROR_INIT;
    SyncPool *pool = sync_pool_new(&err);
    Thread opener;
    int end;
    char byte;

    gate_hold(true);
    for (size_t i = 0; i < SYNC_POOL_THREADS; i++)
        assert_true(add_file(pool, *state, "f", &err));
    gate_await_inside(SYNC_POOL_THREADS);
    assert_true(add_broken(pool, "queued", &end, &err));
    assert_true(thread_start(&opener, release_gate, NULL, &err));
    sync_pool_free(pool);
    thread_join(&opener);
    assert_int_equal(read(end, &byte, 1), 0);
    file_close_quietly(end);
}

static void
test_freed_unused_and_null(void **state)
{
    Error err = ERROR_INIT;

    (void)state;
    sync_pool_free(sync_pool_new(&err));
    sync_pool_free(NULL);
    assert_int_equal(err.code, ERR_NONE);
}

static void
test_tree_counts_every_directory_once(void **state)
{
    TempDir *dir = *state;
    Error err = ERROR_INIT;
    SyncPool *pool = sync_pool_new(&err);

    temp_dir_mkdir(dir, "root/a/b/c");
    temp_dir_mkdir(dir, "root/d");
    temp_dir_write(dir, "root/file", "x", 1);
    assert_int_equal(symlink("/", temp_dir_path(dir, "root/link")), 0);
    assert_true(sync_pool_add_tree(pool, temp_dir_path(dir, "root"), &err));
    assert_true(sync_pool_drain(pool, &err));
    assert_int_equal(gate_calls(), 6); /* root, a, b, c, d, and the parent */
    assert_true(sync_pool_add_tree(pool, temp_dir_path(dir, "root/d/"), &err));
    assert_true(sync_pool_drain(pool, &err));
    assert_int_equal(gate_calls(), 8);
    sync_pool_free(pool);
}

static void
test_tree_that_is_not_there(void **state)
{
    TempDir *dir = *state;
    Error err = ERROR_INIT;
    SyncPool *pool = sync_pool_new(&err);

    assert_false(sync_pool_add_tree(pool, temp_dir_path(dir, "root"), &err));
    assert_int_equal(err.sys_errno, ENOENT);
    err = ERROR_INIT;
    temp_dir_write(dir, "file", "x", 1);
    assert_false(sync_pool_add_tree(pool, temp_dir_path(dir, "file"), &err));
    assert_int_equal(err.sys_errno, ENOTDIR);
    assert_true(sync_pool_drain(pool, &err)); /* not a failure of the pool's own */
    assert_int_equal(gate_calls(), 0);
    sync_pool_free(pool);
}

#define POOL_TEST(TEST) cmocka_unit_test_setup_teardown(TEST, set_up, tear_down)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        POOL_TEST(test_drain_waits_for_everything),
        POOL_TEST(test_all_threads_sync_at_the_same_time),
        POOL_TEST(test_adding_waits_while_the_queue_is_full),
        POOL_TEST(test_first_failure_is_kept),
        POOL_TEST(test_queued_files_are_closed_unsynced_after_a_failure),
        POOL_TEST(test_freed_with_files_in_the_queue),
        POOL_TEST(test_freed_unused_and_null),
        POOL_TEST(test_tree_counts_every_directory_once),
        POOL_TEST(test_tree_that_is_not_there),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
