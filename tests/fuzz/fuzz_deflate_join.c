/*
 * deflate_open_end over any bytes. Properties: what zlib takes for a complete stream is accepted,
 * and with an empty last block behind it unpacks to the same content; what zlib refuses is refused,
 * but for references to what is in front of the content; what is refused is left as it was.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ZLIB_CONST
#include <zlib.h>

#include "fuzz/fuzz.h"
#include "stream/internal.h"

#define CONTENT_MAX ((size_t)4 * 1024 * 1024) /* more is not looked at: little unpacks to much */

static void
must(bool holds, const char *property)
{
    if (holds)
        return;
    (void)fprintf(stderr, "broken: %s\n", property);
    abort();
}

typedef enum Verdict { VERDICT_GOOD, VERDICT_BAD, VERDICT_REACHES_BACK, VERDICT_TOO_MUCH } Verdict;

/* What zlib makes of it. */
static Verdict
unpack(Span stream, Buf *content)
{
    z_stream zlib = {.next_in = stream.data, .avail_in = (uInt)stream.len};
    Verdict verdict = VERDICT_BAD;
    Error err = ERROR_INIT;
    int result = Z_OK;

    must(inflateInit2(&zlib, -15) == Z_OK, "memory");
    while (result == Z_OK && content->len <= CONTENT_MAX) {
        must(buf_reserve(content, 65536, &err), "memory");
        zlib.next_out = content->data + content->len;
        zlib.avail_out = 65536;
        result = inflate(&zlib, Z_NO_FLUSH);
        content->len += 65536 - zlib.avail_out;
    }
    if (result == Z_OK)
        verdict = VERDICT_TOO_MUCH;
    else if (result == Z_STREAM_END && zlib.avail_in == 0)
        verdict = VERDICT_GOOD;
    else if (result == Z_DATA_ERROR && strstr(zlib.msg, "too far back") != NULL)
        verdict = VERDICT_REACHES_BACK;
    (void)inflateEnd(&zlib);
    return verdict;
}

static void
compare(const Buf *opened, const Buf *content)
{
    const Span stream = {.data = opened->data, .len = opened->len};
    Buf again = BUF_INIT;

    must(unpack(stream, &again) == VERDICT_GOOD, "an opened stream can be ended");
    must(again.len == content->len, "it has as much content as before");
    must(content->len == 0 || memcmp(again.data, content->data, content->len) == 0,
         "it has the same content");
    buf_free(&again);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const Span input = {.data = data, .len = size};
    Buf stream = BUF_INIT;
    Buf content = BUF_INIT;
    Error err = ERROR_INIT;
    Verdict verdict;
    bool ok;

    /* As much memory as there is input: a sanitizer sees a read beyond it. */
    stream.data = mem_alloc(size, &err);
    must(stream.data != NULL, "memory");
    if (size > 0)
        memcpy(stream.data, data, size);
    stream.len = size;
    stream.capacity = size;
    verdict = unpack(input, &content);
    ok = deflate_open_end(&stream, &err);
    must(ok || verdict != VERDICT_GOOD, "what zlib accepts is accepted");
    must(!ok || verdict != VERDICT_BAD, "what zlib refuses is refused");
    must(ok || err.code == ERR_FORMAT, "the failure is one of the data");
    must(ok || (stream.len == size && (size == 0 || memcmp(stream.data, data, size) == 0)),
         "what is refused is left alone");
    if (ok && verdict == VERDICT_GOOD) {
        must(buf_append(&stream, "\x03", 2, &err), "memory");
        compare(&stream, &content);
    }
    buf_free(&content);
    buf_free(&stream);
    return 0;
}
