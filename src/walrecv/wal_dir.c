/*
 * The WAL directory: the last stage, which makes files of segments.
 *
 *   segment   written as NAME.partial, then when it was
 *               filled:           trim, sync, close, rename, sync directory, mark, .done
 *               cut short, keep:  sync, close, sync directory, mark
 *               cut short, pad:   zeros, then as filled but without .done
 *   history   gathered in memory, then NAME.tmp: write, sync, close, rename, sync directory, .done
 *
 * An existing NAME.partial is written over from its beginning and only trimmed once all of its
 * replacement is there: what an earlier run has received is never less than before.
 * The durable mark moves only after the bytes and the name that leads to them are on disk. After a
 * failed sync the stage is dead like after any failure, so that nobody syncs that file again.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/file.h"
#include "stream/stage.h"
#include "walrecv/internal.h"

/* Far beyond any real history: a line for each timeline, of some fifty bytes. */
#define HISTORY_MAX ((uint64_t)16 * 1024 * 1024)

#define TEMP_NAME_SIZE (WAL_NAME_SIZE + 16)

typedef struct WalDir {
    Sink sink;
    char *directory;
    uint32_t segment_size;
    mode_t file_mode;
    WalRemainder remainder;
    bool durable;        /* sync, and advance the mark */
    bool archive_status; /* write .done files */
    bool status_written; /* there is something in archive_status to sync */
    DurableMark *mark;   /* borrowed; may be NULL */

    WalEntry wal;       /* the open entry; of it: */
    char *path;         /* owned: what it is called when complete */
    char *temp_path;    /* owned: what it is called until then */
    int fd;             /* of temp_path, or -1 */
    bool name_unsynced; /* temp_path is new in its directory */
    Buf history;        /* the content so far */
} WalDir;

/* ---- what syncing means here ---- */

/* Content and, where it changed, size; fsync adds nothing but times. */
static bool
sync_data(WalDir *dir, Error *err)
{
    if (!dir->durable)
        return true;
    if (fdatasync(dir->fd) != 0)
        return error_set_errno(err, errno, "could not fsync file \"%s\"", dir->temp_path);
    return true;
}

/* The name of a new temporary file is as durable as its content. */
static bool
sync_name(WalDir *dir, Error *err)
{
    if (!dir->durable || !dir->name_unsynced)
        return true;
    if (!file_sync_parent(dir->temp_path, err))
        return false;
    dir->name_unsynced = false;
    return true;
}

static void
advance(WalDir *dir, Lsn lsn)
{
    if (dir->durable && dir->mark != NULL)
        durable_mark_advance(dir->mark, lsn);
}

/* ---- opening ---- */

static void
forget_entry(WalDir *dir)
{
    file_close_quietly(dir->fd);
    dir->fd = -1;
    free(dir->path);
    free(dir->temp_path);
    dir->path = NULL;
    dir->temp_path = NULL;
    dir->wal.kind = WAL_FILE_NONE;
    buf_clear(&dir->history);
}

static bool
set_paths(WalDir *dir, const char *temp_suffix, Error *err)
{
    char temp_name[TEMP_NAME_SIZE];

    (void)snprintf(temp_name, sizeof temp_name, "%s%s", dir->wal.name, temp_suffix);
    dir->path = path_join(dir->directory, dir->wal.name, err);
    if (dir->path == NULL)
        return false;
    dir->temp_path = path_join(dir->directory, temp_name, err);
    return dir->temp_path != NULL;
}

/* A complete segment is somebody's WAL: never replaced. */
static bool
refuse_existing(const char *path, Error *err)
{
    struct stat st;

    if (lstat(path, &st) == 0) {
        (void)error_set_errno(err, EEXIST, "could not create WAL segment \"%s\"", path);
        return error_hint(err, "A complete segment is never overwritten.");
    }
    if (errno != ENOENT)
        return error_set_errno(err, errno, "could not stat file \"%s\"", path);
    return true;
}

/* The mode is exactly ours whatever the umask, which belongs to the process. */
static bool
set_mode(int fd, mode_t mode, const char *path, Error *err)
{
    if (fchmod(fd, mode) != 0)
        return error_set_errno(err, errno, "could not set permissions of file \"%s\"", path);
    return true;
}

static bool
open_partial(WalDir *dir, Error *err)
{
    dir->fd = file_open(dir->temp_path, O_WRONLY | O_CREAT, dir->file_mode, err);
    if (dir->fd < 0)
        return false;
    /* Also of a file that was there: nobody knows whether its directory was synced. */
    dir->name_unsynced = true;
    return set_mode(dir->fd, dir->file_mode, dir->temp_path, err);
}

static bool
segment_begin(WalDir *dir, Error *err)
{
    return set_paths(dir, ".partial", err) && refuse_existing(dir->path, err) &&
           open_partial(dir, err);
}

static bool
history_begin(WalDir *dir, Error *err)
{
    if (dir->wal.size > HISTORY_MAX)
        return error_set(err, ERR_FORMAT, "timeline history file \"%s\" has %llu bytes",
                         dir->wal.name, (unsigned long long)dir->wal.size);
    return set_paths(dir, ".tmp", err);
}

static bool
entry_begin(WalDir *dir, const Entry *entry, Error *err)
{
    if (!wal_entry_begin(entry, dir->segment_size, &dir->wal, err))
        return false;
    if (dir->wal.kind == WAL_FILE_SEGMENT)
        return segment_begin(dir, err);
    return history_begin(dir, err);
}

/* ---- content ---- */

static bool
take_data(WalDir *dir, Span data, Error *err)
{
    uint64_t at = dir->wal.received;

    if (!wal_entry_take(&dir->wal, data.len, err))
        return false;
    if (dir->wal.kind == WAL_FILE_HISTORY)
        return buf_append(&dir->history, data.data, data.len, err);
    return file_pwrite(dir->fd, data.data, data.len, at, dir->temp_path, err);
}

/* Real zeros, not a hole: the server that recovers from this directory may reuse the file in place,
 * where a full disk would be fatal. */
static bool
pad(WalDir *dir, Error *err)
{
    uint64_t at = dir->wal.received;

    while (at < dir->wal.size) {
        Span zeros = wal_zeros(dir->wal.size - at);

        if (!file_pwrite(dir->fd, zeros.data, zeros.len, at, dir->temp_path, err))
            return false;
        at += zeros.len;
    }
    return true;
}

/* All of the segment is written: cut off what an older, longer file leaves behind it. */
static bool
trim(WalDir *dir, Error *err)
{
    struct stat st;

    if (fstat(dir->fd, &st) != 0)
        return error_set_errno(err, errno, "could not stat file \"%s\"", dir->temp_path);
    if ((uint64_t)st.st_size < dir->wal.size)
        return error_set(err, ERR_FORMAT, "file \"%s\" has %llu bytes, should be %llu",
                         dir->temp_path, (unsigned long long)st.st_size,
                         (unsigned long long)dir->wal.size);
    if ((uint64_t)st.st_size > dir->wal.size && ftruncate(dir->fd, (off_t)dir->wal.size) != 0)
        return error_set_errno(err, errno, "could not truncate file \"%s\"", dir->temp_path);
    return true;
}

/* ---- completing ---- */

static bool
close_checked(WalDir *dir, Error *err)
{
    int fd = dir->fd;

    dir->fd = -1;
    return file_close(fd, dir->temp_path, err);
}

static bool
rename_complete(WalDir *dir, Error *err)
{
    if (dir->durable)
        return file_rename_durable(dir->temp_path, dir->path, err);
    if (rename(dir->temp_path, dir->path) != 0)
        return error_set_errno(err, errno, "could not rename file \"%s\" to \"%s\"", dir->temp_path,
                               dir->path);
    return true;
}

/* The file under its temporary name is whole: give it its name. */
static bool
publish(WalDir *dir, Error *err)
{
    return sync_data(dir, err) && close_checked(dir, err) && rename_complete(dir, err);
}

static bool
mark_archived(WalDir *dir, Error *err)
{
    char name[WAL_DONE_NAME_SIZE];
    char *path;
    int fd = -1;
    bool ok;

    if (!dir->archive_status)
        return true;
    wal_done_name(name, dir->wal.name);
    path = path_join(dir->directory, name, err);
    if (path != NULL)
        fd = file_open(path, O_WRONLY | O_CREAT | O_TRUNC, dir->file_mode, err);
    ok = fd >= 0 && set_mode(fd, dir->file_mode, path, err);
    if (ok)
        ok = file_close(fd, path, err);
    else
        file_close_quietly(fd);
    free(path);
    dir->status_written |= ok;
    return ok;
}

static bool
segment_complete(WalDir *dir, Error *err)
{
    if (!trim(dir, err) || !publish(dir, err))
        return false;
    advance(dir, dir->wal.start + dir->wal.size);
    return mark_archived(dir, err);
}

static bool
segment_cut_short(WalDir *dir, Error *err)
{
    bool ok;

    if (dir->remainder == WAL_PAD)
        ok = pad(dir, err) && trim(dir, err) && publish(dir, err);
    else
        ok = sync_data(dir, err) && sync_name(dir, err) && close_checked(dir, err);
    if (ok && dir->wal.received > 0)
        advance(dir, dir->wal.start + dir->wal.received);
    return ok;
}

/* A history file that exists may be written again, but not become another one. */
static bool
check_same_history(WalDir *dir, Error *err)
{
    Buf old = BUF_INIT;
    struct stat st;
    bool ok = true;

    if (lstat(dir->path, &st) != 0 && errno == ENOENT)
        return true;
    if (!file_load(dir->path, HISTORY_MAX, &old, err))
        ok = false;
    else if (old.len != dir->history.len ||
             (old.len > 0 && memcmp(old.data, dir->history.data, old.len) != 0))
        ok = error_set(err, ERR_FORMAT,
                       "timeline history file \"%s\" exists and differs from the server's",
                       dir->path);
    buf_free(&old);
    return ok;
}

static bool
write_history(WalDir *dir, Error *err)
{
    dir->fd = file_open(dir->temp_path, O_WRONLY | O_CREAT | O_TRUNC, dir->file_mode, err);
    if (dir->fd < 0)
        return false;
    if (set_mode(dir->fd, dir->file_mode, dir->temp_path, err) &&
        file_write(dir->fd, dir->history.data, dir->history.len, dir->temp_path, err) &&
        publish(dir, err))
        return true;
    (void)unlink(dir->temp_path);
    return false;
}

static bool
history_end(WalDir *dir, Error *err)
{
    return check_same_history(dir, err) && write_history(dir, err) && mark_archived(dir, err);
}

static bool
entry_end(WalDir *dir, bool complete, Error *err)
{
    bool ok;

    if (!wal_entry_check_end(&dir->wal, complete, err))
        ok = false;
    else if (dir->wal.kind == WAL_FILE_HISTORY)
        ok = history_end(dir, err);
    else if (complete)
        ok = segment_complete(dir, err);
    else
        ok = segment_cut_short(dir, err);
    forget_entry(dir);
    return ok;
}

static bool
flush(WalDir *dir, Lsn mark, Error *err)
{
    if (dir->wal.kind == WAL_FILE_SEGMENT && (!sync_data(dir, err) || !sync_name(dir, err)))
        return false;
    advance(dir, mark);
    return true;
}

/* ---- the stage ---- */

static bool
wal_dir_push(Sink *self, const Event *event, Error *err)
{
    WalDir *dir = (WalDir *)self;

    switch (event->kind) {
    case EVENT_ARCHIVE_BEGIN:
    case EVENT_ARCHIVE_END:
        return true;
    case EVENT_ENTRY_BEGIN:
        return entry_begin(dir, event->entry, err);
    case EVENT_ENTRY_END:
        return entry_end(dir, event->complete, err);
    case EVENT_DATA:
        return take_data(dir, event->data, err);
    case EVENT_FLUSH:
        return flush(dir, event->mark, err);
    }
    return error_set(err, ERR_BUG, "unknown event %d", (int)event->kind);
}

static bool
wal_dir_finish(Sink *self, Error *err)
{
    WalDir *dir = (WalDir *)self;
    char *status;
    bool ok;

    if (!dir->durable || !dir->status_written)
        return true;
    status = path_join(dir->directory, "archive_status", err);
    ok = status != NULL && file_sync_path(status, err);
    free(status);
    return ok;
}

static void
wal_dir_release(Sink *self)
{
    WalDir *dir = (WalDir *)self;

    forget_entry(dir);
    buf_free(&dir->history);
    free(dir->directory);
}

static const SinkOps wal_dir_ops = {
    .name = "wal_dir", .push = wal_dir_push, .finish = wal_dir_finish, .release = wal_dir_release};

static bool
check_directory(const char *path, Error *err)
{
    DirState state;

    if (!dir_state(path, &state, err))
        return false;
    if (state == DIR_MISSING)
        return error_set_errno(err, ENOENT, "could not access directory \"%s\"", path);
    return true;
}

static bool
wal_dir_init(WalDir *dir, const WalDirConfig *config, Error *err)
{
    char *status;
    bool ok;

    dir->fd = -1;
    dir->segment_size = config->segment_size;
    dir->file_mode = config->file_mode;
    dir->remainder = config->remainder;
    dir->durable = config->sync == WAL_DURABLE;
    dir->archive_status = config->archive_status;
    dir->mark = config->durable;
    dir->directory = mem_strdup(config->directory, err);
    if (dir->directory == NULL || !check_directory(dir->directory, err))
        return false;
    if (!config->archive_status)
        return true;
    status = path_join(dir->directory, "archive_status", err);
    ok = status != NULL && check_directory(status, err);
    free(status);
    return ok;
}

Sink *
wal_dir_new(const WalDirConfig *config, Error *err)
{
    WalDir *dir;

    if (!wal_segment_size_valid(config->segment_size)) {
        (void)error_set(err, ERR_BUG, "%lu is no WAL segment size",
                        (unsigned long)config->segment_size);
        return NULL;
    }
    dir = sink_alloc_last(sizeof *dir, &wal_dir_ops, err);
    if (dir == NULL)
        return NULL;
    if (!wal_dir_init(dir, config, err)) {
        sink_free(&dir->sink);
        return NULL;
    }
    return &dir->sink;
}
