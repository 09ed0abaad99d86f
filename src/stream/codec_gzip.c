/*
 * gzip by zlib: members of RFC 1952, whose trailer (CRC and length) zlib writes and checks.
 */
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

static void *
gzip_compress_new(const Compression *compression, size_t *ret_room, Error *err)
{
    z_stream *zlib = mem_zero(sizeof *zlib, err);
    int result;

    if (zlib == NULL)
        return NULL;
    result = deflateInit2(zlib, compression->level, Z_DEFLATED, GZIP_WINDOW_BITS, GZIP_MEMORY,
                          Z_DEFAULT_STRATEGY);
    if (result != Z_OK) {
        (void)gzip_failure(zlib, result, err);
        free(zlib);
        return NULL;
    }
    *ret_room = GZIP_ROOM;
    return zlib;
}

static bool
gzip_compress_begin(void *ctx, Buf *out, Error *err)
{
    z_stream *zlib = ctx;
    int result = deflateReset(zlib);

    (void)out; /* the header comes with the first bytes */
    return result == Z_OK || gzip_failure(zlib, result, err);
}

static bool
gzip_compress_step(void *ctx, CodecStep step, Span *in, Buf *out, CodecProgress *ret_progress,
                   Error *err)
{
    static const int modes[] = {
        [CODEC_CONTINUE] = Z_NO_FLUSH, [CODEC_FLUSH] = Z_SYNC_FLUSH, [CODEC_END] = Z_FINISH};
    z_stream *zlib = ctx;
    int result;

    lend(zlib, in, out);
    result = deflate(zlib, modes[step]);
    take_back(zlib, in, out);
    if (result == Z_STREAM_END) {
        *ret_progress = CODEC_ENDED;
        return true;
    }
    if (result != Z_OK && result != Z_BUF_ERROR) /* the latter: there was nothing to do */
        return gzip_failure(zlib, result, err);
    *ret_progress = zlib->avail_out == 0 ? CODEC_MORE : CODEC_DONE;
    return true;
}

static void
gzip_compress_free(void *ctx)
{
    (void)deflateEnd(ctx);
    free(ctx);
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
