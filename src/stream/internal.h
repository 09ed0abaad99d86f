/*
 * Shared by the files of this room and its unit tests.
 */
#ifndef PGSTOW_STREAM_INTERNAL_H
#define PGSTOW_STREAM_INTERNAL_H

#include "stream/compression.h"
#include "stream/stage.h"

/* ---- sink ---- */

/* `sink` dies of `err`, unless it is dead already: then `err` becomes what it died of. Always
 * false. */
bool sink_die(Sink *sink, Error *err);

/* ---- durable: what those who write files have in common ---- */

/*
 * Everything on the file system of `fd`, which should be older than what was written: failures from
 * before it was opened may have been told to somebody else.
 */
bool durable_sync_file_system(int fd, const char *path, Error *err) MUST_USE;

/*
 * The directory that holds directory `fd`, whatever names and links led there. We may have the
 * right to make a directory in it and not to read it; then the whole file system is synced instead
 * and *ret_parent is -1.
 */
bool durable_open_parent(int fd, const char *path, int *ret_parent, Error *err) MUST_USE;

/* That directory synced: the name of `fd` is on disk. */
bool durable_sync_parent(int fd, const char *path, Error *err) MUST_USE;

/* Whether a syncfs of this file system tells every failure, and costs no more than what there is to
 * write: one that we know, on this machine. */
bool durable_tells_failures(int fd);

/* How many bytes wait in the page cache to be written, whosever they are; 0: unknown. */
uint64_t durable_waiting(void);

/* ---- small_files: many of them in a block of memory ---- */

/* A directory below which files are made; open from before the first of them on. */
typedef struct WriteRoot {
    const char *path;
    int fd;
    bool whole; /* its file system may be synced as a whole: see durable_tells_failures */
} WriteRoot;

/* A file to make. All is borrowed for the call. */
typedef struct NewFile {
    const WriteRoot *root;
    int dir_fd;       /* the directory it is made in */
    const char *path; /* in full, for messages; the last component is its name */
    mode_t mode;      /* exactly this, whatever the umask */
    uint64_t size;
} NewFile;

/* It must not exist. Open for writing, or -1. */
int new_file_create(int dir_fd, const char *path, mode_t mode, Error *err) MUST_USE;

/* What a file needs in a block; to put it there, where its content follows what is returned. */
size_t small_file_room(const NewFile *file);
size_t small_file_put(uint8_t *block, const NewFile *file);

/* Whether the first file of the block is in the directory that this one is in. */
bool small_files_are_in(const uint8_t *block, const char *path);

typedef enum SmallSync {
    SMALL_CLOSE, /* that is all */
    SMALL_SYNC,  /* each is synced */
    SMALL_LEFT   /* a syncfs comes later */
} SmallSync;

/* As many as may be open at the same time, from the front of *files. */
bool small_files_write(int dir_fd, Span *files, SmallSync sync, Error *err) MUST_USE;

/* ---- write_pool: a few threads that write, sync and close files ---- */

/*
 * One file after the other comes in, and is written once write_pool_drain has returned true. What
 * comes in is copied; adding waits while all blocks are on their way. Files are made as they come
 * in, but small ones together, some time before drain returns. With SYNC_FSYNC, drain is also told
 * that the content is on disk; with SYNC_BEST, it may be left to write_pool_sync_root, as with
 * SYNC_SYNCFS.
 * The first failure is kept and reported by every later call; after it files are closed and nothing
 * else. One thread adds, drains and frees. write_pool_free takes NULL and any state; what is still
 * queued is closed as it is.
 */
#define WRITE_POOL_THREADS 4
#define WRITE_POOL_BLOCKS  24
#define WRITE_POOL_QUEUE   64
#define WRITE_POOL_BLOCK   ((size_t)1024 * 1024)

typedef struct WritePool WritePool;

/* While the adder waits, `while_full` is called every second, and ends the wait when it is false;
 * may be NULL. */
WritePool *write_pool_new(SyncMethod sync, bool (*while_full)(void *ctx, Error *err), void *ctx,
                          Error *err) MUST_USE;

/* The file gets as many bytes as it has announced, then its end. The root's descriptor and path
 * stay until the pool is freed. */
bool write_pool_begin(WritePool *pool, const NewFile *file, Error *err) MUST_USE;
bool write_pool_data(WritePool *pool, Span data, Error *err) MUST_USE;
bool write_pool_end(WritePool *pool, Error *err) MUST_USE;

/* The directory `root`, all directories below it (links are not followed) and the one it is in are
 * synced, whatever the pool does with files. */
bool write_pool_add_tree(WritePool *pool, const char *root, Error *err) MUST_USE;

/* After drain, and unless SYNC_NONE: what is below the root and not on disk yet, names too, is
 * synced as the pool's method says, by the next drain at the latest. */
bool write_pool_sync_root(WritePool *pool, const WriteRoot *root, Error *err) MUST_USE;

/* False once something has failed; does not wait. */
bool write_pool_check(WritePool *pool, Error *err) MUST_USE;

/* Wait until everything that was added is done. */
bool write_pool_drain(WritePool *pool, Error *err) MUST_USE;
void write_pool_free(WritePool *pool);

/* ---- codec: what a compression library does for the stages of codec.c ---- */

/*
 * A context compresses or decompresses one member after the other (a gzip member, an lz4 or zstd
 * frame): begin, then steps until its end. A step takes from the front of *in, which has at most
 * CODEC_SLICE bytes and points to some even when it has none, and appends to `out`, which has room
 * for at least the bytes that the constructor asked for. Output may come with a later step than its
 * input did, until a FLUSH or the END wants all of it. Errors do not name the archive.
 */
#define CODEC_SLICE     ((size_t)256 * 1024)
#define CODEC_MAGIC_MAX 4

typedef struct CodecLevels {
    int min;
    int max;
    int standard; /* unless one is given; need not lie between the others */
} CodecLevels;

typedef enum CodecStep {
    CODEC_CONTINUE, /* take input */
    CODEC_FLUSH,    /* make what was taken readable from the output */
    CODEC_END       /* end the member */
} CodecStep;

typedef enum CodecProgress {
    CODEC_MORE, /* call again, with what is left of the input and new room */
    CODEC_DONE, /* the step is over: all input taken, and all output given that it asks for */
    CODEC_ENDED /* so is the member; the input may go on */
} CodecProgress;

typedef struct CodecOps {
    CodecLevels (*levels)(void);

    uint8_t magic[CODEC_MAGIC_MAX]; /* the first bytes of a member */
    size_t magic_size;
    bool skippable; /* members may also be skippable frames, which have no content */

    /* NULL and `err` set, or a context for the functions below. */
    void *(*compress_new)(const Compression *compression, size_t *ret_room, Error *err);
    bool (*compress_begin)(void *ctx, Buf *out, Error *err);
    bool (*compress_step)(void *ctx, CodecStep step, Span *in, Buf *out,
                          CodecProgress *ret_progress, Error *err);
    void (*compress_free)(void *ctx);

    /* Likewise. The step's input begins with the magic after decompress_begin. */
    void *(*decompress_new)(size_t *ret_room, Error *err);
    bool (*decompress_begin)(void *ctx, Error *err);
    bool (*decompress_step)(void *ctx, Span *in, Buf *out, CodecProgress *ret_progress, Error *err);
    void (*decompress_free)(void *ctx);
} CodecOps;

extern const CodecOps codec_gzip;
extern const CodecOps codec_lz4;
extern const CodecOps codec_zstd;

/* NULL for COMPRESSION_NONE. */
const CodecOps *codec_of(CompressionMethod method);

/* ---- block_pool: blocks that are compressed side by side, and come out in order ---- */

/*
 * One thread puts bytes in, which are cut into blocks of one size, and takes what became of them,
 * in their order. Workers, each with a context and a thread of its own, do the work between; with
 * none of them, and where no thread can be had, the pushing thread does it as soon as a block is
 * full. What comes out does not depend on how many there are. Memory is bounded: two buffers per
 * slot, and two slots more than workers.
 */
typedef struct BlockPool BlockPool;

typedef struct BlockOps {
    /* NULL and `err` set, or what one worker compresses with; `config` is lent for the call. */
    void *(*worker_new)(const void *config, Error *err);
    void (*worker_free)(void *worker);

    /* In any thread, but in one at a time per worker. `out` is empty and has the room that the pool
     * was asked for. *ret_check is for whoever takes the block, whatever it means. */
    bool (*compress)(void *worker, Span block, Buf *out, uint32_t *ret_check, Error *err);
} BlockOps;

typedef struct BlockPoolConfig {
    const BlockOps *ops;
    const void *ctx; /* for worker_new */
    size_t block_size;
    size_t out_size; /* the most that a block becomes */
    size_t workers;  /* 0: none besides the calling thread */
} BlockPoolConfig;

/* What became of a block, until it is released. */
typedef struct PoolBlock {
    Span out; /* without bytes: there is no block */
    size_t size;
    uint32_t check;
} PoolBlock;

typedef enum BlockWait { BLOCK_IF_DONE, BLOCK_WAIT } BlockWait;

BlockPool *block_pool_new(const BlockPoolConfig *config, Error *err) MUST_USE;

/* Takes from the front of *data. What it leaves there it has no room for: then it has a block to
 * wait for and to release first. */
void block_pool_put(BlockPool *pool, Span *data);

/* The block that is not full yet is as long as it shall be. */
void block_pool_cut(BlockPool *pool);

/* Nothing was put in that was not released. */
bool block_pool_is_empty(const BlockPool *pool);

/* The oldest block; none, if it is not done and need not be waited for, or if all were released.
 * The failure of a block is told in its turn, once, and releases it. */
bool block_pool_next(BlockPool *pool, BlockWait wait, PoolBlock *ret_block, Error *err) MUST_USE;
void block_pool_release(BlockPool *pool);

/* In any state; joins the workers, which end what they have begun. */
void block_pool_free(BlockPool *pool);

/* ---- deflate_join: streams of RFC 1951, one behind the other ---- */

/*
 * `stream` is a complete deflate stream. Its last block becomes one that is not the last, and an
 * empty stored block brings its end to a byte's boundary: another stream can follow, and all that
 * is in this one can be read without it. It becomes DEFLATE_OPEN_MAX bytes longer, at most; it is
 * left alone when it is not what it should be (ERR_FORMAT), whatever it is.
 */
#define DEFLATE_OPEN_MAX ((size_t)5)

bool deflate_open_end(Buf *stream, Error *err) MUST_USE;

/* The name without the method's suffix replaces what is in `plain`; ERR_FORMAT when it has none. */
bool compression_plain_name(CompressionMethod method, const char *name, Buf *plain,
                            Error *err) MUST_USE;

#endif
