/*
 * Finding the earliest WAL that a server still has, by trying to stream from there: no command
 * tells it. A server recycles segments in order, so that the search is a binary one.
 *
 * The answer of a try is not that COPY has begun: the server opens the segment only afterwards. It
 * is the first WAL, or the error for a segment that is gone. Neither leaves the connection unusable
 * for the next try, and no status is sent, so that a slot stays where it is.
 */
#include <string.h>

#include "pgformat/walfile.h"
#include "walrecv/walrecv.h"

/* How long the server may take to find WAL on its disk, and to end the stream again. */
#define TRY_TIMEOUT_MS 60000

/* SQLSTATE undefined_file: "requested WAL segment %s has already been removed". */
#define SEGMENT_GONE "58P01"

typedef struct Search {
    Conn *conn;
    const char *slot; /* may be NULL */
    TimeLineID timeline;
    uint32_t segment_size;
    Error gone; /* what the server said of the last segment that it does not have */
} Search;

typedef enum Try { TRY_STREAMS, TRY_GONE, TRY_FAILED } Try;

/* Why the try did not come off: because the segment is gone, or anything else. */
static Try
failure_means(Search *search, const Error *failure, Error *err)
{
    if (failure->code == ERR_SERVER && strcmp(failure->sqlstate, SEGMENT_GONE) == 0) {
        search->gone = *failure;
        return TRY_GONE;
    }
    *err = *failure;
    return TRY_FAILED;
}

/* ---- one try ---- */

typedef enum Seen { SEEN_WAL, SEEN_END, SEEN_FAILED } Seen;

/* The next WAL, or the end of the stream. */
static Seen
see_next(const Search *search, Error *err)
{
    const CopyWait wait = {.timeout_ms = TRY_TIMEOUT_MS, .stop = conn_stop(search->conn)};
    WalMessage parsed;
    Span message;

    for (;;) {
        switch (copy_next(search->conn, &wait, &message, err)) {
        case COPY_MESSAGE:
            if (!wal_message_parse(message, &parsed, err))
                return SEEN_FAILED;
            if (parsed.kind == WAL_DATA)
                return SEEN_WAL;
            break;
        case COPY_DONE:
            return SEEN_END;
        case COPY_IDLE:
            (void)error_set(err, ERR_CONNECTION,
                            "the server neither sent WAL nor ended the stream within %d ms",
                            TRY_TIMEOUT_MS);
            return SEEN_FAILED;
        case COPY_STOPPED:
            (void)error_set_stopped(err);
            return SEEN_FAILED;
        case COPY_WOKEN:
            break;
        case COPY_FAILED:
            return SEEN_FAILED;
        }
    }
}

/* COPY has begun: sees what comes, ends it and reads what is still on its way. */
static bool
see_stream(const Search *search, Error *err)
{
    Seen seen = see_next(search, err);

    if (seen == SEEN_FAILED || !copy_end(search->conn, err))
        return false;
    do {
        seen = see_next(search, err);
    } while (seen == SEEN_WAL);
    return seen == SEEN_END;
}

static Try
try_segment(Search *search, uint64_t number, Error *err)
{
    Lsn start = wal_segment_start(number, search->segment_size);
    Error failure = ERROR_INIT;
    StreamEnd end;
    bool ok = false;

    switch (repl_start_streaming(search->conn, search->slot, start, search->timeline, &failure)) {
    case STREAM_STARTED:
        ok = see_stream(search, &failure);
        break;
    case STREAM_AT_SWITCH: /* the timeline ends there: there is nothing that could be gone */
        ok = true;
        break;
    case STREAM_FAILED:
        break;
    }
    if (ok && repl_stream_end(search->conn, &end, &failure))
        return TRY_STREAMS;
    return failure_means(search, &failure, err);
}

/* ---- the search ---- */

/* The first segment from `first` on that streams, `end` when none before it does. */
static bool
search_segments(Search *search, uint64_t first, uint64_t end, uint64_t *ret_number, Error *err)
{
    while (first < end) {
        uint64_t middle = first + (end - first) / 2;

        switch (try_segment(search, middle, err)) {
        case TRY_STREAMS:
            end = middle;
            break;
        case TRY_GONE:
            first = middle + 1;
            break;
        case TRY_FAILED:
            return false;
        }
    }
    *ret_number = first;
    return true;
}

static bool
nothing_left(const Search *search, Lsn from, Lsn until, Error *err)
{
    *err = search->gone;
    if (err->code == ERR_NONE) {
        (void)error_set(err, ERR_SERVER, "no segment begins there");
        memcpy(err->sqlstate, SEGMENT_GONE, sizeof SEGMENT_GONE);
    }
    return error_context(err,
                         "the server has no WAL of timeline %u to begin with from " LSN_FORMAT
                         " to " LSN_FORMAT,
                         search->timeline, LSN_ARGS(from), LSN_ARGS(until));
}

/* The number of the first segment that begins at or behind `lsn`. */
static uint64_t
segment_behind(Lsn lsn, uint32_t segment_size)
{
    return wal_segment_number(lsn, segment_size) +
           (wal_segment_offset(lsn, segment_size) > 0 ? 1 : 0);
}

/*
 * At `until` itself there is nothing to send yet, and so nothing that could be gone: a segment that
 * begins there need not be tried.
 */
bool
wal_find_earliest(Conn *conn, const char *slot, TimeLineID timeline, Lsn from, Lsn until,
                  uint32_t segment_size, Lsn *ret_earliest, Error *err)
{
    Search search = {.conn = conn,
                     .slot = slot,
                     .timeline = timeline,
                     .segment_size = segment_size,
                     .gone = ERROR_INIT};
    uint64_t end = segment_behind(until, segment_size);
    uint64_t number;

    if (!search_segments(&search, segment_behind(from, segment_size), end, &number, err))
        return false;
    if (number > end || (number == end && wal_segment_offset(until, segment_size) > 0))
        return nothing_left(&search, from, until, err);
    *ret_earliest = wal_segment_start(number, segment_size);
    return true;
}
