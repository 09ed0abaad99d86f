/*
 * A line of JSON for programs that read ours: one object, put together member by member. Pure.
 *
 * Texts and paths may hold any bytes: what is no UTF-8 becomes U+FFFD, and a path is then given in
 * hexadecimal too, as KEY_hex. Keys are ASCII without quotes.
 */
#ifndef PGSTOW_JSON_LINE_H
#define PGSTOW_JSON_LINE_H

#include "common/bytes.h"
#include "common/pgtypes.h"

/* A line that is being made: what fails stays failed, and is looked at once, at its end. */
typedef struct JsonLine {
    Buf *buf;
    Error *err;
    bool ok;
    bool comma; /* the object that is open has a member */
} JsonLine;

/* Appends to `buf`. */
JsonLine json_line_begin(Buf *buf, Error *err);

/* Ends the object and the line; false when any part of it failed. */
bool json_line_end(JsonLine *line) MUST_USE;

void json_put_number(JsonLine *line, const char *key, uint64_t value);
void json_put_null(JsonLine *line, const char *key);
void json_put_bool(JsonLine *line, const char *key, bool value);
void json_put_lsn(JsonLine *line, const char *key, Lsn lsn);
void json_put_text(JsonLine *line, const char *key, const char *text);

/* null unless it is known. */
void json_put_number_if(JsonLine *line, const char *key, bool known, uint64_t value);

/* NULL: null. */
void json_put_text_or_null(JsonLine *line, const char *key, const char *text);
void json_put_path(JsonLine *line, const char *key, const char *path);

/* As a text of lower-case hexadecimal. */
void json_put_hex(JsonLine *line, const char *key, Span bytes);

/* What `fmt` makes is JSON itself: a number with a fraction, say. */
void json_put_raw(JsonLine *line, const char *key, const char *fmt, ...) PRINTF_LIKE(3, 4);

/* Members in between are those of an object that is the value of `key`. */
void json_object_begin(JsonLine *line, const char *key);
void json_object_end(JsonLine *line);

/*
 * The value of `key` is an array of objects: members between begin and end of an element are those
 * of that object. The array's beginning and each element end a line, after which what is in `buf`
 * may be taken out of it.
 */
void json_array_begin(JsonLine *line, const char *key);
void json_element_begin(JsonLine *line);
void json_element_end(JsonLine *line);
void json_array_end(JsonLine *line);

#endif
