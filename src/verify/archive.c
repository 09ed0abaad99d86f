/*
 * A backup in tar format is a directory of archives and nothing else. They are read one after the
 * other, the tablespaces in the order of their OIDs, then the data directory, then the WAL, each
 * through a chain of its own:
 *
 *     decompress? -> tar_reader -> member_check? -> wal_scan? -> discard
 *
 * What is wrong with an archive itself ends its reading and is one problem, whatever it is; then
 * the next one is read.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/file.h"
#include "stream/compression.h"
#include "verify/internal.h"

#define READ_SIZE ((size_t)1024 * 1024)

/* In the order in which they are read. */
typedef enum ArchiveKind { ARCHIVE_TABLESPACE, ARCHIVE_BASE, ARCHIVE_WAL } ArchiveKind;

typedef struct ArchiveFile {
    const char *name; /* one of the list's names */
    ArchiveKind kind;
    Oid tablespace;
    uint64_t size; /* of the file as it lies there */
} ArchiveFile;

typedef struct ArchiveList {
    PathSet names; /* of everything in the directory that is not ignored */
    ArchiveFile *files;
    size_t count;
    size_t capacity;
    bool has_wal; /* there is an archive of pg_wal */
} ArchiveList;

static void
list_free(ArchiveList *list)
{
    path_set_free(&list->names);
    free(list->files);
}

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
        if (!path_set_covers(&verifier->ignore, entry->d_name) &&
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

static bool
list_archives(Verifier *verifier, ArchiveList *list, Error *err)
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

/* ---- one archive ---- */

typedef struct ArchiveRun {
    Verifier *verifier;
    const ArchiveFile *archive;
    Sink *chain;
    uint8_t *buffer;
    uint64_t done; /* bytes of the archives before it */
} ArchiveRun;

static bool
holds_wal(const Verifier *verifier, const ArchiveList *list, const ArchiveFile *archive)
{
    ArchiveKind holder = list->has_wal ? ARCHIVE_WAL : ARCHIVE_BASE;

    return verifier->wal_scan != NULL && archive->kind == holder;
}

static Sink *
chain_new(Verifier *verifier, const ArchiveList *list, const ArchiveFile *archive, Error *err)
{
    bool is_wal = archive->kind == ARCHIVE_WAL;
    Sink *chain = discard_new(err);

    if (holds_wal(verifier, list, archive))
        chain = wal_scan_stage_new(verifier->wal_scan, archive->name, is_wal ? "" : "pg_wal/",
                                   chain, err);
    if (!is_wal)
        chain = member_check_new(verifier, archive->name, chain, err);
    /* pg_basebackup writes the end blocks that old servers leave out. */
    chain = tar_reader_new(chain, TAR_END_REQUIRED, err);
    return decompress_new(chain, compression_of_name(archive->name), err);
}

/* Were it to grow meanwhile, it would still count with the size that is part of the total. */
static void
count_progress(const ArchiveRun *run, uint64_t bytes)
{
    VerifyProgress *progress = &run->verifier->progress;
    uint64_t end = run->done + run->archive->size;

    progress->done = bytes < end - progress->done ? progress->done + bytes : end;
    verifier_tell_progress(run->verifier, false);
}

static bool
push_content(const ArchiveRun *run, int fd, Error *err)
{
    const Verifier *verifier = run->verifier;
    size_t got;

    do {
        if (!stop_check(verifier->config->stop, err) ||
            !file_read(fd, run->buffer, READ_SIZE, run->archive->name, &got, err) ||
            !sink_data(run->chain, (Span){.data = run->buffer, .len = got}, err))
            return false;
        count_progress(run, got);
    } while (got == READ_SIZE && !verifier->reporter.enough);
    return true;
}

static bool
push_archive(const ArchiveRun *run, int fd, Error *err)
{
    Archive archive = {.name = run->archive->name, .tablespace = run->archive->tablespace};

    if (!sink_archive_begin(run->chain, &archive, err) || !push_content(run, fd, err))
        return false;
    if (run->verifier->reporter.enough)
        return true;
    /* What could be decompressed of an archive that is cut short is looked at all the same. */
    return sink_flush(run->chain, LSN_INVALID, err) && sink_archive_end(run->chain, err) &&
           sink_finish(run->chain, err);
}

/* Everything else that can end the reading is an Error of ours. */
static bool
is_of_the_archive(const Error *err)
{
    return err->code == ERR_FORMAT || err->code == ERR_UNSUPPORTED || err->code == ERR_SYSTEM;
}

static bool
read_open_archive(const ArchiveRun *run, int fd, Error *err)
{
    Problem problem = {.kind = PROBLEM_UNREADABLE, .path = run->archive->name};
    Error failure = ERROR_INIT;

    (void)posix_fadvise(fd, 0, 0, POSIX_FADV_SEQUENTIAL); /* a hint */
    if (push_archive(run, fd, &failure))
        return true;
    if (is_of_the_archive(&failure))
        return report(&run->verifier->reporter, &problem, err, "%s", failure.message);
    *err = failure;
    return false;
}

static bool
read_archive(const ArchiveRun *run, Error *err)
{
    const char *name = run->archive->name;
    char *path = path_join(run->verifier->config->directory, name, err);
    char reason[ERRNO_TEXT_SIZE];
    bool ok;
    int fd;

    if (path == NULL)
        return false;
    fd = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0) {
        Problem problem = {.kind = PROBLEM_UNREADABLE, .path = name};
        int errnum = errno;

        ok = report(&run->verifier->reporter, &problem, err, "could not open file \"%s\": %s", name,
                    errno_text(errnum, reason));
    } else {
        ok = read_open_archive(run, fd, err);
        file_close_quietly(fd);
    }
    free(path);
    return ok;
}

/* ---- all of them ---- */

/* Nobody asks for the WAL: then its archive stays closed, as pg_verifybackup leaves it. */
static bool
is_read(const Verifier *verifier, const ArchiveFile *archive)
{
    return archive->kind != ARCHIVE_WAL || verifier->wal_scan != NULL;
}

static bool
read_archives(Verifier *verifier, const ArchiveList *list, uint8_t *buffer, Error *err)
{
    ArchiveRun run = {.verifier = verifier, .buffer = buffer};
    bool ok = true;

    for (size_t i = 0; i < list->count && ok; i++) {
        run.archive = &list->files[i];
        if (!is_read(verifier, run.archive))
            continue;
        run.chain = chain_new(verifier, list, run.archive, err);
        ok = run.chain != NULL && read_archive(&run, err);
        sink_free(run.chain);
        if (verifier->reporter.enough)
            break;
        /* It counts whole, however much of it was there to be read. */
        run.done += run.archive->size;
        verifier->progress.done = run.done;
    }
    if (ok)
        verifier_tell_progress(verifier, true);
    return ok;
}

static void
add_total(Verifier *verifier, const ArchiveList *list)
{
    for (size_t i = 0; i < list->count; i++) {
        if (is_read(verifier, &list->files[i]))
            verifier->progress.total += list->files[i].size;
    }
}

static bool
check_archives(Verifier *verifier, ArchiveList *list, Error *err)
{
    uint8_t *buffer;
    bool ok;

    if (!list_archives(verifier, list, err))
        return false;
    if (verifier->reporter.enough)
        return true;
    add_total(verifier, list);
    buffer = mem_alloc(READ_SIZE, err);
    ok = buffer != NULL && read_archives(verifier, list, buffer, err);
    free(buffer);
    return ok;
}

bool
archives_check(Verifier *verifier, Error *err)
{
    const VerifyConfig *config = verifier->config;
    ArchiveList list = {.names = PATH_SET_INIT};
    bool ok = true;

    if (!config->skip_wal && config->wal_directory == NULL) {
        verifier->wal_scan = wal_scan_new(verifier->manifest, err);
        ok = verifier->wal_scan != NULL;
    }
    ok = ok && check_archives(verifier, &list, err);
    list_free(&list);
    return ok;
}
