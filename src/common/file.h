/*
 * Files and directories with checked results and durable publication.
 *
 * Every function names the path in its message. Interrupted and short calls are continued. A failed
 * sync is final: the kernel may have dropped the pages, so nobody retries (file_sync says so once).
 * Descriptors are opened close-on-exec. Any thread.
 */
#ifndef PGSTOW_FILE_H
#define PGSTOW_FILE_H

#include <dirent.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/bytes.h"
#include "common/error.h"

/* open(2) with O_CLOEXEC; -1 and the error on failure. */
int file_open(const char *path, int flags, mode_t mode, Error *err) MUST_USE;

bool file_write(int fd, const void *data, size_t len, const char *path, Error *err) MUST_USE;
bool file_pwrite(int fd, const void *data, size_t len, uint64_t offset, const char *path,
                 Error *err) MUST_USE;

/* Read up to `len` bytes; fewer only at the end of the file. */
bool file_read(int fd, void *data, size_t len, const char *path, size_t *ret_len,
               Error *err) MUST_USE;

/* The whole file; a file of more than `limit` bytes is refused. Appends to `buf`. */
bool file_load(const char *path, uint64_t limit, Buf *buf, Error *err) MUST_USE;

/* fallocate(2) from the beginning on, which may make the file longer: 0, or an errno; EOPNOTSUPP,
 * whichever way that is put, where the file system cannot. */
int file_reserve(int fd, uint64_t size);

bool file_sync(int fd, const char *path, Error *err) MUST_USE;
bool file_close(int fd, const char *path, Error *err) MUST_USE;

/* close(2) for a failure path: the result does not matter any more. Takes -1. */
void file_close_quietly(int fd);

/* Open, fsync, close: a file or a directory. */
bool file_sync_path(const char *path, Error *err) MUST_USE;

/* fsync the directory that holds `path`. */
bool file_sync_parent(const char *path, Error *err) MUST_USE;

bool file_rename(const char *from, const char *to, Error *err) MUST_USE;

/* rename(2), then the directory is synced. The file's own content must be synced already. */
bool file_rename_durable(const char *from, const char *to, Error *err) MUST_USE;

/* ---- paths ---- */

/* "DIR/NAME" as an owned string. */
char *path_join(const char *dir, const char *name, Error *err) MUST_USE;

/* The directory part of `path` as an owned string: "." when it has none. */
char *path_parent(const char *path, Error *err) MUST_USE;

/* PostgreSQL's canonical form, in place: no double slash, no "." component, no trailing slash,
 * "x/.." folded. */
void path_canonicalize(char *path);

/* A name from an archive or a manifest that stays below its root: relative, not empty, no empty,
 * "." or ".." component. */
bool path_is_below(const char *path);

/* Whether `outer` is `inner` or one of its parents, as they are written; neither is empty. */
bool path_holds(const char *outer, const char *inner);

/* ---- directories ---- */

typedef enum DirState { DIR_MISSING, DIR_EMPTY, DIR_NOT_EMPTY } DirState;

/* What is at `path`; something that is no directory is an error. Dot files count as content. */
bool dir_state(const char *path, DirState *ret_state, Error *err) MUST_USE;

/* readdir(3) without "." and "..". At the end errno is 0, or says why the rest cannot be read. */
struct dirent *dir_next(DIR *dir);

/*
 * mkdir -p; what is made has exactly this mode. *ret_top is the topmost directory that had to be
 * made, as an owned string (NULL when `path` existed): removing what was made begins there.
 */
bool dir_make(const char *path, mode_t mode, char **ret_top, Error *err) MUST_USE;

/* rm -r, without following links; what is gone already is fine. Continues after a failure and
 * reports the first. */
bool dir_remove(const char *path, Error *err) MUST_USE;
bool dir_remove_contents(const char *path, Error *err) MUST_USE;

#endif
