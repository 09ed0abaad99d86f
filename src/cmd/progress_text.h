/*
 * The progress of a backup in words: the lines of -P and -v. Pure.
 */
#ifndef PGSTOW_PROGRESS_TEXT_H
#define PGSTOW_PROGRESS_TEXT_H

#include "basebackup/basebackup.h"
#include "cmd/rate.h"

/* The present rate, and how long the rest takes at it; of the last report that of the whole. */
Speed progress_speed(const Rate *rate, const BackupProgress *progress);

/* How much of the estimate has arrived, from 0 to 100; 0 without an estimate. */
int progress_percent(const BackupProgress *progress);

/*
 * "  12345/23456 kB (52%), 0/1 tablespace (/backup/monday), 118.2 MB/s, 0:42 left": up to the speed
 * as pg_basebackup writes it; `with_file`: as with its -v. Appended, without an end of line.
 */
bool progress_line(const BackupProgress *progress, const Speed *speed, bool with_file, Buf *line,
                   Error *err) MUST_USE;

/*
 * The whole backup in one line, for the end. `transfer_ms`: how long bytes have been coming,
 * without the checkpoint before and the syncing behind; 0: unknown. Appended, without an end of
 * line.
 */
bool summary_line(const BackupSummary *summary, int64_t transfer_ms, Buf *line,
                  Error *err) MUST_USE;

#endif
