/*
 * pgstow receivewal: stream WAL into a directory, again and again, until told to stop.
 */
#include <string.h>

#include "cmd/commands.h"
#include "cmd/log.h"
#include "cmd/receivewal_cmd.h"
#include "cmd/signals.h"

#define SQLSTATE_DUPLICATE_OBJECT "42710"

typedef struct Job {
    ReceiveRequest request;
    int status; /* when it fails */
} Job;

static bool
create_slot(const ReceiveRequest *request, Conn *conn, Error *err)
{
    Error failure = ERROR_INIT;

    if (repl_create_slot(conn, request->slot, SLOT_PERMANENT, SLOT_RESERVE_LATER, &failure))
        return true;
    if (request->if_not_exists && strcmp(failure.sqlstate, SQLSTATE_DUPLICATE_OBJECT) == 0)
        return true;
    *err = failure;
    return false;
}

static bool
act_on_slot(const ReceiveRequest *request, Error *err)
{
    Conn *conn = conn_open(&request->conn, err);
    bool ok;

    if (conn == NULL)
        return false;
    if (request->verbose)
        log_info("%s replication slot \"%s\"", request->drop_slot ? "dropping" : "creating",
                 request->slot);
    ok = request->drop_slot ? repl_drop_slot(conn, request->slot, err)
                            : create_slot(request, conn, err);
    conn_free(conn);
    return ok;
}

static bool
run_job(void *ctx, Stop *stop, Error *err)
{
    Job *job = ctx;
    ReceiveRequest *request = &job->request;

    request->conn.stop = stop;
    if (request->create_slot || request->drop_slot)
        return act_on_slot(request, err);
    request->conn.patience_ms = request->receive_timeout_ms;
    return receive_loop(request, stop, &job->status, err);
}

static int
run_request(Job *job)
{
    Error err = ERROR_INIT;

    if (signals_run(run_job, job, IGNORED_HUP_ONLY, &err))
        return 0;
    signals_show_failure(&err);
    return job->status;
}

static int
run(const Command *command, int argc, char **argv)
{
    Job job = {.status = 1};
    int status = 0;

    switch (receive_request_read(&job.request, command, argc, argv)) {
    case OPTIONS_READ:
        status = run_request(&job);
        break;
    case OPTIONS_EXIT_OK:
        break;
    case OPTIONS_EXIT_BAD:
        status = 1;
        break;
    }
    receive_request_free(&job.request);
    return status;
}

const Command command_receivewal = {
    .name = "receivewal",
    .stock_name = "pg_receivewal",
    .summary = "receives PostgreSQL streaming write-ahead logs.",
    .brief = "stream WAL into a directory",
    .usage = "[OPTION]...",
    .options = receivewal_options,
    .run = run,
};
