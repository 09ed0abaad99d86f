/* tar_reader: what becomes of archives, however they are cut, and of hostile ones. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "stream/stage.h"
#include "support/chunker.h"
#include "support/recorder.h"
#include "support/tar_builder.h"

static const Archive base = {.name = "base.tar"};

#define RANDOM_CUTS SIZE_MAX /* as a piece size: pieces of all sizes */

/* The whole archive through a reader; false and the failure in `err`. */
static bool
read_tar(Recording *recording, Span tar, size_t piece, TarEnd end, Error *err)
{
    Sink *sink = tar_reader_new(recorder_new(recording, err), end, err);
    bool ok;

    assert_non_null(sink);
    ok = sink_archive_begin(sink, &base, err) &&
         (piece == RANDOM_CUTS ? chunk_push_random(sink, tar, 7, err)
                               : chunk_push(sink, tar, piece, err)) &&
         sink_archive_end(sink, err) && sink_finish(sink, err);
    sink_free(sink);
    assert_int_equal(recording->released, 1);
    return ok;
}

static const size_t pieces[] = {0, 1, 2, 3, 7, 255, 511, 512, 513, 1000, 1024, 4096, RANDOM_CUTS};

/* The archive gives this text and then, unless `failure` is NULL, this error; whatever the pieces.
 */
static void
expect(const Buf *tar, TarEnd end, const char *text, ErrorCode code, const char *failure)
{
    for (size_t i = 0; i < sizeof pieces / sizeof pieces[0]; i++) {
        Recording recording = RECORDING_INIT;
        Error err = ERROR_INIT;
        bool ok = read_tar(&recording, tar_span(tar), pieces[i], end, &err);

        assert_string_equal(err.message, failure == NULL ? "" : failure);
        assert_int_equal(err.code, code);
        assert_true(ok == (failure == NULL));
        assert_string_equal(recording_text(&recording), text);
        recording_free(&recording);
    }
}

static void
expect_read(const Buf *tar, const char *text)
{
    expect(tar, TAR_END_REQUIRED, text, ERR_NONE, NULL);
}

/* A failure after the archive's begin and nothing else. */
static void
expect_refused(const Buf *tar, ErrorCode code, const char *failure)
{
    expect(tar, TAR_END_REQUIRED, "archive base.tar 0\n", code, failure);
}

/* The same for an archive of one member, well ended. */
static void
expect_member_refused(const TarMember *member, ErrorCode code, const char *failure)
{
    Buf tar = BUF_INIT;

    tar_add(&tar, member);
    tar_end(&tar);
    expect_refused(&tar, code, failure);
    buf_free(&tar);
}

/* ---- archives of the server ---- */

static void
test_base_archive(void **state)
{
    char content[1300];
    Buf tar = BUF_INIT;

    (void)state;
    memset(content, 'c', sizeof content);
    tar_add(&tar, &(TarMember){TAR_FILE("PG_VERSION", "18\n"), .mtime = 5});
    tar_add(&tar, &(TarMember){TAR_DIRECTORY("pg_wal/"), .mode = 0750, .mtime = 6});
    tar_add(&tar, &(TarMember){TAR_DIRECTORY("./pg_wal/archive_status/"), .mtime = 7});
    tar_add(&tar,
            &(TarMember){TAR_SYMLINK("pg_tblspc/16385/", "/srv/ts"), .mode = 0777, .mtime = 8});
    tar_add(&tar, &(TarMember){.name = "empty", .mtime = 9});
    tar_add(&tar, &(TarMember){.name = "block", .data = content, .size = 512, .mtime = 10});
    tar_add(&tar,
            &(TarMember){.name = "global/pg_control", .data = content, .size = 1300, .mtime = 11});
    tar_end(&tar);
    expect_read(&tar, "archive base.tar 0\n"
                      "file PG_VERSION size=3 mode=0600 mtime=5\n"
                      "data 3 crc=E27B4E99\n"
                      "end complete\n"
                      "directory pg_wal size=0 mode=0750 mtime=6\n"
                      "end complete\n"
                      "directory pg_wal/archive_status size=0 mode=0700 mtime=7\n"
                      "end complete\n"
                      "symlink pg_tblspc/16385 -> /srv/ts size=0 mode=0777 mtime=8\n"
                      "end complete\n"
                      "file empty size=0 mode=0600 mtime=9\n"
                      "end complete\n"
                      "file block size=512 mode=0600 mtime=10\n"
                      "data 512 crc=F5506804\n"
                      "end complete\n"
                      "file global/pg_control size=1300 mode=0600 mtime=11\n"
                      "data 1300 crc=7F1AB5F7\n"
                      "end complete\n"
                      "archive end\n"
                      "finish\n");
    buf_free(&tar);
}

static void
test_content_arrives_unchanged(void **state)
{
    uint8_t content[5000];
    Buf tar = BUF_INIT;

    (void)state;
    for (size_t i = 0; i < sizeof content; i++)
        content[i] = (uint8_t)(i * 7 + i / 256);
    tar_add(&tar, &(TarMember){.name = "f", .data = content, .size = sizeof content});
    tar_end(&tar);
    for (size_t i = 0; i < sizeof pieces / sizeof pieces[0]; i++) {
        Recording recording = RECORDING_INIT;
        Error err = ERROR_INIT;

        assert_true(read_tar(&recording, tar_span(&tar), pieces[i], TAR_END_REQUIRED, &err));
        assert_int_equal(recording.bytes.len, sizeof content);
        assert_memory_equal(recording.bytes.data, content, sizeof content);
        recording_free(&recording);
    }
    buf_free(&tar);
}

/* What the hook compares with. */
typedef struct Headers {
    const uint8_t *blocks[4];
    size_t next;
} Headers;

static bool
expect_header(void *ctx, const Event *event, Error *err)
{
    Headers *headers = ctx;

    (void)err;
    if (event == NULL || event->kind != EVENT_ENTRY_BEGIN)
        return true;
    assert_true(headers->next < sizeof headers->blocks / sizeof headers->blocks[0]);
    assert_non_null(event->entry->tar_header);
    assert_memory_equal(event->entry->tar_header, headers->blocks[headers->next],
                        TAR_BUILDER_BLOCK);
    headers->next++;
    return true;
}

static void
test_entries_come_with_their_headers(void **state)
{
    Buf tar = BUF_INIT;
    Headers headers = {.next = 0};

    (void)state;
    tar_add(&tar, &(TarMember){TAR_DIRECTORY("./")}); /* no entry, so no header either */
    tar_add(&tar, &(TarMember){TAR_FILE("./a//b", "x"), .magic = TAR_MAGIC_GNU});
    tar_add(&tar, &(TarMember){TAR_DIRECTORY("d/")});
    tar_add(&tar, &(TarMember){.name = "empty", .base256 = true});
    tar_add(&tar, &(TarMember){TAR_SYMLINK("pg_tblspc/1/", "/srv/ts")});
    tar_end(&tar);
    headers.blocks[0] = tar.data + 512;
    for (size_t i = 1; i < 4; i++)
        headers.blocks[i] = tar.data + 1024 + i * 512;
    for (size_t i = 0; i < sizeof pieces / sizeof pieces[0]; i++) {
        Recording recording = {.hook = expect_header, .ctx = &headers};
        Error err = ERROR_INIT;

        headers.next = 0;
        assert_true(read_tar(&recording, tar_span(&tar), pieces[i], TAR_END_REQUIRED, &err));
        assert_int_equal(headers.next, 4);
        recording_free(&recording);
    }
    buf_free(&tar);
}

static bool
expect_inside(void *ctx, const Event *event, Error *err)
{
    const Buf *tar = ctx;

    (void)err;
    if (event != NULL && event->kind == EVENT_DATA) {
        assert_true(event->data.data >= tar->data);
        assert_true(event->data.data + event->data.len <= tar->data + tar->len);
    }
    return true;
}

static void
test_content_is_not_copied(void **state)
{
    static const uint8_t content[100000];
    Recording recording = RECORDING_INIT;
    Buf tar = BUF_INIT;
    Error err = ERROR_INIT;
    Sink *sink = tar_reader_new(recorder_new(&recording, &err), TAR_END_REQUIRED, &err);

    (void)state;
    tar_add(&tar, &(TarMember){.name = "f", .data = content, .size = sizeof content});
    tar_end(&tar);
    recording.hook = expect_inside;
    recording.ctx = &tar;
    assert_true(sink_archive_begin(sink, &base, &err));
    assert_true(sink_data(sink, tar_span(&tar), &err));
    assert_int_equal(recording.data_events, 1);
    sink_free(sink);
    recording_free(&recording);
    buf_free(&tar);
}

static void
test_many_archives_through_one_reader(void **state)
{
    Recording recording = RECORDING_INIT;
    Buf tar = BUF_INIT;
    Error err = ERROR_INIT;
    Sink *sink = tar_reader_new(recorder_new(&recording, &err), TAR_END_REQUIRED, &err);
    Archive second = {.name = "16385.tar", .tablespace = 16385};

    (void)state;
    tar_add(&tar, &(TarMember){TAR_FILE("f", "x"), .mtime = 1});
    tar_end(&tar);
    assert_true(chunk_archive(sink, &base, tar_span(&tar), 100, &err));
    assert_true(chunk_archive(sink, &second, tar_span(&tar), 0, &err));
    /* The second archive's name is the one in messages, at an offset of its own. */
    assert_false(chunk_archive(sink, &(Archive){.name = "third.tar"}, span_of("junk"), 0, &err));
    assert_string_equal(err.message, "archive \"third.tar\" ends within a member's header");
    assert_string_equal(recording_text(&recording), "archive base.tar 0\n"
                                                    "file f size=1 mode=0600 mtime=1\n"
                                                    "data 1 crc=A93C5F93\n"
                                                    "end complete\n"
                                                    "archive end\n"
                                                    "archive 16385.tar 16385\n"
                                                    "file f size=1 mode=0600 mtime=1\n"
                                                    "data 1 crc=A93C5F93\n"
                                                    "end complete\n"
                                                    "archive end\n"
                                                    "archive third.tar 0\n");
    sink_free(sink);
    recording_free(&recording);
    buf_free(&tar);
}

static void
test_flush_passes_in_its_place(void **state)
{
    Recording recording = RECORDING_INIT;
    Buf tar = BUF_INIT;
    Error err = ERROR_INIT;
    Sink *sink = tar_reader_new(recorder_new(&recording, &err), TAR_END_OPTIONAL, &err);
    Span rest;

    (void)state;
    tar_add(&tar, &(TarMember){TAR_FILE("f", "xy"), .mtime = 1});
    rest = tar_span(&tar);
    assert_true(sink_flush(sink, 1, &err));
    assert_true(sink_archive_begin(sink, &base, &err));
    assert_true(sink_data(sink, (Span){.data = rest.data, .len = 100}, &err));
    assert_true(sink_flush(sink, 2, &err)); /* within a header */
    assert_true(sink_data(sink, (Span){.data = rest.data + 100, .len = 413}, &err));
    assert_true(sink_flush(sink, 3, &err)); /* within content */
    assert_true(sink_data(sink, (Span){.data = rest.data + 513, .len = 511}, &err));
    assert_true(sink_archive_end(sink, &err));
    assert_true(sink_finish(sink, &err));
    assert_string_equal(recording_text(&recording), "flush 0/1\n"
                                                    "archive base.tar 0\n"
                                                    "flush 0/2\n"
                                                    "file f size=2 mode=0600 mtime=1\n"
                                                    "data 1 crc=A93C5F93\n"
                                                    "flush 0/3\n"
                                                    "data 1 crc=5B57DC90\n"
                                                    "end complete\n"
                                                    "archive end\n"
                                                    "finish\n");
    sink_free(sink);
    recording_free(&recording);
    buf_free(&tar);
}

static void
test_size_beyond_octal(void **state)
{
    Recording recording = RECORDING_INIT;
    uint8_t header[TAR_BUILDER_BLOCK];
    Error err = ERROR_INIT;
    Sink *sink = tar_reader_new(recorder_new(&recording, &err), TAR_END_REQUIRED, &err);

    (void)state;
    tar_build_header(header, &(TarMember){.name = "f", .claim = (uint64_t)9 << 30, .mtime = 1});
    assert_true(sink_archive_begin(sink, &base, &err));
    assert_true(sink_data(sink, (Span){.data = header, .len = sizeof header}, &err));
    assert_true(sink_data(sink, span_of("abc"), &err));
    assert_false(sink_archive_end(sink, &err));
    assert_string_equal(err.message, "archive \"base.tar\" ends within member \"f\": 9663676413 of "
                                     "its 9663676416 bytes are missing");
    assert_string_equal(recording_text(&recording), "archive base.tar 0\n"
                                                    "file f size=9663676416 mode=0600 mtime=1\n"
                                                    "data 3 crc=364B3FB7\n");
    sink_free(sink);
    recording_free(&recording);
}

/* ---- archives of other tars ---- */

static void
test_gnu_magic_and_root_entry(void **state)
{
    Buf tar = BUF_INIT;

    (void)state;
    tar_add(&tar, &(TarMember){TAR_DIRECTORY("./"), .magic = TAR_MAGIC_GNU});
    tar_add(&tar, &(TarMember){TAR_DIRECTORY("."), .magic = TAR_MAGIC_GNU});
    tar_add(&tar, &(TarMember){TAR_DIRECTORY(".//./"), .magic = TAR_MAGIC_GNU});
    tar_add(&tar, &(TarMember){TAR_FILE("./a/.//b", "x"), .magic = TAR_MAGIC_GNU, .mtime = 1});
    tar_end(&tar);
    expect_read(&tar, "archive base.tar 0\n"
                      "file a/b size=1 mode=0600 mtime=1\n"
                      "data 1 crc=A93C5F93\n"
                      "end complete\n"
                      "archive end\n"
                      "finish\n");
    buf_free(&tar);
}

static void
test_prefix(void **state)
{
    Buf tar = BUF_INIT;

    (void)state;
    tar_add(&tar, &(TarMember){.name = "b", .prefix = "./a", .mtime = 1});
    tar_end(&tar);
    expect_read(&tar, "archive base.tar 0\n"
                      "file a/b size=0 mode=0600 mtime=1\n"
                      "end complete\n"
                      "archive end\n"
                      "finish\n");
    buf_free(&tar);
}

static void
test_dots_within_names_are_harmless(void **state)
{
    Buf tar = BUF_INIT;

    (void)state;
    tar_add(&tar, &(TarMember){.name = "..a/b../c..d/...", .mtime = 1});
    tar_end(&tar);
    expect_read(&tar, "archive base.tar 0\n"
                      "file ..a/b../c..d/... size=0 mode=0600 mtime=1\n"
                      "end complete\n"
                      "archive end\n"
                      "finish\n");
    buf_free(&tar);
}

static void
test_trailing_padding(void **state)
{
    Buf tar = BUF_INIT;

    (void)state;
    tar_zeros(&tar, 20); /* 10 KiB of nothing */
    expect_read(&tar, "archive base.tar 0\narchive end\nfinish\n");
    tar.len -= 100; /* not even whole blocks */
    expect_read(&tar, "archive base.tar 0\narchive end\nfinish\n");
    buf_free(&tar);
}

static void
test_padding_of_content_may_hold_anything(void **state)
{
    Buf tar = BUF_INIT;

    (void)state;
    tar_add(&tar, &(TarMember){TAR_FILE("f", "x"), .mtime = 1});
    memset(tar.data + 513, 0xee, 511);
    tar_end(&tar);
    expect_read(&tar, "archive base.tar 0\n"
                      "file f size=1 mode=0600 mtime=1\n"
                      "data 1 crc=A93C5F93\n"
                      "end complete\n"
                      "archive end\n"
                      "finish\n");
    buf_free(&tar);
}

/* ---- ends ---- */

static void
test_archive_without_end_blocks(void **state)
{
    static const char text[] = "archive base.tar 0\n"
                               "file f size=1 mode=0600 mtime=1\n"
                               "data 1 crc=A93C5F93\n"
                               "end complete\n";
    Buf tar = BUF_INIT;

    (void)state;
    tar_add(&tar, &(TarMember){TAR_FILE("f", "x"), .mtime = 1});
    expect(&tar, TAR_END_REQUIRED, text, ERR_FORMAT,
           "archive \"base.tar\" ends after 1024 bytes without its end blocks");
    expect(&tar, TAR_END_OPTIONAL,
           "archive base.tar 0\n"
           "file f size=1 mode=0600 mtime=1\n"
           "data 1 crc=A93C5F93\n"
           "end complete\n"
           "archive end\n"
           "finish\n",
           ERR_NONE, NULL);
    buf_free(&tar);
}

static void
test_empty_archive(void **state)
{
    Buf tar = BUF_INIT;

    (void)state;
    expect_refused(&tar, ERR_FORMAT,
                   "archive \"base.tar\" ends after 0 bytes without its end blocks");
    expect(&tar, TAR_END_OPTIONAL, "archive base.tar 0\narchive end\nfinish\n", ERR_NONE, NULL);
}

static void
test_single_zero_block_is_no_end(void **state)
{
    Buf tar = BUF_INIT;

    (void)state;
    tar_zeros(&tar, 1);
    expect_refused(&tar, ERR_FORMAT, "archive \"base.tar\" ends within its end blocks");
    expect(&tar, TAR_END_OPTIONAL, "archive base.tar 0\n", ERR_FORMAT,
           "archive \"base.tar\" ends within its end blocks");
    tar_add(&tar, &(TarMember){TAR_FILE("f", "x")});
    expect_refused(&tar, ERR_FORMAT,
                   "archive \"base.tar\", at offset 512: a zero block is followed by other data");
    buf_free(&tar);
}

static void
test_data_after_the_end(void **state)
{
    Buf tar = BUF_INIT;

    (void)state;
    tar_zeros(&tar, 6);
    tar.data[5 * 512 + 100] = 1;
    tar.data[5 * 512 + 300] = 1;
    expect_refused(&tar, ERR_FORMAT,
                   "archive \"base.tar\", at offset 2660: data after the end of the archive");
    buf_free(&tar);
}

/* Where the archive is cut, and how that must be called. */
static const char *
ending_at(size_t len)
{
    static char message[200];

    if (len == 0 || len == 1024)
        (void)snprintf(message, sizeof message,
                       "archive \"base.tar\" ends after %zu bytes without its end blocks", len);
    else if (len < 512)
        return "archive \"base.tar\" ends within a member's header";
    else if (len < 512 + 300)
        (void)snprintf(message, sizeof message,
                       "archive \"base.tar\" ends within member \"f\": %zu of its 300 bytes are "
                       "missing",
                       812 - len);
    else if (len < 1024)
        return "archive \"base.tar\" ends within the padding of member \"f\"";
    else if (len < 1536)
        return "archive \"base.tar\" ends within a member's header";
    else
        return "archive \"base.tar\" ends within its end blocks";
    return message;
}

static void
test_archive_cut_at_every_byte(void **state)
{
    static const uint8_t content[300] = {1};
    Buf tar = BUF_INIT;

    (void)state;
    tar_add(&tar, &(TarMember){.name = "f", .data = content, .size = sizeof content});
    tar_end(&tar);
    for (size_t len = 0; len < tar.len; len++) {
        for (size_t piece = 0; piece <= 512; piece += 512) {
            Recording recording = RECORDING_INIT;
            Error err = ERROR_INIT;
            Span part = {.data = tar.data, .len = len};

            assert_false(read_tar(&recording, part, piece, TAR_END_REQUIRED, &err));
            assert_int_equal(err.code, ERR_FORMAT);
            assert_string_equal(err.message, ending_at(len));
            assert_false(recording.finished);
            assert_null(strstr(recording_text(&recording), "archive end"));
            recording_free(&recording);
        }
    }
    buf_free(&tar);
}

/* ---- hostile members ---- */

static void
test_unsafe_paths(void **state)
{
    static const char *const names[] = {"/etc/passwd", "..",      "../x",     "a/../../x", "a/../b",
                                        "a/..",        "./../x",  "//x",      "/",         "../",
                                        "a//..//b",    "x/../..", "a/b/../c", "./..",      ".."};

    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char message[200];

        (void)snprintf(message, sizeof message,
                       "archive \"base.tar\": member \"%s\" has an unsafe path", names[i]);
        expect_member_refused(&(TarMember){TAR_DIRECTORY(names[i])}, ERR_FORMAT, message);
        expect_member_refused(&(TarMember){TAR_SYMLINK(names[i], "/t")}, ERR_FORMAT, message);
        if (names[i][strlen(names[i]) - 1] != '/')
            expect_member_refused(&(TarMember){.name = names[i]}, ERR_FORMAT, message);
    }
    expect_member_refused(&(TarMember){.name = "x", .prefix = ".."}, ERR_FORMAT,
                          "archive \"base.tar\": member \"../x\" has an unsafe path");
    expect_member_refused(&(TarMember){.name = "x", .prefix = "/"}, ERR_FORMAT,
                          "archive \"base.tar\": member \"//x\" has an unsafe path");
}

static void
test_root_must_be_a_directory(void **state)
{
    (void)state;
    expect_member_refused(&(TarMember){.name = "."}, ERR_FORMAT,
                          "archive \"base.tar\": member \".\" has an unsafe path");
    expect_member_refused(&(TarMember){TAR_SYMLINK("./", "/t")}, ERR_FORMAT,
                          "archive \"base.tar\": member \"./\" has an unsafe path");
}

static void
test_file_named_like_a_directory(void **state)
{
    (void)state;
    expect_member_refused(
        &(TarMember){.name = "a/"}, ERR_FORMAT,
        "archive \"base.tar\": member \"a/\" is a file but is named like a directory");
}

static void
test_bad_headers_name_archive_and_offset(void **state)
{
    Buf tar = BUF_INIT;

    (void)state;
    tar_add(&tar, &(TarMember){TAR_DIRECTORY("d/"), .mtime = 1});
    tar_add(&tar, &(TarMember){TAR_FILE("f", "x")});
    tar.data[512]++;
    expect(&tar, TAR_END_REQUIRED,
           "archive base.tar 0\n"
           "directory d size=0 mode=0700 mtime=1\n"
           "end complete\n",
           ERR_FORMAT,
           "archive \"base.tar\", at offset 512: tar header has checksum 13362 instead of 13363");
    buf_free(&tar);
}

static void
test_pax_and_long_names_are_refused_by_name(void **state)
{
    (void)state;
    expect_member_refused(&(TarMember){TAR_FILE("PaxHeaders/f", "30 path=x\n"), .type = 'x'},
                          ERR_UNSUPPORTED,
                          "archive \"base.tar\", at offset 0: tar member \"PaxHeaders/f\" has type "
                          "\"x\": pax extensions are not supported");
    expect_member_refused(
        &(TarMember){TAR_FILE("././@LongLink", "name"), .type = 'L'}, ERR_UNSUPPORTED,
        "archive \"base.tar\", at offset 0: tar member \"././@LongLink\" has type "
        "\"L\": GNU long names are not supported");
}

static void
test_size_overflow(void **state)
{
    (void)state;
    expect_member_refused(
        &(TarMember){.name = "f", .claim = (uint64_t)INT64_MAX}, ERR_FORMAT,
        "archive \"base.tar\", at offset 0: tar member \"f\" has an impossible size");
    expect_member_refused(
        &(TarMember){.name = "f", .claim = UINT64_MAX}, ERR_FORMAT,
        "archive \"base.tar\", at offset 0: tar member \"f\" has an impossible size");
}

static void
test_bytes_that_are_no_tar(void **state)
{
    Buf tar = BUF_INIT;
    Error err = ERROR_INIT;

    (void)state;
    for (int i = 0; i < 100; i++)
        assert_true(buf_append(&tar, "\x1f\x8b\x08 gzip", 8, &err));
    expect_refused(&tar, ERR_FORMAT,
                   "archive \"base.tar\", at offset 0: tar header has an unknown magic");
    buf_free(&tar);
}

/* ---- failures of others ---- */

static void
test_failure_of_next_at_every_event(void **state)
{
    Buf tar = BUF_INIT;

    (void)state;
    tar_add(&tar, &(TarMember){TAR_FILE("f", "abc")});
    tar_add(&tar, &(TarMember){TAR_DIRECTORY("d/")});
    tar_end(&tar);
    /* archive, begin, 2 data (cut within), end, begin, end, archive end: then finish */
    for (size_t n = 1; n <= 9; n++) {
        Recording recording = RECORDING_INIT;
        Error err = ERROR_INIT;
        bool last = n == 9;

        recording.fail_at = last ? 0 : n;
        recording.fail_finish = last;
        assert_false(read_tar(&recording, tar_span(&tar), 257, TAR_END_REQUIRED, &err));
        assert_int_equal(err.sys_errno, EIO);
        assert_non_null(strstr(err.message, "injected failure"));
        assert_int_equal(recording.events, last ? 8 : n);
        recording_free(&recording);
    }
    buf_free(&tar);
}

static void
test_archive_with_entries_is_a_bug(void **state)
{
    Recording recording = RECORDING_INIT;
    Error err = ERROR_INIT;
    Sink *sink = tar_reader_new(recorder_new(&recording, &err), TAR_END_REQUIRED, &err);

    (void)state;
    assert_true(sink_archive_begin(sink, &base, &err));
    assert_false(sink_entry_begin(sink, &(Entry){.path = "f"}, &err));
    assert_int_equal(err.code, ERR_BUG);
    assert_string_equal(err.message, "tar_reader got archive \"base.tar\" with entries already");
    sink_free(sink);
    recording_free(&recording);
}

static void
test_no_next(void **state)
{
    Error err = ERROR_INIT;

    (void)state;
    (void)error_set(&err, ERR_MEMORY, "out of memory");
    assert_null(tar_reader_new(NULL, TAR_END_REQUIRED, &err));
    assert_int_equal(err.code, ERR_MEMORY);
}

static void
test_abandoned_in_every_state(void **state)
{
    Buf tar = BUF_INIT;

    (void)state;
    tar_add(&tar, &(TarMember){TAR_FILE("f", "abc")});
    tar_zeros(&tar, 3);
    for (size_t len = 0; len <= tar.len; len += 64) {
        Recording recording = RECORDING_INIT;
        Error err = ERROR_INIT;
        Sink *sink = tar_reader_new(recorder_new(&recording, &err), TAR_END_REQUIRED, &err);

        assert_true(sink_archive_begin(sink, &base, &err));
        assert_true(sink_data(sink, (Span){.data = tar.data, .len = len}, &err));
        sink_free(sink);
        assert_int_equal(recording.released, 1);
        assert_false(recording.finished);
        recording_free(&recording);
    }
    buf_free(&tar);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_base_archive),
        cmocka_unit_test(test_content_arrives_unchanged),
        cmocka_unit_test(test_entries_come_with_their_headers),
        cmocka_unit_test(test_content_is_not_copied),
        cmocka_unit_test(test_many_archives_through_one_reader),
        cmocka_unit_test(test_flush_passes_in_its_place),
        cmocka_unit_test(test_size_beyond_octal),
        cmocka_unit_test(test_gnu_magic_and_root_entry),
        cmocka_unit_test(test_prefix),
        cmocka_unit_test(test_dots_within_names_are_harmless),
        cmocka_unit_test(test_trailing_padding),
        cmocka_unit_test(test_padding_of_content_may_hold_anything),
        cmocka_unit_test(test_archive_without_end_blocks),
        cmocka_unit_test(test_empty_archive),
        cmocka_unit_test(test_single_zero_block_is_no_end),
        cmocka_unit_test(test_data_after_the_end),
        cmocka_unit_test(test_archive_cut_at_every_byte),
        cmocka_unit_test(test_unsafe_paths),
        cmocka_unit_test(test_root_must_be_a_directory),
        cmocka_unit_test(test_file_named_like_a_directory),
        cmocka_unit_test(test_bad_headers_name_archive_and_offset),
        cmocka_unit_test(test_pax_and_long_names_are_refused_by_name),
        cmocka_unit_test(test_size_overflow),
        cmocka_unit_test(test_bytes_that_are_no_tar),
        cmocka_unit_test(test_failure_of_next_at_every_event),
        cmocka_unit_test(test_archive_with_entries_is_a_bug),
        cmocka_unit_test(test_no_next),
        cmocka_unit_test(test_abandoned_in_every_state),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
