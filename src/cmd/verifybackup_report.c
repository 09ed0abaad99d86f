#include "cmd/verifybackup_report.h"

#include <stdio.h>
#include <string.h>

#include "cmd/problem_kind.h"

#define KB ((uint64_t)1024)

/* ---- for programs ---- */

/* NULL: not known. */
static const char *
target_name(VerifyTarget target)
{
    switch (target) {
    case TARGET_AS_FOUND:
        break;
    case TARGET_PLAIN:
        return "plain";
    case TARGET_TAR:
        return "tar";
    case TARGET_CLUSTER:
        return "cluster";
    }
    return NULL;
}

bool
report_json_begin(JsonLine *report, const ReportHead *head, Buf *buf, Error *err)
{
    *report = json_line_begin(buf, err);
    json_put_number(report, "version", REPORT_JSON_VERSION);
    json_put_text(report, "pgstow_version", head->version);
    json_put_path(report, "directory", head->directory);
    json_put_text_or_null(report, "format", target_name(head->target));
    json_array_begin(report, "problems");
    return report->ok;
}

static void
put_digest(JsonLine *report, const char *key, Span digest)
{
    if (digest.len > 0)
        json_put_hex(report, key, digest);
    else
        json_put_null(report, key);
}

/* It is about one page. */
static bool
has_block(const Problem *problem)
{
    bool page = problem->kind == PROBLEM_PAGE || problem->kind == PROBLEM_PAGE_CHANGED;

    return page && problem->block != PROBLEM_WHOLE_FILE;
}

/* What it should be and what it is, for the kinds that know. */
static void
put_difference(JsonLine *report, const Problem *problem)
{
    bool numbers = problem->kind == PROBLEM_SIZE || has_block(problem);
    /* What is the same is no difference: it is not known. */
    bool known = numbers && problem->expected != problem->found;

    if (problem->kind == PROBLEM_CHECKSUM) {
        put_digest(report, "expected", problem->expected_digest);
        put_digest(report, "found", problem->found_digest);
    } else {
        json_put_number_if(report, "expected", known, problem->expected);
        json_put_number_if(report, "found", known, problem->found);
    }
}

bool
report_json_problem(JsonLine *report, const Problem *problem)
{
    bool wal = problem->kind == PROBLEM_WAL && problem->lsn != LSN_INVALID;

    json_element_begin(report);
    json_put_text(report, "kind", problem_kind_name(problem->kind));
    json_put_path(report, "path", problem->path);
    json_put_text(report, "message", problem->message);
    json_put_number_if(report, "block", has_block(problem), problem->block);
    if (wal)
        json_put_lsn(report, "lsn", problem->lsn);
    else
        json_put_null(report, "lsn");
    put_difference(report, problem);
    json_element_end(report);
    return report->ok;
}

static void
put_summary(JsonLine *report, const VerifySummary *summary, int64_t elapsed_ms)
{
    json_object_begin(report, "summary");
    json_put_number(report, "files", summary->files);
    json_put_number(report, "bytes", summary->bytes);
    json_put_number(report, "pages", summary->pages);
    json_put_number(report, "bad_pages", summary->bad_pages);
    json_put_bool(report, "has_pages", summary->has_pages);
    json_put_number(report, "wal_bytes", summary->wal_bytes);
    json_put_bool(report, "page_digests", summary->page_digests);
    json_put_number(report, "elapsed_ms", (uint64_t)elapsed_ms);
    json_object_end(report);
}

bool
report_json_end(JsonLine *report, const ReportEnd *end)
{
    const Error *failure = end->failure;
    bool hint = failure != NULL && failure->hint[0] != '\0';

    json_array_end(report);
    if (failure == NULL)
        put_summary(report, end->summary, end->elapsed_ms);
    else
        json_put_null(report, "summary");
    json_put_text_or_null(report, "error", failure == NULL ? NULL : failure->message);
    json_put_text_or_null(report, "hint", hint ? failure->hint : NULL);
    json_put_number(report, "problem_count", end->problems);
    json_put_text(report, "result",
                  failure != NULL     ? "error"
                  : end->problems > 0 ? "damaged"
                                      : "verified");
    return json_line_end(report);
}

/* ---- in words ---- */

bool
report_progress(const VerifyProgress *progress, const Speed *speed, Buf *line, Error *err)
{
    unsigned long long done = progress->done / KB;
    unsigned long long total = progress->total / KB;
    int percent = total == 0 ? 100 : (int)(done * 100 / total);
    char whole[32];

    (void)snprintf(whole, sizeof whole, "%llu", total);
    return buf_printf(line, err, "%*llu/%s kB (%d%%) verified", (int)strlen(whole), done, whole,
                      percent) &&
           speed_append(speed, line, err);
}

static bool
append_pages(const VerifySummary *summary, Buf *line, Error *err)
{
    if (!buf_printf(line, err, ", %llu data page%s", (unsigned long long)summary->pages,
                    summary->pages == 1 ? "" : "s"))
        return false;
    return summary->bad_pages == 0 ||
           buf_printf(line, err, " (%llu bad)", (unsigned long long)summary->bad_pages);
}

static bool
append_time(const VerifySummary *summary, int64_t elapsed_ms, Buf *line, Error *err)
{
    char time[TIME_TEXT_SIZE];
    char speed[SPEED_TEXT_SIZE];

    duration_text(elapsed_ms, time);
    if (elapsed_ms == 0)
        return buf_printf(line, err, " in %s", time);
    speed_text(rate_per_second(summary->bytes + summary->wal_bytes, elapsed_ms), speed);
    return buf_printf(line, err, " in %s (%s)", time, speed);
}

bool
report_summary(const VerifySummary *summary, int64_t elapsed_ms, Buf *line, Error *err)
{
    if (!buf_printf(line, err, "checked %llu file%s (%llu kB)", (unsigned long long)summary->files,
                    summary->files == 1 ? "" : "s", (unsigned long long)(summary->bytes / KB)))
        return false;
    if (summary->has_pages && !append_pages(summary, line, err))
        return false;
    if (summary->wal_bytes > 0 &&
        !buf_printf(line, err, ", %llu kB of WAL", (unsigned long long)(summary->wal_bytes / KB)))
        return false;
    return append_time(summary, elapsed_ms, line, err);
}

/* pg_checksums counts pages without content too, though there is nothing to check about them. */
bool
report_pages_text(const VerifySummary *summary, Buf *text, Error *err)
{
    uint64_t pages = summary->page_size == 0 ? 0 : summary->bytes / summary->page_size;

    return buf_printf(text, err,
                      "Checksum operation completed\n"
                      "Files scanned:   %llu\n"
                      "Blocks scanned:  %llu\n"
                      "Bad checksums:  %llu\n"
                      "Data checksum version: 1\n",
                      (unsigned long long)summary->files, (unsigned long long)pages,
                      (unsigned long long)summary->bad_pages);
}
