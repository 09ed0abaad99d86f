/*
 * One segment's file: is it what its name says, and do its records follow each other, also into the
 * segment behind?
 *
 * Each file is looked at by itself, in any thread. The parser that has come to the end of a segment
 * then goes on in what follows it, on its own timeline and on those that fork off there: to the end
 * of the record under way and to the header of the next one, which links back to it. So the chain
 * is checked across segments, too, and nobody has to read them in order. What is found there counts
 * only when both files are sound by themselves.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "archive/internal.h"
#include "common/file.h"

/* Of a page's header, up to its address. */
#define PAGE_HEAD 16u

typedef struct FileRun {
    const SegmentTask *task;
    const PlanLine *line;
    const ArchiveSegment *segment;
    SegmentPlace place;
    SegmentResult *result;
    SegmentReader *reader;
    WalParser *parser;
    Lsn start;
    Lsn end;
    Lsn at;   /* of the next byte */
    Lsn fork; /* where the line begins, when that is within this segment; else LSN_INVALID */
    Lsn fork_reached; /* the end of the records up to there */
    Lsn content_end;  /* behind the last byte that is not zero */
} FileRun;

/* ---- what is found ---- */

PRINTF_LIKE(5, 6)
static bool
found(FileRun *run, ArchiveFindingKind kind, Lsn lsn, Error *err, const char *fmt, ...)
{
    SegmentResult *result = run->result;
    void *array = result->findings;
    SegmentFinding *finding;
    va_list args;

    if (!mem_grow(&array, &result->capacity, result->count + 1, sizeof *finding, err))
        return false;
    result->findings = array;
    finding = &result->findings[result->count++];
    *finding = (SegmentFinding){.kind = kind, .lsn = lsn};
    va_start(args, fmt);
    (void)vsnprintf(finding->reason, sizeof finding->reason, fmt, args);
    va_end(args);
    return true;
}

/* What reading came to: ERR_FORMAT is about the file's content. */
static bool
found_unreadable(FileRun *run, const Error *why, Error *err)
{
    bool cut = run->reader != NULL && segment_reader_is_cut(run->reader);

    if (why->code == ERR_SYSTEM && why->sys_errno == ENOENT) {
        run->result->vanished = true;
        return true;
    }
    if (why->code == ERR_SYSTEM)
        return found(run, ARCHIVE_UNREADABLE, run->at, err, "%s", why->message);
    if (why->code == ERR_FORMAT)
        return found(run, cut ? ARCHIVE_TRUNCATED : ARCHIVE_DAMAGED, run->at, err, "%s",
                     why->message);
    *err = *why;
    return false;
}

static bool
has_findings(const FileRun *run)
{
    return run->result->count > 0 || run->result->vanished;
}

/* ---- the header of the first page ---- */

static uint64_t
expected_system(const FileRun *run)
{
    const ArchiveCheckConfig *config = run->task->plan->config;

    return config->system_id != 0 ? config->system_id : config->archive->system_id;
}

/* Two clusters hardly have identifiers that differ in one byte: that is damage. */
static bool
is_other_system(uint64_t system_id, uint64_t expected)
{
    uint64_t difference = system_id ^ expected;
    int bytes = 0;

    for (; difference != 0; difference >>= 8)
        bytes += (difference & 0xFF) != 0;
    return expected != 0 && bytes > 1;
}

/* Whether the second page agrees with the first: if so the header is what was written. */
static bool
is_confirmed(Span bytes, const WalLongHeader *header)
{
    const uint8_t *second = bytes.data + WAL_PAGE_SIZE;

    return bytes.len >= WAL_PAGE_SIZE + PAGE_HEAD && get_le32(second + 4) == header->timeline &&
           get_le64(second + 8) == header->address + WAL_PAGE_SIZE;
}

/* The timeline of all pages, unless the timeline begins in this segment. */
static bool
is_other_timeline(const FileRun *run, const WalLongHeader *header)
{
    if (header->timeline > run->line->timeline)
        return true;
    return run->line->parent != NO_LINE && header->timeline != run->line->timeline &&
           run->segment->file.number > archive_plan_fork(run->task->plan, run->line);
}

static bool
check_header(FileRun *run, Span bytes, Error *err)
{
    uint64_t expected = expected_system(run);
    WalLongHeader header;

    /* What is no header at all is for the parser to tell. */
    if (!wal_long_header_parse(bytes, &header))
        return true;
    if (is_other_system(header.system_id, expected))
        return found(run, ARCHIVE_FOREIGN, run->start, err,
                     "system identifier is %llu, expected %llu",
                     (unsigned long long)header.system_id, (unsigned long long)expected);
    if (header.segment_size != run->place.segment_size &&
        wal_segment_size_valid(header.segment_size) && is_confirmed(bytes, &header) &&
        header.address % header.segment_size == 0 && header.address != run->start)
        return found(run, ARCHIVE_FOREIGN, run->start, err,
                     "its cluster has segments of %u bytes, this archive of %u",
                     header.segment_size, run->place.segment_size);
    if ((header.address != run->start && header.address % run->place.segment_size == 0 &&
         is_confirmed(bytes, &header)) ||
        (header.address == run->start && is_other_timeline(run, &header) &&
         is_confirmed(bytes, &header)))
        return found(run, ARCHIVE_MISNAMED, run->start, err,
                     "it begins with the page of " LSN_FORMAT " on timeline %u",
                     LSN_ARGS(header.address), header.timeline);
    return true;
}

/* ---- the records ---- */

static void
note_content(FileRun *run, Span bytes)
{
    size_t len = bytes.len;

    while (len > 0 && bytes.data[len - 1] == 0)
        len--;
    if (len > 0)
        run->content_end = run->at + len;
}

/* Nothing but zeros from where the next record, or page, should have been. */
static bool
ends_in_zeros(const FileRun *run, const WalDamage *damage)
{
    return run->content_end <= damage->lsn;
}

/* The rest of the file tells whether it is damaged or ends there. */
static bool
found_damage(FileRun *run, Span rest, const WalDamage *damage, Error *err)
{
    Error ignored = ERROR_INIT;

    do {
        note_content(run, rest);
        run->at += rest.len;
    } while (run->content_end <= damage->lsn && segment_reader_next(run->reader, &rest, &ignored) &&
             rest.len > 0);
    if (ends_in_zeros(run, damage))
        return found(run, ARCHIVE_TRUNCATED, damage->lsn, err,
                     "there are only zeros behind " LSN_FORMAT, LSN_ARGS(damage->lsn));
    return found(run, ARCHIVE_DAMAGED, damage->lsn, err, "at " LSN_FORMAT ": %s",
                 LSN_ARGS(damage->lsn), damage->reason);
}

/* Up to where the timeline begins, then the rest. */
static WalVerdict
feed(FileRun *run, Span bytes, WalDamage *damage)
{
    if (run->fork > run->at && run->fork <= run->at + bytes.len) {
        size_t before = (size_t)(run->fork - run->at);

        if (wal_parser_feed(run->parser, (Span){.data = bytes.data, .len = before}, damage) ==
            WAL_DAMAGED)
            return WAL_DAMAGED;
        run->fork_reached = wal_parser_valid_end(run->parser);
        bytes.data += before;
        bytes.len -= before;
    }
    return wal_parser_feed(run->parser, bytes, damage);
}

/*
 * At the fork a record must end. Not so for one that the old timeline left unfinished, which is
 * replaced at a page boundary, and nothing is known as long as only the rest of a record that began
 * before has passed.
 */
static bool
check_fork(FileRun *run, Error *err)
{
    if (run->fork == LSN_INVALID || run->fork % WAL_PAGE_SIZE == 0 ||
        run->fork_reached <= run->start || run->fork_reached == run->fork)
        return true;
    run->result->bad_fork = true;
    return found(run, ARCHIVE_BAD_HISTORY, run->fork, err,
                 "timeline %u cannot have begun at " LSN_FORMAT
                 ", as its history says: no record ends there",
                 run->line->timeline, LSN_ARGS(run->fork));
}

static WalParser *
parser_new(const FileRun *run, Error *err)
{
    return wal_parser_new(&(WalParserConfig){.start = run->start,
                                             .segment_size = run->place.segment_size,
                                             .timeline = run->line->timeline,
                                             .system_id = expected_system(run)},
                          err);
}

/* The first page's header, with --quick; all of the file otherwise. */
static bool
check_content(FileRun *run, Error *err)
{
    const bool quick = run->task->plan->config->quick;
    Error why = ERROR_INIT;
    WalDamage damage;
    Span bytes;

    do {
        if (atomic_load(run->task->ending))
            return error_set_stopped(err);
        if (!segment_reader_next(run->reader, &bytes, &why))
            return found_unreadable(run, &why, err);
        run->result->bytes += bytes.len;
        if (run->at == run->start && !check_header(run, bytes, err))
            return false;
        if (has_findings(run))
            return true;
        if (quick && bytes.len > WAL_LONG_HEADER)
            bytes.len = WAL_LONG_HEADER;
        if (feed(run, bytes, &damage) == WAL_DAMAGED)
            return found_damage(run, bytes, &damage, err);
        run->at += bytes.len;
    } while (bytes.len > 0 && !quick);
    return quick || check_fork(run, err);
}

/* ---- what follows ---- */

/* Where the records go on until one begins behind the end of the segment: by then the one that was
 * under way is complete, and the link of the next shows that it follows. */
typedef struct Joint {
    const PlanLine *line; /* of what follows */
    uint64_t number;
    WalParser *parser;
    bool done;
    bool damaged;
    WalDamage damage;
} Joint;

static void
feed_joint(FileRun *run, Joint *joint, Span bytes)
{
    while (bytes.len > 0 && !joint->done && !joint->damaged) {
        Span page = {.data = bytes.data, .len = bytes.len};

        if (page.len > WAL_PAGE_SIZE)
            page.len = WAL_PAGE_SIZE;
        joint->damaged = wal_parser_feed(joint->parser, page, &joint->damage) == WAL_DAMAGED;
        joint->done = wal_parser_linked(joint->parser) >= run->end;
        bytes.data += page.len;
        bytes.len -= page.len;
    }
}

/* What cannot be read is told where that file is looked at. */
static void
read_joint(FileRun *run, Joint *joint)
{
    const ArchiveSegment *next;

    for (uint64_t number = joint->number;
         !joint->done && !joint->damaged &&
         (next = archive_plan_complete(run->task->plan, joint->line, number)) != NULL;
         number++) {
        Error ignored = ERROR_INIT;
        SegmentReader *reader = segment_open(&run->place, &next->file, 0, &ignored);
        Span bytes = {.len = 1};

        if (reader == NULL)
            break;
        while (bytes.len > 0 && !joint->done && !joint->damaged) {
            if (!segment_reader_next(reader, &bytes, &ignored)) {
                segment_reader_free(reader);
                return;
            }
            feed_joint(run, joint, bytes);
        }
        segment_reader_free(reader);
    }
}

/* Of a record that ends in the next segment the contents are not right; or what is there does not
 * belong to this one. */
static bool
found_joint(FileRun *run, const Joint *joint, const ArchiveSegment *next, Error *err)
{
    bool content = joint->damage.lsn < run->end;

    if (!found(run, content ? ARCHIVE_DAMAGED : ARCHIVE_FORKED, joint->damage.lsn, err,
               "at " LSN_FORMAT ": %s", LSN_ARGS(joint->damage.lsn), joint->damage.reason))
        return false;
    run->result->findings[run->result->count - 1].other = next;
    return true;
}

static bool
check_joint(FileRun *run, const PlanLine *line, Error *err)
{
    Joint joint = {.line = line, .number = run->segment->file.number + 1};
    const ArchiveSegment *next = archive_plan_complete(run->task->plan, line, joint.number);
    bool ok = true;

    if (next == NULL)
        return true;
    joint.parser = wal_parser_copy(run->parser, line->timeline, err);
    if (joint.parser == NULL)
        return false;
    read_joint(run, &joint);
    if (joint.damaged && !joint.done)
        ok = found_joint(run, &joint, next, err);
    wal_parser_free(joint.parser);
    return ok;
}

/* Whether the line begins behind this segment, and all between them likewise. */
static bool
begins_behind(const FileRun *run, const PlanLine *line)
{
    const ArchivePlan *plan = run->task->plan;

    while (line != run->line) {
        if (line->parent == NO_LINE ||
            archive_plan_fork(plan, line) != run->segment->file.number + 1)
            return false;
        line = &plan->lines[line->parent];
    }
    return true;
}

static bool
check_joints(FileRun *run, Error *err)
{
    const ArchivePlan *plan = run->task->plan;

    for (size_t i = 0; i < plan->line_count; i++) {
        if (begins_behind(run, &plan->lines[i]) && !check_joint(run, &plan->lines[i], err))
            return false;
    }
    return true;
}

/* ---- two forms of one segment ---- */

typedef struct Comparison {
    SegmentReader *readers[2];
    Span bytes[2];
} Comparison;

static bool
compare_next(Comparison *comparison, bool *ret_same, bool *ret_over, Error *err)
{
    size_t len;

    for (size_t i = 0; i < 2; i++) {
        if (comparison->bytes[i].len == 0 &&
            !segment_reader_next(comparison->readers[i], &comparison->bytes[i], err))
            return false;
    }
    len = comparison->bytes[0].len < comparison->bytes[1].len ? comparison->bytes[0].len
                                                              : comparison->bytes[1].len;
    *ret_over = len == 0;
    *ret_same = len == 0 || memcmp(comparison->bytes[0].data, comparison->bytes[1].data, len) == 0;
    for (size_t i = 0; i < 2; i++) {
        comparison->bytes[i].data += len;
        comparison->bytes[i].len -= len;
    }
    return true;
}

/* A twin that cannot be read, or not to its end, has findings of its own. */
static bool
check_twin(FileRun *run, Error *err)
{
    const ArchiveSegment *twin = run->task->job->twin;
    Error ignored = ERROR_INIT;
    Comparison comparison = {
        .readers = {segment_open(&run->place, &run->segment->file, 0, &ignored),
                    segment_open(&run->place, &twin->file, 0, &ignored)}};
    bool same = true;
    bool over = comparison.readers[0] == NULL || comparison.readers[1] == NULL;
    bool ok = true;

    while (same && !over && compare_next(&comparison, &same, &over, &ignored))
        ;
    segment_reader_free(comparison.readers[0]);
    segment_reader_free(comparison.readers[1]);
    if (!same) {
        ok = found(run, ARCHIVE_FORKED, run->start, err, "their contents differ");
        if (ok)
            run->result->findings[run->result->count - 1].other = twin;
    }
    return ok;
}

/* ---- complete files ---- */

/* The newest may be on its way: an archive_command like cp writes under the segment's own name. */
static ArchiveFindingKind
kind_of_size(const FileRun *run)
{
    const ArchivePlan *plan = run->task->plan;
    bool young = plan->now - run->segment->modified < plan->config->late_seconds;

    if (run->segment->bytes >= run->place.segment_size)
        return ARCHIVE_DAMAGED;
    if (run->segment->file.number == run->line->last && young)
        return ARCHIVE_LATE;
    return ARCHIVE_TRUNCATED;
}

static bool
check_complete(FileRun *run, Error *err)
{
    Error why = ERROR_INIT;

    if (!segment_reader_check_size(run->reader, &why))
        return found(run, kind_of_size(run), run->start, err, "%s", why.message);
    run->parser = parser_new(run, err);
    if (run->parser == NULL || !check_content(run, err))
        return false;
    run->result->sound = !has_findings(run) || run->result->bad_fork;
    if (!run->result->sound || run->task->plan->config->quick)
        return true;
    if (run->task->job->twin != NULL)
        return check_twin(run, err);
    return !wal_parser_has_begun(run->parser) || check_joints(run, err);
}

/* ---- partial files ---- */

/* SegmentsBefore.find, on the way to this timeline. */
static bool
find_before(void *ctx, uint64_t number, WalSegmentFile *ret_file)
{
    const FileRun *run = ctx;
    const ArchivePlan *plan = run->task->plan;
    const PlanLine *line = run->line;
    const ArchiveSegment *segment = archive_plan_complete(plan, line, number);

    while (segment == NULL && line->parent != NO_LINE && number <= archive_plan_fork(plan, line)) {
        line = &plan->lines[line->parent];
        segment = archive_plan_complete(plan, line, number);
    }
    if (segment != NULL)
        *ret_file = segment->file;
    return segment != NULL;
}

/* A page that is where it belongs, on a timeline that may be. */
static bool
is_own_page(const FileRun *run, const uint8_t *page, Lsn lsn)
{
    return get_le64(page + 8) == lsn && get_le32(page + 4) != 0 &&
           get_le32(page + 4) <= run->line->timeline;
}

/* Where WAL goes on behind its end; LSN_INVALID: nowhere, as it should be. What comes out of a file
 * comes in pieces of any size. */
typedef struct Search {
    Lsn from; /* a page boundary */
    Lsn at;
    Lsn more;
    uint8_t head[PAGE_HEAD];
} Search;

static void
search(const FileRun *run, Search *search, Span bytes)
{
    for (size_t i = 0; i < bytes.len && search->more == LSN_INVALID; search->at++, i++) {
        size_t in_page = (size_t)(search->at % WAL_PAGE_SIZE);

        if (in_page < PAGE_HEAD)
            search->head[in_page] = bytes.data[i];
        if (in_page == PAGE_HEAD - 1 && search->at >= search->from &&
            is_own_page(run, search->head, search->at - in_page))
            search->more = search->at - in_page;
    }
}

static bool
find_more(const FileRun *run, Lsn end, Lsn *ret_more, Error *err)
{
    Search state = {.from = (end + WAL_PAGE_SIZE - 1) / WAL_PAGE_SIZE * WAL_PAGE_SIZE,
                    .at = run->start};
    Error odd = ERROR_INIT;
    SegmentReader *reader = segment_open(&run->place, &run->segment->file, 0, &odd);
    Span bytes = {.len = 1};

    while (reader != NULL && bytes.len > 0 && state.more == LSN_INVALID &&
           segment_reader_next(reader, &bytes, &odd))
        search(run, &state, bytes);
    segment_reader_free(reader);
    if (odd.code == ERR_MEMORY) {
        *err = odd;
        return false;
    }
    *ret_more = state.more;
    return true;
}

/* Some timeline forks off this one at or before `lsn`: what is behind need not be good. */
static bool
is_left_behind(const FileRun *run, Lsn lsn)
{
    const ArchivePlan *plan = run->task->plan;

    for (size_t i = 0; i < plan->line_count; i++) {
        const PlanLine *line = &plan->lines[i];

        if (line->parent != NO_LINE && &plan->lines[line->parent] == run->line && line->fork <= lsn)
            return true;
    }
    return false;
}

/* A receiver writes in order: behind where the records end there is nothing of this segment. */
static bool
check_end(FileRun *run, Error *err)
{
    const SegmentsBefore before = {.place = &run->place, .find = find_before, .ctx = run};
    SegmentGood good;
    Lsn more;
    Lsn end;

    if (!segment_check_partial(&before, &run->segment->file, run->line->timeline, &good, err))
        return false;
    buf_free(&good.sums);
    run->result->bytes += good.length;
    end = good.valid_end;
    if (good.whole || end >= run->end || is_left_behind(run, end))
        return true;
    if (!find_more(run, end, &more, err))
        return false;
    return more == LSN_INVALID ||
           found(run, ARCHIVE_DAMAGED, end, err,
                 "at " LSN_FORMAT ": the records end here, but there is WAL at " LSN_FORMAT,
                 LSN_ARGS(end), LSN_ARGS(more));
}

/* Empty, or of full size from the start, as all receivers make them; a compressed one may end
 * anywhere. */
static bool
check_partial(FileRun *run, Error *err)
{
    const uint64_t bytes = run->segment->bytes;
    Error why = ERROR_INIT;
    Span head;

    if (run->segment->file.compression == COMPRESSION_NONE && bytes != 0 &&
        bytes != run->place.segment_size)
        return found(run, bytes < run->place.segment_size ? ARCHIVE_TRUNCATED : ARCHIVE_DAMAGED,
                     run->start, err, "size is %llu, expected %u", (unsigned long long)bytes,
                     run->place.segment_size);
    if (bytes == 0)
        return true;
    if (!segment_reader_next(run->reader, &head, &why)) {
        /* What a receiver is still compressing may have no byte that can be read. */
        if (why.code == ERR_FORMAT && segment_reader_is_cut(run->reader))
            return true;
        return found_unreadable(run, &why, err);
    }
    run->result->bytes += head.len;
    if (!check_header(run, head, err))
        return false;
    return has_findings(run) || run->task->plan->config->quick || check_end(run, err);
}

/* ---- one file ---- */

static bool
check_file(FileRun *run, Error *err)
{
    Error why = ERROR_INIT;

    if (!run->segment->regular)
        return found(run, ARCHIVE_NO_FILE, run->start, err, "it is no regular file");
    run->reader = segment_open(&run->place, &run->segment->file, 0, &why);
    if (run->reader == NULL)
        return found_unreadable(run, &why, err);
    return run->segment->file.partial ? check_partial(run, err) : check_complete(run, err);
}

bool
archive_segment_check(const SegmentTask *task, SegmentResult *result, Error *err)
{
    const ArchivePlan *plan = task->plan;
    const uint32_t size = plan->config->archive->segment_size;
    FileRun run = {.task = task,
                   .line = &plan->lines[task->job->line],
                   .segment = task->job->segment,
                   .place = {.directory = plan->config->archive->directory, .segment_size = size},
                   .result = result};
    bool ok;

    run.start = wal_segment_start(run.segment->file.number, size);
    run.end = run.start + size;
    run.at = run.start;
    run.content_end = run.start;
    if (run.line->parent != NO_LINE && run.line->fork > run.start && run.line->fork < run.end)
        run.fork = run.line->fork;
    run.fork_reached = LSN_INVALID;
    ok = check_file(&run, err);
    segment_reader_free(run.reader);
    wal_parser_free(run.parser);
    return ok;
}

void
segment_result_free(SegmentResult *result)
{
    free(result->findings);
    *result = (SegmentResult){.findings = NULL};
}
