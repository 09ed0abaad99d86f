/*
 * Failure totality of whole chains, which together have all stages:
 *
 *   directories  handoff -> tar_reader -> handoff => extract
 *   files        tar_terminator -> tee( handoff => file_sink ;
 *                                       tar_reader -> tar_writer -> handoff => file_sink )
 *   descriptor   tar_reader -> tar_writer -> file_sink
 *
 * The n-th call that can fail does, for n until none is left: the run fails with one Error that
 * says why, nothing stays open, and nothing is lost (which the sanitizers look after). The linker
 * leads the calls here (--wrap, see CMakeLists.txt).
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
ssize_t __real_pwrite64(int fd, const void *data, size_t len, off64_t offset);
ssize_t __wrap_pwrite64(int fd, const void *data, size_t len, off64_t offset);
int __real_fsync(int fd);
int __wrap_fsync(int fd);
int __real_fdatasync(int fd);
int __wrap_fdatasync(int fd);
int __real_syncfs(int fd);
int __wrap_syncfs(int fd);
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

ssize_t
__wrap_pwrite64(int fd, const void *data, size_t len, off64_t offset)
{
    return fails(ENOSPC) ? -1 : __real_pwrite64(fd, data, len, offset);
}

int
__wrap_fsync(int fd)
{
    return fails(EIO) ? -1 : __real_fsync(fd);
}

int
__wrap_fdatasync(int fd)
{
    return fails(EIO) ? -1 : __real_fdatasync(fd);
}

/* Nothing is lost when it never runs, and the machine has other things to do. */
int
__wrap_syncfs(int fd)
{
    (void)fd;
    return fails(EIO) ? -1 : 0;
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

/* ---- the chains ---- */

static const Archive base = {.name = "base.tar"};
static const HandoffConfig blocks = {.block_size = 1024, .block_count = 2};
static const TarOwner owner = {.uid = 1, .gid = 1};

/* Directories below the test's own. */
static const char *root_path;
static const char *wal_path;
static const char *one_path;
static const char *two_path;

static int null_fd; /* takes everything */

static const char *
find_root(void *ctx, Oid oid)
{
    (void)ctx;
    (void)oid;
    return root_path;
}

static Sink *
directories_new(SyncMethod sync, Error *err)
{
    const ExtractConfig config = {
        .root = find_root, .wal_directory = wal_path, .sync = sync, .directory_mode = 0700};
    Sink *sink = handoff_new(extract_new(&config, err), &blocks, err);

    sink = tar_reader_new(sink, TAR_END_OPTIONAL, err);
    return handoff_new(sink, &blocks, err);
}

static Sink *
file_new(const char *directory, SyncMethod sync, Error *err)
{
    const FileSinkConfig config = {.directory = directory, .file_mode = 0600, .sync = sync};

    return handoff_new(file_sink_new(&config, err), &blocks, err);
}

static Sink *
files_new(SyncMethod sync, Error *err)
{
    Sink *one = file_new(one_path, sync, err);
    Sink *two = one == NULL ? NULL : file_new(two_path, sync, err);

    two = tar_reader_new(tar_writer_new(two, &owner, err), TAR_END_REQUIRED, err);
    return tar_terminator_new(tee_new(one, two, err), err);
}

static Sink *
descriptor_new(SyncMethod sync, Error *err)
{
    const FileSinkConfig config = {.fd = null_fd, .fd_name = "nowhere", .sync = sync};
    Sink *sink = file_sink_new(&config, err);

    return tar_reader_new(tar_writer_new(sink, &owner, err), TAR_END_OPTIONAL, err);
}

/* ---- the run ---- */

typedef Sink *MakeChain(SyncMethod sync, Error *err);

/* In two halves, with a flush between. */
static bool
push(Sink *sink, Span tar, Error *err)
{
    Span first = {.data = tar.data, .len = tar.len / 2};
    Span second = {.data = tar.data + first.len, .len = tar.len - first.len};

    return sink_archive_begin(sink, &base, err) && chunk_push(sink, first, 700, err) &&
           sink_flush(sink, 1, err) && chunk_push(sink, second, 700, err) &&
           sink_archive_end(sink, err) && sink_finish(sink, err);
}

static bool
run(MakeChain *make, Span tar, SyncMethod sync, Error *err)
{
    Sink *sink = make(sync, err);
    bool ok = sink != NULL && push(sink, tar, err);

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
    tar_add(&tar, &(TarMember){TAR_DIRECTORY("pg_wal/")});
    tar_add(&tar, &(TarMember){TAR_FILE("pg_wal/archive_status/1.done", "")});
    tar_add(&tar, &(TarMember){TAR_SYMLINK("pg_tblspc/16385/", "/srv/ts")});
    return tar;
}

static const char *
make_directory(TempDir *dir, const char *name)
{
    temp_dir_mkdir(dir, name);
    return temp_dir_path(dir, name);
}

static void
make_directories(TempDir *dir)
{
    temp_dir_make(dir);
    root_path = make_directory(dir, "root");
    wal_path = make_directory(dir, "wal");
    one_path = make_directory(dir, "one");
    two_path = make_directory(dir, "two");
}

static void
empty_directories(void)
{
    Error err = ERROR_INIT;

    assert_true(dir_remove_contents(root_path, &err) && dir_remove_contents(wal_path, &err) &&
                dir_remove_contents(one_path, &err) && dir_remove_contents(two_path, &err));
}

/* The run with one call failing after the other, until none does. How many calls there were. */
static size_t
fail_one_after_the_other(MakeChain *make, SyncMethod sync)
{
    Buf tar = make_tar();
    Error err = ERROR_INIT;
    size_t descriptors = descriptors_open();
    size_t n = 0;
    bool ok;

    do {
        empty_directories();
        err = ERROR_INIT;
        atomic_store(&call_count, 0);
        fail_at = ++n;
        ok = run(make, tar_span(&tar), sync, &err);
        fail_at = 0;
        if (ok != (atomic_load(&call_count) < n))
            fail_msg("call %zu of %zu failed and the run did not: \"%s\"", n,
                     (size_t)atomic_load(&call_count), err.message);
        if (!ok && err.code != ERR_MEMORY && err.code != ERR_SYSTEM)
            fail_msg("call %zu: \"%s\"", n, err.message);
        assert_int_equal(descriptors_open(), descriptors);
    } while (!ok);
    buf_free(&tar);
    return n - 1;
}

/* ---- tests ---- */

static void
expect_directories(SyncMethod sync, size_t least)
{
    TempDir dir;

    make_directories(&dir);
    assert_in_range(fail_one_after_the_other(directories_new, sync), least, 500);
    assert_int_equal(temp_dir_mode(&dir, "root/unnamed/deep/file"), S_IFREG | 0600);
    assert_int_equal(temp_dir_mode(&dir, "wal/archive_status/1.done"), S_IFREG | 0600);
    temp_dir_remove(&dir);
}

static void
expect_files(SyncMethod sync, size_t least)
{
    TempDir dir;
    Buf tar = make_tar();
    Buf one;
    Buf two;

    make_directories(&dir);
    assert_in_range(fail_one_after_the_other(files_new, sync), least, 500);
    tar_end(&tar);
    one = temp_dir_read(&dir, "one/base.tar");
    two = temp_dir_read(&dir, "two/base.tar");
    assert_int_equal(one.len, tar.len);
    assert_int_equal(two.len, tar.len);
    assert_memory_equal(one.data, tar.data, tar.len);
    assert_memory_equal(two.data, tar.data, tar.len);
    buf_free(&one);
    buf_free(&two);
    buf_free(&tar);
    temp_dir_remove(&dir);
}

static void
test_directories(void **state)
{
    (void)state;
    expect_directories(SYNC_NONE, 60);
}

static void
test_directories_synced(void **state)
{
    (void)state;
    expect_directories(SYNC_FSYNC, 120);
}

static void
test_directories_on_a_synced_file_system(void **state)
{
    (void)state;
    expect_directories(SYNC_SYNCFS, 65);
}

static void
test_files(void **state)
{
    (void)state;
    expect_files(SYNC_NONE, 50);
}

static void
test_files_synced(void **state)
{
    (void)state;
    expect_files(SYNC_FSYNC, 60);
}

static void
test_files_on_a_synced_file_system(void **state)
{
    (void)state;
    expect_files(SYNC_SYNCFS, 60);
}

static void
test_descriptor(void **state)
{
    TempDir dir;

    (void)state;
    make_directories(&dir);
    null_fd = open("/dev/null", O_WRONLY | O_CLOEXEC);
    assert_true(null_fd >= 0);
    assert_in_range(fail_one_after_the_other(descriptor_new, SYNC_FSYNC), 15, 500);
    (void)close(null_fd);
    temp_dir_remove(&dir);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_directories),
        cmocka_unit_test(test_directories_synced),
        cmocka_unit_test(test_directories_on_a_synced_file_system),
        cmocka_unit_test(test_files),
        cmocka_unit_test(test_files_synced),
        cmocka_unit_test(test_files_on_a_synced_file_system),
        cmocka_unit_test(test_descriptor),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
