/*
 * What the files of src/archive share.
 */
#ifndef PGSTOW_ARCHIVE_INTERNAL_H
#define PGSTOW_ARCHIVE_INTERNAL_H

#include "archive/archive.h"

/* ---- inventory_read.c: the directory's entries ---- */

typedef struct DirectoryEntry {
    const char *name;
    uint64_t bytes;
    int64_t modified;
    bool regular;
    bool directory;
} DirectoryEntry;

/* By name. */
typedef struct DirectoryEntries {
    DirectoryEntry *entries;
    size_t count;
    size_t capacity;
} DirectoryEntries;

/* Their names are in `texts`. Free the entries in any case. */
bool directory_entries_read(DirectoryEntries *entries, const char *directory, Arena *texts,
                            Error *err) MUST_USE;
void directory_entries_free(DirectoryEntries *entries);

/* ---- inventory_identity.c: what the segments say of all of them ---- */

typedef struct ArchiveIdentity {
    uint32_t segment_size; /* as in Inventory */
    uint64_t system_id;
} ArchiveIdentity;

bool archive_identity_find(const char *directory, const DirectoryEntries *entries,
                           ArchiveIdentity *ret_identity, Error *err) MUST_USE;

#endif
