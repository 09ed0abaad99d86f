/*
 * Segments that were fetched before the server asks for them, in a directory beside where it wants
 * them, so that a rename is all that is left to do.
 *
 *   SPOOL/lock                 held by the process that fills the spool
 *   SPOOL/SEGMENT-...tmp       being made, and locked
 *   SPOOL/SEGMENT-...          copied and checked
 *
 * What follows the segment's name tells what it was made from and when, so nothing stale has the
 * name that somebody looks for. Removing the lock's name tells who fills the spool to stop; what it
 * makes after that has no directory to be in.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "archive/internal.h"
#include "common/crc32c.h"
#include "common/file.h"
#include "common/work.h"

#define LOCK_NAME        "lock"
#define TEMP_SUFFIX      ".tmp"
#define SEGMENT_NAME_LEN 24
#define BOOT_ID          "/proc/sys/kernel/random/boot_id"

/* ---- names ---- */

/* 0: it is not known. */
static uint32_t
this_boot(void)
{
    Buf text = BUF_INIT;
    Error ignored = ERROR_INIT;
    uint32_t boot = 0;

    if (file_load(BOOT_ID, 4096, &text, &ignored) && text.len > 0)
        boot = crc32c(0, text.data, text.len);
    buf_free(&text);
    return boot;
}

bool
spool_name(char name[SPOOL_NAME_SIZE], const WalName *segment, const ArchiveForm *form,
           uint64_t system_id)
{
    const struct stat *st = &form->status;
    uint32_t boot = this_boot();

    if (boot == 0)
        return false;
    (void)snprintf(name, SPOOL_NAME_SIZE, "%s-%08x-%llx-%llx-%llx-%llx-%llx%09lx", segment->name,
                   boot, (unsigned long long)system_id, (unsigned long long)st->st_dev,
                   (unsigned long long)st->st_ino, (unsigned long long)st->st_size,
                   (unsigned long long)st->st_ctim.tv_sec, (unsigned long)st->st_ctim.tv_nsec);
    return true;
}

static char *
temp_path(const char *spool, const char *name, Error *err)
{
    Buf path = BUF_INIT;

    if (!buf_printf(&path, err, "%s/%s" TEMP_SUFFIX, spool, name))
        buf_free(&path);
    return (char *)path.data;
}

/* ---- taking ---- */

/* Until it is made, or was given up: whoever makes it holds its lock. */
static void
await_temp(const char *path)
{
    Error gone = ERROR_INIT; /* nobody is making it, or its name is being given */
    int fd = file_open(path, O_RDONLY | O_NONBLOCK, 0, &gone);

    while (fd >= 0 && flock(fd, LOCK_SH) != 0 && errno == EINTR)
        ;
    file_close_quietly(fd);
}

static bool
rename_from(const char *from, const char *path, bool *ret_taken, Error *err)
{
    *ret_taken = rename(from, path) == 0;
    if (*ret_taken || errno == ENOENT || errno == ENOTDIR)
        return true;
    (void)error_set_errno(err, errno, "could not rename file \"%s\" to \"%s\"", from, path);
    if (err->sys_errno == EXDEV)
        (void)error_hint(err,
                         "The spool must be in the file system of the file that is asked for.");
    return false;
}

bool
spool_take(const char *spool, const char *name, const char *path, bool *ret_taken, Error *err)
{
    char *ready = path_join(spool, name, err);
    char *temp = temp_path(spool, name, err);
    bool ok = ready != NULL && temp != NULL && rename_from(ready, path, ret_taken, err);

    if (ok && !*ret_taken) {
        await_temp(temp);
        ok = rename_from(ready, path, ret_taken, err);
    }
    free(temp);
    free(ready);
    return ok;
}

/* ---- removing ---- */

/* Nobody has anything else there, but nobody's file goes because of a mistake. */
static bool
is_ours(const char *name)
{
    static const char digits[] = "0123456789ABCDEF";

    return strcmp(name, LOCK_NAME) == 0 ||
           (strspn(name, digits) == SEGMENT_NAME_LEN && name[SEGMENT_NAME_LEN] == '-');
}

/* Of what is in the spool; `keep` (NULL: nothing) says which names stay. */
static void
remove_files(const char *spool, bool (*keep)(void *ctx, const char *name), void *ctx)
{
    DIR *dir = opendir(spool);
    const struct dirent *entry;

    if (dir == NULL)
        return;
    while ((entry = dir_next(dir)) != NULL) {
        if (is_ours(entry->d_name) && (keep == NULL || !keep(ctx, entry->d_name)))
            (void)unlinkat(dirfd(dir), entry->d_name, 0);
    }
    (void)closedir(dir);
}

/* Whoever fills it may have begun another file meanwhile, one for each of its threads. */
#define REMOVE_TRIES 16

void
archive_spool_remove(const char *spool)
{
    Error ignored = ERROR_INIT;
    char *lock = path_join(spool, LOCK_NAME, &ignored);

    if (lock == NULL)
        return;
    (void)unlink(lock);
    free(lock);
    for (int i = 0; i < REMOVE_TRIES && rmdir(spool) != 0 && errno != ENOENT && errno != ENOTDIR;
         i++)
        remove_files(spool, NULL, NULL);
}

/* ---- what is to be in it ---- */

typedef struct Wanted {
    bool there; /* in the archive */
    char segment_name[WAL_NAME_SIZE];
    WalName segment;
    ArchiveForms forms;
    char name[SPOOL_NAME_SIZE];
} Wanted;

typedef struct Filling {
    const ArchivePrefetch *prefetch;
    Wanted *wanted;
    size_t count; /* up to the first that is not there */
    int lock;
} Filling;

/* The segment `ahead` of the one that was asked for last. */
static bool
find_wanted(const ArchivePrefetch *prefetch, uint64_t ahead, Wanted *wanted, Error *err)
{
    TimeLineID timeline;
    uint64_t number;

    if (!wal_segment_parse(prefetch->name, prefetch->segment_size, &timeline, &number))
        return error_set(err, ERR_USAGE, "\"%s\" is no WAL segment", prefetch->name);
    wal_segment_name(wanted->segment_name, timeline, number + ahead, prefetch->segment_size);
    if (!wal_name_parse(wanted->segment_name, &wanted->segment))
        return true;
    if (!archive_forms_find(&wanted->forms, prefetch->directory, &wanted->segment, err))
        return false;
    wanted->there =
        wanted->forms.count > 0 &&
        spool_name(wanted->name, &wanted->segment, &wanted->forms.forms[0], prefetch->system_id);
    return true;
}

static bool
filling_init(Filling *filling, const ArchivePrefetch *prefetch, Error *err)
{
    *filling = (Filling){.prefetch = prefetch, .lock = -1};
    filling->wanted = mem_zero((prefetch->count + 1) * sizeof *filling->wanted, err);
    if (filling->wanted == NULL)
        return false;
    for (; filling->count < prefetch->count; filling->count++) {
        Wanted *wanted = &filling->wanted[filling->count];

        if (!find_wanted(prefetch, filling->count + 1, wanted, err))
            return false;
        if (!wanted->there)
            break;
    }
    return true;
}

static void
filling_free(Filling *filling)
{
    if (filling->wanted == NULL)
        return;
    for (size_t i = 0; i <= filling->prefetch->count; i++)
        archive_forms_free(&filling->wanted[i].forms);
    free(filling->wanted);
}

static bool
is_ready(const Filling *filling, size_t i)
{
    Error ignored = ERROR_INIT;
    char *path = path_join(filling->prefetch->spool, filling->wanted[i].name, &ignored);
    bool ready = path != NULL && access(path, F_OK) == 0;

    free(path);
    return ready;
}

static bool
is_full(const Filling *filling)
{
    for (size_t i = 0; i < filling->count; i++) {
        if (!is_ready(filling, i))
            return false;
    }
    return true;
}

/* ---- who fills it ---- */

/* Two at once would be in each other's way: no spool where there are no locks. */
static bool
take_lock(const char *spool, int *ret_lock, Error *err)
{
    ClaimedFile file;
    Error busy = ERROR_INIT;

    *ret_lock = -1;
    if (mkdir(spool, 0700) != 0 && errno != EEXIST)
        return error_set_errno(err, errno, "could not create directory \"%s\"", spool);
    if (claimed_file_open(&file, path_join(spool, LOCK_NAME, &busy), 0600, &busy)) {
        if (file.locked) {
            *ret_lock = file.fd;
            file.fd = -1;
        }
        file.ours = false;
    }
    claimed_file_free(&file);
    if (busy.code == ERR_NONE || busy.sys_errno == EWOULDBLOCK || busy.sys_errno == ENOENT)
        return true;
    *err = busy;
    return false;
}

bool
archive_spool_open(const ArchivePrefetch *prefetch, int *ret_lock, Error *err)
{
    Filling filling;
    bool ok = filling_init(&filling, prefetch, err);

    *ret_lock = -1;
    if (ok && filling.count == 0)
        archive_spool_remove(prefetch->spool);
    else if (ok && !is_full(&filling))
        ok = take_lock(prefetch->spool, ret_lock, err);
    filling_free(&filling);
    return ok;
}

/* ---- filling ---- */

static bool
keep_wanted(void *ctx, const char *name)
{
    const Filling *filling = ctx;

    if (strcmp(name, LOCK_NAME) == 0)
        return true;
    for (size_t i = 0; i < filling->count; i++) {
        if (strcmp(name, filling->wanted[i].name) == 0)
            return true;
    }
    return false;
}

/* Whether the spool was removed. */
static bool
check_lock(const Filling *filling, Error *err)
{
    struct stat st;

    if (fstat(filling->lock, &st) != 0)
        return error_set_errno(err, errno, "could not stat the lock of \"%s\"",
                               filling->prefetch->spool);
    return st.st_nlink > 0 || error_set_stopped(err);
}

static bool
make_ready(const Filling *filling, const Wanted *wanted, ClaimedFile *file, Error *err)
{
    const SegmentCopy copy = {.directory = filling->prefetch->directory,
                              .name = &wanted->segment,
                              .form = &wanted->forms.forms[0],
                              .system_id = filling->prefetch->system_id};
    char *ready = path_join(filling->prefetch->spool, wanted->name, err);
    bool ok = ready != NULL && segment_copy(&copy, file, err) && check_lock(filling, err) &&
              claimed_file_rename(file, ready, err);

    free(ready);
    return ok;
}

static bool
run_job(void *ctx, const WorkSlot *slot, size_t job, Error *err)
{
    const Filling *filling = ctx;
    const Wanted *wanted = &filling->wanted[job];
    ClaimedFile file = {.fd = -1};
    bool ok;

    if (atomic_load(slot->ending) || !check_lock(filling, err))
        return error_set_stopped(err);
    if (is_ready(filling, job))
        return true;
    ok = claimed_file_open(&file, temp_path(filling->prefetch->spool, wanted->name, err),
                           filling->prefetch->mode, err) &&
         make_ready(filling, wanted, &file, err);
    claimed_file_free(&file);
    return ok;
}

static WorkNext
take_job(void *ctx, size_t job, Error *err)
{
    (void)ctx;
    (void)job;
    (void)err;
    return WORK_GO_ON;
}

bool
archive_prefetch(const ArchivePrefetch *prefetch, int lock, Error *err)
{
    Filling filling;
    bool ok = filling_init(&filling, prefetch, err);
    const Work work = {.count = filling.count,
                       .threads = prefetch->threads,
                       .ctx = &filling,
                       .run = run_job,
                       .take = take_job};

    filling.lock = lock;
    if (ok) {
        remove_files(prefetch->spool, keep_wanted, &filling);
        ok = filling.count == 0 || work_run(&work, err);
    }
    filling_free(&filling);
    return ok;
}
