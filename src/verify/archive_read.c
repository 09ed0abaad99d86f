/*
 * The bytes of an archive: read, decompressed, and pushed into the chain that looks at them.
 *
 * Threaded, the file is read and decompressed in a thread of its own, which fills a ring of blocks:
 *
 *     file -> decompress? -> ring ===> chain, in the calling thread
 *
 * The blocks come out in order and what ended the reading comes behind them, so the chain sees the
 * same bytes as without a thread, and the first failure on their way is the one that counts.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "common/file.h"
#include "stream/compression.h"
#include "stream/stage.h"
#include "verify/internal.h"

#define READ_SIZE   ((size_t)256 * 1024)
#define BLOCK_COUNT ((size_t)6)

/* Who sleeps is woken for several blocks: to be woken takes as long as to look at one. */
#define WORTH_WAKING ((size_t)2)

/* ---- reading, in whichever thread ---- */

typedef struct Reading {
    const ArchiveSource *source;
    Sink *chain; /* decompress? and what comes behind it */
    uint8_t *buffer;
    uint64_t read; /* bytes of the file so far */
    /* So many more of them have passed the chain; NULL: nobody wants to know. */
    ReadNext (*passed)(void *ctx, size_t bytes, Error *err);
} Reading;

/* What could be decompressed so far is looked at before it is told why there is no more. */
static bool
end_unread(const Reading *reading, Error *err)
{
    Error earlier = ERROR_INIT;

    if (!sink_flush(reading->chain, LSN_INVALID, &earlier))
        *err = earlier;
    return false;
}

/* *ret_whole: the end was reached. */
static bool
read_content(Reading *reading, bool *ret_whole, Error *err)
{
    const ArchiveSource *source = reading->source;
    ReadNext next = READ_GO_ON;
    size_t got = READ_SIZE;

    while (got == READ_SIZE && next == READ_GO_ON) {
        if (!file_read(source->fd, reading->buffer, READ_SIZE, source->name, &got, err))
            return end_unread(reading, err);
        reading->read += got;
        if (!sink_data(reading->chain, (Span){.data = reading->buffer, .len = got}, err))
            return false;
        if (reading->passed != NULL)
            next = reading->passed(source->ctx, got, err);
    }
    *ret_whole = next == READ_GO_ON;
    return next != READ_FAILED;
}

static bool
read_archive(Reading *reading, Error *err)
{
    const ArchiveSource *source = reading->source;
    const Archive archive = {.name = source->name, .tablespace = source->tablespace};
    bool whole = false;

    if (!sink_archive_begin(reading->chain, &archive, err) || !read_content(reading, &whole, err))
        return false;
    return !whole || (sink_archive_end(reading->chain, err) && sink_finish(reading->chain, err));
}

/* Owns `chain`. */
static bool
run_reading(Reading *reading, Sink *chain, Error *err)
{
    const ArchiveSource *source = reading->source;
    bool ok;

    reading->chain = decompress_new(chain, compression_of_name(source->name), err);
    reading->buffer = mem_alloc(READ_SIZE, err);
    ok = reading->chain != NULL && reading->buffer != NULL && read_archive(reading, err);
    free(reading->buffer);
    sink_free(reading->chain);
    return ok;
}

/* ---- the ring ---- */

typedef struct Block {
    Buf bytes;
    uint64_t read; /* bytes of the file that were read until it was published */
} Block;

/* `published` blocks from `first` on are the taking thread's, the next one the filling thread's. */
typedef struct Ring {
    const ArchiveSource *source;
    Block blocks[BLOCK_COUNT];

    /* ---- the filling thread's ---- */
    Reading reading;
    size_t fill;    /* the next block to fill */
    Block *filling; /* it; NULL until we have waited for it */

    /* ---- shared, with the mutex ---- */
    pthread_mutex_t mutex;
    pthread_cond_t filled; /* a block was published, or nothing comes any more */
    pthread_cond_t freed;  /* a block came back, or no more are wanted */
    char *name;            /* of the archive, decompressed; set before the first block */
    size_t first;
    size_t published;
    bool ended;   /* nothing comes any more */
    bool failed;  /* of that: because of `failure` */
    bool refused; /* no more are wanted */
    Error failure;
} Ring;

static void
ring_init(Ring *ring, const ArchiveSource *source)
{
    *ring = (Ring){.source = source, .reading = {.source = source}};
    /* None of these can fail on Linux: they only fill in memory. */
    (void)pthread_mutex_init(&ring->mutex, NULL);
    (void)pthread_cond_init(&ring->filled, NULL);
    (void)pthread_cond_init(&ring->freed, NULL);
}

static void
ring_destroy(Ring *ring)
{
    for (size_t i = 0; i < BLOCK_COUNT; i++)
        buf_free(&ring->blocks[i].bytes);
    free(ring->name);
    (void)pthread_cond_destroy(&ring->filled);
    (void)pthread_cond_destroy(&ring->freed);
    (void)pthread_mutex_destroy(&ring->mutex);
}

/* ---- the filling thread ---- */

/* False when no more blocks are wanted. */
static bool
await_room(Ring *ring)
{
    bool wanted;

    (void)pthread_mutex_lock(&ring->mutex);
    if (ring->published == BLOCK_COUNT) {
        while (BLOCK_COUNT - ring->published < WORTH_WAKING && !ring->refused)
            (void)pthread_cond_wait(&ring->freed, &ring->mutex);
    }
    wanted = !ring->refused;
    (void)pthread_mutex_unlock(&ring->mutex);
    return wanted;
}

static bool
acquire(Ring *ring, Error *err)
{
    if (ring->filling != NULL)
        return true;
    if (!await_room(ring))
        return error_set_stopped(err);
    ring->filling = &ring->blocks[ring->fill];
    ring->filling->bytes.len = 0;
    return true;
}

static void
publish(Ring *ring)
{
    if (ring->filling == NULL)
        return;
    ring->filling->read = ring->reading.read;
    (void)pthread_mutex_lock(&ring->mutex);
    if (++ring->published == WORTH_WAKING)
        (void)pthread_cond_signal(&ring->filled);
    (void)pthread_mutex_unlock(&ring->mutex);
    ring->filling = NULL;
    ring->fill = (ring->fill + 1) % BLOCK_COUNT;
}

/* What was decompressed, without a copy. */
static bool
fill(Ring *ring, Span data, Error *err)
{
    if (data.len == 0)
        return true;
    if (!acquire(ring, err))
        return false;
    decompress_exchange(ring->reading.chain, &ring->filling->bytes);
    ring->filling->bytes.len = data.len;
    publish(ring);
    return true;
}

/* The stage at the end of what the filling thread runs. */
typedef struct RingStage {
    Sink sink;
    Ring *ring;
} RingStage;

static bool
ring_begin(Ring *ring, const Archive *archive, Error *err)
{
    char *name = mem_strdup(archive->name, err);

    if (name == NULL)
        return false;
    (void)pthread_mutex_lock(&ring->mutex);
    ring->name = name;
    (void)pthread_mutex_unlock(&ring->mutex);
    return true;
}

static bool
ring_push(Sink *self, const Event *event, Error *err)
{
    Ring *ring = ((RingStage *)self)->ring;

    if (event->kind == EVENT_ARCHIVE_BEGIN)
        return ring_begin(ring, event->archive, err);
    return event->kind != EVENT_DATA || fill(ring, event->data, err);
}

static const SinkOps ring_ops = {.name = "archive_ring", .push = ring_push};

static Sink *
ring_stage_new(Ring *ring, Error *err)
{
    RingStage *stage = sink_alloc_last(sizeof *stage, &ring_ops, err);

    if (stage == NULL)
        return NULL;
    stage->ring = ring;
    return &stage->sink;
}

/* What is not compressed is read where it stays. */
static bool
fill_from_file(Ring *ring, Error *err)
{
    const ArchiveSource *source = ring->source;
    const Archive archive = {.name = source->name};
    size_t got = READ_SIZE;

    if (!ring_begin(ring, &archive, err))
        return false;
    while (got == READ_SIZE) {
        if (!acquire(ring, err) || !buf_reserve(&ring->filling->bytes, READ_SIZE, err) ||
            !file_read(source->fd, ring->filling->bytes.data, READ_SIZE, source->name, &got, err))
            return false;
        ring->filling->bytes.len = got;
        ring->reading.read += got;
        publish(ring);
    }
    return true;
}

static void
fill_ring(void *arg)
{
    Ring *ring = arg;
    Error failure = ERROR_INIT;
    bool ok;

    if (compression_of_name(ring->source->name) == COMPRESSION_NONE)
        ok = fill_from_file(ring, &failure);
    else
        ok = run_reading(&ring->reading, ring_stage_new(ring, &failure), &failure);
    publish(ring);
    (void)pthread_mutex_lock(&ring->mutex);
    ring->ended = true;
    ring->failed = !ok;
    ring->failure = failure;
    (void)pthread_cond_signal(&ring->filled);
    (void)pthread_mutex_unlock(&ring->mutex);
}

/* ---- the calling thread ---- */

/* NULL: nothing comes any more. */
static const Block *
next_block(Ring *ring)
{
    const Block *block = NULL;

    (void)pthread_mutex_lock(&ring->mutex);
    if (ring->published == 0) {
        while (ring->published < WORTH_WAKING && !ring->ended)
            (void)pthread_cond_wait(&ring->filled, &ring->mutex);
    }
    if (ring->published > 0)
        block = &ring->blocks[ring->first];
    (void)pthread_mutex_unlock(&ring->mutex);
    return block;
}

static void
return_block(Ring *ring)
{
    (void)pthread_mutex_lock(&ring->mutex);
    ring->first = (ring->first + 1) % BLOCK_COUNT;
    if (BLOCK_COUNT - --ring->published == WORTH_WAKING)
        (void)pthread_cond_signal(&ring->freed);
    (void)pthread_mutex_unlock(&ring->mutex);
}

/* From `block` on, the first one. *ret_whole: all that could be read has passed. */
static bool
take_blocks(Ring *ring, const Block *block, Sink *chain, bool *ret_whole, Error *err)
{
    const ArchiveSource *source = ring->source;
    ReadNext next = READ_GO_ON;
    uint64_t read = 0;

    while (block != NULL && next == READ_GO_ON) {
        if (!sink_data(chain, (Span){.data = block->bytes.data, .len = block->bytes.len}, err))
            return false;
        next = source->passed(source->ctx, (size_t)(block->read - read), err);
        read = block->read;
        return_block(ring);
        block = next == READ_GO_ON ? next_block(ring) : NULL;
    }
    *ret_whole = next == READ_GO_ON;
    return next != READ_FAILED;
}

static bool
take_archive(Ring *ring, Sink *chain, Error *err)
{
    const Block *first = next_block(ring);
    const char *given = ring->source->name;
    Archive archive = {.name = ring->name, .tablespace = ring->source->tablespace};
    bool whole = false;

    if (compression_of_name(given) != COMPRESSION_NONE)
        archive.compressed_name = given;
    if (archive.name == NULL) { /* it has ended before it began */
        *err = ring->failure;
        return false;
    }
    if (!sink_archive_begin(chain, &archive, err) || !take_blocks(ring, first, chain, &whole, err))
        return false;
    if (!whole)
        return true;
    if (ring->failed) {
        *err = ring->failure;
        return false;
    }
    return sink_archive_end(chain, err) && sink_finish(chain, err);
}

static void
refuse(Ring *ring)
{
    (void)pthread_mutex_lock(&ring->mutex);
    ring->refused = true;
    (void)pthread_cond_signal(&ring->freed);
    (void)pthread_mutex_unlock(&ring->mutex);
}

static bool
read_threaded(const ArchiveSource *source, Sink *chain, Error *err)
{
    Thread thread = {.running = false};
    Ring ring;
    bool ok;

    ring_init(&ring, source);
    ok = thread_start(&thread, fill_ring, &ring, err);
    if (ok) {
        ok = take_archive(&ring, chain, err);
        refuse(&ring);
        thread_join(&thread);
    }
    ring_destroy(&ring);
    sink_free(chain);
    return ok;
}

bool
archive_read(const ArchiveSource *source, Sink *chain, Error *err)
{
    Reading reading = {.source = source, .passed = source->passed};

    if (chain == NULL)
        return false;
    (void)posix_fadvise(source->fd, 0, 0, POSIX_FADV_SEQUENTIAL); /* a hint */
    if (source->threaded)
        return read_threaded(source, chain, err);
    return run_reading(&reading, chain, err);
}
