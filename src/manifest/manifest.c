/*
 * The model: entries in an array, their paths and checksums in an arena, an index by path.
 *
 * The arena's blocks never move, so that entries can point into them. The index is a table with
 * open addressing and linear probing that holds an entry's number and 32 bits of its path's hash: a
 * probe touches a path only when it is almost certainly the right one. Whoever writes a manifest
 * chooses its paths, so the hash is SipHash with a key of this run: nobody can prepare paths that
 * collide, and reading stays linear.
 */
#include "manifest/internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

/* Entries are numbered in 32 bits; the index then has at most 2^32 slots. */
#define FILES_LIMIT 0x7FFFFFFFu

#define SLOTS_FIRST 64u

#define BLOCK_FIRST ((size_t)16 * 1024)
#define BLOCK_LARGE ((size_t)1024 * 1024)

typedef struct Block {
    struct Block *before;
    size_t size;
    size_t used;
    uint8_t bytes[];
} Block;

typedef struct Slot {
    uint32_t hash;
    uint32_t number; /* of the entry, from 1; 0: free */
} Slot;

struct Manifest {
    uint32_t version;
    bool has_system_id;
    uint64_t system_id;
    uint64_t total_size;
    ManifestFile *files;
    size_t file_count;
    size_t file_capacity;
    ManifestWalRange *ranges;
    size_t range_count;
    size_t range_capacity;
    Block *blocks; /* the newest first */
    Slot *slots;
    uint32_t slot_mask; /* slots - 1, a power of two less one */
    uint64_t key[2];
};

/* ---- hash ---- */

static uint64_t
rotate(uint64_t value, unsigned bits)
{
    return value << bits | value >> (64 - bits);
}

static void
sip_round(uint64_t v[4])
{
    v[0] += v[1];
    v[2] += v[3];
    v[1] = rotate(v[1], 13) ^ v[0];
    v[3] = rotate(v[3], 16) ^ v[2];
    v[0] = rotate(v[0], 32) + v[3];
    v[2] += v[1];
    v[3] = rotate(v[3], 21) ^ v[0];
    v[1] = rotate(v[1], 17) ^ v[2];
    v[2] = rotate(v[2], 32);
}

/* SipHash-1-3 (Aumasson, Bernstein 2012), cut to 32 bits. */
static uint32_t
path_hash(const Manifest *manifest, const char *path, size_t len)
{
    const uint8_t *at = (const uint8_t *)path;
    uint64_t last = (uint64_t)len << 56;
    uint64_t v[4] = {manifest->key[0] ^ UINT64_C(0x736f6d6570736575),
                     manifest->key[1] ^ UINT64_C(0x646f72616e646f6d),
                     manifest->key[0] ^ UINT64_C(0x6c7967656e657261),
                     manifest->key[1] ^ UINT64_C(0x7465646279746573)};

    for (; len >= 8; at += 8, len -= 8) {
        uint64_t word = get_le64(at);

        v[3] ^= word;
        sip_round(v);
        v[0] ^= word;
    }
    for (size_t i = 0; i < len; i++)
        last |= (uint64_t)at[i] << (8 * i);
    v[3] ^= last;
    sip_round(v);
    v[0] ^= last;
    v[2] ^= 0xFF;
    for (int i = 0; i < 3; i++)
        sip_round(v);
    return (uint32_t)(v[0] ^ v[1] ^ v[2] ^ v[3]);
}

/* ---- index ---- */

/* The slot that holds `path`, or the free one where it would go. */
static Slot *
slot_find(const Manifest *manifest, const char *path, uint32_t hash)
{
    uint32_t at = hash & manifest->slot_mask;

    for (;; at = (at + 1) & manifest->slot_mask) {
        Slot *slot = &manifest->slots[at];

        if (slot->number == 0)
            return slot;
        if (slot->hash == hash && strcmp(manifest->files[slot->number - 1].path, path) == 0)
            return slot;
    }
}

/* Twice the slots. All paths differ, so the hashes are enough to move them. */
static bool
index_grow(Manifest *manifest, Error *err)
{
    size_t old_count = (size_t)manifest->slot_mask + 1;
    size_t count = old_count * 2;
    uint32_t mask = (uint32_t)(count - 1);
    Slot *slots = calloc(count, sizeof *slots);

    if (slots == NULL)
        return error_set_memory(err);
    for (size_t i = 0; i < old_count; i++) {
        uint32_t at = manifest->slots[i].hash & mask;

        if (manifest->slots[i].number == 0)
            continue;
        while (slots[at].number != 0)
            at = (at + 1) & mask;
        slots[at] = manifest->slots[i];
    }
    free(manifest->slots);
    manifest->slots = slots;
    manifest->slot_mask = mask;
    return true;
}

/* Room for one more entry with at least a quarter of the slots left free. */
static bool
index_reserve(Manifest *manifest, Error *err)
{
    size_t count = (size_t)manifest->slot_mask + 1;

    return manifest->file_count < count / 4 * 3 || index_grow(manifest, err);
}

/* ---- arena ---- */

static bool
arena_grow(Manifest *manifest, size_t need, Error *err)
{
    size_t size = manifest->blocks == NULL ? BLOCK_FIRST : manifest->blocks->size * 2;
    Block *block;

    if (size > BLOCK_LARGE)
        size = BLOCK_LARGE;
    if (size < need)
        size = need;
    block = mem_alloc(sizeof *block + size, err);
    if (block == NULL)
        return false;
    *block = (Block){.before = manifest->blocks, .size = size};
    manifest->blocks = block;
    return true;
}

/* `len` bytes that stay where they are until the manifest goes. */
static uint8_t *
arena_copy(Manifest *manifest, const void *bytes, size_t len, Error *err)
{
    Block *block = manifest->blocks;
    uint8_t *at;

    if (block == NULL || block->size - block->used < len) {
        if (!arena_grow(manifest, len, err))
            return NULL;
        block = manifest->blocks;
    }
    at = block->bytes + block->used;
    if (len > 0)
        memcpy(at, bytes, len);
    block->used += len;
    return at;
}

/* ---- filling ---- */

Manifest *
manifest_new(Error *err)
{
    Manifest *manifest = mem_zero(sizeof *manifest, err);

    if (manifest == NULL)
        return NULL;
    manifest->slots = mem_zero(SLOTS_FIRST * sizeof *manifest->slots, err);
    manifest->slot_mask = SLOTS_FIRST - 1;
    if (manifest->slots == NULL)
        goto failed;
    if (getrandom(manifest->key, sizeof manifest->key, 0) != (ssize_t)sizeof manifest->key) {
        (void)error_set_errno(err, errno, "could not get random bytes");
        goto failed;
    }
    return manifest;

failed:
    manifest_free(manifest);
    return NULL;
}

void
manifest_free(Manifest *manifest)
{
    if (manifest == NULL)
        return;
    for (Block *block = manifest->blocks; block != NULL;) {
        Block *before = block->before;

        free(block);
        block = before;
    }
    free(manifest->slots);
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
    size_t path_len = strlen(file->path);
    uint32_t hash = path_hash(manifest, file->path, path_len);
    ManifestFile added = *file;
    void *files = manifest->files;
    Slot *slot;

    if (manifest->file_count >= FILES_LIMIT)
        return error_set(err, ERR_UNSUPPORTED, "backup manifest has more than %u files",
                         FILES_LIMIT);
    if (file->size > UINT64_MAX - manifest->total_size)
        return error_set(err, ERR_FORMAT,
                         PARSE_ERROR "total size is out of range at path name \"%s\"", file->path);
    if (!index_reserve(manifest, err))
        return false;
    slot = slot_find(manifest, file->path, hash);
    if (slot->number != 0)
        return error_set(err, ERR_FORMAT, "duplicate path name in backup manifest: \"%s\"",
                         file->path);

    added.path = (const char *)arena_copy(manifest, file->path, path_len + 1, err);
    if (added.path == NULL)
        return false;
    added.checksum = arena_copy(manifest, file->checksum, file->checksum_len, err);
    if (added.checksum == NULL)
        return false;
    if (!mem_grow(&files, &manifest->file_capacity, manifest->file_count + 1,
                  sizeof *manifest->files, err))
        return false;
    manifest->files = files;
    manifest->files[manifest->file_count++] = added;
    manifest->total_size += file->size;
    *slot = (Slot){.hash = hash, .number = (uint32_t)manifest->file_count};
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
    return manifest->file_count;
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
    const Slot *slot = slot_find(manifest, path, path_hash(manifest, path, strlen(path)));

    return slot->number == 0 ? NULL : &manifest->files[slot->number - 1];
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
