/*
 * Where an archive ends, and its tail, with every call failing once: either that is told, or the
 * answer is right. An archive of segments of 1 MB, in all that it may have: plain and compressed,
 * complete, damaged and partial ones.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "fault.h"
#include "support/compressed.h"
#include "support/temp_dir.h"
#include "support/wal_builder.h"
#include "walrecv/walrecv.h"

#define MB           ((uint32_t)1 << 20)
#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define SYSTEM_ID    7710238945929971264u

#define START_3 ((Lsn)3 * MB)
#define START_4 ((Lsn)4 * MB)
#define PART_4  ((Lsn)700000) /* of the fourth segment */

typedef struct Fixture {
    TempDir dir;
    WalBuilder wal;
    Lsn end; /* of the last record in PART_4 */
    size_t skipped;
} Fixture;

static void
note_skipped(void *ctx, const char *path, const char *reason)
{
    Fixture *fixture = ctx;
    bool before = fault_suspend();

    assert_non_null(strstr(path, "/000000010000000000000003"));
    assert_string_equal(reason, "size is 1, expected 1048576");
    fixture->skipped++;
    fault_resume(before);
}

/* Up to where it was read, or to its end. */
static bool
read_tail(const Fixture *fixture, WalTail *tail, Lsn *at, Error *err)
{
    Span bytes = {.len = 1};

    while (tail != NULL && bytes.len > 0) {
        bool before;

        if (!wal_tail_next(tail, &bytes, err))
            return false;
        before = fault_suspend();
        fault_assert(*at + bytes.len <= fixture->end, "more than there is");
        if (bytes.len > 0)
            assert_memory_equal(
                bytes.data, wal_builder_span(&fixture->wal, *at, *at + bytes.len).data, bytes.len);
        *at += bytes.len;
        fault_resume(before);
    }
    return true;
}

static bool
run(void *ctx, const FaultPlan *plan)
{
    Fixture *fixture = ctx;
    WalResumeConfig config = {.directory = fixture->dir.path,
                              .segment_size = MB,
                              .skipped = note_skipped,
                              .ctx = fixture};
    WalResume resume = {.start = 99};
    WalTail *tail = NULL;
    Error err = ERROR_INIT;
    Lsn at = START_3;
    FaultHit hit;
    bool found;
    bool ok;

    fixture->skipped = 0;
    fault_begin(plan);
    found = wal_resume_find(&config, &resume, &tail, &err);
    ok = found && read_tail(fixture, tail, &at, &err);
    wal_tail_free(tail);
    fault_end(&hit);
    fault_assert_ending(plan, &hit, ok, &err);
    fault_assert_nothing_left();
    if (!found)
        fault_assert(resume.start == 99 && tail == NULL, "an answer in spite of a failure");
    else if (plan->errnum != ENOENT || !hit.fired)
        fault_assert(resume.found && resume.start == START_3 && resume.end == fixture->end &&
                         resume.timeline == 1 && resume.system_id == SYSTEM_ID &&
                         fixture->skipped == 1,
                     "goes on at " LSN_FORMAT, LSN_ARGS(resume.end));
    if (ok)
        fault_assert(at == resume.end || tail == NULL, "a tail up to " LSN_FORMAT, LSN_ARGS(at));
    return hit.fired;
}

static const FaultPlan plans[] = {
    {.kind = FAULT_MEMORY, .errnum = ENOMEM, .least = 60},
    {.kind = FAULT_MEMORY, .errnum = ENOMEM, .lasting = true, .least = 60},
    {.kind = FAULT_OPEN, .errnum = EACCES, .least = 8},
    {.kind = FAULT_OPEN, .errnum = EMFILE, .lasting = true, .least = 8},
    {.kind = FAULT_READ, .errnum = EIO, .least = 30},
    {.kind = FAULT_READ, .errnum = EIO, .lasting = true, .least = 30},
    {.kind = FAULT_READ, .errnum = FAULT_SHORT, .outcome = FAULT_PASSES, .least = 30},
    {.kind = FAULT_STAT, .errnum = EIO, .least = 8},
    {.kind = FAULT_CLOSE, .errnum = EIO, .outcome = FAULT_PASSES, .least = 8},
};

static void
test_everything_fails(void **state)
{
    fault_sweep(plans, COUNT(plans), run, *state);
}

/* A file that is gone when it is opened was never there, or was removed: then what is found lies
 * before it. */
static bool
run_vanishing(void *ctx, const FaultPlan *plan)
{
    Fixture *fixture = ctx;
    WalResumeConfig config = {.directory = fixture->dir.path, .segment_size = MB};
    WalResume resume = {.start = 99};
    WalTail *tail = NULL;
    Error err = ERROR_INIT;
    FaultHit hit;
    bool ok;

    fault_begin(plan);
    ok = wal_resume_find(&config, &resume, &tail, &err);
    wal_tail_free(tail);
    fault_end(&hit);
    fault_assert_nothing_left();
    fault_assert(ok || hit.fired, "failed without a fault: %s", err.message);
    fault_assert(ok || err.sys_errno == ENOENT, "got the error \"%s\"", err.message);
    fault_assert(!ok || (resume.found && resume.start <= START_3 && resume.end <= fixture->end),
                 "goes on at " LSN_FORMAT, LSN_ARGS(resume.end));
    return hit.fired;
}

static void
test_files_vanish(void **state)
{
    static const FaultPlan vanishing[] = {
        {.kind = FAULT_OPEN, .errnum = ENOENT, .outcome = FAULT_EITHER, .least = 8}};

    fault_sweep(vanishing, COUNT(vanishing), run_vanishing, *state);
}

static void
put(Fixture *fixture, const char *name, CompressionMethod method, Lsn from, Lsn to)
{
    Span bytes = wal_builder_span(&fixture->wal, from, to);
    Buf packed;

    if (method == COMPRESSION_NONE) {
        temp_dir_write(&fixture->dir, name, bytes.data, bytes.len);
        return;
    }
    packed = compressed_open(method, bytes);
    if (to - from == MB) {
        buf_free(&packed);
        packed = compressed(method, bytes);
    }
    temp_dir_write(&fixture->dir, name, packed.data, packed.len);
    buf_free(&packed);
}

static int
setup(void **state)
{
    static Fixture fixture;
    WalBuilderConfig config = {
        .magic = 0xD118, .timeline = 1, .system_id = SYSTEM_ID, .segment_size = MB, .start = MB};

    temp_dir_make(&fixture.dir);
    wal_builder_init(&fixture.wal, &config);
    while (fixture.wal.end < START_4 + PART_4) {
        fixture.end = fixture.wal.end;
        (void)wal_builder_record(&fixture.wal, 10, 0, 5003);
    }
    put(&fixture, "000000010000000000000001", COMPRESSION_NONE, MB, 2 * (Lsn)MB);
    put(&fixture, "000000010000000000000002.gz", COMPRESSION_GZIP, 2 * (Lsn)MB, START_3);
    put(&fixture, "000000010000000000000003", COMPRESSION_NONE, START_3, START_3 + 1);
    put(&fixture, "000000010000000000000003.partial", COMPRESSION_NONE, START_3, START_4);
    put(&fixture, "000000010000000000000004.partial", COMPRESSION_NONE, START_4, START_4 + 10000);
    put(&fixture, "000000010000000000000004.lz4.partial", COMPRESSION_LZ4, START_4,
        START_4 + PART_4);
    put(&fixture, "000000010000000000000004.zst.partial", COMPRESSION_ZSTD, START_4,
        START_4 + 50000);
    *state = &fixture;
    return 0;
}

static int
teardown(void **state)
{
    Fixture *fixture = *state;

    wal_builder_free(&fixture->wal);
    temp_dir_remove(&fixture->dir);
    return 0;
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_everything_fails, setup, teardown),
        cmocka_unit_test_setup_teardown(test_files_vanish, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
