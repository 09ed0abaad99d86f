/*
 * The replication protocol (documentation: "Streaming Replication Protocol"): connections,
 * replication commands, copy streams and message layouts. The only room that knows libpq.
 *
 * A Conn belongs to one thread at a time; it may be handed over before that thread starts. Server
 * notices go to standard error as libpq's default does, because scripts match on them.
 * A server's error becomes ERR_SERVER with its SQLSTATE; a broken or refused connection
 * ERR_CONNECTION; anything that the protocol does not allow ERR_PROTOCOL.
 */
#ifndef PGSTOW_PROTOCOL_H
#define PGSTOW_PROTOCOL_H

#include "common/bytes.h"
#include "common/error.h"
#include "common/pgtypes.h"
#include "common/runtime.h"

/* ---- what a server can do ---- */

/* Computed once from the server's version; everything that depends on the version asks this. */
typedef struct ServerFeatures {
    int version; /* as PQserverVersion: 180004 */
    int major;   /* 18 */
    bool
        command_options; /* 15+: BASE_BACKUP ( name value, ... ), CREATE_REPLICATION_SLOT ( ... ) */
    bool typed_copy;     /* 15+: one COPY of typed messages, terminated tars */
    bool group_access;   /* 11+: SHOW data_directory_mode */
    bool verify_checksums;   /* 11+: the server verifies page checksums while it sends */
    bool manifest;           /* 13+ */
    bool manifest_system_id; /* 17+: manifest version 2 */
    bool read_slot;          /* 15+: READ_REPLICATION_SLOT */
    bool drop_slot_wait;     /* 11+ */
    bool wal_summaries;      /* 17+: pg_wal/summaries, UPLOAD_MANIFEST, INCREMENTAL */
    bool backup_targets;     /* 15+: BASE_BACKUP ( TARGET ... ) */
    bool compression;        /* 15+: BASE_BACKUP ( COMPRESSION ... ) */
    bool
        recovery_settings; /* 12+: standby.signal and postgresql.auto.conf; before, recovery.conf */
} ServerFeatures;

#define SERVER_MAJOR_MIN 10
#define SERVER_MAJOR_MAX 18

/* Pure. ERR_UNSUPPORTED for a major version outside the range, naming `version_text`. */
bool server_features(int version, const char *version_text, ServerFeatures *ret_features,
                     Error *err) MUST_USE;

/* ---- connection ---- */

typedef enum PasswordPrompt {
    PASSWORD_IF_NEEDED, /* prompt when the server wants one and none is known */
    PASSWORD_NEVER,     /* -w */
    PASSWORD_ALWAYS     /* -W */
} PasswordPrompt;

#define PASSWORD_MAX 1024

typedef struct ConnConfig {
    const char *conninfo; /* -d: connection string or URI, or NULL */
    const char *host;     /* -h, -p, -U: NULL unless given; they override conninfo, as stock does */
    const char *port;
    const char *user;
    const char *progname; /* becomes fallback_application_name */
    PasswordPrompt prompt;
    /* Ask a person; false with the error when there is nobody. */
    bool (*ask_password)(void *ctx, char password[PASSWORD_MAX], Error *err);
    void *ask_ctx;
    /* Ends a connection attempt that hangs (one with a connect_timeout: only when that is over),
     * and commands that take no Stop of their own. Lives as long as the Conn; may be NULL. */
    const Stop *stop;
    int64_t patience_ms; /* how long the server may leave us without an answer: to an attempt to
                          * connect, and to commands that take no Stop of their own; 0: for ever */
} ConnConfig;

typedef struct Conn Conn;

/* A physical replication connection; refuses servers outside 10-18 or without integer_datetimes. */
Conn *conn_open(const ConnConfig *config, Error *err) MUST_USE;

/*
 * One more connection for `config` to the very host, address and port that `first` reached, with
 * the password that it used: a multi-host connection string must not lead to another server.
 */
Conn *conn_open_beside(const Conn *first, const ConnConfig *config, Error *err) MUST_USE;
void conn_free(Conn *conn);

const ServerFeatures *conn_features(const Conn *conn);
const char *conn_version_text(const Conn *conn);
int conn_backend_pid(const Conn *conn);

/* The one of several hosts that was reached: a name, an address or a socket's directory. */
const char *conn_host(const Conn *conn);

/* That of the ConnConfig; may be NULL. */
const Stop *conn_stop(const Conn *conn);

/*
 * What a standby's primary_conninfo has to say to reach the same server in the same way (stock:
 * fe_utils/recovery_gen.c): every setting of the connection that has a value, `key=value` with
 * libpq's quoting, the password included, without replication, dbname and
 * fallback_application_name, and without those that libpq of the server's version does not know
 * (it would refuse them all); then the dbname, when one was named by `config`, the environment or a
 * service. Appended to `conninfo`; not yet quoted for a configuration file.
 */
bool conn_primary_conninfo(const Conn *conn, const ConnConfig *config, Buf *conninfo,
                           Error *err) MUST_USE;

/* ---- replication commands: one typed function each ---- */

typedef struct ServerIdentity {
    uint64_t system_id;
    TimeLineID timeline;
    Lsn position; /* flushed, or replayed on a standby */
} ServerIdentity;

bool repl_identify_system(Conn *conn, ServerIdentity *ret_identity, Error *err) MUST_USE;

/* SHOW wal_segment_size, in bytes, valid. */
bool repl_segment_size(Conn *conn, uint32_t *ret_size, Error *err) MUST_USE;

/* SHOW data_directory_mode: whether group may read; false on servers that do not tell. */
bool repl_group_access(Conn *conn, bool *ret_group, Error *err) MUST_USE;

/* How relation files are laid out, and whether their pages carry checksums (SHOW). */
typedef struct PageLayout {
    bool checksums;
    uint32_t page_size;     /* block_size, in bytes */
    uint32_t segment_pages; /* pages in one file of a relation */
} PageLayout;

bool repl_page_layout(Conn *conn, PageLayout *ret_layout, Error *err) MUST_USE;

typedef enum SlotKind { SLOT_TEMPORARY, SLOT_PERMANENT } SlotKind;
typedef enum SlotReserve { SLOT_RESERVE_LATER, SLOT_RESERVE_WAL } SlotReserve;

/* A physical slot. A slot that exists already is ERR_SERVER with sqlstate 42710. */
bool repl_create_slot(Conn *conn, const char *name, SlotKind kind, SlotReserve reserve,
                      Error *err) MUST_USE;
bool repl_drop_slot(Conn *conn, const char *name, Error *err) MUST_USE;

typedef struct SlotState {
    bool exists;
    bool has_position; /* restart_lsn is known */
    Lsn restart_lsn;
    TimeLineID restart_timeline;
} SlotState;

/* READ_REPLICATION_SLOT: servers 15+ only (features.read_slot). */
bool repl_read_slot(Conn *conn, const char *name, SlotState *ret_state, Error *err) MUST_USE;

/*
 * The same on servers that lack that command, by SQL over one more connection of its own beside
 * `first` (replication=database, to the configured database, else to "postgres"), which may not be
 * allowed: then it fails. restart_timeline stays 0: the caller knows it from the history.
 */
bool repl_read_slot_by_sql(const Conn *first, const ConnConfig *config, const char *name,
                           SlotState *ret_state, Error *err) MUST_USE;

/* The content of `timeline`'s history file, appended. */
bool repl_timeline_history(Conn *conn, TimeLineID timeline, Buf *content, Error *err) MUST_USE;

/* ---- WAL streaming ---- */

typedef enum StreamStart {
    STREAM_STARTED,   /* COPY BOTH is on: copy_next, copy_send */
    STREAM_AT_SWITCH, /* nothing to stream: the timeline ended here; see repl_stream_end */
    STREAM_FAILED
} StreamStart;

/* `slot` may be NULL. */
StreamStart repl_start_streaming(Conn *conn, const char *slot, Lsn start, TimeLineID timeline,
                                 Error *err) MUST_USE;

typedef struct StreamEnd {
    bool has_next; /* the timeline ended and another follows */
    TimeLineID next_timeline;
    Lsn next_start; /* where it forks off */
} StreamEnd;

/*
 * Read the results behind a COPY BOTH that both sides have ended (after COPY_DONE and copy_end), or
 * after STREAM_AT_SWITCH. No Stop ends it, as a stop is why streams end: it waits for ten seconds
 * at most.
 */
bool repl_stream_end(Conn *conn, StreamEnd *ret_end, Error *err) MUST_USE;

/* ---- base backup ---- */

typedef enum ManifestRequest { MANIFEST_NO, MANIFEST_YES, MANIFEST_FORCE_ENCODE } ManifestRequest;

typedef struct BaseBackupRequest {
    const char *label;
    bool progress; /* estimate sizes */
    bool fast_checkpoint;
    bool include_wal;     /* -X fetch */
    bool no_wait;         /* do not wait for archiving (-X stream, fetch) */
    uint32_t max_rate_kb; /* 0: no limit */
    bool tablespace_map;
    bool verify_checksums;
    ManifestRequest manifest;
    const char *manifest_checksums; /* NULL: the server's default */
    bool incremental;               /* against the manifest that was uploaded before */
    const char *target;             /* "server", "blackhole", ...; NULL: to us */
    const char *target_detail;      /* may be NULL */
    const char *compression;        /* the server's method, unparsed; NULL: none */
    const char *compression_detail; /* may be NULL */
} BaseBackupRequest;

/*
 * UPLOAD_MANIFEST: gives the server the manifest of an earlier backup, as the base of INCREMENTAL.
 * Servers 17+ only (features.wal_summaries). The server parses it; its complaint is the error.
 */
bool repl_upload_manifest(Conn *conn, const char *path, const Stop *stop, Error *err) MUST_USE;

/* The command text for a server; pure. Appends to `command`. */
bool base_backup_command(const BaseBackupRequest *request, const ServerFeatures *features,
                         Buf *command, Error *err) MUST_USE;

/* One archive that the server is going to send, in order; the data directory is the last. */
typedef struct Tablespace {
    Oid oid;          /* 0: the data directory */
    char *location;   /* as the server has it; NULL for the data directory; relative: in place */
    uint64_t size_kb; /* estimate, 0 when not asked for */
} Tablespace;

typedef struct BackupStart {
    Lsn lsn;
    TimeLineID timeline;
    Tablespace *tablespaces; /* owned; backup_start_free */
    size_t tablespace_count;
} BackupStart;

/* Sends BASE_BACKUP and reads up to the point where data begins. Waits for the checkpoint; `stop`
 * ends the wait. */
bool repl_base_backup(Conn *conn, const BaseBackupRequest *request, const Stop *stop,
                      BackupStart *ret_start, Error *err) MUST_USE;
void backup_start_free(BackupStart *start);

/* Enter the next COPY OUT: once on 15+, once per archive (and once more for the manifest) before.
 */
bool repl_next_copy(Conn *conn, const Stop *stop, Error *err) MUST_USE;

typedef struct BackupEnd {
    Lsn lsn;
    TimeLineID timeline;
    bool checksum_failures; /* the server sent everything but found damaged pages (XX001) */
} BackupEnd;

/* After the last COPY: the end position and the command's completion. */
bool repl_base_backup_end(Conn *conn, const Stop *stop, BackupEnd *ret_end, Error *err) MUST_USE;

/* ---- copy streams ---- */

typedef enum CopyResult {
    COPY_MESSAGE, /* *ret_message is valid until the next copy_next on this Conn */
    COPY_IDLE,    /* the timeout passed */
    COPY_STOPPED, /* `stop` was requested; err is untouched */
    COPY_WOKEN,   /* `bell` was rung */
    COPY_DONE,    /* the server ended the copy */
    COPY_FAILED   /* err is set */
} CopyResult;

typedef struct CopyWait {
    int64_t timeout_ms; /* -1: for ever; 0: do not wait */
    const Stop *stop;   /* may be NULL */
    Bell *bell;         /* may be NULL */
} CopyWait;

/*
 * Messages that are in memory come before a bell, and a stop before everything. A copy that
 * failed fails again.
 */
CopyResult copy_next(Conn *conn, const CopyWait *wait, Span *ret_message, Error *err) MUST_USE;

/* True when the next copy_next will not have to wait: a message is in memory already. */
bool copy_has_buffered(Conn *conn);

/*
 * Send one message and flush it. A server that does not take it blocks for 30 seconds at most. When
 * the connection breaks, or the server has ended the copy for good, there is nobody to tell and
 * this succeeds: copy_next reports what happened.
 */
bool copy_send(Conn *conn, Span message, Error *err) MUST_USE;

/* Send CopyDone, likewise; once is enough. No copy_send after it. */
bool copy_end(Conn *conn, Error *err) MUST_USE;

/* ---- message layouts; pure ---- */

/* Typed CopyData of BASE_BACKUP on 15+. */
typedef enum BackupMessageKind {
    BACKUP_NEW_ARCHIVE, /* 'n' */
    BACKUP_DATA,        /* 'd' */
    BACKUP_PROGRESS,    /* 'p' */
    BACKUP_MANIFEST     /* 'm' */
} BackupMessageKind;

typedef struct BackupMessage {
    BackupMessageKind kind;
    const char *archive_name;    /* NEW_ARCHIVE */
    const char *tablespace_path; /* NEW_ARCHIVE: "" for the data directory */
    Span data;                   /* DATA */
    uint64_t bytes_done;         /* PROGRESS */
} BackupMessage;

bool backup_message_parse(Span message, BackupMessage *ret_message, Error *err) MUST_USE;

/* CopyData of START_REPLICATION from the server. */
typedef enum WalMessageKind { WAL_DATA, WAL_KEEPALIVE } WalMessageKind;

typedef struct WalMessage {
    WalMessageKind kind;
    Lsn start;            /* WAL_DATA: LSN of the first byte */
    Lsn server_end;       /* how far the server has flushed, or sent for a keepalive */
    int64_t sent_at;      /* TimestampTz */
    Span data;            /* WAL_DATA */
    bool reply_requested; /* WAL_KEEPALIVE */
} WalMessage;

bool wal_message_parse(Span message, WalMessage *ret_message, Error *err) MUST_USE;

#define STATUS_MESSAGE_SIZE 34

typedef struct StatusMessage {
    Lsn written;
    Lsn flushed; /* 0: not reported */
    Lsn applied;
    int64_t sent_at;
    bool reply_requested;
} StatusMessage;

void status_message_format(const StatusMessage *status, uint8_t ret_bytes[STATUS_MESSAGE_SIZE]);

/* 'name' with quotes doubled, and "name" likewise, as the replication grammar reads them. */
bool repl_quote_literal(Buf *buf, const char *text, Error *err) MUST_USE;
bool repl_quote_identifier(Buf *buf, const char *text, Error *err) MUST_USE;

#endif
