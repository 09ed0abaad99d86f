/*
 * A segment into an archive and out of it, with every call failing once: either that is told, and
 * nothing has its name, or it is there, and what was archived is on disk.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "archive/archive.h"
#include "common/file.h"
#include "disk.h"
#include "fault.h"
#include "support/temp_dir.h"
#include "support/wal_builder.h"

#define MB           ((uint32_t)1 << 20)
#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define NAME         "000000010000000000000001"

typedef struct Fixture {
    TempDir dir;
    WalBuilder wal;
    CompressionMethod method;
} Fixture;

static void
clear(Fixture *fixture, const char *name)
{
    (void)unlink(temp_dir_path(&fixture->dir, name));
}

/* ---- push ---- */

static const char *
archived_name(const Fixture *fixture)
{
    return fixture->method == COMPRESSION_NONE ? "archive/" NAME : "archive/" NAME ".zst";
}

static void
assert_pushed(Fixture *fixture, bool ok)
{
    const char *path = temp_dir_path(&fixture->dir, archived_name(fixture));
    bool there = temp_dir_exists(&fixture->dir, archived_name(fixture));

    fault_assert(!temp_dir_exists(&fixture->dir, "archive/" NAME ".push.tmp"), "a temporary file");
    fault_assert(!ok || there, "not there in spite of success");
    fault_assert(!ok || (disk_content_safe(path) && disk_name_safe(path)), "not on disk");
    /* Its name may not be, but that is no half of a file. */
    fault_assert(!there || disk_content_safe(path), "a name for what is not on disk");
}

static bool
run_push(void *ctx, const FaultPlan *plan)
{
    Fixture *fixture = ctx;
    const ArchivePush push = {.path = temp_dir_path(&fixture->dir, "wal/" NAME),
                              .directory = temp_dir_path(&fixture->dir, "archive"),
                              .compression = {.method = fixture->method, .level = 3}};
    ArchivePushed pushed;
    Error err = ERROR_INIT;
    FaultHit hit;
    bool ok;

    clear(fixture, archived_name(fixture));
    disk_reset();
    fault_begin(plan);
    ok = archive_push(&push, &pushed, &err);
    fault_end(&hit);
    fault_assert_ending(plan, &hit, ok, &err);
    fault_assert_nothing_left();
    assert_pushed(fixture, ok);
    if (ok)
        return hit.fired;
    /* The server tries again. */
    err = ERROR_INIT;
    fault_assert(archive_push(&push, &pushed, &err), "not the second time: %s", err.message);
    return hit.fired;
}

static const FaultPlan push_plans[] = {
    {.kind = FAULT_MEMORY, .errnum = ENOMEM, .least = 10},
    {.kind = FAULT_MEMORY, .errnum = ENOMEM, .lasting = true, .least = 10},
    {.kind = FAULT_OPEN, .errnum = EACCES, .least = 3},
    {.kind = FAULT_OPEN, .errnum = EMFILE, .lasting = true, .least = 3},
    {.kind = FAULT_READ, .errnum = EIO, .least = 8},
    {.kind = FAULT_READ, .errnum = FAULT_SHORT, .outcome = FAULT_PASSES, .least = 8},
    {.kind = FAULT_WRITE, .errnum = ENOSPC, .least = 1},
    {.kind = FAULT_WRITE, .errnum = FAULT_SHORT, .outcome = FAULT_PASSES, .least = 1},
    {.kind = FAULT_SYNC, .errnum = EIO, .least = 2},
    {.kind = FAULT_SYNC, .errnum = EIO, .lasting = true, .least = 2},
    {.kind = FAULT_MAKE, .errnum = EACCES, .least = 1},
    /* A file system without hard links. */
    {.kind = FAULT_MAKE, .errnum = EPERM, .outcome = FAULT_PASSES, .least = 1},
    /* Whether a descriptor is a pipe need not be known. */
    {.kind = FAULT_STAT, .errnum = EIO, .outcome = FAULT_EITHER, .least = 5},
    {.kind = FAULT_MODE, .errnum = EPERM, .least = 1},
    {.kind = FAULT_TRUNCATE, .errnum = EIO, .least = 1},
};

static void
test_push(void **state)
{
    Fixture *fixture = *state;

    fixture->method = COMPRESSION_NONE;
    fault_sweep(push_plans, COUNT(push_plans), run_push, fixture);
    clear(fixture, archived_name(fixture));
    fixture->method = COMPRESSION_ZSTD;
    fault_sweep(push_plans, COUNT(push_plans), run_push, fixture);
    clear(fixture, archived_name(fixture));
}

/* ---- push ahead ---- */

#define NEXT   "000000010000000000000002"
#define STATUS "wal/archive_status"

typedef struct Ahead {
    ArchivePush push;
    ArchiveAhead ahead;
} Ahead;

static void
ahead_init(Ahead *it, Fixture *fixture, const char *asked)
{
    it->push = (ArchivePush){.path = temp_dir_path(&fixture->dir, asked),
                             .directory = temp_dir_path(&fixture->dir, "archive")};
    it->ahead = (ArchiveAhead){.push = &it->push,
                               .spool = temp_dir_path(&fixture->dir, "spool"),
                               .count = 4,
                               .threads = 1};
}

static bool
push_next_ahead(const ArchiveAhead *ahead, Error *err)
{
    int lock = -1;
    bool ok = archive_ahead_open(ahead, &lock, err);

    if (ok && lock < 0)
        ok = error_set(err, ERR_BUG, "somebody else is at it");
    ok = ok && archive_ahead(ahead, err);
    file_close_quietly(lock);
    return ok;
}

static void
assert_next_is_safe(Fixture *fixture)
{
    const char *path = temp_dir_path(&fixture->dir, "archive/" NEXT);

    fault_assert(temp_dir_exists(&fixture->dir, "archive/" NEXT), "not there in spite of success");
    fault_assert(disk_content_safe(path) && disk_name_safe(path), "not on disk");
}

/* Whatever fails, the server is told of what is on disk. */
static bool
run_ahead(void *ctx, const FaultPlan *plan)
{
    Fixture *fixture = ctx;
    Ahead it;
    ArchivePushed pushed;
    Error err = ERROR_INIT;
    Error trouble = ERROR_INIT;
    FaultHit hit;
    bool ok;

    ahead_init(&it, fixture, "wal/" NAME);
    clear(fixture, "archive/" NEXT);
    fault_assert(dir_remove(it.ahead.spool, &err), "%s", err.message);
    disk_reset();
    fault_begin(plan);
    ok = push_next_ahead(&it.ahead, &err);
    fault_end(&hit);
    fault_assert_ending(plan, &hit, ok, &err);
    fault_assert_nothing_left();
    err = ERROR_INIT;
    ahead_init(&it, fixture, "wal/" NEXT);
    fault_assert(archive_push_noted(&it.ahead, &pushed, &trouble, &err), "%s", err.message);
    fault_assert(!ok || pushed == ARCHIVE_WAS_NOTED || plan->outcome == FAULT_EITHER, "no note");
    assert_next_is_safe(fixture);
    return hit.fired;
}

/* Nor does a note that was written keep it from being told the truth. */
static bool
run_noted(void *ctx, const FaultPlan *plan)
{
    Fixture *fixture = ctx;
    Ahead it;
    ArchivePushed pushed;
    Error err = ERROR_INIT;
    Error trouble = ERROR_INIT;
    FaultHit hit;
    bool ok;

    ahead_init(&it, fixture, "wal/" NAME);
    clear(fixture, "archive/" NEXT);
    fault_assert(dir_remove(it.ahead.spool, &err), "%s", err.message);
    disk_reset();
    fault_assert(push_next_ahead(&it.ahead, &err), "%s", err.message);
    ahead_init(&it, fixture, "wal/" NEXT);
    fault_begin(plan);
    ok = archive_push_noted(&it.ahead, &pushed, &trouble, &err);
    fault_end(&hit);
    fault_assert_ending(plan, &hit, ok, &err);
    fault_assert_nothing_left();
    if (ok)
        assert_next_is_safe(fixture);
    return hit.fired;
}

static const FaultPlan ahead_plans[] = {
    {.kind = FAULT_MEMORY, .errnum = ENOMEM, .outcome = FAULT_EITHER, .least = 20},
    {.kind = FAULT_OPEN, .errnum = EACCES, .outcome = FAULT_EITHER, .least = 8},
    {.kind = FAULT_OPEN, .errnum = EMFILE, .outcome = FAULT_EITHER, .lasting = true, .least = 8},
    {.kind = FAULT_READ, .errnum = EIO, .outcome = FAULT_EITHER, .least = 20},
    {.kind = FAULT_READ, .errnum = FAULT_SHORT, .outcome = FAULT_EITHER, .least = 20},
    {.kind = FAULT_WRITE, .errnum = ENOSPC, .least = 2},
    {.kind = FAULT_WRITE, .errnum = ENOSPC, .lasting = true, .least = 2},
    {.kind = FAULT_WRITE, .errnum = FAULT_SHORT, .outcome = FAULT_PASSES, .least = 2},
    {.kind = FAULT_SYNC, .errnum = EIO, .least = 2},
    {.kind = FAULT_MAKE, .errnum = EACCES, .least = 2},
    {.kind = FAULT_STAT, .errnum = EIO, .outcome = FAULT_EITHER, .least = 10},
    {.kind = FAULT_TRUNCATE, .errnum = EIO, .least = 2},
    {.kind = FAULT_RESOURCE, .errnum = EACCES, .outcome = FAULT_EITHER, .least = 2},
};

static const FaultPlan noted_plans[] = {
    {.kind = FAULT_MEMORY, .errnum = ENOMEM, .outcome = FAULT_EITHER, .least = 8},
    {.kind = FAULT_OPEN, .errnum = EACCES, .outcome = FAULT_EITHER, .least = 3},
    {.kind = FAULT_READ, .errnum = EIO, .outcome = FAULT_EITHER, .least = 8},
    {.kind = FAULT_READ, .errnum = FAULT_SHORT, .outcome = FAULT_PASSES, .least = 8},
    {.kind = FAULT_STAT, .errnum = EIO, .outcome = FAULT_EITHER, .least = 5},
    {.kind = FAULT_RESOURCE, .errnum = EACCES, .outcome = FAULT_PASSES, .least = 2},
};

static void
test_push_ahead(void **state)
{
    Fixture *fixture = *state;
    Span segment = wal_builder_span(&fixture->wal, 2 * (Lsn)MB, 3 * (Lsn)MB);

    temp_dir_mkdir(&fixture->dir, STATUS);
    temp_dir_write(&fixture->dir, "wal/" NEXT, segment.data, segment.len);
    temp_dir_write(&fixture->dir, STATUS "/" NEXT ".ready", "", 0);
    fault_sweep(ahead_plans, COUNT(ahead_plans), run_ahead, fixture);
    fault_sweep(noted_plans, COUNT(noted_plans), run_noted, fixture);
}

/* ---- a file that changes ---- */

static void
touch_when_synced(void *ctx, FaultKind kind, const char *path)
{
    bool before = fault_suspend();

    if (kind == FAULT_SYNC && strstr(path, ".push.tmp") != NULL)
        assert_int_equal(chmod(temp_dir_path(ctx, "wal/" NAME), 0640), 0);
    fault_resume(before);
}

/* The server has renamed it, and writes other WAL into it, when all of it was read. */
static void
test_changed(void **state)
{
    Fixture *fixture = *state;
    const ArchivePush push = {.path = temp_dir_path(&fixture->dir, "wal/" NAME),
                              .directory = temp_dir_path(&fixture->dir, "archive")};
    const FaultPlan none = {.kind = FAULT_SYNC, .at = SIZE_MAX};
    const FaultWatch watch = {.before = touch_when_synced, .ctx = &fixture->dir};
    ArchivePushed pushed;
    Error err = ERROR_INIT;
    FaultHit hit;
    bool ok;

    fault_watch(&watch);
    fault_begin(&none);
    ok = archive_push(&push, &pushed, &err);
    fault_end(&hit);
    fault_watch(NULL);
    assert_false(ok);
    assert_non_null(strstr(err.message, "has changed while it was archived"));
    assert_false(temp_dir_exists(&fixture->dir, "archive/" NAME));
    assert_false(temp_dir_exists(&fixture->dir, "archive/" NAME ".push.tmp"));
}

/* ---- fetch ---- */

static bool
run_fetch(void *ctx, const FaultPlan *plan)
{
    Fixture *fixture = ctx;
    const ArchiveFetch fetch = {.directory = temp_dir_path(&fixture->dir, "archive"),
                                .name = NAME,
                                .path = temp_dir_path(&fixture->dir, "wal/RECOVERYXLOG")};
    ArchiveFetched fetched = {.found = false};
    Error err = ERROR_INIT;
    FaultHit hit;
    bool ok;

    clear(fixture, "wal/RECOVERYXLOG");
    fault_begin(plan);
    ok = archive_fetch(&fetch, &fetched, &err);
    fault_end(&hit);
    fault_assert_ending(plan, &hit, ok, &err);
    fault_assert_nothing_left();
    /* Least of all may it look as if the archive had ended. */
    fault_assert(!ok || fetched.found, "not found");
    fault_assert(temp_dir_exists(&fixture->dir, "wal/RECOVERYXLOG") || !ok, "not there");
    fault_assert(!temp_dir_exists(&fixture->dir, "wal/RECOVERYXLOG.pgstow.tmp"), "left");
    return hit.fired;
}

static const FaultPlan fetch_plans[] = {
    {.kind = FAULT_MEMORY, .errnum = ENOMEM, .least = 8},
    {.kind = FAULT_MEMORY, .errnum = ENOMEM, .lasting = true, .least = 8},
    {.kind = FAULT_OPEN, .errnum = EACCES, .least = 2},
    {.kind = FAULT_OPEN, .errnum = EMFILE, .lasting = true, .least = 2},
    {.kind = FAULT_READ, .errnum = EIO, .least = 2},
    {.kind = FAULT_READ, .errnum = FAULT_SHORT, .outcome = FAULT_PASSES, .least = 2},
    {.kind = FAULT_WRITE, .errnum = ENOSPC, .least = 1},
    {.kind = FAULT_WRITE, .errnum = FAULT_SHORT, .outcome = FAULT_PASSES, .least = 1},
    {.kind = FAULT_RENAME, .errnum = EIO, .least = 1},
    {.kind = FAULT_STAT, .errnum = EIO, .least = 5},
    {.kind = FAULT_MODE, .errnum = EPERM, .least = 1},
    {.kind = FAULT_TRUNCATE, .errnum = EIO, .least = 1},
};

static void
test_fetch(void **state)
{
    Fixture *fixture = *state;
    const CompressionMethod methods[] = {COMPRESSION_NONE, COMPRESSION_ZSTD};

    for (size_t i = 0; i < COUNT(methods); i++) {
        const ArchivePush push = {.path = temp_dir_path(&fixture->dir, "wal/" NAME),
                                  .directory = temp_dir_path(&fixture->dir, "archive"),
                                  .compression = {.method = methods[i], .level = 3}};
        ArchivePushed pushed;
        Error err = ERROR_INIT;

        fixture->method = methods[i];
        assert_true(archive_push(&push, &pushed, &err));
        fault_sweep(fetch_plans, COUNT(fetch_plans), run_fetch, fixture);
        clear(fixture, archived_name(fixture));
    }
}

static int
setup(void **state)
{
    static Fixture fixture;
    const WalBuilderConfig config = {
        .magic = 0xD118, .timeline = 1, .system_id = 7, .segment_size = MB, .start = MB};
    Span segment;

    temp_dir_make(&fixture.dir);
    temp_dir_mkdir(&fixture.dir, "archive");
    temp_dir_mkdir(&fixture.dir, "wal");
    wal_builder_init(&fixture.wal, &config);
    while (fixture.wal.end < 3 * (Lsn)MB)
        (void)wal_builder_record(&fixture.wal, 10, 0, 5003);
    segment = wal_builder_span(&fixture.wal, MB, 2 * (Lsn)MB);
    temp_dir_write(&fixture.dir, "wal/" NAME, segment.data, segment.len);
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
        cmocka_unit_test_setup_teardown(test_push, setup, teardown),
        cmocka_unit_test_setup_teardown(test_push_ahead, setup, teardown),
        cmocka_unit_test_setup_teardown(test_changed, setup, teardown),
        cmocka_unit_test_setup_teardown(test_fetch, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
