/*
 * The command line of pg_basebackup: its options, and what goes together, in the order and words of
 * its checks.
 */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "cmd/basebackup_cmd.h"
#include "cmd/connect.h"
#include "cmd/log.h"
#include "common/bytes.h"
#include "common/file.h"

enum {
    OPT_WALDIR = OPTION_LONG_ONLY,
    OPT_PROGRESS_STYLE, /* a second line of --help for --progress */
    OPT_NO_SLOT,
    OPT_NO_MANIFEST,
    OPT_MANIFEST_CHECKSUMS,
    OPT_MANIFEST_FORCE_ENCODE,
    OPT_NO_ESTIMATE_SIZE,
    OPT_NO_VERIFY_CHECKSUMS,
    OPT_PAGE_DIGESTS,
    OPT_SYNC_METHOD
};

const Option basebackup_options[] = {
    {0, NULL, NULL, "Options controlling the output:"},
    {'D', "pgdata", "DIRECTORY", "receive base backup into directory"},
    {'F', "format", "p|t", "output format (plain (default), tar)"},
    {'i', "incremental", "OLDMANIFEST", "take incremental backup"},
    {'r', "max-rate", "RATE",
     "maximum transfer rate to transfer data directory\n"
     "(in kB/s, or use suffix \"k\" or \"M\")"},
    {'R', "write-recovery-conf", NULL, "write configuration for replication"},
    {'t', "target", "TARGET[:DETAIL]", "backup target (if other than client)"},
    {'T', "tablespace-mapping", "OLDDIR=NEWDIR", "relocate tablespace in OLDDIR to NEWDIR"},
    {OPT_WALDIR, "waldir", "WALDIR", "location for the write-ahead log directory"},
    {'X', "wal-method", "none|fetch|stream", "include required WAL files with specified method"},
    {'z', "gzip", NULL, "compress tar output"},
    {'Z', "compress", "[{client|server}-]METHOD[:DETAIL]",
     "compress on client or server as specified"},
    {'Z', "compress", "none", "do not compress tar output"},
    {0, NULL, NULL, "General options:"},
    {'c', "checkpoint", "fast|spread", "set fast or spread (default) checkpointing"},
    {'C', "create-slot", NULL, "create replication slot"},
    {'l', "label", "LABEL", "set backup label"},
    {'n', "no-clean", NULL, "do not clean up after errors"},
    {'N', "no-sync", NULL, "do not wait for changes to be written safely to disk"},
    {'P', "progress", NULL, "show progress information"},
    {OPT_PROGRESS_STYLE, "progress", "json", "show progress information as lines of JSON"},
    {'S', "slot", "SLOTNAME", "replication slot to use"},
    {'v', "verbose", NULL, "output verbose messages"},
    VERSION_OPTION,
    {OPT_MANIFEST_CHECKSUMS, "manifest-checksums", "SHA{224,256,384,512}|CRC32C|NONE",
     "use algorithm for manifest checksums"},
    {OPT_MANIFEST_FORCE_ENCODE, "manifest-force-encode", NULL,
     "hex encode all file names in manifest"},
    {OPT_NO_ESTIMATE_SIZE, "no-estimate-size", NULL, "do not estimate backup size in server side"},
    {OPT_NO_MANIFEST, "no-manifest", NULL, "suppress generation of backup manifest"},
    {OPT_NO_SLOT, "no-slot", NULL, "prevent creation of temporary replication slot"},
    {OPT_NO_VERIFY_CHECKSUMS, "no-verify-checksums", NULL, "do not verify checksums"},
    {OPT_PAGE_DIGESTS, "page-digests", NULL,
     "write the checksum of every data page to backup_pages"},
    {OPT_SYNC_METHOD, "sync-method", "METHOD", "set method for syncing files to disk"},
    HELP_OPTION,
    CONNECTION_PLACE_OPTIONS,
    {'s', "status-interval", "INTERVAL", "time between status packets sent to server (in seconds)"},
    CONNECTION_ROLE_OPTIONS,
    {0, NULL, NULL, NULL},
};

static bool
out_of_memory(void)
{
    log_error("out of memory");
    return false;
}

/* A copy of `value` in place of the one that the same option has left before. */
static bool
keep(char **kept, const char *value)
{
    free(*kept);
    *kept = strdup(value);
    return *kept != NULL || out_of_memory();
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
add_mapping(BackupRequest *request, const char *value)
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
parse_format(BackupRequest *request, const char *value)
{
    request->format_given = true;
    if (strcmp(value, "p") == 0 || strcmp(value, "plain") == 0) {
        request->backup.format = FORMAT_PLAIN;
    } else if (strcmp(value, "t") == 0 || strcmp(value, "tar") == 0) {
        request->backup.format = FORMAT_TAR;
    } else {
        log_error("invalid output format \"%s\", must be \"plain\" or \"tar\"", value);
        return false;
    }
    return true;
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
parse_sync_method(const char *value, SyncMethod *ret_method)
{
    if (strcmp(value, "fsync") == 0) {
        *ret_method = SYNC_FSYNC;
    } else if (strcmp(value, "syncfs") == 0) {
        *ret_method = SYNC_SYNCFS;
    } else {
        log_error("unrecognized sync method: %s", value);
        return false;
    }
    return true;
}

static bool
parse_progress(const char *value, ProgressStyle *ret_style)
{
    if (value == NULL || strcmp(value, "text") == 0) {
        *ret_style = PROGRESS_TEXT;
    } else if (strcmp(value, "json") == 0) {
        *ret_style = PROGRESS_JSON;
    } else {
        log_error("invalid progress format \"%s\", must be \"text\" or \"json\"", value);
        return false;
    }
    return true;
}

static bool
parse_status_interval(const char *value, int64_t *ret_ms)
{
    int seconds;

    if (!option_parse_int(value, "-s/--status-interval", 0, INT_MAX / 1000, &seconds))
        return false;
    *ret_ms = (int64_t)seconds * 1000;
    return true;
}

static bool
set_directory(BackupRequest *request, const char *value)
{
    if (!keep(&request->directory, value))
        return false;
    path_canonicalize(request->directory);
    /* A directory of that name is not what "-" by itself stands for. */
    if (strcmp(request->directory, "-") == 0 && !keep(&request->directory, value))
        return false;
    request->backup.directory = request->directory;
    return true;
}

/* "client" is what there is without the option. */
static bool
set_target(BackupRequest *request, const char *value)
{
    char *colon;

    if (!keep(&request->target, value))
        return false;
    request->backup.target = strcmp(value, "client") == 0 ? NULL : request->target;
    request->backup.target_detail = NULL;
    colon = strchr(request->target, ':');
    if (colon != NULL) {
        *colon = '\0';
        request->backup.target_detail = colon + 1;
    }
    return true;
}

/* Takes `prefix` off the front of *value. */
static bool
skip_prefix(const char **value, const char *prefix)
{
    size_t len = strlen(prefix);

    if (strncmp(*value, prefix, len) != 0)
        return false;
    *value += len;
    return true;
}

/* "[client-|server-]METHOD[:DETAIL]". Whether it makes sense is looked at when it is known where it
 * is done. */
static bool
set_compression(BackupRequest *request, const char *value)
{
    request->compression_place = skip_prefix(&value, "server-")   ? COMPRESS_SERVER
                                 : skip_prefix(&value, "client-") ? COMPRESS_CLIENT
                                                                  : COMPRESS_UNSPECIFIED;
    return compress_option_set(&request->compression, value);
}

/* ---- taking an option ---- */

/* Options without a value: what they set; NULL for others. */
static bool *
flag_of(BackupRequest *request, int id)
{
    switch (id) {
    case 'C':
        return &request->backup.create_slot;
    case 'n':
        return &request->backup.no_clean;
    case 'N':
        return &request->no_sync;
    case 'R':
        return &request->backup.write_recovery;
    case 'v':
        return &request->verbose;
    case OPT_NO_SLOT:
        return &request->backup.no_slot;
    case OPT_NO_MANIFEST:
        return &request->no_manifest;
    case OPT_MANIFEST_FORCE_ENCODE:
        return &request->force_encode;
    case OPT_NO_ESTIMATE_SIZE:
        return &request->no_estimate_size;
    case OPT_NO_VERIFY_CHECKSUMS:
        return &request->backup.no_verify_checksums;
    case OPT_PAGE_DIGESTS:
        return &request->backup.page_digests;
    default:
        return NULL;
    }
}

/* Options whose value is taken as it is: where it goes; NULL for others. */
static const char **
text_of(BackupRequest *request, int id)
{
    switch (id) {
    case 'i':
        return &request->backup.incremental;
    case 'l':
        return &request->backup.label;
    case 'S':
        return &request->backup.slot;
    case OPT_MANIFEST_CHECKSUMS:
        return &request->backup.manifest_checksums;
    default:
        return NULL;
    }
}

static bool
take_simple(BackupRequest *request, int id, const char *value)
{
    bool *flag = flag_of(request, id);
    const char **text = text_of(request, id);

    if (flag != NULL)
        *flag = true;
    else if (text != NULL)
        *text = value;
    else
        return connect_option(&request->conn, id, value);
    return true;
}

static bool
take_option(void *ctx, int id, const char *value)
{
    BackupRequest *request = ctx;
    BackupOptions *backup = &request->backup;

    switch (id) {
    case 'c':
        return parse_checkpoint(value, &backup->fast_checkpoint);
    case 'D':
        return set_directory(request, value);
    case 'F':
        return parse_format(request, value);
    case 'P':
        return parse_progress(value, &request->progress);
    case 'r':
        return parse_max_rate(value, &backup->max_rate_kb);
    case 's':
        return parse_status_interval(value, &backup->status_interval_ms);
    case 't':
        return set_target(request, value);
    case 'T':
        return add_mapping(request, value);
    case 'X':
        return parse_wal_method(value, &backup->wal_method);
    case 'z':
        return set_compression(request, "gzip");
    case 'Z':
        return set_compression(request, value);
    case OPT_WALDIR:
        return keep(&request->wal_directory, value);
    case OPT_SYNC_METHOD:
        return parse_sync_method(value, &backup->sync);
    default:
        return take_simple(request, id, value);
    }
}

/* ---- what goes together ---- */

static bool
writes_to_stdout(const BackupOptions *backup)
{
    return backup->directory != NULL && strcmp(backup->directory, "-") == 0;
}

static bool
check_destination(const BackupRequest *request)
{
    const BackupOptions *backup = &request->backup;

    if (backup->target != NULL && request->format_given)
        return options_conflict("cannot specify both format and backup target");
    if (backup->directory == NULL && backup->target == NULL)
        return options_conflict("must specify output directory or backup target");
    if (backup->directory != NULL && backup->target != NULL)
        return options_conflict("cannot specify both output directory and backup target");
    return true;
}

/* A backup is compressed where it ends, unless the command line says otherwise. */
static bool
compresses_here(const BackupRequest *request)
{
    if (request->compression_place != COMPRESS_UNSPECIFIED)
        return request->compression_place == COMPRESS_CLIENT;
    return request->backup.target == NULL;
}

static bool
settle_client_compression(BackupRequest *request)
{
    BackupOptions *backup = &request->backup;

    if (!compress_option_parse(&request->compression, &backup->compression))
        return false;
    if (backup->target != NULL)
        return options_conflict(
            "client-side compression is not possible when a backup target is specified");
    if (backup->format == FORMAT_PLAIN && backup->compression.method != COMPRESSION_NONE)
        return options_conflict("only tar mode backups can be compressed");
    return true;
}

/* What the server is to do is for the server to judge. */
static void
settle_server_compression(BackupRequest *request)
{
    const CompressOption *option = &request->compression;

    if (option->method == NULL || (strcmp(option->method, "none") == 0 && option->detail == NULL))
        return;
    request->backup.server_compression = option->method;
    request->backup.server_compression_detail = option->detail;
}

static bool
settle_compression(BackupRequest *request)
{
    if (compresses_here(request))
        return settle_client_compression(request);
    settle_server_compression(request);
    return true;
}

static bool
check_wal_and_slot(const BackupOptions *backup)
{
    if (backup->target != NULL && backup->wal_method == WAL_STREAM)
        return options_conflict("WAL cannot be streamed when a backup target is specified");
    if (writes_to_stdout(backup) && backup->format == FORMAT_PLAIN)
        return options_conflict("cannot write a plain backup to standard output");
    if (writes_to_stdout(backup) && backup->wal_method == WAL_STREAM)
        return options_conflict("cannot stream write-ahead logs in tar mode to stdout");
    if (backup->slot != NULL && backup->wal_method != WAL_STREAM)
        return options_conflict("replication slots can only be used with WAL streaming");
    if (backup->no_slot && backup->slot != NULL)
        return options_conflict("--no-slot cannot be used with slot name");
    if (backup->create_slot && backup->slot == NULL)
        return options_conflict("--create-slot needs a slot to be specified using --slot");
    if (backup->create_slot && backup->no_slot)
        return options_conflict("--create-slot and --no-slot are incompatible options");
    return true;
}

static bool
settle_wal_directory(BackupRequest *request)
{
    if (request->wal_directory == NULL)
        return true;
    if (request->backup.target != NULL)
        return options_conflict(
            "WAL directory location cannot be specified along with a backup target");
    if (request->backup.format != FORMAT_PLAIN)
        return options_conflict("WAL directory location can only be specified in plain mode");
    path_canonicalize(request->wal_directory);
    if (request->wal_directory[0] != '/')
        return options_conflict("WAL directory location must be an absolute path");
    request->backup.wal_directory = request->wal_directory;
    return true;
}

static bool
check_progress_and_manifest(const BackupRequest *request)
{
    if (request->progress != PROGRESS_NONE && request->no_estimate_size)
        return options_conflict("--progress and --no-estimate-size are incompatible options");
    if (request->no_manifest && request->backup.manifest_checksums != NULL)
        return options_conflict("--no-manifest and --manifest-checksums are incompatible options");
    if (request->no_manifest && request->force_encode)
        return options_conflict(
            "--no-manifest and --manifest-force-encode are incompatible options");
    return true;
}

/* They are a file beside the manifest. */
static bool
check_page_digests(const BackupRequest *request)
{
    if (!request->backup.page_digests)
        return true;
    if (request->backup.target != NULL)
        return options_conflict("--page-digests cannot be used with a backup target");
    if (writes_to_stdout(&request->backup))
        return options_conflict("--page-digests cannot be used when writing to standard output");
    if (request->no_manifest)
        return options_conflict("--no-manifest and --page-digests are incompatible options");
    return true;
}

/* The stock tool says this after it has connected. */
static bool
check_recovery(const BackupOptions *backup)
{
    if (backup->write_recovery && backup->target != NULL) {
        log_error("recovery configuration cannot be written when a backup target is used");
        return false;
    }
    return true;
}

static bool
settle_request(BackupRequest *request)
{
    BackupOptions *backup = &request->backup;

    if (!check_destination(request) || !settle_compression(request) ||
        !check_wal_and_slot(backup) || !settle_wal_directory(request) ||
        !check_progress_and_manifest(request) || !check_page_digests(request) ||
        !check_recovery(backup))
        return false;
    if (request->no_sync)
        backup->sync = SYNC_NONE;
    backup->estimate_size = !request->no_estimate_size;
    backup->manifest = request->no_manifest    ? MANIFEST_NO
                       : request->force_encode ? MANIFEST_FORCE_ENCODE
                                               : MANIFEST_YES;
    return true;
}

OptionResult
backup_request_read(BackupRequest *request, const Command *command, int argc, char **argv)
{
    int count;
    char **rest;
    OptionResult result;

    *request = (BackupRequest){
        .backup = {.wal_method = WAL_STREAM,
                   .label = "pg_basebackup base backup",
                   .sync = SYNC_BEST,
                   .status_interval_ms = 10000},
        .conn = {.progname = log_progname(), .ask_password = connect_ask_password},
    };
    result = options_read(command, argc, argv, take_option, request, &count, &rest);
    if (result == OPTIONS_READ &&
        (!options_rest_allowed(count, rest, 0) || !settle_request(request)))
        return OPTIONS_EXIT_BAD;
    return result;
}

void
backup_request_free(BackupRequest *request)
{
    for (size_t i = 0; i < request->backup.mapping_count; i++) {
        free((void *)(uintptr_t)request->mappings[i].from);
        free((void *)(uintptr_t)request->mappings[i].to);
    }
    free(request->mappings);
    free(request->directory);
    free(request->wal_directory);
    free(request->target);
    compress_option_free(&request->compression);
}
