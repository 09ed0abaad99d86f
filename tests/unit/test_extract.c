/*
 * extract: what ends up on the disk, what is never touched, what is synced, and how failures of the
 * disk come back. pwrite, fsync, syncfs and sync_file_range are this file's own, to count them and
 * to make them fail.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/file.h"
#include "common/runtime.h"
#include "stream/stage.h"
#include "support/chunker.h"
#include "support/descriptors.h"
#include "support/tar_builder.h"
#include "support/temp_dir.h"

/* ---- the system calls ---- */

#define SYNCED_MAX 1024

static struct {
    pthread_mutex_t mutex;
    size_t fsyncs;
    size_t fsync_fail_at; /* from 1; 0: none */
    char *synced[SYNCED_MAX];
    size_t syncfss;
    size_t syncfs_fail_at; /* from 1; 0: none */
    size_t write_backs;
    uint64_t written_back; /* bytes that the last one reached */
    int write_errno;       /* what write fails with, 0: nothing */
    size_t write_limit;    /* bytes that one write takes, 0: all */
} calls = {.mutex = PTHREAD_MUTEX_INITIALIZER};

static void
calls_reset(void)
{
    for (size_t i = 0; i < SYNCED_MAX; i++) {
        free(calls.synced[i]);
        calls.synced[i] = NULL;
    }
    calls.fsyncs = 0;
    calls.fsync_fail_at = 0;
    calls.syncfss = 0;
    calls.syncfs_fail_at = 0;
    calls.write_backs = 0;
    calls.written_back = 0;
    calls.write_errno = 0;
    calls.write_limit = 0;
}

int
fsync(int fd)
{
    char path[4096];
    bool fails;

    (void)descriptor_path(fd, path, sizeof path);
    (void)pthread_mutex_lock(&calls.mutex);
    if (calls.fsyncs < SYNCED_MAX)
        calls.synced[calls.fsyncs] = strdup(path);
    fails = ++calls.fsyncs == calls.fsync_fail_at;
    (void)pthread_mutex_unlock(&calls.mutex);
    if (fails)
        errno = EIO;
    return fails ? -1 : (int)syscall(SYS_fsync, fd);
}

int
syncfs(int fd)
{
    if (++calls.syncfss != calls.syncfs_fail_at)
        return (int)syscall(SYS_syncfs, fd);
    errno = EIO;
    return -1;
}

int
sync_file_range(int fd, off64_t offset, off64_t count, unsigned flags)
{
    (void)fd;
    assert_int_equal(flags, SYNC_FILE_RANGE_WRITE); /* on the main thread */
    assert_true((uint64_t)offset == calls.written_back);
    calls.write_backs++;
    calls.written_back = (uint64_t)(offset + count);
    return 0;
}

ssize_t
pwrite64(int fd, const void *data, size_t len, off64_t offset)
{
    if (calls.write_errno != 0) {
        errno = calls.write_errno;
        return -1;
    }
    if (calls.write_limit != 0 && len > calls.write_limit)
        len = calls.write_limit;
    return syscall(SYS_pwrite64, fd, data, len, offset);
}

/* How often the file or directory below the test's directory was synced. */
static size_t
synced(TempDir *dir, const char *name)
{
    char *path = realpath(temp_dir_path(dir, name), NULL);
    size_t count = 0;

    for (size_t i = 0; i < SYNCED_MAX && i < calls.fsyncs; i++)
        count += strcmp(calls.synced[i], path) == 0;
    free(path);
    return count;
}

/* ---- the test's surroundings ---- */

typedef struct Surroundings {
    TempDir dir;
    size_t descriptors;
    mode_t umask;
    const char *wal_directory;
    const char *link_target; /* what the mapping says */
    Oid link_oid;            /* what it was asked for */
    char link_asked[200];
} Surroundings;

static const Archive base = {.name = "base.tar"};
static const Archive tablespace = {.name = "16385.tar", .tablespace = 16385};

static int
set_up(void **state)
{
    Surroundings *here = calloc(1, sizeof *here);

    if (here == NULL)
        return -1;
    here->descriptors = descriptors_open();
    here->umask = umask(077);
    temp_dir_make(&here->dir);
    temp_dir_mkdir(&here->dir, "in/root");
    temp_dir_mkdir(&here->dir, "ts");
    temp_dir_mkdir(&here->dir, "outside");
    temp_dir_mkdir(&here->dir, "wal");
    calls_reset();
    *state = here;
    return 0;
}

static int
tear_down(void **state)
{
    Surroundings *here = *state;
    size_t now;

    calls_reset();
    temp_dir_remove(&here->dir);
    (void)umask(here->umask);
    now = descriptors_open();
    if (now != here->descriptors)
        print_error("%zu descriptors before, %zu after the test\n", here->descriptors, now);
    now -= here->descriptors;
    free(here);
    return now == 0 ? 0 : -1;
}

static const char *
find_root(void *ctx, Oid oid)
{
    Surroundings *here = ctx;

    switch (oid) {
    case 0:
        return temp_dir_path(&here->dir, "in/root");
    case 16385:
        return temp_dir_path(&here->dir, "ts");
    case 16386:
        return temp_dir_path(&here->dir, "in/root"); /* again */
    case 16387:
        return temp_dir_path(&here->dir, "missing");
    default:
        return NULL;
    }
}

static const char *
map_link(void *ctx, Oid oid, const char *target)
{
    Surroundings *here = ctx;

    here->link_oid = oid;
    (void)snprintf(here->link_asked, sizeof here->link_asked, "%s", target);
    return here->link_target;
}

static Sink *
start(Surroundings *here, SyncMethod sync)
{
    Error err = ERROR_INIT;
    ExtractConfig config = {.root = find_root,
                            .link_target = map_link,
                            .ctx = here,
                            .wal_directory = here->wal_directory,
                            .sync = sync,
                            .directory_mode = 0750};
    Sink *sink = extract_new(&config, &err);

    assert_non_null(sink);
    return sink;
}

/* start, and the base archive has begun. */
static Sink *
start_base(Surroundings *here, SyncMethod sync)
{
    Sink *sink = start(here, sync);
    Error err = ERROR_INIT;

    assert_true(sink_archive_begin(sink, &base, &err));
    return sink;
}

static bool
put_file(Sink *sink, const char *path, const char *text, mode_t mode, Error *err)
{
    Entry entry = {.kind = ENTRY_FILE, .path = path, .size = strlen(text), .mode = mode};

    return sink_entry_begin(sink, &entry, err) && sink_data(sink, span_of(text), err) &&
           sink_entry_end(sink, true, err);
}

static bool
put_directory(Sink *sink, const char *path, mode_t mode, Error *err)
{
    Entry entry = {.kind = ENTRY_DIRECTORY, .path = path, .mode = mode};

    return sink_entry_begin(sink, &entry, err) && sink_entry_end(sink, true, err);
}

static bool
put_link(Sink *sink, const char *path, const char *target, Error *err)
{
    Entry entry = {.kind = ENTRY_SYMLINK, .path = path, .link_target = target, .mode = 0777};

    return sink_entry_begin(sink, &entry, err) && sink_entry_end(sink, true, err);
}

static bool
end_base(Sink *sink, Error *err)
{
    return sink_archive_end(sink, err) && sink_finish(sink, err);
}

static void
expect_content(Surroundings *here, const char *name, const char *text)
{
    Buf content = temp_dir_read(&here->dir, name);

    assert_string_equal(buf_text(&content), text);
    buf_free(&content);
}

static void
expect_mode(Surroundings *here, const char *name, mode_t mode)
{
    assert_int_equal(temp_dir_mode(&here->dir, name), mode);
}

static void
expect_link(Surroundings *here, const char *name, const char *target)
{
    assert_string_equal(temp_dir_link(&here->dir, name), target);
}

/* `before`, the full path of a name in the test's directory, `after`. */
static void
expect_message(Surroundings *here, const Error *err, ErrorCode code, const char *before,
               const char *name, const char *after)
{
    char expected[1024];

    (void)snprintf(expected, sizeof expected, "%s%s%s", before, temp_dir_path(&here->dir, name),
                   after);
    assert_string_equal(err->message, expected);
    assert_int_equal(err->code, code);
}

/* ---- what ends up there ---- */

static void
extract_all_kinds(Surroundings *here, SyncMethod sync)
{
    Error err = ERROR_INIT;
    Sink *sink = start_base(here, sync);

    assert_true(put_file(sink, "PG_VERSION", "18\n", 0600, &err));
    assert_true(put_directory(sink, "base", 0700, &err));
    assert_true(put_directory(sink, "base/5", 0750, &err));
    assert_true(put_file(sink, "base/5/1259", "relation", 0640, &err));
    assert_true(put_file(sink, "base/5/empty", "", 0600, &err));
    assert_true(put_file(sink, "postgresql.conf", "port = 1\n", 0644, &err));
    assert_true(put_file(sink, "unnamed/also/file", "deep", 0600, &err));
    here->link_target = "/new/ts";
    assert_true(put_link(sink, "pg_tblspc/16385", "/srv/ts", &err));
    assert_true(sink_flush(sink, 1, &err));
    assert_true(sink_archive_end(sink, &err));
    assert_true(sink_archive_begin(sink, &tablespace, &err));
    assert_true(put_file(sink, "PG_18_1/5/7", "spaced", 0600, &err));
    assert_true(end_base(sink, &err));
    sink_free(sink);

    expect_content(here, "in/root/PG_VERSION", "18\n");
    expect_content(here, "in/root/base/5/1259", "relation");
    expect_content(here, "in/root/base/5/empty", "");
    expect_content(here, "in/root/postgresql.conf", "port = 1\n");
    expect_content(here, "in/root/unnamed/also/file", "deep");
    expect_content(here, "ts/PG_18_1/5/7", "spaced");
    expect_link(here, "in/root/pg_tblspc/16385", "/new/ts");
    /* Modes are exact, whatever the umask (here 077). */
    expect_mode(here, "in/root/PG_VERSION", S_IFREG | 0600);
    expect_mode(here, "in/root/base", S_IFDIR | 0700);
    expect_mode(here, "in/root/base/5", S_IFDIR | 0750);
    expect_mode(here, "in/root/base/5/1259", S_IFREG | 0640);
    expect_mode(here, "in/root/postgresql.conf", S_IFREG | 0644);
    expect_mode(here, "in/root/unnamed", S_IFDIR | 0750);
    expect_mode(here, "in/root/unnamed/also", S_IFDIR | 0750);
    expect_mode(here, "in/root/pg_tblspc", S_IFDIR | 0750);
}

static void
test_tree_without_sync(void **state)
{
    extract_all_kinds(*state, SYNC_NONE);
    assert_int_equal(calls.fsyncs, 0);
    assert_int_equal(calls.syncfss, 0);
}

static void
test_tree_durable(void **state)
{
    static const char *const names[] = {
        "in/root/PG_VERSION",
        "in/root/base/5/1259",
        "in/root/base/5/empty",
        "in/root",
        "in/root/base",
        "in/root/base/5",
        "in/root/unnamed",
        "in/root/unnamed/also",
        "in/root/unnamed/also/file",
        "in/root/pg_tblspc",
        "in/root/postgresql.conf",
        "in",
        ".",
        "ts",
        "ts/PG_18_1",
        "ts/PG_18_1/5",
        "ts/PG_18_1/5/7",
    };
    Surroundings *here = *state;

    extract_all_kinds(here, SYNC_FSYNC);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (synced(&here->dir, names[i]) != 1)
            fail_msg("%s was synced %zu times", names[i], synced(&here->dir, names[i]));
    }
    assert_int_equal(calls.fsyncs, sizeof names / sizeof names[0]);
    assert_int_equal(calls.syncfss, 0);
}

static void
test_tree_on_a_synced_file_system(void **state)
{
    Surroundings *here = *state;

    extract_all_kinds(here, SYNC_SYNCFS);
    assert_int_equal(calls.syncfss, 2); /* both roots */
    assert_int_equal(calls.fsyncs, 2);  /* and their names */
    assert_int_equal(synced(&here->dir, "in"), 1);
    assert_int_equal(synced(&here->dir, "."), 1);
}

static void
test_directories_are_synced_after_the_files(void **state)
{
    Surroundings *here = *state;
    Error err = ERROR_INIT;
    Sink *sink = start_base(here, SYNC_FSYNC);
    struct stat st;

    for (int i = 0; i < 200; i++) { /* more than the queue holds */
        char name[32];

        (void)snprintf(name, sizeof name, "base/%d", i);
        assert_true(put_file(sink, name, "x", 0600, &err));
    }
    assert_true(end_base(sink, &err));
    sink_free(sink);
    assert_int_equal(calls.fsyncs, 203); /* base, root, parent */
    for (size_t i = 0; i < 203; i++) {
        assert_int_equal(stat(calls.synced[i], &st), 0);
        assert_int_equal(S_ISDIR(st.st_mode), i >= 200);
    }
}

static void
test_root_of_several_archives_is_synced_once(void **state)
{
    Surroundings *here = *state;
    Error err = ERROR_INIT;
    Sink *sink = start_base(here, SYNC_FSYNC);

    assert_true(sink_archive_end(sink, &err));
    assert_true(sink_archive_begin(sink, &(Archive){.name = "again", .tablespace = 16386}, &err));
    assert_true(end_base(sink, &err));
    sink_free(sink);
    assert_int_equal(synced(&here->dir, "in/root"), 1);
    assert_int_equal(calls.fsyncs, 2);

    sink = start_base(here, SYNC_SYNCFS);
    assert_true(sink_archive_end(sink, &err));
    assert_true(sink_archive_begin(sink, &(Archive){.name = "again", .tablespace = 16386}, &err));
    assert_true(end_base(sink, &err));
    sink_free(sink);
    assert_int_equal(calls.syncfss, 1);
}

static void
test_empty_stream(void **state)
{
    for (SyncMethod sync = SYNC_NONE; sync <= SYNC_BEST; sync++) {
        Error err = ERROR_INIT;
        Sink *sink = start(*state, sync);

        assert_true(sink_finish(sink, &err));
        sink_free(sink);
        assert_int_equal(calls.fsyncs + calls.syncfss, 0);
    }
}

static void
test_links_are_not_followed_by_sync(void **state)
{
    Surroundings *here = *state;
    Error err = ERROR_INIT;
    Sink *sink = start_base(here, SYNC_FSYNC);

    assert_int_equal(
        symlink(temp_dir_path(&here->dir, "outside"), temp_dir_path(&here->dir, "in/root/pg_wal")),
        0);
    assert_true(end_base(sink, &err));
    sink_free(sink);
    assert_int_equal(synced(&here->dir, "outside"), 0);
}

static void
test_from_tar_in_any_pieces_and_any_thread(void **state)
{
    Surroundings *here = *state;
    char content[3000];
    Buf tar = BUF_INIT;

    memset(content, 'c', sizeof content - 1);
    content[sizeof content - 1] = '\0';
    tar_add(&tar, &(TarMember){TAR_DIRECTORY("./"), .mode = 0711});
    tar_add(&tar, &(TarMember){TAR_DIRECTORY("base/"), .mode = 0700});
    tar_add(&tar, &(TarMember){.name = "base/1", .data = content, .size = 2999, .mode = 0640});
    tar_add(&tar, &(TarMember){.name = "base/2", .mode = 0600});
    tar_add(&tar, &(TarMember){TAR_SYMLINK("pg_tblspc/16385/", "/srv/ts")});
    tar_end(&tar);
    for (size_t piece = 1; piece <= 4096; piece *= 4) {
        for (int threaded = 0; threaded < 2; threaded++) {
            Error err = ERROR_INIT;
            Sink *sink = start(here, SYNC_FSYNC);

            if (threaded)
                sink = handoff_new(sink, &(HandoffConfig){.block_size = 1000}, &err);
            sink = tar_reader_new(sink, TAR_END_REQUIRED, &err);
            assert_true(chunk_archive(sink, &base, tar_span(&tar), piece, &err));
            assert_true(sink_finish(sink, &err));
            sink_free(sink);
            expect_content(here, "in/root/base/1", content);
            expect_content(here, "in/root/base/2", "");
            expect_mode(here, "in/root/base/1", S_IFREG | 0640);
            expect_mode(here, "in/root", S_IFDIR | 0700); /* the root is not the archive's */
            expect_link(here, "in/root/pg_tblspc/16385", "/srv/ts");
            assert_true(dir_remove_contents(temp_dir_path(&here->dir, "in/root"), &err));
        }
    }
    buf_free(&tar);
}

static void
test_special_mode_bits_are_dropped(void **state)
{
    Surroundings *here = *state;
    Error err = ERROR_INIT;
    Sink *sink = start_base(here, SYNC_NONE);

    assert_true(put_file(sink, "suid", "", 06755, &err));
    assert_true(put_directory(sink, "sticky", 01777, &err));
    assert_true(put_file(sink, "readonly", "x", 0400, &err));
    assert_true(end_base(sink, &err));
    sink_free(sink);
    expect_mode(here, "in/root/suid", S_IFREG | 0755);
    expect_mode(here, "in/root/sticky", S_IFDIR | 0777);
    expect_mode(here, "in/root/readonly", S_IFREG | 0400);
    expect_content(here, "in/root/readonly", "x");
}

static void
test_existing_directories_are_used(void **state)
{
    Surroundings *here = *state;
    Error err = ERROR_INIT;
    Sink *sink;

    temp_dir_mkdir(&here->dir, "in/root/pg_wal/archive_status");
    temp_dir_mkdir(&here->dir, "in/root/other");
    sink = start_base(here, SYNC_NONE);
    assert_true(put_directory(sink, "pg_wal", 0750, &err));
    assert_true(put_directory(sink, "pg_wal", 0755, &err));
    assert_true(put_file(sink, "pg_wal/archive_status/x.done", "", 0600, &err));
    assert_true(put_file(sink, "other/y", "", 0600, &err));
    assert_true(end_base(sink, &err));
    sink_free(sink);
    expect_mode(here, "in/root/pg_wal", S_IFDIR | 0755);                /* the archive's word */
    expect_mode(here, "in/root/pg_wal/archive_status", S_IFDIR | 0700); /* not named: left alone */
    expect_mode(here, "in/root/other", S_IFDIR | 0700);
    assert_true(temp_dir_exists(&here->dir, "in/root/other/y"));
}

static void
test_files_of_changing_directories(void **state)
{
    static const char *const names[] = {"a/1", "b/1", "a/2", "x", "a/b/1", "a/3", "ab/1", "b/2"};
    Surroundings *here = *state;
    Error err = ERROR_INIT;
    Sink *sink = start_base(here, SYNC_NONE);

    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        assert_true(put_file(sink, names[i], names[i], 0600, &err));
    assert_true(sink_archive_end(sink, &err));
    /* The directory that was used last belonged to the other root. */
    assert_true(sink_archive_begin(sink, &tablespace, &err));
    assert_true(put_file(sink, "b/2", "other b", 0600, &err));
    assert_true(end_base(sink, &err));
    sink_free(sink);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char name[64];

        (void)snprintf(name, sizeof name, "in/root/%s", names[i]);
        expect_content(here, name, names[i]);
    }
    expect_content(here, "ts/b/2", "other b");
}

/* ---- writing ---- */

/* Whichever way it gets to the disk. */
static void
test_large_file(void **state)
{
    const size_t size = (size_t)20 * 1024 * 1024 + 5;
    const size_t piece = (size_t)1024 * 1024;
    Surroundings *here = *state;
    Error err = ERROR_INIT;
    uint8_t *data = calloc(1, piece);
    char path[16];
    struct stat st;

    assert_non_null(data);
    for (SyncMethod sync = SYNC_NONE; sync <= SYNC_BEST; sync++) {
        Sink *sink = start_base(here, sync);
        char name[2] = {(char)('a' + (int)sync), '\0'};
        Entry entry = {.kind = ENTRY_FILE, .path = name, .size = size};

        calls_reset();
        assert_true(sink_entry_begin(sink, &entry, &err));
        for (size_t left = size; left > 0; left -= left < piece ? left : piece) {
            Span span = {.data = data, .len = left < piece ? left : piece};

            assert_true(sink_data(sink, span, &err));
        }
        assert_true(sink_entry_end(sink, true, &err));
        assert_true(end_base(sink, &err));
        sink_free(sink);
        assert_true(sync != SYNC_NONE || calls.write_backs == 0);
        (void)snprintf(path, sizeof path, "in/root/%s", name);
        assert_int_equal(stat(temp_dir_path(&here->dir, path), &st), 0);
        assert_true((uint64_t)st.st_size == size);
    }
    free(data);
}

static void
test_short_writes_are_continued(void **state)
{
    Surroundings *here = *state;
    Error err = ERROR_INIT;
    Sink *sink = start_base(here, SYNC_NONE);

    calls.write_limit = 3;
    assert_true(put_file(sink, "f", "0123456789", 0600, &err));
    assert_true(end_base(sink, &err));
    sink_free(sink);
    expect_content(here, "in/root/f", "0123456789");
}

static void
test_full_disk_names_the_file(void **state)
{
    Surroundings *here = *state;

    for (int durable = 0; durable < 2; durable++) {
        Error err = ERROR_INIT;
        Sink *sink = start_base(here, durable ? SYNC_FSYNC : SYNC_NONE);
        const char *path = durable ? "base/5/2" : "base/5/1";

        calls.write_errno = ENOSPC;
        /* Other threads write, and tell it at the end at the latest. */
        assert_false(put_file(sink, path, "x", 0600, &err) && end_base(sink, &err));
        assert_int_equal(err.sys_errno, ENOSPC);
        expect_message(here, &err, ERR_SYSTEM, "could not write to file \"",
                       durable ? "in/root/base/5/2" : "in/root/base/5/1",
                       "\": No space left on device");
        assert_false(sink_finish(sink, &err));
        assert_int_equal(err.sys_errno, ENOSPC);
        sink_free(sink);
        calls.write_errno = 0;
    }
}

static void
test_file_size_limit(void **state)
{
    static const uint8_t data[65536];
    Surroundings *here = *state;
    Error err = ERROR_INIT;
    Sink *sink = start_base(here, SYNC_NONE);
    Entry entry = {.kind = ENTRY_FILE, .path = "big", .size = 2 * sizeof data};
    struct rlimit before;
    struct rlimit limit;
    bool ok;

    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    limit = before;
    limit.rlim_cur = sizeof data + 1000;
    (void)signal(SIGXFSZ, SIG_IGN);
    assert_true(sink_entry_begin(sink, &entry, &err));
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
    ok = sink_data(sink, (Span){.data = data, .len = sizeof data}, &err) &&
         sink_data(sink, (Span){.data = data, .len = sizeof data}, &err) &&
         sink_entry_end(sink, true, &err) && end_base(sink, &err);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    (void)signal(SIGXFSZ, SIG_DFL);
    assert_false(ok);
    expect_message(here, &err, ERR_SYSTEM, "could not write to file \"", "in/root/big",
                   "\": File too large");
    sink_free(sink);
}

/* ---- sync failures ---- */

static bool
extract_some(Surroundings *here, Error *err)
{
    Sink *sink = start(here, SYNC_FSYNC);
    bool ok = sink_archive_begin(sink, &base, err) && put_file(sink, "a", "1", 0600, err) &&
              put_file(sink, "b", "2", 0600, err) && put_file(sink, "c/d", "3", 0600, err) &&
              sink_archive_end(sink, err) && sink_finish(sink, err);

    sink_free(sink);
    return ok;
}

static void
test_every_failed_sync_fails_the_run(void **state)
{
    Surroundings *here = *state;
    size_t n = 0;
    bool ok = false;

    while (!ok) {
        Error err = ERROR_INIT;

        calls_reset();
        calls.fsync_fail_at = ++n;
        ok = extract_some(here, &err);
        if (!ok) {
            assert_int_equal(err.code, ERR_SYSTEM);
            assert_int_equal(err.sys_errno, EIO);
            assert_non_null(strstr(err.message, "could not fsync file \""));
            assert_non_null(strstr(err.message, here->dir.path));
        }
        assert_true(dir_remove_contents(temp_dir_path(&here->dir, "in/root"), &err));
    }
    assert_int_equal(n, 7); /* three files, three directories; the seventh never comes */
}

static void
test_failed_sync_of_a_file_system(void **state)
{
    Surroundings *here = *state;

    for (size_t n = 1; n <= 4; n++) { /* both roots and their parents */
        Error err = ERROR_INIT;
        Error again = ERROR_INIT;
        Sink *sink = start_base(here, SYNC_SYNCFS);
        size_t root = (n - 1) / 2;
        char before[64];

        calls_reset();
        calls.syncfs_fail_at = n % 2 == 1 ? root + 1 : 0;
        calls.fsync_fail_at = n % 2 == 0 ? root + 1 : 0;
        assert_true(sink_archive_end(sink, &err));
        assert_true(sink_archive_begin(sink, &tablespace, &err));
        assert_false(end_base(sink, &err));
        (void)snprintf(before, sizeof before, "could not %s \"",
                       n % 2 == 1 ? "sync the file system of" : "fsync file");
        expect_message(here, &err, ERR_SYSTEM, before, root == 0 ? "in/root" : "ts",
                       n % 2 == 1 ? "\": Input/output error" : "/..\": Input/output error");
        assert_false(sink_finish(sink, &again));
        assert_memory_equal(&again, &err, sizeof err);
        sink_free(sink);
        assert_int_equal(calls.syncfss + calls.fsyncs, n); /* nobody goes on */
    }
}

static void
test_failed_sync_reaches_a_later_push(void **state)
{
    Error err = ERROR_INIT;
    Error later = ERROR_INIT;
    Sink *sink = start_base(*state, SYNC_FSYNC);
    size_t files = 0;
    bool ok = true;

    calls.fsync_fail_at = 2;
    while (ok) { /* would go on for ever */
        char name[32];

        (void)snprintf(name, sizeof name, "f%zu", files++);
        ok = put_file(sink, name, "x", 0600, &err);
    }
    assert_int_equal(err.sys_errno, EIO);
    assert_false(sink_finish(sink, &later));
    assert_string_equal(later.message, err.message);
    sink_free(sink);
    /* Nobody syncs on after a failure but those that were at it: four threads, 32 files each. */
    assert_true(calls.fsyncs <= 2 + 4 * 32);
}

/* A parent that lets us pass but not look; as root we have to become somebody for whom that counts.
 */
static void
test_unreadable_parent(void **state)
{
    const uid_t nobody = 65534;
    Surroundings *here = *state;
    const char *root = temp_dir_path(&here->dir, "in/root");
    bool privileged = geteuid() == 0;
    Error err = ERROR_INIT;
    Sink *sink;
    bool ok;

    assert_int_equal(chmod(here->dir.path, 0711), 0);
    assert_int_equal(chmod(temp_dir_path(&here->dir, "in"), privileged ? 0711 : 0300), 0);
    if (privileged) {
        assert_int_equal(chown(root, nobody, nobody), 0);
        assert_int_equal(seteuid(nobody), 0);
    }
    if (faccessat(AT_FDCWD, root, W_OK, AT_EACCESS) != 0) {
        assert_int_equal(seteuid(0), 0);
        skip(); /* the temporary directories are root's alone */
    }
    sink = start(here, SYNC_FSYNC);
    ok = sink_archive_begin(sink, &base, &err) && put_file(sink, "f", "x", 0600, &err) &&
         end_base(sink, &err);
    sink_free(sink);
    if (privileged)
        assert_int_equal(seteuid(0), 0);
    assert_string_equal(err.message, "");
    assert_true(ok);
    assert_int_equal(calls.syncfss, 1); /* the file system, since the directory would not open */
    assert_int_equal(synced(&here->dir, "in/root/f"), 1);
    assert_int_equal(synced(&here->dir, "in/root"), 1);
}

/* ---- what must not be overwritten or followed ---- */

static void
test_existing_file_is_refused(void **state)
{
    Surroundings *here = *state;
    Error err = ERROR_INIT;
    Sink *sink;

    temp_dir_write(&here->dir, "in/root/f", "old", 3);
    sink = start_base(here, SYNC_NONE);
    assert_false(put_file(sink, "f", "new", 0600, &err) && end_base(sink, &err));
    expect_message(here, &err, ERR_SYSTEM, "could not create file \"", "in/root/f",
                   "\": File exists");
    sink_free(sink);
    expect_content(here, "in/root/f", "old");
}

static void
test_file_named_twice_is_refused(void **state)
{
    Surroundings *here = *state;
    Error err = ERROR_INIT;
    Sink *sink = start_base(here, SYNC_NONE);

    assert_true(put_file(sink, "base/f", "first", 0600, &err));
    assert_false(put_file(sink, "base/f", "second", 0600, &err) && end_base(sink, &err));
    assert_int_equal(err.sys_errno, EEXIST);
    sink_free(sink);
    expect_content(here, "in/root/base/f", "first");
}

static void
test_link_in_place_of_a_file_is_not_written_through(void **state)
{
    Surroundings *here = *state;

    for (int exists = 0; exists < 2; exists++) {
        Error err = ERROR_INIT;
        Sink *sink;

        if (exists)
            temp_dir_write(&here->dir, "outside/victim", "untouched", 9);
        else
            assert_int_equal(symlink(temp_dir_path(&here->dir, "outside/victim"),
                                     temp_dir_path(&here->dir, "in/root/f")),
                             0);
        sink = start_base(here, SYNC_NONE);
        assert_false(put_file(sink, "f", "evil", 0600, &err) && end_base(sink, &err));
        assert_int_equal(err.sys_errno, EEXIST);
        sink_free(sink);
        if (exists)
            expect_content(here, "outside/victim", "untouched");
        else
            assert_false(temp_dir_exists(&here->dir, "outside/victim"));
    }
}

static void
test_link_in_place_of_a_directory_is_not_followed(void **state)
{
    Surroundings *here = *state;
    Error err = ERROR_INIT;
    Sink *sink;

    assert_int_equal(
        symlink(temp_dir_path(&here->dir, "outside"), temp_dir_path(&here->dir, "in/root/d")), 0);
    sink = start_base(here, SYNC_NONE);
    assert_false(put_file(sink, "d/f", "evil", 0600, &err));
    expect_message(here, &err, ERR_FORMAT, "\"", "in/root/d",
                   "\" is a symbolic link, which is not followed");
    sink_free(sink);

    err = ERROR_INIT;
    sink = start_base(here, SYNC_NONE);
    assert_false(put_file(sink, "d/e/f", "evil", 0600, &err));
    expect_message(here, &err, ERR_FORMAT, "\"", "in/root/d",
                   "\" is a symbolic link, which is not followed");
    sink_free(sink);

    err = ERROR_INIT;
    sink = start_base(here, SYNC_NONE);
    assert_false(put_directory(sink, "d", 0755, &err));
    expect_message(here, &err, ERR_FORMAT, "\"", "in/root/d",
                   "\" is a symbolic link, which is not followed");
    sink_free(sink);
    assert_false(temp_dir_exists(&here->dir, "outside/f"));
    assert_false(temp_dir_exists(&here->dir, "outside/e"));
    expect_mode(here, "outside", S_IFDIR | 0700);
}

/* Somebody exchanges a directory for a link while we are at it. */
static void
replace_by_link(Surroundings *here)
{
    assert_int_equal(
        rename(temp_dir_path(&here->dir, "in/root/d"), temp_dir_path(&here->dir, "in/root/moved")),
        0);
    assert_int_equal(
        symlink(temp_dir_path(&here->dir, "outside"), temp_dir_path(&here->dir, "in/root/d")), 0);
}

static void
test_directory_replaced_by_a_link(void **state)
{
    Surroundings *here = *state;
    Error err = ERROR_INIT;
    Sink *sink = start_base(here, SYNC_NONE);

    assert_true(put_directory(sink, "d", 0700, &err));
    replace_by_link(here);
    /* The directory that we have made is still open, wherever it is now. */
    assert_true(put_file(sink, "d/f", "x", 0600, &err));
    /* Coming from elsewhere, the way is looked at again. */
    assert_true(put_file(sink, "e/f", "x", 0600, &err));
    assert_true(end_base(sink, &err));
    sink_free(sink);
    expect_content(here, "in/root/moved/f", "x");
    sink = start_base(here, SYNC_NONE);
    assert_false(put_file(sink, "d/g", "x", 0600, &err));
    expect_message(here, &err, ERR_FORMAT, "\"", "in/root/d",
                   "\" is a symbolic link, which is not followed");
    sink_free(sink);
    assert_false(temp_dir_exists(&here->dir, "outside/f"));
    assert_false(temp_dir_exists(&here->dir, "outside/g"));
}

static void
test_file_in_place_of_a_directory(void **state)
{
    Surroundings *here = *state;
    Error err = ERROR_INIT;
    Sink *sink;

    temp_dir_write(&here->dir, "in/root/d", "x", 1);
    sink = start_base(here, SYNC_NONE);
    assert_false(put_file(sink, "d/f", "x", 0600, &err));
    expect_message(here, &err, ERR_SYSTEM, "could not open directory \"", "in/root/d",
                   "\": Not a directory");
    sink_free(sink);
    err = ERROR_INIT;
    sink = start_base(here, SYNC_NONE);
    assert_false(put_directory(sink, "d", 0700, &err));
    expect_message(here, &err, ERR_SYSTEM, "could not open directory \"", "in/root/d",
                   "\": Not a directory");
    sink_free(sink);
}

/* Whatever an archive makes of one name first, it does not get both. */
static void
test_file_and_directory_of_one_name(void **state)
{
    Surroundings *here = *state;

    for (int below = 0; below < 2; below++) {
        Error err = ERROR_INIT;
        Sink *sink = start_base(here, SYNC_FSYNC);

        assert_false(put_file(sink, "d", "x", 0600, &err) &&
                     (below ? put_file(sink, "d/f", "x", 0600, &err)
                            : put_directory(sink, "d", 0700, &err)) &&
                     end_base(sink, &err));
        assert_int_equal(err.code, ERR_SYSTEM);
        sink_free(sink);
        assert_true(dir_remove_contents(temp_dir_path(&here->dir, "in/root"), &err));
    }
}

static void
test_unsafe_paths(void **state)
{
    static const char *const paths[] = {"../f",      "/f",   "",   ".",    "..",
                                        "a/../../f", "a//f", "a/", "a/./f"};
    Surroundings *here = *state;

    for (size_t i = 0; i < sizeof paths / sizeof paths[0]; i++) {
        for (EntryKind kind = ENTRY_FILE; kind <= ENTRY_SYMLINK; kind++) {
            Entry entry = {.kind = kind, .path = paths[i], .link_target = "/t"};
            Error err = ERROR_INIT;
            Sink *sink = start_base(here, SYNC_NONE);

            assert_false(sink_entry_begin(sink, &entry, &err));
            assert_int_equal(err.code, ERR_FORMAT);
            assert_non_null(strstr(err.message, "has an unsafe path"));
            sink_free(sink);
        }
    }
    assert_false(temp_dir_exists(&here->dir, "in/root/a"));
    assert_false(temp_dir_exists(&here->dir, "in/f"));
}

/* ---- links ---- */

static void
test_link_mapping(void **state)
{
    Surroundings *here = *state;
    Error err = ERROR_INIT;
    Sink *sink = start_base(here, SYNC_NONE);

    assert_true(put_directory(sink, "pg_tblspc", 0700, &err));
    here->link_target = "/mapped";
    assert_true(put_link(sink, "pg_tblspc/16385", "/srv/one", &err));
    assert_int_equal(here->link_oid, 16385);
    assert_string_equal(here->link_asked, "/srv/one");
    here->link_target = NULL; /* no mapping: the target stays */
    assert_true(put_link(sink, "pg_tblspc/4294967295", "/srv/two", &err));
    assert_int_equal(here->link_oid, 4294967295);
    assert_true(put_link(sink, "pg_tblspc/2", "beside", &err));
    here->link_target = "../as the caller likes it";
    assert_true(put_link(sink, "pg_tblspc/3", "/srv/three", &err));
    assert_true(end_base(sink, &err));
    sink_free(sink);
    expect_link(here, "in/root/pg_tblspc/16385", "/mapped");
    expect_link(here, "in/root/pg_tblspc/4294967295", "/srv/two");
    expect_link(here, "in/root/pg_tblspc/2", "beside");
    expect_link(here, "in/root/pg_tblspc/3", "../as the caller likes it");
}

static void
test_link_without_mapping_function(void **state)
{
    Surroundings *here = *state;
    Error err = ERROR_INIT;
    ExtractConfig config = {.root = find_root, .ctx = here, .directory_mode = 0700};
    Sink *sink = extract_new(&config, &err);

    assert_true(sink_archive_begin(sink, &base, &err));
    assert_true(put_link(sink, "pg_tblspc/16385", "/srv/ts", &err));
    assert_true(end_base(sink, &err));
    sink_free(sink);
    expect_link(here, "in/root/pg_tblspc/16385", "/srv/ts");
}

static void
test_links_elsewhere_are_refused(void **state)
{
    static const char *const paths[] = {"x",
                                        "pg_wal",
                                        "pg_tblspc",
                                        "pg_tblspc/x",
                                        "pg_tblspc/0",
                                        "pg_tblspc/016385",
                                        "pg_tblspc/16385x",
                                        "pg_tblspc/-1",
                                        "pg_tblspc/ 1",
                                        "pg_tblspc/4294967296",
                                        "pg_tblspc/16385/x",
                                        "base/pg_tblspc/16385",
                                        "pg_tblspcx/1"};
    Surroundings *here = *state;

    for (size_t i = 0; i < sizeof paths / sizeof paths[0]; i++) {
        char name[64];
        Error err = ERROR_INIT;
        Sink *sink = start_base(here, SYNC_NONE);

        assert_false(put_link(sink, paths[i], "/etc", &err));
        (void)snprintf(name, sizeof name, "in/root/%s", paths[i]);
        expect_message(here, &err, ERR_FORMAT, "symbolic link \"", name,
                       "\" is not a tablespace's link");
        sink_free(sink);
        assert_false(temp_dir_exists(&here->dir, name));
    }
}

static void
test_links_in_a_tablespace_are_refused(void **state)
{
    Surroundings *here = *state;
    Error err = ERROR_INIT;
    Sink *sink = start(here, SYNC_NONE);

    assert_true(sink_archive_begin(sink, &tablespace, &err));
    assert_false(put_link(sink, "pg_tblspc/1", "/etc", &err));
    expect_message(here, &err, ERR_FORMAT, "symbolic link \"", "ts/pg_tblspc/1",
                   "\" is not a tablespace's link");
    sink_free(sink);
}

static void
test_link_targets_that_climb_are_refused(void **state)
{
    Surroundings *here = *state;
    Error err = ERROR_INIT;
    Sink *sink = start_base(here, SYNC_NONE);

    assert_false(put_link(sink, "pg_tblspc/1", "../../etc", &err));
    expect_message(here, &err, ERR_FORMAT, "symbolic link \"", "in/root/pg_tblspc/1",
                   "\" has the unsafe target \"../../etc\"");
    sink_free(sink);
}

static void
test_nothing_is_written_through_a_link_of_the_archive(void **state)
{
    Surroundings *here = *state;
    Error err = ERROR_INIT;
    Sink *sink = start_base(here, SYNC_NONE);

    assert_true(put_link(sink, "pg_tblspc/1", temp_dir_path(&here->dir, "outside"), &err));
    assert_false(put_file(sink, "pg_tblspc/1/f", "evil", 0600, &err));
    expect_message(here, &err, ERR_FORMAT, "\"", "in/root/pg_tblspc/1",
                   "\" is a symbolic link, which is not followed");
    sink_free(sink);
    assert_false(temp_dir_exists(&here->dir, "outside/f"));
}

static void
test_existing_link_is_refused(void **state)
{
    Surroundings *here = *state;
    Error err = ERROR_INIT;
    Sink *sink = start_base(here, SYNC_NONE);

    assert_true(put_link(sink, "pg_tblspc/1", "/one", &err));
    assert_false(put_link(sink, "pg_tblspc/1", "/two", &err));
    expect_message(here, &err, ERR_SYSTEM, "could not create symbolic link \"",
                   "in/root/pg_tblspc/1", "\" to \"/two\": File exists");
    sink_free(sink);
    expect_link(here, "in/root/pg_tblspc/1", "/one");
}

/* ---- a WAL directory of its own ---- */

/* The caller's part: the link, in the data directory. */
static Sink *
start_with_wal(Surroundings *here, SyncMethod sync)
{
    here->wal_directory = temp_dir_path(&here->dir, "wal");
    (void)unlink(temp_dir_path(&here->dir, "in/root/pg_wal"));
    assert_int_equal(symlink(here->wal_directory, temp_dir_path(&here->dir, "in/root/pg_wal")), 0);
    return start_base(here, sync);
}

static void
test_wal_goes_to_its_own_directory(void **state)
{
    Surroundings *here = *state;
    Error err = ERROR_INIT;
    Sink *sink = start_with_wal(here, SYNC_FSYNC);

    assert_true(put_directory(sink, "pg_wal", 0750, &err));
    assert_true(put_directory(sink, "pg_wal/archive_status", 0700, &err));
    assert_true(put_file(sink, "pg_wal/archive_status/1.done", "", 0600, &err));
    assert_true(put_file(sink, "pg_wal/1", "segment", 0640, &err));
    assert_true(put_file(sink, "pg_wal/summaries/s", "summary", 0600, &err)); /* not named */
    assert_true(put_file(sink, "PG_VERSION", "18\n", 0600, &err));
    assert_true(end_base(sink, &err));
    sink_free(sink);

    expect_mode(here, "wal", S_IFDIR | 0750);
    expect_mode(here, "wal/archive_status", S_IFDIR | 0700);
    expect_mode(here, "wal/1", S_IFREG | 0640);
    expect_content(here, "wal/1", "segment");
    expect_content(here, "wal/archive_status/1.done", "");
    expect_content(here, "wal/summaries/s", "summary");
    expect_content(here, "in/root/PG_VERSION", "18\n");
    expect_link(here, "in/root/pg_wal", temp_dir_path(&here->dir, "wal"));
    /* It is made to last like a root. */
    assert_int_equal(synced(&here->dir, "wal"), 1);
    assert_int_equal(synced(&here->dir, "wal/archive_status"), 1);
    assert_int_equal(synced(&here->dir, "wal/summaries"), 1);
    assert_int_equal(synced(&here->dir, "wal/1"), 1);
    assert_int_equal(synced(&here->dir, "."), 1);
    assert_int_equal(synced(&here->dir, "in/root"), 1);
}

static void
test_wal_directory_on_a_synced_file_system(void **state)
{
    Surroundings *here = *state;
    Error err = ERROR_INIT;
    Sink *sink = start_with_wal(here, SYNC_SYNCFS);

    /* Even when nothing of the archive is for it: others may have written there. */
    assert_true(end_base(sink, &err));
    sink_free(sink);
    assert_int_equal(calls.syncfss, 2);
    assert_int_equal(synced(&here->dir, "in"), 1);
    assert_int_equal(synced(&here->dir, "."), 1);
}

/* What is used last in one root does not count in the other. */
static void
test_directories_of_one_name_in_both_roots(void **state)
{
    static const char *const names[] = {"d/1", "pg_wal/d/1", "pg_wal/d/2", "d/2", "3", "pg_wal/3"};
    static const char *const places[] = {"in/root/d/1", "wal/d/1",   "wal/d/2",
                                         "in/root/d/2", "in/root/3", "wal/3"};
    Surroundings *here = *state;
    Error err = ERROR_INIT;
    Sink *sink = start_with_wal(here, SYNC_NONE);

    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        assert_true(put_file(sink, names[i], names[i], 0600, &err));
    assert_true(end_base(sink, &err));
    sink_free(sink);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        expect_content(here, places[i], names[i]);
}

static void
test_only_pg_wal_of_the_data_directory_is_apart(void **state)
{
    static const char *const names[] = {"pg_walx", "pg_wal.old/f", "base/pg_wal/f", "pg_xlog/f"};
    Surroundings *here = *state;
    Error err = ERROR_INIT;
    Sink *sink = start_with_wal(here, SYNC_NONE);

    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        assert_true(put_file(sink, names[i], names[i], 0600, &err));
    assert_true(sink_archive_end(sink, &err));
    assert_true(sink_archive_begin(sink, &tablespace, &err));
    assert_true(put_directory(sink, "pg_wal", 0755, &err));
    assert_true(put_file(sink, "pg_wal/f", "no WAL", 0600, &err));
    assert_true(end_base(sink, &err));
    sink_free(sink);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char name[64];

        (void)snprintf(name, sizeof name, "in/root/%s", names[i]);
        expect_content(here, name, names[i]);
    }
    expect_content(here, "ts/pg_wal/f", "no WAL");
    expect_mode(here, "wal", S_IFDIR | 0700);
}

static void
test_wal_directory_is_no_way_out(void **state)
{
    static const char *const paths[] = {"pg_wal/../f", "pg_wal//f", "pg_wal/", "pg_wal/.",
                                        "pg_wal/d/../../f"};
    Surroundings *here = *state;
    Error err = ERROR_INIT;
    Sink *sink;

    for (size_t i = 0; i < sizeof paths / sizeof paths[0]; i++) {
        for (EntryKind kind = ENTRY_FILE; kind <= ENTRY_DIRECTORY; kind++) {
            err = ERROR_INIT;
            sink = start_with_wal(here, SYNC_NONE);
            assert_false(sink_entry_begin(sink, &(Entry){.kind = kind, .path = paths[i]}, &err));
            assert_int_equal(err.code, ERR_FORMAT);
            assert_non_null(strstr(err.message, "has an unsafe path"));
            sink_free(sink);
        }
    }
    err = ERROR_INIT;
    assert_int_equal(
        symlink(temp_dir_path(&here->dir, "outside"), temp_dir_path(&here->dir, "wal/d")), 0);
    sink = start_with_wal(here, SYNC_NONE);
    assert_false(put_file(sink, "pg_wal/d/f", "evil", 0600, &err));
    expect_message(here, &err, ERR_FORMAT, "\"", "wal/d",
                   "\" is a symbolic link, which is not followed");
    sink_free(sink);
    assert_false(temp_dir_exists(&here->dir, "f"));
    assert_false(temp_dir_exists(&here->dir, "outside/f"));
}

/* No name below pg_wal turns into one where links are allowed. */
static void
test_links_of_the_wal_directory(void **state)
{
    Surroundings *here = *state;
    Error err = ERROR_INIT;
    Sink *sink = start_with_wal(here, SYNC_NONE);

    assert_false(put_link(sink, "pg_wal/pg_tblspc/1", "/etc", &err));
    expect_message(here, &err, ERR_FORMAT, "symbolic link \"", "wal/pg_tblspc/1",
                   "\" is not a tablespace's link");
    sink_free(sink);
    err = ERROR_INIT;
    sink = start_with_wal(here, SYNC_NONE);
    assert_false(put_link(sink, "pg_wal", "/etc", &err));
    expect_message(here, &err, ERR_FORMAT, "symbolic link \"", "in/root/pg_wal",
                   "\" is not a tablespace's link");
    sink_free(sink);
    err = ERROR_INIT;
    sink = start_with_wal(here, SYNC_NONE);
    assert_false(put_file(sink, "pg_wal", "a file", 0600, &err) && end_base(sink, &err));
    expect_message(here, &err, ERR_SYSTEM, "could not create file \"", "in/root/pg_wal",
                   "\": File exists");
    sink_free(sink);
    /* Tablespaces have theirs where they always are. */
    sink = start_with_wal(here, SYNC_NONE);
    assert_true(put_link(sink, "pg_tblspc/1", "/srv/ts", &err));
    assert_true(end_base(sink, &err));
    sink_free(sink);
    expect_link(here, "in/root/pg_tblspc/1", "/srv/ts");
}

static void
test_missing_wal_directory(void **state)
{
    Surroundings *here = *state;
    Error err = ERROR_INIT;
    Sink *sink;

    here->wal_directory = temp_dir_path(&here->dir, "missing");
    sink = start(here, SYNC_NONE);
    assert_true(sink_archive_begin(sink, &tablespace, &err)); /* has no use for it */
    assert_true(sink_archive_end(sink, &err));
    assert_false(sink_archive_begin(sink, &base, &err));
    expect_message(here, &err, ERR_SYSTEM, "could not open directory \"", "missing",
                   "\": No such file or directory");
    sink_free(sink);
}

/* ---- what does not fit together ---- */

static void
test_unknown_tablespace(void **state)
{
    Error err = ERROR_INIT;
    Sink *sink = start(*state, SYNC_NONE);

    assert_false(sink_archive_begin(sink, &(Archive){.name = "99.tar", .tablespace = 99}, &err));
    assert_int_equal(err.code, ERR_FORMAT);
    assert_string_equal(err.message, "archive \"99.tar\" is of unknown tablespace 99");
    sink_free(sink);
}

static void
test_missing_root(void **state)
{
    Surroundings *here = *state;
    Error err = ERROR_INIT;
    Sink *sink = start(here, SYNC_FSYNC);
    Archive archive = {.name = "16387.tar", .tablespace = 16387};

    assert_false(sink_archive_begin(sink, &archive, &err));
    expect_message(here, &err, ERR_SYSTEM, "could not open directory \"", "missing",
                   "\": No such file or directory");
    sink_free(sink);
    temp_dir_write(&here->dir, "missing", "a file", 6);
    err = ERROR_INIT;
    sink = start(here, SYNC_FSYNC);
    assert_false(sink_archive_begin(sink, &archive, &err));
    expect_message(here, &err, ERR_SYSTEM, "could not open directory \"", "missing",
                   "\": Not a directory");
    sink_free(sink);
}

static void
test_wrong_amount_of_data(void **state)
{
    Surroundings *here = *state;
    Entry entry = {.kind = ENTRY_FILE, .path = "f", .size = 5, .mode = 0600};
    Entry directory = {.kind = ENTRY_DIRECTORY, .path = "d", .mode = 0700};
    Error err = ERROR_INIT;
    Sink *sink = start_base(here, SYNC_FSYNC);

    assert_true(sink_entry_begin(sink, &entry, &err));
    assert_true(sink_data(sink, span_of("1234"), &err));
    assert_false(sink_entry_end(sink, true, &err));
    expect_message(here, &err, ERR_FORMAT, "file \"", "in/root/f", "\" got 4 of its 5 bytes");
    sink_free(sink);
    assert_int_equal(calls.fsyncs, 0);

    entry.path = "g";
    err = ERROR_INIT;
    sink = start_base(here, SYNC_NONE);
    assert_true(sink_entry_begin(sink, &entry, &err));
    assert_true(sink_data(sink, span_of("1234"), &err));
    assert_false(sink_data(sink, span_of("56"), &err));
    expect_message(here, &err, ERR_FORMAT, "\"", "in/root/g", "\" gets more than its 5 bytes");
    sink_free(sink);
    assert_false(temp_dir_exists(&here->dir, "in/root/g"));

    err = ERROR_INIT;
    sink = start_base(here, SYNC_FSYNC);
    assert_true(sink_entry_begin(sink, &directory, &err));
    assert_false(sink_data(sink, span_of("1"), &err));
    expect_message(here, &err, ERR_FORMAT, "\"", "in/root/d", "\" gets more than its 0 bytes");
    sink_free(sink);
}

static void
test_entry_that_was_cut_short_is_a_bug(void **state)
{
    Surroundings *here = *state;
    Entry entry = {.kind = ENTRY_FILE, .path = "f", .size = 5, .mode = 0600};
    Error err = ERROR_INIT;
    Sink *sink = start_base(here, SYNC_FSYNC);

    assert_true(sink_entry_begin(sink, &entry, &err));
    assert_false(sink_entry_end(sink, false, &err));
    expect_message(here, &err, ERR_BUG, "file \"", "in/root/f", "\" was cut short");
    sink_free(sink);
}

static void
test_what_other_stages_must_not_send(void **state)
{
    Surroundings *here = *state;
    Error err = ERROR_INIT;
    Sink *sink = start_base(here, SYNC_NONE);

    assert_false(sink_data(sink, span_of("opaque"), &err));
    assert_int_equal(err.code, ERR_BUG);
    assert_string_equal(err.message, "extract got an archive without entries");
    sink_free(sink);

    err = ERROR_INIT;
    sink = start_base(here, SYNC_NONE);
    assert_false(
        sink_entry_begin(sink, &(Entry){.kind = ENTRY_DIRECTORY, .path = "d", .size = 1}, &err));
    expect_message(here, &err, ERR_BUG, "\"", "in/root/d", "\" is no file but shall have data");
    sink_free(sink);

    err = ERROR_INIT;
    sink = start_base(here, SYNC_NONE);
    assert_false(
        sink_entry_begin(sink, &(Entry){.kind = ENTRY_SYMLINK, .path = "pg_tblspc/1"}, &err));
    expect_message(here, &err, ERR_BUG, "link \"", "in/root/pg_tblspc/1", "\" has no target");
    sink_free(sink);
}

/* ---- ends ---- */

static void
test_abandoned_in_every_state(void **state)
{
    Surroundings *here = *state;

    for (SyncMethod sync = SYNC_NONE; sync <= SYNC_BEST; sync++) {
        for (int steps = 0; steps < 8; steps++) {
            Error err = ERROR_INIT;
            Entry entry = {.kind = ENTRY_FILE, .path = "d/f", .size = 2, .mode = 0600};
            Sink *sink = start(here, sync);

            if (steps > 0)
                assert_true(sink_archive_begin(sink, &base, &err));
            if (steps > 1)
                assert_true(put_directory(sink, "d", 0700, &err));
            if (steps > 2)
                assert_true(sink_entry_begin(sink, &entry, &err));
            if (steps > 3)
                assert_true(sink_data(sink, span_of("x"), &err));
            if (steps > 4)
                assert_true(sink_data(sink, span_of("y"), &err));
            if (steps > 5)
                assert_true(sink_entry_end(sink, true, &err));
            if (steps > 6)
                assert_true(sink_archive_end(sink, &err));
            sink_free(sink);
            /* What is there is the caller's to remove. */
            assert_true(temp_dir_exists(&here->dir, "in/root/d") == (steps > 1));
            assert_true(dir_remove_contents(temp_dir_path(&here->dir, "in/root"), &err));
        }
    }
}

static void
test_abandoned_behind_a_handoff(void **state)
{
    Surroundings *here = *state;
    Error err = ERROR_INIT;
    Sink *sink = handoff_new(start(here, SYNC_FSYNC), &(HandoffConfig){.block_count = 1}, &err);
    Entry entry = {.kind = ENTRY_FILE, .path = "f", .size = 100};

    assert_true(sink_archive_begin(sink, &base, &err));
    assert_true(sink_entry_begin(sink, &entry, &err));
    assert_true(sink_data(sink, span_of("x"), &err));
    assert_true(handoff_publish(sink, &err));
    sink_free(sink);
}

#define EXTRACT_TEST(TEST) cmocka_unit_test_setup_teardown(TEST, set_up, tear_down)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        EXTRACT_TEST(test_tree_without_sync),
        EXTRACT_TEST(test_tree_durable),
        EXTRACT_TEST(test_tree_on_a_synced_file_system),
        EXTRACT_TEST(test_directories_are_synced_after_the_files),
        EXTRACT_TEST(test_root_of_several_archives_is_synced_once),
        EXTRACT_TEST(test_empty_stream),
        EXTRACT_TEST(test_links_are_not_followed_by_sync),
        EXTRACT_TEST(test_from_tar_in_any_pieces_and_any_thread),
        EXTRACT_TEST(test_special_mode_bits_are_dropped),
        EXTRACT_TEST(test_existing_directories_are_used),
        EXTRACT_TEST(test_files_of_changing_directories),
        EXTRACT_TEST(test_large_file),
        EXTRACT_TEST(test_short_writes_are_continued),
        EXTRACT_TEST(test_full_disk_names_the_file),
        EXTRACT_TEST(test_file_size_limit),
        EXTRACT_TEST(test_every_failed_sync_fails_the_run),
        EXTRACT_TEST(test_failed_sync_of_a_file_system),
        EXTRACT_TEST(test_failed_sync_reaches_a_later_push),
        EXTRACT_TEST(test_unreadable_parent),
        EXTRACT_TEST(test_existing_file_is_refused),
        EXTRACT_TEST(test_file_named_twice_is_refused),
        EXTRACT_TEST(test_link_in_place_of_a_file_is_not_written_through),
        EXTRACT_TEST(test_link_in_place_of_a_directory_is_not_followed),
        EXTRACT_TEST(test_directory_replaced_by_a_link),
        EXTRACT_TEST(test_file_in_place_of_a_directory),
        EXTRACT_TEST(test_file_and_directory_of_one_name),
        EXTRACT_TEST(test_unsafe_paths),
        EXTRACT_TEST(test_link_mapping),
        EXTRACT_TEST(test_link_without_mapping_function),
        EXTRACT_TEST(test_links_elsewhere_are_refused),
        EXTRACT_TEST(test_links_in_a_tablespace_are_refused),
        EXTRACT_TEST(test_link_targets_that_climb_are_refused),
        EXTRACT_TEST(test_nothing_is_written_through_a_link_of_the_archive),
        EXTRACT_TEST(test_existing_link_is_refused),
        EXTRACT_TEST(test_wal_goes_to_its_own_directory),
        EXTRACT_TEST(test_wal_directory_on_a_synced_file_system),
        EXTRACT_TEST(test_directories_of_one_name_in_both_roots),
        EXTRACT_TEST(test_only_pg_wal_of_the_data_directory_is_apart),
        EXTRACT_TEST(test_wal_directory_is_no_way_out),
        EXTRACT_TEST(test_links_of_the_wal_directory),
        EXTRACT_TEST(test_missing_wal_directory),
        EXTRACT_TEST(test_unknown_tablespace),
        EXTRACT_TEST(test_missing_root),
        EXTRACT_TEST(test_wrong_amount_of_data),
        EXTRACT_TEST(test_entry_that_was_cut_short_is_a_bug),
        EXTRACT_TEST(test_what_other_stages_must_not_send),
        EXTRACT_TEST(test_abandoned_in_every_state),
        EXTRACT_TEST(test_abandoned_behind_a_handoff),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
