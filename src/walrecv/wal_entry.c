#include <stdio.h>

#include "pgformat/walfile.h"
#include "walrecv/internal.h"

bool
wal_entry_begin(const Entry *entry, uint32_t segment_size, WalEntry *ret_wal, Error *err)
{
    WalEntry wal = {.size = entry->size};
    TimeLineID timeline;
    uint64_t number;

    if (entry->kind == ENTRY_FILE &&
        wal_segment_parse(entry->path, segment_size, &timeline, &number)) {
        wal.kind = WAL_FILE_SEGMENT;
        wal.start = wal_segment_start(number, segment_size);
    } else if (entry->kind == ENTRY_FILE && wal_history_parse(entry->path, &timeline)) {
        wal.kind = WAL_FILE_HISTORY;
    } else {
        return error_set(err, ERR_FORMAT,
                         "\"%s\" is neither a WAL segment nor a timeline history file",
                         entry->path);
    }
    if (wal.kind == WAL_FILE_SEGMENT && wal.size != segment_size)
        return error_set(err, ERR_FORMAT,
                         "WAL segment \"%s\" has %llu bytes, but segments have %lu", entry->path,
                         (unsigned long long)wal.size, (unsigned long)segment_size);

    (void)snprintf(wal.name, sizeof wal.name, "%s", entry->path);
    *ret_wal = wal;
    return true;
}

bool
wal_entry_take(WalEntry *wal, size_t len, Error *err)
{
    if (wal->kind == WAL_FILE_NONE)
        return error_set(err, ERR_BUG, "received WAL comes in parsed archives only");
    if (len > wal->size - wal->received)
        return error_set(err, ERR_FORMAT, "\"%s\" is longer than its %llu bytes", wal->name,
                         (unsigned long long)wal->size);
    wal->received += len;
    return true;
}

bool
wal_entry_check_end(const WalEntry *wal, bool complete, Error *err)
{
    bool segment = wal->kind == WAL_FILE_SEGMENT;

    if (complete ? wal->received == wal->size : segment)
        return true;
    return error_set(err, ERR_FORMAT, "%s \"%s\" has only %llu of %llu bytes",
                     segment ? "WAL segment" : "timeline history file", wal->name,
                     (unsigned long long)wal->received, (unsigned long long)wal->size);
}

void
wal_done_name(char name[WAL_DONE_NAME_SIZE], const char *wal_name)
{
    (void)snprintf(name, WAL_DONE_NAME_SIZE, "archive_status/%s.done", wal_name);
}

Span
wal_zeros(uint64_t len)
{
    static const uint8_t zeros[65536];

    return (Span){.data = zeros, .len = len < sizeof zeros ? (size_t)len : sizeof zeros};
}
