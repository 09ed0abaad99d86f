/*
 * The WAL receiver: streams WAL from a server into a chain of stages, as segments that are entries.
 *
 * A WalReceiver owns its connection and its sink. wal_receiver_run streams in the calling thread
 * until the end LSN is reached, `stop` is requested or something fails. It follows the server's
 * timeline switches, history files first. Status goes to the server at the interval, when the
 * server asks and when the durable mark moved; *flushed* is the durable mark and nothing else. A
 * timeline's last segment is ended as incomplete (ENTRY_END false) unless it was filled.
 */
#ifndef PGSTOW_WALRECV_H
#define PGSTOW_WALRECV_H

#include "common/error.h"
#include "common/pgtypes.h"
#include "common/runtime.h"
#include "protocol/protocol.h"
#include "stream/stream.h"

typedef struct WalReceiver WalReceiver;

typedef struct WalObserver {
    /* All called from the receiving thread; each may be NULL. */
    void (*segment_finished)(void *ctx, Lsn end, TimeLineID timeline);
    void (*timeline_switched)(void *ctx, Lsn at, TimeLineID timeline);
    void *ctx;
} WalObserver;

/* What becomes of what was received when the run fails, unless it is the sink that failed. */
typedef enum WalFailure {
    WAL_FAILURE_ABANDON, /* nothing of it is wanted (a backup) */
    WAL_FAILURE_KEEP,    /* all of it is: the sink is finished as after a stop (an archive) */
} WalFailure;

typedef struct WalReceiverConfig {
    Conn *conn; /* owned from the call on */
    Sink *sink; /* owned from the call on; gets one archive "pg_wal" of segment entries */
    Lsn start;  /* the beginning of a segment */
    TimeLineID timeline;
    uint32_t segment_size;
    const char *slot;           /* copied; may be NULL */
    int64_t status_interval_ms; /* 0: only when the server asks */
    const DurableMark *durable; /* borrowed; NULL: nothing is ever reported as flushed; give it only
                                 * with a sink that advances it */
    Sink *handoff;              /* borrowed part of the chain to publish before waiting, or NULL */
    Lsn stop_at;                /* 0: not known yet, or never; see wal_receiver_stop_at */
    WalFailure on_failure;
    const Stop *stop; /* borrowed */
    WalObserver observer;
} WalReceiverConfig;

/*
 * The config's conn and sink are freed when this fails. Like a stage: when conn or sink is NULL,
 * what made them has set `err` already, and the result is NULL.
 */
WalReceiver *wal_receiver_new(const WalReceiverConfig *config, Error *err) MUST_USE;

/* The stream ends once everything before `lsn` has been received. Any thread, while running. */
void wal_receiver_stop_at(WalReceiver *receiver, Lsn lsn);

/*
 * For HandoffConfig.while_full: status goes on while the disk is slower than the server. The
 * handoff is made before the receiver, so its ctx is the address of the variable (a WalReceiver *)
 * that will get the receiver: NULL until then, set before wal_receiver_run, alive as long as the
 * chain.
 */
bool wal_receiver_while_full(void *ctx, Error *err) MUST_USE;

typedef enum WalRunResult {
    WAL_RUN_REACHED, /* the end LSN was reached; the sink has finished: all is as durable as it
                      * gets */
    WAL_RUN_STOPPED, /* `stop` was requested; the sink has finished */
    WAL_RUN_FAILED   /* err is set; the sink was abandoned, but see WAL_FAILURE_KEEP */
} WalRunResult;

/* Once. */
WalRunResult wal_receiver_run(WalReceiver *receiver, Error *err) MUST_USE;

/* The end of what was received and handed to the sink; any thread. */
Lsn wal_receiver_position(const WalReceiver *receiver);
TimeLineID wal_receiver_timeline(const WalReceiver *receiver);
void wal_receiver_free(WalReceiver *receiver);

/* ---- the WAL directory ---- */

/* What becomes of a segment that the stream did not fill. */
typedef enum WalRemainder {
    WAL_KEEP_PARTIAL, /* stays NAME.partial: where to resume (an archive) */
    WAL_PAD           /* zero-filled to full size and named as complete (a backup's pg_wal) */
} WalRemainder;

typedef enum WalSync { WAL_NO_SYNC, WAL_DURABLE } WalSync;

typedef struct WalDirConfig {
    const char *directory; /* exists; copied */
    uint32_t segment_size;
    mode_t file_mode; /* 0600 or 0640 */
    WalRemainder remainder;
    WalSync sync;
    bool archive_status;  /* mark complete segments and history files as archived, by empty files
                           * DIRECTORY/archive_status/NAME.done; that directory exists too */
    DurableMark *durable; /* borrowed, may be NULL; advanced at FLUSH and, after its sync, to the
                           * end of what each segment holds; never with WAL_NO_SYNC */
} WalDirConfig;

/*
 * The last stage: writes segments as NAME.partial, renames them when complete. History files are
 * written through NAME.tmp and renamed. With WAL_DURABLE a name appears only after its content is
 * synced, and its directory is synced after it. Abandoned: the open segment stays NAME.partial.
 * A NAME.partial that exists is overwritten in place and never gets shorter while it is a .partial;
 * a segment that exists under its own name, or a history file of other content, is refused.
 */
Sink *wal_dir_new(const WalDirConfig *config, Error *err) MUST_USE;

/*
 * wal_archive: a stage that makes of received WAL the entries of an archive "pg_wal.tar": segments
 * and history files pass; a segment that the stream did not fill is filled up with zeros; behind
 * each that it did fill, and behind each history file, comes an empty archive_status/NAME.done.
 * File names are as in pg_wal, without a directory; modes are `file_mode`. A FLUSH with its end
 * follows each segment that was filled.
 */
Sink *wal_archive_new(Sink *next, uint32_t segment_size, mode_t file_mode, Error *err) MUST_USE;

/* ---- where to go on ---- */

typedef struct WalDirEnd {
    bool found; /* false: no segment here */
    Lsn next;   /* where streaming goes on: the start of a segment */
    TimeLineID timeline;
} WalDirEnd;

/*
 * The newest segment of a directory: behind it when it is complete, at its start when it is
 * partial. Names are parsed strictly; a complete segment of a wrong size is passed over and told to
 * `skipped`. ERR_UNSUPPORTED when the newest one is compressed: going on beside it would hide
 * damage in it.
 */
bool wal_dir_find_end(const char *directory, uint32_t segment_size,
                      void (*skipped)(void *ctx, const char *path, uint64_t size), void *ctx,
                      WalDirEnd *ret_end, Error *err) MUST_USE;

#endif
