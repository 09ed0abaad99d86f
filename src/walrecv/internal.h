/*
 * Inside the WAL receiver: the segmenter and the status timing, for receiver.c and the unit tests;
 * what the stages behind them, wal_dir and wal_archive, have in common.
 */
#ifndef PGSTOW_WALRECV_INTERNAL_H
#define PGSTOW_WALRECV_INTERNAL_H

#include "pgformat/walfile.h"
#include "walrecv/walrecv.h"

/* ---- segmenter: bytes at an LSN become segments that are entries ---- */

typedef struct Segmenter {
    Sink *sink;                  /* borrowed */
    const WalObserver *observer; /* borrowed */
    uint32_t segment_size;
    TimeLineID timeline;
    Lsn position; /* what comes next */
    bool open;    /* an entry has begun and not ended */
    int64_t now;  /* Unix seconds: the modification time of entries that begin */
} Segmenter;

/* Continue with `timeline` at `start`, the beginning of a segment. No entry is open. */
void segmenter_start(Segmenter *segmenter, TimeLineID timeline, Lsn start);

/* The bytes from `lsn` on, which must be the position. */
bool segmenter_push(Segmenter *segmenter, Lsn lsn, Span data, Error *err) MUST_USE;

/* No more of this timeline: ends the open entry as incomplete. */
bool segmenter_end(Segmenter *segmenter, Error *err) MUST_USE;

/* ---- feedback: when the server is told what; pure ---- */

/* The longest wait: how late a moved mark or a failed disk is noticed on an idle stream. */
#define FEEDBACK_HEARTBEAT_MS 1000

/* How often a flush that the server waits for is looked after, and for how long. */
#define FEEDBACK_FLUSH_POLL_MS     100
#define FEEDBACK_FLUSH_PATIENCE_MS 30000

/* Status without being asked, while requests of the server cannot be read and no interval is set.
 */
#define FEEDBACK_DEAF_INTERVAL_MS 10000

/* What the server was told and what it is owed, in this stream. */
typedef struct Feedback {
    int64_t interval_ms; /* 0: only when the server asks */
    bool reply_owed;     /* the server asked */
    bool sent;           /* at least once; then: */
    int64_t sent_ms;
    Lsn sent_flushed;
    Lsn flush_target; /* the mark of the last FLUSH for the server's sake; 0: none */
    int64_t flush_ms; /* when it was pushed */
    /* A durable mark up to `old_end` may speak of an earlier timeline; see feedback_flushed. */
    Lsn stream_start;
    Lsn old_end;
} Feedback;

/* The world at one moment. */
typedef struct FeedbackView {
    int64_t now_ms;
    Lsn written;
    Lsn flushed; /* as feedback_flushed says */
    bool deaf;   /* nobody reads what the server sends */
} FeedbackView;

/*
 * A new stream starts at `start`. Marks up to `old_end` may have been reached on the timeline
 * before (0: there was none).
 */
void feedback_start(Feedback *feedback, Lsn start, Lsn old_end);

/* What may be reported as flushed when the durable mark is `mark`. */
Lsn feedback_flushed(const Feedback *feedback, Lsn mark);

/* Whether to send a status now. */
bool feedback_due(const Feedback *feedback, const FeedbackView *view);

/* Whether the server waits for something to be flushed that no FLUSH was pushed for yet. */
bool feedback_wants_flush(const Feedback *feedback, const FeedbackView *view);
void feedback_note_flush(Feedback *feedback, const FeedbackView *view);
void feedback_note_sent(Feedback *feedback, const FeedbackView *view);

/* How long to wait for the server at most, in milliseconds. */
int64_t feedback_wait_ms(const Feedback *feedback, const FeedbackView *view);

/* ---- wal_entry: the entries that the receiver makes, for the stages that take them; pure ---- */

typedef enum WalFileKind { WAL_FILE_NONE, WAL_FILE_SEGMENT, WAL_FILE_HISTORY } WalFileKind;

typedef struct WalEntry {
    WalFileKind kind; /* WAL_FILE_NONE: no entry is open */
    char name[WAL_NAME_SIZE];
    uint64_t size;     /* what the entry announced */
    uint64_t received; /* how much of it has come */
    Lsn start;         /* of a segment */
} WalEntry;

/* Only whole segments and history files under their own names are received. */
bool wal_entry_begin(const Entry *entry, uint32_t segment_size, WalEntry *ret_wal,
                     Error *err) MUST_USE;

/* Counts `len` bytes of content, no more than were announced. */
bool wal_entry_take(WalEntry *wal, size_t len, Error *err) MUST_USE;

/* ENTRY_END: only a segment may be cut short, and only when the event says so. */
bool wal_entry_check_end(const WalEntry *wal, bool complete, Error *err) MUST_USE;

/* What marks NAME as archived: "archive_status/NAME.done", below the WAL directory. */
#define WAL_DONE_NAME_SIZE (sizeof "archive_status/.done" + WAL_NAME_SIZE)
void wal_done_name(char name[WAL_DONE_NAME_SIZE], const char *wal_name);

/* For filling a segment up: the first of `len` zeros, at least one unless `len` is 0. */
Span wal_zeros(uint64_t len);

#endif
