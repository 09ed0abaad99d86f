#include "cmd/signals.h"

#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "cmd/log.h"

static Stop *the_stop;
static volatile sig_atomic_t the_signal;

static void
on_signal(int signo)
{
    if (the_signal == 0)
        the_signal = signo;
    stop_request(the_stop);
}

static bool
install(int signo, bool even_ignored, Error *err)
{
    struct sigaction action = {.sa_handler = on_signal};
    struct sigaction before;

    if (sigaction(signo, NULL, &before) != 0)
        return error_set_errno(err, errno, "could not query signal %d", signo);
    if (before.sa_handler == SIG_IGN && !even_ignored)
        return true;
    (void)sigemptyset(&action.sa_mask);
    if (sigaction(signo, &action, NULL) != 0)
        return error_set_errno(err, errno, "could not handle signal %d", signo);
    return true;
}

bool
signals_run(bool (*job)(void *ctx, Stop *stop, Error *err), void *ctx, IgnoredSignals ignored,
            Error *err)
{
    const bool always = ignored == IGNORED_HUP_ONLY;

    /* It stays for ever: a late signal may still reach it, and the process is about to end. */
    static Stop stop;

    if (!stop_init(&stop, err))
        return false;
    the_stop = &stop;
    if (signal(SIGPIPE, SIG_IGN) == SIG_ERR)
        return error_set_errno(err, errno, "could not ignore signal %d", SIGPIPE);
    return install(SIGINT, always, err) && install(SIGTERM, always, err) &&
           install(SIGHUP, false, err) && job(ctx, &stop, err);
}

Error
signals_failure(const Error *err)
{
    Error told = *err;

    if (err->code == ERR_STOPPED && the_signal != 0) {
        (void)snprintf(told.message, sizeof told.message, "interrupted by signal %d: %s",
                       (int)the_signal, strsignal(the_signal));
        told.hint[0] = '\0';
    }
    return told;
}

void
signals_show_failure(const Error *err)
{
    const Error told = signals_failure(err);

    log_failure(&told);
}

int
signals_received(void)
{
    return the_signal;
}

void
signals_reraise(void)
{
    if (the_signal == 0)
        return;
    (void)signal(the_signal, SIG_DFL);
    (void)raise(the_signal);
}
