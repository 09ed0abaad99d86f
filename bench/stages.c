/*
 * How fast each stage is by itself: bytes that look like a relation's pages, from memory, in the
 * pieces that a server sends them in, through one stage into nothing.
 *
 *     stages [DIRECTORY]      where extract writes; default: it is left out
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "common/checksum.h"
#include "common/crc32c.h"
#include "common/file.h"
#include "common/runtime.h"
#include "pgformat/page.h"
#include "stream/compression.h"
#include "stream/stream.h"

#define PAGE    ((size_t)8192)
#define FILES   ((size_t)16)
#define SIZE    ((size_t)16 * 1024 * 1024) /* of a file */
#define MESSAGE ((size_t)32 * 1024)
#define ROUNDS  5

typedef struct Bench {
    uint8_t *pages; /* the content of each file */
    const char *directory;
    unsigned run;
    Error err;
} Bench;

/* Rows of a few numbers and words, as tables have them: about 4:1 for gzip. */
static void
fill_pages(uint8_t *pages)
{
    static const char *const words[] = {"backup", "segment", "timeline", "manifest",
                                        "slot",   "page",    "relation", "checkpoint"};
    uint64_t state = 88172645463325252u;

    for (size_t at = 0; at + 64 <= SIZE; at += 64) {
        char row[65];

        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (void)snprintf(row, sizeof row, "%08zx %-12s %-12s %020llu %8u", at / 64, words[state % 8],
                       words[state / 8 % 8], (unsigned long long)(state >> 20),
                       (unsigned)(state % 100000));
        memcpy(pages + at, row, 64);
    }
}

/* ---- runs ---- */

static void
report(const char *name, int64_t best_us, uint64_t bytes)
{
    (void)printf("%-28s %8.2f GB/s\n", name, (double)bytes / 1000.0 / (double)best_us);
    (void)fflush(stdout);
}

static void
fail(const Bench *bench, const char *name)
{
    (void)fprintf(stderr, "stages: error: %s: %s\n", name, bench->err.message);
    exit(EXIT_FAILURE);
}

static bool
push_pieces(Sink *sink, Span data, Error *err)
{
    while (data.len > 0) {
        Span piece = {.data = data.data, .len = data.len < MESSAGE ? data.len : MESSAGE};

        if (!sink_data(sink, piece, err))
            return false;
        data.data += piece.len;
        data.len -= piece.len;
    }
    return true;
}

static bool
push_opaque(Bench *bench, Sink *sink, const char *name, Span content, size_t times)
{
    bool ok = sink_archive_begin(sink, &(Archive){.name = name}, &bench->err);

    for (size_t i = 0; ok && i < times; i++)
        ok = push_pieces(sink, content, &bench->err);
    return ok && sink_archive_end(sink, &bench->err) && sink_finish(sink, &bench->err);
}

static bool
push_entries(Bench *bench, Sink *sink)
{
    bool ok = sink_archive_begin(sink, &(Archive){.name = "base.tar"}, &bench->err);

    for (size_t i = 0; ok && i < FILES; i++) {
        char path[32];
        Entry entry = {.kind = ENTRY_FILE, .path = path, .size = SIZE, .mode = 0600};

        (void)snprintf(path, sizeof path, "base/5/%zu", 16384 + i);
        ok = sink_entry_begin(sink, &entry, &bench->err) &&
             push_pieces(sink, (Span){.data = bench->pages, .len = SIZE}, &bench->err) &&
             sink_entry_end(sink, true, &bench->err);
    }
    return ok && sink_archive_end(sink, &bench->err) && sink_finish(sink, &bench->err);
}

/* The best of some rounds of what `make` makes. */
static void
measure_opaque(Bench *bench, const char *title, Sink *(*make)(Bench *bench, int what), int what,
               const char *name, Span content, uint64_t counted)
{
    const size_t times = name == NULL ? FILES : 1;
    int64_t best = INT64_MAX;

    for (int i = 0; i < ROUNDS; i++) {
        Sink *sink = make(bench, what);
        int64_t start = clock_us();

        if (sink == NULL ||
            !push_opaque(bench, sink, name == NULL ? "base.tar" : name, content, times))
            fail(bench, title);
        best = clock_us() - start < best ? clock_us() - start : best;
        sink_free(sink);
    }
    report(title, best, counted);
}

/* ---- digests and pages ---- */

static void
measure_sums(Bench *bench)
{
    volatile uint32_t sum = 0; /* so that nobody leaves the work out */
    int64_t best[2] = {INT64_MAX, INT64_MAX};

    for (int i = 0; i < ROUNDS; i++) {
        int64_t start = clock_us();

        for (size_t f = 0; f < FILES; f++)
            sum = crc32c(sum, bench->pages, SIZE);
        best[0] = clock_us() - start < best[0] ? clock_us() - start : best[0];
        start = clock_us();
        for (size_t f = 0; f < FILES; f++) {
            for (size_t at = 0; at < SIZE; at += PAGE)
                sum += page_checksum(bench->pages + at, PAGE, (uint32_t)(at / PAGE));
        }
        best[1] = clock_us() - start < best[1] ? clock_us() - start : best[1];
    }
    report("crc32c", best[0], FILES * SIZE);
    report("page checksum", best[1], FILES * SIZE);
}

/* ---- stages ---- */

static Sink *
make_discard(Bench *bench, int what)
{
    (void)what;
    return discard_new(&bench->err);
}

static Sink *
make_handoff(Bench *bench, int what)
{
    const HandoffConfig config = {.block_size = 0};

    (void)what;
    return handoff_new(discard_new(&bench->err), &config, &bench->err);
}

static const Compression compressions[] = {
    {.method = COMPRESSION_GZIP, .level = 1},
    {.method = COMPRESSION_GZIP, .level = 6},
    {.method = COMPRESSION_GZIP, .level = 6, .workers = 2},
    {.method = COMPRESSION_LZ4, .level = 1},
    {.method = COMPRESSION_ZSTD, .level = 3},
};

static Sink *
make_compress(Bench *bench, int what)
{
    return compress_new(discard_new(&bench->err), &compressions[what], &bench->err);
}

static Sink *
make_decompress(Bench *bench, int what)
{
    return decompress_new(discard_new(&bench->err), compressions[what].method, &bench->err);
}

/* Collects what a stage pushes: a sink of this program's own would need the room's inside. */
static Buf
compressed(Bench *bench, int what)
{
    char path[] = "/tmp/pgstow-stages-XXXXXX";
    char file[64];
    Buf content = BUF_INIT;
    FileSinkConfig config = {.directory = path, .file_mode = 0600, .sync = SYNC_NONE};
    Sink *sink;

    if (mkdtemp(path) == NULL)
        fail(bench, "mkdtemp");
    sink = compress_new(file_sink_new(&config, &bench->err), &compressions[what], &bench->err);
    if (sink == NULL ||
        !push_opaque(bench, sink, "base.tar", (Span){.data = bench->pages, .len = SIZE}, FILES))
        fail(bench, "compress");
    sink_free(sink);
    (void)snprintf(file, sizeof file, "%s/base.tar%s", path,
                   compression_suffix(compressions[what].method));
    if (!file_load(file, UINT32_MAX, &content, &bench->err) || !dir_remove(path, &bench->err))
        fail(bench, file);
    return content;
}

static void
measure_codecs(Bench *bench)
{
    const Span pages = {.data = bench->pages, .len = SIZE};

    for (size_t i = 0; i < sizeof compressions / sizeof compressions[0]; i++) {
        const Compression *compression = &compressions[i];
        const char *method = compression_method_name(compression->method);
        Buf packed = compressed(bench, (int)i);
        char title[64];
        char name[32];

        (void)snprintf(name, sizeof name, "base.tar%s", compression_suffix(compression->method));
        (void)snprintf(title, sizeof title, "%s:%d%s (%.2f:1)", method, compression->level,
                       compression->workers > 0 ? ", 2 threads" : "",
                       (double)(FILES * SIZE) / (double)packed.len);
        measure_opaque(bench, title, make_compress, (int)i, NULL, pages, FILES * SIZE);
        if (compression->workers == 0) {
            (void)snprintf(title, sizeof title, "decompress %s:%d", method, compression->level);
            measure_opaque(bench, title, make_decompress, (int)i, name,
                           (Span){.data = packed.data, .len = packed.len}, FILES * SIZE);
        }
        buf_free(&packed);
    }
}

/* ---- the disk ---- */

static char root[4096];

static const char *
root_of(void *ctx, Oid tablespace)
{
    (void)ctx;
    (void)tablespace;
    return root;
}

static void
measure_extract(Bench *bench, const char *title, SyncMethod sync)
{
    int64_t best = INT64_MAX;

    for (int i = 0; i < ROUNDS; i++) {
        ExtractConfig config = {.root = root_of, .sync = sync, .directory_mode = 0700};
        int64_t start;
        Sink *sink;

        (void)snprintf(root, sizeof root, "%s/stages.%u", bench->directory, bench->run++);
        if (mkdir(root, 0700) != 0)
            (void)error_set(&bench->err, ERR_SYSTEM, "could not create \"%s\"", root);
        sink = extract_new(&config, &bench->err);
        start = clock_us();
        if (sink == NULL || !push_entries(bench, sink))
            fail(bench, title);
        best = clock_us() - start < best ? clock_us() - start : best;
        sink_free(sink);
        if (!dir_remove(root, &bench->err))
            fail(bench, title);
    }
    report(title, best, FILES * SIZE);
}

/* Without the stages that make it: headers and content as a tar archive has them. */
static Sink *
make_tar(Bench *bench, int what)
{
    const TarOwner owner = {.uid = 1, .gid = 1};
    Sink *sink = tar_reader_new(discard_new(&bench->err), TAR_END_REQUIRED, &bench->err);

    (void)what;
    return tar_writer_new(sink, &owner, &bench->err);
}

static void
measure_tar(Bench *bench)
{
    int64_t best = INT64_MAX;

    for (int i = 0; i < ROUNDS; i++) {
        Sink *sink = make_tar(bench, 0);
        int64_t start = clock_us();

        if (sink == NULL || !push_entries(bench, sink))
            fail(bench, "tar");
        best = clock_us() - start < best ? clock_us() - start : best;
        sink_free(sink);
    }
    report("tar_writer and tar_reader", best, FILES * SIZE);
}

int
main(int argc, char **argv)
{
    Bench bench = {.directory = argc > 1 ? argv[1] : NULL, .err = ERROR_INIT};
    Span pages;

    bench.pages = malloc(SIZE);
    if (bench.pages == NULL)
        return EXIT_FAILURE;
    fill_pages(bench.pages);
    pages = (Span){.data = bench.pages, .len = SIZE};
    measure_sums(&bench);
    measure_opaque(&bench, "pushing", make_discard, 0, NULL, pages, FILES * SIZE);
    measure_opaque(&bench, "handoff", make_handoff, 0, NULL, pages, FILES * SIZE);
    measure_tar(&bench);
    measure_codecs(&bench);
    if (bench.directory != NULL) {
        measure_extract(&bench, "extract, no sync", SYNC_NONE);
        measure_extract(&bench, "extract, durable", SYNC_FSYNC);
    }
    free(bench.pages);
    return EXIT_SUCCESS;
}
