/*
 * Data pages (PostgreSQL: src/include/storage/bufpage.h, storage/checksum_impl.h), servers 10 to
 * 18.
 *
 * Numbers are in the server's byte order, here little-endian. Pages lie anywhere in memory: no
 * alignment is asked for. Pure.
 */
#ifndef PGSTOW_PAGE_H
#define PGSTOW_PAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/pgtypes.h"

#define PAGE_BYTES_MIN 1024u
#define PAGE_BYTES_MAX 32768u

/* The last block that a relation fork can have (MaxBlockNumber). */
#define PAGE_BLOCK_MAX 0xFFFFFFFEu

/* What is needed to decide whether a page is checked. */
typedef struct PageHeader {
    Lsn lsn;           /* of the last change; 0 for pages that are not WAL-logged */
    uint16_t checksum; /* as stored; means something when the cluster has checksums */
    uint16_t upper;    /* end of the free space; 0: the page is new, nothing was put there yet */
} PageHeader;

/* A server can be built with pages of 1 to 32 KiB, powers of two. */
bool page_size_valid(uint64_t size);

PageHeader page_header(const uint8_t *page);

/*
 * The checksum that the page should have as block `block` of its relation fork, counted over all
 * segments: never 0. `size` is valid. The checksum that is stored in the page does not count.
 */
uint16_t page_checksum(const uint8_t *page, size_t size, uint32_t block);

/* The same without the CPU's wide vectors; for tests. */
uint16_t page_checksum_portable(const uint8_t *page, size_t size, uint32_t block);

#endif
