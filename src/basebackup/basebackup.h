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

typedef enum WalMethod { WAL_NONE, WAL_FETCH, WAL_STREAM } WalMethod;

/* -T OLD=NEW: both absolute and canonical. */
typedef struct TablespaceMapping {
    const char *from;
    const char *to;
} TablespaceMapping;

typedef struct BackupOptions {
    const char *directory; /* -D */
    WalMethod wal_method;
    bool fast_checkpoint;
    const char *label;
    const char *slot; /* -S, or NULL */
    bool create_slot; /* -C */
    bool no_slot;
    uint32_t max_rate_kb; /* 0: no limit */
    bool estimate_size;
    bool no_sync;
    bool no_clean;
    ManifestRequest manifest;
    const char *manifest_checksums; /* as given, or NULL */
    bool no_verify_checksums;
    int64_t status_interval_ms;
    const TablespaceMapping *mappings;
    size_t mapping_count;
} BackupOptions;

typedef struct BackupProgress {
    uint64_t done;     /* bytes received */
    uint64_t total;    /* estimate; 0: none */
    size_t tablespace; /* archives that are complete */
    size_t tablespace_count;
    const char *current; /* the directory that is being filled; NULL: none */
    bool finished;       /* the last call */
} BackupProgress;

/* Who is told what happens; each callback may be NULL. */
typedef struct BackupObserver {
    void *ctx;
    /* A step, for -v. */
    void (*note)(void *ctx, const char *message);
    /* What the user must learn: what was removed or kept. */
    void (*info)(void *ctx, const char *message);
    /* One file that does not agree with the manifest. */
    void (*problem)(void *ctx, const char *message);
    /* The backup has failed; what was made is going to be taken back. */
    void (*failed)(void *ctx, const Error *err);
    /* The server is about to make a checkpoint. */
    void (*waiting)(void *ctx);
    /* About once a second, and at the end. */
    void (*progress)(void *ctx, const BackupProgress *progress);
} BackupObserver;

/* `stop` may be requested by anybody; this function requests it itself to end its own threads when
 * one of them fails. */
bool basebackup_run(const ConnConfig *conn, const BackupOptions *options,
                    const BackupObserver *observer, Stop *stop, Error *err) MUST_USE;

#endif
