/*
 * When to send a status message, and what it may say.
 *
 * The server gets a status at the interval, when it asks, and when the durable mark has moved. When
 * it asks, what has been received is flushed for it: a server that shuts down waits until all that
 * it sent is reported as flushed. The reply goes out at once with what is durable so far, and
 * another status follows when the flush has come through. Nothing wakes the receiver at that
 * moment, so that it looks every 100 ms, only while such a flush is under way, and not for ever: a
 * sink may never sync.
 *
 * A durable mark carries no timeline and never moves back. After a switch the stream starts over at
 * the beginning of a segment, perhaps below the mark: a mark that was reached on the old timeline
 * says nothing about the new one. Only a mark beyond all that was received before does.
 */
#include "walrecv/internal.h"

void
feedback_start(Feedback *feedback, Lsn start, Lsn old_end)
{
    Lsn highest = old_end > feedback->old_end ? old_end : feedback->old_end;

    *feedback =
        (Feedback){.interval_ms = feedback->interval_ms, .stream_start = start, .old_end = highest};
}

Lsn
feedback_flushed(const Feedback *feedback, Lsn mark)
{
    if (mark > feedback->old_end || mark < feedback->stream_start)
        return mark;
    return feedback->stream_start;
}

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
    int64_t left = current_interval(feedback, view) - (view->now_ms - feedback->sent_ms);

    return feedback->sent && left > 0 ? left : 0;
}

bool
feedback_due(const Feedback *feedback, const FeedbackView *view)
{
    bool wanted = feedback->interval_ms > 0 || feedback->flush_target != 0;

    if (feedback->reply_owed)
        return true;
    if (wanted && view->flushed > feedback->sent_flushed)
        return true;
    return current_interval(feedback, view) > 0 && interval_left(feedback, view) == 0;
}

bool
feedback_wants_flush(const Feedback *feedback, const FeedbackView *view)
{
    return feedback->reply_owed && view->written > view->flushed &&
           view->written > feedback->flush_target;
}

void
feedback_note_flush(Feedback *feedback, const FeedbackView *view)
{
    feedback->flush_target = view->written;
    feedback->flush_ms = view->now_ms;
}

void
feedback_note_sent(Feedback *feedback, const FeedbackView *view)
{
    feedback->reply_owed = false;
    feedback->sent = true;
    feedback->sent_ms = view->now_ms;
    feedback->sent_flushed = view->flushed;
    if (view->flushed >= feedback->flush_target)
        feedback->flush_target = 0;
}

int64_t
feedback_wait_ms(const Feedback *feedback, const FeedbackView *view)
{
    int64_t wait = FEEDBACK_HEARTBEAT_MS;
    bool flushing = feedback->flush_target != 0 &&
                    view->now_ms - feedback->flush_ms < FEEDBACK_FLUSH_PATIENCE_MS;

    if (flushing)
        wait = FEEDBACK_FLUSH_POLL_MS;
    if (feedback->interval_ms > 0 && interval_left(feedback, view) < wait)
        wait = interval_left(feedback, view);
    return wait;
}
