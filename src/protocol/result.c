/*
 * Waiting for the server, and what its results say.
 */
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "protocol/internal.h"

/* ---- errors ---- */

bool
error_set_libpq(Error *err, ErrorCode code, const char *text)
{
    size_t len = strlen(text);

    while (len > 0 && (text[len - 1] == '\n' || text[len - 1] == ' '))
        len--;
    if (len == 0)
        return error_set(err, code, "connection to server was lost");
    if (len > sizeof err->message)
        len = sizeof err->message;
    return error_set(err, code, "%.*s", (int)len, text);
}

bool
conn_context(Error *err, const char *fmt, ...)
{
    char text[sizeof err->message];
    va_list args;

    if (err->code == ERR_STOPPED)
        return false;
    va_start(args, fmt);
    (void)vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    return error_context(err, "%s", text);
}

/* Whether an error came from the server: what libpq makes up itself has no fields. */
static bool
result_is_servers(const PGresult *result)
{
    return PQresultErrorField(result, PG_DIAG_SEVERITY) != NULL ||
           PQresultErrorField(result, PG_DIAG_SQLSTATE) != NULL;
}

bool
result_error(const Conn *conn, const PGresult *result, Error *err)
{
    ExecStatusType status = PQresultStatus(result);
    const char *sqlstate;

    if (result == NULL)
        return error_set(err, ERR_PROTOCOL, "the server sent no result");
    if (status != PGRES_FATAL_ERROR && status != PGRES_BAD_RESPONSE)
        return error_set(err, ERR_PROTOCOL, "unexpected result %s", PQresStatus(status));
    if (!result_is_servers(result))
        return error_set_libpq(err,
                               PQstatus(conn->pg) == CONNECTION_BAD ? ERR_CONNECTION : ERR_PROTOCOL,
                               PQresultErrorMessage(result));
    (void)error_set_libpq(err, ERR_SERVER, PQresultErrorMessage(result));
    sqlstate = PQresultErrorField(result, PG_DIAG_SQLSTATE);
    (void)snprintf(err->sqlstate, sizeof err->sqlstate, "%s", sqlstate == NULL ? "" : sqlstate);
    return false;
}

/* ---- waiting ---- */

int64_t
wait_deadline(int64_t timeout_ms)
{
    int64_t now;

    if (timeout_ms < 0)
        return -1;
    now = clock_ms();
    return timeout_ms > INT64_MAX - now ? INT64_MAX : now + timeout_ms;
}

int64_t
wait_left(int64_t deadline)
{
    int64_t left;

    if (deadline < 0)
        return -1;
    left = deadline - clock_ms();
    return left < 0 ? 0 : left;
}

static WaitResult
connection_lost(Conn *conn, Error *err)
{
    (void)error_set_libpq(err, ERR_CONNECTION, PQerrorMessage(conn->pg));
    return WAIT_FAILED;
}

WaitResult
conn_fill(Conn *conn, const CopyWait *wait, int64_t deadline, Error *err)
{
    WaitResult waited;

    if (PQsocket(conn->pg) < 0)
        return connection_lost(conn, err);
    /* A TLS record may be longer than what libpq had room for; poll does not see the rest. */
    if (conn->encrypted && conn->read_again) {
        conn->read_again = false;
    } else {
        waited = runtime_wait(PQsocket(conn->pg), POLLIN, wait_left(deadline), wait->stop,
                              wait->bell, err);
        if (waited != WAIT_READY)
            return waited;
        conn->read_again = true;
    }
    return PQconsumeInput(conn->pg) ? WAIT_READY : connection_lost(conn, err);
}

WaitResult
conn_await_result(Conn *conn, const CopyWait *wait, Error *err)
{
    int64_t deadline = wait_deadline(wait->timeout_ms);

    while (conn->ahead == NULL && PQisBusy(conn->pg)) {
        WaitResult filled = conn_fill(conn, wait, deadline, err);

        if (filled != WAIT_READY)
            return filled;
    }
    return WAIT_READY;
}

bool
conn_next_result(Conn *conn, const CopyWait *wait, PGresult **ret_result, Error *err)
{
    switch (conn_await_result(conn, wait, err)) {
    case WAIT_READY:
        break;
    case WAIT_STOPPED:
    case WAIT_WOKEN:
        return error_set_stopped(err);
    case WAIT_TIMEOUT:
        return error_set(err, ERR_CONNECTION, "no answer from the server within %lld ms",
                         (long long)wait->timeout_ms);
    case WAIT_FAILED:
        return false;
    }
    *ret_result = conn->ahead != NULL ? conn->ahead : PQgetResult(conn->pg);
    conn->ahead = NULL;
    return true;
}

bool
conn_expect(Conn *conn, const CopyWait *wait, ExecStatusType wanted, PGresult **ret_result,
            Error *err)
{
    PGresult *result;

    if (!conn_next_result(conn, wait, &result, err))
        return false;
    if (PQresultStatus(result) != wanted) {
        (void)result_error(conn, result, err);
        PQclear(result);
        return false;
    }
    *ret_result = result;
    return true;
}

/* ---- sending ---- */

bool
conn_flush(Conn *conn, const CopyWait *wait, Error *err)
{
    int64_t deadline = wait_deadline(wait->timeout_ms);

    for (;;) {
        int unsent = PQflush(conn->pg);

        if (unsent == 0)
            return true;
        if (unsent < 0)
            return error_set_libpq(err, ERR_CONNECTION, PQerrorMessage(conn->pg));
        /* Input is taken meanwhile: a server that cannot send may not receive either. */
        switch (runtime_wait(PQsocket(conn->pg), POLLIN | POLLOUT, wait_left(deadline), wait->stop,
                             wait->bell, err)) {
        case WAIT_READY:
            break;
        case WAIT_STOPPED:
        case WAIT_WOKEN:
            return error_set_stopped(err);
        case WAIT_TIMEOUT:
            return error_set(err, ERR_CONNECTION, "the server took nothing for %lld ms",
                             (long long)wait->timeout_ms);
        case WAIT_FAILED:
            return false;
        }
        if (!PQconsumeInput(conn->pg))
            return error_set_libpq(err, ERR_CONNECTION, PQerrorMessage(conn->pg));
    }
}

static bool
status_is_copy(ExecStatusType status)
{
    return status == PGRES_COPY_IN || status == PGRES_COPY_OUT || status == PGRES_COPY_BOTH;
}

/* Leave behind what an earlier command has not read, an error included. */
static bool
conn_settle(Conn *conn, const CopyWait *wait, Error *err)
{
    while (conn->ahead != NULL || PQtransactionStatus(conn->pg) == PQTRANS_ACTIVE) {
        PGresult *result;
        ExecStatusType status;

        if (!conn_next_result(conn, wait, &result, err))
            return false;
        if (result == NULL)
            break;
        status = PQresultStatus(result);
        PQclear(result);
        if (status_is_copy(status))
            return error_set(err, ERR_PROTOCOL, "the connection is in the middle of a COPY");
    }
    copy_enter(conn, MODE_COMMAND);
    return true;
}

bool
conn_send(Conn *conn, const char *command, const Stop *stop, Error *err)
{
    const CopyWait wait = wait_until(stop);

    if (!conn_settle(conn, &wait, err))
        return false;
    if (!PQsendQuery(conn->pg, command))
        return error_set_libpq(err, ERR_CONNECTION, PQerrorMessage(conn->pg));
    return conn_flush(conn, &wait, err);
}

bool
conn_finish_command(Conn *conn, const CopyWait *wait, Error *err)
{
    for (;;) {
        PGresult *result;
        ExecStatusType status;
        bool good;

        if (!conn_next_result(conn, wait, &result, err))
            return false;
        if (result == NULL)
            return true;
        status = PQresultStatus(result);
        good = status == PGRES_COMMAND_OK || status == PGRES_TUPLES_OK;
        if (!good)
            (void)result_error(conn, result, err);
        PQclear(result);
        if (!good)
            return false;
    }
}

bool
conn_run(Conn *conn, const char *command, ExecStatusType wanted, PGresult **ret_result, Error *err)
{
    const CopyWait wait = wait_of(conn);
    PGresult *result = NULL;

    if (conn_send(conn, command, conn->stop, err) &&
        conn_expect(conn, &wait, wanted, &result, err) && conn_finish_command(conn, &wait, err)) {
        *ret_result = result;
        return true;
    }
    PQclear(result);
    return conn_context(err, "could not send replication command \"%s\"", command);
}

/* ---- fields ---- */

bool
result_one_row(const PGresult *result, int fields, Error *err)
{
    if (PQntuples(result) == 1 && PQnfields(result) >= fields)
        return true;
    return error_set(err, ERR_PROTOCOL,
                     "got %d rows and %d fields, expected %d rows and %d or more fields",
                     PQntuples(result), PQnfields(result), 1, fields);
}

bool
field_text(const PGresult *result, int row, int column, const char *what, const char **ret_text,
           Error *err)
{
    const char *text = PQgetvalue(result, row, column);

    if (text == NULL || PQgetisnull(result, row, column))
        return error_set(err, ERR_PROTOCOL, "the server sent no %s", what);
    if (strlen(text) != (size_t)PQgetlength(result, row, column))
        return error_set(err, ERR_PROTOCOL, "the server sent a %s with a zero byte in it", what);
    *ret_text = text;
    return true;
}

bool
field_lsn(const PGresult *result, int row, int column, const char *what, Lsn *ret_lsn, Error *err)
{
    const char *text;

    if (!field_text(result, row, column, what, &text, err))
        return false;
    return lsn_parse(text, ret_lsn) ||
           error_set(err, ERR_PROTOCOL, "could not parse %s \"%s\"", what, text);
}

bool
field_timeline(const PGresult *result, int row, int column, const char *what,
               TimeLineID *ret_timeline, Error *err)
{
    const char *text;
    TimeLineID timeline;

    if (!field_text(result, row, column, what, &text, err))
        return false;
    if (!u32_parse(text, &timeline) || timeline == 0)
        return error_set(err, ERR_PROTOCOL, "could not parse %s \"%s\"", what, text);
    *ret_timeline = timeline;
    return true;
}
