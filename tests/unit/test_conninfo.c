#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "protocol/internal.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* ---- memory that runs out ---- */

/* The allocation that fails, counted down; -1: none does. */
static long countdown = -1;

void *__real_realloc(void *block, size_t size);
void *__wrap_realloc(void *block, size_t size);

void *
__wrap_realloc(void *block, size_t size)
{
    if (countdown > 0 && --countdown == 0)
        return NULL;
    return __real_realloc(block, size);
}

/* ---- settings as libpq gives them ---- */

#define SETTINGS_MAX 16

typedef struct Pair {
    const char *keyword;
    const char *value;
} Pair;

typedef struct Settings {
    PQconninfoOption options[SETTINGS_MAX]; /* the last one has no keyword */
    Error err;
} Settings;

static char *
owned(Settings *settings, const char *text)
{
    char *copy = mem_strdup(text, &settings->err);

    assert_non_null(copy);
    return copy;
}

static void
settings_make(Settings *settings, const Pair *pairs, size_t count)
{
    *settings = (Settings){.err = ERROR_INIT};
    assert_true(count < SETTINGS_MAX);
    for (size_t i = 0; i < count && pairs[i].keyword != NULL; i++) {
        settings->options[i].keyword = owned(settings, pairs[i].keyword);
        if (pairs[i].value != NULL)
            settings->options[i].val = owned(settings, pairs[i].value);
    }
}

static void
settings_free(Settings *settings)
{
    for (size_t i = 0; i < SETTINGS_MAX; i++) {
        free(settings->options[i].keyword);
        free(settings->options[i].val);
    }
}

static void
assert_format(const Pair *pairs, size_t count, const char *dbname, const char *expected)
{
    Settings settings;
    Error err = ERROR_INIT;
    Buf text = BUF_INIT;

    settings_make(&settings, pairs, count);
    assert_true(conninfo_format(settings.options, SERVER_MAJOR_MAX, dbname, &text, &err));
    assert_string_equal(buf_text(&text), expected);
    assert_int_equal(text.len, strlen(expected));
    buf_free(&text);
    settings_free(&settings);
}

/* ---- values ---- */

typedef struct Value {
    const char *value;
    const char *written;
} Value;

static const Value values[] = {
    /* as they are: letters, digits, '_' and '.' */
    {"postgres", "postgres"},
    {"5432", "5432"},
    {"_", "_"},
    {".", "."},
    {"10.0.0.1", "10.0.0.1"},
    {"AZaz09_.", "AZaz09_."},
    /* everything else in quotes */
    {"-", "'-'"},
    {"verify-full", "'verify-full'"},
    {"/run/postgresql", "'/run/postgresql'"},
    {"@abstract", "'@abstract'"},
    {"one,two,three", "'one,two,three'"},
    {"fe80::1%eth0", "'fe80::1%eth0'"},
    {"a=b", "'a=b'"},
    {"-c geqo=off -c x='y z'", "'-c geqo=off -c x=\\'y z\\''"},
    {" ", "' '"},
    {" padded ", "' padded '"},
    {"tab\there", "'tab\there'"},
    {"two\nlines", "'two\nlines'"},
    {"'", "'\\''"},
    {"''", "'\\'\\''"},
    {"\\", "'\\\\'"},
    {"\\'", "'\\\\\\''"},
    {"it's", "'it\\'s'"},
    {"'quoted'", "'\\'quoted\\''"},
    {"C:\\dir\\", "'C:\\\\dir\\\\'"},
    {"\"", "'\"'"},
    {"%s%n", "'%s%n'"},
    {"gr\xc3\xbc\xc3\x9f"
     "e",
     "'gr\xc3\xbc\xc3\x9f"
     "e'"},
    {"\xe6\x97\xa5\xe6\x9c\xac", "'\xe6\x97\xa5\xe6\x9c\xac'"},
    {"\xff\x80", "'\xff\x80'"},
};

static void
every_kind_of_value(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(values); i++) {
        const Pair pair = {"password", values[i].value};
        char expected[100];

        (void)snprintf(expected, sizeof expected, "password=%s", values[i].written);
        assert_format(&pair, 1, NULL, expected);
        /* a dbname is a value like others */
        (void)snprintf(expected, sizeof expected, "dbname=%s", values[i].written);
        assert_format(NULL, 0, values[i].value, expected);
    }
}

static const char *
value_of(const PQconninfoOption *options, const char *keyword)
{
    for (; options->keyword != NULL; options++) {
        if (strcmp(options->keyword, keyword) == 0)
            return options->val;
    }
    return NULL;
}

/* libpq, who has to read it, reads what was written: alone and between others. */
static void
libpq_reads_the_same_values(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(values); i++) {
        const Pair pairs[] = {
            {"user", values[i].value}, {"password", values[i].value}, {"port", "1"}};
        PQconninfoOption *parsed;
        Settings settings;
        Error err = ERROR_INIT;
        Buf text = BUF_INIT;

        settings_make(&settings, pairs, COUNT(pairs));
        assert_true(
            conninfo_format(settings.options, SERVER_MAJOR_MAX, values[i].value, &text, &err));
        assert_true(conninfo_parse(buf_text(&text), &parsed, &err));
        assert_string_equal(value_of(parsed, "user"), values[i].value);
        assert_string_equal(value_of(parsed, "password"), values[i].value);
        assert_string_equal(value_of(parsed, "port"), "1");
        assert_string_equal(value_of(parsed, "dbname"), values[i].value);
        assert_null(value_of(parsed, "host"));
        PQconninfoFree(parsed);
        buf_free(&text);
        settings_free(&settings);
    }
}

/* Every byte that a value can have. */
static void
every_byte(void **state)
{
    char all[256];
    PQconninfoOption *parsed;
    Settings settings;
    Error err = ERROR_INIT;
    Buf text = BUF_INIT;

    (void)state;
    for (int byte = 1; byte < 256; byte++)
        all[byte - 1] = (char)byte;
    all[255] = '\0';
    settings_make(&settings, &(Pair){"password", all}, 1);
    assert_true(conninfo_format(settings.options, SERVER_MAJOR_MAX, NULL, &text, &err));
    assert_true(conninfo_parse(buf_text(&text), &parsed, &err));
    assert_string_equal(value_of(parsed, "password"), all);
    PQconninfoFree(parsed);
    buf_free(&text);
    settings_free(&settings);
}

/* ---- which settings ---- */

/* A standby's libpq refuses a string for one keyword that it does not know. */
static void
settings_that_older_servers_do_not_know(void **state)
{
    static const Pair pairs[] = {
        {"user", "u"},
        {"channel_binding", "prefer"},
        {"sslsni", "1"},
        {"gssencmode", "disable"},
        {"sslnegotiation", "direct"},
        {"load_balance_hosts", "random"},
        {"min_protocol_version", "3.0"},
        {"servicefile", "f"},
        {"port", "5432"},
    };
    static const struct {
        int major;
        const char *expected;
    } cases[] = {
        {10, "user=u port=5432"},
        {11, "user=u port=5432"},
        {12, "user=u gssencmode=disable port=5432"},
        {13, "user=u channel_binding=prefer gssencmode=disable port=5432"},
        {14, "user=u channel_binding=prefer sslsni=1 gssencmode=disable port=5432"},
        {15, "user=u channel_binding=prefer sslsni=1 gssencmode=disable port=5432"},
        {16, "user=u channel_binding=prefer sslsni=1 gssencmode=disable load_balance_hosts=random "
             "port=5432"},
        {17, "user=u channel_binding=prefer sslsni=1 gssencmode=disable sslnegotiation=direct "
             "load_balance_hosts=random port=5432"},
        {18, "user=u channel_binding=prefer sslsni=1 gssencmode=disable sslnegotiation=direct "
             "load_balance_hosts=random min_protocol_version=3.0 port=5432"},
    };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        Settings settings;
        Error err = ERROR_INIT;
        Buf text = BUF_INIT;

        settings_make(&settings, pairs, COUNT(pairs));
        assert_true(conninfo_format(settings.options, cases[i].major, NULL, &text, &err));
        assert_string_equal(buf_text(&text), cases[i].expected);
        buf_free(&text);
        settings_free(&settings);
    }
}

static void
settings_that_are_left_out(void **state)
{
    static const struct {
        Pair pairs[SETTINGS_MAX - 1];
        const char *dbname;
        const char *expected;
    } cases[] = {
        {{{NULL, NULL}}, NULL, ""},
        {{{NULL, NULL}}, "", ""},
        {{{"user", NULL}}, NULL, ""},
        {{{"user", ""}}, NULL, ""},
        {{{"replication", "true"}}, NULL, ""},
        {{{"dbname", "replication"}}, NULL, ""},
        {{{"fallback_application_name", "pgstow"}}, NULL, ""},
        {{{"dbname", "replication"}}, "postgres", "dbname=postgres"},
        /* no blank for what is not there, and one between any two */
        {{{"user", ""}, {"host", "h"}, {"port", NULL}}, NULL, "host=h"},
        {{{"host", "h"}, {"replication", "true"}, {"port", "5"}}, NULL, "host=h port=5"},
        {{{"host", "h"}, {"user", ""}}, "d", "host=h dbname=d"},
        /* the whole keyword counts */
        {{{"application_name", "a"}, {"replication_mode", "b"}, {"DBNAME", "c"}},
         NULL,
         "application_name=a replication_mode=b DBNAME=c"},
        /* what libpq gives, in its order; the dbname comes last */
        {{{"user", "standby"},
          {"password", "pass word"},
          {"channel_binding", "prefer"},
          {"connect_timeout", ""},
          {"dbname", "replication"},
          {"host", "one,two"},
          {"port", "5432,5433"},
          {"fallback_application_name", "pg_basebackup"},
          {"sslmode", "verify-full"},
          {"replication", "true"}},
         "app",
         "user=standby password='pass word' channel_binding=prefer host='one,two' "
         "port='5432,5433' sslmode='verify-full' dbname=app"},
    };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++)
        assert_format(cases[i].pairs, SETTINGS_MAX - 1, cases[i].dbname, cases[i].expected);
}

/* ---- failures ---- */

static void
memory_runs_out_everywhere(void **state)
{
    static char big[5000];
    const Pair pairs[] = {{"user", big}, {"password", "it's"}, {"host", "h"}};
    Settings settings;
    bool ok = false;
    long n = 0;

    (void)state;
    memset(big, '\'', sizeof big - 1);
    settings_make(&settings, pairs, COUNT(pairs));
    while (!ok) {
        Error err = ERROR_INIT;
        Buf text = BUF_INIT;

        countdown = ++n;
        ok = conninfo_format(settings.options, SERVER_MAJOR_MAX, big, &text, &err);
        countdown = -1;
        assert_int_equal(err.code, ok ? ERR_NONE : ERR_MEMORY);
        buf_free(&text);
    }
    assert_true(n > 3);
    settings_free(&settings);
}

static void
parsing_what_is_no_connection_string(void **state)
{
    static const struct {
        const char *conninfo;
        const char *message;
    } cases[] = {
        {"host", "missing \"=\" after \"host\" in connection info string"},
        {"colour=green", "invalid connection option \"colour\""},
        {"host='open", "unterminated quoted string in connection info string"},
    };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        PQconninfoOption *parsed = NULL;
        Error err = ERROR_INIT;

        assert_false(conninfo_parse(cases[i].conninfo, &parsed, &err));
        assert_int_equal(err.code, ERR_USAGE);
        assert_string_equal(err.message, cases[i].message);
        assert_null(parsed);
    }
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_kind_of_value),
        cmocka_unit_test(libpq_reads_the_same_values),
        cmocka_unit_test(every_byte),
        cmocka_unit_test(settings_that_are_left_out),
        cmocka_unit_test(settings_that_older_servers_do_not_know),
        cmocka_unit_test(memory_runs_out_everywhere),
        cmocka_unit_test(parsing_what_is_no_connection_string),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
