/*
 * A small archive through tar_reader, ledger, handoff and extract, with every call failing once and
 * from some call on.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "disk.h"
#include "fault.h"
#include "stream/stream.h"
#include "support/tar_builder.h"
#include "support/temp_dir.h"
#include "verify/verify.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

#define TABLESPACE ((Oid)16385)
#define LARGE_SIZE ((size_t)40000)
#define MANY_SIZE  ((size_t)100000)
#define HUGE_SIZE  ((size_t)2300077) /* written past the page cache, and not in whole units */

typedef struct Fixture {
    TempDir dir;
    Buf base;
    Buf space;
    uint8_t large[LARGE_SIZE];
    uint8_t huge[HUGE_SIZE];
    SyncMethod sync;
    const char *base_root;
    const char *space_root;
} Fixture;

/* ---- the archives ---- */

static void
build(Fixture *fixture)
{
    for (size_t i = 0; i < LARGE_SIZE; i++)
        fixture->large[i] = (uint8_t)(i * 31 + i / 251);
    for (size_t i = 0; i < HUGE_SIZE; i++)
        fixture->huge[i] = (uint8_t)(i * 37 + i / 241);
    tar_add(&fixture->base, &(TarMember){TAR_FILE("PG_VERSION", "18\n")});
    tar_add(&fixture->base, &(TarMember){TAR_DIRECTORY("global")});
    tar_add(&fixture->base, &(TarMember){TAR_FILE("global/1260", "roles")});
    tar_add(&fixture->base, &(TarMember){TAR_FILE("global/empty", "")});
    tar_add(&fixture->base, &(TarMember){TAR_DIRECTORY("base/1")});
    tar_add(&fixture->base, &(TarMember){.name = "base/1/1259",
                                         .data = fixture->large,
                                         .size = LARGE_SIZE,
                                         .mode = 0640}); /* the umask takes something */
    if (fixture->sync == SYNC_FSYNC)
        tar_add(&fixture->base,
                &(TarMember){.name = "base/1/2619", .data = fixture->huge, .size = HUGE_SIZE});
    tar_add(&fixture->base, &(TarMember){TAR_DIRECTORY("pg_tblspc")});
    tar_add(&fixture->base, &(TarMember){TAR_SYMLINK("pg_tblspc/16385", "/origin")});
    tar_end(&fixture->base);

    tar_add(&fixture->space, &(TarMember){TAR_FILE("PG_18/5/16400", "table")});
    tar_end(&fixture->space);
}

static const char *
root_of(void *ctx, Oid tablespace)
{
    const Fixture *fixture = ctx;

    if (tablespace == 0)
        return fixture->base_root;
    return tablespace == TABLESPACE ? fixture->space_root : NULL;
}

static const char *
link_target(void *ctx, Oid tablespace, const char *target)
{
    (void)target;
    return root_of(ctx, tablespace);
}

/* ---- a run ---- */

static Sink *
make_chain(Fixture *fixture, Ledger *ledger, Error *err)
{
    const ExtractConfig extract = {.root = root_of,
                                   .link_target = link_target,
                                   .ctx = fixture,
                                   .sync = fixture->sync,
                                   .directory_mode = 0700};
    /* So small that the ring is full now and then. */
    const size_t block = fixture->sync == SYNC_FSYNC ? 65536 : 4096;
    const HandoffConfig handoff = {.block_size = block, .block_count = 2};
    Sink *sink = handoff_new(extract_new(&extract, err), &handoff, err);

    sink = ledger_stage_new(ledger, sink, err);
    return tar_reader_new(sink, TAR_END_REQUIRED, err);
}

/* In pieces, as a server sends them. */
static bool
push_archive(Sink *sink, const Archive *archive, Span tar, size_t piece, Error *err)
{
    bool ok = sink_archive_begin(sink, archive, err);

    while (ok && tar.len > 0) {
        Span part = {.data = tar.data, .len = tar.len < piece ? tar.len : piece};

        ok = sink_data(sink, part, err);
        tar.data += part.len;
        tar.len -= part.len;
    }
    return ok && sink_archive_end(sink, err);
}

static bool
push_all(const Fixture *fixture, Sink *sink, Error *err)
{
    const Archive space = {.name = "16385.tar", .tablespace = TABLESPACE};
    const Archive base = {.name = "base.tar"};

    return push_archive(sink, &space, tar_span(&fixture->space), 700, err) &&
           push_archive(sink, &base, tar_span(&fixture->base),
                        fixture->sync == SYNC_FSYNC ? 30000 : 3000, err) &&
           sink_finish(sink, err);
}

/* A sink that has failed goes on failing, with the same words. */
static void
assert_dead(Sink *sink, const Error *err)
{
    Error again = ERROR_INIT;

    fault_assert(!sink_finish(sink, &again), "a dead sink finished");
    fault_assert(strcmp(again.message, err->message) == 0, "it died of \"%s\", and then of \"%s\"",
                 err->message, again.message);
}

static bool
extract_all(Fixture *fixture, uint64_t *ret_files, Error *err)
{
    Ledger *ledger = ledger_new(CHECKSUM_SHA256, err);
    Sink *sink;
    bool ok;

    if (ledger == NULL)
        return false;
    sink = make_chain(fixture, ledger, err);
    ok = sink != NULL && push_all(fixture, sink, err);
    if (!ok && sink != NULL)
        assert_dead(sink, err);
    *ret_files = ledger_file_count(ledger);
    sink_free(sink);
    ledger_free(ledger);
    return ok;
}

/* ---- what is there in the end ---- */

static void
assert_content(Fixture *fixture, const char *name, const void *expected, size_t len)
{
    Buf content = temp_dir_read(&fixture->dir, name);

    fault_assert(content.len == len && memcmp(content.data, expected, len) == 0,
                 "\"%s\" has another content", name);
    buf_free(&content);
}

static void
assert_extracted(Fixture *fixture)
{
    char target[512];
    ssize_t len;

    assert_content(fixture, "base/PG_VERSION", "18\n", 3);
    assert_content(fixture, "base/global/1260", "roles", 5);
    assert_content(fixture, "base/global/empty", "", 0);
    assert_content(fixture, "base/base/1/1259", fixture->large, LARGE_SIZE);
    if (fixture->sync == SYNC_FSYNC)
        assert_content(fixture, "base/base/1/2619", fixture->huge, HUGE_SIZE);
    assert_content(fixture, "space/PG_18/5/16400", "table", 5);
    len = readlink(temp_dir_path(&fixture->dir, "base/pg_tblspc/16385"), target, sizeof target - 1);
    target[len < 0 ? 0 : len] = '\0';
    fault_assert(strcmp(target, fixture->space_root) == 0, "the link leads to \"%s\"", target);
}

/* In parts: what is written is below the roots and no more than the archive has. */
static void
assert_nothing_strange(Fixture *fixture)
{
    const char *large = temp_dir_path(&fixture->dir, "base/base/1/1259");
    struct stat st;

    fault_assert(stat(large, &st) != 0 || (size_t)st.st_size <= LARGE_SIZE, "\"%s\" has grown",
                 large);
    fault_assert(!temp_dir_exists(&fixture->dir, "origin"), "the link's target was made");
}

static bool
run(void *ctx, const FaultPlan *plan)
{
    Fixture *fixture = ctx;
    Error err = ERROR_INIT;
    uint64_t files = 0;
    FaultHit hit;
    bool ok;

    temp_dir_make(&fixture->dir);
    temp_dir_mkdir(&fixture->dir, "base");
    temp_dir_mkdir(&fixture->dir, "space");
    fixture->base_root = temp_dir_path(&fixture->dir, "base");
    fixture->space_root = temp_dir_path(&fixture->dir, "space");

    fault_begin(plan);
    ok = extract_all(fixture, &files, &err);
    fault_end(&hit);

    fault_assert_ending(plan, &hit, ok, &err);
    fault_assert_nothing_left();
    if (ok) {
        assert_extracted(fixture);
        fault_assert(files == (fixture->sync == SYNC_FSYNC ? 6 : 5), "the ledger has %llu files",
                     (unsigned long long)files);
    } else {
        assert_nothing_strange(fixture);
    }
    if (ok && fixture->sync == SYNC_FSYNC) {
        const char *unsafe = disk_unsafe(fixture->dir.path, "");

        fault_assert(unsafe[0] == '\0', "\"%s\" is not on disk", unsafe);
    }
    temp_dir_remove(&fixture->dir);
    return hit.fired;
}

/* ---- the faults ---- */

static const FaultPlan plans[] = {
    {.kind = FAULT_MEMORY, .errnum = ENOMEM, .least = 25},
    {.kind = FAULT_MEMORY, .errnum = ENOMEM, .lasting = true, .least = 25},
    {.kind = FAULT_OPEN, .errnum = EMFILE, .least = 12},
    {.kind = FAULT_OPEN, .errnum = EMFILE, .lasting = true, .least = 12},
    {.kind = FAULT_WRITE, .errnum = ENOSPC, .least = 4},
    {.kind = FAULT_WRITE, .errnum = ENOSPC, .lasting = true, .least = 4},
    {.kind = FAULT_WRITE, .errnum = EINTR, .outcome = FAULT_PASSES, .least = 4},
    {.kind = FAULT_WRITE, .errnum = FAULT_SHORT, .outcome = FAULT_PASSES, .least = 4},
    {.kind = FAULT_CLOSE, .errnum = EIO, .outcome = FAULT_EITHER, .least = 10},
    {.kind = FAULT_CLOSE, .errnum = EINTR, .outcome = FAULT_PASSES, .least = 10},
    {.kind = FAULT_MAKE, .errnum = ENOSPC, .least = 6},
    {.kind = FAULT_MODE, .errnum = EPERM, .least = 6},
    {.kind = FAULT_STAT, .errnum = EIO, .least = 5},
    {.kind = FAULT_THREAD, .errnum = EAGAIN, .least = 1},
    {.kind = FAULT_RESOURCE, .errnum = EMFILE, .outcome = FAULT_EITHER, .least = 1},
};

/* What only a durable extract does. */
static const FaultPlan durable_plans[] = {
    /* A directory that holds ours but cannot be read: the whole file system is synced. */
    {.kind = FAULT_OPEN, .errnum = EACCES, .outcome = FAULT_EITHER, .least = 12},
    {.kind = FAULT_SYNC, .errnum = EIO, .least = 13},
    {.kind = FAULT_SYNC, .errnum = EIO, .lasting = true, .least = 13},
    {.kind = FAULT_READ, .errnum = EIO, .least = 10},
    /* The file system writes nothing past its cache after all. */
    {.kind = FAULT_WRITE, .errnum = EINVAL, .outcome = FAULT_EITHER, .least = 4},
    {.kind = FAULT_RESERVE, .errnum = ENOSPC, .least = 1},
    {.kind = FAULT_RESERVE, .errnum = EOPNOTSUPP, .outcome = FAULT_PASSES, .least = 1},
    {.kind = FAULT_RESERVE, .errnum = EINTR, .outcome = FAULT_PASSES, .least = 1},
    {.kind = FAULT_TRUNCATE, .errnum = EIO, .least = 1},
};

static void
test_durable(void **state)
{
    Fixture *fixture = *state;

    fault_sweep(plans, COUNT(plans), run, fixture);
    fault_sweep(durable_plans, COUNT(durable_plans), run, fixture);
}

/* ---- many files ---- */

/* 1000 are synced singly; there is a syncfs on the way, and one at the end. */
#define MANY 1800

bool __wrap_durable_tells_failures(int fd);

bool
__wrap_durable_tells_failures(int fd)
{
    (void)fd;
    return true;
}

static bool
push_many(const Fixture *fixture, Sink *sink, Error *err)
{
    const Archive base = {.name = "base.tar"};
    bool ok = sink_archive_begin(sink, &base, err);

    for (unsigned i = 0; ok && i < MANY; i++) {
        char name[32];
        const Entry entry = {.kind = ENTRY_FILE, .path = name, .size = MANY_SIZE, .mode = 0600};

        (void)snprintf(name, sizeof name, "base/%u/%u", i / 450, i);
        ok = sink_entry_begin(sink, &entry, err) &&
             sink_data(sink, (Span){.data = fixture->huge, .len = MANY_SIZE}, err) &&
             sink_entry_end(sink, true, err);
    }
    return ok && sink_archive_end(sink, err) && sink_finish(sink, err);
}

/* Whichever sync it is that fails, nobody is told success; and all is on disk when none does. */
static bool
run_many(void *ctx, const FaultPlan *plan)
{
    Fixture *fixture = ctx;
    Error err = ERROR_INIT;
    Sink *sink;
    FaultHit hit;
    bool ok;

    temp_dir_make(&fixture->dir);
    temp_dir_mkdir(&fixture->dir, "base");
    fixture->base_root = temp_dir_path(&fixture->dir, "base");
    fault_begin(plan);
    sink = extract_new(
        &(ExtractConfig){
            .root = root_of, .ctx = fixture, .sync = SYNC_BEST, .directory_mode = 0700},
        &err);
    ok = sink != NULL && push_many(fixture, sink, &err);
    sink_free(sink);
    fault_end(&hit);
    fault_assert_ending(plan, &hit, ok, &err);
    fault_assert_nothing_left();
    if (ok) {
        const char *unsafe = disk_unsafe(fixture->dir.path, "");

        fault_assert(unsafe[0] == '\0', "\"%s\" is not on disk", unsafe);
    }
    temp_dir_remove(&fixture->dir);
    return hit.fired;
}

static void
test_many_files(void **state)
{
    for (size_t at = 1; at <= 1004; at = at == 1 ? 1000 : at + 1) {
        const FaultPlan plan = {.kind = FAULT_SYNC, .errnum = EIO, .at = at};

        assert_int_equal(run_many(*state, &plan), at <= 1003); /* the last one is the parent's */
    }
}

static void
test_no_sync(void **state)
{
    Fixture *fixture = *state;

    fault_sweep(plans, COUNT(plans), run, fixture);
}

static void
setup(void **state, SyncMethod sync)
{
    static Fixture fixture;

    (void)umask(077);
    fixture = (Fixture){.base = BUF_INIT, .space = BUF_INIT, .sync = sync};
    build(&fixture);
    *state = &fixture;
}

static int
setup_durable(void **state)
{
    setup(state, SYNC_FSYNC);
    return 0;
}

static int
setup_no_sync(void **state)
{
    setup(state, SYNC_NONE);
    return 0;
}

static int
teardown(void **state)
{
    Fixture *fixture = *state;

    buf_free(&fixture->base);
    buf_free(&fixture->space);
    return 0;
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_durable, setup_durable, teardown),
        cmocka_unit_test_setup_teardown(test_many_files, setup_durable, teardown),
        cmocka_unit_test_setup_teardown(test_no_sync, setup_no_sync, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
