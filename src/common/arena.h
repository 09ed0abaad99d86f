/*
 * Many small pieces of bytes that come one by one and go together.
 *
 * The pieces are cut from large blocks and stay where they are until arena_free, which takes any
 * state. They are not aligned. Within a block each lies right behind the one before; a block has at
 * most ARENA_BLOCK_MAX bytes or holds a single piece.
 */
#ifndef PGSTOW_ARENA_H
#define PGSTOW_ARENA_H

#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

#define ARENA_BLOCK_MAX ((size_t)1024 * 1024)

typedef struct Arena {
    struct ArenaBlock *blocks; /* the newest first */
} Arena;

#define ARENA_INIT ((Arena){.blocks = NULL})

/* A copy of `len` bytes; not NULL for none of them. */
const uint8_t *arena_copy(Arena *arena, const void *bytes, size_t len, Error *err) MUST_USE;

/* A copy of the first `len` characters of `text`, and a terminator. */
const char *arena_text(Arena *arena, const char *text, size_t len, Error *err) MUST_USE;

void arena_free(Arena *arena);

#endif
