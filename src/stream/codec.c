/*
 * compress and decompress: opaque archives through a codec, whichever it is.
 *
 * Output is collected and goes on in large pieces: when CODEC_PIECE bytes are there, at FLUSH and
 * at the end of an archive. Before each step of the codec there is room for what it asked for
 * besides, so memory is bounded whatever the data unpacks to.
 *
 * What is behind the end of a member must begin like another one. That is looked at byte by byte
 * before the codec sees it, so the same bytes are refused with the same words however they are cut.
 */
#include <string.h>

#include "stream/internal.h"

/* With the room for a step that makes a mebibyte. */
#define CODEC_PIECE ((size_t)768 * 1024)

const CodecOps *
codec_of(CompressionMethod method)
{
    static const CodecOps *const codecs[] = {[COMPRESSION_NONE] = NULL,
                                             [COMPRESSION_GZIP] = &codec_gzip,
                                             [COMPRESSION_LZ4] = &codec_lz4,
                                             [COMPRESSION_ZSTD] = &codec_zstd};

    return codecs[method];
}

/* ---- what both have ---- */

typedef struct CodecStage {
    Sink sink;
    CompressionMethod method;
    const CodecOps *codec;
    void *ctx;
    Buf archive; /* name of the compressed one, for messages */
    Buf out;
} CodecStage;

static bool
push_out(CodecStage *stage, Error *err)
{
    Span out = {.data = stage->out.data, .len = stage->out.len};

    stage->out.len = 0;
    return sink_data(stage->sink.next, out, err);
}

static bool
push_piece(CodecStage *stage, Error *err)
{
    return stage->out.len < CODEC_PIECE || push_out(stage, err);
}

static bool
name_archive(CodecStage *stage, Error *err)
{
    return error_context(err, "archive \"%s\"", buf_text(&stage->archive));
}

static bool
set_name(Buf *name, const char *text, const char *suffix, Error *err)
{
    buf_clear(name);
    return buf_printf(name, err, "%s%s", text, suffix);
}

/* The archive's begin under another name. */
static bool
begin_renamed(CodecStage *stage, const Archive *archive, const Buf *name,
              const char *compressed_name, Error *err)
{
    const Archive renamed = {.name = buf_text(name),
                             .tablespace = archive->tablespace,
                             .compressed_name = compressed_name};

    return sink_archive_begin(stage->sink.next, &renamed, err);
}

static bool
refuse_entries(const CodecStage *stage, Error *err)
{
    return error_set(err, ERR_BUG, "%s got archive \"%s\" with entries", stage->sink.ops->name,
                     buf_text(&stage->archive));
}

/* Up to CODEC_SLICE bytes from the front. */
static Span
cut_slice(Span *data)
{
    Span slice = {.data = data->data, .len = data->len < CODEC_SLICE ? data->len : CODEC_SLICE};

    data->data += slice.len;
    data->len -= slice.len;
    return slice;
}

/* ---- compress ---- */

/* Takes the step to its end. */
static bool
compress_run(CodecStage *stage, CodecStep step, Span in, Error *err)
{
    CodecProgress progress;

    do {
        if (!stage->codec->compress_step(stage->ctx, step, &in, &stage->out, &progress, err))
            return name_archive(stage, err);
        if (!push_piece(stage, err))
            return false;
    } while (progress == CODEC_MORE);
    return true;
}

static bool
compress_begin(CodecStage *stage, const Archive *archive, Error *err)
{
    const char *suffix = compression_suffix(stage->method);

    if (!set_name(&stage->archive, archive->name, suffix, err) ||
        !begin_renamed(stage, archive, &stage->archive, NULL, err))
        return false;
    return stage->codec->compress_begin(stage->ctx, &stage->out, err) || name_archive(stage, err);
}

static bool
compress_data(CodecStage *stage, Span data, Error *err)
{
    while (data.len > 0) {
        if (!compress_run(stage, CODEC_CONTINUE, cut_slice(&data), err))
            return false;
    }
    return true;
}

/* FLUSH within an archive, or its end. */
static bool
compress_out(CodecStage *stage, CodecStep step, Error *err)
{
    return compress_run(stage, step, span_of(""), err) && push_out(stage, err);
}

static bool
compress_push(Sink *self, const Event *event, Error *err)
{
    CodecStage *stage = (CodecStage *)self;

    switch (event->kind) {
    case EVENT_ARCHIVE_BEGIN:
        return compress_begin(stage, event->archive, err);
    case EVENT_ARCHIVE_END:
        return compress_out(stage, CODEC_END, err) && sink_forward(self, event, err);
    case EVENT_DATA:
        return compress_data(stage, event->data, err);
    case EVENT_FLUSH:
        return (self->place == SINK_OUTSIDE || compress_out(stage, CODEC_FLUSH, err)) &&
               sink_forward(self, event, err);
    case EVENT_ENTRY_BEGIN:
    case EVENT_ENTRY_END:
        break;
    }
    return refuse_entries(stage, err);
}

static void
compress_release(Sink *self)
{
    CodecStage *stage = (CodecStage *)self;

    if (stage->ctx != NULL)
        stage->codec->compress_free(stage->ctx);
    buf_free(&stage->archive);
    buf_free(&stage->out);
}

static const SinkOps compress_ops = {
    .name = "compress",
    .push = compress_push,
    .release = compress_release,
};

Sink *
compress_new(Sink *next, const Compression *compression, Error *err)
{
    CodecStage *stage;
    size_t room;

    if (compression->method == COMPRESSION_NONE)
        return next;
    stage = sink_alloc(sizeof *stage, &compress_ops, next, err);
    if (stage == NULL)
        return NULL;
    stage->method = compression->method;
    stage->codec = codec_of(compression->method);
    stage->ctx = stage->codec->compress_new(compression, &room, err);
    if (stage->ctx == NULL || !buf_reserve(&stage->out, CODEC_PIECE + room, err)) {
        sink_free(&stage->sink);
        return NULL;
    }
    return &stage->sink;
}

/* ---- decompress ---- */

typedef struct Decompress {
    CodecStage stage;
    Buf plain;                      /* the archive's name without the suffix */
    uint64_t offset;                /* in the archive, of the next byte */
    uint8_t magic[CODEC_MAGIC_MAX]; /* the begin of a member until it is whole */
    size_t have;                    /* of it */
    bool inside;                    /* a member */
    size_t capacity;                /* that the stage's `out` needs */
} Decompress;

/* May these be the first bytes of a member? */
static bool
begins_member(const CodecOps *codec, const uint8_t *bytes, size_t len)
{
    static const uint8_t skippable[] = {0x50, 0x2A, 0x4D, 0x18}; /* to 0x5F */

    if (memcmp(bytes, codec->magic, len) == 0)
        return true;
    return codec->skippable && (bytes[0] & 0xF0) == skippable[0] &&
           memcmp(bytes + 1, skippable + 1, len - 1) == 0;
}

static bool
no_member(Decompress *self, Error *err)
{
    const char *archive = buf_text(&self->stage.archive);
    const char *method = compression_method_name(self->stage.method);
    uint64_t start = self->offset - self->have;

    if (start == 0)
        return error_set(err, ERR_FORMAT, "archive \"%s\" is not %s data", archive, method);
    return error_set(err, ERR_FORMAT,
                     "archive \"%s\", at offset %llu: data after the end of the %s data", archive,
                     (unsigned long long)start, method);
}

/* As far as the slice goes, or the member. */
static bool
decompress_run(Decompress *self, Span *in, Error *err)
{
    CodecStage *stage = &self->stage;
    CodecProgress progress;

    do {
        if (stage->out.capacity < self->capacity && !buf_reserve(&stage->out, self->capacity, err))
            return false;
        if (!stage->codec->decompress_step(stage->ctx, in, &stage->out, &progress, err))
            return name_archive(stage, err);
        if (!push_piece(stage, err))
            return false;
    } while (progress == CODEC_MORE);
    self->inside = progress != CODEC_ENDED;
    return true;
}

static bool
begin_member(Decompress *self, Error *err)
{
    Span magic = {.data = self->magic, .len = self->have};

    self->have = 0;
    if (!self->stage.codec->decompress_begin(self->stage.ctx, err))
        return name_archive(&self->stage, err);
    return decompress_run(self, &magic, err);
}

/* The next byte of what must become a member's begin. */
static bool
take_magic(Decompress *self, Span *data, Error *err)
{
    const CodecOps *codec = self->stage.codec;

    self->magic[self->have++] = data->data[0];
    self->offset++;
    data->data++;
    data->len--;
    if (!begins_member(codec, self->magic, self->have))
        return no_member(self, err);
    return self->have < codec->magic_size || begin_member(self, err);
}

static bool
take_member(Decompress *self, Span *data, Error *err)
{
    Span rest = *data;
    Span slice = cut_slice(&rest);
    size_t taken = slice.len;

    if (!decompress_run(self, &slice, err))
        return false;
    taken -= slice.len;
    self->offset += taken;
    data->data += taken;
    data->len -= taken;
    return true;
}

static bool
decompress_data(Decompress *self, Span data, Error *err)
{
    while (data.len > 0) {
        if (!(self->inside ? take_member(self, &data, err) : take_magic(self, &data, err)))
            return false;
    }
    return true;
}

static bool
decompress_begin(Decompress *self, const Archive *archive, Error *err)
{
    CodecStage *stage = &self->stage;

    if (!set_name(&stage->archive, archive->name, "", err) ||
        !compression_plain_name(stage->method, archive->name, &self->plain, err))
        return false;
    self->offset = 0; /* and no member is open: check_end saw to it */
    return begin_renamed(stage, archive, &self->plain, archive->name, err);
}

/* Is this a place where an archive may end? */
static bool
check_end(const Decompress *self, Error *err)
{
    const char *archive = buf_text(&self->stage.archive);
    const char *method = compression_method_name(self->stage.method);

    if (self->offset == 0)
        return error_set(err, ERR_FORMAT, "archive \"%s\" is empty, which %s data never is",
                         archive, method);
    if (self->inside || self->have > 0)
        return error_set(err, ERR_FORMAT, "archive \"%s\" ends after %llu bytes within its %s data",
                         archive, (unsigned long long)self->offset, method);
    return true;
}

/* What was given in front of the damage goes on before that is told. False, with the first of the
 * errors. */
static bool
push_intact(Decompress *self, Error *err)
{
    Error earlier = ERROR_INIT;

    if (!push_out(&self->stage, &earlier))
        *err = earlier;
    return false;
}

static bool
decompress_push(Sink *sink, const Event *event, Error *err)
{
    Decompress *self = (Decompress *)sink;

    switch (event->kind) {
    case EVENT_ARCHIVE_BEGIN:
        return decompress_begin(self, event->archive, err);
    case EVENT_ARCHIVE_END:
        if (!check_end(self, err))
            return push_intact(self, err);
        return push_out(&self->stage, err) && sink_forward(sink, event, err);
    case EVENT_DATA:
        return decompress_data(self, event->data, err) || push_intact(self, err);
    case EVENT_FLUSH:
        return push_out(&self->stage, err) && sink_forward(sink, event, err);
    case EVENT_ENTRY_BEGIN:
    case EVENT_ENTRY_END:
        break;
    }
    return refuse_entries(&self->stage, err);
}

static void
decompress_release(Sink *sink)
{
    Decompress *self = (Decompress *)sink;

    if (self->stage.ctx != NULL)
        self->stage.codec->decompress_free(self->stage.ctx);
    buf_free(&self->stage.archive);
    buf_free(&self->stage.out);
    buf_free(&self->plain);
}

void
decompress_exchange(Sink *decompress, Buf *memory)
{
    CodecStage *stage = &((Decompress *)decompress)->stage;
    Buf pushed = stage->out;

    stage->out = *memory;
    stage->out.len = 0;
    *memory = pushed;
}

static const SinkOps decompress_ops = {
    .name = "decompress",
    .push = decompress_push,
    .release = decompress_release,
};

Sink *
decompress_new(Sink *next, CompressionMethod method, Error *err)
{
    Decompress *self;
    size_t room;

    if (method == COMPRESSION_NONE)
        return next;
    self = sink_alloc(sizeof *self, &decompress_ops, next, err);
    if (self == NULL)
        return NULL;
    self->stage.method = method;
    self->stage.codec = codec_of(method);
    self->stage.ctx = self->stage.codec->decompress_new(&room, err);
    self->capacity = CODEC_PIECE + room;
    if (self->stage.ctx == NULL || !buf_reserve(&self->stage.out, self->capacity, err)) {
        sink_free(&self->stage.sink);
        return NULL;
    }
    return &self->stage.sink;
}
