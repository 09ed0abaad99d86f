#include "cmd/receivewal_status.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cmd/json_line.h"
#include "cmd/log.h"
#include "common/file.h"
#include "common/runtime.h"

/* How often it is looked whether something has changed, and how old the file gets at most. */
#define LOOK_MS    1000
#define REFRESH_MS 10000

/* ---- the object ---- */

int64_t
status_time(void)
{
    const int64_t epoch_2000_ms = INT64_C(946684800000);

    return clock_timestamptz() / 1000 + epoch_2000_ms;
}

static const char *
state_name(ReceiveState state)
{
    switch (state) {
    case RECEIVE_CONNECTING:
        return "connecting";
    case RECEIVE_STREAMING:
        return "streaming";
    case RECEIVE_WAITING:
        return "waiting";
    case RECEIVE_DISK_FULL:
        return "disk_full";
    case RECEIVE_STOPPED:
        return "stopped";
    case RECEIVE_FAILED:
        break;
    }
    return "failed";
}

static void
put_lsn_if_known(JsonLine *line, const char *key, Lsn lsn)
{
    if (lsn == LSN_INVALID)
        json_put_null(line, key);
    else
        json_put_lsn(line, key, lsn);
}

/* RFC 3339, in UTC. */
static void
put_time(JsonLine *line, const char *key, int64_t ms)
{
    time_t seconds = (time_t)(ms / 1000);
    char text[32] = "";
    struct tm utc;

    if (gmtime_r(&seconds, &utc) != NULL)
        (void)strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &utc);
    json_put_raw(line, key, "\"%s.%03dZ\"", text, (int)(ms % 1000));
}

static void
put_server(JsonLine *line, const ReceiveStatus *status)
{
    json_put_text_or_null(line, "server_host", status->host[0] == '\0' ? NULL : status->host);
    json_put_number_if(line, "server_version", status->server_version != 0,
                       (uint64_t)status->server_version);
    /* As a text: many programs have no integers of 64 bits. */
    if (status->system_id == 0)
        json_put_null(line, "system_identifier");
    else
        json_put_raw(line, "system_identifier", "\"%llu\"", (unsigned long long)status->system_id);
}

static void
put_position(JsonLine *line, const ReceiveStatus *status)
{
    json_put_number_if(line, "timeline", status->timeline != 0, status->timeline);
    put_lsn_if_known(line, "received_lsn", status->received);
    put_lsn_if_known(line, "written_lsn", status->written);
    put_lsn_if_known(line, "flushed_lsn", status->flushed);
    put_lsn_if_known(line, "server_lsn", status->server_end);
    json_put_number_if(line, "lag_bytes", status->lag_known, status->lag_bytes);
    if (status->lag_known)
        json_put_raw(line, "lag_seconds", "%lld.%03d", (long long)(status->lag_ms / 1000),
                     (int)(status->lag_ms % 1000));
    else
        json_put_null(line, "lag_seconds");
}

static void
put_last_error(JsonLine *line, const ReceiveStatus *status)
{
    if (status->error_at == 0) {
        json_put_null(line, "last_error");
        return;
    }
    json_object_begin(line, "last_error");
    json_put_text(line, "message", status->last_error.message);
    put_time(line, "time", status->error_at);
    json_object_end(line);
}

bool
receive_status_json(const ReceiveStatus *status, int64_t updated_at, Buf *buf, Error *err)
{
    JsonLine line = json_line_begin(buf, err);

    json_put_number(&line, "version", STATUS_JSON_VERSION);
    json_put_text(&line, "pgstow_version", status->version);
    json_put_number(&line, "pid", (uint64_t)status->pid);
    json_put_text(&line, "state", state_name(status->state));
    json_put_path(&line, "directory", status->directory);
    json_put_text_or_null(&line, "slot", status->slot);
    put_server(&line, status);
    put_position(&line, status);
    json_put_number(&line, "reconnects", status->reconnects);
    put_last_error(&line, status);
    put_time(&line, "started_at", status->started_at);
    put_time(&line, "updated_at", updated_at);
    return json_line_end(&line);
}

/* ---- the file ---- */

struct StatusFile {
    StatusFileConfig config;
    char *path;
    char *temporary;
    Bell bell;
    atomic_bool ending;
    Thread thread;

    /* The thread's own. */
    Buf told; /* what the file says, but for the time */
    int64_t told_ms;
    bool warned;
};

/* No link is followed: in a directory like /tmp anybody could have put one there. */
static bool
write_file(const StatusFile *file, const Buf *line, Error *err)
{
    int fd = file_open(file->temporary, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW, 0644, err);
    bool ok;

    if (fd < 0)
        return false;
    ok = file_write(fd, line->data, line->len, file->temporary, err);
    if (ok)
        ok = file_close(fd, file->temporary, err);
    else
        file_close_quietly(fd);
    if (ok && file_rename(file->temporary, file->path, err))
        return true;
    (void)unlink(file->temporary);
    return false;
}

static bool
same_bytes(const Buf *one, const Buf *other)
{
    return one->len == other->len &&
           (one->len == 0 || memcmp(one->data, other->data, one->len) == 0);
}

/* Writes it when it has changed, or is old; `line` is for use here. */
static bool
write_if_due(StatusFile *file, Buf *line, Error *err)
{
    ReceiveStatus status;
    Buf before = file->told;

    file->config.take(file->config.ctx, &status);
    if (!receive_status_json(&status, 0, line, err))
        return false;
    if (same_bytes(line, &before) && clock_ms() - file->told_ms < REFRESH_MS)
        return true;
    file->told = *line;
    *line = before;
    file->told_ms = clock_ms();
    buf_clear(line);
    return receive_status_json(&status, status_time(), line, err) && write_file(file, line, err);
}

static void
file_look(StatusFile *file)
{
    Buf line = BUF_INIT;
    Error err = ERROR_INIT;

    if (!write_if_due(file, &line, &err) && !file->warned) {
        file->warned = true;
        log_warning("could not write the status file: %s", err.message);
    }
    buf_free(&line);
}

static void
file_run(void *arg)
{
    StatusFile *file = arg;
    Error ignored = ERROR_INIT;
    bool ending;

    do {
        /* What was set before the end was asked for is in what is written last. */
        ending = atomic_load(&file->ending);
        file_look(file);
    } while (!ending && runtime_wait(-1, 0, LOOK_MS, NULL, &file->bell, &ignored) != WAIT_FAILED);
}

static bool
file_init(StatusFile *file, const StatusFileConfig *config, Error *err)
{
    Buf temporary = BUF_INIT;

    file->config = *config;
    file->path = mem_strdup(config->path, err);
    if (file->path == NULL || !buf_printf(&temporary, err, "%s.tmp", config->path))
        return false;
    file->temporary = (char *)temporary.data;
    return bell_init(&file->bell, err) && thread_start(&file->thread, file_run, file, err);
}

static void
file_free(StatusFile *file)
{
    bell_destroy(&file->bell);
    buf_free(&file->told);
    free(file->temporary);
    free(file->path);
    free(file);
}

StatusFile *
status_file_start(const StatusFileConfig *config, Error *err)
{
    StatusFile *file = mem_zero(sizeof *file, err);

    if (file == NULL)
        return NULL;
    file->bell.fd = -1;
    if (file_init(file, config, err))
        return file;
    file_free(file);
    return NULL;
}

void
status_file_changed(StatusFile *file)
{
    bell_ring(&file->bell);
}

void
status_file_end(StatusFile *file)
{
    if (file == NULL)
        return;
    atomic_store(&file->ending, true);
    bell_ring(&file->bell);
    thread_join(&file->thread);
    file_free(file);
}
