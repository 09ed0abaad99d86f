#include "common/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- descriptors ---- */

int
file_open(const char *path, int flags, mode_t mode, Error *err)
{
    int fd;

    do
        fd = open(path, flags | O_CLOEXEC, mode);
    while (fd < 0 && errno == EINTR);
    if (fd < 0) {
        const char *verb = (flags & O_CREAT) != 0 ? "create" : "open";

        (void)error_set_errno(err, errno, "could not %s file \"%s\"", verb, path);
    }
    return fd;
}

/* What write(2) or pwrite(2) returned: how far it got, which is nowhere when it was interrupted. */
static bool
judge_write(ssize_t written, const char *path, size_t *ret_written, Error *err)
{
    if (written == 0 || (written < 0 && errno != EINTR))
        return error_set_errno(err, written < 0 ? errno : ENOSPC, "could not write to file \"%s\"",
                               path);
    *ret_written = written < 0 ? 0 : (size_t)written;
    return true;
}

bool
file_write(int fd, const void *data, size_t len, const char *path, Error *err)
{
    const uint8_t *at = data;
    size_t written;

    for (; len > 0; at += written, len -= written) {
        if (!judge_write(write(fd, at, len), path, &written, err))
            return false;
    }
    return true;
}

bool
file_pwrite(int fd, const void *data, size_t len, uint64_t offset, const char *path, Error *err)
{
    const uint8_t *at = data;
    size_t written;

    for (; len > 0; at += written, len -= written, offset += written) {
        if (!judge_write(pwrite(fd, at, len, (off_t)offset), path, &written, err))
            return false;
    }
    return true;
}

bool
file_read(int fd, void *data, size_t len, const char *path, size_t *ret_len, Error *err)
{
    uint8_t *at = data;
    size_t got = 0;

    while (got < len) {
        ssize_t count = read(fd, at + got, len - got);

        if (count < 0 && errno == EINTR)
            continue;
        if (count < 0)
            return error_set_errno(err, errno, "could not read file \"%s\"", path);
        if (count == 0)
            break;
        got += (size_t)count;
    }
    *ret_len = got;
    return true;
}

/* The content of `fd` into `buf`, one step at a time: the size of what is read is not trusted. */
static bool
load_all(int fd, const char *path, uint64_t limit, Buf *buf, Error *err)
{
    const size_t step = 65536;
    uint64_t total = 0;
    size_t got;

    do {
        if (!buf_reserve(buf, step + 1, err) ||
            !file_read(fd, buf->data + buf->len, step, path, &got, err))
            return false;
        total += got;
        if (total > limit)
            return error_set(err, ERR_FORMAT, "file \"%s\" is larger than %llu bytes", path,
                             (unsigned long long)limit);
        buf->len += got;
        buf->data[buf->len] = '\0';
    } while (got == step);
    return true;
}

bool
file_load(const char *path, uint64_t limit, Buf *buf, Error *err)
{
    int fd = file_open(path, O_RDONLY, 0, err);
    size_t len = buf->len;
    bool ok;

    if (fd < 0)
        return false;
    ok = load_all(fd, path, limit, buf, err);
    file_close_quietly(fd);
    if (!ok && buf->data != NULL) {
        buf->len = len; /* half a file is not what was asked for */
        buf->data[len] = '\0';
    }
    return ok;
}

int
file_reserve(int fd, uint64_t size)
{
    int result;

    do
        result = fallocate(fd, 0, 0, (off_t)size);
    while (result != 0 && errno == EINTR);
    if (result == 0)
        return 0;
    return errno == ENOSYS || errno == EINVAL ? EOPNOTSUPP : errno;
}

bool
file_sync(int fd, const char *path, Error *err)
{
    if (fsync(fd) != 0)
        return error_set_errno(err, errno, "could not fsync file \"%s\"", path);
    return true;
}

bool
file_close(int fd, const char *path, Error *err)
{
    /* Linux has closed the descriptor whatever close says; EINTR is no failure. */
    if (close(fd) != 0 && errno != EINTR)
        return error_set_errno(err, errno, "could not close file \"%s\"", path);
    return true;
}

void
file_close_quietly(int fd)
{
    if (fd >= 0)
        (void)close(fd);
}

bool
file_sync_path(const char *path, Error *err)
{
    int fd = file_open(path, O_RDONLY, 0, err);
    bool ok;

    if (fd < 0)
        return false;
    ok = file_sync(fd, path, err);
    file_close_quietly(fd);
    return ok;
}

bool
file_sync_parent(const char *path, Error *err)
{
    char *parent = path_parent(path, err);
    bool ok = parent != NULL && file_sync_path(parent, err);

    free(parent);
    return ok;
}

bool
file_rename(const char *from, const char *to, Error *err)
{
    if (rename(from, to) != 0)
        return error_set_errno(err, errno, "could not rename file \"%s\" to \"%s\"", from, to);
    return true;
}

bool
file_rename_durable(const char *from, const char *to, Error *err)
{
    return file_rename(from, to, err) && file_sync_parent(to, err);
}

/* ---- paths ---- */

char *
path_join(const char *dir, const char *name, Error *err)
{
    size_t size = strlen(dir) + strlen(name) + 2;
    char *path = mem_alloc(size, err);

    if (path != NULL)
        (void)snprintf(path, size, "%s/%s", dir, name);
    return path;
}

char *
path_parent(const char *path, Error *err)
{
    size_t len = strlen(path);
    char *parent;

    while (len > 1 && path[len - 1] == '/')
        len--;
    while (len > 0 && path[len - 1] != '/')
        len--;
    if (len == 0)
        return mem_strdup(".", err);
    while (len > 1 && path[len - 1] == '/')
        len--;
    parent = mem_alloc(len + 1, err);
    if (parent != NULL) {
        memcpy(parent, path, len);
        parent[len] = '\0';
    }
    return parent;
}

/* The start of the last component written to `path`, whose `len` bytes end without a slash. */
static size_t
last_component(const char *path, size_t len)
{
    while (len > 0 && path[len - 1] != '/')
        len--;
    return len;
}

void
path_canonicalize(char *path)
{
    bool absolute = path[0] == '/';
    size_t root = absolute ? 1 : 0;
    size_t len = root;
    const char *from = path + root;

    if (*path == '\0')
        return; /* "." would not fit */
    while (*from != '\0') {
        size_t part = strcspn(from, "/");
        size_t last = last_component(path, len);
        bool up = part == 2 && from[0] == '.' && from[1] == '.';
        bool last_is_up = len - last == 2 && path[last] == '.' && path[last + 1] == '.';

        if (part == 0 || (part == 1 && from[0] == '.') || (up && absolute && len == root)) {
            /* nothing to keep: the root's parent is the root */
        } else if (up && len > root && !last_is_up) {
            len = last > root ? last - 1 : root;
        } else {
            if (len > root)
                path[len++] = '/';
            memmove(path + len, from, part);
            len += part;
        }
        from += part;
        if (*from == '/')
            from++;
    }
    if (len == 0)
        path[len++] = '.';
    path[len] = '\0';
}

bool
path_holds(const char *outer, const char *inner)
{
    size_t len = strlen(outer);

    return strncmp(outer, inner, len) == 0 &&
           (inner[len] == '\0' || inner[len] == '/' || outer[len - 1] == '/');
}

bool
path_is_below(const char *path)
{
    if (path[0] == '\0' || path[0] == '/')
        return false;
    for (;;) {
        size_t part = strcspn(path, "/");

        if (part == 0 || (part == 1 && path[0] == '.') ||
            (part == 2 && path[0] == '.' && path[1] == '.'))
            return false;
        if (path[part] == '\0')
            return true;
        path += part + 1;
    }
}

/* ---- directories ---- */

static bool
is_dot(const char *name)
{
    return strcmp(name, ".") == 0 || strcmp(name, "..") == 0;
}

struct dirent *
dir_next(DIR *dir)
{
    struct dirent *entry;

    do {
        errno = 0;
        entry = readdir(dir);
    } while (entry != NULL && is_dot(entry->d_name));
    return entry;
}

bool
dir_state(const char *path, DirState *ret_state, Error *err)
{
    DIR *dir = opendir(path);
    bool has_entry;

    if (dir == NULL && errno == ENOENT) {
        *ret_state = DIR_MISSING;
        return true;
    }
    if (dir == NULL)
        return error_set_errno(err, errno, "could not access directory \"%s\"", path);
    has_entry = dir_next(dir) != NULL;
    if (!has_entry && errno != 0) {
        (void)error_set_errno(err, errno, "could not read directory \"%s\"", path);
        (void)closedir(dir);
        return false;
    }
    (void)closedir(dir);
    *ret_state = has_entry ? DIR_NOT_EMPTY : DIR_EMPTY;
    return true;
}

/* mkdir for one component; *ret_made tells whether it was not there before. */
static bool
make_one(const char *path, mode_t mode, bool *ret_made, Error *err)
{
    struct stat st;

    if (mkdir(path, mode) == 0) {
        if (chmod(path, mode) != 0) { /* the umask may have taken something */
            (void)error_set_errno(err, errno, "could not set permissions on directory \"%s\"",
                                  path);
            (void)rmdir(path);
            return false;
        }
        *ret_made = true;
        return true;
    }
    if (errno != EEXIST)
        return error_set_errno(err, errno, "could not create directory \"%s\"", path);
    if (stat(path, &st) != 0 || !S_ISDIR(st.st_mode))
        return error_set_errno(err, ENOTDIR, "could not create directory \"%s\"", path);
    *ret_made = false;
    return true;
}

bool
dir_make(const char *path, mode_t mode, char **ret_top, Error *err)
{
    char *copy;
    char *top = NULL;
    char *end;

    if (path[0] == '\0')
        return error_set_errno(err, ENOENT, "could not create directory \"%s\"", path);
    copy = mem_strdup(path, err);
    if (copy == NULL)
        return false;
    end = copy;
    while (end != NULL) {
        bool made = false;

        end = strchr(end + 1, '/');
        if (end != NULL)
            *end = '\0';
        if (!make_one(copy, mode, &made, err))
            goto failed;
        if (made && top == NULL && (top = mem_strdup(copy, err)) == NULL) {
            (void)rmdir(copy);
            goto failed;
        }
        if (end != NULL)
            *end = '/';
    }
    free(copy);
    *ret_top = top;
    return true;

failed:
    if (top != NULL) {
        Error ignored = ERROR_INIT; /* the first failure is the one to report */

        error_ignored(dir_remove(top, &ignored));
        free(top);
    }
    free(copy);
    return false;
}

static bool remove_entries(int fd, const char *path, Error *err);

/* Keep the first failure: `err` is set only while *failed is false. */
static void
note_failure(bool *failed, const Error *seen, Error *err)
{
    if (!*failed)
        *err = *seen;
    *failed = true;
}

/* What is in the open directory "PATH/NAME". */
static bool
remove_subdirectory(int fd, const char *path, const char *name, Error *err)
{
    char *below = path_join(path, name, err);
    bool ok;

    if (below == NULL) {
        file_close_quietly(fd);
        return false;
    }
    ok = remove_entries(fd, below, err);
    free(below);
    return ok;
}

/* A directory may have a mode that shuts its owner out. */
static int
open_to_remove(int dir_fd, const char *name)
{
    const int flags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
    struct stat st;

    if (fstatat(dir_fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(st.st_mode) &&
        (st.st_mode & S_IRWXU) != S_IRWXU) {
        /* Where it is not allowed, opening tells what stands in the way. */
        int changed UNUSED = fchmodat(dir_fd, name, st.st_mode | S_IRWXU, 0);
    }
    return openat(dir_fd, name, flags);
}

static bool
remove_entry(int dir_fd, const char *name, const char *path, Error *err)
{
    int failure;
    int fd;

    if (unlinkat(dir_fd, name, 0) == 0 || errno == ENOENT)
        return true;
    failure = errno;
    if (failure != EISDIR && failure != EPERM)
        return error_set_errno(err, failure, "could not remove file \"%s/%s\"", path, name);

    fd = open_to_remove(dir_fd, name);
    if (fd < 0 && errno == ENOENT)
        return true;
    if (fd < 0)
        return error_set_errno(err, errno == ENOTDIR ? failure : errno,
                               "could not remove \"%s/%s\"", path, name);
    if (!remove_subdirectory(fd, path, name, err))
        return false;
    if (unlinkat(dir_fd, name, AT_REMOVEDIR) != 0 && errno != ENOENT)
        return error_set_errno(err, errno, "could not remove directory \"%s/%s\"", path, name);
    return true;
}

/* All entries of the open directory, which is closed at the end; `path` is for messages. */
static bool
remove_entries(int fd, const char *path, Error *err)
{
    DIR *dir = fdopendir(fd);
    bool failed = false;
    struct dirent *entry;
    Error seen = ERROR_INIT;

    if (dir == NULL) {
        (void)error_set_errno(err, errno, "could not open directory \"%s\"", path);
        file_close_quietly(fd);
        return false;
    }
    while ((entry = dir_next(dir)) != NULL) {
        if (!remove_entry(fd, entry->d_name, path, &seen))
            note_failure(&failed, &seen, err);
    }
    if (errno != 0) {
        (void)error_set_errno(&seen, errno, "could not read directory \"%s\"", path);
        note_failure(&failed, &seen, err);
    }
    (void)closedir(dir);
    return !failed;
}

static bool
remove_contents(const char *path, int flags, Error *err)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | flags);

    if (fd < 0 && errno == ENOENT)
        return true;
    if (fd < 0)
        return error_set_errno(err, errno, "could not open directory \"%s\"", path);
    return remove_entries(fd, path, err);
}

bool
dir_remove_contents(const char *path, Error *err)
{
    /* The user may have given us a link to the directory that is to stay. */
    return remove_contents(path, 0, err);
}

bool
dir_remove(const char *path, Error *err)
{
    if (!remove_contents(path, O_NOFOLLOW, err))
        return false;
    if (rmdir(path) != 0 && errno != ENOENT)
        return error_set_errno(err, errno, "could not remove directory \"%s\"", path);
    return true;
}
