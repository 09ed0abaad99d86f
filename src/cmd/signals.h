/*
 * Ctrl-C and its kin become a request to stop, so that a run can clean up; afterwards the program
 * dies of the signal it got, as its caller expects.
 */
#ifndef PGSTOW_SIGNALS_H
#define PGSTOW_SIGNALS_H

#include "common/error.h"
#include "common/runtime.h"

/* What a signal does that was ignored from the start: under nohup, or SIGINT in a job that a script
 * has put into the background. */
typedef enum IgnoredSignals {
    IGNORED_STAY_IGNORED,
    IGNORED_HUP_ONLY /* SIGINT and SIGTERM count nevertheless */
} IgnoredSignals;

/*
 * Run `job` with SIGINT, SIGTERM and SIGHUP requesting its stop, as far as `ignored` lets them.
 * SIGPIPE is ignored from here on: a reader of our messages that goes away must not end a backup.
 * Returns what the job returned. Once a process.
 */
bool signals_run(bool (*job)(void *ctx, Stop *stop, Error *err), void *ctx, IgnoredSignals ignored,
                 Error *err) MUST_USE;

/* An Error as it is told: one that says "stopped" tells which signal did it. */
Error signals_failure(const Error *err);

/* Print it so. */
void signals_show_failure(const Error *err);

/* The signal that came, or 0. */
int signals_received(void);

/* Die of the signal that came; returns when none did. */
void signals_reraise(void);

#endif
