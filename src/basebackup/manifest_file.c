#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "basebackup/internal.h"
#include "common/file.h"

struct ManifestFileWriter {
    char *temporary;
    char *final;
    int fd;
    ManifestReader *reader;
    Manifest *manifest;
};

ManifestFileWriter *
manifest_file_new(const char *directory, mode_t mode, Error *err)
{
    ManifestFileWriter *writer = mem_zero(sizeof *writer, err);

    if (writer == NULL)
        return NULL;
    writer->fd = -1;
    if ((writer->temporary = path_join(directory, "backup_manifest.tmp", err)) == NULL ||
        (writer->final = path_join(directory, "backup_manifest", err)) == NULL ||
        (writer->reader = manifest_reader_new(err)) == NULL ||
        (writer->fd = file_open(writer->temporary, O_WRONLY | O_CREAT | O_EXCL, mode, err)) < 0) {
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
    if (sync)
        return file_rename_durable(writer->temporary, writer->final, err);
    return file_rename(writer->temporary, writer->final, err);
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
