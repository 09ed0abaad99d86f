/*
 * backup_pages: what was written is read again; what is damaged or hostile is refused.
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
#include <unistd.h>

#include <cmocka.h>

#include "common/crc32c.h"
#include "manifest/page_digests.h"
#include "support/temp_dir.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

typedef struct Here {
    TempDir dir;
    const char *path;
    Error err;
} Here;

static int
set_up(void **state)
{
    Here *here = calloc(1, sizeof *here);

    if (here == NULL)
        return -1;
    temp_dir_make(&here->dir);
    here->path = temp_dir_path(&here->dir, PAGE_DIGESTS_NAME);
    *state = here;
    return 0;
}

static int
tear_down(void **state)
{
    Here *here = *state;

    temp_dir_remove(&here->dir);
    free(here);
    return 0;
}

/* ---- writing ---- */

typedef struct Content {
    const char *path;
    size_t size;
} Content;

/* Byte `at` of every file: no two pages are alike. */
static uint8_t
byte_at(size_t at)
{
    return (uint8_t)(at * 31 + at / 1024);
}

static uint32_t
crc_of(size_t from, size_t to)
{
    uint32_t crc = 0;

    for (size_t at = from; at < to; at++) {
        uint8_t byte = byte_at(at);

        crc = crc32c(crc, &byte, 1);
    }
    return crc;
}

static PageDigestWriter *
open_writer(Here *here, uint32_t page_size)
{
    PageDigestWriter *writer = page_digest_writer_new(here->path, 0600, page_size, &here->err);

    if (writer == NULL)
        fail_msg("%s", here->err.message);
    return writer;
}

static void
write_file(Here *here, PageDigestWriter *writer, const Content *content)
{
    size_t page = page_digest_writer_page_size(writer);

    assert_true(page_digest_writer_begin(writer, content->path, content->size, &here->err));
    for (size_t at = 0; at < content->size; at += page) {
        size_t end = content->size - at < page ? content->size : at + page;

        assert_true(page_digest_writer_add(writer, crc_of(at, end), &here->err));
    }
}

static void
write_all(Here *here, uint32_t page_size, const Content *contents, size_t count)
{
    PageDigestWriter *writer = open_writer(here, page_size);

    for (size_t i = 0; i < count; i++)
        write_file(here, writer, &contents[i]);
    assert_true(page_digest_writer_finish(writer, count % 2 == 0, &here->err));
    page_digest_writer_free(writer);
}

/* ---- reading ---- */

static PageDigests *
open_digests(Here *here)
{
    PageDigests *digests = page_digests_open(here->path, &here->err);

    if (digests == NULL)
        fail_msg("%s", here->err.message);
    return digests;
}

static void
check_file(Here *here, const PageDigests *digests, const Content *content)
{
    size_t page = page_digests_page_size(digests);
    size_t pages = (content->size + page - 1) / page;
    uint32_t *crcs = malloc((pages + 1) * sizeof *crcs);
    PageDigestFile file;
    uint32_t crc;

    assert_true(page_digests_find(digests, content->path, &file));
    assert_true(file.size == content->size);
    /* From every page on. */
    for (size_t first = 0; first <= pages; first += 1 + pages / 7) {
        assert_true(page_digests_read(digests, &file, first, crcs, pages - first, &here->err));
        for (size_t i = first; i < pages; i++) {
            size_t end = content->size - i * page < page ? content->size : (i + 1) * page;

            assert_true(crcs[i - first] == crc_of(i * page, end));
        }
    }
    assert_true(page_digests_file_crc(digests, &file, &crc, &here->err));
    assert_true(crc == crc_of(0, content->size));
    free(crcs);
}

/* The file as it is now must be refused, in these words behind its name; NULL: in any. */
static void
assert_refused(Here *here, const char *message)
{
    Error err = ERROR_INIT;
    PageDigests *digests = page_digests_open(here->path, &err);
    char expected[700];

    assert_null(digests);
    assert_int_equal(err.code, ERR_FORMAT);
    if (message == NULL)
        return;
    (void)snprintf(expected, sizeof expected, "file \"%s\" %s", here->path, message);
    assert_string_equal(err.message, expected);
}

/* ---- round trips ---- */

static void
test_round_trip(void **state)
{
    static const uint32_t page_sizes[] = {1024, 8192, 32768};

    for (size_t i = 0; i < COUNT(page_sizes); i++) {
        Here *here = *state;
        size_t page = page_sizes[i];
        const Content contents[] = {
            {"base/5/1", 3 * page},
            {"base/5/empty", 0},
            {"base/5/short", 1},
            {"base/5/one", page},
            {"base/5/one_less", page - 1},
            {"global/one_more", page + 1},
            {"pg_tblspc/16385/PG_18_202506291/5/INCREMENTAL.16400", 5 * page + 17},
        };
        PageDigestFile file = {.size = 7, .offset = 7};
        PageDigests *digests;

        write_all(here, page_sizes[i], contents, COUNT(contents));
        digests = open_digests(here);
        assert_int_equal(page_digests_page_size(digests), page);
        assert_int_equal(page_digests_count(digests), COUNT(contents));
        for (size_t j = 0; j < COUNT(contents); j++)
            check_file(here, digests, &contents[j]);
        assert_false(page_digests_find(digests, "base/5/2", &file));
        assert_false(page_digests_find(digests, "base/5/", &file));
        assert_int_equal(file.size, 7);
        page_digests_close(digests);
        assert_int_equal(unlink(here->path), 0);
    }
    page_digests_close(NULL);
    page_digest_writer_free(NULL);
}

/* The example of docs/formats.md. */
static void
test_bytes(void **state)
{
    static const uint8_t expected[] = {
        0x50, 0x47, 0x53, 0x54, 0x4F, 0x57, 0x50, 0x44, 0x01, 0x00, 0x00, 0x00, 0x00, 0x20, 0x00,
        0x00, 0x0B, 0x00, 0x00, 0x00, 0x62, 0x61, 0x73, 0x65, 0x2F, 0x35, 0x2F, 0x32, 0x36, 0x30,
        0x30, 0x00, 0x40, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x23, 0x46, 0x44, 0x90, 0x23, 0x46,
        0x44, 0x90, 0x17, 0x00, 0x00, 0x00, 0x62, 0x61, 0x73, 0x65, 0x2F, 0x35, 0x2F, 0x49, 0x4E,
        0x43, 0x52, 0x45, 0x4D, 0x45, 0x4E, 0x54, 0x41, 0x4C, 0x2E, 0x32, 0x36, 0x30, 0x31, 0x0C,
        0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0xE3, 0x4C, 0x7D, 0x7C, 0x00, 0x00, 0x00, 0x00,
        0x02, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x74, 0x1E, 0x73, 0x6C,
    };
    static const uint8_t zeros[8192];
    static const uint8_t no_blocks[] = {0x0D, 0x1F, 0xAE, 0xD3, 0, 0, 0, 0, 2, 0, 0, 0};
    const uint32_t page = crc32c(0, zeros, sizeof zeros);
    Here *here = *state;
    PageDigestWriter *writer = open_writer(here, 8192);
    Buf content;

    assert_int_equal(page_digest_writer_page_size(writer), 8192);
    assert_true(page_digest_writer_begin(writer, "base/5/2600", 16384, &here->err));
    assert_true(page_digest_writer_add(writer, page, &here->err));
    assert_true(page_digest_writer_add(writer, page, &here->err));
    assert_true(page_digest_writer_begin(writer, "base/5/INCREMENTAL.2601", 12, &here->err));
    assert_true(page_digest_writer_add(writer, crc32c(0, no_blocks, sizeof no_blocks), &here->err));
    assert_true(page_digest_writer_finish(writer, true, &here->err));
    page_digest_writer_free(writer);

    content = temp_dir_read(&here->dir, PAGE_DIGESTS_NAME);
    assert_int_equal(content.len, sizeof expected);
    assert_memory_equal(content.data, expected, sizeof expected);
    buf_free(&content);
}

static void
test_no_files(void **state)
{
    Here *here = *state;
    PageDigests *digests;
    PageDigestFile file;

    write_all(here, 8192, NULL, 0);
    digests = open_digests(here);
    assert_int_equal(page_digests_count(digests), 0);
    assert_int_equal(page_digests_page_size(digests), 8192);
    assert_false(page_digests_find(digests, "base/5/1", &file));
    page_digests_close(digests);
}

/* More than any buffer holds, of files and of pages. */
static void
test_large(void **state)
{
    const Content large = {"base/5/large", (size_t)70000 * 1024 + 5};
    Here *here = *state;
    PageDigestWriter *writer = open_writer(here, 1024);
    PageDigests *digests;
    char path[64];

    write_file(here, writer, &large);
    for (int i = 0; i < 20000; i++) {
        (void)snprintf(path, sizeof path, "base/%d/%d", i % 7, i);
        write_file(here, writer, &(Content){path, (size_t)i % 5 * 500});
    }
    assert_true(page_digest_writer_finish(writer, false, &here->err));
    page_digest_writer_free(writer);

    digests = open_digests(here);
    assert_int_equal(page_digests_count(digests), 20001);
    check_file(here, digests, &large);
    for (int i = 0; i < 20000; i += 7) {
        (void)snprintf(path, sizeof path, "base/%d/%d", i % 7, i);
        check_file(here, digests, &(Content){path, (size_t)i % 5 * 500});
    }
    page_digests_close(digests);
}

/* ---- the writer ---- */

static void
test_mode_whatever_the_umask(void **state)
{
    static const mode_t modes[] = {0600, 0640};

    for (size_t i = 0; i < COUNT(modes); i++) {
        Here *here = *state;
        mode_t before = umask(0777);
        PageDigestWriter *writer = page_digest_writer_new(here->path, modes[i], 8192, &here->err);

        (void)umask(before);
        assert_non_null(writer);
        page_digest_writer_free(writer);
        assert_int_equal(temp_dir_mode(&here->dir, PAGE_DIGESTS_NAME) & 07777, modes[i]);
        assert_int_equal(unlink(here->path), 0);
    }
}

static void
test_file_that_is_there(void **state)
{
    Here *here = *state;
    Buf content;

    temp_dir_write(&here->dir, PAGE_DIGESTS_NAME, "mine", 4);
    assert_null(page_digest_writer_new(here->path, 0600, 8192, &here->err));
    assert_int_equal(here->err.code, ERR_SYSTEM);
    assert_int_equal(here->err.sys_errno, EEXIST);
    content = temp_dir_read(&here->dir, PAGE_DIGESTS_NAME);
    assert_string_equal(buf_text(&content), "mine");
    buf_free(&content);
}

static void
test_page_sizes(void **state)
{
    static const uint32_t wrong[] = {0, 1, 512, 1023, 1025, 8191, 12288, 65536, UINT32_MAX};
    Here *here = *state;

    for (size_t i = 0; i < COUNT(wrong); i++) {
        assert_null(page_digest_writer_new(here->path, 0600, wrong[i], &here->err));
        assert_int_equal(here->err.code, ERR_UNSUPPORTED);
        assert_false(temp_dir_exists(&here->dir, PAGE_DIGESTS_NAME));
    }
}

/* What would make a file that cannot be read is refused. */
static void
test_misuse(void **state)
{
    Here *here = *state;
    PageDigestWriter *writer = open_writer(here, 8192);
    char *long_path = malloc(4097);

    memset(long_path, 'p', 4096);
    long_path[4096] = '\0';
    assert_false(page_digest_writer_add(writer, 1, &here->err));
    assert_int_equal(here->err.code, ERR_BUG);
    assert_false(page_digest_writer_begin(writer, "../a", 1, &here->err));
    assert_int_equal(here->err.code, ERR_BUG);
    assert_false(page_digest_writer_begin(writer, "", 1, &here->err));
    assert_false(page_digest_writer_begin(writer, long_path, 1, &here->err));
    assert_true(page_digest_writer_begin(writer, long_path + 1, 2 * 8192, &here->err));
    assert_true(page_digest_writer_add(writer, 1, &here->err));
    assert_false(page_digest_writer_begin(writer, "b", 1, &here->err));
    assert_false(page_digest_writer_finish(writer, false, &here->err));
    assert_true(page_digest_writer_add(writer, 2, &here->err));
    assert_false(page_digest_writer_add(writer, 3, &here->err));
    assert_true(page_digest_writer_finish(writer, false, &here->err));
    page_digest_writer_free(writer);
    page_digests_close(open_digests(here));
    free(long_path);
}

/* Nor is a link followed. */
static void
test_link_in_its_place(void **state)
{
    Here *here = *state;

    assert_int_equal(symlink("elsewhere", here->path), 0);
    assert_null(page_digest_writer_new(here->path, 0600, 8192, &here->err));
    assert_int_equal(here->err.sys_errno, EEXIST);
    assert_false(temp_dir_exists(&here->dir, "elsewhere"));
}

/* ---- damage ---- */

static Buf
small_file(Here *here)
{
    static const Content contents[] = {{"base/5/1", 20000}, {"base/5/2", 0}, {"global/1262", 8192}};

    write_all(here, 8192, contents, COUNT(contents));
    return temp_dir_read(&here->dir, PAGE_DIGESTS_NAME);
}

static void
test_every_truncation(void **state)
{
    Here *here = *state;
    Buf content = small_file(here);

    page_digests_close(open_digests(here));
    for (size_t len = 0; len < content.len; len++) {
        temp_dir_write(&here->dir, PAGE_DIGESTS_NAME, content.data, len);
        assert_refused(here, NULL);
    }
    buf_free(&content);
}

static void
test_every_bit(void **state)
{
    Here *here = *state;
    Buf content = small_file(here);

    for (size_t bit = 0; bit < 8 * content.len; bit++) {
        content.data[bit / 8] ^= (uint8_t)(1u << bit % 8);
        temp_dir_write(&here->dir, PAGE_DIGESTS_NAME, content.data, content.len);
        assert_refused(here, NULL);
        content.data[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    temp_dir_write(&here->dir, PAGE_DIGESTS_NAME, content.data, content.len);
    page_digests_close(open_digests(here));
    buf_free(&content);
}

static void
test_bytes_behind_the_end(void **state)
{
    Here *here = *state;
    Buf content = small_file(here);

    assert_true(buf_append(&content, "", 1, &here->err));
    temp_dir_write(&here->dir, PAGE_DIGESTS_NAME, content.data, content.len);
    assert_refused(here, "is damaged: there are bytes behind its end");
    buf_free(&content);
}

/* ---- made by somebody else, with a right checksum ---- */

static void
add_number(Buf *text, uint64_t value, size_t bytes)
{
    Error err = ERROR_INIT;

    for (size_t i = 0; i < bytes; i++) {
        uint8_t byte = (uint8_t)(value >> (8 * i));

        assert_true(buf_append(text, &byte, 1, &err));
    }
}

static void
add_head(Buf *text, uint32_t version, uint32_t page_size)
{
    Error err = ERROR_INIT;

    *text = BUF_INIT;
    assert_true(buf_append(text, "PGSTOWPD", 8, &err));
    add_number(text, version, 4);
    add_number(text, page_size, 4);
}

static void
add_path(Buf *text, const void *path, size_t len, uint64_t size)
{
    Error err = ERROR_INIT;

    add_number(text, len, 4);
    assert_true(buf_append(text, path, len, &err));
    add_number(text, size, 8);
}

/* The end, for as many files. Takes the text. */
static void
seal(Here *here, Buf *text, uint64_t files)
{
    add_number(text, 0, 4);
    add_number(text, files, 8);
    add_number(text, crc32c(0, text->data, text->len), 4);
    temp_dir_write(&here->dir, PAGE_DIGESTS_NAME, text->data, text->len);
    buf_free(text);
}

static void
test_heads(void **state)
{
    Here *here = *state;
    Buf text;

    add_head(&text, 1, 4096);
    seal(here, &text, 0);
    page_digests_close(open_digests(here));

    add_head(&text, 2, 8192);
    seal(here, &text, 0);
    assert_refused(here, "has version 2 of its format, not 1");
    add_head(&text, 1, 0);
    seal(here, &text, 0);
    assert_refused(here, "is damaged: no pages have its page size");
    add_head(&text, 1, 8190);
    seal(here, &text, 0);
    assert_refused(here, "is damaged: no pages have its page size");
    add_head(&text, 1, 65536);
    seal(here, &text, 0);
    assert_refused(here, "is damaged: no pages have its page size");

    temp_dir_write(&here->dir, PAGE_DIGESTS_NAME, "PGSTOWPX", 8);
    assert_refused(here, "does not hold page digests");
    temp_dir_write(&here->dir, PAGE_DIGESTS_NAME, "", 0);
    assert_refused(here, "is damaged: it ends too early");
}

static void
test_hostile_paths(void **state)
{
    static const struct {
        const char *path;
        size_t len;
    } paths[] = {
        {"/etc/passwd", 11}, {"../a", 4}, {"a/../b", 6},     {"a//b", 4}, {"a/", 2},
        {"./a", 3},          {".", 1},    {"base/5/1\0", 9}, {"\0", 1},   {"a\0b", 3},
    };
    Here *here = *state;
    Buf text;

    for (size_t i = 0; i < COUNT(paths); i++) {
        add_head(&text, 1, 8192);
        add_path(&text, paths[i].path, paths[i].len, 0);
        seal(here, &text, 1);
        assert_refused(here, "is damaged: a path leads out of the backup");
    }

    add_head(&text, 1, 8192);
    add_path(&text, "base/5/1", 8, 0);
    add_path(&text, "base/5/2", 8, 0);
    add_path(&text, "base/5/1", 8, 0);
    seal(here, &text, 3);
    assert_refused(here, "is damaged: it has a file twice");
}

static void
test_hostile_lengths(void **state)
{
    static const uint32_t lengths[] = {4096, 65536, 0x7FFFFFFF, 0x80000000, UINT32_MAX};
    char *path = malloc(4096);
    Here *here = *state;
    Buf text;

    memset(path, 'p', 4096);
    for (size_t i = 0; i < COUNT(lengths); i++) {
        add_head(&text, 1, 8192);
        add_number(&text, lengths[i], 4);
        assert_true(buf_append(&text, path, 4096, &here->err));
        add_number(&text, 0, 8);
        seal(here, &text, 1);
        assert_refused(here, "is damaged: a path is too long");
    }
    add_head(&text, 1, 8192);
    add_path(&text, path, 4095, 0);
    seal(here, &text, 1);
    page_digests_close(open_digests(here));
    add_head(&text, 1, 8192);
    add_number(&text, 4095, 4);
    seal(here, &text, 1);
    assert_refused(here, "is damaged: it ends too early");
    free(path);
}

static void
test_hostile_sizes(void **state)
{
    /* 16 bytes follow the size: room for the CRCs of four pages, of which none is there. */
    static const uint64_t sizes[] = {4 * 8192 + 1,      UINT64_C(1) << 32,
                                     UINT64_C(1) << 45, (UINT64_C(1) << 62) * 3,
                                     UINT64_MAX - 8191, UINT64_MAX};
    Here *here = *state;
    Buf text;

    for (size_t i = 0; i < COUNT(sizes); i++) {
        add_head(&text, 1, 8192);
        add_path(&text, "base/5/1", 8, sizes[i]);
        seal(here, &text, 1);
        assert_refused(here, "is damaged: it ends within a file's pages");
    }
    /* They fit, but into the end. */
    add_head(&text, 1, 8192);
    add_path(&text, "base/5/1", 8, 4 * 8192);
    seal(here, &text, 1);
    assert_refused(here, "is damaged: it ends too early");
    /* One too few: the next CRC is taken for a path's length. */
    add_head(&text, 1, 8192);
    add_path(&text, "base/5/1", 8, 8192);
    add_number(&text, 0x12345678, 4);
    add_number(&text, 0x9ABCDEF0, 4);
    seal(here, &text, 1);
    assert_refused(here, "is damaged: a path is too long");
}

static void
test_hostile_counts(void **state)
{
    static const uint64_t counts[] = {0, 2, 1 + (UINT64_C(1) << 32), UINT64_MAX};
    Here *here = *state;
    Buf text;

    for (size_t i = 0; i < COUNT(counts); i++) {
        add_head(&text, 1, 8192);
        add_path(&text, "base/5/1", 8, 0);
        seal(here, &text, counts[i]);
        assert_refused(here, "is damaged: it has another number of files than it says");
    }
    add_head(&text, 1, 8192);
    add_path(&text, "base/5/1", 8, 0);
    seal(here, &text, 1);
    page_digests_close(open_digests(here));
}

/* ---- opening ---- */

static void
test_what_is_no_file(void **state)
{
    Here *here = *state;

    assert_null(page_digests_open(here->path, &here->err));
    assert_int_equal(here->err.code, ERR_SYSTEM);
    assert_int_equal(here->err.sys_errno, ENOENT);

    temp_dir_mkdir(&here->dir, PAGE_DIGESTS_NAME);
    assert_null(page_digests_open(here->path, &here->err));
    assert_int_equal(here->err.code, ERR_FORMAT);
    assert_int_equal(rmdir(here->path), 0);

    /* Opening a pipe without a writer must not wait. */
    assert_int_equal(mkfifo(here->path, 0600), 0);
    assert_null(page_digests_open(here->path, &here->err));
    assert_int_equal(here->err.code, ERR_FORMAT);
    assert_int_equal(unlink(here->path), 0);
}

static void
test_links_are_not_followed(void **state)
{
    Here *here = *state;
    const char *other = temp_dir_path(&here->dir, "other");

    write_all(here, 8192, NULL, 0);
    assert_int_equal(rename(here->path, other), 0);
    assert_int_equal(symlink(other, here->path), 0);
    assert_null(page_digests_open(here->path, &here->err));
    assert_int_equal(here->err.code, ERR_SYSTEM);
    assert_int_equal(here->err.sys_errno, ELOOP);
}

/* Somebody cuts it after it was opened. */
static void
test_cut_while_open(void **state)
{
    const Content content = {"base/5/1", 20000};
    Here *here = *state;
    PageDigests *digests;
    PageDigestFile file;
    uint32_t crcs[3];

    write_all(here, 8192, &content, 1);
    digests = open_digests(here);
    assert_true(page_digests_find(digests, content.path, &file));
    assert_int_equal(truncate(here->path, (off_t)file.offset + 7), 0);
    assert_true(page_digests_read(digests, &file, 0, crcs, 1, &here->err));
    assert_false(page_digests_read(digests, &file, 0, crcs, 3, &here->err));
    assert_int_equal(here->err.code, ERR_FORMAT);
    assert_false(page_digests_file_crc(digests, &file, crcs, &here->err));
    page_digests_close(digests);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, set_up, tear_down)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_round_trip),
        TEST(test_bytes),
        TEST(test_no_files),
        TEST(test_large),
        TEST(test_mode_whatever_the_umask),
        TEST(test_file_that_is_there),
        TEST(test_page_sizes),
        TEST(test_misuse),
        TEST(test_link_in_its_place),
        TEST(test_every_truncation),
        TEST(test_every_bit),
        TEST(test_bytes_behind_the_end),
        TEST(test_heads),
        TEST(test_hostile_paths),
        TEST(test_hostile_lengths),
        TEST(test_hostile_sizes),
        TEST(test_hostile_counts),
        TEST(test_what_is_no_file),
        TEST(test_links_are_not_followed),
        TEST(test_cut_while_open),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
