/*
 * disk: what a power failure at this moment would leave of the files that a test has written.
 *
 * fault.c tells it of every write, name and sync that succeeded; tests ask. Content is safe once
 * the file was synced after the write, a name once its directory was synced after it appeared. A
 * file that was renamed is still reachable by its old name when that one was safe. Paths are
 * absolute and free of links. Any thread.
 */
#ifndef PGSTOW_TESTS_DISK_H
#define PGSTOW_TESTS_DISK_H

#include <stdbool.h>
#include <stdint.h>

/* Forget everything: what exists now is safe. */
void disk_reset(void);

/* ---- what happened ---- */

void disk_written(const char *path, uint64_t end);
void disk_named(const char *path);
void disk_renamed(const char *from, const char *to);
void disk_removed(const char *path);

/* A file or a directory; and all of them. */
void disk_synced(const char *path);
void disk_synced_all(void);

/* ---- what is safe ---- */

/* How far a file's content is on disk and can be found; 0 when it was not written. */
uint64_t disk_safe_to(const char *path);

/* Whether all that was written to it is on disk; true when nothing was. */
bool disk_content_safe(const char *path);

/* Whether it will be found under this name. */
bool disk_name_safe(const char *path);

/*
 * A path at or below `top` of which content or name is not safe, but not `except`; "" when there
 * is none. Valid until the next call.
 */
const char *disk_unsafe(const char *top, const char *except);

#endif
