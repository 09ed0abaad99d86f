/*
 * tar_writer: a header, the content as it comes, zeros up to the next block; two blocks of zeros
 * at the end. Whoever wants large pieces has to gather them (handoff, file_sink).
 */
#include <stdlib.h>
#include <string.h>

#include "stream/stage.h"
#include "stream/tar.h"

static const uint8_t zeros[TAR_END_BLOCKS * TAR_BLOCK];

typedef struct TarWriter {
    Sink sink;
    TarOwner owner;
    char *archive; /* name, for messages */
    char *member;  /* path of the current entry, for messages; NULL between entries */
    uint64_t size; /* that it announced */
    uint64_t written;
} TarWriter;

static bool
begin_archive(TarWriter *writer, const Event *event, Error *err)
{
    char *name = mem_strdup(event->archive->name, err);

    if (name == NULL)
        return false;
    free(writer->archive);
    writer->archive = name;
    return sink_forward(&writer->sink, event, err);
}

static bool
make_header(const TarWriter *writer, const Entry *entry, uint8_t block[TAR_BLOCK], Error *err)
{
    if (entry->tar_header == NULL)
        return tar_format(entry, &writer->owner, block, err);
    memcpy(block, entry->tar_header, TAR_BLOCK);
    return tar_patch(block, entry, err);
}

static bool
begin_entry(TarWriter *writer, const Entry *entry, Error *err)
{
    uint8_t block[TAR_BLOCK];

    writer->member = mem_strdup(entry->path, err);
    if (writer->member == NULL)
        return false;
    writer->size = entry->size;
    writer->written = 0;
    if (!make_header(writer, entry, block, err))
        return error_context(err, "archive \"%s\"", writer->archive);
    return sink_data(writer->sink.next, (Span){.data = block, .len = sizeof block}, err);
}

static bool
take_data(TarWriter *writer, const Event *event, Error *err)
{
    if (writer->member == NULL)
        return error_set(err, ERR_BUG, "tar_writer got archive \"%s\" without entries",
                         writer->archive);
    if (event->data.len > writer->size - writer->written)
        return error_set(err, ERR_FORMAT,
                         "archive \"%s\": member \"%s\" gets more than its %llu bytes",
                         writer->archive, writer->member, (unsigned long long)writer->size);
    writer->written += event->data.len;
    return sink_forward(&writer->sink, event, err);
}

static bool
end_entry(TarWriter *writer, bool complete, Error *err)
{
    Span padding = {.data = zeros, .len = tar_padding(writer->size)};

    if (!complete)
        return error_set(err, ERR_BUG, "archive \"%s\": member \"%s\" was cut short",
                         writer->archive, writer->member);
    if (writer->written != writer->size)
        return error_set(err, ERR_FORMAT,
                         "archive \"%s\": member \"%s\" got %llu of its %llu bytes",
                         writer->archive, writer->member, (unsigned long long)writer->written,
                         (unsigned long long)writer->size);
    free(writer->member);
    writer->member = NULL;
    return sink_data(writer->sink.next, padding, err);
}

static bool
end_archive(TarWriter *writer, const Event *event, Error *err)
{
    return sink_data(writer->sink.next, (Span){.data = zeros, .len = sizeof zeros}, err) &&
           sink_forward(&writer->sink, event, err);
}

static bool
tar_writer_push(Sink *self, const Event *event, Error *err)
{
    TarWriter *writer = (TarWriter *)self;

    switch (event->kind) {
    case EVENT_ARCHIVE_BEGIN:
        return begin_archive(writer, event, err);
    case EVENT_ARCHIVE_END:
        return end_archive(writer, event, err);
    case EVENT_ENTRY_BEGIN:
        return begin_entry(writer, event->entry, err);
    case EVENT_ENTRY_END:
        return end_entry(writer, event->complete, err);
    case EVENT_DATA:
        return take_data(writer, event, err);
    case EVENT_FLUSH:
        return sink_forward(self, event, err);
    }
    return error_set(err, ERR_BUG, "tar_writer got an unknown event");
}

static void
tar_writer_release(Sink *self)
{
    TarWriter *writer = (TarWriter *)self;

    free(writer->archive);
    free(writer->member);
}

static const SinkOps tar_writer_ops = {
    .name = "tar_writer",
    .push = tar_writer_push,
    .release = tar_writer_release,
};

Sink *
tar_writer_new(Sink *next, const TarOwner *owner, Error *err)
{
    TarWriter *writer = sink_alloc(sizeof *writer, &tar_writer_ops, next, err);

    if (writer == NULL)
        return NULL;
    writer->owner = *owner;
    return &writer->sink;
}
