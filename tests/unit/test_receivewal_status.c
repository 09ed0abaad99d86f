/*
 * The status of receivewal as JSON, and the file that it is in: replaced as a whole, and only when
 * something has changed.
 */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "cmd/receivewal_status.h"
#include "common/runtime.h"
#include "manifest/internal.h"
#include "support/temp_dir.h"

/* ---- calls that the test sees ---- */

static int fail_realloc_at; /* counted from 1; 0: never */
static atomic_int renames;
static atomic_int fail_renames; /* so many of the next ones fail */
static _Atomic int64_t now_ms;  /* of a clock that stands still */

void *__real_realloc(void *old, size_t size);
void *__wrap_realloc(void *old, size_t size);
int __real_rename(const char *from, const char *to);
int __wrap_rename(const char *from, const char *to);
int64_t __wrap_clock_ms(void);

void *
__wrap_realloc(void *old, size_t size)
{
    if (fail_realloc_at > 0 && --fail_realloc_at == 0)
        return NULL;
    return __real_realloc(old, size);
}

int
__wrap_rename(const char *from, const char *to)
{
    if (atomic_load(&fail_renames) > 0) {
        atomic_fetch_sub(&fail_renames, 1);
        errno = EIO;
        return -1;
    }
    atomic_fetch_add(&renames, 1);
    return __real_rename(from, to);
}

int64_t
__wrap_clock_ms(void)
{
    return atomic_load(&now_ms);
}

/* ---- the object ---- */

static bool
take_token(void *ctx, JsonToken token, const char *text, Error *err)
{
    (void)ctx;
    (void)token;
    (void)text;
    (void)err;
    return true;
}

/* It is one JSON value, and a newline. */
static void
check_json(const char *text)
{
    JsonParser *parser = malloc(sizeof *parser);
    Error err = ERROR_INIT;

    assert_non_null(parser);
    json_init(parser, take_token, NULL);
    if (!json_feed(parser, span_of(text), &err) || !json_finish(parser, &err))
        fail_msg("%s: %s", err.message, text);
    free(parser);
    assert_ptr_equal(strchr(text, '\n'), text + strlen(text) - 1);
}

/* 2026-11-20 12:34:56.007 UTC */
#define NOON INT64_C(1795178096007)

static void
check_status(const ReceiveStatus *status, const char *expected)
{
    Buf line = BUF_INIT;
    Error err = ERROR_INIT;

    assert_true(receive_status_json(status, NOON, &line, &err));
    assert_string_equal(buf_text(&line), expected);
    check_json(buf_text(&line));
    buf_free(&line);
}

static void
test_nothing_known(void **state)
{
    const ReceiveStatus status = {
        .version = "1.2.3", .directory = "/wal", .pid = 4711, .started_at = NOON - 1007};

    (void)state;
    check_status(
        &status,
        "{\"version\":1,\"pgstow_version\":\"1.2.3\",\"pid\":4711,\"state\":\"connecting\","
        "\"directory\":\"/wal\",\"slot\":null,\"server_host\":null,\"server_version\":null,"
        "\"system_identifier\":null,\"timeline\":null,\"received_lsn\":null,\"written_lsn\":null,"
        "\"flushed_lsn\":null,\"server_lsn\":null,\"lag_bytes\":null,\"lag_seconds\":null,"
        "\"reconnects\":0,\"last_error\":null,\"started_at\":\"2026-11-20T12:34:55.000Z\","
        "\"updated_at\":\"2026-11-20T12:34:56.007Z\"}\n");
}

static ReceiveStatus
busy_status(void)
{
    return (ReceiveStatus){
        .state = RECEIVE_STREAMING,
        .version = "1.2.3",
        .directory = "/wal \"\xFF\"",
        .slot = "archive",
        .host = "db1",
        .pid = 1,
        .server_version = 180004,
        .system_id = UINT64_MAX,
        .timeline = 3,
        .received = 0x100000000,
        .written = 0xFFFFFFFF,
        .flushed = 0xFFFFFF00,
        .server_end = 0x100000010,
        .lag_known = true,
        .lag_bytes = 272,
        .lag_ms = 61042,
        .reconnects = 2,
        .started_at = 0,
        .error_at = NOON,
        .last_error = {.code = ERR_CONNECTION, .message = "gone\n\xC3\xA4\xFF"},
    };
}

static void
test_all_known(void **state)
{
    const ReceiveStatus status = busy_status();

    (void)state;
    check_status(
        &status,
        "{\"version\":1,\"pgstow_version\":\"1.2.3\",\"pid\":1,\"state\":\"streaming\","
        "\"directory\":\"/wal \\\"\\ufffd\\\"\",\"directory_hex\":\"2f77616c2022ff22\","
        "\"slot\":\"archive\",\"server_host\":\"db1\",\"server_version\":180004,"
        "\"system_identifier\":\"18446744073709551615\",\"timeline\":3,\"received_lsn\":\"1/0\","
        "\"written_lsn\":\"0/FFFFFFFF\",\"flushed_lsn\":\"0/FFFFFF00\",\"server_lsn\":\"1/10\","
        "\"lag_bytes\":272,\"lag_seconds\":61.042,\"reconnects\":2,"
        "\"last_error\":{\"message\":\"gone\\u000a\xC3\xA4\\ufffd\","
        "\"time\":\"2026-11-20T12:34:56.007Z\"},\"started_at\":\"1970-01-01T00:00:00.000Z\","
        "\"updated_at\":\"2026-11-20T12:34:56.007Z\"}\n");
}

static void
test_names_of_states(void **state)
{
    static const struct {
        ReceiveState state;
        const char *member;
    } rows[] = {
        {RECEIVE_CONNECTING, "\"state\":\"connecting\""},
        {RECEIVE_STREAMING, "\"state\":\"streaming\""},
        {RECEIVE_WAITING, "\"state\":\"waiting\""},
        {RECEIVE_DISK_FULL, "\"state\":\"disk_full\""},
        {RECEIVE_STOPPED, "\"state\":\"stopped\""},
        {RECEIVE_FAILED, "\"state\":\"failed\""},
    };

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        const ReceiveStatus status = {.state = rows[i].state, .version = "1", .directory = "d"};
        Buf line = BUF_INIT;
        Error err = ERROR_INIT;

        assert_true(receive_status_json(&status, NOON, &line, &err));
        assert_non_null(strstr(buf_text(&line), rows[i].member));
        buf_free(&line);
    }
}

static void
test_json_without_memory(void **state)
{
    const ReceiveStatus status = busy_status();
    bool ok = false;

    (void)state;
    for (int at = 1; !ok; at++) {
        Buf line = BUF_INIT;
        Error err = ERROR_INIT;

        fail_realloc_at = at;
        ok = receive_status_json(&status, NOON, &line, &err);
        assert_int_equal(ok, fail_realloc_at != 0);
        fail_realloc_at = 0;
        assert_int_equal(err.code, ok ? ERR_NONE : ERR_MEMORY);
        buf_free(&line);
    }
}

static void
test_time(void **state)
{
    struct timespec now;
    int64_t told = status_time();

    (void)state;
    assert_int_equal(clock_gettime(CLOCK_REALTIME, &now), 0);
    assert_in_range((int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000 - told, 0, 60000);
}

/* ---- the file ---- */

typedef struct Teller {
    TempDir dir;
    pthread_mutex_t lock;
    pthread_cond_t asked;
    int asks; /* how often the file's thread has asked: what it wrote before is there */
    ReceiveStatus status;
    int stderr_file;
    int stderr_saved;
} Teller;

static void
take_status(void *ctx, ReceiveStatus *ret_status)
{
    Teller *teller = ctx;

    (void)pthread_mutex_lock(&teller->lock);
    *ret_status = teller->status;
    teller->asks++;
    (void)pthread_cond_broadcast(&teller->asked);
    (void)pthread_mutex_unlock(&teller->lock);
}

static int
setup(void **state)
{
    static Teller teller;

    teller = (Teller){.stderr_file = memfd_create("standard error", MFD_CLOEXEC)};
    assert_true(teller.stderr_file >= 0);
    teller.stderr_saved = dup(STDERR_FILENO);
    teller.status = (ReceiveStatus){.version = "1", .directory = "d", .received = 1};
    (void)pthread_mutex_init(&teller.lock, NULL);
    (void)pthread_cond_init(&teller.asked, NULL);
    temp_dir_make(&teller.dir);
    atomic_store(&renames, 0);
    atomic_store(&fail_renames, 0);
    atomic_store(&now_ms, 100000);
    *state = &teller;
    return 0;
}

static int
teardown(void **state)
{
    Teller *teller = *state;

    temp_dir_remove(&teller->dir);
    (void)close(teller->stderr_file);
    (void)close(teller->stderr_saved);
    (void)pthread_cond_destroy(&teller->asked);
    (void)pthread_mutex_destroy(&teller->lock);
    return 0;
}

static StatusFile *
start(Teller *teller, const char *name)
{
    const StatusFileConfig config = {
        .path = temp_dir_path(&teller->dir, name), .take = take_status, .ctx = teller};
    Error err = ERROR_INIT;
    StatusFile *file;

    assert_true(dup2(teller->stderr_file, STDERR_FILENO) >= 0);
    file = status_file_start(&config, &err);
    assert_non_null(file);
    return file;
}

static void
end(Teller *teller, StatusFile *file)
{
    status_file_end(file);
    assert_true(dup2(teller->stderr_saved, STDERR_FILENO) >= 0);
}

/* Waits until the thread has asked so often. */
static void
wait_for_asks(Teller *teller, int asks)
{
    (void)pthread_mutex_lock(&teller->lock);
    while (teller->asks < asks)
        (void)pthread_cond_wait(&teller->asked, &teller->lock);
    (void)pthread_mutex_unlock(&teller->lock);
}

static void
set_received(Teller *teller, Lsn received)
{
    (void)pthread_mutex_lock(&teller->lock);
    teller->status.received = received;
    (void)pthread_mutex_unlock(&teller->lock);
}

/* Has it look now, and returns when what it has found is in the file. */
static void
look(Teller *teller, StatusFile *file)
{
    int asks;

    (void)pthread_mutex_lock(&teller->lock);
    asks = teller->asks;
    (void)pthread_mutex_unlock(&teller->lock);
    status_file_changed(file);
    wait_for_asks(teller, asks + 1);
    status_file_changed(file);
    wait_for_asks(teller, asks + 2);
}

static void
check_file(Teller *teller, const char *name, const char *member)
{
    Buf content = temp_dir_read(&teller->dir, name);

    check_json(buf_text(&content));
    if (strstr(buf_text(&content), member) == NULL)
        fail_msg("no %s in %s", member, buf_text(&content));
    buf_free(&content);
}

static void
check_warnings(const Teller *teller, const char *expected)
{
    char text[2048];
    ssize_t len = pread(teller->stderr_file, text, sizeof text - 1, 0);

    assert_true(len >= 0);
    text[len] = '\0';
    assert_string_equal(text, expected);
}

static void
test_first_and_last(void **state)
{
    Teller *teller = *state;
    StatusFile *file = start(teller, "status");

    wait_for_asks(teller, 1);
    set_received(teller, 2);
    end(teller, file);
    check_file(teller, "status", "\"received_lsn\":\"0/2\"");
    assert_false(temp_dir_exists(&teller->dir, "status.tmp"));
    assert_int_equal(temp_dir_mode(&teller->dir, "status"), S_IFREG | 0644);
    check_warnings(teller, "");
}

static void
test_changes_are_told_at_once(void **state)
{
    Teller *teller = *state;
    StatusFile *file = start(teller, "status");

    for (Lsn received = 2; received < 6; received++) {
        char member[64];

        set_received(teller, received);
        look(teller, file);
        (void)snprintf(member, sizeof member, "\"received_lsn\":\"0/%X\"", (unsigned)received);
        check_file(teller, "status", member);
    }
    end(teller, file);
    check_warnings(teller, "");
}

static void
test_written_when_it_has_changed(void **state)
{
    Teller *teller = *state;
    StatusFile *file = start(teller, "status");

    look(teller, file);
    look(teller, file);
    assert_int_equal(atomic_load(&renames), 1);
    set_received(teller, 2);
    look(teller, file);
    look(teller, file);
    assert_int_equal(atomic_load(&renames), 2);
    end(teller, file);
    assert_int_equal(atomic_load(&renames), 2);
}

/* So that one that is old tells of a program that is gone. */
static void
test_written_when_it_is_old(void **state)
{
    Teller *teller = *state;
    StatusFile *file = start(teller, "status");

    look(teller, file);
    atomic_store(&now_ms, 109999);
    look(teller, file);
    assert_int_equal(atomic_load(&renames), 1);
    atomic_store(&now_ms, 110000);
    look(teller, file);
    assert_int_equal(atomic_load(&renames), 2);
    end(teller, file);
}

static void
test_replaces_what_is_there(void **state)
{
    Teller *teller = *state;
    StatusFile *file;

    temp_dir_write(&teller->dir, "status", "old", 3);
    temp_dir_write(&teller->dir, "status.tmp", "rest of a crash", 15);
    file = start(teller, "status");
    end(teller, file);
    check_file(teller, "status", "\"received_lsn\":\"0/1\"");
    assert_false(temp_dir_exists(&teller->dir, "status.tmp"));
}

static void
test_no_link_is_followed(void **state)
{
    Teller *teller = *state;
    StatusFile *file;
    Buf content;

    temp_dir_write(&teller->dir, "victim", "mine", 4);
    assert_int_equal(symlink("victim", temp_dir_path(&teller->dir, "status.tmp")), 0);
    file = start(teller, "status");
    end(teller, file);
    content = temp_dir_read(&teller->dir, "victim");
    assert_string_equal(buf_text(&content), "mine");
    buf_free(&content);
    assert_false(temp_dir_exists(&teller->dir, "status"));
}

static void
test_one_warning(void **state)
{
    Teller *teller = *state;
    StatusFile *file = start(teller, "nowhere/status");
    char expected[1024];

    for (Lsn received = 2; received < 6; received++) {
        set_received(teller, received);
        look(teller, file);
    }
    end(teller, file);
    (void)snprintf(expected, sizeof expected,
                   "pgstow: warning: could not write the status file: could not create file "
                   "\"%s\": No such file or directory\n",
                   temp_dir_path(&teller->dir, "nowhere/status.tmp"));
    check_warnings(teller, expected);
}

static void
test_writable_again(void **state)
{
    Teller *teller = *state;
    StatusFile *file;

    atomic_store(&fail_renames, 1);
    file = start(teller, "status");
    look(teller, file);
    assert_false(temp_dir_exists(&teller->dir, "status"));
    assert_false(temp_dir_exists(&teller->dir, "status.tmp"));
    set_received(teller, 2);
    look(teller, file);
    check_file(teller, "status", "\"received_lsn\":\"0/2\"");
    end(teller, file);
}

static void
test_start_without_memory(void **state)
{
    Teller *teller = *state;
    const StatusFileConfig config = {
        .path = temp_dir_path(&teller->dir, "status"), .take = take_status, .ctx = teller};
    Error err = ERROR_INIT;

    fail_realloc_at = 1;
    assert_null(status_file_start(&config, &err));
    assert_int_equal(err.code, ERR_MEMORY);
    assert_int_equal(teller->asks, 0);
    status_file_end(NULL);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nothing_known),
        cmocka_unit_test(test_all_known),
        cmocka_unit_test(test_names_of_states),
        cmocka_unit_test(test_json_without_memory),
        cmocka_unit_test(test_time),
        TEST(test_first_and_last),
        TEST(test_changes_are_told_at_once),
        TEST(test_written_when_it_has_changed),
        TEST(test_written_when_it_is_old),
        TEST(test_replaces_what_is_there),
        TEST(test_no_link_is_followed),
        TEST(test_one_warning),
        TEST(test_writable_again),
        TEST(test_start_without_memory),
    };

    (void)umask(022);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
