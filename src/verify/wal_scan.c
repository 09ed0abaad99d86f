/*
 * Every range of the manifest has a parser of its own, which is given the segments of the range's
 * timeline as they pass, from the one that holds its start on, until its end is reached. What is
 * behind the end is of no interest, and need not be WAL at all.
 *
 * The segments' names depend on the segment size. It is the size of the first file that is named
 * like a segment and has the size of one: archives hold whole segments only.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pgformat/walrecord.h"
#include "stream/stage.h"
#include "verify/internal.h"

typedef struct RangeScan {
    const ManifestWalRange *range;
    WalParser *parser; /* NULL before the range's first segment */
    WalParser *header; /* of that one's first page, while the range begins behind it */
    Lsn at;            /* of the next byte */
    bool in_segment;   /* the one that passes is the one it waits for */
    bool bad;          /* the first thing that is wrong ends the range */
    Lsn bad_lsn;
    Buf reason;
} RangeScan;

struct WalScan {
    RangeScan *ranges;
    size_t count;
    uint64_t system_id;    /* 0: unknown */
    uint32_t segment_size; /* 0: no segment has passed yet */
    Buf archive;           /* name of the last one that was scanned, or that should have been */
};

typedef struct Segment {
    const char *name;
    uint64_t size; /* of the file */
    TimeLineID timeline;
    Lsn start;
} Segment;

/* ---- what is wrong ---- */

static void
segment_name(const WalScan *wal, const RangeScan *scan, Lsn lsn, char name[WAL_NAME_SIZE])
{
    wal_segment_name(name, scan->range->timeline, wal_segment_number(lsn, wal->segment_size),
                     wal->segment_size);
}

/* In the segment that holds `lsn`. */
static bool
scan_bad(const WalScan *wal, RangeScan *scan, Lsn lsn, const char *reason, Error *err)
{
    char name[WAL_NAME_SIZE];

    scan->bad = true;
    scan->bad_lsn = lsn;
    segment_name(wal, scan, lsn, name);
    return buf_printf(&scan->reason, err, " in segment \"%s\": %s", name, reason);
}

static bool
scan_other_size(const WalScan *wal, RangeScan *scan, const Segment *segment, Error *err)
{
    char reason[96];

    (void)snprintf(reason, sizeof reason, "file has size %llu, but WAL segments have size %u",
                   (unsigned long long)segment->size, wal->segment_size);
    return scan_bad(wal, scan, scan->at, reason, err);
}

/* ---- one range ---- */

static bool
scan_is_over(const RangeScan *scan)
{
    Lsn end = scan->range->end;

    if (scan->bad || scan->parser == NULL)
        return scan->bad;
    return scan->at >= end && wal_parser_valid_end(scan->parser) >= end;
}

static WalParser *
parser_new(const WalScan *wal, const RangeScan *scan, Lsn start, Error *err)
{
    WalParserConfig config = {.start = start,
                              .segment_size = wal->segment_size,
                              .timeline = scan->range->timeline,
                              .system_id = wal->system_id};

    return wal_parser_new(&config, err);
}

/* Recovery reads the header of a segment's first page wherever in it it begins. */
static bool
scan_start(const WalScan *wal, RangeScan *scan, Lsn segment, Error *err)
{
    scan->parser = parser_new(wal, scan, scan->range->start, err);
    if (scan->parser == NULL)
        return false;
    if (wal_parser_position(scan->parser) == segment)
        return true;
    scan->header = parser_new(wal, scan, segment, err);
    return scan->header != NULL;
}

static bool
scan_begin(const WalScan *wal, RangeScan *scan, const Segment *segment, Error *err)
{
    const ManifestWalRange *range = scan->range;
    bool is_first = scan->parser == NULL;
    Lsn expected =
        is_first ? range->start - wal_segment_offset(range->start, wal->segment_size) : scan->at;

    scan->in_segment = false;
    if (scan_is_over(scan) || segment->timeline != range->timeline || segment->start != expected)
        return true;
    if (segment->size != wal->segment_size)
        return scan_other_size(wal, scan, segment, err);
    scan->at = segment->start;
    scan->in_segment = true;
    return !is_first || scan_start(wal, scan, segment->start, err);
}

static bool
scan_header(const WalScan *wal, RangeScan *scan, Span data, Error *err)
{
    uint32_t done = wal_segment_offset(scan->at, wal->segment_size);
    size_t wanted = WAL_LONG_HEADER - done;
    WalDamage damage;

    if (data.len > wanted)
        data.len = wanted;
    if (wal_parser_feed(scan->header, data, &damage) == WAL_DAMAGED)
        return scan_bad(wal, scan, damage.lsn, damage.reason, err);
    if (data.len == wanted) {
        wal_parser_inherit(scan->parser, scan->header);
        wal_parser_free(scan->header);
        scan->header = NULL;
    }
    return true;
}

/* Of the data, what is before the page on which the range begins is not for its parser. */
static bool
scan_records(const WalScan *wal, RangeScan *scan, Span data, Error *err)
{
    Lsn position = wal_parser_position(scan->parser);
    Lsn skip = position > scan->at ? position - scan->at : 0;
    WalDamage damage;

    scan->at += data.len;
    if (skip >= data.len)
        return true;
    data.data += skip;
    data.len -= (size_t)skip;
    if (wal_parser_feed(scan->parser, data, &damage) == WAL_INTACT || scan_is_over(scan))
        return true;
    return scan_bad(wal, scan, damage.lsn, damage.reason, err);
}

static bool
scan_data(const WalScan *wal, RangeScan *scan, Span data, Error *err)
{
    if (!scan->in_segment || scan_is_over(scan))
        return true;
    if (scan->header != NULL && !scan_header(wal, scan, data, err))
        return false;
    return scan->bad || scan_records(wal, scan, data, err);
}

/* ---- all ranges ---- */

static bool
scan_init(RangeScan *scan, const ManifestWalRange *range, Error *err)
{
    scan->range = range;
    scan->at = range->start;
    scan->reason = BUF_INIT;
    if (range->start <= range->end)
        return true;
    scan->bad = true;
    scan->bad_lsn = range->start;
    return buf_printf(&scan->reason, err, ": the range ends before it begins, at " LSN_FORMAT,
                      LSN_ARGS(range->end));
}

static bool
set_archive(WalScan *wal, const char *archive, Error *err)
{
    buf_clear(&wal->archive);
    return buf_printf(&wal->archive, err, "%s", archive);
}

WalScan *
wal_scan_new(const Manifest *manifest, Error *err)
{
    size_t count = manifest_wal_range_count(manifest);
    WalScan *wal = mem_alloc(sizeof *wal, err);
    uint64_t system_id;
    bool ok;

    if (wal == NULL)
        return NULL;
    *wal = (WalScan){.archive = BUF_INIT};
    if (manifest_system_id(manifest, &system_id))
        wal->system_id = system_id;
    wal->ranges = mem_zero(count * sizeof *wal->ranges, err);
    ok = wal->ranges != NULL && set_archive(wal, "pg_wal.tar", err);
    for (; ok && wal->count < count; wal->count++)
        ok = scan_init(&wal->ranges[wal->count], manifest_wal_range(manifest, wal->count), err);
    if (ok)
        return wal;
    wal_scan_free(wal);
    return NULL;
}

void
wal_scan_free(WalScan *wal)
{
    if (wal == NULL)
        return;
    for (size_t i = 0; i < wal->count; i++) {
        wal_parser_free(wal->ranges[i].parser);
        wal_parser_free(wal->ranges[i].header);
        buf_free(&wal->ranges[i].reason);
    }
    free(wal->ranges);
    buf_free(&wal->archive);
    free(wal);
}

/* ---- what there is to say ---- */

typedef struct Finding {
    TimeLineID timeline;
    Lsn lsn;
    const char *rest; /* stands behind the LSN */
} Finding;

static bool
report_in_archive(const WalScan *wal, const Finding *finding, Reporter *reporter, Error *err)
{
    const char *archive = buf_text(&wal->archive);
    Problem problem = {.kind = PROBLEM_WAL, .path = archive, .lsn = finding->lsn};

    return report(reporter, &problem, err,
                  "WAL parsing failed for timeline %u: in archive \"%s\": at LSN " LSN_FORMAT "%s",
                  finding->timeline, archive, LSN_ARGS(finding->lsn), finding->rest);
}

/* All that has passed is intact, but what is next is not there. */
static bool
report_missing(const WalScan *wal, const RangeScan *scan, Reporter *reporter, Error *err)
{
    Finding finding = {.timeline = scan->range->timeline, .lsn = scan->at};
    bool is_cut;
    char name[WAL_NAME_SIZE];
    char rest[96];

    if (wal->segment_size == 0) {
        finding.rest = ": no whole WAL segment";
        return report_in_archive(wal, &finding, reporter, err);
    }
    segment_name(wal, scan, scan->at, name);
    is_cut = scan->parser != NULL && wal_segment_offset(scan->at, wal->segment_size) != 0;
    (void)snprintf(rest, sizeof rest, " in segment \"%s\": %s", name,
                   is_cut ? "the archive ends here" : "file is missing");
    finding.rest = rest;
    return report_in_archive(wal, &finding, reporter, err);
}

static bool
report_foreign(const WalScan *wal, const RangeScan *scan, uint64_t system_id, Reporter *reporter,
               Error *err)
{
    Finding finding = {.timeline = scan->range->timeline, .lsn = scan->range->start};
    char rest[96];

    (void)snprintf(rest, sizeof rest, ": system identifier is %llu, expected %llu",
                   (unsigned long long)wal_parser_system_id(scan->parser),
                   (unsigned long long)system_id);
    finding.rest = rest;
    return report_in_archive(wal, &finding, reporter, err);
}

/* Whether its pages tell of another cluster; unknown (0) is not another one. */
static bool
is_foreign(const RangeScan *scan, uint64_t system_id)
{
    uint64_t found = scan->parser == NULL ? 0 : wal_parser_system_id(scan->parser);

    return found != 0 && system_id != 0 && found != system_id;
}

static bool
report_range(const WalScan *wal, const RangeScan *scan, uint64_t system_id, Reporter *reporter,
             Error *err)
{
    Finding finding = {
        .timeline = scan->range->timeline, .lsn = scan->bad_lsn, .rest = buf_text(&scan->reason)};

    if (scan->bad)
        return report_in_archive(wal, &finding, reporter, err);
    if (is_foreign(scan, system_id))
        return report_foreign(wal, scan, system_id, reporter, err);
    return scan_is_over(scan) || report_missing(wal, scan, reporter, err);
}

bool
wal_scan_report(const WalScan *wal, uint64_t system_id, Reporter *reporter, Error *err)
{
    for (size_t i = 0; i < wal->count && !reporter->enough; i++) {
        if (!report_range(wal, &wal->ranges[i], system_id, reporter, err))
            return false;
    }
    return true;
}

uint64_t
wal_scan_intact(const WalScan *wal)
{
    uint64_t bytes = 0;

    for (size_t i = 0; i < wal->count; i++) {
        const RangeScan *scan = &wal->ranges[i];

        if (!scan->bad && scan_is_over(scan))
            bytes += scan->range->end - scan->range->start;
    }
    return bytes;
}

/* ---- the stage ---- */

typedef struct WalScanStage {
    Sink sink;
    WalScan *wal;
    const char *prefix;
    bool in_segment;
} WalScanStage;

/* False when it is none. */
static bool
parse_segment(WalScan *wal, const char *prefix, const Entry *entry, Segment *segment)
{
    size_t len = strlen(prefix);
    uint32_t size = wal->segment_size;
    uint64_t number;

    if (entry->kind != ENTRY_FILE || strncmp(entry->path, prefix, len) != 0)
        return false;
    if (size == 0 && wal_segment_size_valid(entry->size))
        size = (uint32_t)entry->size;
    segment->name = entry->path + len;
    segment->size = entry->size;
    if (size == 0 || !wal_segment_parse(segment->name, size, &segment->timeline, &number))
        return false;
    segment->start = wal_segment_start(number, size);
    wal->segment_size = size;
    return true;
}

static bool
begin_entry(Sink *self, const Entry *entry, Error *err)
{
    WalScanStage *stage = (WalScanStage *)self;
    WalScan *wal = stage->wal;
    Segment segment;

    stage->in_segment = parse_segment(wal, stage->prefix, entry, &segment);
    for (size_t i = 0; stage->in_segment && i < wal->count; i++) {
        if (!scan_begin(wal, &wal->ranges[i], &segment, err))
            return false;
    }
    return true;
}

static bool
add_data(Sink *self, Span data, Error *err)
{
    const WalScanStage *stage = (const WalScanStage *)self;
    const WalScan *wal = stage->wal;

    for (size_t i = 0; stage->in_segment && i < wal->count; i++) {
        if (!scan_data(wal, &wal->ranges[i], data, err))
            return false;
    }
    return true;
}

static const WatchOps wal_scan_watch = {
    .entry_begin = begin_entry,
    .data = add_data,
};

static bool
wal_scan_push(Sink *self, const Event *event, Error *err)
{
    return sink_watch(self, &wal_scan_watch, event, err);
}

static const SinkOps wal_scan_ops = {.name = "wal_scan", .push = wal_scan_push};

Sink *
wal_scan_stage_new(WalScan *wal, const char *archive, const char *prefix, Sink *next, Error *err)
{
    WalScanStage *stage = sink_alloc(sizeof *stage, &wal_scan_ops, next, err);

    if (stage == NULL)
        return NULL;
    stage->wal = wal;
    stage->prefix = prefix;
    if (!set_archive(wal, archive, err)) {
        sink_free(&stage->sink);
        return NULL;
    }
    return &stage->sink;
}
