#include "stream/stage.h"
#include "walrecv/internal.h"

typedef struct WalArchive {
    Sink sink;
    uint32_t segment_size;
    mode_t file_mode;
    WalEntry wal;  /* the open entry */
    int64_t mtime; /* of it */
} WalArchive;

/* The receiver speaks of a directory; here it becomes a file. */
static bool
archive_begin(WalArchive *archive, const Archive *from, Error *err)
{
    const Archive named = {.name = "pg_wal.tar", .tablespace = from->tablespace};

    return sink_archive_begin(archive->sink.next, &named, err);
}

static bool
entry_begin(WalArchive *archive, const Entry *from, Error *err)
{
    Entry entry = *from;

    if (!wal_entry_begin(from, archive->segment_size, &archive->wal, err))
        return false;
    entry.mode = archive->file_mode;
    archive->mtime = entry.mtime;
    return sink_entry_begin(archive->sink.next, &entry, err);
}

static bool
take_data(WalArchive *archive, Span data, Error *err)
{
    return wal_entry_take(&archive->wal, data.len, err) && sink_data(archive->sink.next, data, err);
}

/* Recovery wants segments of full size, and the zeros end what it replays. */
static bool
fill_up(WalArchive *archive, Error *err)
{
    WalEntry *wal = &archive->wal;

    while (wal->received < wal->size) {
        if (!take_data(archive, wal_zeros(wal->size - wal->received), err))
            return false;
    }
    return true;
}

static bool
mark_archived(WalArchive *archive, Error *err)
{
    char name[WAL_DONE_NAME_SIZE];
    Entry entry = {
        .kind = ENTRY_FILE, .path = name, .mode = archive->file_mode, .mtime = archive->mtime};

    wal_done_name(name, archive->wal.name);
    return sink_entry_begin(archive->sink.next, &entry, err) &&
           sink_entry_end(archive->sink.next, true, err);
}

/* Without this the server would learn only at the end what is on disk, and keep all WAL. */
static bool
flush_segment(WalArchive *archive, Error *err)
{
    return sink_flush(archive->sink.next, archive->wal.start + archive->wal.size, err);
}

static bool
entry_end(WalArchive *archive, bool complete, Error *err)
{
    const bool is_segment = archive->wal.kind == WAL_FILE_SEGMENT;

    if (!wal_entry_check_end(&archive->wal, complete, err) || !fill_up(archive, err) ||
        !sink_entry_end(archive->sink.next, true, err))
        return false;
    archive->wal.kind = WAL_FILE_NONE;
    if (!complete)
        return true;
    return mark_archived(archive, err) && (!is_segment || flush_segment(archive, err));
}

static bool
wal_archive_push(Sink *self, const Event *event, Error *err)
{
    WalArchive *archive = (WalArchive *)self;

    switch (event->kind) {
    case EVENT_ARCHIVE_BEGIN:
        return archive_begin(archive, event->archive, err);
    case EVENT_ENTRY_BEGIN:
        return entry_begin(archive, event->entry, err);
    case EVENT_DATA:
        return take_data(archive, event->data, err);
    case EVENT_ENTRY_END:
        return entry_end(archive, event->complete, err);
    case EVENT_ARCHIVE_END:
    case EVENT_FLUSH:
        return sink_forward(self, event, err);
    }
    return error_set(err, ERR_BUG, "unknown event %d", (int)event->kind);
}

static const SinkOps wal_archive_ops = {.name = "wal_archive", .push = wal_archive_push};

Sink *
wal_archive_new(Sink *next, uint32_t segment_size, mode_t file_mode, Error *err)
{
    WalArchive *archive;

    if (next != NULL && !wal_segment_size_valid(segment_size)) {
        (void)error_set(err, ERR_BUG, "%lu is no WAL segment size", (unsigned long)segment_size);
        sink_free(next);
        return NULL;
    }
    archive = sink_alloc(sizeof *archive, &wal_archive_ops, next, err);
    if (archive == NULL)
        return NULL;
    archive->segment_size = segment_size;
    archive->file_mode = file_mode;
    return &archive->sink;
}
