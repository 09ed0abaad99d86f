/*
 * LSNs and numbers in text: strict, because they come from servers and files.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "common/pgtypes.h"

static void
lsn_good(void **state)
{
    static const struct {
        const char *text;
        Lsn lsn;
    } cases[] = {
        {"0/0", 0},
        {"0/1", 1},
        {"0/16000028", 0x16000028},
        {"16/B374D848", UINT64_C(0x16B374D848)},
        {"16/b374d848", UINT64_C(0x16B374D848)},
        {"a/B", UINT64_C(0xA0000000B)},
        {"FFFFFFFF/FFFFFFFF", UINT64_MAX},
        {"FFFFFFFF/0", UINT64_C(0xFFFFFFFF00000000)},
        {"00000001/00000002", UINT64_C(0x100000002)},
        {"0/000000FF", 0xFF},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        Lsn lsn = 12345;

        assert_true(lsn_parse(cases[i].text, &lsn));
        assert_true(lsn == cases[i].lsn);
    }
}

static void
lsn_bad(void **state)
{
    static const char *const texts[] = {
        "",      "/",           "0",           "0/",          "/0",          "0//0",
        "0/0/0", "0/0 ",        " 0/0",        "0 /0",        "0/ 0",        "x/0",
        "0/x",   "0/0x",        "0x0/0",       "0/0x10",      "-1/0",        "+1/0",
        "0/-1",  "000000000/0", "0/000000000", "123456789/0", "0/123456789", "0\\0",
        "0:0",   "0/0\n",       "g/0",         "16/B374D84G",
    };

    (void)state;
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        Lsn lsn = 12345;

        assert_false(lsn_parse(texts[i], &lsn));
        assert_true(lsn == 12345);
    }
}

static void
lsn_there_and_back(void **state)
{
    static const Lsn lsns[] = {
        0, 1, 0xFFFFFFFF, UINT64_C(0x100000000), UINT64_C(0x16B374D848), UINT64_MAX};

    (void)state;
    for (size_t i = 0; i < sizeof lsns / sizeof lsns[0]; i++) {
        char text[32];
        Lsn back = 0;

        (void)snprintf(text, sizeof text, LSN_FORMAT, LSN_ARGS(lsns[i]));
        assert_true(lsn_parse(text, &back));
        assert_true(back == lsns[i]);
    }
    {
        char text[32];

        (void)snprintf(text, sizeof text, LSN_FORMAT, LSN_ARGS(UINT64_C(0x16B374D848)));
        assert_string_equal(text, "16/B374D848");
        /* An expression as argument is taken whole. */
        (void)snprintf(text, sizeof text, LSN_FORMAT, LSN_ARGS(UINT64_C(0xFFFFFFFF) + 1));
        assert_string_equal(text, "1/0");
    }
}

static void
numbers_good(void **state)
{
    static const struct {
        const char *text;
        uint64_t value;
    } cases[] = {
        {"0", 0},
        {"1", 1},
        {"00", 0},
        {"007", 7},
        {"4294967295", UINT32_MAX},
        {"4294967296", UINT64_C(4294967296)},
        {"9223372036854775808", UINT64_C(1) << 63},
        {"18446744073709551609", UINT64_MAX - 6},
        {"18446744073709551615", UINT64_MAX},
        {"000000000000000000000000000018446744073709551615", UINT64_MAX},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        uint64_t value = 99;
        uint32_t small = 99;

        assert_true(u64_parse(cases[i].text, &value));
        assert_true(value == cases[i].value);
        assert_int_equal(u32_parse(cases[i].text, &small), cases[i].value <= UINT32_MAX);
        assert_true(small == (cases[i].value <= UINT32_MAX ? cases[i].value : 99));
    }
}

static void
numbers_bad(void **state)
{
    static const char *const texts[] = {
        "",
        " ",
        "-",
        "+",
        "-1",
        "+1",
        "-0",
        " 1",
        "1 ",
        "1\n",
        "1.0",
        "1e3",
        "0x10",
        "abc",
        "1a",
        "a1",
        "1,000",
        "18446744073709551616",
        "18446744073709551620",
        "18446744073709551625",
        "20000000000000000000",
        "99999999999999999999",
        "184467440737095516150",
        "/",
        ":",
        "\xC3\xA9",
    };

    (void)state;
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        uint64_t value = 99;
        uint32_t small = 99;

        assert_false(u64_parse(texts[i], &value));
        assert_true(value == 99);
        assert_false(u32_parse(texts[i], &small));
        assert_int_equal(small, 99);
    }
}

/* Every number of one digit, and each byte that is none. */
static void
single_bytes(void **state)
{
    (void)state;
    for (int c = 1; c < 256; c++) {
        char text[] = {(char)c, '\0'};
        uint64_t value = 99;
        bool digit = c >= '0' && c <= '9';

        assert_int_equal(u64_parse(text, &value), digit);
        assert_int_equal(value, digit ? c - '0' : 99);
    }
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lsn_good),           cmocka_unit_test(lsn_bad),
        cmocka_unit_test(lsn_there_and_back), cmocka_unit_test(numbers_good),
        cmocka_unit_test(numbers_bad),        cmocka_unit_test(single_bytes),
    };

    return cmocka_run_group_tests_name("pgtypes", tests, NULL, NULL);
}
