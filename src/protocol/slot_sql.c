/*
 * Where a slot is, on servers that have no replication command to ask: over a walsender's
 * connection to a database, which takes SQL too (the simple query protocol only). It needs a line
 * in pg_hba.conf that lets us into that database; the line for "replication" does not.
 */
#include <string.h>

#include "protocol/internal.h"

/* Any database will do, slots are the cluster's; this one is there unless it was removed. */
#define DEFAULT_DATABASE "postgres"

/* How a string is quoted depends on a setting of the server, which libpq knows. */
static bool
quote_name(const Conn *conn, const char *name, Buf *query, Error *err)
{
    char *literal = PQescapeLiteral(conn->pg, name, strlen(name));
    bool ok;

    if (literal == NULL)
        return error_set_libpq(err, ERR_USAGE, PQerrorMessage(conn->pg));
    ok = buf_printf(query, err, "%s", literal);
    PQfreemem(literal);
    return ok;
}

static bool
run_query(Conn *conn, const char *query, PGresult **ret_result, Error *err)
{
    const CopyWait wait = wait_of(conn);
    PGresult *result = NULL;

    if (conn_send(conn, query, conn->stop, err) &&
        conn_expect(conn, &wait, PGRES_TUPLES_OK, &result, err) &&
        conn_finish_command(conn, &wait, err)) {
        *ret_result = result;
        return true;
    }
    PQclear(result);
    return false;
}

static bool
state_read(const PGresult *result, SlotState *ret_state, Error *err)
{
    SlotState state = {.exists = true};
    const char *type;

    if (PQntuples(result) == 0) {
        *ret_state = (SlotState){.exists = false};
        return true;
    }
    if (!result_one_row(result, 2, err) || !field_text(result, 0, 0, "slot type", &type, err))
        return false;
    if (strcmp(type, "physical") != 0)
        return error_set(err, ERR_UNSUPPORTED,
                         "expected a physical replication slot, got type \"%s\" instead", type);
    if (!PQgetisnull(result, 0, 1)) {
        state.has_position = true;
        if (!field_lsn(result, 0, 1, "restart_lsn", &state.restart_lsn, err))
            return false;
    }
    *ret_state = state;
    return true;
}

static bool
read_slot(Conn *conn, const char *name, SlotState *ret_state, Error *err)
{
    Buf query = BUF_INIT;
    PGresult *result = NULL;
    bool ok = buf_printf(&query, err,
                         "SELECT slot_type, restart_lsn FROM pg_catalog.pg_replication_slots "
                         "WHERE slot_name = ") &&
              quote_name(conn, name, &query, err) &&
              run_query(conn, buf_text(&query), &result, err) && state_read(result, ret_state, err);

    PQclear(result);
    buf_free(&query);
    return ok;
}

static Conn *
open_database(const Conn *first, const ConnConfig *config, Error *err)
{
    Buf database = BUF_INIT;
    Conn *conn = NULL;

    if (conninfo_database(config, &database, err)) {
        const char *name = database.len > 0 ? buf_text(&database) : DEFAULT_DATABASE;

        conn = conn_open_database_beside(first, config, name, err);
        if (conn == NULL && err->code == ERR_CONNECTION)
            error_ignored(error_hint(err,
                                     "Servers before version 15 tell it by SQL only: pg_hba.conf "
                                     "must let the user into database \"%.60s\".",
                                     name));
    }
    buf_free(&database);
    return conn;
}

bool
repl_read_slot_by_sql(const Conn *first, const ConnConfig *config, const char *name,
                      SlotState *ret_state, Error *err)
{
    Conn *conn = open_database(first, config, err);
    bool ok = conn != NULL && read_slot(conn, name, ret_state, err);

    conn_free(conn);
    return ok || conn_context(err, "could not read the position of replication slot \"%s\"", name);
}
