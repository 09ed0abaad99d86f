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

/* How many threads it may have on so many processors: at least 1, and 4 at most. */
size_t background_threads(size_t processors);

#endif
