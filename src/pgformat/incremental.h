/*
 * The header of an INCREMENTAL file (PostgreSQL: backup/basebackup_incremental.c), servers from 17
 * on.
 *
 *     magic, number of blocks, truncation length, the blocks' numbers, padding, the blocks
 *
 * All numbers have 32 bits in the server's byte order, here little-endian. The blocks begin at a
 * multiple of the page size; without blocks there is no padding either. The parser takes the bytes
 * in pieces of any size, in order.
 */
#ifndef PGSTOW_INCREMENTAL_H
#define PGSTOW_INCREMENTAL_H

#include "common/bytes.h"
#include "common/error.h"

#define INCREMENTAL_MAGIC 0xD3AE1F0Du

typedef struct IncrementalHeader {
    uint32_t block_count;
    uint32_t truncation_length; /* blocks that the segment has, unless higher ones follow */
    const uint32_t *blocks;     /* their numbers in the segment, ascending; borrowed */
    uint64_t size;              /* bytes up to the first block */
} IncrementalHeader;

typedef struct IncrementalParser IncrementalParser;

/* `page_size` and `segment_pages` are those of the cluster, neither of them 0. */
IncrementalParser *incremental_parser_new(uint32_t page_size, uint32_t segment_pages,
                                          Error *err) MUST_USE;
void incremental_parser_free(IncrementalParser *parser);

/* Go on with another file. */
void incremental_parser_reset(IncrementalParser *parser);

/*
 * Takes what belongs to the header from the front of *bytes. ERR_FORMAT: it is none, or it names
 * blocks that no segment has or not in order; only reset or free may follow. The padding's content
 * is not looked at.
 */
bool incremental_parser_feed(IncrementalParser *parser, Span *bytes, Error *err) MUST_USE;

/* NULL until it is complete. Valid until reset or free. */
const IncrementalHeader *incremental_parser_header(const IncrementalParser *parser);

/* The size of the whole file. */
uint64_t incremental_file_size(const IncrementalHeader *header, uint32_t page_size);

#endif
