/*
 * Failure totality of a whole chain: handoff, tar_reader, handoff, extract. The n-th call that can
 * fail does, for n until none is left: the run fails with one Error that says why, nothing stays
 * open, and nothing is lost (which the sanitizers look after). The linker leads the calls here
 * (--wrap, see CMakeLists.txt).
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/file.h"
#include "stream/stream.h"
#include "support/chunker.h"
#include "support/descriptors.h"
#include "support/tar_builder.h"
#include "support/temp_dir.h"

/* ---- injection ---- */

static atomic_size_t call_count;
static size_t fail_at; /* 0: the calls are not counted */

/* Is it this one? With the reason in errno. */
static bool
fails(int reason)
{
    if (fail_at == 0 || atomic_fetch_add(&call_count, 1) + 1 != fail_at)
        return false;
    errno = reason;
    return true;
}

void *__real_malloc(size_t size);
void *__wrap_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__real_realloc(void *block, size_t size);
void *__wrap_realloc(void *block, size_t size);
char *__real_strdup(const char *text);
char *__wrap_strdup(const char *text);
int __real_openat64(int dir, const char *path, int flags, ...);
int __wrap_openat64(int dir, const char *path, int flags, ...);
int __real_open64(const char *path, int flags, ...);
int __wrap_open64(const char *path, int flags, ...);
int __real_mkdirat(int dir, const char *path, mode_t mode);
int __wrap_mkdirat(int dir, const char *path, mode_t mode);
int __real_fchmod(int fd, mode_t mode);
int __wrap_fchmod(int fd, mode_t mode);
int __real_symlinkat(const char *target, int dir, const char *path);
int __wrap_symlinkat(const char *target, int dir, const char *path);
ssize_t __real_write(int fd, const void *data, size_t len);
ssize_t __wrap_write(int fd, const void *data, size_t len);
int __real_fsync(int fd);
int __wrap_fsync(int fd);
DIR *__real_fdopendir(int fd);
DIR *__wrap_fdopendir(int fd);
struct dirent *__real_readdir64(DIR *dir);
struct dirent *__wrap_readdir64(DIR *dir);
int __real_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*run)(void *),
                          void *arg);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*run)(void *),
                          void *arg);

void *
__wrap_malloc(size_t size)
{
    return fails(ENOMEM) ? NULL : __real_malloc(size);
}

void *
__wrap_calloc(size_t count, size_t size)
{
    return fails(ENOMEM) ? NULL : __real_calloc(count, size);
}

void *
__wrap_realloc(void *block, size_t size)
{
    return fails(ENOMEM) ? NULL : __real_realloc(block, size);
}

char *
__wrap_strdup(const char *text)
{
    return fails(ENOMEM) ? NULL : __real_strdup(text);
}

/* The mode is there to be read whenever it is wanted. */
static mode_t
mode_of(int flags, va_list args)
{
    return (flags & O_CREAT) != 0 ? va_arg(args, mode_t) : 0;
}

int
__wrap_openat64(int dir, const char *path, int flags, ...)
{
    va_list args;
    mode_t mode;

    va_start(args, flags);
    mode = mode_of(flags, args);
    va_end(args);
    return fails(EMFILE) ? -1 : __real_openat64(dir, path, flags, mode);
}

int
__wrap_open64(const char *path, int flags, ...)
{
    va_list args;
    mode_t mode;

    va_start(args, flags);
    mode = mode_of(flags, args);
    va_end(args);
    return fails(EMFILE) ? -1 : __real_open64(path, flags, mode);
}

int
__wrap_mkdirat(int dir, const char *path, mode_t mode)
{
    return fails(ENOSPC) ? -1 : __real_mkdirat(dir, path, mode);
}

int
__wrap_fchmod(int fd, mode_t mode)
{
    return fails(EPERM) ? -1 : __real_fchmod(fd, mode);
}

int
__wrap_symlinkat(const char *target, int dir, const char *path)
{
    return fails(ENOSPC) ? -1 : __real_symlinkat(target, dir, path);
}

ssize_t
__wrap_write(int fd, const void *data, size_t len)
{
    return fails(ENOSPC) ? -1 : __real_write(fd, data, len);
}

int
__wrap_fsync(int fd)
{
    return fails(EIO) ? -1 : __real_fsync(fd);
}

DIR *
__wrap_fdopendir(int fd)
{
    return fails(ENOMEM) ? NULL : __real_fdopendir(fd);
}

struct dirent *
__wrap_readdir64(DIR *dir)
{
    return fails(EIO) ? NULL : __real_readdir64(dir);
}

int
__wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*run)(void *),
                      void *arg)
{
    return fails(EAGAIN) ? EAGAIN : __real_pthread_create(thread, attr, run, arg);
}

/* ---- the run ---- */

static const char *root_path;

static const char *
find_root(void *ctx, Oid oid)
{
    (void)ctx;
    (void)oid;
    return root_path;
}

static bool
run(Span tar, SyncMethod sync, Error *err)
{
    static const Archive base = {.name = "base.tar"};
    const ExtractConfig config = {.root = find_root, .sync = sync, .directory_mode = 0700};
    const HandoffConfig blocks = {.block_size = 1024, .block_count = 2};
    Sink *sink = extract_new(&config, err);
    bool ok;

    sink = handoff_new(sink, &blocks, err);
    sink = tar_reader_new(sink, TAR_END_REQUIRED, err);
    sink = handoff_new(sink, &blocks, err);
    ok = sink != NULL && chunk_archive(sink, &base, tar, 700, err) && sink_finish(sink, err);
    sink_free(sink);
    return ok;
}

static Buf
make_tar(void)
{
    static char content[1500];
    Buf tar = BUF_INIT;

    memset(content, 'c', sizeof content);
    tar_add(&tar, &(TarMember){TAR_FILE("PG_VERSION", "18\n")});
    tar_add(&tar, &(TarMember){TAR_DIRECTORY("base/")});
    tar_add(&tar, &(TarMember){TAR_DIRECTORY("base/5/")});
    tar_add(&tar, &(TarMember){.name = "base/5/1259", .data = content, .size = sizeof content});
    tar_add(&tar, &(TarMember){.name = "unnamed/deep/file", .data = content, .size = 700});
    tar_add(&tar, &(TarMember){TAR_SYMLINK("pg_tblspc/16385/", "/srv/ts")});
    tar_end(&tar);
    return tar;
}

/* How many calls there were to fail. */
static size_t
fail_one_after_the_other(SyncMethod sync)
{
    TempDir dir;
    Buf tar = make_tar();
    Error err = ERROR_INIT;
    size_t descriptors;
    size_t n = 0;
    bool ok;

    temp_dir_make(&dir);
    temp_dir_mkdir(&dir, "root");
    root_path = temp_dir_path(&dir, "root");
    descriptors = descriptors_open();
    do {
        err = ERROR_INIT;
        atomic_store(&call_count, 0);
        fail_at = ++n;
        ok = run(tar_span(&tar), sync, &err);
        fail_at = 0;
        if (ok != (atomic_load(&call_count) < n))
            fail_msg("call %zu of %zu failed and the run did not: \"%s\"", n,
                     (size_t)atomic_load(&call_count), err.message);
        if (!ok && err.code != ERR_MEMORY && err.code != ERR_SYSTEM)
            fail_msg("call %zu: \"%s\"", n, err.message);
        assert_int_equal(descriptors_open(), descriptors);
        if (!ok)
            assert_true(dir_remove_contents(root_path, &err));
    } while (!ok);
    assert_int_equal(temp_dir_mode(&dir, "root/unnamed/deep/file"), S_IFREG | 0600);
    temp_dir_remove(&dir);
    buf_free(&tar);
    return n - 1;
}

static void
test_every_call_fails_once(void **state)
{
    (void)state;
    assert_in_range(fail_one_after_the_other(SYNC_NONE), 50, 500);
}

static void
test_every_call_fails_once_durable(void **state)
{
    (void)state;
    assert_in_range(fail_one_after_the_other(SYNC_FSYNC), 100, 500);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_call_fails_once),
        cmocka_unit_test(test_every_call_fails_once_durable),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
