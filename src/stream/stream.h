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
#include "common/runtime.h"

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
    /* What it came out of, "base.tar.gz": messages call it that, for it is the file that somebody
     * will look at. NULL: it was not compressed. */
    const char *compressed_name;
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
    /* The TAR_BLOCK bytes of the header it came with, for tar_writer to pass on what the fields
     * above do not tell (owner, group, device); NULL: made by ourselves. */
    const uint8_t *tar_header;
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
 * How far the last sink of a chain has got, read by anybody: what the disk has confirmed, after a
 * sync returned, or only what was given to the operating system. Never moves back. Who moves it
 * rings its bell.
 */
typedef struct DurableMark {
    _Atomic Lsn lsn;
    Bell *bell; /* borrowed, may be NULL; set before the chain runs */
} DurableMark;

void durable_mark_advance(DurableMark *mark, Lsn lsn);
Lsn durable_mark_get(const DurableMark *mark);

/* How what is written is made to last, once it is complete (--sync-method of the stock tools). */
typedef enum SyncMethod {
    SYNC_NONE,   /* not at all: the operating system will, some day */
    SYNC_FSYNC,  /* each file and directory */
    SYNC_SYNCFS, /* the file systems as a whole, at the end */
    SYNC_BEST    /* as SYNC_FSYNC; where many small files come, by either, as is quicker and safe */
} SyncMethod;

/* ---- stages ---- */

/* tee: gives every event to both, first to `first`. Owns both, as a constructor owns its next. */
Sink *tee_new(Sink *first, Sink *second, Error *err) MUST_USE;

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
    /*
     * Whoever waits for each FLUSH waits for two switches of threads besides. With this the pushing
     * thread runs `next` itself whenever the worker has nothing to do, as soon as a long row of
     * flushes was quick, and until one is not: a slow disk does not hold it up.
     */
    bool shortcut;
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

/* discard: the end of a chain whose stages do all there is to do. */
Sink *discard_new(Error *err) MUST_USE;

/*
 * tar_terminator: opaque archives of servers up to 14, which send no end-of-archive blocks, get
 * theirs: two blocks of zeros behind the last byte.
 */
Sink *tar_terminator_new(Sink *next, Error *err) MUST_USE;

/*
 * tar_writer: parsed archives in, opaque ones out, in the server's dialect (src/port/tar.c): what
 * came as tar leaves byte by byte as it came, with exactly two end blocks. An entry's tar_header is
 * passed on; where the entry has another size, mode or mtime than it says, these and the checksum
 * are written anew. Other entries get a header with this owner. Sizes from 8 GiB on are base-256.
 * ERR_UNSUPPORTED for a name or link target that does not fit; an entry that is not complete, or
 * has not as much data as it announced, is an error.
 */
typedef struct TarOwner {
    uint32_t uid;
    uint32_t gid;
} TarOwner;

Sink *tar_writer_new(Sink *next, const TarOwner *owner, Error *err) MUST_USE;

/*
 * file_sink: opaque archives become files DIRECTORY/ARCHIVE-NAME, which must not exist yet, or all
 * go to one descriptor (standard output: a pipe, say). Large writes; files are written back while
 * they grow. With SYNC_FSYNC each is synced before it is closed, and the directory at finish; with
 * SYNC_SYNCFS its file system at finish. A descriptor is not synced. FLUSH makes all before it last
 * and then advances the mark, which stays where nothing is synced. Abandoned files stay: the caller
 * knows which directories this run made.
 */
typedef struct FileSinkConfig {
    const char *directory; /* exists; copied. NULL: write to `fd` */
    int fd;                /* borrowed; never closed */
    const char *fd_name;   /* for messages: "standard output"; copied */
    mode_t file_mode;      /* exactly this, whatever the umask */
    SyncMethod sync;
    DurableMark *durable; /* borrowed, may be NULL */
    const Stop *stop;     /* ends a write into a pipe that nobody reads; borrowed, may be NULL */
} FileSinkConfig;

Sink *file_sink_new(const FileSinkConfig *config, Error *err) MUST_USE;

/*
 * extract: parsed archives become directories. Files are created below the root of their archive,
 * component by component, never through a symbolic link; they must not exist yet. Directories may
 * exist. Symbolic links are made only as pg_tblspc/<oid> of the base archive.
 * A pool of threads writes the files: pushing waits only while all its memory is on its way to the
 * disk. Small files are made some time after their entries. With SYNC_FSYNC each file is synced as
 * it ends, and finish returns only when all files and directories (the roots and their parents
 * included) are on disk. With SYNC_SYNCFS finish syncs the file systems of the roots, and the
 * parents' names. What has failed is told by a later event, which may be a FLUSH, or by finish.
 * Abandoned output is left to the caller, who knows which directories this run made.
 */
typedef struct ExtractConfig {
    /* Where archive of this tablespace goes: an existing directory, borrowed until the sink is
     * freed; NULL: unknown tablespace, a format error. */
    const char *(*root)(void *ctx, Oid tablespace);
    /* Where the link pg_tblspc/<oid> with this target shall point; NULL: keep the target. */
    const char *(*link_target)(void *ctx, Oid tablespace, const char *target);
    void *ctx;
    /* Where the content of the data directory's pg_wal goes: an existing directory that the link
     * pg_wal, made by the caller, leads to; synced like a root. NULL: into a directory pg_wal. */
    const char *wal_directory;
    SyncMethod sync;
    mode_t directory_mode; /* 0700 or 0750: for directories that the archive does not name */
    /* Called every second by the pushing thread while it waits for the disk; false ends the wait
     * with its Error. May be NULL. */
    bool (*while_full)(void *ctx, Error *err);
} ExtractConfig;

Sink *extract_new(const ExtractConfig *config, Error *err) MUST_USE;

#endif
