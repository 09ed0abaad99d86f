/*
 * The story of a base backup. Each step is one function over the state below; basebackup_run
 * strings them together and, when one fails, takes back what was made.
 *
 *   main thread: demux -> the stages of chain.c -> handoff => disk (own thread)
 *                  +----> manifest_file: backup_manifest.tmp, Manifest
 *   beside it:   walstream (second connection, own threads)
 *
 * The order of the end is what makes the promise true: all bytes received, WAL complete up to the
 * backup's end, files and WAL synced, ledger compared with the manifest, backup_pages complete, and
 * only then backup_manifest gets its name.
 */
#include <stdlib.h>
#include <string.h>

#include "basebackup/internal.h"
#include "common/checksum.h"
#include "common/file.h"
#include "verify/verify.h"

/* Of the list that is left beside a backup with bad pages. */
#define BAD_PAGES_MAX ((size_t)1024 * 1024)

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
    PageLayout page_layout;
    Plan plan;
    Buf recovery_text;

    Target *target;
    BackupStart start;
    Layout layout;
    Ledger *ledger;               /* NULL: there is no manifest to compare with */
    ManifestFileWriter *manifest; /* NULL likewise */
    PagesFile *pages_file;        /* NULL without --page-digests */
    PageCheckConfig page_config;
    PageTally pages;
    Buf bad_pages; /* a line for each that was reported */
    RecoveryConfig recovery;
    ChainConfig chain_config;
    Sink *chain;
    Sink *writing; /* the handoff in the chain, or NULL */
    WalStream *wal;
    bool slot_made; /* a permanent one (-C) */
    Progress progress;
    BackupEnd end;
} Backup;

/* The server has found damaged pages, or we have. */
static bool
is_damaged(const Backup *backup)
{
    return backup->end.checksum_failures || backup->pages.bad > 0;
}

/* Not on standard output, and not elsewhere. */
static bool
is_in_directory(const Backup *backup)
{
    return !backup->plan.to_stdout && !backup->plan.to_server;
}

static bool
is_durable(const Backup *backup)
{
    return backup->options->sync != SYNC_NONE && is_in_directory(backup);
}

/* ---- what is told ---- */

static void
tell_begin(const Backup *backup)
{
    const BackupObserver *observer = backup->observer;
    const BackupBegin begin = {
        .start = backup->start.lsn,
        .timeline = backup->start.timeline,
        .total = backup->progress.now.total,
        .tablespace_count = backup->start.tablespace_count,
        .server_version = conn_features(backup->conn)->version,
    };

    observe_note(observer, "checkpoint completed");
    observe_note(observer, "write-ahead log start point: " LSN_FORMAT " on timeline %u",
                 LSN_ARGS(begin.start), begin.timeline);
    if (observer->begun != NULL)
        observer->begun(observer->ctx, &begin);
}

static void
tell_summary(const Backup *backup)
{
    const BackupObserver *observer = backup->observer;
    const bool compared = backup->ledger != NULL;
    const BackupSummary summary = {
        .received = backup->progress.received,
        .wal_received = backup->wal == NULL ? 0 : walstream_received(backup->wal),
        .elapsed_ms = clock_ms() - backup->progress.begun_ms,
        .start = backup->start.lsn,
        .end = backup->end.lsn,
        .timeline = backup->end.timeline,
        .manifest_checked = compared,
        .files = compared ? ledger_file_count(backup->ledger) : 0,
        .bytes = compared ? ledger_byte_count(backup->ledger) : 0,
        .pages_checked = backup->chain_config.pages != NULL,
        .pages = backup->pages.checked,
        .bad_pages = backup->pages.bad,
        .wal_checked = backup->wal != NULL,
        .durable = is_durable(backup),
        .elsewhere = backup->plan.to_server,
    };

    if (observer->completed != NULL)
        observer->completed(observer->ctx, &summary);
}

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
    return true;
}

static bool
make_plan(Backup *backup, Error *err)
{
    if (!plan_make(backup->options, conn_features(backup->conn), conn_version_text(backup->conn),
                   &backup->plan, err))
        return false;
    if (!backup->plan.page_check && !backup->plan.page_digests)
        return true;
    return repl_page_layout(backup->conn, &backup->page_layout, err);
}

static bool
make_recovery_settings(Backup *backup, Error *err)
{
    const bool in_own_file = !conn_features(backup->conn)->recovery_settings;
    Buf conninfo = BUF_INIT;
    bool ok;

    if (!backup->options->write_recovery)
        return true;
    ok = conn_primary_conninfo(backup->conn, backup->conn_config, &conninfo, err) &&
         recovery_text(buf_text(&conninfo), backup->options->slot, in_own_file,
                       &backup->recovery_text, err);
    buf_free(&conninfo);
    backup->recovery = (RecoveryConfig){
        .text = {.data = backup->recovery_text.data, .len = backup->recovery_text.len},
        .in_own_file = in_own_file,
        .file_mode = backup->file_mode,
    };
    return ok;
}

static bool
claim_wal_directory(Backup *backup, Error *err)
{
    const BackupOptions *options = backup->options;
    char *link;
    bool ok;

    if (options->wal_directory == NULL)
        return true;
    if (!target_claim(backup->target, options->wal_directory, backup->directory_mode, err))
        return false;
    link = path_join(options->directory, "pg_wal", err);
    ok = link != NULL && target_link(backup->target, link, options->wal_directory, err);
    free(link);
    return ok;
}

/* Those that are known before the server begins. */
static bool
claim_directories(Backup *backup, Error *err)
{
    if (!is_in_directory(backup))
        return true;
    return target_claim(backup->target, backup->options->directory, backup->directory_mode, err) &&
           claim_wal_directory(backup, err);
}

static bool
upload_manifest(Backup *backup, Error *err)
{
    const char *path = backup->options->incremental;

    return path == NULL || repl_upload_manifest(backup->conn, path, backup->stop, err);
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
        .tablespace_map = options->format == FORMAT_TAR,
        .verify_checksums = !options->no_verify_checksums,
        .manifest = backup->plan.manifest,
        .manifest_checksums = options->manifest_checksums,
        .incremental = options->incremental != NULL,
        .target = options->target,
        .target_detail = options->target_detail,
        .compression = options->server_compression,
        .compression_detail = options->server_compression_detail,
    };

    observe_note(backup->observer, "initiating base backup, waiting for checkpoint to complete");
    if (backup->observer->waiting != NULL)
        backup->observer->waiting(backup->observer->ctx);
    progress_init(&backup->progress, backup->observer);
    if (!repl_base_backup(backup->conn, &request, backup->stop, &backup->start, err))
        return false;
    progress_begin(&backup->progress, &backup->start, &backup->plan);
    tell_begin(backup);
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
    if (!plan_check_tablespaces(&backup->plan, backup->start.tablespace_count, err) ||
        !layout_make(backup->options, &backup->plan, &backup->start, &backup->layout, err))
        return false;
    for (size_t i = 0; i < backup->layout.count; i++) {
        const Place *place = &backup->layout.places[i];

        if (place->directory != NULL && !claim_place(backup, place, err))
            return false;
    }
    return true;
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

/* What files are compared with at the end. */
static bool
prepare_comparison(Backup *backup, Error *err)
{
    const char *directory = backup->plan.in_stream ? NULL : backup->options->directory;

    if (!backup->plan.in_flight)
        return true;
    return (backup->ledger = ledger_new(checksum_type_of(backup->options), err)) != NULL &&
           (backup->manifest = manifest_file_new(directory, backup->file_mode, err)) != NULL;
}

static bool
prepare_page_digests(Backup *backup, Error *err)
{
    if (!backup->plan.page_digests)
        return true;
    backup->pages_file = pages_file_new(backup->options->directory, backup->file_mode,
                                        backup->page_layout.page_size, err);
    if (backup->pages_file == NULL)
        return false;
    ledger_digest_pages(backup->ledger, pages_file_writer(backup->pages_file));
    return true;
}

static bool
report_bad_page(void *ctx, const Problem *problem)
{
    Backup *backup = ctx;
    Error ignored = ERROR_INIT;

    /* The list ends somewhere; what is shown does not. */
    if (backup->bad_pages.len < BAD_PAGES_MAX)
        error_ignored(buf_printf(&backup->bad_pages, &ignored, "%s\n", problem->message));
    observe_problem(backup->observer, problem);
    return true;
}

static bool
build_chain(Backup *backup, Error *err)
{
    const bool check_pages = backup->plan.page_check && backup->page_layout.checksums;

    if (!prepare_comparison(backup, err) || !prepare_page_digests(backup, err))
        return false;
    backup->page_config = (PageCheckConfig){
        .start = backup->start.lsn,
        .page_size = backup->page_layout.page_size,
        .segment_pages = backup->page_layout.segment_pages,
        .problems = {.report = report_bad_page, .ctx = backup},
    };
    backup->chain_config = (ChainConfig){
        .plan = &backup->plan,
        .options = backup->options,
        .layout = &backup->layout,
        .stop = backup->stop,
        .terminated = conn_features(backup->conn)->typed_copy,
        .directory_mode = backup->directory_mode,
        .file_mode = backup->file_mode,
        .ledger = backup->ledger,
        .pages = check_pages ? &backup->page_config : NULL,
        .tally = &backup->pages,
        .recovery = backup->options->write_recovery ? &backup->recovery : NULL,
        .manifest = backup->manifest,
    };
    backup->chain = chain_new(&backup->chain_config, &backup->writing, err);
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
        .plan = &backup->plan,
        .observer = backup->observer,
        .system_id = backup->identity.system_id,
        .segment_size = backup->segment_size,
        .start = backup->start.lsn,
        .timeline = backup->start.timeline,
        .file_mode = backup->file_mode,
        .slot_made = &backup->slot_made,
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
        .hold_end = backup->plan.in_stream,
        .elsewhere = backup->plan.to_server,
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
    if (!manifest_file_finish(backup->manifest, is_durable(backup), &manifest, err) ||
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

/* ---- finishing ---- */

/* The archive that waits for its manifest gets it, unless that would say that all is well. */
static bool
finish_archive(Backup *backup, Error *err)
{
    if (!is_damaged(backup) && !manifest_file_publish(backup->manifest, false, err))
        return false;
    return sink_archive_end(backup->chain, err);
}

static bool
finish_files(Backup *backup, Error *err)
{
    if (is_durable(backup))
        observe_note(backup->observer, "syncing data to disk ...");
    return sink_finish(backup->chain, err) &&
           (!is_durable(backup) || target_sync(backup->target, err));
}

/* Of a backup with bad pages too: which those are is not all that can be asked later. */
static bool
publish_page_digests(Backup *backup, Error *err)
{
    if (backup->pages_file == NULL)
        return true;
    observe_note(backup->observer, "renaming " PAGE_DIGESTS_NAME ".tmp to " PAGE_DIGESTS_NAME);
    return pages_file_publish(backup->pages_file, is_durable(backup), err);
}

/* What goes to a reader cannot be taken back: it is compared before its last member follows. */
static bool
finish_backup(Backup *backup, Error *err)
{
    if (backup->plan.in_stream)
        return check_against_manifest(backup, err) && finish_archive(backup, err) &&
               finish_files(backup, err);
    return finish_files(backup, err) && check_against_manifest(backup, err) &&
           publish_page_digests(backup, err);
}

static bool
publish(Backup *backup, Error *err)
{
    if (backup->manifest == NULL || backup->plan.in_stream)
        return true;
    observe_note(backup->observer, "renaming backup_manifest.tmp to backup_manifest");
    return manifest_file_publish(backup->manifest, is_durable(backup), err);
}

/* Beside a backup that is kept though it has bad pages: nobody must take it for a good one. */
static bool
mark_damaged(const Backup *backup, Error *err)
{
    Buf text = BUF_INIT;
    bool ok = buf_printf(&text, err,
                         "Data pages of this backup have wrong checksums. It is complete and was "
                         "kept because it may\nbe the last copy; its manifest, if it has one, is "
                         "backup_manifest.tmp.\n%s%s",
                         backup->end.checksum_failures
                             ? "The server reported checksum failures while it sent.\n"
                             : "",
                         buf_text(&backup->bad_pages));

    ok = ok && target_make_file(backup->options->directory, TARGET_BAD_PAGES,
                                (Span){.data = text.data, .len = text.len}, backup->file_mode,
                                backup->options->sync, err);
    buf_free(&text);
    return ok;
}

/*
 * The server has found damaged pages in its own files, or we have on their way. All that was sent
 * is here and on disk, and it may be the last copy there is: it stays, but without the name that
 * says that all is well.
 */
static bool
fail_for_damage(const Backup *backup, Error *err)
{
    if (is_in_directory(backup) && !mark_damaged(backup, err))
        return error_context(err, "could not mark the backup as having damaged pages");
    (void)error_set(err, ERR_MISMATCH, "checksum error occurred");
    if (!is_in_directory(backup))
        return error_hint(err, "Pages are damaged (see above).");
    return error_hint(err,
                      "Pages are damaged (see above, and file \"%s\"). The copy is complete and "
                      "kept%s.",
                      TARGET_BAD_PAGES,
                      backup->manifest == NULL ? "" : ", its manifest as backup_manifest.tmp");
}

/* ---- all of it ---- */

static bool
take_backup(Backup *backup, Error *err)
{
    return (backup->conn = conn_open(backup->conn_config, err)) != NULL &&
           learn_server(backup, err) && make_plan(backup, err) &&
           make_recovery_settings(backup, err) && claim_directories(backup, err) &&
           upload_manifest(backup, err) && request_backup(backup, err) &&
           claim_tablespaces(backup, err) && build_chain(backup, err) && start_wal(backup, err) &&
           receive(backup, err) && finish_wal(backup, err) && finish_backup(backup, err);
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

/* Nothing may write any more when directories are taken back, and nobody use the slot. */
static void
end_writing(Backup *backup)
{
    walstream_free(backup->wal);
    backup->wal = NULL;
    sink_free(backup->chain);
    backup->chain = NULL;
    manifest_file_free(backup->manifest);
    backup->manifest = NULL;
    pages_file_free(backup->pages_file);
    backup->pages_file = NULL;
}

/* A slot that nobody uses keeps WAL until the server's disk is full. */
static void
undo_slot(const Backup *backup, bool damaged)
{
    Error err = ERROR_INIT;

    if (!backup->slot_made)
        return;
    if (backup->options->no_clean || damaged)
        observe_info(backup->observer, "replication slot \"%s\" not dropped%s",
                     backup->options->slot,
                     damaged ? ": the backup may need it" : " at user's request");
    else if (walstream_drop_slot(backup->conn, backup->conn_config, backup->options->slot, &err))
        observe_info(backup->observer, "dropped replication slot \"%s\"", backup->options->slot);
    else
        observe_info(backup->observer, "could not drop replication slot \"%s\": %s",
                     backup->options->slot, err.message);
}

static void
fail(Backup *backup, bool damaged, const Error *err)
{
    const BackupObserver *observer = backup->observer;

    if (observer->failed != NULL)
        observer->failed(observer->ctx, err);
    if (backup->options->no_clean)
        target_tell_kept(backup->target, observer);
    else if (!damaged)
        target_take_back(backup->target, observer);
    undo_slot(backup, damaged);
}

static void
backup_free(Backup *backup)
{
    ledger_free(backup->ledger);
    layout_free(&backup->layout);
    backup_start_free(&backup->start);
    buf_free(&backup->bad_pages);
    buf_free(&backup->recovery_text);
    conn_free(backup->conn);
    target_free(backup->target);
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
    bool complete;
    bool damaged;
    bool ok;

    if (backup.target == NULL)
        return false;
    complete = take_backup(&backup, err);
    if (!complete)
        prefer_wal_failure(&backup, err);
    ok = complete && (is_damaged(&backup) ? fail_for_damage(&backup, err) : publish(&backup, err));
    damaged = complete && is_damaged(&backup);
    if (ok || damaged)
        tell_summary(&backup);

    /* A writer that waits for a reader must not wait any more. */
    if (!ok && !damaged)
        stop_request(stop);
    end_writing(&backup);
    if (ok)
        observe_note(observer, "base backup completed");
    else
        fail(&backup, damaged, err);
    backup_free(&backup);
    return ok;
}
