/*
 * handoff: events are packed into blocks of memory by the pushing thread and replayed into `next`
 * by the worker.
 *
 * The blocks make a ring. `published` of them, from `first` on, belong to the worker; the one after
 * them, if there is one left, is the pushing thread's to fill. Only the positions are shared: they
 * are what the mutex protects, together with `ending`, `done` and `failure`. A block's content
 * changes hands with its publication.
 *
 * Packing an event copies all that it points to. Bytes that follow bytes become one longer DATA
 * event, up to the size of a block: small messages of a server come out as large writes.
 *
 * Once `next` has failed the worker throws blocks away, so that the pushing thread never waits for
 * it.
 *
 * The shortcut: while no block is published and none is being filled, the worker sleeps and will
 * not touch `next`, so that the pushing thread may. Whoever runs a FLUSH takes its time. A row of
 * quick ones opens the shortcut, a slow one closes it and makes the row longer that is asked for.
 */
#include <errno.h>
#include <stdalign.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/runtime.h"
#include "stream/internal.h"
#include "stream/stage.h"
#include "stream/tar.h"

#define BLOCK_SIZE_USUAL  ((size_t)1024 * 1024)
#define BLOCK_SIZE_MIN    ((size_t)256)
#define BLOCK_COUNT_USUAL ((size_t)8)

#define FLUSH_QUICK_US 2000
#define FLUSH_SLOW_US  10000
#define QUICK_ROW_MIN  64u
#define QUICK_ROW_MAX  65536u

/* One event in a block, followed by the bytes and strings that it points to. */
typedef struct Record {
    size_t trailing; /* how many bytes follow */
    Event event;
    union {
        Archive archive;
        Entry entry;
    } copy; /* what `event` points to */
} Record;

typedef struct Block {
    uint8_t *memory;
    size_t capacity;
    size_t used;  /* up to the end of the last record's bytes */
    Record *last; /* the last record; NULL when empty */
} Block;

/* How it shall end, from the pushing thread. */
typedef enum Ending { ENDING_NOT_YET, ENDING_FINISH, ENDING_ABANDON } Ending;

typedef struct Handoff {
    Sink sink;
    Sink *worker_next; /* the worker's while it runs */
    HandoffConfig config;
    Thread worker;
    Block *blocks;
    size_t block_count;

    /* ---- the pushing thread's ---- */
    size_t fill;    /* the next block to fill */
    Block *filling; /* it, while it is ours; NULL until we have waited for it */

    /* ---- shared, with the mutex; `failed` also without ---- */
    pthread_mutex_t mutex;
    pthread_cond_t filled; /* for the worker: a block was published, or the ending set */
    pthread_cond_t freed;  /* for the pushing thread: a block came back, or failed, or done */
    size_t first;          /* the worker's block, when it has one */
    size_t published;
    Ending ending;
    bool done;             /* the worker's part of the ending is over */
    uint32_t quick_row;    /* how many flushes in a row were quick */
    uint32_t quick_wanted; /* how many open the shortcut */
    Error failure;         /* of `next`, once `failed` */
    atomic_bool failed;
} Handoff;

/* ---- the worker ---- */

static void
note_failure(Handoff *handoff, const Error *failure)
{
    (void)pthread_mutex_lock(&handoff->mutex);
    handoff->failure = *failure;
    atomic_store(&handoff->failed, true);
    (void)pthread_cond_signal(&handoff->freed);
    (void)pthread_mutex_unlock(&handoff->mutex);
}

/* The next block to replay; NULL when there is none any more, and why in *ret_ending. */
static const Block *
await_block(Handoff *handoff, Ending *ret_ending)
{
    const Block *block = NULL;

    (void)pthread_mutex_lock(&handoff->mutex);
    while (handoff->published == 0 && handoff->ending == ENDING_NOT_YET)
        (void)pthread_cond_wait(&handoff->filled, &handoff->mutex);
    *ret_ending = handoff->ending;
    if (handoff->published > 0 && handoff->ending != ENDING_ABANDON)
        block = &handoff->blocks[handoff->first];
    (void)pthread_mutex_unlock(&handoff->mutex);
    return block;
}

static void
return_block(Handoff *handoff)
{
    (void)pthread_mutex_lock(&handoff->mutex);
    handoff->first = (handoff->first + 1) % handoff->block_count;
    handoff->published--;
    (void)pthread_cond_signal(&handoff->freed);
    (void)pthread_mutex_unlock(&handoff->mutex);
}

/* Where a record may begin behind `used` bytes. */
static size_t
record_place(size_t used)
{
    const size_t step = alignof(Record);

    return (used + step - 1) / step * step;
}

static void
note_flush_time(Handoff *handoff, int64_t took_us)
{
    (void)pthread_mutex_lock(&handoff->mutex);
    if (took_us <= FLUSH_QUICK_US && handoff->quick_row < handoff->quick_wanted) {
        handoff->quick_row++;
    } else if (took_us > FLUSH_SLOW_US) {
        if (handoff->quick_row == handoff->quick_wanted && handoff->quick_wanted < QUICK_ROW_MAX)
            handoff->quick_wanted *= 2;
        handoff->quick_row = 0;
    }
    (void)pthread_mutex_unlock(&handoff->mutex);
}

/* By the worker, or by the pushing thread on the shortcut. */
static bool
push_next(Handoff *handoff, const Event *event, Error *err)
{
    const bool timed = handoff->config.shortcut && event->kind == EVENT_FLUSH;
    const int64_t start = timed ? clock_us() : 0;

    if (!sink_push(handoff->worker_next, event, err))
        return false;
    if (timed)
        note_flush_time(handoff, clock_us() - start);
    return true;
}

static bool
replay(Handoff *handoff, const Block *block, Error *err)
{
    size_t at = 0;

    while (at < block->used) {
        const Record *record = (const void *)(block->memory + at);

        if (!push_next(handoff, &record->event, err))
            return false;
        at = record_place(at + sizeof *record + record->trailing);
    }
    return true;
}

static void
run_worker(void *arg)
{
    Handoff *handoff = arg;
    Error err = ERROR_INIT;
    bool alive = true;
    Ending ending;
    const Block *block;

    while ((block = await_block(handoff, &ending)) != NULL) {
        if (alive && !replay(handoff, block, &err)) {
            alive = false;
            note_failure(handoff, &err);
        }
        return_block(handoff);
    }
    if (alive && ending == ENDING_FINISH && !sink_finish(handoff->worker_next, &err))
        note_failure(handoff, &err);
    (void)pthread_mutex_lock(&handoff->mutex);
    handoff->done = true;
    (void)pthread_cond_signal(&handoff->freed);
    (void)pthread_mutex_unlock(&handoff->mutex);
}

/* ---- the pushing thread: waiting ---- */

static bool
report_failure(Handoff *handoff, Error *err)
{
    (void)pthread_mutex_lock(&handoff->mutex);
    *err = handoff->failure;
    (void)pthread_mutex_unlock(&handoff->mutex);
    return false;
}

static bool
has_free_block(const Handoff *handoff)
{
    return handoff->published < handoff->block_count;
}

static bool
is_done(const Handoff *handoff)
{
    return handoff->done;
}

/* Wait until `reached` holds, or `next` has failed, which the caller looks for. */
static bool
await(Handoff *handoff, bool (*reached)(const Handoff *handoff), Error *err)
{
    bool ok = true;

    (void)pthread_mutex_lock(&handoff->mutex);
    while (ok && !reached(handoff) && !atomic_load(&handoff->failed))
        ok = cond_wait_asking(&handoff->freed, &handoff->mutex, handoff->config.while_full,
                              handoff->config.ctx, err);
    (void)pthread_mutex_unlock(&handoff->mutex);
    return ok;
}

/* ---- the pushing thread: packing ---- */

static void
publish(Handoff *handoff)
{
    if (handoff->filling == NULL || handoff->filling->last == NULL)
        return;
    (void)pthread_mutex_lock(&handoff->mutex);
    handoff->published++;
    (void)pthread_cond_signal(&handoff->filled);
    (void)pthread_mutex_unlock(&handoff->mutex);
    handoff->filling = NULL;
    handoff->fill = (handoff->fill + 1) % handoff->block_count;
}

/* Wait until there is a block to fill. */
static bool
acquire(Handoff *handoff, Error *err)
{
    if (handoff->filling != NULL)
        return true;
    if (!await(handoff, has_free_block, err))
        return false;
    if (atomic_load(&handoff->failed))
        return report_failure(handoff, err);
    handoff->filling = &handoff->blocks[handoff->fill];
    handoff->filling->used = 0;
    handoff->filling->last = NULL;
    return true;
}

/* Also for an event that is larger than a block: a long path, where blocks are very small. */
static bool
allocate(Block *block, size_t capacity, Error *err)
{
    uint8_t *memory = mem_alloc(capacity, err);

    if (memory == NULL)
        return false;
    free(block->memory);
    block->memory = memory;
    block->capacity = capacity;
    return true;
}

/* A new record with room for `room` bytes after it, of which none are used yet; NULL on failure. */
static Record *
add_record(Handoff *handoff, const Event *event, size_t room, Error *err)
{
    const size_t need = sizeof(Record) + room;
    Block *block;
    size_t at;

    if (!acquire(handoff, err))
        return NULL;
    at = record_place(handoff->filling->used);
    if (handoff->filling->last != NULL && at + need > handoff->filling->capacity) {
        publish(handoff);
        if (!acquire(handoff, err))
            return NULL;
        at = 0;
    }
    block = handoff->filling;
    if (need > block->capacity && !allocate(block, need, err))
        return NULL;
    block->last = (void *)(block->memory + at);
    *block->last = (Record){.event = *event};
    block->used = at + sizeof(Record);
    return block->last;
}

/* Bytes that belong to the last record; there is room. Returns where they are now. */
static const void *
append(Block *block, const void *bytes, size_t len)
{
    uint8_t *at = block->memory + block->used;

    memcpy(at, bytes, len);
    block->used += len;
    block->last->trailing += len;
    return at;
}

static bool
extends_data(const Block *block)
{
    return block != NULL && block->last != NULL && block->last->event.kind == EVENT_DATA;
}

static bool
pack_data(Handoff *handoff, Span data, Error *err)
{
    while (data.len > 0) {
        Block *block = handoff->filling;
        size_t len;

        if (!extends_data(block)) {
            Record *record = add_record(handoff, &(Event){.kind = EVENT_DATA}, 1, err);

            if (record == NULL)
                return false;
            block = handoff->filling;
            record->event.data = (Span){.data = block->memory + block->used, .len = 0};
        }
        len = block->capacity - block->used;
        len = len < data.len ? len : data.len;
        (void)append(block, data.data, len);
        block->last->event.data.len += len;
        data.data += len;
        data.len -= len;
        if (block->used == block->capacity)
            publish(handoff);
    }
    return true;
}

static bool
pack_archive(Handoff *handoff, const Event *event, Error *err)
{
    const Archive *archive = event->archive;
    size_t size = strlen(archive->name) + 1;
    size_t other = archive->compressed_name == NULL ? 0 : strlen(archive->compressed_name) + 1;
    Record *record = add_record(handoff, event, size + other, err);

    if (record == NULL)
        return false;
    record->copy.archive = *archive;
    record->copy.archive.name = append(handoff->filling, archive->name, size);
    if (other > 0)
        record->copy.archive.compressed_name =
            append(handoff->filling, archive->compressed_name, other);
    record->event.archive = &record->copy.archive;
    return true;
}

static bool
pack_entry(Handoff *handoff, const Event *event, Error *err)
{
    const Entry *entry = event->entry;
    size_t path_size = strlen(entry->path) + 1;
    size_t target_size = entry->link_target == NULL ? 0 : strlen(entry->link_target) + 1;
    size_t header_size = entry->tar_header == NULL ? 0 : TAR_BLOCK;
    Record *record = add_record(handoff, event, path_size + target_size + header_size, err);

    if (record == NULL)
        return false;
    record->copy.entry = *entry;
    record->copy.entry.path = append(handoff->filling, entry->path, path_size);
    if (entry->link_target != NULL)
        record->copy.entry.link_target = append(handoff->filling, entry->link_target, target_size);
    if (entry->tar_header != NULL)
        record->copy.entry.tar_header = append(handoff->filling, entry->tar_header, header_size);
    record->event.entry = &record->copy.entry;
    return true;
}

/* ---- the pushing thread: the shortcut ---- */

static bool
shortcut_is_open(Handoff *handoff)
{
    bool open;

    if (!handoff->config.shortcut || (handoff->filling != NULL && handoff->filling->last != NULL))
        return false;
    (void)pthread_mutex_lock(&handoff->mutex);
    open = handoff->published == 0 && handoff->quick_row == handoff->quick_wanted;
    (void)pthread_mutex_unlock(&handoff->mutex);
    return open;
}

static bool
push_directly(Handoff *handoff, const Event *event, Error *err)
{
    if (push_next(handoff, event, err))
        return true;
    note_failure(handoff, err);
    return false;
}

static bool
handoff_push(Sink *self, const Event *event, Error *err)
{
    Handoff *handoff = (Handoff *)self;

    if (atomic_load(&handoff->failed))
        return report_failure(handoff, err);
    if (shortcut_is_open(handoff))
        return push_directly(handoff, event, err);
    switch (event->kind) {
    case EVENT_DATA:
        return pack_data(handoff, event->data, err);
    case EVENT_ARCHIVE_BEGIN:
        return pack_archive(handoff, event, err);
    case EVENT_ENTRY_BEGIN:
        return pack_entry(handoff, event, err);
    case EVENT_ARCHIVE_END:
    case EVENT_ENTRY_END:
        return add_record(handoff, event, 0, err) != NULL;
    case EVENT_FLUSH:
        if (add_record(handoff, event, 0, err) == NULL)
            return false;
        publish(handoff);
        return true;
    }
    return error_set(err, ERR_BUG, "handoff got an unknown event");
}

/* ---- the pushing thread: ending ---- */

static void
set_ending(Handoff *handoff, Ending ending)
{
    (void)pthread_mutex_lock(&handoff->mutex);
    handoff->ending = ending;
    (void)pthread_cond_signal(&handoff->filled);
    (void)pthread_mutex_unlock(&handoff->mutex);
}

static bool
handoff_finish(Sink *self, Error *err)
{
    Handoff *handoff = (Handoff *)self;

    publish(handoff);
    set_ending(handoff, ENDING_FINISH);
    if (!await(handoff, is_done, err))
        return false;
    if (atomic_load(&handoff->failed))
        return report_failure(handoff, err);
    return true;
}

static void
handoff_release(Sink *self)
{
    Handoff *handoff = (Handoff *)self;

    if (handoff->worker.running) {
        set_ending(handoff, ENDING_ABANDON);
        thread_join(&handoff->worker);
    }
    sink_free(handoff->worker_next);
    for (size_t i = 0; handoff->blocks != NULL && i < handoff->block_count; i++)
        free(handoff->blocks[i].memory);
    free(handoff->blocks);
    (void)pthread_cond_destroy(&handoff->filled);
    (void)pthread_cond_destroy(&handoff->freed);
    (void)pthread_mutex_destroy(&handoff->mutex);
}

static const SinkOps handoff_ops = {
    .name = "handoff",
    .push = handoff_push,
    .finish = handoff_finish,
    .release = handoff_release,
};

bool
handoff_publish(Sink *handoff, Error *err)
{
    Handoff *self = (Handoff *)handoff;

    if (handoff->failure == NULL && atomic_load(&self->failed))
        (void)report_failure(self, err);
    else if (handoff->failure == NULL) {
        publish(self);
        return true;
    }
    return sink_die(handoff, err);
}

bool
handoff_failed(Sink *handoff)
{
    return atomic_load(&((Handoff *)handoff)->failed);
}

/* ---- making ---- */

static void
make_synchronised(Handoff *handoff)
{
    /* None of these can fail on Linux: they only fill in memory. */
    cond_init(&handoff->filled);
    cond_init(&handoff->freed);
    (void)pthread_mutex_init(&handoff->mutex, NULL);
}

static bool
make_blocks(Handoff *handoff, Error *err)
{
    size_t size = handoff->config.block_size == 0 ? BLOCK_SIZE_USUAL : handoff->config.block_size;
    size_t count =
        handoff->config.block_count == 0 ? BLOCK_COUNT_USUAL : handoff->config.block_count;

    if (size < BLOCK_SIZE_MIN)
        size = BLOCK_SIZE_MIN;
    if (count > SIZE_MAX / sizeof(Block))
        return error_set_memory(err);
    handoff->blocks = mem_zero(count * sizeof(Block), err);
    if (handoff->blocks == NULL)
        return false;
    handoff->block_count = count;
    for (size_t i = 0; i < count; i++) {
        if (!allocate(&handoff->blocks[i], size, err))
            return false;
    }
    return true;
}

Sink *
handoff_new(Sink *next, const HandoffConfig *config, Error *err)
{
    Handoff *handoff;

    if (next == NULL)
        return NULL;
    handoff = sink_alloc_last(sizeof *handoff, &handoff_ops, err);
    if (handoff == NULL) {
        sink_free(next);
        return NULL;
    }
    handoff->worker_next = next;
    handoff->config = *config;
    handoff->quick_wanted = QUICK_ROW_MIN;
    atomic_init(&handoff->failed, false);
    make_synchronised(handoff);
    if (!make_blocks(handoff, err) || !thread_start(&handoff->worker, run_worker, handoff, err)) {
        sink_free(&handoff->sink);
        return NULL;
    }
    return &handoff->sink;
}
