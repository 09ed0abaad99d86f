/*
 * What is archived before the server asks for it, and what a note of that is worth.
 */
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/file.h"
#include "unit/served_fixture.h"

#define WAL    "data/pg_wal/"
#define STATUS WAL "archive_status/"
#define SPOOL  "spool"

#define SEGMENT_NAME_LEN 24

typedef struct Asked {
    char path[256];
    char directory[256];
    char spool[256];
    ArchivePush push;
    ArchiveAhead ahead;
} Asked;

/* As the server asks for this file; valid until the next one. */
static const ArchiveAhead *
asked(Served *here, const char *name, size_t count)
{
    static Asked it;

    (void)snprintf(it.path, sizeof it.path, "%s/%s", temp_dir_path(&here->dir, "data/pg_wal"),
                   name);
    (void)snprintf(it.directory, sizeof it.directory, "%s", temp_dir_path(&here->dir, "archive"));
    (void)snprintf(it.spool, sizeof it.spool, "%s", temp_dir_path(&here->dir, SPOOL));
    it.push = (ArchivePush){.path = it.path, .directory = it.directory};
    it.ahead = (ArchiveAhead){.push = &it.push, .spool = it.spool, .count = count, .threads = 2};
    return &it.ahead;
}

static void
put_ready(Served *here, const char *name, Span content)
{
    char path[128];

    (void)snprintf(path, sizeof path, WAL "%s", name);
    temp_dir_write(&here->dir, path, content.data, content.len);
    (void)snprintf(path, sizeof path, STATUS "%s.ready", name);
    temp_dir_write(&here->dir, path, "", 0);
}

static void
put_segment(Served *here, uint64_t number)
{
    put_ready(here, served_name(1, number), served_segment(here, number));
}

/* The server knows that it is archived. */
static void
done(Served *here, uint64_t number)
{
    char path[128];

    (void)snprintf(path, sizeof path, STATUS "%s.ready", served_name(1, number));
    assert_int_equal(unlink(temp_dir_path(&here->dir, path)), 0);
}

static bool
ahead_of(Served *here, const char *name, size_t count)
{
    const ArchiveAhead *ahead = asked(here, name, count);
    bool ok;
    int lock;

    here->err = ERROR_INIT;
    if (!archive_ahead_open(ahead, &lock, &here->err))
        fail_msg("%s", here->err.message);
    assert_true(lock >= 0);
    ok = archive_ahead(ahead, &here->err);
    file_close_quietly(lock);
    return ok;
}

static void
push_ahead_of(Served *here, uint64_t number, size_t count)
{
    if (!ahead_of(here, served_name(1, number), count))
        fail_msg("%s", here->err.message);
}

static bool
push(Served *here, const char *name, ArchivePushed *ret_pushed)
{
    Error trouble = ERROR_INIT;
    bool ok;

    here->err = ERROR_INIT;
    ok = archive_push_noted(asked(here, name, 8), ret_pushed, &trouble, &here->err);
    assert_int_equal(trouble.code, ERR_NONE);
    return ok;
}

static void
assert_pushed(Served *here, const char *name, ArchivePushed expected)
{
    ArchivePushed pushed;

    if (!push(here, name, &pushed))
        fail_msg("%s: %s", name, here->err.message);
    if (pushed != expected)
        fail_msg("%s: %d instead of %d", name, (int)pushed, (int)expected);
}

static void
assert_refused(Served *here, uint64_t number, const char *text)
{
    ArchivePushed pushed;

    assert_false(push(here, served_name(1, number), &pushed));
    if (strstr(here->err.message, text) == NULL)
        fail_msg("%s", here->err.message);
}

/* The numbers of the archive's segments, or of those that there are notes about, in no order. */
static void
assert_numbers(Served *here, const char *directory, const char *expected)
{
    DIR *dir = opendir(temp_dir_path(&here->dir, directory));
    const struct dirent *entry;
    size_t found = 0;

    assert_non_null(dir);
    while ((entry = dir_next(dir)) != NULL) {
        size_t len = strlen(entry->d_name);

        if (len < SEGMENT_NAME_LEN)
            continue;
        if (strchr(expected, entry->d_name[len - 1]) == NULL)
            fail_msg("%s has %s", directory, entry->d_name);
        found++;
    }
    (void)closedir(dir);
    assert_int_equal(found, strlen(expected));
}

/* The path of the only note, below the directory. */
static const char *
only_note(Served *here)
{
    static char path[128];
    DIR *dir = opendir(temp_dir_path(&here->dir, SPOOL));
    const struct dirent *entry;

    path[0] = '\0';
    assert_non_null(dir);
    while ((entry = dir_next(dir)) != NULL) {
        if (strstr(entry->d_name, "lock") == NULL)
            (void)snprintf(path, sizeof path, SPOOL "/%.64s", entry->d_name);
    }
    (void)closedir(dir);
    assert_string_not_equal(path, "");
    return path;
}

static void
test_ahead(void **state)
{
    Served *here = *state;

    for (uint64_t number = 1; number <= SERVED_LAST; number++)
        put_segment(here, number);
    assert_pushed(here, served_name(1, 1), ARCHIVE_PUSHED);
    push_ahead_of(here, 1, 3);
    assert_numbers(here, "archive", "1234");
    assert_numbers(here, SPOOL, "234");
    done(here, 1);
    assert_pushed(here, served_name(1, 2), ARCHIVE_WAS_NOTED);
    done(here, 2);
    push_ahead_of(here, 2, 3);
    assert_numbers(here, "archive", "12345");
    assert_numbers(here, SPOOL, "345");
    /* The server has crashed, and asks again for what it was told. */
    assert_pushed(here, served_name(1, 3), ARCHIVE_WAS_NOTED);
    assert_pushed(here, served_name(1, 3), ARCHIVE_WAS_NOTED);
    assert_pushed(here, served_name(1, 2), ARCHIVE_HAD_IT);
    assert_numbers(here, SPOOL, "345");
    for (uint64_t number = 1; number <= 5; number++)
        assert_served(here, served_name(1, number), served_segment(here, number));
}

/* In the server's order, and nothing but its files. */
static void
test_what_is_ready(void **state)
{
    static const char history[] = "1\t0/580000\tno recovery target specified\n";
    Served *here = *state;

    put_segment(here, 1);
    put_segment(here, 3);
    put_ready(here, "000000010000000000000002.partial", served_segment(here, 2));
    put_ready(here, "000000010000000000000001.00000028.backup", span_of("START"));
    put_ready(here, "00000002.history", span_of(history));
    put_ready(here, "stray", span_of("x"));
    put_ready(here, "000000010000000000000001.gz", span_of("x"));
    temp_dir_write(&here->dir, STATUS "000000010000000000000004.done", "", 0);
    temp_dir_write(&here->dir, STATUS ".ready", "", 0);
    push_ahead_of(here, 1, 1);
    assert_true(temp_dir_exists(&here->dir, "archive/00000002.history"));
    assert_false(temp_dir_exists(&here->dir, "archive/000000010000000000000001.00000028.backup"));
    push_ahead_of(here, 1, 3);
    assert_true(temp_dir_exists(&here->dir, "archive/000000010000000000000001.00000028.backup"));
    assert_true(temp_dir_exists(&here->dir, "archive/000000010000000000000002.partial"));
    assert_numbers(here, "archive", "pl");
    push_ahead_of(here, 1, 8);
    assert_numbers(here, "archive", "pl3");
    assert_pushed(here, "00000002.history", ARCHIVE_WAS_NOTED);
    assert_pushed(here, "000000010000000000000002.partial", ARCHIVE_WAS_NOTED);
    assert_pushed(here, "000000010000000000000001.00000028.backup", ARCHIVE_WAS_NOTED);
}

static void
note_about_2(Served *here)
{
    put_segment(here, 2);
    push_ahead_of(here, 1, 8);
    assert_numbers(here, SPOOL, "2");
}

/* A cluster that was restored has other content under the same name. */
static void
test_other_source(void **state)
{
    Served *here = *state;
    const char *path = WAL "000000010000000000000002";
    struct stat st;
    Buf content;

    note_about_2(here);
    assert_int_equal(stat(temp_dir_path(&here->dir, path), &st), 0);
    content = temp_dir_read(&here->dir, path);
    content.data[MB - 1] ^= 1;
    temp_dir_write(&here->dir, path, content.data, content.len);
    buf_free(&content);
    /* Even with its time put back. */
    assert_int_equal(utimensat(AT_FDCWD, temp_dir_path(&here->dir, path),
                               (struct timespec[]){st.st_atim, st.st_mtim}, 0),
                     0);
    assert_refused(here, 2, "has other content");
    assert_served(here, served_name(1, 2), served_segment(here, 2));
}

static void
test_other_archive(void **state)
{
    Served *here = *state;
    const char *path = "archive/000000010000000000000002";
    Buf content;

    note_about_2(here);
    assert_int_equal(unlink(temp_dir_path(&here->dir, path)), 0);
    assert_pushed(here, served_name(1, 2), ARCHIVE_PUSHED);
    assert_served(here, served_name(1, 2), served_segment(here, 2));

    push_ahead_of(here, 1, 8);
    content = temp_dir_read(&here->dir, path);
    content.data[MB / 2] ^= 1;
    temp_dir_write(&here->dir, path, content.data, content.len);
    buf_free(&content);
    assert_refused(here, 2, "has other content");
    assert_int_equal(unlink(temp_dir_path(&here->dir, path)), 0);

    /* Another form beside it, which is not the same. */
    push_ahead_of(here, 1, 8);
    temp_dir_write(&here->dir, "archive/000000010000000000000002.gz", "x", 1);
    assert_refused(here, 2, "is damaged");
    assert_int_equal(unlink(temp_dir_path(&here->dir, "archive/000000010000000000000002.gz")), 0);

    /* Another directory in its place: it is not mounted, say. */
    push_ahead_of(here, 1, 8);
    assert_int_equal(
        rename(temp_dir_path(&here->dir, "archive"), temp_dir_path(&here->dir, "archive.moved")),
        0);
    temp_dir_mkdir(&here->dir, "archive");
    assert_int_equal(link(temp_dir_path(&here->dir, "archive.moved/000000010000000000000002"),
                          temp_dir_path(&here->dir, path)),
                     0);
    assert_pushed(here, served_name(1, 2), ARCHIVE_HAD_IT);
}

/* Each byte of it counts; one that was not written to its end is none. */
static void
test_damaged_note(void **state)
{
    Served *here = *state;
    const char *path;
    Buf note;

    note_about_2(here);
    path = only_note(here);
    note = temp_dir_read(&here->dir, path);
    for (size_t i = 0; i < note.len; i += 3) {
        note.data[i] ^= 1;
        temp_dir_write(&here->dir, path, note.data, note.len);
        assert_pushed(here, served_name(1, 2), ARCHIVE_HAD_IT);
        note.data[i] ^= 1;
        temp_dir_write(&here->dir, path, note.data, i);
        assert_pushed(here, served_name(1, 2), ARCHIVE_HAD_IT);
        assert_false(temp_dir_exists(&here->dir, path));
    }
    temp_dir_write(&here->dir, path, note.data, note.len);
    assert_pushed(here, served_name(1, 2), ARCHIVE_WAS_NOTED);
    buf_free(&note);
}

/* It is told when the server gets there, and ends what is done ahead: the server itself gets no
 * further. */
static void
test_failure(void **state)
{
    Served *here = *state;

    put_segment(here, 2);
    put_ready(here, served_name(1, 3), span_of("no segment"));
    assert_false(ahead_of(here, served_name(1, 1), 8));
    assert_int_equal(here->err.code, ERR_FORMAT);
    assert_numbers(here, "archive", "2");
    assert_numbers(here, SPOOL, "2");
    assert_refused(here, 3, "is not the WAL segment that its name says");
    assert_pushed(here, served_name(1, 2), ARCHIVE_WAS_NOTED);
}

static void
test_one_at_a_time(void **state)
{
    Served *here = *state;
    const ArchiveAhead *ahead = asked(here, served_name(1, 1), 8);
    int first;
    int second;

    assert_true(archive_ahead_open(ahead, &first, &here->err));
    assert_true(first >= 0);
    assert_true(archive_ahead_open(ahead, &second, &here->err));
    assert_int_equal(second, -1);
    file_close_quietly(first);
    assert_true(archive_ahead_open(ahead, &second, &here->err));
    assert_true(second >= 0);
    file_close_quietly(second);
}

/* The server has got to a file itself: the others are pushed. */
static void
test_server_is_at_it(void **state)
{
    Served *here = *state;
    char path[128];
    int fd;

    note_about_2(here);
    (void)snprintf(path, sizeof path, "%s", only_note(here));
    assert_int_equal(unlink(temp_dir_path(&here->dir, "archive/000000010000000000000002")), 0);
    temp_dir_write(&here->dir, path, "", 0);
    fd = file_open(temp_dir_path(&here->dir, path), O_RDWR, 0, &here->err);
    assert_int_equal(flock(fd, LOCK_EX), 0);
    put_segment(here, 3);
    push_ahead_of(here, 1, 8);
    assert_numbers(here, "archive", "3");
    file_close_quietly(fd);
    push_ahead_of(here, 1, 8);
    assert_numbers(here, "archive", "23");
}

typedef struct Server {
    const ArchiveAhead *ahead;
    atomic_bool done;
    bool ok;
    ArchivePushed pushed;
    Error trouble;
    Error err;
} Server;

static void *
run_server(void *ctx)
{
    Server *server = ctx;

    server->ok = archive_push_noted(server->ahead, &server->pushed, &server->trouble, &server->err);
    atomic_store(&server->done, true);
    return NULL;
}

/* Whether somebody waits for the lock of this file. */
static bool
is_awaited(const char *path)
{
    Buf locks = BUF_INIT;
    Error err = ERROR_INIT;
    struct stat st;
    char inode[32];
    bool found = false;

    assert_int_equal(stat(path, &st), 0);
    (void)snprintf(inode, sizeof inode, ":%llu ", (unsigned long long)st.st_ino);
    assert_true(file_load("/proc/locks", 1 << 20, &locks, &err));
    for (const char *at = buf_text(&locks); !found && (at = strstr(at, "-> FLOCK")) != NULL; at++) {
        const char *end = strchr(at, '\n');
        const char *file = strstr(at, inode);

        found = file != NULL && (end == NULL || file < end);
    }
    buf_free(&locks);
    return found;
}

/* Of two who write one file the second would fail, and the server with it. */
static void
test_server_waits(void **state)
{
    Served *here = *state;
    Server server = {.trouble = ERROR_INIT, .err = ERROR_INIT};
    const char *path;
    pthread_t thread;
    int fd;

    note_about_2(here);
    path = temp_dir_path(&here->dir, only_note(here));
    server.ahead = asked(here, served_name(1, 2), 8);
    fd = file_open(path, O_RDWR, 0, &here->err);
    assert_int_equal(flock(fd, LOCK_EX), 0);
    assert_int_equal(pthread_create(&thread, NULL, run_server, &server), 0);
    while (!atomic_load(&server.done) && !is_awaited(path))
        (void)sched_yield();
    assert_false(atomic_load(&server.done));
    file_close_quietly(fd);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_true(server.ok);
    assert_int_equal(server.trouble.code, ERR_NONE);
    assert_int_equal(server.pushed, ARCHIVE_WAS_NOTED);
}

static void
assert_spool_unused(Served *here, const char *text)
{
    Error trouble = ERROR_INIT;
    ArchivePushed pushed;
    int lock;

    if (!archive_push_noted(asked(here, served_name(1, 2), 8), &pushed, &trouble, &here->err))
        fail_msg("%s", here->err.message);
    assert_int_not_equal(pushed, ARCHIVE_WAS_NOTED);
    if (strstr(trouble.message, text) == NULL)
        fail_msg("%s", trouble.message);
    trouble = ERROR_INIT;
    assert_false(archive_ahead_open(asked(here, served_name(1, 2), 8), &lock, &trouble));
}

static void
test_no_spool(void **state)
{
    Served *here = *state;
    const char *path = temp_dir_path(&here->dir, SPOOL);

    note_about_2(here);
    assert_int_equal(chmod(path, 0777), 0);
    assert_spool_unused(here, "others may write to");
    assert_int_equal(rename(path, temp_dir_path(&here->dir, "elsewhere")), 0);
    temp_dir_write(&here->dir, SPOOL, "", 0);
    assert_spool_unused(here, "is not a directory");
    assert_int_equal(unlink(path), 0);
    assert_int_equal(symlink("elsewhere", path), 0);
    assert_spool_unused(here, "is not a directory");
}

static void
test_two_clusters(void **state)
{
    Served *here = *state;
    const ArchiveAhead *ahead;
    ArchivePush other;
    Error trouble = ERROR_INIT;
    ArchivePushed pushed;
    WalBuilder wal;
    Span content;

    note_about_2(here);
    served_other_wal(&wal, 4711, 1);
    content = wal_builder_span(&wal, 2 * MB, 3 * MB);
    temp_dir_mkdir(&here->dir, "other");
    temp_dir_mkdir(&here->dir, "archive2");
    temp_dir_write(&here->dir, "other/000000010000000000000002", content.data, content.len);
    ahead = asked(here, served_name(1, 2), 8);
    other = *ahead->push;
    other.path = temp_dir_path(&here->dir, "other/000000010000000000000002");

    /* By mistake into the same archive. */
    assert_false(archive_push_noted(&(ArchiveAhead){.push = &other, .spool = ahead->spool}, &pushed,
                                    &trouble, &here->err));
    assert_non_null(strstr(here->err.message, "has other content"));
    here->err = ERROR_INIT;
    other.directory = temp_dir_path(&here->dir, "archive2");
    assert_true(archive_push_noted(&(ArchiveAhead){.push = &other, .spool = ahead->spool}, &pushed,
                                   &trouble, &here->err));
    assert_int_equal(pushed, ARCHIVE_PUSHED);
    assert_int_equal(trouble.code, ERR_NONE);
    assert_pushed(here, served_name(1, 2), ARCHIVE_WAS_NOTED);
    wal_builder_free(&wal);
}

static int
set_up(void **state)
{
    int result = served_set_up(state);
    Served *here = *state;

    temp_dir_mkdir(&here->dir, "data/pg_wal/archive_status");
    return result;
}

int
main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, served_tear_down)
    const struct CMUnitTest tests[] = {
        TEST(test_ahead),         TEST(test_what_is_ready),   TEST(test_other_source),
        TEST(test_other_archive), TEST(test_damaged_note),    TEST(test_failure),
        TEST(test_one_at_a_time), TEST(test_server_is_at_it), TEST(test_server_waits),
        TEST(test_no_spool),      TEST(test_two_clusters),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
