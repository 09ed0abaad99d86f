/*
 * pgstow wal get: a restore_command.
 *
 * What a server makes of its status (RestoreArchivedFile in access/transam/xlogarchive.c): any up
 * to 125 but 0 means that the archive does not have the file, at which recovery ends and the server
 * becomes a primary. Only that ends with 1 here. A status above 125, and the end by a signal, stop
 * recovery; SIGTERM, and 143, which a shell makes of it, are how the server itself ends us. So
 * signals just end us, at once: what we leave has one name, and is taken over by the next run.
 */
#include <signal.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "archive/archive.h"
#include "cmd/background.h"
#include "cmd/log.h"
#include "cmd/wal_cmd.h"
#include "common/file.h"
#include "common/work.h"

#define STATUS_MISSING 1
#define STATUS_TROUBLE 200 /* it could not be looked for, read or written; a wrong command line */
#define STATUS_UNFIT   201 /* it is there, but damaged or of another cluster */

#define SPOOL_NAME       "pgstow_spool"
#define PREFETCH_MAX     1024
#define PREFETCH_DEFAULT 8
#define PREFETCH_BYTES   ((uint64_t)256 * 1024 * 1024) /* at most, unless more are asked for */

enum { OPT_PREFETCH = OPTION_LONG_ONLY, OPT_SPOOL };

static const Option options[] = {
    {0, NULL, NULL, "Options:"},
    {OPT_PREFETCH, "prefetch", "NUM",
     "fetch this many of the following segments in the\n"
     "background (default: 8, but 256 MB at most; 0: none)"},
    {OPT_SPOOL, "spool", "DIR", "keep them in DIR/pgstow_spool (default: beside PATH)"},
    COMMON_OPTIONS,
    {0, NULL, NULL, NULL},
};

typedef struct Request {
    ArchiveFetch fetch;
    ArchiveFetched fetched;
    int prefetch; /* -1: the default */
    const char *spool_parent;
    char *spool; /* owned */
} Request;

/* ---- the command line ---- */

static bool
take_option(void *ctx, int id, const char *value)
{
    Request *request = ctx;

    if (id == OPT_PREFETCH)
        return option_parse_int(value, "--prefetch", 0, PREFETCH_MAX, &request->prefetch);
    if (id == OPT_SPOOL)
        request->spool_parent = value;
    return true;
}

static bool
take_arguments(Request *request, int count, char **rest)
{
    if (count < 3)
        return options_conflict(count == 0   ? "no archive directory specified"
                                : count == 1 ? "no file name specified"
                                             : "no path specified");
    if (!options_rest_allowed(count, rest, 3))
        return false;
    request->fetch.directory = rest[0];
    request->fetch.name = rest[1];
    request->fetch.path = rest[2];
    return true;
}

static bool
find_spool(Request *request, Error *err)
{
    char *parent = request->spool_parent == NULL ? path_parent(request->fetch.path, err)
                                                 : mem_strdup(request->spool_parent, err);

    if (parent != NULL)
        request->spool = path_join(parent, SPOOL_NAME, err);
    free(parent);
    request->fetch.spool = request->spool;
    return request->spool != NULL;
}

/* ---- fetching ahead ---- */

static size_t
count_ahead(const Request *request)
{
    uint64_t fit;

    if (request->prefetch >= 0)
        return (size_t)request->prefetch;
    fit = PREFETCH_BYTES / request->fetched.segment_size;
    return fit < 1 ? 1 : fit < PREFETCH_DEFAULT ? (size_t)fit : PREFETCH_DEFAULT;
}

/* In a process of its own. */
static void
prefetch_in_background(const ArchivePrefetch *prefetch, int lock)
{
    Error ignored = ERROR_INIT;

    if (background_begin(lock)) {
        error_ignored(archive_prefetch(prefetch, lock, &ignored));
        background_end();
    }
}

/* It only saves time: what goes wrong with it is told when the segment itself is asked for. */
static void
fetch_ahead(const Request *request)
{
    struct stat st;
    ArchivePrefetch prefetch = {
        .directory = request->fetch.directory,
        .name = request->fetch.name,
        .spool = request->spool,
        .system_id = request->fetched.system_id,
        .segment_size = request->fetched.segment_size,
        .count = count_ahead(request),
        /* Some processors for the server, some for us. */
        .threads = background_threads(work_processors() / 2),
    };
    Error ignored = ERROR_INIT;
    int lock = -1;

    if (stat(request->fetch.path, &st) != 0)
        return;
    prefetch.mode = st.st_mode & 0777;
    if (archive_spool_open(&prefetch, &lock, &ignored) && lock >= 0)
        prefetch_in_background(&prefetch, lock);
    file_close_quietly(lock);
}

/* ---- the command ---- */

static bool
get(Request *request, Error *err)
{
    return find_spool(request, err) && archive_fetch(&request->fetch, &request->fetched, err);
}

/* After a segment others are asked for; after anything else, and after one that is not there, there
 * may be nothing that is. */
static int
conclude(const Request *request)
{
    const ArchiveFetched *fetched = &request->fetched;

    if (fetched->remark[0] != '\0')
        log_info("%s", fetched->remark);
    if (fetched->segment_size != 0 && request->prefetch != 0)
        fetch_ahead(request);
    else
        archive_spool_remove(request->spool);
    return fetched->found ? 0 : STATUS_MISSING;
}

static int
run_request(Request *request)
{
    Error err = ERROR_INIT;

    /* A reader of our messages that goes away is no trouble. */
    (void)signal(SIGPIPE, SIG_IGN);
    if (get(request, &err))
        return conclude(request);
    log_failure(&err);
    return err.code == ERR_FORMAT || err.code == ERR_MISMATCH ? STATUS_UNFIT : STATUS_TROUBLE;
}

static int
run(const Command *command, int argc, char **argv)
{
    Request request = {.prefetch = -1};
    int count;
    char **rest;
    int status = STATUS_TROUBLE;

    switch (options_read(command, argc, argv, take_option, &request, &count, &rest)) {
    case OPTIONS_READ:
        if (take_arguments(&request, count, rest))
            status = run_request(&request);
        break;
    case OPTIONS_EXIT_OK:
        return 0;
    case OPTIONS_EXIT_BAD:
        break;
    }
    free(request.spool);
    return status;
}

const Command command_wal_get = {
    .name = "get",
    .summary = "gives recovery a file out of an archive: a restore_command.",
    .brief = "give recovery a file (restore_command)",
    .usage = "[OPTION]... DIR NAME PATH",
    .options = options,
    .run = run,
};
