/*
 * When to send a status message, what it may say, and when to flush what was received.
 *
 * The server gets a status at the interval, when it asks, and when the durable mark has moved. When
 * it asks, what has been received is flushed for it: a server that shuts down waits until all that
 * it sent is reported as flushed. The reply goes out at once with what is durable so far, and
 * another status follows when the flush has come through.
 *
 * A synchronous receiver flushes all the time: one FLUSH is under way, and what comes meanwhile is
 * flushed together by the next one. Any other flushes what has become old.
 *
 * A server that has nothing to send says so from time to time. From one that does not, an answer is
 * asked for at half of the limit, as wal_receiver_timeout does.
 *
 * A mark carries no timeline and never moves back. After a switch the stream starts over at the
 * beginning of a segment, perhaps below the mark: a mark that was reached on the old timeline says
 * nothing about the new one. Only a mark beyond all that was received before does.
 */
#include "walrecv/internal.h"

void
feedback_start(Feedback *feedback, Lsn start, Lsn old_end, int64_t now_ms)
{
    Lsn highest = old_end > feedback->old_end ? old_end : feedback->old_end;

    *feedback = (Feedback){.interval_ms = feedback->interval_ms,
                           .flush_lag_ms = feedback->flush_lag_ms,
                           .silence_limit_ms = feedback->silence_limit_ms,
                           .heard_ms = now_ms,
                           .stream_start = start,
                           .old_end = highest};
}

Lsn
feedback_mark(const Feedback *feedback, Lsn mark)
{
    if (mark > feedback->old_end || mark < feedback->stream_start)
        return mark;
    return feedback->stream_start;
}

void
feedback_note_heard(Feedback *feedback, int64_t now_ms)
{
    feedback->heard_ms = now_ms;
    feedback->asked = false;
}

void
feedback_note_received(Feedback *feedback, int64_t now_ms)
{
    if (feedback->pending)
        return;
    feedback->pending = true;
    feedback->pending_ms = now_ms;
}

/* What is left, at `now`, of a time that began at `since`. */
static int64_t
time_left(int64_t time_ms, int64_t since_ms, int64_t now_ms)
{
    int64_t left = time_ms - (now_ms - since_ms);

    return left > 0 ? left : 0;
}

/* ---- status ---- */

/* The time between two statuses that nobody asked for; 0: there are none. */
static int64_t
current_interval(const Feedback *feedback, const FeedbackView *view)
{
    if (feedback->interval_ms == 0 && view->deaf)
        return FEEDBACK_DEAF_INTERVAL_MS;
    return feedback->interval_ms;
}

/* How long until the interval has passed. */
static int64_t
interval_left(const Feedback *feedback, const FeedbackView *view)
{
    if (!feedback->sent)
        return 0;
    return time_left(current_interval(feedback, view), feedback->sent_ms, view->now_ms);
}

bool
feedback_due(const Feedback *feedback, const FeedbackView *view)
{
    bool wanted = feedback->interval_ms > 0 || feedback->flush_target != 0;

    if (feedback->reply_owed || feedback_asks(feedback, view))
        return true;
    if (wanted && view->flushed > feedback->sent_flushed)
        return true;
    return current_interval(feedback, view) > 0 && interval_left(feedback, view) == 0;
}

void
feedback_note_sent(Feedback *feedback, const FeedbackView *view)
{
    feedback->asked |= feedback_asks(feedback, view);
    feedback->reply_owed = false;
    feedback->sent = true;
    feedback->sent_ms = view->now_ms;
    feedback->sent_flushed = view->flushed;
    if (view->flushed >= feedback->flush_target)
        feedback->flush_target = 0;
}

/* ---- flushes ---- */

/* There is something that no FLUSH was pushed for, and that nothing else has made durable. */
static bool
has_unflushed(const Feedback *feedback, const FeedbackView *view)
{
    return view->received > view->flushed && view->received > feedback->flush_target;
}

/* It will be flushed when it is old enough: not while another flush is under way. */
static bool
awaits_flush(const Feedback *feedback, const FeedbackView *view)
{
    return feedback->flush_lag_ms != 0 && feedback->pending && has_unflushed(feedback, view) &&
           feedback->flush_target <= view->flushed;
}

/* How long until it is. */
static int64_t
flush_left(const Feedback *feedback, const FeedbackView *view)
{
    if (feedback->flush_lag_ms != WAL_FLUSH_AT_ONCE)
        return time_left(feedback->flush_lag_ms, feedback->pending_ms, view->now_ms);
    return view->busy ? time_left(FEEDBACK_BREAK_MS, feedback->pending_ms, view->now_ms) : 0;
}

bool
feedback_wants_flush(const Feedback *feedback, const FeedbackView *view)
{
    if (feedback->reply_owed && has_unflushed(feedback, view))
        return true;
    return awaits_flush(feedback, view) && flush_left(feedback, view) == 0;
}

void
feedback_note_flush(Feedback *feedback, const FeedbackView *view)
{
    feedback->flush_target = view->received;
    feedback->pending = false;
}

/* ---- silence ---- */

bool
feedback_asks(const Feedback *feedback, const FeedbackView *view)
{
    return feedback->silence_limit_ms > 0 && !view->deaf && !feedback->asked &&
           time_left(feedback->silence_limit_ms / 2, feedback->heard_ms, view->now_ms) == 0;
}

bool
feedback_gives_up(const Feedback *feedback, const FeedbackView *view)
{
    return feedback->silence_limit_ms > 0 && !view->deaf && feedback->asked &&
           time_left(feedback->silence_limit_ms, feedback->heard_ms, view->now_ms) == 0;
}

/* How long until one of the two. */
static int64_t
silence_left(const Feedback *feedback, const FeedbackView *view)
{
    int64_t limit = feedback->asked ? feedback->silence_limit_ms : feedback->silence_limit_ms / 2;

    return time_left(limit, feedback->heard_ms, view->now_ms);
}

/* ---- waiting ---- */

int64_t
feedback_wait_ms(const Feedback *feedback, const FeedbackView *view)
{
    int64_t wait = FEEDBACK_HEARTBEAT_MS;

    if (feedback->interval_ms > 0 && interval_left(feedback, view) < wait)
        wait = interval_left(feedback, view);
    if (feedback->silence_limit_ms > 0 && silence_left(feedback, view) < wait)
        wait = silence_left(feedback, view);
    if (awaits_flush(feedback, view) && flush_left(feedback, view) < wait)
        wait = flush_left(feedback, view);
    return wait;
}
