/*
 * The WAL directory: the last stage, which makes files of segments.
 *
 *   segment   written as NAME.partial (segment_file.c), then when it was
 *               filled:           trim; handed over to completion.c, which names it
 *               cut short, keep:  sync, sync directory, mark, close
 *               cut short, pad:   zeros, then as filled but without .done
 *             One that is to be compressed begins in memory: if it is filled there, it is handed
 *             over without a file; a FLUSH, or being cut short, settles it in NAME.partial first.
 *   history   gathered in memory, then, once all segments before it have their names: NAME.tmp,
 *             sync, rename, sync directory, .done (wal_dir_files.c)
 *
 * An existing NAME.partial is written over from its beginning and only trimmed once all of its
 * replacement is there: what an earlier run has received is never less than before. While the
 * replacement is in memory the file stays as it is.
 * What is only in memory is neither written nor durable, for whoever asks.
 * The durable mark moves only after the bytes and a name that leads to them are on disk, for all
 * before it: a segment's own sync says nothing of those that were handed over. After a failure, in
 * whichever thread, the stage is dead and its threads have ended: nobody syncs a file again.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/file.h"
#include "stream/stage.h"
#include "walrecv/internal.h"

/* Of a segment: its zeros are on disk within a fraction of a second. */
#define WAIT_FOR_ROOM_MAX ((uint32_t)64 * 1024 * 1024)

typedef struct WalDir {
    Sink sink;
    WalDirConfig config;
    char *directory;        /* owned; the config's */
    Completion *completion; /* names complete segments */

    WalEntry wal;        /* the open entry; of it: */
    SegmentFile file;    /* of a segment */
    uint8_t *bytes;      /* or, as long as it is not settled, its memory (completion's); NULL */
    Buf history;         /* of a history file: the content so far */
    bool names_unsynced; /* there are NAME.partial whose names may not be on disk */
    Lsn position;        /* the end of what has come of segments */
    Lsn flushed;         /* the mark of the last FLUSH */
    bool tidied;         /* the segment before the first one was looked after */
} WalDir;

/* ---- what is durable ---- */

static bool
is_durable(const WalDir *dir)
{
    return dir->config.sync == WAL_DURABLE;
}

static void
note_written(const WalDir *dir)
{
    if (dir->config.written != NULL)
        durable_mark_advance(dir->config.written, dir->position);
}

/* Also of a file that was there: nobody knows whether its directory was synced. */
static bool
open_partial(WalDir *dir, Error *err)
{
    dir->names_unsynced = true;
    return segment_file_open(&dir->config, dir->wal.name, &dir->file, err);
}

/* What there is of the open segment goes from memory into its file, as will what follows. */
static bool
settle(WalDir *dir, Error *err)
{
    const Span bytes = {.data = dir->bytes, .len = (size_t)dir->wal.received};

    if (dir->bytes == NULL)
        return true;
    if (!open_partial(dir, err) || !segment_file_fill(&dir->file, bytes, err))
        return false;
    completion_return_memory(dir->completion, dir->bytes);
    dir->bytes = NULL;
    return true;
}

/* All that has come so far is on disk, and can be found there. */
static bool
sync_all(WalDir *dir, Error *err)
{
    if (!is_durable(dir))
        return true;
    if (!completion_sync(dir->completion, err))
        return false;
    if (dir->wal.received > 0 && !settle(dir, err))
        return false;
    note_written(dir);
    if (dir->file.fd >= 0 && !segment_file_sync(&dir->file, err))
        return false;
    if (dir->names_unsynced && !wal_dir_sync_names(&dir->config, err))
        return false;
    dir->names_unsynced = false;
    return true;
}

static void
advance(const WalDir *dir, Lsn lsn)
{
    if (is_durable(dir) && dir->config.durable != NULL)
        durable_mark_advance(dir->config.durable, lsn);
}

/*
 * A server that waits for each of its commits asks for little at a time; one that is behind, or we
 * are, for as much as has come meanwhile: then a segment is full before its room could be of use.
 */
static bool
keeps_up(const WalDir *dir, Lsn mark)
{
    return mark > dir->flushed && mark - dir->flushed < dir->config.segment_size / 16;
}

static bool
flush(WalDir *dir, Lsn mark, Error *err)
{
    if (!sync_all(dir, err))
        return false;
    advance(dir, mark);
    if (dir->config.write_ahead && is_durable(dir) && keeps_up(dir, mark))
        completion_want_room(dir->completion);
    dir->flushed = mark;
    return true;
}

/* ---- opening ---- */

/* Behind which streaming begins: as many as a run that was killed may have left untidied. */
static bool
tidy_before(WalDir *dir, Error *err)
{
    const uint32_t size = dir->config.segment_size;
    char before[WAL_NAME_SIZE];
    TimeLineID timeline;
    uint64_t number;

    if (dir->tidied || dir->config.remainder != WAL_KEEP_PARTIAL)
        return true;
    dir->tidied = true;
    if (!wal_segment_parse(dir->wal.name, size, &timeline, &number))
        return error_set(err, ERR_BUG, "\"%s\" is no segment", dir->wal.name);
    for (size_t i = 0; i < COMPLETION_QUEUE && number > 0; i++) {
        wal_segment_name(before, timeline, --number, size);
        if (!segment_tidy(&dir->config, before, err))
            return false;
    }
    return true;
}

/*
 * While others are written the room for the next one is made; the first one waits for its own. Not
 * if that would take long, nor if there is its file, with what an earlier run wrote.
 */
static bool
want_first_room(const WalDir *dir, Error *err)
{
    const WalDirConfig *config = &dir->config;
    bool exists;

    if (!config->write_ahead || !is_durable(dir) || dir->position != 0 ||
        config->segment_size > WAIT_FOR_ROOM_MAX)
        return true;
    if (!segment_file_exists(config, dir->wal.name, &exists, err))
        return false;
    if (exists)
        return true;
    completion_want_room(dir->completion);
    return completion_await_room(dir->completion, err);
}

static bool
segment_begin(WalDir *dir, Error *err)
{
    const char *name = dir->wal.name;

    if (!tidy_before(dir, err) || !completion_lend_memory(dir->completion, &dir->bytes, err))
        return false;
    if (dir->bytes != NULL)
        return true;
    return want_first_room(dir, err) &&
           segment_room_use(completion_take_room(dir->completion), &dir->config, name, err) &&
           open_partial(dir, err);
}

static bool
history_begin(const WalDir *dir, Error *err)
{
    if (dir->wal.size > WAL_HISTORY_MAX)
        return error_set(err, ERR_FORMAT, "timeline history file \"%s\" has %llu bytes",
                         dir->wal.name, (unsigned long long)dir->wal.size);
    return true;
}

static bool
entry_begin(WalDir *dir, const Entry *entry, Error *err)
{
    if (!wal_entry_begin(entry, dir->config.segment_size, &dir->wal, err))
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
    dir->position = dir->wal.start + dir->wal.received;
    if (dir->bytes != NULL) {
        memcpy(dir->bytes + at, data.data, data.len);
        return true;
    }
    if (!segment_file_write(&dir->file, data, at, err))
        return false;
    note_written(dir);
    return true;
}

/* ---- ending ---- */

/* All of it is there: others go on with it. `end` is what the segment holds WAL up to. */
static bool
hand_over(WalDir *dir, Lsn end, bool done, Error *err)
{
    CompleteSegment segment = {.file = dir->file, .bytes = dir->bytes, .end = end, .done = done};

    if (dir->bytes == NULL && !segment_file_trim(&dir->file, err))
        return false;
    memcpy(segment.name, dir->wal.name, sizeof segment.name);
    dir->names_unsynced |= dir->bytes != NULL; /* a FLUSH may make its file yet */
    dir->file = SEGMENT_FILE_NONE;
    dir->bytes = NULL;
    return completion_add(dir->completion, &segment, err);
}

static bool
segment_complete(WalDir *dir, Error *err)
{
    return hand_over(dir, dir->wal.start + dir->wal.size, true, err);
}

static bool
segment_cut_short(WalDir *dir, Error *err)
{
    Lsn end = dir->wal.received == 0 ? 0 : dir->wal.start + dir->wal.received;

    if (dir->config.remainder == WAL_PAD)
        return segment_file_pad(&dir->file, dir->wal.received, err) &&
               hand_over(dir, end, false, err);
    if (!settle(dir, err) || !sync_all(dir, err) || !segment_file_close(&dir->file, err))
        return false;
    segment_file_free(&dir->file);
    advance(dir, end);
    return true;
}

/* In order, like everything that gets a name. */
static bool
history_end(WalDir *dir, Error *err)
{
    const Span content = {.data = dir->history.data, .len = dir->history.len};

    return completion_drain(dir->completion, err) &&
           wal_history_write(&dir->config, dir->wal.name, content, err) &&
           archive_status_done(&dir->config, dir->wal.name, err);
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
    dir->wal.kind = WAL_FILE_NONE;
    buf_clear(&dir->history);
    return ok;
}

/* ---- the stage ---- */

static bool
take_event(WalDir *dir, const Event *event, Error *err)
{
    if (!completion_check(dir->completion, err))
        return false;
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
wal_dir_push(Sink *self, const Event *event, Error *err)
{
    WalDir *dir = (WalDir *)self;

    if (take_event(dir, event, err))
        return true;
    completion_halt(dir->completion);
    return false;
}

static bool
wal_dir_finish(Sink *self, Error *err)
{
    WalDir *dir = (WalDir *)self;
    bool ok = completion_drain(dir->completion, err);

    completion_halt(dir->completion);
    return ok && archive_status_sync(&dir->config, err);
}

static void
wal_dir_release(Sink *self)
{
    WalDir *dir = (WalDir *)self;

    if (dir->completion != NULL)
        completion_return_memory(dir->completion, dir->bytes);
    completion_free(dir->completion);
    segment_file_free(&dir->file);
    buf_free(&dir->history);
    free(dir->directory);
}

static const SinkOps wal_dir_ops = {
    .name = "wal_dir", .push = wal_dir_push, .finish = wal_dir_finish, .release = wal_dir_release};

/* ---- making ---- */

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
check_directories(const WalDirConfig *config, Error *err)
{
    char *status;
    bool ok;

    if (!check_directory(config->directory, err))
        return false;
    if (!config->archive_status)
        return true;
    status = path_join(config->directory, "archive_status", err);
    ok = status != NULL && check_directory(status, err);
    free(status);
    return ok;
}

static bool
check_config(const WalDirConfig *config, Error *err)
{
    bool compresses = config->compression.method != COMPRESSION_NONE;

    if (!wal_segment_size_valid(config->segment_size))
        return error_set(err, ERR_BUG, "%lu is no WAL segment size",
                         (unsigned long)config->segment_size);
    if (compresses && (config->archive_status || config->remainder == WAL_PAD))
        return error_set(err, ERR_BUG, "the segments of a server's pg_wal are not compressed");
    return true;
}

static bool
wal_dir_init(WalDir *dir, const WalDirConfig *config, Error *err)
{
    dir->file = SEGMENT_FILE_NONE;
    dir->config = *config;
    dir->directory = mem_strdup(config->directory, err);
    dir->config.directory = dir->directory;
    if (dir->directory == NULL || !check_directories(&dir->config, err))
        return false;
    dir->completion = completion_new(&dir->config, err);
    return dir->completion != NULL;
}

Sink *
wal_dir_new(const WalDirConfig *config, Error *err)
{
    WalDir *dir;

    if (!check_config(config, err))
        return NULL;
    dir = sink_alloc_last(sizeof *dir, &wal_dir_ops, err);
    if (dir == NULL)
        return NULL;
    if (!wal_dir_init(dir, config, err)) {
        sink_free(&dir->sink);
        return NULL;
    }
    return &dir->sink;
}
