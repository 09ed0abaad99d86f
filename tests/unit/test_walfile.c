/*
 * Names and places of WAL segments.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "pgformat/walfile.h"

#define MIB ((uint32_t)1024 * 1024)
#define GIB ((uint32_t)1024 * MIB)

static void
test_segment_sizes(void **state)
{
    (void)state;
    for (int shift = 0; shift < 64; shift++) {
        uint64_t size = (uint64_t)1 << shift;

        assert_int_equal(wal_segment_size_valid(size), shift >= 20 && shift <= 30);
        if (size > 2) {
            assert_false(wal_segment_size_valid(size - 1));
            assert_false(wal_segment_size_valid(size + 1));
        }
    }
    assert_false(wal_segment_size_valid(0));
    assert_false(wal_segment_size_valid(3 * MIB));
    assert_false(wal_segment_size_valid(UINT64_MAX));
}

static void
test_places(void **state)
{
    static const struct {
        Lsn lsn;
        uint32_t size;
        uint64_t number;
        uint32_t offset;
    } cases[] = {
        {0, 16 * MIB, 0, 0},
        {0xFFFFFF, 16 * MIB, 0, 0xFFFFFF},
        {0x1000000, 16 * MIB, 1, 0},
        {0x1000028, 16 * MIB, 1, 0x28},
        {0x1000028, MIB, 16, 0x28},
        {0x1000028, GIB, 0, 0x1000028},
        {0x100000000, 16 * MIB, 256, 0},
        {0x1FFFFFFFF, GIB, 7, 0x3FFFFFFF},
        {0xFFFFFFFFFFFFFFFF, MIB, 0xFFFFFFFFFFF, 0xFFFFF},
        {0xFFFFFFFFFFFFFFFF, GIB, 0x3FFFFFFFF, 0x3FFFFFFF},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_int_equal(wal_segment_number(cases[i].lsn, cases[i].size), cases[i].number);
        assert_int_equal(wal_segment_offset(cases[i].lsn, cases[i].size), cases[i].offset);
        assert_int_equal(wal_segment_start(cases[i].number, cases[i].size),
                         cases[i].lsn - cases[i].offset);
    }
}

static const struct {
    TimeLineID timeline;
    uint64_t number;
    uint32_t size;
    const char *name;
} names[] = {
    {1, 0, 16 * MIB, "000000010000000000000000"},
    {1, 1, 16 * MIB, "000000010000000000000001"},
    {1, 255, 16 * MIB, "0000000100000000000000FF"},
    {1, 256, 16 * MIB, "000000010000000100000000"},
    {0xABCDEF12, 257, 16 * MIB, "ABCDEF120000000100000001"},
    {2, 4095, MIB, "000000020000000000000FFF"},
    {2, 4096, MIB, "000000020000000100000000"},
    {3, 3, GIB, "000000030000000000000003"},
    {3, 4, GIB, "000000030000000100000000"},
    {UINT32_MAX, 0xFFFFFFFFFFF, MIB, "FFFFFFFFFFFFFFFF00000FFF"},
    {UINT32_MAX, 0x3FFFFFFFF, GIB, "FFFFFFFFFFFFFFFF00000003"},
};

static void
test_names(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char name[WAL_NAME_SIZE];
        TimeLineID timeline = 0;
        uint64_t number = 0;

        wal_segment_name(name, names[i].timeline, names[i].number, names[i].size);
        assert_string_equal(name, names[i].name);
        assert_true(wal_segment_parse(names[i].name, names[i].size, &timeline, &number));
        assert_int_equal(timeline, names[i].timeline);
        assert_int_equal(number, names[i].number);
    }
}

static void
assert_no_segment(const char *name, uint32_t size)
{
    TimeLineID timeline = 77;
    uint64_t number = 78;

    if (wal_segment_parse(name, size, &timeline, &number))
        fail_msg("\"%s\" was taken for a segment", name);
    assert_int_equal(timeline, 77);
    assert_int_equal(number, 78);
}

static void
test_no_segment_names(void **state)
{
    static const char *const bad[] = {
        "",
        "0",
        "00000001",
        "00000001000000000000000",   /* a digit short */
        "0000000100000000000000011", /* one too many */
        "000000000000000000000001",  /* timeline 0 */
        "0000000A0000000000000G01",
        "0000000a0000000000000001", /* lower case */
        "0000000A00000000000000fF",
        "000000010000000000000001.partial",
        "000000010000000000000001.gz",
        "000000010000000000000001 ",
        " 00000010000000000000001",
        "+00000010000000000000001",
        "0x0000010000000000000001",
        "00000001000000000000000\n",
        "00000001.history",
        "000000010000000000000001.00000028.backup",
        "archive_status",
        "\37700000010000000000000001",
    };

    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_no_segment(bad[i], 16 * MIB);

    /* Segments that do not exist with this size. */
    assert_no_segment("000000010000000000000100", 16 * MIB);
    assert_no_segment("0000000100000000FFFFFFFF", 16 * MIB);
    assert_no_segment("000000010000000000001000", MIB);
    assert_no_segment("000000010000000000000004", GIB);
}

static void
test_history_names(void **state)
{
    static const char *const bad[] = {
        "",
        "00000002",
        "00000000.history", /* timeline 0 */
        "0000000b.history",
        "0000000B.HISTORY",
        "0000000B.histor",
        "0000000B.history2",
        "0000000B.history.gz",
        "000000B.history",
        "00000000B.history",
        "0000000Bhistory",
        ".history",
    };
    char name[WAL_NAME_SIZE];
    TimeLineID timeline = 0;

    (void)state;
    wal_history_name(name, 2);
    assert_string_equal(name, "00000002.history");
    wal_history_name(name, 0xFEDCBA98);
    assert_string_equal(name, "FEDCBA98.history");
    assert_true(wal_history_parse("FEDCBA98.history", &timeline));
    assert_int_equal(timeline, 0xFEDCBA98);
    assert_true(wal_history_parse("00000002.history", &timeline));
    assert_int_equal(timeline, 2);

    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        timeline = 77;
        if (wal_history_parse(bad[i], &timeline))
            fail_msg("\"%s\" was taken for a history file", bad[i]);
        assert_int_equal(timeline, 77);
    }
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_segment_sizes), cmocka_unit_test(test_places),
        cmocka_unit_test(test_names),         cmocka_unit_test(test_no_segment_names),
        cmocka_unit_test(test_history_names),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
