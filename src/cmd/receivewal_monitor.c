/*
 * What is known is kept under one lock, which nobody holds for longer than it takes to copy it. The
 * thread looks at the stream often enough for the lag and for the service manager's watchdog. It
 * never waits for anybody: files are written by the status file's own thread.
 */
#include "cmd/receivewal_monitor.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "cmd/log.h"
#include "cmd/notify.h"

/* How often we look: soon after something has been begun, else once a second. */
#define SOON_MS 100
#define LOOK_MS 1000

/* The receiver's loop goes round every second; so long without that, and it hangs. */
#define HANGING_MS 5000

/* A disk that was full takes something again, and that lasts. */
#define ROOM_MS 2000

struct Monitor {
    Notify notify;
    StatusFile *file; /* NULL: none */
    const Stop *stop;
    Bell bell;
    atomic_bool ending;
    Thread thread;

    pthread_mutex_t lock; /* of all up to the thread's own */
    ReceiveStatus status;
    ReceiveState phase; /* what the loop says */
    const WalReceiver *receiver;
    bool streaming; /* the receiver says so */
    uint64_t beats;
    int64_t beat_ms;      /* when they moved, or nothing had to move them */
    uint64_t connections; /* how many were made */
    WalLag lag;
    bool disk_full;
    Lsn disk_full_at;
    int64_t room_ms; /* since when it takes something again; 0: it does not */

    /* The thread's own. */
    bool ready_told;
    bool stopping_told;
    bool state_told;
    ReceiveState told;
    int64_t pinged_ms;
};

/* ---- what is known; the lock is held ---- */

static Lsn
further(Lsn one, Lsn other)
{
    return one > other ? one : other;
}

/* Positions never go back, but with a timeline that begins before the end of the one before. */
static void
take_positions(Monitor *monitor, const WalReceiverView *view)
{
    ReceiveStatus *status = &monitor->status;

    if (view->timeline != status->timeline) {
        status->timeline = view->timeline;
        status->written = status->flushed = status->server_end = LSN_INVALID;
        monitor->lag = (WalLag){.count = 0};
    }
    status->received = view->received;
    status->written = further(status->written, view->written);
    status->flushed = further(status->flushed, view->flushed);
    status->server_end = further(status->server_end, view->server_end);
}

/* Behind by what is not on our disk; without sync by what was not written. */
static void
take_lag(Monitor *monitor, int64_t now_ms)
{
    ReceiveStatus *status = &monitor->status;
    Lsn safe = status->flushed != LSN_INVALID ? status->flushed : status->written;

    status->lag_known = safe != LSN_INVALID && status->server_end != LSN_INVALID;
    if (!status->lag_known)
        return;
    wal_lag_note(&monitor->lag, status->server_end, now_ms);
    status->lag_bytes = status->server_end > safe ? status->server_end - safe : 0;
    status->lag_ms = wal_lag_ms(&monitor->lag, safe, now_ms);
}

/* Whether a disk that was full has taken something for a while now. */
static bool
room_again(Monitor *monitor, int64_t now_ms)
{
    if (!monitor->disk_full || !monitor->streaming ||
        monitor->status.written <= monitor->disk_full_at)
        return false;
    if (monitor->room_ms == 0)
        monitor->room_ms = now_ms;
    if (now_ms - monitor->room_ms < ROOM_MS)
        return false;
    monitor->disk_full = false;
    return true;
}

static ReceiveState
state_of(const Monitor *monitor)
{
    switch (monitor->phase) {
    case RECEIVE_STOPPED:
    case RECEIVE_FAILED:
        return monitor->phase;
    case RECEIVE_CONNECTING:
    case RECEIVE_STREAMING:
    case RECEIVE_WAITING:
    case RECEIVE_DISK_FULL:
        break;
    }
    if (monitor->disk_full)
        return RECEIVE_DISK_FULL;
    if (monitor->phase == RECEIVE_WAITING)
        return RECEIVE_WAITING;
    return monitor->streaming ? RECEIVE_STREAMING : RECEIVE_CONNECTING;
}

/* Looks at the stream. True when there is room again. */
static bool
look(Monitor *monitor)
{
    int64_t now_ms = clock_ms();
    bool room = false;

    if (monitor->receiver != NULL) {
        WalReceiverView view = wal_receiver_view(monitor->receiver);

        if (view.beats != monitor->beats || !view.streaming)
            monitor->beat_ms = now_ms;
        monitor->beats = view.beats;
        monitor->streaming = view.streaming;
        take_positions(monitor, &view);
        room = room_again(monitor, now_ms);
    } else {
        monitor->streaming = false;
        monitor->beat_ms = now_ms;
    }
    take_lag(monitor, now_ms);
    monitor->status.state = state_of(monitor);
    return room;
}

/* For the status file. */
static void
take_status(void *ctx, ReceiveStatus *ret_status)
{
    Monitor *monitor = ctx;

    (void)pthread_mutex_lock(&monitor->lock);
    *ret_status = monitor->status;
    (void)pthread_mutex_unlock(&monitor->lock);
}

/* ---- the thread ---- */

static void
tell_state(const Monitor *monitor, const ReceiveStatus *status)
{
    const Notify *notify = &monitor->notify;

    switch (status->state) {
    case RECEIVE_CONNECTING:
        notify_status(notify, "connecting");
        break;
    case RECEIVE_STREAMING:
        notify_status(notify, "streaming timeline %u from " LSN_FORMAT " on", status->timeline,
                      LSN_ARGS(status->received));
        break;
    case RECEIVE_WAITING:
        notify_status(notify, "waiting to try again: %s", status->last_error.message);
        break;
    case RECEIVE_DISK_FULL:
        notify_status(notify, "waiting for room: %s", status->last_error.message);
        break;
    case RECEIVE_STOPPED:
        notify_status(notify, "stopped at " LSN_FORMAT, LSN_ARGS(status->received));
        break;
    case RECEIVE_FAILED:
        notify_status(notify, "failed: %s", status->last_error.message);
        break;
    }
}

static void
tell_changes(Monitor *monitor, const ReceiveStatus *status)
{
    if (status->state == RECEIVE_STREAMING && !monitor->ready_told) {
        monitor->ready_told = true;
        notify_ready(&monitor->notify);
    }
    if (monitor->stop != NULL && stop_requested(monitor->stop) && !monitor->stopping_told) {
        monitor->stopping_told = true;
        notify_stopping(&monitor->notify);
    }
    if (monitor->state_told && monitor->told == status->state)
        return;
    monitor->state_told = true;
    monitor->told = status->state;
    tell_state(monitor, status);
    if (monitor->file != NULL)
        status_file_changed(monitor->file);
}

/* Twice as often as we have to, unless the stream hangs. */
static void
ping_if_due(Monitor *monitor, int64_t silent_ms)
{
    int64_t interval_ms = monitor->notify.watchdog_ms / 2;
    int64_t now_ms = clock_ms();

    if (monitor->notify.watchdog_ms == 0 || now_ms - monitor->pinged_ms < interval_ms ||
        silent_ms >= HANGING_MS)
        return;
    monitor->pinged_ms = now_ms;
    notify_alive(&monitor->notify);
}

static void
thread_look(Monitor *monitor, ReceiveStatus *ret_status)
{
    int64_t silent_ms;
    bool room;

    (void)pthread_mutex_lock(&monitor->lock);
    room = look(monitor);
    *ret_status = monitor->status;
    silent_ms = clock_ms() - monitor->beat_ms;
    (void)pthread_mutex_unlock(&monitor->lock);

    if (room)
        log_info("there is room on the disk again: going on at " LSN_FORMAT,
                 LSN_ARGS(ret_status->written));
    tell_changes(monitor, ret_status);
    ping_if_due(monitor, silent_ms);
}

static int64_t
pause_ms(const Monitor *monitor, const ReceiveStatus *status)
{
    int64_t pause = status->state == RECEIVE_CONNECTING ? SOON_MS : LOOK_MS;
    int64_t watchdog = monitor->notify.watchdog_ms / 2;

    if (watchdog == 0 || watchdog > pause)
        return pause;
    return watchdog;
}

static void
thread_run(void *arg)
{
    Monitor *monitor = arg;
    Error ignored = ERROR_INIT;
    WaitResult waited = WAIT_TIMEOUT;
    ReceiveStatus status;
    bool ending;

    do {
        /* Once it has been requested, a stop is no reason to wake up any more. */
        const Stop *stop = monitor->stopping_told ? NULL : monitor->stop;

        ending = atomic_load(&monitor->ending);
        thread_look(monitor, &status);
        if (!ending)
            waited =
                runtime_wait(-1, 0, pause_ms(monitor, &status), stop, &monitor->bell, &ignored);
    } while (!ending && waited != WAIT_FAILED);
}

/* ---- what the loop is doing ---- */

static void
set_phase(Monitor *monitor, ReceiveState phase, const Error *failure)
{
    monitor->phase = phase;
    if (failure == NULL)
        return;
    monitor->status.last_error = *failure;
    monitor->status.error_at = status_time();
}

static void
say_phase(Monitor *monitor, ReceiveState phase, const Error *failure)
{
    (void)pthread_mutex_lock(&monitor->lock);
    set_phase(monitor, phase, failure);
    (void)pthread_mutex_unlock(&monitor->lock);
    bell_ring(&monitor->bell);
}

void
monitor_connecting(Monitor *monitor)
{
    say_phase(monitor, RECEIVE_CONNECTING, NULL);
}

void
monitor_server(Monitor *monitor, const ServerIdentity *server, int version, const char *host)
{
    (void)pthread_mutex_lock(&monitor->lock);
    (void)snprintf(monitor->status.host, sizeof monitor->status.host, "%s",
                   host == NULL ? "" : host);
    monitor->status.system_id = server->system_id;
    monitor->status.server_version = version;
    monitor->status.reconnects = monitor->connections++;
    (void)pthread_mutex_unlock(&monitor->lock);
}

void
monitor_receiver(Monitor *monitor, const WalReceiver *receiver)
{
    (void)pthread_mutex_lock(&monitor->lock);
    if (receiver == NULL)
        (void)look(monitor);
    monitor->receiver = receiver;
    monitor->room_ms = 0;
    (void)pthread_mutex_unlock(&monitor->lock);
    bell_ring(&monitor->bell);
}

void
monitor_waiting(Monitor *monitor, const Error *failure)
{
    say_phase(monitor, RECEIVE_WAITING, failure);
}

bool
monitor_disk_full(Monitor *monitor, const Error *failure, Lsn written)
{
    bool is_new;

    (void)pthread_mutex_lock(&monitor->lock);
    is_new = !monitor->disk_full;
    monitor->disk_full = true;
    monitor->disk_full_at = further(is_new ? LSN_INVALID : monitor->disk_full_at, written);
    set_phase(monitor, RECEIVE_WAITING, failure);
    (void)pthread_mutex_unlock(&monitor->lock);
    bell_ring(&monitor->bell);
    return is_new;
}

/* ---- from start to end ---- */

static bool
start_all(Monitor *monitor, const MonitorConfig *config, Error *err)
{
    if (!bell_init(&monitor->bell, err))
        return false;
    if (config->status_file != NULL) {
        const StatusFileConfig file = {
            .path = config->status_file, .take = take_status, .ctx = monitor};

        monitor->file = status_file_start(&file, err);
        if (monitor->file == NULL)
            return false;
    }
    return thread_start(&monitor->thread, thread_run, monitor, err);
}

static void
free_all(Monitor *monitor)
{
    status_file_end(monitor->file);
    notify_free(&monitor->notify);
    bell_destroy(&monitor->bell);
    (void)pthread_mutex_destroy(&monitor->lock);
    free(monitor);
}

Monitor *
monitor_start(const MonitorConfig *config, Error *err)
{
    Monitor *monitor = mem_zero(sizeof *monitor, err);

    if (monitor == NULL)
        return NULL;
    (void)pthread_mutex_init(&monitor->lock, NULL);
    monitor->bell.fd = -1;
    monitor->stop = config->stop;
    monitor->status = (ReceiveStatus){
        .version = config->version,
        .directory = config->directory,
        .slot = config->slot,
        .pid = getpid(),
        .started_at = status_time(),
    };
    notify_init(&monitor->notify);
    if (start_all(monitor, config, err))
        return monitor;
    free_all(monitor);
    return NULL;
}

void
monitor_end(Monitor *monitor, const Error *failure)
{
    if (monitor == NULL)
        return;
    say_phase(monitor, failure == NULL ? RECEIVE_STOPPED : RECEIVE_FAILED, failure);
    /* Only now: what the thread sees last is this. */
    atomic_store(&monitor->ending, true);
    bell_ring(&monitor->bell);
    thread_join(&monitor->thread);
    free_all(monitor);
}
