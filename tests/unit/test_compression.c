/* compression: what may be asked for, and in which words the rest is refused. */
#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <zstd.h>

#include <cmocka.h>

#include "stream/compression.h"
#include "stream/internal.h"

static const CompressionMethod methods[] = {COMPRESSION_NONE, COMPRESSION_GZIP, COMPRESSION_LZ4,
                                            COMPRESSION_ZSTD};

#define METHODS (sizeof methods / sizeof methods[0])

/* ---- names ---- */

static void
test_names(void **state)
{
    static const char *const names[] = {"none", "gzip", "lz4", "zstd"};
    static const char *const suffixes[] = {"", ".gz", ".lz4", ".zst"};

    (void)state;
    for (size_t i = 0; i < METHODS; i++) {
        CompressionMethod method = COMPRESSION_NONE;

        assert_true(compression_method_parse(names[i], &method));
        assert_int_equal(method, methods[i]);
        assert_string_equal(compression_method_name(methods[i]), names[i]);
        assert_string_equal(compression_suffix(methods[i]), suffixes[i]);
    }
}

static void
test_names_are_exact(void **state)
{
    static const char *const others[] = {"",      "Gzip",   "GZIP",  "gz",   "gzi",
                                         "gzipp", " gzip",  "gzip ", "zst",  "LZ4",
                                         "bzip2", "gzip:1", "0",     "nonee"};
    CompressionMethod method = COMPRESSION_LZ4;

    (void)state;
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++)
        assert_false(compression_method_parse(others[i], &method));
    assert_int_equal(method, COMPRESSION_LZ4);
}

static void
test_method_of_a_file_name(void **state)
{
    static const struct {
        const char *name;
        CompressionMethod method;
    } files[] = {
        {"base.tar", COMPRESSION_NONE},
        {"base.tar.gz", COMPRESSION_GZIP},
        {"base.tgz", COMPRESSION_GZIP},
        {"16385.tar.lz4", COMPRESSION_LZ4},
        {"pg_wal.tar.zst", COMPRESSION_ZSTD},
        {"", COMPRESSION_NONE},
        {"gz", COMPRESSION_NONE},
        {".gz", COMPRESSION_NONE},
        {"x.gz", COMPRESSION_GZIP},
        {"base.tar.GZ", COMPRESSION_NONE},
        {"base.tar.gz.tar", COMPRESSION_NONE},
        {"base.tar.gz ", COMPRESSION_NONE},
        {"base.tar.lz", COMPRESSION_NONE},
        {"base.zst.lz4", COMPRESSION_LZ4},
    };

    (void)state;
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++)
        assert_int_equal(compression_of_name(files[i].name), files[i].method);
}

static void
test_suffix_says_the_method(void **state)
{
    char name[32];

    (void)state;
    for (size_t i = 0; i < METHODS; i++) {
        (void)snprintf(name, sizeof name, "base.tar%s", compression_suffix(methods[i]));
        assert_int_equal(compression_of_name(name), methods[i]);
    }
}

static void
test_plain_name(void **state)
{
    Buf plain = BUF_INIT;
    Error err = ERROR_INIT;

    (void)state;
    assert_true(compression_plain_name(COMPRESSION_GZIP, "base.tar.gz", &plain, &err));
    assert_string_equal(buf_text(&plain), "base.tar");
    assert_true(compression_plain_name(COMPRESSION_GZIP, "16385.tgz", &plain, &err));
    assert_string_equal(buf_text(&plain), "16385.tar");
    assert_true(compression_plain_name(COMPRESSION_LZ4, "1.lz4", &plain, &err));
    assert_string_equal(buf_text(&plain), "1");
    assert_false(compression_plain_name(COMPRESSION_ZSTD, "base.tar.gz", &plain, &err));
    assert_int_equal(err.code, ERR_FORMAT);
    assert_string_equal(err.message, "archive name \"base.tar.gz\" does not end in \".zst\"");
    assert_false(compression_plain_name(COMPRESSION_GZIP, "base.tar", &plain, &err));
    assert_false(compression_plain_name(COMPRESSION_GZIP, ".gz", &plain, &err));
    assert_string_equal(buf_text(&plain), "1");
    buf_free(&plain);
}

/* ---- what is accepted ---- */

static void
expect(CompressionMethod method, const char *detail, Compression wanted)
{
    Compression got = {.method = COMPRESSION_NONE, .level = 77, .workers = 77};
    Error err = ERROR_INIT;

    if (!compression_parse(method, detail, &got, &err))
        fail_msg("\"%s\": %s", detail == NULL ? "(none)" : detail, err.message);
    assert_int_equal(err.code, ERR_NONE);
    assert_int_equal(got.method, method);
    assert_int_equal(got.level, wanted.level);
    assert_int_equal(got.workers, wanted.workers);
    assert_int_equal(got.long_distance, wanted.long_distance);
}

static void
test_defaults(void **state)
{
    (void)state;
    expect(COMPRESSION_NONE, NULL, (Compression){.level = 0});
    expect(COMPRESSION_GZIP, NULL, (Compression){.level = COMPRESSION_GZIP_DEFAULT});
    expect(COMPRESSION_LZ4, NULL, (Compression){.level = 0});
    expect(COMPRESSION_ZSTD, NULL, (Compression){.level = 3});
}

static void
test_bare_levels(void **state)
{
    (void)state;
    expect(COMPRESSION_NONE, "0", (Compression){.level = 0});
    expect(COMPRESSION_GZIP, "-1", (Compression){.level = -1});
    expect(COMPRESSION_GZIP, "1", (Compression){.level = 1});
    expect(COMPRESSION_GZIP, "9", (Compression){.level = 9});
    expect(COMPRESSION_LZ4, "0", (Compression){.level = 0});
    expect(COMPRESSION_LZ4, "1", (Compression){.level = 1});
    expect(COMPRESSION_LZ4, "12", (Compression){.level = 12});
    expect(COMPRESSION_ZSTD, "0", (Compression){.level = 0});
    expect(COMPRESSION_ZSTD, "-5", (Compression){.level = -5});
    expect(COMPRESSION_ZSTD, "22", (Compression){.level = 22});
    expect(COMPRESSION_ZSTD, "-131072", (Compression){.level = -131072});
}

/* Blanks in front, a sign and zeros are what strtol takes. */
static void
test_integers_are_strtols(void **state)
{
    (void)state;
    expect(COMPRESSION_GZIP, "+5", (Compression){.level = 5});
    expect(COMPRESSION_GZIP, " 5", (Compression){.level = 5});
    expect(COMPRESSION_GZIP, "\t\n5", (Compression){.level = 5});
    expect(COMPRESSION_GZIP, "0000005", (Compression){.level = 5});
    expect(COMPRESSION_GZIP, "level= 5", (Compression){.level = 5});
    expect(COMPRESSION_GZIP, "level=+05", (Compression){.level = 5});
}

static void
test_keywords(void **state)
{
    (void)state;
    expect(COMPRESSION_NONE, "level=0", (Compression){.level = 0});
    expect(COMPRESSION_GZIP, "level=5", (Compression){.level = 5});
    expect(COMPRESSION_LZ4, "level=0", (Compression){.level = 0});
    expect(COMPRESSION_ZSTD, "level=-7", (Compression){.level = -7});
    expect(COMPRESSION_ZSTD, "workers=4", (Compression){.level = 3, .workers = 4});
    expect(COMPRESSION_ZSTD, "workers=-1", (Compression){.level = 3, .workers = -1});
    expect(COMPRESSION_ZSTD, "long", (Compression){.level = 3, .long_distance = true});
    expect(COMPRESSION_ZSTD, "level=19,workers=2,long",
           (Compression){.level = 19, .workers = 2, .long_distance = true});
    expect(COMPRESSION_ZSTD, "long,workers=2,level=19",
           (Compression){.level = 19, .workers = 2, .long_distance = true});
}

static void
test_the_last_one_wins(void **state)
{
    (void)state;
    expect(COMPRESSION_GZIP, "level=5,level=6", (Compression){.level = 6});
    expect(COMPRESSION_GZIP, "level=99,level=5", (Compression){.level = 5});
    expect(COMPRESSION_ZSTD, "workers=4,workers=0", (Compression){.level = 3});
    expect(COMPRESSION_ZSTD, "long,long=no", (Compression){.level = 3});
    expect(COMPRESSION_ZSTD, "long=0,long", (Compression){.level = 3, .long_distance = true});
}

static void
test_boolean_words(void **state)
{
    static const char *const yes[] = {"long",    "long=yes", "long=YES", "long=Yes",
                                      "long=on", "long=ON",  "long=1",   "long=1,level=3"};
    static const char *const no[] = {"long=no",  "long=NO",  "long=No",       "long=off",
                                     "long=OFF", "long=oFf", "level=3,long=0"};

    (void)state;
    for (size_t i = 0; i < sizeof yes / sizeof yes[0]; i++)
        expect(COMPRESSION_ZSTD, yes[i], (Compression){.level = 3, .long_distance = true});
    for (size_t i = 0; i < sizeof no / sizeof no[0]; i++)
        expect(COMPRESSION_ZSTD, no[i], (Compression){.level = 3});
}

/* ---- what is refused ---- */

static void
expect_refused(CompressionMethod method, const char *detail, const char *message)
{
    Compression got = {.method = COMPRESSION_NONE, .level = 77, .workers = 77};
    Error err = ERROR_INIT;

    if (compression_parse(method, detail, &got, &err))
        fail_msg("\"%s\" was accepted", detail);
    assert_string_equal(err.message, message);
    assert_int_equal(err.code, ERR_USAGE);
    assert_int_equal(got.level, 77);
    assert_int_equal(got.workers, 77);
}

/* By every method alike, for these are mistakes before it matters. */
static void
expect_refused_by_all(const char *detail, const char *message)
{
    for (size_t i = 0; i < METHODS; i++)
        expect_refused(methods[i], detail, message);
}

#define EMPTY_OPTION        "found empty string where a compression option was expected"
#define NOT_INTEGER(option) "value for compression option \"" option "\" must be an integer"
#define NOT_BOOLEAN         "value for compression option \"long\" must be a Boolean value"
#define NO_VALUE(option)    "compression option \"" option "\" requires a value"
#define UNKNOWN(option)     "unrecognized compression option: \"" option "\""
#define NO_LEVEL            "compression algorithm \"none\" does not accept a compression level"
#define GZIP_LEVELS                                                                                \
    "compression algorithm \"gzip\" expects a compression level between 1 and 9 (default at -1)"
#define LZ4_LEVELS                                                                                 \
    "compression algorithm \"lz4\" expects a compression level between 1 and 12 (default at 0)"
#define ZSTD_LEVELS                                                                                \
    "compression algorithm \"zstd\" expects a compression level between -131072 and 22 (default "  \
    "at 3)"

static void
test_empty_options(void **state)
{
    static const char *const details[] = {
        "", ",", "=", "=5", ",level=5", "level=5,", "level=5,,long", "level=5,=,foo"};

    (void)state;
    for (size_t i = 0; i < sizeof details / sizeof details[0]; i++)
        expect_refused_by_all(details[i], EMPTY_OPTION);
}

static void
test_unknown_options(void **state)
{
    (void)state;
    expect_refused_by_all("foo", UNKNOWN("foo"));
    expect_refused_by_all("foo=1", UNKNOWN("foo"));
    expect_refused_by_all("foo=", UNKNOWN("foo"));
    expect_refused_by_all("Level=5", UNKNOWN("Level"));
    expect_refused_by_all("levels=5", UNKNOWN("levels"));
    expect_refused_by_all("lon", UNKNOWN("lon"));
    expect_refused_by_all("long ", UNKNOWN("long "));
    expect_refused_by_all(" level=5", UNKNOWN(" level"));
    expect_refused_by_all("level =5", UNKNOWN("level "));
    expect_refused_by_all("level=1, level=2", UNKNOWN(" level"));
    /* Almost bare levels. */
    expect_refused_by_all("5 ", UNKNOWN("5 "));
    expect_refused_by_all("0x5", UNKNOWN("0x5"));
    expect_refused_by_all("5,long", UNKNOWN("5"));
    expect_refused_by_all("5=3", UNKNOWN("5"));
    expect_refused_by_all("5.0", UNKNOWN("5.0"));
}

static void
test_missing_values(void **state)
{
    (void)state;
    expect_refused_by_all("level", NO_VALUE("level"));
    expect_refused_by_all("workers", NO_VALUE("workers"));
    expect_refused_by_all("level,level=5", NO_VALUE("level"));
    expect_refused_by_all("level=0,workers", NO_VALUE("workers"));
}

static void
test_no_integers(void **state)
{
    (void)state;
    expect_refused_by_all("level=", NOT_INTEGER("level"));
    expect_refused_by_all("level=,level=5", NOT_INTEGER("level"));
    expect_refused_by_all("level=x", NOT_INTEGER("level"));
    expect_refused_by_all("level=5x", NOT_INTEGER("level"));
    expect_refused_by_all("level=5 ", NOT_INTEGER("level"));
    expect_refused_by_all("level=5=6", NOT_INTEGER("level"));
    expect_refused_by_all("level=-", NOT_INTEGER("level"));
    expect_refused_by_all("level= ,long", NOT_INTEGER("level"));
    expect_refused_by_all("workers=", NOT_INTEGER("workers"));
    expect_refused_by_all("workers=two", NOT_INTEGER("workers"));
    expect_refused_by_all("workers=2.5", NOT_INTEGER("workers"));
}

static void
test_no_booleans(void **state)
{
    static const char *const details[] = {"long=",      "long=y",    "long=tru", "long=true",
                                          "long=false", "long=of",   "long=01",  "long=2",
                                          "long= 1",    "long=yes ", "long=onn", "long=1=1"};

    (void)state;
    for (size_t i = 0; i < sizeof details / sizeof details[0]; i++)
        expect_refused_by_all(details[i], NOT_BOOLEAN);
}

static void
test_levels_out_of_range(void **state)
{
    static const char *const all[] = {"23",           "level=23",         "99999999999",
                                      "-99999999999", "level=4294967297", "99999999999999999999"};

    (void)state;
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        expect_refused(COMPRESSION_NONE, all[i], NO_LEVEL);
        expect_refused(COMPRESSION_GZIP, all[i], GZIP_LEVELS);
        expect_refused(COMPRESSION_LZ4, all[i], LZ4_LEVELS);
        expect_refused(COMPRESSION_ZSTD, all[i], ZSTD_LEVELS);
    }
    expect_refused(COMPRESSION_NONE, "1", NO_LEVEL);
    expect_refused(COMPRESSION_NONE, "level=-1", NO_LEVEL);
    expect_refused(COMPRESSION_GZIP, "0", GZIP_LEVELS);
    expect_refused(COMPRESSION_GZIP, "-2", GZIP_LEVELS);
    expect_refused(COMPRESSION_GZIP, "10", GZIP_LEVELS);
    expect_refused(COMPRESSION_GZIP, "level=5,level=10", GZIP_LEVELS);
    expect_refused(COMPRESSION_LZ4, "-1", LZ4_LEVELS);
    expect_refused(COMPRESSION_LZ4, "13", LZ4_LEVELS);
    expect_refused(COMPRESSION_ZSTD, "-131073", ZSTD_LEVELS);
}

/* The bounds are those of the library that runs. */
static void
test_zstd_bounds_are_the_librarys(void **state)
{
    const CodecLevels levels = codec_of(COMPRESSION_ZSTD)->levels();

    (void)state;
    assert_null(codec_of(COMPRESSION_NONE));
    assert_int_equal(levels.min, ZSTD_minCLevel());
    assert_int_equal(levels.max, ZSTD_maxCLevel());
    assert_int_equal(levels.standard, ZSTD_CLEVEL_DEFAULT);
}

static void
test_what_zstd_alone_has(void **state)
{
    static const struct {
        const char *detail;
        const char *workers_or_long;
    } asked[] = {{"workers=2", "accept a worker count"},
                 {"workers=0", "accept a worker count"},
                 {"workers=99999999999", "accept a worker count"},
                 {"long", "support long-distance mode"},
                 {"long=no", "support long-distance mode"},
                 {"long,workers=2", "accept a worker count"}};
    char message[128];

    (void)state;
    for (size_t i = 0; i < sizeof asked / sizeof asked[0]; i++) {
        for (size_t m = 0; m < METHODS; m++) {
            if (methods[m] == COMPRESSION_ZSTD)
                continue;
            (void)snprintf(message, sizeof message, "compression algorithm \"%s\" does not %s",
                           compression_method_name(methods[m]), asked[i].workers_or_long);
            expect_refused(methods[m], asked[i].detail, message);
        }
    }
    expect(COMPRESSION_ZSTD, "workers=99999999999", (Compression){.level = 3, .workers = INT_MAX});
    expect(COMPRESSION_ZSTD, "workers=-99999999999", (Compression){.level = 3, .workers = INT_MIN});
}

/* The first mistake in the text; then the level; then the workers; then long-distance mode. */
static void
test_order_of_complaints(void **state)
{
    (void)state;
    expect_refused(COMPRESSION_GZIP, "foo,level=99", UNKNOWN("foo"));
    expect_refused(COMPRESSION_GZIP, "level=1,foo,bar", UNKNOWN("foo"));
    expect_refused(COMPRESSION_GZIP, "level=99,workers=x", NOT_INTEGER("workers"));
    expect_refused(COMPRESSION_GZIP, "level=99,long=x", NOT_BOOLEAN);
    expect_refused(COMPRESSION_GZIP, "level=,foo", NOT_INTEGER("level"));
    expect_refused(COMPRESSION_GZIP, "a,=,", UNKNOWN("a"));
    expect_refused(COMPRESSION_GZIP, "long,workers=3,level=99", GZIP_LEVELS);
    expect_refused(COMPRESSION_NONE, "long,workers=3,level=1", NO_LEVEL);
    expect_refused(COMPRESSION_LZ4, "long,workers=3,level=0",
                   "compression algorithm \"lz4\" does not accept a worker count");
    expect_refused(COMPRESSION_ZSTD, "long,workers=3,level=99", ZSTD_LEVELS);
}

/* More than a message holds. */
static void
test_long_option(void **state)
{
    char detail[4000];
    Compression got;
    Error err = ERROR_INIT;

    (void)state;
    memset(detail, 'x', sizeof detail - 1);
    detail[sizeof detail - 1] = '\0';
    assert_false(compression_parse(COMPRESSION_ZSTD, detail, &got, &err));
    assert_memory_equal(err.message, "unrecognized compression option: \"xxx", 37);
    assert_int_equal(strlen(err.message), sizeof err.message - 1);
}

/* ---- workers ---- */

static int
workers_for(CompressionMethod method, const char *detail, size_t processors)
{
    Compression asked = {.method = COMPRESSION_NONE};
    Error err = ERROR_INIT;

    assert_true(compression_parse(method, detail, &asked, &err));
    return compression_in_parallel(&asked, processors).workers;
}

static void
test_workers_where_there_are_processors(void **state)
{
    (void)state;
    for (CompressionMethod method = COMPRESSION_GZIP; method <= COMPRESSION_ZSTD; method++)
        assert_int_equal(workers_for(method, NULL, 1), 0);
    assert_int_equal(workers_for(COMPRESSION_GZIP, "9", 2), 2);
    assert_int_equal(workers_for(COMPRESSION_LZ4, NULL, 2), 0);
    assert_int_equal(workers_for(COMPRESSION_ZSTD, NULL, 2), 2);
    assert_int_equal(workers_for(COMPRESSION_ZSTD, "-5", 3), 3);
    assert_int_equal(workers_for(COMPRESSION_ZSTD, NULL, 64), 4);
}

static void
test_workers_as_the_user_wants(void **state)
{
    (void)state;
    assert_int_equal(workers_for(COMPRESSION_ZSTD, "workers=0", 4), 0);
    assert_int_equal(workers_for(COMPRESSION_ZSTD, "workers=9", 4), 9);
    assert_int_equal(workers_for(COMPRESSION_ZSTD, "level=19,workers=2", 1), 2);
}

static void
test_no_workers_that_want_much_memory(void **state)
{
    (void)state;
    assert_int_equal(workers_for(COMPRESSION_ZSTD, "9", 4), 4);
    assert_int_equal(workers_for(COMPRESSION_ZSTD, "10", 4), 0);
    assert_int_equal(workers_for(COMPRESSION_ZSTD, "long", 4), 0);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_names_are_exact),
        cmocka_unit_test(test_method_of_a_file_name),
        cmocka_unit_test(test_suffix_says_the_method),
        cmocka_unit_test(test_plain_name),
        cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_bare_levels),
        cmocka_unit_test(test_integers_are_strtols),
        cmocka_unit_test(test_keywords),
        cmocka_unit_test(test_the_last_one_wins),
        cmocka_unit_test(test_boolean_words),
        cmocka_unit_test(test_empty_options),
        cmocka_unit_test(test_unknown_options),
        cmocka_unit_test(test_missing_values),
        cmocka_unit_test(test_no_integers),
        cmocka_unit_test(test_no_booleans),
        cmocka_unit_test(test_levels_out_of_range),
        cmocka_unit_test(test_zstd_bounds_are_the_librarys),
        cmocka_unit_test(test_what_zstd_alone_has),
        cmocka_unit_test(test_order_of_complaints),
        cmocka_unit_test(test_long_option),
        cmocka_unit_test(test_workers_where_there_are_processors),
        cmocka_unit_test(test_workers_as_the_user_wants),
        cmocka_unit_test(test_no_workers_that_want_much_memory),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
