/*
 * What a backup shows on standard error: messages, and progress as text or as JSON. When it cannot
 * be written, nothing is shown and the backup goes on.
 */
#include "cmd/basebackup_cmd.h"
#include "cmd/log.h"
#include "cmd/progress_json.h"
#include "cmd/signals.h"

/* Show a line that was `made`, and free it. One for which there is no memory is not shown. */
static void
show_line(Buf *line, bool made)
{
    if (made)
        stderr_write(buf_text(line), line->len);
    buf_free(line);
}

/* ---- messages ---- */

static void
show_note(void *ctx, const char *message)
{
    BackupDisplay *display = ctx;

    if (!display->verbose)
        return;
    terminal_line_leave(&display->line);
    log_info("%s", message);
}

static void
show_info(void *ctx, const char *message)
{
    BackupDisplay *display = ctx;

    terminal_line_leave(&display->line);
    log_info("%s", message);
}

static void
show_problem(void *ctx, const Problem *problem)
{
    BackupDisplay *display = ctx;
    Buf line = BUF_INIT;
    Error err = ERROR_INIT;

    terminal_line_leave(&display->line);
    log_error("%s", problem->message);
    if (display->style == PROGRESS_JSON)
        show_line(&line, json_problem(problem, &line, &err));
}

void
display_failure(BackupDisplay *display, const Error *failure)
{
    const Error told = signals_failure(failure);
    Buf line = BUF_INIT;
    Error err = ERROR_INIT;

    if (display->failure_shown)
        return;
    display->failure_shown = true;
    terminal_line_leave(&display->line);
    log_failure(&told);
    if (display->style == PROGRESS_JSON)
        show_line(&line, json_error(&told, failure->code == ERR_STOPPED ? signals_received() : 0,
                                    &line, &err));
}

static void
show_failure(void *ctx, const Error *err)
{
    display_failure(ctx, err);
}

/* ---- progress ---- */

static void
show_progress_line(BackupDisplay *display, Buf *line, bool made, bool last)
{
    if (made)
        terminal_line_show(&display->line, line, last);
    buf_free(line);
}

static void
show_waiting(void *ctx)
{
    BackupDisplay *display = ctx;
    Buf line = BUF_INIT;
    Error err = ERROR_INIT;

    if (display->style == PROGRESS_JSON)
        show_line(&line, json_waiting(&line, &err));
    else if (display->style == PROGRESS_TEXT && !display->verbose)
        show_progress_line(display, &line, buf_printf(&line, &err, "waiting for checkpoint"),
                           false);
}

static void
show_begin(void *ctx, const BackupBegin *begin)
{
    const BackupDisplay *display = ctx;
    Buf line = BUF_INIT;
    Error err = ERROR_INIT;

    if (display->style == PROGRESS_JSON)
        show_line(&line, json_begin(begin, &line, &err));
}

static void
show_progress(void *ctx, const BackupProgress *progress)
{
    BackupDisplay *display = ctx;
    Buf line = BUF_INIT;
    Error err = ERROR_INIT;
    Speed speed;

    rate_add(&display->rate, progress->elapsed_ms, progress->done);
    speed = progress_speed(&display->rate, progress);
    if (display->style == PROGRESS_JSON)
        show_line(&line, json_progress(progress, &speed, &line, &err));
    else if (display->style == PROGRESS_TEXT)
        show_progress_line(display, &line,
                           progress_line(progress, &speed, display->verbose, &line, &err),
                           progress->finished);
}

static void
show_completed(void *ctx, const BackupSummary *summary)
{
    BackupDisplay *display = ctx;
    const Rate *rate = &display->rate;
    Buf line = BUF_INIT;
    Error err = ERROR_INIT;

    terminal_line_leave(&display->line);
    if (display->verbose &&
        summary_line(summary, rate->latest.at_ms - rate->first.at_ms, &line, &err))
        log_info("%s", buf_text(&line));
    buf_clear(&line);
    show_line(&line, display->style == PROGRESS_JSON && json_end(summary, &line, &err));
}

/* ---- the display ---- */

void
display_init(BackupDisplay *display, const BackupRequest *request)
{
    *display = (BackupDisplay){
        .style = request->progress,
        .verbose = request->verbose,
    };
    terminal_line_init(&display->line);
}

BackupObserver
display_observer(BackupDisplay *display)
{
    return (BackupObserver){
        .ctx = display,
        .note = show_note,
        .info = show_info,
        .problem = show_problem,
        .failed = show_failure,
        .waiting = show_waiting,
        .begun = show_begin,
        .progress = show_progress,
        .completed = show_completed,
    };
}
