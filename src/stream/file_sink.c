/*
 * file_sink: archives become files, or one stream.
 *
 * Small pieces are gathered, large ones are written where they are: whoever sends 512 bytes (a tar
 * header) before a megabyte costs no write of his own. What is gathered goes out before anything is
 * said about it: at the end of an archive, and at FLUSH.
 *
 * A mark is durable when content, size and name of all that came before it are. Files of archives
 * that have ended are synced already with SYNC_FSYNC; with SYNC_SYNCFS only the file system as a
 * whole can make up for them.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/file.h"
#include "common/runtime.h"
#include "stream/internal.h"
#include "stream/stage.h"

#define GATHER_SIZE ((size_t)256 * 1024)

/* How to write to a descriptor so that a reader who has stopped reading does not hold us. */
typedef enum WriteManner {
    WRITE_PLAINLY, /* a file; a pipe of our own, which never waits */
    WRITE_LITTLE,  /* a pipe of somebody else */
    WRITE_SOCKET
} WriteManner;

typedef struct FileSink {
    Sink sink;
    char *directory; /* NULL: everything goes to the descriptor */
    int dir_fd;      /* open from before the first write on: see durable_sync_file_system */
    int given_fd;    /* the descriptor, borrowed */
    int pipe_fd;     /* its pipe once more, for us alone: or -1 */
    WriteManner manner;
    const Stop *stop;
    char *fd_name;
    mode_t file_mode;
    SyncMethod sync;
    DurableMark *durable; /* borrowed, may be NULL */
    uint8_t *gathered;    /* GATHER_SIZE bytes */
    size_t gathered_len;
    bool given_used;    /* the descriptor has got an archive */
    bool name_unsynced; /* the directory has a name that is not on disk */
    bool file_unsynced; /* a file was closed that is not on disk */

    /* ---- the current file ---- */
    int fd;     /* -1: none; otherwise ours, or the given one */
    char *path; /* for messages */
    uint64_t written;
    uint64_t started; /* write-back was started up to here */
} FileSink;

static bool
is_durable(const FileSink *files)
{
    return files->directory != NULL && files->sync != SYNC_NONE;
}

/* ---- writing ---- */

static bool
await_reader(const FileSink *files, Error *err)
{
    switch (runtime_wait(files->fd, POLLOUT, -1, files->stop, NULL, err)) {
    case WAIT_STOPPED:
        return error_set_stopped(err);
    case WAIT_FAILED:
        return false;
    case WAIT_READY:
    case WAIT_TIMEOUT:
    case WAIT_WOKEN:
        break;
    }
    return true;
}

/*
 * One write that does not wait for a reader: into our own pipe, or a socket, of any size; into
 * somebody else's pipe as little as is sure to fit when poll says that something does.
 */
static ssize_t
write_some(const FileSink *files, Span data)
{
    struct pollfd writable = {.fd = files->fd, .events = POLLOUT};
    const size_t sure = data.len < PIPE_BUF ? data.len : PIPE_BUF;

    switch (files->manner) {
    case WRITE_PLAINLY:
        return write(files->fd, data.data, data.len);
    case WRITE_LITTLE:
        if (poll(&writable, 1, 0) == 0) {
            errno = EAGAIN;
            return -1;
        }
        return write(files->fd, data.data, sure);
    case WRITE_SOCKET:
        return send(files->fd, data.data, data.len, MSG_DONTWAIT | MSG_NOSIGNAL);
    }
    return -1;
}

static bool
write_descriptor(const FileSink *files, Span data, Error *err)
{
    while (data.len > 0) {
        ssize_t count = write_some(files, data);

        if (count > 0) {
            data.data += count;
            data.len -= (size_t)count;
        } else if (count < 0 && errno == EAGAIN) {
            if (!await_reader(files, err))
                return false;
        } else if (count == 0 || errno != EINTR) {
            return error_set_errno(err, count == 0 ? ENOSPC : errno, "could not write to %s",
                                   files->fd_name);
        }
    }
    return true;
}

static bool
write_out(FileSink *files, Span data, Error *err)
{
    if (files->directory == NULL)
        return write_descriptor(files, data, err);
    if (!file_write(files->fd, data.data, data.len, files->path, err))
        return false;
    files->written += data.len;
    if (is_durable(files))
        durable_write_back(files->fd, files->written, &files->started);
    return true;
}

static bool
write_gathered(FileSink *files, Error *err)
{
    Span data = {.data = files->gathered, .len = files->gathered_len};

    files->gathered_len = 0;
    return write_out(files, data, err);
}

/* As much as there is room for, from the front of *data. */
static void
gather(FileSink *files, Span *data)
{
    size_t room = GATHER_SIZE - files->gathered_len;
    size_t len = data->len < room ? data->len : room;

    memcpy(files->gathered + files->gathered_len, data->data, len);
    files->gathered_len += len;
    data->data += len;
    data->len -= len;
}

static bool
take_data(FileSink *files, Span data, Error *err)
{
    while (data.len > 0) {
        if (files->gathered_len == 0 && data.len >= GATHER_SIZE)
            return write_out(files, data, err);
        gather(files, &data);
        if (files->gathered_len == GATHER_SIZE && !write_gathered(files, err))
            return false;
    }
    return true;
}

/* ---- files ---- */

/* The server has a say in it: no name that leads elsewhere or hides. */
static bool
check_name(const char *name, Error *err)
{
    if (name[0] == '\0' || name[0] == '.' || strchr(name, '/') != NULL)
        return error_set(err, ERR_FORMAT, "archive name \"%s\" cannot be used as a file name",
                         name);
    return true;
}

static bool
open_file(FileSink *files, const char *name, Error *err)
{
    const mode_t mode = files->file_mode;

    if (!check_name(name, err))
        return false;
    files->path = path_join(files->directory, name, err);
    if (files->path == NULL)
        return false;
    files->fd =
        openat(files->dir_fd, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode);
    if (files->fd < 0)
        return error_set_errno(err, errno, "could not create file \"%s\"", files->path);
    files->name_unsynced = true;
    files->written = 0;
    files->started = 0;
    if (fchmod(files->fd, mode) != 0) /* the umask may have taken something */
        return error_set_errno(err, errno, "could not set the mode of file \"%s\"", files->path);
    return true;
}

static bool
open_descriptor(FileSink *files, const char *name, Error *err)
{
    if (files->given_used)
        return error_set(err, ERR_BUG, "archive \"%s\" is not the first one for %s", name,
                         files->fd_name);
    files->given_used = true;
    files->fd = files->given_fd;
    return true;
}

static bool
close_file(FileSink *files, Error *err)
{
    int fd = files->fd;
    bool ok;

    if (files->sync == SYNC_FSYNC && !file_sync(fd, files->path, err))
        return false;
    files->file_unsynced |= files->sync == SYNC_SYNCFS;
    files->fd = -1;
    ok = file_close(fd, files->path, err);
    free(files->path);
    files->path = NULL;
    return ok;
}

static bool
end_archive(FileSink *files, Error *err)
{
    if (!write_gathered(files, err))
        return false;
    if (files->directory != NULL)
        return close_file(files, err);
    files->fd = -1; /* stays open: it is not ours */
    return true;
}

/* ---- making it last ---- */

static bool
sync_directory(FileSink *files, Error *err)
{
    if (!file_sync(files->dir_fd, files->directory, err))
        return false;
    files->name_unsynced = false;
    return true;
}

/* All files, open ones too, and their names. */
static bool
sync_all(FileSink *files, Error *err)
{
    if (!durable_sync_file_system(files->dir_fd, files->directory, err))
        return false;
    files->name_unsynced = false;
    files->file_unsynced = false;
    return true;
}

/* Everything so far. fsync adds nothing but times, and the mode, which finish sees to. */
static bool
sync_so_far(FileSink *files, Error *err)
{
    if (files->file_unsynced)
        return sync_all(files, err);
    if (files->fd >= 0 && fdatasync(files->fd) != 0)
        return error_set_errno(err, errno, "could not fsync file \"%s\"", files->path);
    return !files->name_unsynced || sync_directory(files, err);
}

static bool
flush(FileSink *files, Lsn mark, Error *err)
{
    if (!write_gathered(files, err))
        return false;
    if (!is_durable(files))
        return true;
    if (!sync_so_far(files, err))
        return false;
    if (files->durable != NULL)
        durable_mark_advance(files->durable, mark);
    return true;
}

static bool
file_sink_finish(Sink *self, Error *err)
{
    FileSink *files = (FileSink *)self;
    bool ok;

    if (!is_durable(files))
        return true;
    ok = files->sync == SYNC_SYNCFS ? sync_all(files, err) : sync_directory(files, err);
    return ok && durable_sync_parent(files->dir_fd, files->directory, err);
}

/* ---- the stage ---- */

static bool
file_sink_push(Sink *self, const Event *event, Error *err)
{
    FileSink *files = (FileSink *)self;

    switch (event->kind) {
    case EVENT_ARCHIVE_BEGIN:
        return files->directory == NULL ? open_descriptor(files, event->archive->name, err)
                                        : open_file(files, event->archive->name, err);
    case EVENT_ARCHIVE_END:
        return end_archive(files, err);
    case EVENT_DATA:
        return take_data(files, event->data, err);
    case EVENT_FLUSH:
        return flush(files, event->mark, err);
    case EVENT_ENTRY_BEGIN:
    case EVENT_ENTRY_END:
        break;
    }
    return error_set(err, ERR_BUG, "file_sink got an archive with entries");
}

static void
file_sink_release(Sink *self)
{
    FileSink *files = (FileSink *)self;

    if (files->directory != NULL)
        file_close_quietly(files->fd);
    file_close_quietly(files->dir_fd);
    file_close_quietly(files->pipe_fd);
    free(files->path);
    free(files->gathered);
    free(files->directory);
    free(files->fd_name);
}

static const SinkOps file_sink_ops = {
    .name = "file_sink",
    .push = file_sink_push,
    .finish = file_sink_finish,
    .release = file_sink_release,
};

/* A pipe once more, for us alone: to change the descriptor itself so that it does not wait would
 * change it for everybody who has it. -1 when it belongs to somebody else. */
static int
open_pipe(int fd)
{
    char link[32];

    (void)snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    return open(link, O_WRONLY | O_NONBLOCK | O_CLOEXEC);
}

/* A reader that stops reading would hold a write, and us, for ever. */
static void
choose_manner(FileSink *files, int fd)
{
    struct stat st;

    files->given_fd = fd;
    files->manner = WRITE_PLAINLY;
    if (fstat(fd, &st) != 0)
        return;
    if (S_ISFIFO(st.st_mode) && (files->pipe_fd = open_pipe(fd)) >= 0)
        files->given_fd = files->pipe_fd;
    else if (S_ISFIFO(st.st_mode))
        files->manner = WRITE_LITTLE;
    else if (S_ISSOCK(st.st_mode))
        files->manner = WRITE_SOCKET;
}

static bool
open_destination(FileSink *files, const FileSinkConfig *config, Error *err)
{
    if (config->directory == NULL) {
        choose_manner(files, config->fd);
        files->fd_name = mem_strdup(config->fd_name, err);
        return files->fd_name != NULL;
    }
    files->directory = mem_strdup(config->directory, err);
    if (files->directory == NULL)
        return false;
    files->dir_fd = open(config->directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (files->dir_fd < 0)
        return error_set_errno(err, errno, "could not open directory \"%s\"", config->directory);
    return true;
}

Sink *
file_sink_new(const FileSinkConfig *config, Error *err)
{
    FileSink *files = sink_alloc_last(sizeof *files, &file_sink_ops, err);

    if (files == NULL)
        return NULL;
    files->dir_fd = -1;
    files->pipe_fd = -1;
    files->fd = -1;
    files->stop = config->stop;
    files->file_mode = config->file_mode;
    files->sync = config->sync == SYNC_BEST ? SYNC_FSYNC : config->sync;
    files->durable = config->durable;
    files->gathered = mem_alloc(GATHER_SIZE, err);
    if (files->gathered == NULL || !open_destination(files, config, err)) {
        sink_free(&files->sink);
        return NULL;
    }
    return &files->sink;
}
