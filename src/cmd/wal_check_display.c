/*
 * What a check of an archive shows: findings, progress and the last words on standard error, the
 * result or the report on standard output.
 *
 * When standard output cannot be written the check ends: nobody would learn what came of it.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "cmd/log.h"
#include "cmd/signals.h"
#include "cmd/wal_check_cmd.h"
#include "common/runtime.h"

#define PROGRESS_INTERVAL_MS 1000

#define KB ((uint64_t)1024)

void
wal_check_display_init(WalCheckDisplay *display, const WalCheckRequest *request)
{
    *display = (WalCheckDisplay){.request = request, .text = BUF_INIT, .begun_ms = clock_ms()};
    terminal_line_init(&display->line);
}

void
wal_check_display_free(WalCheckDisplay *display)
{
    buf_free(&display->text);
}

/* ---- standard output ---- */

static bool
write_text(WalCheckDisplay *display, bool made)
{
    Buf *text = &display->text;

    if (!made || display->output.code != ERR_NONE)
        return false;
    if (fwrite(buf_text(text), 1, text->len, stdout) != text->len || fflush(stdout) != 0)
        return error_set_errno(&display->output, errno, "could not write to standard output");
    buf_clear(text);
    return true;
}

static bool
begin_report(WalCheckDisplay *display)
{
    if (display->report_begun)
        return true;
    display->report_begun = true;
    display->report = json_line_begin(&display->text, &display->output);
    json_put_number(&display->report, "version", WAL_CHECK_JSON_VERSION);
    json_put_text(&display->report, "pgstow_version", PGSTOW_VERSION);
    json_put_path(&display->report, "directory", display->request->directory);
    json_array_begin(&display->report, "findings");
    return write_text(display, display->report.ok);
}

static void
put_lsn_or_null(JsonLine *report, const char *key, Lsn lsn)
{
    if (lsn == LSN_INVALID)
        json_put_null(report, key);
    else
        json_put_lsn(report, key, lsn);
}

static bool
report_finding(WalCheckDisplay *display, const ArchiveFinding *finding)
{
    JsonLine *report = &display->report;

    if (!begin_report(display))
        return false;
    json_element_begin(report);
    json_put_text(report, "kind", archive_finding_name(finding->kind));
    json_put_bool(report, "counts", archive_finding_counts(finding));
    json_put_path(report, "file", finding->file);
    json_put_number_if(report, "timeline", finding->timeline != 0, finding->timeline);
    put_lsn_or_null(report, "lsn", finding->lsn);
    put_lsn_or_null(report, "end", finding->end);
    json_put_text(report, "message", finding->message);
    json_put_text_or_null(report, "known_reason",
                          finding->gap == NULL ? NULL : finding->gap->reason);
    json_put_text_or_null(report, "known_since", finding->gap == NULL ? NULL : finding->gap->time);
    json_element_end(report);
    return write_text(display, report->ok);
}

/* ---- the result ---- */

static int
status_of(const WalCheckDisplay *display, const Error *failure)
{
    if (failure != NULL || display->output.code != ERR_NONE)
        return WAL_CHECK_NO_LOOK;
    if (display->summary.problems > 0)
        return WAL_CHECK_NOT_WHOLE;
    return display->summary.unreadable > 0 ? WAL_CHECK_NO_LOOK : WAL_CHECK_WHOLE;
}

static const char *
result_name(const WalCheckDisplay *display, const Error *failure)
{
    if (failure != NULL)
        return "error";
    if (display->summary.problems > 0)
        return "damaged";
    return display->summary.unreadable > 0 ? "unreadable" : "whole";
}

static void
put_summary(JsonLine *report, const ArchiveCheckSummary *summary, int64_t elapsed_ms)
{
    json_object_begin(report, "summary");
    json_put_number(report, "segments", summary->segments);
    json_put_number(report, "bytes", summary->bytes);
    json_put_number(report, "problems", summary->problems);
    json_put_number(report, "unreadable", summary->unreadable);
    json_put_number(report, "known", summary->known);
    json_put_number(report, "remarks", summary->remarks);
    json_put_number(report, "elapsed_ms", (uint64_t)elapsed_ms);
    json_object_end(report);
}

static void
end_report(WalCheckDisplay *display, const Error *failure, int64_t elapsed_ms)
{
    JsonLine *report = &display->report;
    bool hint = failure != NULL && failure->hint[0] != '\0';

    if (!begin_report(display))
        return;
    json_array_end(report);
    if (failure == NULL)
        put_summary(report, &display->summary, elapsed_ms);
    else
        json_put_null(report, "summary");
    json_put_text_or_null(report, "error", failure == NULL ? NULL : failure->message);
    json_put_text_or_null(report, "hint", hint ? failure->hint : NULL);
    json_put_text(report, "result", result_name(display, failure));
    (void)write_text(display, json_line_end(report));
}

static bool
append_count(Buf *text, uint64_t count, const char *what, Error *err)
{
    return count == 0 || buf_printf(text, err, ", %llu %s", (unsigned long long)count, what);
}

static void
write_result(WalCheckDisplay *display)
{
    const ArchiveCheckSummary *summary = &display->summary;
    Buf *text = &display->text;
    Error *err = &display->output;
    bool whole = summary->problems == 0 && summary->unreadable == 0;

    if (display->request->quiet)
        return;
    (void)write_text(
        display,
        buf_printf(text, err, "%s: %llu segment%s checked",
                   whole                   ? "archive is whole"
                   : summary->problems > 0 ? "archive is not whole"
                                           : "archive could not be read",
                   (unsigned long long)summary->segments, summary->segments == 1 ? "" : "s") &&
            append_count(text, summary->problems, "found damaged or missing", err) &&
            append_count(text, summary->unreadable, "unreadable", err) &&
            append_count(text, summary->known, "known", err) &&
            append_count(text, summary->remarks, "remarked", err) && buf_printf(text, err, "\n"));
}

/* ---- on the way ---- */

bool
wal_check_display_finding(void *ctx, const ArchiveFinding *finding)
{
    WalCheckDisplay *display = ctx;

    terminal_line_leave(&display->line);
    if (finding->gap != NULL)
        log_warning("known: %s (%s)", finding->message, finding->gap->reason);
    else if (archive_finding_counts(finding))
        log_error("%s", finding->message);
    else
        log_warning("%s", finding->message);
    return !display->request->json || report_finding(display, finding);
}

void
wal_check_display_progress(void *ctx, const ArchiveProgress *progress)
{
    WalCheckDisplay *display = ctx;
    bool last = progress->done == progress->total;
    int64_t now = clock_ms();
    Buf line = BUF_INIT;
    Error err = ERROR_INIT;
    Speed speed;

    rate_add(&display->rate, now, progress->done);
    if (display->progress_shown && !last && now - display->shown_ms < PROGRESS_INTERVAL_MS)
        return;
    display->progress_shown = true;
    display->shown_ms = now;
    speed = last ? rate_of_whole(&display->rate)
                 : rate_present(&display->rate, progress->done, progress->total);
    if (buf_printf(
            &line, &err, "%llu/%llu kB (%d%%) checked", (unsigned long long)(progress->done / KB),
            (unsigned long long)(progress->total / KB),
            progress->total == 0 ? 100
                                 : (int)(progress->done / KB * 100 / (progress->total / KB))) &&
        speed_append(&speed, &line, &err))
        terminal_line_show(&display->line, &line, last);
    buf_free(&line);
}

int
wal_check_display_end(WalCheckDisplay *display, const Error *failure)
{
    int64_t elapsed_ms = clock_ms() - display->begun_ms;
    bool was_broken = display->output.code != ERR_NONE;
    Error told;

    terminal_line_leave(&display->line);
    if (failure != NULL) {
        told = signals_failure(failure);
        log_failure(&told);
        failure = &told;
    }
    if (display->request->json)
        end_report(display, failure, elapsed_ms);
    else if (failure == NULL)
        write_result(display);
    if (display->output.code != ERR_NONE && !(was_broken && failure != NULL))
        log_failure(&display->output);
    return status_of(display, failure);
}
