/*
 * The stream: what flows between a server (or a file) and the disk, as typed events.
 *
 *   stream  = { archive } finish
 *   archive = ARCHIVE_BEGIN ( { DATA } | { entry } ) ARCHIVE_END        opaque | parsed
 *   entry   = ENTRY_BEGIN { DATA } ENTRY_END
 *   FLUSH   anywhere between events
 *
 * A Sink takes events one at a time. Sinks form a chain; bytes go forward only. sink_push enforces
 * the grammar (ERR_BUG) and a sink is dead after its first failure: every later push or finish
 * fails with that same Error. Whatever an event points to is borrowed for the call.
 *
 * Ownership: a constructor owns `next` from the call on, even when it fails, and returns NULL when
 * `next` is NULL, so a chain is built in a column and checked once. Freeing the head frees the
 * chain. sink_free before a successful sink_finish abandons: partial output is not kept (a stage
 * that keeps it says so). Nothing counts as written until sink_finish on the head returned true.
 *
 * Threads: one thread pushes, finishes and frees a sink. handoff moves its `next` to a thread of
 * its own.
 */
#ifndef PGSTOW_STREAM_H
#define PGSTOW_STREAM_H

#include <stdatomic.h>
#include <sys/types.h>

#include "common/bytes.h"
#include "common/error.h"
#include "common/pgtypes.h"

typedef struct Sink Sink;

typedef enum EventKind {
    EVENT_ARCHIVE_BEGIN,
    EVENT_ARCHIVE_END,
    EVENT_ENTRY_BEGIN,
    EVENT_ENTRY_END,
    EVENT_DATA,
    EVENT_FLUSH
} EventKind;

/* One tablespace of a backup, or a WAL directory. */
typedef struct Archive {
    const char *name; /* "base.tar", "16385.tar", "pg_wal" */
    Oid tablespace;   /* 0: the data directory itself */
} Archive;

typedef enum EntryKind { ENTRY_FILE, ENTRY_DIRECTORY, ENTRY_SYMLINK } EntryKind;

/* A file, directory or link. Kinds are open for more (incremental files to apply in place). */
typedef struct Entry {
    EntryKind kind;
    const char *path;        /* below the archive's root, no trailing slash, checked safe */
    const char *link_target; /* ENTRY_SYMLINK only, else NULL */
    uint64_t size;           /* bytes of DATA that follow for ENTRY_FILE, else 0 */
    mode_t mode;             /* permission bits only */
    int64_t mtime;           /* Unix seconds */
} Entry;

typedef struct Event {
    EventKind kind;
    union {
        const Archive *archive; /* ARCHIVE_BEGIN */
        const Entry *entry;     /* ENTRY_BEGIN */
        Span data;              /* DATA: never empty */
        bool complete;          /* ENTRY_END: false when the entry was cut short (a WAL segment
                                 * that the stream did not fill) */
        Lsn mark;               /* FLUSH: what is durable once all before it is on disk */
    };
} Event;

bool sink_push(Sink *sink, const Event *event, Error *err) MUST_USE;

/* Ends the stream: the whole chain finishes, in order. Once. */
bool sink_finish(Sink *sink, Error *err) MUST_USE;
void sink_free(Sink *sink);

/* Shorthands over sink_push. sink_data with no bytes does nothing. */
bool sink_archive_begin(Sink *sink, const Archive *archive, Error *err) MUST_USE;
bool sink_archive_end(Sink *sink, Error *err) MUST_USE;
bool sink_entry_begin(Sink *sink, const Entry *entry, Error *err) MUST_USE;
bool sink_entry_end(Sink *sink, bool complete, Error *err) MUST_USE;
bool sink_data(Sink *sink, Span data, Error *err) MUST_USE;
bool sink_flush(Sink *sink, Lsn mark, Error *err) MUST_USE;

/*
 * How far the disk has confirmed: written by the last sink of a chain after a sync returned, read
 * by anybody. Never moves back.
 */
typedef struct DurableMark {
    _Atomic Lsn lsn;
} DurableMark;

void durable_mark_advance(DurableMark *mark, Lsn lsn);
Lsn durable_mark_get(const DurableMark *mark);

/* ---- stages ---- */

/*
 * handoff: runs `next` in a thread of its own, behind a ring of blocks. A block is published when
 * full, at FLUSH, at finish, and when handoff_publish is called (the producer is about to wait).
 * While the ring is full the pushing thread waits and calls `while_full` about every second (NULL:
 * not): that is where status messages go on however slow the disk is; when it fails, so does the
 * push. A failure in `next` reaches the next push or finish.
 */
typedef struct HandoffConfig {
    size_t block_size;  /* 0: 1 MiB */
    size_t block_count; /* 0: 8 */
    bool (*while_full)(void *ctx, Error *err);
    void *ctx;
} HandoffConfig;

Sink *handoff_new(Sink *next, const HandoffConfig *config, Error *err) MUST_USE;
bool handoff_publish(Sink *handoff, Error *err) MUST_USE;

/* True once `next` has failed: a producer that has nothing to push can still learn of it. */
bool handoff_failed(Sink *handoff);

/*
 * tar_reader: opaque archives in, parsed archives out. Knows the server's dialect (ustar, octal and
 * base-256 numbers, GNU magic); pax and GNU long-name members are refused by name. An archive that
 * ends within a member or without its end-of-archive blocks is a format error, except that servers
 * up to 14 send no end blocks: TAR_END_OPTIONAL. Member paths are canonicalised ("./x", "x/") and
 * must be safe (path_is_below); a root entry "./" is dropped.
 */
typedef enum TarEnd { TAR_END_REQUIRED, TAR_END_OPTIONAL } TarEnd;
Sink *tar_reader_new(Sink *next, TarEnd end, Error *err) MUST_USE;

/*
 * extract: parsed archives become directories. Files are created below the root of their archive,
 * component by component, never through a symbolic link; they must not exist yet. Directories may
 * exist. Symbolic links are made only as pg_tblspc/<oid> of the base archive.
 * With EXTRACT_DURABLE each file is synced by a small pool of threads as it ends, and finish
 * returns only when all files and directories (the roots and their parents included) are on disk.
 * Abandoned output is left to the caller, who knows which directories this run made.
 */
typedef enum ExtractSync { EXTRACT_NO_SYNC, EXTRACT_DURABLE } ExtractSync;

typedef struct ExtractConfig {
    /* Where archive of this tablespace goes: an existing directory, borrowed until the sink is
     * freed; NULL: unknown tablespace, a format error. */
    const char *(*root)(void *ctx, Oid tablespace);
    /* Where the link pg_tblspc/<oid> with this target shall point; NULL: keep the target. */
    const char *(*link_target)(void *ctx, Oid tablespace, const char *target);
    void *ctx;
    ExtractSync sync;
    mode_t directory_mode; /* 0700 or 0750: for directories that the archive does not name */
} ExtractConfig;

Sink *extract_new(const ExtractConfig *config, Error *err) MUST_USE;

#endif
