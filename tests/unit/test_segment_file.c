/*
 * NAME.partial while it is written, and the room that is made for the next one. What the file
 * system says to a reservation is the test's (linked with --wrap).
 */
#include <errno.h>
#include <fcntl.h>
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

#include "support/descriptors.h"
#include "support/temp_dir.h"
#include "walrecv/internal.h"

#define MB           ((size_t)1024 * 1024)
#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define NAME         "000000010000000000000003"

static int reserve_failures[4]; /* what the next calls say; 0: what the system says */
static size_t reserve_calls;

int __real_fallocate64(int fd, int mode, off_t offset, off_t len);
int __wrap_fallocate64(int fd, int mode, off_t offset, off_t len);

int
__wrap_fallocate64(int fd, int mode, off_t offset, off_t len)
{
    int failure = reserve_calls < COUNT(reserve_failures) ? reserve_failures[reserve_calls] : 0;

    reserve_calls++;
    assert_int_equal(mode, 0);
    if (failure == 0)
        return __real_fallocate64(fd, mode, offset, len);
    errno = failure;
    return -1;
}

typedef struct Fixture {
    TempDir dir;
    WalDirConfig config;
    SegmentFile file;
    Error err;
} Fixture;

static void
set_up(Fixture *fixture)
{
    *fixture = (Fixture){.file = SEGMENT_FILE_NONE, .err = ERROR_INIT};
    temp_dir_make(&fixture->dir);
    fixture->config = (WalDirConfig){.directory = fixture->dir.path,
                                     .segment_size = (uint32_t)MB,
                                     .file_mode = 0600,
                                     .sync = WAL_DURABLE};
    memset(reserve_failures, 0, sizeof reserve_failures);
    reserve_calls = 0;
}

static void
tear_down(Fixture *fixture)
{
    segment_file_free(&fixture->file);
    temp_dir_remove(&fixture->dir);
}

static bool
open_file(Fixture *fixture)
{
    return segment_file_open(&fixture->config, NAME, &fixture->file, &fixture->err);
}

/* `len` bytes `fill`, then zeros up to `size`. */
static void
assert_bytes(Fixture *fixture, uint8_t fill, size_t len, size_t size)
{
    Buf content = temp_dir_read(&fixture->dir, NAME ".partial");

    assert_int_equal(content.len, size);
    for (size_t i = 0; i < size; i++) {
        if (content.data[i] != (i < len ? fill : 0))
            fail_msg("byte %zu is %d", i, content.data[i]);
    }
    buf_free(&content);
}

static void
leave(Fixture *fixture, uint8_t fill, size_t len)
{
    uint8_t *bytes = malloc(len + 1);

    assert_non_null(bytes);
    memset(bytes, fill, len);
    temp_dir_write(&fixture->dir, NAME ".partial", bytes, len);
    free(bytes);
}

/* ---- opening ---- */

static void
test_sizes_before(void **state)
{
    static const size_t sizes[] = {0, 1, 8191, 500000, 1024 * 1024, 1024 * 1024 + 1};
    static const int failures[] = {0, EOPNOTSUPP, ENOSYS, EINVAL};

    (void)state;
    for (size_t i = 0; i < COUNT(sizes) * COUNT(failures); i++) {
        size_t size = sizes[i % COUNT(sizes)];
        Fixture fixture;

        set_up(&fixture);
        reserve_failures[0] = failures[i / COUNT(sizes)];
        leave(&fixture, 7, size);
        assert_true(open_file(&fixture));
        assert_bytes(&fixture, 7, size, size > MB ? size : MB);
        tear_down(&fixture);
    }
}

static void
test_interrupted_reservation(void **state)
{
    Fixture fixture;

    (void)state;
    set_up(&fixture);
    reserve_failures[0] = reserve_failures[1] = EINTR;
    assert_true(open_file(&fixture));
    assert_int_equal(reserve_calls, 3);
    assert_bytes(&fixture, 0, 0, MB);
    tear_down(&fixture);
}

static void
test_no_space(void **state)
{
    static const int failures[] = {ENOSPC, EDQUOT, EIO, EFBIG};

    (void)state;
    for (size_t i = 0; i < COUNT(failures); i++) {
        size_t open_before = descriptors_open();
        Fixture fixture;

        set_up(&fixture);
        fixture.config.segment_size = (uint32_t)(16 * MB);
        reserve_failures[0] = failures[i];
        leave(&fixture, 7, 500000);
        assert_false(open_file(&fixture));
        assert_int_equal(fixture.err.code, ERR_SYSTEM);
        assert_int_equal(fixture.err.sys_errno, failures[i]);
        assert_non_null(strstr(fixture.err.message, "could not reserve 16777216 bytes for file"));
        assert_bytes(&fixture, 7, 500000, 500000);
        assert_int_equal(descriptors_open(), open_before);
        tear_down(&fixture);
    }
}

static void
test_mode(void **state)
{
    mode_t before = umask(0077);
    Fixture fixture;

    (void)state;
    set_up(&fixture);
    fixture.config.file_mode = 0640;
    assert_true(open_file(&fixture));
    (void)umask(before);
    assert_int_equal(temp_dir_mode(&fixture.dir, NAME ".partial"), S_IFREG | 0640);
    tear_down(&fixture);
}

/* ---- writing ---- */

static void
test_write_and_pad(void **state)
{
    uint8_t bytes[100];
    Fixture fixture;

    (void)state;
    set_up(&fixture);
    leave(&fixture, 7, MB);
    memset(bytes, 9, sizeof bytes);
    assert_true(open_file(&fixture));
    for (size_t at = 0; at < 1000; at += sizeof bytes)
        assert_true(segment_file_write(&fixture.file, (Span){.data = bytes, .len = sizeof bytes},
                                       at, &fixture.err));
    assert_true(segment_file_pad(&fixture.file, 1000, &fixture.err));
    assert_true(segment_file_sync(&fixture.file, &fixture.err));
    assert_bytes(&fixture, 9, 1000, MB);
    assert_true(segment_file_pad(&fixture.file, MB, &fixture.err));
    assert_bytes(&fixture, 9, 1000, MB);
    assert_true(segment_file_close(&fixture.file, &fixture.err));
    assert_int_equal(fixture.file.fd, -1);
    assert_non_null(strstr(fixture.file.path, NAME ".partial"));
    tear_down(&fixture);
}

static void
test_trim(void **state)
{
    Fixture fixture;

    (void)state;
    set_up(&fixture);
    leave(&fixture, 7, MB + 4097);
    assert_true(open_file(&fixture));
    assert_true(segment_file_trim(&fixture.file, &fixture.err));
    assert_bytes(&fixture, 7, MB, MB);
    assert_true(segment_file_trim(&fixture.file, &fixture.err));
    assert_bytes(&fixture, 7, MB, MB);
    assert_int_equal(ftruncate(fixture.file.fd, (off_t)(MB - 1)), 0);
    assert_false(segment_file_trim(&fixture.file, &fixture.err));
    assert_int_equal(fixture.err.code, ERR_FORMAT);
    assert_non_null(strstr(fixture.err.message, "has 1048575 bytes, should be 1048576"));
    tear_down(&fixture);
}

/* ---- much at once, and back ---- */

static const uint8_t *
noise(void)
{
    static uint8_t bytes[1024 * 1024];

    for (size_t i = 0; i < MB; i++)
        bytes[i] = (uint8_t)(1 + (i * 31 + i / 251) % 255);
    return bytes;
}

/* What is behind stays. */
static void
test_fill(void **state)
{
    static const size_t lengths[] = {0, 1, 128 * 1024 - 1, 128 * 1024, 128 * 1024 + 1, MB};

    (void)state;
    for (size_t i = 0; i < COUNT(lengths); i++) {
        const Span bytes = {.data = noise(), .len = lengths[i]};
        Fixture fixture;
        Buf content;

        set_up(&fixture);
        leave(&fixture, 7, MB);
        assert_true(open_file(&fixture));
        assert_true(segment_file_fill(&fixture.file, bytes, &fixture.err));
        content = temp_dir_read(&fixture.dir, NAME ".partial");
        assert_int_equal(content.len, MB);
        assert_memory_equal(content.data, bytes.data, bytes.len);
        for (size_t at = bytes.len; at < MB; at++)
            assert_int_equal(content.data[at], 7);
        buf_free(&content);
        tear_down(&fixture);
    }
}

/* From the beginning, in pieces of this length, and then no more. */
static void
assert_reads_back(SegmentBytes *bytes, size_t len)
{
    Error err = ERROR_INIT;
    Span piece;
    size_t at = 0;

    assert_true(segment_bytes_rewind(bytes, &err));
    do {
        assert_true(segment_bytes_next(bytes, len, &piece, &err));
        assert_int_equal(piece.len, MB - at < len ? MB - at : len);
        if (piece.len > 0)
            assert_memory_equal(piece.data, noise() + at, piece.len);
        at += piece.len;
    } while (piece.len > 0);
    assert_int_equal(at, MB);
    assert_int_equal(bytes->at, MB);
}

/* Wherever it is; reading has a place of its own, which writing does not move. */
static void
test_bytes(void **state)
{
    static const size_t lengths[] = {1000, 65536, 65537, MB};
    CompleteSegment segment = {.name = NAME, .file = SEGMENT_FILE_NONE};
    SegmentBytes bytes = {.segment = &segment, .size = MB, .buffer = malloc(MB)};
    Fixture fixture;

    (void)state;
    assert_non_null(bytes.buffer);
    set_up(&fixture);
    segment.bytes = malloc(MB);
    assert_non_null(segment.bytes);
    memcpy(segment.bytes, noise(), MB);
    for (size_t i = 0; i < COUNT(lengths); i++)
        assert_reads_back(&bytes, lengths[i]);
    free(segment.bytes);
    segment.bytes = NULL;

    assert_true(open_file(&fixture));
    segment.file = fixture.file;
    assert_true(segment_file_fill(&segment.file, (Span){.data = noise(), .len = MB}, &fixture.err));
    for (size_t i = 0; i < COUNT(lengths); i++) {
        assert_reads_back(&bytes, lengths[i]);
        assert_true(
            segment_file_write(&segment.file, (Span){.data = noise(), .len = 5}, 0, &fixture.err));
    }
    free(bytes.buffer);
    tear_down(&fixture);
}

/* A file that has become shorter gives what there is; one that cannot be read gives nothing. */
static void
test_bytes_of_a_bad_file(void **state)
{
    CompleteSegment segment = {.name = NAME};
    uint8_t buffer[100];
    SegmentBytes bytes = {.segment = &segment, .size = MB, .buffer = buffer};
    Fixture fixture;
    Span piece;

    (void)state;
    set_up(&fixture);
    assert_true(open_file(&fixture));
    segment.file = fixture.file;
    assert_int_equal(ftruncate(segment.file.fd, 70), 0);
    assert_true(segment_bytes_rewind(&bytes, &fixture.err));
    assert_true(segment_bytes_next(&bytes, sizeof buffer, &piece, &fixture.err));
    assert_int_equal(piece.len, 70);
    assert_true(segment_bytes_next(&bytes, sizeof buffer, &piece, &fixture.err));
    assert_int_equal(piece.len, 0);

    segment.file.fd = -1;
    assert_false(segment_bytes_next(&bytes, sizeof buffer, &piece, &fixture.err));
    assert_int_equal(fixture.err.sys_errno, EBADF);
    assert_false(segment_bytes_rewind(&bytes, &fixture.err));
    assert_non_null(strstr(fixture.err.message, "could not seek in file"));
    tear_down(&fixture);
}

/* ---- room ---- */

static void
test_room_becomes_the_file(void **state)
{
    const atomic_bool ending = false;
    size_t open_before = descriptors_open();
    Fixture fixture;
    struct stat st;
    int room;

    (void)state;
    set_up(&fixture);
    room = segment_room_make(&fixture.config, &ending);
    assert_true(room >= 0);
    assert_false(temp_dir_exists(&fixture.dir, NAME ".partial"));
    assert_int_equal(fstat(room, &st), 0);
    assert_int_equal(st.st_size, MB);
    assert_true((size_t)st.st_blocks * 512 >= MB);

    assert_true(segment_room_use(room, &fixture.config, NAME, &fixture.err));
    assert_true(open_file(&fixture));
    assert_bytes(&fixture, 0, 0, MB);
    assert_int_equal(fstat(fixture.file.fd, &st), 0);
    assert_true((size_t)st.st_blocks * 512 >= MB);
    assert_int_equal(st.st_nlink, 1);
    segment_file_free(&fixture.file);
    assert_int_equal(descriptors_open(), open_before);
    tear_down(&fixture);
}

/* Nothing is written over for the sake of room. */
static void
test_room_gives_way(void **state)
{
    const atomic_bool ending = false;
    Fixture fixture;
    int room;

    (void)state;
    set_up(&fixture);
    leave(&fixture, 7, 5000);
    room = segment_room_make(&fixture.config, &ending);
    assert_true(room >= 0);
    assert_true(segment_room_use(room, &fixture.config, NAME, &fixture.err));
    assert_int_equal(fcntl(room, F_GETFD), -1);
    assert_bytes(&fixture, 7, 5000, 5000);
    assert_true(segment_room_use(-1, &fixture.config, NAME, &fixture.err));
    tear_down(&fixture);
}

static void
test_no_room(void **state)
{
    const atomic_bool ending = true;
    const atomic_bool not_ending = false;
    size_t open_before = descriptors_open();
    Fixture fixture;

    (void)state;
    set_up(&fixture);
    assert_int_equal(segment_room_make(&fixture.config, &ending), -1);
    assert_int_equal(descriptors_open(), open_before);
    fixture.config.directory = temp_dir_path(&fixture.dir, "missing");
    assert_int_equal(segment_room_make(&fixture.config, &not_ending), -1);
    assert_int_equal(descriptors_open(), open_before);
    tear_down(&fixture);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sizes_before),
        cmocka_unit_test(test_interrupted_reservation),
        cmocka_unit_test(test_no_space),
        cmocka_unit_test(test_mode),
        cmocka_unit_test(test_write_and_pad),
        cmocka_unit_test(test_trim),
        cmocka_unit_test(test_fill),
        cmocka_unit_test(test_bytes),
        cmocka_unit_test(test_bytes_of_a_bad_file),
        cmocka_unit_test(test_room_becomes_the_file),
        cmocka_unit_test(test_room_gives_way),
        cmocka_unit_test(test_no_room),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
