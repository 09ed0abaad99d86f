/*
 * WAL beside a base backup: the second connection and its thread, against a server that does what
 * the script says. When it fails, the backup ends at once and tells why, and nothing is left.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "backup_peer.h"
#include "peer.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define VERSION      "18.4"
#define FIRST        "000000010000000000000020"
#define SECOND       "000000010000000000000021"

/* The backup's own part is over. */
#define WAITING_FOR_WAL "note: waiting for background process"

static int
set_up(void **state)
{
    if (backup_peer_set_up(state, VERSION) != 0)
        return -1;
    ((BackupPeer *)*state)->options.wal_method = WAL_STREAM;
    return 0;
}

static void
start_again(BackupPeer *peer, const char *version)
{
    backup_peer_again(peer, version);
    peer->options.wal_method = WAL_STREAM;
}

/* The segment that begins at `start`: what was streamed of it, and zeros. */
static void
assert_segment(BackupPeer *peer, const char *name, Lsn start, Lsn end)
{
    char path[64];
    Span wal = wal_builder_span(&peer->fake.wal, start, end);
    Buf segment;

    (void)snprintf(path, sizeof path, "target/pg_wal/%s", name);
    segment = temp_dir_read(&peer->dir, path);
    assert_int_equal(segment.len, FAKE_SEGMENT_SIZE);
    assert_memory_equal(segment.data, wal.data, wal.len);
    for (size_t i = wal.len; i < segment.len; i++)
        assert_int_equal(segment.data[i], 0);
    buf_free(&segment);
}

/* What goes wrong with the stream goes wrong while the backup runs, or when all else is done. */
static Buf *
script_stream(BackupPeer *peer, bool late)
{
    fake_script_wal_prepare(&peer->fake, &peer->scripts[1], true);
    if (!late) {
        backup_peer_script_stall(peer);
        return fake_script_wal_start(&peer->scripts[1]);
    }
    peer->release_at = WAITING_FOR_WAL;
    (void)fake_script_wal_start(&peer->scripts[1]);
    wire_stall(&peer->scripts[1], &peer->release);
    return wire_send(&peer->scripts[1]);
}

/* ---- what is streamed ---- */

static void
test_streamed_wal_is_there(void **state)
{
    BackupPeer *peer = *state;

    backup_peer_run(peer);
    backup_peer_assert_taken(peer);
    assert_segment(peer, FIRST, FAKE_SEGMENT, peer->fake.wal.end);
    assert_int_equal(backup_peer_entries(peer, "target/pg_wal"), 3);
    /* Not filled by the server, so not archived: it must not be taken for the real one. */
    assert_int_equal(backup_peer_entries(peer, "target/pg_wal/archive_status"), 0);
}

static void
test_several_segments(void **state)
{
    BackupPeer *peer = *state;
    const Lsn middle = FAKE_SEGMENT + FAKE_SEGMENT_SIZE;
    Buf *out;

    (void)wal_builder_record_until(&peer->fake.wal, middle + 50000);
    peer->fake.end = peer->fake.wal.end;
    fake_script_wal_prepare(&peer->fake, &peer->scripts[1], true);
    out = fake_script_wal_start(&peer->scripts[1]);
    for (Lsn at = FAKE_SEGMENT; at < peer->fake.end; at += 70000)
        fake_put_wal(&peer->fake, out, at,
                     at + 70000 < peer->fake.end ? at + 70000 : peer->fake.end);
    wire_stream_end(&peer->scripts[1]);
    backup_peer_run(peer);
    backup_peer_assert_taken(peer);
    assert_segment(peer, FIRST, FAKE_SEGMENT, middle);
    assert_segment(peer, SECOND, middle, peer->fake.end);
    assert_true(temp_dir_exists(&peer->dir, "target/pg_wal/archive_status/" FIRST ".done"));
    assert_int_equal(backup_peer_entries(peer, "target/pg_wal/archive_status"), 1);
}

/* A backup that ends with a segment needs no more of the next one. */
static void
test_end_at_the_end_of_a_segment(void **state)
{
    BackupPeer *peer = *state;

    (void)wal_builder_switch(&peer->fake.wal);
    peer->fake.end = peer->fake.wal.end;
    backup_peer_run(peer);
    backup_peer_assert_taken(peer);
    assert_segment(peer, FIRST, FAKE_SEGMENT, peer->fake.end);
    assert_int_equal(backup_peer_entries(peer, "target/pg_wal"), 3);
}

static void
test_summaries_where_servers_have_them(void **state)
{
    static const struct {
        const char *version;
        bool summaries;
    } cases[] = {{"10.23", false}, {"16.10", false}, {"17.6", true}};

    for (size_t i = 0; i < COUNT(cases); i++) {
        BackupPeer *peer = *state;

        start_again(peer, cases[i].version);
        backup_peer_run(peer);
        backup_peer_assert_taken(peer);
        assert_int_equal(temp_dir_exists(&peer->dir, "target/pg_wal/summaries"),
                         cases[i].summaries);
    }
}

/* What the server is told: what fsync has covered, so nothing without it. */
static void
test_flushed_is_what_was_synced(void **state)
{
    for (int sync = 0; sync <= 1; sync++) {
        BackupPeer *peer = *state;
        Span status;

        start_again(peer, VERSION);
        peer->options.sync = sync == 0 ? SYNC_NONE : SYNC_FSYNC;
        peer->options.status_interval_ms = 1000;
        backup_peer_run(peer);
        backup_peer_assert_taken(peer);
        for (size_t i = 0; (status = wire_server_copy_data(peer->server, i)).len > 0; i++) {
            Reader reader = reader_of(status);
            Lsn written;
            Lsn flushed;

            assert_int_equal(read_u8(&reader), 'r');
            written = read_be64(&reader);
            flushed = read_be64(&reader);
            assert_true(flushed <= written);
            assert_true(sync == 1 || flushed == 0);
        }
    }
}

/* ---- slots ---- */

static void
test_slots(void **state)
{
    static const struct {
        const char *version;
        const char *slot;
        bool create;
        bool none;
        const char *creating; /* NULL: it is not */
        const char *starting;
        const char *told;
    } cases[] = {
        {VERSION, NULL, false, false,
         "CREATE_REPLICATION_SLOT \"pg_basebackup_4712\" TEMPORARY PHYSICAL (RESERVE_WAL)",
         "START_REPLICATION SLOT \"pg_basebackup_4712\" 0/2000000 TIMELINE 1",
         "note: created temporary replication slot \"pg_basebackup_4712\""},
        {"13.22", NULL, false, false,
         "CREATE_REPLICATION_SLOT \"pg_basebackup_4712\" TEMPORARY PHYSICAL RESERVE_WAL",
         "START_REPLICATION SLOT \"pg_basebackup_4712\" 0/2000000 TIMELINE 1",
         "note: created temporary replication slot \"pg_basebackup_4712\""},
        {VERSION, NULL, false, true, NULL, "START_REPLICATION 0/2000000 TIMELINE 1", NULL},
        {VERSION, "mine", false, false, NULL,
         "START_REPLICATION SLOT \"mine\" 0/2000000 TIMELINE 1", NULL},
        {VERSION, "mine", true, false, "CREATE_REPLICATION_SLOT \"mine\" PHYSICAL (RESERVE_WAL)",
         "START_REPLICATION SLOT \"mine\" 0/2000000 TIMELINE 1",
         "note: created replication slot \"mine\""},
        /* It is the server who says that a name is too long. */
        {VERSION,
         "long_long_long_long_long_long_long_long_long_long_long_long_long_long_long_long_long_"
         "long_long_long_long_long_long_long_long_long_long_long_long_long_end",
         false, false, NULL,
         "START_REPLICATION SLOT "
         "\"long_long_long_long_long_long_long_long_long_long_long_long_long_long_long_long_long_"
         "long_long_long_long_long_long_long_long_long_long_long_long_long_end\" "
         "0/2000000 TIMELINE 1",
         NULL},
    };

    for (size_t i = 0; i < COUNT(cases); i++) {
        BackupPeer *peer = *state;
        const char *created;

        start_again(peer, cases[i].version);
        peer->options.slot = cases[i].slot;
        peer->options.create_slot = cases[i].create;
        peer->options.no_slot = cases[i].none;
        fake_script_wal_prepare(&peer->fake, &peer->scripts[1], cases[i].creating != NULL);
        fake_put_wal(&peer->fake, fake_script_wal_start(&peer->scripts[1]), FAKE_SEGMENT,
                     peer->fake.wal.end);
        wire_stream_end(&peer->scripts[1]);
        backup_peer_run(peer);
        backup_peer_assert_taken(peer);
        created = backup_peer_query(peer, "CREATE_REPLICATION_SLOT");
        if (cases[i].creating == NULL)
            assert_null(created);
        else
            assert_string_equal(created, cases[i].creating);
        assert_string_equal(backup_peer_query(peer, "START_REPLICATION"), cases[i].starting);
        if (cases[i].told == NULL)
            assert_false(backup_peer_was_told(peer, "note: created"));
        else
            assert_string_equal(backup_peer_told(peer, "note: created"), cases[i].told);
    }
}

static void
test_slot_cannot_be_made(void **state)
{
    BackupPeer *peer = *state;

    fake_script_wal_prepare(&peer->fake, &peer->scripts[1], false);
    wire_answer_error(&peer->scripts[1], "CREATE_REPLICATION_SLOT", "53400",
                      "all replication slots are in use");
    backup_peer_run(peer);
    backup_peer_assert_failed_begins(peer, ERR_SERVER, "could not send replication command");
    assert_non_null(strstr(peer->err.message, "ERROR:  all replication slots are in use"));
    assert_string_equal(peer->err.sqlstate, "53400");
    assert_false(backup_peer_was_told(peer, "note: created"));
}

/* ---- slots that a failed run has made ---- */

/* How long the run may wait for a server that is to drop a slot; what it wanted to wait. */
static int64_t patience_ms;
static int64_t wanted_ms;

bool __real_stop_init_after(Stop *stop, int64_t ms, Error *err);
bool __wrap_stop_init_after(Stop *stop, int64_t ms, Error *err);

bool
__wrap_stop_init_after(Stop *stop, int64_t ms, Error *err)
{
    wanted_ms = ms;
    return __real_stop_init_after(stop, patience_ms == 0 ? ms : patience_ms, err);
}

static void
start_with_new_slot(BackupPeer *peer)
{
    start_again(peer, VERSION);
    peer->options.slot = "mine";
    peer->options.create_slot = true;
}

static void
let_it_disagree(BackupPeer *peer)
{
    fake_backup_listed(&peer->fake, "lost", "");
}

static void
let_it_be_stopped(BackupPeer *peer)
{
    backup_peer_script_stall(peer);
    peer->stop_at = "progress ";
}

static void
let_the_stream_break(BackupPeer *peer)
{
    fake_put_wal(&peer->fake, script_stream(peer, false), FAKE_SEGMENT, FAKE_SEGMENT + 5000);
    wire_step(&peer->scripts[1], WIRE_CLOSE);
}

static void
let_the_stream_not_start(BackupPeer *peer)
{
    backup_peer_script_stall(peer);
    fake_script_wal_prepare(&peer->fake, &peer->scripts[1], true);
    wire_answer_error(&peer->scripts[1], "START_REPLICATION", "55006", "it is in use");
}

/* All that the server had to say came, but nobody needs it any more. */
static void
let_the_stop_come_late(BackupPeer *peer)
{
    let_it_disagree(peer);
    peer->stop_at = "note: write-ahead log end";
}

static void
test_slot_is_dropped(void **state)
{
    static const struct {
        void (*let)(BackupPeer *peer);
        ErrorCode code;
        const char *message;
    } cases[] = {
        {let_it_disagree, ERR_MISMATCH, "the backup as received does not agree"},
        {let_it_be_stopped, ERR_STOPPED, "stopped"},
        {let_the_stream_break, ERR_CONNECTION, "could not stream write-ahead log: "},
        {let_the_stream_not_start, ERR_SERVER, "could not stream write-ahead log: "},
        {let_the_stop_come_late, ERR_NONE, ""}, /* stopped, or noticed to disagree */
    };

    for (size_t i = 0; i < COUNT(cases); i++) {
        BackupPeer *peer = *state;

        start_with_new_slot(peer);
        cases[i].let(peer);
        backup_peer_run(peer);
        backup_peer_assert_failed_begins(
            peer, cases[i].code == ERR_NONE ? peer->err.code : cases[i].code, cases[i].message);
        assert_int_equal(wire_server_connections(peer->server), 3);
        assert_string_equal(backup_peer_query(peer, "DROP_REPLICATION_SLOT"),
                            "DROP_REPLICATION_SLOT \"mine\"");
        assert_string_equal(backup_peer_told(peer, "info: dropped"),
                            "info: dropped replication slot \"mine\"");
    }
    assert_int_equal(wanted_ms, 10000);
}

static void
let_it_succeed(BackupPeer *peer)
{
    (void)peer;
}

static void
let_it_keep_all(BackupPeer *peer)
{
    let_it_disagree(peer);
    peer->options.no_clean = true;
}

/* The backup is kept, and may need the slot. */
static void
let_pages_be_damaged(BackupPeer *peer)
{
    peer->fake.damaged = true;
}

static void
let_it_use_a_slot_of_others(BackupPeer *peer)
{
    let_it_disagree(peer);
    peer->options.create_slot = false;
    fake_script_wal_prepare(&peer->fake, &peer->scripts[1], false);
    fake_put_wal(&peer->fake, fake_script_wal_start(&peer->scripts[1]), FAKE_SEGMENT,
                 peer->fake.wal.end);
    wire_stream_end(&peer->scripts[1]);
}

static void
let_it_use_a_temporary_slot(BackupPeer *peer)
{
    let_it_disagree(peer);
    peer->options.create_slot = false;
    peer->options.slot = NULL;
}

/* It is not the one that was to be made. */
static void
let_the_slot_exist(BackupPeer *peer)
{
    fake_script_wal_prepare(&peer->fake, &peer->scripts[1], false);
    wire_answer_error(&peer->scripts[1], "CREATE_REPLICATION_SLOT", "42710",
                      "replication slot \"mine\" already exists");
}

static void
test_slot_is_not_dropped(void **state)
{
    static const struct {
        void (*let)(BackupPeer *peer);
        bool ok;
        const char *told; /* NULL: nothing */
    } cases[] = {
        {let_it_succeed, true, NULL},
        {let_it_keep_all, false, "info: replication slot \"mine\" not dropped at user's request"},
        {let_pages_be_damaged, false,
         "info: replication slot \"mine\" not dropped: the backup may need it"},
        {let_it_use_a_slot_of_others, false, NULL},
        {let_it_use_a_temporary_slot, false, NULL},
        {let_the_slot_exist, false, NULL},
    };

    for (size_t i = 0; i < COUNT(cases); i++) {
        BackupPeer *peer = *state;

        start_with_new_slot(peer);
        cases[i].let(peer);
        backup_peer_run(peer);
        assert_int_equal(peer->ok, cases[i].ok);
        assert_int_equal(wire_server_connections(peer->server), 2);
        assert_null(backup_peer_query(peer, "DROP_REPLICATION_SLOT"));
        assert_false(backup_peer_was_told(peer, "info: dropped"));
        assert_false(backup_peer_was_told(peer, "info: could not drop"));
        if (cases[i].told == NULL)
            assert_false(backup_peer_was_told(peer, "info: replication slot"));
        else
            assert_string_equal(backup_peer_told(peer, "info: replication slot"), cases[i].told);
    }
}

/* The server has not noticed yet that the stream is gone. */
static void
test_slot_is_still_in_use(void **state)
{
    BackupPeer *peer = *state;

    start_with_new_slot(peer);
    let_it_disagree(peer);
    for (int i = 0; i < 2; i++)
        wire_answer_error(&peer->scripts[2], "DROP_REPLICATION_SLOT", "55006",
                          "replication slot \"mine\" is active for PID 77");
    fake_script_drop_slot(&peer->scripts[2]);
    backup_peer_run(peer);
    backup_peer_assert_failed_begins(peer, ERR_MISMATCH, "the backup as received");
    (void)backup_peer_told(peer, "info: dropped replication slot \"mine\"");
}

/* The server has not noticed yet that nobody uses it any more. */
static void
test_slot_is_in_use_for_a_moment(void **state)
{
    BackupPeer *peer = *state;

    start_with_new_slot(peer);
    let_it_disagree(peer);
    wire_answer_error(&peer->scripts[2], "DROP_REPLICATION_SLOT", "55006",
                      "replication slot \"mine\" is active for PID 77");
    fake_script_drop_slot(&peer->scripts[2]);
    backup_peer_run(peer);
    backup_peer_assert_failed_begins(peer, ERR_MISMATCH, "the backup as received");
    (void)backup_peer_told(peer, "info: dropped replication slot \"mine\"");
    assert_false(backup_peer_was_told(peer, "info: could not drop"));
}

/* That it could not be dropped, and why; once, and never that it was. */
static void
assert_not_dropped(const BackupPeer *peer, const char *why)
{
    const char *beginning = "info: could not drop replication slot \"mine\": ";

    assert_non_null(strstr(backup_peer_told(peer, beginning), why));
    assert_false(backup_peer_was_told(peer, "info: dropped"));
}

/* The failure of the run stays the one that is told as such. */
static void
test_slot_cannot_be_dropped(void **state)
{
    static const struct {
        const char *sqlstate;
        const char *message;
    } cases[] = {{"42704", "replication slot \"mine\" does not exist"},
                 {"55006", "replication slot \"mine\" is active for PID 77"}};

    for (size_t i = 0; i < COUNT(cases); i++) {
        BackupPeer *peer = *state;

        start_with_new_slot(peer);
        let_it_disagree(peer);
        wire_answer_error(&peer->scripts[2], "DROP_REPLICATION_SLOT", cases[i].sqlstate,
                          cases[i].message);
        patience_ms = 30;
        backup_peer_run(peer);
        patience_ms = 0;
        backup_peer_assert_failed_begins(peer, ERR_MISMATCH, "the backup as received");
        assert_not_dropped(peer, cases[i].message);
    }
}

static void
test_slot_and_a_server_that_refuses(void **state)
{
    BackupPeer *peer = *state;

    start_with_new_slot(peer);
    let_it_disagree(peer);
    peer->config.refuse = "the database system is shutting down";
    peer->config.refuse_from = 2;
    backup_peer_run(peer);
    backup_peer_assert_failed_begins(peer, ERR_MISMATCH, "the backup as received");
    assert_not_dropped(peer, "FATAL:  the database system is shutting down");
}

/* Neither to the startup nor to the command. */
static void
test_slot_and_a_server_that_does_not_answer(void **state)
{
    for (int startup = 0; startup <= 1; startup++) {
        BackupPeer *peer = *state;

        start_with_new_slot(peer);
        let_it_disagree(peer);
        if (startup == 0) {
            wire_expect(&peer->scripts[2], "DROP_REPLICATION_SLOT");
            wire_stall(&peer->scripts[2], NULL);
        } else {
            peer->config.hold = &peer->release;
            peer->config.hold_from = 2;
        }
        patience_ms = 30;
        backup_peer_run(peer);
        patience_ms = 0;
        backup_peer_assert_failed_begins(peer, ERR_MISMATCH, "the backup as received");
        assert_not_dropped(peer, "the server did not answer in time");
    }
}

/* ---- the second connection ---- */

static void
test_no_second_connection(void **state)
{
    BackupPeer *peer = *state;

    peer->config.refuse = "number of requested standby connections exceeds max_wal_senders";
    peer->config.refuse_from = 1;
    backup_peer_run(peer);
    backup_peer_assert_failed_begins(peer, ERR_CONNECTION, "connection to server");
    assert_non_null(strstr(peer->err.message, "FATAL:  number of requested standby connections"));
    assert_non_null(strstr(peer->err.hint, "needs two of the server's max_wal_senders"));
    (void)backup_peer_told(peer, "info: removing directory");
}

/* Another server behind the same address gets no slot of ours. */
static void
test_another_cluster(void **state)
{
    BackupPeer *peer = *state;

    peer->fake.system_id = FAKE_SYSTEM_ID + 1;
    fake_script_wal_prepare(&peer->fake, &peer->scripts[1], false);
    peer->fake.system_id = FAKE_SYSTEM_ID;
    peer->options.slot = "mine";
    peer->options.create_slot = true;
    backup_peer_run(peer);
    backup_peer_assert_failed(peer, ERR_SERVER,
                              "system identifier does not match between base backup and streaming "
                              "connection");
    assert_null(backup_peer_query(peer, "CREATE_REPLICATION_SLOT"));
}

static void
test_timeline_is_not_there(void **state)
{
    BackupPeer *peer = *state;
    Buf *out;

    fake_script_learn(&peer->fake, &peer->scripts[0]);
    wire_expect(&peer->scripts[0], "BASE_BACKUP");
    out = wire_send(&peer->scripts[0]);
    wire_one_row(out, ROW("0/2000028", "2"));
    wire_one_row(out, ROW(NULL, NULL, NULL));
    fake_put_copy(&peer->fake, out);
    fake_script_wal_prepare(&peer->fake, &peer->scripts[1], false);
    backup_peer_run(peer);
    backup_peer_assert_failed(peer, ERR_SERVER, "starting timeline 2 is not present in the server");
}

static void
test_streaming_does_not_start(void **state)
{
    BackupPeer *peer = *state;

    backup_peer_script_stall(peer);
    fake_script_wal_prepare(&peer->fake, &peer->scripts[1], true);
    wire_answer_error(&peer->scripts[1], "START_REPLICATION", "58P01",
                      "requested WAL segment " FIRST " has already been removed");
    backup_peer_run(peer);
    backup_peer_assert_failed_begins(peer, ERR_SERVER, "could not stream write-ahead log: ");
    assert_non_null(strstr(peer->err.message, FIRST " has already been removed"));
}

/* ---- streams that fail: the same words, whenever it is ---- */

static void
test_stream_ends_early(void **state)
{
    for (int late = 0; late <= 1; late++) {
        BackupPeer *peer = *state;
        Buf *out;

        start_again(peer, VERSION);
        out = script_stream(peer, late != 0);
        fake_put_wal(&peer->fake, out, FAKE_SEGMENT, FAKE_SEGMENT + 5000);
        wire_copy_done(out);
        wire_step(&peer->scripts[1], WIRE_COPY_DONE);
        out = wire_send(&peer->scripts[1]);
        wire_complete(out, "START_REPLICATION");
        wire_ready(out);
        backup_peer_run(peer);
        backup_peer_assert_failed(peer, ERR_CONNECTION,
                                  "could not stream write-ahead log: replication stream was "
                                  "terminated before stop point");
        assert_int_equal(backup_peer_was_told(peer, WAITING_FOR_WAL), late);
    }
}

static void
test_stream_breaks(void **state)
{
    for (int late = 0; late <= 1; late++) {
        BackupPeer *peer = *state;

        start_again(peer, VERSION);
        fake_put_wal(&peer->fake, script_stream(peer, late != 0), FAKE_SEGMENT,
                     FAKE_SEGMENT + 5000);
        wire_step(&peer->scripts[1], WIRE_CLOSE);
        backup_peer_run(peer);
        backup_peer_assert_failed_begins(
            peer, ERR_CONNECTION,
            "could not stream write-ahead log: could not receive data from WAL stream: ");
    }
}

static void
test_stream_is_damaged(void **state)
{
    for (int late = 0; late <= 1; late++) {
        BackupPeer *peer = *state;
        char message[200];
        Lsn record;

        start_again(peer, VERSION);
        record = wal_builder_record(&peer->fake.wal, 10, 0, 500);
        peer->fake.end = peer->fake.wal.end;
        *wal_builder_at(&peer->fake.wal, record + 100) ^= 0x40;
        fake_put_wal(&peer->fake, script_stream(peer, late != 0), FAKE_SEGMENT, peer->fake.wal.end);
        (void)snprintf(message, sizeof message,
                       "could not stream write-ahead log: WAL segment \"" FIRST
                       "\" is damaged at LSN %X/%X: ",
                       LSN_ARGS(record));
        backup_peer_run(peer);
        backup_peer_assert_failed_begins(peer, ERR_MISMATCH, message);
    }
}

/* The bytes are there up to the end, but the last record is not whole. */
static void
test_record_at_the_end_is_cut(void **state)
{
    BackupPeer *peer = *state;
    char message[200];
    Lsn record = wal_builder_record(&peer->fake.wal, 10, 0, 5000);

    peer->fake.end = record + 1000;
    fake_script_wal_prepare(&peer->fake, &peer->scripts[1], true);
    fake_put_wal(&peer->fake, fake_script_wal_start(&peer->scripts[1]), FAKE_SEGMENT,
                 peer->fake.end);
    wire_stream_end(&peer->scripts[1]);
    backup_peer_run(peer);
    (void)snprintf(message, sizeof message,
                   "streamed WAL is intact only up to %X/%X, but the backup ends at %X/%X",
                   LSN_ARGS(record), LSN_ARGS(peer->fake.end));
    backup_peer_assert_failed(peer, ERR_MISMATCH, message);
}

/* The stream has no part in it, and ends. */
static void
test_backup_fails_beside_the_stream(void **state)
{
    BackupPeer *peer = *state;

    fake_backup_listed(&peer->fake, "lost", "");
    backup_peer_run(peer);
    backup_peer_assert_failed_begins(peer, ERR_MISMATCH, "the backup as received");

    start_again(peer, VERSION);
    fake_script_wal_prepare(&peer->fake, &peer->scripts[1], true);
    (void)fake_script_wal_start(&peer->scripts[1]);
    wire_stall(&peer->scripts[1], NULL);
    fake_backup_member(&peer->fake, 0, &(TarMember){TAR_FILE("../outside", "bad")});
    backup_peer_run(peer);
    backup_peer_assert_failed_begins(peer, ERR_FORMAT, "archive \"base.tar\": member ");
}

/* ---- every place ---- */

static void
test_cut_anywhere(void **state)
{
    BackupPeer *peer = *state;
    int64_t whole = INT64_MAX;

    backup_peer_run(peer);
    backup_peer_assert_taken(peer);
    /* The shorter of the two conversations. */
    whole = 25 + (int64_t)(peer->fake.end - FAKE_SEGMENT);
    for (int64_t at = 400; at < whole; at += 103) {
        start_again(peer, VERSION);
        peer->cut = at;
        backup_peer_run(peer);
        backup_peer_assert_failed_begins(peer, ERR_CONNECTION, "");
    }
}

/* A byte that changes in either stream is noticed, or makes no difference up to the end. */
static void
test_damage_anywhere(void **state)
{
    BackupPeer *peer = *state;
    Span wal;
    Buf got;

    for (int64_t at = 400; at < 13000; at += 53) {
        start_again(peer, VERSION);
        peer->damage_at = at;
        peer->damage_mask = (uint8_t)(1U << (at % 7));
        peer->config.patience_ms = 200;
        backup_peer_run(peer);
        if (!peer->ok) {
            assert_int_equal(backup_peer_entries(peer, "."), 0);
            continue;
        }
        backup_peer_assert_taken(peer);
        wal = wal_builder_span(&peer->fake.wal, FAKE_START, peer->fake.end);
        got = temp_dir_read(&peer->dir, "target/pg_wal/" FIRST);
        assert_memory_equal(got.data + (FAKE_START - FAKE_SEGMENT), wal.data, wal.len);
        buf_free(&got);
    }
}

/* ---- stopping ---- */

static void
test_stopped_in_mid_stream(void **state)
{
    BackupPeer *peer = *state;

    backup_peer_script_stall(peer);
    peer->stop_at = "progress ";
    backup_peer_run(peer);
    backup_peer_assert_failed(peer, ERR_STOPPED, "stopped");
}

static void
test_stopped_while_wal_is_missing(void **state)
{
    BackupPeer *peer = *state;

    fake_script_wal_prepare(&peer->fake, &peer->scripts[1], true);
    fake_put_wal(&peer->fake, fake_script_wal_start(&peer->scripts[1]), FAKE_SEGMENT,
                 FAKE_SEGMENT + 5000);
    wire_stream_end(&peer->scripts[1]);
    peer->stop_at = WAITING_FOR_WAL;
    backup_peer_run(peer);
    backup_peer_assert_failed(peer, ERR_STOPPED, "stopped");
}

static void
test_stopped_at_every_note(void **state)
{
    static const char *const notes[] = {"note: starting background",
                                        "note: created temporary",
                                        "progress ",
                                        "note: write-ahead log end",
                                        WAITING_FOR_WAL,
                                        "note: syncing",
                                        "note: verified",
                                        "note: renaming",
                                        "note: base backup completed"};

    for (size_t i = 0; i < COUNT(notes); i++) {
        BackupPeer *peer = *state;

        start_again(peer, VERSION);
        peer->options.sync = SYNC_FSYNC;
        peer->stop_at = notes[i];
        backup_peer_run(peer);
        (void)backup_peer_told(peer, notes[i]);
        backup_peer_assert_taken_or_stopped(peer);
        if (i < 3)
            assert_false(peer->ok);
        if (i > 4)
            assert_true(peer->ok);
    }
}

#define WAL_TEST(function) cmocka_unit_test_setup_teardown(function, set_up, backup_peer_tear_down)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        WAL_TEST(test_streamed_wal_is_there),
        WAL_TEST(test_several_segments),
        WAL_TEST(test_end_at_the_end_of_a_segment),
        WAL_TEST(test_summaries_where_servers_have_them),
        WAL_TEST(test_flushed_is_what_was_synced),
        WAL_TEST(test_slots),
        WAL_TEST(test_slot_cannot_be_made),
        WAL_TEST(test_slot_is_dropped),
        WAL_TEST(test_slot_is_not_dropped),
        WAL_TEST(test_slot_is_still_in_use),
        WAL_TEST(test_slot_is_in_use_for_a_moment),
        WAL_TEST(test_slot_cannot_be_dropped),
        WAL_TEST(test_slot_and_a_server_that_refuses),
        WAL_TEST(test_slot_and_a_server_that_does_not_answer),
        WAL_TEST(test_no_second_connection),
        WAL_TEST(test_another_cluster),
        WAL_TEST(test_timeline_is_not_there),
        WAL_TEST(test_streaming_does_not_start),
        WAL_TEST(test_stream_ends_early),
        WAL_TEST(test_stream_breaks),
        WAL_TEST(test_stream_is_damaged),
        WAL_TEST(test_record_at_the_end_is_cut),
        WAL_TEST(test_backup_fails_beside_the_stream),
        WAL_TEST(test_cut_anywhere),
        WAL_TEST(test_damage_anywhere),
        WAL_TEST(test_stopped_in_mid_stream),
        WAL_TEST(test_stopped_while_wal_is_missing),
        WAL_TEST(test_stopped_at_every_note),
    };

    peer_clean_environment();
    return cmocka_run_group_tests_name("basebackup_wal", tests, NULL, NULL);
}
