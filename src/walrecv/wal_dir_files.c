/*
 * The small files of a WAL directory: timeline history files, which are there as a whole or not at
 * all, and the marks of what is archived.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/file.h"
#include "walrecv/internal.h"

/* The mode is exactly ours whatever the umask, which belongs to the process. */
static bool
set_mode(int fd, mode_t mode, const char *path, Error *err)
{
    if (fchmod(fd, mode) != 0)
        return error_set_errno(err, errno, "could not set permissions of file \"%s\"", path);
    return true;
}

static bool
is_durable(const WalDirConfig *config)
{
    return config->sync == WAL_DURABLE;
}

/* ---- history files ---- */

/* One that exists may be written again, but not become another one. */
static bool
check_same(const char *path, Span content, Error *err)
{
    Buf old = BUF_INIT;
    struct stat st;
    bool ok = true;

    if (lstat(path, &st) != 0 && errno == ENOENT)
        return true;
    if (!file_load(path, WAL_HISTORY_MAX, &old, err))
        ok = false;
    else if (old.len != content.len ||
             (old.len > 0 && memcmp(old.data, content.data, old.len) != 0))
        ok = error_set(err, ERR_FORMAT,
                       "timeline history file \"%s\" exists and differs from the server's", path);
    buf_free(&old);
    return ok;
}

static bool
sync_data(const WalDirConfig *config, int fd, const char *path, Error *err)
{
    if (is_durable(config) && fdatasync(fd) != 0)
        return error_set_errno(err, errno, "could not fsync file \"%s\"", path);
    return true;
}

static bool
fill(const WalDirConfig *config, const char *path, Span content, Error *err)
{
    int fd = file_open(path, O_WRONLY | O_CREAT | O_TRUNC, config->file_mode, err);

    if (fd < 0)
        return false;
    if (set_mode(fd, config->file_mode, path, err) &&
        file_write(fd, content.data, content.len, path, err) && sync_data(config, fd, path, err))
        return file_close(fd, path, err);
    file_close_quietly(fd);
    return false;
}

static bool
write_through(const WalDirConfig *config, const char *path, Span content, Error *err)
{
    Buf temp = BUF_INIT;
    bool ok = buf_printf(&temp, err, "%s.tmp", path);

    if (ok) {
        ok = fill(config, buf_text(&temp), content, err) &&
             file_rename(buf_text(&temp), path, err) && wal_dir_sync_names(config, err);
        if (!ok)
            (void)unlink(buf_text(&temp));
    }
    buf_free(&temp);
    return ok;
}

bool
wal_history_write(const WalDirConfig *config, const char *name, Span content, Error *err)
{
    char *path = path_join(config->directory, name, err);
    bool ok =
        path != NULL && check_same(path, content, err) && write_through(config, path, content, err);

    free(path);
    return ok;
}

/* ---- archive_status ---- */

static bool
make_empty(const char *path, mode_t mode, Error *err)
{
    int fd = file_open(path, O_WRONLY | O_CREAT | O_TRUNC, mode, err);

    if (fd < 0)
        return false;
    if (set_mode(fd, mode, path, err))
        return file_close(fd, path, err);
    file_close_quietly(fd);
    return false;
}

bool
archive_status_done(const WalDirConfig *config, const char *name, Error *err)
{
    char done[WAL_DONE_NAME_SIZE];
    char *path;
    bool ok;

    if (!config->archive_status)
        return true;
    wal_done_name(done, name);
    path = path_join(config->directory, done, err);
    ok = path != NULL && make_empty(path, config->file_mode, err);
    free(path);
    return ok;
}

bool
archive_status_sync(const WalDirConfig *config, Error *err)
{
    char *path;
    bool ok;

    if (!config->archive_status || !is_durable(config))
        return true;
    path = path_join(config->directory, "archive_status", err);
    ok = path != NULL && file_sync_path(path, err);
    free(path);
    return ok;
}

/* ---- names ---- */

bool
wal_dir_sync_names(const WalDirConfig *config, Error *err)
{
    return !is_durable(config) || file_sync_path(config->directory, err);
}
