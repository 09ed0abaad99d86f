/*
 * Inside the manifest room: the JSON tokenizer, and the model as the reader fills it.
 */
#ifndef PGSTOW_MANIFEST_INTERNAL_H
#define PGSTOW_MANIFEST_INTERNAL_H

#include "manifest/manifest.h"

/* How pg_verifybackup begins its messages about the manifest's text. */
#define PARSE_ERROR "could not parse backup manifest: "

/*
 * The longest path that Linux takes, PATH_MAX without its terminator. A file with a longer one
 * cannot have been backed up.
 */
#define MANIFEST_PATH_LIMIT 4095

/* ---- JSON ---- */

#define JSON_DEPTH_LIMIT 8 /* a manifest needs 3 */

/* The longest text of one token: a path of MANIFEST_PATH_LIMIT bytes in hex. */
#define JSON_TEXT_LIMIT 8192

typedef enum JsonToken {
    JSON_OBJECT_BEGIN,
    JSON_OBJECT_END,
    JSON_ARRAY_BEGIN,
    JSON_ARRAY_END,
    JSON_KEY,
    JSON_SCALAR, /* a string, number, true, false or null; which one is not told */
    JSON_TOKEN_COUNT
} JsonToken;

/*
 * Takes one token. `text` is a key, a string without quotes and escapes, or a number or word as it
 * stands; "" for brackets. It is valid UTF-8 without a zero byte, and borrowed.
 */
typedef bool JsonTake(void *ctx, JsonToken token, const char *text, Error *err);

/*
 * Tokenizer and grammar of RFC 8259, fed with pieces of any size. Fixed memory. After a failure it
 * must not be fed again. Its own errors begin with PARSE_ERROR and name the line.
 */
typedef struct JsonParser {
    JsonTake *take;
    void *ctx;
    int state;            /* what the grammar allows next */
    int lex;              /* inside which token we are */
    bool is_key;          /* the string being read is a key */
    unsigned depth;       /* of open brackets */
    unsigned objects;     /* bit n: the bracket at depth n is an object */
    uint64_t line;        /* from 1 */
    unsigned unit;        /* \u: the code unit so far */
    unsigned unit_digits; /* \u: digits read */
    unsigned high;        /* \u: a high surrogate that waits for its low one, or 0 */
    unsigned follow;      /* UTF-8: continuation bytes to come */
    uint8_t follow_min;   /* UTF-8: the range of the next one */
    uint8_t follow_max;
    size_t text_len;
    char text[JSON_TEXT_LIMIT + 1];
} JsonParser;

void json_init(JsonParser *parser, JsonTake *take, void *ctx);
bool json_feed(JsonParser *parser, Span bytes, Error *err) MUST_USE;

/* The input ends here: it must have been one complete value. */
bool json_finish(JsonParser *parser, Error *err) MUST_USE;

/* ---- the manifest's own checksum ---- */

/* The server's last line has 91 bytes; this leaves room for other layouts of it. */
#define LAST_LINE_LIMIT 1024

/* Fed with the whole text in pieces of any size; line_digest_free takes any state but an unset one.
 */
typedef struct LineDigest {
    Checksum checksum;
    unsigned lines; /* ends of lines seen: 0, 1, or 2 for more */
    bool ended;     /* the line held back is complete */
    bool too_long;  /* the line was not held back */
    size_t len;     /* of what is held back */
    uint8_t held[LAST_LINE_LIMIT];
} LineDigest;

bool line_digest_begin(LineDigest *digest, Error *err) MUST_USE;
bool line_digest_feed(LineDigest *digest, Span bytes, Error *err) MUST_USE;

/* The text ends here: compare with the checksum that it states, in hex. */
bool line_digest_check(LineDigest *digest, const char *stated, Error *err) MUST_USE;
void line_digest_free(LineDigest *digest);

/* ---- the model, while it is filled ---- */

Manifest *manifest_new(Error *err) MUST_USE;
void manifest_set_version(Manifest *manifest, uint32_t version);
void manifest_set_system_id(Manifest *manifest, uint64_t system_id);

/* Copies what `file` borrows. A path for the second time is an ERR_FORMAT. */
bool manifest_add_file(Manifest *manifest, const ManifestFile *file, Error *err) MUST_USE;
bool manifest_add_wal_range(Manifest *manifest, const ManifestWalRange *range, Error *err) MUST_USE;

/* ---- from text ---- */

enum {
    FILE_PATH,
    FILE_ENCODED_PATH,
    FILE_SIZE,
    FILE_MODIFIED,
    FILE_ALGORITHM,
    FILE_CHECKSUM,
    FILE_FIELDS
};
enum { RANGE_TIMELINE, RANGE_START, RANGE_END };

/* Judge the values of one object's keys, NULL for a key that did not come, and add the entry. */
bool entry_add_file(Manifest *manifest, const char *const fields[], Error *err) MUST_USE;
bool entry_add_wal_range(Manifest *manifest, const char *const fields[], Error *err) MUST_USE;

/* ERR_FORMAT, PARSE_ERROR and `what`; returns false. */
bool parse_refuse(Error *err, const char *what);

/* Digits, with or without "-" before them: an integer, whether it fits or not. */
bool text_is_integer(const char *text);

#endif
