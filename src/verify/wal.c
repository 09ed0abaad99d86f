/*
 * WAL ranges of a directory: each segment plain or as a receiver has compressed it.
 *
 * The segments' names depend on the segment size, and the size stands in the segments: so every
 * size is tried, and the segment that it names for the range's start must say the same about
 * itself. When that one is missing or damaged, another segment tells the size, so that the problem
 * can name it.
 */
#include <errno.h>
#include <stdlib.h>

#include "pgformat/walrecord.h"
#include "segment/segment.h"
#include "verify/internal.h"

/* One range on its way. What is wrong goes into `reason`; the first thing ends the check. */
typedef struct RangeRun {
    const WalRangeCheck *check;
    uint32_t segment_size;
    WalParser *parser;
    bool bad;
    Lsn bad_lsn;
    char bad_segment[WAL_SEGMENT_FILE_SIZE]; /* "": no particular one */
    Buf reason;
} RangeRun;

/* ---- what is wrong ---- */

static void
run_bad(RangeRun *run, Lsn lsn)
{
    run->bad = true;
    run->bad_lsn = lsn;
    run->bad_segment[0] = '\0';
    buf_clear(&run->reason);
}

/* The segment that holds `lsn`, with a reason to follow. */
static void
run_bad_segment(RangeRun *run, Lsn lsn)
{
    run_bad(run, lsn);
    wal_segment_name(run->bad_segment, run->check->range->timeline,
                     wal_segment_number(lsn, run->segment_size), run->segment_size);
}

static bool
run_damaged(RangeRun *run, const WalDamage *damage, Error *err)
{
    run_bad_segment(run, damage->lsn);
    return buf_printf(&run->reason, err, "%s", damage->reason);
}

static bool
run_report(const RangeRun *run, Reporter *reporter, Error *err)
{
    const WalRangeCheck *check = run->check;
    Problem problem = {.kind = PROBLEM_WAL, .path = check->directory, .lsn = run->bad_lsn};

    if (run->bad_segment[0] == '\0')
        return report(reporter, &problem, err,
                      "WAL parsing failed for timeline %u: at LSN " LSN_FORMAT ": %s",
                      check->range->timeline, LSN_ARGS(run->bad_lsn), buf_text(&run->reason));
    return report(reporter, &problem, err,
                  "WAL parsing failed for timeline %u: at LSN " LSN_FORMAT " in segment \"%s\": %s",
                  check->range->timeline, LSN_ARGS(run->bad_lsn), run->bad_segment,
                  buf_text(&run->reason));
}

/* ---- one segment ---- */

static SegmentPlace
place_of(const RangeRun *run, uint32_t segment_size)
{
    return (SegmentPlace){.directory = run->check->directory, .segment_size = segment_size};
}

/* What tells of a file, and not of us. */
static bool
is_finding(const Error *why)
{
    return why->code == ERR_SYSTEM || why->code == ERR_FORMAT;
}

/* A file that is gone, cannot be read or has not the content of a segment. */
static bool
run_unreadable(RangeRun *run, Lsn lsn, const WalSegmentFile *file, const Error *why, Error *err)
{
    if (!is_finding(why)) {
        *err = *why;
        return false;
    }
    run_bad(run, lsn);
    wal_segment_file_name(run->bad_segment, file, run->segment_size);
    return buf_printf(&run->reason, err, "%s",
                      why->sys_errno == ENOENT ? "file is missing" : why->message);
}

/*
 * The range's segment of this number if segments have this size, from the byte `from` on, plain or
 * compressed: *ret_file says how it lies there. NULL and `why` set when it cannot be opened.
 */
static SegmentReader *
open_segment(const RangeRun *run, const SegmentPlace *place, Lsn lsn, uint64_t from,
             WalSegmentFile *ret_file, Error *why)
{
    SegmentReader *reader = NULL;

    for (int method = COMPRESSION_NONE; method <= COMPRESSION_ZSTD; method++) {
        WalSegmentFile file = {.timeline = run->check->range->timeline,
                               .number = wal_segment_number(lsn, place->segment_size),
                               .compression = (CompressionMethod)method};
        Error odd = ERROR_INIT;

        reader = segment_open(place, &file, from, &odd);
        if (method == COMPRESSION_NONE || odd.sys_errno != ENOENT) {
            *ret_file = file;
            *why = odd;
        }
        if (odd.sys_errno != ENOENT)
            break;
    }
    return reader;
}

/* ---- the segment size ---- */

/* How sure a segment's word about the size is. */
typedef enum Witness { WITNESS_NONE, WITNESS_FILE_SIZE, WITNESS_HEADER } Witness;

/* The size that the segment's first page tells, when it is the one that its name says; else 0. */
static bool
header_size(const SegmentPlace *place, const WalSegmentFile *file, uint32_t *ret_size, Error *err)
{
    WalLongHeader header;
    bool fits = false;
    Error why = ERROR_INIT;

    if (!segment_header(place, file, &header, &fits, &why) && !is_finding(&why)) {
        *err = why;
        return false;
    }
    *ret_size = fits ? header.segment_size : 0;
    return true;
}

/* Ask the segment that would hold the range's start if segments had this size. */
static bool
ask_first_segment(const RangeRun *run, uint32_t size, Witness *ret_witness, Error *err)
{
    const SegmentPlace place = place_of(run, size);
    Error why = ERROR_INIT;
    WalSegmentFile file;
    SegmentReader *reader = open_segment(run, &place, run->check->range->start, 0, &file, &why);
    bool has_size = reader != NULL && file.compression == COMPRESSION_NONE &&
                    segment_reader_check_size(reader, &why);
    uint32_t told;

    segment_reader_free(reader);
    if (why.code != ERR_NONE && !is_finding(&why)) {
        *err = why;
        return false;
    }
    if (!header_size(&place, &file, &told, err))
        return false;
    if (told == size)
        *ret_witness = WITNESS_HEADER;
    else
        *ret_witness = has_size ? WITNESS_FILE_SIZE : WITNESS_NONE;
    return true;
}

/* *ret_size is 0 when no size leads to a segment. */
static bool
size_from_first_segment(const RangeRun *run, uint32_t *ret_size, Error *err)
{
    Witness best = WITNESS_NONE;
    uint32_t found = 0;

    for (uint32_t size = WAL_SEGMENT_SIZE_MIN; size <= WAL_SEGMENT_SIZE_MAX; size *= 2) {
        Witness witness;

        if (!ask_first_segment(run, size, &witness, err))
            return false;
        if (witness > best) {
            best = witness;
            found = size;
        }
    }
    *ret_size = found;
    return true;
}

/* Any segment's header, rather one of the range's timeline. With the smallest size the most names
 * are possible. */
static bool
size_from_list(const RangeRun *run, const SegmentList *list, uint32_t *ret_size, Error *err)
{
    const SegmentPlace place = place_of(run, WAL_SEGMENT_SIZE_MIN);
    uint32_t found = 0;

    for (size_t i = 0; i < list->count; i++) {
        const WalSegmentFile *file = &list->files[i];
        bool same_timeline = file->timeline == run->check->range->timeline;
        uint32_t size;

        if (!same_timeline && found != 0)
            continue;
        if (!header_size(&place, file, &size, err))
            return false;
        if (size != 0)
            found = size;
        if (size != 0 && same_timeline)
            break;
    }
    *ret_size = found;
    return true;
}

static bool
size_from_any_segment(RangeRun *run, uint32_t *ret_size, Error *err)
{
    const WalRangeCheck *check = run->check;
    SegmentList list;
    Error why = ERROR_INIT;
    bool ok;

    if (segment_list_read(&list, check->directory, WAL_SEGMENT_SIZE_MIN, &why)) {
        ok = size_from_list(run, &list, ret_size, err);
    } else if (is_finding(&why)) {
        run_bad(run, check->range->start);
        ok = buf_printf(&run->reason, err, "%s", why.message);
    } else {
        *err = why;
        ok = false;
    }
    segment_list_free(&list);
    return ok;
}

static bool
find_segment_size(RangeRun *run, Error *err)
{
    uint32_t size = 0;

    if (!size_from_first_segment(run, &size, err))
        return false;
    if (size == 0 && !size_from_any_segment(run, &size, err))
        return false;
    run->segment_size = size;
    if (size != 0 || run->bad)
        return true;
    run_bad(run, run->check->range->start);
    return buf_printf(&run->reason, err, "no WAL segment of timeline %u in \"%s\"",
                      run->check->range->timeline, run->check->directory);
}

/* ---- the records ---- */

static bool
reached_end(const RangeRun *run)
{
    return wal_parser_valid_end(run->parser) >= run->check->range->end;
}

/* How much to feed next: no further than the range, unless its last record goes beyond its end. */
static size_t
next_chunk(const RangeRun *run, size_t len)
{
    Lsn at = wal_parser_position(run->parser);
    Lsn end = run->check->range->end;
    uint64_t want = at < end ? end - at : WAL_PAGE_SIZE - at % WAL_PAGE_SIZE;

    return want < len ? (size_t)want : len;
}

/* What comes next of the segment, as far as it is needed. */
static bool
feed_bytes(RangeRun *run, Span bytes, Error *err)
{
    WalDamage damage;

    while (bytes.len > 0 && !reached_end(run)) {
        size_t len = next_chunk(run, bytes.len);

        if (wal_parser_feed(run->parser, (Span){.data = bytes.data, .len = len}, &damage) ==
                WAL_DAMAGED &&
            !reached_end(run))
            return run_damaged(run, &damage, err);
        bytes.data += len;
        bytes.len -= len;
    }
    return true;
}

/* To its end, or to the range's. */
static bool
feed_segment(RangeRun *run, SegmentReader *reader, const WalSegmentFile *file, Error *err)
{
    Span bytes = {.len = 1};

    while (bytes.len > 0 && !run->bad && !reached_end(run)) {
        Error why = ERROR_INIT;

        if (!stop_check(run->check->stop, err))
            return false;
        if (!segment_reader_next(reader, &bytes, &why))
            return run_unreadable(run, wal_parser_position(run->parser), file, &why, err);
        if (!feed_bytes(run, bytes, err))
            return false;
    }
    return true;
}

/* All that is needed of the segment at the parser's position. */
static bool
check_segment(RangeRun *run, Error *err)
{
    const SegmentPlace place = place_of(run, run->segment_size);
    Lsn at = wal_parser_position(run->parser);
    Error why = ERROR_INIT;
    WalSegmentFile file;
    SegmentReader *reader =
        open_segment(run, &place, at, wal_segment_offset(at, run->segment_size), &file, &why);
    bool ok;

    if (reader == NULL || !segment_reader_check_size(reader, &why))
        ok = run_unreadable(run, at, &file, &why, err);
    else
        ok = feed_segment(run, reader, &file, err);
    segment_reader_free(reader);
    return ok;
}

static WalParser *
parser_new(const RangeRun *run, Lsn start, Error *err)
{
    const WalParserConfig config = {.start = start,
                                    .segment_size = run->segment_size,
                                    .timeline = run->check->range->timeline,
                                    .system_id = run->check->system_id};

    return wal_parser_new(&config, err);
}

/* By a parser of its own, which knows then what the range's pages must be like. */
static bool
parse_first_header(RangeRun *run, Lsn start, Span head, Error *err)
{
    WalParser *parser = parser_new(run, start, err);
    WalDamage damage;
    bool ok = true;

    if (parser == NULL)
        return false;
    if (wal_parser_feed(parser, head, &damage) == WAL_DAMAGED)
        ok = run_damaged(run, &damage, err);
    else
        wal_parser_inherit(run->parser, parser);
    wal_parser_free(parser);
    return ok;
}

/* Recovery reads the header of a segment's first page wherever in it it begins. */
static bool
check_first_header(RangeRun *run, Error *err)
{
    const SegmentPlace place = place_of(run, run->segment_size);
    Lsn from = run->check->range->start;
    Lsn start = from - wal_segment_offset(from, run->segment_size);
    Error why = ERROR_INIT;
    WalSegmentFile file;
    SegmentReader *reader = open_segment(run, &place, start, 0, &file, &why);
    Span head;
    bool ok;

    if (reader == NULL || !segment_reader_check_size(reader, &why) ||
        !segment_reader_next(reader, &head, &why)) {
        ok = run_unreadable(run, from, &file, &why, err);
    } else {
        if (head.len > WAL_LONG_HEADER)
            head.len = WAL_LONG_HEADER;
        ok = parse_first_header(run, start, head, err);
    }
    segment_reader_free(reader);
    return ok;
}

static bool
check_records(RangeRun *run, Error *err)
{
    run->parser = parser_new(run, run->check->range->start, err);
    if (run->parser == NULL || !check_first_header(run, err))
        return false;
    while (!run->bad && !reached_end(run)) {
        if (!check_segment(run, err))
            return false;
    }
    return true;
}

static bool
check_range(RangeRun *run, Error *err)
{
    const ManifestWalRange *range = run->check->range;

    if (range->end < range->start) {
        run_bad(run, range->start);
        return buf_printf(&run->reason, err, "the range ends before it begins, at " LSN_FORMAT,
                          LSN_ARGS(range->end));
    }
    if (!find_segment_size(run, err))
        return false;
    return run->bad || check_records(run, err);
}

bool
wal_range_check(const WalRangeCheck *check, Reporter *reporter, Error *err)
{
    RangeRun run = {.check = check, .reason = BUF_INIT};
    bool ok = check_range(&run, err) && (!run.bad || run_report(&run, reporter, err));

    wal_parser_free(run.parser);
    buf_free(&run.reason);
    return ok;
}

bool
verify_wal_range(const char *wal_directory, const ManifestWalRange *range, uint64_t system_id,
                 const ProblemSink *sink, uint64_t *ret_problems, Error *err)
{
    WalRangeCheck check = {.directory = wal_directory, .range = range, .system_id = system_id};
    Reporter reporter = REPORTER_INIT(sink);
    bool ok = wal_range_check(&check, &reporter, err);

    if (ok)
        *ret_problems = reporter.count;
    reporter_free(&reporter);
    return ok;
}
