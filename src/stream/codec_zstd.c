/*
 * zstd frames by libzstd, with a checksum of the content.
 *
 * What the stock server and tools write needs a window of at most 128 MiB to be read (level 22 and
 * long-distance mode). A frame that says it needs more is refused: that memory would be its
 * writer's choice, up to 2 GiB.
 */
#include <stdlib.h>
#include <zstd.h>
#include <zstd_errors.h>

#include "stream/internal.h"

#define ZSTD_WINDOW_LOG_ACCEPTED 27

/* Sizes of RFC 8878: what tells how long a frame's header is, and the header of a block. */
#define ZSTD_FRAME_START  5
#define ZSTD_BLOCK_HEADER 3

static CodecLevels
zstd_levels(void)
{
    return (CodecLevels){
        .min = ZSTD_minCLevel(), .max = ZSTD_maxCLevel(), .standard = ZSTD_CLEVEL_DEFAULT};
}

static bool
zstd_is_memory_failure(size_t result)
{
    return ZSTD_getErrorCode(result) == ZSTD_error_memory_allocation;
}

static bool
zstd_failure(size_t result, Error *err)
{
    if (zstd_is_memory_failure(result))
        return error_set_memory(err);
    return error_set(err, ERR_BUG, "zstd failed: %s", ZSTD_getErrorName(result));
}

/* ---- compression ---- */

/* What a worker takes at once. zstd would take four windows: three times the memory, for archives
 * that are smaller by less than half a percent. */
#define WORKER_JOB (2 * 1024 * 1024)

/* Pages seldom refer to what was long before them: to look into the end of the job before takes a
 * twentieth of the time, for archives that are not even smaller. */
#define WORKER_NO_OVERLAP 1

static bool
set_parameters(ZSTD_CCtx *zstd, const Compression *compression, Error *err)
{
    int workers = compression->workers;
    size_t result;

    result = ZSTD_CCtx_setParameter(zstd, ZSTD_c_compressionLevel, compression->level);
    if (ZSTD_isError(result))
        return error_set(err, ERR_UNSUPPORTED, "could not set zstd compression level to %d: %s",
                         compression->level, ZSTD_getErrorName(result));
    result = ZSTD_CCtx_setParameter(zstd, ZSTD_c_nbWorkers, workers);
    if (ZSTD_isError(result) && !compression->has_workers)
        workers = 0; /* the library has none: nobody asked for them */
    else if (ZSTD_isError(result))
        return error_set(err, ERR_UNSUPPORTED, "could not set compression worker count to %d: %s",
                         workers, ZSTD_getErrorName(result));
    if (workers > 0 && !compression->long_distance) {
        result = ZSTD_CCtx_setParameter(zstd, ZSTD_c_jobSize, WORKER_JOB);
        if (!ZSTD_isError(result))
            result = ZSTD_CCtx_setParameter(zstd, ZSTD_c_overlapLog, WORKER_NO_OVERLAP);
        if (ZSTD_isError(result))
            return zstd_failure(result, err);
    }
    result = ZSTD_CCtx_setParameter(zstd, ZSTD_c_enableLongDistanceMatching,
                                    compression->long_distance ? 1 : 0);
    if (ZSTD_isError(result))
        return error_set(err, ERR_UNSUPPORTED, "could not enable long-distance mode: %s",
                         ZSTD_getErrorName(result));
    result = ZSTD_CCtx_setParameter(zstd, ZSTD_c_checksumFlag, 1);
    return !ZSTD_isError(result) || zstd_failure(result, err);
}

static void *
zstd_compress_new(const Compression *compression, size_t *ret_room, Error *err)
{
    ZSTD_CCtx *zstd = ZSTD_createCCtx();

    if (zstd == NULL) {
        (void)error_set_memory(err);
        return NULL;
    }
    if (!set_parameters(zstd, compression, err)) {
        (void)ZSTD_freeCCtx(zstd);
        return NULL;
    }
    *ret_room = ZSTD_CStreamOutSize();
    return zstd;
}

static bool
zstd_compress_begin(void *ctx, Buf *out, Error *err)
{
    size_t result = ZSTD_CCtx_reset(ctx, ZSTD_reset_session_only);

    (void)out; /* the header comes with the first bytes */
    return !ZSTD_isError(result) || zstd_failure(result, err);
}

static bool
zstd_compress_step(void *ctx, CodecStep step, Span *in, Buf *out, CodecProgress *ret_progress,
                   Error *err)
{
    static const ZSTD_EndDirective directives[] = {
        [CODEC_CONTINUE] = ZSTD_e_continue, [CODEC_FLUSH] = ZSTD_e_flush, [CODEC_END] = ZSTD_e_end};
    ZSTD_inBuffer input = {.src = in->data, .size = in->len};
    ZSTD_outBuffer output = {.dst = out->data, .size = out->capacity, .pos = out->len};
    size_t left = ZSTD_compressStream2(ctx, &output, &input, directives[step]);

    if (ZSTD_isError(left))
        return zstd_failure(left, err);
    in->data += input.pos;
    in->len -= input.pos;
    out->len = output.pos;
    /* What it keeps to itself while it is to go on is none of our business. */
    if (step == CODEC_CONTINUE ? in->len > 0 : left > 0)
        *ret_progress = CODEC_MORE;
    else
        *ret_progress = step == CODEC_END ? CODEC_ENDED : CODEC_DONE;
    return true;
}

static void
zstd_compress_free(void *ctx)
{
    (void)ZSTD_freeCCtx(ctx);
}

/* ---- decompression ---- */

/*
 * libzstd does not say what it has given before a call that fails. So a call gets one thing only, a
 * block or the header of the next one: all in front of the damage is out.
 */
typedef struct ZstdDecompressor {
    ZSTD_DCtx *zstd;
    size_t wanted; /* bytes of input for the next call, at most */
} ZstdDecompressor;

static ZSTD_DCtx *
make_decompressor(Error *err)
{
    ZSTD_DCtx *zstd = ZSTD_createDCtx();
    size_t result;

    if (zstd == NULL) {
        (void)error_set_memory(err);
        return NULL;
    }
    result = ZSTD_DCtx_setParameter(zstd, ZSTD_d_windowLogMax, ZSTD_WINDOW_LOG_ACCEPTED);
    if (ZSTD_isError(result)) {
        (void)zstd_failure(result, err);
        (void)ZSTD_freeDCtx(zstd);
        return NULL;
    }
    return zstd;
}

static void *
zstd_decompress_new(size_t *ret_room, Error *err)
{
    ZstdDecompressor *self = mem_zero(sizeof *self, err);

    if (self == NULL)
        return NULL;
    self->zstd = make_decompressor(err);
    if (self->zstd == NULL) {
        free(self);
        return NULL;
    }
    *ret_room = ZSTD_DStreamOutSize();
    return self;
}

static bool
zstd_decompress_begin(void *ctx, Error *err)
{
    ZstdDecompressor *self = ctx;
    size_t result = ZSTD_DCtx_reset(self->zstd, ZSTD_reset_session_only);

    self->wanted = ZSTD_FRAME_START;
    return !ZSTD_isError(result) || zstd_failure(result, err);
}

static bool
zstd_unreadable(size_t result, Error *err)
{
    if (zstd_is_memory_failure(result))
        return error_set_memory(err);
    if (ZSTD_getErrorCode(result) == ZSTD_error_frameParameter_windowTooLarge)
        return error_set(err, ERR_UNSUPPORTED,
                         "zstd data that needs a window of more than %d MiB is not supported",
                         1 << (ZSTD_WINDOW_LOG_ACCEPTED - 20));
    return error_set(err, ERR_FORMAT, "damaged zstd data: %s", ZSTD_getErrorName(result));
}

static bool
zstd_decompress_step(void *ctx, Span *in, Buf *out, CodecProgress *ret_progress, Error *err)
{
    ZstdDecompressor *self = ctx;
    size_t size = in->len < self->wanted ? in->len : self->wanted;
    ZSTD_inBuffer input = {.src = in->data, .size = size};
    ZSTD_outBuffer output = {.dst = out->data, .size = out->capacity, .pos = out->len};
    size_t result = ZSTD_decompressStream(self->zstd, &output, &input);

    if (ZSTD_isError(result))
        return zstd_unreadable(result, err);
    in->data += input.pos;
    in->len -= input.pos;
    out->len = output.pos;
    /* It asks for a block and the header behind it. */
    self->wanted = result > ZSTD_BLOCK_HEADER ? result - ZSTD_BLOCK_HEADER : result;
    if (result == 0)
        *ret_progress = CODEC_ENDED;
    else
        *ret_progress = in->len > 0 || output.pos == output.size ? CODEC_MORE : CODEC_DONE;
    return true;
}

static void
zstd_decompress_free(void *ctx)
{
    ZstdDecompressor *self = ctx;

    (void)ZSTD_freeDCtx(self->zstd);
    free(self);
}

const CodecOps codec_zstd = {
    .levels = zstd_levels,
    .magic = {0x28, 0xB5, 0x2F, 0xFD},
    .magic_size = 4,
    .skippable = true,
    .compress_new = zstd_compress_new,
    .compress_begin = zstd_compress_begin,
    .compress_step = zstd_compress_step,
    .compress_free = zstd_compress_free,
    .decompress_new = zstd_decompress_new,
    .decompress_begin = zstd_decompress_begin,
    .decompress_step = zstd_decompress_step,
    .decompress_free = zstd_decompress_free,
};
