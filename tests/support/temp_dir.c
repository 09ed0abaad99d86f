#include "support/temp_dir.h"

#include <errno.h>
#include <ftw.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/file.h"

static void
give_up(const char *what, const char *path, const char *why)
{
    (void)fprintf(stderr, "test support: could not %s \"%s\": %s\n", what, path, why);
    abort();
}

void
temp_dir_make(TempDir *dir)
{
    const char *base = getenv("TMPDIR");
    Error err = ERROR_INIT;

    *dir = (TempDir){.path = NULL};
    if (base == NULL || base[0] == '\0')
        base = "/tmp";
    dir->path = path_join(base, "pgstow-test-XXXXXX", &err);
    if (dir->path == NULL || mkdtemp(dir->path) == NULL)
        give_up("make a directory in", base, strerror(errno));
}

static int
unlock(const char *path, const struct stat *st, int type, struct FTW *where)
{
    (void)st;
    (void)where;
    if (type == FTW_D || type == FTW_DNR)
        (void)chmod(path, 0700);
    return 0;
}

void
temp_dir_remove(TempDir *dir)
{
    Error err = ERROR_INIT;

    if (dir->path == NULL)
        return;
    (void)nftw(dir->path, unlock, 16, FTW_PHYS);
    if (!dir_remove(dir->path, &err))
        give_up("remove", dir->path, err.message);
    for (size_t i = 0; i < dir->count; i++)
        free(dir->strings[i]);
    free(dir->strings);
    free(dir->path);
    *dir = (TempDir){.path = NULL};
}

/* Owns `string`; NULL: there was no memory for it. */
static const char *
keep_string(TempDir *dir, char *string)
{
    Error err = ERROR_INIT;
    void *strings = dir->strings;

    if (string == NULL || !mem_grow(&strings, &dir->capacity, dir->count + 1, sizeof(char *), &err))
        give_up("name something in", dir->path, "out of memory");
    dir->strings = strings;
    dir->strings[dir->count++] = string;
    return string;
}

const char *
temp_dir_path(TempDir *dir, const char *name)
{
    Error err = ERROR_INIT;

    return keep_string(dir, path_join(dir->path, name, &err));
}

void
temp_dir_mkdir(TempDir *dir, const char *name)
{
    const char *path = temp_dir_path(dir, name);
    Error err = ERROR_INIT;
    char *top = NULL;

    if (!dir_make(path, 0700, &top, &err))
        give_up("make", path, err.message);
    free(top);
}

void
temp_dir_write(TempDir *dir, const char *name, const void *data, size_t len)
{
    const char *path = temp_dir_path(dir, name);
    FILE *file = fopen(path, "wb");

    if (file == NULL)
        give_up("create", path, strerror(errno));
    else if ((len > 0 && fwrite(data, 1, len, file) != len) || fclose(file) != 0)
        give_up("write", path, strerror(errno));
}

Buf
temp_dir_read(TempDir *dir, const char *name)
{
    const char *path = temp_dir_path(dir, name);
    Error err = ERROR_INIT;
    Buf content = BUF_INIT;

    if (!file_load(path, UINT64_MAX, &content, &err))
        give_up("read", path, err.message);
    return content;
}

bool
temp_dir_exists(TempDir *dir, const char *name)
{
    struct stat st;

    return lstat(temp_dir_path(dir, name), &st) == 0;
}

const char *
temp_dir_link(TempDir *dir, const char *name)
{
    const char *path = temp_dir_path(dir, name);
    char target[4096];
    ssize_t len = readlink(path, target, sizeof target - 1);

    if (len < 0)
        give_up("read the link", path, strerror(errno));
    target[len] = '\0';
    return keep_string(dir, strdup(target));
}

mode_t
temp_dir_mode(TempDir *dir, const char *name)
{
    const char *path = temp_dir_path(dir, name);
    struct stat st = {.st_mode = 0};

    if (lstat(path, &st) != 0)
        give_up("look at", path, strerror(errno));
    return st.st_mode;
}
