/*
 * Headers of INCREMENTAL files, also real ones: what they say, where they end and what is refused,
 * however they are cut.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "pgformat/incremental.h"

#define PAGE     8192u
#define SEGMENT  131072u
#define DATA_LEN 100u /* bytes behind each header under test */

/* ---- headers ---- */

static void
append_le32(Buf *buf, uint32_t value)
{
    const uint8_t bytes[] = {(uint8_t)value, (uint8_t)(value >> 8), (uint8_t)(value >> 16),
                             (uint8_t)(value >> 24)};
    Error err = ERROR_INIT;

    assert_true(buf_append(buf, bytes, sizeof bytes, &err));
}

static void
put_fill(Buf *buf, uint8_t byte, size_t len)
{
    Error err = ERROR_INIT;

    for (; len > 0; len--)
        assert_true(buf_append(buf, &byte, 1, &err));
}

/* The numbers as they come, then padding and some data. */
static Buf
build(const uint32_t *numbers, size_t count, uint32_t page_size)
{
    Buf buf = BUF_INIT;

    for (size_t i = 0; i < count; i++)
        append_le32(&buf, numbers[i]);
    if (count > 3 && buf.len % page_size != 0)
        put_fill(&buf, 0, page_size - buf.len % page_size);
    put_fill(&buf, 0xDA, DATA_LEN);
    return buf;
}

/* A header of `count` blocks, every second one. */
static Buf
build_blocks(uint32_t count, uint32_t page_size)
{
    uint32_t *numbers = malloc((3 + (size_t)count) * sizeof *numbers);
    Buf buf;

    assert_non_null(numbers);
    numbers[0] = INCREMENTAL_MAGIC;
    numbers[1] = count;
    numbers[2] = SEGMENT;
    for (uint32_t i = 0; i < count; i++)
        numbers[3 + i] = 2 * i;
    buf = build(numbers, 3 + (size_t)count, page_size);
    free(numbers);
    return buf;
}

/* ---- feeding ---- */

static const size_t pieces[] = {SIZE_MAX, 1, 2, 3, 4, 5, 7, 11, 12, 13, 1000, 8191, 8192};

#define PIECES_COUNT (sizeof pieces / sizeof pieces[0])

static IncrementalParser *
parser_new(uint32_t page_size, uint32_t segment_pages)
{
    Error err = ERROR_INIT;
    IncrementalParser *parser = incremental_parser_new(page_size, segment_pages, &err);

    assert_non_null(parser);
    return parser;
}

/* Up to the end of the header, each piece in memory of its own; *ret_used is where that was. */
static bool
feed(IncrementalParser *parser, Span bytes, size_t piece, size_t *ret_used, Error *err)
{
    size_t at = 0;

    while (at < bytes.len && incremental_parser_header(parser) == NULL) {
        size_t len = piece < bytes.len - at ? piece : bytes.len - at;
        uint8_t *copy = malloc(len);
        Span span = {copy, len};
        bool ok;

        assert_non_null(copy);
        memcpy(copy, bytes.data + at, len);
        ok = incremental_parser_feed(parser, &span, err);
        if (ok)
            assert_ptr_equal(span.data, copy + (len - span.len));
        free(copy);
        if (!ok)
            return false;
        at += len - span.len;
        /* It stops only where the header ends. */
        assert_true(span.len == 0 || incremental_parser_header(parser) != NULL);
    }
    *ret_used = at;
    return true;
}

static Span
span(const Buf *buf)
{
    return (Span){buf->data, buf->len};
}

static const IncrementalHeader *
parse(IncrementalParser *parser, Span bytes, size_t piece)
{
    const IncrementalHeader *header;
    Error err = ERROR_INIT;
    size_t used = 0;

    if (!feed(parser, bytes, piece, &used, &err))
        fail_msg("%s", err.message);
    header = incremental_parser_header(parser);
    assert_non_null(header);
    assert_int_equal(used, header->size);
    return header;
}

/* ---- what is a header ---- */

/* As a server of version 18 wrote it. */
static void
test_real_header(void **state)
{
    static const char hex[] = "0d1faed3040000000b000000"
                              "0500000008000000090000000a000000";
    static const uint32_t blocks[] = {5, 8, 9, 10};
    uint8_t file[PAGE + DATA_LEN] = {0};

    (void)state;
    assert_true(hex_parse(hex, sizeof hex - 1, file, (sizeof hex - 1) / 2));
    for (size_t i = 0; i < PIECES_COUNT; i++) {
        IncrementalParser *parser = parser_new(PAGE, SEGMENT);
        const IncrementalHeader *header = parse(parser, (Span){file, sizeof file}, pieces[i]);

        assert_int_equal(header->size, PAGE);
        assert_int_equal(header->block_count, 4);
        assert_int_equal(header->truncation_length, 11);
        assert_memory_equal(header->blocks, blocks, sizeof blocks);
        assert_int_equal(incremental_file_size(header, PAGE), 40960);
        incremental_parser_free(parser);
    }
}

/* Nothing has changed: no padding either. */
static void
test_no_blocks(void **state)
{
    static const char hex[] = "0d1faed3000000002a000000";
    uint8_t file[12 + DATA_LEN] = {0};

    (void)state;
    assert_true(hex_parse(hex, sizeof hex - 1, file, 12));
    for (size_t i = 0; i < PIECES_COUNT; i++) {
        IncrementalParser *parser = parser_new(PAGE, SEGMENT);
        const IncrementalHeader *header = parse(parser, (Span){file, sizeof file}, pieces[i]);

        assert_int_equal(header->size, 12);
        assert_int_equal(header->block_count, 0);
        assert_int_equal(header->truncation_length, 42);
        assert_int_equal(incremental_file_size(header, PAGE), 12);
        incremental_parser_free(parser);
    }
}

static void
test_where_blocks_begin(void **state)
{
    static const struct {
        uint32_t count;
        uint32_t page_size;
        uint64_t size;
    } cases[] = {
        {1, 1024, 1024},   {252, 1024, 1024},    {253, 1024, 1024},   {254, 1024, 2048},
        {509, 1024, 2048}, {2045, 8192, 8192},   {2046, 8192, 16384}, {8189, 32768, 32768},
        {1, 32768, 32768}, {8190, 32768, 65536},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        IncrementalParser *parser = parser_new(cases[i].page_size, SEGMENT);
        Buf file = build_blocks(cases[i].count, cases[i].page_size);

        assert_int_equal(file.len, cases[i].size + DATA_LEN);
        for (size_t p = 0; p < PIECES_COUNT; p++) {
            const IncrementalHeader *header;

            incremental_parser_reset(parser);
            header = parse(parser, span(&file), pieces[p]);
            assert_int_equal(header->size, cases[i].size);
            assert_int_equal(header->block_count, cases[i].count);
            for (uint32_t block = 0; block < cases[i].count; block++)
                assert_int_equal(header->blocks[block], 2 * block);
            assert_int_equal(incremental_file_size(header, cases[i].page_size),
                             cases[i].size + (uint64_t)cases[i].count * cases[i].page_size);
        }
        incremental_parser_free(parser);
        buf_free(&file);
    }
}

/* All that can be: every block of a segment, and its last one alone. */
static void
test_limits(void **state)
{
    static const uint32_t last[] = {INCREMENTAL_MAGIC, 1, SEGMENT, SEGMENT - 1};
    IncrementalParser *parser = parser_new(PAGE, SEGMENT);
    const IncrementalHeader *header;
    uint32_t *numbers = malloc((3 + SEGMENT) * sizeof *numbers);
    Buf file;

    (void)state;
    assert_non_null(numbers);
    numbers[0] = INCREMENTAL_MAGIC;
    numbers[1] = SEGMENT;
    numbers[2] = 0;
    for (uint32_t i = 0; i < SEGMENT; i++)
        numbers[3 + i] = i;
    file = build(numbers, 3 + SEGMENT, PAGE);
    header = parse(parser, span(&file), 32768);
    assert_int_equal(header->size, 65 * PAGE);
    assert_int_equal(header->block_count, SEGMENT);
    assert_memory_equal(header->blocks, numbers + 3, SEGMENT * sizeof *numbers);
    free(numbers);
    buf_free(&file);

    incremental_parser_reset(parser);
    file = build(last, 4, PAGE);
    header = parse(parser, span(&file), 1);
    assert_int_equal(header->block_count, 1);
    assert_int_equal(header->blocks[0], SEGMENT - 1);
    assert_int_equal(header->truncation_length, SEGMENT);
    buf_free(&file);
    incremental_parser_free(parser);
}

/* Nothing is complete before its last byte, padding included. */
static void
test_cut_anywhere(void **state)
{
    IncrementalParser *parser = parser_new(1024, SEGMENT);
    Buf file = build_blocks(5, 1024);
    Error err = ERROR_INIT;

    (void)state;
    for (size_t len = 0; len < 1024; len++) {
        Span bytes = {file.data, len};

        incremental_parser_reset(parser);
        assert_true(incremental_parser_feed(parser, &bytes, &err));
        assert_int_equal(bytes.len, 0);
        assert_null(incremental_parser_header(parser));
        bytes = (Span){file.data + len, file.len - len};
        assert_true(incremental_parser_feed(parser, &bytes, &err));
        assert_non_null(incremental_parser_header(parser));
        assert_int_equal(bytes.len, DATA_LEN);
        /* What comes then is left alone. */
        assert_true(incremental_parser_feed(parser, &bytes, &err));
        assert_int_equal(bytes.len, DATA_LEN);
    }
    incremental_parser_free(parser);
    buf_free(&file);
}

static void
test_padding_is_not_looked_at(void **state)
{
    IncrementalParser *parser = parser_new(1024, SEGMENT);
    Buf file = build_blocks(5, 1024);

    (void)state;
    memset(file.data + 32, 0x55, 1024 - 32);
    assert_int_equal(parse(parser, span(&file), 10)->block_count, 5);
    incremental_parser_free(parser);
    buf_free(&file);
}

/* ---- what is none ---- */

static void
test_refused(void **state)
{
    static const struct {
        uint32_t numbers[8];
        size_t count;
        const char *message;
    } cases[] = {
        {{0x0D1FAED3}, 1, "magic number is 0D1FAED3, expected D3AE1F0D"},
        {{0}, 1, "magic number is 00000000, expected D3AE1F0D"},
        {{INCREMENTAL_MAGIC, SEGMENT + 1},
         2,
         "block count 131073 exceeds the segment size of 131072 blocks"},
        {{INCREMENTAL_MAGIC, UINT32_MAX},
         2,
         "block count 4294967295 exceeds the segment size of 131072 blocks"},
        {{INCREMENTAL_MAGIC, 1, SEGMENT + 1},
         3,
         "truncation length 131073 exceeds the segment size of 131072 blocks"},
        {{INCREMENTAL_MAGIC, 0, UINT32_MAX},
         3,
         "truncation length 4294967295 exceeds the segment size of 131072 blocks"},
        {{INCREMENTAL_MAGIC, 1, 1, SEGMENT},
         4,
         "block number 131072 is beyond the segment size of 131072 blocks"},
        {{INCREMENTAL_MAGIC, 2, 1, 3, UINT32_MAX},
         5,
         "block number 4294967295 is beyond the segment size of 131072 blocks"},
        {{INCREMENTAL_MAGIC, 2, 9, 5, 5}, 5, "block number 5 follows block number 5"},
        {{INCREMENTAL_MAGIC, 3, 9, 0, 7, 6}, 6, "block number 6 follows block number 7"},
        /* The first of two mistakes. */
        {{1, UINT32_MAX, UINT32_MAX}, 3, "magic number is 00000001, expected D3AE1F0D"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        Buf file = build(cases[i].numbers, cases[i].count, PAGE);
        IncrementalParser *parser = parser_new(PAGE, SEGMENT);

        for (size_t p = 0; p < PIECES_COUNT; p++) {
            Error err = ERROR_INIT;
            size_t used;

            incremental_parser_reset(parser);
            assert_false(feed(parser, span(&file), pieces[p], &used, &err));
            assert_int_equal(err.code, ERR_FORMAT);
            assert_string_equal(err.message, cases[i].message);
        }
        incremental_parser_free(parser);
        buf_free(&file);
    }
}

/* It fails as soon as that can be known. */
static void
test_refused_at_once(void **state)
{
    static const uint8_t bytes[] = {0x0D, 0x1F, 0xAE, 0xD4};
    IncrementalParser *parser = parser_new(PAGE, SEGMENT);
    Span three = {bytes, 3};
    Span fourth = {bytes + 3, 1};
    Error err = ERROR_INIT;

    (void)state;
    assert_true(incremental_parser_feed(parser, &three, &err));
    assert_false(incremental_parser_feed(parser, &fourth, &err));
    assert_string_equal(err.message, "magic number is D4AE1F0D, expected D3AE1F0D");
    incremental_parser_free(parser);
}

/* Memory goes by what has come, not by what was announced. */
static void
test_announced_blocks_cost_nothing(void **state)
{
    static const uint32_t numbers[] = {INCREMENTAL_MAGIC, UINT32_MAX, UINT32_MAX, 7};
    IncrementalParser *parser = parser_new(PAGE, UINT32_MAX);
    Buf file = BUF_INIT;
    Error err = ERROR_INIT;
    Span bytes;

    (void)state;
    for (size_t i = 0; i < 4; i++)
        append_le32(&file, numbers[i]);
    bytes = span(&file);
    assert_true(incremental_parser_feed(parser, &bytes, &err));
    assert_int_equal(bytes.len, 0);
    assert_null(incremental_parser_header(parser));
    incremental_parser_free(parser);
    buf_free(&file);
}

/* ---- the parser ---- */

static void
test_one_file_after_another(void **state)
{
    static const uint32_t wrong[] = {INCREMENTAL_MAGIC, 2, 9, 5, 4};
    IncrementalParser *parser = parser_new(PAGE, SEGMENT);
    Buf many = build_blocks(3000, PAGE);
    Buf few = build_blocks(2, PAGE);
    Buf none = build(wrong, 3, PAGE);
    Buf bad = build(wrong, 5, PAGE);
    Error err = ERROR_INIT;
    Span half = {many.data, 6001};
    size_t used;

    (void)state;
    assert_int_equal(parse(parser, span(&many), 100)->block_count, 3000);
    incremental_parser_reset(parser);
    assert_null(incremental_parser_header(parser));
    assert_int_equal(parse(parser, span(&few), 100)->blocks[1], 2);
    /* From the middle of a header, and after a failure. */
    incremental_parser_reset(parser);
    assert_true(incremental_parser_feed(parser, &half, &err));
    incremental_parser_reset(parser);
    assert_false(feed(parser, span(&bad), 3, &used, &err));
    incremental_parser_reset(parser);
    assert_int_equal(parse(parser, span(&few), 100)->block_count, 2);
    /* "2 blocks" does not stay behind. */
    none.data[4] = 0;
    incremental_parser_reset(parser);
    assert_int_equal(parse(parser, (Span){none.data, 12}, 5)->size, 12);
    incremental_parser_free(parser);
    buf_free(&many);
    buf_free(&few);
    buf_free(&none);
    buf_free(&bad);
}

static void
test_configuration(void **state)
{
    Error err = ERROR_INIT;

    (void)state;
    assert_null(incremental_parser_new(0, SEGMENT, &err));
    assert_int_equal(err.code, ERR_BUG);
    err = ERROR_INIT;
    assert_null(incremental_parser_new(PAGE, 0, &err));
    assert_int_equal(err.code, ERR_BUG);
    incremental_parser_free(NULL);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_real_header),
        cmocka_unit_test(test_no_blocks),
        cmocka_unit_test(test_where_blocks_begin),
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_cut_anywhere),
        cmocka_unit_test(test_padding_is_not_looked_at),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_refused_at_once),
        cmocka_unit_test(test_announced_blocks_cost_nothing),
        cmocka_unit_test(test_one_file_after_another),
        cmocka_unit_test(test_configuration),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
