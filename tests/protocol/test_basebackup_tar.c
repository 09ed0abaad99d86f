/*
 * Base backups in tar format: archives just as they came, compressed on either side, written anew
 * because something is put into them, and to standard output. Whole or not there at all.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "backup_peer.h"
#include "peer.h"
#include "support/tar_walk.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define TYPED        "18.4"
#define PLAIN        "14.19"
#define FIRST        "000000010000000000000020"
#define SECOND       "000000010000000000000021"
#define SETTINGS     "postgresql.auto.conf"

static const char *const both[] = {TYPED, PLAIN};

static const CompressionMethod methods[] = {COMPRESSION_GZIP, COMPRESSION_LZ4, COMPRESSION_ZSTD};

static void
start_again(BackupPeer *peer, const char *version)
{
    backup_peer_again(peer, version);
    peer->options.format = FORMAT_TAR;
}

static int
set_up(void **state)
{
    if (backup_peer_set_up(state, TYPED) != 0)
        return -1;
    ((BackupPeer *)*state)->options.format = FORMAT_TAR;
    return 0;
}

static mode_t
mode_of(BackupPeer *peer, const char *name)
{
    return temp_dir_mode(&peer->dir, name) & 07777;
}

static Compression
compression_of(CompressionMethod method, const char *detail)
{
    Error err = ERROR_INIT;
    Compression compression;

    assert_true(compression_parse(method, detail, &compression, &err));
    return compression;
}

/* "target/NAME.tar" with the method's suffix. */
static const char *
path_of(const char *name, CompressionMethod method)
{
    static char path[64];

    (void)snprintf(path, sizeof path, "target/%s.tar%s", name, compression_suffix(method));
    return path;
}

static void
assert_same(Buf *got, Buf *expected)
{
    assert_int_equal(got->len, expected->len);
    assert_memory_equal(got->data, expected->data, expected->len);
    buf_free(got);
    buf_free(expected);
}

static void
assert_member(Span tar, const char *name, Span content)
{
    TarFound found;

    if (!tar_find(tar, name, &found))
        fail_msg("no member \"%s\"", name);
    assert_int_equal(found.type, '0');
    assert_int_equal(found.content.len, content.len);
    assert_memory_equal(found.content.data, content.data, content.len);
}

/* All that was sent is there byte by byte, but what begins with `except`. */
static void
assert_passed_on(BackupPeer *peer, size_t index, Span got, const char *except)
{
    Buf sent = backup_peer_sent_tar(peer, index);
    TarFound member;
    TarFound found;
    size_t at = 0;

    while (tar_walk(tar_span(&sent), &at, &member)) {
        if (strncmp(member.name, except, strlen(except)) == 0)
            continue;
        if (!tar_find(got, member.name, &found))
            fail_msg("no member \"%s\"", member.name);
        assert_int_equal(found.whole.len, member.whole.len);
        assert_memory_equal(found.whole.data, member.whole.data, member.whole.len);
    }
    buf_free(&sent);
}

/* ---- as they came ---- */

static void
test_archives_as_they_came(void **state)
{
    static const char *const versions[] = {"10.23", "12.22", PLAIN, "15.14", TYPED};
    static const size_t pieces[] = {1, 511, 512, 100000};

    for (size_t i = 0; i < COUNT(versions) * COUNT(pieces); i++) {
        BackupPeer *peer = *state;

        start_again(peer, versions[i % COUNT(versions)]);
        peer->fake.piece = pieces[i / COUNT(versions)];
        peer->config.chunk = i % 3 == 0 ? 0 : 3331;
        fake_backup_tablespace(&peer->fake, 16385, "/srv/ts");
        fake_backup_tablespace(&peer->fake, 16386, "pg_tblspc/16386");
        backup_peer_run(peer);
        backup_peer_assert_archives(peer);
        assert_null(strstr(backup_peer_query(peer, "BASE_BACKUP"), "COMPRESSION"));
        assert_non_null(strstr(backup_peer_query(peer, "BASE_BACKUP"), "TABLESPACE_MAP"));
    }
}

static void
test_no_manifest(void **state)
{
    for (size_t i = 0; i < COUNT(both); i++) {
        BackupPeer *peer = *state;

        start_again(peer, both[i]);
        peer->options.manifest = MANIFEST_NO;
        backup_peer_run(peer);
        backup_peer_assert_archives(peer);
        assert_int_equal(backup_peer_entries(peer, "target"), 1);
    }
}

static void
test_tells_the_story(void **state)
{
    BackupPeer *peer = *state;
    const char *target = peer->options.directory;
    char expected[8192];

    peer->options.sync = SYNC_SYNCFS;
    fake_backup_tablespace(&peer->fake, 16385, "/srv/ts");
    backup_peer_run(peer);
    backup_peer_assert_archives(peer);
    (void)snprintf(expected, sizeof expected,
                   "note: initiating base backup, waiting for checkpoint to complete\n"
                   "waiting\n"
                   "note: checkpoint completed\n"
                   "note: write-ahead log start point: 0/2000028 on timeline 1\n"
                   "begun 0/2000028 timeline=1 total=0 archives=2 version=180004\n"
                   "progress 0/0 0/2 %s/16385.tar\n"
                   "progress 2560/0 1/2 %s/base.tar\n"
                   "progress 11776/0 2/2 - finished\n"
                   "note: write-ahead log end point: %X/%X\n"
                   "note: syncing data to disk ...\n"
                   "note: verified 6 files, 44 bytes against the manifest\n"
                   "note: renaming backup_manifest.tmp to backup_manifest\n"
                   "completed 0/2000028-%X/%X timeline=1 received=%zu wal=0 files=6 bytes=44 "
                   "durable\n"
                   "note: base backup completed\n",
                   target, target, LSN_ARGS(peer->fake.end), LSN_ARGS(peer->fake.end),
                   11776 + peer->fake.manifest_text.len);
    assert_string_equal(buf_text(&peer->told), expected);
}

/* Modes are the server's, whatever the umask. */
static void
test_modes(void **state)
{
    static const struct {
        const char *mode;
        mode_t file;
        mode_t directory;
    } cases[] = {{"0750", 0640, 0750}, {"0700", 0600, 0700}};
    static const mode_t umasks[] = {0, 077, 0277};

    for (size_t i = 0; i < COUNT(cases) * COUNT(umasks); i++) {
        const size_t wanted = i / COUNT(umasks);
        BackupPeer *peer = *state;

        start_again(peer, both[i % 2]);
        peer->umask = umasks[i % COUNT(umasks)];
        peer->fake.mode = cases[wanted].mode;
        peer->options.wal_method = WAL_STREAM;
        fake_backup_tablespace(&peer->fake, 16385, "/srv/ts");
        backup_peer_run(peer);
        backup_peer_assert_archives(peer);
        assert_int_equal(mode_of(peer, "target"), cases[wanted].directory);
        assert_int_equal(mode_of(peer, "target/base.tar"), cases[wanted].file);
        assert_int_equal(mode_of(peer, "target/16385.tar"), cases[wanted].file);
        assert_int_equal(mode_of(peer, "target/pg_wal.tar"), cases[wanted].file);
        assert_int_equal(mode_of(peer, "target/backup_manifest"), cases[wanted].file);
    }
}

/* ---- WAL beside them ---- */

/* A segment with what was streamed of it, and zeros. */
static void
assert_segment(const BackupPeer *peer, Span tar, const char *name, Lsn start, Lsn end)
{
    const Span wal = wal_builder_span(&peer->fake.wal, start, end);
    uint8_t *segment = calloc(1, FAKE_SEGMENT_SIZE);

    assert_non_null(segment);
    memcpy(segment, wal.data, wal.len);
    assert_member(tar, name, (Span){.data = segment, .len = FAKE_SEGMENT_SIZE});
    free(segment);
}

static void
test_streamed_wal(void **state)
{
    for (size_t i = 0; i < COUNT(both); i++) {
        BackupPeer *peer = *state;
        TarFound found;
        Buf tar;

        start_again(peer, both[i]);
        peer->options.wal_method = WAL_STREAM;
        peer->options.sync = i == 0 ? SYNC_FSYNC : SYNC_NONE;
        backup_peer_run(peer);
        backup_peer_assert_archives(peer);
        tar = temp_dir_read(&peer->dir, "target/pg_wal.tar");
        assert_segment(peer, tar_span(&tar), FIRST, FAKE_SEGMENT, peer->fake.wal.end);
        /* Not filled by the server, so not archived: it must not be taken for the real one. */
        assert_int_equal(tar_count(tar_span(&tar)), 1);
        assert_true(tar_find(tar_span(&tar), FIRST, &found));
        assert_int_equal(found.mode, 0600);
        assert_int_equal(found.uid, 0);
        assert_true(found.mtime > 1700000000);
        buf_free(&tar);
        assert_non_null(strstr(backup_peer_told(peer, "completed "), " wal-checked"));
    }
}

static void
test_several_segments(void **state)
{
    BackupPeer *peer = *state;
    const Lsn middle = FAKE_SEGMENT + FAKE_SEGMENT_SIZE;
    char received[40];
    Buf *out;
    Buf tar;

    peer->options.wal_method = WAL_STREAM;
    (void)wal_builder_record_until(&peer->fake.wal, middle + 50000);
    peer->fake.end = peer->fake.wal.end;
    fake_script_wal_prepare(&peer->fake, &peer->scripts[1], true);
    out = fake_script_wal_start(&peer->scripts[1]);
    for (Lsn at = FAKE_SEGMENT; at < peer->fake.end; at += 70000)
        fake_put_wal(&peer->fake, out, at,
                     at + 70000 < peer->fake.end ? at + 70000 : peer->fake.end);
    wire_stream_end(&peer->scripts[1]);
    backup_peer_run(peer);
    backup_peer_assert_archives(peer);
    tar = temp_dir_read(&peer->dir, "target/pg_wal.tar");
    assert_segment(peer, tar_span(&tar), FIRST, FAKE_SEGMENT, middle);
    assert_member(tar_span(&tar), "archive_status/" FIRST ".done", span_of(""));
    assert_segment(peer, tar_span(&tar), SECOND, middle, peer->fake.end);
    assert_int_equal(tar_count(tar_span(&tar)), 3);
    buf_free(&tar);
    (void)snprintf(received, sizeof received, " wal=%llu ",
                   (unsigned long long)(peer->fake.end - FAKE_SEGMENT));
    assert_non_null(strstr(backup_peer_told(peer, "completed "), received));
}

/* ---- the target ---- */

static void
test_target_that_is_not_empty(void **state)
{
    static const char *const names[] = {"target/base.tar", "target/16386.tar", "target/pg_wal.tar"};

    for (size_t i = 0; i < COUNT(names) * 2; i++) {
        BackupPeer *peer = *state;

        start_again(peer, TYPED);
        temp_dir_mkdir(&peer->dir, i % 2 == 0 ? names[i / 2] : "target");
        if (i % 2 != 0)
            temp_dir_write(&peer->dir, names[i / 2], "mine", 4);
        backup_peer_run(peer);
        backup_peer_assert_error(peer, ERR_USAGE, "exists but is not empty");
        assert_null(backup_peer_query(peer, "BASE_BACKUP"));
        assert_int_equal(backup_peer_entries(peer, "target"), 1);
        assert_true(temp_dir_exists(&peer->dir, names[i / 2]));
    }
}

static void
take_base(void *ctx, const BackupBegin *begin)
{
    temp_dir_write(&((BackupPeer *)ctx)->dir, "target/base.tar", "mine", 4);
    (void)begin;
}

static void
lead_base_away(void *ctx, const BackupBegin *begin)
{
    BackupPeer *peer = ctx;

    assert_int_equal(symlink("../elsewhere", temp_dir_path(&peer->dir, "target/base.tar")), 0);
    (void)begin;
}

static void
take_wal(void *ctx, const BackupBegin *begin)
{
    temp_dir_mkdir(&((BackupPeer *)ctx)->dir, "target/pg_wal.tar");
    (void)begin;
}

/* Something takes the name meanwhile: nothing is overwritten, no link followed. */
static void
test_name_that_is_taken(void **state)
{
    static const struct {
        void (*begun)(void *ctx, const BackupBegin *begin);
        WalMethod wal;
        const char *part;
    } cases[] = {{take_base, WAL_NONE, "target/base.tar\": "},
                 {lead_base_away, WAL_NONE, "target/base.tar\": "},
                 {take_wal, WAL_STREAM, "target/pg_wal.tar\": "}};

    for (size_t i = 0; i < COUNT(cases); i++) {
        BackupPeer *peer = *state;

        start_again(peer, TYPED);
        peer->options.wal_method = cases[i].wal;
        peer->observer.begun = cases[i].begun;
        backup_peer_run(peer);
        backup_peer_assert_failed_begins(peer, ERR_SYSTEM, "could not ");
        assert_non_null(strstr(peer->err.message, "could not create file \""));
        assert_non_null(strstr(peer->err.message, cases[i].part));
        assert_int_equal(peer->err.sys_errno, EEXIST);
    }
}

static void
test_no_clean_keeps_what_came(void **state)
{
    BackupPeer *peer = *state;

    peer->options.no_clean = true;
    fake_backup_listed(&peer->fake, "lost", "");
    backup_peer_run(peer);
    backup_peer_assert_error(peer, ERR_MISMATCH, "does not agree with the server's manifest");
    assert_true(temp_dir_exists(&peer->dir, "target/base.tar"));
    assert_true(temp_dir_exists(&peer->dir, "target/backup_manifest.tmp"));
    assert_false(temp_dir_exists(&peer->dir, "target/backup_manifest"));
}

/* ---- damage on the way ---- */

static void
alter_file(FakeBackup *fake)
{
    fake_backup_member(fake, 0, &(TarMember){TAR_FILE("base/1/1259", "altered on the way")});
    fake_backup_listed(fake, "base/1/1259", "Altered on the way");
}

static void
lose_file(FakeBackup *fake)
{
    fake_backup_listed(fake, "base/1/1259", "lost");
}

static void
add_file(FakeBackup *fake)
{
    fake_backup_member(fake, 0, &(TarMember){TAR_FILE("base/1/1259", "new")});
}

static void
lose_tablespace_file(FakeBackup *fake)
{
    fake_backup_listed(fake, "pg_tblspc/16385/lost", "lost");
}

static void
test_files_that_disagree(void **state)
{
    static const struct {
        void (*change)(FakeBackup *fake);
        const char *told;
    } cases[] = {
        {alter_file, "problem: checksum mismatch for file \"base/1/1259\""},
        {lose_file, "problem: \"base/1/1259\" is in the manifest but was not received"},
        {add_file, "problem: \"base/1/1259\" was received but is not in the manifest"},
        {lose_tablespace_file,
         "problem: \"pg_tblspc/16385/lost\" is in the manifest but was not received"},
    };

    for (size_t i = 0; i < COUNT(cases) * 4; i++) {
        BackupPeer *peer = *state;

        start_again(peer, both[i % 2]);
        fake_backup_tablespace(&peer->fake, 16385, "/srv/ts");
        peer->options.compression =
            compression_of(i / 2 % 2 == 0 ? COMPRESSION_NONE : COMPRESSION_ZSTD, NULL);
        cases[i / 4].change(&peer->fake);
        backup_peer_run(peer);
        backup_peer_assert_failed(peer, ERR_MISMATCH,
                                  "the backup as received does not agree with the server's "
                                  "manifest: 1 problem");
        (void)backup_peer_told(peer, cases[i / 4].told);
    }
}

/* They are read beside being written: what could not be unpacked is no backup. */
static void
test_archives_that_cannot_be_read(void **state)
{
    static const struct {
        TarMember member;
        ErrorCode code;
        const char *part;
    } cases[] = {
        {{TAR_FILE("../outside", "bad")}, ERR_FORMAT, "\"../outside\" has an unsafe path"},
        {{.name = "hard", .type = '1', .link = "PG_VERSION"},
         ERR_UNSUPPORTED,
         "tar member \"hard\" has type \"1\""},
        {{.name = "long", .claim = 100000}, ERR_FORMAT, "archive \"base.tar\" ends within"},
    };

    for (size_t i = 0; i < COUNT(cases) * 2; i++) {
        BackupPeer *peer = *state;

        start_again(peer, both[i % 2]);
        fake_backup_member(&peer->fake, 0, &cases[i / 2].member);
        backup_peer_run(peer);
        backup_peer_assert_failed_begins(peer, cases[i / 2].code, "");
        assert_non_null(strstr(peer->err.message, cases[i / 2].part));
    }
}

/* A conversation that breaks off anywhere leaves nothing, and says why. */
static void
test_cut_anywhere(void **state)
{
    for (size_t i = 0; i < COUNT(both); i++) {
        BackupPeer *peer = *state;
        int64_t whole;

        start_again(peer, both[i]);
        backup_peer_run(peer);
        backup_peer_assert_archives(peer);
        whole = wire_server_sent(peer->server);
        for (int64_t at = 0; at < whole; at += 197) {
            start_again(peer, both[i]);
            peer->cut = at + 1;
            backup_peer_run(peer);
            backup_peer_assert_failed_begins(peer, ERR_CONNECTION, "");
        }
    }
}

/* Headers and contents are as they were sent; nobody vouches for padding, nor for the two bytes
 * behind the digits of a header's checksum. */
static void
assert_members_as_sent(BackupPeer *peer)
{
    Buf got = temp_dir_read(&peer->dir, "target/base.tar");
    Buf sent = backup_peer_sent_tar(peer, 0);
    TarFound member;
    size_t at = 0;

    assert_int_equal(got.len, sent.len);
    while (tar_walk(tar_span(&sent), &at, &member)) {
        uint8_t *here = got.data + (member.whole.data - sent.data);

        memcpy(here + 154, member.whole.data + 154, 2);
        assert_memory_equal(here, member.whole.data, TAR_BUILDER_BLOCK + member.content.len);
    }
    buf_free(&got);
    buf_free(&sent);
}

/* A byte that changes is noticed, or makes no difference to what the archive holds. */
static void
test_damage_anywhere(void **state)
{
    for (size_t i = 0; i < COUNT(both); i++) {
        BackupPeer *peer = *state;
        int64_t whole;

        start_again(peer, both[i]);
        backup_peer_run(peer);
        whole = wire_server_sent(peer->server);
        for (int64_t at = 400; at < whole; at += 83) {
            start_again(peer, both[i]);
            peer->damage_at = at;
            peer->damage_mask = (uint8_t)(1U << (at % 7));
            peer->config.patience_ms = 100;
            backup_peer_run(peer);
            if (peer->ok)
                assert_members_as_sent(peer);
            else
                assert_int_equal(backup_peer_entries(peer, "."), 0);
        }
    }
}

/* Wherever it comes: the backup is whole, or nothing is there. */
static void
test_stopped_at_every_note(void **state)
{
    static const char *const notes[] = {"waiting",       "begun ",
                                        "progress ",     "note: created temporary",
                                        "note: waiting", "note: verified",
                                        "note: syncing", "note: renaming",
                                        "completed ",    "note: base backup completed"};

    for (size_t i = 0; i < COUNT(notes); i++) {
        BackupPeer *peer = *state;

        start_again(peer, TYPED);
        peer->options.wal_method = WAL_STREAM;
        peer->options.sync = SYNC_FSYNC;
        peer->options.compression = compression_of(COMPRESSION_LZ4, NULL);
        peer->stop_at = notes[i];
        backup_peer_run(peer);
        (void)backup_peer_told(peer, notes[i]);
        if (peer->ok)
            backup_peer_assert_completed(peer);
        else
            backup_peer_assert_failed(peer, ERR_STOPPED, "stopped");
        if (i < 4)
            assert_false(peer->ok);
        if (i > 4)
            assert_true(peer->ok);
    }
}

/* ---- compressed by us ---- */

static void
test_compressed_by_us(void **state)
{
    static const struct {
        CompressionMethod method;
        const char *detail;
    } cases[] = {{COMPRESSION_GZIP, NULL},       {COMPRESSION_GZIP, "9"},
                 {COMPRESSION_LZ4, NULL},        {COMPRESSION_LZ4, "level=12"},
                 {COMPRESSION_ZSTD, NULL},       {COMPRESSION_ZSTD, "level=1,long"},
                 {COMPRESSION_ZSTD, "workers=2"}};

    for (size_t i = 0; i < COUNT(cases) * 2; i++) {
        const CompressionMethod method = cases[i / 2].method;
        BackupPeer *peer = *state;
        Buf expected;
        Buf got;

        start_again(peer, both[i % 2]);
        peer->options.compression = compression_of(method, cases[i / 2].detail);
        peer->options.wal_method = WAL_STREAM;
        peer->options.sync = SYNC_FSYNC;
        peer->fake.piece = 777;
        fake_backup_tablespace(&peer->fake, 16385, "/srv/ts");
        backup_peer_run(peer);
        backup_peer_assert_completed(peer);

        for (size_t index = 0; index < 2; index++) {
            got = backup_peer_unpacked(peer, path_of(index == 0 ? "16385" : "base", method));
            expected = backup_peer_sent_tar(peer, index);
            assert_same(&got, &expected);
        }
        got = backup_peer_unpacked(peer, path_of("pg_wal", method));
        assert_segment(peer, tar_span(&got), FIRST, FAKE_SEGMENT, peer->fake.wal.end);
        assert_int_equal(tar_count(tar_span(&got)), 1);
        buf_free(&got);
        backup_peer_assert_file(peer, "target/backup_manifest",
                                buf_text(&peer->fake.manifest_text));
        assert_int_equal(backup_peer_entries(peer, "target"), 4);
        assert_int_equal(mode_of(peer, path_of("base", method)), 0600);
        assert_int_equal(mode_of(peer, path_of("pg_wal", method)), 0600);
        /* The file that is being written. */
        assert_non_null(strstr(buf_text(&peer->told), path_of("base", method)));
    }
}

/* ---- compressed by the server ---- */

static void
test_compressed_by_the_server(void **state)
{
    static const size_t pieces[] = {1, 100, 100000};

    for (size_t i = 0; i < COUNT(methods) * COUNT(pieces); i++) {
        const CompressionMethod method = methods[i % COUNT(methods)];
        BackupPeer *peer = *state;
        char option[80];

        start_again(peer, TYPED);
        peer->fake.piece = pieces[i / COUNT(methods)];
        peer->options.server_compression = compression_method_name(method);
        peer->options.server_compression_detail = "level=3";
        fake_backup_tablespace(&peer->fake, 16385, "/srv/ts");
        backup_peer_run(peer);
        backup_peer_assert_archives(peer);
        (void)snprintf(option, sizeof option, "COMPRESSION '%s', COMPRESSION_DETAIL 'level=3'",
                       compression_method_name(method));
        assert_non_null(strstr(backup_peer_query(peer, "BASE_BACKUP"), option));
        /* Looked at all the same. */
        assert_non_null(strstr(backup_peer_told(peer, "completed "), " files=6 bytes=44"));
        (void)backup_peer_told(peer, "progress 0/0 0/2 ");
        assert_non_null(strstr(buf_text(&peer->told), path_of("16385", method)));
    }
}

/* WAL is not among what the server compresses. */
static void
test_compressed_by_the_server_with_wal(void **state)
{
    BackupPeer *peer = *state;

    peer->options.server_compression = "gzip";
    peer->options.wal_method = WAL_STREAM;
    backup_peer_run(peer);
    backup_peer_assert_archives(peer);
    assert_true(temp_dir_exists(&peer->dir, "target/base.tar.gz"));
    assert_true(temp_dir_exists(&peer->dir, "target/pg_wal.tar"));
}

static void
test_plain_from_compressed(void **state)
{
    for (size_t i = 0; i < COUNT(methods); i++) {
        BackupPeer *peer = *state;
        TablespaceMapping mapping;

        start_again(peer, TYPED);
        peer->options.format = FORMAT_PLAIN;
        peer->options.server_compression = compression_method_name(methods[i]);
        peer->fake.piece = 100;
        fake_backup_tablespace(&peer->fake, 16385, "/srv/ts");
        mapping = (TablespaceMapping){.from = "/srv/ts", .to = temp_dir_path(&peer->dir, "ts")};
        peer->options.mappings = &mapping;
        peer->options.mapping_count = 1;
        backup_peer_run(peer);
        backup_peer_assert_taken(peer);
        backup_peer_assert_file(peer, "ts/PG_18_202506291/1234", "far away");
    }
}

static void
test_server_cannot_compress(void **state)
{
    BackupPeer *peer = *state;

    start_again(peer, PLAIN);
    peer->options.server_compression = "gzip";
    backup_peer_run(peer);
    backup_peer_assert_failed(peer, ERR_UNSUPPORTED,
                              "server does not support server-side compression");
    assert_non_null(strstr(peer->err.hint, "14.19"));
    assert_null(backup_peer_query(peer, "BASE_BACKUP"));
}

/* The server sends another form than it was asked for. */
static void
test_archives_of_another_form(void **state)
{
    static const struct {
        CompressionMethod sent;
        const char *asked;
        const char *message;
    } cases[] = {
        {COMPRESSION_GZIP, NULL,
         "server sent archive \"base.tar.gz\" where \"base.tar\" was expected"},
        {COMPRESSION_NONE, "zstd",
         "server sent archive \"base.tar\" where \"base.tar.zst\" was expected"},
        {COMPRESSION_LZ4, "zstd",
         "server sent archive \"base.tar.lz4\" where \"base.tar.zst\" was expected"},
    };

    for (size_t i = 0; i < COUNT(cases); i++) {
        BackupPeer *peer = *state;

        start_again(peer, TYPED);
        peer->fake.compress = cases[i].sent;
        fake_script_backup(&peer->fake, &peer->scripts[0]);
        peer->options.server_compression = cases[i].asked;
        backup_peer_run(peer);
        backup_peer_assert_failed(peer, ERR_PROTOCOL, cases[i].message);
    }
}

typedef enum Hurt { HURT_MIDDLE, HURT_END, HURT_TAIL, HURT_HEAD } Hurt;

static void
hurt(Buf *archive, Hurt how)
{
    Error err = ERROR_INIT;

    switch (how) {
    case HURT_HEAD:
        archive->data[0] ^= 0xFF;
        break;
    case HURT_MIDDLE:
        archive->data[archive->len / 2] ^= 0x10;
        break;
    case HURT_END:
        archive->len -= 5;
        break;
    case HURT_TAIL:
        assert_true(buf_append(archive, "more", 4, &err));
        break;
    }
}

/* The server sends the data directory's archive like that, and all else as it should be. */
static void
script_hurt_archive(BackupPeer *peer, Hurt how)
{
    Buf archive;
    Buf name;
    Buf *out;

    backup_peer_match(peer);
    fake_script_learn(&peer->fake, &peer->scripts[0]);
    out = fake_script_begin(&peer->fake, &peer->scripts[0]);
    archive = fake_backup_archive(&peer->fake, 0);
    name = fake_backup_archive_name(&peer->fake, 0);
    hurt(&archive, how);
    fake_put_copy(&peer->fake, out);
    fake_put_new_archive(out, buf_text(&name), "");
    fake_put_data(out, tar_span(&archive));
    fake_put_manifest(&peer->fake, out);
    fake_put_copy_end(&peer->fake, out);
    fake_put_end(&peer->fake, out);
    buf_free(&archive);
    buf_free(&name);
}

/* In either format, and where nothing but the archive itself can tell that it is not whole. */
static void
test_compressed_and_damaged(void **state)
{
    static const Hurt hurts[] = {HURT_HEAD, HURT_MIDDLE, HURT_END, HURT_TAIL};

    for (size_t i = 0; i < COUNT(hurts) * COUNT(methods) * 2; i++) {
        const CompressionMethod method = methods[i / 2 % COUNT(methods)];
        BackupPeer *peer = *state;
        char part[40];

        start_again(peer, TYPED);
        peer->options.format = i % 2 == 0 ? FORMAT_TAR : FORMAT_PLAIN;
        peer->options.server_compression = compression_method_name(method);
        script_hurt_archive(peer, hurts[i / 2 / COUNT(methods)]);
        backup_peer_run(peer);
        backup_peer_assert_failed_begins(peer, peer->err.code, "");
        if (peer->err.code != ERR_MISMATCH) {
            assert_int_equal(peer->err.code, ERR_FORMAT);
            /* Or what came out of it, which was looked at first. */
            (void)snprintf(part, sizeof part, "archive \"base.tar%s\"", compression_suffix(method));
            if (strstr(peer->err.message, part) == NULL &&
                strstr(peer->err.message, "archive \"base.tar\"") == NULL)
                fail_msg("\"%s\" does not name the archive", peer->err.message);
        }
    }
}

/* ---- -R ---- */

static void
assert_settings(const BackupPeer *peer, Span tar, const char *name, const char *before)
{
    TarFound found;
    char *text;

    if (!tar_find(tar, name, &found))
        fail_msg("no member \"%s\"", name);
    assert_int_equal(found.mode, 0600);
    text = strndup((const char *)found.content.data, found.content.len);
    assert_non_null(text);
    assert_int_equal(strncmp(text, before, strlen(before)), 0);
    assert_int_equal(strncmp(text + strlen(before), "primary_conninfo = '", 20), 0);
    assert_non_null(strstr(text, wire_server_port(peer->server)));
    assert_non_null(strstr(text, "'\nprimary_slot_name = 'mine'\n"));
    free(text);
}

static void
run_with_recovery(BackupPeer *peer, const char *version)
{
    start_again(peer, version);
    peer->options.write_recovery = true;
    peer->options.slot = "mine";
    fake_backup_tablespace(&peer->fake, 16385, "/srv/ts");
    fake_backup_file(&peer->fake, 0, SETTINGS, "# by hand");
    fake_backup_file(&peer->fake, 0, "zzz", "behind it");
}

static void
test_recovery(void **state)
{
    for (size_t i = 0; i < COUNT(both); i++) {
        BackupPeer *peer = *state;
        Buf expected;
        Buf got;
        Buf tar;

        run_with_recovery(peer, both[i]);
        backup_peer_run(peer);
        backup_peer_assert_completed(peer);
        tar = temp_dir_read(&peer->dir, "target/base.tar");
        assert_settings(peer, tar_span(&tar), SETTINGS, "# by hand\n");
        assert_member(tar_span(&tar), "standby.signal", span_of(""));
        assert_string_equal(tar_last_name(tar_span(&tar)), "standby.signal");
        assert_passed_on(peer, 1, tar_span(&tar), SETTINGS);
        buf_free(&tar);
        got = temp_dir_read(&peer->dir, "target/16385.tar");
        expected = backup_peer_sent_tar(peer, 0);
        assert_same(&got, &expected);
        /* It is as the server sent it, and tells of its files. */
        backup_peer_assert_file(peer, "target/backup_manifest",
                                buf_text(&peer->fake.manifest_text));
        assert_int_equal(backup_peer_entries(peer, "target"), 3);
    }
}

static void
test_recovery_before_12(void **state)
{
    BackupPeer *peer = *state;
    Buf tar;

    run_with_recovery(peer, "11.22");
    fake_backup_file(&peer->fake, 0, "recovery.conf", "# the server's own\n");
    backup_peer_run(peer);
    backup_peer_assert_completed(peer);
    tar = temp_dir_read(&peer->dir, "target/base.tar");
    assert_settings(peer, tar_span(&tar), "recovery.conf", "standby_mode = 'on'\n");
    assert_passed_on(peer, 1, tar_span(&tar), "recovery.conf");
    assert_int_equal(tar_count(tar_span(&tar)), 15);
    buf_free(&tar);
}

static void
test_recovery_compressed_by_us(void **state)
{
    for (size_t i = 0; i < COUNT(methods); i++) {
        BackupPeer *peer = *state;
        Buf tar;

        run_with_recovery(peer, both[i % 2]);
        peer->options.compression = compression_of(methods[i], NULL);
        backup_peer_run(peer);
        backup_peer_assert_completed(peer);
        tar = backup_peer_unpacked(peer, path_of("base", methods[i]));
        assert_settings(peer, tar_span(&tar), SETTINGS, "# by hand\n");
        assert_passed_on(peer, 1, tar_span(&tar), SETTINGS);
        buf_free(&tar);
        assert_int_equal(backup_peer_entries(peer, "target"), 3);
    }
}

/* Taken apart and compressed anew in the same way, even if the server understands more than we. */
static void
test_recovery_compressed_by_the_server(void **state)
{
    static const char *const details[] = {NULL, "level=1", "shrink=hard"};

    for (size_t i = 0; i < COUNT(methods) * COUNT(details); i++) {
        const CompressionMethod method = methods[i / COUNT(details)];
        BackupPeer *peer = *state;
        Buf expected;
        Buf got;
        Buf tar;

        run_with_recovery(peer, TYPED);
        peer->options.server_compression = compression_method_name(method);
        peer->options.server_compression_detail = details[i % COUNT(details)];
        backup_peer_run(peer);
        backup_peer_assert_completed(peer);
        tar = backup_peer_unpacked(peer, path_of("base", method));
        assert_settings(peer, tar_span(&tar), SETTINGS, "# by hand\n");
        assert_passed_on(peer, 1, tar_span(&tar), SETTINGS);
        buf_free(&tar);
        got = backup_peer_unpacked(peer, path_of("16385", method));
        expected = backup_peer_sent_tar(peer, 0);
        assert_same(&got, &expected);
        assert_int_equal(backup_peer_entries(peer, "target"), 3);
    }
}

/* ---- standard output ---- */

static void
start_to_output(BackupPeer *peer, const char *version)
{
    start_again(peer, version);
    peer->options.directory = "-";
}

static void
test_output_has_its_manifest_inside(void **state)
{
    for (size_t i = 0; i < COUNT(both) * 2; i++) {
        BackupPeer *peer = *state;
        TarFound found;

        start_to_output(peer, both[i / 2]);
        peer->fake.piece = i % 2 == 0 ? 100000 : 333;
        peer->fake.mode = i % 2 == 0 ? "0700" : "0750";
        peer->options.sync = SYNC_FSYNC;
        backup_peer_run(peer);
        backup_peer_assert_completed(peer);
        assert_string_equal(tar_last_name(tar_span(&peer->printed)), "backup_manifest");
        assert_member(tar_span(&peer->printed), "backup_manifest",
                      tar_span(&peer->fake.manifest_text));
        assert_true(tar_find(tar_span(&peer->printed), "backup_manifest", &found));
        assert_int_equal(found.mode, i % 2 == 0 ? 0600 : 0640);
        assert_passed_on(peer, 0, tar_span(&peer->printed), "-");
        assert_int_equal(backup_peer_entries(peer, "."), 0);
        /* Nothing that we could sync, and no file to rename. */
        assert_null(strstr(backup_peer_told(peer, "completed "), "durable"));
        assert_false(backup_peer_was_told(peer, "note: syncing"));
        assert_false(backup_peer_was_told(peer, "note: renaming"));
        (void)backup_peer_told(peer, "note: verified 5 files, 36 bytes");
        (void)backup_peer_told(peer, "progress 0/0 0/1 base.tar");
    }
}

static void
test_output_without_manifest(void **state)
{
    static const struct {
        const char *version;
        ManifestRequest manifest;
    } cases[] = {{"10.23", MANIFEST_YES}, {PLAIN, MANIFEST_NO}, {TYPED, MANIFEST_NO}};

    for (size_t i = 0; i < COUNT(cases); i++) {
        BackupPeer *peer = *state;
        Buf expected;

        start_to_output(peer, cases[i].version);
        peer->options.manifest = cases[i].manifest;
        backup_peer_run(peer);
        backup_peer_assert_completed(peer);
        expected = backup_peer_sent_tar(peer, 0);
        assert_same(&peer->printed, &expected);
        assert_int_equal(backup_peer_entries(peer, "."), 0);
    }
}

static void
test_output_compressed_by_us(void **state)
{
    for (size_t i = 0; i < COUNT(methods); i++) {
        BackupPeer *peer = *state;
        char name[20];
        Buf tar;

        start_to_output(peer, both[i % 2]);
        peer->options.compression = compression_of(methods[i], NULL);
        backup_peer_run(peer);
        backup_peer_assert_completed(peer);
        (void)snprintf(name, sizeof name, "printed%s", compression_suffix(methods[i]));
        temp_dir_write(&peer->dir, name, peer->printed.data, peer->printed.len);
        tar = backup_peer_unpacked(peer, name);
        assert_string_equal(tar_last_name(tar_span(&tar)), "backup_manifest");
        assert_passed_on(peer, 0, tar_span(&tar), "-");
        buf_free(&tar);
    }
}

/* A member cannot be put into what only the server can pack. */
static void
test_output_compressed_by_the_server(void **state)
{
    BackupPeer *peer = *state;
    Buf expected;

    start_to_output(peer, TYPED);
    peer->options.server_compression = "gzip";
    backup_peer_run(peer);
    backup_peer_assert_failed(peer, ERR_USAGE, "cannot inject manifest into a compressed tar file");
    assert_non_null(strstr(peer->err.hint, "--no-manifest"));
    assert_int_equal(peer->printed.len, 0);

    start_to_output(peer, TYPED);
    peer->options.server_compression = "gzip";
    peer->options.manifest = MANIFEST_NO;
    backup_peer_run(peer);
    backup_peer_assert_completed(peer);
    expected = fake_backup_archive(&peer->fake, 0);
    assert_same(&peer->printed, &expected);
}

static void
test_output_with_recovery(void **state)
{
    BackupPeer *peer = *state;

    start_to_output(peer, TYPED);
    peer->options.write_recovery = true;
    peer->options.slot = "mine";
    backup_peer_run(peer);
    backup_peer_assert_completed(peer);
    assert_settings(peer, tar_span(&peer->printed), SETTINGS, "");
    assert_member(tar_span(&peer->printed), "standby.signal", span_of(""));
    assert_string_equal(tar_last_name(tar_span(&peer->printed)), "backup_manifest");
    assert_passed_on(peer, 0, tar_span(&peer->printed), "-");
}

static void
test_output_takes_one_archive(void **state)
{
    for (size_t i = 0; i < COUNT(both); i++) {
        BackupPeer *peer = *state;

        start_to_output(peer, both[i]);
        fake_backup_tablespace(&peer->fake, 16385, "/srv/ts");
        backup_peer_run(peer);
        backup_peer_assert_failed(peer, ERR_USAGE,
                                  "can only write single tablespace to stdout, database has 2");
        assert_int_equal(peer->printed.len, 0);
    }
}

/* Whoever reads it has a whole archive, but not what would say that it is a good one. */
static void
test_output_of_damaged_pages(void **state)
{
    for (size_t i = 0; i < COUNT(both); i++) {
        BackupPeer *peer = *state;
        TarFound found;

        start_to_output(peer, both[i]);
        peer->fake.damaged = true;
        backup_peer_run(peer);
        backup_peer_assert_failed(peer, ERR_MISMATCH, "checksum error occurred");
        assert_string_equal(peer->err.hint, "Pages are damaged (see above).");
        assert_passed_on(peer, 0, tar_span(&peer->printed), "-");
        assert_false(tar_find(tar_span(&peer->printed), "backup_manifest", &found));
    }
}

/* What was written cannot be taken back, but has no manifest. */
static void
test_output_that_disagrees(void **state)
{
    BackupPeer *peer = *state;

    start_to_output(peer, TYPED);
    alter_file(&peer->fake);
    backup_peer_run(peer);
    backup_peer_assert_failed_begins(peer, ERR_MISMATCH, "the backup as received does not agree");
    assert_null(memmem(peer->printed.data == NULL ? "" : (const char *)peer->printed.data,
                       peer->printed.len, "backup_manifest", 15));
}

static void
test_output_that_nobody_reads(void **state)
{
    for (size_t i = 0; i < COUNT(both); i++) {
        BackupPeer *peer = *state;
        int ends[2];

        start_to_output(peer, both[i]);
        assert_int_equal(pipe(ends), 0);
        (void)close(ends[0]);
        peer->output = ends[1];
        backup_peer_run(peer);
        (void)close(ends[1]);
        backup_peer_assert_failed_begins(peer, ERR_SYSTEM, "could not write to standard output");
        assert_int_equal(peer->err.sys_errno, EPIPE);
    }
}

typedef enum Channel { CHANNEL_PIPE, CHANNEL_SOCKET } Channel;

/* Both ends; what is written to ends[1] has room for `room` bytes or so. */
static void
open_channel(Channel channel, int room, int ends[2])
{
    if (channel == CHANNEL_PIPE) {
        assert_int_equal(pipe(ends), 0);
        assert_true(fcntl(ends[1], F_SETPIPE_SZ, room) >= room);
    } else {
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
        assert_int_equal(setsockopt(ends[1], SOL_SOCKET, SO_SNDBUF, &room, sizeof room), 0);
    }
}

static void
test_output_through_a_channel(void **state)
{
    for (Channel channel = CHANNEL_PIPE; channel <= CHANNEL_SOCKET; channel++) {
        BackupPeer *peer = *state;
        uint8_t *got = malloc(65536);
        ssize_t len;
        int ends[2];

        assert_non_null(got);
        start_to_output(peer, TYPED);
        open_channel(channel, 65536, ends);
        peer->output = ends[1];
        backup_peer_run(peer);
        (void)close(ends[1]);
        backup_peer_assert_completed(peer);
        for (size_t at = 0; (len = read(ends[0], got + at, 65536 - at)) > 0;) {
            Error err = ERROR_INIT;

            assert_true(buf_append(&peer->printed, got + at, (size_t)len, &err));
            at += (size_t)len;
        }
        (void)close(ends[0]);
        free(got);
        assert_string_equal(tar_last_name(tar_span(&peer->printed)), "backup_manifest");
        assert_passed_on(peer, 0, tar_span(&peer->printed), "-");
    }
}

/* Whoever reads has stopped reading: a stop ends that too. */
static void
test_output_that_is_not_taken(void **state)
{
    static const char *const notes[] = {"progress ", "note: verified"};

    for (size_t i = 0; i < COUNT(notes) * 2; i++) {
        BackupPeer *peer = *state;
        int ends[2];

        start_to_output(peer, both[i / 2]);
        open_channel(i % 2 == 0 ? CHANNEL_PIPE : CHANNEL_SOCKET, 4096, ends);
        peer->output = ends[1];
        peer->stop_at = notes[i / 2];
        backup_peer_run(peer);
        (void)close(ends[0]);
        (void)close(ends[1]);
        backup_peer_assert_failed(peer, ERR_STOPPED, "stopped");
    }
}

static void
test_output_that_is_full(void **state)
{
    BackupPeer *peer = *state;
    FILE *full;

    start_to_output(peer, TYPED);
    full = fopen("/dev/full", "w");
    assert_non_null(full);
    peer->output = fileno(full);
    backup_peer_run(peer);
    (void)fclose(full);
    backup_peer_assert_failed_begins(peer, ERR_SYSTEM, "could not write to standard output");
    assert_int_equal(peer->err.sys_errno, ENOSPC);
}

#define TAR_TEST(function) cmocka_unit_test_setup_teardown(function, set_up, backup_peer_tear_down)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        TAR_TEST(test_archives_as_they_came),
        TAR_TEST(test_no_manifest),
        TAR_TEST(test_tells_the_story),
        TAR_TEST(test_modes),
        TAR_TEST(test_streamed_wal),
        TAR_TEST(test_several_segments),
        TAR_TEST(test_target_that_is_not_empty),
        TAR_TEST(test_name_that_is_taken),
        TAR_TEST(test_no_clean_keeps_what_came),
        TAR_TEST(test_files_that_disagree),
        TAR_TEST(test_archives_that_cannot_be_read),
        TAR_TEST(test_cut_anywhere),
        TAR_TEST(test_damage_anywhere),
        TAR_TEST(test_stopped_at_every_note),
        TAR_TEST(test_compressed_by_us),
        TAR_TEST(test_compressed_by_the_server),
        TAR_TEST(test_compressed_by_the_server_with_wal),
        TAR_TEST(test_plain_from_compressed),
        TAR_TEST(test_server_cannot_compress),
        TAR_TEST(test_archives_of_another_form),
        TAR_TEST(test_compressed_and_damaged),
        TAR_TEST(test_recovery),
        TAR_TEST(test_recovery_before_12),
        TAR_TEST(test_recovery_compressed_by_us),
        TAR_TEST(test_recovery_compressed_by_the_server),
        TAR_TEST(test_output_has_its_manifest_inside),
        TAR_TEST(test_output_without_manifest),
        TAR_TEST(test_output_compressed_by_us),
        TAR_TEST(test_output_compressed_by_the_server),
        TAR_TEST(test_output_with_recovery),
        TAR_TEST(test_output_takes_one_archive),
        TAR_TEST(test_output_of_damaged_pages),
        TAR_TEST(test_output_that_disagrees),
        TAR_TEST(test_output_that_nobody_reads),
        TAR_TEST(test_output_through_a_channel),
        TAR_TEST(test_output_that_is_not_taken),
        TAR_TEST(test_output_that_is_full),
    };

    peer_clean_environment();
    return cmocka_run_group_tests_name("basebackup_tar", tests, NULL, NULL);
}
