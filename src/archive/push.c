/*
 * A file of a server's pg_wal into an archive, as archive_command asks for it: the server forgets
 * it once we say that it is there, and asks again, perhaps with the same file, whenever it is not
 * sure that we said so (PostgreSQL: documentation, "Setting Up WAL Archiving").
 *
 *   is it there?  yes, the same: sync it, done    yes, another: refuse
 *   no: NAME.push.tmp, written, synced -> NAME, never over another file -> directory synced
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "archive/internal.h"
#include "common/file.h"
#include "stream/compression.h"

#define PIECE_SIZE  ((size_t)128 * 1024)
#define TEMP_SUFFIX ".push.tmp"

typedef struct Push {
    const ArchivePush *request;
    WalName name;
    int fd;        /* the server's file */
    uint64_t size; /* of it */
    mode_t mode;
    struct timespec changed;
    uint32_t segment_size; /* of a segment; otherwise the most that there is */
    uint8_t *buffer;
} Push;

static const char *
last_part(const char *path)
{
    const char *slash = strrchr(path, '/');

    return slash == NULL ? path : slash + 1;
}

/* ---- what is to be archived ---- */

/* Opening must not wait for the other end of a pipe. */
static bool
open_file(Push *push, Error *err)
{
    const char *path = push->request->path;
    struct stat st;

    push->fd = file_open(path, O_RDONLY | O_NONBLOCK, 0, err);
    if (push->fd < 0)
        return false;
    if (fstat(push->fd, &st) != 0)
        return error_set_errno(err, errno, "could not stat file \"%s\"", path);
    if (!S_ISREG(st.st_mode))
        return error_set(err, ERR_FORMAT, "\"%s\" is not a regular file", path);
    push->size = (uint64_t)st.st_size;
    push->mode = st.st_mode & 0666;
    push->changed = st.st_ctim;
    return true;
}

static bool
read_header(const Push *push, WalLongHeader *ret_header, bool *ret_fits, Error *err)
{
    char *parent = path_parent(push->request->path, err);
    const SegmentPlace place = {.directory = parent, .segment_size = WAL_SEGMENT_SIZE_MIN};
    bool ok =
        parent != NULL && segment_header(&place, &push->name.segment, ret_header, ret_fits, err);

    free(parent);
    return ok;
}

/* The segment before, in the archive: if it is of another cluster, so is the archive. */
static bool
check_cluster(const Push *push, const WalLongHeader *header, Error *err)
{
    const SegmentPlace place = {.directory = push->request->directory,
                                .segment_size = header->segment_size};
    WalSegmentFile before;

    if (!wal_segment_file_parse(push->name.name, header->segment_size, &before) ||
        before.number == 0)
        return true;
    before.number--;
    for (int method = COMPRESSION_NONE; method <= COMPRESSION_ZSTD; method++) {
        uint64_t system_id;

        before.compression = (CompressionMethod)method;
        if (!segment_system_id(&place, &before, &system_id, err))
            return false;
        if (system_id == 0 || system_id == header->system_id)
            continue;
        (void)error_set(err, ERR_MISMATCH,
                        "archive \"%s\" has WAL of another cluster: system identifier %llu, but "
                        "\"%s\" has %llu",
                        place.directory, (unsigned long long)system_id, push->request->path,
                        (unsigned long long)header->system_id);
        return error_hint(err, "Each cluster needs an archive of its own.");
    }
    return true;
}

static bool
check_segment(Push *push, Error *err)
{
    const char *path = push->request->path;
    WalLongHeader header;
    bool fits;

    if (!read_header(push, &header, &fits, err))
        return false;
    if (!fits)
        return error_set(err, ERR_FORMAT,
                         "\"%s\" is not the WAL segment that its name says: its first page has "
                         "not the header of that",
                         path);
    if (push->size != header.segment_size)
        return error_set(err, ERR_FORMAT,
                         "\"%s\" is not a whole WAL segment: size is %llu, expected %u", path,
                         (unsigned long long)push->size, header.segment_size);
    push->segment_size = header.segment_size;
    return check_cluster(push, &header, err);
}

static bool
open_push(Push *push, Error *err)
{
    const char *name = last_part(push->request->path);

    if (!wal_name_parse(name, &push->name))
        return wal_name_refuse(name, err);
    push->segment_size = WAL_SEGMENT_SIZE_MAX;
    push->buffer = mem_alloc(PIECE_SIZE, err);
    return push->buffer != NULL && open_file(push, err) &&
           (push->name.kind != WAL_NAME_SEGMENT || check_segment(push, err));
}

static bool
rewind_file(const Push *push, Error *err)
{
    if (lseek(push->fd, 0, SEEK_SET) < 0)
        return error_set_errno(err, errno, "could not seek in file \"%s\"", push->request->path);
    return true;
}

/* ---- what is there already ---- */

/* Whether the next bytes of the server's file are these. */
static bool
compare_bytes(const Push *push, Span bytes, bool *ret_same, Error *err)
{
    *ret_same = true;
    while (bytes.len > 0 && *ret_same) {
        size_t want = bytes.len < PIECE_SIZE ? bytes.len : PIECE_SIZE;
        size_t got;

        if (!file_read(push->fd, push->buffer, want, push->request->path, &got, err))
            return false;
        *ret_same = got == want && memcmp(push->buffer, bytes.data, want) == 0;
        bytes.data += want;
        bytes.len -= want;
    }
    return true;
}

static bool
at_end(const Push *push, bool *ret_end, Error *err)
{
    size_t got;

    if (!file_read(push->fd, push->buffer, 1, push->request->path, &got, err))
        return false;
    *ret_end = got == 0;
    return true;
}

/* Up to the first difference. What is wrong with the archive's file is left to `odd`. */
static bool
compare_segment(const Push *push, SegmentReader *reader, bool *ret_same, Error *odd, Error *err)
{
    Span bytes;

    do {
        *ret_same = false;
        if (!segment_reader_next(reader, &bytes, odd))
            return true;
        if (!compare_bytes(push, bytes, ret_same, err))
            return false;
    } while (bytes.len > 0 && *ret_same);
    return !*ret_same || at_end(push, ret_same, err);
}

static bool
compare_large(const Push *push, const ArchiveForm *form, bool *ret_same, Error *odd, Error *err)
{
    const SegmentSource source = {
        .path = form->path, .compression = form->compression, .segment_size = (uint32_t)push->size};
    SegmentReader *reader = segment_reader_open(&source, odd);
    bool ok = true;

    *ret_same = false;
    if (reader != NULL)
        ok = compare_segment(push, reader, ret_same, odd, err);
    segment_reader_free(reader);
    return ok;
}

static bool
compare_small(const Push *push, const ArchiveForm *form, bool *ret_same, Error *odd, Error *err)
{
    Buf content = BUF_INIT;
    bool ok = true;

    *ret_same = false;
    if (archive_file_load(form->path, form->compression, ARCHIVE_HISTORY_MAX, &content, odd))
        ok = compare_bytes(push, (Span){.data = content.data, .len = content.len}, ret_same, err) &&
             (!*ret_same || at_end(push, ret_same, err));
    buf_free(&content);
    return ok;
}

static bool
is_small(const Push *push)
{
    return push->name.kind == WAL_NAME_HISTORY || push->name.kind == WAL_NAME_BACKUP;
}

static bool
refuse(const Push *push, const ArchiveForm *form, const Error *odd, Error *err)
{
    (void)error_set_errno(err, EEXIST, "could not archive \"%s\": \"%s\" %s%s", push->request->path,
                          form->path, odd->code == ERR_NONE ? "has other content" : "is damaged: ",
                          odd->code == ERR_NONE ? "" : odd->message);
    return error_hint(err, odd->code == ERR_NONE
                               ? "Both are left as they are. Does another cluster archive into "
                                 "this directory, or one that was restored or promoted?"
                               : "Both are left as they are. Remove the one in the archive if "
                                 "nobody needs what is left of it.");
}

static bool
compare_form(const Push *push, const ArchiveForm *form, Error *err)
{
    Error odd = ERROR_INIT;
    bool same;
    bool ok =
        rewind_file(push, err) && (is_small(push) ? compare_small(push, form, &same, &odd, err)
                                                  : compare_large(push, form, &same, &odd, err));

    if (!ok)
        return false;
    if (odd.code != ERR_NONE && odd.code != ERR_FORMAT) {
        *err = odd;
        return false;
    }
    return same || refuse(push, form, &odd, err);
}

/* The same in any form is enough, another one in any form is too much. */
static bool
find_same(const Push *push, bool *ret_there, Error *err)
{
    ArchiveForms forms;
    bool ok = archive_forms_find(&forms, push->request->directory, &push->name, err);

    for (size_t i = 0; ok && i < forms.count; i++)
        ok = compare_form(push, &forms.forms[i], err) && file_sync_path(forms.forms[i].path, err);
    if (ok)
        *ret_there = forms.count > 0;
    archive_forms_free(&forms);
    return ok;
}

/* ---- writing ---- */

static const Compression *
own_compression(const Push *push)
{
    static const Compression none = {.method = COMPRESSION_NONE};

    return is_small(push) ? &none : &push->request->compression;
}

/* "DIR/NAME" with the suffixes of what it will be, as an owned string. */
static char *
final_path(const Push *push, Error *err)
{
    const char *suffix = compression_suffix(own_compression(push)->method);
    char name[WAL_SEGMENT_FILE_SIZE];
    WalSegmentFile file = push->name.segment;
    Buf path = BUF_INIT;
    bool ok;

    file.compression = own_compression(push)->method;
    if (push->name.kind == WAL_NAME_PARTIAL || push->name.kind == WAL_NAME_SEGMENT) {
        wal_segment_file_name(name, &file, WAL_SEGMENT_SIZE_MIN);
        return path_join(push->request->directory, name, err);
    }
    ok = buf_printf(&path, err, "%s/%s%s", push->request->directory, push->name.name, suffix);
    if (!ok)
        buf_free(&path);
    return (char *)path.data;
}

static char *
temp_path(const Push *push, Error *err)
{
    Buf path = BUF_INIT;

    if (!buf_printf(&path, err, "%s/%s" TEMP_SUFFIX, push->request->directory, push->name.name))
        buf_free(&path);
    return (char *)path.data;
}

static Sink *
writer_new(const Push *push, const ClaimedFile *file, Error *err)
{
    const FileSinkConfig config = {.fd = file->fd, .fd_name = file->path, .sync = SYNC_NONE};

    return compress_new(file_sink_new(&config, err), own_compression(push), err);
}

static bool
write_content(const Push *push, Sink *sink, Error *err)
{
    uint64_t left = push->size;

    while (left > 0) {
        size_t want = left < PIECE_SIZE ? (size_t)left : PIECE_SIZE;
        size_t got;

        if (!file_read(push->fd, push->buffer, want, push->request->path, &got, err))
            return false;
        if (got < want)
            return error_set(err, ERR_FORMAT, "\"%s\" has become shorter than %llu bytes",
                             push->request->path, (unsigned long long)push->size);
        if (!sink_data(sink, (Span){.data = push->buffer, .len = got}, err))
            return false;
        left -= got;
    }
    return true;
}

static bool
fill(const Push *push, const ClaimedFile *file, Error *err)
{
    const Archive archive = {.name = push->name.name};
    Sink *sink = writer_new(push, file, err);
    bool ok = sink != NULL && rewind_file(push, err) && sink_archive_begin(sink, &archive, err) &&
              write_content(push, sink, err) && sink_archive_end(sink, err) &&
              sink_finish(sink, err);

    sink_free(sink);
    return ok && file_sync(file->fd, file->path, err);
}

/* A server reuses the files of segments that it needs no more, perhaps while we read. */
static bool
check_unchanged(const Push *push, Error *err)
{
    const char *path = push->request->path;
    struct stat st;

    if (fstat(push->fd, &st) != 0)
        return error_set_errno(err, errno, "could not stat file \"%s\"", path);
    return (st.st_ctim.tv_sec == push->changed.tv_sec &&
            st.st_ctim.tv_nsec == push->changed.tv_nsec) ||
           error_set(err, ERR_FORMAT, "\"%s\" has changed while it was archived", path);
}

/* *ret_exists: somebody else has been faster. */
static bool
write_file(const Push *push, bool *ret_exists, Error *err)
{
    char *path = final_path(push, err);
    ClaimedFile file = {.fd = -1};
    bool ok = path != NULL && claimed_file_open(&file, temp_path(push, err), push->mode, err) &&
              fill(push, &file, err) && check_unchanged(push, err) &&
              claimed_file_rename_new(&file, path, ret_exists, err);

    claimed_file_free(&file);
    free(path);
    return ok;
}

static bool
archive_it(const Push *push, ArchivePushed *ret_pushed, Error *err)
{
    const char *directory = push->request->directory;
    bool there;
    bool exists = false;

    if (!find_same(push, &there, err))
        return false;
    *ret_pushed = there ? ARCHIVE_HAD_IT : ARCHIVE_PUSHED;
    if (there)
        return file_sync_path(directory, err);
    if (!write_file(push, &exists, err) || (exists && !find_same(push, &there, err)))
        return false;
    if (exists)
        *ret_pushed = ARCHIVE_HAD_IT;
    return file_sync_path(directory, err);
}

bool
archive_push(const ArchivePush *request, ArchivePushed *ret_pushed, Error *err)
{
    Push push = {.request = request, .fd = -1};
    ArchivePushed pushed;
    bool ok = open_push(&push, err) && archive_it(&push, &pushed, err);

    file_close_quietly(push.fd);
    free(push.buffer);
    if (ok)
        *ret_pushed = pushed;
    return ok;
}
