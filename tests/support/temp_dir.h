/*
 * A directory for one test, below TMPDIR or /tmp, removed with all its content.
 *
 * Made for tests: what fails here ends the process with a message. The strings that temp_dir_path
 * returns live until temp_dir_remove.
 */
#ifndef PGSTOW_TESTS_TEMP_DIR_H
#define PGSTOW_TESTS_TEMP_DIR_H

#include <stdbool.h>
#include <sys/types.h>

#include "common/bytes.h"

typedef struct TempDir {
    char *path;
    char **strings; /* what temp_dir_path gave out */
    size_t count;
    size_t capacity;
} TempDir;

void temp_dir_make(TempDir *dir);

/* Also makes directories that a test has locked writable again. Takes a removed one. */
void temp_dir_remove(TempDir *dir);

/* "DIR/NAME"; NAME need not exist. */
const char *temp_dir_path(TempDir *dir, const char *name);

/* mkdir -p "DIR/NAME", mode 0700. */
void temp_dir_mkdir(TempDir *dir, const char *name);
void temp_dir_write(TempDir *dir, const char *name, const void *data, size_t len);

/* The content of a file as an owned Buf; its text is zero-terminated. */
Buf temp_dir_read(TempDir *dir, const char *name);

/* lstat: false when there is nothing. */
bool temp_dir_exists(TempDir *dir, const char *name);

/* Where a symbolic link leads; lives as long as what temp_dir_path returns. */
const char *temp_dir_link(TempDir *dir, const char *name);

/* st_mode with the type, as lstat gives it. */
mode_t temp_dir_mode(TempDir *dir, const char *name);

#endif
