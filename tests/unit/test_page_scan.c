/*
 * page_scan: which pages of a file are looked at when it comes in ranges, what is found in them,
 * and how that reads. What page_check does with it is in test_page_check.c.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "pgformat/incremental.h"
#include "pgformat/page.h"
#include "support/problem_log.h"
#include "verify/internal.h"

#define PAGE    1024u
#define SEGMENT 64u
#define START   ((Lsn)0x200000028)

static const PageRules rules = {.page_size = PAGE, .segment_pages = SEGMENT, .start = START};

/* ---- pages ---- */

static void
set_le16(uint8_t *at, uint16_t value)
{
    at[0] = (uint8_t)value;
    at[1] = (uint8_t)(value >> 8);
}

static void
set_le32(uint8_t *at, uint32_t value)
{
    set_le16(at, (uint16_t)value);
    set_le16(at + 2, (uint16_t)(value >> 16));
}

static void
page_make(uint8_t *page, uint32_t block, Lsn lsn)
{
    memset(page, (int)(block * 7 + 1), PAGE);
    set_le32(page, (uint32_t)(lsn >> 32));
    set_le32(page + 4, (uint32_t)lsn);
    set_le16(page + 14, PAGE);
    set_le16(page + 8, page_checksum(page, PAGE, block));
}

/* Good ones; the caller frees them. */
static uint8_t *
pages_make(uint32_t first, uint32_t count)
{
    uint8_t *pages = malloc((size_t)count * PAGE);

    for (uint32_t i = 0; i < count; i++)
        page_make(pages + (size_t)i * PAGE, first + i, 0x100000000 + i);
    return pages;
}

static void
spoil(uint8_t *pages, uint32_t index)
{
    set_le16(pages + (size_t)index * PAGE + 8, 0); /* which no checksum is */
}

/* ---- a scan ---- */

static PageScan *
scan_new(const PageRules *of)
{
    Error err = ERROR_INIT;
    PageScan *scan = page_scan_new(of, &err);

    assert_non_null(scan);
    return scan;
}

static void
feed(PageScan *scan, const uint8_t *bytes, size_t len, size_t piece)
{
    Error err = ERROR_INIT;

    for (size_t at = 0; at < len; at += piece) {
        size_t part = len - at < piece ? len - at : piece;

        assert_true(page_scan_feed(scan, (Span){bytes + at, part}, &err));
    }
}

/* From `offset` up to `end` of a file that lies in `bytes`. */
static PageFindings
scan_range(PageScan *scan, const uint8_t *bytes, uint64_t size, uint64_t offset, uint64_t end)
{
    PageFindings found;

    memset(&found, 0xEE, sizeof found); /* what was there does not matter */
    assert_true(page_scan_begin(scan, "base/5/16384", 0, size, offset));
    feed(scan, bytes + offset, (size_t)(end - offset), 4 * PAGE);
    page_scan_end(scan, &found);
    return found;
}

static void
assert_tally(const PageFindings *found, uint64_t checked, uint64_t bad)
{
    assert_int_equal(found->tally.checked, checked);
    assert_int_equal(found->tally.bad, bad);
}

/* As it is reported; the text lives until the next call. */
static const char *
lines_of(const PageFindings *found, uint64_t limit)
{
    static ProblemLog log;
    ProblemSink sink = problem_log_sink(&log);
    Reporter reporter = REPORTER_INIT(&sink);
    Error err = ERROR_INIT;

    problem_log_free(&log);
    log = PROBLEM_LOG_INIT;
    log.limit = limit;
    assert_true(report_pages(&reporter, "f", found, &err));
    assert_int_equal(reporter.count, log.count);
    reporter_free(&reporter);
    return problem_log_text(&log);
}

static void
lines_free(void)
{
    const PageFindings none = {.header = ""};

    assert_string_equal(lines_of(&none, 0), "");
}

/* ---- ranges ---- */

static bool
findings_equal(const PageFindings *a, const PageFindings *b)
{
    uint64_t first = a->tally.bad < PAGE_REPORTS_PER_FILE ? a->tally.bad : PAGE_REPORTS_PER_FILE;

    if (a->tally.checked != b->tally.checked || a->tally.bad != b->tally.bad ||
        strcmp(a->header, b->header) != 0)
        return false;
    for (uint64_t i = 0; i < first; i++) {
        if (a->first[i].block != b->first[i].block ||
            a->first[i].expected != b->first[i].expected || a->first[i].found != b->first[i].found)
            return false;
    }
    return true;
}

/* However a file is cut, the ranges' findings put together are those of the whole. */
static void
test_ranges_are_the_whole(void **state)
{
    static const uint32_t bad_counts[] = {0, 1, 4, 5, 6, 11, 20};
    const uint64_t size = (uint64_t)20 * PAGE;
    PageScan *scan = scan_new(&rules);

    (void)state;
    for (size_t b = 0; b < sizeof bad_counts / sizeof bad_counts[0]; b++) {
        uint8_t *pages = pages_make(0, 20);
        PageFindings whole;

        for (uint32_t i = 0; i < bad_counts[b]; i++)
            spoil(pages, (i * 7) % 20);
        whole = scan_range(scan, pages, size, 0, size);
        assert_tally(&whole, 20, bad_counts[b]);
        for (uint64_t step = PAGE; step <= size; step += PAGE) {
            PageFindings sum = {.header = ""};

            for (uint64_t at = 0; at < size; at += step) {
                uint64_t end = size - at > step ? at + step : size;
                PageFindings part = scan_range(scan, pages, size, at, end);

                page_findings_add(&sum, &part);
            }
            assert_true(findings_equal(&sum, &whole));
        }
        free(pages);
    }
    page_scan_free(scan);
}

static void
test_range_of_a_later_segment(void **state)
{
    const uint64_t size = (uint64_t)8 * PAGE;
    uint8_t *pages = pages_make(3 * SEGMENT, 8);
    PageScan *scan = scan_new(&rules);
    PageFindings found;

    (void)state;
    spoil(pages, 6);
    assert_true(page_scan_begin(scan, "base/5/16384.3", 0, size, (uint64_t)4 * PAGE));
    feed(scan, pages + 4 * (size_t)PAGE, 4 * (size_t)PAGE, PAGE);
    page_scan_end(scan, &found);
    assert_tally(&found, 4, 1);
    assert_int_equal(found.first[0].block, 3 * SEGMENT + 6);
    assert_int_equal(found.first[0].found, 0);
    free(pages);
    page_scan_free(scan);
}

/* Bytes beyond the size that was announced, and a range that ends early. */
static void
test_more_and_less_than_announced(void **state)
{
    uint8_t *pages = pages_make(0, 8);
    PageScan *scan = scan_new(&rules);
    PageFindings found;

    (void)state;
    spoil(pages, 5);
    assert_true(page_scan_begin(scan, "base/5/16384", 0, 4 * (uint64_t)PAGE, 0));
    feed(scan, pages, 8 * (size_t)PAGE, 1000);
    page_scan_end(scan, &found);
    assert_tally(&found, 4, 0);

    assert_true(page_scan_begin(scan, "base/5/16384", 0, 8 * (uint64_t)PAGE, 0));
    feed(scan, pages, 6 * (size_t)PAGE + 10, 1000);
    page_scan_end(scan, &found);
    assert_tally(&found, 6, 1);

    /* What was left of that is no part of the next one. */
    found = scan_range(scan, pages, 8 * (uint64_t)PAGE, 0, 2 * (uint64_t)PAGE);
    assert_tally(&found, 2, 0);
    free(pages);
    page_scan_free(scan);
}

/* ---- pieces ---- */

static void
test_pieces_do_not_matter(void **state)
{
    static const size_t pieces[] = {1, 7, PAGE - 1, PAGE, PAGE + 1, 3000, 100000};
    uint8_t *pages = pages_make(0, 9);
    PageScan *scan = scan_new(&rules);
    PageFindings whole;

    (void)state;
    spoil(pages, 0);
    spoil(pages, 8);
    whole = scan_range(scan, pages, 9 * (uint64_t)PAGE, 0, 9 * (uint64_t)PAGE);
    assert_tally(&whole, 9, 2);
    for (size_t i = 0; i < sizeof pieces / sizeof pieces[0]; i++) {
        PageFindings found;

        assert_true(page_scan_begin(scan, "global/1262", 0, 9 * (uint64_t)PAGE, 0));
        feed(scan, pages, 9 * (size_t)PAGE, pieces[i]);
        page_scan_end(scan, &found);
        assert_true(findings_equal(&found, &whole));
    }
    free(pages);
    page_scan_free(scan);
}

/* ---- which files ---- */

static void
test_files_without_pages(void **state)
{
    PageScan *scan = scan_new(&rules);

    (void)state;
    assert_false(page_scan_begin(scan, "PG_VERSION", 0, PAGE, 0));
    assert_false(page_scan_begin(scan, "global/pg_control", 0, PAGE, 0));
    assert_false(page_scan_begin(scan, "base/5/16384", 0, PAGE + 1, 0));
    assert_false(page_scan_begin(scan, "PG_18_1/5/16384", 0, PAGE, 0));
    assert_true(page_scan_begin(scan, "PG_18_1/5/16384", 7, PAGE, 0));
    assert_true(page_scan_begin(scan, "base/5/INCREMENTAL.16384", 0, PAGE + 1, 0));
    page_scan_free(scan);
}

/* By its segment, a file has pages whatever its name and size are. */
static void
test_segment(void **state)
{
    uint8_t *pages = pages_make(2 * SEGMENT, 3);
    PageScan *scan = scan_new(&rules);
    PageFindings found;

    (void)state;
    page_scan_begin_segment(scan, 2, 3 * (uint64_t)PAGE + 5, 0);
    feed(scan, pages, 3 * (size_t)PAGE, 5000);
    page_scan_end(scan, &found);
    assert_tally(&found, 3, 0);
    page_scan_begin_segment(scan, 1, 3 * (uint64_t)PAGE, PAGE);
    feed(scan, pages + PAGE, 2 * (size_t)PAGE, 5000);
    page_scan_end(scan, &found);
    assert_tally(&found, 2, 2);
    assert_int_equal(found.first[0].block, SEGMENT + 1);
    free(pages);
    page_scan_free(scan);
}

/* ---- the start ---- */

static void
test_pages_that_are_newer(void **state)
{
    static const struct {
        Lsn start;
        Lsn lsn;
        uint64_t checked;
    } cases[] = {{START, START - 1, 1}, {START, START, 0},
                 {START, LSN_MAX, 0},   {0, 0, 0},
                 {LSN_MAX, LSN_MAX, 1}, {LSN_MAX, LSN_MAX - 1, 1},
                 {LSN_MAX - 1, 5, 1},   {LSN_MAX - 1, LSN_MAX, 0}};

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const PageRules of = {.page_size = PAGE, .segment_pages = SEGMENT, .start = cases[i].start};
        PageScan *scan = scan_new(&of);
        uint8_t page[PAGE];
        PageFindings found;

        page_make(page, 0, cases[i].lsn);
        spoil(page, 0);
        found = scan_range(scan, page, PAGE, 0, PAGE);
        assert_tally(&found, cases[i].checked, cases[i].checked);
        page_scan_free(scan);
    }
}

/* ---- incremental files ---- */

static void
test_incremental_header(void **state)
{
    uint8_t bytes[3 * PAGE] = {0};
    PageScan *scan = scan_new(&rules);
    PageFindings found;

    (void)state;
    set_le32(bytes, INCREMENTAL_MAGIC);
    set_le32(bytes + 4, 2);
    set_le32(bytes + 8, 9);
    set_le32(bytes + 12, 3);
    set_le32(bytes + 16, 8);
    page_make(bytes + PAGE, SEGMENT + 3, 1);
    page_make(bytes + 2 * PAGE, SEGMENT + 8, 1);
    assert_true(page_scan_begin(scan, "base/5/INCREMENTAL.7.1", 0, sizeof bytes, 0));
    feed(scan, bytes, sizeof bytes, 100);
    page_scan_end(scan, &found);
    assert_tally(&found, 2, 0);
    assert_string_equal(found.header, "");

    /* A header that asks for another size; nothing of the file is looked at. */
    assert_true(page_scan_begin(scan, "base/5/INCREMENTAL.7.1", 0, 2 * (uint64_t)PAGE, 0));
    feed(scan, bytes, 2 * (size_t)PAGE, 100);
    page_scan_end(scan, &found);
    assert_tally(&found, 0, 1);
    assert_string_equal(lines_of(&found, 0), "PAGE f: page verification failed: f: size is 2048, "
                                             "but its header asks for 3072\n");

    bytes[0] ^= 1;
    assert_true(page_scan_begin(scan, "base/5/INCREMENTAL.7.1", 0, sizeof bytes, 0));
    feed(scan, bytes, sizeof bytes, sizeof bytes);
    page_scan_end(scan, &found);
    assert_tally(&found, 0, 1);
    assert_string_equal(lines_of(&found, 0), "PAGE f: page verification failed: f: magic number is "
                                             "D3AE1F0C, expected D3AE1F0D\n");

    assert_true(page_scan_begin(scan, "base/5/INCREMENTAL.7.1", 0, sizeof bytes, 0));
    page_scan_end(scan, &found);
    assert_tally(&found, 0, 1);
    assert_string_equal(lines_of(&found, 0),
                        "PAGE f: page verification failed: f: file ends within its header\n");
    lines_free();
    page_scan_free(scan);
}

/* ---- what is said ---- */

static PageFindings
findings_of(uint64_t bad)
{
    PageFindings found = {.tally = {.checked = 100, .bad = bad}};

    for (uint32_t i = 0; i < PAGE_REPORTS_PER_FILE; i++)
        found.first[i] = (BadPage){.block = 10 + i, .expected = 0xAB, .found = (uint16_t)i};
    return found;
}

static void
test_lines(void **state)
{
    PageFindings found = findings_of(0);

    (void)state;
    assert_string_equal(lines_of(&found, 0), "");
    found = findings_of(1);
    assert_string_equal(lines_of(&found, 0), "PAGE f: page verification failed: f block 10: "
                                             "calculated checksum AB but found 0\n");
    found = findings_of(2);
    assert_string_equal(lines_of(&found, 0),
                        "PAGE f: page verification failed: f block 10: calculated checksum AB but "
                        "found 0\n"
                        "PAGE f: page verification failed: f block 11: calculated checksum AB but "
                        "found 1\n"
                        "PAGE f: page verification failed: f: 2 of 100 checked pages are bad\n");
    found = findings_of(6);
    assert_non_null(
        strstr(lines_of(&found, 0),
               "f block 14: calculated checksum AB but found 4\n"
               "PAGE f: page verification failed: f: further bad pages of this file "
               "are not reported\n"
               "PAGE f: page verification failed: f: 6 of 100 checked pages are bad\n"));
    lines_free();
}

/* As many lines as are wanted, and no more. */
static void
test_lines_end_when_it_is_enough(void **state)
{
    const PageFindings found = findings_of(9);

    (void)state;
    for (uint64_t limit = 1; limit <= 7; limit++) {
        const char *text = lines_of(&found, limit);
        uint64_t lines = 0;

        for (; *text != '\0'; text++)
            lines += *text == '\n';
        assert_int_equal(lines, limit);
    }
    lines_free();
}

/* ---- the object ---- */

static void
test_rules_that_make_no_sense(void **state)
{
    static const PageRules bad[] = {{.page_size = 0, .segment_pages = 1},
                                    {.page_size = 1000, .segment_pages = 1},
                                    {.page_size = 65536, .segment_pages = 1},
                                    {.page_size = 8192, .segment_pages = 0}};

    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        Error err = ERROR_INIT;

        assert_null(page_scan_new(&bad[i], &err));
        assert_int_equal(err.code, ERR_BUG);
    }
    page_scan_free(NULL);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ranges_are_the_whole),
        cmocka_unit_test(test_range_of_a_later_segment),
        cmocka_unit_test(test_more_and_less_than_announced),
        cmocka_unit_test(test_pieces_do_not_matter),
        cmocka_unit_test(test_files_without_pages),
        cmocka_unit_test(test_segment),
        cmocka_unit_test(test_pages_that_are_newer),
        cmocka_unit_test(test_incremental_header),
        cmocka_unit_test(test_lines),
        cmocka_unit_test(test_lines_end_when_it_is_enough),
        cmocka_unit_test(test_rules_that_make_no_sense),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
