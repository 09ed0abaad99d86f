/*
 * The bytes of partial segments, read a second time: when they were checked nobody knew yet where
 * they end. A block goes out when it has the checksum that it had then. The last block goes only
 * as far as the tail does, and what is behind that may change from now on: so it is read first.
 */
#include <stdlib.h>
#include <string.h>

#include "common/crc32c.h"
#include "walrecv/internal.h"

struct WalTail {
    char *directory;
    SegmentPlace place;
    SegmentGood *parts; /* one for each segment */
    size_t count;
    size_t part;           /* the one at hand */
    SegmentReader *reader; /* of it; NULL: not open yet */
    uint64_t position;     /* in it, of the next block */
    Span pending;          /* what the reader gave beyond the last block */
    uint8_t *block;
    uint64_t last_end; /* where the tail ends in the last part */
    Buf last;          /* the bytes of the block that it ends within */
    bool last_given;
};

static bool
changed(const WalTail *tail, Error *err)
{
    char name[WAL_SEGMENT_FILE_SIZE];

    wal_segment_file_name(name, &tail->parts[tail->part].file, tail->place.segment_size);
    return error_set(err, ERR_FORMAT, "file \"%s/%s\" has changed since it was checked",
                     tail->directory, name);
}

/* ---- blocks ---- */

static bool
open_part(WalTail *tail, Error *err)
{
    tail->pending.len = 0;
    tail->reader = segment_open(&tail->place, &tail->parts[tail->part].file, tail->position, err);
    return tail->reader != NULL;
}

/* Goes on at the begin of another one. */
static void
go_to_part(WalTail *tail, size_t part)
{
    segment_reader_free(tail->reader);
    tail->reader = NULL;
    tail->part = part;
    tail->position = 0;
}

/* The next `len` bytes. */
static bool
read_block(WalTail *tail, size_t len, Error *err)
{
    size_t have = 0;

    while (have < len) {
        size_t take = len - have;

        if (tail->pending.len == 0 && !segment_reader_next(tail->reader, &tail->pending, err))
            return false;
        if (tail->pending.len == 0)
            return changed(tail, err);
        if (take > tail->pending.len)
            take = tail->pending.len;
        memcpy(tail->block + have, tail->pending.data, take);
        tail->pending.data += take;
        tail->pending.len -= take;
        have += take;
    }
    return true;
}

/* The block at the position, as it was checked. */
static bool
next_block(WalTail *tail, Span *ret_block, Error *err)
{
    const SegmentGood *part = &tail->parts[tail->part];
    uint64_t left = part->length - tail->position;
    size_t len = left < SEGMENT_BLOCK ? (size_t)left : SEGMENT_BLOCK;
    uint32_t crc;

    if ((tail->reader == NULL && !open_part(tail, err)) || !read_block(tail, len, err)) {
        /* What cannot be read any more could be read before. */
        return err->code == ERR_FORMAT ? changed(tail, err) : false;
    }
    memcpy(&crc, part->sums.data + tail->position / SEGMENT_BLOCK * sizeof crc, sizeof crc);
    if (crc32c(0, tail->block, len) != crc)
        return changed(tail, err);
    tail->position += len;
    *ret_block = (Span){.data = tail->block, .len = len};
    return true;
}

/* ---- making ---- */

static bool
read_last(WalTail *tail, Error *err)
{
    size_t rest = (size_t)(tail->last_end % SEGMENT_BLOCK);
    Span block;

    if (rest == 0)
        return true;
    go_to_part(tail, tail->count - 1);
    tail->position = tail->last_end - rest;
    if (!next_block(tail, &block, err) || !buf_append(&tail->last, block.data, rest, err))
        return false;
    go_to_part(tail, 0);
    return true;
}

/* The sums move: whoever frees the goods finds none. */
static bool
take_parts(WalTail *tail, SegmentGood *goods, size_t count, Error *err)
{
    tail->parts = mem_alloc(count * sizeof *goods, err);
    if (tail->parts == NULL)
        return false;
    memcpy(tail->parts, goods, count * sizeof *goods);
    tail->count = count;
    for (size_t i = 0; i < count; i++)
        goods[i].sums = BUF_INIT;
    return true;
}

static bool
tail_init(WalTail *tail, const SegmentPlace *place, Error *err)
{
    tail->directory = mem_strdup(place->directory, err);
    tail->place = (SegmentPlace){.directory = tail->directory, .segment_size = place->segment_size};
    tail->block = mem_alloc(SEGMENT_BLOCK, err);
    return tail->directory != NULL && tail->block != NULL;
}

WalTail *
wal_tail_new(const SegmentPlace *place, SegmentGood *goods, size_t count, Lsn end, Error *err)
{
    WalTail *tail = mem_zero(sizeof *tail, err);

    if (tail == NULL)
        return NULL;
    if (tail_init(tail, place, err) && take_parts(tail, goods, count, err)) {
        tail->last_end = end - wal_segment_start(goods[count - 1].file.number, place->segment_size);
        if (read_last(tail, err))
            return tail;
    }
    wal_tail_free(tail);
    return NULL;
}

void
wal_tail_free(WalTail *tail)
{
    if (tail == NULL)
        return;
    for (size_t i = 0; i < tail->count; i++)
        buf_free(&tail->parts[i].sums);
    segment_reader_free(tail->reader);
    buf_free(&tail->last);
    free(tail->parts);
    free(tail->block);
    free(tail->directory);
    free(tail);
}

/* ---- reading ---- */

/* Where the full blocks end of the part at hand. */
static uint64_t
blocks_end(const WalTail *tail)
{
    if (tail->part + 1 < tail->count)
        return tail->place.segment_size;
    return tail->last_end - tail->last_end % SEGMENT_BLOCK;
}

bool
wal_tail_next(WalTail *tail, Span *ret_bytes, Error *err)
{
    while (tail->part < tail->count && tail->position == blocks_end(tail))
        go_to_part(tail, tail->part + 1);
    if (tail->part < tail->count)
        return next_block(tail, ret_bytes, err);
    *ret_bytes =
        tail->last_given ? span_of("") : (Span){.data = tail->last.data, .len = tail->last.len};
    tail->last_given = true;
    return true;
}
