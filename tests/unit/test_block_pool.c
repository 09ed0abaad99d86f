/*
 * block_pool: what comes out is the same, in the same order, whoever did the work; memory is
 * bounded; failures have their turn. Whoever has to wait here waits for a condition, never for a
 * time. The linker leads allocations and thread starts here (--wrap, see CMakeLists.txt).
 */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "stream/internal.h"

#define BLOCK       ((size_t)1000)
#define WORKERS_MAX ((size_t)5)
#define NOBODY      SIZE_MAX

/* ---- injection ---- */

static size_t allocations_left = NOBODY; /* until one fails */
static size_t threads_left = NOBODY;     /* until none can be started any more */

static bool
allocation_fails(void)
{
    return allocations_left != NOBODY && allocations_left-- == 0;
}

void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *block, size_t size);
int __real_pthread_create(pthread_t *id, const pthread_attr_t *attr, void *(*run)(void *),
                          void *arg);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *block, size_t size);
int __wrap_pthread_create(pthread_t *id, const pthread_attr_t *attr, void *(*run)(void *),
                          void *arg);

void *
__wrap_malloc(size_t size)
{
    return allocation_fails() ? NULL : __real_malloc(size);
}

void *
__wrap_calloc(size_t count, size_t size)
{
    return allocation_fails() ? NULL : __real_calloc(count, size);
}

void *
__wrap_realloc(void *block, size_t size)
{
    return allocation_fails() ? NULL : __real_realloc(block, size);
}

int
__wrap_pthread_create(pthread_t *id, const pthread_attr_t *attr, void *(*run)(void *), void *arg)
{
    if (threads_left == 0)
        return EAGAIN;
    if (threads_left != NOBODY)
        threads_left--;
    return __real_pthread_create(id, attr, run, arg);
}

/* ---- what compresses ---- */

/*
 * A block becomes its own number (its first two bytes), its size and its bytes. One whose third
 * byte says so fails, or waits until others have come or gone.
 */
enum { BLOCK_PLAIN, BLOCK_FAILS, BLOCK_WAITS };

typedef struct Bench {
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    size_t begun;
    size_t ended;
    size_t wait_begun; /* a block that waits goes on when so many have begun */
    size_t wait_ended; /* and so many have ended */
    size_t in_caller;  /* blocks that were compressed there */
    pthread_t caller;
    size_t contexts; /* made and not freed */
    size_t refused;  /* this one of them (from 1) cannot be made; 0: all can */
    atomic_bool busy[WORKERS_MAX];
} Bench;

typedef struct Context {
    Bench *bench;
    size_t index;
} Context;

static void
bench_init(Bench *bench)
{
    *bench = (Bench){.caller = pthread_self()};
    (void)pthread_mutex_init(&bench->mutex, NULL);
    (void)pthread_cond_init(&bench->changed, NULL);
}

static void
bench_destroy(Bench *bench)
{
    assert_int_equal(bench->contexts, 0);
    (void)pthread_cond_destroy(&bench->changed);
    (void)pthread_mutex_destroy(&bench->mutex);
}

static void *
context_new(const void *config, Error *err)
{
    Bench *bench = *(Bench *const *)config;
    Context *context;

    if (bench->contexts + 1 == bench->refused) {
        (void)error_set(err, ERR_UNSUPPORTED, "no context %zu", bench->refused);
        return NULL;
    }
    context = mem_alloc(sizeof *context, err);
    if (context == NULL)
        return NULL;
    *context = (Context){.bench = bench, .index = bench->contexts++};
    return context;
}

static void
context_free(void *worker)
{
    Context *context = worker;

    context->bench->contexts--;
    free(context);
}

static void
begin(Bench *bench, Span block)
{
    (void)pthread_mutex_lock(&bench->mutex);
    bench->begun++;
    bench->in_caller += pthread_equal(pthread_self(), bench->caller) != 0 ? 1 : 0;
    (void)pthread_cond_broadcast(&bench->changed);
    while (block.data[2] == BLOCK_WAITS &&
           (bench->begun < bench->wait_begun || bench->ended < bench->wait_ended))
        (void)pthread_cond_wait(&bench->changed, &bench->mutex);
    (void)pthread_mutex_unlock(&bench->mutex);
}

static void
end(Bench *bench)
{
    (void)pthread_mutex_lock(&bench->mutex);
    bench->ended++;
    (void)pthread_cond_broadcast(&bench->changed);
    (void)pthread_mutex_unlock(&bench->mutex);
}

static bool
compress(void *worker, Span block, Buf *out, uint32_t *ret_check, Error *err)
{
    Context *context = worker;
    const uint8_t size[] = {(uint8_t)(block.len >> 8), (uint8_t)block.len};
    bool ok;

    ok = !atomic_exchange(&context->bench->busy[context->index], true) && out->len == 0 &&
         out->capacity >= BLOCK + 2;
    begin(context->bench, block);
    ok = ok && buf_append(out, size, 2, err) && buf_append(out, block.data, block.len, err);
    *ret_check = block.data[0] * 256U + block.data[1];
    atomic_store(&context->bench->busy[context->index], false);
    end(context->bench);
    if (block.data[2] == BLOCK_FAILS)
        return error_set(err, ERR_SYSTEM, "block %u", *ret_check);
    return ok || error_set(err, ERR_BUG, "a worker or an output that is not ready");
}

static BlockPool *
try_pool(Bench *bench, size_t workers, Error *err)
{
    static const BlockOps ops = {
        .worker_new = context_new, .worker_free = context_free, .compress = compress};
    const BlockPoolConfig config = {
        .ops = &ops, .ctx = &bench, .block_size = BLOCK, .out_size = BLOCK + 2, .workers = workers};

    return block_pool_new(&config, err);
}

static BlockPool *
make_pool(Bench *bench, size_t workers)
{
    Error err = ERROR_INIT;
    BlockPool *pool;

    bench_init(bench);
    pool = try_pool(bench, workers, &err);
    assert_non_null(pool);
    return pool;
}

/* ---- input ---- */

/* So many blocks, each with its number in front and of this kind. */
static Buf
make_blocks(size_t count, uint8_t kind)
{
    Buf blocks = BUF_INIT;
    Error err = ERROR_INIT;

    assert_true(buf_reserve(&blocks, count * BLOCK + 1, &err));
    for (size_t i = 0; i < count * BLOCK; i++)
        blocks.data[i] = (uint8_t)(i * i / 7);
    for (size_t i = 0; i < count; i++) {
        blocks.data[i * BLOCK] = (uint8_t)(i >> 8);
        blocks.data[i * BLOCK + 1] = (uint8_t)i;
        blocks.data[i * BLOCK + 2] = kind;
    }
    blocks.len = count * BLOCK;
    return blocks;
}

static void
mark(Buf *blocks, size_t block, uint8_t kind)
{
    blocks->data[block * BLOCK + 2] = kind;
}

/* Puts all of it in, where there must be room for it. */
static void
put_all(BlockPool *pool, Span data)
{
    block_pool_put(pool, &data);
    assert_int_equal(data.len, 0);
}

static Span
part(const Buf *blocks, size_t first, size_t count)
{
    return (Span){.data = blocks->data + first * BLOCK, .len = count * BLOCK};
}

/* ---- output ---- */

static void
expect_none(BlockPool *pool, BlockWait wait)
{
    PoolBlock block = {.size = 1};
    Error err = ERROR_INIT;

    assert_true(block_pool_next(pool, wait, &block, &err));
    assert_int_equal(block.out.len, 0);
    assert_int_equal(block.size, 0);
}

/* Waits for the next one, which is this, and releases it. */
static void
expect_next(BlockPool *pool, Span content)
{
    PoolBlock block;
    Error err = ERROR_INIT;

    if (!block_pool_next(pool, BLOCK_WAIT, &block, &err))
        fail_msg("%s", err.message);
    assert_int_equal(block.size, content.len);
    assert_int_equal(block.check, content.data[0] * 256U + content.data[1]);
    assert_int_equal(block.out.len, content.len + 2);
    assert_int_equal(block.out.data[0] * 256U + block.out.data[1], content.len);
    assert_memory_equal(block.out.data + 2, content.data, content.len);
    block_pool_release(pool);
}

/* ---- order ---- */

/* As a codec does it: puts pieces in and takes what is there; waits where there is no room. */
static Buf
run_all(BlockPool *pool, Span data, size_t piece)
{
    Buf all = BUF_INIT;
    Error err = ERROR_INIT;

    while (data.len > 0 || !block_pool_is_empty(pool)) {
        Span next = {.data = data.data, .len = data.len < piece ? data.len : piece};
        size_t len = next.len;
        PoolBlock block;

        block_pool_put(pool, &next);
        data.data += len - next.len;
        data.len -= len - next.len;
        if (data.len == 0)
            block_pool_cut(pool);
        assert_true(block_pool_next(
            pool, next.len > 0 || data.len == 0 ? BLOCK_WAIT : BLOCK_IF_DONE, &block, &err));
        if (block.out.len == 0)
            continue;
        assert_true(buf_append(&all, block.out.data, block.out.len, &err));
        block_pool_release(pool);
    }
    return all;
}

static void
test_order_with_any_number_of_workers(void **state)
{
    static const size_t pieces[] = {1, 77, BLOCK - 1, BLOCK, BLOCK + 1, 7 * BLOCK, 100 * BLOCK};
    Buf blocks = make_blocks(60, BLOCK_PLAIN);
    const Span input = {.data = blocks.data, .len = blocks.len - 10};

    (void)state;
    for (size_t workers = 0; workers <= WORKERS_MAX; workers++) {
        for (size_t i = 0; i < sizeof pieces / sizeof pieces[0]; i++) {
            Bench bench;
            BlockPool *pool = make_pool(&bench, workers);
            Buf all = run_all(pool, input, pieces[i]);

            assert_int_equal(all.len, input.len + 2 * 60);
            for (size_t block = 0; block < 60; block++)
                assert_memory_equal(all.data + block * (BLOCK + 2) + 2, input.data + block * BLOCK,
                                    block < 59 ? BLOCK : BLOCK - 10);
            expect_none(pool, BLOCK_WAIT);
            buf_free(&all);
            block_pool_free(pool);
            assert_int_equal(bench.begun, 60);
            assert_int_equal(bench.in_caller, workers == 0 ? 60 : 0);
            bench_destroy(&bench);
        }
    }
    buf_free(&blocks);
}

/* Each waits for all the others to have begun. */
static void
test_workers_work_at_the_same_time(void **state)
{
    Buf blocks = make_blocks(WORKERS_MAX, BLOCK_WAITS);
    Bench bench;
    BlockPool *pool = make_pool(&bench, WORKERS_MAX);

    (void)state;
    bench.wait_begun = WORKERS_MAX;
    put_all(pool, part(&blocks, 0, WORKERS_MAX));
    for (size_t i = 0; i < WORKERS_MAX; i++)
        expect_next(pool, part(&blocks, i, 1));
    assert_true(block_pool_is_empty(pool));
    block_pool_free(pool);
    bench_destroy(&bench);
    buf_free(&blocks);
}

/* The first ends when three others have ended, and is the first nevertheless. */
static void
test_the_first_ends_last(void **state)
{
    Buf blocks = make_blocks(4, BLOCK_PLAIN);
    Bench bench;
    BlockPool *pool = make_pool(&bench, 2);

    (void)state;
    mark(&blocks, 0, BLOCK_WAITS);
    bench.wait_ended = 3;
    put_all(pool, part(&blocks, 0, 3));
    expect_none(pool, BLOCK_IF_DONE); /* the third that must end is not there yet */
    put_all(pool, part(&blocks, 3, 1));
    for (size_t i = 0; i < 4; i++)
        expect_next(pool, part(&blocks, i, 1));
    expect_none(pool, BLOCK_WAIT);
    block_pool_free(pool);
    bench_destroy(&bench);
    buf_free(&blocks);
}

/* ---- bounds ---- */

static void
test_memory_is_bounded(void **state)
{
    Buf blocks = make_blocks(20, BLOCK_PLAIN);

    (void)state;
    for (size_t workers = 0; workers <= WORKERS_MAX; workers++) {
        size_t slots = workers == 0 ? 1 : workers + 2;
        Bench bench;
        BlockPool *pool = make_pool(&bench, workers);
        Span input = part(&blocks, 0, 20);

        for (size_t i = 0; i < 20 - slots; i++) {
            block_pool_put(pool, &input);
            assert_int_equal(input.len, (20 - slots - i) * BLOCK);
            block_pool_cut(pool); /* of what there is no room for: nothing happens */
            expect_next(pool, part(&blocks, i, 1));
        }
        block_pool_free(pool);
        bench_destroy(&bench);
    }
    buf_free(&blocks);
}

static void
test_half_a_block_is_cut(void **state)
{
    Buf blocks = make_blocks(2, BLOCK_PLAIN);
    const Span half = {.data = blocks.data, .len = BLOCK / 2};

    (void)state;
    for (size_t workers = 0; workers <= 2; workers++) {
        Bench bench;
        BlockPool *pool = make_pool(&bench, workers);

        assert_true(block_pool_is_empty(pool));
        block_pool_cut(pool);
        assert_true(block_pool_is_empty(pool));
        expect_none(pool, BLOCK_WAIT);
        put_all(pool, half);
        assert_false(block_pool_is_empty(pool));
        expect_none(pool, BLOCK_WAIT); /* nothing to wait for: it may become longer */
        block_pool_cut(pool);
        block_pool_cut(pool);
        expect_next(pool, half);
        assert_true(block_pool_is_empty(pool));
        put_all(pool, part(&blocks, 1, 1)); /* and the next is a whole one */
        expect_next(pool, part(&blocks, 1, 1));
        expect_none(pool, BLOCK_WAIT);
        block_pool_free(pool);
        assert_int_equal(bench.begun, 2);
        bench_destroy(&bench);
    }
    buf_free(&blocks);
}

/* ---- failures ---- */

static void
expect_failure(BlockPool *pool, const char *message)
{
    PoolBlock block;
    Error err = ERROR_INIT;

    assert_false(block_pool_next(pool, BLOCK_WAIT, &block, &err));
    assert_int_equal(err.code, ERR_SYSTEM);
    assert_string_equal(err.message, message);
}

/* After those before it, although they may end later; once, and what is behind it comes too. */
static void
test_failures_have_their_turn(void **state)
{
    Buf blocks = make_blocks(5, BLOCK_PLAIN);

    (void)state;
    mark(&blocks, 2, BLOCK_FAILS);
    mark(&blocks, 3, BLOCK_FAILS);
    for (size_t workers = 3; workers <= WORKERS_MAX; workers++) {
        Bench bench;
        BlockPool *pool = make_pool(&bench, workers);

        mark(&blocks, 0, BLOCK_WAITS);
        bench.wait_ended = 4;
        put_all(pool, part(&blocks, 0, 5));
        expect_next(pool, part(&blocks, 0, 1));
        expect_next(pool, part(&blocks, 1, 1));
        expect_failure(pool, "block 2");
        expect_failure(pool, "block 3");
        expect_next(pool, part(&blocks, 4, 1));
        assert_true(block_pool_is_empty(pool));
        block_pool_free(pool);
        bench_destroy(&bench);
    }
    buf_free(&blocks);
}

static void
test_failure_in_the_calling_thread(void **state)
{
    Buf blocks = make_blocks(2, BLOCK_PLAIN);
    Bench bench;
    BlockPool *pool = make_pool(&bench, 0);

    (void)state;
    mark(&blocks, 0, BLOCK_FAILS);
    put_all(pool, part(&blocks, 0, 1));
    expect_failure(pool, "block 0");
    put_all(pool, part(&blocks, 1, 1));
    expect_next(pool, part(&blocks, 1, 1));
    block_pool_free(pool);
    bench_destroy(&bench);
    buf_free(&blocks);
}

/* With blocks that are filled, waiting, in work, done and looked at. */
static void
test_abandoned_in_the_middle(void **state)
{
    Buf blocks = make_blocks(7, BLOCK_PLAIN);

    (void)state;
    for (size_t workers = 0; workers <= WORKERS_MAX; workers++) {
        for (size_t taken = 0; taken < 3; taken++) {
            size_t slots = workers == 0 ? 1 : workers + 2;
            Bench bench;
            BlockPool *pool = make_pool(&bench, workers);
            Span input = {.data = blocks.data, .len = slots * BLOCK - BLOCK / 2};
            PoolBlock block;
            Error err = ERROR_INIT;

            block_pool_put(pool, &input);
            if (taken > 0)
                assert_true(block_pool_next(pool, BLOCK_WAIT, &block, &err));
            if (taken > 1 && workers > 0)
                block_pool_release(pool);
            block_pool_free(pool);
            assert_true(bench.begun == bench.ended);
            bench_destroy(&bench);
        }
    }
    block_pool_free(NULL);
    buf_free(&blocks);
}

static void
test_as_many_threads_as_can_be_had(void **state)
{
    Buf blocks = make_blocks(30, BLOCK_PLAIN);

    (void)state;
    for (size_t threads = 0; threads <= WORKERS_MAX; threads++) {
        Bench bench;
        BlockPool *pool;
        Buf all;

        threads_left = threads;
        pool = make_pool(&bench, WORKERS_MAX);
        threads_left = NOBODY;
        all = run_all(pool, part(&blocks, 0, 30), 300);
        assert_int_equal(all.len, 30 * (BLOCK + 2));
        for (size_t i = 0; i < 30; i++)
            assert_memory_equal(all.data + i * (BLOCK + 2) + 2, blocks.data + i * BLOCK, BLOCK);
        buf_free(&all);
        block_pool_free(pool);
        assert_int_equal(bench.in_caller, threads == 0 ? 30 : 0);
        bench_destroy(&bench);
    }
    buf_free(&blocks);
}

static void
test_no_memory(void **state)
{
    (void)state;
    for (size_t workers = 0; workers <= 2; workers++) {
        BlockPool *pool = NULL;
        size_t n;

        for (n = 0; pool == NULL; n++) {
            Bench bench;
            Error err = ERROR_INIT;

            bench_init(&bench);
            allocations_left = n;
            pool = try_pool(&bench, workers, &err);
            allocations_left = NOBODY;
            assert_int_equal(err.code, pool == NULL ? ERR_MEMORY : ERR_NONE);
            block_pool_free(pool);
            bench_destroy(&bench);
        }
        assert_in_range(n, 6, 30);
    }
}

static void
test_no_context(void **state)
{
    (void)state;
    for (size_t refused = 1; refused <= 3; refused++) {
        Bench bench;
        Error err = ERROR_INIT;

        bench_init(&bench);
        bench.refused = refused;
        assert_null(try_pool(&bench, 3, &err));
        assert_int_equal(err.code, ERR_UNSUPPORTED);
        bench_destroy(&bench);
    }
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_order_with_any_number_of_workers),
        cmocka_unit_test(test_workers_work_at_the_same_time),
        cmocka_unit_test(test_the_first_ends_last),
        cmocka_unit_test(test_memory_is_bounded),
        cmocka_unit_test(test_half_a_block_is_cut),
        cmocka_unit_test(test_failures_have_their_turn),
        cmocka_unit_test(test_failure_in_the_calling_thread),
        cmocka_unit_test(test_abandoned_in_the_middle),
        cmocka_unit_test(test_as_many_threads_as_can_be_had),
        cmocka_unit_test(test_no_memory),
        cmocka_unit_test(test_no_context),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
