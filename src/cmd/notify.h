/*
 * The service manager (systemd's notification protocol, sd_notify(3)): we tell it that we are
 * ready, how we are, and that we are alive. Without NOTIFY_SOCKET in the environment, or with one
 * that makes no sense, nothing happens. Nothing here waits or fails.
 */
#ifndef PGSTOW_NOTIFY_H
#define PGSTOW_NOTIFY_H

#include <stdint.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "common/attr.h"

typedef struct Notify {
    int fd; /* -1: nobody listens */
    struct sockaddr_un address;
    socklen_t address_len;
    int64_t watchdog_ms; /* it wants to hear that we are alive this often; 0: not at all */
} Notify;

/* What the environment says. */
void notify_init(Notify *notify);
void notify_free(Notify *notify);

void notify_ready(const Notify *notify);
void notify_alive(const Notify *notify);
void notify_stopping(const Notify *notify);

/* How we are, in one line for a person. */
void notify_status(const Notify *notify, const char *fmt, ...) PRINTF_LIKE(2, 3);

#endif
