/*
 * What of a segment's file is WAL: the record chain in it, followed by a parser.
 *
 * The record under way at the end of a segment goes on in the next one, and its checksum covers
 * both parts. So the parser that is to judge a segment is led up to it first: it is fed what is
 * before, from the last place on where a record is known to begin. Mostly that is close to the end
 * of the segment before; a record as long as a segment, which logical messages can be, begins
 * further back. Page headers say how much of a record is still to come, so looking at one of them
 * tells whether a record begins behind it.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/crc32c.h"
#include "common/file.h"
#include "pgformat/walrecord.h"
#include "segment/segment.h"

#define PAGE_HEADER    24u
#define PAGE_CONTINUES 0x0001u
#define RECORD_MAX     ((uint64_t)1 << 30)
#define LEAD_UP        ((uint64_t)16 << 20) /* of a plain file before, at first */

SegmentReader *
segment_open(const SegmentPlace *place, const WalSegmentFile *file, uint64_t from, Error *err)
{
    char name[WAL_SEGMENT_FILE_SIZE];
    SegmentReader *reader;
    char *path;

    wal_segment_file_name(name, file, place->segment_size);
    path = path_join(place->directory, name, err);
    if (path == NULL)
        return NULL;
    reader = segment_reader_open(&(SegmentSource){.path = path,
                                                  .compression = file->compression,
                                                  .segment_size = place->segment_size,
                                                  .from = from},
                                 err);
    free(path);
    return reader;
}

bool
segment_is_odd(const Error *err)
{
    return err->code == ERR_FORMAT || (err->code == ERR_SYSTEM && err->sys_errno == ENOENT);
}

/* ---- what a segment begins with ---- */

/* A page header, of either length, as far as it is there. *ret_len is 0 for a file that is odd. */
static bool
read_header(const SegmentPlace *place, const WalSegmentFile *file, uint64_t from,
            uint8_t header[WAL_LONG_HEADER], size_t *ret_len, Error *err)
{
    Error odd = ERROR_INIT;
    SegmentReader *reader = segment_open(place, file, from, &odd);
    Span bytes = {.len = 0};
    bool ok = reader != NULL && segment_reader_next(reader, &bytes, &odd);

    if (!ok && !segment_is_odd(&odd)) {
        *err = odd;
        segment_reader_free(reader);
        return false;
    }
    if (bytes.len > WAL_LONG_HEADER)
        bytes.len = WAL_LONG_HEADER;
    if (ok && bytes.len > 0)
        memcpy(header, bytes.data, bytes.len);
    *ret_len = ok ? bytes.len : 0;
    segment_reader_free(reader);
    return true;
}

/* Whether the header and the file's name say the same: what is no WAL hardly does. */
static bool
header_fits(const SegmentPlace *place, const WalSegmentFile *file, const WalLongHeader *header)
{
    char name[WAL_SEGMENT_FILE_SIZE];
    WalSegmentFile own;

    /* The segment size is the header's: a cluster made anew may have another one. */
    if (!wal_segment_size_valid(header->segment_size))
        return false;
    wal_segment_file_name(name, file, place->segment_size);
    return wal_segment_file_parse(name, header->segment_size, &own) &&
           header->address == wal_segment_start(own.number, header->segment_size);
}

bool
segment_header(const SegmentPlace *place, const WalSegmentFile *file, WalLongHeader *ret_header,
               bool *ret_fits, Error *err)
{
    uint8_t page[WAL_LONG_HEADER];
    size_t len;

    if (!read_header(place, file, 0, page, &len, err))
        return false;
    *ret_fits = wal_long_header_parse((Span){.data = page, .len = len}, ret_header) &&
                header_fits(place, file, ret_header);
    return true;
}

bool
segment_system_id(const SegmentPlace *place, const WalSegmentFile *file, uint64_t *ret_system_id,
                  Error *err)
{
    WalLongHeader header;
    bool fits;

    if (!segment_header(place, file, &header, &fits, err))
        return false;
    *ret_system_id = fits ? header.system_id : 0;
    return true;
}

/* How much of a record that began before it is behind a page header. */
static uint64_t
rest_of_record(const uint8_t *header)
{
    return (get_le16(header + 2) & PAGE_CONTINUES) == 0 ? 0 : get_le32(header + 16);
}

/* ---- complete ones ---- */

static bool
damaged(const WalDamage *damage, Error *err)
{
    return error_set(err, ERR_FORMAT, "at " LSN_FORMAT ": %s", LSN_ARGS(damage->lsn),
                     damage->reason);
}

/* To the end of the file. */
static bool
feed_file(WalParser *parser, SegmentReader *reader, Error *err)
{
    WalDamage damage;
    Span bytes;

    do {
        if (!segment_reader_next(reader, &bytes, err))
            return false;
        if (wal_parser_feed(parser, bytes, &damage) == WAL_DAMAGED)
            return damaged(&damage, err);
    } while (bytes.len > 0);
    return true;
}

static WalParser *
parser_new(const SegmentPlace *place, Lsn start, TimeLineID timeline, Error *err)
{
    return wal_parser_new(&(WalParserConfig){.start = start,
                                             .segment_size = place->segment_size,
                                             .timeline = timeline},
                          err);
}

bool
segment_check_complete(const SegmentPlace *place, const WalSegmentFile *file, Error *err)
{
    Lsn start = wal_segment_start(file->number, place->segment_size);
    WalParser *parser = parser_new(place, start, file->timeline, err);
    SegmentReader *reader = NULL;
    bool ok;

    if (parser != NULL)
        reader = segment_open(place, file, 0, err);
    ok = reader != NULL && segment_reader_check_size(reader, err) && feed_file(parser, reader, err);
    segment_reader_free(reader);
    wal_parser_free(parser);
    return ok;
}

/* ---- leading up to a partial one ---- */

/* How many bytes of records there is room for between two places, the second a segment's start. */
static uint64_t
room_between(Lsn from, Lsn to, uint32_t segment_size)
{
    uint64_t pages = (to - from) / WAL_PAGE_SIZE;
    uint64_t segments = (to - from + segment_size - 1) / segment_size;
    uint64_t long_headers = wal_segment_offset(from, segment_size) == 0 ? segments : segments - 1;

    return pages * (WAL_PAGE_SIZE - PAGE_HEADER) - long_headers * (WAL_LONG_HEADER - PAGE_HEADER);
}

/* The page at `offset` of this file, if a record begins behind it, or at the latest at `to`;
 * otherwise LSN_INVALID. */
static bool
begin_at_page(const SegmentPlace *place, const WalSegmentFile *file, uint64_t offset, Lsn to,
              Lsn *ret_begin, Error *err)
{
    Lsn page = wal_segment_start(file->number, place->segment_size) + offset;
    uint8_t header[WAL_LONG_HEADER];
    size_t len;

    if (!read_header(place, file, offset, header, &len, err))
        return false;
    if (len < PAGE_HEADER || rest_of_record(header) > room_between(page, to, place->segment_size))
        page = LSN_INVALID;
    *ret_begin = page;
    return true;
}

/* Shortly before `to`, where that saves reading a large segment. */
static bool
begin_near(const SegmentsBefore *before, Lsn to, Lsn *ret_begin, Error *err)
{
    uint32_t size = before->place->segment_size;
    WalSegmentFile file;

    *ret_begin = LSN_INVALID;
    if (size <= LEAD_UP || to == 0 ||
        !before->find(before->ctx, wal_segment_number(to, size) - 1, &file) ||
        file.compression != COMPRESSION_NONE)
        return true;
    return begin_at_page(before->place, &file, size - LEAD_UP, to, ret_begin, err);
}

/* At the start of the segment before or, behind a long record, of one before that. */
static bool
begin_at_segment(const SegmentsBefore *before, Lsn to, Lsn *ret_begin, Error *err)
{
    uint32_t size = before->place->segment_size;
    uint64_t number = wal_segment_number(to, size);
    Lsn begin = LSN_INVALID;
    WalSegmentFile file;

    while (begin == LSN_INVALID && number > 0 &&
           to - wal_segment_start(number, size) <= RECORD_MAX &&
           before->find(before->ctx, number - 1, &file)) {
        if (!begin_at_page(before->place, &file, 0, to, &begin, err))
            return false;
        number--;
    }
    *ret_begin = begin;
    return true;
}

static bool
feed_before(const SegmentsBefore *before, WalParser *parser, Lsn to, Error *err)
{
    uint32_t size = before->place->segment_size;
    bool ok = true;

    for (Lsn at = wal_parser_position(parser); ok && at < to; at = wal_parser_position(parser)) {
        WalSegmentFile file = {.number = 0};
        SegmentReader *reader = NULL;

        if (before->find(before->ctx, wal_segment_number(at, size), &file))
            reader = segment_open(before->place, &file, wal_segment_offset(at, size), err);
        else
            (void)error_set(err, ERR_FORMAT, "segment is missing");
        ok = reader != NULL && feed_file(parser, reader, err);
        segment_reader_free(reader);
    }
    return ok;
}

/* A parser at `to` that has seen what is between: NULL when that is no WAL. */
static bool
lead_up_from(const SegmentsBefore *before, Lsn begin, Lsn to, TimeLineID timeline,
             WalParser **ret_parser, Error *err)
{
    Error odd = ERROR_INIT;
    WalParser *parser = parser_new(before->place, begin, timeline, err);

    if (parser == NULL)
        return false;
    if (feed_before(before, parser, to, &odd)) {
        *ret_parser = parser;
        return true;
    }
    wal_parser_free(parser);
    *ret_parser = NULL;
    if (segment_is_odd(&odd))
        return true;
    *err = odd;
    return false;
}

/* *ret_parser is NULL when there is nothing to lead it up. Behind a switch there is no record up to
 * the end of the segment: so what is near may be of no use. */
static bool
lead_up(const SegmentsBefore *before, Lsn to, TimeLineID timeline, WalParser **ret_parser,
        Error *err)
{
    WalParser *parser = NULL;
    Lsn begin;

    if (!begin_near(before, to, &begin, err) ||
        (begin != LSN_INVALID && !lead_up_from(before, begin, to, timeline, &parser, err)))
        return false;
    if (parser == NULL &&
        (!begin_at_segment(before, to, &begin, err) ||
         (begin != LSN_INVALID && !lead_up_from(before, begin, to, timeline, &parser, err))))
        return false;
    *ret_parser = parser;
    return true;
}

/* ---- partial ones ---- */

static bool
sum_up(SegmentGood *good, Span bytes, Error *err)
{
    while (bytes.len > 0) {
        size_t room = SEGMENT_BLOCK - (size_t)(good->length % SEGMENT_BLOCK);
        size_t len = bytes.len < room ? bytes.len : room;

        good->crc = crc32c(good->crc, bytes.data, len);
        good->length += len;
        bytes.data += len;
        bytes.len -= len;
        if (good->length % SEGMENT_BLOCK == 0) {
            if (!buf_append(&good->sums, &good->crc, sizeof good->crc, err))
                return false;
            good->crc = 0;
        }
    }
    return true;
}

/* As far as there are records; an odd file ends there. */
static bool
follow_records(SegmentGood *good, WalParser *parser, SegmentReader *reader, Lsn end, Error *err)
{
    WalVerdict verdict = WAL_INTACT;
    WalDamage damage;

    while (verdict == WAL_INTACT && wal_parser_position(parser) < end) {
        Span bytes;

        if (!segment_reader_next(reader, &bytes, err))
            return false;
        verdict = wal_parser_feed(parser, bytes, &damage);
        if (!sum_up(good, bytes, err))
            return false;
    }
    good->whole = verdict == WAL_INTACT;
    return true;
}

/* Nothing before it can be read: a record that is only continued there could not be checked. */
static bool
begin_anew(const SegmentPlace *place, const WalSegmentFile *file, TimeLineID timeline,
           WalParser **ret_parser, Error *err)
{
    uint8_t header[WAL_LONG_HEADER];
    size_t len;

    *ret_parser = NULL;
    if (!read_header(place, file, 0, header, &len, err))
        return false;
    if (len < PAGE_HEADER || rest_of_record(header) > 0)
        return true;
    *ret_parser =
        parser_new(place, wal_segment_start(file->number, place->segment_size), timeline, err);
    return *ret_parser != NULL;
}

static bool
check_partial(const SegmentPlace *place, WalParser *parser, SegmentGood *good, Error *err)
{
    Lsn end = wal_segment_start(good->file.number, place->segment_size) + place->segment_size;
    Error odd = ERROR_INIT;
    SegmentReader *reader = segment_open(place, &good->file, 0, &odd);
    bool ok = reader != NULL && follow_records(good, parser, reader, end, &odd);

    segment_reader_free(reader);
    if (!ok && !segment_is_odd(&odd)) {
        *err = odd;
        return false;
    }
    good->valid_end = wal_parser_valid_end(parser);
    return good->length % SEGMENT_BLOCK == 0 ||
           buf_append(&good->sums, &good->crc, sizeof good->crc, err);
}

bool
segment_check_partial(const SegmentsBefore *before, const WalSegmentFile *file, TimeLineID timeline,
                      SegmentGood *ret_good, Error *err)
{
    const SegmentPlace *place = before->place;
    Lsn start = wal_segment_start(file->number, place->segment_size);
    SegmentGood good = {.file = *file, .valid_end = start};
    WalParser *parser;
    bool ok;

    if (!lead_up(before, start, timeline, &parser, err) ||
        (parser == NULL && !begin_anew(place, file, timeline, &parser, err)))
        return false;
    ok = parser == NULL || check_partial(place, parser, &good, err);
    wal_parser_free(parser);
    if (!ok)
        buf_free(&good.sums);
    else
        *ret_good = good;
    return ok;
}
