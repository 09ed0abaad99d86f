/*
 * Data pages: real ones of servers with the checksums that stand in them, and a plain computation
 * of the checksum to compare with over all sizes, places in memory and blocks.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/bytes.h"
#include "pgformat/page.h"

#define SIZE 8192u

/* ---- real pages ---- */

/* Bytes at a place in the page, written `times` over; what no part names is zero. */
typedef struct Part {
    size_t at;
    size_t times;
    const char *hex;
} Part;

typedef struct Sample {
    const char *name;
    uint32_t block;
    PageHeader header; /* as it stands in the page */
    Part parts[5];
} Sample;

static const Sample samples[] = {
    {"table, 18",
     0,
     {0x29824D28, 0xC383, 8072},
     {{0, 1, "00000000284d822983c304002400881f0020042000000000d89f4400b09f4400889f44"},
      {8072, 1, "f102"},
      {8088, 1, "0300020002091800030000000d726f772033000000000000f102"},
      {8128, 1, "0200020002091800020000000d726f772032000000000000f102"},
      {8168, 1, "0100020002091800010000000d726f772031000000000000"}}},
    {"meta page of an index, 18",
     0,
     {0x1772B78, 0x0692, 8176},
     {{0, 1, "00000000782b7701920600004800f01ff01f0420"},
      {24, 1, "6231050004000000010000000000000001"},
      {62, 1, "f0bf01"},
      {8188, 1, "08000000"}}},
    {"index, 18",
     1,
     {0x1772CC8, 0x8204, 8128},
     {{0, 1, "00000000c82c7701048200002400c01ff01f042000000000e09f2000d09f2000c09f20"},
      {8132, 1, "03001000030000000000000000000000020010000200000000000000000000000100100001"},
      {8188, 1, "03000000"}}},
    {"visibility map, 18",
     0,
     {0x29832348, 0xABE1, 8192},
     {{0, 1, "0000000048238329e1ab0000180000200020042000000000"},
      {24, 1, "55"},
      {25, 20, "55555554"},
      {105, 1, "55"}}},
    {"second segment of a table, 18",
     131076,
     {0x2A04D4D0, 0x3DF2, 3160},
     {{0, 1, "00000000d0d4042af23d04001c00580c0020042000000000588c5027"},
      {3160, 1, "f9020000000000000000000002000400010002000209180005000200304e0000"},
      {3192, 5000, "79"}}},
    {"table, 10",
     0,
     {0x185A8A8, 0xA961, 8160},
     {{0, 1, "00000000a8a8850161a900001c00e01f0020042000000000e09f40"},
      {8160, 1, "2b0200000000000007000000000000000100020002081800010000000974656e"}}},
};

#define SAMPLE_COUNT (sizeof samples / sizeof samples[0])

static void
load(const Sample *sample, uint8_t page[SIZE])
{
    memset(page, 0, SIZE);
    for (size_t i = 0; i < sizeof sample->parts / sizeof sample->parts[0]; i++) {
        const Part *part = &sample->parts[i];
        size_t digits = part->hex == NULL ? 0 : strlen(part->hex);

        for (size_t n = 0; n < part->times; n++)
            assert_true(
                hex_parse(part->hex, digits, page + part->at + n * (digits / 2), digits / 2));
    }
}

static void
test_real_pages(void **state)
{
    (void)state;
    for (size_t i = 0; i < SAMPLE_COUNT; i++) {
        const Sample *sample = &samples[i];
        uint8_t page[SIZE];
        PageHeader header;

        load(sample, page);
        header = page_header(page);
        assert_int_equal(header.lsn, sample->header.lsn);
        assert_int_equal(header.checksum, sample->header.checksum);
        assert_int_equal(header.upper, sample->header.upper);
        if (page_checksum(page, SIZE, sample->block) != header.checksum)
            fail_msg("%s: %X", sample->name, page_checksum(page, SIZE, sample->block));
        assert_int_equal(page_checksum_portable(page, SIZE, sample->block), header.checksum);
        /* In another place it would be a wrong page. */
        assert_int_not_equal(page_checksum(page, SIZE, sample->block + 1), header.checksum);
        assert_int_not_equal(page_checksum(page, SIZE, sample->block ^ 131072), header.checksum);
    }
}

static void
test_header(void **state)
{
    uint8_t page[SIZE] = {0};
    PageHeader header;

    (void)state;
    for (size_t i = 0; i < 24; i++)
        page[i] = (uint8_t)(0xA0 + i);
    header = page_header(page);
    assert_int_equal(header.lsn, 0xA3A2A1A0A7A6A5A4u);
    assert_int_equal(header.checksum, 0xA9A8);
    assert_int_equal(header.upper, 0xAFAE);
}

/* ---- the plain computation ---- */

static const uint32_t starts[32] = {
    0x5B1F36E9, 0xB8525960, 0x02AB50AA, 0x1DE66D2A, 0x79FF467A, 0x9BB9F8A3, 0x217E7CD2, 0x83E13D2C,
    0xF8D4474F, 0xE39EB970, 0x42C6AE16, 0x993216FA, 0x7B093B5D, 0x98DAFF3C, 0xF718902A, 0x0B1C9CDB,
    0xE58F764B, 0x187636BC, 0x5D7B3BB1, 0xE73DE7DE, 0x92BEC979, 0xCCA6C0B2, 0x304A0979, 0x85AA43D4,
    0x783125BB, 0x6CA8EAA2, 0xE407EAC6, 0x4B5CFC3E, 0x9FBF8C76, 0x15CA20BE, 0xF2CA9FD3, 0x959BD756};

/* Byte by byte and column by column. */
static uint16_t
plain_checksum(const uint8_t *page, size_t size, uint32_t block)
{
    uint32_t joined = 0;

    for (size_t column = 0; column < 32; column++) {
        uint32_t sum = starts[column];

        for (size_t row = 0; row < size / 128 + 2; row++) {
            uint32_t number = 0;

            for (size_t byte = 0; byte < 4 && row < size / 128; byte++) {
                size_t at = row * 128 + column * 4 + byte;

                if (at != 8 && at != 9) /* where the checksum stands */
                    number |= (uint32_t)page[at] << 8 * byte;
            }
            sum ^= number;
            sum = sum * 16777619 ^ sum >> 17;
        }
        joined ^= sum;
    }
    return (uint16_t)((joined ^ block) % 65535 + 1);
}

static uint32_t
next_random(uint32_t *seed)
{
    *seed = *seed * 1664525u + 1013904223u;
    return *seed >> 8;
}

static void
fill(uint8_t *bytes, size_t len, uint32_t seed)
{
    for (size_t i = 0; i < len; i++)
        bytes[i] = (uint8_t)next_random(&seed);
}

static void
assert_checksum(const uint8_t *page, size_t size, uint32_t block)
{
    uint16_t expected = plain_checksum(page, size, block);

    assert_int_equal(page_checksum(page, size, block), expected);
    assert_int_equal(page_checksum_portable(page, size, block), expected);
}

static void
test_all_sizes(void **state)
{
    static const uint32_t blocks[] = {0, 1, 65534, 65535, 131071, 131072, PAGE_BLOCK_MAX};

    (void)state;
    for (size_t size = PAGE_BYTES_MIN; size <= PAGE_BYTES_MAX; size *= 2) {
        /* Of exactly this size: a sanitizer sees what is read beyond. */
        uint8_t *page = malloc(size);

        assert_non_null(page);
        fill(page, size, (uint32_t)size);
        for (size_t i = 0; i < sizeof blocks / sizeof blocks[0]; i++)
            assert_checksum(page, size, blocks[i]);
        memset(page, 0, size);
        assert_checksum(page, size, 0);
        memset(page, 0xFF, size);
        assert_checksum(page, size, 77);
        free(page);
    }
}

static void
test_anywhere_in_memory(void **state)
{
    uint8_t bytes[1024 + 64];
    uint8_t page[1024];
    uint16_t expected;

    (void)state;
    fill(page, sizeof page, 4711);
    expected = plain_checksum(page, sizeof page, 5);
    for (size_t at = 0; at <= 64; at++) {
        fill(bytes, sizeof bytes, (uint32_t)at);
        memcpy(bytes + at, page, sizeof page);
        assert_int_equal(page_checksum(bytes + at, sizeof page, 5), expected);
        assert_int_equal(page_checksum_portable(bytes + at, sizeof page, 5), expected);
        assert_memory_equal(bytes + at, page, sizeof page); /* only looked at */
    }
}

static void
test_every_byte_counts_but_the_checksum(void **state)
{
    uint8_t page[SIZE];
    uint16_t before;

    (void)state;
    load(&samples[0], page);
    before = page_checksum(page, SIZE, 0);
    for (size_t at = 0; at < SIZE; at++) {
        page[at] ^= (uint8_t)(1u << at % 8);
        assert_int_equal(page_checksum(page, SIZE, 0) == before, at == 8 || at == 9);
        page[at] ^= (uint8_t)(1u << at % 8);
    }
}

/* All values occur but 0, which stands in pages that have none. */
static void
test_range(void **state)
{
    uint8_t page[1024];
    uint8_t *seen = calloc(65536, 1);

    (void)state;
    assert_non_null(seen);
    fill(page, sizeof page, 1);
    for (uint32_t block = 0; block < 131072; block++)
        seen[page_checksum(page, sizeof page, block)] = 1;
    assert_int_equal(seen[0], 0);
    for (size_t value = 1; value < 65536; value++)
        assert_int_equal(seen[value], 1);
    free(seen);
}

static void
test_sizes(void **state)
{
    static const uint64_t refused[] = {0,    1,     512,   1023,  1025,
                                       8191, 12288, 32767, 65536, (1ull << 32) + 8192};

    (void)state;
    for (uint64_t size = 1024; size <= 32768; size *= 2)
        assert_true(page_size_valid(size));
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++)
        assert_false(page_size_valid(refused[i]));
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_real_pages),
        cmocka_unit_test(test_header),
        cmocka_unit_test(test_all_sizes),
        cmocka_unit_test(test_anywhere_in_memory),
        cmocka_unit_test(test_every_byte_counts_but_the_checksum),
        cmocka_unit_test(test_range),
        cmocka_unit_test(test_sizes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
