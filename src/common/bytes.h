/*
 * Bytes in memory: borrowed (Span), read with bounds (Reader), grown (Buf).
 *
 * A Span borrows: it is valid as long as the call or object that it came from says.
 * A Reader walks over borrowed bytes. A read beyond the end sets `failed`, yields zero and keeps
 * the position: a layout is read straight through and checked once at its end. A Buf owns its
 * bytes; buf_free takes any state.
 */
#ifndef PGSTOW_BYTES_H
#define PGSTOW_BYTES_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

typedef struct Span {
    const uint8_t *data;
    size_t len;
} Span;

/* The bytes of a C string, without its terminator. */
Span span_of(const char *text);

typedef struct Reader {
    const uint8_t *pos;
    const uint8_t *end;
    bool failed; /* something was read beyond the end */
} Reader;

Reader reader_of(Span span);
size_t reader_left(const Reader *reader);

/* Network byte order, as on the wire. */
uint8_t read_u8(Reader *reader);
uint32_t read_be32(Reader *reader);
uint64_t read_be64(Reader *reader);

/* A zero-terminated string inside the bytes; NULL and `failed` when no terminator is left. */
const char *read_cstring(Reader *reader);

/* All that is left. */
Span read_rest(Reader *reader);

/* True when everything was read, nothing beyond it and nothing is left. */
bool reader_complete(const Reader *reader);

/* Fixed places in files, which PostgreSQL writes in the host's (here little-endian) order. */
uint16_t get_le16(const uint8_t *at);
uint32_t get_le32(const uint8_t *at);
uint64_t get_le64(const uint8_t *at);

void put_le32(uint8_t *at, uint32_t value);
void put_le64(uint8_t *at, uint64_t value);

void put_be32(uint8_t *at, uint32_t value);
void put_be64(uint8_t *at, uint64_t value);

typedef struct Buf {
    uint8_t *data;
    size_t len;
    size_t capacity;
} Buf;

#define BUF_INIT ((Buf){.data = NULL})

void buf_free(Buf *buf);
bool buf_reserve(Buf *buf, size_t more, Error *err) MUST_USE;
bool buf_append(Buf *buf, const void *data, size_t len, Error *err) MUST_USE;

/* Append formatted text; the bytes stay zero-terminated beyond `len`. */
bool buf_printf(Buf *buf, Error *err, const char *fmt, ...) PRINTF_LIKE(3, 4) MUST_USE;
bool buf_vprintf(Buf *buf, Error *err, const char *fmt, va_list args) PRINTF_LIKE(3, 0) MUST_USE;

/* The content as a C string ("" when empty); valid until the next change. */
const char *buf_text(const Buf *buf);
void buf_clear(Buf *buf);

/* The value of one hex digit of either case, or -1. */
int hex_digit(char c);

/* Lower-case hex and a terminator into `text`, which holds at least 2 * len + 1 bytes. */
void hex_format(const uint8_t *bytes, size_t len, char *text);

/* Either case; false unless exactly `len` bytes of hex make up `text` of `text_len` characters. */
bool hex_parse(const char *text, size_t text_len, uint8_t *ret_bytes, size_t len);

/* malloc, calloc, strdup with an Error. Freed with free(). */
void *mem_alloc(size_t size, Error *err) MUST_USE;
void *mem_zero(size_t size, Error *err) MUST_USE;
char *mem_strdup(const char *text, Error *err) MUST_USE;

/* Grow `array` (may be NULL) of `*capacity` elements of `size` bytes to hold at least `need`. */
bool mem_grow(void **array, size_t *capacity, size_t need, size_t size, Error *err) MUST_USE;

#endif
