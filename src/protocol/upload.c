/*
 * UPLOAD_MANIFEST (documentation: "Streaming Replication Protocol"):
 *
 *   COPY_IN  { our CopyData }  our CopyDone  COMMAND_OK
 *
 * A server that finds fault with the manifest says so at once and throws away what still comes. But
 * libpq shows nothing of that before our side of the COPY has ended. So all of the manifest is
 * sent, while input is taken, and the error is read behind the end. Only a server that takes
 * nothing any more has its last words looked up before.
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

#include "common/file.h"
#include "protocol/internal.h"

#define PIECE_SIZE 65536

typedef struct Upload {
    Conn *conn;
    CopyWait patience; /* how long the server may take over a piece */
    const char *path;
    int fd;
    char piece[PIECE_SIZE];
    size_t len; /* 0: the file has ended */
} Upload;

static bool
piece_read(Upload *upload, Error *err)
{
    return file_read(upload->fd, upload->piece, sizeof upload->piece, upload->path, &upload->len,
                     err);
}

/* The first piece too: that a file cannot be read (a directory is one) shows only then. */
static bool
manifest_open(Upload *upload, Error *err)
{
    struct stat st;

    /* A pipe could hold us for ever, already when it is opened. */
    upload->fd = file_open(upload->path, O_RDONLY | O_NONBLOCK, 0, err);
    if (upload->fd < 0)
        return false;
    if (fstat(upload->fd, &st) != 0)
        return error_set_errno(err, errno, "could not stat file \"%s\"", upload->path);
    if (!S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode))
        return error_set(err, ERR_USAGE, "\"%s\" is not a regular file", upload->path);
    return piece_read(upload, err);
}

/* The next result of the server, and nothing but `wanted`. */
static bool
upload_expect(Conn *conn, const CopyWait *wait, ExecStatusType wanted, Error *err)
{
    PGresult *result = NULL;
    ExecStatusType status;
    bool ok = conn_next_result(conn, wait, &result, err);

    if (!ok)
        return false;
    status = PQresultStatus(result);
    if (status == PGRES_FATAL_ERROR)
        ok = result_error(conn, result, err);
    else if (status != wanted)
        ok = error_set(err, ERR_PROTOCOL, "unexpected status %s", PQresStatus(status));
    PQclear(result);
    return ok;
}

static bool
upload_begin(const Upload *upload, const CopyWait *wait, Error *err)
{
    if (!conn_send(upload->conn, "UPLOAD_MANIFEST", wait->stop, err))
        return conn_context(err, "could not send replication command \"%s\"", "UPLOAD_MANIFEST");
    return upload_expect(upload->conn, wait, PGRES_COPY_IN, err) ||
           conn_context(err, "could not upload manifest");
}

/* Sending failed. What the server said before is a better reason than `err`. */
static bool
last_words(Conn *conn, Error *err)
{
    const CopyWait no_wait = {.timeout_ms = 0};
    PGresult *result = NULL;
    Error ignored = ERROR_INIT;

    if (err->code == ERR_STOPPED)
        return false;
    if (conn_next_result(conn, &no_wait, &result, &ignored) && result != NULL &&
        PQresultStatus(result) == PGRES_FATAL_ERROR)
        (void)result_error(conn, result, err);
    PQclear(result);
    return conn_context(err, "could not upload manifest");
}

/* Whether what was put (as PQputCopyData says) got out. */
static bool
put_flush(const Upload *upload, int put, Error *err)
{
    if (put == 0)
        return error_set_memory(err);
    if (put < 0)
        return error_set_libpq(err, ERR_CONNECTION, PQerrorMessage(upload->conn->pg));
    return conn_flush(upload->conn, &upload->patience, err);
}

static bool
pieces_send(Upload *upload, Error *err)
{
    PGconn *pg = upload->conn->pg;

    while (upload->len > 0) {
        if (!stop_check(upload->patience.stop, err))
            return false;
        if (!put_flush(upload, PQputCopyData(pg, upload->piece, (int)upload->len), err)) {
            /* A reason in place of the end: a part must not be taken for the whole. */
            (void)PQputCopyEnd(pg, "the manifest could not be sent");
            return last_words(upload->conn, err);
        }
        if (!piece_read(upload, err))
            return false;
    }
    return true;
}

/* What the server makes of it. */
static bool
upload_end(const Upload *upload, const CopyWait *wait, Error *err)
{
    Conn *conn = upload->conn;

    if (!put_flush(upload, PQputCopyEnd(conn->pg, NULL), err))
        return last_words(conn, err);
    return (upload_expect(conn, wait, PGRES_COMMAND_OK, err) &&
            conn_finish_command(conn, wait, err)) ||
           conn_context(err, "could not upload manifest");
}

bool
repl_upload_manifest(Conn *conn, const char *path, const Stop *stop, Error *err)
{
    const CopyWait wait = wait_until(stop);
    Upload upload = {.conn = conn,
                     .patience = {.timeout_ms = conn->send_timeout_ms, .stop = stop},
                     .path = path,
                     .fd = -1};
    bool ok;

    if (!conn->features.wal_summaries)
        return server_too_old(&conn->features, 17, "server does not support incremental backup",
                              err);
    ok = manifest_open(&upload, err) && upload_begin(&upload, &wait, err) &&
         pieces_send(&upload, err) && upload_end(&upload, &wait, err);
    file_close_quietly(upload.fd);
    return ok;
}
