/* What an archive covers, and when that was. */
#include "archive/archive.h"

/* How many segments are read in search of a commit. */
#define SEARCHED 4

/* Behind all forms of a segment; *ret_complete: one of them is complete. *ret_there: one of them
 * is a file. */
static size_t
skip_forms(const Inventory *archive, size_t at, size_t end, bool *ret_there, bool *ret_complete)
{
    const uint64_t number = archive->segments[at].file.number;

    *ret_there = false;
    *ret_complete = false;
    for (; at < end && archive->segments[at].file.number == number; at++) {
        const ArchiveSegment *segment = &archive->segments[at];

        *ret_there = *ret_there || segment->regular;
        *ret_complete = *ret_complete || (segment->regular && !segment->file.partial);
    }
    return at;
}

bool
archive_range_next(const Inventory *archive, const ArchiveTimeline *timeline, size_t *cursor,
                   ArchiveRange *ret_range)
{
    const size_t end = timeline->first + timeline->count;
    size_t at = timeline->first + *cursor;
    ArchiveRange range = {.timeline = timeline->timeline};
    bool begun = false;

    while (at < end) {
        const uint64_t number = archive->segments[at].file.number;
        bool there;
        bool complete;
        size_t next = skip_forms(archive, at, end, &there, &complete);

        if (begun && (number != range.last + 1 || !there || (complete && range.partial > 0)))
            break;
        at = next;
        if (!there)
            continue;
        if (!begun)
            range.first = number;
        begun = true;
        range.last = number;
        range.partial += !complete;
    }
    *cursor = at - timeline->first;
    if (begun)
        *ret_range = range;
    return begun;
}

/* ---- commits ---- */

/* Of one segment, as far as it is intact. */
static bool
commits_of(const SegmentPlace *place, const WalSegmentFile *file, ArchiveCommits *commits,
           Error *err)
{
    const WalParserConfig config = {.start = wal_segment_start(file->number, place->segment_size),
                                    .segment_size = place->segment_size,
                                    .timeline = file->timeline};
    Error odd = ERROR_INIT;
    WalParser *parser = wal_parser_new(&config, err);
    SegmentReader *reader = NULL;
    WalVerdict verdict = WAL_INTACT;
    WalDamage damage;
    Span bytes = {.len = 1};

    if (parser == NULL)
        return false;
    reader = segment_open(place, file, 0, &odd);
    while (reader != NULL && bytes.len > 0 && verdict == WAL_INTACT &&
           segment_reader_next(reader, &bytes, &odd))
        verdict = wal_parser_feed(parser, bytes, &damage);
    commits->known = wal_parser_commits(parser, &commits->first, &commits->last);
    segment_reader_free(reader);
    wal_parser_free(parser);
    if (odd.code != ERR_MEMORY)
        return true;
    *err = odd;
    return false;
}

static bool
first_commit(const Inventory *archive, const ArchiveTimeline *timeline, ArchiveCommits *ret_commits,
             Error *err)
{
    const SegmentPlace place = {.directory = archive->directory,
                                .segment_size = archive->segment_size};

    ret_commits->known = false;
    for (size_t i = 0; i < timeline->count && i < SEARCHED && !ret_commits->known; i++) {
        if (!commits_of(&place, &archive->segments[timeline->first + i].file, ret_commits, err))
            return false;
    }
    return true;
}

static bool
last_commit(const Inventory *archive, const ArchiveTimeline *timeline, ArchiveCommits *ret_commits,
            Error *err)
{
    const SegmentPlace place = {.directory = archive->directory,
                                .segment_size = archive->segment_size};
    const size_t end = timeline->first + timeline->count;

    ret_commits->known = false;
    for (size_t i = 0; i < timeline->count && i < SEARCHED && !ret_commits->known; i++) {
        if (!commits_of(&place, &archive->segments[end - 1 - i].file, ret_commits, err))
            return false;
    }
    return true;
}

bool
archive_commits_find(const Inventory *archive, const ArchiveTimeline *timeline,
                     ArchiveCommits *ret_commits, Error *err)
{
    ArchiveCommits first;
    ArchiveCommits last;

    if (!first_commit(archive, timeline, &first, err) ||
        !last_commit(archive, timeline, &last, err))
        return false;
    if (first.known && last.known)
        *ret_commits = (ArchiveCommits){.known = true, .first = first.first, .last = last.last};
    else
        *ret_commits = first.known ? first : last;
    return true;
}
