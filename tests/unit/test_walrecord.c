/*
 * The WAL parser: heads of real segments of every server, and built WAL, whole and damaged. What it
 * finds must not depend on the pieces in which the bytes come.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "pgformat/walrecord.h"
#include "support/wal_builder.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

#define SEGMENT   ((uint32_t)1024 * 1024)
#define PAGE      WAL_BUILDER_PAGE
#define START     ((Lsn)0x5000000)
#define SYSTEM_ID 7710238945929971264u

/* Places in a page header and in a record header. */
#define AT_MAGIC        0
#define AT_FLAGS        2
#define AT_TIMELINE     4
#define AT_ADDRESS      8
#define AT_REST         16
#define AT_SYSTEM_ID    24
#define AT_SEGMENT_SIZE 32
#define AT_PAGE_SIZE    36
#define AT_LENGTH       0
#define AT_LINK         8
#define AT_INFO         16
#define AT_RMGR         17
#define AT_CRC          20

static const uint16_t magics[] = {0xD097, 0xD098, 0xD101, 0xD106, 0xD10D,
                                  0xD110, 0xD113, 0xD116, 0xD118};

static void
put_le(uint8_t *at, uint64_t value, size_t size)
{
    for (size_t i = 0; i < size; i++)
        at[i] = (uint8_t)(value >> 8 * i);
}

/* ---- running the parser ---- */

typedef struct Outcome {
    WalVerdict verdict;
    WalDamage damage;
    Lsn valid_end;
    Lsn position;
} Outcome;

static const WalParserConfig any = {.start = START, .segment_size = SEGMENT};

/* Each piece in a block of exactly its size: a sanitizer sees what is read beyond it or kept. */
static WalVerdict
feed_exact(WalParser *parser, Span piece, WalDamage *ret_damage)
{
    uint8_t *copy = malloc(piece.len);
    WalVerdict verdict;

    assert_non_null(copy);
    memcpy(copy, piece.data, piece.len);
    verdict = wal_parser_feed(parser, (Span){copy, piece.len}, ret_damage);
    free(copy);
    return verdict;
}

/* Feed `bytes` in pieces of `piece` bytes and see that valid_end moves as promised. */
static Outcome
run(const WalParserConfig *config, Span bytes, size_t piece)
{
    Outcome outcome = {.verdict = WAL_INTACT};
    Error err = ERROR_INIT;
    WalParser *parser = wal_parser_new(config, &err);
    Lsn begin;

    assert_non_null(parser);
    begin = wal_parser_position(parser);
    assert_int_equal(begin, config->start / PAGE * PAGE);
    assert_int_equal(wal_parser_valid_end(parser), config->start);
    for (size_t at = 0; at < bytes.len && outcome.verdict == WAL_INTACT;) {
        size_t len = bytes.len - at < piece ? bytes.len - at : piece;
        Lsn before = wal_parser_valid_end(parser);
        Lsn after;

        outcome.verdict = feed_exact(parser, (Span){bytes.data + at, len}, &outcome.damage);
        at += len;
        after = wal_parser_valid_end(parser);
        assert_true(after >= before);
        assert_true(after == config->start || after <= wal_parser_position(parser));
        if (outcome.verdict == WAL_INTACT)
            assert_int_equal(wal_parser_position(parser), begin + at);
        else
            assert_true(wal_parser_position(parser) <= begin + at);
    }
    outcome.valid_end = wal_parser_valid_end(parser);
    outcome.position = wal_parser_position(parser);
    wal_parser_free(parser);
    return outcome;
}

/* In one piece, and the same in many others. */
static Outcome
run_all_pieces(const WalParserConfig *config, Span bytes)
{
    static const size_t pieces[] = {1, 2, 7, 8, 23, 24, 25, 40, 41, 1000, PAGE - 1, PAGE, PAGE + 1};
    Outcome whole = run(config, bytes, SIZE_MAX);

    for (size_t i = 0; i < COUNT(pieces); i++) {
        Outcome outcome = run(config, bytes, pieces[i]);

        assert_int_equal(outcome.verdict, whole.verdict);
        assert_int_equal(outcome.valid_end, whole.valid_end);
        assert_int_equal(outcome.position, whole.position);
        assert_int_equal(outcome.damage.lsn, whole.damage.lsn);
        assert_string_equal(outcome.damage.reason, whole.damage.reason);
    }
    return whole;
}

static Span
all_of(const WalBuilder *wal)
{
    return wal_builder_span(wal, wal->begin, wal->end);
}

static void
assert_intact(const WalBuilder *wal, const WalParserConfig *config, Lsn valid_end)
{
    Outcome outcome = run_all_pieces(config, all_of(wal));

    if (outcome.verdict != WAL_INTACT)
        fail_msg(LSN_FORMAT ": %s", LSN_ARGS(outcome.damage.lsn), outcome.damage.reason);
    if (outcome.valid_end != valid_end)
        fail_msg("valid end is " LSN_FORMAT ", expected " LSN_FORMAT, LSN_ARGS(outcome.valid_end),
                 LSN_ARGS(valid_end));
}

static void
assert_damaged(const WalBuilder *wal, const WalParserConfig *config, Lsn valid_end, Lsn lsn,
               const char *reason)
{
    Outcome outcome = run_all_pieces(config, all_of(wal));

    assert_int_equal(outcome.verdict, WAL_DAMAGED);
    assert_string_equal(outcome.damage.reason, reason);
    if (outcome.damage.lsn != lsn)
        fail_msg("damage at " LSN_FORMAT ", expected " LSN_FORMAT, LSN_ARGS(outcome.damage.lsn),
                 LSN_ARGS(lsn));
    if (outcome.valid_end != valid_end)
        fail_msg("valid end is " LSN_FORMAT ", expected " LSN_FORMAT, LSN_ARGS(outcome.valid_end),
                 LSN_ARGS(valid_end));
}

static void
build_with(WalBuilder *wal, uint16_t magic, Lsn start)
{
    wal_builder_init(wal, &(WalBuilderConfig){.magic = magic,
                                              .timeline = 1,
                                              .system_id = SYSTEM_ID,
                                              .segment_size = SEGMENT,
                                              .start = start});
}

static void
build(WalBuilder *wal, Lsn start)
{
    build_with(wal, 0xD118, start);
}

/* ---- what servers write ---- */

/* A segment behind a switch, up to the end of the checkpoint record of that moment. */
static const struct {
    int major;
    Lsn start;
    uint32_t segment_size;
    TimeLineID timeline;
    uint64_t system_id;
    int records;
    const char *hex;
} samples[] = {
    {10, 0x9000000, 16777216, 2, 7710238870352072901u, 2,
     "97d006000200000000000009000000000000000000000000c590bee86645006b00000001002000003200"
     "000000000000f896720800000000100800008642bf84ff180000000000000000009639fa370200003702"
     "0000360200000000000000006a00000000000000280000090000000010000000151d049cff5028000009"
     "0000000002000000020000000100000000000000370200001d6000000100000000000000240200000100"
     "000001000000010000004646006b0000000000000000000000003702000000000000000000000000"},
    {11, 0x5a00000, 1048576, 1, 7710238882708648382u, 2,
     "98d00600010000000000a005000000000000000000000000bef140c96945006b00001000002000003200"
     "000000000000086f99050000000010080000073d7715ff18000000000000000000cccfb8400200004002"
     "00003f0200000000000000006a000000000000002800a00500000000100000001723c078ff502800a005"
     "000000000100000001000000010000000000000040020000174000000100000000000000310200000100"
     "000001000000010000004746006b0000000000000000000000004002000000000000000000000000"},
    {12, 0x6400000, 1048576, 2, 7710238895806632570u, 2,
     "01d1060002000000000040060000000000000000000000007a52f4d56c45006b00001000002000003200"
     "00000000000058823f0600000000100800000d9657e0ff180000000000000000005d1bfff0010000f001"
     "0000ef0100000000000000007200000000000000280040060000000010000000bdbdd21fff5828004006"
     "0000000002000000020000000100000000000000f0010000000000001a4000000100000000000000df01"
     "0000010000000100000001000000000000004746006b000000000000000000000000f001000000000000"
     "000000000000"},
    {13, 0x5a00000, 1048576, 1, 7710238903753978649u, 2,
     "06d10600010000000000a0050000000000000000000000001933a7af6e45006b00001000002000003200"
     "00000000000068e793050000000010080000c4f158cdff180000000000000000000ff3aeef010000ef01"
     "0000ee01000000000000000072000000000000002800a005000000001000000095139971ff582800a005"
     "0000000001000000010000000100000000000000ef010000000000001a6000000100000000000000de01"
     "0000010000000100000001000000000000004746006b000000000000000000000000ef01000000000000"
     "000000000000"},
    {14, 0x5f00000, 1048576, 1, 7710238912176624559u, 2,
     "0dd10600010000000000f005000000000000000000000000af93aea57045006b00001000002000003200"
     "000000000000d81ceb050000000010080000710dd6a3ff180000000000000000006ad539e5020000e502"
     "0000e402000000000000000072000000000000002800f0050000000010000000fbcf57cdff582800f005"
     "0000000001000000010000000100000000000000e502000000000000154000000100000000000000d602"
     "0000010000000100000001000000000000004846006b000000000000000000000000e502000000000000"
     "000000000000"},
    {15, 0x6000000, 1048576, 2, 7710238923541075049u, 2,
     "10d10600020000000000000600000000000000000000000069540e4b7345006b00001000002000003200"
     "000000000000c082f8050000000010080000f5835a0bff180000000000000000003c979be0020000e002"
     "0000df02000000000000000072000000000000002800000600000000100000007be7696fff5828000006"
     "0000000002000000020000000100000000000000e0020000000000001b6000000100000000000000cc02"
     "0000010000000100000001000000000000004846006b000000000000000000000000e002000000000000"
     "000000000000"},
    {16, 0x5d00000, 1048576, 1, 7710238930264282362u, 2,
     "13d10600010000000000d005000000000000000000000000fa54cadb7445006b00001000002000003200"
     "000000000000883ccf050000000010080000b32a4656ff180000000000000000003899cfe2020000e202"
     "0000e102000000000000000072000000000000002800d005000000001000000087353dc8ff582800d005"
     "0000000001000000010000000100000000000000e202000000000000154000000100000000000000d202"
     "0000010000000100000001000000000000004846006b000000000000000000000000e202000000000000"
     "000000000000"},
    {17, 0x5800000, 1048576, 1, 7710238938532697534u, 3,
     "16d106000100000000008005000000000000000000000000be55a0c87645006b00001000002000001e00"
     "00000000000068d2770500000000e0000000be13624eff04010000000000320000000000000028008005"
     "0000000010080000dff5b2a2ff18000000000000000000391b9aea020000ea020000e902000000000000"
     "00007200000000000000480080050000000010000000c932ff88ff582800800500000000010000000100"
     "00000100000001000000ea02000000000000154000000100000000000000da0200000100000001000000"
     "01000000000000004946006b000000000000000000000000ea02000000000000000000000000"},
    {18, 0x6400000, 1048576, 2, 7710238945929971264u, 3,
     "18d10600020000000000400600000000000000000000000040c689817845006b00001000002000001e00"
     "00000000000008e5380600000000e00000001785470dff04010000000000320000000000000028004006"
     "000000001008000057c4cbebff18000000000000000000839d13fc020000fc020000fb02000000000000"
     "00007200000000000000480040060000000010000000658e2f20ff582800400600000000020000000200"
     "00000100000001000000fc020000000000001b6000000100000000000000e80200000100000001000000"
     "01000000000000004946006b000000000000000000000000fc02000000000000000000000000"},
};

static int
count_records(const WalParserConfig *config, Span bytes)
{
    Error err = ERROR_INIT;
    WalParser *parser = wal_parser_new(config, &err);
    WalDamage damage;
    int records = 0;

    assert_non_null(parser);
    for (size_t at = 0; at < bytes.len; at += 8) {
        Lsn before = wal_parser_valid_end(parser);

        assert_int_equal(wal_parser_feed(parser, (Span){bytes.data + at, 8}, &damage), WAL_INTACT);
        records += wal_parser_valid_end(parser) != before;
    }
    wal_parser_free(parser);
    return records;
}

static void
test_real_segments(void **state)
{
    (void)state;
    assert_int_equal(COUNT(samples), COUNT(magics));
    for (size_t i = 0; i < COUNT(samples); i++) {
        size_t len = strlen(samples[i].hex) / 2;
        WalParserConfig config = {.start = samples[i].start,
                                  .segment_size = samples[i].segment_size,
                                  .timeline = samples[i].timeline,
                                  .system_id = samples[i].system_id};
        uint8_t bytes[512] = {0};
        Outcome outcome;

        assert_true(hex_parse(samples[i].hex, 2 * len, bytes, len));
        outcome = run_all_pieces(&config, (Span){bytes, len});
        assert_int_equal(outcome.verdict, WAL_INTACT);
        assert_int_equal(outcome.valid_end, config.start + len);
        assert_int_equal(count_records(&config, (Span){bytes, len}), samples[i].records);

        outcome = run_all_pieces(&config, (Span){bytes, sizeof bytes});
        assert_int_equal(outcome.verdict, WAL_DAMAGED);
        assert_string_equal(outcome.damage.reason, "no record");
        assert_int_equal(outcome.damage.lsn, config.start + len);
        assert_int_equal(outcome.valid_end, config.start + len);

        bytes[len - 20] ^= 1;
        outcome = run_all_pieces(&config, (Span){bytes, len});
        assert_int_equal(outcome.verdict, WAL_DAMAGED);
        assert_true(outcome.valid_end < config.start + len);
    }
}

/* ---- the header of a segment's first page ---- */

static void
test_long_header_of_real_segments(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(samples); i++) {
        uint8_t bytes[WAL_LONG_HEADER];
        WalLongHeader header = {0};

        assert_true(hex_parse(samples[i].hex, 2 * sizeof bytes, bytes, sizeof bytes));
        assert_true(wal_long_header_parse((Span){bytes, sizeof bytes}, &header));
        assert_int_equal(header.address, samples[i].start);
        assert_int_equal(header.system_id, samples[i].system_id);
        assert_int_equal(header.segment_size, samples[i].segment_size);
        assert_int_equal(header.page_size, PAGE);
    }
}

/* What it says is not checked: nor are the other bytes of the header. */
static void
test_long_header_is_taken_as_it_stands(void **state)
{
    uint8_t page[WAL_LONG_HEADER + 8];
    WalLongHeader header = {0};

    (void)state;
    memset(page, 0xEE, sizeof page);
    put_le(page + AT_FLAGS, 0x0002, 2);
    put_le(page + AT_ADDRESS, 0x1122334455667788, 8);
    put_le(page + AT_SYSTEM_ID, 0x99AABBCCDDEEFF00, 8);
    put_le(page + AT_SEGMENT_SIZE, 0x01234567, 4);
    put_le(page + AT_PAGE_SIZE, 0x89ABCDEF, 4);
    for (size_t len = WAL_LONG_HEADER; len <= sizeof page; len += 4) {
        header = (WalLongHeader){0};
        assert_true(wal_long_header_parse((Span){page, len}, &header));
        assert_int_equal(header.address, 0x1122334455667788);
        assert_int_equal(header.system_id, 0x99AABBCCDDEEFF00);
        assert_int_equal(header.segment_size, 0x01234567);
        assert_int_equal(header.page_size, 0x89ABCDEF);
    }
}

/* Each length in a block of its own: a sanitizer sees what is read beyond it. */
static void
test_no_long_header(void **state)
{
    WalLongHeader header = {.address = 1, .system_id = 2, .segment_size = 3, .page_size = 4};
    uint8_t page[WAL_LONG_HEADER];

    (void)state;
    memset(page, 0xFF, sizeof page);
    assert_false(wal_long_header_parse((Span){NULL, 0}, &header));
    for (size_t len = 1; len < sizeof page; len++) {
        uint8_t *copy = malloc(len);

        assert_non_null(copy);
        memcpy(copy, page, len);
        assert_false(wal_long_header_parse((Span){copy, len}, &header));
        free(copy);
    }
    for (uint32_t flags = 0; flags <= UINT16_MAX; flags++) {
        WalLongHeader ignored;
        bool is_long = (flags & 0x0002) != 0;

        put_le(page + AT_FLAGS, flags, 2);
        assert_int_equal(
            wal_long_header_parse((Span){page, sizeof page}, is_long ? &ignored : &header),
            is_long);
    }
    assert_int_equal(header.address, 1);
    assert_int_equal(header.system_id, 2);
    assert_int_equal(header.segment_size, 3);
    assert_int_equal(header.page_size, 4);
}

/* ---- intact WAL ---- */

static void
test_one_page(void **state)
{
    WalBuilder wal;

    (void)state;
    build(&wal, START);
    assert_int_equal(wal_builder_record(&wal, 10, 0, 24), START + 40);
    assert_int_equal(wal_builder_record(&wal, 21, 0xFF, 25), START + 64);
    assert_int_equal(wal_builder_record(&wal, 0, WAL_NOOP, 500), START + 96);
    assert_int_equal(wal.end, START + 96 + 504);
    assert_intact(&wal, &any, wal.end);
    wal_builder_free(&wal);
}

/* valid_end follows the records, each as soon as its last byte of padding has come. */
static void
test_valid_end_of_each_record(void **state)
{
    static const uint32_t lengths[] = {24, 30, 8000, 100, 31, 20000, 47, 26, 8168, 60};
    Lsn ends[COUNT(lengths)];
    size_t passed = 0;
    WalBuilder wal;
    WalParser *parser;
    WalDamage damage;
    Error err = ERROR_INIT;

    (void)state;
    build(&wal, START);
    for (size_t i = 0; i < COUNT(lengths); i++) {
        (void)wal_builder_record(&wal, 10, 0, lengths[i]);
        ends[i] = wal.end;
    }
    parser = wal_parser_new(&any, &err);
    assert_non_null(parser);
    for (Lsn lsn = START; lsn < wal.end; lsn++) {
        assert_int_equal(wal_parser_position(parser), lsn);
        assert_int_equal(wal_parser_feed(parser, wal_builder_span(&wal, lsn, lsn + 1), &damage),
                         WAL_INTACT);
        if (lsn + 1 == ends[passed])
            passed++;
        assert_int_equal(wal_parser_valid_end(parser), passed == 0 ? START : ends[passed - 1]);
    }
    assert_int_equal(passed, COUNT(lengths));
    wal_parser_free(parser);
    wal_builder_free(&wal);
}

static void
test_every_magic(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(magics); i++) {
        WalBuilder wal;

        build_with(&wal, magics[i], START + SEGMENT - 2 * PAGE);
        (void)wal_builder_record(&wal, 10, 0, 3 * PAGE);
        assert_intact(&wal,
                      &(WalParserConfig){.start = START + SEGMENT - 2 * PAGE,
                                         .segment_size = SEGMENT,
                                         .timeline = 1,
                                         .system_id = SYSTEM_ID},
                      wal.end);
        wal_builder_free(&wal);
    }
}

/* Records over page and segment ends, with every possible place of the header at the cut. */
static void
test_cut_at_pages(void **state)
{
    (void)state;
    for (uint32_t room = 8; room <= 64; room += 8) {
        for (uint32_t length = 24; length < 60; length++) {
            Lsn start = START + SEGMENT - 2 * PAGE;
            WalParserConfig config = {.start = start, .segment_size = SEGMENT};
            Outcome outcome;
            WalBuilder wal;

            build(&wal, start);
            (void)wal_builder_record_until(&wal, start + PAGE - room);
            (void)wal_builder_record(&wal, 10, 0, length);
            (void)wal_builder_record_until(&wal, start + 2 * PAGE - room);
            (void)wal_builder_record(&wal, 10, 0, length);
            (void)wal_builder_record(&wal, 10, 0, length);
            for (size_t piece = 1; piece < 50; piece += 3) {
                outcome = run(&config, all_of(&wal), piece);
                assert_int_equal(outcome.verdict, WAL_INTACT);
                assert_int_equal(outcome.valid_end, wal.end);
            }
            wal_builder_free(&wal);
        }
    }
}

static void
test_record_that_ends_with_its_page(void **state)
{
    WalBuilder wal;
    Lsn last;

    (void)state;
    build(&wal, START);
    (void)wal_builder_record_until(&wal, START + PAGE);
    assert_int_equal(wal.end, START + PAGE);
    assert_intact(&wal, &any, START + PAGE);
    (void)wal_builder_record_until(&wal, START + SEGMENT);
    assert_intact(&wal, &any, START + SEGMENT);
    last = wal_builder_record(&wal, 10, 0, 24);
    assert_int_equal(last, START + SEGMENT + 40);
    assert_intact(&wal, &any, wal.end);
    wal_builder_free(&wal);
}

static void
test_record_over_several_segments(void **state)
{
    WalParserConfig config = {.start = START, .segment_size = SEGMENT, .system_id = SYSTEM_ID};
    Outcome outcome;
    WalBuilder wal;

    (void)state;
    build(&wal, START);
    (void)wal_builder_record(&wal, 10, 0, 100);
    (void)wal_builder_record(&wal, 10, 0, 3 * SEGMENT + 12345);
    (void)wal_builder_record(&wal, 10, 0, 100);
    outcome = run(&config, all_of(&wal), SIZE_MAX);
    assert_int_equal(outcome.verdict, WAL_INTACT);
    assert_int_equal(outcome.valid_end, wal.end);
    outcome = run(&config, all_of(&wal), 131071);
    assert_int_equal(outcome.verdict, WAL_INTACT);
    assert_int_equal(outcome.valid_end, wal.end);
    wal_builder_free(&wal);
}

static void
test_segment_sizes(void **state)
{
    (void)state;
    for (uint32_t size = SEGMENT; size <= SEGMENT << 10; size <<= 1) {
        Lsn start = (Lsn)8 * size - PAGE;
        WalBuilder wal;

        wal_builder_init(&wal, &(WalBuilderConfig){.magic = 0xD110,
                                                   .timeline = 3,
                                                   .system_id = 1,
                                                   .segment_size = size,
                                                   .start = start});
        (void)wal_builder_record(&wal, 10, 0, PAGE + 100);
        assert_intact(&wal, &(WalParserConfig){.start = start, .segment_size = size, .timeline = 3},
                      wal.end);
        wal_builder_free(&wal);
    }
}

/* ---- switches ---- */

static void
test_switch(void **state)
{
    Lsn next = START + SEGMENT;
    Lsn switch_end;
    WalBuilder wal;
    Outcome outcome;

    (void)state;
    build(&wal, START);
    (void)wal_builder_record(&wal, 10, 0, 1000);
    switch_end = wal_builder_switch(&wal) + 24;
    assert_int_equal(wal.end, next);
    (void)wal_builder_record(&wal, 10, 0, 1000);
    assert_intact(&wal, &any, wal.end);

    /* The rest of the segment is whatever it is. */
    memset(wal_builder_at(&wal, switch_end), 0xA5, next - switch_end);
    assert_intact(&wal, &any, wal.end);

    /* valid_end reaches the next segment when the rest has passed. */
    outcome = run(&any, wal_builder_span(&wal, START, switch_end), SIZE_MAX);
    assert_int_equal(outcome.valid_end, switch_end);
    outcome = run(&any, wal_builder_span(&wal, START, next - 1), SIZE_MAX);
    assert_int_equal(outcome.valid_end, switch_end);
    outcome = run(&any, wal_builder_span(&wal, START, next), SIZE_MAX);
    assert_int_equal(outcome.valid_end, next);

    /* Low bits of the info byte are flags. */
    *wal_builder_at(&wal, switch_end - 24 + AT_INFO) |= 0x01;
    wal_builder_seal(&wal, switch_end - 24);
    assert_intact(&wal, &any, wal.end);
    wal_builder_free(&wal);
}

static void
test_switch_at_the_end_of_its_segment(void **state)
{
    Lsn next = START + SEGMENT;
    WalBuilder wal;

    (void)state;
    build(&wal, START);
    (void)wal_builder_record_until(&wal, next - 24);
    assert_int_equal(wal_builder_switch(&wal), next - 24);
    assert_intact(&wal, &any, next);
    (void)wal_builder_record(&wal, 10, 0, 1000);
    (void)wal_builder_switch(&wal);
    assert_int_equal(wal.end, next + SEGMENT);
    (void)wal_builder_record(&wal, 10, 0, 100);
    assert_intact(&wal, &any, wal.end);
    wal_builder_free(&wal);

    /* With its header cut at a page, and as the first and only record of a segment. */
    build(&wal, START);
    (void)wal_builder_record_until(&wal, START + PAGE - 8);
    (void)wal_builder_switch(&wal);
    assert_int_equal(wal_builder_switch(&wal), next + 40);
    (void)wal_builder_record(&wal, 10, 0, 100);
    assert_intact(&wal, &any, wal.end);
    wal_builder_free(&wal);
}

/* ---- where to start ---- */

static void
assert_starts(const WalBuilder *wal, Lsn start)
{
    WalParserConfig config = {.start = start, .segment_size = SEGMENT, .timeline = 1};
    Outcome outcome = run_all_pieces(&config, wal_builder_span(wal, start / PAGE * PAGE, wal->end));

    if (outcome.verdict != WAL_INTACT || outcome.valid_end != wal->end)
        fail_msg("from " LSN_FORMAT ": %s at " LSN_FORMAT ", valid end " LSN_FORMAT,
                 LSN_ARGS(start), outcome.damage.reason, LSN_ARGS(outcome.damage.lsn),
                 LSN_ARGS(outcome.valid_end));
}

static void
test_start_at_a_record(void **state)
{
    WalBuilder wal;
    Lsn third;

    (void)state;
    build(&wal, START);
    (void)wal_builder_record(&wal, 10, 0, 100);
    (void)wal_builder_record(&wal, 10, 0, 200);
    third = wal_builder_record(&wal, 10, 0, PAGE);
    (void)wal_builder_record(&wal, 10, 0, 300);
    assert_starts(&wal, third);
    assert_starts(&wal, third - 1); /* in the padding before it */
    assert_starts(&wal, third - 7);

    /* What is before the start does not matter, the page's header apart. */
    memset(wal_builder_at(&wal, START + 40), 0xFF, third - START - 40);
    assert_starts(&wal, third);
    *wal_builder_at(&wal, START + AT_ADDRESS + 3) ^= 1;
    assert_int_equal(
        run(&(WalParserConfig){.start = third, .segment_size = SEGMENT}, all_of(&wal), SIZE_MAX)
            .verdict,
        WAL_DAMAGED);
    wal_builder_free(&wal);
}

static void
test_start_in_a_page_header(void **state)
{
    WalBuilder wal;

    (void)state;
    build(&wal, START);
    (void)wal_builder_record_until(&wal, START + PAGE);
    (void)wal_builder_record_until(&wal, START + 2 * PAGE);
    for (Lsn offset = 0; offset <= 40; offset++)
        assert_starts(&wal, START + offset);
    for (Lsn offset = 0; offset <= 24; offset++)
        assert_starts(&wal, START + PAGE + offset);
    for (Lsn before = 1; before < 8; before++)
        assert_starts(&wal, START + PAGE - before); /* rounded up to the page's end */
    wal_builder_free(&wal);
}

/* A record from before the start is passed over, on as many pages as it has. */
static void
test_start_in_a_tail(void **state)
{
    WalBuilder wal;
    Lsn record_end;

    (void)state;
    build(&wal, START + SEGMENT - 4 * PAGE);
    (void)wal_builder_record(&wal, 10, 0, 100);
    (void)wal_builder_record(&wal, 10, 0, 5 * PAGE + 777);
    record_end = wal.end;
    (void)wal_builder_record(&wal, 10, 0, 444);
    (void)wal_builder_record(&wal, 10, 0, 555);
    for (Lsn page = wal.begin + PAGE; page < record_end; page += PAGE) {
        assert_starts(&wal, page);
        assert_starts(&wal, page + 8);
        assert_starts(&wal, page + 24);
        assert_starts(&wal, page + 40);
        if (page + PAGE < record_end) {
            assert_starts(&wal, page + 4000);
            assert_starts(&wal, page + PAGE - 8);
            assert_starts(&wal, page + PAGE - 1);
        }
    }
    assert_starts(&wal, record_end - 8);
    assert_starts(&wal, record_end);
    assert_starts(&wal, record_end + 448);
    wal_builder_free(&wal);

    /* The tail ends with its page. */
    build(&wal, START);
    (void)wal_builder_record_until(&wal, START + 2 * PAGE);
    (void)wal_builder_record(&wal, 10, 0, 100);
    assert_starts(&wal, START + PAGE);
    wal_builder_free(&wal);
}

static void
test_damaged_tail(void **state)
{
    WalParserConfig config = {.start = START + PAGE, .segment_size = SEGMENT};
    WalBuilder wal;
    Outcome outcome;
    Span span;

    (void)state;
    build(&wal, START);
    (void)wal_builder_record(&wal, 10, 0, 3 * PAGE);
    span = wal_builder_span(&wal, START + PAGE, wal.end);

    /* Nobody checks its bytes, but each page must have what the one before left over. */
    *wal_builder_at(&wal, START + 2 * PAGE + 100) ^= 1;
    assert_int_equal(run_all_pieces(&config, span).verdict, WAL_INTACT);
    *wal_builder_at(&wal, START + 2 * PAGE + AT_REST) ^= 1;
    outcome = run_all_pieces(&config, span);
    assert_int_equal(outcome.verdict, WAL_DAMAGED);
    assert_int_equal(outcome.damage.lsn, START + 2 * PAGE);
    *wal_builder_at(&wal, START + 2 * PAGE + AT_REST) ^= 1;
    *wal_builder_at(&wal, START + 2 * PAGE + AT_FLAGS) = 0;
    outcome = run_all_pieces(&config, span);
    assert_int_equal(outcome.verdict, WAL_DAMAGED);
    assert_string_equal(outcome.damage.reason, "page does not continue the record before it");

    /* A continuation of nothing. */
    put_le(wal_builder_at(&wal, START + PAGE + AT_REST), 0, 4);
    outcome = run_all_pieces(&config, span);
    assert_int_equal(outcome.verdict, WAL_DAMAGED);
    assert_string_equal(outcome.damage.reason, "page continues a record that does not exist");
    wal_builder_free(&wal);
}

/* A start in the middle of a page is taken at its word; the first back link only has to lead back.
 */
static void
test_first_link(void **state)
{
    WalParserConfig config = {.start = START + 1000, .segment_size = SEGMENT};
    WalBuilder wal;
    Lsn lsn;

    (void)state;
    build(&wal, START + 1000);
    wal.previous = START - 12345;
    lsn = wal_builder_record(&wal, 10, 0, 100);
    assert_int_equal(lsn, START + 1000);
    (void)wal_builder_record(&wal, 10, 0, 100);
    assert_intact(&wal, &config, wal.end);

    put_le(wal_builder_at(&wal, lsn + AT_LINK), lsn - 8, 8);
    wal_builder_seal(&wal, lsn);
    assert_intact(&wal, &config, wal.end);
    put_le(wal_builder_at(&wal, lsn + AT_LINK), lsn, 8);
    wal_builder_seal(&wal, lsn);
    assert_damaged(&wal, &config, config.start, lsn,
                   "previous record link is 0/50003E8, not before the record");
    wal_builder_free(&wal);
}

/* ---- records that were broken off ---- */

static void
test_overwritten_record(void **state)
{
    (void)state;
    for (uint32_t pages = 1; pages <= 3; pages++) {
        for (uint32_t room = 8; room <= 2000; room += 328) {
            Lsn start = START + SEGMENT - 2 * PAGE;
            WalParserConfig config = {.start = start, .segment_size = SEGMENT, .timeline = 1};
            Lsn replacing;
            WalBuilder wal;

            build(&wal, start);
            (void)wal_builder_record_until(&wal, start + PAGE - room);
            replacing = wal_builder_overwrite(&wal, 5 * PAGE, pages);
            assert_int_equal(replacing, start + pages * PAGE + (pages == 2 ? 40 : 24));
            (void)wal_builder_record(&wal, 10, 0, 300);
            assert_intact(&wal, &config, wal.end);
            assert_starts(&wal, replacing);
            assert_starts(&wal, replacing / PAGE * PAGE);
            if (pages > 1)
                assert_starts(&wal, start + PAGE); /* from inside the lost record */
            wal_builder_free(&wal);
        }
    }
}

static void
test_overwritten_first_record(void **state)
{
    WalBuilder wal;

    (void)state;
    build(&wal, START);
    (void)wal_builder_overwrite(&wal, 2 * PAGE, 1);
    (void)wal_builder_record(&wal, 10, 0, 300);
    assert_intact(&wal, &any, wal.end);
    wal_builder_free(&wal);
}

static void
test_overwritten_wrongly(void **state)
{
    Lsn kept;
    Lsn kept_end;
    Lsn replacing;
    WalBuilder wal;

    (void)state;
    build(&wal, START);
    kept = wal_builder_record(&wal, 10, 0, 500);
    kept_end = wal.end;
    replacing = wal_builder_overwrite(&wal, 2 * PAGE, 1);
    (void)wal_builder_record(&wal, 10, 0, 300);

    /* Not the record that says so. */
    *wal_builder_at(&wal, replacing + AT_INFO) = WAL_NOOP;
    wal_builder_seal(&wal, replacing);
    assert_damaged(&wal, &any, kept_end, replacing,
                   "record does not replace the lost one before it");
    *wal_builder_at(&wal, replacing + AT_INFO) = WAL_OVERWRITE;
    *wal_builder_at(&wal, replacing + AT_RMGR) = 10;
    wal_builder_seal(&wal, replacing);
    assert_damaged(&wal, &any, kept_end, replacing,
                   "record does not replace the lost one before it");

    /* Linked to the lost record instead of the one before it. */
    *wal_builder_at(&wal, replacing + AT_RMGR) = 0;
    put_le(wal_builder_at(&wal, replacing + AT_LINK), kept_end, 8);
    wal_builder_seal(&wal, replacing);
    assert_damaged(&wal, &any, kept_end, replacing,
                   "previous record link is 0/5000220, expected 0/5000028");
    put_le(wal_builder_at(&wal, replacing + AT_LINK), kept, 8);
    wal_builder_seal(&wal, replacing);
    assert_intact(&wal, &any, wal.end);

    /* Both a continuation and a replacement. */
    *wal_builder_at(&wal, START + PAGE + AT_FLAGS) |= 1;
    assert_damaged(&wal, &any, kept_end, START + PAGE, "invalid page flags 0009");

    /* The record breaks off without a word. */
    *wal_builder_at(&wal, START + PAGE + AT_FLAGS) = 0;
    assert_damaged(&wal, &any, kept_end, START + PAGE,
                   "page does not continue the record before it");
    wal_builder_free(&wal);
}

/* ---- timelines and systems ---- */

static void
test_timelines(void **state)
{
    WalParserConfig config = any;
    WalBuilder wal;
    Lsn end_of_1;

    (void)state;
    build(&wal, START);
    (void)wal_builder_record(&wal, 10, 0, 8000);
    end_of_1 = wal.end;
    wal.config.timeline = 2;
    (void)wal_builder_record(&wal, 10, 0, 8000); /* begins on the old timeline's page */
    wal.config.timeline = 5;
    (void)wal_builder_record(&wal, 10, 0, 8000);
    config.timeline = 0;
    assert_intact(&wal, &config, wal.end);
    config.timeline = 5;
    assert_intact(&wal, &config, wal.end);
    config.timeline = 9;
    assert_intact(&wal, &config, wal.end);
    config.timeline = 1;
    assert_damaged(&wal, &config, end_of_1, START + PAGE, "timeline is 2, expected at most 1");
    config.timeline = 2;
    assert_damaged(&wal, &config, end_of_1 + 8000 + 24, START + 2 * PAGE,
                   "timeline is 5, expected at most 2");

    /* Never back, never 0. */
    config.timeline = 5;
    put_le(wal_builder_at(&wal, START + AT_TIMELINE), 3, 4);
    assert_damaged(&wal, &config, end_of_1, START + PAGE, "timeline is 2 after timeline 3");
    put_le(wal_builder_at(&wal, START + AT_TIMELINE), 0, 4);
    assert_damaged(&wal, &config, START, START, "timeline is 0 after timeline 0");
    wal_builder_free(&wal);
}

static void
test_system_id(void **state)
{
    WalParserConfig config = {.start = START, .segment_size = SEGMENT, .system_id = SYSTEM_ID};
    WalBuilder wal;
    Lsn end;

    (void)state;
    build(&wal, START);
    (void)wal_builder_record(&wal, 10, 0, 100);
    end = wal.end;
    (void)wal_builder_switch(&wal);
    wal.config.system_id = 17;
    (void)wal_builder_record(&wal, 10, 0, 100);
    assert_damaged(&wal, &config, START + SEGMENT, START + SEGMENT,
                   "system identifier is 17, expected 7710238945929971264");
    config.system_id = 0; /* the first segment's holds for the next ones */
    assert_damaged(&wal, &config, START + SEGMENT, START + SEGMENT,
                   "system identifier is 17, expected 7710238945929971264");
    config.system_id = UINT64_MAX;
    assert_damaged(&wal, &config, START, START,
                   "system identifier is 7710238945929971264, expected 18446744073709551615");
    assert_true(end < START + SEGMENT);
    wal_builder_free(&wal);

    /* From the middle of a segment it is the next one's. */
    build(&wal, START + SEGMENT - PAGE);
    config = (WalParserConfig){.start = START + SEGMENT - PAGE, .segment_size = SEGMENT};
    (void)wal_builder_record(&wal, 10, 0, PAGE);
    assert_intact(&wal, &config, wal.end);
    config.system_id = 1;
    assert_damaged(&wal, &config, config.start, START + SEGMENT,
                   "system identifier is 7710238945929971264, expected 1");
    wal_builder_free(&wal);
}

/* ---- damage ---- */

typedef struct Harm {
    Lsn page;  /* distance of the page from START */
    size_t at; /* in its header */
    size_t size;
    uint64_t value;
    const char *reason;
} Harm;

static void
test_damaged_page_headers(void **state)
{
    static const Harm harms[] = {
        {0, AT_MAGIC, 2, 0, "invalid magic number 0000"},
        {0, AT_MAGIC, 2, 0xD119, "invalid magic number D119"},
        {0, AT_MAGIC, 2, 0xD096, "invalid magic number D096"},
        {0, AT_MAGIC, 2, 0x18D1, "invalid magic number 18D1"},
        {0, AT_MAGIC, 2, 0xD116, NULL}, /* fine for itself; the next page disagrees */
        {PAGE, AT_MAGIC, 2, 0, "magic number is 0000, expected D118"},
        {PAGE, AT_MAGIC, 2, 0xD116, "magic number is D116, expected D118"},
        {PAGE, AT_FLAGS, 2, 0x0011, "invalid page flags 0011"},
        {PAGE, AT_FLAGS, 2, 0xFFFF, "invalid page flags FFFF"},
        {PAGE, AT_FLAGS, 2, 0x8001, "invalid page flags 8001"},
        {PAGE, AT_FLAGS, 2, 0x0000, "page does not continue the record before it"},
        {PAGE, AT_FLAGS, 2, 0x0003, "page header is long, expected the short one"},
        {0, AT_FLAGS, 2, 0x0000, "page header is short, expected the long one"},
        {0, AT_ADDRESS, 8, 0x4000000, "page address is 0/4000000"},
        {PAGE, AT_ADDRESS, 8, 0x5000000, "page address is 0/5000000"},
        {PAGE, AT_ADDRESS, 8, 0x105002000, "page address is 1/5002000"},
        {PAGE, AT_ADDRESS, 8, 0, "page address is 0/0"},
        {PAGE, AT_REST, 4, 0, "page continues a record with 0 bytes, expected 848"},
        {PAGE, AT_REST, 4, 847, "page continues a record with 847 bytes, expected 848"},
        {PAGE, AT_REST, 4, UINT32_MAX,
         "page continues a record with 4294967295 bytes, expected 848"},
        {2 * PAGE, AT_FLAGS, 2, 0x0001, "page continues a record that does not exist"},
        {0, AT_SEGMENT_SIZE, 4, 16777216, "segment size is 16777216, expected 1048576"},
        {0, AT_SEGMENT_SIZE, 4, 0, "segment size is 0, expected 1048576"},
        {0, AT_PAGE_SIZE, 4, 16384, "WAL block size is 16384, expected 8192"},
        {0, AT_SYSTEM_ID, 8, 1, "system identifier is 1, expected 7710238945929971264"},
    };
    WalParserConfig config = {.start = START, .segment_size = SEGMENT, .system_id = SYSTEM_ID};

    (void)state;
    for (size_t i = 0; i < COUNT(harms); i++) {
        Lsn page = START + harms[i].page;
        WalBuilder wal;
        Lsn first_end;

        build(&wal, START);
        (void)wal_builder_record(&wal, 10, 0, 8000);
        first_end = wal.end;
        (void)wal_builder_record(&wal, 10, 0, 1000);
        (void)wal_builder_record_until(&wal, START + 2 * PAGE);
        (void)wal_builder_record(&wal, 10, 0, 1000);
        put_le(wal_builder_at(&wal, page + harms[i].at), harms[i].value, harms[i].size);
        if (harms[i].reason == NULL)
            assert_damaged(&wal, &config, first_end, START + PAGE,
                           "magic number is D118, expected D116");
        else
            assert_damaged(&wal, &config,
                           harms[i].page == 0      ? START
                           : harms[i].page == PAGE ? first_end
                                                   : page,
                           page, harms[i].reason);
        wal_builder_free(&wal);
    }
}

static void
test_damaged_record_headers(void **state)
{
    static const struct {
        size_t at;
        size_t size;
        uint64_t value;
        const char *reason;
    } harms[] = {
        {AT_LENGTH, 4, 0, "no record"},
        {AT_LENGTH, 4, 1, "invalid record length 1"},
        {AT_LENGTH, 4, 23, "invalid record length 23"},
        {AT_LENGTH, 4, 1069547521, "invalid record length 1069547521"},
        {AT_LENGTH, 4, UINT32_MAX, "invalid record length 4294967295"},
        {AT_RMGR, 1, 22, "invalid resource manager 22"},
        {AT_RMGR, 1, 127, "invalid resource manager 127"},
        {AT_LINK, 8, 0, "previous record link is 0/0, expected 0/5000028"},
        {AT_LINK, 8, 0x5000030, "previous record link is 0/5000030, expected 0/5000028"},
        {AT_LINK, 8, 0x705000028, "previous record link is 7/5000028, expected 0/5000028"},
    };

    (void)state;
    for (size_t i = 0; i < COUNT(harms); i++) {
        for (uint32_t room = 8; room <= 200; room += 8) { /* with the header cut, too */
            WalBuilder wal;
            Lsn lsn;
            Lsn at;

            build(&wal, START);
            (void)wal_builder_record_until(&wal, START + PAGE - room);
            lsn = wal_builder_record(&wal, 10, 0, 1000);
            at = lsn + harms[i].at;
            if (at >= START + PAGE)
                at += 24;
            put_le(wal_builder_at(&wal, at), harms[i].value, harms[i].size);
            assert_damaged(&wal, &any, lsn, lsn, harms[i].reason);
            wal_builder_free(&wal);
        }
    }
}

static void
test_longest_record(void **state)
{
    WalBuilder wal;
    Lsn lsn;
    Outcome outcome;

    (void)state;
    build(&wal, START);
    lsn = wal_builder_record(&wal, 10, 0, 1000);
    put_le(wal_builder_at(&wal, lsn), (uint64_t)1020 * 1024 * 1024, 4);
    outcome = run(&any, all_of(&wal), SIZE_MAX);
    assert_int_equal(outcome.verdict, WAL_INTACT); /* so far */
    assert_int_equal(outcome.valid_end, START);
    wal_builder_free(&wal);
}

/* Extensions have their own resource managers since 15. */
static void
test_resource_managers(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(magics); i++) {
        for (unsigned rmgr = 0; rmgr <= 255; rmgr++) {
            bool fine = rmgr <= 21 || (rmgr >= 128 && magics[i] >= 0xD110);
            WalBuilder wal;

            build_with(&wal, magics[i], START);
            (void)wal_builder_record(&wal, (uint8_t)rmgr, 0, 100);
            assert_int_equal(run(&any, all_of(&wal), SIZE_MAX).verdict,
                             fine ? WAL_INTACT : WAL_DAMAGED);
            wal_builder_free(&wal);
        }
    }
}

static void
test_damaged_checksum(void **state)
{
    char reason[160];
    WalBuilder wal;
    uint32_t right;
    Lsn second;

    (void)state;
    build(&wal, START);
    (void)wal_builder_record(&wal, 10, 0, 100);
    second = wal_builder_record(&wal, 10, 0, 20000);
    (void)wal_builder_record(&wal, 10, 0, 100);
    right = get_le32(wal_builder_at(&wal, second + AT_CRC));
    put_le(wal_builder_at(&wal, second + AT_CRC), 0x5E6F7788, 4);
    (void)snprintf(reason, sizeof reason, "record checksum is %08X but its header says 5E6F7788",
                   right);
    assert_damaged(&wal, &any, second, second, reason);
    wal_builder_free(&wal);
}

/*
 * Bits that nobody answers for: padding behind records, and in page headers the padding, the hint
 * about removable images and the rest's length where there is none.
 */
static bool
unchecked(const WalBuilder *wal, const uint8_t *padding, Lsn lsn, unsigned bit)
{
    Lsn page = lsn / PAGE * PAGE;
    size_t at = (size_t)(lsn - page);
    bool continues = (*wal_builder_at(wal, page + AT_FLAGS) & 1) != 0;

    if (padding[lsn - wal->begin] != 0)
        return true;
    return (at >= 20 && at < 24) || (at == AT_FLAGS && bit == 2) ||
           (at >= AT_REST && at < 20 && !continues);
}

/* Everything else counts: a changed bit is found, and nothing behind it is called valid. */
static void
test_every_bit_counts(void **state)
{
    Lsn start = START + SEGMENT - PAGE;
    WalParserConfig config = {
        .start = start, .segment_size = SEGMENT, .timeline = 1, .system_id = SYSTEM_ID};
    uint8_t padding[3 * PAGE] = {0};
    WalBuilder wal;

    (void)state;
    build(&wal, start);
    for (uint32_t i = 0; wal.end < start + 2 * PAGE; i++) {
        uint32_t length = i % 40 == 39 ? 1500 : 24 + i % 61;

        (void)wal_builder_record(&wal, 10, 0, length);
        for (uint32_t pad = length; pad % 8 != 0; pad++)
            padding[wal.end - start - 1 - (pad - length)] = 1;
    }
    for (Lsn lsn = start; lsn < wal.end; lsn++) {
        for (unsigned bit = (unsigned)lsn % 3; bit < 8; bit += 3) {
            uint8_t *byte = wal_builder_at(&wal, lsn);
            bool silent = unchecked(&wal, padding, lsn, bit);
            Outcome outcome;

            *byte ^= (uint8_t)(1u << bit);
            outcome = run(&config, all_of(&wal), SIZE_MAX);
            *byte ^= (uint8_t)(1u << bit);
            if (silent != (outcome.verdict == WAL_INTACT))
                fail_msg("bit %u of " LSN_FORMAT ": %s", bit, LSN_ARGS(lsn),
                         silent ? outcome.damage.reason : "not noticed");
            assert_true(silent || outcome.valid_end <= lsn);
        }
    }
    wal_builder_free(&wal);
}

/* ---- ends ---- */

/* What stands behind the last record of a segment that was preallocated or is used again. */
static void
test_end_of_valid_wal(void **state)
{
    WalBuilder wal;
    Lsn end;

    (void)state;
    for (uint32_t room = 0; room <= 64; room += 8) {
        build(&wal, START);
        (void)wal_builder_record_until(&wal, START + PAGE - room);
        end = wal.end;
        wal_builder_zero(&wal, START + 3 * PAGE);
        if (room == 0)
            assert_damaged(&wal, &any, end, START + PAGE, "magic number is 0000, expected D118");
        else
            assert_damaged(&wal, &any, end, end, "no record");
        wal_builder_free(&wal);
    }

    /* In the middle of a record. */
    build(&wal, START);
    (void)wal_builder_record(&wal, 10, 0, 3 * PAGE);
    memset(wal_builder_at(&wal, START + PAGE), 0, PAGE);
    assert_damaged(&wal, &any, START, START + PAGE, "magic number is 0000, expected D118");
    wal_builder_free(&wal);

    /* An old segment under a new name: its pages say where they are from. */
    build(&wal, START);
    (void)wal_builder_record_until(&wal, START + PAGE);
    (void)wal_builder_record(&wal, 10, 0, 100);
    put_le(wal_builder_at(&wal, START + PAGE + AT_ADDRESS), 0x3002000, 8);
    assert_damaged(&wal, &any, START + PAGE, START + PAGE, "page address is 0/3002000");
    wal_builder_free(&wal);
}

static void
test_cut_short(void **state)
{
    WalBuilder wal;
    Lsn second;

    (void)state;
    build(&wal, START);
    (void)wal_builder_record(&wal, 10, 0, 100);
    second = wal_builder_record(&wal, 10, 0, PAGE);
    for (Lsn end = second; end < wal.end; end++) {
        Outcome outcome = run(&any, wal_builder_span(&wal, START, end), SIZE_MAX);

        assert_int_equal(outcome.verdict, WAL_INTACT);
        assert_int_equal(outcome.valid_end, second);
        assert_int_equal(outcome.position, end);
    }
    wal_builder_free(&wal);
}

static void
test_damage_is_final(void **state)
{
    Error err = ERROR_INIT;
    WalDamage damage = {0};
    WalDamage again = {0};
    WalParser *parser;
    WalBuilder wal;
    Lsn position;
    Lsn second;

    (void)state;
    build(&wal, START);
    (void)wal_builder_record(&wal, 10, 0, 100);
    second = wal_builder_record(&wal, 10, 0, 100);
    *wal_builder_at(&wal, second + 50) ^= 1;
    parser = wal_parser_new(&any, &err);
    assert_non_null(parser);
    assert_int_equal(wal_parser_feed(parser, (Span){NULL, 0}, &damage), WAL_INTACT);
    assert_int_equal(wal_parser_feed(parser, all_of(&wal), &damage), WAL_DAMAGED);
    position = wal_parser_position(parser);
    for (int i = 0; i < 3; i++) {
        memset(&again, 0, sizeof again);
        assert_int_equal(wal_parser_feed(parser, i == 0 ? (Span){NULL, 0} : all_of(&wal), &again),
                         WAL_DAMAGED);
        assert_int_equal(again.lsn, second);
        assert_string_equal(again.reason, damage.reason);
        assert_int_equal(wal_parser_position(parser), position);
        assert_int_equal(wal_parser_valid_end(parser), second);
    }
    wal_parser_free(parser);
    wal_builder_free(&wal);
}

/* LSNs do not wrap around, whatever a file claims. */
static void
test_end_of_lsns(void **state)
{
    Lsn last = (Lsn)0 - SEGMENT;
    WalParserConfig config = {.start = last - PAGE, .segment_size = SEGMENT};
    WalBuilder wal;

    (void)state;
    build(&wal, last - PAGE);
    (void)wal_builder_record(&wal, 10, 0, 100);
    (void)wal_builder_record_until(&wal, last);
    (void)wal_builder_record(&wal, 10, 0, 100);
    assert_damaged(&wal, &config, last, last, "page address is out of range");
    wal_builder_free(&wal);

    build(&wal, (Lsn)0 - PAGE);
    (void)wal_builder_record(&wal, 10, 0, 100);
    config.start = UINT64_MAX;
    assert_damaged(&wal, &config, UINT64_MAX, (Lsn)0 - PAGE, "page address is out of range");
    wal_builder_free(&wal);
}

static void
test_new_and_free(void **state)
{
    static const uint32_t bad[] = {0, 1, 8192, SEGMENT - 1, SEGMENT + 1, 3 * SEGMENT, 0x80000000u};

    (void)state;
    wal_parser_free(NULL);
    for (size_t i = 0; i < COUNT(bad); i++) {
        Error err = ERROR_INIT;
        WalParserConfig config = {.start = START, .segment_size = bad[i]};

        assert_null(wal_parser_new(&config, &err));
        assert_int_equal(err.code, ERR_BUG);
    }
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_real_segments),
        cmocka_unit_test(test_long_header_of_real_segments),
        cmocka_unit_test(test_long_header_is_taken_as_it_stands),
        cmocka_unit_test(test_no_long_header),
        cmocka_unit_test(test_one_page),
        cmocka_unit_test(test_valid_end_of_each_record),
        cmocka_unit_test(test_every_magic),
        cmocka_unit_test(test_cut_at_pages),
        cmocka_unit_test(test_record_that_ends_with_its_page),
        cmocka_unit_test(test_record_over_several_segments),
        cmocka_unit_test(test_segment_sizes),
        cmocka_unit_test(test_switch),
        cmocka_unit_test(test_switch_at_the_end_of_its_segment),
        cmocka_unit_test(test_start_at_a_record),
        cmocka_unit_test(test_start_in_a_page_header),
        cmocka_unit_test(test_start_in_a_tail),
        cmocka_unit_test(test_damaged_tail),
        cmocka_unit_test(test_first_link),
        cmocka_unit_test(test_overwritten_record),
        cmocka_unit_test(test_overwritten_first_record),
        cmocka_unit_test(test_overwritten_wrongly),
        cmocka_unit_test(test_timelines),
        cmocka_unit_test(test_system_id),
        cmocka_unit_test(test_damaged_page_headers),
        cmocka_unit_test(test_damaged_record_headers),
        cmocka_unit_test(test_longest_record),
        cmocka_unit_test(test_resource_managers),
        cmocka_unit_test(test_damaged_checksum),
        cmocka_unit_test(test_every_bit_counts),
        cmocka_unit_test(test_end_of_valid_wal),
        cmocka_unit_test(test_cut_short),
        cmocka_unit_test(test_damage_is_final),
        cmocka_unit_test(test_end_of_lsns),
        cmocka_unit_test(test_new_and_free),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
