/*
 * Progress for programs: one JSON object per line, described in docs/progress.md. Pure.
 *
 * Each function appends one line with its newline. Texts and paths may hold any bytes: what is no
 * UTF-8 becomes U+FFFD, and a path is then given in hexadecimal too.
 */
#ifndef PGSTOW_PROGRESS_JSON_H
#define PGSTOW_PROGRESS_JSON_H

#include "cmd/progress_text.h"

#define PROGRESS_JSON_VERSION 1

bool json_waiting(Buf *line, Error *err) MUST_USE;
bool json_begin(const BackupBegin *begin, Buf *line, Error *err) MUST_USE;
bool json_progress(const BackupProgress *progress, const Speed *speed, Buf *line,
                   Error *err) MUST_USE;
bool json_problem(const Problem *problem, Buf *line, Error *err) MUST_USE;
bool json_end(const BackupSummary *summary, Buf *line, Error *err) MUST_USE;

/* `signo`: the signal that ended the run, or 0. */
bool json_error(const Error *failure, int signo, Buf *line, Error *err) MUST_USE;

#endif
