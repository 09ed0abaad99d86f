/*
 * pgstow wal SUBCOMMAND: what there is to do with an archive of WAL.
 *
 * Each subcommand is a Command of its own, which sees itself as "pgstow wal SUBCOMMAND".
 */
#include <stdio.h>
#include <string.h>

#include "cmd/commands.h"
#include "cmd/log.h"
#include "cmd/version.h"
#include "cmd/wal_cmd.h"

static const Command *const subcommands[] = {
    &command_wal_check, &command_wal_get, &command_wal_list, &command_wal_prune, &command_wal_push};

#define SUBCOMMAND_COUNT (sizeof subcommands / sizeof subcommands[0])

static const Option wal_options[] = {
    {0, NULL, NULL, "Options:"},
    COMMON_OPTIONS,
    {0, NULL, NULL, NULL},
};

static const Command *
find_subcommand(const char *name)
{
    for (size_t i = 0; i < SUBCOMMAND_COUNT; i++) {
        if (strcmp(subcommands[i]->name, name) == 0)
            return subcommands[i];
    }
    return NULL;
}

static void
print_overview(const Command *command)
{
    (void)printf("%s %s\n\nUsage:\n  %s %s\n\nSubcommands:\n", log_progname(), command->summary,
                 log_progname(), command->usage);
    for (size_t i = 0; i < SUBCOMMAND_COUNT; i++)
        (void)printf("  %-22s %s\n", subcommands[i]->name, subcommands[i]->brief);
    (void)printf("\nOptions:\n"
                 "  -V, --version          output version information, then exit\n"
                 "  -?, --help             show this help, then exit\n"
                 "\n\"%s SUBCOMMAND --help\" shows a subcommand's options.\n",
                 log_progname());
}

static int
refuse(const char *name)
{
    if (name == NULL)
        log_error("no subcommand given");
    else
        log_error("unknown subcommand \"%s\"", name);
    log_hint("Try \"%s --help\" for the list of subcommands.", log_progname());
    return STATUS_NO_COMMAND;
}

static int
run(const Command *command, int argc, char **argv)
{
    static char progname[64];
    const Command *subcommand;

    if (argc < 2)
        return refuse(NULL);
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-?") == 0 ||
        strcmp(argv[1], "help") == 0) {
        print_overview(command);
        return 0;
    }
    if (strcmp(argv[1], "--version") == 0 || strcmp(argv[1], "-V") == 0) {
        version_print(NULL);
        return 0;
    }
    subcommand = find_subcommand(argv[1]);
    if (subcommand == NULL)
        return refuse(argv[1]);
    (void)snprintf(progname, sizeof progname, "%s %s", log_progname(), subcommand->name);
    log_init(progname);
    argv[1] = progname;
    return subcommand->run(subcommand, argc - 1, argv + 1);
}

const Command command_wal = {
    .name = "wal",
    .summary = "works on an archive of WAL.",
    .brief = "list, check and use an archive of WAL",
    .usage = "SUBCOMMAND [OPTION]...",
    .options = wal_options,
    .run = run,
};
