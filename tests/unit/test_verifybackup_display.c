/*
 * What a verification shows: standard output and standard error are files while something is shown,
 * so that a failed assertion can still be read. The clock stands still unless it is moved.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdio_ext.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "cmd/log.h"
#include "cmd/verifybackup_cmd.h"

#define KB ((uint64_t)1024)

/* ---- calls that the test sees ---- */

static int fail_realloc_at; /* counted from 1; 0: never */
static int64_t now_ms;

void *__real_realloc(void *old, size_t size);
void *__wrap_realloc(void *old, size_t size);
int64_t __wrap_clock_ms(void);

void *
__wrap_realloc(void *old, size_t size)
{
    if (fail_realloc_at > 0 && --fail_realloc_at == 0)
        return NULL;
    return __real_realloc(old, size);
}

int64_t
__wrap_clock_ms(void)
{
    return now_ms;
}

/* ---- standard output and standard error in files ---- */

typedef struct Stream {
    int number;
    int file;
    int saved; /* the real one, while ours is the file */
    char text[8192];
} Stream;

static void
stream_open(Stream *stream, int number, const char *path)
{
    *stream = (Stream){.number = number};
    stream->file = path != NULL ? open(path, O_RDWR) : memfd_create("stream", MFD_CLOEXEC);
    assert_true(stream->file >= 0);
    (void)fflush(stdout);
    stream->saved = dup(number);
    assert_true(stream->saved >= 0);
    assert_int_equal(dup2(stream->file, number), number);
}

static void
stream_close(Stream *stream)
{
    ssize_t len;

    (void)dup2(stream->saved, stream->number);
    (void)close(stream->saved);
    len = pread(stream->file, stream->text, sizeof stream->text - 1, 0);
    stream->text[len < 0 ? 0 : len] = '\0';
    (void)close(stream->file);
}

typedef struct Screen {
    VerifyRequest request;
    VerifyDisplay display;
    Stream out;
    Stream err;
} Screen;

/* `out`: where standard output goes, NULL: into a file. */
static void
screen_open(Screen *screen, const VerifyRequest *request, const char *out)
{
    static char directory[] = "/backup";

    log_init("verify");
    screen->request = *request;
    screen->request.directory = directory;
    now_ms = 1000;
    stream_open(&screen->out, STDOUT_FILENO, out);
    stream_open(&screen->err, STDERR_FILENO, NULL);
    verify_display_init(&screen->display, &screen->request);
}

/* What was shown is in out.text and err.text then. Returns the exit status. */
static int
screen_close(Screen *screen, const Error *failure)
{
    int status = verify_display_end(&screen->display, failure);

    verify_display_free(&screen->display);
    if (fflush(stdout) != 0) {
        /* What could not be written must not come out at the end of the test. */
        __fpurge(stdout);
        clearerr(stdout);
    }
    stream_close(&screen->err);
    stream_close(&screen->out);
    return status;
}

static void
begin(Screen *screen, VerifyTarget target)
{
    Error err = ERROR_INIT;

    if (!verify_display_begin(&screen->display, target, &err))
        fail_msg("%s", err.message);
}

static const Problem a_problem = {.kind = PROBLEM_MISSING, .path = "a", .message = "\"a\" is gone"};
static const VerifyRequest plain_request = {.report = REPORT_TEXT};
static const VerifyRequest json_request = {.report = REPORT_JSON};
static const VerifyRequest progress_request = {.show_progress = true};

/* ---- text ---- */

static void
test_verified(void **state)
{
    VerifyRequest request = plain_request;
    Screen screen;

    (void)state;
    for (int quiet = 0; quiet <= 1; quiet++) {
        request.quiet = quiet != 0;
        screen_open(&screen, &request, NULL);
        begin(&screen, TARGET_PLAIN);
        assert_int_equal(screen_close(&screen, NULL), 0);
        assert_string_equal(screen.out.text, quiet ? "" : "backup successfully verified\n");
        assert_string_equal(screen.err.text, "");
    }
}

static void
test_damaged(void **state)
{
    VerifyRequest request = plain_request;
    Screen screen;

    (void)state;
    for (int first_only = 0; first_only <= 1; first_only++) {
        request.exit_on_error = first_only != 0;
        screen_open(&screen, &request, NULL);
        begin(&screen, TARGET_TAR);
        assert_true(verify_display_problem(&screen.display, &a_problem) != request.exit_on_error);
        assert_int_equal(screen_close(&screen, NULL), 1);
        assert_string_equal(screen.out.text, "");
        assert_string_equal(screen.err.text, "verify: error: \"a\" is gone\n");
    }
}

static void
test_failed(void **state)
{
    const Error failure = {.code = ERR_SYSTEM, .message = "no manifest", .hint = "Look there."};
    Screen screen;

    (void)state;
    screen_open(&screen, &progress_request, NULL);
    begin(&screen, TARGET_PLAIN);
    assert_int_equal(screen_close(&screen, &failure), 1);
    assert_string_equal(screen.out.text, "");
    assert_string_equal(screen.err.text, "verify: error: no manifest\nverify: hint: Look there.\n");
}

static void
test_pages(void **state)
{
    VerifyRequest request = plain_request;
    Screen screen;

    (void)state;
    screen_open(&screen, &request, NULL);
    begin(&screen, TARGET_CLUSTER);
    assert_true(verify_display_problem(&screen.display, &a_problem));
    screen.display.summary =
        (VerifySummary){.files = 3, .bytes = 98304, .bad_pages = 1, .page_size = 8192};
    assert_int_equal(screen_close(&screen, NULL), 1);
    assert_string_equal(screen.out.text, "Checksum operation completed\n"
                                         "Files scanned:   3\n"
                                         "Blocks scanned:  12\n"
                                         "Bad checksums:  1\n"
                                         "Data checksum version: 1\n");
    request.quiet = true;
    screen_open(&screen, &request, NULL);
    begin(&screen, TARGET_CLUSTER);
    assert_int_equal(screen_close(&screen, NULL), 0);
    assert_string_equal(screen.out.text, "");
}

/* ---- progress ---- */

static void
tell(Screen *screen, int64_t at_ms, uint64_t done, uint64_t total)
{
    const VerifyProgress progress = {.done = done, .total = total};

    now_ms = at_ms;
    verify_display_progress(&screen->display, &progress);
}

static void
test_progress(void **state)
{
    Screen screen;

    (void)state;
    screen_open(&screen, &progress_request, NULL);
    begin(&screen, TARGET_PLAIN);
    tell(&screen, 1000, 0, 4000 * KB);
    tell(&screen, 1900, 900 * KB, 4000 * KB);
    tell(&screen, 2000, 1000 * KB, 4000 * KB);
    tell(&screen, 2100, 1100 * KB, 4000 * KB);
    tell(&screen, 2999, 1999 * KB, 4000 * KB);
    tell(&screen, 3000, 2000 * KB, 4000 * KB);
    tell(&screen, 3100, 4000 * KB, 4000 * KB);
    /* Said once, however often it comes. */
    tell(&screen, 9000, 4000 * KB, 4000 * KB);
    now_ms = 3400;
    screen.display.summary = (VerifySummary){.files = 7, .bytes = 4000 * KB};
    assert_int_equal(screen_close(&screen, NULL), 0);
    assert_string_equal(screen.err.text, "   0/4000 kB (0%) verified\n"
                                         "1000/4000 kB (25%) verified, 1000 kB/s, 0:03 left\n"
                                         "2000/4000 kB (50%) verified, 1000 kB/s, 0:02 left\n"
                                         "4000/4000 kB (100%) verified, 1.9 MB/s\n"
                                         "verify: checked 7 files (4000 kB) in 2.4 s (1.6 MB/s)\n");
    assert_string_equal(screen.out.text, "backup successfully verified\n");
}

/* It is said of damage as well: what is not told is sound. */
static void
test_summary_of_damage(void **state)
{
    Screen screen;

    (void)state;
    screen_open(&screen, &progress_request, NULL);
    begin(&screen, TARGET_PLAIN);
    tell(&screen, 1000, 0, 2048);
    assert_true(verify_display_problem(&screen.display, &a_problem));
    tell(&screen, 1001, 2048, 2048);
    screen.display.summary = (VerifySummary){
        .files = 1, .bytes = 2048, .has_pages = true, .pages = 2, .bad_pages = 2, .wal_bytes = KB};
    assert_int_equal(screen_close(&screen, NULL), 1);
    assert_string_equal(screen.err.text,
                        "0/2 kB (0%) verified\n"
                        "verify: error: \"a\" is gone\n"
                        "2/2 kB (100%) verified\n"
                        "verify: checked 1 file (2 kB), 2 data pages (2 bad), 1 kB of WAL in 0.0 s "
                        "(2.9 MB/s)\n");
    assert_string_equal(screen.out.text, "");
}

static void
test_progress_at_a_terminal(void **state)
{
    Screen screen;

    (void)state;
    screen_open(&screen, &progress_request, NULL);
    screen.display.line.terminal = true;
    begin(&screen, TARGET_PLAIN);
    tell(&screen, 1000, 0, 4000 * KB);
    tell(&screen, 2000, 1000 * KB, 4000 * KB);
    assert_true(verify_display_problem(&screen.display, &a_problem));
    tell(&screen, 3000, 2000 * KB, 4000 * KB);
    tell(&screen, 3500, 4000 * KB, 4000 * KB);
    assert_int_equal(screen_close(&screen, NULL), 1);
    assert_string_equal(screen.err.text, "   0/4000 kB (0%) verified\r"
                                         "1000/4000 kB (25%) verified, 1000 kB/s, 0:03 left\r\n"
                                         "verify: error: \"a\" is gone\n"
                                         "2000/4000 kB (50%) verified, 1000 kB/s, 0:02 left\r"
                                         "4000/4000 kB (100%) verified, 1.6 MB/s           \n"
                                         "verify: checked 0 files (0 kB) in 2.5 s (0 kB/s)\n");
}

/* A check that ends in the middle leaves the terminal's line. */
static void
test_terminal_is_left(void **state)
{
    const Error failure = {.code = ERR_STOPPED, .message = "stopped"};
    Screen screen;

    (void)state;
    screen_open(&screen, &progress_request, NULL);
    screen.display.line.terminal = true;
    begin(&screen, TARGET_PLAIN);
    tell(&screen, 1000, 0, 2048);
    assert_int_equal(screen_close(&screen, &failure), 1);
    assert_string_equal(screen.err.text, "0/2 kB (0%) verified\r\nverify: error: stopped\n");
}

/* ---- JSON ---- */

#define HEAD_OF(format)                                                                            \
    "{\"version\":1,\"pgstow_version\":\"" PGSTOW_VERSION                                          \
    "\",\"directory\":\"/backup\",\"format\":" format ",\"problems\":[\n"
#define PROBLEM_TEXT                                                                               \
    "{\"kind\":\"missing\",\"path\":\"a\",\"message\":\"\\\"a\\\" is gone\",\"block\":null,"       \
    "\"lsn\":null,\"expected\":null,\"found\":null}\n"

static void
test_report(void **state)
{
    Screen screen;

    (void)state;
    screen_open(&screen, &json_request, NULL);
    begin(&screen, TARGET_TAR);
    assert_true(verify_display_problem(&screen.display, &a_problem));
    now_ms = 1042;
    screen.display.summary = (VerifySummary){.files = 3};
    assert_int_equal(screen_close(&screen, NULL), 1);
    assert_string_equal(screen.out.text, HEAD_OF("\"tar\"") PROBLEM_TEXT
                        "],\"summary\":{\"files\":3,\"bytes\":0,\"pages\":0,\"bad_pages\":0,"
                        "\"has_pages\":false,\"wal_bytes\":0,\"page_digests\":false,"
                        "\"elapsed_ms\":42},\"error\":null,\"hint\":null,\"problem_count\":1,"
                        "\"result\":\"damaged\"}\n");
    assert_string_equal(screen.err.text, "verify: error: \"a\" is gone\n");
}

/* -q is about what is said in words; nobody would ask for a report not to get it. */
static void
test_quiet_report(void **state)
{
    VerifyRequest request = json_request;
    Screen screen;

    (void)state;
    request.quiet = true;
    screen_open(&screen, &request, NULL);
    begin(&screen, TARGET_CLUSTER);
    assert_int_equal(screen_close(&screen, NULL), 0);
    assert_non_null(strstr(screen.out.text, "\"format\":\"cluster\""));
    assert_non_null(strstr(screen.out.text, "\"result\":\"verified\"}\n"));
    assert_null(strstr(screen.out.text, "Checksum operation"));
}

static void
test_report_of_a_failure(void **state)
{
    const Error failure = {.code = ERR_FORMAT, .message = "bad manifest"};
    Screen screen;

    (void)state;
    screen_open(&screen, &json_request, NULL);
    begin(&screen, TARGET_PLAIN);
    assert_true(verify_display_problem(&screen.display, &a_problem));
    assert_int_equal(screen_close(&screen, &failure), 1);
    assert_string_equal(screen.out.text, HEAD_OF("\"plain\"") PROBLEM_TEXT
                        "],\"summary\":null,\"error\":\"bad manifest\",\"hint\":null,"
                        "\"problem_count\":1,\"result\":\"error\"}\n");
    assert_string_equal(screen.err.text,
                        "verify: error: \"a\" is gone\nverify: error: bad manifest\n");
}

/* Even before it was known what there is to verify. */
static void
test_report_of_an_early_failure(void **state)
{
    const Error failure = {.code = ERR_USAGE, .message = "no directory", .hint = "Name one."};
    Screen screen;

    (void)state;
    screen_open(&screen, &json_request, NULL);
    assert_int_equal(screen_close(&screen, &failure), 1);
    assert_string_equal(screen.out.text,
                        HEAD_OF("null") "],\"summary\":null,\"error\":\"no directory\","
                                        "\"hint\":\"Name one.\",\"problem_count\":0,"
                                        "\"result\":\"error\"}\n");
}

/* ---- when it cannot be written ---- */

#define FULL_TEXT "verify: error: could not write to standard output: No space left on device\n"

static void
test_full_disk(void **state)
{
    Screen screen;

    (void)state;
    screen_open(&screen, &plain_request, "/dev/full");
    begin(&screen, TARGET_PLAIN);
    assert_int_equal(screen_close(&screen, NULL), 1);
    assert_string_equal(screen.err.text, FULL_TEXT);
}

/* Nobody would learn what is found: nothing is looked for. */
static void
test_report_to_a_full_disk(void **state)
{
    Error err = ERROR_INIT;
    Screen screen;

    (void)state;
    screen_open(&screen, &json_request, "/dev/full");
    assert_false(verify_display_begin(&screen.display, TARGET_PLAIN, &err));
    assert_int_equal(err.code, ERR_SYSTEM);
    assert_int_equal(screen_close(&screen, &err), 1);
    assert_string_equal(screen.err.text, FULL_TEXT);
}

/* A reader that goes away in the middle ends the check at the next problem. */
static void
test_output_that_breaks(void **state)
{
    int full = open("/dev/full", O_WRONLY);
    Screen screen;

    (void)state;
    assert_true(full >= 0);
    screen_open(&screen, &json_request, NULL);
    begin(&screen, TARGET_PLAIN);
    assert_true(verify_display_problem(&screen.display, &a_problem));
    assert_int_equal(dup2(full, STDOUT_FILENO), STDOUT_FILENO);
    assert_false(verify_display_problem(&screen.display, &a_problem));
    assert_int_equal(screen_close(&screen, NULL), 1);
    assert_string_equal(screen.err.text,
                        "verify: error: \"a\" is gone\nverify: error: \"a\" is gone\n" FULL_TEXT);
    assert_string_equal(screen.out.text, HEAD_OF("\"plain\"") PROBLEM_TEXT);
    (void)close(full);
}

/* Without memory for a piece of it, the report ends, and with it the check. */
static void
test_no_memory_for_the_report(void **state)
{
    Problem problem = a_problem;
    char text[20000];
    Screen screen;

    (void)state;
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    problem.path = text;
    screen_open(&screen, &json_request, NULL);
    begin(&screen, TARGET_PLAIN);
    fail_realloc_at = 1;
    assert_false(verify_display_problem(&screen.display, &problem));
    fail_realloc_at = 0;
    assert_int_equal(screen_close(&screen, NULL), 1);
    assert_non_null(strstr(screen.err.text, "out of memory"));
}

/* Progress is not worth failing for. */
static void
test_no_memory_for_progress(void **state)
{
    Screen screen;

    (void)state;
    screen_open(&screen, &progress_request, NULL);
    begin(&screen, TARGET_PLAIN);
    fail_realloc_at = 1;
    tell(&screen, 1000, 0, 2048);
    fail_realloc_at = 1;
    screen.request.quiet = true;
    assert_int_equal(screen_close(&screen, NULL), 0);
    assert_int_equal(fail_realloc_at, 0);
    assert_string_equal(screen.err.text, "");
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_verified),
        cmocka_unit_test(test_damaged),
        cmocka_unit_test(test_failed),
        cmocka_unit_test(test_pages),
        cmocka_unit_test(test_progress),
        cmocka_unit_test(test_summary_of_damage),
        cmocka_unit_test(test_progress_at_a_terminal),
        cmocka_unit_test(test_terminal_is_left),
        cmocka_unit_test(test_report),
        cmocka_unit_test(test_quiet_report),
        cmocka_unit_test(test_report_of_a_failure),
        cmocka_unit_test(test_report_of_an_early_failure),
        cmocka_unit_test(test_full_disk),
        cmocka_unit_test(test_report_to_a_full_disk),
        cmocka_unit_test(test_output_that_breaks),
        cmocka_unit_test(test_no_memory_for_the_report),
        cmocka_unit_test(test_no_memory_for_progress),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
