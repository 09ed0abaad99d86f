/*
 * Reading a segment's file: all of it, all that there is of it, and what is told then; in every
 * compression.
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
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "segment/segment.h"
#include "support/compressed.h"
#include "support/temp_dir.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define MB           ((uint32_t)1 << 20)

static const struct {
    CompressionMethod method;
    const char *name;
} forms[] = {
    {COMPRESSION_NONE, "000000010000000000000005"},
    {COMPRESSION_GZIP, "000000010000000000000005.gz"},
    {COMPRESSION_LZ4, "000000010000000000000005.lz4"},
    {COMPRESSION_ZSTD, "000000010000000000000005.zst"},
};

typedef struct Here {
    TempDir dir;
    Buf content; /* of a segment: 1 MiB that compresses to a half, about */
    Buf taken;
    size_t calls;
    size_t largest; /* of the pieces */
    size_t enough;  /* take ends the reading when it has so many bytes; 0: never */
} Here;

static int
set_up(void **state)
{
    Here *here = calloc(1, sizeof *here);
    Error err = ERROR_INIT;
    uint64_t noise = 1;

    if (here == NULL)
        return -1;
    temp_dir_make(&here->dir);
    if (!buf_reserve(&here->content, MB, &err))
        return -1;
    for (here->content.len = 0; here->content.len < MB; here->content.len++) {
        noise = noise * 6364136223846793005u + 1442695040888963407u;
        here->content.data[here->content.len] = (uint8_t)(noise >> 60);
    }
    *state = here;
    return 0;
}

static int
tear_down(void **state)
{
    Here *here = *state;

    temp_dir_remove(&here->dir);
    buf_free(&here->content);
    buf_free(&here->taken);
    free(here);
    return 0;
}

static Span
first(const Here *here, size_t len)
{
    return (Span){.data = here->content.data, .len = len};
}

static Buf
in_form(CompressionMethod method, Span content)
{
    Buf copy = BUF_INIT;
    Error err = ERROR_INIT;

    if (method != COMPRESSION_NONE)
        return compressed(method, content);
    assert_true(buf_append(&copy, content.data, content.len, &err));
    return copy;
}

static void
put(Here *here, const char *name, const Buf *bytes, size_t len)
{
    temp_dir_write(&here->dir, name, len == 0 ? (const uint8_t *)"" : bytes->data, len);
}

static void
put_content(Here *here, size_t form, Span content)
{
    Buf bytes = in_form(forms[form].method, content);

    put(here, forms[form].name, &bytes, bytes.len);
    buf_free(&bytes);
}

static bool
take(void *ctx, Span bytes)
{
    Here *here = ctx;
    Error err = ERROR_INIT;

    assert_true(bytes.len > 0);
    assert_true(buf_append(&here->taken, bytes.data, bytes.len, &err));
    here->calls++;
    if (bytes.len > here->largest)
        here->largest = bytes.len;
    return here->enough == 0 || here->taken.len < here->enough;
}

static bool
read_file(Here *here, const char *name, CompressionMethod method, Error *err)
{
    *err = ERROR_INIT;
    buf_clear(&here->taken);
    here->calls = 0;
    return wal_segment_read(temp_dir_path(&here->dir, name), method, MB, take, here, err);
}

static bool
read_form(Here *here, size_t form, Error *err)
{
    return read_file(here, forms[form].name, forms[form].method, err);
}

/* What was given are the first bytes of the content. */
static void
assert_taken(const Here *here, size_t len)
{
    assert_int_equal(here->taken.len, len);
    assert_true(len == 0 || memcmp(here->taken.data, here->content.data, len) == 0);
    assert_true(here->largest <= MB);
}

/* The message is about this file and says `why`. */
static void
assert_format_error(Here *here, const char *name, const Error *err, const char *why)
{
    char message[4400];

    (void)snprintf(message, sizeof message, "file \"%s\": %s", temp_dir_path(&here->dir, name),
                   why);
    assert_string_equal(err->message, message);
    assert_int_equal(err->code, ERR_FORMAT);
}

/* ---- whole segments ---- */

static void
test_whole(void **state)
{
    Here *here = *state;
    Error err;

    for (size_t form = 0; form < COUNT(forms); form++) {
        put_content(here, form, first(here, MB));
        if (!read_form(here, form, &err))
            fail_msg("%s", err.message);
        assert_int_equal(err.code, ERR_NONE);
        assert_taken(here, MB);
        assert_true(here->calls > 1);
    }
}

/* An archive may have several members, one behind the other. */
static void
test_two_members(void **state)
{
    Here *here = *state;
    Error err = ERROR_INIT;

    for (size_t form = 1; form < COUNT(forms); form++) {
        Buf bytes = compressed(forms[form].method, first(here, MB / 3));
        Buf more = compressed(forms[form].method,
                              (Span){.data = here->content.data + MB / 3, .len = MB - MB / 3});

        assert_true(buf_append(&bytes, more.data, more.len, &err));
        put(here, forms[form].name, &bytes, bytes.len);
        assert_true(read_form(here, form, &err));
        assert_taken(here, MB);
        buf_free(&bytes);
        buf_free(&more);
    }
}

/* A few bytes that unpack to very many are not collected before they are given. */
static void
test_zeros(void **state)
{
    Here *here = *state;
    Error err;

    memset(here->content.data, 0, MB);
    for (size_t form = 0; form < COUNT(forms); form++) {
        put_content(here, form, first(here, MB));
        assert_true(read_form(here, form, &err));
        assert_taken(here, MB);
        assert_true(here->largest <= 128 * 1024);
    }
}

static void
test_enough(void **state)
{
    Here *here = *state;
    Error err;

    for (size_t form = 0; form < COUNT(forms); form++) {
        put_content(here, form, first(here, MB / 2));
        here->enough = 1;
        assert_true(read_form(here, form, &err));
        assert_int_equal(here->calls, 1);
        assert_taken(here, here->taken.len);
        /* What is wrong behind is never seen. */
        here->enough = MB / 2;
        assert_true(read_form(here, form, &err));
        assert_taken(here, MB / 2);
        here->enough = MB / 2 + 1;
        assert_false(read_form(here, form, &err));
        assert_int_equal(err.code, ERR_FORMAT);
    }
}

/* ---- other sizes ---- */

static void
test_too_short(void **state)
{
    static const size_t sizes[] = {0, 1, 8191, MB / 2, MB - 1};

    for (size_t i = 0; i < COUNT(sizes); i++) {
        for (size_t form = 0; form < COUNT(forms); form++) {
            Here *here = *state;
            char why[100];
            Error err;

            put_content(here, form, first(here, sizes[i]));
            assert_false(read_form(here, form, &err));
            assert_taken(here, sizes[i]);
            (void)snprintf(why, sizeof why, "%s is %zu, expected 1048576",
                           form == 0 ? "size" : "decompressed size", sizes[i]);
            assert_format_error(here, forms[form].name, &err, why);
        }
    }
}

/* All of the segment is given and nothing behind it. */
static void
test_too_long(void **state)
{
    static const size_t sizes[] = {MB + 1, MB + 4096, 2 * (size_t)MB};

    for (size_t i = 0; i < COUNT(sizes); i++) {
        for (size_t form = 0; form < COUNT(forms); form++) {
            Here *here = *state;
            Buf longer = BUF_INIT;
            Error err = ERROR_INIT;

            assert_true(buf_append(&longer, here->content.data, MB, &err));
            assert_true(buf_append(&longer, here->content.data, sizes[i] - MB, &err));
            put_content(here, form, (Span){.data = longer.data, .len = longer.len});
            assert_false(read_form(here, form, &err));
            assert_taken(here, MB);
            assert_format_error(here, forms[form].name, &err,
                                form == 0 ? "size is over 1048576"
                                          : "decompressed size is over 1048576");
            buf_free(&longer);
        }
    }
}

/* ---- compressed files that break off, or are damaged ---- */

/* Wherever the file ends, what is there can be read, and never too much. */
static void
test_cut_short(void **state)
{
    Here *here = *state;

    for (size_t form = 1; form < COUNT(forms); form++) {
        Buf bytes = compressed(forms[form].method, first(here, MB));
        size_t most = 0;

        for (size_t i = 0; i < 64; i++) {
            size_t len = bytes.len * i / 64;
            char why[200];
            Error err;

            put(here, forms[form].name, &bytes, len);
            assert_false(read_form(here, form, &err));
            assert_taken(here, here->taken.len);
            assert_true(here->taken.len >= most);
            most = here->taken.len;
            (void)snprintf(why, sizeof why,
                           "archive \"%s\" ends after %zu bytes within its %s data",
                           forms[form].name, len, compression_method_name(forms[form].method));
            if (len > 0)
                assert_format_error(here, forms[form].name, &err, why);
        }
        assert_true(most > MB / 2);
        buf_free(&bytes);
    }
}

/* As a receiver leaves its segment when the power fails: all that was flushed is there. */
static void
test_never_ended(void **state)
{
    Here *here = *state;

    for (size_t form = 1; form < COUNT(forms); form++) {
        Buf bytes = compressed_open(forms[form].method, first(here, 300001));
        char name[64];
        Error err = ERROR_INIT;

        (void)snprintf(name, sizeof name, "%s.partial", forms[form].name);
        put(here, name, &bytes, bytes.len);
        assert_false(read_file(here, name, forms[form].method, &err));
        assert_int_equal(err.code, ERR_FORMAT);
        assert_taken(here, 300001);

        /* And with zeros behind, which the file system puts there. */
        for (size_t i = 0; i < 5000; i++)
            assert_true(buf_append(&bytes, "", 1, &err));
        put(here, name, &bytes, bytes.len);
        assert_false(read_file(here, name, forms[form].method, &err));
        assert_int_equal(err.code, ERR_FORMAT);
        assert_taken(here, 300001);
        buf_free(&bytes);
    }
}

static void
test_empty(void **state)
{
    Here *here = *state;

    for (size_t form = 1; form < COUNT(forms); form++) {
        Buf nothing = BUF_INIT;
        char why[200];
        Error err;

        put(here, forms[form].name, &nothing, 0);
        assert_false(read_form(here, form, &err));
        assert_int_equal(here->calls, 0);
        (void)snprintf(why, sizeof why, "archive \"%s\" is empty, which %s data never is",
                       forms[form].name, compression_method_name(forms[form].method));
        assert_format_error(here, forms[form].name, &err, why);
    }
}

/* A byte in the middle: what comes before it is read, and there is an error at the latest at the
 * checksum. */
static void
test_damaged(void **state)
{
    Here *here = *state;

    for (size_t form = 1; form < COUNT(forms); form++) {
        Buf bytes = compressed(forms[form].method, first(here, MB));
        Error err;

        memset(bytes.data + bytes.len / 2, 0xFF, 200);
        put(here, forms[form].name, &bytes, bytes.len);
        if (read_form(here, form, &err)) {
            /* zstd has no checksum: then the content is another one. */
            assert_true(memcmp(here->taken.data, here->content.data, MB) != 0);
        } else {
            assert_int_equal(err.code, ERR_FORMAT);
            assert_true(here->taken.len >= MB / 8);
        }
        assert_memory_equal(here->taken.data, here->content.data, MB / 8);
        buf_free(&bytes);
    }
}

static void
test_garbage(void **state)
{
    Here *here = *state;

    for (size_t form = 1; form < COUNT(forms); form++) {
        char why[200];
        Error err;

        put(here, forms[form].name, &here->content, MB);
        assert_false(read_form(here, form, &err));
        assert_int_equal(here->calls, 0);
        (void)snprintf(why, sizeof why, "archive \"%s\" is not %s data", forms[form].name,
                       compression_method_name(forms[form].method));
        assert_format_error(here, forms[form].name, &err, why);
    }
}

/* A frame that wants to be unpacked with 2 GiB of memory. */
static void
test_huge_window(void **state)
{
    static const uint8_t frame[] = {0x28, 0xB5, 0x2F, 0xFD, 0x00, 0xA8, 0x01, 0x00, 0x00};
    Here *here = *state;
    Error err;

    temp_dir_write(&here->dir, "x.zst", frame, sizeof frame);
    assert_false(read_file(here, "x.zst", COMPRESSION_ZSTD, &err));
    assert_format_error(here, "x.zst", &err,
                        "archive \"x.zst\": zstd data that needs a window of more than 128 MiB is "
                        "not supported");
    assert_int_equal(here->calls, 0);
}

static void
test_garbage_behind(void **state)
{
    Here *here = *state;
    Error err = ERROR_INIT;

    for (size_t form = 1; form < COUNT(forms); form++) {
        Buf bytes = compressed(forms[form].method, first(here, MB));

        assert_true(buf_append(&bytes, "?", 1, &err));
        put(here, forms[form].name, &bytes, bytes.len);
        assert_false(read_form(here, form, &err));
        assert_int_equal(err.code, ERR_FORMAT);
        assert_taken(here, MB);
        buf_free(&bytes);
    }
}

/* Under whichever name: a file that is being made has a temporary one. */
static void
test_other_names(void **state)
{
    static const char *const names[] = {"x", "000000010000000000000005.gz.tmp", "a.zst.b"};
    Here *here = *state;

    for (size_t form = 0; form < COUNT(forms); form++) {
        Buf bytes = in_form(forms[form].method, first(here, MB));

        for (size_t i = 0; i < COUNT(names); i++) {
            Error err;

            put(here, names[i], &bytes, bytes.len);
            assert_true(read_file(here, names[i], forms[form].method, &err));
            assert_taken(here, MB);
        }
        buf_free(&bytes);
    }
}

/* ---- what cannot be read ---- */

static void
test_no_file(void **state)
{
    Here *here = *state;
    const char *path = temp_dir_path(&here->dir, "missing");
    char message[4400];

    (void)snprintf(message, sizeof message, "could not open file \"%s\": %s", path,
                   strerror(ENOENT));
    for (size_t form = 0; form < COUNT(forms); form++) {
        Error err;

        assert_false(read_file(here, "missing", forms[form].method, &err));
        assert_string_equal(err.message, message);
        assert_int_equal(err.code, ERR_SYSTEM);
        assert_int_equal(err.sys_errno, ENOENT);
    }
}

static void
test_what_is_no_file(void **state)
{
    Here *here = *state;
    Error err;

    temp_dir_mkdir(&here->dir, "directory");
    assert_int_equal(mkfifo(temp_dir_path(&here->dir, "pipe"), 0600), 0);
    for (size_t form = 0; form < COUNT(forms); form++) {
        assert_false(read_file(here, "directory", forms[form].method, &err));
        assert_format_error(here, "directory", &err, "not a regular file");
        /* Nobody writes into it: this must not wait. */
        assert_false(read_file(here, "pipe", forms[form].method, &err));
        assert_format_error(here, "pipe", &err, "not a regular file");
    }
}

static void
test_behind_a_link(void **state)
{
    Here *here = *state;
    Error err;

    put_content(here, 0, first(here, MB));
    assert_int_equal(symlink(forms[0].name, temp_dir_path(&here->dir, "link")), 0);
    assert_true(read_file(here, "link", COMPRESSION_NONE, &err));
    assert_taken(here, MB);
}

/* ---- from the middle on ---- */

static void
test_from(void **state)
{
    static const uint64_t from[] = {0, 1, 8192, 65536, 300000, MB - 1, MB};
    Here *here = *state;

    for (size_t form = 0; form < COUNT(forms); form++) {
        put_content(here, form, first(here, MB));
        for (size_t i = 0; i < COUNT(from); i++) {
            SegmentSource source = {.path = temp_dir_path(&here->dir, forms[form].name),
                                    .compression = forms[form].method,
                                    .segment_size = MB,
                                    .from = from[i]};
            Error err = ERROR_INIT;
            SegmentReader *reader = segment_reader_open(&source, &err);
            Span bytes;

            assert_non_null(reader);
            buf_clear(&here->taken);
            do {
                assert_true(segment_reader_next(reader, &bytes, &err));
                assert_true(bytes.len <= 128 * 1024);
                assert_true(buf_append(&here->taken, bytes.data, bytes.len, &err));
            } while (bytes.len > 0);
            assert_int_equal(here->taken.len, MB - from[i]);
            assert_true(from[i] == MB || memcmp(here->taken.data, here->content.data + from[i],
                                                here->taken.len) == 0);
            segment_reader_free(reader);
        }
    }
}

static void
test_free_nothing(void **state)
{
    (void)state;
    segment_reader_free(NULL);
}

#define READ_TEST(function) cmocka_unit_test_setup_teardown(function, set_up, tear_down)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        READ_TEST(test_whole),         READ_TEST(test_two_members),
        READ_TEST(test_zeros),         READ_TEST(test_enough),
        READ_TEST(test_too_short),     READ_TEST(test_too_long),
        READ_TEST(test_cut_short),     READ_TEST(test_never_ended),
        READ_TEST(test_empty),         READ_TEST(test_damaged),
        READ_TEST(test_garbage),       READ_TEST(test_garbage_behind),
        READ_TEST(test_huge_window),   READ_TEST(test_other_names),
        READ_TEST(test_no_file),       READ_TEST(test_what_is_no_file),
        READ_TEST(test_behind_a_link), READ_TEST(test_from),
        READ_TEST(test_free_nothing),
    };

    return cmocka_run_group_tests_name("segment_read", tests, NULL, NULL);
}
