#include "basebackup/internal.h"

#include <limits.h>
#include <stdarg.h>
#include <stdio.h>

#define PROGRESS_INTERVAL_MS 1000
#define MESSAGE_SIZE         (PATH_MAX + 1024) /* a path and a reason */

PRINTF_LIKE(3, 0)
static void
call_formatted(void (*callback)(void *ctx, const char *message), void *ctx, const char *fmt,
               va_list args)
{
    char message[MESSAGE_SIZE];

    if (callback == NULL)
        return;
    (void)vsnprintf(message, sizeof message, fmt, args);
    callback(ctx, message);
}

void
observe_note(const BackupObserver *observer, const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    call_formatted(observer->note, observer->ctx, fmt, args);
    va_end(args);
}

void
observe_info(const BackupObserver *observer, const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    call_formatted(observer->info, observer->ctx, fmt, args);
    va_end(args);
}

void
observe_problem(const BackupObserver *observer, const Problem *problem)
{
    if (observer->problem != NULL)
        observer->problem(observer->ctx, problem);
}

/* ---- progress ---- */

static void
progress_show(Progress *progress)
{
    /* The estimate is made before the files are sent; they may have grown. */
    if (progress->now.total != 0 && progress->now.done > progress->now.total)
        progress->now.total = progress->now.done;
    progress->now.elapsed_ms = clock_ms() - progress->begun_ms;
    if (progress->observer->progress != NULL)
        progress->observer->progress(progress->observer->ctx, &progress->now);
    progress->last_ms = clock_ms();
    progress->told = progress->now.done;
}

void
progress_init(Progress *progress, const BackupObserver *observer)
{
    *progress = (Progress){.observer = observer, .begun_ms = clock_ms()};
}

void
progress_begin(Progress *progress, const BackupStart *start, const Plan *plan)
{
    progress->server_counts = plan->to_server || plan->arriving != COMPRESSION_NONE;
    progress->now.tablespace_count = start->tablespace_count;
    for (size_t i = 0; i < start->tablespace_count; i++)
        progress->now.total += start->tablespaces[i].size_kb * 1024;
}

void
progress_archive(Progress *progress, size_t complete, const char *directory)
{
    progress->now.tablespace = complete;
    progress->now.current = directory;
    progress_show(progress);
}

void
progress_bytes(Progress *progress, size_t len)
{
    progress->received += len;
    if (!progress->server_counts)
        progress->now.done += len;
}

void
progress_set(Progress *progress, uint64_t done)
{
    if (progress->server_counts)
        progress->now.done = done;
}

void
progress_tick(Progress *progress)
{
    if (progress->now.done != progress->told &&
        clock_ms() - progress->last_ms >= PROGRESS_INTERVAL_MS)
        progress_show(progress);
}

void
progress_finish(Progress *progress)
{
    progress->now.tablespace = progress->now.tablespace_count;
    progress->now.current = NULL;
    progress->now.finished = true;
    progress_show(progress);
}
