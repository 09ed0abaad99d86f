/*
 * What the files of src/archive share.
 */
#ifndef PGSTOW_ARCHIVE_INTERNAL_H
#define PGSTOW_ARCHIVE_INTERNAL_H

#include <stdatomic.h>
#include <stdint.h>
#include <sys/stat.h>

#include "archive/archive.h"

/* ---- inventory_read.c: the directory's entries ---- */

typedef struct DirectoryEntry {
    const char *name;
    uint64_t bytes;
    int64_t modified;
    bool regular;
    bool directory;
} DirectoryEntry;

/* By name. */
typedef struct DirectoryEntries {
    DirectoryEntry *entries;
    size_t count;
    size_t capacity;
} DirectoryEntries;

/* Their names are in `texts`. Free the entries in any case. */
bool directory_entries_read(DirectoryEntries *entries, const char *directory, Arena *texts,
                            Error *err) MUST_USE;
void directory_entries_free(DirectoryEntries *entries);

/* ---- inventory_identity.c: what the segments say of all of them ---- */

typedef struct ArchiveIdentity {
    uint32_t segment_size; /* as in Inventory */
    uint64_t system_id;
} ArchiveIdentity;

bool archive_identity_find(const char *directory, const DirectoryEntries *entries,
                           ArchiveIdentity *ret_identity, Error *err) MUST_USE;

/* ---- inventory.c ---- */

/* Sets parent and fork, as the timeline's history says or else the first that has it. */
void inventory_find_parent(const Inventory *archive, ArchiveTimeline *timeline);

/* ---- archive_plan.c: what must be there, and which files are to be looked at ---- */

#define NO_LINE SIZE_MAX

/* A timeline of which the archive has something, or that one descends from which it has. */
typedef struct PlanLine {
    TimeLineID timeline;
    const ArchiveTimeline *held; /* NULL: the archive has nothing of it */
    size_t parent;               /* NO_LINE: it has none, or nobody knows */
    Lsn fork;                    /* from the parent */
    bool relevant;               /* for who asks only about what is since some LSN */

    bool has_segments;
    uint64_t first; /* of its segments */
    uint64_t last;
    uint64_t behind_complete; /* the number behind its last complete one; 0: none is */

    bool has_floor; /* the archive, on the way to this timeline, begins with `floor` */
    uint64_t floor;
    bool needed; /* from need_first to need_last there must not be a hole, */
    uint64_t need_first;
    uint64_t need_last;
    uint64_t need_complete; /* and below this number partial files do not count */
} PlanLine;

typedef struct PlanHole {
    size_t line;
    uint64_t first;
    uint64_t last;
    const ArchiveSegment *partial; /* what is there of it; one segment then */
    const char *temporary;         /* what it is being written as; one segment then */
    int64_t modified;              /* of that */
    const ArchiveGap *gap;
} PlanHole;

typedef struct PlanJob {
    size_t line;
    const ArchiveSegment *segment;
    const ArchiveSegment *twin; /* another form of it that was looked at before; NULL: none */
} PlanJob;

typedef struct ArchivePlan {
    const ArchiveCheckConfig *config;
    int64_t now;
    PlanLine *lines; /* by timeline */
    size_t line_count;
    size_t line_capacity;
    PlanHole *holes; /* by line and number; those of one line do not overlap */
    size_t hole_count;
    size_t hole_capacity;
    PlanJob *jobs; /* by line and number */
    size_t job_count;
    size_t job_capacity;
} ArchivePlan;

/* Free the plan in any case. */
bool archive_plan_make(ArchivePlan *plan, const ArchiveCheckConfig *config, Error *err) MUST_USE;
void archive_plan_free(ArchivePlan *plan);

/* The number of the segment in which the line forks off; 0 without a parent. */
uint64_t archive_plan_fork(const ArchivePlan *plan, const PlanLine *line);

/* The best complete form of a segment; NULL: there is none. */
const ArchiveSegment *archive_plan_complete(const ArchivePlan *plan, const PlanLine *line,
                                            uint64_t number);

/* ---- archive_segment.c: one file ---- */

/* What was found. */
typedef struct SegmentFinding {
    ArchiveFindingKind kind;
    Lsn lsn;
    const ArchiveSegment *other; /* that it does not fit; NULL: it is about one file */
    char reason[512];
} SegmentFinding;

typedef struct SegmentResult {
    SegmentFinding *findings;
    size_t count;
    size_t capacity;
    bool sound;     /* by itself */
    bool vanished;  /* since the directory was read */
    bool bad_fork;  /* its timeline does not begin where its history says */
    uint64_t bytes; /* that were read */
} SegmentResult;

typedef struct SegmentTask {
    const ArchivePlan *plan;
    const PlanJob *job;
    const atomic_bool *ending;
} SegmentTask;

/* Free the result in any case. */
bool archive_segment_check(const SegmentTask *task, SegmentResult *result, Error *err) MUST_USE;
void segment_result_free(SegmentResult *result);

/* ---- form: under which names a file lies in an archive ---- */

typedef enum WalNameKind {
    WAL_NAME_SEGMENT,
    WAL_NAME_PARTIAL,
    WAL_NAME_HISTORY,
    WAL_NAME_BACKUP
} WalNameKind;

/* What a server calls a file of its WAL. */
typedef struct WalName {
    const char *name;
    WalNameKind kind;
    TimeLineID timeline;    /* WAL_NAME_HISTORY */
    WalSegmentFile segment; /* SEGMENT and PARTIAL, as if segments had the smallest size */
} WalName;

/* Strict: exactly such a name, without a suffix of compression. Pure. */
bool wal_name_parse(const char *name, WalName *ret_name);

/* ERR_USAGE: it is none. */
bool wal_name_refuse(const char *name, Error *err);

typedef struct ArchiveForm {
    char *path;
    CompressionMethod compression;
    struct stat status;
} ArchiveForm;

#define ARCHIVE_FORMS_MAX 7

typedef struct ArchiveForms {
    ArchiveForm forms[ARCHIVE_FORMS_MAX];
    size_t count; /* 0: it is not there */
} ArchiveForms;

/* The forms in which a file is there, plain before compressed. Asks for each name that it may have:
 * how large the directory is does not matter. Free them in any case. */
bool archive_forms_find(ArchiveForms *forms, const char *directory, const WalName *name,
                        Error *err) MUST_USE;

/* Those of a segment that is not complete. */
bool archive_forms_find_partial(ArchiveForms *forms, const char *directory, const WalName *segment,
                                Error *err) MUST_USE;
void archive_forms_free(ArchiveForms *forms);

/* ---- claim: a file while it is written, under a name that says so ---- */

typedef struct ClaimedFile {
    int fd;      /* open for reading and writing */
    char *path;  /* owned */
    bool locked; /* false: the file system has no locks */
    bool ours;   /* and it is to be removed */
} ClaimedFile;

/* Makes it, or takes over what a process that was killed has left, and empties it. ERR_SYSTEM,
 * EWOULDBLOCK, when another one is writing it. Owns `path` (NULL: fails, `err` is set already). */
bool claimed_file_open(ClaimedFile *file, char *path, mode_t mode, Error *err) MUST_USE;

/* It gets its name, in the place of what had it. */
bool claimed_file_rename(ClaimedFile *file, const char *path, Error *err) MUST_USE;

/* It gets its name, unless something has it: then *ret_exists. */
bool claimed_file_rename_new(ClaimedFile *file, const char *path, bool *ret_exists,
                             Error *err) MUST_USE;

/* In any state; one that has no name is removed. */
void claimed_file_free(ClaimedFile *file);

/* ---- fetch_segment: a segment is copied and checked on the way ---- */

typedef struct SegmentCopy {
    const char *directory;
    const WalName *name;     /* of a segment */
    const ArchiveForm *form; /* complete */
    uint64_t system_id;      /* of the cluster that wants it; 0: any */
} SegmentCopy;

/* Into `to`. ERR_FORMAT: it is damaged, or no such segment; ERR_MISMATCH: of another cluster. */
bool segment_copy(const SegmentCopy *copy, ClaimedFile *to, Error *err) MUST_USE;

/* ---- fetch_partial: what is there of a segment that is not complete ---- */

typedef struct PartialSearch {
    const char *directory;
    const WalName *name; /* of the segment */
    const char *local;   /* the segment as the server has it itself, or not; NULL: nobody cares */
    uint64_t system_id;
    bool by_name; /* it is a partial one that was asked for: it is no matter what else there is */
} PartialSearch;

typedef struct PartialFound {
    bool found;
    ArchiveForm form; /* borrowed from `forms` */
    uint32_t segment_size;
    Lsn end;          /* of its records */
    char remark[512]; /* why one that is there is not to be taken; "" */
} PartialFound;

/* The one to hand over, of `forms`. */
bool partial_choose(const PartialSearch *search, const ArchiveForms *forms, PartialFound *ret_found,
                    Error *err) MUST_USE;

/* Padded with zeros. */
bool partial_copy(const PartialFound *found, ClaimedFile *to, Error *err) MUST_USE;

/* ---- spool: segments that were fetched before somebody asks for them ---- */

/* How a segment's copy is called in the spool: it tells which file it was made from, so that it is
 * of no use once that has changed. Of this boot: what is not synced is not to be trusted longer.
 * False: there is no name that could be trusted. */
#define SPOOL_NAME_SIZE 128
bool spool_name(char name[SPOOL_NAME_SIZE], const WalName *segment, const ArchiveForm *form,
                uint64_t system_id);

/* It becomes `path`; waits for it if it is just being made. */
bool spool_take(const char *spool, const char *name, const char *path, bool *ret_taken,
                Error *err) MUST_USE;

/* ---- push_note: what was pushed before the server asked for it ---- */

typedef struct PushSpool {
    const ArchiveAhead *ahead; /* borrowed */
    char *wal;                 /* owned, as is `archive`: absolute paths */
    char *archive;
    char cluster[sizeof "01234567-"]; /* what the names of its files begin with */
} PushSpool;

/* Free it in any case. */
bool push_spool_open(PushSpool *spool, const ArchiveAhead *ahead, Error *err) MUST_USE;
void push_spool_free(PushSpool *spool);

/* Of a file in it, owned by the caller. */
char *push_spool_path(const PushSpool *spool, const char *name, Error *err) MUST_USE;

/* Whoever has it open is the only one. */
typedef struct PushNote {
    int fd;
    char *path;   /* owned */
    WalName name; /* of the file that it is about */
} PushNote;

/* Makes an empty one if need be. ERR_SYSTEM, EWOULDBLOCK, when another one has it and we do not
 * wait. Free it in any case. */
bool push_note_open(PushNote *note, const PushSpool *spool, const WalName *name, bool wait,
                    Error *err) MUST_USE;
void push_note_free(PushNote *note);
void push_note_remove(const PushNote *note);

/* Whether the server's file is there now, and in the archive, exactly as it says. */
bool push_note_holds(const PushSpool *spool, const PushNote *note);

/* Whether it is about the server's file as that is now, as far as its status tells. */
bool push_note_is_fresh(const PushSpool *spool, const PushNote *note, bool *ret_fresh,
                        Error *err) MUST_USE;

/* Pushes the file, and then notes that. */
bool push_note_push(const PushSpool *spool, const PushNote *note, Error *err) MUST_USE;

#endif
