/*
 * One tar header, read and written: numbers, names, magics, types, checksum, and what is refused.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "stream/tar.h"
#include "support/tar_builder.h"

/* A header in the form of the server, field by field, without the builder. */
static void
server_header(uint8_t block[TAR_BLOCK])
{
    static const struct {
        size_t at;
        const char *text;
    } fields[] = {
        {0, "base/5/1259_fsm"},
        {100, "0000600 "},
        {108, "0001747 "},
        {116, "0001747 "},
        {124, "00000060000 "},
        {136, "15114325436 "},
        {156, "0"},
        {257, "ustar"},
        {263, "00"},
        {265, "postgres"},
        {297, "postgres"},
        {329, "0000000 "},
        {337, "0000000 "},
    };

    memset(block, 0, TAR_BLOCK);
    for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++)
        memcpy(block + fields[i].at, fields[i].text, strlen(fields[i].text));
    memcpy(block + 148, "0015466 ", 8);
}

/* Expect tar_parse to accept the member. */
static TarHeader
parsed(const TarMember *member)
{
    uint8_t block[TAR_BLOCK];
    TarHeader header = {.size = 0};
    Error err = ERROR_INIT;

    tar_build_header(block, member);
    if (!tar_parse(block, &header, &err))
        fail_msg("%s", err.message);
    assert_int_equal(err.code, ERR_NONE);
    return header;
}

/* Expect tar_parse to refuse the block, which says so without touching the result. */
static void
expect_refused(const uint8_t *block, ErrorCode code, const char *message)
{
    TarHeader header;
    TarHeader before;
    Error err = ERROR_INIT;

    memset(&header, 0x5a, sizeof header);
    memcpy(&before, &header, sizeof header);
    assert_false(tar_parse(block, &header, &err));
    assert_string_equal(err.message, message);
    assert_int_equal(err.code, code);
    assert_memory_equal(&header, &before, sizeof header);
}

static void
expect_member_refused(const TarMember *member, ErrorCode code, const char *message)
{
    uint8_t block[TAR_BLOCK];

    tar_build_header(block, member);
    expect_refused(block, code, message);
}

/* ---- what the server sends ---- */

static void
test_header_as_the_server_writes_it(void **state)
{
    uint8_t block[TAR_BLOCK];
    TarHeader header = {.size = 0};
    Error err = ERROR_INIT;

    (void)state;
    server_header(block);
    if (!tar_parse(block, &header, &err))
        fail_msg("%s", err.message);
    assert_int_equal(header.kind, ENTRY_FILE);
    assert_string_equal(header.name, "base/5/1259_fsm");
    assert_string_equal(header.link, "");
    assert_true(header.size == 24576);
    assert_int_equal(header.mode, 0600);
    assert_true(header.mtime == 015114325436);
}

static void
test_builder_writes_what_the_server_writes(void **state)
{
    uint8_t expected[TAR_BLOCK];
    uint8_t block[TAR_BLOCK];

    (void)state;
    server_header(expected);
    tar_build_header(
        block, &(TarMember){
                   .name = "base/5/1259_fsm", .size = 24576, .mtime = 015114325436, .mode = 0600});
    assert_memory_equal(block, expected, TAR_BLOCK);
}

static void
test_directory(void **state)
{
    TarHeader header;

    (void)state;
    header = parsed(&(TarMember){TAR_DIRECTORY("pg_wal/"), .mode = 0750});
    assert_int_equal(header.kind, ENTRY_DIRECTORY);
    assert_string_equal(header.name, "pg_wal/"); /* cleaning names is the reader's */
    assert_int_equal(header.mode, 0750);
    assert_true(header.size == 0);
}

static void
test_symlink(void **state)
{
    TarHeader header;

    (void)state;
    header = parsed(&(TarMember){TAR_SYMLINK("pg_tblspc/16385/", "/srv/ts"), .mode = 0777});
    assert_int_equal(header.kind, ENTRY_SYMLINK);
    assert_string_equal(header.link, "/srv/ts");
}

static void
test_old_file_type(void **state)
{
    TarHeader header;

    (void)state;
    header = parsed(&(TarMember){TAR_FILE("x", "12"), .type = TAR_TYPE_NUL});
    assert_int_equal(header.kind, ENTRY_FILE);
    assert_true(header.size == 2);
}

static void
test_link_field_of_a_file_is_ignored(void **state)
{
    TarHeader header;

    (void)state;
    header = parsed(&(TarMember){.name = "x", .link = "y"});
    assert_int_equal(header.kind, ENTRY_FILE);
    assert_string_equal(header.link, "");
}

/* ---- names ---- */

static void
test_name_that_fills_its_field(void **state)
{
    char name[101];
    TarHeader header;

    (void)state;
    memset(name, 'n', 100);
    name[100] = '\0';
    header = parsed(&(TarMember){.name = name});
    assert_string_equal(header.name, name);
    header = parsed(&(TarMember){TAR_SYMLINK("l", name)});
    assert_string_equal(header.link, name);
}

static void
test_prefix_counts_for_posix_only(void **state)
{
    TarHeader header;

    (void)state;
    header = parsed(&(TarMember){.name = "b", .prefix = "a"});
    assert_string_equal(header.name, "a/b");
    header = parsed(&(TarMember){.name = "b", .prefix = "a", .magic = TAR_MAGIC_GNU});
    assert_string_equal(header.name, "b");
    header = parsed(&(TarMember){.name = "b", .prefix = "a", .magic = TAR_MAGIC_LOOSE});
    assert_string_equal(header.name, "b");
}

static void
test_longest_name(void **state)
{
    char name[101];
    char prefix[156];
    TarHeader header;

    (void)state;
    memset(name, 'n', 100);
    name[100] = '\0';
    memset(prefix, 'p', 155);
    prefix[155] = '\0';
    header = parsed(&(TarMember){.name = name, .prefix = prefix});
    assert_int_equal(strlen(header.name), TAR_NAME_MAX);
    assert_memory_equal(header.name, prefix, 155);
    assert_int_equal(header.name[155], '/');
    assert_string_equal(header.name + 156, name);
}

static void
test_bytes_after_a_name_are_ignored(void **state)
{
    uint8_t block[TAR_BLOCK];
    TarHeader header = {.size = 0};
    Error err = ERROR_INIT;

    (void)state;
    tar_build_header(block, &(TarMember){.name = "short"});
    memcpy(block + 50, "left over", 9);
    tar_seal(block);
    assert_true(tar_parse(block, &header, &err));
    assert_string_equal(header.name, "short");
}

static void
test_member_without_name_is_refused(void **state)
{
    (void)state;
    expect_member_refused(&(TarMember){.name = ""}, ERR_FORMAT, "tar member has no name");
    expect_member_refused(&(TarMember){.name = "", .prefix = "p"}, ERR_FORMAT,
                          "tar member has no name");
}

static void
test_link_without_target_is_refused(void **state)
{
    (void)state;
    expect_member_refused(&(TarMember){TAR_SYMLINK("l", "")}, ERR_FORMAT,
                          "tar member \"l\" is a link without a target");
}

/* ---- numbers ---- */

static void
test_sizes_around_the_end_of_octal(void **state)
{
    const uint64_t octal_end = (uint64_t)1 << 33; /* 8 GiB */
    uint64_t sizes[] = {1,         511,           512,          513,  octal_end - 1,
                        octal_end, octal_end + 1, TAR_SIZE_MAX, 8192, (uint64_t)1 << 40};

    (void)state;
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        TarHeader header = parsed(&(TarMember){.name = "f", .claim = sizes[i]});

        assert_true(header.size == sizes[i]);
        header = parsed(&(TarMember){.name = "f", .claim = sizes[i], .base256 = true});
        assert_true(header.size == sizes[i]);
    }
}

static void
set_field(uint8_t *block, size_t at, const void *bytes, size_t len)
{
    memcpy(block + at, bytes, len);
    tar_seal(block);
}

static void
test_number_ends_at_the_first_other_character(void **state)
{
    static const struct {
        const char *text; /* of the size field, 12 characters */
        uint64_t size;
    } cases[] = {
        {"000000000170", 0170}, /* no terminator at all */
        {"777777777777", 0777777777777}, {"17\0\0\0\0\0\0\0\0\0\0", 017},
        {"17 7        ", 017},           {"178         ", 017},
        {"       17 \0\0", 017}, /* as old tars pad */
        {"\0\0\0\0\0\0\0\0\0\0\0\0", 0}, {"            ", 0},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        uint8_t block[TAR_BLOCK];
        TarHeader header = {.size = 99};
        Error err = ERROR_INIT;

        tar_build_header(block, &(TarMember){.name = "f"});
        set_field(block, 124, cases[i].text, 12);
        assert_true(tar_parse(block, &header, &err));
        assert_true(header.size == cases[i].size);
    }
}

static void
test_impossible_sizes_are_refused(void **state)
{
    static const uint8_t fields[][12] = {
        {0x80, 0, 0, 0, 0x80, 0, 0, 0, 0, 0, 0, 0},                               /* 2^63 */
        {0x80, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff},          /* 2^63 - 1 */
        {0x80, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff},          /* 2^64 - 1 */
        {0x80, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0},                                  /* 2^64 */
        {0x80, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1},                                  /* 2^80 + 1 */
        {0x81, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1},                                  /* 2^88 + 1 */
        {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, /* -1 */
    };

    (void)state;
    for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++) {
        uint8_t block[TAR_BLOCK];

        tar_build_header(block, &(TarMember){.name = "base/5/1259"});
        set_field(block, 124, fields[i], 12);
        expect_refused(block, ERR_FORMAT, "tar member \"base/5/1259\" has an impossible size");
    }
}

static void
test_size_without_content_is_refused(void **state)
{
    (void)state;
    expect_member_refused(&(TarMember){TAR_DIRECTORY("d/"), .claim = 5}, ERR_FORMAT,
                          "tar member \"d/\" is no file but has 5 bytes");
    expect_member_refused(&(TarMember){TAR_SYMLINK("l", "/t"), .claim = 512}, ERR_FORMAT,
                          "tar member \"l\" is no file but has 512 bytes");
}

static void
test_times(void **state)
{
    static const int64_t times[] = {1,  1700000000, 077777777777, (int64_t)1 << 33,
                                    -1, -86400,     INT64_MIN,    INT64_MAX};

    (void)state;
    for (size_t i = 0; i < sizeof times / sizeof times[0]; i++) {
        TarHeader header = parsed(&(TarMember){.name = "f", .mtime = times[i]});

        assert_true(header.mtime == times[i]);
    }
}

static void
test_time_before_1970_as_gnu_tar_writes_it(void **state)
{
    uint8_t block[TAR_BLOCK];
    TarHeader header = {.size = 0};
    Error err = ERROR_INIT;

    (void)state;
    tar_build_header(block, &(TarMember){.name = "f"});
    set_field(block, 136, "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xf6", 12);
    assert_true(tar_parse(block, &header, &err));
    assert_true(header.mtime == -10);
}

static void
test_mode_keeps_its_twelve_bits(void **state)
{
    TarHeader header;
    uint8_t block[TAR_BLOCK];
    Error err = ERROR_INIT;

    (void)state;
    header = parsed(&(TarMember){.name = "f", .mode = 0107644});
    assert_int_equal(header.mode, 07644);

    /* base-256 in eight bytes: the first byte is the mark alone */
    tar_build_header(block, &(TarMember){.name = "f"});
    set_field(block, 100, "\x80\0\0\0\0\0\x01\xa4", 8);
    assert_true(tar_parse(block, &header, &err));
    assert_int_equal(header.mode, 0644);

    set_field(block, 100, "\xff\xff\xff\xff\xff\xff\xff\xff", 8);
    expect_refused(block, ERR_FORMAT, "tar member \"f\" has an impossible mode");
}

/* ---- the block ---- */

static void
test_magics(void **state)
{
    (void)state;
    for (TarMagic magic = TAR_MAGIC_POSIX; magic <= TAR_MAGIC_LOOSE; magic++) {
        TarHeader header = parsed(&(TarMember){TAR_FILE("f", "abc"), .magic = magic});

        assert_string_equal(header.name, "f");
        assert_true(header.size == 3);
    }
    expect_member_refused(&(TarMember){.name = "f", .magic = TAR_MAGIC_NONE}, ERR_FORMAT,
                          "tar header has an unknown magic");
}

static void
test_every_byte_of_the_magic_counts(void **state)
{
    (void)state;
    for (size_t i = 257; i < 265; i++) {
        uint8_t block[TAR_BLOCK];

        tar_build_header(block, &(TarMember){.name = "f"});
        block[i] ^= 0x40;
        tar_seal(block);
        expect_refused(block, ERR_FORMAT, "tar header has an unknown magic");
    }
}

static void
test_wrong_checksum_is_refused(void **state)
{
    uint8_t block[TAR_BLOCK];

    (void)state;
    server_header(block);
    block[3] ^= 1; /* "base" to "basd": one less */
    expect_refused(block, ERR_FORMAT, "tar header has checksum 15466 instead of 15465");
}

static void
test_any_changed_byte_is_noticed(void **state)
{
    (void)state;
    for (size_t i = 0; i < TAR_BLOCK; i++) {
        uint8_t block[TAR_BLOCK];
        TarHeader header;
        Error err = ERROR_INIT;

        /* Of the checksum field itself only the digits count. */
        if (i == 155)
            continue;
        server_header(block);
        block[i] = (uint8_t)(block[i] + 1);
        assert_false(tar_parse(block, &header, &err));
        assert_int_equal(err.code, ERR_FORMAT);
    }
}

static void
test_checksum_is_unsigned(void **state)
{
    uint8_t block[TAR_BLOCK];
    TarHeader header;

    (void)state;
    header = parsed(&(TarMember){.name = "\xc3\xa4\xff"});
    assert_string_equal(header.name, "\xc3\xa4\xff");
    memset(block, 0xff, sizeof block);
    assert_int_equal(tar_checksum(block), 504 * 255 + 8 * 32);
    memset(block, 0, sizeof block);
    assert_int_equal(tar_checksum(block), 8 * 32);
}

static void
test_checksum_in_other_tars_forms(void **state)
{
    uint8_t block[TAR_BLOCK];
    TarHeader header = {.size = 0};
    Error err = ERROR_INIT;

    (void)state;
    server_header(block);
    memcpy(block + 148, "015466\0 ", 8); /* the customary form */
    assert_true(tar_parse(block, &header, &err));
    memcpy(block + 148, " 15466\0 ", 8);
    assert_true(tar_parse(block, &header, &err));
    memcpy(block + 148, "\xff\xff\xff\xff\xff\xff\xff\xff", 8);
    expect_refused(block, ERR_FORMAT, "tar header has checksum 0 instead of 15466");
}

static void
test_zero_block(void **state)
{
    uint8_t block[TAR_BLOCK] = {0};

    (void)state;
    assert_true(tar_is_zero(block));
    expect_refused(block, ERR_FORMAT, "tar header has an unknown magic");
    block[TAR_BLOCK - 1] = 1;
    assert_false(tar_is_zero(block));
    block[TAR_BLOCK - 1] = 0;
    block[0] = 1;
    assert_false(tar_is_zero(block));
}

static void
test_padding(void **state)
{
    (void)state;
    assert_int_equal(tar_padding(0), 0);
    assert_int_equal(tar_padding(1), 511);
    assert_int_equal(tar_padding(511), 1);
    assert_int_equal(tar_padding(512), 0);
    assert_int_equal(tar_padding(513), 511);
    assert_int_equal(tar_padding(TAR_SIZE_MAX), TAR_BLOCK - (TAR_SIZE_MAX % TAR_BLOCK));
}

/* ---- types ---- */

static void
test_types_that_are_not_handled_are_named(void **state)
{
    static const struct {
        char type;
        const char *message;
    } cases[] = {
        {'x', "tar member \"m\" has type \"x\": pax extensions are not supported"},
        {'g', "tar member \"m\" has type \"g\": pax extensions are not supported"},
        {'L', "tar member \"m\" has type \"L\": GNU long names are not supported"},
        {'K', "tar member \"m\" has type \"K\": GNU long names are not supported"},
        {'S', "tar member \"m\" has type \"S\": GNU sparse files are not supported"},
        {'V', "tar member \"m\" has type \"V\": other GNU extensions are not supported"},
        {'1', "tar member \"m\" has type \"1\": hard links are not supported"},
        {'3', "tar member \"m\" has type \"3\": devices are not supported"},
        {'4', "tar member \"m\" has type \"4\": devices are not supported"},
        {'6', "tar member \"m\" has type \"6\": named pipes are not supported"},
        {'7', "tar member \"m\" has type \"7\": contiguous files are not supported"},
        {'8', "tar member \"m\" has unknown type 0x38"},
        {'\n', "tar member \"m\" has unknown type 0x0A"},
        {'\xff', "tar member \"m\" has unknown type 0xFF"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        expect_member_refused(&(TarMember){.name = "m", .type = cases[i].type, .claim = 100},
                              ERR_UNSUPPORTED, cases[i].message);
}

static void
test_only_four_types_are_accepted(void **state)
{
    unsigned accepted = 0;

    (void)state;
    for (unsigned type = 0; type < 256; type++) {
        uint8_t block[TAR_BLOCK];
        TarHeader header;
        Error err = ERROR_INIT;

        tar_build_header(block, &(TarMember){.name = "m", .link = "/t"});
        block[156] = (uint8_t)type;
        tar_seal(block);
        if (tar_parse(block, &header, &err))
            accepted++;
        else
            assert_int_equal(err.code, ERR_UNSUPPORTED);
    }
    assert_int_equal(accepted, 4);
}

/* ---- writing ---- */

static const TarOwner owner = {.uid = 999, .gid = 999};

/* Expect tar_format to make a block of the entry, and tar_parse to find the entry in it. */
static void
format(const Entry *entry, uint8_t block[TAR_BLOCK])
{
    char name[TAR_NAME_MAX + 1];
    TarHeader header = {.size = 0};
    Error err = ERROR_INIT;

    memset(block, 0x5a, TAR_BLOCK);
    if (!tar_format(entry, &owner, block, &err) || !tar_parse(block, &header, &err))
        fail_msg("%s", err.message);
    (void)snprintf(name, sizeof name, "%s%s", entry->path, entry->kind == ENTRY_FILE ? "" : "/");
    assert_string_equal(header.name, name);
    assert_string_equal(header.link, entry->link_target == NULL ? "" : entry->link_target);
    assert_int_equal(header.kind, entry->kind);
    assert_true(header.size == entry->size);
    assert_int_equal(header.mode, entry->mode & 07777);
    assert_true(header.mtime == entry->mtime);
}

static void
expect_format_refused(const Entry *entry, ErrorCode code, const char *message)
{
    uint8_t block[TAR_BLOCK];
    uint8_t before[TAR_BLOCK];
    Error err = ERROR_INIT;

    memset(block, 0x5a, sizeof block);
    memcpy(before, block, sizeof block);
    assert_false(tar_format(entry, &owner, block, &err));
    assert_string_equal(err.message, message);
    assert_int_equal(err.code, code);
    assert_memory_equal(block, before, sizeof block);
}

static void
test_format_is_the_servers(void **state)
{
    uint8_t expected[TAR_BLOCK];
    uint8_t block[TAR_BLOCK];

    (void)state;
    server_header(expected);
    format(&(Entry){.kind = ENTRY_FILE,
                    .path = "base/5/1259_fsm",
                    .size = 24576,
                    .mode = 0600,
                    .mtime = 015114325436},
           block);
    assert_memory_equal(block, expected, TAR_BLOCK);
}

static void
test_format_of_every_kind(void **state)
{
    uint8_t expected[TAR_BLOCK];
    uint8_t block[TAR_BLOCK];

    (void)state;
    format(&(Entry){.kind = ENTRY_DIRECTORY, .path = "pg_wal", .mode = 0750, .mtime = 5}, block);
    tar_build_header(expected, &(TarMember){TAR_DIRECTORY("pg_wal/"), .mode = 0750, .mtime = 5});
    assert_memory_equal(block, expected, TAR_BLOCK);

    format(&(Entry){.kind = ENTRY_SYMLINK,
                    .path = "pg_tblspc/16385",
                    .link_target = "/srv/ts",
                    .mode = 0777,
                    .mtime = 6},
           block);
    tar_build_header(expected, &(TarMember){TAR_SYMLINK("pg_tblspc/16385/", "/srv/ts"),
                                            .mode = 0777, .mtime = 6});
    assert_memory_equal(block, expected, TAR_BLOCK);
}

static void
test_format_of_large_and_old(void **state)
{
    static const uint64_t sizes[] = {0, 1, (1ull << 33) - 1, 1ull << 33, 1ull << 40, TAR_SIZE_MAX};
    static const int64_t times[] = {0, 1, -1, (1ll << 33) - 1, 1ll << 33, INT64_MIN, INT64_MAX};
    uint8_t block[TAR_BLOCK];

    (void)state;
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        format(&(Entry){.kind = ENTRY_FILE, .path = "f", .size = sizes[i], .mode = 0640}, block);
        assert_int_equal(block[124] == 0x80, sizes[i] >= 1ull << 33);
    }
    for (size_t i = 0; i < sizeof times / sizeof times[0]; i++)
        format(&(Entry){.kind = ENTRY_FILE, .path = "f", .mtime = times[i]}, block);
    format(&(Entry){.kind = ENTRY_FILE, .path = "f", .mode = 0107644}, block);
    assert_memory_equal(block + 100, "0007644 ", 8);
}

static void
test_format_of_owners(void **state)
{
    static const struct {
        TarOwner owner;
        char fields[17]; /* both */
    } cases[] = {
        {{0, 0}, "0000000 0000000 "},
        {{04000, 02000}, "0004000 0002000 "},
        {{2097151, 1}, "7777777 0000001 "},
        {{2097152, UINT32_MAX}, "\x80\0\0\0\0\x20\0\0\x80\0\0\0\xff\xff\xff\xff"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        uint8_t block[TAR_BLOCK];
        Error err = ERROR_INIT;

        assert_true(tar_format(&(Entry){.path = "f"}, &cases[i].owner, block, &err));
        assert_memory_equal(block + 108, cases[i].fields, 16);
    }
}

static void
test_format_of_the_longest_names(void **state)
{
    char name[100];
    uint8_t block[TAR_BLOCK];

    (void)state;
    memset(name, 'n', 99);
    name[99] = '\0';
    format(&(Entry){.kind = ENTRY_FILE, .path = name, .size = 1}, block);
    assert_int_equal(block[99], 0);
    format(&(Entry){.kind = ENTRY_DIRECTORY, .path = name}, block);
    assert_int_equal(block[99], '/'); /* no room for a zero: none is needed */
    format(&(Entry){.kind = ENTRY_SYMLINK, .path = name, .link_target = name}, block);
    assert_int_equal(block[256], 0);
}

static void
test_format_refuses_what_does_not_fit(void **state)
{
    char message[1024];
    char name[101];

    (void)state;
    memset(name, 'n', 100);
    name[100] = '\0';
    (void)snprintf(message, sizeof message,
                   "file name too long for tar format: \"%s\" has 100 bytes, at most 99 fit", name);
    for (EntryKind kind = ENTRY_FILE; kind <= ENTRY_SYMLINK; kind++)
        expect_format_refused(&(Entry){.kind = kind, .path = name, .link_target = "/t"},
                              ERR_UNSUPPORTED, message);
    (void)snprintf(
        message, sizeof message,
        "symbolic link target too long for tar format: \"%s\" of \"l\" has 100 bytes, at "
        "most 99 fit",
        name);
    expect_format_refused(&(Entry){.kind = ENTRY_SYMLINK, .path = "l", .link_target = name},
                          ERR_UNSUPPORTED, message);
}

static void
test_format_refuses_what_no_entry_is(void **state)
{
    int unknown = 7; /* through an int: no compiler shall know */
    Entry entry = {.path = "m"};

    (void)state;
    expect_format_refused(&(Entry){.path = ""}, ERR_BUG, "tar member has no name");
    expect_format_refused(&(Entry){.kind = ENTRY_SYMLINK, .path = "l"}, ERR_BUG,
                          "tar member \"l\" is a link without a target");
    expect_format_refused(&(Entry){.kind = ENTRY_SYMLINK, .path = "l", .link_target = ""}, ERR_BUG,
                          "tar member \"l\" is a link without a target");
    expect_format_refused(&(Entry){.kind = ENTRY_DIRECTORY, .path = "d", .size = 1}, ERR_BUG,
                          "tar member \"d\" cannot have 1 bytes");
    expect_format_refused(&(Entry){.path = "f", .size = TAR_SIZE_MAX + 1}, ERR_BUG,
                          "tar member \"f\" cannot have 9223372036854775296 bytes");
    memcpy(&entry.kind, &unknown, sizeof entry.kind);
    expect_format_refused(&entry, ERR_BUG, "tar member \"m\" is of unknown kind 7");
}

/* ---- changing ---- */

/* The member's block, changed into what the entry says. */
static void
patch(const TarMember *member, const Entry *entry, uint8_t block[TAR_BLOCK])
{
    Error err = ERROR_INIT;
    TarHeader header;

    tar_build_header(block, member);
    if (!tar_patch(block, entry, &err) || !tar_parse(block, &header, &err))
        fail_msg("%s", err.message);
    assert_true(header.size == entry->size);
    assert_int_equal(header.mode, entry->mode);
    assert_true(header.mtime == entry->mtime);
}

/* All forms of a header, which stay as they are unless something has changed. */
static const TarMember forms[] = {
    {.name = "f", .mode = 0640, .claim = 700, .mtime = 9},
    {.name = "f", .prefix = "a/b", .mode = 0640, .claim = 700, .mtime = 9},
    {.name = "f", .magic = TAR_MAGIC_GNU, .mode = 0640, .claim = 700, .mtime = 9},
    {.name = "f", .magic = TAR_MAGIC_LOOSE, .mode = 0640, .claim = 700, .mtime = 9},
    {.name = "f", .base256 = true, .mode = 0640, .claim = 700, .mtime = 9},
    {.name = "f", .type = TAR_TYPE_NUL, .mode = 0640, .claim = 700, .mtime = 9},
};

static void
test_patch_of_nothing(void **state)
{
    const Entry entry = {.path = "f", .size = 700, .mode = 0640, .mtime = 9};
    uint8_t before[TAR_BLOCK];
    uint8_t block[TAR_BLOCK];
    Error err = ERROR_INIT;

    (void)state;
    for (size_t i = 0; i < sizeof forms / sizeof forms[0]; i++) {
        tar_build_header(before, &forms[i]);
        patch(&forms[i], &entry, block);
        assert_memory_equal(block, before, TAR_BLOCK);
    }
    /* Not even a checksum in another form, or a mode with more bits, is written anew. */
    memcpy(before + 148, "012345\0 ", 8);
    memcpy(before + 100, "0100640 ", 8);
    (void)snprintf((char *)before + 148, 7, "%06o", tar_checksum(before));
    memcpy(block, before, TAR_BLOCK);
    assert_true(tar_patch(block, &entry, &err));
    assert_memory_equal(block, before, TAR_BLOCK);
}

static void
test_patch_changes_only_what_has_changed(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof forms / sizeof forms[0]; i++) {
        TarMember changed = forms[i];
        uint8_t expected[TAR_BLOCK];
        uint8_t block[TAR_BLOCK];

        /* All three, in octal digits. */
        changed.base256 = false;
        changed.claim = 8192;
        changed.mode = 0600;
        changed.mtime = 1700000001;
        tar_build_header(expected, &changed);
        if (forms[i].base256) /* the owner keeps its form */
            memcpy(expected + 108, "\x80\0\0\0\0\0\x03\xe7\x80\0\0\0\0\0\x03\xe7", 16);
        tar_seal(expected);
        patch(&forms[i], &(Entry){.path = "f", .size = 8192, .mode = 0600, .mtime = 1700000001},
              block);
        assert_memory_equal(block, expected, TAR_BLOCK);

        /* One. */
        changed = forms[i];
        changed.mode = 0600;
        tar_build_header(expected, &changed);
        patch(&forms[i], &(Entry){.path = "f", .size = 700, .mode = 0600, .mtime = 9}, block);
        assert_memory_equal(block, expected, TAR_BLOCK);
    }
}

static void
test_patch_of_a_large_size(void **state)
{
    const Entry entry = {.path = "f", .size = 1ull << 33, .mode = 0640, .mtime = -5};
    uint8_t block[TAR_BLOCK];

    (void)state;
    patch(&forms[0], &entry, block);
    assert_memory_equal(block + 124, "\x80\0\0\0\0\0\0\x02\0\0\0\0", 12);
    assert_memory_equal(block + 136, "\x80\0\0\0\xff\xff\xff\xff\xff\xff\xff\xfb", 12);
}

static void
expect_patch_refused(const TarMember *member, const Entry *entry, ErrorCode code,
                     const char *message)
{
    uint8_t before[TAR_BLOCK];
    uint8_t block[TAR_BLOCK];
    Error err = ERROR_INIT;

    tar_build_header(before, member);
    memcpy(block, before, TAR_BLOCK);
    assert_false(tar_patch(block, entry, &err));
    assert_string_equal(err.message, message);
    assert_int_equal(err.code, code);
    assert_memory_equal(block, before, TAR_BLOCK);
}

static void
test_patch_refuses_what_does_not_belong_together(void **state)
{
    (void)state;
    expect_patch_refused(&forms[0], &(Entry){.kind = ENTRY_DIRECTORY, .path = "f"}, ERR_BUG,
                         "\"f\" has the tar header of another kind of member");
    expect_patch_refused(&(TarMember){TAR_DIRECTORY("d/")}, &(Entry){.path = "d", .size = 1},
                         ERR_BUG, "\"d\" has the tar header of another kind of member");
    expect_patch_refused(&(TarMember){TAR_DIRECTORY("d/")},
                         &(Entry){.kind = ENTRY_DIRECTORY, .path = "d", .size = 1}, ERR_BUG,
                         "tar member \"d\" cannot have 1 bytes");
    expect_patch_refused(&(TarMember){.name = "f", .magic = TAR_MAGIC_NONE}, &(Entry){.path = "f"},
                         ERR_FORMAT, "tar header has an unknown magic");
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_header_as_the_server_writes_it),
        cmocka_unit_test(test_builder_writes_what_the_server_writes),
        cmocka_unit_test(test_directory),
        cmocka_unit_test(test_symlink),
        cmocka_unit_test(test_old_file_type),
        cmocka_unit_test(test_link_field_of_a_file_is_ignored),
        cmocka_unit_test(test_name_that_fills_its_field),
        cmocka_unit_test(test_prefix_counts_for_posix_only),
        cmocka_unit_test(test_longest_name),
        cmocka_unit_test(test_bytes_after_a_name_are_ignored),
        cmocka_unit_test(test_member_without_name_is_refused),
        cmocka_unit_test(test_link_without_target_is_refused),
        cmocka_unit_test(test_sizes_around_the_end_of_octal),
        cmocka_unit_test(test_number_ends_at_the_first_other_character),
        cmocka_unit_test(test_impossible_sizes_are_refused),
        cmocka_unit_test(test_size_without_content_is_refused),
        cmocka_unit_test(test_times),
        cmocka_unit_test(test_time_before_1970_as_gnu_tar_writes_it),
        cmocka_unit_test(test_mode_keeps_its_twelve_bits),
        cmocka_unit_test(test_magics),
        cmocka_unit_test(test_every_byte_of_the_magic_counts),
        cmocka_unit_test(test_wrong_checksum_is_refused),
        cmocka_unit_test(test_any_changed_byte_is_noticed),
        cmocka_unit_test(test_checksum_is_unsigned),
        cmocka_unit_test(test_checksum_in_other_tars_forms),
        cmocka_unit_test(test_zero_block),
        cmocka_unit_test(test_padding),
        cmocka_unit_test(test_types_that_are_not_handled_are_named),
        cmocka_unit_test(test_only_four_types_are_accepted),
        cmocka_unit_test(test_format_is_the_servers),
        cmocka_unit_test(test_format_of_every_kind),
        cmocka_unit_test(test_format_of_large_and_old),
        cmocka_unit_test(test_format_of_owners),
        cmocka_unit_test(test_format_of_the_longest_names),
        cmocka_unit_test(test_format_refuses_what_does_not_fit),
        cmocka_unit_test(test_format_refuses_what_no_entry_is),
        cmocka_unit_test(test_patch_of_nothing),
        cmocka_unit_test(test_patch_changes_only_what_has_changed),
        cmocka_unit_test(test_patch_of_a_large_size),
        cmocka_unit_test(test_patch_refuses_what_does_not_belong_together),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
