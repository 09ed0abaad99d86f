/*
 * A file that one program at a time writes, under a name that tells everybody that it is not
 * finished.
 *
 * A program that is killed leaves it behind. The next one that wants the same file finds it under
 * the same name and takes it over: nothing piles up. So that two who want it at once do not write
 * into each other's, whoever writes it holds a lock, which ends with the process. File systems
 * without locks do without.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "archive/internal.h"
#include "common/file.h"

static bool
cannot_lock(int errnum)
{
    static const int answers[] = {EBADF, EINVAL, ENOLCK, ENOSYS, EOPNOTSUPP};

    for (size_t i = 0; i < sizeof answers / sizeof answers[0]; i++) {
        if (errnum == answers[i])
            return true;
    }
    return false;
}

static bool
lock(ClaimedFile *file, Error *err)
{
    file->locked = false;
    while (flock(file->fd, LOCK_EX | LOCK_NB) != 0) {
        if (cannot_lock(errno))
            return true;
        if (errno == EINTR)
            continue;
        (void)error_set_errno(err, errno, "could not lock file \"%s\"", file->path);
        if (errno == EWOULDBLOCK)
            (void)error_hint(err, "Another process is writing it.");
        return false;
    }
    file->locked = true;
    return true;
}

/* Whoever held the lock may have given the file its name, or removed it; or had given it one
 * besides this when it was killed: then it is not for us to write to. */
static bool
still_has_name(const ClaimedFile *file, bool *ret_has, Error *err)
{
    struct stat own;
    struct stat named;

    if (fstat(file->fd, &own) != 0)
        return error_set_errno(err, errno, "could not stat file \"%s\"", file->path);
    if (!S_ISREG(own.st_mode))
        return error_set(err, ERR_FORMAT, "\"%s\" is not a regular file", file->path);
    *ret_has = false;
    if (lstat(file->path, &named) != 0)
        return errno == ENOENT ||
               error_set_errno(err, errno, "could not stat file \"%s\"", file->path);
    if (own.st_nlink > 1 && unlink(file->path) != 0)
        return error_set_errno(err, errno, "could not remove file \"%s\"", file->path);
    *ret_has = own.st_nlink == 1 && named.st_ino == own.st_ino && named.st_dev == own.st_dev;
    return true;
}

static bool
open_once(ClaimedFile *file, bool *ret_has, Error *err)
{
    file->fd = file_open(file->path, O_RDWR | O_CREAT | O_NOFOLLOW | O_NONBLOCK, 0600, err);
    if (file->fd < 0 || !lock(file, err))
        return false;
    file->ours = true;
    if (!still_has_name(file, ret_has, err))
        return false;
    file->ours = *ret_has;
    return true;
}

static bool
open_claimed(ClaimedFile *file, mode_t mode, Error *err)
{
    bool has = false;

    while (!has) {
        file_close_quietly(file->fd);
        file->fd = -1;
        if (!open_once(file, &has, err))
            return false;
    }
    if (ftruncate(file->fd, 0) != 0)
        return error_set_errno(err, errno, "could not truncate file \"%s\"", file->path);
    if (fchmod(file->fd, mode) != 0)
        return error_set_errno(err, errno, "could not set permissions of file \"%s\"", file->path);
    return true;
}

bool
claimed_file_open(ClaimedFile *file, char *path, mode_t mode, Error *err)
{
    *file = (ClaimedFile){.fd = -1, .path = path};
    return path != NULL && open_claimed(file, mode, err);
}

bool
claimed_file_rename(ClaimedFile *file, const char *path, Error *err)
{
    if (!file_rename(file->path, path, err))
        return false;
    file->ours = false;
    return true;
}

/* A file system without hard links. */
static bool
cannot_link(int errnum)
{
    return errnum == EPERM || errnum == EOPNOTSUPP || errnum == ENOSYS || errnum == EMLINK ||
           errnum == EINVAL;
}

bool
claimed_file_rename_new(ClaimedFile *file, const char *path, bool *ret_exists, Error *err)
{
    struct stat st;

    *ret_exists = false;
    if (linkat(AT_FDCWD, file->path, AT_FDCWD, path, 0) == 0)
        return true; /* its old name goes with claimed_file_free */
    if (errno == EEXIST || (cannot_link(errno) && lstat(path, &st) == 0)) {
        *ret_exists = true;
        return true;
    }
    if (cannot_link(errno) || errno == ENOENT)
        return claimed_file_rename(file, path, err);
    return error_set_errno(err, errno, "could not link file \"%s\" to \"%s\"", file->path, path);
}

void
claimed_file_free(ClaimedFile *file)
{
    if (file->ours)
        (void)unlink(file->path);
    file_close_quietly(file->fd);
    free(file->path);
    *file = (ClaimedFile){.fd = -1};
}
