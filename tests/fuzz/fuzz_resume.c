/*
 * What an archive may have in it: an input is the content of its newest file, a partial segment
 * behind an intact one, plain or in the compression that its first bytes tell. Whatever it is, the
 * end is within the segment, the tail has exactly the bytes up to there and they are an intact
 * record chain; what is good alone is good again once it is cut off there. The input is a name,
 * too: what is taken for a segment's is written in exactly that way.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/file.h"
#include "fuzz/fuzz.h"
#include "pgformat/walrecord.h"
#include "support/temp_dir.h"
#include "support/wal_builder.h"
#include "walrecv/internal.h"

#define SEGMENT ((uint32_t)1 << 20)
#define START   ((Lsn)2 * SEGMENT)

static const char *const names[] = {[COMPRESSION_NONE] = "000000010000000000000002.partial",
                                    [COMPRESSION_GZIP] = "000000010000000000000002.gz.partial",
                                    [COMPRESSION_LZ4] = "000000010000000000000002.lz4.partial",
                                    [COMPRESSION_ZSTD] = "000000010000000000000002.zst.partial"};

static TempDir dir;
static const char *paths[sizeof names / sizeof names[0]];
static WalBuilder before; /* segment 1, which ends with a switch */

static void
must(bool holds)
{
    if (!holds)
        abort();
}

/* ---- the name ---- */

static void
check_name(const uint8_t *data, size_t size)
{
    char name[WAL_SEGMENT_FILE_SIZE];
    char written[WAL_SEGMENT_FILE_SIZE];
    WalSegmentFile file;

    if (size >= sizeof name)
        size = sizeof name - 1;
    if (size > 0)
        memcpy(name, data, size);
    name[size] = '\0';
    for (uint32_t segment_size = SEGMENT; segment_size <= 1u << 30; segment_size *= 2) {
        if (!wal_segment_file_parse(name, segment_size, &file))
            continue;
        wal_segment_file_name(written, &file, segment_size);
        must(strcmp(name, written) == 0);
    }
}

/* ---- the content ---- */

static void
clean_up(void)
{
    temp_dir_remove(&dir);
    wal_builder_free(&before);
}

static void
prepare(void)
{
    Span bytes;

    if (dir.path != NULL)
        return;
    temp_dir_make(&dir);
    (void)atexit(clean_up);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        paths[i] = temp_dir_path(&dir, names[i]);
    wal_builder_init(&before, &(WalBuilderConfig){.magic = 0xD118,
                                                  .timeline = 1,
                                                  .system_id = 7,
                                                  .segment_size = SEGMENT,
                                                  .start = SEGMENT});
    (void)wal_builder_record(&before, 10, 0, 100);
    (void)wal_builder_switch(&before);
    bytes = wal_builder_span(&before, SEGMENT, START);
    temp_dir_write(&dir, "000000010000000000000001", bytes.data, bytes.len);
}

static void
put(const char *path, const uint8_t *data, size_t size)
{
    Error err = ERROR_INIT;
    int fd = file_open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600, &err);

    must(fd >= 0 && file_write(fd, data, size, path, &err) && file_close(fd, path, &err));
}

static CompressionMethod
method_of(const uint8_t *data, size_t size)
{
    static const uint8_t magics[][4] = {[COMPRESSION_GZIP] = {0x1F, 0x8B},
                                        [COMPRESSION_LZ4] = {0x04, 0x22, 0x4D, 0x18},
                                        [COMPRESSION_ZSTD] = {0x28, 0xB5, 0x2F, 0xFD}};

    if (size >= 2 && memcmp(data, magics[COMPRESSION_GZIP], 2) == 0)
        return COMPRESSION_GZIP;
    if (size >= 4 && memcmp(data, magics[COMPRESSION_LZ4], 4) == 0)
        return COMPRESSION_LZ4;
    if (size >= 4 && memcmp(data, magics[COMPRESSION_ZSTD], 4) == 0)
        return COMPRESSION_ZSTD;
    return COMPRESSION_NONE;
}

/* Where the archive ends; `bytes` gets the tail. */
static Lsn
find_end(Buf *bytes)
{
    WalResumeConfig config = {.directory = dir.path, .segment_size = SEGMENT};
    Error err = ERROR_INIT;
    WalResume resume;
    WalTail *tail;
    Span piece = {.len = 1};

    must(wal_resume_find(&config, &resume, &tail, &err));
    must(resume.found && resume.start == START && resume.timeline == 1);
    must(resume.end >= START && resume.end <= START + SEGMENT);
    must((tail != NULL) == (resume.end > START));
    while (tail != NULL && piece.len > 0) {
        must(wal_tail_next(tail, &piece, &err));
        must(buf_append(bytes, piece.data, piece.len, &err));
    }
    must(bytes->len == resume.end - START);
    wal_tail_free(tail);
    return resume.end;
}

static void
check_chain(Lsn end, const Buf *bytes)
{
    WalParserConfig config = {.start = SEGMENT, .segment_size = SEGMENT, .timeline = 1};
    Error err = ERROR_INIT;
    WalParser *parser = wal_parser_new(&config, &err);
    WalDamage damage;

    must(parser != NULL);
    must(wal_parser_feed(parser, wal_builder_span(&before, SEGMENT, START), &damage) == WAL_INTACT);
    must(wal_parser_feed(parser, (Span){.data = bytes->data, .len = bytes->len}, &damage) ==
         WAL_INTACT);
    must(wal_parser_valid_end(parser) == end);
    wal_parser_free(parser);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    CompressionMethod method = method_of(data, size);
    Buf bytes = BUF_INIT;
    Buf again = BUF_INIT;
    Lsn end;

    check_name(data, size);
    prepare();
    put(paths[method], data, size);
    end = find_end(&bytes);
    check_chain(end, &bytes);
    must(unlink(paths[method]) == 0);
    if (end > START) {
        put(paths[COMPRESSION_NONE], bytes.data, bytes.len);
        must(find_end(&again) == end);
        must(memcmp(bytes.data, again.data, bytes.len) == 0);
        must(unlink(paths[COMPRESSION_NONE]) == 0);
    }
    buf_free(&bytes);
    buf_free(&again);
    return 0;
}
