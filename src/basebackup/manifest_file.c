#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "basebackup/internal.h"
#include "common/file.h"
#include "stream/stage.h"

#define TEMPORARY_NAME "backup_manifest.tmp"
#define FINAL_NAME     "backup_manifest"

struct ManifestFileWriter {
    char *temporary;
    char *final;
    int fd;
    ManifestReader *reader;
    Manifest *manifest;
};

static bool
create(ManifestFileWriter *writer, mode_t mode, Error *err)
{
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
    if ((writer->temporary = path_join(directory, TEMPORARY_NAME, err)) == NULL ||
        (writer->final = path_join(directory, FINAL_NAME, err)) == NULL ||
        (writer->reader = manifest_reader_new(err)) == NULL || !create(writer, mode, err)) {
        manifest_file_free(writer);
        return NULL;
    }
    return writer;
}

bool
manifest_file_write(ManifestFileWriter *writer, Span bytes, Error *err)
{
    return file_write(writer->fd, bytes.data, bytes.len, writer->temporary, err) &&
           manifest_reader_feed(writer->reader, bytes, err);
}

bool
manifest_file_finish(ManifestFileWriter *writer, bool sync, const Manifest **ret_manifest,
                     Error *err)
{
    int fd = writer->fd;

    if (sync && !file_sync(fd, writer->temporary, err))
        return false;
    writer->fd = -1;
    if (!file_close(fd, writer->temporary, err) ||
        !manifest_reader_finish(writer->reader, &writer->manifest, err))
        return false;
    *ret_manifest = writer->manifest;
    return true;
}

bool
manifest_file_publish(ManifestFileWriter *writer, bool sync, Error *err)
{
    Error ignored = ERROR_INIT;

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
    free(writer->temporary);
    free(writer->final);
    free(writer);
}

/* ---- the guard ---- */

typedef struct ManifestGuard {
    Sink sink;
    bool in_base; /* the archive of the data directory */
} ManifestGuard;

/* Whether `path` is `name` or something in it. */
static bool
is_at(const char *path, const char *name)
{
    size_t len = strlen(name);

    return strncmp(path, name, len) == 0 && (path[len] == '\0' || path[len] == '/');
}

static bool
guard_check(const char *path, Error *err)
{
    if (!is_at(path, TEMPORARY_NAME) && !is_at(path, FINAL_NAME))
        return true;
    (void)error_set(err, ERR_UNSUPPORTED,
                    "the server's data directory has a file \"%s\", which is the name of the "
                    "backup's own",
                    path);
    return error_hint(err, "It is left over from an earlier backup: remove it on the server.");
}

static bool
guard_push(Sink *self, const Event *event, Error *err)
{
    ManifestGuard *guard = (ManifestGuard *)self;

    if (event->kind == EVENT_ARCHIVE_BEGIN)
        guard->in_base = event->archive->tablespace == 0;
    if (event->kind == EVENT_ENTRY_BEGIN && guard->in_base && !guard_check(event->entry->path, err))
        return false;
    return sink_forward(self, event, err);
}

static const SinkOps guard_ops = {.name = "manifest_guard", .push = guard_push};

Sink *
manifest_guard_new(Sink *next, Error *err)
{
    ManifestGuard *guard = sink_alloc(sizeof *guard, &guard_ops, next, err);

    return guard == NULL ? NULL : &guard->sink;
}
