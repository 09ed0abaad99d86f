#include "common/arena.h"

#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"

#define BLOCK_FIRST ((size_t)16 * 1024)

typedef struct ArenaBlock {
    struct ArenaBlock *before;
    size_t size;
    size_t used;
    uint8_t bytes[];
} ArenaBlock;

/* A new block with room for `need` bytes, twice the size of the one before up to the limit. */
static bool
add_block(Arena *arena, size_t need, Error *err)
{
    size_t size = arena->blocks == NULL ? BLOCK_FIRST : arena->blocks->size * 2;
    ArenaBlock *block;

    if (size > ARENA_BLOCK_MAX)
        size = ARENA_BLOCK_MAX;
    if (size < need)
        size = need;
    block = mem_alloc(sizeof *block + size, err);
    if (block == NULL)
        return false;
    *block = (ArenaBlock){.before = arena->blocks, .size = size};
    arena->blocks = block;
    return true;
}

static uint8_t *
take(Arena *arena, size_t len, Error *err)
{
    ArenaBlock *block = arena->blocks;
    uint8_t *at;

    if (block == NULL || block->size - block->used < len) {
        if (!add_block(arena, len, err))
            return NULL;
        block = arena->blocks;
    }
    at = block->bytes + block->used;
    block->used += len;
    return at;
}

const uint8_t *
arena_copy(Arena *arena, const void *bytes, size_t len, Error *err)
{
    uint8_t *at = take(arena, len, err);

    if (at != NULL && len > 0)
        memcpy(at, bytes, len);
    return at;
}

const char *
arena_text(Arena *arena, const char *text, size_t len, Error *err)
{
    char *at = (char *)take(arena, len + 1, err);

    if (at != NULL) {
        memcpy(at, text, len);
        at[len] = '\0';
    }
    return at;
}

void
arena_free(Arena *arena)
{
    for (ArenaBlock *block = arena->blocks; block != NULL;) {
        ArenaBlock *before = block->before;

        free(block);
        block = before;
    }
    *arena = ARENA_INIT;
}
