/*
 * NAME.partial, while it is written.
 *
 * It has the size of a segment from the start: a full disk shows when the segment begins, and not
 * in the middle of it, and no write makes the file longer. Room is reserved where the file system
 * can; a file that exists keeps all that it holds.
 *
 * A segment that is to be compressed may have been gathered in memory first: then the file is made
 * when a FLUSH or the end of the stream wants it, and filled with all that there is.
 *
 * Reserved room is unwritten room: the sync of what is written into it has to wait for the journal,
 * too. Where each commit of a server waits for a sync, segments begin in room of written zeros,
 * which was made before. It has no name until then, so nothing is left of it whatever happens.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/file.h"
#include "stream/stage.h"
#include "walrecv/internal.h"

/* How much is written at once: larger writes fill larger pages of the kernel's, which takes longer.
 */
#define FILL_PIECE ((size_t)128 * 1024)

/* ---- opening ---- */

static char *
partial_path(const WalDirConfig *config, const char *name, Error *err)
{
    char partial[WAL_NAME_SIZE + sizeof ".partial"];

    (void)snprintf(partial, sizeof partial, "%s.partial", name);
    return path_join(config->directory, partial, err);
}

bool
segment_file_exists(const WalDirConfig *config, const char *name, bool *ret_exists, Error *err)
{
    char *path = partial_path(config, name, err);
    struct stat st;

    if (path == NULL)
        return false;
    *ret_exists = lstat(path, &st) == 0;
    free(path);
    return true;
}

static bool
file_size(const SegmentFile *file, uint64_t *ret_size, Error *err)
{
    struct stat st;

    if (fstat(file->fd, &st) != 0)
        return error_set_errno(err, errno, "could not stat file \"%s\"", file->path);
    *ret_size = (uint64_t)st.st_size;
    return true;
}

static bool
set_size(const SegmentFile *file, Error *err)
{
    if (ftruncate(file->fd, (off_t)file->size) != 0)
        return error_set_errno(err, errno, "could not truncate file \"%s\"", file->path);
    return true;
}

/* For file systems that cannot reserve. */
static bool
lengthen(const SegmentFile *file, Error *err)
{
    uint64_t size;

    return file_size(file, &size, err) && (size >= file->size || set_size(file, err));
}

static bool
reserve(const SegmentFile *file, Error *err)
{
    const int failure = file_reserve(file->fd, file->size);

    if (failure == 0)
        return true;
    if (failure == EOPNOTSUPP)
        return lengthen(file, err);
    return error_set_errno(err, failure, "could not reserve %llu bytes for file \"%s\"",
                           (unsigned long long)file->size, file->path);
}

/* The mode is exactly ours whatever the umask, which belongs to the process. */
static bool
prepare(const SegmentFile *file, mode_t mode, Error *err)
{
    if (fchmod(file->fd, mode) != 0)
        return error_set_errno(err, errno, "could not set permissions of file \"%s\"", file->path);
    return reserve(file, err);
}

bool
segment_file_open(const WalDirConfig *config, const char *name, SegmentFile *ret_file, Error *err)
{
    SegmentFile file = {.fd = -1,
                        .path = partial_path(config, name, err),
                        .size = config->segment_size,
                        .durable = config->sync == WAL_DURABLE};

    file.lasts = file.durable && config->compression.method == COMPRESSION_NONE;

    if (file.path != NULL)
        file.fd = file_open(file.path, O_RDWR | O_CREAT, config->file_mode, err);
    if (file.fd < 0 || !prepare(&file, config->file_mode, err)) {
        segment_file_free(&file);
        return false;
    }
    *ret_file = file;
    return true;
}

/* ---- writing ---- */

bool
segment_file_write(SegmentFile *file, Span data, uint64_t at, Error *err)
{
    if (!file_pwrite(file->fd, data.data, data.len, at, file->path, err))
        return false;
    if (file->lasts)
        durable_write_back(file->fd, at + data.len, &file->started);
    return true;
}

bool
segment_file_fill(SegmentFile *file, Span data, Error *err)
{
    uint64_t at = 0;

    while (data.len > 0) {
        Span piece = {.data = data.data, .len = data.len < FILL_PIECE ? data.len : FILL_PIECE};

        if (!segment_file_write(file, piece, at, err))
            return false;
        data.data += piece.len;
        data.len -= piece.len;
        at += piece.len;
    }
    return true;
}

/* Real zeros, not a hole: the server that recovers from this directory may reuse the file in place,
 * where a full disk would be fatal. */
bool
segment_file_pad(SegmentFile *file, uint64_t at, Error *err)
{
    while (at < file->size) {
        Span zeros = wal_zeros(file->size - at);

        if (!segment_file_write(file, zeros, at, err))
            return false;
        at += zeros.len;
    }
    return true;
}

bool
segment_file_trim(SegmentFile *file, Error *err)
{
    uint64_t size;

    if (!file_size(file, &size, err))
        return false;
    if (size < file->size)
        return error_set(err, ERR_FORMAT, "file \"%s\" has %llu bytes, should be %llu", file->path,
                         (unsigned long long)size, (unsigned long long)file->size);
    return size == file->size || set_size(file, err);
}

/* ---- reading ---- */

/* Writing is by offsets: the file's own is that of the one who reads. */
bool
segment_bytes_rewind(SegmentBytes *bytes, Error *err)
{
    const SegmentFile *file = &bytes->segment->file;

    bytes->at = 0;
    if (bytes->segment->bytes == NULL && lseek(file->fd, 0, SEEK_SET) != 0)
        return error_set_errno(err, errno, "could not seek in file \"%s\"", file->path);
    return true;
}

/* While it is in memory its file is somebody else's business. */
bool
segment_bytes_next(SegmentBytes *bytes, size_t len, Span *ret_bytes, Error *err)
{
    const CompleteSegment *segment = bytes->segment;
    size_t left = bytes->size - bytes->at;

    if (segment->bytes != NULL)
        *ret_bytes = (Span){.data = segment->bytes + bytes->at, .len = len < left ? len : left};
    else if (file_read(segment->file.fd, bytes->buffer, len, segment->file.path, &len, err))
        *ret_bytes = (Span){.data = bytes->buffer, .len = len};
    else
        return false;
    bytes->at += ret_bytes->len;
    return true;
}

/* ---- ending ---- */

/* Content and, where it changed, size; fsync adds nothing but times. */
bool
segment_file_sync(const SegmentFile *file, Error *err)
{
    if (file->durable && fdatasync(file->fd) != 0)
        return error_set_errno(err, errno, "could not fsync file \"%s\"", file->path);
    return true;
}

bool
segment_file_close(SegmentFile *file, Error *err)
{
    int fd = file->fd;

    file->fd = -1;
    return file_close(fd, file->path, err);
}

void
segment_file_free(SegmentFile *file)
{
    file_close_quietly(file->fd);
    free(file->path);
    *file = SEGMENT_FILE_NONE;
}

/* ---- room for the next one ---- */

static bool
fill_room(int fd, const WalDirConfig *config, const atomic_bool *ending, Error *err)
{
    uint64_t started = 0;
    uint64_t at = 0;

    while (at < config->segment_size) {
        Span zeros = wal_zeros(config->segment_size - at);

        if (atomic_load(ending))
            return error_set_stopped(err);
        if (!file_pwrite(fd, zeros.data, zeros.len, at, config->directory, err))
            return false;
        at += zeros.len;
        durable_write_back(fd, at, &started);
    }
    if (fdatasync(fd) != 0)
        return error_set_errno(err, errno, "could not fsync a file in \"%s\"", config->directory);
    return true;
}

int
segment_room_make(const WalDirConfig *config, const atomic_bool *ending)
{
    Error err = ERROR_INIT;
    int fd = open(config->directory, O_TMPFILE | O_RDWR | O_CLOEXEC, config->file_mode);

    if (fd >= 0 && !fill_room(fd, config, ending, &err)) {
        file_close_quietly(fd);
        return -1;
    }
    return fd;
}

bool
segment_room_use(int room, const WalDirConfig *config, const char *name, Error *err)
{
    char link[32];
    char *path;

    if (room < 0)
        return true;
    path = partial_path(config, name, err);
    (void)snprintf(link, sizeof link, "/proc/self/fd/%d", room);
    if (path != NULL) {
        /* Where it does not get the name, the file is opened without it. */
        int linked UNUSED = linkat(AT_FDCWD, link, AT_FDCWD, path, AT_SYMLINK_FOLLOW);
    }
    file_close_quietly(room);
    free(path);
    return path != NULL;
}
