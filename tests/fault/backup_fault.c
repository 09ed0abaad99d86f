#include "backup_fault.h"

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

#include "common/file.h"
#include "disk.h"
#include "support/recorder.h"
#include "support/tar_walk.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

#define SEGMENT_1  "000000010000000000000020"
#define SEGMENT_2  "000000010000000000000021"
#define BOUNDARY   (FAKE_SEGMENT + FAKE_SEGMENT_SIZE)
#define TABLE_SIZE BACKUP_FAULT_TABLE_SIZE
#define MISMATCH   "does not agree with the server's manifest"
#define DAMAGED    "checksum error occurred"

/* ---- what the server has ---- */

static void
fill_server(BackupFault *fixture)
{
    FakeBackup *fake = &fixture->fake;

    fake_backup_init(fake, "18.4");
    fake->checksums = true;
    fake->piece = 4096;
    fake_backup_tablespace(fake, 16385, fixture->origin);
    fake_backup_tablespace(fake, 16386, "pg_tblspc/16386");
    fake_backup_member(fake, 0, &(TarMember){TAR_DIRECTORY("pg_tblspc/16386/")});
    fake_backup_file(fake, 0, "postgresql.auto.conf", "# by hand");
    fake_backup_data(fake, 0, "base/1/1259", (Span){.data = fixture->table, .len = TABLE_SIZE});
    while (fake->wal.end < BOUNDARY + 20000)
        (void)wal_builder_record(&fake->wal, 10, 0, 30000);
    fake->end = fake->wal.end;
}

static void
script_wal(BackupFault *fixture)
{
    const FakeBackup *fake = &fixture->fake;
    const Lsn piece = 65536;
    Buf *out;

    fake_script_wal_prepare(fake, &fixture->scripts[1], true);
    out = fake_script_wal_start(&fixture->scripts[1]);
    for (Lsn at = FAKE_SEGMENT; at < fake->end; at += piece)
        fake_put_wal(fake, out, at, fake->end - at < piece ? fake->end : at + piece);
    wire_stream_end(&fixture->scripts[1]);
}

/* The server as it is asked by these options. */
static void
script_all(BackupFault *fixture)
{
    const BackupOptions *options = &fixture->options;
    FakeBackup *fake = &fixture->fake;

    for (size_t i = 0; i < COUNT(fixture->scripts); i++)
        wire_script_free(&fixture->scripts[i]);
    fake_backup_free(fake);
    fill_server(fixture);
    fake->uploads = options->incremental != NULL;
    if (options->server_compression != NULL)
        assert_true(compression_method_parse(options->server_compression, &fake->compress));
    fake->damaged = fixture->spoiler == SPOILER_PAGES;
    if (fixture->spoiler == SPOILER_MANIFEST)
        fake_backup_listed(fake, "missing", "");
    fake_script_backup(fake, &fixture->scripts[0]);
    script_wal(fixture);
    fake_script_drop_slot(&fixture->scripts[2]);
}

/* ---- watching ---- */

/* Somebody else is quicker. */
static void
take_name(const char *path)
{
    const bool before = fault_suspend();

    assert_int_equal(mkdir(path, 0700), 0);
    fault_resume(before);
}

/* Before the manifest gets its name: is all the rest on disk, the manifest's content included? */
static void
watch(void *ctx, FaultKind kind, const char *path)
{
    BackupFault *fixture = ctx;
    const char *unsafe;

    if (kind != FAULT_RENAME || strcmp(path, fixture->manifest) != 0)
        return;
    if (fixture->spoiler == SPOILER_NAME)
        take_name(path);
    if (fixture->options.sync == SYNC_NONE)
        return;
    unsafe = disk_unsafe(fixture->dir.path, fixture->manifest_tmp);
    if (unsafe[0] == '\0' && !disk_content_safe(fixture->manifest_tmp))
        unsafe = fixture->manifest_tmp;
    (void)snprintf(fixture->published_before, sizeof fixture->published_before, "%s", unsafe);
}

static void
hear_info(void *ctx, const char *message)
{
    BackupFault *fixture = ctx;
    size_t len = strlen(fixture->info);

    (void)snprintf(fixture->info + len, sizeof fixture->info - len, "%s\n", message);
}

/* ---- a run ---- */

static bool
take(BackupFault *fixture, const char *conninfo, Stop *stop, Error *err)
{
    const BackupObserver observer = {.ctx = fixture, .info = hear_info};
    ConnConfig conn = {.conninfo = conninfo, .progname = "test", .prompt = PASSWORD_NEVER};

    conn.stop = stop;
    return basebackup_run(&conn, &fixture->options, &observer, stop, err);
}

static bool
exists(const char *path)
{
    struct stat st;

    return lstat(path, &st) == 0;
}

static void
assert_content(BackupFault *fixture, const char *name, const void *expected, size_t len)
{
    Buf content = temp_dir_read(&fixture->dir, name);

    fault_assert(content.len == len && memcmp(content.data, expected, len) == 0,
                 "\"%s\" has another content", name);
    buf_free(&content);
}

/* The second segment, as long as the first. */
static uint8_t *
padded_segment(const BackupFault *fixture)
{
    const Span streamed = wal_builder_span(&fixture->fake.wal, BOUNDARY, fixture->fake.end);
    uint8_t *padded = calloc(1, FAKE_SEGMENT_SIZE);

    assert_non_null(padded);
    memcpy(padded, streamed.data, streamed.len);
    return padded;
}

static void
assert_wal(BackupFault *fixture, const char *directory)
{
    const Span first = wal_builder_span(&fixture->fake.wal, FAKE_SEGMENT, BOUNDARY);
    uint8_t *second = padded_segment(fixture);
    char path[200];

    (void)snprintf(path, sizeof path, "%s/" SEGMENT_1, directory);
    assert_content(fixture, path, first.data, first.len);
    (void)snprintf(path, sizeof path, "%s/" SEGMENT_2, directory);
    assert_content(fixture, path, second, FAKE_SEGMENT_SIZE);
    (void)snprintf(path, sizeof path, "%s/archive_status/" SEGMENT_1 ".done", directory);
    fault_assert(temp_dir_exists(&fixture->dir, path), "segment 1 is not marked as archived");
    free(second);
}

static void
assert_recovery(const char *settings, size_t len)
{
    const char *const begin = "# by hand\nprimary_conninfo = '";

    fault_assert(len > strlen(begin) && strncmp(settings, begin, strlen(begin)) == 0 &&
                     settings[len - 1] == '\n',
                 "the settings are \"%.*s\"", (int)len, settings);
}

/* ---- directories ---- */

static void
assert_directories(BackupFault *fixture)
{
    char target[512];
    ssize_t len = readlink(temp_dir_path(&fixture->dir, "new/deep/backup/pg_tblspc/16385"), target,
                           sizeof target - 1);
    Buf settings;

    target[len < 0 ? 0 : len] = '\0';
    fault_assert(strcmp(target, fixture->space) == 0, "the tablespace's link leads to \"%s\"",
                 target);
    assert_content(fixture, "new/deep/backup/base/1/1259", fixture->table, TABLE_SIZE);
    assert_content(fixture, "new/deep/backup/PG_VERSION", "18\n", 3);
    assert_content(fixture, "spaces/space/PG_18_202506291/1234", "far away", 8);
    assert_content(fixture, "new/deep/backup/pg_tblspc/16386/PG_18_202506291/1234", "far away", 8);
    if (fixture->options.wal_method == WAL_STREAM)
        assert_wal(fixture,
                   fixture->options.wal_directory == NULL ? "new/deep/backup/pg_wal" : "wals/wal");
    if (fixture->options.wal_directory != NULL)
        fault_assert(strcmp(temp_dir_link(&fixture->dir, "new/deep/backup/pg_wal"), fixture->wal) ==
                         0,
                     "pg_wal does not lead to the WAL");
    if (!fixture->options.write_recovery)
        return;
    assert_content(fixture, "new/deep/backup/standby.signal", "", 0);
    settings = temp_dir_read(&fixture->dir, "new/deep/backup/postgresql.auto.conf");
    assert_recovery(buf_text(&settings), settings.len);
    buf_free(&settings);
}

/* ---- archives ---- */

static CompressionMethod
method_of(const BackupFault *fixture)
{
    return fixture->options.server_compression == NULL ? fixture->options.compression.method
                                                       : fixture->fake.compress;
}

/* The archive, out of its compression. */
static Buf
unpacked(BackupFault *fixture, const char *name, CompressionMethod method)
{
    Recording recording = RECORDING_INIT;
    Error err = ERROR_INIT;
    char path[200];
    Sink *sink;
    Buf file;

    (void)snprintf(path, sizeof path, "new/deep/backup/%s.tar%s", name, compression_suffix(method));
    fault_assert(temp_dir_exists(&fixture->dir, path), "there is no \"%s\"", path);
    file = temp_dir_read(&fixture->dir, path);
    if (method == COMPRESSION_NONE)
        return file;
    sink = decompress_new(recorder_new(&recording, &err), method, &err);
    assert_non_null(sink);
    fault_assert(sink_archive_begin(sink, &(Archive){.name = path}, &err) &&
                     sink_data(sink, tar_span(&file), &err) && sink_archive_end(sink, &err) &&
                     sink_finish(sink, &err),
                 "%s", err.message);
    sink_free(sink);
    buf_free(&file);
    buf_free(&recording.text);
    return recording.bytes;
}

static void
assert_member(const Buf *tar, const char *name, const void *expected, size_t len)
{
    TarFound found;

    fault_assert(tar_find(tar_span(tar), name, &found), "no member \"%s\"", name);
    fault_assert(found.content.len == len && memcmp(found.content.data, expected, len) == 0,
                 "member \"%s\" has another content", name);
}

static void
assert_wal_archive(BackupFault *fixture)
{
    const Span first = wal_builder_span(&fixture->fake.wal, FAKE_SEGMENT, BOUNDARY);
    uint8_t *second = padded_segment(fixture);
    Buf tar = unpacked(fixture, "pg_wal", fixture->options.compression.method);

    assert_member(&tar, SEGMENT_1, first.data, first.len);
    assert_member(&tar, "archive_status/" SEGMENT_1 ".done", "", 0);
    assert_member(&tar, SEGMENT_2, second, FAKE_SEGMENT_SIZE);
    fault_assert(tar_count(tar_span(&tar)) == 3, "there is more WAL than was streamed");
    buf_free(&tar);
    free(second);
}

static void
assert_recovery_archive(const Buf *tar)
{
    TarFound found;

    assert_member(tar, "standby.signal", "", 0);
    fault_assert(tar_find(tar_span(tar), "postgresql.auto.conf", &found), "no settings");
    assert_recovery((const char *)found.content.data, found.content.len);
}

static void
assert_archives(BackupFault *fixture)
{
    static const char *const names[] = {"16385", "16386", "base"};

    for (size_t i = 0; i < COUNT(names); i++) {
        Buf got = unpacked(fixture, names[i], method_of(fixture));
        Buf sent = BUF_INIT;
        Error err = ERROR_INIT;

        assert_true(buf_append(&sent, fixture->fake.archives[i].tar.data,
                               fixture->fake.archives[i].tar.len, &err));
        tar_end(&sent);
        if (fixture->options.write_recovery && i == 2)
            assert_recovery_archive(&got);
        else
            fault_assert(got.len == sent.len && memcmp(got.data, sent.data, sent.len) == 0,
                         "archive \"%s\" is not what was sent", names[i]);
        buf_free(&got);
        buf_free(&sent);
    }
    if (fixture->options.wal_method == WAL_STREAM)
        assert_wal_archive(fixture);
}

/* ---- the ending ---- */

static void
assert_taken(BackupFault *fixture)
{
    const char *unsafe;

    if (fixture->options.format == FORMAT_TAR)
        assert_archives(fixture);
    else
        assert_directories(fixture);
    fault_assert(exists(fixture->manifest) && !exists(fixture->manifest_tmp), "no manifest");
    fault_assert(fixture->published_before[0] == '\0', "published before \"%s\" was on disk",
                 fixture->published_before);
    if (fixture->options.sync == SYNC_NONE)
        return;
    unsafe = disk_unsafe(fixture->dir.path, "");
    fault_assert(unsafe[0] == '\0', "\"%s\" is not on disk", unsafe);
}

static bool
is_empty(const char *path)
{
    return rmdir(path) == 0 && mkdir(path, 0700) == 0;
}

/* That `path` or something below it is left. */
static bool
has_told(const BackupFault *fixture, const char *path)
{
    char line[600];

    (void)snprintf(line, sizeof line, "failed to remove directory \"%s", path);
    if (strstr(fixture->info, line) != NULL)
        return true;
    (void)snprintf(line, sizeof line, "failed to remove contents of directory \"%s", path);
    return strstr(fixture->info, line) != NULL;
}

/* What was made is gone; or, with a second failure, it is said what is not. */
static void
assert_taken_back(BackupFault *fixture, bool may_fail)
{
    const char *const made[] = {fixture->target, fixture->space, fixture->wal, fixture->parent};
    bool told = may_fail && (has_told(fixture, fixture->parent) ||
                             has_told(fixture, fixture->space) || has_told(fixture, fixture->wal));

    for (size_t i = 0; i < COUNT(made); i++) {
        if (fixture->target_state == TARGET_EMPTY && made[i] != fixture->space &&
            made[i] != fixture->wal)
            continue;
        fault_assert(!exists(made[i]) || told, "\"%s\" is left, told: %s", made[i], fixture->info);
    }
    if (fixture->target_state == TARGET_EMPTY)
        fault_assert(is_empty(fixture->target) || told, "\"%s\" is not empty, told: %s",
                     fixture->target, fixture->info);
}

/* It is complete, and all of it on disk with the list that marks it. */
static void
assert_kept(BackupFault *fixture)
{
    const char *unsafe = disk_unsafe(fixture->dir.path, "");

    if (fixture->options.format == FORMAT_TAR)
        assert_archives(fixture);
    else
        assert_directories(fixture);
    fault_assert(exists(fixture->manifest_tmp) && !exists(fixture->manifest), "a wrong manifest");
    fault_assert(temp_dir_exists(&fixture->dir, "new/deep/backup/backup_bad_pages"), "no mark");
    fault_assert(unsafe[0] == '\0', "\"%s\" is not on disk", unsafe);
}

static void
assert_failed(BackupFault *fixture, const FaultPlan *plan, const Error *err)
{
    const bool spoiled = fixture->spoiler != SPOILER_NONE;

    fault_assert(fixture->spoiler == SPOILER_NAME || !exists(fixture->manifest),
                 "the backup failed, but has a manifest");
    if (strcmp(err->message, DAMAGED) == 0)
        assert_kept(fixture);
    else if (strstr(err->message, "could not mark") != NULL)
        fault_assert(exists(fixture->manifest_tmp), "what could not be marked is not there");
    else if (!fixture->options.no_clean)
        assert_taken_back(fixture, plan->lasting || spoiled);
}

static void
prepare(BackupFault *fixture)
{
    fixture->info[0] = '\0';
    fixture->published_before[0] = '\0';
    if (fixture->target_state == TARGET_EMPTY)
        temp_dir_mkdir(&fixture->dir, "new/deep/backup");
}

/* What the run has made, for the next one. */
static void
clear(BackupFault *fixture)
{
    const char *const made[] = {fixture->parent, fixture->space, fixture->wal};
    Error err = ERROR_INIT;

    for (size_t i = 0; i < COUNT(made); i++)
        fault_assert(dir_remove(made[i], &err), "could not clear: %s", err.message);
}

/* A spoiler makes every run fail, whatever else does. */
static void
assert_ending(const BackupFault *fixture, const FaultPlan *plan, const FaultHit *hit, bool ok,
              const Error *err)
{
    static const char *const messages[] = {[SPOILER_NONE] = "",
                                           [SPOILER_MANIFEST] = MISMATCH,
                                           [SPOILER_NAME] = "could not rename",
                                           [SPOILER_PAGES] = DAMAGED};

    if (fixture->spoiler == SPOILER_NONE) {
        fault_assert_ending(plan, hit, ok, err);
        return;
    }
    fault_assert(!ok && err->code != ERR_NONE && err->message[0] != '\0', "no failure");
    fault_assert(hit->fired || strstr(err->message, messages[fixture->spoiler]) != NULL,
                 "failed with \"%s\"", err->message);
}

static size_t
script_count(const BackupFault *fixture)
{
    if (fixture->options.wal_method != WAL_STREAM)
        return 1;
    return fixture->options.create_slot ? 3 : 2;
}

static bool
run(void *ctx, const FaultPlan *plan)
{
    BackupFault *fixture = ctx;
    const WireServerConfig config = {
        .scripts = fixture->scripts, .script_count = script_count(fixture), .chunk = 65536};
    WireServer *server = wire_server_start(&config);
    Error err = ERROR_INIT;
    FaultHit hit;
    Stop stop;
    bool ok;

    prepare(fixture);
    assert_true(stop_init(&stop, &err));
    fault_watch(&(FaultWatch){.before = watch, .ctx = fixture});
    fault_begin(plan);
    ok = take(fixture, wire_server_conninfo(server), &stop, &err);
    fault_end(&hit);
    fault_watch(NULL);
    stop_destroy(&stop);
    if (ok)
        assert_string_equal(wire_server_stop(server), "");
    wire_server_free(server);

    assert_ending(fixture, plan, &hit, ok, &err);
    fault_assert_nothing_left();
    fault_assert(!exists(fixture->origin), "the tablespace went where the server has it");
    if (ok)
        assert_taken(fixture);
    else
        assert_failed(fixture, plan, &err);
    clear(fixture);
    return hit.fired;
}

void
backup_fault_sweep(BackupFault *fixture, const FaultPlan *plans, size_t count)
{
    script_all(fixture);
    fault_sweep(plans, count, run, fixture);
}

int
backup_fault_set_up(void **state)
{
    static BackupFault fixture;
    static TablespaceMapping mapping;

    fixture = (BackupFault){.spoiler = SPOILER_NONE};
    temp_dir_make(&fixture.dir);
    fixture.parent = temp_dir_path(&fixture.dir, "new");
    fixture.target = temp_dir_path(&fixture.dir, "new/deep/backup");
    temp_dir_mkdir(&fixture.dir, "spaces");
    fixture.space = temp_dir_path(&fixture.dir, "spaces/space");
    fixture.origin = temp_dir_path(&fixture.dir, "origin");
    temp_dir_mkdir(&fixture.dir, "wals");
    fixture.wal = temp_dir_path(&fixture.dir, "wals/wal");
    fixture.manifest = temp_dir_path(&fixture.dir, "new/deep/backup/backup_manifest");
    fixture.manifest_tmp = temp_dir_path(&fixture.dir, "new/deep/backup/backup_manifest.tmp");
    mapping = (TablespaceMapping){.from = fixture.origin, .to = fixture.space};
    fixture.options = (BackupOptions){.directory = fixture.target,
                                      .wal_method = WAL_NONE,
                                      .label = "fault",
                                      .sync = SYNC_FSYNC,
                                      .manifest = MANIFEST_YES,
                                      .status_interval_ms = 10000,
                                      .mappings = &mapping,
                                      .mapping_count = 1};
    for (size_t i = 0; i < TABLE_SIZE; i++)
        fixture.table[i] = (uint8_t)(i * 31 + i / 251);
    fill_server(&fixture);
    *state = &fixture;
    return 0;
}

int
backup_fault_tear_down(void **state)
{
    BackupFault *fixture = *state;

    for (size_t i = 0; i < COUNT(fixture->scripts); i++)
        wire_script_free(&fixture->scripts[i]);
    fake_backup_free(&fixture->fake);
    temp_dir_remove(&fixture->dir);
    return 0;
}
