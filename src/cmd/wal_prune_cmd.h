/*
 * What the files of "pgstow wal prune" share: its command line, and what it reports.
 */
#ifndef PGSTOW_WAL_PRUNE_CMD_H
#define PGSTOW_WAL_PRUNE_CMD_H

#include "archive/archive.h"
#include "cmd/options.h"

/* ---- wal_prune_options.c ---- */

typedef struct PruneBackup {
    const char *directory;
    bool alone; /* kept for itself: nothing behind its end is needed for it */
} PruneBackup;

typedef struct PruneRequest {
    const char *directory;
    const char *keep_from; /* NULL: not given */
    PruneBackup *backups;  /* in the order of the command line */
    size_t backup_count;
    size_t backup_capacity;
    int keep_days; /* 0: not given */
    bool json;
    bool yes;
} PruneRequest;

extern const Option wal_prune_options[];

/* `request` is to be freed in any case. */
OptionResult prune_request_read(PruneRequest *request, const Command *command, int argc,
                                char **argv);
void prune_request_free(PruneRequest *request);

/* ---- wal_prune_report.c: pure ---- */

#define PRUNE_JSON_VERSION 1

typedef struct PruneReport {
    const char *version; /* of the program */
    const char *directory;
    const Inventory *archive;
    const PruneNeed *needs;
    size_t need_count;
    const PrunePlan *plan;
    bool removed;         /* what goes is gone */
    const Error *failure; /* NULL: none */
} PruneReport;

/* What stays and what goes, and why: a line for each stretch of segments and each other file. */
bool prune_report_plan(const PruneReport *report, Buf *text, Error *err) MUST_USE;

/* "3 files (48.0 MB) can be removed" and the like, without an end of line. */
bool prune_report_result(const PruneReport *report, Buf *text, Error *err) MUST_USE;

/* One document, described in docs/formats.md. */
bool prune_report_json(const PruneReport *report, Buf *text, Error *err) MUST_USE;

#endif
