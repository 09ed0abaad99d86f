/*
 * Receives until told to stop: connection after connection, each of which finds where the archive
 * ends and goes on from there. Nothing that a failed stream has left behind is needed by the next
 * one but what is in the directory.
 *
 *   receiving thread: WalReceiver -> wal_check -> handoff => wal_dir
 */
#include <stdio.h>
#include <sys/statvfs.h>

#include "cmd/log.h"
#include "cmd/receivewal_cmd.h"
#include "cmd/receivewal_failure.h"
#include "cmd/receivewal_monitor.h"
#include "common/file.h"
#include "verify/verify.h"

/* What was received is on disk this soon after it has come. */
#define FLUSH_LAG_MS 1000

/* What is received while the disk is slow, and what is written at once: larger writes fill larger
 * pages of the kernel's, which took up to twice the time. */
#define BUFFER_SIZE ((size_t)16 * 1024 * 1024)
#define WRITE_SIZE  ((size_t)128 * 1024)

/* What failed tries in a row have in common. */
typedef struct Tries {
    unsigned count; /* that got no further */
    unsigned mismatches;
    Lsn mismatch_at;
    int64_t slot_missing_ms; /* clock_ms when it was missed first; 0: it is not missing */
} Tries;

typedef struct Loop {
    const ReceiveRequest *request;
    const Stop *stop;
    Monitor *monitor;
    ReceiveKnown known;
    Tries tries;
    Lsn furthest;   /* of all that was written */
    bool connected; /* at least once */
    bool streamed;  /* likewise */
    int status;     /* what the program shall end with when the loop fails */
} Loop;

/* How one connection ended. */
typedef struct Attempt {
    WalRunResult result;
    bool streaming;  /* a receiver ran: what failed is the stream, or what takes it */
    bool progressed; /* more was written than there was, or ever had been */
    uint32_t segment_size;
    TimeLineID timeline;
    Lsn position; /* what comes next */
    Lsn written;
    Lsn checked_to;
} Attempt;

/* ---- one connection ---- */

/* A chain, with what its stages write and others read. */
typedef struct Stream {
    DurableMark durable;
    DurableMark written;
    _Atomic Lsn checked_to;
    WalReceiver *receiver;
} Stream;

static void
show_segment(void *ctx, Lsn end, TimeLineID timeline)
{
    if (((const ReceiveRequest *)ctx)->verbose)
        log_info("finished segment at " LSN_FORMAT " (timeline %u)", LSN_ARGS(end), timeline);
}

static void
show_switch(void *ctx, Lsn at, TimeLineID timeline)
{
    if (((const ReceiveRequest *)ctx)->verbose)
        log_info("switched to timeline %u at " LSN_FORMAT, timeline, LSN_ARGS(at));
}

static void
warn_set_aside(void *ctx, const char *path, const char *new_path, const char *reason)
{
    (void)ctx;
    log_warning("file \"%s\" is not the segment that its name says: renamed it to \"%s\": %s", path,
                new_path, reason);
}

static Sink *
make_chain(Stream *stream, const ReceiveRequest *request, const StreamPlan *plan,
           Sink **ret_handoff, Error *err)
{
    const WalDirConfig dir = {
        .directory = request->directory,
        .segment_size = plan->segment_size,
        .file_mode = plan->file_mode,
        .remainder = WAL_KEEP_PARTIAL,
        .sync = request->no_sync ? WAL_NO_SYNC : WAL_DURABLE,
        .compression = request->compression,
        .write_ahead = request->synchronous,
        .durable = request->no_sync ? NULL : &stream->durable,
        .written = &stream->written,
        .set_aside = warn_set_aside,
        .finished = show_segment,
        .ctx = (void *)(uintptr_t)request,
    };
    const HandoffConfig handoff = {
        .block_size = WRITE_SIZE,
        .block_count = BUFFER_SIZE / WRITE_SIZE,
        .while_full = wal_receiver_while_full,
        .ctx = &stream->receiver,
        .shortcut = request->synchronous,
    };
    const WalCheckConfig check = {
        .start = plan->start.start,
        .timeline = plan->start.timeline,
        .system_id = plan->server.system_id,
        .segment_size = plan->segment_size,
    };

    *ret_handoff = handoff_new(wal_dir_new(&dir, err), &handoff, err);
    return wal_check_new(*ret_handoff, &check, &stream->checked_to, err);
}

static int64_t
flush_lag(const ReceiveRequest *request)
{
    if (request->no_sync)
        return 0;
    return request->synchronous ? WAL_FLUSH_AT_ONCE : FLUSH_LAG_MS;
}

/* Owns `conn` and the plan's tail. */
static WalReceiver *
make_receiver(Stream *stream, const Loop *loop, Conn *conn, const StreamPlan *plan, Error *err)
{
    const ReceiveRequest *request = loop->request;
    WalReceiverConfig config = {
        .conn = conn,
        .start = plan->start.start,
        .timeline = plan->start.timeline,
        .segment_size = plan->segment_size,
        .tail = plan->tail,
        .slot = request->slot,
        .status_interval_ms = request->status_interval_ms,
        .durable = request->no_sync ? NULL : &stream->durable,
        .written = &stream->written,
        .flush_lag_ms = flush_lag(request),
        .silence_limit_ms = request->receive_timeout_ms,
        .stop_at = request->end == LSN_INVALID ? LSN_INVALID : request->end + 1,
        .on_failure = WAL_FAILURE_KEEP,
        .stop = loop->stop,
        .observer = {.timeline_switched = show_switch, .ctx = (void *)(uintptr_t)request},
    };

    config.sink = make_chain(stream, request, plan, &config.handoff, err);
    return wal_receiver_new(&config, err);
}

static void
take_outcome(const Stream *stream, const StreamPlan *plan, Loop *loop, Attempt *attempt)
{
    WalReceiverView view = wal_receiver_view(stream->receiver);

    attempt->streaming = true;
    attempt->timeline = view.timeline;
    attempt->position = view.received;
    attempt->written = durable_mark_get(&stream->written);
    /* The beginning of a record that goes on in the next segment may be fetched twice. */
    attempt->progressed = attempt->written > plan->first && attempt->written > loop->furthest;
    if (attempt->progressed)
        loop->furthest = attempt->written;
    attempt->checked_to = atomic_load(&stream->checked_to);
    /* It was heard of once the server had begun to stream. */
    loop->streamed = loop->streamed || view.heard_ms != 0;
}

/* Owns `conn` and the plan's tail. */
static void
run_stream(Loop *loop, Conn *conn, const StreamPlan *plan, Attempt *attempt, Error *err)
{
    bool verbose = loop->request->verbose;
    Stream stream = {.receiver = NULL};

    if (verbose)
        log_info("starting log streaming at " LSN_FORMAT " (timeline %u)", LSN_ARGS(plan->first),
                 plan->start.timeline);
    stream.receiver = make_receiver(&stream, loop, conn, plan, err);
    if (stream.receiver == NULL)
        return;
    monitor_receiver(loop->monitor, stream.receiver);
    attempt->result = wal_receiver_run(stream.receiver, err);
    take_outcome(&stream, plan, loop, attempt);
    if (attempt->result != WAL_RUN_FAILED && verbose)
        log_info("stopped log streaming at " LSN_FORMAT " (timeline %u)",
                 LSN_ARGS(attempt->position), attempt->timeline);
    monitor_receiver(loop->monitor, NULL);
    wal_receiver_free(stream.receiver);
}

static Attempt
receive_once(Loop *loop, Error *err)
{
    Attempt attempt = {.result = WAL_RUN_FAILED};
    StreamPlan plan;
    Conn *conn;

    monitor_connecting(loop->monitor);
    conn = conn_open(&loop->request->conn, err);
    if (conn == NULL)
        return attempt;
    loop->connected = true;
    if (!stream_plan_make(loop->request, &loop->known, conn, &plan, err)) {
        conn_free(conn);
        return attempt;
    }
    monitor_server(loop->monitor, &plan.server, conn_features(conn)->version, conn_host(conn));
    attempt.segment_size = plan.segment_size;
    run_stream(loop, conn, &plan, &attempt, err);
    return attempt;
}

/* ---- what becomes of a failure; false ends the loop ---- */

/* As the stock tool does it: the reason, and that it is the end. */
static bool
give_up(const Error *failure, Error *err)
{
    if (failure_is_ours(failure)) {
        *err = *failure;
        return false;
    }
    log_failure(failure);
    return error_set(err, ERR_CONNECTION, "disconnected");
}

static bool
pause_loop(Loop *loop, int64_t delay_ms, Error *err)
{
    return runtime_wait(-1, 0, delay_ms, loop->stop, NULL, err) != WAIT_FAILED;
}

static bool
retry(Loop *loop, const Error *failure, Error *err)
{
    int64_t delay_ms = retry_delay_ms(loop->tries.count++);
    char delay[RETRY_TEXT_SIZE];

    if (loop->request->no_loop)
        return give_up(failure, err);
    retry_delay_text(delay_ms, delay);
    log_failure(failure);
    log_info("%swaiting %s to try again", failure_is_ours(failure) ? "" : "disconnected; ", delay);
    monitor_waiting(loop->monitor, failure);
    return pause_loop(loop, delay_ms, err);
}

static bool
retry_at_once(Loop *loop, const Error *failure, Error *err)
{
    if (loop->request->no_loop)
        return give_up(failure, err);
    log_failure(failure);
    log_info("fetching this WAL again (%u of %d)", loop->tries.mismatches, DAMAGE_RETRIES);
    monitor_waiting(loop->monitor, failure);
    return true;
}

static void
tell_room(const Loop *loop, const Attempt *attempt)
{
    const char *directory = loop->request->directory;
    unsigned needed = attempt->segment_size >> 20;
    struct statvfs room;

    if (statvfs(directory, &room) == 0)
        log_info("waiting for room in \"%s\": a segment needs %u MB, there are %.1f MB", directory,
                 needed, (double)room.f_bavail * (double)room.f_frsize / 1048576);
    else
        log_info("waiting for room in \"%s\": a segment needs %u MB", directory, needed);
}

/* For ever: WAL waits at the server meanwhile. */
static bool
wait_for_room(Loop *loop, const Attempt *attempt, const Error *failure, Error *err)
{
    if (loop->request->no_loop)
        return give_up(failure, err);
    if (monitor_disk_full(loop->monitor, failure, attempt->written)) {
        log_failure(failure);
        tell_room(loop, attempt);
    }
    return pause_loop(loop, retry_delay_ms(loop->tries.count++), err);
}

/* "WAL from 0/3000000 to 0/5000000 (timeline 1, 2 segments)". */
#define GAP_TEXT_SIZE 160

static void
gap_text(const WalGap *gap, char text[GAP_TEXT_SIZE])
{
    char timelines[32];

    if (gap->end_timeline == gap->timeline)
        (void)snprintf(timelines, sizeof timelines, "timeline %u", gap->timeline);
    else
        (void)snprintf(timelines, sizeof timelines, "timelines %u to %u", gap->timeline,
                       gap->end_timeline);
    (void)snprintf(text, GAP_TEXT_SIZE,
                   "WAL from " LSN_FORMAT " to " LSN_FORMAT " (%s, %llu segment%s)",
                   LSN_ARGS(gap->start), LSN_ARGS(gap->end), timelines,
                   (unsigned long long)gap->segments, gap->segments == 1 ? "" : "s");
}

static bool
gap_is_fatal(Loop *loop, const char *gap, const Error *failure, Error *err)
{
    loop->status = RECEIVE_EXIT_LOST;
    *err = *failure;
    (void)error_context(err, "the server does not have %s any more", gap);
    return error_hint(err, "Take a base backup, and go on behind the gap with --accept-gap. A "
                           "replication slot (--slot) prevents gaps.");
}

static bool
go_behind_gap(Loop *loop, const Attempt *attempt, const Error *failure, Error *err)
{
    Error trouble = ERROR_INIT;
    char text[GAP_TEXT_SIZE];
    WalGap gap;

    if (!wal_gap_find(loop->request, attempt->timeline, attempt->position, &gap, &trouble))
        return stop_requested(loop->stop) || retry(loop, &trouble, err);
    if (gap.end <= gap.start) /* there it is again */
        return retry(loop, failure, err);
    gap_text(&gap, text);
    if (!loop->request->accept_gap)
        return gap_is_fatal(loop, text, failure, err);
    log_warning("the archive gets a gap: the server does not have %s any more", text);
    loop->known.gap_end = gap.end;
    loop->known.gap_timeline = gap.end_timeline;
    return true;
}

static bool
slot_is_lost(Loop *loop, const Attempt *attempt, const Error *failure, Error *err)
{
    loop->status = RECEIVE_EXIT_LOST;
    *err = *failure;
    if (attempt->position == LSN_INVALID)
        (void)error_context(err, "the server keeps no WAL for us");
    else
        (void)error_context(
            err, "the server does not keep WAL from " LSN_FORMAT " (timeline %u) on for us",
            LSN_ARGS(attempt->position), attempt->timeline);
    return error_hint(err, "Create the slot (--create-slot; one that is invalidated must be "
                           "dropped first), before the server removes that WAL.");
}

static bool
wal_is_damaged(Loop *loop, const Error *failure, Error *err)
{
    loop->status = RECEIVE_EXIT_DAMAGED;
    *err = *failure;
    return error_context(err,
                         "the server sends damaged WAL, also when it is fetched again %d times",
                         DAMAGE_RETRIES);
}

/* ---- which of these ---- */

/* The same place, or no further than before. */
static void
count_mismatch(Tries *tries, const Attempt *attempt)
{
    bool again = tries->mismatches > 0 &&
                 (attempt->checked_to == tries->mismatch_at || !attempt->progressed);

    tries->mismatches = again ? tries->mismatches + 1 : 1;
    tries->mismatch_at = attempt->checked_to;
}

static void
count_try(Loop *loop, const Attempt *attempt, const Error *failure)
{
    Tries *tries = &loop->tries;

    if (attempt->progressed)
        tries->count = 0;
    if (attempt->streaming && failure->code == ERR_MISMATCH)
        count_mismatch(tries, attempt);
    else if (attempt->progressed)
        tries->mismatches = 0;
    if (!failure_is_missing_slot(failure, loop->request->slot)) {
        if (attempt->streaming)
            tries->slot_missing_ms = 0;
    } else if (tries->slot_missing_ms == 0) {
        tries->slot_missing_ms = clock_ms();
    }
}

static FailureAction
action_for(const Loop *loop, const Attempt *attempt, const Error *failure)
{
    const FailureFacts facts = {
        .connected = loop->connected,
        .streaming = attempt->streaming,
        .streamed = loop->streamed,
        .slot = loop->request->slot,
        .slot_missing_ms =
            loop->tries.slot_missing_ms == 0 ? 0 : clock_ms() - loop->tries.slot_missing_ms,
        .times = loop->tries.mismatches,
    };

    return failure_action(failure, &facts);
}

/* True: once more. */
static bool
go_on_after(Loop *loop, const Attempt *attempt, const Error *failure, Error *err)
{
    count_try(loop, attempt, failure);
    switch (action_for(loop, attempt, failure)) {
    case FAILURE_RETRY:
        return retry(loop, failure, err);
    case FAILURE_RETRY_AT_ONCE:
        return retry_at_once(loop, failure, err);
    case FAILURE_DISK_FULL:
        return wait_for_room(loop, attempt, failure, err);
    case FAILURE_GAP:
        return go_behind_gap(loop, attempt, failure, err);
    case FAILURE_SLOT_LOST:
        return slot_is_lost(loop, attempt, failure, err);
    case FAILURE_DAMAGED:
        return wal_is_damaged(loop, failure, err);
    case FAILURE_FATAL:
        break;
    }
    *err = *failure;
    return false;
}

/* ---- again and again ---- */

static bool
receive_all(Loop *loop, Error *err)
{
    while (!stop_requested(loop->stop)) {
        Error failure = ERROR_INIT;
        Attempt attempt = receive_once(loop, &failure);

        switch (attempt.result) {
        case WAL_RUN_REACHED:
            return true;
        case WAL_RUN_STOPPED:
            break;
        case WAL_RUN_FAILED:
            if (!stop_requested(loop->stop) && !go_on_after(loop, &attempt, &failure, err))
                return false;
            break;
        }
    }
    if (loop->request->verbose)
        log_info("received interrupt signal, exiting");
    return true;
}

/* The directory is locked, and this run's alone. */
static bool
receive_watched(Loop *loop, Error *err)
{
    const ReceiveRequest *request = loop->request;
    const MonitorConfig config = {
        .version = PGSTOW_VERSION,
        .directory = request->directory,
        .slot = request->slot,
        .status_file = request->status_file,
        .stop = loop->stop,
    };
    bool ok;

    loop->monitor = monitor_start(&config, err);
    if (loop->monitor == NULL)
        return false;
    ok = receive_all(loop, err);
    monitor_end(loop->monitor, ok ? NULL : err);
    return ok;
}

bool
receive_loop(const ReceiveRequest *request, const Stop *stop, int *ret_status, Error *err)
{
    Loop loop = {.request = request, .stop = stop, .status = 1};
    int lock;
    bool ok;

    /* A directory that is not there is a mistake to tell before anybody is connected to. */
    if (!wal_dir_lock(request->directory, &lock, err)) {
        *ret_status = loop.status;
        return false;
    }
    ok = receive_watched(&loop, err);
    file_close_quietly(lock);
    if (!ok)
        *ret_status = loop.status;
    return ok;
}
