/*
 * The lock of an archive: one receiver at a time, and none where it is not to be had.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "support/descriptors.h"
#include "support/temp_dir.h"
#include "walrecv/walrecv.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* ---- flock, led through the test ---- */

static int fail_with;     /* this errno; 0: not at all */
static int interruptions; /* so many calls first are interrupted */

int __real_flock(int fd, int operation);
int __wrap_flock(int fd, int operation);

int
__wrap_flock(int fd, int operation)
{
    if (interruptions > 0) {
        interruptions--;
        errno = EINTR;
        return -1;
    }
    if (fail_with != 0) {
        errno = fail_with;
        return -1;
    }
    return __real_flock(fd, operation);
}

static int
set_up(void **state)
{
    static TempDir dir;

    fail_with = 0;
    interruptions = 0;
    temp_dir_make(&dir);
    *state = &dir;
    return 0;
}

static int
tear_down(void **state)
{
    temp_dir_remove(*state);
    return 0;
}

static int
lock(const TempDir *dir)
{
    Error err = ERROR_INIT;
    int fd = -2;

    if (!wal_dir_lock(dir->path, &fd, &err))
        fail_msg("%s", err.message);
    assert_int_equal(err.code, ERR_NONE);
    return fd;
}

static void
assert_taken(const TempDir *dir)
{
    Error err = ERROR_INIT;
    char message[4200];
    int fd = -2;

    assert_false(wal_dir_lock(dir->path, &fd, &err));
    (void)snprintf(message, sizeof message,
                   "could not lock directory \"%s\": another receiver is streaming into it",
                   dir->path);
    assert_string_equal(err.message, message);
    assert_int_equal(err.code, ERR_SYSTEM);
    assert_int_equal(err.sys_errno, EWOULDBLOCK);
    assert_string_equal(err.hint, "Stop that one first, or stream into another directory.");
    assert_int_equal(fd, -2);
}

static void
test_one_at_a_time(void **state)
{
    TempDir *dir = *state;
    int fd = lock(dir);

    assert_true(fd >= 0);
    assert_true((fcntl(fd, F_GETFD) & FD_CLOEXEC) != 0);
    assert_taken(dir);
    assert_taken(dir);
    assert_int_equal(close(fd), 0);
    fd = lock(dir);
    assert_true(fd >= 0);
    assert_int_equal(close(fd), 0);
}

static void
test_another_process(void **state)
{
    TempDir *dir = *state;
    int fd = lock(dir);
    pid_t child = fork();
    int status;

    if (child == 0) {
        Error err = ERROR_INIT;
        int other;

        /* What it has inherited is the same lock, not another one. */
        (void)close(fd);
        _exit(wal_dir_lock(dir->path, &other, &err) ? 1 : 0);
    }
    assert_true(child > 0);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    assert_int_equal(close(fd), 0);
}

/* Who looks at the archive, or another directory, is not in the way. */
static void
test_what_is_not_in_the_way(void **state)
{
    TempDir *dir = *state;
    int reader = open(dir->path, O_RDONLY | O_DIRECTORY);
    int fd = lock(dir);
    TempDir other;
    int other_fd;

    temp_dir_make(&other);
    other_fd = lock(&other);
    assert_true(reader >= 0 && fd >= 0 && other_fd >= 0);
    assert_int_equal(close(other_fd), 0);
    assert_int_equal(close(reader), 0);
    assert_taken(dir);
    assert_int_equal(close(fd), 0);
    temp_dir_remove(&other);
}

static void
test_file_systems_without_locks(void **state)
{
    static const int answers[] = {EBADF, EINVAL, ENOLCK, ENOSYS, EOPNOTSUPP};
    size_t open_before = descriptors_open();

    for (size_t i = 0; i < COUNT(answers); i++) {
        fail_with = answers[i];
        assert_int_equal(lock(*state), -1);
    }
    assert_int_equal(descriptors_open(), open_before);
}

static void
test_failures(void **state)
{
    TempDir *dir = *state;
    size_t open_before = descriptors_open();
    Error err = ERROR_INIT;
    char message[4200];
    int fd = -2;

    fail_with = EIO;
    assert_false(wal_dir_lock(dir->path, &fd, &err));
    (void)snprintf(message, sizeof message, "could not lock directory \"%s\": %s", dir->path,
                   strerror(EIO));
    assert_string_equal(err.message, message);
    assert_int_equal(err.sys_errno, EIO);
    fail_with = 0;

    assert_false(wal_dir_lock(temp_dir_path(dir, "missing"), &fd, &err));
    (void)snprintf(message, sizeof message, "could not open directory \"%s/missing\": %s",
                   dir->path, strerror(ENOENT));
    assert_string_equal(err.message, message);
    assert_int_equal(err.sys_errno, ENOENT);

    temp_dir_write(dir, "file", "", 0);
    assert_false(wal_dir_lock(temp_dir_path(dir, "file"), &fd, &err));
    assert_int_equal(err.sys_errno, ENOTDIR);
    assert_int_equal(fd, -2);
    assert_int_equal(descriptors_open(), open_before);
}

static void
test_interrupted(void **state)
{
    int fd;

    interruptions = 3;
    fd = lock(*state);
    assert_int_equal(interruptions, 0);
    assert_true(fd >= 0);
    assert_taken(*state);
    assert_int_equal(close(fd), 0);
}

#define LOCK_TEST(function) cmocka_unit_test_setup_teardown(function, set_up, tear_down)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        LOCK_TEST(test_one_at_a_time),
        LOCK_TEST(test_another_process),
        LOCK_TEST(test_what_is_not_in_the_way),
        LOCK_TEST(test_file_systems_without_locks),
        LOCK_TEST(test_failures),
        LOCK_TEST(test_interrupted),
    };

    return cmocka_run_group_tests_name("dir_lock", tests, NULL, NULL);
}
