/*
 * backup peer: basebackup_run against a wire server, for the tests of base backups.
 *
 * A test gets a server of some version and options (no WAL, not synced), changes what it wants to
 * be different, and runs. Unless it wrote scripts of its own, the server's are those of
 * `fake`. The observer's calls are written down in `told`, one line each:
 *     note: initiating base backup, waiting for checkpoint to complete
 *     waiting
 *     begun 0/2000028 timeline=1 total=0 archives=1 version=180004
 *     progress 10240/0 0/1 /tmp/x/target
 *     problem: ...
 *     completed 0/2000028-0/20023F8 timeline=1 received=9800 wal=0 files=5 bytes=36 durable
 *     failed: ...
 *     info: removing directory "/tmp/x/target"
 * The line "completed" has "files=", "pages=" and "wal-checked" where that was looked at, and
 * "elsewhere" with a target.
 */
#ifndef PGSTOW_TESTS_BACKUP_PEER_H
#define PGSTOW_TESTS_BACKUP_PEER_H

#include "basebackup/basebackup.h"
#include "support/fake_backup.h"
#include "support/temp_dir.h"

typedef struct BackupPeer {
    FakeBackup fake;
    WireScript scripts[3]; /* of the backup, of the WAL, and of dropping a slot */
    WireServerConfig config;
    WireServer *server;
    int64_t cut; /* as wire_server_cut and wire_server_damage; -1: not */
    int64_t damage_at;
    uint8_t damage_mask;
    ConnConfig conn;

    TempDir dir;  /* holds "target", which does not exist before */
    mode_t umask; /* of the run */
    BackupOptions options;
    BackupObserver observer;
    Stop stop;
    const char *stop_at; /* stop is requested when a line beginning so is told; NULL: never */
    Stop release;        /* for scripts to wait for: wire_stall */
    const char *release_at;

    /* With the directory "-": where standard output leads meanwhile; -1: what is written goes to
     * `printed`. */
    int output;

    bool ok;
    Error err;
    Buf told;
    Buf printed;

    size_t descriptors; /* that were open before */
} BackupPeer;

void backup_peer_init(BackupPeer *peer, const char *version);

/* For cmocka: *state is a peer that is initialised. The end looks for descriptors left open. */
int backup_peer_set_up(void **state, const char *version);
int backup_peer_tear_down(void **state);

/* Another one in its place. */
void backup_peer_again(BackupPeer *peer, const char *version);

/* The server is made to expect what the options ask of it. Done by backup_peer_run; before it by
 * who writes scripts. */
void backup_peer_match(BackupPeer *peer);

/* The server sends the data directory and then nothing until the backup is given up. */
void backup_peer_script_stall(BackupPeer *peer);

/* Start the server, take the backup, stop the server; all it expected must have come. */
void backup_peer_run(BackupPeer *peer);
void backup_peer_free(BackupPeer *peer);

/* ---- what came of it ---- */

/* Success, and nothing but that was told. */
void backup_peer_assert_completed(BackupPeer *peer);

/* And everything that the server sent is in the target, a directory. */
void backup_peer_assert_taken(BackupPeer *peer);

/* Or in archives, just as it came, with an end for those that have none. */
void backup_peer_assert_archives(BackupPeer *peer);

/* Failure with this error: it was told before anything else was, and nothing is left. */
void backup_peer_assert_failed(BackupPeer *peer, ErrorCode code, const char *message);
void backup_peer_assert_failed_begins(BackupPeer *peer, ErrorCode code, const char *beginning);

/* One of both: a stop may come when nothing is waited for any more. */
void backup_peer_assert_taken_or_stopped(BackupPeer *peer);

/* Wherever the message has it; files may be left. */
void backup_peer_assert_error(BackupPeer *peer, ErrorCode code, const char *part);

/* That a line beginning so was told; the line. */
const char *backup_peer_told(const BackupPeer *peer, const char *beginning);
bool backup_peer_was_told(const BackupPeer *peer, const char *beginning);

/* The query that begins so, or NULL. */
const char *backup_peer_query(const BackupPeer *peer, const char *beginning);

/* Compare a file below the directory. */
void backup_peer_assert_file(BackupPeer *peer, const char *name, const char *text);

/* An archive below the directory, whatever its name says it is compressed with. */
Buf backup_peer_unpacked(BackupPeer *peer, const char *name);

/* The n-th archive that the server sends, with its end and without compression. */
Buf backup_peer_sent_tar(BackupPeer *peer, size_t index);

/* How many entries the directory has. */
size_t backup_peer_entries(BackupPeer *peer, const char *name);

#endif
