/*
 * write_pool: the files of a backup are written, synced and closed by a few threads, while more of
 * it comes in.
 *
 *   begin, data ... end --> items in a queue --> threads: write, and with the last one sync, close
 *
 * The content of a file is copied into blocks of memory, each of which is an item of the queue; the
 * last one ends the file. Threads take the first item that may be taken: the last one of a file
 * only when all others are done. Small files share a block (small_files.c), which is an item by
 * itself: what is the same for each of them, and not its bytes, is what they cost.
 *
 * A large file goes to the disk past the page cache (O_DIRECT), several of its blocks at a time: to
 * copy into the cache, and to wait until the kernel has written what is in it, is what a backup
 * spends most of its time with. Its size is reserved first, so that a full disk shows at once and
 * no write makes the file longer. The last block is filled up with zeros, which are cut off again.
 * Where the file system cannot do that (it says so when asked, or with the first write), and for
 * smaller files, it goes through the cache, one block of a file after the other: threads that write
 * to one file there only wait for each other. Without a sync all files go that way.
 *
 * An fsync of each of very many small files takes longer than anything else. With SYNC_BEST, after
 * the first ones, they are left to a syncfs: now and then, in the thread that has just made some,
 * and at the end.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/file.h"
#include "common/runtime.h"
#include "stream/internal.h"

/* What offsets, lengths and memory of direct writes are multiples of. */
#define DIRECT_UNIT ((size_t)4096)

/* Smaller files gain nothing. */
#define DIRECT_MIN ((uint64_t)1024 * 1024)

/* Smaller files, and with a path like this, share blocks. */
#define SMALL_MAX      ((uint64_t)128 * 1024)
#define SMALL_PATH_MAX ((size_t)4096)

/* With SYNC_BEST: so many are synced singly before others are left to a syncfs, */
#define SINGLY_MAX 1000

/* which is called when there is so much to sync, */
#define LEFT_MAX ((uint64_t)64 * 1024 * 1024)

/* and not when so much waits to be written besides; asked now and then. */
#define WAITING_MAX    ((uint64_t)512 * 1024 * 1024)
#define WAITING_BLOCKS 16

/* What goes through the cache at once. Of a whole block the kernel makes one large piece of memory,
 * and such are dear: on a virtual machine the host often has to find them first. */
#define CACHE_PIECE ((size_t)128 * 1024)

/* Blocks of a pool that does not sync, which has one thread. */
#define CACHE_BLOCKS 8

typedef struct PoolFile {
    int fd;
    char *path;
    uint64_t size;      /* as announced */
    uint64_t started;   /* write-back was started up to here; of whoever writes */
    bool padded;        /* it is written in whole units */
    bool syncs;         /* before it is closed */
    atomic_bool direct; /* past the page cache */

    /* ---- with the mutex ---- */
    size_t items; /* in the queue, or being done */
    size_t busy;  /* of them, being done */
} PoolFile;

typedef struct Item {
    PoolFile *file; /* NULL: the block is one of small files */
    uint8_t *block; /* NULL: nothing to write */
    uint64_t offset;
    size_t len;
    bool last; /* the file ends with it */

    /* ---- of small files ---- */
    int dir_fd; /* where they are made */
    SmallSync sync;
    bool syncs_root; /* afterwards its file system is synced */
    WriteRoot root;
} Item;

struct WritePool {
    Thread threads[WRITE_POOL_THREADS];
    SyncMethod sync;
    bool (*while_full)(void *ctx, Error *err);
    void *ctx;

    /* ---- the adder's ---- */
    void *memory[WRITE_POOL_BLOCKS]; /* all that was made, as it came */
    size_t memory_made;
    size_t memory_max;
    Item open;  /* what comes in: no file, or no block yet, or the block that is being filled */
    Item small; /* the block that small files come into; NULL: none yet */
    size_t small_missing; /* what the last of them has not got yet */
    uint64_t small_count; /* of all that came */
    size_t asked;         /* blocks since somebody asked how much waits to be written */
    bool crowded;         /* then it was too much */

    pthread_mutex_t mutex; /* for all below */
    pthread_cond_t wanted; /* for the threads: an item may be taken, or the end */
    pthread_cond_t moved;  /* for the adder: an item was taken or done */
    Item queue[WRITE_POOL_QUEUE];
    size_t count;
    size_t busy;                        /* items that were taken and are not done */
    uint8_t *blocks[WRITE_POOL_BLOCKS]; /* that are free */
    size_t blocks_free;
    uint64_t left;      /* bytes of files that wait for a syncfs */
    bool any_left;      /* files have waited for one */
    bool root_syncing;  /* one is to come, or runs */
    bool ending;        /* no more items will come */
    Error failure;      /* the first one, once `failed` */
    atomic_bool failed; /* read without the mutex too */
    atomic_bool abandoned;
};

/* ---- the threads: which item; with the mutex up to the line ---- */

static bool
may_be_taken(const Item *item)
{
    const PoolFile *file = item->file;

    if (file == NULL)
        return true;
    if (item->last)
        return file->items == 1;
    return file->busy == 0 || atomic_load(&file->direct);
}

static bool
find_item(WritePool *pool, Item *ret_item)
{
    for (size_t i = 0; i < pool->count; i++) {
        if (!may_be_taken(&pool->queue[i]))
            continue;
        *ret_item = pool->queue[i];
        pool->count--;
        memmove(&pool->queue[i], &pool->queue[i + 1], (pool->count - i) * sizeof(Item));
        return true;
    }
    return false;
}

/* ---- the threads ---- */

/* Waits; false at the end. */
static bool
take_item(WritePool *pool, Item *ret_item)
{
    bool found = false;

    (void)pthread_mutex_lock(&pool->mutex);
    while (!(found = find_item(pool, ret_item)) && !(pool->ending && pool->count == 0))
        (void)pthread_cond_wait(&pool->wanted, &pool->mutex);
    if (found) {
        if (ret_item->file != NULL)
            ret_item->file->busy++;
        pool->busy++;
        (void)pthread_cond_signal(&pool->moved);
    }
    (void)pthread_mutex_unlock(&pool->mutex);
    return found;
}

/* The file of the last item is gone. What may be taken now, this thread takes next. */
static void
item_done(WritePool *pool, const Item *item)
{
    (void)pthread_mutex_lock(&pool->mutex);
    if (item->file != NULL && !item->last) {
        item->file->items--;
        item->file->busy--;
    }
    if (item->block != NULL)
        pool->blocks[pool->blocks_free++] = item->block;
    pool->busy--;
    if (pool->ending)
        (void)pthread_cond_broadcast(&pool->wanted);
    (void)pthread_cond_signal(&pool->moved);
    (void)pthread_mutex_unlock(&pool->mutex);
}

static void
note_failure(WritePool *pool, const Error *failure)
{
    (void)pthread_mutex_lock(&pool->mutex);
    if (!atomic_load(&pool->failed)) {
        pool->failure = *failure;
        atomic_store(&pool->failed, true);
    }
    (void)pthread_cond_signal(&pool->moved);
    (void)pthread_mutex_unlock(&pool->mutex);
}

static bool
is_over(WritePool *pool)
{
    return atomic_load(&pool->failed) || atomic_load(&pool->abandoned);
}

/* ---- an item ---- */

static void
file_free(PoolFile *file)
{
    if (file == NULL)
        return;
    file_close_quietly(file->fd);
    free(file->path);
    free(file);
}

static uint64_t
whole_units(uint64_t len)
{
    return (len + DIRECT_UNIT - 1) / DIRECT_UNIT * DIRECT_UNIT;
}

static bool
set_direct(PoolFile *file, bool direct)
{
    int flags = fcntl(file->fd, F_GETFL);

    if (flags < 0)
        return false;
    flags = direct ? flags | O_DIRECT : flags & ~O_DIRECT;
    if (fcntl(file->fd, F_SETFL, flags) != 0)
        return false;
    atomic_store(&file->direct, direct);
    return true;
}

/* What the file system does not do past its cache after all, it does through it. */
static bool
write_directly(const Item *item, Error *err)
{
    PoolFile *file = item->file;
    const size_t len = whole_units(item->len);
    Error refused = ERROR_INIT;

    memset(item->block + item->len, 0, len - item->len);
    if (file_pwrite(file->fd, item->block, len, item->offset, file->path, &refused))
        return true;
    if (refused.sys_errno == EINVAL && set_direct(file, false))
        return file_pwrite(file->fd, item->block, item->len, item->offset, file->path, err);
    *err = refused;
    return false;
}

static bool
write_block(const WritePool *pool, const Item *item, Error *err)
{
    PoolFile *file = item->file;

    if (item->len == 0)
        return true;
    if (atomic_load(&file->direct))
        return write_directly(item, err);
    for (size_t at = 0; at < item->len; at += CACHE_PIECE) {
        size_t len = item->len - at < CACHE_PIECE ? item->len - at : CACHE_PIECE;

        if (!file_pwrite(file->fd, item->block + at, len, item->offset + at, file->path, err))
            return false;
    }
    if (pool->sync != SYNC_NONE)
        durable_write_back(file->fd, item->offset + item->len, &file->started);
    return true;
}

static bool
end_file(PoolFile *file, Error *err)
{
    const int fd = file->fd;

    if (file->padded && file->size % DIRECT_UNIT != 0 && ftruncate(fd, (off_t)file->size) != 0)
        return error_set_errno(err, errno, "could not truncate file \"%s\"", file->path);
    if (file->syncs && !file_sync(fd, file->path, err))
        return false;
    file->fd = -1;
    return file_close(fd, file->path, err);
}

static bool
do_file(const WritePool *pool, const Item *item, Error *err)
{
    return write_block(pool, item, err) && (!item->last || end_file(item->file, err));
}

/* What is left by then is synced; more may be left while that goes on. */
static bool
sync_root(WritePool *pool, const WriteRoot *root, Error *err)
{
    uint64_t left;

    (void)pthread_mutex_lock(&pool->mutex);
    left = pool->left;
    (void)pthread_mutex_unlock(&pool->mutex);
    if (!durable_sync_file_system(root->fd, root->path, err))
        return false;
    (void)pthread_mutex_lock(&pool->mutex);
    pool->left -= left;
    pool->root_syncing = false;
    (void)pthread_mutex_unlock(&pool->mutex);
    return true;
}

static bool
do_small(WritePool *pool, const Item *item, Error *err)
{
    Span files = {.data = item->block, .len = item->len};

    while (files.len > 0) {
        if (is_over(pool))
            return true;
        if (!small_files_write(item->dir_fd, &files, item->sync, err))
            return false;
    }
    return !item->syncs_root || sync_root(pool, &item->root, err);
}

static void
do_item(WritePool *pool, const Item *item)
{
    Error err = ERROR_INIT;

    if (!is_over(pool) &&
        !(item->file == NULL ? do_small(pool, item, &err) : do_file(pool, item, &err)))
        note_failure(pool, &err);
    if (item->file == NULL)
        file_close_quietly(item->dir_fd);
    else if (item->last)
        file_free(item->file);
}

static void
run_thread(void *arg)
{
    WritePool *pool = arg;
    Item item;

    while (take_item(pool, &item)) {
        do_item(pool, &item);
        item_done(pool, &item);
    }
}

/* ---- making and ending ---- */

WritePool *
write_pool_new(SyncMethod sync, bool (*while_full)(void *ctx, Error *err), void *ctx, Error *err)
{
    WritePool *pool = mem_zero(sizeof *pool, err);

    if (pool == NULL)
        return NULL;
    /* None of these can fail on Linux: they only fill in memory. */
    (void)pthread_mutex_init(&pool->mutex, NULL);
    (void)pthread_cond_init(&pool->wanted, NULL);
    cond_init(&pool->moved);
    atomic_init(&pool->failed, false);
    atomic_init(&pool->abandoned, false);
    pool->sync = sync;
    pool->small.dir_fd = -1;
    pool->while_full = while_full;
    pool->ctx = ctx;
    /* Who only fills the page cache gains nothing by more: blocks go out of the processor's. */
    pool->memory_max = sync == SYNC_NONE ? CACHE_BLOCKS : WRITE_POOL_BLOCKS;
    for (size_t i = 0; i < (sync == SYNC_NONE ? 1 : WRITE_POOL_THREADS); i++) {
        if (!thread_start(&pool->threads[i], run_thread, pool, err)) {
            write_pool_free(pool);
            return NULL;
        }
    }
    return pool;
}

void
write_pool_free(WritePool *pool)
{
    if (pool == NULL)
        return;
    atomic_store(&pool->abandoned, true);
    (void)pthread_mutex_lock(&pool->mutex);
    pool->ending = true;
    (void)pthread_cond_broadcast(&pool->wanted);
    (void)pthread_mutex_unlock(&pool->mutex);
    for (size_t i = 0; i < WRITE_POOL_THREADS; i++)
        thread_join(&pool->threads[i]);
    file_free(pool->open.file);
    file_close_quietly(pool->small.dir_fd);
    for (size_t i = 0; i < pool->memory_made; i++)
        free(pool->memory[i]);
    (void)pthread_cond_destroy(&pool->wanted);
    (void)pthread_cond_destroy(&pool->moved);
    (void)pthread_mutex_destroy(&pool->mutex);
    free(pool);
}

/* ---- the adder: items ---- */

bool
write_pool_check(WritePool *pool, Error *err)
{
    if (!atomic_load(&pool->failed))
        return true;
    (void)pthread_mutex_lock(&pool->mutex);
    *err = pool->failure;
    (void)pthread_mutex_unlock(&pool->mutex);
    return false;
}

/* Wait until `reached`, or a failure. */
static bool
await(WritePool *pool, bool (*reached)(const WritePool *pool), Error *err)
{
    bool ok = true;

    (void)pthread_mutex_lock(&pool->mutex);
    while (ok && !reached(pool) && !atomic_load(&pool->failed))
        ok = cond_wait_asking(&pool->moved, &pool->mutex, pool->while_full, pool->ctx, err);
    (void)pthread_mutex_unlock(&pool->mutex);
    return ok && write_pool_check(pool, err);
}

static bool
has_room(const WritePool *pool)
{
    return pool->count < WRITE_POOL_QUEUE;
}

static bool
is_idle(const WritePool *pool)
{
    return pool->count + pool->busy == 0;
}

static bool
has_block(const WritePool *pool)
{
    return pool->blocks_free > 0;
}

static bool
add_item(WritePool *pool, const Item *item, Error *err)
{
    if (!await(pool, has_room, err))
        return false;
    (void)pthread_mutex_lock(&pool->mutex);
    if (item->file != NULL)
        item->file->items++;
    pool->queue[pool->count++] = *item;
    (void)pthread_cond_signal(&pool->wanted);
    (void)pthread_mutex_unlock(&pool->mutex);
    return true;
}

/* What is open goes into the queue, which owns it from now on. */
static bool
add_open(WritePool *pool, bool last, Error *err)
{
    Item *item = &pool->open;

    item->last = last;
    if (!add_item(pool, item, err))
        return false;
    if (last)
        *item = (Item){.file = NULL};
    else
        *item = (Item){.file = item->file, .offset = item->offset + item->len};
    return true;
}

static bool
add_memory(WritePool *pool, uint8_t **ret_block, Error *err)
{
    uint8_t *whole = mem_alloc(WRITE_POOL_BLOCK + DIRECT_UNIT, err);
    size_t over;

    if (whole == NULL)
        return false;
    over = (uintptr_t)whole % DIRECT_UNIT;
    pool->memory[pool->memory_made++] = whole;
    *ret_block = over == 0 ? whole : whole + (DIRECT_UNIT - over);
    return true;
}

/* A block to fill: a free one rather than a new one, which costs page faults. */
static bool
take_block(WritePool *pool, uint8_t **ret_block, Error *err)
{
    uint8_t *block = NULL;

    (void)pthread_mutex_lock(&pool->mutex);
    if (pool->blocks_free > 0)
        block = pool->blocks[--pool->blocks_free];
    (void)pthread_mutex_unlock(&pool->mutex);
    if (block == NULL && pool->memory_made < pool->memory_max)
        return add_memory(pool, ret_block, err);
    if (block == NULL)
        return await(pool, has_block, err) && take_block(pool, ret_block, err);
    *ret_block = block;
    return true;
}

/* ---- the adder: small files ---- */

/* Nobody wants to wait for what others have to write. */
static bool
is_crowded(WritePool *pool)
{
    uint64_t left;

    if (pool->asked++ % WAITING_BLOCKS == 0) {
        (void)pthread_mutex_lock(&pool->mutex);
        left = pool->left;
        (void)pthread_mutex_unlock(&pool->mutex);
        pool->crowded = durable_waiting() > left + WAITING_MAX;
    }
    return pool->crowded;
}

static SmallSync
how_to_sync(WritePool *pool, const WriteRoot *root)
{
    switch (pool->sync) {
    case SYNC_NONE:
    case SYNC_SYNCFS:
        break;
    case SYNC_FSYNC:
        return SMALL_SYNC;
    case SYNC_BEST:
        if (!root->whole || pool->small_count < SINGLY_MAX || is_crowded(pool))
            return SMALL_SYNC;
        return SMALL_LEFT;
    }
    return SMALL_CLOSE;
}

/* The small files that have come are handed over, and wait for a syncfs if that is how they are
 * synced. */
static bool
add_small(WritePool *pool, Error *err)
{
    Item *item = &pool->small;

    if (item->block == NULL)
        return true;
    if (item->sync == SMALL_LEFT) {
        (void)pthread_mutex_lock(&pool->mutex);
        pool->left += item->len;
        pool->any_left = true;
        item->syncs_root = pool->left >= LEFT_MAX && !pool->root_syncing;
        pool->root_syncing |= item->syncs_root;
        (void)pthread_mutex_unlock(&pool->mutex);
    }
    if (!add_item(pool, item, err))
        return false;
    *item = (Item){.dir_fd = -1};
    return true;
}

static bool
begin_block(WritePool *pool, const NewFile *file, Error *err)
{
    Item *item = &pool->small;

    item->dir_fd = fcntl(file->dir_fd, F_DUPFD_CLOEXEC, 0);
    if (item->dir_fd < 0)
        return error_set_errno(err, errno, "could not create file \"%s\"", file->path);
    item->root = *file->root;
    item->sync = how_to_sync(pool, file->root);
    return take_block(pool, &item->block, err);
}

static bool
goes_there_too(const WritePool *pool, const NewFile *file)
{
    const Item *item = &pool->small;

    return small_file_room(file) <= WRITE_POOL_BLOCK - item->len &&
           small_files_are_in(item->block, file->path) && pool->small_count != SINGLY_MAX;
}

static bool
begin_small(WritePool *pool, const NewFile *file, Error *err)
{
    Item *item = &pool->small;

    if (item->block != NULL && !goes_there_too(pool, file) && !add_small(pool, err))
        return false;
    if (item->block == NULL && !begin_block(pool, file, err))
        return false;
    pool->small_count++;
    pool->small_missing = (size_t)file->size;
    item->len += small_file_put(item->block + item->len, file);
    return true;
}

static bool
small_data(WritePool *pool, Span data, Error *err)
{
    Item *item = &pool->small;

    if (data.len > pool->small_missing)
        return error_set(err, ERR_BUG, "a small file gets more than its bytes");
    memcpy(item->block + item->len, data.data, data.len);
    item->len += data.len;
    pool->small_missing -= data.len;
    return true;
}

/* ---- the adder: files ---- */

static bool
reserve(const PoolFile *file, Error *err)
{
    const int failure = file_reserve(file->fd, whole_units(file->size));

    if (failure == 0 || failure == EOPNOTSUPP)
        return true;
    (void)error_set_errno(err, failure, "could not write to file \"%s\"", file->path);
    return error_hint(err, "The file needs %llu bytes.", (unsigned long long)file->size);
}

/* Owns `fd` and `path`. What comes in now is this file. */
static bool
open_file(WritePool *pool, int fd, char *path, Error *err)
{
    PoolFile *file = path != NULL ? mem_zero(sizeof *file, err) : NULL;

    if (file == NULL) {
        file_close_quietly(fd);
        free(path);
        return false;
    }
    file->fd = fd;
    file->path = path;
    atomic_init(&file->direct, false);
    pool->open = (Item){.file = file};
    return true;
}

static bool
begin_large(WritePool *pool, const NewFile *new_file, Error *err)
{
    int fd = new_file_create(new_file->dir_fd, new_file->path, new_file->mode, err);
    PoolFile *file;

    if (fd < 0 || !open_file(pool, fd, mem_strdup(new_file->path, err), err))
        return false;
    file = pool->open.file;
    file->size = new_file->size;
    file->syncs = pool->sync == SYNC_FSYNC || pool->sync == SYNC_BEST;
    if (pool->sync == SYNC_NONE || file->size < DIRECT_MIN || !set_direct(file, true))
        return true;
    file->padded = true;
    return reserve(file, err);
}

bool
write_pool_begin(WritePool *pool, const NewFile *file, Error *err)
{
    if (!write_pool_check(pool, err))
        return false;
    if (file->size < SMALL_MAX && strlen(file->path) < SMALL_PATH_MAX)
        return begin_small(pool, file, err);
    return begin_large(pool, file, err);
}

static bool
large_data(WritePool *pool, Span data, Error *err)
{
    Item *item = &pool->open;

    while (data.len > 0) {
        size_t len;

        if (item->block == NULL && !take_block(pool, &item->block, err))
            return false;
        len = WRITE_POOL_BLOCK - item->len;
        len = len < data.len ? len : data.len;
        memcpy(item->block + item->len, data.data, len);
        item->len += len;
        data.data += len;
        data.len -= len;
        if (item->len == WRITE_POOL_BLOCK && !add_open(pool, false, err))
            return false;
    }
    return true;
}

bool
write_pool_data(WritePool *pool, Span data, Error *err)
{
    return pool->open.file == NULL ? small_data(pool, data, err) : large_data(pool, data, err);
}

bool
write_pool_end(WritePool *pool, Error *err)
{
    if (pool->open.file != NULL)
        return add_open(pool, true, err);
    return write_pool_check(pool, err);
}

bool
write_pool_drain(WritePool *pool, Error *err)
{
    return add_small(pool, err) && await(pool, is_idle, err);
}

/* To be synced and closed. Owns `fd` and `path`. */
static bool
add_synced(WritePool *pool, int fd, char *path, Error *err)
{
    if (!open_file(pool, fd, path, err))
        return false;
    pool->open.file->syncs = true;
    return add_open(pool, true, err);
}

/* ---- directories ---- */

#define OPEN_DIRECTORY (O_RDONLY | O_DIRECTORY | O_CLOEXEC)

static bool add_directory(WritePool *pool, int fd, char *path, Error *err);

/* The directory of this name in the one that is open; anything else is passed over. */
static bool
add_child(WritePool *pool, int parent, const char *parent_path, const struct dirent *child,
          Error *err)
{
    const char *name = child->d_name;
    char *path;
    int fd;

    if (child->d_type != DT_DIR && child->d_type != DT_UNKNOWN)
        return true;
    fd = openat(parent, name, OPEN_DIRECTORY | O_NOFOLLOW);
    if (fd < 0 && child->d_type == DT_UNKNOWN && (errno == ENOTDIR || errno == ELOOP))
        return true;
    if (fd < 0)
        return error_set_errno(err, errno, "could not open directory \"%s/%s\"", parent_path, name);
    path = path_join(parent_path, name, err);
    if (path == NULL) {
        file_close_quietly(fd);
        return false;
    }
    return add_directory(pool, fd, path, err);
}

static bool
add_children(WritePool *pool, int fd, const char *path, Error *err)
{
    int own = fcntl(fd, F_DUPFD_CLOEXEC, 0); /* closedir takes it */
    DIR *dir = own < 0 ? NULL : fdopendir(own);
    const struct dirent *child;
    bool ok = true;

    if (dir == NULL) {
        (void)error_set_errno(err, errno, "could not open directory \"%s\"", path);
        file_close_quietly(own);
        return false;
    }
    while (ok && (child = dir_next(dir)) != NULL)
        ok = add_child(pool, fd, path, child, err);
    if (ok && errno != 0)
        ok = error_set_errno(err, errno, "could not read directory \"%s\"", path);
    (void)closedir(dir);
    return ok;
}

/* With all below it. Owns `fd` and `path`. */
static bool
add_directory(WritePool *pool, int fd, char *path, Error *err)
{
    if (!add_children(pool, fd, path, err)) {
        file_close_quietly(fd);
        free(path);
        return false;
    }
    return add_synced(pool, fd, path, err);
}

static bool
add_parent(WritePool *pool, int root_fd, const char *root, Error *err)
{
    char *path;
    int fd;

    if (!durable_open_parent(root_fd, root, &fd, err))
        return false;
    if (fd < 0) /* it is on disk already */
        return true;
    path = path_join(root, "..", err);
    if (path == NULL) {
        file_close_quietly(fd);
        return false;
    }
    return add_synced(pool, fd, path, err);
}

bool
write_pool_add_tree(WritePool *pool, const char *root, Error *err)
{
    int fd = file_open(root, O_RDONLY | O_DIRECTORY, 0, err);
    char *path;

    if (fd < 0)
        return false;
    path = mem_strdup(root, err);
    if (path == NULL || !add_parent(pool, fd, root, err)) {
        file_close_quietly(fd);
        free(path);
        return false;
    }
    return add_directory(pool, fd, path, err);
}

/* ---- roots ---- */

static bool
sync_whole(WritePool *pool, const WriteRoot *root, Error *err)
{
    const Item item = {.dir_fd = -1, .syncs_root = true, .root = *root};

    return add_item(pool, &item, err) && write_pool_drain(pool, err) &&
           durable_sync_parent(root->fd, root->path, err);
}

bool
write_pool_sync_root(WritePool *pool, const WriteRoot *root, Error *err)
{
    if (pool->sync == SYNC_SYNCFS || (root->whole && pool->any_left))
        return sync_whole(pool, root, err);
    return write_pool_add_tree(pool, root->path, err);
}
