/*
 * Arenas: what was put in stays as it is and where it is. The linker leads malloc here (--wrap, see
 * CMakeLists.txt).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/arena.h"

/* ---- malloc ---- */

static size_t blocks_made;
static size_t last_size;
static bool fails;

void *__real_malloc(size_t size);
void *__wrap_malloc(size_t size);

void *
__wrap_malloc(size_t size)
{
    void *block = fails ? NULL : __real_malloc(size);

    blocks_made++;
    last_size = size;
    if (block != NULL)
        memset(block, 0xA5, size); /* nothing may count on zeros */
    return block;
}

/* As many bytes as `text` says by its characters. */
static const uint8_t *
add(Arena *arena, const char *text)
{
    Error err = ERROR_INIT;
    const uint8_t *copy = arena_copy(arena, text, strlen(text), &err);

    assert_non_null(copy);
    assert_int_equal(err.code, ERR_NONE);
    return copy;
}

/* ---- pieces ---- */

static void
test_copies_bytes(void **state)
{
    Arena arena = ARENA_INIT;
    uint8_t bytes[] = {1, 0, 255, 0};
    Error err = ERROR_INIT;
    const uint8_t *copy = arena_copy(&arena, bytes, sizeof bytes, &err);

    (void)state;
    bytes[0] = 9;
    assert_memory_equal(copy, ((uint8_t[]){1, 0, 255, 0}), 4);
    arena_free(&arena);
}

static void
test_terminates_text(void **state)
{
    Arena arena = ARENA_INIT;
    Error err = ERROR_INIT;
    const char *part = arena_text(&arena, "base/1/2", 6, &err);
    const char *none = arena_text(&arena, "base/1/2", 0, &err);
    const char *whole = arena_text(&arena, "base/1/2", 8, &err);

    (void)state;
    assert_string_equal(part, "base/1");
    assert_string_equal(none, "");
    assert_string_equal(whole, "base/1/2");
    arena_free(&arena);
}

static void
test_nothing_is_a_piece_too(void **state)
{
    Arena arena = ARENA_INIT;
    Error err = ERROR_INIT;
    const uint8_t *first = arena_copy(&arena, NULL, 0, &err);
    const uint8_t *second = add(&arena, "x");

    (void)state;
    assert_non_null(first);
    assert_ptr_equal(first, second);
    arena_free(&arena);
}

static void
test_pieces_lie_behind_each_other(void **state)
{
    Arena arena = ARENA_INIT;
    Error err = ERROR_INIT;
    const uint8_t *one = add(&arena, "one");
    const char *two = arena_text(&arena, "two", 3, &err);
    const uint8_t *three = add(&arena, "three");

    (void)state;
    assert_ptr_equal(two, one + 3);
    assert_ptr_equal(three, two + 4);
    assert_memory_equal(one, "onetwo\0three", 12);
    arena_free(&arena);
}

/* ---- blocks ---- */

/* Pieces of 1 KiB: how many blocks there are, and how large, with each of them. */
static void
test_blocks_grow(void **state)
{
    static const size_t kib = 1024;
    uint8_t bytes[1024];
    Arena arena = ARENA_INIT;
    Error err = ERROR_INIT;
    size_t room = 0;
    size_t expected = 16 * kib;

    (void)state;
    memset(bytes, 'b', sizeof bytes);
    blocks_made = 0;
    for (size_t i = 0; i < 5000; i++) {
        size_t before = blocks_made;

        assert_non_null(arena_copy(&arena, bytes, sizeof bytes, &err));
        assert_int_equal(blocks_made - before, room == 0 ? 1 : 0);
        if (room == 0) {
            assert_in_range(last_size, expected, expected + 64);
            room = expected / kib;
            if (expected < ARENA_BLOCK_MAX)
                expected *= 2;
        }
        room--;
    }
    assert_int_equal(expected, ARENA_BLOCK_MAX);
    arena_free(&arena);
}

static void
test_nothing_moves(void **state)
{
    enum { COUNT = 20000 };
    Arena arena = ARENA_INIT;
    const uint8_t **pieces = calloc(COUNT, sizeof *pieces);
    uint8_t bytes[256];
    Error err = ERROR_INIT;

    (void)state;
    for (size_t i = 0; i < COUNT; i++) {
        memset(bytes, (int)(i % 251), sizeof bytes);
        pieces[i] = arena_copy(&arena, bytes, i % sizeof bytes, &err);
        assert_non_null(pieces[i]);
    }
    for (size_t i = 0; i < COUNT; i++) {
        memset(bytes, (int)(i % 251), sizeof bytes);
        assert_memory_equal(pieces[i], bytes, i % sizeof bytes);
    }
    free(pieces);
    arena_free(&arena);
}

static void
test_large_piece_has_its_own_block(void **state)
{
    const size_t len = 3 * ARENA_BLOCK_MAX + 1;
    uint8_t *large = malloc(len);
    Arena arena = ARENA_INIT;
    Error err = ERROR_INIT;
    const uint8_t *before;
    const uint8_t *copy;
    const uint8_t *behind;

    (void)state;
    memset(large, 'l', len);
    before = add(&arena, "before");
    copy = arena_copy(&arena, large, len, &err);
    assert_non_null(copy);
    assert_in_range(last_size, len, len + 64);
    behind = add(&arena, "behind");
    assert_in_range(last_size, ARENA_BLOCK_MAX, ARENA_BLOCK_MAX + 64);
    assert_memory_equal(copy, large, len);
    assert_memory_equal(before, "before", 6);
    assert_memory_equal(behind, "behind", 6);
    free(large);
    arena_free(&arena);
}

/* The last byte of a block counts, and the one behind it does not. */
static void
test_block_is_used_up(void **state)
{
    uint8_t *bytes = calloc(1, (size_t)16 * 1024);
    Error err = ERROR_INIT;

    (void)state;
    for (size_t rest = 0; rest <= 2; rest++) {
        Arena arena = ARENA_INIT;
        const uint8_t *first = arena_copy(&arena, bytes, (size_t)16 * 1024 - 1, &err);
        const uint8_t *second;
        size_t before = blocks_made;

        second = arena_copy(&arena, "xy", rest, &err);
        assert_int_equal(blocks_made - before, rest == 2 ? 1 : 0);
        if (rest < 2)
            assert_ptr_equal(second, first + 16 * 1024 - 1);
        assert_memory_equal(second, "xy", rest);
        arena_free(&arena);
    }
    free(bytes);
}

/* ---- failure and end ---- */

static void
test_no_memory(void **state)
{
    Arena arena = ARENA_INIT;
    Error err = ERROR_INIT;
    uint8_t *large = calloc(1, ARENA_BLOCK_MAX);
    const uint8_t *kept;

    (void)state;
    fails = true;
    assert_null(arena_copy(&arena, "a", 1, &err));
    assert_int_equal(err.code, ERR_MEMORY);
    err = ERROR_INIT;
    assert_null(arena_text(&arena, "a", 1, &err));
    assert_int_equal(err.code, ERR_MEMORY);
    fails = false;
    kept = add(&arena, "kept");

    fails = true;
    err = ERROR_INIT;
    assert_null(arena_copy(&arena, large, ARENA_BLOCK_MAX, &err));
    assert_int_equal(err.code, ERR_MEMORY);
    /* What is there still takes what fits. */
    assert_ptr_equal(add(&arena, "more"), kept + 4);
    fails = false;
    assert_memory_equal(kept, "keptmore", 8);
    free(large);
    arena_free(&arena);
}

static void
test_free_and_again(void **state)
{
    Arena arena = ARENA_INIT;

    (void)state;
    arena_free(&arena);
    arena_free(&arena);
    (void)add(&arena, "a");
    arena_free(&arena);
    assert_null(arena.blocks);
    assert_memory_equal(add(&arena, "b"), "b", 1);
    arena_free(&arena);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_copies_bytes),
        cmocka_unit_test(test_terminates_text),
        cmocka_unit_test(test_nothing_is_a_piece_too),
        cmocka_unit_test(test_pieces_lie_behind_each_other),
        cmocka_unit_test(test_blocks_grow),
        cmocka_unit_test(test_nothing_moves),
        cmocka_unit_test(test_large_piece_has_its_own_block),
        cmocka_unit_test(test_block_is_used_up),
        cmocka_unit_test(test_no_memory),
        cmocka_unit_test(test_free_and_again),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
