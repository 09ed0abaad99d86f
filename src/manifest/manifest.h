/*
 * backup_manifest: what the server says a backup consists of (documentation: "Backup Manifest
 * Format"; versions 1 (servers 13-16) and 2 (17+, with the system identifier)).
 *
 * The reader takes the bytes in pieces of any size, keeps no copy of the text, and computes the
 * manifest's own SHA-256 as they pass. Nothing it read may be believed before
 * manifest_reader_finish returned true: that is where the checksum is compared. A hostile manifest
 * gives an ERR_FORMAT in pg_verifybackup's words, never more than a bounded amount of work and
 * memory per byte, and never a path twice or one that leaves the directory.
 * A reader that failed fails again, with the same error. A Manifest is immutable; any number of
 * threads may read it.
 */
#ifndef PGSTOW_MANIFEST_H
#define PGSTOW_MANIFEST_H

#include "common/bytes.h"
#include "common/checksum.h"
#include "common/error.h"
#include "common/pgtypes.h"

typedef struct ManifestFile {
    const char *path; /* raw bytes as in the file system; relative and safe (path_is_below) */
    const uint8_t *checksum;
    uint64_t size;
    ChecksumType checksum_type;
    uint8_t checksum_len; /* as written; may differ from what the type wants */
} ManifestFile;

typedef struct ManifestWalRange {
    TimeLineID timeline;
    Lsn start;
    Lsn end; /* exclusive; as written, so it may lie before the start */
} ManifestWalRange;

typedef struct Manifest Manifest;

uint32_t manifest_version(const Manifest *manifest);

/* False for version 1, which has none. */
bool manifest_system_id(const Manifest *manifest, uint64_t *ret_system_id);

/* In the order of the manifest. */
size_t manifest_file_count(const Manifest *manifest);
const ManifestFile *manifest_file(const Manifest *manifest, size_t index);
size_t manifest_wal_range_count(const Manifest *manifest);
const ManifestWalRange *manifest_wal_range(const Manifest *manifest, size_t index);

/* NULL when there is no such path. */
const ManifestFile *manifest_find(const Manifest *manifest, const char *path);

/* The number of a file that manifest_find or manifest_file gave: for marks beside the manifest. */
size_t manifest_file_index(const Manifest *manifest, const ManifestFile *file);

/* Sum of all sizes. */
uint64_t manifest_total_size(const Manifest *manifest);
void manifest_free(Manifest *manifest);

typedef struct ManifestReader ManifestReader;

ManifestReader *manifest_reader_new(Error *err) MUST_USE;
bool manifest_reader_feed(ManifestReader *reader, Span bytes, Error *err) MUST_USE;
bool manifest_reader_finish(ManifestReader *reader, Manifest **ret_manifest, Error *err) MUST_USE;
void manifest_reader_free(ManifestReader *reader);

/* Read the whole file. */
bool manifest_load(const char *path, Manifest **ret_manifest, Error *err) MUST_USE;

#endif
