/*
 * archive_read: what passes, what is told, and in which order, is the same whether the file is read
 * in a thread of its own or not.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <fcntl.h>
#include <unistd.h>

#include "support/compressed.h"
#include "support/recorder.h"
#include "support/temp_dir.h"
#include "verify/internal.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

#define PIECE ((size_t)256 * 1024) /* of the file that is read at once */

static const CompressionMethod methods[] = {COMPRESSION_NONE, COMPRESSION_GZIP, COMPRESSION_LZ4,
                                            COMPRESSION_ZSTD};

typedef struct Fixture {
    TempDir dir;
    Recording recording;
    uint64_t read; /* as it was told */
    size_t told;
    size_t enough; /* at so many calls; 0: never */
    size_t fail;   /* likewise */
    Error err;
} Fixture;

static int
setup(void **state)
{
    Fixture *f = calloc(1, sizeof *f);

    temp_dir_make(&f->dir);
    *state = f;
    return 0;
}

static int
teardown(void **state)
{
    Fixture *f = *state;

    recording_free(&f->recording);
    temp_dir_remove(&f->dir);
    free(f);
    return 0;
}

static const char *
file_name(CompressionMethod method)
{
    static char name[32];

    (void)snprintf(name, sizeof name, "base.tar%s", compression_suffix(method));
    return name;
}

static ReadNext
passed(void *ctx, size_t bytes, Error *err)
{
    Fixture *f = ctx;

    f->told++;
    f->read += bytes;
    if (f->told == f->fail)
        return error_set(err, ERR_STOPPED, "told to fail") ? READ_GO_ON : READ_FAILED;
    return f->told == f->enough ? READ_ENOUGH : READ_GO_ON;
}

static bool
read_file(Fixture *f, CompressionMethod method, bool threaded)
{
    ArchiveSource source = {.name = file_name(method),
                            .tablespace = 16385,
                            .threaded = threaded,
                            .passed = passed,
                            .ctx = f};
    Error err = ERROR_INIT;
    bool ok;

    recording_free(&f->recording);
    f->recording = (Recording){
        .text = BUF_INIT, .fail_at = f->recording.fail_at, .fail_finish = f->recording.fail_finish};
    f->read = 0;
    f->told = 0;
    source.fd = open(temp_dir_path(&f->dir, source.name), O_RDONLY | O_CLOEXEC);
    assert_true(source.fd >= 0);
    ok = archive_read(&source, recorder_new(&f->recording, &err), &err);
    (void)close(source.fd);
    f->err = err;
    assert_int_equal(f->recording.released, 1);
    return ok;
}

static Buf
content(size_t len)
{
    Buf bytes = BUF_INIT;
    Error err = ERROR_INIT;

    assert_true(buf_reserve(&bytes, len + 1, &err));
    for (size_t i = 0; i < len; i++)
        bytes.data[i] = (uint8_t)(i % 251 + (i >> 12));
    bytes.len = len;
    return bytes;
}

static Span
span(const Buf *buf)
{
    return (Span){.data = buf->data, .len = buf->len};
}

/* The file holds all of `bytes`; with `open` its end is missing. Returns its size. */
static size_t
put(Fixture *f, CompressionMethod method, Span bytes, bool open)
{
    Buf packed;
    size_t size;

    if (method == COMPRESSION_NONE) {
        temp_dir_write(&f->dir, file_name(method), bytes.data, bytes.len);
        return bytes.len;
    }
    packed = open ? compressed_open(method, bytes) : compressed(method, bytes);
    size = packed.len;
    temp_dir_write(&f->dir, file_name(method), packed.data, packed.len);
    buf_free(&packed);
    return size;
}

static void
assert_content(const Fixture *f, const Buf *bytes)
{
    assert_int_equal(f->recording.bytes.len, bytes->len);
    if (bytes->len > 0)
        assert_memory_equal(f->recording.bytes.data, bytes->data, bytes->len);
}

/* More than all blocks of the ring together, and sizes around its pieces. */
static void
test_whole(void **state)
{
    static const size_t sizes[] = {1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE, 20 * PIECE + 17};
    Fixture *f = *state;

    for (size_t i = 0; i < COUNT(sizes); i++) {
        Buf bytes = content(sizes[i]);

        for (size_t m = 0; m < COUNT(methods); m++) {
            size_t size = put(f, methods[m], span(&bytes), false);

            for (int threaded = 0; threaded <= 1; threaded++) {
                assert_true(read_file(f, methods[m], threaded == 1));
                assert_content(f, &bytes);
                assert_memory_equal(recording_text(&f->recording), "archive base.tar 16385\n", 23);
                assert_true(f->recording.finished);
                assert_int_equal(f->read, size);
            }
        }
        buf_free(&bytes);
    }
}

static void
test_empty(void **state)
{
    Fixture *f = *state;

    for (int threaded = 0; threaded <= 1; threaded++) {
        (void)put(f, COMPRESSION_NONE, span_of(""), false);
        assert_true(read_file(f, COMPRESSION_NONE, threaded == 1));
        assert_string_equal(recording_text(&f->recording),
                            "archive base.tar 16385\narchive end\nfinish\n");
        for (size_t m = 1; m < COUNT(methods); m++) {
            temp_dir_write(&f->dir, file_name(methods[m]), "", 0);
            assert_false(read_file(f, methods[m], threaded == 1));
            assert_int_equal(f->err.code, ERR_FORMAT);
            assert_string_equal(recording_text(&f->recording), "archive base.tar 16385\n");
        }
    }
}

/* All that is in front of the damage passes; then it is told, and nothing else ends. */
static void
test_damaged(void **state)
{
    static const size_t sizes[] = {1, 1000, 9 * PIECE + 5};
    Fixture *f = *state;

    for (size_t i = 0; i < COUNT(sizes); i++) {
        Buf bytes = content(sizes[i]);

        for (size_t m = 1; m < COUNT(methods); m++) {
            Error first = ERROR_INIT;

            (void)put(f, methods[m], span(&bytes), true);
            for (int threaded = 0; threaded <= 1; threaded++) {
                assert_false(read_file(f, methods[m], threaded == 1));
                assert_int_equal(f->err.code, ERR_FORMAT);
                if (threaded == 0)
                    first = f->err;
                assert_string_equal(f->err.message, first.message);
                assert_content(f, &bytes);
                assert_null(strstr(recording_text(&f->recording), "archive end"));
            }
        }
        buf_free(&bytes);
    }
}

/* Of two failures that of the chain is first: it is about what was in front of the damage. */
static void
test_failure_of_the_chain(void **state)
{
    Fixture *f = *state;
    Buf bytes = content(20 * PIECE);

    for (size_t m = 0; m < COUNT(methods); m++) {
        (void)put(f, methods[m], span(&bytes), true);
        for (int threaded = 0; threaded <= 1; threaded++) {
            for (size_t at = 1; at <= 3; at++) {
                f->recording.fail_at = at;
                assert_false(read_file(f, methods[m], threaded == 1));
                assert_int_equal(f->err.code, ERR_SYSTEM);
                assert_int_equal(f->recording.events, at);
                assert_false(f->recording.finished);
            }
        }
    }
    f->recording.fail_at = 0;
    f->recording.fail_finish = true;
    (void)put(f, COMPRESSION_ZSTD, span(&bytes), false);
    for (int threaded = 0; threaded <= 1; threaded++) {
        assert_false(read_file(f, COMPRESSION_ZSTD, threaded == 1));
        assert_int_equal(f->err.code, ERR_SYSTEM);
    }
    buf_free(&bytes);
}

/* Whoever has enough ends it with success, and without its end. */
static void
test_enough(void **state)
{
    Fixture *f = *state;
    Buf bytes = content(20 * PIECE);

    (void)put(f, COMPRESSION_NONE, span(&bytes), false);
    for (int threaded = 0; threaded <= 1; threaded++) {
        f->enough = 2;
        f->fail = 0;
        assert_true(read_file(f, COMPRESSION_NONE, threaded == 1));
        assert_int_equal(f->told, 2);
        assert_int_equal(f->read, 2 * PIECE);
        assert_int_equal(f->recording.bytes.len, 2 * PIECE);
        assert_false(f->recording.finished);

        f->enough = 0;
        f->fail = 3;
        assert_false(read_file(f, COMPRESSION_NONE, threaded == 1));
        assert_string_equal(f->err.message, "told to fail");
        assert_int_equal(f->recording.bytes.len, 3 * PIECE);
    }
    buf_free(&bytes);
}

/* A directory cannot be read, nor can a chain that nobody could make be used. */
static void
test_unreadable(void **state)
{
    Fixture *f = *state;
    ArchiveSource source = {.passed = passed, .ctx = f};

    for (size_t m = 0; m < COUNT(methods); m++) {
        for (int threaded = 0; threaded <= 1; threaded++) {
            Error err = ERROR_INIT;

            source.name = file_name(methods[m]);
            source.threaded = threaded == 1;
            recording_free(&f->recording);
            f->recording = RECORDING_INIT;
            source.fd = open(f->dir.path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
            assert_false(archive_read(&source, recorder_new(&f->recording, &err), &err));
            assert_int_equal(err.code, ERR_SYSTEM);
            assert_non_null(strstr(err.message, source.name));
            assert_int_equal(f->recording.released, 1);
            assert_false(archive_read(&source, NULL, &err));
            (void)close(source.fd);
        }
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_whole),   TEST(test_empty),
        TEST(test_damaged), TEST(test_failure_of_the_chain),
        TEST(test_enough),  TEST(test_unreadable),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
