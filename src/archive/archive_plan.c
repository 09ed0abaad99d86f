/*
 * What must be in an archive.
 *
 * Nobody can say where an archive has to begin: old WAL is removed at some time. It begins where it
 * does. From there on each timeline must be without a hole up to its newest segment, and a timeline
 * that another one has forked off from must reach up to the segment of the fork, which the new
 * timeline has a copy of. What an old timeline has beyond that is welcome and not needed.
 *
 * All of this is reckoned in intervals: the number of a single stray segment may be astronomical.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "archive/internal.h"
#include "common/file.h"

/* Of so many missing segments it is seen whether they have come meanwhile. */
#define LOOKED_AGAIN 64

static uint32_t
segment_size(const ArchivePlan *plan)
{
    return plan->config->archive->segment_size;
}

static uint64_t
since_number(const ArchivePlan *plan)
{
    return wal_segment_number(plan->config->since, segment_size(plan));
}

uint64_t
archive_plan_fork(const ArchivePlan *plan, const PlanLine *line)
{
    return line->parent == NO_LINE ? 0 : wal_segment_number(line->fork, segment_size(plan));
}

/* ---- lines ---- */

static size_t
find_line(const ArchivePlan *plan, TimeLineID timeline)
{
    for (size_t i = 0; i < plan->line_count; i++) {
        if (plan->lines[i].timeline == timeline)
            return i;
    }
    return NO_LINE;
}

static bool
add_line(ArchivePlan *plan, TimeLineID timeline, Error *err)
{
    void *array = plan->lines;
    bool ok;

    if (find_line(plan, timeline) != NO_LINE)
        return true;
    ok = mem_grow(&array, &plan->line_capacity, plan->line_count + 1, sizeof(PlanLine), err);
    plan->lines = array;
    if (ok)
        plan->lines[plan->line_count++] = (PlanLine){.timeline = timeline, .parent = NO_LINE};
    return ok;
}

static int
compare_lines(const void *a, const void *b)
{
    const PlanLine *line = a;
    const PlanLine *other = b;

    return line->timeline < other->timeline ? -1 : line->timeline > other->timeline;
}

static bool
add_lines(ArchivePlan *plan, Error *err)
{
    const Inventory *archive = plan->config->archive;

    for (size_t i = 0; i < archive->timeline_count; i++) {
        if (!add_line(plan, archive->timelines[i].timeline, err))
            return false;
    }
    for (size_t i = 0; i < archive->history_count; i++) {
        const ArchiveHistory *history = &archive->histories[i];

        for (size_t j = 0; history->sound && j < history->history.count; j++) {
            if (!add_line(plan, history->history.forks[j].timeline, err))
                return false;
        }
    }
    if (plan->line_count > 0)
        qsort(plan->lines, plan->line_count, sizeof *plan->lines, compare_lines);
    return true;
}

/* As the first history says that has this timeline. */
static void
find_parent(ArchivePlan *plan, PlanLine *line)
{
    const Inventory *archive = plan->config->archive;
    ArchiveTimeline self = {.timeline = line->timeline};

    if (line->held != NULL)
        self = *line->held;
    else
        inventory_find_parent(archive, &self);
    if (self.parent == 0)
        return;
    line->parent = find_line(plan, self.parent);
    line->fork = self.fork;
}

static void
measure_line(const ArchivePlan *plan, PlanLine *line)
{
    const Inventory *archive = plan->config->archive;

    for (size_t i = 0; line->held != NULL && i < line->held->count; i++) {
        const ArchiveSegment *segment = &archive->segments[line->held->first + i];

        if (!line->has_segments)
            line->first = segment->file.number;
        line->has_segments = true;
        line->last = segment->file.number;
        if (segment->regular && !segment->file.partial)
            line->behind_complete = segment->file.number + 1;
    }
}

static bool
is_relevant(const ArchivePlan *plan, const PlanLine *line)
{
    TimeLineID wanted = plan->config->since_timeline;

    if (wanted == 0 || line->timeline == wanted)
        return true;
    return line->parent != NO_LINE && plan->lines[line->parent].relevant &&
           line->fork >= plan->config->since;
}

/* It is known where the timeline begins. */
static bool
has_known_root(const ArchivePlan *plan, const PlanLine *line)
{
    while (line->parent != NO_LINE)
        line = &plan->lines[line->parent];
    return line->timeline == 1 || line->timeline == plan->config->since_timeline ||
           (line->held != NULL && line->held->history != NULL);
}

/* Parents come before their children. */
static void
find_floor(const ArchivePlan *plan, PlanLine *line)
{
    const PlanLine *parent = line->parent == NO_LINE ? NULL : &plan->lines[line->parent];

    line->has_floor = line->has_segments;
    line->floor = line->first;
    if (plan->config->since != LSN_INVALID) {
        if (has_known_root(plan, line))
            line->has_floor = true;
        if (line->floor < since_number(plan) || has_known_root(plan, line))
            line->floor = since_number(plan);
    } else if (parent != NULL && parent->has_floor &&
               parent->floor <= archive_plan_fork(plan, line) &&
               (!line->has_segments || parent->floor < line->floor)) {
        line->has_floor = true;
        line->floor = parent->floor;
    }
}

/* Up to the line's last segment and, for its children, to their forks. Children come first. */
static void
find_need(ArchivePlan *plan, PlanLine *line)
{
    const uint64_t fork = archive_plan_fork(plan, line);
    PlanLine *parent = line->parent == NO_LINE ? NULL : &plan->lines[line->parent];

    line->need_first = line->floor > fork ? line->floor : fork;
    if (line->has_segments && (!line->needed || line->need_last < line->last))
        line->need_last = line->last;
    line->needed = line->needed || line->has_segments;
    if (parent == NULL || !line->needed || fork == 0 || !parent->has_floor ||
        parent->floor > fork - 1)
        return;
    if (!parent->needed || parent->need_last < fork - 1)
        parent->need_last = fork - 1;
    if (parent->need_complete < fork)
        parent->need_complete = fork;
    parent->needed = true;
}

/* Something must be there of what is asked for. */
static void
need_since(ArchivePlan *plan)
{
    const ArchiveCheckConfig *config = plan->config;
    PlanLine *newest = NULL;

    if (config->since == LSN_INVALID)
        return;
    for (size_t i = 0; i < plan->line_count; i++) {
        PlanLine *line = &plan->lines[i];
        bool reaches = line->has_segments && line->last >= since_number(plan);

        if (line->relevant && reaches)
            return;
        if (line->relevant && (newest == NULL || line->has_segments))
            newest = line;
    }
    if (newest == NULL)
        return;
    newest->needed = true;
    newest->has_floor = true;
    newest->need_first = since_number(plan);
    newest->need_last = since_number(plan);
}

static bool
make_lines(ArchivePlan *plan, Error *err)
{
    if (!add_lines(plan, err) ||
        (plan->config->since_timeline != 0 && !add_line(plan, plan->config->since_timeline, err)))
        return false;
    if (plan->line_count > 0)
        qsort(plan->lines, plan->line_count, sizeof *plan->lines, compare_lines);
    for (size_t i = 0; i < plan->line_count; i++) {
        PlanLine *line = &plan->lines[i];

        line->held = inventory_timeline(plan->config->archive, line->timeline);
        find_parent(plan, line);
        measure_line(plan, line);
        line->relevant = is_relevant(plan, line);
        find_floor(plan, line);
    }
    for (size_t i = plan->line_count; i > 0; i--)
        find_need(plan, &plan->lines[i - 1]);
    need_since(plan);
    return true;
}

/* ---- holes ---- */

static bool
add_hole(ArchivePlan *plan, const PlanHole *hole, Error *err)
{
    void *array = plan->holes;
    bool ok = mem_grow(&array, &plan->hole_capacity, plan->hole_count + 1, sizeof *hole, err);

    plan->holes = array;
    if (ok)
        plan->holes[plan->hole_count++] = *hole;
    return ok;
}

/* The known gap that a segment is in and the last one that is in it too; without a gap, the last
 * one before the next. */
static const ArchiveGap *
gap_at(const ArchivePlan *plan, const PlanLine *line, uint64_t number, uint64_t *last)
{
    const ArchiveGaps *gaps = plan->config->gaps;
    const uint32_t size = segment_size(plan);

    for (size_t i = 0; gaps != NULL && i < gaps->count; i++) {
        const ArchiveGap *gap = &gaps->gaps[i];
        uint64_t first = gap->start / size + (gap->start % size != 0);
        uint64_t behind = gap->end / size;

        if ((gap->timeline != 0 && gap->timeline != line->timeline) || behind <= first)
            continue;
        if (number >= first && number < behind) {
            if (*last >= behind)
                *last = behind - 1;
            return gap;
        }
        if (number < first && *last >= first)
            *last = first - 1;
    }
    return NULL;
}

static bool
add_missing(ArchivePlan *plan, size_t line, uint64_t first, uint64_t last, Error *err)
{
    while (first <= last) {
        PlanHole hole = {.line = line, .first = first, .last = last};

        hole.gap = gap_at(plan, &plan->lines[line], first, &hole.last);
        if (!add_hole(plan, &hole, err))
            return false;
        first = hole.last + 1;
    }
    return true;
}

/* Under any name that a complete segment may have. */
static bool
is_there_now(const ArchivePlan *plan, const PlanLine *line, uint64_t number, bool *ret_there,
             Error *err)
{
    static const CompressionMethod methods[] = {COMPRESSION_NONE, COMPRESSION_GZIP, COMPRESSION_LZ4,
                                                COMPRESSION_ZSTD};

    *ret_there = false;
    for (size_t i = 0; i < sizeof methods / sizeof methods[0] && !*ret_there; i++) {
        const WalSegmentFile file = {
            .timeline = line->timeline, .number = number, .compression = methods[i]};
        char name[WAL_SEGMENT_FILE_SIZE];
        char *path;

        wal_segment_file_name(name, &file, segment_size(plan));
        path = path_join(plan->config->archive->directory, name, err);
        if (path == NULL)
            return false;
        *ret_there = access(path, F_OK) == 0;
        free(path);
    }
    return true;
}

/* A temporary file that this segment is being written to; NULL: there is none. */
static const ArchiveOther *
find_temporary(const ArchivePlan *plan, const PlanLine *line, uint64_t number)
{
    const Inventory *archive = plan->config->archive;
    char name[WAL_NAME_SIZE];

    wal_segment_name(name, line->timeline, number, segment_size(plan));
    for (size_t i = 0; i < archive->other_count; i++) {
        if (archive->others[i].kind == ARCHIVE_TEMPORARY &&
            strncmp(archive->others[i].name, name, strlen(name)) == 0)
            return &archive->others[i];
    }
    return NULL;
}

/* One missing segment: it may have come since the directory was read, or be about to. */
static bool
add_one(ArchivePlan *plan, size_t line, uint64_t number, Error *err)
{
    PlanHole hole = {.line = line, .first = number, .last = number};
    const ArchiveOther *temporary = find_temporary(plan, &plan->lines[line], number);
    bool there;

    if (!is_there_now(plan, &plan->lines[line], number, &there, err))
        return false;
    if (there)
        return true;
    if (temporary == NULL)
        return add_missing(plan, line, number, number, err);
    hole.temporary = temporary->name;
    hole.modified = temporary->modified;
    hole.gap = gap_at(plan, &plan->lines[line], number, &hole.last);
    return add_hole(plan, &hole, err);
}

/* What can be one hole is one. */
static void
join_holes(ArchivePlan *plan, size_t from)
{
    size_t kept = from;

    for (size_t i = from; i < plan->hole_count; i++) {
        PlanHole *hole = &plan->holes[i];
        PlanHole *before = kept > from ? &plan->holes[kept - 1] : NULL;

        if (before != NULL && before->last + 1 == hole->first && before->gap == hole->gap &&
            before->temporary == NULL && hole->temporary == NULL)
            before->last = hole->last;
        else
            plan->holes[kept++] = *hole;
    }
    plan->hole_count = kept;
}

static bool
add_interval(ArchivePlan *plan, size_t line, uint64_t first, uint64_t last, Error *err)
{
    size_t from = plan->hole_count;

    if (last - first >= LOOKED_AGAIN)
        return add_missing(plan, line, first, last, err);
    for (uint64_t number = first; number <= last; number++) {
        if (!add_one(plan, line, number, err))
            return false;
    }
    join_holes(plan, from);
    return true;
}

/* All forms of a segment are there, but is it? */
static bool
add_if_partial(ArchivePlan *plan, size_t index, const ArchiveSegment *best, Error *err)
{
    const PlanLine *line = &plan->lines[index];
    uint64_t number = best->file.number;
    PlanHole hole = {.line = index, .first = number, .last = number, .partial = best};
    bool at_end = number >= line->behind_complete && number >= line->need_complete;

    if (!best->file.partial || !best->regular || at_end)
        return true;
    hole.modified = best->modified;
    hole.gap = gap_at(plan, line, number, &hole.last);
    return add_hole(plan, &hole, err);
}

static bool
find_holes(ArchivePlan *plan, size_t index, Error *err)
{
    const PlanLine *line = &plan->lines[index];
    const Inventory *archive = plan->config->archive;
    size_t count = line->held == NULL ? 0 : line->held->count;
    uint64_t next = line->need_first;

    if (!line->needed || !line->relevant)
        return true;
    for (size_t i = 0; i < count && next <= line->need_last; i++) {
        const ArchiveSegment *segment = &archive->segments[line->held->first + i];
        uint64_t number = segment->file.number;

        if (number < next)
            continue;
        if (number > line->need_last)
            break;
        if ((number > next && !add_interval(plan, index, next, number - 1, err)) ||
            !add_if_partial(plan, index, segment, err))
            return false;
        next = number + 1;
    }
    return next > line->need_last || add_interval(plan, index, next, line->need_last, err);
}

/* ---- jobs ---- */

static bool
add_job(ArchivePlan *plan, const PlanJob *job, Error *err)
{
    void *array = plan->jobs;
    bool ok = mem_grow(&array, &plan->job_capacity, plan->job_count + 1, sizeof *job, err);

    plan->jobs = array;
    if (ok)
        plan->jobs[plan->job_count++] = *job;
    return ok;
}

/* A partial file beside a complete one of the same segment does not count any more. */
static bool
add_jobs(ArchivePlan *plan, size_t index, Error *err)
{
    const PlanLine *line = &plan->lines[index];
    const Inventory *archive = plan->config->archive;
    size_t count = line->held == NULL ? 0 : line->held->count;
    const ArchiveSegment *first = NULL; /* complete, of this number */

    for (size_t i = 0; i < count && line->relevant; i++) {
        const ArchiveSegment *segment = &archive->segments[line->held->first + i];
        PlanJob job = {.line = index, .segment = segment};

        if (plan->config->since != LSN_INVALID && segment->file.number < since_number(plan))
            continue;
        if (first != NULL && first->file.number == segment->file.number) {
            if (segment->file.partial)
                continue;
            job.twin = first;
        } else {
            first = NULL;
        }
        if (!add_job(plan, &job, err))
            return false;
        if (first == NULL && segment->regular && !segment->file.partial)
            first = segment;
    }
    return true;
}

/* ---- the whole ---- */

const ArchiveSegment *
archive_plan_complete(const ArchivePlan *plan, const PlanLine *line, uint64_t number)
{
    size_t count;
    const ArchiveSegment *forms =
        inventory_segment(plan->config->archive, line->timeline, number, &count);

    for (size_t i = 0; i < count; i++) {
        if (forms[i].regular && !forms[i].file.partial)
            return &forms[i];
    }
    return NULL;
}

bool
archive_plan_make(ArchivePlan *plan, const ArchiveCheckConfig *config, Error *err)
{
    *plan = (ArchivePlan){.config = config, .now = (int64_t)time(NULL)};
    if (config->archive->segment_size == 0)
        return true;
    if (!make_lines(plan, err))
        return false;
    for (size_t i = 0; i < plan->line_count; i++) {
        if (!find_holes(plan, i, err) || !add_jobs(plan, i, err))
            return false;
    }
    return true;
}

void
archive_plan_free(ArchivePlan *plan)
{
    free(plan->lines);
    free(plan->holes);
    free(plan->jobs);
    *plan = (ArchivePlan){.config = NULL};
}
