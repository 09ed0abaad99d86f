/*
 * file_sink: archives as files and on a descriptor; how they are written, what is synced and when a
 * mark moves, and how failures come back. write, fchmod and all that syncs are this file's own, to
 * count them and to make them fail.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/file.h"
#include "common/runtime.h"
#include "stream/stage.h"
#include "support/chunker.h"
#include "support/descriptors.h"
#include "support/temp_dir.h"

#define KIB ((size_t)1024)
#define MIB (1024 * KIB)

/* ---- the system calls ---- */

#define SYNCED_MAX 64

static struct {
    char synced[SYNCED_MAX][512]; /* "fsync PATH", in order */
    size_t syncs;
    size_t sync_fail_at; /* from 1; 0: none */
    size_t write_backs;
    uint64_t written_back; /* bytes that the last one reached */
    size_t writes;
    size_t smallest_write;
    size_t write_limit;      /* bytes that one write takes, 0: all */
    int write_errno;         /* what every other write fails with, 0: nothing */
    bool write_errno_always; /* not every other one but all */
} calls;

static int
note_sync(const char *how, int fd)
{
    char path[400];

    assert_true(calls.syncs < SYNCED_MAX);
    (void)snprintf(calls.synced[calls.syncs++], sizeof calls.synced[0], "%s %s", how,
                   descriptor_path(fd, path, sizeof path));
    if (calls.syncs != calls.sync_fail_at)
        return 0;
    errno = EIO;
    return -1;
}

int
fsync(int fd)
{
    return note_sync("fsync", fd);
}

int
fdatasync(int fd)
{
    return note_sync("fdatasync", fd);
}

int
syncfs(int fd)
{
    return note_sync("syncfs", fd);
}

int
sync_file_range(int fd, off64_t offset, off64_t count, unsigned flags)
{
    (void)fd;
    assert_int_equal(flags, SYNC_FILE_RANGE_WRITE);
    assert_true((uint64_t)offset == calls.written_back);
    calls.write_backs++;
    calls.written_back = (uint64_t)(offset + count);
    return 0;
}

ssize_t
write(int fd, const void *data, size_t len)
{
    if (fd <= 2)
        return syscall(SYS_write, fd, data, len);
    calls.writes++;
    if (calls.write_errno != 0 && (calls.write_errno_always || calls.writes % 2 == 1)) {
        errno = calls.write_errno;
        return -1;
    }
    if (calls.write_limit != 0 && len > calls.write_limit)
        len = calls.write_limit;
    if (calls.smallest_write == 0 || len < calls.smallest_write)
        calls.smallest_write = len;
    return syscall(SYS_write, fd, data, len);
}

/* ---- the test's surroundings ---- */

typedef struct Surroundings {
    TempDir dir;
    size_t descriptors;
    mode_t umask;
    DurableMark mark;
} Surroundings;

static const Archive base = {.name = "base.tar"};
static const Archive space = {.name = "16385.tar", .tablespace = 16385};

static int
set_up(void **state)
{
    Surroundings *here = calloc(1, sizeof *here);

    if (here == NULL)
        return -1;
    here->descriptors = descriptors_open();
    here->umask = umask(077);
    temp_dir_make(&here->dir);
    temp_dir_mkdir(&here->dir, "in/out");
    memset(&calls, 0, sizeof calls);
    *state = here;
    return 0;
}

static int
tear_down(void **state)
{
    Surroundings *here = *state;
    size_t now;

    memset(&calls, 0, sizeof calls);
    temp_dir_remove(&here->dir);
    (void)umask(here->umask);
    now = descriptors_open() - here->descriptors;
    free(here);
    return now == 0 ? 0 : -1;
}

static Sink *
start(Surroundings *here, SyncMethod sync)
{
    Error err = ERROR_INIT;
    FileSinkConfig config = {.directory = temp_dir_path(&here->dir, "in/out"),
                             .file_mode = 0640,
                             .sync = sync,
                             .durable = &here->mark};
    Sink *sink = file_sink_new(&config, &err);

    assert_non_null(sink);
    return sink;
}

static Sink *
start_on(int fd)
{
    Error err = ERROR_INIT;
    FileSinkConfig config = {.fd = fd, .fd_name = "standard output", .sync = SYNC_FSYNC};
    Sink *sink = file_sink_new(&config, &err);

    assert_non_null(sink);
    return sink;
}

static bool
put_archive(Sink *sink, const char *name, const char *text, Error *err)
{
    return chunk_archive(sink, &(Archive){.name = name}, span_of(text), 0, err);
}

static void
expect_content(Surroundings *here, const char *name, const char *text)
{
    Buf content = temp_dir_read(&here->dir, name);

    assert_string_equal(buf_text(&content), text);
    buf_free(&content);
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

/* The n-th sync from 0 on was of this kind and of this name in the test's directory. */
static void
expect_sync(Surroundings *here, size_t n, const char *how, const char *name)
{
    char *path = realpath(temp_dir_path(&here->dir, name), NULL);
    char expected[512];

    (void)snprintf(expected, sizeof expected, "%s %s", how, path);
    free(path);
    assert_true(n < calls.syncs);
    assert_string_equal(calls.synced[n], expected);
}

/* ---- files ---- */

static void
test_archives_become_files(void **state)
{
    static const size_t pieces[] = {0, 1, 7, 4096};
    Surroundings *here = *state;
    char text[10001];

    for (size_t i = 0; i < sizeof text - 1; i++)
        text[i] = (char)('a' + i % 26);
    text[sizeof text - 1] = '\0';
    for (size_t i = 0; i < sizeof pieces / sizeof pieces[0]; i++) {
        Error err = ERROR_INIT;
        Sink *sink = start(here, SYNC_FSYNC);

        assert_true(chunk_archive(sink, &base, span_of(text), pieces[i], &err));
        assert_true(chunk_archive(sink, &space, span_of("spaced"), pieces[i], &err));
        assert_true(put_archive(sink, "empty", "", &err));
        assert_true(sink_finish(sink, &err));
        sink_free(sink);
        expect_content(here, "in/out/base.tar", text);
        expect_content(here, "in/out/16385.tar", "spaced");
        expect_content(here, "in/out/empty", "");
        /* Whatever the umask (here 077). */
        assert_int_equal(temp_dir_mode(&here->dir, "in/out/base.tar"), S_IFREG | 0640);
        assert_true(dir_remove_contents(temp_dir_path(&here->dir, "in/out"), &err));
    }
}

static void
test_configuration_is_copied(void **state)
{
    Surroundings *here = *state;
    Error err = ERROR_INIT;
    char directory[400];
    FileSinkConfig config = {.directory = directory, .file_mode = 0600};
    Sink *sink;

    (void)snprintf(directory, sizeof directory, "%s", temp_dir_path(&here->dir, "in/out"));
    sink = file_sink_new(&config, &err);
    memset(directory, '#', strlen(directory));
    config.file_mode = 0;
    assert_true(put_archive(sink, "a", "x", &err));
    assert_false(put_archive(sink, "a", "x", &err));
    expect_message(here, &err, ERR_SYSTEM, "could not create file \"", "in/out/a",
                   "\": File exists");
    assert_int_equal(temp_dir_mode(&here->dir, "in/out/a"), S_IFREG | 0600);
    sink_free(sink);
}

static void
test_existing_files_and_links_are_refused(void **state)
{
    Surroundings *here = *state;

    temp_dir_write(&here->dir, "in/out/old", "old", 3);
    temp_dir_write(&here->dir, "in/victim", "untouched", 9);
    assert_int_equal(symlink("../victim", temp_dir_path(&here->dir, "in/out/link")), 0);
    assert_int_equal(symlink("../new", temp_dir_path(&here->dir, "in/out/dangling")), 0);
    for (const char *const *name = (const char *const[]){"old", "link", "dangling", NULL};
         *name != NULL; name++) {
        Error err = ERROR_INIT;
        Sink *sink = start(here, SYNC_NONE);

        assert_false(put_archive(sink, *name, "evil", &err));
        assert_int_equal(err.sys_errno, EEXIST);
        sink_free(sink);
    }
    expect_content(here, "in/out/old", "old");
    expect_content(here, "in/victim", "untouched");
    assert_false(temp_dir_exists(&here->dir, "in/new"));
}

static void
test_names_that_lead_elsewhere(void **state)
{
    static const char *const names[] = {"",      ".",       "..",      ".hidden",
                                        "../up", "/tmp/up", "a/b.tar", "b/"};
    Surroundings *here = *state;

    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char message[100];
        Error err = ERROR_INIT;
        Sink *sink = start(here, SYNC_NONE);

        assert_false(put_archive(sink, names[i], "x", &err));
        (void)snprintf(message, sizeof message, "archive name \"%s\" cannot be used as a file name",
                       names[i]);
        assert_string_equal(err.message, message);
        assert_int_equal(err.code, ERR_FORMAT);
        sink_free(sink);
    }
    assert_false(temp_dir_exists(&here->dir, "in/up"));
    assert_int_equal(calls.writes, 0);
}

static void
test_directory_that_is_none(void **state)
{
    Surroundings *here = *state;
    FileSinkConfig config = {.directory = temp_dir_path(&here->dir, "missing")};
    Error err = ERROR_INIT;

    assert_null(file_sink_new(&config, &err));
    expect_message(here, &err, ERR_SYSTEM, "could not open directory \"", "missing",
                   "\": No such file or directory");
    temp_dir_write(&here->dir, "missing", "a file", 6);
    err = ERROR_INIT;
    assert_null(file_sink_new(&config, &err));
    expect_message(here, &err, ERR_SYSTEM, "could not open directory \"", "missing",
                   "\": Not a directory");
}

/* ---- writing ---- */

/* One archive of this size in such pieces, and the calls that it took. */
static void
put_large(Sink *sink, const char *name, size_t size, size_t piece)
{
    uint8_t *data = calloc(1, size);
    Error err = ERROR_INIT;

    assert_non_null(data);
    for (size_t i = 0; i < size; i++)
        data[i] = (uint8_t)(i * 7 + i / 251);
    calls.writes = 0;
    calls.smallest_write = 0;
    calls.written_back = 0;
    assert_true(sink_archive_begin(sink, &(Archive){.name = name}, &err));
    if (!chunk_push(sink, (Span){.data = data, .len = size}, piece, &err))
        fail_msg("%s", err.message);
    assert_true(sink_archive_end(sink, &err));
    free(data);
}

static void
expect_large(Surroundings *here, const char *name, size_t size)
{
    Buf content = temp_dir_read(&here->dir, name);

    assert_int_equal(content.len, size);
    for (size_t i = 0; i < size; i++) {
        if (content.data[i] != (uint8_t)(i * 7 + i / 251))
            fail_msg("another byte at %zu", i);
    }
    buf_free(&content);
}

static void
test_small_pieces_are_gathered(void **state)
{
    static const size_t pieces[] = {512, 1000, 8192, 65536};
    Surroundings *here = *state;

    for (size_t i = 0; i < sizeof pieces / sizeof pieces[0]; i++) {
        Error err = ERROR_INIT;
        Sink *sink = start(here, SYNC_NONE);

        put_large(sink, "a", MIB, pieces[i]);
        assert_int_equal(calls.writes, 4);
        assert_int_equal(calls.smallest_write, 256 * KIB);
        put_large(sink, "b", MIB + 1, pieces[i]);
        assert_int_equal(calls.writes, 5);
        assert_int_equal(calls.smallest_write, 1);
        sink_free(sink);
        expect_large(here, "in/out/a", MIB);
        expect_large(here, "in/out/b", MIB + 1);
        assert_true(dir_remove_contents(temp_dir_path(&here->dir, "in/out"), &err));
    }
}

static void
test_large_pieces_are_written_where_they_are(void **state)
{
    static const uint8_t zeros[1024 * 1024];
    Surroundings *here = *state;
    Error err = ERROR_INIT;
    Sink *sink = start(here, SYNC_NONE);

    put_large(sink, "a", 3 * MIB, MIB);
    assert_int_equal(calls.writes, 3);
    put_large(sink, "b", 256 * KIB, 0);
    assert_int_equal(calls.writes, 1);
    /* Behind a small one, the gathered is filled up first. */
    calls.writes = 0;
    assert_true(sink_archive_begin(sink, &base, &err));
    assert_true(sink_data(sink, span_of("header"), &err));
    assert_int_equal(calls.writes, 0);
    assert_true(sink_data(sink, (Span){.data = zeros, .len = sizeof zeros}, &err));
    assert_int_equal(calls.writes, 2);
    assert_true(sink_archive_end(sink, &err));
    assert_int_equal(calls.writes, 2);
    sink_free(sink);
    expect_large(here, "in/out/a", 3 * MIB);
    expect_large(here, "in/out/b", 256 * KIB);
}

static void
test_write_back_starts_while_receiving(void **state)
{
    Surroundings *here = *state;
    const size_t size = 20 * MIB + 5;

    for (SyncMethod sync = SYNC_NONE; sync <= SYNC_SYNCFS; sync++) {
        Sink *sink = start(here, sync);
        char name[] = {(char)('a' + (int)sync), '1', '\0'};

        for (; name[1] <= '2'; name[1]++) { /* each file from its beginning */
            calls.write_backs = 0;
            put_large(sink, name, size, MIB);
            assert_int_equal(calls.write_backs, sync == SYNC_NONE ? 0 : 2);
            assert_true(calls.written_back == (sync == SYNC_NONE ? 0 : 16 * MIB));
        }
        sink_free(sink);
    }
}

static void
test_short_and_interrupted_writes_are_continued(void **state)
{
    Surroundings *here = *state;
    Error err = ERROR_INIT;
    Sink *sink = start(here, SYNC_NONE);

    calls.write_limit = 3;
    calls.write_errno = EINTR;
    assert_true(put_archive(sink, "a", "0123456789", &err));
    assert_int_equal(calls.writes, 8); /* four that write, as many that are interrupted */
    sink_free(sink);
    expect_content(here, "in/out/a", "0123456789");
}

static void
test_full_disk_names_the_file(void **state)
{
    Surroundings *here = *state;

    for (SyncMethod sync = SYNC_NONE; sync <= SYNC_SYNCFS; sync++) {
        Error err = ERROR_INIT;
        Error again = ERROR_INIT;
        Sink *sink = start(here, sync);
        char name[2] = {(char)('a' + (int)sync), '\0'};
        char path[16];

        calls.write_errno = ENOSPC;
        calls.write_errno_always = true;
        assert_false(put_archive(sink, name, "x", &err));
        (void)snprintf(path, sizeof path, "in/out/%s", name);
        expect_message(here, &err, ERR_SYSTEM, "could not write to file \"", path,
                       "\": No space left on device");
        calls.write_errno = 0;
        assert_false(sink_finish(sink, &again));
        assert_memory_equal(&again, &err, sizeof err);
        sink_free(sink);
        assert_int_equal(calls.syncs, 0);
    }
}

/* ---- making it last ---- */

static void
put_two(Sink *sink)
{
    Error err = ERROR_INIT;

    assert_true(put_archive(sink, "base.tar", "one", &err));
    assert_true(put_archive(sink, "16385.tar", "two", &err));
    assert_true(sink_finish(sink, &err));
    sink_free(sink);
}

static void
test_no_sync(void **state)
{
    put_two(start(*state, SYNC_NONE));
    assert_int_equal(calls.syncs, 0);
}

static void
test_sync_of_each_file(void **state)
{
    Surroundings *here = *state;

    put_two(start(here, SYNC_FSYNC));
    assert_int_equal(calls.syncs, 4);
    expect_sync(here, 0, "fsync", "in/out/base.tar");
    expect_sync(here, 1, "fsync", "in/out/16385.tar");
    expect_sync(here, 2, "fsync", "in/out");
    expect_sync(here, 3, "fsync", "in");
}

static void
test_sync_of_the_file_system(void **state)
{
    Surroundings *here = *state;

    put_two(start(here, SYNC_SYNCFS));
    assert_int_equal(calls.syncs, 2);
    expect_sync(here, 0, "syncfs", "in/out");
    expect_sync(here, 1, "fsync", "in");
}

/* Someone else's directory around ours, in which we may not look. */
static void
test_unreadable_parent(void **state)
{
    const uid_t nobody = 65534;
    Surroundings *here = *state;
    const char *out = temp_dir_path(&here->dir, "in/out");
    bool privileged = geteuid() == 0;
    Error err = ERROR_INIT;
    Sink *sink;
    bool ok;

    assert_int_equal(chmod(here->dir.path, 0711), 0);
    assert_int_equal(chmod(temp_dir_path(&here->dir, "in"), privileged ? 0711 : 0300), 0);
    if (privileged) {
        assert_int_equal(chown(out, nobody, nobody), 0);
        assert_int_equal(seteuid(nobody), 0);
    }
    if (faccessat(AT_FDCWD, out, W_OK, AT_EACCESS) != 0) {
        assert_int_equal(seteuid(0), 0);
        skip(); /* the temporary directories are root's alone */
    }
    sink = start(here, SYNC_FSYNC);
    ok = put_archive(sink, "a", "x", &err) && sink_finish(sink, &err);
    sink_free(sink);
    if (privileged)
        assert_int_equal(seteuid(0), 0);
    assert_string_equal(err.message, "");
    assert_true(ok);
    expect_sync(here, 2, "syncfs", "in/out"); /* instead of the parent */
}

static void
test_every_failed_sync_fails_the_run(void **state)
{
    static const struct {
        SyncMethod sync;
        const char *before;
        const char *after;
        size_t fail_at;
    } cases[] = {
        {SYNC_FSYNC, "could not fsync file \"", "/a\": Input/output error", 1},
        {SYNC_FSYNC, "could not fsync file \"", "\": Input/output error", 2},
        {SYNC_FSYNC, "could not fsync file \"", "/..\": Input/output error", 3},
        {SYNC_SYNCFS, "could not sync the file system of \"", "\": Input/output error", 1},
        {SYNC_SYNCFS, "could not fsync file \"", "/..\": Input/output error", 2},
    };
    Surroundings *here = *state;

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        Error err = ERROR_INIT;
        Error again = ERROR_INIT;
        Sink *sink = start(here, cases[i].sync);

        calls.syncs = 0;
        calls.sync_fail_at = cases[i].fail_at;
        assert_false(put_archive(sink, "a", "x", &err) && sink_finish(sink, &err));
        expect_message(here, &err, ERR_SYSTEM, cases[i].before, "in/out", cases[i].after);
        assert_int_equal(err.sys_errno, EIO);
        /* Final: nobody tries again. */
        assert_false(sink_finish(sink, &again));
        assert_memory_equal(&again, &err, sizeof err);
        sink_free(sink);
        assert_int_equal(calls.syncs, cases[i].fail_at);
        assert_true(dir_remove_contents(temp_dir_path(&here->dir, "in/out"), &err));
    }
}

/* ---- the mark ---- */

static void
test_flush_makes_content_and_name_last(void **state)
{
    Surroundings *here = *state;
    Error err = ERROR_INIT;

    for (SyncMethod sync = SYNC_FSYNC; sync <= SYNC_SYNCFS; sync++) {
        Sink *sink = start(here, sync);

        memset(&calls, 0, sizeof calls);
        here->mark.lsn = 0;
        assert_true(sink_flush(sink, 1, &err)); /* nothing to do for it */
        assert_true(durable_mark_get(&here->mark) == 1);
        assert_int_equal(calls.syncs, 0);
        assert_true(sink_archive_begin(sink, &base, &err));
        assert_true(sink_data(sink, span_of("some"), &err));
        assert_true(sink_flush(sink, 2, &err));
        assert_true(durable_mark_get(&here->mark) == 2);
        assert_int_equal(calls.syncs, 2);
        expect_sync(here, 0, "fdatasync", "in/out/base.tar");
        expect_sync(here, 1, "fsync", "in/out");
        expect_content(here, "in/out/base.tar", "some");
        assert_true(sink_data(sink, span_of(" more"), &err));
        assert_true(sink_flush(sink, 3, &err));
        assert_int_equal(calls.syncs, 3); /* the name has not changed */
        expect_sync(here, 2, "fdatasync", "in/out/base.tar");
        expect_content(here, "in/out/base.tar", "some more");
        assert_true(durable_mark_get(&here->mark) == 3);
        sink_free(sink);
        assert_true(dir_remove_contents(temp_dir_path(&here->dir, "in/out"), &err));
    }
}

/* What was closed before the flush counts as well. */
static void
test_flush_between_archives(void **state)
{
    Surroundings *here = *state;
    Error err = ERROR_INIT;
    Sink *sink = start(here, SYNC_FSYNC);

    assert_true(put_archive(sink, "a", "x", &err));
    assert_true(sink_flush(sink, 5, &err));
    assert_int_equal(calls.syncs, 2);
    expect_sync(here, 0, "fsync", "in/out/a");
    expect_sync(here, 1, "fsync", "in/out");
    assert_true(durable_mark_get(&here->mark) == 5);
    sink_free(sink);

    memset(&calls, 0, sizeof calls);
    sink = start(here, SYNC_SYNCFS);
    assert_true(put_archive(sink, "b", "x", &err));
    assert_true(sink_archive_begin(sink, &base, &err));
    assert_true(sink_data(sink, span_of("y"), &err));
    assert_true(sink_flush(sink, 6, &err));
    assert_int_equal(calls.syncs, 1);
    expect_sync(here, 0, "syncfs", "in/out");
    expect_content(here, "in/out/base.tar", "y"); /* written before it was synced */
    assert_true(durable_mark_get(&here->mark) == 6);
    assert_true(sink_flush(sink, 7, &err));
    assert_int_equal(calls.syncs, 2);
    expect_sync(here, 1, "fdatasync", "in/out/base.tar");
    sink_free(sink);
}

static void
test_mark_stays_without_a_sync(void **state)
{
    Surroundings *here = *state;
    Error err = ERROR_INIT;
    Sink *sink = start(here, SYNC_NONE);

    assert_true(sink_archive_begin(sink, &base, &err));
    assert_true(sink_data(sink, span_of("x"), &err));
    assert_true(sink_flush(sink, 5, &err));
    assert_true(durable_mark_get(&here->mark) == 0);
    assert_int_equal(calls.syncs, 0);
    expect_content(here, "in/out/base.tar", "x"); /* but it is written */
    sink_free(sink);
}

static void
test_mark_stays_when_a_sync_fails(void **state)
{
    Surroundings *here = *state;

    for (size_t n = 1; n <= 2; n++) {
        Error err = ERROR_INIT;
        Sink *sink = start(here, SYNC_FSYNC);
        size_t syncs;

        calls.syncs = 0;
        calls.sync_fail_at = n;
        assert_true(sink_archive_begin(sink, n == 1 ? &base : &space, &err));
        assert_true(sink_data(sink, span_of("x"), &err));
        assert_false(sink_flush(sink, 5, &err));
        expect_message(here, &err, ERR_SYSTEM, "could not fsync file \"",
                       n == 1 ? "in/out/base.tar" : "in/out", "\": Input/output error");
        syncs = calls.syncs;
        assert_false(sink_flush(sink, 6, &err));
        sink_free(sink);
        assert_int_equal(calls.syncs, syncs);
        assert_true(durable_mark_get(&here->mark) == 0);
    }
}

static void
test_nobody_waits_for_the_mark(void **state)
{
    Surroundings *here = *state;
    Error err = ERROR_INIT;
    FileSinkConfig config = {
        .directory = temp_dir_path(&here->dir, "in/out"), .file_mode = 0600, .sync = SYNC_FSYNC};
    Sink *sink = file_sink_new(&config, &err);

    assert_true(sink_archive_begin(sink, &base, &err));
    assert_true(sink_flush(sink, 5, &err));
    assert_int_equal(calls.syncs, 2); /* synced nevertheless */
    sink_free(sink);
}

/* ---- a descriptor ---- */

/* Reads a pipe to its end. */
typedef struct Drain {
    int fd;
    Buf content;
    Thread thread;
} Drain;

static void
drain(void *arg)
{
    Drain *self = arg;
    uint8_t piece[1000];
    ssize_t count;
    Error err = ERROR_INIT;

    while ((count = read(self->fd, piece, sizeof piece)) > 0) {
        if (!buf_append(&self->content, piece, (size_t)count, &err))
            return;
    }
}

/* Owns `fd`. */
static void
drain_start_on(Drain *self, int fd)
{
    Error err = ERROR_INIT;

    *self = (Drain){.fd = fd, .content = BUF_INIT};
    assert_true(thread_start(&self->thread, drain, self, &err));
}

/* The pipe's other end. */
static int
drain_start(Drain *self, int flags)
{
    int ends[2];

    assert_int_equal(pipe(ends), 0);
    assert_int_equal(fcntl(ends[1], F_SETFL, flags), 0);
    drain_start_on(self, ends[0]);
    return ends[1];
}

static void
drain_expect(Drain *self, int fd, size_t size)
{
    (void)close(fd);
    thread_join(&self->thread);
    (void)close(self->fd);
    assert_int_equal(self->content.len, size);
    for (size_t i = 0; i < size; i++) {
        if (self->content.data[i] != (uint8_t)(i * 7 + i / 251))
            fail_msg("another byte at %zu", i);
    }
    buf_free(&self->content);
}

static void
test_archive_to_a_pipe(void **state)
{
    static const size_t pieces[] = {0, 700, 300 * KIB};
    static const int flags[] = {0, O_NONBLOCK}; /* someone else may have set that */

    (void)state;
    for (size_t i = 0; i < 2 * sizeof pieces / sizeof pieces[0]; i++) {
        Error err = ERROR_INIT;
        Drain reader;
        int fd = drain_start(&reader, flags[i % 2]);
        Sink *sink = start_on(fd);

        put_large(sink, "base.tar", MIB + 3, pieces[i / 2]);
        assert_true(sink_finish(sink, &err));
        sink_free(sink);
        assert_true(fcntl(fd, F_GETFD) >= 0); /* it is not ours to close */
        drain_expect(&reader, fd, MIB + 3);
        assert_int_equal(calls.syncs, 0);
        assert_int_equal(calls.write_backs, 0);
    }
}

static void
open_ends(const char *kind, int ends[2])
{
    if (strcmp(kind, "pipe") == 0)
        assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
    else
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
}

/* Nobody reads: a stop ends the wait, and only that. */
static void
test_reader_that_does_not_read(void **state)
{
    static const char *const kinds[] = {"pipe", "socket"};
    static const uint8_t bytes[MIB];
    const Archive archive = {.name = "base.tar"};

    (void)state;
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        Error err = ERROR_INIT;
        Stop stop;
        int ends[2];
        Sink *sink;

        open_ends(kinds[i], ends);
        assert_true(stop_init_after(&stop, 20, &err));
        sink = file_sink_new(
            &(FileSinkConfig){.fd = ends[1], .fd_name = "standard output", .stop = &stop}, &err);
        assert_non_null(sink);
        assert_true(sink_archive_begin(sink, &archive, &err));
        assert_false(sink_data(sink, (Span){.data = bytes, .len = sizeof bytes}, &err));
        assert_int_equal(err.code, ERR_STOPPED);
        sink_free(sink);
        assert_int_equal(fcntl(ends[1], F_GETFL) & O_NONBLOCK, 0); /* others have it too */
        stop_destroy(&stop);
        (void)close(ends[0]);
        (void)close(ends[1]);
    }
}

/* All of it arrives, in its order. */
static void
test_archive_to_a_socket(void **state)
{
    Error err = ERROR_INIT;
    Drain reader;
    int ends[2];
    Sink *sink;

    (void)state;
    open_ends("socket", ends);
    drain_start_on(&reader, ends[0]);
    sink = start_on(ends[1]);
    put_large(sink, "base.tar", MIB + 3, 700);
    assert_true(sink_finish(sink, &err));
    sink_free(sink);
    drain_expect(&reader, ends[1], MIB + 3);
}

static void
test_short_and_interrupted_writes_to_a_pipe(void **state)
{
    Error err = ERROR_INIT;
    Drain reader;
    int fd = drain_start(&reader, 0);
    Sink *sink = start_on(fd);

    (void)state;
    calls.write_limit = 999;
    calls.write_errno = EINTR;
    put_large(sink, "base.tar", 50000, 700);
    assert_true(sink_finish(sink, &err));
    sink_free(sink);
    drain_expect(&reader, fd, 50000);
}

static void
test_flush_writes_to_a_pipe(void **state)
{
    Surroundings *here = *state;
    FileSinkConfig config = {.fd_name = "a pipe", .sync = SYNC_FSYNC, .durable = &here->mark};
    Error err = ERROR_INIT;
    char seen[8] = "";
    int ends[2];
    Sink *sink;

    assert_int_equal(pipe(ends), 0);
    config.fd = ends[1];
    sink = file_sink_new(&config, &err);
    assert_true(sink_archive_begin(sink, &base, &err));
    assert_true(sink_data(sink, span_of("abc"), &err));
    assert_int_equal(calls.writes, 0);
    assert_true(sink_flush(sink, 5, &err));
    assert_int_equal(read(ends[0], seen, sizeof seen), 3);
    assert_string_equal(seen, "abc");
    assert_true(durable_mark_get(&here->mark) == 0); /* nobody knows what becomes of it */
    assert_int_equal(calls.syncs, 0);
    sink_free(sink);
    (void)close(ends[0]);
    (void)close(ends[1]);
}

static void
test_reader_that_goes_away(void **state)
{
    Error err = ERROR_INIT;
    int ends[2];
    Sink *sink;

    (void)state;
    assert_int_equal(pipe(ends), 0);
    (void)close(ends[0]);
    (void)signal(SIGPIPE, SIG_IGN);
    sink = start_on(ends[1]);
    assert_false(put_archive(sink, "base.tar", "x", &err));
    (void)signal(SIGPIPE, SIG_DFL);
    assert_string_equal(err.message, "could not write to standard output: Broken pipe");
    assert_int_equal(err.code, ERR_SYSTEM);
    assert_int_equal(err.sys_errno, EPIPE);
    sink_free(sink);
    (void)close(ends[1]);
}

static void
test_full_device(void **state)
{
    Error err = ERROR_INIT;
    int fd = open("/dev/full", O_WRONLY);
    Sink *sink = start_on(fd);

    (void)state;
    assert_false(put_archive(sink, "base.tar", "x", &err));
    assert_string_equal(err.message, "could not write to standard output: No space left on device");
    sink_free(sink);
    (void)close(fd);
}

static void
test_second_archive_for_a_descriptor_is_a_bug(void **state)
{
    Error err = ERROR_INIT;
    int fd = open("/dev/null", O_WRONLY);
    Sink *sink = start_on(fd);

    (void)state;
    assert_true(put_archive(sink, "base.tar", "x", &err));
    assert_false(put_archive(sink, "16385.tar", "y", &err));
    assert_int_equal(err.code, ERR_BUG);
    assert_string_equal(err.message,
                        "archive \"16385.tar\" is not the first one for standard output");
    sink_free(sink);
    (void)close(fd);
}

/* ---- what does not fit, and ends ---- */

static void
test_archive_with_entries_is_a_bug(void **state)
{
    Error err = ERROR_INIT;
    Sink *sink = start(*state, SYNC_NONE);

    assert_true(sink_archive_begin(sink, &base, &err));
    assert_false(sink_entry_begin(sink, &(Entry){.path = "f"}, &err));
    assert_int_equal(err.code, ERR_BUG);
    assert_string_equal(err.message, "file_sink got an archive with entries");
    sink_free(sink);
}

static void
test_abandoned_in_every_state(void **state)
{
    Surroundings *here = *state;

    for (SyncMethod sync = SYNC_NONE; sync <= SYNC_SYNCFS; sync++) {
        for (int steps = 0; steps < 5; steps++) {
            Error err = ERROR_INIT;
            Sink *sink = start(here, sync);

            calls.syncs = 0;
            if (steps > 0)
                assert_true(sink_archive_begin(sink, &base, &err));
            if (steps > 1)
                assert_true(sink_data(sink, span_of("x"), &err));
            if (steps > 2)
                assert_true(sink_flush(sink, 1, &err));
            if (steps > 3)
                assert_true(sink_archive_end(sink, &err));
            calls.syncs = 0;
            sink_free(sink);
            assert_int_equal(calls.syncs, 0);
            /* What is there is the caller's to remove. */
            assert_int_equal(temp_dir_exists(&here->dir, "in/out/base.tar"), steps > 0);
            assert_true(dir_remove_contents(temp_dir_path(&here->dir, "in/out"), &err));
        }
    }
}

static void
test_behind_a_handoff(void **state)
{
    Surroundings *here = *state;
    Error err = ERROR_INIT;
    Sink *sink = handoff_new(start(here, SYNC_NONE), &(HandoffConfig){.block_count = 2}, &err);

    put_large(sink, "base.tar", 5 * MIB, 8000);
    assert_true(sink_finish(sink, &err));
    sink_free(sink);
    assert_in_range(calls.writes, 5, 6); /* a block each */
    expect_large(here, "in/out/base.tar", 5 * MIB);
}

#define FILE_SINK_TEST(TEST) cmocka_unit_test_setup_teardown(TEST, set_up, tear_down)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        FILE_SINK_TEST(test_archives_become_files),
        FILE_SINK_TEST(test_configuration_is_copied),
        FILE_SINK_TEST(test_existing_files_and_links_are_refused),
        FILE_SINK_TEST(test_names_that_lead_elsewhere),
        FILE_SINK_TEST(test_directory_that_is_none),
        FILE_SINK_TEST(test_small_pieces_are_gathered),
        FILE_SINK_TEST(test_large_pieces_are_written_where_they_are),
        FILE_SINK_TEST(test_write_back_starts_while_receiving),
        FILE_SINK_TEST(test_short_and_interrupted_writes_are_continued),
        FILE_SINK_TEST(test_full_disk_names_the_file),
        FILE_SINK_TEST(test_no_sync),
        FILE_SINK_TEST(test_sync_of_each_file),
        FILE_SINK_TEST(test_sync_of_the_file_system),
        FILE_SINK_TEST(test_unreadable_parent),
        FILE_SINK_TEST(test_every_failed_sync_fails_the_run),
        FILE_SINK_TEST(test_flush_makes_content_and_name_last),
        FILE_SINK_TEST(test_flush_between_archives),
        FILE_SINK_TEST(test_mark_stays_without_a_sync),
        FILE_SINK_TEST(test_mark_stays_when_a_sync_fails),
        FILE_SINK_TEST(test_nobody_waits_for_the_mark),
        FILE_SINK_TEST(test_archive_to_a_pipe),
        FILE_SINK_TEST(test_reader_that_does_not_read),
        FILE_SINK_TEST(test_archive_to_a_socket),
        FILE_SINK_TEST(test_short_and_interrupted_writes_to_a_pipe),
        FILE_SINK_TEST(test_flush_writes_to_a_pipe),
        FILE_SINK_TEST(test_reader_that_goes_away),
        FILE_SINK_TEST(test_full_device),
        FILE_SINK_TEST(test_second_archive_for_a_descriptor_is_a_bug),
        FILE_SINK_TEST(test_archive_with_entries_is_a_bug),
        FILE_SINK_TEST(test_abandoned_in_every_state),
        FILE_SINK_TEST(test_behind_a_handoff),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
