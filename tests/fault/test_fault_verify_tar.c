/*
 * A small backup in tar format is verified with every call failing once and from some call on: what
 * could not be looked at is an Error or a Problem, never "verified". A good backup shows that
 * nothing is passed over, a damaged one that no fault hides the damage.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "common/crc32c.h"
#include "fault.h"
#include "pgformat/page.h"
#include "pgformat/walfile.h"
#include "stream/compression.h"
#include "support/manifest_builder.h"
#include "support/recorder.h"
#include "support/tar_builder.h"
#include "support/temp_dir.h"
#include "support/wal_builder.h"
#include "verify/verify.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

#define SYSTEM_ID    UINT64_C(7000000000000000001)
#define SEGMENT_SIZE (1u << 20)
#define START        ((Lsn)3 * SEGMENT_SIZE)

typedef struct Fixture {
    TempDir dir;
    WalBuilder wal;
    bool damaged;
    bool to_stdout; /* a backup that went there: its manifest is in base.tar */
    unsigned jobs;
    /* What the last run told. */
    uint64_t told;
    char first[1024]; /* the first problem's message */
} Fixture;

/* ---- the backup ---- */

/* Compressed as the name says; `tar` is empty then. */
static void
put_archive(Fixture *fixture, const char *name, Buf *tar)
{
    Compression compression;
    Recording recording = RECORDING_INIT;
    Error err = ERROR_INIT;
    char place[64];
    Sink *sink;

    tar_end(tar);
    assert_true(compression_parse(compression_of_name(name), NULL, &compression, &err));
    sink = compress_new(recorder_new(&recording, &err), &compression, &err);
    assert_true(sink_archive_begin(sink, &(Archive){.name = "x.tar"}, &err));
    assert_true(sink_data(sink, tar_span(tar), &err));
    assert_true(sink_archive_end(sink, &err) && sink_finish(sink, &err));
    sink_free(sink);
    (void)snprintf(place, sizeof place, "data/%s", name);
    temp_dir_write(&fixture->dir, place, recording.bytes.data, recording.bytes.len);
    recording_free(&recording);
    buf_clear(tar);
}

/* In the archive and in the manifest, there below `prefix`. */
static void
put_member(Buf *tar, ManifestBuilder *builder, const char *prefix, const char *name,
           ChecksumType type)
{
    static const char content[3000] = "content";
    char path[64];

    tar_add(tar, &(TarMember){.name = name, .data = content, .size = sizeof content});
    (void)snprintf(path, sizeof path, "%s%s", prefix, name);
    manifest_builder_file(builder, path, content, sizeof content, type);
}

static void
put_segment(Fixture *fixture, Buf *tar, Lsn start)
{
    Span bytes = wal_builder_span(&fixture->wal, start, start + SEGMENT_SIZE);
    char name[WAL_NAME_SIZE];

    wal_segment_name(name, 1, start / SEGMENT_SIZE, SEGMENT_SIZE);
    tar_add(tar, &(TarMember){.name = name, .data = bytes.data, .size = bytes.len});
}

static void
put_directories(Buf *tar)
{
    static const char *const names[] = {
        "pg_commit_ts", "pg_logical/mappings", "pg_logical/snapshots", "pg_notify", "pg_replslot",
        "pg_subtrans",  "pg_tblspc",           "pg_twophase"};

    for (size_t i = 0; i < COUNT(names); i++)
        tar_add(tar, &(TarMember){TAR_DIRECTORY(names[i])});
}

static void
put_le(uint8_t *at, uint64_t value, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        at[i] = (uint8_t)(value >> (8 * i));
}

/* A relation of one page, and a pg_control that says that its checksum counts. */
static void
put_pages(Buf *tar, ManifestBuilder *builder)
{
    uint8_t bytes[8192] = {0};

    put_le(bytes + 14, 8192, 2);
    put_le(bytes + 8, page_checksum(bytes, sizeof bytes, 0), 2);
    tar_add(tar, &(TarMember){.name = "base/1/1260", .data = bytes, .size = sizeof bytes});
    manifest_builder_file(builder, "base/1/1260", bytes, sizeof bytes, CHECKSUM_CRC32C);
    memset(bytes, 0, sizeof bytes);
    put_le(bytes, SYSTEM_ID, 8);
    put_le(bytes + 8, 1800, 4);
    put_le(bytes + 12, 202506291, 4);
    put_le(bytes + 216, 8192, 4);
    put_le(bytes + 220, 131072, 4);
    put_le(bytes + 224, 8192, 4);
    put_le(bytes + 228, SEGMENT_SIZE, 4);
    put_le(bytes + 252, 1, 4);
    put_le(bytes + 292, crc32c(0, bytes, 292), 4);
    tar_add(tar, &(TarMember){.name = "global/pg_control", .data = bytes, .size = sizeof bytes});
    manifest_builder_file(builder, "global/pg_control", bytes, sizeof bytes, CHECKSUM_CRC32C);
}

/* Two segments. The range begins within the first: its page header counts nevertheless. */
static void
put_wal(Fixture *fixture, Buf *tar, ManifestBuilder *builder)
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
    put_segment(fixture, tar, START);
    put_segment(fixture, tar, START + SEGMENT_SIZE);
}

static void
put_manifest(Fixture *fixture, ManifestBuilder *builder, Buf *base)
{
    Buf text = BUF_INIT;

    manifest_builder_finish(builder, &text);
    if (fixture->to_stdout)
        tar_add(base, &(TarMember){.name = "backup_manifest", .data = text.data, .size = text.len});
    else
        temp_dir_write(&fixture->dir, "data/backup_manifest", text.data, text.len);
    buf_free(&text);
}

static void
build(Fixture *fixture)
{
    ManifestBuilder builder;
    Buf base = BUF_INIT;
    Buf tar = BUF_INIT;

    temp_dir_mkdir(&fixture->dir, "data");
    manifest_builder_begin(&builder, 2, SYSTEM_ID);
    put_member(&base, &builder, "", "PG_VERSION", CHECKSUM_CRC32C);
    put_member(&base, &builder, "", "base/1/1259", CHECKSUM_SHA256);
    put_directories(&base);
    put_pages(&base, &builder);
    put_member(&tar, &builder, "pg_tblspc/16385/", "PG_18_1/5/1", CHECKSUM_SHA224);
    put_archive(fixture, "16385.tar.lz4", &tar);
    put_member(&tar, &builder, "pg_tblspc/16386/", "PG_18_1/5/1", CHECKSUM_CRC32C);
    put_archive(fixture, "16386.tar", &tar);
    put_wal(fixture, &tar, &builder);
    put_archive(fixture, "pg_wal.tar.gz", &tar);
    put_manifest(fixture, &builder, &base);
    /* In one that is not compressed the manifest is looked for in another way. */
    put_archive(fixture, fixture->to_stdout && fixture->damaged ? "base.tar" : "base.tar.zst",
                &base);
    buf_free(&base);
    buf_free(&tar);
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

static bool
run(void *ctx, const FaultPlan *plan)
{
    Fixture *fixture = ctx;
    const VerifyConfig config = {.directory = temp_dir_path(&fixture->dir, "data"),
                                 .jobs = fixture->jobs,
                                 .problems = {.report = hear, .ctx = fixture}};
    uint64_t problems = 0;
    Error err = ERROR_INIT;
    FaultHit hit;
    bool ok;

    fixture->told = 0;
    fault_begin(plan);
    ok = verify_tar(&config, &problems, &err);
    fault_end(&hit);

    fault_assert_nothing_left();
    if (ok && problems > 0) {
        assert_problem(fixture, plan, &hit, problems);
    } else {
        fault_assert(!ok || !fixture->damaged, "damage was not noticed");
        fault_assert_ending(plan, &hit, ok, &err);
    }
    return hit.fired;
}

/* ---- the faults ---- */

static const FaultPlan plans[] = {
    {.kind = FAULT_MEMORY, .errnum = ENOMEM, .least = 60},
    {.kind = FAULT_MEMORY, .errnum = ENOMEM, .lasting = true, .least = 60},
    {.kind = FAULT_OPEN, .errnum = EMFILE, .least = 6},
    {.kind = FAULT_OPEN, .errnum = EMFILE, .lasting = true, .least = 6},
    {.kind = FAULT_OPEN, .errnum = EACCES, .least = 6},
    {.kind = FAULT_READ, .errnum = EIO, .least = 15},
    {.kind = FAULT_READ, .errnum = EIO, .lasting = true, .least = 15},
    {.kind = FAULT_READ, .errnum = FAULT_SHORT, .outcome = FAULT_PASSES, .least = 5},
    {.kind = FAULT_STAT, .errnum = EIO, .least = 4},
    {.kind = FAULT_CLOSE, .errnum = EIO, .outcome = FAULT_PASSES, .least = 5},
    {.kind = FAULT_RESOURCE, .errnum = EIO, .least = 1},
};

/* A thread for each archive that is read. */
static const FaultPlan thread_plans[] = {
    {.kind = FAULT_THREAD, .errnum = EAGAIN, .least = 4},
    {.kind = FAULT_THREAD, .errnum = EAGAIN, .lasting = true, .least = 4},
};

static void
test_faults(void **state)
{
    Fixture *fixture = *state;

    for (fixture->jobs = 1; fixture->jobs <= 2; fixture->jobs++)
        fault_sweep(plans, COUNT(plans), run, fixture);
    fault_sweep(thread_plans, COUNT(thread_plans), run, fixture);
}

static int
setup(void **state, bool damaged, bool to_stdout)
{
    static Fixture fixture;

    fixture = (Fixture){.damaged = damaged, .to_stdout = to_stdout};
    temp_dir_make(&fixture.dir);
    build(&fixture);
    *state = &fixture;
    return 0;
}

static int
setup_good(void **state)
{
    return setup(state, false, false);
}

static int
setup_damaged(void **state)
{
    return setup(state, true, false);
}

static int
setup_to_stdout(void **state)
{
    return setup(state, false, true);
}

static int
setup_damaged_to_stdout(void **state)
{
    return setup(state, true, true);
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
        cmocka_unit_test_setup_teardown(test_faults, setup_good, teardown),
        cmocka_unit_test_setup_teardown(test_faults, setup_damaged, teardown),
        cmocka_unit_test_setup_teardown(test_faults, setup_to_stdout, teardown),
        cmocka_unit_test_setup_teardown(test_faults, setup_damaged_to_stdout, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
