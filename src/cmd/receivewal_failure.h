/*
 * What becomes of a failure in "pgstow receivewal": whether another try can mend it, and when.
 * Pure.
 */
#ifndef PGSTOW_RECEIVEWAL_FAILURE_H
#define PGSTOW_RECEIVEWAL_FAILURE_H

#include <stdint.h>

#include "common/error.h"

typedef enum FailureAction {
    FAILURE_RETRY,         /* after a delay: the server, the way to it or the disk may come back */
    FAILURE_RETRY_AT_ONCE, /* WAL that came damaged is fetched again */
    FAILURE_DISK_FULL,     /* wait for room, for ever */
    FAILURE_GAP,           /* the server does not have the WAL any more */
    FAILURE_SLOT_LOST,     /* nor does it keep any for us */
    FAILURE_DAMAGED,       /* fetching it again has not helped */
    FAILURE_FATAL          /* nothing that a try could change */
} FailureAction;

typedef struct FailureFacts {
    bool connected;          /* a connection was made in this run, now or earlier */
    bool streaming;          /* it came from the stream or from what takes it, not from before */
    bool streamed;           /* a stream has begun in this run, this one or an earlier one */
    const char *slot;        /* may be NULL */
    int64_t slot_missing_ms; /* for how long the slot has been missing; 0: just noticed */
    unsigned times;          /* how often the same WAL has been received without getting further */
} FailureFacts;

/* A slot may be missing for this long after a failover, until somebody makes it there. */
#define SLOT_PATIENCE_MS 30000

/* The same WAL is fetched again this often before it counts as damaged at the server. */
#define DAMAGE_RETRIES 3

FailureAction failure_action(const Error *failure, const FailureFacts *facts);

/* The server does not know the slot. */
bool failure_is_missing_slot(const Error *failure, const char *slot);

/* The disk, not the server or the way to it. */
bool failure_is_ours(const Error *failure);

/* How long to wait before try number `number`, from 0, of those in a row that got no further. */
int64_t retry_delay_ms(unsigned number);

/* "0.5 seconds", "1 second", "5 seconds". */
#define RETRY_TEXT_SIZE 32
void retry_delay_text(int64_t delay_ms, char text[RETRY_TEXT_SIZE]);

#endif
