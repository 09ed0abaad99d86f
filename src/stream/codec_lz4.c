/*
 * lz4 frames by liblz4: blocks of 256 KiB as in those of the stock tools, and with checksums, for
 * without any, damage within a block would pass. They are of the blocks as they are written, a
 * fraction of the content; and at the quick levels blocks do not refer to each other, so that
 * nothing has to be kept for that.
 */
#include <lz4frame.h>
#include <stdlib.h>
#include <string.h>

#include "stream/internal.h"

#define LZ4_BLOCK ((size_t)256 * 1024)

/* From this level on liblz4 takes ten times as long, for size: blocks by themselves would give a
 * part of that back and save nothing. */
#define LZ4_LEVEL_SMALL 3

typedef struct Lz4Compressor {
    LZ4F_cctx *lz4;
    LZ4F_preferences_t preferences;
} Lz4Compressor;

static CodecLevels
lz4_levels(void)
{
    return (CodecLevels){.min = 1, .max = 12, .standard = 0};
}

/* liblz4 tells its errors apart by name only. */
static bool
lz4_is_memory_failure(size_t result)
{
    return strcmp(LZ4F_getErrorName(result), "ERROR_allocation_failed") == 0;
}

static bool
lz4_failure(size_t result, Error *err)
{
    if (lz4_is_memory_failure(result))
        return error_set_memory(err);
    return error_set(err, ERR_BUG, "lz4 failed: %s", LZ4F_getErrorName(result));
}

/* ---- compression ---- */

static size_t
largest(size_t one, size_t other)
{
    return one > other ? one : other;
}

/* For a slice with the block that is not full yet, for that block alone, and for a header. */
static size_t
lz4_room(const LZ4F_preferences_t *preferences)
{
    return largest(LZ4F_compressBound(CODEC_SLICE, preferences),
                   largest(LZ4F_compressBound(0, preferences), LZ4F_HEADER_SIZE_MAX));
}

static void
lz4_choose_frame(LZ4F_frameInfo_t *frame, const Compression *compression)
{
    frame->blockSizeID = LZ4F_max256KB;
    frame->blockMode =
        compression->level < LZ4_LEVEL_SMALL ? LZ4F_blockIndependent : LZ4F_blockLinked;
    frame->blockChecksumFlag = LZ4F_blockChecksumEnabled;
}

static void *
lz4_compress_new(const Compression *compression, size_t *ret_room, Error *err)
{
    Lz4Compressor *self = mem_zero(sizeof *self, err);
    size_t result;

    if (self == NULL)
        return NULL;
    result = LZ4F_createCompressionContext(&self->lz4, LZ4F_VERSION);
    if (LZ4F_isError(result)) {
        (void)lz4_failure(result, err);
        free(self);
        return NULL;
    }
    lz4_choose_frame(&self->preferences.frameInfo, compression);
    self->preferences.compressionLevel = compression->level;
    *ret_room = lz4_room(&self->preferences);
    return self;
}

/* What a call of liblz4 has written behind the output's end, or how it failed. */
static bool
lz4_written(size_t result, Buf *out, Error *err)
{
    if (LZ4F_isError(result))
        return lz4_failure(result, err);
    out->len += result;
    return true;
}

static bool
lz4_compress_begin(void *ctx, Buf *out, Error *err)
{
    Lz4Compressor *self = ctx;

    return lz4_written(LZ4F_compressBegin(self->lz4, out->data + out->len, out->capacity - out->len,
                                          &self->preferences),
                       out, err);
}

static bool
lz4_compress_step(void *ctx, CodecStep step, Span *in, Buf *out, CodecProgress *ret_progress,
                  Error *err)
{
    Lz4Compressor *self = ctx;
    uint8_t *at = out->data + out->len;
    size_t room = out->capacity - out->len;
    size_t result = 0;

    switch (step) {
    case CODEC_CONTINUE:
        result = LZ4F_compressUpdate(self->lz4, at, room, in->data, in->len, NULL);
        break;
    case CODEC_FLUSH:
        result = LZ4F_flush(self->lz4, at, room, NULL);
        break;
    case CODEC_END:
        result = LZ4F_compressEnd(self->lz4, at, room, NULL);
        break;
    }
    if (!lz4_written(result, out, err))
        return false;
    in->len = 0;
    *ret_progress = step == CODEC_END ? CODEC_ENDED : CODEC_DONE;
    return true;
}

static void
lz4_compress_free(void *ctx)
{
    Lz4Compressor *self = ctx;

    (void)LZ4F_freeCompressionContext(self->lz4);
    free(self);
}

/* ---- decompression ---- */

/*
 * liblz4 does not say what it has given before a call that fails. So a call gets one thing only, a
 * block or the header of the next one: all in front of the damage is out.
 */
typedef struct Lz4Decompressor {
    LZ4F_dctx *lz4;
    size_t wanted; /* of the one thing: bytes of input that it had not yet */
} Lz4Decompressor;

static void *
lz4_decompress_new(size_t *ret_room, Error *err)
{
    Lz4Decompressor *self = mem_zero(sizeof *self, err);
    size_t result;

    if (self == NULL)
        return NULL;
    result = LZ4F_createDecompressionContext(&self->lz4, LZ4F_VERSION);
    if (LZ4F_isError(result)) {
        (void)lz4_failure(result, err);
        free(self);
        return NULL;
    }
    *ret_room = LZ4_BLOCK; /* a whole block goes to the output without a copy */
    return self;
}

static bool
lz4_decompress_begin(void *ctx, Error *err)
{
    Lz4Decompressor *self = ctx;

    (void)err;
    LZ4F_resetDecompressionContext(self->lz4);
    self->wanted = LZ4F_HEADER_SIZE_MIN;
    return true;
}

static bool
lz4_unreadable(size_t result, Error *err)
{
    if (lz4_is_memory_failure(result))
        return error_set_memory(err);
    return error_set(err, ERR_FORMAT, "damaged lz4 data: %s", LZ4F_getErrorName(result));
}

static bool
lz4_decompress_step(void *ctx, Span *in, Buf *out, CodecProgress *ret_progress, Error *err)
{
    Lz4Decompressor *self = ctx;
    size_t taken = in->len < self->wanted ? in->len : self->wanted;
    size_t room = out->capacity - out->len;
    size_t given = room;
    size_t result =
        LZ4F_decompress(self->lz4, out->data + out->len, &given, in->data, &taken, NULL);

    if (LZ4F_isError(result))
        return lz4_unreadable(result, err);
    in->data += taken;
    in->len -= taken;
    out->len += given;
    self->wanted -= taken;
    /* It asks for a block and the header behind it; in the middle of one, for too much. */
    if (self->wanted == 0)
        self->wanted = result > LZ4F_BLOCK_HEADER_SIZE ? result - LZ4F_BLOCK_HEADER_SIZE : result;
    if (result == 0)
        *ret_progress = CODEC_ENDED;
    else
        *ret_progress = in->len > 0 || given == room ? CODEC_MORE : CODEC_DONE;
    return true;
}

static void
lz4_decompress_free(void *ctx)
{
    Lz4Decompressor *self = ctx;

    (void)LZ4F_freeDecompressionContext(self->lz4);
    free(self);
}

const CodecOps codec_lz4 = {
    .levels = lz4_levels,
    .magic = {0x04, 0x22, 0x4D, 0x18},
    .magic_size = 4,
    .skippable = true,
    .compress_new = lz4_compress_new,
    .compress_begin = lz4_compress_begin,
    .compress_step = lz4_compress_step,
    .compress_free = lz4_compress_free,
    .decompress_new = lz4_decompress_new,
    .decompress_begin = lz4_decompress_begin,
    .decompress_step = lz4_decompress_step,
    .decompress_free = lz4_decompress_free,
};
