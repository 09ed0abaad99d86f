/*
 * Progress as JSON. Every line goes through the tokenizer of the manifest too, which takes what
 * RFC 8259 allows and nothing else.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cmd/progress_json.h"
#include "manifest/internal.h"

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

/* ---- reading a line ---- */

/* The value of one key, as the tokenizer gives it. */
typedef struct Wanted {
    const char *key;
    bool next; /* the key has come, its value has not */
    Buf value;
} Wanted;

static bool
take(void *ctx, JsonToken token, const char *text, Error *err)
{
    Wanted *wanted = ctx;

    if (token == JSON_KEY) {
        wanted->next = wanted->key != NULL && strcmp(text, wanted->key) == 0;
        return true;
    }
    if (!wanted->next)
        return true;
    wanted->next = false;
    return buf_append(&wanted->value, text, strlen(text), err);
}

/* The line must be one JSON value and its newline. */
static void
read_line(const Buf *line, Wanted *wanted)
{
    JsonParser *parser = malloc(sizeof *parser);
    Error err = ERROR_INIT;

    assert_non_null(parser);
    assert_true(line->len > 1);
    assert_int_equal(line->data[line->len - 1], '\n');
    assert_ptr_equal(memchr(line->data, '\n', line->len), line->data + line->len - 1);
    json_init(parser, take, wanted);
    if (!json_feed(parser, (Span){.data = line->data, .len = line->len}, &err) ||
        !json_finish(parser, &err))
        fail_msg("%s: %s", err.message, buf_text(line));
    free(parser);
}

static void
assert_is_json(const Buf *line)
{
    Wanted nothing = {.key = NULL};

    read_line(line, &nothing);
    buf_free(&nothing.value);
}

static void
assert_value(const Buf *line, const char *key, const char *expected)
{
    Wanted wanted = {.key = key, .value = BUF_INIT};

    read_line(line, &wanted);
    assert_string_equal(buf_text(&wanted.value), expected);
    buf_free(&wanted.value);
}

static void
assert_line(const Buf *line, const char *expected)
{
    assert_is_json(line);
    assert_string_equal(buf_text(line), expected);
}

/* ---- events ---- */

static void
test_waiting(void **state)
{
    Buf line = BUF_INIT;
    Error err = ERROR_INIT;

    (void)state;
    assert_true(json_waiting(&line, &err));
    assert_line(&line, "{\"version\":1,\"event\":\"waiting\"}\n");
    buf_free(&line);
}

static void
test_begin(void **state)
{
    BackupBegin begin = {.start = 0x12000000028,
                         .timeline = 4294967295,
                         .total = UINT64_MAX,
                         .tablespace_count = 2,
                         .server_version = 180006};
    Buf line = BUF_INIT;
    Error err = ERROR_INIT;

    (void)state;
    assert_true(json_begin(&begin, &line, &err));
    assert_line(&line, "{\"version\":1,\"event\":\"begin\",\"server_version\":180006,"
                       "\"start_lsn\":\"120/28\",\"timeline\":4294967295,"
                       "\"total_bytes\":18446744073709551615,\"tablespaces\":2}\n");
    buf_clear(&line);
    begin.total = 0;
    assert_true(json_begin(&begin, &line, &err));
    assert_value(&line, "total_bytes", "null");
    buf_free(&line);
}

static void
test_progress(void **state)
{
    BackupProgress progress = {.done = 12345,
                               .total = 100000,
                               .tablespace = 1,
                               .tablespace_count = 2,
                               .current = "/backup/monday",
                               .elapsed_ms = 4200};
    Speed speed = {.known = true, .rate = 3000, .left_known = true, .left = 30};
    Buf line = BUF_INIT;
    Error err = ERROR_INIT;

    (void)state;
    assert_true(json_progress(&progress, &speed, &line, &err));
    assert_line(&line, "{\"version\":1,\"event\":\"progress\",\"done_bytes\":12345,"
                       "\"total_bytes\":100000,\"percent\":12,\"tablespaces_done\":1,"
                       "\"tablespaces\":2,\"current\":\"/backup/monday\",\"elapsed_ms\":4200,"
                       "\"bytes_per_second\":3000,\"seconds_left\":30,\"finished\":false}\n");
    buf_clear(&line);
    speed = (Speed){.known = false};
    progress.total = 0;
    progress.current = NULL;
    assert_true(json_progress(&progress, &speed, &line, &err));
    assert_line(&line, "{\"version\":1,\"event\":\"progress\",\"done_bytes\":12345,"
                       "\"total_bytes\":null,\"percent\":null,\"tablespaces_done\":1,"
                       "\"tablespaces\":2,\"current\":null,\"elapsed_ms\":4200,"
                       "\"bytes_per_second\":null,\"seconds_left\":null,\"finished\":false}\n");
    buf_clear(&line);
    progress.finished = true;
    assert_true(json_progress(&progress, &speed, &line, &err));
    assert_value(&line, "finished", "true");
    assert_value(&line, "percent", "100");
    buf_free(&line);
}

static void
test_problems(void **state)
{
    const struct {
        ProblemKind kind;
        const char *name;
    } kinds[] = {
        {PROBLEM_MISSING, "missing"},
        {PROBLEM_EXTRA, "extra"},
        {PROBLEM_SIZE, "size"},
        {PROBLEM_CHECKSUM, "checksum"},
        {PROBLEM_UNREADABLE, "unreadable"},
        {PROBLEM_FILE_TYPE, "file_type"},
        {PROBLEM_SYSTEM_ID, "system_identifier"},
        {PROBLEM_CONTROL, "control_file"},
        {PROBLEM_PAGE, "page"},
        {PROBLEM_PAGE_CHANGED, "page_changed"},
        {PROBLEM_WAL, "wal"},
        {PROBLEM_DIRECTORY, "missing_directory"},
        {PROBLEM_PAGE_DIGESTS, "page_digests"},
    };
    Error err = ERROR_INIT;

    (void)state;
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        const Problem problem = {
            .kind = kinds[i].kind, .path = "base/1/2", .message = "\"base/1/2\" is bad"};
        Buf line = BUF_INIT;

        assert_true(json_problem(&problem, &line, &err));
        assert_value(&line, "event", "problem");
        assert_value(&line, "kind", kinds[i].name);
        assert_value(&line, "path", "base/1/2");
        assert_value(&line, "message", "\"base/1/2\" is bad");
        buf_free(&line);
    }
}

static void
test_problem_with_a_page(void **state)
{
    Problem problem = {.kind = PROBLEM_PAGE,
                       .path = "base/5/16384",
                       .message = "m",
                       .block = 4294967294,
                       .expected = 65535,
                       .found = 0};
    Buf line = BUF_INIT;
    Error err = ERROR_INIT;

    (void)state;
    assert_true(json_problem(&problem, &line, &err));
    assert_line(&line, "{\"version\":1,\"event\":\"problem\",\"kind\":\"page\","
                       "\"path\":\"base/5/16384\",\"message\":\"m\",\"block\":4294967294,"
                       "\"expected\":65535,\"found\":0}\n");
    buf_clear(&line);
    /* How many there are in a file: no page of its own. */
    problem.block = PROBLEM_WHOLE_FILE;
    assert_true(json_problem(&problem, &line, &err));
    assert_value(&line, "block", "null");
    assert_value(&line, "expected", "null");
    assert_value(&line, "found", "null");
    buf_free(&line);
}

static void
test_problem_with_wal(void **state)
{
    const Problem problem = {
        .kind = PROBLEM_WAL, .path = "pg_wal", .message = "m", .lsn = 0x1000000ab};
    Buf line = BUF_INIT;
    Error err = ERROR_INIT;

    (void)state;
    assert_true(json_problem(&problem, &line, &err));
    assert_line(&line, "{\"version\":1,\"event\":\"problem\",\"kind\":\"wal\",\"path\":\"pg_wal\","
                       "\"message\":\"m\",\"lsn\":\"1/AB\"}\n");
    buf_free(&line);
}

static void
test_end(void **state)
{
    BackupSummary summary = {.received = 1000,
                             .wal_received = 16777216,
                             .elapsed_ms = 10240,
                             .start = 0x2000028,
                             .end = 0x2000158,
                             .timeline = 1,
                             .manifest_checked = true,
                             .files = 970,
                             .bytes = 900,
                             .pages_checked = true,
                             .pages = 2900,
                             .bad_pages = 1,
                             .wal_checked = true,
                             .durable = true};
    Buf line = BUF_INIT;
    Error err = ERROR_INIT;

    (void)state;
    assert_true(json_end(&summary, &line, &err));
    assert_line(&line, "{\"version\":1,\"event\":\"end\",\"received_bytes\":1000,"
                       "\"wal_received_bytes\":16777216,\"elapsed_ms\":10240,"
                       "\"start_lsn\":\"0/2000028\",\"end_lsn\":\"0/2000158\",\"timeline\":1,"
                       "\"files_checked\":970,\"bytes_checked\":900,\"pages_checked\":2900,"
                       "\"pages_bad\":1,\"wal_checked\":true,\"durable\":true}\n");
    buf_clear(&line);
    summary.manifest_checked = false;
    summary.pages_checked = false;
    summary.wal_checked = false;
    summary.durable = false;
    assert_true(json_end(&summary, &line, &err));
    assert_value(&line, "files_checked", "null");
    assert_value(&line, "bytes_checked", "null");
    assert_value(&line, "pages_checked", "null");
    assert_value(&line, "pages_bad", "null");
    assert_value(&line, "wal_checked", "false");
    assert_value(&line, "durable", "false");
    buf_free(&line);
}

static void
test_error(void **state)
{
    Error failure = {
        .code = ERR_SERVER, .sqlstate = "XX001", .message = "a \"message\"", .hint = "Look there."};
    Buf line = BUF_INIT;
    Error err = ERROR_INIT;

    (void)state;
    assert_true(json_error(&failure, 0, &line, &err));
    assert_line(&line, "{\"version\":1,\"event\":\"error\",\"code\":\"server\","
                       "\"message\":\"a \\\"message\\\"\",\"hint\":\"Look there.\","
                       "\"sqlstate\":\"XX001\",\"signal\":null}\n");
    buf_clear(&line);
    failure = (Error){.code = ERR_STOPPED, .message = "stopped"};
    assert_true(json_error(&failure, 15, &line, &err));
    assert_line(&line, "{\"version\":1,\"event\":\"error\",\"code\":\"stopped\","
                       "\"message\":\"stopped\",\"hint\":null,\"sqlstate\":null,\"signal\":15}\n");
    buf_free(&line);
}

static void
test_codes_of_errors(void **state)
{
    const struct {
        ErrorCode code;
        const char *name;
    } codes[] = {
        {ERR_USAGE, "usage"},     {ERR_MEMORY, "memory"},
        {ERR_SYSTEM, "system"},   {ERR_CONNECTION, "connection"},
        {ERR_SERVER, "server"},   {ERR_PROTOCOL, "protocol"},
        {ERR_FORMAT, "format"},   {ERR_UNSUPPORTED, "unsupported"},
        {ERR_STOPPED, "stopped"}, {ERR_MISMATCH, "mismatch"},
        {ERR_BUG, "bug"},         {ERR_NONE, "bug"},
    };
    Error err = ERROR_INIT;

    (void)state;
    for (size_t i = 0; i < sizeof codes / sizeof codes[0]; i++) {
        const Error failure = {.code = codes[i].code};
        Buf line = BUF_INIT;

        assert_true(json_error(&failure, 0, &line, &err));
        assert_value(&line, "code", codes[i].name);
        buf_free(&line);
    }
}

/* ---- texts ---- */

/* A path goes out as `escaped`, is read as `read`, and in hex as well unless that is NULL. */
static void
assert_path(const char *path, const char *escaped, const char *read, const char *hex)
{
    const BackupProgress progress = {.current = path};
    const Speed speed = {.known = false};
    Buf line = BUF_INIT;
    Buf expected = BUF_INIT;
    Error err = ERROR_INIT;

    assert_true(json_progress(&progress, &speed, &line, &err));
    assert_true(buf_printf(&expected, &err, "\"current\":\"%s\",", escaped));
    assert_non_null(strstr(buf_text(&line), buf_text(&expected)));
    assert_value(&line, "current", read);
    if (hex == NULL)
        assert_null(strstr(buf_text(&line), "current_hex"));
    else
        assert_value(&line, "current_hex", hex);
    buf_free(&line);
    buf_free(&expected);
}

static void
test_characters_that_are_escaped(void **state)
{
    (void)state;
    assert_path("", "", "", NULL);
    assert_path("a b/c", "a b/c", "a b/c", NULL);
    assert_path("\"\\/", "\\\"\\\\/", "\"\\/", NULL);
    assert_path("\n\t\33\1\37 \177", "\\u000a\\u0009\\u001b\\u0001\\u001f \177",
                "\n\t\33\1\37 \177", NULL);
    /* What looks like a format is none. */
    assert_path("100%s%n", "100%s%n", "100%s%n", NULL);
}

static void
test_characters_of_several_bytes(void **state)
{
    const char *const valid[] = {
        "\xc2\x80",         "\xdf\xbf",         "\xe0\xa0\x80",       "\xec\xbf\xbf",
        "\xed\x9f\xbf",     "\xee\x80\x80",     "\xef\xbf\xbf",       "\xf0\x90\x80\x80",
        "\xf3\xbf\xbf\xbf", "\xf4\x8f\xbf\xbf", "gr\xc3\xbc\xc3\x9f", "\xef\xbf\xbd",
    };

    (void)state;
    for (size_t i = 0; i < sizeof valid / sizeof valid[0]; i++)
        assert_path(valid[i], valid[i], valid[i], NULL);
}

#define LOST "\xef\xbf\xbd"

static void
test_bytes_that_are_no_characters(void **state)
{
    (void)state;
    assert_path("\x80", "\\ufffd", LOST, "80");
    assert_path("a\xff", "a\\ufffd", "a" LOST, "61ff");
    /* Cut short, by the end and by another character. */
    assert_path("\xc3", "\\ufffd", LOST, "c3");
    assert_path("\xe2\x82z", "\\ufffd\\ufffdz", LOST LOST "z", "e2827a");
    assert_path("\xf0\x9f\x98\xc3\xa4", "\\ufffd\\ufffd\\ufffd\xc3\xa4", LOST LOST LOST "\xc3\xa4",
                "f09f98c3a4");
    /* Longer than needed, a surrogate, and beyond U+10FFFF. */
    assert_path("\xc0\xaf", "\\ufffd\\ufffd", LOST LOST, "c0af");
    assert_path("\xe0\x9f\xbf", "\\ufffd\\ufffd\\ufffd", LOST LOST LOST, "e09fbf");
    assert_path("\xed\xa0\x80", "\\ufffd\\ufffd\\ufffd", LOST LOST LOST, "eda080");
    assert_path("\xf4\x90\x80\x80", "\\ufffd\\ufffd\\ufffd\\ufffd", LOST LOST LOST LOST,
                "f4908080");
    assert_path("\xf5\x80\x80\x80", "\\ufffd\\ufffd\\ufffd\\ufffd", LOST LOST LOST LOST,
                "f5808080");
}

/* Messages and the paths of problems too. */
static void
test_other_texts(void **state)
{
    const Problem problem = {.kind = PROBLEM_EXTRA, .path = "\xe4", .message = "\"\xe4\" is new"};
    Error failure = {.code = ERR_SYSTEM, .message = "could not open \"\xe4\"", .hint = "\xe4"};
    Buf line = BUF_INIT;
    Error err = ERROR_INIT;

    (void)state;
    assert_true(json_problem(&problem, &line, &err));
    assert_value(&line, "path", LOST);
    assert_value(&line, "path_hex", "e4");
    assert_value(&line, "message", "\"" LOST "\" is new");
    buf_clear(&line);
    assert_true(json_error(&failure, 0, &line, &err));
    assert_value(&line, "message", "could not open \"" LOST "\"");
    assert_value(&line, "hint", LOST);
    /* A message that was cut to its room within a character. */
    memset(failure.message, 'x', sizeof failure.message);
    failure.message[sizeof failure.message - 2] = '\xc3';
    failure.message[sizeof failure.message - 1] = '\0';
    buf_clear(&line);
    assert_true(json_error(&failure, 0, &line, &err));
    assert_is_json(&line);
    buf_free(&line);
}

/* Whatever a path is made of, the line is JSON, and the path can be had from it. */
static void
test_paths_of_any_bytes(void **state)
{
    /* Bytes of which many make characters, or nearly. */
    static const char bytes[] = "a\"\\\n\x7f\x80\xa0\xbf\xc2\xe0\xe2\xed\xf0\xf4\xff";
    unsigned seed = 1;

    (void)state;
    for (int round = 0; round < 20000; round++) {
        char path[13] = "";
        char hex[2 * sizeof path + 1];
        const BackupProgress progress = {.current = path};
        const Speed speed = {.known = false};
        Buf line = BUF_INIT;
        Error err = ERROR_INIT;

        for (size_t i = 0; i < sizeof path - 1; i++) {
            seed = seed * 1664525 + 1013904223;
            path[i] = bytes[(seed >> 16) % (sizeof bytes - 1)];
        }
        hex_format((const uint8_t *)path, strlen(path), hex);
        assert_true(json_progress(&progress, &speed, &line, &err));
        if (strstr(buf_text(&line), "current_hex") != NULL)
            assert_value(&line, "current_hex", hex);
        else
            assert_value(&line, "current", path);
        buf_free(&line);
    }
}

static void
test_no_memory(void **state)
{
    const Problem problem = {.kind = PROBLEM_PAGE,
                             .path = "\xff/a/long/path/that/does/not/fit/at/once",
                             .message = "a message\n",
                             .found = 1};
    int failures = 0;
    bool ok = false;

    (void)state;
    for (int at = 1; !ok; at++) {
        Buf line = BUF_INIT;
        Error err = ERROR_INIT;

        fail_at = at;
        ok = json_problem(&problem, &line, &err);
        fail_at = 0;
        assert_true(ok || err.code == ERR_MEMORY);
        failures += ok ? 0 : 1;
        buf_free(&line);
    }
    assert_true(failures >= 3);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_waiting),
        cmocka_unit_test(test_begin),
        cmocka_unit_test(test_progress),
        cmocka_unit_test(test_problems),
        cmocka_unit_test(test_problem_with_a_page),
        cmocka_unit_test(test_problem_with_wal),
        cmocka_unit_test(test_end),
        cmocka_unit_test(test_error),
        cmocka_unit_test(test_codes_of_errors),
        cmocka_unit_test(test_characters_that_are_escaped),
        cmocka_unit_test(test_characters_of_several_bytes),
        cmocka_unit_test(test_bytes_that_are_no_characters),
        cmocka_unit_test(test_other_texts),
        cmocka_unit_test(test_paths_of_any_bytes),
        cmocka_unit_test(test_no_memory),
    };

    return cmocka_run_group_tests_name("progress_json", tests, NULL, NULL);
}
