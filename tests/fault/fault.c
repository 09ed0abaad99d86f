#include "fault.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "disk.h"

#define CALLS_MAX ((size_t)20000) /* a sweep that goes on beyond has lost its end */
#define FD_MAX    64              /* the lowest number is taken first: one that is left is below */

static const char *const kind_names[FAULT_KIND_COUNT] = {
    [FAULT_MEMORY] = "memory",   [FAULT_OPEN] = "open", [FAULT_READ] = "read",
    [FAULT_WRITE] = "write",     [FAULT_SYNC] = "sync", [FAULT_CLOSE] = "close",
    [FAULT_RENAME] = "rename",   [FAULT_MAKE] = "make", [FAULT_REMOVE] = "remove",
    [FAULT_STAT] = "stat",       [FAULT_MODE] = "mode", [FAULT_TRUNCATE] = "truncate",
    [FAULT_THREAD] = "thread",   [FAULT_WAIT] = "wait", [FAULT_RESOURCE] = "resource",
    [FAULT_RESERVE] = "reserve",
};

static _Thread_local bool under_test;

/* Of the run: set by fault_begin, before there are threads. */
static FaultPlan plan;
static FaultWatch watch;
static bool fd_before[FD_MAX];

/* Changed by all threads under test. */
static atomic_size_t calls[FAULT_KIND_COUNT];
static atomic_long blocks;
static atomic_long threads;

static atomic_bool closed_writable;

/* Written by the one thread that meets the fault; read behind the run. */
static FaultHit hit;

static char story[1024]; /* which fault the run is about */

/* ---- the real ones ---- */

void *__real_malloc(size_t size);
void *__wrap_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__real_realloc(void *block, size_t size);
void *__wrap_realloc(void *block, size_t size);
char *__real_strdup(const char *text);
char *__wrap_strdup(const char *text);
void __real_free(void *block);
void __wrap_free(void *block);
int __real_open64(const char *path, int flags, ...);
int __wrap_open64(const char *path, int flags, ...);
int __real_openat64(int dir, const char *path, int flags, ...);
int __wrap_openat64(int dir, const char *path, int flags, ...);
DIR *__real_opendir(const char *path);
DIR *__wrap_opendir(const char *path);
DIR *__real_fdopendir(int fd);
DIR *__wrap_fdopendir(int fd);
ssize_t __real_read(int fd, void *data, size_t len);
ssize_t __wrap_read(int fd, void *data, size_t len);
ssize_t __real_pread64(int fd, void *data, size_t len, off_t offset);
ssize_t __wrap_pread64(int fd, void *data, size_t len, off_t offset);
struct dirent *__real_readdir64(DIR *dir);
struct dirent *__wrap_readdir64(DIR *dir);
ssize_t __real_write(int fd, const void *data, size_t len);
ssize_t __wrap_write(int fd, const void *data, size_t len);
ssize_t __real_pwrite64(int fd, const void *data, size_t len, off_t offset);
ssize_t __wrap_pwrite64(int fd, const void *data, size_t len, off_t offset);
int __wrap_fsync(int fd);
int __wrap_fdatasync(int fd);
int __wrap_syncfs(int fd);
int __real_close(int fd);
int __wrap_close(int fd);
int __real_rename(const char *from, const char *to);
int __wrap_rename(const char *from, const char *to);
int __real_mkdir(const char *path, mode_t mode);
int __wrap_mkdir(const char *path, mode_t mode);
int __real_mkdirat(int dir, const char *path, mode_t mode);
int __wrap_mkdirat(int dir, const char *path, mode_t mode);
int __real_symlink(const char *target, const char *path);
int __wrap_symlink(const char *target, const char *path);
int __real_symlinkat(const char *target, int dir, const char *path);
int __wrap_symlinkat(const char *target, int dir, const char *path);
int __real_linkat(int from_dir, const char *from, int to_dir, const char *to, int flags);
int __wrap_linkat(int from_dir, const char *from, int to_dir, const char *to, int flags);
int __real_unlink(const char *path);
int __wrap_unlink(const char *path);
int __real_unlinkat(int dir, const char *path, int flags);
int __wrap_unlinkat(int dir, const char *path, int flags);
int __real_rmdir(const char *path);
int __wrap_rmdir(const char *path);
int __real_stat64(const char *path, struct stat *st);
int __wrap_stat64(const char *path, struct stat *st);
int __real_lstat64(const char *path, struct stat *st);
int __wrap_lstat64(const char *path, struct stat *st);
int __real_fstat64(int fd, struct stat *st);
int __wrap_fstat64(int fd, struct stat *st);
int __real_fstatat64(int dir, const char *path, struct stat *st, int flags);
int __wrap_fstatat64(int dir, const char *path, struct stat *st, int flags);
int __real_chmod(const char *path, mode_t mode);
int __wrap_chmod(const char *path, mode_t mode);
int __real_fchmod(int fd, mode_t mode);
int __wrap_fchmod(int fd, mode_t mode);
int __real_ftruncate64(int fd, off_t size);
int __wrap_ftruncate64(int fd, off_t size);
int __real_fallocate64(int fd, int mode, off_t offset, off_t len);
int __wrap_fallocate64(int fd, int mode, off_t offset, off_t len);
int __real_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*run)(void *),
                          void *arg);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*run)(void *),
                          void *arg);
int __real_pthread_join(pthread_t thread, void **value);
int __wrap_pthread_join(pthread_t thread, void **value);
int __real_poll(struct pollfd *fds, nfds_t count, int timeout);
int __wrap_poll(struct pollfd *fds, nfds_t count, int timeout);
int __real_eventfd(unsigned int value, int flags);
int __wrap_eventfd(unsigned int value, int flags);
ssize_t __real_getrandom(void *data, size_t len, unsigned int flags);
ssize_t __wrap_getrandom(void *data, size_t len, unsigned int flags);
int __real_fcntl64(int fd, int command, ...);
int __wrap_fcntl64(int fd, int command, ...);
char *__real_realpath(const char *path, char *room);
char *__wrap_realpath(const char *path, char *room);

/* ---- places ---- */

typedef struct Place {
    char path[sizeof hit.path];
} Place;

/* What a descriptor leads to; "" for what has no path. */
static void
place_of_fd(int fd, Place *place)
{
    char link[64];
    ssize_t len;

    (void)snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    len = readlink(link, place->path, sizeof place->path - 1);
    place->path[len < 0 ? 0 : len] = '\0';
    if (place->path[0] != '/')
        place->path[0] = '\0';
}

/* `dir` is for a relative path. */
static void
place_at(int dir, const char *path, Place *place)
{
    size_t len;

    if (path[0] == '/') {
        (void)snprintf(place->path, sizeof place->path, "%s", path);
        return;
    }
    place_of_fd(dir, place);
    len = strlen(place->path);
    (void)snprintf(place->path + len, sizeof place->path - len, "/%s", path);
}

/* The same, free of links in front of its last component: one file is to have one name. */
static void
true_place_at(int dir, const char *path, Place *place)
{
    char parent[sizeof place->path];
    char *resolved;
    char *name;

    place_at(dir, path, place);
    memcpy(parent, place->path, sizeof parent);
    name = strrchr(parent, '/');
    *name++ = '\0';
    resolved = __real_realpath(parent, NULL);
    if (resolved != NULL)
        (void)snprintf(place->path, sizeof place->path, "%s/%s", resolved, name);
    __real_free(resolved);
}

/* One that has a name: what becomes of others is the same however they are closed. */
static bool
is_file(int fd)
{
    struct stat st;

    return __real_fstat64(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_nlink > 0;
}

/* ---- the decision ---- */

/* Whether this call is the one that fails; then with the reason in errno. */
static bool
fails(FaultKind kind, const char *call, const Place *place)
{
    size_t number;

    if (!under_test)
        return false;
    if (place != NULL && watch.before != NULL && kind >= FAULT_OPEN && kind <= FAULT_REMOVE &&
        kind != FAULT_READ && kind != FAULT_CLOSE)
        watch.before(watch.ctx, kind, place->path);
    number = atomic_fetch_add(&calls[kind], 1) + 1;
    if (kind != plan.kind || plan.at == 0 || number < plan.at ||
        (number > plan.at && !plan.lasting))
        return false;
    if (number == plan.at) {
        hit.fired = true;
        hit.call = call;
        (void)snprintf(hit.path, sizeof hit.path, "%s", place == NULL ? "" : place->path);
    }
    errno = plan.errnum == FAULT_SHORT ? 0 : plan.errnum;
    return true;
}

static bool
fails_at(FaultKind kind, const char *call, int dir, const char *path)
{
    Place place;

    if (!under_test)
        return false;
    place_at(dir, path, &place);
    return fails(kind, call, &place);
}

static bool
fails_fd(FaultKind kind, const char *call, int fd)
{
    Place place;

    if (!under_test)
        return false;
    place_of_fd(fd, &place);
    return fails(kind, call, &place);
}

/* Reads and writes of files: the length to go on with, or 0 when the call fails. */
static size_t
transfer(FaultKind kind, const char *call, int fd, size_t len)
{
    if (!under_test || !is_file(fd) || !fails_fd(kind, call, fd))
        return len;
    if (plan.errnum == FAULT_SHORT)
        return len > 1 ? len / 2 : len;
    return 0;
}

/* ---- memory ---- */

static void *
allocated(void *block)
{
    if (under_test && block != NULL)
        (void)atomic_fetch_add(&blocks, 1);
    return block;
}

void *
__wrap_malloc(size_t size)
{
    return fails(FAULT_MEMORY, "malloc", NULL) ? NULL : allocated(__real_malloc(size));
}

void *
__wrap_calloc(size_t count, size_t size)
{
    return fails(FAULT_MEMORY, "calloc", NULL) ? NULL : allocated(__real_calloc(count, size));
}

void *
__wrap_realloc(void *block, size_t size)
{
    if (fails(FAULT_MEMORY, "realloc", NULL))
        return NULL;
    if (block == NULL)
        return allocated(__real_malloc(size));
    return __real_realloc(block, size);
}

char *
__wrap_strdup(const char *text)
{
    return fails(FAULT_MEMORY, "strdup", NULL) ? NULL : allocated(__real_strdup(text));
}

void
__wrap_free(void *block)
{
    if (under_test && block != NULL)
        (void)atomic_fetch_sub(&blocks, 1);
    __real_free(block);
}

/* ---- opening ---- */

/* The mode is there to be read only when something may be created. */
static mode_t
mode_of(int flags, va_list args)
{
    return (flags & O_CREAT) != 0 || (flags & O_TMPFILE) == O_TMPFILE ? va_arg(args, mode_t) : 0;
}

static int
open_at(const char *call, int dir, const char *path, int flags, mode_t mode)
{
    struct stat st;
    Place place;
    bool creates;
    int fd;

    if (!under_test)
        return __real_openat64(dir, path, flags, mode);
    place_at(dir, path, &place);
    if (fails(FAULT_OPEN, call, &place))
        return -1;
    creates = (flags & O_CREAT) != 0 && __real_lstat64(place.path, &st) != 0;
    fd = __real_openat64(dir, path, flags, mode);
    if (fd >= 0 && creates) {
        true_place_at(dir, path, &place);
        disk_named(place.path);
    }
    return fd;
}

int
__wrap_open64(const char *path, int flags, ...)
{
    va_list args;
    mode_t mode;

    va_start(args, flags);
    mode = mode_of(flags, args);
    va_end(args);
    return open_at("open", AT_FDCWD, path, flags, mode);
}

int
__wrap_openat64(int dir, const char *path, int flags, ...)
{
    va_list args;
    mode_t mode;

    va_start(args, flags);
    mode = mode_of(flags, args);
    va_end(args);
    return open_at("openat", dir, path, flags, mode);
}

DIR *
__wrap_opendir(const char *path)
{
    return fails_at(FAULT_OPEN, "opendir", AT_FDCWD, path) ? NULL : __real_opendir(path);
}

DIR *
__wrap_fdopendir(int fd)
{
    return fails_fd(FAULT_OPEN, "fdopendir", fd) ? NULL : __real_fdopendir(fd);
}

/* ---- reading ---- */

ssize_t
__wrap_read(int fd, void *data, size_t len)
{
    size_t part = transfer(FAULT_READ, "read", fd, len);

    return part == 0 && len > 0 ? -1 : __real_read(fd, data, part);
}

ssize_t
__wrap_pread64(int fd, void *data, size_t len, off_t offset)
{
    size_t part = transfer(FAULT_READ, "pread", fd, len);

    return part == 0 && len > 0 ? -1 : __real_pread64(fd, data, part, offset);
}

struct dirent *
__wrap_readdir64(DIR *dir)
{
    /* Directories know no short reads. */
    if (plan.errnum != FAULT_SHORT && fails_fd(FAULT_READ, "readdir", dirfd(dir)))
        return NULL;
    return __real_readdir64(dir);
}

/* ---- writing ---- */

/* What has no name is not on any account: a power failure leaves nothing of it. */
static bool
is_nameless(const Place *place)
{
    const char *end = " (deleted)";
    size_t len = strlen(place->path);

    return len >= strlen(end) && strcmp(place->path + len - strlen(end), end) == 0;
}

static void
wrote(int fd, uint64_t end)
{
    Place place;

    if (!under_test || !is_file(fd))
        return;
    place_of_fd(fd, &place);
    if (is_nameless(&place))
        return;
    disk_written(place.path, end);
}

ssize_t
__wrap_write(int fd, const void *data, size_t len)
{
    size_t part = transfer(FAULT_WRITE, "write", fd, len);
    ssize_t written;

    if (part == 0 && len > 0)
        return -1;
    written = __real_write(fd, data, part);
    if (written > 0)
        wrote(fd, (uint64_t)lseek(fd, 0, SEEK_CUR));
    return written;
}

ssize_t
__wrap_pwrite64(int fd, const void *data, size_t len, off_t offset)
{
    size_t part = transfer(FAULT_WRITE, "pwrite", fd, len);
    ssize_t written;

    if (part == 0 && len > 0)
        return -1;
    written = __real_pwrite64(fd, data, part, offset);
    if (written > 0)
        wrote(fd, (uint64_t)(offset + written));
    return written;
}

/* ---- syncing ---- */

static int
sync_fd(const char *call, int fd)
{
    struct stat st;
    Place place;

    if (__real_fstat64(fd, &st) != 0)
        return -1;
    place_of_fd(fd, &place);
    if (fails(FAULT_SYNC, call, &place))
        return -1;
    disk_synced(place.path);
    return 0;
}

int
__wrap_fsync(int fd)
{
    return sync_fd("fsync", fd);
}

int
__wrap_fdatasync(int fd)
{
    return sync_fd("fdatasync", fd);
}

int
__wrap_syncfs(int fd)
{
    if (fails_fd(FAULT_SYNC, "syncfs", fd))
        return -1;
    disk_synced_all();
    return 0;
}

int
__wrap_close(int fd)
{
    bool failing = fails_fd(FAULT_CLOSE, "close", fd);
    int flags = failing ? __real_fcntl64(fd, F_GETFL) : 0;

    if (!failing)
        return __real_close(fd);
    if (is_file(fd) && (flags & O_ACCMODE) != O_RDONLY)
        atomic_store(&closed_writable, true);
    (void)__real_close(fd);
    errno = plan.errnum;
    return -1;
}

/* ---- names ---- */

static void
renamed(const char *from, const char *to)
{
    Place old;
    Place new;

    true_place_at(AT_FDCWD, from, &old);
    true_place_at(AT_FDCWD, to, &new);
    disk_renamed(old.path, new.path);
}

int
__wrap_rename(const char *from, const char *to)
{
    int result;

    if (fails_at(FAULT_RENAME, "rename", AT_FDCWD, to))
        return -1;
    result = __real_rename(from, to);
    if (result == 0 && under_test)
        renamed(from, to);
    return result;
}

/* A directory or a link was made. */
static int
made(int result, int dir, const char *path)
{
    Place place;

    if (result == 0 && under_test) {
        true_place_at(dir, path, &place);
        disk_named(place.path);
    }
    return result;
}

int
__wrap_mkdir(const char *path, mode_t mode)
{
    if (fails_at(FAULT_MAKE, "mkdir", AT_FDCWD, path))
        return -1;
    return made(__real_mkdir(path, mode), AT_FDCWD, path);
}

int
__wrap_mkdirat(int dir, const char *path, mode_t mode)
{
    if (fails_at(FAULT_MAKE, "mkdirat", dir, path))
        return -1;
    return made(__real_mkdirat(dir, path, mode), dir, path);
}

int
__wrap_symlink(const char *target, const char *path)
{
    if (fails_at(FAULT_MAKE, "symlink", AT_FDCWD, path))
        return -1;
    return made(__real_symlink(target, path), AT_FDCWD, path);
}

int
__wrap_symlinkat(const char *target, int dir, const char *path)
{
    if (fails_at(FAULT_MAKE, "symlinkat", dir, path))
        return -1;
    return made(__real_symlinkat(target, dir, path), dir, path);
}

/* For a file that had no name: what it holds already counts as nothing. */
int
__wrap_linkat(int from_dir, const char *from, int to_dir, const char *to, int flags)
{
    if (fails_at(FAULT_MAKE, "linkat", to_dir, to))
        return -1;
    return made(__real_linkat(from_dir, from, to_dir, to, flags), to_dir, to);
}

static int
removed(int result, int dir, const char *path)
{
    Place place;

    if (result == 0 && under_test) {
        true_place_at(dir, path, &place);
        disk_removed(place.path);
    }
    return result;
}

int
__wrap_unlink(const char *path)
{
    if (fails_at(FAULT_REMOVE, "unlink", AT_FDCWD, path))
        return -1;
    return removed(__real_unlink(path), AT_FDCWD, path);
}

int
__wrap_unlinkat(int dir, const char *path, int flags)
{
    if (fails_at(FAULT_REMOVE, "unlinkat", dir, path))
        return -1;
    return removed(__real_unlinkat(dir, path, flags), dir, path);
}

int
__wrap_rmdir(const char *path)
{
    if (fails_at(FAULT_REMOVE, "rmdir", AT_FDCWD, path))
        return -1;
    return removed(__real_rmdir(path), AT_FDCWD, path);
}

/* ---- looking and setting ---- */

int
__wrap_stat64(const char *path, struct stat *st)
{
    return fails_at(FAULT_STAT, "stat", AT_FDCWD, path) ? -1 : __real_stat64(path, st);
}

int
__wrap_lstat64(const char *path, struct stat *st)
{
    return fails_at(FAULT_STAT, "lstat", AT_FDCWD, path) ? -1 : __real_lstat64(path, st);
}

int
__wrap_fstat64(int fd, struct stat *st)
{
    return fails_fd(FAULT_STAT, "fstat", fd) ? -1 : __real_fstat64(fd, st);
}

int
__wrap_fstatat64(int dir, const char *path, struct stat *st, int flags)
{
    return fails_at(FAULT_STAT, "fstatat", dir, path) ? -1 : __real_fstatat64(dir, path, st, flags);
}

int
__wrap_chmod(const char *path, mode_t mode)
{
    return fails_at(FAULT_MODE, "chmod", AT_FDCWD, path) ? -1 : __real_chmod(path, mode);
}

int
__wrap_fchmod(int fd, mode_t mode)
{
    return fails_fd(FAULT_MODE, "fchmod", fd) ? -1 : __real_fchmod(fd, mode);
}

int
__wrap_ftruncate64(int fd, off_t size)
{
    return fails_fd(FAULT_TRUNCATE, "ftruncate", fd) ? -1 : __real_ftruncate64(fd, size);
}

int
__wrap_fallocate64(int fd, int mode, off_t offset, off_t len)
{
    return fails_fd(FAULT_RESERVE, "fallocate", fd) ? -1
                                                    : __real_fallocate64(fd, mode, offset, len);
}

/* ---- threads ---- */

typedef struct ThreadStart {
    void *(*run)(void *arg);
    void *arg;
} ThreadStart;

static void *
thread_main(void *arg)
{
    ThreadStart start = *(const ThreadStart *)arg;

    __real_free(arg);
    under_test = true;
    return start.run(start.arg);
}

/* A thread that is started under test is under test. */
int
__wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*run)(void *),
                      void *arg)
{
    ThreadStart *start;
    int failure;

    if (!under_test)
        return __real_pthread_create(thread, attr, run, arg);
    if (fails(FAULT_THREAD, "pthread_create", NULL))
        return plan.errnum;
    start = __real_malloc(sizeof *start);
    if (start == NULL)
        abort();
    *start = (ThreadStart){.run = run, .arg = arg};
    failure = __real_pthread_create(thread, attr, thread_main, start);
    if (failure == 0)
        (void)atomic_fetch_add(&threads, 1);
    else
        __real_free(start);
    return failure;
}

int
__wrap_pthread_join(pthread_t thread, void **value)
{
    int failure = __real_pthread_join(thread, value);

    if (failure == 0 && under_test)
        (void)atomic_fetch_sub(&threads, 1);
    return failure;
}

/* ---- the rest ---- */

int
__wrap_poll(struct pollfd *fds, nfds_t count, int timeout)
{
    return fails(FAULT_WAIT, "poll", NULL) ? -1 : __real_poll(fds, count, timeout);
}

int
__wrap_eventfd(unsigned int value, int flags)
{
    return fails(FAULT_RESOURCE, "eventfd", NULL) ? -1 : __real_eventfd(value, flags);
}

ssize_t
__wrap_getrandom(void *data, size_t len, unsigned int flags)
{
    return fails(FAULT_RESOURCE, "getrandom", NULL) ? -1 : __real_getrandom(data, len, flags);
}

/* Our libraries duplicate descriptors with it and nothing else. */
int
__wrap_fcntl64(int fd, int command, ...)
{
    va_list args;
    int arg;

    va_start(args, command);
    arg = va_arg(args, int);
    va_end(args);
    return fails(FAULT_RESOURCE, "fcntl", NULL) ? -1 : __real_fcntl64(fd, command, arg);
}

char *
__wrap_realpath(const char *path, char *room)
{
    char *resolved;

    if (fails_at(FAULT_RESOURCE, "realpath", AT_FDCWD, path))
        return NULL;
    resolved = __real_realpath(path, room);
    return room == NULL ? allocated(resolved) : resolved;
}

/* ---- a run ---- */

static bool
fd_is_open(int fd)
{
    return __real_fcntl64(fd, F_GETFD) >= 0;
}

void
fault_begin(const FaultPlan *wanted)
{
    plan = *wanted;
    hit = (FaultHit){.fired = false};
    for (size_t i = 0; i < FAULT_KIND_COUNT; i++)
        atomic_store(&calls[i], 0);
    atomic_store(&blocks, 0);
    atomic_store(&threads, 0);
    atomic_store(&closed_writable, false);
    for (int fd = 0; fd < FD_MAX; fd++)
        fd_before[fd] = fd_is_open(fd);
    disk_reset();
    under_test = true;
}

void
fault_end(FaultHit *ret_hit)
{
    size_t len;

    under_test = false;
    *ret_hit = hit;
    ret_hit->writable = atomic_load(&closed_writable);
    len = strlen(story);
    if (hit.fired)
        (void)snprintf(story + len, sizeof story - len, ", %s \"%s\"", hit.call, hit.path);
}

bool
fault_suspend(void)
{
    bool before = under_test;

    under_test = false;
    return before;
}

void
fault_resume(bool before)
{
    under_test = before;
}

size_t
fault_calls(FaultKind kind)
{
    return atomic_load(&calls[kind]);
}

void
fault_watch(const FaultWatch *wanted)
{
    watch = wanted == NULL ? (FaultWatch){.before = NULL} : *wanted;
}

/* ---- a sweep ---- */

static size_t
sweep_one(FaultPlan *one, bool (*run)(void *ctx, const FaultPlan *plan), void *ctx)
{
    bool fired;

    one->at = 0;
    do {
        one->at++;
        (void)snprintf(story, sizeof story, "%s%s %s, call %zu", one->lasting ? "lasting " : "",
                       kind_names[one->kind],
                       one->errnum == FAULT_SHORT ? "cut short" : strerror(one->errnum), one->at);
        fired = run(ctx, one);
    } while (fired && one->at < CALLS_MAX);
    return one->at - 1;
}

void
fault_sweep(const FaultPlan *plans, size_t count, bool (*run)(void *ctx, const FaultPlan *plan),
            void *ctx)
{
    for (size_t i = 0; i < count; i++) {
        FaultPlan one = plans[i];
        size_t found = sweep_one(&one, run, ctx);

        fault_assert(found >= one.least, "only %zu calls, expected %zu", found, one.least);
        fault_assert(found < CALLS_MAX - 1, "no end");
    }
}

/* ---- assertions ---- */

void
fault_assert(bool ok, const char *fmt, ...)
{
    char message[2048];
    va_list args;

    if (ok)
        return;
    va_start(args, fmt);
    (void)vsnprintf(message, sizeof message, fmt, args);
    va_end(args);
    fail_msg("%s: %s", story, message);
}

static const char *
last_component(const char *path)
{
    const char *slash = strrchr(path, '/');

    return slash == NULL ? path : slash + 1;
}

/* An Error of the operating system names the file and the reason. */
static void
assert_names_fault(const FaultPlan *wanted, const FaultHit *seen, const Error *err)
{
    const char *name = last_component(seen->path);

    if (wanted->kind == FAULT_MEMORY) {
        fault_assert(err->code == ERR_MEMORY, "got the error \"%s\"", err->message);
        return;
    }
    fault_assert(err->code == ERR_SYSTEM, "error \"%s\" has code %d", err->message, err->code);
    if (wanted->kind == FAULT_STAT || wanted->kind == FAULT_WAIT)
        return;
    fault_assert(err->sys_errno == wanted->errnum, "error \"%s\" has errno %d", err->message,
                 err->sys_errno);
    fault_assert(strstr(err->message, strerror(wanted->errnum)) != NULL,
                 "error \"%s\" does not tell the reason", err->message);
    /* The parent of a root is called "ROOT/..". */
    fault_assert(strstr(err->message, name) != NULL || strstr(err->message, "/..\"") != NULL,
                 "error \"%s\" does not name the file", err->message);
}

void
fault_assert_ending(const FaultPlan *wanted, const FaultHit *seen, bool ok, const Error *err)
{
    /* What close has to say about a file that was written is an error of writing it. */
    bool must_fail =
        wanted->outcome == FAULT_FAILS || (wanted->outcome == FAULT_EITHER && seen->writable);

    if (ok) {
        fault_assert(err->code == ERR_NONE, "success with the error \"%s\"", err->message);
        fault_assert(!seen->fired || !must_fail, "success in spite of it");
        return;
    }
    fault_assert(err->code != ERR_NONE && err->message[0] != '\0', "failed without an error");
    fault_assert(seen->fired, "failed without a fault: %s", err->message);
    fault_assert(wanted->outcome != FAULT_PASSES, "failed: %s", err->message);
    if (!wanted->lasting)
        assert_names_fault(wanted, seen, err);
}

void
fault_assert_nothing_left(void)
{
    long left = atomic_load(&blocks);
    Place place;

    fault_assert(left == 0, "%ld blocks of memory are left", left);
    left = atomic_load(&threads);
    fault_assert(left == 0, "%ld threads are left", left);
    for (int fd = 0; fd < FD_MAX; fd++) {
        if (fd_before[fd] || !fd_is_open(fd))
            continue;
        place_of_fd(fd, &place);
        fault_assert(false, "descriptor %d is left: \"%s\"", fd, place.path);
    }
}
