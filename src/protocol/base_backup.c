/*
 * BASE_BACKUP (documentation: "Streaming Replication Protocol"; the order of the options is that of
 * the stock tools). The replies, in every version:
 *
 *   TUPLES_OK start  TUPLES_OK archives  { COPY_OUT }  TUPLES_OK end  COMMAND_OK
 *
 * with one COPY_OUT from 15 on, and one per archive and one for the manifest before. Command tags
 * changed over the releases and are never looked at.
 */
#include <stdlib.h>
#include <string.h>

#include "protocol/internal.h"

/* ---- the command ---- */

/* Takes options one after the other; after a failure it takes no more. */
typedef struct OptionList {
    Buf *command;
    bool modern; /* NAME value, ... instead of NAME value ... */
    bool any;
    bool ok;
    Error *err;
} OptionList;

static void
option_word(OptionList *list, const char *name)
{
    const char *separator = list->modern ? ", " : " ";

    if (!list->any)
        separator = list->modern ? " (" : " ";
    list->any = true;
    list->ok = list->ok && buf_printf(list->command, list->err, "%s%s", separator, name);
}

static void
option_number(OptionList *list, const char *name, uint32_t number)
{
    option_word(list, name);
    list->ok = list->ok && buf_printf(list->command, list->err, " %u", number);
}

static void
option_text(OptionList *list, const char *name, const char *text)
{
    option_word(list, name);
    list->ok = list->ok && buf_printf(list->command, list->err, " ") &&
               repl_quote_literal(list->command, text, list->err);
}

/*
 * Said in every case where it can be: the server remembers the last value for the whole session.
 * The old form can only switch verification off.
 */
static void
option_verify(OptionList *list, const BaseBackupRequest *request, const ServerFeatures *features)
{
    if (list->modern)
        option_number(list, "VERIFY_CHECKSUMS", request->verify_checksums ? 1 : 0);
    else if (!request->verify_checksums && features->verify_checksums)
        option_word(list, "NOVERIFY_CHECKSUMS");
}

static void
option_manifest(OptionList *list, const BaseBackupRequest *request, const ServerFeatures *features)
{
    if (request->manifest == MANIFEST_NO || !features->manifest)
        return;
    option_text(list, "MANIFEST",
                request->manifest == MANIFEST_FORCE_ENCODE ? "force-encode" : "yes");
    if (request->manifest_checksums != NULL)
        option_text(list, "MANIFEST_CHECKSUMS", request->manifest_checksums);
}

/*
 * A target other than us: nobody here can make the links that TABLESPACE_MAP stands for, so it is
 * always asked for.
 */
static void
option_target(OptionList *list, const BaseBackupRequest *request)
{
    if (request->target == NULL) {
        option_text(list, "TARGET", "client");
        return;
    }
    option_word(list, "TABLESPACE_MAP");
    option_text(list, "TARGET", request->target);
    if (request->target_detail != NULL)
        option_text(list, "TARGET_DETAIL", request->target_detail);
}

static void
option_compression(OptionList *list, const BaseBackupRequest *request)
{
    if (request->compression == NULL)
        return;
    option_text(list, "COMPRESSION", request->compression);
    if (request->compression_detail != NULL)
        option_text(list, "COMPRESSION_DETAIL", request->compression_detail);
}

/* What is left out in silence would make another backup than the one that was asked for. */
static bool
request_check(const BaseBackupRequest *request, const ServerFeatures *features, Error *err)
{
    if (request->incremental && !features->wal_summaries)
        return server_too_old(features, 17, "server does not support incremental backup", err);
    if (request->target != NULL && !features->backup_targets)
        return server_too_old(features, 15,
                              "backup targets are not supported by this server version", err);
    if (request->compression != NULL && !features->compression)
        return server_too_old(features, 15, "server does not support server-side compression", err);
    return true;
}

bool
base_backup_command(const BaseBackupRequest *request, const ServerFeatures *features, Buf *command,
                    Error *err)
{
    OptionList list = {.command = command, .modern = features->command_options, .err = err};

    if (!request_check(request, features, err))
        return false;
    list.ok = buf_printf(command, err, "BASE_BACKUP");
    if (request->incremental)
        option_word(&list, "INCREMENTAL");
    option_text(&list, "LABEL", request->label);
    if (request->progress)
        option_word(&list, "PROGRESS");
    if (request->include_wal)
        option_word(&list, "WAL");
    if (request->fast_checkpoint && list.modern)
        option_text(&list, "CHECKPOINT", "fast");
    else if (request->fast_checkpoint)
        option_word(&list, "FAST");
    if (request->no_wait)
        option_word(&list, list.modern ? "WAIT 0" : "NOWAIT");
    if (request->max_rate_kb > 0)
        option_number(&list, "MAX_RATE", request->max_rate_kb);
    if (request->tablespace_map && request->target == NULL)
        option_word(&list, "TABLESPACE_MAP");
    option_verify(&list, request, features);
    option_manifest(&list, request, features);
    if (!list.modern)
        return list.ok;
    option_target(&list, request);
    option_compression(&list, request);
    return list.ok && buf_printf(command, err, ")");
}

/* ---- the beginning ---- */

static bool
start_read(const PGresult *result, BackupStart *start, Error *err)
{
    if (PQntuples(result) != 1 || PQnfields(result) < 2)
        return error_set(err, ERR_PROTOCOL,
                         "server returned unexpected response to BASE_BACKUP command; got %d rows "
                         "and %d fields, expected %d rows and %d fields",
                         PQntuples(result), PQnfields(result), 1, 2);
    return field_lsn(result, 0, 0, "write-ahead log location", &start->lsn, err) &&
           field_timeline(result, 0, 1, "timeline", &start->timeline, err);
}

static bool
size_read(const PGresult *result, int row, uint64_t *ret_size_kb, Error *err)
{
    const char *text;

    if (PQgetisnull(result, row, 2)) {
        *ret_size_kb = 0;
        return true;
    }
    if (!field_text(result, row, 2, "tablespace size", &text, err))
        return false;
    return u64_parse(text, ret_size_kb) ||
           error_set(err, ERR_PROTOCOL, "could not parse tablespace size \"%s\"", text);
}

/* One row of the header; `tablespace` is zeroed. */
static bool
tablespace_read(const PGresult *result, int row, Tablespace *tablespace, Error *err)
{
    const char *oid;
    const char *location;
    bool is_base = PQgetisnull(result, row, 0);

    if (is_base != (row == PQntuples(result) - 1))
        return error_set(err, ERR_PROTOCOL,
                         "server did not list the data directory once, as the last archive");
    if (!size_read(result, row, &tablespace->size_kb, err))
        return false;
    if (is_base)
        return true;
    if (!field_text(result, row, 0, "tablespace OID", &oid, err) ||
        !field_text(result, row, 1, "tablespace location", &location, err))
        return false;
    if (!u32_parse(oid, &tablespace->oid) || tablespace->oid == 0)
        return error_set(err, ERR_PROTOCOL, "could not parse tablespace OID \"%s\"", oid);
    if (location[0] == '\0')
        return error_set(err, ERR_PROTOCOL, "the server sent no location of tablespace %u",
                         tablespace->oid);
    tablespace->location = mem_strdup(location, err);
    return tablespace->location != NULL;
}

static bool
header_read(const PGresult *result, BackupStart *start, Error *err)
{
    size_t rows = (size_t)PQntuples(result);

    if (rows == 0)
        return error_set(err, ERR_PROTOCOL, "no data returned from server");
    if (PQnfields(result) < 3)
        return error_set(err, ERR_PROTOCOL,
                         "could not get backup header: got %zu rows and %d fields, expected %d or "
                         "more fields",
                         rows, PQnfields(result), 3);
    start->tablespaces = mem_zero(rows * sizeof *start->tablespaces, err);
    if (start->tablespaces == NULL)
        return false;
    start->tablespace_count = rows;
    for (size_t row = 0; row < rows; row++) {
        if (!tablespace_read(result, (int)row, &start->tablespaces[row], err))
            return false;
    }
    return true;
}

/* The next result set, through `read`; `task` is put in front of the server's error. */
static bool
read_next(Conn *conn, const CopyWait *wait, const char *task,
          bool (*read)(const PGresult *, BackupStart *, Error *), BackupStart *start, Error *err)
{
    PGresult *result;
    bool ok;

    if (!conn_expect(conn, wait, PGRES_TUPLES_OK, &result, err))
        return conn_context(err, "%s", task);
    ok = read(result, start, err);
    PQclear(result);
    return ok;
}

bool
repl_base_backup(Conn *conn, const BaseBackupRequest *request, const Stop *stop,
                 BackupStart *ret_start, Error *err)
{
    const CopyWait wait = wait_until(stop);
    BackupStart start = {.lsn = LSN_INVALID};
    Buf command = BUF_INIT;
    bool ok = base_backup_command(request, &conn->features, &command, err);

    if (ok && !conn_send(conn, buf_text(&command), stop, err))
        ok = conn_context(err, "could not send replication command \"%s\"", "BASE_BACKUP");
    buf_free(&command);

    ok = ok && read_next(conn, &wait, "could not initiate base backup", start_read, &start, err) &&
         read_next(conn, &wait, "could not get backup header", header_read, &start, err);
    if (ok)
        *ret_start = start;
    else
        backup_start_free(&start);
    return ok;
}

void
backup_start_free(BackupStart *start)
{
    for (size_t i = 0; i < start->tablespace_count; i++)
        free(start->tablespaces[i].location);
    free(start->tablespaces);
    *start = (BackupStart){.lsn = LSN_INVALID};
}

/* ---- the archives ---- */

bool
repl_next_copy(Conn *conn, const Stop *stop, Error *err)
{
    const CopyWait wait = wait_until(stop);
    PGresult *result;

    if (!conn_expect(conn, &wait, PGRES_COPY_OUT, &result, err))
        return conn_context(err, "could not get COPY data stream");
    PQclear(result);
    copy_enter(conn, MODE_COPY_OUT);
    return true;
}

/* ---- the end ---- */

static bool
end_read(const PGresult *result, BackupEnd *end, Error *err)
{
    if (PQntuples(result) != 1 || PQnfields(result) < 2)
        return error_set(err, ERR_PROTOCOL,
                         "no write-ahead log end position returned from server: got %d rows and %d "
                         "fields, expected %d rows and %d fields",
                         PQntuples(result), PQnfields(result), 1, 2);
    return field_lsn(result, 0, 0, "write-ahead log location", &end->lsn, err) &&
           field_timeline(result, 0, 1, "timeline", &end->timeline, err);
}

/* Everything was sent, and then the server says that pages of it are damaged. */
static bool
is_checksum_failure(const PGresult *result)
{
    const char *sqlstate = PQresultErrorField(result, PG_DIAG_SQLSTATE);

    return sqlstate != NULL && strcmp(sqlstate, "XX001") == 0;
}

static bool
completion_read(Conn *conn, const CopyWait *wait, BackupEnd *end, Error *err)
{
    PGresult *result;
    bool ok;

    if (!conn_next_result(conn, wait, &result, err))
        return false;
    end->checksum_failures = is_checksum_failure(result);
    ok = end->checksum_failures || PQresultStatus(result) == PGRES_COMMAND_OK ||
         result_error(conn, result, err);
    PQclear(result);
    return ok && conn_finish_command(conn, wait, err);
}

bool
repl_base_backup_end(Conn *conn, const Stop *stop, BackupEnd *ret_end, Error *err)
{
    const CopyWait wait = wait_until(stop);
    BackupEnd end = {.lsn = LSN_INVALID};
    PGresult *result;
    bool ok;

    if (!conn_expect(conn, &wait, PGRES_TUPLES_OK, &result, err))
        return conn_context(err, "could not get write-ahead log end position from server");
    copy_enter(conn, MODE_COMMAND);
    ok = end_read(result, &end, err);
    PQclear(result);
    if (!ok)
        return false;
    if (!completion_read(conn, &wait, &end, err))
        return conn_context(err, "final receive failed");
    *ret_end = end;
    return true;
}
