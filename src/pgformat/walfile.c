#include "pgformat/walfile.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "common/bytes.h"

/* Segments are numbered through; in names the number is split at every 4 GiB of WAL. */
#define LOG_FILE_SIZE ((uint64_t)1 << 32)

bool
wal_segment_size_valid(uint64_t size)
{
    return size >= WAL_SEGMENT_SIZE_MIN && size <= WAL_SEGMENT_SIZE_MAX && (size & (size - 1)) == 0;
}

uint64_t
wal_segment_number(Lsn lsn, uint32_t segment_size)
{
    assert(wal_segment_size_valid(segment_size));
    return lsn / segment_size;
}

Lsn
wal_segment_start(uint64_t number, uint32_t segment_size)
{
    assert(wal_segment_size_valid(segment_size));
    return number * segment_size;
}

uint32_t
wal_segment_offset(Lsn lsn, uint32_t segment_size)
{
    assert(wal_segment_size_valid(segment_size));
    return (uint32_t)(lsn % segment_size);
}

void
wal_segment_name(char name[WAL_NAME_SIZE], TimeLineID timeline, uint64_t number,
                 uint32_t segment_size)
{
    uint64_t per_log;

    assert(wal_segment_size_valid(segment_size));
    per_log = LOG_FILE_SIZE / segment_size;
    (void)snprintf(name, WAL_NAME_SIZE, "%08X%08X%08X", timeline, (uint32_t)(number / per_log),
                   (uint32_t)(number % per_log));
}

void
wal_history_name(char name[WAL_NAME_SIZE], TimeLineID timeline)
{
    (void)snprintf(name, WAL_NAME_SIZE, "%08X.history", timeline);
}

/* Eight upper-case hex digits; reads no further than the first character that is none. */
static bool
hex8_parse(const char *text, uint32_t *ret_value)
{
    uint32_t value = 0;

    for (int i = 0; i < 8; i++) {
        if (hex_digit(text[i]) < 0 || text[i] >= 'a')
            return false;
        value = value << 4 | (uint32_t)hex_digit(text[i]);
    }
    *ret_value = value;
    return true;
}

bool
wal_segment_parse(const char *name, uint32_t segment_size, TimeLineID *ret_timeline,
                  uint64_t *ret_number)
{
    uint64_t per_log;
    uint32_t timeline;
    uint32_t log;
    uint32_t segment;

    assert(wal_segment_size_valid(segment_size));
    per_log = LOG_FILE_SIZE / segment_size;
    if (!hex8_parse(name, &timeline) || !hex8_parse(name + 8, &log) ||
        !hex8_parse(name + 16, &segment) || name[24] != '\0')
        return false;
    if (timeline == 0 || segment >= per_log)
        return false;
    *ret_timeline = timeline;
    *ret_number = log * per_log + segment;
    return true;
}

bool
wal_history_parse(const char *name, TimeLineID *ret_timeline)
{
    uint32_t timeline;

    if (!hex8_parse(name, &timeline) || strcmp(name + 8, ".history") != 0 || timeline == 0)
        return false;
    *ret_timeline = timeline;
    return true;
}
