/*
 * Inside the basebackup room: the pieces that backup.c puts in order.
 */
#ifndef PGSTOW_BASEBACKUP_INTERNAL_H
#define PGSTOW_BASEBACKUP_INTERNAL_H

#include "basebackup/basebackup.h"
#include "manifest/manifest.h"
#include "manifest/page_digests.h"
#include "stream/stream.h"
#include "verify/verify.h"

/* ---- plan.c: what kind of backup it will be; pure ---- */

/* What follows from the options and what the server can do. */
typedef struct Plan {
    BackupFormat format;
    bool to_server;    /* -t: nothing comes here but progress */
    bool to_stdout;    /* one archive, to standard output */
    bool in_stream;    /* its manifest becomes the last member of that archive */
    bool rewrite;      /* archives are parsed and written anew: something is put into them */
    bool in_flight;    /* files are digested as they pass */
    bool page_check;   /* and their pages looked at, if the cluster has checksums */
    bool page_digests; /* and the CRCs of their pages written beside them */
    CompressionMethod arriving; /* how the server sends or stores archives */
    Compression leaving;        /* how the files we write are compressed; FORMAT_TAR only */
    ManifestRequest manifest;   /* that the server is asked for */
} Plan;

/* ERR_UNSUPPORTED, by name and version, for what this server cannot do. */
bool plan_make(const BackupOptions *options, const ServerFeatures *features,
               const char *version_text, Plan *ret_plan, Error *err) MUST_USE;

/* What can only be said once the server has listed its tablespaces. */
bool plan_check_tablespaces(const Plan *plan, size_t count, Error *err) MUST_USE;

/* ---- observe.c: calls that take formatted text and an observer without that callback ---- */

void observe_note(const BackupObserver *observer, const char *fmt, ...) PRINTF_LIKE(2, 3);
void observe_info(const BackupObserver *observer, const char *fmt, ...) PRINTF_LIKE(2, 3);
void observe_problem(const BackupObserver *observer, const Problem *problem);

/* Counts what arrives and calls the observer about once a second. */
typedef struct Progress {
    const BackupObserver *observer;
    BackupProgress now;
    uint64_t told;     /* now.done, when the observer was called last */
    uint64_t received; /* bytes as they came, the manifest included */
    bool server_counts;
    int64_t begun_ms;
    int64_t last_ms;
} Progress;

void progress_init(Progress *progress, const BackupObserver *observer);
void progress_begin(Progress *progress, const BackupStart *start, const Plan *plan);
void progress_archive(Progress *progress, size_t complete, const char *directory);
void progress_bytes(Progress *progress, size_t len);

/* As the server counts, where what arrives is not what it read: compressed, or sent elsewhere. */
void progress_set(Progress *progress, uint64_t done);
void progress_tick(Progress *progress);
void progress_finish(Progress *progress);

/* ---- target.c: the directories of a backup, and taking them back ---- */

/*
 * Directories are claimed before anything is written into them: made, or found empty. What was
 * claimed can be taken back; nothing else is ever removed.
 */
typedef struct Target Target;

Target *target_new(Error *err) MUST_USE;
bool target_claim(Target *target, const char *path, mode_t mode, Error *err) MUST_USE;

/* The directory PARENT/NAME inside one that is claimed, which may be there, with exactly this mode.
 */
bool target_make_inside(const char *parent, const char *name, mode_t mode, Error *err) MUST_USE;

/* Once their content is on disk: the directories that were made above the claimed ones. */
bool target_sync(const Target *target, Error *err) MUST_USE;

/* The symbolic link PATH, leading to `to`, inside a claimed directory, with which it goes away. */
bool target_link(const Target *target, const char *path, const char *to, Error *err) MUST_USE;

/*
 * The new file PARENT/NAME, as durable as `sync` says (SYNC_SYNCFS: by itself, as SYNC_FSYNC).
 * After a failure it may be there, as far as it got: what it marks stays marked.
 */
bool target_make_file(const char *parent, const char *name, Span content, mode_t mode,
                      SyncMethod sync, Error *err) MUST_USE;

/* In the directory of a backup that was kept although pages in it are damaged: lists them. */
#define TARGET_BAD_PAGES "backup_bad_pages"

void target_take_back(Target *target, const BackupObserver *observer);

/* Tell what stays behind after a failure with --no-clean. */
void target_tell_kept(const Target *target, const BackupObserver *observer);
void target_free(Target *target);

/* ---- layout.c: where each archive goes; pure ---- */

/* One per tablespace of BackupStart, in its order. */
typedef struct Place {
    Oid oid;
    char archive[32]; /* the name the server uses: "base.tar", "16385.tar.gz" */
    char *directory;  /* owned: where its files go; NULL unless they are laid out here */
    char *shown;      /* owned: the directory or file that progress tells of */
    bool in_place;    /* inside the data directory, without a link */
} Place;

typedef struct Layout {
    Place *places;
    size_t count;
    const TablespaceMapping *mappings; /* borrowed from the options */
    size_t mapping_count;
} Layout;

bool layout_make(const BackupOptions *options, const Plan *plan, const BackupStart *start,
                 Layout *ret_layout, Error *err) MUST_USE;
void layout_free(Layout *layout);
const Place *layout_place(const Layout *layout, Oid oid);

/*
 * Where the link of a tablespace shall lead: to its files, whatever the archive says. One that was
 * made after the server listed them has no files here: its link is mapped. NULL: as it is.
 */
const char *layout_link_target(const Layout *layout, Oid oid, const char *target);

/* ---- recovery.c: -R ---- */

/*
 * What a standby is told: the text for postgresql.auto.conf, or a whole recovery.conf for servers
 * before 12 (`in_own_file`). `slot` may be NULL. Pure; appends to `text`.
 */
bool recovery_text(const char *conninfo, const char *slot, bool in_own_file, Buf *text,
                   Error *err) MUST_USE;

/*
 * A stage for parsed archives that puts these settings into the data directory's: appended to its
 * postgresql.auto.conf (made when there is none), on a line of their own, with an empty
 * standby.signal in place of any; or as recovery.conf in place of any. Copies `text`.
 */
typedef struct RecoveryConfig {
    Span text;
    bool in_own_file;
    mode_t file_mode; /* 0600 or 0640: of files that the server did not send */
} RecoveryConfig;

Sink *recovery_inject_new(Sink *next, const RecoveryConfig *config, Error *err) MUST_USE;

/* ---- manifest_file.c: the manifest on its way to disk ---- */

/*
 * Writes backup_manifest.tmp while reading it; published under its name at the very end. Without a
 * directory (NULL) it is kept in memory for manifest_inject.
 */
typedef struct ManifestFileWriter ManifestFileWriter;

ManifestFileWriter *manifest_file_new(const char *directory, mode_t mode, Error *err) MUST_USE;
bool manifest_file_write(ManifestFileWriter *writer, Span bytes, Error *err) MUST_USE;

/* All bytes have arrived: check and close it. *ret_manifest is owned by the writer. */
bool manifest_file_finish(ManifestFileWriter *writer, bool sync, const Manifest **ret_manifest,
                          Error *err) MUST_USE;
bool manifest_file_publish(ManifestFileWriter *writer, bool sync, Error *err) MUST_USE;
void manifest_file_free(ManifestFileWriter *writer);

typedef enum GuardedNames { GUARD_MANIFEST, GUARD_PAGE_DIGESTS_TOO } GuardedNames;

/*
 * A stage for parsed archives: refuses what would lie under the manifest's two names in the data
 * directory, under that of the list of bad pages or, if those are written there, under the two of
 * the page digests. Servers leave out backup_manifest alone.
 */
Sink *manifest_guard_new(Sink *next, GuardedNames names, Error *err) MUST_USE;

/*
 * A stage for parsed archives: when the archive of the data directory ends, and the manifest has
 * been published by then, it becomes the last entry. Borrows the writer.
 */
Sink *manifest_inject_new(Sink *next, const ManifestFileWriter *writer, Error *err) MUST_USE;

/* ---- pages_file.c: backup_pages on its way to disk (--page-digests) ---- */

/* Written as backup_pages.tmp, which gets its name before the manifest gets its own. */
typedef struct PagesFile PagesFile;

PagesFile *pages_file_new(const char *directory, mode_t mode, uint32_t page_size,
                          Error *err) MUST_USE;

/* For the ledger. */
PageDigestWriter *pages_file_writer(const PagesFile *file);

/* All files have passed. */
bool pages_file_publish(PagesFile *file, bool sync, Error *err) MUST_USE;
void pages_file_free(PagesFile *file);

/* ---- chain.c: the stages between the server and the disk ---- */

typedef struct ChainConfig {
    const Plan *plan;
    const BackupOptions *options;
    const Layout *layout;
    const Stop *stop;
    bool terminated; /* archives come with their end-of-archive blocks */
    mode_t directory_mode;
    mode_t file_mode;
    Ledger *ledger;                     /* NULL: nothing is compared */
    const PageCheckConfig *pages;       /* NULL: pages are not looked at */
    PageTally *tally;                   /* with `pages` */
    const RecoveryConfig *recovery;     /* NULL without -R */
    const ManifestFileWriter *manifest; /* for plan->in_stream */
} ChainConfig;

/* Borrows all of `config` until the chain is freed. *ret_handoff is the one in the chain; NULL when
 * nothing is written here. */
Sink *chain_new(const ChainConfig *config, Sink **ret_handoff, Error *err) MUST_USE;

/* ---- demux.c: from COPY data to the chain ---- */

typedef struct DemuxConfig {
    Conn *conn;
    const BackupStart *start;
    const Layout *layout;
    Sink *sink;                   /* takes opaque archives; not finished by demux */
    Sink *handoff;                /* in that chain: written out while the server pauses, or NULL */
    bool hold_end;                /* the last archive's end is left to the caller */
    bool elsewhere;               /* a target gets the data: here come names and progress alone */
    ManifestFileWriter *manifest; /* NULL when none was asked for */
    Progress *progress;
    const Stop *stop;
} DemuxConfig;

/* Receives all archives and the manifest, in either wire form. */
bool demux_run(const DemuxConfig *config, Error *err) MUST_USE;

/* ---- walstream.c: WAL beside the backup ---- */

typedef struct WalStream WalStream;

typedef struct WalStreamConfig {
    const Conn *beside; /* the backup's connection: same server, same credentials */
    const ConnConfig *conn;
    const BackupOptions *options;
    const Plan *plan;
    const BackupObserver *observer;
    uint64_t system_id;
    uint32_t segment_size;
    Lsn start; /* the backup's start */
    TimeLineID timeline;
    mode_t file_mode;
    bool *slot_made; /* set once a permanent slot has been made (-C) */
    Stop *stop;      /* requested when streaming fails */
} WalStreamConfig;

/* Connects, makes the slot and starts the thread. */
WalStream *walstream_start(const WalStreamConfig *config, Error *err) MUST_USE;

/* Let it run up to `end`, wait for it, and make sure that every record up to there is intact. */
bool walstream_finish(WalStream *stream, Lsn end, Error *err) MUST_USE;

/* Whether the stream has failed, and why: after a stop that nobody else asked for. */
bool walstream_failed(WalStream *stream, Error *ret_reason);

/* Bytes of WAL that were received; after walstream_finish. */
uint64_t walstream_received(const WalStream *stream);

/*
 * Drop the permanent slot that a run has made, on a connection of its own beside `beside`, in ten
 * seconds at most: the run's stop may be why it ended.
 */
bool walstream_drop_slot(const Conn *beside, const ConnConfig *conn, const char *slot,
                         Error *err) MUST_USE;

/* Ends the thread first if it still runs. */
void walstream_free(WalStream *stream);

#endif
