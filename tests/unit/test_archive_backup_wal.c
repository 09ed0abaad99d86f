/*
 * What WAL a base backup needs, by backup_label and manifest, in plain and in tar format; and
 * whether it belongs to an archive.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "archive/archive.h"
#include "support/compressed.h"
#include "support/manifest_builder.h"
#include "support/tar_builder.h"
#include "support/temp_dir.h"
#include "support/wal_builder.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define SYSTEM_ID    UINT64_C(7000000000000000001)
#define LABEL                                                                                      \
    "START WAL LOCATION: 2/3000028 (file 0000000A0000000200000003)\n"                              \
    "CHECKPOINT LOCATION: 2/3000060\nBACKUP METHOD: streamed\nSTART TIMELINE: 10\n"

/* ---- the label ---- */

static bool
parse(const char *text, BackupWal *wal, Error *err)
{
    size_t len = strlen(text);
    uint8_t *exact = malloc(len == 0 ? 1 : len);
    bool ok;

    assert_non_null(exact);
    memcpy(exact, text, len);
    ok = backup_label_parse((Span){.data = exact, .len = len}, wal, err);
    free(exact);
    return ok;
}

static void
test_label(void **state)
{
    Error err = ERROR_INIT;
    BackupWal wal;

    (void)state;
    assert_true(parse(LABEL, &wal, &err));
    assert_int_equal(wal.timeline, 10);
    assert_int_equal(wal.start, 0x203000028);
    assert_int_equal(wal.end, LSN_INVALID);
    assert_int_equal(wal.system_id, 0);
    assert_string_equal(wal.first_file, "0000000A0000000200000003");
}

static void
test_no_label(void **state)
{
    static const char *const texts[] = {
        "",
        "\n",
        "START WAL LOCATION: \n",
        "START WAL LOCATION: 2/3000028\n",
        "START WAL LOCATION: 2/3000028 (file 0000000A0000000200000003)",
        "START WAL LOCATION: 2/3000028 (file 0000000A0000000200000003\n",
        "START WAL LOCATION: 2/3000028 (file 0000000A0000000200000003) \n",
        "START WAL LOCATION: 2/3000028 (file 000000A0000000200000003)\n",
        "START WAL LOCATION: 2/3000028 (file 000000000000000200000003)\n",
        "START WAL LOCATION: 2/3000028 (file 0000000a0000000200000003)\n",
        "START WAL LOCATION: 0/0 (file 0000000A0000000200000003)\n",
        "START WAL LOCATION: 23000028 (file 0000000A0000000200000003)\n",
        "START WAL LOCATION: 2/3000028 (file )\n",
        "start wal location: 2/3000028 (file 0000000A0000000200000003)\n",
        ("CHECKPOINT LOCATION: 2/3000060\n"
         "START WAL LOCATION: 2/3000028 (file 0000000A0000000200000003)\n"),
    };

    (void)state;
    for (size_t i = 0; i < COUNT(texts); i++) {
        BackupWal wal = {.timeline = 77};
        Error err = ERROR_INIT;

        if (parse(texts[i], &wal, &err))
            fail_msg("%zu: no label", i);
        assert_int_equal(err.code, ERR_FORMAT);
        assert_int_equal(wal.timeline, 77);
    }
}

/* ---- backups ---- */

static void
write_label(TempDir *dir)
{
    temp_dir_write(dir, "backup_label", LABEL, strlen(LABEL));
}

static void
write_manifest(TempDir *dir, uint32_t version, TimeLineID timeline, Lsn start, Lsn end)
{
    ManifestBuilder builder;
    Buf text = BUF_INIT;

    manifest_builder_begin(&builder, version, SYSTEM_ID);
    manifest_builder_wal_range(&builder, timeline, start, end);
    manifest_builder_finish(&builder, &text);
    temp_dir_write(dir, "backup_manifest", text.data, text.len);
    buf_free(&text);
}

static void
write_archive(TempDir *dir, const char *name, Buf *tar, CompressionMethod method)
{
    if (method == COMPRESSION_NONE) {
        temp_dir_write(dir, name, tar->data, tar->len);
    } else {
        Buf packed = compressed(method, (Span){.data = tar->data, .len = tar->len});

        temp_dir_write(dir, name, packed.data, packed.len);
        buf_free(&packed);
    }
}

static void
read_backup(TempDir *dir, BackupWal *wal)
{
    Error err = ERROR_INIT;

    if (!backup_wal_read(dir->path, wal, &err))
        fail_msg("%s", err.message);
}

static void
assert_refused(TempDir *dir, ErrorCode code, const char *text)
{
    Error err = ERROR_INIT;
    BackupWal wal;

    assert_false(backup_wal_read(dir->path, &wal, &err));
    assert_int_equal(err.code, code);
    if (strstr(err.message, text) == NULL)
        fail_msg("\"%s\" is not in \"%s\"", text, err.message);
}

static void
test_plain(void **state)
{
    TempDir dir;
    BackupWal wal;

    (void)state;
    temp_dir_make(&dir);
    write_label(&dir);
    write_manifest(&dir, 2, 10, 0x203000028, 0x204000100);
    read_backup(&dir, &wal);
    assert_int_equal(wal.timeline, 10);
    assert_int_equal(wal.start, 0x203000028);
    assert_int_equal(wal.end, 0x204000100);
    assert_int_equal(wal.end_timeline, 10);
    assert_int_equal(wal.system_id, SYSTEM_ID);
    assert_string_equal(wal.first_file, "0000000A0000000200000003");
    temp_dir_remove(&dir);
}

/* Of the servers before 13, and when nobody wanted one. */
static void
test_without_manifest(void **state)
{
    TempDir dir;
    BackupWal wal;

    (void)state;
    temp_dir_make(&dir);
    write_label(&dir);
    read_backup(&dir, &wal);
    assert_int_equal(wal.start, 0x203000028);
    assert_int_equal(wal.end, LSN_INVALID);
    assert_int_equal(wal.system_id, 0);
    temp_dir_remove(&dir);
}

/* When the archives are somewhere else, or encrypted. */
static void
test_manifest_alone(void **state)
{
    TempDir dir;
    BackupWal wal;

    (void)state;
    temp_dir_make(&dir);
    write_manifest(&dir, 1, 3, 0x203000028, 0x204000100);
    read_backup(&dir, &wal);
    assert_int_equal(wal.timeline, 3);
    assert_int_equal(wal.start, 0x203000028);
    assert_int_equal(wal.end, 0x204000100);
    assert_int_equal(wal.system_id, 0);
    assert_string_equal(wal.first_file, "");
    temp_dir_remove(&dir);
}

/* A backup of a standby whose primary was promoted meanwhile. */
static void
test_two_ranges(void **state)
{
    ManifestBuilder builder;
    Buf text = BUF_INIT;
    TempDir dir;
    BackupWal wal;

    (void)state;
    temp_dir_make(&dir);
    manifest_builder_begin(&builder, 1, 0);
    manifest_builder_wal_range(&builder, 2, 0x5000000, 0x6000000);
    manifest_builder_wal_range(&builder, 1, 0x4000028, 0x5000000);
    manifest_builder_finish(&builder, &text);
    temp_dir_write(&dir, "backup_manifest", text.data, text.len);
    read_backup(&dir, &wal);
    assert_int_equal(wal.timeline, 1);
    assert_int_equal(wal.start, 0x4000028);
    assert_int_equal(wal.end, 0x6000000);
    assert_int_equal(wal.end_timeline, 2);
    buf_free(&text);
    temp_dir_remove(&dir);
}

/* ---- tar format ---- */

static void
test_tar(void **state)
{
    static const struct {
        const char *name;
        CompressionMethod method;
    } cases[] = {{"base.tar", COMPRESSION_NONE},
                 {"base.tar.gz", COMPRESSION_GZIP},
                 {"base.tgz", COMPRESSION_GZIP},
                 {"base.tar.lz4", COMPRESSION_LZ4},
                 {"base.tar.zst", COMPRESSION_ZSTD}};

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        Buf tar = BUF_INIT;
        TempDir dir;
        BackupWal wal;

        temp_dir_make(&dir);
        tar_add(&tar, &(TarMember){TAR_FILE("backup_label", LABEL)});
        tar_add(&tar, &(TarMember){TAR_FILE("PG_VERSION", "18\n")});
        write_archive(&dir, cases[i].name, &tar, cases[i].method);
        read_backup(&dir, &wal);
        assert_int_equal(wal.start, 0x203000028);
        assert_int_equal(wal.system_id, 0);
        buf_free(&tar);
        temp_dir_remove(&dir);
    }
}

static void
test_odd_tar(void **state)
{
    Buf tar = BUF_INIT;
    TempDir dir;

    (void)state;
    temp_dir_make(&dir);
    tar_add(&tar, &(TarMember){TAR_FILE("PG_VERSION", "18\n")});
    tar_add(&tar, &(TarMember){TAR_FILE("backup_label", LABEL)});
    write_archive(&dir, "base.tar", &tar, COMPRESSION_NONE);
    assert_refused(&dir, ERR_FORMAT, "its first member is \"PG_VERSION\"");
    buf_clear(&tar);
    tar_add(&tar, &(TarMember){TAR_FILE("backup_label", LABEL), .claim = 100000});
    write_archive(&dir, "base.tar", &tar, COMPRESSION_NONE);
    assert_refused(&dir, ERR_FORMAT, "cut short");
    tar.len = 100;
    write_archive(&dir, "base.tar", &tar, COMPRESSION_NONE);
    assert_refused(&dir, ERR_FORMAT, "cut short");
    temp_dir_write(&dir, "base.tar", "", 0);
    assert_refused(&dir, ERR_FORMAT, "size is 0");
    buf_free(&tar);
    temp_dir_remove(&dir);
}

/* The WAL of a backup in tar format tells of the cluster; a history file is in front of it. */
static void
test_cluster_of_tar(void **state)
{
    WalBuilderConfig config = {.magic = 0xD118,
                               .timeline = 10,
                               .system_id = SYSTEM_ID,
                               .segment_size = 1 << 20,
                               .start = 0x203000000};
    Buf label = BUF_INIT;
    Buf tar = BUF_INIT;
    WalBuilder wal_builder;
    TempDir dir;
    BackupWal wal;
    Span page;

    (void)state;
    temp_dir_make(&dir);
    tar_add(&label, &(TarMember){TAR_FILE("backup_label", LABEL)});
    write_archive(&dir, "base.tar.gz", &label, COMPRESSION_GZIP);
    wal_builder_init(&wal_builder, &config);
    (void)wal_builder_record(&wal_builder, 10, 0, 9000);
    page = wal_builder_span(&wal_builder, wal_builder.begin, wal_builder.end);
    tar_add(&tar, &(TarMember){TAR_FILE("0000000A.history", "1\t0/5000000\tno reason\n")});
    tar_add(&tar,
            &(TarMember){.name = "0000000A0000000200000003", .data = page.data, .size = page.len});
    write_archive(&dir, "pg_wal.tar.gz", &tar, COMPRESSION_GZIP);
    read_backup(&dir, &wal);
    assert_int_equal(wal.system_id, SYSTEM_ID);
    wal_builder_free(&wal_builder);
    buf_free(&label);
    buf_free(&tar);
    temp_dir_remove(&dir);
}

/* ---- what is refused ---- */

static void
test_no_backup(void **state)
{
    Error err = ERROR_INIT;
    BackupWal wal;
    TempDir dir;

    (void)state;
    temp_dir_make(&dir);
    assert_refused(&dir, ERR_FORMAT, "holds no backup");
    temp_dir_write(&dir, "backup_manifest.tmp", "", 0);
    assert_false(backup_wal_read(dir.path, &wal, &err));
    assert_non_null(strstr(err.hint, "never completed"));
    temp_dir_remove(&dir);

    err = ERROR_INIT;
    assert_false(backup_wal_read("/nowhere", &wal, &err));
    assert_int_equal(err.code, ERR_SYSTEM);
}

static void
test_damaged(void **state)
{
    TempDir dir;

    (void)state;
    temp_dir_make(&dir);
    temp_dir_write(&dir, "backup_label", "nonsense\n", 9);
    assert_refused(&dir, ERR_FORMAT, "backup_label\"");
    write_label(&dir);
    write_manifest(&dir, 1, 1, 0x5000000, 0x4000000);
    assert_refused(&dir, ERR_FORMAT, "impossible range");
    write_manifest(&dir, 1, 1, 0, 0);
    assert_refused(&dir, ERR_FORMAT, "impossible range");
    temp_dir_write(&dir, "backup_manifest", "nonsense\n", 9);
    assert_refused(&dir, ERR_FORMAT, "");
    temp_dir_remove(&dir);
}

/* ---- beside an archive ---- */

static void
test_other_cluster(void **state)
{
    Inventory archive = {.directory = "a", .system_id = 1, .segment_size = 16u << 20};
    BackupWal wal = {.timeline = 1, .start = 0x2000028, .system_id = 2};
    Error err = ERROR_INIT;

    (void)state;
    assert_false(backup_wal_check(&wal, &archive, &err));
    assert_int_equal(err.code, ERR_MISMATCH);
    err = ERROR_INIT;
    wal.system_id = 0;
    assert_true(backup_wal_check(&wal, &archive, &err));
    wal.system_id = 2;
    archive.system_id = 0;
    assert_true(backup_wal_check(&wal, &archive, &err));
}

static void
test_other_segment_size(void **state)
{
    Inventory archive = {.directory = "a", .segment_count = 1, .segment_size = 16u << 20};
    BackupWal wal = {.timeline = 1, .start = 0x8000028, .first_file = "000000010000000000000002"};
    Error err = ERROR_INIT;

    (void)state;
    assert_false(backup_wal_check(&wal, &archive, &err));
    assert_int_equal(err.code, ERR_MISMATCH);
    err = ERROR_INIT;
    archive.segment_size = 64u << 20;
    assert_true(backup_wal_check(&wal, &archive, &err));
}

static void
test_missing(void **state)
{
    static const char *const names[] = {"000000010000000000000002.gz",
                                        "000000010000000000000003.partial",
                                        "000000020000000000000004", "000000020000000000000006"};
    BackupWal wal = {.timeline = 1, .start = 0x2000028, .end = 0x5000000};
    Error err = ERROR_INIT;
    Inventory archive;
    uint64_t number;
    TempDir dir;

    (void)state;
    temp_dir_make(&dir);
    for (size_t i = 0; i < COUNT(names); i++)
        temp_dir_write(&dir, names[i], "x", 1);
    assert_true(inventory_read(&archive, dir.path, &err));
    assert_false(backup_wal_missing(&wal, &archive, &number));
    wal.end++;
    assert_true(backup_wal_missing(&wal, &archive, &number));
    assert_int_equal(number, 5);
    wal.end = LSN_INVALID;
    assert_false(backup_wal_missing(&wal, &archive, &number));
    wal.timeline = 3;
    assert_true(backup_wal_missing(&wal, &archive, &number));
    assert_int_equal(number, 2);
    wal = (BackupWal){.timeline = 1, .start = 0x2000028, .end = LSN_MAX};
    assert_true(backup_wal_missing(&wal, &archive, &number));
    assert_int_equal(number, 5);
    inventory_free(&archive);
    temp_dir_remove(&dir);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_label),
        cmocka_unit_test(test_no_label),
        cmocka_unit_test(test_plain),
        cmocka_unit_test(test_without_manifest),
        cmocka_unit_test(test_manifest_alone),
        cmocka_unit_test(test_two_ranges),
        cmocka_unit_test(test_tar),
        cmocka_unit_test(test_odd_tar),
        cmocka_unit_test(test_cluster_of_tar),
        cmocka_unit_test(test_no_backup),
        cmocka_unit_test(test_damaged),
        cmocka_unit_test(test_other_cluster),
        cmocka_unit_test(test_other_segment_size),
        cmocka_unit_test(test_missing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
