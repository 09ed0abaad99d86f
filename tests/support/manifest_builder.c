#include "support/manifest_builder.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void
must(bool ok, const Error *err)
{
    if (ok)
        return;
    (void)fprintf(stderr, "manifest builder: %s\n", err->message);
    abort();
}

static void
add_text(Buf *text, const char *piece)
{
    Error err = ERROR_INIT;

    must(buf_append(text, piece, strlen(piece), &err), &err);
}

static void
add_hex(Buf *text, const void *bytes, size_t len)
{
    Error err = ERROR_INIT;
    char *hex = malloc(2 * len + 1);

    must(hex != NULL || error_set_memory(&err), &err);
    hex_format(bytes, len, hex);
    add_text(text, hex);
    free(hex);
}

/* ---- paths ---- */

/* The bytes of the character at `at`, which is terminated; 0 when it is not UTF-8. */
static size_t
utf8_length(const uint8_t *at)
{
    size_t len = at[0] < 0x80 ? 1 : at[0] < 0xE0 ? 2 : at[0] < 0xF0 ? 3 : 4;
    uint32_t code = at[0] & (len == 1 ? 0x7Fu : 0x7Fu >> len);
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};

    if (at[0] >= 0xF8 || (at[0] & 0xC0) == 0x80)
        return 0;
    for (size_t i = 1; i < len; i++) {
        if ((at[i] & 0xC0) != 0x80)
            return 0;
        code = code << 6 | (at[i] & 0x3Fu);
    }
    if (code < least[len] || code > 0x10FFFF || (code >= 0xD800 && code <= 0xDFFF))
        return 0;
    return len;
}

static bool
is_utf8(const char *text)
{
    const uint8_t *at = (const uint8_t *)text;

    while (*at != '\0') {
        size_t len = utf8_length(at);

        if (len == 0)
            return false;
        at += len;
    }
    return true;
}

/* Escaped as the server does it: only what JSON demands. */
static void
add_escaped(Buf *text, const char *raw)
{
    static const char special[] = "\b\f\n\r\t\"\\";
    static const char names[] = "bfnrt\"\\";
    Error err = ERROR_INIT;

    for (; *raw != '\0'; raw++) {
        const char *found = strchr(special, *raw);

        if (found != NULL)
            must(buf_printf(text, &err, "\\%c", names[found - special]), &err);
        else if ((uint8_t)*raw < 0x20)
            must(buf_printf(text, &err, "\\u%04x", (unsigned)*raw), &err);
        else
            must(buf_append(text, raw, 1, &err), &err);
    }
}

/* ---- entries ---- */

void
manifest_builder_begin(ManifestBuilder *builder, uint32_t version, uint64_t system_id)
{
    *builder = (ManifestBuilder){
        .files = BUF_INIT, .ranges = BUF_INIT, .version = version, .system_id = system_id};
}

void
manifest_builder_entry(ManifestBuilder *builder, const char *path, uint64_t size,
                       const Digest *digest)
{
    Buf *files = &builder->files;
    Error err = ERROR_INIT;

    add_text(files, files->len == 0 ? "\n" : ",\n");
    if (builder->force_encode || !is_utf8(path)) {
        add_text(files, "{ \"Encoded-Path\": \"");
        add_hex(files, path, strlen(path));
    } else {
        add_text(files, "{ \"Path\": \"");
        add_escaped(files, path);
    }
    must(buf_printf(files, &err,
                    "\", \"Size\": %llu, \"Last-Modified\": \"2026-11-20 11:35:49 GMT\"",
                    (unsigned long long)size),
         &err);
    if (digest->type != CHECKSUM_NONE) {
        must(buf_printf(files, &err, ", \"Checksum-Algorithm\": \"%s\", \"Checksum\": \"",
                        checksum_type_name(digest->type)),
             &err);
        add_hex(files, digest->bytes, digest->len);
        add_text(files, "\"");
    }
    add_text(files, " }");
}

static Digest
digest_of(const void *data, size_t len, ChecksumType type)
{
    Checksum checksum = CHECKSUM_INIT;
    Error err = ERROR_INIT;
    Digest digest = {.type = CHECKSUM_NONE};

    must(checksum_begin(&checksum, type, &err) && checksum_update(&checksum, data, len, &err) &&
             checksum_finish(&checksum, &digest, &err),
         &err);
    checksum_free(&checksum);
    return digest;
}

void
manifest_builder_file(ManifestBuilder *builder, const char *path, const void *data, size_t len,
                      ChecksumType type)
{
    Digest digest = digest_of(data, len, type);

    manifest_builder_entry(builder, path, len, &digest);
}

void
manifest_builder_wal_range(ManifestBuilder *builder, TimeLineID timeline, Lsn start, Lsn end)
{
    Buf *ranges = &builder->ranges;
    Error err = ERROR_INIT;

    must(buf_printf(ranges, &err,
                    "%s{ \"Timeline\": %u, \"Start-LSN\": \"" LSN_FORMAT
                    "\", \"End-LSN\": \"" LSN_FORMAT "\" }",
                    ranges->len == 0 ? "\n" : ",\n", timeline, LSN_ARGS(start), LSN_ARGS(end)),
         &err);
}

/* ---- the whole ---- */

void
manifest_builder_finish(ManifestBuilder *builder, Buf *text)
{
    Buf manifest = BUF_INIT;
    Error err = ERROR_INIT;

    must(buf_printf(&manifest, &err, "{ \"PostgreSQL-Backup-Manifest-Version\": %u,\n",
                    builder->version),
         &err);
    if (builder->version >= 2)
        must(buf_printf(&manifest, &err, "\"System-Identifier\": %llu,\n",
                        (unsigned long long)builder->system_id),
             &err);
    add_text(&manifest, "\"Files\": [");
    add_text(&manifest, buf_text(&builder->files));
    add_text(&manifest, "\n],\n\"WAL-Ranges\": [");
    add_text(&manifest, buf_text(&builder->ranges));
    add_text(&manifest, "\n],\n");
    manifest_seal(&manifest);

    must(buf_append(text, manifest.data, manifest.len, &err), &err);
    buf_free(&manifest);
    manifest_builder_free(builder);
}

void
manifest_builder_free(ManifestBuilder *builder)
{
    buf_free(&builder->files);
    buf_free(&builder->ranges);
}

void
manifest_seal(Buf *text)
{
    Digest digest = digest_of(text->data, text->len, CHECKSUM_SHA256);

    add_text(text, "\"Manifest-Checksum\": \"");
    add_hex(text, digest.bytes, digest.len);
    add_text(text, "\"}\n");
}
