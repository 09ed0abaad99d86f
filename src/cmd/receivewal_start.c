/*
 * Where a stream begins: what the server has, what the archive holds, and where the two meet; and
 * where they meet again when the server does not have the WAL any more that the archive needs.
 */
#include <string.h>

#include "cmd/log.h"
#include "cmd/receivewal_cmd.h"
#include "pgformat/walfile.h"

#define SQLSTATE_UNDEFINED_FILE   "58P01"
#define SQLSTATE_UNDEFINED_OBJECT "42704"

/* ---- the server ---- */

/* What the files look like: as at the server. */
static bool
learn_shape(Conn *conn, StreamPlan *plan, Error *err)
{
    bool group;

    if (!repl_group_access(conn, &group, err) || !repl_segment_size(conn, &plan->segment_size, err))
        return false;
    plan->file_mode = group ? 0640 : 0600;
    return true;
}

/* Behind one address there may be another cluster the next time. */
static bool
check_same_server(const ServerIdentity *server, ReceiveKnown *known, Error *err)
{
    if (known->system_id != 0 && known->system_id != server->system_id)
        return error_set(
            err, ERR_MISMATCH, "the server has system identifier %llu, but it was %llu before",
            (unsigned long long)server->system_id, (unsigned long long)known->system_id);
    known->system_id = server->system_id;
    return true;
}

/* Of the server's timeline; the first one has none. */
static bool
learn_history(Conn *conn, TimeLineID timeline, TimelineHistory *ret_history, Error *err)
{
    Buf text = BUF_INIT;
    bool ok = (timeline == 1 || repl_timeline_history(conn, timeline, &text, err)) &&
              timeline_history_parse((Span){.data = text.data, .len = text.len}, timeline,
                                     ret_history, err);

    buf_free(&text);
    return ok;
}

/* ---- the archive ---- */

static void
warn_skipped(void *ctx, const char *path, const char *reason)
{
    (void)ctx;
    log_warning("segment file \"%s\" is damaged, skipping: %s", path, reason);
}

static void
warn_hole(void *ctx, TimeLineID timeline, uint64_t first, uint64_t last)
{
    const uint32_t *segment_size = ctx;
    unsigned long long count = last - first + 1;
    char from[WAL_NAME_SIZE];
    char to[WAL_NAME_SIZE];

    wal_segment_name(from, timeline, first, *segment_size);
    wal_segment_name(to, timeline, last, *segment_size);
    if (count == 1)
        log_warning("the archive has a hole: WAL segment \"%s\" is missing", from);
    else
        log_warning("the archive has a hole: %llu WAL segments are missing, \"%s\" to \"%s\"",
                    count, from, to);
}

static bool
look_through_archive(const ReceiveRequest *request, ReceiveKnown *known, StreamPlan *plan,
                     const TimelineHistory *history, WalResume *ret_resume, Error *err)
{
    const WalResumeConfig config = {
        .directory = request->directory,
        .segment_size = plan->segment_size,
        .history = history,
        .skipped = warn_skipped,
        .hole = known->holes_told ? NULL : warn_hole,
        .ctx = &plan->segment_size,
    };

    if (!wal_resume_find(&config, ret_resume, &plan->tail, err))
        return false;
    known->holes_told = true;
    return true;
}

/* ---- the slot ---- */

static bool
no_such_slot(const char *slot, Error *err)
{
    (void)error_set(err, ERR_SERVER, "replication slot \"%s\" does not exist", slot);
    memcpy(err->sqlstate, SQLSTATE_UNDEFINED_OBJECT, sizeof SQLSTATE_UNDEFINED_OBJECT);
    return false;
}

/* Servers before 15 tell it by SQL only, which may not be allowed. */
static bool
ask_slot_by_sql(const ReceiveRequest *request, ReceiveKnown *known, Conn *conn, SlotState *ret_slot,
                bool *ret_known, Error *err)
{
    Error failure = ERROR_INIT;

    *ret_known = repl_read_slot_by_sql(conn, &request->conn, request->slot, ret_slot, &failure);
    if (*ret_known)
        return true;
    if (failure.code == ERR_STOPPED || failure.code == ERR_MEMORY) {
        *err = failure;
        return false;
    }
    if (!known->slot_unknown_told)
        log_warning("%s: starting where the server is now", failure.message);
    known->slot_unknown_told = true;
    return true;
}

/* Where the slot is. It matters for an empty archive only. */
static bool
ask_slot(const ReceiveRequest *request, ReceiveKnown *known, Conn *conn, SlotState *ret_slot,
         Error *err)
{
    bool answered = true;

    *ret_slot = (SlotState){.exists = false};
    if (request->slot == NULL)
        return true;
    if (conn_features(conn)->read_slot) {
        if (!repl_read_slot(conn, request->slot, ret_slot, err))
            return false;
    } else if (!ask_slot_by_sql(request, known, conn, ret_slot, &answered, err)) {
        return false;
    }
    return ret_slot->exists || !answered || no_such_slot(request->slot, err);
}

/* ---- where they meet ---- */

/* Behind a gap that is accepted, unless the archive has got beyond it. */
static void
skip_gap(const ReceiveKnown *known, StreamPlan *plan)
{
    WalStart *start = &plan->start;

    if (start->reason != WAL_START_ARCHIVE || start->start >= known->gap_end)
        return;
    wal_tail_free(plan->tail);
    plan->tail = NULL;
    start->start = known->gap_end;
    start->timeline = known->gap_timeline;
}

static void
settle_first(const WalResume *resume, StreamPlan *plan)
{
    WalStart *start = &plan->start;

    /* What is behind the fork on the old timeline is none of the new one's. */
    if (start->reason != WAL_START_ARCHIVE) {
        wal_tail_free(plan->tail);
        plan->tail = NULL;
    }
    plan->first = plan->tail != NULL ? resume->end : start->start;
    if (start->reason == WAL_START_ARCHIVE_FORK)
        log_warning("the archive ends at " LSN_FORMAT
                    " on timeline %u, but timeline %u begins at " LSN_FORMAT
                    " already: following timeline %u from there",
                    LSN_ARGS(resume->end), resume->timeline, start->timeline, LSN_ARGS(start->fork),
                    start->timeline);
}

static bool
meet(const ReceiveRequest *request, ReceiveKnown *known, Conn *conn, StreamPlan *plan, Error *err)
{
    TimelineHistory history = {.forks = NULL};
    WalStartFacts facts = {
        .server = plan->server, .history = &history, .segment_size = plan->segment_size};
    bool ok;

    if (!learn_history(conn, plan->server.timeline, &history, err))
        return false;
    ok = look_through_archive(request, known, plan, &history, &facts.archive, err) &&
         (facts.archive.found || ask_slot(request, known, conn, &facts.slot, err)) &&
         wal_start_decide(&facts, &plan->start, err);
    timeline_history_free(&history);
    if (!ok)
        return false;
    skip_gap(known, plan);
    settle_first(&facts.archive, plan);
    return true;
}

bool
stream_plan_make(const ReceiveRequest *request, ReceiveKnown *known, Conn *conn,
                 StreamPlan *ret_plan, Error *err)
{
    StreamPlan plan = {.tail = NULL};

    if (!learn_shape(conn, &plan, err) || !repl_identify_system(conn, &plan.server, err) ||
        !check_same_server(&plan.server, known, err) || !meet(request, known, conn, &plan, err)) {
        stream_plan_free(&plan);
        return false;
    }
    *ret_plan = plan;
    return true;
}

void
stream_plan_free(StreamPlan *plan)
{
    wal_tail_free(plan->tail);
    plan->tail = NULL;
}

/* ---- where they meet again ---- */

typedef struct GapSearch {
    Conn *conn;
    const char *slot;
    const TimelineHistory *history;
    Lsn server_end;
    uint32_t segment_size;
} GapSearch;

/* True with `*ret_found` false when nothing is left of this timeline. */
static bool
search_timeline(const GapSearch *search, TimeLineID timeline, Lsn from, Lsn end, Lsn *ret_lsn,
                bool *ret_found, Error *err)
{
    Error failure = ERROR_INIT;
    Lsn until = end == LSN_INVALID ? search->server_end : end;

    if (wal_find_earliest(search->conn, search->slot, timeline, from, until, search->segment_size,
                          ret_lsn, &failure)) {
        /* Where a timeline ends there is nothing of it to stream. */
        *ret_found = end == LSN_INVALID || *ret_lsn < end;
        return true;
    }
    *ret_found = false;
    if (end != LSN_INVALID && strcmp(failure.sqlstate, SQLSTATE_UNDEFINED_FILE) == 0)
        return true;
    *err = failure;
    return false;
}

/* Along the server's history: what is gone of one timeline may be there of the next. */
static bool
search_gap_end(const GapSearch *search, WalGap *gap, Error *err)
{
    Lsn from = gap->start;
    TimeLineID timeline = gap->timeline;
    bool found = false;

    while (!found) {
        TimeLineID next;
        Lsn end;

        if (!timeline_history_find(search->history, timeline, &end, &next))
            return error_set(err, ERR_SERVER, "timeline %u is not in the server's history",
                             timeline);
        if (!search_timeline(search, timeline, from, end, &gap->end, &found, err))
            return false;
        gap->end_timeline = timeline;
        from = end - wal_segment_offset(end, search->segment_size);
        timeline = next;
    }
    return true;
}

static bool
find_over(Conn *conn, const ReceiveRequest *request, WalGap *gap, Error *err)
{
    TimelineHistory history = {.forks = NULL};
    GapSearch search = {.conn = conn, .slot = request->slot, .history = &history};
    ServerIdentity server;
    bool ok;

    if (!repl_segment_size(conn, &search.segment_size, err) ||
        !repl_identify_system(conn, &server, err) ||
        !learn_history(conn, server.timeline, &history, err))
        return false;
    search.server_end = server.position;
    ok = search_gap_end(&search, gap, err);
    timeline_history_free(&history);
    if (ok && gap->end > gap->start)
        gap->segments = wal_segment_number(gap->end, search.segment_size) -
                        wal_segment_number(gap->start, search.segment_size);
    return ok;
}

bool
wal_gap_find(const ReceiveRequest *request, TimeLineID timeline, Lsn start, WalGap *ret_gap,
             Error *err)
{
    WalGap gap = {.timeline = timeline, .start = start};
    Conn *conn = conn_open(&request->conn, err);
    bool ok = conn != NULL && find_over(conn, request, &gap, err);

    conn_free(conn);
    if (ok)
        *ret_gap = gap;
    return ok;
}
