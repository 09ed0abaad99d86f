/*
 * Reads archives in memory, member by member, for tests of what writes them: it shares no code with
 * tar_reader. The server's dialect: ustar, octal numbers, no prefix.
 *
 *     size_t at = 0;
 *     TarFound found;
 *     while (tar_walk(tar, &at, &found))
 *         look(found.name, found.content);
 *
 * What is no such archive ends the process with a message; so does one that does not end with
 * exactly two blocks of zeros.
 */
#ifndef PGSTOW_TESTS_TAR_WALK_H
#define PGSTOW_TESTS_TAR_WALK_H

#include <stdbool.h>
#include <sys/types.h>

#include "common/bytes.h"

typedef struct TarFound {
    char name[101];
    char type; /* '0', '2', '5' */
    mode_t mode;
    uint32_t uid;
    uint32_t gid;
    int64_t mtime;
    Span content;
    Span whole; /* header, content, padding */
} TarFound;

/* The next member from *at, which begins with 0; false at the end. */
bool tar_walk(Span tar, size_t *at, TarFound *ret_found);

/* The member of that name; false when there is none. One that is there twice ends the process. */
bool tar_find(Span tar, const char *name, TarFound *ret_found);

/* How many members there are. */
size_t tar_count(Span tar);

/* The name of the last one, "" without any; valid until the next call. */
const char *tar_last_name(Span tar);

#endif
