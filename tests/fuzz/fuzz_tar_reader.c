/*
 * tar_reader over any bytes. Properties: however the input is cut, the same events come out and
 * then the same failure or none; every path that comes out is safe; a file's bytes are as many as
 * announced. What is read well, tar_writer writes so that it is read in the same way, and written
 * again it does not change.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/crc32c.h"
#include "common/file.h"
#include "fuzz/fuzz.h"
#include "support/chunker.h"
#include "support/recorder.h"
#include "support/tar_builder.h"

#define INPUT_MAX ((size_t)64 * 1024)

static void
broken(const char *property, const char *one, const char *other)
{
    (void)fprintf(stderr, "%s\n--- one:\n%s\n--- other:\n%s\n", property, one, other);
    abort();
}

/* ---- what comes out is sound ---- */

typedef struct Watch {
    uint64_t left; /* bytes of the entry to come */
} Watch;

static bool
watch(void *ctx, const Event *event, Error *err)
{
    Watch *self = ctx;

    (void)err;
    if (event == NULL)
        return true;
    if (event->kind == EVENT_ENTRY_BEGIN) {
        if (!path_is_below(event->entry->path))
            broken("unsafe path", event->entry->path, "");
        if ((event->entry->kind == ENTRY_SYMLINK) != (event->entry->link_target != NULL))
            broken("target without link or link without target", event->entry->path, "");
        self->left = event->entry->size;
    } else if (event->kind == EVENT_DATA) {
        if (event->data.len > self->left)
            broken("more data than announced", "", "");
        self->left -= event->data.len;
    } else if (event->kind == EVENT_ENTRY_END && self->left != 0) {
        broken("less data than announced", "", "");
    }
    return true;
}

/* ---- it does not depend on the pieces ---- */

typedef struct Outcome {
    Recording recording;
    Error err;
} Outcome;

enum { PIECES_RANDOM = 0 };

static void
run(Outcome *outcome, Span input, TarEnd end, size_t piece)
{
    static const Archive archive = {.name = "fuzz.tar"};
    Watch watched = {.left = 0};
    Error *err = &outcome->err;
    Sink *sink;

    *outcome = (Outcome){.recording = {.headers = true, .hook = watch, .ctx = &watched}};
    sink = tar_reader_new(recorder_new(&outcome->recording, err), end, err);
    if (sink == NULL)
        broken("out of memory", "", "");
    else if (sink_archive_begin(sink, &archive, err) &&
             (piece == PIECES_RANDOM
                  ? chunk_push_random(sink, input, crc32c(0, input.data, input.len), err)
                  : chunk_push(sink, input, piece, err)) &&
             sink_archive_end(sink, err))
        error_ignored(sink_finish(sink, err)); /* how it ends is in the outcome */
    sink_free(sink);
    if (outcome->recording.released != 1)
        broken("the chain was not freed once", "", "");
}

/* ---- writing what was read ---- */

static Span
written_bytes(const Outcome *outcome)
{
    return (Span){.data = outcome->recording.bytes.data, .len = outcome->recording.bytes.len};
}

/* Through tar_reader and tar_writer: bytes again. */
static void
rewrite(Outcome *outcome, Span input, TarEnd end)
{
    static const Archive archive = {.name = "fuzz.tar"};
    const TarOwner owner = {.uid = 0};
    Error *err = &outcome->err;
    Sink *sink;

    *outcome = (Outcome){.recording = {.headers = true}};
    sink = tar_writer_new(recorder_new(&outcome->recording, err), &owner, err);
    sink = tar_reader_new(sink, end, err);
    if (sink == NULL || !chunk_archive(sink, &archive, input, 1000, err) || !sink_finish(sink, err))
        broken("what was read could not be written", err->message, "");
    sink_free(sink);
}

static void
check_round_trip(Outcome *whole, Span input, TarEnd end)
{
    Outcome written;
    Outcome again;
    Outcome reread;

    rewrite(&written, input, end);
    run(&reread, written_bytes(&written), TAR_END_REQUIRED, 700);
    if (strcmp(recording_text(&whole->recording), recording_text(&reread.recording)) != 0)
        broken("what was written is read in another way", recording_text(&whole->recording),
               recording_text(&reread.recording));
    rewrite(&again, written_bytes(&written), TAR_END_REQUIRED);
    if (written.recording.bytes.len != again.recording.bytes.len ||
        memcmp(written.recording.bytes.data, again.recording.bytes.data,
               written.recording.bytes.len) != 0)
        broken("what was written changes when it is written again", "", "");
    recording_free(&written.recording);
    recording_free(&again.recording);
    recording_free(&reread.recording);
}

static void
check(Span input, TarEnd end)
{
    const size_t pieces[] = {1, 512, PIECES_RANDOM};
    Outcome whole;

    run(&whole, input, end, input.len + 1);
    for (size_t i = 0; i < sizeof pieces / sizeof pieces[0]; i++) {
        Outcome cut;

        run(&cut, input, end, pieces[i]);
        if (strcmp(recording_text(&whole.recording), recording_text(&cut.recording)) != 0)
            broken("events depend on the pieces", recording_text(&whole.recording),
                   recording_text(&cut.recording));
        if (whole.err.code != cut.err.code || strcmp(whole.err.message, cut.err.message) != 0)
            broken("the failure depends on the pieces", whole.err.message, cut.err.message);
        recording_free(&cut.recording);
    }
    if (whole.err.code == ERR_NONE)
        check_round_trip(&whole, input, end);
    recording_free(&whole.recording);
}

/* A fuzzer does not find checksums: mend those of all blocks that look like headers. */
static void
seal(uint8_t *copy, size_t len)
{
    for (size_t at = 0; at + TAR_BUILDER_BLOCK <= len; at += TAR_BUILDER_BLOCK) {
        if (memcmp(copy + at + 257, "ustar", 5) == 0)
            tar_seal(copy + at);
    }
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    Span input = {.data = data, .len = size < INPUT_MAX ? size : INPUT_MAX};
    uint8_t *copy = malloc(input.len + 1);

    if (copy == NULL)
        return 0;
    check(input, TAR_END_REQUIRED);
    if (input.len > 0)
        memcpy(copy, data, input.len);
    seal(copy, input.len);
    input.data = copy;
    check(input, TAR_END_REQUIRED);
    check(input, TAR_END_OPTIONAL);
    free(copy);
    return 0;
}
