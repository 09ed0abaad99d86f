/*
 * CRC-32C.
 *
 * The CPU's instruction has a latency of three cycles and a throughput of one, so one chain of it
 * leaves two thirds of its speed unused. Longer inputs are therefore cut in three lanes that run
 * side by side; the lanes' CRCs are joined by multiplying with x^(8 * lane length) modulo the
 * polynomial, which for the two lane lengths there are is looked up in tables. Three of the short
 * lanes make up a data page but for a few bytes.
 * Bits are reflected throughout: the coefficient of x^0 is the top bit of a uint32_t.
 */
#include "common/crc32c.h"

#include <stdbool.h>
#include <string.h>

#define POLY 0x82F63B78u

/* ---- arithmetic modulo the polynomial ---- */

/* a * b modulo the polynomial. */
static uint32_t
poly_multiply(uint32_t a, uint32_t b)
{
    uint32_t product = 0;

    for (uint32_t bit = 0x80000000u; bit != 0; bit >>= 1) {
        if ((a & bit) != 0)
            product ^= b;
        b = (b & 1) != 0 ? b >> 1 ^ POLY : b >> 1;
    }
    return product;
}

/* x^(8 * bytes) modulo the polynomial, by squaring. */
static uint32_t
poly_power_bytes(uint64_t bytes)
{
    uint32_t power = 0x80000000u;  /* x^0 */
    uint32_t square = 0x00800000u; /* x^8 */

    for (; bytes != 0; bytes >>= 1) {
        if ((bytes & 1) != 0)
            power = poly_multiply(power, square);
        square = poly_multiply(square, square);
    }
    return power;
}

uint32_t
crc32c_combine(uint32_t crc_a, uint32_t crc_b, uint64_t len_b)
{
    return poly_multiply(poly_power_bytes(len_b), crc_a) ^ crc_b;
}

/* Multiplying is linear: each bit is multiplied once, and a byte is the sum of its bits. */
void
crc32c_join_init(Crc32cJoin *join, uint64_t len_b)
{
    uint32_t factor = poly_power_bytes(len_b);

    for (unsigned place = 0; place < 4; place++) {
        uint32_t *table = join->table[place];

        table[0] = 0;
        for (unsigned bit = 0; bit < 8; bit++) {
            uint32_t product = poly_multiply(factor, (uint32_t)1 << (8 * place + bit));

            for (unsigned low = 0; low < 1u << bit; low++)
                table[(1u << bit) + low] = product ^ table[low];
        }
    }
}

uint32_t
crc32c_join(const Crc32cJoin *join, uint32_t crc_a, uint32_t crc_b)
{
    return join->table[0][crc_a & 0xFF] ^ join->table[1][crc_a >> 8 & 0xFF] ^
           join->table[2][crc_a >> 16 & 0xFF] ^ join->table[3][crc_a >> 24] ^ crc_b;
}

/* ---- the portable form: eight bytes a step over eight tables ---- */

static uint32_t tables[8][256];

__attribute__((constructor)) static void
tables_init(void)
{
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t crc = i;

        for (int bit = 0; bit < 8; bit++)
            crc = (crc & 1) != 0 ? crc >> 1 ^ POLY : crc >> 1;
        tables[0][i] = crc;
    }
    for (int t = 1; t < 8; t++) {
        for (int i = 0; i < 256; i++)
            tables[t][i] = tables[t - 1][i] >> 8 ^ tables[0][tables[t - 1][i] & 0xFF];
    }
}

uint32_t
crc32c_portable(uint32_t crc, const void *data, size_t len)
{
    const uint8_t *at = data;

    crc = ~crc;
    for (; len >= 8; at += 8, len -= 8) {
        uint32_t low = crc ^ ((uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 |
                              (uint32_t)at[3] << 24);

        crc = tables[7][low & 0xFF] ^ tables[6][low >> 8 & 0xFF] ^ tables[5][low >> 16 & 0xFF] ^
              tables[4][low >> 24] ^ tables[3][at[4]] ^ tables[2][at[5]] ^ tables[1][at[6]] ^
              tables[0][at[7]];
    }
    for (; len > 0; at++, len--)
        crc = crc >> 8 ^ tables[0][(crc ^ *at) & 0xFF];
    return ~crc;
}

/* ---- the CPU's instruction ---- */

#if defined(__x86_64__)
#include <nmmintrin.h>

#define LONG_LANE  ((size_t)4096)
#define SHORT_LANE ((size_t)2728)

static Crc32cJoin long_join;
static Crc32cJoin short_join;
static bool have_instruction;

__attribute__((constructor)) static void
instruction_init(void)
{
    __builtin_cpu_init();
    have_instruction = __builtin_cpu_supports("sse4.2");
    crc32c_join_init(&long_join, LONG_LANE);
    crc32c_join_init(&short_join, SHORT_LANE);
}

static uint64_t
load64(const uint8_t *at)
{
    uint64_t value;

    memcpy(&value, at, sizeof value);
    return value;
}

/* Works on the inner form of the CRC (not inverted). */
__attribute__((target("sse4.2"))) static uint32_t
crc_one_lane(uint32_t crc, const uint8_t *at, size_t len)
{
    uint64_t wide = crc;

    for (; len >= 8; at += 8, len -= 8)
        wide = _mm_crc32_u64(wide, load64(at));
    crc = (uint32_t)wide;
    for (; len > 0; at++, len--)
        crc = _mm_crc32_u8(crc, *at);
    return crc;
}

/* The CRCs of three lanes of `lane` bytes, joined. */
__attribute__((target("sse4.2"))) static inline uint32_t
crc_three_lanes(uint32_t crc, const uint8_t *at, size_t lane, const Crc32cJoin *join)
{
    uint64_t a = crc;
    uint64_t b = 0;
    uint64_t c = 0;

    for (size_t i = 0; i < lane; i += 8) {
        a = _mm_crc32_u64(a, load64(at + i));
        b = _mm_crc32_u64(b, load64(at + lane + i));
        c = _mm_crc32_u64(c, load64(at + 2 * lane + i));
    }
    return crc32c_join(join, crc32c_join(join, (uint32_t)a, (uint32_t)b), (uint32_t)c);
}

uint32_t
crc32c(uint32_t crc, const void *data, size_t len)
{
    const uint8_t *at = data;

    if (!have_instruction)
        return crc32c_portable(crc, data, len);
    crc = ~crc;
    for (; len >= 3 * LONG_LANE; at += 3 * LONG_LANE, len -= 3 * LONG_LANE)
        crc = crc_three_lanes(crc, at, LONG_LANE, &long_join);
    if (len >= 3 * SHORT_LANE) {
        crc = crc_three_lanes(crc, at, SHORT_LANE, &short_join);
        at += 3 * SHORT_LANE;
        len -= 3 * SHORT_LANE;
    }
    return ~crc_one_lane(crc, at, len);
}

#else

uint32_t
crc32c(uint32_t crc, const void *data, size_t len)
{
    return crc32c_portable(crc, data, len);
}

#endif
