/*
 * Copy streams. What ends the server's side of a COPY is not always its CopyDone: the completion of
 * the command or an error may come instead, and libpq tells them apart only by the result behind.
 * The results that can be found there:
 *
 *   COPY OUT   COPY_OUT, TUPLES_OK   the next archive, or the end of the backup
 *   COPY BOTH  COPY_IN               the end of the server's timeline; our CopyDone is wanted
 *              COMMAND_OK            the server shuts down, or answers our CopyDone
 *              TUPLES_OK             answers our CopyDone on a timeline that ended
 *   both       FATAL_ERROR
 */
#include <limits.h>

#include "protocol/internal.h"

void
copy_enter(Conn *conn, ConnMode mode)
{
    PQfreemem(conn->message);
    PQfreemem(conn->next);
    conn->message = NULL;
    conn->next = NULL;
    conn->mode = mode;
    conn->server_ended = false;
    conn->client_ended = false;
    conn->failure = ERROR_INIT;
}

/* ---- receiving ---- */

/* A failure of the stream stays: every later call answers with it. */
static CopyResult
copy_fail(Conn *conn, Error *err)
{
    *err = conn->failure;
    return COPY_FAILED;
}

typedef enum Look { LOOK_MESSAGE, LOOK_NOTHING, LOOK_ENDED, LOOK_FAILED } Look;

/* What libpq has in memory. */
static Look
copy_look(Conn *conn)
{
    int got;

    if (conn->failure.code != ERR_NONE)
        return LOOK_FAILED;
    if (conn->next != NULL)
        return LOOK_MESSAGE;
    if (conn->server_ended)
        return LOOK_ENDED;
    got = PQgetCopyData(conn->pg, &conn->next, 1);
    if (got > 0) {
        conn->next_len = (size_t)got;
        return LOOK_MESSAGE;
    }
    if (got == 0)
        return LOOK_NOTHING;
    if (got == -1) {
        conn->server_ended = true;
        return LOOK_ENDED;
    }
    (void)error_set_libpq(&conn->failure, ERR_PROTOCOL, PQerrorMessage(conn->pg));
    (void)error_context(&conn->failure, "could not read COPY data");
    return LOOK_FAILED;
}

static bool
end_is_good(const Conn *conn, ExecStatusType status)
{
    if (status == PGRES_TUPLES_OK || status == PGRES_COMMAND_OK)
        return true;
    return status == (conn->mode == MODE_COPY_OUT ? PGRES_COPY_OUT : PGRES_COPY_IN);
}

/* The result behind the COPY has come: it stays in `ahead` when it is good. */
static CopyResult
copy_ended(Conn *conn, Error *err)
{
    if (conn->ahead == NULL)
        conn->ahead = PQgetResult(conn->pg);
    if (end_is_good(conn, PQresultStatus(conn->ahead)))
        return COPY_DONE;
    (void)result_error(conn, conn->ahead, &conn->failure);
    (void)error_context(&conn->failure, "%s",
                        conn->mode == MODE_COPY_OUT
                            ? "could not read COPY data"
                            : "unexpected termination of replication stream");
    PQclear(conn->ahead);
    conn->ahead = NULL;
    return copy_fail(conn, err);
}

/* A wait that did not bring what was waited for. */
static CopyResult
copy_wait_ended(Conn *conn, WaitResult waited, Error *err)
{
    switch (waited) {
    case WAIT_READY:
    case WAIT_TIMEOUT:
        return COPY_IDLE;
    case WAIT_STOPPED:
        return COPY_STOPPED;
    case WAIT_WOKEN:
        return COPY_WOKEN;
    case WAIT_FAILED:
        break;
    }
    (void)error_context(&conn->failure, "%s",
                        conn->mode == MODE_COPY_OUT ? "could not read COPY data"
                                                    : "could not receive data from WAL stream");
    return copy_fail(conn, err);
}

static CopyResult
copy_await_end(Conn *conn, const CopyWait *wait, int64_t deadline, Error *err)
{
    const CopyWait rest = {
        .timeout_ms = wait_left(deadline), .stop = wait->stop, .bell = wait->bell};
    WaitResult waited = conn_await_result(conn, &rest, &conn->failure);

    return waited == WAIT_READY ? copy_ended(conn, err) : copy_wait_ended(conn, waited, err);
}

static CopyResult
copy_hand_out(Conn *conn, Span *ret_message)
{
    conn->message = conn->next;
    conn->next = NULL;
    *ret_message = (Span){.data = (const uint8_t *)conn->message, .len = conn->next_len};
    return COPY_MESSAGE;
}

CopyResult
copy_next(Conn *conn, const CopyWait *wait, Span *ret_message, Error *err)
{
    int64_t deadline = wait_deadline(wait->timeout_ms);
    WaitResult waited = WAIT_READY;

    if (conn->mode == MODE_COMMAND) {
        (void)error_set(err, ERR_BUG, "there is no COPY to read from");
        return COPY_FAILED;
    }
    PQfreemem(conn->message);
    conn->message = NULL;
    for (bool expired = false;; expired = wait_left(deadline) == 0) {
        if (wait->stop != NULL && stop_requested(wait->stop))
            return COPY_STOPPED;
        switch (copy_look(conn)) {
        case LOOK_MESSAGE:
            return copy_hand_out(conn, ret_message);
        case LOOK_ENDED:
            return copy_await_end(conn, wait, deadline, err);
        case LOOK_FAILED:
            return copy_fail(conn, err);
        case LOOK_NOTHING:
            break;
        }
        /* Pieces of a message may go on coming for longer than the caller wants to wait. */
        if (expired)
            return COPY_IDLE;
        waited = conn_fill(conn, wait, deadline, &conn->failure);
        if (waited != WAIT_READY)
            return copy_wait_ended(conn, waited, err);
    }
}

bool
copy_has_buffered(Conn *conn)
{
    if (conn->mode == MODE_COMMAND)
        return false;
    switch (copy_look(conn)) {
    case LOOK_MESSAGE:
    case LOOK_FAILED:
        return true;
    case LOOK_ENDED:
        return conn->ahead != NULL || !PQisBusy(conn->pg);
    case LOOK_NOTHING:
        break;
    }
    return false;
}

/* ---- sending ---- */

/*
 * Whether the server still listens: it does after its CopyDone, but not after it completed or
 * failed the command. libpq knows at once which of them it was.
 */
static bool
server_listens(Conn *conn)
{
    if (!conn->server_ended)
        return true;
    if (conn->ahead == NULL && !PQisBusy(conn->pg))
        conn->ahead = PQgetResult(conn->pg);
    return PQresultStatus(conn->ahead) == PGRES_COPY_IN;
}

/*
 * A connection that breaks while we send is not our failure: what the server said before may still
 * be unread, so copy_next reports it.
 */
static bool
sent(Conn *conn, int put, Error *err)
{
    const CopyWait patience = {.timeout_ms = conn->send_timeout_ms};
    Error failure = ERROR_INIT;

    if (put == 0)
        return error_set_memory(err);
    if (put < 0)
        (void)error_set_libpq(&failure, ERR_CONNECTION, PQerrorMessage(conn->pg));
    else if (conn_flush(conn, &patience, &failure))
        return true;
    if (PQstatus(conn->pg) == CONNECTION_BAD)
        return true;
    *err = failure;
    return false;
}

bool
copy_send(Conn *conn, Span message, Error *err)
{
    if (conn->mode != MODE_COPY_BOTH || conn->client_ended || message.len > INT_MAX)
        return error_set(err, ERR_BUG, "there is no COPY to send %zu bytes to", message.len);
    if (!server_listens(conn))
        return true;
    return sent(conn, PQputCopyData(conn->pg, (const char *)message.data, (int)message.len), err) ||
           error_context(err, "could not send feedback packet");
}

bool
copy_end(Conn *conn, Error *err)
{
    if (conn->mode != MODE_COPY_BOTH)
        return error_set(err, ERR_BUG, "there is no COPY to end");
    if (conn->client_ended || !server_listens(conn))
        return true;
    conn->client_ended = true;
    PQclear(conn->ahead); /* the COPY_IN that asked for this */
    conn->ahead = NULL;
    return sent(conn, PQputCopyEnd(conn->pg, NULL), err) ||
           error_context(err, "could not send copy-end packet");
}
