/*
 * The content of plain backups: files in ranges and in batches, data pages, page digests and the
 * directories that must be there; and that what is told does not depend on the number of threads.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/crc32c.h"
#include "pgformat/page.h"
#include "support/manifest_builder.h"
#include "support/problem_log.h"
#include "support/temp_dir.h"
#include "verify/internal.h"

#define SYSTEM_ID UINT64_C(7000000000000000001)
#define PAGE      8192u
#define RANGE     ((size_t)16 * 1024 * 1024)
#define START     ((Lsn)0x200000028)

static const char *const required[] = {
    "pg_commit_ts", "pg_logical/mappings", "pg_logical/snapshots", "pg_notify", "pg_replslot",
    "pg_subtrans",  "pg_tblspc",           "pg_twophase"};

#define REQUIRED_COUNT (sizeof required / sizeof required[0])

typedef struct Fixture {
    TempDir dir;
    ManifestBuilder builder;
    VerifyConfig config;
    VerifySummary summary;
    ProblemLog log;
    uint64_t problems;
    Error err;
} Fixture;

static int
setup(void **state)
{
    Fixture *f = calloc(1, sizeof *f);
    char place[64];

    temp_dir_make(&f->dir);
    for (size_t i = 0; i < REQUIRED_COUNT; i++) {
        (void)snprintf(place, sizeof place, "data/%s", required[i]);
        temp_dir_mkdir(&f->dir, place);
    }
    manifest_builder_begin(&f->builder, 2, SYSTEM_ID);
    f->config.directory = temp_dir_path(&f->dir, "data");
    f->config.skip_wal = true;
    f->config.summary = &f->summary;
    *state = f;
    return 0;
}

static int
teardown(void **state)
{
    Fixture *f = *state;

    temp_dir_remove(&f->dir);
    manifest_builder_free(&f->builder);
    problem_log_free(&f->log);
    free(f);
    return 0;
}

static const char *
place(Fixture *f, const char *path)
{
    char full[256];

    (void)snprintf(full, sizeof full, "data/%s", path);
    return temp_dir_path(&f->dir, full);
}

static void
put(Fixture *f, const char *path, const void *data, size_t len)
{
    char full[256];
    char *slash;

    (void)snprintf(full, sizeof full, "data/%s", path);
    slash = strrchr(full, '/');
    *slash = '\0';
    temp_dir_mkdir(&f->dir, full);
    *slash = '/';
    temp_dir_write(&f->dir, full, data, len);
}

static void
list(Fixture *f, const char *path, const void *data, size_t len, ChecksumType type)
{
    manifest_builder_file(&f->builder, path, data, len, type);
}

static void
both(Fixture *f, const char *path, const void *data, size_t len, ChecksumType type)
{
    put(f, path, data, len);
    list(f, path, data, len, type);
}

static void
write_manifest(Fixture *f)
{
    Buf text = BUF_INIT;

    manifest_builder_finish(&f->builder, &text);
    temp_dir_write(&f->dir, "data/backup_manifest", text.data, text.len);
    buf_free(&text);
}

static bool
try_with(Fixture *f, unsigned jobs)
{
    problem_log_free(&f->log);
    f->log.text = BUF_INIT;
    f->log.count = 0;
    memset(&f->summary, 0xEE, sizeof f->summary);
    f->config.jobs = jobs;
    f->config.problems = problem_log_sink(&f->log);
    f->problems = UINT64_MAX;
    f->err = ERROR_INIT;
    return verify_plain(&f->config, &f->problems, &f->err);
}

static const char *
run_with(Fixture *f, unsigned jobs)
{
    if (!try_with(f, jobs))
        fail_msg("%s", f->err.message);
    assert_int_equal(f->problems, f->log.count);
    return problem_log_text(&f->log);
}

static const unsigned job_counts[] = {1, 2, 7, 0};

/* The same with any number of threads; what is told. */
static const char *
run(Fixture *f)
{
    char *first = strdup(run_with(f, job_counts[0]));
    VerifySummary summary = f->summary;

    for (size_t i = 1; i < sizeof job_counts / sizeof job_counts[0]; i++) {
        assert_string_equal(run_with(f, job_counts[i]), first);
        assert_memory_equal(&f->summary, &summary, sizeof summary);
    }
    free(first);
    return problem_log_text(&f->log);
}

/* ---- pages, pg_control ---- */

static void
put_le(uint8_t *at, uint64_t value, int bytes)
{
    for (int i = 0; i < bytes; i++)
        at[i] = (uint8_t)(value >> (8 * i));
}

static void
page_make(uint8_t *page, uint32_t block, Lsn lsn)
{
    for (size_t i = 0; i < PAGE; i++)
        page[i] = (uint8_t)(i * 31 + block);
    put_le(page, lsn >> 32, 4);
    put_le(page + 4, lsn, 4);
    put_le(page + 14, PAGE, 2);
    put_le(page + 8, page_checksum(page, PAGE, block), 2);
}

static uint8_t *
pages_make(uint32_t first, size_t count)
{
    uint8_t *pages = malloc(count * PAGE);

    for (size_t i = 0; i < count; i++)
        page_make(pages + i * PAGE, first + (uint32_t)i, 0x100000000 + i);
    return pages;
}

/* A wrong checksum: 0, which is none. */
static void
spoil(uint8_t *pages, size_t index)
{
    put_le(pages + index * PAGE + 8, 0, 2);
}

static void
make_control(uint8_t bytes[CONTROL_FILE_SIZE], uint32_t version, uint32_t catalog,
             uint32_t checksums)
{
    const size_t crc_at = version == 1800 ? 292 : 288;

    memset(bytes, 0, CONTROL_FILE_SIZE);
    put_le(bytes, SYSTEM_ID, 8);
    put_le(bytes + 8, version, 4);
    put_le(bytes + 12, catalog, 4);
    put_le(bytes + 216, PAGE, 4);
    put_le(bytes + 220, 131072, 4);
    put_le(bytes + 224, 8192, 4);
    put_le(bytes + 228, 16 * 1024 * 1024, 4);
    put_le(bytes + 252, checksums, 4);
    put_le(bytes + crc_at, crc32c(0, bytes, crc_at), 4);
}

static void
both_control(Fixture *f, uint32_t checksums)
{
    uint8_t control[CONTROL_FILE_SIZE];

    make_control(control, 1800, 202506291, checksums);
    both(f, "global/pg_control", control, sizeof control, CHECKSUM_CRC32C);
}

/* ---- ranges ---- */

/* Sizes around the bounds of ranges; zeros are pages that are new. */
static void
test_big_files(void **state)
{
    static const size_t sizes[] = {RANGE - 1,        RANGE,         RANGE + 1, 2 * RANGE - PAGE,
                                   2 * RANGE + PAGE, 2 * RANGE + 5, 3 * RANGE};
    static const ChecksumType types[] = {CHECKSUM_CRC32C, CHECKSUM_SHA256, CHECKSUM_NONE};
    Fixture *f = *state;
    uint8_t *bytes = malloc(3 * RANGE);
    uint64_t sum = CONTROL_FILE_SIZE;
    uint64_t files = 1;

    for (size_t i = 0; i < 3 * RANGE; i++)
        bytes[i] = (uint8_t)(i * 2654435761u >> 13);
    both_control(f, 0);
    for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++) {
        for (size_t t = 0; t < (s == 2 ? 3 : 1); t++) {
            char path[64];

            (void)snprintf(path, sizeof path, "base/5/%zu", 1000 + 10 * s + t);
            both(f, path, bytes, sizes[s], types[t]);
            files += types[t] != CHECKSUM_NONE;
            sum += types[t] != CHECKSUM_NONE ? sizes[s] : 0;
        }
    }
    /* One bit, at either side of a bound. */
    list(f, "base/5/2", bytes, 2 * RANGE + 5, CHECKSUM_CRC32C);
    list(f, "base/5/1", bytes, 2 * RANGE + 5, CHECKSUM_CRC32C);
    bytes[RANGE - 1] ^= 1;
    put(f, "base/5/1", bytes, 2 * RANGE + 5);
    bytes[RANGE - 1] ^= 1;
    bytes[2 * RANGE + 4] ^= 0x80;
    put(f, "base/5/2", bytes, 2 * RANGE + 5);
    free(bytes);
    write_manifest(f);
    assert_string_equal(run(f), "CHECKSUM base/5/2: checksum mismatch for file \"base/5/2\"\n"
                                "CHECKSUM base/5/1: checksum mismatch for file \"base/5/1\"\n");
    assert_int_equal(f->summary.files, files + 2);
    assert_int_equal(f->summary.bytes, sum + 2 * (2 * RANGE + 5));
    assert_false(f->summary.has_pages);
    assert_int_equal(f->summary.pages, 0);
}

/* ---- many files, all kinds of problems ---- */

static void
add_small_files(Fixture *f)
{
    for (unsigned i = 0; i < 300; i++) {
        char path[64];
        char text[64];
        int len = snprintf(text, sizeof text, "content of %u", i);

        (void)snprintf(path, sizeof path, "small/%u", i);
        list(f, path, text, (size_t)len, i % 50 == 49 ? CHECKSUM_SHA224 : CHECKSUM_CRC32C);
        if (i % 37 == 5)
            text[3] ^= 1;
        if (i % 100 != 77)
            put(f, path, text, (size_t)len + (i % 100 == 50));
    }
}

static void
add_bad_relation(Fixture *f)
{
    const size_t count = 2 * RANGE / PAGE + 3;
    uint8_t *pages = pages_make(0, count);

    for (size_t i = 0; i < 4; i++)
        spoil(pages, i * 2);
    spoil(pages, RANGE / PAGE - 1);
    spoil(pages, RANGE / PAGE);
    spoil(pages, count - 1);
    both(f, "base/5/16384", pages, count * PAGE, CHECKSUM_CRC32C);
    list(f, "base/5/16385", pages, count * PAGE, CHECKSUM_CRC32C);
    both(f, "base/5/16386", pages, count * PAGE, CHECKSUM_NONE);
    both(f, "base/5/16387", pages, 4 * (size_t)PAGE, CHECKSUM_SHA512);
    list(f, "base/5/16388", pages, (count - 1) * PAGE, CHECKSUM_SHA256); /* long ones */
    both(f, "base/5/16389", pages, count * PAGE, CHECKSUM_SHA256);
    pages[RANGE + 77] ^= 1;
    put(f, "base/5/16385", pages, count * PAGE);
    put(f, "base/5/16388", pages, (count - 1) * PAGE);
    free(pages);
    both(f, "base/5/INCREMENTAL.16390", "no header", 9, CHECKSUM_CRC32C);
}

static uint64_t
count_of(const char *text, const char *part)
{
    uint64_t count = 0;

    for (; (text = strstr(text, part)) != NULL; text += strlen(part))
        count++;
    return count;
}

static void
make_every_kind(Fixture *f)
{
    both_control(f, 1);
    add_small_files(f);
    add_bad_relation(f);
    put(f, "extra", "", 0);
    assert_int_equal(mkfifo(place(f, "pipe"), 0600), 0);
    assert_int_equal(rmdir(place(f, "pg_notify")), 0);
    manifest_builder_wal_range(&f->builder, 1, START, START + 1000);
    f->config.skip_wal = false;
    write_manifest(f);
}

static void
test_every_kind_with_any_number_of_threads(void **state)
{
    static const char *const order[] = {"EXTRA extra",
                                        "FILE_TYPE pipe",
                                        "SIZE small/150",
                                        "MISSING small/77",
                                        "DIRECTORY pg_no",
                                        "CHECKSUM small/5",
                                        "CHECKSUM small/42",
                                        "CHECKSUM small/264",
                                        "base/5/16384 block 0: ",
                                        "CHECKSUM base/5/16385",
                                        "d: base/5/16386: 7 of",
                                        "d: base/5/16387: 2 of",
                                        "CHECKSUM base/5/16388",
                                        "d: base/5/16388: 6 of",
                                        "d: base/5/16389: 7 of",
                                        "INCREMENTAL.16390: magic number",
                                        "WAL "};
    Fixture *f = *state;
    const char *text;

    make_every_kind(f);
    text = run(f);
    for (size_t i = 0; i < sizeof order / sizeof order[0]; i++) {
        text = strstr(text, order[i]);
        if (text == NULL)
            fail_msg("\"%s\" is not in its place", order[i]);
    }
    text = problem_log_text(&f->log);
    assert_int_equal(count_of(text, "\nSIZE "), 3);
    assert_int_equal(count_of(text, "\nMISSING "), 3);
    assert_int_equal(count_of(text, "CHECKSUM "), 2 + 8); /* of the 8, 50 and 77 are none */
    assert_int_equal(count_of(text, "base/5/16384 block "), PAGE_REPORTS_PER_FILE);
    assert_int_equal(count_of(text, "base/5/16384: 7 of 4099 checked pages are bad"), 1);
    assert_int_equal(count_of(text, "base/5/16386 block 2047: "), 1);
    assert_int_equal(f->summary.bad_pages, 3 * 7 + 2 + 1 + 6 + 7);
    assert_int_equal(f->summary.pages, 3 * 4099 + 4 + 4098 + 4099);
    assert_true(f->summary.has_pages);
    assert_int_equal(f->summary.wal_bytes, 0);
}

/* Cut off anywhere, what was told is the beginning of all that there is to tell. */
static void
test_enough_with_any_number_of_threads(void **state)
{
    Fixture *f = *state;
    char *all;
    uint64_t count;

    make_every_kind(f);
    all = strdup(run_with(f, 1));
    count = f->problems;
    for (uint64_t limit = 1; limit <= count; limit += limit < 12 ? 1 : 7) {
        for (size_t i = 0; i < sizeof job_counts / sizeof job_counts[0]; i++) {
            const char *text;

            f->log.limit = limit;
            text = run_with(f, job_counts[i]);
            assert_int_equal(f->problems, limit);
            assert_true(strncmp(text, all, strlen(text)) == 0);
        }
    }
    free(all);
}

/* ---- pages ---- */

/* A relation with one bad page, and one that is newer than the backup. */
static void
add_pages(Fixture *f, const char *path, ChecksumType type)
{
    uint8_t *pages = pages_make(0, 4);

    spoil(pages, 1);
    page_make(pages + 2 * (size_t)PAGE, 2, START);
    spoil(pages, 2);
    both(f, path, pages, 4 * (size_t)PAGE, type);
    free(pages);
}

static void
test_pages_of_the_cluster(void **state)
{
    Fixture *f = *state;
    const char *text;

    both_control(f, 1);
    add_pages(f, "base/5/1", CHECKSUM_CRC32C);
    add_pages(f, "base/5/none", CHECKSUM_NONE);
    add_pages(f, "base/5/2", CHECKSUM_NONE);
    add_pages(f, "pg_tblspc/16385/PG_18_202506291/5/3", CHECKSUM_SHA256);
    add_pages(f, "pg_tblspc/x/PG_18_202506291/5/4", CHECKSUM_CRC32C);
    manifest_builder_wal_range(&f->builder, 2, START + 5000, START + 6000);
    manifest_builder_wal_range(&f->builder, 1, START, START + 5000);
    write_manifest(f);
    text = run(f);
    assert_int_equal(f->problems, 3);
    assert_int_equal(count_of(text, "page verification failed: base/5/1 block 1: "), 1);
    assert_int_equal(count_of(text, "page verification failed: base/5/2 block 1: "), 1);
    assert_int_equal(
        count_of(text, "failed: pg_tblspc/16385/PG_18_202506291/5/3 block 1: calculated"), 1);
    assert_int_equal(f->summary.pages, 9);
    assert_int_equal(f->summary.bad_pages, 3);
    assert_int_equal(f->summary.files, 5); /* base/5/none has neither a digest nor pages */
    assert_true(f->summary.has_pages);
}

static void
test_pages_without_wal_ranges(void **state)
{
    Fixture *f = *state;

    both_control(f, 1);
    add_pages(f, "base/5/1", CHECKSUM_CRC32C);
    write_manifest(f);
    (void)run(f);
    assert_int_equal(f->problems, 3); /* the newer page too, and how many there are */
    assert_int_equal(f->summary.bad_pages, 2);
}

static void
test_pages_that_nobody_looks_at(void **state)
{
    Fixture *f = *state;

    both_control(f, 1);
    add_pages(f, "base/5/1", CHECKSUM_CRC32C);
    add_pages(f, "base/5/2", CHECKSUM_NONE);
    write_manifest(f);
    f->config.skip_pages = true;
    assert_string_equal(run(f), "");
    assert_false(f->summary.has_pages);
    assert_int_equal(f->summary.files, 2);
    f->config.skip_pages = false;
    f->config.skip_checksums = true;
    assert_string_equal(run(f), "");
    assert_false(f->summary.has_pages);
    assert_int_equal(f->summary.files, 0);
}

/* Off, and a kind of checksums that we do not know. */
static void
test_clusters_without_checksums(void **state)
{
    static const uint32_t versions[] = {0, 2};
    Fixture *f = *state;

    for (size_t i = 0; i < 2; i++) {
        manifest_builder_begin(&f->builder, 2, SYSTEM_ID);
        both_control(f, versions[i]);
        add_pages(f, "base/5/1", CHECKSUM_CRC32C);
        write_manifest(f);
        assert_string_equal(run(f), "");
        assert_false(f->summary.has_pages);
    }
}

/* Without a sound pg_control nobody knows. */
static void
test_pages_without_control(void **state)
{
    Fixture *f = *state;

    manifest_builder_free(&f->builder);
    manifest_builder_begin(&f->builder, 1, 0);
    both(f, "global/pg_control", "nonsense", 8, CHECKSUM_CRC32C);
    add_pages(f, "base/5/1", CHECKSUM_CRC32C);
    write_manifest(f);
    assert_string_equal(run(f), "");
    assert_false(f->summary.has_pages);
}

/* ---- files that changed after the tree was looked at ---- */

typedef struct Changed {
    Fixture *f;
    const ContentFile *files;
    FileFinding found;
    size_t reports;
} Changed;

static bool
changed_file(const void *ctx, size_t number, ContentFile *ret_file)
{
    *ret_file = ((const Changed *)ctx)->files[number];
    return true;
}

static bool
changed_report(void *ctx, const ContentFile *file, const FileFinding *finding, Error *err)
{
    Changed *changed = ctx;

    (void)file;
    (void)err;
    changed->found = *finding;
    changed->reports++;
    return true;
}

/* What is found of the file when it should have this size. */
static FileFinding
finding_of(Fixture *f, const char *path, uint64_t size, unsigned jobs)
{
    const ContentFile file = {.path = path, .size = size};
    Changed changed = {.f = f, .files = &file};
    const ContentList of = {
        .count = 1, .ctx = &changed, .file = changed_file, .report = changed_report};
    ProblemSink sink = problem_log_sink(&f->log);
    Verifier verifier = {.config = &f->config, .reporter = REPORTER_INIT(&sink)};

    f->config.jobs = jobs;
    assert_true(contents_check(&verifier, &of, &f->err));
    assert_true(changed.reports <= 1);
    /* They count with the size that they should have. */
    assert_int_equal(verifier.summary.files, 1);
    assert_int_equal(verifier.summary.bytes, size);
    assert_int_equal(verifier.progress.total, size);
    assert_int_equal(verifier.progress.done, size);
    reporter_free(&verifier.reporter);
    return changed.found;
}

static void
test_file_of_another_size_than_it_had(void **state)
{
    static const struct {
        uint64_t due;
        uint64_t size;
        uint64_t read; /* 0: all is well */
    } cases[] = {
        {5, 5, 0},
        {5, 4, 4},
        {5, 6, 6},
        {0, 1, 1},
        {3 * RANGE, 3 * RANGE, 0},
        {3 * RANGE, 3 * RANGE - 1, 3 * RANGE - 1},
        {3 * RANGE, 2 * RANGE, 2 * RANGE},
        {3 * RANGE, RANGE + 7, RANGE + 7},
        {3 * RANGE, 3, 3},
        {3 * RANGE, 3 * RANGE + 1, 3 * RANGE + 1},
        {3 * RANGE - 9, 3 * RANGE - 8, 3 * RANGE - 8},
        {3 * RANGE, 9 * RANGE, 3 * RANGE + CONTENT_PIECE},
    };
    Fixture *f = *state;

    put(f, "x", "", 0);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_int_equal(truncate(place(f, "x"), (off_t)cases[i].size), 0);
        for (unsigned jobs = 1; jobs <= 3; jobs++) {
            FileFinding found = finding_of(f, "x", cases[i].due, jobs);

            assert_int_equal(found.verdict, cases[i].read == 0 ? FILE_AGREES : FILE_OTHER_SIZE);
            if (cases[i].read != 0)
                assert_int_equal(found.read, cases[i].read);
        }
    }
}

static void
test_big_file_that_is_gone(void **state)
{
    Fixture *f = *state;

    for (unsigned jobs = 1; jobs <= 3; jobs++) {
        FileFinding found = finding_of(f, "gone", 5 * RANGE, jobs);

        assert_int_equal(found.verdict, FILE_NOT_OPENED);
    }
    assert_int_equal(mkfifo(place(f, "pipe"), 0600), 0);
    assert_int_equal(finding_of(f, "pipe", 5 * RANGE, 2).verdict, FILE_NOT_REGULAR);
}

/* A sparse file may say that it is as big as it likes. */
static void
test_huge_sparse_file_is_not_many_jobs(void **state)
{
    Fixture *f = *state;
    Stop stop;
    const ContentFile file = {.path = "x", .size = (uint64_t)1 << 62};
    Changed changed = {.f = f, .files = &file};
    const ContentList of = {
        .count = 1, .ctx = &changed, .file = changed_file, .report = changed_report};
    ProblemSink sink = problem_log_sink(&f->log);
    Verifier verifier = {.config = &f->config, .reporter = REPORTER_INIT(&sink)};

    put(f, "x", "", 0);
    assert_true(stop_init(&stop, &f->err));
    stop_request(&stop);
    f->config.stop = &stop;
    assert_false(contents_check(&verifier, &of, &f->err));
    assert_int_equal(f->err.code, ERR_STOPPED);
    stop_destroy(&stop);
}

/* ---- progress, stop ---- */

typedef struct Told {
    size_t calls;
    VerifyProgress last;
    bool backwards;
    pthread_t thread;
    Stop *stop;
} Told;

static void
tell(void *ctx, const VerifyProgress *progress)
{
    Told *told = ctx;

    if (progress->done < told->last.done || progress->done > progress->total ||
        pthread_equal(pthread_self(), told->thread) == 0)
        told->backwards = true;
    told->last = *progress;
    told->calls++;
    if (told->stop != NULL)
        stop_request(told->stop);
}

static void
test_progress_of_ranges(void **state)
{
    Fixture *f = *state;
    uint8_t *bytes = calloc(1, 3 * RANGE + 100);

    both(f, "big", bytes, 3 * RANGE + 100, CHECKSUM_CRC32C);
    both(f, "other", bytes, 2 * RANGE, CHECKSUM_SHA256);
    both(f, "small", bytes, 10, CHECKSUM_CRC32C);
    free(bytes);
    write_manifest(f);
    for (size_t i = 0; i < sizeof job_counts / sizeof job_counts[0]; i++) {
        Told told = {.thread = pthread_self()};

        f->config.progress = tell;
        f->config.progress_ctx = &told;
        assert_string_equal(run_with(f, job_counts[i]), "");
        assert_int_equal(told.last.total, 5 * RANGE + 110);
        assert_int_equal(told.last.done, 5 * RANGE + 110);
        assert_false(told.backwards);
    }
}

static void
test_stop_in_threads(void **state)
{
    Fixture *f = *state;
    Stop stop;

    put(f, "big", "", 0);
    assert_int_equal(truncate(place(f, "big"), (off_t)1 << 40), 0);
    manifest_builder_entry(&f->builder, "big", UINT64_C(1) << 40,
                           &(Digest){.type = CHECKSUM_CRC32C, .len = 4});
    write_manifest(f);
    for (size_t i = 0; i < sizeof job_counts / sizeof job_counts[0]; i++) {
        Told told = {.thread = pthread_self(), .stop = &stop};

        assert_true(stop_init(&stop, &f->err));
        f->config.stop = &stop;
        f->config.progress = tell;
        f->config.progress_ctx = &told;
        assert_false(try_with(f, job_counts[i])); /* long before a terabyte is read */
        assert_int_equal(f->err.code, ERR_STOPPED);
        assert_int_equal(f->log.count, 0);
        stop_destroy(&stop);
    }
}

/* ---- digests in problems ---- */

typedef struct Heard {
    Problem problem;
    uint8_t expected[CHECKSUM_MAX];
    uint8_t found[CHECKSUM_MAX];
} Heard;

static void
copy_digest(uint8_t *to, Span digest)
{
    if (digest.len > 0)
        memcpy(to, digest.data, digest.len);
}

static bool
hear(void *ctx, const Problem *problem)
{
    Heard *heard = ctx;

    heard->problem = *problem;
    copy_digest(heard->expected, problem->expected_digest);
    copy_digest(heard->found, problem->found_digest);
    return true;
}

static void
test_problems_say_what_was_expected(void **state)
{
    Fixture *f = *state;
    Heard heard;
    uint8_t found[4];

    list(f, "x", "abc", 3, CHECKSUM_CRC32C);
    put(f, "x", "abX", 3);
    write_manifest(f);
    f->config.problems = (ProblemSink){.report = hear, .ctx = &heard};
    assert_true(verify_plain(&f->config, &f->problems, &f->err));
    assert_int_equal(heard.problem.kind, PROBLEM_CHECKSUM);
    assert_int_equal(heard.problem.expected_digest.len, 4);
    assert_int_equal(heard.problem.found_digest.len, 4);
    put_le(found, crc32c(0, "abX", 3), 4);
    assert_memory_equal(heard.found, found, 4);
    put_le(found, crc32c(0, "abc", 3), 4);
    assert_memory_equal(heard.expected, found, 4);

    put(f, "x", "ab", 2);
    assert_true(verify_plain(&f->config, &f->problems, &f->err));
    assert_int_equal(heard.problem.kind, PROBLEM_SIZE);
    assert_int_equal(heard.problem.expected, 3);
    assert_int_equal(heard.problem.found, 2);
}

/* ---- backup_pages ---- */

/* That of these files, as they are listed. */
static void
write_digests(Fixture *f, const char *path, const uint8_t *bytes, size_t len, const char *other)
{
    PageDigestWriter *writer =
        page_digest_writer_new(place(f, "backup_pages"), 0600, PAGE, &f->err);

    assert_non_null(writer);
    assert_true(page_digest_writer_begin(writer, path, len, &f->err));
    for (size_t at = 0; at < len; at += PAGE)
        assert_true(page_digest_writer_add(
            writer, crc32c(0, bytes + at, len - at < PAGE ? len - at : PAGE), &f->err));
    if (other != NULL)
        assert_true(page_digest_writer_begin(writer, other, 0, &f->err));
    assert_true(page_digest_writer_finish(writer, false, &f->err));
    page_digest_writer_free(writer);
}

static void
test_changed_pages_are_named(void **state)
{
    Fixture *f = *state;
    uint8_t *pages = pages_make(0, 300);
    const char *text;

    list(f, "base/5/1", pages, 300 * (size_t)PAGE, CHECKSUM_CRC32C);
    both(f, "base/5/2", "", 0, CHECKSUM_CRC32C);
    write_digests(f, "base/5/1", pages, 300 * (size_t)PAGE, "base/5/2");
    pages[7 * PAGE + 100] ^= 1;
    pages[299 * PAGE + 100] ^= 1;
    put(f, "base/5/1", pages, 300 * (size_t)PAGE);
    free(pages);
    write_manifest(f);
    text = run(f);
    assert_true(strncmp(text, "CHECKSUM base/5/1: ", 19) == 0);
    assert_int_equal(count_of(text, "\nPAGE_CHANGED base/5/1: "), 2);
    assert_non_null(strstr(text, " 7 "));
    assert_non_null(strstr(text, " 299 "));
    assert_true(f->summary.page_digests);

    f->log.limit = 2; /* enough in the midst of them */
    (void)run(f);
    f->log.limit = 0;

    /* Nobody wants it. */
    f->config.ignore = (const char *const[]){"backup_pages"};
    f->config.ignore_count = 1;
    assert_int_equal(count_of(run(f), "PAGE"), 0);
    assert_false(f->summary.page_digests);
}

static void
test_backup_pages_of_another_backup(void **state)
{
    static const char *const others[] = {"base/5/1 has other content", "a file too many",
                                         "another size"};
    Fixture *f = *state;

    for (size_t i = 0; i < 3; i++) {
        char text[] = "content";

        manifest_builder_free(&f->builder);
        manifest_builder_begin(&f->builder, 2, SYSTEM_ID);
        both(f, "base/5/1", text, sizeof text, i == 2 ? CHECKSUM_SHA256 : CHECKSUM_CRC32C);
        write_manifest(f);
        (void)unlink(place(f, "backup_pages"));
        text[0] = i == 0 ? 'X' : 'c';
        write_digests(f, "base/5/1", (uint8_t *)text, i == 2 ? 3 : sizeof text,
                      i == 1 ? "base/5/2" : NULL);
        if (strncmp(run(f),
                    "PAGE_DIGESTS backup_pages: \"backup_pages\" does not belong to this backup: ",
                    74) != 0)
            fail_msg("%s: %s", others[i], problem_log_text(&f->log));
        assert_int_equal(f->problems, 1);
        assert_false(f->summary.page_digests);
    }
}

static void
test_damaged_backup_pages(void **state)
{
    Fixture *f = *state;

    list(f, "base/5/1", "abc", 3, CHECKSUM_CRC32C);
    put(f, "base/5/1", "abX", 3);
    put(f, "backup_pages", "PGSTOWPD and then nothing of use", 32);
    write_manifest(f);
    assert_true(strncmp(run(f), "PAGE_DIGESTS backup_pages: \"backup_pages\": ", 42) == 0);
    assert_int_equal(f->problems, 2); /* the file itself is told all the same */
    assert_false(f->summary.page_digests);
    f->config.skip_checksums = true;
    assert_string_equal(run(f), "");
}

/* ---- directories ---- */

static void
test_each_required_directory(void **state)
{
    Fixture *f = *state;

    write_manifest(f);
    assert_string_equal(run(f), "");
    for (size_t i = 0; i < REQUIRED_COUNT; i++) {
        char expected[256];

        assert_int_equal(rmdir(place(f, required[i])), 0);
        (void)snprintf(expected, sizeof expected,
                       "DIRECTORY %s: directory \"%s\" is missing: no server starts without it\n",
                       required[i], required[i]);
        assert_string_equal(run(f), expected);
        f->config.ignore = &required[i];
        f->config.ignore_count = 1;
        assert_string_equal(run(f), "");
        f->config.ignore_count = 0;
        assert_int_equal(mkdir(place(f, required[i]), 0700), 0);
    }
}

/* A file in its place is none; of what is behind a link nobody knows. */
static void
test_what_is_no_directory(void **state)
{
    Fixture *f = *state;

    assert_int_equal(rmdir(place(f, "pg_notify")), 0);
    both(f, "pg_notify", "", 0, CHECKSUM_CRC32C);
    assert_int_equal(rmdir(place(f, "pg_logical/mappings")), 0);
    assert_int_equal(rmdir(place(f, "pg_logical/snapshots")), 0);
    assert_int_equal(rmdir(place(f, "pg_logical")), 0);
    assert_int_equal(symlink("..", place(f, "pg_logical")), 0);
    write_manifest(f);
    assert_string_equal(
        run(f), "FILE_TYPE pg_logical: \"pg_logical\" is not a regular file or directory\n"
                "DIRECTORY pg_notify: directory \"pg_notify\" is missing: no server starts without "
                "it\n");
}

/* Servers 13 and 14 need two more; 15 has the same version of pg_control. */
static void
test_directories_of_old_servers(void **state)
{
    static const struct {
        uint32_t catalog;
        bool needs;
    } cases[] = {{202007201, true}, {202107181, true}, {202209061, false}, {202307071, false}};
    Fixture *f = *state;

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        uint8_t control[CONTROL_FILE_SIZE];

        manifest_builder_free(&f->builder);
        manifest_builder_begin(&f->builder, 1, 0);
        make_control(control, 1300, cases[i].catalog, 0);
        both(f, "global/pg_control", control, sizeof control, CHECKSUM_CRC32C);
        write_manifest(f);
        assert_int_equal(count_of(run(f), "DIRECTORY pg_stat"), cases[i].needs ? 2 : 0);
        assert_int_equal(f->problems, cases[i].needs ? 2 : 0);
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_big_files),
        TEST(test_every_kind_with_any_number_of_threads),
        TEST(test_enough_with_any_number_of_threads),
        TEST(test_pages_of_the_cluster),
        TEST(test_pages_without_wal_ranges),
        TEST(test_pages_that_nobody_looks_at),
        TEST(test_clusters_without_checksums),
        TEST(test_pages_without_control),
        TEST(test_file_of_another_size_than_it_had),
        TEST(test_big_file_that_is_gone),
        TEST(test_huge_sparse_file_is_not_many_jobs),
        TEST(test_progress_of_ranges),
        TEST(test_stop_in_threads),
        TEST(test_problems_say_what_was_expected),
        TEST(test_changed_pages_are_named),
        TEST(test_backup_pages_of_another_backup),
        TEST(test_damaged_backup_pages),
        TEST(test_each_required_directory),
        TEST(test_what_is_no_directory),
        TEST(test_directories_of_old_servers),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
