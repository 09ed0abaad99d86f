/*
 * Open addressing with linear probing over slots of eight bytes: the number of a path and 32 bits
 * of its hash. A probe touches a path only when it is almost certainly the right one, and the table
 * grows without touching any.
 *
 * The paths lie in an arena, one behind the other in the order of their numbers as long as a block
 * lasts: that is a run. So a path is found by its number with the run (a binary search among few)
 * and 32 bits of place in it, half of what a pointer for each would take.
 */
#include "common/path_index.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "common/arena.h"
#include "common/bytes.h"

#define SLOTS_FIRST 64u

static_assert(ARENA_BLOCK_MAX <= UINT32_MAX, "a place in a run has 32 bits");

typedef struct Slot {
    uint32_t hash;
    uint32_t number; /* of the path, from 1; 0: free */
} Slot;

typedef struct Run {
    const char *text;
    uint32_t first; /* number of the path that it begins with */
} Run;

struct PathIndex {
    Arena texts;
    const char *texts_end; /* behind the last path */
    Run *runs;
    size_t run_count;
    size_t run_capacity;
    uint32_t *places; /* by number: where in its run the path begins */
    size_t place_capacity;
    size_t count;
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
path_hash(const PathIndex *index, const char *path, size_t len)
{
    const uint8_t *at = (const uint8_t *)path;
    uint64_t last = (uint64_t)len << 56;
    uint64_t v[4] = {
        index->key[0] ^ UINT64_C(0x736f6d6570736575), index->key[1] ^ UINT64_C(0x646f72616e646f6d),
        index->key[0] ^ UINT64_C(0x6c7967656e657261), index->key[1] ^ UINT64_C(0x7465646279746573)};

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

/* ---- paths by number ---- */

const char *
path_index_path(const PathIndex *index, uint32_t number)
{
    size_t low = 0; /* the run is at `low` or behind it, and before `high` */
    size_t high = index->run_count;

    /* Whoever adds a path asks for it at once. */
    if (index->runs[high - 1].first <= number)
        low = high - 1;
    while (high - low > 1) {
        size_t middle = low + (high - low) / 2;

        if (index->runs[middle].first <= number)
            low = middle;
        else
            high = middle;
    }
    return index->runs[low].text + index->places[number];
}

/* Room for one more path, its text excepted. */
static bool
numbers_reserve(PathIndex *index, Error *err)
{
    void *places = index->places;
    void *runs = index->runs;

    if (!mem_grow(&places, &index->place_capacity, index->count + 1, sizeof *index->places, err))
        return false;
    index->places = places;
    if (!mem_grow(&runs, &index->run_capacity, index->run_count + 1, sizeof *index->runs, err))
        return false;
    index->runs = runs;
    return true;
}

/* Give the next number to a path. */
static bool
number_add(PathIndex *index, const char *path, size_t len, Error *err)
{
    const char *text;

    if (index->count >= PATH_INDEX_LIMIT)
        return error_set(err, ERR_UNSUPPORTED, "more than %u paths", PATH_INDEX_LIMIT);
    if (!numbers_reserve(index, err))
        return false;
    text = arena_text(&index->texts, path, len, err);
    if (text == NULL)
        return false;
    if (text != index->texts_end)
        index->runs[index->run_count++] = (Run){.text = text, .first = (uint32_t)index->count};
    index->texts_end = text + len + 1;
    index->places[index->count++] = (uint32_t)(text - index->runs[index->run_count - 1].text);
    return true;
}

/* ---- slots ---- */

/* The slot that holds `path`, or the free one where it would go. There is always a free one. */
static Slot *
slot_find(const PathIndex *index, const char *path, size_t len, uint32_t hash)
{
    uint32_t at = hash & index->slot_mask;

    for (;; at = (at + 1) & index->slot_mask) {
        Slot *slot = &index->slots[at];
        const char *other;

        if (slot->number == 0)
            return slot;
        if (slot->hash != hash)
            continue;
        other = path_index_path(index, slot->number - 1);
        if (strncmp(other, path, len) == 0 && other[len] == '\0')
            return slot;
    }
}

/* Twice the slots. All paths differ, so the hashes are enough to move them. */
static bool
slots_grow(PathIndex *index, Error *err)
{
    size_t old_count = (size_t)index->slot_mask + 1;
    size_t count = old_count * 2;
    uint32_t mask = (uint32_t)(count - 1);
    Slot *slots = mem_zero(count * sizeof *slots, err);

    if (slots == NULL)
        return false;
    for (size_t i = 0; i < old_count; i++) {
        uint32_t at = index->slots[i].hash & mask;

        if (index->slots[i].number == 0)
            continue;
        while (slots[at].number != 0)
            at = (at + 1) & mask;
        slots[at] = index->slots[i];
    }
    free(index->slots);
    index->slots = slots;
    index->slot_mask = mask;
    return true;
}

/* Room for one more path with at least a quarter of the slots left free. */
static bool
slots_reserve(PathIndex *index, Error *err)
{
    size_t count = (size_t)index->slot_mask + 1;

    return index->count < count / 4 * 3 || slots_grow(index, err);
}

/* ---- the set ---- */

PathIndex *
path_index_new(Error *err)
{
    PathIndex *index = mem_zero(sizeof *index, err);

    if (index == NULL)
        return NULL;
    index->texts = ARENA_INIT;
    index->slots = mem_zero(SLOTS_FIRST * sizeof *index->slots, err);
    index->slot_mask = SLOTS_FIRST - 1;
    if (index->slots == NULL)
        goto failed;
    if (getrandom(index->key, sizeof index->key, 0) != (ssize_t)sizeof index->key) {
        (void)error_set_errno(err, errno, "could not get random bytes");
        goto failed;
    }
    return index;

failed:
    path_index_free(index);
    return NULL;
}

void
path_index_free(PathIndex *index)
{
    if (index == NULL)
        return;
    arena_free(&index->texts);
    free(index->runs);
    free(index->places);
    free(index->slots);
    free(index);
}

bool
path_index_add(PathIndex *index, const char *path, size_t len, uint32_t *ret_number,
               bool *ret_added, Error *err)
{
    uint32_t hash = path_hash(index, path, len);
    bool added = false;
    Slot *slot;

    if (!slots_reserve(index, err))
        return false;
    slot = slot_find(index, path, len, hash);
    if (slot->number == 0) {
        if (!number_add(index, path, len, err))
            return false;
        *slot = (Slot){.hash = hash, .number = (uint32_t)index->count};
        added = true;
    }
    *ret_number = slot->number - 1;
    *ret_added = added;
    return true;
}

bool
path_index_find(const PathIndex *index, const char *path, uint32_t *ret_number)
{
    size_t len = strlen(path);
    const Slot *slot = slot_find(index, path, len, path_hash(index, path, len));

    if (slot->number == 0)
        return false;
    *ret_number = slot->number - 1;
    return true;
}

size_t
path_index_count(const PathIndex *index)
{
    return index->count;
}
