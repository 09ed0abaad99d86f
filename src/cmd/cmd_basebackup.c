/*
 * pgstow basebackup: the options of pg_basebackup, in the order and words of its checks.
 */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "basebackup/basebackup.h"
#include "cmd/commands.h"
#include "cmd/connect.h"
#include "cmd/log.h"
#include "cmd/signals.h"
#include "common/bytes.h"
#include "common/file.h"

enum {
    OPT_NO_SLOT = OPTION_LONG_ONLY,
    OPT_NO_MANIFEST,
    OPT_MANIFEST_CHECKSUMS,
    OPT_MANIFEST_FORCE_ENCODE,
    OPT_NO_ESTIMATE_SIZE,
    OPT_NO_VERIFY_CHECKSUMS
};

static const Option options[] = {
    {0, NULL, NULL, "Options controlling the output:"},
    {'D', "pgdata", "DIRECTORY", "receive base backup into directory"},
    {'F', "format", "p", "output format (plain (default))"},
    {'r', "max-rate", "RATE",
     "maximum transfer rate to transfer data directory\n"
     "(in kB/s, or use suffix \"k\" or \"M\")"},
    {'T', "tablespace-mapping", "OLDDIR=NEWDIR", "relocate tablespace in OLDDIR to NEWDIR"},
    {'X', "wal-method", "none|fetch|stream", "include required WAL files with specified method"},
    {0, NULL, NULL, "General options:"},
    {'c', "checkpoint", "fast|spread", "set fast or spread (default) checkpointing"},
    {'C', "create-slot", NULL, "create replication slot"},
    {'l', "label", "LABEL", "set backup label"},
    {'n', "no-clean", NULL, "do not clean up after errors"},
    {'N', "no-sync", NULL, "do not wait for changes to be written safely to disk"},
    {'P', "progress", NULL, "show progress information"},
    {'S', "slot", "SLOTNAME", "replication slot to use"},
    {'v', "verbose", NULL, "output verbose messages"},
    COMMON_OPTIONS,
    {OPT_MANIFEST_CHECKSUMS, "manifest-checksums", "SHA{224,256,384,512}|CRC32C|NONE",
     "use algorithm for manifest checksums"},
    {OPT_MANIFEST_FORCE_ENCODE, "manifest-force-encode", NULL,
     "hex encode all file names in manifest"},
    {OPT_NO_ESTIMATE_SIZE, "no-estimate-size", NULL, "do not estimate backup size in server side"},
    {OPT_NO_MANIFEST, "no-manifest", NULL, "suppress generation of backup manifest"},
    {OPT_NO_SLOT, "no-slot", NULL, "prevent creation of temporary replication slot"},
    {OPT_NO_VERIFY_CHECKSUMS, "no-verify-checksums", NULL, "do not verify checksums"},
    CONNECTION_OPTIONS,
    {0, NULL, NULL, NULL},
};

typedef struct Request {
    BackupOptions backup;
    ConnConfig conn;
    bool show_progress;
    bool verbose;
    bool force_encode;
    bool no_manifest;
    bool failure_shown;
    char *directory;             /* canonical; owned */
    TablespaceMapping *mappings; /* owned, with their strings */
    size_t mapping_capacity;
} Request;

static bool
out_of_memory(void)
{
    log_error("out of memory");
    return false;
}

/* ---- values of options ---- */

/* "32M": a number with blanks around it and k or M behind it, in kB/s. */
static bool
parse_max_rate(const char *value, uint32_t *ret_rate)
{
    char *end;
    const char *unit;
    double rate;

    errno = 0;
    rate = strtod(value, &end);
    if (end == value) {
        log_error("transfer rate \"%s\" is not a valid value", value);
        return false;
    }
    if (errno != 0) {
        log_error("invalid transfer rate \"%s\": %s", value, strerror(errno));
        return false;
    }
    if (!(rate > 0)) {
        log_error("transfer rate must be greater than zero");
        return false;
    }
    end += strspn(end, " \t\n\r\f\v");
    unit = end;
    if (*end == 'k') {
        end++;
    } else if (*end == 'M') {
        rate *= 1024.0;
        end++;
    }
    end += strspn(end, " \t\n\r\f\v");
    if (*end != '\0') {
        log_error("invalid --max-rate unit: \"%s\"", unit);
        return false;
    }
    if (rate < 32 || rate > 1048576) {
        log_error("transfer rate \"%s\" is out of range", value);
        log_hint("It must be between 32 and 1048576 kB/s (1024M).");
        return false;
    }
    *ret_rate = (uint32_t)rate;
    return true;
}

/* Up to an unescaped '='; "\=" stands for '='. Moves *from behind it. NULL when there is none left.
 */
static char *
mapping_part(const char **from, bool *ret_equals)
{
    size_t len = 0;
    char *part = malloc(strlen(*from) + 1);

    if (part == NULL)
        return NULL;
    *ret_equals = false;
    while (**from != '\0') {
        if (**from == '=') {
            *ret_equals = true;
            (*from)++;
            break;
        }
        if ((*from)[0] == '\\' && (*from)[1] == '=')
            (*from)++;
        part[len++] = *(*from)++;
    }
    part[len] = '\0';
    return part;
}

static bool
check_mapping(const char *value, const char *old, const char *new, bool equals, bool more)
{
    if (more) {
        log_error("multiple \"=\" signs in tablespace mapping");
        return false;
    }
    if (!equals || old[0] == '\0' || new[0] == '\0') {
        log_error("invalid tablespace mapping format \"%s\", must be \"OLDDIR=NEWDIR\"", value);
        return false;
    }
    if (old[0] != '/') {
        log_error("old directory is not an absolute path in tablespace mapping: %s", old);
        return false;
    }
    if (new[0] != '/') {
        log_error("new directory is not an absolute path in tablespace mapping: %s", new);
        return false;
    }
    return true;
}

static bool
add_mapping(Request *request, const char *value)
{
    const char *at = value;
    bool equals = false;
    bool more = false;
    char *old = mapping_part(&at, &equals);
    char *new = mapping_part(&at, &more);
    Error err = ERROR_INIT;
    size_t count = request->backup.mapping_count;

    if (old == NULL || new == NULL ||
        !mem_grow((void **)&request->mappings, &request->mapping_capacity, count + 1,
                  sizeof(TablespaceMapping), &err)) {
        free(old);
        free(new);
        return out_of_memory();
    }
    if (!check_mapping(value, old, new, equals, more)) {
        free(old);
        free(new);
        return false;
    }
    path_canonicalize(old);
    path_canonicalize(new);
    request->mappings[count] = (TablespaceMapping){.from = old, .to = new};
    request->backup.mappings = request->mappings;
    request->backup.mapping_count = count + 1;
    return true;
}

static bool
parse_format(const char *value)
{
    if (strcmp(value, "p") == 0 || strcmp(value, "plain") == 0)
        return true;
    if (strcmp(value, "t") == 0 || strcmp(value, "tar") == 0)
        log_error("output format \"%s\" is not available in pgstow %s, must be \"plain\"", value,
                  PGSTOW_VERSION);
    else
        log_error("invalid output format \"%s\", must be \"plain\" or \"tar\"", value);
    return false;
}

static bool
parse_wal_method(const char *value, WalMethod *ret_method)
{
    if (strcmp(value, "n") == 0 || strcmp(value, "none") == 0) {
        *ret_method = WAL_NONE;
    } else if (strcmp(value, "f") == 0 || strcmp(value, "fetch") == 0) {
        *ret_method = WAL_FETCH;
    } else if (strcmp(value, "s") == 0 || strcmp(value, "stream") == 0) {
        *ret_method = WAL_STREAM;
    } else {
        log_error("invalid wal-method option \"%s\", must be \"fetch\", \"stream\", or \"none\"",
                  value);
        return false;
    }
    return true;
}

static bool
parse_checkpoint(const char *value, bool *ret_fast)
{
    if (strcasecmp(value, "fast") == 0) {
        *ret_fast = true;
    } else if (strcasecmp(value, "spread") == 0) {
        *ret_fast = false;
    } else {
        log_error("invalid checkpoint argument \"%s\", must be \"fast\" or \"spread\"", value);
        return false;
    }
    return true;
}

static bool
set_directory(Request *request, const char *value)
{
    free(request->directory);
    request->directory = strdup(value);
    if (request->directory == NULL)
        return out_of_memory();
    path_canonicalize(request->directory);
    request->backup.directory = request->directory;
    return true;
}

static bool
set_status_interval(Request *request, const char *value)
{
    int seconds;

    if (!option_parse_int(value, "-s/--status-interval", 0, INT_MAX / 1000, &seconds))
        return false;
    request->backup.status_interval_ms = (int64_t)seconds * 1000;
    return true;
}

/* Options without a value, and with one that is taken as it is. */
static bool
take_simple(Request *request, int id, const char *value)
{
    BackupOptions *backup = &request->backup;

    switch (id) {
    case 'C':
        backup->create_slot = true;
        return true;
    case 'l':
        backup->label = value;
        return true;
    case 'n':
        backup->no_clean = true;
        return true;
    case 'N':
        backup->sync = SYNC_NONE;
        return true;
    case 'P':
        request->show_progress = true;
        return true;
    case 'S':
        backup->slot = value;
        return true;
    case 'v':
        request->verbose = true;
        return true;
    case OPT_NO_SLOT:
        backup->no_slot = true;
        return true;
    case OPT_NO_MANIFEST:
        request->no_manifest = true;
        return true;
    case OPT_MANIFEST_CHECKSUMS:
        backup->manifest_checksums = value;
        return true;
    case OPT_MANIFEST_FORCE_ENCODE:
        request->force_encode = true;
        return true;
    case OPT_NO_ESTIMATE_SIZE:
        backup->estimate_size = false;
        return true;
    case OPT_NO_VERIFY_CHECKSUMS:
        backup->no_verify_checksums = true;
        return true;
    default:
        return connect_option(&request->conn, id, value);
    }
}

static bool
take_option(void *ctx, int id, const char *value)
{
    Request *request = ctx;

    switch (id) {
    case 'D':
        return set_directory(request, value);
    case 'F':
        return parse_format(value);
    case 'r':
        return parse_max_rate(value, &request->backup.max_rate_kb);
    case 'T':
        return add_mapping(request, value);
    case 'X':
        return parse_wal_method(value, &request->backup.wal_method);
    case 'c':
        return parse_checkpoint(value, &request->backup.fast_checkpoint);
    case 's':
        return set_status_interval(request, value);
    default:
        return take_simple(request, id, value);
    }
}

/* ---- what goes together ---- */

static bool
check_request(Request *request)
{
    BackupOptions *backup = &request->backup;

    if (backup->directory == NULL)
        return options_conflict("must specify output directory or backup target");
    if (strcmp(backup->directory, "-") == 0)
        return options_conflict("cannot write a plain backup to standard output");
    if (backup->slot != NULL && backup->wal_method != WAL_STREAM)
        return options_conflict("replication slots can only be used with WAL streaming");
    if (backup->no_slot && backup->slot != NULL)
        return options_conflict("--no-slot cannot be used with slot name");
    if (backup->create_slot && backup->slot == NULL)
        return options_conflict("--create-slot needs a slot to be specified using --slot");
    if (backup->create_slot && backup->no_slot)
        return options_conflict("--create-slot and --no-slot are incompatible options");
    if (request->show_progress && !backup->estimate_size)
        return options_conflict("--progress and --no-estimate-size are incompatible options");
    if (request->no_manifest && backup->manifest_checksums != NULL)
        return options_conflict("--no-manifest and --manifest-checksums are incompatible options");
    if (request->no_manifest && request->force_encode)
        return options_conflict(
            "--no-manifest and --manifest-force-encode are incompatible options");

    backup->manifest = request->no_manifest    ? MANIFEST_NO
                       : request->force_encode ? MANIFEST_FORCE_ENCODE
                                               : MANIFEST_YES;
    return true;
}

static OptionResult
read_options(Request *request, const Command *command, int argc, char **argv)
{
    int count;
    char **rest;
    OptionResult result = options_read(command, argc, argv, take_option, request, &count, &rest);

    if (result == OPTIONS_READ &&
        (!options_rest_allowed(count, rest, 0) || !check_request(request)))
        return OPTIONS_EXIT_BAD;
    return result;
}

static void
request_free(Request *request)
{
    for (size_t i = 0; i < request->backup.mapping_count; i++) {
        free((void *)(uintptr_t)request->mappings[i].from);
        free((void *)(uintptr_t)request->mappings[i].to);
    }
    free(request->mappings);
    free(request->directory);
}

/* ---- what is shown ---- */

#define FILENAME_WIDTH 35

static void
show_note(void *ctx, const char *message)
{
    if (((const Request *)ctx)->verbose)
        log_info("%s", message);
}

static void
show_info(void *ctx, const char *message)
{
    (void)ctx;
    log_info("%s", message);
}

static void
show_failure(void *ctx, const Error *err)
{
    ((Request *)ctx)->failure_shown = true;
    signals_show_failure(err);
}

static void
show_problem(void *ctx, const Problem *problem)
{
    (void)ctx;
    log_error("%s", problem->message);
}

static void
end_progress_line(bool last)
{
    (void)fputc(!last && isatty(STDERR_FILENO) == 1 ? '\r' : '\n', stderr);
}

static void
show_waiting(void *ctx)
{
    const Request *request = ctx;

    if (!request->show_progress || request->verbose)
        return;
    (void)fputs("waiting for checkpoint", stderr);
    end_progress_line(false);
}

/* "  12345/23456 kB (52%), 0/1 tablespace (...the directory)", as pg_basebackup. */
static void
show_progress(void *ctx, const BackupProgress *progress)
{
    const Request *request = ctx;
    const char *plural = progress->tablespace_count == 1 ? "" : "s";
    unsigned long long done = progress->done / 1024;
    unsigned long long total = progress->total / 1024;
    int percent = total == 0 ? 0 : (int)(done * 100 / total);
    char whole[32];

    if (!request->show_progress)
        return;
    if (progress->finished)
        percent = 100;
    (void)snprintf(whole, sizeof whole, "%llu", total);
    (void)fprintf(stderr, "%*llu/%s kB (%d%%), %zu/%zu tablespace%s", (int)strlen(whole), done,
                  whole, percent, progress->tablespace, progress->tablespace_count, plural);
    if (request->verbose && progress->current != NULL) {
        size_t len = strlen(progress->current);
        bool cut = len > FILENAME_WIDTH;

        (void)fprintf(stderr, " (%s%-*s)", cut ? "..." : "",
                      cut ? FILENAME_WIDTH - 3 : FILENAME_WIDTH,
                      cut ? progress->current + len - (FILENAME_WIDTH - 3) : progress->current);
    } else if (request->verbose) {
        (void)fprintf(stderr, " %*s", FILENAME_WIDTH + 2, "");
    }
    end_progress_line(progress->finished);
}

/* ---- the command ---- */

static bool
take_backup(void *ctx, Stop *stop, Error *err)
{
    Request *request = ctx;
    const BackupObserver observer = {
        .ctx = request,
        .note = show_note,
        .info = show_info,
        .failed = show_failure,
        .problem = show_problem,
        .waiting = show_waiting,
        .progress = show_progress,
    };

    request->conn.stop = stop;
    return basebackup_run(&request->conn, &request->backup, &observer, stop, err);
}

static int
run(const Command *command, int argc, char **argv)
{
    Request request = {
        .backup = {.wal_method = WAL_STREAM,
                   .label = "pg_basebackup base backup",
                   .estimate_size = true,
                   .sync = SYNC_FSYNC,
                   .status_interval_ms = 10000},
        .conn = {.progname = log_progname(), .ask_password = connect_ask_password},
    };
    Error err = ERROR_INIT;
    int status = 1;

    switch (read_options(&request, command, argc, argv)) {
    case OPTIONS_READ:
        if (signals_run(take_backup, &request, &err))
            status = 0;
        else if (!request.failure_shown)
            signals_show_failure(&err);
        break;
    case OPTIONS_EXIT_OK:
        status = 0;
        break;
    case OPTIONS_EXIT_BAD:
        break;
    }
    request_free(&request);
    if (status != 0)
        signals_reraise();
    return status;
}

const Command command_basebackup = {
    .name = "basebackup",
    .stock_name = "pg_basebackup",
    .summary = "takes a base backup of a running PostgreSQL server.",
    .brief = "take a base backup of a running server",
    .usage = "[OPTION]...",
    .options = options,
    .run = run,
};
