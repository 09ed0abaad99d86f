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
    Sink *sink; /* borrowed */
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

/* The longest wait: how late a failed disk is noticed on an idle stream. */
#define FEEDBACK_HEARTBEAT_MS 1000

/* While more is coming in without a break, a flush at once waits this long for a break. */
#define FEEDBACK_BREAK_MS 5

/* Status without being asked, while requests of the server cannot be read and no interval is set.
 */
#define FEEDBACK_DEAF_INTERVAL_MS 10000

/* What the server was told and what it is owed, in this stream. */
typedef struct Feedback {
    int64_t interval_ms;      /* 0: only when the server asks */
    int64_t flush_lag_ms;     /* as in WalReceiverConfig */
    int64_t silence_limit_ms; /* likewise */
    bool reply_owed;          /* the server asked */
    bool sent;                /* at least once; then: */
    int64_t sent_ms;
    Lsn sent_flushed;
    Lsn flush_target; /* the mark of the last FLUSH that was pushed; 0: none */
    bool pending;     /* something has come since then, first at: */
    int64_t pending_ms;
    int64_t heard_ms; /* when the server said something last */
    bool asked;       /* it was asked to say something since then */
    /* A mark up to `old_end` may speak of an earlier timeline; see feedback_mark. */
    Lsn stream_start;
    Lsn old_end;
} Feedback;

/* The world at one moment. */
typedef struct FeedbackView {
    int64_t now_ms;
    Lsn received;
    Lsn written; /* as feedback_mark says */
    Lsn flushed; /* likewise */
    bool deaf;   /* nobody reads what the server sends */
    bool busy;   /* there is more to take in at once */
} FeedbackView;

/*
 * A new stream starts at `start`, now. Marks up to `old_end` may have been reached on the timeline
 * before (0: there was none).
 */
void feedback_start(Feedback *feedback, Lsn start, Lsn old_end, int64_t now_ms);

/* What may be reported as written or flushed when that mark is `mark`. */
Lsn feedback_mark(const Feedback *feedback, Lsn mark);

/* Something has come from the server: a message, and perhaps WAL in it. */
void feedback_note_heard(Feedback *feedback, int64_t now_ms);
void feedback_note_received(Feedback *feedback, int64_t now_ms);

/* Whether to send a status now, and whether with a request to answer it. */
bool feedback_due(const Feedback *feedback, const FeedbackView *view);
bool feedback_asks(const Feedback *feedback, const FeedbackView *view);
void feedback_note_sent(Feedback *feedback, const FeedbackView *view);

/* Whether to push a FLUSH with all that was received. */
bool feedback_wants_flush(const Feedback *feedback, const FeedbackView *view);
void feedback_note_flush(Feedback *feedback, const FeedbackView *view);

/* Whether the server has been silent for too long. */
bool feedback_gives_up(const Feedback *feedback, const FeedbackView *view);

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

/* ---- tail: the bytes of partial segments, once more ---- */

/*
 * Of the first of `goods` on up to `end`, which lies in the last one or at its end; all others are
 * whole. Their sums become the tail's own. NULL and `err` set on failure.
 */
WalTail *wal_tail_new(const SegmentPlace *place, SegmentGood *goods, size_t count, Lsn end,
                      Error *err) MUST_USE;

/* ---- segment_file: NAME.partial, while it is written ---- */

typedef struct SegmentFile {
    int fd;     /* open for reading and writing; -1: none */
    char *path; /* owned */
    uint64_t size;
    bool durable;
    bool lasts;       /* it is to be the segment's file itself: worth writing back early */
    uint64_t started; /* write-back was started up to here */
} SegmentFile;

#define SEGMENT_FILE_NONE ((SegmentFile){.fd = -1})

/* Whether there is NAME.partial. */
bool segment_file_exists(const WalDirConfig *config, const char *name, bool *ret_exists,
                         Error *err) MUST_USE;

/*
 * Opens DIRECTORY/NAME.partial as the config says, makes it if need be and gives it the room of a
 * whole segment; what it holds stays, and it does not get shorter.
 */
bool segment_file_open(const WalDirConfig *config, const char *name, SegmentFile *ret_file,
                       Error *err) MUST_USE;
bool segment_file_write(SegmentFile *file, Span data, uint64_t at, Error *err) MUST_USE;

/* From the beginning on, what may be very much. */
bool segment_file_fill(SegmentFile *file, Span data, Error *err) MUST_USE;

/* Zeros from `at` to the end: written ones. */
bool segment_file_pad(SegmentFile *file, uint64_t at, Error *err) MUST_USE;

/* All of the segment is written: cut off what an older, longer file leaves behind it. */
bool segment_file_trim(SegmentFile *file, Error *err) MUST_USE;

/* What was written is on disk, if the directory is durable; the name is another matter. */
bool segment_file_sync(const SegmentFile *file, Error *err) MUST_USE;

/* The path stays, for segment_file_free. */
bool segment_file_close(SegmentFile *file, Error *err) MUST_USE;

/* In any state; what close has to say does not matter any more. */
void segment_file_free(SegmentFile *file);

/*
 * Room for a segment that nobody knows the name of yet: zeros that are on disk, in a file without a
 * name. -1 when the system has no such files, when it cannot be made, or when `ending` becomes true
 * meanwhile: a segment does without it.
 */
int segment_room_make(const WalDirConfig *config, const atomic_bool *ending);

/* Owns `room` (-1: none). It becomes DIRECTORY/NAME.partial, unless that exists. */
bool segment_room_use(int room, const WalDirConfig *config, const char *name, Error *err) MUST_USE;

/* ---- complete segments, until they have their names ---- */

typedef struct CompleteSegment {
    SegmentFile file; /* of which all is written; none while it is in memory only */
    uint8_t *bytes;   /* all of it, in memory; NULL: in the file */
    char name[WAL_NAME_SIZE];
    Lsn end;   /* for the marks; 0: none */
    bool done; /* becomes NAME.done too, if the config has them */
} CompleteSegment;

/* Reads one from its beginning on, wherever it is. */
typedef struct SegmentBytes {
    const CompleteSegment *segment; /* its file's offset is changed */
    size_t size;                    /* of a segment */
    size_t at;
    uint8_t *buffer; /* for what is read from a file */
} SegmentBytes;

bool segment_bytes_rewind(SegmentBytes *bytes, Error *err) MUST_USE;

/* The next `len` bytes, no more than the buffer holds; fewer only at the end. Valid until the next
 * call. */
bool segment_bytes_next(SegmentBytes *bytes, size_t len, Span *ret_bytes, Error *err) MUST_USE;

/* ---- conflict: what is where a complete segment belongs ---- */

typedef struct ConflictCheck {
    const WalDirConfig *config;
    const CompleteSegment *segment;
    const atomic_bool *ending; /* gives up when it becomes true: ERR_STOPPED */
    uint8_t *buffer;           /* for comparing */
    size_t buffer_size;
} ConflictCheck;

/*
 * *ret_exists: the directory has the same segment already, in some compression, on disk if the
 * directory is durable. Files that are not this segment are moved out of the way. EEXIST when one
 * is there that is sound, but another.
 */
bool conflict_resolve(const ConflictCheck *check, bool *ret_exists, Error *err) MUST_USE;

/* ---- segment_job: what is done for a complete segment ---- */

typedef struct SegmentJob {
    CompleteSegment segment;
    bool exists; /* the directory has it already; known when it is prepared */
    char *temp;  /* owned: what it is compressed into, until that has its name; or NULL */
} SegmentJob;

/* What a thread needs to prepare one after the other. */
typedef struct SegmentTools {
    const WalDirConfig *config;
    const atomic_bool *ending; /* give up when it becomes true: ERR_STOPPED */
    Sink *compress;            /* into a file of the directory; NULL: not */
    uint8_t *buffer;
} SegmentTools;

/* In any case to be freed. `config` and `ending` are borrowed. */
bool segment_tools_init(SegmentTools *tools, const WalDirConfig *config, const atomic_bool *ending,
                        Error *err) MUST_USE;
void segment_tools_free(SegmentTools *tools);

/* Its bytes are on disk in its file, which is made if they are in memory only. The file's name is
 * another matter. Another thread may prepare it meanwhile. */
bool segment_job_sync(SegmentJob *job, const WalDirConfig *config, Error *err) MUST_USE;

/* Look at what is in the way, and compress it if the config says so. */
bool segment_job_prepare(SegmentJob *job, const SegmentTools *tools, Error *err) MUST_USE;

/* It gets its name. One that is compressed may be synced meanwhile. */
bool segment_job_name(SegmentJob *job, const WalDirConfig *config, Error *err) MUST_USE;

/* Its name is on disk, and nobody syncs its file any more: marks, .done, and what is left of it
 * under other names goes. */
bool segment_job_conclude(const SegmentJob *job, const WalDirConfig *config, Error *err) MUST_USE;

/* In any state; removes what was compressed and has no name. The segment's memory is not its own.
 */
void segment_job_free(SegmentJob *job);

/* Removes NAME.partial when the segment is complete and sound in another form: so it is left by a
 * run that is killed between naming the one and removing the other. */
bool segment_tidy(const WalDirConfig *config, const char *name, Error *err) MUST_USE;

/* ---- completion: complete segments get their names, by threads of their own ---- */

/*
 * Each segment takes three steps: its file is synced; it is prepared (what is in the way is looked
 * at, and with compression it is compressed into a temporary file); and it is published under its
 * name, in order. Threads take whatever step comes next. One thread uses this; after a failure it
 * has to call completion_halt.
 *
 * Segments that are to be compressed may come in memory, which is lent: no more than for a few of
 * them altogether, and it comes back with the segment, or by itself.
 */
typedef struct Completion Completion;

/* So many segments at most are on their way. */
#define COMPLETION_QUEUE ((size_t)8)

/* Segments of up to this size are gathered in memory. */
#define COMPLETION_MEMORY_MAX ((uint32_t)16 * 1024 * 1024)

/* `config` is borrowed as long as it lives. */
Completion *completion_new(const WalDirConfig *config, Error *err) MUST_USE;

/*
 * For how many segments there is memory. 0 when they are not gathered: when they are larger than
 * that; without compression, where there is nothing to gain; in a directory that is not synced,
 * where no FLUSH may ever ask for them; and where each commit waits for one (write_ahead), which
 * comes before they are complete.
 */
size_t completion_memory_for(const WalDirConfig *config);

/* The memory of a segment; waits until some is free. NULL when they are not gathered. */
bool completion_lend_memory(Completion *completion, uint8_t **ret_bytes, Error *err) MUST_USE;

/* Not needed any more; NULL is welcome. */
void completion_return_memory(Completion *completion, uint8_t *bytes);

/* Owns the segment's file and memory from the call on. Waits while there are too many. */
bool completion_add(Completion *completion, const CompleteSegment *segment, Error *err) MUST_USE;

/* False once something has failed; does not wait. */
bool completion_check(Completion *completion, Error *err) MUST_USE;

/* Waits until the content of all that was added is on disk, under one name or the other: what is in
 * memory only is written to NAME.partial. Those names are the caller's to sync. Does not wait for
 * compression. */
bool completion_sync(Completion *completion, Error *err) MUST_USE;

/* Waits until all that was added has its name. */
bool completion_drain(Completion *completion, Error *err) MUST_USE;

/* Room for the next segment shall be made, when there is nothing else to do. */
void completion_want_room(Completion *completion);

/* Waits until it is made, or cannot be. */
bool completion_await_room(Completion *completion, Error *err) MUST_USE;

/* That room, owned by the caller from now on; -1: none is ready. */
int completion_take_room(Completion *completion);

/* The threads end, with what they are at. Nothing is touched any more; what has no name stays as it
 * is. */
void completion_halt(Completion *completion);
void completion_free(Completion *completion);

/* ---- wal_dir_files: the small files of a WAL directory ---- */

/* Far beyond any real history: a line for each timeline, of some fifty bytes. */
#define WAL_HISTORY_MAX ((uint64_t)16 * 1024 * 1024)

/* Writes DIRECTORY/NAME through NAME.tmp. One that exists must have the same content. */
bool wal_history_write(const WalDirConfig *config, const char *name, Span content,
                       Error *err) MUST_USE;

/* Makes archive_status/NAME.done, if the config has them; not synced. */
bool archive_status_done(const WalDirConfig *config, const char *name, Error *err) MUST_USE;
bool archive_status_sync(const WalDirConfig *config, Error *err) MUST_USE;

/* The directory is synced, if it is a durable one: the names in it are on disk. */
bool wal_dir_sync_names(const WalDirConfig *config, Error *err) MUST_USE;

#endif
