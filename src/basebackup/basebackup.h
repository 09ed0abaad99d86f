/*
 * Taking a base backup: a request in, a directory with a verified, durable backup out.
 *
 * basebackup_run connects, takes the backup and, with WAL_STREAM, streams WAL beside it on a second
 * connection and thread. Every file is compared with the server's manifest as it arrives (servers
 * 13+); WAL records are checked as they pass. backup_manifest appears under its name only when
 * everything else is complete and, unless NO_SYNC, on disk. On failure what this run made is
 * removed (unless no_clean). Called from one thread; the observer is called from that thread only.
 */
#ifndef PGSTOW_BASEBACKUP_H
#define PGSTOW_BASEBACKUP_H

#include "common/error.h"
#include "common/pgtypes.h"
#include "common/runtime.h"
#include "protocol/protocol.h"
#include "stream/compression.h"
#include "stream/stream.h"
#include "verify/verify.h"

typedef enum BackupFormat { FORMAT_PLAIN, FORMAT_TAR } BackupFormat;
typedef enum WalMethod { WAL_NONE, WAL_FETCH, WAL_STREAM } WalMethod;

/* -T OLD=NEW: both absolute and canonical. */
typedef struct TablespaceMapping {
    const char *from;
    const char *to;
} TablespaceMapping;

typedef struct BackupOptions {
    const char *directory; /* -D; "-" with FORMAT_TAR: standard output; NULL with a target */
    BackupFormat format;
    const char *target;        /* -t, what is in front of the colon; NULL: to us */
    const char *target_detail; /* behind it, or NULL */
    WalMethod wal_method;
    const char *wal_directory;      /* --waldir, or NULL */
    Compression compression;        /* on our side: FORMAT_TAR only */
    const char *server_compression; /* on the server's: its method as given; NULL: none */
    const char *server_compression_detail;
    const char *incremental; /* -i: the manifest of the earlier backup, or NULL */
    bool write_recovery;     /* -R */
    bool fast_checkpoint;
    const char *label;
    const char *slot; /* -S, or NULL */
    bool create_slot; /* -C */
    bool no_slot;
    uint32_t max_rate_kb; /* 0: no limit */
    bool estimate_size;
    SyncMethod sync;
    bool no_clean;
    bool no_verify_checksums;
    bool page_digests; /* write backup_pages: beside a manifest, into a directory */
    ManifestRequest manifest;
    const char *manifest_checksums; /* as given, or NULL */
    int64_t status_interval_ms;
    const TablespaceMapping *mappings;
    size_t mapping_count;
} BackupOptions;

/* Once the server has begun to send. */
typedef struct BackupBegin {
    Lsn start;
    TimeLineID timeline;
    uint64_t total; /* estimate, bytes; 0: none */
    size_t tablespace_count;
    int server_version; /* 180006 */
} BackupBegin;

/* What there is in the end. */
typedef struct BackupSummary {
    uint64_t received; /* bytes of archives and manifest, as they came */
    uint64_t wal_received;
    int64_t elapsed_ms;
    Lsn start;
    Lsn end;
    TimeLineID timeline; /* at the end */
    bool manifest_checked;
    uint64_t files; /* compared with the manifest */
    uint64_t bytes;
    bool pages_checked;
    uint64_t pages;
    uint64_t bad_pages;
    bool wal_checked;
    bool durable;   /* all is on disk */
    bool elsewhere; /* the server has written it, or nobody: a target */
} BackupSummary;

typedef struct BackupProgress {
    uint64_t done;     /* bytes received */
    uint64_t total;    /* estimate; 0: none */
    size_t tablespace; /* archives that are complete */
    size_t tablespace_count;
    const char *current; /* the directory or file that is being filled; NULL: none */
    int64_t elapsed_ms;  /* since the first byte was asked for */
    bool finished;       /* the last call */
} BackupProgress;

/* Who is told what happens; each callback may be NULL. */
typedef struct BackupObserver {
    void *ctx;
    /* A step, for -v. */
    void (*note)(void *ctx, const char *message);
    /* What the user must learn: what was removed or kept. */
    void (*info)(void *ctx, const char *message);
    /* A file that does not agree with the manifest, or a page with a wrong checksum. */
    void (*problem)(void *ctx, const Problem *problem);
    /* The backup has failed; what was made is going to be taken back. */
    void (*failed)(void *ctx, const Error *err);
    /* The server is about to make a checkpoint. */
    void (*waiting)(void *ctx);
    void (*begun)(void *ctx, const BackupBegin *begin);
    /* About once a second, and at the end. */
    void (*progress)(void *ctx, const BackupProgress *progress);
    /* It is complete. Also called, before `failed`, for one that is kept though pages are bad. */
    void (*completed)(void *ctx, const BackupSummary *summary);
} BackupObserver;

/* `stop` may be requested by anybody; this function requests it itself to end its own threads when
 * one of them fails. */
bool basebackup_run(const ConnConfig *conn, const BackupOptions *options,
                    const BackupObserver *observer, Stop *stop, Error *err) MUST_USE;

#endif
