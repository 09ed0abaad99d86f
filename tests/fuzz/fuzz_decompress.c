/*
 * decompress over any bytes, by every method. Properties: however the input is cut, the same
 * content comes out, or the same failure (before or after the last of what was readable); no piece
 * is large.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/crc32c.h"
#include "fuzz/fuzz.h"
#include "stream/compression.h"
#include "support/chunker.h"
#include "support/recorder.h"

#define INPUT_MAX   ((size_t)16 * 1024)
#define CONTENT_MAX ((size_t)4 * 1024 * 1024) /* more is not looked at: little unpacks to much */
#define PIECE_MAX   ((size_t)1024 * 1024)

static void
broken(const char *property, const char *one, const char *other)
{
    (void)fprintf(stderr, "%s\n--- one:\n%s\n--- other:\n%s\n", property, one, other);
    abort();
}

typedef struct Outcome {
    Recording recording;
    bool too_much;
    bool ok;
    Error err;
} Outcome;

static bool
watch(void *ctx, const Event *event, Error *err)
{
    Outcome *outcome = ctx;

    if (event == NULL || event->kind != EVENT_DATA)
        return true;
    if (event->data.len > PIECE_MAX)
        broken("a piece is large", "", "");
    outcome->too_much = outcome->recording.bytes.len + event->data.len > CONTENT_MAX;
    return !outcome->too_much || error_set(err, ERR_UNSUPPORTED, "too much");
}

enum { PIECES_RANDOM = 0 };

static void
run(Outcome *outcome, CompressionMethod method, Span input, size_t piece)
{
    Error *err = &outcome->err;
    char name[16];
    Sink *sink;

    *outcome = (Outcome){.recording = {.hook = watch, .ctx = outcome}};
    (void)snprintf(name, sizeof name, "fuzz%s", compression_suffix(method));
    sink = decompress_new(recorder_new(&outcome->recording, err), method, err);
    if (sink == NULL)
        broken("out of memory", "", "");
    outcome->ok = sink_archive_begin(sink, &(Archive){.name = name}, err) &&
                  (piece == PIECES_RANDOM
                       ? chunk_push_random(sink, input, crc32c(0, input.data, input.len), err)
                       : chunk_push(sink, input, piece, err)) &&
                  sink_archive_end(sink, err) && sink_finish(sink, err);
    sink_free(sink);
    if (outcome->recording.released != 1)
        broken("the chain was not freed once", "", "");
}

/* One is as long as the other or cut short by a failure. */
static void
compare_content(const Outcome *one, const Outcome *other)
{
    const Buf *a = &one->recording.bytes;
    const Buf *b = &other->recording.bytes;
    size_t common = a->len < b->len ? a->len : b->len;

    if (one->ok && a->len != b->len)
        broken("the content's length depends on the pieces", "", "");
    if (common > 0 && memcmp(a->data, b->data, common) != 0)
        broken("the content depends on the pieces", "", "");
}

static void
compare(const Outcome *one, const Outcome *other)
{
    if (one->too_much || other->too_much)
        return;
    if (one->ok != other->ok || one->err.code != other->err.code ||
        strcmp(one->err.message, other->err.message) != 0)
        broken("the failure depends on the pieces", one->err.message, other->err.message);
    if (!one->ok && one->err.code != ERR_FORMAT && one->err.code != ERR_UNSUPPORTED)
        broken("a failure that is none of the data's", one->err.message, "");
    compare_content(one, other);
}

static void
check(CompressionMethod method, Span input)
{
    static const size_t pieces[] = {1, 13, PIECES_RANDOM};
    Outcome whole;

    run(&whole, method, input, input.len + 1);
    for (size_t i = 0; i < sizeof pieces / sizeof pieces[0]; i++) {
        Outcome cut;

        run(&cut, method, input, pieces[i]);
        compare(&whole, &cut);
        recording_free(&cut.recording);
    }
    recording_free(&whole.recording);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const Span input = {.data = data, .len = size < INPUT_MAX ? size : INPUT_MAX};

    check(COMPRESSION_GZIP, input);
    check(COMPRESSION_LZ4, input);
    check(COMPRESSION_ZSTD, input);
    return 0;
}
