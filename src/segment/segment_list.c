/*
 * The segments of a directory, by their names alone: an archive may have a hundred thousand of
 * them, and nobody waits for as many calls of stat.
 */
#include <dirent.h>
#include <errno.h>
#include <stdlib.h>

#include "common/file.h"
#include "segment/segment.h"

static bool
add(SegmentList *list, const WalSegmentFile *file, Error *err)
{
    void *files = list->files;
    bool ok = mem_grow(&files, &list->capacity, list->count + 1, sizeof *file, err);

    list->files = files;
    if (ok)
        list->files[list->count++] = *file;
    return ok;
}

static bool
read_names(SegmentList *list, DIR *dir, const char *directory, uint32_t segment_size, Error *err)
{
    const struct dirent *entry;

    while ((entry = dir_next(dir)) != NULL) {
        WalSegmentFile file;

        if (wal_segment_file_parse(entry->d_name, segment_size, &file) && !add(list, &file, err))
            return false;
    }
    if (errno != 0)
        return error_set_errno(err, errno, "could not read directory \"%s\"", directory);
    return true;
}

/* ---- order ---- */

static int
compare_place(const WalSegmentFile *file, uint64_t number, TimeLineID timeline)
{
    if (file->number != number)
        return file->number > number ? -1 : 1;
    if (file->timeline != timeline)
        return file->timeline > timeline ? -1 : 1;
    return 0;
}

static int
compare_files(const void *a, const void *b)
{
    const WalSegmentFile *file = a;
    const WalSegmentFile *other = b;
    int order = compare_place(file, other->number, other->timeline);

    if (order == 0)
        order = (int)file->partial - (int)other->partial;
    return order != 0 ? order : (int)file->compression - (int)other->compression;
}

bool
segment_list_read(SegmentList *list, const char *directory, uint32_t segment_size, Error *err)
{
    DIR *dir = opendir(directory);
    bool ok;

    *list = (SegmentList){.files = NULL};
    if (dir == NULL)
        return error_set_errno(err, errno, "could not open directory \"%s\"", directory);
    ok = read_names(list, dir, directory, segment_size, err);
    (void)closedir(dir);
    if (list->count > 0)
        qsort(list->files, list->count, sizeof *list->files, compare_files);
    return ok;
}

void
segment_list_free(SegmentList *list)
{
    free(list->files);
    *list = (SegmentList){.files = NULL};
}

void
segment_list_drop(SegmentList *list)
{
    size_t kept = 0;

    for (size_t i = 0; i < list->count; i++) {
        if (list->files[i].timeline != 0)
            list->files[kept++] = list->files[i];
    }
    list->count = kept;
}

/* ---- looking up ---- */

/* The first that is not newer than this place. */
static size_t
lower_bound(const SegmentList *list, uint64_t number, TimeLineID timeline)
{
    size_t low = 0;
    size_t high = list->count;

    while (low < high) {
        size_t middle = low + (high - low) / 2;

        if (compare_place(&list->files[middle], number, timeline) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

const WalSegmentFile *
segment_list_find(const SegmentList *list, uint64_t number, TimeLineID timeline, SegmentState state)
{
    for (size_t i = lower_bound(list, number, timeline); i < list->count; i++) {
        const WalSegmentFile *file = &list->files[i];

        if (file->number != number)
            break;
        if (file->partial == (state == SEGMENT_PARTIAL))
            return file;
    }
    return NULL;
}

bool
segment_list_has_partial(const SegmentList *list, uint64_t number, TimeLineID timeline)
{
    const WalSegmentFile *file = segment_list_find(list, number, timeline, SEGMENT_PARTIAL);

    return file != NULL && file->timeline == timeline;
}

/* ---- holes ---- */

void
segment_list_holes(const SegmentList *list, const WalSegmentFile *base,
                   void (*hole)(void *ctx, TimeLineID timeline, uint64_t first, uint64_t last),
                   void *ctx)
{
    const WalSegmentFile *below = NULL;

    /* From the oldest on; of one number the lowest timeline comes first. */
    for (size_t i = list->count; i > 0; i--) {
        const WalSegmentFile *file = &list->files[i - 1];

        if (file->partial && base != NULL && file->number <= base->number)
            continue;
        if (below != NULL && file->number > below->number + 1)
            hole(ctx, file->timeline, below->number + 1, file->number - 1);
        below = file;
    }
}
