#include "backup_peer.h"

#include <dirent.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "support/descriptors.h"
#include "support/recorder.h"

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
take_begun(void *ctx, const BackupBegin *begin)
{
    tell(ctx, "begun " LSN_FORMAT " timeline=%u total=%llu archives=%zu version=%d",
         LSN_ARGS(begin->start), begin->timeline, (unsigned long long)begin->total,
         begin->tablespace_count, begin->server_version);
}

static void
take_progress(void *ctx, const BackupProgress *progress)
{
    tell(ctx, "progress %llu/%llu %zu/%zu %s%s", (unsigned long long)progress->done,
         (unsigned long long)progress->total, progress->tablespace, progress->tablespace_count,
         progress->current == NULL ? "-" : progress->current,
         progress->finished ? " finished" : "");
}

static void
take_summary(void *ctx, const BackupSummary *summary)
{
    char files[80] = "";
    char pages[80] = "";

    assert_true(summary->elapsed_ms >= 0);
    if (summary->manifest_checked)
        (void)snprintf(files, sizeof files, " files=%llu bytes=%llu",
                       (unsigned long long)summary->files, (unsigned long long)summary->bytes);
    if (summary->pages_checked)
        (void)snprintf(pages, sizeof pages, " pages=%llu bad=%llu",
                       (unsigned long long)summary->pages, (unsigned long long)summary->bad_pages);
    tell(ctx,
         "completed " LSN_FORMAT "-" LSN_FORMAT " timeline=%u received=%llu wal=%llu%s%s%s%s%s",
         LSN_ARGS(summary->start), LSN_ARGS(summary->end), summary->timeline,
         (unsigned long long)summary->received, (unsigned long long)summary->wal_received, files,
         pages, summary->wal_checked ? " wal-checked" : "", summary->durable ? " durable" : "",
         summary->elsewhere ? " elsewhere" : "");
}

/* ---- a run ---- */

void
backup_peer_init(BackupPeer *peer, const char *version)
{
    *peer = (BackupPeer){.scripts = {WIRE_SCRIPT_INIT, WIRE_SCRIPT_INIT, WIRE_SCRIPT_INIT},
                         .output = -1,
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
        .begun = take_begun,
        .progress = take_progress,
        .completed = take_summary,
    };
}

void
backup_peer_match(BackupPeer *peer)
{
    const BackupOptions *options = &peer->options;
    FakeBackup *fake = &peer->fake;

    fake->no_manifest |= options->manifest == MANIFEST_NO;
    fake->no_look |=
        (options->no_verify_checksums && !options->page_digests) || options->target != NULL;
    fake->elsewhere |= options->target != NULL;
    fake->uploads |= options->incremental != NULL;
    if (options->server_compression != NULL)
        assert_true(compression_method_parse(options->server_compression, &fake->compress));
}

/* Those that the test has not written itself. */
static void
write_scripts(BackupPeer *peer)
{
    const bool streams = peer->options.wal_method == WAL_STREAM;
    const bool drops = streams && peer->options.create_slot;

    if (peer->scripts[0].count == 0)
        fake_script_backup(&peer->fake, &peer->scripts[0]);
    if (streams && peer->scripts[1].count == 0)
        fake_script_wal(&peer->fake, &peer->scripts[1]);
    if (drops && peer->scripts[2].count == 0)
        fake_script_drop_slot(&peer->scripts[2]);
    peer->config.scripts = peer->scripts;
    peer->config.script_count = 1 + (size_t)streams + (size_t)drops;
}

static void
take(BackupPeer *peer)
{
    const mode_t before = umask(peer->umask);

    peer->ok =
        basebackup_run(&peer->conn, &peer->options, &peer->observer, &peer->stop, &peer->err);
    (void)umask(before);
}

static void
read_back(int fd, Buf *content)
{
    Error err = ERROR_INIT;
    struct stat st;

    assert_int_equal(fstat(fd, &st), 0);
    assert_true(buf_reserve(content, (size_t)st.st_size, &err));
    assert_int_equal(pread(fd, content->data, (size_t)st.st_size, 0), st.st_size);
    content->len = (size_t)st.st_size;
}

static void
take_to_output(BackupPeer *peer)
{
    const int file = memfd_create("output", MFD_CLOEXEC);
    int saved;

    assert_true(file >= 0);
    (void)fflush(stdout);
    saved = fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3);
    assert_true(saved >= 0);
    assert_int_equal(dup2(peer->output < 0 ? file : peer->output, STDOUT_FILENO), STDOUT_FILENO);
    take(peer);
    assert_int_equal(dup2(saved, STDOUT_FILENO), STDOUT_FILENO);
    (void)close(saved);
    read_back(file, &peer->printed);
    (void)close(file);
}

void
backup_peer_run(BackupPeer *peer)
{
    const char *directory = peer->options.directory;

    backup_peer_match(peer);
    write_scripts(peer);
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
    if (directory != NULL && strcmp(directory, "-") == 0)
        take_to_output(peer);
    else
        take(peer);
    assert_string_equal(wire_server_stop(peer->server), "");
}

void
backup_peer_free(BackupPeer *peer)
{
    wire_server_free(peer->server);
    for (size_t i = 0; i < sizeof peer->scripts / sizeof peer->scripts[0]; i++)
        wire_script_free(&peer->scripts[i]);
    fake_backup_free(&peer->fake);
    temp_dir_remove(&peer->dir);
    stop_destroy(&peer->stop);
    stop_destroy(&peer->release);
    buf_free(&peer->told);
    buf_free(&peer->printed);
}

void
backup_peer_script_stall(BackupPeer *peer)
{
    Buf *out;

    backup_peer_match(peer);
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
    Buf content;

    if (!temp_dir_exists(&peer->dir, name))
        fail_msg("no file \"%s\"", name);
    content = temp_dir_read(&peer->dir, name);
    assert_string_equal(buf_text(&content), text);
    buf_free(&content);
}

static Buf
decompressed(const char *name, Span packed, CompressionMethod method)
{
    Recording recording = RECORDING_INIT;
    Error err = ERROR_INIT;
    Sink *sink = decompress_new(recorder_new(&recording, &err), method, &err);

    assert_non_null(sink);
    if (!sink_archive_begin(sink, &(Archive){.name = name}, &err) ||
        !sink_data(sink, packed, &err) || !sink_archive_end(sink, &err) || !sink_finish(sink, &err))
        fail_msg("%s", err.message);
    sink_free(sink);
    buf_free(&recording.text);
    return recording.bytes;
}

Buf
backup_peer_unpacked(BackupPeer *peer, const char *name)
{
    Buf file = temp_dir_read(&peer->dir, name);
    CompressionMethod method = compression_of_name(name);
    Buf content;

    if (method == COMPRESSION_NONE)
        return file;
    content = decompressed(name, tar_span(&file), method);
    buf_free(&file);
    return content;
}

Buf
backup_peer_sent_tar(BackupPeer *peer, size_t index)
{
    const Buf *members = &peer->fake.archives[index].tar;
    Error err = ERROR_INIT;
    Buf tar = BUF_INIT;

    assert_true(buf_append(&tar, members->data, members->len, &err));
    tar_end(&tar);
    return tar;
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

static bool
has_manifest(const BackupPeer *peer)
{
    return peer->fake.major >= 13 && !peer->fake.no_manifest;
}

void
backup_peer_assert_completed(BackupPeer *peer)
{
    if (!peer->ok)
        fail_msg("%s\n%s", peer->err.message, buf_text(&peer->told));
    assert_int_equal(peer->err.code, ERR_NONE);
    assert_false(backup_peer_was_told(peer, "failed: "));
    assert_false(backup_peer_was_told(peer, "info: "));
    assert_false(backup_peer_was_told(peer, "problem: "));
    assert_string_equal(backup_peer_told(peer, "note: base"), "note: base backup completed");
    assert_true(backup_peer_was_told(peer, "begun "));
    assert_true(backup_peer_was_told(peer, "completed "));
}

static void
assert_manifest(BackupPeer *peer)
{
    assert_false(temp_dir_exists(&peer->dir, "target/backup_manifest.tmp"));
    assert_int_equal(temp_dir_exists(&peer->dir, "target/backup_manifest"), has_manifest(peer));
    if (has_manifest(peer))
        backup_peer_assert_file(peer, "target/backup_manifest",
                                buf_text(&peer->fake.manifest_text));
}

void
backup_peer_assert_taken(BackupPeer *peer)
{
    backup_peer_assert_completed(peer);
    backup_peer_assert_file(peer, "target/backup_label", "LABEL: fake\n");
    backup_peer_assert_file(peer, "target/PG_VERSION", "18\n");
    backup_peer_assert_file(peer, "target/base/1/1247", "pg_type's rows");
    backup_peer_assert_file(peer, "target/base/1/1248", "");
    backup_peer_assert_file(peer, "target/global/pg_control", "control");
    assert_true(temp_dir_exists(&peer->dir, "target/pg_wal/archive_status"));
    assert_manifest(peer);
}

/* The file has what was sent, and those that have no end got one. */
static void
assert_archive(BackupPeer *peer, size_t index)
{
    Buf name = fake_backup_archive_name(&peer->fake, index);
    Buf expected = fake_backup_archive(&peer->fake, index);
    char path[80];
    Buf content;

    if (peer->fake.major < 15)
        tar_end(&expected);
    (void)snprintf(path, sizeof path, "target/%s", buf_text(&name));
    content = temp_dir_read(&peer->dir, path);
    assert_int_equal(content.len, expected.len);
    assert_memory_equal(content.data, expected.data, expected.len);
    buf_free(&content);
    buf_free(&expected);
    buf_free(&name);
}

void
backup_peer_assert_archives(BackupPeer *peer)
{
    const bool wal = peer->options.wal_method == WAL_STREAM;

    backup_peer_assert_completed(peer);
    for (size_t i = 0; i < peer->fake.count; i++)
        assert_archive(peer, i);
    assert_manifest(peer);
    assert_int_equal(backup_peer_entries(peer, "target"),
                     peer->fake.count + (has_manifest(peer) ? 1 : 0) + (wal ? 1 : 0));
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
