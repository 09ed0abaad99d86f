/*
 * The threads that complete segments: what wal_dir's tests cannot see of them. Reads of a segment
 * pass through this file (linked with --wrap).
 */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "pgformat/walfile.h"
#include "support/descriptors.h"
#include "support/temp_dir.h"
#include "walrecv/internal.h"

#define MB ((size_t)1024 * 1024)

/* ---- reads ---- */

static struct {
    pthread_mutex_t lock;
    pthread_cond_t moved;
    size_t reads;
    size_t hold_at; /* this one (from 1) waits until a thread is joined; 0: none */
} gate = {.lock = PTHREAD_MUTEX_INITIALIZER, .moved = PTHREAD_COND_INITIALIZER};

ssize_t __real_read(int fd, void *data, size_t len);
ssize_t __wrap_read(int fd, void *data, size_t len);
int __real_pthread_join(pthread_t thread, void **value);
int __wrap_pthread_join(pthread_t thread, void **value);

ssize_t
__wrap_read(int fd, void *data, size_t len)
{
    (void)pthread_mutex_lock(&gate.lock);
    gate.reads++;
    (void)pthread_cond_broadcast(&gate.moved);
    while (gate.hold_at != 0 && gate.reads == gate.hold_at)
        (void)pthread_cond_wait(&gate.moved, &gate.lock);
    (void)pthread_mutex_unlock(&gate.lock);
    return __real_read(fd, data, len);
}

/* By then the threads have been told to end. */
int
__wrap_pthread_join(pthread_t thread, void **value)
{
    (void)pthread_mutex_lock(&gate.lock);
    gate.hold_at = 0;
    (void)pthread_cond_broadcast(&gate.moved);
    (void)pthread_mutex_unlock(&gate.lock);
    return __real_pthread_join(thread, value);
}

static void
await_reads(size_t count)
{
    (void)pthread_mutex_lock(&gate.lock);
    while (gate.reads < count)
        (void)pthread_cond_wait(&gate.moved, &gate.lock);
    (void)pthread_mutex_unlock(&gate.lock);
}

/* ---- the fixture ---- */

typedef struct Fixture {
    TempDir dir;
    WalDirConfig config;
    DurableMark mark;
    Completion *completion;
    size_t open_before;
    Error err;
} Fixture;

static void
set_up(Fixture *fixture)
{
    *fixture = (Fixture){.err = ERROR_INIT, .open_before = descriptors_open()};
    atomic_init(&fixture->mark.lsn, 0);
    temp_dir_make(&fixture->dir);
    fixture->config = (WalDirConfig){.directory = fixture->dir.path,
                                     .segment_size = (uint32_t)MB,
                                     .file_mode = 0600,
                                     .sync = WAL_DURABLE,
                                     .durable = &fixture->mark};
    gate.reads = 0;
    gate.hold_at = 0;
}

static void
start(Fixture *fixture)
{
    fixture->completion = completion_new(&fixture->config, &fixture->err);
    assert_non_null(fixture->completion);
}

static void
tear_down(Fixture *fixture)
{
    completion_free(fixture->completion);
    assert_int_equal(descriptors_open(), fixture->open_before);
    temp_dir_remove(&fixture->dir);
}

/* A segment of zeros, which is as good as any. */
static CompleteSegment
make_segment(Fixture *fixture, uint64_t number)
{
    const uint32_t size = fixture->config.segment_size;
    CompleteSegment segment = {.end = wal_segment_start(number + 1, size)};

    wal_segment_name(segment.name, 1, number, size);
    assert_true(segment_file_open(&fixture->config, segment.name, &segment.file, &fixture->err));
    return segment;
}

static bool
add(Fixture *fixture, uint64_t number)
{
    CompleteSegment segment = make_segment(fixture, number);

    return completion_add(fixture->completion, &segment, &fixture->err);
}

/* ---- segments ---- */

static void
test_nothing_to_do(void **state)
{
    Fixture fixture;

    (void)state;
    set_up(&fixture);
    start(&fixture);
    assert_true(completion_check(fixture.completion, &fixture.err));
    assert_true(completion_sync(fixture.completion, &fixture.err));
    assert_true(completion_drain(fixture.completion, &fixture.err));
    completion_halt(fixture.completion);
    completion_halt(fixture.completion);
    tear_down(&fixture);
    completion_free(NULL);
}

static void
test_many_segments(void **state)
{
    Fixture fixture;
    char name[WAL_NAME_SIZE];

    (void)state;
    set_up(&fixture);
    start(&fixture);
    for (uint64_t number = 1; number <= 100; number++) {
        assert_true(add(&fixture, number));
        assert_true(durable_mark_get(&fixture.mark) <= (number + 1) * MB);
        if (number % 7 == 0)
            assert_true(completion_sync(fixture.completion, &fixture.err));
    }
    assert_true(completion_drain(fixture.completion, &fixture.err));
    assert_int_equal(durable_mark_get(&fixture.mark), 101 * MB);
    for (uint64_t number = 1; number <= 100; number++) {
        wal_segment_name(name, 1, number, (uint32_t)MB);
        assert_true(temp_dir_exists(&fixture.dir, name));
    }
    tear_down(&fixture);
}

/* What comes after a failure is not taken, nor is its file left open. */
static void
test_after_a_failure(void **state)
{
    Fixture fixture;
    Error again = ERROR_INIT;
    CompleteSegment late;

    (void)state;
    set_up(&fixture);
    start(&fixture);
    late = make_segment(&fixture, 8);
    assert_int_equal(unlink(temp_dir_path(&fixture.dir, "000000010000000000000008.partial")), 0);
    assert_true(completion_add(fixture.completion, &late, &fixture.err));
    assert_false(completion_drain(fixture.completion, &fixture.err));
    assert_int_equal(fixture.err.sys_errno, ENOENT);
    assert_false(completion_check(fixture.completion, &again));
    assert_string_equal(again.message, fixture.err.message);
    assert_false(completion_sync(fixture.completion, &again));
    assert_false(add(&fixture, 9));
    assert_string_equal(again.message, fixture.err.message);
    completion_halt(fixture.completion);
    assert_true(temp_dir_exists(&fixture.dir, "000000010000000000000009.partial"));
    assert_int_equal(durable_mark_get(&fixture.mark), 0);
    tear_down(&fixture);
}

/* A large segment is compressed in pieces, and left in the middle. */
static void
test_compression_ends_early(void **state)
{
    static const CompressionMethod methods[] = {COMPRESSION_GZIP, COMPRESSION_LZ4,
                                                COMPRESSION_ZSTD};

    (void)state;
    for (size_t i = 0; i < sizeof methods / sizeof methods[0]; i++) {
        Fixture fixture;

        set_up(&fixture);
        fixture.config.segment_size = 1u << 30;
        fixture.config.compression.method = methods[i];
        start(&fixture);
        gate.hold_at = 3;
        assert_true(add(&fixture, 1));
        await_reads(3);
        completion_halt(fixture.completion);
        assert_int_equal(gate.reads, 3);
        assert_true(completion_check(fixture.completion, &fixture.err) ||
                    fixture.err.code == ERR_STOPPED);
        completion_free(fixture.completion);
        fixture.completion = NULL;
        assert_true(temp_dir_exists(&fixture.dir, "000000010000000000000001.partial"));
        assert_false(temp_dir_exists(&fixture.dir, "000000010000000000000001.tmp.gz"));
        assert_false(temp_dir_exists(&fixture.dir, "000000010000000000000001.tmp.lz4"));
        assert_false(temp_dir_exists(&fixture.dir, "000000010000000000000001.tmp.zst"));
        tear_down(&fixture);
    }
}

static void
test_bad_level(void **state)
{
    Fixture fixture;

    (void)state;
    set_up(&fixture);
    fixture.config.compression = (Compression){.method = COMPRESSION_GZIP, .level = 77};
    assert_null(completion_new(&fixture.config, &fixture.err));
    assert_int_not_equal(fixture.err.code, ERR_NONE);
    tear_down(&fixture);
}

/* ---- room ---- */

static int
await_room(Fixture *fixture)
{
    int room;

    while ((room = completion_take_room(fixture->completion)) < 0)
        (void)sched_yield();
    return room;
}

static void
test_room(void **state)
{
    Fixture fixture;

    (void)state;
    set_up(&fixture);
    start(&fixture);
    assert_int_equal(completion_take_room(fixture.completion), -1);
    for (int i = 0; i < 3; i++) {
        struct stat st;
        int room;

        completion_want_room(fixture.completion);
        completion_want_room(fixture.completion);
        room = await_room(&fixture);
        assert_int_equal(fstat(room, &st), 0);
        assert_int_equal(st.st_size, MB);
        assert_int_equal(completion_take_room(fixture.completion), -1);
        assert_int_equal(close(room), 0);
    }
    /* One that nobody takes is gone with the rest. */
    completion_want_room(fixture.completion);
    assert_true(add(&fixture, 1));
    assert_true(completion_drain(fixture.completion, &fixture.err));
    tear_down(&fixture);
}

/* It is no failure that there is none. */
static void
test_room_cannot_be_made(void **state)
{
    Fixture fixture;

    (void)state;
    set_up(&fixture);
    fixture.config.directory = temp_dir_path(&fixture.dir, "missing");
    start(&fixture);
    for (int i = 0; i < 100; i++) {
        completion_want_room(fixture.completion);
        assert_int_equal(completion_take_room(fixture.completion), -1);
        assert_true(completion_check(fixture.completion, &fixture.err));
    }
    tear_down(&fixture);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nothing_to_do),       cmocka_unit_test(test_many_segments),
        cmocka_unit_test(test_after_a_failure),     cmocka_unit_test(test_compression_ends_early),
        cmocka_unit_test(test_bad_level),           cmocka_unit_test(test_room),
        cmocka_unit_test(test_room_cannot_be_made),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
