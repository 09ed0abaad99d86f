/* A complete segment is copied out of an archive, and checked on the way: it is read once. */
#include <errno.h>
#include <string.h>

#include "archive/internal.h"
#include "common/file.h"
#include "pgformat/walrecord.h"

/* What its name and its first page say together. */
typedef struct SegmentFacts {
    uint32_t segment_size;
    TimeLineID timeline;
    uint64_t number;
} SegmentFacts;

static bool
check_cluster(const SegmentCopy *copy, const WalLongHeader *header, Error *err)
{
    if (copy->system_id == 0 || header->system_id == copy->system_id)
        return true;
    (void)error_set(err, ERR_MISMATCH,
                    "\"%s\" is of another cluster: system identifier %llu, expected %llu",
                    copy->form->path, (unsigned long long)header->system_id,
                    (unsigned long long)copy->system_id);
    return error_hint(err, "Name the archive of the cluster that is to be recovered.");
}

static bool
read_facts(const SegmentCopy *copy, SegmentFacts *ret_facts, Error *err)
{
    const SegmentPlace place = {.directory = copy->directory, .segment_size = WAL_SEGMENT_SIZE_MIN};
    WalSegmentFile file = copy->name->segment;
    WalLongHeader header;
    bool fits;

    file.compression = copy->form->compression;
    if (!segment_header(&place, &file, &header, &fits, err))
        return false;
    if (!fits || !wal_segment_parse(copy->name->name, header.segment_size, &ret_facts->timeline,
                                    &ret_facts->number))
        return error_set(err, ERR_FORMAT,
                         "\"%s\" is damaged, or is not the WAL segment that its name says: its "
                         "first page has not the header of that",
                         copy->form->path);
    ret_facts->segment_size = header.segment_size;
    return check_cluster(copy, &header, err);
}

static bool
damaged(const SegmentCopy *copy, const WalDamage *damage, Error *err)
{
    (void)error_set(err, ERR_FORMAT, "\"%s\" is damaged: at " LSN_FORMAT ": %s", copy->form->path,
                    LSN_ARGS(damage->lsn), damage->reason);
    return error_hint(err, "If this is where WAL ends, add \".partial\" to the file's name: then "
                           "recovery gets what is good of it.");
}

/* To the end of the file. */
static bool
copy_bytes(const SegmentCopy *copy, SegmentReader *reader, WalParser *parser, ClaimedFile *to,
           Error *err)
{
    WalDamage damage;
    Span bytes;

    do {
        if (!segment_reader_next(reader, &bytes, err))
            return err->code == ERR_FORMAT
                       ? error_context(err, "\"%s\" is damaged", copy->form->path)
                       : false;
        if (wal_parser_feed(parser, bytes, &damage) == WAL_DAMAGED)
            return damaged(copy, &damage, err);
        if (!file_write(to->fd, bytes.data, bytes.len, to->path, err))
            return false;
    } while (bytes.len > 0);
    return true;
}

static bool
check_size(const SegmentCopy *copy, const SegmentReader *reader, Error *err)
{
    return segment_reader_check_size(reader, err) ||
           error_context(err, "\"%s\" is damaged", copy->form->path);
}

static bool
copy_checked(const SegmentCopy *copy, const SegmentFacts *facts, ClaimedFile *to, Error *err)
{
    const WalParserConfig config = {
        .start = wal_segment_start(facts->number, facts->segment_size),
        .segment_size = facts->segment_size,
        .timeline = facts->timeline,
        .system_id = copy->system_id,
    };
    const SegmentSource source = {.path = copy->form->path,
                                  .compression = copy->form->compression,
                                  .segment_size = facts->segment_size};
    WalParser *parser = wal_parser_new(&config, err);
    SegmentReader *reader = parser == NULL ? NULL : segment_reader_open(&source, err);
    bool ok = reader != NULL && check_size(copy, reader, err) &&
              copy_bytes(copy, reader, parser, to, err);

    segment_reader_free(reader);
    wal_parser_free(parser);
    return ok;
}

bool
segment_copy(const SegmentCopy *copy, ClaimedFile *to, Error *err)
{
    SegmentFacts facts;

    return read_facts(copy, &facts, err) && copy_checked(copy, &facts, to, err);
}
