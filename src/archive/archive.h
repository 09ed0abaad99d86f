/*
 * A directory of WAL as an archive: what it holds, and whether that is whole.
 *
 * Whatever filled it, our receiver, pg_receivewal or an archive_command: segments plain or
 * compressed, complete or partial, timeline history files (access/transam/timeline.c of PostgreSQL)
 * and backup history files (access/xlog_internal.h). Nothing is assumed about the segment size: the
 * segments say it.
 *
 * Listing and checking only read. An Inventory is a value that is made once, belongs to who made it, and may
 * then be read by any number of threads; it is what the directory held when it was read, which may
 * have changed since. Sizes are bytes, times seconds since 1970. That something is wrong with the
 * archive is a result; an Error says that it could not be looked at.
 */
#ifndef PGSTOW_ARCHIVE_H
#define PGSTOW_ARCHIVE_H

#include "common/arena.h"
#include "common/error.h"
#include "pgformat/timeline.h"
#include "segment/segment.h"

/* ---- inventory: what the directory holds ---- */

typedef struct ArchiveSegment {
    WalSegmentFile file; /* timeline, number, compression, partial: what its name says */
    uint64_t bytes;      /* on disk */
    int64_t modified;
    bool regular; /* false: something else that is named like a segment */
} ArchiveSegment;

typedef struct ArchiveHistory {
    TimeLineID timeline;
    CompressionMethod compression; /* pg_receivewal compresses them, too */
    uint64_t bytes;
    int64_t modified;
    bool sound;              /* could be read and is well-formed */
    TimelineHistory history; /* if it is */
    const char *reason;      /* if it is not */
} ArchiveHistory;

/* "SEGMENT.OFFSET.backup", also compressed: a backup began in this segment, at this offset. */
typedef struct ArchiveBackup {
    const char *name;
    TimeLineID timeline;
    uint64_t number;
    uint32_t offset;
    CompressionMethod compression;
    uint64_t bytes;
    int64_t modified;
} ArchiveBackup;

typedef enum ArchiveOtherKind {
    ARCHIVE_KNOWN_GAPS, /* ours: see archive_gaps_load */
    ARCHIVE_SET_ASIDE,  /* ours: NAME.damaged, which was in the way of a receiver */
    ARCHIVE_TEMPORARY,  /* NAME.tmp, NAME.tmp.gz: is being written, or was */
    ARCHIVE_STRAY       /* no file of an archive */
} ArchiveOtherKind;

typedef struct ArchiveOther {
    ArchiveOtherKind kind;
    const char *name;
    uint64_t bytes;
    int64_t modified;
} ArchiveOther;

/* One that has segments or a history file. */
typedef struct ArchiveTimeline {
    TimeLineID timeline;
    size_t first; /* of its segments */
    size_t count; /* 0: there is but its history */
    /* NULL: there is no sound one. */
    const ArchiveHistory *history;
    /* Where it forked off, as its own history or that of a descendant says. */
    TimeLineID parent; /* 0: it has none, or nobody knows */
    Lsn fork;          /* LSN_INVALID likewise */
} ArchiveTimeline;

typedef struct Inventory {
    const char *directory;
    /* 0: there are no segments. The usual 16 MiB when there are some but none tells. */
    uint32_t segment_size;
    uint64_t system_id; /* that most of the segments which were looked at name; 0: none does */

    /* By timeline, number, complete before partial, plain before compressed. */
    ArchiveSegment *segments;
    size_t segment_count;
    /* By timeline, plain before compressed. */
    ArchiveHistory *histories;
    size_t history_count;
    /* By timeline, number and offset. */
    ArchiveBackup *backups;
    size_t backup_count;
    /* By name. */
    ArchiveOther *others;
    size_t other_count;
    /* By number. */
    ArchiveTimeline *timelines;
    size_t timeline_count;

    Arena texts; /* that all the names are in */
} Inventory;

/*
 * Reads names and sizes, the history files, and the headers of a few segments. Free it in any case.
 * What vanishes meanwhile was never there.
 */
bool inventory_read(Inventory *archive, const char *directory, Error *err) MUST_USE;
void inventory_free(Inventory *archive);

/* NULL: the archive has nothing of it. */
const ArchiveTimeline *inventory_timeline(const Inventory *archive, TimeLineID timeline);

/* The forms in which a segment is there, one behind the other; *ret_count may be 0. */
const ArchiveSegment *inventory_segment(const Inventory *archive, TimeLineID timeline,
                                        uint64_t number, size_t *ret_count);

/* Strict, each with a suffix of compression or without; sizes and times are not touched. Pure. */
bool archive_history_parse(const char *name, TimeLineID *ret_timeline,
                           CompressionMethod *ret_compression);
bool archive_backup_parse(const char *name, uint32_t segment_size, ArchiveBackup *ret_backup);

/* A small file, decompressed, of `limit` bytes at most; appends to `buf`. ERR_FORMAT when it is
 * damaged or longer. */
bool archive_file_load(const char *path, CompressionMethod compression, uint64_t limit, Buf *buf,
                       Error *err) MUST_USE;

#define ARCHIVE_HISTORY_MAX ((uint64_t)16 << 20)

/* ---- known gaps ---- */

/* The file of the archive that tells of them. */
#define ARCHIVE_GAPS_NAME "pgstow_known_gaps"

/* ---- removing files ---- */

typedef struct ArchiveNames {
    char **names; /* owned, each too */
    size_t count;
    size_t capacity;
} ArchiveNames;

bool archive_names_add(ArchiveNames *names, const char *name, Error *err) MUST_USE;
void archive_names_free(ArchiveNames *names);

/*
 * Removes these files of a directory in their order, each after `before` (NULL: nobody) was told of
 * it, and then syncs the directory. The first that cannot be removed ends it; what was removed
 * before is gone.
 */
bool archive_remove(const char *directory, const ArchiveNames *names,
                    void (*before)(void *ctx, const char *name), void *ctx, Error *err) MUST_USE;

/* ---- cleanup: what pg_archivecleanup removes ---- */

typedef struct CleanupRequest {
    const char *directory;
    const char *extension;          /* which names may have behind them; NULL: none */
    bool backup_history;            /* whether backup history files go too */
    char first_kept[WAL_NAME_SIZE]; /* of which the timeline does not matter */
} CleanupRequest;

/*
 * The segment that `name` stands for: its own name, that of its partial file, or that of a backup
 * history file; each perhaps with the extension. False for everything else. Pure.
 */
bool cleanup_first_kept(const char *name, const char *extension, char ret_segment[WAL_NAME_SIZE]);

/* Whether it is older than the first that is kept. Pure. */
bool cleanup_takes(const CleanupRequest *request, const char *name);

/* All of the directory that it takes, the oldest first. `ret_names` is to be freed in any case. */
bool cleanup_list(const CleanupRequest *request, ArchiveNames *ret_names, Error *err) MUST_USE;

#endif
