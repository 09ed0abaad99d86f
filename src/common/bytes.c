#include "common/bytes.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

Span
span_of(const char *text)
{
    return (Span){.data = (const uint8_t *)text, .len = strlen(text)};
}

/* ---- Reader ---- */

Reader
reader_of(Span span)
{
    return (Reader){.pos = span.data, .end = span.len == 0 ? span.data : span.data + span.len};
}

size_t
reader_left(const Reader *reader)
{
    return (size_t)(reader->end - reader->pos);
}

/* The next `len` bytes, or NULL and the failure noted. */
static const uint8_t *
reader_take(Reader *reader, size_t len)
{
    const uint8_t *at = reader->pos;

    if (reader->failed || reader_left(reader) < len) {
        reader->failed = true;
        return NULL;
    }
    reader->pos += len;
    return at;
}

uint8_t
read_u8(Reader *reader)
{
    const uint8_t *at = reader_take(reader, 1);

    return at == NULL ? 0 : *at;
}

uint32_t
read_be32(Reader *reader)
{
    const uint8_t *at = reader_take(reader, 4);

    if (at == NULL)
        return 0;
    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

uint64_t
read_be64(Reader *reader)
{
    uint64_t high;

    /* All or nothing: half of it must not be consumed. */
    if (reader->failed || reader_left(reader) < 8) {
        reader->failed = true;
        return 0;
    }
    high = read_be32(reader);
    return high << 32 | read_be32(reader);
}

const char *
read_cstring(Reader *reader)
{
    const uint8_t *start = reader->pos;
    const uint8_t *zero;

    if (reader->failed || reader_left(reader) == 0 ||
        (zero = memchr(start, 0, reader_left(reader))) == NULL) {
        reader->failed = true;
        return NULL;
    }
    reader->pos = zero + 1;
    return (const char *)start;
}

Span
read_rest(Reader *reader)
{
    Span rest = {.data = reader->pos, .len = reader->failed ? 0 : reader_left(reader)};

    if (rest.len > 0)
        reader->pos += rest.len;
    return rest;
}

bool
reader_complete(const Reader *reader)
{
    return !reader->failed && reader->pos == reader->end;
}

/* ---- fixed places ---- */

uint16_t
get_le16(const uint8_t *at)
{
    return (uint16_t)(at[0] | at[1] << 8);
}

uint32_t
get_le32(const uint8_t *at)
{
    return (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

uint64_t
get_le64(const uint8_t *at)
{
    return (uint64_t)get_le32(at) | (uint64_t)get_le32(at + 4) << 32;
}

void
put_le32(uint8_t *at, uint32_t value)
{
    at[0] = (uint8_t)value;
    at[1] = (uint8_t)(value >> 8);
    at[2] = (uint8_t)(value >> 16);
    at[3] = (uint8_t)(value >> 24);
}

void
put_le64(uint8_t *at, uint64_t value)
{
    put_le32(at, (uint32_t)value);
    put_le32(at + 4, (uint32_t)(value >> 32));
}

void
put_be32(uint8_t *at, uint32_t value)
{
    at[0] = (uint8_t)(value >> 24);
    at[1] = (uint8_t)(value >> 16);
    at[2] = (uint8_t)(value >> 8);
    at[3] = (uint8_t)value;
}

void
put_be64(uint8_t *at, uint64_t value)
{
    put_be32(at, (uint32_t)(value >> 32));
    put_be32(at + 4, (uint32_t)value);
}

/* ---- Buf ---- */

void
buf_free(Buf *buf)
{
    free(buf->data);
    *buf = BUF_INIT;
}

bool
buf_reserve(Buf *buf, size_t more, Error *err)
{
    size_t capacity = buf->capacity == 0 ? 64 : buf->capacity;
    uint8_t *data;

    if (more > SIZE_MAX / 2 - buf->len)
        return error_set_memory(err);
    if (buf->capacity - buf->len >= more && buf->data != NULL)
        return true;
    while (capacity - buf->len < more)
        capacity *= 2;
    data = realloc(buf->data, capacity);
    if (data == NULL)
        return error_set_memory(err);
    buf->data = data;
    buf->data[buf->len] = '\0'; /* buf_text may follow at once */
    buf->capacity = capacity;
    return true;
}

bool
buf_append(Buf *buf, const void *data, size_t len, Error *err)
{
    /* One more byte, so that buf_text can always terminate. */
    if (len == SIZE_MAX)
        return error_set_memory(err);
    if (!buf_reserve(buf, len + 1, err))
        return false;
    if (len > 0)
        memcpy(buf->data + buf->len, data, len);
    buf->len += len;
    buf->data[buf->len] = '\0';
    return true;
}

bool
buf_vprintf(Buf *buf, Error *err, const char *fmt, va_list args)
{
    va_list again;
    int len;

    va_copy(again, args);
    len = vsnprintf(NULL, 0, fmt, again);
    va_end(again);
    if (len < 0)
        return error_set(err, ERR_BUG, "invalid format string \"%s\"", fmt);
    if (!buf_reserve(buf, (size_t)len + 1, err))
        return false;
    (void)vsnprintf((char *)buf->data + buf->len, (size_t)len + 1, fmt, args);
    buf->len += (size_t)len;
    return true;
}

bool
buf_printf(Buf *buf, Error *err, const char *fmt, ...)
{
    va_list args;
    bool ok;

    va_start(args, fmt);
    ok = buf_vprintf(buf, err, fmt, args);
    va_end(args);
    return ok;
}

const char *
buf_text(const Buf *buf)
{
    return buf->data == NULL ? "" : (const char *)buf->data;
}

void
buf_clear(Buf *buf)
{
    buf->len = 0;
    if (buf->data != NULL)
        buf->data[0] = '\0';
}

/* ---- hex ---- */

int
hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

void
hex_format(const uint8_t *bytes, size_t len, char *text)
{
    static const char digits[] = "0123456789abcdef";

    for (size_t i = 0; i < len; i++) {
        *text++ = digits[bytes[i] >> 4];
        *text++ = digits[bytes[i] & 15];
    }
    *text = '\0';
}

bool
hex_parse(const char *text, size_t text_len, uint8_t *ret_bytes, size_t len)
{
    if (text_len != 2 * len)
        return false;
    for (size_t i = 0; i < text_len; i++) {
        if (hex_digit(text[i]) < 0)
            return false;
    }
    for (size_t i = 0; i < len; i++) {
        unsigned high = (unsigned)hex_digit(text[2 * i]);
        unsigned low = (unsigned)hex_digit(text[2 * i + 1]);

        ret_bytes[i] = (uint8_t)(high << 4 | low);
    }
    return true;
}

/* ---- memory ---- */

void *
mem_alloc(size_t size, Error *err)
{
    void *block = malloc(size == 0 ? 1 : size);

    if (block == NULL)
        (void)error_set_memory(err);
    return block;
}

void *
mem_zero(size_t size, Error *err)
{
    void *block = calloc(1, size == 0 ? 1 : size);

    if (block == NULL)
        (void)error_set_memory(err);
    return block;
}

char *
mem_strdup(const char *text, Error *err)
{
    char *copy = strdup(text);

    if (copy == NULL)
        (void)error_set_memory(err);
    return copy;
}

bool
mem_grow(void **array, size_t *capacity, size_t need, size_t size, Error *err)
{
    size_t grown = *capacity == 0 ? 16 : *capacity;
    void *moved;

    if (need <= *capacity)
        return true;
    while (grown < need) {
        if (grown > SIZE_MAX / 2 / size)
            return error_set_memory(err);
        grown *= 2;
    }
    moved = realloc(*array, grown * size);
    if (moved == NULL)
        return error_set_memory(err);
    *array = moved;
    *capacity = grown;
    return true;
}
