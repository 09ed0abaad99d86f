/*
 * What WAL a base backup needs, as its own files say it: the manifest knows start, end and often
 * the cluster, backup_label the start and the name of the first segment, pg_control the cluster.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "archive/archive.h"
#include "common/file.h"
#include "manifest/manifest.h"
#include "pgformat/control.h"
#include "stream/tar.h"

#define LABEL_MAX ((size_t)64 * 1024)

static bool
is_there(const char *directory, const char *name, bool *ret_there, Error *err)
{
    char *path = path_join(directory, name, err);
    bool ok;

    if (path == NULL)
        return false;
    *ret_there = access(path, F_OK) == 0;
    ok = *ret_there || errno == ENOENT ||
         error_set_errno(err, errno, "could not access \"%s\"", path);
    free(path);
    return ok;
}

/* ---- backup_manifest ---- */

static bool
take_ranges(const Manifest *manifest, const char *path, BackupWal *wal, Error *err)
{
    size_t count = manifest_wal_range_count(manifest);
    const ManifestWalRange *last;

    if (count == 0)
        return error_set(err, ERR_FORMAT, "manifest \"%s\" names no WAL", path);
    last = manifest_wal_range(manifest, count - 1);
    for (size_t i = 0; i < count; i++) {
        const ManifestWalRange *range = manifest_wal_range(manifest, i);

        /* A backup of a standby may go over several timelines, in either order here. */
        if (wal->start == LSN_INVALID || range->start < wal->start) {
            wal->start = range->start;
            wal->timeline = range->timeline;
        }
        if (range->end > last->end)
            last = range;
    }
    wal->end = last->end;
    wal->end_timeline = last->timeline;
    if (wal->start == LSN_INVALID || wal->timeline == 0 || wal->end <= wal->start)
        return error_set(err, ERR_FORMAT, "manifest \"%s\" has an impossible range of WAL", path);
    return true;
}

static bool
read_manifest(const char *directory, BackupWal *wal, Error *err)
{
    char *path = path_join(directory, "backup_manifest", err);
    Manifest *manifest = NULL;
    bool ok = path != NULL && manifest_load(path, &manifest, err);

    if (ok) {
        if (!manifest_system_id(manifest, &wal->system_id))
            wal->system_id = 0;
        ok = take_ranges(manifest, path, wal, err);
    }
    manifest_free(manifest);
    free(path);
    return ok;
}

/* ---- backup_label ---- */

static bool
read_label_file(const char *directory, BackupWal *ret_label, Error *err)
{
    char *path = path_join(directory, "backup_label", err);
    Buf text = BUF_INIT;
    bool ok = path != NULL && file_load(path, LABEL_MAX, &text, err);

    if (ok && !backup_label_parse((Span){.data = text.data, .len = text.len}, ret_label, err))
        ok = error_context(err, "could not read \"%s\"", path);
    buf_free(&text);
    free(path);
    return ok;
}

static bool
read_pieces(SegmentReader *reader, Buf *buf, Error *err)
{
    Span bytes = {.len = 1};

    while (bytes.len > 0 && buf->len < TAR_BLOCK + LABEL_MAX) {
        if (!segment_reader_next(reader, &bytes, err) ||
            !buf_append(buf, bytes.data, bytes.len, err))
            return false;
    }
    return true;
}

/* The first bytes of an archive, as many as a label may have and its header. Whether the rest of it
 * is sound, or has the size of a segment, is not of interest. */
static bool
read_beginning(const char *path, Buf *buf, Error *err)
{
    SegmentSource source = {.path = path,
                            .compression = compression_of_name(path),
                            .segment_size = WAL_SEGMENT_SIZE_MIN};
    SegmentReader *reader = segment_reader_open(&source, err);
    Error why = ERROR_INIT;
    bool ok;

    if (reader == NULL)
        return false;
    ok = read_pieces(reader, buf, &why) || (why.code == ERR_FORMAT && buf->len > 0);
    if (!ok)
        *err = why;
    segment_reader_free(reader);
    return ok;
}

/* Servers send it as the first member. */
static bool
parse_first_member(const Buf *buf, BackupWal *ret_label, Error *err)
{
    TarHeader header;

    if (buf->len < TAR_BLOCK)
        return error_set(err, ERR_FORMAT, "it is cut short");
    if (!tar_parse(buf->data, &header, err))
        return false;
    if (header.kind != ENTRY_FILE || strcmp(header.name, "backup_label") != 0)
        return error_set(err, ERR_FORMAT, "its first member is \"%s\", not \"backup_label\"",
                         header.name);
    if (header.size > buf->len - TAR_BLOCK)
        return error_set(err, ERR_FORMAT, "it is cut short within \"backup_label\"");
    return backup_label_parse((Span){.data = buf->data + TAR_BLOCK, .len = (size_t)header.size},
                              ret_label, err);
}

static bool
read_label_member(const char *directory, const char *name, BackupWal *ret_label, Error *err)
{
    char *path = path_join(directory, name, err);
    Buf buf = BUF_INIT;
    bool ok =
        path != NULL && read_beginning(path, &buf, err) && parse_first_member(&buf, ret_label, err);

    if (!ok && path != NULL && err->code == ERR_FORMAT)
        (void)error_context(err, "could not read the label of \"%s\"", path);
    buf_free(&buf);
    free(path);
    return ok;
}

static bool
read_label(const char *directory, BackupWal *ret_label, bool *ret_there, Error *err)
{
    static const char *const archives[] = {"base.tar", "base.tar.gz", "base.tgz", "base.tar.lz4",
                                           "base.tar.zst"};
    bool there;

    *ret_there = true;
    if (!is_there(directory, "backup_label", &there, err))
        return false;
    if (there)
        return read_label_file(directory, ret_label, err);
    for (size_t i = 0; i < sizeof archives / sizeof archives[0]; i++) {
        if (!is_there(directory, archives[i], &there, err))
            return false;
        if (there)
            return read_label_member(directory, archives[i], ret_label, err);
    }
    *ret_there = false;
    return true;
}

/* ---- the cluster ---- */

/* What the first segment says that begins within the first bytes; history files are before it. */
static uint64_t
find_system_id(const Buf *buf)
{
    Error ignored = ERROR_INIT;
    size_t at = 0;

    while (buf->len - at >= TAR_BLOCK + WAL_LONG_HEADER) {
        const uint8_t *content = buf->data + at + TAR_BLOCK;
        WalLongHeader page;
        TarHeader header;

        if (tar_is_zero(buf->data + at) || !tar_parse(buf->data + at, &header, &ignored))
            break;
        if (wal_long_header_parse((Span){.data = content, .len = WAL_LONG_HEADER}, &page))
            return page.system_id;
        if (header.size > buf->len - at - TAR_BLOCK)
            break;
        at += TAR_BLOCK + (size_t)header.size + tar_padding(header.size);
        if (at > buf->len)
            break;
    }
    return 0;
}

/* A backup in tar format that has its WAL with it. */
static bool
read_pg_wal(const char *directory, const char *name, uint64_t *ret_system_id, Error *err)
{
    char *path = path_join(directory, name, err);
    Buf buf = BUF_INIT;
    bool ok = path != NULL && read_beginning(path, &buf, err);

    if (ok)
        *ret_system_id = find_system_id(&buf);
    else if (path != NULL && err->code == ERR_FORMAT)
        (void)error_context(err, "could not read \"%s\"", path);
    buf_free(&buf);
    free(path);
    return ok;
}

static bool
read_control(const char *directory, uint64_t *ret_system_id, Error *err)
{
    char *path = path_join(directory, "global/pg_control", err);
    Buf file = BUF_INIT;
    ControlData control;
    bool ok = path != NULL && file_load(path, CONTROL_FILE_SIZE, &file, err);

    if (ok && !control_parse((Span){.data = file.data, .len = file.len}, &control, err))
        ok = error_context(err, "could not read \"%s\"", path);
    if (ok)
        *ret_system_id = control.system_id;
    buf_free(&file);
    free(path);
    return ok;
}

/* ---- the whole ---- */

static bool
refuse(const char *directory, Error *err)
{
    Error ignored = ERROR_INIT;
    bool unfinished = false;

    if (access(directory, F_OK) != 0)
        return error_set_errno(err, errno, "could not access \"%s\"", directory);
    (void)error_set(err, ERR_FORMAT,
                    "\"%s\" holds no backup: there is neither backup_manifest nor backup_label",
                    directory);
    if (is_there(directory, "backup_manifest.tmp", &unfinished, &ignored) && unfinished)
        (void)error_hint(err, "There is a backup_manifest.tmp: this backup was never completed.");
    return false;
}

/* Where both say where it begins, the earlier place is the careful one. */
static void
merge(BackupWal *wal, const BackupWal *label)
{
    memcpy(wal->first_file, label->first_file, sizeof wal->first_file);
    if (wal->start == LSN_INVALID || label->start < wal->start) {
        wal->start = label->start;
        wal->timeline = label->timeline;
    }
}

static bool
read_system_id(const char *directory, uint64_t *ret_system_id, Error *err)
{
    static const char *const archives[] = {"pg_wal.tar", "pg_wal.tar.gz", "pg_wal.tgz",
                                           "pg_wal.tar.lz4", "pg_wal.tar.zst"};
    bool there;

    if (!is_there(directory, "global/pg_control", &there, err))
        return false;
    if (there)
        return read_control(directory, ret_system_id, err);
    for (size_t i = 0; i < sizeof archives / sizeof archives[0]; i++) {
        if (!is_there(directory, archives[i], &there, err))
            return false;
        if (there)
            return read_pg_wal(directory, archives[i], ret_system_id, err);
    }
    return true;
}

bool
backup_wal_read(const char *directory, BackupWal *ret_wal, Error *err)
{
    BackupWal wal = {.start = LSN_INVALID};
    BackupWal label;
    bool has_manifest;
    bool has_label;

    if (!is_there(directory, "backup_manifest", &has_manifest, err) ||
        (has_manifest && !read_manifest(directory, &wal, err)) ||
        !read_label(directory, &label, &has_label, err))
        return false;
    if (has_label)
        merge(&wal, &label);
    else if (!has_manifest)
        return refuse(directory, err);
    if (wal.system_id == 0 && !read_system_id(directory, &wal.system_id, err))
        return false;
    *ret_wal = wal;
    return true;
}

/* ---- beside an archive ---- */

bool
backup_wal_check(const BackupWal *wal, const Inventory *archive, Error *err)
{
    char name[WAL_NAME_SIZE];

    if (wal->system_id != 0 && archive->system_id != 0 && wal->system_id != archive->system_id)
        return error_set(err, ERR_MISMATCH,
                         "it is of the cluster with system identifier %llu, and archive \"%s\" of "
                         "that with %llu",
                         (unsigned long long)wal->system_id, archive->directory,
                         (unsigned long long)archive->system_id);
    if (wal->first_file[0] == '\0' || archive->segment_count == 0)
        return true;
    wal_segment_name(name, wal->timeline, wal_segment_number(wal->start, archive->segment_size),
                     archive->segment_size);
    /* The timeline is left out: that of a manifest may be another one. */
    if (strcmp(name + 8, wal->first_file + 8) == 0)
        return true;
    return error_set(err, ERR_MISMATCH,
                     "its WAL begins at " LSN_FORMAT " in file \"%s\", which in archive \"%s\", "
                     "with segments of %u bytes, would be \"%s\"",
                     LSN_ARGS(wal->start), wal->first_file, archive->directory,
                     archive->segment_size, name);
}

/* A segment in which the timeline ends is complete on another one only. */
static bool
has_segment(const Inventory *archive, TimeLineID timeline, uint64_t number)
{
    for (size_t i = 0; i < archive->timeline_count; i++) {
        size_t count;

        if (archive->timelines[i].timeline >= timeline &&
            inventory_segment(archive, archive->timelines[i].timeline, number, &count) != NULL)
            return true;
    }
    return false;
}

bool
backup_wal_missing(const BackupWal *wal, const Inventory *archive, uint64_t *ret_number)
{
    uint32_t size = archive->segment_size == 0 ? WAL_SEGMENT_SIZE_MAX : archive->segment_size;
    uint64_t number = wal_segment_number(wal->start, size);
    uint64_t last = wal->end == LSN_INVALID ? number : wal_segment_number(wal->end - 1, size);

    for (; number <= last; number++) {
        if (!has_segment(archive, wal->timeline, number)) {
            *ret_number = number;
            return true;
        }
    }
    return false;
}
