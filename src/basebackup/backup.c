/*
 * The story of a base backup. Each step is one function over the state below; basebackup_run
 * strings them together and, when one fails, takes back what was made.
 *
 *   main thread: demux -> tar_reader -> manifest_guard -> ledger -> handoff => extract (own thread)
 *                  +----> backup_manifest.tmp, Manifest
 *   beside it:   walstream (second connection, own threads)
 *
 * The order of the end is what makes the promise true: all bytes received, WAL complete up to the
 * backup's end, files and WAL synced, ledger compared with the manifest, and only then
 * backup_manifest gets its name.
 */
#include <stdlib.h>
#include <string.h>

#include "basebackup/internal.h"
#include "common/checksum.h"
#include "verify/verify.h"

typedef struct Backup {
    const ConnConfig *conn_config;
    const BackupOptions *options;
    const BackupObserver *observer;
    Stop *stop;

    Conn *conn;
    ServerIdentity identity;
    uint32_t segment_size;
    mode_t directory_mode;
    mode_t file_mode;
    ManifestRequest manifest_request;

    Target *target;
    BackupStart start;
    Layout layout;
    Ledger *ledger;
    ManifestFileWriter *manifest;
    Sink *chain;
    Sink *writing; /* the handoff in the chain */
    WalStream *wal;
    Progress progress;
    BackupEnd end;
} Backup;

/* ---- before the server begins ---- */

static bool
learn_server(Backup *backup, Error *err)
{
    bool group;

    if (!repl_group_access(backup->conn, &group, err) ||
        !repl_segment_size(backup->conn, &backup->segment_size, err) ||
        !repl_identify_system(backup->conn, &backup->identity, err))
        return false;
    backup->directory_mode = group ? 0750 : 0700;
    backup->file_mode = group ? 0640 : 0600;
    backup->manifest_request =
        conn_features(backup->conn)->manifest ? backup->options->manifest : MANIFEST_NO;
    return true;
}

static bool
request_backup(Backup *backup, Error *err)
{
    const BackupOptions *options = backup->options;
    const BaseBackupRequest request = {
        .label = options->label,
        .progress = options->estimate_size,
        .fast_checkpoint = options->fast_checkpoint,
        .include_wal = options->wal_method == WAL_FETCH,
        .no_wait = options->wal_method != WAL_NONE,
        .max_rate_kb = options->max_rate_kb,
        .verify_checksums = !options->no_verify_checksums,
        .manifest = backup->manifest_request,
        .manifest_checksums = options->manifest_checksums,
    };

    observe_note(backup->observer, "initiating base backup, waiting for checkpoint to complete");
    if (backup->observer->waiting != NULL)
        backup->observer->waiting(backup->observer->ctx);
    if (!repl_base_backup(backup->conn, &request, backup->stop, &backup->start, err))
        return false;
    observe_note(backup->observer, "checkpoint completed");
    observe_note(backup->observer, "write-ahead log start point: " LSN_FORMAT " on timeline %u",
                 LSN_ARGS(backup->start.lsn), backup->start.timeline);
    progress_init(&backup->progress, backup->observer, &backup->start);
    return true;
}

/* ---- where it goes ---- */

/* Its archive comes before that of the data directory, which would bring the directory. */
static bool
make_in_place(const Backup *backup, const Place *place, Error *err)
{
    const char *directory = backup->options->directory;
    const char *name = place->directory + strlen(directory) + 1;

    return target_make_inside(directory, "pg_tblspc", backup->directory_mode, err) &&
           target_make_inside(directory, name, backup->directory_mode, err);
}

static bool
claim_place(Backup *backup, const Place *place, Error *err)
{
    if (place->oid == 0) /* claimed before the server was asked to begin */
        return true;
    if (place->in_place)
        return make_in_place(backup, place, err);
    if (target_claim(backup->target, place->directory, backup->directory_mode, err))
        return true;
    if (err->hint[0] == '\0' && err->code == ERR_USAGE)
        (void)error_hint(err, "Give the tablespace another place with "
                              "--tablespace-mapping=OLDDIR=NEWDIR.");
    return false;
}

static bool
claim_tablespaces(Backup *backup, Error *err)
{
    if (!layout_make(backup->options, &backup->start, &backup->layout, err))
        return false;
    for (size_t i = 0; i < backup->layout.count; i++) {
        if (!claim_place(backup, &backup->layout.places[i], err))
            return false;
    }
    return true;
}

static const char *
root_of(void *ctx, Oid tablespace)
{
    const Place *place = layout_place(&((Backup *)ctx)->layout, tablespace);

    return place == NULL ? NULL : place->directory;
}

static const char *
link_target_of(void *ctx, Oid tablespace, const char *target)
{
    return layout_link_target(&((const Backup *)ctx)->layout, tablespace, target);
}

/* The disk is slow: nothing to tell the server, but a stop must still end the wait. */
static bool
while_full(void *ctx, Error *err)
{
    return stop_check(((const Backup *)ctx)->stop, err);
}

/* The digest that the manifest will hold, computed on our side too. */
static ChecksumType
checksum_type_of(const BackupOptions *options)
{
    ChecksumType type = CHECKSUM_CRC32C;

    /* An unknown name has been refused by the server already. */
    if (options->manifest_checksums != NULL)
        (void)checksum_type_parse(options->manifest_checksums, &type);
    return type;
}

static bool
build_chain(Backup *backup, Error *err)
{
    const ExtractConfig extract = {
        .root = root_of,
        .link_target = link_target_of,
        .ctx = backup,
        .sync = backup->options->sync,
        .directory_mode = backup->directory_mode,
    };
    const HandoffConfig handoff = {.while_full = while_full, .ctx = backup};
    TarEnd tar_end = conn_features(backup->conn)->typed_copy ? TAR_END_REQUIRED : TAR_END_OPTIONAL;
    Sink *sink = handoff_new(extract_new(&extract, err), &handoff, err);

    backup->writing = sink;
    if (sink != NULL && backup->manifest_request != MANIFEST_NO) {
        backup->ledger = ledger_new(checksum_type_of(backup->options), err);
        backup->manifest = manifest_file_new(backup->options->directory, backup->file_mode, err);
        if (backup->ledger == NULL || backup->manifest == NULL) {
            sink_free(sink);
            return false;
        }
        sink = manifest_guard_new(ledger_stage_new(backup->ledger, sink, err), err);
    }
    backup->chain = tar_reader_new(sink, tar_end, err);
    return backup->chain != NULL;
}

/* ---- receiving ---- */

static bool
start_wal(Backup *backup, Error *err)
{
    const WalStreamConfig config = {
        .beside = backup->conn,
        .conn = backup->conn_config,
        .options = backup->options,
        .observer = backup->observer,
        .system_id = backup->identity.system_id,
        .segment_size = backup->segment_size,
        .start = backup->start.lsn,
        .timeline = backup->start.timeline,
        .file_mode = backup->file_mode,
        .stop = backup->stop,
    };

    if (backup->options->wal_method != WAL_STREAM)
        return true;
    backup->wal = walstream_start(&config, err);
    return backup->wal != NULL;
}

static bool
receive(Backup *backup, Error *err)
{
    const DemuxConfig demux = {
        .conn = backup->conn,
        .start = &backup->start,
        .layout = &backup->layout,
        .sink = backup->chain,
        .handoff = backup->writing,
        .manifest = backup->manifest,
        .progress = &backup->progress,
        .stop = backup->stop,
    };

    if (!demux_run(&demux, err) ||
        !repl_base_backup_end(backup->conn, backup->stop, &backup->end, err))
        return false;
    progress_finish(&backup->progress);
    observe_note(backup->observer, "write-ahead log end point: " LSN_FORMAT,
                 LSN_ARGS(backup->end.lsn));
    return true;
}

static bool
finish_wal(Backup *backup, Error *err)
{
    if (backup->wal == NULL)
        return true;
    observe_note(backup->observer, "waiting for background process to finish streaming ...");
    return walstream_finish(backup->wal, backup->end.lsn, err);
}

static bool
finish_files(Backup *backup, Error *err)
{
    if (backup->options->sync != SYNC_NONE)
        observe_note(backup->observer, "syncing data to disk ...");
    return sink_finish(backup->chain, err) &&
           (backup->options->sync == SYNC_NONE || target_sync(backup->target, err));
}

/* ---- the verdict ---- */

static bool
show_problem(void *ctx, const Problem *problem)
{
    observe_problem(ctx, problem);
    return true;
}

static bool
check_against_manifest(Backup *backup, Error *err)
{
    const ProblemSink sink = {.report = show_problem, .ctx = (void *)(uintptr_t)backup->observer};
    const Manifest *manifest;
    uint64_t system_id;
    uint64_t problems;

    if (backup->manifest == NULL)
        return true;
    if (!manifest_file_finish(backup->manifest, backup->options->sync != SYNC_NONE, &manifest,
                              err) ||
        !ledger_compare(backup->ledger, manifest, &sink, &problems, err))
        return false;
    if (problems != 0)
        return error_set(err, ERR_MISMATCH,
                         "the backup as received does not agree with the server's manifest: "
                         "%llu problem%s",
                         (unsigned long long)problems, problems == 1 ? "" : "s");
    if (manifest_system_id(manifest, &system_id) && system_id != backup->identity.system_id)
        return error_set(
            err, ERR_MISMATCH, "manifest system identifier is %llu, but the server's is %llu",
            (unsigned long long)system_id, (unsigned long long)backup->identity.system_id);
    observe_note(backup->observer, "verified %llu files, %llu bytes against the manifest",
                 (unsigned long long)ledger_file_count(backup->ledger),
                 (unsigned long long)ledger_byte_count(backup->ledger));
    return true;
}

static bool
publish(Backup *backup, Error *err)
{
    if (backup->manifest == NULL)
        return true;
    observe_note(backup->observer, "renaming backup_manifest.tmp to backup_manifest");
    return manifest_file_publish(backup->manifest, backup->options->sync != SYNC_NONE, err);
}

/* ---- all of it ---- */

static bool
take_backup(Backup *backup, Error *err)
{
    return (backup->conn = conn_open(backup->conn_config, err)) != NULL &&
           learn_server(backup, err) &&
           target_claim(backup->target, backup->options->directory, backup->directory_mode, err) &&
           request_backup(backup, err) && claim_tablespaces(backup, err) &&
           build_chain(backup, err) && start_wal(backup, err) && receive(backup, err) &&
           finish_wal(backup, err) && finish_files(backup, err) &&
           check_against_manifest(backup, err);
}

/*
 * The server has found damaged pages in its own files. All it sent is here and on disk, and it may
 * be the last copy there is: it stays, but without the name that says that all is well.
 */
static bool
fail_for_damage(const Backup *backup, Error *err)
{
    (void)error_set(err, ERR_MISMATCH, "checksum error occurred");
    return error_hint(err,
                      "The server reported damaged pages (see above). The copy is complete and "
                      "kept%s.",
                      backup->manifest == NULL ? "" : ", its manifest as backup_manifest.tmp");
}

/* A stop that nobody outside asked for: the WAL stream failed first, and that is the reason to
 * tell. */
static void
prefer_wal_failure(const Backup *backup, Error *err)
{
    Error reason;

    if (err->code == ERR_STOPPED && backup->wal != NULL && walstream_failed(backup->wal, &reason))
        *err = reason;
}

static void
backup_close(Backup *backup)
{
    walstream_free(backup->wal);
    sink_free(backup->chain);
    manifest_file_free(backup->manifest);
    ledger_free(backup->ledger);
    layout_free(&backup->layout);
    backup_start_free(&backup->start);
    conn_free(backup->conn);
}

bool
basebackup_run(const ConnConfig *conn, const BackupOptions *options, const BackupObserver *observer,
               Stop *stop, Error *err)
{
    Backup backup = {
        .conn_config = conn,
        .options = options,
        .observer = observer,
        .stop = stop,
        .target = target_new(err),
    };
    bool damaged = false;
    bool ok;

    if (backup.target == NULL)
        return false;
    ok = take_backup(&backup, err);
    if (!ok)
        prefer_wal_failure(&backup, err);
    else if ((damaged = backup.end.checksum_failures))
        ok = fail_for_damage(&backup, err);
    else
        ok = publish(&backup, err);

    /* Nothing may write any more when directories are taken back. */
    backup_close(&backup);
    if (ok) {
        observe_note(observer, "base backup completed");
    } else {
        if (observer->failed != NULL)
            observer->failed(observer->ctx, err);
        if (options->no_clean)
            target_tell_kept(backup.target, observer);
        else if (!damaged)
            target_take_back(backup.target, observer);
    }
    target_free(backup.target);
    return ok;
}
