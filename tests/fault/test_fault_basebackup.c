/*
 * Whole base backups from a scripted server, with every call failing once and from some call on:
 * without WAL, and with WAL streamed beside the backup. A backup that failed leaves nothing behind,
 * or says what it could not remove; backup_manifest has its name only when all else is on disk.
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

#include "basebackup/basebackup.h"
#include "common/file.h"
#include "disk.h"
#include "fault.h"
#include "pgformat/walfile.h"
#include "protocol/peer.h"
#include "support/manifest_builder.h"
#include "support/tar_builder.h"
#include "support/temp_dir.h"
#include "support/wal_builder.h"
#include "support/wire_server.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

#define SYSTEM_ID      UINT64_C(7000000000000000001)
#define SYSTEM_ID_TEXT "7000000000000000001"
#define SEGMENT_SIZE   (1u << 20)
#define SEGMENT_3      "000000010000000000000003"
#define SEGMENT_4      "000000010000000000000004"
#define WAL_START      ((Lsn)3 * SEGMENT_SIZE)
#define TABLE_SIZE     ((size_t)20000)
#define MISMATCH       "does not agree with the server's manifest"

typedef enum TargetState {
    TARGET_MISSING, /* it and the two directories above it are made */
    TARGET_EMPTY    /* it is there, and stays */
} TargetState;

typedef struct Fixture {
    TempDir dir;
    WireScript scripts[2]; /* of the backup's connection, and of the one beside it */
    size_t script_count;
    WalBuilder wal;
    Lsn start;
    Lsn end;
    uint8_t table[TABLE_SIZE];

    /* ---- what the run shall be ---- */
    WalMethod wal_method;
    TargetState target_state;
    bool no_sync;
    bool no_clean;
    bool mismatch; /* the manifest has one file more: all is there, and then it fails */

    /* ---- the paths ---- */
    const char *target;
    const char *parent;
    const char *space;  /* where the tablespace is to go */
    const char *origin; /* where it is on the server */
    const char *manifest;
    const char *manifest_tmp;

    /* ---- what the run has told ---- */
    char info[4096];
    char published_before[512]; /* what was not on disk when the manifest got its name */
} Fixture;

/* ---- what the server has ---- */

static void
add_file(Buf *tar, ManifestBuilder *manifest, const char *below, const char *name, const void *data,
         size_t len)
{
    char path[128];

    tar_add(tar, &(TarMember){.name = name, .data = data, .size = len});
    (void)snprintf(path, sizeof path, "%s%s", below, name);
    manifest_builder_file(manifest, path, data, len, CHECKSUM_CRC32C);
}

static void
build_space(Buf *tar, ManifestBuilder *manifest)
{
    tar_add(tar, &(TarMember){TAR_DIRECTORY("PG_18_202506291")});
    add_file(tar, manifest, "pg_tblspc/16385/", "PG_18_202506291/16400", "table", 5);
    tar_end(tar);
}

/* In place: its archive goes into the data directory. */
static void
build_inside(Buf *tar, ManifestBuilder *manifest)
{
    add_file(tar, manifest, "pg_tblspc/16386/", "16401", "index", 5);
    tar_end(tar);
}

static void
build_base(const Fixture *fixture, Buf *tar, ManifestBuilder *manifest)
{
    add_file(tar, manifest, "", "backup_label", "START WAL LOCATION\n", 19);
    tar_add(tar, &(TarMember){TAR_DIRECTORY("pg_wal")});
    tar_add(tar, &(TarMember){TAR_DIRECTORY("pg_wal/archive_status")});
    tar_add(tar, &(TarMember){TAR_DIRECTORY("base")});
    add_file(tar, manifest, "", "base/1259", fixture->table, TABLE_SIZE);
    add_file(tar, manifest, "", "base/empty", "", 0);
    tar_add(tar, &(TarMember){TAR_DIRECTORY("pg_tblspc")});
    tar_add(tar, &(TarMember){TAR_SYMLINK("pg_tblspc/16385", fixture->origin)});
    tar_add(tar, &(TarMember){TAR_DIRECTORY("pg_tblspc/16386")});
    add_file(tar, manifest, "", "PG_VERSION", "18\n", 3);
    tar_end(tar);
}

static void
build_wal(Fixture *fixture)
{
    WalBuilder *wal = &fixture->wal;

    wal_builder_init(wal, &(WalBuilderConfig){.magic = 0xD118,
                                              .timeline = 1,
                                              .system_id = SYSTEM_ID,
                                              .segment_size = SEGMENT_SIZE,
                                              .start = WAL_START});
    (void)wal_builder_record(wal, 10, 0, 1000);
    fixture->start = wal_builder_record(wal, 10, 0, 1000);
    while (wal->end < WAL_START + SEGMENT_SIZE + 20000)
        (void)wal_builder_record(wal, 10, 0, 30000);
    fixture->end = wal->end;
}

/* ---- what the server says ---- */

static void
script_answer(WireScript *script, const char *command, int columns, const char *const values[])
{
    Buf *out;

    wire_expect(script, command);
    out = wire_send(script);
    wire_one_row(out, columns, values);
    wire_ready(out);
}

/* A typed message; a string goes with its terminator. */
static void
put_typed(Buf *out, char type, const void *data, size_t len)
{
    Error err = ERROR_INIT;
    Buf message = BUF_INIT;

    assert_true(buf_append(&message, &type, 1, &err) && buf_append(&message, data, len, &err));
    wire_copy_data(out, message.data, message.len);
    buf_free(&message);
}

static void
put_archive(Buf *out, const char *name, const char *location, const Buf *tar)
{
    const size_t piece = 4096;
    Error err = ERROR_INIT;
    Buf names = BUF_INIT;

    assert_true(buf_append(&names, name, strlen(name) + 1, &err) &&
                buf_append(&names, location, strlen(location) + 1, &err));
    put_typed(out, 'n', names.data, names.len);
    buf_free(&names);
    for (size_t at = 0; at < tar->len; at += piece)
        put_typed(out, 'd', tar->data + at, tar->len - at < piece ? tar->len - at : piece);
}

static void
put_lsn_row(Buf *out, Lsn lsn)
{
    char text[32];
    const char *const values[] = {text, "1"};

    (void)snprintf(text, sizeof text, LSN_FORMAT, LSN_ARGS(lsn));
    wire_one_row(out, 2, values);
}

static void
put_tablespaces(Buf *out, const char *origin)
{
    const char *const space[] = {"16385", origin, NULL};
    const char *const inside[] = {"16386", "pg_tblspc/16386", NULL};
    const char *const base[] = {NULL, NULL, NULL};

    wire_row_description(out, 3);
    wire_row(out, 3, space);
    wire_row(out, 3, inside);
    wire_row(out, 3, base);
    wire_complete(out, "SELECT");
}

/* From the first archive to the end of the command. */
static void
put_archives(const Fixture *fixture, Buf *out)
{
    ManifestBuilder builder;
    Buf space = BUF_INIT;
    Buf inside = BUF_INIT;
    Buf base = BUF_INIT;
    Buf manifest = BUF_INIT;

    manifest_builder_begin(&builder, 2, SYSTEM_ID);
    build_space(&space, &builder);
    build_inside(&inside, &builder);
    build_base(fixture, &base, &builder);
    if (fixture->mismatch)
        manifest_builder_file(&builder, "missing", "", 0, CHECKSUM_CRC32C);
    manifest_builder_wal_range(&builder, 1, fixture->start, fixture->end);
    manifest_builder_finish(&builder, &manifest);

    wire_copy_out(out);
    put_archive(out, "16385.tar", fixture->origin, &space);
    put_archive(out, "16386.tar", "pg_tblspc/16386", &inside);
    put_archive(out, "base.tar", "", &base);
    put_typed(out, 'm', "", 0);
    put_typed(out, 'd', manifest.data, manifest.len);
    wire_copy_done(out);
    put_lsn_row(out, fixture->end);
    wire_complete(out, "BASE_BACKUP");
    wire_ready(out);
    buf_free(&space);
    buf_free(&inside);
    buf_free(&base);
    buf_free(&manifest);
}

static const char *const identity[] = {SYSTEM_ID_TEXT, "1", "0/410000", NULL};

static void
script_backup(const Fixture *fixture, WireScript *script)
{
    const char *const mode[] = {"0700"};
    const char *const size[] = {"1MB"};
    Buf *out;

    script_answer(script, "SHOW data_directory_mode", 1, mode);
    script_answer(script, "SHOW wal_segment_size", 1, size);
    script_answer(script, "IDENTIFY_SYSTEM", 4, identity);
    wire_expect(script, "BASE_BACKUP");
    out = wire_send(script);
    put_lsn_row(out, fixture->start);
    put_tablespaces(out, fixture->origin);
    put_archives(fixture, out);
}

static void
put_wal(Buf *out, const Fixture *fixture)
{
    const Lsn piece = 65536;

    for (Lsn at = WAL_START; at < fixture->end; at += piece) {
        Span bytes = wal_builder_span(&fixture->wal, at,
                                      fixture->end - at < piece ? fixture->end : at + piece);
        uint8_t head[24];
        Buf message = BUF_INIT;
        Error err = ERROR_INIT;

        put_be64(head, at);
        put_be64(head + 8, fixture->end);
        put_be64(head + 16, 0);
        assert_true(buf_append(&message, "w", 1, &err) &&
                    buf_append(&message, head, sizeof head, &err) &&
                    buf_append(&message, bytes.data, bytes.len, &err));
        wire_copy_data(out, message.data, message.len);
        buf_free(&message);
    }
}

static void
script_wal(const Fixture *fixture, WireScript *script)
{
    const char *const slot[] = {"pg_basebackup_4712", "0/0", NULL, NULL};
    Buf *out;

    script_answer(script, "IDENTIFY_SYSTEM", 4, identity);
    script_answer(script, "CREATE_REPLICATION_SLOT", 4, slot);
    wire_expect(script, "START_REPLICATION");
    out = wire_send(script);
    wire_copy_both(out);
    put_wal(out, fixture);
    wire_step(script, WIRE_COPY_DONE);
    out = wire_send(script);
    wire_copy_done(out);
    wire_complete(out, "START_STREAMING");
    wire_complete(out, "START_REPLICATION");
    wire_ready(out);
}

/* ---- watching ---- */

/* Before the manifest gets its name: is all the rest on disk, the manifest's content included? */
static void
watch(void *ctx, FaultKind kind, const char *path)
{
    Fixture *fixture = ctx;
    const char *unsafe;

    if (kind != FAULT_RENAME || strcmp(path, fixture->manifest) != 0 || fixture->no_sync)
        return;
    unsafe = disk_unsafe(fixture->dir.path, fixture->manifest_tmp);
    if (unsafe[0] == '\0' && !disk_content_safe(fixture->manifest_tmp))
        unsafe = fixture->manifest_tmp;
    (void)snprintf(fixture->published_before, sizeof fixture->published_before, "%s", unsafe);
}

static void
hear_info(void *ctx, const char *message)
{
    Fixture *fixture = ctx;
    size_t len = strlen(fixture->info);

    (void)snprintf(fixture->info + len, sizeof fixture->info - len, "%s\n", message);
}

/* ---- a run ---- */

static bool
take(Fixture *fixture, const char *conninfo, Stop *stop, Error *err)
{
    const TablespaceMapping mapping = {.from = fixture->origin, .to = fixture->space};
    const BackupOptions options = {.directory = fixture->target,
                                   .wal_method = fixture->wal_method,
                                   .label = "fault",
                                   .sync = fixture->no_sync ? SYNC_NONE : SYNC_FSYNC,
                                   .no_clean = fixture->no_clean,
                                   .manifest = MANIFEST_YES,
                                   .status_interval_ms = 10000,
                                   .mappings = &mapping,
                                   .mapping_count = 1};
    const BackupObserver observer = {.ctx = fixture, .info = hear_info};
    ConnConfig conn = {.conninfo = conninfo, .progname = "test", .prompt = PASSWORD_NEVER};

    conn.stop = stop;
    return basebackup_run(&conn, &options, &observer, stop, err);
}

static bool
exists(const char *path)
{
    struct stat st;

    return lstat(path, &st) == 0;
}

static void
assert_content(Fixture *fixture, const char *name, const void *expected, size_t len)
{
    Buf content = temp_dir_read(&fixture->dir, name);

    fault_assert(content.len == len && memcmp(content.data, expected, len) == 0,
                 "\"%s\" has another content", name);
    buf_free(&content);
}

static void
assert_wal(Fixture *fixture)
{
    const Lsn boundary = WAL_START + SEGMENT_SIZE;
    const Span third = wal_builder_span(&fixture->wal, WAL_START, boundary);
    const Span fourth = wal_builder_span(&fixture->wal, boundary, fixture->end);
    uint8_t *padded = calloc(1, SEGMENT_SIZE);

    assert_non_null(padded);
    memcpy(padded, fourth.data, fourth.len);
    assert_content(fixture, "new/deep/backup/pg_wal/" SEGMENT_3, third.data, third.len);
    assert_content(fixture, "new/deep/backup/pg_wal/" SEGMENT_4, padded, SEGMENT_SIZE);
    free(padded);
    fault_assert(
        temp_dir_exists(&fixture->dir, "new/deep/backup/pg_wal/archive_status/" SEGMENT_3 ".done"),
        "segment 3 is not marked as archived");
}

static void
assert_taken(Fixture *fixture)
{
    char target[512];
    ssize_t len = readlink(temp_dir_path(&fixture->dir, "new/deep/backup/pg_tblspc/16385"), target,
                           sizeof target - 1);
    const char *unsafe;

    target[len < 0 ? 0 : len] = '\0';
    fault_assert(strcmp(target, fixture->space) == 0, "the tablespace's link leads to \"%s\"",
                 target);
    assert_content(fixture, "new/deep/backup/base/1259", fixture->table, TABLE_SIZE);
    assert_content(fixture, "new/deep/backup/PG_VERSION", "18\n", 3);
    assert_content(fixture, "spaces/space/PG_18_202506291/16400", "table", 5);
    assert_content(fixture, "new/deep/backup/pg_tblspc/16386/16401", "index", 5);
    fault_assert(exists(fixture->manifest) && !exists(fixture->manifest_tmp), "no manifest");
    fault_assert(fixture->published_before[0] == '\0', "published before \"%s\" was on disk",
                 fixture->published_before);
    if (fixture->wal_method == WAL_STREAM)
        assert_wal(fixture);
    if (fixture->no_sync)
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
has_told(const Fixture *fixture, const char *path)
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
assert_taken_back(Fixture *fixture, bool may_fail)
{
    const char *const made[] = {fixture->target, fixture->space, fixture->parent};
    bool told =
        may_fail && (has_told(fixture, fixture->parent) || has_told(fixture, fixture->space));

    for (size_t i = 0; i < COUNT(made); i++) {
        if (fixture->target_state == TARGET_EMPTY && made[i] != fixture->space)
            continue;
        fault_assert(!exists(made[i]) || told, "\"%s\" is left, told: %s", made[i], fixture->info);
    }
    if (fixture->target_state == TARGET_EMPTY)
        fault_assert(is_empty(fixture->target) || told, "\"%s\" is not empty, told: %s",
                     fixture->target, fixture->info);
}

static void
assert_failed(Fixture *fixture, const FaultPlan *plan)
{
    fault_assert(!exists(fixture->manifest), "the backup failed, but has a manifest");
    if (!fixture->no_clean)
        assert_taken_back(fixture, plan->lasting || fixture->mismatch);
}

static void
prepare(Fixture *fixture)
{
    fixture->info[0] = '\0';
    fixture->published_before[0] = '\0';
    if (fixture->target_state == TARGET_EMPTY)
        temp_dir_mkdir(&fixture->dir, "new/deep/backup");
}

/* What the run has made, for the next one. */
static void
clear(Fixture *fixture)
{
    const char *const made[] = {fixture->parent, fixture->space};
    Error err = ERROR_INIT;

    for (size_t i = 0; i < COUNT(made); i++)
        fault_assert(dir_remove(made[i], &err), "could not clear: %s", err.message);
}

/* A manifest that does not agree makes every run fail, whatever else does. */
static void
assert_ending(const Fixture *fixture, const FaultPlan *plan, const FaultHit *hit, bool ok,
              const Error *err)
{
    if (!fixture->mismatch) {
        fault_assert_ending(plan, hit, ok, err);
        return;
    }
    fault_assert(!ok && err->code != ERR_NONE && err->message[0] != '\0', "no failure");
    fault_assert(hit->fired || strstr(err->message, MISMATCH) != NULL, "failed with \"%s\"",
                 err->message);
}

static bool
run(void *ctx, const FaultPlan *plan)
{
    Fixture *fixture = ctx;
    const WireServerConfig config = {
        .scripts = fixture->scripts, .script_count = fixture->script_count, .chunk = 65536};
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
        assert_failed(fixture, plan);
    clear(fixture);
    return hit.fired;
}

/* ---- the faults ---- */

static const FaultPlan plans[] = {
    {.kind = FAULT_MEMORY, .errnum = ENOMEM, .least = 70},
    {.kind = FAULT_MEMORY, .errnum = ENOMEM, .lasting = true, .least = 70},
    {.kind = FAULT_OPEN, .errnum = EMFILE, .least = 12},
    {.kind = FAULT_OPEN, .errnum = EMFILE, .lasting = true, .least = 12},
    {.kind = FAULT_WRITE, .errnum = ENOSPC, .least = 5},
    {.kind = FAULT_WRITE, .errnum = ENOSPC, .lasting = true, .least = 5},
    {.kind = FAULT_WRITE, .errnum = EINTR, .outcome = FAULT_PASSES, .least = 5},
    {.kind = FAULT_WRITE, .errnum = FAULT_SHORT, .outcome = FAULT_PASSES, .least = 5},
    {.kind = FAULT_CLOSE, .errnum = EIO, .outcome = FAULT_EITHER, .least = 6},
    {.kind = FAULT_CLOSE, .errnum = EINTR, .outcome = FAULT_PASSES, .least = 6},
    {.kind = FAULT_RENAME, .errnum = EIO, .least = 1},
    {.kind = FAULT_MAKE, .errnum = ENOSPC, .least = 6},
    {.kind = FAULT_STAT, .errnum = EIO, .outcome = FAULT_EITHER},
    {.kind = FAULT_MODE, .errnum = EPERM, .least = 6},
    {.kind = FAULT_THREAD, .errnum = EAGAIN, .least = 1},
    {.kind = FAULT_WAIT, .errnum = EIO, .outcome = FAULT_EITHER, .least = 5},
    {.kind = FAULT_RESOURCE, .errnum = EMFILE, .least = 4},
};

/* What only a durable backup does. */
static const FaultPlan durable_plans[] = {
    /* A directory that holds ours but cannot be read: the whole file system is synced. */
    {.kind = FAULT_OPEN, .errnum = EACCES, .outcome = FAULT_EITHER, .least = 12},
    {.kind = FAULT_READ, .errnum = EIO, .least = 8},
    {.kind = FAULT_SYNC, .errnum = EIO, .least = 14},
    {.kind = FAULT_SYNC, .errnum = EIO, .lasting = true, .least = 14},
};

/* What can fail while the backup is taken back. */
static const FaultPlan removal_plans[] = {
    {.kind = FAULT_MEMORY, .errnum = ENOMEM, .least = 70},
    {.kind = FAULT_MEMORY, .errnum = ENOMEM, .lasting = true, .least = 70},
    {.kind = FAULT_OPEN, .errnum = EMFILE, .least = 12},
    {.kind = FAULT_OPEN, .errnum = EMFILE, .lasting = true, .least = 12},
    {.kind = FAULT_READ, .errnum = EIO, .least = 8},
    {.kind = FAULT_READ, .errnum = EIO, .lasting = true, .least = 8},
    {.kind = FAULT_REMOVE, .errnum = EACCES, .least = 12},
    {.kind = FAULT_REMOVE, .errnum = EACCES, .lasting = true, .least = 12},
    {.kind = FAULT_CLOSE, .errnum = EIO, .least = 6},
};

/* ---- the tests ---- */

static void
sweep_with(Fixture *fixture, const FaultPlan *swept, size_t count)
{
    wire_script_free(&fixture->scripts[0]);
    script_backup(fixture, &fixture->scripts[0]);
    if (fixture->wal_method == WAL_STREAM && fixture->script_count == 1)
        script_wal(fixture, &fixture->scripts[fixture->script_count++]);
    fault_sweep(swept, count, run, fixture);
}

static void
test_without_wal(void **state)
{
    sweep_with(*state, plans, COUNT(plans));
    sweep_with(*state, durable_plans, COUNT(durable_plans));
}

static void
test_without_wal_no_sync(void **state)
{
    Fixture *fixture = *state;

    fixture->no_sync = true;
    sweep_with(fixture, plans, COUNT(plans));
}

static void
test_existing_directory(void **state)
{
    Fixture *fixture = *state;

    fixture->target_state = TARGET_EMPTY;
    sweep_with(fixture, plans, COUNT(plans));
    sweep_with(fixture, durable_plans, COUNT(durable_plans));
}

static void
test_no_clean(void **state)
{
    Fixture *fixture = *state;

    fixture->no_clean = true;
    sweep_with(fixture, plans, COUNT(plans));
    sweep_with(fixture, durable_plans, COUNT(durable_plans));
}

static void
test_with_wal(void **state)
{
    Fixture *fixture = *state;

    fixture->wal_method = WAL_STREAM;
    sweep_with(fixture, plans, COUNT(plans));
    sweep_with(fixture, durable_plans, COUNT(durable_plans));
}

static void
test_removal(void **state)
{
    Fixture *fixture = *state;

    fixture->mismatch = true;
    sweep_with(fixture, removal_plans, COUNT(removal_plans));
    fixture->target_state = TARGET_EMPTY;
    sweep_with(fixture, removal_plans, COUNT(removal_plans));
    fixture->target_state = TARGET_MISSING;
    fixture->wal_method = WAL_STREAM;
    sweep_with(fixture, removal_plans, COUNT(removal_plans));
}

static int
setup(void **state)
{
    static Fixture fixture;

    fixture = (Fixture){.wal_method = WAL_NONE, .script_count = 1};
    temp_dir_make(&fixture.dir);
    fixture.parent = temp_dir_path(&fixture.dir, "new");
    fixture.target = temp_dir_path(&fixture.dir, "new/deep/backup");
    temp_dir_mkdir(&fixture.dir, "spaces");
    fixture.space = temp_dir_path(&fixture.dir, "spaces/space");
    fixture.origin = temp_dir_path(&fixture.dir, "origin");
    fixture.manifest = temp_dir_path(&fixture.dir, "new/deep/backup/backup_manifest");
    fixture.manifest_tmp = temp_dir_path(&fixture.dir, "new/deep/backup/backup_manifest.tmp");
    for (size_t i = 0; i < TABLE_SIZE; i++)
        fixture.table[i] = (uint8_t)(i * 31 + i / 251);
    build_wal(&fixture);
    *state = &fixture;
    return 0;
}

static int
teardown(void **state)
{
    Fixture *fixture = *state;

    wire_script_free(&fixture->scripts[0]);
    wire_script_free(&fixture->scripts[1]);
    wal_builder_free(&fixture->wal);
    temp_dir_remove(&fixture->dir);
    return 0;
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_without_wal, setup, teardown),
        cmocka_unit_test_setup_teardown(test_without_wal_no_sync, setup, teardown),
        cmocka_unit_test_setup_teardown(test_existing_directory, setup, teardown),
        cmocka_unit_test_setup_teardown(test_no_clean, setup, teardown),
        cmocka_unit_test_setup_teardown(test_with_wal, setup, teardown),
        cmocka_unit_test_setup_teardown(test_removal, setup, teardown),
    };

    peer_clean_environment();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
