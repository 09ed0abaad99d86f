/*
 * What of an archive nobody needs any more.
 *
 * Recovery begins somewhere and goes on over any timeline that branches off behind that place, so
 * whatever lies behind it may be wanted: positions decide. Timelines matter for what lies before:
 *
 *     timeline 1  ------+------B---->      B: the only backup that was named
 *     timeline 2        +----------->
 *
 * Numbers of timelines grow with time, so a backup on timeline 2 may be younger than B and begin
 * before it. Unless a backup was named that is on timeline 2, or on one that descends from it,
 * nobody knows, and all of timeline 2 stays.
 */
#include <stdlib.h>
#include <string.h>

#include "archive/archive.h"
#include "common/file.h"

typedef struct Planner {
    PrunePlan *plan;
    size_t capacity;
    const Inventory *archive;
    const PruneNeed *needs;
    size_t need_count;
    TimeLineID oldest; /* of all timelines that stay; the decision about histories comes last */
} Planner;

bool
prune_goes(const PruneFile *file)
{
    return file->reason == PRUNE_OLD || file->reason == PRUNE_DEAD_TIMELINE;
}

/* ---- positions and timelines ---- */

static bool
is_open(const PruneNeed *need)
{
    return need->end == LSN_INVALID;
}

static bool
needs_position(const PruneNeed *need, uint64_t number, uint32_t segment_size)
{
    return number >= wal_segment_number(need->start, segment_size) &&
           (is_open(need) || number <= wal_segment_number(need->end - 1, segment_size));
}

/* Whether `timeline` is `descendant` or one of its ancestors, as the archive knows it. */
static bool
leads_to(const Inventory *archive, TimeLineID timeline, TimeLineID descendant)
{
    const ArchiveTimeline *found = inventory_timeline(archive, descendant);
    TimeLineID next;
    Lsn end;

    if (timeline == descendant)
        return true;
    return found != NULL && found->history != NULL &&
           timeline_history_find(&found->history->history, timeline, &end, &next);
}

/* One that somebody has named a backup of: its beginning says what is not needed. */
static bool
is_named_branch(const Planner *planner, TimeLineID timeline)
{
    for (size_t i = 0; i < planner->need_count; i++) {
        const PruneNeed *need = &planner->needs[i];

        if (is_open(need) && need->timeline != 0 &&
            leads_to(planner->archive, timeline, need->timeline))
            return true;
    }
    return false;
}

/* The need that may have backups of others on this timeline; NULL: none. */
static const PruneNeed *
other_branch(const Planner *planner, TimeLineID timeline)
{
    for (size_t i = 0; i < planner->need_count; i++) {
        const PruneNeed *need = &planner->needs[i];

        if (is_open(need) && need->timeline != 0 && timeline > need->timeline)
            return is_named_branch(planner, timeline) ? NULL : need;
    }
    return NULL;
}

static PruneReason
decide(const Planner *planner, TimeLineID timeline, uint64_t number, const PruneNeed **ret_need)
{
    for (size_t i = 0; i < planner->need_count; i++) {
        *ret_need = &planner->needs[i];
        if (needs_position(*ret_need, number, planner->archive->segment_size))
            return PRUNE_NEEDED;
    }
    *ret_need = other_branch(planner, timeline);
    return *ret_need == NULL ? PRUNE_OLD : PRUNE_OTHER_BRANCH;
}

/* ---- the list ---- */

static bool
add(Planner *planner, const PruneFile *file, Error *err)
{
    PrunePlan *plan = planner->plan;
    void *array = plan->files;
    bool ok = mem_grow(&array, &planner->capacity, plan->count + 1, sizeof *plan->files, err);

    plan->files = array;
    if (ok)
        plan->files[plan->count++] = *file;
    return ok;
}

/* By what it is a file of: oldest timeline among those that stay. */
static void
note_timeline(Planner *planner, TimeLineID timeline)
{
    if (timeline != 0 && timeline < planner->oldest)
        planner->oldest = timeline;
}

static bool
add_segments(Planner *planner, Error *err)
{
    const Inventory *archive = planner->archive;

    for (size_t i = 0; i < archive->segment_count; i++) {
        const ArchiveSegment *segment = &archive->segments[i];
        char name[WAL_SEGMENT_FILE_SIZE];
        PruneFile file = {.kind = PRUNE_SEGMENT,
                          .timeline = segment->file.timeline,
                          .number = segment->file.number,
                          .bytes = segment->bytes};

        wal_segment_file_name(name, &segment->file, archive->segment_size);
        file.name = arena_text(&planner->plan->names, name, strlen(name), err);
        file.reason = decide(planner, file.timeline, file.number, &file.need);
        if (!segment->regular)
            file.reason = PRUNE_NOT_A_FILE;
        else if (!prune_goes(&file))
            note_timeline(planner, file.timeline);
        if (file.name == NULL || !add(planner, &file, err))
            return false;
    }
    return true;
}

static bool
add_backups(Planner *planner, Error *err)
{
    const Inventory *archive = planner->archive;

    for (size_t i = 0; i < archive->backup_count; i++) {
        const ArchiveBackup *backup = &archive->backups[i];
        PruneFile file = {.name = backup->name,
                          .kind = PRUNE_BACKUP,
                          .timeline = backup->timeline,
                          .number = backup->number,
                          .bytes = backup->bytes};

        file.reason = decide(planner, file.timeline, file.number, &file.need);
        if (!add(planner, &file, err))
            return false;
    }
    return true;
}

static bool
add_others(Planner *planner, Error *err)
{
    static const PruneReason reasons[] = {
        [ARCHIVE_KNOWN_GAPS] = PRUNE_OURS,
        [ARCHIVE_SET_ASIDE] = PRUNE_OURS,
        [ARCHIVE_TEMPORARY] = PRUNE_TEMPORARY,
        [ARCHIVE_STRAY] = PRUNE_STRAY,
    };

    for (size_t i = 0; i < planner->archive->other_count; i++) {
        const ArchiveOther *other = &planner->archive->others[i];
        PruneFile file = {.name = other->name,
                          .kind = PRUNE_OTHER,
                          .reason = reasons[other->kind],
                          .bytes = other->bytes};

        if (!add(planner, &file, err))
            return false;
    }
    return true;
}

/* ---- timeline history files ---- */

/* Whether a timeline that stays descends from this one, or may do so. */
static bool
has_descendant(const Planner *planner, TimeLineID timeline)
{
    const PrunePlan *plan = planner->plan;
    TimeLineID last = 0;

    for (size_t i = 0; i < plan->count; i++) {
        const PruneFile *file = &plan->files[i];

        if (file->kind != PRUNE_SEGMENT || prune_goes(file) || file->timeline == last)
            continue;
        last = file->timeline;
        if (leads_to(planner->archive, timeline, last) ||
            inventory_timeline(planner->archive, last)->history == NULL)
            return true;
    }
    return false;
}

/*
 * A server that looks for the newest timeline asks for one number after the other until there is
 * none, so from the oldest timeline on that stays no history may be missing.
 */
static bool
history_stays(const Planner *planner, TimeLineID timeline)
{
    if (timeline >= planner->oldest || has_descendant(planner, timeline))
        return true;
    for (size_t i = 0; i < planner->need_count; i++) {
        TimeLineID needed = planner->needs[i].timeline;

        if (needed != 0 && leads_to(planner->archive, timeline, needed))
            return true;
    }
    return false;
}

static bool
add_histories(Planner *planner, Error *err)
{
    const Inventory *archive = planner->archive;

    for (size_t i = 0; i < archive->history_count; i++) {
        const ArchiveHistory *history = &archive->histories[i];
        char name[WAL_NAME_SIZE + sizeof ".lz4"];
        PruneFile file = {.kind = PRUNE_TIMELINE,
                          .reason = PRUNE_HISTORY,
                          .timeline = history->timeline,
                          .bytes = history->bytes};

        wal_history_name(name, history->timeline);
        memcpy(name + strlen(name), compression_suffix(history->compression),
               strlen(compression_suffix(history->compression)) + 1);
        file.name = arena_text(&planner->plan->names, name, strlen(name), err);
        if (!history_stays(planner, history->timeline))
            file.reason = PRUNE_DEAD_TIMELINE;
        if (file.name == NULL || !add(planner, &file, err))
            return false;
    }
    return true;
}

/* ---- what is refused ---- */

static bool
check_need(const Inventory *archive, const PruneNeed *need, Error *err)
{
    for (size_t i = 0; i < archive->segment_count; i++) {
        if (archive->segments[i].regular &&
            needs_position(need, archive->segments[i].file.number, archive->segment_size))
            return true;
    }
    (void)error_set(err, ERR_USAGE,
                    "archive \"%s\" has no WAL at or behind " LSN_FORMAT ", which is needed by %s",
                    archive->directory, LSN_ARGS(need->start), need->what);
    return error_hint(err, "Nothing of the archive would be left: check that it is the right one.");
}

static bool
check_needs(const Planner *planner, Error *err)
{
    bool open = false;

    for (size_t i = 0; i < planner->need_count; i++) {
        const PruneNeed *need = &planner->needs[i];

        open = open || is_open(need);
        if (is_open(need) && planner->archive->segment_count > 0 &&
            !check_need(planner->archive, need, err))
            return false;
    }
    return open || error_set(err, ERR_USAGE, "nothing says from where on all WAL is needed");
}

/* ---- the plan ---- */

static int
compare_files(const void *a, const void *b)
{
    const PruneFile *file = a;
    const PruneFile *other = b;

    if (file->kind != other->kind)
        return (int)file->kind - (int)other->kind;
    if (file->number != other->number)
        return file->number < other->number ? -1 : 1;
    return strcmp(file->name, other->name);
}

bool
prune_plan_make(PrunePlan *plan, const Inventory *archive, const PruneNeed *needs,
                size_t need_count, Error *err)
{
    Planner planner = {.plan = plan,
                       .archive = archive,
                       .needs = needs,
                       .need_count = need_count,
                       .oldest = UINT32_MAX};

    *plan = (PrunePlan){.names = ARENA_INIT};
    if (!check_needs(&planner, err))
        return false;
    for (size_t i = 0; i < need_count; i++)
        note_timeline(&planner, needs[i].timeline);
    if (!add_segments(&planner, err) || !add_backups(&planner, err) ||
        !add_histories(&planner, err) || !add_others(&planner, err))
        return false;
    if (plan->count > 0)
        qsort(plan->files, plan->count, sizeof *plan->files, compare_files);
    return true;
}

void
prune_plan_free(PrunePlan *plan)
{
    free(plan->files);
    arena_free(&plan->names);
    *plan = (PrunePlan){.names = ARENA_INIT};
}

bool
prune_execute(const PrunePlan *plan, const char *directory, Error *err)
{
    ArchiveNames names = {.names = NULL};
    bool ok = true;

    for (size_t i = 0; ok && i < plan->count; i++) {
        if (prune_goes(&plan->files[i]))
            ok = archive_names_add(&names, plan->files[i].name, err);
    }
    ok = ok && archive_remove(directory, &names, NULL, NULL, err);
    archive_names_free(&names);
    return ok;
}

/* ---- days ---- */

bool
prune_recent(const Inventory *archive, int64_t since, PruneNeed *ret_need)
{
    uint64_t oldest = UINT64_MAX;

    for (size_t i = 0; i < archive->segment_count; i++) {
        const ArchiveSegment *segment = &archive->segments[i];

        if (segment->modified >= since && segment->file.number < oldest)
            oldest = segment->file.number;
    }
    if (oldest == UINT64_MAX)
        return false;
    *ret_need = (PruneNeed){.start = wal_segment_start(oldest, archive->segment_size)};
    return true;
}

const ArchiveBackup *
prune_backup_before(const Inventory *archive, int64_t since)
{
    const ArchiveBackup *newest = NULL;

    for (size_t i = 0; i < archive->backup_count; i++) {
        const ArchiveBackup *backup = &archive->backups[i];

        if (backup->modified < since && (newest == NULL || backup->modified > newest->modified))
            newest = backup;
    }
    return newest;
}
