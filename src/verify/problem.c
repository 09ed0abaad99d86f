#include <stdarg.h>
#include <string.h>

#include "verify/internal.h"

bool
report(Reporter *reporter, const Problem *problem, Error *err, const char *fmt, ...)
{
    Problem full = *problem;
    va_list args;
    bool ok;

    buf_clear(&reporter->message);
    va_start(args, fmt);
    ok = buf_vprintf(&reporter->message, err, fmt, args);
    va_end(args);
    if (!ok)
        return false;

    full.message = buf_text(&reporter->message);
    reporter->count++;
    if (!reporter->sink->report(reporter->sink->ctx, &full))
        reporter->enough = true;
    return true;
}

void
reporter_free(Reporter *reporter)
{
    buf_free(&reporter->message);
}

const char *
errno_text(int errnum, char *room)
{
    /* The GNU strerror_r may return a static string instead of filling the buffer. */
    return strerror_r(errnum, room, ERRNO_TEXT_SIZE);
}

DigestVerdict
digest_check(const ManifestFile *file, const uint8_t *bytes, size_t len)
{
    if (file->checksum_len != len)
        return DIGEST_OTHER_LENGTH;
    return memcmp(file->checksum, bytes, len) == 0 ? DIGEST_AGREES : DIGEST_DIFFERS;
}

Problem
digest_problem(const ManifestFile *file, Span found)
{
    return (Problem){.kind = PROBLEM_CHECKSUM,
                     .path = file->path,
                     .expected_digest = {.data = file->checksum, .len = file->checksum_len},
                     .found_digest = found};
}

bool
report_digest(Reporter *reporter, const ManifestFile *file, DigestVerdict verdict, Span found,
              Error *err)
{
    const Problem problem = digest_problem(file, found);

    switch (verdict) {
    case DIGEST_AGREES:
        break;
    case DIGEST_OTHER_LENGTH:
        return report(reporter, &problem, err,
                      "file \"%s\" has checksum of length %u, but expected %zu", file->path,
                      file->checksum_len, checksum_length(file->checksum_type));
    case DIGEST_DIFFERS:
        return report(reporter, &problem, err, "checksum mismatch for file \"%s\"", file->path);
    }
    return true;
}

bool
report_unknown(Reporter *reporter, const TreeItem *item, Error *err)
{
    Problem problem = {.kind = PROBLEM_UNREADABLE, .path = item->path};
    char room[ERRNO_TEXT_SIZE];
    const char *reason = errno_text(item->errnum, room);

    switch (item->what) {
    case TREE_DIRECTORY:
    case TREE_FILE:
        break;
    case TREE_ODD:
        problem.kind = PROBLEM_FILE_TYPE;
        return report(reporter, &problem, err, "\"%s\" is not a regular file or directory",
                      item->path);
    case TREE_NO_STAT:
        return report(reporter, &problem, err, "could not stat file or directory \"%s\": %s",
                      item->path, reason);
    case TREE_NO_OPEN:
        return report(reporter, &problem, err, "could not open directory \"%s\": %s", item->path,
                      reason);
    case TREE_NO_READ:
        return report(reporter, &problem, err, "could not read directory \"%s\": %s", item->path,
                      reason);
    }
    return true;
}
