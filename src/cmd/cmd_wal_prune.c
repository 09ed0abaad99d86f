/*
 * pgstow wal prune: remove from an archive what no kept backup needs.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "cmd/log.h"
#include "cmd/wal_cmd.h"
#include "cmd/wal_prune_cmd.h"

#define SECONDS_PER_DAY ((int64_t)24 * 60 * 60)

/* Besides one for each backup: --keep-from, and two for --keep-days. */
#define OTHER_NEEDS 3

typedef struct Run {
    const PruneRequest *request;
    Inventory archive;
    PruneNeed *needs;
    size_t need_count;
    ArchiveNames whats; /* what the needs are called */
    PrunePlan plan;
    bool removed;
} Run;

/* ---- what stays ---- */

static bool
add_need(Run *run, const PruneNeed *need, const char *what, Error *err)
{
    if (!archive_names_add(&run->whats, what, err))
        return false;
    run->needs[run->need_count] = *need;
    run->needs[run->need_count].what = run->whats.names[run->whats.count - 1];
    run->need_count++;
    return true;
}

/* The same, with `what` put together. */
PRINTF_LIKE(4, 5)
static bool
add_need_called(Run *run, const PruneNeed *need, Error *err, const char *fmt, ...)
{
    Buf what = BUF_INIT;
    va_list args;
    bool ok;

    va_start(args, fmt);
    ok = buf_vprintf(&what, err, fmt, args);
    va_end(args);
    ok = ok && add_need(run, need, buf_text(&what), err);
    buf_free(&what);
    return ok;
}

static void
warn_of_backup(const Run *run, const PruneBackup *backup, const BackupWal *wal)
{
    char name[WAL_NAME_SIZE];
    uint64_t number;

    if (wal->system_id == 0)
        log_warning("backup \"%s\" does not say which cluster it is of", backup->directory);
    if (run->archive.segment_count == 0 || !backup_wal_missing(wal, &run->archive, &number))
        return;
    wal_segment_name(name, wal->timeline, number, run->archive.segment_size);
    log_warning("the archive has no segment \"%s\", which backup \"%s\" needs", name,
                backup->directory);
}

static bool
need_backup(Run *run, const PruneBackup *backup, Error *err)
{
    BackupWal wal;
    PruneNeed need;

    if (!backup_wal_read(backup->directory, &wal, err))
        return false;
    if (!backup_wal_check(&wal, &run->archive, err))
        return error_context(err, "backup \"%s\" does not belong to the archive",
                             backup->directory);
    need = (PruneNeed){.timeline = wal.timeline, .start = wal.start};
    if (backup->alone) {
        if (wal.end == LSN_INVALID) {
            (void)error_set(err, ERR_USAGE, "backup \"%s\" does not say where it ends",
                            backup->directory);
            return error_hint(err, "It has no backup_manifest: name it with --oldest-backup.");
        }
        need.end = wal.end;
    }
    warn_of_backup(run, backup, &wal);
    return add_need_called(run, &need, err, "backup \"%s\"", backup->directory);
}

/* A name says a timeline, a position does not. */
static bool
parse_beginning(const Run *run, PruneNeed *need)
{
    const char *text = run->request->keep_from;
    uint32_t size =
        run->archive.segment_size == 0 ? WAL_SEGMENT_SIZE_MIN : run->archive.segment_size;
    ArchiveBackup backup;
    WalSegmentFile file;

    if (lsn_parse(text, &need->start))
        return true;
    if (wal_segment_file_parse(text, size, &file)) {
        need->timeline = file.timeline;
        need->start = wal_segment_start(file.number, size);
        return true;
    }
    if (!archive_backup_parse(text, size, &backup))
        return false;
    need->timeline = backup.timeline;
    need->start = wal_segment_start(backup.number, size) + backup.offset;
    return true;
}

static bool
need_beginning(Run *run, Error *err)
{
    PruneNeed need = {.end = LSN_INVALID};

    if (parse_beginning(run, &need))
        return add_need_called(run, &need, err, "--keep-from=%s", run->request->keep_from);
    (void)error_set(err, ERR_USAGE, "invalid value \"%s\" for option --keep-from",
                    run->request->keep_from);
    return error_hint(err, "It is the name of a segment of the archive or of a backup history "
                           "file, or an LSN.");
}

/* With days alone, a point in them is reached from the newest backup that is older. */
static bool
need_days(Run *run, bool alone, Error *err)
{
    int days = run->request->keep_days;
    int64_t since = (int64_t)time(NULL) - (int64_t)days * SECONDS_PER_DAY;
    const ArchiveBackup *backup;
    PruneNeed need;

    if (prune_recent(&run->archive, since, &need) &&
        !add_need_called(run, &need, err, "--keep-days=%d", days))
        return false;
    if (!alone)
        return true;
    backup = prune_backup_before(&run->archive, since);
    if (backup == NULL) {
        (void)error_set(err, ERR_USAGE,
                        "archive \"%s\" has no backup history file that is older than %d days",
                        run->request->directory, days);
        return error_hint(err, "Name the oldest backup that is kept with --oldest-backup.");
    }
    need = (PruneNeed){.timeline = backup->timeline,
                       .start = wal_segment_start(backup->number, run->archive.segment_size) +
                                backup->offset};
    return add_need_called(run, &need, err, "backup \"%s\" (--keep-days=%d)", backup->name, days);
}

static bool
collect_needs(Run *run, Error *err)
{
    const PruneRequest *request = run->request;
    bool alone = request->keep_from == NULL;

    run->needs = mem_zero((request->backup_count + OTHER_NEEDS) * sizeof *run->needs, err);
    if (run->needs == NULL)
        return false;
    for (size_t i = 0; i < request->backup_count; i++) {
        if (!need_backup(run, &request->backups[i], err))
            return false;
        alone = alone && request->backups[i].alone;
    }
    if (request->keep_from != NULL && !need_beginning(run, err))
        return false;
    return request->keep_days == 0 || need_days(run, alone, err);
}

/* ---- what is said ---- */

static PruneReport
report_of(const Run *run, const Error *failure)
{
    return (PruneReport){.version = PGSTOW_VERSION,
                         .directory = run->request->directory,
                         .archive = &run->archive,
                         .needs = run->needs,
                         .need_count = run->need_count,
                         .plan = &run->plan,
                         .removed = run->removed,
                         .failure = failure};
}

/* What cannot be shown is not done. */
static bool
print_part(const Run *run, bool (*part)(const PruneReport *report, Buf *text, Error *err),
           const Error *failure, Error *err)
{
    PruneReport report = report_of(run, failure);
    Buf text = BUF_INIT;
    bool ok = part(&report, &text, err) &&
              ((fwrite(text.data, 1, text.len, stdout) == text.len && fflush(stdout) == 0) ||
               error_set(err, ERR_SYSTEM, "could not write to standard output"));

    buf_free(&text);
    return ok;
}

/* ---- the command ---- */

static bool
prune(Run *run, Error *err)
{
    const PruneRequest *request = run->request;

    if (!inventory_read(&run->archive, request->directory, err) || !collect_needs(run, err) ||
        !prune_plan_make(&run->plan, &run->archive, run->needs, run->need_count, err) ||
        (!request->json && !print_part(run, prune_report_plan, NULL, err)))
        return false;
    if (request->yes && !prune_execute(&run->plan, request->directory, err))
        return false;
    run->removed = request->yes;
    return request->json || print_part(run, prune_report_result, NULL, err);
}

static int
run_request(const PruneRequest *request)
{
    Run run = {.request = request};
    Error err = ERROR_INIT;
    Error unsaid = ERROR_INIT;
    bool ok = prune(&run, &err);

    if (!ok)
        log_failure(&err);
    if (request->json && !print_part(&run, prune_report_json, ok ? NULL : &err, &unsaid)) {
        log_failure(&unsaid);
        ok = false;
    }
    prune_plan_free(&run.plan);
    archive_names_free(&run.whats);
    free(run.needs);
    inventory_free(&run.archive);
    return ok ? 0 : 1;
}

static int
run(const Command *command, int argc, char **argv)
{
    PruneRequest request;
    int status = 1;

    switch (prune_request_read(&request, command, argc, argv)) {
    case OPTIONS_READ:
        status = run_request(&request);
        break;
    case OPTIONS_EXIT_OK:
        status = 0;
        break;
    case OPTIONS_EXIT_BAD:
        break;
    }
    prune_request_free(&request);
    return status;
}

const Command command_wal_prune = {
    .name = "prune",
    .summary = "removes what no kept backup needs from an archive of WAL.",
    .brief = "remove what no kept backup needs",
    .usage = "[OPTION]... DIR",
    .options = wal_prune_options,
    .run = run,
};
