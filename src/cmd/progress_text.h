/*
 * Progress in words: rates, times and the lines that are made of them. Pure.
 *
 * Kilobytes and megabytes are those of the stock tools: 1024 and 1024 * 1024 bytes.
 */
#ifndef PGSTOW_PROGRESS_TEXT_H
#define PGSTOW_PROGRESS_TEXT_H

#include "basebackup/basebackup.h"

/* ---- how fast ---- */

#define RATE_WINDOW_MS 10000
#define RATE_SAMPLES   11

/*
 * Bytes per second over the last RATE_WINDOW_MS, so that it follows what happens now without
 * jumping from one second to the next. Starts as all zero.
 */
typedef struct RateSample {
    int64_t at_ms;
    uint64_t bytes;
} RateSample;

typedef struct Rate {
    RateSample samples[RATE_SAMPLES]; /* a ring, at least a second apart */
    size_t count;                     /* of all that were ever taken */
    RateSample first;
    RateSample latest;
} Rate;

/* `bytes` in all have passed at `at_ms`; neither ever becomes less. */
void rate_add(Rate *rate, int64_t at_ms, uint64_t bytes);

/* Bytes per second; false while less than a second has been seen. */
bool rate_get(const Rate *rate, uint64_t *ret_rate);

/* What can be said about speed. */
typedef struct Speed {
    bool known;
    uint64_t rate; /* bytes per second */
    bool left_known;
    uint64_t left; /* seconds */
} Speed;

/* The present rate, and how long the rest takes at it; of the last report that of the whole. */
Speed progress_speed(const Rate *rate, const BackupProgress *progress);

/* How much of the estimate has arrived, from 0 to 100; 0 without an estimate. */
int progress_percent(const BackupProgress *progress);

/* ---- in words ---- */

#define SPEED_TEXT_SIZE 32
#define TIME_TEXT_SIZE  32

/* "512 kB/s", "118.2 MB/s". */
void speed_text(uint64_t rate, char text[SPEED_TEXT_SIZE]);

/* "0:42", "1:02:03". */
void time_text(uint64_t seconds, char text[TIME_TEXT_SIZE]);

/*
 * "  12345/23456 kB (52%), 0/1 tablespace (/backup/monday), 118.2 MB/s, 0:42 left": up to the speed
 * as pg_basebackup writes it; `with_file`: as with its -v. Appended, without an end of line.
 */
bool progress_line(const BackupProgress *progress, const Speed *speed, bool with_file, Buf *line,
                   Error *err) MUST_USE;

/* How wide UTF-8 text comes out on a terminal; all characters count as one column. */
size_t text_columns(const char *text);

/* Cut UTF-8 text behind this many columns. */
void text_cut(Buf *text, size_t columns);

/*
 * The whole backup in one line, for the end. `transfer_ms`: how long bytes have been coming,
 * without the checkpoint before and the syncing behind; 0: unknown. Appended, without an end of
 * line.
 */
bool summary_line(const BackupSummary *summary, int64_t transfer_ms, Buf *line,
                  Error *err) MUST_USE;

#endif
