/*
 * deflate_join against zlib, which says where blocks end: what becomes of a stream is known to the
 * bit, whoever wrote it. What zlib refuses is refused, but for references to what is not there,
 * which only those see who decompress.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define ZLIB_CONST
#include <libdeflate.h>
#include <zlib.h>

#include "stream/internal.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static const uint8_t final_empty[] = {0x03, 0x00};

static uint32_t
next_random(uint32_t *seed)
{
    *seed = *seed * 1664525u + 1013904223u;
    return *seed >> 16;
}

static Span
span(const Buf *buf)
{
    return (Span){.data = buf->data, .len = buf->len};
}

static void
append(Buf *buf, const void *bytes, size_t len)
{
    Error err = ERROR_INIT;

    assert_true(buf_append(buf, bytes, len, &err));
}

/* ---- content ---- */

static Buf
make_noise(size_t len, uint32_t seed)
{
    Buf noise = BUF_INIT;

    for (size_t i = 0; i < len; i++) {
        uint8_t byte = (uint8_t)next_random(&seed);

        append(&noise, &byte, 1);
    }
    return noise;
}

/* Text, noise, zeros and text again: blocks of all types. */
static Buf
make_mixture(size_t len)
{
    Buf mixture = BUF_INIT;
    Error err = ERROR_INIT;
    uint32_t seed = 7;

    while (mixture.len < len) {
        uint8_t piece[3000] = {0};

        for (size_t i = 0; i < 4000; i++)
            assert_true(buf_printf(&mixture, &err, "tuple %u of page %u\n", next_random(&seed) % 97,
                                   next_random(&seed) % 5000));
        append(&mixture, piece, sizeof piece);
        for (size_t i = 0; i < 100000; i += 2) {
            uint32_t bits = next_random(&seed);

            append(&mixture, &bits, 2);
        }
    }
    mixture.len = len;
    return mixture;
}

/* Some bytes are so rare that their codes are longer than any table wants to be. */
static Buf
make_rarities(void)
{
    Buf rarities = BUF_INIT;
    size_t count = 1;
    size_t before = 1;

    for (uint8_t byte = 0; byte < 20; byte++) {
        size_t next = count + before;

        for (size_t i = 0; i < count; i++)
            append(&rarities, &byte, 1);
        before = count;
        count = next;
    }
    return rarities;
}

/* ---- what zlib says of a stream ---- */

typedef struct Oracle {
    bool ok;           /* it is complete, and all of it is used */
    bool reaches_back; /* it refers to what is in front of the content */
    size_t last_block; /* bit of its header */
    size_t end;        /* in bits */
    Buf content;
} Oracle;

static Oracle
ask_zlib(Span stream)
{
    Oracle oracle = {.ok = false};
    z_stream zlib = {.next_in = stream.data, .avail_in = (uInt)stream.len};
    size_t block_end = 0;
    int result = Z_OK;

    assert_int_equal(inflateInit2(&zlib, -15), Z_OK);
    while (result == Z_OK) {
        uint8_t out[4096];

        zlib.next_out = out;
        zlib.avail_out = sizeof out;
        result = inflate(&zlib, Z_BLOCK);
        append(&oracle.content, out, sizeof out - zlib.avail_out);
        if (result == Z_OK && (zlib.data_type & 128) != 0) {
            oracle.last_block = block_end;
            block_end = zlib.total_in * 8 - (size_t)(zlib.data_type & 7);
            oracle.end = block_end;
        }
    }
    oracle.ok = result == Z_STREAM_END && zlib.avail_in == 0;
    oracle.reaches_back = result == Z_DATA_ERROR && strstr(zlib.msg, "too far back") != NULL;
    assert_int_equal(inflateEnd(&zlib), Z_OK);
    return oracle;
}

/* Byte by byte what RFC 1951 wants, in memory of exactly its size. */
static Buf
expected_of(const Oracle *oracle, Span stream)
{
    static const uint8_t stored[] = {0x00, 0x00, 0xFF, 0xFF};
    size_t kept = (oracle->end + 3 + 7) / 8;
    Buf expected = BUF_INIT;

    append(&expected, stream.data, stream.len);
    append(&expected, "\xFF\xFF", 2);
    for (size_t bit = oracle->end; bit < kept * 8; bit++)
        expected.data[bit / 8] &= (uint8_t) ~(1U << bit % 8);
    expected.data[oracle->last_block / 8] &= (uint8_t) ~(1U << oracle->last_block % 8);
    expected.len = kept;
    append(&expected, stored, sizeof stored);
    return expected;
}

/* Memory without a byte to spare, so that a sanitizer sees who reads on. */
static Buf
exact_copy(Span stream)
{
    Buf copy = {.data = malloc(stream.len > 0 ? stream.len : 1)};

    assert_non_null(copy.data);
    if (stream.len > 0)
        memcpy(copy.data, stream.data, stream.len);
    copy.len = stream.len;
    copy.capacity = stream.len;
    return copy;
}

static void
expect_refused(Span stream)
{
    Buf copy = exact_copy(stream);
    Error err = ERROR_INIT;

    assert_false(deflate_open_end(&copy, &err));
    assert_int_equal(err.code, ERR_FORMAT);
    assert_memory_equal(err.message, "deflate stream", 14);
    assert_int_equal(copy.len, stream.len);
    if (stream.len > 0)
        assert_memory_equal(copy.data, stream.data, stream.len);
    buf_free(&copy);
}

/* Opens it, and compares with what zlib knows. */
static void
expect_as_zlib(Span stream)
{
    Oracle oracle = ask_zlib(stream);

    if (oracle.ok) {
        Buf opened = exact_copy(stream);
        Buf expected = expected_of(&oracle, stream);
        Error err = ERROR_INIT;
        Oracle again;

        if (!deflate_open_end(&opened, &err))
            fail_msg("%s", err.message);
        assert_int_equal(opened.len, expected.len);
        assert_in_range(opened.len, stream.len + 4, stream.len + DEFLATE_OPEN_MAX);
        assert_memory_equal(opened.data, expected.data, expected.len);
        append(&opened, final_empty, sizeof final_empty);
        again = ask_zlib(span(&opened));
        assert_true(again.ok);
        assert_int_equal(again.content.len, oracle.content.len);
        if (oracle.content.len > 0)
            assert_memory_equal(again.content.data, oracle.content.data, oracle.content.len);
        buf_free(&again.content);
        buf_free(&expected);
        buf_free(&opened);
    } else if (!oracle.reaches_back) {
        expect_refused(stream);
    }
    buf_free(&oracle.content);
}

static void
expect_opened(Span stream, Span content)
{
    Oracle oracle = ask_zlib(stream);

    assert_true(oracle.ok);
    assert_int_equal(oracle.content.len, content.len);
    if (content.len > 0)
        assert_memory_equal(oracle.content.data, content.data, content.len);
    buf_free(&oracle.content);
    expect_as_zlib(stream);
}

/* ---- streams of the libraries ---- */

static Buf
by_libdeflate(Span content, int level)
{
    struct libdeflate_compressor *compressor = libdeflate_alloc_compressor(level);
    Buf stream = BUF_INIT;
    Error err = ERROR_INIT;

    assert_non_null(compressor);
    assert_true(buf_reserve(
        &stream, libdeflate_deflate_compress_bound(compressor, content.len) + DEFLATE_OPEN_MAX,
        &err));
    stream.len = libdeflate_deflate_compress(compressor, content.data, content.len, stream.data,
                                             stream.capacity);
    assert_true(stream.len > 0);
    libdeflate_free_compressor(compressor);
    return stream;
}

typedef struct ZlibWay {
    int level;
    int strategy;
    int memory; /* little memory: many blocks */
    int flush;  /* every now and then */
} ZlibWay;

static Buf
by_zlib(Span content, const ZlibWay *way)
{
    const size_t piece = content.len / 3 + 1;
    z_stream zlib = {.next_in = content.data};
    Buf stream = BUF_INIT;
    Error err = ERROR_INIT;
    size_t left = content.len;

    assert_true(buf_reserve(&stream, content.len * 2 + 1000, &err));
    zlib.next_out = stream.data;
    zlib.avail_out = (uInt)stream.capacity;
    assert_int_equal(deflateInit2(&zlib, way->level, Z_DEFLATED, -15, way->memory, way->strategy),
                     Z_OK);
    while (left > piece) {
        zlib.avail_in = (uInt)piece;
        left -= piece;
        assert_int_equal(deflate(&zlib, way->flush), Z_OK);
        assert_int_equal(zlib.avail_in, 0);
    }
    zlib.avail_in = (uInt)left;
    assert_int_equal(deflate(&zlib, Z_FINISH), Z_STREAM_END);
    stream.len = zlib.total_out;
    assert_int_equal(deflateEnd(&zlib), Z_OK);
    return stream;
}

static void
test_libdeflate_at_all_levels(void **state)
{
    static const size_t sizes[] = {0, 1, 2, 3, 100, 5000, 65535, 65536, 70000, 1000000};
    Buf mixture = make_mixture(1000000);
    Buf noise = make_noise(1000000, 3);

    (void)state;
    for (int level = 0; level <= 12; level++) {
        for (size_t i = 0; i < COUNT(sizes); i++) {
            const Span contents[] = {{.data = mixture.data, .len = sizes[i]},
                                     {.data = noise.data, .len = sizes[i]}};

            for (size_t c = 0; c < 2; c++) {
                Buf stream = by_libdeflate(contents[c], level);

                expect_opened(span(&stream), contents[c]);
                buf_free(&stream);
            }
        }
    }
    buf_free(&noise);
    buf_free(&mixture);
}

static void
expect_zlib_opened(Span content)
{
    static const int strategies[] = {Z_DEFAULT_STRATEGY, Z_FILTERED, Z_HUFFMAN_ONLY, Z_RLE,
                                     Z_FIXED};
    static const int flushes[] = {Z_NO_FLUSH, Z_PARTIAL_FLUSH, Z_SYNC_FLUSH, Z_FULL_FLUSH, Z_BLOCK};

    for (int level = 0; level <= 9; level += 3) {
        for (size_t s = 0; s < COUNT(strategies); s++) {
            for (size_t f = 0; f < COUNT(flushes); f++) {
                const ZlibWay way = {.level = level,
                                     .strategy = strategies[s],
                                     .memory = f % 2 == 0 ? 1 : 9,
                                     .flush = flushes[f]};
                Buf stream = by_zlib(content, &way);

                expect_opened(span(&stream), content);
                buf_free(&stream);
            }
        }
    }
}

static void
test_zlib_in_all_ways(void **state)
{
    Buf mixture = make_mixture(250000);
    Buf rarities = make_rarities();

    (void)state;
    expect_zlib_opened(span(&mixture));
    expect_zlib_opened(span(&rarities));
    expect_zlib_opened((Span){.data = mixture.data, .len = 1});
    expect_zlib_opened((Span){.data = mixture.data, .len = 0});
    buf_free(&rarities);
    buf_free(&mixture);
}

/* A byte is reached in every way, by fixed and by dynamic codes. */
static void
test_every_bit_of_the_end(void **state)
{
    static const int strategies[] = {Z_DEFAULT_STRATEGY, Z_FIXED};
    Buf mixture = make_mixture(5000);

    (void)state;
    for (size_t s = 0; s < COUNT(strategies); s++) {
        const ZlibWay way = {.level = 6, .strategy = strategies[s], .memory = 8};
        size_t seen[8] = {0};

        for (size_t len = 1; len < 1000; len += 7) {
            const Span content = {.data = mixture.data, .len = len};
            Buf stream = by_zlib(content, &way);
            Oracle oracle = ask_zlib(span(&stream));

            seen[oracle.end % 8]++;
            expect_opened(span(&stream), content);
            buf_free(&oracle.content);
            buf_free(&stream);
        }
        for (size_t bit = 0; bit < 8; bit++)
            assert_true(seen[bit] > 0);
    }
    buf_free(&mixture);
}

/* What is behind the end in its byte does not matter, and is gone afterwards. */
static void
test_bits_behind_the_end(void **state)
{
    Buf mixture = make_mixture(3000);

    (void)state;
    for (size_t len = 1; len < 200; len += 3) {
        const Span content = {.data = mixture.data, .len = len};
        Buf stream = by_libdeflate(content, 6);
        Oracle oracle = ask_zlib(span(&stream));

        if (oracle.end % 8 != 0)
            stream.data[stream.len - 1] |= (uint8_t)(0xFFU << oracle.end % 8);
        expect_opened(span(&stream), content);
        buf_free(&oracle.content);
        buf_free(&stream);
    }
    buf_free(&mixture);
}

/* ---- one behind the other ---- */

/* All that was put together so far can be read, without a byte of what comes. */
static void
expect_readable(Span joined, Span content)
{
    z_stream zlib = {.next_in = joined.data, .avail_in = (uInt)joined.len};
    Buf out = BUF_INIT;
    Error err = ERROR_INIT;

    assert_true(buf_reserve(&out, content.len + 1, &err));
    zlib.next_out = out.data;
    zlib.avail_out = (uInt)content.len + 1;
    assert_int_equal(inflateInit2(&zlib, -15), Z_OK);
    assert_int_equal(inflate(&zlib, Z_SYNC_FLUSH), Z_OK);
    assert_int_equal(zlib.total_out, content.len);
    assert_memory_equal(out.data, content.data, content.len);
    assert_int_equal(inflateEnd(&zlib), Z_OK);
    buf_free(&out);
}

static void
test_streams_follow_each_other(void **state)
{
    Buf mixture = make_mixture(700000);
    Buf joined = BUF_INIT;
    size_t done = 0;
    uint32_t seed = 1;
    Oracle oracle;

    (void)state;
    for (int level = 0; done < mixture.len; level = (level + 1) % 13) {
        size_t wanted = next_random(&seed) % 40000;
        size_t left = mixture.len - done;
        const Span content = {.data = mixture.data + done, .len = wanted < left ? wanted : left};
        Buf stream = by_libdeflate(content, level);
        Error err = ERROR_INIT;

        assert_true(deflate_open_end(&stream, &err));
        append(&joined, stream.data, stream.len);
        done += content.len;
        expect_readable(span(&joined), (Span){.data = mixture.data, .len = done});
        buf_free(&stream);
    }
    append(&joined, final_empty, sizeof final_empty);
    oracle = ask_zlib(span(&joined));
    assert_true(oracle.ok);
    assert_int_equal(oracle.content.len, mixture.len);
    assert_memory_equal(oracle.content.data, mixture.data, mixture.len);
    buf_free(&oracle.content);
    buf_free(&joined);
    buf_free(&mixture);
}

/* ---- streams made by hand ---- */

typedef struct Writer {
    Buf bytes;
    size_t bits;
} Writer;

static void
put_bits(Writer *writer, uint64_t value, unsigned count)
{
    for (unsigned i = 0; i < count; i++, writer->bits++) {
        if (writer->bits % 8 == 0)
            append(&writer->bytes, "", 1);
        writer->bytes.data[writer->bits / 8] |= (uint8_t)((value >> i & 1) << writer->bits % 8);
    }
}

/* The canonical code of a symbol, from its highest bit on. */
static void
put_symbol(Writer *writer, const uint8_t *lengths, size_t count, size_t symbol)
{
    unsigned code = 0;

    for (unsigned length = 1; length <= lengths[symbol]; length++) {
        code <<= 1;
        for (size_t i = 0; i < count; i++) {
            if (lengths[i] == length && (length < lengths[symbol] || i < symbol))
                code++;
        }
    }
    for (unsigned bit = lengths[symbol]; bit > 0; bit--)
        put_bits(writer, code >> (bit - 1) & 1, 1);
}

typedef struct Dynamic {
    uint8_t literals[288];
    size_t literal_count;
    uint8_t distances[32];
    size_t distance_count;
} Dynamic;

/* Of the last block. Sixteen lengths have codes of four bits: nothing is repeated. */
static void
put_dynamic_header(Writer *writer, const Dynamic *code)
{
    const uint8_t plain[16] = {4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4};

    put_bits(writer, 1, 1);
    put_bits(writer, 2, 2);
    put_bits(writer, (unsigned)code->literal_count - 257, 5);
    put_bits(writer, (unsigned)code->distance_count - 1, 5);
    put_bits(writer, 15, 4);
    for (unsigned i = 0; i < 19; i++) /* 16, 17 and 18 come first */
        put_bits(writer, i < 3 ? 0 : 4, 3);
    for (size_t i = 0; i < code->literal_count; i++)
        put_symbol(writer, plain, 16, code->literals[i]);
    for (size_t i = 0; i < code->distance_count; i++)
        put_symbol(writer, plain, 16, code->distances[i]);
}

static void
put_literal(Writer *writer, const Dynamic *code, size_t symbol)
{
    put_symbol(writer, code->literals, code->literal_count, symbol);
}

static void
expect_written(Writer *writer, bool accepted)
{
    Oracle oracle = ask_zlib(span(&writer->bytes));

    assert_int_equal(oracle.ok, accepted);
    expect_as_zlib(span(&writer->bytes));
    buf_free(&oracle.content);
    buf_free(&writer->bytes);
    *writer = (Writer){.bits = 0};
}

/* Lengths 1, 2, 3 ... 15, 15 of sixteen symbols. */
static void
spread_lengths(uint8_t *lengths, const size_t symbols[16])
{
    for (uint8_t i = 0; i < 16; i++)
        lengths[symbols[i]] = i < 15 ? (uint8_t)(i + 1) : 15;
}

/* Literals, lengths and distances with the longest codes and extra bits there are, in any order. */
static void
test_longest_codes(void **state)
{
    static const size_t literals[16] = {0,   1,   256, 285, 284, 281, 257, 9,
                                        280, 277, 276, 269, 65,  66,  265, 283};
    static const size_t distances[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 14, 16, 18, 20, 28, 29};
    static const uint8_t distance_bits[16] = {0, 0, 0, 0, 1, 1, 2, 2, 3, 4, 6, 7, 8, 9, 13, 13};
    static const uint8_t length_bits[16] = {
        [4] = 5, [5] = 5, [8] = 4, [9] = 4, [10] = 3, [11] = 2, [14] = 1, [15] = 5};
    Dynamic code = {.literal_count = 286, .distance_count = 30};
    uint32_t seed = 5;
    Writer writer = {.bits = 0};

    (void)state;
    spread_lengths(code.literals, literals);
    spread_lengths(code.distances, distances);
    put_dynamic_header(&writer, &code);
    for (size_t i = 0; i < 40000; i++) /* enough to refer to */
        put_literal(&writer, &code, literals[i % 2]);
    for (size_t i = 0; i < 20000; i++) {
        size_t which = next_random(&seed) % 16;
        size_t distance = next_random(&seed) % 16;

        if (literals[which] == 256)
            continue;
        put_literal(&writer, &code, literals[which]);
        if (literals[which] < 256)
            continue;
        put_bits(&writer, next_random(&seed) & ((1U << length_bits[which]) - 1),
                 length_bits[which]);
        put_symbol(&writer, code.distances, code.distance_count, distances[distance]);
        put_bits(&writer, next_random(&seed) & ((1U << distance_bits[distance]) - 1),
                 distance_bits[distance]);
    }
    put_literal(&writer, &code, 256);
    expect_written(&writer, true);
}

static void
test_codes_that_are_none(void **state)
{
    /* Of the first literals; the end of the block has one of two bits. */
    static const struct {
        uint8_t lengths[4];
        uint8_t end;
        uint8_t distance;
        bool accepted;
    } codes[] = {
        {{1, 2}, 2, 1, true},     /* complete; a single distance */
        {{1, 2}, 2, 0, true},     /* no distance */
        {{0, 0}, 1, 0, true},     /* nothing but the end */
        {{1, 2, 2}, 2, 1, false}, /* too many */
        {{2, 2}, 2, 1, false},    /* too few */
        {{0, 0}, 2, 1, false},    /* one, but of two bits */
        {{1, 1}, 0, 1, false},    /* no end */
        {{1, 2}, 2, 2, false},    /* a single distance of two bits */
    };
    Writer writer = {.bits = 0};

    (void)state;
    for (size_t i = 0; i < COUNT(codes); i++) {
        Dynamic code = {.literal_count = 257, .distance_count = 1};

        memcpy(code.literals, codes[i].lengths, 4);
        code.literals[256] = codes[i].end;
        code.distances[0] = codes[i].distance;
        put_dynamic_header(&writer, &code);
        put_literal(&writer, &code, 256);
        expect_written(&writer, codes[i].accepted);
    }
}

/* A length with a distance that has no code, or no meaning. */
static void
test_symbols_that_are_none(void **state)
{
    Dynamic code = {.literal_count = 258, .distance_count = 1};
    Writer writer = {.bits = 0};

    (void)state;
    code.literals[0] = 1;
    code.literals[256] = 2;
    code.literals[257] = 2;
    for (unsigned distance = 0; distance < 3; distance++) {
        code.distances[0] = distance == 2 ? 0 : 1;
        put_dynamic_header(&writer, &code);
        put_literal(&writer, &code, 0);
        put_literal(&writer, &code, 257);
        put_bits(&writer, distance, 1);
        put_literal(&writer, &code, 256);
        expect_written(&writer, distance == 0);
    }
    for (unsigned symbol = 0; symbol < 32; symbol++) { /* fixed: five bits each */
        put_bits(&writer, 3, 3);
        put_bits(&writer, 0x03, 8); /* literal 144, whose code begins with ones */
        put_bits(&writer, 0x01, 1);
        put_bits(&writer, 0x40, 7); /* length 3 */
        for (unsigned bit = 5; bit > 0; bit--)
            put_bits(&writer, symbol >> (bit - 1) & 1, 1);
        put_bits(&writer, 0, 20);
        expect_as_zlib(span(&writer.bytes));
        buf_free(&writer.bytes);
        writer.bits = 0;
    }
    for (unsigned symbol = 280; symbol < 288; symbol++) { /* the last two mean nothing */
        unsigned code_bits = 0xC0 + symbol - 280;

        put_bits(&writer, 3, 3);
        for (unsigned bit = 8; bit > 0; bit--)
            put_bits(&writer, code_bits >> (bit - 1) & 1, 1);
        put_bits(&writer, 0, 20);
        if (symbol >= 286)
            expect_refused(span(&writer.bytes));
        expect_as_zlib(span(&writer.bytes));
        buf_free(&writer.bytes);
        writer.bits = 0;
    }
}

static void
test_headers_that_are_none(void **state)
{
    Dynamic code = {.literal_count = 257, .distance_count = 1};
    Writer writer = {.bits = 0};

    (void)state;
    put_bits(&writer, 7, 3); /* no type */
    put_bits(&writer, 0, 61);
    expect_written(&writer, false);

    put_bits(&writer, 1, 8); /* stored, with a length that its complement denies */
    put_bits(&writer, 0x00000001, 32);
    put_bits(&writer, 0, 8);
    expect_written(&writer, false);

    code.literals[0] = 1;
    code.literals[256] = 1;
    for (size_t literals = 257; literals <= 288; literals++) {
        for (size_t distances = 29; distances <= 32; distances++) {
            code.literal_count = literals;
            code.distance_count = distances;
            put_dynamic_header(&writer, &code);
            put_literal(&writer, &code, 256);
            expect_written(&writer, literals <= 286 && distances <= 30);
        }
    }
}

/* The first lengths of a dynamic block, by codes 16 to 18 and 1. */
static void
test_repeated_lengths(void **state)
{
    static const struct {
        unsigned codes[8];  /* a length or a repetition, */
        unsigned extras[8]; /* by so many more than there are at least */
        size_t count;
        bool accepted;
    } runs[] = {
        {{1, 18, 18, 1, 1}, {0, 127, 106, 0, 0}, 5, true},
        {{1, 18, 18, 17, 1, 1}, {0, 127, 96, 7, 0, 0}, 6, true},
        {{16, 18, 18, 1, 1}, {0, 127, 104, 0, 0}, 5, false}, /* of nothing */
        {{1, 18, 18, 1, 16}, {0, 127, 106, 0, 0}, 5, false}, /* beyond the end */
        {{1, 18, 18, 1, 17}, {0, 127, 106, 0, 0}, 5, false},
        {{1, 18, 18, 1, 18}, {0, 127, 106, 0, 0}, 5, false},
        {{1, 18, 18, 1, 0}, {0, 127, 106, 0, 0}, 5, true},
    };
    static const uint8_t lengths[19] = {[0] = 3, [1] = 2, [16] = 3, [17] = 2, [18] = 2};
    static const size_t order[] = {16, 17, 18, 0, 8,  7, 9,  6, 10, 5,
                                   11, 4,  12, 3, 13, 2, 14, 1, 15};
    static const uint8_t extra_bits[19] = {[16] = 2, [17] = 3, [18] = 7};

    (void)state;
    for (size_t i = 0; i < COUNT(runs); i++) {
        Writer writer = {.bits = 0};

        put_bits(&writer, 5, 3);
        put_bits(&writer, 0, 5);
        put_bits(&writer, 0, 5);
        put_bits(&writer, 15, 4);
        for (size_t at = 0; at < 19; at++)
            put_bits(&writer, lengths[order[at]], 3);
        for (size_t at = 0; at < runs[i].count; at++) {
            put_symbol(&writer, lengths, 19, runs[i].codes[at]);
            put_bits(&writer, runs[i].extras[at], extra_bits[runs[i].codes[at]]);
        }
        put_bits(&writer, 1, 1); /* literal 0 has code 0, the end 1 */
        put_bits(&writer, 0, 40);
        writer.bytes.len = (writer.bits - 40 + 7) / 8;
        expect_written(&writer, runs[i].accepted);
    }
}

/* ---- damage ---- */

static void
test_cut_short_anywhere(void **state)
{
    Buf mixture = make_mixture(6000);
    static const size_t sizes[] = {0, 1, 100, 6000};

    (void)state;
    for (size_t i = 0; i < COUNT(sizes); i++) {
        for (int level = 0; level <= 12; level += 3) {
            Buf stream = by_libdeflate((Span){.data = mixture.data, .len = sizes[i]}, level);

            for (size_t len = 0; len < stream.len; len++)
                expect_refused((Span){.data = stream.data, .len = len});
            buf_free(&stream);
        }
    }
    buf_free(&mixture);
}

static void
test_bytes_behind_the_end(void **state)
{
    Buf stream = by_libdeflate(span_of("content"), 6);

    (void)state;
    for (size_t more = 1; more < 20; more++) {
        append(&stream, "", 1);
        expect_refused(span(&stream));
    }
    buf_free(&stream);
}

static void
test_flipped_bits(void **state)
{
    Buf mixture = make_mixture(1500);

    (void)state;
    for (int level = 0; level <= 12; level += 4) {
        Buf stream = by_libdeflate(span(&mixture), level);

        for (size_t bit = 0; bit < stream.len * 8; bit += level == 0 ? 7 : 1) {
            stream.data[bit / 8] ^= (uint8_t)(1U << bit % 8);
            expect_as_zlib(span(&stream));
            stream.data[bit / 8] ^= (uint8_t)(1U << bit % 8);
        }
        buf_free(&stream);
    }
    buf_free(&mixture);
}

static void
test_random_bytes(void **state)
{
    (void)state;
    for (uint32_t seed = 1; seed <= 30000; seed++) {
        Buf noise = make_noise(seed % 90, seed);

        if (noise.len > 0 && seed % 3 != 0) /* or else half of it ends at once */
            noise.data[0] = (uint8_t)((noise.data[0] & 0xF8) | (seed % 2 == 0 ? 5 : 3));
        expect_as_zlib(span(&noise));
        buf_free(&noise);
    }
}

static void
test_what_is_refused_is_told(void **state)
{
    Buf stream = exact_copy((Span){.data = (const uint8_t *)"\x07", .len = 1});
    Error err = ERROR_INIT;

    (void)state;
    assert_false(deflate_open_end(&stream, &err));
    assert_string_equal(err.message, "deflate stream of 1 bytes: a block of unknown type before "
                                     "bit 3");
    stream.len = 0;
    assert_false(deflate_open_end(&stream, &err));
    assert_string_equal(err.message, "deflate stream of 0 bytes is cut short");
    buf_free(&stream);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_libdeflate_at_all_levels),
        cmocka_unit_test(test_zlib_in_all_ways),
        cmocka_unit_test(test_every_bit_of_the_end),
        cmocka_unit_test(test_bits_behind_the_end),
        cmocka_unit_test(test_streams_follow_each_other),
        cmocka_unit_test(test_longest_codes),
        cmocka_unit_test(test_codes_that_are_none),
        cmocka_unit_test(test_symbols_that_are_none),
        cmocka_unit_test(test_headers_that_are_none),
        cmocka_unit_test(test_repeated_lengths),
        cmocka_unit_test(test_cut_short_anywhere),
        cmocka_unit_test(test_bytes_behind_the_end),
        cmocka_unit_test(test_flipped_bits),
        cmocka_unit_test(test_random_bytes),
        cmocka_unit_test(test_what_is_refused_is_told),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
