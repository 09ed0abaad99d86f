/*
 * A WAL receiver and a WAL directory behind a handoff, as an archive has them: a timeline with a
 * complete segment and a part of one, a switch, and a part of the next timeline, with every call
 * failing once and from some call on. What was received before the failure is kept, and neither the
 * mark nor what the server is told is ever ahead of the disk.
 */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "disk.h"
#include "fault.h"
#include "protocol/peer.h"
#include "support/temp_dir.h"
#include "support/wire_server.h"
#include "walrecv/walrecv.h"

#define MB           ((size_t)1024 * 1024)
#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

#define SEGMENT_3     "000000010000000000000003"
#define SEGMENT_4     "000000010000000000000004"
#define NEW_SEGMENT_4 "000000020000000000000004"
#define HISTORY       "00000002.history"
#define START         ((Lsn)3 * MB)
#define BOUNDARY      ((Lsn)4 * MB)

#define SWITCH_AT ((size_t)70000) /* of the fourth segment, where timeline 1 ends */
#define END_AT    ((size_t)90000) /* of the fourth segment, where we stop */

static const char history_text[] = "1\t0/411170\tno recovery target specified\n";

typedef struct Fixture {
    TempDir dir;
    WireScript script;
    WalSync sync;
    DurableMark mark;
    uint8_t bytes[2][2 * MB]; /* of each timeline, from START on */
    const char *paths[5];     /* what can hold WAL; the third segment's first */
    pthread_mutex_t lock;     /* for: */
    char ahead[128];          /* how the mark was ahead of the disk */
} Fixture;

/* ---- the server ---- */

static void
put_wal(Buf *out, const uint8_t *bytes, Lsn from, Lsn to)
{
    const Lsn piece = 50000;

    for (Lsn at = from; at < to; at += piece) {
        const Lsn len = to - at < piece ? to - at : piece;
        Buf message = BUF_INIT;
        Error err = ERROR_INIT;
        uint8_t head[25] = {'w'};

        put_be64(head + 1, at);
        put_be64(head + 9, to);
        assert_true(buf_append(&message, head, sizeof head, &err) &&
                    buf_append(&message, bytes + (at - START), len, &err));
        wire_copy_data(out, message.data, message.len);
        buf_free(&message);
    }
}

/* The server asks for an answer: a reason to flush, and to tell how far we are. */
static void
put_keepalive(Buf *out, Lsn lsn)
{
    uint8_t message[18] = {'k'};

    put_be64(message + 1, lsn);
    message[17] = 1;
    wire_copy_data(out, message, sizeof message);
}

static void
build_script(Fixture *fixture)
{
    const char *const history[] = {HISTORY, history_text};
    const char *const next[] = {"2", "0/411170"};
    WireScript *script = &fixture->script;
    Buf *out;

    wire_expect(script, "START_REPLICATION 0/300000 TIMELINE 1");
    out = wire_send(script);
    wire_copy_both(out);
    put_wal(out, fixture->bytes[0], START, START + 400000);
    put_keepalive(out, START + 400000);
    put_wal(out, fixture->bytes[0], START + 400000, BOUNDARY + SWITCH_AT);
    wire_copy_done(out);
    wire_step(script, WIRE_COPY_DONE);
    out = wire_send(script);
    wire_one_row(out, 2, next);
    wire_complete(out, "START_REPLICATION");
    wire_ready(out);

    wire_expect(script, "TIMELINE_HISTORY 2");
    out = wire_send(script);
    wire_one_row(out, 2, history);
    wire_ready(out);

    wire_expect(script, "START_REPLICATION 0/400000 TIMELINE 2");
    out = wire_send(script);
    wire_copy_both(out);
    put_wal(out, fixture->bytes[1], BOUNDARY, BOUNDARY + END_AT);
    wire_step(script, WIRE_COPY_DONE);
    out = wire_send(script);
    wire_copy_done(out);
    wire_complete(out, "START_REPLICATION");
    wire_ready(out);
}

/* ---- the mark ---- */

static uint64_t
larger(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

/* The end of the WAL that is on disk without a gap, on either timeline. */
static Lsn
safe_end(const Fixture *fixture)
{
    /* In the order in which it changes its name: another thread may be at it. */
    uint64_t safe = disk_safe_to(fixture->paths[1]);

    safe = larger(safe, disk_safe_to(fixture->paths[0]));
    if (safe < MB)
        return START + safe;
    safe = 0;
    for (size_t i = 2; i < COUNT(fixture->paths); i++)
        safe = larger(safe, disk_safe_to(fixture->paths[i]));
    return BOUNDARY + safe;
}

/* Before every call, in the threads that write: nothing may be asserted there. */
static void
watch(void *ctx, FaultKind kind, const char *path)
{
    Fixture *fixture = ctx;
    Lsn mark = durable_mark_get(&fixture->mark);
    Lsn safe = safe_end(fixture);

    (void)kind;
    (void)pthread_mutex_lock(&fixture->lock);
    if (mark > safe)
        (void)snprintf(fixture->ahead, sizeof fixture->ahead,
                       LSN_FORMAT " instead of " LSN_FORMAT ", before \"%.60s\"", LSN_ARGS(mark),
                       LSN_ARGS(safe), path);
    (void)pthread_mutex_unlock(&fixture->lock);
}

/* ---- a run ---- */

static Sink *
make_chain(Fixture *fixture, WalReceiver **receiver, Error *err)
{
    const WalDirConfig dir = {.directory = fixture->dir.path,
                              .segment_size = (uint32_t)MB,
                              .file_mode = 0600,
                              .remainder = WAL_KEEP_PARTIAL,
                              .sync = fixture->sync,
                              .durable = &fixture->mark};
    const HandoffConfig handoff = {.block_size = 65536,
                                   .block_count = 4,
                                   .while_full = wal_receiver_while_full,
                                   .ctx = receiver};

    return handoff_new(wal_dir_new(&dir, err), &handoff, err);
}

static WalRunResult
receive(Fixture *fixture, const char *conninfo, const Stop *stop, Error *err)
{
    const ConnConfig conn = {
        .conninfo = conninfo, .progname = "test", .prompt = PASSWORD_NEVER, .stop = stop};
    WalReceiver *receiver = NULL;
    WalReceiverConfig config = {.start = START,
                                .timeline = 1,
                                .segment_size = (uint32_t)MB,
                                .status_interval_ms = 10000,
                                .durable = fixture->sync == WAL_DURABLE ? &fixture->mark : NULL,
                                .stop_at = BOUNDARY + END_AT,
                                .on_failure = WAL_FAILURE_KEEP,
                                .stop = stop};
    WalRunResult result = WAL_RUN_FAILED;

    config.conn = conn_open(&conn, err);
    if (config.conn == NULL)
        return WAL_RUN_FAILED;
    config.sink = make_chain(fixture, &receiver, err);
    config.handoff = config.sink;
    receiver = wal_receiver_new(&config, err);
    if (receiver != NULL)
        result = wal_receiver_run(receiver, err);
    wal_receiver_free(receiver);
    return result;
}

/* ---- what is there in the end ---- */

/* What is not written of a segment are zeros, which the server does not send. */
static size_t
written_len(const Buf *content)
{
    size_t len = content->len;

    while (len > 0 && content->data[len - 1] == 0)
        len--;
    return len;
}

/* Where it exists, it begins as the server sent it; a complete one is all there. */
static void
assert_file(Fixture *fixture, const char *name, const void *expected, size_t min, size_t max)
{
    bool partial = strstr(name, ".partial") != NULL;
    Buf content;
    size_t len;

    if (!temp_dir_exists(&fixture->dir, name))
        return;
    content = temp_dir_read(&fixture->dir, name);
    len = partial ? written_len(&content) : content.len;
    fault_assert(!partial || content.len == 0 || content.len == MB, "\"%s\" has %zu bytes", name,
                 content.len);
    fault_assert(len >= min && len <= max, "\"%s\" has %zu bytes of WAL", name, len);
    fault_assert(len == 0 || memcmp(content.data, expected, len) == 0, "\"%s\" has another content",
                 name);
    fault_assert(fixture->sync == WAL_NO_SYNC || partial ||
                     disk_content_safe(temp_dir_path(&fixture->dir, name)),
                 "\"%s\" has its name before it was synced", name);
    buf_free(&content);
}

static void
assert_files(Fixture *fixture)
{
    const size_t fourth = BOUNDARY - START;

    assert_file(fixture, SEGMENT_3, fixture->bytes[0], MB, MB);
    assert_file(fixture, SEGMENT_3 ".partial", fixture->bytes[0], 0, MB);
    assert_file(fixture, SEGMENT_4 ".partial", fixture->bytes[0] + fourth, 0, SWITCH_AT);
    assert_file(fixture, HISTORY, history_text, strlen(history_text), strlen(history_text));
    assert_file(fixture, NEW_SEGMENT_4 ".partial", fixture->bytes[1] + fourth, 0, END_AT);
    fault_assert(!temp_dir_exists(&fixture->dir, SEGMENT_4) &&
                     !temp_dir_exists(&fixture->dir, NEW_SEGMENT_4),
                 "a part of a segment has the segment's name");
}

static void
assert_complete(Fixture *fixture)
{
    const size_t fourth = BOUNDARY - START;
    const char *unsafe;

    fault_assert(temp_dir_exists(&fixture->dir, SEGMENT_3), "no " SEGMENT_3);
    fault_assert(temp_dir_exists(&fixture->dir, HISTORY), "no " HISTORY);
    fault_assert(temp_dir_exists(&fixture->dir, NEW_SEGMENT_4 ".partial"), "no " NEW_SEGMENT_4);
    assert_file(fixture, NEW_SEGMENT_4 ".partial", fixture->bytes[1] + fourth, END_AT, END_AT);
    if (fixture->sync == WAL_NO_SYNC)
        return;
    fault_assert(durable_mark_get(&fixture->mark) == BOUNDARY + END_AT,
                 "the mark is at " LSN_FORMAT, LSN_ARGS(durable_mark_get(&fixture->mark)));
    unsafe = disk_unsafe(fixture->dir.path, "");
    fault_assert(unsafe[0] == '\0', "\"%s\" is not on disk", unsafe);
}

static void
assert_told(const Fixture *fixture, const WireServer *server)
{
    const size_t flushed_at = 9;
    Span status;

    for (size_t i = 0; (status = wire_server_copy_data(server, i)).data != NULL; i++) {
        Reader reader =
            reader_of((Span){.data = status.data + flushed_at, .len = status.len - flushed_at});
        Lsn flushed = read_be64(&reader);

        fault_assert(status.data[0] == 'r' && flushed <= safe_end(fixture),
                     "told the server " LSN_FORMAT ", the disk is at " LSN_FORMAT,
                     LSN_ARGS(flushed), LSN_ARGS(safe_end(fixture)));
        fault_assert(fixture->sync == WAL_DURABLE || flushed == 0, "flushed without a sync");
    }
}

static void
prepare(Fixture *fixture)
{
    static const char *const names[] = {SEGMENT_3, SEGMENT_3 ".partial", SEGMENT_4 ".partial",
                                        NEW_SEGMENT_4, NEW_SEGMENT_4 ".partial"};

    temp_dir_make(&fixture->dir);
    for (size_t i = 0; i < COUNT(names); i++)
        fixture->paths[i] = temp_dir_path(&fixture->dir, names[i]);
    atomic_store(&fixture->mark.lsn, 0);
    fixture->ahead[0] = '\0';
}

static bool
run(void *ctx, const FaultPlan *plan)
{
    Fixture *fixture = ctx;
    const WireServerConfig config = {.scripts = &fixture->script, .script_count = 1};
    WireServer *server = wire_server_start(&config);
    const char *complaint;
    WalRunResult result;
    Error err = ERROR_INIT;
    FaultHit hit;
    Stop stop;

    prepare(fixture);
    assert_true(stop_init(&stop, &err));
    fault_watch(&(FaultWatch){.before = watch, .ctx = fixture});
    fault_begin(plan);
    result = receive(fixture, wire_server_conninfo(server), &stop, &err);
    fault_end(&hit);
    fault_watch(NULL);
    stop_destroy(&stop);
    complaint = wire_server_stop(server);
    fault_assert(complaint[0] == '\0' || result == WAL_RUN_FAILED, "%s", complaint);
    assert_told(fixture, server);
    wire_server_free(server);

    fault_assert_ending(plan, &hit, result == WAL_RUN_REACHED, &err);
    fault_assert_nothing_left();
    fault_assert(fixture->ahead[0] == '\0', "the mark was at %s", fixture->ahead);
    fault_assert(durable_mark_get(&fixture->mark) <= safe_end(fixture), "the mark is ahead");
    assert_files(fixture);
    if (result == WAL_RUN_REACHED)
        assert_complete(fixture);
    temp_dir_remove(&fixture->dir);
    return hit.fired;
}

/* ---- the faults ---- */

static const FaultPlan plans[] = {
    {.kind = FAULT_MEMORY, .errnum = ENOMEM, .least = 20},
    {.kind = FAULT_MEMORY, .errnum = ENOMEM, .lasting = true, .least = 20},
    {.kind = FAULT_OPEN, .errnum = EMFILE, .least = 5},
    {.kind = FAULT_WRITE, .errnum = ENOSPC, .least = 15},
    {.kind = FAULT_WRITE, .errnum = ENOSPC, .lasting = true, .least = 15},
    {.kind = FAULT_WRITE, .errnum = FAULT_SHORT, .outcome = FAULT_PASSES, .least = 15},
    {.kind = FAULT_CLOSE, .errnum = EIO, .outcome = FAULT_EITHER, .least = 4},
    {.kind = FAULT_RENAME, .errnum = EIO, .least = 2},
    {.kind = FAULT_MODE, .errnum = EPERM, .least = 4},
    {.kind = FAULT_THREAD, .errnum = EAGAIN, .least = 1},
    {.kind = FAULT_WAIT, .errnum = EIO, .outcome = FAULT_EITHER, .least = 5},
    {.kind = FAULT_RESOURCE, .errnum = EMFILE, .least = 1},
};

static const FaultPlan durable_plans[] = {
    {.kind = FAULT_SYNC, .errnum = EIO, .least = 7},
    {.kind = FAULT_SYNC, .errnum = EIO, .lasting = true, .least = 7},
};

static void
test_durable(void **state)
{
    fault_sweep(plans, COUNT(plans), run, *state);
    fault_sweep(durable_plans, COUNT(durable_plans), run, *state);
}

static void
test_no_sync(void **state)
{
    Fixture *fixture = *state;

    fixture->sync = WAL_NO_SYNC;
    fault_sweep(plans, COUNT(plans), run, fixture);
}

static int
setup(void **state)
{
    static Fixture fixture;

    fixture = (Fixture){.script = WIRE_SCRIPT_INIT, .sync = WAL_DURABLE};
    (void)pthread_mutex_init(&fixture.lock, NULL);
    for (size_t i = 0; i < sizeof fixture.bytes[0]; i++) {
        fixture.bytes[0][i] = (uint8_t)(1 + (i * 31 + i / 251) % 255);
        fixture.bytes[1][i] = i < MB + SWITCH_AT ? fixture.bytes[0][i] : (uint8_t)(1 + i * 7 % 255);
    }
    build_script(&fixture);
    *state = &fixture;
    return 0;
}

static int
teardown(void **state)
{
    Fixture *fixture = *state;

    wire_script_free(&fixture->script);
    return 0;
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_durable, setup, teardown),
        cmocka_unit_test_setup_teardown(test_no_sync, setup, teardown),
    };

    peer_clean_environment();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
