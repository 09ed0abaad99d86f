/*
 * What a verification comes to, for programs and in words. Pure.
 *
 * For programs: one JSON document, described in docs/formats.md. It is made piece by piece, so that
 * it takes no memory however many problems there are: after each piece the buffer may be written
 * out and cleared. Whatever happens, a document that was begun must be ended.
 */
#ifndef PGSTOW_VERIFYBACKUP_REPORT_H
#define PGSTOW_VERIFYBACKUP_REPORT_H

#include "cmd/json_line.h"
#include "cmd/rate.h"
#include "verify/verify.h"

#define REPORT_JSON_VERSION 1

typedef enum VerifyTarget {
    TARGET_AS_FOUND, /* a backup, of which the format is not known yet */
    TARGET_PLAIN,
    TARGET_TAR,
    TARGET_CLUSTER /* no backup, but a data directory whose server does not run */
} VerifyTarget;

typedef struct ReportHead {
    const char *version; /* of the program */
    const char *directory;
    VerifyTarget target;
} ReportHead;

typedef struct ReportEnd {
    const Error *failure;         /* NULL: all was looked at */
    const VerifySummary *summary; /* unless it failed */
    uint64_t problems;
    int64_t elapsed_ms;
} ReportEnd;

/* `report` becomes the document; the pieces are appended to `buf`. Each piece has whole lines. */
bool report_json_begin(JsonLine *report, const ReportHead *head, Buf *buf, Error *err) MUST_USE;
bool report_json_problem(JsonLine *report, const Problem *problem) MUST_USE;
bool report_json_end(JsonLine *report, const ReportEnd *end) MUST_USE;

/* "12345/23456 kB (52%) verified", as pg_verifybackup writes it, and the speed. Appended, without
 * an end of line; the same goes for the others. */
bool report_progress(const VerifyProgress *progress, const Speed *speed, Buf *line,
                     Error *err) MUST_USE;

/* "checked 970 files (22614 kB), 2790 data pages, 16384 kB of WAL in 0.3 s (75.4 MB/s)" */
bool report_summary(const VerifySummary *summary, int64_t elapsed_ms, Buf *line,
                    Error *err) MUST_USE;

/* Of a cluster: the lines of pg_checksums. */
bool report_pages_text(const VerifySummary *summary, Buf *text, Error *err) MUST_USE;

#endif
