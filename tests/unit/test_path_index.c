/*
 * Path indexes: each path has one number, dense and in the order of arrival, whatever the paths
 * are and whichever call fails. The linker leads the calls that can fail here (--wrap, see
 * CMakeLists.txt).
 */
#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>

#include <cmocka.h>

#include "common/arena.h"
#include "common/path_index.h"

/* ---- injection ---- */

static size_t call_count;
static size_t fail_at; /* 0: no call fails */
static size_t random_calls;
static uint8_t last_key[16];
static int random_errno; /* 0: getrandom succeeds */
static bool key_is_zero; /* instead of random */
static size_t live_bytes;

/* Threads that are under test do not allocate. */
static void *
counted(void *block)
{
    live_bytes += malloc_usable_size(block);
    return block;
}

static bool
fails(void)
{
    if (fail_at == 0 || ++call_count != fail_at)
        return false;
    errno = ENOMEM;
    return true;
}

void *__real_malloc(size_t size);
void *__wrap_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__real_realloc(void *block, size_t size);
void *__wrap_realloc(void *block, size_t size);
void __real_free(void *block);
void __wrap_free(void *block);
ssize_t __real_getrandom(void *data, size_t len, unsigned int flags);
ssize_t __wrap_getrandom(void *data, size_t len, unsigned int flags);

void *
__wrap_malloc(size_t size)
{
    return fails() ? NULL : counted(__real_malloc(size));
}

void *
__wrap_calloc(size_t count, size_t size)
{
    return fails() ? NULL : counted(__real_calloc(count, size));
}

void *
__wrap_realloc(void *block, size_t size)
{
    if (fails())
        return NULL;
    live_bytes -= malloc_usable_size(block);
    return counted(__real_realloc(block, size));
}

void
__wrap_free(void *block)
{
    live_bytes -= malloc_usable_size(block);
    __real_free(block);
}

ssize_t
__wrap_getrandom(void *data, size_t len, unsigned int flags)
{
    ssize_t got;

    if (random_errno != 0) {
        errno = random_errno;
        return -1;
    }
    got = __real_getrandom(data, len, flags);
    assert_int_equal(len, sizeof last_key);
    if (key_is_zero)
        memset(data, 0, len);
    memcpy(last_key, data, sizeof last_key);
    random_calls++;
    return got;
}

/* ---- adding and looking ---- */

static PathIndex *
index_new(void)
{
    Error err = ERROR_INIT;
    PathIndex *index = path_index_new(&err);

    assert_non_null(index);
    return index;
}

/* `path` is new: it gets the next number. */
static uint32_t
add(PathIndex *index, const char *path)
{
    Error err = ERROR_INIT;
    size_t count = path_index_count(index);
    uint32_t number = UINT32_MAX;
    bool added = false;

    assert_true(path_index_add(index, path, strlen(path), &number, &added, &err));
    assert_true(added);
    assert_int_equal(number, count);
    assert_int_equal(path_index_count(index), count + 1);
    return number;
}

static void
assert_has(const PathIndex *index, const char *path, uint32_t expected)
{
    uint32_t number = UINT32_MAX;

    assert_true(path_index_find(index, path, &number));
    assert_int_equal(number, expected);
    assert_string_equal(path_index_path(index, number), path);
}

static void
assert_has_not(const PathIndex *index, const char *path)
{
    uint32_t number = 4711;

    assert_false(path_index_find(index, path, &number));
    assert_int_equal(number, 4711);
}

/* It is there already: that is told, and nothing changes. */
static void
assert_known(PathIndex *index, const char *path, uint32_t expected)
{
    Error err = ERROR_INIT;
    size_t count = path_index_count(index);
    uint32_t number = UINT32_MAX;
    bool added = true;

    assert_true(path_index_add(index, path, strlen(path), &number, &added, &err));
    assert_false(added);
    assert_int_equal(number, expected);
    assert_int_equal(path_index_count(index), count);
}

static void
test_empty(void **state)
{
    PathIndex *index = index_new();

    (void)state;
    assert_int_equal(path_index_count(index), 0);
    assert_has_not(index, "");
    assert_has_not(index, "base");
    path_index_free(index);
    path_index_free(NULL);
}

static void
test_numbers_in_order_of_arrival(void **state)
{
    static const char *const paths[] = {"z", "base/1", "a", "base/1/PG_VERSION", "", "base"};
    PathIndex *index = index_new();

    (void)state;
    for (uint32_t i = 0; i < 6; i++)
        assert_int_equal(add(index, paths[i]), i);
    for (uint32_t i = 0; i < 6; i++)
        assert_has(index, paths[i], i);
    assert_has_not(index, "b");
    path_index_free(index);
}

static void
test_path_twice(void **state)
{
    PathIndex *index = index_new();

    (void)state;
    (void)add(index, "first");
    (void)add(index, "again");
    assert_known(index, "again", 1);
    assert_known(index, "first", 0);
    assert_int_equal(add(index, "last"), 2);
    assert_known(index, "again", 1);
    path_index_free(index);
}

/* Only the bytes that `len` says count: what lies behind them is neither kept nor compared. */
static void
test_len_ends_the_path(void **state)
{
    static const char text[] = "base/16384/1259";
    PathIndex *index = index_new();
    Error err = ERROR_INIT;
    uint32_t number;
    bool added;

    (void)state;
    for (size_t len = 0; len < sizeof text; len++) {
        assert_true(path_index_add(index, text, len, &number, &added, &err));
        assert_true(added);
        assert_int_equal(number, len);
    }
    for (size_t len = 0; len < sizeof text; len++) {
        char prefix[sizeof text] = {0};

        memcpy(prefix, text, len);
        assert_has(index, prefix, (uint32_t)len);
        assert_known(index, prefix, (uint32_t)len);
    }
    path_index_free(index);
}

/* A block of exactly the path's bytes: a sanitizer sees what is read behind them. */
static void
test_path_without_terminator(void **state)
{
    PathIndex *index = index_new();
    Error err = ERROR_INIT;

    (void)state;
    for (size_t len = 1; len <= 40; len++) {
        char *path = malloc(len);
        uint32_t number;
        bool added = false;

        assert_non_null(path);
        memset(path, 'p', len);
        assert_true(path_index_add(index, path, len, &number, &added, &err));
        assert_true(added);
        assert_true(path_index_add(index, path, len, &number, &added, &err));
        assert_false(added);
        assert_int_equal(strlen(path_index_path(index, number)), len);
        free(path);
    }
    path_index_free(index);
}

static void
test_path_is_bytes(void **state)
{
    PathIndex *index = index_new();

    (void)state;
    (void)add(index, "\xFF\xFE");
    (void)add(index, "\xFF\x7F");
    (void)add(index, "\x01\n%s\"");
    (void)add(index, "A");
    assert_has(index, "\xFF\xFE", 0);
    assert_has(index, "\xFF\x7F", 1);
    assert_has(index, "\x01\n%s\"", 2);
    assert_has_not(index, "a");
    path_index_free(index);
}

static void
test_paths_are_copied(void **state)
{
    PathIndex *index = index_new();
    char path[] = "global/pg_control";

    (void)state;
    (void)add(index, path);
    path[0] = 'G';
    assert_has(index, "global/pg_control", 0);
    assert_has_not(index, path);
    path_index_free(index);
}

/* ---- many ---- */

/* So many that 32 bits of hash are not enough to tell them apart. */
static void
test_many(void **state)
{
    enum { COUNT = 400000 };
    PathIndex *index = index_new();
    const char **kept = calloc(COUNT, sizeof *kept);
    char path[64];

    (void)state;
    assert_non_null(kept);
    for (uint32_t i = 0; i < COUNT; i++) {
        (void)snprintf(path, sizeof path, "base/%u/%u", i % 7, i);
        (void)add(index, path);
        kept[i] = path_index_path(index, i);
    }
    for (uint32_t i = 0; i < COUNT; i++) {
        (void)snprintf(path, sizeof path, "base/%u/%u", i % 7, i);
        assert_has(index, path, i);
        assert_ptr_equal(path_index_path(index, i), kept[i]);
        (void)snprintf(path, sizeof path, "base/%u/%u", i % 7 + 1, i);
        assert_has_not(index, path);
    }
    for (uint32_t i = 0; i < COUNT; i += 997) {
        (void)snprintf(path, sizeof path, "base/%u/%u", i % 7, i);
        assert_known(index, path, i);
    }
    free(kept);
    path_index_free(index);
}

/* The table grows at the same places whether what is added is new or not. */
static void
test_around_each_growth(void **state)
{
    PathIndex *index = index_new();
    char path[64];

    (void)state;
    for (uint32_t i = 0; i < 2000; i++) {
        (void)snprintf(path, sizeof path, "%u", i);
        (void)add(index, path);
        assert_known(index, path, i);
        assert_known(index, "0", 0);
        (void)snprintf(path, sizeof path, "%u", i + 1);
        assert_has_not(index, path);
    }
    path_index_free(index);
}

/* A text of `len` bytes, ten at the least, that only the number `i` has. */
static const char *
text_of(char *room, uint32_t i, size_t len)
{
    (void)snprintf(room, 16, "%010u", i);
    memset(room + 10, 'a' + (int)(i % 26), len - 10);
    room[len] = '\0';
    return room;
}

/* Paths that fill blocks of the arena to the last byte, and such as need blocks of their own. */
static void
test_any_length(void **state)
{
    static const size_t lens[] = {15,
                                  10,
                                  4095,
                                  16 * 1024 - 1,
                                  16 * 1024,
                                  100000,
                                  ARENA_BLOCK_MAX - 1,
                                  ARENA_BLOCK_MAX,
                                  ARENA_BLOCK_MAX + 1,
                                  20};
    enum { LENS = sizeof lens / sizeof lens[0], ROUNDS = 3 };
    char *room = malloc(ARENA_BLOCK_MAX + 2);

    (void)state;
    assert_non_null(room);
    for (size_t len = 0; len < LENS; len++) {
        PathIndex *index = index_new();
        uint32_t same = lens[len] <= 4095 ? 3000 : 3;

        /* Many of one length, then all lengths mixed. */
        for (uint32_t i = 0; i < same; i++)
            (void)add(index, text_of(room, i, lens[len]));
        for (uint32_t i = 0; i < LENS * ROUNDS; i++)
            (void)add(index, text_of(room, same + i, lens[i % LENS]));
        for (uint32_t i = 0; i < same; i++)
            assert_has(index, text_of(room, i, lens[len]), i);
        for (uint32_t i = 0; i < LENS * ROUNDS; i++)
            assert_has(index, text_of(room, same + i, lens[i % LENS]), same + i);
        path_index_free(index);
    }
    free(room);
}

/* ---- the key ---- */

static void
test_each_index_has_its_key(void **state)
{
    uint8_t key[sizeof last_key];
    PathIndex *one;
    PathIndex *two;

    (void)state;
    random_calls = 0;
    one = index_new();
    memcpy(key, last_key, sizeof key);
    two = index_new();
    assert_int_equal(random_calls, 2);
    assert_memory_not_equal(key, last_key, sizeof key);
    (void)add(one, "a");
    assert_has_not(two, "a");
    path_index_free(one);
    path_index_free(two);
}

static void
test_no_key(void **state)
{
    Error err = ERROR_INIT;

    (void)state;
    random_errno = ENOSYS;
    assert_null(path_index_new(&err));
    random_errno = 0;
    assert_int_equal(err.code, ERR_SYSTEM);
    assert_int_equal(err.sys_errno, ENOSYS);
    assert_string_equal(err.message, "could not get random bytes: Function not implemented");
}

/* With this key the 32 bits of the hash are the same for each pair. */
static void
test_same_hash(void **state)
{
    static const char *const pairs[][2] = {{"base/1/069702", "base/1/137979"},
                                           {"base/251", "base/251/99472481"},
                                           {"base/251/99472481", "base/251"}};

    (void)state;
    for (size_t i = 0; i < sizeof pairs / sizeof pairs[0]; i++) {
        PathIndex *index;

        key_is_zero = true;
        index = index_new();
        key_is_zero = false;
        (void)add(index, pairs[i][0]);
        assert_has_not(index, pairs[i][1]);
        (void)add(index, pairs[i][1]);
        assert_has(index, pairs[i][0], 0);
        assert_has(index, pairs[i][1], 1);
        assert_known(index, pairs[i][1], 1);
        path_index_free(index);
    }
}

/* ---- memory ---- */

/* As the header promises, arrays that are twice as long as they must be included. */
static void
test_memory_for_each_path(void **state)
{
    static const uint32_t counts[] = {100000, 131072, 140000, 200000};
    size_t before = live_bytes;

    (void)state;
    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++) {
        PathIndex *index = index_new();
        size_t text = 0;
        char path[64];

        for (uint32_t n = 0; n < counts[i]; n++) {
            text += (size_t)snprintf(path, sizeof path, "base/%u/%u", n % 7, n) + 1;
            (void)add(index, path);
        }
        assert_in_range(live_bytes - before, text,
                        text + counts[i] * (2 * 4 + 8 * 8 / 3) + 2 * ARENA_BLOCK_MAX);
        path_index_free(index);
        assert_int_equal(live_bytes, before);
    }
}

/* ---- failures ---- */

static void
test_new_without_memory(void **state)
{
    (void)state;
    for (size_t n = 1;; n++) {
        Error err = ERROR_INIT;
        PathIndex *index;

        call_count = 0;
        fail_at = n;
        index = path_index_new(&err);
        fail_at = 0;
        if (index != NULL) {
            assert_int_equal(n, 3);
            path_index_free(index);
            return;
        }
        assert_int_equal(err.code, ERR_MEMORY);
    }
}

/*
 * Long paths, so that blocks, runs, places and slots all grow on the way. The n-th allocation
 * fails: the path is not there then, and is the next time.
 */
static void
test_add_without_memory(void **state)
{
    enum { COUNT = 200, LEN = 3000 };
    char path[LEN + 1];
    size_t failures = 0;

    (void)state;
    for (size_t n = 1; failures == n - 1; n++) {
        PathIndex *index = index_new();

        call_count = 0;
        for (uint32_t i = 0; i < COUNT; i++) {
            Error err = ERROR_INIT;
            uint32_t number = 4711;
            bool added = false;
            bool ok;

            (void)text_of(path, i, LEN);
            fail_at = n;
            ok = path_index_add(index, path, LEN, &number, &added, &err);
            fail_at = 0;
            if (!ok) {
                assert_int_equal(err.code, ERR_MEMORY);
                assert_int_equal(number, 4711);
                assert_false(added);
                assert_int_equal(path_index_count(index), i);
                assert_has_not(index, path);
                assert_int_equal(add(index, path), i);
                failures++;
            }
        }
        for (uint32_t i = 0; i < COUNT; i++)
            assert_has(index, text_of(path, i, LEN), i);
        path_index_free(index);
    }
    /* Five blocks, four times places, two times slots, one time runs at the least. */
    assert_true(failures >= 12);
}

/* ---- threads ---- */

typedef struct ReaderRun {
    const PathIndex *index;
    atomic_size_t *wrong;
} ReaderRun;

static void *
read_all(void *arg)
{
    const ReaderRun *run = arg;
    char path[64];

    for (uint32_t i = 0; i < 20000; i++) {
        uint32_t number;

        (void)snprintf(path, sizeof path, "base/%u", i);
        if (!path_index_find(run->index, path, &number) || number != i ||
            strcmp(path_index_path(run->index, i), path) != 0)
            atomic_fetch_add(run->wrong, 1);
    }
    return NULL;
}

static void
test_many_readers(void **state)
{
    PathIndex *index = index_new();
    atomic_size_t wrong = 0;
    ReaderRun run = {.index = index, .wrong = &wrong};
    pthread_t threads[4];
    char path[64];

    (void)state;
    for (uint32_t i = 0; i < 20000; i++) {
        (void)snprintf(path, sizeof path, "base/%u", i);
        (void)add(index, path);
    }
    for (size_t i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, read_all, &run), 0);
    for (size_t i = 0; i < 4; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    assert_int_equal(wrong, 0);
    path_index_free(index);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_empty),
        cmocka_unit_test(test_numbers_in_order_of_arrival),
        cmocka_unit_test(test_path_twice),
        cmocka_unit_test(test_len_ends_the_path),
        cmocka_unit_test(test_path_without_terminator),
        cmocka_unit_test(test_path_is_bytes),
        cmocka_unit_test(test_paths_are_copied),
        cmocka_unit_test(test_many),
        cmocka_unit_test(test_around_each_growth),
        cmocka_unit_test(test_any_length),
        cmocka_unit_test(test_each_index_has_its_key),
        cmocka_unit_test(test_no_key),
        cmocka_unit_test(test_same_hash),
        cmocka_unit_test(test_memory_for_each_path),
        cmocka_unit_test(test_new_without_memory),
        cmocka_unit_test(test_add_without_memory),
        cmocka_unit_test(test_many_readers),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
