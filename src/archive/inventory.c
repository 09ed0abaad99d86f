/*
 * What an archive holds, by the names of its files. Only the history files are read, for they say
 * how timelines hang together.
 */
#include <stdlib.h>
#include <string.h>

#include "archive/internal.h"
#include "common/file.h"

/* ---- what an entry is ---- */

static bool
has_suffix(const char *name, const char *suffix)
{
    size_t len = strlen(name);
    size_t suffix_len = strlen(suffix);

    return len > suffix_len && strcmp(name + len - suffix_len, suffix) == 0;
}

/* How a receiver calls what it moved out of its way: "SEGMENT.damaged", or with a number behind. */
static bool
is_set_aside(const char *name, uint32_t segment_size)
{
    const char *middle = strstr(name, ".damaged");
    char segment[WAL_SEGMENT_FILE_SIZE];
    WalSegmentFile file;
    size_t len;

    if (middle == NULL)
        return false;
    len = (size_t)(middle - name);
    if (len >= sizeof segment)
        return false;
    memcpy(segment, name, len);
    segment[len] = '\0';
    return wal_segment_file_parse(segment, segment_size, &file);
}

static ArchiveOtherKind
other_kind(const DirectoryEntry *entry, uint32_t segment_size)
{
    static const char *const temporary[] = {".tmp", ".tmp.gz", ".tmp.lz4", ".tmp.zst"};

    if (!entry->regular)
        return ARCHIVE_STRAY;
    if (strcmp(entry->name, ARCHIVE_GAPS_NAME) == 0)
        return ARCHIVE_KNOWN_GAPS;
    for (size_t i = 0; i < sizeof temporary / sizeof temporary[0]; i++) {
        if (has_suffix(entry->name, temporary[i]))
            return ARCHIVE_TEMPORARY;
    }
    if (segment_size != 0 && is_set_aside(entry->name, segment_size))
        return ARCHIVE_SET_ASIDE;
    return ARCHIVE_STRAY;
}

/* ---- history files ---- */

/* What is wrong with it is a result; memory that there is not is an error. */
static bool
read_history(const char *path, ArchiveHistory *history, Error *why, Error *err)
{
    Buf text = BUF_INIT;

    history->sound =
        archive_file_load(path, history->compression, ARCHIVE_HISTORY_MAX, &text, why) &&
        (text.len > 0 || error_set(why, ERR_FORMAT, "file is empty")) &&
        timeline_history_parse((Span){.data = text.data, .len = text.len}, history->timeline,
                               &history->history, why);
    buf_free(&text);
    history->unreadable = !history->sound && why->code == ERR_SYSTEM;
    if (!history->sound && why->code == ERR_MEMORY) {
        *err = *why;
        return false;
    }
    return true;
}

static bool
load_history(Inventory *archive, const DirectoryEntry *entry, ArchiveHistory *history, Error *err)
{
    Error why = ERROR_INIT;
    char *path;
    bool ok;

    if (!entry->regular) {
        (void)error_set(&why, ERR_FORMAT, "not a regular file");
    } else {
        path = path_join(archive->directory, entry->name, err);
        ok = path != NULL && read_history(path, history, &why, err);
        free(path);
        if (!ok)
            return false;
    }
    if (history->sound)
        return true;
    history->reason = arena_text(&archive->texts, why.message, strlen(why.message), err);
    return history->reason != NULL;
}

/* ---- filling the lists ---- */

typedef struct Capacities {
    size_t segments;
    size_t histories;
    size_t backups;
    size_t others;
} Capacities;

static bool
add_segment(Inventory *archive, Capacities *room, const DirectoryEntry *entry,
            const WalSegmentFile *file, Error *err)
{
    void *array = archive->segments;
    bool ok =
        mem_grow(&array, &room->segments, archive->segment_count + 1, sizeof(ArchiveSegment), err);

    archive->segments = array;
    if (ok)
        archive->segments[archive->segment_count++] = (ArchiveSegment){.file = *file,
                                                                       .bytes = entry->bytes,
                                                                       .modified = entry->modified,
                                                                       .regular = entry->regular};
    return ok;
}

static bool
add_history(Inventory *archive, Capacities *room, const DirectoryEntry *entry,
            const ArchiveHistory *named, Error *err)
{
    void *array = archive->histories;
    ArchiveHistory history = *named;
    bool ok =
        mem_grow(&array, &room->histories, archive->history_count + 1, sizeof(ArchiveHistory), err);

    archive->histories = array;
    history.bytes = entry->bytes;
    history.modified = entry->modified;
    if (!ok || !load_history(archive, entry, &history, err))
        return false;
    archive->histories[archive->history_count++] = history;
    return true;
}

static bool
add_backup(Inventory *archive, Capacities *room, const DirectoryEntry *entry,
           const ArchiveBackup *named, Error *err)
{
    void *array = archive->backups;
    bool ok =
        mem_grow(&array, &room->backups, archive->backup_count + 1, sizeof(ArchiveBackup), err);

    archive->backups = array;
    if (ok) {
        archive->backups[archive->backup_count] = *named;
        archive->backups[archive->backup_count].bytes = entry->bytes;
        archive->backups[archive->backup_count].modified = entry->modified;
        archive->backup_count++;
    }
    return ok;
}

static bool
add_other(Inventory *archive, Capacities *room, const DirectoryEntry *entry, Error *err)
{
    void *array = archive->others;
    bool ok = mem_grow(&array, &room->others, archive->other_count + 1, sizeof(ArchiveOther), err);

    archive->others = array;
    if (ok)
        archive->others[archive->other_count++] =
            (ArchiveOther){.kind = other_kind(entry, archive->segment_size),
                           .name = entry->name,
                           .bytes = entry->bytes,
                           .modified = entry->modified};
    return ok;
}

static bool
add_entry(Inventory *archive, Capacities *room, const DirectoryEntry *entry, Error *err)
{
    ArchiveHistory history = {.timeline = 0};
    ArchiveBackup backup;
    WalSegmentFile file;

    if (archive->segment_size != 0 &&
        wal_segment_file_parse(entry->name, archive->segment_size, &file))
        return add_segment(archive, room, entry, &file, err);
    if (archive_history_parse(entry->name, &history.timeline, &history.compression))
        return add_history(archive, room, entry, &history, err);
    /* With the largest segments every offset is one. */
    if (entry->regular && archive_backup_parse(entry->name,
                                               archive->segment_size == 0 ? WAL_SEGMENT_SIZE_MAX
                                                                          : archive->segment_size,
                                               &backup))
        return add_backup(archive, room, entry, &backup, err);
    return add_other(archive, room, entry, err);
}

static int
compare_segments(const void *a, const void *b)
{
    const WalSegmentFile *file = &((const ArchiveSegment *)a)->file;
    const WalSegmentFile *other = &((const ArchiveSegment *)b)->file;

    if (file->timeline != other->timeline)
        return file->timeline < other->timeline ? -1 : 1;
    if (file->number != other->number)
        return file->number < other->number ? -1 : 1;
    if (file->partial != other->partial)
        return (int)file->partial - (int)other->partial;
    return (int)file->compression - (int)other->compression;
}

/* The entries are in the order of their names: so are all lists but one. */
static bool
fill(Inventory *archive, const DirectoryEntries *entries, Error *err)
{
    Capacities room = {.segments = 0};

    for (size_t i = 0; i < entries->count; i++) {
        if (!add_entry(archive, &room, &entries->entries[i], err))
            return false;
    }
    if (archive->segment_count > 0)
        qsort(archive->segments, archive->segment_count, sizeof *archive->segments,
              compare_segments);
    return true;
}

/* ---- timelines ---- */

static bool
add_timeline(Inventory *archive, size_t *capacity, const ArchiveTimeline *timeline, Error *err)
{
    void *array = archive->timelines;
    bool ok = mem_grow(&array, capacity, archive->timeline_count + 1, sizeof(ArchiveTimeline), err);

    archive->timelines = array;
    if (ok)
        archive->timelines[archive->timeline_count++] = *timeline;
    return ok;
}

/* Segments and history files are both in the order of their timelines. */
static bool
list_timelines(Inventory *archive, Error *err)
{
    size_t capacity = 0;
    size_t history = 0;
    size_t at = 0;

    while (at < archive->segment_count || history < archive->history_count) {
        ArchiveTimeline timeline = {.timeline = UINT32_MAX, .first = at};

        if (at < archive->segment_count)
            timeline.timeline = archive->segments[at].file.timeline;
        if (history < archive->history_count &&
            archive->histories[history].timeline < timeline.timeline)
            timeline.timeline = archive->histories[history].timeline;
        while (at < archive->segment_count &&
               archive->segments[at].file.timeline == timeline.timeline)
            at++;
        timeline.count = at - timeline.first;
        for (; history < archive->history_count &&
               archive->histories[history].timeline == timeline.timeline;
             history++) {
            if (timeline.history == NULL && archive->histories[history].sound)
                timeline.history = &archive->histories[history];
        }
        if (!add_timeline(archive, &capacity, &timeline, err))
            return false;
    }
    return true;
}

/* As a history says it: false when the timeline is not in it. */
static bool
parent_in(const TimelineHistory *history, ArchiveTimeline *timeline)
{
    size_t index = 0;

    while (index < history->count && history->forks[index].timeline != timeline->timeline)
        index++;
    if (index == history->count && history->timeline != timeline->timeline)
        return false;
    if (index > 0) {
        timeline->parent = history->forks[index - 1].timeline;
        timeline->fork = history->forks[index - 1].end;
    }
    return true;
}

void
inventory_find_parent(const Inventory *archive, ArchiveTimeline *timeline)
{
    bool found = timeline->history != NULL && parent_in(&timeline->history->history, timeline);

    for (size_t i = 0; i < archive->history_count && !found; i++)
        found = archive->histories[i].sound && parent_in(&archive->histories[i].history, timeline);
}

/* ---- the whole ---- */

static bool
read_archive(Inventory *archive, DirectoryEntries *entries, const char *directory, Error *err)
{
    ArchiveIdentity identity;

    archive->directory = arena_text(&archive->texts, directory, strlen(directory), err);
    if (archive->directory == NULL ||
        !directory_entries_read(entries, directory, &archive->texts, err) ||
        !archive_identity_find(directory, entries, &identity, err))
        return false;
    archive->segment_size = identity.segment_size;
    archive->system_id = identity.system_id;
    if (!fill(archive, entries, err) || !list_timelines(archive, err))
        return false;
    for (size_t i = 0; i < archive->timeline_count; i++)
        inventory_find_parent(archive, &archive->timelines[i]);
    return true;
}

bool
inventory_read(Inventory *archive, const char *directory, Error *err)
{
    DirectoryEntries entries = {.entries = NULL};
    bool ok;

    *archive = (Inventory){.texts = ARENA_INIT};
    ok = read_archive(archive, &entries, directory, err);
    directory_entries_free(&entries);
    return ok;
}

void
inventory_free(Inventory *archive)
{
    for (size_t i = 0; i < archive->history_count; i++) {
        if (archive->histories[i].sound)
            timeline_history_free(&archive->histories[i].history);
    }
    free(archive->segments);
    free(archive->histories);
    free(archive->backups);
    free(archive->others);
    free(archive->timelines);
    arena_free(&archive->texts);
    *archive = (Inventory){.texts = ARENA_INIT};
}

/* ---- looking up ---- */

const ArchiveTimeline *
inventory_timeline(const Inventory *archive, TimeLineID timeline)
{
    for (size_t i = 0; i < archive->timeline_count; i++) {
        if (archive->timelines[i].timeline == timeline)
            return &archive->timelines[i];
    }
    return NULL;
}

static bool
is_before(const ArchiveSegment *segment, TimeLineID timeline, uint64_t number)
{
    if (segment->file.timeline != timeline)
        return segment->file.timeline < timeline;
    return segment->file.number < number;
}

const ArchiveSegment *
inventory_segment(const Inventory *archive, TimeLineID timeline, uint64_t number, size_t *ret_count)
{
    size_t low = 0;
    size_t high = archive->segment_count;
    size_t end;

    while (low < high) {
        size_t middle = low + (high - low) / 2;

        if (is_before(&archive->segments[middle], timeline, number))
            low = middle + 1;
        else
            high = middle;
    }
    for (end = low; end < archive->segment_count; end++) {
        const WalSegmentFile *file = &archive->segments[end].file;

        if (file->timeline != timeline || file->number != number)
            break;
    }
    *ret_count = end - low;
    return end == low ? NULL : &archive->segments[low];
}
