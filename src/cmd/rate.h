/*
 * How fast bytes pass, how long the rest will take, and both in words. Pure.
 *
 * Kilobytes and megabytes are those of the stock tools: 1024 and 1024 * 1024 bytes.
 */
#ifndef PGSTOW_RATE_H
#define PGSTOW_RATE_H

#include "common/bytes.h"

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

uint64_t rate_per_second(uint64_t bytes, int64_t ms);

/* What can be said about speed. */
typedef struct Speed {
    bool known;
    uint64_t rate; /* bytes per second */
    bool left_known;
    uint64_t left; /* seconds */
} Speed;

/* The present rate, and how long the rest of `total` takes at it. */
Speed rate_present(const Rate *rate, uint64_t done, uint64_t total);

/* From the first report to the latest one, of which nothing is left. */
Speed rate_of_whole(const Rate *rate);

/* ---- in words ---- */

#define SPEED_TEXT_SIZE 32
#define TIME_TEXT_SIZE  32

/* "512 kB/s", "118.2 MB/s". */
void speed_text(uint64_t rate, char text[SPEED_TEXT_SIZE]);

/* "0:42", "1:02:03". */
void time_text(uint64_t seconds, char text[TIME_TEXT_SIZE]);

/* "6.4 s"; from a minute on as time_text. */
void duration_text(int64_t ms, char text[TIME_TEXT_SIZE]);

/* Appends ", 118.2 MB/s, 0:42 left", as far as it is known. */
bool speed_append(const Speed *speed, Buf *line, Error *err) MUST_USE;

#endif
