/*
 * Which program are we? Called by a stock name we are that program; else the first argument is the
 * command.
 */
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cmd/commands.h"
#include "cmd/log.h"
#include "cmd/version.h"

static const Command *const commands[] = {&command_basebackup, &command_receivewal,
                                          &command_verifybackup, &command_archivecleanup,
                                          &command_wal};

#define COMMAND_COUNT (sizeof commands / sizeof commands[0])

static const char *
base_name(const char *path)
{
    const char *slash = strrchr(path, '/');

    return slash == NULL ? path : slash + 1;
}

static const Command *
find_stock(const char *name)
{
    for (size_t i = 0; i < COMMAND_COUNT; i++) {
        if (commands[i]->stock_name != NULL && strcmp(commands[i]->stock_name, name) == 0)
            return commands[i];
    }
    return NULL;
}

static const Command *
find_command(const char *name)
{
    for (size_t i = 0; i < COMMAND_COUNT; i++) {
        if (strcmp(commands[i]->name, name) == 0)
            return commands[i];
    }
    return find_stock(name);
}

static void
print_overview(void)
{
    (void)printf("pgstow takes backups of PostgreSQL over its replication protocol and verifies "
                 "them.\n\n"
                 "Usage:\n  pgstow COMMAND [OPTION]...\n\nCommands:\n");
    for (size_t i = 0; i < COMMAND_COUNT; i++)
        (void)printf("  %-22s %s\n", commands[i]->name, commands[i]->brief);
    (void)printf("\nOptions:\n"
                 "  -V, --version          output version information, then exit\n"
                 "  -?, --help             show this help, then exit\n"
                 "\n\"pgstow COMMAND --help\" shows a command's options. Called as "
                 "pg_basebackup, pg_receivewal,\n"
                 "pg_verifybackup or pg_archivecleanup, pgstow is that program.\n");
}

static int
unknown_command(const char *name)
{
    log_error("unknown command \"%s\"", name);
    log_hint("Try \"pgstow --help\" for the list of commands.");
    return STATUS_NO_COMMAND;
}

/* pgstow COMMAND ...: the command sees itself as "pgstow COMMAND". */
static int
run_command(int argc, char **argv)
{
    static char progname[64];
    const Command *command;

    if (argc < 2) {
        log_error("no command given");
        log_hint("Try \"pgstow --help\" for the list of commands.");
        return STATUS_NO_COMMAND;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-?") == 0 ||
        strcmp(argv[1], "help") == 0) {
        print_overview();
        return 0;
    }
    if (strcmp(argv[1], "--version") == 0 || strcmp(argv[1], "-V") == 0) {
        version_print(NULL);
        return 0;
    }
    command = find_command(argv[1]);
    if (command == NULL)
        return unknown_command(argv[1]);
    (void)snprintf(progname, sizeof progname, "pgstow %s", command->name);
    log_init(progname);
    argv[1] = progname;
    return command->run(command, argc - 1, argv + 1);
}

/*
 * Whoever starts us may have closed standard streams. The files that we open must not take their
 * numbers, or messages would be written into a backup. Reading and writing fail as before.
 */
static bool
hold_standard_streams(void)
{
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++) {
        int useless = fd == STDIN_FILENO ? O_WRONLY : O_RDONLY;

        if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", useless) != fd)
            return false;
    }
    return true;
}

int
main(int argc, char **argv)
{
    const char *name = argc > 0 ? base_name(argv[0]) : "pgstow";
    const Command *command = find_stock(name);
    int status;

    if (!hold_standard_streams())
        return command == NULL ? STATUS_NO_COMMAND : 1;
    log_init(command == NULL ? "pgstow" : name);
    status = command == NULL ? run_command(argc, argv) : command->run(command, argc, argv);

    /* Help into a full disk must not look like success. */
    if (fflush(stdout) != 0 && status == 0) {
        log_error("could not write to standard output");
        status = 1;
    }
    return status;
}
