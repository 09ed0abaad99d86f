/*
 * tar_reader: a state machine over the bytes of one archive.
 *
 *   HEADER --file--> CONTENT --> PADDING --> HEADER
 *     |  `--directory, link, empty file--> HEADER
 *     `--zero block--> END --zero block--> TRAILER (zeros up to the end of the archive)
 *
 * Headers are looked at where they are; only one that arrives in pieces is put together in `block`.
 * Content goes on as it came. What is sent on, and where it fails, depends on the bytes alone and
 * not on how they are cut.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/file.h"
#include "stream/stage.h"
#include "stream/tar.h"

typedef enum TarState {
    TAR_HEADER,  /* collecting a header or the first end block */
    TAR_CONTENT, /* within a file's content */
    TAR_PADDING, /* between content and the next block */
    TAR_END,     /* collecting the second end block */
    TAR_TRAILER  /* behind the end blocks */
} TarState;

typedef struct TarReader {
    Sink sink;
    TarEnd end;
    char *archive;   /* name, for messages */
    bool compressed; /* so is what has that name: offsets are not of its bytes */
    uint64_t offset; /* in the archive, of the next byte */
    TarState state;
    TarHeader header;         /* the current member from CONTENT to the end of PADDING */
    uint64_t left;            /* bytes of content or padding to come */
    uint8_t block[TAR_BLOCK]; /* a block that arrives in pieces */
    size_t have;              /* of it */
} TarReader;

/* ---- members ---- */

/* Folding "x/.." would make a safe path of one that no honest archive has. */
static bool
has_parent_component(const char *path)
{
    for (const char *at = path; (at = strstr(at, "..")) != NULL; at += 2) {
        bool starts = at == path || at[-1] == '/';

        if (starts && (at[2] == '/' || at[2] == '\0'))
            return true;
    }
    return false;
}

/* The path as entries have it; *ret_is_root for "./", which is none. */
static bool
clean_path(const TarReader *reader, TarHeader *header, bool *ret_is_root, Error *err)
{
    char given[sizeof header->name];
    size_t len = strlen(header->name);

    memcpy(given, header->name, len + 1);
    if (header->kind == ENTRY_FILE && given[len - 1] == '/')
        return error_set(err, ERR_FORMAT,
                         "archive \"%s\": member \"%s\" is a file but is named like a directory",
                         reader->archive, given);
    path_canonicalize(header->name);
    *ret_is_root = header->kind == ENTRY_DIRECTORY && strcmp(header->name, ".") == 0;
    if (has_parent_component(given) || (!*ret_is_root && !path_is_below(header->name)))
        return error_set(err, ERR_FORMAT, "archive \"%s\": member \"%s\" has an unsafe path",
                         reader->archive, given);
    return true;
}

static bool
begin_member(TarReader *reader, const uint8_t *block, Error *err)
{
    const TarHeader *header = &reader->header;
    Entry entry = {.kind = header->kind,
                   .path = header->name,
                   .link_target = header->kind == ENTRY_SYMLINK ? header->link : NULL,
                   .size = header->size,
                   .mode = header->mode,
                   .mtime = header->mtime,
                   .tar_header = block};

    if (!sink_entry_begin(reader->sink.next, &entry, err))
        return false;
    if (header->size == 0)
        return sink_entry_end(reader->sink.next, true, err);
    reader->state = TAR_CONTENT;
    reader->left = header->size;
    return true;
}

static bool
end_member(TarReader *reader, Error *err)
{
    reader->left = tar_padding(reader->header.size);
    reader->state = reader->left > 0 ? TAR_PADDING : TAR_HEADER;
    return sink_entry_end(reader->sink.next, true, err);
}

/* ---- blocks ---- */

/* To an error: where it is. Gives false. */
static bool
at_offset(const TarReader *reader, uint64_t offset, Error *err)
{
    return error_context(err, "archive \"%s\", at offset %llu%s", reader->archive,
                         (unsigned long long)offset, reader->compressed ? " uncompressed" : "");
}

/* A header, or the first of the end blocks; it ends at reader->offset. */
static bool
take_header(TarReader *reader, const uint8_t *block, Error *err)
{
    bool is_root;

    if (tar_is_zero(block)) {
        reader->state = TAR_END;
        return true;
    }
    if (!tar_parse(block, &reader->header, err))
        return at_offset(reader, reader->offset - TAR_BLOCK, err);
    if (!clean_path(reader, &reader->header, &is_root, err))
        return false;
    return is_root || begin_member(reader, block, err);
}

static bool
take_end(TarReader *reader, const uint8_t *block, Error *err)
{
    if (!tar_is_zero(block)) {
        (void)error_set(err, ERR_FORMAT, "a zero block is followed by other data");
        return at_offset(reader, reader->offset - TAR_BLOCK, err);
    }
    reader->state = TAR_TRAILER;
    return true;
}

/* Up to `len` bytes from the front of *data. */
static Span
cut(TarReader *reader, Span *data, uint64_t len)
{
    Span piece = {.data = data->data, .len = len < data->len ? (size_t)len : data->len};

    data->data += piece.len;
    data->len -= piece.len;
    reader->offset += piece.len;
    return piece;
}

/* Once a block is whole. */
static bool
feed_block(TarReader *reader, Span *data, Error *err)
{
    Span piece = cut(reader, data, TAR_BLOCK - reader->have);
    const uint8_t *block = piece.data;

    if (piece.len < TAR_BLOCK) {
        memcpy(reader->block + reader->have, piece.data, piece.len);
        reader->have += piece.len;
        if (reader->have < TAR_BLOCK)
            return true;
        reader->have = 0;
        block = reader->block;
    }
    return reader->state == TAR_END ? take_end(reader, block, err)
                                    : take_header(reader, block, err);
}

static bool
feed_content(TarReader *reader, Span *data, Error *err)
{
    Span piece = cut(reader, data, reader->left);

    reader->left -= piece.len;
    if (!sink_data(reader->sink.next, piece, err))
        return false;
    return reader->left > 0 || end_member(reader, err);
}

static void
feed_padding(TarReader *reader, Span *data)
{
    reader->left -= cut(reader, data, reader->left).len;
    if (reader->left == 0)
        reader->state = TAR_HEADER;
}

/* Tar pads archives with zeros to a multiple of its record size, 10 KiB by custom. */
static bool
feed_trailer(TarReader *reader, Span *data, Error *err)
{
    uint64_t start = reader->offset;
    Span zeros = cut(reader, data, data->len);

    for (size_t i = 0; i < zeros.len; i++) {
        if (zeros.data[i] != 0) {
            (void)error_set(err, ERR_FORMAT, "data after the end of the archive");
            return at_offset(reader, start + i, err);
        }
    }
    return true;
}

static bool
feed(TarReader *reader, Span data, Error *err)
{
    while (data.len > 0) {
        bool ok = true;

        switch (reader->state) {
        case TAR_HEADER:
        case TAR_END:
            ok = feed_block(reader, &data, err);
            break;
        case TAR_CONTENT:
            ok = feed_content(reader, &data, err);
            break;
        case TAR_PADDING:
            feed_padding(reader, &data);
            break;
        case TAR_TRAILER:
            ok = feed_trailer(reader, &data, err);
            break;
        }
        if (!ok)
            return false;
    }
    return true;
}

/* ---- archives ---- */

static bool
begin_archive(TarReader *reader, const Event *event, Error *err)
{
    const char *compressed_name = event->archive->compressed_name;
    char *name = mem_strdup(compressed_name ? compressed_name : event->archive->name, err);

    if (name == NULL)
        return false;
    free(reader->archive);
    reader->archive = name;
    reader->compressed = compressed_name != NULL;
    reader->offset = 0;
    reader->state = TAR_HEADER;
    reader->have = 0;
    return sink_forward(&reader->sink, event, err);
}

/* Is this a place where an archive may end? */
static bool
check_end(const TarReader *reader, Error *err)
{
    const char *archive = reader->archive;
    const char *member = reader->header.name;

    switch (reader->state) {
    case TAR_HEADER:
        if (reader->have > 0)
            return error_set(err, ERR_FORMAT, "archive \"%s\" ends within a member's header",
                             archive);
        if (reader->end == TAR_END_REQUIRED)
            return error_set(err, ERR_FORMAT,
                             "archive \"%s\" ends after %llu bytes without its end blocks", archive,
                             (unsigned long long)reader->offset);
        return true;
    case TAR_CONTENT:
        return error_set(err, ERR_FORMAT,
                         "archive \"%s\" ends within member \"%s\": %llu of its %llu bytes are "
                         "missing",
                         archive, member, (unsigned long long)reader->left,
                         (unsigned long long)reader->header.size);
    case TAR_PADDING:
        return error_set(err, ERR_FORMAT, "archive \"%s\" ends within the padding of member \"%s\"",
                         archive, member);
    case TAR_END:
        return error_set(err, ERR_FORMAT, "archive \"%s\" ends within its end blocks", archive);
    case TAR_TRAILER:
        return true;
    }
    return error_set(err, ERR_BUG, "tar_reader is in no known state");
}

static bool
tar_reader_push(Sink *self, const Event *event, Error *err)
{
    TarReader *reader = (TarReader *)self;

    switch (event->kind) {
    case EVENT_ARCHIVE_BEGIN:
        return begin_archive(reader, event, err);
    case EVENT_ARCHIVE_END:
        return check_end(reader, err) && sink_forward(self, event, err);
    case EVENT_DATA:
        return feed(reader, event->data, err);
    case EVENT_FLUSH:
        return sink_forward(self, event, err);
    case EVENT_ENTRY_BEGIN:
    case EVENT_ENTRY_END:
        break;
    }
    return error_set(err, ERR_BUG, "tar_reader got archive \"%s\" with entries already",
                     reader->archive);
}

static void
tar_reader_release(Sink *self)
{
    free(((TarReader *)self)->archive);
}

static const SinkOps tar_reader_ops = {
    .name = "tar_reader",
    .push = tar_reader_push,
    .release = tar_reader_release,
};

Sink *
tar_reader_new(Sink *next, TarEnd end, Error *err)
{
    TarReader *reader = sink_alloc(sizeof *reader, &tar_reader_ops, next, err);

    if (reader == NULL)
        return NULL;
    reader->end = end;
    return &reader->sink;
}
