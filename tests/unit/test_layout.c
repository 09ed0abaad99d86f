/*
 * Where the archives of a backup go, and where the links lead.
 */
#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "basebackup/internal.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static const Plan plain_plan = {.format = FORMAT_PLAIN};

/* A layout of these rows, asserted. */
static Layout
make_planned(const BackupOptions *options, const Plan *plan, Tablespace *tablespaces, size_t count)
{
    const BackupStart start = {.tablespaces = tablespaces, .tablespace_count = count};
    Layout layout = {.places = NULL};
    Error err = ERROR_INIT;

    if (!layout_make(options, plan, &start, &layout, &err))
        fail_msg("%s", err.message);
    assert_int_equal(err.code, ERR_NONE);
    assert_int_equal(layout.count, count);
    return layout;
}

static Layout
make(const BackupOptions *options, Tablespace *tablespaces, size_t count)
{
    return make_planned(options, &plain_plan, tablespaces, count);
}

static void
assert_refused(Tablespace *tablespaces, size_t count, const char *message)
{
    const BackupOptions options = {.directory = "/backup"};
    const BackupStart start = {.tablespaces = tablespaces, .tablespace_count = count};
    Layout layout = {.count = 99};
    Error err = ERROR_INIT;

    assert_false(layout_make(&options, &plain_plan, &start, &layout, &err));
    assert_string_equal(err.message, message);
    assert_int_equal(err.code, ERR_PROTOCOL);
    assert_int_equal(layout.count, 99);
}

static void
test_data_directory_alone(void **state)
{
    const BackupOptions options = {.directory = "/backup"};
    Layout layout = make(&options, &(Tablespace){.oid = 0}, 1);
    const Place *place = layout_place(&layout, 0);

    (void)state;
    assert_non_null(place);
    assert_ptr_equal(place, &layout.places[0]);
    assert_string_equal(place->archive, "base.tar");
    assert_string_equal(place->directory, "/backup");
    assert_false(place->in_place);
    assert_null(layout_place(&layout, 1));
    layout_free(&layout);
    assert_int_equal(layout.count, 0);
    assert_null(layout.places);
    layout_free(&layout);
}

static void
test_places_in_the_order_of_the_server(void **state)
{
    char first[] = "/srv/first";
    char second[] = "pg_tblspc/16386";
    Tablespace tablespaces[] = {
        {.oid = 4294967295, .location = first}, {.oid = 16386, .location = second}, {.oid = 0}};
    const BackupOptions options = {.directory = "/backup"};
    Layout layout = make(&options, tablespaces, COUNT(tablespaces));

    (void)state;
    assert_string_equal(layout.places[0].archive, "4294967295.tar");
    assert_string_equal(layout.places[0].directory, "/srv/first");
    assert_false(layout.places[0].in_place);
    assert_string_equal(layout.places[1].archive, "16386.tar");
    assert_string_equal(layout.places[1].directory, "/backup/pg_tblspc/16386");
    assert_true(layout.places[1].in_place);
    assert_string_equal(layout.places[2].archive, "base.tar");
    assert_ptr_equal(layout_place(&layout, 16386), &layout.places[1]);
    layout_free(&layout);
}

static void
test_mappings(void **state)
{
    static const TablespaceMapping mappings[] = {
        {.from = "/srv/one", .to = "/new/one"},
        {.from = "/srv/one", .to = "/new/too late"},
        {.from = "/srv", .to = "/new/parent"},
        {.from = "/srv/with=sign", .to = "/new/with=sign"},
    };
    static const struct {
        const char *location;
        const char *place;
    } cases[] = {
        {"/srv/one", "/new/one"},
        {"/srv/one/", "/new/one"},
        {"//srv//./one", "/new/one"},
        {"/srv/two/../one", "/new/one"},
        {"/srv", "/new/parent"},
        {"/srv/with=sign", "/new/with=sign"},
        /* The whole path, not a part of it. */
        {"/srv/one/below", "/srv/one/below"},
        {"/srv/on", "/srv/on"},
        {"/srv/One", "/srv/One"},
        /* As it is, but tidy. */
        {"/other/place//", "/other/place"},
        {"/other/./place", "/other/place"},
        {"/", "/"},
    };
    const BackupOptions options = {
        .directory = "/backup", .mappings = mappings, .mapping_count = COUNT(mappings)};

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        char location[32];
        Layout layout;

        (void)snprintf(location, sizeof location, "%s", cases[i].location);
        layout = make(&options, &(Tablespace){.oid = 16385, .location = location}, 1);
        assert_string_equal(layout.places[0].directory, cases[i].place);
        /* Where its link leads, there is no other answer. */
        assert_string_equal(layout_link_target(&layout, 16385, "/somewhere/else"), cases[i].place);
        layout_free(&layout);
    }
}

static void
test_links_of_tablespaces_that_were_not_listed(void **state)
{
    static const TablespaceMapping mapping = {.from = "/srv/new", .to = "/new/place"};
    char in_place[] = "pg_tblspc/16385";
    const BackupOptions options = {
        .directory = "/backup", .mappings = &mapping, .mapping_count = 1};
    Layout layout = make(&options, &(Tablespace){.oid = 16385, .location = in_place}, 1);

    (void)state;
    assert_string_equal(layout_link_target(&layout, 16390, "/srv/new"), "/new/place");
    assert_string_equal(layout_link_target(&layout, 16390, "/srv/new/"), "/new/place");
    assert_null(layout_link_target(&layout, 16390, "/srv/newer"));
    assert_null(layout_link_target(&layout, 16390, "../.."));
    assert_null(layout_link_target(&layout, 16390, ""));
    /* It has a directory, not a link. */
    assert_null(layout_link_target(&layout, 16385, "/srv/old"));
    layout_free(&layout);
}

/* Longer than any path: no mapping is about it, and nothing is cut. */
static void
test_endless_location(void **state)
{
    static char location[3 * PATH_MAX];
    const BackupOptions options = {.directory = "/backup"};
    Layout layout;

    (void)state;
    memset(location, 'x', sizeof location - 1);
    location[0] = '/';
    layout = make(&options, &(Tablespace){.oid = 16385, .location = location}, 1);
    assert_string_equal(layout.places[0].directory, location);
    assert_null(layout_link_target(&layout, 1, location));
    layout_free(&layout);
}

static void
test_unsafe_locations(void **state)
{
    static const char *const locations[] = {
        "pg_tblspc/16386",
        "pg_tblspc",
        "pg_tblspc/16385/",
        "pg_tblspc//16385",
        "./pg_tblspc/16385",
        "pg_tblspc/016385",
        "base",
        "..",
        "../pg_tblspc/16385",
        "pg_tblspc/../16385",
        ".",
        "C:/tablespace",
    };

    (void)state;
    for (size_t i = 0; i < COUNT(locations); i++) {
        char first[] = "/srv/first";
        char location[32];
        char message[128];
        Tablespace tablespaces[] = {{.oid = 16384, .location = first},
                                    {.oid = 16385, .location = location}};

        (void)snprintf(location, sizeof location, "%s", locations[i]);
        (void)snprintf(message, sizeof message, "server sent an unsafe tablespace location \"%s\"",
                       location);
        assert_refused(tablespaces, COUNT(tablespaces), message);
    }
}

static void
test_listed_twice(void **state)
{
    char first[] = "/srv/first";
    char second[] = "/srv/second";
    Tablespace tablespaces[] = {
        {.oid = 16385, .location = first}, {.oid = 16385, .location = second}, {.oid = 0}};
    Tablespace bases[] = {{.oid = 0}, {.oid = 0}};

    (void)state;
    assert_refused(tablespaces, COUNT(tablespaces), "server listed tablespace 16385 twice");
    assert_refused(bases, COUNT(bases), "server listed tablespace 0 twice");
}

/* What a backup of this kind calls its archives, and what people are shown of them. */
static void
test_archives_as_files(void **state)
{
    static const struct {
        const char *directory;
        Plan plan;
        const char *archives[2];
        const char *shown[2];
    } cases[] = {
        {"/backup",
         {.format = FORMAT_TAR},
         {"16385.tar", "base.tar"},
         {"/backup/16385.tar", "/backup/base.tar"}},
        {"/backup",
         {.format = FORMAT_TAR, .leaving = {.method = COMPRESSION_GZIP}},
         {"16385.tar", "base.tar"},
         {"/backup/16385.tar.gz", "/backup/base.tar.gz"}},
        {"/backup",
         {.format = FORMAT_TAR, .arriving = COMPRESSION_ZSTD},
         {"16385.tar.zst", "base.tar.zst"},
         {"/backup/16385.tar.zst", "/backup/base.tar.zst"}},
        {"/backup",
         {.format = FORMAT_TAR,
          .arriving = COMPRESSION_LZ4,
          .rewrite = true,
          .leaving = {.method = COMPRESSION_LZ4}},
         {"16385.tar.lz4", "base.tar.lz4"},
         {"/backup/16385.tar.lz4", "/backup/base.tar.lz4"}},
        {"-",
         {.format = FORMAT_TAR, .to_stdout = true},
         {"16385.tar", "base.tar"},
         {"16385.tar", "base.tar"}},
        {NULL, {.to_server = true}, {"16385.tar", "base.tar"}, {"16385.tar", "base.tar"}},
    };
    char location[] = "/srv/data";
    Tablespace tablespaces[] = {{.oid = 16385, .location = location}, {.oid = 0}};

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        const BackupOptions options = {.directory = cases[i].directory};
        Layout layout = make_planned(&options, &cases[i].plan, tablespaces, COUNT(tablespaces));

        for (size_t j = 0; j < COUNT(tablespaces); j++) {
            assert_string_equal(layout.places[j].archive, cases[i].archives[j]);
            assert_string_equal(layout.places[j].shown, cases[i].shown[j]);
            assert_null(layout.places[j].directory);
        }
        layout_free(&layout);
    }
}

/* Compressed on the way, laid out here. */
static void
test_directories_of_compressed_archives(void **state)
{
    const BackupOptions options = {.directory = "/backup"};
    const Plan plan = {.format = FORMAT_PLAIN, .arriving = COMPRESSION_GZIP};
    Layout layout = make_planned(&options, &plan, &(Tablespace){.oid = 0}, 1);

    (void)state;
    assert_string_equal(layout.places[0].archive, "base.tar.gz");
    assert_string_equal(layout.places[0].directory, "/backup");
    assert_string_equal(layout.places[0].shown, "/backup");
    layout_free(&layout);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_data_directory_alone),
        cmocka_unit_test(test_archives_as_files),
        cmocka_unit_test(test_directories_of_compressed_archives),
        cmocka_unit_test(test_places_in_the_order_of_the_server),
        cmocka_unit_test(test_mappings),
        cmocka_unit_test(test_links_of_tablespaces_that_were_not_listed),
        cmocka_unit_test(test_endless_location),
        cmocka_unit_test(test_unsafe_locations),
        cmocka_unit_test(test_listed_twice),
    };

    return cmocka_run_group_tests_name("layout", tests, NULL, NULL);
}
