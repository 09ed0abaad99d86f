/*
 * pgstow archivecleanup: pg_archivecleanup.
 */
#include <stdio.h>
#include <sys/stat.h>

#include "archive/archive.h"
#include "cmd/commands.h"
#include "cmd/log.h"

/* What it says of a command line that it cannot use; 1 is for what happens later. */
#define STATUS_USAGE 2

typedef struct Request {
    CleanupRequest cleanup;
    const char *oldest_kept;
    bool debug;
    bool dry_run;
} Request;

static const Option archivecleanup_options[] = {
    {0, NULL, NULL, "Options:"},
    {'b', "clean-backup-history", NULL, "clean up files including backup history files"},
    {'d', "debug", NULL, "generate debug output (verbose mode)"},
    {'n', "dry-run", NULL, "dry run, show the names of the files that would be\nremoved"},
    {'x', "strip-extension", "EXT", "strip this extension before identifying files for\nclean up"},
    COMMON_OPTIONS,
    {0, NULL, NULL, NULL},
};

/* ---- the command line ---- */

static bool
take_option(void *ctx, int id, const char *value)
{
    Request *request = ctx;

    switch (id) {
    case 'b':
        request->cleanup.backup_history = true;
        break;
    case 'd':
        request->debug = true;
        break;
    case 'n':
        request->dry_run = true;
        break;
    case 'x':
        request->cleanup.extension = value;
        break;
    default:
        break;
    }
    return true;
}

static bool
take_arguments(Request *request, int count, char **rest)
{
    if (count == 0)
        return options_conflict("must specify archive location");
    if (count == 1)
        return options_conflict("must specify oldest kept WAL file");
    if (count > 2)
        return options_conflict("too many command-line arguments");
    request->cleanup.directory = rest[0];
    request->oldest_kept = rest[1];
    return true;
}

/* In the order of the stock tool. */
static bool
check_arguments(Request *request)
{
    CleanupRequest *cleanup = &request->cleanup;
    struct stat status;

    if (stat(cleanup->directory, &status) != 0 || !S_ISDIR(status.st_mode)) {
        log_error("archive location \"%s\" does not exist", cleanup->directory);
        return false;
    }
    if (!cleanup_first_kept(request->oldest_kept, cleanup->extension, cleanup->first_kept))
        return options_conflict("invalid file name argument");
    return true;
}

/* ---- the command ---- */

static void
show_removal(void *ctx, const char *name)
{
    const Request *request = ctx;

    if (request->debug)
        log_info("removing file \"%s/%s\"", request->cleanup.directory, name);
}

static void
show_names(const Request *request, const ArchiveNames *names)
{
    for (size_t i = 0; i < names->count; i++) {
        (void)printf("%s/%s\n", request->cleanup.directory, names->names[i]);
        if (request->debug)
            log_info("file \"%s/%s\" would be removed", request->cleanup.directory,
                     names->names[i]);
    }
}

static int
clean_up(Request *request)
{
    Error err = ERROR_INIT;
    ArchiveNames names;
    bool ok;

    if (request->debug)
        log_info("keeping WAL file \"%s/%s\" and later", request->cleanup.directory,
                 request->cleanup.first_kept);
    ok = cleanup_list(&request->cleanup, &names, &err);
    if (ok && request->dry_run)
        show_names(request, &names);
    else if (ok)
        ok = archive_remove(request->cleanup.directory, &names, show_removal, request, &err);
    archive_names_free(&names);
    if (!ok)
        log_failure(&err);
    return ok ? 0 : 1;
}

static int
run(const Command *command, int argc, char **argv)
{
    Request request = {.debug = false};
    int count;
    char **rest;

    switch (options_read(command, argc, argv, take_option, &request, &count, &rest)) {
    case OPTIONS_READ:
        break;
    case OPTIONS_EXIT_OK:
        return 0;
    case OPTIONS_EXIT_BAD:
        return STATUS_USAGE;
    }
    if (!take_arguments(&request, count, rest) || !check_arguments(&request))
        return STATUS_USAGE;
    return clean_up(&request);
}

const Command command_archivecleanup = {
    .name = "archivecleanup",
    .stock_name = "pg_archivecleanup",
    .summary = "removes older WAL files from PostgreSQL archives.",
    .brief = "remove older WAL files from an archive",
    .usage = "[OPTION]... ARCHIVELOCATION OLDESTKEPTWALFILE",
    .options = archivecleanup_options,
    .run = run,
};
