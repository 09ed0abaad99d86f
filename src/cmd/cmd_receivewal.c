/*
 * pgstow receivewal: stream WAL into a directory, again and again, until told to stop.
 */
#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cmd/commands.h"
#include "cmd/connect.h"
#include "cmd/log.h"
#include "cmd/signals.h"
#include "pgformat/walfile.h"
#include "walrecv/walrecv.h"

#define RETRY_SECONDS 5

enum { OPT_CREATE_SLOT = OPTION_LONG_ONLY, OPT_DROP_SLOT, OPT_IF_NOT_EXISTS, OPT_NO_SYNC };

static const Option options[] = {
    {0, NULL, NULL, "Options:"},
    {'D', "directory", "DIR", "receive write-ahead log files into this directory"},
    {'E', "endpos", "LSN", "exit after receiving the specified LSN"},
    {OPT_IF_NOT_EXISTS, "if-not-exists", NULL,
     "do not error if slot already exists when creating a slot"},
    {'n', "no-loop", NULL, "do not loop on connection lost"},
    {OPT_NO_SYNC, "no-sync", NULL, "do not wait for changes to be written safely to disk"},
    {'S', "slot", "SLOTNAME", "replication slot to use"},
    {'v', "verbose", NULL, "output verbose messages"},
    COMMON_OPTIONS,
    CONNECTION_OPTIONS,
    {0, NULL, NULL, "Optional actions:"},
    {OPT_CREATE_SLOT, "create-slot", NULL,
     "create a new replication slot (for the slot's name see --slot)"},
    {OPT_DROP_SLOT, "drop-slot", NULL,
     "drop the replication slot (for the slot's name see --slot)"},
    {0, NULL, NULL, NULL},
};

typedef struct Request {
    ConnConfig conn;
    const char *directory;
    Lsn end; /* LSN_INVALID: none */
    const char *slot;
    int64_t status_interval_ms;
    bool create_slot;
    bool drop_slot;
    bool if_not_exists;
    bool no_loop;
    bool no_sync;
    bool verbose;
    bool connected; /* at least once */
    PasswordAnswer password;
} Request;

static bool
take_option(void *ctx, int id, const char *value)
{
    Request *request = ctx;
    int seconds;

    switch (id) {
    case 'D':
        request->directory = value;
        return true;
    case 'E':
        if (lsn_parse(value, &request->end))
            return true;
        log_error("could not parse end position \"%s\"", value);
        return false;
    case OPT_IF_NOT_EXISTS:
        request->if_not_exists = true;
        return true;
    case 'n':
        request->no_loop = true;
        return true;
    case OPT_NO_SYNC:
        request->no_sync = true;
        return true;
    case 's':
        if (!option_parse_int(value, "-s/--status-interval", 0, INT_MAX / 1000, &seconds))
            return false;
        request->status_interval_ms = (int64_t)seconds * 1000;
        return true;
    case 'S':
        request->slot = value;
        return true;
    case 'v':
        request->verbose = true;
        return true;
    case OPT_CREATE_SLOT:
        request->create_slot = true;
        return true;
    case OPT_DROP_SLOT:
        request->drop_slot = true;
        return true;
    default:
        return connect_option(&request->conn, id, value);
    }
}

static bool
check_request(const Request *request)
{
    if (request->create_slot && request->drop_slot)
        return options_conflict("cannot use --create-slot together with --drop-slot");
    if (request->slot == NULL && (request->create_slot || request->drop_slot)) {
        log_error("%s needs a slot to be specified using --slot",
                  request->create_slot ? "--create-slot" : "--drop-slot");
        log_help_hint();
        return false;
    }
    if (request->directory == NULL && !request->create_slot && !request->drop_slot)
        return options_conflict("no target directory specified");
    return true;
}

/* ---- slots ---- */

static bool
act_on_slot(const Request *request, Error *err)
{
    Conn *conn = conn_open(&request->conn, err);
    bool ok;

    if (conn == NULL)
        return false;
    if (request->drop_slot) {
        if (request->verbose)
            log_info("dropping replication slot \"%s\"", request->slot);
        ok = repl_drop_slot(conn, request->slot, err);
    } else {
        if (request->verbose)
            log_info("creating replication slot \"%s\"", request->slot);
        ok = repl_create_slot(conn, request->slot, SLOT_PERMANENT, SLOT_RESERVE_LATER, err);
        if (!ok && request->if_not_exists && strcmp(err->sqlstate, "42710") == 0)
            ok = true;
    }
    conn_free(conn);
    return ok;
}

/* ---- where to begin ---- */

static void
warn_skipped(void *ctx, const char *path, uint64_t size)
{
    (void)ctx;
    log_warning("segment file \"%s\" has incorrect size %llu, skipping", path,
                (unsigned long long)size);
}

/* Behind the newest segment of the directory; else where the slot is; else where the server is. */
static bool
find_start(const Request *request, Conn *conn, uint32_t segment_size, Lsn *ret_start,
           TimeLineID *ret_timeline, Error *err)
{
    ServerIdentity identity;
    SlotState slot = {.exists = false};
    WalDirEnd end;
    Lsn start;

    if (!repl_identify_system(conn, &identity, err) ||
        !wal_dir_find_end(request->directory, segment_size, warn_skipped, NULL, &end, err))
        return false;
    if (!end.found && request->slot != NULL && conn_features(conn)->read_slot) {
        if (!repl_read_slot(conn, request->slot, &slot, err))
            return false;
        if (!slot.exists)
            return error_set(err, ERR_SERVER, "replication slot \"%s\" does not exist",
                             request->slot);
    }
    start = identity.position;
    *ret_timeline = identity.timeline;
    if (end.found) {
        start = end.next;
        *ret_timeline = end.timeline;
    } else if (slot.has_position) {
        start = slot.restart_lsn;
        *ret_timeline = slot.restart_timeline;
    }
    *ret_start = wal_segment_start(wal_segment_number(start, segment_size), segment_size);
    return true;
}

/* ---- one connection's worth of streaming ---- */

/* What the files look like: as at the server. */
typedef struct WalShape {
    uint32_t segment_size;
    mode_t file_mode;
} WalShape;

static bool
learn_shape(Conn *conn, WalShape *ret_shape, Error *err)
{
    bool group;
    WalShape shape;

    if (!repl_group_access(conn, &group, err) || !repl_segment_size(conn, &shape.segment_size, err))
        return false;
    shape.file_mode = group ? 0640 : 0600;
    *ret_shape = shape;
    return true;
}

static void
show_segment(void *ctx, Lsn end, TimeLineID timeline)
{
    if (((const Request *)ctx)->verbose)
        log_info("finished segment at " LSN_FORMAT " (timeline %u)", LSN_ARGS(end), timeline);
}

static void
show_switch(void *ctx, Lsn at, TimeLineID timeline)
{
    if (((const Request *)ctx)->verbose)
        log_info("switched to timeline %u at " LSN_FORMAT, timeline, LSN_ARGS(at));
}

/* Owns `conn`. */
static WalRunResult
receive(const Request *request, Conn *conn, const WalShape *shape, Error *err)
{
    DurableMark durable = {0};
    WalReceiver *receiver = NULL;
    const WalDirConfig dir = {
        .directory = request->directory,
        .segment_size = shape->segment_size,
        .file_mode = shape->file_mode,
        .remainder = WAL_KEEP_PARTIAL,
        .sync = request->no_sync ? WAL_NO_SYNC : WAL_DURABLE,
        .durable = &durable,
    };
    const HandoffConfig handoff = {.while_full = wal_receiver_while_full, .ctx = &receiver};
    WalReceiverConfig config = {
        .conn = conn,
        .segment_size = shape->segment_size,
        .slot = request->slot,
        .status_interval_ms = request->status_interval_ms,
        .durable = request->no_sync ? NULL : &durable,
        .stop_at = request->end == LSN_INVALID ? LSN_INVALID : request->end + 1,
        .on_failure = WAL_FAILURE_KEEP,
        .stop = request->conn.stop,
        .observer = {.segment_finished = show_segment,
                     .timeline_switched = show_switch,
                     .ctx = (void *)(uintptr_t)request},
    };
    WalRunResult result;

    if (!find_start(request, conn, shape->segment_size, &config.start, &config.timeline, err)) {
        conn_free(conn);
        return WAL_RUN_FAILED;
    }
    if (request->verbose)
        log_info("starting log streaming at " LSN_FORMAT " (timeline %u)", LSN_ARGS(config.start),
                 config.timeline);
    config.sink = config.handoff = handoff_new(wal_dir_new(&dir, err), &handoff, err);
    receiver = wal_receiver_new(&config, err);
    if (receiver == NULL)
        return WAL_RUN_FAILED;
    result = wal_receiver_run(receiver, err);
    if (result != WAL_RUN_FAILED && request->verbose)
        log_info("stopped log streaming at " LSN_FORMAT " (timeline %u)",
                 LSN_ARGS(wal_receiver_position(receiver)), wal_receiver_timeline(receiver));
    wal_receiver_free(receiver);
    return result;
}

static WalRunResult
stream_once(Request *request, Error *err)
{
    Conn *conn = conn_open(&request->conn, err);
    WalShape shape;

    if (conn == NULL)
        return WAL_RUN_FAILED;
    request->connected = true;
    if (!learn_shape(conn, &shape, err)) {
        conn_free(conn);
        return WAL_RUN_FAILED;
    }
    return receive(request, conn, &shape, err);
}

/* ---- again and again ---- */

/*
 * What another try can mend: the server or the way to it. Our disk and our options it cannot, and a
 * first connection that fails is more likely a mistake in the options than a server that is away.
 */
static bool
worth_a_retry(const Request *request, const Error *err)
{
    if (!request->connected)
        return false;
    return err->code == ERR_CONNECTION || err->code == ERR_SERVER || err->code == ERR_PROTOCOL;
}

/* Returns false, with the failure, when there is nothing to wait for; true after the wait. */
static bool
wait_to_retry(const Request *request, const Stop *stop, const Error *failure, Error *err)
{
    if (!worth_a_retry(request, failure)) {
        *err = *failure;
        return false;
    }
    log_failure(failure);
    if (request->no_loop)
        return error_set(err, ERR_CONNECTION, "disconnected");
    log_info("disconnected; waiting %d seconds to try again", RETRY_SECONDS);
    return runtime_wait(-1, 0, INT64_C(1000) * RETRY_SECONDS, stop, NULL, err) != WAIT_FAILED;
}

/* A directory that is not there is a mistake to tell before anybody is connected to. */
static bool
check_directory(const char *path, Error *err)
{
    DIR *dir = opendir(path);

    if (dir == NULL)
        return error_set_errno(err, errno, "could not open directory \"%s\"", path);
    (void)closedir(dir);
    return true;
}

static bool
stream(void *ctx, Stop *stop, Error *err)
{
    Request *request = ctx;

    request->conn.stop = stop;
    if (request->create_slot || request->drop_slot)
        return act_on_slot(request, err);
    if (!check_directory(request->directory, err))
        return false;

    while (!stop_requested(stop)) {
        Error failure = ERROR_INIT;

        switch (stream_once(request, &failure)) {
        case WAL_RUN_REACHED:
            return true;
        case WAL_RUN_STOPPED:
            break;
        case WAL_RUN_FAILED:
            if (!stop_requested(stop) && !wait_to_retry(request, stop, &failure, err))
                return false;
            break;
        }
    }
    if (request->verbose)
        log_info("received interrupt signal, exiting");
    return true;
}

static int
run(const Command *command, int argc, char **argv)
{
    Request request = {
        .conn = {.progname = log_progname(), .ask_password = connect_ask_password},
        .status_interval_ms = 10000,
    };
    Error err = ERROR_INIT;
    int count;
    char **rest;

    request.conn.ask_ctx = &request.password;
    switch (options_read(command, argc, argv, take_option, &request, &count, &rest)) {
    case OPTIONS_READ:
        break;
    case OPTIONS_EXIT_OK:
        return 0;
    case OPTIONS_EXIT_BAD:
        return 1;
    }
    if (!options_rest_allowed(count, rest, 0) || !check_request(&request))
        return 1;
    if (signals_run(stream, &request, &err))
        return 0;
    signals_show_failure(&err);
    return 1;
}

const Command command_receivewal = {
    .name = "receivewal",
    .stock_name = "pg_receivewal",
    .summary = "receives PostgreSQL streaming write-ahead logs.",
    .brief = "stream WAL into a directory",
    .usage = "[OPTION]...",
    .options = options,
    .run = run,
};
