/*
 * Failure totality of compress and decompress: the n-th call of an allocator or of a compression
 * library fails, for n until none is left, and so does the run, with one Error that says why; the
 * sanitizers look after what is lost. The linker leads the calls here (--wrap, see CMakeLists.txt).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define LZ4F_STATIC_LINKING_ONLY /* the numbers of its errors */
#define ZLIB_CONST
#include <libdeflate.h>
#include <lz4frame.h>
#include <zlib.h>
#include <zstd.h>
#include <zstd_errors.h>

#include "stream/compression.h"
#include "support/chunker.h"
#include "support/recorder.h"

/* ---- injection ---- */

static atomic_size_t call_count; /* workers call, too */
static size_t fail_at;           /* 0: the calls are not counted */
static bool not_memory;          /* the libraries fail for another reason */
static bool fail_workers;        /* a libzstd without threads */

static bool
fails(void)
{
    return fail_at != 0 && atomic_fetch_add(&call_count, 1) + 1 == fail_at;
}

static int
zlib_failure(void)
{
    return not_memory ? Z_STREAM_ERROR : Z_MEM_ERROR;
}

static size_t
lz4_failure(void)
{
    return (size_t)0 - (not_memory ? LZ4F_ERROR_GENERIC : LZ4F_ERROR_allocation_failed);
}

static size_t
zstd_failure(void)
{
    return (size_t)0 - (not_memory ? ZSTD_error_GENERIC : ZSTD_error_memory_allocation);
}

/* WRAP(type, function, parameters, arguments, what it returns when it fails) */
#define WRAP(type, function, parameters, arguments, failure)                                       \
    type __real_##function parameters;                                                             \
    type __wrap_##function parameters;                                                             \
    type __wrap_##function parameters                                                              \
    {                                                                                              \
        return fails() ? (failure) : __real_##function arguments;                                  \
    }

WRAP(void *, malloc, (size_t size), (size), NULL)
WRAP(void *, calloc, (size_t count, size_t size), (count, size), NULL)
WRAP(void *, realloc, (void *block, size_t size), (block, size), NULL)

WRAP(struct libdeflate_compressor *, libdeflate_alloc_compressor, (int level), (level), NULL)
WRAP(int, inflateInit2_, (z_streamp zlib, int window_bits, const char *version, int size),
     (zlib, window_bits, version, size), zlib_failure())
WRAP(int, inflateReset, (z_streamp zlib), (zlib), zlib_failure())
WRAP(int, inflate, (z_streamp zlib, int flush), (zlib, flush), zlib_failure())

WRAP(size_t, LZ4F_createCompressionContext, (LZ4F_cctx * *lz4, unsigned version), (lz4, version),
     lz4_failure())
WRAP(size_t, LZ4F_compressBegin,
     (LZ4F_cctx * lz4, void *out, size_t room, const LZ4F_preferences_t *preferences),
     (lz4, out, room, preferences), lz4_failure())
WRAP(size_t, LZ4F_compressUpdate,
     (LZ4F_cctx * lz4, void *out, size_t room, const void *in, size_t len,
      const LZ4F_compressOptions_t *options),
     (lz4, out, room, in, len, options), lz4_failure())
WRAP(size_t, LZ4F_flush,
     (LZ4F_cctx * lz4, void *out, size_t room, const LZ4F_compressOptions_t *options),
     (lz4, out, room, options), lz4_failure())
WRAP(size_t, LZ4F_compressEnd,
     (LZ4F_cctx * lz4, void *out, size_t room, const LZ4F_compressOptions_t *options),
     (lz4, out, room, options), lz4_failure())
WRAP(size_t, LZ4F_createDecompressionContext, (LZ4F_dctx * *lz4, unsigned version), (lz4, version),
     lz4_failure())
WRAP(size_t, LZ4F_decompress,
     (LZ4F_dctx * lz4, void *out, size_t *room, const void *in, size_t *len,
      const LZ4F_decompressOptions_t *options),
     (lz4, out, room, in, len, options), lz4_failure())

WRAP(ZSTD_CCtx *, ZSTD_createCCtx, (void), (), NULL)
WRAP(size_t, ZSTD_CCtx_reset, (ZSTD_CCtx * zstd, ZSTD_ResetDirective what), (zstd, what),
     zstd_failure())
WRAP(size_t, ZSTD_compressStream2,
     (ZSTD_CCtx * zstd, ZSTD_outBuffer *out, ZSTD_inBuffer *in, ZSTD_EndDirective end),
     (zstd, out, in, end), zstd_failure())
WRAP(ZSTD_DCtx *, ZSTD_createDCtx, (void), (), NULL)
WRAP(size_t, ZSTD_DCtx_setParameter, (ZSTD_DCtx * zstd, ZSTD_dParameter parameter, int value),
     (zstd, parameter, value), zstd_failure())
WRAP(size_t, ZSTD_DCtx_reset, (ZSTD_DCtx * zstd, ZSTD_ResetDirective what), (zstd, what),
     zstd_failure())
WRAP(size_t, ZSTD_decompressStream, (ZSTD_DCtx * zstd, ZSTD_outBuffer *out, ZSTD_inBuffer *in),
     (zstd, out, in), zstd_failure())

size_t __real_libdeflate_deflate_compress(struct libdeflate_compressor *libdeflate, const void *in,
                                          size_t len, void *out, size_t room);
size_t __wrap_libdeflate_deflate_compress(struct libdeflate_compressor *libdeflate, const void *in,
                                          size_t len, void *out, size_t room);

/* It takes no memory, so it never fails for want of it. */
size_t
__wrap_libdeflate_deflate_compress(struct libdeflate_compressor *libdeflate, const void *in,
                                   size_t len, void *out, size_t room)
{
    if (not_memory && fails())
        return 0;
    return __real_libdeflate_deflate_compress(libdeflate, in, len, out, room);
}

size_t __real_ZSTD_CCtx_setParameter(ZSTD_CCtx *zstd, ZSTD_cParameter parameter, int value);
size_t __wrap_ZSTD_CCtx_setParameter(ZSTD_CCtx *zstd, ZSTD_cParameter parameter, int value);

size_t
__wrap_ZSTD_CCtx_setParameter(ZSTD_CCtx *zstd, ZSTD_cParameter parameter, int value)
{
    if (fail_workers && parameter == ZSTD_c_nbWorkers && value != 0)
        return (size_t)0 - ZSTD_error_parameter_unsupported;
    return fails() ? zstd_failure() : __real_ZSTD_CCtx_setParameter(zstd, parameter, value);
}

/* ---- the run: two archives through both stages, with a flush ---- */

static bool
push_archive(Sink *sink, const char *name, Span data, Error *err)
{
    return sink_archive_begin(sink, &(Archive){.name = name}, err) &&
           chunk_push(sink, data, 1000, err) && sink_flush(sink, 1, err) &&
           sink_archive_end(sink, err);
}

static bool
run(const Compression *compression, Span data, Error *err)
{
    Recording recording = RECORDING_INIT;
    Sink *sink = recorder_new(&recording, err);
    bool ok;

    sink = decompress_new(sink, compression->method, err);
    sink = compress_new(sink, compression, err);
    ok = sink != NULL && push_archive(sink, "base.tar", data, err) &&
         push_archive(sink, "16385.tar", data, err) && sink_finish(sink, err);
    sink_free(sink);
    assert_true(!ok || recording.finished);
    recording_free(&recording);
    return ok;
}

static void
make_data(uint8_t *data, size_t len)
{
    for (size_t i = 0; i < len; i++)
        data[i] = (uint8_t)(i * i / 7);
}

/* Why it may fail: for want of memory, or of what a library says for once. */
static void
expect_reason(const Error *err, size_t n)
{
    bool parameter = err->code == ERR_UNSUPPORTED;
    bool expected = not_memory ? err->code == ERR_BUG || err->code == ERR_FORMAT ||
                                     err->code == ERR_MEMORY || parameter
                               : err->code == ERR_MEMORY || parameter;

    if (!expected)
        fail_msg("call %zu: error %d, \"%s\"", n, (int)err->code, err->message);
    assert_true(!parameter || strncmp(err->message, "could not ", 10) == 0);
}

/* How many calls there were to fail. */
static size_t
fail_one_after_the_other(const Compression *compression)
{
    uint8_t data[5000];
    size_t n = 0;
    bool ok;

    make_data(data, sizeof data);
    do {
        Error err = ERROR_INIT;

        atomic_store(&call_count, 0);
        fail_at = ++n;
        ok = run(compression, (Span){.data = data, .len = sizeof data}, &err);
        fail_at = 0;
        if (ok != (call_count < n))
            fail_msg("call %zu of %zu failed and the run did not: \"%s\"", n, call_count,
                     err.message);
        if (!ok)
            expect_reason(&err, n);
    } while (!ok);
    return n - 1;
}

static const Compression compressions[] = {
    {.method = COMPRESSION_GZIP, .level = COMPRESSION_GZIP_DEFAULT},
    {.method = COMPRESSION_GZIP, .level = 9, .workers = 2},
    {.method = COMPRESSION_LZ4},
    {.method = COMPRESSION_ZSTD,
     .level = 3,
     .workers = 2,
     .has_workers = true,
     .long_distance = true},
    {.method = COMPRESSION_ZSTD, .level = 3, .workers = 2, .has_workers = true},
};

#define COMPRESSIONS (sizeof compressions / sizeof compressions[0])

static void
test_every_call_fails_once_for_want_of_memory(void **state)
{
    (void)state;
    not_memory = false;
    for (size_t i = 0; i < COMPRESSIONS; i++)
        assert_in_range(fail_one_after_the_other(&compressions[i]), 30, 500);
}

static void
test_every_call_fails_once_for_another_reason(void **state)
{
    (void)state;
    not_memory = true;
    for (size_t i = 0; i < COMPRESSIONS; i++)
        assert_in_range(fail_one_after_the_other(&compressions[i]), 30, 500);
}

static void
test_workers_that_the_library_does_not_have(void **state)
{
    Compression compression = {
        .method = COMPRESSION_ZSTD, .level = 3, .workers = 3, .has_workers = true};
    Recording recording = RECORDING_INIT;
    Error err = ERROR_INIT;

    (void)state;
    fail_workers = true;
    assert_null(compress_new(recorder_new(&recording, &err), &compression, &err));
    assert_int_equal(recording.released, 1);
    assert_int_equal(err.code, ERR_UNSUPPORTED);
    assert_string_equal(err.message,
                        "could not set compression worker count to 3: Unsupported parameter");
    compression.has_workers = false; /* they were our idea */
    assert_true(run(&compression, span_of("content"), &err));
    compression.workers = 0;
    assert_true(run(&compression, span_of("content"), &err));
    fail_workers = false;
    recording_free(&recording);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_call_fails_once_for_want_of_memory),
        cmocka_unit_test(test_every_call_fails_once_for_another_reason),
        cmocka_unit_test(test_workers_that_the_library_does_not_have),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
