/* Small files of an archive, which may be compressed as its segments are. */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "archive/archive.h"
#include "common/file.h"
#include "stream/stage.h"

#define READ_SIZE ((size_t)4096)

typedef struct Collector {
    Sink sink;
    Buf *buf;
    uint64_t room;
} Collector;

static bool
collector_push(Sink *self, const Event *event, Error *err)
{
    Collector *collector = (Collector *)self;

    if (event->kind != EVENT_DATA)
        return true;
    if (event->data.len > collector->room)
        return error_set(err, ERR_FORMAT, "decompressed size is over what such a file may have");
    collector->room -= event->data.len;
    return buf_append(collector->buf, event->data.data, event->data.len, err);
}

static const SinkOps collector_ops = {.name = "small_file", .push = collector_push};

static Sink *
collector_new(Buf *buf, uint64_t limit, Error *err)
{
    Collector *collector = sink_alloc_last(sizeof *collector, &collector_ops, err);

    if (collector == NULL)
        return NULL;
    collector->buf = buf;
    collector->room = limit;
    return &collector->sink;
}

static bool
push_file(Sink *sink, int fd, const char *path, Error *err)
{
    const char *slash = strrchr(path, '/');
    uint8_t piece[READ_SIZE];
    size_t len;

    if (!sink_archive_begin(sink, &(Archive){.name = slash == NULL ? path : slash + 1}, err))
        return false;
    do {
        if (!file_read(fd, piece, sizeof piece, path, &len, err) ||
            !sink_data(sink, (Span){.data = piece, .len = len}, err))
            return false;
    } while (len > 0);
    return sink_archive_end(sink, err);
}

bool
archive_file_load(const char *path, CompressionMethod compression, uint64_t limit, Buf *buf,
                  Error *err)
{
    Sink *sink;
    bool ok;
    int fd;

    if (compression == COMPRESSION_NONE)
        return file_load(path, limit, buf, err);
    sink = decompress_new(collector_new(buf, limit, err), compression, err);
    if (sink == NULL)
        return false;
    fd = file_open(path, O_RDONLY | O_NONBLOCK, 0, err);
    ok = fd >= 0 && push_file(sink, fd, path, err);
    file_close_quietly(fd);
    sink_free(sink);
    return ok;
}
