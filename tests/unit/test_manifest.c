/*
 * The backup manifest's reader and model.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/runtime.h"
#include "manifest/internal.h"
#include "support/manifest_builder.h"
#include "support/temp_dir.h"

#define SYSTEM_ID UINT64_C(7710215980991679246)
#define PREFIX    "could not parse backup manifest: "

/* What every manifest of version 1 begins with, and the line that is left out of the checksum. */
#define V1 "{ \"PostgreSQL-Backup-Manifest-Version\": 1,\n"
#define V2 "{ \"PostgreSQL-Backup-Manifest-Version\": 2,\n\"System-Identifier\": 42,\n"

/* ---- running ---- */

/* Read `text` in pieces of `piece` bytes, each in a block of its own; NULL and the error. */
static Manifest *
read_pieces(const void *text, size_t len, size_t piece, Error *err)
{
    ManifestReader *reader = manifest_reader_new(err);
    Manifest *manifest = NULL;
    bool ok = true;

    assert_non_null(reader);
    for (size_t at = 0; ok && at < len; at += piece) {
        size_t count = len - at < piece ? len - at : piece;
        uint8_t *block = mem_alloc(count, err);

        assert_non_null(block);
        memcpy(block, (const uint8_t *)text + at, count);
        ok = manifest_reader_feed(reader, (Span){.data = block, .len = count}, err);
        free(block);
    }
    if (ok && !manifest_reader_finish(reader, &manifest, err))
        assert_null(manifest);
    manifest_reader_free(reader);
    return manifest;
}

static Manifest *
read_whole(const Buf *text)
{
    Error err = ERROR_INIT;
    Manifest *manifest = read_pieces(text->data, text->len, text->len, &err);

    assert_string_equal(err.message, "");
    assert_non_null(manifest);
    return manifest;
}

static Buf
text_of(const char *text)
{
    Buf buf = BUF_INIT;
    Error err = ERROR_INIT;

    assert_true(buf_append(&buf, text, strlen(text), &err));
    return buf;
}

/* `body` with its last line. */
static Buf
sealed(const char *body)
{
    Buf text = text_of(body);

    manifest_seal(&text);
    return text;
}

static Manifest *
read_body(const char *body)
{
    Buf text = sealed(body);
    Manifest *manifest = read_whole(&text);

    buf_free(&text);
    return manifest;
}

/* Refused with this message, wherever it is cut. */
static void
refuse_text(const void *text, size_t len, const char *message)
{
    for (size_t piece = 1; piece <= len || piece == 1; piece += piece < 9 ? 1 : len / 3 + 1) {
        Error err = ERROR_INIT;

        assert_null(read_pieces(text, len, piece, &err));
        assert_string_equal(err.message, message);
        assert_int_equal(err.code, ERR_FORMAT);
    }
}

static void
refuse_body(const char *body, const char *message)
{
    Buf text = sealed(body);

    refuse_text(text.data, text.len, message);
    buf_free(&text);
}

/* ---- good manifests ---- */

/* One file of every kind, with every algorithm. */
static void
build_sample(uint32_t version, Buf *text)
{
    ManifestBuilder builder;

    manifest_builder_begin(&builder, version, SYSTEM_ID);
    manifest_builder_file(&builder, "PG_VERSION", "18\n", 3, CHECKSUM_CRC32C);
    manifest_builder_file(&builder, "empty", "", 0, CHECKSUM_CRC32C);
    manifest_builder_file(&builder, "base/1/1247", "some rows", 9, CHECKSUM_SHA224);
    manifest_builder_file(&builder, "pg_tblspc/16384/PG_18_202506291/1/2", "abc", 3,
                          CHECKSUM_SHA256);
    manifest_builder_file(&builder, "quote\" back\\ line\n bell\a tab\t", "abc", 3,
                          CHECKSUM_SHA384);
    manifest_builder_file(&builder, "latin\xE9/x\xFF", "abc", 3, CHECKSUM_SHA512);
    manifest_builder_file(&builder, "caf\xC3\xA9/\xF0\x9F\x98\x80", "abc", 3, CHECKSUM_NONE);
    manifest_builder_wal_range(&builder, 3, 0x516000028, 0x516000120);
    manifest_builder_wal_range(&builder, 2, 0x500000000, 0x516000028);
    manifest_builder_finish(&builder, text);
}

static const struct {
    const char *path;
    uint64_t size;
    ChecksumType type;
    const char *checksum;
} sample[] = {
    {"PG_VERSION", 3, CHECKSUM_CRC32C, "994e7be2"},
    {"empty", 0, CHECKSUM_CRC32C, "00000000"},
    {"base/1/1247", 9, CHECKSUM_SHA224, NULL},
    {"pg_tblspc/16384/PG_18_202506291/1/2", 3, CHECKSUM_SHA256,
     "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
    {"quote\" back\\ line\n bell\a tab\t", 3, CHECKSUM_SHA384, NULL},
    {"latin\xE9/x\xFF", 3, CHECKSUM_SHA512, NULL},
    {"caf\xC3\xA9/\xF0\x9F\x98\x80", 3, CHECKSUM_NONE, ""},
};

#define SAMPLE_COUNT (sizeof sample / sizeof sample[0])

static void
check_sample(const Manifest *manifest, uint32_t version)
{
    uint64_t system_id = 1;

    assert_int_equal(manifest_version(manifest), version);
    assert_int_equal(manifest_system_id(manifest, &system_id), version == 2);
    assert_true(system_id == (version == 2 ? SYSTEM_ID : 1));
    assert_int_equal(manifest_file_count(manifest), SAMPLE_COUNT);
    assert_int_equal(manifest_total_size(manifest), 24);
    for (size_t i = 0; i < SAMPLE_COUNT; i++) {
        const ManifestFile *file = manifest_file(manifest, i);
        char hex[2 * CHECKSUM_MAX + 1];

        assert_string_equal(file->path, sample[i].path);
        assert_int_equal(file->size, sample[i].size);
        assert_int_equal(file->checksum_type, sample[i].type);
        assert_int_equal(file->checksum_len, checksum_length(sample[i].type));
        hex_format(file->checksum, file->checksum_len, hex);
        if (sample[i].checksum != NULL)
            assert_string_equal(hex, sample[i].checksum);
        assert_ptr_equal(manifest_find(manifest, sample[i].path), file);
        assert_int_equal(manifest_file_index(manifest, file), i);
    }
    assert_int_equal(manifest_wal_range_count(manifest), 2);
    assert_int_equal(manifest_wal_range(manifest, 0)->timeline, 3);
    assert_true(manifest_wal_range(manifest, 0)->start == 0x516000028);
    assert_true(manifest_wal_range(manifest, 0)->end == 0x516000120);
    assert_int_equal(manifest_wal_range(manifest, 1)->timeline, 2);
    assert_true(manifest_wal_range(manifest, 1)->start == 0x500000000);
    assert_true(manifest_wal_range(manifest, 1)->end == 0x516000028);
}

static void
both_versions_in_pieces_of_every_size(void **state)
{
    (void)state;
    for (uint32_t version = 1; version <= 2; version++) {
        Buf text = BUF_INIT;

        build_sample(version, &text);
        for (size_t piece = 1; piece <= text.len; piece++) {
            Error err = ERROR_INIT;
            Manifest *manifest = read_pieces(text.data, text.len, piece, &err);

            assert_string_equal(err.message, "");
            assert_non_null(manifest);
            check_sample(manifest, version);
            manifest_free(manifest);
        }
        buf_free(&text);
    }
}

/* The builder must write what the server writes: this is one from a server, shortened. */
static void
text_of_a_server(void **state)
{
    static const char text[] =
        "{ \"PostgreSQL-Backup-Manifest-Version\": 2,\n"
        "\"System-Identifier\": 7710215980991679246,\n"
        "\"Files\": [\n"
        "{ \"Path\": \"PG_VERSION\", \"Size\": 3, \"Last-Modified\": \"2026-11-20 11:35:49 GMT\", "
        "\"Checksum-Algorithm\": \"CRC32C\", \"Checksum\": \"994e7be2\" },\n"
        "{ \"Encoded-Path\": \"6c6174696ee9\", \"Size\": 0, "
        "\"Last-Modified\": \"2026-11-20 11:35:49 GMT\", "
        "\"Checksum-Algorithm\": \"CRC32C\", \"Checksum\": \"00000000\" }\n"
        "],\n"
        "\"WAL-Ranges\": [\n"
        "{ \"Timeline\": 1, \"Start-LSN\": \"0/16000028\", \"End-LSN\": \"0/16000120\" }\n"
        "],\n"
        "\"Manifest-Checksum\": ";
    ManifestBuilder builder;
    Buf built = BUF_INIT;
    Manifest *manifest;

    (void)state;
    manifest_builder_begin(&builder, 2, SYSTEM_ID);
    manifest_builder_file(&builder, "PG_VERSION", "18\n", 3, CHECKSUM_CRC32C);
    manifest_builder_file(&builder, "latin\xE9", "", 0, CHECKSUM_CRC32C);
    manifest_builder_wal_range(&builder, 1, 0x16000028, 0x16000120);
    manifest_builder_finish(&builder, &built);
    assert_int_equal(built.len, sizeof text - 1 + 1 + 64 + 3);
    assert_memory_equal(built.data, text, sizeof text - 1);

    manifest = read_whole(&built);
    assert_int_equal(manifest_file_count(manifest), 2);
    assert_non_null(manifest_find(manifest, "latin\xE9"));
    manifest_free(manifest);
    buf_free(&built);
}

static void
forced_encoding(void **state)
{
    ManifestBuilder builder;
    Buf text = BUF_INIT;
    Manifest *manifest;

    (void)state;
    manifest_builder_begin(&builder, 2, SYSTEM_ID);
    builder.force_encode = true;
    manifest_builder_file(&builder, "base/1/1247", "x", 1, CHECKSUM_CRC32C);
    manifest_builder_finish(&builder, &text);
    assert_null(strstr(buf_text(&text), "\"Path\""));
    assert_non_null(strstr(buf_text(&text), "\"Encoded-Path\": \"626173652f312f31323437\""));
    manifest = read_whole(&text);
    assert_string_equal(manifest_file(manifest, 0)->path, "base/1/1247");
    manifest_free(manifest);
    buf_free(&text);
}

/* Nothing but the version and the checksum is needed. */
static void
smallest(void **state)
{
    Manifest *manifest = read_body(V1);

    (void)state;
    assert_int_equal(manifest_version(manifest), 1);
    assert_int_equal(manifest_file_count(manifest), 0);
    assert_int_equal(manifest_wal_range_count(manifest), 0);
    assert_int_equal(manifest_total_size(manifest), 0);
    assert_null(manifest_find(manifest, "PG_VERSION"));
    assert_null(manifest_find(manifest, ""));
    manifest_free(manifest);

    manifest = read_body(V1 "\"Files\": [\n],\n\"WAL-Ranges\": [\n],\n");
    assert_int_equal(manifest_file_count(manifest), 0);
    assert_int_equal(manifest_wal_range_count(manifest), 0);
    manifest_free(manifest);
}

static void
free_takes_anything(void **state)
{
    Error err = ERROR_INIT;
    ManifestReader *reader = manifest_reader_new(&err);

    (void)state;
    manifest_free(NULL);
    manifest_reader_free(NULL);
    assert_non_null(reader);
    manifest_reader_free(reader);

    reader = manifest_reader_new(&err);
    assert_non_null(reader);
    assert_true(manifest_reader_feed(reader, span_of(V1 "\"Files\": [{\"Path\": \"x\""), &err));
    manifest_reader_free(reader);
}

/* ---- what the stock reader accepts, too ---- */

/* The server never writes these, but the stock tools would read them. */
static void
lenient_as_the_stock_reader(void **state)
{
    uint64_t system_id = 0;
    Manifest *manifest =
        read_body("{\"PostgreSQL-Backup-Manifest-Version\":\"2\",\"WAL-Ranges\":[{\"End-LSN\":"
                  "\"a/0B\",\"Timeline\":\"4294967295\",\"Start-LSN\":\"0/0\"}],\"Files\":[{"
                  "\"Checksum\":\"ABcd\",\"Last-Modified\":true,\"Size\":\"007\","
                  "\"Checksum-Algorithm\":\"sha256\",\"Path\":\"\\u0061/\\u00e9\"}],"
                  "\"System-Identifier\":\"18446744073709551615\",\n");
    const ManifestFile *file = manifest_file(manifest, 0);

    (void)state;
    assert_true(manifest_system_id(manifest, &system_id));
    assert_true(system_id == UINT64_MAX);
    assert_int_equal(manifest_file_count(manifest), 1);
    assert_string_equal(file->path, "a/\xC3\xA9");
    assert_int_equal(file->size, 7);
    assert_int_equal(file->checksum_type, CHECKSUM_SHA256);
    assert_int_equal(file->checksum_len, 2); /* the length is judged where the file is */
    assert_memory_equal(file->checksum, "\xAB\xCD", 2);
    assert_int_equal(manifest_wal_range(manifest, 0)->timeline, UINT32_MAX);
    assert_true(manifest_wal_range(manifest, 0)->end == 0xA0000000B);
    manifest_free(manifest);
}

static void
keys_that_repeat(void **state)
{
    Manifest *manifest = read_body(
        V1 "\"Files\": [{\"Path\": \"a\", \"Size\": 1, \"Path\": \"b\", \"Size\": 2}],\n"
           "\"WAL-Ranges\": [{\"Timeline\": 1, \"Start-LSN\": \"0/0\", \"End-LSN\": \"0/1\"}],\n"
           "\"Files\": [{\"Encoded-Path\": \"63\", \"Encoded-Path\": \"64\", \"Size\": 4}],\n"
           "\"WAL-Ranges\": [{\"Timeline\": 2, \"Start-LSN\": \"0/0\", \"End-LSN\": \"0/1\"}],\n");

    (void)state;
    assert_int_equal(manifest_file_count(manifest), 2);
    assert_string_equal(manifest_file(manifest, 0)->path, "b");
    assert_int_equal(manifest_file(manifest, 0)->size, 2);
    assert_string_equal(manifest_file(manifest, 1)->path, "d");
    assert_int_equal(manifest_total_size(manifest), 6);
    assert_int_equal(manifest_wal_range_count(manifest), 2);
    manifest_free(manifest);
}

/* The fields of one file must not leak into the next. */
static void
fields_belong_to_one_file(void **state)
{
    Manifest *manifest;

    (void)state;
    manifest = read_body(V1 "\"Files\": [{\"Path\": \"a\", \"Size\": 1, \"Checksum-Algorithm\": "
                            "\"CRC32C\", \"Checksum\": \"01020304\"},\n"
                            "{\"Encoded-Path\": \"62\", \"Size\": 2},\n"
                            "{\"Path\": \"c\", \"Size\": 3}],\n");
    assert_int_equal(manifest_file(manifest, 0)->checksum_len, 4);
    assert_int_equal(manifest_file(manifest, 1)->checksum_type, CHECKSUM_NONE);
    assert_int_equal(manifest_file(manifest, 1)->checksum_len, 0);
    assert_string_equal(manifest_file(manifest, 2)->path, "c");
    manifest_free(manifest);

    refuse_body(V1 "\"Files\": [{\"Path\": \"a\", \"Size\": 1}, {\"Path\": \"b\"}],\n",
                PREFIX "missing size");
    refuse_body(V1 "\"WAL-Ranges\": [{\"Timeline\": 1, \"Start-LSN\": \"0/0\", "
                   "\"End-LSN\": \"0/1\"}, {\"Timeline\": 1, \"End-LSN\": \"0/1\"}],\n",
                PREFIX "missing start LSN");
}

static void
algorithms(void **state)
{
    static const struct {
        const char *fields;
        ChecksumType type;
        uint8_t len;
    } cases[] = {
        {"", CHECKSUM_NONE, 0},
        {", \"Checksum-Algorithm\": \"NONE\"", CHECKSUM_NONE, 0},
        {", \"Checksum-Algorithm\": \"none\", \"Checksum\": \"\"", CHECKSUM_NONE, 0},
        {", \"Checksum-Algorithm\": \"NONE\", \"Checksum\": \"00\"", CHECKSUM_NONE, 1},
        {", \"Checksum-Algorithm\": \"CRC32C\"", CHECKSUM_CRC32C, 0},
        {", \"Checksum-Algorithm\": \"crc32C\", \"Checksum\": \"0011AAff\"", CHECKSUM_CRC32C, 4},
        {", \"Checksum\": \"00\", \"Checksum-Algorithm\": \"Sha512\"", CHECKSUM_SHA512, 1},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        Buf body = BUF_INIT;
        Error err = ERROR_INIT;
        Manifest *manifest;

        assert_true(buf_printf(&body, &err, V1 "\"Files\": [{\"Path\": \"x\", \"Size\": 1%s}],\n",
                               cases[i].fields));
        manifest = read_body(buf_text(&body));
        assert_int_equal(manifest_file(manifest, 0)->checksum_type, cases[i].type);
        assert_int_equal(manifest_file(manifest, 0)->checksum_len, cases[i].len);
        assert_non_null(manifest_file(manifest, 0)->checksum);
        manifest_free(manifest);
        buf_free(&body);
    }
}

static void
system_identifiers(void **state)
{
    uint64_t system_id = 5;
    Manifest *manifest = read_body(V1 "\"System-Identifier\": 42,\n");

    (void)state;
    /* Version 1 has none, whatever it says. */
    assert_false(manifest_system_id(manifest, &system_id));
    assert_int_equal(system_id, 5);
    manifest_free(manifest);

    manifest = read_body(V2);
    assert_true(manifest_system_id(manifest, &system_id));
    assert_int_equal(system_id, 42);
    manifest_free(manifest);

    manifest = read_body(V2 "\"System-Identifier\": 0,\n");
    assert_true(manifest_system_id(manifest, &system_id));
    assert_int_equal(system_id, 0);
    manifest_free(manifest);
}

/* ---- every rule broken once ---- */

typedef struct BadCase {
    const char *body;
    const char *message; /* behind PREFIX */
} BadCase;

static void
refuse_all(const BadCase *cases, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        Error full = ERROR_INIT;

        error_ignored(error_set(&full, ERR_FORMAT, PREFIX "%s", cases[i].message));
        refuse_body(cases[i].body, full.message);
    }
}

#define REFUSE_ALL(cases) refuse_all(cases, sizeof(cases) / sizeof(cases)[0])

static void
bad_top_level(void **state)
{
    static const BadCase cases[] = {
        {"[\n", "unexpected array start"},
        {"1\n", "unexpected scalar"},
        {"\"a\"\n", "unexpected scalar"},
        {"{}\n", "unexpected object end"},
        {"{\"Files\": []}\n", "expected version indicator"},
        {"{\"Manifest-Checksum\": 1}\n", "expected version indicator"},
        {V1 "\"Oops\": 1,\n", "unrecognized top-level field"},
        {V1 "\"files\": [],\n", "unrecognized top-level field"},
        {V1 "\"\": 1,\n", "unrecognized top-level field"},
        {V1 "\"PostgreSQL-Backup-Manifest-Version\": 1,\n", "unrecognized top-level field"},
        {V1 "\"Path\": 1,\n", "unrecognized top-level field"},
        {V1 "\"Files\": true,\n", "unexpected scalar"},
        {V1 "\"Files\": {},\n", "unexpected object start"},
        {V1 "\"WAL-Ranges\": null,\n", "unexpected scalar"},
        {V1 "\"WAL-Ranges\": {},\n", "unexpected object start"},
        {V1 "\"System-Identifier\": [],\n", "unexpected array start"},
        {V1 "\"System-Identifier\": {},\n", "unexpected object start"},
        {V1 "\"Manifest-Checksum\": {},\n", "unexpected object start"},
        {V1 "\"Manifest-Checksum\": [],\n", "unexpected array start"},
        {V1 "\"Manifest-Checksum\": \"00\",\n", "unexpected object field"},
        {V1 "\"Manifest-Checksum\": \"00\",\n\"Files\": [],\n", "unexpected object field"},
        {V1 "\"Files\": [] }\n", "unexpected object end"},
        {"{\"PostgreSQL-Backup-Manifest-Version\": 2,\n", "missing system identifier"},
        {"{\"PostgreSQL-Backup-Manifest-Version\": 2,\n\"Files\": [],\n",
         "missing system identifier"},
    };

    (void)state;
    REFUSE_ALL(cases);
}

static void
bad_versions(void **state)
{
    static const struct {
        const char *value;
        const char *message;
    } cases[] = {
        {"\"phooey\"", PREFIX "manifest version not an integer"},
        {"null", PREFIX "manifest version not an integer"},
        {"\"\"", PREFIX "manifest version not an integer"},
        {"\"-\"", PREFIX "manifest version not an integer"},
        {"1.0", PREFIX "manifest version not an integer"},
        {"\" 1\"", PREFIX "manifest version not an integer"},
        {"0", PREFIX "unexpected manifest version"},
        {"3", PREFIX "unexpected manifest version"},
        {"-1", PREFIX "unexpected manifest version"},
        {"4294967297", PREFIX "unexpected manifest version"},
        {"99999999999999999999999", PREFIX "unexpected manifest version"},
        {"{}", PREFIX "unexpected object start"},
        {"[]", PREFIX "unexpected array start"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        Buf body = BUF_INIT;
        Error err = ERROR_INIT;

        assert_true(buf_printf(&body, &err, "{\"PostgreSQL-Backup-Manifest-Version\": %s,\n",
                               cases[i].value));
        refuse_body(buf_text(&body), cases[i].message);
        buf_free(&body);
    }
}

#define BAD_SYSTEM_ID(VALUE)                                                                       \
    "{\"PostgreSQL-Backup-Manifest-Version\": 2,\n\"System-Identifier\": " VALUE ",\n"

static void
bad_system_identifiers(void **state)
{
    static const BadCase cases[] = {
        {BAD_SYSTEM_ID("\"abc\""), "system identifier in manifest not an integer"},
        {BAD_SYSTEM_ID("true"), "system identifier in manifest not an integer"},
        {BAD_SYSTEM_ID("1e5"), "system identifier in manifest not an integer"},
        {BAD_SYSTEM_ID("\"\""), "system identifier in manifest not an integer"},
        {BAD_SYSTEM_ID("-1"), "system identifier in manifest is out of range"},
        {BAD_SYSTEM_ID("18446744073709551616"), "system identifier in manifest is out of range"},
    };

    (void)state;
    REFUSE_ALL(cases);
}

#define FILES(TEXT) V1 "\"Files\": [" TEXT "],\n"

static void
bad_files(void **state)
{
    static const BadCase cases[] = {
        {FILES("1"), "unexpected scalar"},
        {FILES("[]"), "unexpected array start"},
        {FILES("{\"Path\": {}}"), "unexpected object start"},
        {FILES("{\"Path\": []}"), "unexpected array start"},
        {FILES("{\"Oops\": 1}"), "unexpected file field"},
        {FILES("{\"path\": 1}"), "unexpected file field"},
        {FILES("{\"Timeline\": 1}"), "unexpected file field"},
        {FILES("{\"Path\\u00e9\": 1}"), "unexpected file field"},
        {FILES("{}"), "missing path name"},
        {FILES("{\"Size\": 1}"), "missing path name"},
        {FILES("{\"Path\": \"x\", \"Encoded-Path\": \"1234\"}"),
         "both path name and encoded path name"},
        {FILES("{\"Path\": \"x\"}"), "missing size"},
        {FILES("{\"Encoded-Path\": \"78\", \"Checksum\": \"00\"}"), "missing size"},
        {FILES("{\"Path\": \"x\", \"Size\": 1, \"Checksum\": \"Oops\"}"),
         "checksum without algorithm"},
        {FILES("{\"Path\": \"x\", \"Size\": \"Oops\"}"), "file size is not an integer"},
        {FILES("{\"Path\": \"x\", \"Size\": \"\"}"), "file size is not an integer"},
        {FILES("{\"Path\": \"x\", \"Size\": \"-\"}"), "file size is not an integer"},
        {FILES("{\"Path\": \"x\", \"Size\": \" 1\"}"), "file size is not an integer"},
        {FILES("{\"Path\": \"x\", \"Size\": \"1 \"}"), "file size is not an integer"},
        {FILES("{\"Path\": \"x\", \"Size\": \"+1\"}"), "file size is not an integer"},
        {FILES("{\"Path\": \"x\", \"Size\": 1.0}"), "file size is not an integer"},
        {FILES("{\"Path\": \"x\", \"Size\": 1e3}"), "file size is not an integer"},
        {FILES("{\"Path\": \"x\", \"Size\": null}"), "file size is not an integer"},
        {FILES("{\"Path\": \"x\", \"Size\": -1}"),
         "file size is out of range: \"-1\" for file \"x\""},
        {FILES("{\"Path\": \"x\", \"Size\": 18446744073709551616}"),
         "file size is out of range: \"18446744073709551616\" for file \"x\""},
    };

    (void)state;
    REFUSE_ALL(cases);
}

static void
bad_checksums(void **state)
{
    (void)state;
    refuse_body(FILES("{\"Path\": \"x\", \"Size\": 1, \"Checksum-Algorithm\": \"MD5\", "
                      "\"Checksum\": \"00\"}"),
                "unrecognized checksum algorithm: \"MD5\"");
    refuse_body(FILES("{\"Path\": \"x\", \"Size\": 1, \"Checksum-Algorithm\": \"\"}"),
                "unrecognized checksum algorithm: \"\"");
    refuse_body(FILES("{\"Path\": \"x\", \"Size\": 1, \"Checksum-Algorithm\": \"CRC32\"}"),
                "unrecognized checksum algorithm: \"CRC32\"");
    refuse_body(FILES("{\"Path\": \"x\", \"Size\": 1, \"Checksum-Algorithm\": \"CRC32C\", "
                      "\"Checksum\": \"0\"}"),
                "invalid checksum for file \"x\": \"0\"");
    refuse_body(FILES("{\"Encoded-Path\": \"61ff\", \"Size\": 1, \"Checksum-Algorithm\": "
                      "\"CRC32C\", \"Checksum\": \"0g\"}"),
                "invalid checksum for file \"a\xFF\": \"0g\"");
}

/* 255 bytes are kept, whatever the algorithm; more are no checksum. */
static void
long_checksums(void **state)
{
    (void)state;
    for (size_t len = 255; len <= 256; len++) {
        char hex[2 * 256 + 1] = {0};
        Buf body = BUF_INIT;
        Error err = ERROR_INIT;

        memset(hex, 'a', 2 * len);
        assert_true(buf_printf(&body, &err,
                               FILES("{\"Path\": \"x\", \"Size\": 1, \"Checksum-Algorithm\": "
                                     "\"SHA512\", \"Checksum\": \"%s\"}"),
                               hex));
        if (len == 255) {
            Manifest *manifest = read_body(buf_text(&body));

            assert_int_equal(manifest_file(manifest, 0)->checksum_len, 255);
            assert_int_equal(manifest_file(manifest, 0)->checksum[254], 0xAA);
            manifest_free(manifest);
        } else {
            Error full = ERROR_INIT;

            error_ignored(
                error_set(&full, ERR_FORMAT, "invalid checksum for file \"x\": \"%s\"", hex));
            refuse_body(buf_text(&body), full.message);
        }
        buf_free(&body);
    }
}

#define RANGES(TEXT) V1 "\"WAL-Ranges\": [" TEXT "],\n"
#define LSNS         "\"Start-LSN\": \"0/0\", \"End-LSN\": \"0/0\"}"

static void
bad_wal_ranges(void **state)
{
    static const BadCase cases[] = {
        {RANGES("1"), "unexpected scalar"},
        {RANGES("[]"), "unexpected array start"},
        {RANGES("{\"Timeline\": []}"), "unexpected array start"},
        {RANGES("{\"Oops\": 1}"), "unexpected WAL range field"},
        {RANGES("{\"Path\": 1}"), "unexpected WAL range field"},
        {RANGES("{}"), "missing timeline"},
        {RANGES("{" LSNS), "missing timeline"},
        {RANGES("{\"Timeline\": 1}"), "missing start LSN"},
        {RANGES("{\"Timeline\": 1, \"End-LSN\": \"0/0\"}"), "missing start LSN"},
        {RANGES("{\"Timeline\": 1, \"Start-LSN\": \"0/0\"}"), "missing end LSN"},
        {RANGES("{\"Timeline\": true, " LSNS), "timeline is not an integer"},
        {RANGES("{\"Timeline\": \"\", " LSNS), "timeline is not an integer"},
        {RANGES("{\"Timeline\": 4294967296, " LSNS), "timeline is out of range: \"4294967296\""},
        {RANGES("{\"Timeline\": -1, " LSNS), "timeline is out of range: \"-1\""},
        {RANGES("{\"Timeline\": 1, \"Start-LSN\": \"oops\", \"End-LSN\": \"0/0\"}"),
         "could not parse start LSN"},
        {RANGES("{\"Timeline\": 1, \"Start-LSN\": 0, \"End-LSN\": \"0/0\"}"),
         "could not parse start LSN"},
        {RANGES("{\"Timeline\": 1, \"Start-LSN\": \"0/123456789\", \"End-LSN\": \"0/0\"}"),
         "could not parse start LSN"},
        {RANGES("{\"Timeline\": 1, \"Start-LSN\": \"0/0\", \"End-LSN\": \"oops\"}"),
         "could not parse end LSN"},
        {RANGES("{\"Timeline\": 1, \"Start-LSN\": \"0/0\", \"End-LSN\": \"0/0 \"}"),
         "could not parse end LSN"},
    };

    (void)state;
    REFUSE_ALL(cases);
}

/* ---- paths ---- */

static void
unsafe_paths(void **state)
{
    static const char *const paths[] = {
        "",
        "/",
        "/etc/passwd",
        ".",
        "..",
        "../x",
        "a/..",
        "a/../b",
        "a/../../b",
        "./a",
        "a/.",
        "a/./b",
        "a//b",
        "a/",
        "//",
        "/a/..",
        "pg_tblspc/16384/../../../x",
    };

    (void)state;
    for (size_t i = 0; i < sizeof paths / sizeof paths[0]; i++) {
        for (int encode = 0; encode < 2; encode++) {
            ManifestBuilder builder;
            Buf text = BUF_INIT;
            Error full = ERROR_INIT;

            manifest_builder_begin(&builder, 2, SYSTEM_ID);
            builder.force_encode = encode == 1;
            manifest_builder_file(&builder, "PG_VERSION", "18\n", 3, CHECKSUM_CRC32C);
            manifest_builder_file(&builder, paths[i], "", 0, CHECKSUM_CRC32C);
            manifest_builder_finish(&builder, &text);
            error_ignored(error_set(&full, ERR_FORMAT,
                                    PREFIX "path name \"%s\" is not inside the backup", paths[i]));
            refuse_text(text.data, text.len, full.message);
            buf_free(&text);
        }
    }
    /* Escapes do not hide anything. */
    refuse_body(FILES("{\"Path\": \"\\u002e\\u002e\\/x\", \"Size\": 0}"),
                PREFIX "path name \"../x\" is not inside the backup");
}

/* Names that look odd but are none of our business. */
static void
strange_but_safe_paths(void **state)
{
    static const char *const paths[] = {"...", "..a", "a..",      "-",    " ",    "a b/c ",
                                        "~",   "*",   "a\\..\\b", "\x01", "\x7F", "null"};

    (void)state;
    for (size_t i = 0; i < sizeof paths / sizeof paths[0]; i++) {
        ManifestBuilder builder;
        Buf text = BUF_INIT;
        Manifest *manifest;

        manifest_builder_begin(&builder, 1, 0);
        manifest_builder_file(&builder, paths[i], "", 0, CHECKSUM_NONE);
        manifest_builder_finish(&builder, &text);
        manifest = read_whole(&text);
        assert_string_equal(manifest_file(manifest, 0)->path, paths[i]);
        manifest_free(manifest);
        buf_free(&text);
    }
}

static void
encoded_paths(void **state)
{
    static const BadCase cases[] = {
        {FILES("{\"Encoded-Path\": \"123\", \"Size\": 0}"), "could not decode file name"},
        {FILES("{\"Encoded-Path\": \"6g\", \"Size\": 0}"), "could not decode file name"},
        {FILES("{\"Encoded-Path\": \"0x61\", \"Size\": 0}"), "could not decode file name"},
        {FILES("{\"Encoded-Path\": \" 61\", \"Size\": 0}"), "could not decode file name"},
        {FILES("{\"Encoded-Path\": null, \"Size\": 0}"), "could not decode file name"},
        {FILES("{\"Encoded-Path\": \"00\", \"Size\": 0}"),
         "encoded path name contains a zero byte"},
        {FILES("{\"Encoded-Path\": \"610062\", \"Size\": 0}"),
         "encoded path name contains a zero byte"},
        {FILES("{\"Encoded-Path\": \"6100\", \"Size\": 0}"),
         "encoded path name contains a zero byte"},
    };
    Manifest *manifest;

    (void)state;
    REFUSE_ALL(cases);
    manifest = read_body(FILES("{\"Encoded-Path\": \"4a6B2fFf\", \"Size\": 0}"));
    assert_string_equal(manifest_file(manifest, 0)->path, "Jk/\xFF");
    assert_non_null(manifest_find(manifest, "Jk/\xFF"));
    manifest_free(manifest);
}

static void
long_paths(void **state)
{
    (void)state;
    for (int encode = 0; encode < 2; encode++) {
        for (size_t len = MANIFEST_PATH_LIMIT; len <= MANIFEST_PATH_LIMIT + 1; len++) {
            char path[MANIFEST_PATH_LIMIT + 2] = {0};
            ManifestBuilder builder;
            Buf text = BUF_INIT;

            memset(path, 'x', len);
            path[2000] = '/';
            manifest_builder_begin(&builder, 1, 0);
            builder.force_encode = encode == 1;
            manifest_builder_file(&builder, path, "", 0, CHECKSUM_NONE);
            manifest_builder_finish(&builder, &text);
            if (len == MANIFEST_PATH_LIMIT) {
                Manifest *manifest = read_whole(&text);

                assert_string_equal(manifest_file(manifest, 0)->path, path);
                manifest_free(manifest);
            } else {
                refuse_text(text.data, text.len, PREFIX "path name is longer than 4095 bytes");
            }
            buf_free(&text);
        }
    }
}

static void
duplicate_paths(void **state)
{
    (void)state;
    refuse_body(FILES("{\"Path\": \"x\", \"Size\": 0}, {\"Path\": \"x\", \"Size\": 0}"),
                "duplicate path name in backup manifest: \"x\"");
    refuse_body(FILES("{\"Path\": \"x\", \"Size\": 0}, {\"Path\": \"y\", \"Size\": 0}, "
                      "{\"Encoded-Path\": \"78\", \"Size\": 7}"),
                "duplicate path name in backup manifest: \"x\"");
    refuse_body(FILES("{\"Path\": \"x\", \"Size\": 0}") "\"Files\": [{\"Path\": \"\\u0078\", "
                                                        "\"Size\": 0}],\n",
                "duplicate path name in backup manifest: \"x\"");
}

static void
total_size(void **state)
{
    Manifest *manifest = read_body(FILES("{\"Path\": \"x\", \"Size\": 18446744073709551614}, "
                                         "{\"Path\": \"y\", \"Size\": 1}, "
                                         "{\"Path\": \"z\", \"Size\": 0}"));

    (void)state;
    assert_true(manifest_total_size(manifest) == UINT64_MAX);
    assert_true(manifest_file(manifest, 0)->size == UINT64_MAX - 1);
    manifest_free(manifest);
    refuse_body(FILES("{\"Path\": \"x\", \"Size\": 18446744073709551614}, "
                      "{\"Path\": \"y\", \"Size\": 2}"),
                PREFIX "total size is out of range at path name \"y\"");
}

/* ---- the last line and its checksum ---- */

static void
refuse_plain(const char *text, const char *message)
{
    refuse_text(text, strlen(text), message);
}

static void
bad_endings(void **state)
{
    (void)state;
    refuse_plain("", PREFIX "manifest ended unexpectedly");
    refuse_plain("{\n", PREFIX "manifest ended unexpectedly");
    refuse_plain("\n\n", PREFIX "manifest ended unexpectedly");
    refuse_plain("{\"PostgreSQL-Backup-Manifest-Version\": 1, \"Manifest-Checksum\": null}",
                 PREFIX "expected at least 2 lines");
    refuse_plain("{\"PostgreSQL-Backup-Manifest-Version\": 1, \"Manifest-Checksum\": null}\n",
                 PREFIX "expected at least 2 lines");
    refuse_plain("{\"PostgreSQL-Backup-Manifest-Version\": 1,\n\"Manifest-Checksum\": null}",
                 PREFIX "expected at least 2 lines");
    refuse_plain("{\"PostgreSQL-Backup-Manifest-Version\": 1,\n\n\"Manifest-Checksum\": null}",
                 PREFIX "last line not newline-terminated");
    refuse_plain("{\"PostgreSQL-Backup-Manifest-Version\": 1,\n\"Manifest-Checksum\": null}\n ",
                 PREFIX "last line not newline-terminated");
    refuse_plain("{\"PostgreSQL-Backup-Manifest-Version\": 1,\n\"Manifest-Checksum\": null}\n",
                 "invalid manifest checksum: \"null\"");
    refuse_plain(V1 "\"Manifest-Checksum\": \"\"}\n", "invalid manifest checksum: \"\"");
    refuse_plain(V1 "\"Manifest-Checksum\": \"00\"}\n", "invalid manifest checksum: \"00\"");
    refuse_plain(V1 "\"Manifest-Checksum\": "
                    "\"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz01234567890-\"}\n",
                 "invalid manifest checksum: "
                 "\"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz01234567890-\"");
    refuse_plain(V1 "\"Manifest-Checksum\": "
                    "\"0000000000000000000000000000000000000000000000000000000000000000\"}\n",
                 "manifest checksum mismatch");
    refuse_plain(V1 "\"Manifest-Checksum\": \"0\"}{\n",
                 PREFIX "line 2: expected the end, but found '{'");
}

/* `body` sealed, with `tail` behind the last line. */
static Buf
sealed_with_tail(const char *body, const char *tail)
{
    Buf text = sealed(body);
    Error err = ERROR_INIT;

    assert_true(buf_append(&text, tail, strlen(tail), &err));
    return text;
}

static void
bytes_after_the_end(void **state)
{
    static const struct {
        const char *tail;
        const char *message;
    } cases[] = {
        {"\n", "manifest checksum mismatch"}, /* then another line is the last */
        {" \n", "manifest checksum mismatch"},
        {" ", PREFIX "last line not newline-terminated"},
        {"{", PREFIX "line 3: expected the end, but found '{'"},
        {"}", PREFIX "line 3: expected the end, but found '}'"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        Buf text = sealed_with_tail(V1, cases[i].tail);

        refuse_text(text.data, text.len, cases[i].message);
        buf_free(&text);
    }
}

/* SHA-256 of `covered` in hex. */
static void
hash_hex(const char *covered, size_t len, char hex[65])
{
    Checksum checksum = CHECKSUM_INIT;
    Error err = ERROR_INIT;
    Digest digest;

    assert_true(checksum_begin(&checksum, CHECKSUM_SHA256, &err));
    assert_true(checksum_update(&checksum, covered, len, &err));
    assert_true(checksum_finish(&checksum, &digest, &err));
    checksum_free(&checksum);
    hex_format(digest.bytes, digest.len, hex);
}

/* The line counts, not the key: what stands before the last line is covered, all in it is not. */
static void
checksum_covers_all_lines_but_the_last(void **state)
{
    static const struct {
        const char *head;
        const char *last;
    } cases[] = {
        /* as usual */
        {V1 "\"Files\": [],\n", "\"Manifest-Checksum\": \"%s\"}\n"},
        /* key and value apart */
        {V1 "\"Manifest-Checksum\":\n", "\"%s\"}\n"},
        /* all in the last line */
        {"{\n", "\"PostgreSQL-Backup-Manifest-Version\": 1, \"Files\": [{\"Path\": \"a\", "
                "\"Size\": 1}], \"Manifest-Checksum\": \"%s\"}\n"},
        /* empty lines before, white space behind */
        {V1 "\"Files\": [\n],\r\n\n\n", " \"Manifest-Checksum\" : \"%s\" } \t\r\n"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const char *last = cases[i].last;
        const char *mark = strstr(last, "%s");
        char hex[65];
        Buf text = text_of(cases[i].head);
        Error err = ERROR_INIT;

        assert_non_null(mark);
        hash_hex(cases[i].head, strlen(cases[i].head), hex);
        assert_true(buf_printf(&text, &err, "%.*s%s%s", (int)(mark - last), last, hex, mark + 2));
        for (size_t piece = 1; piece <= text.len; piece++) {
            Manifest *manifest = read_pieces(text.data, text.len, piece, &err);

            assert_string_equal(err.message, "");
            assert_non_null(manifest);
            manifest_free(manifest);
        }
        buf_free(&text);
    }
}

static void
checksum_in_upper_case(void **state)
{
    Buf text = sealed(V1);
    Manifest *manifest;

    (void)state;
    for (size_t i = text.len - 68; i < text.len; i++) {
        if (text.data[i] >= 'a' && text.data[i] <= 'f')
            text.data[i] = (uint8_t)(text.data[i] - 'a' + 'A');
    }
    manifest = read_whole(&text);
    manifest_free(manifest);
    buf_free(&text);
}

/* A last line of `len` bytes, blanks included. */
static Buf
with_last_line(size_t len)
{
    Buf text = sealed(V1);
    size_t last = text.len - strlen(V1);
    Error err = ERROR_INIT;

    text.len -= 2; /* "}" and the line feed */
    for (; last < len; last++)
        assert_true(buf_append(&text, " ", 1, &err));
    assert_true(buf_append(&text, "}\n", 2, &err));
    return text;
}

static void
last_line_limit(void **state)
{
    Buf text = with_last_line(1024);

    (void)state;
    for (size_t piece = 1; piece <= text.len; piece++) {
        Error err = ERROR_INIT;
        Manifest *manifest = read_pieces(text.data, text.len, piece, &err);

        assert_string_equal(err.message, "");
        manifest_free(manifest);
    }
    buf_free(&text);

    text = with_last_line(1025);
    refuse_text(text.data, text.len, PREFIX "last line is longer than 1024 bytes");
    buf_free(&text);
    text = with_last_line(100000);
    refuse_text(text.data, text.len, PREFIX "last line is longer than 1024 bytes");
    buf_free(&text);
}

/* Lines before the last may have any length. */
static void
long_lines(void **state)
{
    static const size_t lengths[] = {1022, 1023, 1024, 1025, 1026, 2048, 5000, 300000};

    (void)state;
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        Buf text = text_of(V1);
        size_t first = text.len;
        Error err = ERROR_INIT;

        while (text.len - first < lengths[i] - 1)
            assert_true(buf_append(&text, " ", 1, &err));
        assert_true(buf_append(&text, "\n", 1, &err));
        manifest_seal(&text);
        for (size_t piece = 1; piece < 2 * text.len; piece = piece * 3 + 1) {
            Manifest *manifest = read_pieces(text.data, text.len, piece, &err);

            assert_string_equal(err.message, "");
            assert_non_null(manifest);
            manifest_free(manifest);
        }
        buf_free(&text);
    }
}

/* ---- damage ---- */

static void
cut_anywhere(void **state)
{
    Buf text = BUF_INIT;

    (void)state;
    build_sample(2, &text);
    for (size_t len = 0; len < text.len; len++) {
        for (size_t piece = 1; piece <= len + 1; piece += len / 2 + 1) {
            Error err = ERROR_INIT;

            assert_null(read_pieces(text.data, len, piece, &err));
            assert_int_equal(err.code, ERR_FORMAT);
            if (len < text.len - 1)
                assert_string_equal(err.message, PREFIX "manifest ended unexpectedly");
            else
                assert_string_equal(err.message, PREFIX "last line not newline-terminated");
        }
    }
    buf_free(&text);
}

/* Every bit of every byte: nothing that was changed is ever taken for whole. */
static void
change_anything(void **state)
{
    Buf text = BUF_INIT;

    (void)state;
    build_sample(2, &text);
    for (size_t at = 0; at < text.len; at++) {
        for (unsigned bit = 0; bit < 8; bit++) {
            uint8_t before = text.data[at];
            Error err = ERROR_INIT;
            Manifest *manifest;

            text.data[at] = (uint8_t)(before ^ 1u << bit);
            manifest = read_pieces(text.data, text.len, text.len, &err);
            if (manifest != NULL) {
                /* Only the case of the checksum's own digits and blanks around it may change. */
                assert_true(at > text.len - strlen("\"Manifest-Checksum\": \"\"}\n") - 64);
                check_sample(manifest, 2);
                manifest_free(manifest);
            } else {
                assert_int_equal(err.code, ERR_FORMAT);
            }
            text.data[at] = before;
        }
    }
    buf_free(&text);
}

/* A line twice, or one missing, is seen as well. */
static void
lose_or_repeat_a_line(void **state)
{
    Buf text = BUF_INIT;
    const char *whole;

    (void)state;
    build_sample(1, &text);
    whole = buf_text(&text);
    for (const char *line = whole; *line != '\0'; line = strchr(line, '\n') + 1) {
        size_t before = (size_t)(line - whole);
        size_t len = (size_t)(strchr(line, '\n') + 1 - line);
        Buf damaged = BUF_INIT;
        Error err = ERROR_INIT;

        assert_true(buf_append(&damaged, whole, before, &err));
        assert_true(buf_append(&damaged, line + len, text.len - before - len, &err));
        assert_null(read_pieces(damaged.data, damaged.len, damaged.len + 1, &err));
        assert_int_equal(err.code, ERR_FORMAT);
        buf_clear(&damaged);
        err = ERROR_INIT;
        assert_true(buf_append(&damaged, whole, before + len, &err));
        assert_true(buf_append(&damaged, line, text.len - before, &err));
        assert_null(read_pieces(damaged.data, damaged.len, damaged.len, &err));
        assert_int_equal(err.code, ERR_FORMAT);
        buf_free(&damaged);
    }
    buf_free(&text);
}

static void
bad_json_has_its_line(void **state)
{
    (void)state;
    refuse_body(V1 "\"Files\": [\n{\"Path\": \"a\xFF\", \"Size\": 1}],\n",
                PREFIX "line 3: invalid UTF-8: byte 0xff");
    refuse_body(V1 "\"Files\": [\n{\"Path\": \"a\", \"Size\": 08}],\n",
                PREFIX "line 3: token \"08\" is invalid");
    refuse_body(V1 "\"Files\": [[[[[\n", PREFIX "unexpected array start");
}

static void
huge_text(void **state)
{
    const size_t len = 10000000;
    Buf text = text_of(V1 "\"Files\": [{\"Path\": \"");
    Error err = ERROR_INIT;

    (void)state;
    assert_true(buf_reserve(&text, len, &err));
    memset(text.data + text.len, 'x', len);
    text.len += len;
    assert_null(read_pieces(text.data, text.len, 65536, &err));
    assert_string_equal(err.message, PREFIX "line 2: a text is longer than 8192 bytes");
    buf_free(&text);
}

/* ---- the reader's life ---- */

/* After a failure it fails for ever, in the same words. */
static void
dead_after_a_failure(void **state)
{
    Error first = ERROR_INIT;
    ManifestReader *reader = manifest_reader_new(&first);
    Manifest *manifest = NULL;

    (void)state;
    assert_non_null(reader);
    assert_false(manifest_reader_feed(reader, span_of("{]"), &first));
    for (int i = 0; i < 3; i++) {
        Error err = ERROR_INIT;

        assert_false(manifest_reader_feed(reader, span_of(V1), &err));
        assert_string_equal(err.message, first.message);
        err = ERROR_INIT;
        assert_false(manifest_reader_finish(reader, &manifest, &err));
        assert_string_equal(err.message, first.message);
        assert_int_equal(err.code, ERR_FORMAT);
        assert_null(manifest);
    }
    manifest_reader_free(reader);
}

static void
finish_once(void **state)
{
    Error err = ERROR_INIT;
    ManifestReader *reader = manifest_reader_new(&err);
    Buf text = sealed(V1);
    Manifest *manifest = NULL;
    Manifest *second = NULL;

    (void)state;
    assert_non_null(reader);
    assert_true(manifest_reader_feed(reader, (Span){.data = text.data, .len = text.len}, &err));
    assert_true(manifest_reader_feed(reader, (Span){.data = NULL, .len = 0}, &err));
    assert_true(manifest_reader_finish(reader, &manifest, &err));
    assert_false(manifest_reader_finish(reader, &second, &err));
    assert_int_equal(err.code, ERR_BUG);
    assert_null(second);
    assert_false(manifest_reader_feed(reader, span_of(" "), &err));
    manifest_reader_free(reader);

    /* The manifest does not need its reader. */
    assert_int_equal(manifest_version(manifest), 1);
    manifest_free(manifest);
    buf_free(&text);
}

/* ---- many files ---- */

static void
build_many(size_t count, Buf *text)
{
    ManifestBuilder builder;

    manifest_builder_begin(&builder, 2, SYSTEM_ID);
    for (size_t i = 0; i < count; i++) {
        Digest digest = {.type = CHECKSUM_CRC32C, .len = 4, .bytes = {(uint8_t)i, 1, 2, 3}};
        char path[64];

        (void)snprintf(path, sizeof path, "base/%zu/%zu", i / 1000, 16384 + i);
        manifest_builder_entry(&builder, path, i, &digest);
    }
    manifest_builder_wal_range(&builder, 1, 1, 2);
    manifest_builder_finish(&builder, text);
}

static void
many_files(void **state)
{
    const size_t count = 200000;
    Buf text = BUF_INIT;
    Error err = ERROR_INIT;
    Manifest *manifest;
    int64_t start;

    (void)state;
    build_many(count, &text);
    start = clock_ms();
    manifest = read_pieces(text.data, text.len, 131072, &err);
    assert_non_null(manifest);
    assert_in_range(clock_ms() - start, 0,
                    20000); /* a fraction of a second, were it not for sanitizers */

    assert_int_equal(manifest_file_count(manifest), count);
    assert_true(manifest_total_size(manifest) == (uint64_t)count * (count - 1) / 2);
    for (size_t i = 0; i < count; i++) {
        const ManifestFile *file = manifest_file(manifest, i);

        if (file->size != i || file->checksum[0] != (uint8_t)i ||
            manifest_find(manifest, file->path) != file || manifest_file_index(manifest, file) != i)
            fail_msg("file %zu is not what was written", i);
    }
    assert_null(manifest_find(manifest, "base/200/216384"));
    assert_null(manifest_find(manifest, "base/0/1638"));
    manifest_free(manifest);
    buf_free(&text);
}

/* A path that comes again after many others. */
static void
late_duplicate(void **state)
{
    Buf text = BUF_INIT;
    Error err = ERROR_INIT;
    char *second;

    (void)state;
    build_many(50000, &text);
    second = strstr((char *)text.data, "base/49/66383\"");
    assert_non_null(second);
    memcpy(second, "base/0/016384\"", strlen("base/0/016384\""));
    second = strstr((char *)text.data, "base/0/16384\", \"Size\": 0");
    assert_non_null(second);
    assert_null(read_pieces(text.data, text.len, text.len, &err));
    assert_string_equal(err.message, "manifest checksum mismatch");

    /* Now the same path twice: "base/49/66382" becomes "base/49/66381". */
    second = strstr((char *)text.data, "base/49/66382\"");
    assert_non_null(second);
    second[strlen("base/49/6638")] = '1';
    assert_null(read_pieces(text.data, text.len, text.len, &err));
    assert_string_equal(err.message, "duplicate path name in backup manifest: \"base/49/66381\"");
    buf_free(&text);
}

static void
many_wal_ranges(void **state)
{
    ManifestBuilder builder;
    Buf text = BUF_INIT;
    Manifest *manifest;

    (void)state;
    manifest_builder_begin(&builder, 2, SYSTEM_ID);
    for (uint32_t i = 1; i <= 1000; i++)
        manifest_builder_wal_range(&builder, i, (Lsn)i << 30, (Lsn)(i + 1) << 30);
    manifest_builder_finish(&builder, &text);
    manifest = read_whole(&text);
    assert_int_equal(manifest_wal_range_count(manifest), 1000);
    assert_int_equal(manifest_wal_range(manifest, 999)->timeline, 1000);
    assert_true(manifest_wal_range(manifest, 999)->end == (Lsn)1001 << 30);
    manifest_free(manifest);
    buf_free(&text);
}

/* ---- the model by itself ---- */

static void
model_keeps_copies(void **state)
{
    Error err = ERROR_INIT;
    Manifest *manifest = manifest_new(&err);
    uint8_t checksum[] = {1, 2, 3, 4};
    char path[] = "base/1";
    ManifestFile file = {.path = path,
                         .checksum = checksum,
                         .size = 7,
                         .checksum_type = CHECKSUM_CRC32C,
                         .checksum_len = 4};

    (void)state;
    assert_non_null(manifest);
    assert_true(manifest_add_file(manifest, &file, &err));
    path[0] = 'B';
    checksum[0] = 9;
    assert_string_equal(manifest_file(manifest, 0)->path, "base/1");
    assert_int_equal(manifest_file(manifest, 0)->checksum[0], 1);
    assert_true(manifest_add_file(manifest, &file, &err));
    assert_int_equal(manifest_file_index(manifest, manifest_find(manifest, "Base/1")), 1);
    assert_false(manifest_add_file(manifest, &file, &err));
    assert_string_equal(err.message, "duplicate path name in backup manifest: \"Base/1\"");
    assert_int_equal(manifest_file_count(manifest), 2);
    assert_int_equal(manifest_total_size(manifest), 14);
    manifest_free(manifest);
}

/* All lengths around the hash's words of 8 bytes; a prefix is another path. */
static void
paths_of_every_length(void **state)
{
    Error err = ERROR_INIT;
    Manifest *manifest = manifest_new(&err);
    char path[301];

    (void)state;
    assert_non_null(manifest);
    for (size_t len = 1; len <= 300; len++) {
        ManifestFile file = {.path = path, .checksum = NULL, .size = len};

        memset(path, 'x', len);
        path[len] = '\0';
        assert_null(manifest_find(manifest, path));
        assert_true(manifest_add_file(manifest, &file, &err));
    }
    for (size_t len = 1; len <= 300; len++) {
        memset(path, 'x', len);
        path[len] = '\0';
        assert_non_null(manifest_find(manifest, path));
        assert_int_equal(manifest_find(manifest, path)->size, len);
        path[len - 1] = 'y';
        assert_null(manifest_find(manifest, path));
    }
    manifest_free(manifest);
}

/* Paths of every length fill the memory they share up to every distance from its end. */
static void
paths_side_by_side(void **state)
{
    (void)state;
    for (size_t len = 8; len <= 200; len++) {
        Error err = ERROR_INIT;
        Manifest *manifest = manifest_new(&err);
        size_t count = 50000 / len;
        char path[256];

        assert_non_null(manifest);
        for (size_t i = 0; i < count; i++) {
            ManifestFile file = {
                .path = path, .checksum = (const uint8_t *)"\x01\x02\x03", .checksum_len = i % 4};

            (void)snprintf(path, sizeof path, "%0*zu", (int)len, i);
            assert_true(manifest_add_file(manifest, &file, &err));
        }
        for (size_t i = 0; i < count; i++) {
            const ManifestFile *file = manifest_file(manifest, i);

            (void)snprintf(path, sizeof path, "%0*zu", (int)len, i);
            assert_string_equal(file->path, path);
            assert_memory_equal(file->checksum, "\x01\x02\x03", i % 4);
        }
        manifest_free(manifest);
    }
}

/* ---- files ---- */

static void
load(void **state)
{
    TempDir dir;
    Buf text = BUF_INIT;
    Error err = ERROR_INIT;
    Error expected = ERROR_INIT;
    Manifest *manifest = NULL;
    const char *path;

    (void)state;
    temp_dir_make(&dir);
    path = temp_dir_path(&dir, "backup_manifest");
    assert_false(manifest_load(path, &manifest, &err));
    assert_int_equal(err.code, ERR_SYSTEM);
    error_ignored(error_set(&expected, ERR_SYSTEM,
                            "could not open file \"%s\": No such file or directory", path));
    assert_string_equal(err.message, expected.message);

    build_sample(2, &text);
    temp_dir_write(&dir, "backup_manifest", text.data, text.len);
    assert_true(manifest_load(path, &manifest, &err));
    check_sample(manifest, 2);
    manifest_free(manifest);
    manifest = NULL;

    temp_dir_write(&dir, "backup_manifest", text.data, text.len - 1);
    assert_false(manifest_load(path, &manifest, &err));
    assert_string_equal(err.message, PREFIX "last line not newline-terminated");
    temp_dir_write(&dir, "backup_manifest", "", 0);
    assert_false(manifest_load(path, &manifest, &err));
    assert_string_equal(err.message, PREFIX "manifest ended unexpectedly");
    assert_false(manifest_load(dir.path, &manifest, &err));
    assert_int_equal(err.code, ERR_SYSTEM);
    assert_null(manifest);
    temp_dir_remove(&dir);
    buf_free(&text);
}

/* More than one piece, and exactly whole pieces. */
static void
load_large(void **state)
{
    static const size_t sizes[] = {131071, 131072, 131073, 262144, 400000};
    TempDir dir;

    (void)state;
    temp_dir_make(&dir);
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        Buf text = text_of(V1 "\"Files\": [{\"Path\": \"a\", \"Size\": 1}],\n");
        const size_t last = strlen("\"Manifest-Checksum\": \"\"}\n") + 64;
        Manifest *manifest = NULL;
        Error err = ERROR_INIT;

        while (text.len + last < sizes[i])
            assert_true(buf_append(&text, "\n", 1, &err));
        manifest_seal(&text);
        assert_int_equal(text.len, sizes[i]);
        temp_dir_write(&dir, "backup_manifest", text.data, text.len);
        assert_true(manifest_load(temp_dir_path(&dir, "backup_manifest"), &manifest, &err));
        assert_int_equal(manifest_file_count(manifest), 1);
        manifest_free(manifest);
        buf_free(&text);
    }
    temp_dir_remove(&dir);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(both_versions_in_pieces_of_every_size),
        cmocka_unit_test(text_of_a_server),
        cmocka_unit_test(forced_encoding),
        cmocka_unit_test(smallest),
        cmocka_unit_test(free_takes_anything),
        cmocka_unit_test(lenient_as_the_stock_reader),
        cmocka_unit_test(keys_that_repeat),
        cmocka_unit_test(fields_belong_to_one_file),
        cmocka_unit_test(algorithms),
        cmocka_unit_test(system_identifiers),
        cmocka_unit_test(bad_top_level),
        cmocka_unit_test(bad_versions),
        cmocka_unit_test(bad_system_identifiers),
        cmocka_unit_test(bad_files),
        cmocka_unit_test(bad_checksums),
        cmocka_unit_test(long_checksums),
        cmocka_unit_test(bad_wal_ranges),
        cmocka_unit_test(unsafe_paths),
        cmocka_unit_test(strange_but_safe_paths),
        cmocka_unit_test(encoded_paths),
        cmocka_unit_test(long_paths),
        cmocka_unit_test(duplicate_paths),
        cmocka_unit_test(total_size),
        cmocka_unit_test(bad_endings),
        cmocka_unit_test(bytes_after_the_end),
        cmocka_unit_test(checksum_covers_all_lines_but_the_last),
        cmocka_unit_test(checksum_in_upper_case),
        cmocka_unit_test(last_line_limit),
        cmocka_unit_test(long_lines),
        cmocka_unit_test(cut_anywhere),
        cmocka_unit_test(change_anything),
        cmocka_unit_test(lose_or_repeat_a_line),
        cmocka_unit_test(bad_json_has_its_line),
        cmocka_unit_test(huge_text),
        cmocka_unit_test(dead_after_a_failure),
        cmocka_unit_test(finish_once),
        cmocka_unit_test(many_files),
        cmocka_unit_test(late_duplicate),
        cmocka_unit_test(many_wal_ranges),
        cmocka_unit_test(model_keeps_copies),
        cmocka_unit_test(paths_of_every_length),
        cmocka_unit_test(paths_side_by_side),
        cmocka_unit_test(load),
        cmocka_unit_test(load_large),
    };

    return cmocka_run_group_tests_name("manifest", tests, NULL, NULL);
}
