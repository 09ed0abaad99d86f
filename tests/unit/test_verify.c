#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/crc32c.h"
#include "support/manifest_builder.h"
#include "support/problem_log.h"
#include "support/temp_dir.h"
#include "support/wal_builder.h"
#include "verify/internal.h"

#define SYSTEM_ID UINT64_C(7000000000000000001)

/* ---- a backup in DIR/data, its manifest as the test lists it ---- */

typedef struct Fixture {
    TempDir dir;
    ManifestBuilder builder;
    VerifyConfig config;
    ProblemLog log;
    uint64_t problems;
    Error err;
} Fixture;

static void
builder_begin(Fixture *f, uint32_t version)
{
    manifest_builder_free(&f->builder);
    manifest_builder_begin(&f->builder, version, SYSTEM_ID);
}

/* What every server needs; those before 15 need two more. */
static const char *const required[] = {
    "pg_commit_ts", "pg_logical/mappings", "pg_logical/snapshots", "pg_notify", "pg_replslot",
    "pg_subtrans",  "pg_tblspc",           "pg_twophase"};

static int
setup(void **state)
{
    Fixture *f = calloc(1, sizeof *f);
    char place[64];

    temp_dir_make(&f->dir);
    for (size_t i = 0; i < sizeof required / sizeof required[0]; i++) {
        (void)snprintf(place, sizeof place, "data/%s", required[i]);
        temp_dir_mkdir(&f->dir, place);
    }
    manifest_builder_begin(&f->builder, 2, SYSTEM_ID);
    f->config.directory = temp_dir_path(&f->dir, "data");
    f->config.skip_wal = true; /* but where WAL is the matter */
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

/* Below the test directory; lives as long as the fixture. */
static const char *
place(Fixture *f, const char *path)
{
    return temp_dir_path(&f->dir, path);
}

static void
put_bytes(Fixture *f, const char *path, const void *data, size_t len)
{
    char *full = malloc(strlen(path) + sizeof "data/");
    char *slash;

    (void)snprintf(full, strlen(path) + sizeof "data/", "data/%s", path);
    slash = strrchr(full, '/');
    *slash = '\0';
    temp_dir_mkdir(&f->dir, full);
    *slash = '/';
    temp_dir_write(&f->dir, full, data, len);
    free(full);
}

static void
put(Fixture *f, const char *path, const char *content)
{
    put_bytes(f, path, content, strlen(content));
}

static void
list(Fixture *f, const char *path, const char *content, ChecksumType type)
{
    manifest_builder_file(&f->builder, path, content, strlen(content), type);
}

/* On disk and in the manifest. */
static void
both(Fixture *f, const char *path, const char *content)
{
    put(f, path, content);
    list(f, path, content, CHECKSUM_CRC32C);
}

static void
write_manifest(Fixture *f, const char *path)
{
    Buf text = BUF_INIT;

    manifest_builder_finish(&f->builder, &text);
    temp_dir_write(&f->dir, path, text.data, text.len);
    buf_free(&text);
}

static bool
run(Fixture *f)
{
    f->problems = UINT64_MAX;
    f->config.problems = problem_log_sink(&f->log);
    return verify_plain(&f->config, &f->problems, &f->err);
}

/* What is found, as text. */
static const char *
verify(Fixture *f)
{
    write_manifest(f, "data/backup_manifest");
    if (!run(f))
        fail_msg("%s", f->err.message);
    assert_int_equal(f->problems, f->log.count);
    return problem_log_text(&f->log);
}

/* ---- a listener for progress ---- */

typedef struct Told {
    size_t calls;
    VerifyProgress last;
    bool backwards;
    Stop *stop; /* requested at the first call */
} Told;

static void
tell(void *ctx, const VerifyProgress *progress)
{
    Told *told = ctx;

    if (progress->done < told->last.done || progress->done > progress->total)
        told->backwards = true;
    told->last = *progress;
    told->calls++;
    if (told->stop != NULL)
        stop_request(told->stop);
}

/* ---- presence and size ---- */

static void
test_good_backup_has_no_problems(void **state)
{
    static const ChecksumType types[] = {CHECKSUM_NONE,   CHECKSUM_CRC32C, CHECKSUM_SHA224,
                                         CHECKSUM_SHA256, CHECKSUM_SHA384, CHECKSUM_SHA512};
    Fixture *f = *state;
    char path[32];

    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        (void)snprintf(path, sizeof path, "base/%zu", i);
        put(f, path, "content");
        list(f, path, "content", types[i]);
    }
    both(f, "empty", "");
    put(f, "backup_manifest", "is overwritten");
    put(f, "pg_wal/000000010000000000000001", "not looked at");
    put(f, "postgresql.auto.conf", "primary_conninfo = ''\n");
    put(f, "standby.signal", "");
    put(f, "recovery.signal", "");
    temp_dir_mkdir(&f->dir, "data/pg_notify");
    assert_string_equal(verify(f), "");
}

static void
test_every_kind_in_stock_order(void **state)
{
    Fixture *f = *state;

    list(f, "missing", "abc", CHECKSUM_CRC32C);
    put(f, "damaged", "abX");
    list(f, "damaged", "abc", CHECKSUM_CRC32C);
    put(f, "longer", "abcd");
    list(f, "longer", "abc", CHECKSUM_CRC32C);
    put(f, "base/damaged", "Xbc");
    list(f, "base/damaged", "abc", CHECKSUM_SHA512);
    list(f, "base/missing", "", CHECKSUM_CRC32C);
    put(f, "base/empty", "");
    list(f, "base/empty", "abc", CHECKSUM_CRC32C);
    put(f, "zzz", "extra");
    put(f, "base/extra", "");
    assert_int_equal(mkfifo(place(f, "data/pipe"), 0600), 0);
    both(f, "good", "good");
    assert_string_equal(
        verify(f),
        "SIZE base/empty: \"base/empty\" has size 0 on disk but size 3 in the manifest\n"
        "EXTRA base/extra: \"base/extra\" is present on disk but not in the manifest\n"
        "SIZE longer: \"longer\" has size 4 on disk but size 3 in the manifest\n"
        "FILE_TYPE pipe: \"pipe\" is not a regular file or directory\n"
        "EXTRA zzz: \"zzz\" is present on disk but not in the manifest\n"
        "MISSING missing: \"missing\" is present in the manifest but not on disk\n"
        "MISSING base/missing: \"base/missing\" is present in the manifest but not on disk\n"
        "CHECKSUM damaged: checksum mismatch for file \"damaged\"\n"
        "CHECKSUM base/damaged: checksum mismatch for file \"base/damaged\"\n");
}

static void
test_exit_on_each_problem(void **state)
{
    Fixture *f = *state;

    put(f, "extra", "");
    list(f, "missing", "abc", CHECKSUM_CRC32C);
    put(f, "damaged", "abX");
    list(f, "damaged", "abc", CHECKSUM_CRC32C);
    put(f, "sized", "");
    list(f, "sized", "abc", CHECKSUM_CRC32C);
    manifest_builder_wal_range(&f->builder, 1, 0x2000028, 0x2000100);
    write_manifest(f, "data/backup_manifest");
    f->config.skip_wal = false;
    for (uint64_t limit = 1; limit <= 6; limit++) {
        problem_log_free(&f->log);
        f->log = PROBLEM_LOG_INIT;
        f->log.limit = limit;
        assert_true(run(f));
        assert_int_equal(f->problems, limit < 5 ? limit : 5);
        assert_int_equal(f->log.count, f->problems);
    }
    assert_non_null(strstr(problem_log_text(&f->log), "WAL parsing failed for timeline 1"));
}

static void
test_directory_in_place_of_a_file(void **state)
{
    Fixture *f = *state;

    temp_dir_mkdir(&f->dir, "data/file");
    list(f, "file", "abc", CHECKSUM_CRC32C);
    put(f, "dir", "a file");
    list(f, "dir/file", "abc", CHECKSUM_CRC32C);
    assert_string_equal(
        verify(f), "EXTRA dir: \"dir\" is present on disk but not in the manifest\n"
                   "MISSING file: \"file\" is present in the manifest but not on disk\n"
                   "MISSING dir/file: \"dir/file\" is present in the manifest but not on disk\n");
}

static void
test_skip_checksums(void **state)
{
    Fixture *f = *state;

    put(f, "damaged", "abX");
    list(f, "damaged", "abc", CHECKSUM_CRC32C);
    put(f, "sized", "ab");
    list(f, "sized", "abc", CHECKSUM_CRC32C);
    f->config.skip_checksums = true;
    assert_string_equal(verify(f),
                        "SIZE sized: \"sized\" has size 2 on disk but size 3 in the manifest\n");
}

static void
test_ignore_covers_every_kind(void **state)
{
    static const char *const ignore[] = {"base/5", "odd", "damaged", "pg_tblspc/1/x", "missing"};
    Fixture *f = *state;

    put(f, "base/5/extra", "");
    put(f, "base/5/damaged", "abX");
    list(f, "base/5/damaged", "abc", CHECKSUM_CRC32C);
    list(f, "base/5/missing", "abc", CHECKSUM_CRC32C);
    list(f, "missing", "abc", CHECKSUM_CRC32C);
    assert_int_equal(symlink("nowhere", place(f, "data/odd")), 0);
    put(f, "damaged", "abX");
    list(f, "damaged", "abc", CHECKSUM_CRC32C);
    put(f, "pg_tblspc/1/x", "y");
    /* Names that only begin like an ignored one still count. */
    put(f, "base/55", "");
    list(f, "missing2", "abc", CHECKSUM_CRC32C);
    f->config.ignore = ignore;
    f->config.ignore_count = sizeof ignore / sizeof ignore[0];
    assert_string_equal(
        verify(f), "EXTRA base/55: \"base/55\" is present on disk but not in the manifest\n"
                   "MISSING missing2: \"missing2\" is present in the manifest but not on disk\n");
}

static void
test_built_in_ignores_are_of_the_top_only(void **state)
{
    Fixture *f = *state;

    put(f, "base/backup_manifest", "");
    put(f, "base/pg_wal/x", "");
    put(f, "recovery.signal/x", "");
    put(f, "standby.signal2", "");
    put(f, "tablespace_map", "");
    /* Listed, but in an ignored place: not looked for. */
    list(f, "pg_wal/archive_status/000000010000000000000001.done", "", CHECKSUM_CRC32C);
    list(f, "postgresql.auto.conf", "gone", CHECKSUM_CRC32C);
    assert_string_equal(
        verify(f),
        "EXTRA base/backup_manifest: \"base/backup_manifest\" is present on disk but not in the "
        "manifest\n"
        "EXTRA base/pg_wal/x: \"base/pg_wal/x\" is present on disk but not in the manifest\n"
        "EXTRA standby.signal2: \"standby.signal2\" is present on disk but not in the manifest\n"
        "EXTRA tablespace_map: \"tablespace_map\" is present on disk but not in the manifest\n");
}

/* ---- links ---- */

static void
test_tablespace_through_its_link(void **state)
{
    Fixture *f = *state;

    temp_dir_mkdir(&f->dir, "space/PG_18_1/5");
    temp_dir_write(&f->dir, "space/PG_18_1/5/1", "abc", 3);
    temp_dir_write(&f->dir, "space/PG_18_1/5/2", "abX", 3);
    temp_dir_write(&f->dir, "space/PG_18_1/5/3", "", 0);
    temp_dir_mkdir(&f->dir, "data/pg_tblspc");
    assert_int_equal(symlink("../../space", place(f, "data/pg_tblspc/16385")), 0);
    list(f, "pg_tblspc/16385/PG_18_1/5/1", "abc", CHECKSUM_CRC32C);
    list(f, "pg_tblspc/16385/PG_18_1/5/2", "abc", CHECKSUM_CRC32C);
    list(f, "pg_tblspc/16385/PG_18_1/5/4", "abc", CHECKSUM_CRC32C);
    assert_string_equal(verify(f),
                        "EXTRA pg_tblspc/16385/PG_18_1/5/3: \"pg_tblspc/16385/PG_18_1/5/3\" is "
                        "present on disk but not in the manifest\n"
                        "MISSING pg_tblspc/16385/PG_18_1/5/4: \"pg_tblspc/16385/PG_18_1/5/4\" is "
                        "present in the manifest but not on disk\n"
                        "CHECKSUM pg_tblspc/16385/PG_18_1/5/2: checksum mismatch for file "
                        "\"pg_tblspc/16385/PG_18_1/5/2\"\n");
}

static void
test_link_in_place_of_a_file_is_not_read(void **state)
{
    Fixture *f = *state;

    temp_dir_write(&f->dir, "outside", "abc", 3);
    assert_int_equal(symlink("../outside", place(f, "data/file")), 0);
    list(f, "file", "abc", CHECKSUM_CRC32C);
    assert_string_equal(verify(f), "FILE_TYPE file: \"file\" is not a regular file or directory\n");
}

/* One line for the link, none for each of the files that would be behind it. */
static void
test_link_in_place_of_a_directory(void **state)
{
    Fixture *f = *state;

    temp_dir_mkdir(&f->dir, "outside");
    temp_dir_write(&f->dir, "outside/1", "abc", 3);
    assert_int_equal(symlink("../outside", place(f, "data/base")), 0);
    list(f, "base/1", "abc", CHECKSUM_CRC32C);
    list(f, "base/2", "abc", CHECKSUM_CRC32C);
    list(f, "base2", "abc", CHECKSUM_CRC32C);
    assert_string_equal(verify(f),
                        "FILE_TYPE base: \"base\" is not a regular file or directory\n"
                        "MISSING base2: \"base2\" is present in the manifest but not on disk\n");
}

/* Several of them, met in an order that is not that of their paths. */
static void
test_links_in_place_of_directories(void **state)
{
    Fixture *f = *state;

    temp_dir_mkdir(&f->dir, "data/base");
    assert_int_equal(symlink("nowhere", place(f, "data/base/5")), 0);
    assert_int_equal(symlink("nowhere", place(f, "data/base!")), 0);
    assert_int_equal(symlink("nowhere", place(f, "data/base.x")), 0);
    list(f, "base/5/1", "abc", CHECKSUM_CRC32C);
    list(f, "base!/1", "abc", CHECKSUM_CRC32C);
    list(f, "base.x/1", "abc", CHECKSUM_CRC32C);
    assert_string_equal(verify(f),
                        "FILE_TYPE base/5: \"base/5\" is not a regular file or directory\n"
                        "FILE_TYPE base!: \"base!\" is not a regular file or directory\n"
                        "FILE_TYPE base.x: \"base.x\" is not a regular file or directory\n");
}

static void
test_dangling_tablespace_link(void **state)
{
    Fixture *f = *state;

    temp_dir_mkdir(&f->dir, "data/pg_tblspc");
    assert_int_equal(symlink("nowhere", place(f, "data/pg_tblspc/1")), 0);
    assert_int_equal(symlink("2", place(f, "data/pg_tblspc/2")), 0);
    list(f, "pg_tblspc/1/x", "abc", CHECKSUM_CRC32C);
    list(f, "pg_tblspc/2/x", "abc", CHECKSUM_CRC32C);
    assert_string_equal(
        verify(f),
        "UNREADABLE pg_tblspc/1: could not stat file or directory \"pg_tblspc/1\": No such file or "
        "directory\n"
        "UNREADABLE pg_tblspc/2: could not stat file or directory \"pg_tblspc/2\": Too many levels "
        "of symbolic links\n"
        "MISSING pg_tblspc/1/x: \"pg_tblspc/1/x\" is present in the manifest but not on disk\n");
}

/* ---- not readable ---- */

static void
test_unreadable_file_and_directory(void **state)
{
    Fixture *f = *state;
    uid_t nobody = 65534;
    Told told = {.calls = 0};
    const char *text;

    both(f, "base/1", "abc");
    both(f, "locked/1", "abc");
    write_manifest(f, "data/backup_manifest");
    for (size_t i = 0; i < sizeof required / sizeof required[0]; i++) {
        char path[64];

        (void)snprintf(path, sizeof path, "data/%s", required[i]);
        assert_int_equal(chmod(place(f, path), 0755), 0);
    }
    assert_int_equal(chmod(place(f, "data/pg_logical"), 0755), 0);
    assert_int_equal(chmod(place(f, "data/base/1"), 0), 0);
    assert_int_equal(chmod(place(f, "data/base"), 0755), 0);
    assert_int_equal(chmod(place(f, "data/locked"), 0), 0);
    assert_int_equal(chmod(place(f, "data/backup_manifest"), 0644), 0);
    assert_int_equal(chmod(place(f, "data"), 0755), 0);
    assert_int_equal(chmod(f->dir.path, 0755), 0);
    f->config.progress = tell;
    f->config.progress_ctx = &told;
    if (geteuid() == 0)
        assert_int_equal(seteuid(nobody), 0);
    assert_true(run(f));
    if (getuid() == 0)
        assert_int_equal(seteuid(0), 0);
    text = problem_log_text(&f->log);
    assert_string_equal(
        text, "UNREADABLE locked: could not open directory \"locked\": Permission denied\n"
              "UNREADABLE base/1: could not open file \"base/1\": Permission denied\n");
    assert_int_equal(f->problems, 2);
    assert_int_equal(told.last.total, 3); /* what cannot be read is done with all the same */
    assert_int_equal(told.last.done, 3);
    assert_int_equal(chmod(place(f, "data/locked"), 0700), 0);
}

/* ---- checksums ---- */

static void
test_checksum_of_wrong_length(void **state)
{
    Fixture *f = *state;
    Digest digest = {.type = CHECKSUM_SHA256, .len = 4, .bytes = {1, 2, 3, 4}};

    put(f, "a", "abc");
    manifest_builder_entry(&f->builder, "a", 3, &digest);
    assert_string_equal(verify(f),
                        "CHECKSUM a: file \"a\" has checksum of length 4, but expected 32\n");
}

static void
test_large_file_is_digested_whole(void **state)
{
    Fixture *f = *state;
    size_t size = 3 * 1024 * 1024 + 17;
    uint8_t *content = calloc(1, size);

    put_bytes(f, "good", content, size);
    manifest_builder_file(&f->builder, "good", content, size, CHECKSUM_CRC32C);
    put_bytes(f, "even", content, 2 * 1024 * 1024);
    manifest_builder_file(&f->builder, "even", content, 2 * 1024 * 1024, CHECKSUM_SHA256);
    manifest_builder_file(&f->builder, "bad", content, size, CHECKSUM_CRC32C);
    content[size - 1] = 1;
    put_bytes(f, "bad", content, size);
    free(content);
    assert_string_equal(verify(f), "CHECKSUM bad: checksum mismatch for file \"bad\"\n");
}

/* ---- one file, changed after the tree was looked at ---- */

static FileVerdict
check_one(const char *directory, const ManifestFile *file, FileFinding *ret_finding)
{
    const ContentFile content = {.path = file->path, .size = file->size, .listed = file};
    Checker checker;
    Error err = ERROR_INIT;

    assert_true(checker_init(&checker, directory, NULL, &err));
    assert_true(checker_check(&checker, &content, ret_finding, &err));
    checker_free(&checker);
    return ret_finding->verdict;
}

static void
assert_finding_reads(const ManifestFile *file, const FileFinding *finding, const char *expected)
{
    const ContentFile content = {.path = file->path, .size = file->size, .listed = file};
    ProblemLog log = PROBLEM_LOG_INIT;
    ProblemSink sink = problem_log_sink(&log);
    Reporter reporter = REPORTER_INIT(&sink);
    Error err = ERROR_INIT;

    assert_true(report_finding(&reporter, &content, finding, &err));
    assert_string_equal(problem_log_text(&log), expected);
    reporter_free(&reporter);
    problem_log_free(&log);
}

static void
test_file_that_changed_meanwhile(void **state)
{
    static const uint8_t crc[4] = {0xb7, 0x3f, 0x4b, 0x36}; /* of "abc" */
    Fixture *f = *state;
    ManifestFile file = {.path = "x",
                         .checksum = crc,
                         .size = 3,
                         .checksum_type = CHECKSUM_CRC32C,
                         .checksum_len = 4};
    FileFinding finding;

    put(f, "x", "abc");
    assert_int_equal(check_one(f->config.directory, &file, &finding), FILE_AGREES);
    assert_finding_reads(&file, &finding, "");

    put(f, "x", "abcd");
    assert_int_equal(check_one(f->config.directory, &file, &finding), FILE_OTHER_SIZE);
    assert_finding_reads(&file, &finding,
                         "SIZE x: file \"x\" should contain 3 bytes, but read 4\n");
    put(f, "x", "");
    assert_int_equal(check_one(f->config.directory, &file, &finding), FILE_OTHER_SIZE);
    assert_finding_reads(&file, &finding,
                         "SIZE x: file \"x\" should contain 3 bytes, but read 0\n");

    assert_int_equal(unlink(place(f, "data/x")), 0);
    assert_int_equal(check_one(f->config.directory, &file, &finding), FILE_NOT_OPENED);
    assert_finding_reads(&file, &finding,
                         "UNREADABLE x: could not open file \"x\": No such file or directory\n");

    assert_int_equal(symlink("y", place(f, "data/x")), 0);
    put(f, "y", "abc");
    assert_int_equal(check_one(f->config.directory, &file, &finding), FILE_NOT_OPENED);
    assert_int_equal(finding.errnum, ELOOP);
    assert_int_equal(unlink(place(f, "data/x")), 0);

    assert_int_equal(mkfifo(place(f, "data/x"), 0600), 0);
    assert_int_equal(check_one(f->config.directory, &file, &finding), FILE_NOT_REGULAR);
    assert_finding_reads(&file, &finding,
                         "FILE_TYPE x: \"x\" is not a regular file or directory\n");
}

/* Our own memory is a regular file whose first page cannot be read. */
static void
test_file_that_cannot_be_read(void **state)
{
    ManifestFile file = {.path = "mem", .checksum_type = CHECKSUM_CRC32C, .checksum_len = 4};
    FileFinding finding;

    (void)state;
    assert_int_equal(check_one("/proc/self", &file, &finding), FILE_NOT_READ);
    assert_int_equal(finding.errnum, EIO);
    assert_finding_reads(&file, &finding,
                         "UNREADABLE mem: could not read file \"mem\": Input/output error\n");
}

/* A file that grows while it is read is left soon after its due size. */
static void
test_endless_file_is_left(void **state)
{
    Fixture *f = *state;
    ManifestFile file = {.path = "big", .size = 1, .checksum_type = CHECKSUM_CRC32C};
    FileFinding finding;

    put(f, "big", "");
    assert_int_equal(truncate(place(f, "data/big"), (off_t)1 << 40), 0);
    assert_int_equal(check_one(f->config.directory, &file, &finding), FILE_OTHER_SIZE);
    assert_int_equal(finding.read, 1024 * 1024);
}

/* ---- pg_control ---- */

static void
put_le(uint8_t *at, uint64_t value, int bytes)
{
    for (int i = 0; i < bytes; i++)
        at[i] = (uint8_t)(value >> (8 * i));
}

/* As a server of version 18 has it, as far as it is looked at. */
static void
make_control(uint8_t bytes[8192], uint64_t system_id)
{
    memset(bytes, 0, 8192);
    put_le(bytes, system_id, 8);
    put_le(bytes + 8, 1800, 4);
    put_le(bytes + 216, 8192, 4);
    put_le(bytes + 220, 131072, 4);
    put_le(bytes + 224, 8192, 4);
    put_le(bytes + 228, 16 * 1024 * 1024, 4);
    put_le(bytes + 292, crc32c(0, bytes, 292), 4);
}

static void
both_control(Fixture *f, const uint8_t *bytes, size_t len)
{
    put_bytes(f, "global/pg_control", bytes, len);
    manifest_builder_file(&f->builder, "global/pg_control", bytes, len, CHECKSUM_CRC32C);
}

static void
test_control_of_this_cluster(void **state)
{
    Fixture *f = *state;
    uint8_t control[8192];

    make_control(control, SYSTEM_ID);
    both_control(f, control, sizeof control);
    assert_string_equal(verify(f), "");
}

static void
test_control_of_another_cluster(void **state)
{
    Fixture *f = *state;
    uint8_t control[8192];

    make_control(control, 12345);
    both_control(f, control, sizeof control);
    put(f, "a_extra", "");
    f->config.skip_checksums = true; /* makes no difference here */
    assert_string_equal(verify(f),
                        "EXTRA a_extra: \"a_extra\" is present on disk but not in the manifest\n"
                        "SYSTEM_ID global/pg_control: global/pg_control: manifest system "
                        "identifier is 7000000000000000001, but control file has 12345\n");
}

static void
test_damaged_control(void **state)
{
    Fixture *f = *state;
    uint8_t control[8192];

    make_control(control, SYSTEM_ID);
    manifest_builder_file(&f->builder, "global/pg_control", control, sizeof control,
                          CHECKSUM_CRC32C);
    control[40] ^= 1;
    put_bytes(f, "global/pg_control", control, sizeof control);
    assert_string_equal(
        verify(f),
        "CONTROL global/pg_control: global/pg_control: CRC is incorrect\n"
        "CHECKSUM global/pg_control: checksum mismatch for file \"global/pg_control\"\n");
}

static void
test_short_and_unknown_control(void **state)
{
    Fixture *f = *state;
    uint8_t control[8192];

    make_control(control, SYSTEM_ID);
    both_control(f, control, 20);
    assert_string_equal(verify(f), "CONTROL global/pg_control: global/pg_control: control file is "
                                   "too short: 20 bytes\n");

    builder_begin(f, 2);
    problem_log_free(&f->log);
    f->log = PROBLEM_LOG_INIT;
    control[8] = 99;
    control[9] = 0;
    both_control(f, control, sizeof control);
    assert_string_equal(verify(f), "CONTROL global/pg_control: global/pg_control: unsupported "
                                   "control file version 99\n");
}

static void
test_control_of_other_size_is_one_problem(void **state)
{
    Fixture *f = *state;

    put(f, "global/pg_control", "short");
    list(f, "global/pg_control", "longer than that", CHECKSUM_CRC32C);
    assert_string_equal(verify(f), "SIZE global/pg_control: \"global/pg_control\" has size 5 on "
                                   "disk but size 16 in the manifest\n");
}

static void
test_ignored_control_is_not_looked_at(void **state)
{
    static const char *const ignore[] = {"global"};
    Fixture *f = *state;

    both(f, "global/pg_control", "nonsense");
    f->config.ignore = ignore;
    f->config.ignore_count = 1;
    assert_string_equal(verify(f), "");
}

static void
test_version_1_says_nothing_of_the_cluster(void **state)
{
    Fixture *f = *state;

    builder_begin(f, 1);
    both(f, "global/pg_control", "nonsense");
    both(f, "a", "abc");
    put(f, "b", "abX");
    list(f, "b", "abc", CHECKSUM_SHA256);
    assert_string_equal(verify(f), "CHECKSUM b: checksum mismatch for file \"b\"\n");
}

/* ---- WAL ---- */

/* Segments of 1 MiB into data/NAME; the range has two records. */
static void
make_wal(Fixture *f, const char *directory, uint64_t system_id)
{
    WalBuilder wal;
    Span bytes;
    Lsn start;
    char name[64];

    wal_builder_init(&wal, &(WalBuilderConfig){.magic = 0xD118,
                                               .timeline = 1,
                                               .system_id = system_id,
                                               .segment_size = 1 << 20,
                                               .start = 0x200000});
    start = wal_builder_record(&wal, 0, 0x10, 200);
    (void)wal_builder_record(&wal, 0, WAL_BACKUP_END, 34);
    manifest_builder_wal_range(&f->builder, 1, start, wal.end);
    wal_builder_zero(&wal, 0x300000);
    bytes = wal_builder_span(&wal, 0x200000, 0x300000);
    (void)snprintf(name, sizeof name, "%s/000000010000000000000002", directory);
    put_bytes(f, name, bytes.data, bytes.len);
    wal_builder_free(&wal);
}

static void
test_wal_of_the_backup(void **state)
{
    Fixture *f = *state;

    f->config.skip_wal = false;
    make_wal(f, "pg_wal", SYSTEM_ID);
    assert_string_equal(verify(f), "");
}

static void
test_wal_of_another_cluster(void **state)
{
    Fixture *f = *state;
    char expected[1024];

    f->config.skip_wal = false;
    make_wal(f, "pg_wal", 5);
    (void)snprintf(expected, sizeof expected,
                   "WAL %s/pg_wal 0/200000: WAL parsing failed for timeline 1: at LSN 0/200000 in "
                   "segment \"000000010000000000000002\": system identifier is 5, expected "
                   "7000000000000000001\n",
                   f->config.directory);
    assert_string_equal(verify(f), expected);
}

static void
test_wal_directory_elsewhere(void **state)
{
    static const char *const ignore[] = {"other"};
    Fixture *f = *state;

    f->config.skip_wal = false;
    make_wal(f, "other/wal", SYSTEM_ID);
    f->config.wal_directory = place(f, "data/other/wal");
    f->config.ignore = ignore;
    f->config.ignore_count = 1;
    assert_string_equal(verify(f), "");
}

static void
test_wal_through_a_link(void **state)
{
    Fixture *f = *state;

    f->config.skip_wal = false;
    make_wal(f, "../wal", SYSTEM_ID);
    assert_int_equal(symlink("../wal", place(f, "data/pg_wal")), 0);
    assert_string_equal(verify(f), "");
}

static void
test_missing_wal_directory(void **state)
{
    Fixture *f = *state;
    char expected[1024];

    f->config.skip_wal = false;
    manifest_builder_wal_range(&f->builder, 3, 0x2000028, 0x2000100);
    manifest_builder_wal_range(&f->builder, 2, 0x1000028, 0x2000028);
    (void)snprintf(expected, sizeof expected,
                   "WAL %s/pg_wal 0/2000028: WAL parsing failed for timeline 3: at LSN 0/2000028: "
                   "could not open directory \"%s/pg_wal\": No such file or directory\n"
                   "WAL %s/pg_wal 0/1000028: WAL parsing failed for timeline 2: at LSN 0/1000028: "
                   "could not open directory \"%s/pg_wal\": No such file or directory\n",
                   f->config.directory, f->config.directory, f->config.directory,
                   f->config.directory);
    assert_string_equal(verify(f), expected);
}

/* ---- the manifest, the directory ---- */

static void
test_manifest_elsewhere(void **state)
{
    Fixture *f = *state;

    both(f, "a", "abc");
    put(f, "backup_manifest", "nonsense that is not read");
    write_manifest(f, "manifest");
    f->config.manifest_path = temp_dir_path(&f->dir, "manifest");
    assert_true(run(f));
    assert_int_equal(f->problems, 0);
}

static void
test_manifest_that_cannot_be_used_is_an_error(void **state)
{
    Fixture *f = *state;
    char expected[1024];

    assert_false(run(f));
    assert_int_equal(f->err.code, ERR_SYSTEM);
    (void)snprintf(expected, sizeof expected,
                   "could not open file \"%s/backup_manifest\": No such file or directory",
                   f->config.directory);
    assert_string_equal(f->err.message, expected);
    assert_int_equal(f->problems, UINT64_MAX);

    put(f, "backup_manifest", "{ \"PostgreSQL-Backup-Manifest-Version\": 1,\n");
    assert_false(run(f));
    assert_int_equal(f->err.code, ERR_FORMAT);
    assert_int_equal(f->log.count, 0);
}

static void
test_directory_that_cannot_be_opened_is_an_error(void **state)
{
    Fixture *f = *state;
    char expected[1024];

    write_manifest(f, "manifest");
    f->config.manifest_path = temp_dir_path(&f->dir, "manifest");
    f->config.directory = temp_dir_path(&f->dir, "nowhere");
    assert_false(run(f));
    (void)snprintf(expected, sizeof expected,
                   "could not open directory \"%s\": No such file or directory",
                   f->config.directory);
    assert_string_equal(f->err.message, expected);
}

/* ---- progress and stop ---- */

static void
test_progress(void **state)
{
    Fixture *f = *state;
    Told told = {.calls = 0};

    both(f, "a", "abc");
    both(f, "b", "defgh");
    put(f, "none", "not digested");
    list(f, "none", "not digested", CHECKSUM_NONE);
    put(f, "sized", "x");
    list(f, "sized", "xx", CHECKSUM_CRC32C);
    f->config.progress = tell;
    f->config.progress_ctx = &told;
    (void)verify(f);
    assert_int_equal(told.last.total, 8);
    assert_int_equal(told.last.done, 8);
    assert_false(told.backwards);
    assert_in_range(told.calls, 1, 4);
}

static void
test_progress_without_checksums_is_silent(void **state)
{
    Fixture *f = *state;
    Told told = {.calls = 0};

    both(f, "a", "abc");
    f->config.progress = tell;
    f->config.progress_ctx = &told;
    f->config.skip_checksums = true;
    (void)verify(f);
    assert_int_equal(told.calls, 0);
}

static void
test_stop_before_and_within(void **state)
{
    Fixture *f = *state;
    Stop stop;
    Told told = {.stop = &stop};
    size_t size = 8 * 1024 * 1024;
    uint8_t *content = calloc(1, size);

    put_bytes(f, "big", content, size);
    manifest_builder_file(&f->builder, "big", content, size, CHECKSUM_CRC32C);
    put(f, "damaged", "abX");
    list(f, "damaged", "abc", CHECKSUM_CRC32C);
    free(content);
    write_manifest(f, "data/backup_manifest");
    assert_true(stop_init(&stop, &f->err));
    f->config.stop = &stop;
    f->config.progress = tell;
    f->config.progress_ctx = &told;
    f->config.jobs = 1;

    /* The first call comes with the first MiB. */
    assert_false(run(f));
    assert_int_equal(f->err.code, ERR_STOPPED);
    assert_int_equal(told.calls, 1);
    assert_int_equal(told.last.done, 1024 * 1024);
    assert_int_equal(f->log.count, 0);

    assert_false(run(f));
    assert_int_equal(f->err.code, ERR_STOPPED);
    assert_int_equal(told.calls, 1);
    stop_destroy(&stop);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_good_backup_has_no_problems),
        TEST(test_every_kind_in_stock_order),
        TEST(test_exit_on_each_problem),
        TEST(test_directory_in_place_of_a_file),
        TEST(test_skip_checksums),
        TEST(test_ignore_covers_every_kind),
        TEST(test_built_in_ignores_are_of_the_top_only),
        TEST(test_tablespace_through_its_link),
        TEST(test_link_in_place_of_a_file_is_not_read),
        TEST(test_link_in_place_of_a_directory),
        TEST(test_links_in_place_of_directories),
        TEST(test_dangling_tablespace_link),
        TEST(test_unreadable_file_and_directory),
        TEST(test_checksum_of_wrong_length),
        TEST(test_large_file_is_digested_whole),
        TEST(test_file_that_changed_meanwhile),
        TEST(test_file_that_cannot_be_read),
        TEST(test_endless_file_is_left),
        TEST(test_control_of_this_cluster),
        TEST(test_control_of_another_cluster),
        TEST(test_damaged_control),
        TEST(test_short_and_unknown_control),
        TEST(test_control_of_other_size_is_one_problem),
        TEST(test_ignored_control_is_not_looked_at),
        TEST(test_version_1_says_nothing_of_the_cluster),
        TEST(test_wal_of_the_backup),
        TEST(test_wal_of_another_cluster),
        TEST(test_wal_directory_elsewhere),
        TEST(test_wal_through_a_link),
        TEST(test_missing_wal_directory),
        TEST(test_manifest_elsewhere),
        TEST(test_manifest_that_cannot_be_used_is_an_error),
        TEST(test_directory_that_cannot_be_opened_is_an_error),
        TEST(test_progress),
        TEST(test_progress_without_checksums_is_silent),
        TEST(test_stop_before_and_within),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
