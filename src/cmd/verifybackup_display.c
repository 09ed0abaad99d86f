/*
 * What a verification shows: problems, progress and the last words on standard error, the result or
 * the report on standard output.
 *
 * When standard error cannot be written, the check goes on. A standard output that cannot be
 * written ends it: nobody would learn what came of it.
 */
#include <errno.h>
#include <stdio.h>

#include "cmd/log.h"
#include "cmd/signals.h"
#include "cmd/verifybackup_cmd.h"
#include "common/runtime.h"

#define PROGRESS_INTERVAL_MS 1000

void
verify_display_init(VerifyDisplay *display, const VerifyRequest *request)
{
    *display = (VerifyDisplay){.request = request, .text = BUF_INIT, .begun_ms = clock_ms()};
    terminal_line_init(&display->line);
}

void
verify_display_free(VerifyDisplay *display)
{
    buf_free(&display->text);
}

/* ---- standard output ---- */

/* Writes what is in `text`; `made` says whether all that should be is there. */
static bool
write_text(VerifyDisplay *display, bool made)
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
begin_report(VerifyDisplay *display)
{
    const ReportHead head = {.version = PGSTOW_VERSION,
                             .directory = display->request->directory,
                             .target = display->target};

    display->report_begun = true;
    return write_text(display,
                      report_json_begin(&display->report, &head, &display->text, &display->output));
}

static void
end_report(VerifyDisplay *display, const ReportEnd *end)
{
    if (display->report_begun || begin_report(display))
        (void)write_text(display, report_json_end(&display->report, end));
}

/* What pg_verifybackup says, or pg_checksums. */
static void
write_result(VerifyDisplay *display)
{
    if (display->request->quiet)
        return;
    if (display->target == TARGET_CLUSTER)
        (void)write_text(display,
                         report_pages_text(&display->summary, &display->text, &display->output));
    else if (display->problems == 0)
        (void)write_text(display, buf_printf(&display->text, &display->output,
                                             "backup successfully verified\n"));
}

/* ---- on the way ---- */

bool
verify_display_begin(VerifyDisplay *display, VerifyTarget target, Error *err)
{
    display->target = target;
    if (display->request->report != REPORT_JSON || begin_report(display))
        return true;
    *err = display->output;
    return false;
}

bool
verify_display_problem(void *ctx, const Problem *problem)
{
    VerifyDisplay *display = ctx;

    terminal_line_leave(&display->line);
    log_error("%s", problem->message);
    display->problems++;
    if (display->request->report == REPORT_JSON &&
        !write_text(display, report_json_problem(&display->report, problem)))
        return false;
    return !display->request->exit_on_error;
}

static bool
progress_due(const VerifyDisplay *display, const VerifyProgress *progress, int64_t now)
{
    if (!display->progress_shown)
        return true;
    if (progress->done == display->shown_done)
        return false;
    return progress->done == progress->total || now - display->shown_ms >= PROGRESS_INTERVAL_MS;
}

void
verify_display_progress(void *ctx, const VerifyProgress *progress)
{
    VerifyDisplay *display = ctx;
    bool last = progress->done == progress->total;
    int64_t now = clock_ms();
    Buf line = BUF_INIT;
    Error err = ERROR_INIT;
    Speed speed;

    rate_add(&display->rate, now, progress->done);
    if (!progress_due(display, progress, now))
        return;
    display->progress_shown = true;
    display->shown_done = progress->done;
    display->shown_ms = now;
    speed = last ? rate_of_whole(&display->rate)
                 : rate_present(&display->rate, progress->done, progress->total);
    if (report_progress(progress, &speed, &line, &err))
        terminal_line_show(&display->line, &line, last);
    buf_free(&line);
}

/* ---- the end ---- */

static void
show_summary(const VerifyDisplay *display, int64_t elapsed_ms)
{
    Buf line = BUF_INIT;
    Error err = ERROR_INIT;

    if (report_summary(&display->summary, elapsed_ms, &line, &err))
        log_info("%s", buf_text(&line));
    buf_free(&line);
}

int
verify_display_end(VerifyDisplay *display, const Error *failure)
{
    bool was_broken = display->output.code != ERR_NONE;
    ReportEnd end = {.summary = &display->summary,
                     .problems = display->problems,
                     .elapsed_ms = clock_ms() - display->begun_ms};
    Error told;

    terminal_line_leave(&display->line);
    if (failure != NULL) {
        told = signals_failure(failure);
        log_failure(&told);
        end.failure = &told;
    } else if (display->request->show_progress) {
        show_summary(display, end.elapsed_ms);
    }
    if (display->request->report == REPORT_JSON)
        end_report(display, &end);
    else if (failure == NULL)
        write_result(display);
    if (display->output.code != ERR_NONE && !(was_broken && failure != NULL))
        log_failure(&display->output);
    return failure == NULL && display->problems == 0 && display->output.code == ERR_NONE ? 0 : 1;
}
