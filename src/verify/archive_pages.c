/*
 * Whether a cluster has data checksums stands in pg_control, which comes last in the archive that
 * comes last: so pages are looked at as if it had them, and what was found is kept until then.
 *
 * A cluster without them stores 0, which a right checksum never is. Where so many pages have all
 * been wrong and 0 that there is no doubt, no more are looked at.
 */
#include <stdlib.h>

#include "verify/internal.h"

/* What all servers have but those that were built otherwise. */
#define USUAL_PAGE_SIZE 8192u
#define USUAL_SEGMENT   131072u

#define DOUBTLESS_PAGES 4096u

/* One that has bad pages. */
typedef struct PagedFile {
    size_t index; /* in the manifest */
    size_t order; /* in which they came */
    PageFindings findings;
} PagedFile;

struct ArchivePages {
    PageRules rules;
    PageScan *scan;
    PagedFile *files;
    size_t count;
    size_t capacity;
    PageTally tally;
    bool proved; /* that there are checksums: not all that were checked were wrong and 0 */
};

ArchivePages *
archive_pages_new(Lsn start, Error *err)
{
    ArchivePages *pages = mem_zero(sizeof *pages, err);

    if (pages == NULL)
        return NULL;
    pages->rules =
        (PageRules){.page_size = USUAL_PAGE_SIZE, .segment_pages = USUAL_SEGMENT, .start = start};
    pages->scan = page_scan_new(&pages->rules, err);
    if (pages->scan == NULL) {
        free(pages);
        return NULL;
    }
    return pages;
}

void
archive_pages_free(ArchivePages *pages)
{
    if (pages == NULL)
        return;
    page_scan_free(pages->scan);
    free(pages->files);
    free(pages);
}

/* ---- files ---- */

bool
archive_pages_begin(ArchivePages *pages, const Entry *entry, Oid tablespace)
{
    return (pages->proved || pages->tally.checked < DOUBTLESS_PAGES) &&
           page_scan_begin(pages->scan, entry->path, tablespace, entry->size, 0);
}

bool
archive_pages_feed(ArchivePages *pages, Span data, Error *err)
{
    return page_scan_feed(pages->scan, data, err);
}

/* Are all pages that were checked wrong, as far as they are known 0? */
static bool
all_zero(const PageFindings *findings)
{
    if (findings->tally.bad != findings->tally.checked)
        return false;
    for (uint64_t i = 0; i < findings->tally.bad && i < PAGE_REPORTS_PER_FILE; i++) {
        if (findings->first[i].found != 0)
            return false;
    }
    return true;
}

static bool
keep(ArchivePages *pages, size_t index, const PageFindings *findings, Error *err)
{
    void *files = pages->files;

    if (!mem_grow(&files, &pages->capacity, pages->count + 1, sizeof *pages->files, err))
        return false;
    pages->files = files;
    pages->files[pages->count] =
        (PagedFile){.index = index, .order = pages->count, .findings = *findings};
    pages->count++;
    return true;
}

bool
archive_pages_end(ArchivePages *pages, size_t index, Error *err)
{
    PageFindings findings;

    page_scan_end(pages->scan, &findings);
    pages->tally.checked += findings.tally.checked;
    pages->tally.bad += findings.tally.bad;
    if (findings.tally.checked > 0 && !all_zero(&findings))
        pages->proved = true;
    return findings.tally.bad == 0 || keep(pages, index, &findings, err);
}

/* ---- what comes of it ---- */

/* Does the cluster have checksums, of such pages as were looked at? */
static bool
pages_count(const ArchivePages *pages, const Verifier *verifier)
{
    PageRules rules;

    return verifier->has_control &&
           control_page_rules(&verifier->control, pages->rules.start, &rules) &&
           rules.page_size == pages->rules.page_size &&
           rules.segment_pages == pages->rules.segment_pages;
}

static int
compare_files(const void *a, const void *b)
{
    const PagedFile *one = a;
    const PagedFile *other = b;

    if (one->index != other->index)
        return one->index < other->index ? -1 : 1;
    return one->order < other->order ? -1 : 1;
}

bool
archive_pages_report(ArchivePages *pages, Verifier *verifier, Error *err)
{
    Reporter *reporter = &verifier->reporter;

    if (!pages_count(pages, verifier))
        return true;
    verifier->summary.has_pages = true;
    verifier->summary.pages += pages->tally.checked;
    verifier->summary.bad_pages += pages->tally.bad;
    if (pages->count > 1)
        qsort(pages->files, pages->count, sizeof *pages->files, compare_files);
    for (size_t i = 0; i < pages->count && !reporter->enough; i++) {
        const PagedFile *file = &pages->files[i];

        if (!report_pages(reporter, manifest_file(verifier->manifest, file->index)->path,
                          &file->findings, err))
            return false;
    }
    return true;
}
