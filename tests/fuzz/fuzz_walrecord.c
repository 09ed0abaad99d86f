/*
 * The WAL parser: how the bytes are cut must not matter, valid_end never moves back nor beyond what
 * was fed, and what is called valid is found intact when it is all there is.
 *
 * No input that was changed has the right checksums, so every input also runs with them corrected
 * record by record: that is how the fuzzer gets to see what is behind the first record. An input is
 * WAL from a page boundary on; where it is from and the segment size are in its first page header.
 */
#include <stdlib.h>
#include <string.h>

#include "common/crc32c.h"
#include "fuzz/fuzz.h"
#include "pgformat/walfile.h"
#include "pgformat/walrecord.h"
#include "support/wal_builder.h"

#define MAX_CORRECTIONS 64

typedef struct Outcome {
    WalVerdict verdict;
    WalDamage damage;
    Lsn valid_end;
    Lsn position;
} Outcome;

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
    return (*seed >> 24) % 3 == 0 ? 1 + (*seed >> 16) % 9 : 1 + (*seed >> 16) % 5000;
}

/* Feed in pieces of random sizes, or whole when `seed` is NULL. */
static Outcome
run(const WalParserConfig *config, Span bytes, uint32_t *seed)
{
    Outcome outcome = {.verdict = WAL_INTACT};
    Error err = ERROR_INIT;
    WalParser *parser = wal_parser_new(config, &err);
    Lsn begin;

    must(parser != NULL);
    begin = wal_parser_position(parser);
    for (size_t at = 0; at < bytes.len && outcome.verdict == WAL_INTACT;) {
        Lsn before = wal_parser_valid_end(parser);
        size_t piece = seed == NULL ? bytes.len : next_piece(seed);

        if (piece > bytes.len - at)
            piece = bytes.len - at;
        outcome.verdict = wal_parser_feed(parser, (Span){bytes.data + at, piece}, &outcome.damage);
        at += piece;
        outcome.valid_end = wal_parser_valid_end(parser);
        outcome.position = wal_parser_position(parser);
        must(outcome.valid_end >= before);
        must(outcome.valid_end == config->start || outcome.valid_end <= outcome.position);
        must(outcome.position - begin <= at);
        must(outcome.verdict == WAL_DAMAGED || outcome.position - begin == at);
    }
    wal_parser_free(parser);
    return outcome;
}

static Outcome
check(const WalParserConfig *config, Span bytes)
{
    uint32_t seed = crc32c(0, bytes.data, bytes.len);
    Outcome whole = run(config, bytes, NULL);
    Outcome pieces = run(config, bytes, &seed);

    must(whole.verdict == pieces.verdict);
    must(whole.valid_end == pieces.valid_end);
    must(whole.position == pieces.position);
    if (whole.verdict == WAL_DAMAGED) {
        must(whole.damage.lsn == pieces.damage.lsn);
        must(strcmp(whole.damage.reason, pieces.damage.reason) == 0);
        must(whole.damage.reason[0] != '\0');
    }
    if (whole.valid_end > config->start) {
        Lsn begin = config->start - config->start % WAL_BUILDER_PAGE;
        Span valid = {bytes.data, (size_t)(whole.valid_end - begin)};
        Outcome again = run(config, valid, NULL);

        must(again.verdict == WAL_INTACT && again.valid_end == whole.valid_end);
    }
    return whole;
}

/* Check, then again with each wrong checksum corrected that is in the way. */
static void
check_corrected(const WalParserConfig *config, Span input)
{
    WalBuilder wal = {.config = {.segment_size = config->segment_size}};
    Error err = ERROR_INIT;

    must(buf_append(&wal.bytes, input.data, input.len, &err));
    wal.begin = config->start - config->start % WAL_BUILDER_PAGE;
    wal.end = wal.begin + input.len;
    for (int i = 0; i < MAX_CORRECTIONS; i++) {
        Outcome outcome = check(config, (Span){wal.bytes.data, wal.bytes.len});

        if (outcome.verdict == WAL_INTACT ||
            strncmp(outcome.damage.reason, "record checksum", 15) != 0)
            break;
        wal_builder_seal(&wal, outcome.damage.lsn);
    }
    wal_builder_free(&wal);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    WalParserConfig config = {.segment_size = 1024 * 1024};
    Span input = {data, size};
    uint32_t offset = crc32c(0, data, size) % WAL_BUILDER_PAGE;

    if (size >= 16)
        config.start = get_le64(data + 8) / WAL_BUILDER_PAGE * WAL_BUILDER_PAGE;
    if (size >= 40 && (data[2] & 2) != 0 && wal_segment_size_valid(get_le32(data + 32)))
        config.segment_size = get_le32(data + 32);
    /* Nothing that is called valid wraps around, but the arithmetic of this check would. */
    if (config.start > UINT64_MAX - size - WAL_BUILDER_PAGE)
        config.start = 0;
    check_corrected(&config, input);
    config.start += offset;
    check_corrected(&config, input);
    return 0;
}
