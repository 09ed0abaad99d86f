/*
 * The digest of a manifest: SHA-256 of every byte up to its last line.
 *
 * Which line is the last shows only when no byte follows it, so one line is held back. One that is
 * longer than the limit is not held but digested as it comes; then it must not turn out to be the
 * last. Only the first and the last line of a piece need a look: what lies between can be neither
 * continued nor the last.
 */
#include "manifest/internal.h"

#include <string.h>

bool
line_digest_begin(LineDigest *digest, Error *err)
{
    *digest = (LineDigest){.checksum = CHECKSUM_INIT};
    return checksum_begin(&digest->checksum, CHECKSUM_SHA256, err);
}

void
line_digest_free(LineDigest *digest)
{
    checksum_free(&digest->checksum);
}

static bool
add_bytes(LineDigest *digest, const uint8_t *data, size_t len, Error *err)
{
    return len == 0 || checksum_update(&digest->checksum, data, len, err);
}

/* More of a line, or its end: hold it back while it may be the last. */
static bool
hold(LineDigest *digest, const uint8_t *data, size_t len, Error *err)
{
    if (!digest->too_long && len <= sizeof digest->held - digest->len) {
        memcpy(digest->held + digest->len, data, len);
        digest->len += len;
        return true;
    }
    digest->too_long = true;
    if (!add_bytes(digest, digest->held, digest->len, err))
        return false;
    digest->len = 0;
    return add_bytes(digest, data, len, err);
}

/* What was held back is not the last line. */
static bool
release(LineDigest *digest, Error *err)
{
    size_t len = digest->len;

    digest->len = 0;
    digest->too_long = false;
    return add_bytes(digest, digest->held, len, err);
}

bool
line_digest_feed(LineDigest *digest, Span bytes, Error *err)
{
    const uint8_t *data = bytes.data;
    const uint8_t *newline = memrchr(data, '\n', bytes.len);
    const uint8_t *before;
    const uint8_t *last = data; /* where the line begins that may be the last */

    if (digest->ended && !release(digest, err))
        return false;
    digest->ended = false;
    if (newline == NULL)
        return hold(digest, data, bytes.len, err);

    before = memrchr(data, '\n', (size_t)(newline - data));
    digest->lines = digest->lines > 0 || before != NULL ? 2 : 1;
    digest->ended = newline + 1 == data + bytes.len;
    if (!digest->ended)
        last = newline + 1;
    else if (before != NULL)
        last = before + 1;
    if (last > data &&
        (!release(digest, err) || !add_bytes(digest, data, (size_t)(last - data), err)))
        return false;
    return hold(digest, last, (size_t)(data + bytes.len - last), err);
}

/* No byte follows: compare with the checksum that the manifest states. */
bool
line_digest_check(LineDigest *digest, const char *stated, Error *err)
{
    Digest own;
    Digest theirs = {.type = CHECKSUM_SHA256, .len = 32};

    if (digest->lines < 2)
        return error_set(err, ERR_FORMAT, PARSE_ERROR "expected at least 2 lines");
    if (!digest->ended)
        return error_set(err, ERR_FORMAT, PARSE_ERROR "last line not newline-terminated");
    if (digest->too_long)
        return error_set(err, ERR_FORMAT, PARSE_ERROR "last line is longer than %d bytes",
                         LAST_LINE_LIMIT);
    if (!hex_parse(stated, strlen(stated), theirs.bytes, theirs.len))
        return error_set(err, ERR_FORMAT, "invalid manifest checksum: \"%s\"", stated);
    if (!checksum_finish(&digest->checksum, &own, err))
        return false;
    if (!digest_equal(&own, &theirs))
        return error_set(err, ERR_FORMAT, "manifest checksum mismatch");
    return true;
}
