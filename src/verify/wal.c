/*
 * The segments' names depend on the segment size, and the size stands in the segments: so every
 * size is tried, and the segment that it names for the range's start must say the same about
 * itself. When that one is missing or damaged, another segment tells the size, so that the problem
 * can name it.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/file.h"
#include "pgformat/walrecord.h"
#include "verify/internal.h"

#define READ_SIZE ((size_t)1024 * 1024)

/* One range on its way. What is wrong goes into `reason`; the first thing ends the check. */
typedef struct RangeRun {
    const WalRangeCheck *check;
    uint32_t segment_size;
    WalParser *parser;
    uint8_t *buffer;
    bool bad;
    Lsn bad_lsn;
    char bad_segment[WAL_NAME_SIZE]; /* "": no particular one */
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

static void
segment_name(const RangeRun *run, Lsn lsn, char name[WAL_NAME_SIZE])
{
    wal_segment_name(name, run->check->range->timeline, wal_segment_number(lsn, run->segment_size),
                     run->segment_size);
}

/* The segment that holds `lsn`, with a reason to follow. */
static void
run_bad_segment(RangeRun *run, Lsn lsn)
{
    run_bad(run, lsn);
    segment_name(run, lsn, run->bad_segment);
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

typedef struct Segment {
    int fd;     /* -1: could not be opened, or is no regular file */
    int errnum; /* why not, 0: no regular file; or why there is less of the header */
    uint64_t size;
    uint8_t header[WAL_LONG_HEADER];
    size_t header_len; /* what could be read of it */
} Segment;

static void
segment_close(Segment *segment)
{
    file_close_quietly(segment->fd);
    segment->fd = -1;
}

static void
segment_read_header(Segment *segment, const char *path)
{
    Error unread = ERROR_INIT;

    if (!file_read(segment->fd, segment->header, sizeof segment->header, path, &segment->header_len,
                   &unread))
        segment->errnum = unread.sys_errno;
}

static Span
segment_head(const Segment *segment)
{
    return (Span){.data = segment->header, .len = segment->header_len};
}

/* `segment` is closed by segment_close in any case. False without memory only. */
static bool
segment_open(const char *directory, const char *name, Segment *segment, Error *err)
{
    char *path = path_join(directory, name, err);
    struct stat st;

    *segment = (Segment){.fd = -1};
    if (path == NULL)
        return false;
    segment->fd = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (segment->fd < 0 || fstat(segment->fd, &st) != 0) {
        segment->errnum = errno;
        segment_close(segment);
    } else if (!S_ISREG(st.st_mode)) {
        segment_close(segment);
    } else {
        segment->size = (uint64_t)st.st_size;
        segment_read_header(segment, path);
    }
    free(path);
    return true;
}

/* The size that the segment's first page tells, when it is the one that `name` says; else 0. */
static uint32_t
header_size(const Segment *segment, const char *name)
{
    char expected[WAL_NAME_SIZE];
    WalLongHeader header;
    TimeLineID timeline;
    uint64_t number;
    uint32_t size;

    if (segment->fd < 0 || !wal_long_header_parse(segment_head(segment), &header))
        return 0;
    size = header.segment_size;
    if (!wal_segment_size_valid(size) || !wal_segment_parse(name, size, &timeline, &number))
        return 0;
    wal_segment_name(expected, timeline, wal_segment_number(header.address, size), size);
    return strcmp(expected, name) == 0 && header.address % size == 0 ? size : 0;
}

/* ---- the segment size ---- */

/* How sure a segment's word about the size is. */
typedef enum Witness { WITNESS_NONE, WITNESS_FILE_SIZE, WITNESS_HEADER } Witness;

/* Ask the segment that would hold the range's start if segments had this size. */
static bool
ask_first_segment(const RangeRun *run, uint32_t size, Witness *ret_witness, Error *err)
{
    const ManifestWalRange *range = run->check->range;
    char name[WAL_NAME_SIZE];
    Segment segment;

    wal_segment_name(name, range->timeline, wal_segment_number(range->start, size), size);
    if (!segment_open(run->check->directory, name, &segment, err))
        return false;
    if (header_size(&segment, name) == size)
        *ret_witness = WITNESS_HEADER;
    else if (segment.fd >= 0 && segment.size == size)
        *ret_witness = WITNESS_FILE_SIZE;
    else
        *ret_witness = WITNESS_NONE;
    segment_close(&segment);
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

/* The names of all segments in the directory, sorted. */
static bool
list_segments(DIR *dir, PathSet *names, Error *err)
{
    struct dirent *entry;

    while ((entry = dir_next(dir)) != NULL) {
        TimeLineID timeline;
        uint64_t number;

        /* With the smallest size the most names are possible. */
        if (wal_segment_parse(entry->d_name, WAL_SEGMENT_SIZE_MIN, &timeline, &number) &&
            !path_set_add(names, entry->d_name, err))
            return false;
    }
    path_set_sort(names);
    return true;
}

/* Any segment's header, rather one of the range's timeline. */
static bool
size_from_names(const RangeRun *run, const PathSet *names, uint32_t *ret_size, Error *err)
{
    uint32_t found = 0;

    for (size_t i = 0; i < names->count; i++) {
        const char *name = names->paths[i];
        TimeLineID timeline = 0;
        uint64_t number;
        Segment segment;
        uint32_t size;

        if (!wal_segment_parse(name, WAL_SEGMENT_SIZE_MIN, &timeline, &number))
            continue;
        if (timeline != run->check->range->timeline && found != 0)
            continue;
        if (!segment_open(run->check->directory, name, &segment, err))
            return false;
        size = header_size(&segment, name);
        segment_close(&segment);
        if (size != 0)
            found = size;
        if (size != 0 && timeline == run->check->range->timeline)
            break;
    }
    *ret_size = found;
    return true;
}

static bool
size_from_any_segment(RangeRun *run, uint32_t *ret_size, Error *err)
{
    const WalRangeCheck *check = run->check;
    DIR *dir = opendir(check->directory);
    PathSet names = PATH_SET_INIT;
    char reason[ERRNO_TEXT_SIZE];
    bool ok;

    if (dir == NULL) {
        int errnum = errno;

        run_bad(run, check->range->start);
        return buf_printf(&run->reason, err, "could not open directory \"%s\": %s",
                          check->directory, errno_text(errnum, reason));
    }
    ok = list_segments(dir, &names, err) && size_from_names(run, &names, ret_size, err);
    (void)closedir(dir);
    path_set_free(&names);
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

/* How much to feed next: no further than the range, unless its last record goes beyond its end. */
static size_t
next_chunk(const RangeRun *run, Lsn at)
{
    Lsn end = run->check->range->end;
    uint64_t in_segment = run->segment_size - wal_segment_offset(at, run->segment_size);
    uint64_t want = at < end ? end - at : WAL_PAGE_SIZE - at % WAL_PAGE_SIZE;

    if (want > in_segment)
        want = in_segment;
    return want > READ_SIZE ? READ_SIZE : (size_t)want;
}

static bool
reached_end(const RangeRun *run)
{
    return wal_parser_valid_end(run->parser) >= run->check->range->end;
}

/* Feed `len` bytes from `at` on. */
static bool
feed_chunk(RangeRun *run, const Segment *segment, Lsn at, size_t len, Error *err)
{
    uint32_t offset = wal_segment_offset(at, run->segment_size);
    ssize_t got = pread(segment->fd, run->buffer, len, (off_t)offset);
    char reason[ERRNO_TEXT_SIZE];
    WalDamage damage;

    if (got <= 0) {
        run_bad_segment(run, at);
        return buf_printf(&run->reason, err, "could not read file: %s",
                          got == 0 ? "unexpected end of file" : errno_text(errno, reason));
    }
    if (wal_parser_feed(run->parser, (Span){.data = run->buffer, .len = (size_t)got}, &damage) ==
            WAL_DAMAGED &&
        !reached_end(run))
        return run_damaged(run, &damage, err);
    return true;
}

static bool
check_segment_size(RangeRun *run, const Segment *segment, Lsn at, Error *err)
{
    Lsn start = run->check->range->start;
    char reason[ERRNO_TEXT_SIZE];

    if (segment->fd >= 0 && segment->size == run->segment_size)
        return true;
    run_bad_segment(run, at < start ? start : at);
    if (segment->fd >= 0)
        return buf_printf(&run->reason, err, "file has size %llu, but WAL segments have size %u",
                          (unsigned long long)segment->size, run->segment_size);
    if (segment->errnum == ENOENT)
        return buf_printf(&run->reason, err, "file is missing");
    if (segment->errnum == 0)
        return buf_printf(&run->reason, err, "is not a regular file");
    return buf_printf(&run->reason, err, "could not open file: %s",
                      errno_text(segment->errnum, reason));
}

/* All that is needed of the segment at the parser's position. */
static bool
check_segment(RangeRun *run, Error *err)
{
    Lsn at = wal_parser_position(run->parser);
    uint64_t number = wal_segment_number(at, run->segment_size);
    char name[WAL_NAME_SIZE];
    Segment segment;
    bool ok;

    segment_name(run, at, name);
    if (!segment_open(run->check->directory, name, &segment, err))
        return false;
    ok = check_segment_size(run, &segment, at, err);
    while (ok && !run->bad && !reached_end(run) &&
           wal_segment_number(at, run->segment_size) == number) {
        ok = stop_check(run->check->stop, err) &&
             feed_chunk(run, &segment, at, next_chunk(run, at), err);
        at = wal_parser_position(run->parser);
    }
    segment_close(&segment);
    return ok;
}

/* The size is right, so the header is there: what was not read of it must not pass as checked. */
static bool
check_header_read(RangeRun *run, const Segment *segment, Lsn start, Error *err)
{
    char reason[ERRNO_TEXT_SIZE];

    if (segment->header_len == WAL_LONG_HEADER)
        return true;
    run_bad_segment(run, start);
    return buf_printf(&run->reason, err, "could not read file: %s",
                      segment->errnum == 0 ? "unexpected end of file"
                                           : errno_text(segment->errnum, reason));
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
    const ManifestWalRange *range = run->check->range;
    Lsn start = range->start - wal_segment_offset(range->start, run->segment_size);
    char name[WAL_NAME_SIZE];
    Segment segment;
    bool ok;

    segment_name(run, start, name);
    if (!segment_open(run->check->directory, name, &segment, err))
        return false;
    ok = check_segment_size(run, &segment, start, err) &&
         (run->bad || check_header_read(run, &segment, start, err));
    segment_close(&segment);
    return ok && (run->bad || parse_first_header(run, start, segment_head(&segment), err));
}

static bool
check_records(RangeRun *run, Error *err)
{
    run->parser = parser_new(run, run->check->range->start, err);
    run->buffer = mem_alloc(READ_SIZE, err);
    if (run->parser == NULL || run->buffer == NULL || !check_first_header(run, err))
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
    free(run.buffer);
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
