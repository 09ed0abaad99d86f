/*
 * What is where a complete segment belongs, in every form and in every state.
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

#include "common/file.h"
#include "support/compressed.h"
#include "support/descriptors.h"
#include "support/temp_dir.h"
#include "support/wal_builder.h"
#include "walrecv/internal.h"

#define MB           ((size_t)1024 * 1024)
#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define NAME         "000000010000000000000003"
#define START        ((Lsn)3 * MB)
#define METHODS      4u

/* ---- syncs ---- */

static char synced[256]; /* the last file */

int __real_fsync(int fd);
int __wrap_fsync(int fd);

int
__wrap_fsync(int fd)
{
    char path[512];

    (void)snprintf(synced, sizeof synced, "%.255s",
                   strrchr(descriptor_path(fd, path, sizeof path), '/') + 1);
    return __real_fsync(fd);
}

/* ---- the fixture ---- */

typedef struct Fixture {
    TempDir dir;
    WalDirConfig config;
    WalBuilder ours;
    WalBuilder others;       /* as sound, but another segment */
    CompleteSegment segment; /* ours; in its file, or in memory */
    atomic_bool ending;
    uint8_t *buffer;
    size_t buffer_size;
    size_t aside; /* how many files were moved, the last one: */
    char path[64];
    char new_path[64];
    char reason[256];
    bool exists;
    Error err;
} Fixture;

static const char *
base_name(const char *path)
{
    return strrchr(path, '/') + 1;
}

static void
note_set_aside(void *ctx, const char *path, const char *new_path, const char *reason)
{
    Fixture *fixture = ctx;

    fixture->aside++;
    (void)snprintf(fixture->path, sizeof fixture->path, "%s", base_name(path));
    (void)snprintf(fixture->new_path, sizeof fixture->new_path, "%s", base_name(new_path));
    (void)snprintf(fixture->reason, sizeof fixture->reason, "%s", reason);
}

static void
build(WalBuilder *wal, uint32_t length)
{
    wal_builder_init(wal, &(WalBuilderConfig){.magic = 0xD118,
                                              .timeline = 1,
                                              .system_id = 7,
                                              .segment_size = (uint32_t)MB,
                                              .start = START});
    while (wal->end < START + MB)
        (void)wal_builder_record(wal, 10, 0, length);
}

static Span
bytes_of(const WalBuilder *wal)
{
    return wal_builder_span(wal, START, START + MB);
}

static void
set_up(Fixture *fixture)
{
    build(&fixture->ours, 5000);
    build(&fixture->others, 4000);
    temp_dir_make(&fixture->dir);
    fixture->config = (WalDirConfig){.directory = fixture->dir.path,
                                     .segment_size = (uint32_t)MB,
                                     .file_mode = 0600,
                                     .sync = WAL_DURABLE,
                                     .set_aside = note_set_aside,
                                     .ctx = fixture};
    fixture->err = ERROR_INIT;
    fixture->aside = 0;
    fixture->exists = false;
    fixture->buffer_size = 65536;
    fixture->buffer = malloc(fixture->buffer_size);
    assert_non_null(fixture->buffer);
    atomic_init(&fixture->ending, false);
    synced[0] = '\0';
    fixture->segment = (CompleteSegment){.name = NAME};
    assert_true(segment_file_open(&fixture->config, NAME, &fixture->segment.file, &fixture->err));
    assert_true(segment_file_fill(&fixture->segment.file, bytes_of(&fixture->ours), &fixture->err));
}

/* Ours has no file (yet), only its bytes. */
static void
move_to_memory(Fixture *fixture)
{
    segment_file_free(&fixture->segment.file);
    assert_int_equal(unlink(temp_dir_path(&fixture->dir, NAME ".partial")), 0);
    fixture->segment.bytes = malloc(MB);
    assert_non_null(fixture->segment.bytes);
    memcpy(fixture->segment.bytes, bytes_of(&fixture->ours).data, MB);
}

static void
tear_down(Fixture *fixture)
{
    segment_file_free(&fixture->segment.file);
    free(fixture->segment.bytes);
    free(fixture->buffer);
    wal_builder_free(&fixture->ours);
    wal_builder_free(&fixture->others);
    temp_dir_remove(&fixture->dir);
}

static bool
resolve(Fixture *fixture)
{
    const ConflictCheck check = {.config = &fixture->config,
                                 .segment = &fixture->segment,
                                 .ending = &fixture->ending,
                                 .buffer = fixture->buffer,
                                 .buffer_size = fixture->buffer_size};

    return conflict_resolve(&check, &fixture->exists, &fixture->err);
}

static const char *
form_name(CompressionMethod method)
{
    static char name[64];

    (void)snprintf(name, sizeof name, NAME "%s", compression_suffix(method));
    return name;
}

/* ---- what may be there ---- */

typedef enum Content {
    SAME,
    OTHER,        /* sound, and another */
    OTHER_AT_END, /* differs in the last byte only, of a record that goes on behind it */
    FLIPPED,      /* one bit in a record */
    CUT_SHORT,    /* the last page is missing */
    TOO_LONG,     /* by one byte */
    ZEROS_BEHIND, /* half of it was never written */
    NOTHING,      /* no byte */
    CONTENTS
} Content;

static Buf
content_of(const Fixture *fixture, Content content)
{
    Span span = bytes_of(content == OTHER ? &fixture->others : &fixture->ours);
    Buf bytes = BUF_INIT;
    Error err = ERROR_INIT;

    assert_true(buf_append(&bytes, span.data, span.len, &err));
    switch (content) {
    case OTHER_AT_END:
        bytes.data[MB - 1] ^= 1;
        break;
    case FLIPPED:
        bytes.data[MB / 2] ^= 0x10;
        break;
    case CUT_SHORT:
        bytes.len -= WAL_BUILDER_PAGE;
        break;
    case TOO_LONG:
        assert_true(buf_append(&bytes, "x", 1, &err));
        break;
    case ZEROS_BEHIND:
        memset(bytes.data + MB / 2, 0, MB / 2);
        break;
    case NOTHING:
        bytes.len = 0;
        break;
    case SAME:
    case OTHER:
    case CONTENTS:
        break;
    }
    return bytes;
}

static void
leave(Fixture *fixture, CompressionMethod method, Content content)
{
    Buf bytes = content_of(fixture, content);
    Buf packed = compressed(method, (Span){.data = bytes.data, .len = bytes.len});

    temp_dir_write(&fixture->dir, form_name(method), buf_text(&packed), packed.len);
    buf_free(&packed);
    buf_free(&bytes);
}

static void
assert_untouched(Fixture *fixture, const char *name, CompressionMethod method, Content content)
{
    Buf bytes = content_of(fixture, content);
    Buf packed = compressed(method, (Span){.data = bytes.data, .len = bytes.len});
    Buf found = temp_dir_read(&fixture->dir, name);

    assert_int_equal(found.len, packed.len);
    assert_memory_equal(buf_text(&found), buf_text(&packed), packed.len);
    buf_free(&found);
    buf_free(&packed);
    buf_free(&bytes);
}

/* ---- tests ---- */

static void
test_nothing_is_there(void **state)
{
    Fixture fixture;

    (void)state;
    set_up(&fixture);
    temp_dir_write(&fixture.dir, "000000020000000000000003", "other timeline", 14);
    temp_dir_write(&fixture.dir, NAME ".gz.partial", "not complete", 12);
    assert_true(resolve(&fixture));
    assert_false(fixture.exists);
    assert_int_equal(fixture.aside, 0);
    assert_string_equal(synced, "");
    tear_down(&fixture);
}

static void
test_each_content(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 2 * METHODS * CONTENTS; i++) {
        CompressionMethod method = (CompressionMethod)(i / CONTENTS % METHODS);
        Content content = (Content)(i % CONTENTS);
        char damaged[80];
        Fixture fixture;
        bool ok;

        set_up(&fixture);
        if (i >= METHODS * CONTENTS)
            move_to_memory(&fixture);
        leave(&fixture, method, content);
        (void)snprintf(damaged, sizeof damaged, "%s.damaged", form_name(method));
        ok = resolve(&fixture);
        if (content == SAME) {
            assert_true(ok && fixture.exists);
            assert_string_equal(synced, form_name(method));
            assert_untouched(&fixture, form_name(method), method, content);
        } else if (content == OTHER || content == OTHER_AT_END) {
            assert_false(ok);
            assert_int_equal(fixture.err.sys_errno, EEXIST);
            assert_non_null(strstr(fixture.err.message, form_name(method)));
            assert_true(fixture.err.hint[0] != '\0');
            assert_untouched(&fixture, form_name(method), method, content);
        } else {
            assert_true(ok && !fixture.exists);
            assert_int_equal(fixture.aside, 1);
            assert_string_equal(fixture.path, form_name(method));
            assert_string_equal(fixture.new_path, damaged);
            assert_true(fixture.reason[0] != '\0');
            assert_false(temp_dir_exists(&fixture.dir, form_name(method)));
            assert_untouched(&fixture, damaged, method, content);
        }
        assert_true(fixture.aside == 1 || !temp_dir_exists(&fixture.dir, damaged));
        tear_down(&fixture);
    }
}

/* A compressed file that breaks off, or is none at all. */
static void
test_damaged_compression(void **state)
{
    (void)state;
    for (unsigned i = 1; i < METHODS; i++) {
        CompressionMethod method = (CompressionMethod)i;
        Fixture fixture;
        Buf packed;

        set_up(&fixture);
        packed = compressed(method, bytes_of(&fixture.ours));
        temp_dir_write(&fixture.dir, form_name(method), packed.data, packed.len - 1);
        assert_true(resolve(&fixture));
        assert_int_equal(fixture.aside, 1);
        temp_dir_write(&fixture.dir, form_name(method), "precious", 8);
        assert_true(resolve(&fixture));
        assert_int_equal(fixture.aside, 2);
        temp_dir_write(&fixture.dir, form_name(method), "", 0);
        assert_true(resolve(&fixture));
        assert_int_equal(fixture.aside, 3);
        assert_false(fixture.exists);
        buf_free(&packed);
        tear_down(&fixture);
    }
}

/* Nothing that was set aside is lost by the next. */
static void
test_names_of_what_is_set_aside(void **state)
{
    static const char *const names[] = {NAME ".damaged", NAME ".damaged.2", NAME ".damaged.3"};
    Fixture fixture;

    (void)state;
    set_up(&fixture);
    for (size_t i = 0; i < COUNT(names); i++) {
        temp_dir_write(&fixture.dir, NAME, names[i], i + 1);
        assert_true(resolve(&fixture));
        assert_string_equal(fixture.new_path, names[i]);
    }
    for (size_t i = 0; i < COUNT(names); i++) {
        Buf content = temp_dir_read(&fixture.dir, names[i]);

        assert_int_equal(content.len, i + 1);
        buf_free(&content);
    }
    tear_down(&fixture);
}

static void
test_no_listener(void **state)
{
    Fixture fixture;

    (void)state;
    set_up(&fixture);
    fixture.config.set_aside = NULL;
    leave(&fixture, COMPRESSION_NONE, CUT_SHORT);
    assert_true(resolve(&fixture));
    assert_true(temp_dir_exists(&fixture.dir, NAME ".damaged"));
    tear_down(&fixture);
}

/* Each form is looked at, whatever the others are. */
static void
test_several_forms(void **state)
{
    Fixture fixture;

    (void)state;
    set_up(&fixture);
    leave(&fixture, COMPRESSION_NONE, FLIPPED);
    leave(&fixture, COMPRESSION_GZIP, SAME);
    leave(&fixture, COMPRESSION_ZSTD, CUT_SHORT);
    assert_true(resolve(&fixture));
    assert_true(fixture.exists);
    assert_int_equal(fixture.aside, 2);
    assert_untouched(&fixture, form_name(COMPRESSION_GZIP), COMPRESSION_GZIP, SAME);

    leave(&fixture, COMPRESSION_LZ4, OTHER);
    assert_false(resolve(&fixture));
    assert_int_equal(fixture.err.sys_errno, EEXIST);
    tear_down(&fixture);
}

static void
test_no_regular_file(void **state)
{
    Fixture fixture;

    (void)state;
    set_up(&fixture);
    temp_dir_mkdir(&fixture.dir, NAME);
    assert_true(resolve(&fixture));
    assert_false(fixture.exists);
    assert_int_equal(temp_dir_mode(&fixture.dir, NAME ".damaged") & S_IFMT, S_IFDIR);

    /* Nor does it wait for somebody to write into it. */
    assert_int_equal(mkfifo(temp_dir_path(&fixture.dir, NAME ".gz"), 0600), 0);
    assert_true(resolve(&fixture));
    assert_int_equal(fixture.aside, 2);
    tear_down(&fixture);
}

static void
test_link(void **state)
{
    Fixture fixture;

    (void)state;
    set_up(&fixture);
    leave(&fixture, COMPRESSION_GZIP, SAME);
    assert_int_equal(
        rename(temp_dir_path(&fixture.dir, NAME ".gz"), temp_dir_path(&fixture.dir, "elsewhere")),
        0);
    assert_int_equal(symlink("elsewhere", temp_dir_path(&fixture.dir, NAME ".gz")), 0);
    assert_true(resolve(&fixture));
    assert_true(fixture.exists);
    tear_down(&fixture);
}

static void
test_not_durable(void **state)
{
    Fixture fixture;

    (void)state;
    set_up(&fixture);
    fixture.config.sync = WAL_NO_SYNC;
    leave(&fixture, COMPRESSION_NONE, SAME);
    assert_true(resolve(&fixture));
    assert_true(fixture.exists);
    assert_string_equal(synced, "");
    tear_down(&fixture);
}

/* However it is compared, the result is the same; also once more. */
static void
test_any_buffer(void **state)
{
    static const size_t sizes[] = {13, 4096, 65535};
    Fixture fixture;

    (void)state;
    set_up(&fixture);
    leave(&fixture, COMPRESSION_NONE, SAME);
    leave(&fixture, COMPRESSION_LZ4, SAME);
    for (size_t i = 0; i < 2 * COUNT(sizes); i++) {
        if (i == COUNT(sizes))
            move_to_memory(&fixture);
        fixture.buffer_size = sizes[i % COUNT(sizes)];
        fixture.exists = false;
        assert_true(resolve(&fixture));
        assert_true(fixture.exists);
    }
    leave(&fixture, COMPRESSION_NONE, OTHER_AT_END);
    for (size_t i = 0; i < COUNT(sizes); i++) {
        fixture.buffer_size = sizes[i];
        assert_false(resolve(&fixture));
        assert_int_equal(fixture.err.sys_errno, EEXIST);
    }
    tear_down(&fixture);
}

/* Our own file is shorter than it was: that is no sameness. */
static void
test_own_file_shrinks(void **state)
{
    Fixture fixture;

    (void)state;
    set_up(&fixture);
    leave(&fixture, COMPRESSION_NONE, SAME);
    assert_int_equal(ftruncate(fixture.segment.file.fd, (off_t)(MB - 1)), 0);
    assert_false(resolve(&fixture));
    assert_int_equal(fixture.err.sys_errno, EEXIST);
    tear_down(&fixture);
}

static void
test_ending(void **state)
{
    Fixture fixture;
    size_t open_before;

    (void)state;
    set_up(&fixture);
    leave(&fixture, COMPRESSION_ZSTD, OTHER);
    open_before = descriptors_open();
    atomic_store(&fixture.ending, true);
    assert_false(resolve(&fixture));
    assert_int_equal(fixture.err.code, ERR_STOPPED);
    assert_int_equal(descriptors_open(), open_before);
    tear_down(&fixture);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nothing_is_there),
        cmocka_unit_test(test_each_content),
        cmocka_unit_test(test_damaged_compression),
        cmocka_unit_test(test_names_of_what_is_set_aside),
        cmocka_unit_test(test_no_listener),
        cmocka_unit_test(test_several_forms),
        cmocka_unit_test(test_no_regular_file),
        cmocka_unit_test(test_link),
        cmocka_unit_test(test_not_durable),
        cmocka_unit_test(test_any_buffer),
        cmocka_unit_test(test_own_file_shrinks),
        cmocka_unit_test(test_ending),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
