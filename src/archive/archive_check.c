/*
 * The check of an archive: what names and history files tell, then each segment's file as a job.
 *
 * What the jobs find is told in their order; the holes that the names show come in between. What
 * was found about two segments waits for the end: it counts only when both are sound.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "archive/internal.h"
#include "common/work.h"

typedef struct CheckRun {
    const ArchiveCheckConfig *config;
    ArchivePlan plan;
    SegmentResult *results; /* of the jobs */
    size_t next_hole;
    Buf message;
    bool enough;
    ArchiveProgress progress;
    ArchiveCheckSummary summary;
} CheckRun;

const char *
archive_finding_name(ArchiveFindingKind kind)
{
    switch (kind) {
    case ARCHIVE_MISSING:
        return "missing";
    case ARCHIVE_LATE:
        return "late";
    case ARCHIVE_DAMAGED:
        return "damaged";
    case ARCHIVE_TRUNCATED:
        return "truncated";
    case ARCHIVE_FOREIGN:
        return "foreign";
    case ARCHIVE_MISNAMED:
        return "misnamed";
    case ARCHIVE_FORKED:
        return "forked";
    case ARCHIVE_BAD_HISTORY:
        return "history";
    case ARCHIVE_NO_FILE:
        return "file_type";
    case ARCHIVE_UNREADABLE:
        return "unreadable";
    case ARCHIVE_FINDING_STRAY:
        return "stray";
    case ARCHIVE_FINDING_LEFT:
        return "leftover";
    }
    return "unknown";
}

static bool
is_remark(ArchiveFindingKind kind)
{
    return kind == ARCHIVE_LATE || kind == ARCHIVE_FINDING_STRAY || kind == ARCHIVE_FINDING_LEFT;
}

bool
archive_finding_counts(const ArchiveFinding *finding)
{
    return finding->gap == NULL && !is_remark(finding->kind);
}

/* ---- telling ---- */

static void
count_finding(CheckRun *run, const ArchiveFinding *finding)
{
    if (finding->gap != NULL)
        run->summary.known++;
    else if (is_remark(finding->kind))
        run->summary.remarks++;
    else if (finding->kind == ARCHIVE_UNREADABLE)
        run->summary.unreadable++;
    else
        run->summary.problems++;
}

PRINTF_LIKE(4, 5)
static bool
tell(CheckRun *run, ArchiveFinding finding, Error *err, const char *fmt, ...)
{
    va_list args;
    bool ok;

    if (run->enough)
        return true;
    buf_clear(&run->message);
    va_start(args, fmt);
    ok = buf_vprintf(&run->message, err, fmt, args);
    va_end(args);
    if (!ok)
        return false;
    finding.message = buf_text(&run->message);
    count_finding(run, &finding);
    if (run->config->finding != NULL && !run->config->finding(run->config->ctx, &finding))
        run->enough = true;
    return true;
}

static uint32_t
segment_size(const CheckRun *run)
{
    return run->config->archive->segment_size;
}

static void
segment_file_name(const CheckRun *run, const ArchiveSegment *segment,
                  char name[WAL_SEGMENT_FILE_SIZE])
{
    wal_segment_file_name(name, &segment->file, segment_size(run));
}

/* ---- holes ---- */

static bool
is_late(const CheckRun *run, const PlanHole *hole)
{
    return (hole->partial != NULL || hole->temporary != NULL) &&
           run->plan.now - hole->modified < run->config->late_seconds;
}

static bool
tell_unfinished(CheckRun *run, const PlanHole *hole, ArchiveFinding finding, Error *err)
{
    char partial[WAL_SEGMENT_FILE_SIZE];
    const char *file = hole->temporary;

    if (hole->partial != NULL) {
        segment_file_name(run, hole->partial, partial);
        file = partial;
    }
    return tell(run, finding, err,
                "segment \"%s\" is %s (" LSN_FORMAT " to " LSN_FORMAT "): there is only \"%s\"",
                finding.file, archive_finding_name(finding.kind), LSN_ARGS(finding.lsn),
                LSN_ARGS(finding.end), file);
}

static bool
tell_hole(CheckRun *run, const PlanHole *hole, Error *err)
{
    const PlanLine *line = &run->plan.lines[hole->line];
    uint64_t count = hole->last - hole->first + 1;
    char first[WAL_NAME_SIZE];
    char last[WAL_NAME_SIZE];
    ArchiveFinding finding = {.kind = is_late(run, hole) ? ARCHIVE_LATE : ARCHIVE_MISSING,
                              .timeline = line->timeline,
                              .lsn = wal_segment_start(hole->first, segment_size(run)),
                              .end = wal_segment_start(hole->last + 1, segment_size(run)),
                              .file = first,
                              .gap = hole->gap};

    wal_segment_name(first, line->timeline, hole->first, segment_size(run));
    wal_segment_name(last, line->timeline, hole->last, segment_size(run));
    if (hole->partial != NULL || hole->temporary != NULL)
        return tell_unfinished(run, hole, finding, err);
    if (count == 1)
        return tell(run, finding, err,
                    "segment \"%s\" is missing (" LSN_FORMAT " to " LSN_FORMAT ")", first,
                    LSN_ARGS(finding.lsn), LSN_ARGS(finding.end));
    return tell(run, finding, err,
                "%llu segments are missing, \"%s\" to \"%s\" (" LSN_FORMAT " to " LSN_FORMAT ")",
                (unsigned long long)count, first, last, LSN_ARGS(finding.lsn),
                LSN_ARGS(finding.end));
}

/* Those before a place. */
static bool
tell_holes(CheckRun *run, size_t line, uint64_t number, Error *err)
{
    for (; run->next_hole < run->plan.hole_count; run->next_hole++) {
        const PlanHole *hole = &run->plan.holes[run->next_hole];

        if (hole->line > line || (hole->line == line && hole->first > number))
            break;
        if (!tell_hole(run, hole, err))
            return false;
    }
    return true;
}

/* ---- segments ---- */

/* How a finding about one file goes on behind its name. */
static const char *
phrase(ArchiveFindingKind kind)
{
    switch (kind) {
    case ARCHIVE_DAMAGED:
        return "is damaged";
    case ARCHIVE_TRUNCATED:
        return "ends too early";
    case ARCHIVE_FOREIGN:
        return "is of another cluster";
    case ARCHIVE_MISNAMED:
        return "is another one than its name says";
    case ARCHIVE_NO_FILE:
        return "is not what it should be";
    case ARCHIVE_UNREADABLE:
        return "could not be read";
    case ARCHIVE_LATE:
        return "is still being written";
    case ARCHIVE_MISSING:
    case ARCHIVE_FORKED:
    case ARCHIVE_BAD_HISTORY:
    case ARCHIVE_FINDING_STRAY:
    case ARCHIVE_FINDING_LEFT:
        break;
    }
    return "is not sound";
}

/* What is wrong with the segment is known when all of it is in a gap, or the place that is bad. */
static const ArchiveGap *
find_gap(const CheckRun *run, const PlanJob *job, Lsn lsn)
{
    return archive_gaps_find(run->config->gaps, job->segment->file.timeline, lsn, lsn + 1);
}

static bool
tell_about_two(CheckRun *run, const PlanJob *job, const SegmentFinding *found,
               ArchiveFinding finding, Error *err)
{
    char other[WAL_SEGMENT_FILE_SIZE];
    const char *before;

    segment_file_name(run, found->other, other);
    if (found->other->file.number == job->segment->file.number)
        return tell(run, finding, err, "segments \"%s\" and \"%s\" are both there: %s",
                    finding.file, other, found->reason);
    if (found->kind == ARCHIVE_DAMAGED)
        return tell(run, finding, err,
                    "segment \"%s\" or \"%s\" is damaged, in the record that both have a part "
                    "of: %s",
                    finding.file, other, found->reason);
    before = finding.file;
    finding.file = other;
    return tell(run, finding, err, "segment \"%s\" is not what \"%s\" goes on with: %s", other,
                before, found->reason);
}

static bool
tell_history(CheckRun *run, const PlanJob *job, const SegmentFinding *found, Error *err)
{
    char name[WAL_NAME_SIZE];
    ArchiveFinding finding = {.kind = ARCHIVE_BAD_HISTORY,
                              .timeline = job->segment->file.timeline,
                              .lsn = found->lsn,
                              .file = name};

    wal_history_name(name, job->segment->file.timeline);
    return tell(run, finding, err, "timeline history file \"%s\" is wrong: %s", name,
                found->reason);
}

static bool
tell_segment(CheckRun *run, const PlanJob *job, const SegmentFinding *found, Error *err)
{
    char name[WAL_SEGMENT_FILE_SIZE];
    ArchiveFinding finding = {.kind = found->kind,
                              .timeline = job->segment->file.timeline,
                              .lsn = found->lsn,
                              .file = name,
                              .gap = find_gap(run, job, found->lsn)};

    segment_file_name(run, job->segment, name);
    if (found->kind == ARCHIVE_BAD_HISTORY)
        return tell_history(run, job, found, err);
    if (found->other != NULL)
        return tell_about_two(run, job, found, finding, err);
    return tell(run, finding, err, "segment \"%s\" %s: %s", name, phrase(found->kind),
                found->reason);
}

/* A partial or inherited one can be before the fork only when its name or the history is wrong. */
static bool
tell_before_fork(CheckRun *run, const PlanJob *job, Error *err)
{
    const PlanLine *line = &run->plan.lines[job->line];
    char name[WAL_SEGMENT_FILE_SIZE];
    ArchiveFinding finding = {.kind = ARCHIVE_FORKED,
                              .timeline = line->timeline,
                              .lsn =
                                  wal_segment_start(job->segment->file.number, segment_size(run)),
                              .file = name};

    if (line->parent == NO_LINE || job->segment->file.number >= archive_plan_fork(&run->plan, line))
        return true;
    segment_file_name(run, job->segment, name);
    finding.gap = find_gap(run, job, finding.lsn);
    return tell(run, finding, err,
                "segment \"%s\" is before " LSN_FORMAT ", where timeline %u began", name,
                LSN_ARGS(line->fork), line->timeline);
}

/* ---- what the two need ---- */

static int
compare_jobs(const void *a, const void *b)
{
    const ArchiveSegment *segment = ((const PlanJob *)a)->segment;
    const ArchiveSegment *other = ((const PlanJob *)b)->segment;

    return segment < other ? -1 : segment > other;
}

/* The jobs are in the order of the archive's segments. */
static bool
is_sound(const CheckRun *run, const ArchiveSegment *segment)
{
    const PlanJob wanted = {.segment = segment};
    const PlanJob *job =
        bsearch(&wanted, run->plan.jobs, run->plan.job_count, sizeof *run->plan.jobs, compare_jobs);

    return job != NULL && run->results[job - run->plan.jobs].sound;
}

static bool
tell_joints(CheckRun *run, Error *err)
{
    for (size_t i = 0; i < run->plan.job_count; i++) {
        for (size_t j = 0; j < run->results[i].count; j++) {
            const SegmentFinding *found = &run->results[i].findings[j];

            if (found->other != NULL && is_sound(run, found->other) &&
                !tell_segment(run, &run->plan.jobs[i], found, err))
                return false;
        }
    }
    return true;
}

/* ---- the jobs ---- */

static bool
check_job(void *ctx, const WorkSlot *slot, size_t job, Error *err)
{
    CheckRun *run = ctx;
    const SegmentTask task = {
        .plan = &run->plan, .job = &run->plan.jobs[job], .ending = slot->ending};

    return archive_segment_check(&task, &run->results[job], err);
}

static WorkNext
take_job(void *ctx, size_t index, Error *err)
{
    CheckRun *run = ctx;
    const PlanJob *job = &run->plan.jobs[index];
    const SegmentResult *result = &run->results[index];

    if (!tell_holes(run, job->line, job->segment->file.number, err) ||
        !tell_before_fork(run, job, err))
        return WORK_FAILED;
    for (size_t i = 0; i < result->count; i++) {
        if (result->findings[i].other == NULL && !tell_segment(run, job, &result->findings[i], err))
            return WORK_FAILED;
    }
    run->summary.segments++;
    run->summary.bytes += result->bytes;
    run->progress.done += segment_size(run);
    if (run->config->progress != NULL)
        run->config->progress(run->config->ctx, &run->progress);
    return run->enough ? WORK_ENOUGH : WORK_GO_ON;
}

static bool
check_segments(CheckRun *run, Error *err)
{
    const Work work = {
        .count = run->plan.job_count,
        .threads = run->config->jobs != 0 ? run->config->jobs : work_processors(),
        .ctx = run,
        .run = check_job,
        .take = take_job,
        .stop = run->config->stop,
    };

    run->results = mem_zero((run->plan.job_count + 1) * sizeof *run->results, err);
    if (run->results == NULL)
        return false;
    run->progress.total = (uint64_t)run->plan.job_count * segment_size(run);
    if (run->config->progress != NULL && run->plan.job_count > 0)
        run->config->progress(run->config->ctx, &run->progress);
    return work_run(&work, err) && tell_holes(run, NO_LINE, UINT64_MAX, err) &&
           tell_joints(run, err);
}

/* ---- history files ---- */

static void
history_name(const ArchiveHistory *history, char name[WAL_SEGMENT_FILE_SIZE])
{
    char plain[WAL_NAME_SIZE];

    wal_history_name(plain, history->timeline);
    (void)snprintf(name, WAL_SEGMENT_FILE_SIZE, "%s%s", plain,
                   compression_suffix(history->compression));
}

static bool
tell_unsound_history(CheckRun *run, const ArchiveHistory *history, Error *err)
{
    char name[WAL_SEGMENT_FILE_SIZE];
    ArchiveFinding finding = {.kind =
                                  history->unreadable ? ARCHIVE_UNREADABLE : ARCHIVE_BAD_HISTORY,
                              .timeline = history->timeline,
                              .file = name};

    history_name(history, name);
    return tell(run, finding, err, "timeline history file \"%s\" %s: %s", name,
                history->unreadable ? "could not be read" : "is damaged", history->reason);
}

/* Whether it says the same about a timeline as the plan, which has it from that one's own. */
static bool
tell_contradiction(CheckRun *run, const ArchiveHistory *history, size_t index, Error *err)
{
    const TimelineFork *fork = &history->history.forks[index];
    TimeLineID child = index + 1 < history->history.count
                           ? history->history.forks[index + 1].timeline
                           : history->timeline;
    char name[WAL_SEGMENT_FILE_SIZE];
    ArchiveFinding finding = {
        .kind = ARCHIVE_FORKED, .timeline = child, .lsn = fork->end, .file = name};

    for (size_t i = 0; i < run->plan.line_count; i++) {
        const PlanLine *line = &run->plan.lines[i];
        TimeLineID parent = line->parent == NO_LINE ? 0 : run->plan.lines[line->parent].timeline;

        if (line->timeline != child || (parent == fork->timeline && line->fork == fork->end))
            continue;
        history_name(history, name);
        return tell(run, finding, err,
                    "timeline history file \"%s\" lets timeline %u begin at " LSN_FORMAT
                    " of timeline %u, another one at " LSN_FORMAT " of timeline %u",
                    name, child, LSN_ARGS(fork->end), fork->timeline, LSN_ARGS(line->fork), parent);
    }
    return true;
}

static bool
check_histories(CheckRun *run, Error *err)
{
    const Inventory *archive = run->config->archive;

    for (size_t i = 0; i < archive->history_count; i++) {
        const ArchiveHistory *history = &archive->histories[i];

        if (!history->sound && !tell_unsound_history(run, history, err))
            return false;
        for (size_t j = 0; history->sound && j < history->history.count; j++) {
            if (!tell_contradiction(run, history, j, err))
                return false;
        }
    }
    return true;
}

static bool
has_history(const Inventory *archive, TimeLineID timeline)
{
    for (size_t i = 0; i < archive->history_count; i++) {
        if (archive->histories[i].timeline == timeline)
            return true;
    }
    return false;
}

/* Without it recovery does not find the timeline, and stops on an older one. */
static bool
find_missing_histories(CheckRun *run, Error *err)
{
    for (size_t i = 0; i < run->plan.line_count; i++) {
        const PlanLine *line = &run->plan.lines[i];
        char name[WAL_NAME_SIZE];
        ArchiveFinding finding = {
            .kind = ARCHIVE_MISSING, .timeline = line->timeline, .file = name};

        if (line->timeline == 1 || !line->has_segments || !line->relevant ||
            has_history(run->config->archive, line->timeline))
            continue;
        wal_history_name(name, line->timeline);
        if (!tell(run, finding, err,
                  "timeline history file \"%s\" is missing: recovery would not find timeline %u",
                  name, line->timeline))
            return false;
    }
    return true;
}

/* ---- all else ---- */

static bool
tell_others(CheckRun *run, Error *err)
{
    const Inventory *archive = run->config->archive;

    for (size_t i = 0; i < archive->other_count; i++) {
        const ArchiveOther *other = &archive->others[i];
        ArchiveFinding finding = {.kind = ARCHIVE_FINDING_LEFT, .file = other->name};
        bool ok = true;

        if (other->kind == ARCHIVE_STRAY) {
            finding.kind = ARCHIVE_FINDING_STRAY;
            ok = tell(run, finding, err, "\"%s\" is no file of a WAL archive", other->name);
        } else if (other->kind == ARCHIVE_SET_ASIDE) {
            ok = tell(run, finding, err, "\"%s\" was set aside when its place was taken",
                      other->name);
        } else if (other->kind == ARCHIVE_TEMPORARY &&
                   run->plan.now - other->modified >= run->config->late_seconds) {
            ok = tell(run, finding, err, "\"%s\" was left by somebody who did not finish writing",
                      other->name);
        }
        if (!ok)
            return false;
    }
    return true;
}

/* An archive without a single segment holds nothing that could be whole. */
static bool
tell_empty(CheckRun *run, Error *err)
{
    const ArchiveFinding finding = {.kind = ARCHIVE_MISSING, .lsn = run->config->since};

    return run->config->archive->segment_count > 0 ||
           tell(run, finding, err, "there is no WAL segment in \"%s\"",
                run->config->archive->directory);
}

static bool
check(CheckRun *run, Error *err)
{
    return archive_plan_make(&run->plan, run->config, err) && tell_others(run, err) &&
           tell_empty(run, err) && check_histories(run, err) && find_missing_histories(run, err) &&
           check_segments(run, err);
}

bool
archive_check(const ArchiveCheckConfig *config, ArchiveCheckSummary *ret_summary, Error *err)
{
    CheckRun run = {.config = config, .message = BUF_INIT};
    bool ok = check(&run, err);

    for (size_t i = 0; run.results != NULL && i < run.plan.job_count; i++)
        segment_result_free(&run.results[i]);
    free(run.results);
    archive_plan_free(&run.plan);
    buf_free(&run.message);
    if (ok)
        *ret_summary = run.summary;
    return ok;
}
