/*
 * Errors as values: what each function sets, keeps and cuts.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/error.h"

#define MESSAGE_MAX (sizeof(((Error *)NULL)->message) - 1)
#define HINT_MAX    (sizeof(((Error *)NULL)->hint) - 1)

/* `count` times the same character; freed by the caller. */
static char *
run_of(char c, size_t count)
{
    char *text = malloc(count + 1);

    assert_non_null(text);
    memset(text, c, count);
    text[count] = '\0';
    return text;
}

static void
init_is_no_error(void **state)
{
    Error err = ERROR_INIT;

    (void)state;
    assert_int_equal(err.code, ERR_NONE);
    assert_int_equal(err.sys_errno, 0);
    assert_string_equal(err.sqlstate, "");
    assert_string_equal(err.message, "");
    assert_string_equal(err.hint, "");
}

static void
set(void **state)
{
    Error err = ERROR_INIT;

    (void)state;
    assert_false(error_set(&err, ERR_FORMAT, "bad magic %04X in \"%s\"", 0xD10Du, "seg"));
    assert_int_equal(err.code, ERR_FORMAT);
    assert_string_equal(err.message, "bad magic D10D in \"seg\"");
    assert_int_equal(err.sys_errno, 0);
    assert_string_equal(err.hint, "");
}

/* Nothing of an earlier error may shine through a new one. */
static void
set_replaces_everything(void **state)
{
    Error err = ERROR_INIT;

    (void)state;
    error_ignored(error_set_errno(&err, ENOSPC, "could not write"));
    error_ignored(error_hint(&err, "Free some space."));
    memcpy(err.sqlstate, "53100", 6);
    error_ignored(error_set(&err, ERR_USAGE, "x"));
    assert_int_equal(err.code, ERR_USAGE);
    assert_int_equal(err.sys_errno, 0);
    assert_string_equal(err.sqlstate, "");
    assert_string_equal(err.message, "x");
    assert_string_equal(err.hint, "");

    memcpy(err.sqlstate, "53100", 6);
    error_ignored(error_hint(&err, "Free some space."));
    error_ignored(error_set_errno(&err, EIO, "y"));
    assert_string_equal(err.sqlstate, "");
    assert_string_equal(err.hint, "");
}

static void
set_errno(void **state)
{
    Error err = ERROR_INIT;

    (void)state;
    assert_false(error_set_errno(&err, ENOENT, "could not open file \"%s\"", "a b"));
    assert_int_equal(err.code, ERR_SYSTEM);
    assert_int_equal(err.sys_errno, ENOENT);
    assert_string_equal(err.message, "could not open file \"a b\": No such file or directory");

    assert_false(error_set_errno(&err, 99999, "odd"));
    assert_int_equal(err.sys_errno, 99999);
    assert_string_equal(err.message, "odd: Unknown error 99999");
}

static void
set_memory(void **state)
{
    Error err = ERROR_INIT;

    (void)state;
    assert_false(error_set_memory(&err));
    assert_int_equal(err.code, ERR_MEMORY);
    assert_string_equal(err.message, "out of memory");
}

static void
context_comes_first(void **state)
{
    Error err = ERROR_INIT;

    (void)state;
    error_ignored(error_set_errno(&err, EIO, "could not read file \"%s\"", "x"));
    error_ignored(error_hint(&err, "Look at the disk."));
    memcpy(err.sqlstate, "58030", 6);
    assert_false(error_context(&err, "archive \"%s\"", "base.tar"));
    assert_string_equal(err.message,
                        "archive \"base.tar\": could not read file \"x\": Input/output error");
    /* It adds words and changes nothing else. */
    assert_int_equal(err.code, ERR_SYSTEM);
    assert_int_equal(err.sys_errno, EIO);
    assert_string_equal(err.sqlstate, "58030");
    assert_string_equal(err.hint, "Look at the disk.");

    assert_false(error_context(&err, "tablespace %u", 16384u));
    assert_string_equal(err.message, "tablespace 16384: archive \"base.tar\": "
                                     "could not read file \"x\": Input/output error");
}

static void
hint(void **state)
{
    Error err = ERROR_INIT;

    (void)state;
    error_ignored(error_set(&err, ERR_USAGE, "no directory"));
    assert_false(error_hint(&err, "Give one with %s.", "-D"));
    assert_string_equal(err.hint, "Give one with -D.");
    assert_string_equal(err.message, "no directory");
    assert_false(error_hint(&err, "Or not."));
    assert_string_equal(err.hint, "Or not.");
}

/* What comes from outside is an argument, never the format. */
static void
percent_signs(void **state)
{
    Error err = ERROR_INIT;

    (void)state;
    error_ignored(error_set(&err, ERR_FORMAT, "file \"%s\"", "%s%n%d"));
    assert_string_equal(err.message, "file \"%s%n%d\"");
    error_ignored(error_context(&err, "archive \"%s\"", "%x"));
    assert_string_equal(err.message, "archive \"%x\": file \"%s%n%d\"");
    error_ignored(error_set_errno(&err, EIO, "%s", "100%"));
    assert_string_equal(err.message, "100%: Input/output error");
}

/* ---- what does not fit ---- */

static void
set_cuts_at_the_end(void **state)
{
    static const size_t lengths[] = {0, 1, MESSAGE_MAX - 1, MESSAGE_MAX, MESSAGE_MAX + 1, 100000};

    (void)state;
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        char *text = run_of('x', lengths[i]);
        size_t kept = lengths[i] < MESSAGE_MAX ? lengths[i] : MESSAGE_MAX;
        Error err = ERROR_INIT;

        memset(err.hint, 'h', HINT_MAX);
        error_ignored(error_set(&err, ERR_FORMAT, "%s", text));
        assert_int_equal(strlen(err.message), kept);
        assert_memory_equal(err.message, text, kept);
        /* The member behind it was emptied, not overrun. */
        assert_string_equal(err.hint, "");
        free(text);
    }
}

static void
set_errno_cuts_the_reason(void **state)
{
    static const char reason[] = ": Input/output error";
    const size_t reason_len = sizeof reason - 1;

    (void)state;
    for (size_t len = MESSAGE_MAX - reason_len - 2; len <= MESSAGE_MAX + 2; len++) {
        char *text = run_of('x', len);
        size_t kept = len < MESSAGE_MAX ? len : MESSAGE_MAX;
        size_t left = MESSAGE_MAX - kept < reason_len ? MESSAGE_MAX - kept : reason_len;
        Error err = ERROR_INIT;

        error_ignored(error_set_errno(&err, EIO, "%s", text));
        assert_int_equal(err.sys_errno, EIO);
        assert_int_equal(strlen(err.message), kept + left);
        assert_memory_equal(err.message + kept, reason, left);
        free(text);
    }
}

static void
context_cuts_the_old_message(void **state)
{
    Error err = ERROR_INIT;
    char *text = run_of('m', MESSAGE_MAX);
    char *prefix = run_of('p', 2000);

    (void)state;
    error_ignored(error_set(&err, ERR_FORMAT, "%s", text));
    error_ignored(error_context(&err, "ctx"));
    assert_int_equal(strlen(err.message), MESSAGE_MAX);
    assert_memory_equal(err.message, "ctx: mmm", 8);
    assert_int_equal(err.message[MESSAGE_MAX - 1], 'm');

    /* A context that fills everything leaves nothing of the rest. */
    error_ignored(error_set(&err, ERR_FORMAT, "short"));
    error_ignored(error_context(&err, "%s", prefix));
    assert_int_equal(strlen(err.message), MESSAGE_MAX);
    assert_null(strchr(err.message, ':'));
    assert_int_equal(err.code, ERR_FORMAT);

    for (int i = 0; i < 1000; i++)
        error_ignored(error_context(&err, "again"));
    assert_int_equal(strlen(err.message), MESSAGE_MAX);
    free(text);
    free(prefix);
}

static void
hint_is_cut(void **state)
{
    Error err = ERROR_INIT;
    char *text = run_of('h', 5000);

    (void)state;
    error_ignored(error_hint(&err, "%s", text));
    assert_int_equal(strlen(err.hint), HINT_MAX);
    free(text);
}

static void
copies_are_independent(void **state)
{
    Error err = ERROR_INIT;
    Error copy;

    (void)state;
    error_ignored(error_set(&err, ERR_SERVER, "one"));
    copy = err;
    error_ignored(error_set(&err, ERR_BUG, "two"));
    assert_int_equal(copy.code, ERR_SERVER);
    assert_string_equal(copy.message, "one");
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(init_is_no_error),
        cmocka_unit_test(set),
        cmocka_unit_test(set_replaces_everything),
        cmocka_unit_test(set_errno),
        cmocka_unit_test(set_memory),
        cmocka_unit_test(context_comes_first),
        cmocka_unit_test(hint),
        cmocka_unit_test(percent_signs),
        cmocka_unit_test(set_cuts_at_the_end),
        cmocka_unit_test(set_errno_cuts_the_reason),
        cmocka_unit_test(context_cuts_the_old_message),
        cmocka_unit_test(hint_is_cut),
        cmocka_unit_test(copies_are_independent),
    };

    return cmocka_run_group_tests_name("error", tests, NULL, NULL);
}
