/*
 * The names of segments' files: what is one, strictly, and what it says.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "segment/segment.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define MB           ((uint32_t)1 << 20)

/* In a block of exactly its size, so that a sanitizer sees what is read behind its end. */
static bool
parse(const char *name, uint32_t segment_size, WalSegmentFile *file)
{
    size_t size = strlen(name) + 1;
    char *exact = malloc(size);
    bool parsed;

    assert_non_null(exact);
    memcpy(exact, name, size);
    parsed = wal_segment_file_parse(exact, segment_size, file);
    free(exact);
    return parsed;
}

static void
assert_no_segment(const char *name)
{
    WalSegmentFile file;

    memset(&file, 0x55, sizeof file);
    if (parse(name, 16 * MB, &file))
        fail_msg("\"%s\" is no segment", name);
    assert_int_equal(file.number, 0x5555555555555555);
    assert_int_equal(file.timeline, 0x55555555);
}

static void
test_forms(void **state)
{
    static const struct {
        const char *name;
        CompressionMethod compression;
        bool partial;
    } cases[] = {
        {"0000000A00000002000000FE", COMPRESSION_NONE, false},
        {"0000000A00000002000000FE.partial", COMPRESSION_NONE, true},
        {"0000000A00000002000000FE.gz", COMPRESSION_GZIP, false},
        {"0000000A00000002000000FE.gz.partial", COMPRESSION_GZIP, true},
        {"0000000A00000002000000FE.lz4", COMPRESSION_LZ4, false},
        {"0000000A00000002000000FE.lz4.partial", COMPRESSION_LZ4, true},
        {"0000000A00000002000000FE.zst", COMPRESSION_ZSTD, false},
        {"0000000A00000002000000FE.zst.partial", COMPRESSION_ZSTD, true},
    };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        char name[WAL_SEGMENT_FILE_SIZE];
        WalSegmentFile file;

        if (!parse(cases[i].name, 16 * MB, &file))
            fail_msg("\"%s\" is a segment", cases[i].name);
        assert_int_equal(file.timeline, 10);
        assert_int_equal(file.number, 0x2FE);
        assert_int_equal(file.compression, cases[i].compression);
        assert_int_equal(file.partial, cases[i].partial);
        wal_segment_file_name(name, &file, 16 * MB);
        assert_string_equal(name, cases[i].name);
    }
}

/* How many segments a log file has, and the first and the last one of all. */
static void
test_segment_sizes(void **state)
{
    static const struct {
        uint32_t size;
        const char *name;
        uint64_t number;
        const char *beyond;
    } cases[] = {
        {MB, "000000010000000000000FFF", 0xFFF, "000000010000000000001000"},
        {16 * MB, "0000000100000001000000FF", 0x1FF, "000000010000000100000100"},
        {64 * MB, "00000001000000010000003F", 0x7F, "000000010000000100000040"},
        {1024 * MB, "000000010000000100000003", 7, "000000010000000100000004"},
        {MB, "FFFFFFFFFFFFFFFF00000FFF", 0xFFFFFFFFFFF, "FFFFFFFFFFFFFFFF00001000"},
        {1024 * MB, "FFFFFFFFFFFFFFFF00000003", 0x3FFFFFFFF, "FFFFFFFFFFFFFFFF00000004"},
        {MB, "000000010000000000000000", 0, "000000010000000010000000"},
    };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        WalSegmentFile file;

        assert_true(parse(cases[i].name, cases[i].size, &file));
        assert_int_equal(file.number, cases[i].number);
        assert_false(parse(cases[i].beyond, cases[i].size, &file));
    }
}

static void
test_what_is_no_segment(void **state)
{
    static const char *const names[] = {
        "",
        ".",
        "..",
        "backup_label",
        "x.tmp",
        "archive_status",
        "zzzzzzzzzzzzzzzzzzzzzzzz",
        "00000002.history",
        "00000002.history.gz",
        "00000002.history.partial",
        "00000001000000000000000",
        "0000000100000000000000010",
        "00000001000000000000000a",
        "0000000a0000000000000001",
        "000000000000000000000009", /* no timeline */
        "0x0000010000000000000009",
        "-00000010000000000000009",
        "+00000010000000000000009",
        " 00000010000000000000009",
        "000000010000000000000009 ",
        "000000010000000000000009.",
        "000000010000000000000009.partial2",
        "000000010000000000000009.partial.",
        "000000010000000000000009.part",
        "000000010000000000000009partial",
        "000000010000000000000009.PARTIAL",
        "000000010000000000000009.bak",
        "000000010000000000000009.00000028.backup",
        "000000010000000000000009.tmp",
        "000000010000000000000009.damaged",
        "000000010000000000000009.gz.damaged",
        "000000010000000000000009.partial.damaged",
        "000000010000000000000009.gz.tmp",
        "000000010000000000000009.gzip",
        "000000010000000000000009.gz.gz",
        "000000010000000000000009.zstd",
        "000000010000000000000009.lz",
        "000000010000000000000009.bz2",
        "000000010000000000000009gz",
        "000000010000000000000009.GZ",
        "000000010000000000000009.gz.partial.partial",
        "000000010000000000000009.partial.gz",
        "000000010000000000000009.partial.partial",
        ".000000010000000000000009",
        "./000000010000000000000009",
    };

    (void)state;
    for (size_t i = 0; i < COUNT(names); i++)
        assert_no_segment(names[i]);
}

/* Every character of a name counts. */
static void
test_one_wrong_character(void **state)
{
    static const char *const names[] = {
        "000000010000000200000003",
        "000000010000000200000003.partial",
        "000000010000000200000003.gz",
        "000000010000000200000003.zst.partial",
    };

    (void)state;
    for (size_t i = 0; i < COUNT(names); i++) {
        for (size_t at = 0; names[i][at] != '\0'; at++) {
            char name[WAL_SEGMENT_FILE_SIZE];

            memcpy(name, names[i], strlen(names[i]) + 1);
            name[at] = '~';
            assert_no_segment(name);
        }
    }
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_forms),
        cmocka_unit_test(test_segment_sizes),
        cmocka_unit_test(test_what_is_no_segment),
        cmocka_unit_test(test_one_wrong_character),
    };

    return cmocka_run_group_tests_name("segment_name", tests, NULL, NULL);
}
