/*
 * What a backup shows on standard error, as its observer. Standard error is a file while something
 * is shown, so that a failed assertion can still be read.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "cmd/basebackup_cmd.h"
#include "cmd/log.h"

#define KB ((uint64_t)1024)

/* ---- calls that the test sees ---- */

static int fail_realloc_at; /* counted from 1; 0: never */
static int writes;
static size_t write_limit; /* the most that one write takes; 0: all */
static int write_errno;    /* the next write fails with it; 0: none does */

void *__real_realloc(void *old, size_t size);
void *__wrap_realloc(void *old, size_t size);
ssize_t __real_write(int fd, const void *data, size_t len);
ssize_t __wrap_write(int fd, const void *data, size_t len);

void *
__wrap_realloc(void *old, size_t size)
{
    if (fail_realloc_at > 0 && --fail_realloc_at == 0)
        return NULL;
    return __real_realloc(old, size);
}

ssize_t
__wrap_write(int fd, const void *data, size_t len)
{
    writes++;
    if (write_errno != 0) {
        errno = write_errno;
        write_errno = 0;
        return -1;
    }
    return __real_write(fd, data, write_limit > 0 && len > write_limit ? write_limit : len);
}

/* ---- standard error in a file ---- */

typedef struct Screen {
    BackupDisplay display;
    BackupObserver observer;
    int file;
    int saved; /* the real standard error, while ours is the file */
    char text[4096];
} Screen;

static void
screen_open(Screen *screen, ProgressStyle style, bool verbose)
{
    *screen = (Screen){.file = memfd_create("standard error", MFD_CLOEXEC)};
    assert_true(screen->file >= 0);
    screen->display = (BackupDisplay){.style = style, .verbose = verbose};
    screen->observer = display_observer(&screen->display);
    writes = 0;
}

static void
screen_on(Screen *screen)
{
    screen->saved = dup(STDERR_FILENO);
    assert_true(screen->saved >= 0);
    assert_int_equal(dup2(screen->file, STDERR_FILENO), STDERR_FILENO);
}

static void
screen_off(const Screen *screen)
{
    (void)dup2(screen->saved, STDERR_FILENO);
    (void)close(screen->saved);
}

static void
show_note(Screen *screen, const char *message)
{
    screen_on(screen);
    screen->observer.note(screen->observer.ctx, message);
    screen_off(screen);
}

static void
show_info(Screen *screen, const char *message)
{
    screen_on(screen);
    screen->observer.info(screen->observer.ctx, message);
    screen_off(screen);
}

static void
show_problem(Screen *screen, const Problem *problem)
{
    screen_on(screen);
    screen->observer.problem(screen->observer.ctx, problem);
    screen_off(screen);
}

static void
show_failed(Screen *screen, const Error *failure)
{
    screen_on(screen);
    screen->observer.failed(screen->observer.ctx, failure);
    screen_off(screen);
}

static void
show_waiting(Screen *screen)
{
    screen_on(screen);
    screen->observer.waiting(screen->observer.ctx);
    screen_off(screen);
}

static void
show_begun(Screen *screen)
{
    const BackupBegin begin = {.start = 0x28, .timeline = 1, .tablespace_count = 1};

    screen_on(screen);
    screen->observer.begun(screen->observer.ctx, &begin);
    screen_off(screen);
}

static void
show_progress(Screen *screen, const BackupProgress *progress)
{
    screen_on(screen);
    screen->observer.progress(screen->observer.ctx, progress);
    screen_off(screen);
}

static void
show_completed(Screen *screen)
{
    const BackupSummary summary = {.received = KB, .end = 0x28, .timeline = 1, .durable = true};

    screen_on(screen);
    screen->observer.completed(screen->observer.ctx, &summary);
    screen_off(screen);
}

/* What has been shown since the last time. */
static const char *
shown(Screen *screen)
{
    off_t size = lseek(screen->file, 0, SEEK_END);

    assert_in_range(size, 0, sizeof screen->text - 1);
    assert_int_equal(pread(screen->file, screen->text, (size_t)size, 0), size);
    screen->text[size] = '\0';
    assert_int_equal(ftruncate(screen->file, 0), 0);
    assert_int_equal(lseek(screen->file, 0, SEEK_SET), 0);
    return screen->text;
}

static void
screen_close(Screen *screen)
{
    assert_string_equal(shown(screen), "");
    (void)close(screen->file);
}

static const BackupProgress half = {.done = 500 * KB, .total = 1000 * KB, .tablespace_count = 1};
static const Problem extra = {.kind = PROBLEM_EXTRA, .path = "x", .message = "\"x\" is new"};
static const Error damage = {.code = ERR_MISMATCH, .message = "it is bad", .hint = "Look."};

#define EXTRA_JSON                                                                                 \
    "{\"version\":1,\"event\":\"problem\",\"kind\":\"extra\",\"path\":\"x\",\"message\":\"\\\"x\\" \
    "\" is new\"}\n"
#define DAMAGE_JSON                                                                                \
    "{\"version\":1,\"event\":\"error\",\"code\":\"mismatch\",\"message\":\"it is bad\","          \
    "\"hint\":\"Look.\",\"sqlstate\":null,\"signal\":null}\n"

/* ---- messages ---- */

static void
test_messages(void **state)
{
    Screen screen;

    (void)state;
    screen_open(&screen, PROGRESS_NONE, false);
    show_note(&screen, "a step");
    assert_string_equal(shown(&screen), "");
    show_info(&screen, "removing \"100%s\"");
    assert_string_equal(shown(&screen), "pgstow basebackup: removing \"100%s\"\n");
    show_problem(&screen, &extra);
    assert_string_equal(shown(&screen), "pgstow basebackup: error: \"x\" is new\n");
    show_failed(&screen, &damage);
    assert_string_equal(shown(&screen),
                        "pgstow basebackup: error: it is bad\npgstow basebackup: hint: Look.\n");
    screen_close(&screen);
}

static void
test_without_progress_there_is_none(void **state)
{
    Screen screen;

    (void)state;
    screen_open(&screen, PROGRESS_NONE, false);
    show_waiting(&screen);
    show_begun(&screen);
    show_progress(&screen, &half);
    show_completed(&screen);
    assert_int_equal(writes, 0);
    screen_close(&screen);
}

static void
test_verbose(void **state)
{
    Screen screen;

    (void)state;
    screen_open(&screen, PROGRESS_NONE, true);
    show_note(&screen, "a step");
    assert_string_equal(shown(&screen), "pgstow basebackup: a step\n");
    show_waiting(&screen);
    show_begun(&screen);
    show_progress(&screen, &half);
    assert_string_equal(shown(&screen), "");
    show_completed(&screen);
    assert_string_equal(shown(&screen),
                        "pgstow basebackup: received 1 kB in 0.0 s, write-ahead log 0/0 to 0/28 on "
                        "timeline 1; nothing verified; on disk\n");
    screen_close(&screen);
}

static void
test_a_failure_is_shown_once(void **state)
{
    const Error later = {.code = ERR_BUG, .message = "and then this"};
    Screen screen;

    (void)state;
    screen_open(&screen, PROGRESS_JSON, false);
    show_failed(&screen, &damage);
    assert_string_equal(shown(&screen), "pgstow basebackup: error: it is bad\n"
                                        "pgstow basebackup: hint: Look.\n" DAMAGE_JSON);
    assert_true(screen.display.failure_shown);
    screen_on(&screen);
    display_failure(&screen.display, &later);
    screen_off(&screen);
    screen_close(&screen);
}

/* ---- progress as text ---- */

static void
test_lines_in_a_file(void **state)
{
    BackupProgress progress = half;
    Screen screen;

    (void)state;
    screen_open(&screen, PROGRESS_TEXT, false);
    show_waiting(&screen);
    assert_string_equal(shown(&screen), "waiting for checkpoint\n");
    show_begun(&screen);
    show_progress(&screen, &progress);
    assert_string_equal(shown(&screen), " 500/1000 kB (50%), 0/1 tablespace\n");
    progress.done = 1000 * KB;
    progress.tablespace = 1;
    progress.finished = true;
    show_progress(&screen, &progress);
    assert_string_equal(shown(&screen), "1000/1000 kB (100%), 1/1 tablespace\n");
    show_completed(&screen);
    assert_int_equal(writes, 3);
    screen_close(&screen);
}

static void
test_one_line_on_a_terminal(void **state)
{
    BackupProgress progress = half;
    Screen screen;

    (void)state;
    screen_open(&screen, PROGRESS_TEXT, false);
    screen.display.line.terminal = true;
    show_waiting(&screen);
    assert_string_equal(shown(&screen), "waiting for checkpoint\r");
    show_progress(&screen, &progress);
    assert_string_equal(shown(&screen), " 500/1000 kB (50%), 0/1 tablespace\r");
    progress.elapsed_ms = 2000;
    progress.done = 700 * KB;
    show_progress(&screen, &progress);
    assert_string_equal(shown(&screen),
                        " 700/1000 kB (70%), 0/1 tablespace, 100 kB/s, 0:03 left\r");
    /* Shorter: what was longer is overwritten, and only as long as it is there. */
    progress.done = 1000 * KB;
    progress.elapsed_ms = 4000;
    show_progress(&screen, &progress);
    assert_string_equal(shown(&screen),
                        "1000/1000 kB (100%), 0/1 tablespace, 125 kB/s          \r");
    screen.display.rate = (Rate){.count = 0};
    progress.finished = true;
    show_progress(&screen, &progress);
    assert_string_equal(shown(&screen), "1000/1000 kB (100%), 0/1 tablespace          \n");
    assert_int_equal(writes, 5);
    screen_close(&screen);
}

static void
test_files_are_shown_when_verbose(void **state)
{
    BackupProgress progress = half;
    Screen screen;

    (void)state;
    screen_open(&screen, PROGRESS_TEXT, true);
    show_waiting(&screen);
    assert_string_equal(shown(&screen), ""); /* a note has said it */
    progress.current = "/backup";
    show_progress(&screen, &progress);
    assert_string_equal(
        shown(&screen),
        " 500/1000 kB (50%), 0/1 tablespace (/backup                            )\n");
    screen_close(&screen);
}

/* A message does not end up in the middle of a line that is being shown. */
static void
test_messages_between_progress(void **state)
{
    Screen screen;

    (void)state;
    screen_open(&screen, PROGRESS_TEXT, true);
    screen.display.line.terminal = true;
    show_progress(&screen, &half);
    (void)shown(&screen);
    show_note(&screen, "a step");
    assert_string_equal(shown(&screen), "\npgstow basebackup: a step\n");
    show_info(&screen, "another");
    assert_string_equal(shown(&screen), "pgstow basebackup: another\n");
    show_progress(&screen, &half);
    (void)shown(&screen);
    show_info(&screen, "another");
    assert_string_equal(shown(&screen), "\npgstow basebackup: another\n");
    show_progress(&screen, &half);
    (void)shown(&screen);
    show_problem(&screen, &extra);
    assert_string_equal(shown(&screen), "\npgstow basebackup: error: \"x\" is new\n");
    show_progress(&screen, &half);
    (void)shown(&screen);
    show_completed(&screen);
    assert_int_equal(strncmp(shown(&screen), "\npgstow basebackup: received", 28), 0);
    show_progress(&screen, &half);
    (void)shown(&screen);
    show_failed(&screen, &damage);
    assert_string_equal(shown(&screen),
                        "\npgstow basebackup: error: it is bad\npgstow basebackup: hint: Look.\n");
    screen_close(&screen);
}

/* Nothing is shown of the step, so nothing moves. */
static void
test_silent_notes_leave_progress_alone(void **state)
{
    Screen screen;

    (void)state;
    screen_open(&screen, PROGRESS_TEXT, false);
    screen.display.line.terminal = true;
    show_progress(&screen, &half);
    (void)shown(&screen);
    show_note(&screen, "a step");
    screen_close(&screen);
}

/* ---- progress as JSON ---- */

static void
test_each_event_is_one_write(void **state)
{
    Screen screen;

    (void)state;
    screen_open(&screen, PROGRESS_JSON, false);
    screen.display.line.terminal = true;
    show_waiting(&screen);
    assert_string_equal(shown(&screen), "{\"version\":1,\"event\":\"waiting\"}\n");
    assert_int_equal(writes, 1);
    show_begun(&screen);
    assert_string_equal(shown(&screen),
                        "{\"version\":1,\"event\":\"begin\",\"server_version\":0,\"start_lsn\":\"0/"
                        "28\",\"timeline\":1,\"total_bytes\":null,\"tablespaces\":1}\n");
    assert_int_equal(writes, 2);
    show_progress(&screen, &half);
    assert_string_equal(
        shown(&screen),
        "{\"version\":1,\"event\":\"progress\",\"done_bytes\":512000,\"total_bytes\":1024000,"
        "\"percent\":50,\"tablespaces_done\":0,\"tablespaces\":1,\"current\":null,\"elapsed_ms\":0,"
        "\"bytes_per_second\":null,\"seconds_left\":null,\"finished\":false}\n");
    assert_int_equal(writes, 3);
    show_completed(&screen);
    assert_string_equal(
        shown(&screen),
        "{\"version\":1,\"event\":\"end\",\"received_bytes\":1024,\"wal_received_bytes\":0,"
        "\"elapsed_ms\":0,\"start_lsn\":\"0/0\",\"end_lsn\":\"0/28\",\"timeline\":1,"
        "\"files_checked\":null,\"bytes_checked\":null,\"pages_checked\":null,\"pages_bad\":null,"
        "\"wal_checked\":false,\"durable\":true}\n");
    assert_int_equal(writes, 4);
    screen_close(&screen);
}

static void
test_messages_stand_beside_json(void **state)
{
    Screen screen;

    (void)state;
    screen_open(&screen, PROGRESS_JSON, true);
    show_note(&screen, "a step");
    assert_string_equal(shown(&screen), "pgstow basebackup: a step\n");
    show_problem(&screen, &extra);
    assert_string_equal(shown(&screen), "pgstow basebackup: error: \"x\" is new\n" EXTRA_JSON);
    show_waiting(&screen);
    assert_string_equal(shown(&screen), "{\"version\":1,\"event\":\"waiting\"}\n");
    show_completed(&screen);
    assert_non_null(strstr(shown(&screen), "pgstow basebackup: received 1 kB"));
    assert_non_null(strstr(screen.text, "on disk\n{\"version\":1,\"event\":\"end\""));
    screen_close(&screen);
}

/* ---- standard error that does not do what it should ---- */

static void
test_short_and_interrupted_writes(void **state)
{
    Screen screen;

    (void)state;
    screen_open(&screen, PROGRESS_JSON, false);
    write_limit = 7;
    write_errno = EINTR;
    show_waiting(&screen);
    write_limit = 0;
    assert_string_equal(shown(&screen), "{\"version\":1,\"event\":\"waiting\"}\n");
    assert_int_equal(writes, 6);
    screen_close(&screen);
}

static void
test_a_failed_write_is_not_repeated(void **state)
{
    Screen screen;

    (void)state;
    screen_open(&screen, PROGRESS_JSON, false);
    write_errno = EAGAIN;
    show_waiting(&screen);
    assert_int_equal(writes, 1);
    assert_string_equal(shown(&screen), "");
    show_waiting(&screen);
    assert_string_equal(shown(&screen), "{\"version\":1,\"event\":\"waiting\"}\n");
    screen_close(&screen);
}

static void
show_everything(Screen *screen)
{
    show_waiting(screen);
    show_begun(screen);
    show_progress(screen, &half);
    show_note(screen, "a step");
    show_progress(screen, &half);
    show_problem(screen, &extra);
    show_completed(screen);
    show_failed(screen, &damage);
}

static void
test_nobody_can_be_told(void **state)
{
    const ProgressStyle styles[] = {PROGRESS_TEXT, PROGRESS_JSON};

    (void)state;
    for (size_t i = 0; i < 2; i++) {
        Screen screen;
        int file;

        screen_open(&screen, styles[i], true);
        screen.display.line.terminal = true;
        file = screen.file;
        screen.file = open("/dev/full", O_WRONLY | O_CLOEXEC);
        assert_true(screen.file >= 0);
        show_everything(&screen);
        (void)close(screen.file);
        /* As main leaves a stream that was closed. */
        screen.file = open("/dev/null", O_RDONLY | O_CLOEXEC);
        assert_true(screen.file >= 0);
        screen.display.failure_shown = false;
        show_everything(&screen);
        (void)close(screen.file);
        assert_true(screen.display.failure_shown);
        assert_true(writes >= 8);
        screen.file = file;
        screen_close(&screen);
    }
}

/* A line for which there is no memory is left out; messages need none. */
static void
test_no_memory_for_lines(void **state)
{
    const ProgressStyle styles[] = {PROGRESS_TEXT, PROGRESS_JSON};

    (void)state;
    for (size_t i = 0; i < 2; i++) {
        Screen screen;

        screen_open(&screen, styles[i], false);
        fail_realloc_at = 1;
        show_waiting(&screen);
        fail_realloc_at = 1;
        show_progress(&screen, &half);
        assert_string_equal(shown(&screen), "");
        assert_int_equal(writes, 0);
        fail_realloc_at = 1;
        show_problem(&screen, &extra);
        fail_realloc_at = 0;
        assert_string_equal(shown(&screen), "pgstow basebackup: error: \"x\" is new\n");
        show_waiting(&screen);
        assert_true(strlen(shown(&screen)) > 0);
        screen_close(&screen);
    }
}

/* ---- what the display is made from ---- */

static void
test_display_of_a_request(void **state)
{
    const BackupRequest request = {.progress = PROGRESS_JSON, .verbose = true};
    int terminal = posix_openpt(O_RDWR | O_NOCTTY);
    Screen screen;

    (void)state;
    assert_true(terminal >= 0);
    screen_open(&screen, PROGRESS_NONE, false);
    screen_on(&screen);
    display_init(&screen.display, &request);
    screen_off(&screen);
    assert_int_equal(screen.display.style, PROGRESS_JSON);
    assert_true(screen.display.verbose);
    assert_false(screen.display.line.terminal);
    assert_false(screen.display.failure_shown);

    (void)dup2(terminal, screen.file);
    screen_on(&screen);
    display_init(&screen.display, &request);
    screen_off(&screen);
    assert_true(screen.display.line.terminal);
    (void)close(screen.file);
    (void)close(terminal);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_messages),
        cmocka_unit_test(test_without_progress_there_is_none),
        cmocka_unit_test(test_verbose),
        cmocka_unit_test(test_a_failure_is_shown_once),
        cmocka_unit_test(test_lines_in_a_file),
        cmocka_unit_test(test_one_line_on_a_terminal),
        cmocka_unit_test(test_files_are_shown_when_verbose),
        cmocka_unit_test(test_messages_between_progress),
        cmocka_unit_test(test_silent_notes_leave_progress_alone),
        cmocka_unit_test(test_each_event_is_one_write),
        cmocka_unit_test(test_messages_stand_beside_json),
        cmocka_unit_test(test_short_and_interrupted_writes),
        cmocka_unit_test(test_a_failed_write_is_not_repeated),
        cmocka_unit_test(test_nobody_can_be_told),
        cmocka_unit_test(test_no_memory_for_lines),
        cmocka_unit_test(test_display_of_a_request),
    };

    log_init("pgstow basebackup");
    return cmocka_run_group_tests_name("backup_display", tests, NULL, NULL);
}
