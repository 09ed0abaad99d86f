/*
 * The content of a segment's file, pulled out of it piece by piece.
 *
 * A plain file is read. A compressed one is pushed through the decompressing stage, a few bytes and
 * a FLUSH at a time, into a sink that collects what comes out: so data that unpacks to a thousand
 * times its size, as zeros do, is not collected in large quantities, and what can be decoded of a
 * file that breaks off has come out before its end is reached. A stage that meets damaged data dies
 * with what it has decoded of its input up to there. Then the file is decompressed once more, and
 * byte by byte where it was damaged.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/file.h"
#include "segment/segment.h"
#include "stream/stage.h"

/* How much of the file is read at a time, and how much of that is decompressed at a time. */
#define READ_SIZE  ((size_t)128 * 1024)
#define INPUT_SIZE ((size_t)64)

/* How much is collected, unless the last input has more. */
#define OUTPUT_SIZE ((size_t)64 * 1024)

struct SegmentReader {
    char *path;
    int fd;
    uint64_t size; /* of the file */
    uint32_t segment_size;
    uint64_t position; /* in the segment, of what comes next out of the file */
    uint64_t from;     /* what is before it is not given */
    uint8_t *buffer;   /* READ_SIZE bytes */
    bool is_cut;       /* the file ends before the segment does */

    /* ---- compressed ---- */
    CompressionMethod method; /* COMPRESSION_NONE: a plain file */
    Sink *decompress;
    Span input;        /* of the buffer, not decompressed yet */
    uint64_t consumed; /* of the file, before that */
    uint64_t careful;  /* from this place in the file on byte by byte */
    Buf output;        /* what came out and was not given yet */
    size_t given;      /* of it */
    bool over;         /* the file is at its end, or has failed */
    bool failed;       /* for ERR_FORMAT that is told once the output is given */
    Error failure;
};

/* ---- what came out ---- */

typedef struct Collector {
    Sink sink;
    SegmentReader *reader;
} Collector;

/* Of what belongs to the segment, what is wanted. */
static bool
collect(SegmentReader *reader, Span data, Error *err)
{
    uint64_t room = reader->segment_size - reader->position;
    bool too_long = data.len > room;
    uint64_t skip = 0;

    if (too_long)
        data.len = (size_t)room;
    if (reader->position < reader->from)
        skip = reader->from - reader->position;
    reader->position += data.len;
    if (skip < data.len &&
        !buf_append(&reader->output, data.data + skip, data.len - (size_t)skip, err))
        return false;
    if (too_long)
        return error_set(err, ERR_FORMAT, "decompressed size is over %u", reader->segment_size);
    return true;
}

static bool
collector_push(Sink *self, const Event *event, Error *err)
{
    return event->kind != EVENT_DATA || collect(((Collector *)self)->reader, event->data, err);
}

static const SinkOps collector_ops = {.name = "segment_reader", .push = collector_push};

static Sink *
collector_new(SegmentReader *reader, Error *err)
{
    Collector *collector = sink_alloc_last(sizeof *collector, &collector_ops, err);

    if (collector == NULL)
        return NULL;
    collector->reader = reader;
    return &collector->sink;
}

/* ---- opening ---- */

/* The stage wants the name of what it unpacks: that of the file, up to the method's suffix. */
static bool
begin_decompression(SegmentReader *reader, Error *err)
{
    const char *suffix = compression_suffix(reader->method);
    const char *slash = strrchr(reader->path, '/');
    const char *name = slash == NULL ? reader->path : slash + 1;
    const char *found = strstr(name, suffix);
    int len = (int)(found == NULL ? strlen(name) : (size_t)(found - name));
    Buf archive = BUF_INIT;
    bool ok;

    reader->decompress = decompress_new(collector_new(reader, err), reader->method, err);
    ok = reader->decompress != NULL && buf_printf(&archive, err, "%.*s%s", len, name, suffix) &&
         sink_archive_begin(reader->decompress, &(Archive){.name = buf_text(&archive)}, err);
    buf_free(&archive);
    return ok;
}

/* Nothing but a regular file: opening must not wait for the other end of a pipe, say. */
static bool
open_regular(SegmentReader *reader, Error *err)
{
    struct stat st;

    reader->fd = file_open(reader->path, O_RDONLY | O_NONBLOCK, 0, err);
    if (reader->fd < 0)
        return false;
    if (fstat(reader->fd, &st) != 0)
        return error_set_errno(err, errno, "could not stat file \"%s\"", reader->path);
    if (!S_ISREG(st.st_mode))
        return error_set(err, ERR_FORMAT, "not a regular file");
    reader->size = (uint64_t)st.st_size;
    return true;
}

static bool
seek(SegmentReader *reader, Error *err)
{
    if (lseek(reader->fd, (off_t)reader->from, SEEK_SET) < 0)
        return error_set_errno(err, errno, "could not seek in file \"%s\"", reader->path);
    reader->position = reader->from;
    return true;
}

static bool
reader_open(SegmentReader *reader, const SegmentSource *source, Error *err)
{
    reader->fd = -1;
    reader->segment_size = source->segment_size;
    reader->from = source->from;
    reader->path = mem_strdup(source->path, err);
    reader->buffer = mem_alloc(READ_SIZE, err);
    if (reader->path == NULL || reader->buffer == NULL || !open_regular(reader, err))
        return false;
    if (source->compression == COMPRESSION_NONE)
        return seek(reader, err);
    reader->method = source->compression;
    reader->careful = UINT64_MAX;
    return begin_decompression(reader, err);
}

SegmentReader *
segment_reader_open(const SegmentSource *source, Error *err)
{
    SegmentReader *reader = mem_zero(sizeof *reader, err);

    if (reader == NULL)
        return NULL;
    if (!reader_open(reader, source, err)) {
        segment_reader_free(reader);
        return NULL;
    }
    return reader;
}

void
segment_reader_free(SegmentReader *reader)
{
    if (reader == NULL)
        return;
    sink_free(reader->decompress);
    file_close_quietly(reader->fd);
    buf_free(&reader->output);
    free(reader->buffer);
    free(reader->path);
    free(reader);
}

bool
segment_reader_is_cut(const SegmentReader *reader)
{
    return reader->is_cut;
}

/* ---- plain ---- */

static bool
other_size(const SegmentReader *reader, uint64_t size, Error *err)
{
    return error_set(err, ERR_FORMAT, "size is %llu, expected %u", (unsigned long long)size,
                     reader->segment_size);
}

bool
segment_reader_check_size(const SegmentReader *reader, Error *err)
{
    return reader->method != COMPRESSION_NONE || reader->size == reader->segment_size ||
           other_size(reader, reader->size, err);
}

/* At the end of the segment there must be nothing but the end of the file. */
static bool
next_plain(SegmentReader *reader, Span *ret_bytes, Error *err)
{
    uint64_t left = reader->segment_size - reader->position;
    size_t want = left == 0 ? 1 : READ_SIZE;
    size_t got;

    if (left > 0 && left < want)
        want = (size_t)left;
    if (!file_read(reader->fd, reader->buffer, want, reader->path, &got, err))
        return false;
    if (left == 0 && got > 0)
        return error_set(err, ERR_FORMAT, "size is over %u", reader->segment_size);
    if (left > 0 && got == 0) {
        reader->is_cut = true;
        return other_size(reader, reader->position, err);
    }
    reader->position += got;
    *ret_bytes = (Span){.data = reader->buffer, .len = got};
    return true;
}

/* ---- compressed ---- */

static bool
end_decompression(SegmentReader *reader, Error *err)
{
    reader->over = true;
    reader->is_cut = true;
    if (!sink_archive_end(reader->decompress, err))
        return false;
    if (reader->position < reader->segment_size)
        return error_set(err, ERR_FORMAT, "decompressed size is %llu, expected %u",
                         (unsigned long long)reader->position, reader->segment_size);
    reader->is_cut = false;
    return true;
}

static bool
decompress_input(SegmentReader *reader, Error *err)
{
    Span piece = reader->input;
    size_t most = reader->consumed < reader->careful ? INPUT_SIZE : 1;

    if (piece.len > most)
        piece.len = most;
    if (!sink_data(reader->decompress, piece, err) ||
        !sink_flush(reader->decompress, LSN_INVALID, err))
        return false;
    reader->input.data += piece.len;
    reader->input.len -= piece.len;
    reader->consumed += piece.len;
    return true;
}

static bool
pump(SegmentReader *reader, Error *err)
{
    if (reader->input.len == 0) {
        size_t got;

        if (!file_read(reader->fd, reader->buffer, READ_SIZE, reader->path, &got, err))
            return false;
        if (got == 0)
            return end_decompression(reader, err);
        reader->input = (Span){.data = reader->buffer, .len = got};
    }
    return decompress_input(reader, err);
}

/* From the begin of the file to where it is damaged; what came out already is not given again. */
static bool
start_again(SegmentReader *reader, Error *err)
{
    if (reader->from < reader->position)
        reader->from = reader->position;
    reader->position = 0;
    reader->careful = reader->consumed;
    reader->consumed = 0;
    reader->input.len = 0;
    sink_free(reader->decompress);
    reader->decompress = NULL;
    if (lseek(reader->fd, 0, SEEK_SET) < 0)
        return error_set_errno(err, errno, "could not seek in file \"%s\"", reader->path);
    return begin_decompression(reader, err);
}

/* Whether a second look can bring more than the first. */
static bool
lost_something(const SegmentReader *reader)
{
    return reader->failure.code == ERR_FORMAT && !reader->over && reader->careful == UINT64_MAX &&
           reader->position < reader->segment_size;
}

/* Data that wants more memory than we give it is no better than damaged data. */
static void
note_failure(SegmentReader *reader)
{
    if (reader->failure.code == ERR_UNSUPPORTED)
        reader->failure.code = ERR_FORMAT;
    reader->failed = true;
    reader->over = true;
}

static void
collect_output(SegmentReader *reader)
{
    while (!reader->over && reader->output.len < OUTPUT_SIZE) {
        if (!pump(reader, &reader->failure) &&
            (!lost_something(reader) || !start_again(reader, &reader->failure)))
            note_failure(reader);
    }
}

static bool
next_decompressed(SegmentReader *reader, Span *ret_bytes, Error *err)
{
    if (reader->given == reader->output.len) {
        reader->output.len = 0;
        reader->given = 0;
    }
    collect_output(reader);
    if (reader->failed && (reader->failure.code != ERR_FORMAT || reader->output.len == 0)) {
        *err = reader->failure;
        return false;
    }
    if (reader->output.len == 0) {
        *ret_bytes = span_of("");
        return true;
    }
    *ret_bytes = (Span){.data = reader->output.data + reader->given,
                        .len = reader->output.len - reader->given};
    if (ret_bytes->len > READ_SIZE)
        ret_bytes->len = READ_SIZE;
    reader->given += ret_bytes->len;
    return true;
}

/* ---- reading ---- */

bool
segment_reader_next(SegmentReader *reader, Span *ret_bytes, Error *err)
{
    if (reader->method == COMPRESSION_NONE)
        return next_plain(reader, ret_bytes, err);
    return next_decompressed(reader, ret_bytes, err);
}

static bool
read_all(SegmentReader *reader, bool (*take)(void *ctx, Span bytes), void *ctx, Error *err)
{
    Span bytes;

    do {
        if (!segment_reader_next(reader, &bytes, err))
            return false;
    } while (bytes.len > 0 && take(ctx, bytes));
    return true;
}

bool
wal_segment_read(const char *path, CompressionMethod compression, uint32_t segment_size,
                 bool (*take)(void *ctx, Span bytes), void *ctx, Error *err)
{
    SegmentSource source = {.path = path, .compression = compression, .segment_size = segment_size};
    SegmentReader *reader = segment_reader_open(&source, err);
    bool ok = reader != NULL && read_all(reader, take, ctx, err);

    segment_reader_free(reader);
    if (!ok && err->code == ERR_FORMAT)
        return error_context(err, "file \"%s\"", path);
    return ok;
}
