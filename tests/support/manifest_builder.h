/*
 * Makes backup manifests as the server writes them, and such as only a hostile peer would send.
 *
 *     ManifestBuilder builder;
 *     Buf text = BUF_INIT;
 *
 *     manifest_builder_begin(&builder, 2, 7000000000000000001);
 *     manifest_builder_file(&builder, "PG_VERSION", "18\n", 3, CHECKSUM_CRC32C);
 *     manifest_builder_wal_range(&builder, 1, 0x2000028, 0x2000120);
 *     manifest_builder_finish(&builder, &text);
 *
 * What the functions above do not make is made by hand: any text that ends with a line feed gets
 * its last line from manifest_seal. Made for tests: what fails here ends the process with a
 * message.
 */
#ifndef PGSTOW_TESTS_MANIFEST_BUILDER_H
#define PGSTOW_TESTS_MANIFEST_BUILDER_H

#include "common/bytes.h"
#include "common/checksum.h"
#include "common/pgtypes.h"

typedef struct ManifestBuilder {
    Buf files; /* the lines of the array, each behind its separator */
    Buf ranges;
    uint32_t version;
    uint64_t system_id;
    bool force_encode; /* as with --manifest-force-encode; the test may set it */
} ManifestBuilder;

/* Version 1 or 2; the first has no system identifier. */
void manifest_builder_begin(ManifestBuilder *builder, uint32_t version, uint64_t system_id);

/* A file by its content. A path that is not valid UTF-8 becomes an Encoded-Path. */
void manifest_builder_file(ManifestBuilder *builder, const char *path, const void *data, size_t len,
                           ChecksumType type);

/* A file by its size and digest, true or not. */
void manifest_builder_entry(ManifestBuilder *builder, const char *path, uint64_t size,
                            const Digest *digest);
void manifest_builder_wal_range(ManifestBuilder *builder, TimeLineID timeline, Lsn start, Lsn end);

/* Append the whole manifest to `text`. The builder is empty then; begin it again. */
void manifest_builder_finish(ManifestBuilder *builder, Buf *text);

/* Empties a builder that is not finished. */
void manifest_builder_free(ManifestBuilder *builder);

/* Append the last line: the checksum of all that `text` holds. */
void manifest_seal(Buf *text);

#endif
