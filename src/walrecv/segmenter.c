#include "walrecv/internal.h"

#include "pgformat/walfile.h"

void
segmenter_start(Segmenter *segmenter, TimeLineID timeline, Lsn start)
{
    segmenter->timeline = timeline;
    segmenter->position = start;
    segmenter->open = false;
}

static bool
segment_begin(Segmenter *segmenter, Error *err)
{
    char name[WAL_NAME_SIZE];
    uint64_t number = wal_segment_number(segmenter->position, segmenter->segment_size);
    Entry entry = {.kind = ENTRY_FILE,
                   .path = name,
                   .size = segmenter->segment_size,
                   .mode = 0600,
                   .mtime = segmenter->now};

    wal_segment_name(name, segmenter->timeline, number, segmenter->segment_size);
    if (!sink_entry_begin(segmenter->sink, &entry, err))
        return false;
    segmenter->open = true;
    return true;
}

static bool
segment_filled(Segmenter *segmenter, Error *err)
{
    if (!sink_entry_end(segmenter->sink, true, err))
        return false;
    segmenter->open = false;
    return true;
}

/* As much of `data` as the current segment takes; *ret_taken tells how much that is. */
static bool
segment_fill(Segmenter *segmenter, Span data, size_t *ret_taken, Error *err)
{
    size_t room =
        segmenter->segment_size - wal_segment_offset(segmenter->position, segmenter->segment_size);
    Span part = {.data = data.data, .len = data.len < room ? data.len : room};

    if (!segmenter->open && !segment_begin(segmenter, err))
        return false;
    if (!sink_data(segmenter->sink, part, err))
        return false;
    segmenter->position += part.len;
    if (part.len == room && !segment_filled(segmenter, err))
        return false;
    *ret_taken = part.len;
    return true;
}

bool
segmenter_push(Segmenter *segmenter, Lsn lsn, Span data, Error *err)
{
    if (lsn != segmenter->position)
        return error_set(err, ERR_PROTOCOL, "got WAL data at " LSN_FORMAT ", expected " LSN_FORMAT,
                         LSN_ARGS(lsn), LSN_ARGS(segmenter->position));
    if (data.len > UINT64_MAX - lsn)
        return error_set(err, ERR_PROTOCOL,
                         "got %zu bytes of WAL data at " LSN_FORMAT ", beyond the last position",
                         data.len, LSN_ARGS(lsn));
    while (data.len > 0) {
        size_t taken;

        if (!segment_fill(segmenter, data, &taken, err))
            return false;
        data.data += taken;
        data.len -= taken;
    }
    return true;
}

bool
segmenter_end(Segmenter *segmenter, Error *err)
{
    if (!segmenter->open)
        return true;
    segmenter->open = false;
    return sink_entry_end(segmenter->sink, false, err);
}
