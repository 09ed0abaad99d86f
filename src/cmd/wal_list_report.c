#include "cmd/wal_list_report.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "cmd/json_line.h"

#define MB ((uint64_t)1 << 20)

/* From the epoch of Unix to that of PostgreSQL. */
#define EPOCH_SECONDS ((int64_t)946684800)

#define MICROSECONDS 1000000

#define TIME_SIZE 48

/* ---- figures ---- */

typedef struct Figures {
    uint64_t segments; /* that are there, in whichever form */
    uint64_t files;
    uint64_t partial;
    uint64_t bytes; /* on disk */
} Figures;

static Figures
figures_of(const Inventory *archive, const ArchiveTimeline *timeline)
{
    Figures figures = {.files = timeline->count};
    size_t cursor = 0;
    ArchiveRange range;

    while (archive_range_next(archive, timeline, &cursor, &range)) {
        figures.segments += range.last - range.first + 1 - range.partial;
        figures.partial += range.partial;
    }
    for (size_t i = 0; i < timeline->count; i++)
        figures.bytes += archive->segments[timeline->first + i].bytes;
    return figures;
}

static Lsn
lsn_of(const Inventory *archive, uint64_t number)
{
    return wal_segment_start(number, archive->segment_size);
}

/* As an ISO time in UTC, to the microsecond; what no calendar has is a number. */
static void
time_text(int64_t microseconds, char text[TIME_SIZE])
{
    int64_t seconds = microseconds / MICROSECONDS;
    int64_t rest = microseconds % MICROSECONDS;
    char date[32];
    struct tm utc;
    time_t unix_time;

    if (rest < 0) {
        rest += MICROSECONDS;
        seconds--;
    }
    unix_time = (time_t)(seconds + EPOCH_SECONDS);
    if (gmtime_r(&unix_time, &utc) == NULL ||
        strftime(date, sizeof date, "%Y-%m-%dT%H:%M:%S", &utc) == 0)
        (void)snprintf(text, TIME_SIZE, "%" PRId64, microseconds);
    else
        (void)snprintf(text, TIME_SIZE, "%s.%06dZ", date, (int)rest);
}

static size_t
count_others(const Inventory *archive, ArchiveOtherKind kind)
{
    size_t count = 0;

    for (size_t i = 0; i < archive->other_count; i++)
        count += archive->others[i].kind == kind;
    return count;
}

/* ---- in words ---- */

static bool
append_size(Buf *text, uint64_t bytes, Error *err)
{
    return buf_printf(text, err, "%.1f MB", (double)bytes / (double)MB);
}

static bool
append_timeline(const Inventory *archive, const ArchiveTimeline *timeline, Buf *text, Error *err)
{
    const Figures figures = figures_of(archive, timeline);

    if (!buf_printf(text, err, "\ntimeline %u", timeline->timeline))
        return false;
    if (timeline->parent != 0 && !buf_printf(text, err, ", from timeline %u at " LSN_FORMAT,
                                             timeline->parent, LSN_ARGS(timeline->fork)))
        return false;
    if (timeline->timeline > 1 && timeline->history == NULL &&
        !buf_printf(text, err, ", without a history file"))
        return false;
    if (timeline->count == 0)
        return buf_printf(text, err, ": no segments\n");
    return buf_printf(text, err, ": %llu segment%s, ", (unsigned long long)figures.segments,
                      figures.segments == 1 ? "" : "s") &&
           append_size(text, figures.bytes, err) && buf_printf(text, err, " on disk, ") &&
           append_size(text, (figures.segments + figures.partial) * archive->segment_size, err) &&
           buf_printf(text, err, " uncompressed\n");
}

static bool
append_commits(const ArchiveCommits *commits, Buf *text, Error *err)
{
    char first[TIME_SIZE];
    char last[TIME_SIZE];

    if (commits == NULL)
        return true;
    if (!commits->known)
        return buf_printf(text, err, "  no commit found in its first and last segments\n");
    time_text(commits->first, first);
    time_text(commits->last, last);
    return buf_printf(text, err, "  commits %s to %s\n", first, last);
}

static bool
append_range(const Inventory *archive, const ArchiveRange *range, Buf *text, Error *err)
{
    char first[WAL_NAME_SIZE];
    char last[WAL_NAME_SIZE];

    wal_segment_name(first, range->timeline, range->first, archive->segment_size);
    wal_segment_name(last, range->timeline, range->last, archive->segment_size);
    return buf_printf(text, err, "  " LSN_FORMAT " - " LSN_FORMAT "  %s to %s%s\n",
                      LSN_ARGS(lsn_of(archive, range->first)),
                      LSN_ARGS(lsn_of(archive, range->last + 1)), first, last,
                      range->partial > 0 ? " (partial)" : "");
}

static bool
append_hole(const Inventory *archive, uint64_t first, uint64_t behind, Buf *text, Error *err)
{
    if (first >= behind)
        return true;
    return buf_printf(text, err,
                      "  " LSN_FORMAT " - " LSN_FORMAT "  HOLE: %llu segment%s missing\n",
                      LSN_ARGS(lsn_of(archive, first)), LSN_ARGS(lsn_of(archive, behind)),
                      (unsigned long long)(behind - first), behind - first == 1 ? "" : "s");
}

static bool
append_ranges(const Inventory *archive, const ArchiveTimeline *timeline, Buf *text, Error *err)
{
    size_t cursor = 0;
    ArchiveRange range;
    uint64_t next = 0;

    for (bool begun = false; archive_range_next(archive, timeline, &cursor, &range); begun = true) {
        if ((begun && !append_hole(archive, next, range.first, text, err)) ||
            !append_range(archive, &range, text, err))
            return false;
        next = range.last + 1;
    }
    return true;
}

static bool
append_head(const Inventory *archive, Buf *text, Error *err)
{
    if (!buf_printf(text, err, "archive \"%s\": %zu segment file%s", archive->directory,
                    archive->segment_count, archive->segment_count == 1 ? "" : "s"))
        return false;
    if (archive->segment_size != 0 && !buf_printf(text, err, ", segment size %llu MB",
                                                  (unsigned long long)(archive->segment_size / MB)))
        return false;
    if (archive->system_id != 0 &&
        !buf_printf(text, err, ", system identifier %llu", (unsigned long long)archive->system_id))
        return false;
    return buf_printf(text, err, "\n");
}

static bool
append_others(const Inventory *archive, Buf *text, Error *err)
{
    static const struct {
        ArchiveOtherKind kind;
        const char *what;
    } kinds[] = {
        {ARCHIVE_STRAY, "stray"},
        {ARCHIVE_SET_ASIDE, "set aside"},
        {ARCHIVE_TEMPORARY, "temporary"},
    };

    if (archive->backup_count > 0 &&
        !buf_printf(text, err, "\nbackup history files: %zu\n", archive->backup_count))
        return false;
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        size_t count = count_others(archive, kinds[i].kind);

        if (count > 0 && !buf_printf(text, err, "\n%s files: %zu\n", kinds[i].what, count))
            return false;
        for (size_t j = 0; j < archive->other_count; j++) {
            if (archive->others[j].kind == kinds[i].kind &&
                !buf_printf(text, err, "  %s\n", archive->others[j].name))
                return false;
        }
    }
    return true;
}

bool
wal_list_text(const Inventory *archive, const ArchiveCommits *commits, Buf *text, Error *err)
{
    if (!append_head(archive, text, err))
        return false;
    for (size_t i = 0; i < archive->timeline_count; i++) {
        const ArchiveTimeline *timeline = &archive->timelines[i];

        if (!append_timeline(archive, timeline, text, err) ||
            (timeline->count > 0 &&
             !append_commits(commits == NULL ? NULL : &commits[i], text, err)) ||
            !append_ranges(archive, timeline, text, err))
            return false;
    }
    return append_others(archive, text, err);
}

/* ---- for programs ---- */

static void
put_range(JsonLine *json, const Inventory *archive, const ArchiveRange *range)
{
    char first[WAL_NAME_SIZE];
    char last[WAL_NAME_SIZE];

    wal_segment_name(first, range->timeline, range->first, archive->segment_size);
    wal_segment_name(last, range->timeline, range->last, archive->segment_size);
    json_element_begin(json);
    json_put_lsn(json, "start", lsn_of(archive, range->first));
    json_put_lsn(json, "end", lsn_of(archive, range->last + 1));
    json_put_text(json, "first", first);
    json_put_text(json, "last", last);
    json_put_number(json, "segments", range->last - range->first + 1);
    json_put_number(json, "partial", range->partial);
    json_element_end(json);
}

static void
put_ranges(JsonLine *json, const Inventory *archive, const ArchiveTimeline *timeline)
{
    size_t cursor = 0;
    ArchiveRange range;

    json_array_begin(json, "ranges");
    while (archive_range_next(archive, timeline, &cursor, &range))
        put_range(json, archive, &range);
    json_array_end(json);
}

static void
put_holes(JsonLine *json, const Inventory *archive, const ArchiveTimeline *timeline)
{
    size_t cursor = 0;
    ArchiveRange range;
    uint64_t next = UINT64_MAX;

    json_array_begin(json, "holes");
    while (archive_range_next(archive, timeline, &cursor, &range)) {
        if (next < range.first) {
            json_element_begin(json);
            json_put_lsn(json, "start", lsn_of(archive, next));
            json_put_lsn(json, "end", lsn_of(archive, range.first));
            json_put_number(json, "segments", range.first - next);
            json_element_end(json);
        }
        next = range.last + 1;
    }
    json_array_end(json);
}

static void
put_commits(JsonLine *json, const ArchiveCommits *commits)
{
    char first[TIME_SIZE];
    char last[TIME_SIZE];
    bool known = commits != NULL && commits->known;

    if (known) {
        time_text(commits->first, first);
        time_text(commits->last, last);
    }
    json_put_text_or_null(json, "first_commit", known ? first : NULL);
    json_put_text_or_null(json, "last_commit", known ? last : NULL);
}

static void
put_timeline(JsonLine *json, const Inventory *archive, const ArchiveTimeline *timeline,
             const ArchiveCommits *commits)
{
    const Figures figures = figures_of(archive, timeline);

    json_element_begin(json);
    json_put_number(json, "timeline", timeline->timeline);
    json_put_number_if(json, "parent", timeline->parent != 0, timeline->parent);
    if (timeline->parent != 0)
        json_put_lsn(json, "fork", timeline->fork);
    else
        json_put_null(json, "fork");
    json_put_bool(json, "history", timeline->history != NULL);
    json_put_number(json, "segments", figures.segments);
    json_put_number(json, "partial", figures.partial);
    json_put_number(json, "files", figures.files);
    json_put_number(json, "bytes", figures.bytes);
    json_put_number(json, "wal_bytes",
                    (figures.segments + figures.partial) * archive->segment_size);
    put_commits(json, commits);
    put_ranges(json, archive, timeline);
    put_holes(json, archive, timeline);
    json_element_end(json);
}

static const char *
other_name(ArchiveOtherKind kind)
{
    switch (kind) {
    case ARCHIVE_KNOWN_GAPS:
        return "known_gaps";
    case ARCHIVE_SET_ASIDE:
        return "set_aside";
    case ARCHIVE_TEMPORARY:
        return "temporary";
    case ARCHIVE_STRAY:
        break;
    }
    return "stray";
}

static void
put_others(JsonLine *json, const Inventory *archive)
{
    json_array_begin(json, "others");
    for (size_t i = 0; i < archive->other_count; i++) {
        json_element_begin(json);
        json_put_text(json, "kind", other_name(archive->others[i].kind));
        json_put_path(json, "file", archive->others[i].name);
        json_put_number(json, "bytes", archive->others[i].bytes);
        json_element_end(json);
    }
    json_array_end(json);
}

bool
wal_list_json(const Inventory *archive, const ArchiveCommits *commits, Buf *text, Error *err)
{
    JsonLine json = json_line_begin(text, err);

    json_put_number(&json, "version", WAL_LIST_JSON_VERSION);
    json_put_text(&json, "pgstow_version", PGSTOW_VERSION);
    json_put_path(&json, "directory", archive->directory);
    json_put_number_if(&json, "segment_size", archive->segment_size != 0, archive->segment_size);
    json_put_number_if(&json, "system_identifier", archive->system_id != 0, archive->system_id);
    json_array_begin(&json, "timelines");
    for (size_t i = 0; i < archive->timeline_count; i++)
        put_timeline(&json, archive, &archive->timelines[i], commits == NULL ? NULL : &commits[i]);
    json_array_end(&json);
    json_put_number(&json, "backup_history_files", archive->backup_count);
    put_others(&json, archive);
    return json_line_end(&json);
}
