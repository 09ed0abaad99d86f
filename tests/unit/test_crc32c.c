/*
 * CRC-32C: published vectors, the CPU's form against the tables, both against the definition.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/crc32c.h"

/* As the definition has it: bit by bit. */
static uint32_t
crc_by_definition(const uint8_t *data, size_t len)
{
    uint32_t crc = 0xFFFFFFFF;

    for (size_t i = 0; i < len; i++) {
        crc ^= data[i];
        for (int bit = 0; bit < 8; bit++)
            crc = (crc & 1) != 0 ? crc >> 1 ^ 0x82F63B78u : crc >> 1;
    }
    return ~crc;
}

static uint32_t
next_random(uint32_t *seed)
{
    *seed ^= *seed << 13;
    *seed ^= *seed >> 17;
    *seed ^= *seed << 5;
    return *seed;
}

#define LARGE ((size_t)40 * 1024)

/* LARGE bytes and 64 for alignments. */
static uint8_t *
random_bytes(void)
{
    uint8_t *data = malloc(LARGE + 64);
    uint32_t seed = 2463534242;

    assert_non_null(data);
    for (size_t i = 0; i < LARGE + 64; i++)
        data[i] = (uint8_t)next_random(&seed);
    return data;
}

static void
check_vector(const void *data, size_t len, uint32_t expected)
{
    assert_true(crc32c(0, data, len) == expected);
    assert_true(crc32c_portable(0, data, len) == expected);
    assert_true(crc_by_definition(data, len) == expected);
}

static void
published_vectors(void **state)
{
    /* RFC 3720, B.4: an iSCSI read command. */
    static const uint8_t read_command[48] = {
        0x01, 0xC0, 0, 0, 0, 0, 0,    0, 0,    0, 0, 0,    0, 0, 0, 0,
        0x14, 0,    0, 0, 0, 0, 0x04, 0, 0,    0, 0, 0x14, 0, 0, 0, 0x18,
        0x28, 0,    0, 0, 0, 0, 0,    0, 0x02, 0, 0, 0,    0, 0, 0, 0};
    uint8_t bytes[32];

    (void)state;
    check_vector("", 0, 0);
    check_vector("123456789", 9, 0xE3069283);
    check_vector("a", 1, 0xC1D04330);
    memset(bytes, 0, sizeof bytes);
    check_vector(bytes, sizeof bytes, 0x8A9136AA);
    memset(bytes, 0xFF, sizeof bytes);
    check_vector(bytes, sizeof bytes, 0x62A8AB43);
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (uint8_t)i;
    check_vector(bytes, sizeof bytes, 0x46DD794E);
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (uint8_t)(31 - i);
    check_vector(bytes, sizeof bytes, 0x113FDB5C);
    check_vector(read_command, sizeof read_command, 0xD9963A56);
    /* From a server's manifest: PG_VERSION of 18 has "994e7be2". */
    check_vector("18\n", 3, 0xE27B4E99);
    assert_true(crc32c(0, NULL, 0) == 0);
    assert_true(crc32c(0x12345678, NULL, 0) == 0x12345678);
}

static void
short_lengths_at_every_alignment(void **state)
{
    uint8_t *data = random_bytes();

    (void)state;
    for (size_t align = 0; align < 16; align++) {
        for (size_t len = 0; len < 100; len++) {
            uint32_t expected = crc_by_definition(data + align, len);

            assert_true(crc32c(0, data + align, len) == expected);
            assert_true(crc32c_portable(0, data + align, len) == expected);
        }
    }
    free(data);
}

/* Lanes have 4096 or 2728 bytes, and there are three of them. */
static void
lengths_around_the_lanes(void **state)
{
    static const size_t middles[] = {
        3 * 2728, 3 * 4096, 3 * (4096 + 2728), 3 * 2 * 4096, 3 * (2 * 4096 + 2728), 3 * 3 * 4096};
    uint8_t *data = random_bytes();

    (void)state;
    for (size_t i = 0; i < sizeof middles / sizeof middles[0]; i++) {
        size_t middle = middles[i];

        for (size_t len = middle - 20; len <= middle + 20; len++) {
            for (size_t align = 0; align < 8; align += 3)
                assert_true(crc32c(0, data + align, len) == crc32c_portable(0, data + align, len));
        }
        assert_true(crc32c(0, data + 1, middle + 1) == crc_by_definition(data + 1, middle + 1));
    }
    free(data);
}

static void
random_lengths_and_starts(void **state)
{
    uint8_t *data = random_bytes();
    uint32_t seed = 7;

    (void)state;
    for (int i = 0; i < 2000; i++) {
        size_t len = next_random(&seed) % (LARGE + 1);
        size_t align = next_random(&seed) % 64;
        uint32_t before = next_random(&seed);

        assert_true(crc32c(before, data + align, len) ==
                    crc32c_portable(before, data + align, len));
    }
    free(data);
}

/* In pieces of any size the result is the same. */
static void
continued(void **state)
{
    uint8_t *data = random_bytes();
    uint32_t whole = crc32c(0, data, LARGE);
    uint32_t seed = 99;

    (void)state;
    for (int i = 0; i < 100; i++) {
        uint32_t crc = 0;
        uint32_t portable = 0;

        for (size_t at = 0; at < LARGE;) {
            size_t piece = next_random(&seed) % 14000;

            if (piece > LARGE - at)
                piece = LARGE - at;
            crc = crc32c(crc, data + at, piece);
            portable = crc32c_portable(portable, data + at, piece);
            at += piece;
        }
        assert_true(crc == whole);
        assert_true(portable == whole);
    }
    free(data);
}

static void
combined(void **state)
{
    uint8_t *data = random_bytes();
    uint32_t seed = 1;

    (void)state;
    for (int i = 0; i < 1000; i++) {
        size_t len = next_random(&seed) % (LARGE + 1);
        size_t cut = len == 0 ? 0 : next_random(&seed) % (len + 1);
        uint32_t a = crc32c(0, data, cut);
        uint32_t b = crc32c(0, data + cut, len - cut);

        assert_true(crc32c_combine(a, b, len - cut) == crc32c(0, data, len));
    }
    /* Nothing before, nothing behind. */
    assert_true(crc32c_combine(0x12345678, 0, 0) == 0x12345678);
    assert_true(crc32c_combine(0, 0x12345678, 1000) == 0x12345678);
    free(data);
}

/* For many lengths, as combine does; and the pages of a file, one after the other. */
static void
joined_by_a_fixed_length(void **state)
{
    static const uint64_t lengths[] = {
        0, 1, 7, 8, 511, 512, 1024, 2728, 4096, 8192, 32768, UINT64_C(1) << 30, UINT64_MAX};
    uint32_t seed = 5;

    (void)state;
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        Crc32cJoin join;

        crc32c_join_init(&join, lengths[i]);
        assert_true(crc32c_join(&join, 0, 0) == 0);
        for (uint32_t bit = 0; bit < 32; bit++) {
            uint32_t a = (uint32_t)1 << bit;

            assert_true(crc32c_join(&join, a, 0) == crc32c_combine(a, 0, lengths[i]));
        }
        for (int n = 0; n < 200; n++) {
            uint32_t a = next_random(&seed);
            uint32_t b = next_random(&seed);

            assert_true(crc32c_join(&join, a, b) == crc32c_combine(a, b, lengths[i]));
        }
    }
}

static void
joined_pages_are_the_whole(void **state)
{
    uint8_t *data = random_bytes();

    (void)state;
    for (size_t page = 1024; page <= 8192; page *= 2) {
        Crc32cJoin join;
        uint32_t crc = 0;

        crc32c_join_init(&join, page);
        for (size_t at = 0; at < LARGE; at += page) {
            crc = crc32c_join(&join, crc, crc32c(0, data + at, page));
            assert_true(crc == crc_by_definition(data, at + page));
        }
    }
    free(data);
}

/* Joining is associative, so lengths beyond any memory can be built by doubling. */
static void
combined_far_beyond_memory(void **state)
{
    uint32_t doubled = crc32c(0, "\0", 1); /* 2^n zero bytes */
    uint8_t *zeros = calloc(1, (size_t)1 << 16);

    (void)state;
    assert_non_null(zeros);
    for (unsigned n = 0; n < 62; n++) {
        uint64_t len = UINT64_C(1) << n;
        uint32_t left;
        uint32_t right;

        if (n <= 16)
            assert_true(doubled == crc32c(0, zeros, (size_t)len));
        /* ((x x) x) and (x (x x)) */
        left = crc32c_combine(crc32c_combine(doubled, doubled, len), doubled, len);
        right = crc32c_combine(doubled, crc32c_combine(doubled, doubled, len), 2 * len);
        assert_true(left == right);
        doubled = crc32c_combine(doubled, doubled, len);
    }
    free(zeros);
}

/* Each single changed bit changes the result. */
static void
every_bit_counts(void **state)
{
    uint8_t *data = random_bytes();
    const size_t len = 13000;
    uint32_t whole = crc32c(0, data, len);

    (void)state;
    for (size_t bit = 0; bit < 8 * len; bit += 37) {
        data[bit / 8] ^= (uint8_t)(1u << bit % 8);
        assert_true(crc32c(0, data, len) != whole);
        data[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    free(data);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(published_vectors),
        cmocka_unit_test(short_lengths_at_every_alignment),
        cmocka_unit_test(lengths_around_the_lanes),
        cmocka_unit_test(random_lengths_and_starts),
        cmocka_unit_test(continued),
        cmocka_unit_test(combined),
        cmocka_unit_test(joined_by_a_fixed_length),
        cmocka_unit_test(joined_pages_are_the_whole),
        cmocka_unit_test(combined_far_beyond_memory),
        cmocka_unit_test(every_bit_counts),
    };

    return cmocka_run_group_tests_name("crc32c", tests, NULL, NULL);
}
