/*
 * A segment that is not complete, for recovery.
 *
 * It has the last commits there are, if nothing goes on from there. A server takes what we give it
 * for its segment, and looks no further: so it gets a partial one only where it could not get more
 * otherwise. That is not so
 * - when a newer timeline has forked off in this segment or before it. Then the partial one is
 *   where the old timeline was left, perhaps with WAL behind the fork that nobody else has seen.
 *   A server that follows the new timeline has asked for that one's segment already; with WAL of
 *   the old one it would go astray.
 * - when the server's own pg_wal has the segment, and at least as much of it.
 */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "archive/internal.h"
#include "common/file.h"

#define ZEROS_SIZE ((size_t)64 * 1024)

/* ---- what is newer ---- */

typedef struct NewerScan {
    const PartialSearch *search;
    uint32_t segment_size;
    WalSegmentFile wanted;
    char *remark; /* of PartialFound: not empty once something newer was found */
    size_t remark_size;
} NewerScan;

static bool
look_at_history(NewerScan *scan, const char *name, TimeLineID timeline,
                CompressionMethod compression, Error *err)
{
    char *path = path_join(scan->search->directory, name, err);
    Buf text = BUF_INIT;
    TimelineHistory history;
    TimeLineID next;
    Lsn end;
    bool ok =
        path != NULL && archive_file_load(path, compression, ARCHIVE_HISTORY_MAX, &text, err) &&
        timeline_history_parse((Span){.data = text.data, .len = text.len}, timeline, &history, err);

    if (ok) {
        if (timeline_history_find(&history, scan->wanted.timeline, &end, &next) &&
            wal_segment_number(end, scan->segment_size) <= scan->wanted.number)
            (void)snprintf(scan->remark, scan->remark_size,
                           "timeline %u forks off timeline %u at " LSN_FORMAT, next,
                           scan->wanted.timeline, LSN_ARGS(end));
        timeline_history_free(&history);
    } else if (path != NULL && err->code == ERR_FORMAT) {
        (void)error_context(err, "timeline history file \"%s\"", path);
    }
    buf_free(&text);
    free(path);
    return ok;
}

static bool
look_at_name(NewerScan *scan, const char *name, Error *err)
{
    const WalSegmentFile *wanted = &scan->wanted;
    CompressionMethod compression;
    WalSegmentFile file;
    TimeLineID timeline;

    if (wal_segment_file_parse(name, scan->segment_size, &file)) {
        if (file.number == wanted->number && file.timeline > wanted->timeline)
            (void)snprintf(scan->remark, scan->remark_size, "there is \"%s\" of a newer timeline",
                           name);
        return true;
    }
    return !archive_history_parse(name, &timeline, &compression) || timeline <= wanted->timeline ||
           look_at_history(scan, name, timeline, compression, err);
}

/* The one place where all names are read: it is at the end of the archive. */
static bool
scan_newer(NewerScan *scan, Error *err)
{
    const char *directory = scan->search->directory;
    DIR *dir = opendir(directory);
    const struct dirent *entry;
    bool ok = true;

    if (dir == NULL)
        return error_set_errno(err, errno, "could not open directory \"%s\"", directory);
    while (ok && scan->remark[0] == '\0' && (entry = dir_next(dir)) != NULL)
        ok = look_at_name(scan, entry->d_name, err);
    if (ok && scan->remark[0] == '\0' && errno != 0)
        ok = error_set_errno(err, errno, "could not read directory \"%s\"", directory);
    (void)closedir(dir);
    return ok;
}

/* ---- how much there is of it ---- */

typedef struct Content {
    bool fits; /* it is the segment that its name says */
    WalLongHeader header;
    Lsn end;  /* of its records */
    Lsn seen; /* up to here there are pages, which may have the rest of a record from before */
} Content;

/* As far as it is WAL. A file that breaks off ends there. */
static bool
follow_records(SegmentReader *reader, WalParser *parser, Error *err)
{
    Error odd = ERROR_INIT;
    WalVerdict verdict = WAL_INTACT;
    WalDamage damage;
    Span bytes;

    do {
        if (!segment_reader_next(reader, &bytes, &odd)) {
            if (odd.code == ERR_FORMAT)
                return true;
            *err = odd;
            return false;
        }
        if (bytes.len > 0)
            verdict = wal_parser_feed(parser, bytes, &damage);
    } while (bytes.len > 0 && verdict == WAL_INTACT);
    return true;
}

static bool
measure(const SegmentSource *source, const WalSegmentFile *file, Content *content, Error *err)
{
    const WalParserConfig config = {.start = wal_segment_start(file->number, source->segment_size),
                                    .segment_size = source->segment_size,
                                    .timeline = file->timeline};
    WalParser *parser = wal_parser_new(&config, err);
    SegmentReader *reader = parser == NULL ? NULL : segment_reader_open(source, err);
    bool ok = reader != NULL && follow_records(reader, parser, err);

    if (ok) {
        content->end = wal_parser_valid_end(parser);
        content->seen = wal_parser_position(parser);
    }
    segment_reader_free(reader);
    wal_parser_free(parser);
    return ok;
}

/* The header tells the segment size, without which the rest cannot be read. */
static bool
read_header(const SegmentSource *source, WalLongHeader *ret_header, bool *ret_there, Error *err)
{
    Error odd = ERROR_INIT;
    SegmentReader *reader = segment_reader_open(source, &odd);
    Span bytes;

    *ret_there = reader != NULL && segment_reader_next(reader, &bytes, &odd) &&
                 wal_long_header_parse(bytes, ret_header);
    segment_reader_free(reader);
    if (odd.code == ERR_NONE || segment_is_odd(&odd))
        return true;
    *err = odd;
    return false;
}

/* Of a file that should be the segment `name`, complete or not. */
static bool
look_at_content(const char *path, CompressionMethod compression, const char *name, Content *content,
                Error *err)
{
    SegmentSource source = {
        .path = path, .compression = compression, .segment_size = WAL_SEGMENT_SIZE_MIN};
    WalLongHeader *header = &content->header;
    WalSegmentFile file;
    bool there;

    *content = (Content){.fits = false};
    if (!read_header(&source, header, &there, err))
        return false;
    content->fits = there && wal_segment_size_valid(header->segment_size) &&
                    wal_segment_file_parse(name, header->segment_size, &file) &&
                    header->address == wal_segment_start(file.number, header->segment_size);
    if (!content->fits)
        return true;
    source.segment_size = header->segment_size;
    return measure(&source, &file, content, err);
}

static bool
has_more(const Content *content, const Content *than)
{
    if (!than->fits || content->end != than->end)
        return !than->fits || content->end > than->end;
    return content->seen > than->seen;
}

/* ---- choosing ---- */

static bool
check_cluster(const PartialSearch *search, const ArchiveForm *form, const Content *content,
              Error *err)
{
    if (search->system_id == 0 || content->header.system_id == search->system_id)
        return true;
    (void)error_set(err, ERR_MISMATCH,
                    "\"%s\" is of another cluster: system identifier %llu, expected %llu",
                    form->path, (unsigned long long)content->header.system_id,
                    (unsigned long long)search->system_id);
    return error_hint(err, "Name the archive of the cluster that is to be recovered.");
}

/* One without as much as a header has nothing for recovery. */
static bool
find_best(const PartialSearch *search, const ArchiveForms *forms, PartialFound *found,
          Content *best, Error *err)
{
    for (size_t i = 0; i < forms->count; i++) {
        const ArchiveForm *form = &forms->forms[i];
        Content content;

        if (!S_ISREG(form->status.st_mode))
            return error_set(err, ERR_FORMAT, "\"%s\" is not a regular file", form->path);
        if (!look_at_content(form->path, form->compression, search->name->name, &content, err))
            return false;
        if (!content.fits || !has_more(&content, best))
            continue;
        if (!check_cluster(search, form, &content, err))
            return false;
        *best = content;
        found->found = true;
        found->form = *form;
    }
    return true;
}

static bool
look_at_local(const PartialSearch *search, const Content *best, PartialFound *found, Error *err)
{
    Content local;

    if (search->local == NULL)
        return true;
    if (!look_at_content(search->local, COMPRESSION_NONE, search->name->name, &local, err))
        return false;
    if (local.fits && local.header.system_id == best->header.system_id && !has_more(best, &local))
        (void)snprintf(found->remark, sizeof found->remark, "\"%s\" has as much", search->local);
    return true;
}

static bool
look_for_newer(const PartialSearch *search, const Content *best, PartialFound *found, Error *err)
{
    NewerScan scan = {.search = search,
                      .segment_size = best->header.segment_size,
                      .remark = found->remark,
                      .remark_size = sizeof found->remark};

    return wal_segment_file_parse(search->name->name, scan.segment_size, &scan.wanted) &&
           scan_newer(&scan, err);
}

bool
partial_choose(const PartialSearch *search, const ArchiveForms *forms, PartialFound *ret_found,
               Error *err)
{
    Content best = {.fits = false};

    *ret_found = (PartialFound){.found = false};
    if (!find_best(search, forms, ret_found, &best, err))
        return false;
    ret_found->segment_size = best.header.segment_size;
    ret_found->end = best.end;
    if (!ret_found->found || search->by_name)
        return true;
    if (!look_for_newer(search, &best, ret_found, err) ||
        (ret_found->remark[0] == '\0' && !look_at_local(search, &best, ret_found, err)))
        return false;
    ret_found->found = ret_found->remark[0] == '\0';
    return true;
}

/* ---- copying ---- */

static bool
pad(ClaimedFile *to, uint64_t len, Error *err)
{
    static const uint8_t zeros[ZEROS_SIZE];

    while (len > 0) {
        size_t piece = len < ZEROS_SIZE ? (size_t)len : ZEROS_SIZE;

        if (!file_write(to->fd, zeros, piece, to->path, err))
            return false;
        len -= piece;
    }
    return true;
}

/* What can be read: the server tells by itself where WAL ends in it. */
static bool
copy_readable(SegmentReader *reader, ClaimedFile *to, uint64_t *ret_len, Error *err)
{
    Error odd = ERROR_INIT;
    uint64_t len = 0;
    Span bytes;

    do {
        if (!segment_reader_next(reader, &bytes, &odd)) {
            if (odd.code != ERR_FORMAT) {
                *err = odd;
                return false;
            }
            bytes = span_of("");
        }
        if (!file_write(to->fd, bytes.data, bytes.len, to->path, err))
            return false;
        len += bytes.len;
    } while (bytes.len > 0);
    *ret_len = len;
    return true;
}

bool
partial_copy(const PartialFound *found, ClaimedFile *to, Error *err)
{
    const SegmentSource source = {.path = found->form.path,
                                  .compression = found->form.compression,
                                  .segment_size = found->segment_size};
    SegmentReader *reader = segment_reader_open(&source, err);
    uint64_t len;
    bool ok = reader != NULL && copy_readable(reader, to, &len, err) &&
              pad(to, found->segment_size - len, err);

    segment_reader_free(reader);
    return ok;
}
