/*
 * backup_pages: the CRC-32C of every page of every relation file of a backup, beside its manifest
 * (docs/formats.md). With it a file that has changed can be told page by page, data checksums or
 * not.
 *
 *     "PGSTOWPD", version 1, page size
 *     { length of the path, path, size of the file, CRC of each page }
 *     0, number of files, CRC-32C of all before it
 *
 * Numbers are little-endian; the size and the number of files have 64 bits, all others 32. Pages
 * are counted from the beginning of the file, whatever is in it; the last one may be short. Paths
 * are as in the manifest. 4 bytes for 8 kB: nothing of it is kept in memory but where a file's CRCs
 * are.
 *
 * A writer belongs to one thread. PageDigests is immutable: any number of threads may read it.
 */
#ifndef PGSTOW_PAGE_DIGESTS_H
#define PGSTOW_PAGE_DIGESTS_H

#include <sys/types.h>

#include "common/bytes.h"
#include "common/error.h"

#define PAGE_DIGESTS_NAME    "backup_pages"
#define PAGE_DIGESTS_VERSION 1u

/* ---- writing ---- */

typedef struct PageDigestWriter PageDigestWriter;

/* Makes the file `path`, which must not exist, with exactly this mode. Pages are PostgreSQL's: a
 * power of two from 1 to 32 kB. */
PageDigestWriter *page_digest_writer_new(const char *path, mode_t mode, uint32_t page_size,
                                         Error *err) MUST_USE;
uint32_t page_digest_writer_page_size(const PageDigestWriter *writer);

/* A file of `size` bytes, for the first time; exactly as many CRCs follow as it has pages. */
bool page_digest_writer_begin(PageDigestWriter *writer, const char *path, uint64_t size,
                              Error *err) MUST_USE;
bool page_digest_writer_add(PageDigestWriter *writer, uint32_t crc, Error *err) MUST_USE;

/* Writes the end; with `sync` the file is on disk then. Its name and directory are the caller's. */
bool page_digest_writer_finish(PageDigestWriter *writer, bool sync, Error *err) MUST_USE;

/* In any state; the file stays. */
void page_digest_writer_free(PageDigestWriter *writer);

/* ---- reading ---- */

typedef struct PageDigests PageDigests;

/* Where a file's CRCs are. */
typedef struct PageDigestFile {
    uint64_t size;   /* of the file */
    uint64_t offset; /* of its first CRC in backup_pages */
} PageDigestFile;

/*
 * Reads all of it once: ERR_FORMAT when it is no such file or damaged; ERR_SYSTEM with ENOENT when
 * there is none. What it says is used only if that succeeds. No links are followed.
 */
PageDigests *page_digests_open(const char *path, Error *err) MUST_USE;
void page_digests_close(PageDigests *digests);

uint32_t page_digests_page_size(const PageDigests *digests);
size_t page_digests_count(const PageDigests *digests);

/* False: no such file. */
bool page_digests_find(const PageDigests *digests, const char *path, PageDigestFile *ret_file);

/* `count` CRCs from page `first` on, all of which the file has. */
bool page_digests_read(const PageDigests *digests, const PageDigestFile *file, uint64_t first,
                       uint32_t *crcs, size_t count, Error *err) MUST_USE;

/* The CRC of the whole file, from those of its pages: it must be the manifest's. */
bool page_digests_file_crc(const PageDigests *digests, const PageDigestFile *file,
                           uint32_t *ret_crc, Error *err) MUST_USE;

#endif
