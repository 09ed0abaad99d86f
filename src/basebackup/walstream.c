/*
 * WAL beside the backup: a second connection to the same server, a slot, and a thread that streams
 * from the segment of the backup's start until the main thread tells where the backup ended.
 *
 *   receive thread: WalReceiver -> wal_check -> handoff => wal_dir -> DIR/pg_wal
 *                                            or handoff => wal_archive -> tar_writer -> compress?
 *                                                          -> file_sink -> DIR/pg_wal.tar
 *
 * When the stream fails it requests the run's stop, which ends the main thread's waiting.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "basebackup/internal.h"
#include "common/file.h"
#include "pgformat/walfile.h"
#include "verify/verify.h"
#include "walrecv/walrecv.h"

/* For the server to drop a slot; a run that failed must not hang. */
#define DROP_PATIENCE_MS 10000
#define DROP_RETRY_MS    50
#define SLOT_IN_USE      "55006"

struct WalStream {
    WalReceiver *receiver;
    Lsn first; /* where streaming began */
    Stop *stop;
    Thread thread;
    DurableMark durable;
    _Atomic Lsn checked_to;
    /* Written by the thread before it ends; read after the join, or once `failed` is true. */
    WalRunResult result;
    Error reason;
    atomic_bool failed;
};

/* ---- the directories ---- */

/*
 * pg_wal and what a server expects in it: streaming begins before the archive brings them. pg_wal
 * may be a link already.
 */
static bool
make_wal_directories(const WalStreamConfig *config, char **ret_wal_dir, Error *err)
{
    mode_t mode = config->file_mode == 0640 ? 0750 : 0700;
    char *wal_dir = path_join(config->options->directory, "pg_wal", err);
    bool ok = wal_dir != NULL &&
              target_make_inside(config->options->directory, "pg_wal", mode, err) &&
              target_make_inside(wal_dir, "archive_status", mode, err);

    if (ok && conn_features(config->beside)->wal_summaries)
        ok = target_make_inside(wal_dir, "summaries", mode, err);
    if (!ok) {
        free(wal_dir);
        return false;
    }
    *ret_wal_dir = wal_dir;
    return true;
}

/* ---- the connection ---- */

#define TEMPORARY_NAME_SIZE 32

/*
 * The slot to stream from, made if need be: the user's, or a temporary one that lives as long as
 * the connection, so that the server keeps the WAL that is not received yet. *ret_slot is NULL when
 * there is none; `temporary` holds the name of the temporary one.
 */
static bool
prepare_slot(Conn *conn, const WalStreamConfig *config, char temporary[TEMPORARY_NAME_SIZE],
             const char **ret_slot, Error *err)
{
    const BackupOptions *options = config->options;

    if (options->slot != NULL) {
        if (options->create_slot) {
            if (!repl_create_slot(conn, options->slot, SLOT_PERMANENT, SLOT_RESERVE_WAL, err))
                return false;
            *config->slot_made = true;
            observe_note(config->observer, "created replication slot \"%s\"", options->slot);
        }
        *ret_slot = options->slot;
        return true;
    }
    if (options->no_slot) {
        *ret_slot = NULL;
        return true;
    }
    (void)snprintf(temporary, TEMPORARY_NAME_SIZE, "pg_basebackup_%d", conn_backend_pid(conn));
    if (!repl_create_slot(conn, temporary, SLOT_TEMPORARY, SLOT_RESERVE_WAL, err))
        return false;
    observe_note(config->observer, "created temporary replication slot \"%s\"", temporary);
    *ret_slot = temporary;
    return true;
}

/* Another server behind the same address would give WAL that does not belong to the backup. */
static bool
check_same_cluster(Conn *conn, const WalStreamConfig *config, Error *err)
{
    ServerIdentity identity;

    if (!repl_identify_system(conn, &identity, err))
        return false;
    if (identity.system_id != config->system_id)
        return error_set(err, ERR_SERVER,
                         "system identifier does not match between base backup and streaming "
                         "connection");
    if (identity.timeline < config->timeline)
        return error_set(err, ERR_SERVER, "starting timeline %u is not present in the server",
                         config->timeline);
    return true;
}

/* ---- the chain ---- */

/* Segments as files of pg_wal. */
static Sink *
directory_chain(WalStream *stream, const WalStreamConfig *config, const HandoffConfig *handoff,
                Error *err)
{
    WalDirConfig dir = {
        .segment_size = config->segment_size,
        .file_mode = config->file_mode,
        .remainder = WAL_PAD,
        .sync = config->options->sync == SYNC_NONE ? WAL_NO_SYNC : WAL_DURABLE,
        .archive_status = true,
        .durable = &stream->durable,
    };
    char *directory;
    Sink *sink;

    if (!make_wal_directories(config, &directory, err))
        return NULL;
    dir.directory = directory;
    sink = handoff_new(wal_dir_new(&dir, err), handoff, err);
    free(directory);
    return sink;
}

/*
 * WAL has to keep up with the server, which keeps what is not on our disk: no level that is slower
 * than the usual one, and nothing that wants much memory.
 */
static Compression
wal_compression(const Compression *asked)
{
    static const int usual_levels[] = {
        [COMPRESSION_GZIP] = 6, [COMPRESSION_LZ4] = 0, [COMPRESSION_ZSTD] = 3};
    Compression compression = *asked;

    compression.workers = 0;
    compression.long_distance = false;
    if (asked->method != COMPRESSION_NONE && asked->level > usual_levels[asked->method])
        compression.level = usual_levels[asked->method];
    return compression;
}

/* Segments as members of pg_wal.tar. Compressed on our side like the other archives; what the
 * server compresses does not come this way. */
static Sink *
archive_chain(WalStream *stream, const WalStreamConfig *config, const HandoffConfig *handoff,
              Error *err)
{
    const FileSinkConfig file = {
        .directory = config->options->directory,
        .file_mode = config->file_mode,
        .sync = config->options->sync,
        .durable = &stream->durable,
    };
    const TarOwner nobody = {.uid = 0};
    const Compression compression = wal_compression(&config->options->compression);
    Sink *sink = file_sink_new(&file, err);

    sink = compress_new(sink, &compression, err);
    sink = tar_writer_new(sink, &nobody, err);
    sink = wal_archive_new(sink, config->segment_size, 0600, err);
    return handoff_new(sink, handoff, err);
}

static Sink *
make_chain(WalStream *stream, const WalStreamConfig *config, Sink **ret_handoff, Error *err)
{
    const HandoffConfig handoff = {.while_full = wal_receiver_while_full, .ctx = &stream->receiver};
    const WalCheckConfig check = {
        .start = config->start,
        .timeline = config->timeline,
        .system_id = config->system_id,
        .segment_size = config->segment_size,
    };

    *ret_handoff = config->plan->format == FORMAT_TAR
                       ? archive_chain(stream, config, &handoff, err)
                       : directory_chain(stream, config, &handoff, err);
    return wal_check_new(*ret_handoff, &check, &stream->checked_to, err);
}

static void
thread_run(void *arg)
{
    WalStream *stream = arg;

    stream->result = wal_receiver_run(stream->receiver, &stream->reason);
    if (stream->result == WAL_RUN_FAILED) {
        (void)error_context(&stream->reason, "could not stream write-ahead log");
        atomic_store(&stream->failed, true);
        stop_request(stream->stop);
    }
}

/* Everything between the connection and the started thread. Owns `conn`; `slot` may be NULL. */
static bool
start_receiving(WalStream *stream, const WalStreamConfig *config, Conn *conn, const char *slot,
                Error *err)
{
    WalReceiverConfig receiver = {
        .conn = conn,
        .start = wal_segment_start(wal_segment_number(config->start, config->segment_size),
                                   config->segment_size),
        .timeline = config->timeline,
        .segment_size = config->segment_size,
        .slot = slot,
        .status_interval_ms = config->options->status_interval_ms,
        .durable = config->options->sync == SYNC_NONE ? NULL : &stream->durable,
        .stop = config->stop,
    };

    receiver.sink = make_chain(stream, config, &receiver.handoff, err);
    stream->first = receiver.start;
    if (receiver.sink == NULL) {
        conn_free(conn);
        return false;
    }
    stream->receiver = wal_receiver_new(&receiver, err);
    return stream->receiver != NULL && thread_start(&stream->thread, thread_run, stream, err);
}

WalStream *
walstream_start(const WalStreamConfig *config, Error *err)
{
    WalStream *stream = mem_zero(sizeof *stream, err);
    char temporary[TEMPORARY_NAME_SIZE];
    const char *slot;
    Conn *conn;

    if (stream == NULL)
        return NULL;
    stream->stop = config->stop;
    observe_note(config->observer, "starting background WAL receiver");
    conn = conn_open_beside(config->beside, config->conn, err);
    if (conn == NULL) {
        if (err->code == ERR_CONNECTION)
            (void)error_hint(err, "This was the second connection, which streams write-ahead log: "
                                  "--wal-method=stream needs two of the server's max_wal_senders.");
        goto failed;
    }
    /* First the identity: no slot may be left on somebody else's server. */
    if (!check_same_cluster(conn, config, err) ||
        !prepare_slot(conn, config, temporary, &slot, err)) {
        conn_free(conn);
        goto failed;
    }
    if (!start_receiving(stream, config, conn, slot, err))
        goto failed;
    return stream;

failed:
    walstream_free(stream);
    return NULL;
}

/* ---- the end ---- */

bool
walstream_finish(WalStream *stream, Lsn end, Error *err)
{
    Lsn checked;

    wal_receiver_stop_at(stream->receiver, end);
    thread_join(&stream->thread);
    switch (stream->result) {
    case WAL_RUN_REACHED:
        break;
    case WAL_RUN_STOPPED:
        return error_set_stopped(err);
    case WAL_RUN_FAILED:
        *err = stream->reason;
        return false;
    }
    checked = atomic_load(&stream->checked_to);
    if (checked < end)
        return error_set(err, ERR_MISMATCH,
                         "streamed WAL is intact only up to " LSN_FORMAT
                         ", but the backup ends at " LSN_FORMAT,
                         LSN_ARGS(checked), LSN_ARGS(end));
    return true;
}

bool
walstream_failed(WalStream *stream, Error *ret_reason)
{
    if (!atomic_load(&stream->failed))
        return false;
    *ret_reason = stream->reason;
    return true;
}

/* The server may need a moment to notice that the connection that used it is gone. */
static bool
drop_when_free(Conn *conn, const char *slot, const Stop *limit, Error *err)
{
    for (;;) {
        Error refused = ERROR_INIT;

        if (repl_drop_slot(conn, slot, &refused))
            return true;
        *err = refused;
        if (strcmp(refused.sqlstate, SLOT_IN_USE) != 0 ||
            runtime_wait(-1, 0, DROP_RETRY_MS, limit, NULL, err) != WAIT_TIMEOUT)
            return false;
    }
}

bool
walstream_drop_slot(const Conn *beside, const ConnConfig *conn, const char *slot, Error *err)
{
    ConnConfig config = *conn;
    Stop limit;
    Conn *own;
    bool ok;

    if (!stop_init_after(&limit, DROP_PATIENCE_MS, err))
        return false;
    config.stop = &limit;
    own = conn_open_beside(beside, &config, err);
    ok = own != NULL && drop_when_free(own, slot, &limit, err);
    conn_free(own);
    stop_destroy(&limit);
    if (!ok && err->code == ERR_STOPPED)
        return error_set(err, ERR_CONNECTION, "the server did not answer in time");
    return ok;
}

uint64_t
walstream_received(const WalStream *stream)
{
    return wal_receiver_position(stream->receiver) - stream->first;
}

void
walstream_free(WalStream *stream)
{
    if (stream == NULL)
        return;
    if (stream->thread.running) {
        stop_request(stream->stop);
        thread_join(&stream->thread);
    }
    wal_receiver_free(stream->receiver);
    free(stream);
}
