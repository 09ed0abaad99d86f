/*
 * Whole base backups from a server that does what the script says, good or bad: what is on disk
 * afterwards, what was told, and that a backup that is not whole leaves nothing behind.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "backup_peer.h"
#include "peer.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define TYPED        "18.4"
#define PLAIN        "14.19"

static const char *const both[] = {TYPED, PLAIN};

static int
set_up(void **state)
{
    return backup_peer_set_up(state, TYPED);
}

/* A script that differs from the usual one in what comes after the header. */
static Buf *
begin(BackupPeer *peer)
{
    backup_peer_match(peer);
    fake_script_learn(&peer->fake, &peer->scripts[0]);
    return fake_script_begin(&peer->fake, &peer->scripts[0]);
}

static mode_t
mode_of(BackupPeer *peer, const char *name)
{
    return temp_dir_mode(&peer->dir, name) & 07777;
}

/* ---- backups that succeed ---- */

static void
test_every_version(void **state)
{
    static const char *const versions[] = {"10.23", "11.22", "12.22", "13.22", "14.19",
                                           "15.14", "16.10", "17.6",  "18.4"};

    for (size_t i = 0; i < COUNT(versions); i++) {
        for (WalMethod wal = WAL_NONE; wal <= WAL_STREAM; wal++) {
            BackupPeer *peer = *state;

            backup_peer_again(peer, versions[i]);
            peer->options.wal_method = wal;
            backup_peer_run(peer);
            backup_peer_assert_taken(peer);
            assert_int_equal(wire_server_connections(peer->server), wal == WAL_STREAM ? 2 : 1);
        }
    }
}

static void
test_is_synced_before_it_has_its_name(void **state)
{
    BackupPeer *peer = *state;
    const char *syncing;
    const char *renaming;

    peer->options.sync = SYNC_FSYNC;
    peer->options.wal_method = WAL_STREAM;
    backup_peer_run(peer);
    backup_peer_assert_taken(peer);
    syncing = strstr(buf_text(&peer->told), "note: syncing data to disk ...\n");
    renaming = strstr(buf_text(&peer->told), "note: renaming backup_manifest.tmp to ");
    assert_non_null(syncing);
    assert_true(renaming > syncing);
}

static void
test_tells_the_story(void **state)
{
    BackupPeer *peer = *state;
    const char *target = peer->options.directory;
    char expected[4096];

    peer->options.sync = SYNC_FSYNC;
    peer->fake.size = "3";
    backup_peer_run(peer);
    backup_peer_assert_taken(peer);
    (void)snprintf(expected, sizeof expected,
                   "note: initiating base backup, waiting for checkpoint to complete\n"
                   "waiting\n"
                   "note: checkpoint completed\n"
                   "note: write-ahead log start point: 0/2000028 on timeline 1\n"
                   "begun 0/2000028 timeline=1 total=3072 archives=1 version=180004\n"
                   "progress 0/3072 0/1 %s\n"
                   "progress 8704/8704 1/1 - finished\n"
                   "note: write-ahead log end point: %X/%X\n"
                   "note: syncing data to disk ...\n"
                   "note: verified 5 files, 36 bytes against the manifest\n"
                   "note: renaming backup_manifest.tmp to backup_manifest\n"
                   "completed 0/2000028-%X/%X timeline=1 received=%zu wal=0 files=5 bytes=36 "
                   "durable\n"
                   "note: base backup completed\n",
                   target, LSN_ARGS(peer->fake.end), LSN_ARGS(peer->fake.end),
                   8704 + peer->fake.manifest_text.len);
    assert_string_equal(buf_text(&peer->told), expected);
}

static void
test_nobody_needs_to_observe(void **state)
{
    BackupPeer *peer = *state;

    peer->observer = (BackupObserver){.ctx = NULL};
    backup_peer_run(peer);
    assert_true(peer->ok);
    backup_peer_assert_file(peer, "target/PG_VERSION", "18\n");

    backup_peer_again(peer, TYPED);
    peer->observer = (BackupObserver){.ctx = NULL};
    fake_backup_listed(&peer->fake, "lost", "");
    backup_peer_run(peer);
    assert_false(peer->ok);
    assert_int_equal(backup_peer_entries(peer, "."), 0);
}

static void
test_options_reach_the_server(void **state)
{
    static const struct {
        const char *version;
        const char *command;
    } cases[] = {
        {TYPED, "BASE_BACKUP (LABEL 'it''s', PROGRESS, WAL, CHECKPOINT 'fast', WAIT 0, "
                "MAX_RATE 2048, VERIFY_CHECKSUMS 0, MANIFEST 'force-encode', "
                "MANIFEST_CHECKSUMS 'crc32c', TARGET 'client')"},
        {PLAIN, "BASE_BACKUP LABEL 'it''s' PROGRESS WAL FAST NOWAIT MAX_RATE 2048 "
                "NOVERIFY_CHECKSUMS MANIFEST 'force-encode' MANIFEST_CHECKSUMS 'crc32c'"},
    };

    for (size_t i = 0; i < COUNT(cases); i++) {
        BackupPeer *peer = *state;

        backup_peer_again(peer, cases[i].version);
        peer->options.label = "it's";
        peer->options.estimate_size = true;
        peer->options.wal_method = WAL_FETCH;
        peer->options.fast_checkpoint = true;
        peer->options.max_rate_kb = 2048;
        peer->options.no_verify_checksums = true;
        peer->options.manifest = MANIFEST_FORCE_ENCODE;
        peer->options.manifest_checksums = "crc32c";
        backup_peer_run(peer);
        backup_peer_assert_taken(peer);
        assert_string_equal(backup_peer_query(peer, "BASE_BACKUP"), cases[i].command);
    }
}

static void
test_no_manifest(void **state)
{
    for (size_t i = 0; i < COUNT(both); i++) {
        BackupPeer *peer = *state;

        backup_peer_again(peer, both[i]);
        peer->options.manifest = MANIFEST_NO;
        backup_peer_run(peer);
        backup_peer_assert_taken(peer);
        assert_null(strstr(backup_peer_query(peer, "BASE_BACKUP"), "MANIFEST"));
        assert_false(backup_peer_was_told(peer, "note: verified"));
        assert_null(strstr(backup_peer_told(peer, "completed "), "files="));
    }
}

/* Messages of any size, delivered in pieces of any size. */
static void
test_pieces_of_any_size(void **state)
{
    static const size_t sizes[] = {1, 7, 511, 513, 100000};

    for (size_t i = 0; i < COUNT(sizes) * 2; i++) {
        BackupPeer *peer = *state;

        backup_peer_again(peer, both[i % 2]);
        peer->fake.piece = sizes[i / 2];
        peer->config.chunk = i % 2 == 0 ? 1 : 333;
        if (sizes[i / 2] == 1)
            peer->config.chunk = 4096;
        backup_peer_run(peer);
        backup_peer_assert_taken(peer);
    }
}

static void
test_directory_that_was_there_and_empty(void **state)
{
    BackupPeer *peer = *state;

    temp_dir_mkdir(&peer->dir, "target");
    backup_peer_run(peer);
    backup_peer_assert_taken(peer);
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

        backup_peer_again(peer, TYPED);
        peer->umask = umasks[i % COUNT(umasks)];
        peer->fake.mode = cases[wanted].mode;
        peer->options.wal_method = WAL_STREAM;
        fake_backup_tablespace(&peer->fake, 16385, "/srv/ts");
        peer->options.mappings =
            &(TablespaceMapping){.from = "/srv/ts", .to = temp_dir_path(&peer->dir, "ts")};
        peer->options.mapping_count = 1;
        backup_peer_run(peer);
        backup_peer_assert_taken(peer);
        assert_int_equal(mode_of(peer, "target"), cases[wanted].directory);
        assert_int_equal(mode_of(peer, "ts"), cases[wanted].directory);
        assert_int_equal(mode_of(peer, "target/pg_wal/summaries"), cases[wanted].directory);
        assert_int_equal(mode_of(peer, "target/backup_manifest"), cases[wanted].file);
        assert_int_equal(mode_of(peer, "target/pg_wal/000000010000000000000020"),
                         cases[wanted].file);
        /* These are named by the archive. */
        assert_int_equal(mode_of(peer, "target/pg_wal"), 0700);
        assert_int_equal(mode_of(peer, "target/PG_VERSION"), 0600);
    }
}

/* ---- tablespaces ---- */

static void
map_tablespace(BackupPeer *peer, TablespaceMapping *mapping, const char *from, const char *name)
{
    *mapping = (TablespaceMapping){.from = from, .to = temp_dir_path(&peer->dir, name)};
    peer->options.mappings = mapping;
    peer->options.mapping_count = 1;
}

static void
assert_link(BackupPeer *peer, const char *name, const char *target)
{
    assert_string_equal(temp_dir_link(&peer->dir, name), target);
}

static void
test_mapped_tablespace(void **state)
{
    for (size_t i = 0; i < COUNT(both); i++) {
        BackupPeer *peer = *state;
        TablespaceMapping mapping;

        backup_peer_again(peer, both[i]);
        fake_backup_tablespace(&peer->fake, 16385, "/srv/ts");
        map_tablespace(peer, &mapping, "/srv/ts", "deep/er/ts");
        backup_peer_run(peer);
        backup_peer_assert_taken(peer);
        backup_peer_assert_file(peer, "deep/er/ts/PG_18_202506291/1234", "far away");
        backup_peer_assert_file(peer, "target/pg_tblspc/16385/PG_18_202506291/1234", "far away");
        assert_link(peer, "target/pg_tblspc/16385", mapping.to);
        assert_non_null(strstr(buf_text(&peer->told), "progress 0/0 0/2 "));
        assert_non_null(strstr(buf_text(&peer->told), " 1/2 "));
        assert_non_null(strstr(buf_text(&peer->told), " 2/2 - finished"));
    }
}

/* Without a mapping it goes where the server has it. */
static void
test_tablespace_at_its_own_place(void **state)
{
    BackupPeer *peer = *state;
    const char *location = temp_dir_path(&peer->dir, "own/place");

    fake_backup_tablespace(&peer->fake, 16385, location);
    backup_peer_run(peer);
    backup_peer_assert_taken(peer);
    backup_peer_assert_file(peer, "own/place/PG_18_202506291/1234", "far away");
    assert_link(peer, "target/pg_tblspc/16385", location);
}

/* A server may tell a place with slashes too many; nobody else's directory may go for it. */
static void
test_untidy_location(void **state)
{
    static const char *const names[] = {"mine/ts/", "mine//ts", "mine/./ts//"};

    for (size_t i = 0; i < COUNT(names) * 2; i++) {
        BackupPeer *peer = *state;

        backup_peer_again(peer, TYPED);
        temp_dir_mkdir(&peer->dir, "mine");
        fake_backup_tablespace(&peer->fake, 16385, temp_dir_path(&peer->dir, names[i / 2]));
        if (i % 2 == 0) {
            backup_peer_run(peer);
            backup_peer_assert_taken(peer);
            backup_peer_assert_file(peer, "mine/ts/PG_18_202506291/1234", "far away");
            assert_link(peer, "target/pg_tblspc/16385", temp_dir_path(&peer->dir, "mine/ts"));
        } else {
            fake_backup_listed(&peer->fake, "lost", "");
            backup_peer_run(peer);
            backup_peer_assert_error(peer, ERR_MISMATCH, "does not agree");
            assert_true(temp_dir_exists(&peer->dir, "mine"));
            assert_int_equal(backup_peer_entries(peer, "."), 1);
            assert_int_equal(backup_peer_entries(peer, "mine"), 0);
        }
    }
}

static void
test_tablespace_in_place(void **state)
{
    for (size_t i = 0; i < COUNT(both); i++) {
        BackupPeer *peer = *state;

        backup_peer_again(peer, both[i]);
        fake_backup_tablespace(&peer->fake, 16385, "pg_tblspc/16385");
        /* The data directory names it too, but not what is in it. */
        fake_backup_member(&peer->fake, 0, &(TarMember){TAR_DIRECTORY("pg_tblspc/16385/")});
        backup_peer_run(peer);
        backup_peer_assert_taken(peer);
        assert_true(S_ISDIR(temp_dir_mode(&peer->dir, "target/pg_tblspc/16385")));
        backup_peer_assert_file(peer, "target/pg_tblspc/16385/PG_18_202506291/1234", "far away");
    }
}

/* The manifest's paths are pg_tblspc/OID/...: files elsewhere would pass and not be found. */
static void
test_tablespace_in_a_place_that_is_none(void **state)
{
    static const char *const locations[] = {"base",
                                            "../ts",
                                            "pg_tblspc/16386",
                                            "pg_tblspc/16385/x",
                                            "pg_tblspc/016385",
                                            "pg_tblspc",
                                            "./pg_tblspc/16385"};

    for (size_t i = 0; i < COUNT(locations); i++) {
        BackupPeer *peer = *state;
        char message[200];

        backup_peer_again(peer, TYPED);
        fake_backup_tablespace(&peer->fake, 16385, locations[i]);
        (void)snprintf(message, sizeof message, "server sent an unsafe tablespace location \"%s\"",
                       locations[i]);
        backup_peer_run(peer);
        backup_peer_assert_failed(peer, ERR_PROTOCOL, message);
    }
}

static void
test_tablespace_listed_twice(void **state)
{
    BackupPeer *peer = *state;

    fake_backup_tablespace(&peer->fake, 16385, temp_dir_path(&peer->dir, "one"));
    fake_backup_tablespace(&peer->fake, 16386, temp_dir_path(&peer->dir, "two"));
    peer->fake.archives[1].oid = 16385;
    backup_peer_run(peer);
    backup_peer_assert_failed(peer, ERR_PROTOCOL, "server listed tablespace 16385 twice");
}

static void
test_tablespace_place_is_taken(void **state)
{
    BackupPeer *peer = *state;
    const char *location = temp_dir_path(&peer->dir, "ts");
    char message[4200];

    temp_dir_mkdir(&peer->dir, "ts/mine");
    fake_backup_tablespace(&peer->fake, 16385, location);
    (void)snprintf(message, sizeof message, "directory \"%s\" exists but is not empty", location);
    backup_peer_run(peer);
    backup_peer_assert_error(peer, ERR_USAGE, message);
    assert_string_equal(peer->err.hint, "Give the tablespace another place with "
                                        "--tablespace-mapping=OLDDIR=NEWDIR.");
    assert_true(temp_dir_exists(&peer->dir, "ts/mine"));
    assert_int_equal(backup_peer_entries(peer, "."), 1);
}

/* Two trees in one directory could not be told apart. */
static void
test_places_that_overlap(void **state)
{
    static const struct {
        const char *place;
        bool exists;
    } cases[] = {{"target", false},
                 {"target/ts", false},
                 {"target/pg_tblspc/16385", false},
                 {"target/../target", false},
                 {"link", true}};

    for (size_t i = 0; i < COUNT(cases); i++) {
        BackupPeer *peer = *state;
        TablespaceMapping mapping;

        backup_peer_again(peer, TYPED);
        if (cases[i].exists) {
            temp_dir_mkdir(&peer->dir, "target");
            assert_int_equal(symlink("target", temp_dir_path(&peer->dir, cases[i].place)), 0);
        }
        fake_backup_tablespace(&peer->fake, 16385, "/srv/ts");
        map_tablespace(peer, &mapping, "/srv/ts", cases[i].place);
        backup_peer_run(peer);
        backup_peer_assert_error(peer, ERR_USAGE, "it overlaps directory \"");
        assert_int_equal(backup_peer_entries(peer, "."), cases[i].exists ? 2 : 0);
    }
}

/* Where a link leads is our decision, whatever the archive says. */
static void
test_link_of_a_tablespace_leads_where_its_files_are(void **state)
{
    static const char *const lies[] = {"/", "/etc", "/srv/other", "relative"};

    for (size_t i = 0; i < COUNT(lies); i++) {
        BackupPeer *peer = *state;
        TablespaceMapping mapping;

        backup_peer_again(peer, TYPED);
        fake_backup_tablespace(&peer->fake, 16385, "pg_tblspc/16385");
        peer->fake.archives[0].location = "/srv/ts";
        fake_backup_member(&peer->fake, 0, &(TarMember){TAR_SYMLINK("pg_tblspc/16385", lies[i])});
        map_tablespace(peer, &mapping, "/srv/ts", "ts");
        backup_peer_run(peer);
        backup_peer_assert_taken(peer);
        assert_link(peer, "target/pg_tblspc/16385", mapping.to);
    }
}

/* A tablespace that was made while the backup ran: only its link is there, and it is mapped too. */
static void
test_link_of_a_new_tablespace(void **state)
{
    BackupPeer *peer = *state;
    TablespaceMapping mapping;

    fake_backup_member(&peer->fake, 0, &(TarMember){TAR_SYMLINK("pg_tblspc/16390", "/srv/new/")});
    map_tablespace(peer, &mapping, "/srv/new", "elsewhere");
    backup_peer_run(peer);
    backup_peer_assert_taken(peer);
    assert_link(peer, "target/pg_tblspc/16390", mapping.to);
}

/* ---- the target ---- */

static void
test_target_that_is_not_empty(void **state)
{
    BackupPeer *peer = *state;
    char message[4200];

    (void)snprintf(message, sizeof message, "directory \"%s\" exists but is not empty",
                   peer->options.directory);
    temp_dir_mkdir(&peer->dir, "target/.hidden");
    backup_peer_run(peer);
    backup_peer_assert_error(peer, ERR_USAGE, message);
    assert_string_equal(peer->err.hint, "");
    assert_true(temp_dir_exists(&peer->dir, "target/.hidden"));
    assert_null(backup_peer_query(peer, "BASE_BACKUP"));
}

static void
test_target_that_was_never_finished(void **state)
{
    BackupPeer *peer = *state;

    temp_dir_mkdir(&peer->dir, "target");
    temp_dir_write(&peer->dir, "target/backup_manifest.tmp", "", 0);
    backup_peer_run(peer);
    backup_peer_assert_error(peer, ERR_USAGE, "exists but is not empty");
    assert_non_null(strstr(peer->err.hint, "backup_manifest.tmp"));
    assert_true(temp_dir_exists(&peer->dir, "target/backup_manifest.tmp"));
}

/* It may be the last copy of something: nobody is told to remove it. */
static void
test_target_that_was_kept(void **state)
{
    BackupPeer *peer = *state;

    temp_dir_mkdir(&peer->dir, "target");
    temp_dir_write(&peer->dir, "target/backup_manifest.tmp", "", 0);
    temp_dir_write(&peer->dir, "target/backup_bad_pages", "", 0);
    backup_peer_run(peer);
    backup_peer_assert_error(peer, ERR_USAGE, "exists but is not empty");
    assert_non_null(strstr(peer->err.hint, "pages in it are damaged"));
    assert_null(strstr(peer->err.hint, "run this again"));
    assert_int_equal(backup_peer_entries(peer, "target"), 2);
}

/* What was there before stays, what was made goes: with the parents that had to be made. */
static void
test_what_is_taken_back(void **state)
{
    static const struct {
        const char *there;
        const char *target;
        const char *told;
        size_t left;
    } cases[] = {
        {NULL, "target", "info: removing directory \"", 0},
        {NULL, "a/b/c/target", "info: removing directory \"", 0},
        {"a/b", "a/b/c/target", "info: removing directory \"", 1},
        {"target", "target", "info: removing contents of directory \"", 1},
    };

    for (size_t i = 0; i < COUNT(cases); i++) {
        BackupPeer *peer = *state;

        backup_peer_again(peer, TYPED);
        if (cases[i].there != NULL)
            temp_dir_mkdir(&peer->dir, cases[i].there);
        peer->options.directory = temp_dir_path(&peer->dir, cases[i].target);
        fake_backup_listed(&peer->fake, "lost", "");
        backup_peer_run(peer);
        backup_peer_assert_error(peer, ERR_MISMATCH, "does not agree with the server's manifest");
        (void)backup_peer_told(peer, cases[i].told);
        assert_int_equal(backup_peer_entries(peer, "."), cases[i].left);
        if (cases[i].there != NULL)
            assert_int_equal(backup_peer_entries(peer, cases[i].there), 0);
    }
}

static void
test_no_clean_keeps_everything(void **state)
{
    BackupPeer *peer = *state;
    char line[4200];

    peer->options.no_clean = true;
    fake_backup_listed(&peer->fake, "lost", "");
    backup_peer_run(peer);
    backup_peer_assert_error(peer, ERR_MISMATCH, "does not agree with the server's manifest");
    (void)snprintf(line, sizeof line, "info: directory \"%s\" not removed at user's request",
                   peer->options.directory);
    assert_string_equal(backup_peer_told(peer, "info: "), line);
    backup_peer_assert_file(peer, "target/PG_VERSION", "18\n");
    assert_true(temp_dir_exists(&peer->dir, "target/backup_manifest.tmp"));
    assert_false(temp_dir_exists(&peer->dir, "target/backup_manifest"));
}

/* Paths as long as the system takes them, and one that is longer. */
static void
test_long_paths(void **state)
{
    BackupPeer *peer = *state;
    char name[4200] = "";
    char line[4300];
    size_t len;

    for (size_t i = 0; i < 17; i++)
        (void)snprintf(name + strlen(name), sizeof name - strlen(name), "%0200zu/", i);
    (void)snprintf(name + strlen(name), sizeof name - strlen(name), "target");
    peer->options.directory = temp_dir_path(&peer->dir, name);
    fake_backup_listed(&peer->fake, "lost", "");
    backup_peer_run(peer);
    backup_peer_assert_failed_begins(peer, ERR_MISMATCH, "the backup as received");
    (void)snprintf(line, sizeof line, "info: removing directory \"%s\"", peer->options.directory);
    assert_string_equal(backup_peer_told(peer, "info: "), line);

    backup_peer_again(peer, TYPED);
    len = strlen(name);
    (void)snprintf(name + len, sizeof name - len, "/%0700d", 0);
    peer->options.directory = temp_dir_path(&peer->dir, name);
    backup_peer_run(peer);
    backup_peer_assert_failed_begins(peer, ERR_SYSTEM, "could not access directory \"");
    assert_int_equal(peer->err.sys_errno, ENAMETOOLONG);
}

/* ---- the order of the server's messages ---- */

typedef void (*Put)(FakeBackup *fake, Buf *out);

static void
put_unknown_archive(FakeBackup *fake, Buf *out)
{
    fake_put_new_archive(out, "16999.tar", "");
    (void)fake;
}

static void
put_wrong_order(FakeBackup *fake, Buf *out)
{
    fake_put_archive(fake, out, 1);
    fake_put_archive(fake, out, 0);
}

static void
put_compressed(FakeBackup *fake, Buf *out)
{
    fake_put_archive(fake, out, 0);
    fake_put_new_archive(out, "base.tar.gz", "");
}

static void
put_one_more(FakeBackup *fake, Buf *out)
{
    fake_put_archive(fake, out, 0);
    fake_put_archive(fake, out, 1);
    fake_put_archive(fake, out, 1);
}

static void
put_one_less(FakeBackup *fake, Buf *out)
{
    fake_put_archive(fake, out, 0);
    fake_put_manifest(fake, out);
    fake_put_copy_end(fake, out);
}

static void
put_nothing(FakeBackup *fake, Buf *out)
{
    fake_put_copy_end(fake, out);
}

static void
put_manifest_first(FakeBackup *fake, Buf *out)
{
    fake_put_manifest(fake, out);
    fake_put_archive(fake, out, 0);
}

static void
put_manifest_between(FakeBackup *fake, Buf *out)
{
    fake_put_archive(fake, out, 0);
    fake_put_manifest(fake, out);
    fake_put_archive(fake, out, 1);
}

static void
put_manifest_twice(FakeBackup *fake, Buf *out)
{
    fake_put_archive(fake, out, 0);
    fake_put_archive(fake, out, 1);
    fake_put_manifest(fake, out);
    fake_put_manifest_begins(out);
}

static void
put_no_manifest(FakeBackup *fake, Buf *out)
{
    fake_put_archive(fake, out, 0);
    fake_put_archive(fake, out, 1);
    fake_put_copy_end(fake, out);
}

static void
put_data_first(FakeBackup *fake, Buf *out)
{
    fake_put_data(out, span_of("data"));
    fake_put_archive(fake, out, 0);
}

static void
put_archive_name_with_slash(FakeBackup *fake, Buf *out)
{
    fake_put_new_archive(out, "../base.tar", "");
    (void)fake;
}

static void
put_unknown_message(FakeBackup *fake, Buf *out)
{
    wire_copy_data(out, "x", 1);
    (void)fake;
}

static void
put_archive_cut_short(FakeBackup *fake, Buf *out)
{
    fake_put_new_archive(out, "16385.tar", "/srv/ts");
    fake_put_data(out, (Span){.data = fake->archives[0].tar.data, .len = 700});
    fake_put_archive(fake, out, 1);
}

static void
put_archive_without_end(FakeBackup *fake, Buf *out)
{
    fake_put_new_archive(out, "16385.tar", "/srv/ts");
    fake_put_data(out, tar_span(&fake->archives[0].tar));
    fake_put_archive(fake, out, 1);
}

/* Typed messages that are not what the protocol says. */
static void
test_messages_out_of_order(void **state)
{
    static const struct {
        Put put;
        ErrorCode code;
        const char *message;
    } cases[] = {
        {put_unknown_archive, ERR_PROTOCOL,
         "server sent archive \"16999.tar\" where \"16385.tar\" was expected"},
        {put_wrong_order, ERR_PROTOCOL,
         "server sent archive \"base.tar\" where \"16385.tar\" was expected"},
        {put_compressed, ERR_PROTOCOL,
         "server sent archive \"base.tar.gz\" where \"base.tar\" was expected"},
        {put_one_more, ERR_PROTOCOL,
         "server sent one more archive than it announced: \"base.tar\""},
        {put_one_less, ERR_PROTOCOL, "server sent 1 archives but announced 2"},
        {put_nothing, ERR_PROTOCOL, "server sent 0 archives but announced 2"},
        {put_manifest_first, ERR_PROTOCOL, "archives must precede manifest"},
        {put_manifest_between, ERR_PROTOCOL, "archives must precede manifest"},
        {put_manifest_twice, ERR_PROTOCOL, "server sent a backup manifest that was not expected"},
        {put_no_manifest, ERR_PROTOCOL, "server sent no backup manifest"},
        {put_data_first, ERR_PROTOCOL, "unexpected payload data"},
        {put_archive_name_with_slash, ERR_PROTOCOL, "invalid archive name: \"../base.tar\""},
        {put_unknown_message, ERR_PROTOCOL, "malformed COPY message of type 120, length 1"},
        {put_archive_cut_short, ERR_FORMAT, "archive \"16385.tar\" ends within a member's header"},
        {put_archive_without_end, ERR_FORMAT,
         "archive \"16385.tar\" ends after 1536 bytes without its end blocks"},
    };

    for (size_t i = 0; i < COUNT(cases); i++) {
        BackupPeer *peer = *state;
        TablespaceMapping mapping;
        Buf *out;

        backup_peer_again(peer, TYPED);
        fake_backup_tablespace(&peer->fake, 16385, "/srv/ts");
        map_tablespace(peer, &mapping, "/srv/ts", "ts");
        out = begin(peer);
        fake_put_copy(&peer->fake, out);
        cases[i].put(&peer->fake, out);
        if (cases[i].put == put_one_less || cases[i].put == put_nothing ||
            cases[i].put == put_no_manifest)
            fake_put_end(&peer->fake, out);
        backup_peer_run(peer);
        backup_peer_assert_failed(peer, cases[i].code, cases[i].message);
    }
}

static void
test_manifest_that_nobody_asked_for(void **state)
{
    BackupPeer *peer = *state;
    Buf *out = begin(peer);

    peer->options.manifest = MANIFEST_NO;
    fake_put_copy(&peer->fake, out);
    fake_put_archive(&peer->fake, out, 0);
    fake_put_manifest(&peer->fake, out);
    backup_peer_run(peer);
    backup_peer_assert_failed(peer, ERR_PROTOCOL,
                              "server sent a backup manifest that was not expected");
}

/* One COPY per archive: what comes instead of the next, or behind the last. */
static void
test_copies_out_of_order(void **state)
{
    static const struct {
        size_t copies;
        bool manifest;
        const char *message;
    } cases[] = {
        {1, false, "could not get COPY data stream: unexpected result PGRES_TUPLES_OK"},
        {2, false, "could not get COPY data stream: unexpected result PGRES_TUPLES_OK"},
        {3, true, "could not parse backup manifest: "},
        {4, false, "could not parse backup manifest: "},
    };

    for (size_t i = 0; i < COUNT(cases); i++) {
        BackupPeer *peer = *state;
        TablespaceMapping mapping;
        Buf *out;

        backup_peer_again(peer, PLAIN);
        fake_backup_tablespace(&peer->fake, 16385, "/srv/ts");
        map_tablespace(peer, &mapping, "/srv/ts", "ts");
        out = begin(peer);
        for (size_t copy = 0; copy < cases[i].copies; copy++)
            fake_put_archive(&peer->fake, out, copy == 0 ? 0 : 1);
        if (cases[i].manifest)
            fake_put_manifest(&peer->fake, out);
        fake_put_end(&peer->fake, out);
        backup_peer_run(peer);
        backup_peer_assert_failed_begins(peer, cases[i].copies < 3 ? ERR_PROTOCOL : ERR_FORMAT,
                                         cases[i].message);
    }
}

static void
test_manifest_copied_twice(void **state)
{
    BackupPeer *peer = *state;
    Buf *out;

    backup_peer_again(peer, PLAIN);
    out = begin(peer);
    fake_put_archive(&peer->fake, out, 0);
    fake_put_manifest(&peer->fake, out);
    fake_put_manifest(&peer->fake, out);
    fake_put_end(&peer->fake, out);
    backup_peer_run(peer);
    backup_peer_assert_failed(peer, ERR_PROTOCOL,
                              "could not get write-ahead log end position from server: unexpected "
                              "result PGRES_COPY_OUT");
}

/* ---- what came against what the manifest says ---- */

static void
change_nothing(FakeBackup *fake)
{
    (void)fake;
}

static void
alter_file(FakeBackup *fake)
{
    fake_backup_member(fake, 0, &(TarMember){TAR_FILE("base/1/1259", "altered on the way")});
    fake_backup_listed(fake, "base/1/1259", "Altered on the way");
}

static void
lengthen_file(FakeBackup *fake)
{
    fake_backup_member(fake, 0, &(TarMember){TAR_FILE("base/1/1259", "longer")});
    fake_backup_listed(fake, "base/1/1259", "long");
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

/* The same name in another archive is another file. */
static void
move_file(FakeBackup *fake)
{
    fake_backup_member(fake, 0, &(TarMember){TAR_FILE("moved", "text")});
    fake_backup_listed(fake, "pg_tblspc/16385/moved", "text");
}

static void
use_other_checksum(FakeBackup *fake)
{
    fake_backup_member(fake, 0, &(TarMember){TAR_FILE("other", "text")});
    manifest_builder_file(&fake->manifest, "other", "text", 4, CHECKSUM_SHA256);
}

static void
test_files_that_disagree(void **state)
{
    static const struct {
        void (*change)(FakeBackup *fake);
        size_t problems;
        const char *told;
    } cases[] = {
        {alter_file, 1, "problem: checksum mismatch for file \"base/1/1259\""},
        {lengthen_file, 1,
         "problem: \"base/1/1259\" has size 6 as received but size 4 in the manifest"},
        {lose_file, 1, "problem: \"base/1/1259\" is in the manifest but was not received"},
        {add_file, 1, "problem: \"base/1/1259\" was received but is not in the manifest"},
        {lose_tablespace_file, 1,
         "problem: \"pg_tblspc/16385/lost\" is in the manifest but was not received"},
        {move_file, 2,
         "problem: \"pg_tblspc/16385/moved\" is in the manifest but was not received"},
        {use_other_checksum, 1,
         "problem: file \"other\" has a checksum of type SHA256 in the manifest"},
        {change_nothing, 0, NULL},
    };

    for (size_t i = 0; i < COUNT(cases) * 2; i++) {
        BackupPeer *peer = *state;
        TablespaceMapping mapping;
        char message[200];

        backup_peer_again(peer, both[i % 2]);
        fake_backup_tablespace(&peer->fake, 16385, "/srv/ts");
        map_tablespace(peer, &mapping, "/srv/ts", "ts");
        cases[i / 2].change(&peer->fake);
        backup_peer_run(peer);
        if (cases[i / 2].problems == 0) {
            backup_peer_assert_taken(peer);
            continue;
        }
        (void)snprintf(message, sizeof message,
                       "the backup as received does not agree with the server's manifest: %zu %s",
                       cases[i / 2].problems, cases[i / 2].problems == 1 ? "problem" : "problems");
        backup_peer_assert_failed(peer, ERR_MISMATCH, message);
        (void)backup_peer_told(peer, cases[i / 2].told);
        /* What is wrong is told before the verdict. */
        assert_true(strstr(buf_text(&peer->told), "problem: ") <
                    strstr(buf_text(&peer->told), "failed: "));
    }
}

/* WAL that the server sends with the data directory is in no manifest. */
static void
test_fetched_wal_is_not_in_the_manifest(void **state)
{
    BackupPeer *peer = *state;

    peer->options.wal_method = WAL_FETCH;
    fake_backup_member(&peer->fake, 0,
                       &(TarMember){TAR_FILE("pg_wal/000000010000000000000020", "WAL")});
    fake_backup_member(
        &peer->fake, 0,
        &(TarMember){TAR_FILE("pg_wal/archive_status/000000010000000000000020.done", "")});
    backup_peer_run(peer);
    backup_peer_assert_taken(peer);
    backup_peer_assert_file(peer, "target/pg_wal/000000010000000000000020", "WAL");
}

static void
test_checksums_of_every_kind(void **state)
{
    static const struct {
        const char *option;
        ChecksumType type;
    } cases[] = {{"none", CHECKSUM_NONE},     {"CRC32C", CHECKSUM_CRC32C},
                 {"sha224", CHECKSUM_SHA224}, {"Sha256", CHECKSUM_SHA256},
                 {"SHA384", CHECKSUM_SHA384}, {"sha512", CHECKSUM_SHA512}};

    for (size_t i = 0; i < COUNT(cases); i++) {
        static const char *const paths[] = {"backup_label", "PG_VERSION", "base/1/1247",
                                            "base/1/1248", "global/pg_control"};
        static const char *const texts[] = {"LABEL: fake\n", "18\n", "pg_type's rows", "",
                                            "control"};
        BackupPeer *peer = *state;

        backup_peer_again(peer, TYPED);
        peer->options.manifest_checksums = cases[i].option;
        manifest_builder_free(&peer->fake.manifest);
        manifest_builder_begin(&peer->fake.manifest, 2, FAKE_SYSTEM_ID);
        for (size_t file = 0; file < COUNT(paths); file++)
            manifest_builder_file(&peer->fake.manifest, paths[file], texts[file],
                                  strlen(texts[file]), cases[i].type);
        backup_peer_run(peer);
        backup_peer_assert_taken(peer);
    }
}

/* ---- the manifest itself ---- */

static void
damage_checksum(Buf *text)
{
    uint8_t *digit = &text->data[text->len - 5];

    *digit = *digit == '0' ? '1' : '0';
}

static void
damage_content(Buf *text)
{
    uint8_t *at = (uint8_t *)strstr((char *)text->data, "PG_VERSION");

    assert_non_null(at);
    *at = 'Q';
}

static void
cut_end(Buf *text)
{
    text->len -= 100;
}

static void
replace_with_garbage(Buf *text)
{
    memset(text->data, 'x', text->len);
}

static void
leave_nothing(Buf *text)
{
    text->data[0] = '\n';
    text->len = 1;
}

static void
change_system_id(Buf *text)
{
    ManifestBuilder other;

    manifest_builder_begin(&other, 2, FAKE_SYSTEM_ID + 1);
    manifest_builder_file(&other, "backup_label", "LABEL: fake\n", 12, CHECKSUM_CRC32C);
    manifest_builder_file(&other, "PG_VERSION", "18\n", 3, CHECKSUM_CRC32C);
    manifest_builder_file(&other, "base/1/1247", "pg_type's rows", 14, CHECKSUM_CRC32C);
    manifest_builder_file(&other, "base/1/1248", "", 0, CHECKSUM_CRC32C);
    manifest_builder_file(&other, "global/pg_control", "control", 7, CHECKSUM_CRC32C);
    buf_clear(text);
    manifest_builder_finish(&other, text);
}

static void
test_manifest_that_is_wrong(void **state)
{
    static const struct {
        void (*change)(Buf *text);
        ErrorCode code;
        const char *message;
    } cases[] = {
        {damage_checksum, ERR_FORMAT, "manifest checksum mismatch"},
        {damage_content, ERR_FORMAT, "manifest checksum mismatch"},
        {cut_end, ERR_FORMAT, "could not parse backup manifest: "},
        {replace_with_garbage, ERR_FORMAT, "could not parse backup manifest: "},
        {leave_nothing, ERR_FORMAT, "could not parse backup manifest: "},
        {change_system_id, ERR_MISMATCH,
         "manifest system identifier is 7000000000000000002, but the server's is "
         "7000000000000000001"},
    };

    for (size_t i = 0; i < COUNT(cases) * 2; i++) {
        BackupPeer *peer = *state;

        backup_peer_again(peer, both[i % 2]);
        cases[i / 2].change(fake_backup_manifest(&peer->fake));
        backup_peer_run(peer);
        backup_peer_assert_failed_begins(peer, cases[i / 2].code, cases[i / 2].message);
    }
}

static void
test_manifest_without_bytes(void **state)
{
    BackupPeer *peer = *state;
    Buf *out = begin(peer);

    fake_put_copy(&peer->fake, out);
    fake_put_archive(&peer->fake, out, 0);
    fake_put_manifest_begins(out);
    fake_put_copy_end(&peer->fake, out);
    fake_put_end(&peer->fake, out);
    backup_peer_run(peer);
    backup_peer_assert_failed_begins(peer, ERR_FORMAT, "could not parse backup manifest: ");
}

/* A data directory with the leftovers of a backup in it: they would be taken for ours. */
static void
test_archive_has_what_is_ours(void **state)
{
    static const char *const names[] = {"backup_manifest", "backup_manifest.tmp",
                                        "backup_bad_pages"};

    for (size_t i = 0; i < COUNT(names) * COUNT(both); i++) {
        const char *name = names[i % COUNT(names)];
        BackupPeer *peer = *state;
        char message[200];

        backup_peer_again(peer, both[i / COUNT(names)]);
        peer->options.no_clean = true;
        fake_backup_file(&peer->fake, 0, name, "left over");
        (void)snprintf(message, sizeof message,
                       "the server's data directory has a file \"%s\", which is the name of the "
                       "backup's own",
                       name);
        backup_peer_run(peer);
        backup_peer_assert_error(peer, ERR_UNSUPPORTED, message);
        assert_string_equal(peer->err.hint, "It is left over from an earlier backup: remove it on "
                                            "the server.");
        assert_false(temp_dir_exists(&peer->dir, "target/backup_manifest"));
        assert_false(temp_dir_exists(&peer->dir, "target/backup_bad_pages"));
    }
}

/* Only there. */
static void
test_archive_may_have_a_manifest(void **state)
{
    BackupPeer *peer = *state;
    TablespaceMapping mapping;

    fake_backup_tablespace(&peer->fake, 16385, "/srv/ts");
    map_tablespace(peer, &mapping, "/srv/ts", "ts");
    fake_backup_file(&peer->fake, 16385, "backup_manifest", "not ours");
    fake_backup_file(&peer->fake, 16385, "backup_bad_pages", "not ours");
    fake_backup_file(&peer->fake, 0, "base/backup_manifest", "not ours");
    backup_peer_run(peer);
    backup_peer_assert_taken(peer);
    backup_peer_assert_file(peer, "ts/backup_manifest", "not ours");
    backup_peer_assert_file(peer, "ts/backup_bad_pages", "not ours");

    backup_peer_again(peer, "12.22");
    fake_backup_file(&peer->fake, 0, "backup_manifest.tmp", "left over");
    backup_peer_run(peer);
    assert_true(peer->ok);
    backup_peer_assert_file(peer, "target/backup_manifest.tmp", "left over");
}

/* ---- archives that want out of the directory ---- */

/* As far as the manifest goes, it is as it should be. */
static void
send_member(BackupPeer *peer, const TarMember *member)
{
    fake_backup_member(&peer->fake, 0, member);
    if (member->type == 0)
        fake_backup_listed(&peer->fake, member->name, member->data);
}

static void
test_unsafe_members(void **state)
{
    static const struct {
        TarMember first;
        TarMember second;
        ErrorCode code;
        const char *part;
    } cases[] = {
        {{TAR_FILE("../outside", "bad")},
         {.name = NULL},
         ERR_FORMAT,
         "member \"../outside\" has an unsafe path"},
        {{TAR_FILE("base/../../outside", "bad")}, {.name = NULL}, ERR_FORMAT, "an unsafe path"},
        {{TAR_FILE("/outside", "bad")}, {.name = NULL}, ERR_FORMAT, "an unsafe path"},
        {{TAR_DIRECTORY("../outside/")}, {.name = NULL}, ERR_FORMAT, "an unsafe path"},
        {{TAR_SYMLINK("way_out", "..")},
         {TAR_FILE("way_out/outside", "bad")},
         ERR_FORMAT,
         "is not a tablespace's link"},
        {{TAR_SYMLINK("pg_tblspc/1", "..")}, {.name = NULL}, ERR_FORMAT, "unsafe target \"..\""},
        {{TAR_SYMLINK("pg_tblspc/1/2", "/srv")},
         {.name = NULL},
         ERR_FORMAT,
         "is not a tablespace's link"},
        /* Through a link that is allowed. */
        {{TAR_SYMLINK("pg_tblspc/1", "/tmp")},
         {TAR_FILE("pg_tblspc/1/outside", "bad")},
         ERR_FORMAT,
         "is a symbolic link, which is not followed"},
        {{TAR_FILE("twice", "1")},
         {TAR_FILE("twice", "2")},
         ERR_FORMAT,
         "file \"twice\" was received twice"},
        {{TAR_FILE("PG_VERSION/below", "bad")}, {.name = NULL}, ERR_SYSTEM, "PG_VERSION"},
        {{.name = "hard", .type = '1', .link = "PG_VERSION"},
         {.name = NULL},
         ERR_UNSUPPORTED,
         "tar member \"hard\" has type \"1\""},
        {{.name = "device", .type = '3'},
         {.name = NULL},
         ERR_UNSUPPORTED,
         "tar member \"device\" has type \"3\""},
    };

    for (size_t i = 0; i < COUNT(cases) * 2; i++) {
        BackupPeer *peer = *state;

        backup_peer_again(peer, both[i % 2]);
        send_member(peer, &cases[i / 2].first);
        if (cases[i / 2].second.name != NULL)
            send_member(peer, &cases[i / 2].second);
        backup_peer_run(peer);
        backup_peer_assert_error(peer, cases[i / 2].code, cases[i / 2].part);
        assert_int_equal(backup_peer_entries(peer, "."), 0);
        assert_int_not_equal(access("/outside", F_OK), 0);
        assert_int_not_equal(access("/tmp/outside", F_OK), 0);
    }
}

/* ---- failures of the server ---- */

static void
test_server_refuses(void **state)
{
    BackupPeer *peer = *state;

    fake_script_learn(&peer->fake, &peer->scripts[0]);
    wire_answer_error(&peer->scripts[0], "BASE_BACKUP", "55000",
                      "WAL level not sufficient for making an online backup");
    backup_peer_run(peer);
    backup_peer_assert_failed(peer, ERR_SERVER,
                              "could not initiate base backup: ERROR:  WAL level not sufficient "
                              "for making an online backup");
    assert_string_equal(peer->err.sqlstate, "55000");
}

static void
test_no_connection(void **state)
{
    BackupPeer *peer = *state;

    peer->config.refuse = "too many clients";
    backup_peer_run(peer);
    backup_peer_assert_error(peer, ERR_CONNECTION, "FATAL:  too many clients");
    assert_int_equal(backup_peer_entries(peer, "."), 0);
    assert_false(backup_peer_was_told(peer, "info: "));
}

#define BAD_PAGES_HEAD                                                                             \
    "Data pages of this backup have wrong checksums. It is complete and was kept because it may\n" \
    "be the last copy; its manifest, if it has one, is backup_manifest.tmp.\n"
#define BAD_PAGES_SERVER "The server reported checksum failures while it sent.\n"

/* Damaged pages: all that came is kept, but under no name that says that it is well. */
static void
test_damaged_pages(void **state)
{
    for (size_t i = 0; i < COUNT(both) * 2; i++) {
        BackupPeer *peer = *state;

        backup_peer_again(peer, both[i / 2]);
        peer->fake.damaged = true;
        peer->options.wal_method = i % 2 == 0 ? WAL_NONE : WAL_STREAM;
        backup_peer_run(peer);
        backup_peer_assert_error(peer, ERR_MISMATCH, "checksum error occurred");
        assert_non_null(strstr(peer->err.hint, "file \"backup_bad_pages\""));
        assert_non_null(strstr(peer->err.hint, "backup_manifest.tmp"));
        assert_false(backup_peer_was_told(peer, "info: "));
        backup_peer_assert_file(peer, "target/PG_VERSION", "18\n");
        backup_peer_assert_file(peer, "target/backup_manifest.tmp",
                                buf_text(&peer->fake.manifest_text));
        assert_false(temp_dir_exists(&peer->dir, "target/backup_manifest"));
        backup_peer_assert_file(peer, "target/backup_bad_pages", BAD_PAGES_HEAD BAD_PAGES_SERVER);
        assert_int_equal(mode_of(peer, "target/backup_bad_pages"), 0600);
        /* It is complete, and this is said before the failure. */
        assert_true(strstr(buf_text(&peer->told), "completed ") <
                    strstr(buf_text(&peer->told), "failed: "));
    }
}

static void
test_damaged_pages_without_manifest(void **state)
{
    static const char *const versions[] = {"12.22", TYPED};

    for (size_t i = 0; i < COUNT(versions); i++) {
        BackupPeer *peer = *state;

        backup_peer_again(peer, versions[i]);
        peer->fake.damaged = true;
        peer->options.manifest = MANIFEST_NO;
        backup_peer_run(peer);
        backup_peer_assert_error(peer, ERR_MISMATCH, "checksum error occurred");
        assert_null(strstr(peer->err.hint, "manifest"));
        assert_non_null(strstr(peer->err.hint, "kept"));
        backup_peer_assert_file(peer, "target/PG_VERSION", "18\n");
        backup_peer_assert_file(peer, "target/backup_bad_pages", BAD_PAGES_HEAD BAD_PAGES_SERVER);
    }
}

/* Somebody else is quicker. */
static void
take_the_name(void *ctx, const char *note)
{
    BackupPeer *peer = ctx;

    if (strncmp(note, "verified", strlen("verified")) == 0)
        temp_dir_write(&peer->dir, "target/backup_bad_pages", "", 0);
}

/* Kept all the same, and it is said why it has no mark. */
static void
test_damaged_pages_cannot_be_marked(void **state)
{
    BackupPeer *peer = *state;

    peer->fake.damaged = true;
    peer->observer.note = take_the_name;
    backup_peer_run(peer);
    backup_peer_assert_error(peer, ERR_SYSTEM, "could not mark the backup as having damaged pages");
    assert_int_equal(peer->err.sys_errno, EEXIST);
    assert_false(backup_peer_was_told(peer, "info: "));
    backup_peer_assert_file(peer, "target/PG_VERSION", "18\n");
    assert_true(temp_dir_exists(&peer->dir, "target/backup_manifest.tmp"));
    assert_false(temp_dir_exists(&peer->dir, "target/backup_manifest"));
}

/* A copy that is not the server's is no last copy of anything. */
static void
test_damaged_pages_and_damage_on_the_way(void **state)
{
    BackupPeer *peer = *state;

    peer->fake.damaged = true;
    alter_file(&peer->fake);
    backup_peer_run(peer);
    backup_peer_assert_failed_begins(peer, ERR_MISMATCH, "the backup as received");
}

static void
test_error_in_mid_copy(void **state)
{
    for (size_t i = 0; i < COUNT(both); i++) {
        BackupPeer *peer = *state;
        Buf *out;

        backup_peer_again(peer, both[i]);
        out = begin(peer);
        wire_copy_out(out);
        if (i == 0)
            fake_put_new_archive(out, "base.tar", "");
        wire_error(out, "ERROR", "58030", "could not read file \"base/1/1247\"");
        wire_ready(out);
        backup_peer_run(peer);
        backup_peer_assert_failed(peer, ERR_SERVER,
                                  "could not read COPY data: ERROR:  could not read file "
                                  "\"base/1/1247\"");
        assert_string_equal(peer->err.sqlstate, "58030");
    }
}

static void
test_server_is_gone_in_mid_copy(void **state)
{
    for (size_t i = 0; i < COUNT(both); i++) {
        BackupPeer *peer = *state;
        Buf *out;

        backup_peer_again(peer, both[i]);
        out = begin(peer);
        fake_put_copy(&peer->fake, out);
        fake_put_archive(&peer->fake, out, 0);
        wire_step(&peer->scripts[0], WIRE_CLOSE);
        backup_peer_run(peer);
        backup_peer_assert_failed_begins(peer, ERR_CONNECTION, "");
        assert_non_null(strstr(peer->err.message, "server closed the connection unexpectedly"));
    }
}

/* Nothing more comes that the failure could meet. */
static void
test_writing_fails_while_the_server_pauses(void **state)
{
    BackupPeer *peer = *state;

    fake_backup_member(&peer->fake, 0, &(TarMember){TAR_FILE("PG_VERSION/below", "bad")});
    backup_peer_script_stall(peer);
    backup_peer_run(peer);
    /* Small files are made by another thread: it finds a directory, or we find its file. */
    backup_peer_assert_failed_begins(peer, ERR_SYSTEM, "could not ");
    assert_non_null(strstr(peer->err.message, "/PG_VERSION\": "));
}

static void
test_end_position_missing(void **state)
{
    for (size_t i = 0; i < COUNT(both); i++) {
        BackupPeer *peer = *state;
        Buf *out;

        backup_peer_again(peer, both[i]);
        out = begin(peer);
        fake_put_contents(&peer->fake, out);
        wire_complete(out, "BASE_BACKUP");
        wire_ready(out);
        backup_peer_run(peer);
        backup_peer_assert_failed(peer, ERR_PROTOCOL,
                                  "could not get write-ahead log end position from server: "
                                  "unexpected result PGRES_COMMAND_OK");
    }
}

static void
test_error_behind_the_end_position(void **state)
{
    BackupPeer *peer = *state;
    Buf *out = begin(peer);

    fake_put_contents(&peer->fake, out);
    fake_put_end_position(&peer->fake, out);
    wire_error(out, "ERROR", "58000", "archiving failed");
    wire_ready(out);
    backup_peer_run(peer);
    backup_peer_assert_failed(peer, ERR_SERVER, "final receive failed: ERROR:  archiving failed");
}

/* ---- every place ---- */

/* A conversation that breaks off anywhere leaves nothing, and says why. */
static void
test_cut_anywhere(void **state)
{
    for (size_t i = 0; i < COUNT(both); i++) {
        BackupPeer *peer = *state;
        int64_t whole;

        backup_peer_again(peer, both[i]);
        backup_peer_run(peer);
        backup_peer_assert_taken(peer);
        whole = wire_server_sent(peer->server);
        for (int64_t at = 0; at < whole; at += 97) {
            backup_peer_again(peer, both[i]);
            peer->cut = at + 1;
            backup_peer_run(peer);
            backup_peer_assert_failed_begins(peer, ERR_CONNECTION, "");
        }
    }
}

/* A byte that changes is noticed, or makes no difference to what the backup holds. */
static void
test_damage_anywhere(void **state)
{
    for (size_t i = 0; i < COUNT(both); i++) {
        BackupPeer *peer = *state;
        int64_t whole;

        backup_peer_again(peer, both[i]);
        backup_peer_run(peer);
        whole = wire_server_sent(peer->server);
        for (int64_t at = 400; at < whole; at += 41) {
            backup_peer_again(peer, both[i]);
            peer->damage_at = at;
            peer->damage_mask = (uint8_t)(1U << (at % 7));
            peer->config.patience_ms = 100;
            backup_peer_run(peer);
            if (peer->ok)
                backup_peer_assert_taken(peer);
            else
                assert_int_equal(backup_peer_entries(peer, "."), 0);
        }
    }
}

/* ---- stopping ---- */

static void
test_stopped_before_it_begins(void **state)
{
    BackupPeer *peer = *state;

    stop_request(&peer->stop);
    backup_peer_run(peer);
    backup_peer_assert_failed(peer, ERR_STOPPED, "stopped");
    assert_false(backup_peer_was_told(peer, "info: "));
}

static void
test_stopped_while_the_server_makes_its_checkpoint(void **state)
{
    BackupPeer *peer = *state;

    fake_script_learn(&peer->fake, &peer->scripts[0]);
    wire_expect(&peer->scripts[0], "BASE_BACKUP");
    wire_stall(&peer->scripts[0], NULL);
    peer->stop_at = "waiting";
    backup_peer_run(peer);
    backup_peer_assert_failed(peer, ERR_STOPPED, "stopped");
    (void)backup_peer_told(peer, "info: removing directory \"");
}

static void
test_stopped_in_mid_copy(void **state)
{
    for (size_t i = 0; i < COUNT(both); i++) {
        BackupPeer *peer = *state;

        backup_peer_again(peer, both[i]);
        backup_peer_script_stall(peer);
        peer->stop_at = "progress ";
        backup_peer_run(peer);
        backup_peer_assert_failed(peer, ERR_STOPPED, "stopped");
    }
}

static void
test_stopped_before_the_end_position(void **state)
{
    BackupPeer *peer = *state;
    Buf *out = begin(peer);

    fake_put_contents(&peer->fake, out);
    wire_stall(&peer->scripts[0], NULL);
    peer->stop_at = "progress ";
    backup_peer_run(peer);
    backup_peer_assert_failed(peer, ERR_STOPPED, "stopped");
}

/* Wherever it comes: the backup is whole, or nothing is there. */
static void
test_stopped_at_every_note(void **state)
{
    static const char *const notes[] = {"note: initiating",
                                        "waiting",
                                        "note: checkpoint",
                                        "note: write-ahead log start",
                                        "begun ",
                                        "progress ",
                                        "note: write-ahead log end",
                                        "note: verified",
                                        "note: syncing",
                                        "note: renaming",
                                        "completed ",
                                        "note: base backup completed"};
    size_t taken = 0;

    for (size_t i = 0; i < COUNT(notes); i++) {
        BackupPeer *peer = *state;

        backup_peer_again(peer, TYPED);
        peer->options.sync = SYNC_FSYNC;
        peer->stop_at = notes[i];
        backup_peer_run(peer);
        (void)backup_peer_told(peer, notes[i]);
        backup_peer_assert_taken_or_stopped(peer);
        taken += peer->ok;
    }
    assert_true(taken >= 4); /* nothing is waited for any more */
    assert_true(taken <= 6);
}

#define BACKUP_TEST(function)                                                                      \
    cmocka_unit_test_setup_teardown(function, set_up, backup_peer_tear_down)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        BACKUP_TEST(test_every_version),
        BACKUP_TEST(test_is_synced_before_it_has_its_name),
        BACKUP_TEST(test_tells_the_story),
        BACKUP_TEST(test_nobody_needs_to_observe),
        BACKUP_TEST(test_options_reach_the_server),
        BACKUP_TEST(test_no_manifest),
        BACKUP_TEST(test_pieces_of_any_size),
        BACKUP_TEST(test_directory_that_was_there_and_empty),
        BACKUP_TEST(test_modes),
        BACKUP_TEST(test_mapped_tablespace),
        BACKUP_TEST(test_tablespace_at_its_own_place),
        BACKUP_TEST(test_untidy_location),
        BACKUP_TEST(test_tablespace_in_place),
        BACKUP_TEST(test_tablespace_in_a_place_that_is_none),
        BACKUP_TEST(test_tablespace_listed_twice),
        BACKUP_TEST(test_tablespace_place_is_taken),
        BACKUP_TEST(test_places_that_overlap),
        BACKUP_TEST(test_link_of_a_tablespace_leads_where_its_files_are),
        BACKUP_TEST(test_link_of_a_new_tablespace),
        BACKUP_TEST(test_target_that_is_not_empty),
        BACKUP_TEST(test_target_that_was_never_finished),
        BACKUP_TEST(test_target_that_was_kept),
        BACKUP_TEST(test_what_is_taken_back),
        BACKUP_TEST(test_no_clean_keeps_everything),
        BACKUP_TEST(test_long_paths),
        BACKUP_TEST(test_messages_out_of_order),
        BACKUP_TEST(test_manifest_that_nobody_asked_for),
        BACKUP_TEST(test_copies_out_of_order),
        BACKUP_TEST(test_manifest_copied_twice),
        BACKUP_TEST(test_files_that_disagree),
        BACKUP_TEST(test_fetched_wal_is_not_in_the_manifest),
        BACKUP_TEST(test_checksums_of_every_kind),
        BACKUP_TEST(test_manifest_that_is_wrong),
        BACKUP_TEST(test_manifest_without_bytes),
        BACKUP_TEST(test_archive_has_what_is_ours),
        BACKUP_TEST(test_archive_may_have_a_manifest),
        BACKUP_TEST(test_unsafe_members),
        BACKUP_TEST(test_server_refuses),
        BACKUP_TEST(test_no_connection),
        BACKUP_TEST(test_damaged_pages),
        BACKUP_TEST(test_damaged_pages_without_manifest),
        BACKUP_TEST(test_damaged_pages_cannot_be_marked),
        BACKUP_TEST(test_damaged_pages_and_damage_on_the_way),
        BACKUP_TEST(test_error_in_mid_copy),
        BACKUP_TEST(test_server_is_gone_in_mid_copy),
        BACKUP_TEST(test_writing_fails_while_the_server_pauses),
        BACKUP_TEST(test_end_position_missing),
        BACKUP_TEST(test_error_behind_the_end_position),
        BACKUP_TEST(test_cut_anywhere),
        BACKUP_TEST(test_damage_anywhere),
        BACKUP_TEST(test_stopped_before_it_begins),
        BACKUP_TEST(test_stopped_while_the_server_makes_its_checkpoint),
        BACKUP_TEST(test_stopped_in_mid_copy),
        BACKUP_TEST(test_stopped_before_the_end_position),
        BACKUP_TEST(test_stopped_at_every_note),
    };

    peer_clean_environment();
    return cmocka_run_group_tests_name("basebackup", tests, NULL, NULL);
}
