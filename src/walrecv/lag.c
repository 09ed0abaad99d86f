/*
 * How old the oldest WAL is that is not flushed yet. A sample says: from that moment on the server
 * had WAL up to here. The first one beyond what is flushed is the answer.
 *
 * There is room for few samples and no end of messages. When all are taken, two neighbours become
 * one, with the time of the earlier and the end of the later: where that blurs least. So they stay
 * spread over the time that counts, and what they tell is exact at their ends, and never too little
 * in between.
 */
#include <string.h>

#include "walrecv/walrecv.h"

static void
remove_sample(WalLag *lag, size_t index)
{
    lag->count--;
    memmove(&lag->samples[index], &lag->samples[index + 1],
            (lag->count - index) * sizeof lag->samples[0]);
}

/* The time over which the sample at `index` and the next one would stand as one. */
static int64_t
joint_span(const WalLag *lag, size_t index, int64_t now_ms)
{
    int64_t end = index + 2 < lag->count ? lag->samples[index + 2].ms : now_ms;

    return end - lag->samples[index].ms;
}

static void
join_two(WalLag *lag, int64_t now_ms)
{
    size_t best = 0;

    for (size_t i = 1; i + 1 < lag->count; i++) {
        if (joint_span(lag, i, now_ms) < joint_span(lag, best, now_ms))
            best = i;
    }
    lag->samples[best].end = lag->samples[best + 1].end;
    remove_sample(lag, best + 1);
}

void
wal_lag_note(WalLag *lag, Lsn server_end, int64_t now_ms)
{
    WalLagSample *last = lag->count > 0 ? &lag->samples[lag->count - 1] : NULL;

    if (last != NULL && server_end <= last->end)
        return;
    if (last != NULL && now_ms <= last->ms) {
        last->end = server_end;
        return;
    }
    if (lag->count == WAL_LAG_SAMPLES)
        join_two(lag, now_ms);
    lag->samples[lag->count++] = (WalLagSample){.end = server_end, .ms = now_ms};
}

int64_t
wal_lag_ms(WalLag *lag, Lsn flushed, int64_t now_ms)
{
    while (lag->count > 0 && lag->samples[0].end <= flushed)
        remove_sample(lag, 0);
    if (lag->count == 0 || now_ms < lag->samples[0].ms)
        return 0;
    return now_ms - lag->samples[0].ms;
}
