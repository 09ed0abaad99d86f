/*
 * A signal again and again: calls that wait return EINTR, or with less than all.
 *
 * It is SIGALRM, without SA_RESTART, for the whole process. Made for tests: what fails here ends
 * the process.
 */
#ifndef PGSTOW_TESTS_TICKER_H
#define PGSTOW_TESTS_TICKER_H

/* Every `milliseconds`; `handler` NULL: they are counted. */
void ticker_start(int milliseconds, void (*handler)(int signal_number));
void ticker_stop(void);

/* How many since the last start. */
int ticker_count(void);

#endif
