#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "basebackup/internal.h"
#include "common/file.h"

/* Where a mapping puts what is at `location` on the server; NULL: none is about it. */
static const char *
find_mapping(const Layout *layout, const char *location)
{
    char canonical[PATH_MAX];

    /* What does not fit is no path that anybody could have meant. */
    if (snprintf(canonical, sizeof canonical, "%s", location) >= (int)sizeof canonical)
        return NULL;
    path_canonicalize(canonical);
    for (size_t i = 0; i < layout->mapping_count; i++) {
        if (strcmp(layout->mappings[i].from, canonical) == 0)
            return layout->mappings[i].to;
    }
    return NULL;
}

const Place *
layout_place(const Layout *layout, Oid oid)
{
    for (size_t i = 0; i < layout->count; i++) {
        if (layout->places[i].oid == oid)
            return &layout->places[i];
    }
    return NULL;
}

const char *
layout_link_target(const Layout *layout, Oid oid, const char *target)
{
    const Place *place = layout_place(layout, oid);

    if (place != NULL && !place->in_place)
        return place->directory;
    return find_mapping(layout, target);
}

/* Only this one: the manifest's paths are made of it, wherever the server says that it is. */
static bool
check_in_place(const Tablespace *tablespace, Error *err)
{
    char expected[32];

    (void)snprintf(expected, sizeof expected, "pg_tblspc/%u", tablespace->oid);
    if (strcmp(tablespace->location, expected) != 0)
        return error_set(err, ERR_PROTOCOL, "server sent an unsafe tablespace location \"%s\"",
                         tablespace->location);
    return true;
}

/* The mapping, or the same path. */
static char *
map_location(const Layout *layout, const char *location, Error *err)
{
    const char *mapped = find_mapping(layout, location);
    char *directory = mem_strdup(mapped == NULL ? location : mapped, err);

    if (directory != NULL)
        path_canonicalize(directory);
    return directory;
}

/* The name that the server gives to an archive. */
static void
name_archive(Place *place, CompressionMethod arriving)
{
    const char *suffix = compression_suffix(arriving);

    if (place->oid == 0)
        (void)snprintf(place->archive, sizeof place->archive, "base.tar%s", suffix);
    else
        (void)snprintf(place->archive, sizeof place->archive, "%u.tar%s", place->oid, suffix);
}

/* An in-place tablespace is a directory in pg_tblspc instead of a link. */
static bool
find_directory(Place *place, const Layout *layout, const Tablespace *tablespace,
               const char *directory, Error *err)
{
    if (tablespace->location == NULL)
        place->directory = mem_strdup(directory, err);
    else if (place->in_place)
        place->directory = path_join(directory, tablespace->location, err);
    else
        place->directory = map_location(layout, tablespace->location, err);
    return place->directory != NULL;
}

/* For people: the directory that is being filled, or the file that is being written. */
static bool
find_shown(Place *place, const BackupOptions *options, const Plan *plan, Error *err)
{
    char name[sizeof place->archive + 8];

    (void)snprintf(name, sizeof name, "%s%s", place->archive,
                   plan->arriving == COMPRESSION_NONE ? compression_suffix(plan->leaving.method)
                                                      : "");
    if (place->directory != NULL)
        place->shown = mem_strdup(place->directory, err);
    else if (plan->to_server || plan->to_stdout)
        place->shown = mem_strdup(name, err);
    else
        place->shown = path_join(options->directory, name, err);
    return place->shown != NULL;
}

static bool
fill_place(Place *place, const Layout *layout, const Tablespace *tablespace,
           const BackupOptions *options, const Plan *plan, Error *err)
{
    place->oid = tablespace->location == NULL ? 0 : tablespace->oid;
    place->in_place = tablespace->location != NULL && tablespace->location[0] != '/';
    if (place->in_place && !check_in_place(tablespace, err))
        return false;
    name_archive(place, plan->arriving);
    if (plan->format == FORMAT_PLAIN && !plan->to_server &&
        !find_directory(place, layout, tablespace, options->directory, err))
        return false;
    return find_shown(place, options, plan, err);
}

bool
layout_make(const BackupOptions *options, const Plan *plan, const BackupStart *start,
            Layout *ret_layout, Error *err)
{
    Layout layout = {.mappings = options->mappings, .mapping_count = options->mapping_count};

    layout.places = mem_zero(start->tablespace_count * sizeof(Place), err);
    if (layout.places == NULL)
        return false;
    for (size_t i = 0; i < start->tablespace_count; i++) {
        const Tablespace *tablespace = &start->tablespaces[i];

        if (layout_place(&layout, tablespace->oid) != NULL) {
            (void)error_set(err, ERR_PROTOCOL, "server listed tablespace %u twice",
                            tablespace->oid);
            goto failed;
        }
        layout.count = i + 1;
        if (!fill_place(&layout.places[i], &layout, tablespace, options, plan, err))
            goto failed;
    }
    *ret_layout = layout;
    return true;

failed:
    layout_free(&layout);
    return false;
}

void
layout_free(Layout *layout)
{
    for (size_t i = 0; i < layout->count; i++) {
        free(layout->places[i].directory);
        free(layout->places[i].shown);
    }
    free(layout->places);
    *layout = (Layout){.places = NULL};
}
