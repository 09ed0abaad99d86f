/*
 * extract: entries become files below a root, which nobody leads out of it.
 *
 * The path of an entry is walked one component at a time from the root's descriptor, with
 * O_NOFOLLOW: a link in the way ends the run, however it came there. The descriptor of the
 * directory that was used last is kept, so that the files of one directory cost one open each.
 * Files are made with O_EXCL: an archive that names a file twice, or a root that is in use, is
 * noticed.
 *
 * The content of pg_wal may have a root of its own. The link that leads there is the caller's and
 * not followed: entries below pg_wal are resolved from that root.
 *
 * A pool of threads writes files and syncs them, small ones together; directories and links are
 * made as they come.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/file.h"
#include "stream/internal.h"
#include "stream/stage.h"

#define MODE_MASK      ((mode_t)0777) /* nothing in a cluster is set-id or sticky */
#define LINK_DIRECTORY "pg_tblspc/"
#define WAL_DIRECTORY  "pg_wal"
#define OPEN_DIRECTORY (O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)

typedef struct Extract {
    Sink sink;
    ExtractConfig config;
    WritePool *pool;
    WriteRoot *roots; /* all that were used, each once */
    size_t root_count;
    size_t root_capacity;

    /* ---- the current archive ---- */
    WriteRoot archive_root;
    WriteRoot wal_root; /* of what is below pg_wal; no path: it is not apart */
    WriteRoot root;     /* that one of them which was used last */
    int dir_fd;         /* the directory used last, -1: none; never the root's own */
    char *dir_path;     /* its path below the root */

    /* ---- the current entry ---- */
    char *path; /* in full, for messages */
    bool is_file;
    uint64_t size;
    uint64_t written;
} Extract;

/* ---- directories ---- */

static void
forget_directory(Extract *extract)
{
    file_close_quietly(extract->dir_fd);
    extract->dir_fd = -1;
    free(extract->dir_path);
    extract->dir_path = NULL;
}

/* Owns both. */
static void
remember_directory(Extract *extract, int fd, char *path)
{
    forget_directory(extract);
    extract->dir_fd = fd;
    extract->dir_path = path;
}

static bool
is_link(int dir_fd, const char *name)
{
    struct stat st;

    return fstatat(dir_fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISLNK(st.st_mode);
}

/* What openat said about directory `path`, told so that a link is recognised. -1. */
static int
refuse_directory(const Extract *extract, int parent, const char *name, const char *path,
                 int failure, Error *err)
{
    if (is_link(parent, name))
        (void)error_set(err, ERR_FORMAT, "\"%s/%s\" is a symbolic link, which is not followed",
                        extract->root.path, path);
    else
        (void)error_set_errno(err, failure, "could not open directory \"%s/%s\"",
                              extract->root.path, path);
    return -1;
}

/* The directory `name` in `parent`, which may exist, with this mode; `path` is what it is called
 * below the root. -1 on failure. */
static int
make_directory(const Extract *extract, int parent, const char *name, const char *path, mode_t mode,
               Error *err)
{
    int fd;

    if (mkdirat(parent, name, mode) != 0 && errno != EEXIST) {
        (void)error_set_errno(err, errno, "could not create directory \"%s/%s\"",
                              extract->root.path, path);
        return -1;
    }
    fd = openat(parent, name, OPEN_DIRECTORY);
    if (fd < 0)
        return refuse_directory(extract, parent, name, path, errno, err);
    if (fchmod(fd, mode) != 0) { /* it was there, or the umask has taken something */
        (void)error_set_errno(err, errno, "could not set the mode of directory \"%s/%s\"",
                              extract->root.path, path);
        file_close_quietly(fd);
        return -1;
    }
    return fd;
}

/* One step of a walk: the mode of what is there is left alone. */
static int
enter_directory(const Extract *extract, int parent, const char *name, const char *path, Error *err)
{
    int fd = openat(parent, name, OPEN_DIRECTORY);

    if (fd >= 0)
        return fd;
    if (errno != ENOENT)
        return refuse_directory(extract, parent, name, path, errno, err);
    return make_directory(extract, parent, name, path, extract->config.directory_mode, err);
}

/* Walk down from the root; what is missing is made. `path` is cut at its slashes and mended. */
static int
walk(const Extract *extract, char *path, Error *err)
{
    int fd = extract->root.fd;
    char *name = path;

    while (name != NULL) {
        char *slash = strchr(name, '/');
        int below;

        if (slash != NULL)
            *slash = '\0';
        below = enter_directory(extract, fd, name, path, err);
        if (fd != extract->root.fd)
            file_close_quietly(fd);
        if (below < 0)
            return -1;
        if (slash != NULL)
            *slash = '/';
        name = slash == NULL ? NULL : slash + 1;
        fd = below;
    }
    return fd;
}

/* The directory that holds `path`, borrowed until the next call; *ret_name is the last component.
 */
static int
enter_parent(Extract *extract, const char *path, const char **ret_name, Error *err)
{
    const char *slash = strrchr(path, '/');
    char *parent;
    int fd;

    *ret_name = slash == NULL ? path : slash + 1;
    if (slash == NULL)
        return extract->root.fd;
    parent = mem_strdup(path, err);
    if (parent == NULL)
        return -1;
    parent[slash - path] = '\0';
    if (extract->dir_fd >= 0 && strcmp(parent, extract->dir_path) == 0) {
        free(parent);
        return extract->dir_fd;
    }
    fd = walk(extract, parent, err);
    if (fd < 0) {
        free(parent);
        return -1;
    }
    remember_directory(extract, fd, parent);
    return fd;
}

/* ---- archives ---- */

/* It is opened once and stays open: the same path is the same root. */
static bool
open_root(Extract *extract, const char *path, WriteRoot *ret_root, Error *err)
{
    void *roots = extract->roots;
    WriteRoot root = {.path = path};

    for (size_t i = 0; i < extract->root_count; i++) {
        if (strcmp(extract->roots[i].path, path) == 0) {
            *ret_root = extract->roots[i];
            return true;
        }
    }
    if (!mem_grow(&roots, &extract->root_capacity, extract->root_count + 1, sizeof(WriteRoot), err))
        return false;
    extract->roots = roots;
    root.fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (root.fd < 0)
        return error_set_errno(err, errno, "could not open directory \"%s\"", path);
    root.whole = extract->config.sync == SYNC_BEST && durable_tells_failures(root.fd);
    extract->roots[extract->root_count++] = root;
    *ret_root = root;
    return true;
}

static bool
begin_archive(Extract *extract, const Archive *archive, Error *err)
{
    const char *wal_directory = archive->tablespace == 0 ? extract->config.wal_directory : NULL;
    const char *path = extract->config.root(extract->config.ctx, archive->tablespace);

    if (path == NULL)
        return error_set(err, ERR_FORMAT, "archive \"%s\" is of unknown tablespace %u",
                         archive->name, archive->tablespace);
    if (!open_root(extract, path, &extract->archive_root, err))
        return false;
    extract->root = extract->archive_root;
    extract->wal_root = (WriteRoot){.path = NULL};
    return wal_directory == NULL || open_root(extract, wal_directory, &extract->wal_root, err);
}

/* ---- entries ---- */

static bool
begin_file(Extract *extract, const char *path, mode_t mode, Error *err)
{
    const char *name;
    int parent = enter_parent(extract, path, &name, err);
    const NewFile file = {.root = &extract->root,
                          .dir_fd = parent,
                          .path = extract->path,
                          .mode = mode,
                          .size = extract->size};

    return parent >= 0 && write_pool_begin(extract->pool, &file, err);
}

static bool
make_named_directory(Extract *extract, const char *path, mode_t mode, Error *err)
{
    const char *name;
    int parent = enter_parent(extract, path, &name, err);
    char *copy;
    int fd;

    if (parent < 0)
        return false;
    fd = make_directory(extract, parent, name, path, mode, err);
    if (fd < 0)
        return false;
    copy = mem_strdup(path, err);
    if (copy == NULL) {
        file_close_quietly(fd);
        return false;
    }
    remember_directory(extract, fd, copy); /* its content comes next */
    return true;
}

/* The entry pg_wal itself, where the directory has been made by the caller. */
static bool
set_root_mode(const Extract *extract, mode_t mode, Error *err)
{
    if (fchmod(extract->root.fd, mode) != 0)
        return error_set_errno(err, errno, "could not set the mode of directory \"%s\"",
                               extract->root.path);
    return true;
}

/* The OID of a link's name: the only place for links in a cluster. */
static bool
link_oid(const Extract *extract, const char *path, Oid *ret_oid)
{
    const size_t len = strlen(LINK_DIRECTORY);

    return extract->sink.tablespace == 0 && strncmp(path, LINK_DIRECTORY, len) == 0 &&
           path[len] != '0' && u32_parse(path + len, ret_oid);
}

static bool
make_link(Extract *extract, const Entry *entry, Error *err)
{
    const ExtractConfig *config = &extract->config;
    const char *target = NULL;
    const char *name;
    Oid oid;
    int parent;

    if (entry->link_target == NULL)
        return error_set(err, ERR_BUG, "link \"%s\" has no target", extract->path);
    if (!link_oid(extract, entry->path, &oid))
        return error_set(err, ERR_FORMAT, "symbolic link \"%s\" is not a tablespace's link",
                         extract->path);
    if (config->link_target != NULL)
        target = config->link_target(config->ctx, oid, entry->link_target);
    if (target == NULL) {
        target = entry->link_target;
        if (target[0] != '/' && !path_is_below(target))
            return error_set(err, ERR_FORMAT, "symbolic link \"%s\" has the unsafe target \"%s\"",
                             extract->path, target);
    }
    parent = enter_parent(extract, entry->path, &name, err);
    if (parent < 0)
        return false;
    if (symlinkat(target, parent, name) != 0)
        return error_set_errno(err, errno, "could not create symbolic link \"%s\" to \"%s\"",
                               extract->path, target);
    return true;
}

/* Which root the entry is below, and what it is called there; "" for that root itself. */
static const char *
choose_root(Extract *extract, const Entry *entry)
{
    const size_t len = strlen(WAL_DIRECTORY);
    const char *path = entry->path;
    WriteRoot root = extract->archive_root;

    if (extract->wal_root.path != NULL && strncmp(path, WAL_DIRECTORY, len) == 0 &&
        (path[len] == '/' || (path[len] == '\0' && entry->kind == ENTRY_DIRECTORY))) {
        root = extract->wal_root;
        path += path[len] == '/' ? len + 1 : len;
    }
    if (root.fd != extract->root.fd)
        forget_directory(extract);
    extract->root = root;
    return path;
}

static bool
begin_entry(Extract *extract, const Entry *entry, Error *err)
{
    const char *path = choose_root(extract, entry);
    mode_t mode = entry->mode & MODE_MASK;

    extract->path = path[0] == '\0' ? mem_strdup(extract->root.path, err)
                                    : path_join(extract->root.path, path, err);
    if (extract->path == NULL)
        return false;
    extract->is_file = entry->kind == ENTRY_FILE;
    extract->size = entry->size;
    extract->written = 0;
    /* Whoever made the entry has looked; what is at stake is worth a second look. */
    if (!path_is_below(entry->path))
        return error_set(err, ERR_FORMAT, "\"%s\" has an unsafe path", extract->path);
    if (entry->kind != ENTRY_FILE && entry->size != 0)
        return error_set(err, ERR_BUG, "\"%s\" is no file but shall have data", extract->path);
    switch (entry->kind) {
    case ENTRY_FILE:
        return begin_file(extract, path, mode, err);
    case ENTRY_DIRECTORY:
        return path[0] == '\0' ? set_root_mode(extract, mode, err)
                               : make_named_directory(extract, path, mode, err);
    case ENTRY_SYMLINK:
        return make_link(extract, entry, err);
    }
    return error_set(err, ERR_BUG, "\"%s\" is of unknown kind %d", extract->path, (int)entry->kind);
}

static bool
write_data(Extract *extract, Span data, Error *err)
{
    if (extract->path == NULL)
        return error_set(err, ERR_BUG, "extract got an archive without entries");
    if (data.len > extract->size - extract->written)
        return error_set(err, ERR_FORMAT, "\"%s\" gets more than its %llu bytes", extract->path,
                         (unsigned long long)extract->size);
    extract->written += data.len;
    return write_pool_data(extract->pool, data, err);
}

static bool
end_entry(Extract *extract, bool complete, Error *err)
{
    if (!complete)
        return error_set(err, ERR_BUG, "file \"%s\" was cut short", extract->path);
    if (extract->written != extract->size)
        return error_set(err, ERR_FORMAT, "file \"%s\" got %llu of its %llu bytes", extract->path,
                         (unsigned long long)extract->written, (unsigned long long)extract->size);
    if (extract->is_file && !write_pool_end(extract->pool, err))
        return false;
    free(extract->path);
    extract->path = NULL;
    return true;
}

/* ---- the stage ---- */

static bool
extract_push(Sink *self, const Event *event, Error *err)
{
    Extract *extract = (Extract *)self;

    if (!write_pool_check(extract->pool, err))
        return false;
    switch (event->kind) {
    case EVENT_ARCHIVE_BEGIN:
        return begin_archive(extract, event->archive, err);
    case EVENT_ARCHIVE_END:
        forget_directory(extract);
        return true;
    case EVENT_ENTRY_BEGIN:
        return begin_entry(extract, event->entry, err);
    case EVENT_ENTRY_END:
        return end_entry(extract, event->complete, err);
    case EVENT_DATA:
        return write_data(extract, event->data, err);
    case EVENT_FLUSH:
        return true; /* durable at finish; there is no mark to publish */
    }
    return error_set(err, ERR_BUG, "extract got an unknown event");
}

static bool
extract_finish(Sink *self, Error *err)
{
    Extract *extract = (Extract *)self;

    if (!write_pool_drain(extract->pool, err))
        return false;
    if (extract->config.sync == SYNC_NONE)
        return true;
    for (size_t i = 0; i < extract->root_count; i++) {
        if (!write_pool_sync_root(extract->pool, &extract->roots[i], err))
            return false;
    }
    return write_pool_drain(extract->pool, err);
}

static void
extract_release(Sink *self)
{
    Extract *extract = (Extract *)self;

    write_pool_free(extract->pool);
    forget_directory(extract);
    for (size_t i = 0; i < extract->root_count; i++)
        file_close_quietly(extract->roots[i].fd);
    free(extract->path);
    free(extract->roots);
}

static const SinkOps extract_ops = {
    .name = "extract",
    .push = extract_push,
    .finish = extract_finish,
    .release = extract_release,
};

Sink *
extract_new(const ExtractConfig *config, Error *err)
{
    Extract *extract = sink_alloc_last(sizeof *extract, &extract_ops, err);

    if (extract == NULL)
        return NULL;
    extract->config = *config;
    extract->dir_fd = -1;
    extract->pool = write_pool_new(config->sync, config->while_full, config->ctx, err);
    if (extract->pool == NULL) {
        sink_free(&extract->sink);
        return NULL;
    }
    return &extract->sink;
}
