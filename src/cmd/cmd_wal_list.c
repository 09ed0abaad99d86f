/*
 * pgstow wal list: what an archive of WAL holds.
 */
#include <stdio.h>

#include "archive/archive.h"
#include "cmd/log.h"
#include "cmd/wal_cmd.h"

static const Option wal_list_options[] = {
    {0, NULL, NULL, "Options:"},
    COMMON_OPTIONS,
    {0, NULL, NULL, NULL},
};

static bool
take_option(void *ctx, int id, const char *value)
{
    (void)ctx;
    (void)id;
    (void)value;
    return true;
}

static void
show(const Inventory *archive)
{
    for (size_t i = 0; i < archive->timeline_count; i++)
        (void)printf("timeline %u: %zu files\n", archive->timelines[i].timeline,
                     archive->timelines[i].count);
}

static int
list(const char *directory)
{
    Error err = ERROR_INIT;
    Inventory archive;
    bool ok = inventory_read(&archive, directory, &err);

    if (ok)
        show(&archive);
    else
        log_failure(&err);
    inventory_free(&archive);
    return ok ? 0 : 1;
}

static int
run(const Command *command, int argc, char **argv)
{
    int count;
    char **rest;

    switch (options_read(command, argc, argv, take_option, NULL, &count, &rest)) {
    case OPTIONS_READ:
        break;
    case OPTIONS_EXIT_OK:
        return 0;
    case OPTIONS_EXIT_BAD:
        return 1;
    }
    if (count == 0) {
        (void)options_conflict("no archive directory specified");
        return 1;
    }
    if (!options_rest_allowed(count, rest, 1))
        return 1;
    return list(rest[0]);
}

const Command command_wal_list = {
    .name = "list",
    .summary = "lists what an archive of WAL holds.",
    .brief = "list what an archive holds",
    .usage = "[OPTION]... DIR",
    .options = wal_list_options,
    .run = run,
};
