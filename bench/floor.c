/*
 * The floor of a base backup: reads all that the server sends and throws it away. No client can be
 * faster than that, whatever it does with the bytes. Servers 15+; the connection is that of the
 * environment.
 */
#include <stdio.h>
#include <stdlib.h>

#include "protocol/protocol.h"

static int
fail(const Error *err)
{
    (void)fprintf(stderr, "floor: error: %s\n", err->message);
    return EXIT_FAILURE;
}

static bool
read_all(Conn *conn, uint64_t *ret_bytes, Error *err)
{
    const CopyWait wait = {.timeout_ms = -1};
    CopyResult result;
    Span message;

    if (!repl_next_copy(conn, NULL, err))
        return false;
    while ((result = copy_next(conn, &wait, &message, err)) == COPY_MESSAGE)
        *ret_bytes += message.len;
    return result == COPY_DONE;
}

static bool
run(Conn *conn, uint64_t *ret_bytes, Error *err)
{
    const BaseBackupRequest request = {.label = "floor",
                                       .fast_checkpoint = true,
                                       .no_wait = true,
                                       .verify_checksums = true,
                                       .manifest = MANIFEST_YES};
    BackupStart start;
    BackupEnd end;
    bool ok;

    if (!repl_base_backup(conn, &request, NULL, &start, err))
        return false;
    ok = read_all(conn, ret_bytes, err) && repl_base_backup_end(conn, NULL, &end, err);
    backup_start_free(&start);
    return ok;
}

int
main(void)
{
    const ConnConfig config = {.progname = "floor", .prompt = PASSWORD_NEVER};
    Error err = ERROR_INIT;
    Conn *conn = conn_open(&config, &err);
    uint64_t bytes = 0;
    bool ok;

    if (conn == NULL)
        return fail(&err);
    ok = run(conn, &bytes, &err);
    conn_free(conn);
    if (!ok)
        return fail(&err);
    (void)printf("%llu bytes\n", (unsigned long long)bytes);
    return EXIT_SUCCESS;
}
