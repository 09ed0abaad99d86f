/* compress and decompress: what the libraries make of our archives, we of theirs, and of damage. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define ZLIB_CONST
#include <lz4frame.h>
#include <zlib.h>
#include <zstd.h>

#include "stream/compression.h"
#include "support/chunker.h"
#include "support/compressed.h"
#include "support/recorder.h"

static const Archive base = {.name = "base.tar"};

static const CompressionMethod methods[] = {COMPRESSION_GZIP, COMPRESSION_LZ4, COMPRESSION_ZSTD};

#define METHODS     (sizeof methods / sizeof methods[0])
#define RANDOM_CUTS SIZE_MAX /* as a piece size: pieces of all sizes */

static const size_t pieces[] = {0, 1, 2, 3, 7, 100, 4096, 32768, RANDOM_CUTS};

#define PIECES (sizeof pieces / sizeof pieces[0])

/* ---- content ---- */

static Span
span(const Buf *buf)
{
    return (Span){.data = buf->data, .len = buf->len};
}

static uint32_t
next_random(uint32_t *seed)
{
    *seed = *seed * 1664525u + 1013904223u;
    return *seed >> 16;
}

static void
append(Buf *buf, Span bytes)
{
    Error err = ERROR_INIT;

    assert_true(buf_append(buf, bytes.data, bytes.len, &err));
}

/* Lines that compress like text: always the same ones. */
static Buf
make_text(size_t len)
{
    static const char *const words[] = {"checkpoint", "segment", "timeline",
                                        "redo",       "slot",    "page"};
    Buf text = BUF_INIT;
    uint32_t seed = 1;
    Error err = ERROR_INIT;

    while (text.len < len)
        assert_true(buf_printf(&text, &err, "%s %u\n", words[next_random(&seed) % 6],
                               next_random(&seed) % 5000));
    text.len = len;
    return text;
}

static Buf
make_room(size_t capacity)
{
    Buf room = BUF_INIT;
    Error err = ERROR_INIT;

    assert_true(buf_reserve(&room, capacity, &err));
    return room;
}

static Buf
make_noise(size_t len, uint32_t seed)
{
    Buf noise = make_room(len);

    while (noise.len < len)
        noise.data[noise.len++] = (uint8_t)next_random(&seed);
    return noise;
}

static Buf
make_zeros(size_t len)
{
    Buf zeros = make_room(len);

    memset(zeros.data, 0, len);
    zeros.len = len;
    return zeros;
}

/* ---- through the stages ---- */

static bool
push_pieces(Sink *sink, Span data, size_t piece, Error *err)
{
    return piece == RANDOM_CUTS ? chunk_push_random(sink, data, 11, err)
                                : chunk_push(sink, data, piece, err);
}

static bool
run_archive(Sink *sink, const char *name, Span data, size_t piece, Error *err)
{
    const Archive archive = {.name = name, .tablespace = 16385};

    return sink_archive_begin(sink, &archive, err) && push_pieces(sink, data, piece, err) &&
           sink_archive_end(sink, err);
}

static Buf
pack(const Compression *compression, Span plain, size_t piece)
{
    Recording recording = RECORDING_INIT;
    Error err = ERROR_INIT;
    Sink *sink = compress_new(recorder_new(&recording, &err), compression, &err);
    Buf bytes;

    assert_non_null(sink);
    if (!run_archive(sink, base.name, plain, piece, &err) || !sink_finish(sink, &err))
        fail_msg("%s", err.message);
    sink_free(sink);
    assert_int_equal(recording.released, 1);
    assert_true(recording.finished);
    bytes = recording.bytes;
    recording.bytes = BUF_INIT;
    recording_free(&recording);
    return bytes;
}

static Compression
standard(CompressionMethod method)
{
    Compression compression;
    Error err = ERROR_INIT;

    assert_true(compression_parse(method, NULL, &compression, &err));
    return compression;
}

static Buf
pack_standard(CompressionMethod method, Span plain)
{
    const Compression compression = standard(method);

    return pack(&compression, plain, 0);
}

static const char *
packed_name(CompressionMethod method)
{
    static char name[32];

    (void)snprintf(name, sizeof name, "base.tar%s", compression_suffix(method));
    return name;
}

/* What comes out is in the recording, which must be empty; false and the failure in `err`. */
static bool
unpack(CompressionMethod method, Span packed, size_t piece, Recording *recording, Error *err)
{
    Sink *sink = decompress_new(recorder_new(recording, err), method, err);
    bool ok;

    assert_non_null(sink);
    ok = run_archive(sink, packed_name(method), packed, piece, err) && sink_finish(sink, err);
    sink_free(sink);
    assert_int_equal(recording->released, 1);
    return ok;
}

static void
expect_content_cut(CompressionMethod method, Span packed, Span plain, size_t piece)
{
    Recording recording = RECORDING_INIT;
    Error err = ERROR_INIT;

    if (!unpack(method, packed, piece, &recording, &err))
        fail_msg("pieces of %zu: %s", piece, err.message);
    assert_int_equal(recording.bytes.len, plain.len);
    if (plain.len > 0)
        assert_memory_equal(recording.bytes.data, plain.data, plain.len);
    assert_memory_equal(recording_text(&recording), "archive base.tar 16385\n", 23);
    assert_non_null(strstr(recording_text(&recording), "archive end\nfinish\n"));
    recording_free(&recording);
}

/* It holds this content, however it is cut. */
static void
expect_content(CompressionMethod method, Span packed, Span plain)
{
    for (size_t i = 0; i < PIECES; i++)
        expect_content_cut(method, packed, plain, pieces[i]);
}

/* It is refused, however it is cut, and its end does not go on. `message` NULL: whichever. */
static void
expect_damaged(CompressionMethod method, Span packed, const char *message)
{
    Error first = ERROR_INIT;

    for (size_t i = 0; i < PIECES; i++) {
        Recording recording = RECORDING_INIT;
        Error err = ERROR_INIT;

        if (unpack(method, packed, pieces[i], &recording, &err))
            fail_msg("pieces of %zu: damage went unnoticed", pieces[i]);
        assert_int_equal(err.code, ERR_FORMAT);
        if (i == 0)
            first = err;
        assert_string_equal(err.message, message == NULL ? first.message : message);
        assert_null(strstr(recording_text(&recording), "archive end"));
        recording_free(&recording);
    }
}

/* ---- through the libraries: exactly one member or frame, ending where the input ends ---- */

static void
expect_one_gzip_member(Span packed, Span plain)
{
    Buf out = make_room(plain.len + 1);
    z_stream zlib = {.next_in = packed.data, .avail_in = (uInt)packed.len};

    zlib.next_out = out.data;
    zlib.avail_out = (uInt)plain.len + 1;
    assert_int_equal(inflateInit2(&zlib, 15 + 16), Z_OK);
    assert_int_equal(inflate(&zlib, Z_FINISH), Z_STREAM_END);
    assert_int_equal(zlib.avail_in, 0);
    assert_int_equal(zlib.total_out, plain.len);
    if (plain.len > 0)
        assert_memory_equal(out.data, plain.data, plain.len);
    assert_int_equal(inflateEnd(&zlib), Z_OK);
    buf_free(&out);
}

static void
expect_one_lz4_frame(Span packed, Span plain)
{
    Buf out = make_room(plain.len + 1);
    size_t given = plain.len + 1;
    size_t taken = packed.len;
    LZ4F_dctx *lz4;

    assert_false(LZ4F_isError(LZ4F_createDecompressionContext(&lz4, LZ4F_VERSION)));
    assert_int_equal(LZ4F_decompress(lz4, out.data, &given, packed.data, &taken, NULL), 0);
    assert_int_equal(taken, packed.len);
    assert_int_equal(given, plain.len);
    if (plain.len > 0)
        assert_memory_equal(out.data, plain.data, plain.len);
    (void)LZ4F_freeDecompressionContext(lz4);
    buf_free(&out);
}

static void
expect_one_zstd_frame(Span packed, Span plain)
{
    Buf out = make_room(plain.len + 1);

    assert_int_equal(ZSTD_findFrameCompressedSize(packed.data, packed.len), packed.len);
    assert_int_equal(ZSTD_decompress(out.data, plain.len + 1, packed.data, packed.len), plain.len);
    if (plain.len > 0)
        assert_memory_equal(out.data, plain.data, plain.len);
    buf_free(&out);
}

static void
expect_one_member(CompressionMethod method, Span packed, Span plain)
{
    if (method == COMPRESSION_GZIP)
        expect_one_gzip_member(packed, plain);
    else if (method == COMPRESSION_LZ4)
        expect_one_lz4_frame(packed, plain);
    else
        expect_one_zstd_frame(packed, plain);
}

/* ---- round trips ---- */

static void
round_trip(const Compression *compression, Span plain, size_t piece)
{
    Buf packed = pack(compression, plain, piece);

    expect_one_member(compression->method, span(&packed), plain);
    expect_content_cut(compression->method, span(&packed), plain, 0);
    expect_content_cut(compression->method, span(&packed), plain, 1000);
    buf_free(&packed);
}

static void
round_trip_details(CompressionMethod method, const char *const *details, size_t count)
{
    Buf text = make_text(600000);
    Error err = ERROR_INIT;

    for (size_t i = 0; i < count; i++) {
        Compression compression;

        assert_true(compression_parse(method, details[i], &compression, &err));
        round_trip(&compression, span(&text), 32768);
    }
    buf_free(&text);
}

static void
test_gzip_levels(void **state)
{
    static const char *const details[] = {"-1", "1", "2", "3", "4", "5", "6", "7", "8", "9"};

    (void)state;
    round_trip_details(COMPRESSION_GZIP, details, sizeof details / sizeof details[0]);
}

static void
test_lz4_levels(void **state)
{
    static const char *const details[] = {"0", "1", "2", "3",  "4",  "5", "6",
                                          "7", "8", "9", "10", "11", "12"};

    (void)state;
    round_trip_details(COMPRESSION_LZ4, details, sizeof details / sizeof details[0]);
}

static void
test_zstd_levels(void **state)
{
    static const char *const details[] = {"-131072", "-7", "-1", "0",  "1",  "2",  "3", "5",
                                          "7",       "9",  "11", "13", "15", "17", "19"};

    (void)state;
    round_trip_details(COMPRESSION_ZSTD, details, sizeof details / sizeof details[0]);
}

static void
test_zstd_options(void **state)
{
    static const char *const details[] = {
        "workers=1",  "workers=3", "long", "long=off", "level=1,workers=2,long",
        "workers=-1", "workers=0"};

    (void)state;
    round_trip_details(COMPRESSION_ZSTD, details, sizeof details / sizeof details[0]);
}

/* The widest window that a level asks for: 128 MiB. */
static void
test_zstd_highest_level(void **state)
{
    const Compression compression = {.method = COMPRESSION_ZSTD, .level = 22};
    Buf text = make_text(1000);

    (void)state;
    round_trip(&compression, span(&text), 0);
    buf_free(&text);
}

static void
test_sizes(void **state)
{
    static const size_t sizes[] = {0,      1,      2,      511,    512,    65536,  131071, 131072,
                                   262143, 262144, 262145, 393216, 524288, 524289, 786432, 1048577};
    Buf noise = make_noise(1048577, 5);
    Buf text = make_text(1048577);

    (void)state;
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        for (size_t m = 0; m < METHODS; m++) {
            const Compression compression = standard(methods[m]);

            round_trip(&compression, (Span){.data = noise.data, .len = sizes[i]}, 0);
            round_trip(&compression, (Span){.data = text.data, .len = sizes[i]}, 10000);
        }
    }
    buf_free(&text);
    buf_free(&noise);
}

static void
test_compress_takes_any_pieces(void **state)
{
    Buf text = make_text(300000);

    (void)state;
    for (size_t m = 0; m < METHODS; m++) {
        const Compression compression = standard(methods[m]);

        for (size_t i = 0; i < PIECES; i++)
            round_trip(&compression, span(&text), pieces[i]);
    }
    buf_free(&text);
}

static void
test_decompress_takes_any_pieces(void **state)
{
    Buf text = make_text(300000);

    (void)state;
    for (size_t m = 0; m < METHODS; m++) {
        Buf packed = pack_standard(methods[m], span(&text));

        expect_content(methods[m], span(&packed), span(&text));
        buf_free(&packed);
    }
    buf_free(&text);
}

/* ---- what is asked for has its effect ---- */

static size_t
packed_size(CompressionMethod method, const char *detail, Span plain)
{
    Compression compression;
    Error err = ERROR_INIT;
    Buf packed;
    size_t len;

    assert_true(compression_parse(method, detail, &compression, &err));
    packed = pack(&compression, plain, 0);
    len = packed.len;
    buf_free(&packed);
    return len;
}

static void
test_level_matters(void **state)
{
    Buf text = make_text(1000000);

    (void)state;
    assert_true(packed_size(COMPRESSION_GZIP, "9", span(&text)) <
                packed_size(COMPRESSION_GZIP, "1", span(&text)));
    assert_true(packed_size(COMPRESSION_LZ4, "12", span(&text)) <
                packed_size(COMPRESSION_LZ4, "1", span(&text)));
    assert_true(packed_size(COMPRESSION_ZSTD, "15", span(&text)) <
                packed_size(COMPRESSION_ZSTD, "-5", span(&text)));
    buf_free(&text);
}

/* The same noise twice, too far apart for level 1 alone. */
static void
test_long_distance_matters(void **state)
{
    Buf noise = make_noise(1000000, 3);
    Buf between = make_noise(1000000, 4);
    Buf plain = BUF_INIT;

    (void)state;
    append(&plain, span(&noise));
    append(&plain, span(&between));
    append(&plain, span(&noise));
    assert_true(packed_size(COMPRESSION_ZSTD, "level=1", span(&plain)) > 2900000);
    assert_true(packed_size(COMPRESSION_ZSTD, "level=1,long", span(&plain)) < 2100000);
    assert_true(packed_size(COMPRESSION_ZSTD, "level=1,long=no", span(&plain)) > 2900000);
    buf_free(&plain);
    buf_free(&between);
    buf_free(&noise);
}

/* Blocks as in the stock tools' lz4 frames, and checksums that show damage. */
static void
test_lz4_frame_parameters(void **state)
{
    (void)state;
    for (int level = 0; level <= 12; level++) {
        const Compression compression = {.method = COMPRESSION_LZ4, .level = level};
        Buf lz4 = pack(&compression, span_of("content"), 7);
        LZ4F_frameInfo_t info;
        LZ4F_dctx *dctx;
        size_t taken = lz4.len;

        assert_false(LZ4F_isError(LZ4F_createDecompressionContext(&dctx, LZ4F_VERSION)));
        assert_false(LZ4F_isError(LZ4F_getFrameInfo(dctx, &info, lz4.data, &taken)));
        assert_int_equal(info.blockSizeID, LZ4F_max256KB);
        assert_int_equal(info.blockMode, level < 3 ? LZ4F_blockIndependent : LZ4F_blockLinked);
        assert_int_equal(info.blockChecksumFlag, LZ4F_blockChecksumEnabled);
        assert_int_equal(info.contentChecksumFlag, LZ4F_noContentChecksum);
        (void)LZ4F_freeDecompressionContext(dctx);
        buf_free(&lz4);
    }
}

static void
test_zstd_frame_has_a_checksum(void **state)
{
    Buf zstd = pack_standard(COMPRESSION_ZSTD, span_of("content"));

    (void)state;
    assert_int_equal(zstd.data[4] & 4, 4); /* the flag in the frame header's descriptor */
    buf_free(&zstd);
}

/* Several blocks, of which some cannot be compressed; damage within one shows. */
static void
test_content_of_blocks(void **state)
{
    const Compression quick = {.method = COMPRESSION_LZ4};
    Buf plain = make_noise(1000000, 7);
    Span content = {.data = plain.data, .len = plain.len};
    Buf whole;

    (void)state;
    memset(plain.data, 'a', 400000);
    whole = pack(&quick, content, 0);
    expect_one_lz4_frame((Span){.data = whole.data, .len = whole.len}, content);
    expect_content(COMPRESSION_LZ4, (Span){.data = whole.data, .len = whole.len}, content);
    for (size_t at = 100; at < whole.len; at += 150001) {
        whole.data[at] ^= 1;
        expect_damaged(COMPRESSION_LZ4, (Span){.data = whole.data, .len = whole.len}, NULL);
        whole.data[at] ^= 1;
    }
    for (size_t piece = 1000; piece <= plain.len; piece *= 10) {
        Buf again = pack(&quick, content, piece);

        assert_int_equal(again.len, whole.len);
        assert_memory_equal(again.data, whole.data, whole.len);
        buf_free(&again);
    }
    buf_free(&whole);
    buf_free(&plain);
}

/* ---- gzip: where blocks are cut ---- */

#define GZIP_BLOCK ((size_t)1024 * 1024)

/* Blocks that become smaller, and some that do not. */
static Buf
make_blocks(size_t len)
{
    Buf blocks = make_text(len / 2);
    Buf noise = make_noise(len - len / 2, 23);

    append(&blocks, span(&noise));
    buf_free(&noise);
    return blocks;
}

static void
expect_same_bytes(const Buf *one, const Buf *other)
{
    assert_int_equal(one->len, other->len);
    assert_memory_equal(one->data, other->data, one->len);
}

static void
test_gzip_of_any_pieces_is_the_same(void **state)
{
    static const size_t cuts[] = {100, 4096, 32768, GZIP_BLOCK, GZIP_BLOCK + 1, RANDOM_CUTS};
    const Compression gzip = standard(COMPRESSION_GZIP);
    Buf plain = make_blocks(2 * GZIP_BLOCK + 12345);
    Buf whole = pack(&gzip, span(&plain), 0);

    (void)state;
    expect_one_gzip_member(span(&whole), span(&plain));
    for (size_t i = 0; i < sizeof cuts / sizeof cuts[0]; i++) {
        Buf cut = pack(&gzip, span(&plain), cuts[i]);

        expect_same_bytes(&cut, &whole);
        buf_free(&cut);
    }
    buf_free(&whole);
    buf_free(&plain);
}

static void
test_gzip_by_any_workers_is_the_same(void **state)
{
    static const size_t sizes[] = {
        0, 1, GZIP_BLOCK - 1, GZIP_BLOCK, GZIP_BLOCK + 1, 2 * GZIP_BLOCK, 9 * GZIP_BLOCK + 4711};
    Buf plain = make_blocks(9 * GZIP_BLOCK + 4711);

    (void)state;
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        const Span part = {.data = plain.data, .len = sizes[i]};
        Compression gzip = {.method = COMPRESSION_GZIP, .level = 1};
        Buf alone = pack(&gzip, part, 0);

        expect_one_gzip_member(span(&alone), part);
        for (gzip.workers = 1; gzip.workers <= 4; gzip.workers++) {
            Buf together = pack(&gzip, part, 70000);

            expect_same_bytes(&together, &alone);
            buf_free(&together);
        }
        buf_free(&alone);
    }
    buf_free(&plain);
}

/* Compressed with a flush after each of the parts. */
static Buf
pack_flushed(const Compression *compression, Span plain, size_t part, size_t piece)
{
    Recording recording = RECORDING_INIT;
    Error err = ERROR_INIT;
    Sink *sink = compress_new(recorder_new(&recording, &err), compression, &err);
    Buf bytes;

    assert_true(sink_archive_begin(sink, &base, &err));
    for (size_t done = 0; done < plain.len; done += part) {
        const Span next = {.data = plain.data + done,
                           .len = plain.len - done < part ? plain.len - done : part};

        assert_true(chunk_push(sink, next, piece, &err));
        assert_true(sink_flush(sink, 1, &err));
    }
    assert_true(sink_archive_end(sink, &err));
    sink_free(sink);
    bytes = recording.bytes;
    buf_free(&recording.text);
    return bytes;
}

static void
test_flushed_gzip_is_the_same(void **state)
{
    static const size_t parts[] = {100000, GZIP_BLOCK / 2, GZIP_BLOCK, GZIP_BLOCK + 1,
                                   3 * GZIP_BLOCK};
    Buf plain = make_blocks(4 * GZIP_BLOCK);

    (void)state;
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        Compression gzip = {.method = COMPRESSION_GZIP, .level = 1};
        Buf alone = pack_flushed(&gzip, span(&plain), parts[i], 0);

        expect_one_gzip_member(span(&alone), span(&plain));
        for (gzip.workers = 0; gzip.workers <= 3; gzip.workers++) {
            Buf together = pack_flushed(&gzip, span(&plain), parts[i], 9999);

            expect_same_bytes(&together, &alone);
            buf_free(&together);
        }
        buf_free(&alone);
    }
    buf_free(&plain);
}

/* As zlib makes it: no name, no time, how hard was tried, and Unix. */
static void
test_gzip_header(void **state)
{
    (void)state;
    for (int level = 0; level <= 9; level++) {
        const Compression gzip = {.method = COMPRESSION_GZIP,
                                  .level = level == 0 ? COMPRESSION_GZIP_DEFAULT : level};
        Buf packed = pack(&gzip, span_of("content"), 0);
        z_stream zlib = {.next_in = (const uint8_t *)"content", .avail_in = 7};
        uint8_t by_zlib[100];

        zlib.next_out = by_zlib;
        zlib.avail_out = sizeof by_zlib;
        assert_int_equal(
            deflateInit2(&zlib, gzip.level, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
        assert_int_equal(deflate(&zlib, Z_FINISH), Z_STREAM_END);
        assert_memory_equal(packed.data, by_zlib, 10);
        assert_memory_equal(packed.data + packed.len - 8, by_zlib + zlib.total_out - 8, 8);
        assert_int_equal(deflateEnd(&zlib), Z_OK);
        buf_free(&packed);
    }
}

/* 6, as zlib has it. */
static void
test_gzip_default_level(void **state)
{
    const Compression gzip = standard(COMPRESSION_GZIP);
    const Compression six = {.method = COMPRESSION_GZIP, .level = 6};
    Buf text = make_text(500000);
    Buf one = pack(&gzip, span(&text), 0);
    Buf other = pack(&six, span(&text), 0);

    (void)state;
    expect_same_bytes(&one, &other);
    buf_free(&other);
    buf_free(&one);
    buf_free(&text);
}

/* ---- archives ---- */

static void
test_no_method_is_no_stage(void **state)
{
    const Compression none = {.method = COMPRESSION_NONE};
    Recording recording = RECORDING_INIT;
    Error err = ERROR_INIT;
    Sink *sink = recorder_new(&recording, &err);

    (void)state;
    assert_ptr_equal(compress_new(sink, &none, &err), sink);
    assert_ptr_equal(decompress_new(sink, COMPRESSION_NONE, &err), sink);
    assert_null(compress_new(NULL, &none, &err));
    assert_null(decompress_new(NULL, COMPRESSION_NONE, &err));
    sink_free(sink);
    recording_free(&recording);
}

static void
test_no_next(void **state)
{
    Error err = ERROR_INIT;

    (void)state;
    for (size_t m = 0; m < METHODS; m++) {
        const Compression compression = standard(methods[m]);

        assert_null(compress_new(NULL, &compression, &err));
        assert_null(decompress_new(NULL, methods[m], &err));
    }
    assert_int_equal(err.code, ERR_NONE);
}

/* The library's context is used again and again: no archive may know of another. */
static void
test_many_archives(void **state)
{
    static const size_t sizes[] = {400000, 0, 1, 300000, 400000};
    Buf text = make_text(400000);

    (void)state;
    for (size_t m = 0; m < METHODS; m++) {
        const Compression compression = standard(methods[m]);
        Recording recording = RECORDING_INIT;
        Error err = ERROR_INIT;
        Sink *sink = compress_new(recorder_new(&recording, &err), &compression, &err);

        for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
            const Span plain = {.data = text.data, .len = sizes[i]};
            Buf alone = pack_standard(methods[m], plain);

            buf_clear(&recording.bytes);
            assert_true(run_archive(sink, "16385.tar", plain, 0, &err));
            assert_int_equal(recording.bytes.len, alone.len);
            assert_memory_equal(recording.bytes.data, alone.data, alone.len);
            buf_free(&alone);
        }
        assert_true(sink_finish(sink, &err));
        sink_free(sink);
        recording_free(&recording);
    }
    buf_free(&text);
}

static void
test_many_archives_decompressed(void **state)
{
    Buf text = make_text(200000);

    (void)state;
    for (size_t m = 0; m < METHODS; m++) {
        Recording recording = RECORDING_INIT;
        Error err = ERROR_INIT;
        Sink *sink = decompress_new(recorder_new(&recording, &err), methods[m], &err);

        for (size_t len = 0; len <= text.len; len += 50000) {
            const Span plain = {.data = text.data, .len = len};
            Buf packed = pack_standard(methods[m], plain);

            buf_clear(&recording.bytes);
            assert_true(run_archive(sink, packed_name(methods[m]), span(&packed), 999, &err));
            assert_int_equal(recording.bytes.len, len);
            if (len > 0)
                assert_memory_equal(recording.bytes.data, text.data, len);
            buf_free(&packed);
        }
        assert_true(sink_finish(sink, &err));
        sink_free(sink);
        recording_free(&recording);
    }
    buf_free(&text);
}

static void
expect_text(Recording *recording, const char *text)
{
    assert_string_equal(recording_text(recording), text);
    recording_free(recording);
}

static void
test_names_of_archives(void **state)
{
    static const char *const packed[] = {"base.tar.gz", "base.tar.lz4", "base.tar.zst"};

    (void)state;
    for (size_t m = 0; m < METHODS; m++) {
        const Compression compression = standard(methods[m]);
        Recording recording = RECORDING_INIT;
        Error err = ERROR_INIT;
        Sink *sink = compress_new(recorder_new(&recording, &err), &compression, &err);
        char text[64];

        assert_true(sink_archive_begin(sink, &base, &err));
        sink_free(sink);
        (void)snprintf(text, sizeof text, "archive %s 0\n", packed[m]);
        expect_text(&recording, text);
    }
}

static void
test_tgz(void **state)
{
    Buf packed = pack_standard(COMPRESSION_GZIP, span_of("content"));
    Recording recording = RECORDING_INIT;
    Error err = ERROR_INIT;
    Sink *sink = decompress_new(recorder_new(&recording, &err), COMPRESSION_GZIP, &err);

    (void)state;
    assert_true(run_archive(sink, "base.tgz", span(&packed), 0, &err));
    sink_free(sink);
    expect_text(&recording, "archive base.tar 16385\ndata 7 crc=61AF7533\narchive end\n");
    buf_free(&packed);
}

static void
test_name_without_suffix(void **state)
{
    (void)state;
    for (size_t m = 0; m < METHODS; m++) {
        Recording recording = RECORDING_INIT;
        Error err = ERROR_INIT;
        Sink *sink = decompress_new(recorder_new(&recording, &err), methods[m], &err);
        char message[64];

        assert_false(sink_archive_begin(sink, &base, &err));
        assert_int_equal(err.code, ERR_FORMAT);
        (void)snprintf(message, sizeof message, "archive name \"base.tar\" does not end in \"%s\"",
                       compression_suffix(methods[m]));
        assert_string_equal(err.message, message);
        sink_free(sink);
        expect_text(&recording, "");
    }
}

static void
expect_entries_refused(Sink *sink, const char *archive, const char *message)
{
    const Entry entry = {.kind = ENTRY_FILE, .path = "PG_VERSION"};
    Error err = ERROR_INIT;

    assert_non_null(sink);
    assert_true(sink_archive_begin(sink, &(Archive){.name = archive}, &err));
    assert_false(sink_entry_begin(sink, &entry, &err));
    assert_int_equal(err.code, ERR_BUG);
    assert_string_equal(err.message, message);
    sink_free(sink);
}

static void
test_entries_are_refused(void **state)
{
    const Compression gzip = standard(COMPRESSION_GZIP);
    Recording recording = RECORDING_INIT;
    Error err = ERROR_INIT;

    (void)state;
    expect_entries_refused(compress_new(recorder_new(&recording, &err), &gzip, &err), "base.tar",
                           "compress got archive \"base.tar.gz\" with entries");
    expect_entries_refused(decompress_new(recorder_new(&recording, &err), COMPRESSION_GZIP, &err),
                           "base.tar.gz", "decompress got archive \"base.tar.gz\" with entries");
    recording_free(&recording);
}

/* ---- large pieces, bounded memory ---- */

#define PIECE_MIN ((size_t)512 * 1024)
#define PIECE_MAX ((size_t)1024 * 1024)

static bool
expect_bounded(void *ctx, const Event *event, Error *err)
{
    (void)ctx;
    (void)err;
    if (event != NULL && event->kind == EVENT_DATA)
        assert_in_range(event->data.len, 1, PIECE_MAX);
    return true;
}

static void
test_compressed_pieces_are_large(void **state)
{
    Buf noise = make_noise(3000000, 9);

    (void)state;
    for (size_t m = 0; m < METHODS; m++) {
        const Compression compression = standard(methods[m]);
        Recording recording = RECORDING_INIT;
        Error err = ERROR_INIT;
        Sink *sink = compress_new(recorder_new(&recording, &err), &compression, &err);

        recording.hook = expect_bounded;
        assert_true(run_archive(sink, base.name, span(&noise), 100, &err));
        assert_in_range(recording.data_events, 1, recording.bytes.len / PIECE_MIN);
        sink_free(sink);
        recording_free(&recording);
    }
    buf_free(&noise);
}

/* Takes the memory of what is pushed, in turn with what it took before. */
typedef struct Taker {
    Sink *decompress;
    Buf memory;
    Buf content;
} Taker;

static bool
take_memory(void *ctx, const Event *event, Error *err)
{
    Taker *taker = ctx;

    if (event == NULL || event->kind != EVENT_DATA || event->data.len == 0)
        return true;
    decompress_exchange(taker->decompress, &taker->memory);
    assert_ptr_equal(taker->memory.data, event->data.data);
    assert_true(taker->memory.capacity >= event->data.len);
    return buf_append(&taker->content, event->data.data, event->data.len, err);
}

static void
test_memory_is_exchanged(void **state)
{
    Buf text = make_text(5000000);

    (void)state;
    for (size_t m = 0; m < METHODS; m++) {
        Recording recording = RECORDING_INIT;
        Buf packed = pack_standard(methods[m], span(&text));
        Taker taker = {.decompress = NULL};
        Error err = ERROR_INIT;

        recording.hook = take_memory;
        recording.ctx = &taker;
        taker.decompress = decompress_new(recorder_new(&recording, &err), methods[m], &err);
        assert_true(
            run_archive(taker.decompress, packed_name(methods[m]), span(&packed), 100000, &err));
        assert_int_equal(taker.content.len, text.len);
        assert_memory_equal(taker.content.data, text.data, text.len);
        sink_free(taker.decompress);
        recording_free(&recording);
        buf_free(&taker.memory);
        buf_free(&taker.content);
        buf_free(&packed);
    }
    buf_free(&text);
}

/* A few kilobytes that unpack to 20 MB do so piece by piece. */
static void
test_unpacked_pieces_are_large_and_bounded(void **state)
{
    Buf zeros = make_zeros(20000000);

    (void)state;
    for (size_t m = 0; m < METHODS; m++) {
        Buf packed = pack_standard(methods[m], span(&zeros));
        const size_t cuts[] = {0, 1};

        for (size_t i = 0; i < 2; i++) {
            Recording recording = {.hook = expect_bounded};
            Error err = ERROR_INIT;

            assert_true(unpack(methods[m], span(&packed), cuts[i], &recording, &err));
            assert_int_equal(recording.bytes.len, zeros.len);
            assert_memory_equal(recording.bytes.data, zeros.data, zeros.len);
            assert_in_range(recording.data_events, zeros.len / PIECE_MAX, zeros.len / PIECE_MIN);
            recording_free(&recording);
        }
        buf_free(&packed);
    }
    buf_free(&zeros);
}

/* ---- flush ---- */

static Sink *
new_compressor(Recording *recording, CompressionMethod method)
{
    const Compression compression = standard(method);
    Error err = ERROR_INIT;

    return compress_new(recorder_new(recording, &err), &compression, &err);
}

/* Of gzip, with workers: they are there still when something fails. */
static Sink *
new_busy_compressor(Recording *recording, CompressionMethod method)
{
    Compression compression = standard(method);
    Error err = ERROR_INIT;

    compression.workers = 3;
    return compress_new(recorder_new(recording, &err), &compression, &err);
}

static Sink *
new_decompressor(Recording *recording, CompressionMethod method)
{
    Error err = ERROR_INIT;

    return decompress_new(recorder_new(recording, &err), method, &err);
}

/* Compressed, decompressed again, recorded. */
static Sink *
new_loop(const Compression *compression, Recording *recording)
{
    Error err = ERROR_INIT;
    Sink *sink = recorder_new(recording, &err);

    sink = decompress_new(sink, compression->method, &err);
    sink = compress_new(sink, compression, &err);
    assert_non_null(sink);
    return sink;
}

static void
flush_everywhere(const Compression *compression)
{
    static const size_t parts[] = {0, 1, 5000, 0, 300000, 262144, 17, 0};
    Buf text = make_text(600000);
    Recording recording = RECORDING_INIT;
    Error err = ERROR_INIT;
    Sink *sink = new_loop(compression, &recording);
    size_t done = 0;

    assert_true(sink_archive_begin(sink, &base, &err));
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        assert_true(sink_data(sink, (Span){.data = text.data + done, .len = parts[i]}, &err));
        assert_true(sink_flush(sink, 0x1000 + i, &err));
        done += parts[i];
        assert_int_equal(recording.bytes.len, done);
    }
    assert_memory_equal(recording.bytes.data, text.data, done);
    assert_non_null(strstr(recording_text(&recording), "flush 0/1000\ndata 1 "));
    assert_non_null(strstr(recording_text(&recording), "flush 0/1006\nflush 0/1007\n"));
    assert_true(sink_archive_end(sink, &err));
    assert_true(sink_finish(sink, &err));
    assert_int_equal(recording.bytes.len, done);
    sink_free(sink);
    recording_free(&recording);
    buf_free(&text);
}

static void
test_flush_makes_all_before_it_readable(void **state)
{
    const Compression zstd_workers = {.method = COMPRESSION_ZSTD, .level = 1, .workers = 2};
    const Compression gzip_workers = {.method = COMPRESSION_GZIP, .level = 1, .workers = 2};

    (void)state;
    for (size_t m = 0; m < METHODS; m++) {
        const Compression compression = standard(methods[m]);

        flush_everywhere(&compression);
    }
    flush_everywhere(&zstd_workers);
    flush_everywhere(&gzip_workers);
}

/* Noise does not fit into the output between two flushes. */
static void
test_flush_of_much(void **state)
{
    Buf noise = make_noise(1000000, 21);

    (void)state;
    for (size_t m = 0; m < METHODS; m++) {
        const Compression compression = standard(methods[m]);
        Recording recording = RECORDING_INIT;
        Error err = ERROR_INIT;
        Sink *sink = new_loop(&compression, &recording);

        assert_true(sink_archive_begin(sink, &base, &err));
        for (size_t len = 0; len < noise.len; len += 250000) {
            assert_true(sink_data(sink, (Span){.data = noise.data + len, .len = 250000}, &err));
            assert_true(sink_flush(sink, 1, &err));
            assert_int_equal(recording.bytes.len, len + 250000);
        }
        assert_memory_equal(recording.bytes.data, noise.data, noise.len);
        sink_free(sink);
        recording_free(&recording);
    }
    buf_free(&noise);
}

/* How much content a flush brings out of the begin of an archive. */
static size_t
unpacked_by_flush(CompressionMethod method, Span packed, size_t piece)
{
    Recording recording = RECORDING_INIT;
    Error err = ERROR_INIT;
    Sink *sink = new_decompressor(&recording, method);
    size_t len;

    assert_true(sink_archive_begin(sink, &(Archive){.name = packed_name(method)}, &err));
    assert_true(chunk_push(sink, packed, piece, &err));
    assert_true(sink_flush(sink, 1, &err));
    len = recording.bytes.len;
    sink_free(sink);
    recording_free(&recording);
    return len;
}

/* Wherever the input ends, also where the output is just full. */
static void
expect_flushed_alike(CompressionMethod method, Span packed, size_t from)
{
    size_t last = 0;

    for (size_t len = from; len <= packed.len; len++) {
        const Span begin = {.data = packed.data, .len = len};
        size_t whole = unpacked_by_flush(method, begin, 0);

        assert_int_equal(whole, unpacked_by_flush(method, begin, 1));
        assert_true(whole >= last);
        last = whole;
    }
}

static void
test_flush_of_what_unpacks_to_much(void **state)
{
    const LZ4F_preferences_t one_block = {.frameInfo = {.blockSizeID = LZ4F_max4MB}};
    Buf zeros = make_zeros(1000000);
    Buf gzip = pack_standard(COMPRESSION_GZIP, (Span){.data = zeros.data, .len = 300000});
    Buf zstd = pack_standard(COMPRESSION_ZSTD, span(&zeros));
    Buf lz4 = make_room(LZ4F_compressFrameBound(zeros.len, &one_block));
    size_t content;

    (void)state;
    expect_flushed_alike(COMPRESSION_GZIP, span(&gzip), 0);
    expect_flushed_alike(COMPRESSION_ZSTD, span(&zstd), 0);
    lz4.len = LZ4F_compressFrame(lz4.data, lz4.capacity, zeros.data, zeros.len, &one_block);
    content = lz4.len - 4; /* without the end mark */
    expect_flushed_alike(COMPRESSION_LZ4, span(&lz4), content - 10);
    assert_int_equal(
        unpacked_by_flush(COMPRESSION_LZ4, (Span){.data = lz4.data, .len = content}, 0), zeros.len);
    buf_free(&lz4);
    buf_free(&zstd);
    buf_free(&gzip);
    buf_free(&zeros);
}

static void
test_flushed_archive_is_one_member(void **state)
{
    Buf text = make_text(50000);

    (void)state;
    for (size_t m = 0; m < METHODS; m++) {
        const Compression compression = standard(methods[m]);
        Recording recording = RECORDING_INIT;
        Error err = ERROR_INIT;
        Sink *sink = compress_new(recorder_new(&recording, &err), &compression, &err);

        assert_true(sink_flush(sink, 1, &err));
        assert_true(sink_archive_begin(sink, &base, &err));
        assert_true(sink_flush(sink, 2, &err));
        assert_true(sink_data(sink, span(&text), &err));
        assert_true(sink_flush(sink, 3, &err));
        assert_true(sink_flush(sink, 4, &err));
        assert_true(sink_archive_end(sink, &err));
        assert_true(sink_flush(sink, 5, &err));
        assert_true(sink_finish(sink, &err));
        assert_memory_equal(recording_text(&recording), "flush 0/1\narchive base.tar.", 27);
        assert_non_null(strstr(recording_text(&recording), "archive end\nflush 0/5\nfinish\n"));
        expect_one_member(methods[m], span(&recording.bytes), span(&text));
        sink_free(sink);
        recording_free(&recording);
    }
    buf_free(&text);
}

/* ---- several members ---- */

static const uint8_t skippable_empty[] = {0x50, 0x2A, 0x4D, 0x18, 0, 0, 0, 0};
static const uint8_t skippable_three[] = {0x5F, 0x2A, 0x4D, 0x18, 3, 0, 0, 0, 'a', 'b', 'c'};

#define SPAN_OF_ARRAY(array) ((Span){.data = (array), .len = sizeof(array)})

static void
test_members_behind_each_other(void **state)
{
    Buf text = make_text(70000);

    (void)state;
    for (size_t m = 0; m < METHODS; m++) {
        Buf packed = pack_standard(methods[m], (Span){.data = text.data, .len = 60000});
        Buf empty = pack_standard(methods[m], (Span){.data = NULL});
        Buf rest = pack_standard(methods[m], (Span){.data = text.data + 60000, .len = 10000});

        append(&packed, span(&empty));
        append(&packed, span(&rest));
        append(&packed, span(&empty));
        expect_content(methods[m], span(&packed), span(&text));
        buf_free(&packed);
        buf_free(&empty);
        buf_free(&rest);
    }
    buf_free(&text);
}

static void
test_skippable_frames(void **state)
{
    static const CompressionMethod with_skippable[] = {COMPRESSION_LZ4, COMPRESSION_ZSTD};
    Buf text = make_text(5000);

    (void)state;
    for (size_t m = 0; m < 2; m++) {
        Buf frame = pack_standard(with_skippable[m], span(&text));
        Buf packed = BUF_INIT;
        Buf twice = BUF_INIT;

        append(&twice, span(&text));
        append(&twice, span(&text));
        append(&packed, SPAN_OF_ARRAY(skippable_three));
        append(&packed, SPAN_OF_ARRAY(skippable_empty));
        append(&packed, span(&frame));
        append(&packed, SPAN_OF_ARRAY(skippable_empty));
        append(&packed, SPAN_OF_ARRAY(skippable_three));
        append(&packed, span(&frame));
        append(&packed, SPAN_OF_ARRAY(skippable_three));
        expect_content(with_skippable[m], span(&packed), span(&twice));
        expect_content(with_skippable[m], SPAN_OF_ARRAY(skippable_three), (Span){.data = NULL});
        expect_damaged(with_skippable[m],
                       (Span){.data = skippable_three, .len = sizeof skippable_three - 1}, NULL);
        buf_free(&twice);
        buf_free(&packed);
        buf_free(&frame);
    }
    expect_damaged(COMPRESSION_GZIP, SPAN_OF_ARRAY(skippable_empty),
                   "archive \"base.tar.gz\" is not gzip data");
    buf_free(&text);
}

/* ---- what others write ---- */

static void
test_gzip_header_with_everything(void **state)
{
    static uint8_t name[] = "base.tar";
    static uint8_t comment[] = "a comment";
    static uint8_t extra[] = {'p', 'g', 2, 0, 7, 7};
    gz_header header = {.text = 1, .time = 1700000000, .os = 3, .hcrc = 1};
    Buf text = make_text(3000);
    z_stream zlib = {.next_in = text.data, .avail_in = (uInt)text.len};
    uint8_t packed[4000];

    (void)state;
    header.name = name;
    header.comment = comment;
    header.extra = extra;
    header.extra_len = sizeof extra;
    assert_int_equal(deflateInit2(&zlib, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
    assert_int_equal(deflateSetHeader(&zlib, &header), Z_OK);
    zlib.next_out = packed;
    zlib.avail_out = sizeof packed;
    assert_int_equal(deflate(&zlib, Z_FINISH), Z_STREAM_END);
    expect_content(COMPRESSION_GZIP, (Span){.data = packed, .len = zlib.total_out}, span(&text));
    packed[20] ^= 1; /* in the name: the header has a checksum of its own */
    expect_damaged(COMPRESSION_GZIP, (Span){.data = packed, .len = zlib.total_out},
                   "archive \"base.tar.gz\": damaged gzip data: header crc mismatch");
    assert_int_equal(deflateEnd(&zlib), Z_OK);
    buf_free(&text);
}

static void
expect_lz4_read(const LZ4F_preferences_t *preferences, Span plain)
{
    Buf packed = make_room(LZ4F_compressFrameBound(plain.len, preferences));

    packed.len =
        LZ4F_compressFrame(packed.data, packed.capacity, plain.data, plain.len, preferences);
    assert_false(LZ4F_isError(packed.len));
    expect_content(COMPRESSION_LZ4, span(&packed), plain);
    buf_free(&packed);
}

static void
test_lz4_frames_of_all_kinds(void **state)
{
    static const LZ4F_blockSizeID_t sizes[] = {LZ4F_max64KB, LZ4F_max256KB, LZ4F_max1MB,
                                               LZ4F_max4MB};
    Buf text = make_text(700000);
    Buf noise = make_noise(100000, 8);

    (void)state;
    for (size_t i = 0; i < 4; i++) {
        LZ4F_preferences_t preferences = {.frameInfo = {.blockSizeID = sizes[i]}};

        expect_lz4_read(&preferences, span(&text));
        preferences.frameInfo.blockMode = LZ4F_blockIndependent;
        preferences.frameInfo.blockChecksumFlag = LZ4F_blockChecksumEnabled;
        preferences.frameInfo.contentSize = noise.len;
        expect_lz4_read(&preferences, span(&noise));
    }
    buf_free(&noise);
    buf_free(&text);
}

/* In one go, so that the frame tells its size and has no window of its own; without a checksum. */
static void
test_zstd_single_segment(void **state)
{
    Buf text = make_text(300000);
    Buf packed = make_room(ZSTD_compressBound(text.len));

    (void)state;
    packed.len = ZSTD_compress(packed.data, packed.capacity, text.data, text.len, 5);
    assert_false(ZSTD_isError(packed.len));
    expect_content(COMPRESSION_ZSTD, span(&packed), span(&text));
    buf_free(&packed);
    buf_free(&text);
}

/* A frame that holds one raw block of three bytes and wants a window of 2^log bytes. */
static void
zstd_frame_with_window(uint8_t frame[12], unsigned log)
{
    static const uint8_t model[12] = {0x28, 0xB5, 0x2F, 0xFD, 0, 0, 0x19, 0, 0, 'a', 'b', 'c'};

    memcpy(frame, model, sizeof model);
    frame[5] = (uint8_t)((log - 10) << 3);
}

static void
test_zstd_windows(void **state)
{
    uint8_t frame[12];

    (void)state;
    for (unsigned log = 10; log <= 27; log++) {
        zstd_frame_with_window(frame, log);
        expect_content_cut(COMPRESSION_ZSTD, SPAN_OF_ARRAY(frame), span_of("abc"), 0);
    }
    for (unsigned log = 28; log <= 31; log++) {
        Recording recording = RECORDING_INIT;
        Error err = ERROR_INIT;

        zstd_frame_with_window(frame, log);
        assert_false(unpack(COMPRESSION_ZSTD, SPAN_OF_ARRAY(frame), 1, &recording, &err));
        assert_int_equal(err.code, ERR_UNSUPPORTED);
        assert_string_equal(err.message,
                            "archive \"base.tar.zst\": zstd data that needs a window of more than "
                            "128 MiB is not supported");
        recording_free(&recording);
    }
}

/* ---- damage ---- */

static void
test_empty_archives(void **state)
{
    (void)state;
    expect_damaged(COMPRESSION_GZIP, (Span){.data = NULL},
                   "archive \"base.tar.gz\" is empty, which gzip data never is");
    expect_damaged(COMPRESSION_LZ4, (Span){.data = NULL},
                   "archive \"base.tar.lz4\" is empty, which lz4 data never is");
    expect_damaged(COMPRESSION_ZSTD, (Span){.data = NULL},
                   "archive \"base.tar.zst\" is empty, which zstd data never is");
}

static void
test_other_data(void **state)
{
    Buf text = make_text(300);

    (void)state;
    for (size_t m = 0; m < METHODS; m++) {
        const char *name = compression_method_name(methods[m]);
        char message[64];

        (void)snprintf(message, sizeof message, "archive \"%s\" is not %s data",
                       packed_name(methods[m]), name);
        expect_damaged(methods[m], span(&text), message);
        expect_damaged(methods[m], (Span){.data = text.data, .len = 1}, message);
        for (size_t other = 0; other < METHODS; other++) {
            Buf packed = pack_standard(methods[other], span(&text));

            if (other != m)
                expect_damaged(methods[m], span(&packed), message);
            buf_free(&packed);
        }
    }
    buf_free(&text);
}

/* An archive knows nothing of the one before. */
static void
test_damage_of_a_second_archive(void **state)
{
    static const struct {
        const char *data;
        const char *message;
    } seconds[] = {
        {"", "archive \"base.tar.zst\" is empty, which zstd data never is"},
        {"\x28\xB5\x2F", "archive \"base.tar.zst\" ends after 3 bytes within its zstd data"},
        {"text", "archive \"base.tar.zst\" is not zstd data"}};
    Buf packed = pack_standard(COMPRESSION_ZSTD, span_of("content"));

    (void)state;
    for (size_t i = 0; i < sizeof seconds / sizeof seconds[0]; i++) {
        Recording recording = RECORDING_INIT;
        Error err = ERROR_INIT;
        Sink *sink = new_decompressor(&recording, COMPRESSION_ZSTD);

        assert_true(run_archive(sink, "16385.tar.zst", span(&packed), 0, &err));
        assert_false(run_archive(sink, "base.tar.zst", span_of(seconds[i].data), 0, &err));
        assert_string_equal(err.message, seconds[i].message);
        sink_free(sink);
        recording_free(&recording);
    }
    buf_free(&packed);
}

/* Nothing is missing that does not count: neither a trailer nor an end mark nor a checksum. */
static void
test_cut_short_anywhere(void **state)
{
    Buf text = make_text(400);

    (void)state;
    for (size_t m = 0; m < METHODS; m++) {
        Buf packed = pack_standard(methods[m], span(&text));
        char message[96];

        for (size_t len = 1; len < packed.len; len++) {
            (void)snprintf(message, sizeof message,
                           "archive \"%s\" ends after %zu bytes within its %s data",
                           packed_name(methods[m]), len, compression_method_name(methods[m]));
            expect_damaged(methods[m], (Span){.data = packed.data, .len = len}, message);
        }
        buf_free(&packed);
    }
    buf_free(&text);
}

/* Likewise in the second member, where offsets go on counting. */
static void
test_cut_short_in_a_later_member(void **state)
{
    Buf text = make_text(200);

    (void)state;
    for (size_t m = 0; m < METHODS; m++) {
        Buf packed = pack_standard(methods[m], span(&text));
        const size_t first = packed.len;
        Buf second = pack_standard(methods[m], span(&text));

        append(&packed, span(&second));
        for (size_t len = first + 1; len < packed.len; len++)
            expect_damaged(methods[m], (Span){.data = packed.data, .len = len}, NULL);
        expect_content_cut(methods[m], (Span){.data = packed.data, .len = first}, span(&text), 0);
        buf_free(&second);
        buf_free(&packed);
    }
    buf_free(&text);
}

/* An error, the same for all pieces, or the content as it was (what a gzip header says of times and
 * systems is no part of it). */
static bool
flip_goes_unnoticed(CompressionMethod method, Span packed, Span plain)
{
    static const size_t cuts[] = {0, 1, 5};
    Error first = ERROR_INIT;

    for (size_t i = 0; i < 3; i++) {
        Recording recording = RECORDING_INIT;
        Error err = ERROR_INIT;

        if (unpack(method, packed, cuts[i], &recording, &err)) {
            assert_int_equal(recording.bytes.len, plain.len);
            assert_memory_equal(recording.bytes.data, plain.data, plain.len);
        } else {
            assert_true(err.code == ERR_FORMAT || err.code == ERR_UNSUPPORTED);
        }
        recording_free(&recording);
        if (i == 0)
            first = err;
        assert_string_equal(err.message, first.message);
    }
    return first.code == ERR_NONE;
}

/* The highest bit of a block's length: it has none of its checksum. What an archive holds shows it:
 * all that is behind the block is at another place. */
#define LZ4_BLOCK_IS_PLAIN ((size_t)(7 + 3) * 8 + 7)

static void
test_every_flipped_bit(void **state)
{
    /* gzip: a flag, time, hints and system of the header, and what fills up bytes before the empty
     * block that ends a flush and behind the last one; zstd: an unused bit, the window, and the few
     * bits that the encodings of a block leave unused. */
    static const size_t harmless[] = {1 + 32 + 8 + 8 + 7 + 6, 0, 1 + 8 + 7};
    Buf text = make_text(150);

    (void)state;
    for (size_t m = 0; m < METHODS; m++) {
        Buf packed = pack_standard(methods[m], span(&text));
        size_t unnoticed = 0;

        for (size_t bit = 0; bit < packed.len * 8; bit++) {
            if (methods[m] == COMPRESSION_LZ4 && bit == LZ4_BLOCK_IS_PLAIN)
                continue;
            packed.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
            if (flip_goes_unnoticed(methods[m], span(&packed), span(&text)))
                unnoticed++;
            packed.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
        }
        assert_in_range(unnoticed, 0, harmless[m]);
        buf_free(&packed);
    }
    buf_free(&text);
}

static void
test_damage_is_told(void **state)
{
    Buf text = make_text(5000);
    Buf gzip = pack_standard(COMPRESSION_GZIP, span(&text));
    Buf lz4 = pack_standard(COMPRESSION_LZ4, span(&text));
    Buf zstd = pack_standard(COMPRESSION_ZSTD, span(&text));

    (void)state;
    gzip.data[gzip.len - 1] ^= 1;
    expect_damaged(COMPRESSION_GZIP, span(&gzip),
                   "archive \"base.tar.gz\": damaged gzip data: incorrect length check");
    gzip.data[gzip.len - 5] ^= 1;
    expect_damaged(COMPRESSION_GZIP, span(&gzip),
                   "archive \"base.tar.gz\": damaged gzip data: incorrect data check");
    lz4.data[lz4.len - 5] ^= 1; /* in front of the end's mark */
    expect_damaged(COMPRESSION_LZ4, span(&lz4),
                   "archive \"base.tar.lz4\": damaged lz4 data: ERROR_blockChecksum_invalid");
    zstd.data[zstd.len - 1] ^= 1;
    expect_damaged(COMPRESSION_ZSTD, span(&zstd),
                   "archive \"base.tar.zst\": damaged zstd data: Restored data doesn't match "
                   "checksum");
    buf_free(&zstd);
    buf_free(&lz4);
    buf_free(&gzip);
    buf_free(&text);
}

/*
 * Of a member that is damaged somewhere, or ends there, all goes on that is in front of it, however
 * it is cut: no begin of a block of any of the methods is all ones.
 */
static void
expect_all_in_front(CompressionMethod method, Span packed, Span plain)
{
    for (size_t i = 0; i < PIECES; i++) {
        Recording recording = RECORDING_INIT;
        Error err = ERROR_INIT;

        assert_false(unpack(method, packed, pieces[i], &recording, &err));
        assert_int_equal(err.code, ERR_FORMAT);
        if (recording.bytes.len != plain.len)
            fail_msg("%s, pieces of %zu, %zu of %zu: %s", compression_method_name(method),
                     pieces[i], recording.bytes.len, plain.len, err.message);
        assert_memory_equal(recording.bytes.data, plain.data, plain.len);
        recording_free(&recording);
    }
}

static void
test_all_in_front_of_damage_goes_on(void **state)
{
    static const uint8_t ones[] = {0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF};
    static const size_t sizes[] = {1, 1000, 128 * 1024, 700000};
    Buf text = make_text(700000);

    (void)state;
    for (size_t m = 0; m < METHODS; m++) {
        for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
            const Span plain = {.data = text.data, .len = sizes[i]};
            Buf packed = compressed_open(methods[m], plain);

            expect_all_in_front(methods[m], span(&packed), plain);
            append(&packed, (Span){.data = ones, .len = sizeof ones});
            expect_all_in_front(methods[m], span(&packed), plain);
            buf_free(&packed);
        }
    }
    buf_free(&text);
}

/* What is behind the last member is no member, but what was in it has gone on. */
static void
test_all_in_front_of_other_data_goes_on(void **state)
{
    Buf text = make_text(5000);

    (void)state;
    for (size_t m = 0; m < METHODS; m++) {
        Buf packed = pack_standard(methods[m], span(&text));

        append(&packed, span_of("garbage"));
        expect_all_in_front(methods[m], span(&packed), span(&text));
        buf_free(&packed);
    }
    buf_free(&text);
}

/* A stage behind it that fails for what was in front of the damage was first. */
static void
test_failure_in_front_of_damage_is_told(void **state)
{
    Buf text = make_text(5000);

    (void)state;
    for (size_t m = 0; m < METHODS; m++) {
        Recording recording = RECORDING_INIT;
        Error err = ERROR_INIT;
        Buf packed = compressed_open(methods[m], span(&text));

        append(&packed, span_of("\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF"));
        recording.fail_at = 2; /* the first after the begin of the archive */
        assert_false(unpack(methods[m], span(&packed), 0, &recording, &err));
        assert_int_equal(err.code, ERR_SYSTEM);
        recording_free(&recording);
        buf_free(&packed);
    }
    buf_free(&text);
}

/* Also zeros, with which gzip itself would put up, and what begins like a member and is none. */
static void
test_data_behind_the_end(void **state)
{
    static const uint8_t zeros[512] = {0};
    const Span behind[] = {{zeros, 1},
                           {zeros, sizeof zeros},
                           span_of("garbage"),
                           span_of("\x1F?"),
                           span_of("\x04\x22?"),
                           span_of("\x28\xB5\x2F\xFC"),
                           span_of("\x5A\x2A\x4D?")};
    Buf text = make_text(400);

    (void)state;
    for (size_t m = 0; m < METHODS; m++) {
        for (size_t i = 0; i < sizeof behind / sizeof behind[0]; i++) {
            Buf packed = pack_standard(methods[m], span(&text));
            char message[96];

            (void)snprintf(message, sizeof message,
                           "archive \"%s\", at offset %zu: data after the end of the %s data",
                           packed_name(methods[m]), packed.len,
                           compression_method_name(methods[m]));
            append(&packed, behind[i]);
            expect_damaged(methods[m], span(&packed), message);
            buf_free(&packed);
        }
    }
    buf_free(&text);
}

/* ---- failures further on ---- */

static void
fail_each_event(Sink *(*new_sink)(Recording *, CompressionMethod), CompressionMethod method,
                Span input)
{
    for (size_t n = 1;; n++) {
        Recording recording = {.fail_at = n};
        Error err = ERROR_INIT;
        Sink *sink = new_sink(&recording, method);
        char message[64];
        bool ok;

        assert_non_null(sink);
        ok = sink_archive_begin(sink, &(Archive){.name = packed_name(method)}, &err) &&
             chunk_push(sink, input, 1000, &err) && sink_flush(sink, 1, &err) &&
             sink_archive_end(sink, &err) && sink_finish(sink, &err);
        sink_free(sink);
        assert_int_equal(recording.released, 1);
        recording_free(&recording);
        if (ok) {
            assert_in_range(n, 5, 100); /* begin, data, flush, end, and none to fail */
            return;
        }
        assert_int_equal(err.code, ERR_SYSTEM);
        (void)snprintf(message, sizeof message, "injected failure of event %zu", n);
        assert_memory_equal(err.message, message, strlen(message));
    }
}

static void
test_failing_next(void **state)
{
    Buf noise = make_noise(1000000, 17);

    (void)state;
    for (size_t m = 0; m < METHODS; m++) {
        Buf packed = pack_standard(methods[m], span(&noise));

        fail_each_event(new_compressor, methods[m], span(&noise));
        fail_each_event(new_decompressor, methods[m], span(&packed));
        buf_free(&packed);
    }
    fail_each_event(new_busy_compressor, COMPRESSION_GZIP, span(&noise));
    buf_free(&noise);
}

/* Freed within an archive: nothing more is pushed on, and (sanitizers) nothing is lost. */
static void
test_abandoned(void **state)
{
    Buf text = make_text(100000);

    (void)state;
    for (size_t m = 0; m < METHODS; m++) {
        const Compression compression = standard(methods[m]);
        Recording recording = RECORDING_INIT;
        Error err = ERROR_INIT;
        Sink *sink = new_loop(&compression, &recording);

        assert_true(sink_archive_begin(sink, &base, &err));
        assert_true(sink_data(sink, span(&text), &err));
        sink_free(sink);
        assert_int_equal(recording.released, 1);
        expect_text(&recording, "archive base.tar 0\n");
    }
    buf_free(&text);
}

/* Likewise, with workers that have blocks to compress. */
static void
test_abandoned_workers(void **state)
{
    const Compression gzip = {.method = COMPRESSION_GZIP, .level = 9, .workers = 3};
    Buf text = make_text(4 * GZIP_BLOCK + 1000);
    Recording recording = RECORDING_INIT;
    Error err = ERROR_INIT;
    Sink *sink = new_loop(&gzip, &recording);

    (void)state;
    assert_true(sink_archive_begin(sink, &base, &err));
    assert_true(sink_data(sink, span(&text), &err));
    sink_free(sink);
    assert_int_equal(recording.released, 1);
    recording_free(&recording);
    buf_free(&text);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gzip_levels),
        cmocka_unit_test(test_lz4_levels),
        cmocka_unit_test(test_zstd_levels),
        cmocka_unit_test(test_zstd_options),
        cmocka_unit_test(test_zstd_highest_level),
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_compress_takes_any_pieces),
        cmocka_unit_test(test_decompress_takes_any_pieces),
        cmocka_unit_test(test_level_matters),
        cmocka_unit_test(test_long_distance_matters),
        cmocka_unit_test(test_lz4_frame_parameters),
        cmocka_unit_test(test_zstd_frame_has_a_checksum),
        cmocka_unit_test(test_content_of_blocks),
        cmocka_unit_test(test_gzip_of_any_pieces_is_the_same),
        cmocka_unit_test(test_gzip_by_any_workers_is_the_same),
        cmocka_unit_test(test_flushed_gzip_is_the_same),
        cmocka_unit_test(test_gzip_header),
        cmocka_unit_test(test_gzip_default_level),
        cmocka_unit_test(test_no_method_is_no_stage),
        cmocka_unit_test(test_no_next),
        cmocka_unit_test(test_many_archives),
        cmocka_unit_test(test_many_archives_decompressed),
        cmocka_unit_test(test_names_of_archives),
        cmocka_unit_test(test_tgz),
        cmocka_unit_test(test_name_without_suffix),
        cmocka_unit_test(test_entries_are_refused),
        cmocka_unit_test(test_compressed_pieces_are_large),
        cmocka_unit_test(test_memory_is_exchanged),
        cmocka_unit_test(test_unpacked_pieces_are_large_and_bounded),
        cmocka_unit_test(test_flush_makes_all_before_it_readable),
        cmocka_unit_test(test_flush_of_much),
        cmocka_unit_test(test_flush_of_what_unpacks_to_much),
        cmocka_unit_test(test_flushed_archive_is_one_member),
        cmocka_unit_test(test_members_behind_each_other),
        cmocka_unit_test(test_skippable_frames),
        cmocka_unit_test(test_gzip_header_with_everything),
        cmocka_unit_test(test_lz4_frames_of_all_kinds),
        cmocka_unit_test(test_zstd_single_segment),
        cmocka_unit_test(test_zstd_windows),
        cmocka_unit_test(test_empty_archives),
        cmocka_unit_test(test_other_data),
        cmocka_unit_test(test_damage_of_a_second_archive),
        cmocka_unit_test(test_cut_short_anywhere),
        cmocka_unit_test(test_cut_short_in_a_later_member),
        cmocka_unit_test(test_every_flipped_bit),
        cmocka_unit_test(test_damage_is_told),
        cmocka_unit_test(test_all_in_front_of_damage_goes_on),
        cmocka_unit_test(test_all_in_front_of_other_data_goes_on),
        cmocka_unit_test(test_failure_in_front_of_damage_is_told),
        cmocka_unit_test(test_data_behind_the_end),
        cmocka_unit_test(test_failing_next),
        cmocka_unit_test(test_abandoned),
        cmocka_unit_test(test_abandoned_workers),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
