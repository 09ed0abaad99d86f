/*
 * For the files of this room and its tests: what a Conn is, and how results are waited for.
 *
 * libpq runs in its non-blocking mode: nothing here waits but runtime_wait, so that a Stop ends
 * every wait. Functions that fail leave libpq's own text in the Error; callers put in front of it
 * what they were doing (conn_context).
 *
 * A COPY ends with a result, and only that result tells a good end from a bad one. So it is read
 * before COPY_DONE is reported, and kept in `ahead` for the function that it belongs to.
 */
#ifndef PGSTOW_PROTOCOL_INTERNAL_H
#define PGSTOW_PROTOCOL_INTERNAL_H

#include <libpq-fe.h>

#include "protocol/protocol.h"

#define SEND_TIMEOUT_MS 30000

typedef enum ConnMode { MODE_COMMAND, MODE_COPY_OUT, MODE_COPY_BOTH } ConnMode;

struct Conn {
    PGconn *pg;
    ServerFeatures features;
    /*
     * How long the server may leave no room for a message of ours. It reads them between any two of
     * its own, so one that does not has hung, or the network has.
     */
    int64_t send_timeout_ms;
    const Stop *stop;    /* of the ConnConfig: ends the commands that take no Stop of their own */
    int64_t patience_ms; /* likewise */
    PGresult *ahead;     /* the next result, read already; NULL: none */
    ConnMode mode;
    bool server_ended; /* the server's side of this copy is over */
    bool client_ended; /* our CopyDone is sent */
    bool encrypted;    /* TLS or GSSAPI: bytes may wait in libpq where poll does not see them */
    bool read_again;   /* encrypted: libpq was not asked yet whether such bytes are left */
    char *message;     /* what copy_next handed out last */
    char *next;        /* a message that copy_has_buffered found; NULL: none */
    size_t next_len;
    Error failure; /* how this copy failed; ERR_NONE: it did not */
};

/* ERR_UNSUPPORTED: `message` says what the server lacks; the hint names its version and `since`. */
bool server_too_old(const ServerFeatures *features, int since, const char *message, Error *err);

/* As conn_open_beside, but to a database (NULL: to none): SQL is understood there too. */
Conn *conn_open_database_beside(const Conn *first, const ConnConfig *config, const char *database,
                                Error *err) MUST_USE;

/* ---- connection strings ---- */

/* PQconninfoParse; freed with PQconninfoFree. */
bool conninfo_parse(const char *conninfo, PQconninfoOption **ret_settings, Error *err) MUST_USE;

/*
 * Appends the database that was named by `config`, the environment or a service, if any was. The
 * connections themselves have a dbname in any case, ours.
 */
bool conninfo_database(const ConnConfig *config, Buf *database, Error *err) MUST_USE;

/*
 * The text that conn_primary_conninfo makes of a connection's settings (as PQconninfo gives them)
 * for a standby of this major version, and a dbname (may be NULL); pure. `conninfo` is empty
 * before.
 */
bool conninfo_format(const PQconninfoOption *settings, int major, const char *dbname, Buf *conninfo,
                     Error *err) MUST_USE;

/* ---- waiting, sending, results ---- */

/* A command other than the end of a stream waits for as long as the server takes, or until a stop.
 */
static inline CopyWait
wait_until(const Stop *stop)
{
    return (CopyWait){.timeout_ms = -1, .stop = stop};
}

/* That of a command which takes no Stop of its own. */
static inline CopyWait
wait_of(const Conn *conn)
{
    return (CopyWait){.timeout_ms = conn->patience_ms > 0 ? conn->patience_ms : -1,
                      .stop = conn->stop};
}

/* The moment (clock_ms) at which a wait that begins now is over, -1: never; and what is left of it.
 */
int64_t wait_deadline(int64_t timeout_ms);
int64_t wait_left(int64_t deadline);

/* Set `err` to a text of libpq, without the newline at its end. */
bool error_set_libpq(Error *err, ErrorCode code, const char *text);

/* error_context, except that a stop stays a plain "stopped". */
bool conn_context(Error *err, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* Why `result` (NULL: there was none) is not what was expected. */
bool result_error(const Conn *conn, const PGresult *result, Error *err);

/*
 * Wait for bytes of the server and let libpq take them. WAIT_READY: some may have come. WAIT_FAILED
 * covers a connection that broke.
 */
WaitResult conn_fill(Conn *conn, const CopyWait *wait, int64_t deadline, Error *err) MUST_USE;

/* Wait until conn_next_result has its result without waiting. */
WaitResult conn_await_result(Conn *conn, const CopyWait *wait, Error *err) MUST_USE;

/* The next result of the running command, owned by the caller; NULL behind the last one. */
bool conn_next_result(Conn *conn, const CopyWait *wait, PGresult **ret_result, Error *err) MUST_USE;

/* The next result; anything but `wanted` is an error. */
bool conn_expect(Conn *conn, const CopyWait *wait, ExecStatusType wanted, PGresult **ret_result,
                 Error *err) MUST_USE;

/* Send what libpq has buffered, for as long as `wait` allows. */
bool conn_flush(Conn *conn, const CopyWait *wait, Error *err) MUST_USE;

/* Send a command, after the results of an earlier one that failed. */
bool conn_send(Conn *conn, const char *command, const Stop *stop, Error *err) MUST_USE;

/* Read up to the end of the running command; an error among the results is one. */
bool conn_finish_command(Conn *conn, const CopyWait *wait, Error *err) MUST_USE;

/* Run a command that answers with one result of `wanted`, which the caller owns. */
bool conn_run(Conn *conn, const char *command, ExecStatusType wanted, PGresult **ret_result,
              Error *err) MUST_USE;

/* A COPY has begun, or is left behind. */
void copy_enter(Conn *conn, ConnMode mode);

/* One row of `fields` fields or more. */
bool result_one_row(const PGresult *result, int fields, Error *err) MUST_USE;

/* One field of one row, checked. `what` names it in the error: `could not parse WHAT "value"`. */
bool field_text(const PGresult *result, int row, int column, const char *what,
                const char **ret_text, Error *err) MUST_USE;
bool field_lsn(const PGresult *result, int row, int column, const char *what, Lsn *ret_lsn,
               Error *err) MUST_USE;
bool field_timeline(const PGresult *result, int row, int column, const char *what,
                    TimeLineID *ret_timeline, Error *err) MUST_USE;

#endif
