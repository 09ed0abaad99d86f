/*
 * pgstow wal check: is an archive of WAL whole?
 */
#include <stdlib.h>
#include <string.h>

#include "cmd/log.h"
#include "cmd/signals.h"
#include "cmd/wal_check_cmd.h"
#include "cmd/wal_cmd.h"

#define MAX_JOBS 1024

#define LATE_SECONDS     600
#define LATE_SECONDS_MAX (7 * 24 * 3600)

enum { OPT_ACCEPT_GAP = OPTION_LONG_ONLY, OPT_JSON, OPT_LATE, OPT_QUICK, OPT_REASON, OPT_SINCE };

static const Option wal_check_options[] = {
    {0, NULL, NULL, "Options:"},
    {'j', "jobs", "NUM", "use this many threads (default: one per processor)"},
    {'P', "progress", NULL, "show progress information"},
    {'q', "quiet", NULL, "do not print the result, only what is wrong"},
    {OPT_JSON, "json", NULL, "print the result as JSON"},
    {OPT_LATE, "late-after", "SECONDS",
     "take a segment that is being written for late, not\n"
     "missing, for so long (default: 600)"},
    {OPT_QUICK, "quick", NULL, "check names, sizes and first pages only"},
    {OPT_SINCE, "since", "LSN|BACKUPDIR", "check what is needed from there on only"},
    COMMON_OPTIONS,
    {0, NULL, NULL, "Options to record that a gap is known:"},
    {OPT_ACCEPT_GAP, "accept-gap", "START-END",
     "what is missing or damaged between these LSNs\nis known"},
    {OPT_REASON, "reason", "TEXT", "why that is so"},
    {'t', "timeline", "TLI", "on this timeline only (default: on any)"},
    {0, NULL, NULL, NULL},
};

/* ---- the command line ---- */

static bool
parse_jobs(const char *value, size_t *ret_jobs)
{
    int jobs;

    if (!option_parse_int(value, "-j/--jobs", 1, MAX_JOBS, &jobs))
        return false;
    *ret_jobs = (size_t)jobs;
    return true;
}

static bool
parse_late(const char *value, int64_t *ret_seconds)
{
    int seconds;

    if (!option_parse_int(value, "--late-after", 0, LATE_SECONDS_MAX, &seconds))
        return false;
    *ret_seconds = seconds;
    return true;
}

static bool
take_option(void *ctx, int id, const char *value)
{
    WalCheckRequest *request = ctx;

    switch (id) {
    case 'j':
        return parse_jobs(value, &request->check.jobs);
    case 'P':
        request->show_progress = true;
        break;
    case 'q':
        request->quiet = true;
        break;
    case 't':
        request->gap_timeline = value;
        break;
    case OPT_ACCEPT_GAP:
        request->gap = value;
        break;
    case OPT_JSON:
        request->json = true;
        break;
    case OPT_LATE:
        return parse_late(value, &request->check.late_seconds);
    case OPT_QUICK:
        request->check.quick = true;
        break;
    case OPT_REASON:
        request->gap_reason = value;
        break;
    case OPT_SINCE:
        request->since = value;
        break;
    default:
        break;
    }
    return true;
}

static bool
settle(WalCheckRequest *request, int count, char **rest)
{
    if (count == 0)
        return options_conflict("no archive directory specified");
    if (!options_rest_allowed(count, rest, 1))
        return false;
    request->directory = rest[0];
    if (request->show_progress && request->quiet)
        return options_conflict("cannot specify both -P/--progress and -q/--quiet");
    if (request->gap != NULL && request->gap_reason == NULL)
        return options_conflict("--accept-gap needs a --reason");
    if (request->gap == NULL && (request->gap_reason != NULL || request->gap_timeline != NULL))
        return options_conflict("--reason and -t/--timeline are for --accept-gap");
    return true;
}

/* ---- gaps ---- */

/* "START-END" */
static bool
parse_gap(const char *text, ArchiveGap *gap)
{
    const char *dash = strchr(text, '-');
    char start[32];
    size_t len;

    if (dash == NULL)
        return false;
    len = (size_t)(dash - text);
    if (len >= sizeof start)
        return false;
    memcpy(start, text, len);
    start[len] = '\0';
    return lsn_parse(start, &gap->start) && lsn_parse(dash + 1, &gap->end);
}

static bool
accept_gap(const WalCheckRequest *request, Error *err)
{
    ArchiveGap gap = {.reason = request->gap_reason};

    if (!parse_gap(request->gap, &gap))
        return error_set(err, ERR_USAGE, "invalid gap \"%s\", must be two LSNs with a dash between",
                         request->gap);
    if (request->gap_timeline != NULL &&
        (!u32_parse(request->gap_timeline, &gap.timeline) || gap.timeline == 0))
        return error_set(err, ERR_USAGE, "invalid timeline \"%s\"", request->gap_timeline);
    return archive_gap_add(request->directory, &gap, err);
}

/* ---- since when ---- */

static bool
find_since(const char *since, ArchiveCheckConfig *config, Error *err)
{
    BackupWal wal;

    if (lsn_parse(since, &config->since)) {
        if (config->since != LSN_INVALID)
            return true;
        return error_set(err, ERR_USAGE, "invalid LSN \"%s\" for option --since", since);
    }
    if (!backup_wal_read(since, &wal, err))
        return error_context(err, "option --since");
    config->since = wal.start;
    config->since_timeline = wal.timeline;
    config->system_id = wal.system_id;
    return true;
}

/* ---- the command ---- */

typedef struct Run {
    WalCheckRequest request;
    WalCheckDisplay display;
    Inventory archive;
    ArchiveGaps gaps;
} Run;

static bool
check(void *ctx, Stop *stop, Error *err)
{
    Run *run = ctx;
    ArchiveCheckConfig config = run->request.check;

    config.archive = &run->archive;
    config.gaps = &run->gaps;
    config.finding = wal_check_display_finding;
    config.ctx = &run->display;
    config.stop = stop;
    if (run->request.show_progress)
        config.progress = wal_check_display_progress;
    return (run->request.gap == NULL || accept_gap(&run->request, err)) &&
           (run->request.since == NULL || find_since(run->request.since, &config, err)) &&
           archive_gaps_load(&run->gaps, run->request.directory, err) &&
           inventory_read(&run->archive, run->request.directory, err) &&
           archive_check(&config, &run->display.summary, err);
}

static int
run_request(Run *run)
{
    Error err = ERROR_INIT;
    bool ok;
    int status;

    wal_check_display_init(&run->display, &run->request);
    ok = signals_run(check, run, IGNORED_STAY_IGNORED, &err);
    status = wal_check_display_end(&run->display, ok ? NULL : &err);
    wal_check_display_free(&run->display);
    inventory_free(&run->archive);
    archive_gaps_free(&run->gaps);
    if (status != WAL_CHECK_WHOLE)
        signals_reraise();
    return status;
}

static int
run(const Command *command, int argc, char **argv)
{
    Run run = {.request = {.check = {.late_seconds = LATE_SECONDS}}};
    int count;
    char **rest;

    switch (options_read(command, argc, argv, take_option, &run.request, &count, &rest)) {
    case OPTIONS_READ:
        break;
    case OPTIONS_EXIT_OK:
        return 0;
    case OPTIONS_EXIT_BAD:
        return WAL_CHECK_NO_LOOK;
    }
    if (!settle(&run.request, count, rest))
        return WAL_CHECK_NO_LOOK;
    return run_request(&run);
}

const Command command_wal_check = {
    .name = "check",
    .summary = "checks whether an archive of WAL is whole.",
    .brief = "check whether an archive is whole",
    .usage = "[OPTION]... DIR",
    .options = wal_check_options,
    .run = run,
};
