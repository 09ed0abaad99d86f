/*
 * Manifests list files only. Of the directories that every base backup has, these may be empty, so
 * that nothing else tells when they are lost (a copy to where there are no directories loses them),
 * and without one of them a server does not get through its first checkpoint: that was tried with
 * every major from 13 to 18. What servers make by themselves or can do without is not here.
 */
#include <string.h>

#include "verify/internal.h"

#define CATALOG_VERSION_15 202209061u
#define CONTROL_VERSION_16 1300u

static const struct {
    const char *path;
    bool old_only; /* servers from 15 on keep their statistics elsewhere while they run */
} required[] = {
    {"pg_commit_ts", false}, {"pg_logical/mappings", false}, {"pg_logical/snapshots", false},
    {"pg_notify", false},    {"pg_replslot", false},         {"pg_stat", true},
    {"pg_stat_tmp", true},   {"pg_subtrans", false},         {"pg_tblspc", false},
    {"pg_twophase", false},
};

#define REQUIRED_COUNT (sizeof required / sizeof required[0])

void
verifier_note_directory(Verifier *verifier, const char *path)
{
    for (size_t i = 0; i < REQUIRED_COUNT; i++) {
        if (strcmp(required[i].path, path) == 0)
            verifier->directories |= UINT32_C(1) << i;
    }
}

/* 13 and 14: pg_control has looked the same up to 16. */
static bool
is_old(const Verifier *verifier)
{
    return verifier->has_control && verifier->control.control_version <= CONTROL_VERSION_16 &&
           verifier->control.catalog_version < CATALOG_VERSION_15;
}

static bool
is_missing(const Verifier *verifier, size_t i)
{
    const char *path = required[i].path;

    if ((verifier->directories & UINT32_C(1) << i) != 0 ||
        path_set_covers(&verifier->ignore, path) || path_set_covers(&verifier->unknown, path))
        return false;
    return !required[i].old_only || is_old(verifier);
}

bool
verifier_report_directories(Verifier *verifier, Error *err)
{
    for (size_t i = 0; i < REQUIRED_COUNT && !verifier->reporter.enough; i++) {
        const Problem problem = {.kind = PROBLEM_DIRECTORY, .path = required[i].path};

        if (is_missing(verifier, i) &&
            !report(&verifier->reporter, &problem, err,
                    "directory \"%s\" is missing: no server starts without it", problem.path))
            return false;
    }
    return true;
}
