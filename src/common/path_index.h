/*
 * A set of paths, numbered from 0 in the order in which they came: what a caller knows about them
 * lies beside it, in arrays by number.
 *
 * For tens of millions of paths that somebody else chose: the hash is keyed anew in each run, so
 * nobody can prepare paths that collide, and adding and finding take the same time whatever the
 * paths are. A path costs its text and 15 to 30 bytes.
 * Any number of threads may read an index that nobody adds to.
 */
#ifndef PGSTOW_PATH_INDEX_H
#define PGSTOW_PATH_INDEX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

#define PATH_INDEX_LIMIT 0x7FFFFFFFu /* paths; one more is an ERR_UNSUPPORTED */

typedef struct PathIndex PathIndex;

PathIndex *path_index_new(Error *err) MUST_USE;
void path_index_free(PathIndex *index);

/*
 * Copies the `len` bytes of `path`, which has no zero byte among them. A path that is there already
 * is no error: *ret_added is false and *ret_number is the one that it has.
 */
bool path_index_add(PathIndex *index, const char *path, size_t len, uint32_t *ret_number,
                    bool *ret_added, Error *err) MUST_USE;

/* False when there is no such path. */
bool path_index_find(const PathIndex *index, const char *path, uint32_t *ret_number);

/* `number` is below path_index_count. What is returned stays where it is. */
const char *path_index_path(const PathIndex *index, uint32_t number);
size_t path_index_count(const PathIndex *index);

#endif
