/*
 * The manifest's JSON tokenizer. Every input runs whole, byte by byte and in pieces of each size:
 * the tokens and the message must not depend on where it is cut.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "manifest/internal.h"

/* ---- a trace of what the parser gives ---- */

typedef struct Trace {
    Buf text;      /* { } [ ] k:key s:scalar, each with a blank behind it */
    size_t refuse; /* refuse this token, counted from 1; 0: none */
    size_t tokens;
} Trace;

static bool
take(void *ctx, JsonToken token, const char *text, Error *err)
{
    static const char *const marks[] = {"{", "}", "[", "]", "k:", "s:"};
    Trace *trace = ctx;

    if (++trace->tokens == trace->refuse)
        return error_set(err, ERR_FORMAT, "token refused");
    assert_true(token < JSON_KEY ? text[0] == '\0' : true);
    return buf_printf(&trace->text, err, "%s%s ", marks[token], text);
}

/* The input in pieces of `piece` bytes; each lies in a block of its own. */
static bool
run(const char *input, size_t len, size_t piece, Trace *trace, Error *err)
{
    JsonParser *parser = mem_alloc(sizeof *parser, err);
    bool ok = true;

    assert_non_null(parser);
    json_init(parser, take, trace);
    for (size_t at = 0; ok && at < len; at += piece) {
        size_t count = len - at < piece ? len - at : piece;
        uint8_t *block = mem_alloc(count, err);

        assert_non_null(block);
        memcpy(block, input + at, count);
        ok = json_feed(parser, (Span){.data = block, .len = count}, err);
        free(block);
    }
    ok = ok && json_finish(parser, err);
    free(parser);
    return ok;
}

/* `message` NULL: accepted. `tokens` are those before the end or the failure. */
static void
check_bytes(const char *input, size_t len, const char *tokens, const char *message)
{
    for (size_t piece = 1; piece <= len || piece == 1; piece++) {
        Trace trace = {.text = BUF_INIT};
        Error err = ERROR_INIT;
        bool ok = run(input, len, piece, &trace, &err);

        assert_string_equal(err.message, message == NULL ? "" : message);
        assert_int_equal(ok, message == NULL);
        assert_int_equal(err.code, message == NULL ? ERR_NONE : ERR_FORMAT);
        assert_string_equal(buf_text(&trace.text), tokens);
        buf_free(&trace.text);
    }
}

static void
check(const char *input, const char *tokens)
{
    check_bytes(input, strlen(input), tokens, NULL);
}

#define PREFIX "could not parse backup manifest: "

static void
refuse(const char *input, const char *tokens, const char *message)
{
    Error full = ERROR_INIT;

    error_ignored(error_set(&full, ERR_FORMAT, PREFIX "%s", message));
    check_bytes(input, strlen(input), tokens, full.message);
}

/* ---- values ---- */

static void
scalars(void **state)
{
    (void)state;
    check("true", "s:true ");
    check("false", "s:false ");
    check("null", "s:null ");
    check("\"\"", "s: ");
    check("\"a b\"", "s:a b ");
    check(" \t\r\n\"x\" \t\r\n", "s:x ");
}

static void
numbers(void **state)
{
    static const char *const good[] = {
        "0",    "-0",      "7",       "10",       "18446744073709551616",
        "-12",  "0.5",     "1.0",     "1e5",      "1E5",
        "1e+5", "1E-05",   "-0.0e-0", "12.34e56", "1e999",
        "0e1",  "100.001",
    };
    static const char *const bad[] = {
        "-",     "01",  "-01",      "00",   "1.",    "1.e5",  "1e",        "1e+", "1e-",
        "1.5.5", "1-",  "1+1",      "0x10", "1e5e5", "--1",   "1_000",     "-a",  "1a",
        "e5",    "NaN", "Infinity", "tru",  "True",  "nulll", "falsetrue", "_",   "a.b",
    };

    (void)state;
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        Error expected = ERROR_INIT;

        error_ignored(error_set(&expected, ERR_BUG, "s:%s ", good[i]));
        check(good[i], expected.message);
    }
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        Error expected = ERROR_INIT;

        error_ignored(error_set(&expected, ERR_BUG, "line 1: token \"%s\" is invalid", bad[i]));
        refuse(bad[i], "", expected.message);
    }
    /* These are no words at all. */
    refuse("#", "", "line 1: expected a value, but found '#'");
    refuse("'a'", "", "line 1: expected a value, but found '''");
}

static void
words_begin_anywhere(void **state)
{
    (void)state;
    /* "+1" and ".5" are collected as words, so that the message shows them whole. */
    refuse("+1", "", "line 1: token \"+1\" is invalid");
    refuse("[.5]", "[ ", "line 1: token \".5\" is invalid");
    /* A word ends at whatever cannot be part of one. */
    check("[1,2]", "[ s:1 s:2 ] ");
    check("[1 ,2\n]", "[ s:1 s:2 ] ");
    check("{\"a\":true}", "{ k:a s:true } ");
    refuse("[1\"a\"]", "[ s:1 ", "line 1: expected \",\" or a closing bracket, but found '\"'");
    refuse("[1 2]", "[ s:1 ", "line 1: expected \",\" or a closing bracket, but found '2'");
    refuse("[true{}]", "[ s:true ", "line 1: expected \",\" or a closing bracket, but found '{'");
}

static void
structure(void **state)
{
    (void)state;
    check("{}", "{ } ");
    check("[]", "[ ] ");
    check("[[],{}]", "[ [ ] { } ] ");
    check("{\"a\":{\"b\":[1,{\"c\":null}]},\"d\":2}",
          "{ k:a { k:b [ s:1 { k:c s:null } ] } k:d s:2 } ");
    check("{ \"a\" : [ ] , \"\" : \"\" }\n", "{ k:a [ ] k: s: } ");
    /* Keys may repeat: what that means is for the reader to say. */
    check("{\"a\":1,\"a\":2}", "{ k:a s:1 k:a s:2 } ");
}

static void
grammar_errors(void **state)
{
    static const struct {
        const char *input;
        const char *tokens;
        const char *message;
    } cases[] = {
        {"}", "", "line 1: expected a value, but found '}'"},
        {"]", "", "line 1: expected a value, but found ']'"},
        {",", "", "line 1: expected a value, but found ','"},
        {":", "", "line 1: expected a value, but found ':'"},
        {"[}", "[ ", "line 1: expected a value or \"]\", but found '}'"},
        {"[,", "[ ", "line 1: expected a value or \"]\", but found ','"},
        {"[1}", "[ s:1 ", "line 1: expected \",\" or a closing bracket, but found '}'"},
        {"[1,]", "[ s:1 ", "line 1: expected a value, but found ']'"},
        {"[1,,2]", "[ s:1 ", "line 1: expected a value, but found ','"},
        {"[1:2]", "[ s:1 ", "line 1: expected \",\" or a closing bracket, but found ':'"},
        {"{]", "{ ", "line 1: expected a key or \"}\", but found ']'"},
        {"{,", "{ ", "line 1: expected a key or \"}\", but found ','"},
        {"{1:2}", "{ ", "line 1: expected a key or \"}\", but found '1'"},
        {"{a:2}", "{ ", "line 1: expected a key or \"}\", but found 'a'"},
        {"{{", "{ ", "line 1: expected a key or \"}\", but found '{'"},
        {"{\"a\"}", "{ k:a ", "line 1: expected \":\", but found '}'"},
        {"{\"a\" 1}", "{ k:a ", "line 1: expected \":\", but found '1'"},
        {"{\"a\",1}", "{ k:a ", "line 1: expected \":\", but found ','"},
        {"{\"a\":}", "{ k:a ", "line 1: expected a value, but found '}'"},
        {"{\"a\"::1}", "{ k:a ", "line 1: expected a value, but found ':'"},
        {"{\"a\":1,}", "{ k:a s:1 ", "line 1: expected a key, but found '}'"},
        {"{\"a\":1]", "{ k:a s:1 ", "line 1: expected \",\" or a closing bracket, but found ']'"},
        {"{\"a\":1 \"b\":2}", "{ k:a s:1 ",
         "line 1: expected \",\" or a closing bracket, but found '\"'"},
        {"{}{", "{ } ", "line 1: expected the end, but found '{'"},
        {"{}]", "{ } ", "line 1: expected the end, but found ']'"},
        {"{},", "{ } ", "line 1: expected the end, but found ','"},
        {"{}\"a\"", "{ } ", "line 1: expected the end, but found '\"'"},
        {"{}\n\n1", "{ } ", "line 3: expected the end, but found '1'"},
        {"1 2", "s:1 ", "line 1: expected the end, but found '2'"},
        {"\n[\n1,\n\n;", "[ s:1 ", "line 5: expected a value, but found ';'"},
        {"\xEF\xBB\xBF{}", "", "line 1: expected a value, but found byte 0xef"},
        {"[\x01", "[ ", "line 1: expected a value or \"]\", but found byte 0x01"},
        {"[1\x7F", "[ s:1 ", "line 1: expected \",\" or a closing bracket, but found byte 0x7f"},
        {"[\v1]", "[ ", "line 1: expected a value or \"]\", but found byte 0x0b"},
        {"/* */", "", "line 1: expected a value, but found '/'"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        refuse(cases[i].input, cases[i].tokens, cases[i].message);
    check_bytes("[\0]", 3, "[ ", PREFIX "line 1: expected a value or \"]\", but found byte 0x00");
}

static void
unfinished_input(void **state)
{
    static const char whole[] = "{\"k\\u00e9\":[1.5,true,\"\xC3\xA9\\n\\ud83d\\ude00\",{}]}";

    (void)state;
    for (size_t len = 0; len < sizeof whole - 1; len++) {
        Trace trace = {.text = BUF_INIT};
        Error err = ERROR_INIT;

        assert_false(run(whole, len, len + 1, &trace, &err));
        assert_int_equal(err.code, ERR_FORMAT);
        /* A cut number or word may be a whole one or none; all else is just incomplete. */
        if (strstr(err.message, "is invalid") == NULL)
            assert_string_equal(err.message, PREFIX "manifest ended unexpectedly");
        buf_free(&trace.text);
    }
    check(whole, "{ k:k\xC3\xA9 [ s:1.5 s:true s:\xC3\xA9\n\xF0\x9F\x98\x80 { } ] } ");
    refuse("", "", "manifest ended unexpectedly");
    refuse("  \n", "", "manifest ended unexpectedly");
    refuse("tru", "", "line 1: token \"tru\" is invalid");
}

/* ---- strings ---- */

static void
escapes(void **state)
{
    (void)state;
    check("\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"", "s:\"\\/\b\f\n\r\t ");
    check("\"\\u0041\\u007f\\u0080\\u07ff\\u0800\\uffff\"",
          "s:A\x7F\xC2\x80\xDF\xBF\xE0\xA0\x80\xEF\xBF\xBF ");
    check("\"\\u00E9\\u00e9\"", "s:\xC3\xA9\xC3\xA9 ");
    check("\"\\u0001\\u001f\"", "s:\x01\x1F ");
    check("\"\\ud800\\udc00\\uDBFF\\uDFFF\"", "s:\xF0\x90\x80\x80\xF4\x8F\xBF\xBF ");
    check("\"\\ud7ff\\ue000\"", "s:\xED\x9F\xBF\xEE\x80\x80 ");
    check("{\"\\u0050ath\":1}", "{ k:Path s:1 } ");
    /* After an escape the rest is plain again. */
    check("\"a\\\\nb\"", "s:a\\nb ");
}

static void
bad_escapes(void **state)
{
    (void)state;
    refuse("\"\\x\"", "", "line 1: invalid escape: byte 0x78 after a backslash");
    refuse("\"\\U0041\"", "", "line 1: invalid escape: byte 0x55 after a backslash");
    refuse("\"\\\n\"", "", "line 1: invalid escape: byte 0x0a after a backslash");
    refuse("\"\\u12g4\"", "", "line 1: invalid escape: byte 0x67 among the digits of \\u");
    refuse("\"\\u12\"", "", "line 1: invalid escape: byte 0x22 among the digits of \\u");
    refuse("\"\\u0000\"", "", "line 1: \\u0000 cannot be part of a text");
    refuse("\"\\ud800\"", "", "line 1: unpaired surrogate \\ud800");
    refuse("\"\\udbffx\"", "", "line 1: unpaired surrogate \\udbff");
    refuse("\"\\udc00\"", "", "line 1: unpaired surrogate \\udc00");
    refuse("\"\\udfff\\ud800\"", "", "line 1: unpaired surrogate \\udfff");
    refuse("\"\\ud800\\ud800\"", "", "line 1: unpaired surrogate \\ud800");
    refuse("\"\\ud800\\u0041\"", "", "line 1: unpaired surrogate \\ud800");
    refuse("\"\\ud800\\u0000\"", "", "line 1: unpaired surrogate \\ud800");
    refuse("\"\\ud800\\n\"", "", "line 1: unpaired surrogate \\ud800");
    refuse("\"\\ud800\\", "", "manifest ended unexpectedly");
    check_bytes("\"\\\0\"", 4, "", PREFIX "line 1: invalid escape: byte 0x00 after a backslash");
}

static void
raw_control_bytes(void **state)
{
    (void)state;
    for (int byte = 0; byte < 0x20; byte++) {
        char input[] = {'"', 'a', (char)byte, '"'};
        Error expected = ERROR_INIT;

        error_ignored(error_set(&expected, ERR_FORMAT,
                                PREFIX "line 1: byte 0x%02x inside a string must be escaped",
                                (unsigned)byte));
        check_bytes(input, sizeof input, "", expected.message);
    }
    check("\"\x7F\"", "s:\x7F ");
}

static void
utf8(void **state)
{
    static const char *const good[] = {
        "\xC2\x80",         "\xDF\xBF",         "\xE0\xA0\x80",         "\xE1\x80\x80",
        "\xEC\xBF\xBF",     "\xED\x80\x80",     "\xED\x9F\xBF",         "\xEE\x80\x80",
        "\xEF\xBF\xBF",     "\xF0\x90\x80\x80", "\xF1\x80\x80\x80",     "\xF3\xBF\xBF\xBF",
        "\xF4\x8F\xBF\xBF", "a\xC3\xA9z",       "\xE2\x82\xAC\xC3\xA9",
    };
    static const struct {
        const char *text;
        unsigned byte; /* where it shows */
    } bad[] = {
        {"\x80", 0x80},
        {"\xBF", 0xBF},
        {"\xC0\x80", 0xC0},
        {"\xC1\xBF", 0xC1},
        {"\xC2", 0x22},
        {"\xC2\xC2", 0xC2},
        {"\xC2\x41", 0x41},
        {"\xE0\x9F\xBF", 0x9F},
        {"\xE0\xA0", 0x22},
        {"\xE1\x80\xC0", 0xC0},
        {"\xED\xA0\x80", 0xA0},
        {"\xED\xBF\xBF", 0xBF},
        {"\xF0\x8F\xBF\xBF", 0x8F},
        {"\xF0\x90\x80", 0x22},
        {"\xF1\x80\x7F", 0x7F},
        {"\xF4\x90\x80\x80", 0x90},
        {"\xF5\x80\x80\x80", 0xF5},
        {"\xFE", 0xFE},
        {"\xFF", 0xFF},
    };

    (void)state;
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        Error input = ERROR_INIT;
        Error tokens = ERROR_INIT;

        error_ignored(error_set(&input, ERR_BUG, "\"%s\"", good[i]));
        error_ignored(error_set(&tokens, ERR_BUG, "s:%s ", good[i]));
        check(input.message, tokens.message);
    }
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        Error input = ERROR_INIT;
        Error message = ERROR_INIT;

        error_ignored(error_set(&input, ERR_BUG, "\"%s\"", bad[i].text));
        error_ignored(
            error_set(&message, ERR_BUG, "line 1: invalid UTF-8: byte 0x%02x", bad[i].byte));
        refuse(input.message, "", message.message);
    }
}

/* ---- limits ---- */

static void
depth_limit(void **state)
{
    (void)state;
    check("[[[[[[[[]]]]]]]]", "[ [ [ [ [ [ [ [ ] ] ] ] ] ] ] ] ");
    refuse("[[[[[[[[[", "[ [ [ [ [ [ [ [ ", "line 1: more than 8 nested brackets");
    refuse("[[[[[[[{\"a\":{", "[ [ [ [ [ [ [ { k:a ", "line 1: more than 8 nested brackets");
    /* Each depth remembers what kind of bracket it is, also after another kind was there. */
    check("[{\"a\":[]},[{}],[[1]],{\"b\":{}}]", "[ { k:a [ ] } [ { } ] [ [ s:1 ] ] { k:b { } } ] ");
    refuse("[{\"a\":[1,2}", "[ { k:a [ s:1 s:2 ",
           "line 1: expected \",\" or a closing bracket, but found '}'");
    refuse("[[],[]}", "[ [ ] [ ] ", "line 1: expected \",\" or a closing bracket, but found '}'");
}

/* A million brackets cost nothing but the refusal of the ninth. */
static void
endless_nesting(void **state)
{
    const size_t len = 1000000;
    char *input = malloc(len);
    Trace trace = {.text = BUF_INIT};
    Error err = ERROR_INIT;

    (void)state;
    assert_non_null(input);
    memset(input, '[', len);
    assert_false(run(input, len, 4096, &trace, &err));
    assert_string_equal(err.message, PREFIX "line 1: more than 8 nested brackets");
    assert_int_equal(trace.tokens, 8);
    buf_free(&trace.text);
    free(input);
}

/* `count` times `unit` as a string. */
static char *
repeated(const char *before, const char *unit, size_t count, const char *after)
{
    Buf text = BUF_INIT;
    Error err = ERROR_INIT;

    assert_true(buf_append(&text, before, strlen(before), &err));
    for (size_t i = 0; i < count; i++)
        assert_true(buf_append(&text, unit, strlen(unit), &err));
    assert_true(buf_append(&text, after, strlen(after), &err));
    return (char *)text.data;
}

static void
check_limit(const char *before, const char *unit, size_t fits, const char *after)
{
    for (size_t extra = 0; extra < 2; extra++) {
        char *input = repeated(before, unit, fits + extra, after);

        for (size_t piece = 1; piece < 20000; piece *= 5) {
            Trace trace = {.text = BUF_INIT};
            Error err = ERROR_INIT;

            assert_int_equal(run(input, strlen(input), piece, &trace, &err), extra == 0);
            assert_string_equal(
                err.message, extra == 0 ? "" : PREFIX "line 1: a text is longer than 8192 bytes");
            assert_int_equal(trace.tokens, extra == 0 ? 1 : 0);
            buf_free(&trace.text);
        }
        free(input);
    }
}

static void
text_limit(void **state)
{
    (void)state;
    check_limit("\"", "a", JSON_TEXT_LIMIT, "\"");
    check_limit("\"", "\xC3\xA9", JSON_TEXT_LIMIT / 2, "\"");
    check_limit("\"", "\xF0\x9F\x98\x80", JSON_TEXT_LIMIT / 4, "\"");
    check_limit("\"", "\\n", JSON_TEXT_LIMIT, "\"");
    check_limit("\"", "\\u00e9", JSON_TEXT_LIMIT / 2, "\"");
    check_limit("\"", "\\ud83d\\ude00", JSON_TEXT_LIMIT / 4, "\"");
    check_limit("", "1", JSON_TEXT_LIMIT, "");
}

/* A string that never ends is refused at the limit, not collected. */
static void
endless_string(void **state)
{
    char *input = repeated("\"", "xxxxxxxxxxxxxxxx", 1000000, "");
    Trace trace = {.text = BUF_INIT};
    Error err = ERROR_INIT;

    (void)state;
    assert_false(run(input, strlen(input), strlen(input), &trace, &err));
    assert_string_equal(err.message, PREFIX "line 1: a text is longer than 8192 bytes");
    free(input);
}

/* ---- the taker ---- */

static void
taker_refuses(void **state)
{
    static const char input[] = "{\"a\":[1,{\"b\":\"c\"}]}";

    (void)state;
    for (size_t refused = 1; refused <= 10; refused++) {
        for (size_t piece = 1; piece < sizeof input; piece++) {
            Trace trace = {.text = BUF_INIT, .refuse = refused};
            Error err = ERROR_INIT;

            assert_false(run(input, sizeof input - 1, piece, &trace, &err));
            assert_string_equal(err.message, "token refused");
            assert_int_equal(trace.tokens, refused);
            buf_free(&trace.text);
        }
    }
}

/* A word at the very end is only complete, and only refused, at the finish. */
static void
taker_refuses_at_finish(void **state)
{
    Trace trace = {.text = BUF_INIT, .refuse = 1};
    Error err = ERROR_INIT;

    (void)state;
    assert_false(run("12", 2, 2, &trace, &err));
    assert_string_equal(err.message, "token refused");
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(scalars),
        cmocka_unit_test(numbers),
        cmocka_unit_test(words_begin_anywhere),
        cmocka_unit_test(structure),
        cmocka_unit_test(grammar_errors),
        cmocka_unit_test(unfinished_input),
        cmocka_unit_test(escapes),
        cmocka_unit_test(bad_escapes),
        cmocka_unit_test(raw_control_bytes),
        cmocka_unit_test(utf8),
        cmocka_unit_test(depth_limit),
        cmocka_unit_test(endless_nesting),
        cmocka_unit_test(text_limit),
        cmocka_unit_test(endless_string),
        cmocka_unit_test(taker_refuses),
        cmocka_unit_test(taker_refuses_at_finish),
    };

    return cmocka_run_group_tests_name("json", tests, NULL, NULL);
}
