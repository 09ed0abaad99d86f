/*
 * pgstow wal push: an archive_command.
 *
 * The server keeps and tries again what does not end with 0. Signals end us at once: what we leave
 * has one name, and is taken over when the server tries again.
 */
#include <signal.h>

#include "archive/archive.h"
#include "cmd/compress_option.h"
#include "cmd/log.h"
#include "cmd/wal_cmd.h"

static const Option options[] = {
    {0, NULL, NULL, "Options:"},
    {'Z', "compress", "METHOD[:DETAIL]", "compress as specified"},
    COMMON_OPTIONS,
    {0, NULL, NULL, NULL},
};

typedef struct Request {
    ArchivePush push;
    CompressOption compress;
} Request;

static bool
take_option(void *ctx, int id, const char *value)
{
    Request *request = ctx;

    return id != 'Z' || compress_option_set(&request->compress, value);
}

static bool
take_arguments(Request *request, int count, char **rest)
{
    if (count < 2)
        return options_conflict(count == 0 ? "no file specified"
                                           : "no archive directory specified");
    if (!options_rest_allowed(count, rest, 2))
        return false;
    request->push.path = rest[0];
    request->push.directory = rest[1];
    return compress_option_parse(&request->compress, &request->push.compression);
}

static int
run_request(const Request *request)
{
    Error err = ERROR_INIT;
    ArchivePushed pushed;

    /* A reader of our messages that goes away is no trouble. */
    (void)signal(SIGPIPE, SIG_IGN);
    if (archive_push(&request->push, &pushed, &err))
        return 0;
    log_failure(&err);
    return 1;
}

static int
run(const Command *command, int argc, char **argv)
{
    Request request = {.push = {.path = NULL}};
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
