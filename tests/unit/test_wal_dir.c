/*
 * The WAL directory: which files there are, what they hold, when they are synced and what that
 * means for the durable mark. Syncs, renames and reservations pass through this file (linked with
 * --wrap), which writes them down, lets one of them fail, and holds one until the test goes on.
 */
#include <dirent.h>
#include <errno.h>
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
#include <unistd.h>

#include <cmocka.h>

#include "common/bytes.h"
#include "common/file.h"
#include "pgformat/walfile.h"
#include "support/compressed.h"
#include "support/descriptors.h"
#include "support/temp_dir.h"
#include "support/wal_builder.h"
#include "walrecv/walrecv.h"

#define MB           ((size_t)1024 * 1024)
#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

#define SEGMENT_3 "000000010000000000000003"
#define SEGMENT_4 "000000010000000000000004"
#define START_3   ((Lsn)3 * MB)
#define START_4   ((Lsn)4 * MB)

/* ---- what is synced and renamed ---- */

static struct {
    pthread_mutex_t lock;
    pthread_cond_t moved;
    Buf log;
    DurableMark *mark;
    size_t calls;
    size_t fail_at;      /* this call (from 1) fails with EIO; 0: none */
    const char *held;    /* the call with this line waits; NULL: none */
    bool arrived;        /* it does */
    size_t linked;       /* files that have got a name */
    int reserve_failure; /* an errno; 0: none */
} ops = {.lock = PTHREAD_MUTEX_INITIALIZER, .moved = PTHREAD_COND_INITIALIZER};

int __real_fdatasync(int fd);
int __real_fsync(int fd);
int __real_rename(const char *from, const char *to);
int __real_fallocate64(int fd, int mode, off_t offset, off_t len);
int __real_linkat(int from_dir, const char *from, int to_dir, const char *to, int flags);
int __real_pthread_join(pthread_t thread, void **value);
int __wrap_fdatasync(int fd);
int __wrap_fsync(int fd);
int __wrap_rename(const char *from, const char *to);
int __wrap_fallocate64(int fd, int mode, off_t offset, off_t len);
int __wrap_linkat(int from_dir, const char *from, int to_dir, const char *to, int flags);
int __wrap_pthread_join(pthread_t thread, void **value);

static const char *
base_name(const char *path)
{
    const char *slash = strrchr(path, '/');

    return slash == NULL ? path : slash + 1;
}

static const char *
fd_name(int fd, char *name, size_t size)
{
    (void)descriptor_path(fd, name, size);
    if (strstr(name, "(deleted)") != NULL)
        return "ROOM";
    return strstr(base_name(name), "pgstow-test-") != NULL ? "DIR" : base_name(name);
}

/* A call that is held goes on. */
static void
release(void)
{
    (void)pthread_mutex_lock(&ops.lock);
    ops.held = NULL;
    (void)pthread_cond_broadcast(&ops.moved);
    (void)pthread_mutex_unlock(&ops.lock);
}

/* Wait until a thread has come to the call that is held. */
static void
await_held(void)
{
    (void)pthread_mutex_lock(&ops.lock);
    while (!ops.arrived)
        (void)pthread_cond_wait(&ops.moved, &ops.lock);
    (void)pthread_mutex_unlock(&ops.lock);
}

/* Wait until there is a line that begins like this. */
static void
await_line(const char *line)
{
    (void)pthread_mutex_lock(&ops.lock);
    while (strstr(buf_text(&ops.log), line) == NULL)
        (void)pthread_cond_wait(&ops.moved, &ops.lock);
    (void)pthread_mutex_unlock(&ops.lock);
}

/* With the lock. */
static void
hold(const char *op, const char *name)
{
    char line[256];

    (void)snprintf(line, sizeof line, "%s %s", op, name);
    if (ops.held == NULL || strcmp(line, ops.held) != 0)
        return;
    ops.arrived = true;
    (void)pthread_cond_broadcast(&ops.moved);
    while (ops.held != NULL)
        (void)pthread_cond_wait(&ops.moved, &ops.lock);
}

/* One line: the operation and how far the mark is before it. */
static bool
note_op(const char *op, const char *name, const char *to)
{
    Error err = ERROR_INIT;
    bool fails;
    Lsn mark;

    (void)pthread_mutex_lock(&ops.lock);
    hold(op, name);
    mark = ops.mark == NULL ? 0 : durable_mark_get(ops.mark);
    ops.calls++;
    if (!buf_printf(&ops.log, &err, "%s %s%s%s at " LSN_FORMAT "\n", op, name,
                    to == NULL ? "" : " ", to == NULL ? "" : to, LSN_ARGS(mark)))
        abort();
    fails = ops.calls == ops.fail_at;
    (void)pthread_cond_broadcast(&ops.moved);
    (void)pthread_mutex_unlock(&ops.lock);
    errno = EIO;
    return !fails;
}

int
__wrap_fdatasync(int fd)
{
    char name[512];

    return note_op("fdatasync", fd_name(fd, name, sizeof name), NULL) ? __real_fdatasync(fd) : -1;
}

int
__wrap_fsync(int fd)
{
    char name[512];

    return note_op("fsync", fd_name(fd, name, sizeof name), NULL) ? __real_fsync(fd) : -1;
}

int
__wrap_rename(const char *from, const char *to)
{
    return note_op("rename", base_name(from), base_name(to)) ? __real_rename(from, to) : -1;
}

int
__wrap_fallocate64(int fd, int mode, off_t offset, off_t len)
{
    if (ops.reserve_failure == 0)
        return __real_fallocate64(fd, mode, offset, len);
    errno = ops.reserve_failure;
    return -1;
}

int
__wrap_linkat(int from_dir, const char *from, int to_dir, const char *to, int flags)
{
    int result = __real_linkat(from_dir, from, to_dir, to, flags);

    ops.linked += result == 0;
    return result;
}

/* Who waits for a thread has told it to end: what is held may go on. */
int
__wrap_pthread_join(pthread_t thread, void **value)
{
    release();
    return __real_pthread_join(thread, value);
}

/* ---- the fixture ---- */

typedef struct SetAside {
    size_t count;
    char path[64]; /* of the last one; below the directory, like */
    char new_path[64];
    char reason[256];
} SetAside;

typedef struct Fixture {
    TempDir dir;
    DurableMark mark;
    DurableMark written;
    SetAside aside;
    WalDirConfig config;
    Sink *sink;
    Error err;
} Fixture;

static void
note_set_aside(void *ctx, const char *path, const char *new_path, const char *reason)
{
    SetAside *aside = ctx;

    aside->count++;
    (void)snprintf(aside->path, sizeof aside->path, "%s", base_name(path));
    (void)snprintf(aside->new_path, sizeof aside->new_path, "%s", base_name(new_path));
    (void)snprintf(aside->reason, sizeof aside->reason, "%s", reason);
}

/* A durable directory with archive_status; the test changes the config, then opens. */
static void
set_up(Fixture *fixture)
{
    *fixture = (Fixture){.err = ERROR_INIT};
    atomic_init(&fixture->mark.lsn, 0);
    atomic_init(&fixture->written.lsn, 0);
    temp_dir_make(&fixture->dir);
    temp_dir_mkdir(&fixture->dir, "archive_status");
    fixture->config = (WalDirConfig){.directory = fixture->dir.path,
                                     .segment_size = (uint32_t)MB,
                                     .file_mode = 0600,
                                     .remainder = WAL_KEEP_PARTIAL,
                                     .sync = WAL_DURABLE,
                                     .archive_status = true,
                                     .durable = &fixture->mark,
                                     .written = &fixture->written,
                                     .set_aside = note_set_aside,
                                     .ctx = &fixture->aside};
    buf_clear(&ops.log);
    ops.mark = &fixture->mark;
    ops.calls = 0;
    ops.fail_at = 0;
    ops.held = NULL;
    ops.arrived = false;
    ops.linked = 0;
    ops.reserve_failure = 0;
}

static void
open_dir(Fixture *fixture)
{
    const Archive archive = {.name = "pg_wal"};

    fixture->sink = wal_dir_new(&fixture->config, &fixture->err);
    assert_non_null(fixture->sink);
    assert_true(sink_archive_begin(fixture->sink, &archive, &fixture->err));
}

static void
tear_down(Fixture *fixture)
{
    sink_free(fixture->sink);
    temp_dir_remove(&fixture->dir);
    buf_free(&ops.log);
    ops.mark = NULL;
}

static bool
finish(Fixture *fixture)
{
    return sink_archive_end(fixture->sink, &fixture->err) &&
           sink_finish(fixture->sink, &fixture->err);
}

static bool
begin(Fixture *fixture, const char *name, uint64_t size)
{
    Entry entry = {.kind = ENTRY_FILE, .path = name, .size = size, .mode = 0600};

    return sink_entry_begin(fixture->sink, &entry, &fixture->err);
}

/* The bytes of a segment: no two alike at one place, none zero. */
static const uint8_t *
wal_bytes(unsigned seed)
{
    static uint8_t bytes[1024 * 1024];

    for (size_t i = 0; i < MB; i++)
        bytes[i] = (uint8_t)(1 + (i * 31 + i / 251 + seed) % 255);
    return bytes;
}

/* `len` bytes in pieces, as they come from a server. */
static bool
push_wal(Fixture *fixture, unsigned seed, size_t from, size_t len)
{
    const uint8_t *bytes = wal_bytes(seed) + from;
    const size_t piece = 100000;

    for (size_t at = 0; at < len; at += piece) {
        size_t part = len - at < piece ? len - at : piece;

        if (!sink_data(fixture->sink, (Span){.data = bytes + at, .len = part}, &fixture->err))
            return false;
    }
    return true;
}

static bool
push_segment(Fixture *fixture, const char *name, unsigned seed, size_t len, bool complete)
{
    return begin(fixture, name, MB) && push_wal(fixture, seed, 0, len) &&
           sink_entry_end(fixture->sink, complete, &fixture->err);
}

static bool
push_history(Fixture *fixture, const char *name, const char *content)
{
    return begin(fixture, name, strlen(content)) &&
           sink_data(fixture->sink, span_of(content), &fixture->err) &&
           sink_entry_end(fixture->sink, true, &fixture->err);
}

static void
assert_content(Fixture *fixture, const char *name, const void *expected, size_t len)
{
    Buf content = temp_dir_read(&fixture->dir, name);

    assert_int_equal(content.len, len);
    if (len > 0)
        assert_memory_equal(content.data, expected, len);
    buf_free(&content);
}

/* `len` bytes of WAL, then zeros, a whole segment. */
static void
assert_padded(Fixture *fixture, const char *name, unsigned seed, size_t len)
{
    uint8_t *expected = calloc(1, MB);

    assert_non_null(expected);
    memcpy(expected, wal_bytes(seed), len);
    assert_content(fixture, name, expected, MB);
    free(expected);
}

/* The same of NAME.partial. */
#define assert_partial(fixture, name, seed, len) assert_padded(fixture, name ".partial", seed, len)

static const CompressionMethod methods_that_compress[] = {COMPRESSION_GZIP, COMPRESSION_LZ4,
                                                          COMPRESSION_ZSTD};

/* For set_up's config: an archive. */
static void
compress_with(Fixture *fixture, CompressionMethod method)
{
    fixture->config.archive_status = false;
    fixture->config.compression.method = method;
    fixture->config.compression.level = method == COMPRESSION_GZIP ? 1 : 0;
}

/* Besides archive_status. */
static size_t
count_files(const Fixture *fixture)
{
    DIR *dir = opendir(fixture->dir.path);
    size_t count = 0;

    assert_non_null(dir);
    while (dir_next(dir) != NULL)
        count++;
    (void)closedir(dir);
    return count - 1;
}

/* Both were called, in this order. */
static void
assert_order(const char *first, const char *second)
{
    const char *at = strstr(buf_text(&ops.log), first);

    assert_non_null(at);
    assert_non_null(strstr(at, second));
    assert_null(strstr(strstr(at, second), first));
}

static Lsn
mark_of(Fixture *fixture)
{
    return durable_mark_get(&fixture->mark);
}

/* ---- segments ---- */

static void
test_complete_segment(void **state)
{
    Fixture fixture;

    (void)state;
    set_up(&fixture);
    open_dir(&fixture);
    assert_true(begin(&fixture, SEGMENT_3, MB));
    assert_true(temp_dir_exists(&fixture.dir, SEGMENT_3 ".partial"));
    assert_true(push_wal(&fixture, 1, 0, MB));
    assert_false(temp_dir_exists(&fixture.dir, SEGMENT_3));
    assert_int_equal(ops.calls, 0);
    assert_true(sink_entry_end(fixture.sink, true, &fixture.err));
    assert_true(finish(&fixture));

    assert_int_equal(mark_of(&fixture), START_4);
    assert_content(&fixture, SEGMENT_3, wal_bytes(1), MB);
    assert_int_equal(temp_dir_mode(&fixture.dir, SEGMENT_3), S_IFREG | 0600);
    assert_false(temp_dir_exists(&fixture.dir, SEGMENT_3 ".partial"));
    assert_content(&fixture, "archive_status/" SEGMENT_3 ".done", "", 0);
    assert_int_equal(temp_dir_mode(&fixture.dir, "archive_status/" SEGMENT_3 ".done"),
                     S_IFREG | 0600);
    assert_string_equal(buf_text(&ops.log), "fdatasync " SEGMENT_3 ".partial at 0/0\n"
                                            "rename " SEGMENT_3 ".partial " SEGMENT_3 " at 0/0\n"
                                            "fsync DIR at 0/0\n"
                                            "fsync archive_status at 0/400000\n");
    tear_down(&fixture);
}

static void
note_finished(void *ctx, Lsn end, TimeLineID timeline)
{
    char what[64];

    (void)ctx;
    (void)snprintf(what, sizeof what, LSN_FORMAT " on %u", LSN_ARGS(end), timeline);
    (void)note_op("finished", what, NULL);
}

/* Not before the segment is on disk under its name; one that is cut short never is. */
static void
test_finished_segment(void **state)
{
    Fixture fixture;

    (void)state;
    set_up(&fixture);
    fixture.config.archive_status = false;
    fixture.config.finished = note_finished;
    open_dir(&fixture);
    assert_true(push_segment(&fixture, SEGMENT_3, 1, MB, true));
    await_line("finished");
    assert_string_equal(buf_text(&ops.log), "fdatasync " SEGMENT_3 ".partial at 0/0\n"
                                            "rename " SEGMENT_3 ".partial " SEGMENT_3 " at 0/0\n"
                                            "fsync DIR at 0/0\n"
                                            "finished 0/400000 on 1 at 0/400000\n");
    assert_true(push_segment(&fixture, SEGMENT_4, 1, 777, false));
    assert_true(finish(&fixture));
    assert_null(strstr(buf_text(&ops.log), "finished 0/500000"));
    tear_down(&fixture);

    set_up(&fixture);
    fixture.config.remainder = WAL_PAD;
    fixture.config.finished = note_finished;
    open_dir(&fixture);
    assert_true(push_segment(&fixture, SEGMENT_3, 1, 777, false));
    assert_true(finish(&fixture));
    assert_true(temp_dir_exists(&fixture.dir, SEGMENT_3));
    assert_null(strstr(buf_text(&ops.log), "finished"));
    tear_down(&fixture);
}

static void
test_no_sync(void **state)
{
    Fixture fixture;

    (void)state;
    set_up(&fixture);
    fixture.config.sync = WAL_NO_SYNC;
    open_dir(&fixture);
    assert_true(push_segment(&fixture, SEGMENT_3, 1, MB, true));
    assert_true(begin(&fixture, SEGMENT_4, MB));
    assert_true(push_wal(&fixture, 2, 0, 777));
    assert_true(sink_flush(fixture.sink, START_4 + 777, &fixture.err));
    assert_true(sink_entry_end(fixture.sink, false, &fixture.err));
    assert_true(push_history(&fixture, "00000002.history", "1\t0/300000\tx\n"));
    assert_true(finish(&fixture));

    assert_int_equal(mark_of(&fixture), 0);
    assert_content(&fixture, SEGMENT_3, wal_bytes(1), MB);
    assert_int_equal(durable_mark_get(&fixture.written), START_4 + 777);
    assert_partial(&fixture, SEGMENT_4, 2, 777);
    assert_true(temp_dir_exists(&fixture.dir, "archive_status/" SEGMENT_3 ".done"));
    assert_string_equal(buf_text(&ops.log),
                        "rename " SEGMENT_3 ".partial " SEGMENT_3 " at 0/0\n"
                        "rename 00000002.history.tmp 00000002.history at 0/0\n");
    tear_down(&fixture);
}

static void
test_no_archive_status(void **state)
{
    Fixture fixture;

    (void)state;
    set_up(&fixture);
    fixture.config.archive_status = false;
    open_dir(&fixture);
    assert_true(push_segment(&fixture, SEGMENT_3, 1, MB, true));
    assert_true(push_history(&fixture, "00000002.history", "1\t0/300000\tx\n"));
    assert_true(finish(&fixture));
    assert_false(temp_dir_exists(&fixture.dir, "archive_status/" SEGMENT_3 ".done"));
    assert_false(temp_dir_exists(&fixture.dir, "archive_status/00000002.history.done"));
    assert_null(strstr(buf_text(&ops.log), "archive_status"));
    tear_down(&fixture);
}

/* The mode is the config's, whatever the umask. */
static void
test_file_mode(void **state)
{
    mode_t before = umask(0077);
    Fixture fixture;

    (void)state;
    set_up(&fixture);
    fixture.config.file_mode = 0640;
    open_dir(&fixture);
    assert_true(push_segment(&fixture, SEGMENT_3, 1, MB, true));
    assert_true(push_history(&fixture, "00000002.history", "1\t0/300000\tx\n"));
    (void)umask(before);
    assert_int_equal(temp_dir_mode(&fixture.dir, SEGMENT_3), S_IFREG | 0640);
    assert_int_equal(temp_dir_mode(&fixture.dir, "00000002.history"), S_IFREG | 0640);
    assert_int_equal(temp_dir_mode(&fixture.dir, "archive_status/" SEGMENT_3 ".done"),
                     S_IFREG | 0640);
    tear_down(&fixture);
}

static void
test_kept_partial(void **state)
{
    Fixture fixture;

    (void)state;
    set_up(&fixture);
    open_dir(&fixture);
    assert_true(push_segment(&fixture, SEGMENT_3, 1, 123456, false));
    assert_true(finish(&fixture));
    assert_int_equal(mark_of(&fixture), START_3 + 123456);
    assert_partial(&fixture, SEGMENT_3, 1, 123456);
    assert_false(temp_dir_exists(&fixture.dir, SEGMENT_3));
    assert_false(temp_dir_exists(&fixture.dir, "archive_status/" SEGMENT_3 ".done"));
    assert_string_equal(buf_text(&ops.log), "fdatasync " SEGMENT_3 ".partial at 0/0\n"
                                            "fsync DIR at 0/0\n"
                                            "fsync archive_status at 0/31E240\n");
    tear_down(&fixture);
}

static void
test_padded_remainder(void **state)
{
    static const size_t lengths[] = {1, 8192, 65535, 123456, 1024 * 1024 - 1};

    (void)state;
    for (size_t i = 0; i < COUNT(lengths); i++) {
        Fixture fixture;
        struct stat st;

        set_up(&fixture);
        fixture.config.remainder = WAL_PAD;
        fixture.config.archive_status = false;
        open_dir(&fixture);
        assert_true(push_segment(&fixture, SEGMENT_3, 1, lengths[i], false));
        assert_true(finish(&fixture));
        /* The mark does not cover the zeros. */
        assert_int_equal(mark_of(&fixture), START_3 + lengths[i]);
        assert_padded(&fixture, SEGMENT_3, 1, lengths[i]);
        assert_false(temp_dir_exists(&fixture.dir, SEGMENT_3 ".partial"));
        assert_false(temp_dir_exists(&fixture.dir, "archive_status/" SEGMENT_3 ".done"));
        assert_string_equal(buf_text(&ops.log),
                            "fdatasync " SEGMENT_3 ".partial at 0/0\n"
                            "rename " SEGMENT_3 ".partial " SEGMENT_3 " at 0/0\n"
                            "fsync DIR at 0/0\n");
        /* Zeros that are there, not a hole. */
        assert_int_equal(stat(temp_dir_path(&fixture.dir, SEGMENT_3), &st), 0);
        assert_true((size_t)st.st_blocks * 512 >= MB);
        tear_down(&fixture);
    }
}

/* ---- a .partial that is there already ---- */

typedef struct Leftover {
    const char *what;
    size_t len;
    unsigned seed; /* equal to the new one's: an earlier run's same WAL */
} Leftover;

static const Leftover leftovers[] = {
    {"empty", 0, 9},
    {"shorter garbage", 8192, 9},
    {"the same WAL, shorter", 8192, 1},
    {"the same WAL, longer", 500000, 1},
    {"longer garbage", 500000, 9},
    {"a full segment of garbage", 1024 * 1024, 9},
    {"longer than a segment", 1024 * 1024 + 4097, 9},
};

static void
leave(Fixture *fixture, const Leftover *leftover)
{
    uint8_t *bytes = malloc(leftover->len + 1);

    assert_non_null(bytes);
    for (size_t at = 0; at < leftover->len; at += MB) {
        size_t len = leftover->len - at < MB ? leftover->len - at : MB;

        memcpy(bytes + at, wal_bytes(leftover->seed), len);
    }
    temp_dir_write(&fixture->dir, SEGMENT_3 ".partial", bytes, leftover->len);
    free(bytes);
}

static void
test_leftover_becomes_complete(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(leftovers); i++) {
        Fixture fixture;

        set_up(&fixture);
        leave(&fixture, &leftovers[i]);
        assert_int_equal(chmod(temp_dir_path(&fixture.dir, SEGMENT_3 ".partial"), 0664), 0);
        open_dir(&fixture);
        assert_true(push_segment(&fixture, SEGMENT_3, 1, MB, true));
        assert_true(finish(&fixture));
        assert_content(&fixture, SEGMENT_3, wal_bytes(1), MB);
        assert_int_equal(temp_dir_mode(&fixture.dir, SEGMENT_3), S_IFREG | 0600);
        assert_false(temp_dir_exists(&fixture.dir, SEGMENT_3 ".partial"));
        assert_int_equal(mark_of(&fixture), START_4);
        tear_down(&fixture);
    }
}

static void
test_leftover_is_padded(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(leftovers); i++) {
        Fixture fixture;

        set_up(&fixture);
        fixture.config.remainder = WAL_PAD;
        leave(&fixture, &leftovers[i]);
        open_dir(&fixture);
        assert_true(push_segment(&fixture, SEGMENT_3, 1, 20000, false));
        assert_true(finish(&fixture));
        assert_padded(&fixture, SEGMENT_3, 1, 20000);
        tear_down(&fixture);
    }
}

/* It is written over from the front, and what is beyond stays. */
static void
test_leftover_never_shrinks(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(leftovers); i++) {
        Fixture fixture;
        Buf content;
        struct stat st;
        const char *path;

        set_up(&fixture);
        leave(&fixture, &leftovers[i]);
        open_dir(&fixture);
        assert_true(begin(&fixture, SEGMENT_3, MB));
        path = temp_dir_path(&fixture.dir, SEGMENT_3 ".partial");
        for (size_t at = 0; at < 20000; at += 1000) {
            assert_int_equal(stat(path, &st), 0);
            assert_true((size_t)st.st_size >= leftovers[i].len);
            assert_true(push_wal(&fixture, 1, at, 1000));
        }
        assert_true(sink_entry_end(fixture.sink, false, &fixture.err));
        assert_true(finish(&fixture));

        content = temp_dir_read(&fixture.dir, SEGMENT_3 ".partial");
        assert_int_equal(content.len, leftovers[i].len > MB ? leftovers[i].len : MB);
        assert_memory_equal(content.data, wal_bytes(1), 20000);
        if (leftovers[i].len > 20000 && leftovers[i].len <= MB)
            assert_memory_equal(content.data + 20000, wal_bytes(leftovers[i].seed) + 20000,
                                leftovers[i].len - 20000);
        for (size_t at = leftovers[i].len > 20000 ? leftovers[i].len : 20000; at < MB; at++)
            assert_int_equal(content.data[at], 0);
        buf_free(&content);
        assert_int_equal(mark_of(&fixture), START_3 + 20000);
        tear_down(&fixture);
    }
}

/* An entry without a byte changes nothing, and says nothing about what was there. */
static void
test_leftover_without_new_bytes(void **state)
{
    Fixture fixture;

    (void)state;
    set_up(&fixture);
    leave(&fixture, &leftovers[3]);
    open_dir(&fixture);
    assert_true(push_segment(&fixture, SEGMENT_3, 1, 0, false));
    assert_true(finish(&fixture));
    assert_partial(&fixture, SEGMENT_3, 1, leftovers[3].len);
    assert_int_equal(mark_of(&fixture), 0);
    tear_down(&fixture);
}

/* Freed without finish: what was received stays where a later run finds it. */
static void
test_abandoned(void **state)
{
    Fixture fixture;

    (void)state;
    set_up(&fixture);
    open_dir(&fixture);
    assert_true(begin(&fixture, SEGMENT_3, MB));
    assert_true(push_wal(&fixture, 1, 0, 5000));
    sink_free(fixture.sink);
    fixture.sink = NULL;
    assert_partial(&fixture, SEGMENT_3, 1, 5000);
    assert_int_equal(mark_of(&fixture), 0);
    assert_int_equal(ops.calls, 0);
    tear_down(&fixture);
}

/* ---- FLUSH ---- */

static void
test_flush(void **state)
{
    Fixture fixture;

    (void)state;
    set_up(&fixture);
    open_dir(&fixture);
    assert_true(begin(&fixture, SEGMENT_3, MB));
    assert_true(push_wal(&fixture, 1, 0, 5000));
    assert_true(sink_flush(fixture.sink, START_3 + 5000, &fixture.err));
    assert_int_equal(mark_of(&fixture), START_3 + 5000);
    assert_true(push_wal(&fixture, 1, 5000, 100));
    assert_true(sink_flush(fixture.sink, START_3 + 5100, &fixture.err));
    assert_int_equal(mark_of(&fixture), START_3 + 5100);
    /* The name is synced once; content each time. */
    assert_string_equal(buf_text(&ops.log), "fdatasync " SEGMENT_3 ".partial at 0/0\n"
                                            "fsync DIR at 0/0\n"
                                            "fdatasync " SEGMENT_3 ".partial at 0/301388\n");
    tear_down(&fixture);
}

static void
test_flush_between_segments(void **state)
{
    Fixture fixture;

    (void)state;
    set_up(&fixture);
    open_dir(&fixture);
    assert_true(push_segment(&fixture, SEGMENT_3, 1, MB, true));
    assert_true(sink_flush(fixture.sink, START_4, &fixture.err));
    assert_int_equal(mark_of(&fixture), START_4);
    /* Never back. */
    assert_true(sink_flush(fixture.sink, START_3, &fixture.err));
    assert_int_equal(mark_of(&fixture), START_4);
    tear_down(&fixture);
}

static void
test_no_mark(void **state)
{
    Fixture fixture;

    (void)state;
    set_up(&fixture);
    fixture.config.durable = NULL;
    open_dir(&fixture);
    assert_true(push_segment(&fixture, SEGMENT_3, 1, MB, true));
    assert_true(sink_flush(fixture.sink, START_4, &fixture.err));
    assert_true(finish(&fixture));
    assert_int_equal(mark_of(&fixture), 0);
    assert_content(&fixture, SEGMENT_3, wal_bytes(1), MB);
    tear_down(&fixture);
}

/* ---- history files ---- */

static void
test_history(void **state)
{
    const char *content = "1\t0/3000000\tno recovery target specified\n";
    Fixture fixture;

    (void)state;
    set_up(&fixture);
    /* What a killed run has left is of no interest. */
    temp_dir_write(&fixture.dir, "0000000A.history.tmp", wal_bytes(1), 70000);
    open_dir(&fixture);
    assert_true(push_history(&fixture, "0000000A.history", content));
    assert_true(finish(&fixture));
    assert_content(&fixture, "0000000A.history", content, strlen(content));
    assert_int_equal(temp_dir_mode(&fixture.dir, "0000000A.history") & 07777, 0600);
    assert_false(temp_dir_exists(&fixture.dir, "0000000A.history.tmp"));
    assert_content(&fixture, "archive_status/0000000A.history.done", "", 0);
    assert_int_equal(mark_of(&fixture), 0);
    assert_string_equal(buf_text(&ops.log), "fdatasync 0000000A.history.tmp at 0/0\n"
                                            "rename 0000000A.history.tmp 0000000A.history at 0/0\n"
                                            "fsync DIR at 0/0\n"
                                            "fsync archive_status at 0/0\n");
    tear_down(&fixture);
}

static void
test_histories_in_one_run(void **state)
{
    Fixture fixture;

    (void)state;
    set_up(&fixture);
    open_dir(&fixture);
    assert_true(push_history(&fixture, "00000002.history", "1\t0/300000\tx\n"));
    assert_true(push_segment(&fixture, SEGMENT_3, 1, 100, false));
    assert_true(push_history(&fixture, "00000003.history", "1\t0/300000\tx\n2\t0/300100\ty\n"));
    assert_true(finish(&fixture));
    assert_content(&fixture, "00000002.history", "1\t0/300000\tx\n", 13);
    assert_content(&fixture, "00000003.history", "1\t0/300000\tx\n2\t0/300100\ty\n", 26);
    assert_partial(&fixture, SEGMENT_3, 1, 100);
    tear_down(&fixture);
}

static void
test_empty_history(void **state)
{
    Fixture fixture;

    (void)state;
    set_up(&fixture);
    open_dir(&fixture);
    assert_true(push_history(&fixture, "00000002.history", ""));
    assert_true(finish(&fixture));
    assert_content(&fixture, "00000002.history", "", 0);
    tear_down(&fixture);
}

static void
test_history_exists(void **state)
{
    const char *content = "1\t0/3000000\tsame\n";
    static const char *const others[] = {"", "1\t0/3000000\tsame", "1\t0/3000000\tsomE\n",
                                         "1\t0/3000000\tsame\nx"};
    Fixture fixture;

    (void)state;
    set_up(&fixture);
    temp_dir_write(&fixture.dir, "00000002.history", content, strlen(content));
    open_dir(&fixture);
    assert_true(push_history(&fixture, "00000002.history", content));
    assert_true(finish(&fixture));
    assert_content(&fixture, "00000002.history", content, strlen(content));
    tear_down(&fixture);

    for (size_t i = 0; i < COUNT(others); i++) {
        set_up(&fixture);
        temp_dir_write(&fixture.dir, "00000002.history", others[i], strlen(others[i]));
        open_dir(&fixture);
        assert_false(push_history(&fixture, "00000002.history", content));
        assert_int_equal(fixture.err.code, ERR_FORMAT);
        assert_non_null(strstr(fixture.err.message, "exists and differs from the server's"));
        assert_content(&fixture, "00000002.history", others[i], strlen(others[i]));
        assert_false(temp_dir_exists(&fixture.dir, "00000002.history.tmp"));
        tear_down(&fixture);
    }
}

static void
test_history_cut_short(void **state)
{
    static const bool complete[] = {true, false};

    (void)state;
    for (size_t i = 0; i < COUNT(complete); i++) {
        Fixture fixture;

        set_up(&fixture);
        open_dir(&fixture);
        assert_true(begin(&fixture, "00000002.history", 10));
        assert_true(sink_data(fixture.sink, span_of("12345"), &fixture.err));
        assert_false(sink_entry_end(fixture.sink, complete[i], &fixture.err));
        assert_int_equal(fixture.err.code, ERR_FORMAT);
        assert_string_equal(fixture.err.message,
                            "timeline history file \"00000002.history\" has only 5 of 10 bytes");
        assert_false(temp_dir_exists(&fixture.dir, "00000002.history"));
        assert_false(temp_dir_exists(&fixture.dir, "00000002.history.tmp"));
        tear_down(&fixture);
    }
}

static void
test_history_too_large(void **state)
{
    Fixture fixture;

    (void)state;
    set_up(&fixture);
    open_dir(&fixture);
    assert_false(begin(&fixture, "00000002.history", 16 * MB + 1));
    assert_int_equal(fixture.err.code, ERR_FORMAT);
    tear_down(&fixture);
}

/* ---- what no server sends ---- */

static void
test_names(void **state)
{
    static const char *const names[] = {
        "x",
        "backup_label",
        "00000001000000000000000",          /* one digit less */
        "0000000100000000000000033",        /* one more */
        "00000001000000000000000a",         /* lower case */
        "000000000000000000000003",         /* timeline 0 */
        "000000010000000000001000",         /* 1 MB segments: FFF is the last */
        "000000010000000000000003.partial", /* our own business */
        "000000010000000000000003.gz",
        "pg_wal/000000010000000000000003",
        "../000000010000000000000003",
        "archive_status/000000010000000000000003.done",
        "00000002.history.tmp",
        "0000000a.history",
        "00000000.history",
        ".history",
    };

    (void)state;
    for (size_t i = 0; i < COUNT(names); i++) {
        Fixture fixture;

        set_up(&fixture);
        open_dir(&fixture);
        if (begin(&fixture, names[i], MB))
            fail_msg("%s was accepted", names[i]);
        assert_int_equal(fixture.err.code, ERR_FORMAT);
        assert_non_null(strstr(fixture.err.message, names[i]));
        tear_down(&fixture);
    }
}

static void
test_kinds(void **state)
{
    static const EntryKind kinds[] = {ENTRY_DIRECTORY, ENTRY_SYMLINK};

    (void)state;
    for (size_t i = 0; i < COUNT(kinds); i++) {
        Entry entry = {.kind = kinds[i], .path = SEGMENT_3, .link_target = "/etc", .size = MB};
        Fixture fixture;

        set_up(&fixture);
        open_dir(&fixture);
        assert_false(sink_entry_begin(fixture.sink, &entry, &fixture.err));
        assert_int_equal(fixture.err.code, ERR_FORMAT);
        tear_down(&fixture);
    }
}

static void
test_sizes(void **state)
{
    Fixture fixture;

    (void)state;
    set_up(&fixture);
    open_dir(&fixture);
    assert_false(begin(&fixture, SEGMENT_3, 16 * MB));
    assert_int_equal(fixture.err.code, ERR_FORMAT);
    assert_string_equal(fixture.err.message, "WAL segment \"" SEGMENT_3
                                             "\" has 16777216 bytes, but segments have 1048576");
    assert_false(temp_dir_exists(&fixture.dir, SEGMENT_3 ".partial"));
    tear_down(&fixture);

    set_up(&fixture);
    open_dir(&fixture);
    assert_true(begin(&fixture, SEGMENT_3, MB));
    assert_true(push_wal(&fixture, 1, 0, MB));
    assert_false(sink_data(fixture.sink, span_of("x"), &fixture.err));
    assert_int_equal(fixture.err.code, ERR_FORMAT);
    assert_false(temp_dir_exists(&fixture.dir, SEGMENT_3));
    tear_down(&fixture);

    set_up(&fixture);
    open_dir(&fixture);
    assert_false(push_segment(&fixture, SEGMENT_3, 1, MB - 1, true));
    assert_int_equal(fixture.err.code, ERR_FORMAT);
    assert_string_equal(fixture.err.message,
                        "WAL segment \"" SEGMENT_3 "\" has only 1048575 of 1048576 bytes");
    assert_false(temp_dir_exists(&fixture.dir, SEGMENT_3));
    assert_int_equal(mark_of(&fixture), 0);
    tear_down(&fixture);
}

/* Somebody else shortens the file below us: it does not become a segment. */
static void
test_file_shrinks(void **state)
{
    Fixture fixture;

    (void)state;
    set_up(&fixture);
    open_dir(&fixture);
    assert_true(begin(&fixture, SEGMENT_3, MB));
    assert_true(push_wal(&fixture, 1, 0, MB));
    assert_int_equal(truncate(temp_dir_path(&fixture.dir, SEGMENT_3 ".partial"), 4096), 0);
    assert_false(sink_entry_end(fixture.sink, true, &fixture.err));
    assert_non_null(strstr(fixture.err.message, "has 4096 bytes, should be 1048576"));
    assert_false(temp_dir_exists(&fixture.dir, SEGMENT_3));
    assert_int_equal(mark_of(&fixture), 0);
    tear_down(&fixture);
}

static void
test_opaque_archive(void **state)
{
    Fixture fixture;

    (void)state;
    set_up(&fixture);
    open_dir(&fixture);
    assert_false(sink_data(fixture.sink, span_of("tar"), &fixture.err));
    assert_int_equal(fixture.err.code, ERR_BUG);
    tear_down(&fixture);
}

/* ---- what the system refuses ---- */

static void
test_directories(void **state)
{
    Fixture fixture;

    (void)state;
    set_up(&fixture);
    fixture.config.directory = temp_dir_path(&fixture.dir, "missing");
    assert_null(wal_dir_new(&fixture.config, &fixture.err));
    assert_int_equal(fixture.err.code, ERR_SYSTEM);
    assert_int_equal(fixture.err.sys_errno, ENOENT);
    assert_non_null(strstr(fixture.err.message, "missing\": No such file or directory"));

    temp_dir_mkdir(&fixture.dir, "bare");
    fixture.config.directory = temp_dir_path(&fixture.dir, "bare");
    assert_null(wal_dir_new(&fixture.config, &fixture.err));
    assert_int_equal(fixture.err.sys_errno, ENOENT);
    assert_non_null(strstr(fixture.err.message, "bare/archive_status"));

    temp_dir_write(&fixture.dir, "file", "", 0);
    fixture.config.directory = temp_dir_path(&fixture.dir, "file");
    assert_null(wal_dir_new(&fixture.config, &fixture.err));
    assert_int_equal(fixture.err.sys_errno, ENOTDIR);

    fixture.config.directory = fixture.dir.path;
    fixture.config.segment_size = 12345;
    assert_null(wal_dir_new(&fixture.config, &fixture.err));
    assert_int_equal(fixture.err.code, ERR_BUG);
    tear_down(&fixture);
}

/* The directory goes away in mid-stream. */
static void
test_directory_vanishes(void **state)
{
    Fixture fixture;

    (void)state;
    set_up(&fixture);
    open_dir(&fixture);
    temp_dir_remove(&fixture.dir);
    assert_false(begin(&fixture, SEGMENT_3, MB));
    assert_int_equal(fixture.err.code, ERR_SYSTEM);
    assert_int_equal(fixture.err.sys_errno, ENOENT);
    tear_down(&fixture);
}

static void
test_partial_is_a_directory(void **state)
{
    Fixture fixture;

    (void)state;
    set_up(&fixture);
    temp_dir_mkdir(&fixture.dir, SEGMENT_3 ".partial");
    open_dir(&fixture);
    assert_false(begin(&fixture, SEGMENT_3, MB));
    assert_int_equal(fixture.err.sys_errno, EISDIR);
    tear_down(&fixture);
}

static void
test_done_cannot_be_made(void **state)
{
    Fixture fixture;

    (void)state;
    set_up(&fixture);
    temp_dir_mkdir(&fixture.dir, "archive_status/" SEGMENT_3 ".done");
    open_dir(&fixture);
    (void)push_segment(&fixture, SEGMENT_3, 1, MB, true);
    assert_false(finish(&fixture));
    assert_int_equal(fixture.err.sys_errno, EISDIR);
    /* The segment itself is complete and durable nevertheless. */
    assert_int_equal(mark_of(&fixture), START_4);
    assert_content(&fixture, SEGMENT_3, wal_bytes(1), MB);
    tear_down(&fixture);
}

/* A full disk, as far as the stage can tell: writing, then padding. */
static void
test_writes_fail(void **state)
{
    static const struct {
        size_t len; /* of WAL, before the end */
        WalRemainder remainder;
    } cases[] = {{1024 * 1024, WAL_KEEP_PARTIAL}, {100000, WAL_PAD}};

    (void)state;
    (void)signal(SIGXFSZ, SIG_IGN);
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct rlimit before;
        struct rlimit limit;
        Fixture fixture;
        bool ok;

        set_up(&fixture);
        fixture.config.remainder = cases[i].remainder;
        open_dir(&fixture);
        assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
        limit = before;
        limit.rlim_cur = 600000;
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
        ok = push_segment(&fixture, SEGMENT_3, 1, cases[i].len, cases[i].len == MB);
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);

        assert_false(ok);
        assert_int_equal(fixture.err.code, ERR_SYSTEM);
        assert_int_equal(fixture.err.sys_errno, EFBIG);
        assert_non_null(strstr(fixture.err.message, SEGMENT_3 ".partial"));
        assert_int_equal(mark_of(&fixture), 0);
        assert_false(temp_dir_exists(&fixture.dir, SEGMENT_3));
        assert_true(temp_dir_exists(&fixture.dir, SEGMENT_3 ".partial"));
        tear_down(&fixture);
    }
    (void)signal(SIGXFSZ, SIG_DFL);
}

/* All that the stage does with syncs and renames in it. */
static bool
whole_run(Fixture *fixture)
{
    return push_history(fixture, "00000002.history", "1\t0/1\tx\n") &&
           begin(fixture, SEGMENT_3, MB) && push_wal(fixture, 1, 0, 5000) &&
           sink_flush(fixture->sink, START_3 + 5000, &fixture->err) &&
           push_wal(fixture, 1, 5000, MB - 5000) &&
           sink_entry_end(fixture->sink, true, &fixture->err) &&
           push_segment(fixture, SEGMENT_4, 2, 9000, false) && finish(fixture);
}

/* Each sync and rename fails once: one error, and nobody touches anything any more. What may be
 * claimed then, the fault tests know. */
static void
test_each_sync_fails(void **state)
{
    static const WalRemainder remainders[] = {WAL_KEEP_PARTIAL, WAL_PAD};

    (void)state;
    for (size_t i = 0; i < COUNT(remainders); i++) {
        size_t fail_at = 0;
        bool ok;

        do {
            Fixture fixture;
            Error second = ERROR_INIT;
            size_t calls;

            set_up(&fixture);
            fixture.config.remainder = remainders[i];
            open_dir(&fixture);
            ops.fail_at = ++fail_at;
            ok = whole_run(&fixture);
            calls = ops.calls;
            if (!ok) {
                assert_int_equal(fixture.err.code, ERR_SYSTEM);
                assert_int_equal(fixture.err.sys_errno, EIO);
                assert_false(sink_flush(fixture.sink, START_4 + 9000, &second));
                assert_string_equal(second.message, fixture.err.message);
            }
            sink_free(fixture.sink);
            fixture.sink = NULL;
            assert_int_equal(ops.calls, calls);
            assert_true(mark_of(&fixture) <= START_4 + 9000);
            assert_false(temp_dir_exists(&fixture.dir, "00000002.history.tmp"));
            tear_down(&fixture);
        } while (!ok);
        /* history 3; flush 2; segment 2; the rest 2; a sync of both names; archive_status. */
        assert_true(fail_at - 1 >= 11);
    }
}

/* ---- threads ---- */

/* Nothing of the second is done under its name while the first waits for the disk, and no mark
 * passes it. */
static void
test_slow_first_segment(void **state)
{
    static const CompressionMethod methods[] = {COMPRESSION_NONE, COMPRESSION_LZ4};

    (void)state;
    for (size_t i = 0; i < COUNT(methods); i++) {
        Fixture fixture;

        set_up(&fixture);
        compress_with(&fixture, methods[i]);
        open_dir(&fixture);
        ops.held = methods[i] == COMPRESSION_NONE ? "fdatasync " SEGMENT_3 ".partial"
                                                  : "fsync " SEGMENT_3 ".tmp.lz4";
        assert_true(push_segment(&fixture, SEGMENT_3, 1, MB, true));
        await_held();
        assert_true(push_segment(&fixture, SEGMENT_4, 2, MB, true));
        await_line(methods[i] == COMPRESSION_NONE ? "fdatasync " SEGMENT_4 ".partial"
                                                  : "fsync " SEGMENT_4 ".tmp.lz4");
        assert_int_equal(mark_of(&fixture), 0);
        assert_int_equal(durable_mark_get(&fixture.written),
                         methods[i] == COMPRESSION_NONE ? START_4 + MB : 0);
        assert_true(temp_dir_exists(&fixture.dir, SEGMENT_4 ".partial") ==
                    (methods[i] == COMPRESSION_NONE));
        release();
        assert_true(finish(&fixture));
        assert_int_equal(mark_of(&fixture), START_4 + MB);
        assert_int_equal(durable_mark_get(&fixture.written), START_4 + MB);
        assert_order("rename " SEGMENT_3, "rename " SEGMENT_4);
        tear_down(&fixture);
    }
}

/* The pushing thread goes on while a segment waits for the disk, until too many do. */
static void
test_pushing_goes_on(void **state)
{
    Fixture fixture;
    char name[WAL_NAME_SIZE];

    (void)state;
    set_up(&fixture);
    open_dir(&fixture);
    ops.held = "fdatasync " SEGMENT_3 ".partial";
    for (uint64_t number = 3; number < 8; number++) {
        wal_segment_name(name, 1, number, (uint32_t)MB);
        assert_true(push_segment(&fixture, name, (unsigned)number, MB, true));
    }
    await_held();
    assert_false(temp_dir_exists(&fixture.dir, SEGMENT_3));
    release();
    for (uint64_t number = 8; number < 30; number++) {
        wal_segment_name(name, 1, number, (uint32_t)MB);
        assert_true(push_segment(&fixture, name, (unsigned)number, MB, true));
    }
    assert_true(finish(&fixture));
    for (uint64_t number = 3; number < 30; number++) {
        wal_segment_name(name, 1, number, (uint32_t)MB);
        assert_content(&fixture, name, wal_bytes((unsigned)number), MB);
    }
    assert_int_equal(mark_of(&fixture), 30 * MB);
    tear_down(&fixture);
}

/* A segment is safe when its bytes are: whoever waits for that does not wait for its name. */
static void
test_flush_does_not_wait_for_names(void **state)
{
    static const struct {
        CompressionMethod method;
        const char *held;
    } cases[] = {{COMPRESSION_NONE, "rename " SEGMENT_3 ".partial"},
                 {COMPRESSION_GZIP, "fsync " SEGMENT_3 ".tmp.gz"},
                 {COMPRESSION_ZSTD, "rename " SEGMENT_3 ".tmp.zst"}};

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        Fixture fixture;

        set_up(&fixture);
        compress_with(&fixture, cases[i].method);
        open_dir(&fixture);
        ops.held = cases[i].held;
        assert_true(push_segment(&fixture, SEGMENT_3, 1, MB, true));
        assert_true(begin(&fixture, SEGMENT_4, MB));
        assert_true(push_wal(&fixture, 2, 0, 5000));
        await_held();
        assert_true(sink_flush(fixture.sink, START_4 + 5000, &fixture.err));
        assert_int_equal(mark_of(&fixture), START_4 + 5000);
        assert_int_equal(durable_mark_get(&fixture.written), START_4 + 5000);
        assert_content(&fixture, SEGMENT_3 ".partial", wal_bytes(1), MB);
        assert_partial(&fixture, SEGMENT_4, 2, 5000);
        assert_false(temp_dir_exists(&fixture.dir, SEGMENT_3));
        release();
        assert_true(sink_entry_end(fixture.sink, false, &fixture.err));
        assert_true(finish(&fixture));
        assert_partial(&fixture, SEGMENT_4, 2, 5000);
        assert_false(temp_dir_exists(&fixture.dir, SEGMENT_3 ".partial"));
        tear_down(&fixture);
    }
}

/* What goes wrong in a thread is told by the next push, whatever it is, once and for all. */
static void
test_failure_of_a_thread(void **state)
{
    static const char *const calls[] = {"fdatasync " SEGMENT_3 ".partial",
                                        "rename " SEGMENT_3 ".partial", "fsync DIR"};

    (void)state;
    for (size_t i = 0; i < COUNT(calls); i++) {
        Fixture fixture;
        Error again = ERROR_INIT;
        size_t calls_then;

        set_up(&fixture);
        open_dir(&fixture);
        ops.fail_at = i + 1;
        assert_true(push_segment(&fixture, SEGMENT_3, 1, MB, true));
        await_line(calls[i]);
        /* It may have yet to tell of it. */
        if (begin(&fixture, SEGMENT_4, MB)) {
            size_t at = 0;

            while (push_wal(&fixture, 1, at % MB, 1))
                at++;
        }
        assert_int_equal(fixture.err.code, ERR_SYSTEM);
        assert_int_equal(fixture.err.sys_errno, EIO);
        calls_then = ops.calls;
        assert_false(sink_flush(fixture.sink, START_4, &again));
        assert_string_equal(again.message, fixture.err.message);
        sink_free(fixture.sink);
        fixture.sink = NULL;
        assert_int_equal(ops.calls, calls_then);
        assert_true(temp_dir_exists(&fixture.dir, SEGMENT_3) == (i == 2));
        assert_true(temp_dir_exists(&fixture.dir, SEGMENT_3 ".partial") == (i != 2));
        assert_int_equal(mark_of(&fixture), 0);
        tear_down(&fixture);
    }
}

/* When a push fails, for whatever reason, the threads have ended with what they were at. */
static void
test_failure_ends_the_threads(void **state)
{
    Fixture fixture;

    (void)state;
    set_up(&fixture);
    open_dir(&fixture);
    ops.held = "fdatasync " SEGMENT_3 ".partial";
    assert_true(push_segment(&fixture, SEGMENT_3, 1, MB, true));
    await_held();
    assert_false(begin(&fixture, "no segment", MB));
    assert_int_equal(fixture.err.code, ERR_FORMAT);
    assert_string_equal(buf_text(&ops.log), "fdatasync " SEGMENT_3 ".partial at 0/0\n");
    sink_free(fixture.sink);
    fixture.sink = NULL;
    assert_int_equal(ops.calls, 1);
    assert_content(&fixture, SEGMENT_3 ".partial", wal_bytes(1), MB);
    tear_down(&fixture);
}

/* Given up while a thread waits for the disk: it ends with that, and nothing follows. */
static void
test_abandoned_in_a_thread(void **state)
{
    static const CompressionMethod methods[] = {COMPRESSION_NONE, COMPRESSION_GZIP};
    static const char *const held[] = {"fdatasync " SEGMENT_3 ".partial",
                                       "fsync " SEGMENT_3 ".tmp.gz"};

    (void)state;
    for (size_t i = 0; i < COUNT(methods); i++) {
        Fixture fixture;
        char line[100];

        set_up(&fixture);
        compress_with(&fixture, methods[i]);
        open_dir(&fixture);
        ops.held = held[i];
        assert_true(push_segment(&fixture, SEGMENT_3, 1, MB, true));
        await_held();
        sink_free(fixture.sink);
        fixture.sink = NULL;
        /* What is to be compressed had no file yet, and nobody was told of it. */
        if (methods[i] == COMPRESSION_NONE)
            assert_content(&fixture, SEGMENT_3 ".partial", wal_bytes(1), MB);
        assert_int_equal(count_files(&fixture), methods[i] == COMPRESSION_NONE ? 1 : 0);
        (void)snprintf(line, sizeof line, "%s at 0/0\n", held[i]);
        assert_string_equal(buf_text(&ops.log), line);
        assert_int_equal(mark_of(&fixture), 0);
        tear_down(&fixture);
    }
}

/* What was compressed and has no name yet goes; what was flushed meanwhile stays. */
static void
test_abandoned_before_its_name(void **state)
{
    Fixture fixture;

    (void)state;
    set_up(&fixture);
    compress_with(&fixture, COMPRESSION_GZIP);
    open_dir(&fixture);
    ops.held = "fsync " SEGMENT_3 ".tmp.gz";
    assert_true(push_segment(&fixture, SEGMENT_3, 1, MB, true));
    await_held();
    assert_true(temp_dir_exists(&fixture.dir, SEGMENT_3 ".tmp.gz"));
    assert_true(sink_flush(fixture.sink, START_4, &fixture.err));
    sink_free(fixture.sink);
    fixture.sink = NULL;
    assert_false(temp_dir_exists(&fixture.dir, SEGMENT_3 ".tmp.gz"));
    assert_false(temp_dir_exists(&fixture.dir, SEGMENT_3 ".gz"));
    assert_content(&fixture, SEGMENT_3 ".partial", wal_bytes(1), MB);
    tear_down(&fixture);
}

/* ---- several timelines, all sizes ---- */

static void
test_timelines(void **state)
{
    Fixture fixture;

    (void)state;
    set_up(&fixture);
    open_dir(&fixture);
    assert_true(push_segment(&fixture, SEGMENT_3, 1, MB, true));
    assert_true(push_segment(&fixture, SEGMENT_4, 2, 70000, false));
    /* The segment before it has been waited for, in order. */
    assert_int_equal(mark_of(&fixture), START_4 + 70000);
    assert_true(push_history(&fixture, "00000002.history", "1\t0/411170\tx\n"));
    assert_true(temp_dir_exists(&fixture.dir, SEGMENT_3));
    assert_true(push_segment(&fixture, "000000020000000000000004", 3, MB, true));
    assert_true(push_segment(&fixture, "000000020000000000000005", 4, 1, false));
    assert_true(finish(&fixture));
    assert_content(&fixture, SEGMENT_3, wal_bytes(1), MB);
    assert_partial(&fixture, SEGMENT_4, 2, 70000);
    assert_content(&fixture, "000000020000000000000004", wal_bytes(3), MB);
    assert_partial(&fixture, "000000020000000000000005", 4, 1);
    assert_int_equal(mark_of(&fixture), 5 * MB + 1);
    assert_int_equal(durable_mark_get(&fixture.written), 5 * MB + 1);
    tear_down(&fixture);
}

static void
push_large(Fixture *fixture, uint32_t size)
{
    char name[WAL_NAME_SIZE];

    wal_segment_name(name, 1, 1, size);
    assert_true(begin(fixture, name, size));
    for (uint32_t at = 0; at < size; at += (uint32_t)MB)
        assert_true(push_wal(fixture, at / (uint32_t)MB, 0, MB));
    assert_true(sink_entry_end(fixture->sink, true, &fixture->err));
}

static void
test_segment_sizes(void **state)
{
    (void)state;
    for (uint32_t size = 1u << 20; size <= 1u << 30; size *= 2) {
        Fixture fixture;
        char name[WAL_NAME_SIZE];
        char partial[WAL_NAME_SIZE + 16];
        struct stat st;

        set_up(&fixture);
        fixture.config.segment_size = size;
        compress_with(&fixture, size == 1u << 26 ? COMPRESSION_LZ4 : COMPRESSION_NONE);
        open_dir(&fixture);
        if (size <= 1u << 26)
            push_large(&fixture, size);
        wal_segment_name(name, 1, 2, size);
        assert_true(begin(&fixture, name, size));
        (void)snprintf(partial, sizeof partial, "%s.partial", name);
        assert_int_equal(stat(temp_dir_path(&fixture.dir, partial), &st), 0);
        assert_int_equal(st.st_size, size);
        assert_true(push_wal(&fixture, 1, 0, 100));
        assert_true(sink_entry_end(fixture.sink, false, &fixture.err));
        assert_true(finish(&fixture));
        assert_int_equal(mark_of(&fixture), 2 * (Lsn)size + 100);
        wal_segment_name(name, 1, 1, size);
        if (size < 1u << 26)
            assert_int_equal(stat(temp_dir_path(&fixture.dir, name), &st), 0);
        assert_true(size >= 1u << 26 || st.st_size == size);
        tear_down(&fixture);
    }
}

/* ---- room ---- */

/* A full disk shows when the segment begins: all of its room is there from then on. */
static void
test_room_is_reserved(void **state)
{
    Fixture fixture;
    struct stat st;

    (void)state;
    set_up(&fixture);
    open_dir(&fixture);
    assert_true(begin(&fixture, SEGMENT_3, MB));
    assert_int_equal(stat(temp_dir_path(&fixture.dir, SEGMENT_3 ".partial"), &st), 0);
    assert_int_equal(st.st_size, MB);
    assert_true((size_t)st.st_blocks * 512 >= MB);
    tear_down(&fixture);
}

static void
test_file_systems_without_reservation(void **state)
{
    static const int failures[] = {EOPNOTSUPP, ENOSYS, EINVAL};

    (void)state;
    for (size_t i = 0; i < COUNT(failures) * COUNT(leftovers); i++) {
        const Leftover *leftover = &leftovers[i % COUNT(leftovers)];
        Fixture fixture;
        struct stat st;

        set_up(&fixture);
        ops.reserve_failure = failures[i / COUNT(leftovers)];
        leave(&fixture, leftover);
        open_dir(&fixture);
        assert_true(begin(&fixture, SEGMENT_3, MB));
        assert_int_equal(stat(temp_dir_path(&fixture.dir, SEGMENT_3 ".partial"), &st), 0);
        assert_int_equal(st.st_size, leftover->len > MB ? leftover->len : MB);
        assert_true(push_wal(&fixture, 1, 0, MB));
        assert_true(sink_entry_end(fixture.sink, true, &fixture.err));
        assert_true(finish(&fixture));
        assert_content(&fixture, SEGMENT_3, wal_bytes(1), MB);
        tear_down(&fixture);
    }
}

static void
test_no_room(void **state)
{
    Fixture fixture;

    (void)state;
    set_up(&fixture);
    ops.reserve_failure = ENOSPC;
    leave(&fixture, &leftovers[3]);
    open_dir(&fixture);
    assert_false(begin(&fixture, SEGMENT_3, MB));
    assert_int_equal(fixture.err.code, ERR_SYSTEM);
    assert_int_equal(fixture.err.sys_errno, ENOSPC);
    assert_non_null(strstr(fixture.err.message, "could not reserve 1048576 bytes for file \""));
    assert_non_null(strstr(fixture.err.message, SEGMENT_3 ".partial\": No space left on device"));
    sink_free(fixture.sink);
    fixture.sink = NULL;
    assert_content(&fixture, SEGMENT_3 ".partial", wal_bytes(1), leftovers[3].len);
    tear_down(&fixture);
}

/* The server waits for each of its commits: the segment comes and is flushed in small steps. */
static void
push_commits(Fixture *fixture, unsigned number)
{
    Lsn start = wal_segment_start(number, (uint32_t)MB);
    char name[WAL_NAME_SIZE];

    wal_segment_name(name, 1, number, (uint32_t)MB);
    assert_true(begin(fixture, name, MB));
    assert_true(push_wal(fixture, number, 0, 5000));
    assert_true(sink_flush(fixture->sink, start + 5000, &fixture->err));
    assert_true(push_wal(fixture, number, 5000, 5000));
    assert_true(sink_flush(fixture->sink, start + 10000, &fixture->err));
    assert_true(push_wal(fixture, number, 10000, MB - 10000));
    assert_true(sink_entry_end(fixture->sink, true, &fixture->err));
}

/* The first segment waits for its room; another one begins in room that was made meanwhile, once
 * that is ready. */
static void
test_write_ahead(void **state)
{
    Fixture fixture;
    char name[WAL_NAME_SIZE];
    unsigned number = 4;

    (void)state;
    set_up(&fixture);
    fixture.config.write_ahead = true;
    open_dir(&fixture);
    push_commits(&fixture, 3);
    assert_int_equal(ops.linked, 1);
    for (; ops.linked == 1; number++)
        push_commits(&fixture, number);
    assert_true(finish(&fixture));
    while (--number >= 3) {
        wal_segment_name(name, 1, number, (uint32_t)MB);
        assert_content(&fixture, name, wal_bytes(number), MB);
        assert_int_equal(temp_dir_mode(&fixture.dir, name), S_IFREG | 0600);
    }
    tear_down(&fixture);
}

/* What an earlier run has written is gone on with as it is. */
static void
test_write_ahead_of_an_earlier_run(void **state)
{
    Fixture fixture;

    (void)state;
    set_up(&fixture);
    fixture.config.write_ahead = true;
    leave(&fixture, &leftovers[3]);
    open_dir(&fixture);
    assert_true(begin(&fixture, SEGMENT_3, MB));
    assert_null(strstr(buf_text(&ops.log), "ROOM"));
    sink_free(fixture.sink);
    fixture.sink = NULL;
    assert_int_equal(ops.linked, 0);
    assert_padded(&fixture, SEGMENT_3 ".partial", 1, leftovers[3].len);
    tear_down(&fixture);
}

/* Nobody waits for what takes long. */
static void
test_write_ahead_of_large_segments(void **state)
{
    const uint32_t size = 1u << 30;
    Fixture fixture;
    char name[WAL_NAME_SIZE];

    (void)state;
    set_up(&fixture);
    fixture.config.write_ahead = true;
    fixture.config.segment_size = size;
    open_dir(&fixture);
    wal_segment_name(name, 1, 3, size);
    assert_true(begin(&fixture, name, size));
    assert_null(strstr(buf_text(&ops.log), "ROOM"));
    tear_down(&fixture);
}

static size_t
count_lines(const char *line)
{
    size_t count = 0;

    for (const char *at = buf_text(&ops.log); (at = strstr(at, line)) != NULL; at++)
        count++;
    return count;
}

/* Who is far behind gets no more room made: its segments are full before. */
static void
test_write_ahead_while_catching_up(void **state)
{
    static const struct {
        bool write_ahead;
        size_t step;
        size_t rooms;
    } cases[] = {{true, 1024 * 1024 / 16, 1}, {true, 1024 * 1024, 1}, {false, 1000, 0}};

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        Fixture fixture;

        set_up(&fixture);
        fixture.config.write_ahead = cases[i].write_ahead;
        open_dir(&fixture);
        assert_true(begin(&fixture, SEGMENT_3, MB));
        for (size_t at = 0; at + cases[i].step <= MB; at += cases[i].step) {
            assert_true(push_wal(&fixture, 1, at, cases[i].step));
            assert_true(sink_flush(fixture.sink, START_3 + at + cases[i].step, &fixture.err));
        }
        assert_true(sink_entry_end(fixture.sink, false, &fixture.err));
        assert_true(finish(&fixture));
        assert_int_equal(count_lines("fdatasync ROOM"), cases[i].rooms);
        tear_down(&fixture);
    }
}

/* ---- compression ---- */

static bool
collect(void *ctx, Span bytes)
{
    Error err = ERROR_INIT;

    return buf_append(ctx, bytes.data, bytes.len, &err);
}

static void
assert_unpacks(Fixture *fixture, const char *name, CompressionMethod method, unsigned seed)
{
    Buf content = BUF_INIT;
    char file[WAL_NAME_SIZE + 16];

    (void)snprintf(file, sizeof file, "%s%s", name, compression_suffix(method));
    if (!wal_segment_read(temp_dir_path(&fixture->dir, file), method, (uint32_t)MB, collect,
                          &content, &fixture->err))
        fail_msg("%s", fixture->err.message);
    assert_int_equal(content.len, MB);
    assert_memory_equal(content.data, wal_bytes(seed), MB);
    assert_int_equal(temp_dir_mode(&fixture->dir, file), S_IFREG | 0640);
    buf_free(&content);
}

static void
test_compressed(void **state)
{
    static const WalSync syncs[] = {WAL_DURABLE, WAL_NO_SYNC};

    (void)state;
    for (size_t i = 0; i < 3 * COUNT(syncs); i++) {
        CompressionMethod method = methods_that_compress[i / COUNT(syncs)];
        const char *content = "1\t0/500000\tx\n";
        Fixture fixture;

        set_up(&fixture);
        compress_with(&fixture, method);
        fixture.config.sync = syncs[i % COUNT(syncs)];
        fixture.config.file_mode = 0640;
        open_dir(&fixture);
        assert_true(push_segment(&fixture, SEGMENT_3, 1, MB, true));
        assert_true(push_segment(&fixture, SEGMENT_4, 2, MB, true));
        assert_true(push_history(&fixture, "00000002.history", content));
        assert_true(push_segment(&fixture, "000000020000000000000005", 3, 4000, false));
        assert_true(finish(&fixture));
        assert_unpacks(&fixture, SEGMENT_3, method, 1);
        assert_unpacks(&fixture, SEGMENT_4, method, 2);
        assert_content(&fixture, "00000002.history", content, strlen(content));
        assert_partial(&fixture, "000000020000000000000005", 3, 4000);
        assert_int_equal(count_files(&fixture), 4);
        assert_int_equal(mark_of(&fixture), fixture.config.sync == WAL_DURABLE ? 5 * MB + 4000 : 0);
        tear_down(&fixture);
    }
}

/* It has its name when it is on disk. */
static void
test_compressed_in_order(void **state)
{
    Fixture fixture;

    (void)state;
    set_up(&fixture);
    compress_with(&fixture, COMPRESSION_GZIP);
    open_dir(&fixture);
    assert_true(push_segment(&fixture, SEGMENT_3, 1, MB, true));
    assert_true(finish(&fixture));
    assert_string_equal(buf_text(&ops.log), "fsync " SEGMENT_3 ".tmp.gz at 0/0\n"
                                            "rename " SEGMENT_3 ".tmp.gz " SEGMENT_3 ".gz at 0/0\n"
                                            "fsync DIR at 0/0\n");
    assert_int_equal(mark_of(&fixture), START_4);
    tear_down(&fixture);
}

/* One flipped bit, wherever it is, does not pass unless it says nothing. */
static void
assert_bit_matters(Fixture *fixture, const char *name, CompressionMethod method)
{
    Buf content = BUF_INIT;
    Error err = ERROR_INIT;
    bool whole = wal_segment_read(temp_dir_path(&fixture->dir, name), method, (uint32_t)MB, collect,
                                  &content, &err) &&
                 content.len == MB;

    if (whole)
        assert_memory_equal(content.data, wal_bytes(1), MB);
    buf_free(&content);
}

static void
test_damage_shows(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(methods_that_compress); i++) {
        const CompressionMethod method = methods_that_compress[i];
        Fixture fixture;
        char name[64];
        Buf packed;

        set_up(&fixture);
        compress_with(&fixture, method);
        open_dir(&fixture);
        assert_true(push_segment(&fixture, SEGMENT_3, 1, MB, true));
        assert_true(finish(&fixture));
        (void)snprintf(name, sizeof name, SEGMENT_3 "%s", compression_suffix(method));
        packed = temp_dir_read(&fixture.dir, name);
        for (size_t bit = 0; bit < 8 * packed.len; bit += 1 + bit % 397) {
            packed.data[bit / 8] ^= (uint8_t)(1u << bit % 8);
            temp_dir_write(&fixture.dir, name, packed.data, packed.len);
            assert_bit_matters(&fixture, name, method);
            packed.data[bit / 8] ^= (uint8_t)(1u << bit % 8);
        }
        buf_free(&packed);
        tear_down(&fixture);
    }
}

/* ---- in memory ---- */

static Lsn
written_of(Fixture *fixture)
{
    return durable_mark_get(&fixture->written);
}

/* A FLUSH makes the file; what follows is written at once, as if there had never been memory. */
static void
test_flush_settles(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(methods_that_compress); i++) {
        Fixture fixture;

        set_up(&fixture);
        compress_with(&fixture, methods_that_compress[i]);
        fixture.config.file_mode = 0640;
        open_dir(&fixture);
        assert_true(begin(&fixture, SEGMENT_3, MB));
        assert_true(sink_flush(fixture.sink, START_3, &fixture.err));
        assert_true(push_wal(&fixture, 1, 0, 5000));
        assert_int_equal(count_files(&fixture), 0);
        assert_int_equal(written_of(&fixture), 0);
        assert_int_equal(mark_of(&fixture), START_3);

        buf_clear(&ops.log);
        assert_true(sink_flush(fixture.sink, START_3 + 5000, &fixture.err));
        assert_string_equal(buf_text(&ops.log), "fdatasync " SEGMENT_3 ".partial at 0/300000\n"
                                                "fsync DIR at 0/300000\n");
        assert_partial(&fixture, SEGMENT_3, 1, 5000);
        assert_int_equal(written_of(&fixture), START_3 + 5000);
        assert_int_equal(mark_of(&fixture), START_3 + 5000);

        assert_true(push_wal(&fixture, 1, 5000, 100));
        assert_partial(&fixture, SEGMENT_3, 1, 5100);
        assert_int_equal(written_of(&fixture), START_3 + 5100);
        assert_true(push_wal(&fixture, 1, 5100, MB - 5100));
        assert_true(sink_entry_end(fixture.sink, true, &fixture.err));
        assert_true(push_segment(&fixture, SEGMENT_4, 2, MB, true));
        assert_true(finish(&fixture));
        assert_unpacks(&fixture, SEGMENT_3, methods_that_compress[i], 1);
        assert_unpacks(&fixture, SEGMENT_4, methods_that_compress[i], 2);
        assert_int_equal(count_files(&fixture), 2);
        tear_down(&fixture);
    }
}

/* What nobody asks for before it is complete never has a file of its own, and counts as written
 * when it has its name. */
static void
test_complete_in_memory(void **state)
{
    Fixture fixture;

    (void)state;
    set_up(&fixture);
    compress_with(&fixture, COMPRESSION_LZ4);
    fixture.config.file_mode = 0640;
    open_dir(&fixture);
    ops.held = "rename " SEGMENT_3 ".tmp.lz4";
    assert_true(push_segment(&fixture, SEGMENT_3, 1, MB, true));
    await_held();
    assert_true(temp_dir_exists(&fixture.dir, SEGMENT_3 ".tmp.lz4"));
    assert_int_equal(count_files(&fixture), 1);
    assert_int_equal(written_of(&fixture), 0);
    release();
    assert_true(push_history(&fixture, "00000002.history", "1\t0/400000\tx\n"));
    assert_int_equal(written_of(&fixture), START_4);
    assert_int_equal(mark_of(&fixture), START_4);
    assert_true(finish(&fixture));
    assert_unpacks(&fixture, SEGMENT_3, COMPRESSION_LZ4, 1);
    assert_null(strstr(buf_text(&ops.log), ".partial"));
    tear_down(&fixture);
}

/* A FLUSH does not wait until what came before is compressed: that gets files, too. */
static void
test_flush_makes_files_of_complete_segments(void **state)
{
    Fixture fixture;

    (void)state;
    set_up(&fixture);
    compress_with(&fixture, COMPRESSION_ZSTD);
    fixture.config.file_mode = 0640;
    leave(&fixture, &leftovers[6]); /* too long, and of something else */
    open_dir(&fixture);
    ops.held = "fsync " SEGMENT_3 ".tmp.zst";
    assert_true(push_segment(&fixture, SEGMENT_3, 1, MB, true));
    assert_true(push_segment(&fixture, SEGMENT_4, 2, MB, true));
    await_held();
    assert_int_equal(written_of(&fixture), 0);
    assert_true(sink_flush(fixture.sink, START_4 + MB, &fixture.err));
    assert_int_equal(mark_of(&fixture), START_4 + MB);
    assert_int_equal(written_of(&fixture), START_4 + MB);
    assert_content(&fixture, SEGMENT_3 ".partial", wal_bytes(1), MB);
    assert_content(&fixture, SEGMENT_4 ".partial", wal_bytes(2), MB);
    assert_int_equal(temp_dir_mode(&fixture.dir, SEGMENT_4 ".partial"), S_IFREG | 0640);
    release();
    assert_true(finish(&fixture));
    assert_order("fdatasync " SEGMENT_4 ".partial", "fdatasync " SEGMENT_3 ".partial");
    assert_true(strstr(buf_text(&ops.log), "fdatasync " SEGMENT_3 ".partial") <
                strstr(buf_text(&ops.log), "fsync DIR"));
    assert_unpacks(&fixture, SEGMENT_3, COMPRESSION_ZSTD, 1);
    assert_unpacks(&fixture, SEGMENT_4, COMPRESSION_ZSTD, 2);
    assert_int_equal(count_files(&fixture), 2);
    tear_down(&fixture);
}

static void
test_cut_short_in_memory(void **state)
{
    static const size_t lengths[] = {0, 1, 123456, 1024 * 1024 - 1};

    (void)state;
    for (size_t i = 0; i < COUNT(lengths); i++) {
        const Lsn end = lengths[i] == 0 ? 0 : START_3 + lengths[i];
        Fixture fixture;

        set_up(&fixture);
        compress_with(&fixture, COMPRESSION_LZ4);
        open_dir(&fixture);
        assert_true(push_segment(&fixture, SEGMENT_3, 1, lengths[i], false));
        assert_int_equal(mark_of(&fixture), end);
        assert_int_equal(written_of(&fixture), end);
        assert_true(finish(&fixture));
        assert_partial(&fixture, SEGMENT_3, 1, lengths[i]);
        assert_string_equal(buf_text(&ops.log), "fdatasync " SEGMENT_3 ".partial at 0/0\n"
                                                "fsync DIR at 0/0\n");
        tear_down(&fixture);
    }
}

/* What an earlier run has left stays as it is until all of it is in the complete segment, or is
 * written over when there is a FLUSH. */
static void
test_leftover_and_memory(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(leftovers); i++) {
        Fixture fixture;
        Buf before;

        set_up(&fixture);
        compress_with(&fixture, COMPRESSION_LZ4);
        fixture.config.file_mode = 0640;
        leave(&fixture, &leftovers[i]);
        before = temp_dir_read(&fixture.dir, SEGMENT_3 ".partial");
        open_dir(&fixture);
        ops.held = "rename " SEGMENT_3 ".tmp.lz4";
        assert_true(push_segment(&fixture, SEGMENT_3, 1, MB, true));
        await_held();
        assert_content(&fixture, SEGMENT_3 ".partial", before.data, before.len);
        release();
        assert_true(finish(&fixture));
        assert_unpacks(&fixture, SEGMENT_3, COMPRESSION_LZ4, 1);
        assert_int_equal(count_files(&fixture), 1);
        buf_free(&before);
        tear_down(&fixture);

        set_up(&fixture);
        compress_with(&fixture, COMPRESSION_LZ4);
        leave(&fixture, &leftovers[i]);
        open_dir(&fixture);
        assert_true(begin(&fixture, SEGMENT_3, MB));
        assert_true(push_wal(&fixture, 1, 0, 20000));
        assert_true(sink_flush(fixture.sink, START_3 + 20000, &fixture.err));
        before = temp_dir_read(&fixture.dir, SEGMENT_3 ".partial");
        assert_int_equal(before.len, leftovers[i].len > MB ? leftovers[i].len : MB);
        assert_memory_equal(before.data, wal_bytes(1), 20000);
        if (leftovers[i].len > 20000 && leftovers[i].len <= MB)
            assert_memory_equal(before.data + 20000, wal_bytes(leftovers[i].seed) + 20000,
                                leftovers[i].len - 20000);
        buf_free(&before);
        tear_down(&fixture);
    }
}

/* Abandoned: what is only in memory was never acknowledged, and what was there before stays. */
static void
test_abandoned_in_memory(void **state)
{
    Fixture fixture;

    (void)state;
    set_up(&fixture);
    compress_with(&fixture, COMPRESSION_LZ4);
    leave(&fixture, &leftovers[3]);
    open_dir(&fixture);
    assert_true(begin(&fixture, SEGMENT_3, MB));
    assert_true(push_wal(&fixture, 2, 0, 5000));
    sink_free(fixture.sink);
    fixture.sink = NULL;
    assert_content(&fixture, SEGMENT_3 ".partial", wal_bytes(leftovers[3].seed), leftovers[3].len);
    assert_int_equal(mark_of(&fixture), 0);
    assert_int_equal(written_of(&fixture), 0);
    assert_int_equal(ops.calls, 0);
    tear_down(&fixture);
}

/* A full disk shows when the file is wanted: the FLUSH fails, and nothing counts. */
static void
test_no_room_to_settle(void **state)
{
    static const bool complete[] = {true, false};

    (void)state;
    for (size_t i = 0; i < COUNT(complete); i++) {
        Error again = ERROR_INIT;
        Fixture fixture;

        set_up(&fixture);
        compress_with(&fixture, COMPRESSION_LZ4);
        ops.reserve_failure = ENOSPC;
        leave(&fixture, &leftovers[3]);
        open_dir(&fixture);
        ops.held = "fsync " SEGMENT_3 ".tmp.lz4";
        assert_true(begin(&fixture, SEGMENT_3, MB));
        assert_true(push_wal(&fixture, 2, 0, complete[i] ? MB : 5000));
        if (complete[i]) {
            assert_true(sink_entry_end(fixture.sink, true, &fixture.err));
            await_held();
        }
        assert_false(sink_flush(fixture.sink, START_3 + 5000, &fixture.err));
        assert_int_equal(fixture.err.sys_errno, ENOSPC);
        assert_non_null(strstr(fixture.err.message, SEGMENT_3 ".partial\""));
        assert_false(sink_flush(fixture.sink, START_3 + 5000, &again));
        assert_string_equal(again.message, fixture.err.message);
        sink_free(fixture.sink);
        fixture.sink = NULL;
        assert_content(&fixture, SEGMENT_3 ".partial", wal_bytes(leftovers[3].seed),
                       leftovers[3].len);
        assert_int_equal(count_files(&fixture), 1);
        assert_int_equal(mark_of(&fixture), 0);
        assert_int_equal(written_of(&fixture), 0);
        tear_down(&fixture);
    }
}

static void *
release_later(void *line)
{
    await_line(line);
    release();
    return NULL;
}

/* None is named as long as the first one is not: the memory runs out, and is waited for. */
static void
test_memory_runs_out(void **state)
{
    char line[] = "fsync " SEGMENT_4 ".tmp.lz4";
    Fixture fixture;
    char name[WAL_NAME_SIZE];
    pthread_t helper;

    (void)state;
    set_up(&fixture);
    compress_with(&fixture, COMPRESSION_LZ4);
    fixture.config.file_mode = 0640;
    open_dir(&fixture);
    ops.held = "fsync " SEGMENT_3 ".tmp.lz4";
    assert_int_equal(pthread_create(&helper, NULL, release_later, line), 0);
    for (uint64_t number = 3; number < 30; number++) {
        wal_segment_name(name, 1, number, (uint32_t)MB);
        assert_true(push_segment(&fixture, name, (unsigned)number, MB, true));
        assert_true(written_of(&fixture) <= number * MB + MB);
    }
    assert_int_equal(__real_pthread_join(helper, NULL), 0);
    assert_true(finish(&fixture));
    for (uint64_t number = 3; number < 30; number++) {
        wal_segment_name(name, 1, number, (uint32_t)MB);
        assert_unpacks(&fixture, name, COMPRESSION_LZ4, (unsigned)number);
    }
    assert_int_equal(count_files(&fixture), 27);
    assert_int_equal(mark_of(&fixture), 30 * MB);
    assert_int_equal(written_of(&fixture), 30 * MB);
    tear_down(&fixture);
}

/* Where there may be no FLUSH, or one for each commit, segments have their files at once. */
static void
test_not_in_memory(void **state)
{
    (void)state;
    for (size_t i = 0; i < 3; i++) {
        Fixture fixture;
        char name[WAL_NAME_SIZE];

        set_up(&fixture);
        compress_with(&fixture, COMPRESSION_LZ4);
        if (i == 0)
            fixture.config.sync = WAL_NO_SYNC;
        if (i == 1)
            fixture.config.write_ahead = true;
        if (i == 2)
            fixture.config.segment_size = 1u << 25;
        wal_segment_name(name, 1, 3, fixture.config.segment_size);
        open_dir(&fixture);
        assert_true(begin(&fixture, name, fixture.config.segment_size));
        assert_int_equal(count_files(&fixture), 1);
        assert_true(push_wal(&fixture, 1, 0, 5000));
        assert_int_equal(written_of(&fixture),
                         wal_segment_start(3, fixture.config.segment_size) + 5000);
        tear_down(&fixture);
    }
}

/* A backup's pg_wal is for a server, which reads plain segments. */
static void
test_compression_is_for_archives(void **state)
{
    Fixture fixture;

    (void)state;
    set_up(&fixture);
    fixture.config.compression.method = COMPRESSION_GZIP;
    assert_null(wal_dir_new(&fixture.config, &fixture.err));
    assert_int_equal(fixture.err.code, ERR_BUG);
    fixture.config.archive_status = false;
    fixture.config.remainder = WAL_PAD;
    assert_null(wal_dir_new(&fixture.config, &fixture.err));
    assert_int_equal(fixture.err.code, ERR_BUG);
    tear_down(&fixture);
}

/* Other programs' partial files of a segment, and what killed runs leave, go when it is complete;
 * what belongs to other segments stays. */
static void
test_other_forms_go(void **state)
{
    static const char *const others[] = {".gz.partial", ".lz4.partial", ".zst.partial",
                                         ".tmp.gz",     ".tmp.lz4",     ".tmp.zst"};

    (void)state;
    for (size_t i = 0; i < 4; i++) {
        Fixture fixture;

        set_up(&fixture);
        compress_with(&fixture, (CompressionMethod)i);
        for (size_t k = 0; k < COUNT(others); k++) {
            char name[64];

            (void)snprintf(name, sizeof name, SEGMENT_3 "%s", others[k]);
            temp_dir_write(&fixture.dir, name, "other", 5);
            (void)snprintf(name, sizeof name, SEGMENT_4 "%s", others[k]);
            temp_dir_write(&fixture.dir, name, "other", 5);
        }
        open_dir(&fixture);
        assert_true(push_segment(&fixture, SEGMENT_3, 1, MB, true));
        assert_true(push_segment(&fixture, SEGMENT_4, 1, 5, false));
        assert_true(finish(&fixture));
        /* The segment, the next one, and that one's six. */
        assert_int_equal(count_files(&fixture), 8);
        tear_down(&fixture);
    }
}

/* ---- what is there already ---- */

static void
test_same_segment_exists(void **state)
{
    (void)state;
    for (size_t i = 0; i < 16; i++) {
        const CompressionMethod theirs = (CompressionMethod)(i % 4);
        Buf content = compressed(theirs, (Span){.data = wal_bytes(1), .len = MB});
        char name[64];
        Fixture fixture;

        set_up(&fixture);
        compress_with(&fixture, (CompressionMethod)(i / 4));
        (void)snprintf(name, sizeof name, SEGMENT_3 "%s", compression_suffix(theirs));
        temp_dir_write(&fixture.dir, name, content.data, content.len);
        open_dir(&fixture);
        assert_true(push_segment(&fixture, SEGMENT_3, 1, MB, true));
        assert_true(finish(&fixture));
        assert_content(&fixture, name, content.data, content.len);
        assert_int_equal(count_files(&fixture), 1);
        assert_int_equal(mark_of(&fixture), START_4);
        assert_int_equal(fixture.aside.count, 0);
        buf_free(&content);
        tear_down(&fixture);
    }
}

static void
test_damaged_segment_exists(void **state)
{
    Fixture fixture;

    (void)state;
    set_up(&fixture);
    fixture.config.archive_status = false;
    temp_dir_write(&fixture.dir, SEGMENT_3, "precious", 8);
    open_dir(&fixture);
    assert_true(push_segment(&fixture, SEGMENT_3, 1, MB, true));
    assert_true(finish(&fixture));
    assert_content(&fixture, SEGMENT_3, wal_bytes(1), MB);
    assert_content(&fixture, SEGMENT_3 ".damaged", "precious", 8);
    assert_int_equal(fixture.aside.count, 1);
    assert_string_equal(fixture.aside.path, SEGMENT_3);
    assert_string_equal(fixture.aside.new_path, SEGMENT_3 ".damaged");
    tear_down(&fixture);
}

static void
test_other_segment_exists(void **state)
{
    Fixture fixture;
    WalBuilder wal;
    Span bytes;

    (void)state;
    wal_builder_init(&wal, &(WalBuilderConfig){.magic = 0xD118,
                                               .timeline = 1,
                                               .system_id = 7,
                                               .segment_size = (uint32_t)MB,
                                               .start = START_3});
    while (wal.end < START_4)
        (void)wal_builder_record(&wal, 10, 0, 5000);
    bytes = wal_builder_span(&wal, START_3, START_4);
    set_up(&fixture);
    temp_dir_write(&fixture.dir, SEGMENT_3, bytes.data, bytes.len);
    open_dir(&fixture);
    (void)push_segment(&fixture, SEGMENT_3, 1, MB, true);
    assert_false(finish(&fixture));
    assert_int_equal(fixture.err.sys_errno, EEXIST);
    assert_non_null(strstr(fixture.err.message, SEGMENT_3 "\": File exists"));
    sink_free(fixture.sink);
    fixture.sink = NULL;
    assert_content(&fixture, SEGMENT_3, bytes.data, bytes.len);
    assert_content(&fixture, SEGMENT_3 ".partial", wal_bytes(1), MB);
    assert_int_equal(fixture.aside.count, 0);
    assert_int_equal(mark_of(&fixture), 0);
    wal_builder_free(&wal);
    tear_down(&fixture);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_complete_segment),
        cmocka_unit_test(test_finished_segment),
        cmocka_unit_test(test_no_sync),
        cmocka_unit_test(test_no_archive_status),
        cmocka_unit_test(test_file_mode),
        cmocka_unit_test(test_kept_partial),
        cmocka_unit_test(test_padded_remainder),
        cmocka_unit_test(test_leftover_becomes_complete),
        cmocka_unit_test(test_leftover_is_padded),
        cmocka_unit_test(test_leftover_never_shrinks),
        cmocka_unit_test(test_leftover_without_new_bytes),
        cmocka_unit_test(test_abandoned),
        cmocka_unit_test(test_flush),
        cmocka_unit_test(test_flush_between_segments),
        cmocka_unit_test(test_no_mark),
        cmocka_unit_test(test_history),
        cmocka_unit_test(test_histories_in_one_run),
        cmocka_unit_test(test_empty_history),
        cmocka_unit_test(test_history_exists),
        cmocka_unit_test(test_history_cut_short),
        cmocka_unit_test(test_history_too_large),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_kinds),
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_file_shrinks),
        cmocka_unit_test(test_opaque_archive),
        cmocka_unit_test(test_directories),
        cmocka_unit_test(test_directory_vanishes),
        cmocka_unit_test(test_partial_is_a_directory),
        cmocka_unit_test(test_done_cannot_be_made),
        cmocka_unit_test(test_writes_fail),
        cmocka_unit_test(test_each_sync_fails),
        cmocka_unit_test(test_slow_first_segment),
        cmocka_unit_test(test_pushing_goes_on),
        cmocka_unit_test(test_flush_does_not_wait_for_names),
        cmocka_unit_test(test_failure_of_a_thread),
        cmocka_unit_test(test_failure_ends_the_threads),
        cmocka_unit_test(test_abandoned_in_a_thread),
        cmocka_unit_test(test_abandoned_before_its_name),
        cmocka_unit_test(test_timelines),
        cmocka_unit_test(test_segment_sizes),
        cmocka_unit_test(test_room_is_reserved),
        cmocka_unit_test(test_file_systems_without_reservation),
        cmocka_unit_test(test_no_room),
        cmocka_unit_test(test_write_ahead),
        cmocka_unit_test(test_write_ahead_of_an_earlier_run),
        cmocka_unit_test(test_write_ahead_of_large_segments),
        cmocka_unit_test(test_write_ahead_while_catching_up),
        cmocka_unit_test(test_compressed),
        cmocka_unit_test(test_compressed_in_order),
        cmocka_unit_test(test_damage_shows),
        cmocka_unit_test(test_flush_settles),
        cmocka_unit_test(test_complete_in_memory),
        cmocka_unit_test(test_flush_makes_files_of_complete_segments),
        cmocka_unit_test(test_cut_short_in_memory),
        cmocka_unit_test(test_leftover_and_memory),
        cmocka_unit_test(test_abandoned_in_memory),
        cmocka_unit_test(test_no_room_to_settle),
        cmocka_unit_test(test_memory_runs_out),
        cmocka_unit_test(test_not_in_memory),
        cmocka_unit_test(test_compression_is_for_archives),
        cmocka_unit_test(test_other_forms_go),
        cmocka_unit_test(test_same_segment_exists),
        cmocka_unit_test(test_damaged_segment_exists),
        cmocka_unit_test(test_other_segment_exists),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
