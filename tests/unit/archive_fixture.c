#include "unit/archive_fixture.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "pgformat/walrecord.h"
#include "support/compressed.h"

const CompressionMethod archive_methods[ARCHIVE_METHODS] = {COMPRESSION_NONE, COMPRESSION_GZIP,
                                                            COMPRESSION_LZ4, COMPRESSION_ZSTD};

/* ---- WAL ---- */

WalBuilderConfig
archive_wal_config(uint32_t segment_size)
{
    return (WalBuilderConfig){.magic = 0xD118,
                              .timeline = 1,
                              .system_id = ARCHIVE_SYSTEM_ID,
                              .segment_size = segment_size,
                              .start = segment_size};
}

Lsn
archive_start(const TestArchive *here, uint64_t number)
{
    return number * here->segment_size;
}

void
archive_records(WalBuilder *wal, Lsn end)
{
    uint32_t seed = (uint32_t)(wal->end >> 3);

    for (uint32_t i = 0; wal->end < end; i++) {
        seed = seed * 1664525u + 1013904223u;
        (void)wal_builder_record(wal, HEAP, 0, 24 + (seed >> 8) % (i % 16 == 0 ? 30000 : 900));
    }
}

void
archive_records_until(WalBuilder *wal, Lsn end)
{
    archive_records(wal, end - 100000);
    (void)wal_builder_record_until(wal, end);
}

int
archive_set_up(void **state)
{
    TestArchive *here = calloc(1, sizeof *here);
    WalBuilderConfig config = archive_wal_config(MB);

    if (here == NULL)
        return -1;
    temp_dir_make(&here->dir);
    archive_wal(here, &config);
    archive_records(&here->wal, archive_start(here, ARCHIVE_SEGMENTS + 1));
    *state = here;
    return 0;
}

int
archive_tear_down(void **state)
{
    TestArchive *here = *state;

    temp_dir_remove(&here->dir);
    wal_builder_free(&here->wal);
    buf_free(&here->skipped);
    buf_free(&here->holes);
    buf_free(&here->tail);
    free(here);
    return 0;
}

void
archive_clear(TestArchive *here)
{
    temp_dir_remove(&here->dir);
    temp_dir_make(&here->dir);
}

void
archive_wal(TestArchive *here, const WalBuilderConfig *config)
{
    here->segment_size = config->segment_size;
    wal_builder_free(&here->wal);
    wal_builder_init(&here->wal, config);
}

Lsn
archive_record_end(const TestArchive *here, Lsn end)
{
    WalParserConfig config = {.start = here->wal.begin, .segment_size = here->segment_size};
    Span bytes = wal_builder_span(&here->wal, here->wal.begin, end);
    Error err = ERROR_INIT;
    WalParser *parser = wal_parser_new(&config, &err);
    WalDamage damage;
    Lsn valid_end;

    assert_non_null(parser);
    if (wal_parser_feed(parser, bytes, &damage) == WAL_DAMAGED)
        assert_true(wal_parser_valid_end(parser) <= damage.lsn);
    valid_end = wal_parser_valid_end(parser);
    wal_parser_free(parser);
    return valid_end;
}

/* ---- files ---- */

const char *
archive_file_name(const TestArchive *here, TimeLineID timeline, uint64_t number,
                  CompressionMethod compression, bool partial)
{
    static char names[4][WAL_SEGMENT_FILE_SIZE];
    static unsigned next;
    char *name = names[next++ % COUNT(names)];
    WalSegmentFile file = {
        .timeline = timeline, .number = number, .compression = compression, .partial = partial};

    wal_segment_file_name(name, &file, here->segment_size);
    return name;
}

void
archive_put_bytes(TestArchive *here, const char *name, CompressionMethod compression, Span bytes)
{
    Buf packed;

    if (bytes.len == 0)
        bytes = span_of("");
    if (compression == COMPRESSION_NONE) {
        temp_dir_write(&here->dir, name, bytes.data, bytes.len);
        return;
    }
    packed = compressed(compression, bytes);
    temp_dir_write(&here->dir, name, packed.data, packed.len);
    buf_free(&packed);
}

void
archive_put(TestArchive *here, TimeLineID timeline, uint64_t number, CompressionMethod compression,
            bool partial)
{
    Lsn start = archive_start(here, number);

    archive_put_bytes(here, archive_file_name(here, timeline, number, compression, partial),
                      compression, wal_builder_span(&here->wal, start, start + here->segment_size));
}

void
archive_put_complete(TestArchive *here, uint64_t number)
{
    archive_put(here, 1, number, PLAIN, COMPLETE);
}

void
archive_put_begin(TestArchive *here, TimeLineID timeline, uint64_t number,
                  CompressionMethod compression, size_t len)
{
    const char *name = archive_file_name(here, timeline, number, compression, PARTIAL);
    Lsn start = archive_start(here, number);
    Span bytes = wal_builder_span(&here->wal, start, start + len);
    Buf packed;

    if (compression == COMPRESSION_NONE) {
        archive_put_bytes(here, name, PLAIN, bytes);
        return;
    }
    packed = compressed_open(compression, bytes);
    temp_dir_write(&here->dir, name, packed.data, packed.len);
    buf_free(&packed);
}

void
archive_resize(TestArchive *here, const char *name, off_t size)
{
    const char *path = temp_dir_path(&here->dir, name);
    int fd = open(path, O_WRONLY | O_CREAT, 0600);

    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, size), 0);
    assert_int_equal(close(fd), 0);
}

void
archive_put_partial(TestArchive *here, TimeLineID timeline, uint64_t number, size_t len)
{
    archive_put_begin(here, timeline, number, PLAIN, len);
    archive_resize(here, archive_file_name(here, timeline, number, PLAIN, PARTIAL),
                   here->segment_size);
}

void
archive_change_byte(TestArchive *here, const char *name, off_t at)
{
    int fd = open(temp_dir_path(&here->dir, name), O_RDWR);
    uint8_t byte;

    assert_true(fd >= 0);
    assert_int_equal(pread(fd, &byte, 1, at), 1);
    byte ^= 0x10;
    assert_int_equal(pwrite(fd, &byte, 1, at), 1);
    assert_int_equal(close(fd), 0);
}

/* ---- finding ---- */

static void
note_skipped(void *ctx, const char *path, const char *reason)
{
    TestArchive *here = ctx;
    const char *name = strrchr(path, '/') + 1;
    Error err = ERROR_INIT;

    assert_string_equal(path, temp_dir_path(&here->dir, name));
    assert_true(buf_printf(&here->skipped, &err, "%s: %s\n", name, reason));
}

static void
note_hole(void *ctx, TimeLineID timeline, uint64_t first, uint64_t last)
{
    TestArchive *here = ctx;
    Error err = ERROR_INIT;

    assert_true(first <= last);
    assert_true(buf_printf(&here->holes, &err, "%u %llu %llu\n", timeline,
                           (unsigned long long)first, (unsigned long long)last));
}

bool
archive_read_tail(WalTail *tail, Buf *bytes, Error *err)
{
    Span piece;

    do {
        if (!wal_tail_next(tail, &piece, err))
            return false;
        assert_true(piece.len <= MB);
        if (piece.len > 0)
            assert_true(buf_append(bytes, piece.data, piece.len, err));
    } while (piece.len > 0);
    /* The end stays the end. */
    assert_true(wal_tail_next(tail, &piece, err));
    assert_int_equal(piece.len, 0);
    return true;
}

bool
archive_find(TestArchive *here, WalTail **tail, Error *err)
{
    WalResumeConfig config = {.directory = here->dir.path,
                              .segment_size = here->segment_size,
                              .history = here->history,
                              .skipped = note_skipped,
                              .hole = note_hole,
                              .ctx = here};

    buf_clear(&here->skipped);
    buf_clear(&here->holes);
    buf_clear(&here->tail);
    *err = ERROR_INIT;
    return wal_resume_find(&config, &here->resume, tail, err);
}

void
archive_find_all(TestArchive *here)
{
    WalTail *tail = NULL;
    Error err;

    if (!archive_find(here, &tail, &err) ||
        (tail != NULL && !archive_read_tail(tail, &here->tail, &err)))
        fail_msg("%s", err.message);
    assert_int_equal(err.code, ERR_NONE);
    if (here->resume.found) {
        assert_int_equal(here->resume.start % here->segment_size, 0);
        assert_true(here->resume.end >= here->resume.start);
        assert_int_equal(here->tail.len, here->resume.end - here->resume.start);
    }
    assert_int_equal(tail != NULL, here->tail.len > 0);
    wal_tail_free(tail);
}

void
assert_lsn(const char *what, Lsn found, Lsn expected)
{
    if (found != expected)
        fail_msg("%s is " LSN_FORMAT ", expected " LSN_FORMAT, what, LSN_ARGS(found),
                 LSN_ARGS(expected));
}

void
assert_resume(TestArchive *here, TimeLineID timeline, Lsn start, Lsn end)
{
    archive_find_all(here);
    assert_true(here->resume.found);
    assert_int_equal(here->resume.timeline, timeline);
    assert_lsn("start", here->resume.start, start);
    assert_lsn("end", here->resume.end, end);
}

void
assert_at_segment(TestArchive *here, TimeLineID timeline, uint64_t number)
{
    assert_resume(here, timeline, archive_start(here, number), archive_start(here, number));
}

void
assert_tail(TestArchive *here, TimeLineID timeline, uint64_t number, Lsn end)
{
    assert_resume(here, timeline, archive_start(here, number), end);
    assert_memory_equal(here->tail.data, wal_builder_span(&here->wal, here->resume.start, end).data,
                        here->tail.len);
}

void
assert_no_segment(TestArchive *here)
{
    archive_find_all(here);
    assert_false(here->resume.found);
}

void
assert_skipped(const TestArchive *here, const char *lines)
{
    assert_string_equal(buf_text(&here->skipped), lines);
}

void
assert_holes(const TestArchive *here, const char *lines)
{
    assert_string_equal(buf_text(&here->holes), lines);
}
