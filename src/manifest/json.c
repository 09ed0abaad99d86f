/*
 * JSON in pieces.
 *
 * Two machines on top of each other. `lex` says inside which token the last byte was: a string and
 * its escapes, a bare word (number, true, false, null), or between tokens. `state` says what the
 * grammar allows next and is only looked at between tokens. Every piece of a token that may be cut
 * by the end of the input piece is a state of its own, so where the input is cut never matters.
 */
#include "manifest/internal.h"

#include <string.h>

enum {
    WANT_VALUE,        /* at the top, after ":", after "," in an array */
    WANT_VALUE_OR_END, /* after "[" */
    WANT_KEY,          /* after "," in an object */
    WANT_KEY_OR_END,   /* after "{" */
    WANT_COLON,        /* after a key */
    WANT_COMMA_OR_END, /* after a value inside brackets */
    WANT_NOTHING       /* after the value at the top */
};

static const char *const wanted[] = {
    [WANT_VALUE] = "a value",   [WANT_VALUE_OR_END] = "a value or \"]\"",
    [WANT_KEY] = "a key",       [WANT_KEY_OR_END] = "a key or \"}\"",
    [WANT_COLON] = "\":\"",     [WANT_COMMA_OR_END] = "\",\" or a closing bracket",
    [WANT_NOTHING] = "the end",
};

enum {
    LEX_BETWEEN,       /* in white space or before a token */
    LEX_WORD,          /* in a number, true, false or null */
    LEX_STRING,        /* in a string, before a character */
    LEX_UTF8,          /* in a string, inside a character of several bytes */
    LEX_ESCAPE,        /* after a backslash */
    LEX_UNIT,          /* in the hex digits after \u */
    LEX_LOW_BACKSLASH, /* after a high surrogate, before the low one's backslash */
    LEX_LOW_U          /* before the low one's "u" */
};

#define json_fail(parser, err, fmt, ...)                                                           \
    error_set(err, ERR_FORMAT, PARSE_ERROR "line %llu: " fmt, (unsigned long long)(parser)->line,  \
              __VA_ARGS__)

void
json_init(JsonParser *parser, JsonTake *take, void *ctx)
{
    *parser =
        (JsonParser){.take = take, .ctx = ctx, .state = WANT_VALUE, .lex = LEX_BETWEEN, .line = 1};
}

/* ---- grammar ---- */

static bool
fail_unexpected(const JsonParser *parser, uint8_t byte, Error *err)
{
    const char *want = wanted[parser->state];

    if (byte > 0x20 && byte < 0x7F)
        return json_fail(parser, err, "expected %s, but found '%c'", want, byte);
    return json_fail(parser, err, "expected %s, but found byte 0x%02x", want, byte);
}

static bool
wants_value(const JsonParser *parser)
{
    return parser->state == WANT_VALUE || parser->state == WANT_VALUE_OR_END;
}

/* What may follow a value that is complete. */
static int
state_after_value(const JsonParser *parser)
{
    return parser->depth == 0 ? WANT_NOTHING : WANT_COMMA_OR_END;
}

static bool
in_object(const JsonParser *parser)
{
    return parser->depth > 0 && (parser->objects >> parser->depth & 1) != 0;
}

static bool
open_bracket(JsonParser *parser, bool is_object, Error *err)
{
    if (parser->depth == JSON_DEPTH_LIMIT)
        return json_fail(parser, err, "more than %d nested brackets", JSON_DEPTH_LIMIT);
    parser->depth++;
    parser->objects &= ~(1u << parser->depth);
    if (is_object)
        parser->objects |= 1u << parser->depth;
    parser->state = is_object ? WANT_KEY_OR_END : WANT_VALUE_OR_END;
    return parser->take(parser->ctx, is_object ? JSON_OBJECT_BEGIN : JSON_ARRAY_BEGIN, "", err);
}

static bool
close_bracket(JsonParser *parser, bool is_object, Error *err)
{
    parser->depth--;
    parser->state = state_after_value(parser);
    return parser->take(parser->ctx, is_object ? JSON_OBJECT_END : JSON_ARRAY_END, "", err);
}

/* Whether "}" or "]" may come now. */
static bool
may_close(const JsonParser *parser, bool is_object)
{
    if (parser->depth == 0 || in_object(parser) != is_object)
        return false;
    return parser->state == WANT_COMMA_OR_END ||
           parser->state == (is_object ? WANT_KEY_OR_END : WANT_VALUE_OR_END);
}

/* The text is complete: hand it over. */
static bool
give_text(JsonParser *parser, Error *err)
{
    parser->lex = LEX_BETWEEN;
    parser->text[parser->text_len] = '\0';
    if (parser->is_key) {
        parser->state = WANT_COLON;
        return parser->take(parser->ctx, JSON_KEY, parser->text, err);
    }
    parser->state = state_after_value(parser);
    return parser->take(parser->ctx, JSON_SCALAR, parser->text, err);
}

static void
begin_text(JsonParser *parser, int lex)
{
    parser->is_key = parser->state == WANT_KEY || parser->state == WANT_KEY_OR_END;
    parser->text_len = 0;
    parser->lex = lex;
}

static bool
add_text(JsonParser *parser, const void *bytes, size_t len, Error *err)
{
    if (len > JSON_TEXT_LIMIT - parser->text_len)
        return json_fail(parser, err, "a text is longer than %d bytes", JSON_TEXT_LIMIT);
    memcpy(parser->text + parser->text_len, bytes, len);
    parser->text_len += len;
    return true;
}

/* ---- numbers and words ---- */

static bool
is_word_byte(uint8_t byte)
{
    return (byte >= '0' && byte <= '9') || (byte >= 'a' && byte <= 'z') ||
           (byte >= 'A' && byte <= 'Z') || byte == '+' || byte == '-' || byte == '.' || byte == '_';
}

static const char *
skip_digits(const char *at)
{
    while (*at >= '0' && *at <= '9')
        at++;
    return at;
}

static bool
is_number(const char *at)
{
    const char *from;

    if (*at == '-')
        at++;
    from = at;
    at = skip_digits(at);
    if (at == from || (*from == '0' && at > from + 1))
        return false;
    if (*at == '.') {
        from = at + 1;
        at = skip_digits(from);
        if (at == from)
            return false;
    }
    if (*at == 'e' || *at == 'E') {
        at++;
        if (*at == '+' || *at == '-')
            at++;
        from = at;
        at = skip_digits(from);
        if (at == from)
            return false;
    }
    return *at == '\0';
}

static bool
end_word(JsonParser *parser, Error *err)
{
    const char *word = parser->text;

    parser->text[parser->text_len] = '\0';
    if (!is_number(word) && strcmp(word, "true") != 0 && strcmp(word, "false") != 0 &&
        strcmp(word, "null") != 0)
        return json_fail(parser, err, "token \"%s\" is invalid", word);
    return give_text(parser, err);
}

static bool
feed_word(JsonParser *parser, Reader *in, Error *err)
{
    const uint8_t *from = in->pos;

    while (in->pos < in->end && is_word_byte(*in->pos))
        in->pos++;
    if (!add_text(parser, from, (size_t)(in->pos - from), err))
        return false;
    return in->pos == in->end || end_word(parser, err);
}

/* ---- between tokens ---- */

static bool
feed_token(JsonParser *parser, uint8_t byte, Error *err)
{
    bool is_object = byte == '{' || byte == '}';

    if ((byte == '{' || byte == '[') && wants_value(parser))
        return open_bracket(parser, is_object, err);
    if ((byte == '}' || byte == ']') && may_close(parser, is_object))
        return close_bracket(parser, is_object, err);
    if (byte == ':' && parser->state == WANT_COLON) {
        parser->state = WANT_VALUE;
        return true;
    }
    if (byte == ',' && parser->state == WANT_COMMA_OR_END) {
        parser->state = in_object(parser) ? WANT_KEY : WANT_VALUE;
        return true;
    }
    if (byte == '"' &&
        (wants_value(parser) || parser->state == WANT_KEY || parser->state == WANT_KEY_OR_END)) {
        begin_text(parser, LEX_STRING);
        return true;
    }
    return fail_unexpected(parser, byte, err);
}

static bool
feed_between(JsonParser *parser, Reader *in, Error *err)
{
    uint8_t byte = *in->pos;

    if (is_word_byte(byte) && wants_value(parser)) {
        begin_text(parser, LEX_WORD);
        return true;
    }
    in->pos++;
    if (byte == '\n')
        parser->line++; /* a string has none, so all of them pass here */
    if (byte == ' ' || byte == '\t' || byte == '\r' || byte == '\n')
        return true;
    return feed_token(parser, byte, err);
}

/* ---- strings ---- */

/* The first byte of a character of several: how many follow, and what the second may be. */
static bool
begin_utf8(JsonParser *parser, uint8_t lead, Error *err)
{
    if (lead < 0xC2 || lead > 0xF4)
        return json_fail(parser, err, "invalid UTF-8: byte 0x%02x", lead);
    parser->follow = lead < 0xE0 ? 1 : lead < 0xF0 ? 2 : 3;
    parser->follow_min = 0x80;
    parser->follow_max = 0xBF;
    if (lead == 0xE0)
        parser->follow_min = 0xA0; /* less would fit two bytes */
    else if (lead == 0xED)
        parser->follow_max = 0x9F; /* more would be a surrogate */
    else if (lead == 0xF0)
        parser->follow_min = 0x90; /* less would fit three bytes */
    else if (lead == 0xF4)
        parser->follow_max = 0x8F; /* more would be beyond U+10FFFF */
    parser->lex = LEX_UTF8;
    return add_text(parser, &lead, 1, err);
}

static bool
feed_utf8(JsonParser *parser, Reader *in, Error *err)
{
    uint8_t byte = *in->pos++;

    if (byte < parser->follow_min || byte > parser->follow_max)
        return json_fail(parser, err, "invalid UTF-8: byte 0x%02x", byte);
    parser->follow_min = 0x80;
    parser->follow_max = 0xBF;
    if (--parser->follow == 0)
        parser->lex = LEX_STRING;
    return add_text(parser, &byte, 1, err);
}

static bool
is_plain(uint8_t byte)
{
    return byte >= 0x20 && byte < 0x80 && byte != '"' && byte != '\\';
}

static bool
feed_string(JsonParser *parser, Reader *in, Error *err)
{
    const uint8_t *from = in->pos;
    uint8_t byte;

    while (in->pos < in->end && is_plain(*in->pos))
        in->pos++;
    if (!add_text(parser, from, (size_t)(in->pos - from), err))
        return false;
    if (in->pos == in->end)
        return true;

    byte = *in->pos++;
    if (byte == '"')
        return give_text(parser, err);
    if (byte == '\\') {
        parser->lex = LEX_ESCAPE;
        return true;
    }
    if (byte < 0x20)
        return json_fail(parser, err, "byte 0x%02x inside a string must be escaped", byte);
    return begin_utf8(parser, byte, err);
}

static bool
feed_escape(JsonParser *parser, Reader *in, Error *err)
{
    static const char names[] = "\"\\/bfnrt";
    static const char values[] = "\"\\/\b\f\n\r\t";
    uint8_t byte = *in->pos++;
    const char *name;

    if (byte == 'u') {
        parser->unit = 0;
        parser->unit_digits = 0;
        parser->lex = LEX_UNIT;
        return true;
    }
    name = byte == '\0' ? NULL : strchr(names, byte);
    if (name == NULL)
        return json_fail(parser, err, "invalid escape: byte 0x%02x after a backslash", byte);
    parser->lex = LEX_STRING;
    return add_text(parser, values + (name - names), 1, err);
}

/* Append a character as UTF-8. */
static bool
add_character(JsonParser *parser, uint32_t code, Error *err)
{
    uint8_t bytes[4];
    size_t len = code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
    static const uint8_t leads[] = {0, 0, 0xC0, 0xE0, 0xF0};

    for (size_t i = len; i-- > 1; code >>= 6)
        bytes[i] = (uint8_t)(0x80 | (code & 0x3F));
    bytes[0] = (uint8_t)(leads[len] | code);
    parser->lex = LEX_STRING;
    return add_text(parser, bytes, len, err);
}

/* The four digits after \u are complete. */
static bool
end_unit(JsonParser *parser, Error *err)
{
    uint32_t unit = parser->unit;
    uint32_t high = parser->high;
    bool is_low = unit >= 0xDC00 && unit <= 0xDFFF;

    parser->high = 0;
    if (is_low != (high != 0))
        return json_fail(parser, err, "unpaired surrogate \\u%04x", high != 0 ? high : unit);
    if (is_low)
        return add_character(parser, 0x10000 + ((high - 0xD800) << 10) + (unit - 0xDC00), err);
    if (unit == 0)
        return json_fail(parser, err, "\\u%04x cannot be part of a text", unit);
    if (unit >= 0xD800 && unit <= 0xDBFF) {
        parser->high = unit;
        parser->lex = LEX_LOW_BACKSLASH;
        return true;
    }
    return add_character(parser, unit, err);
}

static bool
feed_unit(JsonParser *parser, Reader *in, Error *err)
{
    uint8_t byte = *in->pos++;
    int digit = hex_digit((char)byte);

    if (digit < 0)
        return json_fail(parser, err, "invalid escape: byte 0x%02x among the digits of \\u", byte);
    parser->unit = parser->unit << 4 | (unsigned)digit;
    return ++parser->unit_digits < 4 || end_unit(parser, err);
}

static bool
feed_low_surrogate(JsonParser *parser, Reader *in, Error *err)
{
    bool before_backslash = parser->lex == LEX_LOW_BACKSLASH;

    if (*in->pos++ != (before_backslash ? '\\' : 'u'))
        return json_fail(parser, err, "unpaired surrogate \\u%04x", parser->high);
    parser->unit = 0;
    parser->unit_digits = 0;
    parser->lex = before_backslash ? LEX_LOW_U : LEX_UNIT;
    return true;
}

/* ---- the whole ---- */

static bool
feed_step(JsonParser *parser, Reader *in, Error *err)
{
    switch (parser->lex) {
    case LEX_BETWEEN:
        return feed_between(parser, in, err);
    case LEX_WORD:
        return feed_word(parser, in, err);
    case LEX_STRING:
        return feed_string(parser, in, err);
    case LEX_UTF8:
        return feed_utf8(parser, in, err);
    case LEX_ESCAPE:
        return feed_escape(parser, in, err);
    case LEX_UNIT:
        return feed_unit(parser, in, err);
    default:
        return feed_low_surrogate(parser, in, err);
    }
}

bool
json_feed(JsonParser *parser, Span bytes, Error *err)
{
    Reader in = reader_of(bytes);

    while (reader_left(&in) > 0) {
        if (!feed_step(parser, &in, err))
            return false;
    }
    return true;
}

bool
json_finish(JsonParser *parser, Error *err)
{
    if (parser->lex == LEX_WORD && !end_word(parser, err))
        return false;
    if (parser->lex != LEX_BETWEEN || parser->state != WANT_NOTHING)
        return error_set(err, ERR_FORMAT, PARSE_ERROR "manifest ended unexpectedly");
    return true;
}
