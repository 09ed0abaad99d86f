/*
 * What is in the directory of a backup in tar format: archives and nothing else.
 */
#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "common/file.h"
#include "verify/internal.h"

/* ---- names ---- */

static bool
has_archive_suffix(const char *name)
{
    static const char *const suffixes[] = {".tar", ".tgz", ".tar.gz", ".tar.lz4", ".tar.zst"};
    const char *suffix = strchr(name, '.');

    for (size_t i = 0; suffix != NULL && i < sizeof suffixes / sizeof suffixes[0]; i++) {
        if (strcmp(suffix, suffixes[i]) == 0)
            return true;
    }
    return false;
}

/* The number that the name begins with, as the server writes it. */
static bool
parse_oid(const char *name, size_t len, Oid *ret_oid)
{
    char text[sizeof "4294967295"];

    if (len >= sizeof text || name[0] == '0')
        return false;
    memcpy(text, name, len);
    text[len] = '\0';
    return u32_parse(text, ret_oid);
}

static bool
parse_name(const char *name, ArchiveFile *archive)
{
    size_t len = strcspn(name, ".");

    if (!has_archive_suffix(name))
        return false;
    archive->name = name;
    archive->tablespace = 0;
    if (len == strlen("base") && strncmp(name, "base", len) == 0) {
        archive->kind = ARCHIVE_BASE;
        return true;
    }
    if (len == strlen("pg_wal") && strncmp(name, "pg_wal", len) == 0) {
        archive->kind = ARCHIVE_WAL;
        return true;
    }
    archive->kind = ARCHIVE_TABLESPACE;
    return parse_oid(name, len, &archive->tablespace);
}

/* ---- what is in the directory ---- */

static bool
add_names(const Verifier *verifier, DIR *dir, PathSet *names, Error *err)
{
    struct dirent *entry;

    while ((entry = dir_next(dir)) != NULL) {
        if (strcmp(entry->d_name, PAGE_DIGESTS_NAME) != 0 &&
            !path_set_covers(&verifier->ignore, entry->d_name) &&
            !path_set_add(names, entry->d_name, err))
            return false;
    }
    if (errno != 0)
        return error_set_errno(err, errno, "could not read directory \"%s\"",
                               verifier->config->directory);
    path_set_sort(names);
    return true;
}

static bool
read_names(const Verifier *verifier, PathSet *names, Error *err)
{
    DIR *dir = opendir(verifier->config->directory);
    bool ok;

    if (dir == NULL)
        return error_set_errno(err, errno, "could not open directory \"%s\"",
                               verifier->config->directory);
    ok = add_names(verifier, dir, names, err);
    (void)closedir(dir);
    return ok;
}

/* 0 or errno's value in *ret_errnum; false without memory only. */
static bool
stat_name(const Verifier *verifier, const char *name, struct stat *st, int *ret_errnum, Error *err)
{
    char *path = path_join(verifier->config->directory, name, err);

    if (path == NULL)
        return false;
    *ret_errnum = lstat(path, st) == 0 ? 0 : errno;
    free(path);
    return true;
}

static bool
list_add(ArchiveList *list, const ArchiveFile *archive, Error *err)
{
    void *files = list->files;

    if (!mem_grow(&files, &list->capacity, list->count + 1, sizeof *list->files, err))
        return false;
    list->files = files;
    list->files[list->count++] = *archive;
    if (archive->kind == ARCHIVE_WAL)
        list->has_wal = true;
    return true;
}

/* An archive, or a problem. */
static bool
take_name(Verifier *verifier, ArchiveList *list, const char *name, Error *err)
{
    Problem problem = {.path = name};
    char reason[ERRNO_TEXT_SIZE];
    ArchiveFile archive;
    struct stat st;
    int errnum;

    if (!stat_name(verifier, name, &st, &errnum, err))
        return false;
    if (errnum != 0) {
        problem.kind = PROBLEM_UNREADABLE;
        return report(&verifier->reporter, &problem, err,
                      "could not stat file or directory \"%s\": %s", name,
                      errno_text(errnum, reason));
    }
    if (!S_ISREG(st.st_mode)) {
        problem.kind = PROBLEM_FILE_TYPE;
        return report(&verifier->reporter, &problem, err, "file \"%s\" is not a regular file",
                      name);
    }
    if (!parse_name(name, &archive)) {
        problem.kind = PROBLEM_EXTRA;
        return report(&verifier->reporter, &problem, err,
                      "file \"%s\" is not expected in a tar format backup", name);
    }
    archive.size = (uint64_t)st.st_size;
    return list_add(list, &archive, err);
}

static int
compare_archives(const void *a, const void *b)
{
    const ArchiveFile *one = a;
    const ArchiveFile *other = b;

    if (one->kind != other->kind)
        return one->kind < other->kind ? -1 : 1;
    if (one->tablespace != other->tablespace)
        return one->tablespace < other->tablespace ? -1 : 1;
    return strcmp(one->name, other->name);
}

bool
archive_list_read(ArchiveList *list, Verifier *verifier, Error *err)
{
    if (!read_names(verifier, &list->names, err))
        return false;
    for (size_t i = 0; i < list->names.count && !verifier->reporter.enough; i++) {
        if (!take_name(verifier, list, list->names.paths[i], err))
            return false;
    }
    if (list->count > 0)
        qsort(list->files, list->count, sizeof *list->files, compare_archives);
    return true;
}

void
archive_list_free(ArchiveList *list)
{
    path_set_free(&list->names);
    free(list->files);
}
