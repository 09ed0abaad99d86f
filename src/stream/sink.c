#include "stream/stream.h"

#include <stdlib.h>

#include "stream/internal.h"
#include "stream/stage.h"

/* ---- making and ending ---- */

void *
sink_alloc_last(size_t size, const SinkOps *ops, Error *err)
{
    Sink *sink = mem_zero(size, err);

    if (sink != NULL)
        sink->ops = ops;
    return sink;
}

void *
sink_alloc(size_t size, const SinkOps *ops, Sink *next, Error *err)
{
    Sink *sink;

    if (next == NULL) /* whoever should have made it has set the error */
        return NULL;
    sink = sink_alloc_last(size, ops, err);
    if (sink == NULL)
        sink_free(next);
    else
        sink->next = next;
    return sink;
}

void
sink_free(Sink *sink)
{
    while (sink != NULL) {
        Sink *next = sink->next;

        if (sink->ops->release != NULL)
            sink->ops->release(sink);
        free(sink);
        sink = next;
    }
}

bool
sink_die(Sink *sink, Error *err)
{
    if (sink->failure == NULL) {
        sink->failure_storage = *err;
        sink->failure = &sink->failure_storage;
    }
    *err = *sink->failure;
    return false;
}

/* ---- grammar ---- */

static bool
misplaced(const Sink *sink, const char *event, Error *err)
{
    static const char *const places[] = {[SINK_OUTSIDE] = "outside an archive",
                                         [SINK_IN_ARCHIVE] = "within an archive",
                                         [SINK_IN_ENTRY] = "within an entry",
                                         [SINK_FINISHED] = "after the end of the stream"};

    return error_set(err, ERR_BUG, "stage \"%s\" got %s %s", sink->ops->name, event,
                     places[sink->place]);
}

static bool
take_archive_begin(Sink *sink, const Event *event, Error *err)
{
    if (sink->place != SINK_OUTSIDE)
        return misplaced(sink, "the begin of an archive", err);
    if (event->archive == NULL || event->archive->name == NULL)
        return error_set(err, ERR_BUG, "stage \"%s\" got an archive without a name",
                         sink->ops->name);
    sink->place = SINK_IN_ARCHIVE;
    sink->tablespace = event->archive->tablespace;
    sink->opaque_data = false;
    sink->parsed = false;
    return true;
}

static bool
take_archive_end(Sink *sink, Error *err)
{
    if (sink->place != SINK_IN_ARCHIVE)
        return misplaced(sink, "the end of an archive", err);
    sink->place = SINK_OUTSIDE;
    return true;
}

static bool
take_entry_begin(Sink *sink, const Event *event, Error *err)
{
    if (sink->place != SINK_IN_ARCHIVE)
        return misplaced(sink, "the begin of an entry", err);
    if (sink->opaque_data)
        return error_set(err, ERR_BUG, "stage \"%s\" got an entry in an opaque archive",
                         sink->ops->name);
    if (event->entry == NULL || event->entry->path == NULL)
        return error_set(err, ERR_BUG, "stage \"%s\" got an entry without a path", sink->ops->name);
    sink->place = SINK_IN_ENTRY;
    sink->parsed = true;
    return true;
}

static bool
take_entry_end(Sink *sink, Error *err)
{
    if (sink->place != SINK_IN_ENTRY)
        return misplaced(sink, "the end of an entry", err);
    sink->place = SINK_IN_ARCHIVE;
    return true;
}

static bool
take_data(Sink *sink, const Event *event, Error *err)
{
    if (sink->place != SINK_IN_ARCHIVE && sink->place != SINK_IN_ENTRY)
        return misplaced(sink, "data", err);
    if (event->data.len == 0 || event->data.data == NULL)
        return error_set(err, ERR_BUG, "stage \"%s\" got empty data", sink->ops->name);
    if (sink->place == SINK_IN_ENTRY)
        return true;
    if (sink->parsed)
        return error_set(err, ERR_BUG, "stage \"%s\" got data between entries", sink->ops->name);
    sink->opaque_data = true;
    return true;
}

static bool
take_flush(const Sink *sink, Error *err)
{
    if (sink->place == SINK_FINISHED)
        return misplaced(sink, "a flush", err);
    return true;
}

/* Checks that the event is allowed here, and takes the step. */
static bool
grammar_step(Sink *sink, const Event *event, Error *err)
{
    switch (event->kind) {
    case EVENT_ARCHIVE_BEGIN:
        return take_archive_begin(sink, event, err);
    case EVENT_ARCHIVE_END:
        return take_archive_end(sink, err);
    case EVENT_ENTRY_BEGIN:
        return take_entry_begin(sink, event, err);
    case EVENT_ENTRY_END:
        return take_entry_end(sink, err);
    case EVENT_DATA:
        return take_data(sink, event, err);
    case EVENT_FLUSH:
        return take_flush(sink, err);
    }
    return error_set(err, ERR_BUG, "stage \"%s\" got an event of unknown kind %d", sink->ops->name,
                     (int)event->kind);
}

/* ---- use ---- */

bool
sink_push(Sink *sink, const Event *event, Error *err)
{
    if (sink->failure != NULL || !grammar_step(sink, event, err) ||
        !sink->ops->push(sink, event, err))
        return sink_die(sink, err);
    return true;
}

/* The stage itself, then what follows it. */
static bool
finish_chain(Sink *sink, Error *err)
{
    if (sink->ops->finish != NULL && !sink->ops->finish(sink, err))
        return false;
    return sink->next == NULL || sink_finish(sink->next, err);
}

bool
sink_finish(Sink *sink, Error *err)
{
    if (sink->failure != NULL)
        return sink_die(sink, err);
    if (sink->place != SINK_OUTSIDE) {
        (void)misplaced(sink, "the end of the stream", err);
        return sink_die(sink, err);
    }
    sink->place = SINK_FINISHED;
    if (!finish_chain(sink, err))
        return sink_die(sink, err);
    return true;
}

/* ---- shorthands ---- */

bool
sink_archive_begin(Sink *sink, const Archive *archive, Error *err)
{
    return sink_push(sink, &(Event){.kind = EVENT_ARCHIVE_BEGIN, .archive = archive}, err);
}

bool
sink_archive_end(Sink *sink, Error *err)
{
    return sink_push(sink, &(Event){.kind = EVENT_ARCHIVE_END}, err);
}

bool
sink_entry_begin(Sink *sink, const Entry *entry, Error *err)
{
    return sink_push(sink, &(Event){.kind = EVENT_ENTRY_BEGIN, .entry = entry}, err);
}

bool
sink_entry_end(Sink *sink, bool complete, Error *err)
{
    return sink_push(sink, &(Event){.kind = EVENT_ENTRY_END, .complete = complete}, err);
}

bool
sink_data(Sink *sink, Span data, Error *err)
{
    if (data.len == 0)
        return true;
    return sink_push(sink, &(Event){.kind = EVENT_DATA, .data = data}, err);
}

bool
sink_flush(Sink *sink, Lsn mark, Error *err)
{
    return sink_push(sink, &(Event){.kind = EVENT_FLUSH, .mark = mark}, err);
}

/* ---- looking on ---- */

static bool
look(Sink *self, const WatchOps *ops, const Event *event, Error *err)
{
    switch (event->kind) {
    case EVENT_ENTRY_BEGIN:
        return ops->entry_begin == NULL || ops->entry_begin(self, event->entry, err);
    case EVENT_DATA:
        return ops->data == NULL || ops->data(self, event->data, err);
    case EVENT_ENTRY_END:
        return ops->entry_end == NULL || ops->entry_end(self, err);
    case EVENT_ARCHIVE_BEGIN:
    case EVENT_ARCHIVE_END:
    case EVENT_FLUSH:
        break;
    }
    return true;
}

bool
sink_watch(Sink *self, const WatchOps *ops, const Event *event, Error *err)
{
    return look(self, ops, event, err) && sink_forward(self, event, err);
}

/* ---- durable mark ---- */

void
durable_mark_advance(DurableMark *mark, Lsn lsn)
{
    Lsn seen = atomic_load(&mark->lsn);

    while (seen < lsn) {
        if (atomic_compare_exchange_weak(&mark->lsn, &seen, lsn)) {
            if (mark->bell != NULL)
                bell_ring(mark->bell);
            return;
        }
    }
}

Lsn
durable_mark_get(const DurableMark *mark)
{
    return atomic_load(&mark->lsn);
}
