#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pgformat/incremental.h"
#include "pgformat/page.h"
#include "pgformat/relfile.h"
#include "stream/stage.h"
#include "verify/internal.h"

typedef struct PageCheck {
    Sink sink;
    PageCheckConfig config;
    PageTally *tally;
    Reporter reporter; /* borrows the sink in `config` */

    /* ---- the file at hand ---- */
    bool looking;           /* it has pages that are to be checked */
    bool header_due;        /* of an incremental file */
    Buf path;               /* as the manifest names it */
    uint64_t size;          /* as announced */
    uint64_t segment_start; /* the block that its segment begins with */
    uint64_t page_count;    /* in the file */
    uint64_t position;      /* among them, of the next page */
    const uint32_t *blocks; /* in the segment that they are; NULL: all, in order */
    PageTally found;        /* in this file */

    IncrementalParser *header;
    uint8_t *page; /* one that arrives in pieces */
    size_t have;   /* bytes of it */
} PageCheck;

/* ---- telling ---- */

static bool
report_page(PageCheck *check, const Problem *problem, Error *err)
{
    return report(&check->reporter, problem, err,
                  "page verification failed: %s block %u: calculated checksum %X but found %X",
                  problem->path, problem->block, problem->expected, problem->found);
}

/* Something about the file as a whole. */
static bool
report_file(PageCheck *check, const char *what, Error *err)
{
    const Problem problem = {
        .kind = PROBLEM_PAGE, .path = buf_text(&check->path), .block = PROBLEM_WHOLE_FILE};

    return report(&check->reporter, &problem, err, "page verification failed: %s: %s", problem.path,
                  what);
}

static bool
report_total(PageCheck *check, Error *err)
{
    char what[80];

    (void)snprintf(what, sizeof what, "%llu of %llu checked pages are bad",
                   (unsigned long long)check->found.bad, (unsigned long long)check->found.checked);
    return report_file(check, what, err);
}

/* Without its header nobody can use the pages: that is as bad as a bad page. */
static bool
bad_header(PageCheck *check, const char *reason, Error *err)
{
    check->looking = false;
    check->found.bad++;
    check->tally->bad++;
    return report_file(check, reason, err);
}

static bool
bad_page(PageCheck *check, uint32_t block, uint16_t expected, uint16_t found, Error *err)
{
    check->found.bad++;
    check->tally->bad++;
    if (check->found.bad <= PAGE_REPORTS_PER_FILE)
        return report_page(check,
                           &(Problem){.kind = PROBLEM_PAGE,
                                      .path = buf_text(&check->path),
                                      .block = block,
                                      .expected = expected,
                                      .found = found},
                           err);
    if (check->found.bad == PAGE_REPORTS_PER_FILE + 1)
        return report_file(check, "further bad pages of this file are not reported", err);
    return true;
}

/* ---- pages ---- */

/* Which block of the relation fork the next page is. */
static uint64_t
next_block(const PageCheck *check)
{
    uint64_t position = check->position;

    return check->segment_start + (check->blocks == NULL ? position : check->blocks[position]);
}

/* Which pages count: backup/basebackup.c, verify_page_checksum(). */
static bool
check_page(PageCheck *check, const uint8_t *page, Error *err)
{
    PageHeader header = page_header(page);
    uint64_t block = next_block(check);
    uint16_t expected;

    check->position++;
    if (header.upper == 0 || header.lsn >= check->config.start || block > PAGE_BLOCK_MAX)
        return true;
    check->found.checked++;
    check->tally->checked++;
    expected = page_checksum(page, check->config.page_size, (uint32_t)block);
    return header.checksum == expected ||
           bad_page(check, (uint32_t)block, expected, header.checksum, err);
}

static void
skip(Span *data, size_t len)
{
    data->data += len;
    data->len -= len;
}

/* A page, or a piece of one, from the front of *data. */
static bool
take_page(PageCheck *check, Span *data, Error *err)
{
    size_t want = check->config.page_size - check->have;
    size_t got = data->len < want ? data->len : want;
    const uint8_t *page = data->data;

    skip(data, got);
    if (got < check->config.page_size) {
        memcpy(check->page + check->have, page, got);
        check->have += got;
        if (got < want)
            return true;
        check->have = 0;
        page = check->page;
    }
    return check_page(check, page, err);
}

static bool
begin_blocks(PageCheck *check, const IncrementalHeader *header, Error *err)
{
    uint64_t size = incremental_file_size(header, check->config.page_size);
    char reason[80];

    check->header_due = false;
    check->blocks = header->blocks;
    check->page_count = header->block_count;
    if (size == check->size)
        return true;
    (void)snprintf(reason, sizeof reason, "size is %llu, but its header asks for %llu",
                   (unsigned long long)check->size, (unsigned long long)size);
    return bad_header(check, reason, err);
}

static bool
take_header(PageCheck *check, Span *data, Error *err)
{
    Error why = ERROR_INIT;
    const IncrementalHeader *header;

    if (!incremental_parser_feed(check->header, data, &why)) {
        if (why.code == ERR_FORMAT)
            return bad_header(check, why.message, err);
        *err = why;
        return false;
    }
    header = incremental_parser_header(check->header);
    return header == NULL || begin_blocks(check, header, err);
}

/* ---- files ---- */

static bool
begin_entry(Sink *self, const Entry *entry, Error *err)
{
    PageCheck *check = (PageCheck *)self;
    uint32_t page_size = check->config.page_size;
    RelFile file;

    check->looking = false;
    if (check->reporter.enough || entry->kind != ENTRY_FILE ||
        !relfile_parse(entry->path, self->tablespace, &file) ||
        (!file.incremental && entry->size % page_size != 0))
        return true;
    check->looking = true;
    check->header_due = file.incremental;
    check->size = entry->size;
    check->segment_start = (uint64_t)file.segment * check->config.segment_pages;
    check->page_count = entry->size / page_size;
    check->position = 0;
    check->blocks = NULL;
    check->have = 0;
    check->found = (PageTally){.checked = 0};
    incremental_parser_reset(check->header);
    return member_path(self->tablespace, entry, &check->path, err);
}

static bool
add_data(Sink *self, Span data, Error *err)
{
    PageCheck *check = (PageCheck *)self;

    if (check->sink.place != SINK_IN_ENTRY)
        return error_set(err, ERR_BUG, "data outside of an entry reached the page check");
    if (check->looking && check->header_due && !take_header(check, &data, err))
        return false;
    while (check->looking && !check->header_due && data.len > 0 &&
           check->position < check->page_count) {
        if (!take_page(check, &data, err))
            return false;
        check->looking = !check->reporter.enough;
    }
    return true;
}

static bool
end_entry(Sink *self, Error *err)
{
    PageCheck *check = (PageCheck *)self;

    if (!check->looking)
        return true;
    check->looking = false;
    if (check->header_due)
        return bad_header(check, "file ends within its header", err);
    return check->found.bad <= 1 || report_total(check, err);
}

static const WatchOps page_check_watch = {
    .entry_begin = begin_entry,
    .data = add_data,
    .entry_end = end_entry,
};

static bool
page_check_push(Sink *self, const Event *event, Error *err)
{
    return sink_watch(self, &page_check_watch, event, err);
}

static void
page_check_release(Sink *self)
{
    PageCheck *check = (PageCheck *)self;

    incremental_parser_free(check->header);
    reporter_free(&check->reporter);
    buf_free(&check->path);
    free(check->page);
}

static const SinkOps page_check_ops = {
    .name = "page_check", .push = page_check_push, .release = page_check_release};

static bool
prepare(PageCheck *check, Error *err)
{
    const PageCheckConfig *config = &check->config;

    if (!page_size_valid(config->page_size) || config->segment_pages == 0)
        return error_set(err, ERR_BUG, "invalid page size %u or segment size %u", config->page_size,
                         config->segment_pages);
    check->page = mem_alloc(config->page_size, err);
    check->header = incremental_parser_new(config->page_size, config->segment_pages, err);
    return check->page != NULL && check->header != NULL;
}

Sink *
page_check_new(Sink *next, const PageCheckConfig *config, PageTally *tally, Error *err)
{
    PageCheck *check = sink_alloc(sizeof *check, &page_check_ops, next, err);

    if (check == NULL)
        return NULL;
    check->config = *config;
    check->tally = tally;
    check->path = BUF_INIT;
    check->reporter = REPORTER_INIT(&check->config.problems);
    if (!prepare(check, err)) {
        sink_free(&check->sink);
        return NULL;
    }
    *tally = (PageTally){.checked = 0};
    return &check->sink;
}
