/*
 * tar_writer: what came as tar leaves as it came, byte by byte; what did not gets headers like the
 * server's, which other tars read. However the bytes are cut, and on whichever thread.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "stream/stage.h"
#include "stream/tar.h"
#include "support/chunker.h"
#include "support/recorder.h"
#include "support/tar_builder.h"
#include "support/temp_dir.h"

static const Archive base = {.name = "base.tar"};
static const TarOwner owner = {.uid = 999, .gid = 999}; /* as tar_builder has it */

static const size_t pieces[] = {0, 1, 7, 511, 512, 513, 1024, 4096};

/* ---- tar in, tar out ---- */

/* Where in the chain there are threads. */
enum { CUT_BEFORE = 1, CUT_BETWEEN = 2, CUT_AFTER = 4, CUTS = 8 };

static void
rewrite(Recording *recording, Span tar, size_t piece, unsigned cuts, TarEnd end)
{
    const HandoffConfig small = {.block_size = 700, .block_count = 2};
    Error err = ERROR_INIT;
    Sink *sink = recorder_new(recording, &err);

    if ((cuts & CUT_AFTER) != 0)
        sink = handoff_new(sink, &small, &err);
    sink = tar_writer_new(sink, &owner, &err);
    if ((cuts & CUT_BETWEEN) != 0)
        sink = handoff_new(sink, &small, &err);
    sink = tar_reader_new(sink, end, &err);
    if ((cuts & CUT_BEFORE) != 0)
        sink = handoff_new(sink, &small, &err);
    assert_non_null(sink);
    if (!chunk_archive(sink, &base, tar, piece, &err) || !sink_finish(sink, &err))
        fail_msg("%s", err.message);
    sink_free(sink);
    assert_int_equal(recording->released, 1);
}

static void
expect_rewritten(const Buf *tar, const Buf *expected, TarEnd end)
{
    for (size_t i = 0; i < sizeof pieces / sizeof pieces[0]; i++) {
        for (unsigned cuts = 0; cuts < CUTS; cuts++) {
            Recording recording = RECORDING_INIT;

            rewrite(&recording, tar_span(tar), pieces[i], cuts, end);
            assert_int_equal(recording.bytes.len, expected->len);
            assert_memory_equal(recording.bytes.data, expected->data, expected->len);
            recording_free(&recording);
        }
    }
}

/* As the server sends it, in little. */
static void
add_server_members(Buf *tar)
{
    static char content[1300];

    for (size_t i = 0; i < sizeof content; i++)
        content[i] = (char)('a' + i % 26);
    tar_add(tar, &(TarMember){TAR_FILE("backup_label", "START WAL LOCATION\n"), .mtime = 5});
    tar_add(tar, &(TarMember){TAR_DIRECTORY("base/"), .mode = 0750});
    tar_add(tar, &(TarMember){.name = "base/5/1259", .data = content, .size = 1300, .mode = 0640});
    tar_add(tar, &(TarMember){.name = "base/5/empty"});
    tar_add(tar, &(TarMember){.name = "base/5/block", .data = content, .size = 512});
    tar_add(tar, &(TarMember){TAR_DIRECTORY("./pg_wal/archive_status/")});
    tar_add(tar, &(TarMember){TAR_SYMLINK("pg_tblspc/16385/", "/srv/ts"), .mode = 0777});
    tar_add(tar, &(TarMember){.name = "global/pg_control", .data = content, .size = 513});
}

static void
test_archive_of_the_server_comes_out_unchanged(void **state)
{
    Buf tar = BUF_INIT;

    (void)state;
    add_server_members(&tar);
    tar_end(&tar);
    expect_rewritten(&tar, &tar, TAR_END_REQUIRED);
    buf_free(&tar);
}

static void
test_archives_of_other_tars_come_out_unchanged(void **state)
{
    char name[101];
    Buf tar = BUF_INIT;

    (void)state;
    memset(name, 'n', 100); /* more than the server would write */
    name[100] = '\0';
    tar_add(&tar, &(TarMember){TAR_FILE("b", "prefixed"), .prefix = "a/very/long/way"});
    tar_add(&tar, &(TarMember){TAR_FILE("./gnu", "x"), .magic = TAR_MAGIC_GNU});
    tar_add(&tar, &(TarMember){TAR_FILE("loose", "y"), .magic = TAR_MAGIC_LOOSE});
    tar_add(&tar, &(TarMember){TAR_FILE("large numbers", "z"), .base256 = true});
    tar_add(&tar, &(TarMember){TAR_FILE("old", "file"), .type = TAR_TYPE_NUL});
    tar_add(&tar, &(TarMember){TAR_DIRECTORY("no slash"), .mtime = -1});
    tar_add(&tar, &(TarMember){TAR_SYMLINK("link", name)});
    tar_add(&tar, &(TarMember){.name = name, .prefix = name});
    tar_end(&tar);
    expect_rewritten(&tar, &tar, TAR_END_REQUIRED);
    buf_free(&tar);
}

static void
test_two_end_blocks_in_any_case(void **state)
{
    Buf tar = BUF_INIT;
    Buf expected = BUF_INIT;

    (void)state;
    add_server_members(&tar);
    add_server_members(&expected);
    tar_end(&expected);
    expect_rewritten(&tar, &expected, TAR_END_OPTIONAL);
    tar_zeros(&tar, 13);
    expect_rewritten(&tar, &expected, TAR_END_REQUIRED);
    expected.len = 0;
    tar_end(&expected);
    tar.len = 0;
    expect_rewritten(&tar, &expected, TAR_END_OPTIONAL);
    buf_free(&tar);
    buf_free(&expected);
}

/* ---- entries made here ---- */

static bool
put_file(Sink *sink, const char *path, Span content, Error *err)
{
    Entry entry = {
        .kind = ENTRY_FILE, .path = path, .size = content.len, .mode = 0600, .mtime = 1700000000};

    return sink_entry_begin(sink, &entry, err) && sink_data(sink, content, err) &&
           sink_entry_end(sink, true, err);
}

static bool
put_other(Sink *sink, const Entry *entry, Error *err)
{
    return sink_entry_begin(sink, entry, err) && sink_entry_end(sink, true, err);
}

static const Entry directory = {
    .kind = ENTRY_DIRECTORY, .path = "pg_wal", .mode = 0700, .mtime = 1700000000};
static const Entry symlink_entry = {.kind = ENTRY_SYMLINK,
                                    .path = "pg_tblspc/16385",
                                    .link_target = "/srv/ts",
                                    .mode = 0777,
                                    .mtime = 1700000000};

static void
test_entries_without_a_header(void **state)
{
    static const size_t sizes[] = {0, 1, 511, 512, 513, 1024, 3000};
    static uint8_t content[3000];
    Recording recording = RECORDING_INIT;
    Error err = ERROR_INIT;
    Sink *sink = tar_writer_new(recorder_new(&recording, &err), &owner, &err);
    Buf expected = BUF_INIT;

    (void)state;
    memset(content, 0xee, sizeof content); /* padding shows */
    assert_true(sink_archive_begin(sink, &base, &err));
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        tar_add(&expected, &(TarMember){.name = "f", .data = content, .size = sizes[i]});
        assert_true(put_file(sink, "f", (Span){.data = content, .len = sizes[i]}, &err));
    }
    tar_add(&expected, &(TarMember){TAR_DIRECTORY("pg_wal/")});
    tar_add(&expected, &(TarMember){TAR_SYMLINK("pg_tblspc/16385/", "/srv/ts"), .mode = 0777});
    tar_end(&expected);
    assert_true(put_other(sink, &directory, &err));
    assert_true(put_other(sink, &symlink_entry, &err));
    assert_true(sink_archive_end(sink, &err));
    assert_true(sink_finish(sink, &err));
    assert_int_equal(recording.bytes.len, expected.len);
    assert_memory_equal(recording.bytes.data, expected.data, expected.len);
    sink_free(sink);
    recording_free(&recording);
    buf_free(&expected);
}

/* Its headers, that is: nobody sends that many bytes here. */
static void
test_sizes_beyond_octal(void **state)
{
    static const uint64_t sizes[] = {((uint64_t)1 << 33) - 1, (uint64_t)1 << 33, TAR_SIZE_MAX};

    (void)state;
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        uint8_t expected[TAR_BUILDER_BLOCK];
        Recording recording = RECORDING_INIT;
        Error err = ERROR_INIT;
        Sink *sink = tar_writer_new(recorder_new(&recording, &err), &owner, &err);
        Entry entry = {
            .kind = ENTRY_FILE, .path = "f", .size = sizes[i], .mode = 0600, .mtime = 1700000000};

        tar_build_header(expected, &(TarMember){.name = "f", .claim = sizes[i]});
        assert_true(sink_archive_begin(sink, &base, &err));
        assert_true(sink_entry_begin(sink, &entry, &err));
        assert_int_equal(recording.bytes.len, sizeof expected);
        assert_memory_equal(recording.bytes.data, expected, sizeof expected);
        sink_free(sink);
        recording_free(&recording);
    }
}

static void
test_several_archives_and_flush(void **state)
{
    Recording recording = RECORDING_INIT;
    Error err = ERROR_INIT;
    Sink *sink = tar_writer_new(recorder_new(&recording, &err), &owner, &err);

    (void)state;
    assert_true(sink_archive_begin(sink, &base, &err));
    assert_true(sink_archive_end(sink, &err));
    assert_true(sink_archive_begin(sink, &(Archive){.name = "1.tar", .tablespace = 1}, &err));
    assert_true(sink_entry_begin(
        sink, &(Entry){.path = "f", .size = 2, .mode = 0600, .mtime = 1700000000}, &err));
    assert_true(sink_data(sink, span_of("a"), &err));
    assert_true(sink_flush(sink, 3, &err));
    assert_true(sink_data(sink, span_of("b"), &err));
    assert_true(sink_entry_end(sink, true, &err));
    assert_true(sink_archive_end(sink, &err));
    assert_true(sink_finish(sink, &err));
    assert_string_equal(recording_text(&recording), "archive base.tar 0\n"
                                                    "data 1024 crc=EEAEDE7C\n"
                                                    "archive end\n"
                                                    "archive 1.tar 1\n"
                                                    "data 513 crc=BC272CD6\n"
                                                    "flush 0/3\n"
                                                    "data 1535 crc=313CE2DB\n"
                                                    "archive end\n"
                                                    "finish\n");
    sink_free(sink);
    recording_free(&recording);
}

/* ---- entries changed on their way ---- */

/* A stage that gives one entry another content, time and mode. */
typedef struct Changer {
    Sink sink;
    const char *path;
    const char *content;
    bool here;
} Changer;

static bool
changer_push(Sink *self, const Event *event, Error *err)
{
    Changer *changer = (Changer *)self;

    if (event->kind == EVENT_ENTRY_BEGIN && strcmp(event->entry->path, changer->path) == 0) {
        Entry entry = *event->entry;

        changer->here = true;
        entry.size = strlen(changer->content);
        entry.mode = 0600;
        entry.mtime = 1800000000;
        return sink_entry_begin(self->next, &entry, err) &&
               sink_data(self->next, span_of(changer->content), err);
    }
    if (event->kind == EVENT_DATA && changer->here)
        return true;
    if (event->kind == EVENT_ENTRY_END)
        changer->here = false;
    return sink_forward(self, event, err);
}

static const SinkOps changer_ops = {.name = "changer", .push = changer_push};

static void
test_changed_entry_keeps_what_has_not_changed(void **state)
{
    Recording recording = RECORDING_INIT;
    Error err = ERROR_INIT;
    Sink *sink = tar_writer_new(recorder_new(&recording, &err), &(TarOwner){.uid = 1}, &err);
    Changer *changer = sink_alloc(sizeof *changer, &changer_ops, sink, &err);
    Buf tar = BUF_INIT;
    Buf expected = BUF_INIT;

    (void)state;
    changer->path = "dir/postgresql.auto.conf";
    changer->content = "primary_conninfo = ''\n";
    tar_add(&tar, &(TarMember){TAR_FILE("a", "before")});
    tar_add(&tar, &(TarMember){TAR_FILE("postgresql.auto.conf", "# old\n"), .prefix = "dir",
                               .mode = 0640, .magic = TAR_MAGIC_POSIX});
    tar_add(&tar, &(TarMember){TAR_FILE("z", "after")});
    tar_end(&tar);
    tar_add(&expected, &(TarMember){TAR_FILE("a", "before")});
    tar_add(&expected, &(TarMember){TAR_FILE("postgresql.auto.conf", "primary_conninfo = ''\n"),
                                    .prefix = "dir", .mode = 0600, .mtime = 1800000000});
    tar_add(&expected, &(TarMember){TAR_FILE("z", "after")});
    tar_end(&expected);
    sink = tar_reader_new(&changer->sink, TAR_END_REQUIRED, &err);
    assert_true(chunk_archive(sink, &base, tar_span(&tar), 300, &err));
    assert_true(sink_finish(sink, &err));
    assert_int_equal(recording.bytes.len, expected.len);
    assert_memory_equal(recording.bytes.data, expected.data, expected.len);
    sink_free(sink);
    recording_free(&recording);
    buf_free(&tar);
    buf_free(&expected);
}

/* ---- another tar as the judge ---- */

/* False when there is none. Its messages show among the test's. */
static bool
run_tar(const char *archive, const char *into)
{
    const int missing = 127;
    pid_t child = fork();
    int status = -1;

    if (child == 0) {
        (void)execlp("tar", "tar", "-x", "-p", "--no-same-owner", "-f", archive, "-C", into,
                     (char *)NULL);
        _exit(missing);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    if (WEXITSTATUS(status) == missing)
        return false;
    assert_int_equal(WEXITSTATUS(status), 0);
    return true;
}

static void
expect_file(TempDir *dir, const char *name, const char *text, mode_t mode, int64_t mtime)
{
    Buf content = temp_dir_read(dir, name);
    struct stat st;

    assert_string_equal(buf_text(&content), text);
    assert_int_equal(stat(temp_dir_path(dir, name), &st), 0);
    assert_int_equal(st.st_mode, S_IFREG | mode);
    assert_true(st.st_mtime == mtime);
    buf_free(&content);
}

static void
test_other_tars_read_it(void **state)
{
    Recording recording = RECORDING_INIT;
    Error err = ERROR_INIT;
    Sink *sink = tar_writer_new(recorder_new(&recording, &err), &(TarOwner){04000, 02000}, &err);
    char long_path[4 + 99 + 1] = "out/";
    const char *long_name = long_path + 4;
    char target[100];
    TempDir dir;

    (void)state;
    memset(long_path + 4, 'n', 99);
    memset(target, 't', 99);
    target[99] = '\0';
    target[0] = '/';
    assert_true(sink_archive_begin(sink, &base, &err));
    assert_true(put_other(sink, &directory, &err));
    assert_true(put_file(sink, "pg_wal/x", span_of("wal"), &err));
    assert_true(put_file(sink, long_name, span_of(target), &err));
    assert_true(put_other(
        sink, &(Entry){.kind = ENTRY_SYMLINK, .path = "link", .link_target = target, .mtime = 1},
        &err));
    assert_true(sink_entry_begin(sink, &(Entry){.path = "0640", .mode = 0640, .mtime = 7}, &err));
    assert_true(sink_entry_end(sink, true, &err));
    assert_true(sink_archive_end(sink, &err));

    temp_dir_make(&dir);
    temp_dir_mkdir(&dir, "out");
    temp_dir_write(&dir, "archive", recording.bytes.data, recording.bytes.len);
    if (run_tar(temp_dir_path(&dir, "archive"), temp_dir_path(&dir, "out"))) {
        assert_int_equal(temp_dir_mode(&dir, "out/pg_wal"), S_IFDIR | 0700);
        expect_file(&dir, "out/pg_wal/x", "wal", 0600, 1700000000);
        expect_file(&dir, "out/0640", "", 0640, 7);
        assert_string_equal(temp_dir_link(&dir, "out/link"), target);
        expect_file(&dir, long_path, target, 0600, 1700000000);
    }
    temp_dir_remove(&dir);
    sink_free(sink);
    recording_free(&recording);
}

/* ---- what does not fit ---- */

/* The entry, then its data, and then its end: the last of them fails with this. */
static void
expect_refused(const Entry *entry, const char *data, bool complete, ErrorCode code,
               const char *message)
{
    Recording recording = RECORDING_INIT;
    Error err = ERROR_INIT;
    Error again = ERROR_INIT;
    Sink *sink = tar_writer_new(recorder_new(&recording, &err), &owner, &err);

    assert_true(sink_archive_begin(sink, &base, &err));
    assert_false(sink_entry_begin(sink, entry, &err) && sink_data(sink, span_of(data), &err) &&
                 sink_entry_end(sink, complete, &err));
    assert_string_equal(err.message, message);
    assert_int_equal(err.code, code);
    assert_false(sink_finish(sink, &again));
    assert_memory_equal(&again, &err, sizeof err);
    assert_null(strstr(recording_text(&recording), "archive end"));
    sink_free(sink);
    assert_int_equal(recording.released, 1);
    recording_free(&recording);
}

static void
test_wrong_amount_of_data(void **state)
{
    const Entry file = {.kind = ENTRY_FILE, .path = "f", .size = 5};

    (void)state;
    expect_refused(&file, "1234", true, ERR_FORMAT,
                   "archive \"base.tar\": member \"f\" got 4 of its 5 bytes");
    expect_refused(&file, "123456", true, ERR_FORMAT,
                   "archive \"base.tar\": member \"f\" gets more than its 5 bytes");
    expect_refused(&directory, "1", true, ERR_FORMAT,
                   "archive \"base.tar\": member \"pg_wal\" gets more than its 0 bytes");
    expect_refused(&file, "12345", false, ERR_BUG,
                   "archive \"base.tar\": member \"f\" was cut short");
}

static void
test_entries_that_no_header_can_hold(void **state)
{
    char name[101];
    char message[400];
    uint8_t header[TAR_BLOCK];

    (void)state;
    memset(name, 'n', 100);
    name[100] = '\0';
    (void)snprintf(message, sizeof message,
                   "archive \"base.tar\": file name too long for tar format: \"%s\" has 100 bytes, "
                   "at most 99 fit",
                   name);
    expect_refused(&(Entry){.path = name}, "", true, ERR_UNSUPPORTED, message);
    (void)snprintf(message, sizeof message,
                   "archive \"base.tar\": symbolic link target too long for tar format: \"%s\" of "
                   "\"l\" has 100 bytes, at most 99 fit",
                   name);
    expect_refused(&(Entry){.kind = ENTRY_SYMLINK, .path = "l", .link_target = name}, "", true,
                   ERR_UNSUPPORTED, message);
    tar_build_header(header, &(TarMember){.name = "f"});
    expect_refused(&(Entry){.kind = ENTRY_DIRECTORY, .path = "f", .tar_header = header}, "", true,
                   ERR_BUG,
                   "archive \"base.tar\": \"f\" has the tar header of another kind of member");
}

static void
test_opaque_archive_is_a_bug(void **state)
{
    Recording recording = RECORDING_INIT;
    Error err = ERROR_INIT;
    Sink *sink = tar_writer_new(recorder_new(&recording, &err), &owner, &err);

    (void)state;
    assert_true(sink_archive_begin(sink, &base, &err));
    assert_false(sink_data(sink, span_of("tar"), &err));
    assert_int_equal(err.code, ERR_BUG);
    assert_string_equal(err.message, "tar_writer got archive \"base.tar\" without entries");
    sink_free(sink);
    recording_free(&recording);
}

/* ---- failures of others, and ends ---- */

static bool
push_some(Sink *sink, Error *err)
{
    return sink_archive_begin(sink, &base, err) && put_file(sink, "f", span_of("abc"), err) &&
           put_other(sink, &directory, err) && sink_flush(sink, 1, err) &&
           sink_archive_end(sink, err) && sink_finish(sink, err);
}

static void
test_failure_of_next_at_every_event(void **state)
{
    (void)state;
    /* begin, header, data, padding, header, flush, end blocks, end: then finish */
    for (size_t n = 1; n <= 9; n++) {
        Recording recording = RECORDING_INIT;
        Error err = ERROR_INIT;
        Sink *sink = tar_writer_new(recorder_new(&recording, &err), &owner, &err);

        recording.fail_at = n == 9 ? 0 : n;
        recording.fail_finish = n == 9;
        assert_false(push_some(sink, &err));
        assert_int_equal(err.sys_errno, EIO);
        assert_non_null(strstr(err.message, "injected failure"));
        assert_int_equal(recording.events, n == 9 ? 8 : n);
        sink_free(sink);
        assert_int_equal(recording.released, 1);
        recording_free(&recording);
    }
}

static void
test_abandoned_in_every_state(void **state)
{
    const Entry file = {.kind = ENTRY_FILE, .path = "f", .size = 2};

    (void)state;
    for (int steps = 0; steps < 6; steps++) {
        Recording recording = RECORDING_INIT;
        Error err = ERROR_INIT;
        Sink *sink = tar_writer_new(recorder_new(&recording, &err), &owner, &err);

        if (steps > 0)
            assert_true(sink_archive_begin(sink, &base, &err));
        if (steps > 1)
            assert_true(sink_entry_begin(sink, &file, &err));
        if (steps > 2)
            assert_true(sink_data(sink, span_of("ab"), &err));
        if (steps > 3)
            assert_true(sink_entry_end(sink, true, &err));
        if (steps > 4)
            assert_true(sink_archive_end(sink, &err));
        sink_free(sink);
        assert_false(recording.finished);
        assert_int_equal(recording.released, 1);
        recording_free(&recording);
    }
}

static void
test_no_next(void **state)
{
    Error err = ERROR_INIT;

    (void)state;
    (void)error_set(&err, ERR_MEMORY, "out of memory");
    assert_null(tar_writer_new(NULL, &owner, &err));
    assert_int_equal(err.code, ERR_MEMORY);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_archive_of_the_server_comes_out_unchanged),
        cmocka_unit_test(test_archives_of_other_tars_come_out_unchanged),
        cmocka_unit_test(test_two_end_blocks_in_any_case),
        cmocka_unit_test(test_entries_without_a_header),
        cmocka_unit_test(test_sizes_beyond_octal),
        cmocka_unit_test(test_several_archives_and_flush),
        cmocka_unit_test(test_changed_entry_keeps_what_has_not_changed),
        cmocka_unit_test(test_other_tars_read_it),
        cmocka_unit_test(test_wrong_amount_of_data),
        cmocka_unit_test(test_entries_that_no_header_can_hold),
        cmocka_unit_test(test_opaque_archive_is_a_bug),
        cmocka_unit_test(test_failure_of_next_at_every_event),
        cmocka_unit_test(test_abandoned_in_every_state),
        cmocka_unit_test(test_no_next),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
