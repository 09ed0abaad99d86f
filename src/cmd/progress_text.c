#include "cmd/progress_text.h"

#include <stdio.h>
#include <string.h>

#define KB ((uint64_t)1024)
#define MB (KB * 1024)

#define SAMPLE_STEP_MS 1000
#define FILE_WIDTH     35

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

static uint64_t
per_second(uint64_t bytes, int64_t ms)
{
    return (uint64_t)((double)bytes * 1000.0 / (double)ms);
}

bool
rate_get(const Rate *rate, uint64_t *ret_rate)
{
    const RateSample *begin = window_begin(rate);

    if (begin == NULL || rate->latest.at_ms - begin->at_ms < SAMPLE_STEP_MS)
        return false;
    *ret_rate = per_second(rate->latest.bytes - begin->bytes, rate->latest.at_ms - begin->at_ms);
    return true;
}

/* From the first report on: what was waited before, for the checkpoint, is no transfer. */
static Speed
whole_speed(const Rate *rate)
{
    int64_t ms = rate->latest.at_ms - rate->first.at_ms;

    if (ms < SAMPLE_STEP_MS)
        return (Speed){.known = false};
    return (Speed){.known = true, .rate = per_second(rate->latest.bytes - rate->first.bytes, ms)};
}

Speed
progress_speed(const Rate *rate, const BackupProgress *progress)
{
    Speed speed = {.known = false};

    if (progress->finished)
        return whole_speed(rate);
    speed.known = rate_get(rate, &speed.rate);
    /* Nobody knows the rest of what is more than was estimated. */
    speed.left_known = speed.known && speed.rate > 0 && progress->done < progress->total;
    if (speed.left_known)
        speed.left = (progress->total - progress->done + speed.rate - 1) / speed.rate;
    return speed;
}

int
progress_percent(const BackupProgress *progress)
{
    uint64_t done = progress->done / KB;
    uint64_t total = progress->total / KB;

    if (progress->finished)
        return 100;
    if (total == 0)
        return 0;
    return done >= total ? 100 : (int)(done * 100 / total);
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

static bool
is_continuation(char c)
{
    return ((unsigned char)c & 0xC0) == 0x80;
}

size_t
text_columns(const char *text)
{
    size_t columns = 0;

    for (; *text != '\0'; text++)
        columns += is_continuation(*text) ? 0 : 1;
    return columns;
}

void
text_cut(Buf *text, size_t columns)
{
    for (size_t at = 0; at < text->len; at++) {
        if (is_continuation((char)text->data[at]) || columns-- > 0)
            continue;
        text->data[at] = '\0';
        text->len = at;
    }
}

/* The last `room` columns of a path that has `columns` of them. */
static const char *
path_tail(const char *path, size_t columns, size_t room)
{
    for (; columns > room; path++)
        columns -= is_continuation(*path) ? 0 : 1;
    while (is_continuation(*path))
        path++;
    return path;
}

/* " (...the end of a long path)", as wide for every path, so that what is behind it stays put. */
static bool
append_file(const char *path, Buf *line, Error *err)
{
    size_t columns = text_columns(path);
    bool cut = columns > FILE_WIDTH;
    size_t begin = line->len;

    if (!(cut ? buf_printf(line, err, " (...%s)", path_tail(path, columns, FILE_WIDTH - 3))
              : buf_printf(line, err, " (%s%*s)", path, (int)(FILE_WIDTH - columns), "")))
        return false;
    /* The server names these files: what moves the cursor must not reach the terminal. */
    for (size_t i = begin; i < line->len; i++) {
        if (line->data[i] < 0x20 || line->data[i] == 0x7F)
            line->data[i] = '?';
    }
    return true;
}

static bool
append_speed(const Speed *speed, Buf *line, Error *err)
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

bool
progress_line(const BackupProgress *progress, const Speed *speed, bool with_file, Buf *line,
              Error *err)
{
    char total[32];

    (void)snprintf(total, sizeof total, "%llu", (unsigned long long)(progress->total / KB));
    return buf_printf(line, err, "%*llu/%s kB (%d%%), %zu/%zu tablespace%s", (int)strlen(total),
                      (unsigned long long)(progress->done / KB), total, progress_percent(progress),
                      progress->tablespace, progress->tablespace_count,
                      progress->tablespace_count == 1 ? "" : "s") &&
           (!with_file || progress->current == NULL || append_file(progress->current, line, err)) &&
           append_speed(speed, line, err);
}

/* ---- the end ---- */

static bool
append_amount(const BackupSummary *summary, int64_t transfer_ms, Buf *line, Error *err)
{
    char time[TIME_TEXT_SIZE];
    char rate[SPEED_TEXT_SIZE];

    if (!buf_printf(line, err, "received %llu kB", (unsigned long long)(summary->received / KB)))
        return false;
    if (summary->wal_received > 0 && !buf_printf(line, err, " and %llu kB of WAL",
                                                 (unsigned long long)(summary->wal_received / KB)))
        return false;
    if (summary->elapsed_ms < 60000)
        (void)snprintf(time, sizeof time, "%.1f s", (double)summary->elapsed_ms / 1000.0);
    else
        time_text((uint64_t)summary->elapsed_ms / 1000, time);
    if (transfer_ms <= 0)
        return buf_printf(line, err, " in %s", time);
    speed_text(per_second(summary->received, transfer_ms), rate);
    return buf_printf(line, err, " in %s (%s)", time, rate);
}

static bool
append_pages(const BackupSummary *summary, const char *separator, Buf *line, Error *err)
{
    if (!buf_printf(line, err, "%s%llu data page%s", separator, (unsigned long long)summary->pages,
                    summary->pages == 1 ? "" : "s"))
        return false;
    return summary->bad_pages == 0 ||
           buf_printf(line, err, " (%llu bad)", (unsigned long long)summary->bad_pages);
}

static bool
append_checks(const BackupSummary *summary, Buf *line, Error *err)
{
    bool nothing = !summary->manifest_checked && !summary->pages_checked && !summary->wal_checked;
    const char *separator = ": ";

    if (nothing)
        return buf_printf(line, err, "; nothing verified");
    if (!buf_printf(line, err, "; verified"))
        return false;
    if (summary->manifest_checked) {
        if (!buf_printf(line, err, "%s%llu file%s against the manifest", separator,
                        (unsigned long long)summary->files, summary->files == 1 ? "" : "s"))
            return false;
        separator = ", ";
    }
    if (summary->pages_checked) {
        if (!append_pages(summary, separator, line, err))
            return false;
        separator = ", ";
    }
    return !summary->wal_checked || buf_printf(line, err, "%sWAL", separator);
}

bool
summary_line(const BackupSummary *summary, int64_t transfer_ms, Buf *line, Error *err)
{
    if (summary->elsewhere)
        return buf_printf(line, err,
                          "the backup went to the target, nothing of it came here: write-ahead "
                          "log " LSN_FORMAT " to " LSN_FORMAT " on timeline %u",
                          LSN_ARGS(summary->start), LSN_ARGS(summary->end), summary->timeline);
    return append_amount(summary, transfer_ms, line, err) &&
           buf_printf(line, err,
                      ", write-ahead log " LSN_FORMAT " to " LSN_FORMAT " on timeline %u",
                      LSN_ARGS(summary->start), LSN_ARGS(summary->end), summary->timeline) &&
           append_checks(summary, line, err) &&
           buf_printf(line, err, "; %s", summary->durable ? "on disk" : "not synced to disk");
}
