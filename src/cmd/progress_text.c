#include "cmd/progress_text.h"

#include <stdio.h>
#include <string.h>

#include "cmd/terminal_line.h"

#define KB ((uint64_t)1024)

#define FILE_WIDTH 35

Speed
progress_speed(const Rate *rate, const BackupProgress *progress)
{
    return progress->finished ? rate_of_whole(rate)
                              : rate_present(rate, progress->done, progress->total);
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

/* " (...the end of a long path)", as wide for every path, so that what is behind it stays put. */
static bool
append_file(const char *path, Buf *line, Error *err)
{
    size_t columns = text_columns(path);
    bool cut = columns > FILE_WIDTH;
    size_t begin = line->len;

    if (!(cut ? buf_printf(line, err, " (...%s)", text_tail(path, FILE_WIDTH - 3))
              : buf_printf(line, err, " (%s%*s)", path, (int)(FILE_WIDTH - columns), "")))
        return false;
    /* The server names these files: what moves the cursor must not reach the terminal. */
    for (size_t i = begin; i < line->len; i++) {
        if (line->data[i] < 0x20 || line->data[i] == 0x7F)
            line->data[i] = '?';
    }
    return true;
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
           speed_append(speed, line, err);
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
    duration_text(summary->elapsed_ms, time);
    if (transfer_ms <= 0)
        return buf_printf(line, err, " in %s", time);
    speed_text(rate_per_second(summary->received, transfer_ms), rate);
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
