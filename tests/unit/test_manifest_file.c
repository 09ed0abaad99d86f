/*
 * backup_manifest on its way to disk: under its temporary name until the very end, checked as it
 * passes; nothing of an archive under either name; and the manifest as an archive's last entry.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include <cmocka.h>

#include "basebackup/internal.h"
#include "support/manifest_builder.h"
#include "support/recorder.h"
#include "support/temp_dir.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

typedef struct Here {
    TempDir dir;
    Buf text;
    ManifestFileWriter *writer;
    Error err;
} Here;

static int
set_up(void **state)
{
    Here *here = calloc(1, sizeof *here);
    ManifestBuilder builder;

    if (here == NULL)
        return -1;
    temp_dir_make(&here->dir);
    manifest_builder_begin(&builder, 2, 77);
    manifest_builder_file(&builder, "PG_VERSION", "18\n", 3, CHECKSUM_CRC32C);
    manifest_builder_file(&builder, "base/1/1247", "rows", 4, CHECKSUM_CRC32C);
    manifest_builder_finish(&builder, &here->text);
    *state = here;
    return 0;
}

static int
tear_down(void **state)
{
    Here *here = *state;

    manifest_file_free(here->writer);
    temp_dir_remove(&here->dir);
    buf_free(&here->text);
    free(here);
    return 0;
}

static void
open_writer(Here *here, mode_t mode)
{
    here->writer = manifest_file_new(here->dir.path, mode, &here->err);
    if (here->writer == NULL)
        fail_msg("%s", here->err.message);
}

static void
write_all(Here *here, size_t piece)
{
    for (size_t at = 0; at < here->text.len; at += piece) {
        size_t left = here->text.len - at;
        Span bytes = {.data = here->text.data + at, .len = left < piece ? left : piece};

        if (!manifest_file_write(here->writer, bytes, &here->err))
            fail_msg("%s", here->err.message);
    }
}

static void
assert_on_disk(Here *here, const char *name)
{
    Buf content = temp_dir_read(&here->dir, name);

    assert_string_equal(buf_text(&content), buf_text(&here->text));
    buf_free(&content);
}

static void
test_gets_its_name_at_the_end(void **state)
{
    static const size_t pieces[] = {1, 100, 100000};

    for (size_t i = 0; i < COUNT(pieces) * 2; i++) {
        bool sync = i % 2 != 0;
        Here *here = *state;
        const Manifest *manifest = NULL;

        open_writer(here, 0600);
        assert_true(temp_dir_exists(&here->dir, "backup_manifest.tmp"));
        write_all(here, pieces[i / 2]);
        assert_true(manifest_file_finish(here->writer, sync, &manifest, &here->err));
        assert_int_equal(manifest_file_count(manifest), 2);
        assert_int_equal(manifest_version(manifest), 2);
        assert_on_disk(here, "backup_manifest.tmp");
        assert_false(temp_dir_exists(&here->dir, "backup_manifest"));

        assert_true(manifest_file_publish(here->writer, sync, &here->err));
        assert_on_disk(here, "backup_manifest");
        assert_false(temp_dir_exists(&here->dir, "backup_manifest.tmp"));
        assert_int_equal(manifest_file_count(manifest), 2);
        manifest_file_free(here->writer);
        here->writer = NULL;
        assert_on_disk(here, "backup_manifest");
        temp_dir_remove(&here->dir);
        temp_dir_make(&here->dir);
    }
    manifest_file_free(NULL);
}

static void
test_mode_whatever_the_umask(void **state)
{
    static const mode_t modes[] = {0600, 0640};
    static const mode_t umasks[] = {0, 077, 0777};

    for (size_t i = 0; i < COUNT(modes) * COUNT(umasks); i++) {
        Here *here = *state;
        mode_t before = umask(umasks[i / COUNT(modes)]);

        open_writer(here, modes[i % COUNT(modes)]);
        (void)umask(before);
        assert_int_equal(temp_dir_mode(&here->dir, "backup_manifest.tmp") & 07777,
                         modes[i % COUNT(modes)]);
        manifest_file_free(here->writer);
        here->writer = NULL;
        temp_dir_remove(&here->dir);
        temp_dir_make(&here->dir);
    }
}

/* What came is kept, under no name that says that it is good. */
static void
test_given_up(void **state)
{
    Here *here = *state;
    Span part = {.data = here->text.data, .len = 100};
    Buf content;

    open_writer(here, 0600);
    assert_true(manifest_file_write(here->writer, part, &here->err));
    manifest_file_free(here->writer);
    here->writer = NULL;
    content = temp_dir_read(&here->dir, "backup_manifest.tmp");
    assert_int_equal(content.len, 100);
    buf_free(&content);
    assert_false(temp_dir_exists(&here->dir, "backup_manifest"));
}

static void
test_file_that_is_there(void **state)
{
    Here *here = *state;
    char message[4300];

    temp_dir_write(&here->dir, "backup_manifest.tmp", "mine", 4);
    assert_null(manifest_file_new(here->dir.path, 0600, &here->err));
    (void)snprintf(message, sizeof message, "could not create file \"%s\": %s",
                   temp_dir_path(&here->dir, "backup_manifest.tmp"), strerror(EEXIST));
    assert_string_equal(here->err.message, message);
    assert_int_equal(here->err.code, ERR_SYSTEM);
}

static void
test_no_directory(void **state)
{
    Here *here = *state;

    assert_null(manifest_file_new(temp_dir_path(&here->dir, "missing"), 0600, &here->err));
    assert_int_equal(here->err.sys_errno, ENOENT);
}

/* Something took the name meanwhile. */
static void
test_name_is_taken(void **state)
{
    Here *here = *state;
    const Manifest *manifest;

    open_writer(here, 0600);
    write_all(here, 1000);
    assert_true(manifest_file_finish(here->writer, true, &manifest, &here->err));
    temp_dir_mkdir(&here->dir, "backup_manifest");
    assert_false(manifest_file_publish(here->writer, true, &here->err));
    assert_int_equal(here->err.sys_errno, EISDIR);
    assert_on_disk(here, "backup_manifest.tmp");
}

static void
test_damage(void **state)
{
    Here *here = *state;
    const Manifest *manifest = NULL;
    uint8_t *digit = &here->text.data[here->text.len - 5];

    *digit = *digit == '0' ? '1' : '0';
    open_writer(here, 0600);
    write_all(here, 1000);
    assert_false(manifest_file_finish(here->writer, false, &manifest, &here->err));
    assert_string_equal(here->err.message, "manifest checksum mismatch");
    assert_int_equal(here->err.code, ERR_FORMAT);
    assert_null(manifest);
    /* It is on disk for whoever wants to look. */
    assert_on_disk(here, "backup_manifest.tmp");
}

static void
test_not_all_of_it(void **state)
{
    static const size_t lengths[] = {0, 1, 200};

    for (size_t i = 0; i < COUNT(lengths); i++) {
        Here *here = *state;
        const Manifest *manifest = NULL;

        open_writer(here, 0600);
        here->text.len = lengths[i];
        write_all(here, 1000);
        assert_false(manifest_file_finish(here->writer, true, &manifest, &here->err));
        assert_int_equal(here->err.code, ERR_FORMAT);
        assert_null(manifest);
        manifest_file_free(here->writer);
        here->writer = NULL;
        here->err = ERROR_INIT;
        temp_dir_remove(&here->dir);
        temp_dir_make(&here->dir);
    }
}

static void
test_garbage_is_noticed_at_once(void **state)
{
    Here *here = *state;

    open_writer(here, 0600);
    assert_false(manifest_file_write(here->writer, span_of("no manifest\n"), &here->err));
    assert_int_equal(here->err.code, ERR_FORMAT);
}

/* ---- the guard ---- */

static bool
push_entry(Sink *sink, Oid tablespace, EntryKind kind, const char *path, Error *err)
{
    const Archive archive = {.name = "archive.tar", .tablespace = tablespace};
    const Entry entry = {.kind = kind,
                         .path = path,
                         .mode = 0600,
                         .link_target = kind == ENTRY_SYMLINK ? "/x" : NULL};

    return sink_archive_begin(sink, &archive, err) && sink_entry_begin(sink, &entry, err) &&
           sink_entry_end(sink, true, err) && sink_archive_end(sink, err) && sink_finish(sink, err);
}

static void
test_guard_refuses_the_names(void **state)
{
    static const struct {
        EntryKind kind;
        const char *path;
    } cases[] = {
        {ENTRY_FILE, "backup_manifest"},
        {ENTRY_FILE, "backup_manifest.tmp"},
        {ENTRY_DIRECTORY, "backup_manifest"},
        {ENTRY_SYMLINK, "backup_manifest"},
        {ENTRY_FILE, "backup_manifest/file"},
        {ENTRY_DIRECTORY, "backup_manifest.tmp"},
        {ENTRY_FILE, "backup_manifest.tmp/a/file"},
        {ENTRY_FILE, "backup_bad_pages"},
        {ENTRY_DIRECTORY, "backup_bad_pages"},
        {ENTRY_FILE, "backup_bad_pages/file"},
    };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        Recording recording = RECORDING_INIT;
        Error err = ERROR_INIT;
        Sink *sink = manifest_guard_new(recorder_new(&recording, &err), GUARD_MANIFEST, &err);
        char message[200];

        assert_non_null(sink);
        assert_false(push_entry(sink, 0, cases[i].kind, cases[i].path, &err));
        (void)snprintf(message, sizeof message,
                       "the server's data directory has a file \"%s\", which is the name of the "
                       "backup's own",
                       cases[i].path);
        assert_string_equal(err.message, message);
        assert_int_equal(err.code, ERR_UNSUPPORTED);
        assert_non_null(strstr(err.hint, "remove it on the server"));
        assert_string_equal(recording_text(&recording), "archive archive.tar 0\n");
        sink_free(sink);
        recording_free(&recording);
    }
}

static void
test_guard_lets_all_else_pass(void **state)
{
    static const struct {
        Oid tablespace;
        const char *path;
        const char *recorded;
    } cases[] = {
        {0, "base/backup_manifest",
         "archive archive.tar 0\nfile base/backup_manifest size=0 mode=0600 mtime=0\nend complete\n"
         "archive end\nfinish\n"},
        {0, "backup_manifest2",
         "archive archive.tar 0\nfile backup_manifest2 size=0 mode=0600 mtime=0\nend complete\n"
         "archive end\nfinish\n"},
        {0, "backup_manifes",
         "archive archive.tar 0\nfile backup_manifes size=0 mode=0600 mtime=0\nend complete\n"
         "archive end\nfinish\n"},
        {0, "backup_label",
         "archive archive.tar 0\nfile backup_label size=0 mode=0600 mtime=0\nend complete\n"
         "archive end\nfinish\n"},
        {0, "backup_bad_page",
         "archive archive.tar 0\nfile backup_bad_page size=0 mode=0600 mtime=0\nend complete\n"
         "archive end\nfinish\n"},
        {0, "backup_bad_pages.txt",
         "archive archive.tar 0\nfile backup_bad_pages.txt size=0 mode=0600 mtime=0\nend complete\n"
         "archive end\nfinish\n"},
        {16385, "backup_bad_pages",
         "archive archive.tar 16385\nfile backup_bad_pages size=0 mode=0600 mtime=0\nend complete\n"
         "archive end\nfinish\n"},
        {16385, "backup_manifest",
         "archive archive.tar 16385\nfile backup_manifest size=0 mode=0600 mtime=0\nend complete\n"
         "archive end\nfinish\n"},
    };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        Recording recording = RECORDING_INIT;
        Error err = ERROR_INIT;
        Sink *sink = manifest_guard_new(recorder_new(&recording, &err), GUARD_MANIFEST, &err);

        assert_non_null(sink);
        assert_true(push_entry(sink, cases[i].tablespace, ENTRY_FILE, cases[i].path, &err));
        assert_string_equal(recording_text(&recording), cases[i].recorded);
        sink_free(sink);
        assert_int_equal(recording.released, 1);
        recording_free(&recording);
    }
}

/* Where those are written, and nowhere else. */
static void
test_guard_of_page_digests(void **state)
{
    static const char *const paths[] = {"backup_pages", "backup_pages.tmp", "backup_pages/a",
                                        "backup_manifest", "backup_bad_pages"};

    (void)state;
    for (size_t i = 0; i < COUNT(paths); i++) {
        for (int too = 0; too <= 1; too++) {
            Recording recording = RECORDING_INIT;
            Error err = ERROR_INIT;
            Sink *sink =
                manifest_guard_new(recorder_new(&recording, &err),
                                   too != 0 ? GUARD_PAGE_DIGESTS_TOO : GUARD_MANIFEST, &err);

            assert_non_null(sink);
            assert_int_equal(push_entry(sink, 0, ENTRY_FILE, paths[i], &err), too == 0 && i < 3);
            sink_free(sink);
            recording_free(&recording);
            if (err.code != ERR_NONE)
                assert_int_equal(err.code, ERR_UNSUPPORTED);
        }
    }
}

static void
test_guard_of_nothing(void **state)
{
    Error err = ERROR_INIT;

    (void)state;
    assert_null(manifest_guard_new(NULL, GUARD_MANIFEST, &err));
    assert_int_equal(err.code, ERR_NONE);
}

/* ---- in memory, for an archive ---- */

static void
open_in_memory(Here *here, mode_t mode)
{
    here->writer = manifest_file_new(NULL, mode, &here->err);
    if (here->writer == NULL)
        fail_msg("%s", here->err.message);
}

/* Up to its end, and with `publish` beyond. */
static void
complete_in_memory(Here *here, bool publish)
{
    const Manifest *manifest = NULL;

    write_all(here, 100);
    assert_true(manifest_file_finish(here->writer, false, &manifest, &here->err));
    assert_int_equal(manifest_file_count(manifest), 2);
    assert_true(!publish || manifest_file_publish(here->writer, false, &here->err));
}

/* What the stage gives for an archive that has one entry. */
static void
inject(Here *here, Oid tablespace, Recording *recording)
{
    Sink *sink = manifest_inject_new(recorder_new(recording, &here->err), here->writer, &here->err);

    assert_non_null(sink);
    recording->headers = true;
    if (!push_entry(sink, tablespace, ENTRY_FILE, "PG_VERSION", &here->err))
        fail_msg("%s", here->err.message);
    sink_free(sink);
    assert_int_equal(recording->released, 1);
}

#define ONE_ENTRY "file PG_VERSION size=0 mode=0600 mtime=0 header=none\nend complete\n"

static void
test_injected_as_the_last_entry(void **state)
{
    static const mode_t modes[] = {0600, 0640};

    for (size_t i = 0; i < COUNT(modes); i++) {
        Here *here = *state;
        Recording recording = RECORDING_INIT;
        long long before = (long long)time(NULL);
        const char *line;
        char expected[200];
        long long mtime;

        open_in_memory(here, modes[i]);
        complete_in_memory(here, true);
        inject(here, 0, &recording);
        (void)snprintf(expected, sizeof expected,
                       "archive archive.tar 0\n" ONE_ENTRY
                       "file backup_manifest size=%zu mode=%04o mtime=",
                       here->text.len, (unsigned)modes[i]);
        line = recording_text(&recording);
        assert_int_equal(strncmp(line, expected, strlen(expected)), 0);
        mtime = strtoll(line + strlen(expected), NULL, 10);
        assert_true(mtime >= before && mtime <= (long long)time(NULL));
        assert_non_null(strstr(line, " header=none\ndata "));
        assert_non_null(strstr(line, "\nend complete\narchive end\nfinish\n"));
        assert_int_equal(recording.bytes.len, here->text.len);
        assert_memory_equal(recording.bytes.data, here->text.data, here->text.len);
        recording_free(&recording);
        manifest_file_free(here->writer);
        here->writer = NULL;
    }
}

/* Wherever the pieces were cut that it came in. */
static void
test_kept_in_memory_as_it_came(void **state)
{
    static const size_t pieces[] = {1, 7, 100000};

    for (size_t i = 0; i < COUNT(pieces); i++) {
        Here *here = *state;
        Recording recording = RECORDING_INIT;
        const Manifest *manifest = NULL;

        open_in_memory(here, 0600);
        write_all(here, pieces[i]);
        assert_true(manifest_file_finish(here->writer, true, &manifest, &here->err));
        assert_true(manifest_file_publish(here->writer, true, &here->err));
        inject(here, 0, &recording);
        assert_int_equal(recording.bytes.len, here->text.len);
        assert_memory_equal(recording.bytes.data, here->text.data, here->text.len);
        recording_free(&recording);
        manifest_file_free(here->writer);
        here->writer = NULL;
    }
}

static void
test_not_injected(void **state)
{
    static const struct {
        Oid tablespace;
        bool publish;
        const char *recorded;
    } cases[] = {
        /* It would say that all is well. */
        {0, false, "archive archive.tar 0\n" ONE_ENTRY "archive end\nfinish\n"},
        /* It belongs into the data directory. */
        {16385, true, "archive archive.tar 16385\n" ONE_ENTRY "archive end\nfinish\n"},
        {16385, false, "archive archive.tar 16385\n" ONE_ENTRY "archive end\nfinish\n"},
    };

    for (size_t i = 0; i < COUNT(cases); i++) {
        Here *here = *state;
        Recording recording = RECORDING_INIT;

        open_in_memory(here, 0600);
        complete_in_memory(here, cases[i].publish);
        inject(here, cases[i].tablespace, &recording);
        assert_string_equal(recording_text(&recording), cases[i].recorded);
        recording_free(&recording);
        manifest_file_free(here->writer);
        here->writer = NULL;
    }
}

/* It gets there between the last byte of the archive and its end. */
static void
test_published_while_the_archive_waits(void **state)
{
    Here *here = *state;
    Recording recording = RECORDING_INIT;
    const Archive archive = {.name = "base.tar"};
    Sink *sink;

    open_in_memory(here, 0600);
    sink = manifest_inject_new(recorder_new(&recording, &here->err), here->writer, &here->err);
    assert_non_null(sink);
    assert_true(sink_archive_begin(sink, &archive, &here->err));
    complete_in_memory(here, true);
    assert_string_equal(recording_text(&recording), "archive base.tar 0\n");
    assert_true(sink_archive_end(sink, &here->err));
    assert_non_null(strstr(recording_text(&recording), "file backup_manifest size="));
    sink_free(sink);
    recording_free(&recording);
}

/* Each event that the manifest becomes can fail, and then no more comes. */
static void
test_injecting_fails(void **state)
{
    for (size_t event = 4; event <= 7; event++) {
        Here *here = *state;
        Recording recording = RECORDING_INIT;
        Sink *sink;

        recording.fail_at = event;
        open_in_memory(here, 0600);
        complete_in_memory(here, true);
        sink = manifest_inject_new(recorder_new(&recording, &here->err), here->writer, &here->err);
        assert_non_null(sink);
        assert_false(push_entry(sink, 0, ENTRY_FILE, "PG_VERSION", &here->err));
        assert_int_equal(here->err.sys_errno, EIO);
        assert_int_equal(recording.events, event);
        sink_free(sink);
        recording_free(&recording);
        manifest_file_free(here->writer);
        here->writer = NULL;
        here->err = ERROR_INIT;
    }
}

static void
test_damage_in_memory(void **state)
{
    Here *here = *state;
    const Manifest *manifest = NULL;
    uint8_t *digit = &here->text.data[here->text.len - 5];

    *digit = *digit == '0' ? '1' : '0';
    open_in_memory(here, 0600);
    write_all(here, 1000);
    assert_false(manifest_file_finish(here->writer, false, &manifest, &here->err));
    assert_string_equal(here->err.message, "manifest checksum mismatch");
    assert_null(manifest);
}

static void
test_inject_of_nothing(void **state)
{
    Here *here = *state;

    open_in_memory(here, 0600);
    assert_null(manifest_inject_new(NULL, here->writer, &here->err));
    assert_int_equal(here->err.code, ERR_NONE);
}

#define MANIFEST_TEST(function) cmocka_unit_test_setup_teardown(function, set_up, tear_down)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        MANIFEST_TEST(test_gets_its_name_at_the_end),
        MANIFEST_TEST(test_mode_whatever_the_umask),
        MANIFEST_TEST(test_given_up),
        MANIFEST_TEST(test_file_that_is_there),
        MANIFEST_TEST(test_no_directory),
        MANIFEST_TEST(test_name_is_taken),
        MANIFEST_TEST(test_damage),
        MANIFEST_TEST(test_not_all_of_it),
        MANIFEST_TEST(test_garbage_is_noticed_at_once),
        cmocka_unit_test(test_guard_refuses_the_names),
        cmocka_unit_test(test_guard_lets_all_else_pass),
        cmocka_unit_test(test_guard_of_page_digests),
        cmocka_unit_test(test_guard_of_nothing),
        MANIFEST_TEST(test_injected_as_the_last_entry),
        MANIFEST_TEST(test_kept_in_memory_as_it_came),
        MANIFEST_TEST(test_not_injected),
        MANIFEST_TEST(test_published_while_the_archive_waits),
        MANIFEST_TEST(test_injecting_fails),
        MANIFEST_TEST(test_damage_in_memory),
        MANIFEST_TEST(test_inject_of_nothing),
    };

    return cmocka_run_group_tests_name("manifest_file", tests, NULL, NULL);
}
