#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "basebackup/internal.h"
#include "common/file.h"

const char *
layout_map(const Layout *layout, const char *location)
{
    Error ignored = ERROR_INIT;
    const char *mapped = location;
    char *canonical = mem_strdup(location, &ignored);

    if (canonical == NULL)
        return location;
    path_canonicalize(canonical);
    for (size_t i = 0; i < layout->mapping_count; i++) {
        if (strcmp(layout->mappings[i].from, canonical) == 0) {
            mapped = layout->mappings[i].to;
            break;
        }
    }
    free(canonical);
    return mapped;
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

static bool
fill_place(Place *place, const Layout *layout, const Tablespace *tablespace, const char *directory,
           Error *err)
{
    place->oid = tablespace->oid;
    if (tablespace->location == NULL) {
        (void)snprintf(place->archive, sizeof place->archive, "base.tar");
        place->directory = mem_strdup(directory, err);
    } else if (tablespace->location[0] != '/') {
        /* An in-place tablespace: a directory in pg_tblspc instead of a link. */
        if (!path_is_below(tablespace->location))
            return error_set(err, ERR_PROTOCOL, "server sent an unsafe tablespace location \"%s\"",
                             tablespace->location);
        place->in_place = true;
        (void)snprintf(place->archive, sizeof place->archive, "%u.tar", tablespace->oid);
        place->directory = path_join(directory, tablespace->location, err);
    } else {
        (void)snprintf(place->archive, sizeof place->archive, "%u.tar", tablespace->oid);
        place->directory = mem_strdup(layout_map(layout, tablespace->location), err);
    }
    return place->directory != NULL;
}

bool
layout_make(const BackupOptions *options, const BackupStart *start, Layout *ret_layout, Error *err)
{
    Layout layout = {.mappings = options->mappings, .mapping_count = options->mapping_count};

    layout.places = mem_zero(start->tablespace_count * sizeof(Place), err);
    if (layout.places == NULL)
        return false;
    for (size_t i = 0; i < start->tablespace_count; i++) {
        layout.count = i + 1;
        if (!fill_place(&layout.places[i], &layout, &start->tablespaces[i], options->directory,
                        err))
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
    for (size_t i = 0; i < layout->count; i++)
        free(layout->places[i].directory);
    free(layout->places);
    *layout = (Layout){.places = NULL};
}
