/*
 * fake backup: both conversations of a base backup with a server of any version, for the wire
 * server: the backup itself and the WAL beside it.
 *
 *     FakeBackup fake;
 *     WireScript scripts[2] = {WIRE_SCRIPT_INIT, WIRE_SCRIPT_INIT};
 *
 *     fake_backup_init(&fake, "18.4");
 *     fake_backup_tablespace(&fake, 16385, "/srv/ts");
 *     fake_script_backup(&fake, &scripts[0]);
 *     fake_script_wal(&fake, &scripts[1]);
 *     wire_server_start(&(WireServerConfig){
 *         .scripts = scripts, .script_count = 2, .server_version = fake.version});
 *
 * What a test wants to be different it changes before the scripts are made, or it makes them of the
 * pieces below. Out of memory ends the process.
 */
#ifndef PGSTOW_TESTS_FAKE_BACKUP_H
#define PGSTOW_TESTS_FAKE_BACKUP_H

#include "stream/compression.h"
#include "support/manifest_builder.h"
#include "support/tar_builder.h"
#include "support/wal_builder.h"
#include "support/wire_server.h"

#define FAKE_SYSTEM_ID    ((uint64_t)7000000000000000001)
#define FAKE_SEGMENT      ((Lsn)0x2000000) /* where streaming starts */
#define FAKE_START        (FAKE_SEGMENT + 40)
#define FAKE_SEGMENT_SIZE ((uint32_t)1 << 20)
#define FAKE_ARCHIVES_MAX 4

typedef struct FakeArchive {
    Oid oid;              /* 0: the data directory, which is the last one */
    const char *location; /* as the server tells it; borrowed */
    Buf tar;              /* its members, without end blocks */
} FakeArchive;

typedef struct FakeBackup {
    const char *version; /* borrowed */
    int major;
    FakeArchive archives[FAKE_ARCHIVES_MAX];
    size_t count;
    ManifestBuilder manifest;
    Buf manifest_text; /* of the manifest, once a script has it; a test may fill it before */
    WalBuilder wal;    /* from FAKE_START to a bit beyond `end` */
    Lsn end;           /* of the backup */

    /* ---- for the test to change ---- */
    uint64_t system_id;         /* what IDENTIFY_SYSTEM says */
    const char *mode;           /* data_directory_mode */
    const char *size;           /* of each archive, in kB; NULL: not told */
    bool no_manifest;           /* none is sent; so with servers that have none */
    bool damaged;               /* the server says at the end that pages are damaged */
    bool checksums;             /* pages carry checksums */
    bool no_look;               /* nobody asks for that: --no-verify-checksums, or a target */
    bool uploads;               /* a manifest comes first: --incremental */
    bool elsewhere;             /* a target gets the data: here come names and progress alone */
    CompressionMethod compress; /* what is done with archives; their names tell it */
    size_t piece;               /* bytes of an archive per message */
} FakeBackup;

/* With a data directory of a few files. */
void fake_backup_init(FakeBackup *fake, const char *version);
void fake_backup_free(FakeBackup *fake);

/* One more tablespace with one file, and its link unless the location is relative. */
void fake_backup_tablespace(FakeBackup *fake, Oid oid, const char *location);

/* A file in the archive and in the manifest. */
void fake_backup_file(FakeBackup *fake, Oid oid, const char *path, const char *text);
void fake_backup_data(FakeBackup *fake, Oid oid, const char *path, Span data);

/* What only one of them has. */
void fake_backup_member(FakeBackup *fake, Oid oid, const TarMember *member);
void fake_backup_listed(FakeBackup *fake, const char *path, const char *text);

/* The text of the manifest, which is complete now; the test may change it. */
Buf *fake_backup_manifest(FakeBackup *fake);

/* What is sent of an archive, and the name it has, as owned Bufs. */
Buf fake_backup_archive(const FakeBackup *fake, size_t index);
Buf fake_backup_archive_name(const FakeBackup *fake, size_t index);

/* ---- the conversations ---- */

/* The n-th connection of a backup with streamed WAL. */
void fake_script_backup(FakeBackup *fake, WireScript *script);
void fake_script_wal(FakeBackup *fake, WireScript *script);

/* One that drops a slot. */
void fake_script_drop_slot(WireScript *script);

/* ---- their pieces ---- */

/* What is asked before the backup. */
void fake_script_learn(const FakeBackup *fake, WireScript *script);

/* The manifest of an earlier backup is taken. */
void fake_script_upload(WireScript *script);

/* BASE_BACKUP up to where data begins. */
Buf *fake_script_begin(const FakeBackup *fake, WireScript *script);

/* Each archive and the manifest are COPYs of their own with old servers, messages of one with new
 * ones: between fake_put_copy and fake_put_copy_end. */
void fake_put_copy(const FakeBackup *fake, Buf *out);
void fake_put_archive(const FakeBackup *fake, Buf *out, size_t index);
void fake_put_manifest(FakeBackup *fake, Buf *out);
void fake_put_copy_end(const FakeBackup *fake, Buf *out);

/* Of the pieces of fake_put_archive and fake_put_manifest, for servers with typed messages. */
void fake_put_new_archive(Buf *out, const char *name, const char *location);
void fake_put_data(Buf *out, Span data);
void fake_put_progress(Buf *out, uint64_t done);
void fake_put_manifest_begins(Buf *out);

/* All of that. */
void fake_put_contents(FakeBackup *fake, Buf *out);

/* The end position, and with it the end of the command. */
void fake_put_end_position(const FakeBackup *fake, Buf *out);
void fake_put_end(const FakeBackup *fake, Buf *out);

/* The second connection up to START_REPLICATION: the identity, and with `slot` the creation of one.
 */
void fake_script_wal_prepare(const FakeBackup *fake, WireScript *script, bool slot);

/* The stream is on; it ends with wire_stream_end. */
Buf *fake_script_wal_start(WireScript *script);
void fake_put_wal(const FakeBackup *fake, Buf *out, Lsn from, Lsn to);

#endif
