#include "support/chunker.h"

#include <stdlib.h>
#include <string.h>

static bool
push_piece(Sink *sink, Span piece, Error *err)
{
    uint8_t *copy = mem_alloc(piece.len, err);
    bool ok;

    if (copy == NULL)
        return false;
    if (piece.len > 0)
        memcpy(copy, piece.data, piece.len);
    ok = sink_data(sink, (Span){.data = copy, .len = piece.len}, err);
    free(copy);
    return ok;
}

/* Up to `len` bytes from the front of *data. */
static Span
cut(Span *data, size_t len)
{
    Span piece = {.data = data->data, .len = len < data->len ? len : data->len};

    data->data += piece.len;
    data->len -= piece.len;
    return piece;
}

bool
chunk_push(Sink *sink, Span data, size_t piece, Error *err)
{
    while (data.len > 0) {
        if (!push_piece(sink, cut(&data, piece == 0 ? data.len : piece), err))
            return false;
    }
    return true;
}

bool
chunk_push_random(Sink *sink, Span data, uint32_t seed, Error *err)
{
    while (data.len > 0) {
        size_t piece;

        seed = seed * 1664525u + 1013904223u; /* Numerical Recipes' generator: any will do */
        piece = (seed >> 16) % 4 == 0 ? 508 + (seed >> 20) % 8 : 1 + (seed >> 20) % 700;
        if (!push_piece(sink, cut(&data, piece), err))
            return false;
    }
    return true;
}

bool
chunk_archive(Sink *sink, const Archive *archive, Span data, size_t piece, Error *err)
{
    return sink_archive_begin(sink, archive, err) && chunk_push(sink, data, piece, err) &&
           sink_archive_end(sink, err);
}
