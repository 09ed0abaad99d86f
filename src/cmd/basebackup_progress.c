/*
 * What a backup shows on standard error: messages, and progress as text or as JSON.
 *
 * A line goes out with one write, so that what libpq prints does not land within it. When standard
 * error cannot be written, nothing is shown and the backup goes on.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "cmd/basebackup_cmd.h"
#include "cmd/log.h"
#include "cmd/progress_json.h"
#include "cmd/signals.h"

/* ---- lines ---- */

/* Nearly always one write; the rest of a long line follows when a pipe took only its beginning. */
static void
write_out(const char *text, size_t len)
{
    while (len > 0) {
        ssize_t written = write(STDERR_FILENO, text, len);

        if (written < 0 && errno == EINTR)
            continue;
        if (written <= 0)
            return;
        text += written;
        len -= (size_t)written;
    }
}

/* Show a line that was `made`, and free it. One for which there is no memory is not shown. */
static void
show_line(Buf *line, bool made)
{
    if (made)
        write_out(buf_text(line), line->len);
    buf_free(line);
}

/* A message begins on a line of its own, and leaves the last progress to be read. */
static void
leave_progress_line(BackupDisplay *display)
{
    if (display->columns > 0)
        write_out("\n", 1);
    display->columns = 0;
}

/* A line that is wider than the terminal would go on in the next one, and stay there. */
static void
fit_terminal(Buf *line)
{
    struct winsize size;

    if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 1)
        text_cut(line, (size_t)size.ws_col - 1);
}

/* What is left of a longer line before is overwritten with blanks. */
static bool
end_progress_line(BackupDisplay *display, bool last, Buf *line, Error *err)
{
    bool stay = display->terminal && !last;
    size_t columns;
    size_t blanks;

    if (stay)
        fit_terminal(line);
    columns = text_columns(buf_text(line));
    blanks = display->columns > columns ? display->columns - columns : 0;
    if (!buf_printf(line, err, "%*s%c", (int)blanks, "", stay ? '\r' : '\n'))
        return false;
    display->columns = stay ? columns : 0;
    return true;
}

/* ---- messages ---- */

static void
show_note(void *ctx, const char *message)
{
    BackupDisplay *display = ctx;

    if (!display->verbose)
        return;
    leave_progress_line(display);
    log_info("%s", message);
}

static void
show_info(void *ctx, const char *message)
{
    leave_progress_line(ctx);
    log_info("%s", message);
}

static void
show_problem(void *ctx, const Problem *problem)
{
    BackupDisplay *display = ctx;
    Buf line = BUF_INIT;
    Error err = ERROR_INIT;

    leave_progress_line(display);
    log_error("%s", problem->message);
    if (display->style == PROGRESS_JSON)
        show_line(&line, json_problem(problem, &line, &err));
}

void
display_failure(BackupDisplay *display, const Error *failure)
{
    int signo = failure->code == ERR_STOPPED ? signals_received() : 0;
    Error told = *failure;
    Buf line = BUF_INIT;
    Error err = ERROR_INIT;

    if (display->failure_shown)
        return;
    display->failure_shown = true;
    leave_progress_line(display);
    signals_show_failure(failure);
    if (display->style != PROGRESS_JSON)
        return;
    if (signo != 0)
        (void)snprintf(told.message, sizeof told.message, "interrupted by signal %d: %s", signo,
                       strsignal(signo));
    show_line(&line, json_error(&told, signo, &line, &err));
}

static void
show_failure(void *ctx, const Error *err)
{
    display_failure(ctx, err);
}

/* ---- progress ---- */

static void
show_waiting(void *ctx)
{
    BackupDisplay *display = ctx;
    Buf line = BUF_INIT;
    Error err = ERROR_INIT;

    if (display->style == PROGRESS_JSON)
        show_line(&line, json_waiting(&line, &err));
    else if (display->style == PROGRESS_TEXT && !display->verbose)
        show_line(&line, buf_printf(&line, &err, "waiting for checkpoint") &&
                             end_progress_line(display, false, &line, &err));
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
        show_line(&line, progress_line(progress, &speed, display->verbose, &line, &err) &&
                             end_progress_line(display, progress->finished, &line, &err));
}

static void
show_completed(void *ctx, const BackupSummary *summary)
{
    BackupDisplay *display = ctx;
    const Rate *rate = &display->rate;
    Buf line = BUF_INIT;
    Error err = ERROR_INIT;

    leave_progress_line(display);
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
        .terminal = isatty(STDERR_FILENO) == 1,
    };
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
