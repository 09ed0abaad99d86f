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
    DurableMark written;
    Completion *completion;
    size_t open_before;
    Error err;
} Fixture;

static void
set_up(Fixture *fixture)
{
    *fixture = (Fixture){.err = ERROR_INIT, .open_before = descriptors_open()};
    atomic_init(&fixture->mark.lsn, 0);
    atomic_init(&fixture->written.lsn, 0);
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

/* The same in memory. */
static CompleteSegment
make_in_memory(Fixture *fixture, uint64_t number)
{
    const uint32_t size = fixture->config.segment_size;
    CompleteSegment segment = {.file = SEGMENT_FILE_NONE,
                               .end = wal_segment_start(number + 1, size)};

    wal_segment_name(segment.name, 1, number, size);
    assert_true(completion_lend_memory(fixture->completion, &segment.bytes, &fixture->err));
    assert_non_null(segment.bytes);
    memset(segment.bytes, (int)number, size);
    return segment;
}

static bool
add_in_memory(Fixture *fixture, uint64_t number)
{
    CompleteSegment segment = make_in_memory(fixture, number);

    return completion_add(fixture->completion, &segment, &fixture->err);
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

/* ---- memory ---- */

/* A fixture that has some. */
static void
set_up_memory(Fixture *fixture)
{
    set_up(fixture);
    fixture->config.compression.method = COMPRESSION_LZ4;
    fixture->config.written = &fixture->written;
    start(fixture);
}

static void
test_who_has_memory(void **state)
{
    Fixture fixture;
    WalDirConfig other;

    (void)state;
    set_up_memory(&fixture);
    other = fixture.config;
    assert_in_range(completion_memory_for(&other), 3, 6);
    other.segment_size = COMPLETION_MEMORY_MAX;
    assert_in_range(completion_memory_for(&other), 3, 6);
    other.segment_size = 2 * COMPLETION_MEMORY_MAX;
    assert_int_equal(completion_memory_for(&other), 0);

    other = fixture.config;
    other.compression.method = COMPRESSION_NONE;
    assert_int_equal(completion_memory_for(&other), 0);
    other = fixture.config;
    other.sync = WAL_NO_SYNC;
    assert_int_equal(completion_memory_for(&other), 0);
    other = fixture.config;
    other.write_ahead = true;
    assert_int_equal(completion_memory_for(&other), 0);
    tear_down(&fixture);
}

/* It does not wait for what it never gives. */
static void
test_no_memory_is_lent(void **state)
{
    Fixture fixture;
    uint8_t *bytes = (uint8_t *)&fixture;

    (void)state;
    set_up(&fixture);
    start(&fixture);
    assert_true(completion_lend_memory(fixture.completion, &bytes, &fixture.err));
    assert_null(bytes);
    completion_return_memory(fixture.completion, bytes);
    tear_down(&fixture);
}

typedef struct Loan {
    Fixture *fixture;
    uint8_t *bytes;
} Loan;

static void *
lend(void *arg)
{
    Loan *loan = arg;
    Error err = ERROR_INIT;

    return completion_lend_memory(loan->fixture->completion, &loan->bytes, &err) ? arg : NULL;
}

/* When all is lent, there is only what comes back. */
static void
test_memory_is_bounded(void **state)
{
    Fixture fixture;
    uint8_t *lent[COMPLETION_QUEUE];
    Loan last = {.fixture = &fixture};
    pthread_t borrower;
    size_t count;

    (void)state;
    set_up_memory(&fixture);
    count = completion_memory_for(&fixture.config);
    assert_in_range(count, 1, COMPLETION_QUEUE);
    for (size_t i = 0; i < count; i++) {
        assert_true(completion_lend_memory(fixture.completion, &lent[i], &fixture.err));
        memset(lent[i], (int)i, MB);
    }
    assert_int_equal(pthread_create(&borrower, NULL, lend, &last), 0);
    completion_return_memory(fixture.completion, lent[1]);
    assert_int_equal(pthread_join(borrower, NULL), 0);
    assert_ptr_equal(last.bytes, lent[1]);
    for (size_t i = 0; i < count; i++) {
        assert_int_equal(lent[i][MB - 1], i);
        completion_return_memory(fixture.completion, lent[i]);
    }
    tear_down(&fixture);
}

static void
assert_all_compressed(Fixture *fixture, uint64_t last)
{
    char name[WAL_NAME_SIZE];
    char file[WAL_NAME_SIZE + 16];

    for (uint64_t number = 1; number <= last; number++) {
        wal_segment_name(name, 1, number, (uint32_t)MB);
        (void)snprintf(file, sizeof file, "%s.lz4", name);
        assert_true(temp_dir_exists(&fixture->dir, file));
        (void)snprintf(file, sizeof file, "%s.partial", name);
        assert_false(temp_dir_exists(&fixture->dir, file));
    }
}

/* With FLUSHes among them, which may meet a segment in any state. */
static void
test_many_segments_in_memory(void **state)
{
    static const uint64_t rarities[] = {1, 2, 3, 7};

    (void)state;
    for (size_t i = 0; i < sizeof rarities / sizeof rarities[0]; i++) {
        Fixture fixture;

        set_up_memory(&fixture);
        for (uint64_t number = 1; number <= 100; number++) {
            bool in_file = number % 5 == 0; /* settled before it was complete */

            assert_true(in_file ? add(&fixture, number) : add_in_memory(&fixture, number));
            if (number % rarities[i] == 0)
                assert_true(completion_sync(fixture.completion, &fixture.err));
            assert_true(durable_mark_get(&fixture.mark) <= durable_mark_get(&fixture.written));
        }
        assert_true(completion_drain(fixture.completion, &fixture.err));
        assert_int_equal(durable_mark_get(&fixture.mark), 101 * MB);
        assert_int_equal(durable_mark_get(&fixture.written), 101 * MB);
        assert_all_compressed(&fixture, 100);
        tear_down(&fixture);
    }
}

/* Nothing is written any more, and nothing leaks. */
static void
test_halt_with_segments_in_memory(void **state)
{
    Fixture fixture;
    CompleteSegment late;

    (void)state;
    set_up_memory(&fixture);
    late = make_in_memory(&fixture, 3);
    assert_true(add_in_memory(&fixture, 1));
    assert_true(add_in_memory(&fixture, 2));
    completion_halt(fixture.completion);
    completion_return_memory(fixture.completion, late.bytes);
    assert_false(temp_dir_exists(&fixture.dir, "000000010000000000000001.partial"));
    assert_false(temp_dir_exists(&fixture.dir, "000000010000000000000002.partial"));
    tear_down(&fixture);
}

/* Who adds after a failure gives its memory back nevertheless. */
static void
test_failure_with_segments_in_memory(void **state)
{
    Fixture fixture;
    CompleteSegment late;
    CompleteSegment next;
    uint8_t *bytes;
    Error err = ERROR_INIT;

    (void)state;
    set_up_memory(&fixture);
    temp_dir_mkdir(&fixture.dir, "000000010000000000000001.tmp.lz4");
    late = make_in_memory(&fixture, 1);
    next = make_in_memory(&fixture, 2);
    assert_true(completion_add(fixture.completion, &late, &fixture.err));
    assert_false(completion_drain(fixture.completion, &fixture.err));
    assert_false(completion_add(fixture.completion, &next, &err));
    assert_string_equal(err.message, fixture.err.message);
    assert_false(completion_lend_memory(fixture.completion, &bytes, &err));
    completion_halt(fixture.completion);
    tear_down(&fixture);
}

/* Preparing ends between two pieces, also when they are in memory. */
static void
test_compression_of_memory_ends_early(void **state)
{
    const atomic_bool ending = true;
    Fixture fixture;
    SegmentTools tools;
    SegmentJob job;

    (void)state;
    set_up_memory(&fixture);
    assert_true(segment_tools_init(&tools, &fixture.config, &ending, &fixture.err));
    job = (SegmentJob){.segment = make_in_memory(&fixture, 1)};
    assert_false(segment_job_prepare(&job, &tools, &fixture.err));
    assert_int_equal(fixture.err.code, ERR_STOPPED);
    completion_return_memory(fixture.completion, job.segment.bytes);
    segment_job_free(&job);
    assert_false(temp_dir_exists(&fixture.dir, "000000010000000000000001.tmp.lz4"));
    segment_tools_free(&tools);
    tear_down(&fixture);
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
        cmocka_unit_test(test_nothing_to_do),
        cmocka_unit_test(test_many_segments),
        cmocka_unit_test(test_after_a_failure),
        cmocka_unit_test(test_compression_ends_early),
        cmocka_unit_test(test_bad_level),
        cmocka_unit_test(test_room),
        cmocka_unit_test(test_room_cannot_be_made),
        cmocka_unit_test(test_who_has_memory),
        cmocka_unit_test(test_no_memory_is_lent),
        cmocka_unit_test(test_memory_is_bounded),
        cmocka_unit_test(test_many_segments_in_memory),
        cmocka_unit_test(test_halt_with_segments_in_memory),
        cmocka_unit_test(test_failure_with_segments_in_memory),
        cmocka_unit_test(test_compression_of_memory_ends_early),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
