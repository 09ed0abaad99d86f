/*
 * pg_control of every supported server: heads of real files, and what a damaged or foreign one
 * gives.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "common/crc32c.h"
#include "pgformat/control.h"

typedef struct Sample {
    int major;
    ControlData expected; /* as pg_control_system(), _init() and _checkpoint() showed it */
    const char *hex;      /* the file up to its CRC; the rest is zero */
} Sample;

static const Sample samples[] = {
    {10,
     {7710238870352072901u, 1002, 201707211, 6, 0x9000060, 0x9000028, 2, 8192, 131072, 8192,
      16777216, 1},
     "c590bee86645006bea030000cbce050c06000000000000004646006b000000006000000900000000f08b"
     "720800000000280000090000000002000000020000000100000000000000370200001d60000001000000"
     "00000000240200000100000001000000010000004646006b000000000000000000000000370200000000"
     "000001000000000000000000000000000000000000000000000000000000000000000000000000000000"
     "000000000100000000000000640000000800000000000000400000000000000008000000000000000000"
     "000087d63241002000000000020000200000000000014000000020000000cc0700000008000001010000"
     "01000000fecbebc05d4533f6a2cdd2647331d4b2582972920527ef06ddaad1c416d5922ed96c9c43"},
    {11,
     {7710238882708648382u, 1100, 201809051, 6, 0x5a00060, 0x5a00028, 1, 8192, 131072, 8192,
      1048576, 0},
     "bef140c96945006b4c0400009b5c070c06000000000000004746006b000000006000a005000000002800"
     "a00500000000010000000100000001000000000000004002000017400000010000000000000031020000"
     "0100000001000000010000004746006b0000000000000000000000004002000000000000010000000000"
     "000000000000000000000000000000000000000000000000000000000000000000000000000001000000"
     "00000000640000000800000000000000400000000000000008000000000000000000000087d632410020"
     "00000000020000200000000010004000000020000000cc0700000008000001010000000000007946cd2a"
     "cacbf78704999bb042d0115f40120dba04b3bbd6f9dea1f4970f64f469cecfff"},
    {12,
     {7710238895806632570u, 1201, 201909212, 6, 0x6400060, 0x6400028, 2, 8192, 131072, 8192,
      1048576, 1},
     "7a52f4d56c45006bb1040000dce3080c06000000000000004746006b0000000060004006000000002800"
     "40060000000002000000020000000100000000000000f0010000000000001a4000000100000000000000"
     "df010000010000000100000001000000000000004746006b000000000000000000000000f00100000000"
     "0000e8030000000000000000000000000000000000000000000000000000000000000000000000000000"
     "000000000100000000000000640000000800000003000000000000004000000000000000080000000000"
     "000087d63241002000000000020000200000000010004000000020000000cc0700000008000001010000"
     "01000000dde0aa0e62b886701d6c718186abf92cf344330dd9fc3e78f7904150fb9575a2f77a925b"},
    {13,
     {7710238903753978649u, 1300, 202007201, 6, 0x5a00060, 0x5a00028, 1, 8192, 131072, 8192,
      1048576, 0},
     "1933a7af6e45006b14050000a1620a0c06000000000000004746006b000000006000a005000000002800"
     "a0050000000001000000010000000100000000000000ef010000000000001a6000000100000000000000"
     "de010000010000000100000001000000000000004746006b000000000000000000000000ef0100000000"
     "0000e8030000000000000000000000000000000000000000000000000000000000000000000000000000"
     "000000000100000000000000640000000800000003000000000000004000000000000000080000000000"
     "000087d63241002000000000020000200000000010004000000020000000cc0700000008000001000000"
     "0000000045677c1e7cfb50df62927106af79803309a80eb6a6f1ce0519a98e2ed32a1e3b29670949"},
    {14,
     {7710238912176624559u, 1300, 202107181, 6, 0x5f00060, 0x5f00028, 1, 8192, 131072, 8192,
      1048576, 1},
     "af93aea57045006b140500002de90b0c06000000000000004846006b000000006000f005000000002800"
     "f0050000000001000000010000000100000000000000e502000000000000154000000100000000000000"
     "d6020000010000000100000001000000000000004846006b000000000000000000000000e50200000000"
     "0000e8030000000000000000000000000000000000000000000000000000000000000000000000000000"
     "000000000100000000000000640000000800000003000000000000004000000000000000080000000000"
     "000087d63241002000000000020000200000000010004000000020000000cc0700000008000001000000"
     "01000000d19d93b1398ba57e201c941885ef05a096a0a54dc4a9accd777b1e8b49b99d594576edf4"},
    {15,
     {7710238923541075049u, 1300, 202209061, 6, 0x6000060, 0x6000028, 2, 8192, 131072, 8192,
      1048576, 0},
     "69540e4b7345006b1405000025770d0c06000000000000004846006b0000000060000006000000002800"
     "00060000000002000000020000000100000000000000e0020000000000001b6000000100000000000000"
     "cc020000010000000100000001000000000000004846006b000000000000000000000000e00200000000"
     "0000e8030000000000000000000000000000000000000000000000000000000000000000000000000000"
     "000000000100000000000000640000000800000003000000000000004000000000000000080000000000"
     "000087d63241002000000000020000200000000010004000000020000000cc0700000008000001000000"
     "00000000f0b3687f5274900453d5704293f0c15ed1190eef2467b5172762da52ca0025eff00a5cd1"},
    {16,
     {7710238930264282362u, 1300, 202307071, 6, 0x5d00060, 0x5d00028, 1, 8192, 131072, 8192,
      1048576, 1},
     "fa54cadb7445006b14050000fff50e0c06000000000000004846006b000000006000d005000000002800"
     "d0050000000001000000010000000100000000000000e202000000000000154000000100000000000000"
     "d2020000010000000100000001000000000000004846006b000000000000000000000000e20200000000"
     "0000e8030000000000000000000000000000000000000000000000000000000000000000000000000000"
     "000000000100000000000000640000000800000003000000000000004000000000000000080000000000"
     "000087d63241002000000000020000200000000010004000000020000000cc0700000008000001000000"
     "010000000b340c70cdfa183fcb7077295ab7b1071f2a46ceb348788cc25764fada8b4265483ce6fa"},
    {17,
     {7710238938532697534u, 1700, 202406281, 6, 0x5800080, 0x5800028, 1, 8192, 131072, 8192,
      1048576, 0},
     "be55a0c87645006ba40600008979100c06000000000000004946006b0000000080008005000000002800"
     "80050000000001000000010000000100000001000000ea02000000000000154000000100000000000000"
     "da020000010000000100000001000000000000004946006b000000000000000000000000ea0200000000"
     "0000e8030000000000000000000000000000000000000000000000000000000000000000000000000000"
     "000000000100000000000000640000000800000003000000000000004000000000000000080000000000"
     "000087d63241002000000000020000200000000010004000000020000000cc0700000008000001000000"
     "000000008b81ed806fed739a44877d17abcc92396839606ab899dcb48fb08f87b076615ca7df95a4"},
    {18,
     {7710238945929971264u, 1800, 202506291, 6, 0x6400080, 0x6400028, 2, 8192, 131072, 8192,
      1048576, 1},
     "40c689817845006b080700003300120c06000000000000004946006b0000000080004006000000002800"
     "40060000000002000000020000000100000001000000fc020000000000001b6000000100000000000000"
     "e8020000010000000100000001000000000000004946006b000000000000000000000000fc0200000000"
     "0000e8030000000000000000000000000000000000000000000000000000000000000000000000000000"
     "000000000100000000000000640000000800000003000000000000004000000000000000080000000000"
     "000087d63241002000000000020000200000000010004000000020000000cc0700000008000001000000"
     "01000000017f6b028bb588c865e7e5c2fb17cbcd38955b3c058fe071039d064acfbb6bc455000000e8af"
     "4803"},
};

#define SAMPLE_COUNT (sizeof samples / sizeof samples[0])

/* Bytes that the sample's CRC covers. */
static size_t
covered(const Sample *sample)
{
    return strlen(sample->hex) / 2 - 4;
}

static void
load(const Sample *sample, uint8_t file[CONTROL_FILE_SIZE])
{
    size_t digits = strlen(sample->hex);

    memset(file, 0, CONTROL_FILE_SIZE);
    assert_true(hex_parse(sample->hex, digits, file, digits / 2));
}

static const Sample *
sample_of(int major)
{
    const Sample *sample = &samples[major - 10];

    assert_int_equal(sample->major, major);
    return sample;
}

static void
set_le32(uint8_t *at, uint32_t value)
{
    for (int i = 0; i < 4; i++)
        at[i] = (uint8_t)(value >> 8 * i);
}

static void
assert_refused(Span file, ErrorCode code, const char *message)
{
    ControlData control = {.system_id = 42};
    Error err = ERROR_INIT;

    assert_false(control_parse(file, &control, &err));
    assert_int_equal(err.code, code);
    assert_string_equal(err.message, message);
    assert_int_equal(control.system_id, 42); /* untouched */
}

static void
test_every_version(void **state)
{
    (void)state;
    assert_int_equal(SAMPLE_COUNT, 9);
    for (size_t i = 0; i < SAMPLE_COUNT; i++) {
        const ControlData *expected = &samples[i].expected;
        uint8_t file[CONTROL_FILE_SIZE];
        ControlData control = {0};
        Error err = ERROR_INIT;

        load(&samples[i], file);
        if (!control_parse((Span){file, sizeof file}, &control, &err))
            fail_msg("%d: %s", samples[i].major, err.message);
        assert_int_equal(control.system_id, expected->system_id);
        assert_int_equal(control.control_version, expected->control_version);
        assert_int_equal(control.catalog_version, expected->catalog_version);
        assert_int_equal(control.state, expected->state);
        assert_int_equal(control.checkpoint, expected->checkpoint);
        assert_int_equal(control.checkpoint_redo, expected->checkpoint_redo);
        assert_int_equal(control.checkpoint_timeline, expected->checkpoint_timeline);
        assert_int_equal(control.block_size, expected->block_size);
        assert_int_equal(control.relation_segment_blocks, expected->relation_segment_blocks);
        assert_int_equal(control.wal_block_size, expected->wal_block_size);
        assert_int_equal(control.wal_segment_size, expected->wal_segment_size);
        assert_int_equal(control.data_checksum_version, expected->data_checksum_version);
    }
}

/* No bit of what counts can change unnoticed, in any layout. */
static void
test_every_byte_counts(void **state)
{
    (void)state;
    for (size_t i = 0; i < SAMPLE_COUNT; i++) {
        uint8_t file[CONTROL_FILE_SIZE];

        load(&samples[i], file);
        for (size_t at = 0; at < covered(&samples[i]) + 4; at++) {
            ControlData control;
            Error err = ERROR_INIT;

            file[at] ^= (uint8_t)(1u << at % 8);
            assert_false(control_parse((Span){file, sizeof file}, &control, &err));
            assert_int_equal(err.code, at >= 8 && at < 12 ? ERR_UNSUPPORTED : ERR_FORMAT);
            file[at] ^= (uint8_t)(1u << at % 8);
        }
    }
}

static void
test_checksum(void **state)
{
    uint8_t file[CONTROL_FILE_SIZE];

    (void)state;
    load(sample_of(18), file);
    file[covered(sample_of(18))]++;
    assert_refused((Span){file, sizeof file}, ERR_FORMAT, "CRC is incorrect");

    /* The CRC of another layout's place does not help. */
    load(sample_of(17), file);
    set_le32(file + 8, 1800);
    set_le32(file + 288, crc32c(0, file, 288));
    assert_refused((Span){file, sizeof file}, ERR_FORMAT, "CRC is incorrect");
    set_le32(file + 288, 0);
    set_le32(file + 292, crc32c(0, file, 292));
    ControlData control;
    Error err = ERROR_INIT;
    assert_true(control_parse((Span){file, sizeof file}, &control, &err));
    assert_int_equal(control.control_version, 1800);
}

static void
test_length(void **state)
{
    uint8_t file[CONTROL_FILE_SIZE];

    (void)state;
    for (size_t i = 0; i < SAMPLE_COUNT; i++) {
        size_t needed = covered(&samples[i]) + 4;
        ControlData control;
        Error err = ERROR_INIT;

        load(&samples[i], file);
        for (size_t len = 0; len < needed; len++) {
            char message[64];

            (void)snprintf(message, sizeof message, "control file is too short: %zu bytes", len);
            assert_refused((Span){file, len}, ERR_FORMAT, message);
        }
        assert_true(control_parse((Span){file, needed}, &control, &err));
    }
}

static void
test_other_versions(void **state)
{
    static const uint32_t others[] = {0,    942,  1001, 1003, 1200, 1299,       1301,
                                      1600, 1701, 1799, 1801, 1900, 0x08070000, UINT32_MAX};
    uint8_t file[CONTROL_FILE_SIZE];

    (void)state;
    load(sample_of(18), file);
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
        char message[64];

        set_le32(file + 8, others[i]);
        (void)snprintf(message, sizeof message, "unsupported control file version %u", others[i]);
        assert_refused((Span){file, sizeof file}, ERR_UNSUPPORTED, message);
    }
}

/* What others divide by is checked even though the CRC is right. */
static void
test_sizes(void **state)
{
    static const struct {
        size_t at;
        uint32_t value;
        const char *message; /* NULL: fine */
    } cases[] = {
        {216, 0, "invalid block size 0 in control file"},
        {216, 512, "invalid block size 512 in control file"},
        {216, 8191, "invalid block size 8191 in control file"},
        {216, 131072, "invalid block size 131072 in control file"},
        {216, 1024, NULL},
        {216, 32768, NULL},
        {220, 0, "invalid relation segment size 0 in control file"},
        {220, 1, NULL},
        {224, 0, "invalid WAL block size 0 in control file"},
        {224, 8200, "invalid WAL block size 8200 in control file"},
        {224, 65536, NULL},
        {228, 0, "invalid WAL segment size 0 in control file"},
        {228, 524288, "invalid WAL segment size 524288 in control file"},
        {228, 16777215, "invalid WAL segment size 16777215 in control file"},
        {228, 0x80000000u, "invalid WAL segment size 2147483648 in control file"},
        {228, 1u << 30, NULL},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        uint8_t file[CONTROL_FILE_SIZE];
        ControlData control;
        Error err = ERROR_INIT;

        load(sample_of(16), file);
        set_le32(file + cases[i].at, cases[i].value);
        set_le32(file + 288, crc32c(0, file, 288));
        if (cases[i].message != NULL)
            assert_refused((Span){file, sizeof file}, ERR_FORMAT, cases[i].message);
        else
            assert_true(control_parse((Span){file, sizeof file}, &control, &err));
    }
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_version),  cmocka_unit_test(test_every_byte_counts),
        cmocka_unit_test(test_checksum),       cmocka_unit_test(test_length),
        cmocka_unit_test(test_other_versions), cmocka_unit_test(test_sizes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
