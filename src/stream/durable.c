#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "common/file.h"
#include "stream/internal.h"

#define WRITE_BACK_STEP ((uint64_t)8 * 1024 * 1024)

void
durable_write_back(int fd, uint64_t written, uint64_t *started)
{
    if (written - *started < WRITE_BACK_STEP)
        return;
    /* A hint: what cannot be written now is for the sync to report. */
    (void)sync_file_range(fd, (off_t)*started, (off_t)(written - *started), SYNC_FILE_RANGE_WRITE);
    *started = written;
}

bool
durable_sync_file_system(int fd, const char *path, Error *err)
{
    if (syncfs(fd) != 0)
        return error_set_errno(err, errno, "could not sync the file system of \"%s\"", path);
    return true;
}

bool
durable_open_parent(int fd, const char *path, int *ret_parent, Error *err)
{
    int parent = openat(fd, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (parent < 0 && errno == EACCES) {
        if (!durable_sync_file_system(fd, path, err))
            return false;
    } else if (parent < 0) {
        return error_set_errno(err, errno, "could not open directory \"%s/..\"", path);
    }
    *ret_parent = parent;
    return true;
}

bool
durable_sync_parent(int fd, const char *path, Error *err)
{
    bool ok = true;
    int parent;

    if (!durable_open_parent(fd, path, &parent, err))
        return false;
    if (parent >= 0 && fsync(parent) != 0)
        ok = error_set_errno(err, errno, "could not fsync file \"%s/..\"", path);
    file_close_quietly(parent);
    return ok;
}
