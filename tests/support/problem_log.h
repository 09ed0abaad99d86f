/*
 * A ProblemSink that writes down what it is told, one line per problem:
 *     SIZE base/1/1247: "base/1/1247" has size 3 on disk but size 8192 in the manifest
 *     WAL /tmp/x/pg_wal 0/2000028: WAL parsing failed for timeline 1: ...
 *
 * Running out of memory ends the test program.
 */
#ifndef PGSTOW_TESTS_PROBLEM_LOG_H
#define PGSTOW_TESTS_PROBLEM_LOG_H

#include "common/bytes.h"
#include "verify/verify.h"

typedef struct ProblemLog {
    Buf text;
    uint64_t count;
    uint64_t limit; /* set by the test: after that many it wants no more; 0: never */
} ProblemLog;

#define PROBLEM_LOG_INIT ((ProblemLog){.text = BUF_INIT})

ProblemSink problem_log_sink(ProblemLog *log);
const char *problem_log_text(const ProblemLog *log);
void problem_log_free(ProblemLog *log);

#endif
