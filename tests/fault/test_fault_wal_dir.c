/*
 * A WAL directory with segments of 1 MB: a complete one, a history file and one that the stream
 * does not fill, with every call of every thread failing once and from some call on. What has a
 * name is whole, and the durable mark is never ahead of the disk.
 */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "disk.h"
#include "fault.h"
#include "support/temp_dir.h"
#include "walrecv/walrecv.h"

#define MB           ((size_t)1024 * 1024)
#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

#define SEGMENT_3 "000000010000000000000003"
#define SEGMENT_4 "000000010000000000000004"
#define HISTORY   "00000002.history"
#define START_3   ((Lsn)3 * MB)
#define START_4   ((Lsn)4 * MB)

#define PART_3  ((size_t)400000) /* of the third segment, at the first flush */
#define PART_4  ((size_t)300000) /* of the fourth, at the second flush */
#define TOTAL_4 ((size_t)310000) /* of the fourth, when the stream ends */
#define STALE   (MB + 100)       /* what an earlier run has left of the third, in bytes */

#define IN_THE_WAY "precious" /* what has the third's name already, but is no segment */

static const char history_text[] = "1\t0/300000\tno recovery target specified\n";

typedef struct Fixture {
    TempDir dir;
    WalSync sync;
    WalRemainder remainder;
    Compression compression;
    bool write_ahead;
    bool in_memory; /* the third segment is complete before the first FLUSH */
    bool stale;     /* SEGMENT_3.partial exists, and is too long */
    bool conflict;  /* SEGMENT_3 exists, IN_THE_WAY */
    DurableMark mark;
    DurableMark written;
    uint8_t bytes[2 * MB]; /* of both segments */
    /* Their paths, for the watch. */
    const char *segment[2];
    const char *partial[2];
    const char *compressed[2]; /* as the config says; equal to `segment` without compression */
    /* What the watch found wrong first; any thread. */
    pthread_mutex_t lock;
    char violation[256];
} Fixture;

/* Threads other than the first must not end the test. */
static void
check(Fixture *fixture, bool ok, const char *what, Lsn mark, Lsn safe)
{
    if (ok)
        return;
    (void)pthread_mutex_lock(&fixture->lock);
    if (fixture->violation[0] == '\0')
        (void)snprintf(fixture->violation, sizeof fixture->violation,
                       "%s: the mark is at " LSN_FORMAT ", the disk at " LSN_FORMAT, what,
                       LSN_ARGS(mark), LSN_ARGS(safe));
    (void)pthread_mutex_unlock(&fixture->lock);
}

/* ---- the mark ---- */

/* A segment that is whole under its name for ever. */
static bool
named_safe(const char *path)
{
    return disk_safe_to(path) > 0 && disk_content_safe(path) && disk_name_safe(path);
}

/* How much of a segment is on disk. In the order in which it changes its name. */
static uint64_t
safe_bytes(const Fixture *fixture, size_t i)
{
    uint64_t safe = disk_safe_to(fixture->partial[i]);
    uint64_t named = disk_safe_to(fixture->segment[i]);

    if (named_safe(fixture->compressed[i]))
        return MB;
    return safe > named ? safe : named;
}

/* The end of the WAL that is on disk without a gap. */
static Lsn
safe_end(const Fixture *fixture)
{
    Lsn end = START_3;

    for (size_t i = 0; i < 2; i++) {
        uint64_t safe = safe_bytes(fixture, i);

        end += safe;
        if (safe < MB)
            break;
    }
    return end;
}

static void
check_mark(Fixture *fixture)
{
    Lsn mark = durable_mark_get(&fixture->mark);
    Lsn safe = safe_end(fixture);

    check(fixture, mark <= safe, "ahead", mark, safe);
    check(fixture, fixture->sync == WAL_DURABLE || mark == 0, "a mark without a sync", mark, safe);
}

/* Before every call: a segment gets its name only when all of it is on disk. */
static void
watch(void *ctx, FaultKind kind, const char *path)
{
    Fixture *fixture = ctx;

    check_mark(fixture);
    if (fixture->sync == WAL_NO_SYNC)
        return;
    for (size_t i = 0; i < 2; i++) {
        if (kind == FAULT_RENAME && strcmp(path, fixture->segment[i]) == 0)
            check(fixture, disk_content_safe(fixture->partial[i]), "renamed before it was synced",
                  0, 0);
        if (kind == FAULT_REMOVE && strcmp(path, fixture->partial[i]) == 0)
            check(fixture, named_safe(fixture->compressed[i]), "removed before the other is safe",
                  0, 0);
    }
}

/* ---- a run ---- */

static bool
compresses(const Fixture *fixture)
{
    return fixture->compression.method != COMPRESSION_NONE;
}

static bool
begin(Sink *sink, const char *name, uint64_t size, Error *err)
{
    const Entry entry = {.kind = ENTRY_FILE, .path = name, .size = size, .mode = 0600};

    return sink_entry_begin(sink, &entry, err);
}

static bool
push_bytes(Sink *sink, const uint8_t *bytes, size_t len, Error *err)
{
    const size_t piece = 100000;

    for (size_t at = 0; at < len; at += piece) {
        const Span part = {.data = bytes + at, .len = len - at < piece ? len - at : piece};

        if (!sink_data(sink, part, err))
            return false;
    }
    return true;
}

static bool
push_history(Sink *sink, Error *err)
{
    return begin(sink, HISTORY, strlen(history_text), err) &&
           sink_data(sink, span_of(history_text), err) && sink_entry_end(sink, true, err);
}

static bool
push_third(const Fixture *fixture, Sink *sink, Error *err)
{
    const uint8_t *third = fixture->bytes;

    if (!begin(sink, SEGMENT_3, MB, err))
        return false;
    if (fixture->in_memory)
        return push_bytes(sink, third, MB, err) && sink_entry_end(sink, true, err) &&
               sink_flush(sink, START_4, err);
    return push_bytes(sink, third, PART_3, err) && sink_flush(sink, START_3 + PART_3, err) &&
           push_bytes(sink, third + PART_3, 1000, err) &&
           sink_flush(sink, START_3 + PART_3 + 1000, err) &&
           push_bytes(sink, third + PART_3 + 1000, MB - PART_3 - 1000, err) &&
           sink_entry_end(sink, true, err);
}

static bool
push_all(const Fixture *fixture, Sink *sink, Error *err)
{
    const Archive archive = {.name = "pg_wal"};
    const uint8_t *fourth = fixture->bytes + MB;

    return sink_archive_begin(sink, &archive, err) && push_third(fixture, sink, err) &&
           push_history(sink, err) && begin(sink, SEGMENT_4, MB, err) &&
           push_bytes(sink, fourth, PART_4, err) && sink_flush(sink, START_4 + PART_4, err) &&
           push_bytes(sink, fourth + PART_4, TOTAL_4 - PART_4, err) &&
           sink_entry_end(sink, false, err) && sink_archive_end(sink, err) &&
           sink_finish(sink, err);
}

/* A failure is final: whatever is asked of the sink, it touches no file any more. */
static void
assert_dead(Sink *sink, const Error *err)
{
    size_t syncs = fault_calls(FAULT_SYNC);
    size_t renames = fault_calls(FAULT_RENAME);
    Error again = ERROR_INIT;

    fault_assert(!sink_flush(sink, START_4, &again), "a dead sink was flushed");
    fault_assert(strcmp(again.message, err->message) == 0, "it died of \"%s\", and then of \"%s\"",
                 err->message, again.message);
    fault_assert(!sink_entry_end(sink, true, &again), "a dead sink completed a segment");
    fault_assert(!sink_finish(sink, &again), "a dead sink finished");
    fault_assert(fault_calls(FAULT_SYNC) == syncs, "synced after a failure");
    fault_assert(fault_calls(FAULT_RENAME) == renames, "renamed after a failure");
}

static bool
receive_all(Fixture *fixture, Error *err)
{
    const WalDirConfig config = {.directory = fixture->dir.path,
                                 .segment_size = (uint32_t)MB,
                                 .file_mode = 0600,
                                 .remainder = fixture->remainder,
                                 .sync = fixture->sync,
                                 .archive_status = !compresses(fixture),
                                 .compression = fixture->compression,
                                 .write_ahead = fixture->write_ahead,
                                 .durable = &fixture->mark,
                                 .written = &fixture->written};
    Sink *sink = wal_dir_new(&config, err);
    bool ok = sink != NULL && push_all(fixture, sink, err);

    if (!ok && sink != NULL)
        assert_dead(sink, err);
    sink_free(sink);
    return ok;
}

/* ---- what is there in the end ---- */

static void
assert_content(Fixture *fixture, const char *name, const void *expected, size_t len)
{
    Buf content = temp_dir_read(&fixture->dir, name);

    fault_assert(content.len == len, "\"%s\" has %zu bytes, not %zu", name, content.len, len);
    fault_assert(memcmp(content.data, expected, len) == 0, "\"%s\" has another content", name);
    buf_free(&content);
}

static bool
collect(void *ctx, Span bytes)
{
    Error err = ERROR_INIT;

    return buf_append(ctx, bytes.data, bytes.len, &err);
}

/* The same of a segment that was compressed. */
static void
assert_compressed_is_whole(Fixture *fixture, size_t i)
{
    Buf content = BUF_INIT;
    Error err = ERROR_INIT;
    struct stat st;
    bool ok;

    if (stat(fixture->compressed[i], &st) != 0)
        return;
    ok = wal_segment_read(fixture->compressed[i], fixture->compression.method, (uint32_t)MB,
                          collect, &content, &err);
    fault_assert(ok && content.len == MB, "\"%s\" is not whole: %s", fixture->compressed[i],
                 err.message);
    fault_assert(memcmp(content.data, fixture->bytes + i * MB, MB) == 0,
                 "\"%s\" has another content", fixture->compressed[i]);
    fault_assert(fixture->sync == WAL_NO_SYNC || disk_content_safe(fixture->compressed[i]),
                 "\"%s\" has its name before it was synced", fixture->compressed[i]);
    buf_free(&content);
}

/* What was there before us is there still, under one name or the other. */
static bool
is_in_the_way(Fixture *fixture, const char *name)
{
    Buf content = BUF_INIT;
    bool same;

    if (!fixture->conflict || !temp_dir_exists(&fixture->dir, name))
        return false;
    content = temp_dir_read(&fixture->dir, name);
    same = content.len == strlen(IN_THE_WAY) && memcmp(content.data, IN_THE_WAY, content.len) == 0;
    buf_free(&content);
    return same;
}

/* What has its name is whole, on disk when it shall be, and only then marked as archived. */
static void
assert_named_is_whole(Fixture *fixture, const char *name, const void *expected, size_t len)
{
    const char *path = temp_dir_path(&fixture->dir, name);
    char done[64];

    (void)snprintf(done, sizeof done, "archive_status/%s.done", name);
    if (!temp_dir_exists(&fixture->dir, name)) {
        fault_assert(!temp_dir_exists(&fixture->dir, done), "\"%s\" exists without it", done);
        return;
    }
    if (is_in_the_way(fixture, name))
        return;
    assert_content(fixture, name, expected, len);
    if (fixture->sync == WAL_NO_SYNC)
        return;
    fault_assert(disk_content_safe(path), "\"%s\" has its name before it was synced", name);
    if (temp_dir_exists(&fixture->dir, done))
        fault_assert(disk_name_safe(path), "\"%s\" exists before the segment's name is safe", done);
}

/* What an earlier run has left is never less than before. */
static void
assert_not_shorter(Fixture *fixture)
{
    struct stat st = {.st_size = 0};

    if (!fixture->stale || stat(fixture->segment[0], &st) == 0 ||
        stat(fixture->compressed[0], &st) == 0)
        return;
    fault_assert(stat(fixture->partial[0], &st) == 0 && (size_t)st.st_size >= MB,
                 "\"%s\" has %lld bytes left", fixture->partial[0], (long long)st.st_size);
}

static void
assert_complete(Fixture *fixture)
{
    const char *unsafe;
    struct stat st;

    fault_assert(stat(fixture->compressed[0], &st) == 0, "no \"%s\"", fixture->compressed[0]);
    fault_assert(stat(fixture->partial[0], &st) != 0, "\"%s\" is left", fixture->partial[0]);
    fault_assert(temp_dir_exists(&fixture->dir, HISTORY), "no " HISTORY);
    if (!compresses(fixture))
        fault_assert(temp_dir_exists(&fixture->dir, "archive_status/" SEGMENT_3 ".done") &&
                         temp_dir_exists(&fixture->dir, "archive_status/" HISTORY ".done"),
                     "not marked as archived");
    if (fixture->remainder == WAL_PAD)
        fault_assert(temp_dir_exists(&fixture->dir, SEGMENT_4), "no " SEGMENT_4);
    else
        assert_content(fixture, SEGMENT_4 ".partial", fixture->bytes + MB, MB);
    fault_assert(durable_mark_get(&fixture->written) == START_4 + TOTAL_4, "not all is written");
    if (fixture->sync == WAL_NO_SYNC)
        return;
    fault_assert(durable_mark_get(&fixture->mark) == START_4 + TOTAL_4,
                 "the mark is at " LSN_FORMAT, LSN_ARGS(durable_mark_get(&fixture->mark)));
    unsafe = disk_unsafe(fixture->dir.path, "");
    fault_assert(unsafe[0] == '\0', "\"%s\" is not on disk", unsafe);
}

static const char *
compressed_path(Fixture *fixture, const char *name)
{
    char file[64];

    (void)snprintf(file, sizeof file, "%s%s", name,
                   compression_suffix(fixture->compression.method));
    return temp_dir_path(&fixture->dir, file);
}

static void
prepare(Fixture *fixture)
{
    static const uint8_t stale[STALE] = {1};

    temp_dir_make(&fixture->dir);
    temp_dir_mkdir(&fixture->dir, "archive_status");
    fixture->segment[0] = temp_dir_path(&fixture->dir, SEGMENT_3);
    fixture->segment[1] = temp_dir_path(&fixture->dir, SEGMENT_4);
    fixture->partial[0] = temp_dir_path(&fixture->dir, SEGMENT_3 ".partial");
    fixture->partial[1] = temp_dir_path(&fixture->dir, SEGMENT_4 ".partial");
    fixture->compressed[0] = compressed_path(fixture, SEGMENT_3);
    fixture->compressed[1] = compressed_path(fixture, SEGMENT_4);
    if (fixture->conflict)
        temp_dir_write(&fixture->dir, SEGMENT_3, IN_THE_WAY, strlen(IN_THE_WAY));
    if (fixture->stale)
        temp_dir_write(&fixture->dir, SEGMENT_3 ".partial", stale, STALE);
    atomic_store(&fixture->mark.lsn, 0);
    atomic_store(&fixture->written.lsn, 0);
    fixture->violation[0] = '\0';
}

/* Nothing is left of files on their way to a name. */
static void
assert_no_temporary(Fixture *fixture)
{
    static const char *const names[] = {HISTORY ".tmp", SEGMENT_3 ".tmp.lz4", SEGMENT_4 ".tmp.lz4"};

    for (size_t i = 0; i < COUNT(names); i++)
        fault_assert(!temp_dir_exists(&fixture->dir, names[i]), "%s is left", names[i]);
}

static bool
run(void *ctx, const FaultPlan *plan)
{
    Fixture *fixture = ctx;
    Error err = ERROR_INIT;
    FaultHit hit;
    bool ok;

    prepare(fixture);
    fault_watch(&(FaultWatch){.before = watch, .ctx = fixture});
    fault_begin(plan);
    ok = receive_all(fixture, &err);
    fault_end(&hit);
    fault_watch(NULL);

    fault_assert_ending(plan, &hit, ok, &err);
    fault_assert_nothing_left();
    check_mark(fixture);
    fault_assert(fixture->violation[0] == '\0', "%s", fixture->violation);
    assert_named_is_whole(fixture, SEGMENT_3, fixture->bytes, MB);
    assert_named_is_whole(fixture, SEGMENT_4, fixture->bytes + MB, MB);
    assert_named_is_whole(fixture, HISTORY, history_text, strlen(history_text));
    if (compresses(fixture)) {
        assert_compressed_is_whole(fixture, 0);
        assert_compressed_is_whole(fixture, 1);
    }
    fault_assert(!fixture->conflict || is_in_the_way(fixture, SEGMENT_3) ||
                     is_in_the_way(fixture, SEGMENT_3 ".damaged"),
                 "what was in the way is gone");
    if (plan->kind != FAULT_REMOVE)
        assert_no_temporary(fixture);
    fault_assert(fixture->remainder == WAL_PAD || !temp_dir_exists(&fixture->dir, SEGMENT_4),
                 "a part of a segment has the segment's name");
    assert_not_shorter(fixture);
    if (ok)
        assert_complete(fixture);
    temp_dir_remove(&fixture->dir);
    return hit.fired;
}

/* ---- the faults ---- */

static const FaultPlan plans[] = {
    {.kind = FAULT_MEMORY, .errnum = ENOMEM, .least = 12},
    {.kind = FAULT_MEMORY, .errnum = ENOMEM, .lasting = true, .least = 12},
    {.kind = FAULT_OPEN, .errnum = EMFILE, .least = 7},
    {.kind = FAULT_READ, .errnum = EIO, .least = 4},
    {.kind = FAULT_WRITE, .errnum = ENOSPC, .least = 15},
    {.kind = FAULT_WRITE, .errnum = ENOSPC, .lasting = true, .least = 15},
    {.kind = FAULT_WRITE, .errnum = EINTR, .outcome = FAULT_PASSES, .least = 15},
    {.kind = FAULT_WRITE, .errnum = FAULT_SHORT, .outcome = FAULT_PASSES, .least = 15},
    {.kind = FAULT_CLOSE, .errnum = EIO, .outcome = FAULT_EITHER, .least = 5},
    {.kind = FAULT_CLOSE, .errnum = EINTR, .outcome = FAULT_PASSES, .least = 5},
    {.kind = FAULT_RENAME, .errnum = EIO, .least = 2},
    {.kind = FAULT_STAT, .errnum = EIO, .outcome = FAULT_EITHER, .least = 2},
    {.kind = FAULT_MODE, .errnum = EPERM, .least = 4},
    {.kind = FAULT_REMOVE, .errnum = EIO, .least = 6},
    {.kind = FAULT_THREAD, .errnum = EAGAIN, .least = 2},
    {.kind = FAULT_RESERVE, .errnum = ENOSPC, .least = 2},
    {.kind = FAULT_RESERVE, .errnum = EINTR, .outcome = FAULT_PASSES, .least = 2},
    {.kind = FAULT_RESERVE, .errnum = EOPNOTSUPP, .outcome = FAULT_PASSES, .least = 2},
};

/* What only a durable directory does. */
static const FaultPlan durable_plans[] = {
    {.kind = FAULT_SYNC, .errnum = EIO, .least = 8},
    {.kind = FAULT_SYNC, .errnum = EIO, .lasting = true, .least = 8},
};

static const FaultPlan stale_plans[] = {
    {.kind = FAULT_TRUNCATE, .errnum = EIO, .least = 1},
};

static const FaultPlan compressed_plans[] = {
    {.kind = FAULT_MEMORY, .errnum = ENOMEM, .least = 20},
    {.kind = FAULT_MEMORY, .errnum = ENOMEM, .lasting = true, .least = 20},
    {.kind = FAULT_OPEN, .errnum = EMFILE, .least = 7},
    {.kind = FAULT_READ, .errnum = EIO, .least = 5},
    {.kind = FAULT_READ, .errnum = FAULT_SHORT, .outcome = FAULT_PASSES, .least = 4},
    {.kind = FAULT_WRITE, .errnum = ENOSPC, .least = 15},
    {.kind = FAULT_WRITE, .errnum = ENOSPC, .lasting = true, .least = 15},
    {.kind = FAULT_WRITE, .errnum = FAULT_SHORT, .outcome = FAULT_PASSES, .least = 15},
    {.kind = FAULT_CLOSE, .errnum = EIO, .outcome = FAULT_EITHER, .least = 4},
    {.kind = FAULT_RENAME, .errnum = EIO, .least = 2},
    {.kind = FAULT_STAT, .errnum = EIO, .outcome = FAULT_EITHER, .least = 2},
    {.kind = FAULT_MODE, .errnum = EPERM, .least = 4},
    {.kind = FAULT_REMOVE, .errnum = EIO, .least = 8},
    {.kind = FAULT_THREAD, .errnum = EAGAIN, .least = 2},
    {.kind = FAULT_RESERVE, .errnum = ENOSPC, .least = 2},
};

static const FaultPlan room_plans[] = {
    {.kind = FAULT_MEMORY, .errnum = ENOMEM, .least = 12},
    {.kind = FAULT_OPEN, .errnum = EMFILE, .outcome = FAULT_EITHER, .least = 7},
    {.kind = FAULT_WRITE, .errnum = ENOSPC, .outcome = FAULT_EITHER, .least = 15},
    {.kind = FAULT_WRITE, .errnum = ENOSPC, .outcome = FAULT_EITHER, .lasting = true, .least = 15},
    {.kind = FAULT_SYNC, .errnum = EIO, .outcome = FAULT_EITHER, .least = 8},
    {.kind = FAULT_CLOSE, .errnum = EINTR, .outcome = FAULT_PASSES, .least = 5},
    {.kind = FAULT_MAKE, .errnum = EPERM, .outcome = FAULT_PASSES},
    {.kind = FAULT_STAT, .errnum = EIO, .outcome = FAULT_EITHER, .least = 2},
};

static void
test_keep_partial(void **state)
{
    Fixture *fixture = *state;

    fault_sweep(plans, COUNT(plans), run, fixture);
    fault_sweep(durable_plans, COUNT(durable_plans), run, fixture);
}

static void
test_pad(void **state)
{
    Fixture *fixture = *state;

    fixture->remainder = WAL_PAD;
    fault_sweep(plans, COUNT(plans), run, fixture);
    fault_sweep(durable_plans, COUNT(durable_plans), run, fixture);
}

static void
test_stale_partial(void **state)
{
    Fixture *fixture = *state;

    fixture->stale = true;
    fault_sweep(plans, COUNT(plans), run, fixture);
    fault_sweep(durable_plans, COUNT(durable_plans), run, fixture);
    fault_sweep(stale_plans, COUNT(stale_plans), run, fixture);
}

static void
test_compressed(void **state)
{
    Fixture *fixture = *state;

    fixture->compression.method = COMPRESSION_LZ4;
    fault_sweep(compressed_plans, COUNT(compressed_plans), run, fixture);
    fault_sweep(durable_plans, COUNT(durable_plans), run, fixture);
    fixture->stale = true;
    fault_sweep(stale_plans, COUNT(stale_plans), run, fixture);
    fixture->sync = WAL_NO_SYNC;
    fault_sweep(compressed_plans, COUNT(compressed_plans), run, fixture);
}

/* The third segment has a file when the FLUSH comes before its name. */
static const FaultPlan memory_plans[] = {
    {.kind = FAULT_MEMORY, .errnum = ENOMEM, .least = 20},
    {.kind = FAULT_OPEN, .errnum = EMFILE, .least = 6},
    {.kind = FAULT_WRITE, .errnum = ENOSPC, .least = 4},
    {.kind = FAULT_WRITE, .errnum = ENOSPC, .lasting = true, .least = 4},
    {.kind = FAULT_WRITE, .errnum = FAULT_SHORT, .outcome = FAULT_PASSES, .least = 4},
    {.kind = FAULT_SYNC, .errnum = EIO, .least = 5},
    {.kind = FAULT_SYNC, .errnum = EIO, .lasting = true, .least = 5},
    {.kind = FAULT_CLOSE, .errnum = EIO, .outcome = FAULT_EITHER, .least = 3},
    {.kind = FAULT_RENAME, .errnum = EIO, .least = 2},
    {.kind = FAULT_MODE, .errnum = EPERM, .least = 3},
    {.kind = FAULT_REMOVE, .errnum = EIO, .least = 8},
    {.kind = FAULT_RESERVE, .errnum = ENOSPC, .least = 1},
};

static void
test_in_memory(void **state)
{
    Fixture *fixture = *state;

    fixture->compression.method = COMPRESSION_LZ4;
    fixture->in_memory = true;
    fault_sweep(memory_plans, COUNT(memory_plans), run, fixture);
    fixture->stale = true;
    fault_sweep(memory_plans, COUNT(memory_plans), run, fixture);
    fixture->conflict = true;
    fault_sweep(memory_plans, COUNT(memory_plans), run, fixture);
}

/* Room for the next segment is not needed: that it cannot be made stops nothing. */
static void
test_write_ahead(void **state)
{
    Fixture *fixture = *state;

    fixture->write_ahead = true;
    fault_sweep(room_plans, COUNT(room_plans), run, fixture);
}

static void
test_conflict(void **state)
{
    Fixture *fixture = *state;

    fixture->conflict = true;
    fault_sweep(plans, COUNT(plans), run, fixture);
    fault_sweep(durable_plans, COUNT(durable_plans), run, fixture);
    fixture->compression.method = COMPRESSION_LZ4;
    fault_sweep(compressed_plans, COUNT(compressed_plans), run, fixture);
}

static void
test_no_sync(void **state)
{
    Fixture *fixture = *state;

    fixture->sync = WAL_NO_SYNC;
    fault_sweep(plans, COUNT(plans), run, fixture);
    fixture->remainder = WAL_PAD;
    fault_sweep(plans, COUNT(plans), run, fixture);
}

static int
setup(void **state)
{
    static Fixture fixture;

    fixture = (Fixture){.sync = WAL_DURABLE, .remainder = WAL_KEEP_PARTIAL};
    (void)pthread_mutex_init(&fixture.lock, NULL);
    for (size_t i = 0; i < MB + TOTAL_4; i++) /* and zeros behind */
        fixture.bytes[i] = (uint8_t)(1 + (i * 31 + i / 251) % 255);
    *state = &fixture;
    return 0;
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_keep_partial, setup),
        cmocka_unit_test_setup(test_pad, setup),
        cmocka_unit_test_setup(test_stale_partial, setup),
        cmocka_unit_test_setup(test_no_sync, setup),
        cmocka_unit_test_setup(test_compressed, setup),
        cmocka_unit_test_setup(test_in_memory, setup),
        cmocka_unit_test_setup(test_write_ahead, setup),
        cmocka_unit_test_setup(test_conflict, setup),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
