/*
 * Whole conversations, cut after every byte and damaged at every byte: each ends, in one Error and
 * in finite time (the sanitizers watch for leaks, ctest's timeout for a hang).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "peer.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* Longer than any test takes: who waits for it has hung. */
static const CopyWait for_ever = {.timeout_ms = 100000};

/* ---- the conversations ---- */

static void
script_query(Peer *peer, const char *command, int columns, const char *const values[])
{
    peer_answer(peer, command, columns, values);
}

static Buf *
script_backup_start(Peer *peer)
{
    Buf *out;

    script_query(peer, "IDENTIFY_SYSTEM", ROW("7000000000000000001", "1", "0/2000000", NULL));
    script_query(peer, "SHOW wal_segment_size", ROW("16MB"));
    wire_expect(&peer->script, "BASE_BACKUP");
    out = wire_send(&peer->script);
    wire_one_row(out, ROW("0/2000028", "1"));
    wire_row_description(out, 3);
    wire_row(out, ROW("16385", "/srv/ts", "1"));
    wire_row(out, ROW(NULL, NULL, "2"));
    wire_complete(out, "SELECT");
    return out;
}

static void
script_backup_end(Peer *peer, Buf *out)
{
    wire_one_row(out, ROW("0/2000100", "1"));
    wire_complete(out, "BASE_BACKUP");
    wire_ready(out);
    wire_step(&peer->script, WIRE_CLOSE);
}

static void
script_typed_backup(Peer *peer)
{
    Buf *out = script_backup_start(peer);

    wire_copy_out(out);
    wire_copy_data(out, "n16385.tar\0/srv/ts", 19);
    wire_copy_data(out, "dtablespace", 11);
    wire_copy_data(out, "nbase.tar\0", 11);
    wire_copy_data(out, "p\0\0\0\0\0\0\0\x0a", 9);
    wire_copy_data(out, "dbase", 5);
    wire_copy_data(out, "m", 1);
    wire_copy_data(out, "d{}", 3);
    wire_copy_done(out);
    script_backup_end(peer, out);
}

static void
script_old_backup(Peer *peer)
{
    Buf *out = script_backup_start(peer);

    peer->config.server_version = "13.23";
    wire_copy_out(out);
    wire_copy_data(out, "tablespace", 10);
    wire_copy_done(out);
    wire_copy_out(out);
    wire_copy_data(out, "ba", 2);
    wire_copy_data(out, "se", 2);
    wire_copy_done(out);
    wire_copy_out(out);
    wire_copy_data(out, "{}", 2);
    wire_copy_done(out);
    script_backup_end(peer, out);
}

static const uint8_t wal_message[25 + 4] = {'w', [8] = 1, [16] = 5, [25] = 'w', 'a', 'l', '!'};

/* A stream up to the end of a timeline. */
static void
script_stream(Peer *peer)
{
    Buf *out;

    wire_expect(&peer->script, "START_REPLICATION");
    out = wire_send(&peer->script);
    wire_copy_both(out);
    wire_copy_data(out, wal_message, sizeof wal_message);
    wire_copy_done(out);
    wire_step(&peer->script, WIRE_COPY_DONE);
    out = wire_send(&peer->script);
    wire_one_row(out, ROW("2", "0/5"));
    wire_complete(out, "START_STREAMING");
    wire_complete(out, "START_REPLICATION");
    wire_ready(out);
    wire_step(&peer->script, WIRE_CLOSE);
}

/* ---- our side of them: true when everything came through ---- */

static bool
read_copy(Conn *conn, bool typed, Buf *data, Error *err)
{
    for (;;) {
        BackupMessage parsed;
        Span message;

        switch (copy_next(conn, &for_ever, &message, err)) {
        case COPY_MESSAGE:
            if (!typed)
                parsed = (BackupMessage){.kind = BACKUP_DATA, .data = message};
            else if (!backup_message_parse(message, &parsed, err))
                return false;
            if (parsed.kind == BACKUP_DATA &&
                !buf_append(data, parsed.data.data, parsed.data.len, err))
                return false;
            break;
        case COPY_DONE:
            return true;
        case COPY_FAILED:
            return false;
        case COPY_IDLE:
        case COPY_STOPPED:
        case COPY_WOKEN:
            return error_set(err, ERR_BUG, "hung");
        }
    }
}

static bool
read_copies(Conn *conn, const BackupStart *start, Buf *data, Error *err)
{
    bool typed = conn_features(conn)->typed_copy;
    size_t copies = typed ? 1 : start->tablespace_count + 1;

    for (size_t i = 0; i < copies; i++) {
        if (!repl_next_copy(conn, NULL, err) || !read_copy(conn, typed, data, err))
            return false;
    }
    return true;
}

static bool
talk_backup(Conn *conn, Buf *data, Error *err)
{
    const BaseBackupRequest request = {.label = "x", .manifest = MANIFEST_YES};
    ServerIdentity identity;
    BackupStart start;
    BackupEnd end;
    uint32_t segment_size;
    bool ok;

    if (!repl_identify_system(conn, &identity, err) ||
        !repl_segment_size(conn, &segment_size, err) ||
        !repl_base_backup(conn, &request, NULL, &start, err))
        return false;
    ok = read_copies(conn, &start, data, err) && repl_base_backup_end(conn, NULL, &end, err);
    backup_start_free(&start);
    return ok;
}

static bool
talk_stream(Conn *conn, Buf *data, Error *err)
{
    StreamEnd end;
    WalMessage parsed;
    Span message;

    if (repl_start_streaming(conn, NULL, 1, 1, err) != STREAM_STARTED)
        return *err->message == '\0' ? error_set(err, ERR_PROTOCOL, "no stream") : false;
    for (;;) {
        CopyResult got = copy_next(conn, &for_ever, &message, err);

        if (got == COPY_DONE)
            break;
        if (got != COPY_MESSAGE)
            return got == COPY_FAILED ? false : error_set(err, ERR_BUG, "hung");
        if (!wal_message_parse(message, &parsed, err) ||
            !buf_append(data, parsed.data.data, parsed.data.len, err))
            return false;
    }
    if (!copy_end(conn, err) || !repl_stream_end(conn, &end, err))
        return false;
    return end.has_next || error_set(err, ERR_PROTOCOL, "no next timeline");
}

typedef bool Talk(Conn *conn, Buf *data, Error *err);

static bool
converse(Peer *peer, Talk *talk, Buf *data)
{
    bool ok;

    buf_clear(data);
    peer->err = ERROR_INIT;
    peer->conn = conn_open(&peer->conn_config, &peer->err);
    ok = peer->conn != NULL && talk(peer->conn, data, &peer->err);
    conn_free(peer->conn);
    peer->conn = NULL;
    return ok;
}

/* ---- the tests ---- */

static void
start(Peer *peer, void (*script)(Peer *))
{
    peer_init(peer);
    script(peer);
    peer->config.repeat = true;
    /* We may be waiting for the rest of a message whose length was damaged. */
    peer->config.patience_ms = 50;
    peer_start(peer);
}

static void
cut_everywhere(void (*script)(Peer *), Talk *talk, const char *expected)
{
    Buf data = BUF_INIT;
    int64_t total;
    Peer peer;

    start(&peer, script);
    if (!converse(&peer, talk, &data))
        fail_msg("the whole conversation: %s", peer.err.message);
    assert_string_equal(buf_text(&data), expected);
    while ((total = wire_server_sent(peer.server)) == 0)
        continue;
    assert_true(total > 200);

    for (int64_t cut = 0; cut < total; cut++) {
        wire_server_cut(peer.server, cut);
        if (converse(&peer, talk, &data))
            fail_msg("cut after %d of %d bytes: nobody noticed", (int)cut, (int)total);
        if (peer.err.code != ERR_CONNECTION && peer.err.code != ERR_PROTOCOL)
            fail_msg("cut after %d of %d bytes: error %d: %s", (int)cut, (int)total,
                     (int)peer.err.code, peer.err.message);
        assert_true(peer.err.message[0] != '\0');
        assert_true(strlen(buf_text(&data)) <= strlen(expected));
        assert_memory_equal(buf_text(&data), expected, data.len);
    }
    wire_server_cut(peer.server, total);
    assert_true(converse(&peer, talk, &data));
    buf_free(&data);
    peer_drop(&peer);
}

static void
typed_backup_cut_everywhere(void **state)
{
    (void)state;
    cut_everywhere(script_typed_backup, talk_backup, "tablespacebase{}");
}

static void
old_backup_cut_everywhere(void **state)
{
    (void)state;
    cut_everywhere(script_old_backup, talk_backup, "tablespacebase{}");
}

static void
stream_cut_everywhere(void **state)
{
    (void)state;
    cut_everywhere(script_stream, talk_stream, "wal!");
}

/* Any one byte may be wrong; what matters is that it ends, and that success means all the
 * results. */
static void
damage_everywhere(void (*script)(Peer *), Talk *talk)
{
    static const uint8_t masks[] = {0x01, 0x80};
    Buf data = BUF_INIT;
    int64_t total;
    int failures = 0;
    Peer peer;

    start(&peer, script);
    assert_true(converse(&peer, talk, &data));
    while ((total = wire_server_sent(peer.server)) == 0)
        continue;
    for (int64_t at = 0; at < total; at++) {
        for (size_t i = 0; i < COUNT(masks); i++) {
            wire_server_damage(peer.server, at, masks[i]);
            if (converse(&peer, talk, &data)) {
                assert_int_equal(peer.err.code, ERR_NONE);
                continue;
            }
            failures++;
            if (peer.err.code == ERR_NONE || peer.err.code == ERR_BUG)
                fail_msg("byte %d xor %d: %s", (int)at, masks[i], peer.err.message);
            assert_true(peer.err.message[0] != '\0');
        }
    }
    assert_true(failures > total / 2);
    buf_free(&data);
    peer_drop(&peer);
}

static void
typed_backup_damaged_everywhere(void **state)
{
    (void)state;
    damage_everywhere(script_typed_backup, talk_backup);
}

static void
old_backup_damaged_everywhere(void **state)
{
    (void)state;
    damage_everywhere(script_old_backup, talk_backup);
}

static void
stream_damaged_everywhere(void **state)
{
    (void)state;
    damage_everywhere(script_stream, talk_stream);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(typed_backup_cut_everywhere),
        cmocka_unit_test(old_backup_cut_everywhere),
        cmocka_unit_test(stream_cut_everywhere),
        cmocka_unit_test(typed_backup_damaged_everywhere),
        cmocka_unit_test(old_backup_damaged_everywhere),
        cmocka_unit_test(stream_damaged_everywhere),
    };

    peer_clean_environment();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
