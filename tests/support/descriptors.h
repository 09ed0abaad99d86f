/*
 * What the descriptors of this process are: for tests that count them, and that see calls with a
 * descriptor where they want a path.
 */
#ifndef PGSTOW_TESTS_DESCRIPTORS_H
#define PGSTOW_TESTS_DESCRIPTORS_H

#include <stddef.h>

/* How many are open; to be compared with another count. */
size_t descriptors_open(void);

/* What `fd` leads to, "" when that cannot be told; `path`. */
const char *descriptor_path(int fd, char *path, size_t size);

#endif
