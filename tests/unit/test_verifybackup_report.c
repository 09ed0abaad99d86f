/*
 * What a verification comes to: the JSON document, whole and in pieces, and the lines in words. The
 * document goes through the tokenizer of the manifest too, which takes what RFC 8259 allows and
 * nothing else.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cmd/problem_kind.h"
#include "cmd/verifybackup_report.h"
#include "manifest/internal.h"

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

/* ---- documents ---- */

static const ReportHead head = {.version = "1.2.3", .directory = "/backup", .target = TARGET_PLAIN};

#define HEAD_TEXT                                                                                  \
    "{\"version\":1,\"pgstow_version\":\"1.2.3\",\"directory\":\"/backup\",\"format\":\"plain\","  \
    "\"problems\":[\n"

#define EMPTY_SUMMARY_TEXT                                                                         \
    "\"summary\":{\"files\":0,\"bytes\":0,\"pages\":0,\"bad_pages\":0,\"has_pages\":false,"        \
    "\"wal_bytes\":0,\"page_digests\":false,\"elapsed_ms\":0}"

static bool
take(void *ctx, JsonToken token, const char *text, Error *err)
{
    (void)ctx;
    (void)token;
    (void)text;
    (void)err;
    return true;
}

static void
assert_is_json(const char *text)
{
    JsonParser *parser = malloc(sizeof *parser);
    Error err = ERROR_INIT;

    assert_non_null(parser);
    json_init(parser, take, NULL);
    if (!json_feed(parser, span_of(text), &err) || !json_finish(parser, &err))
        fail_msg("%s: %s", err.message, text);
    free(parser);
}

static bool
make_document(const ReportHead *begin, const Problem *problems, const ReportEnd *end, Buf *buf,
              Error *err)
{
    JsonLine report;

    if (!report_json_begin(&report, begin, buf, err))
        return false;
    for (uint64_t i = 0; i < end->problems; i++) {
        if (!report_json_problem(&report, &problems[i]))
            return false;
    }
    return report_json_end(&report, end);
}

static void
assert_document(const ReportHead *begin, const Problem *problems, const ReportEnd *end,
                const char *expected)
{
    Buf buf = BUF_INIT;
    Error err = ERROR_INIT;

    assert_true(make_document(begin, problems, end, &buf, &err));
    assert_string_equal(buf_text(&buf), expected);
    assert_is_json(buf_text(&buf));
    buf_free(&buf);
}

static void
test_verified(void **state)
{
    const VerifySummary summary = {.files = 970,
                                   .bytes = UINT64_MAX,
                                   .has_pages = true,
                                   .pages = 2790,
                                   .wal_bytes = 304,
                                   .page_digests = true};
    const ReportEnd end = {.summary = &summary, .elapsed_ms = 612};

    (void)state;
    assert_document(&head, NULL, &end,
                    HEAD_TEXT
                    "],\"summary\":{\"files\":970,\"bytes\":18446744073709551615,\"pages\":2790,"
                    "\"bad_pages\":0,\"has_pages\":true,\"wal_bytes\":304,\"page_digests\":true,"
                    "\"elapsed_ms\":612},\"error\":null,\"hint\":null,\"problem_count\":0,"
                    "\"result\":\"verified\"}\n");
}

static void
test_damaged(void **state)
{
    const VerifySummary summary = {.files = 0};
    const Problem problems[] = {
        {.kind = PROBLEM_MISSING, .path = "a", .message = "\"a\" is gone"},
        {.kind = PROBLEM_PAGE,
         .path = "base/1/2",
         .message = "m",
         .block = 7,
         .expected = 1,
         .found = 2},
    };
    const ReportEnd end = {.summary = &summary, .problems = 2};

    (void)state;
    assert_document(&head, problems, &end,
                    HEAD_TEXT
                    "{\"kind\":\"missing\",\"path\":\"a\",\"message\":\"\\\"a\\\" is gone\","
                    "\"block\":null,\"lsn\":null,\"expected\":null,\"found\":null}\n"
                    ",{\"kind\":\"page\",\"path\":\"base/1/2\",\"message\":\"m\","
                    "\"block\":7,\"lsn\":null,\"expected\":1,\"found\":2}\n"
                    "]," EMPTY_SUMMARY_TEXT ",\"error\":null,\"hint\":null,\"problem_count\":2,"
                    "\"result\":\"damaged\"}\n");
}

/* What was found before is still in it, but what was looked at is not known. */
static void
test_failed(void **state)
{
    const Problem problem = {.kind = PROBLEM_EXTRA, .path = "x", .message = "m"};
    Error failure = {.code = ERR_FORMAT, .message = "could not parse \"m\""};
    ReportEnd end = {.failure = &failure, .problems = 1};

    (void)state;
    assert_document(&head, &problem, &end,
                    HEAD_TEXT "{\"kind\":\"extra\",\"path\":\"x\",\"message\":\"m\",\"block\":null,"
                              "\"lsn\":null,\"expected\":null,\"found\":null}\n"
                              "],\"summary\":null,\"error\":\"could not parse \\\"m\\\"\","
                              "\"hint\":null,\"problem_count\":1,\"result\":\"error\"}\n");
    failure = (Error){.code = ERR_SYSTEM, .message = "no", .hint = "Look \xff there."};
    end.problems = 0;
    assert_document(&head, NULL, &end,
                    HEAD_TEXT "],\"summary\":null,\"error\":\"no\","
                              "\"hint\":\"Look \\ufffd there.\",\"problem_count\":0,"
                              "\"result\":\"error\"}\n");
}

static void
test_formats(void **state)
{
    const struct {
        VerifyTarget target;
        const char *value;
    } targets[] = {{TARGET_AS_FOUND, "\"format\":null,"},
                   {TARGET_PLAIN, "\"format\":\"plain\","},
                   {TARGET_TAR, "\"format\":\"tar\","},
                   {TARGET_CLUSTER, "\"format\":\"cluster\","}};

    (void)state;
    for (size_t i = 0; i < sizeof targets / sizeof targets[0]; i++) {
        const ReportHead begin = {.version = "1", .directory = "d", .target = targets[i].target};
        JsonLine report;
        Buf buf = BUF_INIT;
        Error err = ERROR_INIT;

        assert_true(report_json_begin(&report, &begin, &buf, &err));
        assert_non_null(strstr(buf_text(&buf), targets[i].value));
        buf_free(&buf);
    }
}

static void
test_directory_that_is_no_utf8(void **state)
{
    const VerifySummary summary = {.files = 0};
    const ReportHead begin = {.version = "1", .directory = "/b\xff", .target = TARGET_TAR};
    const ReportEnd end = {.summary = &summary};

    (void)state;
    assert_document(&begin, NULL, &end,
                    "{\"version\":1,\"pgstow_version\":\"1\",\"directory\":\"/b\\ufffd\","
                    "\"directory_hex\":\"2f62ff\",\"format\":\"tar\",\"problems\":[\n"
                    "]," EMPTY_SUMMARY_TEXT ",\"error\":null,\"hint\":null,\"problem_count\":0,"
                    "\"result\":\"verified\"}\n");
}

/* ---- problems ---- */

/* The object of one problem. */
static void
assert_problem(const Problem *problem, const char *expected)
{
    JsonLine report;
    Buf buf = BUF_INIT;
    Error err = ERROR_INIT;

    assert_true(report_json_begin(&report, &head, &buf, &err));
    buf_clear(&buf);
    assert_true(report_json_problem(&report, problem));
    assert_string_equal(buf_text(&buf), expected);
    assert_is_json(buf_text(&buf));
    buf_free(&buf);
}

static void
test_kinds(void **state)
{
    const char *const names[] = {
        [PROBLEM_MISSING] = "missing",
        [PROBLEM_EXTRA] = "extra",
        [PROBLEM_SIZE] = "size",
        [PROBLEM_CHECKSUM] = "checksum",
        [PROBLEM_UNREADABLE] = "unreadable",
        [PROBLEM_FILE_TYPE] = "file_type",
        [PROBLEM_SYSTEM_ID] = "system_identifier",
        [PROBLEM_CONTROL] = "control_file",
        [PROBLEM_PAGE] = "page",
        [PROBLEM_PAGE_CHANGED] = "page_changed",
        [PROBLEM_WAL] = "wal",
        [PROBLEM_DIRECTORY] = "missing_directory",
        [PROBLEM_PAGE_DIGESTS] = "page_digests",
    };

    (void)state;
    for (size_t kind = 0; kind < sizeof names / sizeof names[0]; kind++)
        assert_string_equal(problem_kind_name((ProblemKind)kind), names[kind]);
}

static void
test_size(void **state)
{
    Problem problem = {
        .kind = PROBLEM_SIZE, .path = "f", .message = "m", .expected = UINT64_MAX, .found = 0};

    (void)state;
    assert_problem(&problem, "{\"kind\":\"size\",\"path\":\"f\",\"message\":\"m\",\"block\":null,"
                             "\"lsn\":null,\"expected\":18446744073709551615,\"found\":0}\n");
    /* What is the same is no difference: nobody has said what it is. */
    problem.expected = 0;
    assert_problem(&problem, "{\"kind\":\"size\",\"path\":\"f\",\"message\":\"m\",\"block\":null,"
                             "\"lsn\":null,\"expected\":null,\"found\":null}\n");
}

static void
test_checksum(void **state)
{
    const uint8_t bytes[] = {0x00, 0x0A, 0xFF, 0x80};
    Problem problem = {.kind = PROBLEM_CHECKSUM,
                       .path = "f",
                       .message = "m",
                       .expected_digest = {.data = bytes, .len = 4},
                       .found_digest = {.data = bytes + 2, .len = 2}};

    (void)state;
    assert_problem(&problem,
                   "{\"kind\":\"checksum\",\"path\":\"f\",\"message\":\"m\",\"block\":null,"
                   "\"lsn\":null,\"expected\":\"000aff80\",\"found\":\"ff80\"}\n");
    problem.found_digest.len = 0;
    assert_problem(&problem,
                   "{\"kind\":\"checksum\",\"path\":\"f\",\"message\":\"m\",\"block\":null,"
                   "\"lsn\":null,\"expected\":\"000aff80\",\"found\":null}\n");
}

static void
test_page(void **state)
{
    Problem problem = {.kind = PROBLEM_PAGE,
                       .path = "f",
                       .message = "m",
                       .block = PROBLEM_WHOLE_FILE - 1,
                       .expected = 0xFFFFFFFF,
                       .found = 0};

    (void)state;
    assert_problem(&problem,
                   "{\"kind\":\"page\",\"path\":\"f\",\"message\":\"m\",\"block\":4294967294,"
                   "\"lsn\":null,\"expected\":4294967295,\"found\":0}\n");
    problem.block = 0;
    problem.kind = PROBLEM_PAGE_CHANGED;
    assert_problem(&problem,
                   "{\"kind\":\"page_changed\",\"path\":\"f\",\"message\":\"m\",\"block\":0,"
                   "\"lsn\":null,\"expected\":4294967295,\"found\":0}\n");
    problem.kind = PROBLEM_PAGE;
    /* How many there are in a file: no page of its own. */
    problem.block = PROBLEM_WHOLE_FILE;
    assert_problem(&problem, "{\"kind\":\"page\",\"path\":\"f\",\"message\":\"m\",\"block\":null,"
                             "\"lsn\":null,\"expected\":null,\"found\":null}\n");
}

static void
test_wal(void **state)
{
    Problem problem = {
        .kind = PROBLEM_WAL, .path = "pg_wal", .message = "m", .lsn = 0x1000000AB, .block = 3};

    (void)state;
    assert_problem(&problem,
                   "{\"kind\":\"wal\",\"path\":\"pg_wal\",\"message\":\"m\",\"block\":null,"
                   "\"lsn\":\"1/AB\",\"expected\":null,\"found\":null}\n");
    problem.lsn = LSN_INVALID;
    assert_problem(&problem,
                   "{\"kind\":\"wal\",\"path\":\"pg_wal\",\"message\":\"m\",\"block\":null,"
                   "\"lsn\":null,\"expected\":null,\"found\":null}\n");
}

static void
test_hostile_names(void **state)
{
    Problem problem = {.kind = PROBLEM_EXTRA, .path = "a\"\\\n\xe4%s", .message = "\t\x7f\xc3(%n"};

    (void)state;
    assert_problem(&problem,
                   "{\"kind\":\"extra\",\"path\":\"a\\\"\\\\\\u000a\\ufffd%s\","
                   "\"path_hex\":\"61225c0ae42573\",\"message\":\"\\u0009\x7f\\ufffd(%n\","
                   "\"block\":null,\"lsn\":null,\"expected\":null,\"found\":null}\n");
    problem.path = NULL;
    problem.message = "";
    assert_problem(&problem, "{\"kind\":\"extra\",\"path\":null,\"message\":\"\",\"block\":null,"
                             "\"lsn\":null,\"expected\":null,\"found\":null}\n");
}

/* ---- in pieces ---- */

/* Taken out after each piece it is the same document, and each piece is of whole lines. */
static void
test_pieces(void **state)
{
    const VerifySummary summary = {.files = 0};
    const Problem problems[] = {{.kind = PROBLEM_MISSING, .path = "a", .message = "m"},
                                {.kind = PROBLEM_MISSING, .path = "b", .message = "m"},
                                {.kind = PROBLEM_MISSING, .path = "c", .message = "m"}};
    const ReportEnd end = {.summary = &summary, .problems = 3};
    JsonLine report;
    Buf piece = BUF_INIT;
    Buf all = BUF_INIT;
    Buf whole = BUF_INIT;
    Error err = ERROR_INIT;

    (void)state;
    assert_true(make_document(&head, problems, &end, &whole, &err));
    assert_true(report_json_begin(&report, &head, &piece, &err));
    for (size_t i = 0; i < 4; i++) {
        assert_true(piece.len > 0 && piece.data[piece.len - 1] == '\n');
        assert_true(buf_append(&all, piece.data, piece.len, &err));
        buf_clear(&piece);
        assert_true(i < 3 ? report_json_problem(&report, &problems[i])
                          : report_json_end(&report, &end));
    }
    assert_true(buf_append(&all, piece.data, piece.len, &err));
    assert_string_equal(buf_text(&all), buf_text(&whole));
    buf_free(&piece);
    buf_free(&all);
    buf_free(&whole);
}

/* A buffer that is cleared does not grow with the number of problems. */
static void
test_memory_does_not_grow(void **state)
{
    const Problem problem = {.kind = PROBLEM_MISSING, .path = "base/5/16384", .message = "gone"};
    JsonLine report;
    Buf buf = BUF_INIT;
    Error err = ERROR_INIT;

    (void)state;
    assert_true(report_json_begin(&report, &head, &buf, &err));
    assert_true(report_json_problem(&report, &problem));
    buf_clear(&buf);
    fail_at = 1;
    for (int i = 0; i < 100000; i++) {
        assert_true(report_json_problem(&report, &problem));
        buf_clear(&buf);
    }
    fail_at = 0;
    buf_free(&buf);
}

static void
test_no_memory(void **state)
{
    const VerifySummary summary = {.files = 0};
    Problem problem = {.kind = PROBLEM_MISSING, .path = "a", .message = NULL};
    const ReportEnd end = {.summary = &summary, .problems = 1};
    char long_text[20000];
    int at = 0;
    bool made;

    (void)state;
    memset(long_text, 'x', sizeof long_text - 1);
    long_text[sizeof long_text - 1] = '\0';
    problem.message = long_text;
    do {
        Buf buf = BUF_INIT;
        Error err = ERROR_INIT;

        fail_at = ++at;
        made = make_document(&head, &problem, &end, &buf, &err);
        assert_int_equal(err.code, made ? ERR_NONE : ERR_MEMORY);
        fail_at = 0;
        buf_free(&buf);
    } while (!made);
    assert_true(at > 2);
}

/* ---- in words ---- */

static void
assert_progress(uint64_t done, uint64_t total, const Speed *speed, const char *expected)
{
    const VerifyProgress progress = {.done = done, .total = total};
    Buf line = BUF_INIT;
    Error err = ERROR_INIT;

    assert_true(report_progress(&progress, speed, &line, &err));
    assert_string_equal(buf_text(&line), expected);
    buf_free(&line);
}

static void
test_progress(void **state)
{
    const Speed unknown = {.known = false};
    const Speed fast = {
        .known = true, .rate = 1500 * MB + 512 * KB, .left_known = true, .left = 62};
    const Speed last = {.known = true, .rate = 900 * KB};

    (void)state;
    assert_progress(0, 0, &unknown, "0/0 kB (100%) verified");
    assert_progress(0, 1023, &unknown, "0/0 kB (100%) verified");
    assert_progress(0, 2048, &unknown, "0/2 kB (0%) verified");
    assert_progress(12345 * KB, 2345600 * KB, &unknown, "  12345/2345600 kB (0%) verified");
    assert_progress(2345599 * KB, 2345600 * KB, &fast,
                    "2345599/2345600 kB (99%) verified, 1500.5 MB/s, 1:02 left");
    assert_progress(2345600 * KB, 2345600 * KB, &last,
                    "2345600/2345600 kB (100%) verified, 900 kB/s");
}

static void
assert_summary(const VerifySummary *summary, int64_t elapsed_ms, const char *expected)
{
    Buf line = BUF_INIT;
    Error err = ERROR_INIT;

    assert_true(report_summary(summary, elapsed_ms, &line, &err));
    assert_string_equal(buf_text(&line), expected);
    buf_free(&line);
}

static void
test_summary(void **state)
{
    VerifySummary summary = {.files = 970, .bytes = 96 * MB, .pages = 4711, .bad_pages = 4711};

    (void)state;
    /* Pages that nobody asked for are not told of. */
    assert_summary(&summary, 500, "checked 970 files (98304 kB) in 0.5 s (192.0 MB/s)");
    summary.has_pages = true;
    summary.bad_pages = 0;
    assert_summary(&summary, 500,
                   "checked 970 files (98304 kB), 4711 data pages in 0.5 s (192.0 MB/s)");
    summary.bad_pages = 3;
    summary.wal_bytes = 32 * MB;
    assert_summary(&summary, 61000,
                   "checked 970 files (98304 kB), 4711 data pages (3 bad), 32768 kB of WAL in "
                   "1:01 (2.1 MB/s)");
    summary = (VerifySummary){.files = 1, .bytes = 8192, .has_pages = true, .pages = 1};
    assert_summary(&summary, 0, "checked 1 file (8 kB), 1 data page in 0.0 s");
    summary = (VerifySummary){.files = 0};
    assert_summary(&summary, 10, "checked 0 files (0 kB) in 0.0 s (0 kB/s)");
}

static void
test_pages_text(void **state)
{
    const VerifySummary summary = {.files = 970,
                                   .bytes = 12345678901 * 4096 + 1,
                                   .pages = 7,
                                   .bad_pages = 1,
                                   .page_size = 4096};
    Buf text = BUF_INIT;
    Error err = ERROR_INIT;

    (void)state;
    assert_true(report_pages_text(&summary, &text, &err));
    assert_string_equal(buf_text(&text), "Checksum operation completed\n"
                                         "Files scanned:   970\n"
                                         "Blocks scanned:  12345678901\n"
                                         "Bad checksums:  1\n"
                                         "Data checksum version: 1\n");
    /* Before it is known. */
    buf_clear(&text);
    assert_true(report_pages_text(&(const VerifySummary){.bytes = 1}, &text, &err));
    assert_non_null(strstr(buf_text(&text), "Blocks scanned:  0\n"));
    buf_free(&text);
}

static bool
make_words(const VerifySummary *summary, Buf *buf, Error *err)
{
    const VerifyProgress progress = {.done = 1, .total = 2};
    const Speed speed = {.known = true, .rate = MB, .left_known = true, .left = 1};

    return report_progress(&progress, &speed, buf, err) && report_summary(summary, 1, buf, err) &&
           report_pages_text(summary, buf, err);
}

static void
test_no_memory_for_words(void **state)
{
    const VerifySummary summary = {.has_pages = true, .bad_pages = 1, .wal_bytes = 1};
    int at = 0;
    bool made;

    (void)state;
    do {
        Buf buf = BUF_INIT;
        Error err = ERROR_INIT;

        fail_at = ++at;
        made = make_words(&summary, &buf, &err);
        assert_int_equal(err.code, made ? ERR_NONE : ERR_MEMORY);
        fail_at = 0;
        buf_free(&buf);
    } while (!made);
    assert_true(at > 1);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_verified),
        cmocka_unit_test(test_damaged),
        cmocka_unit_test(test_failed),
        cmocka_unit_test(test_formats),
        cmocka_unit_test(test_directory_that_is_no_utf8),
        cmocka_unit_test(test_kinds),
        cmocka_unit_test(test_size),
        cmocka_unit_test(test_checksum),
        cmocka_unit_test(test_page),
        cmocka_unit_test(test_wal),
        cmocka_unit_test(test_hostile_names),
        cmocka_unit_test(test_pieces),
        cmocka_unit_test(test_memory_does_not_grow),
        cmocka_unit_test(test_no_memory),
        cmocka_unit_test(test_progress),
        cmocka_unit_test(test_summary),
        cmocka_unit_test(test_pages_text),
        cmocka_unit_test(test_no_memory_for_words),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
