/*
 * What this run made, so that a failure can take back exactly that: a directory it made goes as a
 * whole (with the parents it had to make), one that was there and empty is emptied again.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "basebackup/internal.h"
#include "common/file.h"

typedef struct Claim {
    char *path;
    char *made_top; /* topmost directory that was made for it; NULL: it was there, empty */
    char *real;     /* without links: to tell whether two are one */
} Claim;

struct Target {
    Claim *claims;
    size_t count;
    size_t capacity;
};

Target *
target_new(Error *err)
{
    return mem_zero(sizeof(Target), err);
}

static bool
has_file(const char *directory, const char *name)
{
    char path[4096];
    int len = snprintf(path, sizeof path, "%s/%s", directory, name);

    return len < (int)sizeof path && access(path, F_OK) == 0;
}

static bool
refuse_not_empty(const char *path, Error *err)
{
    (void)error_set(err, ERR_USAGE, "directory \"%s\" exists but is not empty", path);
    if (has_file(path, TARGET_BAD_PAGES))
        (void)error_hint(err, "It holds a backup that was kept although pages in it are damaged "
                              "(" TARGET_BAD_PAGES " lists them): look at it before you remove "
                              "anything.");
    else if (has_file(path, "backup_manifest.tmp"))
        (void)error_hint(err, "It holds a backup that was never finished, or kept with damaged "
                              "pages (backup_manifest.tmp is there): remove it only if nobody "
                              "writes or needs it.");
    return false;
}

/* Remember it first: whatever is made afterwards can be taken back. */
static Claim *
add_claim(Target *target, const char *path, Error *err)
{
    void *claims = target->claims;
    Claim *claim;

    if (!mem_grow(&claims, &target->capacity, target->count + 1, sizeof(Claim), err))
        return NULL;
    target->claims = claims;
    claim = &target->claims[target->count];
    *claim = (Claim){.path = mem_strdup(path, err)};
    return claim->path == NULL ? NULL : claim;
}

static void
claim_free(Claim *claim)
{
    free(claim->path);
    free(claim->made_top);
    free(claim->real);
}

/* Two trees in one directory would overwrite each other, and neither could be taken back alone. */
static bool
check_apart(const Target *target, Claim *claim, Error *err)
{
    claim->real = realpath(claim->path, NULL);
    if (claim->real == NULL)
        return error_set_errno(err, errno, "could not resolve directory \"%s\"", claim->path);
    for (size_t i = 0; i < target->count - 1; i++) {
        const Claim *other = &target->claims[i];

        if (path_holds(other->real, claim->real) || path_holds(claim->real, other->real))
            return error_set(err, ERR_USAGE,
                             "directory \"%s\" cannot be used: it overlaps directory \"%s\", which "
                             "is part of the same backup",
                             claim->path, other->path);
    }
    return true;
}

/* The mode is the server's, whatever our umask took away. */
static bool
set_mode(const char *path, mode_t mode, Error *err)
{
    if (chmod(path, mode) != 0)
        return error_set_errno(err, errno, "could not set permissions on directory \"%s\"", path);
    return true;
}

bool
target_claim(Target *target, const char *path, mode_t mode, Error *err)
{
    DirState state;
    Claim *claim;

    if (!dir_state(path, &state, err))
        return false;
    if (state == DIR_NOT_EMPTY)
        return refuse_not_empty(path, err);
    claim = add_claim(target, path, err);
    if (claim == NULL)
        return false;
    if (!dir_make(path, mode, &claim->made_top, err)) {
        claim_free(claim);
        return false;
    }
    target->count++;

    return (claim->made_top == NULL || set_mode(path, mode, err)) &&
           check_apart(target, claim, err);
}

bool
target_make_inside(const char *parent, const char *name, mode_t mode, Error *err)
{
    char *path = path_join(parent, name, err);
    char *top = NULL;
    bool ok = path != NULL && dir_make(path, mode, &top, err) && set_mode(path, mode, err);

    free(top);
    free(path);
    return ok;
}

/* ---- what is made in them ---- */

/* What is nowhere below a claimed directory would never be taken back. */
static bool
is_inside(const Target *target, const char *path)
{
    for (size_t i = 0; i < target->count; i++) {
        const char *outer = target->claims[i].path;

        if (strlen(path) > strlen(outer) && path_holds(outer, path))
            return true;
    }
    return false;
}

bool
target_link(const Target *target, const char *path, const char *to, Error *err)
{
    if (!is_inside(target, path))
        return error_set(err, ERR_BUG, "symbolic link \"%s\" is outside the backup", path);
    if (symlink(to, path) != 0)
        return error_set_errno(err, errno, "could not create symbolic link \"%s\" to \"%s\"", path,
                               to);
    return true;
}

static bool
fill_file(int fd, Span content, mode_t mode, const char *path, Error *err)
{
    if (fchmod(fd, mode) != 0)
        return error_set_errno(err, errno, "could not set permissions of file \"%s\"", path);
    return file_write(fd, content.data, content.len, path, err);
}

/* Its content first, then its name. */
static bool
write_file(const char *path, Span content, mode_t mode, SyncMethod sync, Error *err)
{
    int fd = file_open(path, O_WRONLY | O_CREAT | O_EXCL, mode, err);

    if (fd < 0)
        return false;
    if (!fill_file(fd, content, mode, path, err) ||
        (sync != SYNC_NONE && !file_sync(fd, path, err))) {
        file_close_quietly(fd);
        return false;
    }
    return file_close(fd, path, err) && (sync == SYNC_NONE || file_sync_parent(path, err));
}

bool
target_make_file(const char *parent, const char *name, Span content, mode_t mode, SyncMethod sync,
                 Error *err)
{
    char *path = path_join(parent, name, err);
    bool ok = path != NULL && write_file(path, content, mode, sync, err);

    free(path);
    return ok;
}

/* ---- making them last ---- */

/*
 * The name of a directory that was made. We may have the right to make one beside it and not to
 * read the directory that holds it; then the whole file system is synced instead.
 */
static bool
sync_name(const char *path, Error *err)
{
    Error refused = ERROR_INIT;
    bool ok;
    int fd;

    if (file_sync_parent(path, &refused))
        return true;
    if (refused.sys_errno != EACCES) {
        *err = refused;
        return false;
    }
    fd = file_open(path, O_RDONLY | O_DIRECTORY, 0, err);
    if (fd < 0)
        return false;
    ok = syncfs(fd) == 0 ||
         error_set_errno(err, errno, "could not sync the file system of \"%s\"", path);
    file_close_quietly(fd);
    return ok;
}

/* Those above the claimed one; its own name is synced with its content. */
static bool
sync_made_parents(const Claim *claim, Error *err)
{
    size_t top = strlen(claim->made_top);
    char *path = mem_strdup(claim->path, err);
    bool ok = path != NULL;

    while (ok && strlen(path) > top) {
        char *parent = path_parent(path, err);

        free(path);
        path = parent;
        ok = path != NULL && sync_name(path, err);
    }
    free(path);
    return ok;
}

bool
target_sync(const Target *target, Error *err)
{
    for (size_t i = 0; i < target->count; i++) {
        const Claim *claim = &target->claims[i];

        if (claim->made_top != NULL && !sync_made_parents(claim, err))
            return false;
    }
    return true;
}

/* ---- taking back ---- */

static void
tell_not_removed(const BackupObserver *observer, const char *what, const char *path,
                 const Error *err)
{
    observe_info(observer, "failed to remove %s \"%s\": %s", what, path, err->message);
}

/* Remove the parents that were made for `claim`, from below, as far as they are empty. Cuts its
 * path: memory may be what has run out. */
static void
remove_made_parents(Claim *claim, const BackupObserver *observer)
{
    Error err = ERROR_INIT;
    char *slash;

    while (strlen(claim->path) > strlen(claim->made_top) &&
           (slash = strrchr(claim->path, '/')) != NULL) {
        *slash = '\0';
        if (rmdir(claim->path) == 0 || errno == ENOENT)
            continue;
        if (errno != ENOTEMPTY && errno != EEXIST) {
            (void)error_set_errno(&err, errno, "could not remove directory \"%s\"", claim->path);
            tell_not_removed(observer, "directory", claim->path, &err);
        }
        break;
    }
}

static void
take_back_claim(Claim *claim, const BackupObserver *observer)
{
    Error err = ERROR_INIT;

    if (claim->made_top != NULL) {
        observe_info(observer, "removing directory \"%s\"", claim->path);
        if (dir_remove(claim->path, &err))
            remove_made_parents(claim, observer);
        else
            tell_not_removed(observer, "directory", claim->path, &err);
    } else {
        observe_info(observer, "removing contents of directory \"%s\"", claim->path);
        if (!dir_remove_contents(claim->path, &err))
            tell_not_removed(observer, "contents of directory", claim->path, &err);
    }
}

void
target_take_back(Target *target, const BackupObserver *observer)
{
    while (target->count > 0) {
        Claim *claim = &target->claims[--target->count];

        take_back_claim(claim, observer);
        claim_free(claim);
    }
}

void
target_tell_kept(const Target *target, const BackupObserver *observer)
{
    for (size_t i = 0; i < target->count; i++)
        observe_info(observer, "directory \"%s\" not removed at user's request",
                     target->claims[i].path);
}

void
target_free(Target *target)
{
    if (target == NULL)
        return;
    for (size_t i = 0; i < target->count; i++)
        claim_free(&target->claims[i]);
    free(target->claims);
    free(target);
}
