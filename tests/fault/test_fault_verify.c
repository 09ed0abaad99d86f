/*
 * A small backup is verified with every call failing once and from some call on: what could not be
 * looked at is an Error or a Problem, never "verified". A good backup shows that nothing is passed
 * over, a damaged one that no fault hides the damage.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/crc32c.h"
#include "fault.h"
#include "manifest/page_digests.h"
#include "pgformat/walfile.h"
#include "support/manifest_builder.h"
#include "support/temp_dir.h"
#include "support/wal_builder.h"
#include "verify/verify.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

#define SYSTEM_ID    UINT64_C(7000000000000000001)
#define SEGMENT_SIZE (1u << 20)
#define START        ((Lsn)3 * SEGMENT_SIZE)
#define CONTROL_SIZE 8192

typedef struct Fixture {
    TempDir dir;
    WalBuilder wal;
    bool damaged;
    bool pages; /* of a cluster are looked at, not a backup */
    /* What the last run told. */
    uint64_t told;
    char first[1024]; /* the first problem's message */
} Fixture;

/* ---- the backup ---- */

static void
put_le(uint8_t *at, uint64_t value, size_t size)
{
    for (size_t i = 0; i < size; i++)
        at[i] = (uint8_t)(value >> 8 * i);
}

/* pg_control of a server 18, as far as anybody looks at it. */
static void
build_control(uint8_t control[CONTROL_SIZE])
{
    const size_t crc_at = 292;

    memset(control, 0, CONTROL_SIZE);
    put_le(control, SYSTEM_ID, 8);
    put_le(control + 8, 1800, 4);
    put_le(control + 216, 8192, 4);   /* block size */
    put_le(control + 220, 131072, 4); /* blocks of a relation's segment */
    put_le(control + 224, 8192, 4);   /* WAL block size */
    put_le(control + 16, 1, 4);       /* it was shut down */
    put_le(control + 228, SEGMENT_SIZE, 4);
    put_le(control + 252, 1, 4); /* pages have checksums */
    put_le(control + crc_at, crc32c(0, control, crc_at), 4);
}

/* On disk and in the manifest. */
static void
put_file(Fixture *fixture, ManifestBuilder *builder, const char *path, const void *data, size_t len,
         ChecksumType type)
{
    char place[128];

    (void)snprintf(place, sizeof place, "data/%s", path);
    temp_dir_write(&fixture->dir, place, data, len);
    manifest_builder_file(builder, path, data, len, type);
}

static void
put_segment(Fixture *fixture, uint64_t number)
{
    const Lsn start = wal_segment_start(number, SEGMENT_SIZE);
    const Span bytes = wal_builder_span(&fixture->wal, start, start + SEGMENT_SIZE);
    char name[WAL_NAME_SIZE];
    char place[128];

    wal_segment_name(name, 1, number, SEGMENT_SIZE);
    (void)snprintf(place, sizeof place, "data/pg_wal/%s", name);
    temp_dir_write(&fixture->dir, place, bytes.data, bytes.len);
}

/* Two segments. The range begins within the first: its page header counts nevertheless. */
static void
put_wal(Fixture *fixture, ManifestBuilder *builder)
{
    WalBuilder *wal = &fixture->wal;
    Lsn start;

    wal_builder_init(wal, &(WalBuilderConfig){.magic = 0xD118,
                                              .timeline = 1,
                                              .system_id = SYSTEM_ID,
                                              .segment_size = SEGMENT_SIZE,
                                              .start = START});
    while (wal->end < START + SEGMENT_SIZE - 40000)
        (void)wal_builder_record(wal, 10, 0, 30000);
    start = wal_builder_record(wal, 10, 0, 3000);
    while (wal->end < START + SEGMENT_SIZE + 20000)
        (void)wal_builder_record(wal, 10, 0, 10000);
    manifest_builder_wal_range(builder, 1, start, wal->end);
    wal_builder_zero(wal, START + (Lsn)2 * SEGMENT_SIZE);
    if (fixture->damaged) /* the first segment is another cluster's: its page header says so */
        *wal_builder_at(wal, START + 24) ^= 1;
    put_segment(fixture, START / SEGMENT_SIZE);
    put_segment(fixture, START / SEGMENT_SIZE + 1);
}

/* Of a file that the manifest lists. */
static void
put_digests(Fixture *fixture, const char *path, const void *page)
{
    PageDigestWriter *writer;
    Error err = ERROR_INIT;

    writer = page_digest_writer_new(temp_dir_path(&fixture->dir, "data/backup_pages"), 0600,
                                    CONTROL_SIZE, &err);
    assert_non_null(writer);
    assert_true(page_digest_writer_begin(writer, path, CONTROL_SIZE, &err));
    assert_true(page_digest_writer_add(writer, crc32c(0, page, CONTROL_SIZE), &err));
    assert_true(page_digest_writer_finish(writer, false, &err));
    page_digest_writer_free(writer);
}

static void
build(Fixture *fixture)
{
    static const char *const directories[] = {
        "global",     "base/1",      "pg_wal",      "pg_tblspc",           "pg_commit_ts",
        "pg_notify",  "pg_twophase", "pg_subtrans", "pg_logical/mappings", "pg_logical/snapshots",
        "pg_replslot"};
    static const uint8_t zeros[1 << 20];
    uint8_t control[CONTROL_SIZE];
    ManifestBuilder builder;
    Buf text = BUF_INIT;

    for (size_t i = 0; i < COUNT(directories); i++) {
        char place[64];

        (void)snprintf(place, sizeof place, "data/%s", directories[i]);
        temp_dir_mkdir(&fixture->dir, place);
    }
    temp_dir_mkdir(&fixture->dir, "space");
    assert_int_equal(symlink("../../space", temp_dir_path(&fixture->dir, "data/pg_tblspc/16385")),
                     0);
    manifest_builder_begin(&builder, 2, SYSTEM_ID);
    build_control(control);
    put_file(fixture, &builder, "PG_VERSION", "18\n", 3, CHECKSUM_CRC32C);
    put_file(fixture, &builder, "global/pg_control", control, sizeof control, CHECKSUM_SHA256);
    put_file(fixture, &builder, "base/1/1259", control, sizeof control, CHECKSUM_CRC32C);
    put_digests(fixture, "base/1/1259", control);
    /* New pages, and so many that what follows is another thread's work. */
    put_file(fixture, &builder, "base/1/1260", zeros, sizeof zeros, CHECKSUM_CRC32C);
    put_file(fixture, &builder, "base/1/empty", "", 0, CHECKSUM_SHA224);
    put_file(fixture, &builder, "pg_tblspc/16385/16400", "table", 5, CHECKSUM_NONE);
    put_wal(fixture, &builder);
    manifest_builder_finish(&builder, &text);
    temp_dir_write(&fixture->dir, "data/backup_manifest", text.data, text.len);
    buf_free(&text);
}

/* ---- a run ---- */

static bool
hear(void *ctx, const Problem *problem)
{
    Fixture *fixture = ctx;

    if (fixture->told++ == 0)
        (void)snprintf(fixture->first, sizeof fixture->first, "%s", problem->message);
    return true;
}

/* What could not be looked at is told with the reason. */
static void
assert_problem(const Fixture *fixture, const FaultPlan *plan, const FaultHit *hit,
               uint64_t problems)
{
    fault_assert(problems == fixture->told, "told %llu problems, counted %llu",
                 (unsigned long long)fixture->told, (unsigned long long)problems);
    if (fixture->damaged)
        return;
    fault_assert(hit->fired, "a problem without a fault: %s", fixture->first);
    fault_assert(plan->outcome != FAULT_PASSES, "a problem: %s", fixture->first);
    fault_assert(strstr(fixture->first, strerror(plan->errnum)) != NULL,
                 "problem \"%s\" does not tell the reason", fixture->first);
}

/*
 * The segment size is found by trying: a file that cannot be had then is no loss when another one
 * tells the size. What the range needs is read afterwards.
 */
static bool
is_attempt(const FaultPlan *plan, const FaultHit *hit)
{
    return !plan->lasting && strstr(hit->path, "/pg_wal/") != NULL;
}

static void
assert_ending(const Fixture *fixture, const FaultPlan *plan, const FaultHit *hit, bool ok,
              uint64_t problems, const Error *err)
{
    FaultPlan lenient = *plan;

    if (ok && problems > 0) {
        assert_problem(fixture, plan, hit, problems);
        return;
    }
    fault_assert(!ok || !fixture->damaged, "damage was not noticed");
    if (lenient.outcome == FAULT_FAILS && is_attempt(plan, hit))
        lenient.outcome = FAULT_EITHER;
    fault_assert_ending(&lenient, hit, ok, err);
}

static bool
run(void *ctx, const FaultPlan *plan)
{
    Fixture *fixture = ctx;
    const VerifyConfig config = {.directory = temp_dir_path(&fixture->dir, "data"),
                                 .jobs = 2,
                                 .problems = {.report = hear, .ctx = fixture}};
    uint64_t problems = 0;
    Error err = ERROR_INIT;
    FaultHit hit;
    bool ok;

    fixture->told = 0;
    fault_begin(plan);
    ok = fixture->pages ? verify_pages(&config, &problems, &err)
                        : verify_plain(&config, &problems, &err);
    fault_end(&hit);

    fault_assert_nothing_left();
    assert_ending(fixture, plan, &hit, ok, problems, &err);
    return hit.fired;
}

/* ---- the faults ---- */

static const FaultPlan plans[] = {
    {.kind = FAULT_MEMORY, .errnum = ENOMEM, .least = 60},
    {.kind = FAULT_MEMORY, .errnum = ENOMEM, .lasting = true, .least = 60},
    {.kind = FAULT_OPEN, .errnum = EMFILE, .least = 14},
    {.kind = FAULT_OPEN, .errnum = EMFILE, .lasting = true, .least = 14},
    {.kind = FAULT_OPEN, .errnum = EACCES, .least = 14},
    {.kind = FAULT_READ, .errnum = EIO, .least = 30},
    {.kind = FAULT_READ, .errnum = EIO, .lasting = true, .least = 30},
    {.kind = FAULT_READ, .errnum = FAULT_SHORT, .outcome = FAULT_PASSES, .least = 10},
    {.kind = FAULT_STAT, .errnum = EIO, .least = 10},
    {.kind = FAULT_CLOSE, .errnum = EIO, .outcome = FAULT_PASSES, .least = 8},
    {.kind = FAULT_RESOURCE, .errnum = EIO, .least = 1},
    /* Others do the work. */
    {.kind = FAULT_THREAD, .errnum = EAGAIN, .outcome = FAULT_PASSES, .least = 2},
    {.kind = FAULT_THREAD, .errnum = EAGAIN, .outcome = FAULT_PASSES, .lasting = true, .least = 1},
};

static const FaultPlan pages_plans[] = {
    {.kind = FAULT_MEMORY, .errnum = ENOMEM, .least = 30},
    {.kind = FAULT_MEMORY, .errnum = ENOMEM, .lasting = true, .least = 30},
    {.kind = FAULT_OPEN, .errnum = EMFILE, .least = 8},
    {.kind = FAULT_READ, .errnum = EIO, .least = 10},
    {.kind = FAULT_READ, .errnum = FAULT_SHORT, .outcome = FAULT_PASSES, .least = 3},
    /* What lies beside the directories that have pages does not matter. */
    {.kind = FAULT_STAT, .errnum = EIO, .outcome = FAULT_EITHER, .least = 5},
    {.kind = FAULT_CLOSE, .errnum = EIO, .outcome = FAULT_PASSES, .least = 4},
};

static void
test_pages(void **state)
{
    fault_sweep(pages_plans, COUNT(pages_plans), run, *state);
}

static void
test_good(void **state)
{
    fault_sweep(plans, COUNT(plans), run, *state);
}

static void
test_damaged(void **state)
{
    fault_sweep(plans, COUNT(plans), run, *state);
}

static int
setup(void **state, bool damaged)
{
    static Fixture fixture;

    fixture = (Fixture){.damaged = damaged};
    temp_dir_make(&fixture.dir);
    build(&fixture);
    *state = &fixture;
    return 0;
}

static int
setup_good(void **state)
{
    return setup(state, false);
}

static int
setup_pages(void **state)
{
    (void)setup(state, false);
    ((Fixture *)*state)->pages = true;
    return 0;
}

static int
setup_damaged(void **state)
{
    return setup(state, true);
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
        cmocka_unit_test_setup_teardown(test_good, setup_good, teardown),
        cmocka_unit_test_setup_teardown(test_damaged, setup_damaged, teardown),
        cmocka_unit_test_setup_teardown(test_pages, setup_pages, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
