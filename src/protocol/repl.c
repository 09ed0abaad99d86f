/*
 * The replication commands that have no file of their own (base_backup.c, upload.c, settings.c).
 * Scripts match on the messages of the stock tools, so these say the same in the same words.
 * Columns that a later server adds are ignored; missing ones are not.
 */
#include <stdio.h>
#include <string.h>

#include "protocol/internal.h"

/* How long the results behind a stream may take. It has no Stop: a stop is why streams end. */
#define STREAM_END_TIMEOUT_MS 10000

/* How long a slot may take to be made. */
#define CREATE_SLOT_TIMEOUT_MS 30000

/* ---- the server ---- */

static bool
identity_read(const PGresult *result, ServerIdentity *identity, Error *err)
{
    const char *system_id;

    if (!result_one_row(result, 3, err))
        return error_context(err, "could not identify system");
    if (!field_text(result, 0, 0, "system identifier", &system_id, err))
        return false;
    if (!u64_parse(system_id, &identity->system_id))
        return error_set(err, ERR_PROTOCOL, "could not parse system identifier \"%s\"", system_id);
    return field_timeline(result, 0, 1, "timeline", &identity->timeline, err) &&
           field_lsn(result, 0, 2, "write-ahead log location", &identity->position, err);
}

bool
repl_identify_system(Conn *conn, ServerIdentity *ret_identity, Error *err)
{
    PGresult *result = NULL;
    ServerIdentity identity;
    bool ok;

    if (!conn_run(conn, "IDENTIFY_SYSTEM", PGRES_TUPLES_OK, &result, err))
        return false;
    ok = identity_read(result, &identity, err);
    PQclear(result);
    if (ok)
        *ret_identity = identity;
    return ok;
}

/* ---- slots ---- */

/* `VERB "name"REST` */
static bool
slot_command(Buf *command, const char *verb, const char *name, const char *rest, Error *err)
{
    return buf_printf(command, err, "%s ", verb) && repl_quote_identifier(command, name, err) &&
           buf_printf(command, err, "%s", rest);
}

static const char *
create_slot_rest(const Conn *conn, SlotKind kind, SlotReserve reserve)
{
    bool temporary = kind == SLOT_TEMPORARY;

    if (reserve == SLOT_RESERVE_LATER)
        return temporary ? " TEMPORARY PHYSICAL" : " PHYSICAL";
    if (conn->features.command_options)
        return temporary ? " TEMPORARY PHYSICAL (RESERVE_WAL)" : " PHYSICAL (RESERVE_WAL)";
    return temporary ? " TEMPORARY PHYSICAL RESERVE_WAL" : " PHYSICAL RESERVE_WAL";
}

/*
 * A stop in mid-command would leave nobody who knows whether there is a slot now: the answer is
 * waited for, within a limit, and the stop is noticed by whatever comes next.
 */
static bool
run_to_its_end(Conn *conn, const char *command, PGresult **ret_result, Error *err)
{
    const Stop *stop = conn->stop;
    Stop limit;
    bool ok;

    if (!stop_check(stop, err) || !stop_init_after(&limit, CREATE_SLOT_TIMEOUT_MS, err))
        return false;
    conn->stop = &limit;
    ok = conn_run(conn, command, PGRES_TUPLES_OK, ret_result, err);
    conn->stop = stop;
    stop_destroy(&limit);
    if (!ok && err->code == ERR_STOPPED)
        return error_set(err, ERR_CONNECTION,
                         "the server did not answer in time: the slot may have been made");
    return ok;
}

bool
repl_create_slot(Conn *conn, const char *name, SlotKind kind, SlotReserve reserve, Error *err)
{
    Buf command = BUF_INIT;
    PGresult *result = NULL;
    bool ok = slot_command(&command, "CREATE_REPLICATION_SLOT", name,
                           create_slot_rest(conn, kind, reserve), err) &&
              run_to_its_end(conn, buf_text(&command), &result, err);

    if (ok && !result_one_row(result, 4, err))
        ok = error_context(err, "could not create replication slot \"%s\"", name);
    PQclear(result);
    buf_free(&command);
    return ok;
}

bool
repl_drop_slot(Conn *conn, const char *name, Error *err)
{
    Buf command = BUF_INIT;
    PGresult *result = NULL;
    bool ok = slot_command(&command, "DROP_REPLICATION_SLOT", name, "", err) &&
              conn_run(conn, buf_text(&command), PGRES_COMMAND_OK, &result, err);

    PQclear(result);
    buf_free(&command);
    return ok;
}

static bool
slot_state_read(const PGresult *result, const char *name, SlotState *ret_state, Error *err)
{
    SlotState state = {.exists = true};
    const char *type;

    if (!result_one_row(result, 3, err))
        return error_context(err, "could not read replication slot \"%s\"", name);
    if (PQgetisnull(result, 0, 0)) {
        *ret_state = (SlotState){.exists = false};
        return true;
    }
    if (!field_text(result, 0, 0, "slot type", &type, err))
        return false;
    if (strcmp(type, "physical") != 0)
        return error_set(err, ERR_UNSUPPORTED,
                         "expected a physical replication slot, got type \"%s\" instead", type);
    if (!PQgetisnull(result, 0, 1)) {
        state.has_position = true;
        if (!field_lsn(result, 0, 1, "restart_lsn", &state.restart_lsn, err) ||
            !field_timeline(result, 0, 2, "restart_tli", &state.restart_timeline, err))
            return error_context(err, "replication slot \"%s\"", name);
    }
    *ret_state = state;
    return true;
}

bool
repl_read_slot(Conn *conn, const char *name, SlotState *ret_state, Error *err)
{
    Buf command = BUF_INIT;
    PGresult *result = NULL;
    bool ok;

    if (!conn->features.read_slot)
        return error_set(err, ERR_UNSUPPORTED,
                         "server version %s cannot tell the position of replication slot \"%s\"",
                         conn_version_text(conn), name);
    ok = slot_command(&command, "READ_REPLICATION_SLOT", name, "", err) &&
         conn_run(conn, buf_text(&command), PGRES_TUPLES_OK, &result, err) &&
         slot_state_read(result, name, ret_state, err);
    PQclear(result);
    buf_free(&command);
    return ok;
}

/* ---- timelines ---- */

/* The content is the file's own bytes, whatever type the column claims to have. */
static bool
history_read(const PGresult *result, TimeLineID timeline, Buf *content, Error *err)
{
    char expected[32];
    const char *name;

    if (!result_one_row(result, 2, err))
        return error_context(err, "unexpected response to TIMELINE_HISTORY command");
    if (!field_text(result, 0, 0, "history file name", &name, err))
        return false;
    (void)snprintf(expected, sizeof expected, "%08X.history", timeline);
    if (strcmp(name, expected) != 0)
        return error_set(err, ERR_PROTOCOL,
                         "server reported unexpected history file name for timeline %u: %s",
                         timeline, name);
    if (PQgetisnull(result, 0, 1))
        return error_set(err, ERR_PROTOCOL, "the server sent no content of history file \"%s\"",
                         name);
    return buf_append(content, PQgetvalue(result, 0, 1), (size_t)PQgetlength(result, 0, 1), err);
}

bool
repl_timeline_history(Conn *conn, TimeLineID timeline, Buf *content, Error *err)
{
    char command[64];
    PGresult *result = NULL;
    bool ok;

    (void)snprintf(command, sizeof command, "TIMELINE_HISTORY %u", timeline);
    if (!conn_run(conn, command, PGRES_TUPLES_OK, &result, err))
        return false;
    ok = history_read(result, timeline, content, err);
    PQclear(result);
    return ok;
}

/* ---- streaming ---- */

static bool
start_command(Buf *command, const char *slot, Lsn start, TimeLineID timeline, Error *err)
{
    if (slot != NULL) {
        if (!slot_command(command, "START_REPLICATION SLOT", slot, "", err))
            return false;
    } else if (!buf_printf(command, err, "START_REPLICATION")) {
        return false;
    }
    return buf_printf(command, err, " " LSN_FORMAT " TIMELINE %u", LSN_ARGS(start), timeline);
}

/* What the server makes of the command. */
static StreamStart
start_result(Conn *conn, Error *err)
{
    const CopyWait wait = wait_of(conn);
    PGresult *result = NULL;
    StreamStart start = STREAM_FAILED;

    if (!conn_next_result(conn, &wait, &result, err))
        return STREAM_FAILED;
    switch ((int)PQresultStatus(result)) {
    case PGRES_COPY_BOTH:
        copy_enter(conn, MODE_COPY_BOTH);
        start = STREAM_STARTED;
        break;
    case PGRES_TUPLES_OK:
        conn->ahead = result; /* repl_stream_end reads where the next timeline begins */
        return STREAM_AT_SWITCH;
    default:
        (void)result_error(conn, result, err);
        break;
    }
    PQclear(result);
    return start;
}

StreamStart
repl_start_streaming(Conn *conn, const char *slot, Lsn start, TimeLineID timeline, Error *err)
{
    Buf command = BUF_INIT;
    StreamStart started = STREAM_FAILED;

    if (start_command(&command, slot, start, timeline, err)) {
        if (conn_send(conn, buf_text(&command), conn->stop, err))
            started = start_result(conn, err);
        if (started == STREAM_FAILED)
            (void)conn_context(err, "could not send replication command \"%s\"",
                               "START_REPLICATION");
    }
    buf_free(&command);
    return started;
}

static bool
stream_end_read(const PGresult *result, StreamEnd *end, Error *err)
{
    if (PQntuples(result) != 1 || PQnfields(result) < 2)
        return error_set(err, ERR_PROTOCOL,
                         "unexpected result set after end-of-timeline: got %d rows and %d fields, "
                         "expected %d rows and %d fields",
                         PQntuples(result), PQnfields(result), 1, 2);
    end->has_next = true;
    /* A server 10 may say so while it is being promoted. */
    if (strcmp(PQgetvalue(result, 0, 0), "0") == 0)
        return error_set(err, ERR_PROTOCOL,
                         "the server ended the timeline and does not know which follows: it was "
                         "promoted in the middle of the stream");
    return field_timeline(result, 0, 0, "next timeline", &end->next_timeline, err) &&
           field_lsn(result, 0, 1, "next timeline's starting point", &end->next_start, err);
}

/* One of the results behind the stream. */
static bool
stream_end_step(Conn *conn, const PGresult *result, StreamEnd *end, bool *completed, Error *err)
{
    if (PQresultStatus(result) == PGRES_TUPLES_OK && !end->has_next && !*completed)
        return stream_end_read(result, end, err);
    if (PQresultStatus(result) != PGRES_COMMAND_OK)
        return result_error(conn, result, err) ||
               error_context(err, "unexpected termination of replication stream");
    *completed = true;
    return true;
}

bool
repl_stream_end(Conn *conn, StreamEnd *ret_end, Error *err)
{
    const CopyWait wait = {.timeout_ms = STREAM_END_TIMEOUT_MS};
    StreamEnd end = {.has_next = false};
    Error failure = ERROR_INIT;
    PGresult *result = NULL;
    bool completed = false;
    bool ok;

    do {
        PQclear(result);
        result = NULL;
        ok = conn_next_result(conn, &wait, &result, &failure);
    } while (ok && result != NULL &&
             (ok = stream_end_step(conn, result, &end, &completed, &failure)));
    PQclear(result);
    copy_enter(conn, MODE_COMMAND);

    /* A server that shuts down completes the command and is gone: its stream ended well. */
    if (!ok && !(completed && !end.has_next && failure.code == ERR_CONNECTION)) {
        *err = failure;
        return false;
    }
    if (!completed)
        return error_set(
            err, ERR_PROTOCOL,
            "unexpected termination of replication stream: the server did not complete "
            "the command");
    *ret_end = end;
    return true;
}
