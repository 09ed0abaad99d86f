/* Removing files of an archive, in an order that somebody else has thought about. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "archive/archive.h"
#include "common/bytes.h"
#include "common/file.h"

bool
archive_names_add(ArchiveNames *names, const char *name, Error *err)
{
    void *array = names->names;
    char *copy = mem_strdup(name, err);
    bool ok = copy != NULL &&
              mem_grow(&array, &names->capacity, names->count + 1, sizeof *names->names, err);

    names->names = array;
    if (ok)
        names->names[names->count++] = copy;
    else
        free(copy);
    return ok;
}

void
archive_names_free(ArchiveNames *names)
{
    for (size_t i = 0; i < names->count; i++)
        free(names->names[i]);
    free(names->names);
    *names = (ArchiveNames){.names = NULL};
}

bool
archive_remove(const char *directory, const ArchiveNames *names,
               void (*before)(void *ctx, const char *name), void *ctx, Error *err)
{
    int fd = file_open(directory, O_RDONLY | O_DIRECTORY, 0, err);
    bool ok = fd >= 0;

    for (size_t i = 0; ok && i < names->count; i++) {
        if (before != NULL)
            before(ctx, names->names[i]);
        if (unlinkat(fd, names->names[i], 0) != 0)
            ok = error_set_errno(err, errno, "could not remove file \"%s/%s\"", directory,
                                 names->names[i]);
    }
    ok = ok && (names->count == 0 || file_sync(fd, directory, err));
    file_close_quietly(fd);
    return ok;
}
