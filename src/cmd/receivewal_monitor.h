/*
 * Who looks at a receiver from outside: the status file, and the service manager. The loop says
 * what it is doing, in calls that never wait; a thread of ours looks at the stream itself.
 */
#ifndef PGSTOW_RECEIVEWAL_MONITOR_H
#define PGSTOW_RECEIVEWAL_MONITOR_H

#include "cmd/receivewal_status.h"
#include "common/runtime.h"
#include "walrecv/walrecv.h"

typedef struct Monitor Monitor;

/* The strings live as long as the monitor; what may be NULL says so. */
typedef struct MonitorConfig {
    const char *version; /* ours */
    const char *directory;
    const char *slot;        /* may be NULL, like the one below */
    const char *status_file; /* its path */
    const Stop *stop;        /* may be NULL; what ends the run */
} MonitorConfig;

Monitor *monitor_start(const MonitorConfig *config, Error *err) MUST_USE;

/* ---- what the loop is doing; from its thread ---- */

void monitor_connecting(Monitor *monitor);

/* Connected, and to whom; `host` is copied. */
void monitor_server(Monitor *monitor, const ServerIdentity *server, int version, const char *host);

/* It runs; call with NULL before it is freed. */
void monitor_receiver(Monitor *monitor, const WalReceiver *receiver);

/* It has failed and is going to try again. */
void monitor_waiting(Monitor *monitor, const Error *failure);

/*
 * The disk is full, and was when `written` had been written. True when that is new: once more has
 * been written, it is said that it goes on, and then it may become new again.
 */
bool monitor_disk_full(Monitor *monitor, const Error *failure, Lsn written);

/* The last word: NULL, it was stopped. Returns when it is in the status file. Frees; takes NULL. */
void monitor_end(Monitor *monitor, const Error *failure);

#endif
