/*
 * Progress in words: rates, what is left, the lines of -P and the last line of -v.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cmd/progress_text.h"
#include "cmd/terminal_line.h"

#define KB ((uint64_t)1024)
#define MB (KB * 1024)

/* realloc fails at this call, counted from 1; 0: never. */
static int fail_at;

void *__real_realloc(void *old, size_t size);
void *__wrap_realloc(void *old, size_t size);

void *
__wrap_realloc(void *old, size_t size)
{
    if (fail_at > 0 && --fail_at == 0)
        return NULL;
    return __real_realloc(old, size);
}

/* ---- rates ---- */

static void
assert_rate(const Rate *rate, uint64_t expected)
{
    uint64_t found = 0;

    assert_true(rate_get(rate, &found));
    assert_int_equal(found, expected);
}

static void
assert_no_rate(const Rate *rate)
{
    uint64_t found = 4711;

    assert_false(rate_get(rate, &found));
    assert_int_equal(found, 4711);
}

static void
test_rate_needs_a_second(void **state)
{
    Rate rate = {.count = 0};

    (void)state;
    assert_no_rate(&rate);
    rate_add(&rate, 0, 0);
    assert_no_rate(&rate);
    rate_add(&rate, 500, 1000);
    assert_no_rate(&rate);
    rate_add(&rate, 999, 5000);
    assert_no_rate(&rate);
    rate_add(&rate, 1000, 6000);
    assert_rate(&rate, 6000);
}

/* The clock of a backup need not begin at zero, nor what has arrived. */
static void
test_rate_begins_anywhere(void **state)
{
    Rate rate = {.count = 0};

    (void)state;
    rate_add(&rate, 70000, 40000);
    assert_no_rate(&rate);
    rate_add(&rate, 72000, 50000);
    assert_rate(&rate, 5000);
}

static void
test_rate_is_that_of_the_last_seconds(void **state)
{
    Rate rate = {.count = 0};
    uint64_t bytes = 0;

    (void)state;
    for (int64_t second = 0; second <= 60; second++, bytes += 100)
        rate_add(&rate, second * 1000, bytes);
    bytes -= 100;
    assert_rate(&rate, 100);
    /* Ten times as fast: after half a window half way between, after a whole one all of it. */
    for (int64_t second = 61; second <= 65; second++)
        rate_add(&rate, second * 1000, bytes += 1000);
    assert_rate(&rate, (5 * 100 + 5 * 1000) / 10);
    for (int64_t second = 66; second <= 70; second++)
        rate_add(&rate, second * 1000, bytes += 1000);
    assert_rate(&rate, 1000);
}

/* A server that reports rarely: what is older than the window does not count. */
static void
test_rate_of_rare_reports(void **state)
{
    Rate rate = {.count = 0};
    uint64_t bytes = 0;

    (void)state;
    for (int64_t second = 0; second <= 30; second += 5, bytes += 50000)
        rate_add(&rate, second * 1000, bytes);
    bytes -= 50000;
    assert_rate(&rate, 10000);
    rate_add(&rate, 35000, bytes += 500);
    assert_rate(&rate, 5050);
    rate_add(&rate, 40000, bytes += 500);
    assert_rate(&rate, 100);
}

/* One burst in a second does not make the number jump by more than its share of the window. */
static void
test_rate_is_smooth(void **state)
{
    Rate rate = {.count = 0};

    (void)state;
    for (int64_t second = 0; second <= 20; second++)
        rate_add(&rate, second * 1000, (uint64_t)second * 1000);
    assert_rate(&rate, 1000);
    rate_add(&rate, 21000, 20000 + 11000);
    assert_rate(&rate, 2000);
}

/* Each archive that ends is reported at once: a thousand of them in one second are one sample. */
static void
test_bursts_of_reports_keep_the_window(void **state)
{
    Rate rate = {.count = 0};

    (void)state;
    for (int64_t second = 0; second <= 9; second++)
        rate_add(&rate, second * 1000, (uint64_t)second * 100);
    for (int64_t ms = 1; ms <= 999; ms++)
        rate_add(&rate, 9000 + ms, 900 + (uint64_t)ms);
    rate_add(&rate, 10000, 1900);
    assert_rate(&rate, 190);
}

/* Nothing was heard for longer than the window: the rate is that since then. */
static void
test_rate_after_a_silence(void **state)
{
    Rate rate = {.count = 0};

    (void)state;
    for (int64_t second = 0; second <= 30; second++)
        rate_add(&rate, second * 1000, (uint64_t)second * 1000);
    rate_add(&rate, 90000, 30000 + 6000);
    assert_rate(&rate, 100);
    rate_add(&rate, 91000, 36000 + 500);
    assert_rate(&rate, 500);
}

static void
test_rate_of_nothing(void **state)
{
    Rate rate = {.count = 0};

    (void)state;
    for (int64_t second = 0; second <= 5; second++)
        rate_add(&rate, second * 1000, 12345);
    assert_rate(&rate, 0);
}

/* As many bytes as a year brings at 100 GB/s. */
static void
test_rate_of_very_much(void **state)
{
    Rate rate = {.count = 0};
    uint64_t fast = 100000ULL * 1000 * 1000;

    (void)state;
    for (int64_t second = 31536000; second < 31536020; second++)
        rate_add(&rate, second * 1000, (uint64_t)second * fast);
    assert_rate(&rate, fast);
}

/* ---- what is left ---- */

static Rate
steady_rate(uint64_t per_second)
{
    Rate rate = {.count = 0};

    rate_add(&rate, 0, 0);
    rate_add(&rate, 4000, 4 * per_second);
    return rate;
}

static void
test_time_left(void **state)
{
    const Rate rate = steady_rate(1000);
    BackupProgress progress = {.done = 4000, .total = 46000, .elapsed_ms = 4000};
    Speed speed = progress_speed(&rate, &progress);

    (void)state;
    assert_true(speed.known);
    assert_int_equal(speed.rate, 1000);
    assert_true(speed.left_known);
    assert_int_equal(speed.left, 42);
    /* A second that has begun counts. */
    progress.total = 46001;
    assert_int_equal(progress_speed(&rate, &progress).left, 43);
}

static void
test_time_left_is_unknown(void **state)
{
    const Rate none = {.count = 0};
    const Rate still = steady_rate(0);
    const Rate rate = steady_rate(1000);
    const BackupProgress progress = {.done = 4000, .total = 46000};
    const BackupProgress no_total = {.done = 4000};
    const BackupProgress all_there = {.done = 46000, .total = 46000};
    Speed speed = progress_speed(&none, &progress);

    (void)state;
    assert_false(speed.known);
    assert_false(speed.left_known);
    speed = progress_speed(&still, &progress);
    assert_true(speed.known);
    assert_int_equal(speed.rate, 0);
    assert_false(speed.left_known);
    speed = progress_speed(&rate, &no_total);
    assert_true(speed.known);
    assert_false(speed.left_known);
    assert_false(progress_speed(&rate, &all_there).left_known);
}

/* The last report tells of the whole, from the first one on: not of what was waited before it. */
static void
test_speed_of_the_whole(void **state)
{
    const BackupProgress progress = {
        .done = 90000, .total = 100000, .elapsed_ms = 303000, .finished = true};
    Rate rate = {.count = 0};
    Speed speed;

    (void)state;
    rate_add(&rate, 300000, 500);
    for (int64_t ms = 0; ms < 1000; ms += 100)
        rate_add(&rate, 300000 + ms, 500);
    assert_false(progress_speed(&rate, &progress).known);
    for (int64_t second = 1; second <= 60; second++)
        rate_add(&rate, 300000 + second * 1000, 500 + (uint64_t)(second * second) * 1000);
    speed = progress_speed(&rate, &progress);
    assert_true(speed.known);
    assert_int_equal(speed.rate, 60000);
    assert_false(speed.left_known);
}

static void
test_percent(void **state)
{
    const struct {
        BackupProgress progress;
        int percent;
    } cases[] = {
        {{.done = 0, .total = 0}, 0},
        {{.done = 5 * MB, .total = 0}, 0},
        {{.done = 0, .total = MB}, 0},
        {{.done = 52 * KB, .total = 100 * KB}, 52},
        {{.done = 53 * KB - 1, .total = 100 * KB}, 52},
        {{.done = 999 * KB, .total = 1000 * KB}, 99},
        {{.done = 1000 * KB, .total = 1000 * KB}, 100},
        {{.done = 2000 * KB, .total = 1000 * KB}, 100},
        {{.done = 1, .total = 2}, 0},
        {{.done = UINT64_MAX / 2, .total = UINT64_MAX}, 49},
        {{.done = 1, .total = 100 * KB, .finished = true}, 100},
        {{.done = 1, .finished = true}, 100},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        assert_int_equal(progress_percent(&cases[i].progress), cases[i].percent);
}

/* ---- words ---- */

static void
test_speed_in_words(void **state)
{
    const struct {
        uint64_t rate;
        const char *text;
    } cases[] = {
        {0, "0 kB/s"},
        {1023, "0 kB/s"},
        {1024, "1 kB/s"},
        {MB - 1, "1023 kB/s"},
        {MB, "1.0 MB/s"},
        {123941683, "118.2 MB/s"},
        {12345 * MB, "12345.0 MB/s"},
        {UINT64_MAX, "17592186044416.0 MB/s"},
    };
    char text[SPEED_TEXT_SIZE];

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        speed_text(cases[i].rate, text);
        assert_string_equal(text, cases[i].text);
    }
}

static void
test_time_in_words(void **state)
{
    const struct {
        uint64_t seconds;
        const char *text;
    } cases[] = {
        {0, "0:00"},           {9, "0:09"},
        {42, "0:42"},          {59, "0:59"},
        {60, "1:00"},          {3599, "59:59"},
        {3600, "1:00:00"},     {3723, "1:02:03"},
        {360000, "100:00:00"}, {UINT64_MAX, "5124095576030431:00:15"},
    };
    char text[TIME_TEXT_SIZE];

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        time_text(cases[i].seconds, text);
        assert_string_equal(text, cases[i].text);
    }
}

static void
test_columns(void **state)
{
    (void)state;
    assert_int_equal(text_columns(""), 0);
    assert_int_equal(text_columns("abc"), 3);
    assert_int_equal(text_columns("\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80"), 3);
}

/* A character stays whole, or goes. */
static void
test_cut(void **state)
{
    static const struct {
        const char *text;
        size_t columns;
        const char *expected;
    } cases[] = {
        {"abc", 4, "abc"},
        {"abc", 3, "abc"},
        {"abc", 2, "ab"},
        {"abc", 0, ""},
        {"", 5, ""},
        {"\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80", 3, "\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80"},
        {"\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80", 2, "\xc3\xa4\xe2\x82\xac"},
        {"\xc3\xa4\xe2\x82\xac", 1, "\xc3\xa4"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        Buf text = BUF_INIT;
        Error err = ERROR_INIT;

        assert_true(buf_printf(&text, &err, "%s", cases[i].text));
        text_cut(&text, cases[i].columns);
        assert_string_equal(buf_text(&text), cases[i].expected);
        assert_int_equal(text.len, strlen(cases[i].expected));
        buf_free(&text);
    }
}

static void
test_summary_of_a_target(void **state)
{
    const BackupSummary summary = {
        .elsewhere = true, .start = 0x2000028, .end = 0x2000158, .timeline = 3};
    Buf line = BUF_INIT;
    Error err = ERROR_INIT;

    (void)state;
    assert_true(summary_line(&summary, 0, &line, &err));
    assert_string_equal(buf_text(&line),
                        "the backup went to the target, nothing of it came here: write-ahead log "
                        "0/2000028 to 0/2000158 on timeline 3");
    buf_free(&line);
}

/* ---- lines ---- */

static void
assert_line(const BackupProgress *progress, const Speed *speed, bool with_file,
            const char *expected)
{
    Buf line = BUF_INIT;
    Error err = ERROR_INIT;

    assert_true(progress_line(progress, speed, with_file, &line, &err));
    assert_string_equal(buf_text(&line), expected);
    assert_int_equal(line.len, strlen(expected));
    buf_free(&line);
}

static const Speed no_speed = {.known = false};

static void
test_lines_as_the_stock_tool_writes_them(void **state)
{
    BackupProgress progress = {
        .done = 12345 * KB, .total = 23456 * KB, .tablespace_count = 1, .current = "/backup"};

    (void)state;
    assert_line(&progress, &no_speed, false, "12345/23456 kB (52%), 0/1 tablespace");
    assert_line(&progress, &no_speed, true,
                "12345/23456 kB (52%), 0/1 tablespace (/backup                            )");
    progress.done = 45 * KB;
    progress.tablespace_count = 12;
    progress.tablespace = 3;
    assert_line(&progress, &no_speed, false, "   45/23456 kB (0%), 3/12 tablespaces");
    progress.total = 0;
    assert_line(&progress, &no_speed, false, "45/0 kB (0%), 3/12 tablespaces");
    progress.current = NULL;
    progress.finished = true;
    assert_line(&progress, &no_speed, true, "45/0 kB (100%), 3/12 tablespaces");
}

static void
test_speed_comes_last(void **state)
{
    const BackupProgress progress = {
        .done = 12345 * KB, .total = 23456 * KB, .tablespace_count = 1, .current = "/backup"};
    Speed speed = {.known = true, .rate = 123941683, .left_known = true, .left = 42};

    (void)state;
    assert_line(&progress, &speed, false,
                "12345/23456 kB (52%), 0/1 tablespace, 118.2 MB/s, 0:42 left");
    assert_line(&progress, &speed, true,
                "12345/23456 kB (52%), 0/1 tablespace (/backup                            ), "
                "118.2 MB/s, 0:42 left");
    speed.left_known = false;
    assert_line(&progress, &speed, false, "12345/23456 kB (52%), 0/1 tablespace, 118.2 MB/s");
    /* What is left is nothing that could be known without a speed. */
    speed.known = false;
    speed.left_known = true;
    assert_line(&progress, &speed, false, "12345/23456 kB (52%), 0/1 tablespace");
}

static void
assert_file(const char *file, const char *shown)
{
    const BackupProgress progress = {.tablespace_count = 1, .current = file};
    char expected[256];

    (void)snprintf(expected, sizeof expected, "0/0 kB (0%%), 0/1 tablespace (%s)", shown);
    assert_line(&progress, &no_speed, true, expected);
}

static void
test_files_are_cut_in_front(void **state)
{
    (void)state;
    assert_file("", "                                   ");
    assert_file("123456789012345678901234567890123", "123456789012345678901234567890123  ");
    assert_file("12345678901234567890123456789012345", "12345678901234567890123456789012345");
    assert_file("x12345678901234567890123456789012345", "...45678901234567890123456789012345");
    assert_file("/a/very/long/directory/for/the/backup/of/monday",
                "...rectory/for/the/backup/of/monday");
}

/* Characters of several bytes are one column each, and none is cut in two. */
static void
test_files_of_many_bytes(void **state)
{
    char long_name[36 * 2 + 1] = "";
    char cut[3 + 32 * 2 + 1] = "...";

    (void)state;
    assert_file("/\xc3\xa4\xc3\xb6\xc3\xbc",
                "/\xc3\xa4\xc3\xb6\xc3\xbc                               ");
    for (size_t i = 0; i < 36; i++)
        memcpy(long_name + 2 * i, "\xc3\xa4", 3);
    for (size_t i = 0; i < 32; i++)
        memcpy(cut + 3 + 2 * i, "\xc3\xa4", 3);
    assert_file(long_name, cut);
    assert_file(long_name + 2, long_name + 2);
    /* What continues nothing takes no room either. */
    memcpy(long_name, "\x80\x80", 2);
    assert_file(long_name, long_name);
    assert_file("\x80\x80\x80", "\x80\x80\x80                                   ");
}

static void
test_files_cannot_move_the_cursor(void **state)
{
    (void)state;
    assert_file("/a\33[2J\r\nb\x7f", "/a?[2J??b?                         ");
}

static void
test_no_memory_for_a_line(void **state)
{
    const BackupProgress progress = {
        .done = KB, .total = UINT64_MAX, .tablespace_count = 1000000, .current = "/backup/monday"};
    const Speed speed = {.known = true, .rate = MB, .left_known = true, .left = 100000};
    int failures = 0;
    bool ok = false;

    (void)state;
    for (int at = 1; !ok; at++) {
        Buf line = BUF_INIT;
        Error err = ERROR_INIT;

        fail_at = at;
        ok = progress_line(&progress, &speed, true, &line, &err);
        fail_at = 0;
        assert_true(ok || err.code == ERR_MEMORY);
        failures += ok ? 0 : 1;
        buf_free(&line);
    }
    assert_true(failures >= 2);
}

/* ---- the end ---- */

static void
assert_summary(const BackupSummary *summary, int64_t transfer_ms, const char *expected)
{
    Buf line = BUF_INIT;
    Error err = ERROR_INIT;

    assert_true(summary_line(summary, transfer_ms, &line, &err));
    assert_string_equal(buf_text(&line), expected);
    buf_free(&line);
}

static const BackupSummary full = {
    .received = 23456 * KB,
    .wal_received = 16384 * KB,
    .elapsed_ms = 10240,
    .start = 0x2000028,
    .end = 0x1002000158,
    .timeline = 3,
    .manifest_checked = true,
    .files = 970,
    .bytes = 23000 * KB,
    .pages_checked = true,
    .pages = 2900,
    .wal_checked = true,
    .durable = true,
};

static void
test_summary(void **state)
{
    BackupSummary summary = full;

    (void)state;
    assert_summary(&full, 8000,
                   "received 23456 kB and 16384 kB of WAL in 10.2 s (2.9 MB/s), "
                   "write-ahead log 0/2000028 to 10/2000158 on timeline 3; verified: "
                   "970 files against the manifest, 2900 data pages, WAL; on disk");
    summary.elapsed_ms = 3723000;
    summary.durable = false;
    summary.wal_received = 0;
    summary.wal_checked = false;
    summary.bad_pages = 2;
    assert_summary(&summary, 3600000,
                   "received 23456 kB in 1:02:03 (6 kB/s), "
                   "write-ahead log 0/2000028 to 10/2000158 on timeline 3; verified: "
                   "970 files against the manifest, 2900 data pages (2 bad); "
                   "not synced to disk");
}

static void
test_summary_of_what_was_verified(void **state)
{
    const struct {
        bool manifest;
        bool pages;
        bool wal;
        const char *text;
    } cases[] = {
        {false, false, false, "; nothing verified; "},
        {true, false, false, "; verified: 1 file against the manifest; "},
        {false, true, false, "; verified: 1 data page; "},
        {false, false, true, "; verified: WAL; "},
        {true, false, true, "; verified: 1 file against the manifest, WAL; "},
        {false, true, true, "; verified: 1 data page, WAL; "},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const BackupSummary summary = {
            .manifest_checked = cases[i].manifest,
            .files = 1,
            .pages_checked = cases[i].pages,
            .pages = 1,
            .wal_checked = cases[i].wal,
        };
        char expected[256];

        (void)snprintf(expected, sizeof expected,
                       "received 0 kB in 0.0 s, write-ahead log 0/0 to 0/0 on timeline 0%s"
                       "not synced to disk",
                       cases[i].text);
        assert_summary(&summary, 0, expected);
    }
}

static void
test_no_memory_for_a_summary(void **state)
{
    int failures = 0;
    bool ok = false;

    (void)state;
    for (int at = 1; !ok; at++) {
        Buf line = BUF_INIT;
        Error err = ERROR_INIT;

        fail_at = at;
        ok = summary_line(&full, 1000, &line, &err);
        fail_at = 0;
        assert_true(ok || err.code == ERR_MEMORY);
        failures += ok ? 0 : 1;
        buf_free(&line);
    }
    assert_true(failures >= 2);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cut),
        cmocka_unit_test(test_summary_of_a_target),
        cmocka_unit_test(test_rate_needs_a_second),
        cmocka_unit_test(test_rate_begins_anywhere),
        cmocka_unit_test(test_rate_is_that_of_the_last_seconds),
        cmocka_unit_test(test_rate_of_rare_reports),
        cmocka_unit_test(test_rate_is_smooth),
        cmocka_unit_test(test_bursts_of_reports_keep_the_window),
        cmocka_unit_test(test_rate_after_a_silence),
        cmocka_unit_test(test_rate_of_nothing),
        cmocka_unit_test(test_rate_of_very_much),
        cmocka_unit_test(test_time_left),
        cmocka_unit_test(test_time_left_is_unknown),
        cmocka_unit_test(test_speed_of_the_whole),
        cmocka_unit_test(test_percent),
        cmocka_unit_test(test_speed_in_words),
        cmocka_unit_test(test_time_in_words),
        cmocka_unit_test(test_columns),
        cmocka_unit_test(test_lines_as_the_stock_tool_writes_them),
        cmocka_unit_test(test_speed_comes_last),
        cmocka_unit_test(test_files_are_cut_in_front),
        cmocka_unit_test(test_files_of_many_bytes),
        cmocka_unit_test(test_files_cannot_move_the_cursor),
        cmocka_unit_test(test_no_memory_for_a_line),
        cmocka_unit_test(test_summary),
        cmocka_unit_test(test_summary_of_what_was_verified),
        cmocka_unit_test(test_no_memory_for_a_summary),
    };

    return cmocka_run_group_tests_name("progress_text", tests, NULL, NULL);
}
