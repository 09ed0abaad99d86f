/*
 * small_files: what small files are to be, one behind the other in a block of memory, and how such
 * a block becomes files. Each has a header, its path with the zero at the end, and its content.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/file.h"
#include "stream/internal.h"

/* Files that are open at the same time. They are written first, and on their way to the disk before
 * the first one is synced: then the file system notes all of them at once. */
#define OPEN_MAX 32

typedef struct SmallHeader {
    uint32_t path_size;
    uint32_t size;
    mode_t mode;
} SmallHeader;

typedef struct SmallFile {
    const char *path;
    Span content;
    mode_t mode;
    int fd;
} SmallFile;

/* ---- one file ---- */

static const char *
name_of(const char *path)
{
    const char *slash = strrchr(path, '/');

    return slash == NULL ? path : slash + 1;
}

int
new_file_create(int dir_fd, const char *path, mode_t mode, Error *err)
{
    struct stat st;
    int fd =
        openat(dir_fd, name_of(path), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode);

    if (fd < 0) {
        (void)error_set_errno(err, errno, "could not create file \"%s\"", path);
        return -1;
    }
    /* The umask may have taken something, or the directory's default list of rights: rarely. */
    if (fstat(fd, &st) == 0 && ((st.st_mode & 07777) == mode || fchmod(fd, mode) == 0))
        return fd;
    (void)error_set_errno(err, errno, "could not set the mode of file \"%s\"", path);
    file_close_quietly(fd);
    return -1;
}

/* ---- into the block ---- */

size_t
small_file_room(const NewFile *file)
{
    return sizeof(SmallHeader) + strlen(file->path) + 1 + (size_t)file->size;
}

size_t
small_file_put(uint8_t *block, const NewFile *file)
{
    const SmallHeader header = {.path_size = (uint32_t)strlen(file->path) + 1,
                                .size = (uint32_t)file->size,
                                .mode = file->mode};

    memcpy(block, &header, sizeof header);
    memcpy(block + sizeof header, file->path, header.path_size);
    return sizeof header + header.path_size;
}

bool
small_files_are_in(const uint8_t *block, const char *path)
{
    const char *first = (const char *)block + sizeof(SmallHeader);
    const size_t len = (size_t)(name_of(path) - path);

    return len == (size_t)(name_of(first) - first) && memcmp(first, path, len) == 0;
}

/* ---- out of it ---- */

static SmallFile
take_file(Span *files)
{
    SmallFile file = {.fd = -1};
    SmallHeader header;

    memcpy(&header, files->data, sizeof header);
    file.mode = header.mode;
    file.path = (const char *)files->data + sizeof header;
    file.content.data = files->data + sizeof header + header.path_size;
    file.content.len = header.size;
    files->len -= sizeof header + header.path_size + header.size;
    files->data = file.content.data + file.content.len;
    return file;
}

static bool
write_file(int dir_fd, SmallFile *file, SmallSync sync, Error *err)
{
    const Span content = file->content;

    file->fd = new_file_create(dir_fd, file->path, file->mode, err);
    if (file->fd < 0)
        return false;
    if (content.len == 0)
        return true;
    if (!file_pwrite(file->fd, content.data, content.len, 0, file->path, err))
        return false;
    if (sync == SMALL_SYNC) /* a hint: what cannot be written is for the sync to report */
        (void)sync_file_range(file->fd, 0, 0, SYNC_FILE_RANGE_WRITE);
    return true;
}

static bool
end_file(SmallFile *file, SmallSync sync, Error *err)
{
    const int fd = file->fd;

    if (sync == SMALL_SYNC && !file_sync(fd, file->path, err))
        return false;
    file->fd = -1;
    return file_close(fd, file->path, err);
}

bool
small_files_write(int dir_fd, Span *files, SmallSync sync, Error *err)
{
    SmallFile open[OPEN_MAX];
    size_t count = 0;
    bool ok = true;

    while (ok && files->len > 0 && count < OPEN_MAX) {
        open[count] = take_file(files);
        ok = write_file(dir_fd, &open[count++], sync, err);
    }
    for (size_t i = 0; i < count; i++) {
        ok = ok && end_file(&open[i], sync, err);
        file_close_quietly(open[i].fd);
    }
    return ok;
}
