/*
 * The model: entries in an array, their paths in an index that numbers them alike, their checksums
 * in an arena. Neither moves what it holds, so that entries can point into them.
 */
#include "manifest/internal.h"

#include <stdlib.h>
#include <string.h>

#include "common/arena.h"
#include "common/path_index.h"

struct Manifest {
    uint32_t version;
    bool has_system_id;
    uint64_t system_id;
    uint64_t total_size;
    PathIndex *paths;
    Arena checksums;
    ManifestFile *files; /* by the numbers of their paths, as many */
    size_t file_capacity;
    ManifestWalRange *ranges;
    size_t range_count;
    size_t range_capacity;
};

/* ---- filling ---- */

Manifest *
manifest_new(Error *err)
{
    Manifest *manifest = mem_zero(sizeof *manifest, err);

    if (manifest == NULL)
        return NULL;
    manifest->checksums = ARENA_INIT;
    manifest->paths = path_index_new(err);
    if (manifest->paths == NULL) {
        manifest_free(manifest);
        return NULL;
    }
    return manifest;
}

void
manifest_free(Manifest *manifest)
{
    if (manifest == NULL)
        return;
    path_index_free(manifest->paths);
    arena_free(&manifest->checksums);
    free(manifest->files);
    free(manifest->ranges);
    free(manifest);
}

void
manifest_set_version(Manifest *manifest, uint32_t version)
{
    manifest->version = version;
}

void
manifest_set_system_id(Manifest *manifest, uint64_t system_id)
{
    manifest->system_id = system_id;
    manifest->has_system_id = true;
}

bool
manifest_add_file(Manifest *manifest, const ManifestFile *file, Error *err)
{
    ManifestFile added = *file;
    void *files = manifest->files;
    size_t count = path_index_count(manifest->paths);
    uint32_t number;
    bool is_new;

    if (count >= PATH_INDEX_LIMIT)
        return error_set(err, ERR_UNSUPPORTED, "backup manifest has more than %u files",
                         PATH_INDEX_LIMIT);
    if (file->size > UINT64_MAX - manifest->total_size)
        return error_set(err, ERR_FORMAT,
                         PARSE_ERROR "total size is out of range at path name \"%s\"", file->path);
    if (!mem_grow(&files, &manifest->file_capacity, count + 1, sizeof *manifest->files, err))
        return false;
    manifest->files = files;
    added.checksum = arena_copy(&manifest->checksums, file->checksum, file->checksum_len, err);
    if (added.checksum == NULL)
        return false;
    /* The last that can fail: after it there is an entry for every path. */
    if (!path_index_add(manifest->paths, file->path, strlen(file->path), &number, &is_new, err))
        return false;
    if (!is_new)
        return error_set(err, ERR_FORMAT, "duplicate path name in backup manifest: \"%s\"",
                         file->path);
    added.path = path_index_path(manifest->paths, number);
    manifest->files[number] = added;
    manifest->total_size += file->size;
    return true;
}

bool
manifest_add_wal_range(Manifest *manifest, const ManifestWalRange *range, Error *err)
{
    void *ranges = manifest->ranges;

    if (!mem_grow(&ranges, &manifest->range_capacity, manifest->range_count + 1,
                  sizeof *manifest->ranges, err))
        return false;
    manifest->ranges = ranges;
    manifest->ranges[manifest->range_count++] = *range;
    return true;
}

/* ---- looking ---- */

uint32_t
manifest_version(const Manifest *manifest)
{
    return manifest->version;
}

bool
manifest_system_id(const Manifest *manifest, uint64_t *ret_system_id)
{
    /* pg_verifybackup, too, passes over one in a manifest of version 1. */
    if (manifest->version < 2 || !manifest->has_system_id)
        return false;
    *ret_system_id = manifest->system_id;
    return true;
}

size_t
manifest_file_count(const Manifest *manifest)
{
    return path_index_count(manifest->paths);
}

const ManifestFile *
manifest_file(const Manifest *manifest, size_t index)
{
    return &manifest->files[index];
}

size_t
manifest_wal_range_count(const Manifest *manifest)
{
    return manifest->range_count;
}

const ManifestWalRange *
manifest_wal_range(const Manifest *manifest, size_t index)
{
    return &manifest->ranges[index];
}

const ManifestFile *
manifest_find(const Manifest *manifest, const char *path)
{
    uint32_t number;

    return path_index_find(manifest->paths, path, &number) ? &manifest->files[number] : NULL;
}

size_t
manifest_file_index(const Manifest *manifest, const ManifestFile *file)
{
    return (size_t)(file - manifest->files);
}

uint64_t
manifest_total_size(const Manifest *manifest)
{
    return manifest->total_size;
}
