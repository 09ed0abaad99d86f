/*
 * Where a WAL directory ends. The highest segment wins, then the highest timeline, and of the same
 * segment the complete file wins over the partial one.
 */
#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "common/file.h"
#include "pgformat/walfile.h"
#include "walrecv/walrecv.h"

#define SEGMENT_NAME_LEN 24

/* Of files of one segment, the last one here counts. */
typedef enum FileForm { FORM_PARTIAL, FORM_COMPRESSED, FORM_COMPLETE } FileForm;

/* What a name says of itself. */
typedef struct Candidate {
    uint64_t number;
    TimeLineID timeline;
    FileForm form;
} Candidate;

static const struct {
    const char *suffix;
    FileForm form;
} file_forms[] = {
    {"", FORM_COMPLETE},       {".partial", FORM_PARTIAL},
    {".gz", FORM_COMPRESSED},  {".gz.partial", FORM_COMPRESSED},
    {".lz4", FORM_COMPRESSED}, {".lz4.partial", FORM_COMPRESSED},
    {".zst", FORM_COMPRESSED}, {".zst.partial", FORM_COMPRESSED},
};

/* False for everything that is not exactly the name of a segment. */
static bool
parse_candidate(const char *name, uint32_t segment_size, Candidate *ret_candidate)
{
    char segment[SEGMENT_NAME_LEN + 1];
    Candidate candidate;

    if (strlen(name) < SEGMENT_NAME_LEN)
        return false;
    memcpy(segment, name, SEGMENT_NAME_LEN);
    segment[SEGMENT_NAME_LEN] = '\0';
    if (!wal_segment_parse(segment, segment_size, &candidate.timeline, &candidate.number))
        return false;
    for (size_t i = 0; i < sizeof file_forms / sizeof file_forms[0]; i++) {
        if (strcmp(name + SEGMENT_NAME_LEN, file_forms[i].suffix) == 0) {
            candidate.form = file_forms[i].form;
            *ret_candidate = candidate;
            return true;
        }
    }
    return false;
}

static bool
is_newer(const Candidate *a, const Candidate *b)
{
    if (a->number != b->number)
        return a->number > b->number;
    if (a->timeline != b->timeline)
        return a->timeline > b->timeline;
    return a->form > b->form;
}

typedef struct Scan {
    const char *directory;
    uint32_t segment_size;
    void (*skipped)(void *ctx, const char *path, uint64_t size);
    void *ctx;
    bool found;
    Candidate newest;
} Scan;

/*
 * A complete segment must have its full size; anything else under that name is not one. What has
 * been removed since the directory was read (old WAL is, at any time) is none either.
 */
static bool
size_fits(const Scan *scan, const char *name, bool *ret_fits, Error *err)
{
    char *path = path_join(scan->directory, name, err);
    struct stat st;
    bool ok = true;

    if (path == NULL)
        return false;
    if (stat(path, &st) == 0) {
        *ret_fits = S_ISREG(st.st_mode) && (uint64_t)st.st_size == scan->segment_size;
        if (!*ret_fits && scan->skipped != NULL)
            scan->skipped(scan->ctx, path, (uint64_t)st.st_size);
    } else if (errno == ENOENT) {
        *ret_fits = false;
    } else {
        ok = error_set_errno(err, errno, "could not stat file \"%s\"", path);
    }
    free(path);
    return ok;
}

static bool
consider(Scan *scan, const char *name, Error *err)
{
    Candidate candidate;
    bool fits = true;

    if (!parse_candidate(name, scan->segment_size, &candidate))
        return true;
    /* Also of old ones: whoever hears of a broken segment may still have it elsewhere. */
    if (candidate.form == FORM_COMPLETE && !size_fits(scan, name, &fits, err))
        return false;
    if (fits && (!scan->found || is_newer(&candidate, &scan->newest))) {
        scan->newest = candidate;
        scan->found = true;
    }
    return true;
}

static bool
scan_directory(Scan *scan, Error *err)
{
    DIR *dir = opendir(scan->directory);
    bool ok = true;

    if (dir == NULL)
        return error_set_errno(err, errno, "could not open directory \"%s\"", scan->directory);
    while (ok) {
        const struct dirent *entry = dir_next(dir);

        if (entry == NULL)
            break;
        ok = consider(scan, entry->d_name, err);
    }
    if (ok && errno != 0)
        ok = error_set_errno(err, errno, "could not read directory \"%s\"", scan->directory);
    (void)closedir(dir);
    return ok;
}

bool
wal_dir_find_end(const char *directory, uint32_t segment_size,
                 void (*skipped)(void *ctx, const char *path, uint64_t size), void *ctx,
                 WalDirEnd *ret_end, Error *err)
{
    Scan scan = {
        .directory = directory, .segment_size = segment_size, .skipped = skipped, .ctx = ctx};
    WalDirEnd end = {.found = false};

    if (!scan_directory(&scan, err))
        return false;
    if (scan.found && scan.newest.form == FORM_COMPRESSED) {
        (void)error_set(err, ERR_UNSUPPORTED,
                        "the newest segment in directory \"%s\" is compressed", directory);
        return error_hint(err, "Stream into another directory, or go on here with the program that "
                               "wrote it.");
    }
    if (scan.found) {
        uint64_t number = scan.newest.number + (scan.newest.form == FORM_COMPLETE ? 1 : 0);

        if (number > wal_segment_number(UINT64_MAX, segment_size))
            return error_set(err, ERR_FORMAT,
                             "the newest segment in directory \"%s\" is the last one that there "
                             "can be",
                             directory);
        end = (WalDirEnd){.found = true,
                          .next = wal_segment_start(number, segment_size),
                          .timeline = scan.newest.timeline};
    }
    *ret_end = end;
    return true;
}
