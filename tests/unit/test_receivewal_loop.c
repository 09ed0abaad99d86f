/*
 * The loop of receivewal: what it does after each kind of failure. All that is below it is played
 * by the test: connections and streams end as the script says, no time passes but what is waited.
 * What was done and said comes out as one text, in order.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cmocka.h>

#include "cmd/receivewal_cmd.h"
#include "cmd/receivewal_failure.h"
#include "cmd/receivewal_monitor.h"
#include "verify/verify.h"

#define MB      0x100000u
#define SEGMENT (16 * MB)

/* ---- the script ---- */

typedef enum Where { AT_CONNECT, AT_PLAN, AT_STREAM } Where;

/* One connection, and how it ends. */
typedef struct Step {
    Where where;
    WalRunResult result; /* of the stream; the other two fail */
    ErrorCode code;
    int sys_errno;
    const char *sqlstate;
    const char *message;
    Lsn first;    /* where it began; 0: as the one before */
    Lsn position; /* how far it came; 0: nowhere */
    Lsn written;  /* likewise */
    Lsn checked;
    bool began;         /* the server streamed */
    bool stops_program; /* somebody presses Ctrl-C meanwhile */
} Step;

typedef struct Play {
    const Step *steps;
    size_t count;
    size_t next;
    Lsn first;
    WalGap gap;       /* what a search for one finds */
    Error gap_error;  /* or why it does not */
    int stop_at_wait; /* Ctrl-C during this wait, from 1; 0: none */
    int waits;
    int disk_full; /* how often it was told in a row */
    ReceiveRequest request;
    Stop stop;
    int64_t now_ms;
    bool locked_by_another;
    WalReceiverConfig receiver; /* of the last one */
    WalDirConfig dir;
    WalCheckConfig check;
    int text; /* standard error */
    int stderr_saved;
} Play;

static Play play;

static void done(const char *fmt, ...) PRINTF_LIKE(1, 2);

static void
done(const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    (void)fputc('[', stderr);
    (void)vfprintf(stderr, fmt, args);
    (void)fputs("]\n", stderr);
    va_end(args);
}

static const Step *
this_step(void)
{
    if (play.next >= play.count)
        abort();
    return &play.steps[play.next];
}

static void
step_fails(Error *err)
{
    const Step *step = this_step();

    *err = (Error){.code = step->code, .sys_errno = step->sys_errno};
    (void)snprintf(err->message, sizeof err->message, "%s", step->message);
    if (step->sqlstate != NULL)
        (void)snprintf(err->sqlstate, sizeof err->sqlstate, "%s", step->sqlstate);
    if (step->stops_program)
        stop_request(&play.stop);
}

/* ---- what is below the loop ---- */

static const ServerFeatures features = {.version = 180004};
static char something; /* that connections, sinks and receivers are made of */

bool
wal_dir_lock(const char *directory, int *ret_fd, Error *err)
{
    if (play.locked_by_another)
        return error_set(err, ERR_SYSTEM, "\"%s\" is locked", directory);
    *ret_fd = -1;
    return true;
}

Conn *
conn_open(const ConnConfig *config, Error *err)
{
    (void)config;
    done("connect");
    if (this_step()->where != AT_CONNECT)
        return (Conn *)&something;
    step_fails(err);
    play.next++;
    return NULL;
}

void
conn_free(Conn *conn)
{
    (void)conn;
}

const char *
conn_host(const Conn *conn)
{
    (void)conn;
    return "db1";
}

const ServerFeatures *
conn_features(const Conn *conn)
{
    (void)conn;
    return &features;
}

bool
stream_plan_make(const ReceiveRequest *request, ReceiveKnown *known, Conn *conn,
                 StreamPlan *ret_plan, Error *err)
{
    const Step *step = this_step();

    (void)request;
    (void)conn;
    if (step->where == AT_PLAN) {
        step_fails(err);
        play.next++;
        return false;
    }
    if (step->first != 0)
        play.first = step->first;
    if (known->gap_end > play.first)
        play.first = known->gap_end;
    *ret_plan = (StreamPlan){
        .server = {.system_id = 77, .timeline = 1},
        .segment_size = SEGMENT,
        .file_mode = 0640,
        .start = {.start = play.first - play.first % SEGMENT, .timeline = 1},
        .first = play.first,
    };
    return true;
}

bool
wal_gap_find(const ReceiveRequest *request, TimeLineID timeline, Lsn start, WalGap *ret_gap,
             Error *err)
{
    (void)request;
    done("search from " LSN_FORMAT " on timeline %u", LSN_ARGS(start), timeline);
    if (play.gap_error.code != ERR_NONE) {
        *err = play.gap_error;
        play.gap_error = ERROR_INIT;
        return false;
    }
    *ret_gap = play.gap;
    ret_gap->timeline = timeline;
    ret_gap->start = start;
    return true;
}

Sink *
wal_dir_new(const WalDirConfig *config, Error *err)
{
    (void)err;
    play.dir = *config;
    return (Sink *)&something;
}

Sink *
handoff_new(Sink *next, const HandoffConfig *config, Error *err)
{
    (void)err;
    assert_ptr_equal(config->while_full, wal_receiver_while_full);
    return next;
}

Sink *
wal_check_new(Sink *next, const WalCheckConfig *config, _Atomic Lsn *checked_to, Error *err)
{
    (void)err;
    play.check = *config;
    atomic_store(checked_to, this_step()->checked);
    return next;
}

bool
wal_receiver_while_full(void *ctx, Error *err)
{
    (void)ctx;
    (void)err;
    return true;
}

WalReceiver *
wal_receiver_new(const WalReceiverConfig *config, Error *err)
{
    (void)err;
    play.receiver = *config;
    return (WalReceiver *)&something;
}

WalRunResult
wal_receiver_run(WalReceiver *receiver, Error *err)
{
    const Step *step = this_step();
    DurableMark *written = (DurableMark *)(uintptr_t)play.receiver.written;

    (void)receiver;
    done("stream from " LSN_FORMAT, LSN_ARGS(play.first));
    durable_mark_advance(written, step->written);
    if (step->stops_program)
        stop_request(&play.stop);
    if (step->result == WAL_RUN_FAILED)
        step_fails(err);
    return step->result;
}

WalReceiverView
wal_receiver_view(const WalReceiver *receiver)
{
    const Step *step = this_step();

    (void)receiver;
    return (WalReceiverView){.timeline = 1,
                             .received = step->position == 0 ? play.first : step->position,
                             .heard_ms = step->began ? 1 : 0};
}

void
wal_receiver_free(WalReceiver *receiver)
{
    (void)receiver;
    play.next++;
}

/* ---- who looks on ---- */

Monitor *
monitor_start(const MonitorConfig *config, Error *err)
{
    (void)err;
    assert_string_equal(config->directory, "/");
    return (Monitor *)&something;
}

void
monitor_connecting(Monitor *monitor)
{
    (void)monitor;
}

void
monitor_server(Monitor *monitor, const ServerIdentity *server, int version, const char *host)
{
    (void)monitor;
    assert_string_equal(host, "db1");
    assert_int_equal(server->system_id, 77);
    assert_int_equal(version, 180004);
}

void
monitor_receiver(Monitor *monitor, const WalReceiver *receiver)
{
    (void)monitor;
    (void)receiver;
}

void
monitor_waiting(Monitor *monitor, const Error *failure)
{
    (void)monitor;
    done("waiting: %s", failure->message);
}

bool
monitor_disk_full(Monitor *monitor, const Error *failure, Lsn written)
{
    (void)monitor;
    (void)failure;
    done("full at " LSN_FORMAT, LSN_ARGS(written));
    return play.disk_full++ == 0;
}

void
monitor_end(Monitor *monitor, const Error *failure)
{
    (void)monitor;
    done("end: %s", failure == NULL ? "stopped" : failure->message);
}

WaitResult __wrap_runtime_wait(int fd, short events, int64_t timeout_ms, const Stop *stop,
                               Bell *bell, Error *err);
int64_t __wrap_clock_ms(void);
int __wrap_statvfs64(const char *path, struct statvfs *ret_room);

WaitResult
__wrap_runtime_wait(int fd, short events, int64_t timeout_ms, const Stop *stop, Bell *bell,
                    Error *err)
{
    (void)err;
    assert_int_equal(fd, -1);
    assert_int_equal(events, 0);
    assert_null(bell);
    assert_ptr_equal(stop, &play.stop);
    done("wait %lld", (long long)timeout_ms);
    play.now_ms += timeout_ms;
    if (++play.waits == play.stop_at_wait) {
        stop_request(&play.stop);
        return WAIT_STOPPED;
    }
    return WAIT_TIMEOUT;
}

int64_t
__wrap_clock_ms(void)
{
    return play.now_ms;
}

int
__wrap_statvfs64(const char *path, struct statvfs *ret_room)
{
    assert_string_equal(path, "/");
    *ret_room = (struct statvfs){.f_frsize = 512, .f_bavail = 3 * 1024};
    return 0;
}

/* ---- a play ---- */

static int
setup(void **state)
{
    Error err = ERROR_INIT;

    (void)state;
    play = (Play){.first = 0x3000000,
                  .request = {.directory = "/", .verbose = true, .receive_timeout_ms = 60000},
                  .now_ms = 1000,
                  .text = memfd_create("standard error", MFD_CLOEXEC),
                  .stderr_saved = dup(STDERR_FILENO)};
    assert_true(stop_init(&play.stop, &err));
    return 0;
}

static int
teardown(void **state)
{
    (void)state;
    stop_destroy(&play.stop);
    (void)close(play.text);
    (void)close(play.stderr_saved);
    return 0;
}

typedef struct Ending {
    bool ok;
    int status;
    Error err;
} Ending;

static Ending
run(const Step *steps, size_t count)
{
    Ending ending = {.err = ERROR_INIT};

    play.steps = steps;
    play.count = count;
    (void)dup2(play.text, STDERR_FILENO);
    ending.ok = receive_loop(&play.request, &play.stop, &ending.status, &ending.err);
    (void)fflush(stderr);
    (void)dup2(play.stderr_saved, STDERR_FILENO);
    return ending;
}

#define RUN(steps) run(steps, sizeof(steps) / sizeof(steps)[0])

/* What was done and said, without the program's name in front of each line. */
static void
assert_text(const char *expected)
{
    static char text[16384];
    static char plain[16384];
    ssize_t len = pread(play.text, text, sizeof text - 1, 0);
    char *to = plain;

    assert_true(len >= 0);
    text[len] = '\0';
    for (const char *from = text; *from != '\0'; from++) {
        if (strncmp(from, "pgstow: ", 8) == 0)
            from += 8;
        *to++ = *from;
    }
    *to = '\0';
    assert_string_equal(plain, expected);
}

static void
assert_failed(const Ending *ending, int status, const char *message)
{
    assert_false(ending->ok);
    assert_int_equal(ending->status, status);
    assert_string_equal(ending->err.message, message);
}

/* ---- ends that are meant ---- */

#define REFUSED                                                                                    \
    {                                                                                              \
        .where = AT_CONNECT, .code = ERR_CONNECTION, .message = "refused"                          \
    }
#define BROKEN(at)                                                                                 \
    {                                                                                              \
        .where = AT_STREAM, .result = WAL_RUN_FAILED, .code = ERR_CONNECTION,                      \
        .message = "it broke", .position = (at), .written = (at), .began = true                    \
    }

#define REACHED                                                                                    \
    {                                                                                              \
        .where = AT_STREAM, .result = WAL_RUN_REACHED, .position = 0x5000000, .began = true        \
    }

static void
test_end_position(void **state)
{
    static const Step steps[] = {REACHED};
    Ending ending = RUN(steps);

    (void)state;
    assert_true(ending.ok);
    assert_int_equal(ending.status, 0);
    assert_text("[connect]\n"
                "starting log streaming at 0/3000000 (timeline 1)\n"
                "[stream from 0/3000000]\n"
                "stopped log streaming at 0/5000000 (timeline 1)\n"
                "[end: stopped]\n");
}

static void
test_stopped(void **state)
{
    static const Step steps[] = {{.where = AT_STREAM,
                                  .result = WAL_RUN_STOPPED,
                                  .position = 0x4000000,
                                  .began = true,
                                  .stops_program = true}};
    Ending ending = RUN(steps);

    (void)state;
    assert_true(ending.ok);
    assert_text("[connect]\n"
                "starting log streaming at 0/3000000 (timeline 1)\n"
                "[stream from 0/3000000]\n"
                "stopped log streaming at 0/4000000 (timeline 1)\n"
                "received interrupt signal, exiting\n"
                "[end: stopped]\n");
}

/* While it connects, asks, streams: what fails then is no failure. */
static void
test_stopped_anywhere(void **state)
{
    static const Where places[] = {AT_CONNECT, AT_PLAN, AT_STREAM};

    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
        const Step steps[] = {{.where = places[i],
                               .result = WAL_RUN_FAILED,
                               .code = ERR_STOPPED,
                               .message = "stopped",
                               .stops_program = true}};
        Ending ending;

        play.request.verbose = false;
        ending = RUN(steps);
        assert_true(ending.ok);
        assert_text(places[i] == AT_STREAM ? "[connect]\n[stream from 0/3000000]\n[end: stopped]\n"
                                           : "[connect]\n[end: stopped]\n");
        (void)teardown(state);
        (void)setup(state);
    }
}

static void
test_stopped_while_waiting(void **state)
{
    static const Step steps[] = {BROKEN(0x3000000)};

    (void)state;
    play.request.verbose = false;
    play.stop_at_wait = 1;
    assert_true(RUN(steps).ok);
    assert_text("[connect]\n[stream from 0/3000000]\n"
                "error: it broke\n"
                "disconnected; waiting 0.5 seconds to try again\n"
                "[waiting: it broke]\n[wait 500]\n[end: stopped]\n");
}

static void
test_directory_in_use(void **state)
{
    Ending ending;

    (void)state;
    play.locked_by_another = true;
    ending = run(NULL, 0);
    assert_failed(&ending, 1, "\"/\" is locked");
    assert_text("");
}

/* ---- what is asked of the stages ---- */

static void
test_durable_stream(void **state)
{
    static const Step steps[] = {REACHED};

    (void)state;
    play.first = 0x3001000;
    play.request.slot = "archive";
    play.request.status_interval_ms = 7000;
    play.request.end = 0x4FFFFFF;
    play.request.compression = (Compression){.method = COMPRESSION_ZSTD, .level = 3};
    assert_true(RUN(steps).ok);
    assert_int_equal(play.receiver.start, 0x3000000);
    assert_int_equal(play.receiver.timeline, 1);
    assert_int_equal(play.receiver.segment_size, SEGMENT);
    assert_string_equal(play.receiver.slot, "archive");
    assert_int_equal(play.receiver.status_interval_ms, 7000);
    assert_int_equal(play.receiver.silence_limit_ms, 60000);
    assert_int_equal(play.receiver.flush_lag_ms, 1000);
    assert_int_equal(play.receiver.stop_at, 0x5000000);
    assert_int_equal(play.receiver.on_failure, WAL_FAILURE_KEEP);
    assert_non_null(play.receiver.durable);
    assert_ptr_equal(play.receiver.durable, play.dir.durable);
    assert_ptr_equal(play.receiver.written, play.dir.written);
    assert_ptr_equal(play.receiver.stop, &play.stop);
    assert_non_null(play.receiver.handoff);
    assert_int_equal(play.dir.sync, WAL_DURABLE);
    assert_int_equal(play.dir.remainder, WAL_KEEP_PARTIAL);
    assert_int_equal(play.dir.file_mode, 0640);
    assert_int_equal(play.dir.compression.method, COMPRESSION_ZSTD);
    assert_false(play.dir.write_ahead);
    assert_false(play.dir.archive_status);
    assert_int_equal(play.check.start, 0x3000000);
    assert_int_equal(play.check.timeline, 1);
    assert_int_equal(play.check.system_id, 77);
    assert_int_equal(play.check.segment_size, SEGMENT);
}

static void
test_synchronous_stream(void **state)
{
    static const Step steps[] = {REACHED};

    (void)state;
    play.request.synchronous = true;
    assert_true(RUN(steps).ok);
    assert_int_equal(play.receiver.flush_lag_ms, WAL_FLUSH_AT_ONCE);
    assert_int_equal(play.receiver.stop_at, 0);
    assert_int_equal(play.dir.sync, WAL_DURABLE);
    assert_true(play.dir.write_ahead);
}

static void
test_stream_without_sync(void **state)
{
    static const Step steps[] = {REACHED};

    (void)state;
    play.request.no_sync = true;
    play.request.receive_timeout_ms = 0;
    assert_true(RUN(steps).ok);
    assert_int_equal(play.receiver.flush_lag_ms, 0);
    assert_int_equal(play.receiver.silence_limit_ms, 0);
    assert_null(play.receiver.durable);
    assert_null(play.dir.durable);
    assert_non_null(play.receiver.written);
    assert_int_equal(play.dir.sync, WAL_NO_SYNC);
}

/* ---- connections that break ---- */

static void
test_first_connection(void **state)
{
    static const Step steps[] = {REFUSED};
    Ending ending = RUN(steps);

    (void)state;
    assert_failed(&ending, 1, "refused");
    assert_text("[connect]\n[end: refused]\n");
}

/* Longer and longer, until something has come. */
static void
test_delays(void **state)
{
    static const Step steps[] = {
        BROKEN(0x3000000), REFUSED,
        REFUSED,           {.where = AT_PLAN, .code = ERR_SERVER, .message = "no"},
        REFUSED,           REFUSED,
        BROKEN(0x3000001), REACHED};

    (void)state;
    play.request.verbose = false;
    assert_true(RUN(steps).ok);
    assert_text("[connect]\n[stream from 0/3000000]\nerror: it broke\n"
                "disconnected; waiting 0.5 seconds to try again\n[waiting: it broke]\n[wait 500]\n"
                "[connect]\nerror: refused\n"
                "disconnected; waiting 1 second to try again\n[waiting: refused]\n[wait 1000]\n"
                "[connect]\nerror: refused\n"
                "disconnected; waiting 2 seconds to try again\n[waiting: refused]\n[wait 2000]\n"
                "[connect]\nerror: no\n"
                "disconnected; waiting 4 seconds to try again\n[waiting: no]\n[wait 4000]\n"
                "[connect]\nerror: refused\n"
                "disconnected; waiting 5 seconds to try again\n[waiting: refused]\n[wait 5000]\n"
                "[connect]\nerror: refused\n"
                "disconnected; waiting 5 seconds to try again\n[waiting: refused]\n[wait 5000]\n"
                "[connect]\n[stream from 0/3000000]\nerror: it broke\n"
                "disconnected; waiting 0.5 seconds to try again\n[waiting: it broke]\n[wait 500]\n"
                "[connect]\n[stream from 0/3000000]\n[end: stopped]\n");
}

static void
test_no_loop(void **state)
{
    static const Step steps[] = {BROKEN(0x3500000)};
    Ending ending;

    (void)state;
    play.request.verbose = false;
    play.request.no_loop = true;
    ending = RUN(steps);
    assert_failed(&ending, 1, "disconnected");
    assert_text("[connect]\n[stream from 0/3000000]\nerror: it broke\n[end: disconnected]\n");
}

static void
test_fatal(void **state)
{
    static const Step steps[] = {{.where = AT_STREAM,
                                  .result = WAL_RUN_FAILED,
                                  .code = ERR_SYSTEM,
                                  .sys_errno = EACCES,
                                  .message = "not yours",
                                  .began = true}};
    Ending ending = RUN(steps);

    (void)state;
    assert_failed(&ending, 1, "not yours");
}

static void
test_other_cluster(void **state)
{
    static const Step steps[] = {
        BROKEN(0x3000001), {.where = AT_PLAN, .code = ERR_MISMATCH, .message = "not the same"}};
    Ending ending = RUN(steps);

    (void)state;
    assert_failed(&ending, 1, "not the same");
}

/* ---- disks ---- */

#define DISK(error, at)                                                                            \
    {                                                                                              \
        .where = AT_STREAM, .result = WAL_RUN_FAILED, .code = ERR_SYSTEM, .sys_errno = (error),    \
        .message = "could not write", .position = 0x3800000, .written = (at), .began = true        \
    }

static void
test_disk_full(void **state)
{
    static const Step steps[] = {DISK(ENOSPC, 0x3100000), DISK(ENOSPC, 0), REFUSED, DISK(EDQUOT, 0),
                                 REACHED};

    (void)state;
    play.request.verbose = false;
    assert_true(RUN(steps).ok);
    assert_text("[connect]\n[stream from 0/3000000]\n[full at 0/3100000]\n"
                "error: could not write\n"
                "waiting for room in \"/\": a segment needs 16 MB, there are 1.5 MB\n[wait 500]\n"
                "[connect]\n[stream from 0/3000000]\n[full at 0/0]\n[wait 1000]\n"
                "[connect]\nerror: refused\n"
                "disconnected; waiting 2 seconds to try again\n[waiting: refused]\n[wait 2000]\n"
                "[connect]\n[stream from 0/3000000]\n[full at 0/0]\n[wait 4000]\n"
                "[connect]\n[stream from 0/3000000]\n[end: stopped]\n");
}

static void
test_stopped_while_the_disk_is_full(void **state)
{
    static const Step steps[] = {DISK(ENOSPC, 0)};

    (void)state;
    play.request.verbose = false;
    play.stop_at_wait = 1;
    assert_true(RUN(steps).ok);
}

static void
test_disk_full_without_loop(void **state)
{
    static const Step steps[] = {DISK(ENOSPC, 0)};
    Ending ending;

    (void)state;
    play.request.verbose = false;
    play.request.no_loop = true;
    ending = RUN(steps);
    assert_failed(&ending, 1, "could not write");
    assert_int_equal(ending.err.sys_errno, ENOSPC);
    assert_text("[connect]\n[stream from 0/3000000]\n[end: could not write]\n");
}

static void
test_broken_disk(void **state)
{
    static const Step steps[] = {DISK(EIO, 0x3100000), DISK(EIO, 0), REACHED};

    (void)state;
    play.request.verbose = false;
    assert_true(RUN(steps).ok);
    assert_text("[connect]\n[stream from 0/3000000]\nerror: could not write\n"
                "waiting 0.5 seconds to try again\n[waiting: could not write]\n[wait 500]\n"
                "[connect]\n[stream from 0/3000000]\nerror: could not write\n"
                "waiting 1 second to try again\n[waiting: could not write]\n[wait 1000]\n"
                "[connect]\n[stream from 0/3000000]\n[end: stopped]\n");
}

/* ---- gaps ---- */

#define GONE                                                                                       \
    {                                                                                              \
        .where = AT_STREAM, .result = WAL_RUN_FAILED, .code = ERR_SERVER, .sqlstate = "58P01",     \
        .message = "requested WAL segment 000000010000000000000003 has already been removed"       \
    }

static void
test_gap(void **state)
{
    static const Step steps[] = {GONE};
    Ending ending;

    (void)state;
    play.first = 0x3000100;
    play.gap = (WalGap){.end = 0x6000000, .end_timeline = 1, .segments = 3};
    play.request.verbose = false;
    ending = RUN(steps);
    assert_failed(&ending, 3,
                  "the server does not have WAL from 0/3000100 to 0/6000000 (timeline 1, 3 "
                  "segments) any more: requested WAL segment 000000010000000000000003 has already "
                  "been removed");
    assert_non_null(strstr(ending.err.hint, "--accept-gap"));
    assert_true(ending.err.hint[strlen(ending.err.hint) - 1] == '.');
}

static void
test_gap_over_timelines(void **state)
{
    static const Step steps[] = {GONE};
    Ending ending;

    (void)state;
    play.gap = (WalGap){.end = 0x4000000, .end_timeline = 3, .segments = 1};
    ending = RUN(steps);
    assert_failed(&ending, 3,
                  "the server does not have WAL from 0/3000000 to 0/4000000 (timelines 1 to 3, 1 "
                  "segment) any more: requested WAL segment 000000010000000000000003 has already "
                  "been removed");
}

/* Also without a loop: nothing has broken. */
static void
test_accepted_gap(void **state)
{
    static const Step steps[] = {GONE, REACHED};

    (void)state;
    play.gap = (WalGap){.end = 0x6000000, .end_timeline = 1, .segments = 3};
    play.request.accept_gap = true;
    play.request.no_loop = true;
    play.request.verbose = false;
    assert_true(RUN(steps).ok);
    assert_text("[connect]\n[stream from 0/3000000]\n[search from 0/3000000 on timeline 1]\n"
                "warning: the archive gets a gap: the server does not have WAL from 0/3000000 to "
                "0/6000000 (timeline 1, 3 segments) any more\n"
                "[connect]\n[stream from 0/6000000]\n[end: stopped]\n");
}

static void
test_gap_that_cannot_be_measured(void **state)
{
    static const Step steps[] = {GONE, REACHED};

    (void)state;
    (void)error_set(&play.gap_error, ERR_CONNECTION, "lost");
    play.request.verbose = false;
    assert_true(RUN(steps).ok);
    assert_text("[connect]\n[stream from 0/3000000]\n[search from 0/3000000 on timeline 1]\n"
                "error: lost\ndisconnected; waiting 0.5 seconds to try again\n[waiting: lost]\n"
                "[wait 500]\n[connect]\n[stream from 0/3000000]\n[end: stopped]\n");
}

static void
test_gap_that_is_none(void **state)
{
    static const Step steps[] = {GONE, REACHED};

    (void)state;
    play.gap = (WalGap){.end = 0x3000000, .end_timeline = 1};
    play.request.verbose = false;
    assert_true(RUN(steps).ok);
    assert_int_equal(play.waits, 1);
}

/* ---- slots ---- */

#define NO_SLOT(place, at)                                                                         \
    {                                                                                              \
        .where = (place), .result = WAL_RUN_FAILED, .code = ERR_SERVER, .sqlstate = "42704",       \
        .message = "replication slot \"archive\" does not exist", .position = (at)                 \
    }

static void
test_no_slot(void **state)
{
    static const Step steps[] = {NO_SLOT(AT_STREAM, 0x3000100)};
    Ending ending;

    (void)state;
    play.request.slot = "archive";
    ending = RUN(steps);
    assert_failed(&ending, 3,
                  "the server does not keep WAL from 0/3000100 (timeline 1) on for us: replication "
                  "slot \"archive\" does not exist");
    assert_non_null(strstr(ending.err.hint, "--create-slot"));
    assert_true(ending.err.hint[strlen(ending.err.hint) - 1] == '.');
}

static void
test_no_slot_for_an_empty_archive(void **state)
{
    static const Step steps[] = {NO_SLOT(AT_PLAN, 0)};
    Ending ending;

    (void)state;
    play.request.slot = "archive";
    ending = RUN(steps);
    assert_failed(&ending, 3,
                  "the server keeps no WAL for us: replication slot \"archive\" does not exist");
}

/* After a failover the slot may come: half a minute is waited for it, all in all. */
static void
test_slot_does_not_come(void **state)
{
    Step steps[20];
    Ending ending;

    (void)state;
    steps[0] = (Step)BROKEN(0x3100000);
    for (size_t i = 1; i < 20; i++)
        steps[i] = i % 3 == 0 ? (Step)REFUSED : (Step)NO_SLOT(AT_STREAM, 0x3100000);
    play.request.slot = "archive";
    play.request.verbose = false;
    ending = RUN(steps);
    assert_failed(&ending, 3,
                  "the server does not keep WAL from 0/3100000 (timeline 1) on for us: replication "
                  "slot \"archive\" does not exist");
    /* 1000 ms at the start and 500 for the broken stream: from 1500 on it was missing. */
    assert_in_range(play.now_ms, 1500 + SLOT_PATIENCE_MS, 1500 + SLOT_PATIENCE_MS + 10000);
}

static void
test_slot_comes(void **state)
{
    static const Step steps[] = {BROKEN(0x3100000), NO_SLOT(AT_STREAM, 0), NO_SLOT(AT_STREAM, 0),
                                 BROKEN(0x3200000), NO_SLOT(AT_STREAM, 0), REACHED};

    (void)state;
    play.request.slot = "archive";
    play.request.verbose = false;
    play.now_ms = SLOT_PATIENCE_MS;
    assert_true(RUN(steps).ok);
    assert_int_equal(play.waits, 5);
}

/* ---- damaged WAL ---- */

#define DAMAGED(lsn, at)                                                                           \
    {                                                                                              \
        .where = AT_STREAM, .result = WAL_RUN_FAILED, .code = ERR_MISMATCH, .message = "bad CRC",  \
        .position = (at), .written = (at), .checked = (lsn), .began = true                         \
    }

static void
test_damaged(void **state)
{
    static const Step steps[] = {DAMAGED(0x3200000, 0x3100000), DAMAGED(0x3200000, 0x3180000),
                                 DAMAGED(0x3200000, 0), DAMAGED(0x3200000, 0)};
    Ending ending;

    (void)state;
    play.request.verbose = false;
    ending = RUN(steps);
    assert_failed(&ending, 4,
                  "the server sends damaged WAL, also when it is fetched again 3 times: bad CRC");
    assert_text("[connect]\n[stream from 0/3000000]\nerror: bad CRC\n"
                "fetching this WAL again (1 of 3)\n[waiting: bad CRC]\n"
                "[connect]\n[stream from 0/3000000]\nerror: bad CRC\n"
                "fetching this WAL again (2 of 3)\n[waiting: bad CRC]\n"
                "[connect]\n[stream from 0/3000000]\nerror: bad CRC\n"
                "fetching this WAL again (3 of 3)\n[waiting: bad CRC]\n"
                "[connect]\n[stream from 0/3000000]\n"
                "[end: the server sends damaged WAL, also when it is fetched again 3 times: bad "
                "CRC]\n");
}

/* A flipped bit on the way, now and then, is no reason to end. */
static void
test_damaged_here_and_there(void **state)
{
    Step steps[20];

    (void)state;
    for (size_t i = 0; i < 19; i++)
        steps[i] = (Step)DAMAGED(0x3200000 + i, 0x3100000 + i);
    steps[19] = (Step)REACHED;
    play.request.verbose = false;
    assert_true(RUN(steps).ok);
    assert_int_equal(play.waits, 0);
}

/* A connection that breaks in between proves nothing; WAL that has come behind it does. */
static void
test_damage_is_forgotten(void **state)
{
    static const Step steps[] = {
        DAMAGED(0x3200000, 0), DAMAGED(0x3200000, 0), DAMAGED(0x3200000, 0),
        BROKEN(0x3300000),     DAMAGED(0x3200000, 0), DAMAGED(0x3200000, 0),
        BROKEN(0x3000000),     DAMAGED(0x3200000, 0), DAMAGED(0x3200000, 0)};
    Ending ending;

    (void)state;
    play.request.verbose = false;
    ending = RUN(steps);
    assert_int_equal(ending.status, 4);
    assert_int_equal(play.next, 9);
}

static void
test_damaged_without_loop(void **state)
{
    static const Step steps[] = {DAMAGED(0x3200000, 0)};
    Ending ending;

    (void)state;
    play.request.no_loop = true;
    ending = RUN(steps);
    assert_false(ending.ok);
    assert_int_equal(ending.status, 1);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_end_position),
        TEST(test_stopped),
        TEST(test_stopped_anywhere),
        TEST(test_stopped_while_waiting),
        TEST(test_directory_in_use),
        TEST(test_durable_stream),
        TEST(test_synchronous_stream),
        TEST(test_stream_without_sync),
        TEST(test_first_connection),
        TEST(test_delays),
        TEST(test_no_loop),
        TEST(test_fatal),
        TEST(test_other_cluster),
        TEST(test_disk_full),
        TEST(test_stopped_while_the_disk_is_full),
        TEST(test_disk_full_without_loop),
        TEST(test_broken_disk),
        TEST(test_gap),
        TEST(test_gap_over_timelines),
        TEST(test_accepted_gap),
        TEST(test_gap_that_cannot_be_measured),
        TEST(test_gap_that_is_none),
        TEST(test_no_slot),
        TEST(test_no_slot_for_an_empty_archive),
        TEST(test_slot_does_not_come),
        TEST(test_slot_comes),
        TEST(test_damaged),
        TEST(test_damaged_here_and_there),
        TEST(test_damage_is_forgotten),
        TEST(test_damaged_without_loop),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
