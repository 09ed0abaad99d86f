/*
 * block_pool: a ring of slots, each with the input and the output of one block. The pushing thread
 * fills the slot behind the last and takes from the first; workers compress what is between.
 *
 * Blocks are counted from the first one ever: those before `released` are gone, those before
 * `begun` are in the hands of a worker or done, those before `submitted` wait for one, and that one
 * is being filled. So nothing but the counts and a slot's `done` is shared at any time.
 */
#include <stdlib.h>
#include <string.h>

#include "common/runtime.h"
#include "stream/internal.h"

/* What is filled, what is compressed by the workers, and what is taken. */
#define SLOTS_BESIDE_WORKERS 2

typedef struct BlockSlot {
    Buf in;
    Buf out;
    uint32_t check;
    bool done; /* shared, with the mutex */
    bool failed;
    Error failure;
} BlockSlot;

typedef struct BlockWorker {
    BlockPool *pool;
    Thread thread;
    void *ctx;
} BlockWorker;

struct BlockPool {
    const BlockOps *ops;
    size_t block_size;
    BlockSlot *slots;
    size_t slot_count;
    BlockWorker *workers;
    size_t worker_count; /* that have a context */
    size_t threads;      /* that run; 0: the pushing thread does the work */
    size_t released;     /* the pushing thread's */

    pthread_mutex_t mutex;  /* for all below */
    pthread_cond_t wanted;  /* for the workers: a block was submitted, or it ends */
    pthread_cond_t is_done; /* for the pushing thread */
    size_t submitted;       /* changed by the pushing thread alone, which reads it without the
                             * mutex */
    size_t begun;
    bool ending;
};

static BlockSlot *
slot_of(const BlockPool *pool, size_t block)
{
    return &pool->slots[block % pool->slot_count];
}

static void
compress_slot(const BlockPool *pool, void *worker, BlockSlot *slot)
{
    const Span block = {.data = slot->in.data, .len = slot->in.len};

    slot->failure = ERROR_INIT;
    slot->failed = !pool->ops->compress(worker, block, &slot->out, &slot->check, &slot->failure);
}

/* ---- a worker ---- */

/* Waits; false at the end, whatever there is to do still: nobody wants it. */
static bool
begin_block(BlockPool *pool, BlockSlot **ret_slot)
{
    bool found;

    (void)pthread_mutex_lock(&pool->mutex);
    while (pool->begun == pool->submitted && !pool->ending)
        (void)pthread_cond_wait(&pool->wanted, &pool->mutex);
    found = !pool->ending;
    if (found)
        *ret_slot = slot_of(pool, pool->begun++);
    (void)pthread_mutex_unlock(&pool->mutex);
    return found;
}

static void
end_block(BlockPool *pool, BlockSlot *slot)
{
    (void)pthread_mutex_lock(&pool->mutex);
    slot->done = true;
    (void)pthread_cond_signal(&pool->is_done);
    (void)pthread_mutex_unlock(&pool->mutex);
}

static void
run_worker(void *arg)
{
    const BlockWorker *worker = arg;
    BlockSlot *slot;

    while (begin_block(worker->pool, &slot)) {
        compress_slot(worker->pool, worker->ctx, slot);
        end_block(worker->pool, slot);
    }
}

/* ---- making and ending ---- */

static bool
make_slots(BlockPool *pool, const BlockPoolConfig *config, Error *err)
{
    pool->slot_count = config->workers == 0 ? 1 : config->workers + SLOTS_BESIDE_WORKERS;
    pool->slots = mem_zero(pool->slot_count * sizeof *pool->slots, err);
    for (size_t i = 0; pool->slots != NULL && i < pool->slot_count; i++) {
        if (!buf_reserve(&pool->slots[i].in, config->block_size, err) ||
            !buf_reserve(&pool->slots[i].out, config->out_size, err))
            return false;
    }
    return pool->slots != NULL;
}

static bool
make_workers(BlockPool *pool, const BlockPoolConfig *config, Error *err)
{
    size_t count = config->workers == 0 ? 1 : config->workers;

    pool->workers = mem_zero(count * sizeof *pool->workers, err);
    if (pool->workers == NULL)
        return false;
    for (; pool->worker_count < count; pool->worker_count++) {
        BlockWorker *worker = &pool->workers[pool->worker_count];

        worker->pool = pool;
        worker->ctx = config->ops->worker_new(config->ctx, err);
        if (worker->ctx == NULL)
            return false;
    }
    return true;
}

/* As many as can be had. */
static void
start_workers(BlockPool *pool, size_t count)
{
    for (; pool->threads < count; pool->threads++) {
        BlockWorker *worker = &pool->workers[pool->threads];
        Error refused = ERROR_INIT;

        if (!thread_start(&worker->thread, run_worker, worker, &refused))
            return;
    }
}

BlockPool *
block_pool_new(const BlockPoolConfig *config, Error *err)
{
    BlockPool *pool = mem_zero(sizeof *pool, err);

    if (pool == NULL)
        return NULL;
    pool->ops = config->ops;
    pool->block_size = config->block_size;
    (void)pthread_mutex_init(&pool->mutex, NULL);
    (void)pthread_cond_init(&pool->wanted, NULL);
    (void)pthread_cond_init(&pool->is_done, NULL);
    if (!make_slots(pool, config, err) || !make_workers(pool, config, err)) {
        block_pool_free(pool);
        return NULL;
    }
    start_workers(pool, config->workers);
    return pool;
}

static void
end_workers(BlockPool *pool)
{
    (void)pthread_mutex_lock(&pool->mutex);
    pool->ending = true;
    (void)pthread_cond_broadcast(&pool->wanted);
    (void)pthread_mutex_unlock(&pool->mutex);
    for (size_t i = 0; i < pool->threads; i++)
        thread_join(&pool->workers[i].thread);
    for (size_t i = 0; i < pool->worker_count; i++)
        pool->ops->worker_free(pool->workers[i].ctx);
    free(pool->workers);
}

void
block_pool_free(BlockPool *pool)
{
    if (pool == NULL)
        return;
    end_workers(pool);
    for (size_t i = 0; pool->slots != NULL && i < pool->slot_count; i++) {
        buf_free(&pool->slots[i].in);
        buf_free(&pool->slots[i].out);
    }
    free(pool->slots);
    (void)pthread_cond_destroy(&pool->is_done);
    (void)pthread_cond_destroy(&pool->wanted);
    (void)pthread_mutex_destroy(&pool->mutex);
    free(pool);
}

/* ---- the pushing thread ---- */

static bool
has_room(const BlockPool *pool)
{
    return pool->submitted - pool->released < pool->slot_count;
}

bool
block_pool_is_empty(const BlockPool *pool)
{
    return pool->submitted == pool->released && slot_of(pool, pool->submitted)->in.len == 0;
}

static void
submit(BlockPool *pool)
{
    (void)pthread_mutex_lock(&pool->mutex);
    pool->submitted++;
    (void)pthread_cond_signal(&pool->wanted);
    (void)pthread_mutex_unlock(&pool->mutex);
}

void
block_pool_cut(BlockPool *pool)
{
    BlockSlot *slot = slot_of(pool, pool->submitted);

    if (!has_room(pool) || slot->in.len == 0)
        return;
    if (pool->threads == 0) {
        compress_slot(pool, pool->workers[0].ctx, slot);
        slot->done = true;
    }
    submit(pool);
}

void
block_pool_put(BlockPool *pool, Span *data)
{
    while (data->len > 0 && has_room(pool)) {
        Buf *in = &slot_of(pool, pool->submitted)->in;
        size_t room = pool->block_size - in->len;
        size_t len = data->len < room ? data->len : room;

        memcpy(in->data + in->len, data->data, len);
        in->len += len;
        data->data += len;
        data->len -= len;
        if (len == room)
            block_pool_cut(pool);
    }
}

static bool
await(BlockPool *pool, const BlockSlot *slot, BlockWait wait)
{
    bool done;

    (void)pthread_mutex_lock(&pool->mutex);
    while (wait == BLOCK_WAIT && !slot->done)
        (void)pthread_cond_wait(&pool->is_done, &pool->mutex);
    done = slot->done;
    (void)pthread_mutex_unlock(&pool->mutex);
    return done;
}

bool
block_pool_next(BlockPool *pool, BlockWait wait, PoolBlock *ret_block, Error *err)
{
    const BlockSlot *slot = slot_of(pool, pool->released);
    PoolBlock block = {.out = {.data = NULL}};

    if (pool->submitted > pool->released && await(pool, slot, wait)) {
        if (slot->failed) {
            *err = slot->failure;
            block_pool_release(pool);
            return false;
        }
        block.out = (Span){.data = slot->out.data, .len = slot->out.len};
        block.size = slot->in.len;
        block.check = slot->check;
    }
    *ret_block = block;
    return true;
}

void
block_pool_release(BlockPool *pool)
{
    BlockSlot *slot = slot_of(pool, pool->released);

    slot->in.len = 0;
    slot->out.len = 0;
    slot->done = false;
    pool->released++;
}
