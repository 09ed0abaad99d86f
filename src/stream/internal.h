/*
 * Shared by the files of this room and its unit tests.
 */
#ifndef PGSTOW_STREAM_INTERNAL_H
#define PGSTOW_STREAM_INTERNAL_H

#include "stream/stage.h"

/* ---- sink ---- */

/* `sink` dies of `err`, unless it is dead already: then `err` becomes what it died of. Always
 * false. */
bool sink_die(Sink *sink, Error *err);

/* ---- sync_pool: a few threads that fsync and close files and directories ---- */

/*
 * Files go in as open descriptors and are on disk once sync_pool_drain has returned true. The queue
 * is bounded: sync_pool_add waits while it is full. The first failure is kept and reported by every
 * later call; after it files are closed without a sync. One thread adds, drains and frees.
 * sync_pool_free takes NULL and any state; files still queued are closed without a sync.
 */
#define SYNC_POOL_THREADS 4
#define SYNC_POOL_QUEUE   64

typedef struct SyncPool SyncPool;

SyncPool *sync_pool_new(Error *err) MUST_USE;

/* Owns `fd` and `path` (from malloc; for messages) from the call on, even when it fails. */
bool sync_pool_add(SyncPool *pool, int fd, char *path, Error *err) MUST_USE;

/* The directory `root`, all directories below it (links are not followed) and the one it is in. */
bool sync_pool_add_tree(SyncPool *pool, const char *root, Error *err) MUST_USE;

/* False once a sync has failed; does not wait. */
bool sync_pool_check(SyncPool *pool, Error *err) MUST_USE;

/* Wait until everything that was added is on disk. */
bool sync_pool_drain(SyncPool *pool, Error *err) MUST_USE;
void sync_pool_free(SyncPool *pool);

#endif
