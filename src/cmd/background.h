/*
 * Work that goes on after the program that a server has called is done.
 */
#ifndef PGSTOW_BACKGROUND_H
#define PGSTOW_BACKGROUND_H

#include <stdbool.h>
#include <stddef.h>

/*
 * True in a new process, which keeps nothing open but `keep` and is to call background_end. It
 * stays in the server's process group, so that a shutdown ends it. False in the calling process,
 * also when there cannot be another one. No other thread may be running.
 */
bool background_begin(int keep);
_Noreturn void background_end(void);

/* Some processors for the server, some for us. */
size_t background_threads(void);

#endif
