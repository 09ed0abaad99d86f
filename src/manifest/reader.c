/*
 * What the tokens of a backup manifest mean (documentation: "Backup Manifest Format"; the rules are
 * those of PostgreSQL's common/parse_manifest.c, so that what the stock tools read, we read).
 *
 * A table says for each state which token may come, what is done with it and which state follows; a
 * token without an entry is refused. The fields of one file or WAL range are collected as text, of
 * whatever scalar type, and judged together at the end of their object (entry.c). As in the stock
 * reader a key that is repeated in one object replaces the earlier value, and Files and WAL-Ranges
 * may come in several parts. Stricter than the stock reader: numbers have no blanks, no "+" and no
 * overflow, LSNs no trailing text, texts are UTF-8, paths stay below the directory, and version 2
 * has a system identifier.
 */
#include "manifest/internal.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "common/file.h"

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

#define FIELDS_MAX FILE_FIELDS /* a WAL range has fewer */

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

struct ManifestReader {
    Manifest *manifest;
    State state;
    bool saw_version;
    bool saw_system_id;
    int field;                /* whose value comes next */
    bool present[FIELDS_MAX]; /* in the object being read */
    Buf values[FIELDS_MAX];
    Buf checksum; /* of the manifest, as written */
    LineDigest digest;
    bool failed;
    Error failure; /* the first one, given again to whoever goes on */
    JsonParser json;
};

/* ---- values ---- */

static bool
take_version(ManifestReader *reader, const char *text, Error *err)
{
    uint32_t version;

    if (!text_is_integer(text))
        return parse_refuse(err, "manifest version not an integer");
    if (!u32_parse(text, &version) || version < 1 || version > 2)
        return parse_refuse(err, "unexpected manifest version");
    manifest_set_version(reader->manifest, version);
    return true;
}

static bool
take_system_id(ManifestReader *reader, const char *text, Error *err)
{
    uint64_t system_id;

    if (!text_is_integer(text))
        return parse_refuse(err, "system identifier in manifest not an integer");
    if (!u64_parse(text, &system_id))
        return parse_refuse(err, "system identifier in manifest is out of range");
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
            return parse_refuse(err, "expected version indicator");
        reader->saw_version = true;
        reader->state = STATE_VERSION;
        return true;
    }
    if (key == NULL)
        return parse_refuse(err, "unrecognized top-level field");
    reader->state = (State)key->meaning;
    return true;
}

static bool
take_file_key(ManifestReader *reader, const char *text, Error *err)
{
    const Key *key = find_key(file_keys, text);

    if (key == NULL)
        return parse_refuse(err, "unexpected file field");
    reader->field = key->meaning;
    return true;
}

static bool
take_range_key(ManifestReader *reader, const char *text, Error *err)
{
    const Key *key = find_key(range_keys, text);

    if (key == NULL)
        return parse_refuse(err, "unexpected WAL range field");
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

static bool
begin_fields(ManifestReader *reader, const char *text, Error *err)
{
    (void)text;
    (void)err;
    memset(reader->present, 0, sizeof reader->present);
    return true;
}

/* The texts of the fields of one object; NULL for a key that did not come. */
static void
collect_fields(const ManifestReader *reader, const char *fields[FIELDS_MAX])
{
    for (size_t i = 0; i < FIELDS_MAX; i++)
        fields[i] = reader->present[i] ? buf_text(&reader->values[i]) : NULL;
}

static bool
end_file(ManifestReader *reader, const char *text, Error *err)
{
    const char *fields[FIELDS_MAX];

    (void)text;
    collect_fields(reader, fields);
    return entry_add_file(reader->manifest, fields, err);
}

static bool
end_range(ManifestReader *reader, const char *text, Error *err)
{
    const char *fields[FIELDS_MAX];

    (void)text;
    collect_fields(reader, fields);
    return entry_add_wal_range(reader->manifest, fields, err);
}

/* The end of the whole object. */
static bool
end_top(ManifestReader *reader, const char *text, Error *err)
{
    (void)text;
    /* The stock tools compare a missing one as 0, which fails for every cluster. */
    if (manifest_version(reader->manifest) >= 2 && !reader->saw_system_id)
        return parse_refuse(err, "missing system identifier");
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
        return parse_refuse(err, refusals[token]);
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
    json_init(&reader->json, take_token, reader);
    reader->manifest = manifest_new(err);
    if (reader->manifest == NULL || !line_digest_begin(&reader->digest, err)) {
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
    if (!json_feed(&reader->json, bytes, err) || !line_digest_feed(&reader->digest, bytes, err))
        return reader_fail(reader, err);
    return true;
}

bool
manifest_reader_finish(ManifestReader *reader, Manifest **ret_manifest, Error *err)
{
    if (!reader_alive(reader, err))
        return false;
    if (!json_finish(&reader->json, err) ||
        !line_digest_check(&reader->digest, buf_text(&reader->checksum), err))
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
    buf_free(&reader->checksum);
    line_digest_free(&reader->digest);
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
