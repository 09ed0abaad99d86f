/*
 * The command line of verifybackup: what each option becomes. What is refused, and in which words,
 * is in tests/cli. The whole command is linked here without libpq, which it must not need.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "cmd/commands.h"
#include "cmd/log.h"
#include "cmd/verifybackup_cmd.h"

#define MAX_WORDS 16

/* `line`: words with a blank between each two. */
static OptionResult
read_line(VerifyRequest *request, const char *line)
{
    static char copy[256];
    char *words[MAX_WORDS + 1] = {NULL};
    char *rest = copy;
    int count = 0;

    assert_true((size_t)snprintf(copy, sizeof copy, "verify %s", line) < sizeof copy);
    while (count < MAX_WORDS && (words[count] = strsep(&rest, " ")) != NULL)
        count++;
    log_init("verify");
    return verify_request_read(request, &command_verifybackup, count, words);
}

static VerifyRequest
read_good(const char *line)
{
    VerifyRequest request;

    assert_int_equal(read_line(&request, line), OPTIONS_READ);
    return request;
}

static void
assert_refused(const char *line)
{
    VerifyRequest request;

    assert_int_equal(read_line(&request, line), OPTIONS_EXIT_BAD);
    verify_request_free(&request);
}

static void
test_defaults(void **state)
{
    VerifyRequest request = read_good("b");

    (void)state;
    assert_string_equal(request.directory, "b");
    assert_ptr_equal(request.verify.directory, request.directory);
    assert_null(request.verify.manifest_path);
    assert_null(request.verify.wal_directory);
    assert_int_equal(request.verify.ignore_count, 0);
    assert_int_equal(request.verify.jobs, 0);
    assert_false(request.verify.skip_checksums);
    assert_false(request.verify.skip_pages);
    assert_false(request.verify.skip_wal);
    assert_int_equal(request.target, TARGET_AS_FOUND);
    assert_int_equal(request.report, REPORT_TEXT);
    assert_false(request.exit_on_error || request.quiet || request.show_progress);
    verify_request_free(&request);
}

static void
test_options_of_the_stock_tool(void **state)
{
    VerifyRequest request = read_good("-e -F t -i ./x/ -m man -n -q -s -w wal --ignore=y .//b/");

    (void)state;
    assert_string_equal(request.directory, "b");
    assert_true(request.exit_on_error);
    assert_int_equal(request.target, TARGET_TAR);
    assert_int_equal(request.verify.ignore_count, 2);
    assert_string_equal(request.verify.ignore[0], "x");
    assert_string_equal(request.verify.ignore[1], "y");
    assert_string_equal(request.verify.manifest_path, "man");
    assert_true(request.verify.skip_wal);
    assert_true(request.quiet);
    assert_true(request.verify.skip_checksums);
    assert_string_equal(request.verify.wal_directory, "wal");
    verify_request_free(&request);

    request = read_good("b --progress --format=plain");
    assert_true(request.show_progress);
    assert_int_equal(request.target, TARGET_PLAIN);
    verify_request_free(&request);
}

static void
test_options_of_our_own(void **state)
{
    VerifyRequest request = read_good("-j 3 --skip-pages --report=json b");

    (void)state;
    assert_int_equal(request.verify.jobs, 3);
    assert_true(request.verify.skip_pages);
    assert_int_equal(request.report, REPORT_JSON);
    verify_request_free(&request);

    request = read_good("--jobs=1024 --report=json --report=text b");
    assert_int_equal(request.verify.jobs, 1024);
    assert_int_equal(request.report, REPORT_TEXT);
    verify_request_free(&request);
}

static void
test_numbers_of_jobs(void **state)
{
    const char *const bad[] = {"0", "1025", "-1", "x", "", "1x", "99999999999999999999"};

    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        char line[64];

        (void)snprintf(line, sizeof line, "--jobs=%s b", bad[i]);
        assert_refused(line);
    }
    assert_refused("--report=xml b");
    assert_refused("--report= b");
}

static void
test_pages(void **state)
{
    VerifyRequest request = read_good("--pages -e -P -j 2 --report=json b");

    (void)state;
    assert_int_equal(request.target, TARGET_CLUSTER);
    assert_true(request.exit_on_error && request.show_progress);
    assert_int_equal(request.verify.jobs, 2);
    assert_int_equal(request.report, REPORT_JSON);
    verify_request_free(&request);
}

static void
test_what_pages_has_no_use_for(void **state)
{
    const char *const options[] = {"-F p", "-i x", "-m x", "-n", "-s", "-w x", "--skip-pages"};

    (void)state;
    for (size_t i = 0; i < sizeof options / sizeof options[0]; i++) {
        char line[64];

        (void)snprintf(line, sizeof line, "--pages %s b", options[i]);
        assert_refused(line);
        (void)snprintf(line, sizeof line, "%s b --pages", options[i]);
        assert_refused(line);
    }
}

static void
test_directories(void **state)
{
    (void)state;
    assert_refused("-e");
    assert_refused("b c");
    assert_refused("-P -q b");
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_options_of_the_stock_tool),
        cmocka_unit_test(test_options_of_our_own),
        cmocka_unit_test(test_numbers_of_jobs),
        cmocka_unit_test(test_pages),
        cmocka_unit_test(test_what_pages_has_no_use_for),
        cmocka_unit_test(test_directories),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
