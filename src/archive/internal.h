/*
 * What the files of src/archive share.
 */
#ifndef PGSTOW_ARCHIVE_INTERNAL_H
#define PGSTOW_ARCHIVE_INTERNAL_H

#include <stdatomic.h>
#include <stdint.h>

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

#endif
