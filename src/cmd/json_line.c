#include "cmd/json_line.h"

#include <stdarg.h>

/* ---- members ---- */

PRINTF_LIKE(2, 0)
static void
vput(JsonLine *line, const char *fmt, va_list args)
{
    line->ok = line->ok && buf_vprintf(line->buf, line->err, fmt, args);
}

PRINTF_LIKE(2, 3)
static void
put(JsonLine *line, const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    vput(line, fmt, args);
    va_end(args);
}

static void
put_key(JsonLine *line, const char *key)
{
    put(line, "%s\"%s\":", line->comma ? "," : "", key);
    line->comma = true;
}

JsonLine
json_line_begin(Buf *buf, Error *err)
{
    JsonLine line = {.buf = buf, .err = err, .ok = true};

    put(&line, "{");
    return line;
}

bool
json_line_end(JsonLine *line)
{
    put(line, "}\n");
    return line->ok;
}

void
json_object_begin(JsonLine *line, const char *key)
{
    put_key(line, key);
    put(line, "{");
    line->comma = false;
}

void
json_object_end(JsonLine *line)
{
    put(line, "}");
    line->comma = true;
}

void
json_array_begin(JsonLine *line, const char *key)
{
    put_key(line, key);
    put(line, "[\n");
    line->comma = false;
}

void
json_element_begin(JsonLine *line)
{
    put(line, "%s{", line->comma ? "," : "");
    line->comma = false;
}

void
json_element_end(JsonLine *line)
{
    put(line, "}\n");
    line->comma = true;
}

void
json_array_end(JsonLine *line)
{
    put(line, "]");
    line->comma = true;
}

void
json_put_raw(JsonLine *line, const char *key, const char *fmt, ...)
{
    va_list args;

    put_key(line, key);
    va_start(args, fmt);
    vput(line, fmt, args);
    va_end(args);
}

void
json_put_number(JsonLine *line, const char *key, uint64_t value)
{
    json_put_raw(line, key, "%llu", (unsigned long long)value);
}

void
json_put_null(JsonLine *line, const char *key)
{
    json_put_raw(line, key, "null");
}

void
json_put_number_if(JsonLine *line, const char *key, bool known, uint64_t value)
{
    if (known)
        json_put_number(line, key, value);
    else
        json_put_null(line, key);
}

void
json_put_bool(JsonLine *line, const char *key, bool value)
{
    json_put_raw(line, key, "%s", value ? "true" : "false");
}

void
json_put_lsn(JsonLine *line, const char *key, Lsn lsn)
{
    json_put_raw(line, key, "\"" LSN_FORMAT "\"", LSN_ARGS(lsn));
}

/* ---- texts ---- */

/* What a lead byte says: how many bytes the character has, and the range of its second one, which
 * leaves out longer forms than needed, surrogates and what is beyond U+10FFFF (RFC 3629). */
typedef struct Lead {
    uint8_t first;
    uint8_t last;
    uint8_t len;
    uint8_t second_min;
    uint8_t second_max;
} Lead;

static const Lead leads[] = {
    {0x01, 0x7F, 1, 0, 0},       {0xC2, 0xDF, 2, 0x80, 0xBF}, {0xE0, 0xE0, 3, 0xA0, 0xBF},
    {0xE1, 0xEC, 3, 0x80, 0xBF}, {0xED, 0xED, 3, 0x80, 0x9F}, {0xEE, 0xEF, 3, 0x80, 0xBF},
    {0xF0, 0xF0, 4, 0x90, 0xBF}, {0xF1, 0xF3, 4, 0x80, 0xBF}, {0xF4, 0xF4, 4, 0x80, 0x8F},
};

static bool
is_between(char byte, uint8_t min, uint8_t max)
{
    return (uint8_t)byte >= min && (uint8_t)byte <= max;
}

/* How long the character at `text` is; 0 when it is no UTF-8. */
static size_t
character_length(const char *text)
{
    const Lead *lead = leads;
    const Lead *end = leads + sizeof leads / sizeof leads[0];

    while (lead < end && !is_between(*text, lead->first, lead->last))
        lead++;
    if (lead == end)
        return 0;
    for (size_t i = 1; i < lead->len; i++) {
        uint8_t min = i == 1 ? lead->second_min : 0x80;
        uint8_t max = i == 1 ? lead->second_max : 0xBF;

        if (!is_between(text[i], min, max))
            return 0;
    }
    return lead->len;
}

static bool
is_utf8(const char *text)
{
    while (*text != '\0') {
        size_t len = character_length(text);

        if (len == 0)
            return false;
        text += len;
    }
    return true;
}

/* How much of `text` stands for itself. */
static size_t
plain_length(const char *text)
{
    size_t at = 0;

    while (text[at] != '"' && text[at] != '\\' && !is_between(text[at], 0, 0x1F)) {
        size_t len = character_length(text + at);

        if (len == 0)
            break;
        at += len;
    }
    return at;
}

/* What comes behind that, one byte. */
static void
put_escaped(JsonLine *line, char byte)
{
    if (byte == '"' || byte == '\\')
        put(line, "\\%c", byte);
    else if (is_between(byte, 0, 0x1F))
        put(line, "\\u%04x", (unsigned)byte);
    else
        put(line, "\\ufffd");
}

void
json_put_text(JsonLine *line, const char *key, const char *text)
{
    put_key(line, key);
    put(line, "\"");
    for (;;) {
        size_t len = plain_length(text);

        line->ok = line->ok && buf_append(line->buf, text, len, line->err);
        text += len;
        if (*text == '\0')
            break;
        put_escaped(line, *text++);
    }
    put(line, "\"");
}

void
json_put_text_or_null(JsonLine *line, const char *key, const char *text)
{
    if (text != NULL)
        json_put_text(line, key, text);
    else
        json_put_null(line, key);
}

static void
put_hex_value(JsonLine *line, Span bytes)
{
    put(line, "\"");
    for (size_t i = 0; i < bytes.len; i++)
        put(line, "%02x", (unsigned)bytes.data[i]);
    put(line, "\"");
}

void
json_put_hex(JsonLine *line, const char *key, Span bytes)
{
    put_key(line, key);
    put_hex_value(line, bytes);
}

void
json_put_path(JsonLine *line, const char *key, const char *path)
{
    json_put_text_or_null(line, key, path);
    if (path == NULL || is_utf8(path))
        return;
    put(line, ",\"%s_hex\":", key);
    put_hex_value(line, span_of(path));
}
