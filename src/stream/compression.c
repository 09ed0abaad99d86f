/*
 * Compression specifications, in the order and the words of PostgreSQL's common/compression.c: the
 * detail is read up to its first mistake, and what it asks for is checked only when there is none.
 */
#include "stream/compression.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "stream/internal.h"

/* ---- names ---- */

static const char *const method_names[] = {[COMPRESSION_NONE] = "none",
                                           [COMPRESSION_GZIP] = "gzip",
                                           [COMPRESSION_LZ4] = "lz4",
                                           [COMPRESSION_ZSTD] = "zstd"};

static const char *const method_suffixes[] = {[COMPRESSION_NONE] = "",
                                              [COMPRESSION_GZIP] = ".gz",
                                              [COMPRESSION_LZ4] = ".lz4",
                                              [COMPRESSION_ZSTD] = ".zst"};

#define METHODS (sizeof method_names / sizeof method_names[0])

/* What the names of compressed files end with, and what stands there without compression. */
typedef struct Ending {
    const char *suffix;
    const char *plain;
    CompressionMethod method;
} Ending;

static const Ending endings[] = {{".gz", "", COMPRESSION_GZIP},
                                 {".tgz", ".tar", COMPRESSION_GZIP},
                                 {".lz4", "", COMPRESSION_LZ4},
                                 {".zst", "", COMPRESSION_ZSTD}};

bool
compression_method_parse(const char *name, CompressionMethod *ret_method)
{
    for (size_t i = 0; i < METHODS; i++) {
        if (strcmp(name, method_names[i]) == 0) {
            *ret_method = (CompressionMethod)i;
            return true;
        }
    }
    return false;
}

const char *
compression_method_name(CompressionMethod method)
{
    return method_names[method];
}

const char *
compression_suffix(CompressionMethod method)
{
    return method_suffixes[method];
}

/* NULL when the name has none of them, or nothing before it. */
static const Ending *
ending_of(const char *name)
{
    size_t len = strlen(name);

    for (size_t i = 0; i < sizeof endings / sizeof endings[0]; i++) {
        size_t suffix_len = strlen(endings[i].suffix);

        if (len > suffix_len && strcmp(name + len - suffix_len, endings[i].suffix) == 0)
            return &endings[i];
    }
    return NULL;
}

CompressionMethod
compression_of_name(const char *name)
{
    const Ending *ending = ending_of(name);

    return ending == NULL ? COMPRESSION_NONE : ending->method;
}

bool
compression_plain_name(CompressionMethod method, const char *name, Buf *plain, Error *err)
{
    const Ending *ending = ending_of(name);

    if (ending == NULL || ending->method != method)
        return error_set(err, ERR_FORMAT, "archive name \"%s\" does not end in \"%s\"", name,
                         method_suffixes[method]);
    buf_clear(plain);
    return buf_printf(plain, err, "%.*s%s", (int)(strlen(name) - strlen(ending->suffix)), name,
                      ending->plain);
}

/* ---- the detail ---- */

typedef struct Request {
    Compression wanted;
    bool has_long;
} Request;

typedef struct Option {
    Span keyword;
    Span value;
    bool has_value;
} Option;

/* For "%.*s". */
#define KEYWORD(option) (int)(option)->keyword.len, (const char *)(option)->keyword.data

/* As strtol reads it, to the end of `text`, which lies in a C string. Beyond the range of an int it
 * is the nearest int, which is out of every level's range, too. */
static bool
parse_integer(Span text, int *ret_value)
{
    const char *start = (const char *)text.data;
    char *end;
    long value = strtol(start, &end, 10);

    if (end == start || end != start + text.len)
        return false;
    if (value > INT_MAX)
        value = INT_MAX;
    if (value < INT_MIN)
        value = INT_MIN;
    *ret_value = (int)value;
    return true;
}

static bool
take_integer(const Option *option, int *ret_value, Error *err)
{
    if (!option->has_value)
        return error_set(err, ERR_USAGE, "compression option \"%.*s\" requires a value",
                         KEYWORD(option));
    if (!parse_integer(option->value, ret_value))
        return error_set(err, ERR_USAGE, "value for compression option \"%.*s\" must be an integer",
                         KEYWORD(option));
    return true;
}

/* Without a value it is true. */
static bool
take_boolean(const Option *option, bool *ret_value, Error *err)
{
    static const struct {
        const char *word;
        bool value;
    } words[] = {{"yes", true}, {"on", true},   {"1", true},
                 {"no", false}, {"off", false}, {"0", false}};
    const char *text = (const char *)option->value.data;
    size_t len = option->value.len;

    *ret_value = true;
    if (!option->has_value)
        return true;
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        if (len == strlen(words[i].word) && strncasecmp(text, words[i].word, len) == 0) {
            *ret_value = words[i].value;
            return true;
        }
    }
    return error_set(err, ERR_USAGE,
                     "value for compression option \"%.*s\" must be a Boolean value",
                     KEYWORD(option));
}

static bool
keyword_is(const Option *option, const char *name)
{
    return option->keyword.len == strlen(name) &&
           memcmp(option->keyword.data, name, option->keyword.len) == 0;
}

static bool
take_option(Request *request, const Option *option, Error *err)
{
    if (option->keyword.len == 0)
        return error_set(err, ERR_USAGE,
                         "found empty string where a compression option was expected");
    if (keyword_is(option, "level"))
        return take_integer(option, &request->wanted.level, err);
    if (keyword_is(option, "workers")) {
        request->wanted.has_workers = true;
        return take_integer(option, &request->wanted.workers, err);
    }
    if (keyword_is(option, "long")) {
        request->has_long = true;
        return take_boolean(option, &request->wanted.long_distance, err);
    }
    return error_set(err, ERR_USAGE, "unrecognized compression option: \"%.*s\"", KEYWORD(option));
}

/* The option that `text` begins with; returns where it ends: at a comma or at the end. */
static const char *
cut_option(const char *text, Option *ret_option)
{
    size_t len = strcspn(text, ",");
    size_t keyword_len = strcspn(text, ",=");

    *ret_option = (Option){.keyword = {.data = (const uint8_t *)text, .len = keyword_len}};
    if (keyword_len < len) {
        ret_option->has_value = true;
        ret_option->value.data = (const uint8_t *)text + keyword_len + 1;
        ret_option->value.len = len - keyword_len - 1;
    }
    return text + len;
}

static bool
parse_detail(Request *request, const char *detail, Error *err)
{
    const char *at = detail;
    Option option;

    if (detail == NULL || parse_integer(span_of(detail), &request->wanted.level))
        return true;
    for (;; at++) {
        at = cut_option(at, &option);
        if (!take_option(request, &option, err))
            return false;
        if (*at == '\0')
            return true;
    }
}

/* ---- what it asks for ---- */

static CodecLevels
levels_of(CompressionMethod method)
{
    const CodecOps *codec = codec_of(method);
    CodecLevels none = {.standard = 0};

    return codec == NULL ? none : codec->levels();
}

static bool
check_level(const Compression *wanted, Error *err)
{
    const CodecLevels levels = levels_of(wanted->method);
    const char *name = compression_method_name(wanted->method);

    if (wanted->level == levels.standard)
        return true;
    if (wanted->method == COMPRESSION_NONE)
        return error_set(err, ERR_USAGE,
                         "compression algorithm \"%s\" does not accept a compression level", name);
    if (wanted->level < levels.min || wanted->level > levels.max)
        return error_set(err, ERR_USAGE,
                         "compression algorithm \"%s\" expects a compression level between %d and "
                         "%d (default at %d)",
                         name, levels.min, levels.max, levels.standard);
    return true;
}

static bool
check_request(const Request *request, Error *err)
{
    const char *name = compression_method_name(request->wanted.method);

    if (!check_level(&request->wanted, err))
        return false;
    if (request->wanted.method == COMPRESSION_ZSTD)
        return true;
    if (request->wanted.has_workers)
        return error_set(err, ERR_USAGE,
                         "compression algorithm \"%s\" does not accept a worker count", name);
    if (request->has_long)
        return error_set(err, ERR_USAGE,
                         "compression algorithm \"%s\" does not support long-distance mode", name);
    return true;
}

bool
compression_parse(CompressionMethod method, const char *detail, Compression *ret_compression,
                  Error *err)
{
    Request request = {.wanted = {.method = method, .level = levels_of(method).standard}};

    if (!parse_detail(&request, detail, err) || !check_request(&request, err))
        return false;
    *ret_compression = request.wanted;
    return true;
}

/* ---- workers ---- */

/* More than these a server does not keep busy. */
#define WORKERS_MAX 4

/* The highest level of zstd at which a worker is content with 16 MiB. */
#define ZSTD_LEVEL_MODEST 9

static bool
takes_workers(const Compression *asked)
{
    return asked->method == COMPRESSION_GZIP ||
           (asked->method == COMPRESSION_ZSTD && !asked->has_workers && !asked->long_distance &&
            asked->level <= ZSTD_LEVEL_MODEST);
}

Compression
compression_in_parallel(const Compression *asked, size_t processors)
{
    Compression compression = *asked;

    if (processors > 1 && takes_workers(asked))
        compression.workers = (int)(processors < WORKERS_MAX ? processors : WORKERS_MAX);
    return compression;
}
