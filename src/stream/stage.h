/*
 * For those who write a stage; users of the stream include stream.h only.
 *
 * A stage embeds a Sink as its first member and is made by sink_alloc. `push` gets events that obey
 * the grammar. `finish` (may be NULL) pushes what is left; afterwards sink_finish finishes `next`
 * by itself. `release` (may be NULL) frees what the stage owns besides `next`, in any state, and
 * the stage's memory itself is freed by sink_free.
 */
#ifndef PGSTOW_STAGE_H
#define PGSTOW_STAGE_H

#include "stream/stream.h"

typedef struct SinkOps {
    const char *name;
    bool (*push)(Sink *self, const Event *event, Error *err);
    bool (*finish)(Sink *self, Error *err);
    void (*release)(Sink *self);
} SinkOps;

typedef enum SinkPlace { SINK_OUTSIDE, SINK_IN_ARCHIVE, SINK_IN_ENTRY, SINK_FINISHED } SinkPlace;

struct Sink {
    const SinkOps *ops;
    Sink *next; /* owned; NULL for the last one, and for stages that drive their next themselves */
    SinkPlace place;  /* where in the grammar */
    Oid tablespace;   /* of the archive at hand, or the last one */
    bool opaque_data; /* this archive has had DATA outside entries */
    bool parsed;      /* this archive has had entries */
    Error *failure;   /* the first failure, NULL while alive */
    Error failure_storage;
};

/*
 * Allocate a zeroed stage of `size` bytes whose first member is a Sink. Owns `next`: on failure it
 * is freed. A stage that has a next passes it here; with `next` NULL use sink_alloc_last.
 */
void *sink_alloc(size_t size, const SinkOps *ops, Sink *next, Error *err) MUST_USE;
void *sink_alloc_last(size_t size, const SinkOps *ops, Error *err) MUST_USE;

/*
 * For a stage that only looks at what passes: its callbacks (each may be NULL) see an event before
 * it goes on unchanged; one that fails keeps it back. This is such a stage's push.
 */
typedef struct WatchOps {
    bool (*entry_begin)(Sink *self, const Entry *entry, Error *err);
    bool (*data)(Sink *self, Span data, Error *err);
    bool (*entry_end)(Sink *self, Error *err);
} WatchOps;

bool sink_watch(Sink *self, const WatchOps *ops, const Event *event, Error *err) MUST_USE;

/* Pass an event on unchanged: the default for what a stage does not care about. */
static inline bool
sink_forward(Sink *self, const Event *event, Error *err)
{
    return sink_push(self->next, event, err);
}

/* ---- for stages that write files ---- */

/*
 * Lets the kernel write what `fd` has got between *started and `written`, once that is worth it;
 * *started moves up. Otherwise it hoards up to a fifth of the memory, and the first sync waits for
 * all of it.
 */
void durable_write_back(int fd, uint64_t written, uint64_t *started);

#endif
