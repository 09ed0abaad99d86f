#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/crc32c.h"
#include "pgformat/page.h"
#include "stream/compression.h"
#include "support/chunker.h"
#include "support/compressed.h"
#include "support/manifest_builder.h"
#include "support/problem_log.h"
#include "support/recorder.h"
#include "support/tar_builder.h"
#include "support/temp_dir.h"
#include "support/wal_builder.h"
#include "verify/internal.h"

#define SYSTEM_ID UINT64_C(7000000000000000001)
#define BLOCK     ((size_t)TAR_BUILDER_BLOCK)
#define MIB       (1u << 20)
#define PIECE     ((size_t)256 * 1024) /* of an archive that is read at once */

/* ---- a backup in DIR/data, its archives and manifest as the test fills them ---- */

typedef struct Fixture {
    TempDir dir;
    Buf base; /* the archive of the data directory */
    Buf other;
    ManifestBuilder builder;
    WalBuilder wal;
    VerifyConfig config; /* with `jobs` 0: again and again, with more and more */
    VerifySummary summary;
    ProblemLog log;
    uint64_t problems;
    Error err;
} Fixture;

static void
builder_begin(Fixture *f, uint32_t version)
{
    manifest_builder_free(&f->builder);
    manifest_builder_begin(&f->builder, version, SYSTEM_ID);
}

static int
setup(void **state)
{
    Fixture *f = calloc(1, sizeof *f);

    temp_dir_make(&f->dir);
    temp_dir_mkdir(&f->dir, "data");
    manifest_builder_begin(&f->builder, 2, SYSTEM_ID);
    f->config.directory = temp_dir_path(&f->dir, "data");
    f->config.skip_wal = true; /* but where WAL is the matter */
    f->config.summary = &f->summary;
    *state = f;
    return 0;
}

static int
teardown(void **state)
{
    Fixture *f = *state;

    temp_dir_remove(&f->dir);
    buf_free(&f->base);
    buf_free(&f->other);
    manifest_builder_free(&f->builder);
    wal_builder_free(&f->wal);
    problem_log_free(&f->log);
    free(f);
    return 0;
}

static const char *
place(Fixture *f, const char *path)
{
    return temp_dir_path(&f->dir, path);
}

static void
member_bytes(Buf *tar, const char *name, const void *data, size_t size)
{
    tar_add(tar, &(TarMember){.name = name, .data = data, .size = size});
}

static void
member(Buf *tar, const char *name, const char *content)
{
    member_bytes(tar, name, content, strlen(content));
}

static void
list(Fixture *f, const char *path, const char *content, ChecksumType type)
{
    manifest_builder_file(&f->builder, path, content, strlen(content), type);
}

/* In the base archive and in the manifest. */
static void
both(Fixture *f, const char *path, const char *content)
{
    member(&f->base, path, content);
    list(f, path, content, CHECKSUM_CRC32C);
}

/* A file of the directory. */
static void
put(Fixture *f, const char *name, const void *data, size_t len)
{
    char path[64];

    (void)snprintf(path, sizeof path, "data/%s", name);
    temp_dir_write(&f->dir, path, data, len);
}

static void
put_text(Fixture *f, const char *name, const char *text)
{
    put(f, name, text, strlen(text));
}

/* The archive as it is, compressed as the name of the file says. */
static void
put_archive(Fixture *f, const char *name, const Buf *tar)
{
    Compression compression;
    Recording recording = RECORDING_INIT;
    Sink *sink;

    assert_true(compression_parse(compression_of_name(name), NULL, &compression, &f->err));
    sink = compress_new(recorder_new(&recording, &f->err), &compression, &f->err);
    assert_non_null(sink);
    assert_true(sink_archive_begin(sink, &(Archive){.name = "x.tar"}, &f->err));
    assert_true(sink_data(sink, tar_span(tar), &f->err));
    assert_true(sink_archive_end(sink, &f->err) && sink_finish(sink, &f->err));
    sink_free(sink);
    put(f, name, recording.bytes.data, recording.bytes.len);
    recording_free(&recording);
}

/* With the directories that every data directory has. */
static void
base_end(Buf *tar)
{
    static const char *const directories[] = {
        "pg_commit_ts/",         "pg_logical/", "pg_logical/mappings/",
        "pg_logical/snapshots/", "pg_notify/",  "pg_replslot/",
        "pg_subtrans/",          "pg_tblspc/",  "pg_twophase/"};

    for (size_t i = 0; i < sizeof directories / sizeof directories[0]; i++)
        tar_add(tar, &(TarMember){TAR_DIRECTORY(directories[i])});
    tar_end(tar);
}

#define BASE_END (9 * BLOCK) /* what it adds besides the end */

/* A whole archive; `tar` is empty then. */
static void
put_tar(Fixture *f, const char *name, Buf *tar)
{
    if (tar == &f->base)
        base_end(tar);
    else
        tar_end(tar);
    put_archive(f, name, tar);
    buf_clear(tar);
}

static void
write_manifest(Fixture *f, const char *path)
{
    Buf text = BUF_INIT;

    manifest_builder_finish(&f->builder, &text);
    temp_dir_write(&f->dir, path, text.data, text.len);
    buf_free(&text);
}

static bool
run(Fixture *f)
{
    f->problems = UINT64_MAX;
    f->log.count = 0;
    buf_clear(&f->log.text);
    f->config.problems = problem_log_sink(&f->log);
    return verify_tar(&f->config, &f->problems, &f->err);
}

static void
must_run(Fixture *f, unsigned jobs)
{
    VerifyConfig config = f->config;

    f->config.jobs = jobs;
    if (!run(f))
        fail_msg("%s", f->err.message);
    f->config = config;
    assert_int_equal(f->problems, f->log.count);
}

/* What is found, as text, however many threads look for it; the manifest is there already. */
static const char *
again(Fixture *f)
{
    static const unsigned more[] = {2, 7};
    VerifySummary summary;
    char *text;

    must_run(f, f->config.jobs == 0 ? 1 : f->config.jobs);
    if (f->config.jobs != 0)
        return problem_log_text(&f->log);
    text = strdup(problem_log_text(&f->log));
    summary = f->summary;
    for (size_t i = 0; i < sizeof more / sizeof more[0]; i++) {
        must_run(f, more[i]);
        assert_string_equal(problem_log_text(&f->log), text);
        assert_memory_equal(&f->summary, &summary, sizeof summary);
    }
    free(text);
    return problem_log_text(&f->log);
}

static const char *
verify(Fixture *f)
{
    write_manifest(f, "data/backup_manifest");
    return again(f);
}

/* As `verify`, with base.tar of what is in f->base. */
static const char *
verify_base(Fixture *f)
{
    put_tar(f, "base.tar", &f->base);
    return verify(f);
}

/* ---- members ---- */

static void
test_good_backup_has_no_problems(void **state)
{
    static const ChecksumType types[] = {CHECKSUM_NONE,   CHECKSUM_CRC32C, CHECKSUM_SHA224,
                                         CHECKSUM_SHA256, CHECKSUM_SHA384, CHECKSUM_SHA512};
    Fixture *f = *state;
    char path[32];

    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        (void)snprintf(path, sizeof path, "base/%zu", i);
        member(&f->base, path, "content");
        list(f, path, "content", types[i]);
    }
    both(f, "empty", "");
    tar_add(&f->base, &(TarMember){TAR_DIRECTORY("pg_notify/")});
    tar_add(&f->base, &(TarMember){TAR_SYMLINK("pg_tblspc/16385/", "/srv/space")});
    member(&f->base, "./dotted//path", "abc");
    list(f, "dotted/path", "abc", CHECKSUM_CRC32C);
    member(&f->base, "backup_manifest", "{}");
    member(&f->base, "pg_wal/000000010000000000000001", "not looked at");
    member(&f->base, "pg_wal/archive_status/000000010000000000000001.done", "");
    member(&f->base, "postgresql.auto.conf", "primary_conninfo = ''\n");
    member(&f->base, "standby.signal", "");
    member(&f->base, "recovery.signal", "");
    /* Listed, but in an ignored place: not looked for. */
    list(f, "pg_wal/archive_status/000000010000000000000002.done", "", CHECKSUM_CRC32C);
    assert_string_equal(verify_base(f), "");
}

static void
test_every_kind_in_order(void **state)
{
    Fixture *f = *state;

    list(f, "missing", "abc", CHECKSUM_CRC32C);
    member(&f->base, "damaged", "abX");
    list(f, "damaged", "abc", CHECKSUM_CRC32C);
    member(&f->base, "zzz", "extra");
    member(&f->base, "longer", "abcd");
    list(f, "longer", "abc", CHECKSUM_CRC32C);
    both(f, "good", "good");
    member(&f->base, "base/damaged", "Xbc");
    list(f, "base/damaged", "abc", CHECKSUM_SHA512);
    list(f, "base/missing", "", CHECKSUM_CRC32C);
    put_text(f, "notes", "");
    assert_string_equal(
        verify_base(f),
        "EXTRA notes: file \"notes\" is not expected in a tar format backup\n"
        "CHECKSUM damaged: checksum mismatch for file \"damaged\" in archive \"base.tar\"\n"
        "EXTRA zzz: file \"zzz\" is present in archive \"base.tar\" but not in the manifest\n"
        "SIZE longer: file \"longer\" has size 4 in archive \"base.tar\" but size 3 in the "
        "manifest\n"
        "CHECKSUM base/damaged: checksum mismatch for file \"base/damaged\" in archive "
        "\"base.tar\"\n"
        "MISSING missing: \"missing\" is present in the manifest but not on disk\n"
        "MISSING base/missing: \"base/missing\" is present in the manifest but not on disk\n");
}

static void
test_exit_on_each_problem(void **state)
{
    Fixture *f = *state;
    uint64_t count = 0;

    put_text(f, "notes", "");
    member(&f->base, "extra", "");
    member(&f->base, "damaged", "abX");
    list(f, "damaged", "abc", CHECKSUM_CRC32C);
    member(&f->base, "sized", "");
    list(f, "sized", "abc", CHECKSUM_CRC32C);
    list(f, "missing", "abc", CHECKSUM_CRC32C);
    member(&f->base, "global/pg_control", "nonsense");
    list(f, "global/pg_control", "Nonsense", CHECKSUM_CRC32C);
    manifest_builder_wal_range(&f->builder, 1, 0x2000028, 0x2000100);
    f->config.skip_wal = false;
    put_archive(f, "base.tar", &f->base); /* without its end */
    write_manifest(f, "data/backup_manifest");
    for (uint64_t limit = 1; limit <= 10; limit++) {
        f->log.limit = limit;
        assert_true(run(f));
        assert_int_equal(f->log.count, f->problems);
        count = limit < 9 ? limit : 9;
        assert_int_equal(f->problems, count);
    }
    assert_non_null(strstr(problem_log_text(&f->log), "WAL parsing failed for timeline 1"));
}

static void
test_skip_checksums(void **state)
{
    Fixture *f = *state;

    member(&f->base, "damaged", "abX");
    list(f, "damaged", "abc", CHECKSUM_CRC32C);
    member(&f->base, "sized", "ab");
    list(f, "sized", "abc", CHECKSUM_CRC32C);
    f->config.skip_checksums = true;
    assert_string_equal(verify_base(f), "SIZE sized: file \"sized\" has size 2 in archive "
                                        "\"base.tar\" but size 3 in the manifest\n");
}

static void
test_checksum_of_wrong_length(void **state)
{
    Fixture *f = *state;
    Digest digest = {.type = CHECKSUM_SHA256, .len = 4, .bytes = {1, 2, 3, 4}};

    member(&f->base, "a", "abc");
    manifest_builder_entry(&f->builder, "a", 3, &digest);
    assert_string_equal(verify_base(f), "CHECKSUM a: file \"a\" in archive \"base.tar\" has "
                                        "checksum of length 4, but expected 32\n");
}

/* One of no type is none. */
static void
test_checksum_of_no_type(void **state)
{
    Fixture *f = *state;
    Buf text = BUF_INIT;

    member(&f->base, "a", "abc");
    put_tar(f, "base.tar", &f->base);
    assert_true(buf_printf(&text, &f->err, "%s",
                           "{ \"PostgreSQL-Backup-Manifest-Version\": 1,\n\"Files\": [\n"
                           "{ \"Path\": \"a\", \"Size\": 3, \"Checksum-Algorithm\": \"NONE\", "
                           "\"Checksum\": \"00\" }\n],\n\"WAL-Ranges\": [\n],\n"));
    manifest_seal(&text);
    put(f, "backup_manifest", text.data, text.len);
    buf_free(&text);
    assert_string_equal(again(f), "");
}

/* Members of more than one piece that is read. */
static void
test_large_member_is_digested_whole(void **state)
{
    Fixture *f = *state;
    size_t size = 3 * (size_t)MIB + 17;
    uint8_t *content = calloc(1, size);

    member_bytes(&f->base, "good", content, size);
    manifest_builder_file(&f->builder, "good", content, size, CHECKSUM_CRC32C);
    manifest_builder_file(&f->builder, "bad", content, size, CHECKSUM_SHA256);
    content[size - 1] = 1;
    member_bytes(&f->base, "bad", content, size);
    free(content);
    assert_string_equal(verify_base(f), "CHECKSUM bad: checksum mismatch for file \"bad\" in "
                                        "archive \"base.tar\"\n");
}

/* What unpacking leaves is the last one, but each of them must be right. */
static void
test_member_twice(void **state)
{
    Fixture *f = *state;

    both(f, "a", "abc");
    member(&f->base, "a", "abc");
    assert_string_equal(verify_base(f), "");

    builder_begin(f, 2);
    both(f, "a", "abc");
    member(&f->base, "a", "abX");
    member(&f->base, "a", "ab");
    assert_string_equal(
        verify_base(f),
        "CHECKSUM a: checksum mismatch for file \"a\" in archive \"base.tar\"\n"
        "SIZE a: file \"a\" has size 2 in archive \"base.tar\" but size 3 in the manifest\n");
}

/* A directory or link of a file's name is no such file. */
static void
test_no_file_of_that_name(void **state)
{
    Fixture *f = *state;

    tar_add(&f->base, &(TarMember){TAR_DIRECTORY("a/")});
    tar_add(&f->base, &(TarMember){TAR_SYMLINK("b", "a")});
    list(f, "a", "", CHECKSUM_CRC32C);
    list(f, "b", "", CHECKSUM_CRC32C);
    assert_string_equal(verify_base(f),
                        "MISSING a: \"a\" is present in the manifest but not on disk\n"
                        "MISSING b: \"b\" is present in the manifest but not on disk\n");
}

static void
test_ignore_covers_every_kind(void **state)
{
    static const char *const ignore[] = {"base/5",  "damaged", "pg_tblspc/7/x",
                                         "missing", "notes",   "lost+found"};
    Fixture *f = *state;

    member(&f->base, "base/5/extra", "");
    member(&f->base, "base/5/damaged", "abX");
    list(f, "base/5/damaged", "abc", CHECKSUM_CRC32C);
    list(f, "base/5/missing", "abc", CHECKSUM_CRC32C);
    list(f, "missing", "abc", CHECKSUM_CRC32C);
    member(&f->base, "damaged", "abX");
    list(f, "damaged", "abc", CHECKSUM_CRC32C);
    member(&f->other, "x/y", "");
    member(&f->other, "y", "");
    put_tar(f, "7.tar", &f->other);
    put_text(f, "notes", "");
    temp_dir_mkdir(&f->dir, "data/lost+found");
    /* Names that only begin like an ignored one still count. */
    member(&f->base, "base/55", "");
    list(f, "missing2", "abc", CHECKSUM_CRC32C);
    f->config.ignore = ignore;
    f->config.ignore_count = sizeof ignore / sizeof ignore[0];
    assert_string_equal(
        verify_base(f),
        "EXTRA pg_tblspc/7/y: file \"y\" is present in archive \"7.tar\" but not in the manifest\n"
        "EXTRA base/55: file \"base/55\" is present in archive \"base.tar\" but not in the "
        "manifest\n"
        "MISSING missing2: \"missing2\" is present in the manifest but not on disk\n");
}

static void
test_ignored_archive_is_not_read(void **state)
{
    static const char *const ignore[] = {"7.tar", "pg_tblspc/7"};
    Fixture *f = *state;

    both(f, "a", "abc");
    put_text(f, "7.tar", "nonsense");
    list(f, "pg_tblspc/7/x", "abc", CHECKSUM_CRC32C);
    f->config.ignore = ignore;
    f->config.ignore_count = 2;
    assert_string_equal(verify_base(f), "");
}

/* The same problems in the same order, whatever pieces the bytes come in. */
static void
check_in_pieces(Fixture *f, Manifest *manifest, const PathSet *ignore, size_t piece)
{
    ProblemSink sink;
    uint8_t marks[8] = {0};
    Recording recording = RECORDING_INIT;
    Verifier verifier = {
        .config = &f->config, .manifest = manifest, .marks = marks, .ignore = *ignore};
    Sink *chain;

    buf_clear(&f->log.text);
    sink = problem_log_sink(&f->log);
    verifier.reporter = REPORTER_INIT(&sink);
    chain =
        member_check_new(&verifier, "16385.tar", NULL, recorder_new(&recording, &f->err), &f->err);
    chain = tar_reader_new(chain, TAR_END_REQUIRED, &f->err);
    assert_non_null(chain);
    assert_true(chunk_archive(chain, &(Archive){.name = "16385.tar", .tablespace = 16385},
                              tar_span(&f->base), piece, &f->err));
    assert_true(sink_finish(chain, &f->err));
    sink_free(chain);

    assert_string_equal(problem_log_text(&f->log),
                        "CHECKSUM pg_tblspc/16385/b: checksum mismatch for file "
                        "\"pg_tblspc/16385/b\" in archive \"16385.tar\"\n"
                        "EXTRA pg_tblspc/16385/e: file \"e\" is present in archive \"16385.tar\" "
                        "but not in the manifest\n"
                        "SIZE pg_tblspc/16385/c: file \"c\" has size 600 in archive \"16385.tar\" "
                        "but size 1 in the manifest\n");
    assert_int_equal(marks[0], MARK_SEEN);
    assert_int_equal(marks[1], MARK_SEEN);
    assert_int_equal(marks[2], MARK_BAD);
    assert_int_equal(marks[3], MARK_UNSEEN);
    /* Everything has passed on. */
    assert_non_null(strstr(recording_text(&recording), "file c size=600"));
    assert_int_equal(recording.bytes.len, 600 + 600 + 3 + 600);
    recording_free(&recording);
    reporter_free(&verifier.reporter);
}

static void
test_pieces_make_no_difference(void **state)
{
    static const size_t pieces[] = {0, 1, 2, 3, 511, 512, 513, 1024, 1500};
    Fixture *f = *state;
    char content[600];
    PathSet ignore = PATH_SET_INIT;
    Manifest *manifest;

    memset(content, 'x', sizeof content);
    manifest_builder_file(&f->builder, "pg_tblspc/16385/a", content, 600, CHECKSUM_CRC32C);
    manifest_builder_file(&f->builder, "pg_tblspc/16385/b", content, 600, CHECKSUM_SHA256);
    list(f, "pg_tblspc/16385/c", "c", CHECKSUM_CRC32C);
    list(f, "a", "not in this archive", CHECKSUM_CRC32C);
    write_manifest(f, "manifest");
    assert_true(manifest_load(place(f, "manifest"), &manifest, &f->err));
    member_bytes(&f->base, "a", content, 600);
    content[599] = 'y';
    member_bytes(&f->base, "b", content, 600);
    member(&f->base, "e", "abc");
    member_bytes(&f->base, "c", content, 600);
    tar_end(&f->base);
    for (size_t i = 0; i < sizeof pieces / sizeof pieces[0]; i++)
        check_in_pieces(f, manifest, &ignore, pieces[i]);
    manifest_free(manifest);
}

/* ---- archives ---- */

static void
test_every_compression(void **state)
{
    static const char *const names[] = {"base.tar", "base.tgz", "base.tar.gz", "base.tar.lz4",
                                        "base.tar.zst"};
    Fixture *f = *state;
    char expected[256];

    both(f, "a", "abc");
    member(&f->base, "b", "abX");
    list(f, "b", "abc", CHECKSUM_SHA256);
    base_end(&f->base);
    write_manifest(f, "data/backup_manifest");
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        put_archive(f, names[i], &f->base);
        (void)snprintf(expected, sizeof expected,
                       "CHECKSUM b: checksum mismatch for file \"b\" in archive \"%s\"\n",
                       names[i]);
        assert_string_equal(again(f), expected);
        (void)snprintf(expected, sizeof expected, "data/%s", names[i]);
        assert_int_equal(unlink(place(f, expected)), 0);
    }
    assert_string_equal(again(f), "MISSING a: \"a\" is present in the manifest but not on disk\n"
                                  "MISSING b: \"b\" is present in the manifest but not on disk\n");
}

/* Tablespaces by their numbers, then the data directory. */
static void
test_tablespaces_in_order(void **state)
{
    static const char *const names[] = {"4294967295.tar", "16385.tar.zst", "9.tgz", "10.tar.lz4",
                                        "1.tar"};
    Fixture *f = *state;

    list(f, "pg_tblspc/9/PG_18_1/5/1", "Abc", CHECKSUM_CRC32C);
    list(f, "pg_tblspc/16385/PG_18_1/5/1", "Abc", CHECKSUM_CRC32C);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        member(&f->other, "PG_18_1/5/1", "abc");
        put_tar(f, names[i], &f->other);
    }
    /* Not there, although its tablespace has a file of that name. */
    list(f, "PG_18_1/5/1", "abc", CHECKSUM_CRC32C);
    member(&f->base, "base.tar", "");
    assert_string_equal(
        verify_base(f),
        "EXTRA pg_tblspc/1/PG_18_1/5/1: file \"PG_18_1/5/1\" is present in archive \"1.tar\" but "
        "not in the manifest\n"
        "CHECKSUM pg_tblspc/9/PG_18_1/5/1: checksum mismatch for file "
        "\"pg_tblspc/9/PG_18_1/5/1\" in archive \"9.tgz\"\n"
        "EXTRA pg_tblspc/10/PG_18_1/5/1: file \"PG_18_1/5/1\" is present in archive "
        "\"10.tar.lz4\" but not in the manifest\n"
        "CHECKSUM pg_tblspc/16385/PG_18_1/5/1: checksum mismatch for file "
        "\"pg_tblspc/16385/PG_18_1/5/1\" in archive \"16385.tar.zst\"\n"
        "EXTRA pg_tblspc/4294967295/PG_18_1/5/1: file \"PG_18_1/5/1\" is present in archive "
        "\"4294967295.tar\" but not in the manifest\n"
        "EXTRA base.tar: file \"base.tar\" is present in archive \"base.tar\" but not in the "
        "manifest\n"
        "MISSING PG_18_1/5/1: \"PG_18_1/5/1\" is present in the manifest but not on disk\n");
}

static void
test_names_that_are_none_of_an_archive(void **state)
{
    static const char *const names[] = {" 5.tar",
                                        "+5.tar",
                                        "-1.tar",
                                        ".tar",
                                        "0.tar",
                                        "016385.tar",
                                        "1.tar.bz2",
                                        "16385",
                                        "1x.tar",
                                        "4294967296.tar",
                                        "99999999999.tar",
                                        "BASE.tar",
                                        "backup_manifest.tmp",
                                        "bas.tar",
                                        "base",
                                        "base.gz",
                                        "base.tar.",
                                        "base.tar.gz.1",
                                        "base.tar.xz",
                                        "base1.tar",
                                        "pg_wal.tar.bak",
                                        "pg_wal2.tar",
                                        "tar"};
    Fixture *f = *state;
    Buf expected = BUF_INIT;

    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        put_text(f, names[i], "not looked at");
        assert_true(buf_printf(&expected, &f->err,
                               "EXTRA %s: file \"%s\" is not expected in a tar format backup\n",
                               names[i], names[i]));
    }
    both(f, "a", "abc");
    assert_string_equal(verify_base(f), buf_text(&expected));
    buf_free(&expected);
}

/* Nothing but regular files, whatever their names say; links are not followed. */
static void
test_what_is_no_regular_file(void **state)
{
    Fixture *f = *state;

    both(f, "a", "abc");
    put_tar(f, "../outside", &f->base);
    assert_int_equal(symlink("../outside", place(f, "data/base.tar")), 0);
    assert_int_equal(mkfifo(place(f, "data/1.tar"), 0600), 0);
    temp_dir_mkdir(&f->dir, "data/2.tar");
    temp_dir_mkdir(&f->dir, "data/base/5");
    put_text(f, "base/5/1", "not looked for");
    assert_string_equal(verify(f), "FILE_TYPE 1.tar: file \"1.tar\" is not a regular file\n"
                                   "FILE_TYPE 2.tar: file \"2.tar\" is not a regular file\n"
                                   "FILE_TYPE base: file \"base\" is not a regular file\n"
                                   "FILE_TYPE base.tar: file \"base.tar\" is not a regular file\n"
                                   "MISSING a: \"a\" is present in the manifest but not on disk\n");
}

static void
test_unreadable_archive(void **state)
{
    Fixture *f = *state;
    const uid_t nobody = 65534;

    both(f, "a", "abc");
    put_tar(f, "base.tar", &f->base);
    member(&f->other, "x", "abc");
    list(f, "pg_tblspc/1/x", "abc", CHECKSUM_CRC32C);
    put_tar(f, "1.tar", &f->other);
    write_manifest(f, "data/backup_manifest");
    assert_int_equal(chmod(place(f, "data/1.tar"), 0), 0);
    assert_int_equal(chmod(place(f, "data/base.tar"), 0644), 0);
    assert_int_equal(chmod(place(f, "data/backup_manifest"), 0644), 0);
    assert_int_equal(chmod(place(f, "data"), 0755), 0);
    assert_int_equal(chmod(f->dir.path, 0755), 0);
    if (geteuid() == 0)
        assert_int_equal(seteuid(nobody), 0);
    assert_true(run(f));
    if (getuid() == 0)
        assert_int_equal(seteuid(0), 0);
    assert_string_equal(
        problem_log_text(&f->log),
        "UNREADABLE 1.tar: could not open file \"1.tar\": Permission denied\n"
        "MISSING pg_tblspc/1/x: \"pg_tblspc/1/x\" is present in the manifest but not on disk\n");
}

/* ---- damaged archives ---- */

/* Three members of 700 bytes, of a block of header and two of content each, and the end. */
static void
three_members(Fixture *f)
{
    static const char *const names[] = {"a", "b", "c"};
    char content[700];

    memset(content, 'x', sizeof content);
    for (size_t i = 0; i < 3; i++) {
        member_bytes(&f->base, names[i], content, sizeof content);
        manifest_builder_file(&f->builder, names[i], content, sizeof content, CHECKSUM_CRC32C);
    }
    base_end(&f->base);
    /* What comes after it in any case. */
    member(&f->other, "x", "abX");
    list(f, "pg_tblspc/1/x", "abc", CHECKSUM_CRC32C);
    tar_end(&f->other);
    put_archive(f, "1.tar", &f->other);
    write_manifest(f, "data/backup_manifest");
}

#define OTHER_ARCHIVE                                                                              \
    "CHECKSUM pg_tblspc/1/x: checksum mismatch for file \"pg_tblspc/1/x\" in archive \"1.tar\"\n"
#define MISSING(NAME) "MISSING " NAME ": \"" NAME "\" is present in the manifest but not on disk\n"

static void
test_truncated_archive(void **state)
{
    static const struct {
        size_t len;
        const char *expected;
    } cases[] = {
        {0, "UNREADABLE base.tar: archive \"base.tar\" ends after 0 bytes without its end "
            "blocks\n" MISSING("a") MISSING("b") MISSING("c")},
        {100, "UNREADABLE base.tar: archive \"base.tar\" ends within a member's header\n" MISSING(
                  "a") MISSING("b") MISSING("c")},
        {3 * BLOCK + BLOCK + 100,
         "UNREADABLE base.tar: archive \"base.tar\" ends within member \"b\": 600 of its 700 "
         "bytes are missing\n" MISSING("b") MISSING("c")},
        {3 * BLOCK + BLOCK + 700, "UNREADABLE base.tar: archive \"base.tar\" ends within the "
                                  "padding of member \"b\"\n" MISSING("c")},
        {9 * BLOCK, "UNREADABLE base.tar: archive \"base.tar\" ends after 4608 bytes without its "
                    "end blocks\n"},
        {10 * BLOCK + BASE_END,
         "UNREADABLE base.tar: archive \"base.tar\" ends within its end blocks\n"},
        {11 * BLOCK + BASE_END, ""},
    };
    Fixture *f = *state;
    Buf expected = BUF_INIT;

    three_members(f);
    assert_int_equal(f->base.len, 11 * BLOCK + BASE_END);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        put(f, "base.tar", f->base.data, cases[i].len);
        buf_clear(&expected);
        assert_true(buf_printf(&expected, &f->err, "%s%s", OTHER_ARCHIVE, cases[i].expected));
        assert_string_equal(again(f), buf_text(&expected));
    }
    buf_free(&expected);
}

/* Wherever it ends there is a problem that names it, and never one of a file that is whole. */
static void
test_truncated_compressed_archives(void **state)
{
    static const char *const names[] = {"base.tar.gz", "base.tar.lz4", "base.tar.zst"};
    Fixture *f = *state;

    three_members(f);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char path[32];
        Buf whole;

        put_archive(f, names[i], &f->base);
        (void)snprintf(path, sizeof path, "data/%s", names[i]);
        whole = temp_dir_read(&f->dir, path);
        assert_string_equal(again(f), OTHER_ARCHIVE);
        for (size_t len = 0; len < whole.len; len++) {
            put(f, names[i], whole.data, len);
            assert_non_null(strstr(again(f), "UNREADABLE base.tar"));
            assert_null(strstr(problem_log_text(&f->log), "archive \"base.tar\" "));
            assert_null(strstr(problem_log_text(&f->log), "checksum mismatch for file \"a\""));
            assert_int_not_equal(f->problems, 1);
        }
        /* Of the last one only the end is missing. */
        assert_int_equal(f->problems, 2);
        buf_free(&whole);
        assert_int_equal(unlink(place(f, path)), 0);
    }
}

static void
test_garbage_behind_the_archive(void **state)
{
    static const char *const names[] = {"base.tar.gz", "base.tar.lz4", "base.tar.zst"};
    Fixture *f = *state;
    Buf bytes = BUF_INIT;

    three_members(f);
    assert_true(buf_append(&bytes, f->base.data, f->base.len, &f->err) &&
                buf_printf(&bytes, &f->err, "x"));
    put(f, "base.tar", bytes.data, bytes.len);
    buf_free(&bytes);
    assert_string_equal(again(f), OTHER_ARCHIVE
                        "UNREADABLE base.tar: archive \"base.tar\", at offset 10240: data after "
                        "the end of the archive\n");
    assert_int_equal(unlink(place(f, "data/base.tar")), 0);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char path[32];
        char expected[256];

        put_archive(f, names[i], &f->base);
        (void)snprintf(path, sizeof path, "data/%s", names[i]);
        bytes = temp_dir_read(&f->dir, path);
        assert_true(buf_printf(&bytes, &f->err, "x"));
        put(f, names[i], bytes.data, bytes.len);
        (void)snprintf(expected, sizeof expected,
                       OTHER_ARCHIVE
                       "UNREADABLE %s: archive \"%s\", at offset %zu: data after the end "
                       "of the ",
                       names[i], names[i], bytes.len - 1);
        assert_non_null(strstr(again(f), expected));
        buf_free(&bytes);
        assert_int_equal(unlink(place(f, path)), 0);
    }
}

static void
test_damaged_header(void **state)
{
    Fixture *f = *state;

    three_members(f);
    f->base.data[3 * BLOCK] ^= 1;
    put_archive(f, "base.tar", &f->base);
    assert_string_equal(again(f), OTHER_ARCHIVE
                        "UNREADABLE base.tar: archive \"base.tar\", at offset 1536: tar header has "
                        "checksum 13373 instead of 13374\n" MISSING("b") MISSING("c"));
    assert_int_equal(unlink(place(f, "data/base.tar")), 0);
    put_archive(f, "base.tar.gz", &f->base); /* it is told by the name of the file that is there */
    assert_string_equal(again(f), OTHER_ARCHIVE
                        "UNREADABLE base.tar.gz: archive \"base.tar.gz\", at offset 1536 "
                        "uncompressed: tar header has "
                        "checksum 13373 instead of 13374\n" MISSING("b") MISSING("c"));
}

static void
test_members_that_are_not_supported(void **state)
{
    Fixture *f = *state;

    both(f, "a", "abc");
    tar_add(&f->base, &(TarMember){.name = "PaxHeaders/b", .type = 'x'});
    both(f, "b", "abc");
    assert_string_equal(verify_base(f),
                        "UNREADABLE base.tar: archive \"base.tar\", at offset 1024: tar member "
                        "\"PaxHeaders/b\" has type \"x\": pax extensions are not "
                        "supported\n" MISSING("b"));
    builder_begin(f, 2);
    both(f, "a", "abc");
    member(&f->base, "../b", "abc");
    assert_string_equal(verify_base(f), "UNREADABLE base.tar: archive \"base.tar\": member "
                                        "\"../b\" has an unsafe path\n");
}

static void
test_not_what_the_name_says(void **state)
{
    Fixture *f = *state;

    three_members(f);
    put_archive(f, "base.tar.zst", &f->base);
    assert_int_equal(rename(place(f, "data/base.tar.zst"), place(f, "data/base.tar.gz")), 0);
    assert_string_equal(
        again(f), OTHER_ARCHIVE
        "UNREADABLE base.tar.gz: archive \"base.tar.gz\" is not gzip data\n" MISSING("a")
            MISSING("b") MISSING("c"));
}

/* ---- pg_control ---- */

static void
put_le(uint8_t *at, uint64_t value, int bytes)
{
    for (int i = 0; i < bytes; i++)
        at[i] = (uint8_t)(value >> (8 * i));
}

/* As a server of version 18 has it, as far as it is looked at. */
static void
make_control(uint8_t bytes[8192], uint64_t system_id)
{
    memset(bytes, 0, 8192);
    put_le(bytes, system_id, 8);
    put_le(bytes + 8, 1800, 4);
    put_le(bytes + 12, 202506291, 4);
    put_le(bytes + 216, 8192, 4);
    put_le(bytes + 220, 131072, 4);
    put_le(bytes + 224, 8192, 4);
    put_le(bytes + 228, 16 * 1024 * 1024, 4);
    put_le(bytes + 292, crc32c(0, bytes, 292), 4);
}

static void
both_control(Fixture *f, const uint8_t *bytes, size_t len)
{
    member_bytes(&f->base, "global/pg_control", bytes, len);
    manifest_builder_file(&f->builder, "global/pg_control", bytes, len, CHECKSUM_CRC32C);
}

static void
test_control_of_this_cluster(void **state)
{
    Fixture *f = *state;
    uint8_t control[8192];

    make_control(control, SYSTEM_ID);
    both_control(f, control, sizeof control);
    assert_string_equal(verify_base(f), "");
}

static void
test_control_of_another_cluster(void **state)
{
    Fixture *f = *state;
    uint8_t control[8192];

    make_control(control, 12345);
    both_control(f, control, sizeof control);
    f->config.skip_checksums = true; /* makes no difference here */
    assert_string_equal(verify_base(f),
                        "SYSTEM_ID global/pg_control: base.tar: global/pg_control: manifest system "
                        "identifier is 7000000000000000001, but control file has 12345\n");
}

static void
test_damaged_control(void **state)
{
    Fixture *f = *state;
    uint8_t control[8192];

    make_control(control, SYSTEM_ID);
    manifest_builder_file(&f->builder, "global/pg_control", control, sizeof control,
                          CHECKSUM_CRC32C);
    control[40] ^= 1;
    member_bytes(&f->base, "global/pg_control", control, sizeof control);
    put_tar(f, "base.tar.gz", &f->base);
    assert_string_equal(
        verify(f), "CHECKSUM global/pg_control: checksum mismatch for file \"global/pg_control\" "
                   "in archive \"base.tar.gz\"\n"
                   "CONTROL global/pg_control: base.tar.gz: global/pg_control: CRC is incorrect\n");
}

static void
test_control_twice(void **state)
{
    Fixture *f = *state;
    uint8_t control[8192];

    make_control(control, SYSTEM_ID);
    both_control(f, control, sizeof control);
    make_control(control, 12345);
    member_bytes(&f->base, "global/pg_control", control, sizeof control);
    /* Its CRC-32C is that of the first all the same: it ends with the CRC of what is before. */
    assert_string_equal(verify_base(f),
                        "SYSTEM_ID global/pg_control: base.tar: global/pg_control: manifest system "
                        "identifier is 7000000000000000001, but control file has 12345\n");
}

static void
test_control_of_odd_size(void **state)
{
    Fixture *f = *state;
    uint8_t control[9000] = {0};

    make_control(control, SYSTEM_ID);
    both_control(f, control, 20);
    assert_string_equal(verify_base(f), "CONTROL global/pg_control: base.tar: global/pg_control: "
                                        "control file is too short: 20 bytes\n");
    builder_begin(f, 2);
    both_control(f, control, sizeof control); /* what is behind it says nothing */
    assert_string_equal(verify_base(f), "");
    builder_begin(f, 2);
    member_bytes(&f->base, "global/pg_control", control, 8192);
    manifest_builder_file(&f->builder, "global/pg_control", control, 20, CHECKSUM_CRC32C);
    assert_string_equal(verify_base(f),
                        "SIZE global/pg_control: file \"global/pg_control\" has size 8192 in "
                        "archive \"base.tar\" but size 20 in the manifest\n");
}

static void
test_control_that_says_nothing(void **state)
{
    static const char *const ignore[] = {"global"};
    Fixture *f = *state;

    builder_begin(f, 1); /* of a manifest without a system identifier */
    both(f, "global/pg_control", "nonsense");
    assert_string_equal(verify_base(f), "");

    builder_begin(f, 2); /* of a tablespace, where it has no meaning */
    member(&f->other, "global/pg_control", "nonsense");
    list(f, "pg_tblspc/1/global/pg_control", "nonsense", CHECKSUM_CRC32C);
    put_tar(f, "1.tar", &f->other);
    assert_string_equal(verify_base(f), "");
    assert_int_equal(unlink(place(f, "data/1.tar")), 0);

    builder_begin(f, 2);
    both(f, "global/pg_control", "nonsense");
    f->config.ignore = ignore;
    f->config.ignore_count = 1;
    assert_string_equal(verify_base(f), "");
}

/* ---- WAL ---- */

/*
 * WAL of two segments of 1 MiB, the range from within the first one to within the second one, and
 * something else behind it. Returns the length of the range.
 */
static uint64_t
make_wal(Fixture *f, uint64_t system_id)
{
    Lsn start;
    Lsn end;

    f->config.skip_wal = false;
    wal_builder_free(&f->wal);
    wal_builder_init(&f->wal, &(WalBuilderConfig){.magic = 0xD118,
                                                  .timeline = 1,
                                                  .system_id = system_id,
                                                  .segment_size = MIB,
                                                  .start = 2 * MIB});
    start = wal_builder_record(&f->wal, 10, 0x10, 200);
    (void)wal_builder_record_until(&f->wal, 3 * MIB + 0x4000);
    (void)wal_builder_record(&f->wal, 0, WAL_BACKUP_END, 34);
    end = f->wal.end;
    manifest_builder_wal_range(&f->builder, 1, start, end);
    wal_builder_zero(&f->wal, 4 * MIB);
    memset(wal_builder_at(&f->wal, 3 * MIB + 0x8000), 'x', 8192);
    return end - start;
}

static void
add_segment(Fixture *f, Buf *tar, const char *name, Lsn segment)
{
    Span bytes = wal_builder_span(&f->wal, segment, segment + MIB);

    member_bytes(tar, name, bytes.data, bytes.len);
}

#define NO_WAL(ARCHIVE)                                                                            \
    "WAL " ARCHIVE " 0/200028: WAL parsing failed for timeline 1: in archive \"" ARCHIVE           \
    "\": at LSN 0/200028: no whole WAL segment\n"

static void
test_wal_of_the_backup(void **state)
{
    static const char *const names[] = {"pg_wal.tar", "pg_wal.tgz", "pg_wal.tar.gz",
                                        "pg_wal.tar.lz4", "pg_wal.tar.zst"};
    Fixture *f = *state;

    both(f, "a", "abc");
    put_tar(f, "base.tar", &f->base);
    (void)make_wal(f, SYSTEM_ID);
    write_manifest(f, "data/backup_manifest");
    member(&f->other, "00000001.history", "x");
    add_segment(f, &f->other, "000000010000000000000002", 2 * MIB);
    member(&f->other, "archive_status/000000010000000000000002.done", "");
    add_segment(f, &f->other, "./000000010000000000000003", 3 * MIB);
    tar_end(&f->other);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char path[32];

        (void)snprintf(path, sizeof path, "data/%s", names[i]);
        put_archive(f, names[i], &f->other);
        assert_string_equal(again(f), "");
        assert_int_equal(unlink(place(f, path)), 0);
    }
    assert_string_equal(again(f), NO_WAL("base.tar"));
    f->config.skip_wal = true;
    put_text(f, "pg_wal.tar", "not looked at");
    assert_string_equal(again(f), "");
}

static void
test_damaged_wal(void **state)
{
    Fixture *f = *state;

    (void)make_wal(f, SYSTEM_ID);
    *wal_builder_at(&f->wal, 3 * MIB + 0x4020) ^= 1;
    add_segment(f, &f->other, "000000010000000000000002", 2 * MIB);
    add_segment(f, &f->other, "000000010000000000000003", 3 * MIB);
    put_tar(f, "pg_wal.tar.gz", &f->other);
    f->config.skip_checksums = true; /* makes no difference here */
    assert_string_equal(verify_base(f),
                        "WAL pg_wal.tar.gz 0/304018: WAL parsing failed for timeline 1: in archive "
                        "\"pg_wal.tar.gz\": at LSN 0/304018 in segment "
                        "\"000000010000000000000003\": previous record link is "
                        "0/2000F1, expected 0/2000F0\n");
}

static void
test_wal_of_another_cluster(void **state)
{
    Fixture *f = *state;

    (void)make_wal(f, 5);
    add_segment(f, &f->other, "000000010000000000000002", 2 * MIB);
    put_tar(f, "pg_wal.tar", &f->other);
    assert_string_equal(
        verify_base(f),
        "WAL pg_wal.tar 0/200000: WAL parsing failed for timeline 1: in archive \"pg_wal.tar\": at "
        "LSN 0/200000 in segment \"000000010000000000000002\": system identifier is 5, expected "
        "7000000000000000001\n");
}

/* Without an archive of its own the WAL is where the server sends it: in pg_wal of base.tar. */
static void
test_wal_in_the_base_archive(void **state)
{
    Fixture *f = *state;

    (void)make_wal(f, SYSTEM_ID);
    write_manifest(f, "data/backup_manifest");
    add_segment(f, &f->base, "pg_wal/000000010000000000000002", 2 * MIB);
    add_segment(f, &f->base, "pg_wal/000000010000000000000003", 3 * MIB);
    base_end(&f->base);
    put_archive(f, "base.tar.zst", &f->base);
    assert_string_equal(again(f), "");

    /* That of an archive of its own goes before it. */
    tar_end(&f->other);
    put_archive(f, "pg_wal.tar", &f->other);
    assert_string_equal(again(f), NO_WAL("pg_wal.tar"));
    assert_int_equal(unlink(place(f, "data/pg_wal.tar")), 0);

    /* Beside the place where they belong they are files like any other. */
    buf_clear(&f->base);
    add_segment(f, &f->base, "000000010000000000000002", 2 * MIB);
    put_tar(f, "base.tar.zst", &f->base);
    assert_string_equal(
        again(f),
        "EXTRA 000000010000000000000002: file \"000000010000000000000002\" is "
        "present in archive \"base.tar.zst\" but not in the manifest\n" NO_WAL("base.tar.zst"));
}

static void
test_wal_directory(void **state)
{
    Fixture *f = *state;
    Span bytes;

    (void)make_wal(f, SYSTEM_ID);
    put_text(f, "pg_wal.tar", "not looked at");
    temp_dir_mkdir(&f->dir, "wal");
    bytes = wal_builder_span(&f->wal, 2 * MIB, 3 * MIB);
    temp_dir_write(&f->dir, "wal/000000010000000000000002", bytes.data, bytes.len);
    bytes = wal_builder_span(&f->wal, 3 * MIB, 4 * MIB);
    temp_dir_write(&f->dir, "wal/000000010000000000000003", bytes.data, bytes.len);
    f->config.wal_directory = place(f, "wal");
    assert_string_equal(verify_base(f), "");
    assert_int_equal(unlink(place(f, "wal/000000010000000000000003")), 0);
    assert_non_null(strstr(again(f), "segment \"000000010000000000000003\": file is missing\n"));
}

/* What is wrong with the archive is told as well as what is wrong with the WAL. */
static void
test_truncated_wal_archive(void **state)
{
    Fixture *f = *state;

    (void)make_wal(f, SYSTEM_ID);
    both(f, "a", "abX");
    add_segment(f, &f->other, "000000010000000000000002", 2 * MIB);
    put(f, "pg_wal.tar", f->other.data, BLOCK + 0x3000);
    assert_string_equal(
        verify_base(f),
        "UNREADABLE pg_wal.tar: archive \"pg_wal.tar\" ends within member "
        "\"000000010000000000000002\": 1036288 of its 1048576 bytes are missing\n"
        "WAL pg_wal.tar 0/203000: WAL parsing failed for timeline 1: in archive \"pg_wal.tar\": at "
        "LSN 0/203000 in segment \"000000010000000000000002\": the archive ends here\n");
}

/* ---- the manifest, the directory ---- */

static void
test_manifest_elsewhere(void **state)
{
    Fixture *f = *state;

    both(f, "a", "abc");
    put_tar(f, "base.tar", &f->base);
    put_text(f, "backup_manifest", "nonsense that is not read");
    write_manifest(f, "manifest");
    f->config.manifest_path = place(f, "manifest");
    assert_string_equal(again(f), "");
}

static void
test_what_cannot_be_looked_at_is_an_error(void **state)
{
    Fixture *f = *state;
    char expected[1024];

    assert_false(run(f));
    assert_int_equal(f->err.code, ERR_SYSTEM);
    (void)snprintf(expected, sizeof expected,
                   "could not open file \"%s/backup_manifest\": No such file or directory",
                   f->config.directory);
    assert_string_equal(f->err.message, expected);
    assert_int_equal(f->problems, UINT64_MAX);

    write_manifest(f, "manifest");
    f->config.manifest_path = place(f, "manifest");
    f->config.directory = place(f, "nowhere");
    assert_false(run(f));
    (void)snprintf(expected, sizeof expected,
                   "could not open directory \"%s\": No such file or directory",
                   f->config.directory);
    assert_string_equal(f->err.message, expected);
}

/* ---- data pages ---- */

#define PAGE 8192u

/* A page with content, changed before everything else, and a right checksum. */
static void
make_page(uint8_t page[PAGE], uint32_t block)
{
    memset(page, 'p', PAGE);
    put_le(page, 0, 8);
    put_le(page + 14, PAGE, 2);
    put_le(page + 8, page_checksum(page, PAGE, block), 2);
}

/* pg_control as the last member, of a cluster with data checksums (1) or without (0). */
static void
both_pages_control(Fixture *f, uint32_t checksums, uint32_t page_size)
{
    uint8_t control[8192];

    make_control(control, SYSTEM_ID);
    put_le(control + 216, page_size, 4);
    put_le(control + 252, checksums, 4);
    put_le(control + 292, crc32c(0, control, 292), 4);
    both_control(f, control, sizeof control);
}

static void
list_bytes(Fixture *f, const char *path, const uint8_t *bytes, size_t len)
{
    manifest_builder_file(&f->builder, path, bytes, len, CHECKSUM_CRC32C);
}

static void
expect_page(Fixture *f, Buf *expected, const char *path, uint32_t block, const uint8_t *page)
{
    assert_true(buf_printf(expected, &f->err,
                           "PAGE %s: page verification failed: %s block %u: calculated checksum %X "
                           "but found %X\n",
                           path, path, block, page_checksum(page, PAGE, block),
                           page[8] | (unsigned)page[9] << 8));
}

/*
 * A relation in the data directory whose second page is bad, one of a tablespace whose only page
 * is, of segment 2, and a file that is no relation. *expected is what is to be told.
 */
static void
make_pages(Fixture *f, Buf *expected)
{
    uint8_t pages[3 * PAGE];
    uint8_t other[PAGE];

    for (uint32_t i = 0; i < 3; i++)
        make_page(pages + i * PAGE, i);
    pages[PAGE + 100] ^= 1;
    make_page(other, 5);
    list_bytes(f, "base/1/1259", pages, sizeof pages);
    list_bytes(f, "base/1/pg_filenode.map", other, PAGE);
    list_bytes(f, "pg_tblspc/16385/PG_18_1/5/77.2", other, PAGE);
    member_bytes(&f->base, "base/1/1259", pages, sizeof pages);
    member_bytes(&f->base, "base/1/pg_filenode.map", other, PAGE);
    member_bytes(&f->other, "PG_18_1/5/77.2", other, PAGE);
    put_tar(f, "16385.tar.lz4", &f->other);
    expect_page(f, expected, "base/1/1259", 1, pages + PAGE);
    expect_page(f, expected, "pg_tblspc/16385/PG_18_1/5/77.2", 2 * 131072, other);
}

static void
test_bad_pages(void **state)
{
    Fixture *f = *state;
    Buf expected = BUF_INIT;

    make_pages(f, &expected);
    both_pages_control(f, 1, PAGE);
    put_tar(f, "base.tar.gz", &f->base);
    assert_string_equal(verify(f), buf_text(&expected));
    assert_true(f->summary.has_pages);
    assert_int_equal(f->summary.pages, 4);
    assert_int_equal(f->summary.bad_pages, 2);

    f->config.skip_pages = true;
    assert_string_equal(again(f), "");
    assert_false(f->summary.has_pages);
    assert_int_equal(f->summary.pages, 0);
    f->config.skip_pages = false;
    f->config.skip_checksums = true;
    assert_string_equal(again(f), "");
    assert_false(f->summary.has_pages);
    buf_free(&expected);
}

/* Each of them counts when it comes to having enough. */
static void
test_enough_bad_pages(void **state)
{
    Fixture *f = *state;
    Buf expected = BUF_INIT;

    make_pages(f, &expected);
    both_pages_control(f, 1, PAGE);
    put_tar(f, "base.tar", &f->base);
    f->log.limit = 1;
    assert_memory_equal(verify(f), buf_text(&expected), 20);
    assert_int_equal(f->problems, 1);
    buf_free(&expected);
}

/* Nobody knows of checksums, or of pages of that size: not checked, and not said to be. */
static void
test_pages_that_do_not_count(void **state)
{
    static const struct {
        uint32_t checksums;
        uint32_t page_size;
    } cases[] = {{0, PAGE}, {2, PAGE}, {1, 16384}};
    Fixture *f = *state;
    Buf expected = BUF_INIT;

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        builder_begin(f, 2);
        make_pages(f, &expected);
        both_pages_control(f, cases[i].checksums, cases[i].page_size);
        assert_string_equal(verify_base(f), "");
        assert_false(f->summary.has_pages);
        assert_int_equal(f->summary.pages, 0);
    }
    builder_begin(f, 2);
    make_pages(f, &expected); /* and no pg_control at all */
    assert_string_equal(verify_base(f), "");
    assert_false(f->summary.has_pages);
    buf_free(&expected);
}

/* Those that are new, or were changed while the backup was taken. */
static void
test_pages_that_are_not_checked(void **state)
{
    Fixture *f = *state;
    uint8_t pages[4 * PAGE];

    for (uint32_t i = 0; i < 4; i++) {
        make_page(pages + i * PAGE, i);
        pages[i * PAGE + 100] ^= 1;
    }
    make_page(pages, 0);
    put_le(pages + PAGE + 14, 0, 2);
    put_le(pages + (size_t)2 * PAGE, 0, 4); /* LSN: high half, low half */
    put_le(pages + (size_t)2 * PAGE + 4, 0x2000028, 4);
    put_le(pages + (size_t)3 * PAGE, 1, 4);
    list_bytes(f, "base/1/1259", pages, sizeof pages);
    member_bytes(&f->base, "base/1/1259", pages, sizeof pages);
    both_pages_control(f, 1, PAGE);
    manifest_builder_wal_range(&f->builder, 2, 0x3000028, 0x3000100);
    manifest_builder_wal_range(&f->builder, 1, 0x2000028, 0x3000028); /* the lowest start counts */
    assert_string_equal(verify_base(f), "");
    assert_int_equal(f->summary.pages, 1);
}

/* A cluster without checksums: its pages are looked at only until that is plain. */
static void
test_cluster_without_checksums(void **state)
{
    static const uint32_t says[] = {0, 1};
    const size_t count = 4096;
    Fixture *f = *state;
    uint8_t *pages = calloc(count + 1, PAGE);

    for (size_t i = 0; i <= count; i++)
        put_le(pages + i * PAGE + 14, PAGE, 2);
    for (size_t i = 0; i < sizeof says / sizeof says[0]; i++) {
        builder_begin(f, 2);
        list_bytes(f, "base/1/1", pages, PAGE * (count - 1));
        list_bytes(f, "base/1/2", pages, PAGE);
        list_bytes(f, "base/1/3", pages, PAGE);
        member_bytes(&f->base, "base/1/1", pages, PAGE * (count - 1));
        member_bytes(&f->base, "base/1/2", pages, PAGE);
        member_bytes(&f->base, "base/1/3", pages, PAGE);
        both_pages_control(f, says[i], PAGE);
        (void)verify_base(f);
        assert_int_equal(f->summary.has_pages, says[i] == 1);
        /* Told otherwise: what is known is bad enough. */
        assert_int_equal(f->summary.bad_pages, says[i] == 1 ? count : 0);
        assert_int_equal(f->problems, says[i] == 1 ? PAGE_REPORTS_PER_FILE + 2 + 1 : 0);
    }
    free(pages);
}

/* What has changed on its way has the digest of another file, and bad pages besides. */
static void
test_changed_page(void **state)
{
    Fixture *f = *state;
    Buf expected = BUF_INIT;
    uint8_t pages[2 * PAGE];

    make_page(pages, 0);
    make_page(pages + PAGE, 1);
    list_bytes(f, "base/1/1259", pages, sizeof pages);
    pages[PAGE + 8000] ^= 4;
    member_bytes(&f->base, "base/1/1259", pages, sizeof pages);
    both_pages_control(f, 1, PAGE);
    assert_true(buf_printf(&expected, &f->err,
                           "CHECKSUM base/1/1259: checksum mismatch for file \"base/1/1259\" in "
                           "archive \"base.tar\"\n"));
    expect_page(f, &expected, "base/1/1259", 1, pages + PAGE);
    assert_string_equal(verify_base(f), buf_text(&expected));
    buf_free(&expected);
}

/* ---- backup_pages ---- */

static void
put_page_digests(Fixture *f, const char *path, const uint8_t *bytes, size_t pages)
{
    PageDigestWriter *writer;

    (void)unlink(place(f, "data/backup_pages"));
    writer = page_digest_writer_new(place(f, "data/backup_pages"), 0600, PAGE, &f->err);
    assert_non_null(writer);
    assert_true(page_digest_writer_begin(writer, path, pages * PAGE, &f->err));
    for (size_t i = 0; i < pages; i++)
        assert_true(page_digest_writer_add(writer, crc32c(0, bytes + i * PAGE, PAGE), &f->err));
    assert_true(page_digest_writer_finish(writer, false, &f->err));
    page_digest_writer_free(writer);
}

static void
test_page_digests(void **state)
{
    Fixture *f = *state;
    uint8_t pages[3 * PAGE];
    const char *text;

    for (uint32_t i = 0; i < 3; i++)
        make_page(pages + i * PAGE, i);
    put_page_digests(f, "pg_tblspc/7/PG_18_1/5/1", pages, 3);
    list_bytes(f, "pg_tblspc/7/PG_18_1/5/1", pages, sizeof pages);
    member_bytes(&f->other, "PG_18_1/5/1", pages, sizeof pages);
    put_tar(f, "7.tar.zst", &f->other);
    assert_string_equal(verify_base(f), "");
    assert_true(f->summary.page_digests);

    pages[2 * PAGE + 8000] ^= 4;
    member_bytes(&f->other, "PG_18_1/5/1", pages, sizeof pages);
    put_tar(f, "7.tar.zst", &f->other);
    text = again(f);
    assert_int_equal(f->problems, 2);
    assert_memory_equal(text, "CHECKSUM pg_tblspc/7/PG_18_1/5/1: ", 34);
    assert_non_null(strstr(text, "\nPAGE_CHANGED pg_tblspc/7/PG_18_1/5/1: file "
                                 "\"pg_tblspc/7/PG_18_1/5/1\": page 2 (bytes 16384 to 24575) has "
                                 "changed"));
    f->log.limit = 1;
    (void)again(f);
    assert_int_equal(f->problems, 1);
    f->log.limit = 0;

    /* One that is damaged is of no use; that it is there is no problem by itself. */
    put_text(f, "backup_pages", "nonsense");
    text = again(f);
    assert_memory_equal(text, "PAGE_DIGESTS backup_pages: ", 27);
    assert_int_equal(f->problems, 2);
    assert_false(f->summary.page_digests);
}

/* ---- directories ---- */

static void
test_missing_directories(void **state)
{
    static const char *const ignore[] = {"pg_twophase"};
    Fixture *f = *state;

    both(f, "PG_VERSION", "18\n");
    member(&f->base, "pg_logical/mappings/x", "");
    list(f, "pg_logical/mappings/x", "", CHECKSUM_CRC32C);
    tar_add(&f->base, &(TarMember){TAR_DIRECTORY("pg_commit_ts")});
    tar_add(&f->base, &(TarMember){TAR_DIRECTORY("./pg_logical/snapshots/")});
    tar_add(&f->base, &(TarMember){TAR_DIRECTORY("pg_replslot/sub/")});
    tar_add(&f->base, &(TarMember){TAR_DIRECTORY("pg_subtrans")});
    tar_end(&f->base);
    put_archive(f, "base.tar", &f->base);
    member(&f->other, "x", "abc"); /* has nothing to do with the data directory's pg_tblspc */
    list(f, "pg_tblspc/1/x", "abc", CHECKSUM_CRC32C);
    put_tar(f, "1.tar", &f->other);
    f->config.ignore = ignore;
    f->config.ignore_count = 1;
    assert_string_equal(
        verify(f),
        "DIRECTORY pg_notify: directory \"pg_notify\" is missing: no server starts without it\n"
        "DIRECTORY pg_tblspc: directory \"pg_tblspc\" is missing: no server starts without it\n");

    /* Of an archive that is cut short nobody knows. */
    put(f, "base.tar", f->base.data, f->base.len - BLOCK);
    assert_string_equal(again(f), "UNREADABLE base.tar: archive \"base.tar\" ends within its end "
                                  "blocks\n");
}

/* ---- what there is to know of a problem, and of the whole ---- */

typedef struct LastProblem {
    ProblemKind kind;
    uint64_t expected;
    uint64_t found;
    uint8_t expected_digest[CHECKSUM_MAX];
    uint8_t found_digest[CHECKSUM_MAX];
    size_t expected_len;
    size_t found_len;
} LastProblem;

static bool
keep_problem(void *ctx, const Problem *problem)
{
    LastProblem *last = ctx;

    *last = (LastProblem){.kind = problem->kind,
                          .expected = problem->expected,
                          .found = problem->found,
                          .expected_len = problem->expected_digest.len,
                          .found_len = problem->found_digest.len};
    if (last->expected_len > 0)
        memcpy(last->expected_digest, problem->expected_digest.data, last->expected_len);
    if (last->found_len > 0)
        memcpy(last->found_digest, problem->found_digest.data, last->found_len);
    return true;
}

static LastProblem
only_problem(Fixture *f)
{
    LastProblem last;

    put_tar(f, "base.tar", &f->base);
    write_manifest(f, "data/backup_manifest");
    f->config.problems = (ProblemSink){.report = keep_problem, .ctx = &last};
    assert_true(verify_tar(&f->config, &f->problems, &f->err));
    assert_int_equal(f->problems, 1);
    return last;
}

static void
test_expected_and_found(void **state)
{
    Fixture *f = *state;
    LastProblem last;

    member(&f->base, "a", "1234567");
    list(f, "a", "123", CHECKSUM_CRC32C);
    last = only_problem(f);
    assert_int_equal(last.kind, PROBLEM_SIZE);
    assert_int_equal(last.expected, 3);
    assert_int_equal(last.found, 7);

    builder_begin(f, 2);
    member(&f->base, "a", "abX");
    list(f, "a", "abc", CHECKSUM_CRC32C);
    last = only_problem(f);
    assert_int_equal(last.kind, PROBLEM_CHECKSUM);
    assert_int_equal(last.expected_len, 4);
    assert_int_equal(last.found_len, 4);
    assert_int_equal(get_le32(last.expected_digest), crc32c(0, "abc", 3));
    assert_int_equal(get_le32(last.found_digest), crc32c(0, "abX", 3));
}

static void
test_summary(void **state)
{
    Fixture *f = *state;
    uint64_t wal_bytes;

    both(f, "a", "1234567");
    both(f, "empty", "");
    member(&f->base, "undigested", "abc");
    list(f, "undigested", "abc", CHECKSUM_NONE);
    member(&f->base, "extra", "abc");
    member(&f->base, "b", "12");
    list(f, "b", "1", CHECKSUM_CRC32C);
    wal_bytes = make_wal(f, SYSTEM_ID);
    add_segment(f, &f->base, "pg_wal/000000010000000000000002", 2 * MIB);
    add_segment(f, &f->base, "pg_wal/000000010000000000000003", 3 * MIB);
    (void)verify_base(f);
    assert_int_equal(f->problems, 2);
    assert_int_equal(f->summary.files, 2);
    assert_int_equal(f->summary.bytes, 7);
    assert_int_equal(f->summary.wal_bytes, wal_bytes);
    assert_false(f->summary.has_pages);
    assert_false(f->summary.page_digests);
}

/* ---- the manifest in the archive ---- */

static void
add_manifest(Fixture *f)
{
    Buf text = BUF_INIT;

    manifest_builder_finish(&f->builder, &text);
    member_bytes(&f->base, "./backup_manifest", text.data, text.len);
    buf_free(&text);
}

/* As the last member, of a backup that went to standard output, or in the midst. */
static void
test_manifest_in_the_archive(void **state)
{
    static const char *const names[] = {"base.tar", "base.tgz", "base.tar.gz", "base.tar.lz4",
                                        "base.tar.zst"};
    Fixture *f = *state;

    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char path[32];

        builder_begin(f, 2);
        both(f, "a", "abc");
        member(&f->base, "b", "abX");
        list(f, "b", "abc", CHECKSUM_CRC32C);
        add_manifest(f);
        if (i % 2 == 0)
            member(&f->base, "c", "abc");
        base_end(&f->base);
        put_archive(f, names[i], &f->base);
        buf_clear(&f->base);
        assert_memory_equal(again(f), "CHECKSUM b: ", 12);
        assert_int_equal(f->problems, 1 + (i + 1) % 2);
        (void)snprintf(path, sizeof path, "data/%s", names[i]);
        assert_int_equal(unlink(place(f, path)), 0);
    }
}

/* One beside the archive, or one that is named, goes before. */
static void
test_manifest_beside_the_archive(void **state)
{
    Fixture *f = *state;

    both(f, "a", "abc");
    add_manifest(f);
    builder_begin(f, 2);
    list(f, "a", "abc", CHECKSUM_CRC32C);
    list(f, "b", "abc", CHECKSUM_CRC32C);
    assert_string_equal(verify_base(f), MISSING("b"));
    assert_int_equal(unlink(place(f, "data/backup_manifest")), 0);
    assert_string_equal(again(f), "");
    f->config.manifest_path = place(f, "nowhere");
    assert_false(run(f));
    assert_int_equal(f->err.sys_errno, ENOENT);
    assert_string_equal(f->err.hint, "");
}

static void
assert_no_manifest(Fixture *f, const char *message)
{
    for (f->config.jobs = 1; f->config.jobs <= 2; f->config.jobs++) {
        f->err = ERROR_INIT;
        assert_false(run(f));
        if (strstr(f->err.message, message) == NULL)
            fail_msg("\"%s\" is not \"%s\"", f->err.message, message);
    }
    f->config.jobs = 0;
}

static void
test_no_manifest_in_the_archive(void **state)
{
    static const char *const names[] = {"base.tar", "base.tar.gz", "base.tar.lz4", "base.tar.zst"};
    Fixture *f = *state;

    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char path[32];

        (void)snprintf(path, sizeof path, "data/%s", names[i]);
        member(&f->base, "a", "abc");
        tar_add(&f->base, &(TarMember){TAR_DIRECTORY("backup_manifest")});
        put_tar(f, names[i], &f->base);
        assert_no_manifest(f, "/backup_manifest\": No such file or directory");
        assert_non_null(strstr(f->err.hint, "does not hold it either"));

        member(&f->base, "backup_manifest", "nonsense");
        put_tar(f, names[i], &f->base);
        assert_no_manifest(f, "could not read \"backup_manifest\" in archive \"base.tar");

        builder_begin(f, 2);
        add_manifest(f);
        f->base.data[BLOCK + 60] ^= 1; /* its checksum tells */
        put_tar(f, names[i], &f->base);
        assert_no_manifest(f, "could not read \"backup_manifest\" in archive \"base.tar");

        member(&f->base, "a", "abc");
        f->base.data[0] ^= 1;
        put_tar(f, names[i], &f->base);
        assert_no_manifest(f, i == 0 ? "at offset 0: tar header has checksum"
                                     : "at offset 0 uncompressed: tar header has checksum");

        builder_begin(f, 2);
        add_manifest(f);
        f->base.len = BLOCK + 10;
        put_archive(f, names[i], &f->base);
        buf_clear(&f->base);
        assert_no_manifest(f, "ends within member \"");
        assert_int_equal(unlink(place(f, path)), 0);
    }
    assert_int_equal(mkdir(place(f, "data/base.tar"), 0700), 0);
    assert_no_manifest(f, "Is a directory");
}

/* ---- compressed in several pieces ---- */

/* Members of gzip, frames of the others, cut anywhere. */
static void
test_several_members(void **state)
{
    static const char *const names[] = {"base.tar.gz", "base.tar.lz4", "base.tar.zst"};
    Fixture *f = *state;

    three_members(f);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char path[32];

        (void)snprintf(path, sizeof path, "data/%s", names[i]);
        for (size_t cut = 0; cut <= f->base.len; cut += 300) {
            CompressionMethod method = compression_of_name(names[i]);
            Buf one = compressed(method, (Span){.data = f->base.data, .len = cut});
            Buf two =
                compressed(method, (Span){.data = f->base.data + cut, .len = f->base.len - cut});

            assert_true(buf_append(&one, two.data, two.len, &f->err));
            put(f, names[i], one.data, one.len);
            assert_string_equal(again(f), OTHER_ARCHIVE);
            put(f, names[i], one.data, one.len - 1); /* the second one's trailer */
            assert_non_null(strstr(again(f), "UNREADABLE base.tar"));
            buf_free(&one);
            buf_free(&two);
        }
        assert_int_equal(unlink(place(f, path)), 0);
    }
}

/* All files in front of the damage are known to be there. */
static void
test_damage_behind_files(void **state)
{
    static const char *const names[] = {"base.tar.gz", "base.tar.lz4", "base.tar.zst"};
    Fixture *f = *state;

    three_members(f);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char path[32];
        Buf packed = compressed_open(compression_of_name(names[i]),
                                     (Span){.data = f->base.data, .len = 6 * BLOCK});

        assert_true(buf_append(&packed, "\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF", 8, &f->err));
        put(f, names[i], packed.data, packed.len);
        assert_non_null(strstr(again(f), "damaged "));
        assert_non_null(strstr(problem_log_text(&f->log), MISSING("c")));
        assert_int_equal(f->problems, 3);
        buf_free(&packed);
        (void)snprintf(path, sizeof path, "data/%s", names[i]);
        assert_int_equal(unlink(place(f, path)), 0);
    }
}

/* What is behind it in the same piece is not told any more. */
static void
test_damage_behind_what_is_enough(void **state)
{
    Fixture *f = *state;

    member(&f->base, "extra", "");
    member(&f->base, "another", "");
    f->base.data[BLOCK] ^= 1;
    f->log.limit = 1;
    put_archive(f, "base.tar", &f->base);
    assert_string_equal(verify(f), "EXTRA extra: file \"extra\" is present in archive \"base.tar\" "
                                   "but not in the manifest\n");
}

/* ---- progress and stop ---- */

typedef struct Told {
    size_t calls;
    VerifyProgress last;
    bool backwards;
    Stop *stop;          /* requested at the first call */
    const char *growing; /* a file that has 5 MiB from the first call on */
} Told;

static void
tell(void *ctx, const VerifyProgress *progress)
{
    Told *told = ctx;

    if (progress->done < told->last.done || progress->done > progress->total)
        told->backwards = true;
    told->last = *progress;
    told->calls++;
    if (told->stop != NULL)
        stop_request(told->stop);
    if (told->growing != NULL)
        assert_int_equal(truncate(told->growing, 5 * (off_t)MIB), 0);
}

static uint64_t
size_of(Fixture *f, const char *path)
{
    struct stat st;

    assert_int_equal(stat(place(f, path), &st), 0);
    return (uint64_t)st.st_size;
}

/* Bytes of the archives as they lie there; a damaged one counts whole. */
static void
test_progress(void **state)
{
    Fixture *f = *state;
    Told told;
    char junk[700];

    both(f, "a", "abc");
    put_tar(f, "base.tar.gz", &f->base);
    memset(junk, 'x', sizeof junk);
    put(f, "1.tar", junk, sizeof junk);
    put_text(f, "pg_wal.tar", "not read");
    f->config.progress = tell;
    f->config.progress_ctx = &told;
    write_manifest(f, "data/backup_manifest");
    for (f->config.jobs = 1; f->config.jobs <= 2; f->config.jobs++) {
        told = (Told){.calls = 0};
        f->config.skip_checksums = false;
        f->config.skip_wal = true;
        (void)again(f);
        assert_int_equal(f->problems, 1);
        assert_int_equal(told.last.total, size_of(f, "data/base.tar.gz") + 700);
        assert_int_equal(told.last.done, told.last.total);
        assert_false(told.backwards);
        assert_in_range(told.calls, 1, 4);

        f->config.skip_checksums = true; /* they are read all the same */
        f->config.skip_wal = false;
        told = (Told){.calls = 0};
        (void)again(f);
        assert_int_equal(told.last.total, size_of(f, "data/base.tar.gz") + 708);
        assert_int_equal(told.last.done, told.last.total);
    }
}

/* An archive that grows while it is read counts with the size that it had. */
static void
test_progress_has_its_end(void **state)
{
    Fixture *f = *state;
    Told told;
    const uint64_t size = 2 * MIB + 3;

    both(f, "a", "abc");
    put_tar(f, "base.tar", &f->base);
    write_manifest(f, "data/backup_manifest");
    f->config.progress = tell;
    f->config.progress_ctx = &told;
    for (f->config.jobs = 1; f->config.jobs <= 2; f->config.jobs++) {
        told = (Told){.growing = place(f, "data/base.tar")};
        /* Zeros behind the end of an archive are part of it. */
        assert_int_equal(truncate(told.growing, (off_t)size), 0);
        assert_string_equal(again(f), "");
        assert_int_equal(size_of(f, "data/base.tar"), 5 * MIB);
        assert_int_equal(told.last.total, size);
        assert_int_equal(told.last.done, size);
        assert_false(told.backwards);
    }
}

static void
test_no_progress_of_what_is_not_read(void **state)
{
    Fixture *f = *state;
    Told told = {.calls = 0};

    both(f, "a", "abc");
    put_text(f, "notes", "");
    f->log.limit = 1;
    f->config.progress = tell;
    f->config.progress_ctx = &told;
    put_tar(f, "base.tar", &f->base);
    write_manifest(f, "data/backup_manifest");
    assert_true(run(f));
    assert_int_equal(f->problems, 1);
    assert_int_equal(told.calls, 0);
}

/* The rest of an archive, and the next ones. */
static void
test_nothing_is_read_once_it_is_enough(void **state)
{
    Fixture *f = *state;
    Told told = {.calls = 0};

    member(&f->base, "extra", "");
    put_tar(f, "base.tar", &f->base);
    assert_int_equal(truncate(place(f, "data/base.tar"), 5 * (off_t)MIB), 0);
    put_text(f, "pg_wal.tar", "not read");
    f->log.limit = 1;
    f->config.skip_wal = false;
    f->config.progress = tell;
    f->config.progress_ctx = &told;
    write_manifest(f, "data/backup_manifest");
    assert_true(run(f));
    assert_int_equal(f->problems, 1);
    assert_int_equal(told.last.done, PIECE);
    assert_int_equal(told.last.total, 5 * MIB + 8);
}

static void
test_stop_before_and_within(void **state)
{
    Fixture *f = *state;
    Stop stop;
    Told told = {.stop = &stop};
    size_t size = 8 * (size_t)MIB;
    uint8_t *content = calloc(1, size);

    member_bytes(&f->base, "big", content, size);
    manifest_builder_file(&f->builder, "big", content, size, CHECKSUM_CRC32C);
    free(content);
    member(&f->base, "extra", "");
    put_tar(f, "base.tar", &f->base);
    write_manifest(f, "data/backup_manifest");
    assert_true(stop_init(&stop, &f->err));
    f->config.stop = &stop;
    f->config.progress = tell;
    f->config.progress_ctx = &told;

    /* The first call comes with the first MiB. */
    assert_false(run(f));
    assert_int_equal(f->err.code, ERR_STOPPED);
    assert_int_equal(told.calls, 1);
    assert_int_equal(told.last.done, PIECE);
    assert_int_equal(f->log.count, 0);

    assert_false(run(f));
    assert_int_equal(f->err.code, ERR_STOPPED);
    assert_int_equal(told.calls, 1);
    stop_destroy(&stop);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_good_backup_has_no_problems),
        TEST(test_every_kind_in_order),
        TEST(test_exit_on_each_problem),
        TEST(test_skip_checksums),
        TEST(test_checksum_of_wrong_length),
        TEST(test_checksum_of_no_type),
        TEST(test_large_member_is_digested_whole),
        TEST(test_member_twice),
        TEST(test_no_file_of_that_name),
        TEST(test_ignore_covers_every_kind),
        TEST(test_ignored_archive_is_not_read),
        TEST(test_pieces_make_no_difference),
        TEST(test_every_compression),
        TEST(test_tablespaces_in_order),
        TEST(test_names_that_are_none_of_an_archive),
        TEST(test_what_is_no_regular_file),
        TEST(test_unreadable_archive),
        TEST(test_truncated_archive),
        TEST(test_truncated_compressed_archives),
        TEST(test_garbage_behind_the_archive),
        TEST(test_damaged_header),
        TEST(test_members_that_are_not_supported),
        TEST(test_not_what_the_name_says),
        TEST(test_control_of_this_cluster),
        TEST(test_control_of_another_cluster),
        TEST(test_damaged_control),
        TEST(test_control_twice),
        TEST(test_control_of_odd_size),
        TEST(test_control_that_says_nothing),
        TEST(test_wal_of_the_backup),
        TEST(test_damaged_wal),
        TEST(test_wal_of_another_cluster),
        TEST(test_wal_in_the_base_archive),
        TEST(test_wal_directory),
        TEST(test_truncated_wal_archive),
        TEST(test_manifest_elsewhere),
        TEST(test_what_cannot_be_looked_at_is_an_error),
        TEST(test_bad_pages),
        TEST(test_enough_bad_pages),
        TEST(test_pages_that_do_not_count),
        TEST(test_pages_that_are_not_checked),
        TEST(test_cluster_without_checksums),
        TEST(test_changed_page),
        TEST(test_page_digests),
        TEST(test_missing_directories),
        TEST(test_expected_and_found),
        TEST(test_summary),
        TEST(test_manifest_in_the_archive),
        TEST(test_manifest_beside_the_archive),
        TEST(test_no_manifest_in_the_archive),
        TEST(test_several_members),
        TEST(test_damage_behind_files),
        TEST(test_damage_behind_what_is_enough),
        TEST(test_progress),
        TEST(test_progress_has_its_end),
        TEST(test_no_progress_of_what_is_not_read),
        TEST(test_nothing_is_read_once_it_is_enough),
        TEST(test_stop_before_and_within),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
