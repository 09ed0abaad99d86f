#include "backup_peer.h"

#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "support/descriptors.h"

/* ---- the observer ---- */

static bool
begins_with(const char *line, const char *beginning)
{
    return beginning != NULL && strncmp(line, beginning, strlen(beginning)) == 0;
}

PRINTF_LIKE(2, 3)
static void
tell(BackupPeer *peer, const char *fmt, ...)
{
    char line[4096];
    Error err = ERROR_INIT;
    va_list args;

    va_start(args, fmt);
    (void)vsnprintf(line, sizeof line, fmt, args);
    va_end(args);
    assert_true(buf_printf(&peer->told, &err, "%s\n", line));
    if (begins_with(line, peer->stop_at))
        stop_request(&peer->stop);
    if (begins_with(line, peer->release_at))
        stop_request(&peer->release);
}

static void
take_note(void *ctx, const char *message)
{
    tell(ctx, "note: %s", message);
}

static void
take_info(void *ctx, const char *message)
{
    tell(ctx, "info: %s", message);
}

static void
take_problem(void *ctx, const Problem *problem)
{
    tell(ctx, "problem: %s", problem->message);
}

static void
take_failure(void *ctx, const Error *err)
{
    tell(ctx, "failed: %s", err->message);
}

static void
take_waiting(void *ctx)
{
    tell(ctx, "waiting");
}

static void
take_progress(void *ctx, const BackupProgress *progress)
{
    tell(ctx, "progress %llu/%llu %zu/%zu %s%s", (unsigned long long)progress->done,
         (unsigned long long)progress->total, progress->tablespace, progress->tablespace_count,
         progress->current == NULL ? "-" : progress->current,
         progress->finished ? " finished" : "");
}

/* ---- a run ---- */

void
backup_peer_init(BackupPeer *peer, const char *version)
{
    *peer = (BackupPeer){.scripts = {WIRE_SCRIPT_INIT, WIRE_SCRIPT_INIT},
                         .cut = -1,
                         .damage_at = -1,
                         .umask = 077,
                         .descriptors = descriptors_open(),
                         .err = ERROR_INIT};
    fake_backup_init(&peer->fake, version);
    temp_dir_make(&peer->dir);
    assert_true(stop_init(&peer->stop, &peer->err));
    assert_true(stop_init(&peer->release, &peer->err));
    peer->options = (BackupOptions){
        .directory = temp_dir_path(&peer->dir, "target"),
        .wal_method = WAL_NONE,
        .label = "test",
        .sync = SYNC_NONE,
        .manifest = MANIFEST_YES,
    };
    peer->observer = (BackupObserver){
        .ctx = peer,
        .note = take_note,
        .info = take_info,
        .problem = take_problem,
        .failed = take_failure,
        .waiting = take_waiting,
        .progress = take_progress,
    };
}

void
backup_peer_run(BackupPeer *peer)
{
    mode_t before;

    if (peer->options.manifest == MANIFEST_NO)
        peer->fake.no_manifest = true;
    if (peer->scripts[0].count == 0)
        fake_script_backup(&peer->fake, &peer->scripts[0]);
    if (peer->options.wal_method == WAL_STREAM && peer->scripts[1].count == 0)
        fake_script_wal(&peer->fake, &peer->scripts[1]);
    peer->config.scripts = peer->scripts;
    peer->config.script_count = peer->options.wal_method == WAL_STREAM ? 2 : 1;
    peer->config.server_version = peer->fake.version;
    peer->server = wire_server_start(&peer->config);
    wire_server_cut(peer->server, peer->cut);
    wire_server_damage(peer->server, peer->damage_at, peer->damage_mask);
    peer->conn = (ConnConfig){
        .conninfo = wire_server_conninfo(peer->server),
        .progname = "test",
        .prompt = PASSWORD_NEVER,
        .stop = &peer->stop,
    };
    before = umask(peer->umask);
    peer->ok =
        basebackup_run(&peer->conn, &peer->options, &peer->observer, &peer->stop, &peer->err);
    (void)umask(before);
    assert_string_equal(wire_server_stop(peer->server), "");
}

void
backup_peer_free(BackupPeer *peer)
{
    wire_server_free(peer->server);
    for (size_t i = 0; i < 2; i++)
        wire_script_free(&peer->scripts[i]);
    fake_backup_free(&peer->fake);
    temp_dir_remove(&peer->dir);
    stop_destroy(&peer->stop);
    stop_destroy(&peer->release);
    buf_free(&peer->told);
}

void
backup_peer_script_stall(BackupPeer *peer)
{
    Buf *out;

    fake_script_learn(&peer->fake, &peer->scripts[0]);
    out = fake_script_begin(&peer->fake, &peer->scripts[0]);
    fake_put_copy(&peer->fake, out);
    fake_put_archive(&peer->fake, out, 0);
    wire_stall(&peer->scripts[0], NULL);
}

int
backup_peer_set_up(void **state, const char *version)
{
    BackupPeer *peer = calloc(1, sizeof *peer);

    if (peer == NULL)
        return -1;
    backup_peer_init(peer, version);
    *state = peer;
    return 0;
}

int
backup_peer_tear_down(void **state)
{
    BackupPeer *peer = *state;
    size_t before = peer->descriptors;
    size_t after;

    backup_peer_free(peer);
    free(peer);
    after = descriptors_open();
    if (after != before)
        print_error("%zu descriptors before, %zu after the test\n", before, after);
    return after == before ? 0 : -1;
}

void
backup_peer_again(BackupPeer *peer, const char *version)
{
    backup_peer_free(peer);
    backup_peer_init(peer, version);
}

/* ---- what was told ---- */

static const char *
find_line(const char *text, const char *beginning)
{
    size_t len = strlen(beginning);

    while (*text != '\0') {
        if (strncmp(text, beginning, len) == 0)
            return text;
        text += strcspn(text, "\n");
        text += *text == '\n';
    }
    return NULL;
}

bool
backup_peer_was_told(const BackupPeer *peer, const char *beginning)
{
    return find_line(buf_text(&peer->told), beginning) != NULL;
}

const char *
backup_peer_told(const BackupPeer *peer, const char *beginning)
{
    static char line[4096];
    const char *found = find_line(buf_text(&peer->told), beginning);

    if (found == NULL)
        fail_msg("no line \"%s\" in:\n%s", beginning, buf_text(&peer->told));
    (void)snprintf(line, sizeof line, "%.*s", (int)strcspn(found, "\n"), found);
    return line;
}

const char *
backup_peer_query(const BackupPeer *peer, const char *beginning)
{
    const char *query;

    for (size_t i = 0; (query = wire_server_query(peer->server, i)) != NULL; i++) {
        if (strncmp(query, beginning, strlen(beginning)) == 0)
            return query;
    }
    return NULL;
}

/* ---- the directory ---- */

void
backup_peer_assert_file(BackupPeer *peer, const char *name, const char *text)
{
    Buf content = temp_dir_read(&peer->dir, name);

    assert_string_equal(buf_text(&content), text);
    buf_free(&content);
}

size_t
backup_peer_entries(BackupPeer *peer, const char *name)
{
    DIR *dir = opendir(temp_dir_path(&peer->dir, name));
    const struct dirent *entry;
    size_t count = 0;

    assert_non_null(dir);
    while ((entry = readdir(dir)) != NULL)
        count += strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0;
    (void)closedir(dir);
    return count;
}

/* ---- the ending ---- */

void
backup_peer_assert_taken(BackupPeer *peer)
{
    const bool manifest = peer->fake.major >= 13 && !peer->fake.no_manifest;

    if (!peer->ok)
        fail_msg("%s\n%s", peer->err.message, buf_text(&peer->told));
    assert_int_equal(peer->err.code, ERR_NONE);
    assert_false(backup_peer_was_told(peer, "failed: "));
    assert_false(backup_peer_was_told(peer, "info: "));
    assert_false(backup_peer_was_told(peer, "problem: "));
    assert_string_equal(backup_peer_told(peer, "note: base"), "note: base backup completed");
    backup_peer_assert_file(peer, "target/backup_label", "LABEL: fake\n");
    backup_peer_assert_file(peer, "target/PG_VERSION", "18\n");
    backup_peer_assert_file(peer, "target/base/1/1247", "pg_type's rows");
    backup_peer_assert_file(peer, "target/base/1/1248", "");
    backup_peer_assert_file(peer, "target/global/pg_control", "control");
    assert_true(temp_dir_exists(&peer->dir, "target/pg_wal/archive_status"));
    assert_false(temp_dir_exists(&peer->dir, "target/backup_manifest.tmp"));
    assert_int_equal(temp_dir_exists(&peer->dir, "target/backup_manifest"), manifest);
    if (manifest)
        backup_peer_assert_file(peer, "target/backup_manifest",
                                buf_text(&peer->fake.manifest_text));
}

void
backup_peer_assert_error(BackupPeer *peer, ErrorCode code, const char *part)
{
    char line[900];
    const char *failed;
    const char *info;

    assert_false(peer->ok);
    if (strstr(peer->err.message, part) == NULL)
        fail_msg("error \"%s\" has no \"%s\"", peer->err.message, part);
    assert_int_equal(peer->err.code, code);

    /* Once, and before what is done about it. */
    (void)snprintf(line, sizeof line, "failed: %s", peer->err.message);
    failed = find_line(buf_text(&peer->told), "failed: ");
    info = find_line(buf_text(&peer->told), "info: ");
    assert_non_null(failed);
    assert_true(strncmp(failed, line, strlen(line)) == 0);
    assert_null(find_line(failed + 1, "failed: "));
    assert_true(info == NULL || info > failed);
    assert_false(backup_peer_was_told(peer, "note: base backup completed"));
}

void
backup_peer_assert_failed_begins(BackupPeer *peer, ErrorCode code, const char *beginning)
{
    backup_peer_assert_error(peer, code, "");
    if (strncmp(peer->err.message, beginning, strlen(beginning)) != 0)
        fail_msg("error \"%s\" does not begin with \"%s\"", peer->err.message, beginning);
    if (backup_peer_entries(peer, ".") != 0)
        fail_msg("something is left:\n%s", buf_text(&peer->told));
}

void
backup_peer_assert_failed(BackupPeer *peer, ErrorCode code, const char *message)
{
    backup_peer_assert_failed_begins(peer, code, message);
    assert_string_equal(peer->err.message, message);
}

void
backup_peer_assert_taken_or_stopped(BackupPeer *peer)
{
    if (peer->ok)
        backup_peer_assert_taken(peer);
    else
        backup_peer_assert_failed(peer, ERR_STOPPED, "stopped");
}
