/*
 * Kinds of base backups besides the usual one: for a standby (-R), with WAL in a directory of its
 * own, to a target of the server, and incremental. Archives: test_basebackup_tar.c.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "backup_peer.h"
#include "peer.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define TYPED        "18.4"
#define PLAIN        "14.19"
#define FIRST        "000000010000000000000020"

static const char *const both[] = {TYPED, PLAIN};

static int
set_up(void **state)
{
    return backup_peer_set_up(state, TYPED);
}

static mode_t
mode_of(BackupPeer *peer, const char *name)
{
    return temp_dir_mode(&peer->dir, name) & 07777;
}

/* ---- for a standby ---- */

/* `before`, the settings and nothing behind them. */
static void
assert_settings(BackupPeer *peer, const char *name, const char *before, const char *slot)
{
    Buf content = temp_dir_read(&peer->dir, name);
    const char *text = buf_text(&content);
    const char *line = text + strlen(before);
    char port[40];
    char end[80];
    size_t len;

    assert_int_equal(strncmp(text, before, strlen(before)), 0);
    assert_int_equal(strncmp(line, "primary_conninfo = '", 20), 0);
    len = strcspn(line, "\n");
    assert_int_equal(line[len - 1], '\'');
    assert_non_null(strstr(line, wire_server_host(peer->server)));
    (void)snprintf(port, sizeof port, " port=%s ", wire_server_port(peer->server));
    assert_non_null(strstr(line, port));
    assert_null(strstr(line, "replication="));
    (void)snprintf(end, sizeof end, slot == NULL ? "\n%s" : "\nprimary_slot_name = '%s'\n",
                   slot == NULL ? "" : slot);
    assert_string_equal(line + len, end);
    buf_free(&content);
}

static void
test_recovery(void **state)
{
    static const struct {
        const char *sent; /* by the server; NULL: no such file */
        const char *before;
    } cases[] = {{NULL, ""}, {"", ""}, {"a = 1\n", "a = 1\n"}, {"a = 1", "a = 1\n"}};

    for (size_t i = 0; i < COUNT(cases) * 2; i++) {
        BackupPeer *peer = *state;

        backup_peer_again(peer, both[i % 2]);
        peer->options.write_recovery = true;
        peer->fake.mode = i % 2 == 0 ? "0700" : "0750";
        peer->fake.piece = i < 4 ? 1 : 100000;
        if (cases[i / 2].sent != NULL)
            fake_backup_file(&peer->fake, 0, "postgresql.auto.conf", cases[i / 2].sent);
        backup_peer_run(peer);
        backup_peer_assert_taken(peer);
        assert_settings(peer, "target/postgresql.auto.conf", cases[i / 2].before, NULL);
        backup_peer_assert_file(peer, "target/standby.signal", "");
        assert_int_equal(mode_of(peer, "target/standby.signal"), i % 2 == 0 ? 0600 : 0640);
        assert_false(temp_dir_exists(&peer->dir, "target/recovery.conf"));
    }
}

/* A backup of a standby has these files already. */
static void
test_recovery_of_a_standby(void **state)
{
    BackupPeer *peer = *state;

    peer->options.write_recovery = true;
    fake_backup_file(&peer->fake, 0, "standby.signal", "not empty");
    fake_backup_file(&peer->fake, 0, "postgresql.auto.conf", "primary_conninfo = 'older'\n");
    backup_peer_run(peer);
    backup_peer_assert_taken(peer);
    assert_settings(peer, "target/postgresql.auto.conf", "primary_conninfo = 'older'\n", NULL);
    backup_peer_assert_file(peer, "target/standby.signal", "");
}

static void
test_recovery_before_12(void **state)
{
    static const char *const versions[] = {"10.23", "11.22", "12.22"};

    for (size_t i = 0; i < COUNT(versions); i++) {
        BackupPeer *peer = *state;

        backup_peer_again(peer, versions[i]);
        peer->options.write_recovery = true;
        peer->options.slot = "it's";
        fake_backup_file(&peer->fake, 0, "postgresql.auto.conf", "a = 1\n");
        fake_backup_file(&peer->fake, 0, "global/recovery.conf", "another");
        backup_peer_run(peer);
        backup_peer_assert_taken(peer);
        if (i < 2) {
            assert_settings(peer, "target/recovery.conf", "standby_mode = 'on'\n", "it''s");
            backup_peer_assert_file(peer, "target/postgresql.auto.conf", "a = 1\n");
            assert_int_equal(mode_of(peer, "target/recovery.conf"), 0600);
        } else {
            assert_settings(peer, "target/postgresql.auto.conf", "a = 1\n", "it''s");
        }
        assert_int_equal(temp_dir_exists(&peer->dir, "target/recovery.conf"), i < 2);
        assert_int_equal(temp_dir_exists(&peer->dir, "target/standby.signal"), i >= 2);
        backup_peer_assert_file(peer, "target/global/recovery.conf", "another");
    }
}

/* What the server sends is compared before anything of ours is put in. */
static void
test_recovery_and_damage_on_the_way(void **state)
{
    BackupPeer *peer = *state;

    peer->options.write_recovery = true;
    fake_backup_member(&peer->fake, 0, &(TarMember){TAR_FILE("postgresql.auto.conf", "a = 2\n")});
    fake_backup_listed(&peer->fake, "postgresql.auto.conf", "a = 1\n");
    backup_peer_run(peer);
    backup_peer_assert_failed_begins(peer, ERR_MISMATCH, "the backup as received");
    (void)backup_peer_told(peer, "problem: checksum mismatch for file \"postgresql.auto.conf\"");
}

/* ---- WAL in a directory of its own ---- */

static void
start_with_wal_directory(BackupPeer *peer, const char *version)
{
    backup_peer_again(peer, version);
    peer->options.wal_directory = temp_dir_path(&peer->dir, "wal");
}

static void
assert_wal_directory(BackupPeer *peer)
{
    assert_string_equal(temp_dir_link(&peer->dir, "target/pg_wal"), peer->options.wal_directory);
    assert_true(S_ISDIR(temp_dir_mode(&peer->dir, "wal/archive_status")));
}

static void
test_wal_directory(void **state)
{
    for (size_t i = 0; i < COUNT(both) * 3; i++) {
        const WalMethod wal = (WalMethod)(i / 2);
        BackupPeer *peer = *state;

        start_with_wal_directory(peer, both[i % 2]);
        peer->options.wal_method = wal;
        if (wal == WAL_FETCH)
            fake_backup_member(&peer->fake, 0, &(TarMember){TAR_FILE("pg_wal/" FIRST, "WAL")});
        backup_peer_run(peer);
        backup_peer_assert_taken(peer);
        assert_wal_directory(peer);
        assert_int_equal(mode_of(peer, "wal"), 0700);
        assert_int_equal(temp_dir_exists(&peer->dir, "wal/" FIRST), wal != WAL_NONE);
        assert_int_equal(temp_dir_exists(&peer->dir, "wal/summaries"),
                         wal == WAL_STREAM && i % 2 == 0);
        if (wal == WAL_FETCH)
            backup_peer_assert_file(peer, "wal/" FIRST, "WAL");
    }
}

static void
test_wal_directory_that_was_there_and_empty(void **state)
{
    BackupPeer *peer = *state;

    start_with_wal_directory(peer, TYPED);
    temp_dir_mkdir(&peer->dir, "wal");
    peer->options.wal_method = WAL_STREAM;
    backup_peer_run(peer);
    backup_peer_assert_taken(peer);
    assert_wal_directory(peer);
}

/* Both go away again, or what is in them. */
static void
test_wal_directory_is_taken_back(void **state)
{
    for (size_t i = 0; i < 4; i++) {
        const bool there = i % 2 != 0;
        BackupPeer *peer = *state;

        start_with_wal_directory(peer, TYPED);
        peer->options.wal_directory = temp_dir_path(&peer->dir, "deep/wal");
        peer->options.wal_method = i < 2 ? WAL_STREAM : WAL_NONE;
        if (there)
            temp_dir_mkdir(&peer->dir, "deep/wal");
        fake_backup_listed(&peer->fake, "lost", "");
        backup_peer_run(peer);
        backup_peer_assert_error(peer, ERR_MISMATCH, "the backup as received");
        assert_int_equal(backup_peer_entries(peer, "."), there ? 1 : 0);
        if (there)
            assert_int_equal(backup_peer_entries(peer, "deep/wal"), 0);
        (void)backup_peer_told(peer, "info: removing directory");
    }
}

static void
test_wal_directory_is_kept(void **state)
{
    BackupPeer *peer = *state;
    char line[4200];

    start_with_wal_directory(peer, TYPED);
    peer->options.no_clean = true;
    fake_backup_listed(&peer->fake, "lost", "");
    backup_peer_run(peer);
    backup_peer_assert_error(peer, ERR_MISMATCH, "the backup as received");
    (void)snprintf(line, sizeof line, "info: directory \"%s\" not removed at user's request",
                   peer->options.wal_directory);
    (void)backup_peer_told(peer, line);
    assert_int_equal(backup_peer_entries(peer, "."), 2);
    assert_string_equal(temp_dir_link(&peer->dir, "target/pg_wal"), peer->options.wal_directory);
}

static void
test_wal_directory_that_is_not_empty(void **state)
{
    BackupPeer *peer = *state;
    char message[4200];

    start_with_wal_directory(peer, TYPED);
    temp_dir_mkdir(&peer->dir, "wal/mine");
    backup_peer_run(peer);
    (void)snprintf(message, sizeof message, "directory \"%s\" exists but is not empty",
                   peer->options.wal_directory);
    backup_peer_assert_error(peer, ERR_USAGE, message);
    assert_null(backup_peer_query(peer, "BASE_BACKUP"));
    assert_int_equal(backup_peer_entries(peer, "."), 1);
    assert_true(temp_dir_exists(&peer->dir, "wal/mine"));
}

static void
test_wal_directory_that_overlaps(void **state)
{
    static const char *const places[] = {"target", "target/pg_wal", "target/wal", "."};

    for (size_t i = 0; i < COUNT(places); i++) {
        BackupPeer *peer = *state;

        backup_peer_again(peer, TYPED);
        if (strcmp(places[i], ".") == 0) {
            peer->options.directory = temp_dir_path(&peer->dir, "wal/target");
            peer->options.wal_directory = temp_dir_path(&peer->dir, "wal");
        } else {
            peer->options.wal_directory = temp_dir_path(&peer->dir, places[i]);
        }
        backup_peer_run(peer);
        assert_false(peer->ok);
        assert_int_equal(peer->err.code, ERR_USAGE);
        assert_null(backup_peer_query(peer, "BASE_BACKUP"));
        assert_int_equal(backup_peer_entries(peer, "."), 0);
    }
}

/* The archive's own idea of pg_wal does not count. */
static void
test_wal_directory_against_the_archive(void **state)
{
    static const TarMember members[] = {
        {TAR_FILE("pg_wal/../../outside", "bad")},
        {TAR_SYMLINK("pg_wal", "/tmp")},
        {TAR_FILE("pg_wal", "a file")},
    };

    for (size_t i = 0; i < COUNT(members); i++) {
        BackupPeer *peer = *state;

        start_with_wal_directory(peer, TYPED);
        fake_backup_member(&peer->fake, 0, &members[i]);
        if (members[i].type == 0)
            fake_backup_listed(&peer->fake, members[i].name, members[i].data);
        backup_peer_run(peer);
        backup_peer_assert_failed_begins(peer, peer->err.code, "");
        assert_int_not_equal(peer->err.code, ERR_MISMATCH);
    }
}

/* ---- to a target of the server ---- */

static void
start_to_target(BackupPeer *peer, const char *target, const char *detail)
{
    backup_peer_again(peer, TYPED);
    peer->options.format = FORMAT_TAR;
    peer->options.directory = NULL;
    peer->options.target = target;
    peer->options.target_detail = detail;
}

static void
test_targets(void **state)
{
    static const struct {
        const char *target;
        const char *detail;
        const char *text;
    } cases[] = {
        {"blackhole", NULL, ", TARGET 'blackhole')"},
        {"server", "/srv/it's", ", TARGET 'server', TARGET_DETAIL '/srv/it''s')"},
    };

    for (size_t i = 0; i < COUNT(cases); i++) {
        BackupPeer *peer = *state;
        const char *command;

        start_to_target(peer, cases[i].target, cases[i].detail);
        peer->options.wal_method = i == 0 ? WAL_NONE : WAL_FETCH;
        peer->options.sync = SYNC_FSYNC;
        fake_backup_tablespace(&peer->fake, 16385, "/srv/ts");
        backup_peer_run(peer);
        backup_peer_assert_completed(peer);
        command = backup_peer_query(peer, "BASE_BACKUP");
        assert_non_null(strstr(command, cases[i].text));
        assert_non_null(strstr(command, "MANIFEST 'yes'"));
        assert_non_null(strstr(command, "TABLESPACE_MAP")); /* nobody here makes its links */
        assert_int_equal(wire_server_connections(peer->server), 1);
        assert_int_equal(backup_peer_entries(peer, "."), 0);
        /* What is not here cannot have been checked, or be on disk. */
        assert_null(strstr(backup_peer_told(peer, "completed "), "files="));
        assert_null(strstr(backup_peer_told(peer, "completed "), "durable"));
        assert_non_null(
            strstr(backup_peer_told(peer, "completed "), " received=0 wal=0 elsewhere"));
        assert_false(backup_peer_was_told(peer, "note: syncing"));
        assert_false(backup_peer_was_told(peer, "note: verified"));
        assert_false(backup_peer_was_told(peer, "note: renaming"));
    }
}

static void
test_target_without_manifest(void **state)
{
    BackupPeer *peer = *state;

    start_to_target(peer, "blackhole", NULL);
    peer->options.manifest = MANIFEST_NO;
    backup_peer_run(peer);
    backup_peer_assert_completed(peer);
    assert_null(strstr(backup_peer_query(peer, "BASE_BACKUP"), "MANIFEST"));
}

/* The archives have the names that the server gives them there. */
static void
test_target_and_compression(void **state)
{
    static const char *const names[] = {"gzip", "lz4", "zstd"};

    for (size_t i = 0; i < COUNT(names); i++) {
        BackupPeer *peer = *state;

        start_to_target(peer, "server", "/srv/backup");
        peer->options.server_compression = names[i];
        backup_peer_run(peer);
        backup_peer_assert_completed(peer);
        assert_non_null(strstr(backup_peer_query(peer, "BASE_BACKUP"), "COMPRESSION '"));
    }
}

static void
test_target_that_is_refused(void **state)
{
    BackupPeer *peer = *state;

    start_to_target(peer, "moon", NULL);
    backup_peer_match(peer);
    fake_script_learn(&peer->fake, &peer->scripts[0]);
    wire_answer_error(&peer->scripts[0], "BASE_BACKUP", "22023", "unrecognized target: \"moon\"");
    backup_peer_run(peer);
    backup_peer_assert_failed(peer, ERR_SERVER,
                              "could not initiate base backup: ERROR:  unrecognized target: "
                              "\"moon\"");
    assert_false(backup_peer_was_told(peer, "info: "));
}

static void
test_target_needs_a_newer_server(void **state)
{
    BackupPeer *peer = *state;

    start_to_target(peer, "blackhole", NULL);
    backup_peer_again(peer, PLAIN);
    peer->options.format = FORMAT_TAR;
    peer->options.directory = NULL;
    peer->options.target = "blackhole";
    backup_peer_run(peer);
    backup_peer_assert_failed(peer, ERR_UNSUPPORTED,
                              "backup targets are not supported by this server version");
    assert_non_null(strstr(peer->err.hint, "14.19"));
    assert_null(backup_peer_query(peer, "BASE_BACKUP"));
}

static void
put_data(FakeBackup *fake, Buf *out)
{
    fake_put_new_archive(out, "base.tar", "");
    fake_put_data(out, tar_span(&fake->archives[0].tar));
}

static void
put_manifest_data(FakeBackup *fake, Buf *out)
{
    fake_put_archive(fake, out, 0);
    fake_put_manifest_begins(out);
    fake_put_data(out, span_of("{"));
}

static void
put_data_alone(FakeBackup *fake, Buf *out)
{
    fake_put_data(out, span_of("data"));
    (void)fake;
}

static void
put_two_manifests(FakeBackup *fake, Buf *out)
{
    fake_put_archive(fake, out, 0);
    fake_put_manifest_begins(out);
    fake_put_manifest_begins(out);
}

static void
put_another_archive(FakeBackup *fake, Buf *out)
{
    fake_put_archive(fake, out, 0);
    fake_put_new_archive(out, "16385.tar", "/srv/ts");
}

/* What we were not asked to keep would be lost. */
static void
test_target_that_sends_data(void **state)
{
    static const struct {
        void (*put)(FakeBackup *fake, Buf *out);
        const char *message;
    } cases[] = {
        {put_data, "unexpected payload data"},
        {put_manifest_data, "unexpected payload data"},
        {put_data_alone, "unexpected payload data"},
        {put_two_manifests, "server sent a backup manifest that was not expected"},
        {put_another_archive, "server sent one more archive than it announced: \"16385.tar\""},
    };

    for (size_t i = 0; i < COUNT(cases); i++) {
        BackupPeer *peer = *state;
        Buf *out;

        start_to_target(peer, "blackhole", NULL);
        backup_peer_match(peer);
        fake_script_learn(&peer->fake, &peer->scripts[0]);
        out = fake_script_begin(&peer->fake, &peer->scripts[0]);
        fake_put_copy(&peer->fake, out);
        cases[i].put(&peer->fake, out);
        backup_peer_run(peer);
        backup_peer_assert_failed(peer, ERR_PROTOCOL, cases[i].message);
        assert_false(backup_peer_was_told(peer, "info: "));
    }
}

static void
test_target_and_damaged_pages(void **state)
{
    BackupPeer *peer = *state;

    start_to_target(peer, "blackhole", NULL);
    peer->fake.damaged = true;
    backup_peer_run(peer);
    backup_peer_assert_failed(peer, ERR_MISMATCH, "checksum error occurred");
    assert_string_equal(peer->err.hint, "Pages are damaged (see above).");
}

static void
test_target_is_stopped(void **state)
{
    BackupPeer *peer = *state;

    start_to_target(peer, "blackhole", NULL);
    backup_peer_script_stall(peer);
    peer->stop_at = "progress ";
    backup_peer_run(peer);
    backup_peer_assert_failed(peer, ERR_STOPPED, "stopped");
}

/* ---- progress as the server counts ---- */

/* Where what arrives is not what was read, or does not arrive at all. */
static void
test_progress_of_the_server(void **state)
{
    for (size_t i = 0; i < 3; i++) {
        BackupPeer *peer = *state;
        unsigned long long received;
        const char *completed;

        backup_peer_again(peer, TYPED);
        if (i == 0)
            start_to_target(peer, "blackhole", NULL);
        else
            peer->options.server_compression = "gzip";
        if (i == 2)
            peer->options.format = FORMAT_TAR;
        peer->options.mappings =
            &(TablespaceMapping){.from = "/srv/ts", .to = temp_dir_path(&peer->dir, "ts")};
        peer->options.mapping_count = 1;
        peer->fake.size = "10";
        fake_backup_tablespace(&peer->fake, 16385, "/srv/ts");
        backup_peer_run(peer);
        backup_peer_assert_completed(peer);
        (void)backup_peer_told(peer, "progress 0/20480 0/2 ");
        (void)backup_peer_told(peer, "progress 2560/20480 1/2 ");
        (void)backup_peer_told(peer, "progress 11776/20480 2/2 - finished");
        completed = strstr(backup_peer_told(peer, "completed "), "received=");
        assert_non_null(completed);
        received = strtoull(completed + 9, NULL, 10);
        assert_int_equal(received == 0, i == 0);
        assert_true(received < 11776);
    }
}

/* Bytes that arrive compressed say nothing about how much has been read. */
static void
test_progress_before_the_server_tells(void **state)
{
    BackupPeer *peer = *state;
    Buf archive;
    Buf *out;

    peer->options.server_compression = "gzip";
    backup_peer_match(peer);
    fake_script_learn(&peer->fake, &peer->scripts[0]);
    out = fake_script_begin(&peer->fake, &peer->scripts[0]);
    archive = fake_backup_archive(&peer->fake, 0);
    fake_put_copy(&peer->fake, out);
    fake_put_new_archive(out, "base.tar.gz", "");
    fake_put_data(out, tar_span(&archive));
    fake_put_manifest(&peer->fake, out);
    fake_put_copy_end(&peer->fake, out);
    fake_put_end(&peer->fake, out);
    buf_free(&archive);
    backup_peer_run(peer);
    backup_peer_assert_taken(peer);
    (void)backup_peer_told(peer, "progress 0/0 1/1 - finished");
}

/* More than was estimated: the estimate gives way. */
static void
test_progress_beyond_the_estimate(void **state)
{
    BackupPeer *peer = *state;

    start_to_target(peer, "blackhole", NULL);
    peer->fake.size = "1";
    backup_peer_run(peer);
    backup_peer_assert_completed(peer);
    (void)backup_peer_told(peer, "progress 0/1024 0/1 ");
    (void)backup_peer_told(peer, "progress 8704/8704 1/1 - finished");
}

/* ---- incremental ---- */

static void
start_incremental(BackupPeer *peer, const char *version)
{
    backup_peer_again(peer, version);
    temp_dir_write(&peer->dir, "earlier", "an earlier manifest\n", 20);
    peer->options.incremental = temp_dir_path(&peer->dir, "earlier");
}

/* Nothing but the earlier manifest is left. */
static void
assert_taken_back(BackupPeer *peer, ErrorCode code, const char *message)
{
    backup_peer_assert_error(peer, code, message);
    assert_int_equal(backup_peer_entries(peer, "."), 1);
    backup_peer_assert_file(peer, "earlier", "an earlier manifest\n");
    (void)backup_peer_told(peer, "info: removing directory");
}

/* The n-th query of the connection. */
static void
assert_query(const BackupPeer *peer, size_t n, const char *beginning)
{
    const char *query = wire_server_query(peer->server, n);

    assert_non_null(query);
    assert_int_equal(strncmp(query, beginning, strlen(beginning)), 0);
}

static void
test_incremental(void **state)
{
    for (size_t i = 0; i < 2; i++) {
        BackupPeer *peer = *state;
        Span sent;

        start_incremental(peer, i == 0 ? "17.6" : TYPED);
        peer->options.format = i == 0 ? FORMAT_PLAIN : FORMAT_TAR;
        fake_backup_file(&peer->fake, 0, "base/1/INCREMENTAL.1259", "what has changed");
        backup_peer_run(peer);
        if (i == 0) {
            backup_peer_assert_taken(peer);
            backup_peer_assert_file(peer, "target/base/1/INCREMENTAL.1259", "what has changed");
        } else {
            backup_peer_assert_archives(peer);
        }
        assert_query(peer, 6, "UPLOAD_MANIFEST");
        assert_query(peer, 7, "BASE_BACKUP (INCREMENTAL, LABEL 'test'");
        sent = wire_server_copy_data(peer->server, 0);
        assert_int_equal(sent.len, 20);
        assert_memory_equal(sent.data, "an earlier manifest\n", 20);
        assert_null(wire_server_copy_data(peer->server, 1).data);
    }
}

static void
test_full_uploads_nothing(void **state)
{
    BackupPeer *peer = *state;

    backup_peer_run(peer);
    backup_peer_assert_taken(peer);
    assert_null(backup_peer_query(peer, "UPLOAD_MANIFEST"));
    assert_null(strstr(backup_peer_query(peer, "BASE_BACKUP"), "INCREMENTAL"));
}

/* The server reads it. */
static void
test_incremental_and_a_manifest_that_is_wrong(void **state)
{
    BackupPeer *peer = *state;
    Buf *out;

    start_incremental(peer, TYPED);
    backup_peer_match(peer);
    fake_script_learn(&peer->fake, &peer->scripts[0]);
    wire_expect(&peer->scripts[0], "UPLOAD_MANIFEST");
    wire_copy_in(wire_send(&peer->scripts[0]));
    wire_step(&peer->scripts[0], WIRE_COPY_DONE);
    out = wire_send(&peer->scripts[0]);
    wire_error(out, "ERROR", "XX000", "could not parse backup manifest: unexpected end");
    wire_ready(out);
    backup_peer_run(peer);
    assert_taken_back(peer, ERR_SERVER,
                      "could not upload manifest: ERROR:  could not parse backup manifest: "
                      "unexpected end");
    assert_null(backup_peer_query(peer, "BASE_BACKUP"));
}

/* It may be whole, and yet of no use. */
static void
test_incremental_that_is_refused(void **state)
{
    BackupPeer *peer = *state;

    start_incremental(peer, TYPED);
    backup_peer_match(peer);
    fake_script_learn(&peer->fake, &peer->scripts[0]);
    fake_script_upload(&peer->scripts[0]);
    wire_answer_error(&peer->scripts[0], "BASE_BACKUP", "55000", "WAL summaries are required");
    backup_peer_run(peer);
    assert_taken_back(peer, ERR_SERVER, "ERROR:  WAL summaries are required");
    assert_string_equal(peer->err.sqlstate, "55000");
}

static void
test_incremental_without_its_manifest(void **state)
{
    BackupPeer *peer = *state;

    start_incremental(peer, TYPED);
    peer->options.incremental = temp_dir_path(&peer->dir, "missing");
    backup_peer_match(peer);
    fake_script_learn(&peer->fake, &peer->scripts[0]);
    backup_peer_run(peer);
    assert_taken_back(peer, ERR_SYSTEM, peer->options.incremental);
    assert_int_equal(peer->err.sys_errno, ENOENT);
    assert_null(backup_peer_query(peer, "UPLOAD_MANIFEST"));
}

static void
test_incremental_needs_a_newer_server(void **state)
{
    static const char *const versions[] = {"16.10", PLAIN};

    for (size_t i = 0; i < COUNT(versions); i++) {
        BackupPeer *peer = *state;

        start_incremental(peer, versions[i]);
        backup_peer_run(peer);
        backup_peer_assert_error(peer, ERR_UNSUPPORTED,
                                 "server does not support incremental backup");
        assert_non_null(strstr(peer->err.hint, versions[i]));
        assert_null(backup_peer_query(peer, "BASE_BACKUP"));
        assert_int_equal(backup_peer_entries(peer, "."), 1);
    }
}

static void
test_incremental_is_stopped_while_it_uploads(void **state)
{
    BackupPeer *peer = *state;

    start_incremental(peer, TYPED);
    backup_peer_match(peer);
    fake_script_learn(&peer->fake, &peer->scripts[0]);
    wire_expect(&peer->scripts[0], "UPLOAD_MANIFEST");
    wire_stall(&peer->scripts[0], NULL);
    stop_destroy(&peer->stop);
    assert_true(stop_init_after(&peer->stop, 30, &peer->err));
    backup_peer_run(peer);
    assert_taken_back(peer, ERR_STOPPED, "stopped");
}

#define KIND_TEST(function) cmocka_unit_test_setup_teardown(function, set_up, backup_peer_tear_down)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        KIND_TEST(test_recovery),
        KIND_TEST(test_recovery_of_a_standby),
        KIND_TEST(test_recovery_before_12),
        KIND_TEST(test_recovery_and_damage_on_the_way),
        KIND_TEST(test_wal_directory),
        KIND_TEST(test_wal_directory_that_was_there_and_empty),
        KIND_TEST(test_wal_directory_is_taken_back),
        KIND_TEST(test_wal_directory_is_kept),
        KIND_TEST(test_wal_directory_that_is_not_empty),
        KIND_TEST(test_wal_directory_that_overlaps),
        KIND_TEST(test_wal_directory_against_the_archive),
        KIND_TEST(test_targets),
        KIND_TEST(test_target_without_manifest),
        KIND_TEST(test_target_and_compression),
        KIND_TEST(test_target_that_is_refused),
        KIND_TEST(test_target_needs_a_newer_server),
        KIND_TEST(test_target_that_sends_data),
        KIND_TEST(test_target_and_damaged_pages),
        KIND_TEST(test_target_is_stopped),
        KIND_TEST(test_progress_of_the_server),
        KIND_TEST(test_progress_before_the_server_tells),
        KIND_TEST(test_progress_beyond_the_estimate),
        KIND_TEST(test_incremental),
        KIND_TEST(test_full_uploads_nothing),
        KIND_TEST(test_incremental_and_a_manifest_that_is_wrong),
        KIND_TEST(test_incremental_that_is_refused),
        KIND_TEST(test_incremental_without_its_manifest),
        KIND_TEST(test_incremental_needs_a_newer_server),
        KIND_TEST(test_incremental_is_stopped_while_it_uploads),
    };

    peer_clean_environment();
    return cmocka_run_group_tests_name("basebackup_kinds", tests, NULL, NULL);
}
