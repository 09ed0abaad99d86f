/*
 * A plain backup is checked in four steps, in the stock tool's order: the tree is compared with the
 * manifest (what is extra or has another size), then the manifest with the tree (what is missing),
 * then the content of what is left is digested, then the WAL is parsed. In tar format the archives
 * are read once, for names, sizes, content and WAL; then it is told what is missing, then what is
 * wrong with the WAL. Each step begins only while the caller wants more.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/file.h"
#include "pgformat/control.h"
#include "verify/internal.h"

#define PROGRESS_STEP_MS 100

/* ---- scan: what is on disk against the manifest ---- */

bool
verifier_check_control(Verifier *verifier, const ManifestFile *file, const char *where,
                       Span content, Error *err)
{
    Problem problem = {.kind = PROBLEM_CONTROL, .path = file->path};
    Error damage = ERROR_INIT;
    ControlData control;
    uint64_t expected;

    if (!manifest_system_id(verifier->manifest, &expected)) /* version 1 */
        return true;
    if (!control_parse(content, &control, &damage))
        return report(&verifier->reporter, &problem, err, "%s: %s", where, damage.message);
    if (control.system_id == expected)
        return true;
    problem.kind = PROBLEM_SYSTEM_ID;
    return report(&verifier->reporter, &problem, err,
                  "%s: manifest system identifier is %llu, but control file has %llu", where,
                  (unsigned long long)expected, (unsigned long long)control.system_id);
}

/* *ret_len of up to CONTROL_FILE_SIZE bytes; false and errno's value when they cannot be had. */
static bool
read_control(const char *path, uint8_t *bytes, size_t *ret_len, int *ret_errnum)
{
    Error unread = ERROR_INIT;
    int fd = file_open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK, 0, &unread);
    bool ok = fd >= 0 && file_read(fd, bytes, CONTROL_FILE_SIZE, path, ret_len, &unread);

    file_close_quietly(fd);
    if (!ok)
        *ret_errnum = unread.sys_errno;
    return ok;
}

static bool
check_control(Verifier *verifier, const ManifestFile *file, Error *err)
{
    uint8_t bytes[CONTROL_FILE_SIZE];
    char reason[ERRNO_TEXT_SIZE];
    uint64_t system_id;
    size_t len;
    int errnum;
    char *path;
    bool ok;

    if (!manifest_system_id(verifier->manifest, &system_id)) /* nothing to compare with */
        return true;
    path = path_join(verifier->config->directory, file->path, err);
    if (path == NULL)
        return false;
    if (read_control(path, bytes, &len, &errnum)) {
        Span content = {.data = bytes, .len = len};

        ok = verifier_check_control(verifier, file, file->path, content, err);
    } else {
        Problem problem = {.kind = PROBLEM_UNREADABLE, .path = file->path};

        verifier->marks[manifest_file_index(verifier->manifest, file)] = MARK_BAD;
        ok = report(&verifier->reporter, &problem, err, "could not open file \"%s\": %s",
                    file->path, errno_text(errnum, reason));
    }
    free(path);
    return ok;
}

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
        return report(&verifier->reporter, &problem, err,
                      "\"%s\" has size %llu on disk but size %llu in the manifest", item->path,
                      (unsigned long long)item->size, (unsigned long long)file->size);
    }
    *mark = MARK_SEEN;
    if (strcmp(item->path, CONTROL_PATH) == 0)
        return check_control(verifier, file, err);
    return true;
}

/* What is there but could not be looked into: one line, not one more for every file below it. */
static bool
scan_unknown(Verifier *verifier, const TreeItem *item, Error *err)
{
    Problem problem = {.kind = PROBLEM_UNREADABLE, .path = item->path};
    char room[ERRNO_TEXT_SIZE];
    const char *reason = errno_text(item->errnum, room);

    /* What a dangling link points to is indeed missing. */
    if (item->errnum != ENOENT && !path_set_add(&verifier->unknown, item->path, err))
        return false;
    switch (item->what) {
    case TREE_FILE:
        break;
    case TREE_ODD:
        problem.kind = PROBLEM_FILE_TYPE;
        return report(&verifier->reporter, &problem, err,
                      "\"%s\" is not a regular file or directory", item->path);
    case TREE_NO_STAT:
        return report(&verifier->reporter, &problem, err,
                      "could not stat file or directory \"%s\": %s", item->path, reason);
    case TREE_NO_OPEN:
        return report(&verifier->reporter, &problem, err, "could not open directory \"%s\": %s",
                      item->path, reason);
    case TREE_NO_READ:
        return report(&verifier->reporter, &problem, err, "could not read directory \"%s\": %s",
                      item->path, reason);
    }
    return true;
}

static TreeNext
scan_found(void *ctx, const TreeItem *item, Error *err)
{
    Verifier *verifier = ctx;
    bool ok = item->what == TREE_FILE ? scan_file(verifier, item, err)
                                      : scan_unknown(verifier, item, err);

    if (!ok)
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

/* ---- checksums ---- */

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

static bool
checksum_tick(void *ctx, uint64_t bytes, Error *err)
{
    Verifier *verifier = ctx;

    if (!stop_check(verifier->config->stop, err))
        return false;
    verifier->progress.done += bytes;
    verifier_tell_progress(verifier, false);
    return true;
}

/* The work list: the files to digest, in the order of the manifest, and their sum. */
static bool
list_work(Verifier *verifier, const ManifestFile ***ret_work, size_t *ret_count, Error *err)
{
    size_t files = manifest_file_count(verifier->manifest);
    const ManifestFile **work = mem_alloc(files * sizeof *work, err);
    size_t count = 0;

    if (work == NULL)
        return false;
    for (size_t i = 0; i < files; i++) {
        const ManifestFile *file = manifest_file(verifier->manifest, i);

        if (verifier->marks[i] != MARK_SEEN || file->checksum_type == CHECKSUM_NONE)
            continue;
        work[count++] = file;
        verifier->progress.total += file->size;
    }
    *ret_work = work;
    *ret_count = count;
    return true;
}

static bool
check_work(Verifier *verifier, const ManifestFile *const *work, size_t count, Checker *checker,
           Error *err)
{
    uint64_t done = 0;

    for (size_t i = 0; i < count && !verifier->reporter.enough; i++) {
        FileFinding finding;

        if (!stop_check(verifier->config->stop, err) ||
            !checker_check(checker, work[i], &finding, err) ||
            !report_finding(&verifier->reporter, work[i], &finding, err))
            return false;
        /* A file counts with its size in the manifest, however much of it was there to be read. */
        done += work[i]->size;
        verifier->progress.done = done;
    }
    verifier_tell_progress(verifier, true);
    return true;
}

static bool
step_checksums(Verifier *verifier, Error *err)
{
    const ManifestFile **work = NULL;
    size_t count = 0;
    Checker checker;
    bool ok;

    if (verifier->config->skip_checksums)
        return true;
    if (!checker_init(&checker, verifier->config->directory, err))
        return false;
    checker.tick = checksum_tick;
    checker.tick_ctx = verifier;
    ok =
        list_work(verifier, &work, &count, err) && check_work(verifier, work, count, &checker, err);
    free(work);
    checker_free(&checker);
    return ok;
}

/* ---- WAL ---- */

static bool
step_wal(Verifier *verifier, Error *err)
{
    size_t count = manifest_wal_range_count(verifier->manifest);
    WalRangeCheck check = {
        .directory = verifier->wal_directory, .system_id = 0, .stop = verifier->config->stop};
    uint64_t system_id;

    if (verifier->config->skip_wal)
        return true;
    if (manifest_system_id(verifier->manifest, &system_id))
        check.system_id = system_id;
    for (size_t i = 0; i < count && !verifier->reporter.enough; i++) {
        check.range = manifest_wal_range(verifier->manifest, i);
        if (!wal_range_check(&check, &verifier->reporter, err))
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
    return wal_scan_report(verifier->wal_scan, &verifier->reporter, err);
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

static bool
load_manifest(Verifier *verifier, Error *err)
{
    const VerifyConfig *config = verifier->config;
    char *path = place_of(config, config->manifest_path, "backup_manifest", err);
    bool ok = path != NULL && manifest_load(path, &verifier->manifest, err);

    free(path);
    if (!ok)
        return false;
    verifier->marks = mem_zero(manifest_file_count(verifier->manifest), err);
    return verifier->marks != NULL;
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

/* `steps` ends with NULL. */
static bool
verify(const VerifyConfig *config, const Step *steps, uint64_t *ret_problems, Error *err)
{
    Verifier verifier = {.config = config, .reporter = REPORTER_INIT(&config->problems)};
    bool ok;

    verifier.wal_directory = place_of(config, config->wal_directory, "pg_wal", err);
    ok = verifier.wal_directory != NULL && fill_ignore(&verifier, err) &&
         load_manifest(&verifier, err) && run_steps(&verifier, steps, err);
    if (ok)
        *ret_problems = verifier.reporter.count;

    manifest_free(verifier.manifest);
    free(verifier.marks);
    free(verifier.wal_directory);
    wal_scan_free(verifier.wal_scan);
    path_set_free(&verifier.ignore);
    path_set_free(&verifier.unknown);
    reporter_free(&verifier.reporter);
    return ok;
}

bool
verify_plain(const VerifyConfig *config, uint64_t *ret_problems, Error *err)
{
    static const Step steps[] = {step_scan, step_missing, step_checksums, step_wal, NULL};

    return verify(config, steps, ret_problems, err);
}

bool
verify_tar(const VerifyConfig *config, uint64_t *ret_problems, Error *err)
{
    static const Step steps[] = {archives_check, step_missing, step_archived_wal, NULL};

    return verify(config, steps, ret_problems, err);
}
