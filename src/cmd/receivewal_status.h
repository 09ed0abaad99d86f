/*
 * How a receiver stands, for programs: one JSON object in a file, described in docs/formats.md.
 */
#ifndef PGSTOW_RECEIVEWAL_STATUS_H
#define PGSTOW_RECEIVEWAL_STATUS_H

#include "common/bytes.h"
#include "common/pgtypes.h"

#define STATUS_JSON_VERSION 1

typedef enum ReceiveState {
    RECEIVE_CONNECTING,
    RECEIVE_STREAMING,
    RECEIVE_WAITING,   /* to try again */
    RECEIVE_DISK_FULL, /* until it has taken something again */
    RECEIVE_STOPPED,   /* ended, as it was told to */
    RECEIVE_FAILED     /* ended by the last error */
} ReceiveState;

typedef struct ReceiveStatus {
    ReceiveState state;
    const char *version; /* ours */
    const char *directory;
    const char *slot; /* may be NULL */
    char host[256];   /* "": not known yet */
    int64_t pid;
    int server_version; /* 180004; 0: not known */
    uint64_t system_id; /* likewise, and so are all numbers up to the lag */
    TimeLineID timeline;
    Lsn received;
    Lsn written;
    Lsn flushed;
    Lsn server_end;
    bool lag_known;
    uint64_t lag_bytes;
    int64_t lag_ms;
    uint64_t reconnects;
    int64_t started_at; /* these are milliseconds since 1970 */
    int64_t error_at;   /* of the last error; 0: there was none */
    Error last_error;
} ReceiveStatus;

/* Now, as the times above. */
int64_t status_time(void);

/* Appends the object and a newline. Pure. */
bool receive_status_json(const ReceiveStatus *status, int64_t updated_at, Buf *line,
                         Error *err) MUST_USE;

/*
 * The file, written by a thread of its own: once a second when something has changed, and now and
 * then when nothing has. Replaced as a whole, so that readers see one object or none; not synced.
 * When it cannot be written, a warning says so, once.
 */
typedef struct StatusFile StatusFile;

typedef struct StatusFileConfig {
    const char *path; /* copied */
    /* How it stands now; called by the file's thread. */
    void (*take)(void *ctx, ReceiveStatus *ret_status);
    void *ctx;
} StatusFileConfig;

StatusFile *status_file_start(const StatusFileConfig *config, Error *err) MUST_USE;

/* Something that is worth telling at once. Any thread; does not wait. */
void status_file_changed(StatusFile *file);

/* Writes it once more, if it has changed, and ends. Takes NULL. */
void status_file_end(StatusFile *file);

#endif
