#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/file.h"
#include "verify/internal.h"

/* What they say of each other. */
typedef struct Agreement {
    size_t common; /* files of the manifest that backup_pages has, too */
    bool broken;   /* then `path` is of one that they do not agree about */
    const char *path;
} Agreement;

static bool
is_wanted(const VerifyConfig *config)
{
    for (size_t i = 0; i < config->ignore_count; i++) {
        if (strcmp(config->ignore[i], PAGE_DIGESTS_NAME) == 0)
            return false;
    }
    return !config->skip_checksums;
}

bool
verifier_report_digests(Verifier *verifier, const char *what, Error *err)
{
    const Problem problem = {.kind = PROBLEM_PAGE_DIGESTS, .path = PAGE_DIGESTS_NAME};

    return report(&verifier->reporter, &problem, err, "\"%s\": %s", PAGE_DIGESTS_NAME, what);
}

static bool
report_foreign(Verifier *verifier, const Agreement *agreement, Error *err)
{
    const Problem problem = {.kind = PROBLEM_PAGE_DIGESTS, .path = PAGE_DIGESTS_NAME};

    if (agreement->broken)
        return report(&verifier->reporter, &problem, err,
                      "\"%s\" does not belong to this backup: it knows another \"%s\" than the "
                      "manifest",
                      PAGE_DIGESTS_NAME, agreement->path);
    return report(&verifier->reporter, &problem, err,
                  "\"%s\" does not belong to this backup: it has files that are not in the "
                  "manifest",
                  PAGE_DIGESTS_NAME);
}

/* ---- against the manifest ---- */

static bool
compare_crc(const PageDigests *digests, const PageDigestFile *pages, const ManifestFile *file,
            bool *ret_same, Error *err)
{
    uint32_t crc;

    *ret_same = true;
    if (file->checksum_type != CHECKSUM_CRC32C)
        return true;
    if (!page_digests_file_crc(digests, pages, &crc, err))
        return false;
    *ret_same = file->checksum_len == sizeof crc && get_le32(file->checksum) == crc;
    return true;
}

static bool
compare_file(const PageDigests *digests, const ManifestFile *file, Agreement *agreement, Error *err)
{
    PageDigestFile pages;
    bool same;

    if (!page_digests_find(digests, file->path, &pages))
        return true;
    agreement->common++;
    same = pages.size == file->size;
    if (same && !compare_crc(digests, &pages, file, &same, err))
        return false;
    agreement->broken = !same;
    agreement->path = file->path;
    return true;
}

static bool
compare_files(const Verifier *verifier, const PageDigests *digests, Agreement *agreement,
              Error *err)
{
    size_t count = manifest_file_count(verifier->manifest);

    for (size_t i = 0; i < count && !agreement->broken; i++) {
        if (!compare_file(digests, manifest_file(verifier->manifest, i), agreement, err))
            return false;
    }
    return true;
}

/* ---- the file ---- */

/* Not being able to read it is a problem like damage; everything else is an Error of ours. */
static bool
report_unusable(Verifier *verifier, const Error *failure, Error *err)
{
    if (failure->code == ERR_SYSTEM && failure->sys_errno == ENOENT)
        return true;
    if (failure->code == ERR_FORMAT || failure->code == ERR_UNSUPPORTED ||
        failure->code == ERR_SYSTEM)
        return verifier_report_digests(verifier, failure->message, err);
    *err = *failure;
    return false;
}

/* Takes the digests. */
static bool
use_digests(Verifier *verifier, PageDigests *digests, Error *err)
{
    verifier->digests = digests;
    verifier->compare = page_compare_new(digests, err);
    verifier->summary.page_digests = true;
    return verifier->compare != NULL;
}

/* Likewise. */
static bool
check_digests(Verifier *verifier, PageDigests *digests, Error *err)
{
    Agreement agreement = {.common = 0};
    Error failure = ERROR_INIT;
    bool compared = compare_files(verifier, digests, &agreement, &failure);

    if (compared && !agreement.broken && agreement.common == page_digests_count(digests))
        return use_digests(verifier, digests, err);
    page_digests_close(digests);
    return compared ? report_foreign(verifier, &agreement, err)
                    : report_unusable(verifier, &failure, err);
}

bool
verifier_open_digests(Verifier *verifier, Error *err)
{
    Error failure = ERROR_INIT;
    PageDigests *digests;
    char *path;

    if (!is_wanted(verifier->config))
        return true;
    path = path_join(verifier->config->directory, PAGE_DIGESTS_NAME, err);
    if (path == NULL)
        return false;
    digests = page_digests_open(path, &failure);
    free(path);
    return digests == NULL ? report_unusable(verifier, &failure, err)
                           : check_digests(verifier, digests, err);
}
