#include "cmd/rate.h"

#include <stdio.h>

#define KB ((uint64_t)1024)
#define MB (KB * 1024)

#define SAMPLE_STEP_MS 1000
#define MINUTE_MS      60000

/* ---- how fast ---- */

void
rate_add(Rate *rate, int64_t at_ms, uint64_t bytes)
{
    const RateSample *newest = &rate->samples[(rate->count + RATE_SAMPLES - 1) % RATE_SAMPLES];

    rate->latest = (RateSample){.at_ms = at_ms, .bytes = bytes};
    if (rate->count == 0)
        rate->first = rate->latest;
    /* Reports come in bursts when an archive ends: they must not push the past out of the ring. */
    if (rate->count > 0 && at_ms - newest->at_ms < SAMPLE_STEP_MS)
        return;
    rate->samples[rate->count % RATE_SAMPLES] = rate->latest;
    rate->count++;
}

/* The oldest sample of the window. When all are older, nothing came for that long: the newest one
 * that is not the latest itself. */
static const RateSample *
window_begin(const Rate *rate)
{
    size_t kept = rate->count < RATE_SAMPLES ? rate->count : RATE_SAMPLES;
    const RateSample *last = NULL;

    for (size_t i = rate->count - kept; i < rate->count; i++) {
        const RateSample *sample = &rate->samples[i % RATE_SAMPLES];

        if (sample->at_ms == rate->latest.at_ms)
            break;
        last = sample;
        if (rate->latest.at_ms - sample->at_ms <= RATE_WINDOW_MS)
            break;
    }
    return last;
}

uint64_t
rate_per_second(uint64_t bytes, int64_t ms)
{
    return (uint64_t)((double)bytes * 1000.0 / (double)ms);
}

bool
rate_get(const Rate *rate, uint64_t *ret_rate)
{
    const RateSample *begin = window_begin(rate);

    if (begin == NULL || rate->latest.at_ms - begin->at_ms < SAMPLE_STEP_MS)
        return false;
    *ret_rate =
        rate_per_second(rate->latest.bytes - begin->bytes, rate->latest.at_ms - begin->at_ms);
    return true;
}

Speed
rate_present(const Rate *rate, uint64_t done, uint64_t total)
{
    Speed speed = {.known = false};

    speed.known = rate_get(rate, &speed.rate);
    /* Nobody knows the rest of what is more than was estimated. */
    speed.left_known = speed.known && speed.rate > 0 && done < total;
    if (speed.left_known)
        speed.left = (total - done + speed.rate - 1) / speed.rate;
    return speed;
}

/* From the first report on: what was waited before, for a checkpoint, is no transfer. */
Speed
rate_of_whole(const Rate *rate)
{
    int64_t ms = rate->latest.at_ms - rate->first.at_ms;

    if (ms < SAMPLE_STEP_MS)
        return (Speed){.known = false};
    return (Speed){.known = true,
                   .rate = rate_per_second(rate->latest.bytes - rate->first.bytes, ms)};
}

/* ---- in words ---- */

void
speed_text(uint64_t rate, char text[SPEED_TEXT_SIZE])
{
    if (rate < MB)
        (void)snprintf(text, SPEED_TEXT_SIZE, "%llu kB/s", (unsigned long long)(rate / KB));
    else
        (void)snprintf(text, SPEED_TEXT_SIZE, "%.1f MB/s", (double)rate / (double)MB);
}

void
time_text(uint64_t seconds, char text[TIME_TEXT_SIZE])
{
    unsigned long long hours = seconds / 3600;
    unsigned minutes = (unsigned)(seconds / 60 % 60);
    unsigned rest = (unsigned)(seconds % 60);

    if (hours > 0)
        (void)snprintf(text, TIME_TEXT_SIZE, "%llu:%02u:%02u", hours, minutes, rest);
    else
        (void)snprintf(text, TIME_TEXT_SIZE, "%u:%02u", minutes, rest);
}

void
duration_text(int64_t ms, char text[TIME_TEXT_SIZE])
{
    if (ms < MINUTE_MS)
        (void)snprintf(text, TIME_TEXT_SIZE, "%.1f s", (double)ms / 1000.0);
    else
        time_text((uint64_t)ms / 1000, text);
}

bool
speed_append(const Speed *speed, Buf *line, Error *err)
{
    char rate[SPEED_TEXT_SIZE];
    char left[TIME_TEXT_SIZE];

    if (!speed->known)
        return true;
    speed_text(speed->rate, rate);
    if (!speed->left_known)
        return buf_printf(line, err, ", %s", rate);
    time_text(speed->left, left);
    return buf_printf(line, err, ", %s, %s left", rate, left);
}
