/*
 * pgstow verifybackup: the options of pg_verifybackup.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cmd/commands.h"
#include "cmd/log.h"
#include "cmd/signals.h"
#include "common/bytes.h"
#include "common/file.h"
#include "common/runtime.h"
#include "verify/verify.h"

static const Option options[] = {
    {0, NULL, NULL, "Options:"},
    {'e', "exit-on-error", NULL, "exit immediately on error"},
    {'F', "format", "p|t", "backup format (plain, tar)"},
    {'i', "ignore", "RELATIVE_PATH", "ignore indicated path"},
    {'m', "manifest-path", "PATH", "use specified path for manifest"},
    {'n', "no-parse-wal", NULL, "do not try to parse WAL files"},
    {'P', "progress", NULL, "show progress information"},
    {'q', "quiet", NULL, "do not print any output, except for errors"},
    {'s', "skip-checksums", NULL, "skip checksum verification"},
    {'w', "wal-directory", "PATH", "use specified path for WAL files"},
    COMMON_OPTIONS,
    {0, NULL, NULL, NULL},
};

typedef enum BackupFormat { FORMAT_AS_FOUND, FORMAT_PLAIN, FORMAT_TAR } BackupFormat;

typedef struct Request {
    VerifyConfig verify;
    BackupFormat format;
    char *directory; /* owned, canonical */
    char **ignore;   /* owned, canonical */
    size_t ignore_capacity;
    bool exit_on_error;
    bool quiet;
    bool show_progress;
    uint64_t problems; /* how many were found */
    /* What the last progress line said. */
    bool progress_shown;
    bool line_open; /* the cursor is still on it */
    uint64_t shown_done;
    int64_t shown_ms;
} Request;

static bool
out_of_memory(void)
{
    log_error("out of memory");
    return false;
}

static bool
add_ignore(Request *request, const char *value)
{
    Error err = ERROR_INIT;
    char *path = strdup(value);
    size_t count = request->verify.ignore_count;

    if (path == NULL || !mem_grow((void **)&request->ignore, &request->ignore_capacity, count + 1,
                                  sizeof(char *), &err)) {
        free(path);
        return out_of_memory();
    }
    path_canonicalize(path);
    request->ignore[count] = path;
    request->verify.ignore = (const char *const *)request->ignore;
    request->verify.ignore_count = count + 1;
    return true;
}

static bool
parse_format(Request *request, const char *value)
{
    if (strcmp(value, "p") == 0 || strcmp(value, "plain") == 0) {
        request->format = FORMAT_PLAIN;
        return true;
    }
    if (strcmp(value, "t") == 0 || strcmp(value, "tar") == 0) {
        request->format = FORMAT_TAR;
        return true;
    }
    log_error("invalid backup format \"%s\", must be \"plain\" or \"tar\"", value);
    return false;
}

static bool
take_option(void *ctx, int id, const char *value)
{
    Request *request = ctx;

    switch (id) {
    case 'e':
        request->exit_on_error = true;
        break;
    case 'F':
        return parse_format(request, value);
    case 'i':
        return add_ignore(request, value);
    case 'm':
        request->verify.manifest_path = value;
        break;
    case 'n':
        request->verify.skip_wal = true;
        break;
    case 'P':
        request->show_progress = true;
        break;
    case 'q':
        request->quiet = true;
        break;
    case 's':
        request->verify.skip_checksums = true;
        break;
    case 'w':
        request->verify.wal_directory = value;
        break;
    default:
        break;
    }
    return true;
}

/* Exactly one directory behind the options. */
static bool
take_directory(Request *request, int count, char **rest)
{
    if (count == 0)
        return options_conflict("no backup directory specified");
    if (!options_rest_allowed(count, rest, 1))
        return false;
    request->directory = strdup(rest[0]);
    if (request->directory == NULL)
        return out_of_memory();
    path_canonicalize(request->directory);
    request->verify.directory = request->directory;
    if (request->show_progress && request->quiet) {
        log_error("cannot specify both -P/--progress and -q/--quiet");
        return false;
    }
    return true;
}

static OptionResult
read_options(Request *request, const Command *command, int argc, char **argv)
{
    int count;
    char **rest;
    OptionResult result = options_read(command, argc, argv, take_option, request, &count, &rest);

    if (result == OPTIONS_READ && !take_directory(request, count, rest))
        return OPTIONS_EXIT_BAD;
    return result;
}

static void
request_free(Request *request)
{
    for (size_t i = 0; i < request->verify.ignore_count; i++)
        free(request->ignore[i]);
    free(request->ignore);
    free(request->directory);
}

/* ---- what is shown ---- */

#define PROGRESS_INTERVAL_MS 1000

/* Before something else is said on the terminal. */
static void
end_progress_line(Request *request)
{
    if (request->line_open)
        (void)fputc('\n', stderr);
    request->line_open = false;
}

static bool
show_problem(void *ctx, const Problem *problem)
{
    Request *request = ctx;

    end_progress_line(request);
    log_error("%s", problem->message);
    return !request->exit_on_error;
}

static bool
progress_due(const Request *request, const VerifyProgress *progress)
{
    if (!request->progress_shown)
        return true;
    if (progress->done == request->shown_done)
        return false;
    return progress->done == progress->total ||
           clock_ms() - request->shown_ms >= PROGRESS_INTERVAL_MS;
}

static void
show_progress(void *ctx, const VerifyProgress *progress)
{
    Request *request = ctx;
    unsigned long long done = progress->done / 1024;
    unsigned long long total = progress->total / 1024;
    int percent = total == 0 ? 100 : (int)(done * 100 / total);
    bool last = progress->done == progress->total;
    char whole[32];

    if (!progress_due(request, progress))
        return;
    request->progress_shown = true;
    request->shown_done = progress->done;
    request->shown_ms = clock_ms();
    request->line_open = !last && isatty(STDERR_FILENO) == 1;
    (void)snprintf(whole, sizeof whole, "%llu", total);
    (void)fprintf(stderr, "%*llu/%s kB (%d%%) verified%c", (int)strlen(whole), done, whole, percent,
                  request->line_open ? '\r' : '\n');
}

/* ---- the command ---- */

static bool
is_there(const char *directory, const char *name, bool *ret_there, Error *err)
{
    char *path = path_join(directory, name, err);

    if (path == NULL)
        return false;
    *ret_there = access(path, F_OK) == 0;
    free(path);
    return true;
}

/*
 * As pg_verifybackup tells them apart, but a plain backup is not taken for archives, and all its
 * files for missing, because of one file that was lost: in tar format there are no directories.
 */
static bool
find_format(Request *request, Error *err)
{
    static const char *const of_plain[] = {"PG_VERSION", "base"};
    bool there;

    if (request->format != FORMAT_AS_FOUND)
        return true;
    request->format = FORMAT_TAR;
    for (size_t i = 0; i < sizeof of_plain / sizeof of_plain[0]; i++) {
        if (!is_there(request->directory, of_plain[i], &there, err))
            return false;
        if (there)
            request->format = FORMAT_PLAIN;
    }
    return true;
}

static bool
verify_format(Request *request, Error *err)
{
    if (request->format == FORMAT_TAR)
        return verify_tar(&request->verify, &request->problems, err);
    return verify_plain(&request->verify, &request->problems, err);
}

/* No manifest, but what one is called before all is well: tell what that means. */
static void
explain_missing_manifest(const Request *request, Error *err)
{
    Error ignored = ERROR_INIT;
    bool missing = err->code == ERR_SYSTEM && err->sys_errno == ENOENT;
    bool there = false;

    if (missing && request->verify.manifest_path == NULL &&
        is_there(request->directory, "backup_manifest.tmp", &there, &ignored) && there)
        (void)error_hint(err, "There is a backup_manifest.tmp: this backup was never completed, or "
                              "the server found damaged pages while it was taken.");
}

static bool
verify(void *ctx, Stop *stop, Error *err)
{
    Request *request = ctx;
    bool ok;

    request->verify.stop = stop;
    request->verify.problems = (ProblemSink){.report = show_problem, .ctx = request};
    request->verify.progress_ctx = request;
    if (request->show_progress)
        request->verify.progress = show_progress;
    ok = find_format(request, err) && verify_format(request, err);
    end_progress_line(request);
    if (!ok)
        explain_missing_manifest(request, err);
    return ok;
}

static int
run(const Command *command, int argc, char **argv)
{
    Request request = {.directory = NULL};
    Error err = ERROR_INIT;
    int status = 1;

    switch (read_options(&request, command, argc, argv)) {
    case OPTIONS_READ:
        if (!signals_run(verify, &request, &err))
            signals_show_failure(&err);
        else if (request.problems == 0)
            status = 0;
        if (status == 0 && !request.quiet)
            (void)printf("backup successfully verified\n");
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

const Command command_verifybackup = {
    .name = "verifybackup",
    .stock_name = "pg_verifybackup",
    .summary = "verifies a backup against the backup manifest.",
    .brief = "verify a backup against its manifest, offline",
    .usage = "[OPTION]... BACKUPDIR",
    .options = options,
    .run = run,
};
