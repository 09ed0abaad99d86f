/*
 * Where an archive ends, and where streaming goes on.
 *
 *     base   the newest complete segment, of those that are sound
 *     run    the partial segments that follow it, one behind the other on one timeline
 *
 * Mostly the run is one segment long. After a crash it may be longer: segments get their names, or
 * are compressed, some time after they are full. Its timeline is that of the newest partial segment
 * when the run leads down from there to a complete one. When it does not, something is missing in
 * between, or a timeline ended in it: then the run is what follows the base, up to the gap.
 *
 * Names decide what is looked at, contents what it is worth. Only the newest files are read: from
 * the newest complete one on down to the first that is sound, and those of the run.
 */
#include <stdlib.h>

#include "common/file.h"
#include "walrecv/internal.h"

typedef struct Finder {
    const WalResumeConfig *config;
    SegmentPlace place;
    SegmentList list;
    const WalSegmentFile *base; /* NULL: no complete segment is sound */
    WalSegmentFile base_file;

    /* ---- the run ---- */
    TimeLineID timeline;
    uint64_t first;     /* where streaming goes on */
    uint64_t run_count; /* of segments; 0: there are none */
    SegmentGood *goods; /* what they are worth, up to the first that is not whole */
    size_t good_count;
    size_t good_capacity;
    Lsn end;
} Finder;

/* ---- what counts ---- */

/* Written by a server that another one was promoted behind: no WAL of ours follows on it. */
static bool
is_stray(const Finder *finder, const WalSegmentFile *file)
{
    const uint32_t size = finder->place.segment_size;
    const Lsn start = wal_segment_start(file->number, size);
    TimeLineID next;
    Lsn end;

    if (!timeline_history_find(finder->config->history, file->timeline, &end, &next) || next == 0)
        return false;
    return file->partial ? start >= end : start > end || end - start < size;
}

static void
drop_strays(Finder *finder)
{
    SegmentList *list = &finder->list;
    size_t strays = 0;

    for (size_t i = 0; i < list->count; i++)
        strays += is_stray(finder, &list->files[i]);
    if (strays == 0 || strays == list->count)
        return;
    for (size_t i = 0; i < list->count; i++) {
        if (is_stray(finder, &list->files[i]))
            list->files[i].timeline = 0;
    }
    segment_list_drop(list);
}

/* ---- the base ---- */

static uint64_t
last_of_all(const Finder *finder)
{
    return wal_segment_number(UINT64_MAX, finder->place.segment_size);
}

static bool
tell_skipped(const Finder *finder, const WalSegmentFile *file, const char *reason, Error *err)
{
    char name[WAL_SEGMENT_FILE_SIZE];
    char *path;

    if (finder->config->skipped == NULL)
        return true;
    wal_segment_file_name(name, file, finder->place.segment_size);
    path = path_join(finder->place.directory, name, err);
    if (path == NULL)
        return false;
    finder->config->skipped(finder->config->ctx, path, reason);
    free(path);
    return true;
}

/* One that has been removed since the directory was read (old WAL is, at any time) was never
 * there. */
static bool
check_complete(const Finder *finder, WalSegmentFile *file, bool *ret_sound, Error *err)
{
    Error odd = ERROR_INIT;

    *ret_sound = segment_check_complete(&finder->place, file, &odd);
    if (*ret_sound)
        return true;
    if (!segment_is_odd(&odd)) {
        *err = odd;
        return false;
    }
    if (odd.code == ERR_FORMAT)
        return tell_skipped(finder, file, odd.message, err);
    file->timeline = 0;
    return true;
}

static bool
find_base(Finder *finder, Error *err)
{
    for (size_t i = 0; i < finder->list.count && finder->base == NULL; i++) {
        WalSegmentFile *file = &finder->list.files[i];
        bool sound;

        if (file->partial)
            continue;
        if (file->number == last_of_all(finder))
            return error_set(err, ERR_FORMAT,
                             "the newest segment in directory \"%s\" is the last one that there "
                             "can be",
                             finder->place.directory);
        if (!check_complete(finder, file, &sound, err))
            return false;
        if (sound) {
            finder->base_file = *file;
            finder->base = &finder->base_file;
        }
    }
    segment_list_drop(&finder->list);
    return true;
}

/* ---- the run, by names ---- */

static bool
follows_base(const Finder *finder, uint64_t number, TimeLineID timeline)
{
    const WalSegmentFile *base = finder->base;

    if (base == NULL || number != base->number)
        return base == NULL || number > base->number;
    return timeline > base->timeline;
}

/* NULL: what there is is old. */
static const WalSegmentFile *
newest_partial(const Finder *finder)
{
    for (size_t i = 0; i < finder->list.count; i++) {
        const WalSegmentFile *file = &finder->list.files[i];

        if (!follows_base(finder, file->number, file->timeline))
            break;
        if (file->partial)
            return file;
    }
    return NULL;
}

/* The first number that is not complete: behind the base, or where the archive begins. */
static uint64_t
first_open(const Finder *finder)
{
    if (finder->base != NULL)
        return finder->base->number + 1;
    return finder->list.files[finder->list.count - 1].number;
}

/* Does a run that begins with `first` follow a complete segment, or is there nothing before it? */
static bool
is_connected(const Finder *finder, uint64_t first, TimeLineID timeline)
{
    if (finder->base == NULL || first <= finder->base->number)
        return first <= first_open(finder);
    return first == first_open(finder) &&
           segment_list_find(&finder->list, first - 1, timeline, SEGMENT_COMPLETE) != NULL;
}

/* Down from the newest partial segment; false when that leads nowhere. */
static bool
run_from_top(Finder *finder)
{
    const WalSegmentFile *top = newest_partial(finder);
    uint64_t first;

    if (top == NULL)
        return false;
    first = top->number;
    while (first > 0 && follows_base(finder, first - 1, top->timeline) &&
           segment_list_has_partial(&finder->list, first - 1, top->timeline))
        first--;
    if (!is_connected(finder, first, top->timeline))
        return false;
    finder->timeline = top->timeline;
    finder->first = first;
    finder->run_count = top->number - first + 1;
    return true;
}

/* What follows the base, or the oldest segments when there is none. */
static void
run_from_base(Finder *finder)
{
    const SegmentList *list = &finder->list;
    uint64_t first = first_open(finder);
    const WalSegmentFile *file = segment_list_find(list, first, UINT32_MAX, SEGMENT_PARTIAL);

    finder->first = first;
    finder->run_count = 0;
    if (file == NULL && finder->base == NULL)
        file = segment_list_find(list, first, UINT32_MAX, SEGMENT_COMPLETE);
    if (finder->base != NULL && (file == NULL || file->timeline < finder->base->timeline))
        finder->timeline = finder->base->timeline;
    else if (file != NULL)
        finder->timeline = file->timeline;
    while (segment_list_has_partial(list, first + finder->run_count, finder->timeline))
        finder->run_count++;
}

/* ---- the run, by contents ---- */

/* SegmentsBefore.find: what is before a segment of the run. */
static bool
find_before(void *ctx, uint64_t number, WalSegmentFile *ret_file)
{
    const Finder *finder = ctx;
    const WalSegmentFile *file;

    if (number >= finder->first)
        file = &finder->goods[number - finder->first].file;
    else if (finder->base != NULL && number == finder->base->number &&
             finder->base->timeline <= finder->timeline)
        file = finder->base;
    else
        file = segment_list_find(&finder->list, number, finder->timeline, SEGMENT_COMPLETE);
    if (file != NULL)
        *ret_file = *file;
    return file != NULL;
}

static bool
is_better(const SegmentGood *good, const SegmentGood *other)
{
    if (good->whole != other->whole)
        return good->whole;
    return good->valid_end > other->valid_end;
}

/* Of the files that hold this segment of the run the best one. */
static bool
check_segment(Finder *finder, uint64_t number, SegmentGood *ret_best, Error *err)
{
    const SegmentsBefore before = {.place = &finder->place, .find = find_before, .ctx = finder};
    const WalSegmentFile *end = finder->list.files + finder->list.count;
    const WalSegmentFile *file =
        segment_list_find(&finder->list, number, finder->timeline, SEGMENT_PARTIAL);
    SegmentGood best = {.valid_end = LSN_INVALID};

    for (; file < end && file->partial && file->number == number &&
           file->timeline == finder->timeline;
         file++) {
        SegmentGood good;

        if (!segment_check_partial(&before, file, finder->timeline, &good, err)) {
            buf_free(&best.sums);
            return false;
        }
        if (best.valid_end == LSN_INVALID || is_better(&good, &best)) {
            SegmentGood worse = best;

            best = good;
            good = worse;
        }
        buf_free(&good.sums);
    }
    *ret_best = best;
    return true;
}

static bool
add_good(Finder *finder, const SegmentGood *good, Error *err)
{
    void *goods = finder->goods;
    bool ok = mem_grow(&goods, &finder->good_capacity, finder->good_count + 1, sizeof *good, err);

    finder->goods = goods;
    if (ok)
        finder->goods[finder->good_count++] = *good;
    return ok;
}

static bool
read_run(Finder *finder, Error *err)
{
    bool whole = true;

    finder->end = wal_segment_start(finder->first, finder->place.segment_size);
    for (uint64_t i = 0; i < finder->run_count && whole; i++) {
        SegmentGood good;

        if (!check_segment(finder, finder->first + i, &good, err))
            return false;
        if (!add_good(finder, &good, err)) {
            buf_free(&good.sums);
            return false;
        }
        if (good.valid_end > finder->end)
            finder->end = good.valid_end;
        whole = good.whole;
    }
    return true;
}

/* ---- the answer ---- */

static bool
find_system_id(const Finder *finder, uint64_t *ret_system_id, Error *err)
{
    uint64_t system_id = 0;

    for (size_t i = 0; i < finder->list.count && system_id == 0; i++) {
        if (!segment_system_id(&finder->place, &finder->list.files[i], &system_id, err))
            return false;
    }
    *ret_system_id = system_id;
    return true;
}

/* *ret_tail stays as it is when there is nothing to give. */
static bool
make_tail(Finder *finder, Lsn start, WalTail **ret_tail, Error *err)
{
    uint32_t size = finder->place.segment_size;
    uint64_t count = (finder->end - start + size - 1) / size;

    if (count == 0)
        return true;
    *ret_tail = wal_tail_new(&finder->place, finder->goods, (size_t)count, finder->end, err);
    return *ret_tail != NULL;
}

static bool
find_end(Finder *finder, WalResume *resume, WalTail **ret_tail, Error *err)
{
    if (finder->config->history != NULL)
        drop_strays(finder);
    if (!find_base(finder, err) || !find_system_id(finder, &resume->system_id, err))
        return false;
    resume->found = finder->list.count > 0;
    if (!resume->found)
        return true;
    if (finder->config->hole != NULL)
        segment_list_holes(&finder->list, finder->base, finder->config->hole, finder->config->ctx);
    if (!run_from_top(finder))
        run_from_base(finder);
    if (!read_run(finder, err))
        return false;
    resume->start = wal_segment_start(finder->first, finder->place.segment_size);
    resume->end = finder->end;
    resume->timeline = finder->timeline;
    return make_tail(finder, resume->start, ret_tail, err);
}

static void
finder_free(Finder *finder)
{
    for (size_t i = 0; i < finder->good_count; i++)
        buf_free(&finder->goods[i].sums);
    free(finder->goods);
    segment_list_free(&finder->list);
}

bool
wal_resume_find(const WalResumeConfig *config, WalResume *ret_resume, WalTail **ret_tail,
                Error *err)
{
    Finder finder = {
        .config = config,
        .place = {.directory = config->directory, .segment_size = config->segment_size}};
    WalResume resume = {.found = false};
    WalTail *tail = NULL;
    bool ok;

    ok = segment_list_read(&finder.list, config->directory, config->segment_size, err) &&
         find_end(&finder, &resume, &tail, err);
    finder_free(&finder);
    if (!ok)
        return false;
    *ret_resume = resume;
    *ret_tail = tail;
    return true;
}
