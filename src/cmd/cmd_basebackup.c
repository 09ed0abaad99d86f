/*
 * pgstow basebackup: pg_basebackup.
 */
#include "basebackup/basebackup.h"
#include "cmd/basebackup_cmd.h"
#include "cmd/commands.h"
#include "cmd/signals.h"

typedef struct Run {
    BackupRequest request;
    BackupDisplay display;
} Run;

static bool
take_backup(void *ctx, Stop *stop, Error *err)
{
    Run *backup = ctx;
    const BackupObserver observer = display_observer(&backup->display);

    backup->request.conn.stop = stop;
    return basebackup_run(&backup->request.conn, &backup->request.backup, &observer, stop, err);
}

static int
run(const Command *command, int argc, char **argv)
{
    Run backup;
    Error err = ERROR_INIT;
    int status = 1;

    switch (backup_request_read(&backup.request, command, argc, argv)) {
    case OPTIONS_READ:
        display_init(&backup.display, &backup.request);
        if (signals_run(take_backup, &backup, IGNORED_STAY_IGNORED, &err))
            status = 0;
        else
            display_failure(&backup.display, &err);
        break;
    case OPTIONS_EXIT_OK:
        status = 0;
        break;
    case OPTIONS_EXIT_BAD:
        break;
    }
    backup_request_free(&backup.request);
    if (status != 0)
        signals_reraise();
    return status;
}

const Command command_basebackup = {
    .name = "basebackup",
    .stock_name = "pg_basebackup",
    .summary = "takes a base backup of a running PostgreSQL server.",
    .brief = "take a base backup of a running server",
    .usage = "[OPTION]...",
    .options = basebackup_options,
    .run = run,
};
