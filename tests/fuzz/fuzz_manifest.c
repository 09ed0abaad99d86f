/*
 * The manifest reader: how the text is cut must not matter, and what is accepted must hold
 * together.
 *
 * Almost no input carries the right checksum, so every input also runs with its last line replaced
 * by the right one: that is how the fuzzer gets to see accepted manifests.
 */
#include <stdlib.h>
#include <string.h>

#include "common/crc32c.h"
#include "common/file.h"
#include "fuzz/fuzz.h"
#include "manifest/manifest.h"
#include "support/manifest_builder.h"

static void
must(bool holds)
{
    if (!holds)
        abort();
}

/* The next size of a piece: any sequence will do, as long as an input always gets the same. */
static size_t
next_piece(uint32_t *seed)
{
    *seed = *seed * 1664525u + 1013904223u;
    return (*seed >> 24) % 3 == 0 ? 1 + (*seed >> 16) % 4 : 1 + (*seed >> 16) % 200;
}

/* Read in pieces of random sizes, or whole when `seed` is NULL. NULL: refused. */
static Manifest *
read_text(Span text, uint32_t *seed, Error *err)
{
    ManifestReader *reader = manifest_reader_new(err);
    Manifest *manifest = NULL;
    bool ok = reader != NULL;

    for (size_t at = 0; ok && at < text.len;) {
        size_t left = text.len - at;
        size_t piece = seed == NULL ? left : next_piece(seed);

        if (piece > left)
            piece = left;
        ok = manifest_reader_feed(reader, (Span){.data = text.data + at, .len = piece}, err);
        at += piece;
    }
    if (ok && !manifest_reader_finish(reader, &manifest, err))
        must(manifest == NULL);
    manifest_reader_free(reader);
    return manifest;
}

static void
check_file(const Manifest *manifest, size_t index)
{
    const ManifestFile *file = manifest_file(manifest, index);

    must(path_is_below(file->path));
    must(manifest_find(manifest, file->path) == file);
    must(manifest_file_index(manifest, file) == index);
    must(file->checksum_len == 0 || file->checksum != NULL);
}

static void
check_manifest(const Manifest *manifest)
{
    uint64_t total = 0;
    uint64_t system_id;

    must(manifest_version(manifest) == 1 || manifest_version(manifest) == 2);
    must(manifest_system_id(manifest, &system_id) == (manifest_version(manifest) == 2));
    for (size_t i = 0; i < manifest_file_count(manifest); i++) {
        check_file(manifest, i);
        total += manifest_file(manifest, i)->size;
    }
    must(total == manifest_total_size(manifest));
}

static bool
same_files(const Manifest *a, const Manifest *b)
{
    if (manifest_file_count(a) != manifest_file_count(b))
        return false;
    for (size_t i = 0; i < manifest_file_count(a); i++) {
        const ManifestFile *x = manifest_file(a, i);
        const ManifestFile *y = manifest_file(b, i);

        if (strcmp(x->path, y->path) != 0 || x->size != y->size ||
            x->checksum_type != y->checksum_type || x->checksum_len != y->checksum_len ||
            memcmp(x->checksum, y->checksum, x->checksum_len) != 0)
            return false;
    }
    return true;
}

static bool
same_ranges(const Manifest *a, const Manifest *b)
{
    if (manifest_wal_range_count(a) != manifest_wal_range_count(b))
        return false;
    for (size_t i = 0; i < manifest_wal_range_count(a); i++) {
        const ManifestWalRange *x = manifest_wal_range(a, i);
        const ManifestWalRange *y = manifest_wal_range(b, i);

        if (x->timeline != y->timeline || x->start != y->start || x->end != y->end)
            return false;
    }
    return true;
}

static void
check_text(Span text)
{
    uint32_t seed = crc32c(0, text.data, text.len);
    Error whole_err = ERROR_INIT;
    Error pieces_err = ERROR_INIT;
    Manifest *whole = read_text(text, NULL, &whole_err);
    Manifest *pieces = read_text(text, &seed, &pieces_err);

    must((whole == NULL) == (pieces == NULL));
    must(strcmp(whole_err.message, pieces_err.message) == 0);
    must((whole == NULL) == (whole_err.code != ERR_NONE));
    if (whole != NULL) {
        check_manifest(whole);
        must(manifest_version(whole) == manifest_version(pieces));
        must(same_files(whole, pieces) && same_ranges(whole, pieces));
    }
    manifest_free(whole);
    manifest_free(pieces);
}

/* The text up to its last line, with the right last line. */
static void
check_sealed(Span text)
{
    Buf sealed = BUF_INIT;
    Error err = ERROR_INIT;
    size_t len = text.len;

    if (len > 0 && text.data[len - 1] == '\n')
        len--;
    while (len > 0 && text.data[len - 1] != '\n')
        len--;
    must(buf_append(&sealed, text.data, len, &err));
    manifest_seal(&sealed);
    check_text((Span){.data = sealed.data, .len = sealed.len});
    buf_free(&sealed);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    Span text = {.data = data, .len = size};

    check_text(text);
    check_sealed(text);
    return 0;
}
