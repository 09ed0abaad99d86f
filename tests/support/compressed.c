#include "support/compressed.h"

#include <stdlib.h>
#include <string.h>

#include "stream/stage.h"
#include "support/recorder.h"

static void
must(bool ok)
{
    if (!ok)
        abort();
}

static Sink *
compressor(CompressionMethod method, Recording *recording)
{
    Compression compression;
    Error err = ERROR_INIT;
    Sink *sink;

    must(compression_parse(method, NULL, &compression, &err));
    sink = compress_new(recorder_new(recording, &err), &compression, &err);
    must(sink != NULL);
    return sink;
}

/* What the chain below `sink` has recorded so far; frees both. */
static Buf
result(Sink *sink, Recording *recording)
{
    Buf bytes = recording->bytes;

    recording->bytes = BUF_INIT;
    sink_free(sink);
    recording_free(recording);
    return bytes;
}

Buf
compressed(CompressionMethod method, Span content)
{
    Recording recording = RECORDING_INIT;
    Sink *sink = compressor(method, &recording);
    Error err = ERROR_INIT;

    must(sink_archive_begin(sink, &(Archive){.name = "segment"}, &err));
    must(sink_data(sink, content, &err) && sink_archive_end(sink, &err));
    return result(sink, &recording);
}

Buf
compressed_open(CompressionMethod method, Span content)
{
    Recording recording = RECORDING_INIT;
    Sink *sink = compressor(method, &recording);
    Error err = ERROR_INIT;

    must(sink_archive_begin(sink, &(Archive){.name = "segment"}, &err));
    must(sink_data(sink, content, &err) && sink_flush(sink, 0, &err));
    return result(sink, &recording);
}
