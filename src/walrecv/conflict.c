/*
 * What is where a complete segment belongs: the same segment, another one, or something that is no
 * segment (any more).
 *
 * What we have received went through the record check. So a file that differs is damaged when it
 * has not the size of a segment, when it cannot be decompressed, or when its own records are not
 * well; then it makes way, but is not thrown away. One that is well is somebody's WAL, and for a
 * person to decide about.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "common/file.h"
#include "walrecv/internal.h"

/* ---- comparing ---- */

/* Whether the next bytes of ours are these. */
static bool
compare_bytes(const ConflictCheck *check, SegmentBytes *ours, Span bytes, bool *ret_same,
              Error *err)
{
    *ret_same = true;
    while (bytes.len > 0 && *ret_same) {
        size_t len = bytes.len < check->buffer_size ? bytes.len : check->buffer_size;
        Span own;

        if (!segment_bytes_next(ours, len, &own, err))
            return false;
        *ret_same = own.len == len && memcmp(own.data, bytes.data, len) == 0;
        bytes.data += len;
        bytes.len -= len;
    }
    return true;
}

/* Up to the first difference. What is wrong with the other one is left to `odd`. */
static bool
compare_files(const ConflictCheck *check, SegmentReader *other, bool *ret_same, Error *odd,
              Error *err)
{
    SegmentBytes ours = {
        .segment = check->segment, .size = check->config->segment_size, .buffer = check->buffer};
    Span bytes;

    if (!segment_bytes_rewind(&ours, err))
        return false;
    do {
        if (atomic_load(check->ending))
            return error_set_stopped(err);
        if (!segment_reader_next(other, &bytes, odd)) {
            *ret_same = false;
            return true;
        }
        if (!compare_bytes(check, &ours, bytes, ret_same, err))
            return false;
    } while (bytes.len > 0 && *ret_same);
    return true;
}

/* ---- what becomes of it ---- */

/* A name that nothing has: "PATH.damaged", or with a number behind. */
static bool
find_free_name(const char *path, Buf *free_name, Error *err)
{
    struct stat st;

    for (unsigned number = 1;; number++) {
        buf_clear(free_name);
        if (!buf_printf(free_name, err, "%s.damaged", path) ||
            (number > 1 && !buf_printf(free_name, err, ".%u", number)))
            return false;
        if (lstat(buf_text(free_name), &st) != 0)
            return errno == ENOENT ||
                   error_set_errno(err, errno, "could not stat file \"%s\"", buf_text(free_name));
    }
}

static bool
set_aside(const WalDirConfig *config, const char *path, const char *reason, Error *err)
{
    Buf new_path = BUF_INIT;
    bool ok = find_free_name(path, &new_path, err) && file_rename(path, buf_text(&new_path), err);

    if (ok && config->set_aside != NULL)
        config->set_aside(config->ctx, path, buf_text(&new_path), reason);
    buf_free(&new_path);
    return ok;
}

static bool
refuse(const char *path, Error *err)
{
    (void)error_set_errno(err, EEXIST, "could not create WAL segment \"%s\"", path);
    return error_hint(err,
                      "It is there already, is sound, and differs from what was received. "
                      "Receive into another directory, or remove the file if nobody needs it.");
}

/* `odd` is what was wrong with it so far, if anything. */
static bool
judge_other(const WalDirConfig *config, const WalSegmentFile *other, const char *path, Error *odd,
            Error *err)
{
    const SegmentPlace place = {.directory = config->directory,
                                .segment_size = config->segment_size};

    if (odd->code == ERR_NONE && segment_check_complete(&place, other, odd))
        return refuse(path, err);
    if (odd->code == ERR_FORMAT)
        return set_aside(config, path, odd->message, err);
    *err = *odd;
    return false;
}

/* ---- all forms that it may have ---- */

/* Open, or not there: then *ret_reader is NULL. A file that is none is odd. */
static bool
open_other(const WalDirConfig *config, const WalSegmentFile *other, SegmentReader **ret_reader,
           Error *odd, Error *err)
{
    const SegmentPlace place = {.directory = config->directory,
                                .segment_size = config->segment_size};

    *ret_reader = segment_open(&place, other, 0, odd);
    if (*ret_reader != NULL || segment_is_odd(odd))
        return true;
    *err = *odd;
    return false;
}

static bool
resolve_opened(const ConflictCheck *check, const WalSegmentFile *other, SegmentReader *reader,
               bool *ret_same, Error *odd, Error *err)
{
    const WalDirConfig *config = check->config;
    char name[WAL_SEGMENT_FILE_SIZE];
    char *path;
    bool ok;

    if (reader != NULL && !compare_files(check, reader, ret_same, odd, err))
        return false;
    wal_segment_file_name(name, other, config->segment_size);
    path = path_join(config->directory, name, err);
    if (path == NULL)
        return false;
    if (*ret_same)
        ok = config->sync == WAL_NO_SYNC || file_sync_path(path, err);
    else
        ok = judge_other(config, other, path, odd, err);
    free(path);
    return ok;
}

static bool
resolve_form(const ConflictCheck *check, const WalSegmentFile *other, bool *ret_same, Error *err)
{
    Error odd = ERROR_INIT;
    SegmentReader *reader;
    bool ok;

    *ret_same = false;
    if (!open_other(check->config, other, &reader, &odd, err))
        return false;
    if (reader == NULL && odd.code == ERR_SYSTEM)
        return true; /* nothing is there */
    ok = resolve_opened(check, other, reader, ret_same, &odd, err);
    segment_reader_free(reader);
    return ok;
}

bool
conflict_resolve(const ConflictCheck *check, bool *ret_exists, Error *err)
{
    static const CompressionMethod methods[] = {COMPRESSION_NONE, COMPRESSION_GZIP, COMPRESSION_LZ4,
                                                COMPRESSION_ZSTD};
    WalSegmentFile other;
    bool exists = false;

    if (!wal_segment_file_parse(check->segment->name, check->config->segment_size, &other))
        return error_set(err, ERR_BUG, "\"%s\" is no segment", check->segment->name);
    for (size_t i = 0; i < sizeof methods / sizeof methods[0]; i++) {
        bool same;

        other.compression = methods[i];
        if (!resolve_form(check, &other, &same, err))
            return false;
        exists = exists || same;
    }
    *ret_exists = exists;
    return true;
}
