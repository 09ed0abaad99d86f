/*
 * Files, paths and directories: exact results, exact messages, nothing followed that must not be.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/file.h"
#include "support/temp_dir.h"
#include "support/ticker.h"

static TempDir dir;

static int
setup(void **state)
{
    (void)state;
    temp_dir_make(&dir);
    return 0;
}

static int
teardown(void **state)
{
    (void)state;
    temp_dir_remove(&dir);
    return 0;
}

static const char *
in_dir(const char *name)
{
    return temp_dir_path(&dir, name);
}

/* The message is "FORMAT: REASON", with one path in the format. */
static void
check_system_error(const Error *err, int errnum, const char *before, const char *path,
                   const char *after)
{
    Buf expected = BUF_INIT;
    Error ignored = ERROR_INIT;

    assert_int_equal(err->code, ERR_SYSTEM);
    assert_int_equal(err->sys_errno, errnum);
    assert_true(
        buf_printf(&expected, &ignored, "%s \"%s\"%s: %s", before, path, after, strerror(errnum)));
    assert_string_equal(err->message, buf_text(&expected));
    buf_free(&expected);
}

/* ---- descriptors ---- */

static void
open_files(void **state)
{
    Error err = ERROR_INIT;
    int fd = file_open(in_dir("new"), O_WRONLY | O_CREAT | O_EXCL, 0640, &err);

    (void)state;
    assert_true(fd >= 0);
    assert_int_not_equal(fcntl(fd, F_GETFD) & FD_CLOEXEC, 0);
    assert_true(file_close(fd, in_dir("new"), &err));
    assert_int_equal(temp_dir_mode(&dir, "new") & 0777 & ~0640u, 0);
    assert_int_equal(err.code, ERR_NONE);

    assert_int_equal(file_open(in_dir("none"), O_RDONLY, 0, &err), -1);
    check_system_error(&err, ENOENT, "could not open file", in_dir("none"), "");
    assert_int_equal(file_open(in_dir("new"), O_WRONLY | O_CREAT | O_EXCL, 0600, &err), -1);
    check_system_error(&err, EEXIST, "could not create file", in_dir("new"), "");
    assert_int_equal(file_open(in_dir("none/x"), O_WRONLY | O_CREAT, 0600, &err), -1);
    check_system_error(&err, ENOENT, "could not create file", in_dir("none/x"), "");
}

static void
write_and_read(void **state)
{
    const char *path = in_dir("f");
    Error err = ERROR_INIT;
    int fd = file_open(path, O_RDWR | O_CREAT, 0600, &err);
    char bytes[32];
    size_t got = 99;

    (void)state;
    assert_true(file_write(fd, "hello", 5, path, &err));
    assert_true(file_write(fd, "", 0, path, &err));
    assert_true(file_write(fd, " world", 6, path, &err));
    assert_true(file_pwrite(fd, "J", 1, 0, path, &err));
    assert_true(file_pwrite(fd, "!", 1, 20, path, &err));
    assert_true(file_pwrite(fd, "", 0, 1000, path, &err));
    assert_int_equal(lseek(fd, 0, SEEK_SET), 0);
    assert_true(file_read(fd, bytes, 5, path, &got, &err));
    assert_int_equal(got, 5);
    assert_memory_equal(bytes, "Jello", 5);
    assert_true(file_read(fd, bytes, sizeof bytes, path, &got, &err));
    assert_int_equal(got, 16);
    assert_memory_equal(bytes, " world\0\0\0\0\0\0\0\0\0!", 16);
    assert_true(file_read(fd, bytes, sizeof bytes, path, &got, &err));
    assert_int_equal(got, 0);
    assert_true(file_read(fd, bytes, 0, path, &got, &err));
    assert_int_equal(got, 0);
    assert_true(file_sync(fd, path, &err));
    assert_true(file_close(fd, path, &err));
}

static void
no_space(void **state)
{
    Error err = ERROR_INIT;
    int fd = file_open("/dev/full", O_WRONLY, 0, &err);

    (void)state;
    assert_true(fd >= 0);
    assert_false(file_write(fd, "x", 1, "/dev/full", &err));
    assert_string_equal(err.message,
                        "could not write to file \"/dev/full\": No space left on device");
    assert_int_equal(err.code, ERR_SYSTEM);
    assert_int_equal(err.sys_errno, ENOSPC);
    err = ERROR_INIT;
    assert_false(file_pwrite(fd, "x", 1, 7, "/dev/full", &err));
    assert_string_equal(err.message,
                        "could not write to file \"/dev/full\": No space left on device");
    assert_true(file_close(fd, "/dev/full", &err));
}

/* The kernel writes up to the limit and returns short: the rest is tried, and its error is told. */
static void
short_write_then_error(void **state)
{
    struct rlimit before;
    struct rlimit limit;
    const char *path = in_dir("limited");
    char *data = calloc(1, 20000);
    Error err = ERROR_INIT;
    int fd = file_open(path, O_WRONLY | O_CREAT, 0600, &err);

    (void)state;
    assert_non_null(data);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    limit = before;
    limit.rlim_cur = 10000;
    (void)signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
    assert_false(file_write(fd, data, 20000, path, &err));
    check_system_error(&err, EFBIG, "could not write to file", path, "");
    err = ERROR_INIT;
    assert_false(file_pwrite(fd, data, 20000, 5000, path, &err));
    check_system_error(&err, EFBIG, "could not write to file", path, "");
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    (void)signal(SIGXFSZ, SIG_DFL);
    assert_int_equal(lseek(fd, 0, SEEK_END), 10000);
    file_close_quietly(fd);
    free(data);
}

static void
bad_descriptors(void **state)
{
    Error err = ERROR_INIT;
    int pipes[2];
    char byte;
    size_t got = 77;

    (void)state;
    assert_false(file_write(-1, "x", 1, "name", &err));
    check_system_error(&err, EBADF, "could not write to file", "name", "");
    assert_false(file_read(-1, &byte, 1, "name", &got, &err));
    check_system_error(&err, EBADF, "could not read file", "name", "");
    assert_int_equal(got, 77);
    assert_false(file_sync(-1, "name", &err));
    check_system_error(&err, EBADF, "could not fsync file", "name", "");
    assert_false(file_close(-1, "name", &err));
    check_system_error(&err, EBADF, "could not close file", "name", "");
    file_close_quietly(-1);

    assert_int_equal(pipe(pipes), 0);
    assert_false(file_pwrite(pipes[1], "x", 1, 0, "pipe", &err));
    check_system_error(&err, ESPIPE, "could not write to file", "pipe", "");
    assert_false(file_sync(pipes[1], "pipe", &err));
    check_system_error(&err, EINVAL, "could not fsync file", "pipe", "");
    file_close_quietly(pipes[0]);
    file_close_quietly(pipes[1]);
}

/* ---- interrupted calls ---- */

#define PIPED ((size_t)400000)

typedef struct Peer {
    int fd;
    bool reads;
    size_t done;
    bool same; /* what was read is what had to come */
} Peer;

static uint8_t
piped_byte(size_t at)
{
    return (uint8_t)(at * 31 + (at >> 8));
}

/* The other end of the pipe: slow, in pieces of 9973 bytes, and undisturbed by the signals. */
static void *
run_peer(void *arg)
{
    Peer *peer = arg;
    uint8_t bytes[9973];

    peer->same = true;
    while (peer->done < PIPED) {
        size_t len = PIPED - peer->done < sizeof bytes ? PIPED - peer->done : sizeof bytes;
        ssize_t count;

        for (size_t i = 0; !peer->reads && i < len; i++)
            bytes[i] = piped_byte(peer->done + i);
        count = peer->reads ? read(peer->fd, bytes, len) : write(peer->fd, bytes, len);
        if (count <= 0)
            break;
        for (size_t i = 0; peer->reads && i < (size_t)count; i++)
            peer->same = peer->same && bytes[i] == piped_byte(peer->done + i);
        peer->done += (size_t)count;
        (void)usleep(1500);
    }
    return NULL;
}

static void
start_peer(Peer *peer, pthread_t *thread)
{
    sigset_t alarm;

    (void)sigemptyset(&alarm);
    (void)sigaddset(&alarm, SIGALRM);
    (void)pthread_sigmask(SIG_BLOCK, &alarm, NULL);
    assert_int_equal(pthread_create(thread, NULL, run_peer, peer), 0);
    (void)pthread_sigmask(SIG_UNBLOCK, &alarm, NULL);
}

static void
interrupted_write(void **state)
{
    uint8_t *data = malloc(PIPED);
    Error err = ERROR_INIT;
    Peer peer = {.reads = true};
    pthread_t thread;
    int pipes[2];

    (void)state;
    assert_non_null(data);
    for (size_t i = 0; i < PIPED; i++)
        data[i] = piped_byte(i);
    assert_int_equal(pipe(pipes), 0);
    peer.fd = pipes[0];
    start_peer(&peer, &thread);
    ticker_start(1, NULL);
    assert_true(file_write(pipes[1], data, PIPED, "pipe", &err));
    ticker_stop();
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_int_equal(peer.done, PIPED);
    assert_true(peer.same);
    assert_true(ticker_count() > 0);
    file_close_quietly(pipes[0]);
    file_close_quietly(pipes[1]);
    free(data);
}

static void
interrupted_read(void **state)
{
    uint8_t *data = calloc(1, PIPED);
    Error err = ERROR_INIT;
    Peer peer = {.reads = false};
    pthread_t thread;
    size_t got = 0;
    int pipes[2];

    (void)state;
    assert_non_null(data);
    assert_int_equal(pipe(pipes), 0);
    peer.fd = pipes[1];
    start_peer(&peer, &thread);
    ticker_start(1, NULL);
    assert_true(file_read(pipes[0], data, PIPED, "pipe", &got, &err));
    ticker_stop();
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_int_equal(got, PIPED);
    for (size_t i = 0; i < PIPED; i++) {
        if (data[i] != piped_byte(i))
            fail_msg("byte %zu differs", i);
    }
    assert_true(ticker_count() > 0);
    file_close_quietly(pipes[0]);
    file_close_quietly(pipes[1]);
    free(data);
}

/* ---- whole files ---- */

static void
load(void **state)
{
    static const size_t sizes[] = {0, 1, 65535, 65536, 65537, 131072, 200000};

    (void)state;
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        uint8_t *data = malloc(sizes[i] + 1);
        Buf buf = BUF_INIT;
        Error err = ERROR_INIT;

        assert_non_null(data);
        for (size_t at = 0; at < sizes[i]; at++)
            data[at] = piped_byte(at);
        temp_dir_write(&dir, "f", data, sizes[i]);
        assert_true(file_load(in_dir("f"), sizes[i], &buf, &err));
        assert_int_equal(buf.len, sizes[i]);
        assert_memory_equal(buf_text(&buf), data, sizes[i]);
        assert_int_equal(buf_text(&buf)[buf.len], '\0');
        buf_free(&buf);
        free(data);
    }
}

static void
load_appends(void **state)
{
    Buf buf = BUF_INIT;
    Error err = ERROR_INIT;

    (void)state;
    temp_dir_write(&dir, "f", "world", 5);
    assert_true(buf_append(&buf, "hello ", 6, &err));
    assert_true(file_load(in_dir("f"), 5, &buf, &err));
    assert_string_equal(buf_text(&buf), "hello world");
    buf_free(&buf);
}

/* A file that is too large, of whatever size, leaves the buffer as it was. */
static void
load_limit(void **state)
{
    Buf buf = BUF_INIT;
    Error err = ERROR_INIT;
    Error expected = ERROR_INIT;
    char *large = calloc(1, 200000);

    (void)state;
    assert_non_null(large);
    assert_true(buf_append(&buf, "kept", 4, &err));
    temp_dir_write(&dir, "f", "12345", 5);
    assert_false(file_load(in_dir("f"), 4, &buf, &err));
    error_ignored(
        error_set(&expected, ERR_FORMAT, "file \"%s\" is larger than 4 bytes", in_dir("f")));
    assert_string_equal(err.message, expected.message);
    assert_int_equal(err.code, ERR_FORMAT);
    assert_string_equal(buf_text(&buf), "kept");
    assert_int_equal(buf.len, 4);

    temp_dir_write(&dir, "f", large, 200000);
    assert_false(file_load(in_dir("f"), 199999, &buf, &err));
    assert_string_equal(buf_text(&buf), "kept");
    assert_int_equal(buf.len, 4);
    assert_true(file_load(in_dir("f"), 200000, &buf, &err));
    assert_int_equal(buf.len, 200004);
    buf_free(&buf);
    free(large);

    /* Without an end. */
    assert_false(file_load("/dev/zero", 1000000, &buf, &err));
    assert_string_equal(err.message, "file \"/dev/zero\" is larger than 1000000 bytes");
    assert_int_equal(buf.len, 0);
    buf_free(&buf);
}

static void
load_fails(void **state)
{
    Buf buf = BUF_INIT;
    Error err = ERROR_INIT;

    (void)state;
    assert_false(file_load(in_dir("none"), 100, &buf, &err));
    check_system_error(&err, ENOENT, "could not open file", in_dir("none"), "");
    assert_false(file_load(dir.path, 100, &buf, &err));
    check_system_error(&err, EISDIR, "could not read file", dir.path, "");
    assert_string_equal(buf_text(&buf), "");
    buf_free(&buf);
}

static void
sync_paths(void **state)
{
    Error err = ERROR_INIT;

    (void)state;
    temp_dir_write(&dir, "f", "x", 1);
    assert_true(file_sync_path(in_dir("f"), &err));
    assert_true(file_sync_path(dir.path, &err));
    assert_true(file_sync_parent(in_dir("f"), &err));
    assert_true(file_sync_parent(in_dir("not-there-itself"), &err));
    assert_true(file_sync_parent("relative", &err));
    assert_int_equal(err.code, ERR_NONE);
    assert_false(file_sync_path(in_dir("none"), &err));
    check_system_error(&err, ENOENT, "could not open file", in_dir("none"), "");
    assert_false(file_sync_parent(in_dir("none/x"), &err));
    check_system_error(&err, ENOENT, "could not open file", in_dir("none"), "");
}

static void
check_rename(bool (*renames)(const char *from, const char *to, Error *err))
{
    Error err = ERROR_INIT;
    Error expected = ERROR_INIT;
    Buf content;

    temp_dir_write(&dir, "a.tmp", "new", 3);
    temp_dir_write(&dir, "a", "old", 3);
    assert_true(renames(in_dir("a.tmp"), in_dir("a"), &err));
    assert_false(temp_dir_exists(&dir, "a.tmp"));
    content = temp_dir_read(&dir, "a");
    assert_string_equal(buf_text(&content), "new");
    buf_free(&content);

    assert_false(renames(in_dir("a.tmp"), in_dir("a"), &err));
    error_ignored(error_set(&expected, ERR_SYSTEM,
                            "could not rename file \"%s\" to \"%s\": No such file or directory",
                            in_dir("a.tmp"), in_dir("a")));
    assert_string_equal(err.message, expected.message);
    assert_int_equal(err.sys_errno, ENOENT);
    content = temp_dir_read(&dir, "a");
    assert_string_equal(buf_text(&content), "new");
    buf_free(&content);
}

static void
rename_files(void **state)
{
    (void)state;
    check_rename(file_rename);
    check_rename(file_rename_durable);
}

/* ---- paths ---- */

static void
join(void **state)
{
    static const struct {
        const char *dir;
        const char *name;
        const char *path;
    } cases[] = {
        {"a", "b", "a/b"}, {"/a", "b/c", "/a/b/c"}, {"", "b", "/b"},
        {"a", "", "a/"},   {".", "x", "./x"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        Error err = ERROR_INIT;
        char *path = path_join(cases[i].dir, cases[i].name, &err);

        assert_string_equal(path, cases[i].path);
        free(path);
    }
}

static void
parent(void **state)
{
    static const struct {
        const char *path;
        const char *parent;
    } cases[] = {
        {"a/b", "a"},  {"a/b/c", "a/b"}, {"/a", "/"},       {"/a/b", "/a"}, {"/", "/"},
        {"//", "/"},   {"a", "."},       {"", "."},         {"a/", "."},    {"a//", "."},
        {"a//b", "a"}, {"a/b//", "a"},   {"//a", "/"},      {"./a", "."},   {"../a", ".."},
        {".", "."},    {"a/.", "a"},     {"/a//b//", "/a"}, {"///a", "/"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        Error err = ERROR_INIT;
        char *got = path_parent(cases[i].path, &err);

        assert_string_equal(got, cases[i].parent);
        free(got);
    }
}

static void
canonicalize(void **state)
{
    static const struct {
        const char *path;
        const char *canonical;
    } cases[] = {
        /* nothing to do */
        {"", ""},
        {"a", "a"},
        {"/", "/"},
        {"/a/b", "/a/b"},
        {"...", "..."},
        {"a/...", "a/..."},
        {"..a/b..", "..a/b.."},
        {".a", ".a"},
        /* slashes */
        {"//", "/"},
        {"///a", "/a"},
        {"a//b", "a/b"},
        {"a/", "a"},
        {"a///", "a"},
        {"/a//b///c//", "/a/b/c"},
        /* single dots */
        {".", "."},
        {"./", "."},
        {"././.", "."},
        {"./a", "a"},
        {"a/.", "a"},
        {"a/./b", "a/b"},
        {"/.", "/"},
        {"/./a/./", "/a"},
        {".//.//a", "a"},
        /* double dots */
        {"..", ".."},
        {"../", ".."},
        {"../a", "../a"},
        {"../../a", "../../a"},
        {"../..", "../.."},
        {"a/..", "."},
        {"a/../", "."},
        {"a/../b", "b"},
        {"a/../..", ".."},
        {"a/../../b", "../b"},
        {"a/b/../..", "."},
        {"a/b/../../..", ".."},
        {"a/b/../c", "a/c"},
        {"./..", ".."},
        {"../.", ".."},
        {"../a/..", ".."},
        {"../a/../..", "../.."},
        {"a/./../b", "b"},
        {"a//../b", "b"},
        {"x/../y/../z", "z"},
        /* the root has no parent */
        {"/..", "/"},
        {"/../", "/"},
        {"/../..", "/"},
        {"/../a", "/a"},
        {"/a/..", "/"},
        {"/a/../..", "/"},
        {"/a/../../b", "/b"},
        {"/a/b/../..", "/"},
        {"/a/b/../../../c", "/c"},
        {"//../a", "/a"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        /* A block of exactly its size, as path_canonicalize may never need more. */
        char *path = strdup(cases[i].path);

        assert_non_null(path);
        path_canonicalize(path);
        assert_string_equal(path, cases[i].canonical);
        path_canonicalize(path);
        assert_string_equal(path, cases[i].canonical);
        free(path);
    }
}

static void
below(void **state)
{
    static const char *const good[] = {
        "a",     "a/b",   "a/b/c",       "...",
        "a/...", "..a",   "a..",         "a..b",
        ".a",    "a.",    ".a/.b",       "-",
        " ",     "a/ /b", "base/1/1247", "pg_tblspc/16384/PG_18_202506291/1/2",
        "a\\b",  "\xFF",  "...../x",
    };
    static const char *const bad[] = {
        "",    "/",      "/a",    "//",     ".",   "..",    "./a",   "../a",
        "a/.", "a/..",   "a/./b", "a/../b", "a/",  "a//b",  "a/b/",  "a/b//",
        "/..", "a/b/..", "../..", "./",     "../", "..//a", "a/b/.",
    };

    (void)state;
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        char *path = strdup(good[i]);

        assert_true(path_is_below(path));
        free(path);
    }
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        char *path = strdup(bad[i]);

        assert_false(path_is_below(path));
        free(path);
    }
}

static void
holds(void **state)
{
    static const struct {
        const char *outer;
        const char *inner;
        bool held;
    } cases[] = {
        /* itself, and what is below it */
        {"a", "a", true},
        {"a", "a/b", true},
        {"a", "a/b/c", true},
        {"/srv/a", "/srv/a", true},
        {"/srv/a", "/srv/a/b", true},
        {"/", "/", true},
        {"/", "/a", true},
        {"/", "/a/b", true},
        {"a/", "a/b", true},
        {"a", "a/", true},
        {".", "./a", true},
        /* what is above it or beside it */
        {"a/b", "a", false},
        {"/srv/a", "/srv", false},
        {"/srv/a", "/", false},
        {"a", "b", false},
        {"a", "ab", false},
        {"a", "a.b", false},
        {"ab", "a", false},
        {"/srv/a", "/srv/ab", false},
        {"/srv/a", "/srv/a.old/b", false},
        {"/srv/ab", "/srv/a/b", false},
        {"a", "b/a", false},
        {"/", "a", false},
        {"a", "/a", false},
        /* as they are written */
        {"a/", "a", false},
        {"a", "./a", false},
        {"A", "a", false},
        {"/srv/a", "/srv//a", false},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        /* Blocks of exactly their size: nothing behind them may be looked at. */
        char *outer = strdup(cases[i].outer);
        char *inner = strdup(cases[i].inner);

        if (path_holds(outer, inner) != cases[i].held)
            fail_msg("\"%s\", \"%s\"", outer, inner);
        free(outer);
        free(inner);
    }
}

/* ---- directories ---- */

static void
states(void **state)
{
    DirState what = DIR_NOT_EMPTY;
    Error err = ERROR_INIT;

    (void)state;
    assert_true(dir_state(in_dir("none"), &what, &err));
    assert_int_equal(what, DIR_MISSING);
    assert_true(dir_state(in_dir("none/at/all"), &what, &err));
    assert_int_equal(what, DIR_MISSING);
    temp_dir_mkdir(&dir, "d");
    assert_true(dir_state(in_dir("d"), &what, &err));
    assert_int_equal(what, DIR_EMPTY);
    temp_dir_write(&dir, "d/.hidden", "", 0);
    assert_true(dir_state(in_dir("d"), &what, &err));
    assert_int_equal(what, DIR_NOT_EMPTY);

    /* A link to a directory counts as that directory. */
    temp_dir_mkdir(&dir, "e");
    assert_int_equal(symlink("e", in_dir("link")), 0);
    assert_true(dir_state(in_dir("link"), &what, &err));
    assert_int_equal(what, DIR_EMPTY);

    what = DIR_MISSING;
    temp_dir_write(&dir, "f", "x", 1);
    assert_false(dir_state(in_dir("f"), &what, &err));
    check_system_error(&err, ENOTDIR, "could not access directory", in_dir("f"), "");
    assert_false(dir_state(in_dir("f/x"), &what, &err));
    check_system_error(&err, ENOTDIR, "could not access directory", in_dir("f/x"), "");
    assert_int_equal(what, DIR_MISSING);
}

/* Every entry once, in whatever order; at the end of it errno tells that nothing went wrong. */
static void
entries(void **state)
{
    static const char *const names[] = {"...", ".a", "..b", "c"};
    unsigned seen = 0;
    struct dirent *entry;
    DIR *stream;

    (void)state;
    temp_dir_mkdir(&dir, "d");
    for (size_t i = 0; i < 4; i++) {
        char name[16];

        (void)snprintf(name, sizeof name, "d/%s", names[i]);
        temp_dir_write(&dir, name, "", 0);
    }
    stream = opendir(in_dir("d"));
    assert_non_null(stream);
    for (errno = EIO; (entry = dir_next(stream)) != NULL; errno = EIO) {
        size_t i = 0;

        while (i < 4 && strcmp(entry->d_name, names[i]) != 0)
            i++;
        assert_true(i < 4);
        assert_int_equal(seen & 1u << i, 0);
        seen |= 1u << i;
    }
    assert_int_equal(errno, 0);
    assert_int_equal(seen, 15);
    assert_int_equal(closedir(stream), 0);
}

/* A descriptor that is exchanged for a file's behind the stream's back. */
static void
entries_that_cannot_be_read(void **state)
{
    DIR *stream;
    int fd;

    (void)state;
    temp_dir_mkdir(&dir, "d");
    temp_dir_write(&dir, "f", "x", 1);
    stream = opendir(in_dir("d"));
    fd = open(in_dir("f"), O_RDONLY | O_CLOEXEC);
    assert_non_null(stream);
    assert_true(fd >= 0);
    assert_int_equal(dup2(fd, dirfd(stream)), dirfd(stream));
    assert_null(dir_next(stream));
    assert_int_equal(errno, ENOTDIR);
    assert_int_equal(close(fd), 0);
    assert_int_equal(closedir(stream), 0);
}

static void
make(void **state)
{
    Error err = ERROR_INIT;
    char *top = NULL;

    (void)state;
    assert_true(dir_make(in_dir("a/b/c"), 0700, &top, &err));
    assert_string_equal(top, in_dir("a"));
    assert_int_equal(temp_dir_mode(&dir, "a"), S_IFDIR | 0700);
    assert_int_equal(temp_dir_mode(&dir, "a/b/c"), S_IFDIR | 0700);
    free(top);

    /* All there. */
    assert_true(dir_make(in_dir("a/b/c"), 0700, &top, &err));
    assert_null(top);
    assert_true(dir_make("/", 0700, &top, &err));
    assert_null(top);
    assert_true(dir_make(".", 0700, &top, &err));
    assert_null(top);

    /* Some there, with odd slashes; the mode of what was there stays. */
    assert_true(dir_make(in_dir("a//b/./d//e/"), 0750, &top, &err));
    assert_non_null(top);
    assert_int_equal(temp_dir_mode(&dir, "a/b/d/e") & ~0050u, S_IFDIR | 0700);
    assert_int_equal(temp_dir_mode(&dir, "a/b"), S_IFDIR | 0700);
    assert_true(dir_remove(top, &err));
    free(top);
    assert_false(temp_dir_exists(&dir, "a/b/d"));
    assert_true(temp_dir_exists(&dir, "a/b/c"));

    /* Through a link to a directory. */
    assert_int_equal(symlink("a", in_dir("link")), 0);
    assert_true(dir_make(in_dir("link/x"), 0700, &top, &err));
    assert_true(temp_dir_exists(&dir, "a/x"));
    free(top);
}

/* A directory that cannot be made leaves nothing of those above it. */
static void
make_fails(void **state)
{
    Error err = ERROR_INIT;
    char name[300];
    char *top = NULL;
    Buf path = BUF_INIT;

    (void)state;
    temp_dir_write(&dir, "f", "x", 1);
    assert_false(dir_make(in_dir("f"), 0700, &top, &err));
    check_system_error(&err, ENOTDIR, "could not create directory", in_dir("f"), "");
    assert_false(dir_make(in_dir("f/x"), 0700, &top, &err));
    check_system_error(&err, ENOTDIR, "could not create directory", in_dir("f"), "");
    assert_int_equal(symlink("nowhere", in_dir("dangling")), 0);
    assert_false(dir_make(in_dir("dangling"), 0700, &top, &err));
    check_system_error(&err, ENOTDIR, "could not create directory", in_dir("dangling"), "");
    assert_false(dir_make("", 0700, &top, &err));
    check_system_error(&err, ENOENT, "could not create directory", "", "");

    memset(name, 'n', sizeof name - 1);
    name[sizeof name - 1] = '\0';
    temp_dir_mkdir(&dir, "was");
    assert_true(buf_printf(&path, &err, "%s/%s", in_dir("was/new/below"), name));
    assert_false(dir_make(buf_text(&path), 0700, &top, &err));
    assert_int_equal(err.sys_errno, ENAMETOOLONG);
    assert_false(temp_dir_exists(&dir, "was/new"));
    assert_true(temp_dir_exists(&dir, "was"));
    assert_null(top);
    buf_free(&path);
}

/* ---- removing ---- */

static void
make_tree(const char *top)
{
    Buf name = BUF_INIT;
    Error err = ERROR_INIT;
    static const char *const files[] = {"f", "a/f", "a/b/f", "a/b/.hidden", "z/f"};

    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        char *above;

        buf_clear(&name);
        assert_true(buf_printf(&name, &err, "%s/%s", top, files[i]));
        above = path_parent(buf_text(&name), &err);
        temp_dir_mkdir(&dir, above);
        temp_dir_write(&dir, buf_text(&name), "x", 1);
        free(above);
    }
    buf_free(&name);
}

static void
remove_tree(void **state)
{
    Error err = ERROR_INIT;

    (void)state;
    make_tree("t");
    assert_true(dir_remove_contents(in_dir("t"), &err));
    assert_true(temp_dir_exists(&dir, "t"));
    assert_false(temp_dir_exists(&dir, "t/a"));
    assert_false(temp_dir_exists(&dir, "t/f"));
    assert_true(dir_remove(in_dir("t"), &err));
    assert_false(temp_dir_exists(&dir, "t"));

    make_tree("t");
    assert_true(dir_remove(in_dir("t"), &err));
    assert_false(temp_dir_exists(&dir, "t"));

    /* What is gone is fine. */
    assert_true(dir_remove(in_dir("t"), &err));
    assert_true(dir_remove_contents(in_dir("t"), &err));
    assert_int_equal(err.code, ERR_NONE);
}

/* Links go, what they point to stays: files, directories, things above, nothing at all. */
static void
remove_follows_no_links(void **state)
{
    Error err = ERROR_INIT;

    (void)state;
    make_tree("outside");
    make_tree("t");
    assert_int_equal(symlink(in_dir("outside"), in_dir("t/to-directory")), 0);
    assert_int_equal(symlink("../../outside", in_dir("t/a/relative")), 0);
    assert_int_equal(symlink(in_dir("outside/f"), in_dir("t/to-file")), 0);
    assert_int_equal(symlink("..", in_dir("t/a/b/up")), 0);
    assert_int_equal(symlink("nowhere", in_dir("t/dangling")), 0);
    assert_int_equal(symlink("self", in_dir("t/self")), 0);
    assert_int_equal(mkfifo(in_dir("t/fifo"), 0600), 0);
    assert_true(dir_remove(in_dir("t"), &err));
    assert_false(temp_dir_exists(&dir, "t"));
    assert_true(temp_dir_exists(&dir, "outside/a/b/.hidden"));
    assert_true(temp_dir_exists(&dir, "outside/f"));
    assert_true(temp_dir_exists(&dir, "outside/z/f"));
}

/* A link in the place of the directory itself: not ours to remove, but its content may be. */
static void
remove_link_at_the_top(void **state)
{
    Error err = ERROR_INIT;

    (void)state;
    make_tree("outside");
    assert_int_equal(symlink("outside", in_dir("link")), 0);
    assert_false(dir_remove(in_dir("link"), &err));
    check_system_error(&err, ENOTDIR, "could not open directory", in_dir("link"), "");
    assert_true(temp_dir_exists(&dir, "outside/a/b/f"));

    assert_true(dir_remove_contents(in_dir("link"), &err));
    assert_true(temp_dir_exists(&dir, "link"));
    assert_true(temp_dir_exists(&dir, "outside"));
    assert_false(temp_dir_exists(&dir, "outside/a"));
}

static void
remove_no_directory(void **state)
{
    Error err = ERROR_INIT;

    (void)state;
    temp_dir_write(&dir, "f", "x", 1);
    assert_false(dir_remove(in_dir("f"), &err));
    check_system_error(&err, ENOTDIR, "could not open directory", in_dir("f"), "");
    assert_false(dir_remove_contents(in_dir("f"), &err));
    assert_true(temp_dir_exists(&dir, "f"));
}

/* One descriptor per level, not two. */
static void
remove_deep_tree(void **state)
{
    struct rlimit before;
    struct rlimit few;
    Buf path = BUF_INIT;
    Error err = ERROR_INIT;
    char *top = NULL;

    (void)state;
    assert_true(buf_printf(&path, &err, "%s", in_dir("deep")));
    for (int i = 0; i < 200; i++)
        assert_true(buf_append(&path, "/d", 2, &err));
    assert_true(dir_make(buf_text(&path), 0700, &top, &err));
    assert_string_equal(top, in_dir("deep"));
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
    few = before;
    few.rlim_cur = 300;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
    assert_true(dir_remove(top, &err));
    assert_false(temp_dir_exists(&dir, "deep"));

    /* Too deep for the descriptors we have: told, not looped. */
    free(top);
    assert_true(dir_make(buf_text(&path), 0700, &top, &err));
    few.rlim_cur = 50;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
    assert_false(dir_remove(top, &err));
    assert_int_equal(err.sys_errno, EMFILE);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
    assert_true(dir_remove(top, &err));
    free(top);
    buf_free(&path);
}

/* In the child: remove "t" as somebody to whom LOCKED does not belong. */
static int
remove_as_stranger(const char *locked)
{
    Error err = ERROR_INIT;
    Error expected = ERROR_INIT;

    if (geteuid() == 0 && setresuid(65534, 65534, 65534) != 0)
        return 1;
    if (dir_remove(in_dir("t"), &err))
        return 2;
    error_ignored(error_set(&expected, ERR_SYSTEM,
                            "could not remove file \"%s/f\": Permission denied", locked));
    if (strcmp(err.message, expected.message) != 0) {
        (void)fprintf(stderr, "%s\n", err.message);
        return 3;
    }
    return err.sys_errno == EACCES ? 0 : 4;
}

/* "t/NAME" with a file that nobody else may remove. */
static void
make_locked(const char *name)
{
    const char *path = in_dir(name);
    char *file;
    Error err = ERROR_INIT;

    temp_dir_mkdir(&dir, name);
    file = path_join(name, "f", &err);
    assert_non_null(file);
    temp_dir_write(&dir, file, "x", 1);
    free(file);
    assert_int_equal(chmod(path, 0555), 0);
}

static void
check_removal_as_stranger(const char *locked)
{
    int status = -1;
    pid_t child;

    assert_int_equal(chmod(dir.path, 0755), 0);
    assert_int_equal(chmod(in_dir("t"), 0777), 0);
    child = fork();
    if (child == 0)
        _exit(remove_as_stranger(locked));
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

/* A failure does not end it: all that can go goes, and the failure is told with its path. */
static void
remove_goes_on_after_a_failure(void **state)
{
    static const char *const directories[] = {"t/a", "t/a/b", "t/z"};

    (void)state;
    make_tree("t");
    make_locked("t/locked");
    for (size_t i = 0; geteuid() == 0 && i < sizeof directories / sizeof directories[0]; i++)
        assert_int_equal(chown(in_dir(directories[i]), 65534, 65534), 0);
    check_removal_as_stranger(in_dir("t/locked"));
    assert_true(temp_dir_exists(&dir, "t/locked/f"));
    assert_false(temp_dir_exists(&dir, "t/a"));
    assert_false(temp_dir_exists(&dir, "t/f"));
    assert_false(temp_dir_exists(&dir, "t/z"));
}

/* Its mode shuts its owner out; to remove it is his right all the same. */
static void
remove_closed_directory(void **state)
{
    static const char *const directories[] = {"t", "t/a", "t/a/b", "t/z"};
    const bool root = geteuid() == 0;
    Error err = ERROR_INIT;

    (void)state;
    make_tree("t");
    for (size_t i = 0; root && i < sizeof directories / sizeof directories[0]; i++)
        assert_int_equal(chown(in_dir(directories[i]), 65534, 65534), 0);
    assert_int_equal(chmod(in_dir("t/a/b"), 0), 0);
    assert_int_equal(chmod(in_dir("t/a"), 0), 0);
    assert_int_equal(chmod(dir.path, 0755), 0);
    if (root)
        assert_int_equal(seteuid(65534), 0);
    if (!dir_remove_contents(in_dir("t"), &err))
        fail_msg("%s", err.message);
    if (root)
        assert_int_equal(seteuid(0), 0);
    assert_false(temp_dir_exists(&dir, "t/a"));
}

/* Of two failures the first one met is told. */
static void
remove_tells_the_first_failure(void **state)
{
    const char *first = NULL;
    struct dirent *entry;
    DIR *open_dir;

    (void)state;
    make_locked("t/one");
    make_locked("t/two");
    open_dir = opendir(in_dir("t"));
    assert_non_null(open_dir);
    while (first == NULL && (entry = readdir(open_dir)) != NULL) {
        if (entry->d_name[0] != '.')
            first = strcmp(entry->d_name, "one") == 0 ? in_dir("t/one") : in_dir("t/two");
    }
    assert_int_equal(closedir(open_dir), 0);
    assert_non_null(first);
    check_removal_as_stranger(first);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, setup, teardown)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(open_files),
        TEST(write_and_read),
        TEST(no_space),
        TEST(short_write_then_error),
        TEST(bad_descriptors),
        TEST(interrupted_write),
        TEST(interrupted_read),
        TEST(load),
        TEST(load_appends),
        TEST(load_limit),
        TEST(load_fails),
        TEST(sync_paths),
        TEST(rename_files),
        cmocka_unit_test(join),
        cmocka_unit_test(parent),
        cmocka_unit_test(canonicalize),
        cmocka_unit_test(below),
        cmocka_unit_test(holds),
        TEST(states),
        TEST(entries),
        TEST(entries_that_cannot_be_read),
        TEST(make),
        TEST(make_fails),
        TEST(remove_tree),
        TEST(remove_follows_no_links),
        TEST(remove_link_at_the_top),
        TEST(remove_no_directory),
        TEST(remove_deep_tree),
        TEST(remove_closed_directory),
        TEST(remove_goes_on_after_a_failure),
        TEST(remove_tells_the_first_failure),
    };

    return cmocka_run_group_tests_name("file", tests, NULL, NULL);
}
