#include "support/ticker.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/time.h>

static volatile sig_atomic_t ticks;

static void
count_tick(int signal_number)
{
    (void)signal_number;
    ticks++;
}

static void
set_timer(int milliseconds)
{
    struct timeval every = {.tv_sec = milliseconds / 1000, .tv_usec = milliseconds % 1000 * 1000};
    struct itimerval timer = {.it_interval = every, .it_value = every};

    if (setitimer(ITIMER_REAL, &timer, NULL) != 0) {
        perror("test support: setitimer");
        abort();
    }
}

void
ticker_start(int milliseconds, void (*handler)(int signal_number))
{
    struct sigaction action = {.sa_handler = handler == NULL ? count_tick : handler};

    ticks = 0;
    if (sigaction(SIGALRM, &action, NULL) != 0) {
        perror("test support: sigaction");
        abort();
    }
    set_timer(milliseconds);
}

void
ticker_stop(void)
{
    set_timer(0);
    (void)signal(SIGALRM, SIG_DFL);
}

int
ticker_count(void)
{
    return ticks;
}
