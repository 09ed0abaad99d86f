/*
 * Bytes in memory: bounds, growth, hex.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/bytes.h"

static const uint8_t ten[] = {0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08, 0xFE, 0xFF};

static Span
first(size_t len)
{
    return (Span){.data = ten, .len = len};
}

/* ---- Reader ---- */

static void
spans(void **state)
{
    Span span = span_of("abc");

    (void)state;
    assert_int_equal(span.len, 3);
    assert_memory_equal(span.data, "abc", 3);
    assert_int_equal(span_of("").len, 0);
}

static void
read_straight_through(void **state)
{
    Reader reader = reader_of(first(10));

    (void)state;
    assert_int_equal(reader_left(&reader), 10);
    assert_false(reader_complete(&reader));
    assert_int_equal(read_u8(&reader), 0x01);
    assert_int_equal(read_be32(&reader), 0x02030405);
    assert_int_equal(reader_left(&reader), 5);
    assert_int_equal(read_be32(&reader), 0x060708FE);
    assert_int_equal(read_u8(&reader), 0xFF);
    assert_true(reader_complete(&reader));
    assert_false(reader.failed);

    reader = reader_of(first(10));
    assert_true(read_be64(&reader) == UINT64_C(0x0102030405060708));
    assert_int_equal(reader_left(&reader), 2);
    assert_false(reader_complete(&reader));
}

/* A read beyond the end fails, yields zero and does not move; all that follows fails as well. */
static void
read_beyond_the_end(void **state)
{
    (void)state;
    for (size_t len = 0; len < 8; len++) {
        Reader reader = reader_of(first(len));

        assert_true(read_be64(&reader) == 0);
        assert_true(reader.failed);
        assert_int_equal(reader_left(&reader), len);
        assert_int_equal(read_u8(&reader), 0);
        assert_int_equal(reader_left(&reader), len);
        assert_false(reader_complete(&reader));
    }
    for (size_t len = 0; len < 4; len++) {
        Reader reader = reader_of(first(len));

        assert_int_equal(read_be32(&reader), 0);
        assert_true(reader.failed);
        assert_int_equal(reader_left(&reader), len);
    }
    {
        Reader reader = reader_of(first(0));

        assert_int_equal(read_u8(&reader), 0);
        assert_true(reader.failed);
    }
}

static void
failed_is_final(void **state)
{
    Reader reader = reader_of(first(6));

    (void)state;
    assert_int_equal(read_be32(&reader), 0x01020304);
    assert_int_equal(read_be32(&reader), 0);
    /* Two bytes are left, but nothing is trusted any more. */
    assert_int_equal(read_u8(&reader), 0);
    assert_null(read_cstring(&reader));
    assert_int_equal(read_rest(&reader).len, 0);
    assert_int_equal(reader_left(&reader), 2);
    assert_false(reader_complete(&reader));
}

static void
empty_reader(void **state)
{
    Reader reader = reader_of((Span){.data = NULL, .len = 0});

    (void)state;
    assert_int_equal(reader_left(&reader), 0);
    assert_true(reader_complete(&reader));
    assert_int_equal(read_rest(&reader).len, 0);
    assert_true(reader_complete(&reader));
    assert_null(read_cstring(&reader));
    assert_true(reader.failed);
    assert_false(reader_complete(&reader));
}

static void
read_strings(void **state)
{
    static const uint8_t bytes[] = {'a', 'b', 0, 0, 'c', 'd'};
    Reader reader = reader_of((Span){.data = bytes, .len = sizeof bytes});

    (void)state;
    assert_string_equal(read_cstring(&reader), "ab");
    assert_string_equal(read_cstring(&reader), "");
    /* No terminator is left. */
    assert_null(read_cstring(&reader));
    assert_true(reader.failed);
    assert_int_equal(reader_left(&reader), 2);
}

static void
read_all_that_is_left(void **state)
{
    Reader reader = reader_of(first(10));
    Span rest;

    (void)state;
    assert_int_equal(read_be32(&reader), 0x01020304);
    rest = read_rest(&reader);
    assert_int_equal(rest.len, 6);
    assert_ptr_equal(rest.data, ten + 4);
    assert_true(reader_complete(&reader));
    assert_int_equal(read_rest(&reader).len, 0);
    assert_true(reader_complete(&reader));
}

/* ---- fixed places ---- */

static void
fixed_places(void **state)
{
    uint8_t out[10] = {0};

    (void)state;
    assert_int_equal(get_le16(ten), 0x0201);
    assert_int_equal(get_le16(ten + 8), 0xFFFE);
    assert_int_equal(get_le32(ten + 1), 0x05040302);
    assert_true(get_le32(ten + 6) == UINT32_C(0xFFFE0807));
    assert_true(get_le64(ten + 1) == UINT64_C(0xFE08070605040302));
    assert_true(get_le64(ten + 2) == UINT64_C(0xFFFE080706050403));

    put_be32(out + 1, 0xF1020304);
    assert_memory_equal(out, "\x00\xF1\x02\x03\x04\x00", 6);
    put_be64(out + 1, UINT64_C(0xF1F2F3F405060708));
    assert_memory_equal(out, "\x00\xF1\xF2\xF3\xF4\x05\x06\x07\x08\x00", 10);
    put_le32(out + 1, 0xF1020304);
    assert_memory_equal(out, "\x00\x04\x03\x02\xF1\x05\x06\x07\x08\x00", 10);
    put_le64(out + 1, UINT64_C(0xF1F2F3F405060708));
    assert_memory_equal(out, "\x00\x08\x07\x06\x05\xF4\xF3\xF2\xF1\x00", 10);
}

static void
write_and_read_back(void **state)
{
    static const uint64_t values[] = {
        0, 1, 0x7F, 0x80, 0xFFFFFFFF, 0x100000000, INT64_MAX, (uint64_t)INT64_MAX + 1, UINT64_MAX};

    (void)state;
    for (size_t i = 0; i < sizeof values / sizeof values[0]; i++) {
        uint8_t bytes[12];
        Reader reader;

        put_be64(bytes, values[i]);
        put_be32(bytes + 8, (uint32_t)values[i]);
        reader = reader_of((Span){.data = bytes, .len = sizeof bytes});
        assert_true(read_be64(&reader) == values[i]);
        assert_true(read_be32(&reader) == (uint32_t)values[i]);
        assert_true(reader_complete(&reader));
    }
}

/* ---- Buf ---- */

static void
buf_starts_empty(void **state)
{
    Buf buf = BUF_INIT;

    (void)state;
    assert_string_equal(buf_text(&buf), "");
    buf_clear(&buf);
    assert_string_equal(buf_text(&buf), "");
    buf_free(&buf);
    buf_free(&buf);
    assert_null(buf.data);
}

static void
buf_appends(void **state)
{
    Buf buf = BUF_INIT;
    Error err = ERROR_INIT;

    (void)state;
    assert_true(buf_append(&buf, NULL, 0, &err));
    assert_string_equal(buf_text(&buf), "");
    assert_true(buf_append(&buf, "abc", 3, &err));
    assert_true(buf_append(&buf, "", 0, &err));
    assert_true(buf_append(&buf, "\0d", 2, &err));
    assert_int_equal(buf.len, 5);
    assert_memory_equal(buf.data, "abc\0d", 6);

    buf_clear(&buf);
    assert_int_equal(buf.len, 0);
    assert_string_equal(buf_text(&buf), "");
    assert_true(buf_append(&buf, "x", 1, &err));
    assert_string_equal(buf_text(&buf), "x");
    buf_free(&buf);
    assert_int_equal(buf.len, 0);
    assert_int_equal(buf.capacity, 0);
}

/* Every length up to some hundreds, so that each growth happens at each fill. */
static void
buf_stays_terminated(void **state)
{
    (void)state;
    for (size_t step = 1; step < 70; step++) {
        Buf buf = BUF_INIT;
        Error err = ERROR_INIT;
        uint8_t piece[70];

        memset(piece, 'a', sizeof piece);
        while (buf.len < 600) {
            assert_true(buf_append(&buf, piece, step, &err));
            assert_true(buf.capacity > buf.len);
            assert_int_equal(buf.data[buf.len], 0);
        }
        assert_int_equal(strlen(buf_text(&buf)), buf.len);
        buf_free(&buf);
    }
}

static void
buf_prints(void **state)
{
    Buf buf = BUF_INIT;
    Error err = ERROR_INIT;
    char wide[5001];

    (void)state;
    assert_true(buf_printf(&buf, &err, "%s", ""));
    assert_string_equal(buf_text(&buf), "");
    assert_true(buf_printf(&buf, &err, "%d %s", -7, "x"));
    assert_true(buf_printf(&buf, &err, ";%03u", 5u));
    assert_string_equal(buf_text(&buf), "-7 x;005");
    assert_int_equal(buf.len, 8);

    memset(wide, 'w', sizeof wide - 1);
    wide[sizeof wide - 1] = '\0';
    assert_true(buf_printf(&buf, &err, "%s!", wide));
    assert_int_equal(buf.len, 8 + 5001);
    assert_int_equal(buf.data[buf.len - 1], '!');
    assert_int_equal(buf.data[buf.len], 0);
    buf_free(&buf);
}

/* Lengths around the capacities: the terminator always has its place. */
static void
buf_prints_at_every_fill(void **state)
{
    (void)state;
    for (size_t before = 0; before < 140; before++) {
        Buf buf = BUF_INIT;
        Error err = ERROR_INIT;

        for (size_t i = 0; i < before; i++)
            assert_true(buf_append(&buf, "a", 1, &err));
        assert_true(buf_printf(&buf, &err, "%s", "tail"));
        assert_int_equal(buf.len, before + 4);
        assert_string_equal(buf_text(&buf) + before, "tail");
        buf_free(&buf);
    }
}

static bool PRINTF_LIKE(3, 4) print_twice(Buf *buf, Error *err, const char *fmt, ...)
{
    va_list args;
    va_list again;
    bool ok;

    va_start(args, fmt);
    va_copy(again, args);
    ok = buf_vprintf(buf, err, fmt, args) && buf_vprintf(buf, err, fmt, again);
    va_end(again);
    va_end(args);
    return ok;
}

static void
buf_prints_arguments_passed_on(void **state)
{
    Buf buf = BUF_INIT;
    Error err = ERROR_INIT;

    (void)state;
    assert_true(print_twice(&buf, &err, "%s=%d,%llu;", "a", -1, 18446744073709551615ULL));
    assert_string_equal(buf_text(&buf), "a=-1,18446744073709551615;a=-1,18446744073709551615;");
    assert_int_equal(buf.len, 52);
    buf_free(&buf);
}

static void
buf_reserves(void **state)
{
    Buf buf = BUF_INIT;
    Error err = ERROR_INIT;
    uint8_t *data;

    (void)state;
    assert_true(buf_reserve(&buf, 0, &err));
    assert_string_equal(buf_text(&buf), "");
    assert_true(buf_reserve(&buf, 1000, &err));
    assert_true(buf.capacity >= 1000);
    assert_int_equal(buf.len, 0);
    assert_string_equal(buf_text(&buf), "");
    data = buf.data;
    assert_true(buf_reserve(&buf, 1000, &err));
    assert_ptr_equal(buf.data, data);

    assert_true(buf_append(&buf, "abc", 3, &err));
    assert_true(buf_reserve(&buf, 100000, &err));
    assert_true(buf.capacity - buf.len >= 100000);
    assert_string_equal(buf_text(&buf), "abc");
    buf_free(&buf);
}

/* Lengths that no memory has: refused, and the content stays. */
static void
buf_refuses_the_impossible(void **state)
{
    static const size_t sizes[] = {SIZE_MAX, SIZE_MAX - 1, SIZE_MAX / 2, SIZE_MAX / 2 + 1};
    Buf buf = BUF_INIT;

    (void)state;
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        Error err = ERROR_INIT;

        if (i == 1) {
            Error fine = ERROR_INIT;

            assert_true(buf_append(&buf, "abc", 3, &fine));
        }
        assert_false(buf_reserve(&buf, sizes[i], &err));
        assert_int_equal(err.code, ERR_MEMORY);
        err = ERROR_INIT;
        assert_false(buf_append(&buf, "abc", sizes[i], &err));
        assert_int_equal(err.code, ERR_MEMORY);
    }
    assert_string_equal(buf_text(&buf), "abc");
    buf_free(&buf);
}

/* ---- hex ---- */

static void
hex_digits(void **state)
{
    (void)state;
    for (int c = -128; c < 128; c++) {
        int expected = -1;

        if (c >= '0' && c <= '9')
            expected = c - '0';
        else if (c >= 'a' && c <= 'f')
            expected = c - 'a' + 10;
        else if (c >= 'A' && c <= 'F')
            expected = c - 'A' + 10;
        assert_int_equal(hex_digit((char)c), expected);
    }
}

static void
hex_there_and_back(void **state)
{
    uint8_t bytes[256];
    uint8_t back[256];
    char text[513];

    (void)state;
    for (size_t i = 0; i < 256; i++)
        bytes[i] = (uint8_t)i;
    hex_format(bytes, 256, text);
    assert_int_equal(strlen(text), 512);
    assert_memory_equal(text, "000102030405060708090a0b0c0d0e0f10", 34);
    assert_string_equal(text + 508, "feff");
    assert_true(hex_parse(text, 512, back, 256));
    assert_memory_equal(back, bytes, 256);

    hex_format(bytes, 0, text);
    assert_string_equal(text, "");
}

static void
hex_parse_is_strict(void **state)
{
    static const char *const bad[] = {"",     "1",    "123",  "12345", "zz34", "123g",
                                      "0x12", " 123", "123 ", "12\n3", "-123"};
    uint8_t bytes[2] = {0xAA, 0xBB};

    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_false(hex_parse(bad[i], strlen(bad[i]), bytes, 2));
        assert_memory_equal(bytes, "\xAA\xBB", 2);
    }
    assert_true(hex_parse("aBcD", 4, bytes, 2));
    assert_memory_equal(bytes, "\xAB\xCD", 2);
    /* The length given counts, not a terminator. */
    assert_true(hex_parse("0102zz", 4, bytes, 2));
    assert_memory_equal(bytes, "\x01\x02", 2);
    assert_true(hex_parse("", 0, bytes, 0));
    assert_false(hex_parse("00", 2, bytes, 0));
}

/* ---- memory ---- */

static void
blocks(void **state)
{
    Error err = ERROR_INIT;
    uint8_t *zero = mem_zero(1000, &err);
    void *nothing = mem_alloc(0, &err);
    void *no_zeros = mem_zero(0, &err);
    char *copy = mem_strdup("text", &err);

    (void)state;
    assert_non_null(zero);
    assert_non_null(nothing);
    assert_non_null(no_zeros);
    for (size_t i = 0; i < 1000; i++)
        assert_int_equal(zero[i], 0);
    assert_string_equal(copy, "text");
    assert_int_equal(err.code, ERR_NONE);
    free(zero);
    free(nothing);
    free(no_zeros);
    free(copy);
}

static void
arrays_grow(void **state)
{
    uint32_t *numbers = NULL;
    void *array = NULL;
    size_t capacity = 0;
    Error err = ERROR_INIT;

    (void)state;
    assert_true(mem_grow(&array, &capacity, 0, sizeof *numbers, &err));
    for (uint32_t i = 0; i < 10000; i++) {
        assert_true(mem_grow(&array, &capacity, i + 1, sizeof *numbers, &err));
        assert_true(capacity > i);
        numbers = array;
        numbers[i] = i;
    }
    for (uint32_t i = 0; i < 10000; i++)
        assert_int_equal(numbers[i], i);
    /* Doubling, not one by one: few moves. */
    assert_true(capacity >= 10000 && capacity < 20000);
    assert_true(mem_grow(&array, &capacity, 70000, sizeof *numbers, &err));
    assert_true(capacity >= 70000);
    free(array);
}

static void
arrays_refuse_the_impossible(void **state)
{
    void *array = NULL;
    size_t capacity = 0;

    (void)state;
    for (size_t size = 1; size <= 4096; size *= 8) {
        Error err = ERROR_INIT;

        assert_false(mem_grow(&array, &capacity, SIZE_MAX, size, &err));
        assert_int_equal(err.code, ERR_MEMORY);
        err = ERROR_INIT;
        assert_false(mem_grow(&array, &capacity, SIZE_MAX / size, size, &err));
        assert_int_equal(err.code, ERR_MEMORY);
    }
    assert_null(array);
    assert_int_equal(capacity, 0);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(spans),
        cmocka_unit_test(read_straight_through),
        cmocka_unit_test(read_beyond_the_end),
        cmocka_unit_test(failed_is_final),
        cmocka_unit_test(empty_reader),
        cmocka_unit_test(read_strings),
        cmocka_unit_test(read_all_that_is_left),
        cmocka_unit_test(fixed_places),
        cmocka_unit_test(write_and_read_back),
        cmocka_unit_test(buf_starts_empty),
        cmocka_unit_test(buf_appends),
        cmocka_unit_test(buf_stays_terminated),
        cmocka_unit_test(buf_prints),
        cmocka_unit_test(buf_prints_at_every_fill),
        cmocka_unit_test(buf_prints_arguments_passed_on),
        cmocka_unit_test(buf_reserves),
        cmocka_unit_test(buf_refuses_the_impossible),
        cmocka_unit_test(hex_digits),
        cmocka_unit_test(hex_there_and_back),
        cmocka_unit_test(hex_parse_is_strict),
        cmocka_unit_test(blocks),
        cmocka_unit_test(arrays_grow),
        cmocka_unit_test(arrays_refuse_the_impossible),
    };

    return cmocka_run_group_tests_name("bytes", tests, NULL, NULL);
}
