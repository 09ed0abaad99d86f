/*
 * write_pool: files are what was put in and on disk when it says so, the first failure is kept,
 * nothing is left open. Writes and reservations pass through this file (linked with --wrap).
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/file.h"
#include "common/runtime.h"
#include "stream/internal.h"
#include "support/descriptors.h"
#include "support/temp_dir.h"

#define BLOCK WRITE_POOL_BLOCK
#define SMALL ((size_t)128 * 1024) /* what is smaller shares a block */

/* ---- fsync is this file's own: it can be made to wait ---- */

static struct {
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    bool held;     /* whoever comes waits */
    bool fails;    /* with EIO */
    size_t inside; /* threads that are waiting */
    size_t calls;
    size_t whole_calls; /* of syncfs */
    size_t whole_fails; /* from 1: that one of them fails; 0: none */
} gate = {.mutex = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

int
fsync(int fd)
{
    bool fails;

    (void)pthread_mutex_lock(&gate.mutex);
    gate.calls++;
    gate.inside++;
    (void)pthread_cond_broadcast(&gate.changed);
    while (gate.held)
        (void)pthread_cond_wait(&gate.changed, &gate.mutex);
    gate.inside--;
    fails = gate.fails;
    (void)pthread_mutex_unlock(&gate.mutex);
    if (fails)
        errno = EIO;
    return fails ? -1 : (int)syscall(SYS_fsync, fd);
}

int
syncfs(int fd)
{
    bool fails;

    assert_true(fcntl(fd, F_GETFD) >= 0);
    (void)pthread_mutex_lock(&gate.mutex);
    fails = ++gate.whole_calls == gate.whole_fails;
    (void)pthread_mutex_unlock(&gate.mutex);
    errno = EIO;
    return fails ? -1 : 0;
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
gate_whole_calls(void)
{
    size_t calls;

    (void)pthread_mutex_lock(&gate.mutex);
    calls = gate.whole_calls;
    (void)pthread_mutex_unlock(&gate.mutex);
    return calls;
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

/* ---- writes can fail ---- */

static struct {
    atomic_size_t direct;  /* writes past the page cache */
    atomic_size_t through; /* writes through it */
    size_t fail_at;        /* of all writes, from 1: fails, once; 0: none */
    int failure;           /* with this */
    bool no_direct;        /* EINVAL to what goes past the cache */
    int reserve_failure;   /* 0: none */
    size_t reserved;
    size_t written_back; /* bytes */
} writes;

ssize_t __real_pwrite64(int fd, const void *data, size_t len, off_t offset);
ssize_t __wrap_pwrite64(int fd, const void *data, size_t len, off_t offset);
int __real_fallocate64(int fd, int mode, off_t offset, off_t len);
int __wrap_fallocate64(int fd, int mode, off_t offset, off_t len);

ssize_t
__wrap_pwrite64(int fd, const void *data, size_t len, off_t offset)
{
    const bool direct = (fcntl(fd, F_GETFL) & O_DIRECT) != 0;
    const size_t number = atomic_fetch_add(direct ? &writes.direct : &writes.through, 1) + 1 +
                          atomic_load(direct ? &writes.through : &writes.direct);

    if (direct)
        assert_true((uintptr_t)data % 4096 == 0 && len % 4096 == 0 && offset % 4096 == 0);
    if (direct && writes.no_direct) {
        errno = EINVAL;
        return -1;
    }
    if (number == writes.fail_at) {
        errno = writes.failure;
        return -1;
    }
    return __real_pwrite64(fd, data, len, offset);
}

int
__wrap_fallocate64(int fd, int mode, off_t offset, off_t len)
{
    writes.reserved++;
    if (writes.reserve_failure == 0)
        return __real_fallocate64(fd, mode, offset, len);
    errno = writes.reserve_failure;
    return -1;
}

int __wrap_sync_file_range(int fd, off_t offset, off_t len, unsigned flags);

int
__wrap_sync_file_range(int fd, off_t offset, off_t len, unsigned flags)
{
    (void)fd;
    (void)offset;
    (void)flags;
    writes.written_back += (size_t)len;
    return 0;
}

/* Where files come in. */
static WriteRoot root;
static size_t descriptors;
static size_t file_number;

/* What waits to be written. */
static uint64_t waiting;

uint64_t __wrap_durable_waiting(void);

uint64_t
__wrap_durable_waiting(void)
{
    return waiting;
}

static int
set_up(void **state)
{
    TempDir *dir = calloc(1, sizeof *dir);

    if (dir == NULL)
        return -1;
    temp_dir_make(dir);
    gate.held = false;
    gate.fails = false;
    gate.calls = 0;
    gate.whole_calls = 0;
    gate.whole_fails = 0;
    memset(&writes, 0, sizeof writes);
    descriptors = descriptors_open();
    root.path = dir->path;
    root.fd = open(dir->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    root.whole = false;
    waiting = 0;
    *state = dir;
    return root.fd < 0 ? -1 : 0;
}

static int
tear_down(void **state)
{
    bool closed;

    (void)close(root.fd);
    closed = descriptors_open() == descriptors;
    temp_dir_remove(*state);
    free(*state);
    return closed ? 0 : -1;
}

static bool
begin(WritePool *pool, TempDir *dir, const char *name, size_t size, Error *err)
{
    const NewFile file = {.root = &root,
                          .dir_fd = root.fd,
                          .path = temp_dir_path(dir, name),
                          .mode = 0600,
                          .size = size};

    return write_pool_begin(pool, &file, err);
}

/* One that does not share a block with others. */
static bool
add_file(WritePool *pool, TempDir *dir, Error *err)
{
    char name[32];

    (void)snprintf(name, sizeof name, "file%zu", file_number++);
    return begin(pool, dir, name, BLOCK, err) && write_pool_end(pool, err);
}

/* ---- content ---- */

static uint8_t
byte_at(size_t at)
{
    return (uint8_t)(at * 2654435761u >> 11 ^ at >> 12);
}

/* A file of so many bytes, which come in pieces. */
static bool
add_content(WritePool *pool, TempDir *dir, const char *name, size_t size, size_t piece, Error *err)
{
    uint8_t *bytes = malloc(piece);
    bool ok;

    assert_non_null(bytes);
    ok = begin(pool, dir, name, size, err);
    for (size_t at = 0; ok && at < size;) {
        size_t len = size - at < piece ? size - at : piece;

        for (size_t i = 0; i < len; i++)
            bytes[i] = byte_at(at + i);
        ok = write_pool_data(pool, (Span){.data = bytes, .len = len}, err);
        at += len;
    }
    free(bytes);
    return ok && write_pool_end(pool, err);
}

static void
assert_content(TempDir *dir, const char *name, size_t size)
{
    Buf content = temp_dir_read(dir, name);
    size_t at = 0;

    assert_int_equal(content.len, size);
    while (at < size && content.data[at] == byte_at(at))
        at++;
    assert_int_equal(at, size);
    buf_free(&content);
}

static const size_t sizes[] = {0,         1,         4095,          4096,          8192,
                               BLOCK - 1, BLOCK,     BLOCK + 1,     BLOCK + 4096,  2 * BLOCK - 1,
                               2 * BLOCK, 3 * BLOCK, 3 * BLOCK + 5, 40 * BLOCK + 7};

#define SIZES (sizeof sizes / sizeof sizes[0])

static void
put_all_sizes(TempDir *dir, SyncMethod sync)
{
    Error err = ERROR_INIT;
    WritePool *pool = write_pool_new(sync, NULL, NULL, &err);
    char name[16];

    for (size_t i = 0; i < SIZES; i++) {
        (void)snprintf(name, sizeof name, "f%zu", i);
        assert_true(add_content(pool, dir, name, sizes[i], 100000 + 77 * i, &err));
    }
    assert_true(write_pool_drain(pool, &err));
    for (size_t i = 0; i < SIZES; i++) {
        (void)snprintf(name, sizeof name, "f%zu", i);
        assert_content(dir, name, sizes[i]);
    }
    assert_int_equal(gate_calls(), sync == SYNC_FSYNC ? SIZES : 0);
    write_pool_free(pool);
}

static void
test_files_of_every_size(void **state)
{
    put_all_sizes(*state, SYNC_FSYNC);
    assert_int_equal(writes.reserved, 8);
    /* Where the file system can: each large file directly, others through the cache, those that
     * are not small in pieces. */
    if (atomic_load(&writes.direct) > 0) {
        assert_int_equal(writes.through, 12);
        assert_int_equal(writes.direct, 1 + 2 + 2 + 2 + 2 + 3 + 4 + 41);
    }
}

static void
test_files_of_every_size_unsynced(void **state)
{
    put_all_sizes(*state, SYNC_SYNCFS);
    if (atomic_load(&writes.direct) > 0)
        assert_int_equal(writes.direct, 57);
}

/* All through the cache, and nothing is written back earlier than the system likes. */
static void
test_files_of_every_size_without_sync(void **state)
{
    put_all_sizes(*state, SYNC_NONE);
    assert_int_equal(writes.direct, 0);
    assert_int_equal(writes.reserved, 0);
    assert_int_equal(writes.written_back, 0);
}

/* ---- small files ---- */

/* Each is what it was to be, wherever blocks end, and whichever directories they are in. */
static void
test_small_files_share_blocks(void **state)
{
    static const char *const places[] = {"", "a/", "ab/", "a/b/"};
    static const SyncMethod methods[] = {SYNC_NONE, SYNC_FSYNC, SYNC_SYNCFS, SYNC_BEST};
    TempDir *dir = *state;

    temp_dir_mkdir(dir, "a/b");
    temp_dir_mkdir(dir, "ab");
    for (size_t m = 0; m < sizeof methods / sizeof methods[0]; m++) {
        Error err = ERROR_INIT;
        WritePool *pool = write_pool_new(methods[m], NULL, NULL, &err);
        char name[64];

        gate.calls = 0;
        for (size_t i = 0; i < 400; i++) {
            const char *place = places[i / 37 % 4];
            WriteRoot here = {.path = dir->path, .fd = root.fd};
            NewFile file = {.root = &here, .mode = i % 2 == 0 ? 0600 : 0644};
            uint8_t *bytes = malloc(SMALL);
            size_t size = i * 7919 % SMALL;

            assert_non_null(bytes);
            for (size_t at = 0; at < size; at++)
                bytes[at] = byte_at(at);
            (void)snprintf(name, sizeof name, "%sm%zu-%zu", place, m, i);
            file.path = temp_dir_path(dir, name);
            file.size = size;
            file.dir_fd = open(temp_dir_path(dir, place), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
            assert_true(write_pool_begin(pool, &file, &err));
            (void)close(file.dir_fd); /* it was lent for the call */
            assert_true(write_pool_data(pool, (Span){.data = bytes, .len = size / 3}, &err));
            assert_true(write_pool_data(
                pool, (Span){.data = bytes + size / 3, .len = size - size / 3}, &err));
            assert_true(write_pool_end(pool, &err));
            free(bytes);
        }
        assert_true(write_pool_drain(pool, &err));
        write_pool_free(pool);
        for (size_t i = 0; i < 400; i++) {
            (void)snprintf(name, sizeof name, "%sm%zu-%zu", places[i / 37 % 4], m, i);
            assert_content(dir, name, i * 7919 % SMALL);
            assert_int_equal(temp_dir_mode(dir, name), S_IFREG | (i % 2 == 0 ? 0600 : 0644));
        }
        assert_int_equal(gate.calls, m % 2 == 1 ? 400 : 0); /* few: the best way is fsync */
    }
    assert_int_equal(gate_whole_calls(), 0);
}

static bool
add_many(WritePool *pool, TempDir *dir, size_t count, size_t size, Error *err)
{
    bool ok = true;

    for (size_t i = 0; ok && i < count; i++) {
        char name[32];

        (void)snprintf(name, sizeof name, "many%zu", file_number++);
        ok = add_content(pool, dir, name, size, SMALL, err);
    }
    return ok;
}

/* The first thousand are synced singly. What comes then is left to syncfs, if the file system may
 * be synced as a whole; a large file is not. */
static void
test_many_small_files_are_synced_together(void **state)
{
    for (int whole = 0; whole < 2; whole++) {
        Error err = ERROR_INIT;
        WritePool *pool = write_pool_new(SYNC_BEST, NULL, NULL, &err);

        root.whole = whole;
        gate.calls = 0;
        assert_true(add_many(pool, *state, 3000, 10, &err));
        assert_true(add_file(pool, *state, &err));
        assert_true(write_pool_drain(pool, &err));
        assert_int_equal(gate_calls(), whole ? 1001 : 3001);
        assert_int_equal(gate_whole_calls(), 0); /* too little */
        assert_true(write_pool_sync_root(pool, &root, &err));
        assert_true(write_pool_drain(pool, &err));
        assert_int_equal(gate_whole_calls(), whole);
        /* What is above the root, and without syncfs the root. */
        assert_int_equal(gate_calls(), whole ? 1002 : 3003);
        write_pool_free(pool);
    }
}

/* Nobody waits at the end for all of it: the file system is synced on the way. */
static void
test_file_system_is_synced_on_the_way(void **state)
{
    Error err = ERROR_INIT;
    WritePool *pool = write_pool_new(SYNC_BEST, NULL, NULL, &err);

    root.whole = true;
    assert_true(add_many(pool, *state, 1000, 0, &err));
    assert_true(add_many(pool, *state, 1100, 100000, &err));
    assert_true(write_pool_drain(pool, &err));
    assert_int_equal(gate_whole_calls(), 1);
    assert_true(write_pool_sync_root(pool, &root, &err));
    assert_int_equal(gate_whole_calls(), 2);
    write_pool_free(pool);
}

/* A failed syncfs is final, on the way and at the end. */
static void
test_failing_sync_of_the_file_system(void **state)
{
    for (size_t number = 1; number <= 2; number++) {
        Error err = ERROR_INIT;
        Error again = ERROR_INIT;
        WritePool *pool = write_pool_new(SYNC_BEST, NULL, NULL, &err);

        root.whole = true;
        gate.whole_calls = 0;
        gate.whole_fails = number;
        assert_true(add_many(pool, *state, 1000, 0, &err));
        assert_false(add_many(pool, *state, 1100, 100000, &err) && write_pool_drain(pool, &err) &&
                     write_pool_sync_root(pool, &root, &err));
        assert_int_equal(err.sys_errno, EIO);
        assert_non_null(strstr(err.message, "could not sync the file system of \""));
        assert_false(write_pool_drain(pool, &again));
        assert_string_equal(again.message, err.message);
        write_pool_free(pool);
    }
}

/* Nobody waits for what others have to write. */
static void
test_no_sync_of_a_file_system_that_is_busy(void **state)
{
    Error err = ERROR_INIT;
    WritePool *pool = write_pool_new(SYNC_BEST, NULL, NULL, &err);

    root.whole = true;
    waiting = (uint64_t)513 * 1024 * 1024;
    assert_true(add_many(pool, *state, 2000, 10, &err));
    assert_true(write_pool_drain(pool, &err));
    assert_int_equal(gate_calls(), 2000);
    assert_true(write_pool_sync_root(pool, &root, &err));
    assert_true(write_pool_drain(pool, &err));
    assert_int_equal(gate_calls(), 2002);
    assert_int_equal(gate_whole_calls(), 0);
    write_pool_free(pool);
}

/* ---- what file systems cannot do ---- */

/* It says so only when it is asked to write. */
static void
test_file_system_that_refuses_direct_writes(void **state)
{
    writes.no_direct = true;
    put_all_sizes(*state, SYNC_FSYNC);
}

/* Through the cache the kernel is told to write while more comes in: 8 MiB at a time. */
static void
test_write_back_starts_while_receiving(void **state)
{
    Error err = ERROR_INIT;
    WritePool *pool = write_pool_new(SYNC_FSYNC, NULL, NULL, &err);

    writes.no_direct = true;
    assert_true(add_content(pool, *state, "f", 20 * BLOCK + 5, BLOCK, &err));
    assert_true(write_pool_drain(pool, &err));
    assert_in_range(writes.written_back, 10 * BLOCK, 20 * BLOCK);
    assert_content(*state, "f", 20 * BLOCK + 5);
    write_pool_free(pool);
}

static void
test_file_system_without_reservation(void **state)
{
    writes.reserve_failure = EOPNOTSUPP;
    put_all_sizes(*state, SYNC_FSYNC);
}

/* A full disk shows when a large file begins. */
static void
test_no_room(void **state)
{
    Error err = ERROR_INIT;
    WritePool *pool = write_pool_new(SYNC_FSYNC, NULL, NULL, &err);

    writes.reserve_failure = ENOSPC;
    assert_true(add_content(pool, *state, "small", 4096, 4096, &err));
    assert_false(add_content(pool, *state, "large", 3 * BLOCK + 1, BLOCK, &err));
    assert_int_equal(err.sys_errno, ENOSPC);
    assert_non_null(strstr(err.message, "could not write to file \""));
    assert_string_equal(err.hint, "The file needs 3145729 bytes.");
    assert_non_null(strstr(err.message, "/large\": No space left on device"));
    write_pool_free(pool);
}

/* Each write of several files fails once: that is told, at the end at the latest. */
static void
test_failing_writes(void **state)
{
    static const int failures[] = {EIO, ENOSPC};

    for (size_t number = 1; number <= 8; number++) {
        Error err = ERROR_INIT;
        WritePool *pool = write_pool_new(SYNC_FSYNC, NULL, NULL, &err);
        bool ok;

        memset(&writes, 0, sizeof writes);
        writes.fail_at = number;
        writes.failure = failures[number % 2];
        ok = add_content(pool, *state, "a", 100, 100, &err) &&
             add_content(pool, *state, "b", 4 * BLOCK, BLOCK, &err) &&
             add_content(pool, *state, "c", 3 * BLOCK - 5, BLOCK, &err) &&
             write_pool_drain(pool, &err);
        assert_false(ok);
        assert_int_equal(err.sys_errno, writes.failure);
        assert_non_null(strstr(err.message, "could not write to file \""));
        write_pool_free(pool);
        for (const char *name = "a\0b\0c\0"; name[0] != '\0'; name += 2)
            (void)unlink(temp_dir_path(*state, name));
    }
}

/* In the midst of a file, whose blocks are on their way. */
static void
test_freed_within_a_file(void **state)
{
    for (size_t blocks = 0; blocks < 5; blocks++) {
        Error err = ERROR_INIT;
        WritePool *pool = write_pool_new(SYNC_FSYNC, NULL, NULL, &err);
        uint8_t *bytes = calloc(1, BLOCK);

        assert_true(begin(pool, *state, "f", 100 * BLOCK, &err));
        for (size_t i = 0; i < blocks; i++)
            assert_true(write_pool_data(pool, (Span){.data = bytes, .len = BLOCK - i}, &err));
        write_pool_free(pool);
        free(bytes);
        assert_int_equal(descriptors_open(), descriptors + 1); /* the root's */
        assert_int_equal(gate_calls(), 0);
        (void)unlink(temp_dir_path(*state, "f"));
    }
}

/* ---- syncs ---- */

static void
test_drain_waits_for_everything(void **state)
{
    Error err = ERROR_INIT;
    WritePool *pool = write_pool_new(SYNC_FSYNC, NULL, NULL, &err);

    for (size_t i = 1; i <= 10; i++)
        assert_true(add_file(pool, *state, &err));
    assert_true(write_pool_drain(pool, &err));
    assert_int_equal(gate_calls(), 10);
    assert_true(write_pool_drain(pool, &err)); /* again, with nothing in it */
    assert_true(write_pool_check(pool, &err));
    assert_true(add_file(pool, *state, &err));
    assert_true(write_pool_drain(pool, &err));
    assert_int_equal(gate_calls(), 11);
    write_pool_free(pool);
}

static void
test_all_threads_sync_at_the_same_time(void **state)
{
    Error err = ERROR_INIT;
    WritePool *pool = write_pool_new(SYNC_FSYNC, NULL, NULL, &err);

    gate_hold(true);
    for (size_t i = 0; i < WRITE_POOL_THREADS; i++)
        assert_true(add_file(pool, *state, &err));
    gate_await_inside(WRITE_POOL_THREADS);
    gate_hold(false);
    assert_true(write_pool_drain(pool, &err));
    write_pool_free(pool);
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
    WritePool *pool = write_pool_new(SYNC_FSYNC, NULL, NULL, &err);
    Thread opener;

    gate_hold(true);
    for (size_t i = 0; i < WRITE_POOL_THREADS + WRITE_POOL_QUEUE; i++) {
        assert_true(add_file(pool, *state, &err));
        if (i + 1 == WRITE_POOL_THREADS)
            gate_await_inside(WRITE_POOL_THREADS); /* they have theirs: the queue is empty */
    }
    assert_int_equal(gate_calls(), WRITE_POOL_THREADS);
    assert_true(thread_start(&opener, release_gate, NULL, &err));
    for (size_t i = 0; i < WRITE_POOL_QUEUE; i++)
        assert_true(add_file(pool, *state, &err));
    thread_join(&opener);
    assert_true(write_pool_drain(pool, &err));
    assert_int_equal(gate_calls(), WRITE_POOL_THREADS + 2 * WRITE_POOL_QUEUE);
    write_pool_free(pool);
}

static bool
stop_waiting(void *ctx, Error *err)
{
    *(size_t *)ctx += 1;
    return *(size_t *)ctx < 2 || error_set_stopped(err);
}

/* A disk that does not answer holds nobody who wants to stop. */
static void
test_waiting_can_be_ended(void **state)
{
    Error err = ERROR_INIT;
    size_t asked = 0;
    WritePool *pool = write_pool_new(SYNC_FSYNC, stop_waiting, &asked, &err);
    bool ok = true;

    gate_hold(true);
    for (size_t i = 0; ok && i <= WRITE_POOL_THREADS + WRITE_POOL_QUEUE; i++)
        ok = add_file(pool, *state, &err);
    assert_false(ok);
    assert_int_equal(err.code, ERR_STOPPED);
    assert_int_equal(asked, 2);
    gate_hold(false);
    write_pool_free(pool);
}

static void
test_first_failure_is_kept(void **state)
{
    Error err = ERROR_INIT;
    Error again = ERROR_INIT;
    WritePool *pool = write_pool_new(SYNC_FSYNC, NULL, NULL, &err);

    gate.fails = true;
    assert_true(add_file(pool, *state, &err));
    assert_false(write_pool_drain(pool, &err));
    assert_int_equal(err.sys_errno, EIO);
    assert_non_null(strstr(err.message, "could not fsync file \""));
    gate.fails = false;

    /* It is final: nothing succeeds any more. */
    assert_false(add_file(pool, *state, &again));
    assert_string_equal(again.message, err.message);
    again = ERROR_INIT;
    assert_false(begin(pool, *state, "small", 1, &again));
    assert_string_equal(again.message, err.message);
    assert_false(write_pool_check(pool, &again));
    assert_false(write_pool_drain(pool, &again));
    assert_int_equal(gate_calls(), 1);
    write_pool_free(pool);
}

static void
test_queued_files_are_closed_unsynced_after_a_failure(void **state)
{
    Error err = ERROR_INIT;
    WritePool *pool = write_pool_new(SYNC_FSYNC, NULL, NULL, &err);

    gate.fails = true;
    gate_hold(true);
    for (size_t i = 0; i < WRITE_POOL_THREADS; i++)
        assert_true(add_file(pool, *state, &err));
    gate_await_inside(WRITE_POOL_THREADS);
    assert_true(add_file(pool, *state, &err));
    assert_true(begin(pool, *state, "small", 0, &err));
    gate_hold(false);
    assert_false(write_pool_drain(pool, &err));
    assert_int_equal(gate_calls(), WRITE_POOL_THREADS);
    write_pool_free(pool);
    assert_false(temp_dir_exists(*state, "small"));
}

static void
test_freed_with_files_in_the_queue(void **state)
{
    Error err = ERROR_INIT;
    WritePool *pool = write_pool_new(SYNC_FSYNC, NULL, NULL, &err);
    Thread opener;

    gate_hold(true);
    for (size_t i = 0; i < WRITE_POOL_THREADS; i++)
        assert_true(add_file(pool, *state, &err));
    gate_await_inside(WRITE_POOL_THREADS);
    assert_true(add_file(pool, *state, &err));
    assert_true(begin(pool, *state, "small", 5, &err));
    assert_true(thread_start(&opener, release_gate, NULL, &err));
    write_pool_free(pool);
    thread_join(&opener);
}

static void
test_freed_unused_and_null(void **state)
{
    Error err = ERROR_INIT;

    (void)state;
    write_pool_free(write_pool_new(SYNC_FSYNC, NULL, NULL, &err));
    write_pool_free(NULL);
    assert_int_equal(err.code, ERR_NONE);
}

static void
test_tree_counts_every_directory_once(void **state)
{
    TempDir *dir = *state;
    Error err = ERROR_INIT;
    WritePool *pool = write_pool_new(SYNC_FSYNC, NULL, NULL, &err);

    temp_dir_mkdir(dir, "root/a/b/c");
    temp_dir_mkdir(dir, "root/d");
    temp_dir_write(dir, "root/file", "x", 1);
    assert_int_equal(symlink("/", temp_dir_path(dir, "root/link")), 0);
    assert_true(write_pool_add_tree(pool, temp_dir_path(dir, "root"), &err));
    assert_true(write_pool_drain(pool, &err));
    assert_int_equal(gate_calls(), 6); /* root, a, b, c, d, and the parent */
    assert_true(write_pool_add_tree(pool, temp_dir_path(dir, "root/d/"), &err));
    assert_true(write_pool_drain(pool, &err));
    assert_int_equal(gate_calls(), 8);
    write_pool_free(pool);
}

static void
test_tree_that_is_not_there(void **state)
{
    TempDir *dir = *state;
    Error err = ERROR_INIT;
    WritePool *pool = write_pool_new(SYNC_FSYNC, NULL, NULL, &err);

    assert_false(write_pool_add_tree(pool, temp_dir_path(dir, "root"), &err));
    assert_int_equal(err.sys_errno, ENOENT);
    err = ERROR_INIT;
    temp_dir_write(dir, "file", "x", 1);
    assert_false(write_pool_add_tree(pool, temp_dir_path(dir, "file"), &err));
    assert_int_equal(err.sys_errno, ENOTDIR);
    assert_true(write_pool_drain(pool, &err)); /* not a failure of the pool's own */
    assert_int_equal(gate_calls(), 0);
    write_pool_free(pool);
}

#define POOL_TEST(TEST) cmocka_unit_test_setup_teardown(TEST, set_up, tear_down)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        POOL_TEST(test_files_of_every_size),
        POOL_TEST(test_files_of_every_size_unsynced),
        POOL_TEST(test_files_of_every_size_without_sync),
        POOL_TEST(test_small_files_share_blocks),
        POOL_TEST(test_many_small_files_are_synced_together),
        POOL_TEST(test_file_system_is_synced_on_the_way),
        POOL_TEST(test_failing_sync_of_the_file_system),
        POOL_TEST(test_no_sync_of_a_file_system_that_is_busy),
        POOL_TEST(test_file_system_that_refuses_direct_writes),
        POOL_TEST(test_write_back_starts_while_receiving),
        POOL_TEST(test_file_system_without_reservation),
        POOL_TEST(test_no_room),
        POOL_TEST(test_failing_writes),
        POOL_TEST(test_freed_within_a_file),
        POOL_TEST(test_drain_waits_for_everything),
        POOL_TEST(test_all_threads_sync_at_the_same_time),
        POOL_TEST(test_adding_waits_while_the_queue_is_full),
        POOL_TEST(test_waiting_can_be_ended),
        POOL_TEST(test_first_failure_is_kept),
        POOL_TEST(test_queued_files_are_closed_unsynced_after_a_failure),
        POOL_TEST(test_freed_with_files_in_the_queue),
        POOL_TEST(test_freed_unused_and_null),
        POOL_TEST(test_tree_counts_every_directory_once),
        POOL_TEST(test_tree_that_is_not_there),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
