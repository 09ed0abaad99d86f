/*
 * pgstow verifybackup: pg_verifybackup, and pg_checksums --check.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cmd/commands.h"
#include "cmd/signals.h"
#include "cmd/verifybackup_cmd.h"
#include "common/bytes.h"
#include "common/file.h"

typedef struct Run {
    VerifyRequest request;
    VerifyDisplay display;
} Run;

/* ---- what is there ---- */

/* One that is not there fails later, in the words of pg_verifybackup. */
static bool
check_directory(const VerifyRequest *request, Error *err)
{
    struct stat status;

    if (stat(request->directory, &status) != 0 || S_ISDIR(status.st_mode))
        return true;
    (void)error_set(err, ERR_USAGE, "\"%s\" is not a directory", request->directory);
    if (request->target != TARGET_CLUSTER)
        (void)error_hint(err, "Name the directory that holds the backup: that of backup_manifest "
                              "and, in tar format, of the archives.");
    return false;
}

static bool
is_there(const char *directory, const char *name, bool *ret_there, Error *err)
{
    char *path = path_join(directory, name, err);

    if (path == NULL)
        return false;
    *ret_there = access(path, F_OK) == 0;
    free(path);
    return true;
}

/*
 * As pg_verifybackup tells the formats apart, but a plain backup is not taken for archives, and all
 * its files for missing, because of one file that was lost: in tar format there are no directories.
 */
static bool
find_target(const VerifyRequest *request, VerifyTarget *ret_target, Error *err)
{
    static const char *const of_plain[] = {"PG_VERSION", "base"};
    VerifyTarget target = TARGET_TAR;
    bool there;

    if (request->target != TARGET_AS_FOUND) {
        *ret_target = request->target;
        return true;
    }
    for (size_t i = 0; i < sizeof of_plain / sizeof of_plain[0]; i++) {
        if (!is_there(request->directory, of_plain[i], &there, err))
            return false;
        if (there)
            target = TARGET_PLAIN;
    }
    *ret_target = target;
    return true;
}

/* No manifest, but what one is called before all is well: tell what that means. */
static void
explain_missing_manifest(const VerifyRequest *request, Error *err)
{
    Error ignored = ERROR_INIT;
    bool missing = err->code == ERR_SYSTEM && err->sys_errno == ENOENT;
    bool there = false;

    if (missing && request->verify.manifest_path == NULL && request->target != TARGET_CLUSTER &&
        is_there(request->directory, "backup_manifest.tmp", &there, &ignored) && there)
        (void)error_hint(err, "There is a backup_manifest.tmp: this backup was never completed, or "
                              "the server found damaged pages while it was taken.");
}

/* ---- the command ---- */

static bool
verify_target(const VerifyConfig *config, VerifyTarget target, Error *err)
{
    uint64_t problems; /* which the display has counted */

    switch (target) {
    case TARGET_CLUSTER:
        return verify_pages(config, &problems, err);
    case TARGET_TAR:
        return verify_tar(config, &problems, err);
    case TARGET_PLAIN:
    case TARGET_AS_FOUND:
        break;
    }
    return verify_plain(config, &problems, err);
}

static bool
verify(void *ctx, Stop *stop, Error *err)
{
    Run *run = ctx;
    VerifyConfig config = run->request.verify;
    VerifyTarget target;

    config.stop = stop;
    config.summary = &run->display.summary;
    config.problems = (ProblemSink){.report = verify_display_problem, .ctx = &run->display};
    if (run->request.show_progress)
        config.progress = verify_display_progress;
    config.progress_ctx = &run->display;
    if (check_directory(&run->request, err) && find_target(&run->request, &target, err) &&
        verify_display_begin(&run->display, target, err) && verify_target(&config, target, err))
        return true;
    explain_missing_manifest(&run->request, err);
    return false;
}

static int
run_request(Run *run)
{
    Error err = ERROR_INIT;
    bool ok;
    int status;

    verify_display_init(&run->display, &run->request);
    ok = signals_run(verify, run, IGNORED_STAY_IGNORED, &err);
    status = verify_display_end(&run->display, ok ? NULL : &err);
    verify_display_free(&run->display);
    return status;
}

static int
run(const Command *command, int argc, char **argv)
{
    Run run;
    int status = 1;

    switch (verify_request_read(&run.request, command, argc, argv)) {
    case OPTIONS_READ:
        status = run_request(&run);
        break;
    case OPTIONS_EXIT_OK:
        status = 0;
        break;
    case OPTIONS_EXIT_BAD:
        break;
    }
    verify_request_free(&run.request);
    if (status != 0)
        signals_reraise();
    return status;
}

const Command command_verifybackup = {
    .name = "verifybackup",
    .stock_name = "pg_verifybackup",
    .summary = "verifies a backup against the backup manifest.",
    .brief = "verify a backup against its manifest, offline",
    .usage = "[OPTION]... BACKUPDIR",
    .options = verifybackup_options,
    .run = run,
};
