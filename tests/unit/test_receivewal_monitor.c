/*
 * What is seen of a receiver from outside: a service manager hears of it, a file tells its state.
 * The receiver itself is a view that the test sets; the clock stands still unless it is moved.
 */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#include "cmd/receivewal_monitor.h"
#include "support/temp_dir.h"

#define PATIENCE_MS 20000 /* for what is bound to come */

/* ---- the receiver and the clock ---- */

struct WalReceiver {
    pthread_mutex_t lock;
    pthread_cond_t looked;
    int looks; /* how often somebody looked */
    WalReceiverView view;
};

static _Atomic int64_t now_ms;

int64_t __wrap_clock_ms(void);
WaitResult __real_runtime_wait(int fd, short events, int64_t timeout_ms, const Stop *stop,
                               Bell *bell, Error *err);
WaitResult __wrap_runtime_wait(int fd, short events, int64_t timeout_ms, const Stop *stop,
                               Bell *bell, Error *err);

int64_t
__wrap_clock_ms(void)
{
    return atomic_load(&now_ms);
}

/* Threads look more often than they mean to. */
WaitResult
__wrap_runtime_wait(int fd, short events, int64_t timeout_ms, const Stop *stop, Bell *bell,
                    Error *err)
{
    return __real_runtime_wait(fd, events, timeout_ms > 2 ? 2 : timeout_ms, stop, bell, err);
}

WalReceiverView
wal_receiver_view(const WalReceiver *receiver)
{
    WalReceiver *mine = (WalReceiver *)(uintptr_t)receiver;
    WalReceiverView view;

    (void)pthread_mutex_lock(&mine->lock);
    view = mine->view;
    mine->looks++;
    (void)pthread_cond_broadcast(&mine->looked);
    (void)pthread_mutex_unlock(&mine->lock);
    return view;
}

/* ---- what a test has ---- */

typedef struct Here {
    TempDir dir;
    int manager; /* the service manager's socket */
    char heard[1024];
    WalReceiver receiver;
    Stop stop;
    Monitor *monitor;
    int stderr_file;
    int stderr_saved;
} Here;

static void
make_manager(Here *here)
{
    const char *path = temp_dir_path(&here->dir, "notify");
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    assert_true(strlen(path) < sizeof address.sun_path);
    memcpy(address.sun_path, path, strlen(path));
    here->manager = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    assert_true(here->manager >= 0);
    assert_int_equal(bind(here->manager, (const struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(setenv("NOTIFY_SOCKET", path, 1), 0);
    assert_int_equal(unsetenv("WATCHDOG_USEC"), 0);
    assert_int_equal(unsetenv("WATCHDOG_PID"), 0);
}

static int
setup(void **state)
{
    static Here here;
    Error err = ERROR_INIT;

    here = (Here){.stderr_file = memfd_create("standard error", MFD_CLOEXEC)};
    assert_true(here.stderr_file >= 0);
    here.stderr_saved = dup(STDERR_FILENO);
    (void)pthread_mutex_init(&here.receiver.lock, NULL);
    (void)pthread_cond_init(&here.receiver.looked, NULL);
    temp_dir_make(&here.dir);
    make_manager(&here);
    assert_true(stop_init(&here.stop, &err));
    atomic_store(&now_ms, 1000000);
    *state = &here;
    return 0;
}

static int
teardown(void **state)
{
    Here *here = *state;

    stop_destroy(&here->stop);
    (void)close(here->manager);
    (void)close(here->stderr_file);
    (void)close(here->stderr_saved);
    temp_dir_remove(&here->dir);
    (void)pthread_cond_destroy(&here->receiver.looked);
    (void)pthread_mutex_destroy(&here->receiver.lock);
    return 0;
}

static void
start(Here *here)
{
    const MonitorConfig config = {
        .version = "1.2.3",
        .directory = "/wal",
        .slot = "archive",
        .status_file = temp_dir_path(&here->dir, "status"),
        .stop = &here->stop,
    };
    Error err = ERROR_INIT;

    assert_true(dup2(here->stderr_file, STDERR_FILENO) >= 0);
    here->monitor = monitor_start(&config, &err);
    assert_non_null(here->monitor);
}

static void
end(Here *here, const Error *failure)
{
    monitor_end(here->monitor, failure);
    assert_true(dup2(here->stderr_saved, STDERR_FILENO) >= 0);
}

/* ---- what is heard and seen ---- */

/* The next message of the monitor. */
static const char *
hear(Here *here)
{
    struct pollfd socket = {.fd = here->manager, .events = POLLIN};
    ssize_t len;

    assert_int_equal(poll(&socket, 1, PATIENCE_MS), 1);
    len = recv(here->manager, here->heard, sizeof here->heard - 1, 0);
    assert_true(len >= 0);
    here->heard[len] = '\0';
    return here->heard;
}

static void
assert_quiet(Here *here)
{
    struct pollfd socket = {.fd = here->manager, .events = POLLIN};

    assert_int_equal(poll(&socket, 1, 0), 0);
}

static void
set_view(Here *here, const WalReceiverView *view)
{
    (void)pthread_mutex_lock(&here->receiver.lock);
    here->receiver.view = *view;
    (void)pthread_mutex_unlock(&here->receiver.lock);
}

/* Returns when the monitor has made all of what it sees now: when it looks a second time. */
static void
be_seen(Here *here)
{
    WalReceiver *receiver = &here->receiver;
    int looks;

    (void)pthread_mutex_lock(&receiver->lock);
    looks = receiver->looks;
    while (receiver->looks < looks + 3)
        (void)pthread_cond_wait(&receiver->looked, &receiver->lock);
    (void)pthread_mutex_unlock(&receiver->lock);
}

static void
stream(Here *here, const WalReceiverView *view)
{
    set_view(here, view);
    monitor_receiver(here->monitor, &here->receiver);
}

static void
assert_status(Here *here, const char *member)
{
    Buf content = temp_dir_read(&here->dir, "status");

    if (strstr(buf_text(&content), member) == NULL)
        fail_msg("no %s in %s", member, buf_text(&content));
    buf_free(&content);
}

static void
assert_said(const Here *here, const char *expected)
{
    char text[2048];
    ssize_t len = pread(here->stderr_file, text, sizeof text - 1, 0);

    assert_true(len >= 0);
    text[len] = '\0';
    assert_string_equal(text, expected);
}

static const WalReceiverView streaming = {.streaming = true,
                                          .timeline = 2,
                                          .received = 0x3000100,
                                          .written = 0x3000080,
                                          .flushed = 0x3000000,
                                          .server_end = 0x3000200,
                                          .beats = 1};

/* ---- the service manager ---- */

static void
test_ready_when_it_streams(void **state)
{
    Here *here = *state;

    start(here);
    assert_string_equal(hear(here), "STATUS=connecting");
    stream(here, &streaming);
    assert_string_equal(hear(here), "READY=1");
    assert_string_equal(hear(here), "STATUS=streaming timeline 2 from 0/3000100 on");
    end(here, NULL);
    assert_string_equal(hear(here), "STATUS=stopped at 0/3000100");
    assert_quiet(here);
    assert_said(here, "");
}

static void
test_states_are_told(void **state)
{
    const Error refused = {.code = ERR_CONNECTION, .message = "connection\nrefused"};
    Here *here = *state;

    start(here);
    assert_string_equal(hear(here), "STATUS=connecting");
    stream(here, &streaming);
    assert_string_equal(hear(here), "READY=1");
    assert_string_equal(hear(here), "STATUS=streaming timeline 2 from 0/3000100 on");
    monitor_receiver(here->monitor, NULL);
    monitor_waiting(here->monitor, &refused);
    (void)hear(here);
    if (strcmp(here->heard, "STATUS=connecting") == 0) /* it looked in between */
        (void)hear(here);
    assert_string_equal(here->heard, "STATUS=waiting to try again: connection refused");
    monitor_connecting(here->monitor);
    assert_string_equal(hear(here), "STATUS=connecting");
    stream(here, &streaming);
    assert_string_equal(hear(here), "STATUS=streaming timeline 2 from 0/3000100 on");
    end(here, &refused);
    assert_string_equal(hear(here), "STATUS=failed: connection refused");
    assert_quiet(here);
}

static void
test_stopping(void **state)
{
    Here *here = *state;

    start(here);
    assert_string_equal(hear(here), "STATUS=connecting");
    stop_request(&here->stop);
    assert_string_equal(hear(here), "STOPPING=1");
    end(here, NULL);
    assert_string_equal(hear(here), "STATUS=stopped at 0/0");
    assert_quiet(here);
}

static void
move_clock(int64_t ms)
{
    atomic_fetch_add(&now_ms, ms);
}

/* Twenty milliseconds: the thread looks every ten of the real ones; the clock says when it is time.
 */
static void
start_with_watchdog(Here *here)
{
    assert_int_equal(setenv("WATCHDOG_USEC", "20000", 1), 0);
    start(here);
    assert_string_equal(hear(here), "STATUS=connecting");
    assert_string_equal(hear(here), "WATCHDOG=1");
    move_clock(9);
    stream(here, &streaming);
    assert_string_equal(hear(here), "READY=1");
    assert_string_equal(hear(here), "STATUS=streaming timeline 2 from 0/3000100 on");
    be_seen(here);
    assert_quiet(here);
}

static void
test_watchdog_while_it_goes_round(void **state)
{
    Here *here = *state;
    WalReceiverView view = streaming;

    start_with_watchdog(here);
    for (int i = 0; i < 10; i++) {
        move_clock(4999);
        view.beats++;
        set_view(here, &view);
        assert_string_equal(hear(here), "WATCHDOG=1");
        be_seen(here);
        assert_quiet(here);
    }
    end(here, NULL);
}

static void
test_no_watchdog_while_it_hangs(void **state)
{
    Here *here = *state;
    WalReceiverView view = streaming;

    start_with_watchdog(here);
    move_clock(4990);
    assert_string_equal(hear(here), "WATCHDOG=1");
    for (int i = 0; i < 5; i++) {
        move_clock(10);
        be_seen(here);
    }
    assert_quiet(here);
    view.beats++;
    set_view(here, &view);
    assert_string_equal(hear(here), "WATCHDOG=1");
    end(here, NULL);
}

/* Finding the end of the archive, waiting for the server or for room takes as long as it takes. */
static void
test_watchdog_between_streams(void **state)
{
    Here *here = *state;
    WalReceiverView view = streaming;

    start_with_watchdog(here);
    view.streaming = false;
    set_view(here, &view);
    assert_string_equal(hear(here), "STATUS=connecting");
    for (int i = 0; i < 5; i++) {
        move_clock(60000);
        assert_string_equal(hear(here), "WATCHDOG=1");
    }
    monitor_receiver(here->monitor, NULL);
    for (int i = 0; i < 5; i++) {
        move_clock(60000);
        assert_string_equal(hear(here), "WATCHDOG=1");
    }
    end(here, NULL);
}

static void
test_nobody_listens(void **state)
{
    const MonitorConfig config = {.version = "1", .directory = "/wal"};
    Here *here = *state;
    Error err = ERROR_INIT;
    Monitor *monitor;

    assert_int_equal(unsetenv("NOTIFY_SOCKET"), 0);
    monitor = monitor_start(&config, &err);
    assert_non_null(monitor);
    set_view(here, &streaming);
    monitor_receiver(monitor, &here->receiver);
    be_seen(here);
    monitor_receiver(monitor, NULL);
    monitor_end(monitor, NULL);
    assert_quiet(here);
    monitor_end(NULL, NULL);
}

/* ---- the status file ---- */

static void
test_final_status(void **state)
{
    const ServerIdentity server = {.system_id = 77, .timeline = 2};
    Here *here = *state;

    start(here);
    monitor_connecting(here->monitor);
    monitor_server(here->monitor, &server, 180004, "db1");
    stream(here, &streaming);
    be_seen(here);
    monitor_receiver(here->monitor, NULL);
    end(here, NULL);
    assert_status(here, "\"state\":\"stopped\",\"directory\":\"/wal\",\"slot\":\"archive\","
                        "\"server_host\":\"db1\",\"server_version\":180004,"
                        "\"system_identifier\":\"77\",\"timeline\":2,"
                        "\"received_lsn\":\"0/3000100\",\"written_lsn\":\"0/3000080\","
                        "\"flushed_lsn\":\"0/3000000\",\"server_lsn\":\"0/3000200\","
                        "\"lag_bytes\":512,\"lag_seconds\":0.000,\"reconnects\":0,"
                        "\"last_error\":null,");
}

static void
test_failed_status(void **state)
{
    const ServerIdentity server = {.system_id = 77, .timeline = 2};
    const Error failure = {.code = ERR_SERVER, .message = "it is gone"};
    Here *here = *state;

    start(here);
    for (int i = 0; i < 3; i++) {
        monitor_connecting(here->monitor);
        monitor_server(here->monitor, &server, 180004, "db1");
    }
    end(here, &failure);
    assert_status(here, "\"state\":\"failed\"");
    assert_status(here, "\"reconnects\":2,\"last_error\":{\"message\":\"it is gone\",\"time\":\"");
}

static void
test_lag(void **state)
{
    Here *here = *state;
    WalReceiverView view = streaming;

    start(here);
    stream(here, &view);
    be_seen(here);
    move_clock(2500);
    be_seen(here);
    monitor_receiver(here->monitor, NULL);
    end(here, NULL);
    assert_status(here, "\"lag_bytes\":512,\"lag_seconds\":2.500");
}

static void
test_no_lag(void **state)
{
    Here *here = *state;
    WalReceiverView view = streaming;

    start(here);
    stream(here, &view);
    be_seen(here);
    move_clock(2500);
    view.flushed = view.written = view.received = view.server_end;
    set_view(here, &view);
    be_seen(here);
    end(here, NULL);
    assert_status(here, "\"lag_bytes\":0,\"lag_seconds\":0.000");
}

/* Without sync nothing is flushed: then it is what was not written. */
static void
test_lag_without_sync(void **state)
{
    Here *here = *state;
    WalReceiverView view = streaming;

    view.flushed = LSN_INVALID;
    start(here);
    stream(here, &view);
    be_seen(here);
    end(here, NULL);
    assert_status(here, "\"flushed_lsn\":null,\"server_lsn\":\"0/3000200\",\"lag_bytes\":384");
}

/* A new stream has flushed nothing at first, and may begin before the end of the last one. */
static void
test_positions_do_not_go_back(void **state)
{
    Here *here = *state;
    WalReceiverView view = streaming;

    start(here);
    stream(here, &view);
    be_seen(here);
    monitor_receiver(here->monitor, NULL);
    view.received = 0x3000010;
    view.written = view.flushed = view.server_end = LSN_INVALID;
    stream(here, &view);
    be_seen(here);
    end(here, NULL);
    assert_status(here, "\"received_lsn\":\"0/3000010\",\"written_lsn\":\"0/3000080\","
                        "\"flushed_lsn\":\"0/3000000\",\"server_lsn\":\"0/3000200\"");
}

static void
test_new_timeline(void **state)
{
    Here *here = *state;
    WalReceiverView view = streaming;

    start(here);
    stream(here, &view);
    be_seen(here);
    view = (WalReceiverView){.streaming = true, .timeline = 3, .received = 0x2000000};
    set_view(here, &view);
    be_seen(here);
    end(here, NULL);
    assert_status(here, "\"timeline\":3,\"received_lsn\":\"0/2000000\",\"written_lsn\":null,"
                        "\"flushed_lsn\":null,\"server_lsn\":null,\"lag_bytes\":null,"
                        "\"lag_seconds\":null");
}

/* ---- a full disk ---- */

static const Error full = {
    .code = ERR_SYSTEM, .sys_errno = ENOSPC, .message = "No space left on device"};

static void
test_disk_full(void **state)
{
    Here *here = *state;
    WalReceiverView view = streaming;

    start(here);
    assert_string_equal(hear(here), "STATUS=connecting");
    assert_true(monitor_disk_full(here->monitor, &full, 0x3000080));
    assert_string_equal(hear(here), "STATUS=waiting for room: No space left on device");

    /* The next try gets nowhere, and is not news. */
    monitor_connecting(here->monitor);
    stream(here, &view);
    be_seen(here);
    move_clock(60000);
    be_seen(here);
    monitor_receiver(here->monitor, NULL);
    assert_false(monitor_disk_full(here->monitor, &full, 0x3000080));

    /* Then one does: when that lasts it is told, once. */
    monitor_connecting(here->monitor);
    view.written++;
    stream(here, &view);
    be_seen(here);
    move_clock(1999);
    be_seen(here);
    assert_quiet(here);
    assert_said(here, "");
    move_clock(1);
    assert_string_equal(hear(here), "READY=1");
    assert_string_equal(hear(here), "STATUS=streaming timeline 2 from 0/3000100 on");
    be_seen(here);
    assert_said(here, "pgstow: there is room on the disk again: going on at 0/3000081\n");

    monitor_receiver(here->monitor, NULL);
    assert_true(monitor_disk_full(here->monitor, &full, 0x3000081));
    end(here, NULL);
}

/* It wrote a little more, and was full again: that is no room. */
static void
test_disk_still_full(void **state)
{
    Here *here = *state;
    WalReceiverView view = streaming;

    start(here);
    assert_true(monitor_disk_full(here->monitor, &full, 0x3000080));
    for (int i = 0; i < 3; i++) {
        monitor_connecting(here->monitor);
        view.written++;
        stream(here, &view);
        be_seen(here);
        move_clock(1500);
        be_seen(here);
        monitor_receiver(here->monitor, NULL);
        assert_false(monitor_disk_full(here->monitor, &full, view.written));
    }
    end(here, NULL);
    assert_said(here, "");
    assert_status(here, "\"state\":\"stopped\"");
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_ready_when_it_streams),
        TEST(test_states_are_told),
        TEST(test_stopping),
        TEST(test_watchdog_while_it_goes_round),
        TEST(test_no_watchdog_while_it_hangs),
        TEST(test_watchdog_between_streams),
        TEST(test_nobody_listens),
        TEST(test_final_status),
        TEST(test_failed_status),
        TEST(test_lag),
        TEST(test_no_lag),
        TEST(test_lag_without_sync),
        TEST(test_positions_do_not_go_back),
        TEST(test_new_timeline),
        TEST(test_disk_full),
        TEST(test_disk_still_full),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
