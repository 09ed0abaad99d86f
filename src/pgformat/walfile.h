/*
 * Names and places of WAL segments (PostgreSQL: src/include/access/xlog_internal.h).
 *
 * A segment's name is timeline, log file and segment in it, as three times eight upper-case hex
 * digits; a log file holds 4 GiB / segment size segments. Segment sizes are powers of two, 1 MiB to
 * 1 GiB. Pure.
 */
#ifndef PGSTOW_WALFILE_H
#define PGSTOW_WALFILE_H

#include <stdbool.h>
#include <stdint.h>

#include "common/pgtypes.h"

#define WAL_NAME_SIZE 32 /* room for "%08X%08X%08X" and "%08X.history" */

#define WAL_SEGMENT_SIZE_MIN (1u << 20)
#define WAL_SEGMENT_SIZE_MAX (1u << 30)

bool wal_segment_size_valid(uint64_t size);

/* Number of the segment that holds `lsn`, first LSN of a segment, offset of `lsn` in its
 * segment. */
uint64_t wal_segment_number(Lsn lsn, uint32_t segment_size);
Lsn wal_segment_start(uint64_t number, uint32_t segment_size);
uint32_t wal_segment_offset(Lsn lsn, uint32_t segment_size);

void wal_segment_name(char name[WAL_NAME_SIZE], TimeLineID timeline, uint64_t number,
                      uint32_t segment_size);
void wal_history_name(char name[WAL_NAME_SIZE], TimeLineID timeline);

/* Strict: exactly 24 upper-case hex digits, a timeline other than 0, a segment that exists with
 * this size. */
bool wal_segment_parse(const char *name, uint32_t segment_size, TimeLineID *ret_timeline,
                       uint64_t *ret_number);

/* Strict: "XXXXXXXX.history". */
bool wal_history_parse(const char *name, TimeLineID *ret_timeline);

#endif
