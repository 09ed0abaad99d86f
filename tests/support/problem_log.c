#include "support/problem_log.h"

#include <stdlib.h>

static const char *const kinds[] = {
    [PROBLEM_MISSING] = "MISSING",
    [PROBLEM_EXTRA] = "EXTRA",
    [PROBLEM_SIZE] = "SIZE",
    [PROBLEM_CHECKSUM] = "CHECKSUM",
    [PROBLEM_UNREADABLE] = "UNREADABLE",
    [PROBLEM_FILE_TYPE] = "FILE_TYPE",
    [PROBLEM_SYSTEM_ID] = "SYSTEM_ID",
    [PROBLEM_CONTROL] = "CONTROL",
    [PROBLEM_PAGE] = "PAGE",
    [PROBLEM_PAGE_CHANGED] = "PAGE_CHANGED",
    [PROBLEM_WAL] = "WAL",
    [PROBLEM_DIRECTORY] = "DIRECTORY",
    [PROBLEM_PAGE_DIGESTS] = "PAGE_DIGESTS",
};

static bool
log_report(void *ctx, const Problem *problem)
{
    ProblemLog *log = ctx;
    Error err = ERROR_INIT;

    if (!buf_printf(&log->text, &err, "%s %s", kinds[problem->kind], problem->path) ||
        (problem->kind == PROBLEM_WAL &&
         !buf_printf(&log->text, &err, " " LSN_FORMAT, LSN_ARGS(problem->lsn))) ||
        !buf_printf(&log->text, &err, ": %s\n", problem->message))
        abort();
    log->count++;
    return log->limit == 0 || log->count < log->limit;
}

ProblemSink
problem_log_sink(ProblemLog *log)
{
    return (ProblemSink){.report = log_report, .ctx = log};
}

const char *
problem_log_text(const ProblemLog *log)
{
    return buf_text(&log->text);
}

void
problem_log_free(ProblemLog *log)
{
    buf_free(&log->text);
}
