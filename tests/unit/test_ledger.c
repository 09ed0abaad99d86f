#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/crc32c.h"
#include "support/chunker.h"
#include "support/manifest_builder.h"
#include "support/problem_log.h"
#include "support/recorder.h"
#include "support/tar_builder.h"
#include "support/temp_dir.h"

/* ---- a ledger, its stage and a manifest ---- */

typedef struct Fixture {
    Ledger *ledger;
    Sink *sink;
    Recording recording;
    ManifestBuilder builder;
    Manifest *manifest;
    ProblemLog log;
    Error err;
} Fixture;

static void
begin(Fixture *f, ChecksumType type)
{
    *f = (Fixture){.recording = RECORDING_INIT, .log = PROBLEM_LOG_INIT, .err = ERROR_INIT};
    f->ledger = ledger_new(type, &f->err);
    assert_non_null(f->ledger);
    f->sink = ledger_stage_new(f->ledger, recorder_new(&f->recording, &f->err), &f->err);
    assert_non_null(f->sink);
    manifest_builder_begin(&f->builder, 2, 7);
}

static void
archive(Fixture *f, const char *name, Oid tablespace)
{
    assert_true(
        sink_archive_begin(f->sink, &(Archive){.name = name, .tablespace = tablespace}, &f->err));
}

static void
archive_end(Fixture *f)
{
    assert_true(sink_archive_end(f->sink, &f->err));
}

static void
directory(Fixture *f, const char *path)
{
    Entry entry = {.kind = ENTRY_DIRECTORY, .path = path, .mode = 0700};

    assert_true(sink_entry_begin(f->sink, &entry, &f->err));
    assert_true(sink_entry_end(f->sink, true, &f->err));
}

static void
file(Fixture *f, const char *path, const char *content)
{
    Entry entry = {.kind = ENTRY_FILE, .path = path, .size = strlen(content), .mode = 0600};

    assert_true(sink_entry_begin(f->sink, &entry, &f->err));
    assert_true(sink_data(f->sink, span_of(content), &f->err));
    assert_true(sink_entry_end(f->sink, true, &f->err));
}

static void
listed(Fixture *f, const char *path, const char *content, ChecksumType type)
{
    manifest_builder_file(&f->builder, path, content, strlen(content), type);
}

static Manifest *
manifest_of(const Buf *text)
{
    Error err = ERROR_INIT;
    ManifestReader *reader = manifest_reader_new(&err);
    Manifest *manifest = NULL;

    assert_non_null(reader);
    assert_true(manifest_reader_feed(reader, (Span){.data = text->data, .len = text->len}, &err));
    assert_true(manifest_reader_finish(reader, &manifest, &err));
    manifest_reader_free(reader);
    return manifest;
}

/* The whole comparison as text; `limit` ends it early. */
static const char *
compare(Fixture *f, uint64_t limit)
{
    Buf text = BUF_INIT;
    uint64_t problems = UINT64_MAX;
    ProblemSink sink = problem_log_sink(&f->log);

    f->log.limit = limit;
    assert_true(sink_finish(f->sink, &f->err));
    manifest_builder_finish(&f->builder, &text);
    f->manifest = manifest_of(&text);
    assert_true(ledger_compare(f->ledger, f->manifest, &sink, &problems, &f->err));
    assert_int_equal(problems, f->log.count);
    buf_free(&text);
    return problem_log_text(&f->log);
}

static void
end(Fixture *f)
{
    sink_free(f->sink);
    ledger_free(f->ledger);
    manifest_free(f->manifest);
    manifest_builder_free(&f->builder);
    problem_log_free(&f->log);
    assert_int_equal(f->recording.released, 1);
    recording_free(&f->recording);
}

/* ---- the stage ---- */

static void
test_passes_everything_on(void **state)
{
    Fixture f;

    (void)state;
    begin(&f, CHECKSUM_CRC32C);
    archive(&f, "16385.tar", 16385);
    directory(&f, "PG_18_1");
    file(&f, "PG_18_1/1", "one");
    archive_end(&f);
    assert_true(sink_flush(f.sink, 5, &f.err));
    archive(&f, "base.tar", 0);
    assert_true(sink_entry_begin(
        f.sink,
        &(Entry){
            .kind = ENTRY_SYMLINK, .path = "pg_tblspc/16385", .link_target = "/t", .mode = 0777},
        &f.err));
    assert_true(sink_entry_end(f.sink, true, &f.err));
    file(&f, "PG_VERSION", "18\n");
    archive_end(&f);
    assert_true(sink_finish(f.sink, &f.err));
    assert_string_equal(recording_text(&f.recording),
                        "archive 16385.tar 16385\n"
                        "directory PG_18_1 size=0 mode=0700 mtime=0\n"
                        "end complete\n"
                        "file PG_18_1/1 size=3 mode=0600 mtime=0\n"
                        "data 3 crc=2A94B2E9\n"
                        "end complete\n"
                        "archive end\n"
                        "flush 0/5\n"
                        "archive base.tar 0\n"
                        "symlink pg_tblspc/16385 -> /t size=0 mode=0777 mtime=0\n"
                        "end complete\n"
                        "file PG_VERSION size=3 mode=0600 mtime=0\n"
                        "data 3 crc=E27B4E99\n"
                        "end complete\n"
                        "archive end\n"
                        "finish\n");
    assert_true(f.recording.finished);
    assert_int_equal(ledger_file_count(f.ledger), 2);
    assert_int_equal(ledger_byte_count(f.ledger), 6);
    end(&f);
}

static void
test_same_path_twice_is_refused(void **state)
{
    Fixture f;
    Entry entry = {.kind = ENTRY_FILE, .path = "pg_tblspc/7/a"};

    (void)state;
    begin(&f, CHECKSUM_NONE);
    archive(&f, "7.tar", 7);
    file(&f, "a", "x");
    archive_end(&f);
    /* The same file by way of the other archive. */
    archive(&f, "base.tar", 0);
    file(&f, "a", "y");
    assert_false(sink_entry_begin(f.sink, &entry, &f.err));
    assert_int_equal(f.err.code, ERR_FORMAT);
    assert_string_equal(f.err.message, "file \"pg_tblspc/7/a\" was received twice");
    assert_int_equal(ledger_file_count(f.ledger), 2);
    end(&f);
}

static void
test_opaque_archive_is_a_bug(void **state)
{
    Fixture f;

    (void)state;
    begin(&f, CHECKSUM_CRC32C);
    archive(&f, "base.tar", 0);
    assert_false(sink_data(f.sink, span_of("tar"), &f.err));
    assert_int_equal(f.err.code, ERR_BUG);
    end(&f);
}

static void
test_failure_behind_it_is_passed_back(void **state)
{
    Fixture f;

    (void)state;
    begin(&f, CHECKSUM_CRC32C);
    f.recording.fail_at = 3;
    archive(&f, "base.tar", 0);
    assert_true(sink_entry_begin(f.sink, &(Entry){.path = "a", .size = 1}, &f.err));
    assert_false(sink_data(f.sink, span_of("x"), &f.err));
    assert_int_equal(f.err.code, ERR_SYSTEM);
    assert_int_equal(ledger_file_count(f.ledger), 0);
    end(&f);
}

static void
test_needs_a_next(void **state)
{
    Error err = ERROR_INIT;
    Ledger *ledger = ledger_new(CHECKSUM_CRC32C, &err);

    (void)state;
    assert_null(ledger_stage_new(ledger, NULL, &err));
    ledger_free(ledger);
    ledger_free(NULL);
}

/* ---- the comparison ---- */

static void
test_all_types_agree(void **state)
{
    static const ChecksumType types[] = {CHECKSUM_NONE,   CHECKSUM_CRC32C, CHECKSUM_SHA224,
                                         CHECKSUM_SHA256, CHECKSUM_SHA384, CHECKSUM_SHA512};

    (void)state;
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        Fixture f;

        begin(&f, types[i]);
        archive(&f, "16385.tar", 16385);
        file(&f, "PG_18_1/5/1", "tablespace");
        archive_end(&f);
        archive(&f, "base.tar", 0);
        directory(&f, "base");
        file(&f, "base/1", "content");
        file(&f, "empty", "");
        file(&f, "pg_wal/000000010000000000000002", "wal");
        archive_end(&f);
        listed(&f, "base/1", "content", types[i]);
        listed(&f, "empty", "", types[i]);
        listed(&f, "pg_tblspc/16385/PG_18_1/5/1", "tablespace", types[i]);
        assert_string_equal(compare(&f, 0), "");
        end(&f);
    }
}

static void
test_every_kind_of_problem_in_order(void **state)
{
    Fixture f;

    (void)state;
    begin(&f, CHECKSUM_SHA256);
    archive(&f, "base.tar", 0);
    file(&f, "z_extra", "x");
    file(&f, "other", "received");
    file(&f, "short", "12");
    file(&f, "a_extra", "x");
    file(&f, "pg_wal", "a file, nothing below it");
    file(&f, "good", "good");
    archive_end(&f);
    listed(&f, "short", "123", CHECKSUM_SHA256);
    listed(&f, "good", "good", CHECKSUM_SHA256);
    listed(&f, "z_missing", "", CHECKSUM_SHA256);
    listed(&f, "other", "promised", CHECKSUM_SHA256);
    listed(&f, "a_missing", "", CHECKSUM_SHA256);
    assert_string_equal(compare(&f, 0),
                        "SIZE short: \"short\" has size 2 as received but size 3 in the manifest\n"
                        "MISSING z_missing: \"z_missing\" is in the manifest but was not received\n"
                        "CHECKSUM other: checksum mismatch for file \"other\"\n"
                        "MISSING a_missing: \"a_missing\" is in the manifest but was not received\n"
                        "EXTRA z_extra: \"z_extra\" was received but is not in the manifest\n"
                        "EXTRA a_extra: \"a_extra\" was received but is not in the manifest\n"
                        "EXTRA pg_wal: \"pg_wal\" was received but is not in the manifest\n");
    end(&f);
}

static void
test_wal_files_that_are_listed_count(void **state)
{
    Fixture f;

    (void)state;
    begin(&f, CHECKSUM_CRC32C);
    archive(&f, "base.tar", 0);
    file(&f, "pg_wal/00000002.history", "altered");
    archive_end(&f);
    listed(&f, "pg_wal/00000002.history", "history", CHECKSUM_CRC32C);
    listed(&f, "pg_wal/archive_status/000000010000000000000001.done", "", CHECKSUM_CRC32C);
    assert_string_equal(compare(&f, 0),
                        "CHECKSUM pg_wal/00000002.history: checksum mismatch for file "
                        "\"pg_wal/00000002.history\"\n"
                        "MISSING pg_wal/archive_status/000000010000000000000001.done: "
                        "\"pg_wal/archive_status/000000010000000000000001.done\" is in the "
                        "manifest but was not received\n");
    end(&f);
}

static void
test_other_checksum_types(void **state)
{
    Fixture f;

    (void)state;
    begin(&f, CHECKSUM_CRC32C);
    archive(&f, "base.tar", 0);
    file(&f, "none", "abc");
    file(&f, "none_longer", "abcd");
    file(&f, "sha", "abc");
    archive_end(&f);
    listed(&f, "none", "xyz", CHECKSUM_NONE);
    listed(&f, "none_longer", "abc", CHECKSUM_NONE);
    listed(&f, "sha", "abc", CHECKSUM_SHA224);
    assert_string_equal(
        compare(&f, 0),
        "SIZE none_longer: \"none_longer\" has size 4 as received but size 3 in the manifest\n"
        "CHECKSUM sha: file \"sha\" has a checksum of type SHA224 in the manifest, but type CRC32C "
        "was expected\n");
    end(&f);
}

static void
test_checksum_of_wrong_length(void **state)
{
    Fixture f;
    Digest digest = {.type = CHECKSUM_SHA256, .len = 4, .bytes = {1, 2, 3, 4}};
    Digest longer = {.type = CHECKSUM_SHA256, .len = 64};

    (void)state;
    begin(&f, CHECKSUM_SHA256);
    archive(&f, "base.tar", 0);
    file(&f, "a", "abc");
    file(&f, "b", "abc");
    archive_end(&f);
    manifest_builder_entry(&f.builder, "a", 3, &digest);
    manifest_builder_entry(&f.builder, "b", 3, &longer);
    assert_string_equal(compare(&f, 0),
                        "CHECKSUM a: file \"a\" has checksum of length 4, but expected 32\n"
                        "CHECKSUM b: file \"b\" has checksum of length 64, but expected 32\n");
    end(&f);
}

static void
test_file_cut_short_has_another_size(void **state)
{
    Fixture f;

    (void)state;
    begin(&f, CHECKSUM_CRC32C);
    archive(&f, "base.tar", 0);
    assert_true(sink_entry_begin(f.sink, &(Entry){.path = "a", .size = 7}, &f.err));
    assert_true(sink_data(f.sink, span_of("abc"), &f.err));
    assert_true(sink_entry_end(f.sink, false, &f.err));
    archive_end(&f);
    listed(&f, "a", "abcdefg", CHECKSUM_CRC32C);
    assert_string_equal(compare(&f, 0),
                        "SIZE a: \"a\" has size 3 as received but size 7 in the manifest\n");
    end(&f);
}

static void
test_sink_ends_the_comparison(void **state)
{
    for (uint64_t limit = 1; limit <= 4; limit++) {
        Fixture f;

        (void)state;
        begin(&f, CHECKSUM_CRC32C);
        archive(&f, "base.tar", 0);
        file(&f, "x", "x");
        file(&f, "y", "y");
        archive_end(&f);
        listed(&f, "a", "a", CHECKSUM_CRC32C);
        listed(&f, "b", "b", CHECKSUM_CRC32C);
        (void)compare(&f, limit);
        assert_int_equal(f.log.count, limit);
        end(&f);
    }
}

/* Two runs over the same archive, cut in different places, record the same. */
static void
test_pieces_do_not_matter(void **state)
{
    static const size_t pieces[] = {0, 1, 511, 513};

    (void)state;
    for (size_t i = 0; i < sizeof pieces / sizeof pieces[0]; i++) {
        Fixture f;
        Buf tar = BUF_INIT;
        Sink *reader;
        char *content = malloc(3000);

        memset(content, 'q', 2999);
        content[2999] = '\0';
        tar_add(&tar, &(TarMember){.name = "big", .data = content, .size = 2999});
        tar_add(&tar, &(TarMember){TAR_FILE("small", "s")});
        tar_end(&tar);
        begin(&f, CHECKSUM_SHA512);
        reader = tar_reader_new(f.sink, TAR_END_REQUIRED, &f.err);
        assert_non_null(reader);
        f.sink = reader;
        assert_true(chunk_archive(reader, &(Archive){.name = "base.tar"}, tar_span(&tar), pieces[i],
                                  &f.err));
        listed(&f, "big", content, CHECKSUM_SHA512);
        listed(&f, "small", "s", CHECKSUM_SHA512);
        assert_string_equal(compare(&f, 0), "");
        assert_int_equal(ledger_byte_count(f.ledger), 3000);
        end(&f);
        buf_free(&tar);
        free(content);
    }
}

/* More than one chunk and several growths of the table; a path longer than a chunk among them. */
static void
test_many_files(void **state)
{
    const int count = 20000;
    char path[64];
    char *long_path = malloc(100001);
    Buf expected = BUF_INIT;
    Fixture f;

    (void)state;
    memset(long_path, 'p', 100000);
    long_path[100000] = '\0';
    begin(&f, CHECKSUM_CRC32C);
    archive(&f, "base.tar", 0);
    for (int i = 0; i < count; i++) {
        (void)snprintf(path, sizeof path, "base/%d/%d", i % 7, i);
        file(&f, path, path + 5);
        if (i == count / 2)
            file(&f, long_path, "long");
    }
    archive_end(&f);
    assert_int_equal(ledger_file_count(f.ledger), count + 1);
    for (int i = count - 1; i >= 0; i--) {
        (void)snprintf(path, sizeof path, "base/%d/%d", i % 7, i);
        if (i != 17)
            listed(&f, path, i == 4711 ? "9/4711" : path + 5, CHECKSUM_CRC32C);
    }
    assert_true(
        buf_printf(&expected, &f.err,
                   "CHECKSUM base/0/4711: checksum mismatch for file \"base/0/4711\"\n"
                   "EXTRA base/3/17: \"base/3/17\" was received but is not in the manifest\n"
                   "EXTRA %s: \"%s\" was received but is not in the manifest\n",
                   long_path, long_path));
    assert_string_equal(compare(&f, 0), buf_text(&expected));
    buf_free(&expected);
    end(&f);
    free(long_path);
}

/* ---- page digests ---- */

#define PAGE ((size_t)1024)

typedef struct Paged {
    TempDir dir;
    PageDigestWriter *writer;
    Fixture f;
} Paged;

/* A ledger whose stage writes page digests as well. */
static void
begin_paged(Paged *paged, ChecksumType type)
{
    Fixture *f = &paged->f;

    temp_dir_make(&paged->dir);
    *f = (Fixture){.recording = RECORDING_INIT, .log = PROBLEM_LOG_INIT, .err = ERROR_INIT};
    paged->writer =
        page_digest_writer_new(temp_dir_path(&paged->dir, PAGE_DIGESTS_NAME), 0600, PAGE, &f->err);
    f->ledger = ledger_new(type, &f->err);
    assert_true(paged->writer != NULL && f->ledger != NULL);
    ledger_digest_pages(f->ledger, paged->writer);
    f->sink = ledger_stage_new(f->ledger, recorder_new(&f->recording, &f->err), &f->err);
    assert_non_null(f->sink);
    manifest_builder_begin(&f->builder, 2, 7);
}

static PageDigests *
written(Paged *paged)
{
    PageDigests *digests;

    assert_true(page_digest_writer_finish(paged->writer, false, &paged->f.err));
    digests = page_digests_open(temp_dir_path(&paged->dir, PAGE_DIGESTS_NAME), &paged->f.err);
    assert_non_null(digests);
    return digests;
}

static void
end_paged(Paged *paged)
{
    end(&paged->f);
    page_digest_writer_free(paged->writer);
    temp_dir_remove(&paged->dir);
}

static void
assert_pages(const PageDigests *digests, const char *path, const char *content)
{
    size_t size = strlen(content);
    PageDigestFile file;
    Error err = ERROR_INIT;
    uint32_t crc;

    assert_true(page_digests_find(digests, path, &file));
    assert_int_equal(file.size, size);
    for (size_t at = 0; at < size; at += PAGE) {
        size_t len = size - at < PAGE ? size - at : PAGE;

        assert_true(page_digests_read(digests, &file, at / PAGE, &crc, 1, &err));
        assert_true(crc == crc32c(0, content + at, len));
    }
    assert_true(page_digests_file_crc(digests, &file, &crc, &err));
    assert_true(crc == crc32c(0, content, size));
}

/* `size` letters. */
static char *
letters(size_t size)
{
    char *text = malloc(size + 1);

    assert_non_null(text);
    for (size_t i = 0; i < size; i++)
        text[i] = (char)('a' + (i * 7 + i / PAGE) % 26);
    text[size] = '\0';
    return text;
}

/* Whatever the manifest's checksums are, and however the bytes come. */
static void
test_pages_of_relation_files(void **state)
{
    static const ChecksumType types[] = {CHECKSUM_CRC32C, CHECKSUM_SHA256, CHECKSUM_NONE};
    static const size_t pieces[] = {1, 511, 1024, 1025, 100000};

    (void)state;
    for (size_t i = 0; i < 3 * sizeof pieces / sizeof pieces[0]; i++) {
        const ChecksumType type = types[i % 3];
        char *even = letters(3 * PAGE);
        char *odd = letters(2 * PAGE + 100);
        Buf tar = BUF_INIT;
        PageDigests *digests;
        PageDigestFile none;
        Paged paged;
        Fixture *f = &paged.f;

        begin_paged(&paged, type);
        tar_add(&tar,
                &(TarMember){.name = "PG_18_202506291/5/16400", .data = odd, .size = strlen(odd)});
        tar_end(&tar);
        f->sink = tar_reader_new(f->sink, TAR_END_REQUIRED, &f->err);
        assert_true(chunk_archive(f->sink, &(Archive){.name = "7.tar", .tablespace = 7},
                                  tar_span(&tar), pieces[i / 3], &f->err));
        buf_free(&tar);
        tar_add(&tar, &(TarMember){.name = "base/5/1259", .data = even, .size = strlen(even)});
        tar_add(&tar, &(TarMember){TAR_FILE("base/5/PG_VERSION", "18\n")});
        tar_add(&tar, &(TarMember){TAR_FILE("base/5/1259_fsm", "")});
        tar_add(&tar,
                &(TarMember){.name = "global/INCREMENTAL.1262", .data = odd, .size = strlen(odd)});
        tar_end(&tar);
        assert_true(chunk_archive(f->sink, &(Archive){.name = "base.tar"}, tar_span(&tar),
                                  pieces[i / 3], &f->err));
        buf_free(&tar);
        listed(f, "pg_tblspc/7/PG_18_202506291/5/16400", odd, type);
        listed(f, "base/5/1259", even, type);
        listed(f, "base/5/PG_VERSION", "18\n", type);
        listed(f, "base/5/1259_fsm", "", type);
        listed(f, "global/INCREMENTAL.1262", odd, type);
        assert_string_equal(compare(f, 0), "");

        digests = written(&paged);
        assert_int_equal(page_digests_count(digests), 4);
        assert_pages(digests, "pg_tblspc/7/PG_18_202506291/5/16400", odd);
        assert_pages(digests, "base/5/1259", even);
        assert_pages(digests, "base/5/1259_fsm", "");
        assert_pages(digests, "global/INCREMENTAL.1262", odd);
        assert_false(page_digests_find(digests, "base/5/PG_VERSION", &none));
        page_digests_close(digests);
        end_paged(&paged);
        free(even);
        free(odd);
    }
}

/* The file's checksum, which is made of those of its pages, tells of every change. */
static void
test_changed_page_is_found_by_the_comparison(void **state)
{
    char *content = letters(3 * PAGE + 7);
    Paged paged;
    Fixture *f = &paged.f;

    (void)state;
    begin_paged(&paged, CHECKSUM_CRC32C);
    listed(f, "base/5/1259", content, CHECKSUM_CRC32C);
    content[2 * PAGE]++;
    archive(f, "base.tar", 0);
    file(f, "base/5/1259", content);
    archive_end(f);
    assert_string_equal(compare(f, 0), "CHECKSUM base/5/1259: checksum mismatch for file "
                                       "\"base/5/1259\"\n");
    end_paged(&paged);
    free(content);
}

/* What follows one that was cut short is digested all the same. */
static void
test_pages_of_a_file_cut_short(void **state)
{
    char *content = letters(PAGE);
    PageDigests *digests;
    PageDigestFile file_info;
    Paged paged;
    Fixture *f = &paged.f;

    (void)state;
    begin_paged(&paged, CHECKSUM_CRC32C);
    archive(f, "base.tar", 0);
    assert_true(
        sink_entry_begin(f->sink, &(Entry){.path = "base/5/1", .size = 3 * PAGE + 1}, &f->err));
    assert_true(sink_data(f->sink, span_of("abc"), &f->err));
    assert_true(sink_entry_end(f->sink, false, &f->err));
    file(f, "base/5/2", content);
    archive_end(f);
    listed(f, "base/5/1", "abc", CHECKSUM_CRC32C);
    listed(f, "base/5/2", content, CHECKSUM_CRC32C);
    /* With the size and the checksum of what came. */
    assert_string_equal(compare(f, 0), "");
    digests = written(&paged);
    assert_true(page_digests_find(digests, "base/5/1", &file_info));
    assert_int_equal(file_info.size, 3 * PAGE + 1);
    assert_pages(digests, "base/5/2", content);
    page_digests_close(digests);
    end_paged(&paged);
    free(content);
}

static void
test_page_digests_that_cannot_be_written(void **state)
{
    Paged paged;
    Fixture *f = &paged.f;

    (void)state;
    begin_paged(&paged, CHECKSUM_CRC32C);
    /* Somebody else has begun a file there. */
    assert_true(page_digest_writer_begin(paged.writer, "base/5/0", 1, &f->err));
    archive(f, "base.tar", 0);
    assert_false(sink_entry_begin(f->sink, &(Entry){.path = "base/5/1", .size = 1}, &f->err));
    assert_int_equal(f->err.code, ERR_BUG);
    end_paged(&paged);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_passes_everything_on),
        cmocka_unit_test(test_same_path_twice_is_refused),
        cmocka_unit_test(test_opaque_archive_is_a_bug),
        cmocka_unit_test(test_failure_behind_it_is_passed_back),
        cmocka_unit_test(test_needs_a_next),
        cmocka_unit_test(test_all_types_agree),
        cmocka_unit_test(test_every_kind_of_problem_in_order),
        cmocka_unit_test(test_wal_files_that_are_listed_count),
        cmocka_unit_test(test_other_checksum_types),
        cmocka_unit_test(test_checksum_of_wrong_length),
        cmocka_unit_test(test_file_cut_short_has_another_size),
        cmocka_unit_test(test_sink_ends_the_comparison),
        cmocka_unit_test(test_pieces_do_not_matter),
        cmocka_unit_test(test_many_files),
        cmocka_unit_test(test_pages_of_relation_files),
        cmocka_unit_test(test_changed_page_is_found_by_the_comparison),
        cmocka_unit_test(test_pages_of_a_file_cut_short),
        cmocka_unit_test(test_page_digests_that_cannot_be_written),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
