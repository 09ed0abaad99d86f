/*
 * Memory runs out at the n-th allocation, for every n until all goes well: each time there is one
 * Error, "out of memory", and nothing leaks (the address sanitizer watches). libpq's own
 * allocations do not come here.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "peer.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* ---- the allocator that fails ---- */

/* Counts the allocations of this thread; the wire server's threads have their own, which are
 * off. */
static _Thread_local long countdown = -1;

static bool
fails_now(void)
{
    return countdown > 0 && --countdown == 0;
}

void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *block, size_t size);
char *__real_strdup(const char *text);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *block, size_t size);
char *__wrap_strdup(const char *text);

void *
__wrap_malloc(size_t size)
{
    return fails_now() ? NULL : __real_malloc(size);
}

void *
__wrap_calloc(size_t count, size_t size)
{
    return fails_now() ? NULL : __real_calloc(count, size);
}

void *
__wrap_realloc(void *block, size_t size)
{
    return fails_now() ? NULL : __real_realloc(block, size);
}

char *
__wrap_strdup(const char *text)
{
    return fails_now() ? NULL : __real_strdup(text);
}

/* ---- what is done with failing memory ---- */

static bool
use_slots(Conn *conn, Error *err)
{
    SlotState slot;

    return repl_create_slot(conn, "s", SLOT_TEMPORARY, SLOT_RESERVE_WAL, err) &&
           repl_read_slot(conn, "s", &slot, err) && repl_drop_slot(conn, "s", err);
}

static bool
use_history(Conn *conn, Error *err)
{
    Buf content = BUF_INIT;
    bool ok = repl_timeline_history(conn, 2, &content, err);

    buf_free(&content);
    return ok;
}

static bool
use_conninfo(const Conn *conn, const ConnConfig *config, Error *err)
{
    Buf conninfo = BUF_INIT;
    bool ok = conn_primary_conninfo(conn, config, &conninfo, err);

    buf_free(&conninfo);
    return ok;
}

static bool
use_backup(Conn *conn, Error *err)
{
    const BaseBackupRequest request = {.label = "l",
                                       .progress = true,
                                       .max_rate_kb = 1024,
                                       .manifest = MANIFEST_YES,
                                       .manifest_checksums = "NONE"};
    const CopyWait wait = {.timeout_ms = 60000};
    BackupStart start;
    BackupEnd end;
    Span message;

    if (!repl_base_backup(conn, &request, NULL, &start, err))
        return false;
    backup_start_free(&start);
    return repl_next_copy(conn, NULL, err) && copy_next(conn, &wait, &message, err) == COPY_DONE &&
           repl_base_backup_end(conn, NULL, &end, err);
}

static bool
use_stream(Conn *conn, Error *err)
{
    StreamStart started = repl_start_streaming(conn, "s", 1, 1, err);

    return started == STREAM_STARTED && copy_send(conn, span_of("x"), err) && copy_end(conn, err);
}

/* All of it; a connection beside the first comes last. */
static bool
use_everything(const ConnConfig *config, Error *err)
{
    Conn *conn = conn_open(config, err);
    Conn *second = NULL;
    bool ok = conn != NULL && use_conninfo(conn, config, err) && use_slots(conn, err) &&
              use_history(conn, err) && use_backup(conn, err) && use_stream(conn, err);

    if (ok)
        second = conn_open_beside(conn, config, err);
    conn_free(conn);
    conn_free(second);
    return second != NULL;
}

static void
script_everything(Peer *peer)
{
    Buf *out;

    peer_answer(peer, "CREATE_REPLICATION_SLOT", ROW("s", "0/0", NULL, NULL));
    peer_answer(peer, "READ_REPLICATION_SLOT", ROW("physical", "0/1", "1"));
    wire_expect(&peer->script, "DROP_REPLICATION_SLOT");
    out = wire_send(&peer->script);
    wire_complete(out, "DROP_REPLICATION_SLOT");
    wire_ready(out);
    peer_answer(peer, "TIMELINE_HISTORY", ROW("00000002.history", "1\t0/5\tx\n"));
    wire_expect(&peer->script, "BASE_BACKUP");
    out = wire_send(&peer->script);
    wire_one_row(out, ROW("0/2000028", "1"));
    wire_row_description(out, 3);
    wire_row(out, ROW("16385", "/srv/one", NULL));
    wire_row(out, ROW("16386", "/srv/two", NULL));
    wire_row(out, ROW(NULL, NULL, NULL));
    wire_complete(out, "SELECT");
    wire_copy_out(out);
    wire_copy_done(out);
    wire_one_row(out, ROW("0/2000100", "1"));
    wire_complete(out, "BASE_BACKUP");
    wire_ready(out);
    wire_expect(&peer->script, "START_REPLICATION");
    wire_copy_both(wire_send(&peer->script));
    wire_step(&peer->script, WIRE_COPY_DONE);
}

static void
memory_runs_out_everywhere(void **state)
{
    bool ok = false;
    long n = 0;
    Peer peer;

    (void)state;
    peer_init(&peer);
    script_everything(&peer);
    peer.config.repeat = true;
    peer_start(&peer);
    while (!ok) {
        peer.err = ERROR_INIT;
        countdown = ++n;
        ok = use_everything(&peer.conn_config, &peer.err);
        countdown = -1;
        if (!ok)
            peer_assert_error(&peer, ERR_MEMORY, "out of memory");
        assert_int_equal(peer.err.code, ERR_NONE);
    }
    /* connections, commands, tablespaces: there is something to fail */
    assert_true(n > 12);
    peer_done(&peer);
}

/* A connection, and one more that is asked for a slot. */
static bool
use_sql(const ConnConfig *config, Error *err)
{
    Conn *conn = conn_open(config, err);
    SlotState slot;
    bool ok = conn != NULL && repl_read_slot_by_sql(conn, config, "s", &slot, err);

    conn_free(conn);
    return ok;
}

static void
memory_runs_out_beside(void **state)
{
    bool ok = false;
    long n = 0;
    Peer peer;

    (void)state;
    peer_init(&peer);
    peer_answer(&peer, "SELECT", ROW("physical", "0/1"));
    peer.config.repeat = true;
    peer_start(&peer);
    while (!ok) {
        peer.err = ERROR_INIT;
        countdown = ++n;
        ok = use_sql(&peer.conn_config, &peer.err);
        countdown = -1;
        if (!ok) {
            assert_non_null(strstr(peer.err.message, "out of memory"));
            assert_int_equal(peer.err.code, ERR_MEMORY);
        }
    }
    assert_true(n > 6);
    peer_done(&peer);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(memory_runs_out_everywhere),
        cmocka_unit_test(memory_runs_out_beside),
    };

    peer_clean_environment();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
