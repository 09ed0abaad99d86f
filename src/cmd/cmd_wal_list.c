/*
 * pgstow wal list: what an archive of WAL holds.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "cmd/log.h"
#include "cmd/wal_cmd.h"
#include "cmd/wal_list_report.h"

enum { OPT_JSON = OPTION_LONG_ONLY, OPT_TIMES };

static const Option wal_list_options[] = {
    {0, NULL, NULL, "Options:"},
    {OPT_JSON, "json", NULL, "print the list as JSON"},
    {OPT_TIMES, "times", NULL,
     "also when the first and the last transaction of each\n"
     "timeline were committed"},
    COMMON_OPTIONS,
    {0, NULL, NULL, NULL},
};

typedef struct ListRequest {
    bool json;
    bool times;
} ListRequest;

static bool
take_option(void *ctx, int id, const char *value)
{
    ListRequest *request = ctx;

    (void)value;
    if (id == OPT_JSON)
        request->json = true;
    else if (id == OPT_TIMES)
        request->times = true;
    return true;
}

/* One for each timeline; *ret_commits is owned by the caller. */
static bool
find_commits(const Inventory *archive, ArchiveCommits **ret_commits, Error *err)
{
    ArchiveCommits *commits = mem_zero((archive->timeline_count + 1) * sizeof *commits, err);

    if (commits == NULL)
        return false;
    for (size_t i = 0; i < archive->timeline_count; i++) {
        if (!archive_commits_find(archive, &archive->timelines[i], &commits[i], err)) {
            free(commits);
            return false;
        }
    }
    *ret_commits = commits;
    return true;
}

static bool
print(const Buf *text, Error *err)
{
    if (fwrite(buf_text(text), 1, text->len, stdout) != text->len || fflush(stdout) != 0)
        return error_set_errno(err, errno, "could not write to standard output");
    return true;
}

static bool
list(const Inventory *archive, const ListRequest *request, Error *err)
{
    ArchiveCommits *commits = NULL;
    Buf text = BUF_INIT;
    bool ok = (!request->times || find_commits(archive, &commits, err)) &&
              (request->json ? wal_list_json(archive, commits, &text, err)
                             : wal_list_text(archive, commits, &text, err)) &&
              print(&text, err);

    buf_free(&text);
    free(commits);
    return ok;
}

static int
run_request(const ListRequest *request, const char *directory)
{
    Error err = ERROR_INIT;
    Inventory archive;
    bool ok = inventory_read(&archive, directory, &err) && list(&archive, request, &err);

    inventory_free(&archive);
    if (!ok)
        log_failure(&err);
    return ok ? 0 : 1;
}

static int
run(const Command *command, int argc, char **argv)
{
    ListRequest request = {.json = false};
    int count;
    char **rest;

    switch (options_read(command, argc, argv, take_option, &request, &count, &rest)) {
    case OPTIONS_READ:
        break;
    case OPTIONS_EXIT_OK:
        return 0;
    case OPTIONS_EXIT_BAD:
        return 1;
    }
    if ((count == 0 && !options_conflict("no archive directory specified")) ||
        !options_rest_allowed(count, rest, 1))
        return 1;
    return run_request(&request, rest[0]);
}

const Command command_wal_list = {
    .name = "list",
    .summary = "lists what an archive of WAL holds.",
    .brief = "list what an archive holds",
    .usage = "[OPTION]... DIR",
    .options = wal_list_options,
    .run = run,
};
