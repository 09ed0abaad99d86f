/*
 * Timeline history files: what the server accepts is read as the server reads it, and the rest is
 * refused with the line that is wrong.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "pgformat/timeline.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* The text in memory of exactly its size: reading beyond it is seen. */
static bool
parse_bytes(const void *text, size_t len, TimeLineID timeline, TimelineHistory *history, Error *err)
{
    uint8_t *copy = malloc(len > 0 ? len : 1);
    bool ok;

    assert_non_null(copy);
    memcpy(copy, text, len);
    ok = timeline_history_parse((Span){copy, len}, timeline, history, err);
    free(copy);
    return ok;
}

static TimelineHistory
parse(const char *text, TimeLineID timeline)
{
    TimelineHistory history;
    Error err = ERROR_INIT;

    if (!parse_bytes(text, strlen(text), timeline, &history, &err))
        fail_msg("\"%s\": %s", text, err.message);
    assert_int_equal(err.code, ERR_NONE);
    assert_int_equal(history.timeline, timeline);
    return history;
}

static void
assert_fork(const TimelineHistory *history, size_t n, TimeLineID timeline, Lsn end)
{
    assert_true(n < history->count);
    assert_int_equal(history->forks[n].timeline, timeline);
    assert_int_equal(history->forks[n].end, end);
}

/* ---- reading ---- */

static void
test_no_ancestors(void **state)
{
    static const char *const texts[] = {
        "", "\n", "\n\n", "\r\n", " \t\v\f\r\n", "\t  ", "# a comment", "#\n # \n", "#1\t0/5\tx\n"};

    (void)state;
    for (size_t i = 0; i < COUNT(texts); i++) {
        TimelineHistory history = parse(texts[i], 7);

        assert_int_equal(history.count, 0);
        assert_int_equal(timeline_history_at(&history, 0), 7);
        assert_int_equal(timeline_history_at(&history, UINT64_MAX), 7);
        timeline_history_free(&history);
    }
}

/* As servers write it: a parent's file is copied, and an empty line stands before what is added. */
static void
test_file_of_a_server(void **state)
{
    TimelineHistory history = parse("1\t0/3000000\tno recovery target specified\n"
                                    "\n"
                                    "2\t0/50000D8\tbefore 2024-01-01 00:00:00+00\n"
                                    "\n"
                                    "9\t1A/FFFFFFF0\tat restore point \"x # y\"\n",
                                    12);

    (void)state;
    assert_int_equal(history.count, 3);
    assert_fork(&history, 0, 1, 0x3000000);
    assert_fork(&history, 1, 2, 0x50000D8);
    assert_fork(&history, 2, 9, UINT64_C(0x1AFFFFFFF0));
    timeline_history_free(&history);
}

static void
test_forms_of_a_line(void **state)
{
    static const char *const texts[] = {
        "3\tA/B0000001\treason\n",
        "3\tA/B0000001\treason", /* no newline at the end */
        "3\tA/B0000001\n",
        "3\tA/B0000001",
        "3 A/B0000001 reason\n", /* other separators */
        "3 \t \v A/B0000001\n",
        "  \t3\tA/B0000001\treason\n",
        "3\ta/b0000001\treason\n",
        "3\t0000000A/B0000001\treason\n",
        "003\tA/B0000001\treason\n",
        "3\t0xA/0XB0000001\treason\n", /* as scanf takes it */
        "3\tA/ B0000001\treason\n",
        "3A/B0000001\n", /* scanf wants no separator before hex digits */
        "3\tA/B0000001\treason\r\n",
        "3\tA/B0000001\r\n",
        "\r\n# written by hand\r\n3\tA/B0000001\tx\r\n\r\n",
        "3\tA/B0000001x9\n",
        "3\tA/B0000001\t2\t0/7\tonly the beginning of a line counts\n",
        "3\tA/B0000001\t\xc3\xa4\xff\n",
    };

    (void)state;
    for (size_t i = 0; i < COUNT(texts); i++) {
        TimelineHistory history = parse(texts[i], 4);

        assert_int_equal(history.count, 1);
        assert_fork(&history, 0, 3, UINT64_C(0xAB0000001));
        timeline_history_free(&history);
    }
}

static void
test_largest_numbers(void **state)
{
    TimelineHistory history = parse("1\t0/0\n4294967294\tFFFFFFFF/FFFFFFFF\n", UINT32_MAX);

    (void)state;
    assert_int_equal(history.count, 2);
    assert_fork(&history, 0, 1, 0);
    assert_fork(&history, 1, 4294967294, UINT64_MAX);
    timeline_history_free(&history);
}

static void
test_zero_byte_in_a_reason(void **state)
{
    static const char text[] = "1\t0/5\ta\0b\n2\t0/6\n";
    TimelineHistory history;
    Error err = ERROR_INIT;

    (void)state;
    assert_true(parse_bytes(text, sizeof text - 1, 3, &history, &err));
    assert_int_equal(history.count, 2);
    timeline_history_free(&history);
}

static void
test_many_timelines(void **state)
{
    enum { MANY = 5000 };
    Buf text = BUF_INIT;
    Error err = ERROR_INIT;
    TimelineHistory history;

    (void)state;
    for (uint32_t i = 1; i <= MANY; i++)
        assert_true(buf_printf(&text, &err, "%u\t%X/%X\tno recovery target specified\n\n", 2 * i,
                               i >> 4, i << 28));
    history = parse(buf_text(&text), 2 * MANY + 1);
    assert_int_equal(history.count, MANY);
    for (uint32_t i = 1; i <= MANY; i++) {
        Lsn end = (Lsn)i << 28;

        assert_fork(&history, i - 1, 2 * i, end);
        assert_int_equal(timeline_history_at(&history, end - 1), 2 * i);
        assert_int_equal(timeline_history_at(&history, end), i < MANY ? 2 * i + 2 : 2 * MANY + 1);
    }
    timeline_history_free(&history);
    buf_free(&text);
}

/* ---- what is refused ---- */

static void
test_refused(void **state)
{
    static const struct {
        const char *text;
        const char *message;
    } cases[] = {
        {"foo\n", "line 1 does not begin with a timeline and an LSN: \"foo\""},
        {"foo", "line 1 does not begin with a timeline and an LSN: \"foo\""},
        {"1\t0/5\n\n#\n2\n3\t0/6\n", "line 4 does not begin with a timeline and an LSN: \"2\""},
        {"1\t", "line 1 does not begin with a timeline and an LSN: \"1\t\""},
        {"1\t0", "line 1 does not begin with a timeline and an LSN: \"1\t0\""},
        {"1\t0/", "line 1 does not begin with a timeline and an LSN: \"1\t0/\""},
        {"1\t0/\n5\n", "line 1 does not begin with a timeline and an LSN: \"1\t0/\""},
        {"1\n0/5\n", "line 1 does not begin with a timeline and an LSN: \"1\""},
        {"1\t/5", "line 1 does not begin with a timeline and an LSN: \"1\t/5\""},
        {"1\t0 /5", "line 1 does not begin with a timeline and an LSN: \"1\t0 /5\""},
        {"1\t05", "line 1 does not begin with a timeline and an LSN: \"1\t05\""},
        {"1\t0/x", "line 1 does not begin with a timeline and an LSN: \"1\t0/x\""},
        {"1,0/5", "line 1 does not begin with a timeline and an LSN: \"1,0/5\""},
        {"0/5", "line 1 does not begin with a timeline and an LSN: \"0/5\""},
        {"-1\t0/5", "line 1 does not begin with a timeline and an LSN: \"-1\t0/5\""},
        {"1\t-0/5", "line 1 does not begin with a timeline and an LSN: \"1\t-0/5\""},
        {"1\t0x/5", "line 1 does not begin with a timeline and an LSN: \"1\t0x/5\""},
        {"0x1\t0/5", "line 1 does not begin with a timeline and an LSN: \"0x1\t0/5\""},
        {"4294967296\t0/5",
         "line 1 does not begin with a timeline and an LSN: \"4294967296\t0/5\""},
        {"18446744073709551617\t0/5",
         "line 1 does not begin with a timeline and an LSN: \"18446744073709551617\t0/5\""},
        {"1\t100000000/5", "line 1 does not begin with a timeline and an LSN: \"1\t100000000/5\""},
        {"1\t0/100000000", "line 1 does not begin with a timeline and an LSN: \"1\t0/100000000\""},
        {"a line that is much longer than what is worth to be quoted in full of it",
         "line 1 does not begin with a timeline and an LSN: \"a line that is much longer than what "
         "is worth to be quoted i\""},
        {"1\t0/5\n1\t0/6\n", "line 2 names timeline 1 behind timeline 1"},
        {"3\t0/5\n2\t0/6\n", "line 2 names timeline 2 behind timeline 3"},
        {"9\t0/5\n", "line 1 names timeline 9 as an ancestor of timeline 9"},
        {"1\t0/5\n# two\n10\t0/6\n", "line 3 names timeline 10 as an ancestor of timeline 9"},
    };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        TimelineHistory history = {.timeline = 77};
        Error err = ERROR_INIT;
        char expected[200];

        (void)snprintf(expected, sizeof expected, "history file of timeline 9: %s",
                       cases[i].message);
        assert_false(parse_bytes(cases[i].text, strlen(cases[i].text), 9, &history, &err));
        assert_string_equal(err.message, expected);
        assert_int_equal(err.code, ERR_FORMAT);
        assert_int_equal(history.timeline, 77);
    }
}

/* What a crash may leave of a file is not the history of a timeline without ancestors. */
static void
test_zeros_are_refused(void **state)
{
    static const char zeros[64];
    TimelineHistory history;
    Error err = ERROR_INIT;

    (void)state;
    assert_false(parse_bytes(zeros, sizeof zeros, 2, &history, &err));
    assert_int_equal(err.code, ERR_FORMAT);
}

/* A file that is cut anywhere is a shorter history or an error, never another history. */
static void
test_cut_anywhere(void **state)
{
    static const char text[] = "1\t0/3000000\tx\n\n2\t0/50000D8\ty\n";
    size_t refused = 0;

    (void)state;
    for (size_t len = 0; len < sizeof text; len++) {
        TimelineHistory history;
        Error err = ERROR_INIT;

        if (!parse_bytes(text, len, 3, &history, &err)) {
            assert_int_equal(err.code, ERR_FORMAT);
            refused++;
            continue;
        }
        assert_true(history.count <= 2);
        if (history.count > 0)
            assert_int_equal(history.forks[0].timeline, 1);
        /* Behind the whole number, what is cut off is only the reason. */
        if (len >= sizeof "1\t0/3000000" - 1)
            assert_fork(&history, 0, 1, 0x3000000);
        timeline_history_free(&history);
    }
    assert_int_equal(refused, 4 + 4); /* "1", "1\t", "1\t0", "1\t0/"; likewise of the second */
}

/* ---- asking ---- */

static void
test_find(void **state)
{
    TimelineHistory history = parse("1\t0/3000000\n4\t0/5000000\n6\t0/5000000\n", 9);
    static const struct {
        TimeLineID timeline;
        bool found;
        Lsn end;
        TimeLineID next;
    } cases[] = {{0, false, 0, 0},         {1, true, 0x3000000, 4}, {2, false, 0, 0},
                 {4, true, 0x5000000, 6},  {5, false, 0, 0},        {6, true, 0x5000000, 9},
                 {8, false, 0, 0},         {9, true, 0, 0},         {10, false, 0, 0},
                 {UINT32_MAX, false, 0, 0}};

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        Lsn end = 0x77;
        TimeLineID next = 77;

        assert_int_equal(timeline_history_find(&history, cases[i].timeline, &end, &next),
                         cases[i].found);
        assert_int_equal(end, cases[i].found ? cases[i].end : 0x77);
        assert_int_equal(next, cases[i].found ? cases[i].next : 77);
    }
    timeline_history_free(&history);
}

static void
test_at(void **state)
{
    /* Timeline 6 ended where it began. */
    TimelineHistory history = parse("1\t0/3000000\n4\t0/5000000\n6\t0/5000000\n", 9);
    static const struct {
        Lsn lsn;
        TimeLineID timeline;
    } cases[] = {{0, 1},         {0x2FFFFFF, 1}, {0x3000000, 4}, {0x3000001, 4},
                 {0x4FFFFFF, 4}, {0x5000000, 9}, {0x5000001, 9}, {UINT64_MAX, 9}};

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++)
        assert_int_equal(timeline_history_at(&history, cases[i].lsn), cases[i].timeline);
    timeline_history_free(&history);
}

static void
test_free_takes_any_state(void **state)
{
    TimelineHistory empty = {.timeline = 5};
    TimelineHistory history = parse("1\t0/5\n", 2);

    (void)state;
    timeline_history_free(NULL);
    timeline_history_free(&empty);
    timeline_history_free(&history);
    assert_null(history.forks);
    timeline_history_free(&history);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_no_ancestors),
        cmocka_unit_test(test_file_of_a_server),
        cmocka_unit_test(test_forms_of_a_line),
        cmocka_unit_test(test_largest_numbers),
        cmocka_unit_test(test_zero_byte_in_a_reason),
        cmocka_unit_test(test_many_timelines),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_zeros_are_refused),
        cmocka_unit_test(test_cut_anywhere),
        cmocka_unit_test(test_find),
        cmocka_unit_test(test_at),
        cmocka_unit_test(test_free_takes_any_state),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
