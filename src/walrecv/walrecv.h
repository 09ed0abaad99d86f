/*
 * The WAL receiver: streams WAL from a server into a chain of stages, as segments that are entries.
 *
 * A WalReceiver owns its connection and its sink. wal_receiver_run streams in the calling thread
 * until the end LSN is reached, `stop` is requested or something fails. It follows the server's
 * timeline switches, history files first. Status goes to the server at the interval, when the
 * server asks and when the durable mark moved; *flushed* is the durable mark and nothing else,
 * *written* the written mark. A timeline's last segment is ended as incomplete (ENTRY_END false)
 * unless it was filled.
 *
 * An archive is a directory that a receiver goes on with, run after run. What it holds already is
 * found by wal_resume_find, where to go on is decided by wal_start_decide, and wal_dir writes it.
 */
#ifndef PGSTOW_WALRECV_H
#define PGSTOW_WALRECV_H

#include "common/error.h"
#include "common/pgtypes.h"
#include "common/runtime.h"
#include "pgformat/timeline.h"
#include "protocol/protocol.h"
#include "segment/segment.h"
#include "stream/compression.h"
#include "stream/stream.h"

typedef struct WalReceiver WalReceiver;

typedef struct WalObserver {
    /* Called from the receiving thread; may be NULL. */
    void (*timeline_switched)(void *ctx, Lsn at, TimeLineID timeline);
    void *ctx;
} WalObserver;

/* What becomes of what was received when the run fails, unless it is the sink that failed. */
typedef enum WalFailure {
    WAL_FAILURE_ABANDON, /* nothing of it is wanted (a backup) */
    WAL_FAILURE_KEEP,    /* all of it is: the sink is finished as after a stop (an archive) */
} WalFailure;

/* What is on our disk already of the WAL to receive; see wal_resume_find. */
typedef struct WalTail WalTail;

#define WAL_FLUSH_AT_ONCE (-1)

typedef struct WalReceiverConfig {
    Conn *conn; /* owned from the call on */
    Sink *sink; /* owned from the call on; gets one archive "pg_wal" of segment entries */
    Lsn start;  /* the beginning of a segment */
    TimeLineID timeline;
    uint32_t segment_size;
    WalTail *tail;              /* owned from the call on; NULL: nothing. Its bytes go into the sink
                                 * as if they had been received from `start` on; streaming begins
                                 * behind them */
    const char *slot;           /* copied; may be NULL */
    int64_t status_interval_ms; /* 0: only when the server asks */
    DurableMark *durable;       /* borrowed; NULL: nothing is ever reported as flushed; give it only
                                 * with a sink that advances it. Its bell is the receiver's while
                                 * that lives */
    const DurableMark *written; /* borrowed; NULL: what the sink has taken counts as written */
    int64_t flush_lag_ms;       /* what was received is flushed (EVENT_FLUSH) when it is this old at
                                 * the latest; 0: only when the server asks; WAL_FLUSH_AT_ONCE:
                                 * at once, again and again */
    int64_t silence_limit_ms;   /* give up a server that says nothing for so long, after asking it
                                 * to at half of it, as wal_receiver_timeout does; 0: never */
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

/* Once. Fails at WAL that the server does not have any more with its error (sqlstate 58P01). */
WalRunResult wal_receiver_run(WalReceiver *receiver, Error *err) MUST_USE;

/* The end of what was received and handed to the sink; any thread. */
Lsn wal_receiver_position(const WalReceiver *receiver);
TimeLineID wal_receiver_timeline(const WalReceiver *receiver);

/* How it stands; any thread, each value as of now. */
typedef struct WalReceiverView {
    bool streaming;
    TimeLineID timeline;
    Lsn received;     /* and handed to the sink */
    Lsn written;      /* as the server is told with the next status */
    Lsn flushed;      /* likewise; 0: nothing */
    Lsn server_end;   /* how far the server has WAL, as it said last; 0: it said nothing yet */
    int64_t heard_ms; /* clock_ms when it said something last */
    uint64_t beats;   /* how often the loop has gone round: does not move when it hangs */
} WalReceiverView;

WalReceiverView wal_receiver_view(const WalReceiver *receiver);
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
    bool archive_status;     /* mark complete segments and history files as archived, by empty files
                              * DIRECTORY/archive_status/NAME.done; that directory exists too */
    Compression compression; /* of complete segments; not with archive_status or WAL_PAD */
    bool write_ahead;        /* segments get their room as written zeros before they are needed, so
                              * that a sync waits for nothing but its data (synchronous commits) */
    DurableMark *durable;    /* borrowed, may be NULL; advanced at FLUSH and, after its sync, to the
                              * end of what each segment holds; never with WAL_NO_SYNC */
    DurableMark *written;    /* borrowed, may be NULL; advanced to the end of what was written */
    /* A file that was in the way and is not the segment that its name says was renamed; may be
     * NULL. Called by a thread of the stage. */
    void (*set_aside)(void *ctx, const char *path, const char *new_path, const char *reason);
    /* A complete segment has its name, for good unless WAL_NO_SYNC; in their order; may be NULL.
     * Called by a thread of the stage. */
    void (*finished)(void *ctx, Lsn end, TimeLineID timeline);
    void *ctx;
} WalDirConfig;

/*
 * The last stage: writes segments as NAME.partial, of full size from the start (zeros behind what
 * there is), and names them when complete, in order, by threads of its own: the pushing thread goes
 * on with the next segment. With compression a complete segment becomes NAME.gz, .lz4 or .zst and
 * NAME.partial is then removed; it is never compressed while it is partial, so that all that is
 * flushed can be read. Until it is complete, a FLUSH comes or the stream ends, such a segment is in
 * memory only and counts as not written; not so with WAL_NO_SYNC or write_ahead, or above 16 MiB.
 * History files are written through NAME.tmp and renamed, never compressed. With WAL_DURABLE a name
 * appears only after its content is synced, its directory is synced after it, and FLUSH returns
 * when all before it is on disk, under whichever name. Finish returns when everything is named.
 * Abandoned: what is not named stays NAME.partial; what was in memory only is gone.
 *
 * A NAME.partial that exists is written over in place and never gets shorter. Where the complete
 * segment exists already, in whichever compression: one with the same content stays and ours goes;
 * one that is damaged or of a wrong size is renamed to FILE.damaged and told to set_aside; one that
 * is sound and differs is an error (ERR_SYSTEM, EEXIST). Once NAME is complete, other forms of its
 * partial file (NAME.gz.partial of another program) are removed. A history file of other content
 * is refused.
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

/* ---- what an archive holds ---- */

/*
 * Locks the directory against a second receiver (flock(2), as long as *ret_fd is open). False with
 * ERR_SYSTEM when somebody else has it. *ret_fd is -1 on file systems that cannot lock directories.
 */
bool wal_dir_lock(const char *directory, int *ret_fd, Error *err) MUST_USE;

typedef struct WalResumeConfig {
    const char *directory;
    uint32_t segment_size;
    /* Of the server's timeline; NULL: not known. What is of one of its ancestors, but beyond the
     * fork, is passed over, unless there is nothing else. */
    const TimelineHistory *history;
    /* May be NULL. A complete segment that is not one (size, decompression, record chain) is passed
     * over: where streaming goes on is before it. Only the newest ones are looked into. */
    void (*skipped)(void *ctx, const char *path, const char *reason);
    /* May be NULL. Segments between those that are here are missing: `first` to `last`, before one
     * of `timeline`; also where streaming goes on with them. Up to the newest complete segment
     * those that are only partial are missing too. */
    void (*hole)(void *ctx, TimeLineID timeline, uint64_t first, uint64_t last);
    void *ctx;
} WalResumeConfig;

/* Where an archive ends. */
typedef struct WalResume {
    bool found; /* false: no segment here; nothing else counts */
    Lsn start;  /* of the segment to go on with: behind the newest complete one, the same once more
                 * on a newer timeline, or the oldest that is here when none is sound */
    Lsn end;    /* of what is here and intact, from `start` on: where the server shall go on */
    TimeLineID timeline;
    uint64_t system_id; /* of the cluster that the newest segments are from; 0: not known */
} WalResume;

/*
 * The newest complete segment wins (highest number, then highest timeline); the partial ones of
 * the same timeline that follow it without a hole are read, in whichever compression, and are good
 * up to their last record whose CRC is right, provided that the record which continues into them
 * can be checked from the segment before. Where the segment before the newest partial one is
 * missing although there are older ones, streaming goes on at the missing one; where a timeline
 * ends among partial ones, on that timeline. *ret_tail (NULL: nothing) gives these bytes. Reads
 * names only but for the newest files: 100,000 are no matter. ERR_FORMAT when behind the newest
 * segment there can be no other one.
 */
bool wal_resume_find(const WalResumeConfig *config, WalResume *ret_resume, WalTail **ret_tail,
                     Error *err) MUST_USE;

/* The next bytes, 128 KiB at most, valid until the next call; none: the end. Reads the files once
 * more: one that has changed since, before the tail's end, is ERR_FORMAT. */
bool wal_tail_next(WalTail *tail, Span *ret_bytes, Error *err) MUST_USE;
void wal_tail_free(WalTail *tail);

/* ---- where to go on; pure ---- */

typedef struct WalStartFacts {
    WalResume archive;
    SlotState slot;
    ServerIdentity server;
    const TimelineHistory *history; /* of the server's timeline */
    uint32_t segment_size;
} WalStartFacts;

typedef enum WalStartReason {
    WAL_START_ARCHIVE,      /* behind what the archive holds */
    WAL_START_ARCHIVE_FORK, /* the archive goes beyond where the server's timeline forked off its
                             * own: on that one, from the segment of the fork; the tail is no use */
    WAL_START_SLOT,         /* the archive is empty */
    WAL_START_SERVER        /* and there is no slot, or it has no position yet */
} WalStartReason;

typedef struct WalStart {
    WalStartReason reason;
    Lsn start; /* the beginning of a segment */
    TimeLineID timeline;
    Lsn fork; /* WAL_START_ARCHIVE_FORK */
} WalStart;

/*
 * ERR_MISMATCH when the archive is of another cluster; ERR_SERVER when the server cannot go on with
 * it yet and perhaps never: its timeline is older than the archive's or does not descend from it,
 * or its WAL ends before the archive's.
 */
bool wal_start_decide(const WalStartFacts *facts, WalStart *ret_start, Error *err) MUST_USE;

/*
 * The first segment start at or behind `from` that the server can stream on `timeline`, by trying;
 * `until` is its current position, or where `timeline` ends. For WAL that it has recycled. A slot
 * is not moved. ERR_SERVER with sqlstate 58P01 when there is none up to `until`. The Conn streams
 * nothing at the call and afterwards; only after another error it may be of no more use.
 */
bool wal_find_earliest(Conn *conn, const char *slot, TimeLineID timeline, Lsn from, Lsn until,
                       uint32_t segment_size, Lsn *ret_earliest, Error *err) MUST_USE;

/* ---- how far behind in time; pure ---- */

#define WAL_LAG_SAMPLES 64

typedef struct WalLagSample {
    Lsn end;
    int64_t ms; /* the server had nothing between the sample before and `end` earlier than this */
} WalLagSample;

/*
 * When the server got how far, for as long as that is of interest; a value, empty when it is all
 * zeros. It stays good over reconnections, but not over a change of the timeline.
 */
typedef struct WalLag {
    WalLagSample samples[WAL_LAG_SAMPLES]; /* later and further from one to the next */
    size_t count;
} WalLag;

/* The server has WAL up to `server_end`, as seen now. Anything lower than before is ignored: a
 * server that is behind with sending says so in between. */
void wal_lag_note(WalLag *lag, Lsn server_end, int64_t now_ms);

/*
 * How long the server has had WAL that is not flushed, as far as was noted; 0: `flushed` has
 * reached all of it. Never too short; when there are many notes it may be too long, by a tenth of
 * the longest time that was told, or that lay between two calls, not long before. What is flushed
 * is forgotten: call it from time to time, with an LSN that does not go back.
 */
int64_t wal_lag_ms(WalLag *lag, Lsn flushed, int64_t now_ms);

#endif
