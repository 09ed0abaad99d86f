/*
 * The header of an INCREMENTAL file: how the bytes are cut must not matter, what is accepted holds
 * together and can be written again from its fields, and nothing behind it is taken.
 */
#include <stdlib.h>
#include <string.h>

#include "common/crc32c.h"
#include "fuzz/fuzz.h"
#include "pgformat/incremental.h"

typedef struct Cluster {
    uint32_t page_size;
    uint32_t segment_pages;
} Cluster;

static void
must(bool holds)
{
    if (!holds)
        abort();
}

/* The next size of a piece: any sequence will do, as long as an input always gets the same. */
static size_t
next_piece(uint32_t *seed)
{
    *seed = *seed * 1664525u + 1013904223u;
    return (*seed >> 24) % 2 == 0 ? 1 + (*seed >> 16) % 7 : 1 + (*seed >> 16) % 3000;
}

/* Feed in pieces of random sizes, or whole when `seed` is NULL. Returns how much was taken. */
static size_t
feed(IncrementalParser *parser, Span input, uint32_t *seed, Error *err)
{
    size_t at = 0;

    while (at < input.len && incremental_parser_header(parser) == NULL) {
        size_t left = input.len - at;
        size_t piece = seed == NULL ? left : next_piece(seed);
        Span bytes = {input.data + at, piece < left ? piece : left};
        const uint8_t *end = bytes.data + bytes.len;

        if (!incremental_parser_feed(parser, &bytes, err))
            return 0;
        must(bytes.data + bytes.len == end);
        must(bytes.len == 0 || incremental_parser_header(parser) != NULL);
        at = input.len - (size_t)(input.data + input.len - bytes.data);
    }
    return at;
}

static void
check_header(const IncrementalHeader *header, const Cluster *cluster, Span input, size_t used)
{
    size_t numbers = 12 + 4 * (size_t)header->block_count;

    must(header->size == used);
    must(header->block_count <= cluster->segment_pages);
    must(header->truncation_length <= cluster->segment_pages);
    must(used >= numbers && used - numbers < cluster->page_size);
    must(header->block_count == 0 ? used == 12 : used % cluster->page_size == 0);
    must(incremental_file_size(header, cluster->page_size) ==
         used + (uint64_t)header->block_count * cluster->page_size);

    must(get_le32(input.data) == INCREMENTAL_MAGIC);
    must(get_le32(input.data + 4) == header->block_count);
    must(get_le32(input.data + 8) == header->truncation_length);
    for (uint32_t i = 0; i < header->block_count; i++) {
        must(header->blocks[i] == get_le32(input.data + 12 + 4 * (size_t)i));
        must(header->blocks[i] < cluster->segment_pages);
        must(i == 0 || header->blocks[i] > header->blocks[i - 1]);
    }
}

static void
check(const Cluster *cluster, Span input)
{
    uint32_t seed = crc32c(0, input.data, input.len);
    Error err = ERROR_INIT;
    Error pieces_err = ERROR_INIT;
    IncrementalParser *parser =
        incremental_parser_new(cluster->page_size, cluster->segment_pages, &err);
    bool complete;
    size_t used;

    if (parser == NULL)
        return;
    used = feed(parser, input, NULL, &err);
    complete = err.code == ERR_NONE && incremental_parser_header(parser) != NULL;
    if (complete)
        check_header(incremental_parser_header(parser), cluster, input, used);
    else if (err.code == ERR_NONE)
        must(used == input.len);
    else
        must(err.code == ERR_FORMAT && err.message[0] != '\0');

    incremental_parser_reset(parser);
    must(feed(parser, input, &seed, &pieces_err) == used);
    must(err.code == pieces_err.code && strcmp(err.message, pieces_err.message) == 0);
    must(complete == (err.code == ERR_NONE && incremental_parser_header(parser) != NULL));
    if (complete)
        check_header(incremental_parser_header(parser), cluster, input, used);
    incremental_parser_free(parser);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    /* As most servers are built, and one where limits are near. */
    static const Cluster usual = {.page_size = 8192, .segment_pages = 131072};
    static const Cluster small = {.page_size = 1024, .segment_pages = 300};
    Span input = {.data = data, .len = size};

    check(&usual, input);
    check(&small, input);
    return 0;
}
