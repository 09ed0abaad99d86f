/*
 * What the service manager hears: a socket in a directory of the test's, or in the abstract space.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "cmd/notify.h"
#include "support/temp_dir.h"

typedef struct Manager {
    TempDir dir;
    int fd;
    char heard[1024]; /* the last message */
} Manager;

static void
set_environment(const char *name, const char *value)
{
    if (value == NULL)
        assert_int_equal(unsetenv(name), 0);
    else
        assert_int_equal(setenv(name, value, 1), 0);
}

static int
setup(void **state)
{
    static Manager manager;

    manager = (Manager){.fd = -1};
    temp_dir_make(&manager.dir);
    set_environment("NOTIFY_SOCKET", NULL);
    set_environment("WATCHDOG_USEC", NULL);
    set_environment("WATCHDOG_PID", NULL);
    *state = &manager;
    return 0;
}

static int
teardown(void **state)
{
    Manager *manager = *state;

    if (manager->fd >= 0)
        (void)close(manager->fd);
    temp_dir_remove(&manager->dir);
    return 0;
}

static void
manager_bind(Manager *manager, const struct sockaddr_un *address, size_t len)
{
    manager->fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    assert_true(manager->fd >= 0);
    assert_int_equal(bind(manager->fd, (const struct sockaddr *)address, (socklen_t)len), 0);
}

static void
manager_listen(Manager *manager)
{
    const char *path = temp_dir_path(&manager->dir, "notify");
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    assert_true(strlen(path) < sizeof address.sun_path);
    memcpy(address.sun_path, path, strlen(path));
    manager_bind(manager, &address, sizeof address);
    set_environment("NOTIFY_SOCKET", path);
}

/* The next message; "" when there is none. */
static const char *
manager_hear(Manager *manager)
{
    ssize_t len = recv(manager->fd, manager->heard, sizeof manager->heard - 1, 0);

    manager->heard[len < 0 ? 0 : len] = '\0';
    return manager->heard;
}

static void
test_all_messages(void **state)
{
    Manager *manager = *state;
    Notify notify;

    manager_listen(manager);
    notify_init(&notify);
    assert_int_equal(notify.watchdog_ms, 0);
    notify_ready(&notify);
    assert_string_equal(manager_hear(manager), "READY=1");
    notify_status(&notify, "streaming at %X", 0x2Fu);
    assert_string_equal(manager_hear(manager), "STATUS=streaming at 2F");
    notify_alive(&notify);
    assert_string_equal(manager_hear(manager), "WATCHDOG=1");
    notify_stopping(&notify);
    assert_string_equal(manager_hear(manager), "STOPPING=1");
    assert_string_equal(manager_hear(manager), "");
    notify_free(&notify);
}

/* Every line would be taken for an assignment of its own. */
static void
test_status_is_one_line(void **state)
{
    Manager *manager = *state;
    Notify notify;
    char longest[2000];

    memset(longest, 'x', sizeof longest - 1);
    longest[sizeof longest - 1] = '\0';
    manager_listen(manager);
    notify_init(&notify);
    notify_status(&notify, "%s", "failed:\nREADY=1\n");
    assert_string_equal(manager_hear(manager), "STATUS=failed: READY=1 ");
    notify_status(&notify, "%s", longest);
    assert_int_equal(strlen(manager_hear(manager)), 511);
    notify_free(&notify);
}

static void
test_abstract_socket(void **state)
{
    Manager *manager = *state;
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    char name[64];
    int len = snprintf(name, sizeof name, "@pgstow-test-%ld", (long)getpid());
    Notify notify;

    memcpy(address.sun_path + 1, name + 1, (size_t)len - 1);
    manager_bind(manager, &address, offsetof(struct sockaddr_un, sun_path) + (size_t)len);
    set_environment("NOTIFY_SOCKET", name);
    notify_init(&notify);
    notify_ready(&notify);
    assert_string_equal(manager_hear(manager), "READY=1");
    notify_free(&notify);
}

/* All of it does nothing, and does not end us. */
static void
send_all(const Notify *notify)
{
    notify_ready(notify);
    notify_alive(notify);
    notify_stopping(notify);
    notify_status(notify, "well");
}

static void
test_nobody_listens(void **state)
{
    static const char *const sockets[] = {NULL,   "",          "/",      "@", "relative/path",
                                          "fd:3", "vsock:2:1", " /run/x"};
    char too_long[200];

    (void)state;
    memset(too_long, 'a', sizeof too_long - 1);
    too_long[0] = '/';
    too_long[sizeof too_long - 1] = '\0';
    set_environment("WATCHDOG_USEC", "30000000");
    for (size_t i = 0; i <= sizeof sockets / sizeof sockets[0]; i++) {
        Notify notify;

        set_environment("NOTIFY_SOCKET",
                        i < sizeof sockets / sizeof sockets[0] ? sockets[i] : too_long);
        notify_init(&notify);
        assert_int_equal(notify.fd, -1);
        assert_int_equal(notify.watchdog_ms, 0);
        send_all(&notify);
        notify_free(&notify);
    }
}

static void
test_longest_path(void **state)
{
    struct sockaddr_un address;
    char path[sizeof address.sun_path];
    Notify notify;

    (void)state;
    memset(path, 'a', sizeof path - 1);
    path[0] = '/';
    path[sizeof path - 1] = '\0';
    set_environment("NOTIFY_SOCKET", path);
    notify_init(&notify);
    assert_true(notify.fd >= 0);
    assert_int_equal(notify.address_len, sizeof notify.address);
    send_all(&notify); /* there is no such socket */
    notify_free(&notify);
    assert_int_equal(notify.fd, -1);
    notify_free(&notify);
}

static void
test_manager_goes_away(void **state)
{
    Manager *manager = *state;
    Notify notify;

    manager_listen(manager);
    notify_init(&notify);
    (void)close(manager->fd);
    manager->fd = -1;
    send_all(&notify);
    notify_free(&notify);
}

/* A full queue would make a blocking socket wait for ever. */
static void
test_manager_that_does_not_listen(void **state)
{
    Manager *manager = *state;
    Notify notify;

    manager_listen(manager);
    notify_init(&notify);
    for (int i = 0; i < 10000; i++)
        notify_alive(&notify);
    assert_string_equal(manager_hear(manager), "WATCHDOG=1");
    notify_free(&notify);
}

static void
test_watchdog(void **state)
{
    Manager *manager = *state;
    char own[32];
    char other[32];
    const struct {
        const char *interval;
        const char *pid;
        int64_t ms;
    } rows[] = {
        {"30000000", NULL, 30000},
        {"30000000", own, 30000},
        {"30000000", other, 0},
        {"30000000", "", 0},
        {"30000000", "nobody", 0},
        {"1000", NULL, 1},
        {"999", NULL, 0},
        {"0", NULL, 0},
        {"", NULL, 0},
        {"-1", NULL, 0},
        {"30s", NULL, 0},
        {" 30000000", NULL, 0},
        {"18446744073709551615", NULL, 0},
        {"99999999999999999999999", NULL, 0},
        {NULL, own, 0},
    };

    (void)snprintf(own, sizeof own, "%ld", (long)getpid());
    (void)snprintf(other, sizeof other, "%ld", (long)getpid() + 1);
    manager_listen(manager);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        Notify notify;

        set_environment("WATCHDOG_USEC", rows[i].interval);
        set_environment("WATCHDOG_PID", rows[i].pid);
        notify_init(&notify);
        if (notify.watchdog_ms != rows[i].ms)
            fail_msg("row %zu: %lld ms", i, (long long)notify.watchdog_ms);
        notify_free(&notify);
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_all_messages),
        TEST(test_status_is_one_line),
        TEST(test_abstract_socket),
        TEST(test_nobody_listens),
        TEST(test_longest_path),
        TEST(test_manager_goes_away),
        TEST(test_manager_that_does_not_listen),
        TEST(test_watchdog),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
