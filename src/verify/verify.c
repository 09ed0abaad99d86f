/*
 * A plain backup is checked in steps, in the stock tool's order: the tree is compared with the
 * manifest (what is extra or has another size), then the manifest with the tree (what is missing),
 * then directories, then the content of what is left is read, then the WAL is parsed. In tar format
 * the archives are read once, for names, sizes, content and WAL; then it is told what is missing,
 * then what is wrong with the WAL. Each step begins only while the caller wants more.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/file.h"
#include "verify/internal.h"

#define PROGRESS_STEP_MS 100

/* ---- scan: what is on disk against the manifest ---- */

static bool
scan_file(Verifier *verifier, const TreeItem *item, Error *err)
{
    const ManifestFile *file = manifest_find(verifier->manifest, item->path);
    Problem problem = {.path = item->path};
    uint8_t *mark;

    if (file == NULL) {
        problem.kind = PROBLEM_EXTRA;
        return report(&verifier->reporter, &problem, err,
                      "\"%s\" is present on disk but not in the manifest", item->path);
    }
    mark = &verifier->marks[manifest_file_index(verifier->manifest, file)];
    if (item->size != file->size) {
        *mark = MARK_BAD;
        problem.kind = PROBLEM_SIZE;
        problem.expected = file->size;
        problem.found = item->size;
        return report(&verifier->reporter, &problem, err,
                      "\"%s\" has size %llu on disk but size %llu in the manifest", item->path,
                      (unsigned long long)item->size, (unsigned long long)file->size);
    }
    *mark = MARK_SEEN;
    if (strcmp(item->path, CONTROL_PATH) == 0)
        return verifier_read_control(verifier, file, err);
    return true;
}

/* One line for it, not one more for every file below it. */
static bool
scan_unknown(Verifier *verifier, const TreeItem *item, Error *err)
{
    /* What a dangling link points to is indeed missing. */
    if (item->errnum != ENOENT && !path_set_add(&verifier->unknown, item->path, err))
        return false;
    return report_unknown(&verifier->reporter, item, err);
}

static bool
scan_item(Verifier *verifier, const TreeItem *item, Error *err)
{
    if (item->what == TREE_FILE)
        return scan_file(verifier, item, err);
    if (item->what != TREE_DIRECTORY)
        return scan_unknown(verifier, item, err);
    verifier_note_directory(verifier, item->path);
    return true;
}

static TreeNext
scan_found(void *ctx, const TreeItem *item, Error *err)
{
    Verifier *verifier = ctx;

    if (!scan_item(verifier, item, err))
        return TREE_FAILED;
    return verifier->reporter.enough ? TREE_ENOUGH : TREE_GO_ON;
}

static bool
step_scan(Verifier *verifier, Error *err)
{
    TreeWalk walk = {.directory = verifier->config->directory,
                     .ignore = &verifier->ignore,
                     .stop = verifier->config->stop,
                     .found = scan_found,
                     .ctx = verifier};

    return tree_walk(&walk, err);
}

/* ---- missing: the manifest against what is on disk ---- */

static bool
step_missing(Verifier *verifier, Error *err)
{
    size_t count = manifest_file_count(verifier->manifest);

    path_set_sort(&verifier->unknown);
    for (size_t i = 0; i < count && !verifier->reporter.enough; i++) {
        const ManifestFile *file = manifest_file(verifier->manifest, i);
        Problem problem = {.kind = PROBLEM_MISSING, .path = file->path};

        if (verifier->marks[i] != MARK_UNSEEN || path_set_covers(&verifier->ignore, file->path) ||
            path_set_covers(&verifier->unknown, file->path))
            continue;
        if (!report(&verifier->reporter, &problem, err,
                    "\"%s\" is present in the manifest but not on disk", file->path))
            return false;
    }
    return true;
}

/* ---- progress ---- */

void
verifier_tell_progress(Verifier *verifier, bool at_end)
{
    const VerifyConfig *config = verifier->config;
    int64_t now = clock_ms();

    if (config->progress == NULL || (!at_end && now - verifier->progress_ms < PROGRESS_STEP_MS))
        return;
    verifier->progress_ms = now;
    config->progress(config->progress_ctx, &verifier->progress);
}

/* ---- WAL ---- */

Lsn
verifier_wal_start(const Verifier *verifier)
{
    size_t count = manifest_wal_range_count(verifier->manifest);
    Lsn start = LSN_MAX;

    for (size_t i = 0; i < count; i++) {
        const ManifestWalRange *range = manifest_wal_range(verifier->manifest, i);

        if (range->start < start)
            start = range->start;
    }
    return start;
}

static bool
check_range(Verifier *verifier, const WalRangeCheck *check, Error *err)
{
    uint64_t before = verifier->reporter.count;

    if (!wal_range_check(check, &verifier->reporter, err))
        return false;
    if (verifier->reporter.count == before)
        verifier->summary.wal_bytes += check->range->end - check->range->start;
    return true;
}

/* A manifest of version 1 has none. 0: nobody knows it. */
static uint64_t
system_id_of(const Verifier *verifier)
{
    uint64_t system_id;

    if (manifest_system_id(verifier->manifest, &system_id))
        return system_id;
    return verifier->has_control ? verifier->control.system_id : 0;
}

static bool
step_wal(Verifier *verifier, Error *err)
{
    size_t count = manifest_wal_range_count(verifier->manifest);
    WalRangeCheck check = {.directory = verifier->wal_directory,
                           .system_id = system_id_of(verifier),
                           .stop = verifier->config->stop};

    if (verifier->config->skip_wal)
        return true;
    for (size_t i = 0; i < count && !verifier->reporter.enough; i++) {
        check.range = manifest_wal_range(verifier->manifest, i);
        if (!check_range(verifier, &check, err))
            return false;
    }
    return true;
}

/* A directory that is named for the WAL goes before the archives. */
static bool
step_archived_wal(Verifier *verifier, Error *err)
{
    if (verifier->wal_scan == NULL)
        return step_wal(verifier, err);
    return wal_scan_report(verifier->wal_scan, system_id_of(verifier), &verifier->reporter, err);
}

/* ---- all of it ---- */

/* What servers and tools put beside a backup without listing it. */
static const char *const always_ignored[] = {"backup_manifest", "pg_wal", "postgresql.auto.conf",
                                             "recovery.signal", "standby.signal"};

static bool
fill_ignore(Verifier *verifier, Error *err)
{
    const VerifyConfig *config = verifier->config;

    for (size_t i = 0; i < sizeof always_ignored / sizeof always_ignored[0]; i++) {
        if (!path_set_add(&verifier->ignore, always_ignored[i], err))
            return false;
    }
    for (size_t i = 0; i < config->ignore_count; i++) {
        if (!path_set_add(&verifier->ignore, config->ignore[i], err))
            return false;
    }
    path_set_sort(&verifier->ignore);
    return true;
}

/* `given`, or DIRECTORY/NAME; owned. */
static char *
place_of(const VerifyConfig *config, const char *given, const char *name, Error *err)
{
    return given != NULL ? mem_strdup(given, err) : path_join(config->directory, name, err);
}

/* The manifest is there. A file backup_pages is not of the backup, unless a restore has left one in
 * the cluster. */
static bool
prepare(Verifier *verifier, Error *err)
{
    verifier->marks = mem_zero(manifest_file_count(verifier->manifest), err);
    if (verifier->marks == NULL)
        return false;
    if (manifest_find(verifier->manifest, PAGE_DIGESTS_NAME) != NULL)
        return true;
    if (!path_set_add(&verifier->ignore, PAGE_DIGESTS_NAME, err))
        return false;
    path_set_sort(&verifier->ignore);
    return true;
}

static bool
load_manifest(Verifier *verifier, Error *err)
{
    const VerifyConfig *config = verifier->config;
    char *path = place_of(config, config->manifest_path, "backup_manifest", err);
    bool ok = path != NULL && manifest_load(path, &verifier->manifest, err);

    free(path);
    return ok && prepare(verifier, err);
}

/* A backup that went to standard output has it in the archive. */
static bool
load_tar_manifest(Verifier *verifier, Error *err)
{
    const VerifyConfig *config = verifier->config;
    Error missing = ERROR_INIT;

    if (load_manifest(verifier, &missing))
        return true;
    if (missing.code == ERR_SYSTEM && missing.sys_errno == ENOENT &&
        config->manifest_path == NULL &&
        archives_load_manifest(config, &verifier->manifest, &missing))
        return prepare(verifier, err);
    *err = missing;
    return false;
}

typedef bool (*Step)(Verifier *verifier, Error *err);

static bool
run_steps(Verifier *verifier, const Step *steps, Error *err)
{
    for (; *steps != NULL && !verifier->reporter.enough; steps++) {
        if (!(*steps)(verifier, err))
            return false;
    }
    return true;
}

void
verifier_free(Verifier *verifier)
{
    manifest_free(verifier->manifest);
    free(verifier->marks);
    free(verifier->wal_directory);
    wal_scan_free(verifier->wal_scan);
    page_compare_free(verifier->compare);
    page_digests_close(verifier->digests);
    path_set_free(&verifier->ignore);
    path_set_free(&verifier->unknown);
    reporter_free(&verifier->reporter);
}

/* `steps` ends with NULL. */
static bool
verify(const VerifyConfig *config, const Step *steps, uint64_t *ret_problems, Error *err)
{
    Verifier verifier = {.config = config, .reporter = REPORTER_INIT(&config->problems)};
    bool ok;

    verifier.wal_directory = place_of(config, config->wal_directory, "pg_wal", err);
    ok = verifier.wal_directory != NULL && fill_ignore(&verifier, err) &&
         run_steps(&verifier, steps, err);
    if (ok) {
        *ret_problems = verifier.reporter.count;
        if (config->summary != NULL)
            *config->summary = verifier.summary;
    }
    verifier_free(&verifier);
    return ok;
}

bool
verify_plain(const VerifyConfig *config, uint64_t *ret_problems, Error *err)
{
    static const Step steps[] = {
        load_manifest,           step_scan, step_missing, verifier_report_directories,
        verifier_check_contents, step_wal,  NULL};

    return verify(config, steps, ret_problems, err);
}

bool
verify_tar(const VerifyConfig *config, uint64_t *ret_problems, Error *err)
{
    static const Step steps[] = {load_tar_manifest,           archives_check,    step_missing,
                                 verifier_report_directories, step_archived_wal, NULL};

    return verify(config, steps, ret_problems, err);
}
