#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pgformat/incremental.h"
#include "pgformat/page.h"
#include "pgformat/relfile.h"
#include "verify/internal.h"

struct PageScan {
    PageRules rules;
    IncrementalParser *header;
    uint8_t *page; /* one that arrives in pieces */

    /* ---- the file at hand ---- */
    bool looking;           /* at more of it */
    bool header_due;        /* of an incremental file */
    uint64_t size;          /* as announced */
    uint64_t segment_start; /* the block that its segment begins with */
    uint64_t page_count;    /* in the file */
    uint64_t position;      /* among them, of the next page */
    const uint32_t *blocks; /* in the segment that they are; NULL: all, in order */
    size_t have;            /* bytes in `page` */
    PageFindings found;
};

PageScan *
page_scan_new(const PageRules *rules, Error *err)
{
    PageScan *scan;

    if (!page_size_valid(rules->page_size) || rules->segment_pages == 0) {
        (void)error_set(err, ERR_BUG, "invalid page size %u or segment size %u", rules->page_size,
                        rules->segment_pages);
        return NULL;
    }
    scan = mem_zero(sizeof *scan, err);
    if (scan == NULL)
        return NULL;
    scan->rules = *rules;
    scan->page = mem_alloc(rules->page_size, err);
    if (scan->page != NULL)
        scan->header = incremental_parser_new(rules->page_size, rules->segment_pages, err);
    if (scan->header == NULL) {
        page_scan_free(scan);
        return NULL;
    }
    return scan;
}

void
page_scan_free(PageScan *scan)
{
    if (scan == NULL)
        return;
    incremental_parser_free(scan->header);
    free(scan->page);
    free(scan);
}

/* ---- a file begins ---- */

void
page_scan_begin_segment(PageScan *scan, uint32_t segment, uint64_t size, uint64_t offset)
{
    scan->looking = true;
    scan->header_due = false;
    scan->size = size;
    scan->segment_start = (uint64_t)segment * scan->rules.segment_pages;
    scan->page_count = size / scan->rules.page_size;
    scan->position = offset / scan->rules.page_size;
    scan->blocks = NULL;
    scan->have = 0;
    scan->found = (PageFindings){.header = ""};
}

bool
page_scan_begin(PageScan *scan, const char *path, Oid tablespace, uint64_t size, uint64_t offset)
{
    RelFile file;

    if (!relfile_parse(path, tablespace, &file) ||
        (!file.incremental && size % scan->rules.page_size != 0))
        return false;
    page_scan_begin_segment(scan, file.segment, size, offset);
    if (file.incremental) {
        scan->header_due = true;
        incremental_parser_reset(scan->header);
    }
    return true;
}

/* ---- the header of an incremental file ---- */

/* Without it nobody can use the pages: that is as bad as a bad page. */
static void
bad_header(PageScan *scan, const char *reason)
{
    scan->looking = false;
    scan->found.tally.bad++;
    (void)snprintf(scan->found.header, sizeof scan->found.header, "%.*s",
                   (int)sizeof scan->found.header - 1, reason);
}

static void
begin_blocks(PageScan *scan, const IncrementalHeader *header)
{
    uint64_t size = incremental_file_size(header, scan->rules.page_size);
    char reason[80];

    scan->header_due = false;
    scan->blocks = header->blocks;
    scan->page_count = header->block_count;
    if (size == scan->size)
        return;
    (void)snprintf(reason, sizeof reason, "size is %llu, but its header asks for %llu",
                   (unsigned long long)scan->size, (unsigned long long)size);
    bad_header(scan, reason);
}

static bool
take_header(PageScan *scan, Span *data, Error *err)
{
    Error why = ERROR_INIT;
    const IncrementalHeader *header;

    if (!incremental_parser_feed(scan->header, data, &why)) {
        if (why.code == ERR_FORMAT) {
            bad_header(scan, why.message);
            return true;
        }
        *err = why;
        return false;
    }
    header = incremental_parser_header(scan->header);
    if (header != NULL)
        begin_blocks(scan, header);
    return true;
}

/* ---- pages ---- */

/* Which block of the relation fork the next page is. */
static uint64_t
next_block(const PageScan *scan)
{
    uint64_t position = scan->position;

    return scan->segment_start + (scan->blocks == NULL ? position : scan->blocks[position]);
}

static void
bad_page(PageScan *scan, const BadPage *page)
{
    uint64_t number = scan->found.tally.bad++;

    if (number < PAGE_REPORTS_PER_FILE)
        scan->found.first[number] = *page;
}

/* WAL writes it again, whatever is in it. */
static bool
is_newer(const PageScan *scan, const PageHeader *header)
{
    return header->lsn >= scan->rules.start && scan->rules.start != LSN_MAX;
}

/* Which pages count: backup/basebackup.c, verify_page_checksum(). */
static void
check_page(PageScan *scan, const uint8_t *page)
{
    PageHeader header = page_header(page);
    uint64_t block = next_block(scan);
    uint16_t expected;

    scan->position++;
    if (header.upper == 0 || is_newer(scan, &header) || block > PAGE_BLOCK_MAX)
        return;
    scan->found.tally.checked++;
    expected = page_checksum(page, scan->rules.page_size, (uint32_t)block);
    if (header.checksum != expected)
        bad_page(scan, &(BadPage){(uint32_t)block, expected, header.checksum});
}

/* A page, or a piece of one, from the front of *data: where it is whole it is not copied. */
static void
take_page(PageScan *scan, Span *data)
{
    size_t want = scan->rules.page_size - scan->have;
    size_t got = data->len < want ? data->len : want;
    const uint8_t *page = data->data;

    data->data += got;
    data->len -= got;
    if (got < scan->rules.page_size) {
        memcpy(scan->page + scan->have, page, got);
        scan->have += got;
        if (got < want)
            return;
        scan->have = 0;
        page = scan->page;
    }
    check_page(scan, page);
}

bool
page_scan_feed(PageScan *scan, Span data, Error *err)
{
    if (scan->looking && scan->header_due && !take_header(scan, &data, err))
        return false;
    if (!scan->looking || scan->header_due)
        return true;
    while (data.len > 0 && scan->position < scan->page_count)
        take_page(scan, &data);
    return true;
}

void
page_scan_end(PageScan *scan, PageFindings *ret_findings)
{
    if (scan->looking && scan->header_due)
        bad_header(scan, "file ends within its header");
    scan->looking = false;
    *ret_findings = scan->found;
}

/* ---- findings ---- */

void
page_findings_add(PageFindings *findings, const PageFindings *more)
{
    PageTally *tally = &findings->tally;

    for (uint64_t i = 0; i < more->tally.bad && tally->bad + i < PAGE_REPORTS_PER_FILE; i++)
        findings->first[tally->bad + i] = more->first[i];
    tally->checked += more->tally.checked;
    tally->bad += more->tally.bad;
}

/* Something about the file as a whole. */
static bool
report_file(Reporter *reporter, const char *path, const char *what, Error *err)
{
    const Problem problem = {.kind = PROBLEM_PAGE, .path = path, .block = PROBLEM_WHOLE_FILE};

    return reporter->enough ||
           report(reporter, &problem, err, "page verification failed: %s: %s", path, what);
}

static bool
report_page(Reporter *reporter, const char *path, const BadPage *page, Error *err)
{
    const Problem problem = {.kind = PROBLEM_PAGE,
                             .path = path,
                             .block = page->block,
                             .expected = page->expected,
                             .found = page->found};

    return reporter->enough ||
           report(reporter, &problem, err,
                  "page verification failed: %s block %u: calculated checksum %X but found %X",
                  path, page->block, page->expected, page->found);
}

static bool
report_total(Reporter *reporter, const char *path, const PageTally *tally, Error *err)
{
    char what[80];

    (void)snprintf(what, sizeof what, "%llu of %llu checked pages are bad",
                   (unsigned long long)tally->bad, (unsigned long long)tally->checked);
    return report_file(reporter, path, what, err);
}

bool
report_pages(Reporter *reporter, const char *path, const PageFindings *findings, Error *err)
{
    const PageTally *tally = &findings->tally;

    if (findings->header[0] != '\0')
        return report_file(reporter, path, findings->header, err);
    for (uint64_t i = 0; i < tally->bad && i < PAGE_REPORTS_PER_FILE; i++) {
        if (!report_page(reporter, path, &findings->first[i], err))
            return false;
    }
    if (tally->bad > PAGE_REPORTS_PER_FILE &&
        !report_file(reporter, path, "further bad pages of this file are not reported", err))
        return false;
    return tally->bad <= 1 || report_total(reporter, path, tally, err);
}
