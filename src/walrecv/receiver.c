/*
 * The WAL receiver: one state machine in one thread.
 *
 *   STARTING ---> STREAMING ---> ENDING ----> FINISHING ---> DONE
 *      ^  |           |                           ^
 *      |  +-----+     | the server ends           |
 *      |        v     v                           |
 *      +------- SWITCHING ------------------------+
 *
 *   STARTING   fetches the timeline's history and starts the stream
 *   STREAMING  receives, one message at a time; sends status; notices a stop request or the end LSN
 *   ENDING     we have sent CopyDone: reads off what was under way, for a few seconds at most,
 *              because all that we want is here already
 *   SWITCHING  the server has ended the copy: reads which timeline follows, from where
 *   FINISHING  ends the open segment and finishes the sink
 *
 * A step that fails ends the run. Everything here belongs to the receiving thread but what other
 * threads set or read, which is atomic: the end LSN, the position, the timeline.
 */
#include <stdlib.h>
#include <time.h>

#include "pgformat/walfile.h"
#include "walrecv/internal.h"

/* How long a server may take to end a stream that we have ended. */
#define ENDING_PATIENCE_MS 5000

typedef enum ReceiverState {
    RECEIVER_STARTING,
    RECEIVER_STREAMING,
    RECEIVER_ENDING,
    RECEIVER_SWITCHING,
    RECEIVER_FINISHING,
    RECEIVER_DONE
} ReceiverState;

struct WalReceiver {
    /* Fixed from the start; conn and sink are owned, slot is a copy of ours. */
    WalReceiverConfig config;
    char *slot;

    /* Other threads use these. */
    _Atomic Lsn stop_at; /* 0: not known */
    Bell bell;           /* rung when stop_at was set, and when a mark moved */
    _Atomic Lsn position;
    _Atomic TimeLineID timeline;
    _Atomic Lsn written; /* as reported */
    _Atomic Lsn flushed; /* likewise */
    _Atomic Lsn server_end;
    _Atomic int64_t heard_ms;
    _Atomic uint64_t beats;
    atomic_bool streaming;

    /* The receiving thread's own. */
    ReceiverState state;
    WalRunResult outcome; /* from ENDING or FINISHING on */
    bool copying;         /* in COPY BOTH, and we may send */
    bool unpublished;     /* the handoff holds something that its thread has not seen */
    int64_t deadline_ms;  /* of ENDING */
    Segmenter segmenter;
    Feedback feedback;
};

/* ---- where we are ---- */

static bool
stop_wanted(const WalReceiver *receiver)
{
    return receiver->config.stop != NULL && stop_requested(receiver->config.stop);
}

static bool
end_reached(const WalReceiver *receiver)
{
    Lsn stop_at = atomic_load(&receiver->stop_at);

    return stop_at != 0 && receiver->segmenter.position >= stop_at;
}

/* Make the segmenter's position the one that everybody sees. */
static void
show_position(WalReceiver *receiver)
{
    atomic_store(&receiver->timeline, receiver->segmenter.timeline);
    atomic_store(&receiver->position, receiver->segmenter.position);
}

static Lsn
durable_mark(const WalReceiver *receiver)
{
    return receiver->config.durable == NULL ? 0 : durable_mark_get(receiver->config.durable);
}

/* The durable mark is read first, so that it is not ahead of what was written. */
static FeedbackView
current_view(WalReceiver *receiver)
{
    FeedbackView view = {
        .now_ms = clock_ms(),
        .received = receiver->segmenter.position,
        .flushed = feedback_mark(&receiver->feedback, durable_mark(receiver)),
    };

    view.written =
        receiver->config.written == NULL
            ? view.received
            : feedback_mark(&receiver->feedback, durable_mark_get(receiver->config.written));
    atomic_store(&receiver->written, view.written);
    atomic_store(&receiver->flushed, view.flushed);
    return view;
}

/* ---- status ---- */

static bool
send_status(WalReceiver *receiver, const FeedbackView *view, Error *err)
{
    StatusMessage status = {.written = view->written,
                            .flushed = view->flushed,
                            .sent_at = clock_timestamptz(),
                            .reply_requested = feedback_asks(&receiver->feedback, view)};
    uint8_t bytes[STATUS_MESSAGE_SIZE];

    status_message_format(&status, bytes);
    if (!copy_send(receiver->config.conn, (Span){.data = bytes, .len = sizeof bytes}, err))
        return false;
    feedback_note_sent(&receiver->feedback, view);
    return true;
}

static bool
send_status_if_due(WalReceiver *receiver, const FeedbackView *view, Error *err)
{
    return !feedback_due(&receiver->feedback, view) || send_status(receiver, view, err);
}

bool
wal_receiver_while_full(void *ctx, Error *err)
{
    WalReceiver *const *variable = ctx;
    WalReceiver *receiver = *variable;
    FeedbackView view;

    if (receiver == NULL || !receiver->copying)
        return true;
    atomic_fetch_add(&receiver->beats, 1);
    view = current_view(receiver);
    view.deaf = true;
    return send_status_if_due(receiver, &view, err);
}

static bool
flush_if_wanted(WalReceiver *receiver, const FeedbackView *view, Error *err)
{
    FeedbackView after;

    if (receiver->config.durable == NULL || !feedback_wants_flush(&receiver->feedback, view))
        return true;
    feedback_note_flush(&receiver->feedback, view);
    if (!sink_flush(receiver->config.sink, view->received, err))
        return false;
    /* A quick disk has done it by now: a commit waits for the news. */
    after = current_view(receiver);
    after.deaf = view->deaf;
    return send_status_if_due(receiver, &after, err);
}

/* The server wants to know, perhaps because it shuts down: then it waits for our flush. */
static bool
answer_request(WalReceiver *receiver, Error *err)
{
    FeedbackView view = current_view(receiver);

    receiver->feedback.reply_owed = true;
    return flush_if_wanted(receiver, &view, err);
}

/* ---- what comes ---- */

static void
note_heard(WalReceiver *receiver)
{
    int64_t now = clock_ms();

    feedback_note_heard(&receiver->feedback, now);
    atomic_store(&receiver->heard_ms, now);
}

static bool
take_wal(WalReceiver *receiver, Lsn start, Span data, Error *err)
{
    receiver->unpublished = true;
    receiver->segmenter.now = (int64_t)time(NULL);
    if (!segmenter_push(&receiver->segmenter, start, data, err))
        return false;
    feedback_note_received(&receiver->feedback, clock_ms());
    show_position(receiver);
    return true;
}

/* ---- STARTING ---- */

static bool
write_history(WalReceiver *receiver, TimeLineID timeline, Span content, Error *err)
{
    char name[WAL_NAME_SIZE];
    Entry entry = {.kind = ENTRY_FILE,
                   .path = name,
                   .size = content.len,
                   .mode = 0600,
                   .mtime = (int64_t)time(NULL)};
    Sink *sink = receiver->config.sink;

    wal_history_name(name, timeline);
    receiver->unpublished = true;
    return sink_entry_begin(sink, &entry, err) && sink_data(sink, content, err) &&
           sink_entry_end(sink, true, err);
}

/* Recovery needs the history of every timeline but the first. Each is started once. */
static bool
fetch_history(WalReceiver *receiver, Error *err)
{
    TimeLineID timeline = receiver->segmenter.timeline;
    Buf content = BUF_INIT;
    bool ok;

    if (timeline == 1)
        return true;
    ok = repl_timeline_history(receiver->config.conn, timeline, &content, err) &&
         write_history(receiver, timeline, (Span){.data = content.data, .len = content.len}, err);
    buf_free(&content);
    return ok;
}

/* What is on our disk already takes the way of what is received. */
static bool
replay_tail(WalReceiver *receiver, Error *err)
{
    for (;;) {
        Span bytes;

        if (receiver->config.tail == NULL || end_reached(receiver) || stop_wanted(receiver))
            break;
        if (!wal_tail_next(receiver->config.tail, &bytes, err))
            return false;
        if (bytes.len == 0)
            break;
        atomic_fetch_add(&receiver->beats, 1);
        if (!take_wal(receiver, receiver->segmenter.position, bytes, err))
            return false;
    }
    wal_tail_free(receiver->config.tail);
    receiver->config.tail = NULL;
    return true;
}

static bool
finish_with(WalReceiver *receiver, WalRunResult outcome)
{
    receiver->outcome = outcome;
    receiver->state = RECEIVER_FINISHING;
    return true;
}

static bool
start_stream(WalReceiver *receiver, Error *err)
{
    if (!fetch_history(receiver, err) || !replay_tail(receiver, err))
        return false;
    if (end_reached(receiver) || stop_wanted(receiver)) /* the next step notices */
        return true;
    switch (repl_start_streaming(receiver->config.conn, receiver->slot,
                                 receiver->segmenter.position, receiver->segmenter.timeline, err)) {
    case STREAM_STARTED:
        receiver->copying = true;
        atomic_store(&receiver->streaming, true);
        note_heard(receiver);
        receiver->state = RECEIVER_STREAMING;
        return true;
    case STREAM_AT_SWITCH:
        receiver->state = RECEIVER_SWITCHING;
        return true;
    case STREAM_FAILED:
        break;
    }
    return false;
}

static bool
step_starting(WalReceiver *receiver, Error *err)
{
    Error failure = ERROR_INIT;

    if (end_reached(receiver))
        return finish_with(receiver, WAL_RUN_REACHED);
    if (stop_wanted(receiver))
        return finish_with(receiver, WAL_RUN_STOPPED);
    if (start_stream(receiver, &failure))
        return true;
    /* The connection's own Stop, usually the same one, ends commands that wait. */
    if (failure.code == ERR_STOPPED && stop_wanted(receiver))
        return finish_with(receiver, WAL_RUN_STOPPED);
    *err = failure;
    return false;
}

/* ---- STREAMING ---- */

static bool
take_message(WalReceiver *receiver, Span bytes, Error *err)
{
    WalMessage message;

    if (!wal_message_parse(bytes, &message, err))
        return false;
    atomic_store(&receiver->server_end, message.server_end);
    switch (message.kind) {
    case WAL_DATA:
        return take_wal(receiver, message.start, message.data, err);
    case WAL_KEEPALIVE:
        return !message.reply_requested || answer_request(receiver, err);
    }
    return error_set(err, ERR_BUG, "unknown WAL message kind %d", (int)message.kind);
}

/* The time that we took over it, with a slow disk perhaps, is not the server's silence. */
static bool
take_and_note(WalReceiver *receiver, Span bytes, Error *err)
{
    if (!take_message(receiver, bytes, err))
        return false;
    note_heard(receiver);
    return true;
}

/* Before we wait: let the next thread have what there is, and learn whether it has failed. */
static bool
publish(WalReceiver *receiver, Error *err)
{
    Sink *handoff = receiver->config.handoff;

    if (handoff == NULL || (!receiver->unpublished && !handoff_failed(handoff)))
        return true;
    receiver->unpublished = false;
    return handoff_publish(handoff, err);
}

/* We end the stream. What can be told is told; failures do not matter, for we have what we want. */
static bool
begin_ending(WalReceiver *receiver, WalRunResult outcome)
{
    FeedbackView view = current_view(receiver);
    Error ignored = ERROR_INIT;

    receiver->copying = false;
    receiver->deadline_ms = clock_ms() + ENDING_PATIENCE_MS;
    (void)finish_with(receiver, outcome);
    if (send_status(receiver, &view, &ignored) && copy_end(receiver->config.conn, &ignored))
        receiver->state = RECEIVER_ENDING;
    return true;
}

/* The server ends the stream: we end our direction too. */
static bool
begin_switching(WalReceiver *receiver, Error *err)
{
    receiver->copying = false;
    receiver->state = RECEIVER_SWITCHING;
    return copy_end(receiver->config.conn, err);
}

static bool
receive_one(WalReceiver *receiver, int64_t timeout_ms, Error *err)
{
    CopyWait wait = {
        .timeout_ms = timeout_ms, .stop = receiver->config.stop, .bell = &receiver->bell};
    Span message;

    switch (copy_next(receiver->config.conn, &wait, &message, err)) {
    case COPY_MESSAGE:
        return take_and_note(receiver, message, err);
    case COPY_IDLE:
    case COPY_STOPPED: /* the next step notices */
    case COPY_WOKEN:
        return true;
    case COPY_DONE:
        return begin_switching(receiver, err);
    case COPY_FAILED:
        break;
    }
    return false;
}

static bool
step_streaming(WalReceiver *receiver, Error *err)
{
    FeedbackView view = current_view(receiver);

    if (end_reached(receiver))
        return begin_ending(receiver, WAL_RUN_REACHED);
    if (stop_wanted(receiver))
        return begin_ending(receiver, WAL_RUN_STOPPED);
    if (feedback_gives_up(&receiver->feedback, &view))
        return error_set(err, ERR_CONNECTION, "the server has said nothing for %g seconds",
                         (double)receiver->feedback.silence_limit_ms / 1000);
    view.busy = copy_has_buffered(receiver->config.conn);
    if (!send_status_if_due(receiver, &view, err) || !flush_if_wanted(receiver, &view, err))
        return false;
    if (!view.busy && !publish(receiver, err))
        return false;
    return receive_one(receiver, feedback_wait_ms(&receiver->feedback, &view), err);
}

/* ---- ENDING ---- */

static bool
step_ending(WalReceiver *receiver)
{
    int64_t left = receiver->deadline_ms - clock_ms();
    /* A stop that ends the stream cannot also end the wait for its end. */
    CopyWait wait = {.timeout_ms = left,
                     .stop = receiver->outcome == WAL_RUN_STOPPED ? NULL : receiver->config.stop};
    Error ignored = ERROR_INIT;
    StreamEnd end;
    Span message;

    if (left > 0) {
        switch (copy_next(receiver->config.conn, &wait, &message, &ignored)) {
        case COPY_MESSAGE:
            return true;
        case COPY_DONE:
            error_ignored(repl_stream_end(receiver->config.conn, &end, &ignored));
            break;
        case COPY_IDLE:
        case COPY_STOPPED:
        case COPY_WOKEN:
        case COPY_FAILED:
            break;
        }
    }
    return finish_with(receiver, receiver->outcome);
}

/* ---- SWITCHING ---- */

static bool
check_switch(const WalReceiver *receiver, const StreamEnd *end, Error *err)
{
    TimeLineID timeline = receiver->segmenter.timeline;
    Lsn position = receiver->segmenter.position;

    if (end->next_timeline <= timeline)
        return error_set(err, ERR_PROTOCOL,
                         "server reported unexpected next timeline %lu, following timeline %lu",
                         (unsigned long)end->next_timeline, (unsigned long)timeline);
    if (end->next_start > position)
        return error_set(err, ERR_PROTOCOL,
                         "server stopped streaming timeline %lu at " LSN_FORMAT
                         ", but reported next timeline %lu to begin at " LSN_FORMAT,
                         (unsigned long)timeline, LSN_ARGS(position),
                         (unsigned long)end->next_timeline, LSN_ARGS(end->next_start));
    return true;
}

/* Marks up to the old position, or set before this run, are not about the timeline that begins. */
static void
restart_feedback(WalReceiver *receiver, Lsn old_position, Lsn start)
{
    Lsn mark = durable_mark(receiver);

    feedback_start(&receiver->feedback, start, mark > old_position ? mark : old_position,
                   clock_ms());
}

static bool
switch_timeline(WalReceiver *receiver, const StreamEnd *end, Error *err)
{
    const WalObserver *observer = &receiver->config.observer;
    uint32_t segment_size = receiver->config.segment_size;
    Lsn old_position = receiver->segmenter.position;
    Lsn start = end->next_start - wal_segment_offset(end->next_start, segment_size);

    if (!check_switch(receiver, end, err) || !segmenter_end(&receiver->segmenter, err))
        return false;
    receiver->unpublished = true;
    segmenter_start(&receiver->segmenter, end->next_timeline, start);
    show_position(receiver);
    restart_feedback(receiver, old_position, start);
    if (observer->timeline_switched != NULL)
        observer->timeline_switched(observer->ctx, end->next_start, end->next_timeline);
    receiver->state = RECEIVER_STARTING;
    return true;
}

static bool
step_switching(WalReceiver *receiver, Error *err)
{
    StreamEnd end;

    if (!repl_stream_end(receiver->config.conn, &end, err))
        return false;
    if (end_reached(receiver))
        return finish_with(receiver, WAL_RUN_REACHED);
    if (stop_wanted(receiver))
        return finish_with(receiver, WAL_RUN_STOPPED);
    if (end.has_next)
        return switch_timeline(receiver, &end, err);
    return error_set(err, ERR_CONNECTION, "replication stream was terminated before stop point");
}

/* ---- FINISHING ---- */

static bool
finish_sink(WalReceiver *receiver, Error *err)
{
    return segmenter_end(&receiver->segmenter, err) &&
           sink_archive_end(receiver->config.sink, err) && sink_finish(receiver->config.sink, err);
}

static bool
step_finishing(WalReceiver *receiver, Error *err)
{
    receiver->state = RECEIVER_DONE;
    return finish_sink(receiver, err);
}

/* ---- the run ---- */

static bool
step(WalReceiver *receiver, Error *err)
{
    switch (receiver->state) {
    case RECEIVER_STARTING:
        return step_starting(receiver, err);
    case RECEIVER_STREAMING:
        return step_streaming(receiver, err);
    case RECEIVER_ENDING:
        return step_ending(receiver);
    case RECEIVER_SWITCHING:
        return step_switching(receiver, err);
    case RECEIVER_FINISHING:
        return step_finishing(receiver, err);
    case RECEIVER_DONE:
        break;
    }
    return error_set(err, ERR_BUG, "unknown state %d of a WAL receiver", (int)receiver->state);
}

/* The failure that ended the run is the one to report. A sink that failed refuses this anyway. */
static void
keep_received(WalReceiver *receiver)
{
    Error ignored = ERROR_INIT;

    error_ignored(finish_sink(receiver, &ignored));
}

WalRunResult
wal_receiver_run(WalReceiver *receiver, Error *err)
{
    const Archive archive = {.name = "pg_wal"};
    bool ok;

    if (receiver->config.sink == NULL) {
        (void)error_set(err, ERR_BUG, "a WAL receiver runs once");
        return WAL_RUN_FAILED;
    }
    ok = sink_archive_begin(receiver->config.sink, &archive, err);
    while (ok && receiver->state != RECEIVER_DONE) {
        atomic_fetch_add(&receiver->beats, 1);
        ok = step(receiver, err);
    }

    receiver->copying = false;
    atomic_store(&receiver->streaming, false);
    if (!ok && receiver->config.on_failure == WAL_FAILURE_KEEP)
        keep_received(receiver);
    /* Freed by the thread that pushed, and before anybody looks at what has been written. */
    sink_free(receiver->config.sink);
    receiver->config.sink = NULL;
    receiver->config.handoff = NULL;
    receiver->state = RECEIVER_DONE;
    return ok ? receiver->outcome : WAL_RUN_FAILED;
}

/* ---- from outside ---- */

static bool
check_config(const WalReceiverConfig *config, Error *err)
{
    if (!wal_segment_size_valid(config->segment_size))
        return error_set(err, ERR_BUG, "%lu is no WAL segment size",
                         (unsigned long)config->segment_size);
    if (wal_segment_offset(config->start, config->segment_size) != 0)
        return error_set(err, ERR_BUG, LSN_FORMAT " is not the beginning of a WAL segment",
                         LSN_ARGS(config->start));
    if (config->timeline == 0)
        return error_set(err, ERR_BUG, "there is no timeline 0");
    if (config->flush_lag_ms != 0 && config->durable == NULL)
        return error_set(err, ERR_BUG, "flushes need a durable mark");
    return true;
}

/* All that can fail; conn and sink belong to the receiver already. */
static bool
receiver_init(WalReceiver *receiver, const WalReceiverConfig *config, Error *err)
{
    if (!check_config(config, err))
        return false;
    if (config->slot != NULL && (receiver->slot = mem_strdup(config->slot, err)) == NULL)
        return false;
    if (!bell_init(&receiver->bell, err))
        return false;
    if (config->durable != NULL)
        config->durable->bell = &receiver->bell;
    return true;
}

WalReceiver *
wal_receiver_new(const WalReceiverConfig *config, Error *err)
{
    bool complete = config->conn != NULL && config->sink != NULL;
    WalReceiver *receiver = complete ? mem_zero(sizeof *receiver, err) : NULL;

    if (receiver == NULL) {
        conn_free(config->conn);
        sink_free(config->sink);
        wal_tail_free(config->tail);
        return NULL;
    }
    receiver->config = *config;
    receiver->config.slot = NULL;
    receiver->bell.fd = -1;
    if (!receiver_init(receiver, config, err)) {
        wal_receiver_free(receiver);
        return NULL;
    }
    atomic_init(&receiver->stop_at, config->stop_at);
    receiver->state = RECEIVER_STARTING;
    receiver->segmenter = (Segmenter){.sink = config->sink, .segment_size = config->segment_size};
    receiver->feedback = (Feedback){.interval_ms = config->status_interval_ms,
                                    .flush_lag_ms = config->flush_lag_ms,
                                    .silence_limit_ms = config->silence_limit_ms};
    segmenter_start(&receiver->segmenter, config->timeline, config->start);
    feedback_start(&receiver->feedback, config->start, 0, clock_ms());
    show_position(receiver);
    return receiver;
}

void
wal_receiver_stop_at(WalReceiver *receiver, Lsn lsn)
{
    atomic_store(&receiver->stop_at, lsn);
    bell_ring(&receiver->bell);
}

Lsn
wal_receiver_position(const WalReceiver *receiver)
{
    return atomic_load(&receiver->position);
}

TimeLineID
wal_receiver_timeline(const WalReceiver *receiver)
{
    return atomic_load(&receiver->timeline);
}

WalReceiverView
wal_receiver_view(const WalReceiver *receiver)
{
    return (WalReceiverView){.streaming = atomic_load(&receiver->streaming),
                             .timeline = atomic_load(&receiver->timeline),
                             .received = atomic_load(&receiver->position),
                             .written = atomic_load(&receiver->written),
                             .flushed = atomic_load(&receiver->flushed),
                             .server_end = atomic_load(&receiver->server_end),
                             .heard_ms = atomic_load(&receiver->heard_ms),
                             .beats = atomic_load(&receiver->beats)};
}

void
wal_receiver_free(WalReceiver *receiver)
{
    if (receiver == NULL)
        return;
    conn_free(receiver->config.conn);
    sink_free(receiver->config.sink);
    wal_tail_free(receiver->config.tail);
    if (receiver->config.durable != NULL)
        receiver->config.durable->bell = NULL;
    bell_destroy(&receiver->bell);
    free(receiver->slot);
    free(receiver);
}
