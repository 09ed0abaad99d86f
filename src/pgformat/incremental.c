#include "pgformat/incremental.h"

#include <stdlib.h>

/* The numbers of the header, one behind the other; the blocks' numbers follow. */
#define NUMBER_SIZE  4u
#define FIXED_SIZE   12u
#define AT_MAGIC     0u
#define AT_COUNT     4u
#define AT_TRUNCATED 8u

struct IncrementalParser {
    uint32_t page_size;
    uint32_t segment_pages;
    uint64_t position;           /* in the file, of the next byte */
    uint8_t number[NUMBER_SIZE]; /* the one that is arriving */
    uint32_t *blocks;
    size_t capacity; /* of `blocks` */
    uint32_t known;  /* numbers in `blocks` */
    IncrementalHeader header;
};

IncrementalParser *
incremental_parser_new(uint32_t page_size, uint32_t segment_pages, Error *err)
{
    IncrementalParser *parser;

    if (page_size == 0 || segment_pages == 0) {
        (void)error_set(err, ERR_BUG, "invalid page size %u or segment size %u", page_size,
                        segment_pages);
        return NULL;
    }
    parser = mem_zero(sizeof *parser, err);
    if (parser == NULL)
        return NULL;
    parser->page_size = page_size;
    parser->segment_pages = segment_pages;
    incremental_parser_reset(parser);
    return parser;
}

void
incremental_parser_free(IncrementalParser *parser)
{
    if (parser == NULL)
        return;
    free(parser->blocks);
    free(parser);
}

void
incremental_parser_reset(IncrementalParser *parser)
{
    parser->position = 0;
    parser->known = 0;
    parser->header = (IncrementalHeader){.size = FIXED_SIZE};
}

/* Where the numbers end and the padding begins. */
static uint64_t
numbers_end(uint32_t block_count)
{
    return FIXED_SIZE + (uint64_t)block_count * NUMBER_SIZE;
}

/* Where the padding ends and the blocks begin. */
static uint64_t
header_size(uint32_t block_count, uint32_t page_size)
{
    uint64_t size = numbers_end(block_count);

    return block_count == 0 ? size : (size + page_size - 1) / page_size * page_size;
}

static bool
take_count(IncrementalParser *parser, uint32_t count, Error *err)
{
    if (count > parser->segment_pages)
        return error_set(err, ERR_FORMAT, "block count %u exceeds the segment size of %u blocks",
                         count, parser->segment_pages);
    parser->header.block_count = count;
    parser->header.size = header_size(count, parser->page_size);
    return true;
}

static bool
take_block(IncrementalParser *parser, uint32_t block, Error *err)
{
    void *blocks = parser->blocks;

    if (block >= parser->segment_pages)
        return error_set(err, ERR_FORMAT, "block number %u is beyond the segment size of %u blocks",
                         block, parser->segment_pages);
    if (parser->known > 0 && block <= parser->blocks[parser->known - 1])
        return error_set(err, ERR_FORMAT, "block number %u follows block number %u", block,
                         parser->blocks[parser->known - 1]);
    /* The array grows with what has come, not with what was announced. */
    if (!mem_grow(&blocks, &parser->capacity, (size_t)parser->known + 1, sizeof *parser->blocks,
                  err))
        return false;
    parser->blocks = blocks;
    parser->blocks[parser->known++] = block;
    parser->header.blocks = parser->blocks;
    return true;
}

/* The number at that place in the file has come. */
static bool
take_number(IncrementalParser *parser, uint64_t at, Error *err)
{
    uint32_t number = get_le32(parser->number);

    switch (at) {
    case AT_MAGIC:
        if (number != INCREMENTAL_MAGIC)
            return error_set(err, ERR_FORMAT, "magic number is %08X, expected %08X", number,
                             INCREMENTAL_MAGIC);
        return true;
    case AT_COUNT:
        return take_count(parser, number, err);
    case AT_TRUNCATED:
        if (number > parser->segment_pages)
            return error_set(err, ERR_FORMAT,
                             "truncation length %u exceeds the segment size of %u blocks", number,
                             parser->segment_pages);
        parser->header.truncation_length = number;
        return true;
    default:
        return take_block(parser, number, err);
    }
}

static bool
take_byte(IncrementalParser *parser, uint8_t byte, Error *err)
{
    uint64_t at = parser->position++;

    parser->number[at % NUMBER_SIZE] = byte;
    return parser->position % NUMBER_SIZE != 0 || take_number(parser, at - (NUMBER_SIZE - 1), err);
}

/* What of it is there. */
static void
skip_padding(IncrementalParser *parser, Span *bytes)
{
    uint64_t left = parser->header.size - parser->position;
    size_t len = left < bytes->len ? (size_t)left : bytes->len;

    bytes->data += len;
    bytes->len -= len;
    parser->position += len;
}

bool
incremental_parser_feed(IncrementalParser *parser, Span *bytes, Error *err)
{
    while (bytes->len > 0 && parser->position < numbers_end(parser->header.block_count)) {
        if (!take_byte(parser, *bytes->data, err))
            return false;
        bytes->data++;
        bytes->len--;
    }
    if (bytes->len > 0)
        skip_padding(parser, bytes);
    return true;
}

const IncrementalHeader *
incremental_parser_header(const IncrementalParser *parser)
{
    return parser->position < parser->header.size ? NULL : &parser->header;
}

uint64_t
incremental_file_size(const IncrementalHeader *header, uint32_t page_size)
{
    return header->size + (uint64_t)header->block_count * page_size;
}
