#include <errno.h>
#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include "common/file.h"
#include "walrecv/walrecv.h"

/* What a file system answers that has no locks, or none for directories: NFS wants a descriptor
 * that is open for writing, which a directory's never is. */
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
refuse(const char *directory, int errnum, Error *err)
{
    if (errnum != EWOULDBLOCK)
        return error_set_errno(err, errnum, "could not lock directory \"%s\"", directory);
    (void)error_set(err, ERR_SYSTEM,
                    "could not lock directory \"%s\": another receiver is streaming into it",
                    directory);
    err->sys_errno = errnum;
    return error_hint(err, "Stop that one first, or stream into another directory.");
}

static int
lock(int fd)
{
    while (flock(fd, LOCK_EX | LOCK_NB) != 0) {
        if (errno != EINTR)
            return errno;
    }
    return 0;
}

bool
wal_dir_lock(const char *directory, int *ret_fd, Error *err)
{
    int fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int errnum;

    if (fd < 0)
        return error_set_errno(err, errno, "could not open directory \"%s\"", directory);
    errnum = lock(fd);
    if (errnum != 0) {
        file_close_quietly(fd);
        if (!cannot_lock(errnum))
            return refuse(directory, errnum, err);
        fd = -1;
    }
    *ret_fd = fd;
    return true;
}
