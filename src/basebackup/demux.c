/*
 * Two wire forms of one thing. Servers from 15 on send everything in one COPY whose messages say
 * what they are; older ones send one COPY per archive, in the order of the tablespace list, and the
 * manifest in one more. Both become: archive begins, bytes, archive ends, ..., manifest bytes.
 */
#include <string.h>

#include "basebackup/internal.h"

#define PROGRESS_POLL_MS 1000

typedef struct Demux {
    const DemuxConfig *config;
    size_t complete; /* archives that have ended */
    bool in_archive;
    bool in_manifest;
    bool seen_manifest;
} Demux;

/* ---- what both forms do ---- */

static bool
begin_archive(Demux *demux, const Place *place, Error *err)
{
    Archive archive = {.name = place->archive, .tablespace = place->oid};

    demux->in_archive = true;
    progress_archive(demux->config->progress, demux->complete, place->shown);
    return sink_archive_begin(demux->config->sink, &archive, err);
}

static bool
end_archive(Demux *demux, Error *err)
{
    if (!demux->in_archive)
        return true;
    demux->in_archive = false;
    demux->complete++;
    if (demux->config->hold_end && demux->complete == demux->config->layout->count)
        return true;
    return sink_archive_end(demux->config->sink, err);
}

static bool
take_bytes(Demux *demux, Span bytes, Error *err)
{
    if (demux->in_manifest && demux->config->manifest != NULL) {
        demux->config->progress->received += bytes.len;
        return manifest_file_write(demux->config->manifest, bytes, err);
    }
    if (!demux->in_archive || demux->config->elsewhere)
        return error_set(err, ERR_PROTOCOL, "unexpected payload data");
    progress_bytes(demux->config->progress, bytes.len);
    return sink_data(demux->config->sink, bytes, err);
}

static bool
begin_manifest(Demux *demux, Error *err)
{
    bool expected = demux->config->manifest != NULL || demux->config->elsewhere;

    if (!expected || demux->seen_manifest)
        return error_set(err, ERR_PROTOCOL, "server sent a backup manifest that was not expected");
    demux->in_manifest = true;
    demux->seen_manifest = true;
    return true;
}

/* The server pauses: the writer gets what there is, and tells of a failure that no push has met. */
static bool
idle(Demux *demux, Error *err)
{
    progress_tick(demux->config->progress);
    if (demux->config->handoff != NULL)
        return handoff_publish(demux->config->handoff, err);
    return sink_flush(demux->config->sink, LSN_INVALID, err);
}

/* Feed every message of the current COPY to `take`, until the server ends it. */
static bool
receive_copy(Demux *demux, bool (*take)(Demux *demux, Span message, Error *err), Error *err)
{
    const CopyWait wait = {.timeout_ms = PROGRESS_POLL_MS, .stop = demux->config->stop};
    Span message;

    for (;;) {
        switch (copy_next(demux->config->conn, &wait, &message, err)) {
        case COPY_MESSAGE:
            if (!take(demux, message, err))
                return false;
            progress_tick(demux->config->progress);
            break;
        case COPY_IDLE:
        case COPY_WOKEN:
            if (!idle(demux, err))
                return false;
            break;
        case COPY_STOPPED:
            return error_set_stopped(err);
        case COPY_DONE:
            return true;
        case COPY_FAILED:
            return false;
        }
    }
}

/* ---- 15+: one COPY of typed messages ---- */

/* The archives come in the order of the tablespace list, so the name must be the next one's. */
static bool
take_new_archive(Demux *demux, const BackupMessage *message, Error *err)
{
    const Layout *layout = demux->config->layout;

    if (demux->seen_manifest)
        return error_set(err, ERR_PROTOCOL, "archives must precede manifest");
    if (!end_archive(demux, err))
        return false;
    if (demux->complete >= layout->count)
        return error_set(err, ERR_PROTOCOL,
                         "server sent one more archive than it announced: \"%s\"",
                         message->archive_name);
    if (strcmp(message->archive_name, layout->places[demux->complete].archive) != 0)
        return error_set(err, ERR_PROTOCOL, "server sent archive \"%s\" where \"%s\" was expected",
                         message->archive_name, layout->places[demux->complete].archive);
    return begin_archive(demux, &layout->places[demux->complete], err);
}

static bool
take_typed(Demux *demux, Span bytes, Error *err)
{
    BackupMessage message;

    if (!backup_message_parse(bytes, &message, err))
        return false;
    switch (message.kind) {
    case BACKUP_NEW_ARCHIVE:
        return take_new_archive(demux, &message, err);
    case BACKUP_DATA:
        return take_bytes(demux, message.data, err);
    case BACKUP_PROGRESS:
        progress_set(demux->config->progress, message.bytes_done);
        return true;
    case BACKUP_MANIFEST:
        return end_archive(demux, err) && begin_manifest(demux, err);
    }
    return true;
}

static bool
run_typed(Demux *demux, Error *err)
{
    return repl_next_copy(demux->config->conn, demux->config->stop, err) &&
           receive_copy(demux, take_typed, err) && end_archive(demux, err);
}

/* ---- 10-14: one COPY per archive ---- */

static bool
run_plain(Demux *demux, Error *err)
{
    const DemuxConfig *config = demux->config;

    for (size_t i = 0; i < config->layout->count; i++) {
        if (!repl_next_copy(config->conn, config->stop, err) ||
            !begin_archive(demux, &config->layout->places[i], err) ||
            !receive_copy(demux, take_bytes, err) || !end_archive(demux, err))
            return false;
    }
    if (config->manifest == NULL)
        return true;
    return repl_next_copy(config->conn, config->stop, err) && begin_manifest(demux, err) &&
           receive_copy(demux, take_bytes, err);
}

bool
demux_run(const DemuxConfig *config, Error *err)
{
    Demux demux = {.config = config};
    bool ok =
        conn_features(config->conn)->typed_copy ? run_typed(&demux, err) : run_plain(&demux, err);

    if (!ok)
        return false;
    if (demux.complete < config->layout->count)
        return error_set(err, ERR_PROTOCOL, "server sent %zu archives but announced %zu",
                         demux.complete, config->layout->count);
    if (config->manifest != NULL && !demux.seen_manifest)
        return error_set(err, ERR_PROTOCOL, "server sent no backup manifest");
    return true;
}
