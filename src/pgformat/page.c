/*
 * The checksum of a page (src/include/storage/checksum_impl.h).
 *
 * A page is taken as rows of 32 numbers, and each of 32 sums runs down its column in FNV-1a fashion
 * with a shift added; two rows of zeros follow so that the last numbers reach all bits, and the
 * sums are joined by exclusive or. That the columns do not depend on each other is what makes it
 * fast: here eight of them are one vector. Plain arrays would say the same, but compilers then keep
 * the sums in memory between rows, at a third of the speed.
 */
#include "pgformat/page.h"

#include <assert.h>
#include <string.h>

#include "common/bytes.h"

/* Where the fields of the header are. */
#define AT_LSN      0 /* two numbers of 32 bits, the high one first */
#define AT_CHECKSUM 8
#define AT_UPPER    14

#define COLUMNS 32
#define LANES   8 /* columns in one vector */
#define ROW     (COLUMNS * sizeof(uint32_t))
#define VECTOR  (LANES * sizeof(uint32_t))
#define PRIME   16777619u

typedef uint32_t Lanes __attribute__((vector_size(LANES * sizeof(uint32_t))));

/* All columns of one row. */
typedef struct Sums {
    Lanes a;
    Lanes b;
    Lanes c;
    Lanes d;
} Sums;

static const uint32_t sums_start[COLUMNS] = {
    0x5B1F36E9, 0xB8525960, 0x02AB50AA, 0x1DE66D2A, 0x79FF467A, 0x9BB9F8A3, 0x217E7CD2, 0x83E13D2C,
    0xF8D4474F, 0xE39EB970, 0x42C6AE16, 0x993216FA, 0x7B093B5D, 0x98DAFF3C, 0xF718902A, 0x0B1C9CDB,
    0xE58F764B, 0x187636BC, 0x5D7B3BB1, 0xE73DE7DE, 0x92BEC979, 0xCCA6C0B2, 0x304A0979, 0x85AA43D4,
    0x783125BB, 0x6CA8EAA2, 0xE407EAC6, 0x4B5CFC3E, 0x9FBF8C76, 0x15CA20BE, 0xF2CA9FD3, 0x959BD756,
};

#define ALWAYS_INLINE inline __attribute__((always_inline))

static ALWAYS_INLINE void
lanes_add(Lanes *sums, const uint8_t *at)
{
    Lanes mixed;

    memcpy(&mixed, at, sizeof mixed);
    mixed ^= *sums;
    *sums = mixed * PRIME ^ mixed >> 17;
}

static ALWAYS_INLINE void
row_add(Sums *sums, const uint8_t *row)
{
    lanes_add(&sums->a, row);
    lanes_add(&sums->b, row + VECTOR);
    lanes_add(&sums->c, row + 2 * VECTOR);
    lanes_add(&sums->d, row + 3 * VECTOR);
}

/* All sums as one number. Inlined where it is called, it is compiled for that function's CPU. */
static ALWAYS_INLINE uint32_t
page_sum(const uint8_t *page, size_t size)
{
    static const uint8_t zeros[ROW];
    uint8_t first[ROW];
    uint32_t lanes[LANES];
    uint32_t sum = 0;
    Sums sums;

    /* The page belongs to somebody else: it is the copy where the checksum is zero. */
    memcpy(first, page, ROW);
    memset(first + AT_CHECKSUM, 0, sizeof(uint16_t));

    memcpy(&sums, sums_start, sizeof sums);
    row_add(&sums, first);
    for (size_t at = ROW; at < size; at += ROW)
        row_add(&sums, page + at);
    row_add(&sums, zeros);
    row_add(&sums, zeros);

    sums.a ^= sums.b ^ sums.c ^ sums.d;
    memcpy(lanes, &sums.a, sizeof lanes);
    for (size_t i = 0; i < LANES; i++)
        sum ^= lanes[i];
    return sum;
}

static uint16_t
checksum_of(uint32_t sum, uint32_t block)
{
    return (uint16_t)((sum ^ block) % 65535 + 1);
}

uint16_t
page_checksum_portable(const uint8_t *page, size_t size, uint32_t block)
{
    assert(page_size_valid(size));
    return checksum_of(page_sum(page, size), block);
}

#if defined(__x86_64__)

static bool have_avx2;

__attribute__((constructor)) static void
avx2_init(void)
{
    __builtin_cpu_init();
    have_avx2 = __builtin_cpu_supports("avx2");
}

__attribute__((target("avx2"))) static uint32_t
page_sum_avx2(const uint8_t *page, size_t size)
{
    return page_sum(page, size);
}

uint16_t
page_checksum(const uint8_t *page, size_t size, uint32_t block)
{
    if (!have_avx2)
        return page_checksum_portable(page, size, block);
    assert(page_size_valid(size));
    return checksum_of(page_sum_avx2(page, size), block);
}

#else

uint16_t
page_checksum(const uint8_t *page, size_t size, uint32_t block)
{
    return page_checksum_portable(page, size, block);
}

#endif

bool
page_size_valid(uint64_t size)
{
    return size >= PAGE_BYTES_MIN && size <= PAGE_BYTES_MAX && (size & (size - 1)) == 0;
}

PageHeader
page_header(const uint8_t *page)
{
    return (PageHeader){
        .lsn = (Lsn)get_le32(page + AT_LSN) << 32 | get_le32(page + AT_LSN + 4),
        .checksum = get_le16(page + AT_CHECKSUM),
        .upper = get_le16(page + AT_UPPER),
    };
}
