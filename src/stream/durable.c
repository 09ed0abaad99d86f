#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statfs.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "common/file.h"
#include "stream/internal.h"

#ifndef XFS_MAGIC
#define XFS_MAGIC 0x58465342 /* "XFSB" */
#endif

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

/*
 * syncfs tells failures of writing since Linux 5.8, and since 5.17 what the file system itself
 * says. On a network file system, or one that is made of others, it may tell less than fsync does,
 * or wait for more.
 */
bool
durable_tells_failures(int fd)
{
    struct utsname system;
    struct statfs fs;
    unsigned major;
    unsigned minor;

    if (uname(&system) != 0 || sscanf(system.release, "%u.%u", &major, &minor) != 2 || major < 5 ||
        (major == 5 && minor < 17))
        return false;
    return fstatfs(fd, &fs) == 0 && (fs.f_type == EXT4_SUPER_MAGIC || fs.f_type == XFS_MAGIC ||
                                     fs.f_type == BTRFS_SUPER_MAGIC);
}

uint64_t
durable_waiting(void)
{
    char text[4096];
    int fd = open("/proc/meminfo", O_RDONLY | O_CLOEXEC);
    ssize_t len = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    const char *line;

    file_close_quietly(fd);
    text[len < 0 ? 0 : len] = '\0';
    line = strstr(text, "\nDirty:");
    return line == NULL ? 0 : strtoull(line + strlen("\nDirty:"), NULL, 10) * 1024;
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
