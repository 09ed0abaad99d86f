#include <stdlib.h>

#include "basebackup/internal.h"
#include "common/file.h"

#define TEMPORARY_NAME PAGE_DIGESTS_NAME ".tmp"

struct PagesFile {
    char *temporary;
    char *final;
    PageDigestWriter *writer;
};

PagesFile *
pages_file_new(const char *directory, mode_t mode, uint32_t page_size, Error *err)
{
    PagesFile *file = mem_zero(sizeof *file, err);

    if (file == NULL)
        return NULL;
    if ((file->temporary = path_join(directory, TEMPORARY_NAME, err)) == NULL ||
        (file->final = path_join(directory, PAGE_DIGESTS_NAME, err)) == NULL ||
        (file->writer = page_digest_writer_new(file->temporary, mode, page_size, err)) == NULL) {
        pages_file_free(file);
        return NULL;
    }
    return file;
}

PageDigestWriter *
pages_file_writer(const PagesFile *file)
{
    return file->writer;
}

/* Its directory is synced by itself: the name has to be on disk before the manifest's is there. */
bool
pages_file_publish(PagesFile *file, bool sync, Error *err)
{
    if (!page_digest_writer_finish(file->writer, sync, err))
        return false;
    return sync ? file_rename_durable(file->temporary, file->final, err)
                : file_rename(file->temporary, file->final, err);
}

void
pages_file_free(PagesFile *file)
{
    if (file == NULL)
        return;
    page_digest_writer_free(file->writer);
    free(file->temporary);
    free(file->final);
    free(file);
}
