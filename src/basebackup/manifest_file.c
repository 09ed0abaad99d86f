#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "basebackup/internal.h"
#include "common/file.h"
#include "stream/stage.h"

#define TEMPORARY_NAME "backup_manifest.tmp"
#define FINAL_NAME     "backup_manifest"

struct ManifestFileWriter {
    char *temporary; /* NULL: in memory */
    char *final;
    int fd;
    Buf content; /* in memory */
    mode_t mode;
    bool published;
    ManifestReader *reader;
    Manifest *manifest;
};

static bool
create(ManifestFileWriter *writer, const char *directory, Error *err)
{
    const mode_t mode = writer->mode;

    if ((writer->temporary = path_join(directory, TEMPORARY_NAME, err)) == NULL ||
        (writer->final = path_join(directory, FINAL_NAME, err)) == NULL)
        return false;
    writer->fd = file_open(writer->temporary, O_WRONLY | O_CREAT | O_EXCL, mode, err);
    if (writer->fd < 0)
        return false;
    if (fchmod(writer->fd, mode) != 0) /* the umask may have taken something */
        return error_set_errno(err, errno, "could not set permissions of file \"%s\"",
                               writer->temporary);
    return true;
}

ManifestFileWriter *
manifest_file_new(const char *directory, mode_t mode, Error *err)
{
    ManifestFileWriter *writer = mem_zero(sizeof *writer, err);

    if (writer == NULL)
        return NULL;
    writer->fd = -1;
    writer->mode = mode;
    writer->reader = manifest_reader_new(err);
    if (writer->reader == NULL || (directory != NULL && !create(writer, directory, err))) {
        manifest_file_free(writer);
        return NULL;
    }
    return writer;
}

bool
manifest_file_write(ManifestFileWriter *writer, Span bytes, Error *err)
{
    bool kept = writer->temporary == NULL
                    ? buf_append(&writer->content, bytes.data, bytes.len, err)
                    : file_write(writer->fd, bytes.data, bytes.len, writer->temporary, err);

    return kept && manifest_reader_feed(writer->reader, bytes, err);
}

static bool
close_file(ManifestFileWriter *writer, bool sync, Error *err)
{
    int fd = writer->fd;

    if (fd < 0)
        return true;
    if (sync && !file_sync(fd, writer->temporary, err))
        return false;
    writer->fd = -1;
    return file_close(fd, writer->temporary, err);
}

bool
manifest_file_finish(ManifestFileWriter *writer, bool sync, const Manifest **ret_manifest,
                     Error *err)
{
    if (!close_file(writer, sync, err) ||
        !manifest_reader_finish(writer->reader, &writer->manifest, err))
        return false;
    *ret_manifest = writer->manifest;
    return true;
}

bool
manifest_file_publish(ManifestFileWriter *writer, bool sync, Error *err)
{
    Error ignored = ERROR_INIT;

    writer->published = true;
    if (writer->temporary == NULL)
        return true;
    if (!file_rename(writer->temporary, writer->final, err))
        return false;
    if (!sync || file_sync_parent(writer->final, err))
        return true;
    /* A name that may not be on disk must not say that the backup is. */
    error_ignored(file_rename(writer->final, writer->temporary, &ignored));
    return false;
}

void
manifest_file_free(ManifestFileWriter *writer)
{
    if (writer == NULL)
        return;
    file_close_quietly(writer->fd);
    manifest_reader_free(writer->reader);
    manifest_free(writer->manifest);
    buf_free(&writer->content);
    free(writer->temporary);
    free(writer->final);
    free(writer);
}

/* ---- the guard ---- */

typedef struct ManifestGuard {
    Sink sink;
    size_t count; /* of the names that are guarded */
} ManifestGuard;

#define GUARD_ALWAYS ((size_t)3)

static const char *const guarded[] = {TEMPORARY_NAME, FINAL_NAME, TARGET_BAD_PAGES,
                                      PAGE_DIGESTS_NAME, "backup_pages.tmp"};

static bool
guard_entry(Sink *self, const Entry *entry, Error *err)
{
    const ManifestGuard *guard = (const ManifestGuard *)self;

    if (self->tablespace != 0)
        return true;
    for (size_t i = 0; i < guard->count; i++) {
        if (!path_holds(guarded[i], entry->path))
            continue;
        (void)error_set(err, ERR_UNSUPPORTED,
                        "the server's data directory has a file \"%s\", which is the name of the "
                        "backup's own",
                        entry->path);
        return error_hint(err, "It is left over from an earlier backup: remove it on the server.");
    }
    return true;
}

static const WatchOps guard_watch = {.entry_begin = guard_entry};

static bool
guard_push(Sink *self, const Event *event, Error *err)
{
    return sink_watch(self, &guard_watch, event, err);
}

static const SinkOps guard_ops = {.name = "manifest_guard", .push = guard_push};

Sink *
manifest_guard_new(Sink *next, GuardedNames names, Error *err)
{
    ManifestGuard *guard = sink_alloc(sizeof *guard, &guard_ops, next, err);

    if (guard == NULL)
        return NULL;
    guard->count = names == GUARD_MANIFEST ? GUARD_ALWAYS : sizeof guarded / sizeof guarded[0];
    return &guard->sink;
}

/* ---- in the archive ---- */

typedef struct ManifestInject {
    Sink sink;
    const ManifestFileWriter *writer;
} ManifestInject;

static bool
inject_manifest(Sink *next, const ManifestFileWriter *writer, Error *err)
{
    const Span content = {.data = writer->content.data, .len = writer->content.len};
    const Entry entry = {
        .kind = ENTRY_FILE,
        .path = FINAL_NAME,
        .size = content.len,
        .mode = writer->mode,
        .mtime = (int64_t)time(NULL),
    };

    return sink_entry_begin(next, &entry, err) && sink_data(next, content, err) &&
           sink_entry_end(next, true, err);
}

static bool
inject_push(Sink *self, const Event *event, Error *err)
{
    ManifestInject *inject = (ManifestInject *)self;

    if (event->kind == EVENT_ARCHIVE_END && self->tablespace == 0 && inject->writer->published &&
        !inject_manifest(self->next, inject->writer, err))
        return false;
    return sink_forward(self, event, err);
}

static const SinkOps inject_ops = {.name = "manifest_inject", .push = inject_push};

Sink *
manifest_inject_new(Sink *next, const ManifestFileWriter *writer, Error *err)
{
    ManifestInject *inject = sink_alloc(sizeof *inject, &inject_ops, next, err);

    if (inject == NULL)
        return NULL;
    inject->writer = writer;
    return &inject->sink;
}
