/*
 * What pg_archivecleanup removes (documentation: "pg_archivecleanup"): files whose position in the
 * WAL is before that of the oldest one that is kept, whatever their timeline.
 *
 * Segments have every size there, so positions are compared as they are written in names.
 */
#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "archive/archive.h"
#include "common/bytes.h"
#include "common/file.h"

#define TIMELINE_LEN 8
#define SEGMENT_LEN  24
#define OFFSET_LEN   8

/* A name without its extension, of which nothing is longer than a backup history file's. */
#define NAME_SIZE (SEGMENT_LEN + 1 + OFFSET_LEN + sizeof ".backup")

typedef enum NameKind { NAME_OTHER, NAME_SEGMENT, NAME_PARTIAL, NAME_BACKUP } NameKind;

/* ---- names ---- */

/* How much of the first `len` bytes of `name` stands in front of `suffix`; all when that is not
 * their end. */
static size_t
front_length(const char *name, size_t len, const char *suffix)
{
    size_t suffix_len = strlen(suffix);

    if (len > suffix_len && strncmp(name + len - suffix_len, suffix, suffix_len) == 0)
        return len - suffix_len;
    return len;
}

/* The name without the extension, which may also stand before ".partial": so receivers write it.
 * False when it is too long for any name of ours. */
static bool
strip(const char *name, const char *extension, char ret_stem[NAME_SIZE])
{
    static const char partial[] = ".partial";
    const char *suffix = extension == NULL ? "" : extension;
    size_t len = strlen(name);
    size_t stem = front_length(name, len, suffix);
    size_t tail = 0;

    if (stem == len) {
        stem = front_length(name, len, partial);
        tail = len - stem;
        stem = front_length(name, stem, suffix);
    }
    if (stem + tail >= NAME_SIZE)
        return false;
    memcpy(ret_stem, name, stem);
    memcpy(ret_stem + stem, partial, tail);
    ret_stem[stem + tail] = '\0';
    return true;
}

/* ".XXXXXXXX.backup", the place in the segment where the backup began. */
static bool
is_backup_suffix(const char *text)
{
    return text[0] == '.' && strspn(text + 1, "0123456789ABCDEF") == OFFSET_LEN &&
           strcmp(text + 1 + OFFSET_LEN, ".backup") == 0;
}

/* Of the smallest segments there are the most: their names take in those of all other sizes. */
static NameKind
kind_of(const char *stem)
{
    char segment[SEGMENT_LEN + 1] = "";
    size_t len = strnlen(stem, SEGMENT_LEN);
    TimeLineID timeline;
    uint64_t number;

    memcpy(segment, stem, len);
    if (!wal_segment_parse(segment, WAL_SEGMENT_SIZE_MIN, &timeline, &number))
        return NAME_OTHER;
    if (stem[len] == '\0')
        return NAME_SEGMENT;
    if (strcmp(stem + len, ".partial") == 0)
        return NAME_PARTIAL;
    return is_backup_suffix(stem + len) ? NAME_BACKUP : NAME_OTHER;
}

bool
cleanup_first_kept(const char *name, const char *extension, char ret_segment[WAL_NAME_SIZE])
{
    char stem[NAME_SIZE];

    if (!strip(name, extension, stem) || kind_of(stem) == NAME_OTHER)
        return false;
    memcpy(ret_segment, stem, SEGMENT_LEN);
    ret_segment[SEGMENT_LEN] = '\0';
    return true;
}

/* What begins like the kept segment and goes on is not before it. */
bool
cleanup_takes(const CleanupRequest *request, const char *name)
{
    char stem[NAME_SIZE];
    NameKind kind;

    if (!strip(name, request->extension, stem))
        return false;
    kind = kind_of(stem);
    if (kind == NAME_OTHER || (kind == NAME_BACKUP && !request->backup_history))
        return false;
    return strcmp(stem + TIMELINE_LEN, request->first_kept + TIMELINE_LEN) < 0;
}

/* ---- the directory ---- */

static int
compare_positions(const void *a, const void *b)
{
    const char *name = *(char *const *)a;
    const char *other = *(char *const *)b;
    int order = strcmp(name + TIMELINE_LEN, other + TIMELINE_LEN);

    return order != 0 ? order : strcmp(name, other);
}

static bool
read_names(const CleanupRequest *request, DIR *dir, ArchiveNames *names, Error *err)
{
    const struct dirent *entry;

    while ((entry = dir_next(dir)) != NULL) {
        if (cleanup_takes(request, entry->d_name) && !archive_names_add(names, entry->d_name, err))
            return false;
    }
    if (errno != 0)
        return error_set_errno(err, errno, "could not read archive location \"%s\"",
                               request->directory);
    return true;
}

bool
cleanup_list(const CleanupRequest *request, ArchiveNames *ret_names, Error *err)
{
    DIR *dir = opendir(request->directory);
    bool ok;

    *ret_names = (ArchiveNames){.names = NULL};
    if (dir == NULL)
        return error_set_errno(err, errno, "could not open archive location \"%s\"",
                               request->directory);
    ok = read_names(request, dir, ret_names, err);
    (void)closedir(dir);
    if (ret_names->count > 0)
        qsort(ret_names->names, ret_names->count, sizeof *ret_names->names, compare_positions);
    return ok;
}
