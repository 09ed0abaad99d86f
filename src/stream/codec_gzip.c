/*
 * gzip, members of RFC 1952: compressed by libdeflate, in several times less time than zlib needs,
 * and by several threads if they are asked for; decompressed by zlib, which takes it as it comes.
 */
#include <libdeflate.h>
#include <stdlib.h>

#define ZLIB_CONST /* zlib does not write to its input: let its types say so */
#include <zlib.h>

#include "stream/internal.h"

#define GZIP_WINDOW_BITS (15 + 16) /* the largest window, in a gzip wrapper */
#define GZIP_MEMORY      8         /* zlib's default */
#define GZIP_ROOM        64        /* zlib asks for more than 6 bytes to flush into */

static CodecLevels
gzip_levels(void)
{
    return (CodecLevels){
        .min = Z_BEST_SPEED, .max = Z_BEST_COMPRESSION, .standard = COMPRESSION_GZIP_DEFAULT};
}

static void
lend(z_stream *zlib, const Span *in, const Buf *out)
{
    zlib->next_in = in->data;
    zlib->avail_in = (uInt)in->len;
    zlib->next_out = out->data + out->len;
    zlib->avail_out = (uInt)(out->capacity - out->len);
}

static void
take_back(const z_stream *zlib, Span *in, Buf *out)
{
    in->data = zlib->next_in;
    in->len = zlib->avail_in;
    out->len = out->capacity - zlib->avail_out;
}

static bool
gzip_failure(const z_stream *zlib, int result, Error *err)
{
    if (result == Z_MEM_ERROR)
        return error_set_memory(err);
    return error_set(err, ERR_BUG, "zlib failed: %s (%d)", zlib->msg == NULL ? "" : zlib->msg,
                     result);
}

/* ---- compression ---- */

/*
 * libdeflate compresses what is in memory, to a complete deflate stream. The input is cut into
 * blocks, whose streams are made to follow each other; an empty block is the last one. Where blocks
 * are cut depends on the position and on FLUSH alone. Nothing in a block refers to the one before:
 * that costs a quarter of a percent of the size.
 */
#define GZIP_BLOCK         ((size_t)1024 * 1024)
#define GZIP_LEVEL         6 /* of COMPRESSION_GZIP_DEFAULT */
#define GZIP_TRAILER       10
#define GZIP_COMPRESS_ROOM ((size_t)256 * 1024)
#define GZIP_PIECE         (GZIP_COMPRESS_ROOM - GZIP_TRAILER) /* of a block, at most */

typedef struct GzipCompressor {
    BlockPool *pool;
    int level;
    PoolBlock block; /* of which `left` is to be given */
    Span left;       /* nothing: there is no block */
    uint32_t crc;    /* of the blocks before it */
    uint32_t size;
} GzipCompressor;

static void *
gzip_worker_new(const void *config, Error *err)
{
    const int *level = config;
    struct libdeflate_compressor *worker = libdeflate_alloc_compressor(*level);

    if (worker == NULL)
        (void)error_set_memory(err);
    return worker;
}

static void
gzip_worker_free(void *worker)
{
    libdeflate_free_compressor(worker);
}

static bool
gzip_compress_block(void *worker, Span block, Buf *out, uint32_t *ret_check, Error *err)
{
    out->len = libdeflate_deflate_compress(worker, block.data, block.len, out->data,
                                           out->capacity - DEFLATE_OPEN_MAX);
    if (out->len == 0)
        return error_set(err, ERR_BUG, "libdeflate failed: %zu bytes do not fit into %zu",
                         block.len, out->capacity - DEFLATE_OPEN_MAX);
    *ret_check = libdeflate_crc32(0, block.data, block.len);
    return deflate_open_end(out, err);
}

static const BlockOps gzip_block_ops = {
    .worker_new = gzip_worker_new,
    .worker_free = gzip_worker_free,
    .compress = gzip_compress_block,
};

static void *
gzip_compress_new(const Compression *compression, size_t *ret_room, Error *err)
{
    GzipCompressor *self = mem_zero(sizeof *self, err);
    BlockPoolConfig config = {.ops = &gzip_block_ops, .block_size = GZIP_BLOCK};

    if (self == NULL)
        return NULL;
    self->level = compression->level == COMPRESSION_GZIP_DEFAULT ? GZIP_LEVEL : compression->level;
    config.ctx = &self->level;
    config.out_size = libdeflate_deflate_compress_bound(NULL, GZIP_BLOCK) + DEFLATE_OPEN_MAX;
    config.workers = compression->workers > 0 ? (size_t)compression->workers : 0;
    self->pool = block_pool_new(&config, err);
    if (self->pool == NULL) {
        free(self);
        return NULL;
    }
    *ret_room = GZIP_COMPRESS_ROOM;
    return self;
}

/* How hard was tried, as zlib tells it in a member's header. */
static uint8_t
gzip_extra_flags(int level)
{
    if (level == Z_BEST_COMPRESSION)
        return 2;
    return level == Z_BEST_SPEED ? 4 : 0;
}

static bool
gzip_compress_begin(void *ctx, Buf *out, Error *err)
{
    GzipCompressor *self = ctx;
    const uint8_t unix_system = 3;
    const uint8_t header[] = {
        0x1F,        0x8B, Z_DEFLATED, 0, 0, 0, 0, 0, gzip_extra_flags(self->level),
        unix_system, /* no name, no time */
    };

    self->crc = 0;
    self->size = 0;
    return buf_append(out, header, sizeof header, err);
}

/* One that is done, or that must be waited for. */
static bool
next_block(GzipCompressor *self, BlockWait wait, Error *err)
{
    if (!block_pool_next(self->pool, wait, &self->block, err))
        return false;
    self->left = self->block.out;
    return true;
}

static void
end_block(GzipCompressor *self)
{
    self->crc = (uint32_t)crc32_combine(self->crc, self->block.check, (z_off_t)self->block.size);
    self->size += (uint32_t)self->block.size;
    block_pool_release(self->pool);
}

/* As much of a block as a step may give. */
static bool
give_block(GzipCompressor *self, BlockWait wait, Buf *out, Error *err)
{
    size_t len;

    if (self->left.len == 0 && !next_block(self, wait, err))
        return false;
    if (self->left.len == 0)
        return true;
    len = self->left.len < GZIP_PIECE ? self->left.len : GZIP_PIECE;
    if (!buf_append(out, self->left.data, len, err))
        return false;
    self->left.data += len;
    self->left.len -= len;
    if (self->left.len == 0)
        end_block(self);
    return true;
}

/* An empty block that is the last one, with the fixed code, and what RFC 1952 wants behind it. */
static bool
give_trailer(const GzipCompressor *self, Buf *out, Error *err)
{
    uint8_t trailer[GZIP_TRAILER] = {0x03, 0x00};

    put_le32(trailer + 2, self->crc);
    put_le32(trailer + 6, self->size);
    return buf_append(out, trailer, sizeof trailer, err);
}

static bool
gzip_compress_step(void *ctx, CodecStep step, Span *in, Buf *out, CodecProgress *ret_progress,
                   Error *err)
{
    GzipCompressor *self = ctx;
    bool all = step != CODEC_CONTINUE;

    block_pool_put(self->pool, in);
    if (all)
        block_pool_cut(self->pool);
    if (!give_block(self, all || in->len > 0 ? BLOCK_WAIT : BLOCK_IF_DONE, out, err))
        return false;
    if (self->left.len > 0 || in->len > 0 || (all && !block_pool_is_empty(self->pool)))
        *ret_progress = CODEC_MORE;
    else
        *ret_progress = step == CODEC_END ? CODEC_ENDED : CODEC_DONE;
    return *ret_progress != CODEC_ENDED || give_trailer(self, out, err);
}

static void
gzip_compress_free(void *ctx)
{
    GzipCompressor *self = ctx;

    block_pool_free(self->pool);
    free(self);
}

/* ---- decompression ---- */

static void *
gzip_decompress_new(size_t *ret_room, Error *err)
{
    z_stream *zlib = mem_zero(sizeof *zlib, err);
    int result;

    if (zlib == NULL)
        return NULL;
    result = inflateInit2(zlib, GZIP_WINDOW_BITS);
    if (result != Z_OK) {
        (void)gzip_failure(zlib, result, err);
        free(zlib);
        return NULL;
    }
    *ret_room = GZIP_ROOM;
    return zlib;
}

static bool
gzip_decompress_begin(void *ctx, Error *err)
{
    z_stream *zlib = ctx;
    int result = inflateReset(zlib);

    return result == Z_OK || gzip_failure(zlib, result, err);
}

static bool
gzip_decompress_step(void *ctx, Span *in, Buf *out, CodecProgress *ret_progress, Error *err)
{
    z_stream *zlib = ctx;
    int result;

    lend(zlib, in, out);
    result = inflate(zlib, Z_NO_FLUSH);
    take_back(zlib, in, out);
    if (result == Z_STREAM_END) {
        *ret_progress = CODEC_ENDED;
        return true;
    }
    if (result == Z_DATA_ERROR)
        return error_set(err, ERR_FORMAT, "damaged gzip data: %s", zlib->msg);
    if (result != Z_OK && result != Z_BUF_ERROR)
        return gzip_failure(zlib, result, err);
    *ret_progress = zlib->avail_out == 0 ? CODEC_MORE : CODEC_DONE;
    return true;
}

static void
gzip_decompress_free(void *ctx)
{
    (void)inflateEnd(ctx);
    free(ctx);
}

const CodecOps codec_gzip = {
    .levels = gzip_levels,
    .magic = {0x1F, 0x8B},
    .magic_size = 2,
    .compress_new = gzip_compress_new,
    .compress_begin = gzip_compress_begin,
    .compress_step = gzip_compress_step,
    .compress_free = gzip_compress_free,
    .decompress_new = gzip_decompress_new,
    .decompress_begin = gzip_decompress_begin,
    .decompress_step = gzip_decompress_step,
    .decompress_free = gzip_decompress_free,
};
