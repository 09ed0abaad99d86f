/*
 * What the tokens of a backup manifest mean (documentation: "Backup Manifest Format"; the rules are
 * those of PostgreSQL's common/parse_manifest.c, so that what the stock tools read, we read).
 *
 * A table says for each state which token may come, what is done with it and which state follows; a
 * token without an entry is refused. The fields of one file or WAL range are collected as text, of
 * whatever scalar type, and judged together at the end of their object. As in the stock reader a
 * key that is repeated in one object replaces the earlier value, and Files and WAL-Ranges may come
 * in several parts. Stricter than the stock reader: numbers have no blanks, no sign and no
 * overflow, LSNs no trailing text, texts are UTF-8, paths stay below the directory, and version 2
 * has a system identifier.
 */
#include "manifest/internal.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "common/file.h"

/* The line with the manifest's checksum has 91 bytes; a longer one may be folded differently. */
#define LAST_LINE_LIMIT 1024

#define LOAD_BYTES ((size_t)128 * 1024)

typedef enum State {
    STATE_REFUSED, /* the table's empty places */
    STATE_START,
    STATE_TOP, /* in the object that is the manifest */
    STATE_VERSION,
    STATE_SYSTEM_ID,
    STATE_CHECKSUM,
    STATE_FILES, /* before the array */
    STATE_FILES_NEXT,
    STATE_FILE, /* in an object of it */
    STATE_FILE_VALUE,
    STATE_RANGES, /* the same for WAL ranges */
    STATE_RANGES_NEXT,
    STATE_RANGE,
    STATE_RANGE_VALUE,
    STATE_LAST, /* after the checksum: nothing but the end */
    STATE_DONE,
    STATE_COUNT
} State;

enum { FILE_PATH, FILE_ENCODED_PATH, FILE_SIZE, FILE_MODIFIED, FILE_ALGORITHM, FILE_CHECKSUM };
enum { RANGE_TIMELINE, RANGE_START, RANGE_END };

#define FIELDS_MAX 6

/* A key and what it stands for: the number of a field, or the state that takes its value. */
typedef struct Key {
    const char *name;
    int meaning;
} Key;

static const Key file_keys[] = {
    {"Path", FILE_PATH},
    {"Size", FILE_SIZE},
    {"Last-Modified", FILE_MODIFIED},
    {"Checksum-Algorithm", FILE_ALGORITHM},
    {"Checksum", FILE_CHECKSUM},
    {"Encoded-Path", FILE_ENCODED_PATH},
    {NULL, 0},
};

static const Key range_keys[] = {
    {"Timeline", RANGE_TIMELINE},
    {"Start-LSN", RANGE_START},
    {"End-LSN", RANGE_END},
    {NULL, 0},
};

static const Key top_keys[] = {
    {"System-Identifier", STATE_SYSTEM_ID},
    {"Files", STATE_FILES},
    {"WAL-Ranges", STATE_RANGES},
    {"Manifest-Checksum", STATE_CHECKSUM},
    {NULL, 0},
};

#define VERSION_KEY "PostgreSQL-Backup-Manifest-Version"

/*
 * The digest of every byte up to the last line. Which line is the last shows only when no byte
 * follows it, so one line is held back. One that is longer than the limit is digested as it comes:
 * it must not turn out to be the last.
 */
typedef struct LineDigest {
    Checksum checksum;
    unsigned lines; /* ends of lines seen: 0, 1, or more than 1 */
    bool ended;     /* the line held back is complete */
    bool too_long;  /* the line was not held back */
    size_t len;
    uint8_t held[LAST_LINE_LIMIT];
} LineDigest;

struct ManifestReader {
    Manifest *manifest;
    State state;
    bool saw_version;
    bool saw_system_id;
    int field;                /* whose value comes next */
    bool present[FIELDS_MAX]; /* in the object being read */
    Buf values[FIELDS_MAX];
    Buf decoded;  /* a path or a checksum, from hex */
    Buf checksum; /* of the manifest, as written */
    LineDigest digest;
    bool failed;
    Error failure; /* the first one, given again to whoever goes on */
    JsonParser json;
};

/* ---- the digest of all lines but the last ---- */

static bool
digest_bytes(LineDigest *digest, const uint8_t *data, size_t len, Error *err)
{
    return len == 0 || checksum_update(&digest->checksum, data, len, err);
}

/* More of a line, or its end: hold it back while it may be the last. */
static bool
digest_hold(LineDigest *digest, const uint8_t *data, size_t len, Error *err)
{
    if (!digest->too_long && len <= sizeof digest->held - digest->len) {
        memcpy(digest->held + digest->len, data, len);
        digest->len += len;
        return true;
    }
    digest->too_long = true;
    if (!digest_bytes(digest, digest->held, digest->len, err))
        return false;
    digest->len = 0;
    return digest_bytes(digest, data, len, err);
}

/* What was held back is not the last line. */
static bool
digest_release(LineDigest *digest, Error *err)
{
    size_t len = digest->len;

    digest->len = 0;
    digest->too_long = false;
    return digest_bytes(digest, digest->held, len, err);
}

static bool
digest_feed(LineDigest *digest, Span bytes, Error *err)
{
    const uint8_t *data = bytes.data;
    const uint8_t *newline = memrchr(data, '\n', bytes.len);
    const uint8_t *before;
    const uint8_t *last = data; /* where the line begins that may be the last */

    if (digest->ended && !digest_release(digest, err))
        return false;
    digest->ended = false;
    if (newline == NULL)
        return digest_hold(digest, data, bytes.len, err);

    before = memrchr(data, '\n', (size_t)(newline - data));
    digest->lines = digest->lines > 0 || before != NULL ? 2 : 1;
    digest->ended = newline + 1 == data + bytes.len;
    if (!digest->ended)
        last = newline + 1;
    else if (before != NULL)
        last = before + 1;
    if (last > data &&
        (!digest_release(digest, err) || !digest_bytes(digest, data, (size_t)(last - data), err)))
        return false;
    return digest_hold(digest, last, (size_t)(data + bytes.len - last), err);
}

/* No byte follows: compare with the checksum that the manifest states. */
static bool
digest_check(LineDigest *digest, const char *stated, Error *err)
{
    Digest own;
    Digest theirs = {.type = CHECKSUM_SHA256, .len = 32};

    if (digest->lines < 2)
        return error_set(err, ERR_FORMAT, PARSE_ERROR "expected at least 2 lines");
    if (!digest->ended)
        return error_set(err, ERR_FORMAT, PARSE_ERROR "last line not newline-terminated");
    if (digest->too_long)
        return error_set(err, ERR_FORMAT, PARSE_ERROR "last line is longer than %d bytes",
                         LAST_LINE_LIMIT);
    if (!hex_parse(stated, strlen(stated), theirs.bytes, theirs.len))
        return error_set(err, ERR_FORMAT, "invalid manifest checksum: \"%s\"", stated);
    if (!checksum_finish(&digest->checksum, &own, err))
        return false;
    if (!digest_equal(&own, &theirs))
        return error_set(err, ERR_FORMAT, "manifest checksum mismatch");
    return true;
}

/* ---- values ---- */

static bool
refuse(Error *err, const char *what)
{
    return error_set(err, ERR_FORMAT, PARSE_ERROR "%s", what);
}

/* True for digits, with or without "-" before them: an integer, whether it fits or not. */
static bool
is_integer(const char *text)
{
    if (*text == '-')
        text++;
    return *text != '\0' && text[strspn(text, "0123456789")] == '\0';
}

static bool
take_version(ManifestReader *reader, const char *text, Error *err)
{
    uint32_t version;

    if (!is_integer(text))
        return refuse(err, "manifest version not an integer");
    if (!u32_parse(text, &version) || version < 1 || version > 2)
        return refuse(err, "unexpected manifest version");
    manifest_set_version(reader->manifest, version);
    return true;
}

static bool
take_system_id(ManifestReader *reader, const char *text, Error *err)
{
    uint64_t system_id;

    if (!is_integer(text))
        return refuse(err, "system identifier in manifest not an integer");
    if (!u64_parse(text, &system_id))
        return refuse(err, "system identifier in manifest is out of range");
    manifest_set_system_id(reader->manifest, system_id);
    reader->saw_system_id = true;
    return true;
}

static bool
take_checksum(ManifestReader *reader, const char *text, Error *err)
{
    buf_clear(&reader->checksum);
    return buf_append(&reader->checksum, text, strlen(text), err);
}

/* ---- keys ---- */

static const Key *
find_key(const Key *keys, const char *name)
{
    for (; keys->name != NULL; keys++) {
        if (strcmp(keys->name, name) == 0)
            return keys;
    }
    return NULL;
}

static bool
take_top_key(ManifestReader *reader, const char *text, Error *err)
{
    const Key *key = find_key(top_keys, text);

    if (!reader->saw_version) {
        if (strcmp(text, VERSION_KEY) != 0)
            return refuse(err, "expected version indicator");
        reader->saw_version = true;
        reader->state = STATE_VERSION;
        return true;
    }
    if (key == NULL)
        return refuse(err, "unrecognized top-level field");
    reader->state = (State)key->meaning;
    return true;
}

static bool
take_file_key(ManifestReader *reader, const char *text, Error *err)
{
    const Key *key = find_key(file_keys, text);

    if (key == NULL)
        return refuse(err, "unexpected file field");
    reader->field = key->meaning;
    return true;
}

static bool
take_range_key(ManifestReader *reader, const char *text, Error *err)
{
    const Key *key = find_key(range_keys, text);

    if (key == NULL)
        return refuse(err, "unexpected WAL range field");
    reader->field = key->meaning;
    return true;
}

static bool
take_field(ManifestReader *reader, const char *text, Error *err)
{
    Buf *value = &reader->values[reader->field];

    reader->present[reader->field] = true;
    buf_clear(value);
    return buf_append(value, text, strlen(text), err);
}

/* The value of a field; NULL when its key did not come. */
static const char *
field_text(const ManifestReader *reader, int field)
{
    return reader->present[field] ? buf_text(&reader->values[field]) : NULL;
}

static bool
begin_fields(ManifestReader *reader, const char *text, Error *err)
{
    (void)text;
    (void)err;
    memset(reader->present, 0, sizeof reader->present);
    return true;
}

/* ---- a file ---- */

/* Decode hex into reader->decoded, which is terminated. *ret_ok tells whether it was hex. */
static bool
decode_hex(ManifestReader *reader, const char *hex, bool *ret_ok, Error *err)
{
    size_t len = strlen(hex);
    Buf *decoded = &reader->decoded;

    buf_clear(decoded);
    if (!buf_reserve(decoded, len / 2 + 1, err))
        return false;
    *ret_ok = hex_parse(hex, len, decoded->data, len / 2);
    decoded->len = *ret_ok ? len / 2 : 0;
    decoded->data[decoded->len] = '\0';
    return true;
}

/* The path of the file, of whichever form, in reader->values[FILE_PATH]. */
static bool
take_path(ManifestReader *reader, Error *err)
{
    Buf *path = &reader->values[FILE_PATH];
    const char *encoded = field_text(reader, FILE_ENCODED_PATH);
    bool is_hex;

    if (encoded != NULL) {
        if (!decode_hex(reader, encoded, &is_hex, err))
            return false;
        if (!is_hex)
            return refuse(err, "could not decode file name");
        if (memchr(reader->decoded.data, '\0', reader->decoded.len) != NULL)
            return refuse(err, "encoded path name contains a zero byte");
        buf_clear(path);
        if (!buf_append(path, reader->decoded.data, reader->decoded.len, err))
            return false;
    }
    if (path->len > MANIFEST_PATH_LIMIT)
        return error_set(err, ERR_FORMAT, PARSE_ERROR "path name is longer than %d bytes",
                         MANIFEST_PATH_LIMIT);
    if (!path_is_below(buf_text(path)))
        return error_set(err, ERR_FORMAT, PARSE_ERROR "path name \"%s\" is not inside the backup",
                         buf_text(path));
    return true;
}

static bool
take_file_checksum(ManifestReader *reader, ManifestFile *file, Error *err)
{
    const char *algorithm = field_text(reader, FILE_ALGORITHM);
    const char *checksum = field_text(reader, FILE_CHECKSUM);
    bool is_hex;

    if (algorithm != NULL && !checksum_type_parse(algorithm, &file->checksum_type))
        return error_set(err, ERR_FORMAT, "unrecognized checksum algorithm: \"%s\"", algorithm);
    if (checksum == NULL)
        return true;
    if (!decode_hex(reader, checksum, &is_hex, err))
        return false;
    if (!is_hex || reader->decoded.len > UINT8_MAX)
        return error_set(err, ERR_FORMAT, "invalid checksum for file \"%s\": \"%s\"", file->path,
                         checksum);
    file->checksum = reader->decoded.data;
    file->checksum_len = (uint8_t)reader->decoded.len;
    return true;
}

/* The order of the checks is that of the stock reader: it decides which message is given. */
static bool
end_file(ManifestReader *reader, const char *text, Error *err)
{
    ManifestFile file = {.checksum_type = CHECKSUM_NONE};
    const char *size = field_text(reader, FILE_SIZE);

    (void)text;
    if (!reader->present[FILE_PATH] && !reader->present[FILE_ENCODED_PATH])
        return refuse(err, "missing path name");
    if (reader->present[FILE_PATH] && reader->present[FILE_ENCODED_PATH])
        return refuse(err, "both path name and encoded path name");
    if (size == NULL)
        return refuse(err, "missing size");
    if (reader->present[FILE_CHECKSUM] && !reader->present[FILE_ALGORITHM])
        return refuse(err, "checksum without algorithm");

    if (!take_path(reader, err))
        return false;
    file.path = buf_text(&reader->values[FILE_PATH]);
    if (!is_integer(size))
        return refuse(err, "file size is not an integer");
    if (!u64_parse(size, &file.size))
        return error_set(err, ERR_FORMAT,
                         PARSE_ERROR "file size is out of range: \"%s\" for file \"%s\"", size,
                         file.path);
    return take_file_checksum(reader, &file, err) &&
           manifest_add_file(reader->manifest, &file, err);
}

/* ---- a WAL range ---- */

static bool
end_range(ManifestReader *reader, const char *text, Error *err)
{
    const char *timeline = field_text(reader, RANGE_TIMELINE);
    const char *start = field_text(reader, RANGE_START);
    const char *end = field_text(reader, RANGE_END);
    ManifestWalRange range;

    (void)text;
    if (timeline == NULL)
        return refuse(err, "missing timeline");
    if (start == NULL)
        return refuse(err, "missing start LSN");
    if (end == NULL)
        return refuse(err, "missing end LSN");
    if (!is_integer(timeline))
        return refuse(err, "timeline is not an integer");
    if (!u32_parse(timeline, &range.timeline))
        return error_set(err, ERR_FORMAT, PARSE_ERROR "timeline is out of range: \"%s\"", timeline);
    if (!lsn_parse(start, &range.start))
        return refuse(err, "could not parse start LSN");
    if (!lsn_parse(end, &range.end))
        return refuse(err, "could not parse end LSN");
    return manifest_add_wal_range(reader->manifest, &range, err);
}

/* The end of the whole object. */
static bool
end_top(ManifestReader *reader, const char *text, Error *err)
{
    (void)text;
    /* The stock tools compare a missing one as 0, which fails for every cluster. */
    if (manifest_version(reader->manifest) >= 2 && !reader->saw_system_id)
        return refuse(err, "missing system identifier");
    return true;
}

/* ---- the machine ---- */

typedef struct Move {
    State next;
    bool (*act)(ManifestReader *reader, const char *text,
                Error *err); /* may choose another state */
} Move;

static const Move moves[STATE_COUNT][JSON_TOKEN_COUNT] = {
    [STATE_START][JSON_OBJECT_BEGIN] = {STATE_TOP, NULL},
    [STATE_TOP][JSON_KEY] = {STATE_TOP, take_top_key},
    [STATE_VERSION][JSON_SCALAR] = {STATE_TOP, take_version},
    [STATE_SYSTEM_ID][JSON_SCALAR] = {STATE_TOP, take_system_id},
    [STATE_CHECKSUM][JSON_SCALAR] = {STATE_LAST, take_checksum},
    [STATE_LAST][JSON_OBJECT_END] = {STATE_DONE, end_top},

    [STATE_FILES][JSON_ARRAY_BEGIN] = {STATE_FILES_NEXT, NULL},
    [STATE_FILES_NEXT][JSON_ARRAY_END] = {STATE_TOP, NULL},
    [STATE_FILES_NEXT][JSON_OBJECT_BEGIN] = {STATE_FILE, begin_fields},
    [STATE_FILE][JSON_KEY] = {STATE_FILE_VALUE, take_file_key},
    [STATE_FILE_VALUE][JSON_SCALAR] = {STATE_FILE, take_field},
    [STATE_FILE][JSON_OBJECT_END] = {STATE_FILES_NEXT, end_file},

    [STATE_RANGES][JSON_ARRAY_BEGIN] = {STATE_RANGES_NEXT, NULL},
    [STATE_RANGES_NEXT][JSON_ARRAY_END] = {STATE_TOP, NULL},
    [STATE_RANGES_NEXT][JSON_OBJECT_BEGIN] = {STATE_RANGE, begin_fields},
    [STATE_RANGE][JSON_KEY] = {STATE_RANGE_VALUE, take_range_key},
    [STATE_RANGE_VALUE][JSON_SCALAR] = {STATE_RANGE, take_field},
    [STATE_RANGE][JSON_OBJECT_END] = {STATE_RANGES_NEXT, end_range},
};

static const char *const refusals[JSON_TOKEN_COUNT] = {
    [JSON_OBJECT_BEGIN] = "unexpected object start", [JSON_OBJECT_END] = "unexpected object end",
    [JSON_ARRAY_BEGIN] = "unexpected array start",   [JSON_ARRAY_END] = "unexpected array end",
    [JSON_KEY] = "unexpected object field",          [JSON_SCALAR] = "unexpected scalar",
};

static bool
take_token(void *ctx, JsonToken token, const char *text, Error *err)
{
    ManifestReader *reader = ctx;
    const Move *move = &moves[reader->state][token];

    if (move->next == STATE_REFUSED)
        return refuse(err, refusals[token]);
    reader->state = move->next;
    return move->act == NULL || move->act(reader, text, err);
}

/* ---- the reader ---- */

ManifestReader *
manifest_reader_new(Error *err)
{
    ManifestReader *reader = mem_zero(sizeof *reader, err);

    if (reader == NULL)
        return NULL;
    reader->state = STATE_START;
    reader->digest.checksum = CHECKSUM_INIT;
    json_init(&reader->json, take_token, reader);
    reader->manifest = manifest_new(err);
    if (reader->manifest == NULL ||
        !checksum_begin(&reader->digest.checksum, CHECKSUM_SHA256, err)) {
        manifest_reader_free(reader);
        return NULL;
    }
    return reader;
}

/* The reader is dead from here on. */
static bool
reader_fail(ManifestReader *reader, Error *err)
{
    reader->failed = true;
    reader->failure = *err;
    return false;
}

/* A failed reader fails again, in the same words. */
static bool
reader_alive(const ManifestReader *reader, Error *err)
{
    if (reader->failed)
        *err = reader->failure;
    return !reader->failed;
}

bool
manifest_reader_feed(ManifestReader *reader, Span bytes, Error *err)
{
    if (!reader_alive(reader, err))
        return false;
    if (bytes.len == 0)
        return true;
    if (!json_feed(&reader->json, bytes, err) || !digest_feed(&reader->digest, bytes, err))
        return reader_fail(reader, err);
    return true;
}

bool
manifest_reader_finish(ManifestReader *reader, Manifest **ret_manifest, Error *err)
{
    if (!reader_alive(reader, err))
        return false;
    if (!json_finish(&reader->json, err) ||
        !digest_check(&reader->digest, buf_text(&reader->checksum), err))
        return reader_fail(reader, err);
    *ret_manifest = reader->manifest;
    reader->manifest = NULL;

    /* What it had to give is given. */
    reader->failed = true;
    error_ignored(error_set(&reader->failure, ERR_BUG, "backup manifest was read already"));
    return true;
}

void
manifest_reader_free(ManifestReader *reader)
{
    if (reader == NULL)
        return;
    manifest_free(reader->manifest);
    for (size_t i = 0; i < FIELDS_MAX; i++)
        buf_free(&reader->values[i]);
    buf_free(&reader->decoded);
    buf_free(&reader->checksum);
    checksum_free(&reader->digest.checksum);
    free(reader);
}

/* ---- files ---- */

static bool
feed_file(ManifestReader *reader, int fd, const char *path, Error *err)
{
    uint8_t *bytes = mem_alloc(LOAD_BYTES, err);
    size_t got = LOAD_BYTES;
    bool ok = bytes != NULL;

    while (ok && got == LOAD_BYTES)
        ok = file_read(fd, bytes, LOAD_BYTES, path, &got, err) &&
             manifest_reader_feed(reader, (Span){.data = bytes, .len = got}, err);
    free(bytes);
    return ok;
}

bool
manifest_load(const char *path, Manifest **ret_manifest, Error *err)
{
    int fd = file_open(path, O_RDONLY, 0, err);
    ManifestReader *reader;
    bool ok;

    if (fd < 0)
        return false;
    reader = manifest_reader_new(err);
    ok = reader != NULL && feed_file(reader, fd, path, err) &&
         manifest_reader_finish(reader, ret_manifest, err);
    manifest_reader_free(reader);
    file_close_quietly(fd);
    return ok;
}
