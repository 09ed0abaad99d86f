/*
 * A directory of WAL as an archive: what it holds, and whether that is whole.
 *
 * Whatever filled it, our receiver, pg_receivewal or an archive_command: segments plain or
 * compressed, complete or partial, timeline history files (access/transam/timeline.c of PostgreSQL)
 * and backup history files (access/xlog_internal.h). Nothing is assumed about the segment size: the
 * segments say it.
 *
 * Listing and checking only read. An Inventory is a value that is made once, belongs to who made
 * it, and may then be read by any number of threads; it is what the directory held when it was
 * read, which may have changed since. Sizes are bytes, times seconds since 1970. That something is
 * wrong with the archive is a result; an Error says that it could not be looked at.
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
    bool unreadable;         /* the system does not let us read it */
    TimelineHistory history; /* of a sound one */
    const char *reason;      /* why it is not sound */
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

/* ---- what WAL a base backup needs ---- */

typedef struct BackupWal {
    TimeLineID timeline; /* on which it began */
    Lsn start;           /* where its recovery begins */
    Lsn end;             /* behind which it is consistent; LSN_INVALID: it does not say */
    TimeLineID end_timeline;
    uint64_t system_id;             /* 0: it does not say */
    char first_file[WAL_NAME_SIZE]; /* the segment in which it begins; "": it does not say */
} BackupWal;

/* The content of a backup_label: everything but end and system_id. ERR_FORMAT. Pure. */
bool backup_label_parse(Span text, BackupWal *ret_wal, Error *err) MUST_USE;

/*
 * Of the backup in this directory: its backup_manifest if there is one, and its backup_label, which
 * in tar format is the first member of base.tar. ERR_FORMAT for a directory that has neither.
 */
bool backup_wal_read(const char *directory, BackupWal *ret_wal, Error *err) MUST_USE;

/* Whether it is one of the archive's cluster, as far as both say so: ERR_MISMATCH. */
bool backup_wal_check(const BackupWal *wal, const Inventory *archive, Error *err) MUST_USE;

/* Whether a segment from its start to its end is not there, in any form; the first such one. */
bool backup_wal_missing(const BackupWal *wal, const Inventory *archive, uint64_t *ret_number);

/* ---- prune: what no kept backup needs ---- */

/*
 * WAL that shall stay. Everything from `start` on stays, on every timeline: recovery may follow any
 * of them. Before that, a need without an end also protects timelines that are newer than its own
 * and that no such need descends from: backups that nobody has named may be on them.
 */
typedef struct PruneNeed {
    const char *what;    /* for people, borrowed: 'backup "/backup/monday"' */
    TimeLineID timeline; /* 0: does not matter */
    Lsn start;
    Lsn end; /* LSN_INVALID: none; else nothing that begins at or behind it is needed */
} PruneNeed;

typedef enum PruneReason {
    PRUNE_OLD,           /* goes: lies before all that is needed */
    PRUNE_DEAD_TIMELINE, /* goes: history of a timeline that nothing kept descends from */
    PRUNE_NEEDED,        /* stays: see `need` */
    PRUNE_OTHER_BRANCH,  /* stays: its timeline is newer than that of `need`, and no other's */
    PRUNE_HISTORY,       /* stays: recovery looks for it */
    PRUNE_OURS,          /* stays: the archive's own */
    PRUNE_TEMPORARY,     /* stays: somebody may be writing it */
    PRUNE_STRAY,         /* stays: no file of an archive */
    PRUNE_NOT_A_FILE     /* stays: has a name of WAL, but is no regular file */
} PruneReason;

typedef enum PruneKind { PRUNE_SEGMENT, PRUNE_BACKUP, PRUNE_TIMELINE, PRUNE_OTHER } PruneKind;

typedef struct PruneFile {
    const char *name;
    PruneKind kind;
    PruneReason reason;
    const PruneNeed *need; /* because of which it stays, or NULL */
    TimeLineID timeline;   /* 0 for PRUNE_OTHER */
    uint64_t number;       /* of the segment; 0 without one */
    uint64_t bytes;
} PruneFile;

/* Every file of the archive: segments, the oldest position first, then backup history files, then
 * timeline history files, then all others. In this order they go. */
typedef struct PrunePlan {
    PruneFile *files;
    size_t count;
    Arena names;
} PrunePlan;

bool prune_goes(const PruneFile *file);

/*
 * Decides about every file. Refuses (ERR_USAGE) without a need that has no end, and when no segment
 * would be needed. The plan refers to `archive` and `needs`; it is to be freed in any case. Pure.
 */
bool prune_plan_make(PrunePlan *plan, const Inventory *archive, const PruneNeed *needs,
                     size_t need_count, Error *err) MUST_USE;
void prune_plan_free(PrunePlan *plan);

/* Removes what goes, in its order: whenever that ends, nothing is missing within what stays. */
bool prune_execute(const PrunePlan *plan, const char *directory, Error *err) MUST_USE;

/*
 * What was written lately, at or after `since`: everything from the oldest position on of which a
 * segment was modified then. False when there is none. `what` is left to the caller.
 */
bool prune_recent(const Inventory *archive, int64_t since, PruneNeed *ret_need);

/* The newest of the backups whose backup history file is from before `since`; NULL: none is. */
const ArchiveBackup *prune_backup_before(const Inventory *archive, int64_t since);

/* ---- coverage: which segments there are ---- */

/* Segments of one timeline without a hole. */
typedef struct ArchiveRange {
    TimeLineID timeline;
    uint64_t first;
    uint64_t last;
    uint64_t partial; /* so many at the end are there only as partial files */
} ArchiveRange;

/* The next one of the timeline; *cursor is 0 at first. False: there are no more. */
bool archive_range_next(const Inventory *archive, const ArchiveTimeline *timeline, size_t *cursor,
                        ArchiveRange *ret_range);

/*
 * When the first and the last transaction of a timeline were committed (microseconds since
 * 2000-01-01 UTC), as its first and last segments tell, of which a few are read. Damage in them is
 * passed over.
 */
typedef struct ArchiveCommits {
    bool known;
    int64_t first;
    int64_t last;
} ArchiveCommits;

bool archive_commits_find(const Inventory *archive, const ArchiveTimeline *timeline,
                          ArchiveCommits *ret_commits, Error *err) MUST_USE;

/* ---- known gaps ---- */

/*
 * WAL that is missing or damaged, and that somebody knows of: a file of the archive, which only
 * archive_gap_add writes, tells of them. One line for each, "TIMELINE START END TIME REASON"; lines
 * that begin with '#' are comments.
 */
#define ARCHIVE_GAPS_NAME "pgstow_known_gaps"

typedef struct ArchiveGap {
    TimeLineID timeline; /* 0: any */
    Lsn start;
    Lsn end; /* exclusive */
    char time[sizeof "2026-11-22T00:00:00Z"];
    const char *reason;
} ArchiveGap;

typedef struct ArchiveGaps {
    ArchiveGap *gaps;
    size_t count;
    size_t capacity;
    Arena texts;
} ArchiveGaps;

/* ERR_FORMAT with the number of the line that is none. Free the gaps in any case. Pure. */
bool archive_gaps_parse(ArchiveGaps *gaps, Span text, Error *err) MUST_USE;

/* None when there is no such file. Free the gaps in any case. */
bool archive_gaps_load(ArchiveGaps *gaps, const char *directory, Error *err) MUST_USE;
void archive_gaps_free(ArchiveGaps *gaps);

/* Adds one, now, to the file, which is synced. ERR_USAGE when it cannot be one: it ends before it
 * begins, or has no reason of one line. */
bool archive_gap_add(const char *directory, const ArchiveGap *gap, Error *err) MUST_USE;

/* The gap that all of `start` to `end` is in; NULL: none. */
const ArchiveGap *archive_gaps_find(const ArchiveGaps *gaps, TimeLineID timeline, Lsn start,
                                    Lsn end);

/* ---- check: whether it is whole ---- */

typedef enum ArchiveFindingKind {
    ARCHIVE_MISSING,       /* segments or a history file that must have been there */
    ARCHIVE_LATE,          /* a segment that is still being written although newer ones are there */
    ARCHIVE_DAMAGED,       /* what is in it is not what was written */
    ARCHIVE_TRUNCATED,     /* it ends too early, or in zeros */
    ARCHIVE_FOREIGN,       /* of another cluster, or of another segment size */
    ARCHIVE_MISNAMED,      /* another segment than its name says */
    ARCHIVE_FORKED,        /* sound by itself, but not of the same history as what is beside it */
    ARCHIVE_BAD_HISTORY,   /* a history file that is not well-formed, or that WAL contradicts */
    ARCHIVE_NO_FILE,       /* named like one, but a directory, a pipe or the like */
    ARCHIVE_UNREADABLE,    /* the system does not let us read it */
    ARCHIVE_FINDING_STRAY, /* no file of an archive: a remark */
    ARCHIVE_FINDING_LEFT   /* left by somebody who wrote into the archive: a remark */
} ArchiveFindingKind;

/* "missing", "late", ... */
const char *archive_finding_name(ArchiveFindingKind kind);

typedef struct ArchiveFinding {
    ArchiveFindingKind kind;
    TimeLineID timeline;   /* 0: of none */
    Lsn lsn;               /* where, LSN_INVALID: no such place */
    Lsn end;               /* of what is missing; else LSN_INVALID */
    const char *file;      /* its name; of what is missing, the first one's, without a suffix */
    const ArchiveGap *gap; /* it is known, for that reason; NULL: it is not */
    const char *message;   /* names the file */
} ArchiveFinding;

/* Whether it makes an archive less than whole. */
bool archive_finding_counts(const ArchiveFinding *finding);

typedef struct ArchiveCheckSummary {
    uint64_t segments; /* files that were looked at */
    uint64_t bytes;    /* of WAL that was read */
    uint64_t problems; /* findings that count, all but the unreadable */
    uint64_t unreadable;
    uint64_t known;
    uint64_t remarks; /* and late ones */
} ArchiveCheckSummary;

typedef struct ArchiveProgress {
    uint64_t done; /* bytes of WAL */
    uint64_t total;
} ArchiveProgress;

typedef struct ArchiveCheckConfig {
    const Inventory *archive; /* borrowed, as all else */
    const ArchiveGaps *gaps;
    size_t jobs;               /* threads; 0: one for each processor */
    bool quick;                /* of each segment only its size and its first page */
    Lsn since;                 /* what is before it does not matter; LSN_INVALID: all does */
    TimeLineID since_timeline; /* where `since` is: only what comes of that matters; 0: any */
    uint64_t system_id;        /* 0: that of the archive */
    int64_t late_seconds;      /* a file that is being written is late for so long, then missing */
    /* In the calling thread; false ends the check, as a success. */
    bool (*finding)(void *ctx, const ArchiveFinding *finding);
    void (*progress)(void *ctx, const ArchiveProgress *progress); /* NULL: not */
    void *ctx;
    const Stop *stop; /* NULL: nobody stops it */
} ArchiveCheckConfig;

/* The findings come in the order of timelines and segments, the same with any number of threads,
 * but for those about two segments, which come last. */
bool archive_check(const ArchiveCheckConfig *config, ArchiveCheckSummary *ret_summary,
                   Error *err) MUST_USE;

/* ---- fetch: a file for recovery ---- */

typedef struct ArchiveFetch {
    const char *directory; /* the archive */
    const char *name;      /* of a segment, a history file, a backup history file */
    const char *path;      /* where it is wanted; in a pg_wal it must be of that cluster */
    const char *spool;     /* of archive_prefetch; NULL: there is none */
} ArchiveFetch;

typedef struct ArchiveFetched {
    bool found;            /* false: the archive truly does not have it */
    uint64_t system_id;    /* of the cluster that wants it; 0: not known */
    uint32_t segment_size; /* of a complete segment, which others may follow; 0: it is none */
    char remark[1024];     /* what whoever recovers should know; "": nothing */
} ArchiveFetched;

/*
 * `path` is made anew, under its name only when it is complete and was checked: page headers, every
 * record that begins in a segment, the cluster; the lines of a history file. It is not synced: the
 * server does that with what it keeps. Of a segment that is not complete, what is there is padded
 * with zeros, unless the archive has WAL of a newer timeline instead, or the server itself has as
 * much. ERR_FORMAT: damaged; ERR_MISMATCH: of another cluster; ERR_SYSTEM and others: cannot tell.
 */
bool archive_fetch(const ArchiveFetch *fetch, ArchiveFetched *ret_fetched, Error *err) MUST_USE;

typedef struct ArchivePrefetch {
    const char *directory;
    const char *name; /* of the segment before the first */
    const char *spool;
    uint64_t system_id;    /* as in ArchiveFetched */
    uint32_t segment_size; /* likewise */
    mode_t mode;
    size_t count;
    size_t threads;
} ArchivePrefetch;

/* Makes the spool, and becomes the one who fills it: *ret_lock is a descriptor to keep until it is
 * done. -1: somebody else is at it, or there is nothing that follows `name`. */
bool archive_spool_open(const ArchivePrefetch *prefetch, int *ret_lock, Error *err) MUST_USE;

/* Copies and checks the segments that follow, as far as they are there, and removes from the spool
 * what they are not. One that is damaged is left for archive_fetch to tell. */
bool archive_prefetch(const ArchivePrefetch *prefetch, int lock, Error *err) MUST_USE;

/* Nobody will want it any more; who fills it stops. Nothing happens when there is none. */
void archive_spool_remove(const char *spool);

/* ---- push: a file of a server's pg_wal into an archive ---- */

typedef struct ArchivePush {
    const char *path;        /* of the file; the last part of it is its name */
    const char *directory;   /* the archive */
    Compression compression; /* for segments; small files stay as they are */
} ArchivePush;

typedef enum ArchivePushed {
    ARCHIVE_PUSHED,
    ARCHIVE_HAD_IT,   /* the same content, in whatever compression; on disk now at the latest */
    ARCHIVE_WAS_NOTED /* archive_ahead has pushed it, and neither file has changed since */
} ArchivePushed;

/*
 * On disk under its name when it returns. ERR_FORMAT: it is not what its name says; ERR_MISMATCH:
 * the archive is of another cluster; EEXIST: it has other content of that name, and both stay.
 */
bool archive_push(const ArchivePush *push, ArchivePushed *ret_pushed, Error *err) MUST_USE;

/* ---- ahead: pushing what a server will ask for next ---- */

typedef struct ArchiveAhead {
    const ArchivePush *push; /* as the server asks for it: the file is in its pg_wal */
    const char *spool;       /* a directory, made if need be, for notes of what was pushed */
    size_t count;            /* so many files at most are ahead of the server */
    size_t threads;
} ArchiveAhead;

/* archive_push, which a note may spare. That something is wrong with the spool (*ret_trouble; else
 * it is left alone) only means that none is used. */
bool archive_push_noted(const ArchiveAhead *ahead, ArchivePushed *ret_pushed, Error *ret_trouble,
                        Error *err) MUST_USE;

/* Becomes the one who pushes ahead: *ret_lock is a descriptor to keep until it is done. -1:
 * somebody else is at it. */
bool archive_ahead_open(const ArchiveAhead *ahead, int *ret_lock, Error *err) MUST_USE;

/*
 * Pushes what the server says is ready, as archive_push does, and notes what is on disk in the
 * archive, until there is no more or `count` files are ahead. Ends with the first failure, which is
 * for archive_push_noted to tell when the server gets there.
 */
bool archive_ahead(const ArchiveAhead *ahead, Error *err) MUST_USE;

#endif
