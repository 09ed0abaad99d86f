/*
 * page_check: which pages are looked at, as which block, what is said of the bad ones, and that all
 * passes on unchanged whatever is found. The linker leads allocations through here (--wrap).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/crc32c.h"
#include "pgformat/incremental.h"
#include "pgformat/page.h"
#include "support/chunker.h"
#include "support/recorder.h"
#include "support/tar_builder.h"
#include "verify/verify.h"

#define PAGE    8192u
#define SEGMENT 131072u
#define START   ((Lsn)0x200000028)

/* ---- allocations that fail ---- */

static size_t allocations;
static size_t fail_at; /* 0: none */

static bool
fails(void)
{
    return fail_at != 0 && ++allocations == fail_at;
}

void *__real_malloc(size_t size);
void *__wrap_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__real_realloc(void *block, size_t size);
void *__wrap_realloc(void *block, size_t size);

void *
__wrap_malloc(size_t size)
{
    return fails() ? NULL : __real_malloc(size);
}

void *
__wrap_calloc(size_t count, size_t size)
{
    return fails() ? NULL : __real_calloc(count, size);
}

void *
__wrap_realloc(void *block, size_t size)
{
    return fails() ? NULL : __real_realloc(block, size);
}

/* ---- the chain under test ---- */

typedef struct Fixture {
    Recording recording;
    Sink *sink;
    PageTally tally;
    Buf log;        /* one line per problem: path, block, checksums, message */
    uint64_t limit; /* after that many problems the sink wants no more; 0: never */
    uint64_t problems;
    Error err;
} Fixture;

static bool
log_problem(void *ctx, const Problem *problem)
{
    Fixture *f = ctx;
    Error err = ERROR_INIT;

    assert_int_equal(problem->kind, PROBLEM_PAGE);
    if (problem->block == PROBLEM_WHOLE_FILE)
        assert_true(buf_printf(&f->log, &err, "%s -: %s\n", problem->path, problem->message));
    else
        assert_true(buf_printf(&f->log, &err, "%s %u %X %X: %s\n", problem->path, problem->block,
                               (unsigned)problem->expected, (unsigned)problem->found,
                               problem->message));
    f->problems++;
    return f->limit == 0 || f->problems < f->limit;
}

static PageCheckConfig
config_of(Fixture *f, uint32_t page_size, uint32_t segment_pages)
{
    return (PageCheckConfig){.start = START,
                             .page_size = page_size,
                             .segment_pages = segment_pages,
                             .problems = {.report = log_problem, .ctx = f}};
}

static void
begin_with(Fixture *f, uint32_t page_size, uint32_t segment_pages)
{
    PageCheckConfig config = config_of(f, page_size, segment_pages);

    f->tally = (PageTally){.checked = 99, .bad = 99}; /* what was there does not matter */
    f->sink = page_check_new(recorder_new(&f->recording, &f->err), &config, &f->tally, &f->err);
    memset(&config, 0xEE, sizeof config); /* it has its own copy */
    assert_non_null(f->sink);
    assert_int_equal(f->tally.checked, 0);
    assert_int_equal(f->tally.bad, 0);
}

static void
begin(Fixture *f)
{
    *f = (Fixture){.err = ERROR_INIT};
    begin_with(f, PAGE, SEGMENT);
}

static void
archive(Fixture *f, Oid tablespace)
{
    assert_true(sink_archive_begin(f->sink, &(Archive){.name = "x.tar", .tablespace = tablespace},
                                   &f->err));
}

static void
archive_end(Fixture *f)
{
    assert_true(sink_archive_end(f->sink, &f->err));
}

/* An entry with its data; whatever is in it, the stage goes on. */
static void
entry(Fixture *f, const Entry *what, Span data, size_t piece)
{
    size_t before = f->recording.bytes.len;

    assert_true(sink_entry_begin(f->sink, what, &f->err));
    assert_true(chunk_push(f->sink, data, piece, &f->err));
    assert_true(sink_entry_end(f->sink, true, &f->err));
    assert_int_equal(f->recording.bytes.len - before, data.len);
    if (data.len > 0)
        assert_memory_equal(f->recording.bytes.data + before, data.data, data.len);
}

static void
file(Fixture *f, const char *path, const Buf *data)
{
    entry(f, &(Entry){.kind = ENTRY_FILE, .path = path, .size = data->len},
          (Span){data->data, data->len}, 0);
}

static void
end(Fixture *f)
{
    sink_free(f->sink);
    assert_int_equal(f->recording.released, 1);
    recording_free(&f->recording);
    buf_free(&f->log);
}

static void
finish(Fixture *f)
{
    assert_true(sink_archive_end(f->sink, &f->err));
    assert_true(sink_finish(f->sink, &f->err));
    assert_true(f->recording.finished);
}

static void
assert_tally(const Fixture *f, uint64_t checked, uint64_t bad)
{
    assert_int_equal(f->tally.checked, checked);
    assert_int_equal(f->tally.bad, bad);
}

/* ---- pages ---- */

static void
set_le16(uint8_t *at, uint16_t value)
{
    at[0] = (uint8_t)value;
    at[1] = (uint8_t)(value >> 8);
}

static void
set_le32(uint8_t *at, uint32_t value)
{
    set_le16(at, (uint16_t)value);
    set_le16(at + 2, (uint16_t)(value >> 16));
}

static void
set_lsn(uint8_t *page, Lsn lsn)
{
    set_le32(page, (uint32_t)(lsn >> 32));
    set_le32(page + 4, (uint32_t)lsn);
}

static void
set_checksum(uint8_t *page, uint32_t page_size, uint32_t block)
{
    set_le16(page + 8, page_checksum(page, page_size, block));
}

/* A good page of noise, changed long ago. */
static void
page_make(uint8_t *page, uint32_t page_size, uint32_t block)
{
    uint32_t noise = block * 2654435761u + page_size;

    for (size_t i = 0; i < page_size; i++) {
        noise = noise * 1664525u + 1013904223u;
        page[i] = (uint8_t)(noise >> 24);
    }
    set_lsn(page, 0x100000000 + block);
    set_le16(page + 14, (uint16_t)page_size);
    set_checksum(page, page_size, block);
}

static void
put_page_of(Buf *data, uint32_t page_size, uint32_t block)
{
    Error err = ERROR_INIT;

    assert_true(buf_reserve(data, page_size, &err));
    page_make(data->data + data->len, page_size, block);
    data->len += page_size;
}

static Buf
pages(uint32_t first, uint32_t count)
{
    Buf data = BUF_INIT;

    for (uint32_t i = 0; i < count; i++)
        put_page_of(&data, PAGE, first + i);
    return data;
}

static uint8_t *
page_at(const Buf *data, size_t index)
{
    return data->data + index * PAGE;
}

/* Give the page this wrong checksum. */
static void
spoil(const Buf *data, size_t index, uint16_t found)
{
    set_le16(page_at(data, index) + 8, found);
}

static void
put_line(Buf *text, const char *path, uint32_t block, uint16_t expected, uint16_t found)
{
    Error err = ERROR_INIT;

    assert_true(buf_printf(text, &err,
                           "%s %u %X %X: page verification failed: %s block %u: calculated "
                           "checksum %X but found %X\n",
                           path, block, expected, found, path, block, expected, found));
}

/* ---- incremental files ---- */

static void
put_number(Buf *data, uint32_t number)
{
    uint8_t bytes[4];
    Error err = ERROR_INIT;

    set_le32(bytes, number);
    assert_true(buf_append(data, bytes, sizeof bytes, &err));
}

/* Blocks of a segment that begins at `first`, as pages of the fork. */
static Buf
incremental(const uint32_t *blocks, uint32_t count, uint32_t first)
{
    Buf data = BUF_INIT;

    put_number(&data, INCREMENTAL_MAGIC);
    put_number(&data, count);
    put_number(&data, SEGMENT);
    for (uint32_t i = 0; i < count; i++)
        put_number(&data, blocks[i]);
    while (count > 0 && data.len % PAGE != 0)
        put_number(&data, 0);
    for (uint32_t i = 0; i < count; i++)
        put_page_of(&data, PAGE, first + blocks[i]);
    return data;
}

/* ---- what passes ---- */

static void
test_passes_everything_on(void **state)
{
    Buf good = pages(0, 2);
    Buf text = BUF_INIT;
    Fixture f;

    (void)state;
    begin(&f);
    archive(&f, 16385);
    entry(&f, &(Entry){.kind = ENTRY_DIRECTORY, .path = "PG_18_1", .mode = 0700}, (Span){0}, 0);
    archive_end(&f);
    assert_true(sink_flush(f.sink, 5, &f.err));
    archive(&f, 0);
    entry(&f,
          &(Entry){
              .kind = ENTRY_SYMLINK, .path = "pg_tblspc/16385", .link_target = "/t", .mode = 0777},
          (Span){0}, 0);
    entry(&f, &(Entry){.kind = ENTRY_FILE, .path = "PG_VERSION", .size = 3, .mode = 0600},
          span_of("18\n"), 0);
    entry(&f, &(Entry){.kind = ENTRY_FILE, .path = "base/5/1", .size = good.len, .mode = 0640},
          (Span){good.data, good.len}, 5000);
    finish(&f);
    assert_true(buf_printf(&text, &f.err,
                           "archive x.tar 16385\n"
                           "directory PG_18_1 size=0 mode=0700 mtime=0\n"
                           "end complete\n"
                           "archive end\n"
                           "flush 0/5\n"
                           "archive x.tar 0\n"
                           "symlink pg_tblspc/16385 -> /t size=0 mode=0777 mtime=0\n"
                           "end complete\n"
                           "file PG_VERSION size=3 mode=0600 mtime=0\n"
                           "data 3 crc=E27B4E99\n"
                           "end complete\n"
                           "file base/5/1 size=16384 mode=0640 mtime=0\n"
                           "data 16384 crc=%08X\n"
                           "end complete\n"
                           "archive end\n"
                           "finish\n",
                           crc32c(0, good.data, good.len)));
    assert_string_equal(recording_text(&f.recording), buf_text(&text));
    assert_tally(&f, 2, 0);
    assert_string_equal(buf_text(&f.log), "");
    end(&f);
    buf_free(&good);
    buf_free(&text);
}

/* Nothing but relations has pages. */
static void
test_other_files(void **state)
{
    static const char *const paths[] = {"PG_VERSION",
                                        "backup_label",
                                        "global/pg_control",
                                        "global/pg_filenode.map",
                                        "base/5/pg_internal.init",
                                        "base/5/t3_16384",
                                        "base/5/016384",
                                        "base/5/16384.0",
                                        "base/5/16384_other",
                                        "pg_xact/0000",
                                        "pg_wal/000000010000000000000001",
                                        "PG_18_202506291/5/16384"};
    Buf bad = pages(0, 2);
    Fixture f;

    (void)state;
    spoil(&bad, 0, 1);
    begin(&f);
    archive(&f, 0);
    for (size_t i = 0; i < sizeof paths / sizeof paths[0]; i++)
        file(&f, paths[i], &bad);
    entry(&f, &(Entry){.kind = ENTRY_DIRECTORY, .path = "base/5/16384"}, (Span){0}, 0);
    entry(&f, &(Entry){.kind = ENTRY_SYMLINK, .path = "base/5/16384", .link_target = "x"},
          (Span){0}, 0);
    /* No archive of ours has data here; it is nobody's page in any case. */
    entry(&f, &(Entry){.kind = ENTRY_DIRECTORY, .path = "base/5/16384", .size = bad.len},
          (Span){bad.data, bad.len}, 0);
    archive_end(&f);
    archive(&f, 16385);
    file(&f, "base/5/16384", &bad);
    file(&f, "PG_18_202506291/PG_VERSION", &bad);
    finish(&f);
    assert_tally(&f, 0, 0);
    assert_string_equal(buf_text(&f.log), "");
    end(&f);
    buf_free(&bad);
}

/* ---- bad pages ---- */

static void
test_bad_page(void **state)
{
    Buf data = pages(0, 20);
    uint16_t expected = get_le16(page_at(&data, 17) + 8);
    Buf text = BUF_INIT;
    Fixture f;

    (void)state;
    spoil(&data, 17, 0x0234);
    begin(&f);
    archive(&f, 0);
    file(&f, "base/5/16384", &data);
    finish(&f);
    put_line(&text, "base/5/16384", 17, expected, 0x0234);
    assert_string_equal(buf_text(&f.log), buf_text(&text));
    assert_non_null(strstr(buf_text(&f.log), "base/5/16384 block 17: "));
    assert_non_null(strstr(buf_text(&f.log), " but found 234\n"));
    assert_tally(&f, 20, 1);
    end(&f);
    buf_free(&data);
    buf_free(&text);
}

/* One bit anywhere; what is computed is of the page as it came. */
static void
test_changed_content(void **state)
{
    static const size_t places[] = {0, 4, 10, 18, 24, 4000, PAGE - 1};

    (void)state;
    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
        Buf data = pages(0, 3);
        Buf text = BUF_INIT;
        Fixture f;

        page_at(&data, 1)[places[i]] ^= 1;
        begin(&f);
        archive(&f, 0);
        file(&f, "global/1262", &data);
        finish(&f);
        put_line(&text, "global/1262", 1, page_checksum(page_at(&data, 1), PAGE, 1),
                 get_le16(page_at(&data, 1) + 8));
        assert_string_equal(buf_text(&f.log), buf_text(&text));
        assert_tally(&f, 3, 1);
        end(&f);
        buf_free(&data);
        buf_free(&text);
    }
}

/* Intact pages in each other's place. */
static void
test_swapped_pages(void **state)
{
    Buf data = pages(0, 4);
    uint8_t page[PAGE];
    Fixture f;

    (void)state;
    memcpy(page, page_at(&data, 1), PAGE);
    memcpy(page_at(&data, 1), page_at(&data, 2), PAGE);
    memcpy(page_at(&data, 2), page, PAGE);
    begin(&f);
    archive(&f, 0);
    file(&f, "base/5/16384", &data);
    finish(&f);
    assert_tally(&f, 4, 2);
    assert_non_null(strstr(buf_text(&f.log), "base/5/16384 block 1: "));
    assert_non_null(strstr(buf_text(&f.log), "base/5/16384 block 2: "));
    assert_non_null(strstr(buf_text(&f.log),
                           "base/5/16384 -: page verification failed: base/5/16384: 2 of 4 checked "
                           "pages are bad\n"));
    end(&f);
    buf_free(&data);
}

/* Up to five are named; more than one are counted at the end. */
static void
test_many_bad_pages(void **state)
{
    static const uint32_t counts[] = {1, 2, PAGE_REPORTS_PER_FILE, PAGE_REPORTS_PER_FILE + 1, 12};
    Buf data = pages(0, 15);
    Buf text = BUF_INIT;
    Fixture f;

    (void)state;
    begin(&f);
    archive(&f, 0);
    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++) {
        uint32_t count = counts[i];

        for (uint32_t block = 0; block < count; block++) {
            spoil(&data, block, 0);
            if (block < PAGE_REPORTS_PER_FILE)
                put_line(&text, "base/5/16384", block,
                         page_checksum(page_at(&data, block), PAGE, block), 0);
        }
        if (count > PAGE_REPORTS_PER_FILE)
            assert_true(buf_printf(&text, &f.err,
                                   "base/5/16384 -: page verification failed: base/5/16384: "
                                   "further bad pages of this file are not reported\n"));
        if (count > 1)
            assert_true(buf_printf(&text, &f.err,
                                   "base/5/16384 -: page verification failed: base/5/16384: "
                                   "%u of 15 checked pages are bad\n",
                                   count));
        file(&f, "base/5/16384", &data);
        assert_string_equal(buf_text(&f.log), buf_text(&text));
    }
    finish(&f);
    assert_tally(&f, 5 * 15, 1 + 2 + 5 + 6 + 12);
    end(&f);
    buf_free(&data);
    buf_free(&text);
}

static void
test_sink_that_has_enough(void **state)
{
    Buf good = pages(0, 4);
    Buf data = pages(0, 20);
    const Buf none = BUF_INIT;

    (void)state;
    for (size_t i = 10; i < 18; i++)
        spoil(&data, i, 1);
    /* The sixth problem is that there are more, the seventh how many: all of one file. */
    for (uint64_t limit = 1; limit <= 7; limit++) {
        Fixture f;

        begin(&f);
        f.limit = limit;
        archive(&f, 0);
        file(&f, "base/5/1", &good);
        file(&f, "base/5/2", &data);
        file(&f, "base/5/3", &data);
        file(&f, "base/5/INCREMENTAL.4", &none);
        finish(&f);
        assert_int_equal(f.problems, limit);
        assert_tally(&f, 4 + 20, 8);
        end(&f);
    }
    buf_free(&good);
    buf_free(&data);
}

/* ---- which block ---- */

static void
test_segments(void **state)
{
    Buf second = pages(SEGMENT, 3);
    Buf later = pages(17 * SEGMENT, 3);
    Buf text = BUF_INIT;
    Fixture f;

    (void)state;
    begin(&f);
    archive(&f, 0);
    file(&f, "base/5/16384.1", &second);
    file(&f, "base/5/16384.17", &later);
    file(&f, "base/5/16384_fsm.1", &second);
    assert_tally(&f, 9, 0);
    put_line(&text, "base/5/16384_vm.17", 17 * SEGMENT + 2, get_le16(page_at(&later, 2) + 8), 7);
    spoil(&later, 2, 7);
    file(&f, "base/5/16384_vm.17", &later);
    assert_string_equal(buf_text(&f.log), buf_text(&text));
    /* The same file is another segment's. */
    file(&f, "base/5/16384", &second);
    assert_tally(&f, 15, 4);
    finish(&f);
    end(&f);
    buf_free(&second);
    buf_free(&later);
    buf_free(&text);
}

static void
test_all_page_sizes(void **state)
{
    (void)state;
    for (uint32_t size = PAGE_BYTES_MIN; size <= PAGE_BYTES_MAX; size *= 2) {
        Fixture f = {.err = ERROR_INIT};
        Buf data = BUF_INIT;
        Buf text = BUF_INIT;
        uint16_t expected;

        for (uint32_t block = 0; block < 5; block++)
            put_page_of(&data, size, 3 * 16 + block);
        expected = get_le16(data.data + 4 * (size_t)size + 8);
        set_le16(data.data + 4 * (size_t)size + 8, 0xBEEF);
        put_line(&text, "base/1/1.3", 52, expected, 0xBEEF);
        begin_with(&f, size, 16);
        archive(&f, 0);
        file(&f, "base/1/1.3", &data);
        finish(&f);
        assert_string_equal(buf_text(&f.log), buf_text(&text));
        assert_tally(&f, 5, 1);
        end(&f);
        buf_free(&data);
        buf_free(&text);
    }
}

/* A relation's blocks end before this one; there is no telling what such a file is. */
static void
test_end_of_block_numbers(void **state)
{
    Fixture f = {.err = ERROR_INIT};
    Buf data = BUF_INIT;
    Buf text = BUF_INIT;
    uint16_t expected;

    (void)state;
    for (uint32_t i = 0; i < 4; i++)
        put_page_of(&data, 1024, 0xFFFFFFFC + i);
    set_le16(data.data + 3 * 1024 + 8, 1);
    begin_with(&f, 1024, 4);
    archive(&f, 0);
    file(&f, "base/1/1.1073741823", &data);
    assert_tally(&f, 3, 0);
    file(&f, "base/1/1.1073741824", &data);
    file(&f, "base/1/1.4294967295", &data);
    assert_tally(&f, 3, 0);
    expected = get_le16(data.data + 2 * 1024 + 8);
    set_le16(data.data + 2 * 1024 + 8, 1);
    file(&f, "base/1/1.1073741823", &data);
    put_line(&text, "base/1/1.1073741823", PAGE_BLOCK_MAX, expected, 1);
    assert_string_equal(buf_text(&f.log), buf_text(&text));
    assert_tally(&f, 6, 1);
    finish(&f);
    end(&f);
    buf_free(&data);
    buf_free(&text);
}

static void
test_tablespaces(void **state)
{
    Buf data = pages(0, 2);
    uint16_t expected = get_le16(page_at(&data, 1) + 8);
    Buf text = BUF_INIT;
    Fixture f;

    (void)state;
    spoil(&data, 1, 0xFFFF);
    begin(&f);
    archive(&f, 16385);
    file(&f, "PG_18_202506291/5/16400", &data);
    archive_end(&f);
    archive(&f, 4294967295);
    file(&f, "PG_18_202506291/5/16400_init", &data);
    archive_end(&f);
    archive(&f, 0);
    file(&f, "base/5/16400", &data);
    finish(&f);
    put_line(&text, "pg_tblspc/16385/PG_18_202506291/5/16400", 1, expected, 0xFFFF);
    put_line(&text, "pg_tblspc/4294967295/PG_18_202506291/5/16400_init", 1, expected, 0xFFFF);
    put_line(&text, "base/5/16400", 1, expected, 0xFFFF);
    assert_string_equal(buf_text(&f.log), buf_text(&text));
    assert_tally(&f, 6, 3);
    end(&f);
    buf_free(&data);
    buf_free(&text);
}

/* ---- what is not looked at ---- */

/* New pages, however bad; only pd_upper decides. */
static void
test_new_pages(void **state)
{
    Buf data = pages(0, 4);
    Fixture f;

    (void)state;
    memset(page_at(&data, 0), 0, PAGE);
    set_le16(page_at(&data, 1) + 14, 0);
    set_le16(page_at(&data, 2) + 14, 1);
    set_checksum(page_at(&data, 2), PAGE, 2);
    begin(&f);
    archive(&f, 0);
    file(&f, "base/5/16384", &data);
    assert_tally(&f, 2, 0);
    spoil(&data, 2, 1);
    file(&f, "base/5/16384", &data);
    assert_tally(&f, 4, 1);
    finish(&f);
    end(&f);
    buf_free(&data);
}

/* What was written since the backup began WAL will write again. */
static void
test_pages_newer_than_the_backup(void **state)
{
    static const struct {
        Lsn lsn;
        bool looked_at;
    } cases[] = {{0, true},           {1, true},           {START - 1, true},
                 {START, false},      {START + 1, false},  {UINT64_MAX, false},
                 {0x1FFFFFFFF, true}, {0x300000000, false}};

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        Buf data = pages(0, 3);
        Fixture f;

        set_lsn(page_at(&data, 1), cases[i].lsn);
        set_checksum(page_at(&data, 1), PAGE, 1);
        begin(&f);
        archive(&f, 0);
        file(&f, "base/5/16384", &data);
        assert_tally(&f, cases[i].looked_at ? 3 : 2, 0);
        spoil(&data, 1, 0);
        file(&f, "base/5/16384", &data);
        assert_tally(&f, cases[i].looked_at ? 6 : 4, cases[i].looked_at ? 1 : 0);
        finish(&f);
        end(&f);
        buf_free(&data);
    }
}

static void
test_sizes_that_are_no_pages(void **state)
{
    static const size_t lens[] = {0, 1, PAGE - 1, PAGE + 1, 2 * PAGE + PAGE / 2, 3 * PAGE - 1};
    Buf data = pages(0, 3);
    Fixture f;

    (void)state;
    spoil(&data, 0, 1);
    begin(&f);
    archive(&f, 0);
    for (size_t i = 0; i < sizeof lens / sizeof lens[0]; i++) {
        Buf part = {.data = data.data, .len = lens[i]};

        file(&f, "base/5/16384", &part);
    }
    assert_tally(&f, 0, 0);
    file(&f, "base/5/16384", &data);
    assert_tally(&f, 3, 1);
    finish(&f);
    end(&f);
    buf_free(&data);
}

/* ---- pieces ---- */

static const size_t piece_sizes[] = {1, 7, 512, 1000, PAGE - 1, PAGE, PAGE + 1, 3 * PAGE, 30000, 0};

#define PIECES (sizeof piece_sizes / sizeof piece_sizes[0])

/* Files of all kinds, some with bad pages; each is cut in pieces of this size. */
static void
push_mixed(Fixture *f, size_t piece)
{
    static const uint32_t blocks[] = {2, 3, 500, SEGMENT - 1};
    Buf plain = pages(0, 9);
    Buf changed = incremental(blocks, 4, SEGMENT);
    Buf damaged = incremental(blocks, 4, 0);
    Buf all[] = {plain, changed, damaged, plain};
    const char *const paths[] = {"base/5/16384", "base/5/INCREMENTAL.16384.1",
                                 "base/5/INCREMENTAL.16385", "base/5/pg_internal.init"};

    spoil(&plain, 0, 1);
    spoil(&plain, 8, 2);
    memset(page_at(&plain, 4), 0, PAGE);
    spoil(&changed, 1 + 2, 3);
    set_le32(damaged.data + 12, 4);
    archive(f, 0);
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        entry(f, &(Entry){.kind = ENTRY_FILE, .path = paths[i], .size = all[i].len},
              (Span){all[i].data, all[i].len}, piece);
    finish(f);
    buf_free(&plain);
    buf_free(&changed);
    buf_free(&damaged);
}

static void
test_pieces_do_not_matter(void **state)
{
    Fixture whole;

    (void)state;
    begin(&whole);
    push_mixed(&whole, 0);
    assert_tally(&whole, 8 + 4, 2 + 1 + 1);
    assert_int_equal(whole.problems, 3 + 1 + 1);
    for (size_t i = 0; i < PIECES; i++) {
        Fixture f;

        begin(&f);
        push_mixed(&f, piece_sizes[i]);
        assert_string_equal(buf_text(&f.log), buf_text(&whole.log));
        assert_string_equal(recording_text(&f.recording), recording_text(&whole.recording));
        assert_tally(&f, whole.tally.checked, whole.tally.bad);
        end(&f);
    }
    end(&whole);
}

/* Behind the tar reader, where content begins anywhere in a piece. */
static void
test_behind_the_tar_reader(void **state)
{
    Buf data = pages(0, 4);
    Buf tar = BUF_INIT;
    Buf text = BUF_INIT;

    (void)state;
    put_line(&text, "base/5/16384", 2, get_le16(page_at(&data, 2) + 8), 5);
    spoil(&data, 2, 5);
    tar_add(&tar, &(TarMember){TAR_FILE("PG_VERSION", "18\n")});
    tar_add(&tar, &(TarMember){.name = "base/5/16384", .data = data.data, .size = data.len});
    tar_end(&tar);
    for (size_t i = 0; i < PIECES; i++) {
        Fixture f;

        begin(&f);
        f.sink = tar_reader_new(f.sink, TAR_END_REQUIRED, &f.err);
        assert_non_null(f.sink);
        assert_true(chunk_archive(f.sink, &(Archive){.name = "base.tar"}, tar_span(&tar),
                                  piece_sizes[i], &f.err));
        assert_true(sink_finish(f.sink, &f.err));
        assert_string_equal(buf_text(&f.log), buf_text(&text));
        assert_tally(&f, 4, 1);
        end(&f);
    }
    buf_free(&data);
    buf_free(&tar);
    buf_free(&text);
}

/* What is left of one file is no part of the next. */
static void
test_file_cut_short(void **state)
{
    Buf data = pages(0, 3);
    Entry cut = {.kind = ENTRY_FILE, .path = "base/5/1", .size = 3 * PAGE};
    Fixture f;

    (void)state;
    begin(&f);
    archive(&f, 0);
    assert_true(sink_entry_begin(f.sink, &cut, &f.err));
    assert_true(chunk_push(f.sink, (Span){data.data, PAGE + 100}, 0, &f.err));
    assert_true(sink_entry_end(f.sink, false, &f.err));
    assert_tally(&f, 1, 0);
    file(&f, "base/5/2", &data);
    assert_tally(&f, 4, 0);
    /* Nor is there a page behind the last one that was announced. */
    cut.size = PAGE;
    entry(&f, &cut, (Span){data.data, data.len}, 0);
    assert_tally(&f, 5, 0);
    assert_string_equal(buf_text(&f.log), "");
    finish(&f);
    end(&f);
    buf_free(&data);
}

/* ---- incremental files ---- */

static void
test_incremental_files(void **state)
{
    static const uint32_t blocks[] = {0, 17, 4000, SEGMENT - 1};
    Buf data = incremental(blocks, 4, 0);
    Buf second = incremental(blocks, 4, SEGMENT);
    Buf none = incremental(NULL, 0, 0);
    Buf plain = pages(0, 2);
    Buf text = BUF_INIT;
    Fixture f;

    (void)state;
    assert_int_equal(none.len, 12);
    begin(&f);
    archive(&f, 0);
    file(&f, "base/5/INCREMENTAL.16384", &data);
    file(&f, "base/5/INCREMENTAL.16384.1", &second);
    file(&f, "global/INCREMENTAL.1262", &none);
    file(&f, "base/5/16385", &plain); /* its pages are numbered from 0 again */
    assert_tally(&f, 10, 0);
    assert_string_equal(buf_text(&f.log), "");
    /* The page of another block. */
    file(&f, "base/5/INCREMENTAL.16384", &second);
    assert_tally(&f, 14, 4);
    buf_clear(&f.log);
    put_line(&text, "base/5/INCREMENTAL.16384.1", SEGMENT + 4000,
             get_le16(page_at(&second, 1 + 2) + 8), 0xABC);
    spoil(&second, 1 + 2, 0xABC);
    file(&f, "base/5/INCREMENTAL.16384.1", &second);
    assert_string_equal(buf_text(&f.log), buf_text(&text));
    assert_tally(&f, 18, 5);
    finish(&f);
    end(&f);
    buf_free(&data);
    buf_free(&second);
    buf_free(&none);
    buf_free(&plain);
    buf_free(&text);
}

static void
test_incremental_file_of_a_tablespace(void **state)
{
    static const uint32_t blocks[] = {9};
    Buf data = incremental(blocks, 1, 0);
    Buf text = BUF_INIT;
    Fixture f;

    (void)state;
    put_line(&text, "pg_tblspc/16385/PG_18_202506291/5/INCREMENTAL.16400_vm", 9,
             get_le16(page_at(&data, 1) + 8), 1);
    spoil(&data, 1, 1);
    begin(&f);
    archive(&f, 16385);
    file(&f, "PG_18_202506291/5/INCREMENTAL.16400_vm", &data);
    finish(&f);
    assert_string_equal(buf_text(&f.log), buf_text(&text));
    end(&f);
    buf_free(&data);
    buf_free(&text);
}

/* Its pages follow the same rules. */
static void
test_incremental_pages_that_are_not_looked_at(void **state)
{
    static const uint32_t blocks[] = {1, 2, 3};
    Buf data = incremental(blocks, 3, 0);
    Fixture f;

    (void)state;
    set_lsn(page_at(&data, 1), START);
    memset(page_at(&data, 2), 0, PAGE);
    begin(&f);
    archive(&f, 0);
    file(&f, "base/5/INCREMENTAL.1", &data);
    finish(&f);
    assert_tally(&f, 1, 0);
    end(&f);
    buf_free(&data);
}

static void
test_damaged_header(void **state)
{
    static const uint32_t blocks[] = {1, 2, 3};
    static const struct {
        size_t at;
        uint32_t value;
        size_t len; /* of the file; 0: all of it */
        const char *what;
    } cases[] = {
        {0, 1, 0, "magic number is 00000001, expected D3AE1F0D"},
        {4, SEGMENT + 1, 0, "block count 131073 exceeds the segment size of 131072 blocks"},
        {8, SEGMENT + 1, 0, "truncation length 131073 exceeds the segment size of 131072 blocks"},
        {16, 1, 0, "block number 1 follows block number 1"},
        {20, SEGMENT, 0, "block number 131072 is beyond the segment size of 131072 blocks"},
        {4, 2, 0, "size is 32768, but its header asks for 24576"},
        {8, 0, 3 * PAGE, "size is 24576, but its header asks for 32768"},
        {8, 0, 4 * PAGE - 1, "size is 32767, but its header asks for 32768"},
        {8, 0, PAGE - 1, "file ends within its header"},
        {8, 0, 12, "file ends within its header"},
        {8, 0, 11, "file ends within its header"},
    };
    Buf good = pages(0, 1);

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        for (size_t p = 0; p < PIECES; p++) {
            Buf data = incremental(blocks, 3, 0);
            Buf text = BUF_INIT;
            Fixture f;

            set_le32(data.data + cases[i].at, cases[i].value);
            if (cases[i].len != 0)
                data.len = cases[i].len;
            begin(&f);
            archive(&f, 0);
            entry(&f,
                  &(Entry){.kind = ENTRY_FILE, .path = "base/5/INCREMENTAL.1", .size = data.len},
                  (Span){data.data, data.len}, piece_sizes[p]);
            file(&f, "base/5/2", &good);
            finish(&f);
            assert_true(buf_printf(&text, &f.err,
                                   "base/5/INCREMENTAL.1 -: page verification failed: "
                                   "base/5/INCREMENTAL.1: %s\n",
                                   cases[i].what));
            assert_string_equal(buf_text(&f.log), buf_text(&text));
            assert_tally(&f, 1, 1);
            end(&f);
            buf_free(&data);
            buf_free(&text);
        }
    }
    buf_free(&good);
}

static void
test_empty_incremental_file(void **state)
{
    const Buf nothing = BUF_INIT;
    Fixture f;

    (void)state;
    begin(&f);
    archive(&f, 0);
    file(&f, "base/5/INCREMENTAL.1", &nothing);
    finish(&f);
    assert_string_equal(buf_text(&f.log),
                        "base/5/INCREMENTAL.1 -: page verification failed: base/5/INCREMENTAL.1: "
                        "file ends within its header\n");
    assert_tally(&f, 0, 1);
    end(&f);
}

/* ---- the stage ---- */

static void
test_opaque_archive_is_a_bug(void **state)
{
    Fixture f;

    (void)state;
    begin(&f);
    archive(&f, 0);
    assert_false(sink_data(f.sink, span_of("tar"), &f.err));
    assert_int_equal(f.err.code, ERR_BUG);
    end(&f);
}

static void
test_failure_behind_it_is_passed_back(void **state)
{
    Buf data = pages(0, 1);
    Fixture f;

    (void)state;
    begin(&f);
    f.recording.fail_at = 3;
    archive(&f, 0);
    assert_true(sink_entry_begin(f.sink, &(Entry){.path = "base/5/1", .size = PAGE}, &f.err));
    assert_false(sink_data(f.sink, (Span){data.data, data.len}, &f.err));
    assert_int_equal(f.err.code, ERR_SYSTEM);
    end(&f);
    buf_free(&data);
}

static void
test_configuration(void **state)
{
    static const uint32_t sizes[] = {0, 512, 1023, 8191, 12288, 65536};
    Fixture f = {.err = ERROR_INIT};
    PageCheckConfig config = config_of(&f, PAGE, SEGMENT);

    (void)state;
    assert_null(page_check_new(NULL, &config, &f.tally, &f.err));
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        f.recording = RECORDING_INIT;
        f.err = ERROR_INIT;
        config.page_size = sizes[i];
        assert_null(page_check_new(recorder_new(&f.recording, &f.err), &config, &f.tally, &f.err));
        assert_int_equal(f.err.code, ERR_BUG);
        assert_int_equal(f.recording.released, 1);
    }
    f.recording = RECORDING_INIT;
    f.err = ERROR_INIT;
    config = config_of(&f, PAGE, 0);
    assert_null(page_check_new(recorder_new(&f.recording, &f.err), &config, &f.tally, &f.err));
    assert_int_equal(f.err.code, ERR_BUG);
    assert_string_equal(f.err.message, "invalid page size 8192 or segment size 0");
    assert_int_equal(f.recording.released, 1);
}

/* The end of the chain for what must not allocate by itself. */
static bool
count_problem(void *ctx, const Problem *problem)
{
    (void)problem;
    ++*(uint64_t *)ctx;
    return true;
}

static bool
push_bad_files(Sink *sink, const Buf *plain, const Buf *changed, Error *err)
{
    static const Archive tablespace = {.name = "16385.tar", .tablespace = 16385};
    const Entry one = {.path = "PG_18_1/5/1", .size = plain->len};
    const Entry two = {.path = "PG_18_1/5/INCREMENTAL.2", .size = changed->len};

    return sink_archive_begin(sink, &tablespace, err) && sink_entry_begin(sink, &one, err) &&
           sink_data(sink, (Span){plain->data, plain->len}, err) &&
           sink_entry_end(sink, true, err) && sink_entry_begin(sink, &two, err) &&
           sink_data(sink, (Span){changed->data, changed->len}, err) &&
           sink_entry_end(sink, true, err) && sink_archive_end(sink, err) && sink_finish(sink, err);
}

/* Whichever allocation fails, that is the error, and nothing is left behind. */
static void
test_every_allocation_fails(void **state)
{
    static const uint32_t blocks[] = {2, 3};
    Buf plain = pages(0, 2);
    Buf changed = incremental(blocks, 2, 0);
    bool done = false;

    (void)state;
    spoil(&plain, 1, 1);
    spoil(&changed, 2, 1);
    for (size_t n = 1; !done; n++) {
        Recording recording = RECORDING_INIT;
        Error err = ERROR_INIT;
        PageTally tally;
        uint64_t problems = 0;
        PageCheckConfig config = {.start = START,
                                  .page_size = PAGE,
                                  .segment_pages = SEGMENT,
                                  .problems = {.report = count_problem, .ctx = &problems}};
        Sink *sink;

        allocations = 0;
        fail_at = n;
        sink = page_check_new(recorder_new(&recording, &err), &config, &tally, &err);
        done = sink != NULL && push_bad_files(sink, &plain, &changed, &err);
        sink_free(sink);
        done = done && allocations < n;
        fail_at = 0;
        assert_int_equal(err.code, done ? ERR_NONE : ERR_MEMORY);
        assert_int_equal(recording.released, n > 1 ? 1 : 0);
        if (done) {
            assert_int_equal(problems, 2);
            assert_true(n > 7); /* the stage, scan, page, parser, path, message, blocks */
        }
        recording_free(&recording);
    }
    buf_free(&plain);
    buf_free(&changed);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_passes_everything_on),
        cmocka_unit_test(test_other_files),
        cmocka_unit_test(test_bad_page),
        cmocka_unit_test(test_changed_content),
        cmocka_unit_test(test_swapped_pages),
        cmocka_unit_test(test_many_bad_pages),
        cmocka_unit_test(test_sink_that_has_enough),
        cmocka_unit_test(test_segments),
        cmocka_unit_test(test_all_page_sizes),
        cmocka_unit_test(test_end_of_block_numbers),
        cmocka_unit_test(test_tablespaces),
        cmocka_unit_test(test_new_pages),
        cmocka_unit_test(test_pages_newer_than_the_backup),
        cmocka_unit_test(test_sizes_that_are_no_pages),
        cmocka_unit_test(test_pieces_do_not_matter),
        cmocka_unit_test(test_behind_the_tar_reader),
        cmocka_unit_test(test_file_cut_short),
        cmocka_unit_test(test_incremental_files),
        cmocka_unit_test(test_incremental_file_of_a_tablespace),
        cmocka_unit_test(test_incremental_pages_that_are_not_looked_at),
        cmocka_unit_test(test_damaged_header),
        cmocka_unit_test(test_empty_incremental_file),
        cmocka_unit_test(test_opaque_archive_is_a_bug),
        cmocka_unit_test(test_failure_behind_it_is_passed_back),
        cmocka_unit_test(test_configuration),
        cmocka_unit_test(test_every_allocation_fails),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
