/*
 * The parts of "pgstow basebackup": its command line, and what it shows. Private to its files.
 */
#ifndef PGSTOW_BASEBACKUP_CMD_H
#define PGSTOW_BASEBACKUP_CMD_H

#include "basebackup/basebackup.h"
#include "cmd/compress_option.h"
#include "cmd/options.h"
#include "cmd/progress_text.h"
#include "cmd/terminal_line.h"

typedef enum ProgressStyle { PROGRESS_NONE, PROGRESS_TEXT, PROGRESS_JSON } ProgressStyle;

/* ---- basebackup_options.c: the command line ---- */

extern const Option basebackup_options[];

/* Where the bytes are compressed, as far as -Z says. */
typedef enum CompressionPlace {
    COMPRESS_UNSPECIFIED, /* on our side, but on the server's when the backup stays there */
    COMPRESS_CLIENT,
    COMPRESS_SERVER
} CompressionPlace;

/* What the command line asks for. */
typedef struct BackupRequest {
    BackupOptions backup; /* complete once backup_request_read says OPTIONS_READ */
    ConnConfig conn;
    ProgressStyle progress;
    bool verbose;

    /* Options that the checks need as they were given. */
    bool format_given;
    bool no_sync;
    bool no_estimate_size;
    bool no_manifest;
    bool force_encode;
    CompressionPlace compression_place;

    /* Owned. */
    char *directory;
    char *wal_directory;
    char *target;
    CompressOption compression;
    TablespaceMapping *mappings; /* with their strings */
    size_t mapping_capacity;
} BackupRequest;

/* Read and check the command line; what is wrong has been printed. Free the request in any case. */
OptionResult backup_request_read(BackupRequest *request, const Command *command, int argc,
                                 char **argv);
void backup_request_free(BackupRequest *request);

/* ---- basebackup_progress.c: what is shown ---- */

typedef struct BackupDisplay {
    ProgressStyle style;
    bool verbose;
    TerminalLine line;
    Rate rate;
    bool failure_shown;
} BackupDisplay;

void display_init(BackupDisplay *display, const BackupRequest *request);

/* The callbacks that show a backup on `display`, which outlives them. */
BackupObserver display_observer(BackupDisplay *display);

/* A failure, once. */
void display_failure(BackupDisplay *display, const Error *err);

#endif
