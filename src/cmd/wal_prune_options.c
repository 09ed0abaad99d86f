/*
 * The command line of "pgstow wal prune".
 */
#include <stdlib.h>

#include "cmd/log.h"
#include "cmd/wal_prune_cmd.h"
#include "common/bytes.h"

#define MAX_DAYS 100000

enum {
    OPT_JSON = OPTION_LONG_ONLY,
    OPT_KEEP_BACKUP,
    OPT_KEEP_DAYS,
    OPT_KEEP_FROM,
    OPT_OLDEST_BACKUP,
    OPT_YES
};

const Option wal_prune_options[] = {
    {0, NULL, NULL, "Options that say what stays (at least one but the last):"},
    {OPT_OLDEST_BACKUP, "oldest-backup", "DIRECTORY",
     "keep what this backup needs to be recovered to any\n"
     "point there is; name the oldest one of each branch"},
    {OPT_KEEP_FROM, "keep-from", "NAME|LSN", "keep this segment, or position, and all behind it"},
    {OPT_KEEP_DAYS, "keep-days", "DAYS",
     "keep what is needed for any point in these days;\n"
     "with another option: what was written in them"},
    {OPT_KEEP_BACKUP, "keep-backup", "DIRECTORY",
     "keep what this backup needs to be recovered to its\n"
     "own end"},
    {0, NULL, NULL, "Other options:"},
    {OPT_JSON, "json", NULL, "print the result as JSON"},
    {OPT_YES, "yes", NULL, "remove what goes; without it, only say it"},
    COMMON_OPTIONS,
    {0, NULL, NULL, NULL},
};

static bool
add_backup(PruneRequest *request, const char *directory, bool alone)
{
    Error err = ERROR_INIT;
    void *array = request->backups;
    bool ok = mem_grow(&array, &request->backup_capacity, request->backup_count + 1,
                       sizeof *request->backups, &err);

    request->backups = array;
    if (ok)
        request->backups[request->backup_count++] =
            (PruneBackup){.directory = directory, .alone = alone};
    else
        log_failure(&err);
    return ok;
}

static bool
take_option(void *ctx, int id, const char *value)
{
    PruneRequest *request = ctx;

    switch (id) {
    case OPT_OLDEST_BACKUP:
        return add_backup(request, value, false);
    case OPT_KEEP_BACKUP:
        return add_backup(request, value, true);
    case OPT_KEEP_DAYS:
        return option_parse_int(value, "--keep-days", 1, MAX_DAYS, &request->keep_days);
    case OPT_KEEP_FROM:
        request->keep_from = value;
        break;
    case OPT_JSON:
        request->json = true;
        break;
    case OPT_YES:
        request->yes = true;
        break;
    default:
        break;
    }
    return true;
}

/* Whether anything says from where on all WAL is needed. */
static bool
has_beginning(const PruneRequest *request)
{
    bool found = request->keep_from != NULL || request->keep_days > 0;

    for (size_t i = 0; i < request->backup_count; i++)
        found = found || !request->backups[i].alone;
    return found;
}

OptionResult
prune_request_read(PruneRequest *request, const Command *command, int argc, char **argv)
{
    int count;
    char **rest;
    OptionResult result;

    *request = (PruneRequest){.directory = NULL};
    result = options_read(command, argc, argv, take_option, request, &count, &rest);
    if (result != OPTIONS_READ)
        return result;
    if (count == 0) {
        (void)options_conflict("no archive directory specified");
        return OPTIONS_EXIT_BAD;
    }
    if (!options_rest_allowed(count, rest, 1))
        return OPTIONS_EXIT_BAD;
    request->directory = rest[0];
    if (!has_beginning(request)) {
        (void)options_conflict("must specify one of --oldest-backup, --keep-from, --keep-days");
        return OPTIONS_EXIT_BAD;
    }
    return OPTIONS_READ;
}

void
prune_request_free(PruneRequest *request)
{
    free(request->backups);
}
