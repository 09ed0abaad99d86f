/*
 * A file that has changed, against backup_pages: which pages, however the bytes come.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/crc32c.h"
#include "support/problem_log.h"
#include "support/temp_dir.h"
#include "verify/internal.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

#define PAGE  ((size_t)1024)
#define PAGES ((size_t)5000) /* more than one batch of CRCs */
#define SIZE  (PAGES * PAGE - 1000)

typedef struct Fixture {
    TempDir dir;
    uint8_t *data; /* of base/5/1, SIZE bytes; the last page has 24 */
    PageDigests *digests;
    PageCompare *compare;
    ProblemLog log;
    ProblemSink sink;
    Reporter reporter;
    Error err;
} Fixture;

static void
add_file(Fixture *f, PageDigestWriter *writer, const char *path, size_t size)
{
    assert_true(page_digest_writer_begin(writer, path, size, &f->err));
    for (size_t at = 0; at < size; at += PAGE) {
        size_t len = size - at < PAGE ? size - at : PAGE;

        assert_true(page_digest_writer_add(writer, crc32c(0, f->data + at, len), &f->err));
    }
}

static void
make_digests(Fixture *f)
{
    const char *path = temp_dir_path(&f->dir, PAGE_DIGESTS_NAME);
    PageDigestWriter *writer = page_digest_writer_new(path, 0600, PAGE, &f->err);

    assert_non_null(writer);
    add_file(f, writer, "base/5/empty", 0);
    add_file(f, writer, "base/5/1", SIZE);
    add_file(f, writer, "base/5/two", 2 * PAGE);
    assert_true(page_digest_writer_finish(writer, false, &f->err));
    page_digest_writer_free(writer);
    f->digests = page_digests_open(path, &f->err);
    assert_non_null(f->digests);
}

static int
set_up(void **state)
{
    Fixture *f = calloc(1, sizeof *f);

    if (f == NULL)
        return -1;
    temp_dir_make(&f->dir);
    f->data = malloc(SIZE);
    for (size_t at = 0; at < SIZE; at++)
        f->data[at] = (uint8_t)(at * 7 + at / PAGE);
    make_digests(f);
    f->compare = page_compare_new(f->digests, &f->err);
    assert_non_null(f->compare);
    f->sink = problem_log_sink(&f->log);
    f->reporter = REPORTER_INIT(&f->sink);
    *state = f;
    return 0;
}

static int
tear_down(void **state)
{
    Fixture *f = *state;

    page_compare_free(f->compare);
    page_digests_close(f->digests);
    reporter_free(&f->reporter);
    problem_log_free(&f->log);
    temp_dir_remove(&f->dir);
    free(f->data);
    free(f);
    return 0;
}

static void
feed(Fixture *f, size_t len, size_t piece)
{
    for (size_t at = 0; at < len; at += piece) {
        Span data = {.data = f->data + at, .len = len - at < piece ? len - at : piece};

        assert_true(page_compare_feed(f->compare, data, &f->err));
    }
}

static void
begin_log(Fixture *f, uint64_t limit)
{
    problem_log_free(&f->log);
    f->log = (ProblemLog){.text = BUF_INIT, .limit = limit};
    f->reporter.count = 0;
    f->reporter.enough = false;
}

/* What is reported of base/5/1 as it is now. */
static const char *
changes(Fixture *f, size_t piece)
{
    begin_log(f, 0);
    assert_true(page_compare_begin(f->compare, "base/5/1", SIZE));
    feed(f, SIZE, piece);
    assert_true(page_compare_report(f->compare, &f->reporter, &f->err));
    assert_int_equal(f->reporter.count, f->log.count);
    return problem_log_text(&f->log);
}

/* ---- tests ---- */

static void
test_nothing_has_changed(void **state)
{
    Fixture *f = *state;

    assert_string_equal(changes(f, SIZE), "");
    assert_string_equal(changes(f, 4096), "");
    assert_true(page_compare_begin(f->compare, "base/5/empty", 0));
    assert_true(page_compare_report(f->compare, &f->reporter, &f->err));
    assert_int_equal(f->log.count, 0);
}

static void
test_other_files(void **state)
{
    Fixture *f = *state;

    f->data[0] ^= 1;
    (void)changes(f, SIZE);
    begin_log(f, 0);
    assert_false(page_compare_begin(f->compare, "base/5/2", SIZE));
    /* Nothing of the file before is told of one that is not there. */
    assert_true(page_compare_report(f->compare, &f->reporter, &f->err));
    assert_int_equal(f->log.count, 0);
    assert_false(page_compare_begin(f->compare, "base/5/1", SIZE - 1));
    assert_false(page_compare_begin(f->compare, "base/5/1", SIZE + 1));
    assert_false(page_compare_begin(f->compare, "base/5/1", 0));
}

/* The first, one in the middle with a CRC of the next batch, and the short one at the end. */
static void
test_pages_are_named(void **state)
{
    static const size_t pieces[] = {1, 100, 1023, 1024, 1025, 100000, SIZE};
    Fixture *f = *state;
    Buf expected = BUF_INIT;
    const size_t pages[] = {0, 3000, PAGES - 1};
    const size_t lengths[] = {PAGE, PAGE, 24};
    uint32_t before[3];

    for (size_t i = 0; i < COUNT(pages); i++) {
        uint8_t *page = f->data + pages[i] * PAGE;

        before[i] = crc32c(0, page, lengths[i]);
        page[i == 1 ? PAGE - 1 : 0] ^= 0x10;
        assert_true(buf_printf(&expected, &f->err,
                               "PAGE_CHANGED base/5/1: file \"base/5/1\": page %zu (bytes %zu to "
                               "%zu) has changed: its "
                               "CRC-32C is %08X, but %08X in backup_pages\n",
                               pages[i], pages[i] * PAGE, pages[i] * PAGE + lengths[i] - 1,
                               crc32c(0, page, lengths[i]), before[i]));
    }
    for (size_t i = 0; i < COUNT(pieces); i++)
        assert_string_equal(changes(f, pieces[i]), buf_text(&expected));
    buf_free(&expected);
}

/* ---- what a Problem says ---- */

typedef struct Seen {
    size_t count;
    Problem last;
} Seen;

static bool
see(void *ctx, const Problem *problem)
{
    Seen *seen = ctx;

    seen->count++;
    seen->last = *problem;
    return true;
}

static void
test_fields(void **state)
{
    Fixture *f = *state;
    Seen seen = {.count = 0};
    const ProblemSink sink = {.report = see, .ctx = &seen};
    uint32_t before = crc32c(0, f->data + 17 * PAGE, PAGE);

    f->reporter.sink = &sink;
    f->data[17 * PAGE + 5] = (uint8_t)~f->data[17 * PAGE + 5];
    assert_true(page_compare_begin(f->compare, "base/5/1", SIZE));
    feed(f, SIZE, SIZE);
    assert_true(page_compare_report(f->compare, &f->reporter, &f->err));
    assert_int_equal(seen.count, 1);
    assert_int_equal(seen.last.kind, PROBLEM_PAGE_CHANGED);
    assert_string_equal(seen.last.path, "base/5/1");
    assert_int_equal(seen.last.block, 17);
    assert_true(seen.last.expected == before);
    assert_true(seen.last.found == crc32c(0, f->data + 17 * PAGE, PAGE));

    for (size_t page = 20; page < 30; page++)
        f->data[page * PAGE] ^= 1;
    assert_true(page_compare_begin(f->compare, "base/5/1", SIZE));
    feed(f, SIZE, SIZE);
    assert_true(page_compare_report(f->compare, &f->reporter, &f->err));
    assert_int_equal(seen.count, 1 + PAGE_REPORTS_PER_FILE + 1);
    assert_true(seen.last.block == PROBLEM_WHOLE_FILE);
}

/* ---- how many ---- */

static void
test_the_rest_is_counted(void **state)
{
    Fixture *f = *state;
    const char *text;

    for (size_t page = 0; page < PAGE_REPORTS_PER_FILE; page++)
        f->data[page * 2 * PAGE] ^= 1;
    text = changes(f, SIZE);
    assert_int_equal(f->log.count, PAGE_REPORTS_PER_FILE);
    assert_null(strstr(text, "pages have changed"));

    f->data[SIZE - 1] ^= 1;
    text = changes(f, SIZE);
    assert_int_equal(f->log.count, PAGE_REPORTS_PER_FILE + 1);
    assert_non_null(strstr(text, "page 8 (bytes 8192 to 9215) has changed"));
    assert_null(strstr(text, "page 4999"));
    assert_non_null(strstr(text, "\nPAGE_CHANGED base/5/1: file \"base/5/1\": 6 of 5000 pages have "
                                 "changed, of which the first 5 are reported\n"));

    memset(f->data, 0, SIZE);
    (void)changes(f, SIZE);
    assert_int_equal(f->log.count, PAGE_REPORTS_PER_FILE + 1);
    assert_non_null(strstr(problem_log_text(&f->log), "5000 of 5000 pages have changed"));
}

static void
test_sink_that_has_enough(void **state)
{
    Fixture *f = *state;

    for (size_t page = 0; page < 10; page++)
        f->data[page * PAGE] ^= 1;
    for (uint64_t limit = 1; limit <= PAGE_REPORTS_PER_FILE + 1; limit++) {
        begin_log(f, limit);
        assert_true(page_compare_begin(f->compare, "base/5/1", SIZE));
        feed(f, SIZE, SIZE);
        assert_true(page_compare_report(f->compare, &f->reporter, &f->err));
        assert_int_equal(f->log.count, limit);
        assert_true(f->reporter.enough);
    }
}

/* One that is cut off or grows while it is read: what came is compared. */
static void
test_other_lengths_than_announced(void **state)
{
    Fixture *f = *state;

    f->data[0] ^= 1;
    f->data[2 * PAGE] ^= 1;
    begin_log(f, 0);
    assert_true(page_compare_begin(f->compare, "base/5/1", SIZE));
    feed(f, 2 * PAGE + 1, 700);
    assert_true(page_compare_report(f->compare, &f->reporter, &f->err));
    assert_int_equal(f->log.count, 1);

    begin_log(f, 0);
    assert_true(page_compare_begin(f->compare, "base/5/two", 2 * PAGE));
    feed(f, 3 * PAGE, 700);
    assert_true(page_compare_report(f->compare, &f->reporter, &f->err));
    assert_int_equal(f->log.count, 1);
    assert_non_null(strstr(problem_log_text(&f->log), "page 0 (bytes 0 to 1023)"));
}

static void
test_digests_that_cannot_be_read(void **state)
{
    Fixture *f = *state;
    Span page = {.data = f->data, .len = PAGE};

    assert_int_equal(truncate(temp_dir_path(&f->dir, PAGE_DIGESTS_NAME), 20), 0);
    assert_true(page_compare_begin(f->compare, "base/5/1", SIZE));
    assert_false(page_compare_feed(f->compare, page, &f->err));
    assert_int_equal(f->err.code, ERR_FORMAT);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, set_up, tear_down)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_nothing_has_changed),
        TEST(test_other_files),
        TEST(test_pages_are_named),
        TEST(test_fields),
        TEST(test_the_rest_is_counted),
        TEST(test_sink_that_has_enough),
        TEST(test_other_lengths_than_announced),
        TEST(test_digests_that_cannot_be_read),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
