/* The entries of an archive's directory: names, sizes, times. One fstatat for each, in the order in
 * which the directory has them, is what a hundred thousand of them cost. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "archive/internal.h"
#include "common/file.h"

/* Links lead to what counts, one that leads nowhere is an entry nevertheless. *ret_there is false
 * for what has vanished meanwhile. */
static bool
stat_entry(int dir_fd, const char *name, struct stat *ret_status, bool *ret_there, Error *err)
{
    *ret_there = true;
    if (fstatat(dir_fd, name, ret_status, 0) == 0 ||
        fstatat(dir_fd, name, ret_status, AT_SYMLINK_NOFOLLOW) == 0)
        return true;
    if (errno != ENOENT)
        return error_set_errno(err, errno, "could not stat file \"%s\"", name);
    *ret_there = false;
    return true;
}

static bool
add(DirectoryEntries *entries, const char *name, const struct stat *status, Arena *texts,
    Error *err)
{
    void *array = entries->entries;
    bool ok = mem_grow(&array, &entries->capacity, entries->count + 1, sizeof(DirectoryEntry), err);
    DirectoryEntry entry = {.bytes = (uint64_t)status->st_size,
                            .modified = (int64_t)status->st_mtime,
                            .regular = S_ISREG(status->st_mode),
                            .directory = S_ISDIR(status->st_mode)};

    entries->entries = array;
    if (!ok)
        return false;
    entry.name = arena_text(texts, name, strlen(name), err);
    if (entry.name == NULL)
        return false;
    entries->entries[entries->count++] = entry;
    return true;
}

static bool
read_all(DirectoryEntries *entries, DIR *dir, const char *directory, Arena *texts, Error *err)
{
    const struct dirent *entry;

    while ((entry = dir_next(dir)) != NULL) {
        struct stat status;
        bool there;

        if (!stat_entry(dirfd(dir), entry->d_name, &status, &there, err) ||
            (there && !add(entries, entry->d_name, &status, texts, err)))
            return false;
    }
    if (errno != 0)
        return error_set_errno(err, errno, "could not read directory \"%s\"", directory);
    return true;
}

static int
compare_entries(const void *a, const void *b)
{
    const DirectoryEntry *entry = a;
    const DirectoryEntry *other = b;

    return strcmp(entry->name, other->name);
}

bool
directory_entries_read(DirectoryEntries *entries, const char *directory, Arena *texts, Error *err)
{
    DIR *dir = opendir(directory);
    bool ok;

    *entries = (DirectoryEntries){.entries = NULL};
    if (dir == NULL)
        return error_set_errno(err, errno, "could not open directory \"%s\"", directory);
    ok = read_all(entries, dir, directory, texts, err);
    (void)closedir(dir);
    if (ok && entries->count > 0)
        qsort(entries->entries, entries->count, sizeof *entries->entries, compare_entries);
    return ok;
}

void
directory_entries_free(DirectoryEntries *entries)
{
    free(entries->entries);
    *entries = (DirectoryEntries){.entries = NULL};
}
