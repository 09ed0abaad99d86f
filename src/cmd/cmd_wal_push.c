/*
 * pgstow wal push: an archive_command.
 *
 * The server keeps and tries again what does not end with 0. Signals end us at once: what we leave
 * has one name, and is taken over when the server tries again.
 */
#include <signal.h>
#include <stdlib.h>

#include "archive/archive.h"
#include "cmd/background.h"
#include "cmd/compress_option.h"
#include "cmd/log.h"
#include "cmd/wal_cmd.h"
#include "common/file.h"
#include "common/work.h"

#define SPOOL_NAME    "pgstow_pushed"
#define AHEAD_DEFAULT 8
#define AHEAD_MAX     1024

enum { OPT_AHEAD = OPTION_LONG_ONLY, OPT_SPOOL };

static const Option options[] = {
    {0, NULL, NULL, "Options:"},
    {OPT_AHEAD, "ahead", "NUM",
     "with --spool: archive up to this many of the files that\n"
     "are ready next in the background (default: 8; 0: none)"},
    {OPT_SPOOL, "spool", "DIR",
     "archive ahead; keep notes of what is in the archive\n"
     "already in DIR/pgstow_pushed"},
    {'Z', "compress", "METHOD[:DETAIL]", "compress as specified"},
    COMMON_OPTIONS,
    {0, NULL, NULL, NULL},
};

typedef struct Request {
    ArchivePush push;
    CompressOption compress;
    int ahead; /* -1: the default */
    const char *spool_parent;
    char *spool; /* owned; NULL: nothing is archived ahead */
} Request;

static bool
take_option(void *ctx, int id, const char *value)
{
    Request *request = ctx;

    switch (id) {
    case 'Z':
        return compress_option_set(&request->compress, value);
    case OPT_AHEAD:
        return option_parse_int(value, "--ahead", 0, AHEAD_MAX, &request->ahead);
    case OPT_SPOOL:
        request->spool_parent = value;
        break;
    default:
        break;
    }
    return true;
}

static bool
take_arguments(Request *request, int count, char **rest)
{
    if (count < 2)
        return options_conflict(count == 0 ? "no file specified"
                                           : "no archive directory specified");
    if (!options_rest_allowed(count, rest, 2))
        return false;
    if (request->ahead >= 0 && request->spool_parent == NULL)
        return options_conflict("--ahead needs --spool");
    request->push.path = rest[0];
    request->push.directory = rest[1];
    return compress_option_parse(&request->compress, &request->push.compression);
}

/* ---- archiving ahead ---- */

static size_t
count_ahead(const Request *request)
{
    return request->ahead < 0 ? AHEAD_DEFAULT : (size_t)request->ahead;
}

/* It only saves time: what goes wrong with it is told when the server asks for that file. */
static void
push_ahead(const ArchiveAhead *ahead)
{
    Error ignored = ERROR_INIT;
    int lock = -1;

    if (archive_ahead_open(ahead, &lock, &ignored) && lock >= 0 && background_begin(lock)) {
        error_ignored(archive_ahead(ahead, &ignored));
        background_end();
    }
    file_close_quietly(lock);
}

static bool
push_with_spool(const Request *request, ArchivePushed *ret_pushed, Error *err)
{
    const ArchiveAhead ahead = {.push = &request->push,
                                .spool = request->spool,
                                .count = count_ahead(request),
                                .threads = background_threads(work_processors())};
    Error trouble = ERROR_INIT;
    bool ok = archive_push_noted(&ahead, ret_pushed, &trouble, err);

    if (ok && trouble.code != ERR_NONE)
        log_warning("archived without the spool: %s", trouble.message);
    else if (ok)
        push_ahead(&ahead);
    return ok;
}

/* ---- the command ---- */

static bool
push(Request *request, Error *err)
{
    ArchivePushed pushed;

    if (request->spool_parent == NULL || request->ahead == 0)
        return archive_push(&request->push, &pushed, err);
    request->spool = path_join(request->spool_parent, SPOOL_NAME, err);
    return request->spool != NULL && push_with_spool(request, &pushed, err);
}

static int
run_request(Request *request)
{
    Error err = ERROR_INIT;

    /* A reader of our messages that goes away is no trouble. */
    (void)signal(SIGPIPE, SIG_IGN);
    if (push(request, &err))
        return 0;
    log_failure(&err);
    return 1;
}

static int
run(const Command *command, int argc, char **argv)
{
    Request request = {.ahead = -1};
    int count;
    char **rest;
    int status = 1;

    switch (options_read(command, argc, argv, take_option, &request, &count, &rest)) {
    case OPTIONS_READ:
        if (take_arguments(&request, count, rest))
            status = run_request(&request);
        break;
    case OPTIONS_EXIT_OK:
        status = 0;
        break;
    case OPTIONS_EXIT_BAD:
        break;
    }
    free(request.spool);
    compress_option_free(&request.compress);
    return status;
}

const Command command_wal_push = {
    .name = "push",
    .summary = "puts a file of a server's pg_wal into an archive: an archive_command.",
    .brief = "put a file into the archive (archive_command)",
    .usage = "[OPTION]... PATH DIR",
    .options = options,
    .run = run,
};
