/*
 * The parts of "pgstow wal check": what the command line asks for, and what is shown. Private to
 * its files.
 */
#ifndef PGSTOW_WAL_CHECK_CMD_H
#define PGSTOW_WAL_CHECK_CMD_H

#include "archive/archive.h"
#include "cmd/json_line.h"
#include "cmd/rate.h"
#include "cmd/terminal_line.h"

#define WAL_CHECK_JSON_VERSION 1

/* Statuses of the program. */
#define WAL_CHECK_WHOLE     0
#define WAL_CHECK_NOT_WHOLE 1
#define WAL_CHECK_NO_LOOK   2

typedef struct WalCheckRequest {
    const char *directory;
    ArchiveCheckConfig check; /* as far as the options say it */
    const char *since;        /* an LSN, or the directory of a backup */
    const char *gap;          /* to be accepted: "START-END"; NULL: none */
    const char *gap_timeline;
    const char *gap_reason;
    bool json;
    bool quiet;
    bool show_progress;
} WalCheckRequest;

/* ---- wal_check_display.c ---- */

/* Stays where it is. */
typedef struct WalCheckDisplay {
    const WalCheckRequest *request;
    ArchiveCheckSummary summary; /* for the check to write */
    int64_t begun_ms;
    Error output; /* what became of standard output */
    bool report_begun;
    JsonLine report;
    Buf text;
    TerminalLine line;
    Rate rate;
    bool progress_shown;
    int64_t shown_ms;
} WalCheckDisplay;

void wal_check_display_init(WalCheckDisplay *display, const WalCheckRequest *request);
void wal_check_display_free(WalCheckDisplay *display);

/* Those of an ArchiveCheckConfig; `ctx` is the display. */
bool wal_check_display_finding(void *ctx, const ArchiveFinding *finding);
void wal_check_display_progress(void *ctx, const ArchiveProgress *progress);

/* The check has ended, with `failure` or with NULL. Returns the program's status. */
int wal_check_display_end(WalCheckDisplay *display, const Error *failure);

#endif
