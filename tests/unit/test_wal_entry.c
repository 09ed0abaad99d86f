/*
 * What the stages behind the receiver know of an entry: whether it is WAL, how much of it has come,
 * and what it may lack.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "walrecv/internal.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

#define MB      ((uint32_t)1024 * 1024)
#define SEGMENT "0000000200000001000000FF"
#define HISTORY "0000000A.history"

static bool
begin(const char *path, uint64_t size, uint32_t segment_size, WalEntry *ret_wal, Error *err)
{
    const Entry entry = {.kind = ENTRY_FILE, .path = path, .size = size};

    return wal_entry_begin(&entry, segment_size, ret_wal, err);
}

static void
test_segment(void **state)
{
    WalEntry wal = {.received = 77};
    Error err = ERROR_INIT;

    (void)state;
    assert_true(begin(SEGMENT, 16 * MB, 16 * MB, &wal, &err));
    assert_int_equal(wal.kind, WAL_FILE_SEGMENT);
    assert_string_equal(wal.name, SEGMENT);
    assert_int_equal(wal.size, 16 * MB);
    assert_int_equal(wal.received, 0);
    assert_int_equal(wal.start, 0x1FF000000);

    assert_true(begin(SEGMENT, MB, MB, &wal, &err));
    assert_int_equal(wal.start, 0x10FF00000);
}

static void
test_history(void **state)
{
    static const uint64_t sizes[] = {0, 1, 42, UINT64_MAX};

    (void)state;
    for (size_t i = 0; i < COUNT(sizes); i++) {
        WalEntry wal = {.received = 77};
        Error err = ERROR_INIT;

        assert_true(begin(HISTORY, sizes[i], MB, &wal, &err));
        assert_int_equal(wal.kind, WAL_FILE_HISTORY);
        assert_string_equal(wal.name, HISTORY);
        assert_int_equal(wal.size, sizes[i]);
        assert_int_equal(wal.received, 0);
    }
}

static void
test_what_is_no_wal(void **state)
{
    static const char *const names[] = {
        "",
        "x",
        SEGMENT "0",
        SEGMENT ".partial",
        "pg_wal/" SEGMENT,
        "000000000000000000000003",
        "000000010000000000000100", /* of 16 MB there are 256 in a log file */
        "00000001000000000000000a",
        HISTORY ".tmp",
        "00000000.history",
        "archive_status/" SEGMENT ".done",
    };

    (void)state;
    for (size_t i = 0; i < COUNT(names); i++) {
        WalEntry wal = {.kind = WAL_FILE_NONE};
        Error err = ERROR_INIT;

        assert_false(begin(names[i], 16 * MB, 16 * MB, &wal, &err));
        assert_int_equal(err.code, ERR_FORMAT);
        assert_non_null(strstr(err.message, "\" is neither a WAL segment nor a timeline history"));
        assert_int_equal(wal.kind, WAL_FILE_NONE);
    }
}

static void
test_kinds(void **state)
{
    static const EntryKind kinds[] = {ENTRY_DIRECTORY, ENTRY_SYMLINK};
    static const char *const names[] = {SEGMENT, HISTORY};

    (void)state;
    for (size_t i = 0; i < COUNT(kinds) * COUNT(names); i++) {
        const Entry entry = {
            .kind = kinds[i / 2], .path = names[i % 2], .link_target = "/x", .size = MB};
        WalEntry wal = {.kind = WAL_FILE_NONE};
        Error err = ERROR_INIT;

        assert_false(wal_entry_begin(&entry, 16 * MB, &wal, &err));
        assert_int_equal(err.code, ERR_FORMAT);
    }
}

static void
test_segment_of_another_size(void **state)
{
    static const uint64_t sizes[] = {0, 1, MB, 16 * MB - 1, 16 * MB + 1, UINT64_MAX};

    (void)state;
    for (size_t i = 0; i < COUNT(sizes); i++) {
        WalEntry wal = {.kind = WAL_FILE_NONE};
        Error err = ERROR_INIT;

        assert_false(begin(SEGMENT, sizes[i], 16 * MB, &wal, &err));
        assert_int_equal(err.code, ERR_FORMAT);
        assert_non_null(strstr(err.message, "but segments have 16777216"));
        assert_int_equal(wal.kind, WAL_FILE_NONE);
    }
}

static void
test_content_is_counted(void **state)
{
    WalEntry wal;
    Error err = ERROR_INIT;

    (void)state;
    assert_true(begin(SEGMENT, MB, MB, &wal, &err));
    assert_true(wal_entry_take(&wal, 1, &err));
    assert_true(wal_entry_take(&wal, MB - 2, &err));
    assert_int_equal(wal.received, MB - 1);
    assert_false(wal_entry_take(&wal, 2, &err));
    assert_int_equal(err.code, ERR_FORMAT);
    assert_string_equal(err.message, "\"" SEGMENT "\" is longer than its 1048576 bytes");
    assert_int_equal(wal.received, MB - 1);
    assert_true(wal_entry_take(&wal, 1, &err));
    assert_false(wal_entry_take(&wal, SIZE_MAX, &err));
    assert_int_equal(wal.received, MB);

    wal.kind = WAL_FILE_NONE;
    assert_false(wal_entry_take(&wal, 1, &err));
    assert_int_equal(err.code, ERR_BUG);
}

static void
test_ends(void **state)
{
    static const struct {
        WalFileKind kind;
        uint64_t received; /* of 10 */
        bool complete;
        const char *message; /* NULL: it may end so */
    } cases[] = {
        {WAL_FILE_SEGMENT, 10, true, NULL},
        {WAL_FILE_SEGMENT, 10, false, NULL},
        {WAL_FILE_SEGMENT, 9, false, NULL},
        {WAL_FILE_SEGMENT, 0, false, NULL},
        {WAL_FILE_SEGMENT, 9, true, "WAL segment \"name\" has only 9 of 10 bytes"},
        {WAL_FILE_SEGMENT, 0, true, "WAL segment \"name\" has only 0 of 10 bytes"},
        {WAL_FILE_HISTORY, 10, true, NULL},
        {WAL_FILE_HISTORY, 9, true, "timeline history file \"name\" has only 9 of 10 bytes"},
        {WAL_FILE_HISTORY, 9, false, "timeline history file \"name\" has only 9 of 10 bytes"},
        {WAL_FILE_HISTORY, 10, false, "timeline history file \"name\" has only 10 of 10 bytes"},
    };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        const WalEntry wal = {
            .kind = cases[i].kind, .name = "name", .size = 10, .received = cases[i].received};
        Error err = ERROR_INIT;

        assert_int_equal(wal_entry_check_end(&wal, cases[i].complete, &err),
                         cases[i].message == NULL);
        assert_int_equal(err.code, cases[i].message == NULL ? ERR_NONE : ERR_FORMAT);
        assert_string_equal(err.message, cases[i].message == NULL ? "" : cases[i].message);
    }
}

static void
test_done_names(void **state)
{
    char name[WAL_DONE_NAME_SIZE];
    char longest[WAL_NAME_SIZE];

    (void)state;
    wal_done_name(name, SEGMENT);
    assert_string_equal(name, "archive_status/" SEGMENT ".done");
    wal_done_name(name, HISTORY);
    assert_string_equal(name, "archive_status/" HISTORY ".done");

    memset(longest, 'x', sizeof longest - 1);
    longest[sizeof longest - 1] = '\0';
    wal_done_name(name, longest);
    assert_string_equal(name + strlen(name) - strlen("x.done"), "x.done");
}

static void
test_zeros(void **state)
{
    static const uint64_t lengths[] = {1, 511, 65535, 65536, 65537, MB, (uint64_t)1 << 33};

    (void)state;
    assert_int_equal(wal_zeros(0).len, 0);
    for (size_t i = 0; i < COUNT(lengths); i++) {
        Span zeros = wal_zeros(lengths[i]);

        assert_in_range(zeros.len, 1, lengths[i]);
        /* Whoever asks until it has all asks a few times only. */
        assert_true(zeros.len == lengths[i] || zeros.len >= 65536);
        for (size_t at = 0; at < zeros.len; at++)
            assert_int_equal(zeros.data[at], 0);
    }
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_segment),
        cmocka_unit_test(test_history),
        cmocka_unit_test(test_what_is_no_wal),
        cmocka_unit_test(test_kinds),
        cmocka_unit_test(test_segment_of_another_size),
        cmocka_unit_test(test_content_is_counted),
        cmocka_unit_test(test_ends),
        cmocka_unit_test(test_done_names),
        cmocka_unit_test(test_zeros),
    };

    return cmocka_run_group_tests_name("wal_entry", tests, NULL, NULL);
}
