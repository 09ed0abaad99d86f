#include <stdlib.h>

#include "common/crc32c.h"
#include "verify/internal.h"

/* CRCs of backup_pages that are read at once. */
#define CRC_BATCH ((size_t)2048)

typedef struct ChangedPage {
    uint64_t page;
    uint32_t expected;
    uint32_t found;
} ChangedPage;

struct PageCompare {
    const PageDigests *digests;
    uint32_t page_size;

    /* ---- the file at hand ---- */
    const char *path; /* borrowed */
    PageDigestFile file;
    uint64_t pages;    /* in it */
    uint64_t page;     /* that the next bytes belong to */
    uint64_t position; /* bytes of the file that have come */
    uint32_t crc;      /* of the page so far */
    uint64_t changed;
    ChangedPage first[PAGE_REPORTS_PER_FILE];

    uint64_t batch_first; /* the page whose CRC begins the batch */
    size_t batch_count;
    uint32_t batch[CRC_BATCH];
};

PageCompare *
page_compare_new(const PageDigests *digests, Error *err)
{
    PageCompare *compare = mem_zero(sizeof *compare, err);

    if (compare == NULL)
        return NULL;
    compare->digests = digests;
    compare->page_size = page_digests_page_size(digests);
    return compare;
}

void
page_compare_free(PageCompare *compare)
{
    free(compare);
}

bool
page_compare_begin(PageCompare *compare, const char *path, uint64_t size)
{
    compare->changed = 0;
    if (!page_digests_find(compare->digests, path, &compare->file) || compare->file.size != size)
        return false;
    compare->path = path;
    compare->pages = size / compare->page_size + (size % compare->page_size != 0);
    compare->page = 0;
    compare->position = 0;
    compare->crc = 0;
    compare->batch_count = 0;
    return true;
}

/* ---- pages ---- */

/* The CRC that the page at hand should have. */
static bool
expected_crc(PageCompare *compare, uint32_t *ret_crc, Error *err)
{
    if (compare->batch_count == 0 || compare->page - compare->batch_first >= compare->batch_count) {
        uint64_t left = compare->pages - compare->page;
        size_t count = left < CRC_BATCH ? (size_t)left : CRC_BATCH;

        if (!page_digests_read(compare->digests, &compare->file, compare->page, compare->batch,
                               count, err))
            return false;
        compare->batch_first = compare->page;
        compare->batch_count = count;
    }
    *ret_crc = compare->batch[compare->page - compare->batch_first];
    return true;
}

static bool
end_page(PageCompare *compare, Error *err)
{
    uint32_t expected;

    if (!expected_crc(compare, &expected, err))
        return false;
    if (compare->crc != expected) {
        if (compare->changed < PAGE_REPORTS_PER_FILE)
            compare->first[compare->changed] =
                (ChangedPage){.page = compare->page, .expected = expected, .found = compare->crc};
        compare->changed++;
    }
    compare->page++;
    compare->crc = 0;
    return true;
}

/* Behind the last byte of the page at hand. */
static uint64_t
page_end(const PageCompare *compare, uint64_t page)
{
    uint64_t size = compare->file.size;

    return page + 1 == compare->pages ? size : (page + 1) * compare->page_size;
}

bool
page_compare_feed(PageCompare *compare, Span data, Error *err)
{
    while (data.len > 0 && compare->page < compare->pages) {
        uint64_t want = page_end(compare, compare->page) - compare->position;
        size_t piece = data.len < want ? data.len : (size_t)want;

        compare->crc = crc32c(compare->crc, data.data, piece);
        compare->position += piece;
        data.data += piece;
        data.len -= piece;
        if (piece == want && !end_page(compare, err))
            return false;
    }
    return true;
}

/* ---- telling ---- */

static bool
report_changed(const PageCompare *compare, const ChangedPage *changed, Reporter *reporter,
               Error *err)
{
    uint64_t page = changed->page;
    unsigned long long first = page * compare->page_size;
    const Problem problem = {
        .kind = PROBLEM_PAGE_CHANGED,
        .path = compare->path,
        .block = page < PROBLEM_WHOLE_FILE ? (uint32_t)page : PROBLEM_WHOLE_FILE,
        .expected = changed->expected,
        .found = changed->found,
    };

    return report(reporter, &problem, err,
                  "file \"%s\": page %llu (bytes %llu to %llu) has changed: its CRC-32C is %08X, "
                  "but %08X in " PAGE_DIGESTS_NAME,
                  compare->path, (unsigned long long)page, first,
                  (unsigned long long)(page_end(compare, page) - 1), changed->found,
                  changed->expected);
}

static bool
report_rest(const PageCompare *compare, Reporter *reporter, Error *err)
{
    const Problem problem = {
        .kind = PROBLEM_PAGE_CHANGED, .path = compare->path, .block = PROBLEM_WHOLE_FILE};

    return report(
        reporter, &problem, err,
        "file \"%s\": %llu of %llu pages have changed, of which the first %d are reported",
        compare->path, (unsigned long long)compare->changed, (unsigned long long)compare->pages,
        PAGE_REPORTS_PER_FILE);
}

bool
page_compare_report(PageCompare *compare, Reporter *reporter, Error *err)
{
    for (uint64_t i = 0; i < compare->changed && i < PAGE_REPORTS_PER_FILE; i++) {
        if (reporter->enough)
            return true;
        if (!report_changed(compare, &compare->first[i], reporter, err))
            return false;
    }
    if (compare->changed <= PAGE_REPORTS_PER_FILE || reporter->enough)
        return true;
    return report_rest(compare, reporter, err);
}
