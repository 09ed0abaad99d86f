/*
 * Pages that are looked at on their way: what is told of damaged ones, and that a backup which has
 * them is kept, whole, without the name that says that all is well.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "backup_peer.h"
#include "common/crc32c.h"
#include "manifest/page_digests.h"
#include "peer.h"
#include "pgformat/page.h"
#include "support/tar_walk.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define TYPED        "18.4"
#define PLAIN        "14.19"
#define PAGE         8192u
#define TABLE        "base/1/1259"

#define BAD_PAGES_HEAD                                                                             \
    "Data pages of this backup have wrong checksums. It is complete and was kept because it may\n" \
    "be the last copy; its manifest, if it has one, is backup_manifest.tmp.\n"

static const char *const both[] = {TYPED, PLAIN};

/* A relation of a few pages. */
typedef struct Table {
    uint8_t bytes[8 * PAGE];
    size_t pages;
} Table;

static int
set_up(void **state)
{
    return backup_peer_set_up(state, TYPED);
}

static void
start_again(BackupPeer *peer, const char *version)
{
    backup_peer_again(peer, version);
    peer->fake.checksums = true;
}

static void
put16(uint8_t *at, uint16_t value)
{
    at[0] = (uint8_t)value;
    at[1] = (uint8_t)(value >> 8);
}

/* One more page, last changed at `lsn`, with the checksum that block `block` should have. */
static uint8_t *
add_page(Table *table, uint32_t block, uint32_t lsn)
{
    uint8_t *page = table->bytes + table->pages++ * PAGE;

    for (size_t i = 0; i < PAGE; i++)
        page[i] = (uint8_t)(i * 7 + block);
    memset(page, 0, 24);
    put16(page + 4, (uint16_t)lsn);
    put16(page + 6, (uint16_t)(lsn >> 16));
    put16(page + 12, 40);
    put16(page + 14, PAGE - 1000);
    put16(page + 16, PAGE);
    put16(page + 18, PAGE + 4);
    put16(page + 8, page_checksum(page, PAGE, block));
    return page;
}

static void
spoil(uint8_t *page)
{
    page[PAGE - 1] ^= 1;
}

static void
send_table(BackupPeer *peer, Oid oid, const char *path, const Table *table)
{
    fake_backup_data(&peer->fake, oid, path,
                     (Span){.data = table->bytes, .len = table->pages * PAGE});
}

/* Two pages, of which the second is bad. */
static void
send_bad_table(BackupPeer *peer)
{
    Table table = {.pages = 0};

    (void)add_page(&table, 0, 0x1000000);
    spoil(add_page(&table, 1, 0x1000000));
    send_table(peer, 0, TABLE, &table);
}

/* ---- pages that are as they should be ---- */

static void
test_good_pages(void **state)
{
    for (size_t i = 0; i < COUNT(both) * 3; i++) {
        static const size_t pieces[] = {1000, PAGE, 100000};
        BackupPeer *peer = *state;
        Table table = {.pages = 0};

        start_again(peer, both[i % 2]);
        peer->fake.piece = pieces[i / 2];
        for (uint32_t block = 0; block < 8; block++)
            (void)add_page(&table, block, 0x1000000 + block);
        send_table(peer, 0, TABLE, &table);
        backup_peer_run(peer);
        backup_peer_assert_taken(peer);
        assert_non_null(strstr(backup_peer_told(peer, "completed "), " pages=8 bad=0"));
        assert_false(temp_dir_exists(&peer->dir, "target/backup_bad_pages"));
    }
}

/* New ones have no checksum yet; recovery mends those that were being written. */
static void
test_pages_that_do_not_count(void **state)
{
    BackupPeer *peer = *state;
    Table table = {.pages = 0};

    start_again(peer, TYPED);
    (void)add_page(&table, 0, 0x1000000);
    memset(table.bytes + PAGE, 0, PAGE);
    table.pages++;
    spoil(add_page(&table, 2, (uint32_t)FAKE_START));
    send_table(peer, 0, TABLE, &table);
    backup_peer_run(peer);
    backup_peer_assert_taken(peer);
    assert_non_null(strstr(backup_peer_told(peer, "completed "), " pages=1 bad=0"));
}

/* ---- bad pages ---- */

static void
assert_kept(BackupPeer *peer)
{
    backup_peer_assert_error(peer, ERR_MISMATCH, "checksum error occurred");
    assert_string_equal(peer->err.message, "checksum error occurred");
    assert_non_null(strstr(peer->err.hint, "file \"backup_bad_pages\""));
    assert_non_null(strstr(peer->err.hint, "backup_manifest.tmp"));
    assert_false(backup_peer_was_told(peer, "info: "));
    assert_true(temp_dir_exists(&peer->dir, "target/backup_manifest.tmp"));
    assert_false(temp_dir_exists(&peer->dir, "target/backup_manifest"));
}

/* The list beside the backup has what was told. */
static void
assert_bad_pages(BackupPeer *peer, const char *middle)
{
    Buf expected = BUF_INIT;
    Error err = ERROR_INIT;
    const char *told = buf_text(&peer->told);

    assert_true(buf_printf(&expected, &err, "%s%s", BAD_PAGES_HEAD, middle));
    while ((told = strstr(told, "\nproblem: ")) != NULL) {
        told += strlen("\nproblem: ");
        assert_true(buf_printf(&expected, &err, "%.*s\n", (int)strcspn(told, "\n"), told));
    }
    backup_peer_assert_file(peer, "target/backup_bad_pages", buf_text(&expected));
    buf_free(&expected);
}

static void
test_bad_page(void **state)
{
    for (size_t i = 0; i < COUNT(both) * 2; i++) {
        BackupPeer *peer = *state;

        start_again(peer, both[i % 2]);
        peer->options.wal_method = i < 2 ? WAL_NONE : WAL_STREAM;
        peer->options.sync = SYNC_FSYNC;
        send_bad_table(peer);
        backup_peer_run(peer);
        assert_kept(peer);
        assert_non_null(strstr(backup_peer_told(peer, "problem: "), TABLE));
        assert_non_null(strstr(backup_peer_told(peer, "problem: "), "block 1"));
        assert_bad_pages(peer, "");
        assert_non_null(strstr(backup_peer_told(peer, "completed "), " pages=2 bad=1"));
        assert_non_null(strstr(backup_peer_told(peer, "completed "), " durable"));
        /* All of it is there, and agrees with the manifest. */
        (void)backup_peer_told(peer, "note: verified 6 files");
        (void)backup_peer_told(peer, "note: syncing");
        backup_peer_assert_file(peer, "target/global/pg_control", "control");
        assert_int_equal(temp_dir_mode(&peer->dir, "target/backup_bad_pages") & 07777, 0600);
        assert_false(backup_peer_was_told(peer, "note: base backup completed"));
    }
}

/* A few of a file are told one by one, then how many there are. */
static void
test_many_bad_pages(void **state)
{
    BackupPeer *peer = *state;
    Table table = {.pages = 0};
    size_t lines = 0;
    const char *at;

    start_again(peer, TYPED);
    for (uint32_t block = 0; block < 8; block++)
        spoil(add_page(&table, block, 0x1000000));
    send_table(peer, 0, TABLE, &table);
    fake_backup_tablespace(&peer->fake, 16385, "/srv/ts");
    send_table(peer, 16385, "PG_18_202506291/1/1260", &table);
    peer->options.mappings =
        &(TablespaceMapping){.from = "/srv/ts", .to = temp_dir_path(&peer->dir, "ts")};
    peer->options.mapping_count = 1;
    backup_peer_run(peer);
    assert_kept(peer);
    at = buf_text(&peer->told);
    while ((at = strstr(at, "\nproblem: ")) != NULL) {
        at++;
        lines++;
    }
    assert_int_equal(lines, 2 * (PAGE_REPORTS_PER_FILE + 2));
    assert_bad_pages(peer, "");
    assert_non_null(strstr(buf_text(&peer->told), "pg_tblspc/16385/PG_18_202506291/1/1260"));
    assert_non_null(strstr(backup_peer_told(peer, "completed "), " pages=16 bad=16"));
}

/* The server has seen them too. */
static void
test_bad_page_that_the_server_reports(void **state)
{
    BackupPeer *peer = *state;

    start_again(peer, TYPED);
    peer->fake.damaged = true;
    send_bad_table(peer);
    backup_peer_run(peer);
    assert_kept(peer);
    assert_bad_pages(peer, "The server reported checksum failures while it sent.\n");
}

static void
test_bad_page_without_manifest(void **state)
{
    static const char *const versions[] = {"11.22", TYPED};

    for (size_t i = 0; i < COUNT(versions); i++) {
        BackupPeer *peer = *state;

        start_again(peer, versions[i]);
        peer->options.manifest = MANIFEST_NO;
        send_bad_table(peer);
        backup_peer_run(peer);
        backup_peer_assert_error(peer, ERR_MISMATCH, "checksum error occurred");
        assert_null(strstr(peer->err.hint, "manifest"));
        assert_bad_pages(peer, "");
        assert_false(temp_dir_exists(&peer->dir, "target/backup_manifest.tmp"));
    }
}

/* Damaged here and damaged on the way are two things. */
static void
test_bad_page_and_damage_on_the_way(void **state)
{
    BackupPeer *peer = *state;

    start_again(peer, TYPED);
    send_bad_table(peer);
    fake_backup_listed(&peer->fake, "lost", "");
    backup_peer_run(peer);
    backup_peer_assert_failed_begins(peer, ERR_MISMATCH, "the backup as received");
}

static void
test_bad_page_with_no_clean(void **state)
{
    BackupPeer *peer = *state;

    start_again(peer, TYPED);
    peer->options.no_clean = true;
    send_bad_table(peer);
    backup_peer_run(peer);
    backup_peer_assert_error(peer, ERR_MISMATCH, "checksum error occurred");
    assert_bad_pages(peer, "");
}

/* ---- in archives ---- */

static void
assert_kept_archive(BackupPeer *peer, const char *name)
{
    Buf got = backup_peer_unpacked(peer, name);
    Buf sent = backup_peer_sent_tar(peer, 0);

    assert_int_equal(got.len, sent.len);
    assert_memory_equal(got.data, sent.data, sent.len);
    buf_free(&got);
    buf_free(&sent);
}

static void
test_bad_page_in_an_archive(void **state)
{
    for (size_t i = 0; i < COUNT(both) * 2; i++) {
        BackupPeer *peer = *state;

        start_again(peer, both[i % 2]);
        peer->options.format = FORMAT_TAR;
        if (i >= 2)
            peer->options.compression = (Compression){.method = COMPRESSION_LZ4};
        send_bad_table(peer);
        backup_peer_run(peer);
        assert_kept(peer);
        assert_bad_pages(peer, "");
        assert_kept_archive(peer, i < 2 ? "target/base.tar" : "target/base.tar.lz4");
        assert_int_equal(backup_peer_entries(peer, "target"), 3);
    }
}

static void
test_bad_page_in_a_compressed_archive(void **state)
{
    BackupPeer *peer = *state;

    start_again(peer, TYPED);
    peer->options.format = FORMAT_TAR;
    peer->options.server_compression = "zstd";
    send_bad_table(peer);
    backup_peer_run(peer);
    assert_kept(peer);
    assert_bad_pages(peer, "");
    assert_kept_archive(peer, "target/base.tar.zst");
}

/* Looked at although there is no manifest to compare with. */
static void
test_bad_page_in_an_archive_without_manifest(void **state)
{
    BackupPeer *peer = *state;

    start_again(peer, "12.22");
    peer->options.format = FORMAT_TAR;
    send_bad_table(peer);
    backup_peer_run(peer);
    backup_peer_assert_error(peer, ERR_MISMATCH, "checksum error occurred");
    assert_bad_pages(peer, "");
    assert_kept_archive(peer, "target/base.tar");
    assert_int_equal(backup_peer_entries(peer, "target"), 2);
}

static void
test_bad_page_on_standard_output(void **state)
{
    BackupPeer *peer = *state;
    TarFound found;

    start_again(peer, TYPED);
    peer->options.format = FORMAT_TAR;
    peer->options.directory = "-";
    send_bad_table(peer);
    backup_peer_run(peer);
    backup_peer_assert_failed(peer, ERR_MISMATCH, "checksum error occurred");
    (void)backup_peer_told(peer, "problem: ");
    assert_true(tar_find(tar_span(&peer->printed), TABLE, &found));
    assert_int_equal(found.content.len, 2 * PAGE);
    assert_false(tar_find(tar_span(&peer->printed), "backup_manifest", &found));
}

/* ---- when nothing is looked at ---- */

static void
test_nothing_is_looked_at(void **state)
{
    static const struct {
        const char *version;
        bool checksums;
        bool no_verify;
        bool asked;
    } cases[] = {
        {TYPED, false, false, true},
        {TYPED, true, true, false},
        {PLAIN, true, true, false},
        /* It would see pages that were being written. */
        {"10.23", true, false, false},
    };

    for (size_t i = 0; i < COUNT(cases) * 2; i++) {
        BackupPeer *peer = *state;

        start_again(peer, cases[i / 2].version);
        peer->fake.checksums = cases[i / 2].checksums;
        peer->options.no_verify_checksums = cases[i / 2].no_verify;
        peer->options.format = i % 2 == 0 ? FORMAT_PLAIN : FORMAT_TAR;
        send_bad_table(peer);
        backup_peer_run(peer);
        if (i % 2 == 0)
            backup_peer_assert_taken(peer);
        else
            backup_peer_assert_archives(peer);
        assert_int_equal(backup_peer_query(peer, "SHOW data_checksums") != NULL,
                         cases[i / 2].asked);
        assert_null(strstr(backup_peer_told(peer, "completed "), "pages="));
    }
}

/* ---- page digests ---- */

/* They tell of all relation files that were sent: the table, and two that each server has. */
static void
assert_page_digests(BackupPeer *peer, const uint8_t *table, size_t pages)
{
    Error err = ERROR_INIT;
    PageDigests *digests =
        page_digests_open(temp_dir_path(&peer->dir, "target/backup_pages"), &err);
    PageDigestFile file;
    uint32_t crc;

    if (digests == NULL)
        fail_msg("%s", err.message);
    assert_int_equal(page_digests_page_size(digests), PAGE);
    assert_int_equal(page_digests_count(digests), 3);
    assert_true(page_digests_find(digests, "base/1/1247", &file));
    assert_true(page_digests_find(digests, "base/1/1248", &file));
    assert_int_equal(file.size, 0);
    assert_true(page_digests_find(digests, TABLE, &file));
    assert_int_equal(file.size, pages * PAGE);
    for (size_t i = 0; i < pages; i++) {
        assert_true(page_digests_read(digests, &file, i, &crc, 1, &err));
        assert_true(crc == crc32c(0, table + i * PAGE, PAGE));
    }
    page_digests_close(digests);
    assert_false(temp_dir_exists(&peer->dir, "target/backup_pages.tmp"));
    assert_int_equal(temp_dir_mode(&peer->dir, "target/backup_pages") & 07777, 0600);
}

static void
test_page_digests(void **state)
{
    for (size_t i = 0; i < COUNT(both) * 4; i++) {
        static const size_t pieces[] = {1000, 100000};
        BackupPeer *peer = *state;
        Table table = {.pages = 0};

        start_again(peer, both[i % 2]);
        peer->fake.piece = pieces[i / 2 % 2];
        peer->options.page_digests = true;
        peer->options.format = i < 4 ? FORMAT_PLAIN : FORMAT_TAR;
        peer->options.sync = i % 2 == 0 ? SYNC_NONE : SYNC_FSYNC;
        for (uint32_t block = 0; block < 8; block++)
            (void)add_page(&table, block, 0x1000000 + block);
        send_table(peer, 0, TABLE, &table);
        backup_peer_run(peer);
        backup_peer_assert_completed(peer);
        assert_page_digests(peer, table.bytes, 8);
        assert_true(temp_dir_exists(&peer->dir, "target/backup_manifest"));
        /* The manifest's name says that all is there. */
        assert_true(strstr(buf_text(&peer->told), "renaming backup_pages.tmp") <
                    strstr(buf_text(&peer->told), "renaming backup_manifest.tmp"));
        assert_non_null(strstr(backup_peer_told(peer, "completed "), " pages=8 bad=0"));
    }
}

/* The server must be asked for the size of a page, but not to verify any. */
static void
test_page_digests_without_verifying(void **state)
{
    BackupPeer *peer = *state;
    Table table = {.pages = 0};

    start_again(peer, TYPED);
    peer->options.page_digests = true;
    peer->options.no_verify_checksums = true;
    spoil(add_page(&table, 0, 0x1000000));
    send_table(peer, 0, TABLE, &table);
    backup_peer_run(peer);
    backup_peer_assert_taken(peer);
    assert_page_digests(peer, table.bytes, 1);
    assert_null(strstr(backup_peer_told(peer, "completed "), "pages="));
}

/* It is kept, and with it what tells its pages. */
static void
test_page_digests_of_a_backup_with_bad_pages(void **state)
{
    for (size_t i = 0; i < 2; i++) {
        BackupPeer *peer = *state;
        Table table = {.pages = 0};

        start_again(peer, TYPED);
        peer->options.page_digests = true;
        peer->options.format = i == 0 ? FORMAT_PLAIN : FORMAT_TAR;
        (void)add_page(&table, 0, 0x1000000);
        spoil(add_page(&table, 1, 0x1000000));
        send_table(peer, 0, TABLE, &table);
        backup_peer_run(peer);
        assert_kept(peer);
        assert_page_digests(peer, table.bytes, 2);
    }
}

/* A backup that fails leaves nothing, or with --no-clean nothing under its name. */
static void
test_page_digests_of_a_backup_that_fails(void **state)
{
    for (size_t i = 0; i < 2; i++) {
        BackupPeer *peer = *state;

        start_again(peer, TYPED);
        peer->options.page_digests = true;
        peer->options.no_clean = i == 1;
        fake_backup_listed(&peer->fake, "lost", "");
        backup_peer_run(peer);
        backup_peer_assert_error(peer, ERR_MISMATCH, "the backup as received");
        assert_int_equal(temp_dir_exists(&peer->dir, "target/backup_pages.tmp"), i == 1);
        assert_false(temp_dir_exists(&peer->dir, "target/backup_pages"));
    }
}

/* What the server has under the file's name, left over from a restored backup. */
static void
test_page_digests_whose_name_is_taken(void **state)
{
    static const char *const names[] = {"backup_pages", "backup_pages.tmp"};

    for (size_t i = 0; i < COUNT(names) * 3; i++) {
        BackupPeer *peer = *state;
        const char *name = names[i % 2];

        start_again(peer, TYPED);
        peer->options.page_digests = i < 4;
        peer->options.format = i / 2 == 1 ? FORMAT_TAR : FORMAT_PLAIN;
        fake_backup_file(&peer->fake, 0, name, "old");
        backup_peer_run(peer);
        if (i < 2) {
            backup_peer_assert_failed_begins(peer, ERR_UNSUPPORTED,
                                             "the server's data directory has a file");
        } else {
            backup_peer_assert_completed(peer);
        }
    }
}

#define PAGE_TEST(function) cmocka_unit_test_setup_teardown(function, set_up, backup_peer_tear_down)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        PAGE_TEST(test_good_pages),
        PAGE_TEST(test_pages_that_do_not_count),
        PAGE_TEST(test_bad_page),
        PAGE_TEST(test_many_bad_pages),
        PAGE_TEST(test_bad_page_that_the_server_reports),
        PAGE_TEST(test_bad_page_without_manifest),
        PAGE_TEST(test_bad_page_and_damage_on_the_way),
        PAGE_TEST(test_bad_page_with_no_clean),
        PAGE_TEST(test_bad_page_in_an_archive),
        PAGE_TEST(test_bad_page_in_a_compressed_archive),
        PAGE_TEST(test_bad_page_in_an_archive_without_manifest),
        PAGE_TEST(test_bad_page_on_standard_output),
        PAGE_TEST(test_nothing_is_looked_at),
        PAGE_TEST(test_page_digests),
        PAGE_TEST(test_page_digests_without_verifying),
        PAGE_TEST(test_page_digests_of_a_backup_with_bad_pages),
        PAGE_TEST(test_page_digests_of_a_backup_that_fails),
        PAGE_TEST(test_page_digests_whose_name_is_taken),
    };

    peer_clean_environment();
    return cmocka_run_group_tests_name("basebackup_pages", tests, NULL, NULL);
}
